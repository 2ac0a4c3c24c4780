//! Whether a checkpoint fits a job, told before anything is read or made.
//!
//! Always true: what passes is restored completely, but for what the caller allows to be dropped.

use super::{Graph, VertexId};
use thalweg_storage::manifest::Manifest;

/// Compares a checkpoint with the job. With `allow_non_restored_state`, state and in-flight data that nothing in the job
/// wants are no error.
///
/// # Errors
/// What does not fit, and what to do about it.
pub(super) fn check_fit(
    graph: &Graph,
    max_parallelism: u16,
    allow_non_restored_state: bool,
    manifest: &Manifest,
) -> Result<(), String> {
    let checkpoint = manifest.checkpoint;
    if manifest.max_parallelism != max_parallelism {
        return Err(format!(
            "checkpoint {checkpoint} was taken with max parallelism {}, the job has {max_parallelism}: the max parallelism of a \
             job is fixed for its life, so start it with {} or in another checkpoint directory",
            manifest.max_parallelism, manifest.max_parallelism
        ));
    }
    check_finished(graph, manifest)?;
    if allow_non_restored_state {
        return Ok(());
    }
    let has_operator =
        |uid: &str| graph.vertices.iter().flat_map(|vertex| &vertex.uids).any(|own| **own == *uid);
    if let Some(operator) = manifest.operators.iter().find(|operator| !has_operator(&operator.uid)) {
        return Err(format!(
            "checkpoint {checkpoint} holds state of operator `{}`, which the job does not have: give an operator that uid, \
             allow non-restored state to drop it, or start in another checkpoint directory",
            operator.uid
        ));
    }
    let has_edge = |name: &str| graph.edges.iter().any(|edge| *edge.name == *name);
    if let Some(channel) = manifest.channels.iter().find(|channel| !has_edge(&channel.edge)) {
        return Err(format!(
            "checkpoint {checkpoint} holds in-flight data of edge `{}`, which the job does not have: restore it with the job \
             that wrote it, or allow non-restored state to drop them",
            channel.edge
        ));
    }
    Ok(())
}

/// An operator that had finished is not closed again, so none of its inputs may lead back to a source that is new.
pub(super) fn check_finished(graph: &Graph, manifest: &Manifest) -> Result<(), String> {
    let Graph { vertices, edges } = graph;
    let stored = |uid: &str| manifest.operators.iter().find(|operator| operator.uid == uid);
    let mut new_source: Vec<Option<&str>> = vec![None; vertices.len()];
    for (index, vertex) in vertices.iter().enumerate() {
        let is_source = !edges.iter().any(|edge| edge.consumer == VertexId(index));
        new_source[index] =
            vertex.uids.first().map(|uid| &**uid).filter(|uid| is_source && stored(uid).is_none());
    }
    // A path has at most as many edges as there are vertices.
    for _ in 0..vertices.len() {
        for edge in edges {
            new_source[edge.consumer.0] = new_source[edge.consumer.0].or(new_source[edge.producer.0]);
        }
    }
    for (vertex, new_source) in vertices.iter().zip(new_source) {
        let finished = vertex.uids.iter().find(|uid| {
            stored(uid).is_some_and(|operator| operator.subtasks.iter().any(|subtask| subtask.finished))
        });
        if let (Some(uid), Some(source)) = (finished, new_source) {
            return Err(format!(
                "operator `{uid}` had finished in checkpoint {}, and now reads the new source `{source}`: give the \
                 operator a new uid, or start in another checkpoint directory",
                manifest.checkpoint
            ));
        }
    }
    Ok(())
}

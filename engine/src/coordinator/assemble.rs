//! Puts the snapshots of all tasks together into a manifest.
//!
//! Always true of what it returns: operators stand in the order of the deployment, subtasks by rising index without
//! gaps, channels by edge, consumer and producer.

use super::deploy::DeployedOperator;
use crate::control::{TaskId, TaskSnapshot};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use thalweg_storage::manifest::{ChannelState, EdgeState, KeyedStateMeta, OperatorState, OperatorStateMode};

/// Operators and channels of a manifest.
///
/// # Errors
/// The snapshots do not fit the deployment: a subtask is missing or there twice, or subtasks disagree on the types of
/// a state; or an operator with union state has finished in part. Such a checkpoint must not be published.
pub(super) fn assemble(
    deployed: &[DeployedOperator],
    snapshots: BTreeMap<TaskId, TaskSnapshot>,
) -> Result<(Vec<OperatorState>, Vec<ChannelState>), String> {
    let empty = |operator: &DeployedOperator| OperatorState {
        uid: operator.uid.to_string(),
        parallelism: operator.parallelism,
        keyed: Vec::new(),
        subtasks: Vec::with_capacity(operator.parallelism as usize),
    };
    let mut operators: Vec<OperatorState> = deployed.iter().map(empty).collect();
    let places: HashMap<&str, usize> =
        deployed.iter().enumerate().map(|(i, operator)| (&*operator.uid, i)).collect();
    let mut channels = Vec::new();

    for snapshot in snapshots.into_values() {
        for (uid, keyed, subtask) in snapshot.operators {
            let place = places.get(&*uid).ok_or_else(|| format!("operator {uid} is not part of the job"))?;
            merge_keyed(&mut operators[*place], keyed)?;
            operators[*place].subtasks.push(subtask);
        }
        channels.extend(snapshot.channels.into_iter().filter(|channel| channel.records > 0));
    }

    // An operator without any state may be left out of snapshots altogether, but never some of its subtasks only.
    operators.retain(|operator| !operator.subtasks.is_empty());
    for operator in &mut operators {
        operator.subtasks.sort_by_key(|subtask| subtask.index);
        let indices = operator.subtasks.iter().map(|subtask| subtask.index);
        check_finished(operator)?;
        if !indices.eq(0..operator.parallelism) {
            let found: Vec<u32> = operator.subtasks.iter().map(|subtask| subtask.index).collect();
            return Err(format!(
                "operator {} has {} subtasks, but the snapshots are of subtasks {found:?}",
                operator.uid, operator.parallelism
            ));
        }
    }
    channels.sort_by(|a: &ChannelState, b: &ChannelState| {
        let key = |c: &ChannelState| (c.consumer, c.producer, c.generation, c.origin);
        a.edge.cmp(&b.edge).then_with(|| key(a).cmp(&key(b)))
    });
    Ok((operators, channels))
}

/// Of the deployed edges, those that `channels` belong to.
pub(super) fn edges_of(deployed: &[EdgeState], channels: &[ChannelState]) -> Vec<EdgeState> {
    let names: BTreeSet<&str> = channels.iter().map(|channel| channel.edge.as_str()).collect();
    deployed.iter().filter(|edge| names.contains(edge.name.as_str())).cloned().collect()
}

/// A union list that some subtasks have finished with and others not might be incomplete: such a checkpoint fails, as it does
/// in Apache Flink (`DefaultCheckpointPlan`, `PartialFinishingNotSupportedByStateException`).
fn check_finished(operator: &OperatorState) -> Result<(), String> {
    let finished = operator.subtasks.iter().filter(|subtask| subtask.finished).count();
    let mut state = operator.subtasks.iter().flat_map(|subtask| &subtask.operator_state);
    let in_part = (1..operator.subtasks.len()).contains(&finished) && !broken!(UnionInPart);
    if in_part && state.any(|s| s.mode == OperatorStateMode::Union) {
        return Err(format!(
            "operator {} has union state, and {finished} of its {} subtasks have finished: a checkpoint has to wait until all \
             have",
            operator.uid,
            operator.subtasks.len()
        ));
    }
    Ok(())
}

/// A subtask may not have met all of its operator's states yet, so the manifest lists the union.
fn merge_keyed(operator: &mut OperatorState, keyed: Vec<KeyedStateMeta>) -> Result<(), String> {
    for meta in keyed {
        match operator.keyed.iter().find(|known| known.name == meta.name) {
            None => operator.keyed.push(meta),
            Some(known) if *known == meta => {}
            Some(_) => {
                return Err(format!(
                    "subtasks of operator {} disagree on the types of state {}",
                    operator.uid, meta.name
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::SnapshotStats;
    use thalweg_storage::Data;
    use thalweg_storage::manifest::{ChannelOrigin, Payload, StateBlob, SubtaskState};

    fn part(uid: &str, index: u32) -> TaskSnapshot {
        let channel = |records| ChannelState {
            edge: "e".into(),
            producer: 1 - index,
            consumer: index,
            generation: 0,
            origin: ChannelOrigin::Consumer,
            records,
            data: Payload::Inline(Vec::new()),
        };
        TaskSnapshot {
            operators: vec![(uid.into(), Vec::new(), SubtaskState { index, ..SubtaskState::default() })],
            segments: None,
            channels: vec![channel(0), channel(3)],
            stats: SnapshotStats::default(),
        }
    }

    fn operator(uid: &str, parallelism: u32) -> DeployedOperator {
        DeployedOperator { uid: uid.into(), parallelism }
    }

    #[test]
    fn subtasks_rise_and_channels_without_records_are_left_out() {
        let snapshots =
            BTreeMap::from([(TaskId(0), part("b", 1)), (TaskId(1), part("b", 0)), (TaskId(2), part("a", 0))]);
        let (operators, channels) = assemble(&[operator("a", 1), operator("b", 2)], snapshots).unwrap();
        let shape: Vec<_> =
            operators.iter().map(|o| (o.uid.as_str(), o.subtasks.len(), o.subtasks[0].index)).collect();
        assert_eq!(shape, [("a", 1, 0), ("b", 2, 0)]);
        assert_eq!(
            channels.iter().map(|c| (c.consumer, c.records)).collect::<Vec<_>>(),
            [(0, 3), (0, 3), (1, 3)]
        );
    }

    #[test]
    fn a_missing_a_doubled_and_a_foreign_subtask_are_refused() {
        let refused = |parts: Vec<TaskSnapshot>| {
            let snapshots = parts.into_iter().enumerate().map(|(i, part)| (TaskId(i as u32), part)).collect();
            assemble(&[operator("a", 2)], snapshots).unwrap_err()
        };
        assert!(refused(vec![part("a", 1)]).contains("has 2 subtasks"));
        assert!(refused(vec![part("a", 0), part("a", 1), part("a", 1)]).contains("[0, 1, 1]"));
        assert!(refused(vec![part("x", 0)]).contains("operator x is not part of the job"));
    }

    #[test]
    fn union_state_of_an_operator_that_has_finished_in_part_fails_the_checkpoint() {
        let state = |mode| StateBlob { name: "seen".into(), mode, schema: u64::schema(), bytes: Vec::new() };
        let assembled = |mode, finished: [bool; 2]| {
            let part = |index: u32| {
                let mut part = part("a", index);
                part.operators[0].2.finished = finished[index as usize];
                part.operators[0].2.operator_state = vec![state(mode)];
                part
            };
            let snapshots = BTreeMap::from([(TaskId(0), part(0)), (TaskId(1), part(1))]);
            assemble(&[operator("a", 2)], snapshots).map(|_| ())
        };
        let error = assembled(OperatorStateMode::Union, [true, false]).unwrap_err();
        assert!(error.contains("operator a") && error.contains("1 of its 2 subtasks"), "{error}");
        assert_eq!(assembled(OperatorStateMode::Union, [true, true]), Ok(()));
        assert_eq!(assembled(OperatorStateMode::Union, [false, false]), Ok(()));
        assert_eq!(assembled(OperatorStateMode::Split, [true, false]), Ok(()));
    }

    #[test]
    fn a_manifest_describes_the_edges_that_have_data_in_flight() {
        let edge = |name: &str| EdgeState {
            name: name.into(),
            record: u64::schema(),
            key: None,
            producers: 2,
            consumers: 2,
        };
        let (_, channels) = assemble(
            &[operator("a", 2)],
            BTreeMap::from([(TaskId(0), part("a", 0)), (TaskId(1), part("a", 1))]),
        )
        .unwrap();
        assert_eq!(edges_of(&[edge("d"), edge("e")], &channels), [edge("e")]);
        assert_eq!(edges_of(&[edge("d"), edge("e")], &[]), []);
    }
}

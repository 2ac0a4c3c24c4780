//! What a manifest may contain, checked after decoding and again before publishing: whatever one engine publishes,
//! every engine accepts.
//!
//! A checksum proves only that a file is what somebody wrote. A manifest may come from elsewhere, so paths must stay
//! below the job's directory and numbers within bounds before anybody acts on them.

use super::{
    ChannelState, EdgeState, KeyedStateMeta, Manifest, ManifestKind, OperatorState, Origin, Payload,
    SegmentRef, SubtaskState,
};
use crate::codec::Schema;
use std::collections::{BTreeMap, BTreeSet};

/// Most key groups, and so most subtasks, that a job can have.
const PARALLELISM_MAX: u32 = 32_768;
/// Longest path, and longest component of one, in bytes.
const PATH_BYTES_MAX: usize = 1024;
const COMPONENT_BYTES_MAX: usize = 255;
/// Longest path of another directory, in bytes: Linux's `PATH_MAX`.
const ORIGIN_BYTES_MAX: usize = 4096;

/// The first thing in a manifest that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct Violation {
    /// The rule.
    pub expected: String,
    /// What the manifest holds.
    pub found: String,
}

fn require(holds: bool, expected: &str, found: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { expected: expected.to_owned(), found: found() }) }
}

/// A string from outside, quoted and shortened for a message.
fn short(text: &str) -> String {
    format!("{:?}", text.chars().take(60).collect::<String>())
}

/// Checks that `manifest` is one that an engine may act on.
///
/// # Errors
/// The first broken rule.
pub fn validate(manifest: &Manifest) -> Result<(), Violation> {
    require(is_component(&manifest.job), "a job name that is one path component", || short(&manifest.job))?;
    let groups = u32::from(manifest.max_parallelism);
    require((1..=PARALLELISM_MAX).contains(&groups), "a maximum parallelism from 1 to 32768", || {
        groups.to_string()
    })?;
    check_origin(manifest)?;
    let mut uids = BTreeSet::new();
    let mut lengths = BTreeMap::new();
    for operator in &manifest.operators {
        let uid = &operator.uid;
        require(uids.insert(uid), "each operator once", || format!("operator {} twice", short(uid)))?;
        check_operator(operator, groups)?;
        for segment in operator.subtasks.iter().flat_map(|s| &s.segments) {
            let SegmentRef { groups: range, .. } = segment;
            require(
                range.start <= range.end && u32::from(range.end) <= groups,
                "a range of the job's key groups",
                || format!("{range:?} of {groups} for {}", short(&segment.path)),
            )?;
            check_file(&mut lengths, &segment.path, segment.bytes)?;
        }
    }
    let mut edges = BTreeMap::new();
    for edge in &manifest.edges {
        let name = &edge.name;
        require(edges.insert(name.as_str(), edge).is_none(), "each edge once", || {
            format!("edge {} twice", short(name))
        })?;
        check_edge(edge)?;
    }
    for channel in &manifest.channels {
        check_channel(channel, &edges, &mut lengths)?;
    }
    Ok(())
}

fn check_origin(manifest: &Manifest) -> Result<(), Violation> {
    let Some(Origin { root, dir, .. }) = &manifest.origin else { return Ok(()) };
    require(manifest.kind == ManifestKind::Checkpoint, "a savepoint with files of its own", || short(root))?;
    let usable = |path: &String| {
        path.starts_with('/') && path.len() <= ORIGIN_BYTES_MAX && !path.chars().any(char::is_control)
    };
    require(usable(root) && usable(dir), "an absolute path of the original", || short(root))
}

fn check_operator(operator: &OperatorState, groups: u32) -> Result<(), Violation> {
    let (uid, parallelism) = (short(&operator.uid), operator.parallelism);
    // Only keyed state ties an operator's parallelism to the number of key groups.
    let most = if operator.keyed.is_empty() { PARALLELISM_MAX } else { groups };
    require((1..=most).contains(&parallelism), "a parallelism from 1 to the maximum", || {
        format!("parallelism {parallelism} of operator {uid}")
    })?;
    for KeyedStateMeta { name, key, value } in &operator.keyed {
        check_schema(key, name)?;
        check_schema(value, name)?;
    }
    let mut next = 0;
    for SubtaskState { index, operator_state, committables, .. } in &operator.subtasks {
        require(
            (next..parallelism).contains(index),
            "subtasks by rising index, below the parallelism",
            || format!("subtask {index} of {parallelism} in operator {uid}"),
        )?;
        next = index + 1;
        for blob in operator_state {
            check_schema(&blob.schema, &blob.name)?;
        }
        for committable in committables {
            check_subtask(committable.subtask)?;
        }
    }
    Ok(())
}

fn check_edge(edge: &EdgeState) -> Result<(), Violation> {
    let EdgeState { name, record, key, producers, consumers } = edge;
    for parallelism in [producers, consumers] {
        require((1..=PARALLELISM_MAX).contains(parallelism), "a parallelism from 1 to the maximum", || {
            format!("parallelism {parallelism} at an end of edge {}", short(name))
        })?;
    }
    check_schema(record, name)?;
    key.as_ref().map_or(Ok(()), |key| check_schema(key, name))
}

fn check_channel<'m>(
    channel: &'m ChannelState,
    edges: &BTreeMap<&'m str, &'m EdgeState>,
    lengths: &mut BTreeMap<&'m str, u64>,
) -> Result<(), Violation> {
    let ChannelState { edge, producer, consumer, .. } = channel;
    let ends = edges.get(edge.as_str()).map(|edge| (edge.producers, edge.consumers));
    require(
        ends.is_some_and(|(producers, consumers)| *producer < producers && *consumer < consumers),
        "a channel of an edge that is described",
        || format!("the channel from {producer} to {consumer} of edge {}, with {ends:?}", short(edge)),
    )?;
    let Payload::File { path, offset, bytes, file_bytes, .. } = &channel.data else { return Ok(()) };
    let fits = offset.checked_add(*bytes).is_some_and(|end| end <= *file_bytes);
    require(fits, "a payload within its file", || {
        format!("{bytes} bytes at {offset} of the {file_bytes} bytes of {}", short(path))
    })?;
    check_file(lengths, path, *file_bytes)
}

/// A subtask of the past: the parallelism it belonged to is not known.
fn check_subtask(index: u32) -> Result<(), Violation> {
    require(index < PARALLELISM_MAX, "a subtask index below 32768", || index.to_string())
}

fn check_file<'m>(lengths: &mut BTreeMap<&'m str, u64>, path: &'m str, bytes: u64) -> Result<(), Violation> {
    require(is_relative_path(path), "a relative path without `.` or `..`", || short(path))?;
    if let Some(other) = lengths.get(path) {
        return require(*other == bytes, "one length per file", || {
            format!("{other} and {bytes} for {}", short(path))
        });
    }
    lengths.insert(path, bytes);
    Ok(())
}

fn check_schema(schema: &Schema, name: &str) -> Result<(), Violation> {
    require(nests_at_most(schema, Schema::DEPTH_MAX), "a schema no deeper than can be decoded", || {
        format!("a deeper one of state {}", short(name))
    })
}

fn nests_at_most(schema: &Schema, levels: u32) -> bool {
    let below = |inner: &Schema| nests_at_most(inner, levels - 1);
    match schema {
        Schema::Primitive(_) => true,
        _ if levels == 0 => false,
        Schema::Option(inner) | Schema::Seq(inner) | Schema::Postcard(inner) => below(inner),
        Schema::Map(key, value) => below(key) && below(value),
        Schema::Tuple(parts) => parts.iter().all(below),
        Schema::Struct { fields, .. } | Schema::Enum { variants: fields, .. } => {
            fields.iter().all(|f| below(&f.schema))
        }
    }
}

/// True for a path that stays below the directory it is relative to: components that pass [`is_component`],
/// separated by single slashes.
pub(crate) fn is_relative_path(path: &str) -> bool {
    path.len() <= PATH_BYTES_MAX && path.split('/').all(is_component)
}

/// True for a name that denotes an entry of a directory, on any file system: not empty, not `.` or `..`, without
/// separators and control characters, at most 255 bytes.
pub(crate) fn is_component(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && c != '/' && c != '\\';
    !matches!(name, "" | "." | "..") && name.len() <= COMPONENT_BYTES_MAX && name.chars().all(plain)
}

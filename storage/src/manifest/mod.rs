//! The manifest: the one file whose durable publication makes a checkpoint COMPLETED.
//!
//! It lists, for each operator and subtask, the small state itself, the segments that hold keyed state, the
//! committables of sinks, and the in-flight data of channels. Paths of files in it are relative to the job's directory, or
//! to the savepoint's own, never absolute, never with `..`. The file format is `codec`'s; what content is acceptable, [`validate`] says.

mod codec;
mod validate;

#[cfg(test)]
mod tests;

pub use codec::{BODY_BYTES_MAX, HEADER_BYTES, VERSION, decode, encode, file_bytes};
pub use validate::{Violation, validate};
pub(crate) use validate::{is_component, is_relative_path};

use crate::codec::Schema;
use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroup;
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::Path;

/// Everything that a restore needs to know of one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the job.
    pub job: String,
    /// This checkpoint.
    pub checkpoint: CheckpointId,
    /// The attempt that took it.
    pub attempt: AttemptId,
    /// Wall clock when it was triggered, in milliseconds since 1970.
    pub triggered_unix_ms: u64,
    /// Number of key groups of the job.
    pub max_parallelism: u16,
    /// Whether it is a checkpoint, or a savepoint in a directory of its own.
    pub kind: ManifestKind,
    /// Where the files lie if not in the job's directory: this checkpoint stands for a savepoint, or for a checkpoint of
    /// another directory.
    pub origin: Option<Origin>,
    /// State by operator.
    pub operators: Vec<OperatorState>,
    /// The edges that `channels` belong to.
    pub edges: Vec<EdgeState>,
    /// In-flight data by channel, only channels that had any.
    pub channels: Vec<ChannelState>,
}

/// What a manifest describes, and so what its paths are relative to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManifestKind {
    /// A checkpoint: paths are relative to the job's directory, which holds the checkpoint's.
    #[default]
    Checkpoint,
    /// A savepoint: paths are relative to the directory of the manifest, and nothing outside is named.
    Savepoint,
}

/// Where the files of a checkpoint lie that another directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The directory that the manifest's paths are relative to.
    pub root: String,
    /// The directory of the original manifest.
    pub dir: String,
    /// True when the original belongs to the job that restored it, and goes with this checkpoint.
    pub claimed: bool,
}

/// State of all subtasks of one operator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OperatorState {
    /// The operator's stable uid.
    pub uid: String,
    /// Number of its subtasks when the checkpoint was taken.
    pub parallelism: u32,
    /// Names and types of its keyed states.
    pub keyed: Vec<KeyedStateMeta>,
    /// Its subtasks, by rising index.
    pub subtasks: Vec<SubtaskState>,
}

/// Name and types of one keyed state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyedStateMeta {
    /// Name of the state within its operator.
    pub name: String,
    /// Structure of the key.
    pub key: Schema,
    /// Structure of the value.
    pub value: Schema,
}

/// State of one subtask of one operator.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SubtaskState {
    /// Index of the subtask.
    pub index: u32,
    /// True when the subtask had finished: its inputs ended and it will never emit again.
    pub finished: bool,
    /// Operator state: one entry per list element.
    pub operator_state: Vec<StateBlob>,
    /// Keyed state, oldest segment first; replayed in order.
    pub segments: Vec<SegmentRef>,
    /// Everything that this subtask's sink has prepared and not yet committed, oldest first.
    pub committables: Vec<Committable>,
}

/// How elements of operator state are spread over subtasks when an operator starts from a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum OperatorStateMode {
    /// Each element goes to one subtask.
    Split,
    /// All elements of all subtasks go to each subtask.
    Union,
    /// All subtasks hold the same elements, and each gets one copy of them.
    Broadcast,
}

/// A piece of operator state under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateBlob {
    /// Name of the state within its operator.
    pub name: String,
    /// How it is spread; the same for all elements of a name.
    pub mode: OperatorStateMode,
    /// Structure of the encoded value.
    pub schema: Schema,
    /// The encoded value.
    pub bytes: Vec<u8>,
}

/// A segment file that holds keyed state, and the part of it that counts.
///
/// Several subtasks and states share a file, and each of them stops naming it on its own. What one of them no longer
/// names may be out of date without anything younger that says so: it must not be read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SegmentRef {
    /// Path below the job's directory.
    pub path: String,
    /// Length of the file.
    pub bytes: u64,
    /// The key groups whose blocks count; a file may hold others too, and need not hold all of these.
    pub groups: Range<KeyGroup>,
    /// Names of the states whose blocks count.
    pub states: Vec<String>,
}

/// Output that a sink has prepared and that becomes visible when a manifest that lists it is published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committable {
    /// The checkpoint it was prepared for.
    pub checkpoint: CheckpointId,
    /// The original subtask: the one that began it, and under whose name the outside world knows it. Not always the one whose
    /// state lists it. A restore at parallelism `p` gives it to subtask `subtask % p`, which also clears away what no
    /// checkpoint lists of that original subtask.
    pub subtask: u32,
    /// The attempt that prepared it.
    pub attempt: AttemptId,
    /// What the sink needs to commit it.
    pub bytes: Vec<u8>,
}

/// What a restore must know of an edge to route its in-flight data anew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeState {
    /// Its name, stable for a job graph.
    pub name: String,
    /// Structure of its records.
    pub record: Schema,
    /// Structure of the key that it spread records by, if it did so by key.
    pub key: Option<Schema>,
    /// Number of producing subtasks when the checkpoint was taken.
    pub producers: u32,
    /// Number of consuming subtasks then.
    pub consumers: u32,
}

/// In-flight data of one channel, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Name of the edge.
    pub edge: String,
    /// Producing subtask.
    pub producer: u32,
    /// Consuming subtask.
    pub consumer: u32,
    /// How many restores these data came after, counted over those whose data had not all been processed. At all channels of
    /// an edge a restore replays lower generations first: at another parallelism, later records of a key may lie in another
    /// channel than those before.
    pub generation: u32,
    /// Whether the consumer captured it or the producer still held it. A restore replays captures first.
    pub origin: ChannelOrigin,
    /// Number of records.
    pub records: u64,
    /// The encoded records, one after another.
    pub data: Payload,
}

impl Manifest {
    /// Paths of all files that this manifest names, below the job's directory; a file of several payloads comes
    /// several times.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let segments = self.operators.iter().flat_map(|o| &o.subtasks).flat_map(|s| &s.segments);
        let payloads = self.channels.iter().filter_map(|c| match &c.data {
            Payload::Inline(_) => None,
            Payload::File { path, .. } => Some(path.as_str()),
        });
        segments.map(|s| s.path.as_str()).chain(payloads)
    }

    /// The manifest as a restore wants it: where the files lie elsewhere, each path is the full one. Such a manifest is
    /// never written.
    pub fn resolved(mut self) -> Self {
        let Some(Origin { root, .. }) = &self.origin else { return self };
        let root = Path::new(root);
        let full = |path: &mut String| *path = root.join(&*path).to_string_lossy().into_owned();
        let subtasks = self.operators.iter_mut().flat_map(|operator| &mut operator.subtasks);
        subtasks.flat_map(|subtask| &mut subtask.segments).for_each(|segment| full(&mut segment.path));
        for channel in &mut self.channels {
            if let Payload::File { path, .. } = &mut channel.data {
                full(path);
            }
        }
        self
    }
}

/// Which end of a channel captured in-flight data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChannelOrigin {
    /// Records below the cut that the consumer had not processed.
    Consumer,
    /// Records of the producer's outbox, behind the cut.
    Producer,
}

/// Bytes of a checkpoint: within the manifest when few, else part of a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Payload {
    /// The bytes themselves.
    Inline(Vec<u8>),
    /// A range of a file.
    File {
        /// Path below the job's directory.
        path: String,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        bytes: u64,
        /// CRC-32 (IEEE) of the bytes.
        crc32: u32,
        /// Length of the whole file.
        file_bytes: u64,
    },
}

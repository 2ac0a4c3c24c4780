//! What a benchmark asks of a process that runs another store, and what that answers: one line of JSON each.
//!
//! The process reads a [`PeerSpec`], loads the keys, answers [`PeerLoaded`], and then, for each [`PeerTask`] that it reads,
//! answers [`PeerFigures`], until its input ends.

use crate::workload::Access;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The store to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    /// RocksDB, set up as Flink does.
    Rocksdb,
    /// fjall.
    Fjall,
}

/// How the store is to be set up, and with what it is to be filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerSpec {
    /// Which one.
    pub kind: PeerKind,
    /// An empty directory, or with `open_existing` one in which a store was left.
    pub dir: PathBuf,
    /// Keys 0..keys are in the store before it answers.
    pub keys: u64,
    /// Bytes of a value; at least 8. The first 8 are a count.
    pub value_bytes: usize,
    /// Memory for caches and write buffers together.
    pub memory_bytes: u64,
    /// Whether reads, flushes and compactions go around the page cache, where the store can do that.
    pub direct_io: bool,
    /// Restricts the process to this core.
    pub core: Option<usize>,
    /// Opens the store that a checkpoint of an earlier process left in `dir` instead of filling a new one.
    pub open_existing: bool,
}

/// The store holds all keys, and background work for them has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerLoaded {
    /// Name and version of the store.
    pub name: String,
    /// Settings worth printing beside the figures.
    pub settings: String,
    /// Seconds that loading, or opening, took.
    pub seconds: f64,
    /// Resident memory of the process.
    pub resident_bytes: u64,
}

/// Something to measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerTask {
    /// Read-modify-write of keys in batches: adds one to the count of each.
    Update {
        /// Distribution of the keys.
        access: Access,
        /// Which sequence.
        seed: u64,
        /// Records of a batch.
        batch: usize,
        /// Ends after this time...
        seconds: f64,
        /// ...or after this many records.
        records_max: u64,
        /// Takes a checkpoint whenever this many seconds have passed; never where absent.
        checkpoint_every_s: Option<f64>,
    },
    /// Updates of `records` keys, then a checkpoint; `intervals` times over.
    Intervals {
        /// Distribution of the keys.
        access: Access,
        /// Which sequence.
        seed: u64,
        /// Records of one interval.
        records: usize,
        /// Number of intervals.
        intervals: u32,
    },
    /// Leaves a checkpoint in this directory, to be opened by another process.
    Checkpoint {
        /// An absent directory on the same file system.
        dir: PathBuf,
    },
}

/// What a [`PeerTask`] came to; what it does not measure is zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerFigures {
    /// Records updated.
    pub records: u64,
    /// Wall-clock seconds, without making the keys.
    pub seconds: f64,
    /// Processor time of all threads in seconds, making the keys included.
    pub cpu_seconds: f64,
    /// Longest time between the ends of two batches, in microseconds.
    pub gap_us_max: f64,
    /// Bytes that the process caused to be written to the disk.
    pub written_bytes: u64,
    /// Bytes that the process caused to be read from the disk.
    pub read_bytes: u64,
    /// Bytes of files that checkpoints held and the one before did not: what an incremental checkpoint uploads.
    pub checkpoint_bytes: u64,
    /// Checkpoints taken.
    pub checkpoints: u64,
    /// Resident memory of the process at the end.
    pub resident_bytes: u64,
    /// Highest resident memory of the process so far.
    pub resident_bytes_max: u64,
}

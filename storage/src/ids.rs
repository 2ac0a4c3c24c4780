//! Identifiers that are written to disk.
//!
//! Always true: a [`CheckpointId`] or [`AttemptId`] that was ever used on a checkpoint directory is never used again
//! there, by this process or a later one.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Number of one checkpoint or savepoint of a job; ids rise over the job's whole life, restarts included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CheckpointId(pub u64);

impl CheckpointId {
    /// The id after this one.
    pub fn next(self) -> Self {
        CheckpointId(self.0 + 1)
    }
}

impl fmt::Display for CheckpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of one execution attempt of a job: it rises at every start and every restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AttemptId(pub u64);

impl AttemptId {
    /// The attempt after this one.
    pub fn next(self) -> Self {
        AttemptId(self.0 + 1)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

//! Announcements: what a producer tells its consumer out of band, with a position in band.
//!
//! A position counts batches since the attempt began: position `p` of a channel means "its first `p` batches".

use thalweg_storage::CheckpointId;

/// How a barrier treats the data in front of it, as announced from task to task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierMode {
    /// A task waits until every input has reached the barrier.
    Aligned,
    /// The barrier overtakes data, which become channel state.
    Unaligned,
    /// A task snapshots once every input has reached the barrier, and reads on meanwhile.
    AtLeastOnce,
}

/// What stands at an announced position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The barrier of a checkpoint.
    Barrier {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// How the producer passed it.
        mode: BarrierMode,
    },
    /// No batch follows, and no announcement.
    EndOfStream,
}

/// One entry of a side ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// What is announced.
    pub mark: Mark,
    /// Its position: the number of batches that the producer had pushed.
    pub cut: u64,
}

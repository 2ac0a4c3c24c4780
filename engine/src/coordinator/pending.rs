//! One checkpoint under way: who has acknowledged it, and why it may fail.

use super::stats::{CheckpointKind, CheckpointOutcome, CheckpointRecord};
use crate::clock::Nanos;
use crate::control::{CheckpointMode, SnapshotKind, TaskId, TaskSnapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use thalweg_storage::CheckpointId;

/// Names one request of a user for a checkpoint, to answer it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct RequestId(pub(super) u64);

/// What the start of another checkpoint depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnderWay {
    pub(super) mode: CheckpointMode,
    pub(super) savepoint: bool,
    pub(super) stops: bool,
}

/// A checkpoint that has been triggered and has not ended.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: CheckpointId,
    pub(super) mode: CheckpointMode,
    pub(super) kind: SnapshotKind,
    pub(super) triggered_at: Nanos,
    pub(super) triggered_unix_ms: u64,
    /// The user's request that it answers, if any.
    pub(super) request: Option<RequestId>,
    waiting: BTreeSet<TaskId>,
    snapshots: BTreeMap<TaskId, TaskSnapshot>,
    record: CheckpointRecord,
}

impl Pending {
    pub(super) fn new(
        id: CheckpointId,
        mode: CheckpointMode,
        kind: SnapshotKind,
        triggered_at: Nanos,
        triggered_unix_ms: u64,
        request: Option<RequestId>,
        tasks: BTreeSet<TaskId>,
    ) -> Self {
        let record = CheckpointRecord::new(id, CheckpointKind::of(&kind), triggered_unix_ms);
        let snapshots = BTreeMap::new();
        Pending {
            id,
            mode,
            kind,
            triggered_at,
            triggered_unix_ms,
            request,
            waiting: tasks,
            snapshots,
            record,
        }
    }

    /// What it means to others that it is under way.
    pub(super) fn under_way(&self) -> UnderWay {
        let (savepoint, stops) = (self.kind.is_savepoint(), self.kind.stop().is_some());
        UnderWay { mode: self.mode, savepoint, stops }
    }

    /// True for a savepoint that the job goes on after: it neither ends other checkpoints nor is ended by one.
    pub(super) fn stands_alone(&self) -> bool {
        self.kind.is_savepoint() && self.kind.stop().is_none()
    }

    /// True until `task`, one of the job's, has acknowledged.
    pub(super) fn is_waiting_for(&self, task: TaskId) -> bool {
        self.waiting.contains(&task)
    }

    /// One of the tasks that have not acknowledged.
    pub(super) fn any_missing(&self) -> Option<TaskId> {
        self.waiting.first().copied()
    }

    /// Takes a task's part. The first acknowledgement of a task counts, later ones change nothing.
    pub(super) fn acknowledge(&mut self, task: TaskId, snapshot: TaskSnapshot) {
        if self.waiting.remove(&task) {
            self.record.add(task, &snapshot.stats);
            self.snapshots.insert(task, snapshot);
        }
    }

    /// True once every task has acknowledged.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Number of tasks that have not acknowledged.
    pub(super) fn missing(&self) -> usize {
        self.waiting.len()
    }

    /// Hands out the parts, to be put into a manifest.
    pub(super) fn take_snapshots(&mut self) -> BTreeMap<TaskId, TaskSnapshot> {
        std::mem::take(&mut self.snapshots)
    }

    /// What it cost, now that it has ended.
    pub(super) fn into_record(mut self, outcome: CheckpointOutcome, duration: Duration) -> CheckpointRecord {
        self.record.outcome = outcome;
        self.record.duration = duration;
        self.record
    }
}

/// True when a checkpoint of this mode may be under way together with another of such a mode.
///
/// An unaligned checkpoint may reach a task before an older one that still aligns; the task would snapshot out of
/// order and a sink would commit output that an older restore writes again.
pub(super) fn may_overlap(mode: CheckpointMode) -> bool {
    matches!(mode, CheckpointMode::Aligned | CheckpointMode::AtLeastOnce)
}

/// Why a checkpoint did not complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FailReason {
    /// The checkpoint directory could not take a new checkpoint.
    Begin(String),
    /// A task could not do its part.
    Declined(TaskId, String),
    /// Not every task acknowledged in time.
    Expired { missing: usize, tasks: usize },
    /// The manifest could not be assembled or published.
    Publish(String),
    /// A later one completed first.
    Subsumed(CheckpointId),
    /// The attempt ended.
    AttemptEnded(&'static str),
}

impl FailReason {
    /// True when it counts against the number of tolerable failures.
    pub(super) fn counts(&self) -> bool {
        broken!(EverythingCounts) || !matches!(self, FailReason::Subsumed(_) | FailReason::AttemptEnded(_))
    }
}

impl FailReason {
    /// True when it counts for a savepoint too: the fault is a task's, which a restart may mend. As in Flink.
    pub(super) fn counts_for_savepoints(&self) -> bool {
        matches!(self, FailReason::Declined(..))
    }
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailReason::Begin(message) => write!(f, "it could not be started: {message}"),
            FailReason::Declined(task, message) => write!(f, "task {} declined it: {message}", task.0),
            FailReason::Expired { missing, tasks } => {
                write!(f, "it expired before {missing} of {tasks} tasks had acknowledged it")
            }
            FailReason::Publish(message) => write!(f, "it could not be published: {message}"),
            FailReason::Subsumed(by) => write!(f, "checkpoint {by} completed first and contains it"),
            FailReason::AttemptEnded(why) => f.write_str(why),
        }
    }
}

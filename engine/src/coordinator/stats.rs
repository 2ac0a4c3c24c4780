//! What checkpoints cost and how they ended.

use crate::control::SnapshotStats;
use std::collections::VecDeque;
use std::time::Duration;
use thalweg_storage::CheckpointId;

/// Number of checkpoints whose records are kept.
const HISTORY_MAX: usize = 10;

/// How a checkpoint ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// It is durable; a restart continues from it.
    Completed,
    /// It is gone, for this reason.
    Failed(String),
}

/// One checkpoint that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// Its id.
    pub id: CheckpointId,
    /// How it ended.
    pub outcome: CheckpointOutcome,
    /// Wall clock at its trigger, in milliseconds since 1970.
    pub triggered_unix_ms: u64,
    /// From the trigger until it was complete or had failed.
    pub duration: Duration,
    /// The longest time from the trigger until a task snapshotted.
    pub start_delay_max: Duration,
    /// The longest synchronous part of a task.
    pub sync_max: Duration,
    /// The longest time from a task's snapshot to its acknowledgement.
    pub async_max: Duration,
    /// Bytes of state that all tasks wrote or inlined.
    pub state_bytes: u64,
    /// Records captured in flight, of all tasks.
    pub in_flight_records: u64,
    /// Tasks that snapshotted aligned.
    pub tasks_aligned: u32,
    /// Tasks that snapshotted unaligned.
    pub tasks_unaligned: u32,
}

impl CheckpointRecord {
    pub(super) fn new(id: CheckpointId, triggered_unix_ms: u64) -> Self {
        CheckpointRecord {
            id,
            outcome: CheckpointOutcome::Failed(String::new()),
            triggered_unix_ms,
            duration: Duration::ZERO,
            start_delay_max: Duration::ZERO,
            sync_max: Duration::ZERO,
            async_max: Duration::ZERO,
            state_bytes: 0,
            in_flight_records: 0,
            tasks_aligned: 0,
            tasks_unaligned: 0,
        }
    }

    /// Adds one task's part.
    pub(super) fn add(&mut self, part: &SnapshotStats) {
        self.start_delay_max = self.start_delay_max.max(Duration::from_nanos(part.start_delay_ns));
        self.sync_max = self.sync_max.max(Duration::from_nanos(part.sync_ns));
        self.async_max = self.async_max.max(Duration::from_nanos(part.async_ns));
        self.state_bytes += part.state_bytes;
        self.in_flight_records += part.in_flight_records;
        if part.unaligned {
            self.tasks_unaligned += 1;
        } else {
            self.tasks_aligned += 1;
        }
    }
}

/// The checkpoints and restarts of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// Checkpoints that tasks were told to take.
    pub triggered: u64,
    /// Checkpoints that are or were complete.
    pub completed: u64,
    /// Checkpoints that failed, those that could not be begun included.
    pub failed: u64,
    /// Restarts of the job.
    pub restarts: u64,
    /// Why the job restarted last: operator, partition and message.
    pub restart_cause: Option<String>,
    /// The latest completed checkpoint, of this process or restored.
    pub latest: Option<CheckpointId>,
    /// The checkpoint that the present attempt was restored from.
    pub restored: Option<CheckpointId>,
    /// In-flight records that the present attempt restored.
    pub restored_records: u64,
    /// The last ten checkpoints that have ended, oldest first.
    pub history: VecDeque<CheckpointRecord>,
}

impl CheckpointStats {
    pub(super) fn record(&mut self, record: CheckpointRecord) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(record);
    }
}

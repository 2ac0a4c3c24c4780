//! What workers and the coordinator say to each other. Neither knows the other; both know these messages.

use crate::clock::Nanos;
pub use crate::config::CheckpointMode;
pub use crate::error::TaskFailure;
use crate::task::Task;
use std::sync::Arc;
use thalweg_storage::manifest::{ChannelState, KeyedStateMeta, SubtaskState};
use thalweg_storage::{AttemptId, CheckpointId};

/// Index of a task in the deployed job: all subtasks of all vertices, counted through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

/// A checkpoint that every task must take part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Its mode.
    pub mode: CheckpointMode,
    /// When the coordinator triggered it; alignment timeouts count from here.
    pub triggered_at: Nanos,
}

/// From the coordinator to a task, by way of its worker.
#[derive(Clone, Debug)]
pub enum TaskCommand {
    /// Take part in a checkpoint.
    Trigger(Trigger),
    /// The checkpoint has failed; forget it. Prepared output stays prepared.
    Abort(CheckpointId),
    /// The checkpoint is complete: commit what its manifest lists. Each task hears this once per checkpoint.
    Complete(CheckpointId),
    /// The job runs without checkpoints and all of its data have arrived: commit what is prepared.
    CommitFinal,
}

/// From the coordinator to a worker.
pub enum WorkerCommand {
    /// Run these tasks of an attempt, and report on them there.
    Deploy(AttemptId, Vec<(TaskId, Box<dyn Task>)>, Arc<dyn ReportSink>),
    /// Pass a command to every task of an attempt.
    Broadcast(AttemptId, TaskCommand),
    /// Drop all tasks of an attempt, then report [`Report::Cancelled`].
    Cancel(AttemptId),
    /// Leave the run loop. Tasks still there are dropped.
    Shutdown,
}

/// One task's part of a checkpoint, complete and durable where it lies in files.
#[derive(Clone, Debug)]
pub struct TaskSnapshot {
    /// State of each operator of the task's chain: uid, names of keyed states, subtask state.
    pub operators: Vec<(Arc<str>, Vec<KeyedStateMeta>, SubtaskState)>,
    /// In-flight data of the task's input channels and outbox.
    pub channels: Vec<ChannelState>,
    /// What taking it cost.
    pub stats: SnapshotStats,
}

/// What one task's part of a checkpoint cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// From the trigger until the task snapshotted, in nanoseconds.
    pub start_delay_ns: u64,
    /// The synchronous part, in nanoseconds.
    pub sync_ns: u64,
    /// From the snapshot until the acknowledgement, in nanoseconds.
    pub async_ns: u64,
    /// Bytes written or inlined for state.
    pub state_bytes: u64,
    /// Records captured in flight.
    pub in_flight_records: u64,
    /// True when the task snapshotted without alignment.
    pub unaligned: bool,
}

/// From a task or worker to the coordinator.
#[derive(Debug)]
pub enum Report {
    /// A task has done its part of a checkpoint.
    Acknowledged(AttemptId, TaskId, CheckpointId, Box<TaskSnapshot>),
    /// A task could not do its part (state could not be written); the checkpoint fails, the job goes on.
    Declined(AttemptId, TaskId, CheckpointId, String),
    /// All inputs of a sink's task have ended and it holds output that only a checkpoint can commit.
    AwaitsCommit(AttemptId, TaskId),
    /// A task has finished for good: inputs ended, output sent on, everything committed.
    Finished(AttemptId, TaskId),
    /// A task has failed.
    Failed(AttemptId, TaskId, TaskFailure),
    /// A worker has dropped every task of an attempt.
    Cancelled(AttemptId, usize),
    /// A worker's executor itself ended; the engine cannot go on.
    WorkerDied(usize, String),
}

/// Where tasks and workers send their reports. Never blocks.
pub trait ReportSink: Send + Sync + 'static {
    /// Delivers one report.
    fn report(&self, report: Report);
}

/// The coordinator's view of one worker.
pub trait WorkerLink: Send + Sync + 'static {
    /// Delivers a command and rings the worker's doorbell. Never blocks.
    fn send(&self, command: WorkerCommand);

    /// A count that rises while the worker's run loop turns, parked or busy (at least every few tens of milliseconds).
    fn heartbeat(&self) -> u64;

    /// The task that the worker is polling at this moment: operator chain and partition.
    fn polling(&self) -> Option<(String, u32)>;
}

//! What workers and the coordinator say to each other. Neither knows the other; both know these messages.

use crate::clock::Nanos;
pub use crate::config::CheckpointMode;
pub use crate::error::TaskFailure;
use crate::task::Task;
use std::path::Path;
use std::sync::Arc;
use thalweg_storage::manifest::{ChannelState, KeyedStateMeta, SubtaskState};
use thalweg_storage::snapshot::SnapshotSegments;
use thalweg_storage::{AttemptId, CheckpointId};

/// Index of a task in the deployed job: all subtasks of all vertices, counted through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

/// What becomes of the data on their way when a job stops with a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// The sources end as though there were no more input: operators emit their last results, which are committed, and the
    /// savepoint is of a job that has ended. To change the job or its place, use `Suspend`.
    Drain,
    /// Everything stands still where the savepoint finds it; a job that starts from it goes on as if there had been no stop.
    Suspend,
}

/// What tasks are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotKind {
    /// A checkpoint: incremental, in the job's directory.
    Checkpoint,
    /// A savepoint: complete by itself, without in-flight data, in a directory of its own.
    Savepoint {
        /// That directory.
        dir: Arc<Path>,
        /// The job stops once it is complete.
        stop: Option<StopMode>,
    },
}

impl SnapshotKind {
    /// How the job stops with it, if it does.
    pub fn stop(&self) -> Option<StopMode> {
        if let SnapshotKind::Savepoint { stop, .. } = self { *stop } else { None }
    }

    /// True for a savepoint.
    pub fn is_savepoint(&self) -> bool {
        matches!(self, SnapshotKind::Savepoint { .. })
    }
}

/// A checkpoint or savepoint that every task must take part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// Its mode; a savepoint is aligned.
    pub mode: CheckpointMode,
    /// What it is.
    pub kind: SnapshotKind,
    /// When the coordinator triggered it; alignment timeouts count from here.
    pub triggered_at: Nanos,
}

/// From the coordinator to a task, by way of its worker.
#[derive(Clone, Debug)]
pub enum TaskCommand {
    /// Take part in a checkpoint.
    Trigger(Trigger),
    /// The checkpoint has failed; forget it. Prepared output stays prepared. With it comes the latest completed checkpoint, so
    /// that whoever keeps something for older ones knows that it may go.
    Abort(CheckpointId, Option<CheckpointId>),
    /// The checkpoint is complete: commit what its manifest lists. Each task hears this once per checkpoint, and of a
    /// savepoint only where the job stops with it.
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
    /// The segments of operators with keyed state, until [`TaskSnapshot::list_segments`].
    pub segments: Option<SnapshotSegments>,
    /// In-flight data of the task's input channels and outbox.
    pub channels: Vec<ChannelState>,
    /// What taking it cost.
    pub stats: SnapshotStats,
}

impl TaskSnapshot {
    /// Lists the segments where they belong, and counts their bytes. With much state there are hundreds: so this is not done on a
    /// worker.
    pub fn list_segments(&mut self) {
        let Some(segments) = self.segments.take() else { return };
        let segments = segments.list();
        self.stats.full_state_bytes += segments.iter().map(|segment| segment.bytes).sum::<u64>();
        let keyed = self.operators.iter_mut().filter(|(_, metas, _)| !metas.is_empty());
        keyed.for_each(|(_, _, state)| state.segments.clone_from(&segments));
    }
}

/// What one task's part of a checkpoint cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotStats {
    /// From the trigger until the task first heard of the barrier, in nanoseconds.
    pub start_delay_ns: u64,
    /// From then until it snapshotted, in nanoseconds.
    pub alignment_ns: u64,
    /// The synchronous part, in nanoseconds.
    pub sync_ns: u64,
    /// From the snapshot until the acknowledgement, in nanoseconds.
    pub async_ns: u64,
    /// Bytes written or inlined for state.
    pub state_bytes: u64,
    /// Bytes of all state that the checkpoint names, those of earlier checkpoints included.
    pub full_state_bytes: u64,
    /// Files written.
    pub files: u32,
    /// Records captured in flight.
    pub in_flight_records: u64,
    /// Their bytes.
    pub in_flight_bytes: u64,
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

//! What checkpoints cost and how they ended.
//!
//! Sizes are those of what tasks acknowledged, so a checkpoint that failed early shows part of them.

use crate::control::{SnapshotKind, SnapshotStats, TaskId};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;
use thalweg_storage::CheckpointId;

/// Number of checkpoints whose records are kept unless set otherwise: Flink's `web.checkpoints.history`.
const HISTORY_DEFAULT: usize = 10;

/// How a checkpoint ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointOutcome {
    /// It is durable; a restart continues from it.
    Completed,
    /// It is gone, for this reason.
    Failed(String),
}

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointKind {
    /// A checkpoint.
    Checkpoint,
    /// A savepoint.
    Savepoint,
    /// A savepoint with which the job stops.
    StopWithSavepoint,
}

impl CheckpointKind {
    pub(super) fn of(kind: &SnapshotKind) -> Self {
        match kind {
            SnapshotKind::Checkpoint => CheckpointKind::Checkpoint,
            SnapshotKind::Savepoint { stop: None, .. } => CheckpointKind::Savepoint,
            SnapshotKind::Savepoint { stop: Some(_), .. } => CheckpointKind::StopWithSavepoint,
        }
    }
}

/// One task's part of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskCheckpoint {
    /// The task: its index among the tasks of the attempt that took the checkpoint, as in `JobMetrics::tasks`.
    pub task: TaskId,
    /// What it cost.
    pub stats: SnapshotStats,
}

/// One checkpoint or savepoint that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// Its id.
    pub id: CheckpointId,
    /// What it was.
    pub kind: CheckpointKind,
    /// How it ended.
    pub outcome: CheckpointOutcome,
    /// Wall clock at its trigger, in milliseconds since 1970.
    pub triggered_unix_ms: u64,
    /// From the trigger until it was complete or had failed.
    pub duration: Duration,
    /// The longest time from the trigger until its barrier arrived at a task.
    pub start_delay_max: Duration,
    /// The longest time from then until the task snapshotted.
    pub alignment_max: Duration,
    /// The longest synchronous part of a task.
    pub sync_max: Duration,
    /// The longest time from a task's snapshot to its acknowledgement.
    pub async_max: Duration,
    /// Bytes of state that all tasks wrote or inlined.
    pub state_bytes: u64,
    /// Bytes of all state that it names, those that earlier checkpoints wrote included.
    pub full_state_bytes: u64,
    /// Files that all tasks wrote.
    pub files: u64,
    /// Records captured in flight, of all tasks.
    pub in_flight_records: u64,
    /// Bytes captured in flight, of all tasks.
    pub in_flight_bytes: u64,
    /// Tasks that snapshotted aligned.
    pub tasks_aligned: u32,
    /// Tasks that snapshotted unaligned.
    pub tasks_unaligned: u32,
    /// The parts of the tasks that acknowledged it, in the order in which they did.
    pub tasks: Vec<TaskCheckpoint>,
}

impl CheckpointRecord {
    pub(super) fn new(id: CheckpointId, kind: CheckpointKind, triggered_unix_ms: u64) -> Self {
        CheckpointRecord {
            id,
            kind,
            outcome: CheckpointOutcome::Failed(String::new()),
            triggered_unix_ms,
            duration: Duration::ZERO,
            start_delay_max: Duration::ZERO,
            alignment_max: Duration::ZERO,
            sync_max: Duration::ZERO,
            async_max: Duration::ZERO,
            state_bytes: 0,
            full_state_bytes: 0,
            files: 0,
            in_flight_records: 0,
            in_flight_bytes: 0,
            tasks_aligned: 0,
            tasks_unaligned: 0,
            tasks: Vec::new(),
        }
    }

    /// Adds one task's part.
    pub(super) fn add(&mut self, task: TaskId, part: &SnapshotStats) {
        self.start_delay_max = self.start_delay_max.max(Duration::from_nanos(part.start_delay_ns));
        self.alignment_max = self.alignment_max.max(Duration::from_nanos(part.alignment_ns));
        self.sync_max = self.sync_max.max(Duration::from_nanos(part.sync_ns));
        self.async_max = self.async_max.max(Duration::from_nanos(part.async_ns));
        self.state_bytes += part.state_bytes;
        self.full_state_bytes += part.full_state_bytes;
        self.files += u64::from(part.files);
        self.in_flight_records += part.in_flight_records;
        self.in_flight_bytes += part.in_flight_bytes;
        if part.unaligned {
            self.tasks_unaligned += 1;
        } else {
            self.tasks_aligned += 1;
        }
        self.tasks.push(TaskCheckpoint { task, stats: *part });
    }
}

/// How a figure is distributed over all completed checkpoints of the job's run, to three digits. All zero before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// Number of values.
    pub count: u64,
    /// Half of the values are at most this.
    pub p50: u64,
    /// 90 % of the values are at most this.
    pub p90: u64,
    /// 95 % of the values are at most this.
    pub p95: u64,
    /// 99 % of the values are at most this.
    pub p99: u64,
    /// 99.9 % of the values are at most this.
    pub p999: u64,
    /// The largest value.
    pub max: u64,
}

/// The distributions of what completed checkpoints and savepoints cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckpointSummary {
    /// From the trigger to completion, in nanoseconds; one value per checkpoint.
    pub duration_ns: Quantiles,
    /// Start delay, in nanoseconds; one value per task and checkpoint.
    pub start_delay_ns: Quantiles,
    /// Alignment, in nanoseconds; one value per task and checkpoint.
    pub alignment_ns: Quantiles,
    /// Synchronous part, in nanoseconds; one value per task and checkpoint.
    pub sync_ns: Quantiles,
    /// Asynchronous part, in nanoseconds; one value per task and checkpoint.
    pub async_ns: Quantiles,
    /// Bytes of state written; one value per checkpoint.
    pub state_bytes: Quantiles,
}

/// The histograms behind a [`CheckpointSummary`].
#[derive(Debug)]
pub(super) struct Histograms([Histogram<u64>; 6]);

impl Default for Histograms {
    fn default() -> Self {
        Histograms(std::array::from_fn(|_| Histogram::new(3).expect("three digits are possible")))
    }
}

impl Histograms {
    /// Adds a completed checkpoint.
    pub(super) fn add(&mut self, record: &CheckpointRecord) {
        let mut add = |index: usize, value: u64| self.0[index].saturating_record(value);
        add(0, u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX));
        for TaskCheckpoint { stats, .. } in &record.tasks {
            add(1, stats.start_delay_ns);
            add(2, stats.alignment_ns);
            add(3, stats.sync_ns);
            add(4, stats.async_ns);
        }
        add(5, record.state_bytes);
    }

    pub(super) fn summary(&self) -> CheckpointSummary {
        let [duration_ns, start_delay_ns, alignment_ns, sync_ns, async_ns, state_bytes] =
            self.0.each_ref().map(|histogram| {
                let at = |quantile| histogram.value_at_quantile(quantile);
                Quantiles {
                    count: histogram.len(),
                    p50: at(0.5),
                    p90: at(0.9),
                    p95: at(0.95),
                    p99: at(0.99),
                    p999: at(0.999),
                    max: histogram.max(),
                }
            });
        CheckpointSummary { duration_ns, start_delay_ns, alignment_ns, sync_ns, async_ns, state_bytes }
    }
}

/// The checkpoints and restarts of one job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointStats {
    /// Checkpoints and savepoints that tasks were told to take.
    pub triggered: u64,
    /// Checkpoints that are or were complete, among them a savepoint with which the job stops.
    pub completed: u64,
    /// Checkpoints and savepoints that failed, those that could not be begun included.
    pub failed: u64,
    /// Savepoints that are complete.
    pub savepoints: u64,
    /// Restarts of the job.
    pub restarts: u64,
    /// Why the job restarted last: operator, partition and message.
    pub restart_cause: Option<String>,
    /// The latest completed checkpoint, of this process or restored.
    pub latest: Option<CheckpointId>,
    /// The latest complete savepoint of this process.
    pub latest_savepoint: Option<PathBuf>,
    /// The checkpoint that the present attempt was restored from.
    pub restored: Option<CheckpointId>,
    /// In-flight records that the present attempt restored.
    pub restored_records: u64,
    /// Distributions over all completed checkpoints and savepoints of this process.
    pub summary: CheckpointSummary,
    /// The last checkpoints and savepoints that have ended, oldest first; ten of them unless set otherwise.
    pub history: VecDeque<CheckpointRecord>,
    history_max: usize,
}

impl Default for CheckpointStats {
    fn default() -> Self {
        CheckpointStats::new(HISTORY_DEFAULT)
    }
}

impl CheckpointStats {
    /// Statistics that keep the records of the last `history_max` checkpoints.
    pub(super) fn new(history_max: usize) -> Self {
        CheckpointStats {
            triggered: 0,
            completed: 0,
            failed: 0,
            savepoints: 0,
            restarts: 0,
            restart_cause: None,
            latest: None,
            latest_savepoint: None,
            restored: None,
            restored_records: 0,
            summary: CheckpointSummary::default(),
            history: VecDeque::new(),
            history_max,
        }
    }

    pub(super) fn record(&mut self, record: CheckpointRecord) {
        self.history.push_back(record);
        if self.history.len() > self.history_max {
            self.history.pop_front();
        }
    }
}

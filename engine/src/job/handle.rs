//! The handle of a running job.

use super::savepoint::absolute;
use crate::clock::{Clock, Nanos};
use crate::control::StopMode;
use crate::coordinator::{CheckpointStats, CoordinatorHandle, JobShared, JobStatus};
use crate::error::Error;
use crate::graph::TaskCounters;
use crate::worker::{TaskInfo, TimeSpent, Workers};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use thalweg_storage::CheckpointId;
use thalweg_storage::table::TableStats;

/// Watches and commands a job, from any thread. Cheap to clone. Dropping it leaves the job running.
#[derive(Clone)]
pub struct JobHandle {
    shared: Arc<JobShared>,
    coordinator: CoordinatorHandle,
    counters: Arc<Mutex<Vec<TaskCounters>>>,
    workers: Weak<Workers>,
    clock: Arc<dyn Clock>,
    savepoint_dir: Option<PathBuf>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// Counters of one task.
#[derive(Clone, Debug)]
pub struct TaskReport {
    /// Names of the task's operators.
    pub name: String,
    /// The partition (subtask index).
    pub partition: u32,
    /// True for a task that reads a source.
    pub is_source: bool,
    /// Records taken in since the attempt began.
    pub records_in: u64,
    /// Records sent to other tasks since the attempt began.
    pub records_out: u64,
    /// Malformed records left out since the attempt began.
    pub records_skipped: u64,
    /// How much of a source's input is read: done and total, zero where it is unknown.
    pub read: (u64, u64),
    /// Its keyed state: entries, memory, page reads and compaction, since the attempt began.
    pub state: TableStats,
    /// How the task's time since its deployment divides, if it is deployed.
    pub time: Option<TimeSpent>,
}

/// Counters of a job's present attempt.
#[derive(Clone, Debug)]
pub struct JobMetrics {
    /// One entry per task.
    pub tasks: Vec<TaskReport>,
    /// Checkpoints and restarts.
    pub checkpoints: CheckpointStats,
}

impl TaskReport {
    /// How often a key's page was in memory, of that and of the pages that were read back for keys; `None` before either.
    pub fn page_hit_rate(&self) -> Option<f64> {
        let all = self.state.page_hits + self.state.page_reads;
        (all > 0).then(|| self.state.page_hits as f64 / all as f64)
    }
}

impl JobHandle {
    pub(super) fn new(
        shared: Arc<JobShared>,
        coordinator: CoordinatorHandle,
        counters: Arc<Mutex<Vec<TaskCounters>>>,
        workers: Weak<Workers>,
        clock: Arc<dyn Clock>,
        savepoint_dir: Option<PathBuf>,
        thread: JoinHandle<()>,
    ) -> Self {
        JobHandle {
            shared,
            coordinator,
            counters,
            workers,
            clock,
            savepoint_dir,
            thread: Arc::new(Mutex::new(Some(thread))),
        }
    }

    /// Where the job stands.
    pub fn status(&self) -> JobStatus {
        self.shared.status()
    }

    /// Waits until the job has processed all of its input and committed all of its output.
    ///
    /// # Errors
    /// [`Error::JobFailed`] or [`Error::Cancelled`]; the latest completed checkpoint is kept, and running the job
    /// again continues from it.
    pub fn wait(&self) -> Result<(), Error> {
        let status = self.shared.wait();
        self.join();
        outcome(status)
    }

    /// As [`JobHandle::wait`], for at most `timeout`; `None` when the job still runs.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Result<(), Error>> {
        let status = self.shared.wait_timeout(timeout)?;
        self.join();
        Some(outcome(status))
    }

    /// Takes a checkpoint now and waits for it.
    ///
    /// # Errors
    /// [`Error::CheckpointFailed`] says why there is none; the job goes on.
    pub fn checkpoint(&self) -> Result<CheckpointId, Error> {
        match self.coordinator.trigger_checkpoint(None).recv() {
            Ok(answer) => answer.map_err(Error::CheckpointFailed),
            Err(_) => Err(Error::CheckpointFailed("the job has ended".to_owned())),
        }
    }

    /// Takes a savepoint now and waits for it. Returns its directory, `savepoint-<job>-<id>` in `dir` or, without one, in the
    /// directory of the settings.
    ///
    /// A savepoint holds all state in files of its own, in a format that every state backend reads, and never goes away by
    /// itself. The job goes on meanwhile and afterwards as if there had been none: nothing is committed for it.
    ///
    /// # Errors
    /// [`Error::SavepointFailed`] says why there is none; the job goes on.
    pub fn savepoint(&self, dir: Option<&Path>) -> Result<PathBuf, Error> {
        self.take_savepoint(dir, None)
    }

    /// Stops the job with a savepoint: takes it, commits all output up to it, ends the job as finished, and returns the
    /// savepoint's directory. Started again, the job continues from it.
    ///
    /// # Errors
    /// [`Error::SavepointFailed`] says why the job did not stop. It goes on as before where the savepoint failed (after
    /// [`StopMode::Drain`] from its latest checkpoint), and from the savepoint where that is complete.
    pub fn stop_with_savepoint(&self, dir: Option<&Path>, mode: StopMode) -> Result<PathBuf, Error> {
        self.take_savepoint(dir, Some(mode))
    }

    fn take_savepoint(&self, dir: Option<&Path>, stop: Option<StopMode>) -> Result<PathBuf, Error> {
        let root = dir.or(self.savepoint_dir.as_deref()).ok_or_else(|| {
            let message = "no directory is given and none is set: name one, or set `execution.checkpointing.savepoint-dir`";
            Error::SavepointFailed(message.to_owned())
        })?;
        let root = absolute(root)?;
        match self.coordinator.trigger_savepoint(&root, stop).recv() {
            Ok(answer) => answer.map_err(Error::SavepointFailed),
            Err(_) => Err(Error::SavepointFailed("the job has ended".to_owned())),
        }
    }

    /// Cancels the job: what is not committed stays uncommitted. Completed checkpoints are kept unless
    /// [`super::EngineBuilder::externalized_checkpoint_retention`] says otherwise.
    pub fn cancel(&self) {
        self.coordinator.cancel();
    }

    /// Counters of tasks, checkpoints and restarts.
    pub fn metrics(&self) -> JobMetrics {
        let times = self.workers.upgrade().map(|workers| workers.tasks()).unwrap_or_default();
        job_metrics(&self.counters, &times, self.clock.now(), &self.shared)
    }

    /// Cancels the job and waits for its control thread, which is bounded in time.
    pub(super) fn shut_down(&self) {
        self.coordinator.shutdown();
        self.join();
    }

    fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of the control thread has been turned into the job's failure by the coordinator.
            let _ = thread.join();
        }
    }
}

/// Puts together what workers, tasks and coordinator count.
pub(super) fn job_metrics(
    counters: &Mutex<Vec<TaskCounters>>,
    times: &[TaskInfo],
    now: Nanos,
    shared: &JobShared,
) -> JobMetrics {
    let counters = counters.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let tasks = counters
        .into_iter()
        .map(|task| TaskReport {
            time: times
                .iter()
                .find(|info| info.name == task.name && info.partition == task.partition)
                .map(|info| info.times.until(now)),
            name: task.name,
            partition: task.partition,
            is_source: task.is_source,
            records_in: task.metrics.records_in(),
            records_out: task.metrics.records_out(),
            records_skipped: task.metrics.records_skipped(),
            read: task.metrics.read_progress(),
            state: task.metrics.state(),
        })
        .collect();
    JobMetrics { tasks, checkpoints: shared.checkpoint_stats() }
}

pub(super) fn outcome(status: JobStatus) -> Result<(), Error> {
    match status {
        JobStatus::Failed(cause) => Err(Error::JobFailed(cause)),
        JobStatus::Cancelled => Err(Error::Cancelled),
        _ => Ok(()),
    }
}

//! What the coordinator shows to job handles.

use super::stats::CheckpointStats;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where a job stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum JobStatus {
    /// Not running yet.
    #[default]
    Created,
    /// All tasks run, or have finished.
    Running,
    /// The job has failed and will run again.
    Restarting,
    /// The job has failed for good; its tasks are being dropped.
    Failing,
    /// A user has cancelled the job; its tasks are being dropped.
    Cancelling,
    /// All input has been processed and all output committed.
    Finished,
    /// The job has failed for good, for this reason.
    Failed(String),
    /// A user has cancelled the job.
    Cancelled,
}

impl JobStatus {
    /// True when nothing will change any more.
    pub fn is_terminal(&self) -> bool {
        matches!(self, JobStatus::Finished | JobStatus::Failed(_) | JobStatus::Cancelled)
    }
}

/// The state of a job, shared between its coordinator and any number of handles.
#[derive(Debug, Default)]
pub struct JobShared {
    view: Mutex<View>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct View {
    status: JobStatus,
    stats: CheckpointStats,
}

impl JobShared {
    /// A job that has not started.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Where the job stands now.
    pub fn status(&self) -> JobStatus {
        self.view().status.clone()
    }

    /// Waits until the job has ended and says how. Blocks the calling thread.
    pub fn wait(&self) -> JobStatus {
        let view = self.ended.wait_while(self.view(), |view| !view.status.is_terminal());
        view.unwrap_or_else(PoisonError::into_inner).status.clone()
    }

    /// As [`JobShared::wait`], for at most `timeout`; `None` when the job has not ended by then.
    pub fn wait_timeout(&self, timeout: Duration) -> Option<JobStatus> {
        let waited = self.ended.wait_timeout_while(self.view(), timeout, |view| !view.status.is_terminal());
        let (view, _) = waited.unwrap_or_else(PoisonError::into_inner);
        view.status.is_terminal().then(|| view.status.clone())
    }

    /// The job's checkpoints so far.
    pub fn checkpoint_stats(&self) -> CheckpointStats {
        self.view().stats.clone()
    }

    /// Shows a new state. A terminal status stays.
    pub(super) fn update(&self, status: JobStatus, stats: Option<CheckpointStats>) {
        let mut view = self.view();
        if let Some(stats) = stats {
            view.stats = stats;
        }
        if !view.status.is_terminal() {
            view.status = status;
            if view.status.is_terminal() {
                self.ended.notify_all();
            }
        }
    }

    /// A panic elsewhere while the lock was held leaves nothing half done: each update is one assignment.
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

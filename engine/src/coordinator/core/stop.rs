//! The core's part about savepoints, and about the end of a job by one.
//!
//! A stop goes through: its savepoint is triggered → published, and from then on a checkpoint like any other, so that a
//! failure continues from it → all tasks hear that it is complete, commit and finish → the job has finished.

use super::{Core, Phase, Then};
use crate::control::StopMode;
use crate::coordinator::event::{Action, Taken};
use crate::coordinator::pending::{FailReason, Pending, RequestId};
use crate::coordinator::shared::JobStatus;
use crate::coordinator::stats::CheckpointOutcome;
use crate::coordinator::trigger::Wish;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use thalweg_storage::CheckpointId;

/// Number of ended savepoints whose late acknowledgements are recognised.
const ENDED_MAX: usize = 128;

/// A savepoint that is complete, with which the job stops.
#[derive(Debug)]
pub(super) struct StopUnderWay {
    request: Option<RequestId>,
    id: CheckpointId,
    dir: Arc<Path>,
}

/// The latest savepoints that have ended, and whether they are complete.
#[derive(Debug, Default)]
pub(super) struct Ended(VecDeque<(CheckpointId, bool)>);

impl Ended {
    fn add(&mut self, id: CheckpointId, complete: bool) {
        if self.0.len() == ENDED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((id, complete));
    }

    /// Whether it is complete, if it is one of these.
    pub(super) fn get(&self, id: CheckpointId) -> Option<bool> {
        self.0.iter().find(|(ended, _)| *ended == id).map(|(_, complete)| *complete)
    }
}

impl Core {
    pub(super) fn savepoint_requested(&mut self, request: RequestId, wish: Wish) {
        let refusal = match &self.phase {
            _ if !self.checkpointing => {
                "savepoints need a checkpoint directory, which the engine does not have"
            }
            Phase::Ended(_) => "the job has ended",
            Phase::Running if self.stops() => "the job is being stopped with a savepoint",
            Phase::Running if self.triggers.request_savepoint(request, wish) => return,
            Phase::Running => "too many requests for savepoints wait already",
            _ => "not all tasks are running",
        };
        self.actions.push(Action::Answer(request, Err(refusal.to_owned())));
    }

    /// True from the trigger of a savepoint that stops the job.
    pub(super) fn stops(&self) -> bool {
        self.stop.is_some() || self.pending.values().any(|pending| pending.kind.stop().is_some())
    }

    /// A savepoint that the job goes on after is complete. No task hears of it, and no other checkpoint ends.
    pub(super) fn savepoint_published(&mut self, pending: Pending, dir: Arc<Path>) {
        let id = pending.id;
        self.savepoints.add(id, true);
        self.triggers.savepoint_ended(self.now);
        let request = pending.request;
        self.stats.savepoints += 1;
        self.stats.latest_savepoint = Some(dir.to_path_buf());
        self.record(pending, CheckpointOutcome::Completed);
        self.actions.extend(request.map(|request| Action::Answer(request, Ok(Taken { id, dir: Some(dir) }))));
    }

    /// The savepoint that stops the job is complete; the tasks are being told.
    pub(super) fn stop_published(&mut self, id: CheckpointId, request: Option<RequestId>, dir: Arc<Path>) {
        self.savepoints.add(id, true);
        self.stats.savepoints += 1;
        self.stats.latest_savepoint = Some(dir.to_path_buf());
        self.stop = Some(StopUnderWay { request, id, dir });
    }

    /// A savepoint has failed or was given up.
    pub(super) fn savepoint_failed(&mut self, id: CheckpointId) {
        self.savepoints.add(id, false);
        if !self.keep_files {
            self.actions.push(Action::DiscardSavepoint(id));
        }
    }

    /// After the failure of a savepoint that stops the job: suspended tasks go on by themselves, but a drained job has
    /// closed its operators and can only go on from its latest checkpoint. That is no failure of the job.
    pub(super) fn resume_after(&mut self, stop: Option<StopMode>, reason: &FailReason) {
        if stop == Some(StopMode::Drain) && matches!(self.phase, Phase::Running) {
            let cause = format!("the job could not be stopped, its savepoint failed: {reason}");
            self.stats.restart_cause = Some(cause.clone());
            self.stop(Then::Restart { at: self.now, cause });
        }
    }

    /// An acknowledgement has come for a savepoint that has ended. True if it was for one.
    pub(super) fn late_for_savepoint(&mut self, id: CheckpointId) -> bool {
        let Some(complete) = self.savepoints.get(id) else { return false };
        if !complete && !self.keep_files {
            self.actions.push(Action::DiscardSavepoint(id));
        }
        true
    }

    /// The job has ended: answers whoever asked for its stop.
    pub(super) fn answer_stop(&mut self, status: &JobStatus) {
        let why = match status {
            JobStatus::Finished => {
                if let Some(StopUnderWay { request: Some(request), id, dir }) = self.stop.take() {
                    self.actions.push(Action::Answer(request, Ok(Taken { id, dir: Some(dir) })));
                }
                return;
            }
            JobStatus::Failed(cause) => format!("the job failed while it was being stopped: {cause}"),
            _ => "the job was cancelled while it was being stopped".to_owned(),
        };
        self.stop_came_to_nothing(&why);
    }

    /// The job did not stop although its savepoint is complete.
    pub(super) fn stop_came_to_nothing(&mut self, why: &str) {
        if let Some(StopUnderWay { request: Some(request), dir, .. }) = self.stop.take() {
            let message = format!(
                "the savepoint {} is complete, but the job did not stop: {why}. It continues from that savepoint",
                dir.display()
            );
            self.actions.push(Action::Answer(request, Err(message)));
        }
    }
}

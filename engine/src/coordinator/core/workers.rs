//! The core's part about workers and tasks: what they report, and what becomes of those that do not.

use super::{Core, Phase, Then};
use crate::control::Report;
use crate::coordinator::pending::FailReason;
use crate::coordinator::shared::JobStatus;

impl Core {
    pub(super) fn report(&mut self, report: Report) {
        match report {
            Report::Acknowledged(attempt, task, id, snapshot) => {
                self.acknowledged(attempt, task, id, *snapshot)
            }
            Report::Declined(attempt, task, id, message) => {
                let finalising = self.finalising == Some(id) && !broken!(FinalisingAborted);
                if self.is_running(attempt) && self.pending.contains_key(&id) && !finalising {
                    self.fail_checkpoint(id, FailReason::Declined(task, message));
                }
            }
            Report::AwaitsCommit(attempt, task) => {
                let known = self.attempt.tasks.contains(&task) && !self.attempt.finished.contains(&task);
                if self.is_running(attempt) && known {
                    self.attempt.awaiting_commit.insert(task);
                    if self.checkpointing {
                        self.triggers.awaits_commit(task);
                    }
                    self.check_finished();
                }
            }
            Report::Finished(attempt, task) => {
                if self.is_running(attempt) && self.attempt.tasks.contains(&task) {
                    self.attempt.finished.insert(task);
                    self.triggers.task_finished(task);
                    self.check_finished();
                }
            }
            Report::Failed(attempt, _, failure) => {
                if attempt == self.attempt.id {
                    let lost = if failure.fatal { ", and output may have been lost" } else { "" };
                    let cause = format!(
                        "operator {}, partition {} failed: {}{lost}",
                        failure.operator, failure.partition, failure.message
                    );
                    self.attempt_failed(cause, !failure.fatal);
                }
            }
            Report::Cancelled(attempt, worker) => {
                if attempt == self.attempt.id
                    && let Phase::Stopping { waiting, .. } = &mut self.phase
                {
                    waiting.remove(&worker);
                    self.leave_if_stopped();
                }
            }
            Report::WorkerDied(worker, message) => {
                self.worker_lost(worker, format!("worker {worker} has ended: {message}"));
            }
        }
    }

    pub(super) fn heartbeat(&mut self, worker: usize, beats: u64, polling: Option<(String, u32)>) {
        if !matches!(self.phase, Phase::Running | Phase::Stopping { .. }) {
            return;
        }
        let Some(silence) = self.heartbeats.observe(self.now, worker, beats) else { return };
        let who = match polling {
            Some((operator, partition)) => {
                format!("operator {operator}, partition {partition} has not returned")
            }
            None => "it polls no task".to_owned(),
        };
        let cause = format!(
            "worker {worker} has stood still for {:.1} s: {who}. A task that does not return can't be cancelled, so \
             the job fails without a restart",
            silence.as_secs_f64()
        );
        self.worker_lost(worker, cause);
    }

    /// A worker will never answer again; its tasks may live on.
    pub(super) fn worker_lost(&mut self, worker: usize, cause: String) {
        if !self.lost_workers.insert(worker) {
            return;
        }
        self.keep_files = true;
        match &mut self.phase {
            Phase::Created | Phase::Waiting { .. } => self.end(JobStatus::Failed(cause)),
            Phase::Deploying { then } => *then = Some(Then::Fail(cause)),
            Phase::Running | Phase::Stopping { .. } => {
                self.attempt_failed(cause, false);
                if let Phase::Stopping { waiting, .. } = &mut self.phase {
                    waiting.remove(&worker);
                    self.leave_if_stopped();
                }
            }
            Phase::Ended(_) => {}
        }
    }
}

//! The core's part about checkpoints: triggers, acknowledgements, expiry, publication and the ends of rounds.

use super::{Core, Phase};
use crate::control::{CheckpointMode, TaskCommand, TaskId, TaskSnapshot, Trigger};
use crate::coordinator::event::{Acknowledged, Action};
use crate::coordinator::files::Unused;
use crate::coordinator::pending::{FailReason, Pending, RequestId};
use crate::coordinator::stats::CheckpointOutcome;
use thalweg_storage::{AttemptId, CheckpointId};

impl Core {
    pub(super) fn modes_under_way(&self) -> Vec<CheckpointMode> {
        self.pending.values().map(|pending| pending.mode).collect()
    }

    pub(super) fn requested(&mut self, request: RequestId, mode: Option<CheckpointMode>) {
        let refusal = match &self.phase {
            _ if !self.checkpointing => "checkpoints are off: the engine has no checkpoint directory",
            Phase::Running if self.triggers.request(request, mode) => return,
            Phase::Running => "too many requests for checkpoints wait already",
            Phase::Ended(_) => "the job has ended",
            _ => "not all tasks are running",
        };
        self.actions.push(Action::Answer(request, Err(refusal.to_owned())));
    }

    pub(super) fn expire(&mut self) {
        let timeout = self.config.checkpoint.timeout;
        let tasks = self.attempt.tasks.len();
        let late = |p: &&Pending| self.finalising != Some(p.id) && p.triggered_at.after(timeout) <= self.now;
        let expired: Vec<_> = self.pending.values().filter(late).map(|p| (p.id, p.missing())).collect();
        for (id, missing) in expired {
            // The first failure may end the attempt, and all its checkpoints with it.
            if self.pending.contains_key(&id) {
                self.fail_checkpoint(id, FailReason::Expired { missing, tasks });
            }
        }
    }

    pub(super) fn begin(&mut self) {
        if let Some(start) = self.triggers.next(self.now, &self.modes_under_way()) {
            self.triggers.started(self.now, start);
            self.beginning = Some((self.attempt.id, start));
            self.actions.push(Action::Begin);
        }
    }

    pub(super) fn begun(&mut self, id: CheckpointId, unix_ms: u64) {
        let Some((attempt, start)) = self.beginning.take() else { return };
        if !self.is_running(attempt) {
            self.actions
                .extend(start.request().map(|r| Action::Answer(r, Err("not all tasks are running".into()))));
            self.discard((id, Vec::new()));
            return;
        }
        let tasks = self.attempt.tasks.clone();
        let pending = Pending::new(id, start.mode, self.now, unix_ms, start.request(), tasks);
        self.pending.insert(id, pending);
        self.triggers.triggered(id);
        self.files.triggered(id);
        self.stats.triggered += 1;
        self.stats_version += 1;
        let trigger = Trigger { checkpoint: id, mode: start.mode, triggered_at: self.now };
        self.actions.push(Action::Broadcast(attempt, TaskCommand::Trigger(trigger)));
    }

    pub(super) fn begin_failed(&mut self, message: String) {
        let Some((attempt, start)) = self.beginning.take() else { return };
        let reason = FailReason::Begin(message);
        self.actions.extend(
            start.request().map(|r| Action::Answer(r, Err(format!("the checkpoint failed: {reason}")))),
        );
        self.stats.failed += 1;
        self.stats_version += 1;
        if self.is_running(attempt) {
            self.triggers.failed(self.now, None);
            self.actions.push(Action::Note(format!("a checkpoint failed: {reason}")));
            self.count_failure(&reason);
        }
    }

    pub(super) fn acknowledged(
        &mut self,
        attempt: AttemptId,
        task: TaskId,
        id: CheckpointId,
        snapshot: TaskSnapshot,
    ) {
        let current = attempt == self.attempt.id;
        match self.pending.get_mut(&id) {
            Some(pending) if current => {
                if !pending.is_waiting_for(task) {
                    return;
                }
                if !broken!(AcknowledgementHoldsNothing) {
                    self.files.hold(id, &snapshot);
                }
                pending.acknowledge(task, snapshot);
                self.finalise_next();
            }
            _ => {
                let attempt_over = !current || !matches!(self.phase, Phase::Running | Phase::Stopping { .. });
                if let Some(unused) = self.files.late(id, &snapshot, attempt_over) {
                    self.discard(unused);
                }
            }
        }
    }

    /// Publishes the oldest fully acknowledged checkpoint, unless one is being published.
    pub(super) fn finalise_next(&mut self) {
        if self.finalising.is_some() || !matches!(self.phase, Phase::Running) {
            return;
        }
        let Some(pending) = self.pending.values_mut().find(|pending| pending.is_acknowledged()) else {
            return;
        };
        self.finalising = Some(pending.id);
        self.actions.push(Action::Publish(Acknowledged {
            id: pending.id,
            attempt: self.attempt.id,
            triggered_unix_ms: pending.triggered_unix_ms,
            snapshots: pending.take_snapshots(),
        }));
    }

    pub(super) fn published(&mut self, id: CheckpointId) {
        if self.finalising != Some(id) {
            return;
        }
        self.finalising = None;
        let Some(pending) = self.pending.remove(&id) else { return };
        let older: Vec<CheckpointId> = self.pending.range(..id).map(|(older, _)| *older).collect();
        for older in older {
            self.tell(TaskCommand::Abort(older));
            self.end_failed(older, FailReason::Subsumed(id));
        }
        self.tell(TaskCommand::Complete(id));
        self.failed_in_a_row = 0;
        self.triggers.completed(self.now, id);
        self.actions.extend(pending.request.map(|request| Action::Answer(request, Ok(id))));
        self.stats.completed += 1;
        self.stats.latest = Some(id);
        self.record(pending, CheckpointOutcome::Completed);
        let settled = self.files.published(id);
        self.discard_all(settled);
        self.finalise_next();
        self.leave_if_stopped();
    }

    pub(super) fn publish_failed(&mut self, id: CheckpointId, message: String, outcome_unknown: bool) {
        if self.finalising != Some(id) {
            return;
        }
        self.finalising = None;
        if outcome_unknown {
            self.keep_files = true;
            let cause = format!(
                "whether checkpoint {id} is complete is unknown: {message}. Nothing has been deleted; start the job \
                 again to continue from what the disk holds"
            );
            self.attempt_failed(cause, false);
            self.end_failed(id, FailReason::Publish(message));
        } else {
            self.fail_checkpoint(id, FailReason::Publish(message));
        }
        self.finalise_next();
        self.leave_if_stopped();
    }

    /// Ends one checkpoint of the running attempt as failed, tells its tasks, and counts it.
    pub(super) fn fail_checkpoint(&mut self, id: CheckpointId, reason: FailReason) {
        self.tell(TaskCommand::Abort(id));
        self.triggers.failed(self.now, Some(id));
        self.actions.push(Action::Note(format!("checkpoint {id} failed: {reason}")));
        self.end_failed(id, reason.clone());
        self.count_failure(&reason);
    }

    pub(super) fn count_failure(&mut self, reason: &FailReason) {
        if !reason.counts() || !matches!(self.phase, Phase::Running) {
            return;
        }
        self.failed_in_a_row = self.failed_in_a_row.saturating_add(1);
        let tolerable = self.config.checkpoint.tolerable_failures;
        if self.failed_in_a_row > tolerable {
            let failed = self.failed_in_a_row;
            let cause = format!(
                "checkpoints failed {failed} times in a row, {tolerable} are tolerable; the last: {reason}"
            );
            self.attempt_failed(cause, true);
        }
    }

    pub(super) fn tell(&mut self, command: TaskCommand) {
        if matches!(self.phase, Phase::Running) {
            self.actions.push(Action::Broadcast(self.attempt.id, command));
        }
    }

    pub(super) fn discard_all(&mut self, unused: Vec<Unused>) {
        for unused in unused {
            self.discard(unused);
        }
    }

    pub(super) fn discard(&mut self, (id, files): Unused) {
        if !self.keep_files {
            self.actions.push(Action::Discard { id, files });
        }
    }

    /// Takes a checkpoint that has failed out of everything.
    pub(super) fn end_failed(&mut self, id: CheckpointId, reason: FailReason) {
        let Some(pending) = self.pending.remove(&id) else { return };
        let unused = self.files.failed(id);
        self.discard(unused);
        if let Some(request) = pending.request {
            let answer = match reason {
                // The newer one holds all that was asked for.
                FailReason::Subsumed(newer) => Ok(newer),
                _ => Err(format!("checkpoint {id} failed: {reason}")),
            };
            self.actions.push(Action::Answer(request, answer));
        }
        self.stats.failed += 1;
        self.record(pending, CheckpointOutcome::Failed(reason.to_string()));
    }

    fn record(&mut self, pending: Pending, outcome: CheckpointOutcome) {
        let duration = self.now.since(pending.triggered_at);
        self.stats.record(pending.into_record(outcome, duration));
        self.stats_version += 1;
    }
}

//! The core's part about checkpoints: triggers, acknowledgements, expiry, publication and the ends of rounds.

use super::{Core, Phase};
use crate::control::{CheckpointMode, SnapshotKind, TaskCommand, TaskId, TaskSnapshot, Trigger};
use crate::coordinator::event::{Acknowledged, Action, Taken};
use crate::coordinator::files::Unused;
use crate::coordinator::pending::{FailReason, Pending, RequestId, UnderWay};
use crate::coordinator::stats::CheckpointOutcome;
use std::path::Path;
use std::sync::Arc;
use thalweg_storage::{AttemptId, CheckpointId};

impl Core {
    pub(super) fn under_way(&self) -> Vec<UnderWay> {
        let stop = self.stop.as_ref().map(|_| UnderWay {
            mode: CheckpointMode::Aligned,
            savepoint: true,
            stops: true,
        });
        self.pending.values().map(Pending::under_way).chain(stop).collect()
    }

    pub(super) fn requested(&mut self, request: RequestId, mode: Option<CheckpointMode>) {
        let refusal = match &self.phase {
            _ if !self.checkpointing => "checkpoints are off: the engine has no checkpoint directory",
            Phase::Running if self.stops() => "the job is being stopped with a savepoint",
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
        let all = broken!(ExpiryEndsAll) && self.pending.values().any(|p| late(&p));
        let expired = self.pending.values().filter(|p| late(p) || all);
        let expired: Vec<_> = expired.map(|p| (p.id, p.missing())).collect();
        for (id, missing) in expired {
            // The first failure may end the attempt, and all its checkpoints with it.
            if self.pending.contains_key(&id) {
                self.fail_checkpoint(id, FailReason::Expired { missing, tasks });
            }
        }
    }

    pub(super) fn begin(&mut self) {
        if let Some(start) = self.triggers.next(self.now, &self.under_way()) {
            self.triggers.started(self.now, &start);
            let savepoint_root = start.savepoint.as_ref().map(|wish| Arc::clone(&wish.root));
            self.beginning = Some((self.attempt.id, start));
            self.actions.push(Action::Begin { savepoint_root });
        }
    }

    pub(super) fn begun(&mut self, id: CheckpointId, unix_ms: u64, dir: Option<Arc<Path>>) {
        let Some((attempt, start)) = self.beginning.take() else { return };
        if !self.is_running(attempt) {
            self.actions
                .extend(start.request().map(|r| Action::Answer(r, Err("not all tasks are running".into()))));
            match dir {
                Some(_) => self.savepoint_failed(id),
                None => self.discard((id, Vec::new())),
            }
            return;
        }
        let tasks = self.attempt.tasks.clone();
        let kind = match dir.zip(start.savepoint.as_ref()) {
            Some((dir, wish)) => SnapshotKind::Savepoint { dir, stop: wish.stop },
            None => SnapshotKind::Checkpoint,
        };
        let pending = Pending::new(id, start.mode, kind.clone(), self.now, unix_ms, start.request(), tasks);
        if !pending.stands_alone() {
            self.triggers.triggered(id);
        }
        if !kind.is_savepoint() {
            self.files.triggered(id);
        }
        self.pending.insert(id, pending);
        self.stats.triggered += 1;
        self.stats_version += 1;
        let trigger = Trigger { checkpoint: id, mode: start.mode, kind, triggered_at: self.now };
        self.actions.push(Action::Broadcast(attempt, TaskCommand::Trigger(trigger)));
    }

    pub(super) fn begin_failed(&mut self, message: String) {
        let Some((attempt, start)) = self.beginning.take() else { return };
        let reason = FailReason::Begin(message);
        let what = if start.savepoint.is_some() { "savepoint" } else { "checkpoint" };
        self.actions
            .extend(start.request().map(|r| Action::Answer(r, Err(format!("the {what} failed: {reason}")))));
        self.stats.failed += 1;
        self.stats_version += 1;
        if self.is_running(attempt) {
            self.triggers.failed(self.now, None);
            self.actions.push(Action::Note(format!("a {what} failed: {reason}")));
            if start.savepoint.is_none() {
                self.count_failure(&reason);
            }
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
                let mut task = task;
                if !pending.is_waiting_for(task) {
                    match pending.any_missing().filter(|_| broken!(DuplicatesCount)) {
                        Some(other) => task = other,
                        None => return,
                    }
                }
                if !pending.kind.is_savepoint() && !broken!(AcknowledgementHoldsNothing) {
                    self.files.hold(id, &snapshot);
                }
                pending.acknowledge(task, snapshot);
                self.finalise_next();
            }
            _ => {
                if self.late_for_savepoint(id) || broken!(LateFilesStay) {
                    return;
                }
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
            kind: pending.kind.clone(),
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
        match pending.kind.clone() {
            SnapshotKind::Savepoint { dir, stop: None } => {
                if broken!(SavepointsNotified) {
                    self.tell(TaskCommand::Complete(id));
                }
                if broken!(SavepointsSubsume) {
                    self.subsume(id);
                }
                self.savepoint_published(pending, dir);
                self.finalise_next();
                self.leave_if_stopped();
                return;
            }
            SnapshotKind::Savepoint { dir, stop: Some(_) } => self.stop_published(id, pending.request, dir),
            SnapshotKind::Checkpoint => {}
        }
        if !broken!(NothingSubsumed) {
            self.subsume(id);
        }
        self.tell(TaskCommand::Complete(id));
        if !broken!(SuccessResetsNothing) {
            self.failed_in_a_row = 0;
        }
        self.triggers.completed(self.now, id);
        // Whoever asked for a stop is answered once the job has stopped.
        let request = pending.request.filter(|_| !pending.kind.is_savepoint());
        self.actions.extend(request.map(|request| Action::Answer(request, Ok(Taken { id, dir: None }))));
        self.stats.completed += 1;
        self.stats.latest = Some(id);
        self.record(pending, CheckpointOutcome::Completed);
        let settled = self.files.published(id);
        self.discard_all(settled);
        self.finalise_next();
        self.leave_if_stopped();
    }

    /// Ends the checkpoints under way that are older than `id`, which holds all that was asked for.
    fn subsume(&mut self, id: CheckpointId) {
        let ends = |older: &Pending| !older.stands_alone() || broken!(SavepointsSubsumed);
        let older = self.pending.range(..id).filter(|(_, older)| ends(older));
        let older: Vec<CheckpointId> = older.map(|(older, _)| *older).collect();
        for older in older {
            self.tell(TaskCommand::Abort(older, Some(id)));
            let reason = FailReason::Subsumed(id);
            self.end_failed(older, &reason);
            self.count_failure(&reason);
        }
    }

    pub(super) fn publish_failed(&mut self, id: CheckpointId, message: String, outcome_unknown: bool) {
        if self.finalising != Some(id) {
            return;
        }
        self.finalising = None;
        if outcome_unknown {
            self.keep_files = !broken!(UnknownOutcomeDeletes);
            let cause = format!(
                "whether checkpoint {id} is complete is unknown: {message}. Nothing has been deleted; start the job \
                 again to continue from what the disk holds"
            );
            // First of all, so that whoever asked for it hears why.
            self.end_failed(id, &FailReason::Publish(message));
            self.attempt_failed(cause, false);
        } else {
            self.fail_checkpoint(id, FailReason::Publish(message));
        }
        self.finalise_next();
        self.leave_if_stopped();
    }

    /// Ends one checkpoint of the running attempt as failed, tells its tasks, and counts it.
    pub(super) fn fail_checkpoint(&mut self, id: CheckpointId, reason: FailReason) {
        let Some(pending) = self.pending.get(&id) else { return };
        let (savepoint, stop, alone) =
            (pending.kind.is_savepoint(), pending.kind.stop(), pending.stands_alone());
        let latest = self.stats.latest.filter(|_| !broken!(AbortsCarryNothing));
        self.tell(TaskCommand::Abort(id, latest));
        match alone {
            true => self.triggers.savepoint_ended(self.now),
            false => self.triggers.failed(self.now, Some(id)),
        }
        let what = if savepoint { "savepoint" } else { "checkpoint" };
        self.actions.push(Action::Note(format!("{what} {id} failed: {reason}")));
        self.end_failed(id, &reason);
        self.resume_after(stop, &reason);
        if !savepoint
            || broken!(EverythingCounts)
            || (stop.is_none() && reason.counts_for_savepoints() && self.stats.latest < Some(id))
        {
            self.count_failure(&reason);
        }
    }

    pub(super) fn count_failure(&mut self, reason: &FailReason) {
        if !reason.counts() || !matches!(self.phase, Phase::Running) || broken!(FailuresUncounted) {
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
            if broken!(EndsToldTwice) {
                self.actions.push(Action::Broadcast(self.attempt.id, command.clone()));
            }
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
    pub(super) fn end_failed(&mut self, id: CheckpointId, reason: &FailReason) {
        let Some(pending) = self.pending.remove(&id) else { return };
        if pending.kind.is_savepoint() {
            self.savepoint_failed(id);
        } else {
            let unused = self.files.failed(id);
            self.discard(unused);
        }
        if let Some(request) = pending.request {
            let what = if pending.kind.is_savepoint() { "savepoint" } else { "checkpoint" };
            let answer = match reason {
                // The newer one holds all that was asked for.
                FailReason::Subsumed(newer) => Ok(Taken { id: *newer, dir: None }),
                _ => Err(format!("{what} {id} failed: {reason}")),
            };
            self.actions.push(Action::Answer(request, answer));
        }
        self.stats.failed += 1;
        self.record(pending, CheckpointOutcome::Failed(reason.to_string()));
    }

    pub(super) fn record(&mut self, pending: Pending, outcome: CheckpointOutcome) {
        let duration = self.now.since(pending.triggered_at);
        let record = pending.into_record(outcome, duration);
        if record.outcome == CheckpointOutcome::Completed {
            self.histograms.add(&record);
            self.stats.summary = self.histograms.summary();
        }
        self.stats.record(record);
        self.stats_version += 1;
    }
}

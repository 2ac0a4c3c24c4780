//! A task's part in checkpoints: when its snapshot may be taken, the snapshot itself, and what is written of it afterwards.
//!
//! Always true: nothing is announced, taken or encoded for a snapshot unless all of it is, in one step.

use super::{BACKGROUND_NANOS, OperatorTask, Phase, Stopping, TaskParts};
use crate::barrier::Ready;
use crate::clock::Nanos;
use crate::control::{Report, SnapshotKind, StopMode, Trigger};
use crate::operator::{ChainSnapshot, Failure, Flow, FlushPolicy};
use crate::ring::Mark;
use crate::task::body::Body;
use crate::task::part::{ChainTables, Part, Taken};
use std::time::Duration;

/// In-flight records that one poll captures at most.
const CAPTURE_RECORDS: usize = 4096;

impl<B: Body> OperatorTask<B> {
    /// Takes every snapshot that may be taken now. Returns whether one was.
    pub(super) fn snapshot_when_ready(&mut self, now: Nanos) -> Result<bool, Failure> {
        let mut taken = false;
        self.settling = false;
        self.savepoint_waits = false;
        self.snapshot_waits = false;
        while let Some(ready) = self.parts.gate.ready() {
            // The trigger reaches every task; it carries what the announcements of other tasks do not.
            let trigger = self.triggers.iter().find(|t| t.checkpoint == ready.checkpoint);
            let Some(trigger) = trigger.cloned() else { break };
            let finished = matches!(self.phase, Phase::Committing | Phase::Finished);
            if !finished {
                self.settling = !self.settle(now)?;
                let can_announce = self.can_announce() || broken!(AnnouncesIntoFullRing);
                if self.settling || !(self.is_sent(&trigger.kind) && can_announce) {
                    break;
                }
            }
            if self.must_not_overlap() {
                break;
            }
            self.snapshot(trigger, ready, finished, now)?;
            taken = true;
        }
        Ok(taken)
    }

    /// Sends what waits on edges that barriers do not overtake; true when nothing does any more.
    ///
    /// What the outbox of a broadcast edge holds for one consumer and no longer for another could not be given to other numbers
    /// of consumers, and what that of a forward edge holds would lose its place in front of the records that follow. So in a
    /// checkpoint such edges hold nothing in flight.
    fn settle(&mut self, now: Nanos) -> Result<bool, Failure> {
        let stage = self.parts.body.stage();
        let mut aligned_only = false;
        stage.outputs(&mut |output| aligned_only |= output.is_aligned_only());
        if !aligned_only {
            return Ok(true);
        }
        stage.finish_record()?;
        if self.phase == Phase::Closing {
            stage.finish_input()?;
            self.phase = Phase::Draining;
        }
        let policy = FlushPolicy { timeout: Duration::ZERO, force: true };
        stage.outputs(&mut |output| _ = output.flush(now, policy));
        let mut settled = true;
        stage.outputs(&mut |output| settled &= output.is_settled());
        Ok(settled)
    }

    /// True when nothing is half done or unsent that a savepoint would have to hold. Asked while it is all that is left to do
    /// before the snapshot.
    fn is_sent(&mut self, kind: &SnapshotKind) -> bool {
        match kind {
            SnapshotKind::Checkpoint => true,
            // The input has ended here too, or soon will; then everything has been sent.
            SnapshotKind::Savepoint { stop: Some(StopMode::Drain), .. } if !broken!(DrainNotAwaited) => false,
            SnapshotKind::Savepoint { .. } => {
                let mut sent = !self.blocked && self.phase != Phase::Closing;
                self.parts.body.stage().outputs(&mut |output| sent &= output.is_drained());
                // Closing goes on: it comes to its end by itself.
                self.savepoint_waits = !sent && self.phase == Phase::Running;
                sent
            }
        }
    }

    /// True while an earlier snapshot of a log is being written. The next would finish that first, at one go, and so wait for
    /// pages that have to be read from disk, which would hold up the worker.
    fn must_not_overlap(&mut self) -> bool {
        let unfinished = self.in_progress.iter().any(|part| !part.is_serialised());
        let stage = self.parts.body.stage();
        let tables = stage.table_count();
        self.snapshot_waits =
            unfinished && (0..tables).any(|index| stage.table(index).is_some_and(|t| t.is_log_structured()));
        self.snapshot_waits
    }

    /// True while the task must not take anything in.
    pub(super) fn is_held(&self) -> bool {
        self.settling
            || self.savepoint_waits
            || matches!(self.stopping, Stopping::Suspended(_) | Stopping::Ending)
    }

    /// The atomic step. No record, timer or callback comes in between.
    fn snapshot(
        &mut self,
        trigger: Trigger,
        ready: Ready,
        finished: bool,
        now: Nanos,
    ) -> Result<(), Failure> {
        crash_point!("barrier.before_snapshot");
        let checkpoint = ready.checkpoint;
        let began = self.parts.clock.now();
        let stage = self.parts.body.stage();
        stage.finish_record()?;
        if self.phase == Phase::Closing {
            // A chain that is restored is either open or closed: there is no telling what half of its last records is.
            stage.finish_input()?;
            self.phase = Phase::Draining;
        }
        let closed = self.phase != Phase::Running;
        self.blocked = stage.resume()? == Flow::Blocked;
        if !finished {
            let mark = Mark::Barrier { checkpoint, mode: ready.mode };
            stage.outputs(&mut |output| output.announce(mark));
        }
        crash_point!("barrier.after_announcement");
        let mut chain = ChainSnapshot { checkpoint, ended: closed, operators: Vec::new() };
        self.parts.body.snapshot(&mut chain)?;
        crash_point!("barrier.after_operator_state");
        let mut outbox = Vec::new();
        let stage = self.parts.body.stage();
        if !broken!(OutboxLeftOut) {
            stage.outputs(&mut |output| outbox.append(&mut output.unsent()));
        }
        let keyed = stage.table_count() > 0;
        if keyed {
            let TaskParts { body, keyed, files, attempt, .. } = &mut self.parts;
            let path = Part::segment_path(files, &trigger);
            let tables = &mut ChainTables::of(body.stage());
            match trigger.kind {
                SnapshotKind::Checkpoint => keyed.begin(checkpoint, *attempt, path, tables),
                SnapshotKind::Savepoint { .. } => keyed.begin_savepoint(checkpoint, *attempt, path, tables),
            }
        }
        if trigger.kind.is_savepoint() {
            assert!(outbox.is_empty(), "a savepoint is taken once everything is sent");
        }
        if trigger.kind.stop() == Some(StopMode::Suspend) && !finished {
            self.stopping = Stopping::Suspended(checkpoint);
            crash_point!("stop.suspended");
        }
        let heard = self.aligning.take().filter(|(id, _)| *id == checkpoint).map_or(now, |(_, at)| at);
        self.parts.gate.snapshotted(checkpoint);
        self.parts.body.capture_current(&mut self.parts.gate);
        self.timers.retain(|(_, id)| *id != checkpoint);
        let sync_nanos = self.parts.clock.now().since(began).as_nanos() as u64;
        let taken = Taken { heard, at: now, sync_nanos, unaligned: ready.unaligned(), finished: closed };
        self.in_progress.push_back(Part::new(trigger, taken, chain.operators, outbox, keyed));
        crash_point!("barrier.after_snapshot");
        Ok(())
    }

    /// Notes since when the task has known of the round that it aligns for.
    pub(super) fn note_alignment(&mut self, now: Nanos) {
        let aligning = self.parts.gate.aligning();
        if aligning != self.aligning.map(|(checkpoint, _)| checkpoint) {
            self.aligning = aligning.map(|checkpoint| (checkpoint, now));
        }
    }

    pub(super) fn can_announce(&mut self) -> bool {
        let mut can = true;
        self.parts.body.stage().outputs(&mut |output| can &= output.can_announce());
        can
    }

    /// Captures, serialises and writes for a while; acknowledges what is done. Returns whether there is more to do.
    pub(super) fn advance_checkpoints(&mut self, now: Nanos) -> Result<bool, Failure> {
        if self.in_progress.is_empty() {
            return Ok(false);
        }
        let TaskParts { gate, body, keyed, files, clock, reports, attempt, id, partition, .. } =
            &mut self.parts;
        let began = clock.now();
        let mut more = body.capture_slice(gate, CAPTURE_RECORDS) >= CAPTURE_RECORDS;
        let mut index = 0;
        // Older parts are acknowledged first; younger ones move on meanwhile.
        while index < self.in_progress.len() {
            let part = &mut self.in_progress[index];
            let mut outcome = Ok(());
            loop {
                match part.advance(files, keyed, body.stage()) {
                    Ok(false) => break,
                    Ok(true) if clock.now().since(began).as_nanos() as u64 >= BACKGROUND_NANOS => {
                        more = true;
                        break;
                    }
                    Ok(true) => {}
                    Err(error) => {
                        outcome = Err(error);
                        break;
                    }
                }
            }
            let checkpoint = part.trigger.checkpoint;
            let outcome = match outcome {
                Ok(()) if index > 0 => Ok(None),
                Ok(()) => part.try_acknowledge(files, keyed, gate, body, *partition, now)?,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(None) => {
                    index += 1;
                    continue;
                }
                Ok(Some(snapshot)) => {
                    crash_point!("ack.before_report");
                    gate.acknowledged(checkpoint);
                    if part.trigger.kind.is_savepoint() {
                        // Nothing builds on it, and nobody says what becomes of it.
                        keyed.completed(checkpoint, &mut ChainTables::of(body.stage()));
                    }
                    reports.report(Report::Acknowledged(*attempt, *id, checkpoint, Box::new(snapshot)));
                    crash_point!("ack.after_report");
                }
                Err(error) => reports.report(Report::Declined(*attempt, *id, checkpoint, error)),
            }
            self.in_progress.remove(index);
            self.triggers.retain(|t| t.checkpoint != checkpoint);
        }
        Ok(more)
    }
}

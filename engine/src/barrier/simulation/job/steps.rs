//! The steps of tasks and coordinator: each changes the job as one atomic operation of the engine would.

use super::{Command, DriverFault, Held, Job, Pending, Reading, Record, Snapshot, Violation};
use super::{Outbox, TIMEOUT};
use crate::barrier::{Announcement, CheckpointMode, Mark};
use thalweg_storage::CheckpointId;

impl Job<'_> {
    pub(super) fn command(&mut self, task: usize) {
        let state = &mut self.tasks[task];
        match state.mailbox.pop_front().expect("enabled") {
            Command::Trigger(checkpoint, mode) => state.gate.trigger(checkpoint, mode),
            Command::Abort(checkpoint) => {
                state.gate.abort(checkpoint);
                assert!(state.gate.is_aborted(checkpoint) || self.gate_fault.is_some());
            }
        }
        let gate = &state.gate;
        state.held.retain(|held| !gate.is_aborted(held.checkpoint));
    }

    pub(super) fn drain(&mut self, channel: usize) {
        let (task, input) = self.input(channel);
        let state = &mut self.channels[channel];
        let announcement = state.side.pop_front().expect("enabled");
        if let Reading::Draining(look) = &mut state.reading {
            look.announced(announcement.cut);
        }
        self.tasks[task].gate.announce(input, announcement);
    }

    pub(super) fn process(&mut self, channel: usize) -> Result<(), Violation> {
        let (task, input) = self.input(channel);
        let next = self.tasks[task].gate.capture(input).map(|capture| capture.next);
        let uncaptured = next.is_some_and(|next| next <= self.channels[channel].consumed);
        if uncaptured && !self.is(DriverFault::ConsumesUncaptured) {
            self.capture(channel)?;
        }
        let state = &mut self.channels[channel];
        if state.current.is_none() {
            state.current = Some((state.queue.pop_front().expect("enabled"), 0));
            state.restored = state.restored.saturating_sub(1);
        }
        let (batch, done) = state.current.as_mut().expect("just taken");
        let record = batch[*done];
        *done += 1;
        if *done == batch.len() {
            state.current = None;
            state.consumed += 1;
            self.tasks[task].gate.consumed(input, state.consumed);
        }
        let next = &mut self.tasks[task].next[record.lane];
        if record.number > *next {
            return Err(format!(
                "task {task} lost records {next}..{} of lane {}",
                record.number, record.lane
            ));
        }
        if record.number < *next && self.plan.mode != CheckpointMode::AtLeastOnce {
            return Err(format!("task {task} sees record {} of lane {} again", record.number, record.lane));
        }
        *next = (*next).max(record.number + 1);
        self.emit(task, Some(record.lane), record.number);
        Ok(())
    }

    /// Captures the batch at the cursor, or what is left of it.
    pub(super) fn capture(&mut self, channel: usize) -> Result<(), Violation> {
        let (task, input) = self.input(channel);
        let capture = self.tasks[task].gate.capture(input).expect("enabled");
        let state = &self.channels[channel];
        let records = match &state.current {
            Some((batch, done)) if capture.next == state.consumed => {
                self.outcome.partial_batches += 1;
                match self.fault {
                    Some(DriverFault::PartialBatchLeftOut) => vec![],
                    Some(DriverFault::PartialBatchWhole) => batch.clone(),
                    _ => batch[*done..].to_vec(),
                }
            }
            _ => {
                let ahead = capture.next.checked_sub(state.taken());
                let batch = ahead.and_then(|ahead| state.queue.get(ahead as usize));
                batch.ok_or_else(|| format!("batch {} cannot be captured any more", capture.next))?.clone()
            }
        };
        let held = self.tasks[task].held.iter_mut().find(|held| held.checkpoint == capture.checkpoint);
        held.ok_or("a capture is open for a round that is not held")?.snapshot.captures[input]
            .extend(records);
        self.tasks[task].gate.captured(input, capture.next + 1);
        Ok(())
    }

    pub(super) fn emit(&mut self, task: usize, lane: Option<usize>, number: u32) {
        let plan = self.plan;
        for (output, lane, number) in plan.emits(task, lane, number) {
            let outbox = &mut self.tasks[task].outboxes[output];
            outbox.open.push(Record { lane, number });
            if outbox.open.len() == plan.batch_records {
                outbox.sealed.push_back(std::mem::take(&mut outbox.open));
            }
        }
    }

    pub(super) fn seal(&mut self, channel: usize) {
        let (task, output) = self.output(channel);
        let outbox = &mut self.tasks[task].outboxes[output];
        outbox.sealed.push_back(std::mem::take(&mut outbox.open));
    }

    pub(super) fn snapshot(&mut self, task: usize) {
        let plan = &self.plan.tasks[task];
        let ready = self.tasks[task].gate.ready().expect("enabled");
        if self.tasks[task].finished {
            self.outcome.finished_snapshots += 1;
        } else {
            for &channel in &plan.outputs {
                let announcement = ready.announcement(self.channels[channel].pushed);
                self.cuts.insert((ready.checkpoint, channel), announcement.cut);
                if self.is(DriverFault::AnnouncesLate) {
                    self.tasks[task].late.push((channel, announcement));
                } else {
                    self.channels[channel].side.push_back(announcement);
                }
            }
        }
        let switched =
            ready.unaligned() && self.pending.get(&ready.checkpoint).is_some_and(|p| p.mode == TIMEOUT);
        self.outcome.switched += usize::from(switched);
        let left_out = self.is(DriverFault::OutboxLeftOut);
        let position = |&channel: &usize| {
            let state = &self.channels[channel];
            (state.consumed, state.current.as_ref().map_or(0, |(_, done)| *done))
        };
        let from = plan.inputs.iter().map(position).collect();
        let state = &mut self.tasks[task];
        let waiting = |outbox: &Outbox| match left_out {
            true => vec![],
            false => outbox.sealed.iter().flatten().chain(&outbox.open).copied().collect(),
        };
        let snapshot = Snapshot {
            position: state.position,
            next: state.next.clone(),
            finished: state.finished,
            outboxes: state.outboxes.iter().map(waiting).collect(),
            captures: vec![vec![]; plan.inputs.len()],
        };
        state.held.push_back(Held { checkpoint: ready.checkpoint, mode: ready.mode, snapshot, from });
        state.gate.snapshotted(ready.checkpoint);
        // The gate knows when an unaligned round proves an older one dead.
        let gate = &state.gate;
        state.held.retain(|held| !gate.is_aborted(held.checkpoint));
        // A batch in progress is captured before its next record, here at the latest moment or the earliest.
        for &channel in &plan.inputs {
            let (_, input) = self.input(channel);
            let open = self.tasks[task]
                .gate
                .capture(input)
                .is_some_and(|capture| capture.bound != Some(capture.next));
            if open && self.channels[channel].current.is_some() && self.rng.chance(50) {
                self.capture(channel).expect("the batch in progress is there");
            }
        }
    }

    pub(super) fn acknowledge(&mut self, task: usize) -> Result<(), Violation> {
        let held = self.tasks[task].held.pop_front().expect("enabled");
        self.tasks[task].gate.acknowledged(held.checkpoint);
        let mut captured = 0;
        for (input, &channel) in self.plan.tasks[task].inputs.iter().enumerate() {
            let got = &held.snapshot.captures[input];
            captured += got.len();
            let expected = self.channel_state(&held, input, channel);
            if *got != expected && self.pending.contains_key(&held.checkpoint) {
                return Err(format!(
                    "{:?} checkpoint {} captured {got:?} of channel {channel}, must be {expected:?}",
                    held.mode, held.checkpoint
                ));
            }
        }
        self.outcome.captured_records += captured;
        let Some(pending) = self.pending.get_mut(&held.checkpoint) else { return Ok(()) };
        pending.acknowledged[task] = Some(held.snapshot);
        if pending.acknowledged.iter().all(Option::is_some) {
            return self.complete(held.checkpoint);
        }
        Ok(())
    }

    pub(super) fn announce_end(&mut self, task: usize) {
        for &channel in &self.plan.tasks[task].outputs {
            let cut = self.channels[channel].pushed;
            self.channels[channel].side.push_back(Announcement { mark: Mark::EndOfStream, cut });
        }
        self.tasks[task].gate.finish();
    }

    pub(super) fn trigger(&mut self) {
        self.triggers -= 1;
        self.newest += 1;
        let checkpoint = CheckpointId(self.newest);
        let savepoint = self.rng.chance(self.plan.savepoint_percent);
        let mode = if savepoint { CheckpointMode::Aligned } else { self.plan.mode };
        self.pending.insert(checkpoint, Pending { mode, acknowledged: vec![None; self.tasks.len()] });
        self.tasks.iter_mut().for_each(|task| task.mailbox.push_back(Command::Trigger(checkpoint, mode)));
    }
}

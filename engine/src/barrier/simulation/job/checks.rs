//! What is checked: channel state, consistent cuts, and that nothing is left when nothing can move.

use super::{Held, Job, Record, Snapshot, Violation};
use crate::barrier::{BarrierMode, ChannelKind, CheckpointMode};
use thalweg_storage::CheckpointId;

impl Job<'_> {
    /// What must be captured of a channel: from the consumer's position at its snapshot to the cut.
    pub(super) fn channel_state(&self, held: &Held, input: usize, channel: usize) -> Vec<Record> {
        let captures = held.mode == BarrierMode::Unaligned && !held.snapshot.finished;
        if !captures || self.plan.channels[channel].kind == ChannelKind::AlignedOnly {
            return vec![];
        }
        let state = &self.channels[channel];
        let cut = self.cuts.get(&(held.checkpoint, channel)).copied().unwrap_or(state.pushed);
        let (position, done) = held.from[input];
        let batches = state.log.get(position as usize..cut as usize).unwrap_or_default();
        batches.iter().flatten().skip(done).copied().collect()
    }

    pub(super) fn complete(&mut self, checkpoint: CheckpointId) -> Result<(), Violation> {
        if let Some((older, _)) = self.pending.first_key_value().filter(|(id, _)| **id < checkpoint) {
            return Err(format!("checkpoint {checkpoint} completed before {older}"));
        }
        let pending = self.pending.remove(&checkpoint).expect("pending");
        let mode = pending.mode;
        let snapshots: Vec<Snapshot> = pending.acknowledged.into_iter().flatten().collect();
        self.check_consistent(checkpoint, &snapshots)?;
        self.completed = Some(snapshots);
        self.outcome.completed += 1;
        self.outcome.savepoints += usize::from(mode == CheckpointMode::Aligned);
        Ok(())
    }

    /// Consumer's state, then channel state, then the producer's outbox: without gap or overlap, per lane.
    pub(super) fn check_consistent(
        &self,
        checkpoint: CheckpointId,
        snapshots: &[Snapshot],
    ) -> Result<(), Violation> {
        // After a restore the producer may go on; nobody would read that.
        let mut channels = self.plan.channels.iter();
        if let Some(channel) = channels.find(|c| snapshots[c.to].finished && !snapshots[c.from].finished) {
            return Err(format!(
                "checkpoint {checkpoint} says that task {} has finished and its producer {} has not",
                channel.to, channel.from
            ));
        }
        for (lane, plan) in self.plan.lanes.iter().enumerate() {
            let (from, to) = (self.plan.channels[plan.channel].from, self.plan.channels[plan.channel].to);
            let emitted = self.plan.emitted(lane, snapshots[from].position, &snapshots[from].next);
            let records = self.in_flight(plan.channel, snapshots);
            let mut numbers = records.iter().filter(|record| record.lane == lane).map(|record| record.number);
            let consumed = snapshots[to].next[lane];
            let good = if self.plan.mode == CheckpointMode::AtLeastOnce {
                (consumed..emitted).all(|number| numbers.any(|got| got == number))
            } else {
                consumed <= emitted && numbers.eq(consumed..emitted)
            };
            if !good {
                let numbers: Vec<u32> = records.iter().filter(|r| r.lane == lane).map(|r| r.number).collect();
                return Err(format!(
                    "checkpoint {checkpoint} is no consistent cut on lane {lane}: state says {consumed}, {emitted} were \
                     emitted, in flight are {numbers:?}"
                ));
            }
        }
        Ok(())
    }

    /// Nothing is enabled: everything must be done.
    pub(super) fn check_end(&self) -> Result<(), Violation> {
        if let Some(checkpoint) = self.pending.keys().next() {
            return Err(format!("stuck: checkpoint {checkpoint} is pending"));
        }
        if self.plan.sinks_frozen {
            return Ok(());
        }
        if let Some(task) = self.tasks.iter().position(|task| !task.finished) {
            return Err(format!("stuck: task {task} has not finished"));
        }
        for (lane, total) in self.plan.totals().into_iter().enumerate() {
            let to = self.plan.channels[self.plan.lanes[lane].channel].to;
            let seen = self.tasks[to].next[lane];
            if seen != total {
                return Err(format!("task {to} ends with {seen} of {total} records of lane {lane}"));
            }
        }
        Ok(())
    }
}

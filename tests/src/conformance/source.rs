//! A source of numbered values whose speed follows the checkpoints: at full speed for one interval after each completed
//! one, so that rings fill, and slowly otherwise.

use super::control::Control;
use super::record::{Tag, encode};
use std::sync::Arc;
use std::time::Duration;
use thalweg::CheckpointId;
use thalweg::clock::Nanos;
use thalweg::connector::{BoxError, ConnectorContext, Source, SourceOutput, SourceReader, SourceStatus};
use thalweg_storage::io::DiskHandle;

/// Time between two records of a subtask outside of full speed.
const SLOW_PACE: Duration = Duration::from_micros(700);

/// Records that a subtask emits in one interval of full speed at most: what is verified must stay small.
const BURST_RECORDS: u64 = 600;

/// Emits values until the job's control says that it should end.
#[derive(Clone)]
pub struct AdaptiveSource {
    /// Which source of the job.
    pub tag: Tag,
    /// The job.
    pub control: Arc<Control>,
}

impl Source for AdaptiveSource {
    type Record = u64;
    /// The split, and the number of its values so far.
    type Split = (u64, u64);
    type Reader = AdaptiveReader;

    fn splits(&self, _: &DiskHandle, _: u32) -> Result<Vec<(u64, u64)>, BoxError> {
        Ok((0..self.control.splits).map(|split| (split, 0)).collect())
    }

    fn reader(&self, context: ConnectorContext, splits: Vec<(u64, u64)>) -> Result<AdaptiveReader, BoxError> {
        Ok(AdaptiveReader {
            tag: self.tag,
            control: Arc::clone(&self.control),
            run: context.attempt.0 - 1,
            splits,
            turn: 0,
            speed_up: true,
            fast_until: Nanos(0),
            burst_left: 0,
            next_at: Nanos(0),
        })
    }
}

/// Reads the splits of one subtask, in turns.
pub struct AdaptiveReader {
    tag: Tag,
    control: Arc<Control>,
    run: u64,
    splits: Vec<(u64, u64)>,
    turn: usize,
    /// A checkpoint has completed since the last poll.
    speed_up: bool,
    fast_until: Nanos,
    burst_left: u64,
    next_at: Nanos,
}

impl SourceReader for AdaptiveReader {
    type Record = u64;
    type Split = (u64, u64);

    fn poll<O: SourceOutput<u64>>(
        &mut self,
        now: Nanos,
        budget: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        if std::mem::take(&mut self.speed_up) {
            self.fast_until = now.after(self.control.interval);
            self.burst_left = BURST_RECORDS;
        }
        if self.control.should_end(self.run) {
            for (split, count) in self.splits.drain(..) {
                self.control.split_ended(self.tag, split, count);
            }
        }
        if self.splits.is_empty() {
            return Ok(SourceStatus::End);
        }
        let fast = now < self.fast_until && self.burst_left > 0;
        if !fast && now < self.next_at {
            return Ok(SourceStatus::Idle(Some(self.next_at)));
        }
        self.next_at = now.after(SLOW_PACE);
        let records = if fast { (budget as u64).min(self.burst_left) } else { 1 };
        for _ in 0..records {
            self.burst_left = self.burst_left.saturating_sub(1);
            self.turn = (self.turn + 1) % self.splits.len();
            let (split, count) = &mut self.splits[self.turn];
            let value = *split + *count * self.control.splits;
            *count += 1;
            if !output.emit(encode(self.tag, value)) {
                break;
            }
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self, _: CheckpointId) -> Vec<(u64, u64)> {
        self.splits.clone()
    }

    fn checkpoint_complete(&mut self, _: CheckpointId) {
        self.speed_up = true;
    }
}

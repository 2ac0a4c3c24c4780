//! Records of any size that stand for a numbered value, and the source that emits them.

use super::script::Script;
use crate::conformance::record::{Tag, decode, encode, route};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use thalweg::CheckpointId;
use thalweg::clock::Nanos;
use thalweg::connector::{BoxError, ConnectorContext, Source, SourceOutput, SourceReader, SourceStatus};
use thalweg_storage::Data;
use thalweg_storage::io::DiskHandle;

/// Time between two records of a subtask outside of full speed.
const SLOW_PACE: Duration = Duration::from_micros(700);

/// A record that stands for a value of a source.
pub trait Numbered: Data + Sync {
    /// Records that a subtask emits in one interval of full speed at most.
    const BURST_RECORDS: u64;

    /// The record for a word of [`encode`].
    fn of(word: u64) -> Self;

    /// The word; another one than any source makes if anything of the record is damaged.
    fn word(&self) -> u64;
}

impl Numbered for u64 {
    const BURST_RECORDS: u64 = 120;

    fn of(word: u64) -> u64 {
        word
    }
    fn word(&self) -> u64 {
        *self
    }
}

/// Bytes of a batch at most, of which [`Bulky`] records are eight times as large.
const BATCH_BYTES: usize = 32 * 1024;

/// A record eight times as large as a batch may be: a word, and its lowest byte over and over.
pub type Bulky = (u64, Vec<u8>);

impl Numbered for Bulky {
    const BURST_RECORDS: u64 = 12;

    fn of(word: u64) -> Bulky {
        (word, vec![word as u8; 8 * BATCH_BYTES])
    }
    fn word(&self) -> u64 {
        let (word, filling) = self;
        let sound = filling.len() == 8 * BATCH_BYTES && filling.iter().all(|byte| *byte == *word as u8);
        if sound { *word } else { 0 }
    }
}

/// Passes a record on, and notes it if it is damaged.
pub fn checked<R: Numbered>(script: &Script, at: &str, record: R) -> R {
    let word = record.word();
    if decode(word).is_none() {
        script.violated(format!("{at}: damaged record {word:#018x}"));
    }
    record
}

/// The split of a record.
pub fn split_of<R: Numbered>(record: &R, splits: u64) -> u64 {
    decode(record.word()).map_or(0, |(_, value)| value % splits)
}

/// A partitioner that sends all records of a split the same way; `salt` tells exchanges apart.
pub fn by_split<R: Numbered>(splits: u64, salt: u64) -> impl Fn(&R, usize) -> usize + Clone + Send + 'static {
    move |record, partitions| route(split_of(record, splits), salt, partitions)
}

/// Emits values as the job's script says.
pub struct NumberedSource<R> {
    /// Which source of the job.
    pub tag: Tag,
    /// The job.
    pub script: Arc<Script>,
    record: PhantomData<fn() -> R>,
}

impl<R> NumberedSource<R> {
    /// Source `tag` of the job of `script`.
    pub fn new(tag: Tag, script: &Arc<Script>) -> Self {
        NumberedSource { tag, script: Arc::clone(script), record: PhantomData }
    }
}

impl<R> Clone for NumberedSource<R> {
    fn clone(&self) -> Self {
        NumberedSource::new(self.tag, &self.script)
    }
}

impl<R: Numbered> Source for NumberedSource<R> {
    type Record = R;
    /// The split, and the number of its values so far.
    type Split = (u64, u64);
    type Reader = NumberedReader<R>;

    fn splits(&self, _: &DiskHandle, _: u32) -> Result<Vec<(u64, u64)>, BoxError> {
        Ok((0..self.script.splits).map(|split| (split, 0)).collect())
    }

    fn reader(&self, _: ConnectorContext, splits: Vec<(u64, u64)>) -> Result<NumberedReader<R>, BoxError> {
        Ok(NumberedReader {
            source: self.clone(),
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
pub struct NumberedReader<R> {
    source: NumberedSource<R>,
    splits: Vec<(u64, u64)>,
    turn: usize,
    /// A checkpoint has completed since the last poll.
    speed_up: bool,
    fast_until: Nanos,
    burst_left: u64,
    next_at: Nanos,
}

impl<R: Numbered> SourceReader for NumberedReader<R> {
    type Record = R;
    type Split = (u64, u64);

    fn poll<O: SourceOutput<R>>(
        &mut self,
        now: Nanos,
        budget: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        let NumberedSource { tag, script, .. } = &self.source;
        if std::mem::take(&mut self.speed_up) && !script.slow {
            self.fast_until = now.after(script.interval);
            self.burst_left = R::BURST_RECORDS;
        }
        for (split, count) in self.splits.extract_if(.., |(_, count)| script.has_ended(*count)) {
            script.split_ended(*tag, split, count);
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
            if script.limit.is_some_and(|limit| *count >= limit) {
                continue;
            }
            let value = *split + *count * script.splits;
            *count += 1;
            if !output.emit(R::of(encode(*tag, value))) {
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

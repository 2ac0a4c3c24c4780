//! A source that computes its records: record `i` is a function of `i`.
//!
//! Always true: split `s` of `p` emits the records `s`, `s + p`, `s + 2p` … in this order, so that a position is the
//! index of the next record and any position can be read again.

use super::{BoxError, ConnectorContext, Source, SourceOutput, SourceReader, SourceStatus};
use crate::clock::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::marker::PhantomData;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::{CheckpointId, Data};

/// Emits `f(0)`, `f(1)`, `f(2)` …, bounded or for ever, dealt out evenly to the subtasks.
///
/// Replayable: `f` must return the same record for the same index on each call.
pub struct GeneratorSource<T, F> {
    count: Option<u64>,
    f: F,
    record: PhantomData<fn() -> T>,
}

impl<T, F> GeneratorSource<T, F>
where
    T: Data,
    F: Fn(u64) -> T + Clone + Send + 'static,
{
    /// A source of the first `count` records, or of records without end.
    pub fn new(count: Option<u64>, f: F) -> Self {
        GeneratorSource { count, f, record: PhantomData }
    }
}

impl<T, F: Clone> Clone for GeneratorSource<T, F> {
    fn clone(&self) -> Self {
        GeneratorSource { count: self.count, f: self.f.clone(), record: PhantomData }
    }
}

/// A part of a [`GeneratorSource`]: every `step`-th record from `next` on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
pub struct GeneratorSplit {
    next: u64,
    step: u64,
}

thalweg_storage::data!(GeneratorSplit);

impl<T, F> Source for GeneratorSource<T, F>
where
    T: Data,
    F: Fn(u64) -> T + Clone + Send + 'static,
{
    type Record = T;
    type Split = GeneratorSplit;
    type Reader = GeneratorReader<T, F>;

    fn splits(&self, _disk: &DiskHandle, parallelism: u32) -> Result<Vec<GeneratorSplit>, BoxError> {
        let step = u64::from(parallelism.max(1));
        Ok((0..step).map(|next| GeneratorSplit { next, step }).collect())
    }

    fn reader(
        &self,
        _context: ConnectorContext,
        splits: Vec<GeneratorSplit>,
    ) -> Result<Self::Reader, BoxError> {
        let end = self.count.unwrap_or(u64::MAX);
        if splits.iter().any(|split| split.step == 0) {
            return Err("a split of a generator has step 0: it was not made by this source".into());
        }
        let total = splits.iter().map(|s| end.saturating_sub(s.next).div_ceil(s.step)).sum();
        let splits = splits.into_iter().filter(|split| split.next < end).collect();
        let bounded = self.count.is_some();
        Ok(GeneratorReader { end, bounded, splits, done: 0, total, f: self.f.clone(), record: PhantomData })
    }
}

/// Reads the splits of a [`GeneratorSource`], one after another in turn.
pub struct GeneratorReader<T, F> {
    end: u64,
    bounded: bool,
    splits: VecDeque<GeneratorSplit>,
    done: u64,
    total: u64,
    f: F,
    record: PhantomData<fn() -> T>,
}

impl<T, F> SourceReader for GeneratorReader<T, F>
where
    T: Data,
    F: Fn(u64) -> T + Clone + Send + 'static,
{
    type Record = T;
    type Split = GeneratorSplit;

    #[inline]
    fn poll<O: SourceOutput<T>>(
        &mut self,
        _now: Nanos,
        budget: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        let Some(mut split) = self.splits.pop_front() else { return Ok(SourceStatus::End) };
        let left = (self.end - split.next).div_ceil(split.step);
        let records = left.min(budget as u64);
        let mut emitted = 0;
        let mut next = split.next;
        while emitted < records {
            let room = output.emit((self.f)(next));
            emitted += 1;
            // Only the last record of an endless source can be followed by an index beyond the range of `u64`.
            next = next.saturating_add(split.step);
            if !room {
                break;
            }
        }
        self.done += emitted;
        if emitted < left {
            split.next = next;
            // Splits take turns, so that none starves where a reader has several.
            self.splits.push_back(split);
        }
        Ok(if self.splits.is_empty() { SourceStatus::End } else { SourceStatus::More })
    }

    fn snapshot(&mut self, _checkpoint: CheckpointId) -> Vec<GeneratorSplit> {
        self.splits.iter().cloned().collect()
    }

    fn read_progress(&self) -> Option<(u64, u64)> {
        self.bounded.then_some((self.done, self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::testing::{Output, context};
    use proptest::prelude::*;

    fn read_all<F: Fn(u64) -> u64 + Clone + Send + 'static>(
        source: &GeneratorSource<u64, F>,
        splits: Vec<GeneratorSplit>,
    ) -> Vec<u64> {
        let mut reader = source.reader(context(0, 1), splits).unwrap();
        let mut output = Output::default();
        while reader.poll(Nanos(0), 7, &mut output).unwrap() != SourceStatus::End {}
        output.records
    }

    #[test]
    fn each_split_emits_every_pth_record_in_order() {
        let source = GeneratorSource::new(Some(10), |i| i * 10);
        let splits = source.splits(&context(0, 1).disk, 4).unwrap();
        assert_eq!(splits.len(), 4);
        let read: Vec<_> = splits.into_iter().map(|split| read_all(&source, vec![split])).collect();
        assert_eq!(read, [vec![0, 40, 80], vec![10, 50, 90], vec![20, 60], vec![30, 70]]);
    }

    #[test]
    fn a_reader_with_more_splits_than_records_ends() {
        let source = GeneratorSource::new(Some(1), |i| i);
        let splits = source.splits(&context(0, 1).disk, 3).unwrap();
        assert_eq!(read_all(&source, splits), [0]);
        assert!(read_all(&source, Vec::new()).is_empty());
    }

    #[test]
    fn an_endless_source_reports_no_total_and_goes_on() {
        let source = GeneratorSource::new(None, |i| i);
        let splits = source.splits(&context(0, 1).disk, 1).unwrap();
        let mut reader = source.reader(context(0, 1), splits).unwrap();
        let mut output = Output::default();
        for _ in 0..5 {
            assert_eq!(reader.poll(Nanos(0), 100, &mut output).unwrap(), SourceStatus::More);
        }
        assert_eq!(output.records, (0..500).collect::<Vec<_>>());
        assert_eq!(reader.read_progress(), None);
    }

    #[test]
    fn a_full_output_stops_the_reader_after_the_record_it_took() {
        let source = GeneratorSource::new(Some(100), |i| i);
        let splits = source.splits(&context(0, 1).disk, 1).unwrap();
        let mut reader = source.reader(context(0, 1), splits).unwrap();
        let mut output = Output { room: Some(3), ..Output::default() };
        assert_eq!(reader.poll(Nanos(0), 50, &mut output).unwrap(), SourceStatus::More);
        assert_eq!(output.records, [0, 1, 2]);
        assert_eq!(reader.read_progress(), Some((3, 100)));
    }

    proptest! {
        #[test]
        fn prop_a_reader_continues_behind_the_last_emitted_record(
            count in 0_u64..200, parallelism in 1_u32..6, cut in 0_usize..30, room in 1_usize..9,
        ) {
            let source = GeneratorSource::new(Some(count), |i| i);
            let splits = source.splits(&context(0, 1).disk, parallelism).unwrap();
            let mut reader = source.reader(context(0, 1), splits).unwrap();
            let mut output = Output::default();
            for _ in 0..cut {
                output.room = Some(output.records.len() + room);
                reader.poll(Nanos(0), 5, &mut output).unwrap();
            }
            let splits = reader.snapshot(CheckpointId(1));
            let mut records = output.records;
            records.extend(read_all(&source, splits));
            records.sort_unstable();
            prop_assert_eq!(records, (0..count).collect::<Vec<_>>());
        }
    }
}

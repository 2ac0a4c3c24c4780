//! Sources and sinks in memory, for tests and benchmarks: a vector as input, vectors and counters as output.
//!
//! Always true: what stands for the outside world ([`MemorySink`]'s committed output, the lists and counts of the
//! other sinks) is shared by all clones of a sink and outlives writers, attempts and engines.

use super::{BoxError, ConnectorContext, Sink, SinkSnapshot, SinkWriter, Source, SourceOutput, SourceReader};
use super::{OutputLost, SourceStatus};
use crate::clock::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::Committable;
use thalweg_storage::{AttemptId, CheckpointId, Data};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Emits the records of a vector: bounded and replayable.
///
/// The records are dealt out to the splits in turn: split `s` of `n` emits the records `s`, `s + n` …
#[derive(Clone)]
pub struct VecSource<T> {
    records: Arc<Mutex<Vec<T>>>,
    splits: Option<u32>,
}

impl<T: Data> VecSource<T> {
    /// A source of `records`, with as many splits as the source has subtasks.
    pub fn new(records: Vec<T>) -> Self {
        VecSource { records: Arc::new(Mutex::new(records)), splits: None }
    }

    /// The same source with `splits` splits (at least one).
    pub fn with_splits(mut self, splits: u32) -> Self {
        self.splits = Some(splits.max(1));
        self
    }
}

/// A part of a [`VecSource`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
pub struct VecSplit {
    index: u32,
    splits: u32,
    position: u64,
}

thalweg_storage::data!(VecSplit);

impl<T: Data> Source for VecSource<T> {
    type Record = T;
    type Split = VecSplit;
    type Reader = VecReader<T>;

    fn splits(&self, _disk: &DiskHandle, parallelism: u32) -> Result<Vec<VecSplit>, BoxError> {
        let splits = self.splits.unwrap_or(parallelism.max(1));
        Ok((0..splits).map(|index| VecSplit { index, splits, position: 0 }).collect())
    }

    fn reader(&self, _context: ConnectorContext, splits: Vec<VecSplit>) -> Result<VecReader<T>, BoxError> {
        let records = lock(&self.records);
        let rest = |split: VecSplit| {
            let part = records.iter().skip(split.index as usize).step_by(split.splits.max(1) as usize);
            let part: VecDeque<T> = part.skip(split.position as usize).cloned().collect();
            (split, part)
        };
        let splits: VecDeque<_> = splits.into_iter().map(rest).filter(|(_, part)| !part.is_empty()).collect();
        let total = splits.iter().map(|(split, part)| split.position + part.len() as u64).sum();
        let done = splits.iter().map(|(split, _)| split.position).sum();
        Ok(VecReader { splits, done, total })
    }
}

/// Reads splits of a [`VecSource`], one after another.
pub struct VecReader<T> {
    splits: VecDeque<(VecSplit, VecDeque<T>)>,
    done: u64,
    total: u64,
}

impl<T: Data> SourceReader for VecReader<T> {
    type Record = T;
    type Split = VecSplit;

    fn poll<O: SourceOutput<T>>(
        &mut self,
        _now: Nanos,
        budget: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        for _ in 0..budget.max(1) {
            let Some((split, part)) = self.splits.front_mut() else { break };
            let mut room = true;
            if let Some(record) = part.pop_front() {
                split.position += 1;
                self.done += 1;
                room = output.emit(record);
            }
            if part.is_empty() {
                self.splits.pop_front();
            }
            if !room {
                break;
            }
        }
        Ok(if self.splits.is_empty() { SourceStatus::End } else { SourceStatus::More })
    }

    fn snapshot(&mut self, _checkpoint: CheckpointId) -> Vec<VecSplit> {
        self.splits.iter().map(|(split, _)| split.clone()).collect()
    }

    fn read_progress(&self) -> Option<(u64, u64)> {
        Some((self.done, self.total))
    }
}

/// What [`MemorySink`] regards as the world outside the engine.
struct World<T> {
    committed: BTreeMap<u32, Vec<T>>,
    /// What was committed already; a second commit of the same output changes nothing.
    seen: HashSet<(u32, AttemptId, CheckpointId)>,
}

/// An exactly-once sink whose output is a vector per subtask, readable by any clone of the sink.
///
/// Records become visible only when a checkpoint that contains them is complete. Between checkpoints they are held in
/// memory without a limit: this sink is for tests.
pub struct MemorySink<T> {
    world: Arc<Mutex<World<T>>>,
}

impl<T> Clone for MemorySink<T> {
    fn clone(&self) -> Self {
        MemorySink { world: Arc::clone(&self.world) }
    }
}

impl<T: Data> Default for MemorySink<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Data> MemorySink<T> {
    /// A sink into an empty world.
    pub fn new() -> Self {
        MemorySink { world: Arc::new(Mutex::new(World { committed: BTreeMap::new(), seen: HashSet::new() })) }
    }

    /// Committed records of each subtask, in order of commitment; subtasks above the last that committed are absent.
    pub fn committed(&self) -> Vec<Vec<T>> {
        let world = lock(&self.world);
        let subtasks = world.committed.last_key_value().map_or(0, |(&subtask, _)| subtask + 1);
        (0..subtasks).map(|subtask| world.committed.get(&subtask).cloned().unwrap_or_default()).collect()
    }

    /// Number of committed records of all subtasks.
    pub fn committed_count(&self) -> usize {
        lock(&self.world).committed.values().map(Vec::len).sum()
    }
}

impl<T: Data> Sink for MemorySink<T> {
    type Record = T;
    type State = ();
    type Writer = MemoryWriter<T>;

    fn writer(
        &self,
        _context: ConnectorContext,
        _restored: Vec<()>,
        committables: Vec<Committable>,
    ) -> Result<MemoryWriter<T>, BoxError> {
        let mut writer = MemoryWriter {
            world: Arc::clone(&self.world),
            buffered: 0,
            bytes: Vec::new(),
            record: PhantomData,
        };
        writer.commit(committables)?;
        Ok(writer)
    }
}

/// Writes one subtask of a [`MemorySink`].
pub struct MemoryWriter<T> {
    world: Arc<Mutex<World<T>>>,
    buffered: u64,
    bytes: Vec<u8>,
    record: PhantomData<fn(T)>,
}

impl<T: Data> SinkWriter for MemoryWriter<T> {
    type Record = T;
    type State = ();

    fn write(&mut self, _now: Nanos, record: T) -> Result<bool, BoxError> {
        record.encode(&mut self.bytes);
        self.buffered += 1;
        Ok(true)
    }

    fn poll(&mut self, _now: Nanos) -> Result<bool, BoxError> {
        Ok(true)
    }

    fn prepare(&mut self, _checkpoint: CheckpointId, _end: bool) -> Result<SinkSnapshot<()>, BoxError> {
        let count = std::mem::take(&mut self.buffered);
        let records = std::mem::take(&mut self.bytes);
        let committables = if count == 0 { Vec::new() } else { vec![encode_output(count, &records)] };
        Ok(SinkSnapshot { state: None, committables })
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        for committable in committables {
            let records = decode_output::<T>(&committable.bytes)?;
            let mut world = lock(&self.world);
            if world.seen.insert((committable.subtask, committable.attempt, committable.checkpoint)) {
                world.committed.entry(committable.subtask).or_default().extend(records);
            }
        }
        Ok(())
    }

    fn committed(&self) -> bool {
        true
    }

    fn has_unprepared(&self) -> bool {
        self.buffered > 0
    }
}

/// A committable that holds the output itself: the number of records (u64, little-endian), then the records.
pub(super) fn encode_output(count: u64, records: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + records.len());
    bytes.extend_from_slice(&count.to_le_bytes());
    bytes.extend_from_slice(records);
    bytes
}

/// The records of an [`encode_output`].
pub(super) fn decode_output<T: Data>(bytes: &[u8]) -> Result<Vec<T>, BoxError> {
    let damaged = |what: &str| OutputLost(format!("prepared output in a checkpoint is damaged: {what}"));
    let (count, mut input) = bytes.split_first_chunk().ok_or_else(|| damaged("it is too short"))?;
    let count = u64::from_le_bytes(*count);
    let mut records = Vec::new();
    for _ in 0..count {
        records.push(T::decode(&mut input).map_err(|error| damaged(&error.to_string()))?);
    }
    if !input.is_empty() {
        return Err(damaged("bytes follow the last record").into());
    }
    Ok(records)
}

/// A sink that prepares nothing can't commit what a checkpoint lists: to pass over it would lose it.
fn refuse_committables(committables: &[Committable]) -> Result<(), OutputLost> {
    if committables.is_empty() {
        return Ok(());
    }
    Err(OutputLost(
        "the checkpoint lists output that was prepared by another kind of sink, and this one can't commit it: restore \
         with the sink that wrote it"
            .to_owned(),
    ))
}

/// A writer needs no state and prepares nothing: its output was visible when it was written.
macro_rules! at_least_once {
    () => {
        fn poll(&mut self, _now: Nanos) -> Result<bool, BoxError> {
            Ok(true)
        }

        fn prepare(&mut self, _checkpoint: CheckpointId, _end: bool) -> Result<SinkSnapshot<()>, BoxError> {
            Ok(SinkSnapshot { state: None, committables: Vec::new() })
        }

        fn commit(&mut self, _committables: Vec<Committable>) -> Result<(), BoxError> {
            Ok(())
        }

        fn committed(&self) -> bool {
            true
        }

        fn has_unprepared(&self) -> bool {
            false
        }
    };
}

/// An at-least-once sink that puts each record into one shared vector as it comes; after a restart records appear
/// again.
pub struct CollectSink<T> {
    records: Arc<Mutex<Vec<T>>>,
}

impl<T> Clone for CollectSink<T> {
    fn clone(&self) -> Self {
        CollectSink { records: Arc::clone(&self.records) }
    }
}

impl<T> Default for CollectSink<T> {
    fn default() -> Self {
        CollectSink { records: Arc::default() }
    }
}

impl<T: Clone + Send + 'static> CollectSink<T> {
    /// A sink into an empty vector.
    pub fn new() -> Self {
        Self::default()
    }

    /// All records so far, of all subtasks, in order of arrival.
    pub fn collected(&self) -> Vec<T> {
        lock(&self.records).clone()
    }

    /// Takes all records so far.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut lock(&self.records))
    }
}

impl<T: Send + 'static> Sink for CollectSink<T> {
    type Record = T;
    type State = ();
    type Writer = CollectWriter<T>;

    fn writer(
        &self,
        _context: ConnectorContext,
        _restored: Vec<()>,
        committables: Vec<Committable>,
    ) -> Result<CollectWriter<T>, BoxError> {
        refuse_committables(&committables)?;
        Ok(CollectWriter { records: Arc::clone(&self.records) })
    }
}

/// Writes one subtask of a [`CollectSink`].
pub struct CollectWriter<T> {
    records: Arc<Mutex<Vec<T>>>,
}

impl<T: Send + 'static> SinkWriter for CollectWriter<T> {
    type Record = T;
    type State = ();

    fn write(&mut self, _now: Nanos, record: T) -> Result<bool, BoxError> {
        lock(&self.records).push(record);
        Ok(true)
    }

    at_least_once!();
}

/// One counter to a cache line (two, for the prefetcher's sake), so that subtasks do not slow each other down.
#[repr(align(128))]
#[derive(Default)]
struct Counter(AtomicU64);

/// An at-least-once sink that counts records per subtask and drops them; nearly free, for benchmarks.
pub struct CountingSink<T> {
    counters: Arc<Mutex<BTreeMap<u32, Arc<Counter>>>>,
    record: PhantomData<fn(T)>,
}

impl<T> Clone for CountingSink<T> {
    fn clone(&self) -> Self {
        CountingSink { counters: Arc::clone(&self.counters), record: PhantomData }
    }
}

impl<T> Default for CountingSink<T> {
    fn default() -> Self {
        CountingSink { counters: Arc::default(), record: PhantomData }
    }
}

impl<T: 'static> CountingSink<T> {
    /// A sink that has counted nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that all subtasks have taken, over all attempts.
    pub fn count(&self) -> u64 {
        lock(&self.counters).values().map(|counter| counter.0.load(Ordering::Relaxed)).sum()
    }

    /// Records that each subtask has taken, over all attempts, by rising index of the subtask.
    pub fn counts(&self) -> Vec<u64> {
        lock(&self.counters).values().map(|counter| counter.0.load(Ordering::Relaxed)).collect()
    }
}

impl<T: 'static> Sink for CountingSink<T> {
    type Record = T;
    type State = ();
    type Writer = CountingWriter<T>;

    fn writer(
        &self,
        context: ConnectorContext,
        _restored: Vec<()>,
        committables: Vec<Committable>,
    ) -> Result<CountingWriter<T>, BoxError> {
        refuse_committables(&committables)?;
        let counter = Arc::clone(lock(&self.counters).entry(context.subtask).or_default());
        let count = counter.0.load(Ordering::Relaxed);
        Ok(CountingWriter { counter, count, record: PhantomData })
    }
}

/// Writes one subtask of a [`CountingSink`].
pub struct CountingWriter<T> {
    counter: Arc<Counter>,
    count: u64,
    record: PhantomData<fn(T)>,
}

impl<T: 'static> SinkWriter for CountingWriter<T> {
    type Record = T;
    type State = ();

    #[inline]
    fn write(&mut self, _now: Nanos, _record: T) -> Result<bool, BoxError> {
        // One writer per counter: a plain store does, without a locked instruction per record.
        self.count += 1;
        self.counter.0.store(self.count, Ordering::Relaxed);
        Ok(true)
    }

    at_least_once!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::testing::{Output, context};

    fn committable(checkpoint: u64, attempt: u64, bytes: Vec<u8>) -> Committable {
        Committable { checkpoint: CheckpointId(checkpoint), subtask: 0, attempt: AttemptId(attempt), bytes }
    }

    #[test]
    fn a_vec_source_deals_its_records_out_and_continues_from_any_snapshot() {
        let source = VecSource::new((0..10_u64).collect()).with_splits(3);
        let splits = source.splits(&context(0, 1).disk, 1).unwrap();
        assert_eq!(splits.len(), 3);
        for cut in 0..12 {
            let mut first = source.reader(context(0, 1), splits.clone()).unwrap();
            let mut output = Output::default();
            for _ in 0..cut {
                first.poll(Nanos(0), 1, &mut output).unwrap();
            }
            assert_eq!(output.records.len(), cut.min(10));
            let mut second = source.reader(context(0, 1), first.snapshot(CheckpointId(1))).unwrap();
            while second.poll(Nanos(0), 4, &mut output).unwrap() != SourceStatus::End {}
            assert_eq!(output.records, [0, 3, 6, 9, 1, 4, 7, 2, 5, 8]);
        }
    }

    #[test]
    fn a_vec_source_stops_when_the_output_is_full() {
        let source = VecSource::new((0..10_u64).collect());
        let splits = source.splits(&context(0, 1).disk, 1).unwrap();
        let mut reader = source.reader(context(0, 1), splits).unwrap();
        let mut output = Output { room: Some(4), ..Output::default() };
        assert_eq!(reader.poll(Nanos(0), 100, &mut output).unwrap(), SourceStatus::More);
        assert_eq!(output.records, [0, 1, 2, 3]);
        assert_eq!(reader.read_progress(), Some((4, 10)));
    }

    #[test]
    fn a_memory_sink_shows_nothing_before_the_commit_and_each_commit_once() {
        let sink = MemorySink::<u64>::new();
        let mut writer = sink.writer(context(0, 1), Vec::new(), Vec::new()).unwrap();
        writer.write(Nanos(0), 1).unwrap();
        writer.write(Nanos(0), 2).unwrap();
        assert!(writer.has_unprepared());
        let prepared = writer.prepare(CheckpointId(1), false).unwrap();
        assert!(!writer.has_unprepared());
        assert!(sink.committed().is_empty());
        let one = committable(1, 1, prepared.committables[0].clone());
        writer.commit(vec![one.clone()]).unwrap();
        writer.commit(vec![one.clone()]).unwrap();
        sink.writer(context(0, 1), Vec::new(), vec![one]).unwrap();
        assert_eq!(sink.committed(), [vec![1, 2]]);
    }

    #[test]
    fn an_empty_checkpoint_prepares_nothing() {
        let sink = MemorySink::<u64>::new();
        let mut writer = sink.writer(context(0, 1), Vec::new(), Vec::new()).unwrap();
        assert!(writer.prepare(CheckpointId(1), false).unwrap().committables.is_empty());
    }

    #[test]
    fn a_restored_writer_commits_what_the_manifest_lists_and_drops_the_rest() {
        let sink = MemorySink::<u64>::new();
        let mut writer = sink.writer(context(0, 1), Vec::new(), Vec::new()).unwrap();
        writer.write(Nanos(0), 1).unwrap();
        let listed = writer.prepare(CheckpointId(1), false).unwrap().committables;
        writer.write(Nanos(0), 2).unwrap();
        writer.prepare(CheckpointId(2), false).unwrap();
        drop(writer);
        sink.writer(context(0, 1), Vec::new(), vec![committable(1, 1, listed[0].clone())]).unwrap();
        assert_eq!(sink.committed(), [vec![1]]);
    }

    #[test]
    fn a_damaged_committable_is_an_error_and_changes_nothing() {
        let sink = MemorySink::<u64>::new();
        let mut writer = sink.writer(context(0, 1), Vec::new(), Vec::new()).unwrap();
        for bytes in [vec![1, 2], encode_output(u64::MAX, &[]), encode_output(0, &[7])] {
            assert!(writer.commit(vec![committable(1, 1, bytes)]).unwrap_err().is::<OutputLost>());
        }
        assert_eq!(sink.committed_count(), 0);
    }

    #[test]
    fn a_counting_sink_counts_per_subtask_over_attempts() {
        let sink = CountingSink::<u64>::new();
        for subtask in [0, 1, 0] {
            let mut writer = sink.writer(context(subtask, 2), Vec::new(), Vec::new()).unwrap();
            for record in 0..5 {
                writer.write(Nanos(0), record).unwrap();
            }
        }
        assert_eq!((sink.count(), sink.counts()), (15, vec![10, 5]));
    }

    #[test]
    fn a_collect_sink_shows_records_at_once() {
        let sink = CollectSink::new();
        let mut writer = sink.writer(context(0, 1), Vec::new(), Vec::new()).unwrap();
        writer.write(Nanos(0), 5_u64).unwrap();
        assert_eq!(sink.collected(), [5]);
        assert_eq!(sink.take(), [5]);
        assert!(sink.collected().is_empty());
    }
}

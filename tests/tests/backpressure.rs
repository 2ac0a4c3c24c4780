//! Checkpoints under back-pressure: all rings full, a sink that takes nothing or is slow, records that are half done.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use thalweg::connector::{BoxError, GeneratorSource};
use thalweg::coordinator::{CheckpointOutcome, CheckpointRecord};
use thalweg::job::EngineBuilder;
use thalweg::operator::Collector;
use thalweg::operators::ProcessFunction;
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{CheckpointId, CheckpointMode, Dataflow, JobHandle};
use thalweg_storage::manifest::ChannelOrigin;
use thalweg_tests::support::{GatedSink, WATCHDOG, newest_manifest, outcome, small_engine, wait_until};

/// Records that the pipeline carries in all.
const RECORDS: u64 = 20_000;

/// Tiny rings, so that they are full at once.
fn engine(dir: &TempDir, mode: CheckpointMode) -> EngineBuilder {
    small_engine().checkpoint_dir(dir.path()).checkpoint_mode(mode).ring_batches(2).batch_records(8)
}

/// Two partitions all the way: the even numbers take one path, the odd ones the other, each in order.
///
/// Source → map → keyed counter → sink, with an exchange before each.
fn pipeline(sink: &GatedSink<(u64, u64)>) -> Dataflow {
    let flow = Dataflow::new("pipeline");
    flow.source("numbers", GeneratorSource::new(Some(RECORDS), |n| n))
        .partition_custom(|n, partitions| *n as usize % partitions)
        .map("first", |n: u64| n)
        .key_by(|n| n % 2)
        .process(
            "count",
            ValueStateDescriptor::<u64>::new("seen"),
            |_: &u64, n: u64, mut seen: ValueState<'_, u64, u64>, out: &mut Collector<(u64, u64)>| {
                let count = seen.value().unwrap_or(0) + 1;
                seen.update(count);
                out.collect((n, count));
                Ok(())
            },
        )
        .partition_custom(|(n, _), partitions| *n as usize % partitions)
        .sink("sink", sink.clone());
    flow
}

/// Records that have entered the job at its sources.
fn entered(job: &JobHandle) -> u64 {
    job.metrics().tasks.iter().filter(|task| task.is_source).map(|task| task.records_in).sum()
}

/// Waits until no task has anything left that it may do.
fn wait_until_full(job: &JobHandle) {
    let moved = |job: &JobHandle| -> Option<u64> {
        let tasks = job.metrics().tasks;
        let blocked = tasks.iter().filter(|t| t.is_source).all(|t| t.time.is_some_and(|t| t.blocked_ns > 0));
        (blocked && !tasks.is_empty()).then(|| tasks.iter().map(|task| task.records_in).sum())
    };
    let mut seen = (None, 0);
    wait_until("all rings are full", || {
        let now = moved(job);
        seen = if now.is_some() && now == seen.0 { (now, seen.1 + 1) } else { (now, 0) };
        // Nothing has moved for a hundred looks, a millisecond or more apart.
        seen.1 >= 100
    });
}

fn latest(job: &JobHandle) -> CheckpointRecord {
    let record = job.metrics().checkpoints.history.back().cloned().expect("a checkpoint has ended");
    assert_eq!(record.outcome, CheckpointOutcome::Completed);
    record
}

/// The job's only checkpoint was aligned: nothing was captured on a channel, only what a producer had not sent yet.
/// Returns how many records that were.
fn assert_aligned(dir: &TempDir, job: &JobHandle) -> u64 {
    let record = latest(job);
    assert_eq!(record.tasks_unaligned, 0);
    let manifest = newest_manifest(&dir.path().join("pipeline"));
    assert!(manifest.channels.iter().all(|channel| channel.origin == ChannelOrigin::Producer));
    assert_eq!(
        manifest.channels.iter().map(|channel| channel.records).sum::<u64>(),
        record.in_flight_records
    );
    record.in_flight_records
}

/// Each path delivered each of its records once and in order, and the keyed counter counted each once.
fn assert_exactly_once(sink: &GatedSink<(u64, u64)>) {
    let committed = sink.committed();
    assert_eq!(committed.len(), 2, "both partitions of the sink have output");
    for (path, records) in committed.iter().enumerate() {
        let expected: Vec<(u64, u64)> =
            (0..RECORDS / 2).map(|index| (2 * index + path as u64, index + 1)).collect();
        assert!(
            *records == expected,
            "path {path} delivered {} records: {:?}…",
            records.len(),
            &records[..8]
        );
    }
}

/// Restores the job on a new engine with the sink released, runs it to its end and checks all output.
fn finish_and_check(dir: &TempDir, mode: CheckpointMode, sink: &GatedSink<(u64, u64)>, in_flight: u64) {
    sink.release();
    let engine = engine(dir, mode).build().unwrap();
    let job = engine.run(pipeline(sink)).unwrap();
    outcome(&job).unwrap();
    let stats = job.metrics().checkpoints;
    assert!(stats.restored.is_some(), "the job was restored");
    assert_eq!(stats.restored_records, in_flight, "all captured records were restored");
    assert_exactly_once(sink);
}

#[test]
fn an_unaligned_checkpoint_completes_with_every_ring_full_and_the_sink_stopped() {
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::stopped();
    let first = engine(&dir, CheckpointMode::Unaligned).build().unwrap();
    let job = first.run(pipeline(&sink)).unwrap();
    wait_until_full(&job);
    job.checkpoint().unwrap();
    let record = latest(&job);
    let between = entered(&job) - sink.taken();
    assert!(between > 100, "the rings hold {between} records");
    assert_eq!(record.in_flight_records, between, "captured is what is between the sources and the sink");
    assert!(sink.taken() <= 2, "the sink took no record to let the checkpoint through");
    drop(first);
    finish_and_check(&dir, CheckpointMode::Unaligned, &sink, between);
}

#[test]
fn several_unaligned_checkpoints_of_one_standstill_all_complete_and_restore_again() {
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::stopped();
    let first = engine(&dir, CheckpointMode::Unaligned).build().unwrap();
    let job = first.run(pipeline(&sink)).unwrap();
    wait_until_full(&job);
    for _ in 0..5 {
        job.checkpoint().unwrap();
        assert_eq!(latest(&job).in_flight_records, entered(&job) - sink.taken());
    }
    let between = entered(&job) - sink.taken();
    drop(first);
    // The second standstill, restored from the first, captures what was restored again.
    let taken = sink.taken();
    let second = engine(&dir, CheckpointMode::Unaligned).build().unwrap();
    let job = second.run(pipeline(&sink)).unwrap();
    wait_until("the sinks have a record each", || sink.taken() == taken + 2);
    job.checkpoint().unwrap();
    let between = between + entered(&job) - (sink.taken() - taken);
    assert_eq!(latest(&job).in_flight_records, between, "restored records are captured again");
    drop(second);
    finish_and_check(&dir, CheckpointMode::Unaligned, &sink, between);
}

#[test]
fn an_aligned_checkpoint_waits_until_the_sink_is_released() {
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::stopped();
    let first = engine(&dir, CheckpointMode::Aligned).build().unwrap();
    let job = first.run(pipeline(&sink)).unwrap();
    wait_until_full(&job);
    let entered_before = entered(&job);
    let waiter = std::thread::spawn({
        let job = job.clone();
        move || job.checkpoint()
    });
    wait_until("the checkpoint is triggered", || job.metrics().checkpoints.triggered == 1);
    wait_until_full(&job);
    assert!(!waiter.is_finished(), "an aligned checkpoint cannot pass records that do not move");
    assert_eq!(job.metrics().checkpoints.completed, 0);
    sink.release();
    waiter.join().unwrap().unwrap();
    let outbox = assert_aligned(&dir, &job);
    assert!(sink.taken() >= entered_before - outbox, "what stood before the barrier was processed first");
    drop(first);
    finish_and_check(&dir, CheckpointMode::Aligned, &sink, outbox);
}

#[test]
fn an_aligned_checkpoint_with_a_timeout_turns_unaligned_and_completes() {
    let mode = CheckpointMode::AlignedWithTimeout(Duration::from_millis(20));
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::stopped();
    let first = engine(&dir, mode).build().unwrap();
    let job = first.run(pipeline(&sink)).unwrap();
    wait_until_full(&job);
    job.checkpoint().unwrap();
    let record = latest(&job);
    let between = entered(&job) - sink.taken();
    assert!(record.tasks_unaligned > 0);
    assert!(between > 100, "the rings hold {between} records");
    assert_eq!(record.in_flight_records, between);
    drop(first);
    finish_and_check(&dir, mode, &sink, between);
}

#[test]
fn a_checkpoint_whose_alignment_timeout_is_not_reached_stays_aligned() {
    let mode = CheckpointMode::AlignedWithTimeout(WATCHDOG);
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::stopped();
    let first = engine(&dir, mode).build().unwrap();
    let job = first.run(pipeline(&sink)).unwrap();
    wait_until_full(&job);
    let waiter = std::thread::spawn({
        let job = job.clone();
        move || job.checkpoint()
    });
    wait_until("the checkpoint is triggered", || job.metrics().checkpoints.triggered == 1);
    sink.release();
    waiter.join().unwrap().unwrap();
    let outbox = assert_aligned(&dir, &job);
    drop(first);
    finish_and_check(&dir, mode, &sink, outbox);
}

/// Outputs of one record of the burst.
const BURST: u64 = 100_000;

fn many(n: u64) -> impl Iterator<Item = u64> + Send + 'static {
    (0..BURST).map(move |index| n * BURST + index)
}

/// Three records, each of which becomes a hundred thousand, in the source's chain or behind an exchange.
fn burst(sink: &GatedSink<u64>, exchange_first: bool) -> Dataflow {
    let flow = Dataflow::new("burst");
    let source = flow.source("numbers", GeneratorSource::new(Some(3), |n| n)).with_parallelism(1);
    if exchange_first {
        let burst = source.rebalance().with_parallelism(1).flat_map("burst", many);
        burst.rebalance().with_parallelism(1).sink("sink", sink.clone());
    } else {
        source.flat_map("burst", many).rebalance().with_parallelism(1).sink("sink", sink.clone());
    }
    flow
}

fn checkpoint_a_burst_in_its_middle(exchange_first: bool) {
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::stopped();
    let first = engine(&dir, CheckpointMode::Unaligned).build().unwrap();
    let job = first.run(burst(&sink, exchange_first)).unwrap();
    wait_until("the sink has a record and the burst is blocked", || {
        let tasks = job.metrics().tasks;
        let burst = tasks.iter().find(|task| task.name.contains("burst"));
        sink.taken() == 1 && burst.is_some_and(|t| t.time.is_some_and(|time| time.blocked_ns > 0))
    });
    job.checkpoint().unwrap();
    assert_eq!(sink.taken(), 1);
    // The record that is half done is finished into the outbox; others wait whole, in a ring or at the source.
    let in_flight = latest(&job).in_flight_records;
    let whole = if exchange_first { 2 } else { 0 };
    assert!((BURST - 1..=BURST - 1 + whole).contains(&in_flight), "{in_flight} records are in flight");
    drop(first);
    sink.release();
    let second = engine(&dir, CheckpointMode::Unaligned).build().unwrap();
    let job = second.run(burst(&sink, exchange_first)).unwrap();
    outcome(&job).unwrap();
    assert_eq!(job.metrics().checkpoints.restored_records, in_flight);
    assert!(sink.committed() == [(0..3 * BURST).collect::<Vec<_>>()], "each output came once and in order");
}

#[test]
fn a_record_half_flat_mapped_by_a_source_chain_is_finished_into_the_outbox() {
    checkpoint_a_burst_in_its_middle(false);
}

#[test]
fn a_record_half_flat_mapped_behind_an_exchange_is_finished_into_the_outbox() {
    checkpoint_a_burst_in_its_middle(true);
}

#[test]
fn a_burst_into_a_stopped_sink_of_its_own_chain_is_checkpointed_whole() {
    let flow = |sink: &GatedSink<u64>| {
        let flow = Dataflow::new("chained");
        let source = flow.source("numbers", GeneratorSource::new(Some(3), |n| n)).with_parallelism(1);
        source.flat_map("burst", many).sink("sink", sink.clone());
        flow
    };
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::stopped();
    let first = engine(&dir, CheckpointMode::Unaligned).build().unwrap();
    let job = first.run(flow(&sink)).unwrap();
    wait_until("the sink has taken its record", || sink.taken() == 1);
    job.checkpoint().unwrap();
    assert_eq!(sink.taken(), BURST, "the record that was half done was finished, and no other was begun");
    drop(first);
    sink.release();
    let second = engine(&dir, CheckpointMode::Unaligned).build().unwrap();
    outcome(&second.run(flow(&sink)).unwrap()).unwrap();
    assert!(sink.committed() == [(0..3 * BURST).collect::<Vec<_>>()], "each output came once and in order");
}

/// Writes down how many records the sink had taken when each checkpoint reached the source.
#[derive(Clone)]
struct Witness {
    sink: GatedSink<u64>,
    seen: Arc<Mutex<Vec<(CheckpointId, u64)>>>,
}

impl ProcessFunction<u64> for Witness {
    type Out = u64;
    type State = ();

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) -> Result<Vec<()>, BoxError> {
        self.seen.lock().unwrap().push((checkpoint, self.sink.taken()));
        Ok(Vec::new())
    }
}

#[test]
fn an_unaligned_checkpoint_does_not_wait_for_a_slow_sink_to_work_through_its_batch() {
    const BATCH: u64 = 1024;
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::open().with_work_per_record(Duration::from_millis(1));
    let seen = Arc::default();
    let witness = Witness { sink: sink.clone(), seen: Arc::clone(&seen) };
    let engine = small_engine()
        .workers(1)
        .checkpoint_dir(dir.path())
        .checkpoint_mode(CheckpointMode::Unaligned)
        .ring_batches(16)
        .batch_records(BATCH as usize)
        .build()
        .unwrap();
    let flow = Dataflow::new("slow");
    flow.source("numbers", GeneratorSource::new(None, |n| n))
        .process("witness", witness)
        .rebalance()
        .sink("sink", sink.clone());
    let job = engine.run(flow).unwrap();
    for _ in 0..3 {
        let before = sink.taken();
        wait_until("the sink is in the middle of batches", || {
            sink.taken() > before + 40 && entered(&job) > sink.taken() + 4 * BATCH
        });
        let id = job.checkpoint().unwrap();
        let taken = sink.taken();
        let at = |log: &[(CheckpointId, u64)]| log.iter().find(|(seen, _)| *seen == id).unwrap().1;
        let (source, prepared) = (at(&seen.lock().unwrap()), at(&sink.taken_at_prepare()));
        let apart = source.abs_diff(prepared);
        assert!(apart < BATCH / 8, "{apart} records between the snapshots of source and sink");
        let record = latest(&job);
        assert!(record.in_flight_records > 4 * BATCH);
        let after = taken - prepared;
        assert!(after < record.in_flight_records / 4, "{after} records until the checkpoint was durable");
    }
    job.cancel();
    assert!(outcome(&job).is_err());
}

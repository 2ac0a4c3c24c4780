//! Failures and panics of user code, wherever they happen: a failure with operator, partition and message, or a
//! restart that ends well; never a hang, never a wrong result.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use thalweg::clock::Nanos;
use thalweg::config::StateBackend;
use thalweg::connector::{
    BoxError, CollectSink, ConnectorContext, GeneratorSource, MemorySink, Sink, SinkSnapshot, SinkWriter,
};
use thalweg::job::EngineBuilder;
use thalweg::operator::Collector;
use thalweg::operators::ProcessFunction;
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{CheckpointId, CheckpointMode, Dataflow, RestartStrategy};
use thalweg_storage::manifest::Committable;
use thalweg_tests::support::{GatedSink, failure, outcome, small_engine, wait_until};

const RECORDS: u64 = 2000;

/// Where user code panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Map,
    FlatMapIterator,
    Key,
    Keyed,
    Snapshot,
    Completion,
    Write,
    Prepare,
    Open,
}

const PLACES: [Place; 9] = [
    Place::Map,
    Place::FlatMapIterator,
    Place::Key,
    Place::Keyed,
    Place::Snapshot,
    Place::Completion,
    Place::Write,
    Place::Prepare,
    Place::Open,
];

impl Place {
    /// The uid of the operator to be blamed.
    fn operator(self) -> &'static str {
        match self {
            Place::Map => "map",
            Place::FlatMapIterator => "flat",
            Place::Keyed => "keyed",
            // Keys are extracted where records are sent, so the blame falls on the chain before the exchange.
            Place::Key | Place::Snapshot | Place::Completion => "process",
            Place::Write | Place::Prepare | Place::Open => "sink",
        }
    }
}

/// Goes off at one place, a number of times.
#[derive(Clone)]
struct Mine {
    place: Place,
    left: Arc<AtomicU64>,
    armed: Arc<AtomicBool>,
}

impl Mine {
    fn new(place: Place, times: u64) -> Mine {
        Mine { place, left: Arc::new(AtomicU64::new(times)), armed: Arc::new(AtomicBool::new(true)) }
    }

    fn step_on(&self, place: Place) {
        if place == self.place && self.armed.load(Ordering::SeqCst) {
            let went_off =
                self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            assert!(went_off.is_err(), "boom at {place:?}");
        }
    }
}

#[derive(Clone)]
struct Careless(Mine);

impl ProcessFunction<u64> for Careless {
    type Out = u64;
    type State = ();

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<()>, BoxError> {
        self.0.step_on(Place::Snapshot);
        Ok(Vec::new())
    }

    fn checkpoint_complete(&mut self, _: CheckpointId) -> Result<(), BoxError> {
        self.0.step_on(Place::Completion);
        Ok(())
    }
}

#[derive(Clone)]
struct MinedSink(MemorySink<(u64, u64)>, Mine);

struct MinedWriter(<MemorySink<(u64, u64)> as Sink>::Writer, Mine);

impl Sink for MinedSink {
    type Record = (u64, u64);
    type State = ();
    type Writer = MinedWriter;

    fn writer(
        &self,
        context: ConnectorContext,
        restored: Vec<()>,
        committables: Vec<Committable>,
    ) -> Result<MinedWriter, BoxError> {
        self.1.step_on(Place::Open);
        Ok(MinedWriter(self.0.writer(context, restored, committables)?, self.1.clone()))
    }
}

impl SinkWriter for MinedWriter {
    type Record = (u64, u64);
    type State = ();

    fn write(&mut self, now: Nanos, record: (u64, u64)) -> Result<bool, BoxError> {
        self.1.step_on(Place::Write);
        self.0.write(now, record)
    }

    fn poll(&mut self, now: Nanos) -> Result<bool, BoxError> {
        self.0.poll(now)
    }

    fn prepare(&mut self, checkpoint: CheckpointId, end: bool) -> Result<SinkSnapshot<()>, BoxError> {
        self.1.step_on(Place::Prepare);
        self.0.prepare(checkpoint, end)
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        self.0.commit(committables)
    }

    fn committed(&self) -> bool {
        self.0.committed()
    }

    fn has_unprepared(&self) -> bool {
        self.0.has_unprepared()
    }
}

/// Every kind of operator, one of which stands on a mine. Emits each number once, with how often it was seen.
fn minefield(mine: &Mine, sink: &MemorySink<(u64, u64)>) -> Dataflow {
    let flow = Dataflow::new("minefield");
    let [on_map, on_flat, on_key, on_keyed] = [0; 4].map(|_| mine.clone());
    flow.source("numbers", GeneratorSource::new(Some(RECORDS / 2), |n| n))
        .map("map", move |n: u64| {
            if n == 100 {
                on_map.step_on(Place::Map);
            }
            n
        })
        .rebalance()
        .flat_map("flat", move |n: u64| {
            let mine = on_flat.clone();
            (0..2).map(move |half| {
                if n == 200 && half == 1 {
                    mine.step_on(Place::FlatMapIterator);
                }
                2 * n + half
            })
        })
        .process("process", Careless(mine.clone()))
        .key_by(move |n| {
            if *n == 300 {
                on_key.step_on(Place::Key);
            }
            *n
        })
        .process(
            "keyed",
            ValueStateDescriptor::<u64>::new("seen"),
            move |key: &u64, n, mut seen: ValueState<'_, u64, u64>, out: &mut Collector<(u64, u64)>| {
                if *key == 400 {
                    on_keyed.step_on(Place::Keyed);
                }
                let count = seen.value().unwrap_or(0) + 1;
                seen.update(count);
                out.collect((n, count));
                Ok(())
            },
        )
        .sink("sink", MinedSink(sink.clone(), mine.clone()));
    flow
}

const BACKENDS: [StateBackend; 2] = [StateBackend::HashMap, StateBackend::Log];

fn engine(dir: &TempDir) -> EngineBuilder {
    small_engine().checkpoint_dir(dir.path()).checkpoint_interval("2ms")
}

#[test]
fn a_panic_anywhere_fails_the_job_with_operator_partition_and_message() {
    for place in PLACES {
        let dir = TempDir::new().unwrap();
        let sink = MemorySink::new();
        let engine = engine(&dir).build().unwrap();
        let message = failure(&engine.run(minefield(&Mine::new(place, u64::MAX), &sink)).unwrap());
        for part in [place.operator(), "partition", "panicked", &format!("boom at {place:?}"), "no restart"] {
            assert!(message.contains(part), "{place:?}: `{part}` is missing in: {message}");
        }
        // The engine itself is none the worse.
        let flow = Dataflow::new("after");
        let after = CollectSink::new();
        flow.source("numbers", GeneratorSource::new(Some(3), |n| n)).sink("sink", after.clone());
        outcome(&engine.run(flow).unwrap()).unwrap();
        assert_eq!(after.collected().len(), 3);
    }
}

#[test]
fn a_panic_anywhere_is_survived_by_restarting_and_the_output_is_exactly_once() {
    for (place, backend) in PLACES.into_iter().flat_map(|place| BACKENDS.map(|backend| (place, backend))) {
        let dir = TempDir::new().unwrap();
        let sink = MemorySink::new();
        let delay = Duration::from_millis(1);
        let strategy = RestartStrategy::FixedDelay { attempts: 10, delay };
        let engine = engine(&dir).state_backend(backend).restart_strategy(strategy).build().unwrap();
        let job = engine.run(minefield(&Mine::new(place, 3), &sink)).unwrap();
        outcome(&job).unwrap_or_else(|error| panic!("{place:?}, {backend}: {error}"));
        let restarts = job.metrics().checkpoints.restarts;
        assert!((1..=3).contains(&restarts), "{place:?}: {restarts} restarts");
        let mut output = sink.committed().concat();
        output.sort();
        assert!(
            output == (0..RECORDS).map(|n| (n, 1)).collect::<Vec<_>>(),
            "{place:?}: {} records",
            output.len()
        );
    }
}

#[test]
fn restarts_that_are_used_up_fail_the_job_and_say_so() {
    let dir = TempDir::new().unwrap();
    let strategy = RestartStrategy::FixedDelay { attempts: 2, delay: Duration::from_millis(1) };
    let engine = engine(&dir).restart_strategy(strategy).build().unwrap();
    let mine = Mine::new(Place::Map, u64::MAX);
    let job = engine.run(minefield(&mine, &MemorySink::new())).unwrap();
    let message = failure(&job);
    assert!(message.contains("boom at Map") && message.contains("all 2 restarts"), "{message}");
    assert_eq!(job.metrics().checkpoints.restarts, 2);
    // Mended, the job continues from its checkpoint.
    mine.armed.store(false, Ordering::SeqCst);
    let sink = MemorySink::new();
    outcome(&engine.run(minefield(&mine, &sink)).unwrap()).unwrap();
}

#[test]
fn without_checkpoints_a_restart_begins_from_scratch_and_commits_once() {
    let sink = MemorySink::new();
    let strategy = RestartStrategy::FixedDelay { attempts: 10, delay: Duration::ZERO };
    let engine = small_engine().restart_strategy(strategy).build().unwrap();
    let job = engine.run(minefield(&Mine::new(Place::Keyed, 2), &sink)).unwrap();
    outcome(&job).unwrap();
    let mut output = sink.committed().concat();
    output.sort();
    assert!(output == (0..RECORDS).map(|n| (n, 1)).collect::<Vec<_>>(), "{} records", output.len());
}

#[test]
fn at_least_once_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let sink = MemorySink::new();
    let strategy = RestartStrategy::FixedDelay { attempts: 10, delay: Duration::ZERO };
    let engine = engine(&dir)
        .checkpoint_mode(CheckpointMode::AtLeastOnce)
        .restart_strategy(strategy)
        .ring_batches(2)
        .batch_records(8)
        .build()
        .unwrap();
    let job = engine.run(minefield(&Mine::new(Place::Keyed, 3), &sink)).unwrap();
    outcome(&job).unwrap();
    let mut numbers: Vec<u64> = sink.committed().concat().into_iter().map(|(n, _)| n).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers, (0..RECORDS).collect::<Vec<_>>());
}

#[test]
fn the_engine_restores_what_a_manual_checkpoint_holds_and_cancelling_commits_nothing_more() {
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::open();
    let flow = || {
        let flow = Dataflow::new("manual");
        let source = GeneratorSource::new(Some(50_000), |n| n);
        flow.source("numbers", source).with_rate_limit(100_000.0).rebalance().sink("sink", sink.clone());
        flow
    };
    let first = small_engine().checkpoint_dir(dir.path()).build().unwrap();
    let job = first.run(flow()).unwrap();
    wait_until("some records are through", || sink.taken() > 100);
    let id = job.checkpoint().unwrap();
    wait_until("the output is committed", || !sink.committed().concat().is_empty());
    job.cancel();
    assert!(outcome(&job).is_err());
    let committed = sink.committed().concat().len();
    let listed = sink.taken_at_prepare().iter().filter(|(at, _)| *at == id).map(|(_, n)| *n).max().unwrap();
    assert!(
        committed as u64 <= listed,
        "{committed} of {listed}: only what the checkpoint lists is committed"
    );
    drop(first);
    let second = small_engine().checkpoint_dir(dir.path()).build().unwrap();
    let job = second.run(flow()).unwrap();
    outcome(&job).unwrap();
    assert_eq!(job.metrics().checkpoints.restored, Some(id));
    let mut output = sink.committed().concat();
    output.sort();
    assert!(output == (0..50_000).collect::<Vec<u64>>(), "{} records", output.len());
}

#[test]
fn a_stuck_operator_is_named_with_its_partition_and_for_how_long() {
    let open = Arc::new(AtomicBool::new(false));
    let engine = small_engine().heartbeat_timeout("300ms").build().unwrap();
    let flow = Dataflow::new("stuck");
    let gate = Arc::clone(&open);
    flow.source("numbers", GeneratorSource::new(Some(100), |n| n))
        .key_by(|n: &u64| *n)
        .process(
            "stuck",
            ValueStateDescriptor::<u64>::new("value"),
            move |_: &u64, n: u64, _: ValueState<'_, u64, u64>, out: &mut Collector<u64>| {
                // Partition 1 of two, by the key's group.
                while n == 7 && !gate.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
                out.collect(n);
                Ok(())
            },
        )
        .sink("sink", CollectSink::new());
    let job = engine.run(flow).unwrap();
    let message = failure(&job);
    open.store(true, Ordering::SeqCst);
    assert!(
        message.contains("has stood still for 0.") || message.contains("has stood still for 1."),
        "{message}"
    );
    assert!(message.contains("operator stuck") && message.contains("partition "), "{message}");
    assert!(message.contains("has not returned"), "{message}");
}

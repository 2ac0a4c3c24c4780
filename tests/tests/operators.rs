//! Every operator of the builder, with values, on the whole engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;
use tempfile::TempDir;
use thalweg::connector::{
    BoxError, CollectSink, CountingSink, FileSource, GeneratorSource, MalformedPolicy, MemorySink, PullSink,
    PushSource, VecSource,
};
use thalweg::job::EngineBuilder;
use thalweg::operator::Collector;
use thalweg::operators::{CoProcessFunction, ProcessFunction, RuntimeContext};
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{CheckpointId, Dataflow, Engine, Error};
use thalweg_tests::support::{failure, outcome, small_engine, wait_until};

/// Runs `flow` to its end.
fn run_on(builder: EngineBuilder, flow: Dataflow) {
    let engine = builder.build().unwrap();
    outcome(&engine.run(flow).unwrap()).unwrap();
}

fn run(flow: Dataflow) {
    run_on(small_engine(), flow);
}

fn sorted<T: Ord + Clone + Send + 'static>(sink: &CollectSink<T>) -> Vec<T> {
    let mut records = sink.collected();
    records.sort();
    records
}

fn to(end: u64) -> GeneratorSource<u64, fn(u64) -> u64> {
    GeneratorSource::new(Some(end), |n| n)
}

#[test]
fn map_filter_and_flat_map_chain() {
    let sink = CollectSink::new();
    let flow = Dataflow::new("chain");
    flow.source("numbers", to(1000))
        .map("triple", |n: u64| 3 * n)
        .filter("even", |n: &u64| n.is_multiple_of(2))
        .flat_map("twice", |n: u64| [n, n + 1])
        .sink("sink", sink.clone());
    run(flow);
    let expected: Vec<u64> =
        (0..1000).map(|n| 3 * n).filter(|n: &u64| n.is_multiple_of(2)).flat_map(|n| [n, n + 1]).collect();
    assert_eq!(sorted(&sink), expected);
}

#[test]
fn a_source_with_no_records_ends_at_once() {
    let sink = CollectSink::new();
    let flow = Dataflow::new("nothing");
    flow.source("none", VecSource::new(Vec::<u64>::new()))
        .key_by(|n: &u64| *n)
        .count("count")
        .sink("sink", sink.clone());
    run(flow);
    assert!(sink.collected().is_empty());
}

#[test]
fn try_map_and_try_flat_map_pass_what_succeeds() {
    let sink = CollectSink::new();
    let flow = Dataflow::new("tries");
    flow.source("texts", VecSource::new(vec!["1".to_owned(), "20".to_owned(), "300".to_owned()]))
        .try_map("parse", |text: String| text.parse::<u64>())
        .try_flat_map("halves", |n: u64| if n > 0 { Ok(vec![n / 2; 2]) } else { Err("zero") })
        .sink("sink", sink.clone());
    run(flow);
    assert_eq!(sorted(&sink), [0, 0, 10, 10, 150, 150]);
}

#[test]
fn an_error_of_try_map_or_try_flat_map_fails_the_job_with_operator_partition_and_causes() {
    let engine = small_engine().build().unwrap();
    let texts = || VecSource::new(vec!["1".to_owned(), "two".to_owned()]);
    let flow = Dataflow::new("tries");
    flow.source("texts", texts())
        .try_map("parse", |t: String| t.parse::<u64>())
        .sink("s", CollectSink::new());
    let message = failure(&engine.run(flow).unwrap());
    for part in ["operator parse, partition 1 failed", "invalid digit", "allows no restart"] {
        assert!(message.contains(part), "{message}");
    }
    let flow = Dataflow::new("tries");
    flow.source("texts", texts())
        .with_parallelism(1)
        .try_flat_map("split", |t: String| if t == "two" { Err(format!("no {t}")) } else { Ok(vec![t]) })
        .sink("s", CollectSink::new());
    let message = failure(&engine.run(flow).unwrap());
    assert!(message.contains("operator split, partition 0 failed: no two"), "{message}");
}

/// Emits running sums, and the total at the end; each partition keeps its own.
#[derive(Clone, Default)]
struct Summing {
    sum: u64,
    closing: bool,
}

impl ProcessFunction<u64> for Summing {
    type Out = u64;
    type State = u64;

    fn open(&mut self, context: &RuntimeContext, restored: Vec<u64>) -> Result<(), BoxError> {
        assert!(context.subtask < context.parallelism && &*context.uid == "summing");
        assert_eq!(restored.is_empty(), context.restored_from.is_none());
        self.sum = restored.iter().sum();
        Ok(())
    }

    fn process(&mut self, record: u64, _: &mut Collector<u64>) -> Result<(), BoxError> {
        assert!(!self.closing, "no record follows the end of input");
        self.sum += record;
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<u64>, BoxError> {
        Ok(vec![self.sum])
    }

    fn close(&mut self, out: &mut Collector<u64>) -> Result<(), BoxError> {
        self.closing = true;
        out.collect(self.sum);
        Ok(())
    }
}

#[test]
fn process_keeps_state_over_a_restart_and_emits_at_its_end() {
    let dir = TempDir::new().unwrap();
    let sink = MemorySink::new();
    let flow = |source| {
        let flow = Dataflow::new("summing");
        let sums = flow.source("numbers", source).with_parallelism(1).rebalance();
        sums.process("summing", Summing::default()).sink("sink", sink.clone());
        flow
    };
    let builder = || small_engine().checkpoint_dir(dir.path());
    let first = builder().build().unwrap();
    let (ingress, source) = PushSource::channel(1000);
    let job = first.run(flow(source)).unwrap();
    (0..100).for_each(|n| ingress.push_at(n, n).unwrap());
    wait_until("all have been read", || {
        job.metrics().tasks.iter().any(|t| t.is_source && t.records_in == 100)
    });
    job.checkpoint().unwrap();
    wait_until("the source knows of the checkpoint", || ingress.last_checkpointed() == 100);
    ingress.push_at(100, 999).unwrap();
    drop(first);
    let second = builder().build().unwrap();
    let (ingress, source) = PushSource::channel(1000);
    let job = second.run(flow(source)).unwrap();
    (100..200).for_each(|n| ingress.push_at(n, n).unwrap());
    ingress.close();
    outcome(&job).unwrap();
    let sums: Vec<u64> = sink.committed().concat();
    assert_eq!(sums.len(), 2, "one total per partition");
    assert_eq!(sums.iter().sum::<u64>(), (0..200).sum::<u64>());
}

#[test]
fn keyed_process_reads_updates_modifies_and_clears_a_tuple_of_states() {
    let sink = CollectSink::new();
    let flow = Dataflow::new("states");
    let states = (ValueStateDescriptor::<u64>::new("count"), ValueStateDescriptor::<String>::new("text"));
    flow.source("numbers", to(600))
        .with_parallelism(1)
        .key_by(|n| n % 3)
        .process(
            "states",
            states,
            |key: &u64,
             n: u64,
             (mut count, mut text): (ValueState<'_, u64, u64>, ValueState<'_, u64, String>),
             out: &mut Collector<(u64, u64, String)>| {
                let seen = count.modify(
                    || 0,
                    |count| {
                        *count += 1;
                        *count
                    },
                );
                let before = text.value().unwrap_or_default();
                text.update(format!("{before}{key}"));
                if seen == 4 {
                    out.collect((n, count.value().unwrap(), text.value().unwrap()));
                    count.clear();
                    text.clear();
                    assert!(count.value().is_none() && text.value().is_none());
                }
                Ok(())
            },
        )
        .sink("sink", sink.clone());
    run(flow);
    // Every fourth record of a key, the states being cleared in between.
    let fours = (0..600_u64).filter(|n| (n / 3) % 4 == 3);
    let expected: Vec<_> = fours.map(|n| (n, 4, (n % 3).to_string().repeat(4))).collect();
    assert_eq!(sorted(&sink), expected);
}

#[test]
fn an_error_of_a_keyed_function_fails_the_job() {
    let engine = small_engine().build().unwrap();
    let flow = Dataflow::new("keyed");
    let state = ValueStateDescriptor::<u64>::new("state");
    flow.source("numbers", to(10))
        .key_by(|n| *n)
        .with_parallelism(1)
        .process(
            "refusing",
            state,
            |_: &u64, n, _: ValueState<'_, u64, u64>, _: &mut Collector<u64>| {
                if n == 7 { Err("seven is out".into()) } else { Ok(()) }
            },
        )
        .sink("sink", CollectSink::new());
    let message = failure(&engine.run(flow).unwrap());
    assert!(message.contains("operator refusing, partition 0 failed: seven is out"), "{message}");
}

#[test]
fn sum_count_and_reduce_emit_each_intermediate_result() {
    let (sums, counts, maxima) = (CollectSink::new(), CollectSink::new(), CollectSink::new());
    let flow = Dataflow::new("aggregates");
    let numbers = flow.source("numbers", to(100)).with_parallelism(1).share();
    numbers.stream().key_by(|n| n % 7).sum("sum", |n| *n).sink("sums", sums.clone());
    numbers.stream().key_by(|n| n % 7).count("count").sink("counts", counts.clone());
    let hashed = numbers.stream().with_parallelism(1).map("hash", |n: u64| (n % 7, n * 37 % 101));
    hashed
        .key_by(|(key, _)| *key)
        .reduce("max", |(key, max): &(u64, u64), (_, n): (u64, u64)| (*key, n.max(*max)))
        .sink("maxima", maxima.clone());
    run(flow);
    let (mut sum, mut count, mut max) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut expected: [Vec<(u64, u64)>; 3] = Default::default();
    for n in 0..100_u64 {
        let key = n % 7;
        *sum.entry(key).or_insert(0) += n;
        *count.entry(key).or_insert(0) += 1;
        let hash = n * 37 % 101;
        let largest = max.entry(key).or_insert(0);
        *largest = hash.max(*largest);
        expected[0].push((key, sum[&key]));
        expected[1].push((key, count[&key]));
        expected[2].push((key, max[&key]));
    }
    expected.iter_mut().for_each(|list| list.sort());
    assert_eq!([sorted(&sums), sorted(&counts), sorted(&maxima)], expected);
}

#[test]
fn union_merges_rebalance_spreads_and_a_shared_stream_goes_to_each_continuation() {
    let (all, evens) = (CollectSink::new(), CountingSink::new());
    let flow = Dataflow::new("shapes");
    let low = flow.source("low", to(1000));
    let high = flow.source("high", GeneratorSource::new(Some(500), |n| n + 1000)).map("id", |n: u64| n);
    let shared = low.union(high).rebalance().map("same", |n: u64| n).share();
    shared.stream().sink("all", all.clone());
    shared.stream().filter("even", |n: &u64| n.is_multiple_of(2)).rebalance().sink("evens", evens.clone());
    run(flow);
    assert_eq!(sorted(&all), (0..1500).collect::<Vec<_>>());
    assert_eq!(evens.count(), 750);
    let counts = evens.counts();
    assert!(counts[0].abs_diff(counts[1]) <= 2, "spread evenly: {counts:?}");
}

/// Tags what comes on which side.
#[derive(Clone, Default)]
struct Tagging(u64, u64);

impl CoProcessFunction<u64, String> for Tagging {
    type Out = String;
    type State = ();

    fn process_first(&mut self, record: u64, out: &mut Collector<String>) -> Result<(), BoxError> {
        self.0 += 1;
        out.collect(format!("number {record}"));
        Ok(())
    }

    fn process_second(&mut self, record: String, out: &mut Collector<String>) -> Result<(), BoxError> {
        self.1 += 1;
        out.collect(format!("text {record}"));
        Ok(())
    }

    fn close(&mut self, out: &mut Collector<String>) -> Result<(), BoxError> {
        out.collect(format!("{} and {}", self.0, self.1));
        Ok(())
    }
}

#[test]
fn connected_streams_of_two_types_meet_in_one_operator() {
    let sink = CollectSink::new();
    let flow = Dataflow::new("connected");
    let numbers = flow.source("numbers", to(3)).with_parallelism(1);
    let texts =
        flow.source("texts", VecSource::new(vec!["a".to_owned(), "b".to_owned()])).with_parallelism(1);
    numbers
        .rebalance()
        .connect(texts.rebalance())
        .process("tagging", Tagging::default())
        .with_parallelism(1)
        .sink("sink", sink.clone());
    run(flow);
    assert_eq!(sorted(&sink), ["3 and 2", "number 0", "number 1", "number 2", "text a", "text b"]);
}

#[test]
fn a_broadcast_stream_reaches_every_partition_of_a_connected_operator() {
    let sink = CollectSink::new();
    let flow = Dataflow::new("broadcast");
    let numbers = flow.source("numbers", to(100)).with_parallelism(1);
    let texts =
        flow.source("texts", VecSource::new(vec!["a".to_owned(), "b".to_owned()])).with_parallelism(1);
    numbers
        .rebalance()
        .connect(texts.broadcast())
        .process("tagging", Tagging::default())
        .with_parallelism(4)
        .sink("sink", sink.clone());
    run(flow);
    let lines = sink.collected();
    let count = |line: &str| lines.iter().filter(|l| *l == line).count();
    assert_eq!((count("text a"), count("text b"), count("25 and 2")), (4, 4, 4), "{lines:?}");
    assert_eq!(lines.iter().filter(|l| l.starts_with("number")).collect::<BTreeSet<_>>().len(), 100);
}

#[test]
fn keyed_connected_streams_share_the_state_of_their_key() {
    let sink = CollectSink::new();
    let flow = Dataflow::new("join");
    let orders = flow.source("orders", GeneratorSource::new(Some(100), |n| (n, 10 * n)));
    let payments = flow.source("payments", GeneratorSource::new(Some(100), |n| (99 - n, n)));
    orders
        .key_by(|order: &(u64, u64)| order.0)
        .connect(payments.key_by(|payment: &(u64, u64)| payment.0))
        .process(
            "join",
            ValueStateDescriptor::<(u64, bool)>::new("other side"),
            |key: &u64, (_, amount), mut seen: ValueState<'_, u64, (u64, bool)>, out: &mut Collector<_>| {
                match seen.value() {
                    Some((paid, false)) => out.collect((*key, amount, paid)),
                    _ => seen.update((amount, true)),
                }
                Ok(())
            },
            |key: &u64, (_, paid), mut seen: ValueState<'_, u64, (u64, bool)>, out: &mut Collector<_>| {
                match seen.value() {
                    Some((amount, true)) => out.collect((*key, amount, paid)),
                    _ => seen.update((paid, false)),
                }
                Ok(())
            },
        )
        .sink("sink", sink.clone());
    run(flow);
    assert_eq!(sorted(&sink), (0..100).map(|key| (key, 10 * key, 99 - key)).collect::<Vec<_>>());
}

#[test]
fn partition_custom_decides_and_a_wrong_decision_fails_the_job() {
    let sink = MemorySink::new();
    let flow = Dataflow::new("custom");
    flow.source("numbers", to(300))
        .partition_custom(|n, partitions| (*n as usize / 100) % partitions)
        .with_parallelism(3)
        .map("same", |n: u64| n)
        .sink("sink", sink.clone());
    run(flow);
    for (partition, mut records) in sink.committed().into_iter().enumerate() {
        records.sort();
        let first = 100 * partition as u64;
        assert_eq!(records, (first..first + 100).collect::<Vec<_>>());
    }
    let engine = small_engine().build().unwrap();
    let flow = Dataflow::new("custom");
    flow.source("numbers", to(300)).partition_custom(|_, partitions| partitions).sink("sink", sink);
    let message = failure(&engine.run(flow).unwrap());
    assert!(message.contains("operator numbers") && message.contains("partition 2 of 2"), "{message}");
}

#[test]
fn a_side_output_takes_what_the_main_output_does_not() {
    let (main, side) = (CollectSink::new(), CollectSink::new());
    let flow = Dataflow::new("sides");
    let (even, odd) = flow.source("numbers", to(1000)).process_with_side_output(
        "split",
        |n: u64, main: &mut Collector<u64>, side: &mut Collector<String>| {
            if n.is_multiple_of(2) {
                main.collect(n)
            } else {
                side.collect(n.to_string())
            }
            Ok(())
        },
    );
    even.sink("main", main.clone());
    odd.stream().try_map("parse", |text: String| text.parse::<u64>()).sink("side", side.clone());
    run(flow);
    assert_eq!(sorted(&main), (0..1000).step_by(2).collect::<Vec<_>>());
    assert_eq!(sorted(&side), (1..1000).step_by(2).collect::<Vec<u64>>());
}

/// Three good lines and two bad ones.
fn ndjson(dir: &TempDir) -> std::path::PathBuf {
    let path = dir.path().join("input.ndjson");
    fs::write(&path, "1\n2\nthree\n4\n{\"five\n").unwrap();
    path
}

#[test]
fn malformed_input_fails_the_job_is_left_out_or_is_diverted() {
    let dir = TempDir::new().unwrap();
    let path = ndjson(&dir);
    let source = || FileSource::ndjson::<u64>(&path);
    let engine = small_engine().build().unwrap();

    let flow = Dataflow::new("fail");
    flow.source("lines", source()).sink("sink", CollectSink::new());
    let message = failure(&engine.run(flow).unwrap());
    for part in ["operator lines", "offset 4", &path.to_string_lossy(), "choose to skip or divert"] {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }

    let sink = CollectSink::new();
    let flow = Dataflow::new("skip");
    flow.source_with("lines", source(), MalformedPolicy::Skip).sink("sink", sink.clone());
    let job = engine.run(flow).unwrap();
    outcome(&job).unwrap();
    assert_eq!(sorted(&sink), [1, 2, 4]);
    assert_eq!(job.metrics().tasks.iter().map(|task| task.records_skipped).sum::<u64>(), 2);

    let (sink, dead) = (CollectSink::new(), CollectSink::new());
    let flow = Dataflow::new("divert");
    let (good, bad) = flow.source_with_dead_letters("lines", source());
    good.sink("sink", sink.clone());
    bad.stream().map("place", |record| (record.offset, record.raw)).sink("dead", dead.clone());
    outcome(&engine.run(flow).unwrap()).unwrap();
    assert_eq!(sorted(&sink), [1, 2, 4]);
    assert_eq!(sorted(&dead), [(4, b"three".to_vec()), (12, b"{\"five".to_vec())]);
}

#[test]
fn a_rate_limit_holds_over_all_partitions() {
    let sink = CountingSink::new();
    let flow = Dataflow::new("limited");
    flow.source("numbers", to(400)).with_rate_limit(1000.0).sink("sink", sink.clone());
    let begin = Instant::now();
    run(flow);
    assert_eq!(sink.count(), 400);
    // A limit keeps things slow, however slow the machine is: 400 records at 1,000 a second, less a first burst.
    assert!(begin.elapsed().as_millis() > 200, "{:?}", begin.elapsed());
}

#[test]
fn a_host_thread_pushes_into_and_pulls_from_a_job() {
    let engine = small_engine().build().unwrap();
    let (ingress, source) = PushSource::channel(4);
    let (egress, sink) = PullSink::channel(4);
    let flow = Dataflow::new("host");
    flow.source("in", source).map("double", |n: u64| 2 * n).sink("out", sink);
    let job = engine.run(flow).unwrap();
    let pushing = std::thread::spawn(move || (0..1000).for_each(|n| ingress.push(n).unwrap()));
    let mut pulled = Vec::new();
    while let Some(record) = egress.recv() {
        pulled.push(record);
    }
    pushing.join().unwrap();
    outcome(&job).unwrap();
    assert_eq!(pulled, (0..1000).map(|n| 2 * n).collect::<Vec<_>>());
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Any executor will do; this is the smallest.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn an_async_host_pushes_into_and_pulls_from_a_job() {
    let dir = TempDir::new().unwrap();
    let engine = small_engine().checkpoint_dir(dir.path()).checkpoint_interval("5ms").build().unwrap();
    let (ingress, source) = PushSource::channel(4);
    let (egress, sink) = PullSink::committed_channel(4);
    let flow = Dataflow::new("async");
    flow.source("in", source).map("double", |n: u64| 2 * n).sink("out", sink);
    let job = engine.run(flow).unwrap();
    let pushing = std::thread::spawn(move || {
        block_on(async {
            for n in 0..1000 {
                ingress.push_async(n).await.unwrap();
            }
        });
    });
    let pulled = block_on(async {
        let mut pulled = Vec::new();
        while let Some(record) = egress.recv_async().await {
            pulled.push(record);
        }
        pulled
    });
    pushing.join().unwrap();
    outcome(&job).unwrap();
    assert_eq!(pulled, (0..1000).map(|n| 2 * n).collect::<Vec<_>>());
}

fn counting(name: &str, records: u64) -> (Dataflow, CollectSink<(u64, u64)>) {
    let sink = CollectSink::new();
    let flow = Dataflow::new(name);
    flow.source("numbers", to(records)).key_by(|n| n % 11).count("count").sink("sink", sink.clone());
    (flow, sink)
}

fn assert_counted(sink: &CollectSink<(u64, u64)>, records: u64) {
    let mut expected: Vec<_> = (0..records).map(|n| (n % 11, n / 11 + 1)).collect();
    expected.sort();
    assert_eq!(sorted(sink), expected);
}

#[test]
fn several_jobs_run_one_after_another_on_one_engine() {
    let dir = TempDir::new().unwrap();
    let engine = small_engine().checkpoint_dir(dir.path()).build().unwrap();
    for round in 0..5 {
        let (flow, sink) = counting(&format!("job-{round}"), 1000 + round);
        outcome(&engine.run(flow).unwrap()).unwrap();
        assert_counted(&sink, 1000 + round);
    }
}

#[test]
fn a_finished_job_that_runs_again_has_nothing_left_to_do() {
    let dir = TempDir::new().unwrap();
    let engine = small_engine().checkpoint_dir(dir.path()).build().unwrap();
    let sink = MemorySink::new();
    for _ in 0..3 {
        let flow = Dataflow::new("once");
        flow.source("numbers", to(500)).rebalance().map("same", |n: u64| n).sink("sink", sink.clone());
        outcome(&engine.run(flow).unwrap()).unwrap();
        assert_eq!(sink.committed_count(), 500);
    }
}

#[test]
fn two_engines_run_in_one_process() {
    let engines = [small_engine().build().unwrap(), small_engine().build().unwrap()];
    let jobs: Vec<_> = engines
        .iter()
        .map(|engine| {
            let (flow, sink) = counting("same", 20_000);
            (engine.run(flow).unwrap(), sink)
        })
        .collect();
    for (job, sink) in jobs {
        outcome(&job).unwrap();
        assert_counted(&sink, 20_000);
    }
}

#[test]
fn more_workers_than_cores_and_more_partitions_than_workers_work() {
    for (workers, parallelism) in [(9, 9), (2, 7), (1, 5), (3, 1)] {
        let (flow, sink) = counting("shape", 3000);
        run_on(Engine::builder().workers(workers).pin(false).parallelism(parallelism), flow);
        assert_counted(&sink, 3000);
    }
    // Pinning more workers than there are cores is no error either.
    let (flow, sink) = counting("pinned", 3000);
    run_on(Engine::builder().workers(17), flow);
    assert_counted(&sink, 3000);
}

#[test]
fn metrics_tell_what_went_where() {
    let engine = small_engine().build().unwrap();
    let (flow, sink) = counting("metrics", 5000);
    let job = engine.run(flow).unwrap();
    outcome(&job).unwrap();
    assert_counted(&sink, 5000);
    let tasks = job.metrics().tasks;
    assert_eq!(tasks.len(), 4, "two chains of two partitions: {tasks:?}");
    let (sources, counts): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|task| task.is_source);
    assert_eq!(sources.iter().map(|task| task.records_in).sum::<u64>(), 5000);
    assert_eq!(sources.iter().map(|task| task.records_out).sum::<u64>(), 5000);
    assert_eq!(sources.iter().map(|task| task.read.0).sum::<u64>(), 5000);
    assert_eq!(sources.iter().map(|task| task.read.1).sum::<u64>(), 5000);
    assert_eq!(counts.iter().map(|task| task.records_in).sum::<u64>(), 5000);
    assert_eq!(counts.iter().map(|task| task.records_out).sum::<u64>(), 0);
    assert!(counts.iter().all(|task| task.name == "count -> sink"), "{counts:?}");
}

#[test]
fn a_cancelled_job_ends_and_its_engine_runs_the_next() {
    let engine = small_engine().build().unwrap();
    let flow = Dataflow::new("endless");
    let sink = CountingSink::new();
    flow.source("numbers", GeneratorSource::new(None, |n| n))
        .key_by(|n: &u64| n % 5)
        .count("count")
        .sink("sink", sink.clone());
    let job = engine.run(flow).unwrap();
    wait_until("the job runs", || sink.count() > 1000);
    job.cancel();
    assert!(matches!(outcome(&job), Err(Error::Cancelled)));
    let count = sink.count();
    let (flow, next) = counting("next", 100);
    outcome(&engine.run(flow).unwrap()).unwrap();
    assert_counted(&next, 100);
    assert_eq!(sink.count(), count, "nothing of a cancelled job goes on");
}

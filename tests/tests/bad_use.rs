//! Mistakes of users: each is refused, and the message names the cause, the place and the cure.

use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use thalweg::connector::{
    BoxError, CollectSink, FileSink, FileSource, GeneratorSource, Ingress, MemorySink, PushSource,
};
use thalweg::dataflow::OperatorName;
use thalweg::job::EngineBuilder;
use thalweg::operator::Collector;
use thalweg::operators::{ProcessFunction, RuntimeContext};
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{CheckpointId, Data, Dataflow, Engine, Error, Key};
use thalweg_tests::support::{GatedSink, failure, outcome, small_engine, wait_until};

/// The message contains each of `parts`.
fn assert_says(error: impl ToString, parts: &[&str]) {
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing in: {message}");
    }
}

fn refuse(builder: EngineBuilder) -> Error {
    match builder.build() {
        Err(error) => error,
        Ok(_) => panic!("the settings should have been refused"),
    }
}

/// The error of a job that must not start.
fn refuse_flow(engine: &Engine, flow: Dataflow) -> Error {
    match engine.run(flow) {
        Err(error) => error,
        Ok(job) => panic!("the job should have been refused, but: {:?}", job.wait()),
    }
}

fn numbers(name: &str) -> Dataflow {
    let flow = Dataflow::new(name);
    flow.source("numbers", GeneratorSource::new(Some(10), |n| n)).sink("sink", CollectSink::new());
    flow
}

#[test]
fn two_operators_with_one_uid_are_refused() {
    let engine = small_engine().build().unwrap();
    let flow = Dataflow::new("twins");
    flow.source("numbers", GeneratorSource::new(Some(10), |n| n))
        .map("double", |n: u64| 2 * n)
        .rebalance()
        .map(OperatorName::new("another name").with_uid("double"), |n: u64| n)
        .sink("sink", CollectSink::new());
    let error = refuse_flow(&engine, flow);
    assert_says(&error, &["twins", "`double`", "give one of them another name or uid"]);
    assert!(matches!(error, Error::Dataflow { .. }));
}

#[test]
fn an_empty_dataflow_and_one_without_a_sink_are_refused() {
    let engine = small_engine().build().unwrap();
    let empty = refuse_flow(&engine, Dataflow::new("empty"));
    assert_says(empty, &["`empty`", "no operators", "add a source and a sink"]);
    let flow = Dataflow::new("headless");
    _ = flow.source("numbers", GeneratorSource::new(Some(10), |n| n)).map("id", |n: u64| n);
    assert_says(refuse_flow(&engine, flow), &["`headless`", "add a source and a sink"]);
}

#[test]
fn settings_that_cannot_be_used_are_refused_by_name() {
    assert_says(refuse(small_engine().workers(0)), &["`thalweg.workers`", "`0`", "from 1"]);
    let error = refuse(small_engine().checkpoint_interval("10 parsecs"));
    assert_says(error, &["`execution.checkpointing.interval`", "`10 parsecs`", "`500ms`"]);
    let error = refuse(small_engine().checkpoint_timeout("soon"));
    assert_says(error, &["`execution.checkpointing.timeout`", "`soon`", "`10s`"]);
    assert_says(refuse(small_engine().heartbeat_timeout("x")), &["`heartbeat.timeout`", "`x`"]);
    let error = refuse(small_engine().checkpoint_interval(Duration::from_secs(1)));
    assert_says(error, &["`execution.checkpointing.dir`", "need a directory"]);
    assert_says(refuse(small_engine().checkpoint_interval("0s")), &["`execution.checkpointing.interval`"]);
    assert_says(
        refuse(small_engine().max_parallelism(0)),
        &["`pipeline.max-parallelism`", "from 1 to 32768"],
    );
    let error = refuse(small_engine().parallelism(200));
    assert_says(error, &["`parallelism.default`", "200", "max parallelism 128"]);
    assert_says(refuse(small_engine().ring_batches(0)), &["`thalweg.channel.ring-batches`", "from 1"]);
    assert_says(refuse(small_engine().batch_records(0)), &["`thalweg.channel.batch-records`", "from 1"]);
    let error = refuse(small_engine().retained_checkpoints(0));
    assert_says(error, &["`execution.checkpointing.num-retained`", "from 1"]);
    assert_says(refuse(small_engine().max_concurrent_checkpoints(0)), &["max-concurrent-checkpoints"]);
    assert_says(
        refuse(small_engine().compression_level(40)),
        &["`thalweg.state.zstd-level`", "`40`", "from 1 to 22"],
    );
}

#[test]
fn an_operator_with_an_impossible_parallelism_is_refused() {
    let engine = small_engine().max_parallelism(8).build().unwrap();
    for parallelism in [0, 9] {
        let flow = Dataflow::new("wide");
        flow.source("numbers", GeneratorSource::new(Some(10), |n| n))
            .rebalance()
            .with_parallelism(parallelism)
            .map("many", |n: u64| n)
            .sink("sink", CollectSink::new());
        let error = refuse_flow(&engine, flow);
        assert_says(error, &["`many -> sink`", &format!("parallelism {parallelism}"), "between 1 and", "8"]);
    }
}

#[test]
fn a_job_name_that_is_no_directory_name_is_refused() {
    let dir = TempDir::new().unwrap();
    let engine = small_engine().checkpoint_dir(dir.path()).build().unwrap();
    for name in ["", "..", "a/b"] {
        assert_says(refuse_flow(&engine, numbers(name)), &[&format!("{name:?}"), "name of a directory"]);
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "no directory").unwrap();
    let below = file.join("checkpoints");
    let engine = small_engine().checkpoint_dir(&below).build().unwrap();
    let error = refuse_flow(&engine, numbers("job"));
    assert_says(&error, &[&below.to_string_lossy(), "Not a directory"]);
    assert!(matches!(error, Error::Checkpoints(_)));
    let engine = small_engine().build().unwrap();
    let flow = Dataflow::new("files");
    let below = file.join("output");
    flow.source("numbers", GeneratorSource::new(Some(10), |n| n)).sink("out", FileSink::lines(&below));
    let error = refuse_flow(&engine, flow);
    assert_says(error, &["out", &below.to_string_lossy(), "Not a directory"]);
}

#[test]
fn missing_input_is_refused() {
    let dir = TempDir::new().unwrap();
    let engine = small_engine().build().unwrap();
    let missing = dir.path().join("nowhere.ndjson");
    for path in [missing, dir.path().join("*.ndjson")] {
        let flow = Dataflow::new("files");
        flow.source("lines", FileSource::lines(&path)).sink("sink", CollectSink::new());
        let error = refuse_flow(&engine, flow);
        assert_says(&error, &["lines", &path.to_string_lossy()]);
        assert!(matches!(error, Error::Connector { .. }));
    }
}

#[test]
fn a_second_job_of_a_busy_engine_is_refused() {
    let engine = small_engine().build().unwrap();
    let (ingress, source) = PushSource::<u64>::channel(1);
    let flow = Dataflow::new("first");
    flow.source("numbers", source).sink("sink", CollectSink::new());
    let first = engine.run(flow).unwrap();
    let error = refuse_flow(&engine, numbers("second"));
    assert!(matches!(error, Error::Busy));
    assert_says(error, &["runs a job already", "wait for it, or build another engine"]);
    ingress.close();
    outcome(&first).unwrap();
    outcome(&engine.run(numbers("second")).unwrap()).unwrap();
}

#[test]
fn two_engines_on_one_checkpoint_directory_are_refused() {
    let dir = TempDir::new().unwrap();
    let engine = || small_engine().checkpoint_dir(dir.path()).build().unwrap();
    let (ingress, source) = PushSource::<u64>::channel(1);
    let flow = Dataflow::new("job");
    flow.source("numbers", source).sink("sink", CollectSink::new());
    let first = engine();
    let job = first.run(flow).unwrap();
    let second = engine();
    let error = refuse_flow(&second, numbers("job"));
    let path = dir.path().join("job");
    assert_says(error, &[&path.to_string_lossy(), "in use by another engine", "stop that engine, or choose"]);
    // Another job below the same root is no conflict.
    outcome(&second.run(numbers("other")).unwrap()).unwrap();
    ingress.close();
    outcome(&job).unwrap();
    // The lock goes with the job, not with the engine.
    outcome(&second.run(numbers("job")).unwrap()).unwrap();
}

#[test]
fn a_checkpoint_without_a_directory_is_refused_and_the_job_goes_on() {
    let engine = small_engine().build().unwrap();
    let (ingress, source) = PushSource::<u64>::channel(1);
    let flow = Dataflow::new("job");
    let sink = CollectSink::new();
    flow.source("numbers", source).sink("sink", sink.clone());
    let job = engine.run(flow).unwrap();
    ingress.push(1).unwrap();
    wait_until("the record is through", || sink.collected() == [1]);
    assert_says(job.checkpoint().unwrap_err(), &["checkpoints are off", "no checkpoint directory"]);
    ingress.push(2).unwrap();
    drop(ingress);
    outcome(&job).unwrap();
    assert_eq!(sink.collected(), [1, 2]);
    assert_says(job.checkpoint().unwrap_err(), &["the job has ended"]);
}

/// What a changed job changes.
struct Plan<K, V> {
    key: fn(&u64) -> K,
    value: fn(u64) -> V,
    uid: &'static str,
    state: &'static str,
    parallelism: u32,
}

impl Plan<u64, u64> {
    fn original() -> Self {
        Plan { key: |n| *n, value: |n| n, uid: "keyed", state: "last", parallelism: 2 }
    }
}

fn keyed<K: Key, V: Data>(plan: Plan<K, V>) -> (Ingress<u64>, MemorySink<u64>, Dataflow) {
    let (ingress, source) = PushSource::channel(100);
    let sink = MemorySink::new();
    let flow = Dataflow::new("changing");
    let value = plan.value;
    flow.source("numbers", source)
        .with_parallelism(1)
        .key_by(plan.key)
        .with_parallelism(plan.parallelism)
        .process(
            plan.uid,
            ValueStateDescriptor::<V>::new(plan.state),
            move |_: &K, n: u64, mut last: ValueState<'_, K, V>, out: &mut Collector<u64>| {
                last.update(value(n));
                out.collect(n);
                Ok(())
            },
        )
        .sink("sink", sink.clone());
    (ingress, sink, flow)
}

/// Leaves a checkpoint of `flow` in `dir` after ten records.
fn leave_checkpoint(dir: &Path, flow: Dataflow, ingress: &Ingress<u64>) {
    let engine = small_engine().checkpoint_dir(dir).build().unwrap();
    let job = engine.run(flow).unwrap();
    (0..10).for_each(|n| ingress.push(n).unwrap());
    wait_until("all records have been read", || {
        job.metrics().tasks.iter().any(|t| t.is_source && t.records_in == 10)
    });
    job.checkpoint().unwrap();
}

/// Why the job is not restored as `flow`, however often it may restart.
fn refuse_restore(dir: &Path, builder: EngineBuilder, flow: Dataflow) -> String {
    let builder = builder.restart_strategy(thalweg::RestartStrategy::default());
    let engine = builder.checkpoint_dir(dir).build().unwrap();
    match engine.run(flow) {
        Err(error) => error.to_string(),
        Ok(job) => failure(&job),
    }
}

#[test]
fn a_job_that_no_longer_fits_its_checkpoint_is_refused() {
    let dir = TempDir::new().unwrap();
    let (ingress, _, flow) = keyed(Plan::original());
    leave_checkpoint(dir.path(), flow, &ingress);
    drop(ingress);
    let refuse = |builder, flow| refuse_restore(dir.path(), builder, flow);

    let (_ingress, _, flow) = keyed(Plan::original());
    let message = refuse(small_engine().max_parallelism(64), flow);
    assert_says(message, &["max parallelism 128", "the job has 64", "start it with 128"]);

    let (_ingress, _, flow) = keyed(Plan { uid: "renamed", ..Plan::original() });
    let message = refuse(small_engine(), flow);
    assert_says(message, &["`keyed`", "which the job does not have", "give an operator that uid"]);

    let (_ingress, _, flow) = keyed(Plan { state: "latest", ..Plan::original() });
    assert_says(refuse(small_engine(), flow), &["keyed", "\"last\"", "new uid"]);

    let value = |n| format!("{n}");
    let Plan { key, uid, state, parallelism, .. } = Plan::original();
    let (_ingress, _, flow) = keyed(Plan { key, value, uid, state, parallelism });
    assert_says(
        refuse(small_engine(), flow),
        &["keyed", "\"last\"", "values of type u64", "wants String", "new uid"],
    );

    let key = |n: &u64| format!("{n}");
    let Plan { value, uid, state, parallelism, .. } = Plan::original();
    let (_ingress, _, flow) = keyed(Plan { key, value, uid, state, parallelism });
    assert_says(
        refuse(small_engine(), flow),
        &["keyed", "\"last\"", "keys of type u64", "wants String", "new uid"],
    );

    // None of this has harmed the checkpoint.
    let (ingress, sink, flow) = keyed(Plan::original());
    ingress.close();
    let engine = small_engine().checkpoint_dir(dir.path()).build().unwrap();
    let job = engine.run(flow).unwrap();
    outcome(&job).unwrap();
    assert!(job.metrics().checkpoints.restored.is_some());
    assert_eq!(sink.committed_count(), 10, "the restored committables, and nothing else");
}

/// Keeps operator state of type `S`.
#[derive(Clone)]
struct Keeper<S>(S);

impl<S: Data + Sync> ProcessFunction<u64> for Keeper<S> {
    type Out = u64;
    type State = S;

    fn open(&mut self, _: &RuntimeContext, restored: Vec<S>) -> Result<(), BoxError> {
        if let Some(state) = restored.into_iter().next() {
            self.0 = state;
        }
        Ok(())
    }

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<S>, BoxError> {
        Ok(vec![self.0.clone()])
    }
}

#[test]
fn operator_state_of_another_type_or_without_an_owner_is_refused() {
    let dir = TempDir::new().unwrap();
    let (ingress, source) = PushSource::<u64>::channel(100);
    let flow = Dataflow::new("keeper");
    flow.source("numbers", source).process("keeper", Keeper(7_u64)).sink("sink", MemorySink::new());
    leave_checkpoint(dir.path(), flow, &ingress);

    let (_ingress, source) = PushSource::<u64>::channel(100);
    let flow = Dataflow::new("keeper");
    flow.source("numbers", source)
        .process("keeper", Keeper("seven".to_owned()))
        .sink("sink", MemorySink::new());
    let message = refuse_restore(dir.path(), small_engine(), flow);
    assert_says(message, &["keeper", "elements of type u64", "String", "give the operator a new uid"]);

    let (_ingress, source) = PushSource::<u64>::channel(100);
    let flow = Dataflow::new("keeper");
    flow.source("numbers", source).map("keeper", |n: u64| n).sink("sink", MemorySink::new());
    let message = refuse_restore(dir.path(), small_engine(), flow);
    assert_says(message, &["keeper", "keeps none", "give this one a new uid"]);

    let flow = Dataflow::new("keeper");
    flow.source("numbers", GeneratorSource::new(Some(10), |n| n))
        .process("keeper", Keeper(7_u64))
        .sink("sink", MemorySink::new());
    let message = refuse_restore(dir.path(), small_engine(), flow);
    assert_says(message, &["numbers", "another kind of source", "give this one a new uid"]);

    let (_ingress, source) = PushSource::<u64>::channel(100);
    let flow = Dataflow::new("keeper");
    flow.source("numbers", source).process("keeper", Keeper(7_u64)).sink("sink", CollectSink::new());
    let message = refuse_restore(dir.path(), small_engine(), flow);
    assert_says(
        message,
        &["sink", "prepared by another kind of sink", "restore with the sink that wrote it"],
    );
}

#[test]
fn a_stopped_sink_does_not_keep_an_engine_from_shutting_down() {
    let engine = small_engine().ring_batches(1).batch_records(1).build().unwrap();
    let sink = GatedSink::stopped();
    let flow = Dataflow::new("stuck");
    flow.source("numbers", GeneratorSource::new(None, |n| n)).rebalance().sink("sink", sink.clone());
    let job = engine.run(flow).unwrap();
    wait_until("the sink has stopped the job", || sink.taken() > 0);
    drop(engine);
    assert!(matches!(outcome(&job), Err(Error::Cancelled)));
}

//! What a restore keeps, refuses and drops where the job has changed.

use std::sync::Arc;
use std::time::Duration;
use thalweg::connector::{BoxError, MemorySink, VecSource};
use thalweg::job::{EngineBuilder, RestoreMode, RestoreSettings, Simulation, SimulationOptions};
use thalweg::operator::Collector;
use thalweg::operators::{ProcessFunction, RuntimeContext};
use thalweg::{CheckpointId, CheckpointMode, Dataflow, Engine, RestartStrategy};
use thalweg_storage::io::{CrashProfile, SimDisk};
use thalweg_storage::manifest::OperatorStateMode;

const STEPS_MAX: u64 = 1_000_000;

fn engine(parallelism: u32) -> EngineBuilder {
    Engine::builder()
        .workers(2)
        .parallelism(parallelism)
        .checkpoint_dir("/checkpoints")
        .checkpoint_mode(CheckpointMode::Unaligned)
        .checkpoint_interval(Duration::from_micros(300))
        .ring_batches(1)
        .batch_records(2)
        .restart_strategy(RestartStrategy::None)
}

fn options(disk: &Arc<SimDisk>, seed: u64) -> SimulationOptions {
    SimulationOptions { disk: Arc::clone(disk), ..SimulationOptions::seeded(seed) }
}

/// Runs `flow` until a checkpoint holds in-flight data; gives that checkpoint, the number of its in-flight records, and the disk.
fn stopped_in_flight(flow: Dataflow, parallelism: u32, seed: u64) -> (CheckpointId, u64, Arc<SimDisk>) {
    let disk = SimDisk::new();
    let mut simulation = Simulation::new(engine(parallelism), flow, options(&disk, seed)).unwrap();
    while simulation.steps() < STEPS_MAX {
        simulation.step();
        assert!(!simulation.has_ended(), "the job has ended: {:?}", simulation.status());
        let stats = simulation.metrics().checkpoints;
        if let Some(latest) = stats.history.back().filter(|latest| latest.in_flight_records > 0) {
            assert_eq!(Some(latest.id), stats.latest);
            let (id, records) = (latest.id, latest.in_flight_records);
            return (id, records, simulation.crash(CrashProfile::KeepAll, seed));
        }
    }
    panic!("nothing was ever in flight");
}

fn numbers(splits: u32) -> VecSource<u64> {
    VecSource::new((0..400).collect()).with_splits(splits)
}

fn copy(n: u64) -> u64 {
    n
}

/// numbers → in turn → the operator `middle` → in turn → the sink.
fn three_steps(middle: &str, splits: u32, sink: &MemorySink<u64>) -> Dataflow {
    let flow = Dataflow::new("steps");
    flow.source("numbers", numbers(splits))
        .rebalance()
        .map(middle, copy)
        .rebalance()
        .sink("sink", sink.clone());
    flow
}

fn outcome(simulation: &mut Simulation) -> Result<(), String> {
    let outcome = simulation.run_until_finished(STEPS_MAX).expect("the job ends");
    outcome.map_err(|error| error.to_string())
}

#[test]
fn in_flight_data_of_an_edge_that_is_gone_are_refused_and_dropped_where_that_is_allowed() {
    let sink = MemorySink::new();
    let (checkpoint, in_flight, disk) = stopped_in_flight(three_steps("middle", 3, &sink), 2, 1);

    let refused = disk.crash_image(CrashProfile::KeepAll, 0);
    let mut simulation =
        Simulation::new(engine(3), three_steps("other", 3, &sink), options(&refused, 2)).unwrap();
    let message = outcome(&mut simulation).unwrap_err();
    assert!(message.contains("in-flight data of edge") && message.contains("middle"), "{message}");

    let path = format!("/checkpoints/steps/chk-{checkpoint}");
    let restore = RestoreSettings::from_path(path).mode(RestoreMode::Claim).allow_non_restored_state(true);
    let mut simulation =
        Simulation::from(engine(3), three_steps("other", 3, &sink), options(&disk, 2), &restore).unwrap();
    outcome(&mut simulation).unwrap();
    let mut committed: Vec<u64> = sink.committed().into_iter().flatten().collect();
    committed.sort_unstable();
    committed.dedup();
    assert_eq!(committed.len() as u64, 400 - in_flight, "all but what was in flight");
}

#[test]
fn restored_positions_count_and_not_the_splits_that_the_source_would_have_today() {
    for (seed, parallelism) in [(3, 1), (4, 5)] {
        let sink = MemorySink::new();
        let (_, _, disk) = stopped_in_flight(three_steps("middle", 3, &sink), 2, seed);
        // A source of seven splits would begin each of them anew.
        let flow = three_steps("middle", 7, &sink);
        let mut simulation = Simulation::new(engine(parallelism), flow, options(&disk, seed)).unwrap();
        outcome(&mut simulation).unwrap();
        let mut committed: Vec<u64> = sink.committed().into_iter().flatten().collect();
        committed.sort_unstable();
        assert_eq!(committed, (0..400).collect::<Vec<_>>(), "at parallelism {parallelism}");
    }
}

/// Passes records on; its union state is the subtask that it is, and every subtask finds all of them.
#[derive(Clone, Default)]
struct Known {
    own: Option<u64>,
    restored: Vec<u64>,
}

impl ProcessFunction<u64> for Known {
    type Out = u64;
    type State = u64;
    const STATE_MODE: OperatorStateMode = OperatorStateMode::Union;

    fn open(&mut self, context: &RuntimeContext, restored: Vec<u64>) -> Result<(), BoxError> {
        if context.restored_from.is_some() && restored != [0, 1] {
            return Err(format!("subtask {} found {restored:?}", context.subtask).into());
        }
        (self.own, self.restored) = (Some(u64::from(context.subtask)), restored);
        Ok(())
    }

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<u64>, BoxError> {
        let first = self.own == Some(0);
        Ok(if self.restored.is_empty() {
            self.own.into_iter().collect()
        } else if first {
            vec![0, 1]
        } else {
            Vec::new()
        })
    }
}

#[test]
fn every_subtask_finds_the_whole_union_list_at_any_parallelism() {
    for (seed, parallelism) in [(5, 1), (6, 2), (7, 5)] {
        let sink = MemorySink::new();
        let flow = || {
            let flow = Dataflow::new("union");
            let source = flow.source("numbers", numbers(3)).rebalance();
            source.process("known", Known::default()).rebalance().sink("sink", sink.clone());
            flow
        };
        let (_, _, disk) = stopped_in_flight(flow(), 2, seed);
        // While some subtasks have finished and others have not, checkpoints fail.
        let builder = engine(parallelism).tolerable_failed_checkpoints(1_000);
        let mut simulation = Simulation::new(builder, flow(), options(&disk, seed)).unwrap();
        outcome(&mut simulation).unwrap();
        assert_eq!(sink.committed_count(), 400, "at parallelism {parallelism}");
    }
}

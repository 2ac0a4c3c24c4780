//! Jobs whose sinks write to an outside system that fails: while it prepares, while it commits, between a checkpoint's completion and
//! the commit, and on restore; on real workers, on simulated ones, and through power losses.
//!
//! `THALWEG_SEED=<seed>` replays one seed of each simulated test; `THALWEG_RUNS=<n>` multiplies the number of seeds.

use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use thalweg::connector::{Calls, CommitRetries, GeneratorSource, Sink, TwoPhaseSink, WriteAheadSink};
use thalweg::job::{EngineBuilder, Simulation, SimulationOptions};
use thalweg::{Dataflow, Engine, RestartStrategy};
use thalweg_storage::io::{CrashProfile, SimDisk};
use thalweg_tests::bank::{Bank, Call, Failing};
use thalweg_tests::support::{self, failure, outcome, small_engine, wait_until};

const RECORDS: u64 = 3_000;

/// A simulated job that takes more steps is stuck.
const STEPS_MAX: u64 = 2_000_000;

fn retries() -> CommitRetries {
    CommitRetries { count: 3, pause: Duration::from_millis(1), pause_max: Duration::from_millis(4) }
}

fn two_phase(bank: &Bank, calls: Calls) -> TwoPhaseSink<Bank> {
    TwoPhaseSink::new(bank.clone()).calls(calls).commit_retries(retries())
}

fn write_ahead(bank: &Bank, calls: Calls) -> WriteAheadSink<Bank> {
    WriteAheadSink::new(bank.clone()).calls(calls).commit_retries(retries())
}

fn flow<S: Sink<Record = u64>>(sink: S, rate: f64) -> Dataflow {
    let flow = Dataflow::new("transfers");
    let numbers = GeneratorSource::new(Some(RECORDS), |n| n);
    flow.source("numbers", numbers).with_rate_limit(rate).rebalance().sink("bank", sink);
    flow
}

fn settings(builder: EngineBuilder, interval: Duration) -> EngineBuilder {
    builder
        .parallelism(2)
        .checkpoint_interval(interval)
        .ring_batches(2)
        .batch_records(8)
        .buffer_timeout(Duration::from_millis(1))
        .restart_strategy(RestartStrategy::FixedDelay { attempts: 50, delay: Duration::from_millis(1) })
}

/// Everything is visible once, and nothing is left behind.
fn assert_exactly_once(bank: &Bank, what: &str) {
    let mut visible = bank.visible();
    visible.sort_unstable();
    assert!(visible == (0..RECORDS).collect::<Vec<_>>(), "{what}: {} records are visible", visible.len());
    assert_eq!(bank.violations(), [""; 0], "{what}");
    assert_eq!(bank.prepared(), 0, "{what}");
}

/// What goes wrong, and whether the job has to restart for it.
const FAULTS: [(&str, Call, u64, u64, Failing, bool); 11] = [
    ("a transaction does not begin", Call::Begin, 3, 1, Failing::Refused, true),
    ("a write fails", Call::Write, 700, 1, Failing::Refused, true),
    ("a client panics while it writes", Call::Write, 900, 1, Failing::Panic, true),
    ("a prepare fails", Call::PreCommit, 3, 1, Failing::Refused, true),
    ("the answer to a prepare is lost", Call::PreCommit, 3, 1, Failing::AnswerLost, true),
    ("commits fail for a while", Call::Commit, 2, 3, Failing::Refused, false),
    ("answers to commits are lost for a while", Call::Commit, 2, 3, Failing::AnswerLost, false),
    ("commits fail for longer than they are tried again", Call::Commit, 2, 9, Failing::Refused, true),
    ("a client panics between completion and commit", Call::Commit, 2, 1, Failing::Panic, true),
    ("a client panics before its first commit", Call::Commit, 0, 1, Failing::Panic, true),
    ("markers can't be read", Call::Marker, 1, 2, Failing::Refused, false),
];

/// The faults that a sink of this kind can meet.
fn faults(is_two_phase: bool) -> impl Iterator<Item = (&'static str, Call, u64, u64, Failing, bool)> {
    let of_commits = |call| matches!(call, Call::Commit);
    FAULTS
        .into_iter()
        .filter(move |(_, call, ..)| of_commits(*call) || is_two_phase != matches!(call, Call::Marker))
}

/// Runs a job on real workers for each fault.
fn survive_on_workers<S: Sink<Record = u64>>(is_two_phase: bool, sink: impl Fn(&Bank) -> S) {
    for (what, call, skip, times, failing, restarts) in faults(is_two_phase) {
        let dir = TempDir::new().unwrap();
        let bank = Bank::new();
        bank.fail(call, skip, times, failing);
        let builder = settings(small_engine(), Duration::from_millis(10)).checkpoint_dir(dir.path());
        let engine = builder.build().unwrap();
        let job = engine.run(flow(sink(&bank), 30_000.0)).unwrap();
        outcome(&job).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_exactly_once(&bank, what);
        assert_eq!(bank.failed(), times, "{what}");
        let restarted = job.metrics().checkpoints.restarts;
        assert_eq!(restarted > 0, restarts, "{what}: {restarted} restarts");
    }
}

#[test]
fn two_phase_commits_survive_each_fault_on_helper_threads() {
    survive_on_workers(true, |bank| two_phase(bank, Calls::HelperThread));
}

#[test]
fn two_phase_commits_survive_each_fault_on_the_worker() {
    survive_on_workers(true, |bank| two_phase(bank, Calls::Worker));
}

#[test]
fn write_ahead_logs_survive_each_fault_on_helper_threads() {
    survive_on_workers(false, |bank| write_ahead(bank, Calls::HelperThread));
}

#[test]
fn write_ahead_logs_survive_each_fault_on_the_worker() {
    survive_on_workers(false, |bank| write_ahead(bank, Calls::Worker));
}

/// A restore that fails several times before one succeeds.
fn survive_failing_restores<S: Sink<Record = u64>>(calls: &[Call], sink: impl Fn(&Bank) -> S) {
    let dir = TempDir::new().unwrap();
    let bank = Bank::new();
    bank.fail(Call::Commit, 3, 1, Failing::Panic);
    // The first start opens two subtasks.
    bank.fail(Call::Open, 2, 2, Failing::Refused);
    let later: Vec<_> = calls.iter().filter(|call| **call != Call::Open).collect();
    later.iter().for_each(|call| bank.fail(**call, 2, 1, Failing::Refused));
    let builder = settings(small_engine(), Duration::from_millis(10)).checkpoint_dir(dir.path());
    let engine = builder.build().unwrap();
    let job = engine.run(flow(sink(&bank), 30_000.0)).unwrap();
    outcome(&job).unwrap();
    assert_exactly_once(&bank, "failing restores");
    assert!(job.metrics().checkpoints.restarts >= 3, "{}", job.metrics().checkpoints.restarts);
    assert!(bank.failed() >= 3);
}

#[test]
fn two_phase_commits_survive_failing_restores() {
    survive_failing_restores(&[Call::Open, Call::List], |bank| two_phase(bank, Calls::HelperThread));
}

#[test]
fn write_ahead_logs_survive_failing_restores() {
    survive_failing_restores(&[Call::Open, Call::Marker], |bank| write_ahead(bank, Calls::HelperThread));
}

/// Output of a completed checkpoint that the bank has lost: no restart can mend it.
fn stop_at_a_loss<S: Sink<Record = u64>>(sink: impl Fn(&Bank) -> S) {
    let dir = TempDir::new().unwrap();
    let bank = Bank::new();
    bank.fail(Call::Commit, 2, 1, Failing::Forgotten);
    let builder = settings(small_engine(), Duration::from_millis(10)).checkpoint_dir(dir.path());
    let engine = builder.build().unwrap();
    let job = engine.run(flow(sink(&bank), 30_000.0)).unwrap();
    let message = failure(&job);
    assert!(message.contains("is lost") && message.contains("bank"), "{message}");
    assert_eq!(job.metrics().checkpoints.restarts, 0);
    assert!((bank.visible().len() as u64) < RECORDS);
}

#[test]
fn a_two_phase_commit_of_a_forgotten_transaction_stops_the_job() {
    stop_at_a_loss(|bank| two_phase(bank, Calls::HelperThread));
}

#[test]
fn a_write_ahead_log_that_can_never_be_written_stops_the_job() {
    stop_at_a_loss(|bank| write_ahead(bank, Calls::HelperThread));
}

#[test]
fn jobs_without_checkpoints_commit_everything_at_their_end() {
    for calls in [Calls::Worker, Calls::HelperThread] {
        let bank = Bank::new();
        let engine = small_engine().build().unwrap();
        outcome(&engine.run(flow(two_phase(&bank, calls), 1e6)).unwrap()).unwrap();
        assert_exactly_once(&bank, "two-phase commit");
        let bank = Bank::new();
        outcome(&engine.run(flow(write_ahead(&bank, calls), 1e6)).unwrap()).unwrap();
        assert_exactly_once(&bank, "write-ahead log");
    }
}

#[test]
fn a_blocked_commit_blocks_no_worker() {
    // The only worker also runs another source and sink, which go on while the bank does not answer.
    let bank = Bank::new();
    let gate = bank.hold_commits();
    let dir = TempDir::new().unwrap();
    let builder = settings(small_engine(), Duration::from_millis(5)).workers(1).parallelism(1);
    let engine = builder.checkpoint_dir(dir.path()).build().unwrap();
    let flow = flow(two_phase(&bank, Calls::HelperThread), 30_000.0);
    let endless = GeneratorSource::new(None, |n| n);
    let counted = thalweg::connector::CountingSink::new();
    flow.source("endless", endless).with_rate_limit(10_000.0).sink("count", counted.clone());
    let job = engine.run(flow).unwrap();
    wait_until("a commit is being held", || bank.held() > 0);
    let before = counted.count();
    wait_until("the other sink goes on", || counted.count() >= before + 100);
    assert!(bank.visible().is_empty());
    drop(gate);
    wait_until("everything is committed", || bank.visible().len() as u64 == RECORDS);
    job.cancel();
    assert!(outcome(&job).is_err());
    assert_exactly_once(&bank, "held commits");
}

/// Runs `run` by `seeds` seeds, or by the one to replay.
fn try_seeds(seeds: u64, run: impl Fn(u64)) {
    for seed in support::seeds(seeds) {
        println!("THALWEG_SEED={seed}");
        run(seed);
    }
}

fn simulated(disk: &Arc<SimDisk>, seed: u64, flow: Dataflow) -> Simulation {
    let builder = settings(Engine::builder(), Duration::from_millis(4))
        .workers(1 + seed as usize % 3)
        .pin(false)
        .max_concurrent_checkpoints(1 + seed as usize % 2)
        .checkpoint_dir("/checkpoints");
    let options = SimulationOptions { disk: Arc::clone(disk), ..SimulationOptions::seeded(seed) };
    Simulation::new(builder, flow, options).expect("the job starts")
}

/// Every fault, at a random moment.
fn survive_simulated<S: Sink<Record = u64>>(is_two_phase: bool, seeds: u64, sink: impl Fn(&Bank) -> S) {
    try_seeds(seeds, |seed| {
        for (what, call, skip, times, failing, _) in faults(is_two_phase) {
            let bank = Bank::new();
            bank.fail(call, (skip + seed) % (skip + 5), times, failing);
            let mut simulation = simulated(&SimDisk::new(), seed, flow(sink(&bank), 50_000.0));
            let ended = simulation.run_until_finished(STEPS_MAX);
            assert!(matches!(ended, Some(Ok(()))), "{what}, seed {seed}: {ended:?}");
            assert_exactly_once(&bank, &format!("{what}, seed {seed}"));
        }
    });
}

#[test]
fn two_phase_commits_survive_each_fault_simulated() {
    survive_simulated(true, 4, |bank| two_phase(bank, Calls::Worker));
}

#[test]
fn write_ahead_logs_survive_each_fault_simulated() {
    survive_simulated(false, 4, |bank| write_ahead(bank, Calls::Worker));
}

/// Power losses: the bank keeps what it has, the job what its disk has synced.
fn survive_power_losses<S: Sink<Record = u64>>(seeds: u64, sink: impl Fn(&Bank) -> S) {
    try_seeds(seeds, |seed| {
        let bank = Bank::new();
        let mut disk = SimDisk::new();
        let mut committed = 0;
        for life in 0..5 {
            let seed = seed * 1_000 + life;
            if life % 2 == 1 {
                bank.fail(Call::Commit, seed % 3, 1 + seed % 6, Failing::AnswerLost);
            }
            let mut simulation = simulated(&disk, seed, flow(sink(&bank), 20_000.0));
            let steps = 500 + seed * 7919 % 9_000;
            while simulation.steps() < steps && !simulation.has_ended() {
                simulation.step();
            }
            let profiles =
                [CrashProfile::LoseAll, CrashProfile::KeepAll, CrashProfile::Prefix, CrashProfile::Weak];
            disk = simulation.crash(profiles[life as usize % 4], seed);
            committed = committed.max(bank.visible().len());
        }
        bank.disarm();
        let mut simulation = simulated(&disk, seed, flow(sink(&bank), 50_000.0));
        let ended = simulation.run_until_finished(STEPS_MAX);
        assert!(matches!(ended, Some(Ok(()))), "seed {seed}: {ended:?}");
        assert_exactly_once(&bank, &format!("seed {seed}"));
    });
}

#[test]
fn two_phase_commits_survive_power_losses() {
    survive_power_losses(12, |bank| two_phase(bank, Calls::Worker));
}

#[test]
fn write_ahead_logs_survive_power_losses() {
    survive_power_losses(12, |bank| write_ahead(bank, Calls::Worker));
}

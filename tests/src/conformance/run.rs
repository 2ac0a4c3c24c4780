//! Runs one job, on real workers or on simulated ones, and judges it.

use super::control::Control;
use super::sink::VerifyingSink;
use super::topology::{Placement, Scenario};
use super::verdict::{Outcome, Verdict, Watch, judge};
use std::sync::Arc;
use std::time::{Duration, Instant};
use thalweg::connector::MemorySink;
use thalweg::job::{EngineBuilder, Simulation, SimulationOptions};
use thalweg::{DriverChoice, Engine, RestartStrategy};
use thalweg_storage::io::{CrashProfile, Fault, OpKind, SimDisk};

/// A job that takes longer than this is stuck. Generous: the machine is busy on purpose.
const WATCHDOG: Duration = Duration::from_secs(300);

/// A simulated job that takes more steps is stuck.
const STEPS_MAX: u64 = 1_000_000;

/// What all jobs have in common.
pub fn settings(
    scenario: &Scenario,
    ring_batches: usize,
    batch_records: usize,
    interval: Duration,
) -> EngineBuilder {
    Engine::builder()
        .parallelism(scenario.parallelism)
        .pin(false)
        .checkpoint_interval(interval)
        .checkpoint_mode(scenario.mode.setting())
        .ring_batches(ring_batches)
        .batch_records(batch_records)
        .buffer_timeout(Duration::from_millis(2))
        .restart_strategy(RestartStrategy::FixedDelay { attempts: 100, delay: Duration::from_millis(3) })
}

/// A job on real workers.
#[derive(Clone, Copy, Debug)]
pub struct RealRun {
    /// The job.
    pub scenario: Scenario,
    /// Its driver.
    pub driver: DriverChoice,
    /// Number of workers.
    pub workers: usize,
    /// Varies ring and batch sizes.
    pub number: usize,
}

impl RealRun {
    /// Runs it to its end.
    pub fn run(&self) -> Outcome {
        let scenario = &self.scenario;
        let interval = Duration::from_millis(12);
        let control = Control::new(interval, scenario.splits());
        let committed = MemorySink::new();
        let sink = VerifyingSink { control: control.clone(), committed: committed.clone() };
        let dir = tempfile::tempdir().expect("a temporary directory");
        let engine = settings(scenario, 1 + self.number % 2, 2 + self.number % 4, interval)
            .workers(self.workers)
            .driver(self.driver)
            .checkpoint_dir(dir.path())
            .build()
            .expect("an engine");
        let job = engine.run(scenario.flow(&control, sink)).expect("the job starts");
        let begin = Instant::now();
        let mut watch = Watch::default();
        let mut ended = None;
        while ended.is_none() && begin.elapsed() < WATCHDOG {
            ended = job.wait_timeout(Duration::from_millis(2));
            watch.look(&job.metrics().checkpoints);
        }
        let stats = job.metrics().checkpoints;
        let stuck = ended.is_none().then(|| format!("{:?}", job.metrics().tasks));
        let mut verdict = judge(scenario, &control, &committed, &stats, ended);
        verdict.violations.extend(stuck);
        watch.outcome(&control, verdict, 0)
    }
}

/// A job on simulated workers.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedRun {
    /// The job.
    pub scenario: Scenario,
    /// Where its subtasks run.
    pub placement: Placement,
    /// Decides everything else.
    pub seed: u64,
}

impl SimulatedRun {
    /// Runs it to its end.
    pub fn run(&self) -> Outcome {
        let (scenario, seed) = (&self.scenario, self.seed as usize);
        let interval = Duration::from_millis(5);
        let control = Control::new(interval, scenario.splits());
        let committed = MemorySink::new();
        let sink = VerifyingSink { control: control.clone(), committed: committed.clone() };
        let builder = settings(scenario, 1 + seed % 2, 2 + seed % 5, interval)
            .workers(self.placement.workers(scenario.parallelism, self.seed))
            .max_concurrent_checkpoints(1 + seed % 3)
            .checkpoint_dir("/checkpoints");
        let options = SimulationOptions::seeded(self.seed);
        let mut simulation =
            Simulation::new(builder, scenario.flow(&control, sink), options).expect("the job starts");
        let mut watch = Watch::default();
        let mut ended = None;
        while ended.is_none() && simulation.steps() < STEPS_MAX {
            ended = simulation.run_until_finished(100);
            watch.look(&simulation.metrics().checkpoints);
        }
        let metrics = simulation.metrics();
        let stuck = ended.is_none().then(|| format!("{:?} {:?}", simulation.now(), metrics.tasks));
        let mut verdict = judge(scenario, &control, &committed, &metrics.checkpoints, ended);
        verdict.violations.extend(stuck);
        watch.outcome(&control, verdict, digest(&simulation))
    }
}

/// A job on simulated workers whose machine loses power and whose disk fails, several times.
#[derive(Clone, Copy, Debug)]
pub struct CrashRun {
    /// The job.
    pub scenario: Scenario,
    /// Decides everything else.
    pub seed: u64,
}

/// Power losses of a [`CrashRun`].
const CRASHES: u64 = 6;

/// Operations of the disk before a crash at most.
const OPS_MAX: u64 = 1_500;

/// Steps before a crash at most.
const LIFE_STEPS_MAX: u64 = 20_000;

/// What may fail; reads and lengths are not asked for while a job runs.
const FAULTS: [OpKind; 6] =
    [OpKind::Open, OpKind::Write, OpKind::SyncData, OpKind::Rename, OpKind::SyncDir, OpKind::CreateDir];

impl CrashRun {
    /// Runs it to its end.
    pub fn run(&self) -> Outcome {
        let scenario = &self.scenario;
        let interval = Duration::from_millis(5);
        let control = Control::unscheduled(interval, scenario.splits());
        let committed = MemorySink::new();
        let mut random = Random(self.seed);
        let mut disk = SimDisk::new();
        let mut watch = Watch::default();
        let mut lives = Vec::new();
        for life in 0..=CRASHES {
            let last = life == CRASHES;
            let sink = VerifyingSink { control: control.clone(), committed: committed.clone() };
            let builder =
                settings(scenario, 1 + random.below(2) as usize, 2 + random.below(5) as usize, interval)
                    .workers(1 + random.below(6) as usize)
                    .retained_checkpoints(1 + random.below(3) as usize)
                    .max_concurrent_checkpoints(1 + random.below(3) as usize)
                    .tolerable_failed_checkpoints(random.below(3) as u32)
                    .checkpoint_dir("/checkpoints");
            let options =
                SimulationOptions { disk: Arc::clone(&disk), ..SimulationOptions::seeded(random.next()) };
            let started = Simulation::new(builder, scenario.flow(&control, sink), options);
            let mut simulation = match started {
                Ok(simulation) => simulation,
                Err(error) => {
                    let violations = vec![format!("life {life} does not start: {error}; before: {lives:?}")];
                    return watch.outcome(&control, Verdict { violations, ..Verdict::default() }, 0);
                }
            };
            if last {
                control.end();
                let mut ended = None;
                while ended.is_none() && simulation.steps() < STEPS_MAX {
                    ended = simulation.run_until_finished(100);
                    watch.look_at_life(&simulation.metrics().checkpoints, life);
                }
                let stats = simulation.metrics().checkpoints;
                let mut verdict = judge(scenario, &control, &committed, &stats, ended);
                if !verdict.violations.is_empty() {
                    verdict.violations.push(format!("lives: {lives:?}"));
                }
                return watch.outcome(&control, verdict, digest(&simulation));
            }
            let faults: Vec<_> = (0..random.below(3))
                .map(|_| (FAULTS[random.below(FAULTS.len() as u64) as usize], random.below(200)))
                .collect();
            for (kind, skip) in &faults {
                disk.fail_after(*kind, *skip, Fault::Io);
            }
            let stop = disk.op_count() + random.below(OPS_MAX) as usize;
            disk.stop_after(stop);
            let steps = random.below(LIFE_STEPS_MAX);
            while !simulation.has_ended() && simulation.steps() < steps && disk.op_count() < stop {
                simulation.step();
            }
            // What the job does with a machine that has stopped already must not matter.
            for _ in 0..random.below(50) {
                simulation.step();
            }
            let stats = simulation.metrics().checkpoints;
            watch.look_at_life(&stats, life);
            let profile =
                [CrashProfile::LoseAll, CrashProfile::KeepAll, CrashProfile::Prefix, CrashProfile::Weak]
                    [random.below(4) as usize];
            lives.push(format!(
                "{profile:?} after {} steps, faults {faults:?}, {:?}, {} completed, {} restarts",
                simulation.steps(),
                simulation.status(),
                stats.completed,
                stats.restarts
            ));
            disk = simulation.crash(profile, random.next());
        }
        unreachable!("the last life returns")
    }
}

/// The SplitMix64 generator.
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A hash (FNV-1a) of what the disk was asked to do, in order.
fn digest(simulation: &Simulation) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let log = format!("{:?} {:?}", simulation.disk().op_log(), simulation.now());
    for byte in log.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    hash
}

//! The simulated driver of a whole engine: workers, coordinator, clock and disk on one thread, scheduled by a seed.
//!
//! Always true:
//! - the same flow, settings and seed give the same run, operation of the disk by operation of the disk;
//! - nothing happens outside [`Simulation::step`], and each step lets one participant do one thing;
//! - requests of workers are completed in an arbitrary order some time later; the coordinator and deployments, which
//!   may wait for the disk, have theirs completed at once, and those of a failed attempt before the next is deployed;
//! - time passes a little with each step and each look at the clock, and jumps only when nobody has anything to do.

mod reports;

use super::handle::{job_metrics, outcome};
use super::{
    EngineBuilder, JobMetrics, RestoreSettings, Restoring, Surroundings, checked_graph, coordinator_config,
    found, runner_parts,
};
use crate::clock::{Clock, Nanos, SimClock};
use crate::control::{Report, StopMode};
use crate::coordinator::{CoordinatorHandle, JobShared, JobStatus, Runner};
use crate::dataflow::Dataflow;
use crate::error::Error;
use crate::graph::TaskCounters;
use crate::task::Budget;
use crate::worker::SimWorkers;
use reports::ReportRoute;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_storage::CheckpointId;
use thalweg_storage::checkpoint::CheckpointStore;
use thalweg_storage::io::{CrashProfile, DiskHandle, SimDisk};

/// How a simulation runs.
#[derive(Clone)]
pub struct SimulationOptions {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// The disk; an empty one by default.
    pub disk: Arc<SimDisk>,
    /// A poll of a task processes 1 to this many records.
    pub budget_records_max: usize,
    /// Time that passes between two steps at most.
    pub step_max: Duration,
    /// Requests of workers that take much longer than others; none by default.
    pub slow_io: Option<SlowIo>,
}

/// A disk that hesitates now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowIo {
    /// One in so many requests is slow.
    pub one_in: u64,
    /// It completes so much later at most.
    pub longest: Duration,
}

impl SimulationOptions {
    /// A simulation by `seed` on an empty disk.
    pub fn seeded(seed: u64) -> Self {
        SimulationOptions {
            seed,
            disk: SimDisk::new(),
            budget_records_max: 64,
            step_max: Duration::from_micros(20),
            slow_io: None,
        }
    }
}

/// One job on simulated workers.
pub struct Simulation {
    runner: Runner,
    coordinator: CoordinatorHandle,
    reports: Arc<ReportRoute>,
    shared: Arc<JobShared>,
    counters: Arc<Mutex<Vec<TaskCounters>>>,
    workers: SimWorkers,
    clock: Arc<TickingClock>,
    disk: Arc<SimDisk>,
    random: Random,
    budget_records_max: u64,
    step_max_ns: u64,
    slow_io: Option<SlowIo>,
    /// When each request that waits may complete at the earliest, in the disk's order.
    due: Vec<Nanos>,
    slowed: u64,
    /// How often each worker, the disk and the coordinator are chosen, relative to each other.
    weights: Vec<u64>,
    /// When the coordinator wants a step although no message comes.
    coordinator_due: Option<Nanos>,
    steps: u64,
}

/// Who may do something next.
#[derive(Clone, Copy)]
enum Turn {
    Worker(usize),
    Disk(usize),
    Coordinator,
}

impl Simulation {
    /// The job `flow` on an engine of these settings, whose driver and pinning do not matter here. It has not started.
    ///
    /// # Errors
    /// As of [`super::Engine::run`].
    pub fn new(builder: EngineBuilder, flow: Dataflow, options: SimulationOptions) -> Result<Self, Error> {
        Self::start(builder, flow, options, None)
    }

    /// As [`Simulation::new`], from a savepoint or checkpoint that the caller names.
    ///
    /// # Errors
    /// As of [`super::Engine::run_from`].
    pub fn from(
        builder: EngineBuilder,
        flow: Dataflow,
        options: SimulationOptions,
        restore: &RestoreSettings,
    ) -> Result<Self, Error> {
        Self::start(builder, flow, options, Some(restore))
    }

    fn start(
        builder: EngineBuilder,
        flow: Dataflow,
        options: SimulationOptions,
        restore: Option<&RestoreSettings>,
    ) -> Result<Self, Error> {
        let config = builder.config()?;
        let mut random = Random(options.seed);
        let clock = Arc::new(TickingClock {
            clock: SimClock::default(),
            ticks: AtomicU64::new(random.next()),
            wall_ahead_ms: AtomicU64::new(0),
        });
        let shown: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let workers = SimWorkers::new(config.workers, &shown);
        let disk = DiskHandle::new(Arc::clone(&options.disk) as _);
        let job = flow.name().to_owned();
        let graph = checked_graph(flow, &config, &disk)?;
        let from = found(restore, &config, &disk)?;
        let backend = match &config.checkpoint_dir {
            Some(dir) => Some(CheckpointStore::open_unlocked(disk.clone(), dir, &job)?),
            None => None,
        };
        let counters = Arc::default();
        let parts = runner_parts(
            job,
            graph,
            backend,
            Restoring {
                from,
                allow_non_restored_state: restore.is_some_and(|restore| restore.allow_non_restored_state),
            },
            &config,
            coordinator_config(&config, builder.restart(), builder.heartbeat()),
            Surroundings {
                disk,
                clock: shown,
                doorbells: (0..workers.count()).map(|worker| workers.doorbell(worker)).collect(),
                // Requests of several threads would reach the disk in any order.
                restore_threads: 1,
            },
            (0..workers.count()).map(|worker| workers.link(worker)).collect(),
            Arc::clone(&counters),
        );
        let shared = Arc::clone(&parts.shared);
        let (mut runner, coordinator) = Runner::new(parts);
        let reports = runner.route_reports(ReportRoute::new);
        // Some participants are many times slower than others, and each seed slows down others.
        let weights = (0..config.workers + 2).map(|_| 1 << random.below(5)).collect();
        Ok(Simulation {
            runner,
            coordinator,
            reports,
            shared,
            counters,
            workers,
            clock,
            disk: options.disk,
            random,
            budget_records_max: options.budget_records_max.max(1) as u64,
            step_max_ns: options.step_max.as_nanos() as u64,
            slow_io: options.slow_io,
            due: Vec::new(),
            slowed: 0,
            weights,
            coordinator_due: None,
            steps: 0,
        })
    }

    /// Steps until the job has ended, `steps_max` times at most; `None` when it still runs then.
    pub fn run_until_finished(&mut self, steps_max: u64) -> Option<Result<(), Error>> {
        for _ in 0..steps_max {
            if self.has_ended() {
                return Some(outcome(self.status()));
            }
            self.step();
        }
        None
    }

    /// Lets one participant do one thing.
    pub fn step(&mut self) {
        self.steps += 1;
        let now = self.clock.pass(Duration::from_nanos(self.random.below(self.step_max_ns + 1)));
        let mut turns = self.turns(now);
        if turns.is_empty() {
            // The coordinator may have messages, which nobody can see from here.
            self.step_coordinator(now);
            let nothing_to_do = self.turns(now).is_empty();
            if nothing_to_do && self.coordinator_due.is_none_or(|due| due > now) {
                self.skip_idle_time();
            }
            return;
        }
        let coordinator = self.weights[self.workers.count()];
        turns.push((coordinator, Turn::Coordinator));
        let mut left = self.random.below(turns.iter().map(|(weight, _)| weight).sum());
        let chosen = turns.into_iter().find(|(weight, _)| {
            let hit = left < *weight;
            left = left.saturating_sub(*weight);
            hit
        });
        match chosen.expect("the number drawn lies below the sum of the weights").1 {
            Turn::Worker(worker) => self.step_worker(worker, now),
            Turn::Disk(requests) => self.complete_request(requests, now),
            Turn::Coordinator => self.step_coordinator(now),
        }
    }

    /// Workers that have something to do, and the disk if it has.
    fn turns(&self, now: Nanos) -> Vec<(u64, Turn)> {
        let mut turns = Vec::new();
        for worker in 0..self.workers.count() {
            if self.workers.is_runnable(worker) || self.workers.wake_at(worker).is_some_and(|at| at <= now) {
                turns.push((self.weights[worker], Turn::Worker(worker)));
            }
        }
        let requests = self.due.iter().filter(|due| **due <= now).count();
        if requests > 0 {
            turns.push((self.weights[self.workers.count() + 1], Turn::Disk(requests)));
        }
        turns
    }

    fn step_worker(&mut self, worker: usize, now: Nanos) {
        let budget = Budget {
            records: 1 + self.random.below(self.budget_records_max) as usize,
            nanos: 1 + self.random.below(50_000),
        };
        self.workers.set_budget(worker, budget);
        self.disk.set_deferred(true);
        self.workers.step(worker, now);
        self.disk.set_deferred(false);
        for _ in self.due.len()..self.disk.pending().len() {
            let due = match self.slow_io {
                Some(slow) if self.random.below(slow.one_in) == 0 => {
                    self.slowed += 1;
                    now.after(Duration::from_nanos(self.random.below(slow.longest.as_nanos() as u64)))
                }
                _ => now,
            };
            self.due.push(due);
        }
    }

    /// Completes any of the `requests` requests that may complete by now.
    fn complete_request(&mut self, requests: usize, now: Nanos) {
        let chosen = self.random.below(requests as u64) as usize;
        let mut ready = (0..self.due.len()).filter(|index| self.due[*index] <= now);
        if let Some(index) = ready.nth(chosen) {
            self.complete(index);
        }
    }

    fn complete(&mut self, index: usize) {
        self.due.remove(index);
        self.disk.complete_next(index);
    }

    fn step_coordinator(&mut self, now: Nanos) {
        if self.status() == JobStatus::Restarting {
            // The deployment to come may wait for what the attempt before has asked for, and nobody else has a turn meanwhile.
            while !self.due.is_empty() {
                let index = self.random.below(self.due.len() as u64) as usize;
                self.complete(index);
            }
        }
        self.coordinator_due = self.runner.step(now);
    }

    fn skip_idle_time(&mut self) {
        let workers = (0..self.workers.count()).filter_map(|worker| self.workers.wake_at(worker));
        if let Some(next) = workers.chain(self.coordinator_due).chain(self.due.iter().copied()).min() {
            self.clock.clock.advance_to(next);
        }
        self.workers.beat();
    }

    /// Where the job stands.
    pub fn status(&self) -> JobStatus {
        self.shared.status()
    }

    /// True once nothing will happen any more.
    pub fn has_ended(&self) -> bool {
        self.runner.has_ended()
    }

    /// Counters of tasks, checkpoints and restarts.
    pub fn metrics(&self) -> JobMetrics {
        job_metrics(&self.counters, &self.workers.tasks(), self.now(), &self.shared)
    }

    /// Asks for a checkpoint; the answer comes during later steps.
    pub fn checkpoint(&self) -> Receiver<Result<CheckpointId, String>> {
        self.coordinator.trigger_checkpoint(None)
    }

    /// Asks for a savepoint below `root`, an absolute path, and with `stop` for the job's stop; the answer comes during
    /// later steps.
    pub fn savepoint(&self, root: &Path, stop: Option<StopMode>) -> Receiver<Result<PathBuf, String>> {
        self.coordinator.trigger_savepoint(root, stop)
    }

    /// Cancels the job, during later steps.
    pub fn cancel(&self) {
        self.coordinator.cancel();
    }

    /// Lets both clocks jump ahead, as those of a machine that was suspended do.
    pub fn jump(&self, time: Duration) {
        self.clock.pass(time);
    }

    /// Sets the wall clock to so much ahead of the simulated time since the engine was built; less than before sets it back.
    /// The monotonic clock does not notice.
    pub fn set_wall_clock_ahead(&self, time: Duration) {
        self.clock.wall_ahead_ms.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// How many requests were slow so far.
    pub fn slowed(&self) -> u64 {
        self.slowed
    }

    /// Shows `filter` each report of a task or worker on its way to the coordinator, which gets what it returns instead. It
    /// takes the place of an earlier filter.
    pub fn filter_reports(&self, filter: impl FnMut(Report) -> Vec<Report> + Send + 'static) {
        self.reports.set_filter(Box::new(filter));
    }

    /// Gives the coordinator a report as though a task had just made it, past the filter.
    pub fn report(&self, report: Report) {
        self.reports.deliver(report);
    }

    /// Simulated time since the engine was built.
    pub fn now(&self) -> Nanos {
        self.clock.clock.now()
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The disk.
    pub fn disk(&self) -> &Arc<SimDisk> {
        &self.disk
    }

    /// Loses power: gives the disk that is found afterwards, for another simulation of the same job.
    pub fn crash(self, profile: CrashProfile, seed: u64) -> Arc<SimDisk> {
        // A copy, so that what tasks still ask of the disk while they are dropped never happened.
        self.disk.crash_image(profile, seed)
    }
}

/// A simulated clock on which each look takes some time, so that slices of work end early here and there.
struct TickingClock {
    clock: SimClock,
    ticks: AtomicU64,
    wall_ahead_ms: AtomicU64,
}

/// What one look at the clock takes at most.
const LOOK_NS_MAX: u64 = 2_000;

impl TickingClock {
    fn pass(&self, time: Duration) -> Nanos {
        let now = self.clock.now().after(time);
        self.clock.advance_to(now);
        now
    }
}

impl Clock for TickingClock {
    fn now(&self) -> Nanos {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        self.pass(Duration::from_nanos(mix(ticks) % LOOK_NS_MAX))
    }

    fn unix_ms(&self) -> u64 {
        self.clock.unix_ms() + self.wall_ahead_ms.load(Ordering::Relaxed)
    }
}

/// The SplitMix64 generator (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number below `bound`, which is not zero.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The finaliser of SplitMix64.
fn mix(seed: u64) -> u64 {
    let mut z = seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

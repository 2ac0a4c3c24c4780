//! Lives of a whole job on one simulated disk, with faults, until the job has finished.
//!
//! The oracle:
//! - a checkpoint that was reported complete is recovered after a loss of power at that very moment, all of its files
//!   whole, and no restore goes back behind it;
//! - a job that fails for good names a fault that it has met, and a job on what is left of its disk, without faults,
//!   finishes;
//! - a job that finishes has written every count of every key, exactly once and in order.

use super::mined::{MinedMap, MinedSink, Mines, Place, SAYING};
use super::{Kind, Tally, count_disk_faults};
use crate::random::Random;
use crate::simulated::{self, JOB, STEPS_MAX, count_of, judge_output, latest_whole};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg::job::{Simulation, SimulationOptions, SlowIo};
use thalweg::operator::Collector;
use thalweg::operators::KeyedContext;
use thalweg::state::{ListState, ListStateDescriptor, ValueState, ValueStateDescriptor};
use thalweg::{Dataflow, EngineBuilder, JobStatus, RestartStrategy};
use thalweg_storage::io::{CrashProfile, Fault, OpKind, SimDisk};

/// Lives with faults on one disk; one without follows.
const FAULTY_LIVES: u64 = 3;
/// Counts that wait for a key's timer at most.
const WAITING_MAX: u64 = 4;
/// How long counts wait.
const PAUSE_MS: i64 = 2;
/// Faults strike in the first so many steps of a life, or not at all.
const STEPS: u64 = 4_000;

/// A kind of job, and what goes wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultyLife {
    /// Its state lives on the log backend, with little memory; else in hash maps.
    pub log: bool,
    /// Counts wait in lists for timers of processing time.
    pub timers: bool,
    /// The faults that are armed.
    pub kinds: Vec<Kind>,
}

/// How a life ended.
enum End {
    Finished,
    /// For this reason.
    Failed(String),
    /// The machine stopped.
    Stopped,
}

/// What changes while a life goes on.
struct Schedule {
    /// Nothing can grow from the first of these steps to the second.
    full: (u64, u64),
    /// At these steps both clocks jump ahead by so much.
    jumps: BTreeMap<u64, Duration>,
    /// At these steps the wall clock is set to so much ahead.
    wall: BTreeMap<u64, Duration>,
}

impl FaultyLife {
    /// The life that `seed` says: any kind of job with one kind of fault in turn and up to three others.
    pub fn of_seed(seed: u64) -> Self {
        let mut random = Random::of_part(seed, 4);
        let mut kinds = vec![Kind::ALL[(seed % Kind::ALL.len() as u64) as usize]];
        for _ in 0..random.below(4) {
            kinds.push(Kind::ALL[random.below(Kind::ALL.len() as u64) as usize]);
        }
        kinds.sort();
        kinds.dedup();
        FaultyLife { log: random.below(2) == 0, timers: random.below(2) == 0, kinds }
    }

    /// Lives by `seed` on one disk until the job has finished, and counts what happened in `tally`.
    ///
    /// # Errors
    /// What was wrong.
    pub fn live(&self, seed: u64, tally: &mut Tally) -> Result<(), String> {
        let mut random = Random::of_part(seed, 5);
        let mut disk = SimDisk::new();
        let mut complete = 0;
        for number in 0..=FAULTY_LIVES {
            let kinds = if number < FAULTY_LIVES { self.kinds.as_slice() } else { &[] };
            let mut life = Life { of: self, kinds, random: &mut random, complete, tally };
            let (end, left) = life.live(disk).map_err(|wrong| format!("life {number}: {wrong}"))?;
            complete = life.complete;
            match end {
                End::Finished => {
                    tally.finished += 1;
                    return judge_output(&left).map_err(|wrong| {
                        tally.audit.add(wrong.audit);
                        format!("life {number}: {wrong}")
                    });
                }
                End::Failed(error) if kinds.is_empty() => {
                    return Err(format!("life {number}, without faults: {error}"));
                }
                End::Failed(_) => tally.failed += 1,
                End::Stopped => tally.crashed += 1,
            }
            disk = left;
        }
        Err("the last life has stopped".to_owned())
    }

    fn flow(&self, mines: &Mines) -> Dataflow {
        let flow = Dataflow::new(JOB);
        let keys = flow
            .source("numbers", simulated::numbers())
            .with_rate_limit(simulated::RATE)
            .process("mined", MinedMap(mines.clone()))
            .key_by(|key: &u64| *key);
        let sink = MinedSink(simulated::output(), mines.clone());
        if !self.timers {
            keys.count("count").sink("output", sink);
            return flow;
        }
        let states =
            (ListStateDescriptor::<u64>::new("waiting"), ValueStateDescriptor::<Counts>::new("counts"));
        keys.process_with_timers(
            "count",
            states,
            |context: &mut KeyedContext<'_, u64>, key: u64, states: States<'_>, out: &mut Collector<Row>| {
                let (mut waiting, mut counts) = states;
                let (count, waits) = counts.value().unwrap_or_default();
                waiting.add(count + 1);
                counts.update((count + 1, waits + 1));
                // The last count lets everything out: timers do not fire at the end.
                if waits + 1 >= WAITING_MAX || count + 1 == count_of(key) {
                    let_out(key, &mut waiting, &mut counts, out);
                } else if waits == 0 {
                    let mut timers = context.timer_service();
                    let time = timers.current_processing_time() + PAUSE_MS;
                    timers.register_processing_time_timer(time);
                }
                Ok(())
            },
            |context: &mut KeyedContext<'_, u64>, _, states: States<'_>, out: &mut Collector<Row>| {
                let (mut waiting, mut counts) = states;
                let_out(*context.current_key(), &mut waiting, &mut counts, out);
                Ok(())
            },
        )
        .sink("output", sink);
        flow
    }
}

type Row = (u64, u64);
/// The count so far, and how many of them wait.
type Counts = (u64, u64);
type States<'a> = (ListState<'a, u64, u64>, ValueState<'a, u64, Counts>);

fn let_out(
    key: u64,
    waiting: &mut ListState<'_, u64, u64>,
    counts: &mut ValueState<'_, u64, Counts>,
    out: &mut Collector<Row>,
) {
    waiting.get().into_iter().for_each(|count| out.collect((key, count)));
    waiting.clear();
    let (count, _) = counts.value().unwrap_or_default();
    counts.update((count, 0));
}

/// One start of the job, to its end.
struct Life<'a> {
    of: &'a FaultyLife,
    kinds: &'a [Kind],
    random: &'a mut Random,
    /// The newest checkpoint that was reported complete.
    complete: u64,
    tally: &'a mut Tally,
}

impl Life<'_> {
    /// Lives on `disk`; gives the end, and what is left of the disk.
    fn live(&mut self, disk: Arc<SimDisk>) -> Result<(End, Arc<SimDisk>), String> {
        self.tally.lives += 1;
        self.kinds.iter().for_each(|kind| self.tally.faults.entry(*kind).or_default().armed += 1);
        let mines = Mines::default();
        self.arm(&disk, &mines);
        let schedule = self.schedule();
        let options = SimulationOptions {
            disk: Arc::clone(&disk),
            slow_io: self.has(Kind::SlowIo).then(|| SlowIo {
                one_in: 3 + self.random.below(40),
                longest: Duration::from_millis(1 << self.random.below(10)),
            }),
            ..SimulationOptions::seeded(self.random.next_u64())
        };
        let simulation = Simulation::new(self.builder(), self.of.flow(&mines), options);
        let mut met = BTreeMap::new();
        let (end, left) = match simulation {
            Ok(mut simulation) => {
                let end = self.run(&mut simulation, &schedule, &mut met)?;
                *met.entry(Kind::SlowIo).or_default() += simulation.slowed();
                count_disk_faults(&disk, &mut met);
                let left = match end {
                    // As it is: nothing is lost.
                    End::Finished => Arc::clone(&disk),
                    // All that the kernel has is gone, or some of it.
                    End::Failed(_) | End::Stopped => {
                        let profiles = [CrashProfile::KeepAll, CrashProfile::Weak, CrashProfile::LoseAll];
                        simulation.crash(profiles[self.random.below(3) as usize], self.random.next_u64())
                    }
                };
                (end, left)
            }
            Err(error) => {
                count_disk_faults(&disk, &mut met);
                let end = if disk.has_stopped() { End::Stopped } else { End::Failed(error.to_string()) };
                (end, disk.crash_image(CrashProfile::KeepAll, 0))
            }
        };
        for (kind, place) in PANICS {
            *met.entry(kind).or_default() += place.iter().map(|place| mines.went_off(*place)).sum::<u64>();
        }
        for (kind, count) in &met {
            if self.has(*kind) {
                self.tally.faults.entry(*kind).or_default().met += count;
            }
        }
        if let End::Failed(error) = &end
            && !met.iter().any(|(kind, count)| *count > 0 && names(error, *kind))
            && !self.kinds.is_empty()
        {
            return Err(format!("the job fails and does not say of what, {met:?}: {error}"));
        }
        Ok((end, left))
    }

    fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    fn builder(&mut self) -> EngineBuilder {
        let strategy = match (self.kinds.is_empty(), self.random.below(4)) {
            (true, _) => RestartStrategy::None,
            (false, choice) => RestartStrategy::FixedDelay {
                attempts: [1, 3, 10, 100][choice as usize],
                delay: Duration::from_millis(1 + self.random.below(10)),
            },
        };
        let builder = simulated::builder(self.of.log, self.random).restart_strategy(strategy);
        let builder = builder.tolerable_failed_checkpoints([0, 2, 100][self.random.below(3) as usize]);
        match self.kinds.is_empty() || self.random.below(2) == 0 {
            true => builder,
            false => builder.checkpoint_timeout(Duration::from_millis(20 + self.random.below(100))),
        }
    }

    /// Arms what strikes at some operation of the disk, or somewhere in user code.
    fn arm(&mut self, disk: &SimDisk, mines: &Mines) {
        use OpKind::{Close, CreateDir, Length, List, Open, Remove, RemoveDir, Rename, SyncData, SyncDir};
        for kind in self.kinds {
            let random = &mut *self.random;
            let times = 1 + random.below(3);
            for _ in 0..times {
                match kind {
                    Kind::SyncError => {
                        let kind = [SyncData, SyncData, SyncDir][random.below(3) as usize];
                        disk.fail_after(kind, random.below(80), Fault::Io);
                    }
                    Kind::WriteError => disk.fail_after(OpKind::Write, random.below(80), Fault::Io),
                    Kind::ReadError => disk.fail_after(OpKind::Read, random.below(8), Fault::Io),
                    Kind::ShortRead => disk.fail_after(OpKind::Read, random.below(8), Fault::Short),
                    Kind::MetadataError => {
                        let kinds = [
                            Open,
                            Rename,
                            CreateDir,
                            List,
                            Remove,
                            RemoveDir,
                            Length,
                            Close,
                            OpKind::Truncate,
                        ];
                        let kind = kinds[random.below(kinds.len() as u64) as usize];
                        disk.fail_after(kind, random.below(25), Fault::Io);
                    }
                    Kind::NoSpace => {
                        let kind = [OpKind::Write, Open, CreateDir][random.below(3) as usize];
                        disk.fail_after(kind, random.below(60), Fault::NoSpace);
                    }
                    Kind::TornWrite if disk.armed_faults() == 0 || random.below(2) == 0 => {
                        disk.fail_after(OpKind::Write, random.below(25), Fault::Torn);
                    }
                    _ => {}
                }
            }
            // What is read, is read by a job that restarts.
            let rereads = matches!(kind, Kind::ReadError | Kind::ShortRead) && random.below(4) > 0;
            if *kind == Kind::PanicInMap || rereads {
                mines.arm(Place::Map, 1 + random.below(250));
            }
            match kind {
                Kind::PanicInOpen => mines.arm(Place::Open, 1 + random.below(6)),
                Kind::PanicInSnapshot => mines.arm(Place::Snapshot, 1 + random.below(40)),
                Kind::PanicInSink => mines.arm(Place::Write, 1 + random.below(250)),
                Kind::PanicInCommit => mines.arm(Place::Commit, 1 + random.below(12)),
                _ => {}
            }
        }
    }

    fn schedule(&mut self) -> Schedule {
        let mut schedule =
            Schedule { full: (u64::MAX, u64::MAX), jumps: BTreeMap::new(), wall: BTreeMap::new() };
        let has = |kind| self.kinds.contains(&kind);
        let random = &mut *self.random;
        if has(Kind::NoSpace) {
            let from = random.below(STEPS);
            schedule.full = (from, from + random.below(STEPS));
        }
        if has(Kind::ClockJump) {
            let jump = |random: &mut Random| Duration::from_millis(1 << random.below(18));
            schedule.jumps = (0..3).map(|_| (random.below(STEPS), jump(random))).collect();
        }
        if has(Kind::WallClockSet) {
            let ahead = |random: &mut Random| Duration::from_millis(3_600_000 + random.below(10_000));
            schedule.wall = (0..6).map(|_| (random.below(STEPS), ahead(random))).collect();
            schedule.wall.insert(0, Duration::from_millis(3_605_000));
        }
        schedule
    }

    fn run(
        &mut self,
        simulation: &mut Simulation,
        schedule: &Schedule,
        met: &mut BTreeMap<Kind, u64>,
    ) -> Result<End, String> {
        let mut restored = None;
        let disk = Arc::clone(simulation.disk());
        let mut last = simulation.metrics().checkpoints;
        while !simulation.has_ended() && simulation.steps() < STEPS_MAX && !disk.has_stopped() {
            let step = simulation.steps();
            if step == schedule.full.0 || step == schedule.full.1 {
                disk.set_full(step == schedule.full.0 && schedule.full.0 < schedule.full.1);
            }
            if let Some(time) = schedule.jumps.get(&step) {
                simulation.jump(*time);
                *met.entry(Kind::ClockJump).or_default() += 1;
            }
            if let Some(time) = schedule.wall.get(&step) {
                simulation.set_wall_clock_ahead(*time);
                *met.entry(Kind::WallClockSet).or_default() += 1;
            }
            simulation.step();
            last = simulation.metrics().checkpoints;
            if last.restored != restored {
                restored = last.restored;
                self.tally.restores += 1;
                let id = restored.map_or(0, |id| id.0);
                if id < self.complete {
                    return Err(format!("checkpoint {id} is restored, but {} was complete", self.complete));
                }
            }
            if let Some(latest) = last.latest
                && latest.0 > self.complete
            {
                self.complete = latest.0;
                self.check_recovery(&disk)?;
            }
        }
        disk.set_full(false);
        self.tally.restarts += last.restarts;
        self.tally.checkpoints += last.completed;
        self.tally.failed_checkpoints += last.failed;
        match simulation.status() {
            _ if disk.has_stopped() => Ok(End::Stopped),
            JobStatus::Finished => Ok(End::Finished),
            JobStatus::Failed(error) => Ok(End::Failed(error)),
            status => Err(format!("the job is stuck after {} steps: {status:?}", simulation.steps())),
        }
    }

    /// Loses power now, and looks for the checkpoint that is said to be complete.
    fn check_recovery(&mut self, disk: &SimDisk) -> Result<(), String> {
        for profile in [CrashProfile::LoseAll, CrashProfile::Weak] {
            self.tally.recoveries_checked += 1;
            let image = disk.crash_image(profile, self.random.next_u64());
            let found = latest_whole(&image);
            let found =
                found.map_err(|error| format!("checkpoint {} is reported: {error}", self.complete))?;
            if found.is_none_or(|id| id.0 < self.complete) {
                return Err(format!("checkpoint {} was reported, recovered is {found:?}", self.complete));
            }
        }
        Ok(())
    }
}

/// Which panic is of which kind.
const PANICS: [(Kind, &[Place]); 5] = [
    (Kind::PanicInMap, &[Place::Map]),
    (Kind::PanicInOpen, &[Place::Open]),
    (Kind::PanicInSnapshot, &[Place::Snapshot]),
    (Kind::PanicInSink, &[Place::Write]),
    (Kind::PanicInCommit, &[Place::Commit]),
];

/// True where an error tells of a fault of this kind.
fn names(error: &str, kind: Kind) -> bool {
    let panicked = PANICS.iter().find(|(other, _)| *other == kind);
    let says = |text: &str| error.contains(text);
    match (kind, panicked) {
        (_, Some((_, places))) => places.iter().any(|place| says(&format!("{SAYING}{}", place.name()))),
        // What a failed sync has poisoned fails from then on.
        (Kind::SyncError, _) => says("os error 5") || says("an earlier sync of"),
        (Kind::WriteError | Kind::ReadError | Kind::MetadataError, _) => says("os error 5"),
        (Kind::NoSpace, _) => says("os error 28"),
        (Kind::ShortRead, _) => says("is damaged"),
        (Kind::SlowIo | Kind::ClockJump, _) => says("expired") || says("heartbeat"),
        _ => false,
    }
}

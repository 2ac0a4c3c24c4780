//! Runs one job through several lives, each at its own parallelism and each from where the one before was stopped, and
//! judges what came of it.

use super::jobs::{Plan, Shape};
use super::ledger::Ledger;
use super::operators::COUNT_TAG;
use super::script::Script;
use crate::conformance::record::decode;
use crate::conformance::{Mode, Outcome, Tally};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thalweg::coordinator::{CheckpointOutcome, CheckpointStats};
use thalweg::job::{EngineBuilder, Simulation, SimulationOptions};
use thalweg::{CheckpointId, Dataflow, Engine, JobStatus, RestartStrategy};
use thalweg_storage::checkpoint::CheckpointStore;
use thalweg_storage::io::{CrashProfile, DiskHandle, SimDisk};
use thalweg_storage::manifest::Manifest;

/// Time between checkpoints.
const INTERVAL: Duration = Duration::from_millis(5);

/// A life that takes more steps is stuck.
const STEPS_MAX: u64 = 1_000_000;

/// Attempts to catch a checkpoint as it is wanted.
const ATTEMPTS_MAX: u64 = 400;

/// Of these many checkpoints of a life one is taken during the recovery, or none.
const CHECKPOINTS_MAX: u64 = 3;

const NOT_AS_WANTED: &str = "no checkpoint was as wanted";

/// Where checkpoints go.
const DIR: &str = "/checkpoints";

/// How the lives before the last end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Once a checkpoint holds in-flight data.
    InFlight,
    /// Once two checkpoints have completed, whatever they hold.
    Completed,
    /// As `InFlight`; lives that were restored themselves: once a checkpoint holds data that were in flight before, too.
    DuringRecovery,
    /// Once a checkpoint says that some subtasks of an operator have finished and others have not.
    PartlyFinished,
}

/// A job and the parallelism of each of its lives.
#[derive(Clone)]
pub struct Rescale {
    /// Its shape.
    pub shape: Shape,
    /// By life.
    pub parallelism: Vec<u32>,
    /// Sources stay slow.
    pub slow: bool,
    /// Values of each split; without it the last life goes on until it has failed and recovered.
    pub limit: Option<u64>,
    /// Records are counted by `count`.
    pub counted: bool,
    /// How lives end.
    pub stop: Stop,
}

impl Rescale {
    /// A job of unbounded, fast sources that is stopped with in-flight data.
    pub fn of(shape: Shape, parallelism: &[u32]) -> Self {
        let parallelism = parallelism.to_vec();
        Rescale { shape, parallelism, slow: false, limit: None, counted: false, stop: Stop::InFlight }
    }

    /// Runs all lives; `seed` decides everything else.
    pub fn run(&self, seed: u64) -> Outcome {
        let most = *self.parallelism.iter().max().expect("there is a life");
        let script = Script::new(INTERVAL, u64::from(most) * 2 + 1, self.slow, self.limit);
        let ledger = Ledger::new(&script);
        let mut life = Life {
            rescale: self,
            script: &script,
            ledger: &ledger,
            seed,
            tally: Tally::default(),
            restored: BTreeMap::new(),
            looked_into: None,
        };
        let mut disk = SimDisk::new();
        let mut digest = 0;
        let mut violations = Vec::new();
        for number in 0..self.parallelism.len() {
            match life.live(number, disk) {
                Ok((next, op_digest)) => (disk, digest) = (next, op_digest),
                Err(problem) => {
                    violations.push(format!("life {number}: {problem}"));
                    break;
                }
            }
        }
        let (values, restored_records) = (ledger.committed().len() as u64, life.restored.values().sum());
        let later_lives = self.parallelism.len() as u64 - 1;
        let restored = |(number, restarts): &&(usize, u64)| *number > 0 || *restarts > 0;
        let restores = life.restored.keys().filter(restored).count() as u64;
        let failures = script.failures() + later_lives;
        let mut tally = Tally {
            values,
            restored_records,
            jobs: 1,
            failures,
            restores,
            ..std::mem::take(&mut life.tally)
        };
        violations.splice(0..0, script.violations());
        if violations.is_empty() {
            violations = self.judge(&script, &ledger, &mut tally);
        }
        Outcome { violations, tally, digest }
    }

    /// Compares what is committed with what was emitted, and counts the differences.
    pub(super) fn judge(&self, script: &Script, ledger: &Ledger<u64>, tally: &mut Tally) -> Vec<String> {
        let mut violations = Vec::new();
        let mut seen: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
        let mut counted = 0;
        for word in ledger.committed() {
            match decode(word) {
                Some((COUNT_TAG, count)) if self.counted => counted += count,
                Some((tag, value)) => seen.entry((tag, value % script.splits)).or_default().push(value),
                None => violations.push(format!("committed: damaged record {word:#018x}")),
            }
        }
        let values: usize = seen.values().map(Vec::len).sum();
        if self.counted && counted != values as u64 {
            violations.push(format!("subtasks counted {counted} values, of {values}"));
        }
        for &(tag, copies) in self.shape.tags {
            for split in 0..script.splits {
                // A shape may emit the lesser of what several sources bring.
                let ends = (0..3).filter_map(|source| script.end_of(source, split));
                let single = self.shape.tags.len() == 1;
                let end = if single { ends.min() } else { script.end_of(tag, split) };
                let Some(end) = end else {
                    violations.push(format!("source {tag} split {split} did not end"));
                    continue;
                };
                let mut got = seen.remove(&(tag, split)).unwrap_or_default();
                if !self.shape.ordered {
                    got.sort_unstable();
                }
                let expected = (0..end).flat_map(|n| (0..copies).map(move |_| n));
                let expected = expected.map(|n| split + n * script.splits);
                if !got.iter().copied().eq(expected) {
                    violations.push(format!(
                        "committed: tag {tag} split {split}: {}",
                        what_differs(&got, end, copies, tally)
                    ));
                }
            }
        }
        if !seen.is_empty() {
            violations.push(format!("committed: values of unknown splits {:?}", seen.keys()));
        }
        violations
    }
}

fn what_differs(got: &[u64], end: u64, copies: u64, tally: &mut Tally) -> String {
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    got.iter().for_each(|value| *times.entry(*value).or_default() += 1);
    let falls = got.windows(2).filter(|pair| pair[0] > pair[1]).count() as u64;
    let there: u64 = times.values().map(|times| (*times).min(copies)).sum();
    tally.out_of_order += falls;
    tally.duplicated += got.len() as u64 - there;
    tally.lost += (end * copies).saturating_sub(there);
    format!(
        "{} values, {} different ones, where {} were emitted; {falls} out of order",
        got.len(),
        times.len(),
        end * copies
    )
}

struct Life<'a> {
    rescale: &'a Rescale,
    script: &'a Arc<Script>,
    ledger: &'a Ledger<u64>,
    seed: u64,
    tally: Tally,
    /// In-flight records restored, by life and restart.
    restored: BTreeMap<(usize, u64), u64>,
    /// The newest checkpoint that was looked into.
    looked_into: Option<CheckpointId>,
}

/// The engine of a life, but for its workers and its directory.
pub(super) fn builder(parallelism: u32, seed: u64, interval: Duration) -> EngineBuilder {
    let mode = [Mode::Unaligned, Mode::Unaligned, Mode::AlignedWithTimeout][seed as usize % 3];
    Engine::builder()
        .parallelism(parallelism)
        .pin(false)
        .checkpoint_interval(interval)
        .checkpoint_mode(mode.setting())
        .ring_batches(1 + seed as usize % 2)
        .batch_records(2 + seed as usize % 5)
        .buffer_timeout(Duration::from_millis(2))
        .restart_strategy(RestartStrategy::FixedDelay { attempts: 100, delay: Duration::from_millis(3) })
}

impl Life<'_> {
    fn flow(&self, number: usize) -> Dataflow {
        let (script, ledger) = (Arc::clone(self.script), self.ledger.clone());
        let parallelism = self.rescale.parallelism[number];
        (self.rescale.shape.flow)(&Plan { script, ledger, parallelism, life: number, seed: self.seed })
    }

    /// One life on `disk`: until it is stopped, or, if it is the last, to its end. Gives the disk of the next.
    fn live(&mut self, number: usize, disk: Arc<SimDisk>) -> Result<(Arc<SimDisk>, u64), String> {
        if self.is_last(number) {
            return self.attempt(number, self.seed, disk);
        }
        // Little is in flight, and soon processed: it may take several attempts to catch a checkpoint as it is wanted before the
        // job ends.
        let before = self.ledger.entries();
        let mut problem = String::new();
        for attempt in 0..ATTEMPTS_MAX {
            let seed = self.seed.wrapping_mul(ATTEMPTS_MAX).wrapping_add(attempt);
            match self.attempt(number, seed, disk.crash_image(CrashProfile::KeepAll, seed)) {
                Err(why) if why.starts_with(NOT_AS_WANTED) => problem = why,
                outcome => return outcome,
            }
            self.ledger.reset(before.clone());
            self.looked_into = None;
        }
        Err(problem)
    }

    fn is_last(&self, number: usize) -> bool {
        number + 1 == self.rescale.parallelism.len()
    }

    fn attempt(
        &mut self,
        number: usize,
        seed: u64,
        disk: Arc<SimDisk>,
    ) -> Result<(Arc<SimDisk>, u64), String> {
        let parallelism = self.rescale.parallelism[number];
        let seed = seed.wrapping_mul(31).wrapping_add(number as u64);
        let builder = builder(parallelism, seed, INTERVAL).workers(1 + seed as usize % 7).checkpoint_dir(DIR);
        let flow = self.flow(number);
        let options = SimulationOptions { disk: Arc::clone(&disk), ..SimulationOptions::seeded(seed) };
        let mut simulation = Simulation::new(builder, flow, options).map_err(|error| error.to_string())?;
        let ended = if self.is_last(number) {
            self.last_words(&mut simulation, number)?
        } else {
            self.until_stopped(&mut simulation, number)?
        };
        let stats = simulation.metrics().checkpoints;
        for record in &stats.history {
            self.tally.parts_aligned += u64::from(record.tasks_aligned);
            self.tally.parts_unaligned += u64::from(record.tasks_unaligned);
        }
        match ended {
            Some(problem) => Err(format!("{problem}; {stats:?} {:?}", simulation.metrics().tasks)),
            None => {
                let digest = simulation.now().0 ^ simulation.steps();
                Ok((simulation.crash(CrashProfile::KeepAll, seed), digest))
            }
        }
    }

    /// Steps until the job may be stopped. The inner value is a problem.
    fn until_stopped(
        &mut self,
        simulation: &mut Simulation,
        number: usize,
    ) -> Result<Option<String>, String> {
        let stop = self.rescale.stop;
        // Not only after an interval: by then all that was restored may have been processed.
        let at_once = stop == Stop::DuringRecovery && number > 0;
        while simulation.steps() < STEPS_MAX {
            for _ in 0..20 {
                simulation.step();
            }
            if simulation.has_ended() {
                let status = simulation.status();
                let why =
                    if status == JobStatus::Finished { NOT_AS_WANTED } else { "the job ended too early" };
                return Ok(Some(format!("{why}: {status:?}")));
            }
            // Subtasks finish within a moment of each other.
            if at_once || stop == Stop::PartlyFinished && self.script.any_ended() {
                let _ = simulation.checkpoint();
            }
            if self.may_stop(simulation, number)? {
                return Ok(None);
            }
            if at_once && simulation.metrics().checkpoints.completed > CHECKPOINTS_MAX {
                return Ok(Some(NOT_AS_WANTED.to_owned()));
            }
        }
        Ok(Some("the job is stuck, or no checkpoint was as wanted".to_owned()))
    }

    fn may_stop(&mut self, simulation: &Simulation, number: usize) -> Result<bool, String> {
        let stats = simulation.metrics().checkpoints;
        self.restored.insert((number, stats.restarts), stats.restored_records);
        let completed = stats.history.iter().rev().find(|r| r.outcome == CheckpointOutcome::Completed);
        let Some(latest) = completed else { return Ok(false) };
        let new = self.looked_into.replace(latest.id) != Some(latest.id);
        Ok(new
            && match self.rescale.stop {
                Stop::Completed => stats.completed >= 2,
                Stop::InFlight => latest.in_flight_records > 0,
                Stop::DuringRecovery if number == 0 => latest.in_flight_records > 0,
                Stop::DuringRecovery => {
                    let generations = |manifest: Manifest| -> BTreeSet<u32> {
                        manifest.channels.iter().map(|channel| channel.generation).collect()
                    };
                    latest.in_flight_records > 0
                        && newest(simulation)?.map(generations).is_some_and(|g| g.contains(&0) && g.len() > 1)
                }
                Stop::PartlyFinished => {
                    let in_part = |manifest: Manifest| {
                        manifest.operators.iter().any(|operator| {
                            let finished =
                                operator.subtasks.iter().filter(|subtask| subtask.finished).count();
                            operator.uid == "count" && (1..operator.subtasks.len()).contains(&finished)
                        })
                    };
                    newest(simulation)?.is_some_and(in_part)
                }
            })
    }

    /// Lets the job fail once after a checkpoint, and end after another. The inner value is a problem.
    fn last_words(&mut self, simulation: &mut Simulation, number: usize) -> Result<Option<String>, String> {
        let failures = self.script.failures();
        let mut armed = false;
        let mut told = false;
        let mut outcome = None;
        while outcome.is_none() && simulation.steps() < STEPS_MAX {
            outcome = simulation.run_until_finished(20);
            let CheckpointStats { completed, restarts, restored_records, .. } =
                simulation.metrics().checkpoints;
            self.restored.insert((number, restarts), restored_records);
            if !armed && completed >= 1 {
                armed = true;
                self.script.arm();
            }
            if !told && restarts >= 1 && completed >= 2 {
                told = true;
                self.script.end();
            }
        }
        let bounded = self.rescale.limit.is_some();
        let failed = self.script.failures() - failures;
        let restarts = simulation.metrics().checkpoints.restarts;
        Ok(match outcome {
            None => Some("the job is stuck".to_owned()),
            Some(Err(error)) => Some(format!("the job ended badly: {error}")),
            Some(Ok(())) if restarts != failed || !bounded && failed != 1 => {
                Some(format!("{restarts} restarts after {failed} failures, where one was due"))
            }
            Some(Ok(())) => None,
        })
    }
}

/// The newest manifest on a job's disk.
fn newest(simulation: &Simulation) -> Result<Option<Manifest>, String> {
    // Of a copy: looking must not change what the job does.
    let disk = DiskHandle::new(simulation.disk().crash_image(CrashProfile::KeepAll, 0));
    let store =
        CheckpointStore::open_unlocked(disk, Path::new(DIR), "rescaled").map_err(|e| e.to_string())?;
    store.latest().map_err(|error| error.to_string())
}

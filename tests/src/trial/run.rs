//! Runs a trial: steps a simulation until something holds, and judges disk and output.
//!
//! Always true: a wait ends with its condition or with a panic after a number of steps; no clock but the simulated one counts.

use super::job::numbers_job;
use super::post::{Acknowledgement, Post};
use super::script::{News, Script};
use crate::support;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;
use thalweg::connector::MemorySink;
use thalweg::coordinator::{CheckpointOutcome, CheckpointRecord, CheckpointStats};
use thalweg::job::{EngineBuilder, RestoreSettings, Simulation, SimulationOptions};
use thalweg::{CheckpointId, CheckpointMode, Dataflow, Engine, JobStatus, RestartStrategy, StopMode};
use thalweg_storage::checkpoint::CheckpointStore;
use thalweg_storage::fault::{Fault, with_fault};
use thalweg_storage::inspect;
use thalweg_storage::io::{CrashProfile, DiskHandle, SimDisk};
use thalweg_storage::manifest::Manifest;

/// The job's directory of checkpoints.
pub const JOB_DIR: &str = "/checkpoints/trial";

/// Where trials put savepoints.
pub const SAVEPOINTS: &str = "/savepoints";

/// Steps that a wait takes at most.
const STEPS_MAX: u64 = 300_000;

/// Seeds of each case.
const SEEDS: u64 = 10;

/// Runs `case` with some seeds: with that of `THALWEG_SEED`, or `THALWEG_RUNS` times as many.
///
/// # Panics
/// One fails; names the seed.
pub fn seeds(case: impl Fn(u64)) {
    for seed in support::seeds(SEEDS) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| case(seed))) {
            eprintln!("THALWEG_SEED={seed} fails");
            resume_unwind(panic);
        }
    }
}

/// Asserts that `claim` holds, and that it does not where the rule of any of `faults` is broken.
pub fn holds_only_without<const N: usize>(faults: [Fault; N], claim: impl Fn(u64)) {
    seeds(&claim);
    for fault in faults {
        let fails = |seed| catch_unwind(AssertUnwindSafe(|| claim(seed))).is_err();
        let noticed = (0..SEEDS).any(|seed| with_fault(Some(fault), || fails(seed)));
        assert!(noticed, "the case does not notice {fault:?}");
    }
}

/// An engine for trials: aligned checkpoints, which only the test asks for, and no restarts.
pub fn engine() -> EngineBuilder {
    Engine::builder()
        .workers(2)
        .parallelism(2)
        .max_parallelism(8)
        .pin(false)
        .checkpoint_dir("/checkpoints")
        .checkpoint_mode(CheckpointMode::Aligned)
        .checkpoint_history(100)
        .batch_records(4)
        .ring_batches(2)
        .buffer_timeout(Duration::from_millis(1))
        .restart_strategy(RestartStrategy::None)
}

/// A running job and all that its test has to do with it.
pub struct Trial {
    /// The engine.
    pub simulation: Simulation,
    /// Its disk.
    pub disk: Arc<SimDisk>,
    /// What operators hear and are told.
    pub script: Script,
    /// What becomes of acknowledgements.
    pub post: Post,
    /// What is committed.
    pub sink: MemorySink<(u64, u64)>,
}

impl Trial {
    /// A job on an empty disk, which has not taken its first step.
    pub fn new(builder: EngineBuilder, seed: u64) -> Self {
        Self::of(builder, seed, numbers_job)
    }

    /// The same with another dataflow.
    pub fn of(
        builder: EngineBuilder,
        seed: u64,
        job: impl FnOnce(&Script, &MemorySink<(u64, u64)>) -> Dataflow,
    ) -> Self {
        let (script, sink) = (Script::default(), MemorySink::new());
        let flow = job(&script, &sink);
        Self::on(SimDisk::new(), builder, seed, flow, script, sink, None)
            .unwrap_or_else(|message| panic!("the job does not start: {message}"))
    }

    /// The job again, in a new process on the same disk, perhaps from a savepoint or checkpoint.
    ///
    /// # Errors
    /// The start is refused.
    pub fn again(
        self,
        builder: EngineBuilder,
        seed: u64,
        from: Option<&RestoreSettings>,
    ) -> Result<Self, String> {
        self.again_after(CrashProfile::KeepAll, builder, seed, from)
    }

    /// As [`Trial::again`], after a loss of power.
    ///
    /// # Errors
    /// The start is refused.
    pub fn again_after(
        self,
        profile: CrashProfile,
        builder: EngineBuilder,
        seed: u64,
        from: Option<&RestoreSettings>,
    ) -> Result<Self, String> {
        let Trial { simulation, script, sink, .. } = self;
        let disk = simulation.crash(profile, seed);
        let flow = numbers_job(&script, &sink);
        Self::on(disk, builder, seed, flow, script, sink, from)
    }

    fn on(
        disk: Arc<SimDisk>,
        builder: EngineBuilder,
        seed: u64,
        flow: Dataflow,
        script: Script,
        sink: MemorySink<(u64, u64)>,
        from: Option<&RestoreSettings>,
    ) -> Result<Self, String> {
        let options = SimulationOptions { disk: Arc::clone(&disk), ..SimulationOptions::seeded(seed) };
        let simulation = match from {
            Some(from) => Simulation::from(builder, flow, options, from),
            None => Simulation::new(builder, flow, options),
        };
        let simulation = simulation.map_err(|error| error.to_string())?;
        let post = Post::default();
        let office = post.clone();
        simulation.filter_reports(move |report| office.on_its_way(report));
        Ok(Trial { simulation, disk, script, post, sink })
    }

    /// A job all of whose tasks run.
    pub fn running(builder: EngineBuilder, seed: u64) -> Self {
        let mut trial = Self::new(builder, seed);
        trial.until_running();
        trial
    }

    /// Steps until all tasks run.
    pub fn until_running(&mut self) {
        self.until("the job runs", |trial| trial.simulation.status() == JobStatus::Running);
    }

    /// Steps until `condition` holds.
    ///
    /// # Panics
    /// It does not come to hold; names `what`.
    pub fn until(&mut self, what: &str, condition: impl Fn(&Trial) -> bool) {
        let end = self.simulation.steps() + STEPS_MAX;
        while !condition(self) {
            let ended = self.simulation.has_ended();
            assert!(!ended, "waiting until {what}: the job has ended: {:?}", self.simulation.status());
            assert!(self.simulation.steps() < end, "in vain: waiting until {what}: {:#?}", self.stats());
            self.simulation.step();
        }
    }

    /// Steps until the answer comes.
    ///
    /// # Panics
    /// It does not come.
    pub fn answer<T>(&mut self, answer: Receiver<Result<T, String>>) -> Result<T, String> {
        for _ in 0..STEPS_MAX {
            match answer.try_recv() {
                Ok(answer) => return answer,
                Err(TryRecvError::Disconnected) => return Err("the job has ended without an answer".into()),
                Err(TryRecvError::Empty) => self.simulation.step(),
            }
        }
        panic!("there is no answer: {:#?}", self.stats());
    }

    /// Lets at least so much simulated time pass. Where nobody has anything to do, that may be a leap to the next deadline.
    pub fn pass(&mut self, time: Duration) {
        let end = self.simulation.now().after(time);
        self.until("time has passed", |trial| trial.simulation.now() >= end);
    }

    /// A checkpoint that has to succeed.
    pub fn checkpoint(&mut self) -> CheckpointId {
        let answer = self.simulation.checkpoint();
        self.answer(answer).expect("the checkpoint completes")
    }

    /// A checkpoint that has to fail; why it did.
    pub fn failed_checkpoint(&mut self) -> String {
        let answer = self.simulation.checkpoint();
        self.answer(answer).expect_err("the checkpoint fails")
    }

    /// Asks for a savepoint.
    pub fn ask_savepoint(&self, stop: Option<StopMode>) -> Receiver<Result<PathBuf, String>> {
        self.simulation.savepoint(Path::new(SAVEPOINTS), stop)
    }

    /// A savepoint, or why there is none.
    pub fn savepoint(&mut self, stop: Option<StopMode>) -> Result<PathBuf, String> {
        let answer = self.ask_savepoint(stop);
        self.answer(answer)
    }

    /// Steps until so many acknowledgements have been kept.
    pub fn until_kept(&mut self, count: usize) {
        self.until("acknowledgements are kept", |trial| trial.post.kept().len() >= count);
    }

    /// Steps until the input of every subtask of `operator` has ended.
    pub fn until_closed(&mut self, operator: &str) {
        self.until("its input has ended", |trial| {
            let heard = trial.script.heard();
            let closed =
                heard.iter().filter(|heard| heard.operator == operator && heard.news == News::Closed);
            closed.map(|heard| heard.subtask).collect::<BTreeSet<_>>().len() == 2
        });
    }

    /// Lets all acknowledgements arrive, also those that have been kept.
    pub fn release(&self) {
        self.post.keep_none();
        self.deliver(self.post.take());
    }

    /// Delivers acknowledgements.
    pub fn deliver(&self, acknowledgements: impl IntoIterator<Item = Acknowledgement>) {
        for acknowledgement in acknowledgements {
            self.simulation.report(acknowledgement.report());
        }
    }

    /// Counters of checkpoints and restarts.
    pub fn stats(&self) -> CheckpointStats {
        self.simulation.metrics().checkpoints
    }

    /// The record of a checkpoint or savepoint that has ended.
    pub fn record(&self, id: CheckpointId) -> Option<CheckpointRecord> {
        self.stats().history.into_iter().find(|record| record.id == id)
    }

    /// How it ended, if it has: `complete`, or why it failed.
    pub fn outcome(&self, id: CheckpointId) -> Option<String> {
        self.record(id).map(|record| match record.outcome {
            CheckpointOutcome::Completed => "complete".to_owned(),
            CheckpointOutcome::Failed(why) => why,
        })
    }

    /// Steps until the checkpoint or savepoint has ended; gives how.
    pub fn until_ended(&mut self, id: u64) -> String {
        let id = CheckpointId(id);
        self.until("it has ended", |trial| trial.record(id).is_some());
        self.outcome(id).expect("it has ended")
    }

    /// Steps until the job has ended.
    pub fn end(&mut self) -> Result<(), String> {
        let end = self.simulation.run_until_finished(STEPS_MAX);
        let end = end.unwrap_or_else(|| panic!("the job hangs: {:#?}", self.stats()));
        end.map_err(|error| error.to_string())
    }

    /// Lets all sources end and the job finish, and asserts that its output is complete and there once.
    pub fn finish(&mut self) {
        (0..2).for_each(|split| self.script.end(split));
        self.end().expect("the job finishes");
        self.assert_output(self.script.total());
    }

    /// Lets the job go on in a new process, and asserts that it does so from `checkpoint` and comes to its end.
    pub fn goes_on_from(self, seed: u64, checkpoint: CheckpointId) {
        let mut trial = self.again(engine(), seed, None).expect("the job starts again");
        trial.until_running();
        assert_eq!(trial.stats().restored, Some(checkpoint));
        trial.finish();
    }

    /// Starts the job in a new process, and asserts that it ends by itself and that its output is that of `total` records.
    pub fn ends_again(self, seed: u64, from: Option<&RestoreSettings>, total: u64) -> Self {
        let mut trial = self.again(engine(), seed, from).expect("the job starts again");
        trial.end().expect("the job finishes");
        trial.assert_output(total);
        trial
    }

    /// Asserts that what is committed is the counts of `total` records.
    pub fn assert_output(&self, total: u64) {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for (key, count) in self.sink.committed().concat() {
            let before = counts.insert(key, count).unwrap_or(0);
            assert_eq!(before + 1, count, "key {key} misses or repeats a count");
        }
        assert_eq!(counts.values().sum::<u64>(), total, "number of records counted");
    }

    /// Completed checkpoints on the disk, rising, with their manifests.
    pub fn manifests(&self) -> BTreeMap<u64, Manifest> {
        let decoded = |path: PathBuf| {
            let id = path.parent()?.strip_prefix(JOB_DIR).ok()?.to_str()?.strip_prefix("chk-")?;
            let bytes = self.disk.read_file(&path).expect("a file that was listed");
            let manifest = thalweg_storage::manifest::decode(&path, &bytes).expect("an intact manifest");
            Some((id.parse().ok()?, manifest))
        };
        let manifests = self.disk.files().into_iter().filter(|path| path.ends_with("MANIFEST"));
        manifests.filter_map(decoded).collect()
    }

    /// Ids of the completed checkpoints on the disk.
    pub fn retained(&self) -> Vec<u64> {
        self.manifests().into_keys().collect()
    }

    /// Files of the job's directory that no manifest names, nor is one.
    pub fn unnamed(&self) -> Vec<String> {
        let manifests = self.manifests();
        let named: BTreeSet<&str> = manifests.values().flat_map(Manifest::files).collect();
        let below = |path: &PathBuf| Some(path.strip_prefix(JOB_DIR).ok()?.to_str()?.to_owned());
        let mut unnamed: Vec<String> = self.disk.files().iter().filter_map(below).collect();
        unnamed.retain(|path| !path.ends_with("/MANIFEST") && !named.contains(path.as_str()));
        unnamed.sort();
        unnamed
    }

    /// Asserts that all that the newest completed checkpoint names is there and whole, and gives its id.
    pub fn assert_restorable(&self) -> CheckpointId {
        let image = self.disk.crash_image(CrashProfile::KeepAll, 0);
        let disk = DiskHandle::new(image);
        let store = CheckpointStore::open_unlocked(disk.clone(), Path::new("/checkpoints"), "trial");
        let store = store.expect("the directory can be opened");
        let id = store.latest().expect("the newest is readable").expect("there is one").checkpoint;
        let newest = inspect::open(&disk, &store.dir().join(format!("chk-{id}"))).expect("it is still there");
        let report = inspect::verify(&disk, &newest).expect("its directory can be listed");
        assert!(report.problems.is_empty(), "{:?}", report.problems);
        id
    }
}

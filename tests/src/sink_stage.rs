//! Drives the sink stages of a job without the rest of it: a coordinator and sources as simple as can be, so that every order of
//! writes, snapshots, notices, crashes and restores can be tried.
//!
//! Always true: what a completed checkpoint covers is a prefix of the records, and a restore continues behind it.

use crate::bank::Bank;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use thalweg::CheckpointId;
use thalweg::clock::{Nanos, SimClock};
use thalweg::connector::files::Text;
use thalweg::connector::{Calls, CommitRetries, FileSink, MemorySink, Sink, TwoPhaseSink, WriteAheadSink};
use thalweg::operator::{
    BindContext, ChainSnapshot, Ending, Failure, Flow, OperatorRestore, Stage, StageControl,
};
use thalweg::operators::SinkStage;
use thalweg_storage::AttemptId;
use thalweg_storage::io::{DiskHandle, Notify, SimDisk};
use thalweg_storage::key_group::KeyGroups;
use thalweg_storage::manifest::{Committable, StateBlob};
use thalweg_storage::table::Backend;

/// Polls before something that must come counts as missing. A helper thread needs real time.
const POLLS_MAX: u64 = 5_000_000;

/// A sink and the world outside of it.
pub struct World<S> {
    /// The sink.
    pub sink: S,
    /// Its disk.
    pub disk: DiskHandle,
    visible: Box<dyn Fn() -> Vec<u64>>,
    prepared: Box<dyn Fn() -> usize>,
    violations: Box<dyn Fn() -> Vec<String>>,
}

impl<S> World<S> {
    /// What everybody sees.
    pub fn visible(&self) -> Vec<u64> {
        (self.visible)()
    }

    /// How much output the outside world keeps that nobody sees.
    pub fn prepared(&self) -> usize {
        (self.prepared)()
    }
}

/// Short pauses, and more retries than any test has faults.
fn retries() -> CommitRetries {
    CommitRetries { count: 10, pause: Duration::from_millis(2), pause_max: Duration::from_millis(8) }
}

fn no_violations() -> Box<dyn Fn() -> Vec<String>> {
    Box::new(Vec::new)
}

fn sim_disk() -> (Arc<SimDisk>, DiskHandle) {
    let sim = SimDisk::new();
    let disk = DiskHandle::new(Arc::clone(&sim) as _);
    (sim, disk)
}

/// A two-phase-commit sink to `bank`.
pub fn two_phase(bank: &Bank, calls: Calls) -> World<TwoPhaseSink<Bank>> {
    let (all, prepared, rules) = (bank.clone(), bank.clone(), bank.clone());
    World {
        sink: TwoPhaseSink::new(bank.clone()).calls(calls).commit_retries(retries()),
        disk: sim_disk().1,
        visible: Box::new(move || all.visible()),
        prepared: Box::new(move || prepared.prepared()),
        violations: Box::new(move || rules.violations()),
    }
}

/// A write-ahead sink to `bank`.
pub fn write_ahead(bank: &Bank, calls: Calls) -> World<WriteAheadSink<Bank>> {
    let (all, rules) = (bank.clone(), bank.clone());
    World {
        sink: WriteAheadSink::new(bank.clone()).calls(calls).commit_retries(retries()),
        disk: sim_disk().1,
        visible: Box::new(move || all.visible()),
        prepared: Box::new(|| 0),
        violations: Box::new(move || rules.violations()),
    }
}

/// A file sink to a simulated disk that answers at once.
pub fn files() -> World<FileSink<Text<u64>>> {
    let (sim, disk) = sim_disk();
    let sink = FileSink::lines("/out").roll_bytes(25);
    sink.check(&disk).expect("an empty disk");
    let hidden = Arc::clone(&sim);
    let is_hidden =
        |path: &std::path::Path| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
    let visible = move || {
        let shown = sim.files().into_iter().filter(|path| !is_hidden(path));
        let text = shown.map(|path| String::from_utf8(sim.read_file(path).expect("a file")).expect("text"));
        text.collect::<String>().lines().map(|line| line.parse().expect("a number")).collect()
    };
    let prepared = move || hidden.files().iter().filter(|path| is_hidden(path)).count();
    World {
        sink,
        disk,
        visible: Box::new(visible),
        prepared: Box::new(prepared),
        violations: no_violations(),
    }
}

/// A sink to the test's own memory.
pub fn memory() -> World<MemorySink<u64>> {
    let sink = MemorySink::new();
    let world = sink.clone();
    World {
        sink,
        disk: sim_disk().1,
        visible: Box::new(move || world.committed().concat()),
        prepared: Box::new(|| 0),
        violations: no_violations(),
    }
}

/// What a completed checkpoint keeps.
#[derive(Clone, Debug, Default)]
pub struct Manifest {
    /// Records below this are covered.
    covered: u64,
    states: Vec<(u32, StateBlob)>,
    committables: Vec<Committable>,
}

struct Nobody;

impl Notify for Nobody {
    fn notify(&self) {}
}

/// The sink stages of one job, over all of its attempts.
pub struct Job<S: Sink<Record = u64>> {
    /// The sink and its world.
    pub world: World<S>,
    stages: Vec<SinkStage<S::Writer>>,
    manifest: Manifest,
    /// Checkpoints that every stage has taken part in, and that are neither complete nor aborted.
    pending: Vec<(u64, Manifest)>,
    /// Checkpoints that were completed, oldest first.
    completed: Vec<u64>,
    checkpoint: u64,
    attempt: u64,
    next: u64,
    now: u64,
}

impl<S: Sink<Record = u64>> Job<S> {
    /// A job that has not started.
    pub fn new(world: World<S>) -> Self {
        Job {
            world,
            stages: Vec::new(),
            manifest: Manifest::default(),
            pending: Vec::new(),
            completed: Vec::new(),
            checkpoint: 0,
            attempt: 0,
            next: 0,
            now: 0,
        }
    }

    /// A job that has started.
    ///
    /// # Panics
    /// It does not start.
    pub fn started(world: World<S>, parallelism: u32) -> Self {
        let mut job = Job::new(world);
        job.start(parallelism).expect("the job starts");
        job
    }

    /// Number of subtasks; none after a crash.
    pub fn parallelism(&self) -> u32 {
        self.stages.len() as u32
    }

    /// Ends the attempt as a crash would, and starts the next from the newest completed checkpoint.
    ///
    /// # Errors
    /// A stage could not be opened.
    pub fn start(&mut self, parallelism: u32) -> Result<(), Failure> {
        self.crash();
        self.attempt += 1;
        for subtask in 0..parallelism {
            let states = self.manifest.states.iter().filter(|(stored, _)| stored % parallelism == subtask);
            let listed =
                self.manifest.committables.iter().filter(|stored| stored.subtask % parallelism == subtask);
            let mut committables: Vec<_> = listed.cloned().collect();
            committables.sort_by_key(|committable| committable.checkpoint);
            let restore = OperatorRestore {
                operator_state: states.map(|(_, blob)| blob.clone()).collect(),
                committables,
                finished: false,
            };
            let mut context = BindContext {
                job: "job".into(),
                partition: subtask,
                parallelism,
                attempt: AttemptId(self.attempt),
                restored_from: None,
                key_groups: KeyGroups::new(16),
                backend: Backend::HashMap,
                clock: Arc::new(SimClock::default()),
                restore: HashMap::from([("sink".to_owned(), restore)]),
                disk: self.world.disk.clone(),
                waker: Arc::new(Nobody),
            };
            self.stages.push(SinkStage::open(&self.world.sink, &"sink".into(), &mut context)?);
        }
        Ok(())
    }

    /// The newest completed checkpoint, to go back to.
    pub fn keep(&self) -> Manifest {
        self.manifest.clone()
    }

    /// Ends the attempt; the next one starts from `manifest`.
    pub fn rewind(&mut self, manifest: Manifest) {
        self.manifest = manifest;
        self.crash();
    }

    /// Ends the attempt.
    pub fn crash(&mut self) {
        self.stages.clear();
        self.pending.clear();
        self.next = self.manifest.covered;
    }

    /// Lets all stages move on.
    ///
    /// # Errors
    /// One has failed.
    pub fn tick(&mut self) -> Result<(), Failure> {
        self.now += 1_000_000;
        let now = Nanos(self.now);
        self.stages.iter_mut().try_for_each(|stage| stage.tick(now))
    }

    /// Writes the next record at `subtask`.
    ///
    /// # Errors
    /// The stage has failed.
    pub fn write(&mut self, subtask: u32) -> Result<(), Failure> {
        let record = self.next;
        self.next += 1;
        let mut flow = self.stages[subtask as usize].process(record)?;
        for _ in 0..POLLS_MAX {
            if flow == Flow::Continue {
                return Ok(());
            }
            self.tick()?;
            std::thread::yield_now();
            flow = self.stages[subtask as usize].resume()?;
        }
        panic!("subtask {subtask} is blocked for ever");
    }

    /// Writes `count` records, in turn.
    ///
    /// # Panics
    /// A stage fails.
    pub fn write_all(&mut self, count: u64) {
        for n in 0..count {
            self.write((n % self.stages.len() as u64) as u32).expect("the bank works");
        }
    }

    /// Ends the input of all subtasks; the next checkpoint is the last.
    ///
    /// # Panics
    /// A stage fails.
    pub fn end_input(&mut self) {
        for stage in &mut self.stages {
            stage.end_input().expect("the bank works");
        }
    }

    /// Takes a checkpoint of the subtasks for which `takes_part` holds; it can be completed only when that is all of them.
    ///
    /// # Errors
    /// A stage has failed.
    pub fn snapshot(&mut self, takes_part: impl Fn(u32) -> bool) -> Result<u64, Failure> {
        self.checkpoint += 1;
        let id = CheckpointId(self.checkpoint);
        let mut manifest = Manifest { covered: self.next, ..Manifest::default() };
        let taking: Vec<usize> = (0..self.stages.len()).filter(|i| takes_part(*i as u32)).collect();
        let mut chains = Vec::new();
        for &subtask in &taking {
            let mut chain = ChainSnapshot { checkpoint: id, ended: false, operators: Vec::new() };
            self.stages[subtask].snapshot(&mut chain)?;
            chains.push(chain);
        }
        for (&subtask, chain) in taking.iter().zip(&mut chains) {
            let mut polls = 0;
            while !self.stages[subtask].snapshot_durable(id)? {
                polls += 1;
                assert!(polls < POLLS_MAX, "checkpoint {id} of subtask {subtask} never becomes durable");
                self.tick()?;
                std::thread::yield_now();
            }
            self.stages[subtask].list_committables(id, &mut chain.operators);
            for operator in &chain.operators {
                let states = operator.operator_state.iter().map(|blob| (subtask as u32, blob.clone()));
                manifest.states.extend(states);
                manifest.committables.extend(operator.committables.iter().cloned());
            }
        }
        if taking.len() == self.stages.len() {
            self.pending.push((id.0, manifest));
        }
        Ok(id.0)
    }

    /// Takes a checkpoint of all subtasks.
    ///
    /// # Panics
    /// A stage fails.
    pub fn checkpoint(&mut self) -> u64 {
        self.snapshot(|_| true).expect("the bank works")
    }

    /// Checkpoints that can be completed.
    pub fn pending(&self) -> Vec<u64> {
        self.pending.iter().map(|(id, _)| *id).collect()
    }

    /// Checkpoints that were completed.
    pub fn completed(&self) -> &[u64] {
        &self.completed
    }

    /// Publishes the manifest of `checkpoint`, of which the stages do not hear yet.
    ///
    /// # Panics
    /// It is not pending.
    pub fn publish(&mut self, checkpoint: u64) {
        let manifest = self.pending.iter().find(|(id, _)| *id == checkpoint).expect("a pending checkpoint");
        self.manifest = manifest.1.clone();
        self.pending.retain(|(id, _)| *id > checkpoint);
        self.completed.push(checkpoint);
    }

    /// Tells the subtasks for which `hears` holds that `checkpoint` is complete.
    ///
    /// # Errors
    /// A stage has failed.
    pub fn notify(&mut self, checkpoint: u64, hears: impl Fn(u32) -> bool) -> Result<(), Failure> {
        for (subtask, stage) in (0..).zip(&mut self.stages) {
            if hears(subtask) {
                stage.checkpoint_complete(CheckpointId(checkpoint))?;
            }
        }
        Ok(())
    }

    /// Completes `checkpoint`.
    ///
    /// # Panics
    /// It is not pending, or a stage fails.
    pub fn complete(&mut self, checkpoint: u64) {
        self.publish(checkpoint);
        self.notify(checkpoint, |_| true).expect("the bank works");
    }

    /// Forgets the pending `checkpoint`. Stages hear nothing: an abort never touches prepared output.
    pub fn abort(&mut self, checkpoint: u64) {
        self.pending.retain(|(id, _)| *id != checkpoint);
    }

    /// Lets all stages move on until everything that is to be committed is.
    ///
    /// # Errors
    /// A stage has failed.
    pub fn settle(&mut self) -> Result<(), Failure> {
        for _ in 0..POLLS_MAX {
            self.tick()?;
            if self.stages.iter_mut().all(|stage| stage.ending() != Ending::Committing) {
                return Ok(());
            }
            std::thread::yield_now();
        }
        panic!("commits never end: {:?}", self.world.visible());
    }

    /// What the outside world may show now: nothing twice, nothing that no completed checkpoint covers.
    ///
    /// # Panics
    /// It shows more.
    pub fn check(&self) {
        let visible = self.world.visible();
        let distinct: BTreeSet<_> = visible.iter().copied().collect();
        assert_eq!(distinct.len(), visible.len(), "something appeared twice: {visible:?}");
        let covered = self.manifest.covered;
        assert!(
            distinct.last().is_none_or(|last| *last < covered),
            "visible is {visible:?}, of which {covered} are covered"
        );
        let violations = (self.world.violations)();
        assert!(violations.is_empty(), "{violations:?}");
    }

    /// Once all commits are done: the outside world shows exactly what the newest completed checkpoint covers.
    ///
    /// # Panics
    /// It shows something else.
    pub fn check_complete(&self) {
        self.check();
        let mut visible = self.world.visible();
        visible.sort_unstable();
        assert_eq!(visible, (0..self.manifest.covered).collect::<Vec<_>>());
    }
}

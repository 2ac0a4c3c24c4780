//! The runner with workers and a checkpoint directory in memory, stepped by hand on a simulated clock.

use super::*;
use crate::clock::SimClock;
use crate::control::{SnapshotStats, TaskCommand, TaskFailure, TaskId, TaskSnapshot};
use crate::coordinator::config::{CheckpointConfig, RestartStrategy};
use crate::coordinator::deploy::{DeployError, Deployment};
use crate::coordinator::stats::CheckpointOutcome;
use crate::task::{Budget, Progress, Task};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use thalweg_storage::StoreError;
use thalweg_storage::manifest::{Manifest, ManifestKind, SegmentRef, SubtaskState};

const SECOND: Duration = Duration::from_secs(1);

/// What a directory holds; shared with the test, as a disk would be.
#[derive(Default)]
struct Directory {
    attempt: u64,
    id: u64,
    manifests: Vec<Manifest>,
    savepoints: Vec<Manifest>,
    completed: Vec<CheckpointId>,
    discarded: Vec<String>,
    publish_errors: Vec<StoreError>,
    released: bool,
}

struct MemoryBackend(Arc<Mutex<Directory>>, Vec<CheckpointId>);

impl Drop for MemoryBackend {
    fn drop(&mut self) {
        self.0.lock().unwrap().released = true;
    }
}

impl CheckpointBackend for MemoryBackend {
    fn dir(&self) -> &Path {
        Path::new("/checkpoints/job")
    }

    fn next_attempt(&mut self) -> Result<AttemptId, StoreError> {
        let mut dir = self.0.lock().unwrap();
        dir.attempt += 1;
        Ok(AttemptId(dir.attempt))
    }

    fn completed(&self) -> &[CheckpointId] {
        &self.1
    }

    fn latest(&self) -> Result<Option<Manifest>, StoreError> {
        Ok(self.0.lock().unwrap().manifests.last().cloned())
    }

    fn begin(&mut self) -> Result<CheckpointId, StoreError> {
        let mut dir = self.0.lock().unwrap();
        dir.id += 1;
        Ok(CheckpointId(dir.id))
    }

    fn publish(
        &mut self,
        manifest: &Manifest,
        retained: usize,
        _in_use: &dyn Fn(&str) -> bool,
    ) -> Result<u64, StoreError> {
        let mut dir = self.0.lock().unwrap();
        if let Some(error) = dir.publish_errors.pop() {
            return Err(error);
        }
        dir.manifests.push(manifest.clone());
        dir.completed.push(manifest.checkpoint);
        let surplus = dir.manifests.len().saturating_sub(retained);
        dir.manifests.drain(..surplus);
        self.1 = dir.manifests.iter().map(|manifest| manifest.checkpoint).collect();
        Ok(100)
    }

    fn take_over(&mut self, found: FoundSnapshot, _claim: bool) -> Result<Manifest, StoreError> {
        let id = self.begin()?;
        Ok(Manifest { checkpoint: id, ..found.manifest })
    }

    fn begin_savepoint(&mut self, root: &Path) -> Result<(CheckpointId, PathBuf), StoreError> {
        let id = self.begin()?;
        Ok((id, root.join(format!("savepoint-job-{id}"))))
    }

    fn publish_savepoint(&mut self, manifest: &Manifest) -> Result<u64, StoreError> {
        let mut dir = self.0.lock().unwrap();
        if let Some(error) = dir.publish_errors.pop() {
            return Err(error);
        }
        dir.savepoints.push(manifest.clone());
        Ok(100)
    }

    fn discard_savepoint(&mut self, id: CheckpointId) -> Result<(), StoreError> {
        self.0.lock().unwrap().discarded.push(format!("savepoint {id}"));
        Ok(())
    }

    fn remove_all(&mut self) -> Result<(), StoreError> {
        self.0.lock().unwrap().manifests.clear();
        Ok(())
    }

    fn discard(
        &mut self,
        _id: CheckpointId,
        files: &[String],
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        assert!(files.iter().all(|file| !in_use(file)));
        self.0.lock().unwrap().discarded.extend_from_slice(files);
        Ok(())
    }
}

/// A worker that does at once what it is told, and remembers it.
#[derive(Default)]
struct FakeWorker {
    index: usize,
    deployed: Mutex<Option<(AttemptId, Arc<dyn ReportSink>)>>,
    heard: Mutex<Vec<String>>,
    beats: AtomicU64,
    stuck: Mutex<bool>,
}

impl WorkerLink for FakeWorker {
    fn send(&self, command: WorkerCommand) {
        let text = match command {
            WorkerCommand::Deploy(attempt, tasks, reports) => {
                let tasks: Vec<TaskId> = tasks.into_iter().map(|(id, _)| id).collect();
                let text = format!("deploy {attempt}: {:?}", tasks.iter().map(|id| id.0).collect::<Vec<_>>());
                *self.deployed.lock().unwrap() = Some((attempt, reports));
                text
            }
            WorkerCommand::Broadcast(_, TaskCommand::Trigger(trigger)) => {
                format!("trigger {}", trigger.checkpoint)
            }
            WorkerCommand::Broadcast(_, TaskCommand::Complete(id)) => format!("complete {id}"),
            WorkerCommand::Broadcast(_, TaskCommand::Abort(id, _)) => format!("abort {id}"),
            WorkerCommand::Broadcast(_, TaskCommand::CommitFinal) => "commit final".to_owned(),
            WorkerCommand::Cancel(attempt) => {
                if let Some((_, reports)) = &*self.deployed.lock().unwrap()
                    && !*self.stuck.lock().unwrap()
                {
                    reports.report(Report::Cancelled(attempt, self.index));
                }
                format!("cancel {attempt}")
            }
            WorkerCommand::Shutdown => "shutdown".to_owned(),
        };
        self.heard.lock().unwrap().push(text);
    }

    fn heartbeat(&self) -> u64 {
        if *self.stuck.lock().unwrap() {
            return self.beats.load(Ordering::Relaxed);
        }
        self.beats.fetch_add(1, Ordering::Relaxed)
    }

    fn polling(&self) -> Option<(String, u32)> {
        Some(("map".into(), 1))
    }
}

struct IdleTask;

impl Task for IdleTask {
    fn name(&self) -> &str {
        "idle"
    }

    fn partition(&self) -> u32 {
        0
    }

    fn command(&mut self, _command: TaskCommand) {}

    fn poll(&mut self, _now: Nanos, _budget: Budget) -> Result<Progress, TaskFailure> {
        Ok(Progress::Idle { wake_at: None })
    }

    fn failure_of_panic(&self, message: String) -> TaskFailure {
        TaskFailure { operator: "idle".into(), partition: 0, message, fatal: false }
    }
}

/// Deploys one operator "op" with one task on each of two workers, and remembers what it restored.
struct FakeDeploy {
    restored: Arc<Mutex<Vec<Option<CheckpointId>>>>,
    panics: u32,
}

impl Deploy for FakeDeploy {
    fn deploy(
        &mut self,
        _attempt: AttemptId,
        restore: Option<&Manifest>,
        _reports: Arc<dyn ReportSink>,
    ) -> Result<Deployment, DeployError> {
        self.restored.lock().unwrap().push(restore.map(|manifest| manifest.checkpoint));
        if self.panics > 0 {
            self.panics -= 1;
            panic!("the restored state is upside down");
        }
        Ok(Deployment {
            tasks: (0..2).map(|i| (i, TaskId(i as u32), Box::new(IdleTask) as Box<dyn Task>)).collect(),
            operators: vec![DeployedOperator { uid: "op".into(), parallelism: 2 }],
            edges: Vec::new(),
            restored_records: if restore.is_some() { 5 } else { 0 },
        })
    }
}

struct World {
    runner: Runner,
    handle: CoordinatorHandle,
    shared: Arc<JobShared>,
    clock: Arc<SimClock>,
    workers: Vec<Arc<FakeWorker>>,
    directory: Arc<Mutex<Directory>>,
    restored: Arc<Mutex<Vec<Option<CheckpointId>>>>,
}

impl World {
    fn new(panics: u32) -> Self {
        Self::starting(panics, None)
    }

    fn starting(panics: u32, restore: Option<RestoreFrom>) -> Self {
        let config = CoordinatorConfig {
            checkpoint: CheckpointConfig {
                interval: Some(SECOND),
                tolerable_failures: 1,
                ..CheckpointConfig::default()
            },
            restart: RestartStrategy::FixedDelay { attempts: 3, delay: SECOND },
            heartbeat_timeout: 2 * SECOND,
            ..CoordinatorConfig::default()
        };
        let worker = |index| Arc::new(FakeWorker { index, ..FakeWorker::default() });
        let workers: Vec<Arc<FakeWorker>> = (0..2).map(worker).collect();
        let links = workers.iter().map(|worker| Arc::clone(worker) as Arc<dyn WorkerLink>).collect();
        let clock = Arc::new(SimClock::default());
        let shared = JobShared::new();
        let (directory, restored) = (Arc::default(), Arc::default());
        let (runner, handle) = Runner::new(RunnerParts {
            job: "job".into(),
            max_parallelism: 128,
            config,
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            workers: links,
            deploy: Box::new(FakeDeploy { restored: Arc::clone(&restored), panics }),
            backend: Some(Box::new(MemoryBackend(Arc::clone(&directory), Vec::new()))),
            restore,
            shared: Arc::clone(&shared),
        });
        World { runner, handle, shared, clock, workers, directory, restored }
    }

    /// Steps the runner as its own deadlines ask, for `time`.
    fn pass(&mut self, time: Duration) {
        let end = self.clock.now().after(time);
        for _ in 0..10_000 {
            match self.runner.step(self.clock.now()) {
                Some(at) if at <= end => self.clock.advance_to(at),
                _ => {
                    self.clock.advance_to(end);
                    return;
                }
            }
        }
        panic!("the runner asks to be stepped again and again");
    }

    fn report(&self, worker: usize, report: impl FnOnce(AttemptId) -> Report) {
        let deployed = self.workers[worker].deployed.lock().unwrap();
        let (attempt, reports) = deployed.as_ref().unwrap();
        reports.report(report(*attempt));
    }

    fn ack(&mut self, worker: usize, id: u64) {
        let segments = vec![SegmentRef {
            path: format!("shared/{worker}-{id}"),
            bytes: 1,
            groups: 0..1,
            states: Vec::new(),
        }];
        let subtask = SubtaskState { index: worker as u32, segments, ..SubtaskState::default() };
        let stats = SnapshotStats { start_delay_ns: 1000 * (1 + worker as u64), ..SnapshotStats::default() };
        let snapshot = TaskSnapshot {
            operators: vec![("op".into(), Vec::new(), subtask)],
            segments: None,
            channels: Vec::new(),
            stats,
        };
        let task = TaskId(worker as u32);
        self.report(worker, |attempt| {
            Report::Acknowledged(attempt, task, CheckpointId(id), Box::new(snapshot))
        });
        self.pass(Duration::ZERO);
    }

    fn fail(&mut self) {
        let failure =
            TaskFailure { operator: "op".into(), partition: 0, message: "boom".into(), fatal: false };
        self.report(0, |attempt| Report::Failed(attempt, TaskId(0), failure));
        self.pass(Duration::ZERO);
    }

    fn heard(&self, worker: usize) -> Vec<String> {
        std::mem::take(&mut *self.workers[worker].heard.lock().unwrap())
    }
}

#[test]
fn a_checkpoint_is_published_with_all_subtasks_and_then_completed() {
    let mut world = World::new(0);
    world.pass(SECOND);
    assert_eq!(world.heard(1), ["deploy 1: [1]", "trigger 1"]);
    world.ack(1, 1);
    world.ack(0, 1);
    assert_eq!(world.heard(0), ["deploy 1: [0]", "trigger 1", "complete 1"]);
    let manifest = world.directory.lock().unwrap().manifests[0].clone();
    assert_eq!(
        (manifest.attempt, manifest.triggered_unix_ms, manifest.max_parallelism),
        (AttemptId(1), 1000, 128)
    );
    assert_eq!(manifest.operators[0].subtasks.iter().map(|s| s.index).collect::<Vec<_>>(), [0, 1]);
    let stats = world.shared.checkpoint_stats();
    assert_eq!((stats.triggered, stats.completed, stats.history[0].tasks_aligned), (1, 1, 2));
    assert_eq!(stats.history[0].start_delay_max, Duration::from_nanos(2000));
}

#[test]
fn a_savepoint_is_published_in_its_own_directory_and_its_id_is_given_back() {
    let mut world = World::new(0);
    world.pass(Duration::ZERO);
    let answer = world.handle.trigger_savepoint(Path::new("/savepoints"), None);
    world.pass(Duration::ZERO);
    world.ack(0, 1);
    world.ack(1, 1);
    assert_eq!(answer.try_recv().unwrap(), Ok(PathBuf::from("/savepoints/savepoint-job-1")));
    let directory = world.directory.lock().unwrap();
    assert!(directory.manifests.is_empty());
    let kinds: Vec<_> =
        directory.savepoints.iter().map(|s| (s.checkpoint.0, s.kind, s.origin.clone())).collect();
    assert_eq!(kinds, [(1, ManifestKind::Savepoint, None)]);
    drop(directory);
    assert_eq!(world.heard(0), ["deploy 1: [0]", "trigger 1"]);
}

#[test]
fn a_savepoint_that_stops_the_job_stands_as_its_newest_checkpoint_before_anybody_commits() {
    let mut world = World::new(0);
    world.pass(SECOND);
    world.ack(0, 1);
    world.ack(1, 1);
    let answer = world.handle.trigger_savepoint(Path::new("/savepoints"), Some(StopMode::Suspend));
    world.pass(Duration::ZERO);
    world.heard(0);
    world.ack(0, 2);
    assert!(world.heard(0).is_empty());
    world.ack(1, 2);
    assert_eq!(world.heard(0), ["complete 2"]);
    let manifest = world.directory.lock().unwrap().manifests.last().cloned().unwrap();
    assert_eq!((manifest.checkpoint, manifest.kind), (CheckpointId(2), ManifestKind::Checkpoint));
    assert_eq!(manifest.origin.unwrap().root, "/savepoints/savepoint-job-2");
    assert!(answer.try_recv().is_err(), "the job has not stopped yet");
    // A failure now goes back to the savepoint and to nothing older.
    world.fail();
    world.pass(SECOND);
    assert_eq!(*world.restored.lock().unwrap(), [None, Some(CheckpointId(2))]);
    let message = answer.try_recv().unwrap().unwrap_err();
    assert!(
        message.contains("/savepoints/savepoint-job-2 is complete, but the job did not stop"),
        "{message}"
    );
}

#[test]
fn an_error_after_the_savepoint_of_a_stop_lets_the_job_go_on() {
    let mut world = World::new(0);
    world.pass(Duration::ZERO);
    let answer = world.handle.trigger_savepoint(Path::new("/savepoints"), Some(StopMode::Suspend));
    world.pass(Duration::ZERO);
    let io = || StoreError::io("syncing", "/savepoints", io::Error::other("EIO"));
    world.directory.lock().unwrap().publish_errors = vec![io()];
    world.ack(0, 1);
    world.ack(1, 1);
    assert!(answer.try_recv().unwrap().unwrap_err().contains("EIO"));
    assert_eq!(world.heard(0), ["deploy 1: [0]", "trigger 1", "abort 1"]);
    assert_eq!(world.shared.status(), JobStatus::Running);
    assert_eq!(world.directory.lock().unwrap().discarded, ["savepoint 1"]);
}

#[test]
fn a_start_from_a_savepoint_counts_once_the_tasks_could_be_made_and_only_then() {
    let manifest = Manifest {
        job: "job".into(),
        checkpoint: CheckpointId(40),
        attempt: AttemptId(4),
        triggered_unix_ms: 0,
        max_parallelism: 128,
        kind: ManifestKind::Savepoint,
        origin: None,
        operators: Vec::new(),
        edges: Vec::new(),
        channels: Vec::new(),
    };
    let found = FoundSnapshot { manifest, dir: "/savepoint".into(), root: "/savepoint".into() };
    let mut world = World::starting(1, Some(RestoreFrom { found, claim: false }));
    world.pass(Duration::ZERO);
    assert!(world.directory.lock().unwrap().manifests.is_empty(), "the first attempt could not be made");
    world.pass(SECOND);
    assert_eq!(world.shared.status(), JobStatus::Running);
    let ids = |world: &World| -> Vec<u64> {
        world.directory.lock().unwrap().manifests.iter().map(|manifest| manifest.checkpoint.0).collect()
    };
    assert_eq!(ids(&world), [2]);
    world.fail();
    world.pass(SECOND);
    let restored = [CheckpointId(1), CheckpointId(2), CheckpointId(2)].map(Some);
    assert_eq!(*world.restored.lock().unwrap(), restored, "later attempts continue from what was taken over");
}

#[test]
fn a_restart_deploys_from_the_latest_completed_checkpoint() {
    let mut world = World::new(0);
    world.pass(SECOND);
    world.ack(0, 1);
    world.ack(1, 1);
    world.pass(SECOND);
    world.ack(0, 2);
    world.fail();
    assert_eq!(world.shared.status(), JobStatus::Restarting);
    world.pass(SECOND);
    assert_eq!(world.shared.status(), JobStatus::Running);
    assert_eq!(*world.restored.lock().unwrap(), [None, Some(CheckpointId(1))]);
    assert_eq!(world.directory.lock().unwrap().discarded, ["shared/0-2"]);
    let stats = world.shared.checkpoint_stats();
    assert_eq!((stats.restarts, stats.restored, stats.restored_records), (1, Some(CheckpointId(1)), 5));
    assert_eq!(world.heard(0).last().unwrap(), "deploy 2: [0]");
    world.pass(SECOND);
    assert_eq!(world.heard(0), ["trigger 3"]);
}

#[test]
fn a_panic_while_deploying_is_a_failure_like_any_other() {
    let mut world = World::new(2);
    world.pass(3 * SECOND);
    assert_eq!(world.shared.status(), JobStatus::Running);
    let mut world = World::new(4);
    world.pass(5 * SECOND);
    let JobStatus::Failed(cause) = world.shared.status() else { panic!("{:?}", world.shared.status()) };
    assert!(cause.contains("panic: the restored state is upside down"), "{cause}");
}

#[test]
fn a_request_is_answered_with_the_checkpoint_that_meets_it() {
    let mut world = World::new(0);
    world.pass(Duration::ZERO);
    let answer = world.handle.trigger_checkpoint(Some(CheckpointMode::Unaligned));
    world.pass(Duration::ZERO);
    world.ack(0, 1);
    assert!(answer.try_recv().is_err());
    world.ack(1, 1);
    assert_eq!(answer.try_recv().unwrap(), Ok(CheckpointId(1)));
}

#[test]
fn a_failed_publication_is_told_and_an_unknown_one_fails_the_job() {
    let io = || std::io::Error::other("EIO");
    let mut world = World::new(0);
    world.directory.lock().unwrap().publish_errors = vec![
        StoreError::OutcomeUnknown {
            checkpoint: CheckpointId(1),
            path: PathBuf::from("MANIFEST"),
            source: io(),
        },
        StoreError::io("writing", "MANIFEST.tmp", io()),
    ];
    world.pass(SECOND);
    world.ack(0, 1);
    world.ack(1, 1);
    assert_eq!(world.heard(0).last().unwrap(), "abort 1");
    let outcome = world.shared.checkpoint_stats().history[0].outcome.clone();
    let reason = "it could not be published: writing MANIFEST.tmp failed: EIO".to_owned();
    assert_eq!(outcome, CheckpointOutcome::Failed(reason));
    world.pass(SECOND);
    world.ack(0, 2);
    world.ack(1, 2);
    let JobStatus::Failed(cause) = world.shared.wait() else { panic!("{:?}", world.shared.status()) };
    assert!(cause.contains("whether checkpoint 2 is complete is unknown"), "{cause}");
    assert!(world.directory.lock().unwrap().discarded.is_empty());
}

#[test]
fn a_snapshot_that_lacks_a_subtask_is_never_published() {
    let mut world = World::new(0);
    world.pass(SECOND);
    let snapshot = TaskSnapshot {
        operators: Vec::new(),
        segments: None,
        channels: Vec::new(),
        stats: SnapshotStats::default(),
    };
    world.report(1, |attempt| Report::Acknowledged(attempt, TaskId(1), CheckpointId(1), Box::new(snapshot)));
    world.ack(0, 1);
    assert_eq!(world.heard(0).last().unwrap(), "abort 1");
    assert!(world.directory.lock().unwrap().completed.is_empty());
}

#[test]
fn a_stuck_worker_fails_the_job_while_others_are_waited_for() {
    let mut world = World::new(0);
    world.pass(SECOND);
    *world.workers[1].stuck.lock().unwrap() = true;
    world.pass(3 * SECOND);
    let JobStatus::Failed(cause) = world.shared.status() else { panic!("{:?}", world.shared.status()) };
    assert!(
        cause.starts_with("worker 1 has stood still for 2.") && cause.contains("operator map"),
        "{cause}"
    );
    assert_eq!(world.heard(0).last().unwrap(), "cancel 1");
}

#[test]
fn the_directory_is_released_before_the_end_is_shown() {
    let mut world = World::new(0);
    world.pass(SECOND);
    (0..2)
        .for_each(|worker| world.report(worker, |attempt| Report::Finished(attempt, TaskId(worker as u32))));
    world.pass(Duration::ZERO);
    assert_eq!(world.shared.status(), JobStatus::Finished);
    assert!(world.directory.lock().unwrap().released);
    let answer = world.handle.trigger_checkpoint(None);
    world.pass(Duration::ZERO);
    assert!(answer.try_recv().unwrap().is_err());
}

#[test]
fn the_control_thread_runs_the_job_until_it_is_cancelled() {
    let world = World::new(0);
    let (handle, shared) = (world.handle.clone(), Arc::clone(&world.shared));
    let thread = world.runner.spawn().unwrap();
    handle.cancel();
    assert_eq!(shared.wait(), JobStatus::Cancelled);
    thread.join().unwrap();
}

#[test]
fn a_panic_of_the_control_thread_releases_those_who_wait() {
    struct Misplaced;
    impl Deploy for Misplaced {
        fn deploy(
            &mut self,
            _attempt: AttemptId,
            _restore: Option<&Manifest>,
            _reports: Arc<dyn ReportSink>,
        ) -> Result<Deployment, DeployError> {
            let tasks = vec![(9, TaskId(0), Box::new(IdleTask) as Box<dyn Task>)];
            Ok(Deployment { tasks, operators: Vec::new(), edges: Vec::new(), restored_records: 0 })
        }
    }
    let mut world = World::new(0);
    world.runner.deploy = Box::new(Misplaced);
    let thread = world.runner.spawn().unwrap();
    assert_eq!(world.shared.wait(), JobStatus::Failed("the job's control thread has panicked".into()));
    assert!(thread.join().is_err());
}

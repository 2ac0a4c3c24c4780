//! Savepoints of whole jobs: taken, listed, disposed of, stopped with, and started from. Output stays complete and exactly
//! once throughout.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use thalweg::config::StateBackend;
use thalweg::connector::{Ingress, MemorySink, PushSource};
use thalweg::coordinator::{CheckpointKind, CheckpointOutcome};
use thalweg::job::EngineBuilder;
use thalweg::{
    CheckpointMode, CheckpointRetention, Dataflow, Engine, Error, JobHandle, JobStatus, RestoreMode,
    RestoreSettings, StopMode,
};
use thalweg_storage::manifest::{Manifest, ManifestKind};
use thalweg_tests::support::{failure, files_below, outcome, small_engine, wait_until};

const KEYS: u64 = 100;

/// Counts what the test pushes, by key, exactly once.
struct Counting {
    dir: TempDir,
    sink: MemorySink<(u64, u64)>,
    backend: StateBackend,
}

/// One run of the job.
struct Run {
    ingress: Ingress<u64>,
    job: JobHandle,
    engine: Engine,
}

impl Counting {
    fn new() -> Self {
        Counting { dir: TempDir::new().unwrap(), sink: MemorySink::new(), backend: StateBackend::HashMap }
    }

    fn savepoints(&self) -> PathBuf {
        self.dir.path().join("savepoints")
    }

    fn job_dir(&self, checkpoints: &str) -> PathBuf {
        self.dir.path().join(checkpoints).join("counts")
    }

    fn builder(&self, checkpoints: &str) -> EngineBuilder {
        small_engine()
            .state_backend(self.backend)
            .checkpoint_dir(self.dir.path().join(checkpoints))
            .savepoint_dir(self.savepoints())
    }

    fn flow(&self) -> (Dataflow, Ingress<u64>) {
        let (ingress, source) = PushSource::channel(10_000);
        let flow = Dataflow::new("counts");
        flow.source("numbers", source)
            .key_by(|n: &u64| n % KEYS)
            .count("count")
            .sink("sink", self.sink.clone());
        (flow, ingress)
    }

    fn run_on(&self, engine: Engine, from: Option<&RestoreSettings>) -> Run {
        let (flow, ingress) = self.flow();
        let job = match from {
            Some(from) => engine.run_from(flow, from),
            None => engine.run(flow),
        };
        Run { ingress, job: job.unwrap(), engine }
    }

    fn run(&self, checkpoints: &str, from: Option<&RestoreSettings>) -> Run {
        self.run_on(self.builder(checkpoints).build().unwrap(), from)
    }

    /// Asserts that the output is that of the numbers below `end`, each counted once.
    fn assert_counted(&self, end: u64) {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        for (key, count) in self.sink.committed().concat() {
            assert_eq!(
                counts.insert(key, count).unwrap_or(0) + 1,
                count,
                "key {key} misses or repeats a count"
            );
        }
        assert_eq!(counts.values().sum::<u64>(), end);
    }
}

impl Run {
    /// Pushes the numbers up to `end` from where the job stands, and waits until they are counted.
    fn push_to(&self, end: u64) {
        wait_until("the job runs", || self.ingress.resumed().is_some());
        let from = self.ingress.resumed().unwrap().position;
        let before = self.counted();
        (from + before..end).for_each(|n| self.ingress.push(n).unwrap());
        wait_until("all numbers are counted", || from + self.counted() == end);
    }

    fn counted(&self) -> u64 {
        let tasks = self.job.metrics().tasks;
        tasks.iter().filter(|task| task.name.starts_with("count")).map(|task| task.records_in).sum()
    }

    fn position(&self) -> u64 {
        wait_until("the job runs", || self.ingress.resumed().is_some());
        self.ingress.resumed().unwrap().position
    }

    fn cancel(self) {
        self.job.cancel();
        assert!(matches!(outcome(&self.job), Err(Error::Cancelled)));
    }

    fn finish(self) {
        self.ingress.close();
        outcome(&self.job).unwrap();
    }
}

fn manifest(dir: &Path) -> Manifest {
    let path = dir.join("MANIFEST");
    thalweg_storage::manifest::decode(&path, &fs::read(&path).unwrap()).unwrap()
}

/// Ids of the completed checkpoints in a job's directory, rising.
fn completed(job_dir: &Path) -> Vec<u64> {
    let mut ids: Vec<u64> = fs::read_dir(job_dir)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("MANIFEST").exists())
        .filter_map(|entry| entry.file_name().to_str()?.strip_prefix("chk-")?.parse().ok())
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn a_job_continues_from_a_savepoint_as_if_it_had_never_been_cancelled() {
    for backend in [StateBackend::HashMap, StateBackend::Log] {
        let counting = Counting { backend, ..Counting::new() };
        let run = counting.run("a", None);
        run.push_to(5_000);
        let savepoint = run.job.savepoint(None).unwrap();
        assert_eq!(savepoint.parent(), Some(&*counting.savepoints()));
        assert!(savepoint.file_name().unwrap().to_str().unwrap().starts_with("savepoint-counts-"));
        assert_eq!(counting.sink.committed_count(), 0, "nothing is committed for a savepoint");
        // What comes after it is lost with the cancellation, and was never committed.
        run.push_to(6_000);
        run.cancel();

        let run = counting.run("b", Some(&RestoreSettings::from_path(&savepoint)));
        assert_eq!(run.position(), 5_000);
        run.push_to(9_000);
        run.finish();
        counting.assert_counted(9_000);
    }
}

#[test]
fn a_savepoint_of_one_state_backend_starts_a_job_on_the_other() {
    for (before, after) in
        [(StateBackend::HashMap, StateBackend::Log), (StateBackend::Log, StateBackend::HashMap)]
    {
        let mut counting = Counting { backend: before, ..Counting::new() };
        let run = counting.run("a", None);
        run.push_to(3_000);
        run.job.checkpoint().unwrap();
        run.push_to(5_000);
        let savepoint = run.job.savepoint(None).unwrap();
        run.cancel();
        assert_eq!(counting.sink.committed_count(), 3_000);

        counting.backend = after;
        let run = counting.run("b", Some(&RestoreSettings::from_path(savepoint.join("MANIFEST"))));
        run.push_to(7_000);
        // On what was restored builds another checkpoint, and on that another run.
        run.job.checkpoint().unwrap();
        run.cancel();
        let run = counting.run("b", None);
        run.push_to(8_000);
        run.finish();
        counting.assert_counted(8_000);
    }
}

#[test]
fn a_savepoint_holds_everything_in_its_own_directory_and_can_be_moved() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    run.push_to(2_000);
    run.job.checkpoint().unwrap();
    run.push_to(4_000);
    let savepoint = run.job.savepoint(None).unwrap();
    let manifest = manifest(&savepoint);
    assert_eq!((manifest.kind, manifest.origin.as_ref()), (ManifestKind::Savepoint, None));
    assert!(manifest.channels.is_empty(), "nothing is captured in flight");
    let files: Vec<String> = files_below(&savepoint).into_iter().map(|(name, _)| name).collect();
    for named in manifest.files() {
        assert!(files.iter().any(|file| file == named), "{named} is not among {files:?}");
    }
    run.cancel();
    let moved = counting.dir.path().join("elsewhere");
    fs::rename(&savepoint, &moved).unwrap();
    fs::remove_dir_all(counting.dir.path().join("a")).unwrap();

    let run = counting.run("b", Some(&RestoreSettings::from_path(&moved)));
    assert_eq!(run.position(), 4_000);
    run.push_to(5_000);
    run.finish();
    counting.assert_counted(5_000);
}

#[test]
fn savepoints_are_kept_by_the_engine_and_listed_and_disposed_of_by_the_user() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    let mut taken = Vec::new();
    for round in 1..=3 {
        run.push_to(round * 1_000);
        taken.push(run.job.savepoint(None).unwrap());
        run.job.checkpoint().unwrap();
    }
    let listed = run.engine.list_savepoints(counting.savepoints()).unwrap();
    assert_eq!(listed.iter().map(|savepoint| savepoint.path.clone()).collect::<Vec<_>>(), taken);
    for savepoint in &listed {
        let info = savepoint.info.as_ref().unwrap();
        assert_eq!(info.job, "counts");
        assert!(info.bytes > 0 && info.triggered_unix_ms > 0);
    }
    let metrics = run.job.metrics().checkpoints;
    assert_eq!((metrics.savepoints, metrics.completed, metrics.failed), (3, 3, 0));
    assert_eq!(metrics.latest_savepoint.as_ref(), taken.last());

    // A stranger's file in the directory is not ours to delete.
    fs::write(taken[0].join("notes.txt"), "keep me").unwrap();
    run.engine.dispose_savepoint(&taken[0]).unwrap();
    assert_eq!(files_below(&taken[0]), [("notes.txt".to_owned(), 7)]);
    run.engine.dispose_savepoint(&taken[1]).unwrap();
    assert!(!taken[1].exists());
    for no_savepoint in [taken[0].clone(), counting.savepoints(), counting.job_dir("a")] {
        let before = files_below(&no_savepoint);
        run.engine.dispose_savepoint(&no_savepoint).unwrap_err();
        assert_eq!(files_below(&no_savepoint), before);
    }
    let newest = completed(&counting.job_dir("a")).pop().unwrap();
    let checkpoint = counting.job_dir("a").join(format!("chk-{newest}"));
    let error = run.engine.dispose_savepoint(&checkpoint).unwrap_err().to_string();
    assert!(error.contains("is a checkpoint of job"), "{error}");
    assert!(checkpoint.join("MANIFEST").exists());

    let run_from = counting.run("b", Some(&RestoreSettings::from_path(&taken[2])));
    assert_eq!(run_from.position(), 3_000);
    run_from.cancel();
    run.cancel();
    assert!(taken[2].join("MANIFEST").exists());
}

#[test]
fn a_suspended_job_commits_up_to_its_savepoint_and_continues_without_being_told_where() {
    for backend in [StateBackend::HashMap, StateBackend::Log] {
        let counting = Counting { backend, ..Counting::new() };
        let run = counting.run("a", None);
        run.push_to(2_000);
        run.job.checkpoint().unwrap();
        run.push_to(5_000);
        let savepoint = run.job.stop_with_savepoint(None, StopMode::Suspend).unwrap();
        assert_eq!(run.job.status(), JobStatus::Finished);
        outcome(&run.job).unwrap();
        counting.assert_counted(5_000);
        let record = run.job.metrics().checkpoints.history.back().cloned().unwrap();
        assert_eq!(record.kind, CheckpointKind::StopWithSavepoint);
        drop(run);

        // Its sinks have committed what the older checkpoint lacks: only the savepoint will do.
        let run = counting.run("a", None);
        assert_eq!(run.position(), 5_000);
        run.push_to(6_000);
        run.job.checkpoint().unwrap();
        // From then on nothing needs the savepoint.
        run.engine.dispose_savepoint(&savepoint).unwrap();
        run.push_to(7_000);
        run.cancel();
        let run = counting.run("a", None);
        run.push_to(7_500);
        run.finish();
        counting.assert_counted(7_500);
    }
}

#[test]
fn an_engine_runs_the_next_job_as_soon_as_a_stop_is_answered() {
    let counting = Counting::new();
    let mut run = counting.run("a", None);
    for round in 1..=5 {
        run.push_to(round * 500);
        run.job.stop_with_savepoint(None, StopMode::Suspend).unwrap();
        run = counting.run_on(run.engine, None);
    }
    run.push_to(3_000);
    run.finish();
    counting.assert_counted(3_000);
}

#[test]
fn a_suspended_job_whose_savepoint_is_gone_says_so_instead_of_going_back() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    run.push_to(1_000);
    let savepoint = run.job.stop_with_savepoint(None, StopMode::Suspend).unwrap();
    drop(run);
    fs::rename(&savepoint, counting.dir.path().join("moved")).unwrap();
    let run = counting.run("a", None);
    let message = failure(&run.job);
    assert!(message.contains(savepoint.to_str().unwrap()) && message.contains("put it back"), "{message}");
    drop(run);
    fs::rename(counting.dir.path().join("moved"), &savepoint).unwrap();
    let run = counting.run("a", None);
    run.push_to(2_000);
    run.finish();
    counting.assert_counted(2_000);
}

#[test]
fn a_drained_job_ends_its_operators_before_its_savepoint_and_commits_everything() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    run.push_to(4_000);
    let savepoint = run.job.stop_with_savepoint(None, StopMode::Drain).unwrap();
    outcome(&run.job).unwrap();
    counting.assert_counted(4_000);
    let manifest = manifest(&savepoint);
    let mut subtasks = manifest.operators.iter().flat_map(|operator| &operator.subtasks);
    assert!(subtasks.all(|subtask| subtask.finished), "every operator has ended");
    drop(run);
    // There is nothing left to do.
    let run = counting.run("a", None);
    outcome(&run.job).unwrap();
    counting.assert_counted(4_000);
}

#[test]
fn an_unclaimed_savepoint_stays_and_is_not_needed_after_the_first_checkpoint() {
    for backend in [StateBackend::HashMap, StateBackend::Log] {
        let counting = Counting { backend, ..Counting::new() };
        let run = counting.run("a", None);
        run.push_to(5_000);
        let savepoint = run.job.savepoint(None).unwrap();
        run.cancel();
        let before = files_below(&savepoint);

        let run = counting.run("b", Some(&RestoreSettings::from_path(&savepoint)));
        run.push_to(5_010);
        run.job.checkpoint().unwrap();
        run.push_to(5_020);
        run.job.checkpoint().unwrap();
        assert_eq!(files_below(&savepoint), before, "the engine deletes nothing of it");
        fs::remove_dir_all(&savepoint).unwrap();
        run.push_to(6_000);
        run.cancel();
        let run = counting.run("b", None);
        assert_eq!(run.position(), 5_020);
        run.push_to(8_000);
        run.finish();
        counting.assert_counted(8_000);
    }
}

#[test]
fn a_job_killed_before_its_first_checkpoint_starts_from_the_savepoint_again() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    run.push_to(3_000);
    let savepoint = run.job.savepoint(None).unwrap();
    run.cancel();
    let run = counting.run("b", Some(&RestoreSettings::from_path(&savepoint)));
    run.push_to(4_000);
    run.cancel();
    let run = counting.run("b", None);
    assert_eq!(run.position(), 3_000);
    run.push_to(5_000);
    run.finish();
    counting.assert_counted(5_000);
}

#[test]
fn a_claimed_savepoint_goes_once_enough_newer_checkpoints_are_complete() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    run.push_to(3_000);
    let savepoint = run.job.savepoint(None).unwrap();
    run.cancel();
    let claim = RestoreSettings::from_path(&savepoint).mode(RestoreMode::Claim);
    let run = counting.run_on(counting.builder("b").retained_checkpoints(2).build().unwrap(), Some(&claim));
    run.push_to(4_000);
    assert!(savepoint.join("MANIFEST").exists());
    run.job.checkpoint().unwrap();
    assert!(savepoint.join("MANIFEST").exists(), "it is one of the two that are retained");
    run.job.checkpoint().unwrap();
    assert!(!savepoint.exists());
    run.push_to(5_000);
    run.finish();
    counting.assert_counted(5_000);
}

#[test]
fn a_retained_checkpoint_of_another_directory_can_be_claimed_and_takes_only_its_own_files_along() {
    let counting = Counting::new();
    let run = counting.run_on(counting.builder("a").retained_checkpoints(2).build().unwrap(), None);
    run.push_to(3_000);
    run.job.checkpoint().unwrap();
    run.push_to(3_010);
    run.job.checkpoint().unwrap();
    run.cancel();
    let ids = completed(&counting.job_dir("a"));
    let [older, newer] = ids[..] else { panic!("two are retained: {ids:?}") };
    let named = |id: u64| -> Vec<String> {
        manifest(&counting.job_dir("a").join(format!("chk-{id}"))).files().map(str::to_owned).collect()
    };
    let shared: Vec<String> = named(older).into_iter().filter(|file| named(newer).contains(file)).collect();
    assert!(!shared.is_empty(), "the newer builds on the older");

    let path = counting.job_dir("a").join(format!("chk-{newer}"));
    let claim = RestoreSettings::from_path(&path).mode(RestoreMode::Claim);
    let run = counting.run("b", Some(&claim));
    assert_eq!(run.position(), 3_010);
    run.push_to(4_000);
    run.job.checkpoint().unwrap();
    assert_eq!(completed(&counting.job_dir("a")), [older], "the claimed one is gone");
    for file in named(older) {
        assert!(counting.job_dir("a").join(&file).exists(), "{file} belongs to the other checkpoint too");
    }
    run.finish();
    counting.assert_counted(4_000);
}

#[test]
fn a_job_goes_back_to_an_older_checkpoint_of_its_own_when_told_to() {
    let counting = Counting::new();
    let engine = || counting.builder("a").retained_checkpoints(2).build().unwrap();
    let run = counting.run_on(engine(), None);
    run.push_to(1_000);
    let older = run.job.checkpoint().unwrap();
    run.push_to(2_000);
    run.job.checkpoint().unwrap();
    run.cancel();
    let path = counting.job_dir("a").join(format!("chk-{older}"));
    let run = counting.run_on(engine(), Some(&RestoreSettings::from_path(path)));
    assert_eq!(run.position(), 1_000);
    run.push_to(1_500);
    run.job.checkpoint().unwrap();
    run.cancel();
    let run = counting.run_on(engine(), None);
    assert_eq!(run.position(), 1_500);
    run.cancel();
}

#[test]
fn a_retained_unaligned_checkpoint_restores_its_in_flight_data_from_another_directory() {
    let counting = Counting::new();
    let builder = counting.builder("a").checkpoint_mode(CheckpointMode::Unaligned);
    let run = counting.run_on(builder.build().unwrap(), None);
    run.position();
    (0..5_000).for_each(|n| run.ingress.push(n).unwrap());
    let id = run.job.checkpoint().unwrap();
    run.cancel();
    let path = counting.job_dir("a").join(format!("chk-{id}"));
    let run = counting.run("b", Some(&RestoreSettings::from_path(path)));
    let from = run.position();
    (from..6_000).for_each(|n| run.ingress.push(n).unwrap());
    run.finish();
    counting.assert_counted(6_000);
}

#[test]
fn what_is_no_savepoint_or_damaged_is_refused_with_cause_and_cure() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    run.push_to(2_000);
    let savepoint = run.job.savepoint(None).unwrap();
    run.cancel();
    let refusal = |path: &Path| {
        let engine = counting.builder("b").build().unwrap();
        let error = engine.run_from(counting.flow().0, &RestoreSettings::from_path(path)).err().unwrap();
        assert!(matches!(error, Error::Restore { .. }), "{error:?}");
        error.to_string()
    };
    let nowhere = refusal(&counting.dir.path().join("nowhere"));
    assert!(nowhere.contains("no savepoint or checkpoint at") && nowhere.contains("chk-<id>"), "{nowhere}");
    let parent = refusal(&counting.savepoints());
    let name = savepoint.file_name().unwrap().to_str().unwrap();
    assert!(parent.contains("choose one of its") && parent.contains(name), "{parent}");

    let path = savepoint.join("MANIFEST");
    let intact = fs::read(&path).unwrap();
    let mut damaged = intact.clone();
    damaged[60] ^= 1;
    fs::write(&path, &damaged).unwrap();
    let error = refusal(&savepoint);
    assert!(error.contains("is damaged at offset"), "{error}");
    fs::write(&path, &intact).unwrap();

    // A damaged file of state is found when it is read, and leaves the directory as it was.
    let segment = savepoint.join(manifest(&savepoint).files().next().unwrap());
    let bytes = fs::read(&segment).unwrap();
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&segment, &damaged).unwrap();
    let run = counting.run("b", Some(&RestoreSettings::from_path(&savepoint)));
    let message = failure(&run.job);
    assert!(message.contains(segment.to_str().unwrap()), "{message}");
    drop(run);
    assert!(completed(&counting.job_dir("b")).is_empty());
    fs::write(&segment, &bytes).unwrap();
    let run = counting.run("b", Some(&RestoreSettings::from_path(&savepoint)));
    run.push_to(3_000);
    run.finish();
    counting.assert_counted(3_000);
}

#[test]
fn another_max_parallelism_and_unmatched_state_are_refused_unless_allowed() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    run.push_to(1_000);
    let savepoint = run.job.savepoint(None).unwrap();
    run.cancel();
    let from = RestoreSettings::from_path(&savepoint);

    let engine = counting.builder("b").max_parallelism(64).build().unwrap();
    let run = counting.run_on(engine, Some(&from));
    let message = failure(&run.job);
    assert!(message.contains("128") && message.contains("64"), "{message}");
    drop(run);

    let renamed = |from: &RestoreSettings| {
        let engine = counting.builder("b").build().unwrap();
        let (ingress, source) = PushSource::channel(10_000);
        let flow = Dataflow::new("counts");
        flow.source("numbers", source)
            .key_by(|n: &u64| n % KEYS)
            .count("other")
            .sink("sink", counting.sink.clone());
        let job = engine.run_from(flow, from).unwrap();
        (engine, ingress, job)
    };
    let (engine, ingress, job) = renamed(&from);
    let message = failure(&job);
    assert!(message.contains("`count`"), "{message}");
    drop((engine, ingress));

    let (engine, ingress, job) = renamed(&from.allow_non_restored_state(true));
    wait_until("the job runs", || ingress.resumed().is_some());
    assert_eq!(ingress.resumed().unwrap().position, 1_000);
    (1_000..1_100).for_each(|n| ingress.push(n).unwrap());
    ingress.close();
    outcome(&job).unwrap();
    let fresh = counting.sink.committed().concat();
    assert_eq!(fresh.iter().filter(|(_, count)| *count == 1).count(), 200, "these keys are counted anew");
    drop(engine);
}

#[test]
fn a_savepoint_that_cannot_be_written_fails_alone() {
    let counting = Counting::new();
    let run = counting.run("a", None);
    run.push_to(1_000);
    let file = counting.dir.path().join("file");
    fs::write(&file, "").unwrap();
    for stop in [None, Some(StopMode::Suspend)] {
        let result = match stop {
            None => run.job.savepoint(Some(&file)),
            Some(stop) => run.job.stop_with_savepoint(Some(&file), stop),
        };
        assert!(matches!(result, Err(Error::SavepointFailed(_))), "{result:?}");
    }
    run.push_to(2_000);
    run.job.checkpoint().unwrap();
    let metrics = run.job.metrics().checkpoints;
    assert_eq!((metrics.failed, metrics.restarts), (2, 0));
    run.finish();
    counting.assert_counted(2_000);
}

#[test]
fn checkpoints_stay_or_go_at_the_end_of_a_job_as_the_settings_say() {
    use CheckpointRetention::{DeleteOnCancellation, NoExternalizedCheckpoints, RetainOnCancellation};
    let stay = |retention, cancel: bool| {
        let counting = Counting::new();
        let builder = counting.builder("a").externalized_checkpoint_retention(retention);
        let run = counting.run_on(builder.build().unwrap(), None);
        run.push_to(100);
        run.job.checkpoint().unwrap();
        let savepoint = run.job.savepoint(None).unwrap();
        match cancel {
            true => run.cancel(),
            false => drop(run),
        }
        assert!(savepoint.join("MANIFEST").exists(), "a savepoint always stays");
        let left = files_below(&counting.job_dir("a"));
        let stays = !completed(&counting.job_dir("a")).is_empty();
        assert_eq!(stays, left.iter().any(|(name, _)| name.starts_with("shared/seg-")), "{left:?}");
        stays
    };
    assert!(stay(RetainOnCancellation, true) && stay(RetainOnCancellation, false));
    assert!(!stay(DeleteOnCancellation, true));
    assert!(stay(DeleteOnCancellation, false), "the end of the engine is not the end of the job");
    assert!(!stay(NoExternalizedCheckpoints, true) && !stay(NoExternalizedCheckpoints, false));
}

#[test]
fn statistics_tell_what_each_task_did_for_each_checkpoint() {
    let counting = Counting::new();
    let engine = counting.builder("a").checkpoint_history(3).build().unwrap();
    let run = counting.run_on(engine, None);
    for round in 1..=5 {
        run.push_to(round * 200);
        run.job.checkpoint().unwrap();
    }
    run.job.savepoint(None).unwrap();
    let metrics = run.job.metrics();
    let stats = &metrics.checkpoints;
    assert_eq!(stats.history.len(), 3);
    for record in &stats.history {
        assert_eq!(record.outcome, CheckpointOutcome::Completed);
        assert_eq!(record.tasks.len(), metrics.tasks.len());
        let tasks = record.tasks.iter().map(|task| task.stats);
        assert_eq!(record.state_bytes, tasks.clone().map(|stats| stats.state_bytes).sum::<u64>());
        assert_eq!(record.files, tasks.clone().map(|stats| u64::from(stats.files)).sum::<u64>());
        assert!(record.full_state_bytes >= record.state_bytes && record.files > 0);
        assert!(record.async_max <= record.duration);
    }
    let kinds: Vec<CheckpointKind> = stats.history.iter().map(|record| record.kind).collect();
    assert_eq!(kinds, [CheckpointKind::Checkpoint, CheckpointKind::Checkpoint, CheckpointKind::Savepoint]);
    let summary = stats.summary;
    assert_eq!((summary.duration_ns.count, summary.state_bytes.count), (6, 6));
    assert_eq!(summary.sync_ns.count, 6 * metrics.tasks.len() as u64);
    for quantiles in [summary.duration_ns, summary.async_ns, summary.state_bytes] {
        assert!(quantiles.max > 0 && quantiles.p50 <= quantiles.p90 && quantiles.p90 <= quantiles.p99);
        assert!(quantiles.p99 <= quantiles.p999 && quantiles.p999 <= quantiles.max);
    }
    run.finish();
}

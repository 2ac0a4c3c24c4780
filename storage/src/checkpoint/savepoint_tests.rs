//! Claims about savepoints on disk: how they become durable, what is deleted and what never, and how a job takes them over.

use super::test_disk::{Fault, TestDisk};
use super::*;
use crate::manifest::{ManifestKind, OperatorState, SegmentRef, SubtaskState};
use std::fs;

const SEGMENT: &str = "seg-a1-0-0";

fn open(disk: &TestDisk, job: &str) -> CheckpointStore {
    CheckpointStore::open(disk.handle(), disk.root(), job).unwrap()
}

fn manifest(id: CheckpointId, kind: ManifestKind, segment: &str) -> Manifest {
    let segments = vec![SegmentRef { path: segment.to_owned(), bytes: 5, groups: 0..1, states: Vec::new() }];
    let subtask = SubtaskState { segments, ..SubtaskState::default() };
    let uid = "sum".to_owned();
    Manifest {
        job: "job".to_owned(),
        checkpoint: id,
        attempt: AttemptId(9),
        triggered_unix_ms: 5,
        max_parallelism: 128,
        kind,
        origin: None,
        operators: vec![OperatorState { uid, parallelism: 1, keyed: vec![], subtasks: vec![subtask] }],
        edges: Vec::new(),
        channels: Vec::new(),
    }
}

fn root(disk: &TestDisk) -> PathBuf {
    disk.root().join("savepoints")
}

/// Begins a savepoint and writes its file.
fn begin(disk: &TestDisk, store: &mut CheckpointStore) -> (CheckpointId, PathBuf) {
    let (id, dir) = store.begin_savepoint(&root(disk)).unwrap();
    fs::write(dir.join(SEGMENT), "state").unwrap();
    (id, dir)
}

fn savepoint(disk: &TestDisk, store: &mut CheckpointStore) -> (CheckpointId, PathBuf) {
    let (id, dir) = begin(disk, store);
    store.publish_savepoint(&manifest(id, ManifestKind::Savepoint, SEGMENT)).unwrap();
    store.discard(id, &[], &|_| false).unwrap();
    (id, dir)
}

/// Completes a checkpoint with a file of its own.
fn checkpoint(disk: &TestDisk, store: &mut CheckpointStore, retained: usize) -> CheckpointId {
    let id = store.begin().unwrap();
    let segment = names::segment_path(AttemptId(9), id, 0, 0);
    fs::write(disk.root().join("job").join(&segment), "state").unwrap();
    store.publish(&manifest(id, ManifestKind::Checkpoint, &segment), retained, &|_| false).unwrap();
    id
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_savepoint_is_complete_once_its_manifest_is_durable_and_its_files_are_before_that() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    let (id, _) = begin(&disk, &mut store);
    disk.arm(None);
    store.publish_savepoint(&manifest(id, ManifestKind::Savepoint, SEGMENT)).unwrap();
    let expected = [
        "sync savepoints/savepoint-job-1",
        "create savepoints/savepoint-job-1/MANIFEST.tmp",
        "write savepoints/savepoint-job-1/MANIFEST.tmp",
        "fdatasync savepoints/savepoint-job-1/MANIFEST.tmp",
        "close savepoints/savepoint-job-1/MANIFEST.tmp",
        "rename savepoints/savepoint-job-1/MANIFEST.tmp savepoints/savepoint-job-1/MANIFEST",
        "sync savepoints/savepoint-job-1",
    ];
    assert_eq!(disk.operations(), expected);
}

#[test]
fn a_savepoints_directory_is_durable_before_anybody_writes_into_it() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    disk.arm(None);
    store.begin_savepoint(&root(&disk)).unwrap();
    let operations = disk.operations();
    let at = |wanted: &str| operations.iter().position(|operation| operation == wanted).expect(wanted);
    assert!(at("mkdir savepoints/savepoint-job-1") < operations.len() - 1);
    assert_eq!(operations.last().unwrap(), "sync savepoints");
}

#[test]
fn a_failed_savepoint_leaves_nothing_behind_and_a_complete_one_is_never_discarded() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    let (failed, dir) = begin(&disk, &mut store);
    store.discard_savepoint(failed).unwrap();
    assert!(!dir.exists());
    // A file that comes late finds no directory; one that was there late goes with the next call.
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("seg-a1-0-1"), "late").unwrap();
    store.discard_savepoint(failed).unwrap();
    assert!(!dir.exists());

    let (complete, dir) = savepoint(&disk, &mut store);
    store.discard_savepoint(complete).unwrap();
    assert_eq!(names_in(&dir), ["MANIFEST", SEGMENT]);
}

#[test]
fn a_savepoint_of_unknown_outcome_keeps_its_files() {
    for fault in [Fault::Refuse, Fault::TakeEffectAndFail] {
        for (at, unknown) in [(0, false), (2, false), (3, false), (5, true), (6, true)] {
            let disk = TestDisk::new();
            let mut store = open(&disk, "job");
            let (id, dir) = begin(&disk, &mut store);
            disk.arm(Some((at, fault)));
            let error = store.publish_savepoint(&manifest(id, ManifestKind::Savepoint, SEGMENT)).unwrap_err();
            disk.arm(None);
            assert_eq!(matches!(error, StoreError::OutcomeUnknown { .. }), unknown, "{at}: {error}");
            store.discard_savepoint(id).unwrap();
            assert_eq!(dir.exists(), unknown, "operation {at}");
        }
    }
}

#[test]
fn a_name_that_is_taken_is_passed_over() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    fs::create_dir_all(root(&disk).join("savepoint-job-1")).unwrap();
    fs::write(root(&disk).join("savepoint-job-2"), "").unwrap();
    let (id, dir) = begin(&disk, &mut store);
    assert_eq!((id, dir), (CheckpointId(3), root(&disk).join("savepoint-job-3")));
}

#[test]
fn a_savepoint_is_no_checkpoint_and_its_id_is_not_used_again() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    savepoint(&disk, &mut store);
    assert!(store.completed().is_empty() && store.latest().unwrap().is_none());
    drop(store);
    let mut store = open(&disk, "job");
    assert_eq!(store.begin().unwrap(), CheckpointId(2));
}

#[test]
fn savepoints_are_listed_with_what_is_wrong_with_them() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    let (_, sound) = savepoint(&disk, &mut store);
    let (_, damaged) = savepoint(&disk, &mut store);
    begin(&disk, &mut store);
    fs::create_dir(root(&disk).join("notes")).unwrap();
    fs::write(damaged.join("MANIFEST"), "nonsense").unwrap();
    let listed = list_savepoints(&disk.handle(), &root(&disk)).unwrap();
    assert_eq!(listed.iter().map(|one| &one.path).collect::<Vec<_>>(), [&sound, &damaged]);
    let info = listed[0].info.as_ref().unwrap();
    let manifest_bytes = fs::metadata(sound.join("MANIFEST")).unwrap().len();
    assert_eq!((info.id, info.bytes), (CheckpointId(1), 5 + manifest_bytes));
    assert!(matches!(listed[1].info, Err(StoreError::Corrupt { .. })));
}

#[test]
fn only_what_a_readable_savepoint_names_is_disposed_of_and_its_manifest_goes_first() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    let (_, dir) = savepoint(&disk, &mut store);
    fs::write(dir.join("notes"), "mine").unwrap();
    disk.arm(None);
    dispose_savepoint(&disk.handle(), &dir.join("MANIFEST")).unwrap();
    assert_eq!(names_in(&dir), ["notes"]);
    let operations = disk.operations();
    let at =
        |wanted: &str| operations.iter().position(|operation| operation.starts_with(wanted)).expect(wanted);
    let manifest_gone = at("remove savepoints/savepoint-job-1/MANIFEST");
    assert!(operations[manifest_gone + 1].starts_with("sync"));
    assert!(manifest_gone + 1 < at("remove savepoints/savepoint-job-1/seg"));

    let (_, damaged) = savepoint(&disk, &mut store);
    fs::write(damaged.join("MANIFEST"), "nonsense").unwrap();
    assert!(matches!(dispose_savepoint(&disk.handle(), &damaged), Err(StoreError::Corrupt { .. })));
    assert_eq!(names_in(&damaged), ["MANIFEST", SEGMENT]);
    let id = checkpoint(&disk, &mut store, 1);
    let chk = store.dir().join(names::checkpoint_dir(id));
    assert!(matches!(dispose_savepoint(&disk.handle(), &chk), Err(StoreError::Incompatible(_))));
    assert_eq!(store.latest().unwrap().unwrap().checkpoint, id);
}

#[test]
fn a_job_takes_over_a_savepoint_under_ids_above_all_of_its() {
    let disk = TestDisk::new();
    let mut theirs = open(&disk, "job");
    (0..5).for_each(|_| _ = savepoint(&disk, &mut theirs));
    let (id, dir) = savepoint(&disk, &mut theirs);
    let mut store = open(&disk, "other");
    let found = find_snapshot(&disk.handle(), &dir).unwrap();
    assert_eq!((found.manifest.checkpoint, &found.root), (id, &dir));
    let taken = store.take_over(found, false).unwrap();
    assert!(taken.checkpoint > id);
    assert_eq!((taken.job.as_str(), taken.kind), ("other", ManifestKind::Checkpoint));
    assert!(store.next_attempt().unwrap() > AttemptId(9));
    assert!(store.latest().unwrap().is_none(), "it is not complete yet");
    store.publish(&taken, usize::MAX, &|_| false).unwrap();
    drop(store);
    let mut store = open(&disk, "other");
    let latest = store.latest().unwrap().unwrap();
    assert_eq!(latest, taken);
    let file = dir.join(SEGMENT).to_str().unwrap().to_owned();
    assert_eq!(latest.resolved().files().collect::<Vec<_>>(), [file.as_str()]);
    // What it stands for is never deleted, nor is anything of that name here.
    let id = store.begin().unwrap();
    let next = Manifest {
        job: "other".to_owned(),
        ..manifest(id, ManifestKind::Checkpoint, "shared/seg-a9-c9-0-0")
    };
    store.publish(&next, 1, &|_| false).unwrap();
    assert_eq!(store.completed(), [id]);
    assert_eq!(names_in(&dir), ["MANIFEST", SEGMENT]);
}

#[test]
fn a_claimed_savepoint_goes_with_the_checkpoint_that_stands_for_it_also_after_a_restart() {
    let disk = TestDisk::new();
    let (_, dir) = savepoint(&disk, &mut open(&disk, "job"));
    let mut store = open(&disk, "job");
    let taken = store.take_over(find_snapshot(&disk.handle(), &dir).unwrap(), true).unwrap();
    store.publish(&taken, usize::MAX, &|_| false).unwrap();
    drop(store);
    let mut store = open(&disk, "job");
    assert!(dir.exists());
    checkpoint(&disk, &mut store, 1);
    assert!(!dir.exists());
}

#[test]
fn a_checkpoint_of_the_jobs_own_directory_goes_on_with_its_files() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    let older = checkpoint(&disk, &mut store, 2);
    checkpoint(&disk, &mut store, 2);
    let chk = store.dir().join(names::checkpoint_dir(older));
    let taken = store.take_over(find_snapshot(&disk.handle(), &chk).unwrap(), false).unwrap();
    assert_eq!(taken.origin, None);
    store.publish(&taken, 1, &|_| false).unwrap();
    assert_eq!(store.completed(), [taken.checkpoint]);
    let kept: Vec<String> =
        taken.files().map(|file| file.strip_prefix("shared/").unwrap().to_owned()).collect();
    assert_eq!(names_in(&store.dir().join("shared")), kept);
}

#[test]
fn a_claimed_checkpoint_in_a_directory_in_use_stays() {
    let disk = TestDisk::new();
    let mut theirs = open(&disk, "job");
    let id = checkpoint(&disk, &mut theirs, 1);
    let chk = theirs.dir().join(names::checkpoint_dir(id));
    let mut store = open(&disk, "other");
    let taken = store.take_over(find_snapshot(&disk.handle(), &chk).unwrap(), true).unwrap();
    store.publish(&taken, usize::MAX, &|_| false).unwrap();
    store.remove_all().unwrap();
    assert!(store.completed().is_empty());
    assert!(chk.join("MANIFEST").exists(), "its engine still runs");
}

#[test]
fn all_checkpoints_of_a_job_go_and_ids_rise_on() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    checkpoint(&disk, &mut store, 3);
    let last = checkpoint(&disk, &mut store, 3);
    store.remove_all().unwrap();
    assert!(store.completed().is_empty() && names_in(&store.dir().join("shared")).is_empty());
    drop(store);
    let mut store = open(&disk, "job");
    assert!(store.latest().unwrap().is_none());
    assert!(store.begin().unwrap() > last);
}

#[test]
fn what_is_no_snapshot_is_told_apart() {
    let disk = TestDisk::new();
    let mut store = open(&disk, "job");
    let (_, dir) = savepoint(&disk, &mut store);
    checkpoint(&disk, &mut store, 1);
    let refusal = |path: &Path| match find_snapshot(&disk.handle(), path) {
        Err(StoreError::Incompatible(message)) => message,
        other => panic!("{other:?}"),
    };
    assert!(refusal(&disk.root().join("nowhere")).contains("there is no savepoint or checkpoint at"));
    assert!(refusal(&root(&disk)).contains("choose one of its savepoint-job-1"));
    assert!(refusal(store.dir()).contains("choose one of its chk-2"));
    assert!(refusal(&store.dir().join("shared")).contains("was never completed"));
    fs::rename(dir.join("MANIFEST"), dir.join("MANIFEST.tmp")).unwrap();
    assert!(refusal(&dir).contains("was never completed"));
}

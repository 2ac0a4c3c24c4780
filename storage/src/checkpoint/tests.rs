//! Claims about checkpoint directories: durability order, faults, kills, retention.

use super::test_disk::{Fault, TestDisk};
use super::*;
use crate::codec::Data;
use crate::manifest::{
    ChannelOrigin, ChannelState, EdgeState, ManifestKind, OperatorState, Payload, SegmentRef, SubtaskState,
};
use std::collections::BTreeSet;
use std::fs;

fn unused(_: &str) -> bool {
    false
}

fn open(disk: &TestDisk) -> Result<CheckpointStore, StoreError> {
    CheckpointStore::open(disk.handle(), disk.root(), "job")
}

/// Writes a file below the job's directory as a worker would: its path is its content.
fn write(disk: &TestDisk, path: &str) {
    fs::write(disk.root().join("job").join(path), path).unwrap();
}

fn segment(id: CheckpointId) -> String {
    names::segment_path(AttemptId(1), id, 0, 0)
}

fn channel(id: CheckpointId) -> String {
    names::channel_path(AttemptId(1), id, 0, 0)
}

/// A manifest that names `segments`, and the checkpoint's own file of in-flight data.
fn manifest(id: CheckpointId, segments: &[String]) -> Manifest {
    let path = channel(id);
    let bytes = path.len() as u64;
    let data =
        Payload::File { crc32: crc32fast::hash(path.as_bytes()), path, offset: 0, bytes, file_bytes: bytes };
    let segments = segments
        .iter()
        .map(|path| SegmentRef {
            path: path.clone(),
            bytes: path.len() as u64,
            groups: 0..1,
            states: Vec::new(),
        })
        .collect();
    let subtask = SubtaskState { segments, ..SubtaskState::default() };
    let (uid, edge) = ("sum".to_owned(), "source -> sum".to_owned());
    Manifest {
        job: "job".to_owned(),
        checkpoint: id,
        attempt: AttemptId(1),
        triggered_unix_ms: 5,
        max_parallelism: 128,
        kind: ManifestKind::Checkpoint,
        origin: None,
        operators: vec![OperatorState { uid, parallelism: 1, keyed: vec![], subtasks: vec![subtask] }],
        edges: vec![EdgeState {
            name: edge.clone(),
            record: u64::schema(),
            key: None,
            producers: 1,
            consumers: 1,
        }],
        channels: vec![ChannelState {
            edge,
            producer: 0,
            consumer: 0,
            generation: 0,
            origin: ChannelOrigin::Consumer,
            records: 1,
            data,
        }],
    }
}

/// Begins a checkpoint and writes its files.
fn begin(disk: &TestDisk, store: &mut CheckpointStore) -> CheckpointId {
    let id = store.begin().unwrap();
    write(disk, &segment(id));
    write(disk, &channel(id));
    id
}

/// Completes a checkpoint that names `older` segments and one of its own.
fn complete(
    disk: &TestDisk,
    store: &mut CheckpointStore,
    older: &[CheckpointId],
    retained: usize,
) -> CheckpointId {
    let id = begin(disk, store);
    let segments: Vec<String> = older.iter().copied().chain([id]).map(segment).collect();
    store.publish(&manifest(id, &segments), retained, &unused).unwrap();
    id
}

/// All files and empty directories below the job's directory, but the lock and attempts.
fn tree(disk: &TestDisk) -> BTreeSet<String> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        let entries: Vec<_> = fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
        if entries.is_empty() {
            found.insert(prefix.to_owned());
        }
        for entry in entries {
            let name = format!("{prefix}{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{name}/"), found);
            } else {
                found.insert(name);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&disk.root().join("job"), "", &mut found);
    found.retain(|path| path != "LOCK" && !path.starts_with("attempt-"));
    found
}

fn paths<const N: usize>(paths: [&str; N]) -> BTreeSet<String> {
    paths.into_iter().map(str::to_owned).collect()
}

#[test]
fn a_new_directory_is_durable_from_the_first_missing_name_on() {
    let disk = TestDisk::new();
    let root = disk.root().join("a/b");
    CheckpointStore::open_unlocked(disk.handle(), &root, "job").unwrap();
    let created: Vec<String> = disk.operations().into_iter().filter(|o| !o.starts_with("list")).collect();
    let expected = [
        // Not there, nor their parents.
        "mkdir a/b/job/shared",
        "mkdir a/b/job",
        "mkdir a/b",
        "mkdir a",
    ];
    assert_eq!(created[..4], expected);
    let rest: Vec<&str> =
        created[4..].iter().map(String::as_str).filter(|o| !o.starts_with("sync /")).collect();
    let expected =
        ["sync ", "mkdir a/b", "sync a", "mkdir a/b/job", "sync a/b", "mkdir a/b/job/shared", "sync a/b/job"];
    assert_eq!(rest, expected);
}

#[test]
fn begin_makes_the_id_durable_before_anybody_hears_of_it() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    disk.arm(None);
    assert_eq!(store.begin().unwrap(), CheckpointId(1));
    assert_eq!(disk.operations(), ["mkdir job/chk-1", "sync job"]);
}

#[test]
fn publish_makes_names_durable_then_the_manifest_then_its_name_then_deletes() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    complete(&disk, &mut store, &[], 1);
    let id = begin(&disk, &mut store);
    disk.arm(None);
    let bytes = store.publish(&manifest(id, &[segment(id)]), 1, &unused).unwrap();
    assert_eq!(bytes, fs::metadata(disk.root().join("job/chk-2/MANIFEST")).unwrap().len());
    let expected = [
        "sync job/shared",
        "sync job/chk-2",
        "create job/chk-2/MANIFEST.tmp",
        "write job/chk-2/MANIFEST.tmp",
        "fdatasync job/chk-2/MANIFEST.tmp",
        "close job/chk-2/MANIFEST.tmp",
        "rename job/chk-2/MANIFEST.tmp job/chk-2/MANIFEST",
        "sync job/chk-2",
        // Complete. The older one stops being complete before the first of its files goes.
        "remove job/chk-1/MANIFEST",
        "sync job/chk-1",
        "remove job/chk-1/channel-a1-0-0",
        "remove job/shared/seg-a1-c1-0-0",
        "list job/chk-1",
        "rmdir job/chk-1",
    ];
    assert_eq!(disk.operations(), expected);
}

#[test]
fn latest_makes_the_manifest_and_its_directories_durable_before_it_returns() {
    let disk = TestDisk::new();
    complete(&disk, &mut open(&disk).unwrap(), &[], 1);
    let store = open(&disk).unwrap();
    disk.arm(None);
    assert_eq!(store.latest().unwrap(), Some(manifest(CheckpointId(1), &[segment(CheckpointId(1))])));
    let syncs: Vec<String> = disk.operations().into_iter().filter(|o| o.contains("sync ")).collect();
    assert_eq!(syncs, ["fdatasync job/chk-1/MANIFEST", "sync job/chk-1", "sync job/shared", "sync job"]);
    for sync in syncs {
        let store = open(&disk)
            .unwrap_or_else(|_| CheckpointStore::open_unlocked(disk.handle(), disk.root(), "job").unwrap());
        disk.arm(None);
        store.latest().unwrap();
        let at = disk.operations().iter().position(|o| *o == sync).unwrap();
        disk.arm(Some((at, Fault::Refuse)));
        assert!(matches!(store.latest(), Err(StoreError::Io { .. })), "{sync} failed");
        let again = store.latest();
        assert!(matches!(again, Err(StoreError::SyncFailedBefore { .. })), "{sync} failed before: {again:?}");
    }
}

#[test]
fn checkpoints_survive_reopening_and_retention_keeps_the_newest() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    assert_eq!(store.latest().unwrap(), None);
    for _ in 0..4 {
        complete(&disk, &mut store, &[], 2);
    }
    let ids = [CheckpointId(3), CheckpointId(4)];
    assert_eq!(store.completed(), ids);
    drop(store);
    let store = open(&disk).unwrap();
    assert_eq!(store.completed(), ids);
    for id in ids {
        assert_eq!(store.load(id).unwrap(), manifest(id, &[segment(id)]));
    }
    let files: BTreeSet<String> =
        ids.iter().flat_map(|id| [segment(*id), channel(*id), format!("chk-{id}/MANIFEST")]).collect();
    assert_eq!(tree(&disk), files);
}

#[test]
fn a_segment_lives_as_long_as_a_retained_manifest_names_it() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let first = complete(&disk, &mut store, &[], 1);
    let second = complete(&disk, &mut store, &[first], 1);
    assert!(tree(&disk).contains(&segment(first)));
    complete(&disk, &mut store, &[second], 1);
    assert!(!tree(&disk).contains(&segment(first)));
    assert!(tree(&disk).contains(&segment(second)));
}

#[test]
fn a_segment_in_use_outlives_its_manifests_and_goes_once_it_is_free() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let first = complete(&disk, &mut store, &[], 1);
    let id = begin(&disk, &mut store);
    store.publish(&manifest(id, &[segment(id)]), 1, &|path| path == segment(first)).unwrap();
    assert!(tree(&disk).contains(&segment(first)));
    complete(&disk, &mut store, &[], 1);
    assert!(!tree(&disk).contains(&segment(first)));
}

#[test]
fn at_least_one_checkpoint_is_retained() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    complete(&disk, &mut store, &[], 0);
    let id = complete(&disk, &mut store, &[], 0);
    assert_eq!(store.completed(), [id]);
    store.load(id).unwrap();
}

#[test]
fn a_discarded_checkpoint_leaves_its_id_and_nothing_else() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let kept = complete(&disk, &mut store, &[], 1);
    let before = tree(&disk);
    let id = begin(&disk, &mut store);
    // Its manifest would have named a segment of the completed one as well.
    store.discard(id, &[segment(id), segment(kept)], &unused).unwrap();
    assert_eq!(tree(&disk), &before | &paths(["chk-2/"]));
    drop(store);
    let mut store = open(&disk).unwrap();
    assert_eq!(tree(&disk), &before | &paths(["chk-2/"]));
    assert_eq!(store.begin().unwrap(), CheckpointId(3));
    assert_eq!(tree(&disk), &before | &paths(["chk-3/"]));
}

#[test]
fn a_discarded_segment_that_a_later_round_names_stays() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let aborted = begin(&disk, &mut store);
    store.discard(aborted, &[segment(aborted)], &|path| path == segment(aborted)).unwrap();
    let id = complete(&disk, &mut store, &[aborted], 1);
    assert!(tree(&disk).contains(&segment(aborted)));
    assert_eq!(store.load(id).unwrap(), manifest(id, &[segment(aborted), segment(id)]));
}

#[test]
fn files_of_a_late_acknowledgement_go_but_none_of_a_completed_checkpoint() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let id = complete(&disk, &mut store, &[], 1);
    let before = tree(&disk);
    write(&disk, "shared/seg-a1-c1-9-9");
    let late =
        [segment(id), "shared/seg-a1-c1-9-9".into(), "LOCK".into(), "chk-1/MANIFEST".into(), "../x".into()];
    store.discard(id, &late, &unused).unwrap();
    assert_eq!(tree(&disk), before);
    assert!(store.dir().join("LOCK").exists());
}

#[test]
fn ids_exceed_every_id_ever_tried() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    assert_eq!(store.next_attempt().unwrap(), AttemptId(1));
    complete(&disk, &mut store, &[], 1);
    store.begin().unwrap();
    drop(store);
    let mut store = open(&disk).unwrap();
    assert_eq!(store.next_attempt().unwrap(), AttemptId(2));
    assert_eq!(store.begin().unwrap(), CheckpointId(3));
    drop(store);
    // Names alone are enough, and stay until a directory carries their ids.
    write(&disk, "shared/seg-a7-c9-0-0");
    let mut store = open(&disk).unwrap();
    assert!(tree(&disk).contains("shared/seg-a7-c9-0-0"));
    assert_eq!(store.next_attempt().unwrap(), AttemptId(8));
    assert_eq!(store.begin().unwrap(), CheckpointId(10));
    store.sweep(&unused).unwrap();
    assert!(!tree(&disk).contains("shared/seg-a7-c9-0-0"));
}

#[test]
fn an_attempt_or_id_that_failed_is_never_used_again() {
    let disk = TestDisk::new();
    for fault in [Fault::Refuse, Fault::TakeEffectAndFail] {
        for at in 0..2 {
            let mut store = open(&disk).unwrap();
            disk.arm(Some((at, fault)));
            assert!(matches!(store.next_attempt(), Err(StoreError::Io { .. })));
            let lost = AttemptId(store.attempts.tried);
            drop(store);
            disk.arm(None);
            let mut store = open(&disk).unwrap();
            // Nobody heard of the lost number, so only a trace of it on disk forbids it.
            let trace = disk.root().join("job").join(names::attempt_dir(lost)).exists();
            assert!(store.next_attempt().unwrap() >= if trace { lost.next() } else { lost });
        }
    }
    let mut store = open(&disk).unwrap();
    disk.arm(Some((0, Fault::Refuse)));
    store.begin().unwrap_err();
    assert_eq!(store.begin().unwrap(), CheckpointId(2));
}

#[test]
fn the_highest_id_possible_is_an_error_not_an_overflow() {
    let disk = TestDisk::new();
    fs::create_dir_all(disk.root().join("job/chk-18446744073709551615")).unwrap();
    let mut store = open(&disk).unwrap();
    assert!(matches!(store.begin(), Err(StoreError::Incompatible(_))));
}

#[test]
fn after_a_failed_sync_of_the_directory_no_checkpoint_begins_and_no_sync_is_tried() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    disk.arm(Some((1, Fault::Refuse)));
    store.begin().unwrap_err();
    let error = store.begin().unwrap_err().to_string();
    assert!(error.contains("job") && error.contains("reopen"), "{error}");
    let attempt = store.next_attempt().unwrap_err();
    assert!(matches!(attempt, StoreError::SyncFailedBefore { .. }) && !attempt.may_pass(), "{attempt}");
    assert_eq!(disk.operations(), ["mkdir job/chk-1", "sync job", "mkdir job/chk-2"]);
    drop(store);
    disk.arm(None);
    assert_eq!(open(&disk).unwrap().begin().unwrap(), CheckpointId(3));
}

#[test]
fn a_failed_sync_of_the_manifest_fails_this_checkpoint_only() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let kept = complete(&disk, &mut store, &[], 1);
    let before = tree(&disk);
    let id = begin(&disk, &mut store);
    disk.arm(Some((4, Fault::Refuse)));
    let error = store.publish(&manifest(id, &[segment(id)]), 1, &unused).unwrap_err();
    assert!(error.to_string().contains("syncing") && error.to_string().contains("MANIFEST.tmp"), "{error}");
    store.discard(id, &[segment(id)], &unused).unwrap();
    assert_eq!(tree(&disk), &before | &paths(["chk-2/"]));
    assert_eq!(store.latest().unwrap().unwrap().checkpoint, kept);
    complete(&disk, &mut store, &[], 1);
}

#[test]
fn an_unknown_outcome_deletes_nothing_and_reopening_finds_out() {
    const RENAME: usize = 6;
    for (at, fault, visible) in [
        (RENAME, Fault::Refuse, false),
        (RENAME, Fault::TakeEffectAndFail, true),
        (RENAME + 1, Fault::Refuse, true),
        (RENAME + 1, Fault::TakeEffectAndFail, true),
    ] {
        let disk = TestDisk::new();
        let mut store = open(&disk).unwrap();
        store.next_attempt().unwrap();
        let old = complete(&disk, &mut store, &[], 1);
        let id = begin(&disk, &mut store);
        let before = tree(&disk);
        disk.arm(Some((at, fault)));
        let error = store.publish(&manifest(id, &[segment(id)]), 1, &unused).unwrap_err();
        assert!(
            matches!(error, StoreError::OutcomeUnknown { checkpoint, .. } if checkpoint == id),
            "{error}"
        );
        store.discard(id, &[segment(id), channel(id)], &unused).unwrap();
        assert!(before.is_subset(&tree(&disk)));
        assert_eq!(store.completed(), [old]);
        match store.latest() {
            Ok(found) => assert_eq!(found.unwrap().checkpoint, if visible { id } else { old }),
            // A sync that failed once proves nothing the second time.
            Err(error) => assert!(at > RENAME && error.to_string().contains("earlier sync"), "{error}"),
        }
        drop(store);
        disk.arm(None);
        let mut store = open(&disk).unwrap();
        assert_eq!(store.latest().unwrap().unwrap().checkpoint, if visible { id } else { old });
        let last = complete(&disk, &mut store, &[], 1);
        let files = [segment(last), channel(last), format!("chk-{last}/MANIFEST")];
        assert_eq!(tree(&disk), BTreeSet::from(files));
    }
}

#[test]
fn checkpoints_go_on_after_an_unknown_outcome_and_keep_its_files() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let id = begin(&disk, &mut store);
    disk.arm(Some((7, Fault::Refuse)));
    store.publish(&manifest(id, &[segment(id)]), 1, &unused).unwrap_err();
    for _ in 0..2 {
        let last = complete(&disk, &mut store, &[], 1);
        assert_eq!(store.latest().unwrap().unwrap().checkpoint, last);
        assert!(paths(["chk-1/MANIFEST", &segment(id), &channel(id)]).is_subset(&tree(&disk)));
    }
}

#[test]
fn leftovers_go_when_the_directory_is_opened_and_foreign_names_stay() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    store.next_attempt().unwrap();
    complete(&disk, &mut store, &[], 1);
    for _ in 0..3 {
        begin(&disk, &mut store);
    }
    write(&disk, "chk-3/MANIFEST.tmp");
    write(&disk, "shared/scratch-a1-0-0");
    drop(store);
    write(&disk, "shared/notes");
    write(&disk, "README");
    let store = open(&disk).unwrap();
    let id = CheckpointId(1);
    let kept = [segment(id), channel(id), "chk-1/MANIFEST".into(), "chk-4/".into()];
    assert_eq!(tree(&disk), &BTreeSet::from(kept) | &paths(["shared/notes", "README"]));
    assert_eq!(store.completed(), [id]);
}

#[test]
fn every_changed_byte_of_the_newest_manifest_is_an_error_and_nothing_is_deleted() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    store.next_attempt().unwrap();
    let old = complete(&disk, &mut store, &[], 2);
    let new = complete(&disk, &mut store, &[], 2);
    begin(&disk, &mut store);
    drop(store);
    let path = disk.root().join("job/chk-2/MANIFEST");
    let sound = fs::read(&path).unwrap();
    let before = tree(&disk);
    for at in 0..sound.len() {
        for byte in [sound[at] ^ 0x10, 0x00, 0xFF] {
            let mut changed = sound.clone();
            changed[at] = byte;
            if changed == sound {
                continue;
            }
            fs::write(&path, changed).unwrap();
            let store = open(&disk).unwrap();
            assert_eq!(store.completed(), [old, new]);
            let error = store.latest().unwrap_err();
            assert!(matches!(&error, StoreError::Corrupt { path: p, .. } if *p == path), "{error}");
            store.load(old).unwrap();
            assert_eq!(tree(&disk), before);
        }
    }
    fs::write(&path, &sound).unwrap();
    assert_eq!(open(&disk).unwrap().latest().unwrap().unwrap().checkpoint, new);
}

#[test]
fn a_damaged_checkpoint_goes_once_newer_ones_are_retained() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let damaged = complete(&disk, &mut store, &[], 1);
    drop(store);
    fs::write(disk.root().join("job/chk-1/MANIFEST"), b"").unwrap();
    let mut store = open(&disk).unwrap();
    assert!(matches!(store.latest(), Err(StoreError::Corrupt { .. })));
    complete(&disk, &mut store, &[], 2);
    assert_eq!(store.completed(), [damaged, CheckpointId(2)]);
    complete(&disk, &mut store, &[], 2);
    assert_eq!(store.completed(), [CheckpointId(2), CheckpointId(3)]);
    store.next_attempt().unwrap();
    store.sweep(&unused).unwrap();
    assert!(!tree(&disk).iter().any(|path| path.contains("-c1-") || path.starts_with("chk-1/")));
}

#[test]
fn a_manifest_in_the_place_of_another_is_refused() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    complete(&disk, &mut store, &[], 2);
    complete(&disk, &mut store, &[], 2);
    drop(store);
    let job = disk.root().join("job");
    fs::copy(job.join("chk-1/MANIFEST"), job.join("chk-2/MANIFEST")).unwrap();
    let error = open(&disk).unwrap().latest().unwrap_err();
    assert!(matches!(&error, StoreError::Corrupt { .. }), "{error}");
    fs::rename(&job, disk.root().join("other")).unwrap();
    let store = CheckpointStore::open(disk.handle(), disk.root(), "other").unwrap();
    assert!(matches!(store.load(CheckpointId(1)), Err(StoreError::Incompatible(_))));
}

#[test]
fn a_manifest_that_no_reader_would_accept_is_not_published() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let id = store.begin().unwrap();
    let mut other_job = manifest(id, &[]);
    other_job.job = "other".to_owned();
    let mut gap = manifest(id, &[]);
    let Payload::File { file_bytes, .. } = &mut gap.channels[0].data else {
        unreachable!("the sample has a file")
    };
    *file_bytes += 1;
    disk.arm(None);
    for refused in [other_job, gap, manifest(id, &["/etc/passwd".to_owned()])] {
        assert!(matches!(store.publish(&refused, 1, &unused), Err(StoreError::Incompatible(_))));
    }
    assert!(disk.operations().is_empty());
}

#[test]
#[should_panic(expected = "published without having begun")]
fn publishing_twice_panics() {
    let disk = TestDisk::new();
    let mut store = open(&disk).unwrap();
    let id = complete(&disk, &mut store, &[], 1);
    let _ = store.publish(&manifest(id, &[]), 1, &unused);
}

#[test]
fn two_engines_cannot_share_a_directory_even_in_one_process() {
    let disk = TestDisk::new();
    let store = open(&disk).unwrap();
    let error = open(&disk).err().unwrap();
    assert!(matches!(&error, StoreError::Locked { path } if *path == disk.root().join("job")), "{error}");
    CheckpointStore::open(disk.handle(), disk.root(), "other").unwrap();
    drop(store);
    open(&disk).unwrap();
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(disk.root().join("job/LOCK")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let disk = TestDisk::new();
    let root = disk.root().join("file");
    fs::write(&root, b"").unwrap();
    let error = CheckpointStore::open(disk.handle(), &root, "job").err().unwrap();
    assert!(matches!(&error, StoreError::Io { path, .. } if path.starts_with(&root)), "{error}");
}

#[test]
fn a_job_name_is_one_component_of_a_path() {
    let disk = TestDisk::new();
    for name in ["", ".", "..", "a/b", "/a", "a\0b", "a\\b", &"x".repeat(256)] {
        let refused = CheckpointStore::open(disk.handle(), disk.root(), name);
        assert!(matches!(refused, Err(StoreError::Incompatible(_))), "{name:?}");
    }
    assert!(disk.operations().is_empty());
}

/// What an outside observer knows after a run in which anything may have failed.
#[derive(Default)]
struct Observed {
    ids: BTreeSet<CheckpointId>,
    attempts: BTreeSet<AttemptId>,
    /// Newest checkpoint that was reported complete.
    acknowledged: CheckpointId,
    /// Reported as of unknown outcome.
    unknown: BTreeSet<CheckpointId>,
}

/// A run with every kind of operation; steps that fail are skipped, as the coordinator does.
fn run(disk: &TestDisk, seen: &mut Observed) -> Result<(), StoreError> {
    let mut store = CheckpointStore::open_unlocked(disk.handle(), disk.root(), "job")?;
    let mut newest = store.latest()?.map(|m| m.checkpoint);
    seen.attempts.extend(store.next_attempt().ok());
    for aborted in [false, true, false, false] {
        let Ok(id) = store.begin() else { continue };
        assert!(seen.ids.insert(id), "checkpoint {id} twice");
        write(disk, &segment(id));
        write(disk, &channel(id));
        if aborted {
            let _ = store.discard(id, &[segment(id)], &unused);
            continue;
        }
        let segments: Vec<String> = newest.into_iter().chain([id]).map(segment).collect();
        match store.publish(&manifest(id, &segments), 1, &unused) {
            Ok(_) => (seen.acknowledged, newest) = (id, Some(id)),
            Err(StoreError::OutcomeUnknown { .. }) => drop(seen.unknown.insert(id)),
            Err(_) => drop(store.discard(id, &[segment(id)], &unused)),
        }
    }
    Ok(())
}

/// Opens the directory without faults and compares it with what was observed.
fn check(disk: &TestDisk, seen: &mut Observed) {
    disk.arm(None);
    let mut store = open(disk).unwrap();
    let latest = store.latest().unwrap().expect("an old or a new checkpoint loads");
    let id = latest.checkpoint;
    assert!(id >= seen.acknowledged, "{id} is older than what was acknowledged, {}", seen.acknowledged);
    for path in latest.files() {
        assert_eq!(fs::read_to_string(store.dir().join(path)).unwrap(), path);
    }
    assert_eq!(store.latest().unwrap(), Some(latest), "a second recovery finds something else");
    let attempt = store.next_attempt().unwrap();
    assert!(seen.attempts.insert(attempt), "attempt {attempt} twice");
    let last = complete(disk, &mut store, &[id], 1);
    assert!(seen.ids.insert(last), "checkpoint {last} twice");
    let files = [segment(id), segment(last), channel(last), format!("chk-{last}/MANIFEST")];
    assert_eq!(tree(disk), BTreeSet::from(files), "something is left over");
    assert_eq!(disk.open_files(), 0);
}

/// A directory with one completed checkpoint.
fn prepared() -> (TestDisk, Observed) {
    let disk = TestDisk::new();
    let mut seen = Observed::default();
    let mut store = open(&disk).unwrap();
    seen.attempts.insert(store.next_attempt().unwrap());
    seen.acknowledged = complete(&disk, &mut store, &[], 1);
    seen.ids.insert(seen.acknowledged);
    (disk, seen)
}

#[test]
fn a_fault_at_any_operation_leaves_the_old_or_the_new_checkpoint_and_no_id_twice() {
    for fault in [Fault::Refuse, Fault::TakeEffectAndFail, Fault::Die] {
        for at in 0.. {
            let (disk, mut seen) = prepared();
            disk.arm(Some((at, fault)));
            let _ = run(&disk, &mut seen);
            let done = disk.operations().len() <= at;
            check(&disk, &mut seen);
            if done {
                assert!(at > 50, "the run has {at} operations only");
                break;
            }
        }
    }
}

#[test]
fn a_crash_during_recovery_from_a_crash_is_recovered_from() {
    for first in 0.. {
        let mut done = false;
        // One operation in five, another one each time, so that all of them have their turn.
        for second in (first % 5..).step_by(5) {
            let (disk, mut seen) = prepared();
            disk.arm(Some((first, Fault::Die)));
            let _ = run(&disk, &mut seen);
            done = disk.operations().len() <= first;
            disk.arm(Some((second, Fault::Die)));
            if let Ok(store) = CheckpointStore::open_unlocked(disk.handle(), disk.root(), "job") {
                let _ = store.latest();
            }
            let recovered = disk.operations().len() <= second;
            check(&disk, &mut seen);
            if recovered {
                break;
            }
        }
        if done {
            break;
        }
    }
}

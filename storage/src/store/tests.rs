//! What a store promises its program. Crashes are simulated in `storage/tests/crash_store.rs`.

use super::*;
use crate::io::{Fault, OpKind, SimDisk};
use std::collections::BTreeMap;

struct Two {
    counts: Table<u64, u64>,
    names: Table<String, String>,
}
crate::tables!(Two { counts, names });

fn options(disk: &Arc<SimDisk>) -> StoreOptions {
    StoreOptions::new("/data/state").disk(DiskHandle::new(disk.clone())).without_lock().clock(|| 7)
}

fn open(disk: &Arc<SimDisk>) -> Store<Two> {
    open_with(options(disk)).unwrap()
}

fn open_with(options: StoreOptions) -> Result<Store<Two>, StoreError> {
    Store::open(options, |tables| Two { counts: tables.value("counts"), names: tables.value("names") })
}

fn disk() -> Arc<SimDisk> {
    let disk = SimDisk::new();
    DiskHandle::new(disk.clone()).create_dir("/data").wait().unwrap();
    disk
}

fn content(store: &mut Store<Two>) -> (BTreeMap<u64, u64>, BTreeMap<String, String>) {
    let (mut counts, mut names) = (BTreeMap::new(), BTreeMap::new());
    store.tables().counts.for_each(|k, v| _ = counts.insert(*k, *v));
    store.tables().names.for_each(|k, v| _ = names.insert(k.clone(), v.clone()));
    (counts, names)
}

#[test]
fn a_reopened_store_holds_the_latest_checkpoint_and_nothing_later() {
    let disk = disk();
    let mut store = open(&disk);
    assert_eq!(store.latest(), None);
    for i in 0..10_000 {
        store.tables().counts.insert(&i, i * i);
        store.tables().names.insert(&format!("key {i}"), format!("value {i}"));
    }
    store.checkpoint().unwrap();
    for i in 0..100 {
        assert!(store.tables().counts.remove(&i));
        store.tables().names.insert(&format!("key {i}"), "changed".repeat(i as usize));
    }
    let complete = store.checkpoint().unwrap();
    let expected = content(&mut store);
    store.tables().counts.insert(&1, 1);
    store.tables().names.remove(&"key 5000".to_owned());
    drop(store);

    let mut store = open(&disk);
    assert_eq!(store.latest(), Some(complete));
    assert!(content(&mut store) == expected);
}

#[test]
fn a_checkpoint_holds_the_tables_as_they_were_at_its_begin() {
    let disk = disk();
    let mut store = open(&disk);
    (0..50_000).for_each(|i| store.tables().counts.insert(&i, 1));
    let expected = content(&mut store);
    let id = store.begin_checkpoint().unwrap();
    let mut slices = 0;
    loop {
        match store.advance(512).unwrap() {
            Progress::Completed(completed) => break assert_eq!(completed, id),
            Progress::Waits => store.wait(),
            Progress::More => {}
            Progress::Idle => panic!("the checkpoint is under way until it completes"),
        }
        slices += 1;
        store.tables().counts.insert(&(slices * 97 % 50_000), 2);
        store.tables().counts.remove(&(slices * 89 % 50_000));
    }
    assert!(slices > 50, "written in slices");
    assert_eq!(store.advance(512).unwrap(), Progress::Idle);
    drop(store);
    assert!(content(&mut open(&disk)) == expected);
}

#[test]
fn after_a_failed_checkpoint_the_next_one_holds_everything() {
    for (kind, fault) in [
        (OpKind::CreateDir, Fault::NoSpace),
        (OpKind::Open, Fault::NoSpace),
        (OpKind::Write, Fault::NoSpace),
        (OpKind::SyncData, Fault::Io),
        (OpKind::Rename, Fault::Io),
    ] {
        let disk = disk();
        let mut store = open(&disk);
        store.tables().counts.insert(&1, 1);
        let first = store.checkpoint().unwrap();
        store.tables().counts.insert(&2, 2);
        disk.fail_next(kind, fault);
        store.checkpoint().unwrap_err();
        assert_eq!(store.latest(), Some(first));
        store.tables().counts.insert(&3, 3);
        let second = store.checkpoint().unwrap();
        assert!(second > first);
        drop(store);
        let mut store = open(&disk);
        assert_eq!(store.latest(), Some(second), "{kind:?}");
        assert_eq!(content(&mut store).0, BTreeMap::from([(1, 1), (2, 2), (3, 3)]), "{kind:?}");
    }
}

#[test]
fn a_cancelled_checkpoint_leaves_no_file_behind() {
    let disk = disk();
    let mut store = open(&disk);
    (0..10_000).for_each(|i| store.tables().counts.insert(&i, i));
    store.checkpoint().unwrap();
    let files = disk.files().len();
    (0..10_000).for_each(|i| store.tables().counts.insert(&i, 0));
    store.begin_checkpoint().unwrap();
    while store.advance(100_000).unwrap() == Progress::More && disk.files().len() == files {}
    assert!(disk.files().len() > files, "it was being written");
    store.cancel_checkpoint();
    assert_eq!(disk.files().len(), files);
    assert_eq!(store.advance(1).unwrap(), Progress::Idle);
    store.checkpoint().unwrap();
    assert_eq!(content(&mut open(&disk)).0, (0..10_000).map(|i| (i, 0)).collect());
}

#[test]
fn a_savepoint_is_a_store_of_its_own() {
    let disk = disk();
    let mut store = open(&disk);
    (0..1_000).for_each(|i| store.tables().counts.insert(&i, i));
    store.checkpoint().unwrap();
    (500..2_000).for_each(|i| store.tables().counts.insert(&i, 2 * i));
    let expected = content(&mut store);
    disk.fail_next(OpKind::Write, Fault::NoSpace);
    store.savepoint("/data/failed").unwrap_err();
    store.savepoint("/data/saved").unwrap();
    assert!(matches!(store.savepoint("/data/saved"), Err(StoreError::Incompatible(_))));
    store.tables().counts.insert(&1, 7);
    // What the savepoint holds is still new to the next checkpoint.
    let complete = store.checkpoint().unwrap();
    let (saved, later) = (expected, content(&mut store));
    drop(store);

    let mut store = open(&disk);
    assert_eq!(store.latest(), Some(complete));
    assert!(content(&mut store) == later);
    DiskHandle::new(disk.clone()).remove_dir_all("/data/state").unwrap();
    let from_savepoint = || StoreOptions { dir: "/data/saved".into(), ..options(&disk) };
    let mut store = open_with(from_savepoint()).unwrap();
    assert!(content(&mut store) == saved);
    store.tables().counts.remove(&1);
    store.checkpoint().unwrap();
    drop(store);
    assert_eq!(open_with(from_savepoint()).unwrap().tables().counts.get(&1), None);
}

#[test]
fn batches_do_what_single_calls_do() {
    let disk = disk();
    let mut store = open(&disk);
    let keys: Vec<u64> = (0..5_000).map(|i| i * 7 % 3_000).collect();
    store.tables().counts.update_batch(&keys, |i| i as u64, |i, value| *value += i as u64).unwrap();
    let mut expected = BTreeMap::new();
    for (i, key) in keys.iter().enumerate() {
        *expected.entry(*key).or_insert(i as u64) += i as u64;
    }
    assert_eq!(content(&mut store).0, expected);
    let keys: Vec<u64> = (0..4_000).collect();
    let mut read = 0;
    let counts = &mut store.tables().counts;
    counts
        .read_batch(&keys, |i, value| {
            assert_eq!((i, value), (read, expected.get(&keys[i])));
            read += 1;
        })
        .unwrap();
    assert_eq!(read, keys.len());
}

#[test]
fn a_store_that_does_not_fit_its_checkpoint_is_refused_by_name() {
    let disk = disk();
    let mut store = open(&disk);
    store.tables().counts.insert(&1, 1);
    store.checkpoint().unwrap();
    drop(store);

    let refused = |error: Option<StoreError>, word: &str| match error {
        Some(StoreError::Incompatible(message)) => assert!(message.contains(word), "{message}"),
        other => panic!("{other:?}"),
    };
    let groups = open_with(options(&disk).key_groups(64));
    refused(groups.err(), "64");
    let missing = Store::open(options(&disk), |tables| tables.value::<u64, u64>("counts"));
    refused(missing.err(), "\"names\"");
    let other_type = Store::open(options(&disk), |tables| SignedCounts {
        counts: tables.value("counts"),
        names: tables.value("names"),
    });
    refused(other_type.err(), "\"counts\"");
    let dropped = Store::open(options(&disk).allow_unmatched(true), |t| t.value::<u64, u64>("counts"));
    assert_eq!(dropped.unwrap().tables().get(&1), Some(1));
}

struct SignedCounts {
    counts: Table<u64, i64>,
    names: Table<String, String>,
}
crate::tables!(SignedCounts { counts, names });

#[test]
fn a_directory_is_open_in_one_store_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::open(StoreOptions::new(dir.path()), |tables| tables.value::<u64, u64>("counts"));
    let mut store = open().unwrap();
    store.tables().insert(&1, 1);
    store.checkpoint().unwrap();
    assert!(matches!(open(), Err(StoreError::Locked { .. })));
    drop(store);
    assert_eq!(open().unwrap().tables().get(&1), Some(1));
}

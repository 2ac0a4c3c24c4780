//! What tools see of checkpoints is what the tables held.

use super::*;
use crate::codec::Json;
use crate::error::StoreError;
use crate::io::{DiskHandle, StdDisk};
use crate::key_group::KeyGroups;
use crate::manifest::{KeyedStateMeta, OperatorState};
use crate::store::{BackendChoice, Store, StoreOptions, Table, TableMaker};
use crate::{CheckpointId, Data};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

struct Counts {
    by_user: Table<u64, u64>,
    by_page: Table<String, (u32, String)>,
}
crate::tables!(Counts { by_user, by_page });

fn tables(tables: &mut TableMaker) -> Counts {
    Counts { by_user: tables.value("by-user"), by_page: tables.value("by-page") }
}

fn disk() -> DiskHandle {
    DiskHandle::new(StdDisk::start(1).unwrap())
}

fn options(dir: &Path, backend: BackendChoice) -> StoreOptions {
    StoreOptions::new(dir).backend(backend).key_groups(4).retained(10).disk(disk())
}

fn value_of(entry: &Entry, name: &str) -> String {
    entry.fields.iter().find(|(field, _)| field == name).map(|(_, json)| json.to_string()).unwrap()
}

fn read(snapshot: &Snapshot, state: &str) -> Result<BTreeMap<String, String>, StoreError> {
    let operator = &snapshot.manifest.operators[0];
    let meta = operator.keyed.iter().find(|meta| meta.name == state).unwrap();
    let mut values = BTreeMap::new();
    KeyedStates::open(&disk(), snapshot, operator)?.read(meta, |entry| {
        assert!(values.insert(value_of(&entry, "key"), value_of(&entry, "value")).is_none());
        Ok(())
    })?;
    Ok(values)
}

fn snapshots(dir: &Path) -> Vec<Snapshot> {
    let listed = list(&disk(), dir).unwrap();
    let complete = |listed: Listed| match listed.found {
        Found::Complete(snapshot) => *snapshot,
        other => panic!("{}: {other:?}", listed.dir.display()),
    };
    listed.into_iter().map(complete).collect()
}

/// A change of a table: `None` removes the key.
fn changes() -> impl Strategy<Value = Vec<Vec<(u64, Option<u64>)>>> {
    let change = (0..30u64, prop::option::weighted(0.7, any::<u64>()));
    prop::collection::vec(prop::collection::vec(change, 0..40), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn prop_what_is_read_offline_is_what_the_tables_held(rounds in changes(), log: bool) {
        let dir = TempDir::new().unwrap();
        let backend = if log { BackendChoice::Log } else { BackendChoice::HashMap };
        let mut store = Store::open(options(dir.path(), backend), tables).unwrap();
        let (mut model, mut at_checkpoint) = (BTreeMap::new(), Vec::new());
        for round in rounds {
            for (key, value) in round {
                match value {
                    Some(value) => {
                        store.tables().by_user.insert(&key, value);
                        store.tables().by_page.insert(&format!("/{key}"), (key as u32, "x".into()));
                        model.insert(key.to_string(), value.to_string());
                    }
                    None => {
                        store.tables().by_user.remove(&key);
                        store.tables().by_page.remove(&format!("/{key}"));
                        model.remove(&key.to_string());
                    }
                }
            }
            store.checkpoint().unwrap();
            at_checkpoint.push(model.clone());
        }
        let found = snapshots(dir.path());
        prop_assert_eq!(found.len(), at_checkpoint.len());
        for (snapshot, model) in found.iter().zip(at_checkpoint) {
            prop_assert_eq!(&read(snapshot, "by-user").unwrap(), &model);
            let pages = read(snapshot, "by-page").unwrap();
            let expected: BTreeMap<String, String> =
                model.keys().map(|key| (format!("\"/{key}\""), format!("[{key},\"x\"]"))).collect();
            prop_assert_eq!(pages, expected);
            let report = verify(&disk(), snapshot).unwrap();
            prop_assert!(report.problems.is_empty() && report.extra.is_empty(), "{report:?}");
            prop_assert_eq!(report.bytes, snapshot.bytes());
        }
    }
}

/// A store with two checkpoints in `dir`, the second of which names files of both.
fn two_checkpoints(dir: &Path) -> Store<Counts> {
    let mut store = Store::open(options(dir, BackendChoice::HashMap), tables).unwrap();
    for round in 0..2u64 {
        (0..200).for_each(|key| store.tables().by_user.insert(&(key + 100 * round), round));
        store.checkpoint().unwrap();
    }
    store
}

#[test]
fn checkpoints_are_listed_by_number_at_every_depth_and_savepoints_too() {
    let dir = TempDir::new().unwrap();
    let mut store = two_checkpoints(dir.path());
    for _ in 0..9 {
        store.checkpoint().unwrap();
    }
    store.savepoint(dir.path().join("saved")).unwrap();
    let ids = |path: &Path| -> Vec<u64> {
        snapshots(path).iter().map(|snapshot| snapshot.manifest.checkpoint.0).collect()
    };
    let job = dir.path().join("store");
    let all: Vec<u64> = (2..=11).collect();
    assert_eq!(ids(&job), all);
    assert_eq!(ids(&job.join("chk-11")), [11]);
    assert_eq!(ids(&dir.path().join("saved")).len(), 1);
    fs::create_dir(job.join("chk-12")).unwrap();
    assert_eq!(ids(&job), all);
    fs::write(job.join("chk-12/channel-a1-0-0"), "under way").unwrap();
    let listed = list(&disk(), &job).unwrap();
    assert!(matches!(listed.last().unwrap().found, Found::Incomplete));
}

#[test]
fn a_place_without_a_checkpoint_is_told_with_what_is_there() {
    let dir = TempDir::new().unwrap();
    let refuse = |path: &Path| open(&disk(), path).unwrap_err().to_string();
    assert!(refuse(&dir.path().join("nowhere")).contains("there is no directory"));
    assert!(refuse(dir.path()).contains("holds no MANIFEST"));
    drop(two_checkpoints(dir.path()));
    let message = refuse(dir.path());
    assert!(message.contains("2 are below it") && message.contains("chk-2"), "{message}");
    let manifest = dir.path().join("store/chk-2/MANIFEST");
    assert_eq!(open(&disk(), &manifest).unwrap().manifest.checkpoint, CheckpointId(2));
}

#[test]
fn every_damaged_or_missing_file_is_named_and_extra_ones_too() {
    let dir = TempDir::new().unwrap();
    drop(two_checkpoints(dir.path()));
    let chk = dir.path().join("store/chk-2");
    let snapshot = open(&disk(), &chk).unwrap();
    let files = snapshot.files();
    assert!(files.len() >= 2, "{files:?}");
    let damaged = snapshot.root.join(&files[0].0);
    let mut bytes = fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    fs::remove_file(snapshot.root.join(&files[1].0)).unwrap();
    fs::write(chk.join("notes"), "mine").unwrap();

    let report = verify(&disk(), &snapshot).unwrap();
    let paths: Vec<_> = report.problems.iter().map(|problem| problem.path.clone()).collect();
    assert_eq!(paths, [damaged, snapshot.root.join(&files[1].0)]);
    assert!(matches!(report.problems[0].error, StoreError::Corrupt { .. }));
    assert!(matches!(report.problems[1].error, StoreError::Io { .. }));
    assert_eq!(report.extra, [chk.join("notes")]);

    let mut bytes = fs::read(chk.join("MANIFEST")).unwrap();
    bytes[40] ^= 1;
    fs::write(chk.join("MANIFEST"), bytes).unwrap();
    assert!(matches!(open(&disk(), &chk), Err(StoreError::Corrupt { .. })));
    let listed = list(&disk(), dir.path()).unwrap();
    assert!(matches!(listed[1].found, Found::Damaged(_)));
}

#[test]
fn sizes_count_what_a_restore_reads() {
    let dir = TempDir::new().unwrap();
    let mut store = Store::open(options(dir.path(), BackendChoice::HashMap), tables).unwrap();
    (0..1000u64).for_each(|key| store.tables().by_user.insert(&key, key));
    let id = store.checkpoint().unwrap();
    let snapshot = open(&disk(), &dir.path().join(format!("store/chk-{id}"))).unwrap();
    let states = KeyedStates::open(&disk(), &snapshot, &snapshot.manifest.operators[0]).unwrap();
    let sizes = states.sizes("by-user");
    assert_eq!(sizes.values().map(|size| size.rows).sum::<u64>(), 1000);
    let groups = KeyGroups::new(4);
    let of_group_0 = (0..1000u64).filter(|key| groups.group_of(key.key_hash()) == 0).count();
    assert_eq!(sizes[&0].rows, of_group_0 as u64);
    assert!(sizes.values().all(|size| size.bytes > 0));
}

/// The shape and the entries of the rows of one state.
fn entries_of(
    operator: &OperatorState,
    meta: &KeyedStateMeta,
    snapshot: &Snapshot,
) -> (StateShape, Vec<String>) {
    let mut lines = Vec::new();
    let states = KeyedStates::open(&disk(), snapshot, operator).unwrap();
    states
        .read(meta, |entry| {
            lines.push(Json::Object(entry.fields).to_string());
            Ok(())
        })
        .unwrap();
    lines.sort();
    (StateShape::of(&meta.key, &meta.value), lines)
}

mod kinds {
    //! Collections, time to live and timers, through the snapshots of the state kinds.

    use super::*;
    use crate::AttemptId;
    use crate::codec::describe;
    use crate::manifest::{Manifest, ManifestKind, SubtaskState};
    use crate::snapshot::{KeyedSnapshots, Step, Tables};
    use crate::state::{ListStates, MapStates, TimerQueue, Ttl, ValueStates};
    use crate::table::{Backend, StateTable};

    struct Kinds {
        list: ListStates<u64, String>,
        map: MapStates<String, u32, u64>,
        value: ValueStates<u64, u64>,
        timers: TimerQueue<u64, ()>,
    }

    impl Tables for Kinds {
        fn count(&self) -> usize {
            4
        }

        fn table(&mut self, index: usize) -> &mut dyn StateTable {
            match index {
                0 => self.list.table(),
                1 => self.map.table(),
                2 => self.value.table(),
                _ => self.timers.table(),
            }
        }
    }

    #[test]
    fn collections_large_and_small_time_to_live_and_timers_come_as_users_see_them() {
        let groups = KeyGroups::new(4);
        let backend = Backend::HashMap;
        let ttl = Ttl::new(1000);
        let mut kinds = Kinds {
            list: ListStates::new(&backend, "list", groups, 0..4),
            map: MapStates::new(&backend, "map", groups, 0..4),
            value: ValueStates::with_ttl(&backend, "value", groups, 0..4, ttl),
            timers: TimerQueue::new("timers", groups, 0..4),
        };
        let hash = |key: u64| key.group_hash(groups);
        let long: Vec<String> = (0..500).map(|n| format!("element {n}")).collect();
        kinds.list.add_all(0, hash(1), &1, long.clone());
        kinds.list.add_all(0, hash(2), &2, ["a".to_owned(), "b".to_owned()]);
        let name = "k".to_owned();
        for n in 0..300u32 {
            kinds.map.put(0, name.group_hash(groups), &name, &n, u64::from(n) * 2);
        }
        kinds.value.set(77, hash(5), &5, 6);
        kinds.timers.register(&9, &(), 1234);
        kinds.timers.register(&9, &(), -5);

        let dir = TempDir::new().unwrap();
        let mut snapshots = KeyedSnapshots::new(0..4, true, 1);
        let id = CheckpointId(1);
        snapshots.begin(id, AttemptId(1), "shared/seg-a1-c1-0-0".to_owned(), &mut kinds);
        let path = dir.path().join("shared/seg-a1-c1-0-0");
        fs::create_dir(dir.path().join("shared")).unwrap();
        let mut bytes = Vec::new();
        loop {
            match snapshots.advance(id, &mut kinds, 1 << 20) {
                Step::More | Step::Waits => {}
                Step::Bytes { bytes: more, .. } => bytes.extend(more),
                Step::Done => break,
            }
        }
        fs::write(&path, &bytes).unwrap();
        let keyed: Vec<KeyedStateMeta> = (0..4).map(|i| kinds.table(i).meta()).collect();
        let subtask = SubtaskState { segments: snapshots.segments(id).list(), ..SubtaskState::default() };
        let operator = OperatorState { uid: "op".into(), parallelism: 1, keyed, subtasks: vec![subtask] };
        let manifest = Manifest {
            job: "job".into(),
            checkpoint: id,
            attempt: AttemptId(1),
            triggered_unix_ms: 0,
            max_parallelism: 4,
            kind: ManifestKind::Checkpoint,
            origin: None,
            operators: vec![operator],
            edges: Vec::new(),
            channels: Vec::new(),
        };
        let snapshot = Snapshot {
            dir: dir.path().join("chk-1"),
            root: dir.path().to_owned(),
            manifest,
            manifest_bytes: 0,
        };
        let operator = &snapshot.manifest.operators[0];
        let of = |i: usize| entries_of(operator, &operator.keyed[i], &snapshot);

        let (shape, lines) = of(0);
        let quoted: Vec<String> = long.iter().map(|element| format!("\"{element}\"")).collect();
        assert_eq!(shape, StateShape::List);
        assert_eq!(
            lines,
            [
                format!("{{\"key\":1,\"value\":[{}]}}", quoted.join(",")),
                r#"{"key":2,"value":["a","b"]}"#.to_owned()
            ]
        );

        let (shape, lines) = of(1);
        assert_eq!((shape, lines.len()), (StateShape::Map, 1));
        let map: BTreeMap<String, u64> = serde_json::from_str::<serde_json::Value>(&lines[0])
            .and_then(|line| serde_json::from_value(line["value"].clone()))
            .unwrap();
        assert_eq!(map, (0..300u32).map(|n| (n.to_string(), u64::from(n) * 2)).collect());

        let (shape, lines) = of(2);
        assert_eq!(
            (shape, lines),
            (StateShape::Value, vec![r#"{"key":5,"value":6,"last_access_ms":77}"#.to_owned()])
        );
        let meta = &operator.keyed[2];
        let (key, values, expires) = shape.types(&meta.key, &meta.value);
        assert_eq!((describe(key), describe(values[0]), expires), ("u64".into(), "u64".into(), true));

        let (shape, lines) = of(3);
        let timers = [r#"{"key":9,"time_ms":-5}"#.to_owned(), r#"{"key":9,"time_ms":1234}"#.to_owned()];
        assert_eq!((shape, lines), (StateShape::Timer, timers.to_vec()));
    }
}

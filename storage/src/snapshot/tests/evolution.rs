//! Claims about state whose types have changed since it was stored.

use super::*;
use crate::codec::Key;
use crate::log::LogOptions;
use crate::table::{Backend, KeyedTable};
use crate::{data, pod};
use std::fmt::Debug;
use zerocopy::{FromBytes, Immutable, IntoBytes};

macro_rules! record {
    ($name:ident { $($field:ident: $type:ty),* } $($version:tt)*) => {
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, postcard_schema::Schema)]
        pub struct $name {
            $(pub $field: $type),*
        }
        data!($name $($version)*);
    };
}

macro_rules! plain {
    ($name:ident { $($field:ident: $type:ty),* } $($version:tt)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable)]
        #[repr(C)]
        pub struct $name {
            $(pub $field: $type),*
        }
        pod!($name { $($field: $type),* } $($version)*);
    };
}

/// The program that stored the oldest state.
mod first {
    use super::*;

    record!(Visit { page: String, seconds: u32 });
    plain!(Count { seen: u32 });
}

/// The program after one change.
mod second {
    use super::*;

    record!(Visit { page: String, seconds: u32, from: Option<String> } , version = 2);
}

/// The program of today, which knows all that came before.
mod today {
    use super::*;

    record!(VisitV1 { page: String, seconds: u32 });
    record!(VisitV2 { page: String, seconds: u32, from: Option<String> } , version = 2, from = VisitV1);
    record!(Visit { page: String, millis: u64, from: String }, version = 3, from = VisitV2);
    plain!(CountV1 { seen: u32 });
    plain!(Count { seen: u64, lost: u64 }, version = 2, from = CountV1);

    impl From<VisitV1> for VisitV2 {
        fn from(old: VisitV1) -> Self {
            VisitV2 { page: old.page, seconds: old.seconds, from: None }
        }
    }

    impl From<VisitV2> for Visit {
        fn from(old: VisitV2) -> Self {
            let from = old.from.unwrap_or_else(|| "unknown".into());
            Visit { page: old.page, millis: u64::from(old.seconds) * 1000, from }
        }
    }

    impl From<CountV1> for Count {
        fn from(old: CountV1) -> Self {
            Count { seen: old.seen.into(), lost: 0 }
        }
    }
}

/// A later program, which has forgotten how the types were once.
mod tomorrow {
    use super::*;

    record!(Visit { page: String, millis: u64, from: String }, version = 3);
}

fn backends() -> [Backend; 2] {
    [Backend::HashMap, Backend::Log(LogOptions::default())]
}

struct One<K: Key, V: Data> {
    table: KeyedTable<K, V>,
    snapshots: KeyedSnapshots,
}

struct Only<'a, K: Key, V: Data>(&'a mut KeyedTable<K, V>);

impl<K: Key, V: Data> Tables for Only<'_, K, V> {
    fn count(&self) -> usize {
        1
    }

    fn table(&mut self, _: usize) -> &mut dyn StateTable {
        self.0.untyped()
    }
}

/// What a checkpoint holds of one state.
struct Stored {
    disk: Arc<MemoryDisk>,
    segments: Vec<SegmentRef>,
    meta: KeyedStateMeta,
}

impl<K: Key, V: Data> One<K, V> {
    fn new(backend: &Backend) -> Self {
        let table = KeyedTable::new(backend, "visits", KeyGroups::new(GROUPS), 0..GROUPS);
        One { table, snapshots: KeyedSnapshots::new(0..GROUPS, true, 1) }
    }

    fn put(&mut self, key: K, value: V) {
        self.table.insert(key.key_hash(), &key, value);
    }

    fn content(&mut self) -> Vec<(K, V)> {
        let mut content = Vec::new();
        self.table.for_each(|key, value| content.push((key.clone(), value.clone())));
        content.sort_by_key(|(key, _)| {
            let mut bytes = Vec::new();
            key.encode(&mut bytes);
            bytes
        });
        content
    }

    fn checkpoint(&mut self, checkpoint: u64, disk: &Arc<MemoryDisk>) -> Stored {
        let (id, tables) = (CheckpointId(checkpoint), &mut Only(&mut self.table));
        self.snapshots.begin(id, AttemptId(1), format!("shared/seg-{checkpoint}"), tables);
        loop {
            match self.snapshots.advance(id, tables, 1_000) {
                Step::More | Step::Waits => {}
                Step::Bytes { path, bytes, .. } => {
                    let mut files = disk.files.lock().expect("no test panics with it");
                    files.entry(Path::new("/job").join(&*path)).or_default().extend(bytes);
                }
                Step::Done => break,
            }
        }
        let segments = self.snapshots.segments(id).list();
        self.snapshots.completed(id, tables);
        Stored { disk: Arc::clone(disk), segments, meta: self.table.untyped().meta() }
    }

    fn restore(backend: &Backend, stored: &Stored) -> Result<Self, StoreError> {
        let mut one = One::new(backend);
        let disk = DiskHandle::new(Arc::clone(&stored.disk) as Arc<dyn Disk>);
        let metas = std::slice::from_ref(&stored.meta);
        one.snapshots.restore(
            &disk,
            Path::new("/job"),
            &stored.segments,
            metas,
            &mut Only(&mut one.table),
        )?;
        Ok(one)
    }
}

fn store<K: Key, V: Data>(backend: &Backend, rows: Vec<(K, V)>) -> Stored {
    let mut one = One::new(backend);
    rows.into_iter().for_each(|(key, value)| one.put(key, value));
    one.checkpoint(1, &Arc::default())
}

/// Rows stored as `V` by either backend are rows of `W` in either.
fn migrates<K: Key + Debug, V: Data, W: Data + PartialEq + Debug>(
    stored: Vec<(K, V)>,
    expected: Vec<(K, W)>,
) {
    for from in backends() {
        for to in backends() {
            let stored = store(&from, stored.clone());
            let mut one = One::<K, W>::restore(&to, &stored).expect("an older version");
            assert_eq!(one.content(), expected, "from {from:?} to {to:?}");
        }
    }
}

/// The reason why `W` does not read what was stored as `V`.
fn refused<K: Key, V: Data, L: Key, W: Data>(stored: Vec<(K, V)>) -> String {
    let mut reasons = backends().map(|backend| {
        let stored = store(&Backend::HashMap, stored.clone());
        match One::<L, W>::restore(&backend, &stored) {
            Err(StoreError::Incompatible(reason)) => reason,
            Err(other) => panic!("refused for another reason: {other}"),
            Ok(_) => panic!("not refused"),
        }
    });
    assert_eq!(reasons[0], reasons[1]);
    std::mem::take(&mut reasons[0])
}

fn old(page: &str, seconds: u32) -> first::Visit {
    first::Visit { page: page.into(), seconds }
}

fn new(page: &str, millis: u64) -> today::Visit {
    today::Visit { page: page.into(), millis, from: "unknown".into() }
}

#[test]
fn values_of_the_same_version_are_read_as_they_are() {
    migrates(vec![(1u64, new("a", 5))], vec![(1u64, new("a", 5))]);
    let plain = vec![(1u64, today::Count { seen: 1, lost: 2 })];
    migrates(plain.clone(), plain);
}

#[test]
fn values_migrate_over_a_chain_of_versions() {
    migrates(
        vec![(1u64, old("a", 5)), (2, old("b", 6))],
        vec![(1u64, new("a", 5_000)), (2, new("b", 6_000))],
    );
    let second = second::Visit { page: "c".into(), seconds: 7, from: Some("d".into()) };
    let today = today::Visit { page: "c".into(), millis: 7_000, from: "d".into() };
    migrates(vec![(1u64, second)], vec![(1u64, today)]);
}

#[test]
fn plain_values_migrate_though_their_length_changes() {
    let counts = (0..500u64).map(|key| (key, first::Count { seen: key as u32 }));
    let mut expected: Vec<_> = (0..500u64).map(|key| (key, today::Count { seen: key, lost: 0 })).collect();
    expected.sort_by_key(|(key, _)| key.to_le_bytes());
    migrates(counts.collect(), expected);
}

#[test]
fn values_within_lists_maps_options_and_tuples_migrate() {
    migrates(
        vec![("k".to_owned(), vec![old("a", 1), old("b", 2)])],
        vec![("k".to_owned(), vec![new("a", 1_000), new("b", 2_000)])],
    );
    // The rows of a map: user's key and entry's key together.
    migrates(
        vec![((1u64, "x".to_owned()), Some(old("a", 1))), ((1, "y".to_owned()), None)],
        vec![((1u64, "x".to_owned()), Some(new("a", 1_000))), ((1, "y".to_owned()), None)],
    );
    migrates(
        vec![(1u64, (7u32, first::Count { seen: 2 }, [old("a", 1), old("b", 1)]))],
        vec![(1u64, (7u32, today::Count { seen: 2, lost: 0 }, [new("a", 1_000), new("b", 1_000)]))],
    );
    migrates(
        vec![(1u64, BTreeMap::from([(3u16, old("a", 1))]))],
        vec![(1u64, BTreeMap::from([(3u16, new("a", 1_000))]))],
    );
}

#[test]
fn a_timer_s_key_is_read_only_by_the_same_type() {
    let timers = vec![((5u64, "user".to_owned()), ()), ((6, "user".to_owned()), ())];
    migrates(timers.clone(), timers.clone());
    let reason = refused::<_, _, (u64, u64), ()>(timers);
    assert!(reason.contains("keys of type (u64, String)") && reason.contains("(u64, u64)"), "{reason}");
}

#[test]
fn a_key_of_another_type_is_refused_even_where_a_value_would_migrate() {
    let reason = refused::<_, _, keys::Count64, u64>(vec![(keys::Count32 { seen: 1 }, 1u64)]);
    for part in ["\"visits\"", "Count32", "Count64", "restore with the old type of key"] {
        assert!(reason.contains(part), "{reason}");
    }
}

mod keys {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
    #[repr(C)]
    pub struct Count32 {
        pub seen: u32,
    }
    pod!(Count32 { seen: u32 });

    #[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
    #[repr(C)]
    pub struct Count64 {
        pub seen: u64,
    }
    pod!(Count64 { seen: u64 }, version = 2, from = Count32);

    impl From<Count32> for Count64 {
        fn from(old: Count32) -> Self {
            Count64 { seen: old.seen.into() }
        }
    }
}

#[test]
fn a_value_that_the_new_type_does_not_read_is_refused_with_advice() {
    let reason = refused::<_, _, u64, tomorrow::Visit>(vec![(1u64, old("a", 1))]);
    for part in [
        "keyed state \"visits\"",
        "values of type Visit version 1 { page: String, seconds: u32 }",
        "the operator wants Visit version 3 { page: String, millis: u64, from: String }",
        "`from`",
    ] {
        assert!(reason.contains(part), "{reason}");
    }
    // A newer version than the program's: it was rolled back.
    let reason = refused::<_, _, u64, second::Visit>(vec![(1u64, new("a", 1))]);
    assert!(reason.contains("version 3") && reason.contains("version 2"), "{reason}");
    // The same fields under a version that means something else.
    refused::<_, _, u64, today::Visit>(vec![(1u64, (1u32, 2u32))]);
}

#[test]
fn the_checkpoint_after_a_migration_no_longer_needs_the_older_types() {
    for backend in backends() {
        let stored = store(&backend, (0..100u64).map(|key| (key, old("a", 1))).collect());
        let mut one = One::<u64, today::Visit>::restore(&backend, &stored).expect("an older version");
        one.put(1_000, new("b", 9));
        let next = one.checkpoint(2, &stored.disk);
        assert!(next.segments.iter().all(|segment| segment.path != stored.segments[0].path));
        let mut later = One::<u64, tomorrow::Visit>::restore(&backend, &next).expect("of one version by now");
        assert_eq!(later.content().len(), 101);
        // An aborted checkpoint in between changes nothing of that.
        let mut one = One::<u64, today::Visit>::restore(&backend, &stored).expect("an older version");
        let (id, tables) = (CheckpointId(3), &mut Only(&mut one.table));
        one.snapshots.begin(id, AttemptId(2), "shared/seg-aborted".into(), tables);
        one.snapshots.aborted(id, tables);
        let next = one.checkpoint(4, &stored.disk);
        One::<u64, tomorrow::Visit>::restore(&backend, &next).expect("of one version by now");
    }
}

#[test]
fn segments_of_several_versions_are_read_each_by_its_own() {
    for backend in backends() {
        let mut stored = store(&Backend::HashMap, (0..100u64).map(|key| (key, old("a", 1))).collect());
        let mut newer = One::<u64, today::Visit>::new(&Backend::HashMap);
        (0..100).for_each(|key| newer.put(key, new("b", 2)));
        newer.checkpoint(2, &stored.disk);
        (0..10).for_each(|key| newer.put(key, new("c", 3)));
        let delta = newer.checkpoint(3, &stored.disk).segments.pop().expect("a delta");
        stored.segments.push(delta);
        stored.meta = newer.table.untyped().meta();
        let mut one = One::<u64, today::Visit>::restore(&backend, &stored).expect("each is readable");
        for (key, value) in one.content() {
            assert_eq!(value, if key < 10 { new("c", 3) } else { new("a", 1_000) });
        }
    }
}

#[test]
fn rows_that_are_not_of_their_stored_type_are_damage_and_no_panic() {
    let mut stored = store(&Backend::HashMap, vec![(1u64, 5u32)]);
    // What the segment says of itself is sound, but its rows are those of another type.
    let mut out = SegmentBuilder::new(
        "shared/seg-1",
        CheckpointId(1),
        AttemptId(1),
        KeyGroups::new(GROUPS),
        0..GROUPS,
        &[KeyedStateMeta { value: first::Visit::schema(), ..stored.meta.clone() }],
        0,
    );
    let mut rows = Rows::new(Some(8), None);
    rows.push(&1u64, Some(&"\u{7f}".to_owned()));
    out.block(0, KeyGroups::new(GROUPS).group_of(1u64.key_hash()), BlockKind::Base, &rows, 0..1);
    out.finish();
    let file = out.take();
    stored.segments[0].bytes = file.len() as u64;
    stored.meta.value = first::Visit::schema();
    stored.disk.files.lock().expect("no test panics with it").insert("/job/shared/seg-1".into(), file);
    for backend in backends() {
        let damage = One::<u64, today::Visit>::restore(&backend, &stored).err().expect("not a visit");
        assert!(matches!(damage, StoreError::Corrupt { .. }), "{damage}");
        assert!(damage.to_string().contains("\"visits\""), "{damage}");
    }
}

#[test]
fn operator_state_migrates_too() {
    use crate::manifest::OperatorStateMode::Split;
    use crate::operator_state::{decode, encode};
    let blobs = encode("visits", Split, &[old("a", 1), old("b", 2)]);
    assert_eq!(decode::<today::Visit>("visits", Split, &blobs).unwrap(), [new("a", 1_000), new("b", 2_000)]);
    let refused =
        decode::<tomorrow::Visit>("visits", Split, &blobs).expect_err("nobody reads version 1").to_string();
    assert!(refused.contains("version 1") && refused.contains("version 3"), "{refused}");
}

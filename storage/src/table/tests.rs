//! Claims about the table, against a plain map.

use super::epochs::{CLEAN, Epochs};
use super::*;
use crate::codec::Data;
use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroups;
use crate::segment::SegmentBuilder;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

fn table<K: crate::Key, V: Data>(groups: u16) -> ValueTable<K, V> {
    ValueTable::new("state", KeyGroups::new(groups), 0..groups)
}

fn content<K: crate::Key + std::hash::Hash, V: Data>(table: &ValueTable<K, V>) -> HashMap<K, V> {
    let mut map = HashMap::new();
    table.for_each(|key, value| assert!(map.insert(key.clone(), value.clone()).is_none(), "each key once"));
    assert_eq!(map.len(), table.len());
    map
}

/// Takes and completes a snapshot of everything.
fn checkpoint<K: crate::Key, V: Data>(table: &mut ValueTable<K, V>) {
    let plan = vec![GroupPlan::Delta; table.groups().len()];
    let epoch = table.begin_snapshot(0, &plan);
    let mut out = SegmentBuilder::new(
        "shared/seg-test",
        CheckpointId(1),
        AttemptId(1),
        table.key_groups(),
        table.groups(),
        &[table.meta()],
        0,
    );
    while table.advance_snapshot(&mut out, 64) != Written::Done {}
    table.completed(epoch);
}

#[test]
fn entries_survive_growth_splits_and_doubling_of_the_directory() {
    for groups in [1, 3, 128] {
        let mut table = table::<u64, u64>(groups);
        for key in 0..50_000u64 {
            table.update(key.key_hash(), &key, || key, |value| *value += 1);
        }
        assert_eq!(table.len(), 50_000);
        for key in 0..50_000u64 {
            assert_eq!(table.get(key.key_hash(), &key), Some(&(key + 1)));
        }
        assert_eq!(table.get(50_000u64.key_hash(), &50_000), None);
        assert!(table.memory_bytes() <= 50_000 * 60, "{} bytes", table.memory_bytes());
    }
}

proptest! {
    #[test]
    fn prop_room_made_before_a_restore_changes_nothing_but_the_growth(
        keys in 0..30_000u64, expected in prop::collection::vec(0..40_000u64, 4), twice: bool,
    ) {
        let groups = KeyGroups::new(8);
        let mut table = ValueTable::<u64, u64>::new("state", groups, 2..6);
        for (group, rows) in (2..6).zip(&expected) {
            table.expect_rows(group, *rows);
        }
        prop_assert!(table.is_empty());
        let held: Vec<u64> = (0..keys).filter(|key| (2..6).contains(&groups.group_of(key.key_hash()))).collect();
        for (n, key) in held.iter().enumerate() {
            if twice && n == held.len() / 2 {
                // Too late where there are entries.
                (2..6).for_each(|group| table.expect_rows(group, 100_000));
            }
            assert_eq!(table.insert(key.key_hash(), key, key + 1), None);
        }
        prop_assert_eq!(content(&table), held.iter().map(|key| (*key, key + 1)).collect());
        checkpoint(&mut table);
        for key in &held {
            prop_assert_eq!(table.remove(key.key_hash(), key), Some(key + 1));
        }
        prop_assert!(table.is_empty());
    }
}

#[test]
fn room_for_the_expected_rows_is_made_at_once_and_lasts() {
    for rows in [1_000, 40_000, 300_000u64] {
        let mut table = table::<u64, u64>(1);
        table.expect_rows(0, rows);
        let before = table.memory_bytes();
        (0..rows).for_each(|key| _ = table.update(key.key_hash(), &key, || key, |_| {}));
        let after = table.memory_bytes();
        assert!(after <= before + before / 4, "{before} bytes for {rows} rows have become {after}");
        assert!(before <= rows as usize * 60, "{before} bytes for {rows} rows");
    }
}

#[test]
fn keys_of_one_hash_are_told_apart() {
    /// A key with the worst of hash functions.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Same(u64);

    impl Data for Same {
        const FIXED_BYTES: Option<usize> = Some(8);

        fn schema() -> crate::Schema {
            u64::schema()
        }

        fn encode(&self, out: &mut Vec<u8>) {
            self.0.encode(out);
        }

        fn decode(input: &mut &[u8]) -> Result<Self, crate::DecodeError> {
            u64::decode(input).map(Same)
        }

        fn key_hash(&self) -> u64 {
            7
        }
    }

    let mut table = table::<Same, u64>(4);
    for key in 0..3_000 {
        assert_eq!(table.insert(7, &Same(key), key), None);
    }
    for key in 0..3_000 {
        assert_eq!(table.get(7, &Same(key)), Some(&key));
    }
}

#[test]
fn churn_within_one_epoch_leaves_no_trace() {
    let mut table = table::<u64, u64>(2);
    let mut after_first = 0;
    for round in 0..200u64 {
        for key in round * 500..(round + 1) * 500 {
            table.insert(key.key_hash(), &key, key);
        }
        for key in round * 500..(round + 1) * 500 {
            assert_eq!(table.remove(key.key_hash(), &key), Some(key));
        }
        if round == 0 {
            after_first = table.memory_bytes();
        }
    }
    assert!(table.is_empty());
    assert!(table.memory_bytes() <= 2 * after_first);
}

#[test]
fn tombstones_are_purged_once_a_completed_snapshot_has_them() {
    let mut table = table::<u64, u64>(2);
    let empty = table.memory_bytes();
    for key in 0..20_000u64 {
        table.insert(key.key_hash(), &key, key);
    }
    checkpoint(&mut table);
    for key in 0..20_000u64 {
        table.remove(key.key_hash(), &key);
    }
    let buried = table.memory_bytes();
    checkpoint(&mut table);
    assert_eq!(table.memory_bytes(), buried, "the snapshot that writes tombstones still needs them");
    checkpoint(&mut table);
    assert!(table.memory_bytes() < empty + 40_000, "{} bytes are left", table.memory_bytes());
    table.insert(1u64.key_hash(), &1, 5);
    assert_eq!(content(&table), HashMap::from([(1, 5)]));
}

/// Counts how many of its kind are alive.
#[derive(Debug)]
struct Counted(u64, Arc<AtomicIsize>);

impl Clone for Counted {
    fn clone(&self) -> Self {
        self.1.fetch_add(1, Ordering::Relaxed);
        Counted(self.0, Arc::clone(&self.1))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Counted {}

impl Data for Counted {
    const FIXED_BYTES: Option<usize> = Some(8);

    fn schema() -> crate::Schema {
        u64::schema()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(_: &mut &[u8]) -> Result<Self, crate::DecodeError> {
        Err(crate::DecodeError("counted values are not read back".into()))
    }
}

#[test]
fn every_key_and_value_is_dropped_exactly_once() {
    let alive = Arc::new(AtomicIsize::new(0));
    let make = |n| {
        alive.fetch_add(1, Ordering::Relaxed);
        Counted(n, Arc::clone(&alive))
    };
    let mut table = table::<Counted, Counted>(3);
    for round in 0..4 {
        for n in 0..3_000 {
            let key = make(n);
            let hash = key.key_hash();
            match (n + round) % 5 {
                0 => drop(table.remove(hash, &key)),
                1 => drop(table.insert(hash, &key, make(n))),
                _ => table.update(hash, &key, || make(n), |value| value.0 += 1),
            }
        }
        assert!(alive.load(Ordering::Relaxed) >= 2 * table.len() as isize);
        checkpoint(&mut table);
    }
    checkpoint(&mut table);
    drop(table);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn a_panic_in_change_leaves_the_entry_usable() {
    let mut table = table::<String, Vec<u64>>(1);
    let key = "key".to_owned();
    let hash = key.key_hash();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        table.update(hash, &key, Vec::new, |value| {
            value.push(1);
            panic!("a user's mistake");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(table.get(hash, &key), Some(&vec![1]));
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn a_key_of_a_foreign_group_is_refused() {
    let mut table = ValueTable::<u64, u64>::new("state", KeyGroups::new(4), 1..2);
    let foreign =
        (0..).find(|key: &u64| table.key_groups().group_of(key.key_hash()) == 3).expect("one of them");
    table.insert(foreign.key_hash(), &foreign, 0);
}

#[test]
fn labels_suffice_for_any_number_of_snapshots() {
    let mut epochs = Epochs::new();
    // What the slots of a table carry, with the epoch that each was really changed in.
    let mut slots: Vec<(u8, u64)> = Vec::new();
    let mut held = Vec::new();
    for round in 0..1_000u64 {
        slots.push((epochs.label(), round + 1));
        if epochs.exhausted() {
            let labels = epochs.restamp();
            slots.iter_mut().for_each(|slot| slot.0 = labels[usize::from(slot.0)]);
            epochs.restamped(&labels);
        }
        let epoch = epochs.begin();
        assert_eq!(epoch, round + 1);
        held.push(epoch);
        match round % 7 {
            // Aborted before it is written.
            0..=2 => epochs.abort(held.pop().expect("just begun")),
            3 | 4 => {
                let labels = epochs.restamp();
                slots.iter_mut().for_each(|slot| slot.0 = labels[usize::from(slot.0)]);
                epochs.restamped(&labels);
            }
            5 => epochs.complete(held[held.len() / 2]),
            _ => {}
        }
        for (label, changed) in &slots {
            assert_eq!(
                epochs.is_clean(*label),
                *changed <= epochs.completed(),
                "round {round}, epoch {changed}"
            );
            assert!(epochs.epoch_of(*label) <= round + 1, "a label of the new epoch is on no slot");
        }
        held.retain(|held| *held > epochs.completed());
        slots.drain(..slots.len().saturating_sub(300));
    }
    assert_eq!(epochs.epoch_of(CLEAN), 0);
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u16, u8),
    Update(u16),
    Remove(u16),
    Checkpoint,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..2_000u16, any::<u8>()).prop_map(|(key, value)| Op::Insert(key, value)),
        8 => (0..2_000u16).prop_map(Op::Update),
        6 => (0..2_000u16).prop_map(Op::Remove),
        1 => Just(Op::Checkpoint),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn prop_a_table_of_text_equals_a_hash_map(ops in prop::collection::vec(op(), 0..3_000)) {
        let mut table = table::<String, String>(5);
        let mut model = HashMap::new();
        for op in ops {
            match op {
                Op::Insert(key, value) => {
                    let (key, value) = (key.to_string(), value.to_string());
                    prop_assert_eq!(table.insert(key.key_hash(), &key, value.clone()), model.insert(key, value));
                }
                Op::Update(key) => {
                    let key = key.to_string();
                    table.update(key.key_hash(), &key, String::new, |value| value.push('x'));
                    model.entry(key).or_insert_with(String::new).push('x');
                }
                Op::Remove(key) => {
                    let key = key.to_string();
                    prop_assert_eq!(table.remove(key.key_hash(), &key), model.remove(&key));
                }
                Op::Checkpoint => checkpoint(&mut table),
            }
            prop_assert_eq!(table.len(), model.len());
        }
        prop_assert_eq!(content(&table), model);
    }
}

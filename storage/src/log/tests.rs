//! Claims about the table as a whole, against a hash map.

pub(super) mod job;

use super::{LogOptions, LogTable};
use crate::codec::Data;
use crate::key_group::KeyGroups;
use crate::segment::{BlockPlace, Rows};
use crate::table::{GroupPlan, StateTable};
use job::{Job, Same, Sample};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Put(u32, u32),
    Update(u32),
    Remove(u32),
    /// Many keys from here on: put, or removed.
    Sweep(u32, u32, bool),
    Begin(bool),
    Advance(usize),
    Complete(usize),
    Abort(usize),
    Maintain(usize),
    FailOver,
}

/// Operations on this many keys.
fn ops(keys: u32, count: usize) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        20 => (0..keys, any::<u32>()).prop_map(|(key, value)| Op::Put(key, value)),
        20 => (0..keys).prop_map(Op::Update),
        15 => (0..keys).prop_map(Op::Remove),
        4 => (0..keys, 1..keys, any::<bool>()).prop_map(|(key, count, put)| Op::Sweep(key, count, put)),
        8 => prop::bool::weighted(0.1).prop_map(Op::Begin),
        24 => (1..2_000_usize).prop_map(Op::Advance),
        6 => (0..4_usize).prop_map(Op::Complete),
        2 => (0..4_usize).prop_map(Op::Abort),
        8 => (1..500_usize).prop_map(Op::Maintain),
        1 => Just(Op::FailOver),
    ];
    prop::collection::vec(op, 0..count)
}

fn run<K: Sample, V: Sample>(groups: u16, ops: Vec<Op>) {
    let mut job = Job::<K, V>::new(groups);
    job.table.log.snapshots.settled_pages = Some(3);
    for op in ops {
        match op {
            Op::Put(key, value) => job.put(K::sample(key), V::sample(value)),
            Op::Update(key) => job.update(K::sample(key), V::sample(key), V::sample(key + 1)),
            Op::Remove(key) => job.remove(&K::sample(key)),
            Op::Sweep(start, count, true) => {
                (start..start + count).for_each(|key| job.put(K::sample(key), V::sample(key / 2)));
            }
            Op::Sweep(start, count, false) => {
                (start..start + count).for_each(|key| job.remove(&K::sample(key)));
            }
            Op::Begin(full) => job.begin(full),
            Op::Advance(rows) => job.advance(rows),
            Op::Complete(choice) => {
                job.complete(choice);
                job.check_latest();
            }
            Op::Abort(choice) => job.abort(choice),
            Op::Maintain(rows) => job.maintain(rows),
            Op::FailOver => {
                job.fail_over();
                job.check_present();
            }
        }
        job.table.log.check_invariants();
    }
    job.check_present();
    job.checkpoint();
    job.check_latest();
    job.fail_over();
    job.check_present();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn prop_plain_rows_equal_a_hash_map_through_snapshots_and_failures(ops in ops(300, 300)) {
        run::<u64, u64>(5, ops);
    }

    #[test]
    fn prop_rows_of_varying_length_equal_a_hash_map(ops in ops(120, 300)) {
        run::<String, String>(3, ops);
    }

    #[test]
    fn prop_rows_larger_than_pages_equal_a_hash_map(ops in ops(40, 200)) {
        run::<u64, Vec<u8>>(2, ops);
    }

    #[test]
    fn prop_text_with_counts_equals_a_hash_map(ops in ops(100, 200)) {
        run::<String, u64>(7, ops);
    }

    #[test]
    fn prop_keys_of_one_byte_equal_a_hash_map(ops in ops(400, 200)) {
        run::<u8, u8>(1, ops);
    }

    #[test]
    fn prop_keys_of_equal_hashes_equal_a_hash_map(ops in ops(200, 200)) {
        run::<Same, u64>(2, ops);
    }

    #[test]
    fn prop_many_groups_equal_a_hash_map(ops in ops(500, 200)) {
        run::<u64, u64>(128, ops);
    }
}

/// A step of a pseudo-random walk.
fn next(state: &mut u64) -> u32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as u32
}

/// A number whose bytes do not compress, so that bytes of files count rows.
fn scattered(number: u32) -> u64 {
    (u64::from(number) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Changes entries between checkpoints and returns the largest that segments became, in percent of live data, not counting the
/// latest checkpoint's own segments.
fn amplification(mut change: impl FnMut(&mut Job<u64, u64>, u32)) -> u64 {
    let mut job = Job::<u64, u64>::new(16);
    job.table.log.compaction.limits = Default::default();
    (0..40_000).for_each(|key| job.put(scattered(key), scattered(key)));
    job.checkpoint();
    let mut worst = 0;
    for round in 0..40 {
        change(&mut job, round);
        while job.table.maintain(4_096).unwrap() {}
        let old = job.paths();
        job.checkpoint();
        worst = worst.max(job.bytes_of(&old) * 100 / job.full_bytes());
        if round % 10 == 9 {
            job.check_latest();
        }
    }
    job.check_present();
    worst
}

#[test]
fn uniform_updates_keep_segments_within_twice_the_live_data_and_a_delta() {
    let mut walk = 1;
    let worst = amplification(|job, _| {
        (0..8_000).for_each(|_| {
            let number = next(&mut walk);
            job.put(scattered(number % 40_000), scattered(number));
        });
    });
    assert!(worst <= 200, "{worst} %");
}

#[test]
fn skewed_updates_keep_segments_within_twice_the_live_data_and_a_delta() {
    let mut walk = 2;
    let worst = amplification(|job, _| {
        (0..8_000).for_each(|_| {
            let (a, b) = (next(&mut walk) % 200, next(&mut walk) % 200);
            job.put(scattered(a * b), scattered(a + b));
        });
    });
    assert!(worst <= 200, "{worst} %");
}

#[test]
fn removals_keep_segments_within_twice_the_live_data_and_a_delta() {
    let mut walk = 3;
    let worst = amplification(|job, round| {
        (0..6_000).for_each(|_| {
            let number = next(&mut walk);
            let key = scattered(number % 40_000);
            if round % 2 == 0 { job.remove(&key) } else { job.put(key, scattered(number)) }
        });
    });
    assert!(worst <= 200, "{worst} %");
}

#[test]
fn removed_entries_leave_no_trace() {
    let mut job = Job::<u64, u64>::new(16);
    (0..20_000).for_each(|key| job.put(key, key));
    job.checkpoint();
    (0..20_000).for_each(|key| job.remove(&key));
    for _ in 0..4 {
        job.checkpoint();
        while job.table.maintain(4_096).unwrap() {}
    }
    assert_eq!((job.table.log.tombstones, job.table.log.rows), (0, 0), "nothing is left to delete");
    job.checkpoint();
    assert_eq!(job.table.stats().segment_bytes, 0);
    job.check_latest();
}

#[test]
fn many_small_checkpoints_are_merged() {
    let mut job = Job::<u64, u64>::new(4);
    (0..2_000).for_each(|key| job.put(key, key));
    for round in 0..100 {
        (0..10).for_each(|i| job.put(round * 10 + i, round));
        job.checkpoint();
        while job.table.maintain(100).unwrap() {}
    }
    let segments = job.latest.as_ref().expect("completed").segments.len();
    assert!(segments <= 16, "{segments} segments");
    job.check_latest();
}

#[test]
fn churn_without_checkpoints_gives_memory_back() {
    let mut job = Job::<u64, String>::new(4);
    for round in 0..300u32 {
        for key in 0..500 {
            job.update(key, String::sample(round), String::sample(round + 1000));
        }
        (0..500).filter(|key| key % 3 == 0).for_each(|key| job.remove(&key));
        while job.table.maintain(1_000).unwrap() {}
    }
    job.check_present();
    let bytes = job.table.stats().data_bytes;
    assert!(bytes < 200_000, "{bytes} bytes for 333 entries");
}

#[test]
fn a_tombstone_that_compaction_dropped_does_not_bring_older_rows_back() {
    // Key 1 lies in the first segment beside keys that keep it, and is removed; the tombstone lies in the second.
    let mut job = Job::<u64, u64>::new(1);
    (0..100).for_each(|key| job.put(key, key));
    job.checkpoint();
    job.remove(&1);
    job.checkpoint();
    // The key comes back, so the tombstone may go; then it is removed in the same epoch.
    job.put(1, 2);
    job.table.log.compact_segments(&[1]);
    assert_eq!(job.table.log.tombstones, 0);
    job.remove(&1);
    job.checkpoint();
    job.check_latest();
    assert!(!job.latest.as_ref().expect("completed").expected.contains_key(&1));
}

#[test]
fn expired_entries_go_with_compaction() {
    let mut job = Job::<u64, u64>::new(4);
    (0..10_000).for_each(|key| job.put(key, key));
    job.checkpoint();
    job.table.set_expiry(|value, until| *value <= until, 1);
    job.table.expire_until(8_999);
    (0..8_000).for_each(|key| job.put(key, key));
    while job.table.log.compact(1_000) {}
    job.checkpoint();
    while job.table.log.compact(1_000) {}
    assert!(job.table.len() < 6_000, "{} entries", job.table.len());
    (9_000..10_000).for_each(|key: u64| assert_eq!(job.table.get(key.key_hash(), &key), Some(key)));
    job.table.log.check_invariants();
}

#[test]
fn a_million_counters_take_little_memory() {
    let groups = KeyGroups::new(128);
    let mut table = LogTable::<u64, u64>::new("state", groups, 0..128, LogOptions::default());
    for key in 0..1_000_000u64 {
        table.insert(key.key_hash(), &key, key);
    }
    let stats = table.stats();
    let bytes = (stats.data_bytes + stats.index_bytes) as f64 / 1e6;
    assert!(bytes < 34.0, "{bytes} bytes for each: {stats:?}");
}

#[test]
fn a_panic_in_change_leaves_the_entry_as_it_was() {
    let mut table =
        LogTable::<String, Vec<u64>>::new("state", KeyGroups::new(1), 0..1, LogOptions::default());
    let key = "key".to_owned();
    let hash = key.key_hash();
    table.insert(hash, &key, vec![7]);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        table.update(hash, &key, Vec::new, |value| {
            value.push(1);
            panic!("a user's mistake");
        })
    }));
    assert!(panicked.is_err());
    assert_eq!(table.get(hash, &key), Some(vec![7]));
}

proptest! {
    #[test]
    fn prop_room_made_before_a_restore_changes_nothing_but_the_growth(
        keys in 0..30_000u64, expected in prop::collection::vec(0..40_000u64, 4), twice: bool,
    ) {
        let groups = KeyGroups::new(8);
        let mut table = LogTable::<u64, u64>::new("state", groups, 2..6, LogOptions::default());
        for (group, rows) in (2..6).zip(&expected) {
            table.expect_rows(group, *rows);
        }
        prop_assert!(table.is_empty());
        let held: Vec<u64> = (0..keys).filter(|key| (2..6).contains(&groups.group_of(key.key_hash()))).collect();
        for (n, key) in held.iter().enumerate() {
            if twice && n == held.len() / 2 {
                // Too late: there are entries.
                (2..6).for_each(|group| table.expect_rows(group, 100_000));
            }
            table.insert(key.key_hash(), key, key + 1);
        }
        prop_assert_eq!(table.len(), held.len());
        for key in 0..keys.max(100) {
            if (2..6).contains(&groups.group_of(key.key_hash())) {
                prop_assert_eq!(table.get(key.key_hash(), &key), (key < keys).then_some(key + 1));
            }
        }
        table.log.check_invariants();
    }
}

#[test]
fn a_large_directory_of_the_index_is_prepared_whole_by_the_time_it_doubles() {
    let mut table = LogTable::<u64, u64>::new("state", KeyGroups::new(4), 0..4, LogOptions::default());
    let (mut before, mut doublings) = (table.log.index.prepared(), 0);
    for key in 0..400_000u64 {
        table.insert(key.key_hash(), &key, key);
        let after = table.log.index.prepared();
        if after.0 != before.0 {
            assert!(before.0 <= 32 || before.1 >= 2 * before.0 - 16, "of {} only {}", 2 * before.0, before.1);
            doublings += 1;
            table.log.index.check_prepared();
        }
        before = after;
    }
    assert!(doublings >= 6, "{doublings}");
    table.log.check_invariants();
}

#[test]
fn room_for_the_expected_rows_is_made_at_once_and_lasts() {
    for rows in [1_000, 40_000, 300_000u64] {
        let mut table = LogTable::<u64, u64>::new("state", KeyGroups::new(1), 0..1, LogOptions::default());
        table.expect_rows(0, rows);
        let before = table.log.index.bytes();
        (0..rows).for_each(|key| table.insert(key.key_hash(), &key, key));
        let after = table.log.index.bytes();
        assert!(after <= before + before / 8, "{before} bytes for {rows} rows have become {after}");
        assert!(before <= 64 + rows as usize * 24, "{before} bytes for {rows} rows");
    }
}

#[test]
fn rows_of_other_types_or_groups_are_refused() {
    let mut table = LogTable::<u64, u64>::new("state", KeyGroups::new(4), 0..4, LogOptions::default());
    let place = BlockPlace { segment: "seg".into(), index: 0, offset: 0, bytes: 9 };
    let mut narrow = Rows::new(Some(4), Some(8));
    narrow.push(&1u32, Some(&1u64));
    assert!(table.restore_block(0, &narrow, &place).is_err());
    let mut foreign = Rows::new(Some(8), Some(8));
    (0..8u64).for_each(|key| foreign.push(&key, Some(&key)));
    assert!(table.restore_block(0, &foreign, &place).is_err());
    let mut text = Rows::new(None, Some(8));
    text.push(&"key".to_owned(), Some(&1u64));
    assert!(table.restore_rows(0, &text).is_err());
    assert!(table.is_empty());
    table.log.check_invariants();
}

#[test]
fn a_segment_stays_known_while_a_snapshot_has_still_to_write_an_empty_page_of_it() {
    let mut job = Job::<u64, u64>::new(2);
    (0..40).for_each(|key| job.put(key, key));
    for _ in 0..2 {
        job.begin(false);
        job.finish_writing();
    }
    job.begin(true);
    (0..40).for_each(|key| job.remove(&key));
    job.complete(0);
    job.complete(0);
    job.table.log.check_invariants();
    job.finish_writing();
    job.complete(0);
    job.checkpoint();
    job.check_latest();
}

#[test]
fn snapshots_that_complete_out_of_order_leave_pages_where_the_latest_has_them() {
    let mut job = Job::<u64, u64>::new(1);
    (0..40).for_each(|key| job.put(key, key));
    for round in 0..3 {
        // The first two begin before either completes, the third in between.
        if round == 2 {
            job.complete(0);
        }
        job.begin(false);
        job.finish_writing();
    }
    // The second overrides the places that the third was begun on; then the third completes, and files of the second go.
    job.complete(0);
    job.complete(0);
    job.put(50, 50);
    job.checkpoint();
    job.check_latest();
}

#[test]
fn a_key_whose_row_grew_and_that_was_then_removed_does_not_come_back() {
    let mut job = Job::<u64, String>::new(1);
    (0..20).for_each(|key| job.put(key, "a".into()));
    job.checkpoint();
    // The second change is to a row of this epoch, and too long for its place.
    job.put(1, "bb".into());
    job.put(2, "bb".into());
    job.put(1, "ccc".into());
    job.remove(&1);
    job.checkpoint();
    job.check_latest();
}

#[test]
fn a_block_restored_behind_loose_rows_is_written_again_with_them() {
    let groups = KeyGroups::new(1);
    let mut table = LogTable::<u64, u64>::new("state", groups, 0..1, LogOptions::default());
    let row = |value: u64| {
        let mut rows = Rows::new(Some(8), Some(8));
        rows.push(&1u64, Some(&value));
        rows
    };
    let place = BlockPlace { segment: "seg".into(), index: 0, offset: 40, bytes: 90 };
    table.restore_rows(0, &row(7)).unwrap();
    table.restore_block(0, &row(8), &place).unwrap();
    table.restored();
    table.log.check_invariants();
    assert_eq!(table.get(1u64.key_hash(), &1), Some(8));
    // If the block kept its place, the loose row would be replayed after it.
    table.begin_snapshot(0, &[GroupPlan::Delta]);
    assert_eq!(table.segments_needed().iter().count(), 0);
}

#[test]
fn a_key_restored_as_a_loose_row_and_then_removed_leaves_a_tombstone_while_its_segment_stays() {
    let groups = KeyGroups::new(2);
    let (loose, other) = (key_of_group(groups, 0), key_of_group(groups, 1));
    let row = |key: u64| {
        let mut rows = Rows::new(Some(8), Some(8));
        rows.push(&key, Some(&7u64));
        rows
    };
    let place = |index| BlockPlace { segment: "seg".into(), index, offset: 40, bytes: 90 };
    let mut table = LogTable::<u64, u64>::new("state", groups, 0..2, LogOptions::default());
    table.restore_rows(0, &row(loose)).unwrap();
    table.restore_block(0, &row(loose), &place(0)).unwrap();
    table.restore_block(1, &row(other), &place(1)).unwrap();
    table.restored();
    assert!(table.remove(loose.key_hash(), &loose));
    assert_eq!(table.log.tombstones, 1, "what the segment says of the key is still to be undone");
    assert!(table.log.segments.any_older(0, None));
    table.begin_snapshot(0, &[GroupPlan::Delta; 2]);
    assert!(table.segments_needed().iter().map(|path| &**path).eq(["seg"]));
}

/// A key that lies in `group`.
fn key_of_group(groups: KeyGroups, group: u16) -> u64 {
    (0..).find(|key: &u64| groups.group_of(key.key_hash()) == group).expect("every group has keys")
}

#[test]
fn a_snapshot_that_begins_while_pages_learn_of_the_last_one_writes_none_of_them_again() {
    let mut job = Job::<u64, u64>::new(4);
    (0..40_000).for_each(|key| job.put(key, key));
    job.table.log.snapshots.settled_pages = Some(1);
    job.checkpoint();
    assert!(job.table.log.snapshots.is_settling());
    (0..10).for_each(|key| job.put(key, key + 1));
    let written = job.files.values().map(|(_, bytes)| bytes.len()).sum::<usize>();
    job.checkpoint();
    let both = job.files.values().map(|(_, bytes)| bytes.len()).sum::<usize>();
    assert!(both - written < written / 20, "{} bytes after {written}", both - written);
    job.table.log.check_invariants();
}

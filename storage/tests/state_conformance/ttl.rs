//! Time to live: per value, per element of a list, per entry of a map.

use crate::harness::{Average, Job, Kind, Numbers, One, greater};
use std::collections::BTreeMap;
use thalweg_storage::Data;
use thalweg_storage::state::{
    AggregatingStates, ListStates, MapStates, ReducingStates, Ttl, TtlUpdate, TtlVisibility, ValueStates,
};
use thalweg_storage::table::StateTable;

const TTL_MS: u64 = 100;
const KEY: u64 = 7;

/// What each kind returns: value, list, map, maximum, sum and count.
type Found = (Option<u64>, Vec<u64>, Vec<(u64, u64)>, Option<u64>, Option<(u64, u64)>);

/// All kinds with one time to live, under one key.
struct Kinds {
    hash: u64,
    values: ValueStates<u64, u64>,
    lists: ListStates<u64, u64>,
    maps: MapStates<u64, u64, u64>,
    maxima: ReducingStates<u64, u64, fn(&mut u64, u64)>,
    averages: AggregatingStates<u64, Average>,
}

impl Kinds {
    fn new(job: &Job, ttl: Ttl) -> Self {
        let (backend, groups, range) = (&job.backend(), job.groups, job.all());
        Kinds {
            hash: KEY.group_hash(groups),
            values: ValueStates::with_ttl(backend, "values", groups, range.clone(), ttl),
            lists: ListStates::with_ttl(backend, "lists", groups, range.clone(), ttl),
            maps: MapStates::with_ttl(backend, "maps", groups, range.clone(), ttl),
            maxima: ReducingStates::with_ttl(backend, "maxima", groups, range.clone(), greater, ttl),
            averages: AggregatingStates::with_ttl(backend, "averages", groups, range, Average, ttl),
        }
    }

    /// Writes to each kind.
    fn write(&mut self, now_ms: u64, value: u64) {
        self.values.set(now_ms, self.hash, &KEY, value);
        self.lists.add(now_ms, self.hash, &KEY, value);
        self.maps.put(now_ms, self.hash, &KEY, &value, value);
        self.maxima.add(now_ms, self.hash, &KEY, value);
        self.averages.add(now_ms, self.hash, &KEY, value);
    }

    /// What each kind returns.
    fn read(&mut self, now_ms: u64) -> Found {
        let mut entries = self.maps.entries(now_ms, self.hash, &KEY);
        entries.sort_unstable();
        (
            self.values.get(now_ms, self.hash, &KEY),
            self.lists.get(now_ms, self.hash, &KEY),
            entries,
            self.maxima.get(now_ms, self.hash, &KEY),
            self.averages.get(now_ms, self.hash, &KEY),
        )
    }

    fn tables(&mut self) -> [&mut dyn StateTable; 5] {
        [
            self.values.table(),
            self.lists.table(),
            self.maps.table(),
            self.maxima.table(),
            self.averages.table(),
        ]
    }

    /// Restores a checkpoint or savepoint of these states into others.
    fn carry_over(&mut self, job: &Job, full: bool, into: &mut Kinds) {
        for (from, into) in self.tables().into_iter().zip(into.tables()) {
            carry_over(job, from, into, full);
        }
    }
}

const NOTHING: Found = (None, Vec::new(), Vec::new(), None, None);

/// What [`Kinds::read`] returns of one written value.
fn only(value: u64) -> Found {
    (Some(value), vec![value], vec![(value, value)], Some(value), Some((value, 1)))
}

fn carry_over(job: &Job, from: &mut dyn StateTable, into: &mut dyn StateTable, full: bool) {
    let meta = from.meta();
    let mut task = job.task_of(One(from));
    let segments = if full { task.savepoint(1) } else { task.checkpoint(1) };
    let mut task = job.task_of(One(into));
    let restored = task.snapshots.restore(&job.disk, &job.path, &segments, &[meta], &mut task.states);
    restored.expect("an intact checkpoint");
    std::fs::remove_dir_all(job.path.join("shared")).expect("the test's own directory");
    std::fs::create_dir(job.path.join("shared")).expect("the test's own directory");
}

fn everything_expires_one_time_to_live_after_its_last_write(kind: Kind) {
    let mut kinds = Kinds::new(&Job::new(kind, 128), Ttl::new(TTL_MS));
    assert_eq!(kinds.read(0), NOTHING);
    kinds.write(1_000, 5);
    assert_eq!(kinds.read(1_000), only(5));
    assert_eq!(kinds.read(1_099), only(5), "a read does not renew it");
    assert_eq!(kinds.read(1_100), NOTHING);
    kinds.write(1_150, 6);
    kinds.write(1_200, 7);
    assert_eq!(
        kinds.read(1_249),
        (Some(7), vec![6, 7], vec![(6, 6), (7, 7)], Some(7), Some((13, 2))),
        "a write renews a value, and adds to others"
    );
    assert_eq!(kinds.read(1_250), (Some(7), vec![7], vec![(7, 7)], Some(7), Some((13, 2))));
    assert_eq!(kinds.read(1_300), NOTHING);
    for table in kinds.tables() {
        assert_eq!(table.stats().keys, 0, "what was found expired is removed");
    }
}

fn reads_renew_where_they_should(kind: Kind) {
    let ttl = Ttl::new(TTL_MS).update(TtlUpdate::OnReadAndWrite);
    let mut kinds = Kinds::new(&Job::new(kind, 128), ttl);
    kinds.write(1_000, 5);
    for now_ms in [1_099, 1_198, 1_297, 1_396] {
        assert_eq!(kinds.read(now_ms), only(5));
        assert_eq!(kinds.maps.get(now_ms, kinds.hash, &KEY, &5), Some(5));
    }
    assert_eq!(kinds.read(1_496), NOTHING);
    // One entry read renews that one only.
    kinds.maps.put(2_000, kinds.hash, &KEY, &1, 1);
    kinds.maps.put(2_000, kinds.hash, &KEY, &2, 2);
    assert!(kinds.maps.contains(2_050, kinds.hash, &KEY, &1));
    assert_eq!(kinds.maps.entries(2_100, kinds.hash, &KEY), [(1, 1)]);
}

fn what_is_not_cleaned_up_may_be_returned_once(kind: Kind) {
    let ttl = Ttl::new(TTL_MS).visibility(TtlVisibility::ReturnExpiredIfNotCleanedUp);
    let mut kinds = Kinds::new(&Job::new(kind, 128), ttl);
    kinds.write(1_000, 5);
    assert_eq!(kinds.read(1_500), only(5));
    assert_eq!(kinds.read(1_500), NOTHING);
    kinds.write(2_000, 6);
    assert_eq!(kinds.maps.get(2_100, kinds.hash, &KEY, &6), Some(6));
    assert_eq!(kinds.maps.get(2_100, kinds.hash, &KEY, &6), None);
}

fn times_and_times_to_live_do_not_overflow(kind: Kind) {
    let job = Job::new(kind, 128);
    for ttl_ms in [1, TTL_MS, u64::MAX - 1, u64::MAX] {
        for start_ms in [0, 1, u64::MAX - TTL_MS, u64::MAX - 1, u64::MAX] {
            let mut kinds = Kinds::new(&job, Ttl::new(ttl_ms));
            kinds.write(start_ms, 5);
            for now_ms in [start_ms, start_ms.saturating_add(1), u64::MAX] {
                let expected = if now_ms - start_ms >= ttl_ms { NOTHING } else { only(5) };
                assert_eq!(kinds.read(now_ms), expected, "{ttl_ms} ms from {start_ms} to {now_ms}");
            }
        }
    }
}

fn elements_and_entries_of_large_collections_expire_one_by_one(kind: Kind) {
    let mut kinds = Kinds::new(&Job::new(kind, 128), Ttl::new(TTL_MS));
    let (hash, lists, maps) = (kinds.hash, &mut kinds.lists, &mut kinds.maps);
    let mut numbers = Numbers::new(1);
    let mut list: Vec<(u64, u64)> = Vec::new();
    let mut map: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for now_ms in 1_000..2_000u64 {
        for _ in 0..10 {
            let number = numbers.below(1_500);
            lists.add(now_ms, hash, &KEY, number);
            list.push((now_ms, number));
            maps.put(now_ms, hash, &KEY, &number, now_ms);
            map.insert(number, (now_ms, now_ms));
        }
        let asked = numbers.below(1_500);
        let alive = map.get(&asked).filter(|entry| now_ms - entry.0 < TTL_MS);
        assert_eq!(maps.get(now_ms, hash, &KEY, &asked), alive.map(|entry| entry.1));
        if now_ms % 60 == 0 {
            list.retain(|element| now_ms - element.0 < TTL_MS);
            map.retain(|_, entry| now_ms - entry.0 < TTL_MS);
            let expected: Vec<u64> = list.iter().map(|element| element.1).collect();
            assert_eq!(lists.get(now_ms, hash, &KEY), expected);
            assert_eq!(maps.len(now_ms, hash, &KEY), map.len() as u64);
            let mut keys = maps.keys(now_ms, hash, &KEY);
            keys.sort_unstable();
            assert!(keys.iter().eq(map.keys()));
        }
        if now_ms % 7 == 0 {
            while lists.table().maintain(1_000).expect("an intact disk") {}
            while maps.table().maintain(1_000).expect("an intact disk") {}
        }
    }
    assert!(lists.table().stats().keys < 40, "chunks of expired elements are gone");
    assert!(maps.table().stats().keys < 80, "chunks of expired entries are gone");
    assert!(lists.is_empty(3_000, hash, &KEY) && maps.is_empty(3_000, hash, &KEY));
    assert_eq!((lists.table().stats().keys, maps.table().stats().keys), (0, 0));
}

/// Writes collections of one and of many rows at some time, others later.
fn write_collections(kinds: &mut Kinds, job: &Job, old_ms: u64, young_ms: u64) {
    for key in (0..40u64).step_by(2).chain((1..40).step_by(2)) {
        let hash = key.group_hash(job.groups);
        let now_ms = if key % 2 == 0 { old_ms } else { young_ms };
        let size = if key < 4 { 1_000 } else { 3 };
        kinds.values.set(now_ms, hash, &key, key);
        kinds.lists.add_all(now_ms, hash, &key, 0..size);
        (0..size).for_each(|number| kinds.maps.put(now_ms, hash, &key, &number, number));
        kinds.maxima.add(now_ms, hash, &key, key);
        kinds.averages.add(now_ms, hash, &key, key);
    }
}

/// Asserts that what was written at the young time is there, and nothing else in any table.
fn assert_young(kinds: &mut Kinds, job: &Job, now_ms: u64) {
    let mut rows = [0; 5];
    for (i, table) in kinds.tables().into_iter().enumerate() {
        rows[i] = table.stats().keys;
    }
    assert_eq!((rows[0], rows[3], rows[4]), (20, 20, 20));
    assert!((20..80).contains(&rows[1]) && (20..160).contains(&rows[2]), "{rows:?} rows");
    for key in 0..40u64 {
        let hash = key.group_hash(job.groups);
        let size = if key < 4 { 1_000 } else { 3 };
        let young = key % 2 == 1;
        assert_eq!(kinds.values.get(now_ms, hash, &key), young.then_some(key));
        assert_eq!(kinds.lists.get(now_ms, hash, &key).len() as u64, if young { size } else { 0 });
        assert_eq!(kinds.maps.len(now_ms, hash, &key), if young { size } else { 0 });
        assert_eq!(kinds.maxima.get(now_ms, hash, &key), young.then_some(key));
    }
}

fn a_full_snapshot_leaves_out_what_has_expired(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut kinds = Kinds::new(&job, Ttl::new(TTL_MS));
    write_collections(&mut kinds, &job, 1_000, 1_050);
    let hash = 999u64.group_hash(job.groups);
    kinds.values.set(1_050, hash, &999, 1);
    kinds.values.clear(hash, &999);
    kinds.values.advance_time(1_100);
    kinds.lists.advance_time(1_100);
    kinds.maps.advance_time(1_100);
    kinds.maxima.advance_time(1_100);
    kinds.averages.advance_time(1_100);
    let mut restored = Kinds::new(&job, Ttl::new(TTL_MS));
    kinds.carry_over(&job, true, &mut restored);
    assert_young(&mut restored, &job, 1_100);
    assert_eq!(restored.read(1_150), NOTHING);
}

fn upkeep_removes_what_has_expired(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut kinds = Kinds::new(&job, Ttl::new(TTL_MS));
    write_collections(&mut kinds, &job, 1_000, 1_050);
    kinds.values.advance_time(1_100);
    kinds.lists.advance_time(1_100);
    kinds.maps.advance_time(1_100);
    kinds.maxima.advance_time(1_100);
    kinds.averages.advance_time(1_100);
    for table in kinds.tables() {
        while table.maintain(10).expect("an intact disk") {}
    }
    assert_young(&mut kinds, &job, 1_100);
    // What a delta says of the removed ones holds too.
    let mut restored = Kinds::new(&job, Ttl::new(TTL_MS));
    kinds.carry_over(&job, false, &mut restored);
    assert_young(&mut restored, &job, 1_100);
}

fn removal_by_upkeep_is_part_of_later_deltas(kind: Kind) {
    let job = Job::new(kind, 128);
    let new = || {
        ValueStates::<u64, u64>::with_ttl(&job.backend(), "values", job.groups, job.all(), Ttl::new(TTL_MS))
    };
    let mut values = new();
    for key in (0..500u64).step_by(2).chain((1..500).step_by(2)) {
        values.set(1_000 + key % 2 * 60, key.group_hash(job.groups), &key, key);
    }
    let meta = values.table().meta();
    let mut task = job.task_of(One(values.table()));
    task.checkpoint(1);
    let snapshots = task.snapshots;
    values.advance_time(1_100);
    let mut task = job.task_of(One(values.table()));
    task.snapshots = snapshots;
    // Upkeep while a snapshot is under way as well as before one.
    task.begin(2);
    task.advance(2, 10);
    task.maintain();
    let under_way = task.finish(2);
    task.completed(2);
    let after = task.checkpoint(3);
    for (segments, rows) in [(under_way, 250..=500), (after, 250..=250)] {
        let mut restored = new();
        let mut task = job.task_of(One(restored.table()));
        task.snapshots
            .restore(&job.disk, &job.path, &segments, std::slice::from_ref(&meta), &mut task.states)
            .expect("an intact checkpoint");
        assert!(rows.contains(&restored.table().stats().keys), "{} rows", restored.table().stats().keys);
        for key in 0..500u64 {
            let found = restored.get(1_100, key.group_hash(job.groups), &key);
            assert_eq!(found, (key % 2 == 1).then_some(key));
        }
    }
}

fn a_clock_that_goes_back_revives_nothing(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut kinds = Kinds::new(&job, Ttl::new(TTL_MS));
    kinds.write(1_000, 5);
    let other = 8u64;
    let other_hash = other.group_hash(job.groups);
    kinds.values.set(1_000, other_hash, &other, 1);
    assert_eq!(kinds.read(1_100), NOTHING);
    assert_eq!(kinds.read(1_050), NOTHING);
    assert_eq!(kinds.values.get(1_050, other_hash, &other), None, "time does not go back while the job runs");
    kinds.write(1_050, 6);
    assert_eq!(kinds.read(1_199), only(6), "what is written counts from the latest time");
    kinds.values.set(1_199, other_hash, &other, 2);

    // A restored state has another clock, which may be behind.
    let mut restored = Kinds::new(&job, Ttl::new(TTL_MS));
    kinds.carry_over(&job, false, &mut restored);
    assert_eq!(restored.read(500), only(6), "from the future, so of age 0");
    assert_eq!(restored.read(0), only(6));
    restored.write(501, 7);
    assert_eq!(restored.values.get(600, restored.hash, &KEY), Some(7));
    assert_eq!(restored.values.get(601, restored.hash, &KEY), None, "written anew, it counts from then");
    assert_eq!(restored.lists.get(601, restored.hash, &KEY), [6]);
    assert_eq!(restored.lists.get(1_200, restored.hash, &KEY), []);

    // What was found expired before the snapshot is not in it.
    assert_eq!(kinds.read(1_299), NOTHING);
    let mut restored = Kinds::new(&job, Ttl::new(TTL_MS));
    kinds.carry_over(&job, false, &mut restored);
    assert_eq!(restored.read(0), NOTHING);
    assert_eq!(restored.read(1_100), NOTHING);
}

fn merging_keeps_the_age_of_elements_and_renews_folded_values(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut kinds = Kinds::new(&job, Ttl::new(TTL_MS));
    kinds.write(1_000, 5);
    let target = 8u64;
    let target = (target.group_hash(job.groups), &target);
    let source = (kinds.hash, &KEY);
    kinds.lists.add(1_050, target.0, target.1, 1);
    kinds.lists.merge(1_060, target, [source]);
    kinds.maxima.merge(1_060, target, [source]);
    kinds.averages.merge(1_060, target, [source]);
    assert_eq!(kinds.lists.get(1_099, target.0, target.1), [1, 5]);
    assert_eq!(kinds.lists.get(1_100, target.0, target.1), [1]);
    assert_eq!(kinds.maxima.get(1_159, target.0, target.1), Some(5));
    assert_eq!(kinds.averages.get(1_159, target.0, target.1), Some((5, 1)));
    assert_eq!(kinds.maxima.get(1_160, target.0, target.1), None);
    assert_eq!(kinds.averages.get(1_160, target.0, target.1), None);
    // An expired source brings nothing.
    kinds.maxima.add(1_200, source.0, source.1, 9);
    kinds.maxima.merge(1_300, target, [source]);
    assert_eq!(kinds.maxima.get(1_300, target.0, target.1), None);
}

fn changing_an_expired_value_starts_anew(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut kinds = Kinds::new(&job, Ttl::new(TTL_MS));
    let hash = kinds.hash;
    let count = |kinds: &mut Kinds, now_ms| {
        kinds.values.update(
            now_ms,
            hash,
            &KEY,
            || 100,
            |value| {
                *value += 1;
                *value
            },
        )
    };
    assert_eq!([1_000, 1_050, 1_149].map(|now_ms| count(&mut kinds, now_ms)), [101, 102, 103]);
    assert_eq!(count(&mut kinds, 1_249), 101);
    kinds.maxima.add(1_300, hash, &KEY, 9);
    kinds.maxima.add(1_400, hash, &KEY, 3);
    assert_eq!(kinds.maxima.get(1_400, hash, &KEY), Some(3));
}

for_each_backend!(
    everything_expires_one_time_to_live_after_its_last_write,
    reads_renew_where_they_should,
    what_is_not_cleaned_up_may_be_returned_once,
    times_and_times_to_live_do_not_overflow,
    elements_and_entries_of_large_collections_expire_one_by_one,
    a_full_snapshot_leaves_out_what_has_expired,
    upkeep_removes_what_has_expired,
    removal_by_upkeep_is_part_of_later_deltas,
    a_clock_that_goes_back_revives_nothing,
    merging_keeps_the_age_of_elements_and_renews_folded_values,
    changing_an_expired_value_starts_anew,
);

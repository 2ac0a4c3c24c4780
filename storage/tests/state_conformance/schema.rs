//! Stored state whose types are not those of today: the same, migrated, or refused with a clear error.

use crate::harness::{Job, Kind, One};
use postcard_schema::Schema;
use serde::{Deserialize, Serialize};
use thalweg_storage::state::{ListStates, MapStates, Scoped, TimerQueue, Ttl, ValueStates};
use thalweg_storage::table::{Backend, StateTable};
use thalweg_storage::{Data, StoreError};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
struct VisitV1 {
    page: String,
    seconds: u32,
}
thalweg_storage::data!(VisitV1, version = 1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Schema)]
struct Visit {
    milliseconds: u64,
    page: String,
}
thalweg_storage::data!(Visit, version = 2, from = VisitV1);

impl From<VisitV1> for Visit {
    fn from(old: VisitV1) -> Visit {
        Visit { milliseconds: u64::from(old.seconds) * 1_000, page: old.page }
    }
}

fn old(number: u32) -> VisitV1 {
    VisitV1 { page: format!("page {number}"), seconds: number }
}

fn new(number: u32) -> Visit {
    Visit::from(old(number))
}

/// Restores a checkpoint of `from` into `into`.
fn carry_over(job: &Job, from: &mut dyn StateTable, into: &mut dyn StateTable) -> Result<(), StoreError> {
    let meta = from.meta();
    let segments = job.task_of(One(from)).checkpoint(1);
    let mut task = job.task_of(One(into));
    let result = task.snapshots.restore(&job.disk, &job.path, &segments, &[meta], &mut task.states);
    std::fs::remove_dir_all(job.path.join("shared")).expect("the test's own directory");
    std::fs::create_dir(job.path.join("shared")).expect("the test's own directory");
    result
}

#[track_caller]
fn refused(result: Result<(), StoreError>, parts: &[&str]) {
    let Err(error @ StoreError::Incompatible(_)) = result else { panic!("{result:?} is no clear refusal") };
    let text = error.to_string();
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
}

fn values<V: Data>(job: &Job) -> ValueStates<u64, V> {
    ValueStates::new(&job.backend(), "state", job.groups, job.all())
}

fn lists<E: Data>(job: &Job) -> ListStates<u64, E> {
    ListStates::new(&job.backend(), "state", job.groups, job.all())
}

fn maps<U: Data + Eq, V: Data>(job: &Job) -> MapStates<u64, U, V> {
    MapStates::new(&job.backend(), "state", job.groups, job.all())
}

fn hash(job: &Job, key: u64) -> u64 {
    key.group_hash(job.groups)
}

fn values_elements_and_entries_of_an_older_version_migrate(kind: Kind) {
    let job = Job::new(kind, 128);
    let (mut before, mut after) = (values(&job), values(&job));
    (0..200).for_each(|key| before.set(0, hash(&job, key), &key, old(key as u32)));
    carry_over(&job, before.table(), after.table()).expect("a version to migrate");
    for key in 0..200 {
        assert_eq!(after.get(0, hash(&job, key), &key), Some(new(key as u32)));
    }

    let (mut before, mut after) = (lists(&job), lists(&job));
    for key in [1, 300] {
        before.add_all(0, hash(&job, key), &key, (0..key as u32).map(old));
    }
    carry_over(&job, before.table(), after.table()).expect("a version to migrate");
    for key in [1, 300] {
        after.add(0, hash(&job, key), &key, new(key as u32));
        assert_eq!(after.get(0, hash(&job, key), &key), (0..=key as u32).map(new).collect::<Vec<_>>());
    }

    let (mut before, mut after) = (maps(&job), maps(&job));
    for key in [1, 300] {
        (0..key as u32).for_each(|number| before.put(0, hash(&job, key), &key, &number, old(number)));
    }
    carry_over(&job, before.table(), after.table()).expect("a version to migrate");
    for key in [1, 300] {
        assert_eq!(after.len(0, hash(&job, key), &key), key);
        for number in 0..key as u32 {
            assert_eq!(after.get(0, hash(&job, key), &key, &number), Some(new(number)));
            assert!(after.remove(hash(&job, key), &key, &number));
        }
        assert!(after.is_empty(0, hash(&job, key), &key));
    }
}

fn state_with_time_to_live_migrates_too(kind: Kind) {
    let job = Job::new(kind, 128);
    fn of<V: Data>(job: &Job, time_to_live_ms: u64) -> ValueStates<u64, V> {
        ValueStates::with_ttl(&job.backend(), "state", job.groups, job.all(), Ttl::new(time_to_live_ms))
    }
    let (mut before, mut after) = (of(&job, 100), of(&job, 200));
    before.set(1_000, hash(&job, 1), &1, old(1));
    carry_over(&job, before.table(), after.table()).expect("a version to migrate, and another time to live");
    assert_eq!(after.get(1_199, hash(&job, 1), &1), Some(new(1)));
    assert_eq!(after.get(1_200, hash(&job, 1), &1), None);
}

fn incompatible_types_are_refused(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut numbers = values::<u64>(&job);
    numbers.set(0, hash(&job, 1), &1, 7);
    refused(carry_over(&job, numbers.table(), values::<i64>(&job).table()), &["\"state\"", "u64", "i64"]);
    refused(
        carry_over(&job, numbers.table(), lists::<u64>(&job).table()),
        &["\"state\"", "key", "(u64, u32)"],
    );
    let mut newer = lists::<Visit>(&job);
    newer.add(0, hash(&job, 1), &1, new(1));
    refused(carry_over(&job, newer.table(), lists::<VisitV1>(&job).table()), &["\"state\"", "version 2"]);
    let mut by_number = maps::<u32, u8>(&job);
    by_number.put(0, hash(&job, 1), &1, &1, 1);
    refused(carry_over(&job, by_number.table(), maps::<u64, u8>(&job).table()), &["\"state\"", "u32", "u64"]);
}

fn a_wrong_key_codec_is_refused(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut numbers = values::<u64>(&job);
    numbers.set(0, hash(&job, 1), &1, 7);
    let mut by_text = ValueStates::<String, u64>::new(&job.backend(), "state", job.groups, job.all());
    refused(carry_over(&job, numbers.table(), by_text.table()), &["\"state\"", "key", "u64", "String"]);
    // A namespace more is another key, and so is a key of another version: its bytes would be in another group.
    let mut scoped =
        ValueStates::<Scoped<u64, u64>, u64>::new(&job.backend(), "state", job.groups, job.all());
    refused(carry_over(&job, numbers.table(), scoped.table()), &["\"state\"", "key", "u64", "(u64, u64)"]);
}

fn switching_time_to_live_on_or_off_is_refused(kind: Kind) {
    let job = Job::new(kind, 128);
    let backend: Backend = job.backend();
    let ttl = Ttl::new(1_000);
    let mut with = ValueStates::<u64, u64>::with_ttl(&backend, "state", job.groups, job.all(), ttl);
    let mut without = values::<u64>(&job);
    with.set(0, hash(&job, 1), &1, 7);
    without.set(0, hash(&job, 1), &1, 7);
    refused(carry_over(&job, with.table(), values::<u64>(&job).table()), &["\"state\"", "WithTtl"]);
    let mut empty = ValueStates::<u64, u64>::with_ttl(&backend, "state", job.groups, job.all(), ttl);
    refused(carry_over(&job, without.table(), empty.table()), &["\"state\"", "WithTtl"]);
    let mut with = ListStates::<u64, u64>::with_ttl(&backend, "state", job.groups, job.all(), ttl);
    with.add(0, hash(&job, 1), &1, 7);
    refused(carry_over(&job, with.table(), lists::<u64>(&job).table()), &["\"state\"", "WithTtl"]);
    let mut with = MapStates::<u64, u64, u64>::with_ttl(&backend, "state", job.groups, job.all(), ttl);
    with.put(0, hash(&job, 1), &1, &7, 7);
    refused(carry_over(&job, with.table(), maps::<u64, u64>(&job).table()), &["\"state\"", "WithTtl"]);
}

fn timers_of_another_key_or_namespace_are_refused(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut timers = TimerQueue::<u64, u64>::new("state", job.groups, job.all());
    timers.register(&1, &2, 3);
    let mut other = TimerQueue::<u64, String>::new("state", job.groups, job.all());
    refused(carry_over(&job, timers.table(), other.table()), &["\"state\"", "key", "String"]);
    let mut other = TimerQueue::<i64, u64>::new("state", job.groups, job.all());
    refused(carry_over(&job, timers.table(), other.table()), &["\"state\"", "key", "i64"]);
    refused(carry_over(&job, timers.table(), values::<u64>(&job).table()), &["\"state\"", "key"]);
}

for_each_backend!(
    values_elements_and_entries_of_an_older_version_migrate,
    state_with_time_to_live_migrates_too,
    incompatible_types_are_refused,
    a_wrong_key_codec_is_refused,
    switching_time_to_live_on_or_off_is_refused,
    timers_of_another_key_or_namespace_are_refused,
);

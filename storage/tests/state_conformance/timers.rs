//! Timers as state. Their rows are a hash table's, beside states of either backend.

use crate::harness::{Job, Kind, Numbers, Task};
use std::collections::BTreeSet;
use thalweg_storage::Data;
use thalweg_storage::state::{Timer, TimerQueue};

fn queue(job: &Job) -> TimerQueue<u64, u64> {
    TimerQueue::new("timers", job.groups, job.all())
}

/// All timers due at `time`, in the order in which they come.
fn drain(timers: &mut TimerQueue<u64, u64>, time: i64) -> Vec<(i64, u64, u64)> {
    std::iter::from_fn(|| timers.pop(time)).map(|timer| (timer.time, timer.key, timer.namespace)).collect()
}

fn timers_fire_once_each_in_the_order_of_time(kind: Kind) {
    let mut timers = queue(&Job::new(kind, 128));
    let mut expected = BTreeSet::new();
    let mut numbers = Numbers::new(1);
    for _ in 0..20_000 {
        let timer = (numbers.below(500) as i64 - 250, numbers.below(30), numbers.below(3));
        assert_eq!(timers.register(&timer.1, &timer.2, timer.0), expected.insert(timer));
    }
    assert_eq!(timers.len(), expected.len());
    assert_eq!(timers.next_time(), expected.first().map(|timer| timer.0));
    for now in [-300, -250, 0, 0, 100, 1_000] {
        let fired = drain(&mut timers, now);
        assert!(fired.is_sorted_by_key(|timer| timer.0));
        let due: BTreeSet<_> = expected.iter().filter(|timer| timer.0 <= now).copied().collect();
        assert_eq!(fired.len(), due.len(), "each once");
        assert_eq!(fired.into_iter().collect::<BTreeSet<_>>(), due);
        expected.retain(|timer| timer.0 > now);
        assert_eq!(timers.len(), expected.len());
    }
    assert!(timers.is_empty());
    assert_eq!((timers.next_time(), timers.pop(i64::MAX)), (None, None));
}

fn timers_of_extreme_times_fire(kind: Kind) {
    let mut timers = queue(&Job::new(kind, 128));
    for time in [i64::MAX, 0, i64::MIN] {
        assert!(timers.register(&1, &1, time));
    }
    assert_eq!(
        drain(&mut timers, i64::MAX).iter().map(|timer| timer.0).collect::<Vec<_>>(),
        [i64::MIN, 0, i64::MAX]
    );
}

fn deleted_timers_do_not_fire_and_cost_nothing_in_the_end(kind: Kind) {
    let mut timers = queue(&Job::new(kind, 128));
    assert!(!timers.delete(&1, &1, 5));
    // A timer per key that is moved on with every record: the usual way to notice that a key is idle.
    for round in 0..1_000 {
        for key in 0..20 {
            assert_eq!(timers.delete(&key, &0, 1_000_000 + round), round > 0);
            assert!(timers.register(&key, &0, 1_000_001 + round));
        }
    }
    assert_eq!(timers.len(), 20);
    let bytes = timers.table().stats().index_bytes;
    assert!(bytes < 500_000, "{bytes} bytes for 20 timers and 20,000 deleted ones");
    timers.delete(&3, &0, 1_001_000);
    timers.register(&4, &0, 1_001_000);
    let fired = drain(&mut timers, i64::MAX);
    assert_eq!(fired.len(), 19);
    assert!(fired.iter().all(|timer| timer.1 != 3 && timer.0 == 1_001_000));
}

fn a_timer_deleted_and_registered_again_fires_once(kind: Kind) {
    let mut timers = queue(&Job::new(kind, 128));
    for _ in 0..3 {
        timers.register(&1, &2, 10);
        timers.delete(&1, &2, 10);
        timers.register(&1, &2, 10);
    }
    assert_eq!(drain(&mut timers, 10), [(10, 1, 2)]);
}

fn the_order_does_not_depend_on_registration_or_restore(kind: Kind) {
    let job = Job::new(kind, 128);
    let timers: Vec<(i64, u64, u64)> = (0..3_000).map(|n| (n % 7, n as u64 % 100, n as u64 / 700)).collect();
    let mut forward = job.task(job.all());
    let mut backward = queue(&job);
    timers
        .iter()
        .for_each(|(time, key, namespace)| _ = forward.states.timers.register(key, namespace, *time));
    timers.iter().rev().for_each(|(time, key, namespace)| _ = backward.register(key, namespace, *time));
    let segments = forward.checkpoint(1);
    let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
    let order = drain(&mut forward.states.timers, 100);
    assert_eq!(drain(&mut backward, 100), order);
    assert_eq!(drain(&mut restored.states.timers, 100), order);
}

fn a_callback_may_register_timers_also_some_that_are_due(kind: Kind) {
    let mut timers = queue(&Job::new(kind, 128));
    timers.register(&1, &0, 10);
    let mut fired = Vec::new();
    while let Some(timer) = timers.pop(20) {
        // Each sets the next one; the one at 11 is due at once, as is one in the past.
        if timer.key == 1 && timer.time < 14 {
            timers.register(&timer.key, &timer.namespace, timer.time + 1);
        }
        if timer.time == 12 {
            timers.register(&2, &0, 3);
            timers.register(&2, &0, 21);
            timers.delete(&1, &0, 13);
            timers.register(&1, &0, 13);
        }
        fired.push((timer.time, timer.key));
    }
    assert_eq!(fired, [(10, 1), (11, 1), (12, 1), (3, 2), (13, 1), (14, 1)]);
    assert_eq!(timers.next_time(), Some(21));
}

fn a_snapshot_between_two_timers_of_a_burst_holds_those_that_have_not_fired(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut task = job.task(job.all());
    (0..1_000).for_each(|key| _ = task.states.timers.register(&key, &0, 5));
    task.checkpoint(1);
    let fired: BTreeSet<u64> =
        (0..400).filter_map(|_| task.states.timers.pop(5)).map(|timer| timer.key).collect();
    assert_eq!(fired.len(), 400);
    task.begin(2);
    // The burst goes on while the snapshot is written.
    let rest: BTreeSet<u64> = drain(&mut task.states.timers, 5).iter().map(|timer| timer.1).collect();
    let segments = task.finish(2);
    let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
    let again: BTreeSet<u64> = drain(&mut restored.states.timers, 5).iter().map(|timer| timer.1).collect();
    assert_eq!(again, rest);
    assert_eq!(again.len(), 600);
}

fn timers_go_with_their_key_groups(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut tasks: Vec<Task> = (0..2).map(|i| job.task(job.groups.range_of(i, 2))).collect();
    for key in 0..500u64 {
        let partition = job.groups.partition_of(job.groups.group_of(key.key_hash()), 2);
        tasks[partition as usize].states.timers.register(&key, &(key % 3), key as i64);
    }
    let segments: Vec<_> = tasks.iter_mut().flat_map(|task| task.checkpoint(1)).collect();
    let mut seen = BTreeSet::new();
    for i in 0..5 {
        let range = job.groups.range_of(i, 5);
        let mut task = job.restore(range, &segments).expect("an intact checkpoint");
        // Restored timers and new ones mix.
        let key = (0..).find(|key| task.owns(*key)).expect("one of many");
        assert!(task.states.timers.register(&key, &9, -1));
        assert_eq!(task.states.timers.pop(-1), Some(Timer { key, namespace: 9, time: -1 }));
        for (time, key, namespace) in drain(&mut task.states.timers, i64::MAX) {
            assert!(task.owns(key));
            assert_eq!((time, namespace), (key as i64, key % 3));
            assert!(seen.insert(key), "each timer is in one task");
        }
    }
    assert_eq!(seen.len(), 500);
}

for_each_backend!(
    timers_fire_once_each_in_the_order_of_time,
    timers_of_extreme_times_fire,
    deleted_timers_do_not_fire_and_cost_nothing_in_the_end,
    a_timer_deleted_and_registered_again_fires_once,
    the_order_does_not_depend_on_registration_or_restore,
    a_callback_may_register_timers_also_some_that_are_due,
    a_snapshot_between_two_timers_of_a_burst_holds_those_that_have_not_fired,
    timers_go_with_their_key_groups,
);

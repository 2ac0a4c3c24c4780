//! Restoring the state of some tasks into others that divide the key groups in another way.

use crate::harness::{Job, KINDS, Kind, Task};
use crate::model::Model;
use crate::snapshots::{change, sample};
use std::collections::BTreeSet;
use thalweg_storage::manifest::SegmentRef;

/// As many keys as give most of 128 groups one.
const KEYS: u64 = 400;

fn tasks(job: &Job, parallelism: u32) -> Vec<Task> {
    (0..parallelism).map(|i| job.task(job.groups.range_of(i, parallelism))).collect()
}

/// Takes a checkpoint of each task; all their segments, those of the last task first.
fn checkpoint(tasks: &mut [Task], checkpoint: u64) -> Vec<SegmentRef> {
    tasks.iter_mut().rev().flat_map(|task| task.checkpoint(checkpoint)).collect()
}

/// Everything that tasks hold, each its own keys.
fn content(tasks: &mut [Task]) -> Model {
    let mut all = Model::default();
    for task in tasks {
        let places = (0..KEYS).flat_map(|key| (0..2).map(move |namespace| (key, namespace)));
        let places: Vec<_> = places.filter(|place| task.owns(place.0)).collect();
        let part = task.content(places);
        assert!(part.places().iter().all(|place| task.owns(place.0)), "a task holds its own keys only");
        all.values.extend(part.values);
        all.lists.extend(part.lists);
        all.maps.extend(part.maps);
        all.maxima.extend(part.maxima);
        all.averages.extend(part.averages);
        all.timers.extend(part.timers);
    }
    all
}

fn rescaled(kind: Kind, max_parallelism: u16, from: u32, into: u32) {
    let job = Job::new(kind, max_parallelism);
    let mut old = tasks(&job, from);
    let model = sample(KEYS, 1);
    old.iter_mut().for_each(|task| task.fill(&model));
    checkpoint(&mut old, 1);
    old.iter_mut().for_each(|task| change(task, &job, KEYS, 5));
    checkpoint(&mut old, 2);
    old.iter_mut().for_each(|task| change(task, &job, KEYS / 10, 6));
    let segments = checkpoint(&mut old, 3);
    let model = content(&mut old);
    let groups: BTreeSet<u16> =
        model.places().iter().map(|place| job.groups.group_of(job.hash(*place))).collect();
    assert!(groups.len() * 10 > usize::from(max_parallelism) * 9, "nearly every group has keys");

    let restore = |segments: &[SegmentRef], parallelism: u32, kind: Kind| -> Vec<Task> {
        let ranges = (0..parallelism).map(|i| job.groups.range_of(i, parallelism));
        ranges.map(|range| job.restore_as(kind, range, segments).expect("an intact checkpoint")).collect()
    };
    let mut new = restore(&segments, into, kind);
    content(&mut new).assert_is(&model);
    // The new tasks build on the old ones' segments, and can be rescaled back.
    new.iter_mut().for_each(|task| change(task, &job, KEYS / 2, 7));
    let changed = content(&mut new);
    let segments = checkpoint(&mut new, 4);
    for kind in KINDS {
        content(&mut restore(&segments, from, kind)).assert_is(&changed);
    }
}

fn four_tasks_become_two(kind: Kind) {
    rescaled(kind, 128, 4, 2);
}

fn two_tasks_become_four(kind: Kind) {
    rescaled(kind, 128, 2, 4);
}

fn two_tasks_stay_two(kind: Kind) {
    rescaled(kind, 128, 2, 2);
}

fn fifteen_tasks_become_seventy_seven(kind: Kind) {
    rescaled(kind, 128, 15, 77);
}

fn seventy_seven_tasks_become_fifteen(kind: Kind) {
    rescaled(kind, 128, 77, 15);
}

fn three_tasks_become_five_of_a_maximum_that_is_no_power_of_two(kind: Kind) {
    rescaled(kind, 77, 3, 5);
}

for_each_backend!(
    four_tasks_become_two,
    two_tasks_become_four,
    two_tasks_stay_two,
    fifteen_tasks_become_seventy_seven,
    seventy_seven_tasks_become_fifteen,
    three_tasks_become_five_of_a_maximum_that_is_no_power_of_two,
);

//! What a checkpoint holds, whatever happens to the state while it is written.

use crate::harness::{Job, KINDS, Kind, Numbers, Task};
use crate::model::{Model, Place};
use thalweg_storage::state::Scoped;

/// Places of many keys.
fn places(keys: u64) -> impl Iterator<Item = Place> {
    (0..keys).flat_map(|key| (0..2).map(move |namespace| (key, namespace)))
}

/// Something of every kind for each key.
pub fn sample(keys: u64, seed: u64) -> Model {
    let mut numbers = Numbers::new(seed);
    let mut model = Model::default();
    for place in places(keys) {
        model.values.insert(place, numbers.below(1_000));
        model.maxima.insert(place, numbers.below(1_000));
        model.averages.insert(place, (numbers.below(1_000), 1 + numbers.below(3)));
        // A few collections are large.
        let size = if numbers.below(20) == 0 { 400 } else { 4 };
        model.lists.insert(place, (0..1 + numbers.below(size)).map(|_| numbers.below(1_000)).collect());
        let entries = (0..1 + numbers.below(size)).map(|_| {
            let user_key = numbers.below(10_000);
            (user_key, format!("value {}", user_key % 77))
        });
        model.maps.insert(place, entries.collect());
        model.timers.insert((numbers.below(1_000) as i64, place.0, place.1));
    }
    model
}

/// Changes and removes a part of everything.
pub fn change(task: &mut Task, job: &Job, keys: u64, seed: u64) {
    let mut numbers = Numbers::new(seed);
    for place in places(keys) {
        if !task.owns(place.0) {
            continue;
        }
        let (key, hash) = (Scoped::new(place.0, place.1), job.hash(place));
        let states = &mut task.states;
        match numbers.below(4) {
            0 => {
                states.values.clear(hash, &key);
                states.lists.clear(hash, &key);
                states.maps.clear(hash, &key);
                states.maxima.clear(hash, &key);
                states.averages.clear(hash, &key);
            }
            1 => {
                states.values.set(0, hash, &key, 7);
                states.lists.add_all(0, hash, &key, 0..numbers.below(300));
                states.maps.retain(0, hash, &key, |user_key, _| user_key % 2 == 0);
                states.maxima.add(0, hash, &key, 5_000);
                states.averages.add(0, hash, &key, 1);
            }
            2 => {
                states.timers.register(&place.0, &place.1, -5);
                (0..5).for_each(|n| states.maps.put(0, hash, &key, &n, "new".into()));
            }
            _ => {}
        }
    }
    while task.states.timers.pop(300).is_some() {}
}

fn an_empty_task_has_an_empty_checkpoint(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut task = job.task(job.all());
    let segments = task.checkpoint(1);
    let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
    restored.content(places(10)).assert_is(&Model::default());
    // And one that has become empty again.
    task.fill(&sample(10, 1));
    task.checkpoint(2);
    for place in places(10) {
        let (key, hash) = (Scoped::new(place.0, place.1), job.hash(place));
        task.states.values.clear(hash, &key);
        task.states.lists.clear(hash, &key);
        task.states.maps.clear(hash, &key);
        task.states.maxima.clear(hash, &key);
        task.states.averages.clear(hash, &key);
    }
    while task.states.timers.pop(i64::MAX).is_some() {}
    for checkpoint in 3..6 {
        let segments = task.checkpoint(checkpoint);
        let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
        restored.content(places(10)).assert_is(&Model::default());
    }
}

fn a_state_that_is_never_touched_restores_empty_beside_others(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut task = job.task(job.all());
    let model = Model { lists: sample(100, 1).lists, ..Model::default() };
    task.fill(&model);
    let segments = task.checkpoint(1);
    let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
    restored.content(places(100)).assert_is(&model);
}

fn changes_and_reads_while_a_snapshot_is_written_are_not_in_it(kind: Kind) {
    let job = Job::new(kind, 128);
    for rows in [1, 20, 5_000] {
        let mut task = job.task(job.all());
        let model = sample(300, 1);
        task.fill(&model);
        let first = 1_000 * rows as u64;
        task.begin(first);
        let mut round = 0;
        while !task.advance(first, rows) {
            if round < 30 {
                change(&mut task, &job, 300, 7 + round);
                assert_eq!(
                    task.states.values.table().stats().keys,
                    task.content(places(300)).values.len() as u64
                );
                round += 1;
            }
        }
        let segments = task.finish(first);
        task.completed(first);
        let changed = task.content(places(300));
        assert_ne!(changed, model);
        let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
        restored.content(places(300)).assert_is(&model);
        let segments = task.checkpoint(first + 1);
        let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
        restored.content(places(300)).assert_is(&changed);
    }
}

fn several_snapshots_at_once_each_hold_the_state_at_their_begin(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut task = job.task(job.all());
    task.fill(&sample(200, 1));
    task.checkpoint(1);
    let mut begun = Vec::new();
    for checkpoint in 2..7 {
        change(&mut task, &job, 200, checkpoint);
        task.begin(checkpoint);
        begun.push((checkpoint, task.content(places(200))));
        (0..20).for_each(|_| _ = task.advance(checkpoint, 10));
    }
    // The second fails, the fourth completes before the third and fifth, and the last never ends.
    let mut written = Vec::new();
    for (checkpoint, model) in begun {
        written.push((task.finish(checkpoint), model));
    }
    task.aborted(3);
    task.completed(5);
    task.completed(4);
    for (segments, model) in &written {
        let mut restored = job.restore(job.all(), segments).expect("an intact checkpoint");
        restored.content(places(200)).assert_is(model);
    }
    change(&mut task, &job, 200, 99);
    let segments = task.checkpoint(7);
    let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
    restored.content(places(200)).assert_is(&task.content(places(200)));
}

fn cancelling_a_snapshot_frees_what_it_held(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut task = job.task(job.all());
    let model = sample(2_000, 1);
    task.fill(&model);
    task.checkpoint(1);
    // What one full round of changes under a completed snapshot takes.
    task.fill(&model);
    task.checkpoint(2);
    task.maintain();
    let settled = task.data_bytes();
    for checkpoint in 3..40 {
        task.begin(checkpoint);
        (0..checkpoint * 3).for_each(|_| _ = task.advance(checkpoint, 100));
        task.fill(&model);
        task.aborted(checkpoint);
        task.maintain();
        let held = task.data_bytes();
        assert!(held <= 2 * settled, "{held} bytes after {checkpoint} snapshots, {settled} before");
    }
    let segments = task.checkpoint(40);
    assert!(
        segments
            .iter()
            .all(|segment| ["seg-1-", "seg-2-", "seg-40-"].iter().any(|name| segment.path.contains(name))),
        "no checkpoint names a file of a cancelled one: {segments:?}"
    );
    let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
    assert_eq!(restored.content(places(2_000)), model);
}

fn a_restored_task_carries_on_incrementally(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut task = job.task(job.all());
    task.fill(&sample(500, 1));
    let mut segments = task.checkpoint(1);
    for checkpoint in 2..30 {
        change(&mut task, &job, 40, checkpoint);
        let model = task.content(places(500));
        segments = task.checkpoint(checkpoint);
        task = job.restore(job.all(), &segments).expect("an intact checkpoint");
        task.content(places(500)).assert_is(&model);
    }
    let own: u64 =
        segments.iter().filter(|segment| segment.path.contains("-29-")).map(|segment| segment.bytes).sum();
    let all: u64 = segments.iter().map(|segment| segment.bytes).sum();
    assert!(own * 2 < all, "{own} of {all} bytes are new, though few keys have changed");
}

fn a_savepoint_stands_alone_and_restores_into_either_backend(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut task = job.task(job.all());
    task.fill(&sample(300, 1));
    task.checkpoint(1);
    change(&mut task, &job, 300, 1);
    let model = task.content(places(300));
    task.begin_savepoint(2);
    task.advance(2, 10);
    change(&mut task, &job, 300, 2);
    let segments = task.finish(2);
    task.completed(2);
    assert!(segments.iter().all(|segment| segment.path.starts_with("shared/save-2-")));
    for into in KINDS {
        let mut restored = job.restore_as(into, job.all(), &segments).expect("an intact savepoint");
        restored.content(places(300)).assert_is(&model);
        change(&mut restored, &job, 300, 3);
        let changed = restored.content(places(300));
        let segments = restored.checkpoint(if into == Kind::Log { 10 } else { 11 });
        let mut again = job.restore_as(into, job.all(), &segments).expect("an intact checkpoint");
        again.content(places(300)).assert_is(&changed);
    }
    let model = task.content(places(300));
    let segments = task.checkpoint(3);
    let mut restored = job.restore(job.all(), &segments).expect("an intact checkpoint");
    restored.content(places(300)).assert_is(&model);
}

fn an_incremental_checkpoint_restores_into_either_backend(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut task = job.task(job.all());
    task.fill(&sample(300, 1));
    let mut segments = task.checkpoint(1);
    for checkpoint in 2..8 {
        change(&mut task, &job, 100, checkpoint);
        segments = task.checkpoint(checkpoint);
    }
    let model = task.content(places(300));
    for into in KINDS {
        let mut restored = job.restore_as(into, job.all(), &segments).expect("an intact checkpoint");
        restored.content(places(300)).assert_is(&model);
        change(&mut restored, &job, 300, 3);
        let changed = restored.content(places(300));
        let segments = restored.checkpoint(if into == Kind::Log { 10 } else { 11 });
        let mut again = job.restore_as(into, job.all(), &segments).expect("an intact checkpoint");
        again.content(places(300)).assert_is(&changed);
    }
}

for_each_backend!(
    an_empty_task_has_an_empty_checkpoint,
    a_state_that_is_never_touched_restores_empty_beside_others,
    changes_and_reads_while_a_snapshot_is_written_are_not_in_it,
    several_snapshots_at_once_each_hold_the_state_at_their_begin,
    cancelling_a_snapshot_frees_what_it_held,
    a_restored_task_carries_on_incrementally,
    a_savepoint_stands_alone_and_restores_into_either_backend,
    an_incremental_checkpoint_restores_into_either_backend,
);

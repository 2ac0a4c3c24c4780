//! Ten million random operations over 20 keys and 4 namespaces, under snapshots that begin, overlap, fail, complete and are
//! held for long: each is, when restored at any later time, what the reference was at its begin.

use crate::harness::{Job, Kind, Numbers, Q, Task};
use crate::model::{Model, Place};
use std::collections::{BTreeMap, BTreeSet};
use thalweg_storage::manifest::SegmentRef;
use thalweg_storage::state::Scoped;

const KEYS: u64 = 20;
const NAMESPACES: u64 = 4;
const OPERATIONS: u64 = 10_000_000;

/// Operations between two snapshots' begins, about.
const INTERVAL: u64 = 10_000;

/// A checkpoint that is retained, and what it has to restore.
struct Held {
    segments: Vec<SegmentRef>,
    model: Model,
}

/// A checkpoint that is under way.
struct Pending {
    id: u64,
    model: Model,
    written: Option<Vec<SegmentRef>>,
}

struct Run {
    job: Job,
    task: Task,
    model: Model,
    places: Vec<(Place, Q, u64)>,
    numbers: Numbers,
    next_id: u64,
    pending: Vec<Pending>,
    latest: Option<Vec<SegmentRef>>,
    held: Vec<Held>,
    restores: u64,
}

impl Run {
    fn new(kind: Kind) -> Self {
        let job = Job::new(kind, 128);
        let places = (0..KEYS).flat_map(|key| (0..NAMESPACES).map(move |namespace| (key, namespace)));
        let places = places.map(|place| (place, Scoped::new(place.0, place.1), job.hash(place))).collect();
        let task = job.task(job.all());
        Run {
            job,
            task,
            model: Model::default(),
            places,
            numbers: Numbers::new(42),
            next_id: 1,
            pending: Vec::new(),
            latest: None,
            held: Vec::new(),
            restores: 0,
        }
    }

    fn all_places() -> impl Iterator<Item = Place> {
        (0..KEYS).flat_map(|key| (0..NAMESPACES).map(move |namespace| (key, namespace)))
    }

    /// One operation of state and reference.
    fn operate(&mut self) {
        let (states, model) = (&mut self.task.states, &mut self.model);
        let numbers = &mut self.numbers;
        let at = numbers.below(KEYS * NAMESPACES) as usize;
        let (place, key, hash) = (self.places[at].0, &self.places[at].1, self.places[at].2);
        // Another namespace of the same key, to merge from.
        let other = &self.places[at / 4 * 4 + (at + 1) % 4];
        let number = numbers.below(1 << 40);
        match numbers.below(1_000) {
            0..150 => {
                states.values.set(0, hash, key, number);
                model.values.insert(place, number);
            }
            150..250 => {
                states.values.update(0, hash, key, || number, |value| *value ^= 1);
                *model.values.entry(place).or_insert(number) ^= 1;
            }
            250..300 => {
                states.values.clear(hash, key);
                model.values.remove(&place);
            }
            300..350 => assert_eq!(states.values.get(0, hash, key), model.values.get(&place).copied()),
            350..500 => {
                states.lists.add(0, hash, key, number);
                model.lists.entry(place).or_default().push(number);
            }
            500..505 => {
                states.lists.add_all(0, hash, key, number..number + 40);
                model.lists.entry(place).or_default().extend(number..number + 40);
            }
            505..508 => {
                states.lists.clear(hash, key);
                model.lists.remove(&place);
            }
            508..510 => {
                states.lists.update(0, hash, key, [number, 1]);
                model.lists.insert(place, vec![number, 1]);
            }
            510..511 => {
                states.lists.merge(0, (hash, key), [(other.2, &other.1)]);
                if let Some(mut moved) = model.lists.remove(&other.0) {
                    model.lists.entry(place).or_default().append(&mut moved);
                }
            }
            511..515 => {
                let list = states.lists.get(0, hash, key);
                assert_eq!(list, model.lists.get(&place).cloned().unwrap_or_default());
            }
            515..600 => {
                let (user_key, value) = (number % 80, "v".repeat((number >> 20) as usize % 24));
                states.maps.put(0, hash, key, &user_key, value.clone());
                model.maps.entry(place).or_default().insert(user_key, value);
            }
            600..650 => {
                let there =
                    model.maps.get_mut(&place).is_some_and(|map| map.remove(&(number % 80)).is_some());
                assert_eq!(states.maps.remove(hash, key, &(number % 80)), there);
                if model.maps.get(&place).is_some_and(BTreeMap::is_empty) {
                    model.maps.remove(&place);
                }
            }
            650..700 => {
                let expected = model.maps.get(&place).and_then(|map| map.get(&(number % 80)));
                assert_eq!(states.maps.get(0, hash, key, &(number % 80)).as_ref(), expected);
            }
            700..701 => {
                states.maps.retain(0, hash, key, |user_key, _| user_key % 5 != number % 5);
                if let Some(map) = model.maps.get_mut(&place) {
                    map.retain(|user_key, _| user_key % 5 != number % 5);
                    if map.is_empty() {
                        model.maps.remove(&place);
                    }
                }
            }
            701..702 => {
                states.maps.clear(hash, key);
                model.maps.remove(&place);
            }
            702..780 => {
                states.maxima.add(0, hash, key, number);
                let present = model.maxima.entry(place).or_insert(number);
                *present = number.max(*present);
            }
            780..790 => {
                states.maxima.clear(hash, key);
                model.maxima.remove(&place);
            }
            790..860 => {
                states.averages.add(0, hash, key, number);
                let (sum, count) = model.averages.entry(place).or_insert((0, 0));
                (*sum, *count) = (sum.wrapping_add(number), *count + 1);
            }
            860..870 => {
                states.averages.merge(0, (hash, key), [(other.2, &other.1)]);
                if let Some(moved) = model.averages.remove(&other.0) {
                    let (sum, count) = model.averages.entry(place).or_insert((0, 0));
                    (*sum, *count) = (sum.wrapping_add(moved.0), *count + moved.1);
                }
            }
            870..880 => {
                states.averages.clear(hash, key);
                model.averages.remove(&place);
            }
            880..930 => {
                let time = (number % 1_000) as i64;
                let new = model.timers.insert((time, place.0, place.1));
                assert_eq!(states.timers.register(&place.0, &place.1, time), new);
            }
            930..965 => {
                let time = (number % 1_000) as i64;
                let there = model.timers.remove(&(time, place.0, place.1));
                assert_eq!(states.timers.delete(&place.0, &place.1, time), there);
            }
            _ => {
                let time = (number % 20) as i64;
                let expected = model.timers.first().map(|timer| timer.0).filter(|first| *first <= time);
                let fired = states.timers.pop(time);
                assert_eq!(fired.as_ref().map(|timer| timer.time), expected);
                if let Some(timer) = fired {
                    assert!(model.timers.remove(&(timer.time, timer.key, timer.namespace)));
                }
            }
        }
    }

    /// Begins a snapshot, before or after earlier ones are written.
    fn begin(&mut self) {
        self.task.begin(self.next_id);
        self.pending.push(Pending { id: self.next_id, model: self.model.clone(), written: None });
        self.next_id += 1;
        // Those neither completed nor aborted may be many, but not ever more.
        if self.pending.len() > 6 {
            let given_up = self.pending.remove(0);
            self.task.aborted(given_up.id);
        }
    }

    /// Goes on writing one of the snapshots, and decides the fate of one that is written.
    fn advance(&mut self) {
        let Some(at) = self.pending.iter().position(|pending| pending.written.is_none()) else { return };
        let id = self.pending[at].id;
        match self.numbers.below(40) {
            0 => {
                self.pending.remove(at);
                self.task.aborted(id);
            }
            _ if self.task.advance(id, 200) => {
                self.pending[at].written = Some(self.task.finish(id));
                self.decide();
            }
            _ => {}
        }
    }

    /// Completes, aborts or leaves a written snapshot.
    fn decide(&mut self) {
        let written: Vec<usize> =
            (0..self.pending.len()).filter(|at| self.pending[*at].written.is_some()).collect();
        let at = written[self.numbers.below(written.len() as u64) as usize];
        match self.numbers.below(10) {
            0 => {
                let aborted = self.pending.remove(at);
                self.task.aborted(aborted.id);
            }
            1 | 2 => {}
            _ => {
                let completed = self.pending.remove(at);
                self.task.completed(completed.id);
                // Those begun before are superseded.
                self.pending.retain(|pending| pending.id > completed.id);
                let segments = completed.written.expect("only written ones are chosen");
                self.latest = Some(segments.clone());
                self.held.push(Held { segments, model: completed.model });
                self.release();
            }
        }
    }

    /// Checks and releases held checkpoints beyond the fourth, at random, and removes the files that nobody needs.
    fn release(&mut self) {
        while self.held.len() > 4 {
            let at = self.numbers.below(self.held.len() as u64) as usize;
            let released = self.held.swap_remove(at);
            if self.numbers.below(4) == 0 {
                self.check(&released);
            }
        }
        let named: BTreeSet<&str> = (self.held.iter().map(|held| &held.segments))
            .chain(&self.latest)
            .chain(self.pending.iter().filter_map(|pending| pending.written.as_ref()))
            .flat_map(|segments| segments.iter().map(|segment| segment.path.as_str()))
            .collect();
        for entry in std::fs::read_dir(self.job.path.join("shared")).expect("the directory is there") {
            let name = entry.expect("a readable entry").file_name();
            let path = format!("shared/{}", name.to_string_lossy());
            let being_written =
                self.pending.iter().any(|pending| path.starts_with(&format!("shared/seg-{}-", pending.id)));
            if !being_written && !named.contains(path.as_str()) {
                std::fs::remove_file(self.job.path.join(path)).expect("a file of the test's own");
            }
        }
    }

    fn check(&mut self, held: &Held) {
        let mut restored = self.job.restore(self.job.all(), &held.segments).expect("an intact checkpoint");
        restored.content(Run::all_places()).assert_is(&held.model);
        self.restores += 1;
    }
}

fn snapshots_are_isolated_from_ten_million_operations(kind: Kind) {
    let mut run = Run::new(kind);
    for operation in 1..=OPERATIONS {
        run.operate();
        if operation.is_multiple_of(40) {
            run.advance();
        }
        if run.numbers.below(INTERVAL) == 0 {
            run.begin();
        }
        if operation.is_multiple_of(1_000) {
            run.task.maintain();
        }
        if operation.is_multiple_of(OPERATIONS / 20) {
            run.task.content(Run::all_places()).assert_is(&run.model);
        }
    }
    for held in std::mem::take(&mut run.held) {
        run.check(&held);
    }
    assert!(run.next_id > 900 && run.restores > 90, "{} snapshots, {} restores", run.next_id, run.restores);
}

for_each_backend!(snapshots_are_isolated_from_ten_million_operations);

//! Jobs without an engine: tasks that own key groups and hold one state of each kind, and a directory of segments.

use crate::model::{Model, Place};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use thalweg_storage::io::{DiskHandle, StdDisk};
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::log::LogOptions;
use thalweg_storage::manifest::{KeyedStateMeta, SegmentRef};
use thalweg_storage::snapshot::{KeyedSnapshots, Step, Tables};
use thalweg_storage::state::{
    Aggregate, AggregatingStates, ListStates, MapStates, ReducingStates, Scoped, TimerQueue, ValueStates,
};
use thalweg_storage::table::{Backend, StateTable};
use thalweg_storage::{AttemptId, CheckpointId, Data, StoreError};

/// The backends that a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    HashMap,
    Log,
}

/// Both backends.
pub const KINDS: [Kind; 2] = [Kind::HashMap, Kind::Log];

/// A key with its namespace.
pub type Q = Scoped<u64, u64>;

/// One job: its directory, its key groups and what its tasks keep state in.
pub struct Job {
    _dir: TempDir,
    pub path: PathBuf,
    pub disk: DiskHandle,
    pub groups: KeyGroups,
    pub kind: Kind,
}

impl Job {
    pub fn new(kind: Kind, max_parallelism: u16) -> Self {
        let dir = TempDir::new().expect("a directory for the test");
        let disk = DiskHandle::new(StdDisk::start(1).expect("a thread for the disk"));
        std::fs::create_dir(dir.path().join("shared")).expect("a directory for segments");
        let (path, groups) = (dir.path().to_owned(), KeyGroups::new(max_parallelism));
        Job { _dir: dir, path, disk, groups, kind }
    }

    /// What tables are made with.
    pub fn backend(&self) -> Backend {
        self.backend_of(self.kind)
    }

    pub fn backend_of(&self, kind: Kind) -> Backend {
        match kind {
            Kind::HashMap => Backend::HashMap,
            Kind::Log => {
                let mut options = LogOptions::default();
                options.disk = Some(self.disk.clone());
                options.job_dir = Some(self.path.clone());
                Backend::Log(options)
            }
        }
    }

    /// All key groups.
    pub fn all(&self) -> Range<KeyGroup> {
        0..self.groups.count()
    }

    /// The hash of a place, by which every kind of state finds it.
    pub fn hash(&self, place: Place) -> u64 {
        Scoped::new(place.0, place.1).group_hash(self.groups)
    }

    /// A task without state that owns `range`.
    pub fn task(&self, range: Range<KeyGroup>) -> Task {
        Task::new(self.backend(), self.groups, range, &self.path)
    }

    /// A task that owns everything, of other states.
    pub fn task_of<S: Tables>(&self, states: S) -> Task<S> {
        Task::with_states(states, self.groups, self.all(), &self.path)
    }

    /// A task that owns `range` and has restored what `segments` hold of it.
    pub fn restore(&self, range: Range<KeyGroup>, segments: &[SegmentRef]) -> Result<Task, StoreError> {
        self.restore_as(self.kind, range, segments)
    }

    /// As [`Job::restore`], with a backend of choice.
    pub fn restore_as(
        &self,
        kind: Kind,
        range: Range<KeyGroup>,
        segments: &[SegmentRef],
    ) -> Result<Task, StoreError> {
        let mut task = Task::new(self.backend_of(kind), self.groups, range, &self.path);
        let metas = metas(&mut task.states);
        task.snapshots.restore(&self.disk, &self.path, segments, &metas, &mut task.states)?;
        Ok(task)
    }
}

/// The states of `tables`, as a manifest lists them.
pub fn metas(tables: &mut dyn Tables) -> Vec<KeyedStateMeta> {
    (0..tables.count()).map(|i| tables.table(i).meta()).collect()
}

/// Mean of what was added.
#[derive(Clone, Copy, Debug)]
pub struct Average;

impl Aggregate for Average {
    type Input = u64;
    type Accumulator = (u64, u64);
    type Output = (u64, u64);

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }

    fn add(&self, (sum, count): &mut (u64, u64), input: u64) {
        *sum = sum.wrapping_add(input);
        *count += 1;
    }

    /// The accumulator as it is, so that nothing hides in a rounded mean.
    fn result(&self, accumulator: &(u64, u64)) -> (u64, u64) {
        *accumulator
    }

    fn merge(&self, (sum, count): &mut (u64, u64), other: (u64, u64)) {
        *sum = sum.wrapping_add(other.0);
        *count += other.1;
    }
}

/// Keeps the greater one.
pub fn greater(present: &mut u64, value: u64) {
    *present = value.max(*present);
}

/// One state of each kind.
pub struct States {
    pub values: ValueStates<Q, u64>,
    pub lists: ListStates<Q, u64>,
    pub maps: MapStates<Q, u64, String>,
    pub maxima: ReducingStates<Q, u64, fn(&mut u64, u64)>,
    pub averages: AggregatingStates<Q, Average>,
    pub timers: TimerQueue<u64, u64>,
}

impl States {
    pub fn new(backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self {
        let range = || range.clone();
        States {
            values: ValueStates::new(backend, "values", groups, range()),
            lists: ListStates::new(backend, "lists", groups, range()),
            maps: MapStates::new(backend, "maps", groups, range()),
            maxima: ReducingStates::new(backend, "maxima", groups, range(), greater),
            averages: AggregatingStates::new(backend, "averages", groups, range(), Average),
            timers: TimerQueue::new("timers", groups, range()),
        }
    }
}

impl Tables for States {
    fn count(&self) -> usize {
        6
    }

    fn table(&mut self, index: usize) -> &mut dyn StateTable {
        match index {
            0 => self.values.table(),
            1 => self.lists.table(),
            2 => self.maps.table(),
            3 => self.maxima.table(),
            4 => self.averages.table(),
            _ => self.timers.table(),
        }
    }
}

/// A single table.
pub struct One<'a>(pub &'a mut dyn StateTable);

impl Tables for One<'_> {
    fn count(&self) -> usize {
        1
    }

    fn table(&mut self, _: usize) -> &mut dyn StateTable {
        self.0
    }
}

/// Tables and their snapshots; segment files are written below a job's directory.
pub struct Task<S = States> {
    pub states: S,
    pub snapshots: KeyedSnapshots,
    pub groups: KeyGroups,
    pub range: Range<KeyGroup>,
    dir: PathBuf,
}

impl Task {
    fn new(backend: Backend, groups: KeyGroups, range: Range<KeyGroup>, dir: &Path) -> Self {
        Task::with_states(States::new(&backend, groups, range.clone()), groups, range, dir)
    }

    /// True for keys of the task.
    pub fn owns(&self, key: u64) -> bool {
        self.range.contains(&self.groups.group_of(key.key_hash()))
    }

    /// Everything that the states hold at `places`, and all timers; fails if a table holds anything else.
    pub fn content(&mut self, places: impl IntoIterator<Item = Place>) -> Model {
        let mut model = Model::default();
        let states = &mut self.states;
        for place in places {
            let key = Scoped::new(place.0, place.1);
            let hash = key.group_hash(self.groups);
            model.values.extend(states.values.get(0, hash, &key).map(|value| (place, value)));
            let list = states.lists.get(0, hash, &key);
            assert_eq!(states.lists.is_empty(0, hash, &key), list.is_empty());
            model.lists.extend((!list.is_empty()).then_some((place, list)));
            let entries = states.maps.entries(0, hash, &key);
            assert_eq!(states.maps.len(0, hash, &key), entries.len() as u64);
            let map: BTreeMap<u64, String> = entries.iter().cloned().collect();
            assert_eq!(map.len(), entries.len(), "each user key once");
            model.maps.extend((!map.is_empty()).then_some((place, map)));
            model.maxima.extend(states.maxima.get(0, hash, &key).map(|value| (place, value)));
            model.averages.extend(states.averages.get(0, hash, &key).map(|value| (place, value)));
        }
        states.timers.for_each(|key, namespace, time| {
            assert!(model.timers.insert((time, *key, *namespace)), "each timer once");
        });
        assert_eq!(states.values.table().stats().keys, model.values.len() as u64, "values elsewhere");
        assert_eq!(states.maxima.table().stats().keys, model.maxima.len() as u64, "reductions elsewhere");
        assert_eq!(states.averages.table().stats().keys, model.averages.len() as u64, "aggregates elsewhere");
        model
    }

    /// Stores everything of `model` whose keys the task owns.
    pub fn fill(&mut self, model: &Model) {
        let part = model.of_keys(|key| self.owns(key));
        let states = &mut self.states;
        let at = |place: &Place| {
            let key = Scoped::new(place.0, place.1);
            (key.group_hash(self.groups), key)
        };
        for (place, value) in part.values {
            let (hash, key) = at(&place);
            states.values.set(0, hash, &key, value);
        }
        for (place, list) in part.lists {
            let (hash, key) = at(&place);
            states.lists.update(0, hash, &key, list);
        }
        for (place, map) in part.maps {
            let (hash, key) = at(&place);
            map.into_iter().for_each(|(user_key, value)| states.maps.put(0, hash, &key, &user_key, value));
        }
        for (place, value) in part.maxima {
            let (hash, key) = at(&place);
            states.maxima.add(0, hash, &key, value);
        }
        for (place, (sum, count)) in part.averages {
            let (hash, key) = at(&place);
            if states.averages.get(0, hash, &key) == Some((sum, count)) {
                continue;
            }
            states.averages.clear(hash, &key);
            (1..count).for_each(|_| states.averages.add(0, hash, &key, 0));
            states.averages.add(0, hash, &key, sum);
        }
        part.timers.iter().for_each(|(time, key, namespace)| {
            states.timers.register(key, namespace, *time);
        });
    }
}

impl<S: Tables> Task<S> {
    pub fn with_states(states: S, groups: KeyGroups, range: Range<KeyGroup>, dir: &Path) -> Self {
        let snapshots = KeyedSnapshots::new(range.clone(), true, 1);
        Task { states, snapshots, groups, range, dir: dir.to_owned() }
    }

    /// Begins the snapshot of a checkpoint.
    pub fn begin(&mut self, checkpoint: u64) {
        let path = format!("shared/seg-{checkpoint}-{}", self.range.start);
        self.snapshots.begin(CheckpointId(checkpoint), AttemptId(1), path, &mut self.states);
    }

    /// Begins a savepoint.
    pub fn begin_savepoint(&mut self, checkpoint: u64) {
        let path = format!("shared/save-{checkpoint}-{}", self.range.start);
        self.snapshots.begin_savepoint(CheckpointId(checkpoint), AttemptId(1), path, &mut self.states);
    }

    /// One step; true when nothing is left.
    pub fn advance(&mut self, checkpoint: u64, rows: usize) -> bool {
        match self.snapshots.advance(CheckpointId(checkpoint), &mut self.states, rows) {
            Step::Bytes { path, bytes, .. } => {
                use std::io::Write;
                let path = self.dir.join(&*path);
                let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
                file.and_then(|mut file| file.write_all(&bytes)).expect("the test's directory takes files");
                false
            }
            Step::More | Step::Waits => false,
            Step::Done => true,
        }
    }

    /// Writes what is left of a snapshot; the segments that hold it.
    pub fn finish(&mut self, checkpoint: u64) -> Vec<SegmentRef> {
        while !self.advance(checkpoint, 1_000) {}
        self.snapshots.segments(CheckpointId(checkpoint)).list()
    }

    pub fn completed(&mut self, checkpoint: u64) {
        self.snapshots.completed(CheckpointId(checkpoint), &mut self.states);
    }

    pub fn aborted(&mut self, checkpoint: u64) {
        self.snapshots.aborted(CheckpointId(checkpoint), &mut self.states);
    }

    /// Takes and completes a checkpoint; the segments that hold it.
    pub fn checkpoint(&mut self, checkpoint: u64) -> Vec<SegmentRef> {
        self.begin(checkpoint);
        let segments = self.finish(checkpoint);
        self.completed(checkpoint);
        segments
    }

    /// Takes a savepoint; the segments that hold it.
    pub fn savepoint(&mut self, checkpoint: u64) -> Vec<SegmentRef> {
        self.begin_savepoint(checkpoint);
        let segments = self.finish(checkpoint);
        self.completed(checkpoint);
        segments
    }

    /// Does all upkeep there is.
    pub fn maintain(&mut self) {
        for i in 0..self.states.count() {
            while self.states.table(i).maintain(64).expect("an intact disk") {}
        }
    }

    /// Bytes that all tables keep in memory for rows.
    pub fn data_bytes(&mut self) -> u64 {
        (0..self.states.count()).map(|i| self.states.table(i).stats().data_bytes).sum()
    }
}

/// Numbers without pattern, the same in every run.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number below `end` (xorshift64*, Vigna 2016).
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((u128::from(number) * u128::from(end)) >> 64) as u64
    }
}

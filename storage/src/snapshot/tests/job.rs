//! A job of several tasks with tables of any kind, whose checkpoints go to a disk in memory.

use super::*;
use crate::codec::DecodeError;
use crate::codec::Schema;
use crate::log::LogOptions;
use crate::segment::{BlockPlace, Migration, Rows};
use crate::table::{Backend, KeyedTable, SegmentPaths, Written};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// A table of numbers, of any kind.
pub(super) trait Numbers {
    fn set(&mut self, key: u64, value: u64);
    fn remove(&mut self, key: u64);
    fn content(&mut self) -> BTreeMap<u64, u64>;
    fn untyped(&mut self) -> &mut dyn StateTable;
}

/// Makes a table.
pub(super) type Make = fn(&str, KeyGroups, Range<KeyGroup>) -> Box<dyn Numbers>;

pub(super) fn hash_table(name: &str, all: KeyGroups, groups: Range<KeyGroup>) -> Box<dyn Numbers> {
    Box::new(ValueTable::<u64, u64>::new(name, all, groups))
}

impl Numbers for ValueTable<u64, u64> {
    fn set(&mut self, key: u64, value: u64) {
        self.insert(key.key_hash(), &key, value);
    }

    fn remove(&mut self, key: u64) {
        ValueTable::remove(self, key.key_hash(), &key);
    }

    fn content(&mut self) -> BTreeMap<u64, u64> {
        let mut content = BTreeMap::new();
        self.for_each(|key, value| _ = content.insert(*key, *value));
        content
    }

    fn untyped(&mut self) -> &mut dyn StateTable {
        self
    }
}

impl Numbers for KeyedTable<u64, u64> {
    fn set(&mut self, key: u64, value: u64) {
        self.insert(key.key_hash(), &key, value);
    }

    fn remove(&mut self, key: u64) {
        KeyedTable::remove(self, key.key_hash(), &key);
    }

    fn content(&mut self) -> BTreeMap<u64, u64> {
        let mut content = BTreeMap::new();
        self.for_each(|key, value| assert!(content.insert(*key, *value).is_none(), "each key once"));
        content
    }

    fn untyped(&mut self) -> &mut dyn StateTable {
        KeyedTable::untyped(self)
    }
}

pub(super) fn log_table(name: &str, all: KeyGroups, groups: Range<KeyGroup>) -> Box<dyn Numbers> {
    Box::new(KeyedTable::<u64, u64>::new(&Backend::Log(LogOptions::default()), name, all, groups))
}

/// The simplest of log-structured tables: it knows for each key which segment has its latest word, and forgets a
/// tombstone as soon as it names no older segment.
pub(super) struct Logged {
    name: String,
    all: KeyGroups,
    groups: Range<KeyGroup>,
    /// Value or tombstone of each key, and where that is; nowhere while it is dirty.
    rows: BTreeMap<u64, (Option<u64>, Option<Arc<str>>)>,
    /// Segments with blocks of this table, oldest first.
    named: Vec<Arc<str>>,
    epoch: u64,
    /// What the snapshot of an epoch holds: its rows, by group, and whether all of them as bases.
    pending: Vec<Snapshot>,
    /// Moves rows out of the oldest segment at each snapshot.
    compacts: bool,
}

/// Rows of a key group; a tombstone has no value.
type OfGroup = (KeyGroup, Vec<(u64, Option<u64>)>);

struct Snapshot {
    epoch: u64,
    state: u16,
    base: bool,
    rows: Vec<OfGroup>,
    next: usize,
    paths: Vec<Arc<str>>,
}

impl Logged {
    pub(super) fn new(name: &str, all: KeyGroups, groups: Range<KeyGroup>, compacts: bool) -> Self {
        Logged {
            name: name.into(),
            all,
            groups,
            rows: BTreeMap::new(),
            named: Vec::new(),
            epoch: 0,
            pending: Vec::new(),
            compacts,
        }
    }

    fn apply(&mut self, group: KeyGroup, rows: &Rows, place: Option<Arc<str>>) -> Result<(), DecodeError> {
        for row in 0..rows.len() {
            let (mut key, value) = rows.get(row);
            let key = u64::decode(&mut key)?;
            assert_eq!(self.all.group_of(key.key_hash()), group);
            assert!(self.groups.contains(&group));
            let value = value.map(|mut bytes| u64::decode(&mut bytes)).transpose()?;
            self.rows.insert(key, (value, place.clone()));
        }
        Ok(())
    }

    /// Names only segments that have the latest word of some key, and drops tombstones that nothing old needs.
    fn tidy(&mut self) {
        let live: HashSet<Arc<str>> = self.rows.values().filter_map(|(_, place)| place.clone()).collect();
        self.named.retain(|path| live.contains(path));
        let oldest = self.named.first().cloned();
        self.rows.retain(|_, (value, place)| value.is_some() || place.is_none() || *place != oldest);
        let live: HashSet<Arc<str>> = self.rows.values().filter_map(|(_, place)| place.clone()).collect();
        self.named.retain(|path| live.contains(path));
    }
}

pub(super) fn logged(name: &str, all: KeyGroups, groups: Range<KeyGroup>) -> Box<dyn Numbers> {
    Box::new(Logged::new(name, all, groups, false))
}

pub(super) fn compacting(name: &str, all: KeyGroups, groups: Range<KeyGroup>) -> Box<dyn Numbers> {
    Box::new(Logged::new(name, all, groups, true))
}

impl Numbers for Logged {
    fn set(&mut self, key: u64, value: u64) {
        self.rows.insert(key, (Some(value), None));
    }

    fn remove(&mut self, key: u64) {
        if self.rows.contains_key(&key) {
            self.rows.insert(key, (None, None));
        }
    }

    fn content(&mut self) -> BTreeMap<u64, u64> {
        self.rows.iter().filter_map(|(key, (value, _))| Some((*key, (*value)?))).collect()
    }

    fn untyped(&mut self) -> &mut dyn StateTable {
        self
    }
}

impl StateTable for Logged {
    fn meta(&self) -> KeyedStateMeta {
        KeyedStateMeta { name: self.name.clone(), key: u64::schema(), value: u64::schema() }
    }

    fn key_groups(&self) -> KeyGroups {
        self.all
    }

    fn groups(&self) -> Range<KeyGroup> {
        self.groups.clone()
    }

    fn begin_snapshot(&mut self, state: u16, plan: &[GroupPlan]) -> u64 {
        let base = plan.contains(&GroupPlan::Base);
        assert!(plan.iter().all(|plan| *plan == if base { GroupPlan::Base } else { GroupPlan::Delta }));
        if self.compacts && !base && self.named.len() > 2 {
            let victim = self.named[0].clone();
            self.rows
                .values_mut()
                .filter(|(_, place)| *place == Some(victim.clone()))
                .for_each(|row| row.1 = None);
        }
        self.tidy();
        self.epoch += 1;
        let mut rows: Vec<OfGroup> = self.groups.clone().map(|group| (group, Vec::new())).collect();
        for (key, (value, place)) in &self.rows {
            if if base { value.is_some() } else { place.is_none() } {
                let group = self.all.group_of(key.key_hash());
                rows[usize::from(group - self.groups.start)].1.push((*key, *value));
            }
        }
        let epoch = self.epoch;
        self.pending.push(Snapshot { epoch, state, base, rows, next: 0, paths: Vec::new() });
        epoch
    }

    fn advance_snapshot(&mut self, out: &mut SegmentBuilder, _: usize) -> Written {
        let Some(snapshot) = self.pending.last_mut() else { return Written::Done };
        let Some((group, rows)) = snapshot.rows.get(snapshot.next) else { return Written::Done };
        snapshot.next += 1;
        let mut encoded = Rows::new(Some(8), Some(8));
        rows.iter().for_each(|(key, value)| encoded.push(key, value.as_ref()));
        if rows.is_empty() {
            return Written::More;
        }
        if snapshot.base {
            assert_eq!(
                out.block(snapshot.state, *group, BlockKind::Base, &encoded, 0..rows.len()),
                rows.len()
            );
        } else {
            let place = out.page(snapshot.state, *group, &encoded);
            snapshot.paths.push(place.segment);
        }
        Written::Groups
    }

    fn completed(&mut self, epoch: u64) {
        let at = self.pending.iter().position(|snapshot| snapshot.epoch == epoch).expect("it is pending");
        let snapshot = self.pending.drain(..=at).next_back().expect("it is there");
        let written = snapshot.rows.iter().filter(|(_, rows)| !rows.is_empty());
        for ((_, rows), path) in written.zip(&snapshot.paths) {
            for (key, value) in rows {
                // What has changed since stays dirty.
                if let Some((now, place)) = self.rows.get_mut(key)
                    && now == value
                {
                    *place = Some(path.clone());
                }
            }
        }
        self.named.extend(snapshot.paths);
        self.named.dedup();
    }

    fn aborted(&mut self, epoch: u64) {
        self.pending.retain(|snapshot| snapshot.epoch != epoch);
    }

    fn is_log_structured(&self) -> bool {
        true
    }

    fn segments_needed(&self) -> SegmentPaths {
        self.named.iter().cloned().collect()
    }

    fn migration(&self, stored: &Schema) -> Option<Migration> {
        Migration::of::<u64, u64>(stored)
    }

    fn restore_rows(&mut self, group: KeyGroup, rows: &Rows) -> Result<(), DecodeError> {
        self.apply(group, rows, None)
    }

    fn restore_block(&mut self, group: KeyGroup, rows: &Rows, place: &BlockPlace) -> Result<(), DecodeError> {
        self.apply(group, rows, Some(place.segment.clone()))?;
        if self.named.last() != Some(&place.segment) {
            self.named.push(place.segment.clone());
        }
        Ok(())
    }

    fn restored(&mut self) {
        self.tidy();
    }

    fn detach(&mut self) {
        self.rows.values_mut().for_each(|(_, place)| *place = None);
        self.named.clear();
    }

    fn stats(&self) -> crate::table::TableStats {
        crate::table::TableStats::default()
    }
}

/// One subtask of a job.
pub(super) struct Subtask {
    pub tables: Vec<Box<dyn Numbers>>,
    pub snapshots: KeyedSnapshots,
    pub groups: Range<KeyGroup>,
    index: u32,
    attempt: u64,
}

pub(super) struct All<'a>(pub &'a mut [Box<dyn Numbers>]);

impl Tables for All<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn table(&mut self, index: usize) -> &mut dyn StateTable {
        self.0[index].untyped()
    }
}

/// Names of the states, in the order of the tables.
pub(super) const STATES: [&str; 2] = ["a", "b"];

impl Subtask {
    fn new(makes: [Make; 2], all: KeyGroups, index: u32, parallelism: u32) -> Self {
        let groups = all.range_of(index, parallelism);
        let tables = STATES.iter().zip(makes).map(|(name, make)| make(name, all, groups.clone())).collect();
        Subtask { tables, snapshots: KeyedSnapshots::new(groups.clone(), true, 1), groups, index, attempt: 1 }
    }

    pub(super) fn begin(&mut self, checkpoint: u64, savepoint: bool) {
        let path = format!("shared/seg-a{}-c{checkpoint}-0-{}", self.attempt, self.index);
        let (id, attempt, tables) =
            (CheckpointId(checkpoint), AttemptId(self.attempt), &mut All(&mut self.tables));
        if savepoint {
            self.snapshots.begin_savepoint(id, attempt, path, tables);
        } else {
            self.snapshots.begin(id, attempt, path, tables);
        }
    }

    /// Writes all of a begun snapshot to the disk; its own files, and the segments.
    pub(super) fn write(&mut self, checkpoint: u64, disk: &MemoryDisk) -> (Vec<String>, Vec<SegmentRef>) {
        let mut own: Vec<String> = Vec::new();
        let mut ended = true;
        loop {
            match self.snapshots.advance(CheckpointId(checkpoint), &mut All(&mut self.tables), 500) {
                Step::More | Step::Waits => {}
                Step::Bytes { path, bytes, complete } => {
                    let mut files = disk.files.lock().expect("no test panics with it");
                    let file = files.entry(Path::new("/job").join(&*path)).or_default();
                    assert_eq!(ended, file.is_empty(), "one file after the other");
                    if ended {
                        own.push(path.to_string());
                    }
                    assert_eq!(own.last().map(String::as_str), Some(&*path));
                    file.extend_from_slice(&bytes);
                    ended = complete;
                }
                Step::Done => break,
            }
        }
        assert!(ended, "the last file is complete");
        (own, self.snapshots.segments(CheckpointId(checkpoint)).list())
    }

    pub(super) fn completed(&mut self, checkpoint: u64) {
        self.snapshots.completed(CheckpointId(checkpoint), &mut All(&mut self.tables));
    }

    pub(super) fn aborted(&mut self, checkpoint: u64) {
        self.snapshots.aborted(CheckpointId(checkpoint), &mut All(&mut self.tables));
    }

    pub(super) fn detach(&mut self) {
        self.snapshots.detach(&mut All(&mut self.tables));
    }

    pub(super) fn metas(&mut self) -> Vec<KeyedStateMeta> {
        self.tables.iter_mut().map(|table| table.untyped().meta()).collect()
    }

    pub(super) fn restore(&mut self, disk: &DiskHandle, segments: &[SegmentRef]) -> Result<(), StoreError> {
        let metas = self.metas();
        self.snapshots.restore(disk, Path::new("/job"), segments, &metas, &mut All(&mut self.tables))
    }
}

/// All subtasks of a job, and what they should hold.
pub(super) struct Job {
    pub subtasks: Vec<Subtask>,
    pub model: [BTreeMap<u64, u64>; 2],
    pub disk: Arc<MemoryDisk>,
    all: KeyGroups,
    next: u64,
}

impl Job {
    pub(super) fn new(makes: [Make; 2], groups: u16, parallelism: u32) -> Self {
        let all = KeyGroups::new(groups);
        let subtasks = (0..parallelism).map(|i| Subtask::new(makes, all, i, parallelism)).collect();
        Job { subtasks, model: Default::default(), disk: Arc::default(), all, next: 1 }
    }

    pub(super) fn handle(&self) -> DiskHandle {
        DiskHandle::new(Arc::clone(&self.disk) as Arc<dyn Disk>)
    }

    fn owner(&mut self, key: u64) -> &mut Subtask {
        let group = self.all.group_of(key.key_hash());
        self.subtasks
            .iter_mut()
            .find(|subtask| subtask.groups.contains(&group))
            .expect("every group has an owner")
    }

    pub(super) fn set(&mut self, state: usize, key: u64, value: u64) {
        self.owner(key).tables[state].set(key, value);
        self.model[state].insert(key, value);
    }

    pub(super) fn remove(&mut self, state: usize, key: u64) {
        self.owner(key).tables[state].remove(key);
        self.model[state].remove(&key);
    }

    /// Takes a checkpoint, or a savepoint; what each subtask lists.
    pub(super) fn checkpoint(&mut self, savepoint: bool) -> Vec<SegmentRef> {
        let checkpoint = self.next;
        self.next += 1;
        let mut listed = Vec::new();
        for subtask in &mut self.subtasks {
            subtask.begin(checkpoint, savepoint);
            listed.extend(subtask.write(checkpoint, &self.disk).1);
        }
        self.subtasks.iter_mut().for_each(|subtask| subtask.completed(checkpoint));
        listed
    }

    /// The job as it starts anew from `segments`, with tables and parallelism of its own. What it should hold is what this one
    /// holds.
    pub(super) fn restored(&self, makes: [Make; 2], parallelism: u32, segments: &[SegmentRef]) -> Job {
        let mut job = Job::new(makes, self.all.count(), parallelism);
        job.disk = Arc::clone(&self.disk);
        job.next = self.next;
        job.model = self.model.clone();
        let disk = job.handle();
        // Each attempt writes files of its own.
        static ATTEMPTS: AtomicU64 = AtomicU64::new(2);
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        for subtask in &mut job.subtasks {
            subtask.attempt = attempt;
            subtask.restore(&disk, segments).expect("an intact checkpoint");
        }
        job
    }

    /// Every subtask holds exactly what it should.
    pub(super) fn check(&mut self) {
        for subtask in &mut self.subtasks {
            for (state, table) in subtask.tables.iter_mut().enumerate() {
                let own = self.model[state].iter();
                let own = own.filter(|(key, _)| subtask.groups.contains(&self.all.group_of(key.key_hash())));
                let own: BTreeMap<u64, u64> = own.map(|(key, value)| (*key, *value)).collect();
                assert_eq!(table.content(), own, "state {state} of groups {:?}", subtask.groups);
            }
        }
    }
}

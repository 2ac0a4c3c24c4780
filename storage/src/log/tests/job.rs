//! A table with the files of its checkpoints beside it and a hash map as its model, driven through all that may happen to it.

use crate::codec::Data;
use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::log::compaction::Limits;
use crate::log::{LogOptions, LogTable};
use crate::segment::{BlockPlace, SegmentBuilder, SegmentReader};
use crate::table::{GroupPlan, StateTable, ValueTable, Written};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;

/// A type with a value for each number, not all of them different.
pub trait Sample: Data + Eq + Hash + Debug {
    fn sample(number: u32) -> Self;
}

impl Sample for u64 {
    fn sample(number: u32) -> Self {
        u64::from(number)
    }
}

impl Sample for u8 {
    fn sample(number: u32) -> Self {
        number as u8
    }
}

impl Sample for String {
    fn sample(number: u32) -> Self {
        "x".repeat(number as usize % 7) + &number.to_string()
    }
}

/// Mostly short, but some are larger than a page.
impl Sample for Vec<u8> {
    fn sample(number: u32) -> Self {
        let bytes = if number.is_multiple_of(97) { 20_000 } else { number % 90 };
        (0..bytes).map(|i| (i ^ number) as u8).collect()
    }
}

/// A key with the worst of hash functions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Same(pub u64);

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
        // Two hashes whose tags are those that mark entries without a row.
        if self.0.is_multiple_of(2) { 0 } else { 1 << 38 }
    }
}

impl Sample for Same {
    fn sample(number: u32) -> Self {
        Same(u64::from(number))
    }
}

/// A snapshot from its begin on.
struct Shot<K, V> {
    id: u64,
    epoch: u64,
    expected: HashMap<K, V>,
    needed: Vec<Arc<str>>,
    own: Vec<Arc<str>>,
    builder: Option<SegmentBuilder>,
    full: bool,
}

/// A completed checkpoint.
pub struct Completed<K, V> {
    pub segments: Vec<Arc<str>>,
    pub expected: HashMap<K, V>,
    pub bases: bool,
}

pub struct Job<K: Sample, V: Sample> {
    pub table: LogTable<K, V>,
    pub model: HashMap<K, V>,
    /// By path, with the order in which they were begun.
    pub files: HashMap<Arc<str>, (u64, Vec<u8>)>,
    shots: Vec<Shot<K, V>>,
    pub latest: Option<Completed<K, V>>,
    pub groups: KeyGroups,
    range: std::ops::Range<KeyGroup>,
    /// With a disk and a directory on it, files are written there too.
    options: LogOptions,
    next_id: u64,
    next_file: u64,
}

impl<K: Sample, V: Sample> Job<K, V> {
    pub fn new(groups: u16) -> Self {
        Self::with(groups, LogOptions::default())
    }

    pub fn with(groups: u16, options: LogOptions) -> Self {
        let key_groups = KeyGroups::new(groups);
        Job {
            table: small_table(key_groups, 0..groups, options.clone()),
            model: HashMap::new(),
            files: HashMap::new(),
            shots: Vec::new(),
            latest: None,
            groups: key_groups,
            range: 0..groups,
            options,
            next_id: 1,
            next_file: 1,
        }
    }

    pub fn put(&mut self, key: K, value: V) {
        self.table.insert(key.key_hash(), &key, value.clone());
        self.model.insert(key, value);
    }

    /// Changes one of two values into the other.
    pub fn update(&mut self, key: K, a: V, b: V) {
        let make = || a.clone();
        let change = |value: &mut V| *value = if *value == a { b.clone() } else { a.clone() };
        self.table.update(key.key_hash(), &key, make, change);
        change(self.model.entry(key).or_insert_with(make));
    }

    pub fn remove(&mut self, key: &K) {
        let was = self.table.remove(key.key_hash(), key);
        assert_eq!(was, self.model.remove(key).is_some(), "{key:?}");
    }

    /// True while a snapshot is being written.
    pub fn is_writing(&self) -> bool {
        self.shots.last().is_some_and(|shot| shot.builder.is_some())
    }

    fn new_file(&mut self, id: u64) -> SegmentBuilder {
        let path: Arc<str> = format!("shared/seg-{id}-{}", self.next_file).into();
        self.files.insert(Arc::clone(&path), (self.next_file, Vec::new()));
        self.next_file += 1;
        let shot = self.shots.last_mut().expect("a snapshot was begun");
        shot.own.push(Arc::clone(&path));
        let (id, meta) = (CheckpointId(id), [self.table.meta()]);
        SegmentBuilder::new(path, id, AttemptId(1), self.groups, self.range.clone(), &meta, 1)
    }

    /// Begins a snapshot, unless one is being written; a full one writes bases that void all older segments.
    pub fn begin(&mut self, full: bool) {
        if self.is_writing() {
            return;
        }
        let plan = if full { GroupPlan::Rebase } else { GroupPlan::Delta };
        let epoch = self.table.begin_snapshot(0, &vec![plan; self.range.len()]);
        let needed = self.table.segments_needed();
        let needed = if full { Vec::new() } else { needed.iter().cloned().collect() };
        let (id, expected) = (self.next_id, self.model.clone());
        self.next_id += 1;
        self.shots.push(Shot { id, epoch, expected, needed, own: Vec::new(), builder: None, full });
        let builder = self.new_file(id);
        self.shots.last_mut().expect("just begun").builder = Some(builder);
    }

    /// Writes a part of the running snapshot; cuts files where that is allowed.
    pub fn advance(&mut self, rows: usize) {
        let Some(shot) = self.shots.last_mut() else { return };
        let Some(mut builder) = shot.builder.take() else { return };
        let id = shot.id;
        match self.table.advance_snapshot(&mut builder, rows) {
            Written::More | Written::Waits => shot.builder = Some(builder),
            Written::Groups => {
                if builder.bytes() > 2_000 {
                    self.close(builder);
                    builder = self.new_file(id);
                }
                self.shots.last_mut().expect("still there").builder = Some(builder);
            }
            Written::Done => self.close(builder),
        }
    }

    fn close(&mut self, mut builder: SegmentBuilder) {
        builder.finish();
        let shot = self.shots.last_mut().expect("a snapshot is being written");
        let path = shot.own.last().expect("it has a file");
        let bytes = builder.take();
        // Nothing reads a savepoint back.
        if let (Some(disk), Some(dir), false) = (&self.options.disk, &self.options.job_dir, shot.full) {
            disk.write_file_durable(dir.join(&**path), &bytes).unwrap();
        }
        self.files.get_mut(path).expect("it has a file").1 = bytes;
    }

    pub fn finish_writing(&mut self) {
        while self.is_writing() {
            self.advance(100);
            std::thread::yield_now();
        }
    }

    /// Completes one of the snapshots under way; older ones are forgotten. Deletes all files that neither it nor one under way names.
    pub fn complete(&mut self, choice: usize) {
        let written: Vec<usize> =
            (0..self.shots.len()).filter(|i| self.shots[*i].builder.is_none()).collect();
        let Some(at) = written.get(choice % written.len().max(1)) else { return };
        let done = self.shots.drain(..=*at).next_back().expect("it was found");
        if done.full {
            // A savepoint: nothing builds upon it.
            self.table.aborted(done.epoch);
            self.check(&done.own, &done.expected, true);
            return;
        }
        self.table.completed(done.epoch);
        let mut segments = done.needed;
        segments.extend(done.own);
        let named = |path: &Arc<str>| {
            segments.contains(path)
                || self.shots.iter().any(|shot| shot.needed.contains(path) || shot.own.contains(path))
        };
        let (disk, dir) = (&self.options.disk, &self.options.job_dir);
        self.files.retain(|path, (_, bytes)| {
            let keep = named(path);
            if let (false, false, Some(disk), Some(dir)) = (keep, bytes.is_empty(), disk, dir)
                && disk.exists(dir.join(&**path)).unwrap()
            {
                disk.remove(dir.join(&**path)).wait().unwrap();
            }
            keep
        });
        self.latest = Some(Completed { segments, expected: done.expected, bases: false });
    }

    /// Gives up one of the snapshots under way.
    pub fn abort(&mut self, choice: usize) {
        if !self.shots.is_empty() {
            let aborted = self.shots.remove(choice % self.shots.len());
            self.table.aborted(aborted.epoch);
        }
    }

    /// A whole checkpoint.
    pub fn checkpoint(&mut self) {
        self.finish_writing();
        self.begin(false);
        self.finish_writing();
        self.complete(self.shots.len() - 1);
    }

    /// Blocks of these segments, oldest first.
    fn blocks(
        &self,
        segments: &[Arc<str>],
        mut visit: impl FnMut(KeyGroup, &crate::segment::Rows, &BlockPlace),
    ) {
        let mut segments = segments.to_vec();
        segments.sort_by_key(|path| self.files[path].0);
        for segment in segments {
            let bytes = self.files[&segment].1.as_slice();
            let reader = SegmentReader::open(bytes, Path::new(&*segment)).unwrap();
            let mut index = 0;
            let visited = reader.read_blocks(
                |_| true,
                |entry, rows| {
                    let (offset, bytes) = (entry.offset, entry.bytes as u32);
                    let place = BlockPlace { segment: Arc::clone(&segment), index, offset, bytes };
                    index += 1;
                    if entry.rows > 0 {
                        visit(entry.group, &rows, &place);
                    }
                    Ok(())
                },
            );
            visited.unwrap();
        }
    }

    /// Restores these segments into tables of either kind.
    fn check(&self, segments: &[Arc<str>], expected: &HashMap<K, V>, rows_only: bool) {
        let mut values = ValueTable::<K, V>::new("state", self.groups, self.range.clone());
        self.blocks(segments, |group, rows, _| values.restore_rows(group, rows).unwrap());
        let mut content = HashMap::new();
        values.for_each(|key, value| _ = content.insert(key.clone(), value.clone()));
        assert_eq!(&content, expected, "restored to a hash table");
        assert_eq!(
            &content_of(&mut self.restored(segments, rows_only, LogOptions::default())),
            expected,
            "restored to a log"
        );
    }

    fn restored(&self, segments: &[Arc<str>], rows_only: bool, options: LogOptions) -> LogTable<K, V> {
        let mut table = small_table(self.groups, self.range.clone(), options);
        self.blocks(segments, |group, rows, place| {
            if rows_only {
                table.restore_rows(group, rows).unwrap();
            } else {
                table.restore_block(group, rows, place).unwrap();
            }
        });
        table.restored();
        table
    }

    /// Checks that the latest completed checkpoint restores to what it should hold.
    pub fn check_latest(&self) {
        if let Some(latest) = &self.latest {
            self.check(&latest.segments, &latest.expected, latest.bases);
        }
    }

    /// Fails over to the latest completed checkpoint; what came later never was.
    pub fn fail_over(&mut self) {
        let Some(latest) = &self.latest else { return };
        self.model = latest.expected.clone();
        self.table = self.restored(&latest.segments, false, self.options.clone());
        self.shots.clear();
    }

    /// Checks the present entries, by passing over all and by looking for each.
    pub fn check_present(&mut self) {
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(content_of(&mut self.table), self.model);
        for (key, value) in &self.model {
            assert_eq!(self.table.get(key.key_hash(), key).as_ref(), Some(value), "{key:?}");
        }
        self.table.log.check_invariants();
    }

    /// A slice of upkeep.
    pub fn maintain(&mut self, rows: usize) {
        self.table.maintain(rows).expect("no disk is involved");
    }
}

impl<K: Sample, V: Sample> Job<K, V> {
    /// The files there are.
    pub fn paths(&self) -> Vec<Arc<str>> {
        self.files.keys().cloned().collect()
    }

    /// Bytes of those of these files that are still there.
    pub fn bytes_of(&self, paths: &[Arc<str>]) -> u64 {
        paths.iter().filter_map(|path| Some(self.files.get(path)?.1.len() as u64)).sum()
    }

    /// Bytes of a segment that holds all entries and nothing else.
    pub fn full_bytes(&mut self) -> u64 {
        let meta = [self.table.meta()];
        let mut out = SegmentBuilder::new(
            "full",
            CheckpointId(0),
            AttemptId(1),
            self.groups,
            self.range.clone(),
            &meta,
            1,
        );
        let epoch = self.table.begin_snapshot(0, &vec![GroupPlan::Base; self.range.len()]);
        while self.table.advance_snapshot(&mut out, usize::MAX) != Written::Done {}
        self.table.aborted(epoch);
        out.finish();
        out.bytes()
    }
}

fn small_table<K: Sample, V: Sample>(
    groups: KeyGroups,
    range: std::ops::Range<KeyGroup>,
    options: LogOptions,
) -> LogTable<K, V> {
    let mut table = LogTable::new("state", groups, range, options);
    table.log.compaction.limits = Limits::small();
    table
}

pub fn content_of<K: Sample, V: Sample>(table: &mut LogTable<K, V>) -> HashMap<K, V> {
    let mut content = HashMap::new();
    table.for_each(|key, value| {
        assert_eq!(content.insert(key.clone(), value.clone()), None, "{key:?} comes once");
    });
    content
}

impl crate::log::core::Log {
    /// Moves all that counts out of these segments.
    pub fn compact_segments(&mut self, numbers: &[u32]) {
        self.compaction.aim_at(numbers.to_vec());
        while self.compact(10) {}
    }

    /// Checks what is always true of counts and lists.
    pub fn check_invariants(&self) {
        self.pages.check_bits();
        self.index.check_prepared();
        let (mut rows, mut tombstones, mut entries) = (0, 0, 0);
        let mut live_rows: BTreeMap<u32, u64> = BTreeMap::new();
        for group in 0..self.range.len() {
            let (mut sequence, mut dirty) = (0, false);
            for page in self.pages.of_group(group) {
                let meta = self.pages.meta(page);
                assert!(meta.sequence > sequence, "pages of a group lie in the order of their creation");
                sequence = meta.sequence;
                assert!(!dirty || meta.is_dirty(), "clean pages come before dirty ones");
                if meta.is_dirty() && !dirty {
                    assert_eq!(self.pages.groups[group].first_dirty, page);
                }
                dirty |= meta.is_dirty();
                let live = (0..meta.count).filter(|slot| !meta.gone.get(*slot)).count() as u32;
                assert_eq!(meta.live, live);
                let deleting = (0..meta.count)
                    .filter(|slot| !meta.gone.get(*slot) && meta.tombstones.get(*slot))
                    .count();
                rows += u64::from(meta.count);
                tombstones += deleting as u64;
                entries += live as usize - deleting;
                if let Some(place) = meta.place() {
                    *live_rows.entry(place.segment).or_default() += u64::from(live);
                }
            }
        }
        assert_eq!((self.rows, self.tombstones, self.index.len()), (rows, tombstones, entries));
        self.segments.check(&live_rows);
    }
}

impl crate::log::segments::Segments {
    fn check(&self, live_rows: &BTreeMap<u32, u64>) {
        let needed: BTreeMap<u32, u64> = self.live_rows().filter(|(_, live)| *live > 0).collect();
        let expected: BTreeMap<u32, u64> =
            live_rows.iter().filter(|(_, live)| **live > 0).map(|(number, live)| (*number, *live)).collect();
        assert_eq!(needed, expected, "live rows of segments are those of their pages");
        self.check_sums();
    }
}

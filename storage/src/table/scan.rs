//! Writing a table's snapshot in slices, while the table goes on changing.
//!
//! A scan visits every bucket once, group by group. From each it takes the entries that the snapshot needs and that have
//! not changed since its begin, and it restamps all. An entry that is about to change in a bucket not yet visited
//! is taken at once; the present label, which it gets, keeps the scan from taking it again. A bucket that is about
//! to be rebuilt is visited first. So every entry is taken exactly once, in its form at the begin.
//!
//! Taken rows wait by key group, in [`Scan::waiting`], until they fill a block or their group is done.

#![expect(unsafe_code, reason = "visits buckets, whose handles are pointers")]

use super::bucket::Bucket;
use super::epochs::{Epoch, LABEL, LABELS, Stamp, TOMBSTONE};
use super::state_table::{GroupPlan, StateTable, TableStats, Written};
use super::value_table::{LOG2_FIRST, ValueTable};
use crate::codec::{Data, DecodeError, Key, Reader, Schema};
use crate::error::StoreError;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::manifest::KeyedStateMeta;
use crate::segment::{BLOCK_BYTES_TARGET, BlockKind, Migration, Rows, SegmentBuilder};
use std::ops::Range;

/// Rows whose places are loaded together while a table is restored: few enough for the nearest cache.
const RESTORE_WINDOW: usize = 32;

/// What a scan does with an entry, by its label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Changed since the begin: its earlier form, if any, is taken already.
    Later,
    /// Changed since the last completed snapshot.
    Dirty,
    /// In the last completed snapshot.
    Clean,
}

/// A snapshot being written.
#[derive(Debug)]
pub(super) struct Scan {
    /// Number of this scan, as buckets remember it.
    pub id: u64,
    /// The next directory position to visit.
    pub next: usize,
    epoch: Epoch,
    state: u16,
    plan: Vec<GroupPlan>,
    classes: [Class; LABELS],
    labels: [Stamp; LABELS],
    /// What a visit does with a slot, by its whole stamp: without branches, as stamps of neighbours are random.
    visits: Box<Visits>,
    /// Slots that the present visit takes; kept for its memory.
    picked: Vec<u32>,
    /// Rows taken and not yet written, by group.
    waiting: Vec<Waiting>,
    /// Groups whose waiting rows fill a block.
    full: Vec<usize>,
    /// The group whose buckets are being visited.
    group: usize,
}

/// [`Scan::needs`] and the new stamp of each slot that a visit finds, for every possible stamp.
#[derive(Debug)]
struct Visits {
    /// Where the group writes a delta.
    needed_by_delta: [bool; 256],
    /// Where the group writes all rows.
    needed_by_base: [bool; 256],
    restamped: [Stamp; 256],
}

/// Rows of one group, of which the first `written` are in blocks already.
#[derive(Debug)]
struct Waiting {
    rows: Rows,
    written: usize,
    listed: bool,
    any_block: bool,
}

impl Scan {
    /// True when the snapshot needs an entry of this stamp in its present form.
    #[inline]
    fn needs(&self, stamp: Stamp, plan: GroupPlan) -> bool {
        needs(&self.classes, stamp, plan)
    }

    /// Lists the group as full once its rows make a block.
    fn taken(&mut self, group: usize) {
        let waiting = &mut self.waiting[group];
        if !waiting.listed && waiting.rows.raw_bytes() >= BLOCK_BYTES_TARGET {
            waiting.listed = true;
            self.full.push(group);
        }
    }

    /// Writes one block of the group's waiting rows; true when none is left.
    fn write_block(&mut self, group: usize, first_group: KeyGroup, out: &mut SegmentBuilder) -> bool {
        let kind = if self.plan[group] == GroupPlan::Delta { BlockKind::Delta } else { BlockKind::Base };
        let waiting = &mut self.waiting[group];
        let range = waiting.written..waiting.rows.len();
        let written = out.block(self.state, first_group + group as KeyGroup, kind, &waiting.rows, range);
        waiting.written += written;
        waiting.any_block |= written > 0;
        if waiting.written == waiting.rows.len() {
            waiting.rows.clear();
            waiting.written = 0;
            waiting.listed = false;
            return true;
        }
        false
    }
}

fn needs(classes: &[Class; LABELS], stamp: Stamp, plan: GroupPlan) -> bool {
    match (classes[usize::from(stamp & LABEL)], plan) {
        (Class::Later, _) => false,
        (Class::Dirty, GroupPlan::Delta) => true,
        (Class::Clean, GroupPlan::Delta) => false,
        (Class::Dirty | Class::Clean, GroupPlan::Base | GroupPlan::Rebase) => stamp & TOMBSTONE == 0,
    }
}

impl Visits {
    fn new(classes: &[Class; LABELS], labels: &[Stamp; LABELS]) -> Self {
        // Stamp 0 is an empty slot, which stays empty.
        let needed = |plan| std::array::from_fn(|stamp| stamp != 0 && needs(classes, stamp as Stamp, plan));
        let restamped = |stamp: usize| {
            let label = stamp & usize::from(LABEL);
            let stays = stamp == 0 || classes[label] == Class::Later;
            if stays { stamp as Stamp } else { labels[label] | stamp as Stamp & TOMBSTONE }
        };
        Visits {
            needed_by_delta: needed(GroupPlan::Delta),
            needed_by_base: needed(GroupPlan::Base),
            restamped: std::array::from_fn(restamped),
        }
    }
}

impl<K: Key, V: Data> ValueTable<K, V> {
    /// Copies slot `i`, which is about to change, to the running scan if that needs it.
    #[cold]
    #[inline(never)]
    pub(super) fn preserve(&mut self, hash: u64, bucket: Bucket<K, V>, i: usize, stamp: Stamp) {
        let position = self.position(hash);
        let Some(scan) = &mut self.scan else { return };
        if position < scan.next {
            // The scan has been here; its header, which would tell so too, is seldom in the cache.
            return;
        }
        let group = position >> self.depth;
        // SAFETY: the caller found slot `i` of a bucket of the directory with this stamp.
        unsafe {
            if scan.needs(stamp, scan.plan[group]) && bucket.header().scanned != scan.id {
                let value = (stamp & TOMBSTONE == 0).then(|| bucket.value(i));
                let expired = scan.plan[group] != GroupPlan::Delta
                    && self
                        .expiry
                        .as_ref()
                        .is_some_and(|expiry| value.is_some_and(|value| expiry.is_due(value)));
                if !expired {
                    scan.waiting[group].rows.push(bucket.key(i), value);
                    scan.taken(group);
                }
            }
        }
    }

    /// Takes from a bucket what the running scan needs, and restamps its entries; does nothing without a scan or when
    /// that has visited the bucket.
    pub(super) fn scan_bucket(&mut self, position: usize, bucket: Bucket<K, V>) {
        let Some(scan) = &mut self.scan else { return };
        // SAFETY: the bucket is in the directory and not `vacant`; slots are read as their stamps say.
        unsafe {
            if bucket.header().scanned == scan.id {
                return;
            }
            let group = position >> self.depth;
            let Visits { needed_by_delta, needed_by_base, restamped } = &*scan.visits;
            let needed = if scan.plan[group] == GroupPlan::Delta { needed_by_delta } else { needed_by_base };
            let capacity = bucket.capacity();
            scan.picked.resize(capacity, 0);
            let mut count = 0;
            for i in 0..capacity {
                let stamp = bucket.stamp(i);
                // At most one slot was picked for each one seen before, so this lies within.
                scan.picked[count] = i as u32;
                count += usize::from(needed[usize::from(stamp)]);
                bucket.set_stamp(i, restamped[usize::from(stamp)]);
            }
            if let (Some(expiry), true) = (&self.expiry, scan.plan[group] != GroupPlan::Delta) {
                // A base has no tombstones: what is picked has a value.
                count = expiry.keep(&mut scan.picked[..count], |i| bucket.value(i as usize));
            }
            scan.waiting[group].rows.extend(scan.picked[..count].iter().map(|&i| {
                let i = i as usize;
                // What is needed keeps its tombstone, so the new stamp tells whether there is a value.
                (bucket.key(i), (bucket.stamp(i) & TOMBSTONE == 0).then(|| bucket.value(i)))
            }));
            bucket.header().scanned = scan.id;
            scan.taken(group);
        }
    }

    /// Gives back what a visited bucket no longer needs: tombstones that nobody needs, and most of the slots
    /// of a bucket that has become nearly empty.
    fn tidy_bucket(&mut self, position: usize, bucket: Bucket<K, V>) {
        let purgeable = self.purgeable(bucket);
        // SAFETY: the bucket is in the directory.
        let kept = unsafe { bucket.header().used as usize } - purgeable;
        if kept == 0 {
            self.discard(position, bucket);
        } else if kept * 8 < bucket.capacity() && bucket.capacity() > 8 {
            let log2 = (2 * kept).next_power_of_two().ilog2().max(LOG2_FIRST);
            self.rebuild(position, bucket, log2);
        } else if purgeable * 8 >= bucket.capacity() {
            self.rebuild(position, bucket, bucket.log2());
        }
    }

    /// Passes over all stamps, so that labels become free.
    fn restamp_all(&mut self) {
        let labels = self.epochs.restamp();
        let now = self.epochs.label();
        self.for_each_bucket(|bucket| {
            for i in 0..bucket.capacity() {
                // SAFETY: the bucket is in the directory; a stamp changes its label only.
                unsafe {
                    let stamp = bucket.stamp(i);
                    if stamp != 0 && stamp & LABEL != now {
                        bucket.set_stamp(i, labels[usize::from(stamp & LABEL)] | stamp & TOMBSTONE);
                    }
                }
            }
        });
        self.epochs.restamped(&labels);
    }
}

impl<K: Key, V: Data> StateTable for ValueTable<K, V> {
    fn meta(&self) -> KeyedStateMeta {
        KeyedStateMeta { name: self.name.clone(), key: K::schema(), value: V::schema() }
    }

    fn key_groups(&self) -> KeyGroups {
        self.key_groups
    }

    fn groups(&self) -> Range<KeyGroup> {
        self.range.clone()
    }

    fn begin_snapshot(&mut self, state: u16, plan: &[GroupPlan]) -> u64 {
        assert!(self.scan.is_none(), "the earlier snapshot of state {} is written or aborted", self.name);
        assert_eq!(plan.len(), self.range.len(), "a plan for each key group");
        if self.epochs.exhausted() {
            self.restamp_all();
        }
        let floor = self.epochs.completed();
        let epoch = self.epochs.begin();
        self.epoch_began();
        self.scans += 1;
        let epochs = &self.epochs;
        let class = |label: usize| match epochs.epoch_of(label as Stamp) {
            changed if changed > epoch => Class::Later,
            changed if changed > floor => Class::Dirty,
            _ => Class::Clean,
        };
        let waiting = || Waiting {
            rows: Rows::new(K::FIXED_BYTES, V::FIXED_BYTES),
            written: 0,
            listed: false,
            any_block: false,
        };
        let (classes, labels) = (std::array::from_fn(class), epochs.restamp());
        self.scan = Some(Box::new(Scan {
            id: self.scans,
            next: 0,
            epoch,
            state,
            plan: plan.to_vec(),
            classes,
            labels,
            visits: Box::new(Visits::new(&classes, &labels)),
            picked: Vec::new(),
            waiting: self.range.clone().map(|_| waiting()).collect(),
            full: Vec::new(),
            group: 0,
        }));
        epoch
    }

    fn advance_snapshot(&mut self, out: &mut SegmentBuilder, rows: usize) -> Written {
        let groups = self.range.len();
        let (mut visited, start_bytes) = (0, out.bytes());
        loop {
            let Some(scan) = &mut self.scan else { return Written::Done };
            if visited >= rows.max(1) || out.bytes() - start_bytes >= BLOCK_BYTES_TARGET as u64 / 2 {
                return Written::More;
            }
            if let Some(group) = scan.full.pop() {
                if !scan.write_block(group, self.first_group, out) {
                    scan.full.push(group);
                }
                // A block costs far more than a visit, also when it compresses to little.
                visited += BLOCK_BYTES_TARGET / 16;
                continue;
            }
            if scan.group == groups {
                let labels = scan.labels;
                self.scan = None;
                self.epochs.restamped(&labels);
                return Written::Done;
            }
            if scan.next < (scan.group + 1) << self.depth {
                let position = scan.next;
                let bucket = self.directory[position];
                if bucket == self.vacant {
                    scan.next += 1;
                    visited += 1;
                    continue;
                }
                // SAFETY: the bucket is in the directory.
                let positions = 1 << (self.depth - unsafe { bucket.header() }.depth);
                scan.next = (position & !(positions - 1)) + positions;
                self.scan_bucket(position, bucket);
                visited += bucket.capacity();
                self.tidy_bucket(position, bucket);
                continue;
            }
            // All buckets of the group are visited: write what is left of it.
            let group = scan.group;
            visited += scan.waiting[group].rows.len();
            while !scan.write_block(group, self.first_group, out) {}
            if scan.plan[group] == GroupPlan::Rebase && !scan.waiting[group].any_block {
                out.empty_base(scan.state, self.first_group + group as KeyGroup);
            }
            // No row comes any more; give the memory back.
            scan.waiting[group].rows = Rows::new(K::FIXED_BYTES, V::FIXED_BYTES);
            scan.group += 1;
            if scan.waiting[group].any_block {
                return Written::Groups;
            }
        }
    }

    fn completed(&mut self, epoch: u64) {
        self.epochs.complete(epoch);
    }

    fn aborted(&mut self, epoch: u64) {
        if self.scan.as_ref().is_some_and(|scan| scan.epoch == epoch) {
            self.scan = None;
        }
        self.epochs.abort(epoch);
    }

    fn migration(&self, stored: &Schema) -> Option<Migration> {
        Migration::of::<K, V>(stored)
    }

    fn expect_rows(&mut self, group: KeyGroup, rows: u64) {
        self.reserve(group, rows);
    }

    fn restore_rows(&mut self, group: KeyGroup, rows: &Rows) -> Result<(), DecodeError> {
        let mut keys = Vec::with_capacity(RESTORE_WINDOW);
        for start in (0..rows.len()).step_by(RESTORE_WINDOW) {
            keys.clear();
            for row in start..rows.len().min(start + RESTORE_WINDOW) {
                let key: K = Reader::Own.read_whole(rows.get(row).0)?;
                let hash = key.group_hash(self.key_groups);
                self.key_groups.check(hash, group)?;
                keys.push((hash, key));
            }
            // By themselves, so that as many loads as possible are under way at once.
            keys.iter().for_each(|(hash, _)| self.prefetch_slot(*hash));
            for (row, (hash, key)) in (start..).zip(&keys) {
                match rows.get(row).1 {
                    Some(value) => self.restore(*hash, key, Reader::Own.read_whole(value)?),
                    None => self.restore_absence(*hash, key),
                }
            }
        }
        Ok(())
    }

    fn maintain(&mut self, rows: usize) -> Result<bool, StoreError> {
        Ok(self.remove_expired(rows))
    }

    fn stats(&self) -> TableStats {
        let data_bytes = self.bucket_bytes() as u64;
        TableStats {
            keys: self.len() as u64,
            data_bytes,
            index_bytes: self.memory_bytes() as u64 - data_bytes,
            ..TableStats::default()
        }
    }
}

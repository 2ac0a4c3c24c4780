//! The table itself: finds, inserts, changes and removes the entries of one state of one task.
//!
//! Extendible hashing. A flat directory, `1 << depth` pointers for each key group, is indexed by the group and the
//! leading hash bits; several pointers may lead to one bucket. A bucket starts with four slots and doubles up to
//! 16 KiB, from then on it splits in two by the next hash bit. So no insert moves more than one bucket.
//!
//! Always true:
//! - each bucket but `vacant` lies at all directory positions of its group that share its leading bits, and nowhere else;
//! - `vacant`, of one empty slot, stands at all other positions, and nothing is ever written to its slot;
//! - an entry that changes carries the present label afterwards; if the running scan needs its earlier form, that was
//!   copied to the scan before.

#![expect(unsafe_code, reason = "drives buckets, whose handles are pointers")]

use super::arena::Arena;
use super::bucket::Bucket;
use super::epochs::{CLEAN, Epochs, FRESH, LABEL, Stamp, TOMBSTONE};
use super::expiry::Expiry;
use super::scan::Scan;
use crate::codec::{Data, Key};
use crate::key_group::{KeyGroup, KeyGroups};
use std::ops::Range;

/// Logarithm of the capacity of a group's first bucket.
pub(super) const LOG2_FIRST: u32 = 2;

/// Leading hash bits beyond which the directory never grows; a bucket doubles instead.
const DEPTH_MAX: u32 = 32;

/// The entries of one keyed state in one task's range of key groups.
///
/// All calls take the key's [`Data::group_hash`], so that a batch is hashed and prefetched first and changed afterwards.
///
/// # Panics
/// Any call with a hash whose key group lies outside of the table's range.
pub struct ValueTable<K: Key, V: Data> {
    pub(super) directory: Vec<Bucket<K, V>>,
    pub(super) first_group: KeyGroup,
    pub(super) key_groups: KeyGroups,
    /// `first_group << depth`.
    first_position: usize,
    /// `63 - depth`, so that a depth of 0 needs no special case.
    shift: u32,
    /// The label of changes made now.
    now: Stamp,
    pub(super) scan: Option<Box<Scan>>,
    pub(super) vacant: Bucket<K, V>,
    pub(super) depth: u32,
    pub(super) len: usize,
    buckets: usize,
    bucket_bytes: usize,
    pub(super) epochs: Epochs,
    pub(super) scans: u64,
    pub(super) name: String,
    pub(super) range: Range<KeyGroup>,
    pub(super) expiry: Option<Box<Expiry<V>>>,
    hashes: Vec<u64>,
    arena: Arena,
}

// SAFETY: the table owns its buckets alone, and K and V, as `Data`, can be sent.
unsafe impl<K: Key, V: Data> Send for ValueTable<K, V> {}

impl<K: Key, V: Data> ValueTable<K, V> {
    /// An empty table of state `name` for the keys of the groups in `range`.
    ///
    /// # Panics
    /// When `range` is not within `groups`.
    pub fn new(name: impl Into<String>, groups: KeyGroups, range: Range<KeyGroup>) -> Self {
        assert!(
            range.start <= range.end && range.end <= groups.count(),
            "{range:?} is not within the key groups"
        );
        let mut arena = Bucket::<K, V>::arena();
        let vacant = Bucket::allocate(&mut arena, 0, 0, 0);
        let epochs = Epochs::new();
        ValueTable {
            directory: vec![vacant; range.len()],
            first_group: range.start,
            key_groups: groups,
            first_position: usize::from(range.start),
            shift: 63,
            now: epochs.label(),
            scan: None,
            vacant,
            depth: 0,
            len: 0,
            buckets: 0,
            bucket_bytes: 0,
            epochs,
            scans: 0,
            name: name.into(),
            range,
            expiry: None,
            hashes: Vec::new(),
            arena,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the table has allocated, without what keys and values allocate themselves.
    pub fn memory_bytes(&self) -> usize {
        self.bucket_bytes
            + self.directory.capacity() * size_of::<Bucket<K, V>>()
            + self.vacant.memory_bytes()
            + self.arena.slack_bytes()
    }

    pub(super) fn bucket_bytes(&self) -> usize {
        self.bucket_bytes
    }

    #[inline(always)]
    pub(super) fn position(&self, hash: u64) -> usize {
        // A group below the first wraps to a position that the directory does not have.
        let position =
            (usize::from(self.key_groups.group_of(hash)) << self.depth) + (hash >> 1 >> self.shift) as usize;
        position.wrapping_sub(self.first_position)
    }

    /// Starts loading the cache lines that a call for `hash` will need; call it for a batch of keys first.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.directory[self.position(hash)].prefetch(hash);
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&self, hash: u64, key: &K) -> Option<&V> {
        let bucket = self.directory[self.position(hash)];
        // SAFETY: buckets in the directory are not freed; the slot is live, and stays while the table is borrowed.
        unsafe {
            match bucket.find(hash, key) {
                (i, stamp) if is_live(stamp) => Some(bucket.value(i)),
                _ => None,
            }
        }
    }

    /// Stores `value` under `key` and returns the earlier value.
    ///
    /// As all changes, it survives a crash only once a checkpoint that begins later has completed.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &K, value: V) -> Option<V> {
        match self.touch(hash, key) {
            Ok(present) => Some(std::mem::replace(present, value)),
            Err(absent) => {
                self.insert_absent(hash, key, absent, value);
                None
            }
        }
    }

    /// Changes the value of `key` by `change`; if it is absent, of the value that `make` returns.
    ///
    /// When `change` panics, the entry keeps what it has done so far.
    #[inline]
    pub fn update<R>(
        &mut self,
        hash: u64,
        key: &K,
        make: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        let bucket = self.directory[self.position(hash)];
        // SAFETY: buckets in the directory are not freed.
        let probe = unsafe { bucket.find(hash, key) };
        let value = match probe {
            // Nearly always: alive, and changed in this epoch already.
            (i, stamp) if stamp & !FRESH == self.now => {
                // SAFETY: the label without a tombstone says that the slot is live; the table is borrowed exclusively.
                unsafe { bucket.value_mut(i) }
            }
            (i, stamp) if is_live(stamp) => self.touch_found(hash, bucket, i, stamp),
            absent => self.insert_absent(hash, key, absent, make()),
        };
        change(value)
    }

    /// Removes `key` and returns its value.
    pub fn remove(&mut self, hash: u64, key: &K) -> Option<V> {
        let bucket = self.directory[self.position(hash)];
        // SAFETY: buckets in the directory are not freed; a slot is used as its stamp says, under an exclusive borrow.
        unsafe {
            match bucket.find(hash, key) {
                (i, stamp) if is_live(stamp) => {
                    if stamp == self.now | FRESH {
                        // No snapshot knows the key, so none needs a tombstone.
                        let (_key, value) = bucket.take(i, |key| key.group_hash(self.key_groups));
                        self.len -= 1;
                        return Some(value);
                    }
                    self.touch_found(hash, bucket, i, stamp);
                    self.len -= 1;
                    Some(bucket.bury(i, self.now))
                }
                _ => None,
            }
        }
    }

    /// Calls `f` for every entry, in no order.
    pub fn for_each(&self, mut f: impl FnMut(&K, &V)) {
        self.for_each_bucket(|bucket| {
            for i in 0..bucket.capacity() {
                // SAFETY: buckets in the directory are not freed; a slot is read as its stamp says.
                unsafe {
                    let stamp = bucket.stamp(i);
                    if is_live(stamp) {
                        f(bucket.key(i), bucket.value(i));
                    }
                }
            }
        });
    }

    /// Calls `f` for every bucket once; it may free it.
    pub(super) fn for_each_bucket(&self, mut f: impl FnMut(Bucket<K, V>)) {
        let mut position = 0;
        while position < self.directory.len() {
            let bucket = self.directory[position];
            if bucket == self.vacant {
                position += 1;
            } else {
                position += self.positions_of(bucket);
                f(bucket);
            }
        }
    }

    /// Number of directory positions of a bucket other than `vacant`.
    pub(super) fn positions_of(&self, bucket: Bucket<K, V>) -> usize {
        // SAFETY: the bucket is in the directory; the header is only read here.
        1 << (self.depth - unsafe { bucket.header() }.depth)
    }

    /// The value of `key` if it is present, stamped as changed; else where the probe for it ended.
    #[inline]
    fn touch(&mut self, hash: u64, key: &K) -> Result<&mut V, (usize, Stamp)> {
        let bucket = self.directory[self.position(hash)];
        // SAFETY: buckets in the directory are not freed.
        match unsafe { bucket.find(hash, key) } {
            (i, stamp) if is_live(stamp) => Ok(self.touch_found(hash, bucket, i, stamp)),
            absent => Err(absent),
        }
    }

    /// Stamps live slot `i` as changed, after the running scan has what it needs of it.
    #[inline]
    fn touch_found(&mut self, hash: u64, bucket: Bucket<K, V>, i: usize, stamp: Stamp) -> &mut V {
        // SAFETY: the caller found slot `i` alive with this stamp; the value is borrowed as long as the table.
        unsafe {
            if stamp & LABEL != self.now {
                if self.scan.is_some() {
                    self.preserve(hash, bucket, i, stamp);
                }
                bucket.set_stamp(i, self.now);
            }
            bucket.value_mut(i)
        }
    }

    /// Inserts a key that a probe has not found alive.
    fn insert_absent(&mut self, hash: u64, key: &K, (i, stamp): (usize, Stamp), value: V) -> &mut V {
        let bucket = self.directory[self.position(hash)];
        // SAFETY: buckets in the directory are not freed; the probe is of this bucket and nothing has changed since.
        unsafe {
            if stamp != 0 {
                if self.scan.is_some() && stamp & LABEL != self.now {
                    self.preserve(hash, bucket, i, stamp);
                }
                bucket.revive(i, self.now, value);
                self.len += 1;
                return bucket.value_mut(i);
            }
            let key = key.clone();
            let (bucket, i) = if (bucket.header().used as usize) < limit(bucket) {
                (bucket, i)
            } else {
                self.make_room(hash);
                let bucket = self.directory[self.position(hash)];
                (bucket, bucket.find_empty(hash))
            };
            bucket.fill(i, self.now | FRESH, key, value);
            self.len += 1;
            bucket.value_mut(i)
        }
    }

    /// Starts loading all that restoring an entry of `hash` touches.
    #[inline]
    pub(super) fn prefetch_slot(&self, hash: u64) {
        self.directory[self.position(hash)].prefetch_slot(hash);
    }

    /// Stores an entry of a completed snapshot; for tables that have taken none yet.
    #[inline]
    pub(super) fn restore(&mut self, hash: u64, key: &K, value: V) {
        self.now = CLEAN;
        match self.touch(hash, key) {
            Ok(present) => *present = value,
            Err(absent) => _ = self.insert_absent(hash, key, absent, value),
        }
        self.now = self.epochs.label();
    }

    /// Removes an entry that a completed snapshot no longer has; for tables that have taken none yet.
    pub(super) fn restore_absence(&mut self, hash: u64, key: &K) {
        let bucket = self.directory[self.position(hash)];
        // SAFETY: buckets in the directory are not freed, and before the first snapshot no slot is a tombstone.
        if let (i, CLEAN..) = unsafe { bucket.find(hash, key) } {
            // SAFETY: the slot is live.
            drop(unsafe { bucket.take(i, |key| key.group_hash(self.key_groups)) });
            self.len -= 1;
        }
    }

    /// Takes over the label of the epoch that has just begun.
    pub(super) fn epoch_began(&mut self) {
        self.now = self.epochs.label();
    }

    /// Makes room for one more entry in the bucket of `hash`.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, hash: u64) {
        let mark = self.scan.as_ref().map_or(0, |scan| scan.id);
        loop {
            let position = self.position(hash);
            let bucket = self.directory[position];
            if bucket == self.vacant {
                let first =
                    Bucket::allocate(&mut self.arena, LOG2_FIRST.min(Bucket::<K, V>::LOG2_MAX), 0, mark);
                let group = position >> self.depth << self.depth;
                // The group may hold other buckets, when it lost this one by a purge: take only what is vacant.
                self.place_first(group, position, first);
                return;
            }
            // Once the scan has taken what it needs, entries may move and forget.
            self.scan_bucket(position, bucket);
            // SAFETY: the bucket is in the directory.
            let (used, depth) = unsafe { (bucket.header().used as usize, bucket.header().depth) };
            if used < limit(bucket) {
                return;
            }
            let purgeable = self.purgeable(bucket);
            if purgeable >= bucket.capacity() / 8 && purgeable > 0 {
                self.rebuild(position, bucket, bucket.log2());
                return;
            }
            if bucket.log2() < Bucket::<K, V>::LOG2_MAX {
                self.rebuild(position, bucket, bucket.log2() + 1);
                return;
            }
            if depth == self.depth && !self.double_directory() {
                self.rebuild(position, bucket, bucket.log2() + 1);
                return;
            }
            self.split(self.position(hash), bucket);
        }
    }

    /// Puts the empty bucket `first` at the largest aligned run of vacant positions around `position`.
    fn place_first(&mut self, group: usize, position: usize, first: Bucket<K, V>) {
        let mut depth = self.depth;
        let (mut start, mut count) = (position, 1);
        while depth > 0 {
            let wider = group + ((position - group) & !(2 * count - 1));
            if self.directory[wider..wider + 2 * count].iter().any(|bucket| *bucket != self.vacant) {
                break;
            }
            (start, count, depth) = (wider, 2 * count, depth - 1);
        }
        // SAFETY: the bucket is new.
        unsafe { first.header().depth = depth };
        self.directory[start..start + count].fill(first);
        self.buckets += 1;
        self.bucket_bytes += first.memory_bytes();
    }

    /// The first directory position of the bucket at `position`.
    fn start_of(&self, position: usize, bucket: Bucket<K, V>) -> usize {
        position & !(self.positions_of(bucket) - 1)
    }

    /// Gives `group`, which has no entries yet, buckets for `rows` of them: the same as growing step by step, without moving entries.
    /// Does nothing where there are entries, or a snapshot is being written.
    pub(super) fn reserve(&mut self, group: KeyGroup, rows: u64) {
        let largest = Bucket::<K, V>::LOG2_MAX;
        let first = |table: &Self| (usize::from(group) << table.depth).wrapping_sub(table.first_position);
        let is_vacant = |bucket: &Bucket<K, V>| *bucket == self.vacant;
        let all = self.directory.get(first(self)..).and_then(|rest| rest.get(..1 << self.depth));
        if rows == 0 || self.scan.is_some() || !all.is_some_and(|all| all.iter().all(is_vacant)) {
            return;
        }
        // Hashes spread entries unevenly: a bucket that is meant to be full would split at once.
        let fits =
            |log2: u32, buckets: u64| rows <= buckets * limit_of(1 << log2, log2 == largest) as u64 * 15 / 16;
        let (log2, depth) = match (LOG2_FIRST.min(largest)..=largest).find(|log2| fits(*log2, 1)) {
            Some(log2) => (log2, 0),
            None => match (1..DEPTH_MAX).find(|depth| fits(largest, 1 << depth)) {
                Some(depth) => (largest, depth),
                None => return,
            },
        };
        while self.depth < depth {
            self.deepen();
        }
        let (start, positions) = (first(self), 1 << (self.depth - depth));
        for bucket in self.directory[start..][..1 << self.depth].chunks_exact_mut(positions) {
            let new = Bucket::allocate(&mut self.arena, log2, depth, 0);
            self.buckets += 1;
            self.bucket_bytes += new.memory_bytes();
            bucket.fill(new);
        }
    }

    /// Doubles the directory, unless that would be out of proportion to the number of buckets: then hash bits
    /// do not tell the keys of a bucket apart.
    fn double_directory(&mut self) -> bool {
        if self.depth == DEPTH_MAX || self.directory.len() > 16 * self.buckets + 4096 {
            return false;
        }
        self.deepen();
        true
    }

    /// Doubles the directory.
    fn deepen(&mut self) {
        self.directory = self.directory.iter().flat_map(|bucket| [*bucket; 2]).collect();
        self.depth += 1;
        self.shift -= 1;
        self.first_position *= 2;
        if let Some(scan) = &mut self.scan {
            scan.next *= 2;
        }
        if let Some(expiry) = &mut self.expiry {
            expiry.next *= 2;
        }
    }

    /// Hashes of the keys of a bucket's filled slots, in the order of slots. The user's code runs here, before
    /// anything moves, since it may panic.
    fn hash_slots(&mut self, bucket: Bucket<K, V>) -> Vec<u64> {
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        for i in 0..bucket.capacity() {
            // SAFETY: the bucket is in the directory; the key is read as the stamp says.
            unsafe {
                if bucket.stamp(i) != 0 {
                    hashes.push(bucket.key(i).group_hash(self.key_groups));
                }
            }
        }
        hashes
    }

    /// Number of tombstones that no later snapshot needs. The running scan has taken what it needs.
    pub(super) fn purgeable(&self, bucket: Bucket<K, V>) -> usize {
        (0..bucket.capacity())
            .filter(|&i| {
                // SAFETY: the bucket is in the directory.
                let stamp = unsafe { bucket.stamp(i) };
                self.is_purgeable(stamp)
            })
            .count()
    }

    fn is_purgeable(&self, stamp: Stamp) -> bool {
        stamp & TOMBSTONE != 0 && self.epochs.is_clean(stamp)
    }

    /// Moves a bucket's entries to one of `1 << log2` slots, without the tombstones that nobody needs.
    /// The running scan has taken what it needs.
    pub(super) fn rebuild(&mut self, position: usize, bucket: Bucket<K, V>, log2: u32) {
        let hashes = self.hash_slots(bucket);
        // SAFETY: the bucket is in the directory.
        let (depth, scanned) = unsafe { (bucket.header().depth, bucket.header().scanned) };
        let new = Bucket::allocate(&mut self.arena, log2, depth, scanned);
        self.redistribute(position, bucket, &hashes, |_| new);
        let (start, count) = (self.start_of(position, new), self.positions_of(new));
        self.directory[start..start + count].fill(new);
        self.buckets += 1;
        self.bucket_bytes += new.memory_bytes();
        self.hashes = hashes;
    }

    /// Splits a bucket in two by its next hash bit. The directory is deep enough, and the running scan has taken what
    /// it needs.
    fn split(&mut self, position: usize, bucket: Bucket<K, V>) {
        let hashes = self.hash_slots(bucket);
        // SAFETY: the bucket is in the directory.
        let (depth, scanned) = unsafe { (bucket.header().depth, bucket.header().scanned) };
        let halves = [0; 2].map(|_| Bucket::allocate(&mut self.arena, bucket.log2(), depth + 1, scanned));
        let (start, count) = (self.start_of(position, bucket), self.positions_of(bucket));
        self.redistribute(position, bucket, &hashes, |hash| halves[(hash >> (63 - depth) & 1) as usize]);
        for (half, start) in halves.into_iter().zip([start, start + count / 2]) {
            self.directory[start..start + count / 2].fill(half);
            self.buckets += 1;
            self.bucket_bytes += half.memory_bytes();
        }
        self.hashes = hashes;
    }

    /// Moves all entries of a bucket to the buckets that `target` names by hash, except for tombstones that nobody
    /// needs, and frees it. The caller puts the new buckets into the directory.
    fn redistribute(
        &mut self,
        position: usize,
        bucket: Bucket<K, V>,
        hashes: &[u64],
        target: impl Fn(u64) -> Bucket<K, V>,
    ) {
        // Until the caller is done nobody may find the old bucket: dropping a key may panic, and then leaks it.
        let (start, count) = (self.start_of(position, bucket), self.positions_of(bucket));
        self.directory[start..start + count].fill(self.vacant);
        self.buckets -= 1;
        self.bucket_bytes -= bucket.memory_bytes();
        let mut hashes = hashes.iter();
        for i in 0..bucket.capacity() {
            // SAFETY: each filled slot is moved or dropped once; a target has more slots than the entries it gets.
            unsafe {
                let stamp = bucket.stamp(i);
                if stamp == 0 {
                    continue;
                }
                let hash = *hashes.next().expect("one hash for each filled slot");
                if self.is_purgeable(stamp) {
                    bucket.drop_slot(i);
                } else {
                    bucket.move_slot(i, target(hash), hash);
                }
            }
        }
        // SAFETY: no directory position leads to the bucket any more.
        unsafe { bucket.free(&mut self.arena) };
    }

    /// Removes a bucket without entries.
    pub(super) fn discard(&mut self, position: usize, bucket: Bucket<K, V>) {
        let hashes = self.hash_slots(bucket);
        self.redistribute(position, bucket, &hashes, |_| unreachable!("all its slots are purgeable"));
        self.hashes = hashes;
    }
}

/// True of the stamp of a slot with key and value.
#[inline(always)]
fn is_live(stamp: Stamp) -> bool {
    stamp != 0 && stamp & TOMBSTONE == 0
}

/// Most filled slots of a bucket: seven eighths of a large one, for the sake of memory, and half of a small one, where
/// long probes would cost more than the memory is worth.
fn limit<K, V>(bucket: Bucket<K, V>) -> usize {
    limit_of(bucket.capacity(), bucket.log2() >= Bucket::<K, V>::LOG2_MAX)
}

/// [`limit`] of a bucket of this capacity, which is the largest that the table makes on its own, or not.
fn limit_of(capacity: usize, is_largest: bool) -> usize {
    if is_largest { capacity - capacity.div_ceil(8) } else { capacity / 2 }
}

impl<K: Key, V: Data> Drop for ValueTable<K, V> {
    fn drop(&mut self) {
        // A panic of a key's or value's drop leaks what is left, and frees nothing twice.
        let mut arena = std::mem::replace(&mut self.arena, Bucket::<K, V>::arena());
        self.for_each_bucket(|bucket| {
            for i in 0..bucket.capacity() {
                // SAFETY: each bucket comes once, and is not used again.
                unsafe { bucket.drop_slot(i) };
            }
            // SAFETY: as above.
            unsafe { bucket.free(&mut arena) };
        });
        // SAFETY: it was allocated with the table, and its slot is empty.
        unsafe { self.vacant.free(&mut arena) };
    }
}

//! Where the latest row of each key lies: from hash to page and slot.
//!
//! Extendible hashing. A flat directory, `1 << depth` leaves for each key group, is indexed by the group and the leading bits of the
//! hash; several positions may lead to one leaf. A leaf starts with one bucket and doubles up to about
//! 16 KiB, from then on it splits in two by the next bit. So no insert moves more than one leaf, and moving one reads no row: the
//! tag in an entry, the hash's top 26 bits, tells where it belongs. Nor does one copy a large directory: that of twice the size is
//! prepared a few positions at a time, from the last doubling on.
//!
//! Always true:
//! - each leaf lies at all directory positions of its group that share its leading bits, and nowhere else;
//! - what is prepared is the beginning of the directory as it would be if it doubled now;
//! - every entry names a page that exists and a row in it which is not gone (but see [`super::leaf`] for empty ones).
//!
//! Knows nothing of keys: the caller compares rows.

#![expect(unsafe_code, reason = "drives leaves, whose handles are pointers")]

use super::leaf::{BUCKET_ENTRIES, Bucket, Entry, FULL_SIZES, Leaf, LeafMemory, buckets_of};
use crate::key_group::{KeyGroup, KeyGroups};
use std::ops::Range;

/// Bits of a tag: no two keys are told apart beyond these without comparing rows.
const TAG_BITS: u32 = 26;

/// Positions of the directory that are prepared for its doubling whenever a leaf has to grow. Hundreds of leaves split between two doublings
/// of a directory of [`PREPARED_FROM`], so a few would do.
const PREPARED: usize = if cfg!(test) { 8 } else { 256 };

/// Doubling a directory of fewer positions takes no longer than splitting a leaf.
const PREPARED_FROM: usize = if cfg!(test) { 16 } else { 4096 };

/// The bits of a hash that an entry keeps.
#[inline(always)]
pub(super) fn tag_of(hash: u64) -> u32 {
    (hash >> (64 - TAG_BITS)) as u32
}

/// Where in the index an entry lies; good until the next insert.
#[derive(Clone, Copy)]
pub(super) struct Cursor {
    leaf: Leaf,
    bucket: u32,
    i: u32,
}

pub(super) struct Index {
    directory: Vec<Leaf>,
    /// The first positions of the next directory, of twice the size.
    next: Vec<Leaf>,
    key_groups: KeyGroups,
    /// `first_group << depth`.
    first_position: usize,
    depth: u32,
    leaves: usize,
    len: usize,
    memory: LeafMemory,
}

// SAFETY: the index owns its leaves alone.
unsafe impl Send for Index {}

impl Index {
    pub fn new(key_groups: KeyGroups, groups: &Range<KeyGroup>) -> Self {
        let mut memory = LeafMemory::new();
        Index {
            directory: groups.clone().map(|_| memory.allocate(0, 0)).collect(),
            next: Vec::new(),
            key_groups,
            first_position: usize::from(groups.start),
            depth: 0,
            leaves: groups.len(),
            len: 0,
            memory,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.memory.bytes() + (self.directory.capacity() + self.next.capacity()) * size_of::<Leaf>()
    }

    #[inline(always)]
    fn position(&self, hash: u64) -> usize {
        // A group below the first wraps to a position that the directory does not have.
        let bits = (hash >> 1 >> (63 - self.depth)) as usize;
        let position = (usize::from(self.key_groups.group_of(hash)) << self.depth) + bits;
        position.wrapping_sub(self.first_position)
    }

    /// Starts loading the bucket that a call for `hash` will look into first.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.directory[self.position(hash)].prefetch(tag_of(hash));
    }

    /// Finds the entry of `hash` whose page and slot `is_it` accepts. `is_it` is asked for all entries of the tag, and must
    /// refuse pages that do not exist.
    #[inline(always)]
    pub fn find<T>(&self, hash: u64, mut is_it: impl FnMut(u32, u32) -> Option<T>) -> Option<(Cursor, T)> {
        let leaf = self.directory[self.position(hash)];
        let tag = tag_of(hash);
        let mut b = leaf.home(tag);
        loop {
            // SAFETY: leaves in the directory are not freed, `b` is below their number of buckets, and only calls that borrow
            // the index exclusively change buckets.
            let bucket: &Bucket = unsafe { leaf.bucket(b) };
            let mut candidates = bucket.with_tag(tag);
            while candidates != 0 {
                let i = candidates.trailing_zeros();
                let (page, slot) = bucket.place(i as usize);
                if let Some(found) = is_it(page, slot) {
                    return Some((Cursor { leaf, bucket: b as u32, i }, found));
                }
                candidates &= candidates - 1;
            }
            if bucket.empty() != 0 {
                return None;
            }
            b = if b + 1 == leaf.buckets() { 0 } else { b + 1 };
        }
    }

    /// The page and slot of each entry that shares the tag of `hash` in its home bucket: what a later call will most likely
    /// want. Entries without a row may be among them: their page does not exist.
    #[inline(always)]
    pub fn candidates(&self, hash: u64, mut visit: impl FnMut(u32, u32)) {
        let leaf = self.directory[self.position(hash)];
        let tag = tag_of(hash);
        // SAFETY: as in `find`.
        let bucket: &Bucket = unsafe { leaf.bucket(leaf.home(tag)) };
        let mut candidates = bucket.with_tag(tag);
        while candidates != 0 {
            let (page, slot) = bucket.place(candidates.trailing_zeros() as usize);
            visit(page, slot);
            candidates &= candidates - 1;
        }
    }

    /// Points a found entry to another row of the same key.
    #[inline(always)]
    pub fn replace(&mut self, cursor: Cursor, hash: u64, page: u32, slot: u32) {
        // SAFETY: the cursor comes from `find`, with no insert since; the index is borrowed exclusively.
        let bucket = unsafe { cursor.leaf.bucket_mut(cursor.bucket as usize) };
        bucket.set(cursor.i as usize, Entry { tag: tag_of(hash), page, slot });
    }

    /// Takes a found entry out.
    pub fn remove(&mut self, cursor: Cursor) {
        // SAFETY: as in `replace`.
        unsafe {
            let vacant = cursor.leaf.bucket_mut(cursor.bucket as usize).remove(cursor.i as usize);
            let header = cursor.leaf.header();
            header.rows -= 1;
            header.used -= u32::from(vacant);
        }
        self.len -= 1;
    }

    /// Adds an entry for a key that has none.
    #[inline]
    pub fn insert(&mut self, hash: u64, page: u32, slot: u32) {
        let leaf = self.directory[self.position(hash)];
        // SAFETY: leaves in the directory are not freed; the index is borrowed exclusively.
        let leaf = if unsafe { leaf.header().used } < limit(leaf) { leaf } else { self.make_room(hash) };
        // SAFETY: as above; below the limit there is an empty entry besides the one that is taken.
        unsafe { leaf.insert(Entry { tag: tag_of(hash), page, slot }) };
        self.len += 1;
    }

    /// Gives `group`, which has no entries yet, leaves for `rows` of them. Otherwise the same as growing step by step, without moving
    /// entries; does nothing where there are entries, or so many that hash bits would not tell them apart.
    pub fn reserve(&mut self, group: KeyGroup, rows: u64) {
        let first = (usize::from(group) << self.depth).wrapping_sub(self.first_position);
        let Some(old) = self.directory.get(first).copied() else { return };
        // SAFETY: the leaf is in the directory.
        let (used, depth) = unsafe { (old.header().used, old.header().depth) };
        if used > 0 || depth > 0 {
            return;
        }
        let full = FULL_SIZES.start + u32::from(group) % FULL_SIZES.len() as u32;
        // Hashes spread entries unevenly: a leaf that is meant to be full would split at once.
        let fits = |size: u32, leaves: u64| rows <= leaves * u64::from(limit_of(size)) * 15 / 16;
        if let Some(size) =
            (0..=full).filter(|size| *size < FULL_SIZES.start || *size == full).find(|size| fits(*size, 1))
        {
            if size > old.size() {
                self.rebuild(first, old, size);
            }
            return;
        }
        let Some(depth) = (1..TAG_BITS).find(|depth| fits(full, 1 << depth)) else { return };
        while self.depth < depth {
            self.deepen();
        }
        let first = (usize::from(group) << self.depth) - self.first_position;
        let positions = self.positions_of(first, depth).len();
        for start in (first..first + (positions << depth)).step_by(positions) {
            let leaf = self.memory.allocate(full, depth);
            self.lead(start..start + positions, leaf);
        }
        self.leaves += (1 << depth) - 1;
        // SAFETY: it has left the directory, all positions of the group.
        unsafe { self.memory.free(old) };
    }

    /// Makes the leaf of `hash` larger, or splits it, until an entry of `hash` finds room in it; returns that leaf.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, hash: u64) -> Leaf {
        if self.directory.len() >= PREPARED_FROM {
            self.prepare(PREPARED);
        }
        loop {
            let position = self.position(hash);
            let leaf = self.directory[position];
            // SAFETY: the leaf is in the directory.
            let (used, rows, depth) = unsafe {
                let header = leaf.header();
                (header.used, header.rows, header.depth)
            };
            if used < limit(leaf) {
                return leaf;
            }
            let full = self.full_size(hash);
            if rows < limit(leaf) / 4 * 3 && rows + 1 < limit(leaf) {
                // Mostly markers of removed entries.
                self.rebuild(position, leaf, leaf.size());
            } else if leaf.size() < full {
                let next = leaf.size() + 1;
                self.rebuild(position, leaf, if FULL_SIZES.contains(&next) { full } else { next });
            } else if depth < TAG_BITS && (depth < self.depth || self.double_directory()) {
                self.split(self.position(hash), leaf);
            } else {
                let next = leaf.size().max(FULL_SIZES.end - 1) + 1;
                self.rebuild(position, leaf, next);
            }
        }
    }

    /// The size class at which leaves of the hash's group split.
    fn full_size(&self, hash: u64) -> u32 {
        let classes = FULL_SIZES.len() as u32;
        FULL_SIZES.start + u32::from(self.key_groups.group_of(hash)) % classes
    }

    /// Doubles the directory, unless that would be out of proportion to the number of leaves: then hash bits do not tell the
    /// keys of a leaf apart.
    fn double_directory(&mut self) -> bool {
        if self.depth == TAG_BITS || self.directory.len() > 16 * self.leaves + 4096 {
            return false;
        }
        self.deepen();
        true
    }

    /// Doubles the directory.
    fn deepen(&mut self) {
        self.prepare(usize::MAX);
        // Its memory will be the next one's, since giving back much takes long as well.
        std::mem::swap(&mut self.directory, &mut self.next);
        self.next.clear();
        self.depth += 1;
        self.first_position *= 2;
    }

    /// Prepares the doubling of up to `count` more positions.
    fn prepare(&mut self, count: usize) {
        self.next.reserve_exact(2 * self.directory.len() - self.next.len());
        let left = &self.directory[self.next.len() / 2..];
        self.next.extend(left.iter().take(count).flat_map(|leaf| [*leaf; 2]));
    }

    /// Makes these positions lead to `leaf`.
    fn lead(&mut self, positions: Range<usize>, leaf: Leaf) {
        let prepared = self.next.len();
        self.next[(2 * positions.start).min(prepared)..(2 * positions.end).min(prepared)].fill(leaf);
        self.directory[positions].fill(leaf);
    }

    /// The positions of the directory, and how many of the next one are prepared.
    #[cfg(test)]
    pub fn prepared(&self) -> (usize, usize) {
        (self.directory.len(), self.next.len())
    }

    /// Checks what is prepared.
    #[cfg(test)]
    pub fn check_prepared(&self) {
        let doubled = self.directory.iter().flat_map(|leaf| [leaf; 2]);
        assert!(self.next.iter().eq(doubled.take(self.next.len())), "what is prepared follows each change");
    }

    /// The directory positions of the leaf at `position`.
    fn positions_of(&self, position: usize, depth: u32) -> Range<usize> {
        let count = 1usize << (self.depth - depth);
        let start = position & !(count - 1);
        start..start + count
    }

    /// Moves a leaf's entries to one of another size.
    fn rebuild(&mut self, position: usize, leaf: Leaf, size: u32) {
        // SAFETY: the leaf is in the directory.
        let depth = unsafe { leaf.header().depth };
        let new = self.memory.allocate(size, depth);
        let positions = self.positions_of(position, depth);
        self.lead(positions, new);
        self.redistribute(leaf, |_| new);
    }

    /// Splits a leaf in two by its next hash bit. The directory is deep enough.
    fn split(&mut self, position: usize, leaf: Leaf) {
        // SAFETY: the leaf is in the directory.
        let depth = unsafe { leaf.header().depth };
        let halves = [0; 2].map(|_| self.memory.allocate(leaf.size(), depth + 1));
        let positions = self.positions_of(position, depth);
        let middle = positions.start + positions.len() / 2;
        self.lead(positions.start..middle, halves[0]);
        self.lead(middle..positions.end, halves[1]);
        self.leaves += 1;
        self.redistribute(leaf, |tag| halves[(tag >> (TAG_BITS - 1 - depth) & 1) as usize]);
    }

    /// Moves all entries of a leaf that has left the directory, and frees it.
    fn redistribute(&mut self, leaf: Leaf, target: impl Fn(u32) -> Leaf) {
        // SAFETY: source and targets differ; a target has room for all entries that the source has, which are fewer than its limit
        // allows; the source is freed once, as no directory position leads to it.
        unsafe {
            for b in 0..leaf.buckets() {
                let bucket = leaf.bucket(b);
                for entry in (0..BUCKET_ENTRIES).filter_map(|i| bucket.entry(i)) {
                    target(entry.tag).insert(entry);
                }
            }
            self.memory.free(leaf);
        }
    }
}

/// Most entries of a leaf that are not empty: seven eighths, so that most keys lie in their home bucket.
fn limit(leaf: Leaf) -> u32 {
    limit_of(leaf.size())
}

/// [`limit`] of the leaves of a size class.
fn limit_of(size: u32) -> u32 {
    buckets_of(size) * BUCKET_ENTRIES as u32 * 7 / 8
}

impl Drop for Index {
    fn drop(&mut self) {
        let mut last = None;
        for leaf in std::mem::take(&mut self.directory) {
            if last != Some(leaf) {
                // SAFETY: positions of one leaf are neighbours, so each leaf comes once here.
                unsafe { self.memory.free(leaf) };
            }
            last = Some(leaf);
        }
    }
}

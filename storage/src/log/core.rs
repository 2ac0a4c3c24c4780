//! A table without its types: index, pages and snapshots together, and what a change of one row does to them.
//!
//! Always true:
//! - each key has at most one entry in the index, which names the row that holds its present value;
//! - replaying all rows of all pages in the order of pages and slots gives the present entries, and so does leaving out any page whose
//!   `live` is 0;
//! - rows of pages of earlier epochs never change; only their bits do.
//!
//! Functions take the row shape as an argument: calls from [`super::table`] pass a constant, so that plain rows compile to
//! loads and stores.

use super::cold::Cold;
use super::compaction::Compaction;
use super::expiry::Expiry;
use super::index::{Cursor, Index};
use super::page::{PAGE_BYTES, PAGE_BYTES_MIN, RowShape};
use super::page_table::{NONE, Pages};
use super::segments::Segments;
use super::snapshot::Snapshots;
use crate::codec::DecodeError;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::segment::ROW_BYTES_MAX;
use std::ops::Range;

/// Bytes of the first memory of a page that follows a full one of the same epoch.
const PAGE_BYTES_NEXT: usize = 4 << 10;

/// What the untyped side must know of the types.
#[derive(Clone, Copy)]
pub(super) struct Codec {
    /// Checks an encoded key and returns its hash.
    pub hash_of: fn(&[u8], KeyGroups) -> Result<u64, DecodeError>,
    /// Checks an encoded value.
    pub check_value: fn(&[u8]) -> Result<(), DecodeError>,
}

/// A row that the index names.
#[derive(Clone, Copy)]
pub(super) struct Hit {
    pub cursor: Cursor,
    pub page: u32,
    pub slot: u32,
    /// Its page is of the present epoch.
    pub mutable: bool,
}

/// What a probe ends with.
#[derive(Clone, Copy)]
pub(super) enum Seen {
    Row {
        page: u32,
        slot: u32,
        mutable: bool,
    },
    /// The row may be the one, but its page is not in memory.
    Absent {
        page: u32,
        slot: u32,
    },
}

/// Counts that grow with use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub compacted_rows: u64,
    pub page_reads: u64,
    pub page_reads_blocking: u64,
    pub page_hits: u64,
}

pub(super) struct Log {
    pub index: Index,
    pub pages: Pages,
    /// Rises with each snapshot's begin.
    pub epoch: u32,
    pub key_groups: KeyGroups,
    pub range: Range<KeyGroup>,
    pub codec: Codec,
    pub segments: Segments,
    pub snapshots: Snapshots,
    pub compaction: Compaction,
    /// Rows of all pages.
    pub rows: u64,
    /// Bytes of these rows.
    pub bytes: u64,
    /// Rows that went gone since the start.
    pub retired: u64,
    /// Tombstones that are not gone.
    pub tombstones: u64,
    pub counters: Counters,
    pub expiry: Option<Expiry>,
    /// What a table with a budget of memory needs; none where all pages stay.
    pub cold: Option<Box<Cold>>,
}

impl Log {
    pub fn new(shape: RowShape, codec: Codec, key_groups: KeyGroups, range: Range<KeyGroup>) -> Self {
        Log {
            index: Index::new(key_groups, &range),
            pages: Pages::new(shape, range.len()),
            epoch: 1,
            key_groups,
            range,
            codec,
            segments: Segments::default(),
            snapshots: Snapshots::default(),
            compaction: Compaction::default(),
            rows: 0,
            bytes: 0,
            retired: 0,
            tombstones: 0,
            counters: Counters::default(),
            expiry: None,
            cold: None,
        }
    }

    /// Index, within the table, of the key group of `hash`.
    #[inline(always)]
    pub fn group_of(&self, hash: u64) -> usize {
        usize::from(self.key_groups.group_of(hash)).wrapping_sub(usize::from(self.range.start))
    }

    /// Looks for `key`, as far as that needs no page from disk.
    #[inline(always)]
    pub fn probe(&self, shape: RowShape, hash: u64, key: &[u8]) -> Option<(Cursor, Seen)> {
        self.index.find(hash, |page, slot| {
            let entry = self.pages.entry(page)?;
            let Some(rows) = entry.bytes() else { return Some(Seen::Absent { page, slot }) };
            let equal = shape.key_value(rows, slot as usize).0 == key;
            equal.then_some(Seen::Row { page, slot, mutable: entry.epoch == self.epoch })
        })
    }

    /// The row of `key`; its page is in memory afterwards.
    #[inline(always)]
    pub fn find(&mut self, shape: RowShape, hash: u64, key: &[u8]) -> Option<Hit> {
        match self.probe(shape, hash, key)? {
            (cursor, Seen::Row { page, slot, mutable }) => Some(Hit { cursor, page, slot, mutable }),
            (_, Seen::Absent { .. }) => self.find_cold(shape, hash, key),
        }
    }

    /// As [`Log::find`], reading one page after another. A row that turned out to be of another key is not looked at again: its page
    /// may have had to make room for the next.
    #[cold]
    #[inline(never)]
    fn find_cold(&mut self, shape: RowShape, hash: u64, key: &[u8]) -> Option<Hit> {
        let mut others = Vec::new();
        loop {
            let (pages, epoch) = (&self.pages, self.epoch);
            let (cursor, seen) = self.index.find(hash, |page, slot| {
                let entry = pages.entry(page).filter(|_| !others.contains(&(page, slot)))?;
                let Some(rows) = entry.bytes() else { return Some(Seen::Absent { page, slot }) };
                let equal = shape.key_value(rows, slot as usize).0 == key;
                equal.then_some(Seen::Row { page, slot, mutable: entry.epoch == epoch })
            })?;
            let (page, slot) = match seen {
                Seen::Row { page, slot, mutable } => return Some(Hit { cursor, page, slot, mutable }),
                Seen::Absent { page, slot } => (page, slot),
            };
            self.fetch(page);
            let rows = self.pages.resident(page).expect("the page was just fetched");
            if shape.key_value(rows, slot as usize).0 == key {
                let mutable = self.pages.is_mutable(page, self.epoch);
                return Some(Hit { cursor, page, slot, mutable });
            }
            others.push((page, slot));
        }
    }

    /// Appends a row to the open page of a group, and returns its page and slot. `write` fills in the value; when it panics, nothing
    /// has changed.
    ///
    /// # Panics
    /// When key or value exceed [`ROW_BYTES_MAX`].
    #[inline(always)]
    pub fn append(
        &mut self,
        shape: RowShape,
        group: usize,
        key: &[u8],
        value_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> (u32, u32) {
        let row = shape.row_bytes(key.len(), value_bytes);
        let page = self.room(shape, group, row, key.len().max(value_bytes));
        let meta = self.pages.meta(page);
        let (slot, start) = (meta.count, meta.used as usize);
        let rows = self.pages.rows_mut(page);
        let value = shape.write(rows, slot as usize, start, key, value_bytes);
        write(&mut rows[value]);
        let meta = self.pages.meta_mut(page);
        meta.count += 1;
        meta.live += 1;
        meta.used += row as u32;
        self.rows += 1;
        self.bytes += row as u64;
        (page, slot)
    }

    /// The group's open page, with room for a row of `row` bytes.
    #[inline(always)]
    fn room(&mut self, shape: RowShape, group: usize, row: usize, longest: usize) -> u32 {
        let open = self.pages.groups[group].open;
        if let Some(entry) = self.pages.entry(open)
            && entry.epoch == self.epoch
        {
            let meta = self.pages.meta(open);
            if shape.fits(entry.capacity(), meta.count as usize, meta.used as usize, row) {
                return open;
            }
        }
        self.open_page(shape, group, row, longest)
    }

    #[cold]
    #[inline(never)]
    fn open_page(&mut self, shape: RowShape, group: usize, row: usize, longest: usize) -> u32 {
        assert!(
            longest <= ROW_BYTES_MAX,
            "a key or value of {longest} bytes exceeds the {ROW_BYTES_MAX} that state can hold"
        );
        let open = self.pages.groups[group].open;
        let mut capacity = PAGE_BYTES_MIN;
        if open != NONE && self.pages.is_mutable(open, self.epoch) {
            let meta = self.pages.meta(open);
            let (count, used) = (meta.count as usize, meta.used as usize);
            let needed = shape.needed(count + 1, used + row);
            if needed <= PAGE_BYTES && shape.fits(PAGE_BYTES, count, used, row) {
                let before = self.pages.memory_of(open);
                self.pages.grow(open, needed.next_power_of_two());
                self.pages.mutable_bytes += self.pages.memory_of(open) - before;
                return open;
            }
            capacity = PAGE_BYTES_NEXT;
        }
        let needed = shape.needed(1, row);
        let capacity = if needed > PAGE_BYTES {
            needed.next_multiple_of(64)
        } else {
            capacity.max(needed.next_power_of_two())
        };
        let page = self.pages.create(group as u16, self.epoch, None);
        self.pages.attach(page, capacity);
        self.pages.mutable_bytes += capacity;
        self.pages.groups[group].open = page;
        page
    }

    /// Adds a key that is absent; the page and slot of its row.
    #[inline(always)]
    pub fn add(
        &mut self,
        shape: RowShape,
        hash: u64,
        key: &[u8],
        value_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) -> (u32, u32) {
        let (page, slot) = self.append(shape, self.group_of(hash), key, value_bytes, write);
        self.pages.set_fresh(page, slot);
        self.index.insert(hash, page, slot);
        (page, slot)
    }

    /// Gives a found key another value: in place where the row may change and keeps its length, else by a new row.
    #[inline(always)]
    pub fn store(
        &mut self,
        shape: RowShape,
        hash: u64,
        key: &[u8],
        hit: Hit,
        value_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) {
        if hit.mutable {
            let rows = self.pages.rows_mut(hit.page);
            let value = shape.value(rows, hit.slot as usize);
            if shape.value.is_some() || value.len() == value_bytes {
                return write(&mut rows[value]);
            }
        }
        self.supersede(shape, hash, key, hit, value_bytes, write);
    }

    /// Appends a new row for a found key instead of its present one.
    #[inline]
    pub fn supersede(
        &mut self,
        shape: RowShape,
        hash: u64,
        key: &[u8],
        hit: Hit,
        value_bytes: usize,
        write: impl FnOnce(&mut [u8]),
    ) {
        let (page, slot) = self.append(shape, self.group_of(hash), key, value_bytes, write);
        if hit.mutable && self.pages.meta(hit.page).fresh.get(hit.slot) {
            self.pages.set_fresh(page, slot);
        }
        self.index.replace(hit.cursor, hash, page, slot);
        self.retire(hit.page, hit.slot);
    }

    /// Removes a found key.
    pub fn delete(&mut self, shape: RowShape, hash: u64, key: &[u8], hit: Hit) {
        if !hit.mutable {
            self.bury(shape, self.group_of(hash), key);
            self.retire(hit.page, hit.slot);
        } else if self.pages.meta(hit.page).fresh.get(hit.slot) {
            self.retire(hit.page, hit.slot);
        } else {
            self.pages.set_tombstone(hit.page, hit.slot);
            self.tombstones += 1;
        }
        self.index.remove(hit.cursor);
    }

    /// Appends a tombstone.
    pub fn bury(&mut self, shape: RowShape, group: usize, key: &[u8]) {
        let value_bytes = shape.value.unwrap_or(0);
        let (page, slot) = self.append(shape, group, key, value_bytes, |value| value.fill(0));
        self.pages.set_tombstone(page, slot);
        self.tombstones += 1;
    }

    /// A row is no longer the latest word of its key.
    #[inline]
    pub fn retire(&mut self, page: u32, slot: u32) {
        self.snapshots.before_retire(&self.pages, page);
        let mutable = self.pages.is_mutable(page, self.epoch);
        debug_assert!(!self.pages.meta(page).gone.get(slot), "a row goes gone once");
        self.pages.set_gone(page, slot);
        self.retired += 1;
        if self.pages.meta(page).tombstones.get(slot) {
            self.tombstones -= 1;
        } else if mutable {
            self.pages.set_tombstone(page, slot);
        }
        let meta = self.pages.meta_mut(page);
        meta.live -= 1;
        if let Some(segment) = meta.segment() {
            self.segments.retire(segment);
        }
        if meta.live == 0 {
            self.emptied(page);
        }
    }

    /// No row of the page counts any more: gives it back, as soon as no snapshot needs it.
    pub fn emptied(&mut self, page: u32) {
        if self.snapshots.defer(&self.pages, page) {
            return;
        }
        let meta = self.pages.meta(page);
        self.rows -= u64::from(meta.count);
        self.bytes -= u64::from(meta.used);
        let open = self.pages.groups[usize::from(meta.group)].open == page;
        if open && self.pages.is_mutable(page, self.epoch) {
            self.pages.restart(page);
        } else {
            if let Some(segment) = meta.segment() {
                self.segments.leave(segment, 0);
            }
            self.page_goes(page);
            self.pages.give_back(page);
        }
    }
}

//! Memory of pages, and how rows lie in it.
//!
//! A page is a run of rows of one key group, in the order they were appended; row *i* is slot *i*. Where key and value have a fixed
//! length, rows lie back to back without anything else. Otherwise they grow from the front, and the end of each, a `u32`, lies at
//! the back, growing forward:
//!
//! | bytes                      | content                                                                   |
//! |----------------------------|---------------------------------------------------------------------------|
//! | 0.. | rows: length of the key (`u32`, only where both vary), key, value                                |
//! | ..capacity | end of each row, the first one last                                                       |
//!
//! Always true: every byte of a page is initialised; memory of the full size comes from an arena of huge pages.

#![expect(unsafe_code, reason = "owns raw memory from an arena")]

use super::leaf::SLOTS_MAX;
use crate::table::arena::Arena;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;

/// Bytes of a full page.
pub(super) const PAGE_BYTES: usize = 16 << 10;

/// Bytes of the smallest page.
pub(super) const PAGE_BYTES_MIN: usize = 256;

/// Bytes of a row's end, and of a key's length.
const LENGTH_BYTES: usize = 4;

/// The fixed lengths of a table's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowShape {
    pub key: Option<usize>,
    pub value: Option<usize>,
}

impl RowShape {
    /// Length of each row, where all have the same.
    #[inline(always)]
    pub const fn width(self) -> Option<usize> {
        match (self.key, self.value) {
            (Some(key), Some(value)) => Some(key + value),
            _ => None,
        }
    }

    const fn prefix(self) -> usize {
        if self.key.is_none() && self.value.is_none() { LENGTH_BYTES } else { 0 }
    }

    /// Bytes of a row, without its end.
    #[inline(always)]
    pub fn row_bytes(self, key: usize, value: usize) -> usize {
        self.width().unwrap_or(self.prefix() + key + value)
    }

    /// Bytes that a page of `count` rows needs, whose rows take `used`.
    #[inline(always)]
    pub fn needed(self, count: usize, used: usize) -> usize {
        used + if self.width().is_some() { 0 } else { count * LENGTH_BYTES }
    }

    fn end(page: &[u8], slot: usize) -> usize {
        let at = page.len() - LENGTH_BYTES * (slot + 1);
        u32::from_le_bytes(page[at..at + LENGTH_BYTES].try_into().expect("four bytes")) as usize
    }

    /// Where row `slot` lies.
    #[inline(always)]
    pub fn row(self, page: &[u8], slot: usize) -> Range<usize> {
        match self.width() {
            Some(width) => slot * width..slot * width + width,
            None => slot.checked_sub(1).map_or(0, |before| Self::end(page, before))..Self::end(page, slot),
        }
    }

    /// Where the key ends and the value begins within a row, and where the key begins.
    #[inline(always)]
    fn cut(self, row: &[u8]) -> (usize, usize) {
        match (self.key, self.value) {
            (Some(key), _) => (0, key),
            (None, Some(value)) => (0, row.len() - value),
            (None, None) => {
                let length: [u8; LENGTH_BYTES] = row[..LENGTH_BYTES].try_into().expect("four bytes");
                (LENGTH_BYTES, LENGTH_BYTES + u32::from_le_bytes(length) as usize)
            }
        }
    }

    /// Key and value of row `slot`.
    #[inline(always)]
    pub fn key_value(self, page: &[u8], slot: usize) -> (&[u8], &[u8]) {
        let row = &page[self.row(page, slot)];
        let (start, cut) = self.cut(row);
        (&row[start..cut], &row[cut..])
    }

    /// Where the value of row `slot` lies in its page.
    #[inline(always)]
    pub fn value(self, page: &[u8], slot: usize) -> Range<usize> {
        let row = self.row(page, slot);
        let cut = self.cut(&page[row.clone()]).1;
        row.start + cut..row.end
    }

    /// Writes row `slot`, which begins at `start`, except for its value; where that lies.
    #[inline(always)]
    pub fn write(
        self,
        page: &mut [u8],
        slot: usize,
        start: usize,
        key: &[u8],
        value_bytes: usize,
    ) -> Range<usize> {
        let mut at = start;
        if self.prefix() > 0 {
            page[at..at + LENGTH_BYTES].copy_from_slice(&(key.len() as u32).to_le_bytes());
            at += LENGTH_BYTES;
        }
        page[at..at + key.len()].copy_from_slice(key);
        at += key.len();
        let value = at..at + value_bytes;
        if self.width().is_none() {
            let entry = page.len() - LENGTH_BYTES * (slot + 1);
            page[entry..entry + LENGTH_BYTES].copy_from_slice(&(value.end as u32).to_le_bytes());
        }
        value
    }

    /// True when a page of this capacity has room for a row besides `count` rows of `used` bytes.
    #[inline(always)]
    pub fn fits(self, capacity: usize, count: usize, used: usize, row: usize) -> bool {
        count < SLOTS_MAX && self.needed(count + 1, used + row) <= capacity
    }

    /// Where the line lies that tells first where a row is, so that it can be loaded ahead.
    #[inline(always)]
    pub fn first_touched(self, capacity: usize, slot: usize) -> usize {
        match self.width() {
            Some(width) => slot * width,
            None => capacity - LENGTH_BYTES * (slot + 1),
        }
    }
}

/// The memory of one page, if it is there, and the epoch in which its rows may be changed.
#[derive(Clone, Copy)]
pub(super) struct PageEntry {
    start: Option<NonNull<u8>>,
    capacity: u32,
    pub epoch: u32,
}

impl PageEntry {
    /// A page without memory.
    pub fn absent(epoch: u32) -> Self {
        PageEntry { start: None, capacity: 0, epoch }
    }

    /// Bytes of its memory; 0 without.
    #[inline(always)]
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// True when the page has memory.
    #[inline(always)]
    pub fn is_resident(&self) -> bool {
        self.start.is_some()
    }

    /// The page's bytes, if it is in memory.
    #[inline(always)]
    pub fn bytes(&self) -> Option<&[u8]> {
        // SAFETY: an entry owns `capacity` initialised bytes; whoever may change them borrows the entry exclusively.
        self.start.map(|start| unsafe { std::slice::from_raw_parts(start.as_ptr(), self.capacity()) })
    }

    /// The page's bytes, to change them.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: as in `bytes`, and the entry is borrowed exclusively. Copies of entries are never used for access.
        self.start.map(|start| unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.capacity()) })
    }

    /// The address of byte `at`, for loading it ahead; need not be valid.
    #[inline(always)]
    pub fn address(&self, at: usize) -> *const u8 {
        self.start.map_or(std::ptr::null(), |start| start.as_ptr().cast_const().wrapping_add(at))
    }
}

/// Gives memory to pages.
pub(super) struct PageMemory {
    full: Arena,
    bytes: usize,
}

// SAFETY: the arena's memory belongs to it and to the pages of the same table alone.
unsafe impl Send for PageMemory {}
// SAFETY: as above; an entry's pointer is used only through the page table that owns it.
unsafe impl Send for PageEntry {}

impl PageMemory {
    pub fn new() -> Self {
        PageMemory { full: Arena::new(layout(PAGE_BYTES)), bytes: 0 }
    }

    /// Bytes of all pages, with what the arena holds ready.
    pub fn bytes(&self) -> usize {
        self.bytes + self.full.slack_bytes()
    }

    /// Bytes of all pages.
    pub fn used_bytes(&self) -> usize {
        self.bytes
    }

    /// Gives `entry`, which has none, memory of `capacity` bytes, all zero.
    pub fn attach(&mut self, entry: &mut PageEntry, capacity: usize) {
        let start = self.allocate(entry, capacity);
        // SAFETY: the memory has this size.
        unsafe { start.write_bytes(0, capacity) };
        entry.start = Some(start);
    }

    /// Gives `entry`, which has none, memory of `capacity` bytes with rows of fixed length, whose keys and values come back to back;
    /// what follows is zero. Writes each byte once: a restore writes gigabytes so.
    ///
    /// # Panics
    /// When there are not as many keys as values, or the rows do not fit.
    #[inline(always)]
    pub fn attach_rows(
        &mut self,
        entry: &mut PageEntry,
        capacity: usize,
        (key, keys): (usize, &[u8]),
        (value, values): (usize, &[u8]),
    ) {
        let used = keys.len() + values.len();
        let rows = used / (key + value).max(1);
        let whole = rows * key == keys.len() && rows * value == values.len();
        assert!(whole && used <= capacity, "keys and values make rows that fit the page");
        let start = self.allocate(entry, capacity);
        // SAFETY: row `row` takes `key + value` bytes behind those before it, all within `capacity`; its key and value lie within
        // their slices. The memory is new, so it overlaps neither. With the rest, all of it is written.
        unsafe {
            for row in 0..rows {
                let to = start.as_ptr().add(row * (key + value));
                keys.as_ptr().add(row * key).copy_to_nonoverlapping(to, key);
                values.as_ptr().add(row * value).copy_to_nonoverlapping(to.add(key), value);
            }
            start.add(used).write_bytes(0, capacity - used);
        }
        entry.start = Some(start);
    }

    /// Memory of `capacity` bytes for `entry`, which has none: the caller writes all of it before it goes there.
    fn allocate(&mut self, entry: &mut PageEntry, capacity: usize) -> NonNull<u8> {
        assert!(entry.start.is_none(), "a page has one memory");
        entry.capacity = u32::try_from(capacity).expect("a row is shorter than 4 GiB");
        self.bytes += capacity;
        if capacity == PAGE_BYTES {
            return self.full.take();
        }
        let layout = layout(capacity);
        // SAFETY: a page has more than no bytes.
        NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// Takes the memory of `entry` back, if it has any.
    pub fn detach(&mut self, entry: &mut PageEntry) {
        let Some(start) = entry.start.take() else { return };
        self.bytes -= entry.capacity();
        // SAFETY: `attach` got it this way; the entry names it no more.
        unsafe {
            if entry.capacity() == PAGE_BYTES {
                self.full.give_back(start);
            } else {
                dealloc(start.as_ptr(), layout(entry.capacity()));
            }
        }
        entry.capacity = 0;
    }

    /// Gives a page of `count` rows of `used` bytes memory of `capacity` bytes instead of its own, which is less.
    pub fn grow(
        &mut self,
        entry: &mut PageEntry,
        shape: RowShape,
        count: usize,
        used: usize,
        capacity: usize,
    ) {
        let mut larger = PageEntry::absent(entry.epoch);
        self.attach(&mut larger, capacity);
        if let (Some(from), Some(to)) = (entry.bytes(), larger.bytes_mut()) {
            to[..used].copy_from_slice(&from[..used]);
            let ends = shape.needed(count, 0);
            to[capacity - ends..].copy_from_slice(&from[from.len() - ends..]);
        }
        self.detach(entry);
        *entry = larger;
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 64).expect("a page fits the address space")
}

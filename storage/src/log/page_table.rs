//! The pages of a table: where each one's rows are in memory and on disk, and which rows still count.
//!
//! Always true:
//! - the pages of a group form a list in the order of their creation, which is the order in which they are replayed;
//! - in it, *clean* pages (those with a place in a segment of the last completed checkpoint) come before *dirty* ones;
//! - `live` is the number of rows that are not `gone`; a page whose `live` is 0 is given back, unless it is open or a
//!   running snapshot still needs it;
//! - a row that goes gone in the epoch of its page becomes a tombstone too, so that its value is not written.
//!
//! A page keeps its number while it exists; numbers of given back pages are used again, so whoever remembers one across calls also
//! remembers the page's sequence.

use super::bits::Bits;
use super::chunked::Chunked;
use super::leaf::PAGES_MAX;
use super::page::{PAGE_BYTES, PageEntry, PageMemory, RowShape};
use crate::table::prefetch_line;

/// Stands for no page.
pub(super) const NONE: u32 = u32::MAX;

/// Where a page lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Number of its segment, see [`super::segments`].
    pub segment: u32,
    /// Index of its block in the file.
    pub index: u32,
    /// Length of its block.
    pub bytes: u32,
    /// Where its block starts.
    pub offset: u64,
}

/// What is known of a page, in memory or not: two lines, of which the first is all that a row needs that goes gone.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct PageMeta {
    /// Rows that are no longer the latest word of their key.
    pub gone: Bits,
    /// Rows that delete their key.
    pub tombstones: Bits,
    /// Rows that are not gone; tombstones among them.
    pub live: u32,
    /// Number of rows.
    pub count: u32,
    /// Bytes of the rows, without their ends.
    pub used: u32,
    /// The segment of its place; `NONE` without one.
    segment: u32,
    /// Index of its key group within the table.
    pub group: u16,
    /// Rows before which the key was absent. Means nothing once the page is sealed.
    pub fresh: Bits,
    /// Rises with each page that is created.
    pub sequence: u64,
    pub previous: u32,
    pub next: u32,
    /// The rest of its place.
    offset: u64,
    index: u32,
    bytes: u32,
}

const _: () = assert!(size_of::<PageMeta>() == 128 && std::mem::offset_of!(PageMeta, fresh) <= 56);

impl PageMeta {
    /// That of no page.
    fn none() -> Self {
        PageMeta {
            gone: Bits::default(),
            tombstones: Bits::default(),
            live: 0,
            count: 0,
            used: 0,
            segment: NONE,
            group: 0,
            fresh: Bits::default(),
            sequence: 0,
            previous: NONE,
            next: NONE,
            offset: 0,
            index: 0,
            bytes: 0,
        }
    }

    /// Its block in a segment, if a completed checkpoint has it.
    #[inline(always)]
    pub fn place(&self) -> Option<Place> {
        let PageMeta { segment, index, bytes, offset, .. } = *self;
        (segment != NONE).then_some(Place { segment, index, bytes, offset })
    }

    /// The segment of its place.
    #[inline(always)]
    pub fn segment(&self) -> Option<u32> {
        (self.segment != NONE).then_some(self.segment)
    }

    /// Gives it another place; the one before.
    pub fn set_place(&mut self, place: Option<Place>) -> Option<Place> {
        let before = self.place();
        let none = Place { segment: NONE, index: 0, bytes: 0, offset: 0 };
        Place { segment: self.segment, index: self.index, bytes: self.bytes, offset: self.offset } =
            place.unwrap_or(none);
        before
    }

    /// Bytes of memory of the bits.
    #[cfg(test)]
    fn bits_bytes(&self) -> usize {
        self.tombstones.bytes() + self.gone.bytes() + self.fresh.bytes()
    }

    /// Forgets all bits; returns the bytes of memory that this gave back.
    fn clear_bits(&mut self) -> usize {
        self.tombstones.clear() + self.gone.clear() + self.fresh.clear()
    }

    /// True while no completed checkpoint has the page.
    pub fn is_dirty(&self) -> bool {
        self.segment == NONE
    }
}

/// The pages of one key group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    /// The oldest page.
    pub head: u32,
    /// The youngest page.
    pub tail: u32,
    /// The oldest dirty page.
    pub first_dirty: u32,
    /// The page to which rows are appended, if it is of the present epoch.
    pub open: u32,
}

pub(super) struct Pages {
    pub shape: RowShape,
    entries: Chunked<PageEntry>,
    metas: Chunked<PageMeta>,
    pub groups: Vec<Group>,
    free: Vec<u32>,
    memory: PageMemory,
    /// Bytes of memory of the bits of all pages: counted here, as sizes are asked for several times a second.
    bits_bytes: usize,
    next_sequence: u64,
    /// Bytes of the pages of the present epoch.
    pub mutable_bytes: usize,
}

impl Pages {
    pub fn new(shape: RowShape, groups: usize) -> Self {
        let group = Group { head: NONE, tail: NONE, first_dirty: NONE, open: NONE };
        Pages {
            shape,
            entries: Chunked::new(),
            metas: Chunked::new(),
            groups: vec![group; groups],
            free: Vec::new(),
            memory: PageMemory::new(),
            bits_bytes: 0,
            next_sequence: 1,
            mutable_bytes: 0,
        }
    }

    /// The sequence that the next page will have.
    pub fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Bytes of memory of rows.
    pub fn data_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Bytes of pages in memory.
    #[inline(always)]
    pub fn used_bytes(&self) -> usize {
        self.memory.used_bytes()
    }

    /// Bytes of memory that a page has, or would have if it were read back.
    pub fn memory_of(&self, page: u32) -> usize {
        let meta = self.meta(page);
        match self.entries[page as usize].capacity() {
            0 => memory_for(self.shape.needed(meta.count as usize, meta.used as usize)),
            capacity => capacity,
        }
    }

    /// Ends the changing of a page's rows before its epoch is over, if that is `epoch`.
    pub fn seal(&mut self, page: u32, epoch: u32) {
        let entry = &mut self.entries[page as usize];
        if entry.epoch == epoch {
            entry.epoch = 0;
            self.mutable_bytes -= entry.capacity();
        }
    }

    /// Takes the memory of a page that can be read back; how much that was.
    pub fn detach(&mut self, page: u32) -> usize {
        let entry = &mut self.entries[page as usize];
        let bytes = entry.capacity();
        self.memory.detach(entry);
        bytes
    }

    /// Checks that the bytes of all bits are counted.
    #[cfg(test)]
    pub fn check_bits(&self) {
        assert_eq!(self.bits_bytes, self.metas.iter().map(PageMeta::bits_bytes).sum::<usize>());
    }

    /// Bytes of memory of everything else.
    pub fn meta_bytes(&self) -> usize {
        self.entries.bytes()
            + self.metas.bytes()
            + self.bits_bytes
            + self.groups.capacity() * size_of::<Group>()
            + self.free.capacity() * size_of::<u32>()
    }

    /// The entry of page `page`, in memory or not; none where there is no such page, as an index entry without a row says.
    #[inline(always)]
    pub fn entry(&self, page: u32) -> Option<&PageEntry> {
        self.entries.get(page as usize)
    }

    /// Starts loading where `page` lies in memory.
    #[inline(always)]
    pub fn prefetch_entry(&self, page: u32) {
        if let Some(entry) = self.entries.get(page as usize) {
            prefetch_line(std::ptr::from_ref(entry).cast());
        }
    }

    /// Starts loading what is known of `page`.
    #[inline(always)]
    pub fn prefetch_meta(&self, page: u32) {
        if let Some(meta) = self.metas.get(page as usize) {
            prefetch_line(std::ptr::from_ref(meta).cast());
        }
    }

    /// Starts loading the bit that says whether a row is gone.
    #[inline(always)]
    pub fn prefetch_gone(&self, page: u32, slot: u32) {
        if let Some(meta) = self.metas.get(page as usize) {
            prefetch_line(meta.gone.address(slot));
        }
    }

    /// The rows of `page`, if they are in memory.
    ///
    /// Rows are reached through here and [`Pages::entry`] only. A page without memory is a cold one: whoever finds none here
    /// either asks for it to be read back and returns, or waits for that by [`super::core::Log::fetch`].
    #[inline(always)]
    pub fn resident(&self, page: u32) -> Option<&[u8]> {
        self.entries[page as usize].bytes()
    }

    /// The rows of a page that is in memory, as mutable pages and pages that a call has just touched are.
    #[inline(always)]
    pub fn rows_mut(&mut self, page: u32) -> &mut [u8] {
        self.entries[page as usize].bytes_mut().expect("a page that is being changed is in memory")
    }

    #[inline(always)]
    pub fn meta(&self, page: u32) -> &PageMeta {
        &self.metas[page as usize]
    }

    #[inline(always)]
    pub fn meta_mut(&mut self, page: u32) -> &mut PageMeta {
        &mut self.metas[page as usize]
    }

    /// True when `page` is still the one of this sequence.
    pub fn is(&self, page: u32, sequence: u64) -> bool {
        self.metas.get(page as usize).is_some_and(|meta| meta.sequence == sequence)
    }

    /// True when rows of `page` may be changed in place in `epoch`.
    #[inline(always)]
    pub fn is_mutable(&self, page: u32, epoch: u32) -> bool {
        self.entries[page as usize].epoch == epoch
    }

    /// Creates a page without memory at the end of its group's list.
    ///
    /// # Panics
    /// With a tebibyte of pages.
    pub fn create(&mut self, group: u16, epoch: u32, place: Option<Place>) -> u32 {
        let list = &mut self.groups[usize::from(group)];
        let (sequence, previous) = (self.next_sequence, list.tail);
        let mut meta = PageMeta { sequence, group, previous, ..PageMeta::none() };
        meta.set_place(place);
        self.next_sequence += 1;
        let page = match self.free.pop() {
            Some(page) => {
                self.entries[page as usize] = PageEntry::absent(epoch);
                self.metas[page as usize] = meta;
                page
            }
            None => {
                let page = self.entries.len() as u32;
                assert!(page < PAGES_MAX, "a table has at most {PAGES_MAX} pages");
                self.entries.push(PageEntry::absent(epoch), || PageEntry::absent(0));
                self.metas.push(meta, PageMeta::none);
                page
            }
        };
        let tail = std::mem::replace(&mut list.tail, page);
        if tail == NONE {
            list.head = page;
        } else {
            self.metas[tail as usize].next = page;
        }
        if list.first_dirty == NONE && place.is_none() {
            list.first_dirty = page;
        }
        page
    }

    /// A row of `page` is no longer the latest word of its key.
    #[inline(always)]
    pub fn set_gone(&mut self, page: u32, slot: u32) {
        self.bits_bytes += self.metas[page as usize].gone.set(slot);
    }

    /// A row of `page` deletes its key.
    #[inline(always)]
    pub fn set_tombstone(&mut self, page: u32, slot: u32) {
        self.bits_bytes += self.metas[page as usize].tombstones.set(slot);
    }

    /// The key of a row of `page` was absent before it.
    #[inline(always)]
    pub fn set_fresh(&mut self, page: u32, slot: u32) {
        self.bits_bytes += self.metas[page as usize].fresh.set(slot);
    }

    /// Forgets which rows of a sealed page were fresh.
    pub fn clear_fresh(&mut self, page: u32) {
        self.bits_bytes -= self.metas[page as usize].fresh.clear();
    }

    /// Gives a page without memory `capacity` bytes of it.
    pub fn attach(&mut self, page: u32, capacity: usize) {
        self.memory.attach(&mut self.entries[page as usize], capacity);
    }

    /// Gives a page without memory `capacity` bytes with rows; see [`PageMemory::attach_rows`].
    #[inline(always)]
    pub fn attach_rows(&mut self, page: u32, capacity: usize, keys: (usize, &[u8]), values: (usize, &[u8])) {
        self.memory.attach_rows(&mut self.entries[page as usize], capacity, keys, values);
    }

    /// Makes the memory of a page larger.
    pub fn grow(&mut self, page: u32, capacity: usize) {
        let meta = &self.metas[page as usize];
        let (count, used) = (meta.count as usize, meta.used as usize);
        self.memory.grow(&mut self.entries[page as usize], self.shape, count, used, capacity);
    }

    /// Drops a page that nothing refers to any more.
    pub fn give_back(&mut self, page: u32) {
        self.memory.detach(&mut self.entries[page as usize]);
        self.entries[page as usize].epoch = 0;
        let meta = &mut self.metas[page as usize];
        let (previous, next) = (meta.previous, meta.next);
        let list = &mut self.groups[usize::from(meta.group)];
        meta.sequence = 0;
        meta.set_place(None);
        meta.live = 0;
        meta.count = 0;
        self.bits_bytes -= meta.clear_bits();
        if list.head == page {
            list.head = next;
        }
        if list.tail == page {
            list.tail = previous;
        }
        if list.first_dirty == page {
            list.first_dirty = next;
            while list.first_dirty != NONE && !self.metas[list.first_dirty as usize].is_dirty() {
                list.first_dirty = self.metas[list.first_dirty as usize].next;
            }
        }
        if list.open == page {
            list.open = NONE;
        }
        if previous != NONE {
            self.metas[previous as usize].next = next;
        }
        if next != NONE {
            self.metas[next as usize].previous = previous;
        }
        self.free.push(page);
    }

    /// Forgets the rows of a page that is open and has none left that counts.
    pub fn restart(&mut self, page: u32) {
        let meta = &mut self.metas[page as usize];
        (meta.count, meta.live, meta.used) = (0, 0, 0);
        self.bits_bytes -= meta.clear_bits();
    }

    /// Moves the border between clean and dirty pages of the group of `page` to where it belongs after that page got a place.
    pub fn update_first_dirty(&mut self, page: u32) {
        let list = &mut self.groups[usize::from(self.metas[page as usize].group)];
        while list.first_dirty != NONE && !self.metas[list.first_dirty as usize].is_dirty() {
            list.first_dirty = self.metas[list.first_dirty as usize].next;
        }
    }

    /// Makes all pages dirty.
    pub fn forget_places(&mut self) {
        self.metas.iter_mut().for_each(|meta| _ = meta.set_place(None));
        self.groups.iter_mut().for_each(|list| list.first_dirty = list.head);
    }

    /// Numbers of all pages, given back ones included, are below this.
    pub fn numbers(&self) -> u32 {
        self.entries.len() as u32
    }

    /// The pages of a group, oldest first.
    pub fn of_group(&self, group: usize) -> impl Iterator<Item = u32> {
        let some = |page: u32| (page != NONE).then_some(page);
        std::iter::successors(some(self.groups[group].head), move |page| {
            some(self.metas[*page as usize].next)
        })
    }
}

/// Bytes of memory for a page of finished rows that need so many.
pub(super) fn memory_for(needed: usize) -> usize {
    // Memory of the full size is the arena's, which may lie in huge pages.
    let full = needed > PAGE_BYTES / 2 && needed <= PAGE_BYTES;
    if full { PAGE_BYTES } else { needed.max(1).next_multiple_of(64) }
}

impl Drop for Pages {
    fn drop(&mut self) {
        for entry in self.entries.iter_mut() {
            self.memory.detach(entry);
        }
    }
}

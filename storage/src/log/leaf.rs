//! One leaf of the index: buckets of eight entries, each bucket one cache line, in one allocation.
//!
//! | bytes            | content                                                              |
//! |------------------|----------------------------------------------------------------------|
//! | 64               | [`Header`], padded                                                   |
//! | 64 × buckets     | [`Bucket`]s: eight high words, then eight low words                  |
//!
//! An entry is 64 bits: tag (26), page (26), slot (12), from the top. The high word holds the tag and the page's upper six
//! bits, so that one bucket's tags compare as two vectors of four words. Upper page bits that are all ones mark an entry that
//! stands for no row: [`EMPTY`], or [`REMOVED`], over which a probe goes on.
//!
//! Always true of a leaf between two calls:
//! - at least one entry is empty, so a probe ends;
//! - an entry lies behind its home bucket with no bucket between that has an empty entry.
//!
//! A [`Leaf`] is a copyable handle; the index decides who frees it. Its address is a multiple of 64, and the low bits of the
//! handle say how many buckets it has, so that a probe needs no header.

#![expect(unsafe_code, reason = "a probe must load nothing but the handle and the bucket")]

use crate::table::arena::Arena;
use crate::table::prefetch_line;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Entries of a bucket.
pub(super) const BUCKET_ENTRIES: usize = 8;

const LINE_BYTES: usize = 64;
const SIZE_MASK: usize = LINE_BYTES - 1;

/// The high word of an entry that was never used, or is again as good as new.
const EMPTY: u32 = 0x3F;

/// The high word of an entry that was removed while its bucket had no empty one.
const REMOVED: u32 = 0x7F;

/// The part of a high word that holds the tag.
const TAG_BITS: u32 = !0x3F;

/// Number of the first page that entries cannot name.
pub(super) const PAGES_MAX: u32 = 0x3F << 20;

/// Number of slots that entries can tell apart within a page.
pub(super) const SLOTS_MAX: usize = 1 << 12;

/// How many buckets a leaf of each size class has. A leaf doubles through the first eight; the next four are the sizes of full
/// leaves, one for each class of groups, a quarter of an octave apart; the rest is for keys that hash bits do not tell apart.
const BUCKETS: [u32; 32] = {
    let mut buckets = [0; 32];
    let mut size = 0;
    while size < 8 {
        buckets[size] = 1 << size;
        size += 1;
    }
    [buckets[8], buckets[9], buckets[10], buckets[11]] = [152, 181, 215, 255];
    size = FULL_SIZES.end as usize;
    while size < 32 {
        buckets[size] = 512 << (size - FULL_SIZES.end as usize);
        size += 1;
    }
    buckets
};

/// Buckets of a leaf of a size class.
#[inline(always)]
pub(super) const fn buckets_of(size: u32) -> u32 {
    BUCKETS[size as usize]
}

/// The size classes of full leaves. Groups grow alike, so if all full leaves were of one size, all would split at about the same
/// time, and the index would be twice as large right after as right before; with four sizes it stays within a few
/// percent of the mean.
pub(super) const FULL_SIZES: std::ops::Range<u32> = 8..12;

/// Tag, page and slot of a row, as an index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub tag: u32,
    pub page: u32,
    pub slot: u32,
}

impl Entry {
    #[inline(always)]
    fn words(self) -> (u32, u32) {
        (self.tag << 6 | self.page >> 20, self.page << 12 | self.slot)
    }
}

/// Eight entries.
#[repr(C, align(64))]
pub(super) struct Bucket {
    high: [u32; BUCKET_ENTRIES],
    low: [u32; BUCKET_ENTRIES],
}

impl Bucket {
    /// One bit for each entry whose tag is `tag`. Entries without a row may be among them: their page does not exist.
    #[inline(always)]
    pub fn with_tag(&self, tag: u32) -> u32 {
        self.where_equal(TAG_BITS, tag << 6)
    }

    /// One bit for each empty entry.
    #[inline(always)]
    pub fn empty(&self) -> u32 {
        self.where_equal(!0, EMPTY)
    }

    #[inline(always)]
    fn where_equal(&self, mask: u32, wanted: u32) -> u32 {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: both loads lie within the eight words; x86-64 always has SSE2.
        unsafe {
            use std::arch::x86_64::*;
            let half = |i: usize| {
                let words = _mm_load_si128(self.high.as_ptr().add(4 * i).cast());
                let words = _mm_and_si128(words, _mm_set1_epi32(mask as i32));
                _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(words, _mm_set1_epi32(wanted as i32))))
                    as u32
            };
            half(0) | half(1) << 4
        }
        #[cfg(any(not(target_arch = "x86_64"), miri))]
        self.high.iter().enumerate().fold(0, |bits, (i, word)| bits | u32::from(word & mask == wanted) << i)
    }

    /// Page and slot of entry `i`.
    #[inline(always)]
    pub fn place(&self, i: usize) -> (u32, u32) {
        let i = i % BUCKET_ENTRIES;
        let (high, low) = (self.high[i], self.low[i]);
        ((high & 0x3F) << 20 | low >> 12, low & 0xFFF)
    }

    /// The entry at `i`, unless it stands for no row.
    pub fn entry(&self, i: usize) -> Option<Entry> {
        let (page, slot) = self.place(i);
        (page < PAGES_MAX).then(|| Entry { tag: self.high[i] >> 6, page, slot })
    }

    /// Makes entry `i` that of a row.
    #[inline(always)]
    pub fn set(&mut self, i: usize, entry: Entry) {
        let i = i % BUCKET_ENTRIES;
        (self.high[i], self.low[i]) = entry.words();
    }

    /// Takes entry `i` out; true if it is empty now, false if a marker stays.
    pub fn remove(&mut self, i: usize) -> bool {
        let vacant = self.empty() != 0;
        self.high[i] = if vacant { EMPTY } else { REMOVED };
        vacant
    }

    /// One bit for each entry that stands for no row.
    fn free(&self) -> u32 {
        self.empty() | self.where_equal(!0, REMOVED)
    }
}

/// What a leaf knows of itself.
#[derive(Default)]
pub(super) struct Header {
    /// Entries that are not empty: rows, and markers of removed ones.
    pub used: u32,
    /// Entries that stand for rows.
    pub rows: u32,
    /// Number of leading tag bits that all keys of the leaf share.
    pub depth: u32,
}

/// Handle of a leaf. Copies are aliases: the index frees each leaf once and uses none afterwards.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Leaf(NonNull<u8>);

/// Memory for leaves.
pub(super) struct LeafMemory {
    full: [Arena; 4],
    bytes: usize,
}

impl LeafMemory {
    pub fn new() -> Self {
        let arena = |i: usize| Arena::new(layout(FULL_SIZES.start + i as u32));
        LeafMemory { full: std::array::from_fn(arena), bytes: 0 }
    }

    /// Bytes of all leaves, with what the arenas hold ready.
    pub fn bytes(&self) -> usize {
        self.bytes + self.full.iter().map(Arena::slack_bytes).sum::<usize>()
    }

    /// An empty leaf of this size class.
    pub fn allocate(&mut self, size: u32, depth: u32) -> Leaf {
        let layout = layout(size);
        let start = if FULL_SIZES.contains(&size) {
            self.full[(size - FULL_SIZES.start) as usize].take()
        } else {
            // SAFETY: the layout has at least a header's size.
            NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
        };
        self.bytes += layout.size();
        // SAFETY: the allocation starts with room for a header, aligned to 64, and has room for all buckets behind it.
        unsafe {
            start.cast::<Header>().write(Header { used: 0, rows: 0, depth });
            let buckets = start.add(LINE_BYTES).cast::<Bucket>();
            for i in 0..BUCKETS[size as usize] as usize {
                buckets.add(i).write(Bucket { high: [EMPTY; BUCKET_ENTRIES], low: [0; BUCKET_ENTRIES] });
            }
        }
        Leaf(start.map_addr(|address| address | size as usize))
    }

    /// Takes a leaf back.
    ///
    /// # Safety
    /// It came from this memory, and no copy of the handle is used again.
    pub unsafe fn free(&mut self, leaf: Leaf) {
        let layout = layout(leaf.size());
        self.bytes -= layout.size();
        // SAFETY: `allocate` made it this way; the caller frees once.
        unsafe {
            if FULL_SIZES.contains(&leaf.size()) {
                self.full[(leaf.size() - FULL_SIZES.start) as usize].give_back(leaf.start());
            } else {
                dealloc(leaf.start().as_ptr(), layout);
            }
        }
    }
}

fn layout(size: u32) -> Layout {
    let bytes = LINE_BYTES + BUCKETS[size as usize] as usize * size_of::<Bucket>();
    Layout::from_size_align(bytes, LINE_BYTES).expect("a leaf fits the address space")
}

impl Leaf {
    /// The size class.
    #[inline(always)]
    pub fn size(self) -> u32 {
        (self.0.addr().get() & SIZE_MASK) as u32
    }

    /// Number of buckets.
    #[inline(always)]
    pub fn buckets(self) -> usize {
        BUCKETS[self.size() as usize % BUCKETS.len()] as usize
    }

    #[inline(always)]
    fn start(self) -> NonNull<u8> {
        // SAFETY: an allocation does not start at address 0, and the size class lies below its alignment.
        unsafe { NonNull::new_unchecked(self.0.as_ptr().map_addr(|address| address & !SIZE_MASK)) }
    }

    /// The bucket where a probe for `tag` starts. The tag's leading bits are those of the directory, equal within a leaf:
    /// multiplying (by the golden ratio, as Knuth's volume 3, 6.4, has it) moves all bits to the front.
    #[inline(always)]
    pub fn home(self, tag: u32) -> usize {
        ((u64::from(tag.wrapping_mul(0x9E37_79B1)) * self.buckets() as u64) >> 32) as usize
    }

    /// Starts loading the cache line where a probe for `tag` begins.
    #[inline(always)]
    pub fn prefetch(self, tag: u32) {
        prefetch_line(self.start().as_ptr().wrapping_add(LINE_BYTES + self.home(tag) * LINE_BYTES));
    }

    /// The header.
    ///
    /// # Safety
    /// The leaf is not freed, and no other reference to its header lives.
    #[inline(always)]
    pub unsafe fn header<'a>(self) -> &'a mut Header {
        // SAFETY: `allocate` wrote a header here; the caller has no other reference.
        unsafe { self.start().cast::<Header>().as_mut() }
    }

    /// Bucket `b`.
    ///
    /// # Safety
    /// The leaf is not freed, `b` is below its number of buckets, and no exclusive reference to the bucket lives.
    #[inline(always)]
    pub unsafe fn bucket<'a>(self, b: usize) -> &'a Bucket {
        debug_assert!(b < self.buckets());
        // SAFETY: `allocate` wrote all buckets; the caller says that this is one.
        unsafe { self.start().add(LINE_BYTES).cast::<Bucket>().add(b).as_ref() }
    }

    /// Bucket `b`, to change it.
    ///
    /// # Safety
    /// As [`Leaf::bucket`], and no other reference to the bucket lives.
    #[inline(always)]
    pub unsafe fn bucket_mut<'a>(self, b: usize) -> &'a mut Bucket {
        debug_assert!(b < self.buckets());
        // SAFETY: as above.
        unsafe { self.start().add(LINE_BYTES).cast::<Bucket>().add(b).as_mut() }
    }

    /// Puts `entry` into the first free place behind its home.
    ///
    /// # Safety
    /// As [`Leaf::bucket_mut`] and [`Leaf::header`], of all buckets; besides, two entries are empty.
    pub unsafe fn insert(self, entry: Entry) {
        let mut b = self.home(entry.tag);
        loop {
            // SAFETY: `b` is below the number of buckets, and the references end here.
            unsafe {
                let bucket = self.bucket_mut(b);
                let free = bucket.free();
                if free != 0 {
                    let i = free.trailing_zeros() as usize;
                    let header = self.header();
                    header.used += bucket.empty() >> i & 1;
                    header.rows += 1;
                    bucket.set(i, entry);
                    return;
                }
            }
            b = if b + 1 == self.buckets() { 0 } else { b + 1 };
        }
    }
}

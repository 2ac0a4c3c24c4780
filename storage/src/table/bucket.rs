//! One bucket of a table: a small header, slots, and a stamp for each slot, in one allocation.
//!
//! | bytes        | content                                                                                   |
//! |--------------|-------------------------------------------------------------------------------------------|
//! | 64           | [`Header`], padded                                                                        |
//! | each chunk   | [`Stamp`]s of a few slots, padded; then key and value of these slots                      |
//!
//! Chunks repeat until the capacity is reached. Where two slots or more fit a cache line together with their stamps
//! (three of 16 bytes), a chunk is one line: an access then costs one cache miss, which is what bounds a large table.
//! Larger slots come in chunks of sixteen, so that a stamp lies near its slot, mostly in the same page. A slot
//! is initialised as its stamp says.
//!
//! Always true of a bucket between two calls:
//! - stamp 0: the slot is uninitialised; [`TOMBSTONE`]: its key is initialised; otherwise key and value are;
//! - at least one stamp is 0, so a probe ends;
//! - a key lies behind its home slot with no empty slot between (linear probing).
//!
//! A [`Bucket`] is a copyable handle; the table decides who frees it. Its address is a multiple of 64, and the low bits of
//! the handle hold the logarithm of the capacity, so that a probe needs neither header nor length.

#![expect(unsafe_code, reason = "slots are initialised by their stamps, and a probe must not load a header")]

use super::arena::Arena;
use super::epochs::{Stamp, TOMBSTONE};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Bytes of the largest bucket that the table makes on its own, without stamps.
pub(super) const BUCKET_BYTES_MAX: usize = 16 << 10;

const ALIGN: usize = 64;
const LOG2_MASK: usize = ALIGN - 1;

/// Bytes of a cache line, to which buckets are aligned.
const LINE_BYTES: usize = ALIGN;

/// Slots of a chunk where a cache line does not hold two.
const CHUNK_OF_LARGE: usize = 16;

/// Of a longer slot the rest follows by itself: processors load what comes next in memory.
const PREFETCHED_BYTES_MAX: usize = 256;

struct Slot<K, V> {
    key: MaybeUninit<K>,
    value: MaybeUninit<V>,
}

/// What a bucket knows of itself.
pub(super) struct Header {
    /// The last scan that has taken from this bucket all that it needs; 0 if none.
    pub scanned: u64,
    /// Slots that are not empty.
    pub used: u32,
    /// Number of leading hash bits that all keys of the bucket share.
    pub depth: u32,
}

/// Handle of a bucket. Copies are aliases: the table frees each bucket once and uses none afterwards.
pub(super) struct Bucket<K, V> {
    tagged: NonNull<u8>,
    marker: PhantomData<*mut (K, V)>,
}

impl<K, V> Clone for Bucket<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Bucket<K, V> {}

impl<K, V> PartialEq for Bucket<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.tagged == other.tagged
    }
}

impl<K, V> Bucket<K, V> {
    const SLOT_BYTES: usize = size_of::<Slot<K, V>>();
    const SLOT_ALIGN: usize = align_of::<Slot<K, V>>();
    const HEADER_BYTES: usize = LINE_BYTES.next_multiple_of(Self::SLOT_ALIGN);

    /// Slots that fit a cache line together with their stamps.
    const LINE_SLOTS: usize = {
        let mut slots = LINE_BYTES;
        while slots > 0 && slots.next_multiple_of(Self::SLOT_ALIGN) + slots * Self::SLOT_BYTES > LINE_BYTES {
            slots -= 1;
        }
        slots
    };
    const IN_LINES: bool = Self::LINE_SLOTS >= 2;
    const CHUNK: usize = if Self::IN_LINES { Self::LINE_SLOTS } else { CHUNK_OF_LARGE };
    const STAMPS_BYTES: usize = if Self::IN_LINES {
        LINE_BYTES - Self::CHUNK * Self::SLOT_BYTES
    } else {
        Self::CHUNK.next_multiple_of(Self::SLOT_ALIGN)
    };
    const CHUNK_BYTES: usize = Self::STAMPS_BYTES + Self::CHUNK * Self::SLOT_BYTES;

    /// Logarithm of the largest capacity that the table chooses on its own.
    pub const LOG2_MAX: u32 = {
        let fit = BUCKET_BYTES_MAX / if Self::SLOT_BYTES == 0 { 1 } else { Self::SLOT_BYTES };
        let capacity = if fit < 4 {
            4
        } else if fit > 1024 {
            1024
        } else {
            fit
        };
        capacity.ilog2()
    };

    fn layout(log2: u32) -> Layout {
        let align = if align_of::<Slot<K, V>>() > ALIGN { align_of::<Slot<K, V>>() } else { ALIGN };
        let capacity = 1usize << log2;
        let bytes = if capacity < Self::CHUNK && !Self::IN_LINES {
            Some(Self::STAMPS_BYTES + capacity * Self::SLOT_BYTES)
        } else {
            Self::CHUNK_BYTES.checked_mul(capacity.div_ceil(Self::CHUNK))
        };
        let bytes = bytes
            .and_then(|bytes| bytes.checked_add(Self::HEADER_BYTES))
            .expect("a bucket fits the address space");
        Layout::from_size_align(bytes, align).expect("a bucket fits the address space")
    }

    /// An arena for buckets of the largest capacity.
    pub fn arena() -> Arena {
        Arena::new(Self::layout(Self::LOG2_MAX))
    }

    /// A bucket of `1 << log2` empty slots; from `arena` if it has the largest capacity.
    pub fn allocate(arena: &mut Arena, log2: u32, depth: u32, scanned: u64) -> Self {
        assert!(log2 < LOG2_MASK as u32);
        let layout = Self::layout(log2);
        let start = if log2 == Self::LOG2_MAX {
            arena.take()
        } else {
            // SAFETY: the layout has a size of at least the header's.
            NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
        };
        // SAFETY: the allocation starts with room for a header, aligned to 64.
        unsafe { start.cast::<Header>().write(Header { scanned, used: 0, depth }) };
        let bucket =
            Bucket { tagged: start.map_addr(|address| address | log2 as usize), marker: PhantomData };
        for chunk in 0..bucket.capacity().div_ceil(Self::CHUNK) {
            // SAFETY: every chunk starts with room for its stamps.
            unsafe { bucket.stamp_at(chunk * Self::CHUNK).write_bytes(0, Self::CHUNK) };
        }
        bucket
    }

    /// Frees the memory and drops nothing.
    ///
    /// # Safety
    /// The bucket was allocated with the same `arena`, was not freed, and no copy of the handle is used again.
    pub unsafe fn free(self, arena: &mut Arena) {
        if self.log2() == Self::LOG2_MAX {
            // SAFETY: `allocate` took it from the arena; the caller frees once.
            unsafe { arena.give_back(self.start()) }
        } else {
            // SAFETY: `allocate` used this layout; the caller frees once.
            unsafe { dealloc(self.start().as_ptr(), Self::layout(self.log2())) }
        }
    }

    /// Bytes of a bucket's allocation.
    pub fn memory_bytes(self) -> usize {
        Self::layout(self.log2()).size()
    }

    #[inline(always)]
    pub fn log2(self) -> u32 {
        (self.tagged.addr().get() & LOG2_MASK) as u32
    }

    #[inline(always)]
    pub fn capacity(self) -> usize {
        1 << self.log2()
    }

    #[inline(always)]
    fn start(self) -> NonNull<u8> {
        // SAFETY: an allocation does not start at address 0, and the tag lies below its alignment.
        unsafe { NonNull::new_unchecked(self.tagged.as_ptr().map_addr(|address| address & !LOG2_MASK)) }
    }

    #[inline(always)]
    fn slot(self, i: usize) -> *mut Slot<K, V> {
        let before = i / Self::CHUNK * Self::CHUNK_BYTES + i % Self::CHUNK * Self::SLOT_BYTES;
        self.start().as_ptr().wrapping_add(Self::HEADER_BYTES + Self::STAMPS_BYTES + before).cast()
    }

    #[inline(always)]
    fn stamp_at(self, i: usize) -> *mut Stamp {
        let before = i / Self::CHUNK * Self::CHUNK_BYTES + i % Self::CHUNK;
        self.start().as_ptr().wrapping_add(Self::HEADER_BYTES + before)
    }

    /// The slot where a probe for `hash` starts. Bits 0..16 choose the key group, the leading ones the bucket.
    #[inline(always)]
    pub fn home(self, hash: u64) -> usize {
        (hash >> 16) as usize & (self.capacity() - 1)
    }

    /// The header.
    ///
    /// # Safety
    /// The bucket is not freed, and no other reference to its header lives.
    #[inline(always)]
    pub unsafe fn header<'a>(self) -> &'a mut Header {
        // SAFETY: `allocate` wrote a header here; the caller has no other reference.
        unsafe { self.start().cast::<Header>().as_mut() }
    }

    /// Starts loading the cache lines where a probe for `hash` begins.
    #[inline(always)]
    pub fn prefetch(self, hash: u64) {
        let home = self.home(hash);
        prefetch_line(self.stamp_at(home));
        if !Self::IN_LINES {
            prefetch_line(self.slot(home).cast());
        }
    }

    /// As [`Bucket::prefetch`], and the rest of the slot where the probe begins, where most likely an entry is written.
    #[inline(always)]
    pub fn prefetch_slot(self, hash: u64) {
        self.prefetch(hash);
        if !Self::IN_LINES {
            let start = self.slot(self.home(hash)).cast::<u8>();
            let bytes = Self::SLOT_BYTES.min(PREFETCHED_BYTES_MAX);
            (LINE_BYTES..bytes).step_by(LINE_BYTES).for_each(|at| prefetch_line(start.wrapping_add(at)));
            prefetch_line(start.wrapping_add(bytes.saturating_sub(1)));
        }
    }

    /// The stamp of slot `i`.
    ///
    /// # Safety
    /// The bucket is not freed and `i` is below its capacity.
    #[inline(always)]
    pub unsafe fn stamp(self, i: usize) -> Stamp {
        // SAFETY: every stamp is initialised from `allocate` on.
        unsafe { self.stamp_at(i).read() }
    }

    /// Changes the stamp of slot `i`. The slot must be initialised as the new stamp says.
    ///
    /// # Safety
    /// As [`Bucket::stamp`].
    #[inline(always)]
    pub unsafe fn set_stamp(self, i: usize, stamp: Stamp) {
        // SAFETY: as the caller's.
        unsafe { self.stamp_at(i).write(stamp) }
    }

    /// The key of slot `i`.
    ///
    /// # Safety
    /// The bucket is not freed, stamp `i` is not 0, and the slot is neither moved nor emptied while the reference lives.
    #[inline(always)]
    pub unsafe fn key<'a>(self, i: usize) -> &'a K {
        // SAFETY: a stamp other than 0 says that the key is initialised.
        unsafe { (*self.slot(i)).key.assume_init_ref() }
    }

    /// The value of slot `i`.
    ///
    /// # Safety
    /// As [`Bucket::key`]; besides, the stamp has no [`TOMBSTONE`], and no exclusive reference to the value lives.
    #[inline(always)]
    pub unsafe fn value<'a>(self, i: usize) -> &'a V {
        // SAFETY: the stamp says that the value is initialised.
        unsafe { (*self.slot(i)).value.assume_init_ref() }
    }

    /// The value of slot `i`, to change it.
    ///
    /// # Safety
    /// As [`Bucket::value`], and no other reference to the value lives.
    #[inline(always)]
    pub unsafe fn value_mut<'a>(self, i: usize) -> &'a mut V {
        // SAFETY: the stamp says that the value is initialised.
        unsafe { (*self.slot(i)).value.assume_init_mut() }
    }

    /// Looks for `key`: the slot that holds it, alive or as a tombstone, with its stamp; else an empty slot with stamp 0.
    ///
    /// # Safety
    /// The bucket is not freed.
    #[inline(always)]
    pub unsafe fn find(self, hash: u64, key: &K) -> (usize, Stamp)
    where
        K: Eq,
    {
        let mask = self.capacity() - 1;
        let mut i = self.home(hash);
        loop {
            // SAFETY: `i` is below the capacity; the loop ends, since at least one stamp is 0.
            let stamp = unsafe { self.stamp_at(i).read() };
            if stamp == 0 {
                return (i, 0);
            }
            // SAFETY: the stamp is not 0.
            if unsafe { self.key(i) } == key {
                return (i, stamp);
            }
            i = (i + 1) & mask;
        }
    }

    /// The first empty slot for a key of `hash` that is not in the bucket.
    ///
    /// # Safety
    /// The bucket is not freed.
    pub unsafe fn find_empty(self, hash: u64) -> usize {
        let mut i = self.home(hash);
        // SAFETY: `i` is below the capacity; the loop ends, since at least one stamp is 0.
        while unsafe { self.stamp(i) } != 0 {
            i = (i + 1) & (self.capacity() - 1);
        }
        i
    }

    /// Fills the empty slot `i`, where a probe for the key ends, and counts it.
    ///
    /// # Safety
    /// The bucket is not freed, `i` is below its capacity, its stamp is 0, and another one is 0 too.
    #[inline]
    pub unsafe fn fill(self, i: usize, stamp: Stamp, key: K, value: V) {
        // SAFETY: the slot lies within the allocation and holds nothing that would have to be dropped.
        unsafe {
            self.slot(i).write(Slot { key: MaybeUninit::new(key), value: MaybeUninit::new(value) });
            self.set_stamp(i, stamp);
            self.header().used += 1;
        }
    }

    /// Turns slot `i` into a tombstone and returns its value.
    ///
    /// # Safety
    /// As [`Bucket::value`].
    pub unsafe fn bury(self, i: usize, stamp: Stamp) -> V {
        // SAFETY: the value is initialised; the new stamp says that it no longer is.
        unsafe {
            self.set_stamp(i, stamp | TOMBSTONE);
            (*self.slot(i)).value.assume_init_read()
        }
    }

    /// Puts a value into the tombstone at slot `i`.
    ///
    /// # Safety
    /// As [`Bucket::key`]; besides, the stamp has [`TOMBSTONE`].
    pub unsafe fn revive(self, i: usize, stamp: Stamp, value: V) {
        // SAFETY: the tombstone has a key and no value.
        unsafe {
            (*self.slot(i)).value.write(value);
            self.set_stamp(i, stamp);
        }
    }

    /// Empties live slot `i`, moves later entries up so that probes still find them, and returns the entry.
    ///
    /// # Safety
    /// As [`Bucket::value`]. `hash_of` must not touch the bucket.
    pub unsafe fn take(self, i: usize, hash_of: impl Fn(&K) -> u64) -> (K, V) {
        let mask = self.capacity() - 1;
        // The user's hash function may panic: all its calls come before the first move.
        let mut homes = Vec::new();
        let mut next = (i + 1) & mask;
        // SAFETY: slots are read while their stamp is not 0, up to the next empty one.
        while unsafe { self.stamp(next) } != 0 {
            // SAFETY: as above.
            homes.push(self.home(hash_of(unsafe { self.key(next) })));
            next = (next + 1) & mask;
        }
        // SAFETY: the slot is live; its stamp becomes 0, or another entry moves in, before anyone sees it again.
        let taken = unsafe { self.slot(i).read() };
        let mut hole = i;
        for (distance, home) in homes.into_iter().enumerate() {
            let from = (i + 1 + distance) & mask;
            // An entry may move to the hole unless its home lies behind the hole.
            if (from.wrapping_sub(home) & mask) >= (from.wrapping_sub(hole) & mask) {
                // SAFETY: `from` is filled, `hole` holds nothing, and they differ.
                unsafe {
                    self.slot(hole).copy_from_nonoverlapping(self.slot(from), 1);
                    self.set_stamp(hole, self.stamp(from));
                }
                hole = from;
            }
        }
        // SAFETY: the hole's entry was read or moved away.
        unsafe {
            self.set_stamp(hole, 0);
            self.header().used -= 1;
            (taken.key.assume_init(), taken.value.assume_init())
        }
    }

    /// Moves slot `i` with its stamp to `to`, which lacks its key and has two empty slots or more; the source's stamp
    /// stays, and its slot must not be used again.
    ///
    /// # Safety
    /// Neither bucket is freed, stamp `i` is not 0.
    pub unsafe fn move_slot(self, i: usize, to: Bucket<K, V>, hash: u64) {
        // SAFETY: the target slot is empty; the entry is copied once and the source forgets it.
        unsafe {
            let at = to.find_empty(hash);
            to.slot(at).copy_from_nonoverlapping(self.slot(i), 1);
            to.set_stamp(at, self.stamp(i));
            to.header().used += 1;
        }
    }

    /// Drops key and value of slot `i`, as far as its stamp says that there are any; the stamp stays, and the slot must
    /// not be used again.
    ///
    /// # Safety
    /// The bucket is not freed and `i` is below its capacity.
    pub unsafe fn drop_slot(self, i: usize) {
        // SAFETY: the stamp says what is initialised.
        unsafe {
            let stamp = self.stamp(i);
            if stamp != 0 {
                (*self.slot(i)).key.assume_init_drop();
                if stamp & TOMBSTONE == 0 {
                    (*self.slot(i)).value.assume_init_drop();
                }
            }
        }
    }
}

/// Starts loading the cache line of `address`, which need not be valid.
#[inline(always)]
pub(crate) fn prefetch_line(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch has no effect but on the cache, whatever the address; x86-64 always has SSE.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: a prefetch has no effect but on the cache, whatever the address.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(not(any(target_arch = "x86_64", target_arch = "aarch64")), miri))]
    let _ = address;
}

//! Memory for the buckets of one table that have the full size, carved from large regions.
//!
//! A table of millions of entries is visited in random order: with buckets in pages of 4 KiB, most visits also miss the
//! processor's address translation. So the arena asks for regions in 2 MiB steps and recommends them for huge pages
//! (`madvise(MADV_HUGEPAGE)`; where the system refuses, only speed is lost). Its first regions are small, so that small
//! tables stay small.
//!
//! Always true: every block handed out has the layout given at the start, lies in exactly one region, and belongs to one
//! holder until it is given back; regions live until the arena is dropped.

#![expect(unsafe_code, reason = "hands out raw memory")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// A huge page of x86-64 and of common arm64 kernels, in bytes.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Blocks of the first region; each further region has twice as many, up to a huge page.
const FIRST_REGION_BLOCKS: usize = 4;

/// Hands out blocks of one layout.
pub(super) struct Arena {
    block: Layout,
    free: Vec<NonNull<u8>>,
    regions: Vec<(NonNull<u8>, Layout)>,
    /// The next unused byte of the newest region, and how many blocks are left there.
    next: NonNull<u8>,
    left: usize,
}

impl Arena {
    /// An arena of blocks with this layout, without any memory yet.
    pub fn new(block: Layout) -> Self {
        Arena {
            block: block.pad_to_align(),
            free: Vec::new(),
            regions: Vec::new(),
            next: NonNull::dangling(),
            left: 0,
        }
    }

    /// A block, uninitialised.
    pub fn take(&mut self) -> NonNull<u8> {
        if let Some(block) = self.free.pop() {
            return block;
        }
        if self.left == 0 {
            self.grow();
        }
        let block = self.next;
        self.left -= 1;
        // SAFETY: a region holds as many blocks as it was made for; one past the last stays within its bounds.
        self.next = unsafe { block.add(self.block.size()) };
        block
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// The block came from [`Arena::take`] of this arena, and nobody uses it any more.
    pub unsafe fn give_back(&mut self, block: NonNull<u8>) {
        self.free.push(block);
    }

    /// Bytes that are allocated and not in use.
    pub fn slack_bytes(&self) -> usize {
        (self.free.len() + self.left) * self.block.size()
    }

    #[cold]
    fn grow(&mut self) {
        let blocks_max = (HUGE_PAGE_BYTES / self.block.size()).max(1);
        let blocks = (FIRST_REGION_BLOCKS << self.regions.len().min(16)).min(blocks_max);
        let bytes = blocks * self.block.size();
        let huge = blocks == blocks_max;
        let align = if huge { HUGE_PAGE_BYTES } else { self.block.align() };
        // The tail of a huge page that holds no whole block is left unused.
        let bytes = if huge { bytes.next_multiple_of(HUGE_PAGE_BYTES) } else { bytes };
        let layout = Layout::from_size_align(bytes, align).expect("a region fits the address space");
        // SAFETY: a block, and so a region, is larger than nothing.
        let Some(region) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if huge {
            // SAFETY: the range is ours and page-aligned; the advice changes no content.
            let advised = unsafe {
                rustix::mm::madvise(region.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxHugepage)
            };
            // A system without huge pages runs on small ones.
            let _ = advised;
        }
        self.regions.push((region, layout));
        self.next = region;
        self.left = blocks;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for (region, layout) in self.regions.drain(..) {
            // SAFETY: allocated with this layout, once; whoever holds blocks must not outlive the arena.
            unsafe { dealloc(region.as_ptr(), layout) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn blocks_are_distinct_aligned_and_reused() {
        let layout = Layout::from_size_align(1_000, 64).unwrap();
        let mut arena = Arena::new(layout);
        let blocks: Vec<_> = (0..10_000).map(|_| arena.take()).collect();
        let mut starts: Vec<usize> = blocks.iter().map(|b| b.addr().get()).collect();
        starts.sort_unstable();
        assert!(starts.iter().all(|start| start % 64 == 0));
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 1_000));
        let slack = arena.slack_bytes();
        // SAFETY: nothing was stored in the blocks.
        blocks.iter().for_each(|block| unsafe { arena.give_back(*block) });
        let again: HashSet<usize> = (0..10_000).map(|_| arena.take().addr().get()).collect();
        assert_eq!(again, starts.into_iter().collect());
        assert_eq!(arena.slack_bytes(), slack);
    }
}

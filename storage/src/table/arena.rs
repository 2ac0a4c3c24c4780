//! Memory for the buckets of one table that have the full size, carved from large regions.
//!
//! A table of millions of entries is visited in random order: with buckets in pages of 4 KiB, most visits also miss the
//! processor's address translation. So a large table's arena asks for regions of 2 MiB and recommends them for huge pages
//! (`madvise(MADV_HUGEPAGE)`; where the system refuses, only speed is lost). Regions grow with the table, so that at most
//! about a ninth of its memory waits to be used.
//!
//! Always true: every block handed out has the layout given at the start, lies in exactly one region, and belongs to one
//! holder until it is given back; no region outlives the last block, and about an eighth of the memory at most waits in empty ones.

#![expect(unsafe_code, reason = "hands out raw memory")]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;

/// A huge page of x86-64 and of common arm64 kernels, in bytes.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A region has this share of the blocks that the arena holds already, but never more than a huge page holds.
const GROWTH: usize = 8;

/// Hands out blocks of one layout.
pub(crate) struct Arena {
    block: Layout,
    /// By start address.
    regions: BTreeMap<usize, Region>,
    /// Start addresses of the regions that have a block left.
    roomy: BTreeSet<usize>,
    /// Blocks of all regions.
    blocks: usize,
    used: usize,
}

struct Region {
    start: NonNull<u8>,
    layout: Layout,
    blocks: usize,
    /// Blocks that were never handed out follow this many that were.
    begun: usize,
    free: Vec<NonNull<u8>>,
}

impl Region {
    fn used(&self) -> usize {
        self.begun - self.free.len()
    }
}

impl Arena {
    /// An arena of blocks with this layout, without any memory yet.
    pub fn new(block: Layout) -> Self {
        let (regions, roomy) = (BTreeMap::new(), BTreeSet::new());
        Arena { block: block.pad_to_align(), regions, roomy, blocks: 0, used: 0 }
    }

    /// A block, uninitialised.
    pub fn take(&mut self) -> NonNull<u8> {
        let start = match self.roomy.first() {
            Some(start) => *start,
            None => self.grow(),
        };
        let region = self.regions.get_mut(&start).expect("a roomy region exists");
        let block = region.free.pop().unwrap_or_else(|| {
            region.begun += 1;
            // SAFETY: the region holds `blocks` blocks, of which this is number `begun - 1`.
            unsafe { region.start.add((region.begun - 1) * self.block.size()) }
        });
        if region.used() == region.blocks {
            self.roomy.remove(&start);
        }
        self.used += 1;
        block
    }

    /// Takes a block back.
    ///
    /// # Safety
    /// The block came from [`Arena::take`] of this arena, and nobody uses it any more.
    pub unsafe fn give_back(&mut self, block: NonNull<u8>) {
        let owner = self.regions.range_mut(..=block.addr().get()).next_back();
        let (start, region) = owner.expect("a block lies in a region");
        let start = *start;
        region.free.push(block);
        self.used -= 1;
        self.roomy.insert(start);
        if region.used() == 0 {
            self.free_spare(start);
        }
    }

    /// An empty region stays while there is little spare, as memory that the system takes and gives again has to be cleared;
    /// otherwise frees the one at `start`, and all other empty ones if that is not enough.
    #[cold]
    fn free_spare(&mut self, start: usize) {
        let own = self.regions.get(&start).map_or(0, |region| region.blocks);
        let allowed = if self.used == 0 { 0 } else { own + self.used / GROWTH };
        if self.blocks - self.used > allowed {
            self.free_region(start);
        }
        if self.blocks - self.used > allowed {
            let empty = self.regions.iter().filter(|(_, region)| region.used() == 0).map(|(start, _)| *start);
            empty.collect::<Vec<_>>().into_iter().for_each(|start| self.free_region(start));
        }
    }

    /// Frees a region without used blocks.
    fn free_region(&mut self, start: usize) {
        self.roomy.remove(&start);
        if let Some(region) = self.regions.remove(&start) {
            self.blocks -= region.blocks;
            // SAFETY: allocated with this layout, once, and none of its blocks is in use.
            unsafe { dealloc(region.start.as_ptr(), region.layout) };
        }
    }

    /// Bytes that are allocated and not in use.
    pub fn slack_bytes(&self) -> usize {
        (self.blocks - self.used) * self.block.size()
    }

    /// Adds a region and returns its address.
    #[cold]
    fn grow(&mut self) -> usize {
        let blocks_max = (HUGE_PAGE_BYTES / self.block.size()).max(1);
        let blocks = (self.blocks / GROWTH).clamp(1, blocks_max);
        let bytes = blocks * self.block.size();
        let huge = blocks == blocks_max;
        // The tail of a huge page that holds no whole block is left unused.
        let (bytes, align) = if huge {
            (bytes.next_multiple_of(HUGE_PAGE_BYTES), HUGE_PAGE_BYTES)
        } else {
            (bytes, self.block.align())
        };
        let layout = Layout::from_size_align(bytes, align).expect("a region fits the address space");
        // SAFETY: a block, and so a region, is larger than nothing.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if huge {
            // A system without huge pages runs on small ones.
            // SAFETY: the range is ours and page-aligned; the advice changes no content.
            let _ = unsafe {
                rustix::mm::madvise(start.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxHugepage)
            };
        }
        let address = start.addr().get();
        self.regions.insert(address, Region { start, layout, blocks, begun: 0, free: Vec::new() });
        self.roomy.insert(address);
        self.blocks += blocks;
        address
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for region in self.regions.values() {
            // SAFETY: allocated with this layout, once; whoever holds blocks must not outlive the arena.
            unsafe { dealloc(region.start.as_ptr(), region.layout) };
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
        assert!(arena.slack_bytes() <= 10_000 * 1_024 / 8);
        let (kept, given) = blocks.split_at(5_000);
        // SAFETY: nothing was stored in the blocks.
        given.iter().for_each(|block| unsafe { arena.give_back(*block) });
        let kept: HashSet<usize> = kept.iter().map(|b| b.addr().get()).collect();
        assert!((0..5_000).all(|_| !kept.contains(&arena.take().addr().get())));
    }

    #[test]
    fn memory_goes_with_the_last_block_of_its_region() {
        let mut arena = Arena::new(Layout::from_size_align(4_096, 64).unwrap());
        let blocks: Vec<_> = (0..2_000).map(|_| arena.take()).collect();
        // SAFETY: nothing was stored in the blocks.
        blocks.iter().for_each(|block| unsafe { arena.give_back(*block) });
        assert_eq!(arena.slack_bytes(), 0);
        assert!(arena.regions.is_empty());
    }
}

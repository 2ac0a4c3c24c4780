//! Memory for the blocks of one table that have the full size, carved from larger regions.
//!
//! A table of millions of entries is visited in random order: with blocks in pages of 4 KiB, most visits also miss the
//! processor's address translation. So a large table's arena takes its memory in huge pages, which a thread makes ready
//! ([`super::regions`]). A small table's regions grow with it, so that at most about a ninth of its memory waits to be used.
//!
//! Always true: every block handed out has the layout given at the start, lies in exactly one region, and belongs to
//! one holder until it is given back; no region outlives the last block, and about an eighth of the memory at most waits in empty ones.

#![expect(unsafe_code, reason = "hands out raw memory")]

use super::regions::{self, REGION_BYTES};
use std::alloc::Layout;
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;

/// A region has this share of the blocks that the arena holds already.
const GROWTH: usize = 8;

/// Most bytes of a region that is no huge page: as many as are had and given back within some ten microseconds.
const SMALL_BYTES: usize = 256 << 10;

/// One block in so many may lie in a small region because no huge page was ready, besides twice those that an arena has before it takes
/// huge pages: rather than wait for one.
const MAKESHIFT: usize = 4;

/// Hands out blocks of one layout.
pub(crate) struct Arena {
    block: Layout,
    /// By start address.
    regions: BTreeMap<usize, Region>,
    /// Start addresses of the regions that have a block left.
    roomy: BTreeSet<usize>,
    /// Blocks of all regions.
    blocks: usize,
    /// Blocks of regions that are no huge pages.
    small_blocks: usize,
    used: usize,
}

struct Region {
    memory: Memory,
    blocks: usize,
    /// Blocks that were never handed out follow this many that were.
    begun: usize,
    free: Vec<NonNull<u8>>,
}

/// Who owns a region's memory, and so takes it back.
enum Memory {
    Huge(regions::Region),
    Small(regions::Small),
}

impl Memory {
    fn start(&self) -> NonNull<u8> {
        match self {
            Memory::Huge(region) => region.start(),
            Memory::Small(small) => small.start(),
        }
    }
}

impl Region {
    fn used(&self) -> usize {
        self.begun - self.free.len()
    }

    fn is_huge(&self) -> bool {
        matches!(self.memory, Memory::Huge(_))
    }
}

impl Arena {
    /// An arena of blocks with this layout, without any memory yet.
    pub fn new(block: Layout) -> Self {
        let (regions, roomy) = (BTreeMap::new(), BTreeSet::new());
        Arena { block: block.pad_to_align(), regions, roomy, blocks: 0, small_blocks: 0, used: 0 }
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
            unsafe { region.memory.start().add((region.begun - 1) * self.block.size()) }
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

    /// An empty region stays while there is little spare; otherwise frees the one at `start`, and if that is not enough one more: each of
    /// those that stayed empty before comes to be freed in its turn. All go with the last block.
    #[cold]
    fn free_spare(&mut self, start: usize) {
        let own = self.regions.get(&start).map_or(0, |region| region.blocks);
        let allowed = if self.used == 0 { 0 } else { own + self.used / GROWTH };
        if self.blocks - self.used > allowed {
            self.free_region(start);
        }
        let mut most = if self.used == 0 { usize::MAX } else { 1 };
        while self.blocks - self.used > allowed && most > 0 {
            let empty = self.regions.iter().find(|(_, region)| region.used() == 0).map(|(start, _)| *start);
            let Some(start) = empty else { return };
            self.free_region(start);
            most -= 1;
        }
    }

    /// Frees a region without used blocks.
    fn free_region(&mut self, start: usize) {
        let Some(region) = self.regions.remove(&start) else { return };
        let (blocks, huge) = (region.blocks, region.is_huge());
        match region.memory {
            Memory::Huge(memory) => {
                if let Some(memory) = regions::give_back(memory) {
                    // Its owner was busy; it stays here, empty.
                    let memory = Memory::Huge(memory);
                    self.regions.insert(start, Region { memory, ..region });
                    return;
                }
            }
            Memory::Small(memory) => regions::discard(memory),
        }
        self.roomy.remove(&start);
        self.blocks -= blocks;
        self.small_blocks -= if huge { 0 } else { blocks };
    }

    /// Bytes that are allocated and not in use.
    pub fn slack_bytes(&self) -> usize {
        (self.blocks - self.used) * self.block.size()
    }

    /// Adds a region and returns its address.
    #[cold]
    fn grow(&mut self) -> usize {
        let huge_blocks = REGION_BYTES / self.block.size();
        let (memory, blocks) = if huge_blocks > 0 && self.blocks / GROWTH >= huge_blocks {
            match regions::take() {
                Some(region) => (Memory::Huge(region), huge_blocks),
                None if self.small_blocks < self.blocks / MAKESHIFT + 2 * GROWTH * huge_blocks => {
                    self.small()
                }
                None => (Memory::Huge(regions::take_or_create()), huge_blocks),
            }
        } else {
            self.small()
        };
        let address = memory.start().addr().get();
        let region = Region { memory, blocks, begun: 0, free: Vec::new() };
        self.small_blocks += if region.is_huge() { 0 } else { blocks };
        self.regions.insert(address, region);
        self.roomy.insert(address);
        self.blocks += blocks;
        address
    }

    /// The memory of a small region, and how many blocks it holds.
    fn small(&self) -> (Memory, usize) {
        let blocks = (self.blocks / GROWTH).min(SMALL_BYTES / self.block.size()).max(1);
        let layout = Layout::from_size_align(blocks * self.block.size(), self.block.align());
        let layout = layout.expect("a region fits the address space");
        (Memory::Small(regions::Small::create(layout)), blocks)
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for region in std::mem::take(&mut self.regions).into_values() {
            // Small ones go as they are dropped. Whoever holds blocks must not outlive the arena.
            if let Memory::Huge(mut memory) = region.memory {
                while let Some(still) = regions::give_back(memory) {
                    memory = still;
                    std::thread::yield_now();
                }
            }
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

//! Direct I/O: memory and ranges as it wants them, and how it is switched on and off for a file.
//!
//! Transfers around the page cache need a place in the file, a length and memory that are multiples of the device's block. All
//! common file systems accept [`DIRECT_BYTES`]. A read of anything else is widened here, and cut to what was asked for.
//!
//! Always true: the memory of a [`Buffer`] starts and ends at a multiple of [`DIRECT_BYTES`] and is initialised.

use super::super::DIRECT_BYTES;
use rustix::fs::OFlags;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

/// Memory that is kept for reuse, at most: enough for a full ring of reads of 16 KiB.
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Buffers are kept in sizes of 1, 2, 4, … blocks; larger ones are given back to the system.
const CLASSES: usize = 8;

#[derive(Clone, FromBytes, Immutable, IntoBytes)]
#[repr(C, align(4096))]
struct Block([u8; DIRECT_BYTES]);

const _: () = assert!(align_of::<Block>() == DIRECT_BYTES && size_of::<Block>() == DIRECT_BYTES);

/// Aligned memory of one transfer.
pub(super) struct Buffer(Vec<Block>);

impl Buffer {
    /// All of it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }

    /// All of it, to be changed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }
}

/// Buffers that wait for their next transfer.
#[derive(Default)]
pub(super) struct Pool {
    kept: [Vec<Buffer>; CLASSES],
    kept_bytes: usize,
}

impl Pool {
    /// A buffer of at least `bytes` bytes, or `OutOfMemory` in place of an abort. What it holds is left over from earlier.
    pub(super) fn take(&mut self, bytes: usize) -> io::Result<Buffer> {
        let blocks = bytes.div_ceil(DIRECT_BYTES).max(1);
        let class = class_of(blocks);
        if let Some(kept) = self.kept.get_mut(class)
            && let Some(buffer) = kept.pop()
        {
            self.kept_bytes -= buffer.bytes().len();
            return Ok(buffer);
        }
        let blocks = if class < CLASSES { 1 << class } else { blocks };
        let mut memory = Vec::new();
        memory.try_reserve_exact(blocks).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        memory.resize(blocks, Block::new_zeroed());
        Ok(Buffer(memory))
    }

    /// Takes a buffer back that no transfer uses any more.
    pub(super) fn give(&mut self, buffer: Buffer) {
        let bytes = buffer.bytes().len();
        if let Some(kept) = self.kept.get_mut(class_of(bytes / DIRECT_BYTES))
            && self.kept_bytes + bytes <= KEPT_BYTES_MAX
        {
            self.kept_bytes += bytes;
            kept.push(buffer);
        }
    }
}

fn class_of(blocks: usize) -> usize {
    blocks.next_power_of_two().trailing_zeros() as usize
}

/// The smallest range of whole blocks that holds `bytes` bytes at `offset`, which end within the largest file.
pub(super) fn widened(offset: u64, bytes: usize) -> Range<u64> {
    let block = DIRECT_BYTES as u64;
    offset / block * block..(offset + bytes as u64).next_multiple_of(block)
}

/// True for a write that can go around the page cache.
pub(super) fn is_aligned(offset: u64, bytes: usize) -> bool {
    bytes > 0 && offset.is_multiple_of(DIRECT_BYTES as u64) && bytes.is_multiple_of(DIRECT_BYTES)
}

/// Switches direct I/O on or off for an open file. Refused with `EINVAL` where its file system has none.
///
/// On the open file, and not by a flag of the open: a refused open may leave the file behind that it was to create.
pub(super) fn set_direct(fd: impl AsFd, on: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(&fd)?;
    flags.set(OFlags::DIRECT, on);
    Ok(rustix::fs::fcntl_setfl(&fd, flags)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_aligned_and_large_enough() {
        let mut pool = Pool::default();
        for bytes in [0, 1, 4096, 4097, 16 << 10, (1 << 20) + 1] {
            let mut buffer = pool.take(bytes).expect("memory");
            assert!(buffer.bytes().len() >= bytes);
            assert!(buffer.bytes_mut().as_ptr().addr().is_multiple_of(DIRECT_BYTES));
            assert!(buffer.bytes().len().is_multiple_of(DIRECT_BYTES));
            pool.give(buffer);
        }
    }

    #[test]
    fn buffers_are_used_again_and_few_are_kept() {
        let mut pool = Pool::default();
        let first = pool.take(10_000).expect("memory");
        let address = first.bytes().as_ptr();
        pool.give(first);
        assert_eq!(pool.take(12_000).expect("memory").bytes().as_ptr(), address);
        let many: Vec<_> = (0..4_000).map(|_| pool.take(16 << 10).expect("memory")).collect();
        many.into_iter().for_each(|buffer| pool.give(buffer));
        assert_eq!(pool.kept_bytes, KEPT_BYTES_MAX);
    }

    #[test]
    fn memory_that_nobody_has_is_refused() {
        let error = Pool::default().take(usize::MAX / 2).err().expect("refused");
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn a_range_is_widened_to_whole_blocks() {
        assert_eq!(widened(0, 1), 0..4096);
        assert_eq!(widened(4095, 2), 0..8192);
        assert_eq!(widened(4096, 4096), 4096..8192);
        assert_eq!(widened(i64::MAX as u64 - 1, 1), (1 << 63) - 4096..1 << 63);
        assert!(is_aligned(8192, 4096));
        assert!(!is_aligned(8192, 0) && !is_aligned(8192, 4095) && !is_aligned(1, 4096));
    }
}

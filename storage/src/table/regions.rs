//! Huge pages for the arenas of all tables, made ready and given back to the system by a thread of its own.
//!
//! The first touch of a huge page makes the kernel clear 2 MiB: about 150 µs, and several milliseconds in a virtual machine whose
//! host has to find the memory first; giving one back takes as long as the former. No record should wait for that. So a thread, pinned
//! to no core, keeps a few regions ready ahead, and what arenas return is handed out again as it is.
//!
//! Always true:
//! - [`take`] and [`give_back`] never block and make no system call but to wake the thread;
//! - at most [`AHEAD_MAX`] regions and a thirty-second of those in use wait for long: what exceeds that goes back to the system, a region at a
//!   time; all do soon after the last has been returned.

#![expect(unsafe_code, reason = "owns raw memory")]

use crate::threads;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::collections::VecDeque;
use std::ptr::NonNull;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Bytes of a region, and its alignment: a huge page of x86-64 and of common arm64 kernels.
pub(super) const REGION_BYTES: usize = 2 << 20;

/// Most regions that are kept ready ahead of need.
const AHEAD_MAX: usize = 4;

/// While so many regions are in use, one more may wait to be used again.
const IN_USE_PER_SPARE: usize = 32;

/// Regions that wait in excess leave one in each such time: longer than the ups and downs of a table between two snapshots.
const RELEASE_INTERVAL: Duration = Duration::from_millis(100);

/// [`REGION_BYTES`] bytes, aligned to their number, with whatever is in them. Whoever holds it owns them.
pub(super) struct Region {
    start: NonNull<u8>,
    /// It is a mapping of its own; otherwise the allocator's.
    mapped: bool,
}

// SAFETY: a region owns its memory alone.
unsafe impl Send for Region {}

impl Region {
    const LAYOUT: Layout = match Layout::from_size_align(REGION_BYTES, REGION_BYTES) {
        Ok(layout) => layout,
        Err(_) => panic!("a power of two"),
    };

    /// A new one. Its memory is there once this returns: nobody has to wait for it later.
    fn create() -> Self {
        if let Some(start) = mapping::create() {
            return Region { start, mapped: true };
        }
        // SAFETY: the layout has a size.
        let start = unsafe { alloc(Self::LAYOUT) };
        Region {
            start: NonNull::new(start).unwrap_or_else(|| handle_alloc_error(Self::LAYOUT)),
            mapped: false,
        }
    }

    /// The first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the region owns its memory, which `create` got in this way, and nobody uses it any more.
        unsafe {
            if self.mapped {
                mapping::remove(self.start);
            } else {
                dealloc(self.start.as_ptr(), Self::LAYOUT);
            }
        }
    }
}

#[cfg(all(target_os = "linux", not(miri)))]
mod mapping {
    use super::REGION_BYTES;
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
    use std::ptr::NonNull;

    /// Bytes of the smallest page.
    const PAGE_BYTES: usize = 4 << 10;

    /// Maps a region, touched. `None` where the system refuses, as it does beyond a limit of mappings.
    pub fn create() -> Option<NonNull<u8>> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping of twice the size at an address of the kernel's choice; what is cut off again to align it is part
        // of it, and used by nobody. Where cutting fails, the ends stay mapped, untouched. The advice changes no content.
        let start = unsafe {
            let whole = mmap_anonymous(std::ptr::null_mut(), 2 * REGION_BYTES, protection, MapFlags::PRIVATE);
            let whole = whole.ok()?.cast::<u8>();
            let before = whole.align_offset(REGION_BYTES);
            if before > 0 {
                let _ = munmap(whole.cast(), before);
            }
            let start = whole.add(before);
            let _ = munmap(start.add(REGION_BYTES).cast(), REGION_BYTES - before);
            // A system without huge pages runs on small ones.
            let _ = madvise(start.cast(), REGION_BYTES, Advice::LinuxHugepage);
            start
        };
        for at in (0..REGION_BYTES).step_by(PAGE_BYTES) {
            // SAFETY: within the mapping. Volatile, as it is the touch that counts.
            unsafe { start.add(at).write_volatile(0) };
        }
        NonNull::new(start)
    }

    /// Unmaps a region.
    ///
    /// # Safety
    /// It came from [`create`], and nobody uses it any more.
    pub unsafe fn remove(start: NonNull<u8>) {
        // SAFETY: the caller owns the mapping. It cannot fail but by the limit of mappings; then the memory stays.
        let _ = unsafe { munmap(start.as_ptr().cast(), REGION_BYTES) };
    }
}

#[cfg(not(all(target_os = "linux", not(miri))))]
mod mapping {
    use std::ptr::NonNull;

    pub fn create() -> Option<NonNull<u8>> {
        None
    }

    pub unsafe fn remove(_: NonNull<u8>) {
        unreachable!("nothing is mapped on this system")
    }
}

/// Memory of the allocator that an arena uses until it is large enough for huge pages. Whoever holds it owns it.
pub(super) struct Small {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory alone.
unsafe impl Send for Small {}

impl Small {
    /// Memory of a layout that has a size, uninitialised.
    pub fn create(layout: Layout) -> Self {
        assert!(layout.size() > 0, "a region has blocks");
        // SAFETY: the layout has a size.
        let start = NonNull::new(unsafe { alloc(layout) });
        Small { start: start.unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }

    /// The first byte.
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // SAFETY: `create` allocated it with this layout, and nobody uses it any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

/// The regions of the process that no arena holds.
struct Pool {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    /// The thread runs.
    tended: bool,
}

#[derive(Default)]
struct Waiting {
    /// The longest waiting first.
    regions: VecDeque<Region>,
    /// To be given back to the allocator.
    discarded: Vec<Small>,
    in_use: usize,
    /// Regions to keep ready: one more each time that there was none.
    ahead: usize,
}

impl Waiting {
    fn allowed(&self) -> usize {
        self.ahead + self.in_use / IN_USE_PER_SPARE
    }
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let tended = threads::spawn("thalweg-memory".to_owned(), || pool().tend()).is_ok();
        Pool { waiting: Mutex::default(), bell: Condvar::new(), tended }
    })
}

/// A region that is ready; `None` if there is none just now, but more will be ready in future.
pub(super) fn take() -> Option<Region> {
    let pool = pool();
    // The thread holds the lock for moments only, but may have lost its processor in one.
    let mut waiting = pool.waiting.try_lock().ok()?;
    let region = waiting.regions.pop_back();
    if region.is_some() {
        waiting.in_use += 1;
    } else {
        waiting.ahead = (waiting.ahead + 1).min(AHEAD_MAX);
    }
    let rings = waiting.regions.len() < waiting.ahead;
    drop(waiting);
    if rings {
        pool.bell.notify_one();
    }
    region
}

/// A region that the caller waits for if none is ready.
pub(super) fn take_or_create() -> Region {
    take().unwrap_or_else(|| {
        pool().lock().in_use += 1;
        Region::create()
    })
}

/// Takes a region back, unless that cannot be done at once: then the caller has it still, and offers it again some time.
pub(super) fn give_back(region: Region) -> Option<Region> {
    let pool = pool();
    let Ok(mut waiting) = pool.waiting.try_lock() else { return Some(region) };
    waiting.in_use -= 1;
    if waiting.in_use == 0 {
        waiting.ahead = 0;
    }
    if !pool.tended {
        drop(waiting);
        drop(region);
        return None;
    }
    waiting.regions.push_back(region);
    let rings = waiting.regions.len() > waiting.allowed();
    drop(waiting);
    if rings {
        pool.bell.notify_one();
    }
    None
}

/// Gives memory back, at some time soon: the allocator may have to unmap it, which takes 100 µs and more where other processors have
/// to hear of it.
pub(super) fn discard(small: Small) {
    let pool = pool();
    if !pool.tended {
        return;
    }
    if let Ok(mut waiting) = pool.waiting.try_lock() {
        waiting.discarded.push(small);
        drop(waiting);
        pool.bell.notify_one();
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes regions and gives them back to the system, for as long as the process lives.
    fn tend(&self) {
        let mut waiting = self.lock();
        loop {
            let discarded = std::mem::take(&mut waiting.discarded);
            if !discarded.is_empty() {
                drop(waiting);
                drop(discarded);
                waiting = self.lock();
            } else if waiting.regions.len() < waiting.ahead {
                drop(waiting);
                let region = Region::create();
                waiting = self.lock();
                waiting.regions.push_front(region);
            } else if waiting.regions.len() > waiting.allowed() {
                let slept = self.bell.wait_timeout(waiting, RELEASE_INTERVAL);
                let (guard, timeout) = slept.unwrap_or_else(PoisonError::into_inner);
                waiting = guard;
                if timeout.timed_out() && waiting.regions.len() > waiting.allowed() {
                    let longest = waiting.regions.pop_front();
                    drop(waiting);
                    drop(longest);
                    waiting = self.lock();
                }
            } else {
                waiting = self.bell.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_region_is_aligned_writable_and_belongs_to_one_holder() {
        let regions: Vec<Region> = (0..3).map(|_| take_or_create()).collect();
        for (number, region) in regions.iter().enumerate() {
            assert_eq!(region.start().addr().get() % REGION_BYTES, 0);
            // SAFETY: the region is this test's, and as long as that.
            unsafe { region.start().write_bytes(number as u8 + 1, REGION_BYTES) };
        }
        for (number, region) in regions.iter().enumerate() {
            // SAFETY: as above; all bytes were just written.
            let bytes = unsafe { std::slice::from_raw_parts(region.start().as_ptr(), REGION_BYTES) };
            assert!(bytes.iter().all(|byte| *byte == number as u8 + 1));
        }
        for mut region in regions {
            while let Some(still) = give_back(region) {
                region = still;
                thread::yield_now();
            }
        }
    }
}

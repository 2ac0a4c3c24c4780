//! The lock that keeps two engines off one checkpoint directory.
//!
//! It is an advisory lock of the operating system (`flock` on Linux) on the file `LOCK`: it goes with the process,
//! however that ends, and it also excludes a second engine within the same process. It is taken directly instead of
//! through [`crate::io::Disk`], because it is no data: nothing is read, written or synced, and the lock must live as
//! long as the open file, which a disk would hide. The file itself stays: removing it would let two engines lock
//! two files of one name.
//!
//! A killed process keeps its locks until the kernel has taken its memory back: for 1 to 1.2 seconds with 10 GB in small pages, on a
//! virtual machine of 2 cores. Whoever starts the next engine at once finds the directory locked by nobody who lives: so
//! the lock is waited for, for a bounded time.
#![expect(
    clippy::disallowed_methods,
    reason = "a lock lives as long as its descriptor, which `Disk` does not show"
)]

use super::names;
use crate::error::StoreError;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the lock is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(10);

/// A held lock; released on drop.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of the job directory `dir`, which exists; waits for it for [`PATIENCE`] at most.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(names::LOCK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|e| StoreError::io("opening the lock file", &path, e))?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(DirectoryLock { _file: file }),
                Err(TryLockError::WouldBlock) if start.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path: dir.to_owned() }),
                Err(TryLockError::Error(e)) => return Err(StoreError::io("locking", &path, e)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_let_go_meanwhile_is_taken() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let held = DirectoryLock::take(dir.path()).expect("nobody else holds it");
        let ending = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(held);
        });
        DirectoryLock::take(dir.path()).expect("its holder is ending");
        ending.join().expect("it only slept");
    }
}

//! The lock that keeps two engines off one checkpoint directory.
//!
//! It is an advisory lock of the operating system (`flock` on Linux) on the file `LOCK`: it goes with the process,
//! however that ends, and it also excludes a second engine within the same process. It is taken directly instead of
//! through [`crate::io::Disk`], because it is no data: nothing is read, written or synced, and the lock must live as
//! long as the open file, which a disk would hide. The file itself stays: removing it would let two engines lock
//! two files of one name.
#![expect(
    clippy::disallowed_methods,
    reason = "a lock lives as long as its descriptor, which `Disk` does not show"
)]

use super::names;
use crate::error::StoreError;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

/// A held lock; released on drop.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of the job directory `dir`, which exists.
    pub fn take(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join(names::LOCK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|e| StoreError::io("opening the lock file", &path, e))?;
        match file.try_lock() {
            Ok(()) => Ok(DirectoryLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: dir.to_owned() }),
            Err(TryLockError::Error(e)) => Err(StoreError::io("locking", &path, e)),
        }
    }
}

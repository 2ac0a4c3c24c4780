//! Blocking file operations of the checkpoint store: each waits for its answer and names its path in the error.
//!
//! Always true: once a sync of a path has failed, no further sync of it is tried. The kernel reports a failed
//! write-back once and calls the pages clean afterwards, so a second sync would succeed without the data on disk.

use crate::error::StoreError;
use crate::io::{DiskHandle, Entry, FileId, OpenMode, create_dir_durably};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// A disk, and the paths whose sync has failed on it.
pub(super) struct Files {
    disk: DiskHandle,
    failed_syncs: RefCell<BTreeSet<PathBuf>>,
}

/// A file that [`Files::with_open`] has opened.
pub(super) struct OpenFile<'a> {
    files: &'a Files,
    id: FileId,
    path: &'a Path,
}

impl Files {
    pub fn new(disk: DiskHandle) -> Self {
        Files { disk, failed_syncs: RefCell::default() }
    }

    /// Opens a file for the time of `work`; it is closed whatever comes of that.
    pub fn with_open<T>(
        &self,
        path: &Path,
        mode: OpenMode,
        work: impl FnOnce(&OpenFile) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let action = if mode == OpenMode::CreateNew { "creating" } else { "opening" };
        let id = self.disk.open(path, mode).wait().map_err(|e| StoreError::io(action, path, e))?;
        let result = work(&OpenFile { files: self, id, path });
        // What had to be durable has been synced by now: an error here says nothing about it.
        if let Err(error) = self.disk.close(id).wait() {
            tracing::warn!(path = %path.display(), %error, "closing a file failed");
        }
        result
    }

    /// Makes the entries of several directories durable, all at once.
    pub fn sync_dirs(&self, paths: &[&Path]) -> Result<(), StoreError> {
        for path in paths {
            self.refuse_second_sync(path)?;
        }
        let tickets: Vec<_> = paths.iter().map(|path| (path, self.disk.sync_dir(path))).collect();
        let mut result = Ok(());
        for (path, ticket) in tickets {
            let synced = ticket.wait().map_err(|e| self.sync_failed(path, e));
            result = result.and(synced);
        }
        result
    }

    pub fn sync_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.sync_dirs(&[path])
    }

    /// Refuses once a sync of this directory has failed.
    pub fn refuse_second_sync(&self, path: &Path) -> Result<(), StoreError> {
        if self.failed_syncs.borrow().contains(path) {
            return Err(StoreError::SyncFailedBefore { path: path.to_owned() });
        }
        Ok(())
    }

    fn sync_failed(&self, path: &Path, error: Error) -> StoreError {
        self.failed_syncs.borrow_mut().insert(path.to_owned());
        StoreError::io("syncing", path, error)
    }

    /// See [`io::create_dir_durably`](create_dir_durably).
    pub fn create_dir_durably(&self, path: &Path) -> Result<(), StoreError> {
        create_dir_durably(&self.disk, path, &|dir| self.sync_dir(dir))
    }

    pub fn create_dir(&self, path: &Path) -> Result<(), StoreError> {
        self.disk.create_dir(path).wait().map_err(|e| StoreError::io("creating", path, e))
    }

    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), StoreError> {
        self.disk.rename(from, to).wait().map_err(|e| StoreError::io("renaming", from, e))
    }

    pub fn list(&self, path: &Path) -> Result<Vec<Entry>, StoreError> {
        let mut entries = self.disk.list(path).wait().map_err(|e| StoreError::io("listing", path, e))?;
        entries.sort_unstable();
        Ok(entries)
    }

    /// Removes a file; one that is gone already is no error.
    pub fn remove(&self, path: &Path) -> Result<(), StoreError> {
        gone(self.disk.remove(path).wait()).map_err(|e| StoreError::io("removing", path, e))
    }

    /// Removes an empty directory; one that is gone already is no error.
    pub fn remove_dir(&self, path: &Path) -> Result<(), StoreError> {
        gone(self.disk.remove_dir(path).wait()).map_err(|e| StoreError::io("removing", path, e))
    }
}

fn gone(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl OpenFile<'_> {
    /// Fails unless the file has `bytes` bytes.
    pub fn expect_length(&self, bytes: u64) -> Result<(), StoreError> {
        let length = self.files.disk.length(self.id).wait();
        let found = length.map_err(|e| StoreError::io("measuring", self.path, e))?;
        if found != bytes {
            let at = found.min(bytes);
            return Err(StoreError::corrupt(
                self.path,
                at,
                format!("{bytes} bytes in all"),
                format!("{found}"),
            ));
        }
        Ok(())
    }

    /// Up to `bytes` bytes at `offset`, fewer only at the end of the file.
    pub fn read(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, StoreError> {
        let read = self.files.disk.read(self.id, offset, bytes);
        read.wait().map_err(|e| StoreError::io("reading", self.path, e))
    }

    /// `bytes` bytes at `offset`.
    pub fn read_exactly(&self, offset: u64, bytes: usize) -> Result<Vec<u8>, StoreError> {
        let data = self.read(offset, bytes)?;
        if data.len() != bytes {
            let at = offset + data.len() as u64;
            return Err(StoreError::corrupt(
                self.path,
                at,
                format!("{bytes} bytes at {offset}"),
                "the end of the file",
            ));
        }
        Ok(data)
    }

    /// Writes all of `data` from the start of the file.
    pub fn write(&self, data: Vec<u8>) -> Result<(), StoreError> {
        let written = self.files.disk.write(self.id, 0, data).wait();
        written.map(drop).map_err(|e| StoreError::io("writing", self.path, e))
    }

    /// Makes data and length durable.
    pub fn sync_data(&self) -> Result<(), StoreError> {
        self.files.refuse_second_sync(self.path)?;
        let synced = self.files.disk.sync_data(self.id).wait();
        synced.map_err(|e| self.files.sync_failed(self.path, e))
    }
}

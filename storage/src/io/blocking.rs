//! Whole-file and whole-directory steps for plain threads: each waits for its disk. A worker never calls these.
//!
//! Always true: a file that a step opened is closed when the step returns, also with an error.

use super::{DiskHandle, OpenMode};
use std::io;
use std::path::Path;

/// Bytes per read and write of a whole file.
const CHUNK_BYTES: usize = 1 << 20;

impl DiskHandle {
    /// Reads a whole file, in chunks.
    ///
    /// The result holds what the file held; a caller that knows how long it may be checks [`DiskHandle::length`] first.
    ///
    /// # Errors
    /// Those of opening and reading: `NotFound` where there is no file, `OutOfMemory` where it is too long.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read).wait()?;
        let read = || -> io::Result<Vec<u8>> {
            let mut content = Vec::new();
            loop {
                let chunk = self.read(file, content.len() as u64, CHUNK_BYTES).wait()?;
                let at_end = chunk.len() < CHUNK_BYTES;
                content.try_reserve(chunk.len()).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
                content.extend_from_slice(&chunk);
                if at_end {
                    return Ok(content);
                }
            }
        };
        let content = read();
        let closed = self.close(file).wait();
        let content = content?;
        closed.map(|()| content)
    }

    /// Creates the file `path` with `content` and makes the content durable.
    ///
    /// The file's *name* is durable only after a [`DiskHandle::sync_dir`] of its directory.
    ///
    /// # Errors
    /// `AlreadyExists` where `path` exists: nothing changed. After any other error the file may exist with part of
    /// the content: remove it, or write under another name.
    pub fn write_file_durable(&self, path: impl AsRef<Path>, content: &[u8]) -> io::Result<()> {
        let file = self.open(path, OpenMode::CreateNew).wait()?;
        let write = || -> io::Result<()> {
            let mut buffer = Vec::new();
            let mut offset = 0;
            for chunk in content.chunks(CHUNK_BYTES) {
                buffer.clear();
                buffer.extend_from_slice(chunk);
                buffer = self.write(file, offset, buffer).wait()?;
                offset += chunk.len() as u64;
            }
            self.sync_data(file).wait()
        };
        let written = write();
        let closed = self.close(file).wait();
        written.and(closed)
    }

    /// Creates the directory `path` and each missing directory above it, durably: after each, its parent is synced.
    ///
    /// Fine where `path` exists. The name of the lowest directory that exists already is synced once more, since the
    /// process that created it may have died before doing so, and a power loss would take everything below with it.
    /// Where the parent is known to be durable, [`DiskHandle::create_dir`] and [`DiskHandle::sync_dir`] are quicker.
    ///
    /// # Errors
    /// `NotADirectory` where something else has that name; otherwise those of creating and syncing.
    pub fn create_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        let parent = parent_of(path);
        match self.create_dir(path).wait() {
            Ok(()) => self.sync_dir_and_its_name(parent),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.sync_dir_and_its_name(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && parent != path => {
                self.create_dir_all(parent)?;
                match self.create_dir(path).wait() {
                    Ok(()) => self.sync_dir(parent).wait(),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                        self.sync_dir_and_its_name(path)
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes the entries of a directory durable and, since somebody else may have created it, its own name too.
    fn sync_dir_and_its_name(&self, path: &Path) -> io::Result<()> {
        self.sync_dir(path).wait()?;
        match self.sync_dir(parent_of(path)).wait() {
            // Nobody creates directories where they may not read, so whoever set this one up was not this engine.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other,
        }
    }

    /// True where `path` names a file or a directory.
    ///
    /// # Errors
    /// When that cannot be told, as with `PermissionDenied`.
    pub fn exists(&self, path: impl AsRef<Path>) -> io::Result<bool> {
        match self.open(path, OpenMode::Read).wait() {
            Ok(file) => self.close(file).wait().map(|()| true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a directory and everything below it. Links are removed, not followed.
    ///
    /// Durable only after a [`DiskHandle::sync_dir`] of the parent: until then a crash may bring back any part.
    ///
    /// # Errors
    /// `NotFound` where there is no such directory. After any other error some entries may be gone: call it again.
    pub fn remove_dir_all(&self, path: impl AsRef<Path>) -> io::Result<()> {
        let path = path.as_ref();
        for entry in self.list(path).wait()? {
            let below = path.join(&entry.name);
            let removed = if entry.is_dir { self.remove_dir_all(below) } else { self.remove(below).wait() };
            match removed {
                // Somebody else was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        self.remove_dir(path).wait()
    }
}

/// The directory that holds the name `path`.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

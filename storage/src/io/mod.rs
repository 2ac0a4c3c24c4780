//! Every byte that Thalweg reads from or writes to a disk goes through [`Disk`].
//!
//! A disk takes [`Request`]s and completes them later, on a thread of its own choice; [`Ticket`]s carry the answers.
//! So one interface serves a worker that must never block (it polls the ticket) and a plain thread (it waits).
//!
//! Always true:
//! - requests on one file may complete in any order: a caller that needs an order waits for the earlier one;
//! - a completed write is not durable before a later [`Request::SyncData`] of the file, and a created, renamed or
//!   removed name not before a [`Request::SyncDir`] of its directory;
//! - a file whose sync failed is poisoned: each later request on it but `Close` fails.

mod ticket;
mod dirs;
mod background;
mod blocking;
mod rules;
mod local;
mod mapped;
mod std_disk;
#[cfg(target_os = "linux")]
mod uring;
#[cfg(any(test, feature = "testing"))]
mod sim;
#[cfg(test)]
mod tests;

pub use background::BackgroundFile;
pub use dirs::create_dir_durably;
pub use mapped::MappedFile;
#[cfg(any(test, feature = "testing"))]
pub use sim::{CrashProfile, Exploration, Explored, Fault, OpKind, OpRecord, Seen, SimDisk};
pub use std_disk::StdDisk;
pub use ticket::{Notify, Ticket};
#[cfg(target_os = "linux")]
pub use uring::{UringDisk, UringUnavailable};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file of one [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u64);

/// Direct I/O takes place in multiples of so many bytes: the block of all common file systems.
pub const DIRECT_BYTES: usize = 4096;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read pieces of it here and there: the system reads nothing ahead and, where the disk can do
    /// direct I/O, keeps nothing in its page cache.
    ReadRandom,
    /// A file that must not exist yet, to write; mode 0600.
    CreateNew,
    /// As `CreateNew`, for a file that nobody reads soon: where the disk can do direct I/O, what is written in multiples of
    /// [`DIRECT_BYTES`], at such offsets, does not go through the system's page cache. The first other write ends that for
    /// the file; only the last one of a file should be such.
    CreateDirect,
    /// An existing file, to read and write.
    ReadWrite,
}

/// One operation on a disk.
#[derive(Debug)]
pub enum Request {
    /// Opens a file; answers [`Reply::File`].
    Open {
        /// Its path.
        path: PathBuf,
        /// How.
        mode: OpenMode,
    },
    /// Reads up to `bytes` bytes at `offset`; answers [`Reply::Bytes`], shorter only at the end of the file.
    Read {
        /// The file.
        file: FileId,
        /// First byte.
        offset: u64,
        /// At most this many.
        bytes: usize,
    },
    /// Writes all of `data` at `offset`; answers [`Reply::Bytes`] with `data`, for reuse.
    Write {
        /// The file.
        file: FileId,
        /// First byte.
        offset: u64,
        /// What to write.
        data: Vec<u8>,
    },
    /// Makes a file's data and length durable (`fdatasync`).
    SyncData {
        /// The file.
        file: FileId,
    },
    /// Sets a file's length.
    Truncate {
        /// The file.
        file: FileId,
        /// The new length.
        bytes: u64,
    },
    /// Asks for a file's length; answers [`Reply::Length`].
    Length {
        /// The file.
        file: FileId,
    },
    /// Closes a file.
    Close {
        /// The file.
        file: FileId,
    },
    /// Renames within one file system, replacing `to`.
    Rename {
        /// The present name.
        from: PathBuf,
        /// The new name.
        to: PathBuf,
    },
    /// Removes a file.
    Remove {
        /// The file.
        path: PathBuf,
    },
    /// Removes an empty directory.
    RemoveDir {
        /// The directory.
        path: PathBuf,
    },
    /// Creates one directory, mode 0700; fails with `AlreadyExists` where it exists.
    CreateDir {
        /// The directory; its parent exists.
        path: PathBuf,
    },
    /// Makes a directory's entries durable (`fsync`).
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
    /// Lists a directory; answers [`Reply::Entries`].
    List {
        /// The directory.
        path: PathBuf,
    },
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub enum Reply {
    /// Done; nothing to say.
    Done,
    /// The opened file.
    File(FileId),
    /// Bytes read, or the buffer of a write.
    Bytes(Vec<u8>),
    /// A length in bytes.
    Length(u64),
    /// The entries of a directory, in no order.
    Entries(Vec<Entry>),
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Name within its directory.
    pub name: String,
    /// True for a directory.
    pub is_dir: bool,
    /// Length in bytes, of a file.
    pub bytes: u64,
}

/// Runs when a request has completed, on a thread of the disk. It must be short and must not panic.
pub type Completion = Box<dyn FnOnce(io::Result<Reply>) + Send>;

/// A disk: takes requests, completes them later.
pub trait Disk: Send + Sync + 'static {
    /// Submits `request`; `done` runs exactly once. Never blocks on the disk.
    fn submit(&self, request: Request, done: Completion);

    /// See [`DiskHandle::map`]. A disk that has no maps leaves it at this.
    ///
    /// # Errors
    /// See [`DiskHandle::map`].
    fn map(&self, path: &Path, bytes: u64) -> io::Result<Option<MappedFile>> {
        let _ = (path, bytes);
        Ok(None)
    }
}

/// A [`Disk`] with typed requests. Cheap to clone; a clone made by [`DiskHandle::with_notify`] also wakes its owner at
/// each completion.
#[derive(Clone)]
pub struct DiskHandle {
    disk: Arc<dyn Disk>,
    notify: Option<Arc<dyn Notify>>,
}

impl DiskHandle {
    /// A handle to `disk` that wakes nobody.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        DiskHandle { disk, notify: None }
    }

    /// The same disk, with `notify` called after each completion.
    pub fn with_notify(&self, notify: Arc<dyn Notify>) -> Self {
        DiskHandle { disk: Arc::clone(&self.disk), notify: Some(notify) }
    }

    fn submit<T: Send + 'static>(&self, request: Request, take: fn(Reply) -> Option<T>) -> Ticket<T> {
        let (ticket, done) = Ticket::new(self.notify.clone(), take, None);
        self.disk.submit(request, done);
        ticket
    }

    /// Opens a file. One that is open by the time the ticket is dropped, or later, is closed again.
    pub fn open(&self, path: impl AsRef<Path>, mode: OpenMode) -> Ticket<FileId> {
        self.open_or_undo(path.as_ref().to_owned(), mode, false)
    }

    /// Creates a file that must not exist yet. One that is there by the time the ticket is dropped, or later, is closed and
    /// removed again.
    fn create_or_undo(&self, path: impl AsRef<Path>) -> Ticket<FileId> {
        self.open_or_undo(path.as_ref().to_owned(), OpenMode::CreateDirect, true)
    }

    fn open_or_undo(&self, path: PathBuf, mode: OpenMode, remove: bool) -> Ticket<FileId> {
        // Weak: a request that never completes must not keep its own disk alive.
        let disk = Arc::downgrade(&self.disk);
        let removed = remove.then(|| path.clone());
        let close = move |file| {
            if let Some(disk) = disk.upgrade() {
                disk.submit(Request::Close { file }, Box::new(|_| {}));
                if let Some(path) = &removed {
                    disk.submit(Request::Remove { path: path.clone() }, Box::new(|_| {}));
                }
            }
        };
        let (ticket, done) = Ticket::new(
            self.notify.clone(),
            |r| if let Reply::File(file) = r { Some(file) } else { None },
            Some(Box::new(close)),
        );
        self.disk.submit(Request::Open { path, mode }, done);
        ticket
    }

    /// Reads up to `bytes` bytes at `offset`; shorter only at the end of the file.
    pub fn read(&self, file: FileId, offset: u64, bytes: usize) -> Ticket<Vec<u8>> {
        self.submit(Request::Read { file, offset, bytes }, bytes_of)
    }

    /// Writes all of `data` at `offset` and gives the buffer back.
    pub fn write(&self, file: FileId, offset: u64, data: Vec<u8>) -> Ticket<Vec<u8>> {
        self.submit(Request::Write { file, offset, data }, bytes_of)
    }

    /// Makes a file's data and length durable.
    pub fn sync_data(&self, file: FileId) -> Ticket<()> {
        self.submit(Request::SyncData { file }, unit)
    }

    /// Sets a file's length.
    pub fn truncate(&self, file: FileId, bytes: u64) -> Ticket<()> {
        self.submit(Request::Truncate { file, bytes }, unit)
    }

    /// Asks for a file's length.
    pub fn length(&self, file: FileId) -> Ticket<u64> {
        self.submit(Request::Length { file }, |r| if let Reply::Length(n) = r { Some(n) } else { None })
    }

    /// Maps the file at `path`, which has `bytes` bytes by its manifest, is complete, and is never written again. None
    /// where the disk offers no maps, or the file's length is another: read it in the ordinary way, then.
    ///
    /// Blocks, now and with each use of the map: for plain threads, never for a worker (see [`MappedFile`]).
    ///
    /// # Errors
    /// Those of opening and mapping.
    pub fn map(&self, path: impl AsRef<Path>, bytes: u64) -> io::Result<Option<MappedFile>> {
        self.disk.map(path.as_ref(), bytes)
    }

    /// Closes a file.
    pub fn close(&self, file: FileId) -> Ticket<()> {
        self.submit(Request::Close { file }, unit)
    }

    /// Renames `from` to `to`, replacing it.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Ticket<()> {
        self.submit(Request::Rename { from: from.as_ref().to_owned(), to: to.as_ref().to_owned() }, unit)
    }

    /// Removes a file.
    pub fn remove(&self, path: impl AsRef<Path>) -> Ticket<()> {
        self.submit(Request::Remove { path: path.as_ref().to_owned() }, unit)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Ticket<()> {
        self.submit(Request::RemoveDir { path: path.as_ref().to_owned() }, unit)
    }

    /// Creates one directory.
    pub fn create_dir(&self, path: impl AsRef<Path>) -> Ticket<()> {
        self.submit(Request::CreateDir { path: path.as_ref().to_owned() }, unit)
    }

    /// Makes a directory's entries durable.
    pub fn sync_dir(&self, path: impl AsRef<Path>) -> Ticket<()> {
        self.submit(Request::SyncDir { path: path.as_ref().to_owned() }, unit)
    }

    /// Lists a directory.
    pub fn list(&self, path: impl AsRef<Path>) -> Ticket<Vec<Entry>> {
        self.submit(Request::List { path: path.as_ref().to_owned() }, |r| {
            if let Reply::Entries(e) = r { Some(e) } else { None }
        })
    }
}

fn unit(reply: Reply) -> Option<()> {
    matches!(reply, Reply::Done).then_some(())
}

fn bytes_of(reply: Reply) -> Option<Vec<u8>> {
    if let Reply::Bytes(bytes) = reply { Some(bytes) } else { None }
}

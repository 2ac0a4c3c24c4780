//! What a store is made of: directory, backend, disk and the few numbers that matter.

use crate::error::StoreError;
use crate::io::{DiskHandle, StdDisk};
use crate::key_group::MAX_PARALLELISM_DEFAULT;
use std::path::PathBuf;

/// Helper threads of a disk of blocking file operations.
const DISK_THREADS: usize = 2;

/// Which kind of table holds the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackendChoice {
    /// Typed hash tables in memory: the quickest where all state fits and values are small or rarely change.
    #[default]
    HashMap,
    /// Logs of pages under a hash index: for state larger than memory, for the smallest checkpoints, and for tables whose
    /// size in memory must be known.
    Log,
}

/// How a [`super::Store`] is opened. Every setting but the directory has a default.
///
/// ```
/// use thalweg_storage::store::{BackendChoice, StoreOptions};
///
/// let options = StoreOptions::new("state").backend(BackendChoice::HashMap).retained(3).zstd_level(3);
/// # drop(options);
/// ```
#[must_use]
pub struct StoreOptions {
    pub(super) dir: PathBuf,
    pub(super) name: String,
    pub(super) backend: BackendChoice,
    pub(super) memory_bytes: Option<usize>,
    pub(super) max_parallelism: u16,
    pub(super) incremental: bool,
    pub(super) zstd_level: i32,
    pub(super) segment_bytes: Option<u64>,
    pub(super) retained: usize,
    pub(super) allow_unmatched: bool,
    pub(super) disk: Option<DiskHandle>,
    pub(super) locked: bool,
    pub(super) unix_ms: Box<dyn Fn() -> u64 + Send>,
}

impl StoreOptions {
    /// A store in the directory `dir`, which is created when it is missing.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        StoreOptions {
            dir: dir.into(),
            name: "store".to_owned(),
            backend: BackendChoice::default(),
            memory_bytes: None,
            max_parallelism: MAX_PARALLELISM_DEFAULT,
            incremental: true,
            zstd_level: 1,
            segment_bytes: None,
            retained: 1,
            allow_unmatched: false,
            disk: None,
            locked: true,
            unix_ms: Box::new(unix_ms),
        }
    }

    /// Name of the store within its directory, `store` unless given: a directory can hold several.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Which kind of table holds the state. May differ from one opening to the next: both read the same files.
    pub fn backend(mut self, backend: BackendChoice) -> Self {
        self.backend = backend;
        self
    }

    /// Most bytes of memory for pages of *each* table with [`BackendChoice::Log`]; no limit unless given. What exceeds it is
    /// read back from disk when it is used. The index, about a dozen bytes per key, stays in memory and is counted apart.
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.memory_bytes = Some(bytes);
        self
    }

    /// Number of key groups, 128 unless given: fixed for the life of the store.
    pub fn key_groups(mut self, count: u16) -> Self {
        self.max_parallelism = count;
        self
    }

    /// Whether a checkpoint writes only what has changed since the last one, as it does unless told otherwise.
    pub fn incremental(mut self, incremental: bool) -> Self {
        self.incremental = incremental;
        self
    }

    /// Level of compression, 1 unless given; 0 means none.
    pub fn zstd_level(mut self, level: i32) -> Self {
        self.zstd_level = level;
        self
    }

    /// Bytes of rows, before compression, after which a snapshot begins another file; 8 MiB unless given. A file is deleted as
    /// a whole, so smaller ones return space sooner, and each costs a sync.
    pub fn segment_bytes(mut self, bytes: u64) -> Self {
        self.segment_bytes = Some(bytes);
        self
    }

    /// How many completed checkpoints stay on disk, 1 unless given and at least.
    pub fn retained(mut self, count: usize) -> Self {
        self.retained = count.max(1);
        self
    }

    /// Lets the store open although the checkpoint holds a table that the program no longer declares: it is dropped, with
    /// the next checkpoint for good.
    pub fn allow_unmatched(mut self, allow: bool) -> Self {
        self.allow_unmatched = allow;
        self
    }

    /// The disk to use; threads with blocking file operations unless given.
    pub fn disk(mut self, disk: DiskHandle) -> Self {
        self.disk = Some(disk);
        self
    }

    /// Leaves out the lock that keeps a second store off the directory. It lies in the real file system, which a simulated
    /// disk does not have.
    pub fn without_lock(mut self) -> Self {
        self.locked = false;
        self
    }

    /// The clock that stamps checkpoints, in milliseconds since 1970; the system's unless given.
    pub fn clock(mut self, unix_ms: impl Fn() -> u64 + Send + 'static) -> Self {
        self.unix_ms = Box::new(unix_ms);
        self
    }

    /// The disk that was given, or a new one.
    pub(super) fn start_disk(&self) -> Result<DiskHandle, StoreError> {
        if let Some(disk) = &self.disk {
            return Ok(disk.clone());
        }
        let disk = StdDisk::start(DISK_THREADS)
            .map_err(|error| StoreError::io("starting the disk's threads for", &self.dir, error))?;
        Ok(DiskHandle::new(disk))
    }
}

#[expect(clippy::disallowed_methods, reason = "the default clock, where a store is used without an engine")]
fn unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

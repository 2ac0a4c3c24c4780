//! A snapshot on its way from the tables to durable files.
//!
//! Always true: a file that was written in vain is removed, unless [`Writing::keep`] has passed it on to the checkpoint
//! directory.

use crate::error::StoreError;
use crate::ids::CheckpointId;
use crate::io::{BackgroundFile, DiskHandle};
use crate::snapshot::{KeyedSnapshots, Step, Tables};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that are being written or synced at once, at most.
const UNSYNCED_FILES_MAX: usize = 4;

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Call again.
    More,
    /// Call again when the disk has answered.
    Waits,
    /// All of it is serialised, and its files durable.
    Durable,
}

/// The snapshot of one checkpoint or savepoint.
pub(super) struct Writing {
    pub id: CheckpointId,
    pub triggered_unix_ms: u64,
    job_dir: PathBuf,
    /// In the order in which they were begun; only the last one is still being appended to.
    files: Vec<SegmentFile>,
    serialised: bool,
    bytes: u64,
}

/// One segment file.
struct SegmentFile {
    /// Below the job's directory.
    path: Arc<str>,
    file: BackgroundFile,
    durable: bool,
}

impl Writing {
    /// A snapshot that has begun; paths of its files are below `job_dir`.
    pub fn new(id: CheckpointId, triggered_unix_ms: u64, job_dir: &Path) -> Self {
        let job_dir = job_dir.to_owned();
        Writing { id, triggered_unix_ms, job_dir, files: Vec::new(), serialised: false, bytes: 0 }
    }

    /// Does one slice of the work, about `rows` rows, and never waits for the disk.
    pub fn advance(
        &mut self,
        disk: &DiskHandle,
        snapshots: &mut KeyedSnapshots,
        tables: &mut dyn Tables,
        rows: usize,
    ) -> Result<Written, StoreError> {
        let mut written = Written::Waits;
        if !self.serialised && !self.is_behind() {
            match snapshots.advance(self.id, tables, rows) {
                Step::More => written = Written::More,
                Step::Waits => {}
                Step::Bytes { path, bytes, complete } => {
                    written = Written::More;
                    self.append(disk, path, bytes, complete);
                }
                Step::Done => {
                    written = Written::More;
                    self.serialised = true;
                }
            }
        }
        let mut durable = self.serialised;
        for segment in self.files.iter_mut().filter(|segment| !segment.durable) {
            let polled = segment.file.poll();
            segment.durable =
                polled.map_err(|e| StoreError::io("writing", self.job_dir.join(&*segment.path), e))?;
            durable &= segment.durable;
        }
        Ok(if durable { Written::Durable } else { written })
    }

    /// True while so much waits for the disk that serialising more would only fill the memory.
    fn is_behind(&self) -> bool {
        self.files.last().is_some_and(|last| last.file.is_behind())
            || self.files.iter().filter(|segment| !segment.durable).count() >= UNSYNCED_FILES_MAX
    }

    fn append(&mut self, disk: &DiskHandle, path: Arc<str>, bytes: Vec<u8>, complete: bool) {
        if self.files.last().is_none_or(|last| last.path != path) {
            let file = BackgroundFile::create(disk, self.job_dir.join(&*path));
            self.files.push(SegmentFile { path, file, durable: false });
        }
        self.bytes += bytes.len() as u64;
        let file = &mut self.files.last_mut().expect("there is one by now").file;
        file.append(bytes);
        if complete {
            file.complete();
        }
    }

    /// Leaves the files to the checkpoint directory: they are named by a manifest from here on, or discarded by name.
    pub fn keep(&mut self) {
        self.files.iter_mut().for_each(|segment| segment.file.keep());
    }

    /// Paths of the files, below the job's directory.
    pub fn paths(&self) -> Vec<String> {
        self.files.iter().map(|segment| segment.path.to_string()).collect()
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

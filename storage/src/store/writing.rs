//! A snapshot on its way from the tables to a durable file.
//!
//! Always true: a file that was written in vain is removed, unless [`Writing::keep`] has passed it on to the checkpoint
//! directory.

use crate::error::StoreError;
use crate::ids::CheckpointId;
use crate::io::{BackgroundFile, DiskHandle};
use crate::snapshot::{KeyedSnapshots, Step, Tables};
use std::path::{Path, PathBuf};

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// Call again.
    More,
    /// Call again when the disk has answered.
    Waits,
    /// All of it is serialised, and its file durable.
    Durable,
}

/// The snapshot of one checkpoint or savepoint.
pub(super) struct Writing {
    pub id: CheckpointId,
    pub triggered_unix_ms: u64,
    job_dir: PathBuf,
    path: String,
    file: Option<BackgroundFile>,
    serialised: bool,
    bytes: u64,
}

impl Writing {
    /// A snapshot that has begun; `path` is that of its segment below `job_dir`.
    pub fn new(id: CheckpointId, triggered_unix_ms: u64, job_dir: &Path, path: String) -> Self {
        let job_dir = job_dir.to_owned();
        Writing { id, triggered_unix_ms, job_dir, path, file: None, serialised: false, bytes: 0 }
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
        let behind = self.file.as_ref().is_some_and(BackgroundFile::is_behind);
        if !self.serialised && !behind {
            written = Written::More;
            match snapshots.advance(self.id, tables, rows) {
                Step::More => {}
                Step::Bytes(chunk) => {
                    self.bytes += chunk.len() as u64;
                    let path = self.job_dir.join(&self.path);
                    self.file.get_or_insert_with(|| BackgroundFile::create(disk, path)).append(chunk);
                }
                Step::Done => {
                    self.serialised = true;
                    self.file.iter_mut().for_each(BackgroundFile::complete);
                }
            }
        }
        let mut durable = self.serialised;
        if let Some(file) = &mut self.file {
            let done = file.poll();
            durable &= done.map_err(|e| StoreError::io("writing", self.job_dir.join(&self.path), e))?;
        }
        Ok(if durable { Written::Durable } else { written })
    }

    /// Leaves the files to the checkpoint directory: they are named by a manifest from here on, or discarded by name.
    pub fn keep(&mut self) {
        self.file.iter_mut().for_each(BackgroundFile::keep);
    }

    /// Paths of the files, below the job's directory.
    pub fn paths(&self) -> Vec<String> {
        vec![self.path.clone()]
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

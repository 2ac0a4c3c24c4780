//! The one error type of this crate's fallible operations on files and state.

use crate::ids::CheckpointId;
use std::path::{Path, PathBuf};

/// Why an operation on stored state failed.
///
/// A variant exists where the caller's next move differs: an I/O error fails the checkpoint under way, corruption
/// and incompatibility refuse the restore, a held lock refuses the start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system refused an operation. After a failed sync the file is never written or synced again.
    #[error("{action} {} failed: {source}", path.display())]
    Io {
        /// What was being done, such as `writing` or `syncing`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A file holds something else than what was written.
    #[error("{} is damaged at offset {offset}: expected {expected}, found {found}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Byte offset of the first structure that failed its check.
        offset: u64,
        /// What the check wanted.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// The file was written by a newer version of the format than this build reads.
    #[error("{} has format version {found}; this build reads up to version {newest}: upgrade to read it", path.display())]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// Version found in the file.
        found: u32,
        /// Newest version that this build reads.
        newest: u32,
    },
    /// An earlier sync of a file or directory failed: what it covered may be lost, and a later sync would not tell.
    #[error("an earlier sync of {} failed, so what it covered may be lost: see to the disk, then reopen the checkpoint directory by starting anew", path.display())]
    SyncFailedBefore {
        /// The file or directory.
        path: PathBuf,
    },
    /// Another engine holds the checkpoint directory.
    #[error("checkpoint directory {} is in use by another engine: stop that engine, or choose another directory", path.display())]
    Locked {
        /// The locked directory.
        path: PathBuf,
    },
    /// A checkpoint may or may not have been published: an error came after its manifest's rename was submitted.
    /// Nothing of it is deleted; reopening the checkpoint directory finds out.
    #[error("whether checkpoint {checkpoint} was published as {} is unknown, all of its files stay: {source}", path.display())]
    OutcomeUnknown {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// Its manifest.
        path: PathBuf,
        /// The system's answer to the rename, or to the sync of its directory.
        #[source]
        source: std::io::Error,
    },
    /// Stored state does not fit the job that wants to restore it.
    #[error("{0}")]
    Incompatible(String),
}

impl StoreError {
    /// An [`StoreError::Io`] for `action` on `path`.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        StoreError::Io { action, path: path.as_ref().to_owned(), source }
    }

    /// True where a later try may succeed by itself: the file system refused something other than a file that is
    /// gone. Damage and mismatch stay until people act.
    pub fn may_pass(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound)
    }

    /// A [`StoreError::Corrupt`] at `offset` of `path`.
    pub fn corrupt(
        path: impl AsRef<Path>,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        StoreError::Corrupt {
            path: path.as_ref().to_owned(),
            offset,
            expected: expected.into(),
            found: found.into(),
        }
    }
}

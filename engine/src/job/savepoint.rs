//! Savepoints as users name them: what a job starts from, and the savepoints of a directory.

use super::Engine;
use crate::coordinator::RestoreFrom;
use crate::error::Error;
use std::path::{Path, PathBuf};
use thalweg_storage::StoreError;
use thalweg_storage::checkpoint::{Savepoint, dispose_savepoint, find_snapshot, list_savepoints};
use thalweg_storage::io::DiskHandle;

/// What a job starts from instead of its latest completed checkpoint.
///
/// It counts for one start: the moment the tasks have been made from it, it stands as a completed checkpoint in the job's own
/// directory, from which restarts and later runs continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreSettings {
    /// Directory of a savepoint (`savepoint-<job>-<id>`) or of a retained checkpoint (`chk-<id>`), or the `MANIFEST` in it. A
    /// savepoint may have been moved; a checkpoint lies where its job wrote it.
    pub path: PathBuf,
    /// To whom it belongs from then on.
    pub mode: RestoreMode,
    /// Whether state of operators that the job does not have is left out instead of refused.
    pub allow_non_restored_state: bool,
}

/// To whom a savepoint or checkpoint belongs once a job has started from it. A checkpoint in the job's own directory is the
/// job's in either mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestoreMode {
    /// It stays the user's. The first checkpoint of the job holds all state, so once that is complete nothing needs the
    /// original any more.
    #[default]
    NoClaim,
    /// It becomes the job's, which deletes it as soon as enough newer checkpoints are complete. No other job may be
    /// started from it. Where the process ends between the two steps of that deletion, files may stay.
    Claim,
}

impl RestoreSettings {
    /// A start from `path` that leaves it to the user and wants all of its state.
    pub fn from_path(path: impl Into<PathBuf>) -> Self {
        RestoreSettings { path: path.into(), mode: RestoreMode::default(), allow_non_restored_state: false }
    }

    /// The same with another mode.
    pub fn mode(mut self, mode: RestoreMode) -> Self {
        self.mode = mode;
        self
    }

    /// Lets the job start although it lacks operators that the savepoint holds state of; that state is gone for good.
    pub fn allow_non_restored_state(mut self, allow: bool) -> Self {
        self.allow_non_restored_state = allow;
        self
    }

    /// Looks for the savepoint or checkpoint.
    pub(super) fn find(&self, disk: &DiskHandle) -> Result<RestoreFrom, Error> {
        let found = absolute(&self.path).and_then(|path| find_snapshot(disk, &path));
        let found = found.map_err(|source| Error::Restore { path: self.path.clone(), source })?;
        Ok(RestoreFrom { found, claim: self.mode == RestoreMode::Claim })
    }
}

/// The path from the root of the file system, so that it means the same to a later process.
pub(super) fn absolute(path: &Path) -> Result<PathBuf, StoreError> {
    std::path::absolute(path).map_err(|source| StoreError::Io {
        action: "finding",
        path: path.to_owned(),
        source,
    })
}

impl Engine {
    /// The savepoints in the directory `dir`, by name: job, id, time and size of each, or why it cannot be used. Those that are
    /// being written, and those that failed, are left out.
    ///
    /// # Errors
    /// [`Error::Checkpoints`]: the directory cannot be read.
    pub fn list_savepoints(&self, dir: impl AsRef<Path>) -> Result<Vec<Savepoint>, Error> {
        Ok(list_savepoints(&self.disk, dir.as_ref())?)
    }

    /// Deletes the savepoint at `path`, for good. A directory that holds no savepoint is left alone, and so are files that
    /// are not the savepoint's.
    ///
    /// The job must not depend on it: one that was stopped with it, or has started from it and has not completed a
    /// checkpoint since, continues from it.
    ///
    /// # Errors
    /// [`Error::Checkpoints`]: there is no savepoint, it cannot be read, or some of its files are left.
    pub fn dispose_savepoint(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        Ok(dispose_savepoint(&self.disk, path.as_ref())?)
    }
}

//! What the coordinator needs of a checkpoint directory.

use std::path::{Path, PathBuf};
use thalweg_storage::checkpoint::{CheckpointStore, FoundSnapshot};
use thalweg_storage::manifest::Manifest;
use thalweg_storage::{AttemptId, CheckpointId, StoreError};

/// Storage of one job's checkpoints. All calls may block; the control thread makes them.
pub trait CheckpointBackend: Send {
    /// The job's directory; paths in manifests are relative to it.
    fn dir(&self) -> &Path;

    /// An attempt id that was never used on this directory.
    ///
    /// # Errors
    /// The directory could not be written; the attempt is not started.
    fn next_attempt(&mut self) -> Result<AttemptId, StoreError>;

    /// Ids of the completed checkpoints that are kept, rising.
    fn completed(&self) -> &[CheckpointId];

    /// The newest completed checkpoint, durable before it is returned.
    ///
    /// # Errors
    /// It exists but can't be read; it is never skipped silently.
    fn latest(&self) -> Result<Option<Manifest>, StoreError>;

    /// Prepares a checkpoint under an id higher than any ever attempted.
    ///
    /// # Errors
    /// The checkpoint can't be taken; nothing has changed.
    fn begin(&mut self) -> Result<CheckpointId, StoreError>;

    /// Makes a checkpoint complete, then releases older ones until `retained` are left and deletes those of their files
    /// that no retained manifest names and that are not `in_use`. Returns the number of bytes of the manifest.
    ///
    /// # Errors
    /// - [`StoreError::OutcomeUnknown`]: it may or may not be complete; nothing has been deleted.
    /// - any other: it is not complete, and older checkpoints are as they were.
    fn publish(
        &mut self,
        manifest: &Manifest,
        retained: usize,
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<u64, StoreError>;

    /// Takes over a savepoint or checkpoint that a user has named, under the next id: once a restore from what this returns
    /// has worked, it is to be published. With `claim` the original is deleted when that checkpoint is released.
    ///
    /// # Errors
    /// Nothing has changed.
    fn take_over(&mut self, found: FoundSnapshot, claim: bool) -> Result<Manifest, StoreError>;

    /// Prepares a savepoint below the directory `root`; returns its id and its own directory.
    ///
    /// # Errors
    /// The savepoint can't be taken; nothing has changed.
    fn begin_savepoint(&mut self, root: &Path) -> Result<(CheckpointId, PathBuf), StoreError>;

    /// Makes a savepoint complete. Returns the number of bytes of the manifest.
    ///
    /// # Errors
    /// - [`StoreError::OutcomeUnknown`]: it may or may not be complete; nothing has been deleted.
    /// - any other: it is not complete.
    fn publish_savepoint(&mut self, manifest: &Manifest) -> Result<u64, StoreError>;

    /// Deletes a savepoint that was begun and not published. May be called several times for one id.
    ///
    /// # Errors
    /// Some files remain; nothing else is wrong.
    fn discard_savepoint(&mut self, id: CheckpointId) -> Result<(), StoreError>;

    /// Deletes all completed checkpoints; no attempt runs.
    ///
    /// # Errors
    /// Some files remain; nothing else is wrong.
    fn remove_all(&mut self) -> Result<(), StoreError>;

    /// Deletes those of a failed checkpoint's `files` that no retained manifest names and that are not `in_use`, and
    /// what else belongs to that checkpoint alone. May be called several times for one id, with other files.
    ///
    /// # Errors
    /// Some files remain; nothing else is wrong.
    fn discard(
        &mut self,
        id: CheckpointId,
        files: &[String],
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<(), StoreError>;
}

impl CheckpointBackend for CheckpointStore {
    fn dir(&self) -> &Path {
        CheckpointStore::dir(self)
    }
    fn next_attempt(&mut self) -> Result<AttemptId, StoreError> {
        CheckpointStore::next_attempt(self)
    }
    fn completed(&self) -> &[CheckpointId] {
        CheckpointStore::completed(self)
    }
    fn latest(&self) -> Result<Option<Manifest>, StoreError> {
        CheckpointStore::latest(self)
    }
    fn begin(&mut self) -> Result<CheckpointId, StoreError> {
        CheckpointStore::begin(self)
    }
    fn publish(
        &mut self,
        manifest: &Manifest,
        retained: usize,
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<u64, StoreError> {
        CheckpointStore::publish(self, manifest, retained, in_use)
    }
    fn discard(
        &mut self,
        id: CheckpointId,
        files: &[String],
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        CheckpointStore::discard(self, id, files, in_use)
    }
    fn take_over(&mut self, found: FoundSnapshot, claim: bool) -> Result<Manifest, StoreError> {
        CheckpointStore::take_over(self, found, claim)
    }
    fn begin_savepoint(&mut self, root: &Path) -> Result<(CheckpointId, PathBuf), StoreError> {
        CheckpointStore::begin_savepoint(self, root)
    }
    fn publish_savepoint(&mut self, manifest: &Manifest) -> Result<u64, StoreError> {
        CheckpointStore::publish_savepoint(self, manifest)
    }
    fn discard_savepoint(&mut self, id: CheckpointId) -> Result<(), StoreError> {
        CheckpointStore::discard_savepoint(self, id)
    }
    fn remove_all(&mut self) -> Result<(), StoreError> {
        CheckpointStore::remove_all(self)
    }
}

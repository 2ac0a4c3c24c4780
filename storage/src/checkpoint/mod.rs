//! A job's checkpoint directory: which checkpoints are complete, when one becomes so, and which files may go.
//!
//! ```text
//! <root>/<job>/LOCK                      held by the one engine that may write here
//! <root>/<job>/attempt-<n>/              empty; makes the number of the latest attempt durable
//! <root>/<job>/shared/seg-…              segments, named by the manifests of one or more checkpoints
//! <root>/<job>/shared/scratch-…          what a running attempt holds no memory for; named by nothing
//! <root>/<job>/chk-<id>/channel-…        in-flight data of one checkpoint
//! <root>/<job>/chk-<id>/MANIFEST         its durable name makes the checkpoint COMPLETED
//! <savepoints>/savepoint-<job>-<id>/…    a savepoint: all of its files, and a MANIFEST (see `savepoint`)
//! ```
//!
//! Always true:
//! - an id is durable, as the name of a directory, before anybody hears of it, and its directory stays until a higher
//!   one is durable: so no id is used twice, crashes included;
//! - a manifest's name is durable only after the manifest, and the manifest is written only after the names of all
//!   files that it names are durable;
//! - a file is deleted only when no completed checkpoint, no checkpoint of unknown outcome and nobody who writes it
//!   names it, and only after the deletion of the last manifest that named it is durable;
//! - while one manifest cannot be read, nothing is deleted that it might name.
//!
//! Blocking: driven by the coordinator's thread, never by a worker.

mod files;
mod lock;
pub mod names;
mod offline;
mod payload;
mod retention;
mod savepoint;

#[cfg(test)]
mod test_disk;
#[cfg(test)]
mod savepoint_tests;
#[cfg(test)]
mod tests;

pub(crate) use offline::read_manifest_file;
pub use payload::{payload_crc32, read_payload, verify_channel_files};
pub use savepoint::{
    FoundSnapshot, Savepoint, SavepointInfo, dispose_savepoint, find_snapshot, list_savepoints,
};

use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::{DiskHandle, OpenMode};
use crate::manifest::{self, Manifest};
use files::Files;
use lock::DirectoryLock;
use retention::{References, Retention};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The checkpoints of one job.
pub struct CheckpointStore {
    disk: DiskHandle,
    files: Files,
    job: String,
    dir: PathBuf,
    shared: PathBuf,
    retention: Retention,
    /// Begun, and neither published nor discarded.
    pending: BTreeSet<CheckpointId>,
    /// Checkpoint directories without a manifest that nobody waits for, to be deleted.
    dead: BTreeSet<CheckpointId>,
    checkpoints: Counter,
    attempts: Counter,
    attempt_dirs: BTreeSet<AttemptId>,
    /// Directories of savepoints that were begun and are not published.
    savepoints: BTreeMap<CheckpointId, PathBuf>,
    /// Completed checkpoints that stand for an original which goes with them, and its directory.
    claims: BTreeMap<CheckpointId, PathBuf>,
    lock: Option<DirectoryLock>,
}

/// Ids that rise for ever.
#[derive(Default)]
struct Counter {
    /// Highest id that was ever tried, in vain or not.
    tried: u64,
    /// Highest id whose directory is durable. This directory must stay.
    durable: u64,
}

impl Counter {
    fn found(&mut self, id: u64) {
        if broken!(IdsStartOver) {
            return;
        }
        self.tried = self.tried.max(id);
    }

    fn found_durable(&mut self, id: u64) {
        self.found(id);
        self.durable = self.durable.max(id);
    }

    /// The next id, gone for good even if nothing comes of it.
    fn take(&mut self, dir: &Path) -> Result<u64, StoreError> {
        let exhausted =
            || StoreError::Incompatible(format!("{} holds the highest id possible", dir.display()));
        self.tried = self.tried.checked_add(1).ok_or_else(exhausted)?;
        Ok(self.tried)
    }
}

impl CheckpointStore {
    /// Opens the checkpoints of `job` below `root` and keeps all other engines out until it is dropped.
    ///
    /// Creates what is missing of `<root>/<job>/shared`, durably. Deletes what no completed checkpoint names, unless
    /// a manifest among them cannot be read; such a manifest is reported by [`CheckpointStore::latest`] or
    /// [`CheckpointStore::load`].
    ///
    /// # Errors
    /// - [`StoreError::Locked`]: another engine, in this process or another, has it open, and still had after five seconds.
    /// - [`StoreError::Incompatible`]: `job` is not usable as the name of one directory.
    /// - [`StoreError::Io`]: the named directory cannot be created, locked, synced or listed.
    pub fn open(disk: DiskHandle, root: &Path, job: &str) -> Result<Self, StoreError> {
        Self::open_with(disk, root, job, |dir| DirectoryLock::take(dir).map(Some))
    }

    /// [`CheckpointStore::open`] without the lock, which lies in the real file system: for simulated disks. The
    /// caller sees to it that nobody else uses the directory.
    ///
    /// # Errors
    /// As of [`CheckpointStore::open`], without [`StoreError::Locked`].
    pub fn open_unlocked(disk: DiskHandle, root: &Path, job: &str) -> Result<Self, StoreError> {
        Self::open_with(disk, root, job, |_| Ok(None))
    }

    fn open_with(
        disk: DiskHandle,
        root: &Path,
        job: &str,
        lock: impl FnOnce(&Path) -> Result<Option<DirectoryLock>, StoreError>,
    ) -> Result<Self, StoreError> {
        if !manifest::is_component(job) {
            return Err(StoreError::Incompatible(format!(
                "job name {job:?} cannot be the name of a directory"
            )));
        }
        let files = Files::new(disk.clone());
        let dir = root.join(job);
        let shared = dir.join(names::SHARED);
        crash_point!("store.before_create_dirs");
        files.create_dir_durably(&shared)?;
        crash_point!("store.after_create_dirs");
        let lock = lock(&dir)?;
        crash_point!("store.after_lock");
        let mut store = CheckpointStore {
            disk,
            files,
            job: job.to_owned(),
            dir,
            shared,
            retention: Retention::default(),
            pending: BTreeSet::new(),
            dead: BTreeSet::new(),
            checkpoints: Counter::default(),
            attempts: Counter::default(),
            attempt_dirs: BTreeSet::new(),
            savepoints: BTreeMap::new(),
            claims: BTreeMap::new(),
            lock,
        };
        store.scan()?;
        crash_point!("store.after_scan");
        if let Err(error) = store.sweep(&|_| false) {
            tracing::warn!(%error, "leftovers of an earlier run stay");
        }
        crash_point!("store.after_sweep");
        Ok(store)
    }

    /// Reads names and manifests. The job's directory has been synced: every name seen in it is durable.
    fn scan(&mut self) -> Result<(), StoreError> {
        for entry in self.files.list(&self.dir)? {
            if let (Some(id), true) = (names::parse_attempt_dir(&entry.name), entry.is_dir) {
                self.attempts.found_durable(id.0);
                self.attempt_dirs.insert(id);
            } else if let (Some(id), true) = (names::parse_checkpoint_dir(&entry.name), entry.is_dir) {
                self.checkpoints.found_durable(id.0);
                if self.has_manifest(id)? {
                    let references = self.references_on_disk(id);
                    self.retention.complete(id, references);
                } else {
                    self.dead.insert(id);
                }
            }
        }
        for entry in self.files.list(&self.shared)? {
            if let Some((attempt, checkpoint)) = names::parse_segment(&entry.name) {
                self.attempts.found(attempt.0);
                self.checkpoints.found(checkpoint.0);
            }
        }
        Ok(())
    }

    fn references_on_disk(&mut self, id: CheckpointId) -> References {
        match self.read_manifest(id, false) {
            Ok(manifest) => {
                self.attempts.found(manifest.attempt.0);
                self.note_claim(&manifest);
                references_of(&manifest)
            }
            Err(error) => {
                tracing::warn!(%error, checkpoint = id.0, "a checkpoint is unreadable, so nothing is deleted");
                References::Unknown
            }
        }
    }

    /// The job's directory, `<root>/<job>`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A number for a new attempt, never used before. Durable before it is returned.
    ///
    /// # Errors
    /// - [`StoreError::Io`]: no attempt may start.
    /// - [`StoreError::SyncFailedBefore`]: of the job's directory or that of the segments. No attempt may start, as none of its
    ///   checkpoints could be completed: reopen the store.
    pub fn next_attempt(&mut self) -> Result<AttemptId, StoreError> {
        [&self.dir, &self.shared].into_iter().try_for_each(|dir| self.files.refuse_second_sync(dir))?;
        let id = AttemptId(self.attempts.take(&self.dir)?);
        self.attempt_dirs.insert(id);
        crash_point!("attempt.before_create_dir");
        self.files.create_dir(&self.dir.join(names::attempt_dir(id)))?;
        crash_point!("attempt.before_dir_sync");
        self.files.sync_dir(&self.dir)?;
        crash_point!("attempt.after_dir_sync");
        self.attempts.found_durable(id.0);
        // A directory that cannot be removed now is removed at a later attempt.
        let (files, dir) = (&self.files, &self.dir);
        self.attempt_dirs
            .retain(|old| *old >= id || files.remove_dir(&dir.join(names::attempt_dir(*old))).is_err());
        crash_point!("attempt.after_remove_older");
        Ok(id)
    }

    /// Completed checkpoints, rising; readable or not.
    pub fn completed(&self) -> &[CheckpointId] {
        self.retention.completed()
    }

    /// The newest completed checkpoint; none if there is none. Durable before it is returned, as
    /// [`CheckpointStore::load`] makes it.
    ///
    /// # Errors
    /// As of [`CheckpointStore::load`]: a damaged newest checkpoint is an error, because sinks may have committed
    /// what it lists; to fall back to an older one is a decision for people.
    pub fn latest(&self) -> Result<Option<Manifest>, StoreError> {
        let completed = self.completed().last().copied();
        // What came of these publications, the disk must tell now.
        for id in self.retention.uncertain().rev().filter(|id| Some(*id) > completed) {
            if self.has_manifest(id)? {
                return self.load(id).map(Some);
            }
        }
        completed.map(|id| self.load(id)).transpose()
    }

    /// The manifest of a checkpoint; a restore from it may begin.
    ///
    /// A killed process may have left a manifest that can be read but would not survive a power failure. So the file,
    /// its directory and all directories that it rests on are synced before the manifest is returned.
    ///
    /// # Errors
    /// - [`StoreError::Io`]: the manifest is missing, unreadable, or not durable; restore nothing.
    /// - [`StoreError::Corrupt`], [`StoreError::NewerFormat`]: as of [`manifest::decode`]; also when it is the manifest
    ///   of another checkpoint, or does not account for each byte of its files of in-flight data.
    /// - [`StoreError::Incompatible`]: it belongs to another job.
    pub fn load(&self, id: CheckpointId) -> Result<Manifest, StoreError> {
        crash_point!("restore.before_read_manifest");
        let manifest = self.read_manifest(id, true)?;
        crash_point!("restore.before_dirs_sync");
        self.files.sync_dirs(&[&self.chk(id), &self.shared, &self.dir])?;
        crash_point!("restore.after_dirs_sync");
        Ok(manifest)
    }

    fn read_manifest(&self, id: CheckpointId, sync: bool) -> Result<Manifest, StoreError> {
        let path = self.chk(id).join(names::MANIFEST);
        let manifest = read_manifest(&self.files, &path, sync)?;
        if manifest.checkpoint != id {
            let found = manifest.checkpoint.to_string();
            return Err(StoreError::corrupt(&path, 16, format!("checkpoint {id}"), found));
        }
        if manifest.job != self.job {
            let (theirs, ours) = (&manifest.job, &self.job);
            let message = format!("{} belongs to job {theirs:?}, not to job {ours:?}", path.display());
            return Err(StoreError::Incompatible(message));
        }
        verify_channel_files(&self.dir, &manifest)?;
        Ok(manifest)
    }

    /// Begins a checkpoint: takes the next id, higher than every id ever tried, and creates its directory. Durable
    /// before it returns; tasks may hear of it then.
    ///
    /// # Errors
    /// No checkpoint has begun, and the id is lost.
    /// - [`StoreError::Io`].
    /// - [`StoreError::SyncFailedBefore`], at every call after a failed sync: reopen the store.
    pub fn begin(&mut self) -> Result<CheckpointId, StoreError> {
        let id = CheckpointId(self.checkpoints.take(&self.dir)?);
        self.dead.insert(id);
        crash_point!("begin.before_create_dir");
        self.files.create_dir(&self.chk(id))?;
        crash_point!("begin.before_dir_sync");
        if !broken!(BeginDirUnsynced) {
            self.files.sync_dir(&self.dir)?;
        }
        crash_point!("begin.after_dir_sync");
        self.checkpoints.found_durable(id.0);
        self.dead.remove(&id);
        self.pending.insert(id);
        self.remove_empty_dirs();
        Ok(id)
    }

    /// Makes a checkpoint COMPLETED, durably, and returns the length of its manifest in bytes.
    ///
    /// All files that `manifest` names have been written and their data synced. Afterwards the checkpoints older than
    /// the newest `retained` (one at least) are released, and files that no checkpoint names any longer are deleted,
    /// unless `in_use` says of their path below [`CheckpointStore::dir`] that a running upload or an unpublished
    /// acknowledgement names it. What cannot be deleted is logged and tried again later.
    ///
    /// # Errors
    /// - [`StoreError::OutcomeUnknown`]: perhaps completed, perhaps not. Neither commit nor abort anything; later
    ///   checkpoints may go on. Nothing of it is deleted while this store is open.
    /// - [`StoreError::Io`]: not completed; [`CheckpointStore::discard`] it.
    /// - [`StoreError::SyncFailedBefore`], at every call after a failed sync of the directory of segments: the same; reopen
    ///   the store.
    /// - [`StoreError::Incompatible`]: not completed; `manifest` is one that no engine would accept.
    ///
    /// # Panics
    /// When the checkpoint was not begun, or was published or discarded already.
    pub fn publish(
        &mut self,
        manifest: &Manifest,
        retained: usize,
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<u64, StoreError> {
        let id = manifest.checkpoint;
        assert!(self.pending.contains(&id), "checkpoint {id} is published without having begun");
        let bytes = self.encode(manifest)?;
        let file_bytes = bytes.len() as u64;
        let chk = self.chk(id);
        let (temporary, path) = (chk.join(names::MANIFEST_TEMPORARY), chk.join(names::MANIFEST));
        crash_point!("manifest.before_data_dirs_sync");
        if !broken!(DataDirsUnsynced) {
            self.files.sync_dirs(&[&self.shared, &chk])?;
        }
        crash_point!("manifest.after_data_dirs_sync");
        self.files.with_open(&temporary, OpenMode::CreateNew, |file| {
            crash_point!("manifest.after_create");
            file.write(bytes)?;
            crash_point!("manifest.after_write");
            if broken!(ManifestRenamedUnsynced) { Ok(()) } else { file.sync_data() }
        })?;
        crash_point!("manifest.before_rename");
        // From here on the checkpoint may be complete, whatever this process learns of it.
        let renamed = self.files.rename(&temporary, &path).and_then(|()| {
            crash_point!("manifest.after_rename");
            if broken!(ManifestDirUnsynced) { Ok(()) } else { self.files.sync_dir(&chk) }
        });
        crash_point!("manifest.after_dir_sync");
        self.pending.remove(&id);
        match renamed {
            Ok(()) => {
                self.note_claim(manifest);
                self.retention.complete(id, references_of(manifest));
            }
            Err(error) => {
                self.retention.uncertain_outcome(id, references_of(manifest));
                return Err(match error {
                    StoreError::Io { source, .. } => {
                        StoreError::OutcomeUnknown { checkpoint: id, path, source }
                    }
                    other => other,
                });
            }
        }
        self.release(retained);
        if let Err(error) = self.clean(in_use) {
            tracing::warn!(%error, "files that no checkpoint needs any longer stay for now");
        }
        Ok(file_bytes)
    }

    /// The bytes of a manifest that every reader will accept.
    fn encode(&self, manifest: &Manifest) -> Result<Vec<u8>, StoreError> {
        let refuse = |why: String| {
            StoreError::Incompatible(format!("checkpoint {} cannot be published: {why}", manifest.checkpoint))
        };
        if manifest.job != self.job {
            return Err(refuse(format!("it belongs to job {:?}, not to job {:?}", manifest.job, self.job)));
        }
        manifest::validate(manifest).map_err(|violation| refuse(violation.to_string()))?;
        verify_channel_files(&self.dir, manifest).map_err(|error| refuse(error.to_string()))?;
        let bytes = manifest::encode(manifest);
        if bytes.len() as u64 > manifest::BODY_BYTES_MAX {
            return Err(refuse(format!("its manifest would have {} bytes", bytes.len())));
        }
        Ok(bytes)
    }

    /// Drops a checkpoint that was not published: deletes `files`, paths below [`CheckpointStore::dir`] that tasks
    /// wrote for it, and all else in its directory, except what a checkpoint or `in_use` names.
    ///
    /// Also for files of a late or unknown acknowledgement. A checkpoint of unknown outcome
    /// ([`StoreError::OutcomeUnknown`]) keeps everything.
    ///
    /// # Errors
    /// [`StoreError::Io`]: some files are left; a later call of this or of [`CheckpointStore::publish`] tries again.
    pub fn discard(
        &mut self,
        id: CheckpointId,
        files: &[String],
        in_use: &dyn Fn(&str) -> bool,
    ) -> Result<(), StoreError> {
        if self.retention.uncertain().any(|uncertain| uncertain == id) {
            return Ok(());
        }
        if self.pending.remove(&id) {
            self.dead.insert(id);
        }
        self.retention.discard(files.iter().cloned());
        self.clean(in_use)
    }

    /// Deletes every segment that no checkpoint and not `in_use` names, also those that this store was never told of,
    /// such as the unfinished ones of a failed attempt, and scratch files. To be called while no attempt runs.
    ///
    /// # Errors
    /// [`StoreError::Io`]: some files are left; a later call tries again.
    pub fn sweep(&mut self, in_use: &dyn Fn(&str) -> bool) -> Result<(), StoreError> {
        let mut result = Ok(());
        for entry in self.files.list(&self.shared)? {
            if names::is_scratch(&entry.name) && !entry.is_dir {
                crash_point!("store.before_remove_scratch");
                result = result.and(self.files.remove(&self.shared.join(&entry.name)));
                crash_point!("store.after_remove_scratch");
            }
            let Some((attempt, checkpoint)) = names::parse_segment(&entry.name) else { continue };
            // A name that is the only trace of its ids must stay until a directory carries higher ones.
            if attempt.0 <= self.attempts.durable && checkpoint.0 <= self.checkpoints.durable {
                self.retention.discard([format!("{}/{}", names::SHARED, entry.name)]);
            }
        }
        result.and(self.clean(in_use))
    }

    /// Deletes the manifests of the checkpoints that are not retained. They must be gone for good before the first
    /// file goes that they name: an incomplete checkpoint must not look complete after a power failure.
    fn release(&mut self, retained: usize) {
        for id in self.retention.to_release(retained) {
            self.release_one(id);
        }
    }

    fn release_one(&mut self, id: CheckpointId) {
        let chk = self.chk(id);
        crash_point!("retention.before_remove_manifest");
        if let Err(error) = self.files.remove(&chk.join(names::MANIFEST)) {
            tracing::warn!(%error, checkpoint = id.0, "a checkpoint stays that should go");
            return;
        }
        crash_point!("retention.before_dir_sync");
        let synced = if broken!(ReleaseDirUnsynced) { Ok(()) } else { self.files.sync_dir(&chk) };
        match synced {
            Ok(()) => {
                crash_point!("retention.after_dir_sync");
                self.retention.released(id);
                self.dead.insert(id);
                self.dispose_claimed(id);
            }
            Err(error) => {
                tracing::warn!(%error, checkpoint = id.0, "the files of a released checkpoint stay");
                self.retention.release_uncertain(id);
            }
        }
    }

    /// Deletes all completed checkpoints and their files, as far as they can be read; ids go on rising. To be called
    /// while no attempt runs.
    ///
    /// # Errors
    /// [`StoreError::Io`]: some files are left, and nothing is damaged.
    pub fn remove_all(&mut self) -> Result<(), StoreError> {
        for id in self.completed().to_vec() {
            self.release_one(id);
        }
        self.clean(&|_| false)
    }

    /// Deletes what may be deleted; goes on after an error and returns the first one.
    fn clean(&mut self, in_use: &dyn Fn(&str) -> bool) -> Result<(), StoreError> {
        let mut result = Ok(());
        for path in self.retention.deletable(in_use) {
            crash_point!("retention.before_remove_file");
            match self.files.remove(&self.dir.join(&path)) {
                Ok(()) => {
                    crash_point!("retention.after_remove_file");
                    self.retention.deleted(&path);
                }
                Err(error) => result = result.and(Err(error)),
            }
        }
        if !self.retention.is_blind() {
            for id in self.dead.clone() {
                result = result.and(self.empty_dir(id, in_use));
            }
        }
        self.remove_empty_dirs();
        result
    }

    /// Deletes the files of a checkpoint directory that holds no checkpoint.
    fn empty_dir(&mut self, id: CheckpointId, in_use: &dyn Fn(&str) -> bool) -> Result<(), StoreError> {
        let name = names::checkpoint_dir(id);
        let entries = match self.files.list(&self.chk(id)) {
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                self.dead.remove(&id);
                return Ok(());
            }
            other => other?,
        };
        let mut result = Ok(());
        for entry in entries.iter().filter(|e| !e.is_dir && e.name != names::MANIFEST) {
            let path = format!("{name}/{}", entry.name);
            if self.retention.may_delete(&path, in_use) {
                crash_point!("retention.before_remove_leftover");
                result = result.and(self.files.remove(&self.dir.join(&path)));
                crash_point!("retention.after_remove_leftover");
            }
        }
        result
    }

    /// Removes dead directories, except the highest durable one, which keeps its id from being used again. One that
    /// still holds something refuses and waits for the next cleaning.
    fn remove_empty_dirs(&mut self) {
        if self.retention.is_blind() {
            return;
        }
        let (files, dir, newest) = (&self.files, &self.dir, self.checkpoints.durable);
        let stays = |id: &CheckpointId| {
            if id.0 >= newest {
                return true;
            }
            crash_point!("retention.before_remove_dir");
            let is_gone = files.remove_dir(&dir.join(names::checkpoint_dir(*id))).is_ok();
            crash_point!("retention.after_remove_dir");
            !is_gone
        };
        self.dead.retain(stays);
    }

    fn has_manifest(&self, id: CheckpointId) -> Result<bool, StoreError> {
        Ok(self.files.list(&self.chk(id))?.iter().any(|entry| entry.name == names::MANIFEST))
    }

    fn chk(&self, id: CheckpointId) -> PathBuf {
        self.dir.join(names::checkpoint_dir(id))
    }
}

/// Reads and checks the manifest at `path`; with `sync` it is durable before it is returned, but not its name.
fn read_manifest(files: &Files, path: &Path, sync: bool) -> Result<Manifest, StoreError> {
    let bytes = files.with_open(path, OpenMode::Read, |file| {
        let header = file.read(0, manifest::HEADER_BYTES)?;
        let file_bytes = manifest::file_bytes(path, &header)?;
        file.expect_length(file_bytes)?;
        if sync && !broken!(ManifestUnsynced) {
            crash_point!("restore.before_manifest_sync");
            file.sync_data()?;
            crash_point!("restore.after_manifest_sync");
        }
        file.read_exactly(0, file_bytes as usize)
    })?;
    manifest::decode(path, &bytes)
}

fn references_of(manifest: &Manifest) -> References {
    if manifest.origin.is_some() {
        // Its files are those of another directory.
        return References::Known(BTreeSet::new());
    }
    References::Known(manifest.files().map(str::to_owned).collect())
}

//! Savepoints: snapshots in directories of their own, which a user owns.
//!
//! ```text
//! <savepoints>/savepoint-<job>-<id>/seg-…      base blocks of keyed state, that either backend reads
//! <savepoints>/savepoint-<job>-<id>/MANIFEST   its durable name makes the savepoint complete
//! ```
//!
//! Always true:
//! - a savepoint names no file outside of its directory, so it can be moved or copied as a whole;
//! - its id is one of the job's checkpoint ids, used for nothing else;
//! - the engine deletes a savepoint only where a user disposes of it or has a job claim it, and then only files that its
//!   manifest names.
//!
//! Blocking, as everything in this folder.

use super::files::Files;
use super::{CheckpointStore, names, read_manifest, verify_channel_files};
use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::{DiskHandle, OpenMode};
use crate::manifest::{Manifest, ManifestKind, Origin};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// How many ids a savepoint tries whose directories others have taken.
const IDS_MAX: usize = 100;

/// A savepoint or checkpoint that a user has named by its path.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundSnapshot {
    /// What it holds.
    pub manifest: Manifest,
    /// The directory of the manifest.
    pub dir: PathBuf,
    /// The directory that the manifest's paths are relative to.
    pub root: PathBuf,
}

/// A directory that [`list_savepoints`] has found.
#[derive(Debug)]
pub struct Savepoint {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is, or why it cannot be used.
    pub info: Result<SavepointInfo, StoreError>,
}

/// What a savepoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavepointInfo {
    /// The job that took it.
    pub job: String,
    /// Its id.
    pub id: CheckpointId,
    /// Wall clock when it was triggered, in milliseconds since 1970.
    pub triggered_unix_ms: u64,
    /// Bytes of all files that belong to it.
    pub bytes: u64,
}

/// Reads the savepoint or retained checkpoint at `path`: its directory (`savepoint-<job>-<id>`, `chk-<id>`) or its
/// manifest. Both are made durable before they are returned, so that a restore may begin.
///
/// # Errors
/// - [`StoreError::Incompatible`]: there is none at `path`; says what is there.
/// - [`StoreError::Corrupt`], [`StoreError::NewerFormat`]: there is one, which cannot be read.
/// - [`StoreError::Io`]: the disk refuses.
pub fn find_snapshot(disk: &DiskHandle, path: &Path) -> Result<FoundSnapshot, StoreError> {
    let files = Files::new(disk.clone());
    let dir = match path.file_name() {
        Some(name) if name == names::MANIFEST => path.parent().unwrap_or(path),
        _ => path,
    };
    let manifest = match read_manifest(&files, &dir.join(names::MANIFEST), true) {
        Err(StoreError::Io { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            return Err(StoreError::Incompatible(nothing_at(&files, dir)));
        }
        other => other?,
    };
    verify_channel_files(dir, &manifest)?;
    crash_point!("restore.before_found_dir_sync");
    files.sync_dir(dir)?;
    crash_point!("restore.after_found_dir_sync");
    let root = match (&manifest.origin, manifest.kind) {
        (Some(origin), _) => PathBuf::from(&origin.root),
        (None, ManifestKind::Savepoint) => dir.to_owned(),
        (None, ManifestKind::Checkpoint) => {
            let shown = dir.display();
            let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.ok_or_else(|| {
                StoreError::Incompatible(format!(
                    "checkpoint {shown} lies in no job's directory: give its full path, `<checkpoints>/<job>/chk-<id>`"
                ))
            })?;
            parent.to_owned()
        }
    };
    Ok(FoundSnapshot { manifest, dir: dir.to_owned(), root })
}

/// Says what is at `dir` instead of a savepoint or checkpoint.
fn nothing_at(files: &Files, dir: &Path) -> String {
    let shown = dir.display();
    let Ok(entries) = files.list(dir) else {
        return format!(
            "there is no savepoint or checkpoint at {shown}: give the path of a directory `savepoint-<job>-<id>` or \
             `chk-<id>`"
        );
    };
    let named = |name: &str| names::is_savepoint_dir(name) || names::parse_checkpoint_dir(name).is_some();
    let mut inside: Vec<String> =
        entries.into_iter().filter(|e| e.is_dir && named(&e.name)).map(|e| e.name).collect();
    inside.sort();
    match inside.as_slice() {
        [] => format!(
            "{shown} holds no MANIFEST: it is no savepoint or checkpoint, or was never completed; give the path of a \
             completed one"
        ),
        _ => format!("{shown} is no savepoint or checkpoint itself: choose one of its {}", inside.join(", ")),
    }
}

/// All savepoints in the directory `root`, by name. What has no manifest is being written or has failed, and is left out;
/// what cannot be read comes with the reason.
///
/// # Errors
/// [`StoreError::Io`]: `root` cannot be listed.
pub fn list_savepoints(disk: &DiskHandle, root: &Path) -> Result<Vec<Savepoint>, StoreError> {
    let files = Files::new(disk.clone());
    let mut savepoints = Vec::new();
    for entry in files.list(root)?.into_iter().filter(|e| e.is_dir && names::is_savepoint_dir(&e.name)) {
        let path = root.join(&entry.name);
        let inside = files.list(&path)?;
        if !inside.iter().any(|file| file.name == names::MANIFEST) {
            continue;
        }
        let bytes = inside.iter().map(|file| file.bytes).sum();
        let info = read_manifest(&files, &path.join(names::MANIFEST), false).map(|manifest| SavepointInfo {
            job: manifest.job,
            id: manifest.checkpoint,
            triggered_unix_ms: manifest.triggered_unix_ms,
            bytes,
        });
        savepoints.push(Savepoint { path, info });
    }
    Ok(savepoints)
}

/// Deletes the savepoint at `path`: its manifest first, durably, then the files that it names, then the directory unless it
/// holds something else.
///
/// # Errors
/// - [`StoreError::Incompatible`]: there is no savepoint there, or it is a checkpoint; nothing has been deleted.
/// - [`StoreError::Corrupt`], [`StoreError::NewerFormat`]: it cannot be read, so that nobody knows which files are its
///   own; nothing has been deleted.
/// - [`StoreError::Io`]: some of its files are left.
pub fn dispose_savepoint(disk: &DiskHandle, path: &Path) -> Result<(), StoreError> {
    let FoundSnapshot { manifest, dir, .. } = find_snapshot(disk, path)?;
    if manifest.kind != ManifestKind::Savepoint {
        let message = format!(
            "{} is a checkpoint of job {:?}: the job's engine deletes its checkpoints",
            dir.display(),
            manifest.job
        );
        return Err(StoreError::Incompatible(message));
    }
    let files = Files::new(disk.clone());
    crash_point!("dispose.before_remove_manifest");
    files.remove(&dir.join(names::MANIFEST))?;
    crash_point!("dispose.before_dir_sync");
    files.sync_dir(&dir)?;
    crash_point!("dispose.after_dir_sync");
    let mut result = Ok(());
    for file in manifest.files() {
        result = result.and(files.remove(&dir.join(file)));
        crash_point!("dispose.after_remove_file");
    }
    result?;
    if files.list(&dir)?.is_empty() {
        crash_point!("dispose.before_remove_dir");
        files.remove_dir(&dir)?;
        crash_point!("dispose.after_remove_dir");
    }
    Ok(())
}

impl CheckpointStore {
    /// Begins a savepoint in the directory `root`: takes the next id and creates the savepoint's own directory, durably.
    ///
    /// # Errors
    /// [`StoreError::Io`]: no savepoint has begun; [`StoreError::Incompatible`]: all names tried are taken.
    pub fn begin_savepoint(&mut self, root: &Path) -> Result<(CheckpointId, PathBuf), StoreError> {
        for _ in 0..IDS_MAX {
            let id = self.begin()?;
            match self.savepoint_dir(root, id) {
                Ok(Some(dir)) => {
                    self.savepoints.insert(id, dir.clone());
                    return Ok((id, dir));
                }
                // Another engine's job of this name uses the same directory.
                Ok(None) => self.give_up(id),
                Err(error) => {
                    self.give_up(id);
                    return Err(error);
                }
            }
        }
        let message = format!(
            "{} is full of savepoints of the job {:?}: choose another directory",
            root.display(),
            self.job
        );
        Err(StoreError::Incompatible(message))
    }

    fn savepoint_dir(&self, root: &Path, id: CheckpointId) -> Result<Option<PathBuf>, StoreError> {
        crash_point!("savepoint.before_create_root");
        self.files.create_dir_durably(root)?;
        crash_point!("savepoint.before_create_dir");
        let dir = root.join(names::savepoint_dir(&self.job, id));
        match self.files.create_dir(&dir) {
            Ok(()) => {}
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        crash_point!("savepoint.before_dir_sync");
        self.files.sync_dir(root)?;
        crash_point!("savepoint.after_dir_sync");
        Ok(Some(dir))
    }

    /// The id serves nothing any more.
    fn give_up(&mut self, id: CheckpointId) {
        if let Err(error) = self.discard(id, &[], &|_| false) {
            tracing::warn!(%error, checkpoint = id.0, "the directory of a failed savepoint's id stays");
        }
    }

    /// Makes a savepoint complete, durably, and returns the length of its manifest. All files that `manifest` names have
    /// been written below the savepoint's directory and their data synced.
    ///
    /// Its id stays reserved until [`CheckpointStore::publish`] makes the job continue from it, or
    /// [`CheckpointStore::discard`] ends that.
    ///
    /// # Errors
    /// - [`StoreError::OutcomeUnknown`]: perhaps complete, perhaps not; nothing of it is deleted.
    /// - any other: not complete; [`CheckpointStore::discard_savepoint`] it.
    ///
    /// # Panics
    /// When the savepoint was not begun, or was published or discarded already.
    pub fn publish_savepoint(&mut self, manifest: &Manifest) -> Result<u64, StoreError> {
        let id = manifest.checkpoint;
        let dir = self.savepoints.get(&id).cloned();
        let dir = dir.unwrap_or_else(|| panic!("savepoint {id} is published without having begun"));
        let bytes = self.encode(manifest)?;
        let file_bytes = bytes.len() as u64;
        let (temporary, path) = (dir.join(names::MANIFEST_TEMPORARY), dir.join(names::MANIFEST));
        crash_point!("savepoint.before_data_dir_sync");
        self.files.sync_dir(&dir)?;
        crash_point!("savepoint.after_data_dir_sync");
        self.files.with_open(&temporary, OpenMode::CreateNew, |file| {
            crash_point!("savepoint.after_create");
            file.write(bytes)?;
            crash_point!("savepoint.after_write");
            file.sync_data()
        })?;
        crash_point!("savepoint.before_rename");
        // From here on it may be complete, so it is not ours to delete.
        self.savepoints.remove(&id);
        let renamed = self.files.rename(&temporary, &path).and_then(|()| {
            crash_point!("savepoint.after_rename");
            self.files.sync_dir(&dir)
        });
        crash_point!("savepoint.after_publish_dir_sync");
        match renamed {
            Ok(()) => Ok(file_bytes),
            Err(StoreError::Io { source, .. }) => {
                Err(StoreError::OutcomeUnknown { checkpoint: id, path, source })
            }
            Err(other) => Err(other),
        }
    }

    /// Drops a savepoint that was begun and not published: deletes its directory and all files in it. May be called
    /// again, for files that came late.
    ///
    /// # Errors
    /// [`StoreError::Io`]: some files are left.
    pub fn discard_savepoint(&mut self, id: CheckpointId) -> Result<(), StoreError> {
        crash_point!("savepoint.before_give_up");
        self.give_up(id);
        crash_point!("savepoint.after_give_up");
        let Some(dir) = self.savepoints.get(&id) else { return Ok(()) };
        let entries = match self.files.list(dir) {
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        let mut result = Ok(());
        for entry in entries.iter().filter(|entry| !entry.is_dir) {
            crash_point!("savepoint.before_remove_file");
            result = result.and(self.files.remove(&dir.join(&entry.name)));
        }
        crash_point!("savepoint.before_remove_dir");
        let result = result.and(self.files.remove_dir(dir));
        crash_point!("savepoint.after_remove_dir");
        result
    }

    /// The checkpoint under which this job takes over `found`, to be published once a restore from it has worked. Ids rise
    /// above all that it holds.
    ///
    /// One of this job's own directory goes on as it is, whatever `claim` says: its files are the job's already. Any other
    /// stays where it is. Where `claim` is set it is deleted together with the checkpoint that stands for it.
    ///
    /// # Errors
    /// [`StoreError::Io`]: no id could be taken. [`StoreError::Incompatible`]: the path of `found` is not absolute, or no
    /// text.
    pub fn take_over(&mut self, found: FoundSnapshot, claim: bool) -> Result<Manifest, StoreError> {
        let FoundSnapshot { mut manifest, dir, root } = found;
        let text = |path: &Path| match path.to_str() {
            Some(text) if path.is_absolute() => Ok(text.to_owned()),
            _ => Err(StoreError::Incompatible(format!("{} is no absolute path in UTF-8", path.display()))),
        };
        let own = std::path::absolute(&self.dir).unwrap_or_else(|_| self.dir.clone());
        if dir.parent() != Some(&own) {
            // What stands for something else itself owns nothing that could be claimed.
            let claimed = claim && manifest.origin.is_none();
            manifest.origin = Some(Origin { root: text(&root)?, dir: text(&dir)?, claimed });
        }
        manifest.kind = ManifestKind::Checkpoint;
        manifest.job.clone_from(&self.job);
        self.raise(manifest.checkpoint, manifest.attempt);
        crash_point!("take_over.before_begin");
        manifest.checkpoint = self.begin()?;
        crash_point!("take_over.after_begin");
        Ok(manifest)
    }

    /// Lets all ids to come be higher than these.
    fn raise(&mut self, checkpoint: CheckpointId, attempt: AttemptId) {
        self.checkpoints.found(checkpoint.0);
        self.attempts.found(attempt.0);
    }

    pub(super) fn note_claim(&mut self, manifest: &Manifest) {
        if let Some(origin) = manifest.origin.as_ref().filter(|origin| origin.claimed) {
            self.claims.insert(manifest.checkpoint, PathBuf::from(&origin.dir));
        }
    }

    /// The checkpoint that stood for a claimed original is gone for good: now that goes too.
    pub(super) fn dispose_claimed(&mut self, id: CheckpointId) {
        let Some(dir) = self.claims.remove(&id) else { return };
        if broken!(ClaimedStays) {
            return;
        }
        if self.claims.values().any(|other| *other == dir) {
            return;
        }
        crash_point!("claim.before_dispose");
        if let Err(error) = self.dispose_original(&dir) {
            tracing::warn!(%error, path = %dir.display(), "a claimed savepoint or checkpoint stays");
        }
        crash_point!("claim.after_dispose");
    }

    fn dispose_original(&self, dir: &Path) -> Result<(), StoreError> {
        let FoundSnapshot { manifest, root, .. } = find_snapshot(&self.disk, dir)?;
        if manifest.kind == ManifestKind::Savepoint {
            return dispose_savepoint(&self.disk, dir);
        }
        // Other checkpoints of that directory may name the same files: its own store knows.
        let (Some(parent), true) = (root.parent(), root.file_name().is_some_and(|job| *job == *manifest.job))
        else {
            return Err(StoreError::Incompatible(format!("{} is no job's directory", root.display())));
        };
        let open = if self.lock.is_some() { CheckpointStore::open } else { CheckpointStore::open_unlocked };
        let mut store = open(self.disk.clone(), parent, &manifest.job)?;
        store.release_one(manifest.checkpoint);
        store.clean(&|_| false)
    }
}

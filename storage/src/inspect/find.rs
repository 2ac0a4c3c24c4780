//! Finds checkpoints and savepoints below a directory, and opens one.

use crate::checkpoint::{names, read_manifest_file};
use crate::error::StoreError;
use crate::io::DiskHandle;
use crate::manifest::{Manifest, ManifestKind, Payload};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Directories below the one that was named, down to this depth, may hold checkpoints: `<root>/<job>/chk-<id>`.
const DEPTH_MAX: usize = 2;

/// An opened checkpoint or savepoint.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The directory of its manifest.
    pub dir: PathBuf,
    /// The directory that the manifest's paths are relative to.
    pub root: PathBuf,
    /// What it holds.
    pub manifest: Manifest,
    /// Length of the manifest.
    pub manifest_bytes: u64,
}

/// A directory that has the name of a checkpoint or savepoint.
#[derive(Debug)]
pub struct Listed {
    /// Where it lies.
    pub dir: PathBuf,
    /// What is there.
    pub found: Found,
}

/// What a directory holds.
#[derive(Debug)]
pub enum Found {
    /// A manifest that can be read.
    Complete(Box<Snapshot>),
    /// A manifest that cannot be read.
    Damaged(StoreError),
    /// No manifest: it is being written, was never completed, or is what is left of a deleted one.
    Incomplete,
}

/// The checkpoint or savepoint whose directory or manifest `path` is.
///
/// # Errors
/// - [`StoreError::Incompatible`]: there is none at `path`; says what is there and what to give instead.
/// - [`StoreError::Corrupt`], [`StoreError::NewerFormat`]: its manifest is damaged, or too new.
/// - [`StoreError::Io`]: the disk refuses.
pub fn open(disk: &DiskHandle, path: &Path) -> Result<Snapshot, StoreError> {
    let dir = match path.file_name() {
        Some(name) if name == names::MANIFEST => path.parent().unwrap_or(path),
        _ => path,
    };
    match read(disk, dir) {
        Err(StoreError::Io { source, .. })
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
        {
            Err(StoreError::Incompatible(instead(disk, dir)))
        }
        other => other,
    }
}

fn read(disk: &DiskHandle, dir: &Path) -> Result<Snapshot, StoreError> {
    let path = dir.join(names::MANIFEST);
    let (manifest, manifest_bytes) = read_manifest_file(disk, &path)?;
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let root = match (&manifest.origin, manifest.kind) {
        (Some(origin), _) => PathBuf::from(&origin.root),
        (None, ManifestKind::Savepoint) => dir.to_owned(),
        (None, ManifestKind::Checkpoint) => parent.map_or_else(|| dir.join(".."), Path::to_owned),
    };
    Ok(Snapshot { dir: dir.to_owned(), root, manifest, manifest_bytes })
}

/// Says what is at `dir`, where no manifest is.
fn instead(disk: &DiskHandle, dir: &Path) -> String {
    let shown = dir.display();
    match list(disk, dir) {
        Err(_) => {
            format!("there is no directory {shown}: give that of a checkpoint, `chk-<id>`, or of a savepoint")
        }
        Ok(listed) if listed.is_empty() => format!(
            "{shown} holds no MANIFEST, so it is no completed checkpoint or savepoint, nor are there any below it"
        ),
        Ok(listed) => {
            let mut complete = listed.iter().filter(|listed| !matches!(listed.found, Found::Incomplete));
            let last = complete.next_back().or(listed.last()).expect("it is not empty");
            format!(
                "{shown} is no checkpoint itself, but {} are below it: choose one, such as {}",
                listed.len(),
                last.dir.display()
            )
        }
    }
}

/// All checkpoints and savepoints at or below `path`: of one job, or of all jobs of a directory; by path, numbers by value.
///
/// # Errors
/// [`StoreError::Io`]: a directory cannot be listed.
pub fn list(disk: &DiskHandle, path: &Path) -> Result<Vec<Listed>, StoreError> {
    let mut listed = Vec::new();
    collect(disk, path, DEPTH_MAX, &mut listed)?;
    Ok(listed)
}

fn collect(disk: &DiskHandle, dir: &Path, depth: usize, out: &mut Vec<Listed>) -> Result<(), StoreError> {
    let entries = disk.list(dir).wait().map_err(|error| StoreError::io("listing", dir, error))?;
    let has_manifest = entries.iter().any(|entry| !entry.is_dir && entry.name == names::MANIFEST);
    if has_manifest {
        out.push(Listed { dir: dir.to_owned(), found: look(disk, dir) });
        return Ok(());
    }
    let name = dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if names::is_snapshot_dir(&name) {
        // The highest id's directory stays when its checkpoint is gone, empty; that is no checkpoint.
        if !entries.is_empty() {
            out.push(Listed { dir: dir.to_owned(), found: Found::Incomplete });
        }
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    let mut inside: Vec<String> = entries
        .into_iter()
        .filter(|entry| entry.is_dir && entry.name != names::SHARED)
        .map(|entry| entry.name)
        .collect();
    inside.sort_by_key(|name| {
        let digits = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        (name[..digits].to_owned(), name[digits..].parse::<u64>().unwrap_or(u64::MAX), name.clone())
    });
    for name in inside {
        match collect(disk, &dir.join(name), depth - 1, out) {
            // Deleted since it was listed.
            Err(StoreError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn look(disk: &DiskHandle, dir: &Path) -> Found {
    match read(disk, dir) {
        Ok(snapshot) => Found::Complete(Box::new(snapshot)),
        Err(error) => Found::Damaged(error),
    }
}

impl Snapshot {
    /// `checkpoint` or `savepoint`.
    pub fn kind(&self) -> &'static str {
        match self.manifest.kind {
            ManifestKind::Checkpoint => "checkpoint",
            ManifestKind::Savepoint => "savepoint",
        }
    }

    /// The files that it names, each once, with their lengths as the manifest says; the manifest itself is not among them.
    pub fn files(&self) -> Vec<(String, u64)> {
        let segments = self.manifest.operators.iter().flat_map(|operator| &operator.subtasks);
        let segments = segments.flat_map(|subtask| &subtask.segments);
        let mut files: Vec<(String, u64)> =
            segments.map(|segment| (segment.path.clone(), segment.bytes)).collect();
        for channel in &self.manifest.channels {
            if let Payload::File { path, file_bytes, .. } = &channel.data {
                files.push((path.clone(), *file_bytes));
            }
        }
        files.sort();
        files.dedup();
        files
    }

    /// Bytes of all its files, with the manifest.
    pub fn bytes(&self) -> u64 {
        self.manifest_bytes + self.files().iter().map(|(_, bytes)| bytes).sum::<u64>()
    }
}

//! Reads every byte of a checkpoint and checks it against the checksums.
//!
//! Always true: the reading goes on behind a damage, so that all damaged files are named.

use super::find::Snapshot;
use crate::checkpoint::{names, read_payload, verify_channel_files};
use crate::error::StoreError;
use crate::io::DiskHandle;
use crate::manifest::{Payload, SegmentRef};
use crate::snapshot;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Files that were read from end to end, with the manifest.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong; nothing for a sound checkpoint.
    pub problems: Vec<Problem>,
    /// Files in the checkpoint's own directory that its manifest does not name. They do no harm.
    pub extra: Vec<PathBuf>,
}

/// A file that is not what was written.
#[derive(Debug)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it: of damage, with the offset.
    pub error: StoreError,
}

/// Reads all files of `snapshot` and checks every byte. The manifest has been checked when it was opened.
///
/// # Errors
/// [`StoreError::Io`]: the checkpoint's own directory cannot be listed. What is wrong with its files is in the report.
pub fn verify(disk: &DiskHandle, snapshot: &Snapshot) -> Result<Report, StoreError> {
    let mut report = Report { files: 1, bytes: snapshot.manifest_bytes, ..Report::default() };
    let mut segments: BTreeMap<&str, &SegmentRef> = BTreeMap::new();
    let subtasks = snapshot.manifest.operators.iter().flat_map(|operator| &operator.subtasks);
    for segment in subtasks.flat_map(|subtask| &subtask.segments) {
        segments.entry(&segment.path).or_insert(segment);
    }
    for (path, segment) in segments {
        report.files += 1;
        report.bytes += segment.bytes;
        if let Err(error) = snapshot::verify(disk, &snapshot.root, std::slice::from_ref(segment)) {
            report.problems.push(Problem { path: snapshot.root.join(path), error });
        }
    }
    if let Err(error) = verify_channel_files(&snapshot.root, &snapshot.manifest) {
        report.problems.push(Problem { path: snapshot.dir.join(names::MANIFEST), error });
    }
    let mut channel_files = BTreeSet::new();
    for channel in &snapshot.manifest.channels {
        let Payload::File { path, file_bytes, .. } = &channel.data else { continue };
        if channel_files.insert(path) {
            report.files += 1;
            report.bytes += file_bytes;
        }
        if let Err(error) = read_payload(disk, &snapshot.root, &channel.data) {
            report.problems.push(Problem { path: snapshot.root.join(path), error });
        }
    }
    let named: BTreeSet<PathBuf> =
        snapshot.files().iter().map(|(path, _)| snapshot.root.join(path)).collect();
    let listed = disk.list(&snapshot.dir).wait();
    for entry in listed.map_err(|error| StoreError::io("listing", &snapshot.dir, error))? {
        let path = snapshot.dir.join(&entry.name);
        if entry.name != names::MANIFEST && !named.contains(&path) {
            report.extra.push(path);
        }
    }
    report.extra.sort();
    Ok(report)
}

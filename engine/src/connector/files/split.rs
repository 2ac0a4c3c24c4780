//! Finds input files and cuts them into splits.
//!
//! Always true: the splits of a plain file cover it without gap or overlap, and a line belongs to the split that
//! holds its first byte.

use crate::connector::BoxError;
use glob::{MatchOptions, Pattern};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Component, Path, PathBuf};
use thalweg_storage::io::{DiskHandle, OpenMode};

use super::open_file::OpenFile;

/// No plain file is cut into splits smaller than this.
const SPLIT_BYTES_MIN: u64 = 1 << 20;
/// Splits per subtask, so that subtasks end at about the same time.
const SPLITS_PER_SUBTASK: u64 = 4;
/// First bytes of a zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A part of an input file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
pub struct FileSplit {
    /// The file.
    pub(super) path: String,
    /// First byte of the range; a plain split reads the lines that start in its range.
    pub(super) start: u64,
    /// Byte behind the range.
    pub(super) end: u64,
    /// Offset behind the last emitted line; in uncompressed bytes for a compressed file.
    pub(super) position: u64,
    /// Length of the whole file when it was split; the file must keep it.
    pub(super) file_bytes: u64,
    /// True for a zstd-compressed file.
    pub(super) zstd: bool,
}

thalweg_storage::data!(FileSplit);

/// Finds the files of `path` (a file, a directory or a glob pattern) and cuts them.
pub(super) fn find_splits(
    disk: &DiskHandle,
    path: &Path,
    parallelism: u32,
) -> Result<Vec<FileSplit>, BoxError> {
    let mut files = Vec::new();
    for file in find_files(disk, path)? {
        let (bytes, zstd) = probe(disk, &file).map_err(|error| {
            format!("opening input file {} failed: {error}: check its permissions", file.display())
        })?;
        files.push((text(&file)?, bytes, zstd));
    }
    let plain_bytes: u64 = files.iter().filter(|(_, _, zstd)| !zstd).map(|(_, bytes, _)| bytes).sum();
    let wanted = if parallelism <= 1 { 1 } else { u64::from(parallelism) * SPLITS_PER_SUBTASK };
    let split_bytes = plain_bytes.div_ceil(wanted).max(SPLIT_BYTES_MIN);
    let mut splits = Vec::new();
    for (path, file_bytes, zstd) in files {
        // A single reader gains nothing from cutting, and keeps the order of lines.
        let step = if zstd || parallelism <= 1 { file_bytes } else { split_bytes };
        let mut start = 0;
        while start < file_bytes {
            let end = (start + step).min(file_bytes);
            splits.push(FileSplit { path: path.clone(), start, end, position: start, file_bytes, zstd });
            start = end;
        }
    }
    Ok(splits)
}

/// Length of a file, and whether it is compressed.
fn probe(disk: &DiskHandle, path: &Path) -> io::Result<(u64, bool)> {
    let file = OpenFile::new(disk, disk.open(path, OpenMode::Read).wait()?);
    let bytes = disk.length(file.id).wait()?;
    let magic = disk.read(file.id, 0, ZSTD_MAGIC.len()).wait()?;
    let named = path.extension().is_some_and(|extension| extension == "zst");
    Ok((bytes, named || magic == ZSTD_MAGIC))
}

fn text(path: &Path) -> Result<String, BoxError> {
    let text =
        path.to_str().ok_or_else(|| format!("input path {} is not UTF-8: rename it", path.display()))?;
    Ok(text.to_owned())
}

fn find_files(disk: &DiskHandle, path: &Path) -> Result<Vec<PathBuf>, BoxError> {
    let pattern = text(path)?;
    if pattern.contains(['*', '?', '[']) {
        let mut files = Vec::new();
        let components: Vec<Component<'_>> = path.components().collect();
        expand(disk, PathBuf::new(), &components, &mut files)?;
        files.sort();
        files.dedup();
        if files.is_empty() {
            return Err(format!("no input file matches {pattern}: check the pattern").into());
        }
        return Ok(files);
    }
    match disk.list(path).wait() {
        Ok(entries) => {
            let mut files: Vec<PathBuf> = entries
                .into_iter()
                .filter(|entry| !entry.is_dir && !entry.name.starts_with('.'))
                .map(|entry| path.join(entry.name))
                .collect();
            files.sort();
            if files.is_empty() {
                return Err(format!("input directory {pattern} holds no files: check the path").into());
            }
            Ok(files)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("input {pattern} does not exist: check the path").into())
        }
        // Not a directory, then.
        Err(_) => Ok(vec![path.to_owned()]),
    }
}

/// Adds the files below `base` that match the components of a pattern.
fn expand(
    disk: &DiskHandle,
    base: PathBuf,
    components: &[Component<'_>],
    files: &mut Vec<PathBuf>,
) -> Result<(), BoxError> {
    let Some((first, rest)) = components.split_first() else { return Ok(()) };
    let name = first.as_os_str().to_string_lossy();
    if !rest.is_empty() && !name.contains(['*', '?', '[']) {
        return expand(disk, base.join(first), rest, files);
    }
    let listed = if base.as_os_str().is_empty() { Path::new(".") } else { base.as_path() };
    let entries = match disk.list(listed).wait() {
        Ok(entries) => entries,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(());
        }
        Err(error) => return Err(format!("listing directory {} failed: {error}", listed.display()).into()),
    };
    let deep = name == "**";
    if deep {
        expand(disk, base.clone(), rest, files)?;
    }
    let pattern = Pattern::new(&name).map_err(|error| format!("{name} is not a valid pattern: {error}"))?;
    let options = MatchOptions { require_literal_leading_dot: true, ..MatchOptions::new() };
    for entry in entries {
        if !pattern.matches_with(&entry.name, options) {
            continue;
        }
        let path = base.join(&entry.name);
        match (entry.is_dir, rest.is_empty()) {
            (false, true) => files.push(path),
            (true, _) if deep => expand(disk, path, components, files)?,
            (true, false) => expand(disk, path, rest, files)?,
            _ => {}
        }
    }
    Ok(())
}

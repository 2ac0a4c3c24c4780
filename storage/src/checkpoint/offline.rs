//! Reads a manifest for tools: without the job's directory being open, and without syncing anything.

use super::files::Files;
use crate::error::StoreError;
use crate::io::{DiskHandle, OpenMode};
use crate::manifest::{self, Manifest};
use std::path::Path;

/// The manifest in the file at `path`, and the length of that.
///
/// # Errors
/// As of [`manifest::decode`], and [`StoreError::Io`].
pub(crate) fn read_manifest_file(disk: &DiskHandle, path: &Path) -> Result<(Manifest, u64), StoreError> {
    let bytes = Files::new(disk.clone()).with_open(path, OpenMode::Read, |file| {
        let header = file.read(0, manifest::HEADER_BYTES)?;
        let file_bytes = manifest::file_bytes(path, &header)?;
        file.expect_length(file_bytes)?;
        file.read_exactly(0, file_bytes as usize)
    })?;
    Ok((manifest::decode(path, &bytes)?, bytes.len() as u64))
}

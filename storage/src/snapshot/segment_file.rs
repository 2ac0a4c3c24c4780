//! A segment file of a stored checkpoint, as a source of bytes for its reader.
//!
//! Always true: it lies below the job's directory and has the length that its manifest says. For plain threads only: every
//! call may wait for the disk.

use crate::error::StoreError;
use crate::io::{DiskHandle, FileId, MappedFile, OpenMode};
use crate::manifest::SegmentRef;
use crate::segment::Source;
use std::borrow::Cow;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// A segment file, open for reading: mapped where the disk offers that, since a restore runs on a thread of its own.
pub(super) struct SegmentFile {
    path: PathBuf,
    bytes: u64,
    content: Content,
}

/// Where the bytes of a [`SegmentFile`] come from.
enum Content {
    Mapped(MappedFile),
    Open(OpenFile),
}

/// A file that is closed when dropped.
struct OpenFile {
    disk: DiskHandle,
    file: FileId,
}

impl SegmentFile {
    /// Opens the file that `reference` names below `job_dir`, or in full where it belongs to another directory.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] where the path leads elsewhere or the length is another; [`StoreError::Io`].
    pub fn open(disk: &DiskHandle, job_dir: &Path, reference: &SegmentRef) -> Result<Self, StoreError> {
        let relative = Path::new(&reference.path);
        // A full path is never that of a file's content: a manifest with one does not validate.
        let mut parts = relative.components().skip(usize::from(relative.has_root()));
        if !parts.all(|part| matches!(part, Component::Normal(_))) {
            return Err(StoreError::corrupt(
                job_dir,
                0,
                "a segment below the job's directory",
                &reference.path,
            ));
        }
        let path = job_dir.join(relative);
        let failed = |error| StoreError::io("opening", &path, error);
        if let Some(map) = disk.map(&path, reference.bytes).map_err(failed)? {
            return Ok(SegmentFile { path, bytes: reference.bytes, content: Content::Mapped(map) });
        }
        let open =
            OpenFile { disk: disk.clone(), file: disk.open(&path, OpenMode::Read).wait().map_err(failed)? };
        let length = disk.length(open.file).wait();
        let bytes = length.map_err(|error| StoreError::io("measuring", &path, error))?;
        if bytes != reference.bytes {
            let (expected, found) = (format!("{} bytes", reference.bytes), format!("{bytes} bytes"));
            return Err(StoreError::corrupt(&path, bytes.min(reference.bytes), expected, found));
        }
        Ok(SegmentFile { path, bytes, content: Content::Open(open) })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True where bytes come from a map, so that any number of threads may read at once, in no order.
    pub fn is_mapped(&self) -> bool {
        matches!(self.content, Content::Mapped(_))
    }

    /// Reads piece by piece until `range` is complete.
    fn read_open(&self, open: &OpenFile, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let wanted = usize::try_from(range.end - range.start).map_err(|_| {
            StoreError::corrupt(&self.path, range.start, "a range that fits memory", format!("{range:?}"))
        })?;
        while bytes.len() < wanted {
            let ticket = open.disk.read(open.file, range.start + bytes.len() as u64, wanted - bytes.len());
            let piece = ticket.wait().map_err(|error| StoreError::io("reading", &self.path, error))?;
            if piece.is_empty() {
                let (expected, at) = (format!("{wanted} bytes"), range.start + bytes.len() as u64);
                return Err(StoreError::corrupt(&self.path, at, expected, "the end of the file"));
            }
            if bytes.is_empty() {
                bytes = piece;
            } else {
                bytes.extend_from_slice(&piece);
            }
        }
        Ok(bytes)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // A file opened for reading has nothing to lose; the ticket need not be waited for.
        drop(self.disk.close(self.file));
    }
}

impl Source for SegmentFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, StoreError> {
        let map = match &self.content {
            Content::Open(open) => return self.read_open(open, range).map(Cow::Owned),
            Content::Mapped(map) => map,
        };
        let start = range.start;
        let found = map.get(range).map_err(|error| StoreError::io("reading", &self.path, error))?;
        let outside = || StoreError::corrupt(&self.path, start, "a range within the file", "its end");
        found.map(Cow::Borrowed).ok_or_else(outside)
    }
}

//! The plain blocking calls on the local file system that the real disks share.
//!
//! Always true: a new file has mode 0600 and a new directory 0700 on Unix, whatever is written to them.
#![expect(clippy::disallowed_methods, reason = "this is where `Disk` ends and the file system begins")]

use super::{Entry, OpenMode};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// Mode of a new file.
pub(super) const FILE_MODE: u32 = 0o600;
/// Mode of a new directory.
pub(super) const DIR_MODE: u32 = 0o700;

/// Opens `path`.
pub(super) fn open(path: &Path, mode: OpenMode) -> io::Result<File> {
    let mut options = OpenOptions::new();
    match mode {
        OpenMode::Read | OpenMode::ReadRandom => options.read(true),
        OpenMode::CreateNew | OpenMode::CreateDirect => {
            options.read(true).write(true).create_new(true).mode(FILE_MODE)
        }
        OpenMode::ReadWrite => options.read(true).write(true),
    };
    let file = options.open(path)?;
    if mode == OpenMode::ReadRandom {
        expect_random_reads(&file);
    }
    Ok(file)
}

/// Keeps the system from reading ahead in `file`. Where it does not listen, only speed is lost.
pub(super) fn expect_random_reads(file: impl AsFd) {
    #[cfg(target_os = "linux")]
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// Fills `buffer` from `offset` on; returns how many bytes came before the end of the file.
pub(super) fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Writes all of `data` at `offset`; short writes and interruptions are carried on.
pub(super) fn write_all(file: &File, offset: u64, data: &[u8]) -> io::Result<()> {
    file.write_all_at(data, offset)
}

/// Creates one directory.
pub(super) fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).create(path)
}

/// Makes the entries of a directory durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    let flags = rustix::fs::OFlags::DIRECTORY.bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)?.sync_all()
}

/// Lists a directory. Links are not followed; an entry that vanishes meanwhile is left out.
pub(super) fn list(path: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let is_dir = metadata.is_dir();
        let name = entry.file_name().to_string_lossy().into_owned();
        entries.push(Entry { name, is_dir, bytes: if is_dir { 0 } else { metadata.len() } });
    }
    Ok(entries)
}

//! [`MappedFile`]: a file in the address space, for threads that read much of it once, as a restore or an inspection
//! does.
//!
//! A worker never touches a map. A load from it may fault: then the whole thread waits for the disk, with every task that
//! it drives, and a failing disk or a file cut short is no error that a caller can handle but `SIGBUS`, which ends the host's
//! process. [`MappedFile::get`] takes away what can be taken: it has the kernel read the wanted range at once and
//! report the disk's errors before anybody loads from it.
//!
//! Always true: only files that are written once and never cut short are mapped, and the length was checked when the map
//! was made. Removing such a file does no harm: its content stays until the last map of it is gone.

#![expect(unsafe_code, reason = "the content of a map is promised by nobody but whoever may write the file")]

use super::OpenMode;
use super::local;
use memmap2::{Advice, Mmap, MmapOptions};
use rustix::io::Errno;
use std::io;
use std::ops::Range;
use std::path::Path;

/// Bytes that are read ahead of the range that a thread works on.
const READ_AHEAD_BYTES: usize = 4 << 20;

/// A whole file, mapped for reading. See the module's page for who may use one.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps `path`, which has `bytes` bytes, is complete, and is never written again. None where its length is another, or zero: then an
    /// ordinary read tells what is wrong.
    ///
    /// # Errors
    /// Those of opening and mapping.
    pub(super) fn open(path: &Path, bytes: u64) -> io::Result<Option<MappedFile>> {
        let file = local::open(path, OpenMode::Read)?;
        let found = rustix::fs::fstat(&file)?.st_size.cast_unsigned();
        let (true, true, Ok(len)) = (found == bytes, bytes > 0, usize::try_from(bytes)) else {
            return Ok(None);
        };
        // SAFETY: the file's owner never writes it again nor cuts it short, so what is borrowed from the map does not
        // change; the engine's lock on the directory keeps other engines from it.
        let map = unsafe { MmapOptions::new().len(len).map(&file)? };
        // Advice that is refused costs speed only.
        let _ = map.advise(Advice::Sequential);
        Ok(Some(MappedFile { map }))
    }

    /// Length of the file.
    pub fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The bytes of `range`, read from the disk by the time this returns; it blocks so long. None where `range` does not
    /// lie within the file.
    ///
    /// # Errors
    /// The disk failed, or the file was cut short since it was mapped. Before Linux 5.14 that shows only when the bytes are
    /// used, as `SIGBUS`.
    pub fn get(&self, range: Range<u64>) -> io::Result<Option<&[u8]>> {
        let bounds = || Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
        let Some(bytes) = bounds().and_then(|bounds| self.map.get(bounds)) else { return Ok(None) };
        if !bytes.is_empty() {
            self.populate(range.start as usize, bytes.len())?;
            self.read_ahead(range.end as usize);
        }
        Ok(Some(bytes))
    }

    #[cfg(target_os = "linux")]
    fn populate(&self, offset: usize, bytes: usize) -> io::Result<()> {
        match self.map.advise_range(Advice::PopulateRead, offset, bytes) {
            // The kernel is too old to know this advice.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
            // It would have been SIGBUS.
            Err(error) if error.raw_os_error() == Some(Errno::FAULT.raw_os_error()) => Err(Errno::IO.into()),
            other => other,
        }
    }

    /// Has the system read what most likely comes next, without waiting for it.
    fn read_ahead(&self, from: usize) {
        let bytes = READ_AHEAD_BYTES.min(self.map.len() - from);
        if bytes > 0 {
            // Advice that is refused costs speed only.
            let _ = self.map.advise_range(Advice::WillNeed, from, bytes);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn populate(&self, _offset: usize, _bytes: usize) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_holds_the_file_and_refuses_what_lies_outside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let content: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let map = MappedFile::open(&path, 100_000).unwrap().expect("the length is right");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(map.bytes(), 100_000);
        assert_eq!(map.get(5_000..90_000).unwrap(), Some(&content[5_000..90_000]));
        assert_eq!(map.get(0..100_000).unwrap(), Some(&content[..]));
        assert_eq!(map.get(100_000..100_000).unwrap(), Some(&[][..]));
        assert_eq!(map.get(99_999..100_001).unwrap(), None);
        assert_eq!(map.get(u64::MAX - 1..u64::MAX).unwrap(), None);
    }

    #[test]
    fn a_file_of_another_length_or_none_is_not_mapped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        assert!(MappedFile::open(&path, 4).unwrap().is_none());
        assert!(MappedFile::open(&path, 0).unwrap().is_none());
        let missing = MappedFile::open(&dir.path().join("none"), 3).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_cut_short_under_its_map_is_an_error_before_it_is_a_signal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let map = MappedFile::open(&path, 1 << 20).unwrap().unwrap();
        if map.map.advise_range(Advice::PopulateRead, 0, 1).is_err() {
            // This kernel cannot tell beforehand.
            return;
        }
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(4_096).unwrap();
        assert!(map.get(0..4_096).unwrap().is_some());
        assert_eq!(map.get(500_000..500_001).unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    }
}

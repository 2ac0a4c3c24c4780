//! Reads what a manifest keeps in files of its own: in-flight data of channels.
//!
//! Always true: bytes are returned only after their checksum has been checked, and no more is allocated than the file
//! really holds. A file of in-flight data consists of payloads and nothing else, so checking the payloads checks each
//! byte of it.

use super::files::Files;
use crate::error::StoreError;
use crate::io::{DiskHandle, OpenMode};
use crate::manifest::{Manifest, Payload};
use std::collections::BTreeMap;
use std::path::Path;

/// CRC-32 (IEEE) of a payload's bytes, as [`Payload::File`] holds it.
pub fn payload_crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// The bytes of `payload`, whose file lies below `job_dir`. Blocks on the disk: not for workers.
///
/// # Errors
/// - [`StoreError::Io`]: the file is missing or unreadable.
/// - [`StoreError::Corrupt`]: the file's length or the payload's checksum is not what the manifest says.
pub fn read_payload(disk: &DiskHandle, job_dir: &Path, payload: &Payload) -> Result<Vec<u8>, StoreError> {
    let (path, offset, bytes, crc32, file_bytes) = match payload {
        Payload::Inline(bytes) => return Ok(bytes.clone()),
        Payload::File { path, offset, bytes, crc32, file_bytes } => {
            (path, *offset, *bytes, *crc32, *file_bytes)
        }
    };
    let path = job_dir.join(path);
    let fits = offset.checked_add(bytes).is_some_and(|end| end <= file_bytes);
    let length = usize::try_from(bytes).ok().filter(|_| fits);
    let length = length.ok_or_else(|| {
        let found = format!("{bytes} bytes at {offset}");
        StoreError::corrupt(&path, offset, format!("a payload within {file_bytes} bytes"), found)
    })?;
    let data = Files::new(disk.clone()).with_open(&path, OpenMode::Read, |file| {
        file.expect_length(file_bytes)?;
        file.read_exactly(offset, length)
    })?;
    let found = crc32fast::hash(&data);
    if found != crc32 {
        return Err(StoreError::corrupt(
            &path,
            offset,
            format!("payload crc {crc32:08x}"),
            format!("{found:08x}"),
        ));
    }
    Ok(data)
}

/// Checks that the payloads of each file of in-flight data cover it without gaps and overlaps, so that no byte of it
/// can change unnoticed. Reads no file; `job_dir` serves messages only.
///
/// # Errors
/// [`StoreError::Corrupt`]: the manifest does not describe files that an engine writes.
pub fn verify_channel_files(job_dir: &Path, manifest: &Manifest) -> Result<(), StoreError> {
    let mut files: BTreeMap<(&str, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for channel in &manifest.channels {
        if let Payload::File { path, offset, bytes, file_bytes, .. } = &channel.data {
            files.entry((path, *file_bytes)).or_default().push((*offset, *bytes));
        }
    }
    for ((path, file_bytes), mut ranges) in files {
        ranges.sort_unstable();
        let mut covered: u64 = 0;
        for (offset, bytes) in ranges.into_iter().chain([(file_bytes, 0)]) {
            if offset != covered {
                let (expected, found) = (format!("a payload at {covered}"), format!("the next at {offset}"));
                return Err(StoreError::corrupt(job_dir.join(path), covered.min(offset), expected, found));
            }
            covered = offset.saturating_add(bytes);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::test_disk::TestDisk;
    use super::*;
    use crate::ids::{AttemptId, CheckpointId};
    use crate::manifest::{ChannelOrigin, ChannelState, ManifestKind};
    use std::fs;

    fn range(offset: u64, data: &[u8], file_bytes: u64) -> Payload {
        let (bytes, crc32) = (data.len() as u64, crc32fast::hash(data));
        Payload::File { path: "chk-1/channel-a1-0-0".to_owned(), offset, bytes, crc32, file_bytes }
    }

    fn manifest(payloads: impl IntoIterator<Item = Payload>) -> Manifest {
        let channel = |data| ChannelState {
            edge: "a -> b".to_owned(),
            producer: 0,
            consumer: 0,
            generation: 0,
            origin: ChannelOrigin::Consumer,
            records: 1,
            data,
        };
        Manifest {
            job: "job".to_owned(),
            checkpoint: CheckpointId(1),
            attempt: AttemptId(1),
            triggered_unix_ms: 0,
            max_parallelism: 1,
            kind: ManifestKind::Checkpoint,
            origin: None,
            operators: Vec::new(),
            edges: Vec::new(),
            channels: payloads.into_iter().map(channel).collect(),
        }
    }

    #[test]
    fn a_changed_byte_anywhere_in_a_file_of_payloads_is_detected() {
        let disk = TestDisk::new();
        let job_dir = disk.root().join("job");
        let path = job_dir.join("chk-1/channel-a1-0-0");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let data = b"first payload|second";
        let payloads = [range(0, &data[..14], 20), range(14, &data[14..], 20)];
        verify_channel_files(&job_dir, &manifest(payloads.clone())).unwrap();
        let read = || -> Result<Vec<Vec<u8>>, StoreError> {
            payloads.iter().map(|p| read_payload(&disk.handle(), &job_dir, p)).collect()
        };
        fs::write(&path, data).unwrap();
        assert_eq!(read().unwrap().concat(), data);
        for at in 0..data.len() {
            for byte in [data[at] ^ 1, data[at] ^ 0x80, 0x00, 0xFF] {
                let mut changed = data.to_vec();
                changed[at] = byte;
                fs::write(&path, &changed).unwrap();
                assert!(matches!(read(), Err(StoreError::Corrupt { .. })));
            }
        }
        for changed in [&data[..19], b"", b"first payload|second+"] {
            fs::write(&path, changed).unwrap();
            assert!(matches!(read(), Err(StoreError::Corrupt { .. })));
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read(), Err(StoreError::Io { .. })));
        assert_eq!(disk.open_files(), 0);
    }

    #[test]
    fn an_inline_payload_needs_no_disk() {
        let disk = TestDisk::new();
        let payload = Payload::Inline(vec![1, 2]);
        assert_eq!(read_payload(&disk.handle(), disk.root(), &payload).unwrap(), [1, 2]);
        assert!(disk.operations().is_empty());
    }

    #[test]
    fn a_payload_beyond_its_file_is_refused_before_anything_is_read() {
        let disk = TestDisk::new();
        for (offset, bytes) in [(0, 11), (10, 1), (u64::MAX, 1), (1, u64::MAX)] {
            let path = "chk-1/channel-a1-0-0".to_owned();
            let payload = Payload::File { path, offset, bytes, crc32: 0, file_bytes: 10 };
            let read = read_payload(&disk.handle(), disk.root(), &payload);
            assert!(matches!(read, Err(StoreError::Corrupt { .. })));
        }
        assert!(disk.operations().is_empty());
    }

    #[test]
    fn gaps_and_overlaps_between_payloads_are_refused() {
        let verify = |ranges: &[(u64, usize)]| {
            let payloads = ranges.iter().map(|(offset, bytes)| range(*offset, &vec![0; *bytes], 10));
            verify_channel_files(Path::new("job"), &manifest(payloads))
        };
        for sound in [&[(0, 10)][..], &[(4, 6), (0, 4)], &[(0, 0), (0, 10), (10, 0)]] {
            verify(sound).unwrap();
        }
        for unsound in
            [&[(0, 9)][..], &[(1, 9)], &[(0, 4), (5, 5)], &[(0, 6), (5, 5)], &[(0, 10), (0, 10)], &[(0, 0)]]
        {
            assert!(matches!(verify(unsound), Err(StoreError::Corrupt { .. })), "{unsound:?}");
        }
    }
}

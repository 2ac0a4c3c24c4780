//! What the fuzz targets do with bytes: each takes any bytes for a file, and must neither panic nor ask for memory without
//! bound, nor accept what it would not write again.
//!
//! Checksums would hide the parsers behind them. So each body looks at the bytes twice: as they are, and with all checksums
//! made right.

use std::path::Path;
use std::sync::OnceLock;
use thalweg::config::{Settings, StateBackend, parse_duration, parse_memory};
use thalweg_storage::checkpoint::{CheckpointStore, payload_crc32, read_payload};
use thalweg_storage::io::{DiskHandle, SimDisk};
use thalweg_storage::manifest::{self, Payload};
use thalweg_storage::segment::SegmentReader;
use thalweg_storage::{CheckpointId, Data};

/// A segment file.
pub fn segment(data: &[u8]) {
    for bytes in [data.to_vec(), sealed_segment(data)] {
        if let Ok(reader) = SegmentReader::open(&bytes[..], Path::new("segment")) {
            // What is wrong with a block is an error of its own.
            let _ = reader.verify();
            let blocks: usize = reader.blocks().count();
            assert!(blocks <= bytes.len(), "{blocks} blocks in {} bytes", bytes.len());
        }
    }
}

/// A manifest file.
pub fn manifest(data: &[u8]) {
    for bytes in [data.to_vec(), sealed_manifest(data)] {
        let path = Path::new("MANIFEST");
        // The length is told by the header alone.
        let _ = manifest::file_bytes(path, &bytes[..bytes.len().min(manifest::HEADER_BYTES)]);
        if let Ok(found) = manifest::decode(path, &bytes) {
            let again =
                manifest::decode(path, &manifest::encode(&found)).expect("it is written as it is read");
            assert_eq!(again, found);
            for file in found.files() {
                let is_below = !file.starts_with('/') && file.split('/').all(|name| name != "..");
                assert!(is_below, "a path out of the job's directory: {file}");
            }
        }
    }
}

/// In-flight data: where it lies in its file, told by the first two bytes, and records of text with a number.
pub fn channel_state(data: &[u8]) {
    let (disk, dir) = (simulated_disk(), Path::new("/fuzz"));
    let (places, content) = data.split_at(data.len().min(2));
    let place = |index: usize| places.get(index).map_or(0, |byte| u64::from(*byte));
    let _ = disk.remove("/fuzz/channel-a1-0").wait();
    if disk.write_file_durable("/fuzz/channel-a1-0", content).is_err() {
        return;
    }
    let bytes = (content.len() as u64).saturating_sub(place(0)) + place(1);
    let from = (place(0) as usize).min(content.len());
    for crc32 in [0, payload_crc32(&content[from..])] {
        let payload = Payload::File {
            path: "channel-a1-0".to_owned(),
            offset: place(0),
            bytes,
            crc32,
            file_bytes: content.len() as u64,
        };
        let Ok(read) = read_payload(disk, dir, &payload) else { continue };
        assert_eq!(read.len() as u64, bytes, "as many bytes as the manifest says");
        let mut rest = read.as_slice();
        while !rest.is_empty() {
            let before = rest.len();
            if <(u64, String)>::decode(&mut rest).is_err() || rest.len() == before {
                break;
            }
        }
    }
}

/// The manifest of a savepoint that comes from elsewhere, opened as a job's checkpoint.
pub fn savepoint_header(data: &[u8]) {
    let disk = DiskHandle::new(SimDisk::new());
    for bytes in [data.to_vec(), sealed_manifest(data)] {
        let dir = Path::new("/savepoint/job/chk-7");
        if disk.create_dir_all(dir).is_err() {
            return;
        }
        let path = dir.join("MANIFEST");
        let _ = disk.remove(&path).wait();
        disk.write_file_durable(&path, &bytes).expect("a simulated disk has room");
        let store = CheckpointStore::open_unlocked(disk.clone(), Path::new("/savepoint"), "job");
        if let Ok(Some(found)) = store.expect("a damaged manifest is reported when it is read").latest() {
            assert_eq!((found.checkpoint, found.job.as_str()), (CheckpointId(7), "job"));
        }
    }
}

/// Settings as people write them, in files of both kinds, on a command line and by themselves.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    for path in ["job.yaml", "job.toml"] {
        let mut settings = Settings::default();
        if settings.parse(path, &text).is_ok() {
            let _ = settings.check();
        }
    }
    let _ = Settings::default().property(&text);
    let _ = (parse_duration(&text), parse_memory(&text));
    if let Ok(backend) = text.parse::<StateBackend>() {
        assert_eq!(backend.to_string().parse(), Ok(backend));
    }
}

fn simulated_disk() -> &'static DiskHandle {
    static DISK: OnceLock<DiskHandle> = OnceLock::new();
    DISK.get_or_init(|| {
        let disk = DiskHandle::new(SimDisk::new());
        disk.create_dir("/fuzz").wait().expect("an empty disk");
        disk
    })
}

/// A manifest with its length and its checksums made right.
fn sealed_manifest(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let Some(body) = bytes.len().checked_sub(36) else { return bytes };
    bytes[..4].copy_from_slice(b"TWM1");
    bytes[4..8].copy_from_slice(&1_u32.to_le_bytes());
    bytes[8..16].copy_from_slice(&(body as u64).to_le_bytes());
    bytes[24..28].fill(0);
    put_crc(&mut bytes, 0..28, 28);
    put_crc(&mut bytes, 32..32 + body, 32 + body);
    bytes
}

/// A segment with all of its checksums made right, as far as its structure can be followed.
fn sealed_segment(data: &[u8]) -> Vec<u8> {
    let mut bytes = data.to_vec();
    let number = |bytes: &[u8], at: usize| {
        bytes
            .get(at..at + 4)
            .map_or(0, |bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
    };
    let Some(trailer) = bytes.len().checked_sub(32) else { return bytes };
    let states = 40 + number(&bytes, 32);
    if states > trailer {
        return bytes;
    }
    let header: Vec<u8> = [&bytes[..36], &bytes[40..states]].concat();
    bytes[36..40].copy_from_slice(&crc32fast::hash(&header).to_le_bytes());
    let mut at = states;
    while bytes.get(at..at + 4) == Some(b"TWSB") {
        let end = at + 40 + number(&bytes, at + 24);
        if end > trailer {
            break;
        }
        let block: Vec<u8> = [&bytes[at..at + 36], &bytes[at + 40..end]].concat();
        bytes[at + 36..at + 40].copy_from_slice(&crc32fast::hash(&block).to_le_bytes());
        at = end;
    }
    let directory = number(&bytes, trailer);
    if directory <= trailer {
        put_crc(&mut bytes, directory..trailer, trailer + 20);
    }
    put_crc(&mut bytes, trailer..trailer + 28, trailer + 28);
    bytes
}

fn put_crc(bytes: &mut [u8], of: std::ops::Range<usize>, at: usize) {
    let crc = crc32fast::hash(&bytes[of]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

//! Counts what goes to and comes from a disk, by what kind of file it is.
//!
//! Always true: a request is counted when it has succeeded, under the kind of the file that was opened by its id.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_storage::io::{Completion, Disk, FileId, Reply, Request};

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Segment,
    Manifest,
    Other,
}

/// Bytes and requests so far, of each kind.
#[derive(Debug, Default)]
pub struct Counts {
    segment_written: AtomicU64,
    manifest_written: AtomicU64,
    other_written: AtomicU64,
    read: AtomicU64,
    reads: AtomicU64,
}

/// [`Counts`] at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counted {
    /// Bytes written to segments.
    pub segment_bytes: u64,
    /// Bytes written to manifests.
    pub manifest_bytes: u64,
    /// Bytes written to all other files.
    pub other_bytes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Read requests.
    pub reads: u64,
}

impl Counts {
    /// Everything counted so far.
    pub fn now(&self) -> Counted {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counted {
            segment_bytes: value(&self.segment_written),
            manifest_bytes: value(&self.manifest_written),
            other_bytes: value(&self.other_written),
            read_bytes: value(&self.read),
            reads: value(&self.reads),
        }
    }

    fn written(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Segment => &self.segment_written,
            Kind::Manifest => &self.manifest_written,
            Kind::Other => &self.other_written,
        }
    }
}

impl Counted {
    /// All bytes written.
    pub fn written_bytes(&self) -> u64 {
        self.segment_bytes + self.manifest_bytes + self.other_bytes
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Counted) -> Counted {
        Counted {
            segment_bytes: self.segment_bytes - earlier.segment_bytes,
            manifest_bytes: self.manifest_bytes - earlier.manifest_bytes,
            other_bytes: self.other_bytes - earlier.other_bytes,
            read_bytes: self.read_bytes - earlier.read_bytes,
            reads: self.reads - earlier.reads,
        }
    }
}

/// A disk whose traffic is counted.
pub struct CountingDisk {
    disk: Arc<dyn Disk>,
    counts: Arc<Counts>,
    kinds: Arc<Kinds>,
}

/// Kinds of the files that are open.
#[derive(Default)]
struct Kinds(Mutex<HashMap<FileId, Kind>>);

impl Kinds {
    fn lock(&self) -> MutexGuard<'_, HashMap<FileId, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CountingDisk {
    /// Counts what goes through it to `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Self {
        CountingDisk { disk, counts: Arc::default(), kinds: Arc::default() }
    }

    /// The counts, which go on.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.counts)
    }
}

impl Disk for CountingDisk {
    fn submit(&self, request: Request, done: Completion) {
        let (counts, kinds) = (Arc::clone(&self.counts), Arc::clone(&self.kinds));
        let done: Completion = match &request {
            Request::Open { path, .. } => {
                let kind = kind_of(path);
                Box::new(move |answer| {
                    if let Ok(Reply::File(file)) = &answer {
                        kinds.lock().insert(*file, kind);
                    }
                    done(answer);
                })
            }
            Request::Write { file, data, .. } => {
                let kind = kinds.lock().get(file).copied().unwrap_or(Kind::Other);
                let bytes = data.len() as u64;
                Box::new(move |answer| {
                    if answer.is_ok() {
                        counts.written(kind).fetch_add(bytes, Ordering::Relaxed);
                    }
                    done(answer);
                })
            }
            Request::Read { .. } => Box::new(move |answer| {
                if let Ok(Reply::Bytes(bytes)) = &answer {
                    counts.read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    counts.reads.fetch_add(1, Ordering::Relaxed);
                }
                done(answer);
            }),
            Request::Close { file } => {
                kinds.lock().remove(file);
                done
            }
            _ => done,
        };
        self.disk.submit(request, done);
    }
}

fn kind_of(path: &Path) -> Kind {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    if name.starts_with("seg-") {
        Kind::Segment
    } else if name.starts_with("MANIFEST") {
        Kind::Manifest
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_storage::io::{DiskHandle, OpenMode, StdDisk};

    #[test]
    fn bytes_are_counted_by_kind_of_file() {
        let dir = std::env::temp_dir().join(format!("thalweg-counting-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let counting = CountingDisk::new(StdDisk::start(1).expect("a disk"));
        let counts = counting.counts();
        let disk = DiskHandle::new(Arc::new(counting));
        for (name, bytes) in [("seg-1", 10), ("MANIFEST", 5), ("x", 1)] {
            let file = disk.open(dir.join(name), OpenMode::CreateNew).wait().expect("opened");
            disk.write(file, 0, vec![7; bytes]).wait().expect("written");
            assert_eq!(disk.read(file, 0, 100).wait().expect("read").len(), bytes);
        }
        let expected =
            Counted { segment_bytes: 10, manifest_bytes: 5, other_bytes: 1, read_bytes: 16, reads: 3 };
        assert_eq!(counts.now(), expected);
        assert_eq!(counts.now().since(&expected), Counted::default());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}

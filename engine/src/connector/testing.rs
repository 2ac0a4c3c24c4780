//! What the tests of connectors share: an output that collects, a context, and a disk on `std::fs` whose
//! completions come at once or only when a test says so, that can fail and can stop at any request.

use super::{ConnectorContext, MalformedRecord, SourceOutput};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use thalweg_storage::AttemptId;
use thalweg_storage::io::{Completion, Disk, DiskHandle, Entry, FileId, Notify, OpenMode, Reply, Request};

/// Collects what a reader emits; refuses more once it holds `room` records.
pub(crate) struct Output<T> {
    pub records: Vec<T>,
    pub malformed: Vec<MalformedRecord>,
    pub room: Option<usize>,
}

impl<T> Default for Output<T> {
    fn default() -> Self {
        Output { records: Vec::new(), malformed: Vec::new(), room: None }
    }
}

impl<T> Output<T> {
    fn has_room(&self) -> bool {
        self.room.is_none_or(|room| self.records.len() + self.malformed.len() < room)
    }
}

impl<T> SourceOutput<T> for Output<T> {
    fn emit(&mut self, record: T) -> bool {
        self.records.push(record);
        self.has_room()
    }

    fn malformed(&mut self, record: MalformedRecord) -> bool {
        self.malformed.push(record);
        self.has_room()
    }
}

/// Counts how often it was notified.
#[derive(Default)]
pub(crate) struct Wakes(AtomicUsize);

impl Wakes {
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Notify for Wakes {
    fn notify(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A context on a disk of its own.
pub(crate) fn context(subtask: u32, parallelism: u32) -> ConnectorContext {
    context_on(&TestDisk::new(), subtask, parallelism, 1)
}

pub(crate) fn context_on(
    disk: &Arc<TestDisk>,
    subtask: u32,
    parallelism: u32,
    attempt: u64,
) -> ConnectorContext {
    ConnectorContext {
        job: "job".into(),
        uid: "connector".into(),
        subtask,
        parallelism,
        attempt: AttemptId(attempt),
        disk: disk.handle(),
        waker: Arc::new(Wakes::default()),
    }
}

/// Chooses requests.
type Which = fn(&Request) -> bool;

#[derive(Default)]
struct State {
    files: HashMap<u64, Arc<File>>,
    opened: u64,
    held: Vec<(Request, Completion)>,
    hold: bool,
    executed: usize,
    stop_after: Option<usize>,
    fail: Option<(Which, io::ErrorKind)>,
}

/// A disk on `std::fs`.
#[derive(Default)]
pub(crate) struct TestDisk {
    state: Mutex<State>,
}

impl TestDisk {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn handle(self: &Arc<Self>) -> DiskHandle {
        DiskHandle::new(Arc::clone(self) as Arc<dyn Disk>)
    }

    /// From now on requests wait for [`TestDisk::release`], or no longer do.
    pub fn hold(&self, hold: bool) {
        self.state.lock().unwrap().hold = hold;
    }

    /// Number of requests held back.
    pub fn held(&self) -> usize {
        self.state.lock().unwrap().held.len()
    }

    /// Executes one held request; `pick` chooses which.
    pub fn release(&self, pick: usize) {
        let held = {
            let mut state = self.state.lock().unwrap();
            let count = state.held.len();
            (count > 0).then(|| state.held.swap_remove(pick % count))
        };
        if let Some((request, done)) = held {
            self.run(request, done);
        }
    }

    /// After `requests` more requests none is executed any more: the process has been killed, as it were.
    pub fn stop_after(&self, requests: usize) {
        let mut state = self.state.lock().unwrap();
        state.stop_after = Some(state.executed + requests);
    }

    pub fn stopped(&self) -> bool {
        let state = self.state.lock().unwrap();
        state.stop_after.is_some_and(|stop| state.executed >= stop)
    }

    /// Requests for which `which` holds fail with `kind` and change nothing.
    pub fn fail(&self, which: Which, kind: io::ErrorKind) {
        self.state.lock().unwrap().fail = Some((which, kind));
    }

    /// Number of open files.
    pub fn open_files(&self) -> usize {
        self.state.lock().unwrap().files.len()
    }

    fn run(&self, request: Request, done: Completion) {
        let fails = {
            let mut state = self.state.lock().unwrap();
            if state.stop_after.is_some_and(|stop| state.executed >= stop) {
                Some(io::ErrorKind::ConnectionAborted)
            } else {
                state.executed += 1;
                state.fail.filter(|(which, _)| which(&request)).map(|(_, kind)| kind)
            }
        };
        done(match fails {
            Some(kind) => Err(io::Error::from(kind)),
            None => self.execute(request),
        });
    }

    fn file(&self, file: FileId) -> io::Result<Arc<File>> {
        let files = &self.state.lock().unwrap().files;
        files.get(&file.0).cloned().ok_or_else(|| io::Error::other("the file is not open"))
    }

    fn execute(&self, request: Request) -> io::Result<Reply> {
        Ok(match request {
            Request::Open { path, mode } => {
                let mut options = OpenOptions::new();
                match mode {
                    OpenMode::Read | OpenMode::ReadRandom => options.read(true),
                    OpenMode::CreateNew => options.write(true).create_new(true),
                    OpenMode::ReadWrite => options.read(true).write(true),
                };
                let file = Arc::new(options.open(path)?);
                let mut state = self.state.lock().unwrap();
                state.opened += 1;
                let id = state.opened;
                state.files.insert(id, file);
                Reply::File(FileId(id))
            }
            Request::Read { file, offset, bytes } => {
                let file = self.file(file)?;
                let mut data = vec![0; bytes];
                let mut filled = 0;
                while filled < bytes {
                    match file.read_at(&mut data[filled..], offset + filled as u64)? {
                        0 => break,
                        n => filled += n,
                    }
                }
                data.truncate(filled);
                Reply::Bytes(data)
            }
            Request::Write { file, offset, data } => {
                self.file(file)?.write_all_at(&data, offset)?;
                Reply::Bytes(data)
            }
            // The test's machine does not lose power: nothing needs to reach the medium.
            Request::SyncData { file } => self.file(file).map(|_| Reply::Done)?,
            Request::Truncate { file, bytes } => self.file(file)?.set_len(bytes).map(|()| Reply::Done)?,
            Request::Length { file } => Reply::Length(self.file(file)?.metadata()?.len()),
            Request::Close { file } => {
                self.state.lock().unwrap().files.remove(&file.0);
                Reply::Done
            }
            Request::Rename { from, to } => fs::rename(from, to).map(|()| Reply::Done)?,
            Request::Remove { path } => fs::remove_file(path).map(|()| Reply::Done)?,
            Request::RemoveDir { path } => fs::remove_dir(path).map(|()| Reply::Done)?,
            Request::CreateDir { path } => fs::create_dir(path).map(|()| Reply::Done)?,
            Request::SyncDir { path } => fs::metadata(path).map(|_| Reply::Done)?,
            Request::List { path } => {
                let mut entries = Vec::new();
                for entry in fs::read_dir(path)? {
                    let entry = entry?;
                    let metadata = entry.metadata()?;
                    let name = entry.file_name().to_string_lossy().into_owned();
                    entries.push(Entry { name, is_dir: metadata.is_dir(), bytes: metadata.len() });
                }
                Reply::Entries(entries)
            }
        })
    }
}

impl Disk for TestDisk {
    fn submit(&self, request: Request, done: Completion) {
        {
            let mut state = self.state.lock().unwrap();
            if state.hold {
                state.held.push((request, done));
                return;
            }
        }
        self.run(request, done);
    }
}

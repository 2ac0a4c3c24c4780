//! A disk for tests: real files in a temporary directory, a record of all operations, and one fault at a chosen one.

use crate::io::{Completion, Disk, DiskHandle, Entry, FileId, OpenMode, Reply, Request};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// What goes wrong at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails and has no effect.
    Refuse,
    /// It takes effect and fails all the same.
    TakeEffectAndFail,
    /// It fails, and so does every later one: the process was killed here.
    Die,
}

pub struct TestDisk {
    root: TempDir,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    root: PathBuf,
    operations: Vec<String>,
    fault: Option<(usize, Fault)>,
    failed_syncs: BTreeSet<String>,
    files: BTreeMap<u64, (File, PathBuf)>,
    opened: u64,
}

struct Shared(Arc<Mutex<State>>);

impl TestDisk {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let state = State { root: root.path().to_owned(), ..State::default() };
        TestDisk { root, state: Arc::new(Mutex::new(state)) }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn handle(&self) -> DiskHandle {
        DiskHandle::new(Arc::new(Shared(Arc::clone(&self.state))))
    }

    /// Forgets the operations so far and lets `fault` happen at the one with this index from here on.
    pub fn arm(&self, fault: Option<(usize, Fault)>) {
        let mut state = self.state.lock().unwrap();
        state.operations.clear();
        state.failed_syncs.clear();
        state.fault = fault;
    }

    /// The operations since the disk was made or armed, such as `sync job/shared`.
    pub fn operations(&self) -> Vec<String> {
        self.state.lock().unwrap().operations.clone()
    }

    pub fn open_files(&self) -> usize {
        self.state.lock().unwrap().files.len()
    }
}

impl Disk for Shared {
    fn submit(&self, request: Request, done: Completion) {
        let mut state = self.0.lock().unwrap();
        let answer = state.run(request);
        drop(state);
        done(answer);
    }
}

impl State {
    fn run(&mut self, request: Request) -> Result<Reply> {
        let name = self.describe(&request);
        let index = self.operations.len();
        self.operations.push(name.clone());
        assert!(!self.failed_syncs.contains(&name), "{name} is tried again after it failed");
        let fault = match self.fault {
            Some((at, fault)) if at == index => Some(fault),
            Some((at, Fault::Die)) if at < index => Some(Fault::Die),
            _ => None,
        };
        let Some(fault) = fault else { return self.perform(request) };
        if matches!(request, Request::SyncData { .. } | Request::SyncDir { .. }) {
            self.failed_syncs.insert(name);
        }
        let takes_effect = fault == Fault::TakeEffectAndFail || matches!(request, Request::Close { .. });
        if takes_effect && let Ok(Reply::File(file)) = self.perform(request) {
            // Nobody learns of this file.
            self.files.remove(&file.0);
        }
        Err(Error::other("injected"))
    }

    fn describe(&self, request: &Request) -> String {
        let relative = |path: &Path| path.strip_prefix(&self.root).unwrap_or(path).display().to_string();
        let of = |file: &FileId| self.files.get(&file.0).map_or("?".to_owned(), |(_, path)| relative(path));
        match request {
            Request::Open { path, mode: OpenMode::CreateNew | OpenMode::CreateDirect } => {
                format!("create {}", relative(path))
            }
            Request::Open { path, .. } => format!("open {}", relative(path)),
            Request::Read { file, .. } => format!("read {}", of(file)),
            Request::Write { file, .. } => format!("write {}", of(file)),
            Request::SyncData { file } => format!("fdatasync {}", of(file)),
            Request::Truncate { file, .. } => format!("truncate {}", of(file)),
            Request::Length { file } => format!("length {}", of(file)),
            Request::Close { file } => format!("close {}", of(file)),
            Request::Rename { from, to } => format!("rename {} {}", relative(from), relative(to)),
            Request::Remove { path } => format!("remove {}", relative(path)),
            Request::RemoveDir { path } => format!("rmdir {}", relative(path)),
            Request::CreateDir { path } => format!("mkdir {}", relative(path)),
            Request::SyncDir { path } => format!("sync {}", relative(path)),
            Request::List { path } => format!("list {}", relative(path)),
        }
    }

    fn perform(&mut self, request: Request) -> Result<Reply> {
        let stale = || Error::new(ErrorKind::InvalidInput, "the file is not open");
        let open = |state: &Self, file: FileId| state.files.get(&file.0).ok_or_else(stale)?.0.try_clone();
        match request {
            Request::Open { path, mode } => {
                let file = match mode {
                    OpenMode::Read | OpenMode::ReadRandom => File::open(&path)?,
                    OpenMode::CreateNew | OpenMode::CreateDirect => File::create_new(&path)?,
                    OpenMode::ReadWrite => File::options().read(true).write(true).open(&path)?,
                };
                self.opened += 1;
                self.files.insert(self.opened, (file, path));
                Ok(Reply::File(FileId(self.opened)))
            }
            Request::Read { file, offset, bytes } => {
                let file = open(self, file)?;
                let rest = file.metadata()?.len().saturating_sub(offset);
                let mut data = vec![0; bytes.min(rest as usize)];
                file.read_exact_at(&mut data, offset)?;
                Ok(Reply::Bytes(data))
            }
            Request::Write { file, offset, data } => {
                open(self, file)?.write_all_at(&data, offset)?;
                Ok(Reply::Bytes(data))
            }
            // A temporary directory has nothing to lose: the record of the call is what tests look at.
            Request::SyncData { file } => open(self, file).map(|_| Reply::Done),
            Request::SyncDir { path } => fs::read_dir(path).map(|_| Reply::Done),
            Request::Truncate { file, bytes } => open(self, file)?.set_len(bytes).map(|()| Reply::Done),
            Request::Length { file } => open(self, file)?.metadata().map(|m| Reply::Length(m.len())),
            Request::Close { file } => self.files.remove(&file.0).map(|_| Reply::Done).ok_or_else(stale),
            Request::Rename { from, to } => fs::rename(from, to).map(|()| Reply::Done),
            Request::Remove { path } => fs::remove_file(path).map(|()| Reply::Done),
            Request::RemoveDir { path } => fs::remove_dir(path).map(|()| Reply::Done),
            Request::CreateDir { path } => fs::create_dir(path).map(|()| Reply::Done),
            Request::List { path } => {
                let entry = |entry: Result<fs::DirEntry>| {
                    let (entry, name) = entry.map(|e| (e.metadata(), e.file_name()))?;
                    let name = name.into_string().expect("names in tests are UTF-8");
                    entry.map(|m| Entry { name, is_dir: m.is_dir(), bytes: m.len() })
                };
                fs::read_dir(path)?.map(entry).collect::<Result<_>>().map(Reply::Entries)
            }
        }
    }
}

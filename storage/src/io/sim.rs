//! [`SimDisk`]: a disk in memory that loses power on demand.
//!
//! A request completes inside `submit`, or, once deferred, when the test picks it; it takes effect at that moment. The
//! interface promises no order between outstanding requests, so any may be picked next, also before an earlier one on
//! the same file: a caller that relies on an order it was not promised is found out.
//!
//! Always true:
//! - the same requests, picks, faults and seeds give the same bytes;
//! - after a crash each synced byte and each synced name is there, and anything else may be
//!   (see [`CrashProfile`]);
//! - completions run outside the disk's lock, so they may submit requests.

mod crash;
mod model;
mod explore;
#[cfg(test)]
mod tests;

pub use crash::CrashProfile;
pub use explore::{Exploration, Explored, Seen};

use super::rules::{check_range, complete, not_open, poisoned};
use super::{Completion, Disk, FileId, OpenMode, Reply, Request};
use crash::{Chooser, InTurn, Seeded};
use model::{FileSystem, NodeId};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The kinds of [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each variant is named after the request it stands for")]
pub enum OpKind {
    Open,
    Read,
    Write,
    SyncData,
    Truncate,
    Length,
    Close,
    Rename,
    Remove,
    RemoveDir,
    CreateDir,
    SyncDir,
    List,
}

/// A failure to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// EIO. A sync that fails so leaves its data in doubt, and the kernel believes it clean: the next sync of the file
    /// by another [`FileId`] would succeed without writing it.
    Io,
    /// ENOSPC.
    NoSpace,
    /// A read that finds the end of its file too early: half of what it should give. Only of [`OpKind::Read`].
    Short,
    /// A write of which the first half of its sectors reaches the file when the machine stops, as by
    /// [`SimDisk::stop_after`]. Only of [`OpKind::Write`], and only of writes that touch more than one sector.
    Torn,
}

/// One operation that took place, or failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpRecord {
    /// What was asked for.
    pub kind: OpKind,
    /// Its path, the path under which its file was opened, or the old path of a rename.
    pub path: PathBuf,
    /// False where it failed.
    pub ok: bool,
}

/// A simulated [`Disk`]: in memory, deterministic, with power losses and faults. It starts as an empty directory `/`.
///
/// Clones do not exist; share it by its [`Arc`].
pub struct SimDisk {
    state: Mutex<State>,
    watcher: Mutex<Option<Watcher>>,
}

/// Looks at a disk just before an operation takes effect.
type Watcher = Arc<dyn Fn(&SimDisk, OpKind) + Send + Sync>;

struct State {
    fs: FileSystem,
    files: BTreeMap<u64, OpenFile>,
    next_file: u64,
    deferred: bool,
    pending: Vec<(Request, Completion)>,
    faults: Vec<ArmedFault>,
    /// How often each fault was met.
    met: BTreeMap<(OpKind, Fault), u64>,
    /// Nothing can grow: see [`SimDisk::set_full`].
    full: bool,
    log: Vec<OpRecord>,
    stop_after: Option<usize>,
    /// Unreachable nodes are looked for once there are so many nodes.
    collect_at: usize,
}

struct OpenFile {
    node: NodeId,
    path: PathBuf,
    mode: OpenMode,
    poisoned: bool,
}

struct ArmedFault {
    kind: OpKind,
    skip: u64,
    fault: Fault,
    /// Only operations whose path contains this.
    in_path: &'static str,
}

impl SimDisk {
    /// An empty disk that completes each request at once.
    pub fn new() -> Arc<SimDisk> {
        Arc::new(SimDisk::holding(FileSystem::new()))
    }

    fn holding(fs: FileSystem) -> SimDisk {
        SimDisk { state: Mutex::new(State::new(fs)), watcher: Mutex::new(None) }
    }

    /// Calls `watcher` from now on just before each operation that may change the disk or make something durable: the moments
    /// between which a power loss makes no difference. It may take images, and must not submit requests.
    pub fn watch(&self, watcher: impl Fn(&SimDisk, OpKind) + Send + Sync + 'static) {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watcher));
    }

    /// Calls nobody any more.
    pub fn unwatch(&self) {
        *self.watcher.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn announce(&self, request: &Request) {
        let changes = match request {
            Request::Open { mode, .. } => *mode == OpenMode::CreateNew,
            Request::Read { .. } | Request::Length { .. } | Request::Close { .. } | Request::List { .. } => {
                false
            }
            _ => true,
        };
        if !changes {
            return;
        }
        // Not called under the lock: it may run for long, and another disk's operations may take place meanwhile.
        let watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(watcher) = watcher {
            watcher(self, OpKind::of(request));
        }
    }

    /// With `true`, requests submitted from now on wait for [`SimDisk::complete_next`]; with `false` they complete at
    /// once again, while those that wait go on waiting.
    pub fn set_deferred(&self, deferred: bool) {
        self.lock().deferred = deferred;
    }

    /// The kinds of the requests that wait, oldest first.
    pub fn pending(&self) -> Vec<OpKind> {
        self.lock().pending.iter().map(|(request, _)| OpKind::of(request)).collect()
    }

    /// Lets the waiting request `index` (see [`SimDisk::pending`]) take effect, and completes it. False where there is
    /// no such request.
    pub fn complete_next(&self, index: usize) -> bool {
        let mut state = self.lock();
        if index >= state.pending.len() {
            return false;
        }
        let (request, done) = state.pending.remove(index);
        drop(state);
        self.announce(&request);
        let answer = self.lock().execute(request);
        complete(done, answer);
        true
    }

    /// Completes waiting requests, oldest first, until none is left, also those that completions add.
    pub fn complete_all(&self) {
        while self.complete_next(0) {}
    }

    /// Makes the next operation of `kind` fail. Several calls queue several failures.
    pub fn fail_next(&self, kind: OpKind, fault: Fault) {
        self.fail_after(kind, 0, fault);
    }

    /// Makes an operation of `kind` fail after `skip` others of it, which this failure leaves alone. A failed operation
    /// changes nothing, but for a sync (see [`Fault::Io`]).
    pub fn fail_after(&self, kind: OpKind, skip: u64, fault: Fault) {
        self.lock().faults.push(ArmedFault { kind, skip, fault, in_path: "" });
    }

    /// Makes the next operation of this kind fail whose path contains `in_path`.
    pub fn fail_next_in(&self, in_path: &'static str, kind: OpKind, fault: Fault) {
        self.lock().faults.push(ArmedFault { kind, skip: 0, fault, in_path });
    }

    /// How many failures are queued that have not happened yet.
    pub fn armed_faults(&self) -> usize {
        self.lock().faults.len()
    }

    /// Takes back all failures that have not come yet.
    pub fn disarm(&self) {
        self.lock().faults.clear();
    }

    /// With `true`, nothing on the disk can grow from now on, until `false`: what would create or lengthen a file or create a
    /// directory fails with ENOSPC. All else goes on as ever.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// How often each injected failure was met since the disk was made or crashed, those of [`SimDisk::set_full`] included.
    pub fn met_faults(&self) -> BTreeMap<(OpKind, Fault), u64> {
        self.lock().met.clone()
    }

    /// True once operations fail because the machine has stopped, see [`SimDisk::stop_after`].
    pub fn has_stopped(&self) -> bool {
        self.lock().has_stopped()
    }

    /// How many operations took place since the disk was made or crashed, failed ones included.
    pub fn op_count(&self) -> usize {
        self.lock().log.len()
    }

    /// The operations since the disk was made or crashed.
    pub fn op_log(&self) -> Vec<OpRecord> {
        self.lock().log.clone()
    }

    /// Fails every operation after the first `ops` (counted as by [`SimDisk::op_count`]) without effect, as though the
    /// machine had stopped there: let the workload run into it, then [`SimDisk::crash`].
    pub fn stop_after(&self, ops: usize) {
        self.lock().stop_after = Some(ops);
    }

    /// Loses power, with the profile [`CrashProfile::Weak`], and comes back with what survived.
    ///
    /// Open files, armed faults, the log and a stop are gone, and so are waiting requests: each may have taken effect,
    /// and none is ever completed. Equal seeds give equal results.
    pub fn crash(&self, seed: u64) {
        self.crash_with(CrashProfile::Weak, seed);
    }

    /// As [`SimDisk::crash`], with another profile.
    pub fn crash_with(&self, profile: CrashProfile, seed: u64) {
        let mut state = self.lock();
        let fs = state.crashed(profile, &mut Seeded(seed));
        let before = std::mem::replace(&mut *state, State::new(fs));
        drop(state);
        // Completions that will never run are dropped here, outside the lock: what they own may use the disk.
        drop(before);
    }

    /// What [`SimDisk::crash_with`] would leave, as another disk; this one goes on unharmed.
    pub fn crash_image(&self, profile: CrashProfile, seed: u64) -> Arc<SimDisk> {
        let fs = self.lock().crashed(profile, &mut Seeded(seed));
        Arc::new(SimDisk::holding(fs))
    }

    /// Calls `each` with every disk that [`SimDisk::crash_with`] can leave, until there were `limit`; some may be alike. True
    /// when those were all.
    pub fn each_crash_image(
        &self,
        profile: CrashProfile,
        limit: usize,
        mut each: impl FnMut(Arc<SimDisk>),
    ) -> bool {
        let mut choices = InTurn::default();
        for _ in 0..limit {
            let fs = self.lock().crashed(profile, &mut choices);
            each(Arc::new(SimDisk::holding(fs)));
            if !choices.advance() {
                return true;
            }
        }
        false
    }

    /// The present content of a file, synced or not. Not an operation: no fault or stop applies.
    ///
    /// # Errors
    /// `NotFound`, or `IsADirectory`.
    pub fn read_file(&self, path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
        let state = self.lock();
        let node = state.fs.find(path.as_ref())?;
        Ok(state.fs.file(node)?.current.clone())
    }

    /// Flips the bits of `mask` in the byte at `offset`, on the disk and in memory, as bit rot does.
    ///
    /// # Errors
    /// `NotFound`, `IsADirectory`, or `InvalidInput` where the file ends before `offset`.
    pub fn corrupt(&self, path: impl AsRef<Path>, offset: u64, mask: u8) -> io::Result<()> {
        self.lock().fs.corrupt(path.as_ref(), offset, mask)
    }

    /// The paths of all files, sorted within each directory.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.lock();
        let mut files = Vec::new();
        let mut dirs = vec![PathBuf::from("/")];
        while let Some(dir) = dirs.pop() {
            for entry in state.fs.list(&dir).unwrap_or_default() {
                let path = dir.join(&entry.name);
                if entry.is_dir { dirs.push(path) } else { files.push(path) }
            }
        }
        files
    }

    /// The paths of all directories but the root, in no order.
    pub fn dirs(&self) -> Vec<PathBuf> {
        let state = self.lock();
        let (mut found, mut dirs) = (Vec::new(), vec![PathBuf::from("/")]);
        while let Some(dir) = dirs.pop() {
            let entries = state.fs.list(&dir).unwrap_or_default();
            let below: Vec<_> = entries.into_iter().filter(|e| e.is_dir).map(|e| dir.join(e.name)).collect();
            found.extend(below.iter().cloned());
            dirs.extend(below);
        }
        found
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn submit(&self, request: Request, done: Completion) {
        let mut state = self.lock();
        if state.deferred {
            state.pending.push((request, done));
            return;
        }
        drop(state);
        self.announce(&request);
        let answer = self.lock().execute(request);
        complete(done, answer);
    }
}

impl State {
    fn new(fs: FileSystem) -> Self {
        State {
            fs,
            files: BTreeMap::new(),
            next_file: 1,
            deferred: false,
            pending: Vec::new(),
            faults: Vec::new(),
            met: BTreeMap::new(),
            full: false,
            log: Vec::new(),
            stop_after: None,
            collect_at: 64,
        }
    }

    /// Runs one operation: the stop, faults and the log, then the effect.
    fn execute(&mut self, request: Request) -> io::Result<Reply> {
        if self.has_stopped() {
            return Err(stopped());
        }
        let kind = OpKind::of(&request);
        let path = self.path_of(&request);
        let fault = self.take_fault(&request, &path).or_else(|| self.refusal(&request));
        let answer = match fault {
            Some(fault) => {
                *self.met.entry((kind, fault)).or_default() += 1;
                self.fail(request, fault)
            }
            None => self.effect(request),
        };
        self.log.push(OpRecord { kind, path, ok: answer.is_ok() });
        answer
    }

    fn has_stopped(&self) -> bool {
        self.stop_after.is_some_and(|ops| self.log.len() >= ops)
    }

    fn take_fault(&mut self, request: &Request, path: &Path) -> Option<Fault> {
        let (kind, path) = (OpKind::of(request), path.to_string_lossy());
        let possible = |fault: Fault| match (fault, request) {
            (Fault::Short, Request::Read { .. }) => true,
            (Fault::Torn, Request::Write { offset, data, .. }) => sectors_kept(*offset, data.len()) > 0,
            (Fault::Short | Fault::Torn, _) => false,
            (Fault::Io | Fault::NoSpace, _) => true,
        };
        let meant =
            |armed: &ArmedFault| armed.kind == kind && path.contains(armed.in_path) && possible(armed.fault);
        let armed = self.faults.iter().position(|armed| meant(armed) && armed.skip == 0);
        let taken = armed.map(|index| self.faults.remove(index).fault);
        if taken.is_none() {
            self.faults.iter_mut().filter(|armed| meant(armed)).for_each(|armed| armed.skip -= 1);
        }
        taken
    }

    /// What becomes of a request that needs space that a full disk has not.
    fn refusal(&self, request: &Request) -> Option<Fault> {
        let lengthens = |file: &FileId, end: u64| {
            let open = self.files.get(&file.0);
            let file = open.and_then(|open| self.fs.file(open.node).ok());
            file.is_some_and(|file| end > file.current.len() as u64)
        };
        let grows = match request {
            Request::Open { mode, .. } => matches!(mode, OpenMode::CreateNew | OpenMode::CreateDirect),
            Request::CreateDir { .. } => true,
            Request::Write { file, offset, data } => {
                lengthens(file, offset.saturating_add(data.len() as u64))
            }
            Request::Truncate { file, bytes } => lengthens(file, *bytes),
            _ => false,
        };
        (self.full && grows).then_some(Fault::NoSpace)
    }

    fn fail(&mut self, request: Request, fault: Fault) -> io::Result<Reply> {
        match (request, fault) {
            (Request::Read { file, offset, bytes }, Fault::Short) => {
                let Reply::Bytes(mut found) = self.effect(Request::Read { file, offset, bytes })? else {
                    unreachable!("a read answers with bytes")
                };
                found.truncate(found.len() / 2);
                return Ok(Reply::Bytes(found));
            }
            (Request::Write { file, offset, data }, Fault::Torn) => {
                let node = self.writable(file, Errno::BADF)?;
                self.fs.write(node, offset, &data[..sectors_kept(offset, data.len())])?;
                self.stop_after = Some(self.log.len() + 1);
                return Err(stopped());
            }
            (Request::SyncData { file }, _) => {
                let open = self.usable(file)?;
                open.poisoned = true;
                let node = open.node;
                self.fs.fail_sync_data(node)?;
            }
            (Request::SyncDir { path }, _) => self.fs.fail_sync_dir(&path)?,
            _ => {}
        }
        match fault {
            Fault::NoSpace => Err(Errno::NOSPC.into()),
            Fault::Io | Fault::Short | Fault::Torn => Err(Errno::IO.into()),
        }
    }

    fn effect(&mut self, request: Request) -> io::Result<Reply> {
        match request {
            Request::Open { path, mode } => {
                let node = match mode {
                    OpenMode::CreateNew | OpenMode::CreateDirect => self.fs.create_file(&path)?,
                    OpenMode::Read | OpenMode::ReadRandom => self.fs.find(&path)?,
                    OpenMode::ReadWrite => {
                        let node = self.fs.find(&path)?;
                        self.fs.file(node)?;
                        node
                    }
                };
                let file = self.next_file;
                self.next_file += 1;
                self.files.insert(file, OpenFile { node, path, mode, poisoned: false });
                Ok(Reply::File(FileId(file)))
            }
            Request::Read { file, offset, bytes } => {
                let node = self.usable(file)?.node;
                check_range(offset, bytes)?;
                self.fs.read(node, offset, bytes).map(Reply::Bytes)
            }
            Request::Write { file, offset, data } => {
                let node = self.writable(file, Errno::BADF)?;
                check_range(offset, data.len())?;
                self.fs.write(node, offset, &data)?;
                Ok(Reply::Bytes(data))
            }
            Request::SyncData { file } => {
                let node = self.usable(file)?.node;
                self.fs.sync_data(node).map(|()| Reply::Done)
            }
            Request::Truncate { file, bytes } => {
                let node = self.writable(file, Errno::INVAL)?;
                self.fs.truncate(node, bytes).map(|()| Reply::Done)
            }
            Request::Length { file } => {
                let node = self.usable(file)?.node;
                Ok(Reply::Length(self.fs.file(node)?.current.len() as u64))
            }
            Request::Close { file } => {
                self.files.remove(&file.0).map(|_| Reply::Done).ok_or_else(|| not_open(file))
            }
            Request::Rename { from, to } => self.fs.rename(&from, &to).map(|()| Reply::Done),
            Request::Remove { path } => self.fs.remove(&path, false).map(|()| Reply::Done),
            Request::RemoveDir { path } => self.fs.remove(&path, true).map(|()| Reply::Done),
            Request::CreateDir { path } => self.fs.create_dir(&path).map(|()| Reply::Done),
            Request::SyncDir { path } => {
                self.fs.sync_dir(&path)?;
                self.collect();
                Ok(Reply::Done)
            }
            Request::List { path } => self.fs.list(&path).map(Reply::Entries),
        }
    }

    fn usable(&mut self, file: FileId) -> io::Result<&mut OpenFile> {
        match self.files.get_mut(&file.0) {
            Some(open) if open.poisoned => Err(poisoned()),
            Some(open) => Ok(open),
            None => Err(not_open(file)),
        }
    }

    fn writable(&mut self, file: FileId, otherwise: Errno) -> io::Result<NodeId> {
        let open = self.usable(file)?;
        if is_read_only(open.mode) { Err(otherwise.into()) } else { Ok(open.node) }
    }

    /// Lets go of removed files now and then, so that a long simulation does not fill up.
    fn collect(&mut self) {
        if self.fs.nodes.len() >= self.collect_at {
            self.fs.forget_unreachable(self.files.values().map(|open| open.node));
            self.collect_at = 64.max(self.fs.nodes.len() * 2);
        }
    }

    /// The file system after a power loss now.
    fn crashed(&self, profile: CrashProfile, chooser: &mut impl Chooser) -> FileSystem {
        let mut fs = self.fs.clone();
        // A request that nobody has been told about may have been carried out all the same.
        let first = match profile {
            CrashProfile::LoseAll => 0,
            CrashProfile::Prefix => chooser.choose(self.pending.len() + 1),
            CrashProfile::KeepAll | CrashProfile::Weak | CrashProfile::WeakPages => self.pending.len(),
        };
        let picks = matches!(profile, CrashProfile::Weak | CrashProfile::WeakPages);
        for (request, _) in &self.pending[..first] {
            if !picks || chooser.choose(2) == 1 {
                self.apply_silently(&mut fs, request);
            }
        }
        crash::image(&fs, profile, chooser)
    }

    /// The file system now, with the effects of all requests that wait.
    fn crashed_keeping_requests(&self) -> FileSystem {
        let mut fs = self.fs.clone();
        self.pending.iter().for_each(|(request, _)| self.apply_silently(&mut fs, request));
        fs
    }

    /// Applies what a request would do to `fs`; whether it fails is of interest to nobody any more.
    fn apply_silently(&self, fs: &mut FileSystem, request: &Request) {
        let open = |file: &FileId| self.files.get(&file.0).filter(|open| !open.poisoned);
        let written = |file: &FileId| open(file).filter(|open| !is_read_only(open.mode));
        let _ = match request {
            Request::Open { path, mode: OpenMode::CreateNew | OpenMode::CreateDirect } => {
                fs.create_file(path).map(|_| ())
            }
            Request::Write { file, offset, data } => match written(file) {
                Some(open) if check_range(*offset, data.len()).is_ok() => fs.write(open.node, *offset, data),
                _ => Ok(()),
            },
            Request::Truncate { file, bytes } => {
                written(file).map_or(Ok(()), |f| fs.truncate(f.node, *bytes))
            }
            Request::SyncData { file } => open(file).map_or(Ok(()), |open| fs.sync_data(open.node)),
            Request::Rename { from, to } => fs.rename(from, to),
            Request::Remove { path } => fs.remove(path, false),
            Request::RemoveDir { path } => fs.remove(path, true),
            Request::CreateDir { path } => fs.create_dir(path),
            Request::SyncDir { path } => fs.sync_dir(path),
            Request::Open { .. }
            | Request::Read { .. }
            | Request::Length { .. }
            | Request::Close { .. }
            | Request::List { .. } => Ok(()),
        };
    }

    fn path_of(&self, request: &Request) -> PathBuf {
        match request {
            Request::Open { path, .. }
            | Request::Remove { path }
            | Request::RemoveDir { path }
            | Request::CreateDir { path }
            | Request::SyncDir { path }
            | Request::List { path }
            | Request::Rename { from: path, .. } => path.clone(),
            Request::Read { file, .. }
            | Request::Write { file, .. }
            | Request::SyncData { file }
            | Request::Truncate { file, .. }
            | Request::Length { file }
            | Request::Close { file } => {
                self.files.get(&file.0).map(|open| open.path.clone()).unwrap_or_default()
            }
        }
    }
}

fn stopped() -> io::Error {
    io::Error::other("the simulated machine has stopped")
}

/// How many bytes at the front of a write are in the first half of the sectors that it touches; 0 for a write to one sector.
fn sectors_kept(offset: u64, bytes: usize) -> usize {
    let sector = model::SECTOR_BYTES as u64;
    let (first, end) = (offset / sector, (offset.saturating_add(bytes as u64)).div_ceil(sector));
    match (end - first) / 2 {
        0 => 0,
        half => usize::try_from((first + half) * sector - offset).map_or(bytes, |kept| kept.min(bytes)),
    }
}

fn is_read_only(mode: OpenMode) -> bool {
    matches!(mode, OpenMode::Read | OpenMode::ReadRandom)
}

impl OpKind {
    /// The kind of `request`.
    pub fn of(request: &Request) -> OpKind {
        match request {
            Request::Open { .. } => OpKind::Open,
            Request::Read { .. } => OpKind::Read,
            Request::Write { .. } => OpKind::Write,
            Request::SyncData { .. } => OpKind::SyncData,
            Request::Truncate { .. } => OpKind::Truncate,
            Request::Length { .. } => OpKind::Length,
            Request::Close { .. } => OpKind::Close,
            Request::Rename { .. } => OpKind::Rename,
            Request::Remove { .. } => OpKind::Remove,
            Request::RemoveDir { .. } => OpKind::RemoveDir,
            Request::CreateDir { .. } => OpKind::CreateDir,
            Request::SyncDir { .. } => OpKind::SyncDir,
            Request::List { .. } => OpKind::List,
        }
    }
}

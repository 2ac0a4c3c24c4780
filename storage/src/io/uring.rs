//! [`UringDisk`]: one thread that owns an io_uring and keeps many operations in flight.
//!
//! Files opened for direct I/O are read and written around the page cache, through aligned buffers of a pool; a file system that
//! refuses it is told of in the log once, and its files are read and written as others are.
//!
//! Requests come in through an inbox; an eventfd, polled through the ring itself, wakes the thread. Listing a
//! directory, which io_uring cannot do, goes to a helper thread; asking for a length and, before Linux 6.9,
//! truncating are plain calls on the ring's thread.
//!
//! Always true:
//! - the memory and the descriptor of an operation live until the kernel has answered it: `Close` waits for the
//!   other operations on its file, and a thread that gives up on its ring leaks what the kernel may still use;
//! - at most one sync of a file is in flight, so none can report success after another has swallowed the kernel's
//!   error;
//! - each accepted request is completed exactly once, also when the disk is dropped.

mod direct;
mod op;
mod probe;

pub use probe::UringUnavailable;

use super::rules::{check_range, complete, not_open, poisoned, zeroed};
use super::{Completion, Disk, FileId, MappedFile, OpenMode, Reply, Request, StdDisk};
use crate::threads;
use direct::{Pool, is_aligned, set_direct, widened};
use io_uring::{IoUring, opcode, types};
use op::{Op, Step};
use probe::{RING_ENTRIES, open_ring};
use rustix::event::{EventfdFlags, PollFlags, eventfd};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// Most operations in flight: one entry of the ring is the doorbell's.
const IN_FLIGHT_MAX: usize = RING_ENTRIES as usize - 1;
/// Marks the completion of the doorbell's poll; operations carry the index of their slot.
const DOORBELL: u64 = u64::MAX;

/// A [`Disk`] on io_uring. Needs Linux 5.15.
///
/// Dropping it completes what is queued, then joins its thread; so it blocks, unless a completion drops it.
pub struct UringDisk {
    inbox: Arc<Inbox>,
    lister: Arc<StdDisk>,
    thread: Option<JoinHandle<()>>,
}

impl UringDisk {
    /// Starts a disk: a ring of 256 entries, its thread, and a helper thread for listing.
    ///
    /// # Errors
    /// `Unsupported` with the text of [`UringUnavailable`] where io_uring cannot be used: take [`StdDisk`]. Others
    /// when the system refuses a thread or a descriptor.
    pub fn start() -> io::Result<Arc<UringDisk>> {
        let (ring, truncates) = open_ring()?;
        let doorbell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let inbox = Arc::new(Inbox { state: Mutex::default(), doorbell });
        let lister = StdDisk::start(1)?;
        let ring_thread = RingThread {
            ring,
            truncates,
            inbox: Arc::clone(&inbox),
            doorbell_armed: false,
            files: HashMap::new(),
            next_file: 1,
            slots: std::iter::repeat_with(|| None).take(IN_FLIGHT_MAX).collect(),
            free: (0..IN_FLIGHT_MAX).rev().collect(),
            backlog: VecDeque::new(),
            pool: Pool::default(),
            without_direct: HashSet::new(),
        };
        let thread = threads::spawn("thalweg-uring".to_owned(), move || ring_thread.run())?;
        Ok(Arc::new(UringDisk { inbox, lister, thread: Some(thread) }))
    }

    /// Tells whether io_uring can be used here, by setting up a ring, running an empty operation and tearing it down.
    ///
    /// # Errors
    /// Why not, and the cure.
    pub fn probe() -> Result<(), UringUnavailable> {
        open_ring().map(|_| ())
    }
}

impl Disk for UringDisk {
    fn submit(&self, request: Request, done: Completion) {
        if let Request::List { .. } = request {
            self.lister.submit(request, done);
        } else if let Err(done) = self.inbox.push(request, done) {
            complete(done, Err(gave_up()));
        }
    }

    fn map(&self, path: &Path, bytes: u64) -> io::Result<Option<MappedFile>> {
        MappedFile::open(path, bytes)
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        self.inbox.lock().stopped = true;
        self.inbox.ring_doorbell();
        if let Some(thread) = self.thread.take()
            // A completion may drop the last handle on the ring's thread, which cannot join itself.
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the io_uring thread panicked");
        }
    }
}

/// Where requests wait for the ring's thread.
struct Inbox {
    state: Mutex<InboxState>,
    doorbell: OwnedFd,
}

#[derive(Default)]
struct InboxState {
    requests: Vec<(Request, Completion)>,
    /// The disk was dropped: finish what there is, then end.
    stopped: bool,
    /// The thread has ended: nobody would answer.
    closed: bool,
}

impl Inbox {
    /// Queues a request; gives its completion back where nobody would answer.
    fn push(&self, request: Request, done: Completion) -> Result<(), Completion> {
        let mut state = self.lock();
        if state.closed {
            return Err(done);
        }
        let was_empty = state.requests.is_empty();
        state.requests.push((request, done));
        drop(state);
        // Whoever found it empty rings; the thread empties it in one go, so one ring is enough for all.
        if was_empty {
            self.ring_doorbell();
        }
        Ok(())
    }

    fn ring_doorbell(&self) {
        // This fails only when the counter is full, and then the doorbell is rung already.
        let _ = rustix::io::write(&self.doorbell, &1u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open file.
struct OpenFile {
    fd: OwnedFd,
    /// Operations accepted and not over, waiting syncs included.
    in_flight: usize,
    poisoned: bool,
    /// Reads, and aligned writes, go around the page cache.
    direct: bool,
    syncing: bool,
    waiting_syncs: VecDeque<Completion>,
    /// Set once `Close` has been asked for.
    closing: Option<Completion>,
}

impl OpenFile {
    /// From here on everything goes through the page cache. Transfers under way are not harmed.
    fn leave_direct(&mut self) -> io::Result<()> {
        self.direct = false;
        set_direct(&self.fd, false)
    }
}

/// The thread that owns the ring and everything in it.
struct RingThread {
    ring: IoUring,
    truncates: bool,
    inbox: Arc<Inbox>,
    doorbell_armed: bool,
    files: HashMap<FileId, OpenFile>,
    next_file: u64,
    /// Operations that the kernel works on. Never grows, and an operation stays in its slot until it is answered.
    slots: Vec<Option<(Op, Completion)>>,
    free: Vec<usize>,
    /// Operations that wait for a slot.
    backlog: VecDeque<(Op, Completion)>,
    /// Memory for direct I/O.
    pool: Pool,
    /// File systems, by their device numbers, that are known to refuse direct I/O.
    without_direct: HashSet<u64>,
}

impl RingThread {
    fn run(mut self) {
        loop {
            let (requests, stopped) = {
                let mut state = self.inbox.lock();
                (std::mem::take(&mut state.requests), state.stopped)
            };
            for (request, done) in requests {
                self.accept(request, done);
            }
            if stopped && self.backlog.is_empty() && self.free.len() == IN_FLIGHT_MAX {
                return;
            }
            self.fill_ring();
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "io_uring failed; its disk answers no more");
                    return;
                }
            }
            self.reap();
        }
    }

    /// Turns a request into an operation, or answers it at once.
    fn accept(&mut self, request: Request, done: Completion) {
        match request {
            Request::SyncData { file } => self.accept_sync(file, done),
            Request::Close { file } => self.accept_close(file, done),
            Request::Length { file } => {
                let answer = self.usable(file).and_then(|file| Ok(rustix::fs::fstat(&file.fd)?.st_size));
                complete(done, answer.map(|bytes| Reply::Length(bytes.cast_unsigned())));
            }
            Request::Truncate { file, bytes } if !self.truncates => {
                let answer = self.usable(file).and_then(|file| Ok(rustix::fs::ftruncate(&file.fd, bytes)?));
                complete(done, answer.map(|()| Reply::Done));
            }
            request => match self.operation(request) {
                Ok(op) => self.start(op, done),
                Err(error) => complete(done, Err(error)),
            },
        }
    }

    fn operation(&mut self, request: Request) -> io::Result<Op> {
        Ok(match request {
            Request::Open { path, mode } => Op::Open { path: c_path(path)?, mode },
            Request::Read { file, offset, bytes } => {
                let open = self.usable(file)?;
                let (fd, direct) = (open.fd.as_raw_fd(), open.direct && bytes > 0);
                check_range(offset, bytes)?;
                if direct {
                    let Range { start, end } = widened(offset, bytes);
                    let buffer = self.pool.take((end - start) as usize)?;
                    return Ok(Op::ReadDirect { file, fd, offset, bytes, start, buffer, filled: 0 });
                }
                Op::Read { file, fd, offset, buffer: zeroed(bytes)?, filled: 0 }
            }
            Request::Write { file, offset, data } => {
                let open = self.usable(file)?;
                check_range(offset, data.len())?;
                let aligned = is_aligned(offset, data.len());
                if open.direct && !aligned && !data.is_empty() {
                    open.leave_direct()?;
                }
                let fd = open.fd.as_raw_fd();
                if open.direct && aligned {
                    let mut buffer = self.pool.take(data.len())?;
                    buffer.bytes_mut()[..data.len()].copy_from_slice(&data);
                    return Ok(Op::WriteDirect { file, fd, offset, data, buffer, written: 0 });
                }
                Op::Write { file, fd, offset, data, written: 0 }
            }
            Request::Truncate { file, bytes } => {
                Op::Truncate { file, fd: self.usable(file)?.fd.as_raw_fd(), bytes }
            }
            Request::Rename { from, to } => Op::Rename { from: c_path(from)?, to: c_path(to)? },
            Request::Remove { path } => Op::Unlink { path: c_path(path)?, is_dir: false },
            Request::RemoveDir { path } => Op::Unlink { path: c_path(path)?, is_dir: true },
            Request::CreateDir { path } => Op::CreateDir { path: c_path(path)? },
            Request::SyncDir { path } => Op::OpenDir { path: c_path(path)? },
            Request::SyncData { .. }
            | Request::Close { .. }
            | Request::Length { .. }
            | Request::List { .. } => {
                unreachable!("these requests never become operations here")
            }
        })
    }

    fn usable(&mut self, file: FileId) -> io::Result<&mut OpenFile> {
        match self.files.get_mut(&file) {
            Some(open) if open.closing.is_some() => Err(not_open(file)),
            Some(open) if open.poisoned => Err(poisoned()),
            Some(open) => Ok(open),
            None => Err(not_open(file)),
        }
    }

    fn accept_sync(&mut self, file: FileId, done: Completion) {
        match self.usable(file) {
            Err(error) => complete(done, Err(error)),
            Ok(open) if open.syncing => {
                open.in_flight += 1;
                open.waiting_syncs.push_back(done);
            }
            Ok(open) => {
                open.syncing = true;
                let fd = open.fd.as_raw_fd();
                self.start(Op::SyncData { file, fd }, done);
            }
        }
    }

    fn accept_close(&mut self, file: FileId, done: Completion) {
        match self.files.get_mut(&file) {
            Some(open) if open.closing.is_none() => {
                open.closing = Some(done);
                self.close_if_idle(file);
            }
            _ => complete(done, Err(not_open(file))),
        }
    }

    fn close_if_idle(&mut self, file: FileId) {
        let idle = |open: &OpenFile| open.in_flight == 0 && open.closing.is_some();
        if self.files.get(&file).is_some_and(idle)
            && let Some(OpenFile { fd, closing: Some(done), .. }) = self.files.remove(&file)
        {
            self.start(Op::Close { fd: fd.into_raw_fd() }, done);
        }
    }

    fn start(&mut self, op: Op, done: Completion) {
        if let Some(file) = op.file()
            && let Some(open) = self.files.get_mut(&file)
        {
            open.in_flight += 1;
        }
        self.backlog.push_back((op, done));
    }

    /// Moves operations from the backlog into free slots and their entries into the ring.
    fn fill_ring(&mut self) {
        if !self.doorbell_armed {
            let fd = types::Fd(self.inbox.doorbell.as_raw_fd());
            let poll = opcode::PollAdd::new(fd, PollFlags::IN.bits().into()).build().user_data(DOORBELL);
            self.push(&poll);
            self.doorbell_armed = true;
        }
        while let Some(slot) = self.free.last().copied()
            && let Some(waiting) = self.backlog.pop_front()
        {
            self.free.pop();
            let (op, _) = self.slots[slot].insert(waiting);
            let entry = op.entry().user_data(slot as u64);
            self.push(&entry);
        }
    }

    #[expect(unsafe_code, reason = "entries of a ring are pushed by an unsafe call")]
    fn push(&mut self, entry: &io_uring::squeue::Entry) {
        // SAFETY: what the entry points to must stay valid until the kernel has answered. The doorbell's poll points
        // to no memory. An operation's entry points to heap memory that its `Op` owns, and the `Op` was put into its
        // slot before; it leaves the slot only in `reap`, with the answer, or in `drop`, which leaks it. Nothing
        // touches it in between. Its descriptor is open so long too: a file with operations in flight is not closed.
        let pushed = unsafe { self.ring.submission().push(entry) };
        // Each slot and the doorbell have at most one entry, and the ring has room for all of them.
        pushed.expect("the ring holds an entry for each slot");
    }

    /// Takes the kernel's answers.
    fn reap(&mut self) {
        loop {
            let next = self.ring.completion().next();
            let Some(answer) = next else { return };
            if answer.user_data() == DOORBELL {
                self.doorbell_armed = false;
                // Clears the counter. Should it be clear already, the inbox is looked at once too often.
                let _ = rustix::io::read(&self.inbox.doorbell, &mut [0u8; 8]);
                continue;
            }
            let slot = answer.user_data() as usize;
            let (mut op, done) = self.slots[slot].take().expect("the kernel answers each entry once");
            self.free.push(slot);
            match op.advance(answer.result()) {
                Step::Again => self.backlog.push_front((op, done)),
                Step::Opened(fd, mode) => {
                    let direct =
                        matches!(mode, OpenMode::ReadRandom | OpenMode::CreateDirect) && self.try_direct(&fd);
                    let file = self.insert(fd, direct);
                    complete(done, Ok(Reply::File(file)));
                }
                Step::NotDirect => self.do_without_direct(op, done),
                Step::Over(answer) => self.finish(op, done, answer),
            }
        }
    }

    /// Switches direct I/O on for a file that was just opened; false, with a word to the log for each file system, where it has none.
    fn try_direct(&mut self, fd: &OwnedFd) -> bool {
        match set_direct(fd, true) {
            Ok(()) => true,
            Err(error) => {
                note_without_direct(&mut self.without_direct, fd, &error);
                false
            }
        }
    }

    /// Repeats an operation whose file turned out to refuse direct I/O.
    fn do_without_direct(&mut self, op: Op, done: Completion) {
        let file = op.file().expect("an operation on a file");
        if let Some(open) = self.files.get_mut(&file)
            && open.direct
        {
            // Should it stay on, the repeated operation fails, and says so.
            let _ = open.leave_direct();
            note_without_direct(&mut self.without_direct, &open.fd, &rustix::io::Errno::INVAL.into());
        }
        match op.without_direct() {
            Ok((op, buffer)) => {
                self.pool.give(buffer);
                self.backlog.push_front((op, done));
            }
            Err((op, error)) => self.finish(op, done, Err(error)),
        }
    }

    fn insert(&mut self, fd: OwnedFd, direct: bool) -> FileId {
        let file = FileId(self.next_file);
        self.next_file += 1;
        let open = OpenFile {
            fd,
            in_flight: 0,
            poisoned: false,
            direct,
            syncing: false,
            waiting_syncs: VecDeque::new(),
            closing: None,
        };
        self.files.insert(file, open);
        file
    }

    fn finish(&mut self, op: Op, done: Completion, answer: io::Result<Reply>) {
        let mut refused = VecDeque::new();
        let mut next_sync = None;
        if let Some(file) = op.file()
            && let Some(open) = self.files.get_mut(&file)
        {
            open.in_flight -= 1;
            if matches!(op, Op::SyncData { .. }) {
                open.syncing = false;
                open.poisoned |= answer.is_err();
                if open.poisoned {
                    refused = std::mem::take(&mut open.waiting_syncs);
                    open.in_flight -= refused.len();
                } else if let Some(next) = open.waiting_syncs.pop_front() {
                    // `start` counts it again.
                    open.in_flight -= 1;
                    open.syncing = true;
                    next_sync = Some((Op::SyncData { file, fd: open.fd.as_raw_fd() }, next));
                }
            }
        }
        if let Some((op, done)) = next_sync {
            self.start(op, done);
        }
        if let Some(file) = op.file() {
            self.close_if_idle(file);
        }
        if let Some(buffer) = op.into_buffer() {
            self.pool.give(buffer);
        }
        complete(done, answer);
        for done in refused {
            complete(done, Err(poisoned()));
        }
    }
}

impl Drop for RingThread {
    /// Answers everybody who is still waiting: nobody after an orderly end, all after the ring failed.
    fn drop(&mut self) {
        let requests = {
            let mut state = self.inbox.lock();
            state.closed = true;
            std::mem::take(&mut state.requests)
        };
        let mut waiting: Vec<Completion> = requests.into_iter().map(|(_, done)| done).collect();
        let mut abandoned = false;
        for (op, done) in self.slots.iter_mut().filter_map(Option::take) {
            // The kernel may still read or write the memory of this operation.
            std::mem::forget(op);
            abandoned = true;
            waiting.push(done);
        }
        waiting.extend(self.backlog.drain(..).map(|(_, done)| done));
        for (_, mut open) in self.files.drain() {
            waiting.extend(open.waiting_syncs.drain(..).chain(open.closing.take()));
            if abandoned {
                // An abandoned operation may look its descriptor up late; it must not find another file there.
                std::mem::forget(open.fd);
            }
        }
        for done in waiting {
            complete(done, Err(gave_up()));
        }
    }
}

/// Tells the log, once for each file system, that it has no direct I/O.
fn note_without_direct(known: &mut HashSet<u64>, fd: &OwnedFd, error: &io::Error) {
    let device = rustix::fs::fstat(fd).map_or(0, |stat| stat.st_dev);
    if known.insert(device) {
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        tracing::info!(%error, "file system {major}:{minor} has no direct I/O: its files go through the page cache");
    }
}

/// True for failures of waiting that pass once completions were taken.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error
        .raw_os_error()
        .map(Errno::from_raw_os_error)
        .is_some_and(|errno| [Errno::INTR, Errno::AGAIN, Errno::BUSY].contains(&errno))
}

fn gave_up() -> io::Error {
    io::Error::other("the io_uring of this disk failed earlier (see the log): reopen the disk")
}

fn c_path(path: PathBuf) -> io::Result<CString> {
    CString::new(path.into_os_string().into_vec())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path holds a zero byte"))
}

//! [`StdDisk`]: a queue, and helper threads that make plain blocking calls. For systems and containers without
//! io_uring.
//!
//! Always true:
//! - each accepted request is completed exactly once, also when the disk is dropped;
//! - syncs of one file run one after another, so that none can report success after another has swallowed the
//!   kernel's error.
#![expect(clippy::disallowed_methods, reason = "this is where `Disk` ends and the file system begins")]

use super::rules::{check_range, complete, not_open, poisoned, zeroed};
use super::{Completion, Disk, FileId, MappedFile, Reply, Request, local};
use crate::threads;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A [`Disk`] of plain blocking calls on helper threads.
///
/// Dropping it completes what is queued, then joins the threads; so it blocks, unless a completion drops it.
pub struct StdDisk {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    arrived: Condvar,
    files: Mutex<HashMap<FileId, Arc<OpenFile>>>,
    next_file: AtomicU64,
}

#[derive(Default)]
struct Queue {
    requests: VecDeque<(Request, Completion)>,
    stopped: bool,
}

struct OpenFile {
    file: File,
    /// Held while a sync runs and until its failure is noted in `poisoned`.
    sync: Mutex<()>,
    poisoned: AtomicBool,
}

impl StdDisk {
    /// Starts a disk with `threads` helper threads (at least one). With two or more, a slow sync does not hold up
    /// reads.
    ///
    /// # Errors
    /// When the system refuses a thread; none is left running.
    pub fn start(threads: usize) -> io::Result<Arc<StdDisk>> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            arrived: Condvar::new(),
            files: Mutex::default(),
            next_file: AtomicU64::new(1),
        });
        let mut disk = StdDisk { shared, threads: Vec::new() };
        for index in 0..threads.max(1) {
            let shared = Arc::clone(&disk.shared);
            disk.threads.push(threads::spawn(format!("thalweg-disk-{index}"), move || shared.run())?);
        }
        Ok(Arc::new(disk))
    }
}

impl Disk for StdDisk {
    fn submit(&self, request: Request, done: Completion) {
        lock(&self.shared.queue).requests.push_back((request, done));
        self.shared.arrived.notify_one();
    }

    fn map(&self, path: &Path, bytes: u64) -> io::Result<Option<MappedFile>> {
        MappedFile::open(path, bytes)
    }
}

impl Drop for StdDisk {
    fn drop(&mut self) {
        lock(&self.shared.queue).stopped = true;
        self.shared.arrived.notify_all();
        for helper in self.threads.drain(..) {
            // A completion may drop the last handle on a helper thread, which cannot join itself; it ends by itself
            // once the queue is empty.
            if helper.thread().id() != thread::current().id() && helper.join().is_err() {
                tracing::error!("a helper thread of the disk panicked");
            }
        }
    }
}

impl Shared {
    fn run(&self) {
        while let Some((request, done)) = self.next_request() {
            let answer = self.execute(request);
            complete(done, answer);
        }
    }

    fn next_request(&self) -> Option<(Request, Completion)> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(next) = queue.requests.pop_front() {
                return Some(next);
            }
            if queue.stopped {
                return None;
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn execute(&self, request: Request) -> io::Result<Reply> {
        match request {
            Request::Open { path, mode } => {
                let file = local::open(&path, mode)?;
                let id = FileId(self.next_file.fetch_add(1, Ordering::Relaxed));
                let file = OpenFile { file, sync: Mutex::new(()), poisoned: AtomicBool::new(false) };
                lock(&self.files).insert(id, Arc::new(file));
                Ok(Reply::File(id))
            }
            Request::Read { file, offset, bytes } => {
                let file = self.file(file)?;
                check_range(offset, bytes)?;
                let mut buffer = zeroed(bytes)?;
                let filled = local::read_full(&file.file, offset, &mut buffer)?;
                buffer.truncate(filled);
                Ok(Reply::Bytes(buffer))
            }
            Request::Write { file, offset, data } => {
                let file = self.file(file)?;
                check_range(offset, data.len())?;
                local::write_all(&file.file, offset, &data)?;
                Ok(Reply::Bytes(data))
            }
            Request::SyncData { file } => self.file(file)?.sync().map(|()| Reply::Done),
            Request::Truncate { file, bytes } => self.file(file)?.file.set_len(bytes).map(|()| Reply::Done),
            Request::Length { file } => Ok(Reply::Length(self.file(file)?.file.metadata()?.len())),
            Request::Close { file } => {
                lock(&self.files).remove(&file).map(|_| Reply::Done).ok_or_else(|| not_open(file))
            }
            Request::Rename { from, to } => std::fs::rename(from, to).map(|()| Reply::Done),
            Request::Remove { path } => std::fs::remove_file(path).map(|()| Reply::Done),
            Request::RemoveDir { path } => std::fs::remove_dir(path).map(|()| Reply::Done),
            Request::CreateDir { path } => local::create_dir(&path).map(|()| Reply::Done),
            Request::SyncDir { path } => local::sync_dir(&path).map(|()| Reply::Done),
            Request::List { path } => local::list(&path).map(Reply::Entries),
        }
    }

    fn file(&self, id: FileId) -> io::Result<Arc<OpenFile>> {
        let file = lock(&self.files).get(&id).cloned().ok_or_else(|| not_open(id))?;
        if file.poisoned.load(Ordering::Acquire) { Err(poisoned()) } else { Ok(file) }
    }
}

impl OpenFile {
    fn sync(&self) -> io::Result<()> {
        let _turn = lock(&self.sync);
        // A sync that waited for its turn may find the file poisoned by the one before it.
        if self.poisoned.load(Ordering::Acquire) {
            return Err(poisoned());
        }
        let answer = self.file.sync_data();
        if answer.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        answer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

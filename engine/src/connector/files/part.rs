//! One output file, from its creation until it is finished and durable.
//!
//! Always true:
//! - a file's name is durable before its first byte is written;
//! - bytes count as durable only after a sync that began when all writes below them had completed;
//! - a file is renamed to `.pending` only when all of it is durable.

use super::layout::{Layout, PartName, PartRef, failed, rename, sync_dir};
use super::open_file::{Flow, OpenFile, answer, poll_flow};
use crate::clock::Nanos;
use crate::connector::BoxError;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use thalweg_storage::io::{DiskHandle, OpenMode, Ticket};

/// Buffers kept for reuse.
const SPARE_BUFFERS: usize = 4;

/// An output file that is being written or finished.
pub(super) struct Part {
    pub name: PartName,
    /// Bytes handed over so far, written or not.
    pub bytes: u64,
    /// Bytes that survive a crash.
    pub durable: u64,
    /// True once the file is finished, durable and called `.pending`.
    pub sealed: bool,
    /// True once a checkpoint lists the finished file.
    pub listed: bool,
    /// When the file was begun, or first seen by this attempt.
    pub begun: Option<Nanos>,
    disk: DiskHandle,
    layout: Arc<Layout>,
    opening: Option<Flow<OpenFile>>,
    file: Option<Arc<OpenFile>>,
    /// Buffers that wait for the file to be open.
    waiting: VecDeque<Vec<u8>>,
    /// Bytes of writes that were submitted, and those under way with the offsets behind them.
    submitted: u64,
    writes: VecDeque<(u64, Ticket<Vec<u8>>)>,
    /// All writes below have completed.
    written: u64,
    /// Bytes that must become durable.
    wanted: u64,
    sync: Option<(u64, Ticket<()>)>,
    finishing: bool,
    sealing: Option<Flow<()>>,
}

impl Part {
    /// Creates a new file.
    pub fn create(disk: &DiskHandle, layout: &Arc<Layout>, name: PartName, now: Nanos) -> Self {
        let opening = create(disk.clone(), Arc::clone(layout), name);
        Part { opening: Some(opening), begun: Some(now), ..Part::new(disk, layout, name, 0) }
    }

    /// Continues a file whose first `part.bytes` bytes are durable and which has no more.
    pub fn resume(disk: &DiskHandle, layout: &Arc<Layout>, part: PartRef, file: OpenFile) -> Self {
        Part { file: Some(Arc::new(file)), ..Part::new(disk, layout, part.name, part.bytes) }
    }

    fn new(disk: &DiskHandle, layout: &Arc<Layout>, name: PartName, bytes: u64) -> Self {
        Part {
            name,
            bytes,
            durable: bytes,
            sealed: false,
            listed: false,
            begun: None,
            disk: disk.clone(),
            layout: Arc::clone(layout),
            opening: None,
            file: None,
            waiting: VecDeque::new(),
            submitted: bytes,
            writes: VecDeque::new(),
            written: bytes,
            wanted: bytes,
            sync: None,
            finishing: false,
            sealing: None,
        }
    }

    /// The file at its present length.
    pub fn reference(&self) -> PartRef {
        PartRef { name: self.name, bytes: self.bytes }
    }

    /// Buffers handed over and not yet written.
    pub fn outstanding(&self) -> usize {
        self.waiting.len() + self.writes.len()
    }

    /// Appends a buffer to the file.
    pub fn append(&mut self, buffer: Vec<u8>) {
        self.bytes += buffer.len() as u64;
        self.waiting.push_back(buffer);
    }

    /// Makes all bytes so far durable, in the course of later polls.
    pub fn sync(&mut self) {
        self.wanted = self.bytes;
    }

    /// Finishes the file: nothing will be appended; later polls make it durable and rename it.
    pub fn finish(&mut self) {
        self.finishing = true;
    }

    /// Moves everything on; never blocks. Buffers that are free again go to `spare`.
    pub fn poll(&mut self, spare: &mut Vec<Vec<u8>>) -> Result<(), BoxError> {
        if let Some(opening) = &mut self.opening {
            let Poll::Ready(file) = poll_flow(opening) else { return Ok(()) };
            self.opening = None;
            self.file = Some(Arc::new(file?));
        }
        if let Some(sealing) = &mut self.sealing {
            if let Poll::Ready(done) = poll_flow(sealing) {
                self.sealing = None;
                done?;
                self.sealed = true;
                self.durable = self.bytes;
            }
            return Ok(());
        }
        let Some(file) = self.file.clone() else { return Ok(()) };
        while let Some(buffer) = self.waiting.pop_front() {
            crash_point!("file_sink.before_write");
            let offset = self.submitted;
            self.submitted += buffer.len() as u64;
            self.writes.push_back((self.submitted, self.disk.write(file.id, offset, buffer)));
        }
        self.collect_writes(spare)?;
        self.advance_sync(&file)?;
        if self.finishing && self.written == self.bytes && self.sync.is_none() {
            self.file = None;
            self.sealing = Some(seal(self.disk.clone(), Arc::clone(&self.layout), self.name, file));
            return self.poll(spare);
        }
        Ok(())
    }

    fn collect_writes(&mut self, spare: &mut Vec<Vec<u8>>) -> Result<(), BoxError> {
        while let Some((end, ticket)) = self.writes.front_mut() {
            let Some(buffer) = ticket.poll() else { break };
            let end = *end;
            self.writes.pop_front();
            let mut buffer = buffer.map_err(|error| {
                failed("writing output file", &self.layout.in_progress(self.name), &error)
            })?;
            crash_point!("file_sink.after_write");
            self.written = end;
            if spare.len() < SPARE_BUFFERS {
                buffer.clear();
                spare.push(buffer);
            }
        }
        Ok(())
    }

    fn advance_sync(&mut self, file: &OpenFile) -> Result<(), BoxError> {
        if let Some((bytes, ticket)) = &mut self.sync
            && let Some(done) = ticket.poll()
        {
            let bytes = *bytes;
            self.sync = None;
            done.map_err(|error| failed("syncing output file", &self.layout.in_progress(self.name), &error))?;
            crash_point!("file_sink.after_sync");
            self.durable = bytes;
        }
        let needed = self.durable < self.wanted && self.written >= self.wanted;
        // Sealing syncs the whole file anyhow.
        if self.sync.is_none() && needed && !self.finishing {
            crash_point!("file_sink.before_sync");
            self.sync = Some((self.written, self.disk.sync_data(file.id)));
        }
        Ok(())
    }

    /// What still goes on at the disk when the writer is dropped; `None` if nothing.
    pub fn rest(self) -> Option<Flow<()>> {
        let idle = self.writes.is_empty() && self.sync.is_none();
        if idle && self.opening.is_none() && self.sealing.is_none() {
            return None;
        }
        Some(Box::pin(async move {
            if let Some(opening) = self.opening {
                opening.await?;
            }
            for (_, write) in self.writes {
                answer(write).await?;
            }
            if let Some((_, sync)) = self.sync {
                answer(sync).await?;
            }
            if let Some(sealing) = self.sealing {
                sealing.await?;
            }
            Ok(())
        }))
    }
}

fn create(disk: DiskHandle, layout: Arc<Layout>, name: PartName) -> Flow<OpenFile> {
    Box::pin(async move {
        let path = layout.in_progress(name);
        crash_point!("file_sink.before_create");
        let file = answer(disk.open(&path, OpenMode::CreateNew)).await;
        let file = OpenFile::new(&disk, file.map_err(|error| failed("creating output file", &path, &error))?);
        crash_point!("file_sink.after_create");
        sync_dir(&disk, &layout.dir).await?;
        crash_point!("file_sink.after_create_dir_sync");
        Ok(file)
    })
}

fn seal(disk: DiskHandle, layout: Arc<Layout>, name: PartName, file: Arc<OpenFile>) -> Flow<()> {
    Box::pin(async move {
        let path = layout.in_progress(name);
        crash_point!("file_sink.before_seal_sync");
        answer(disk.sync_data(file.id))
            .await
            .map_err(|error| failed("syncing output file", &path, &error))?;
        crash_point!("file_sink.after_seal_sync");
        drop(file);
        rename(&disk, &path, &layout.pending(name)).await?;
        crash_point!("file_sink.after_seal_rename");
        sync_dir(&disk, &layout.dir).await?;
        crash_point!("file_sink.after_seal_dir_sync");
        Ok(())
    })
}

//! A file that a checkpoint writes in the background: chunks appended in order, then made durable.
//!
//! Always true:
//! - [`BackgroundFile::poll`] says so only when every byte is written and `fdatasync` has succeeded; after an error the
//!   file is never written or synced again;
//! - a file that is dropped before somebody relies on it ([`BackgroundFile::keep`]) is closed and removed.

use super::{DiskHandle, FileId, OpenMode, Ticket};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

/// Writes under way at once, at most: enough to keep the disk busy, few enough to bound memory.
const WRITES_MAX: usize = 4;

enum Stage {
    Opening(Ticket<FileId>),
    Writing(FileId),
    Syncing(FileId, Ticket<()>),
    Durable,
    Failed,
}

/// A new file, written and made durable step by step.
pub struct BackgroundFile {
    disk: DiskHandle,
    path: PathBuf,
    stage: Stage,
    waiting: VecDeque<Vec<u8>>,
    writes: VecDeque<Ticket<Vec<u8>>>,
    bytes: u64,
    complete: bool,
    /// The file is this one's: it did not exist before.
    created: bool,
    kept: bool,
}

impl BackgroundFile {
    /// Starts to create `path`.
    pub fn create(disk: &DiskHandle, path: PathBuf) -> Self {
        crash_point!("data.before_create");
        BackgroundFile {
            disk: disk.clone(),
            stage: Stage::Opening(disk.create_or_undo(&path)),
            path,
            waiting: VecDeque::new(),
            writes: VecDeque::new(),
            bytes: 0,
            complete: false,
            created: false,
            kept: false,
        }
    }

    /// Appends `chunk`.
    pub fn append(&mut self, chunk: Vec<u8>) {
        debug_assert!(!self.complete, "appended to a file that was said to be complete");
        self.waiting.push_back(chunk);
    }

    /// True when so much waits to be written that its producer should pause.
    pub fn is_behind(&self) -> bool {
        self.waiting.len() >= WRITES_MAX
    }

    /// No chunk will follow.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// The file is named by an acknowledgement: its removal is no longer this task's business.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Moves on without blocking; true once the complete file is durable.
    ///
    /// # Errors
    /// The file could not be created, written or synced; whatever relies on it has failed.
    pub fn poll(&mut self) -> io::Result<bool> {
        let step = self.step();
        if step.is_err() {
            self.close();
            self.stage = Stage::Failed;
        }
        step
    }

    fn step(&mut self) -> io::Result<bool> {
        if let Stage::Opening(ticket) = &mut self.stage {
            match ticket.poll() {
                Some(file) => {
                    self.stage = Stage::Writing(file?);
                    self.created = true;
                    crash_point!("data.after_create");
                }
                None => return Ok(false),
            }
        }
        if let Stage::Writing(file) = self.stage {
            while let Some(write) = self.writes.front_mut() {
                match write.poll() {
                    Some(result) => {
                        result?;
                        crash_point!("data.after_write");
                        self.writes.pop_front();
                    }
                    None => break,
                }
            }
            while self.writes.len() < WRITES_MAX {
                let Some(chunk) = self.waiting.pop_front() else { break };
                let length = chunk.len() as u64;
                crash_point!("data.before_write");
                self.writes.push_back(self.disk.write(file, self.bytes, chunk));
                self.bytes += length;
            }
            if self.complete && self.waiting.is_empty() && self.writes.is_empty() {
                crash_point!("data.before_sync");
                self.stage = match broken!(ManifestBeforeData) {
                    true => Stage::Durable,
                    false => Stage::Syncing(file, self.disk.sync_data(file)),
                };
            }
        }
        if let Stage::Syncing(file, ticket) = &mut self.stage {
            match ticket.poll() {
                Some(Err(_)) if broken!(FailedSyncRetried) => {
                    self.stage = Stage::Opening(self.disk.open(&self.path, OpenMode::ReadWrite));
                    return Ok(false);
                }
                Some(result) => {
                    result?;
                    crash_point!("data.after_sync");
                    // The answer does not matter: the data are durable, and the descriptor is gone either way.
                    drop(self.disk.close(*file));
                    crash_point!("data.after_close");
                    self.stage = Stage::Durable;
                }
                None => return Ok(false),
            }
        }
        match self.stage {
            Stage::Durable => Ok(true),
            Stage::Failed => Err(io::Error::other("the file has failed before")),
            _ => Ok(false),
        }
    }
}

impl BackgroundFile {
    /// Closes the file if it is open. Writes that are under way still find it; one that is being opened is closed by
    /// its ticket.
    fn close(&mut self) {
        if let Stage::Writing(file) | Stage::Syncing(file, _) = &self.stage {
            drop(self.disk.close(*file));
        }
    }
}

impl Drop for BackgroundFile {
    fn drop(&mut self) {
        self.close();
        if self.created && !self.kept {
            // One that is only being created goes by its ticket. If this fails, the sweep at the next start finds it.
            drop(self.disk.remove(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SimDisk;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_file_that_is_dropped_unless_kept_is_removed_even_while_it_is_being_created() {
        let sim = SimDisk::new();
        let disk = DiskHandle::new(Arc::clone(&sim) as _);
        sim.set_deferred(true);
        let files_after = |polls: usize, keep: bool| {
            let mut file = BackgroundFile::create(&disk, "/file".into());
            file.append(vec![1; 10]);
            file.complete();
            for _ in 0..polls {
                sim.complete_all();
                file.poll().unwrap();
            }
            if keep {
                file.keep();
            }
            drop(file);
            sim.complete_all();
            sim.files().len()
        };
        for polls in 0..5 {
            assert_eq!(files_after(polls, false), 0, "dropped after {polls} polls");
        }
        assert_eq!(files_after(5, true), 1);
    }
}

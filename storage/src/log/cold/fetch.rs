//! Reads pages back: blocks of segment files and images in the scratch file, many at a time, without waiting.
//!
//! A file is opened at the first read of it, and stays open until nobody needs it any more ([`Fetcher::keep_files`]): its name may be deleted
//! meanwhile. All reads that a batch needs are submitted together, then polled, oldest first.
//!
//! Always true: a page has at most one read under way; what is handed out has passed every check, and is of the place that
//! was asked for; a failed read is reported once and leaves nothing behind, so that the page may be asked for again.
//!
//! Driven by the table's page store: [`Fetcher::poll`] on the worker, [`Fetcher::wait`] where a page is needed at once.

use super::scratch::{Scratch, Slot};
use crate::error::StoreError;
use crate::io::{DiskHandle, FileId, OpenMode, Ticket};
use crate::segment::{BlockDecoder, Expected, Rows};
use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a page lies on disk.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A block of a segment.
    Block {
        /// Path of the segment below the job's directory.
        segment: Arc<str>,
        /// Where the block starts.
        offset: u64,
        /// Its length, header included.
        bytes: u32,
        /// What it must be.
        expected: Expected,
    },
    /// The image of a page in the scratch file.
    Scratch(Slot),
}

/// What a page was read as.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// All rows of a block.
    Rows(Rows),
    /// The bytes that were given to [`Scratch::write`].
    Image(Vec<u8>),
}

/// A segment's file.
enum File {
    Opening(Ticket<FileId>),
    Open(FileId),
}

/// A read under way.
struct Read {
    page: u32,
    source: Source,
    /// Memory that the page will take.
    bytes: usize,
    /// None while its file is being opened.
    ticket: Option<Ticket<Vec<u8>>>,
}

impl Read {
    fn is_of(&self, segment: &Arc<str>) -> bool {
        matches!(&self.source, Source::Block { segment: its, .. } if its == segment)
    }
}

/// Reads under way and open files.
pub(crate) struct Fetcher {
    disk: DiskHandle,
    job_dir: PathBuf,
    files: HashMap<Arc<str>, File>,
    /// Oldest first.
    reads: VecDeque<Read>,
    /// The pages of `reads`.
    pages: HashSet<u32>,
    /// Memory that the pages of `reads` will take.
    reserved_bytes: usize,
    decoder: BlockDecoder,
}

impl Fetcher {
    /// Reads segments below `job_dir`.
    pub fn new(disk: DiskHandle, job_dir: PathBuf) -> Self {
        Fetcher {
            disk,
            job_dir,
            files: HashMap::new(),
            reads: VecDeque::new(),
            pages: HashSet::new(),
            reserved_bytes: 0,
            decoder: BlockDecoder::default(),
        }
    }

    /// Number of reads under way.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.reads.len()
    }

    /// Memory that the pages being read will take.
    pub fn reserved_bytes(&self) -> usize {
        self.reserved_bytes
    }

    /// True while `page` is being read.
    pub fn is_reading(&self, page: u32) -> bool {
        self.pages.contains(&page)
    }

    /// Begins to read `page`, of which no read is under way, and which will take `bytes` of memory. Never blocks.
    pub fn start(&mut self, page: u32, source: Source, bytes: usize, scratch: Option<&Scratch>) {
        debug_assert!(!self.is_reading(page), "page {page} is being read already");
        crash_point!("cold.before_read");
        let ticket = match &source {
            Source::Block { segment, offset, bytes, .. } => match self.files.get(segment) {
                Some(File::Open(file)) => Some(self.disk.read(*file, *offset, *bytes as usize)),
                Some(File::Opening(_)) => None,
                None => {
                    let open = self.disk.open(self.job_dir.join(&**segment), OpenMode::ReadRandom);
                    self.files.insert(Arc::clone(segment), File::Opening(open));
                    None
                }
            },
            Source::Scratch(slot) => {
                Some(scratch.expect("the scratch file is open while pages lie in it").read(slot))
            }
        };
        self.reads.push_back(Read { page, source, bytes, ticket });
        self.pages.insert(page);
        self.reserved_bytes += bytes;
    }

    /// Hands what has been read to `attach`, oldest first up to the first read that is not over; true when none is under
    /// way any more.
    ///
    /// # Errors
    /// A page that could not be read; it may be started again. The others go on, but where a file cannot be opened all
    /// reads of it are given up.
    /// - [`StoreError::Io`]: the disk failed, or the file is gone.
    /// - [`StoreError::Corrupt`]: the file is too short, or holds something else.
    pub fn poll(
        &mut self,
        scratch: Option<&Scratch>,
        mut attach: impl FnMut(u32, Fetched),
    ) -> Result<bool, (u32, StoreError)> {
        self.poll_opens()?;
        while let Some(read) = self.reads.front_mut() {
            let Some(answer) = read.ticket.as_mut().and_then(Ticket::poll) else { return Ok(false) };
            crash_point!("cold.after_read");
            let read = self.reads.pop_front().expect("there is a front");
            self.pages.remove(&read.page);
            self.reserved_bytes -= read.bytes;
            let fetched = self.check(&read, answer, scratch).map_err(|error| (read.page, error))?;
            attach(read.page, fetched);
        }
        Ok(true)
    }

    /// Takes answers to opens, and submits the reads that waited for them.
    fn poll_opens(&mut self) -> Result<(), (u32, StoreError)> {
        let mut answers = Vec::new();
        for (segment, file) in &mut self.files {
            if let File::Opening(ticket) = file
                && let Some(answer) = ticket.poll()
            {
                answers.push((Arc::clone(segment), answer));
            }
        }
        let mut result = Ok(());
        for (segment, answer) in answers {
            let waiting = self.reads.iter().find(|read| read.ticket.is_none() && read.is_of(&segment));
            let page = waiting.map(|read| read.page);
            // Where all who waited are gone, an error is nobody's.
            if let (Err(error), Some(page)) = (self.opened(&segment, answer), page) {
                result = result.and(Err((page, error)));
            }
        }
        result
    }

    /// Takes the answer to an open: submits the reads that waited for it, or drops them.
    fn opened(&mut self, segment: &Arc<str>, answer: io::Result<FileId>) -> Result<(), StoreError> {
        match answer {
            Ok(file) => {
                self.files.insert(Arc::clone(segment), File::Open(file));
                for read in self.reads.iter_mut().filter(|read| read.ticket.is_none() && read.is_of(segment))
                {
                    if let Source::Block { offset, bytes, .. } = read.source {
                        read.ticket = Some(self.disk.read(file, offset, bytes as usize));
                    }
                }
                Ok(())
            }
            Err(error) => {
                self.files.remove(segment);
                self.drop_reads(|read| read.ticket.is_none() && read.is_of(segment));
                Err(StoreError::io("opening", self.job_dir.join(&**segment), error))
            }
        }
    }

    /// Reads `page` now, or waits for the read of it that is under way. Blocks.
    ///
    /// # Errors
    /// As of [`Fetcher::poll`].
    pub fn wait(
        &mut self,
        page: u32,
        source: Source,
        bytes: usize,
        scratch: Option<&Scratch>,
    ) -> Result<Fetched, StoreError> {
        if !self.is_reading(page) {
            self.start(page, source, bytes, scratch);
        }
        let at = self.reads.iter().position(|read| read.page == page).expect("it is under way");
        let waits_for = match &self.reads[at] {
            Read { ticket: None, source: Source::Block { segment, .. }, .. } => Some(Arc::clone(segment)),
            _ => None,
        };
        if let Some(segment) = waits_for
            && let Some(File::Opening(ticket)) = self.files.remove(&segment)
        {
            self.opened(&segment, ticket.wait())?;
        }
        let mut read = self.reads.remove(at).expect("only a failed open removes reads");
        self.pages.remove(&page);
        self.reserved_bytes -= read.bytes;
        let answer = read.ticket.take().expect("its file is open").wait();
        self.check(&read, answer, scratch)
    }

    /// Gives up the read of a page that is gone, if one is under way.
    pub fn forget(&mut self, page: u32) {
        if self.is_reading(page) {
            self.drop_reads(|read| read.page == page);
        }
    }

    fn drop_reads(&mut self, unwanted: impl Fn(&Read) -> bool) {
        let (pages, reserved_bytes) = (&mut self.pages, &mut self.reserved_bytes);
        self.reads.retain(|read| {
            let drop = unwanted(read);
            if drop {
                pages.remove(&read.page);
                *reserved_bytes -= read.bytes;
            }
            !drop
        });
    }

    /// Closes the files that `needed` denies, save those that are being read.
    pub fn keep_files(&mut self, needed: impl Fn(&str) -> bool) {
        let (disk, reads) = (&self.disk, &self.reads);
        let being_read = |segment: &Arc<str>| reads.iter().any(|read| read.is_of(segment));
        self.files.retain(|segment, file| {
            let keep = needed(segment) || being_read(segment);
            if let (false, File::Open(file)) = (keep, file) {
                // A file opened for reading has nothing to lose; the ticket need not be waited for.
                drop(disk.close(*file));
            }
            keep
        });
    }

    /// Number of segment files that are open or being opened.
    #[cfg(test)]
    pub fn open_files(&self) -> usize {
        self.files.len()
    }

    fn check(
        &mut self,
        read: &Read,
        answer: io::Result<Vec<u8>>,
        scratch: Option<&Scratch>,
    ) -> Result<Fetched, StoreError> {
        match &read.source {
            Source::Block { segment, offset, bytes, expected } => {
                let path = self.job_dir.join(&**segment);
                let block = answer.map_err(|error| StoreError::io("reading", &path, error))?;
                check_length(&path, *offset, *bytes as usize, block.len())?;
                self.decoder.decode(&path, *offset, expected, &block).map(Fetched::Rows)
            }
            Source::Scratch(slot) => {
                let scratch = scratch.expect("the scratch file is open while pages lie in it");
                scratch.check(slot, answer).map(Fetched::Image)
            }
        }
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.reads.clear();
        self.keep_files(|_| false);
    }
}

/// A read that ends before its structure does says that the file is too short.
pub(super) fn check_length(
    path: &Path,
    offset: u64,
    expected: usize,
    found: usize,
) -> Result<(), StoreError> {
    if found == expected {
        return Ok(());
    }
    Err(StoreError::corrupt(
        path,
        offset,
        format!("{expected} bytes"),
        format!("{found}, then the end of the file"),
    ))
}

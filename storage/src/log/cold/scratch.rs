//! The scratch file: where changed pages wait for their snapshot when memory does not hold them.
//!
//! It belongs to one table of one running attempt and to no checkpoint: never synced, of no use after a crash. So its name is
//! removed as soon as the file is open, and the system frees its space with the last descriptor, however the
//! process ends; a name that a crash leaves all the same is removed with the other leftovers of the job's directory.
//!
//! Space is handed out in slots of powers of two from 4 KiB up; freed ones are used again.
//!
//! Always true:
//! - no two slots in use overlap, and a slot is not used again before the write to it is over, though its page is gone;
//! - an image is handed out only as it was written: its length and CRC-32 stay in memory.
//!
//! Driven by the page store; nothing here blocks.

use super::fetch::check_length;
use crate::error::StoreError;
use crate::io::{DIRECT_BYTES, DiskHandle, FileId, OpenMode, Ticket};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;

/// Bytes of the smallest slot.
const SLOT_BYTES_MIN: u64 = DIRECT_BYTES as u64;

/// The place of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    offset: u64,
    /// Length of the image.
    bytes: u32,
    crc: u32,
}

impl Slot {
    /// Where it starts in the file.
    #[cfg(test)]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes that it takes in the file.
    pub fn capacity(&self) -> u64 {
        u64::from(self.bytes).next_power_of_two().max(SLOT_BYTES_MIN)
    }
}

enum File {
    /// Nothing was written yet.
    None,
    Opening(Ticket<FileId>),
    /// A file of that name was there.
    Clearing(Ticket<()>),
    Open(FileId),
}

/// A write under way.
struct Write {
    page: u64,
    slot: Slot,
    step: Step,
}

enum Step {
    /// The file is being opened.
    Waits(Vec<u8>),
    Writes(Ticket<Vec<u8>>),
}

/// One table's scratch file.
pub(crate) struct Scratch {
    disk: DiskHandle,
    path: PathBuf,
    file: File,
    /// Free slots by capacity.
    free: BTreeMap<u64, Vec<u64>>,
    /// Where slots that were never used begin.
    end: u64,
    used_bytes: u64,
    /// Oldest first.
    writes: VecDeque<Write>,
}

impl Scratch {
    /// A scratch file that will be made at `path`, in a directory that exists, when it is first needed.
    pub fn new(disk: DiskHandle, path: PathBuf) -> Self {
        Scratch {
            disk,
            path,
            file: File::None,
            free: BTreeMap::new(),
            end: 0,
            used_bytes: 0,
            writes: VecDeque::new(),
        }
    }

    /// Bytes of the slots in use.
    #[cfg(test)]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Number of writes under way.
    #[cfg(test)]
    pub fn writing(&self) -> usize {
        self.writes.len()
    }

    /// Begins to write the image of `page`, a number that no other page ever had. The slot is told by [`Scratch::poll`]; until
    /// then the page stays where it is.
    ///
    /// # Panics
    /// When the image is empty or exceeds 4 GiB.
    pub fn write(&mut self, page: u64, mut image: Vec<u8>) {
        crash_point!("scratch.before_write");
        assert!(!image.is_empty(), "an image has bytes");
        let bytes = u32::try_from(image.len()).expect("a page has less than 4 GiB");
        let mut slot = Slot { offset: 0, bytes, crc: crc32fast::hash(&image) };
        // Whole blocks, so that direct I/O takes them; the slot has room.
        image.resize(image.len().next_multiple_of(DIRECT_BYTES), 0);
        let capacity = slot.capacity();
        slot.offset = self.free.get_mut(&capacity).and_then(Vec::pop).unwrap_or_else(|| {
            self.end += capacity;
            self.end - capacity
        });
        self.used_bytes += capacity;
        let step = match &self.file {
            File::Open(file) => Step::Writes(self.disk.write(*file, slot.offset, image)),
            File::None => {
                self.open();
                Step::Waits(image)
            }
            File::Opening(_) | File::Clearing(_) => Step::Waits(image),
        };
        self.writes.push_back(Write { page, slot, step });
    }

    fn open(&mut self) {
        self.file = File::Opening(self.disk.open(&self.path, OpenMode::CreateDirect));
    }

    /// Tells `over` of each write that is over, oldest first: page, and its slot, or why there is none and the page must stay in
    /// memory. Where `over` answers false, nobody needs the slot and it is free again.
    pub fn poll(&mut self, mut over: impl FnMut(u64, Result<Slot, StoreError>) -> bool) {
        if let Err(error) = self.poll_open() {
            let kind = error.kind();
            let mut error = Some(error);
            for write in std::mem::take(&mut self.writes) {
                self.free(write.slot);
                let source = error.take().unwrap_or_else(|| io::Error::from(kind));
                over(write.page, Err(StoreError::io("creating", &self.path, source)));
            }
            return;
        }
        while let Some(write) = self.writes.front_mut() {
            let Step::Writes(ticket) = &mut write.step else { return };
            let Some(answer) = ticket.poll() else { return };
            crash_point!("scratch.after_write");
            let (page, slot) = (write.page, write.slot);
            self.writes.pop_front();
            let needed = match answer {
                Ok(_) => over(page, Ok(slot)),
                Err(error) => {
                    over(page, Err(StoreError::io("writing", &self.path, error)));
                    false
                }
            };
            if !needed {
                self.free(slot);
            }
        }
    }

    /// Opens the file step by step, and submits the writes that waited for that.
    fn poll_open(&mut self) -> io::Result<()> {
        loop {
            match &mut self.file {
                File::None | File::Open(_) => return Ok(()),
                File::Clearing(ticket) => match ticket.poll() {
                    None => return Ok(()),
                    Some(Ok(())) => self.open(),
                    Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => self.open(),
                    Some(Err(error)) => {
                        self.file = File::None;
                        return Err(error);
                    }
                },
                File::Opening(ticket) => match ticket.poll() {
                    None => return Ok(()),
                    Some(Ok(file)) => {
                        crash_point!("scratch.after_create");
                        self.file = File::Open(file);
                        // A name that stays is removed when the job starts the next time.
                        drop(self.disk.remove(&self.path));
                        for write in &mut self.writes {
                            if let Step::Waits(image) = &mut write.step {
                                let image = std::mem::take(image);
                                write.step = Step::Writes(self.disk.write(file, write.slot.offset, image));
                            }
                        }
                        return Ok(());
                    }
                    Some(Err(error)) if error.kind() == io::ErrorKind::AlreadyExists => {
                        self.file = File::Clearing(self.disk.remove(&self.path));
                    }
                    Some(Err(error)) => {
                        self.file = File::None;
                        return Err(error);
                    }
                },
            }
        }
    }

    /// Begins to read an image.
    pub fn read(&self, slot: &Slot) -> Ticket<Vec<u8>> {
        let File::Open(file) = self.file else { unreachable!("a slot was written, so the file is open") };
        self.disk.read(file, slot.offset, slot.bytes as usize)
    }

    /// The image of `slot`, if the answer to [`Scratch::read`] is what was written.
    ///
    /// # Errors
    /// [`StoreError::Io`] as the disk reports it; [`StoreError::Corrupt`] for other bytes.
    pub fn check(&self, slot: &Slot, answer: io::Result<Vec<u8>>) -> Result<Vec<u8>, StoreError> {
        let image = answer.map_err(|error| StoreError::io("reading", &self.path, error))?;
        check_length(&self.path, slot.offset, slot.bytes as usize, image.len())?;
        let crc = crc32fast::hash(&image);
        if crc != slot.crc {
            let expected = format!("page CRC {:#010x}", slot.crc);
            return Err(StoreError::corrupt(&self.path, slot.offset, expected, format!("{crc:#010x}")));
        }
        Ok(image)
    }

    /// Takes a slot back whose image nobody needs any more.
    pub fn free(&mut self, slot: Slot) {
        self.used_bytes -= slot.capacity();
        self.free.entry(slot.capacity()).or_default().push(slot.offset);
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Its name is gone already; with the descriptor its space goes too. One being opened closes by itself,
        // and its name goes with the leftovers at the next start.
        if let File::Open(file) = self.file {
            drop(self.disk.close(file));
        }
    }
}

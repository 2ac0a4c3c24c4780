//! Builds the bytes of segment files, one after another and each front to back. Pure: the caller writes them.
//!
//! Always true: the chunks taken since a file was begun are exactly its first bytes, in order.

use super::format::{
    BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BLOCK_ROWS_MAX, BlockHeader, BlockKind, Compression, Entry, Header,
    Trailer,
};
use super::rows::Rows;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::DIRECT_BYTES;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::manifest::KeyedStateMeta;
use std::ops::Range;
use std::sync::Arc;
use zstd::bulk::Compressor;

/// Rows are cut into blocks of about this many bytes, so that one block compresses within tens of microseconds.
pub(crate) const BLOCK_BYTES_TARGET: usize = 16 << 10;

/// Room for blocks until they are taken, where there are several.
const OUT_BYTES: usize = 288 << 10;

/// Rows shorter than this are not worth a call of zstd.
const COMPRESS_BYTES_MIN: usize = 256;

/// What one finished block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSummary {
    /// Index of the state among those given to [`SegmentBuilder::new`].
    pub state: u16,
    /// Key group of its rows.
    pub group: KeyGroup,
    /// Base or delta.
    pub kind: BlockKind,
    /// Length in the file.
    pub bytes: u64,
}

/// Where one block lies on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// Path of its segment below the job's directory.
    pub segment: Arc<str>,
    /// Index of the block in the file.
    pub index: u32,
    /// Where it starts in the file.
    pub offset: u64,
    /// Length in the file, header included.
    pub bytes: u32,
}

/// Builds the segment files of one task and checkpoint, one at a time.
pub struct SegmentBuilder {
    /// Path of the file below the job's directory.
    path: Arc<str>,
    header: Header,
    /// The encoded states, which follow the header.
    states: Vec<u8>,
    /// Bytes not taken yet.
    out: Vec<u8>,
    /// Number of bytes taken before.
    taken_bytes: u64,
    entries: Vec<Entry>,
    /// Made for the first block that needs it: that takes longer than all else that begins a file.
    compressor: Option<Compressor<'static>>,
    zstd_level: i32,
    raw: Vec<u8>,
    /// Bytes of all rows of the file before compression.
    raw_bytes: u64,
    finished: bool,
}

impl SegmentBuilder {
    /// Most files of one task and checkpoint.
    pub const FILES_MAX: u16 = u16::MAX;

    /// Starts the file `path`, below the job's directory, for `states`, whose order gives blocks their state index. Blocks are compressed by zstd at
    /// `zstd_level` where that makes them smaller; level 0 stores them as they are.
    pub fn new(
        path: impl Into<Arc<str>>,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        key_groups: KeyGroups,
        groups: Range<KeyGroup>,
        states: &[KeyedStateMeta],
        zstd_level: i32,
    ) -> Self {
        let states = postcard::to_stdvec(states).expect("schemas always serialise");
        let header = Header {
            checkpoint,
            attempt,
            max_parallelism: key_groups.count(),
            groups: (groups.start, groups.end),
            file: 0,
        };
        let mut out = header.encode(&states).to_vec();
        out.extend_from_slice(&states);
        SegmentBuilder {
            path: path.into(),
            header,
            states,
            out,
            taken_bytes: 0,
            entries: Vec::new(),
            compressor: None,
            zstd_level,
            raw: Vec::new(),
            raw_bytes: 0,
            finished: false,
        }
    }

    /// Gives it a compressor of its level that has done its work elsewhere: making one takes longer than all else that begins a file.
    pub(crate) fn reuse(&mut self, compressor: Option<Compressor<'static>>) {
        self.compressor = compressor;
    }

    /// The compressor, if there is one, once all blocks are built.
    pub(crate) fn compressor(&mut self) -> Option<Compressor<'static>> {
        self.compressor.take()
    }

    /// Begins the next file of the same task and checkpoint, `path`, after the one before is finished and taken whole. Its
    /// rows count where both hold rows of one key.
    ///
    /// # Panics
    /// When the file before is not finished or not taken, and after [`SegmentBuilder::FILES_MAX`] files.
    pub fn begin_next(&mut self, path: impl Into<Arc<str>>) {
        assert!(self.finished && self.out.is_empty(), "the file before is finished and taken");
        assert!(
            self.header.file < Self::FILES_MAX - 1,
            "a checkpoint of a task has at most {} files",
            Self::FILES_MAX
        );
        self.path = path.into();
        self.header.file += 1;
        self.out.extend_from_slice(&self.header.encode(&self.states));
        self.out.extend_from_slice(&self.states);
        self.taken_bytes = 0;
        self.entries.clear();
        self.raw_bytes = 0;
        self.finished = false;
    }

    /// Appends one block of the first rows of `range`, as many as fit, and returns how many they were; none and no block
    /// for an empty range, but see [`SegmentBuilder::empty_base`].
    ///
    /// # Panics
    /// When zstd cannot allocate, and after [`SegmentBuilder::finish`].
    pub fn block(
        &mut self,
        state: u16,
        group: KeyGroup,
        kind: BlockKind,
        rows: &Rows,
        range: Range<usize>,
    ) -> usize {
        let count = rows_that_fit(rows, &range);
        if count > 0 {
            self.append(state, group, kind, rows, range.start..range.start + count);
        }
        count
    }

    /// Appends all of `rows`, those of one page, as one delta block, and says where that lies. Rows of one key may come
    /// several times: the last counts.
    ///
    /// # Panics
    /// When they exceed 4 MiB and are several; otherwise as [`SegmentBuilder::block`].
    pub fn page(&mut self, state: u16, group: KeyGroup, rows: &Rows) -> BlockPlace {
        assert!(
            rows.len() == 1 || rows.raw_bytes() <= BLOCK_BYTES_MAX,
            "a page of several rows fits one block"
        );
        let offset = self.bytes();
        self.append(state, group, BlockKind::Delta, rows, 0..rows.len());
        BlockPlace {
            segment: Arc::clone(&self.path),
            index: self.entries.len() as u32 - 1,
            offset,
            bytes: u32::try_from(self.bytes() - offset).expect("a block holds at most one row of 2 GiB"),
        }
    }

    /// Appends a base block without rows: whatever older segments say of this state and group is void.
    pub fn empty_base(&mut self, state: u16, group: KeyGroup) {
        self.append(state, group, BlockKind::Base, &Rows::new(None, None), 0..0);
    }

    fn append(&mut self, state: u16, group: KeyGroup, kind: BlockKind, rows: &Rows, range: Range<usize>) {
        assert!(!self.finished, "no block follows the trailer");
        let mut header = BlockHeader {
            sequence: u32::try_from(self.entries.len()).expect("a segment has fewer than u32::MAX blocks"),
            state,
            group,
            kind,
            compression: Compression::None,
            rows: range.len() as u32,
            raw_bytes: 0,
            key_bytes: rows.key_bytes(),
            value_bytes: rows.value_bytes(),
        };
        self.raw.clear();
        rows.encode(kind, range, &mut self.raw);
        header.raw_bytes = u32::try_from(self.raw.len()).expect("a block holds at most one row of 2 GiB");
        let offset = self.taken_bytes + self.out.len() as u64;
        let start = self.out.len();
        if start > OUT_BYTES / 8 {
            // Once, instead of by doubling: that would move what there is, and touch as much memory again.
            self.out.reserve(OUT_BYTES.saturating_sub(start));
        }
        let stored_at = start + BLOCK_HEADER_BYTES;
        self.out.resize(stored_at, 0);
        if self.zstd_level != 0 && self.raw.len() >= COMPRESS_BYTES_MIN {
            let compressor = self.compressor.get_or_insert_with(|| {
                Compressor::new(self.zstd_level).expect("zstd allocates a context of a few hundred kilobytes")
            });
            // Only room for a result that saves an eighth: zstd gives up when it is full.
            let room = self.raw.len() - self.raw.len() / 8;
            self.out.resize(stored_at + room, 0);
            match compressor.compress_to_buffer(&self.raw, &mut self.out[stored_at..]) {
                Ok(bytes) => {
                    header.compression = Compression::Zstd;
                    self.out.truncate(stored_at + bytes);
                }
                Err(_) => self.out.truncate(stored_at),
            }
        }
        if header.compression == Compression::None {
            self.out.extend_from_slice(&self.raw);
        }
        if self.raw.capacity() > BLOCK_BYTES_MAX {
            self.raw = Vec::new();
        }
        let (head, stored) = self.out[start..].split_at_mut(BLOCK_HEADER_BYTES);
        head.copy_from_slice(&header.encode(stored));
        let entry =
            Entry { offset, stored_bytes: stored.len() as u32, rows: header.rows, state, group, kind };
        self.entries.push(entry);
        self.raw_bytes += u64::from(header.raw_bytes);
    }

    /// Appends directory and trailer. The rest of the file then waits in [`SegmentBuilder::take`].
    pub fn finish(&mut self) {
        assert!(!self.finished, "a segment is finished once");
        self.finished = true;
        let directory: Vec<u8> = self.entries.iter().flat_map(Entry::encode).collect();
        let trailer = Trailer {
            directory_offset: self.taken_bytes + self.out.len() as u64,
            rows: self.entries.iter().map(|entry| u64::from(entry.rows)).sum(),
            blocks: self.entries.len() as u32,
            directory_crc: crc32fast::hash(&directory),
        };
        self.out.extend_from_slice(&directory);
        self.out.extend_from_slice(&trailer.encode());
    }

    /// Takes the bytes built since the last call, to be written behind those. Until the file is finished, so many that what was
    /// taken is a multiple of [`DIRECT_BYTES`], as direct I/O wants it; the rest waits for the next call.
    pub fn take(&mut self) -> Vec<u8> {
        let waits = if self.finished { 0 } else { self.out.len() % DIRECT_BYTES };
        let rest = self.out.split_off(self.out.len() - waits);
        let taken = std::mem::replace(&mut self.out, rest);
        self.taken_bytes += taken.len() as u64;
        taken
    }

    /// Number of bytes that wait to be taken.
    pub fn pending_bytes(&self) -> usize {
        self.out.len()
    }

    /// Length of the file so far.
    pub fn bytes(&self) -> u64 {
        self.taken_bytes + self.out.len() as u64
    }

    /// Bytes of all rows of the file so far, before compression.
    pub fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Path of the file below the job's directory.
    pub fn path(&self) -> &Arc<str> {
        &self.path
    }

    /// Number of the file, from 0.
    pub fn file(&self) -> u16 {
        self.header.file
    }

    /// Number of blocks so far.
    pub fn block_count(&self) -> usize {
        self.entries.len()
    }

    /// The blocks so far, in order.
    pub fn blocks(&self) -> impl Iterator<Item = BlockSummary> {
        self.entries.iter().map(|entry| BlockSummary {
            state: entry.state,
            group: entry.group,
            kind: entry.kind,
            bytes: entry.end() - entry.offset,
        })
    }
}

/// How many of the first rows of `range` make a block of about [`BLOCK_BYTES_TARGET`]; a row larger than
/// [`BLOCK_BYTES_MAX`] is alone.
fn rows_that_fit(rows: &Rows, range: &Range<usize>) -> usize {
    let fits = |count: usize, bytes: usize| rows.range_bytes(range.start..range.start + count) <= bytes;
    let most = range.len().min(BLOCK_ROWS_MAX as usize);
    if fits(most, BLOCK_BYTES_TARGET + BLOCK_BYTES_TARGET / 4) {
        return most;
    }
    // The lengths of prefixes rise, so search for the longest that stays within the target.
    let (mut low, mut high) = (1, most);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle, BLOCK_BYTES_TARGET) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

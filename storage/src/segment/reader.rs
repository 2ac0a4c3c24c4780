//! Reads segment files: header, directory and trailer always, of the blocks those that are wanted, or all to verify a file.
//!
//! Always true: what is read is checked; no length from the file is used before its CRC was right and the length within its bound, and nothing is
//! allocated for more than the file itself can hold, save for the decompressed content of one block.

use super::block::{BlockDecoder, Expected};
use super::format::{
    BLOCK_HEADER_BYTES, BlockKind, ENTRY_BYTES, Entry, HEADER_BYTES, Header, Mismatch, SEGMENT_VERSION,
    TRAILER_BYTES, Trailer,
};
use super::rows::Rows;
use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroup;
use crate::manifest::KeyedStateMeta;
use std::borrow::Cow;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

/// Blocks are read together until they reach this many bytes.
const RUN_BYTES: u64 = 1 << 20;

/// Where the bytes of a segment come from.
pub trait Source {
    /// Length of the file.
    fn bytes(&self) -> u64;

    /// Exactly the bytes of `range`, which lies within the file.
    ///
    /// # Errors
    /// [`StoreError::Io`] as the disk reports it; [`StoreError::Corrupt`] when the file is shorter.
    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, StoreError>;
}

impl Source for &[u8] {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, StoreError> {
        Ok(Cow::Borrowed(&self[range.start as usize..range.end as usize]))
    }
}

/// One block of a segment, as its directory describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockEntry {
    /// Index of the block in the file.
    pub index: u32,
    /// Index of the state in [`SegmentIndex::states`].
    pub state: u16,
    /// Key group of its rows.
    pub group: KeyGroup,
    /// Base or delta.
    pub kind: BlockKind,
    /// Where it starts in the file.
    pub offset: u64,
    /// Number of rows.
    pub rows: u32,
    /// Length in the file.
    pub bytes: u64,
}

/// What a segment says of itself: header, states and directory, all checked. Stays valid without the file.
#[derive(Debug)]
pub struct SegmentIndex {
    path: PathBuf,
    header: Header,
    states: Vec<KeyedStateMeta>,
    entries: Vec<Entry>,
}

/// An opened segment: its index, and where its blocks come from.
#[derive(Debug)]
pub struct SegmentReader<S> {
    source: S,
    index: SegmentIndex,
}

/// Blocks that lie one behind the other and are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Their indices.
    pub blocks: Range<usize>,
    /// Their bytes in the file.
    pub bytes: Range<u64>,
}

impl<S> Deref for SegmentReader<S> {
    type Target = SegmentIndex;

    fn deref(&self) -> &SegmentIndex {
        &self.index
    }
}

impl<S: Source> SegmentReader<S> {
    /// Opens the segment in `source`; `path` names it in errors.
    ///
    /// # Errors
    /// - [`StoreError::Corrupt`]: the file is not what was written; do not use it.
    /// - [`StoreError::NewerFormat`]: a newer build wrote it.
    /// - [`StoreError::Io`]: from the disk.
    pub fn open(source: S, path: &Path) -> Result<Self, StoreError> {
        let at = |offset: u64| {
            move |mismatch: Mismatch| StoreError::corrupt(path, offset, mismatch.expected, mismatch.found)
        };
        let length = source.bytes();
        if length < (HEADER_BYTES + TRAILER_BYTES) as u64 {
            let expected = format!("at least {} bytes", HEADER_BYTES + TRAILER_BYTES);
            return Err(StoreError::corrupt(path, 0, expected, format!("{length} bytes")));
        }
        let trailer_at = length - TRAILER_BYTES as u64;

        let header: [u8; HEADER_BYTES] = array(&source.read(0..HEADER_BYTES as u64)?);
        let states_end = (HEADER_BYTES + Header::states_bytes(&header).map_err(at(32))?) as u64;
        if states_end > trailer_at {
            return Err(StoreError::corrupt(
                path,
                32,
                format!("states that end before {trailer_at}"),
                states_end.to_string(),
            ));
        }
        let states = source.read(HEADER_BYTES as u64..states_end)?;
        let (version, header) = Header::decode(&header, &states).map_err(at(0))?;
        if version > SEGMENT_VERSION {
            return Err(StoreError::NewerFormat {
                path: path.to_owned(),
                found: version,
                newest: SEGMENT_VERSION,
            });
        }
        let states: Vec<KeyedStateMeta> = postcard::from_bytes(&states).map_err(|error| {
            StoreError::corrupt(path, HEADER_BYTES as u64, "a list of states", error.to_string())
        })?;

        let trailer = Trailer::decode(&array(&source.read(trailer_at..length)?)).map_err(at(trailer_at))?;
        let directory_bytes = u64::from(trailer.blocks) * ENTRY_BYTES as u64;
        if trailer.directory_offset < states_end
            || trailer.directory_offset.checked_add(directory_bytes) != Some(trailer_at)
        {
            let expected =
                format!("a directory of {directory_bytes} bytes between {states_end} and {trailer_at}");
            return Err(StoreError::corrupt(
                path,
                trailer_at,
                expected,
                trailer.directory_offset.to_string(),
            ));
        }
        let directory = source.read(trailer.directory_offset..trailer_at)?;
        let crc = crc32fast::hash(&directory);
        if crc != trailer.directory_crc {
            let expected = format!("directory CRC {:#010x}", trailer.directory_crc);
            return Err(StoreError::corrupt(
                path,
                trailer.directory_offset,
                expected,
                format!("{crc:#010x}"),
            ));
        }

        let mut entries = Vec::with_capacity(trailer.blocks as usize);
        let mut end = states_end;
        for (i, bytes) in directory.as_chunks::<ENTRY_BYTES>().0.iter().enumerate() {
            let entry_at = trailer.directory_offset + (i * ENTRY_BYTES) as u64;
            let entry = Entry::decode(bytes).map_err(at(entry_at))?;
            if entry.offset != end
                || entry.end() > trailer.directory_offset
                || usize::from(entry.state) >= states.len()
            {
                let expected = format!("a block of a known state at {end}");
                return Err(StoreError::corrupt(path, entry_at, expected, format!("{entry:?}")));
            }
            end = entry.end();
            entries.push(entry);
        }
        if end != trailer.directory_offset {
            let expected = format!("blocks up to the directory at {}", trailer.directory_offset);
            return Err(StoreError::corrupt(path, end, expected, "none"));
        }
        Ok(SegmentReader { source, index: SegmentIndex { path: path.to_owned(), header, states, entries } })
    }

    /// The index alone.
    pub fn into_index(self) -> SegmentIndex {
        self.index
    }

    /// Reads those blocks that `wanted` asks for, checks them, and hands them to `visit`, decoded. Others are not read.
    ///
    /// # Errors
    /// As [`SegmentReader::open`], and whatever `visit` returns, which ends the reading.
    pub fn read_blocks(
        &self,
        wanted: impl FnMut(&BlockEntry) -> bool,
        mut visit: impl FnMut(&BlockEntry, Rows) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut decoder = BlockDecoder::default();
        for run in self.runs(wanted) {
            let bytes = self.source.read(run.bytes.clone())?;
            self.decode_run(&run, &bytes, &mut decoder, &mut visit)?;
        }
        Ok(())
    }

    /// Reads, checks and decodes every block, so that together with [`SegmentReader::open`] each byte of the file has been
    /// checked.
    ///
    /// # Errors
    /// As [`SegmentReader::open`].
    pub fn verify(&self) -> Result<(), StoreError> {
        self.read_blocks(|_| true, |_, _| Ok(()))
    }
}

impl SegmentIndex {
    /// Path by which errors name the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The checkpoint that the segment was written for.
    pub fn checkpoint(&self) -> CheckpointId {
        self.header.checkpoint
    }

    /// The execution attempt that wrote it.
    pub fn attempt(&self) -> AttemptId {
        self.header.attempt
    }

    /// Number of the file among those that the task wrote for the checkpoint: the order in which they apply.
    pub fn file(&self) -> u16 {
        self.header.file
    }

    /// Number of key groups of the job that wrote it.
    pub fn max_parallelism(&self) -> u16 {
        self.header.max_parallelism
    }

    /// Key groups of the task that wrote it.
    pub fn groups(&self) -> Range<KeyGroup> {
        self.header.groups.0..self.header.groups.1
    }

    /// The states that blocks name by index.
    pub fn states(&self) -> &[KeyedStateMeta] {
        &self.states
    }

    /// The blocks, in the order of the file.
    pub fn blocks(&self) -> impl Iterator<Item = BlockEntry> {
        self.entries.iter().enumerate().map(summary)
    }

    /// The blocks that `wanted` asks for, in runs of about a megabyte.
    pub(crate) fn runs(&self, mut wanted: impl FnMut(&BlockEntry) -> bool) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for block in self.blocks().filter(|block| wanted(block)) {
            let (index, end) = (block.index as usize, block.offset + block.bytes);
            match runs.last_mut() {
                Some(run) if run.blocks.end == index && end - run.bytes.start <= RUN_BYTES => {
                    run.blocks.end = index + 1;
                    run.bytes.end = end;
                }
                _ => runs.push(Run { blocks: index..index + 1, bytes: block.offset..end }),
            }
        }
        runs
    }

    /// Checks and decodes the blocks of `run`, whose bytes in the file are `bytes`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], and whatever `visit` returns, which ends the reading.
    pub(crate) fn decode_run(
        &self,
        run: &Run,
        bytes: &[u8],
        decoder: &mut BlockDecoder,
        visit: &mut dyn FnMut(&BlockEntry, Rows) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for index in run.blocks.clone() {
            let entry = &self.entries[index];
            let block =
                &bytes[(entry.offset - run.bytes.start) as usize..(entry.end() - run.bytes.start) as usize];
            let expected = Expected {
                index: index as u32,
                state: Some(entry.state),
                group: entry.group,
                kind: Some(entry.kind),
                rows: entry.rows,
                widths: None,
            };
            let rows = decoder.decode(&self.path, entry.offset, &expected, block)?;
            visit(&summary((index, entry)), rows)?;
        }
        Ok(())
    }
}

fn summary((index, entry): (usize, &Entry)) -> BlockEntry {
    BlockEntry {
        index: index as u32,
        state: entry.state,
        group: entry.group,
        kind: entry.kind,
        offset: entry.offset,
        rows: entry.rows,
        bytes: entry.end() - entry.offset,
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("a source returns the length that was asked for")
}

const _: () =
    assert!(BLOCK_HEADER_BYTES == 40 && HEADER_BYTES == 40 && ENTRY_BYTES == 24 && TRAILER_BYTES == 32);

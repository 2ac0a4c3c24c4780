//! Layout of a segment file, version 1. All integers are little-endian, all structures without gaps.
//!
//! Header: 40 bytes, then the states.
//!
//! | offset | bytes | field           | meaning                                                           |
//! |-------:|------:|-----------------|-------------------------------------------------------------------|
//! |      0 |     4 | magic           | `TWSG`                                                            |
//! |      4 |     4 | version         | 1; readers refuse any newer version                               |
//! |      8 |     8 | checkpoint      | the checkpoint that the segment was written for                   |
//! |     16 |     8 | attempt         | the execution attempt that wrote it                               |
//! |     24 |     2 | max_parallelism | number of key groups of the job                                   |
//! |     26 |     2 | group_start     | first key group of the task that wrote it                         |
//! |     28 |     2 | group_end       | the key group behind the last                                     |
//! |     30 |     2 | file            | number of the file among those that the task wrote for the checkpoint, from 0: where two hold rows of one key, those of the higher count |
//! |     32 |     4 | states_bytes    | length of the states                                              |
//! |     36 |     4 | crc             | CRC-32 over bytes 0..36 and the states                            |
//! |     40 |       | states          | postcard: list of (name, key schema, value schema); blocks name a state by its index here |
//!
//! Block: 40 bytes, then the stored rows.
//!
//! | offset | bytes | field        | meaning                                                     |
//! |-------:|------:|--------------|-------------------------------------------------------------|
//! |      0 |     4 | magic        | `TWSB`                                                      |
//! |      4 |     4 | sequence     | index of the block in the file                              |
//! |      8 |     2 | state        | index of the state                                          |
//! |     10 |     2 | group        | key group                                                   |
//! |     12 |     1 | kind         | 0 base, 1 delta                                             |
//! |     13 |     1 | compression  | 0 none, 1 zstd                                              |
//! |     14 |     2 | reserved     | zero                                                        |
//! |     16 |     4 | rows         | number of rows                                              |
//! |     20 |     4 | raw_bytes    | length of the rows before compression                       |
//! |     24 |     4 | stored_bytes | length of the rows in the file                              |
//! |     28 |     4 | key_bytes    | length of each encoded key, or `FFFF_FFFF` where it varies  |
//! |     32 |     4 | value_bytes  | the same of values                                          |
//! |     36 |     4 | crc          | CRC-32 over bytes 0..36 and the stored rows                 |
//!
//! Directory: 24 bytes for each block, in the order of the file.
//!
//! | offset | bytes | field        | meaning                          |
//! |-------:|------:|--------------|----------------------------------|
//! |      0 |     8 | offset       | where the block starts           |
//! |      8 |     4 | stored_bytes | as in the block                  |
//! |     12 |     4 | rows         | as in the block                  |
//! |     16 |     2 | state        | as in the block                  |
//! |     18 |     2 | group        | as in the block                  |
//! |     20 |     1 | kind         | as in the block                  |
//! |     21 |     3 | reserved     | zero                             |
//!
//! Trailer: the last 32 bytes.
//!
//! | offset | bytes | field            | meaning                              |
//! |-------:|------:|------------------|--------------------------------------|
//! |      0 |     8 | directory_offset | where the directory starts           |
//! |      8 |     8 | rows             | number of rows of all blocks         |
//! |     16 |     4 | blocks           | number of blocks                     |
//! |     20 |     4 | directory_crc    | CRC-32 over the directory            |
//! |     24 |     4 | magic            | `TWSE`                               |
//! |     28 |     4 | crc              | CRC-32 over bytes 0..28              |

use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroup;

/// The version of the format that this build writes, and the newest that it reads.
pub const SEGMENT_VERSION: u32 = 1;

/// Longest encoded key or value of a row: 1 GiB.
pub const ROW_BYTES_MAX: usize = 1 << 30;

/// Most bytes of rows in a block of several rows.
pub(super) const BLOCK_BYTES_MAX: usize = 4 << 20;

/// Most bytes of a block that is a single row: key, value, their two lengths and a tombstone bit.
pub(super) const BLOCK_BYTES_SINGLE_MAX: usize = 2 * ROW_BYTES_MAX + 9;

/// Most rows of a block.
pub(super) const BLOCK_ROWS_MAX: u32 = 1 << 16;

/// Most bytes of the states in a header.
pub(super) const STATES_BYTES_MAX: u32 = 16 << 20;

/// Stands for "varies" in `key_bytes` and `value_bytes`.
pub(super) const VARIES: u32 = u32::MAX;

pub(super) const HEADER_BYTES: usize = 40;
pub(super) const BLOCK_HEADER_BYTES: usize = 40;
pub(super) const ENTRY_BYTES: usize = 24;
pub(super) const TRAILER_BYTES: usize = 32;

const HEADER_MAGIC: [u8; 4] = *b"TWSG";
const BLOCK_MAGIC: [u8; 4] = *b"TWSB";
const TRAILER_MAGIC: [u8; 4] = *b"TWSE";

/// What the rows of a block are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// To nothing: all rows that its key group had, or one part of them.
    Base = 0,
    /// To older segments: changed rows and tombstones.
    Delta = 1,
}

impl BlockKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(BlockKind::Base),
            1 => Some(BlockKind::Delta),
            _ => None,
        }
    }
}

/// How stored rows are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None = 0,
    Zstd = 1,
}

/// A structure does not hold what the format demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub expected: String,
    pub found: String,
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, found: T) -> Result<(), Mismatch> {
    if expected == found {
        Ok(())
    } else {
        Err(Mismatch { expected: format!("{what} {expected:?}"), found: format!("{found:?}") })
    }
}

/// The CRC-32 of two pieces, one after the other.
fn crc_of(first: &[u8], second: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(first);
    crc.update(second);
    crc.finalize()
}

/// Writes fields one behind the other; the array's length is checked when the last is in.
struct Writer<const N: usize> {
    bytes: [u8; N],
    end: usize,
}

impl<const N: usize> Writer<N> {
    fn new() -> Self {
        Writer { bytes: [0; N], end: 0 }
    }

    fn put<const M: usize>(mut self, field: [u8; M]) -> Self {
        self.bytes[self.end..self.end + M].copy_from_slice(&field);
        self.end += M;
        self
    }

    /// Ends with the CRC-32 of everything before and of `more`.
    fn crc(self, more: &[u8]) -> [u8; N] {
        let crc = crc_of(&self.bytes[..self.end], more);
        self.put(crc.to_le_bytes()).done()
    }

    fn done(self) -> [u8; N] {
        assert_eq!(self.end, N, "the fields fill the structure");
        self.bytes
    }
}

/// Reads fields one behind the other from a structure of fixed length.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn get<const M: usize>(&mut self) -> [u8; M] {
        let (field, rest) = self.0.split_first_chunk::<M>().expect("the structure is as long as its fields");
        self.0 = rest;
        *field
    }

    fn u8(&mut self) -> u8 {
        self.get::<1>()[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.get())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.get())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.get())
    }
}

/// The header of a segment, without its states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub checkpoint: CheckpointId,
    pub attempt: AttemptId,
    pub max_parallelism: u16,
    pub groups: (KeyGroup, KeyGroup),
    pub file: u16,
}

impl Header {
    pub fn encode(&self, states: &[u8]) -> [u8; HEADER_BYTES] {
        Writer::new()
            .put(HEADER_MAGIC)
            .put(SEGMENT_VERSION.to_le_bytes())
            .put(self.checkpoint.0.to_le_bytes())
            .put(self.attempt.0.to_le_bytes())
            .put(self.max_parallelism.to_le_bytes())
            .put(self.groups.0.to_le_bytes())
            .put(self.groups.1.to_le_bytes())
            .put(self.file.to_le_bytes())
            .put((states.len() as u32).to_le_bytes())
            .crc(states)
    }

    /// The length of the states, unchecked but for its bound: reads them before [`Header::decode`] can check all.
    pub fn states_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<usize, Mismatch> {
        let found = Fields(&bytes[32..36]).u32();
        if found <= STATES_BYTES_MAX {
            Ok(found as usize)
        } else {
            Err(Mismatch {
                expected: format!("at most {STATES_BYTES_MAX} bytes of states"),
                found: found.to_string(),
            })
        }
    }

    /// The header and its version, once its magic and its CRC are right.
    pub fn decode(bytes: &[u8; HEADER_BYTES], states: &[u8]) -> Result<(u32, Header), Mismatch> {
        let mut fields = Fields(bytes);
        expect("magic", HEADER_MAGIC, fields.get())?;
        expect("header CRC", crc_of(&bytes[..36], states), Fields(&bytes[36..]).u32())?;
        let version = fields.u32();
        let header = Header {
            checkpoint: CheckpointId(fields.u64()),
            attempt: AttemptId(fields.u64()),
            max_parallelism: fields.u16(),
            groups: (fields.u16(), fields.u16()),
            file: fields.u16(),
        };
        Ok((version, header))
    }
}

/// The header of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockHeader {
    pub sequence: u32,
    pub state: u16,
    pub group: KeyGroup,
    pub kind: BlockKind,
    pub compression: Compression,
    pub rows: u32,
    pub raw_bytes: u32,
    pub key_bytes: u32,
    pub value_bytes: u32,
}

impl BlockHeader {
    pub fn encode(&self, stored: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
        Writer::new()
            .put(BLOCK_MAGIC)
            .put(self.sequence.to_le_bytes())
            .put(self.state.to_le_bytes())
            .put(self.group.to_le_bytes())
            .put([self.kind as u8, self.compression as u8, 0, 0])
            .put(self.rows.to_le_bytes())
            .put(self.raw_bytes.to_le_bytes())
            .put((stored.len() as u32).to_le_bytes())
            .put(self.key_bytes.to_le_bytes())
            .put(self.value_bytes.to_le_bytes())
            .crc(stored)
    }

    /// The header of a whole block, once its CRC is right; the block's length comes from the directory.
    pub fn decode(block: &[u8]) -> Result<(BlockHeader, &[u8]), Mismatch> {
        let (bytes, stored) = block.split_at(BLOCK_HEADER_BYTES);
        let mut fields = Fields(bytes);
        expect("magic", BLOCK_MAGIC, fields.get())?;
        expect("block CRC", crc_of(&bytes[..36], stored), Fields(&bytes[36..]).u32())?;
        let (sequence, state, group) = (fields.u32(), fields.u16(), fields.u16());
        let kind = fields.u8();
        let kind = BlockKind::from_byte(kind)
            .ok_or_else(|| Mismatch { expected: "a block kind".into(), found: kind.to_string() })?;
        let compression = match fields.u8() {
            0 => Compression::None,
            1 => Compression::Zstd,
            other => return Err(Mismatch { expected: "a compression".into(), found: other.to_string() }),
        };
        expect("reserved bytes", [0; 2], fields.get())?;
        let (rows, raw_bytes) = (fields.u32(), fields.u32());
        expect("stored bytes", stored.len() as u32, fields.u32())?;
        let (key_bytes, value_bytes) = (fields.u32(), fields.u32());
        if rows > BLOCK_ROWS_MAX {
            return Err(Mismatch {
                expected: format!("at most {BLOCK_ROWS_MAX} rows"),
                found: rows.to_string(),
            });
        }
        let bytes_max = if rows == 1 { BLOCK_BYTES_SINGLE_MAX } else { BLOCK_BYTES_MAX };
        if raw_bytes as usize > bytes_max {
            let expected = format!("at most {bytes_max} bytes in a block of {rows} rows");
            return Err(Mismatch { expected, found: raw_bytes.to_string() });
        }
        Ok((
            BlockHeader {
                sequence,
                state,
                group,
                kind,
                compression,
                rows,
                raw_bytes,
                key_bytes,
                value_bytes,
            },
            stored,
        ))
    }
}

/// One line of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub offset: u64,
    pub stored_bytes: u32,
    pub rows: u32,
    pub state: u16,
    pub group: KeyGroup,
    pub kind: BlockKind,
}

impl Entry {
    pub fn encode(&self) -> [u8; ENTRY_BYTES] {
        Writer::new()
            .put(self.offset.to_le_bytes())
            .put(self.stored_bytes.to_le_bytes())
            .put(self.rows.to_le_bytes())
            .put(self.state.to_le_bytes())
            .put(self.group.to_le_bytes())
            .put([self.kind as u8, 0, 0, 0])
            .done()
    }

    pub fn decode(bytes: &[u8; ENTRY_BYTES]) -> Result<Entry, Mismatch> {
        let mut fields = Fields(bytes);
        let (offset, stored_bytes, rows) = (fields.u64(), fields.u32(), fields.u32());
        let (state, group, kind) = (fields.u16(), fields.u16(), fields.u8());
        expect("reserved bytes", [0; 3], fields.get())?;
        let kind = BlockKind::from_byte(kind)
            .ok_or_else(|| Mismatch { expected: "a block kind".into(), found: kind.to_string() })?;
        Ok(Entry { offset, stored_bytes, rows, state, group, kind })
    }

    /// The offset behind the block.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(BLOCK_HEADER_BYTES as u64 + u64::from(self.stored_bytes))
    }
}

/// The trailer of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    pub directory_offset: u64,
    pub rows: u64,
    pub blocks: u32,
    pub directory_crc: u32,
}

impl Trailer {
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        Writer::new()
            .put(self.directory_offset.to_le_bytes())
            .put(self.rows.to_le_bytes())
            .put(self.blocks.to_le_bytes())
            .put(self.directory_crc.to_le_bytes())
            .put(TRAILER_MAGIC)
            .crc(&[])
    }

    pub fn decode(bytes: &[u8; TRAILER_BYTES]) -> Result<Trailer, Mismatch> {
        expect("trailer magic", TRAILER_MAGIC, Fields(&bytes[24..28]).get())?;
        expect("trailer CRC", crc_of(&bytes[..28], &[]), Fields(&bytes[28..]).u32())?;
        let mut fields = Fields(bytes);
        Ok(Trailer {
            directory_offset: fields.u64(),
            rows: fields.u64(),
            blocks: fields.u32(),
            directory_crc: fields.u32(),
        })
    }
}

//! Decodes one block: checks every byte of it and gives its rows. The one decoder for whole segments and for single pages
//! that are read back.
//!
//! Always true: nothing is taken from a block before its CRC was right, and a block decompresses to no more than its header,
//! within the bounds of the format, has announced.

use super::format::{
    BLOCK_BYTES_MAX, BLOCK_HEADER_BYTES, BlockHeader, BlockKind, Compression, Mismatch, VARIES,
};
use super::rows::Rows;
use crate::error::StoreError;
use crate::key_group::KeyGroup;
use std::path::Path;
use zstd::bulk::Decompressor;

/// What a reader knows of a block before it has read it. A part that is not known is not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Index of the block in its file.
    pub index: u32,
    /// Index of the state among those of the file.
    pub state: Option<u16>,
    /// Key group of the rows.
    pub group: KeyGroup,
    /// Base or delta.
    pub kind: Option<BlockKind>,
    /// Number of rows.
    pub rows: u32,
    /// Fixed lengths of keys and values.
    pub widths: Option<(Option<usize>, Option<usize>)>,
}

/// Decodes blocks one after another, with one context of zstd and one buffer for all.
#[derive(Default)]
pub(crate) struct BlockDecoder {
    /// Made for the first block that needs it.
    zstd: Option<Decompressor<'static>>,
    raw: Vec<u8>,
}

impl BlockDecoder {
    /// The rows of `block`, all bytes of it, which was read at `offset` of `path`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], naming both, when it is not an intact block as `expected`.
    pub fn decode(
        &mut self,
        path: &Path,
        offset: u64,
        expected: &Expected,
        block: &[u8],
    ) -> Result<Rows, StoreError> {
        let decoded = check(expected, block).and_then(|(header, stored)| self.rows(&header, stored));
        decoded.map_err(|mismatch| StoreError::corrupt(path, offset, mismatch.expected, mismatch.found))
    }

    /// The rows of a block that [`check`] has passed.
    pub(super) fn rows(&mut self, header: &BlockHeader, stored: &[u8]) -> Result<Rows, Mismatch> {
        let raw_bytes = header.raw_bytes as usize;
        let expected = || format!("{raw_bytes} bytes of rows");
        let content = match header.compression {
            Compression::None => stored,
            Compression::Zstd => {
                let mismatch = |found: String| Mismatch { expected: expected(), found };
                if self.zstd.is_none() {
                    self.zstd = Some(Decompressor::new().map_err(|error| mismatch(error.to_string()))?);
                }
                let zstd = self.zstd.as_mut().expect("just made");
                self.raw.resize(raw_bytes, 0);
                let bytes = zstd
                    .decompress_to_buffer(stored, &mut self.raw[..])
                    .map_err(|error| mismatch(error.to_string()))?;
                &self.raw[..bytes]
            }
        };
        if content.len() != raw_bytes {
            return Err(Mismatch { expected: expected(), found: format!("{} bytes", content.len()) });
        }
        let rows =
            Rows::decode(header.kind, header.rows as usize, header.key_bytes, header.value_bytes, content);
        if self.raw.capacity() > BLOCK_BYTES_MAX {
            self.raw = Vec::new();
        }
        rows
    }
}

fn width(bytes: u32) -> Option<usize> {
    (bytes != VARIES).then_some(bytes as usize)
}

/// The header of `block` and its stored rows, once the CRC is right and all is as `expected`.
pub(super) fn check<'a>(expected: &Expected, block: &'a [u8]) -> Result<(BlockHeader, &'a [u8]), Mismatch> {
    if block.len() < BLOCK_HEADER_BYTES {
        return Err(Mismatch {
            expected: format!("a block of at least {BLOCK_HEADER_BYTES} bytes"),
            found: format!("{} bytes", block.len()),
        });
    }
    let (header, stored) = BlockHeader::decode(block)?;
    let found = Expected {
        index: header.sequence,
        state: expected.state.and(Some(header.state)),
        group: header.group,
        kind: expected.kind.and(Some(header.kind)),
        rows: header.rows,
        widths: expected.widths.and(Some((width(header.key_bytes), width(header.value_bytes)))),
    };
    if found == *expected {
        Ok((header, stored))
    } else {
        Err(Mismatch { expected: format!("block {expected:?}"), found: format!("{found:?}") })
    }
}

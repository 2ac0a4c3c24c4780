//! Bytes of a manifest file. Pure: no file is touched here.
//!
//! Always true: each byte of the file is covered by the length check, by `crc32` of the header, by `body_crc32`, or is
//! one of these checksums; so any single changed byte is found before the body is parsed.
//!
//! Header, 32 bytes, little-endian. Its layout is the same in every version, so that a reader of any version can tell
//! a newer file from a damaged one.
//!
//! | offset | bytes | field      | meaning                                            |
//! |-------:|------:|------------|----------------------------------------------------|
//! |      0 |     4 | magic      | `TWM1`                                             |
//! |      4 |     4 | version    | readers refuse any newer version                   |
//! |      8 |     8 | body_bytes | length of the body, at most 1 GiB                  |
//! |     16 |     8 | checkpoint | the checkpoint's id, repeated in the body          |
//! |     24 |     4 | reserved   | zero, checked on read                              |
//! |     28 |     4 | crc32      | CRC-32 (IEEE) over bytes 0..28                     |
//!
//! Then, up to the end of the file:
//!
//! | offset          | bytes      | field      | meaning                                            |
//! |----------------:|-----------:|------------|----------------------------------------------------|
//! |              32 | body_bytes | body       | [`Manifest`] in postcard's encoding                |
//! | 32 + body_bytes |          4 | body_crc32 | CRC-32 (IEEE) over the body                        |

use super::{Manifest, validate};
use crate::error::StoreError;
use crate::ids::CheckpointId;
use serde::Deserialize;
use std::path::Path;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Newest version of the format, and the one that is written.
pub const VERSION: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 32;
/// A body is at most this long.
pub const BODY_BYTES_MAX: u64 = 1 << 30;

const MAGIC: [u8; 4] = *b"TWM1";
const HEADER_CRC_AT: usize = 28;
const CRC_BYTES: usize = 4;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    magic: [u8; 4],
    version: U32,
    body_bytes: U64,
    checkpoint: U64,
    reserved: U32,
    crc32: U32,
}

const _: () = assert!(size_of::<Header>() == HEADER_BYTES);
const _: () = assert!(std::mem::offset_of!(Header, crc32) == HEADER_CRC_AT);

/// The bytes of a manifest file.
///
/// Whether a reader would accept them is a question for [`super::validate`] and [`BODY_BYTES_MAX`].
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    let mut file = postcard::to_extend(manifest, vec![0; HEADER_BYTES])
        .expect("plain data with known lengths always serialises into a Vec");
    let body_bytes = file.len() - HEADER_BYTES;
    let mut header = Header {
        magic: MAGIC,
        version: U32::new(VERSION),
        body_bytes: U64::new(body_bytes as u64),
        checkpoint: U64::new(manifest.checkpoint.0),
        reserved: U32::ZERO,
        crc32: U32::ZERO,
    };
    header.crc32 = U32::new(crc32fast::hash(&header.as_bytes()[..HEADER_CRC_AT]));
    let body_crc32 = crc32fast::hash(&file[HEADER_BYTES..]);
    file[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    file.extend_from_slice(&body_crc32.to_le_bytes());
    file
}

/// Length of the whole file, told from its first [`HEADER_BYTES`] bytes; so a reader knows before it allocates
/// whether the file can be what it says.
///
/// # Errors
/// - [`StoreError::Corrupt`]: `header` is too short or not a sound header.
/// - [`StoreError::NewerFormat`]: a newer version wrote it.
pub fn file_bytes(path: &Path, header: &[u8]) -> Result<u64, StoreError> {
    let (header, _) = Header::ref_from_prefix(header).map_err(|_| {
        let at = header.len() as u64;
        StoreError::corrupt(
            path,
            at,
            format!("a header of {HEADER_BYTES} bytes"),
            format!("the end after {at} bytes"),
        )
    })?;
    if header.magic != MAGIC {
        return Err(StoreError::corrupt(
            path,
            0,
            "magic `TWM1`",
            format!("`{}`", header.magic.escape_ascii()),
        ));
    }
    let crc32 = crc32fast::hash(&header.as_bytes()[..HEADER_CRC_AT]);
    if header.crc32 != crc32 {
        let (expected, found) = (format!("header crc {crc32:08x}"), format!("{:08x}", header.crc32));
        return Err(StoreError::corrupt(path, HEADER_CRC_AT as u64, expected, found));
    }
    match header.version.get() {
        VERSION => {}
        0 => return Err(StoreError::corrupt(path, 4, format!("a version from 1 to {VERSION}"), "0")),
        found => return Err(StoreError::NewerFormat { path: path.to_owned(), found, newest: VERSION }),
    }
    let body_bytes = header.body_bytes.get();
    if body_bytes > BODY_BYTES_MAX {
        return Err(StoreError::corrupt(
            path,
            8,
            format!("a body of at most {BODY_BYTES_MAX} bytes"),
            format!("{body_bytes}"),
        ));
    }
    if header.reserved != U32::ZERO {
        return Err(StoreError::corrupt(
            path,
            24,
            "zero in the reserved field",
            format!("{:08x}", header.reserved),
        ));
    }
    Ok(HEADER_BYTES as u64 + body_bytes + CRC_BYTES as u64)
}

/// The manifest that `bytes`, the whole of a file, hold; `path` serves messages only.
///
/// Safe for bytes from anywhere: no checksum is left unchecked, memory stays below a small multiple (about 30) of
/// `bytes`' length, nesting is bounded, and the content satisfies [`super::validate`].
///
/// # Errors
/// - [`StoreError::Corrupt`]: not a manifest, a damaged one, or one that no engine would write.
/// - [`StoreError::NewerFormat`]: a newer version wrote it; upgrade to read it.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Manifest, StoreError> {
    let expected = file_bytes(path, bytes)?;
    let found = bytes.len() as u64;
    if expected != found {
        let at = expected.min(found);
        return Err(StoreError::corrupt(path, at, format!("{expected} bytes in all"), format!("{found}")));
    }
    let (body, stored) = bytes[HEADER_BYTES..].split_at(bytes.len() - HEADER_BYTES - CRC_BYTES);
    let crc32 = crc32fast::hash(body);
    if stored != crc32.to_le_bytes() {
        let (expected, found) = (format!("body crc {crc32:08x}"), format!("bytes {stored:02x?}"));
        return Err(StoreError::corrupt(path, (HEADER_BYTES + body.len()) as u64, expected, found));
    }
    let manifest = decode_body(path, body)?;
    let (header, _) = Header::ref_from_prefix(bytes).expect("file_bytes has seen a whole header");
    let named = CheckpointId(header.checkpoint.get());
    if manifest.checkpoint != named {
        let (expected, found) =
            (format!("checkpoint {named} as in the header"), format!("{}", manifest.checkpoint));
        return Err(StoreError::corrupt(path, HEADER_BYTES as u64, expected, found));
    }
    validate(&manifest).map_err(|v| StoreError::corrupt(path, HEADER_BYTES as u64, v.expected, v.found))?;
    Ok(manifest)
}

fn decode_body(path: &Path, body: &[u8]) -> Result<Manifest, StoreError> {
    let mut deserializer = postcard::Deserializer::from_bytes(body);
    let manifest = Manifest::deserialize(&mut deserializer);
    let rest = deserializer.finalize().map_or(0, <[u8]>::len);
    let at = (HEADER_BYTES + body.len() - rest) as u64;
    match manifest {
        Ok(manifest) if rest == 0 => Ok(manifest),
        Ok(_) => Err(StoreError::corrupt(path, at, "the end of the body", format!("{rest} more bytes"))),
        Err(error) => Err(StoreError::corrupt(path, at, "a manifest", error.to_string())),
    }
}

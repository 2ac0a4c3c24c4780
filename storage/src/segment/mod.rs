//! Segments: immutable files of keyed state, written once by one task for one checkpoint and then shared by all
//! checkpoints that build on them.
//!
//! A file is a header, blocks of rows, a directory of the blocks, and a trailer, one right behind the other. A reader
//! starts at the trailer, finds the directory, and decodes only the blocks of the key groups it wants.
//!
//! Always true:
//! - every byte lies under exactly one CRC-32 (IEEE), or is one; so a changed byte is found, by offset;
//! - a block holds rows of one state and one key group, and at most 4 MiB of them unless it is a single large row;
//! - for one state and key group, a *base* block replaces everything that older segments say; *delta* blocks add to it.
//!   Within a segment a group has blocks of one kind only; where a key comes several
//!   times in delta blocks, the last row counts.
//!
//! `rows` is the layout of rows within a block; `format` the layout of the structures around them; `migration` turns rows
//! of an older version of a state into rows of today's.

mod block;
mod builder;
mod format;
mod reader;
mod rows;
mod migration;
#[cfg(test)]
mod tests;

pub(crate) use block::{BlockDecoder, Expected};
pub(crate) use builder::BLOCK_BYTES_TARGET;
pub use builder::{BlockPlace, BlockSummary, SegmentBuilder};
pub use format::{BlockKind, ROW_BYTES_MAX, SEGMENT_VERSION};
pub use migration::Migration;
pub(crate) use reader::Run;
pub use reader::{BlockEntry, SegmentIndex, SegmentReader, Source};
pub use rows::Rows;

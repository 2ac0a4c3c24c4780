//! Files as input and output: text lines, NDJSON and CSV, plain or zstd-compressed.
//!
//! Read it in this order: `format` (a line becomes a record), `lines` (bytes become lines), `split` (files
//! become splits), `source` (splits become records); `encoder` and `csv` (a record becomes bytes), `layout` (names of output
//! files), `part` (bytes become one of them), `writer` and `sink` (they become visible exactly once).

mod csv;
mod encoder;
mod format;
mod input;
mod layout;
mod lines;
mod open_file;
mod part;
mod sink;
mod source;
mod split;
mod writer;

pub use encoder::{Csv, Encoder, Ndjson as NdjsonEncoder, Text};
pub use format::{Format, Lines, Ndjson, Parse};
pub use sink::{FileSink, FileSinkState};
pub use source::{FileReader, FileSource};
pub use split::FileSplit;
pub use writer::FileWriter;

#[cfg(test)]
mod tests;

//! The file source: lines of files, as records.
//!
//! Always true: each line of each file is read by exactly one split; a snapshot holds, for each unfinished split, the
//! offset behind the last line handed out.

use super::format::{Format, Lines, Ndjson, Parse};
use super::input::{Input, Supply};
use super::split::{FileSplit, find_splits};
use crate::clock::Nanos;
use crate::connector::{
    BoxError, ConnectorContext, MalformedRecord, Source, SourceOutput, SourceReader, SourceStatus,
};
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::path::PathBuf;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::{CheckpointId, Data};

/// Longest line by default.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Bytes of a malformed line that are handed on.
const MALFORMED_BYTES_MAX: usize = 64 * 1024;
/// Chunks parsed in one poll at most, so that long lines do not stretch it.
const CHUNKS_PER_POLL: usize = 4;
/// Files open at once: the one being read, and the next, whose first bytes are fetched ahead.
const INPUTS_OPEN: usize = 2;

/// A bounded, replayable source of the lines of files.
///
/// The path is a file, a directory (all its files, sorted by name, but those whose names begin with a dot) or a glob
/// pattern (`*`, `?`, `[…]`, `**`). Files that end in `.zst` or begin like a zstd frame are decompressed. Lines end with
/// `\n` or `\r\n`; the last needs no ending. Plain files above 1 MiB are cut, so that all subtasks share them; a
/// compressed file is read by one. Files must not change while the job reads them, nor before a restore.
///
/// Lines longer than [`FileSource::line_bytes_max`] and lines that do not parse are malformed input.
#[derive(Clone, Debug)]
pub struct FileSource<F> {
    path: PathBuf,
    format: F,
    line_bytes_max: usize,
}

impl FileSource<Lines> {
    /// Each line is a record of type `String`; it must be UTF-8.
    pub fn lines(path: impl Into<PathBuf>) -> FileSource<Lines> {
        FileSource::with_format(path, Lines)
    }

    /// Each line is a JSON value; blank lines are left out.
    pub fn ndjson<T: DeserializeOwned + Data>(path: impl Into<PathBuf>) -> FileSource<Ndjson<T>> {
        FileSource::with_format(path, Ndjson::new())
    }

    /// Each line, without its ending, is parsed by a function; its error describes malformed input.
    pub fn parse<T, P>(path: impl Into<PathBuf>, parse: P) -> FileSource<Parse<P>>
    where
        T: Data,
        P: Fn(&[u8]) -> Result<T, String> + Clone + Send + 'static,
    {
        FileSource::with_format(path, Parse(parse))
    }
}

impl<F: Format> FileSource<F> {
    /// Lines in a format of your own.
    pub fn with_format(path: impl Into<PathBuf>, format: F) -> Self {
        FileSource { path: path.into(), format, line_bytes_max: LINE_BYTES_MAX }
    }

    /// Longer lines are malformed. 1 MiB by default.
    pub fn line_bytes_max(mut self, bytes: usize) -> Self {
        self.line_bytes_max = bytes.max(1);
        self
    }
}

impl<F: Format> Source for FileSource<F> {
    type Record = F::Record;
    type Split = FileSplit;
    type Reader = FileReader<F>;

    fn splits(&self, disk: &DiskHandle, parallelism: u32) -> Result<Vec<FileSplit>, BoxError> {
        find_splits(disk, &self.path, parallelism)
    }

    fn reader(&self, context: ConnectorContext, splits: Vec<FileSplit>) -> Result<FileReader<F>, BoxError> {
        let bytes_total = splits.iter().map(|split| split.end - split.start).sum();
        Ok(FileReader {
            disk: context.disk,
            format: self.format.clone(),
            line_bytes_max: self.line_bytes_max,
            inputs: VecDeque::new(),
            waiting: splits.into(),
            bytes_done: 0,
            bytes_total,
        })
    }
}

/// Reads splits of a [`FileSource`], one after another.
pub struct FileReader<F> {
    disk: DiskHandle,
    format: F,
    line_bytes_max: usize,
    /// The split being read, and those opened ahead.
    inputs: VecDeque<Input>,
    waiting: VecDeque<FileSplit>,
    bytes_done: u64,
    bytes_total: u64,
}

/// Why a loop over lines stopped.
enum Stop {
    NoRoom,
    NoLines,
}

impl<F: Format> FileReader<F> {
    fn open_ahead(&mut self) -> Result<(), BoxError> {
        while self.inputs.len() < INPUTS_OPEN {
            let Some(split) = self.waiting.pop_front() else { break };
            self.inputs.push_back(Input::open(&self.disk, split, self.line_bytes_max)?);
        }
        for input in &mut self.inputs {
            input.read_ahead()?;
        }
        Ok(())
    }

    /// Hands out lines of the current chunk.
    #[inline]
    fn emit_lines<O: SourceOutput<F::Record>>(&mut self, left: &mut usize, output: &mut O) -> Stop {
        let Some(input) = self.inputs.front_mut() else { return Stop::NoLines };
        while *left > 0 {
            let Some(line) = input.next_line() else { return Stop::NoLines };
            *left -= 1;
            if !line.overlong
                && let Ok(parsed) = self.format.parse(line.bytes)
            {
                if let Some(record) = parsed
                    && !output.emit(record)
                {
                    return Stop::NoRoom;
                }
                continue;
            }
            let record = malformed(&self.format, &line, self.line_bytes_max);
            if !output.malformed(MalformedRecord { origin: input.split.path.clone(), ..record }) {
                return Stop::NoRoom;
            }
        }
        Stop::NoRoom
    }

    /// Hands out a last line without an ending, and leaves the split.
    fn end_input<O: SourceOutput<F::Record>>(&mut self, output: &mut O) -> bool {
        let Some(mut input) = self.inputs.pop_front() else { return true };
        self.bytes_done += input.split.end - input.split.start;
        let path = input.split.path.clone();
        let Some(line) = input.last_line() else { return true };
        match self.format.parse(line.bytes) {
            Ok(parsed) if !line.overlong => parsed.is_none_or(|record| output.emit(record)),
            _ => {
                let record = malformed(&self.format, &line, self.line_bytes_max);
                output.malformed(MalformedRecord { origin: path, ..record })
            }
        }
    }
}

/// The malformed record that `line` is, without its origin.
#[cold]
fn malformed<F: Format>(format: &F, line: &super::lines::Line<'_>, line_bytes_max: usize) -> MalformedRecord {
    let error = match format.parse(line.bytes) {
        Err(error) if !line.overlong => error,
        _ => format!(
            "the line of {} bytes is longer than {line_bytes_max} bytes: raise the source's line_bytes_max if that is meant",
            line.end - line.offset
        ),
    };
    let raw = line.bytes[..line.bytes.len().min(MALFORMED_BYTES_MAX)].to_vec();
    MalformedRecord { origin: String::new(), offset: line.offset, raw, error }
}

impl<F: Format> SourceReader for FileReader<F> {
    type Record = F::Record;
    type Split = FileSplit;

    fn poll<O: SourceOutput<F::Record>>(
        &mut self,
        _now: Nanos,
        budget: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        let mut left = budget.max(1);
        for _ in 0..CHUNKS_PER_POLL {
            if self.inputs.is_empty() {
                self.open_ahead()?;
            }
            if let Stop::NoRoom = self.emit_lines(&mut left, output) {
                return Ok(SourceStatus::More);
            }
            let Some(input) = self.inputs.front_mut() else { return Ok(SourceStatus::End) };
            match input.supply()? {
                Supply::Chunk => self.open_ahead()?,
                Supply::Waiting => return Ok(SourceStatus::Idle(None)),
                Supply::End => {
                    let room = self.end_input(output);
                    self.open_ahead()?;
                    if !room {
                        break;
                    }
                }
            }
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self, _checkpoint: CheckpointId) -> Vec<FileSplit> {
        self.inputs.iter().map(|input| input.split.clone()).chain(self.waiting.iter().cloned()).collect()
    }

    fn read_progress(&self) -> Option<(u64, u64)> {
        Some((self.bytes_done + self.inputs.iter().map(Input::bytes_done).sum::<u64>(), self.bytes_total))
    }
}

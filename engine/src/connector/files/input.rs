//! One input file being read: reads ahead of the parser, decompresses, and knows the position behind the last line.
//!
//! Always true: nothing here blocks; a few reads are under way while their predecessors are parsed.

use super::lines::{Line, LineCutter};
use super::open_file::{Flow, OpenFile, answer, poll_flow};
use super::split::FileSplit;
use crate::connector::BoxError;
use std::collections::VecDeque;
use std::io;
use std::task::Poll;
use thalweg_storage::io::{DiskHandle, OpenMode, Ticket};
use zstd::stream::raw::{DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// Bytes of one read.
const READ_BYTES: u64 = 512 * 1024;
/// Bytes of one read behind the end of the range, where only the rest of one line is wanted.
const TAIL_READ_BYTES: u64 = 64 * 1024;
/// Reads under way.
const READS: usize = 3;
/// Uncompressed bytes of one step of decompression.
const DECODED_BYTES: usize = 128 * 1024;
/// zstd frames that want a larger window (2 to this power) are refused.
const WINDOW_LOG_MAX: u32 = 27;

/// A [`FileSplit`] being read.
pub(super) struct Input {
    pub split: FileSplit,
    disk: DiskHandle,
    opening: Option<Flow<OpenFile>>,
    file: Option<OpenFile>,
    reads: VecDeque<(usize, Ticket<Vec<u8>>)>,
    /// File offset of the next read.
    next_read: u64,
    lines: LineCutter,
    decoder: Option<ZstdDecoder>,
    /// True until the line that belongs to the split before has been passed over.
    skips_line: bool,
    ended: bool,
}

/// What there is to read now.
pub(super) enum Supply {
    /// A chunk was fed: there may be lines.
    Chunk,
    /// A read is under way.
    Waiting,
    /// The input has ended; [`Input::last_line`] may have one more.
    End,
}

impl Input {
    pub fn open(disk: &DiskHandle, split: FileSplit, line_bytes_max: usize) -> Result<Self, BoxError> {
        // A line that starts at `start` is this split's own: only the byte before tells whether one does.
        let skips_line = !split.zstd && split.position == split.start && split.start > 0;
        let first = split.position - u64::from(skips_line);
        let decoder = split.zstd.then(|| ZstdDecoder::new(split.position)).transpose()?;
        let next_read = if split.zstd { 0 } else { first };
        let opening = open_checked(disk.clone(), split.path.clone(), split.file_bytes);
        Ok(Input {
            lines: LineCutter::new(first, line_bytes_max),
            split,
            disk: disk.clone(),
            opening: Some(opening),
            file: None,
            reads: VecDeque::new(),
            next_read,
            decoder,
            skips_line,
            ended: false,
        })
    }

    /// Opens the file and keeps reads under way; true once it is open.
    pub fn read_ahead(&mut self) -> Result<bool, BoxError> {
        if let Some(opening) = &mut self.opening {
            let Poll::Ready(file) = poll_flow(opening) else { return Ok(false) };
            self.opening = None;
            self.file = Some(file?);
        }
        let Some(file) = &self.file else { return Ok(false) };
        while self.next_read < self.split.file_bytes && self.reads.len() < READS {
            let bytes = match self.split.end.saturating_sub(self.next_read) {
                // Behind the range one read at a time will do.
                0 if !self.reads.is_empty() => break,
                0 => TAIL_READ_BYTES,
                rest => rest.min(READ_BYTES),
            };
            let bytes = bytes.min(self.split.file_bytes - self.next_read) as usize;
            self.reads.push_back((bytes, self.disk.read(file.id, self.next_read, bytes)));
            self.next_read += bytes as u64;
        }
        Ok(true)
    }

    /// The next line that belongs to this split.
    #[inline]
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        if self.skips_line {
            let Some(skipped) = self.lines.next() else {
                // Where no line starts in the whole range there is nothing to read behind it.
                self.ended = !self.split.zstd && self.lines.read_to() >= self.split.end;
                return None;
            };
            self.split.position = skipped.end;
            self.skips_line = false;
        }
        if self.split.position >= self.split.end && !self.split.zstd {
            self.ended = true;
            return None;
        }
        let line = self.lines.next()?;
        self.split.position = line.end;
        Some(line)
    }

    /// The last line of the file, where it has no line ending.
    pub fn last_line(&mut self) -> Option<Line<'_>> {
        if self.skips_line {
            // The last line of the file starts in an earlier split.
            return None;
        }
        let line = self.lines.finish()?;
        self.split.position = line.end;
        Some(line)
    }

    /// Feeds the next chunk, after [`Input::next_line`] has returned `None`.
    pub fn supply(&mut self) -> Result<Supply, BoxError> {
        if self.ended {
            return Ok(Supply::End);
        }
        if let Some(decoder) = &mut self.decoder {
            match decoder.decode(&mut self.lines).map_err(|error| self.split.damaged(error))? {
                Decoded::Chunk => return Ok(Supply::Chunk),
                Decoded::NeedsInput => {}
            }
        }
        if !self.read_ahead()? {
            return Ok(Supply::Waiting);
        }
        let Some((wanted, ticket)) = self.reads.front_mut() else {
            if self.decoder.as_ref().is_some_and(|decoder| !decoder.at_frame_end) {
                return Err(self.split.damaged(io::Error::other("the file ends within a zstd frame")));
            }
            // The last line may straddle nothing but the end of the file.
            self.ended = true;
            return Ok(Supply::End);
        };
        let wanted = *wanted;
        let Some(bytes) = ticket.poll() else { return Ok(Supply::Waiting) };
        self.reads.pop_front();
        let bytes =
            bytes.map_err(|error| format!("reading input file {} failed: {error}", self.split.path))?;
        if bytes.len() < wanted {
            return Err(changed(&self.split.path, self.split.file_bytes, "is now shorter"));
        }
        // The next read starts before this chunk is parsed.
        self.read_ahead()?;
        match &mut self.decoder {
            Some(decoder) => decoder.feed(bytes),
            None => drop(self.lines.feed(bytes)),
        }
        Ok(Supply::Chunk)
    }

    /// Bytes of the file's range that have been consumed.
    pub fn bytes_done(&self) -> u64 {
        if self.split.zstd {
            return self.next_read - self.reads.iter().map(|(bytes, _)| *bytes as u64).sum::<u64>();
        }
        self.split.position.clamp(self.split.start, self.split.end) - self.split.start
    }
}

impl FileSplit {
    fn damaged(&self, error: io::Error) -> BoxError {
        format!(
            "input file {} cannot be decompressed behind byte {} of its content: {error}: replace the file",
            self.path, self.position
        )
        .into()
    }
}

fn changed(path: &str, file_bytes: u64, how: &str) -> BoxError {
    format!(
        "input file {path} had {file_bytes} bytes when the job started and {how}: input must not change while a job \
         reads it; put the original back, or start the job anew"
    )
    .into()
}

fn open_checked(disk: DiskHandle, path: String, file_bytes: u64) -> Flow<OpenFile> {
    Box::pin(async move {
        let failed = |error: io::Error| -> BoxError {
            format!("opening input file {path} failed: {error}: put it back, or start the job anew").into()
        };
        let file = OpenFile::new(&disk, answer(disk.open(&path, OpenMode::Read)).await.map_err(failed)?);
        let bytes = answer(disk.length(file.id)).await.map_err(failed)?;
        if bytes != file_bytes {
            return Err(changed(&path, file_bytes, &format!("now has {bytes}")));
        }
        Ok(file)
    })
}

enum Decoded {
    /// A chunk was fed to the line cutter, perhaps an empty one.
    Chunk,
    NeedsInput,
}

/// Decompresses in bounded steps.
struct ZstdDecoder {
    decoder: Decoder<'static>,
    input: Vec<u8>,
    at: usize,
    /// Uncompressed bytes still to pass over, after a restore.
    skip: u64,
    spare: Vec<u8>,
    at_frame_end: bool,
    /// The last step filled its output: there may be more without any further input.
    output_was_full: bool,
}

impl ZstdDecoder {
    fn new(skip: u64) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        let (input, spare) = (Vec::new(), Vec::new());
        Ok(ZstdDecoder { decoder, input, at: 0, skip, spare, at_frame_end: true, output_was_full: false })
    }

    fn feed(&mut self, input: Vec<u8>) {
        self.input = input;
        self.at = 0;
    }

    fn decode(&mut self, lines: &mut LineCutter) -> io::Result<Decoded> {
        if self.at == self.input.len() && !self.output_was_full {
            return Ok(Decoded::NeedsInput);
        }
        let mut decoded = std::mem::take(&mut self.spare);
        decoded.resize(DECODED_BYTES, 0);
        let mut output = OutBuffer::around(decoded.as_mut_slice());
        let mut input = InBuffer::around(&self.input[self.at..]);
        let hint = self.decoder.run(&mut input, &mut output)?;
        self.at += input.pos();
        self.at_frame_end = hint == 0;
        let written = output.pos();
        self.output_was_full = written == DECODED_BYTES && hint != 0;
        decoded.truncate(written);
        let skipped = self.skip.min(written as u64);
        if skipped > 0 {
            self.skip -= skipped;
            decoded.drain(..skipped as usize);
        }
        self.spare = lines.feed(decoded);
        Ok(Decoded::Chunk)
    }
}

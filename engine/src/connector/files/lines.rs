//! Cuts a stream of chunks into lines.
//!
//! Always true: a line that lies within one chunk is handed out in place; only a line that straddles chunks is copied.
//! Memory is bounded by the chunk and the longest allowed line, whatever the input.

/// Bytes of an overlong line that are kept to show.
const OVERLONG_BYTES_SHOWN: usize = 1_024;

/// One line, without its ending.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// Offset of its first byte.
    pub offset: u64,
    /// Offset behind its line ending.
    pub end: u64,
    /// The line; the start of it where it is overlong.
    pub bytes: &'a [u8],
    /// True for a line longer than allowed.
    pub overlong: bool,
}

/// Cuts lines at `\n` and takes a `\r` before it away.
pub(super) struct LineCutter {
    chunk: Vec<u8>,
    at: usize,
    /// Start of the line that straddles chunks; cleared once the line was handed out.
    carry: Vec<u8>,
    carry_is_out: bool,
    /// Bytes of the straddling line before the chunk, which may be more than `carry` keeps.
    carried: u64,
    /// Offset of the first byte of the current line.
    line_start: u64,
    line_bytes_max: usize,
}

impl LineCutter {
    /// Lines of a stream whose first byte is at `offset`, of at most `line_bytes_max` bytes.
    pub fn new(offset: u64, line_bytes_max: usize) -> Self {
        LineCutter {
            chunk: Vec::new(),
            at: 0,
            carry: Vec::new(),
            carry_is_out: false,
            carried: 0,
            line_start: offset,
            line_bytes_max,
        }
    }

    /// Offset behind the last chunk, once [`LineCutter::next`] has returned `None`.
    pub fn read_to(&self) -> u64 {
        self.line_start + self.carried
    }

    /// The next whole line, or `None` when the chunk is used up: then [`LineCutter::feed`] another.
    #[inline]
    pub fn next(&mut self) -> Option<Line<'_>> {
        if self.carry_is_out {
            self.carry.clear();
            self.carry_is_out = false;
        }
        let rest = &self.chunk[self.at..];
        let Some(length) = memchr::memchr(b'\n', rest) else {
            self.keep_rest();
            return None;
        };
        let from = self.at;
        self.at += length + 1;
        let offset = self.line_start;
        let bytes = self.carried + length as u64;
        self.line_start = offset + bytes + 1;
        let end = self.line_start;
        if self.carried == 0 && length <= self.line_bytes_max {
            return Some(Line {
                offset,
                end,
                bytes: trim(&self.chunk[from..from + length]),
                overlong: false,
            });
        }
        self.keep(from, length);
        Some(self.hand_out(offset, end, bytes))
    }

    /// The last line, if the stream does not end with a line ending. Call it at the end of the stream, after
    /// [`LineCutter::next`] has returned `None`.
    pub fn finish(&mut self) -> Option<Line<'_>> {
        if self.carried == 0 {
            return None;
        }
        let (offset, bytes) = (self.line_start, self.carried);
        self.line_start += bytes;
        let end = self.line_start;
        Some(self.hand_out(offset, end, bytes))
    }

    /// Gives the next chunk, and takes the used one back for reuse.
    pub fn feed(&mut self, chunk: Vec<u8>) -> Vec<u8> {
        debug_assert_eq!(self.at, self.chunk.len(), "the last chunk must be used up");
        self.at = 0;
        std::mem::replace(&mut self.chunk, chunk)
    }

    fn hand_out(&mut self, offset: u64, end: u64, bytes: u64) -> Line<'_> {
        self.carry_is_out = true;
        self.carried = 0;
        // A line of exactly the allowed length may end in \r\n.
        let ends_in_cr = u64::from(self.carry.len() as u64 == bytes && self.carry.last() == Some(&b'\r'));
        if bytes - ends_in_cr > self.line_bytes_max as u64 {
            let shown = self.carry.len().min(OVERLONG_BYTES_SHOWN);
            return Line { offset, end, bytes: &self.carry[..shown], overlong: true };
        }
        Line { offset, end, bytes: trim(&self.carry), overlong: false }
    }

    fn keep_rest(&mut self) {
        let (from, length) = (self.at, self.chunk.len() - self.at);
        self.keep(from, length);
        self.at = self.chunk.len();
    }

    fn keep(&mut self, from: usize, length: usize) {
        self.carried += length as u64;
        let room = (self.line_bytes_max + 1).saturating_sub(self.carry.len());
        self.carry.extend_from_slice(&self.chunk[from..from + length.min(room)]);
    }
}

#[inline]
fn trim(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

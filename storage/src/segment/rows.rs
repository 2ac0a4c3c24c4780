//! Rows of one state and key group, in memory and as the content of a block.
//!
//! Content of a block of n rows:
//!
//! | part       | bytes                                 | meaning                                                  |
//! |------------|---------------------------------------|----------------------------------------------------------|
//! | tombstones | n / 8, rounded up; delta blocks only  | bit i (of byte i / 8, lowest first): row i was deleted   |
//! | keys       | a column                              | the encoded keys                                         |
//! | values     | a column                              | the encoded values; of a tombstone zeros, or no bytes    |
//!
//! A column of fixed length w, at most 32, holds n × w bytes in planes: the first bytes of all, then the second bytes of all,
//! and so on. High bytes of counters are mostly equal, so this compresses better and faster than whole values side by side.
//! Longer entries are rather text or mixtures, for which planes cost time and gain little: they lie one behind the other.
//! A column of varying length holds n lengths as a column of width 4, then the encodings one behind the other.
//!
//! Always true: columns have an entry for every row, and the bitmap as many bits as there are rows, rounded up.

use super::format::{BlockKind, Mismatch, ROW_BYTES_MAX, VARIES};
use std::ops::Range;

/// Longest entries, in bytes, that are stored in planes.
const PLANES_MAX: usize = 32;

/// One column of rows.
#[derive(Clone, Debug)]
struct Column {
    /// Length of each entry, or none where it varies.
    width: Option<usize>,
    bytes: Vec<u8>,
    /// Where each entry ends in `bytes`; only where the length varies.
    ends: Vec<usize>,
}

impl Column {
    fn new(width: Option<usize>) -> Self {
        Column { width, bytes: Vec::new(), ends: Vec::new() }
    }

    fn start(&self, row: usize) -> usize {
        match self.width {
            Some(width) => row * width,
            None => row.checked_sub(1).map_or(0, |previous| self.ends[previous]),
        }
    }

    fn get(&self, row: usize) -> &[u8] {
        &self.bytes[self.start(row)..self.start(row + 1)]
    }

    /// Appends what `write_fixed` or `append` writes.
    #[inline]
    fn push(&mut self, write_fixed: impl FnOnce(&mut [u8]), append: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        match self.width {
            Some(width) => {
                self.bytes.resize(start + width, 0);
                write_fixed(&mut self.bytes[start..]);
            }
            None => {
                append(&mut self.bytes);
                let bytes = self.bytes.len() - start;
                assert!(
                    bytes <= ROW_BYTES_MAX,
                    "a key or value of {bytes} bytes exceeds the {ROW_BYTES_MAX} that state can hold"
                );
                self.ends.push(self.bytes.len());
            }
        }
    }

    /// Appends zeros, and returns them.
    fn lengthen(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.bytes.len();
        self.bytes.resize(start + bytes, 0);
        &mut self.bytes[start..]
    }

    fn raw_bytes(&self, rows: Range<usize>) -> usize {
        let lengths = if self.width.is_none() { 4 * rows.len() } else { 0 };
        self.start(rows.end) - self.start(rows.start) + lengths
    }

    fn encode(&self, rows: Range<usize>, out: &mut Vec<u8>) {
        let bytes = &self.bytes[self.start(rows.start)..self.start(rows.end)];
        match self.width {
            Some(width) => split_planes(bytes, width, out),
            None => {
                let lengths: Vec<u8> = rows
                    .flat_map(|row| ((self.start(row + 1) - self.start(row)) as u32).to_le_bytes())
                    .collect();
                split_planes(&lengths, 4, out);
                out.extend_from_slice(bytes);
            }
        }
    }

    fn decode(width: u32, rows: usize, input: &mut &[u8]) -> Option<Column> {
        let mut take = |bytes: usize| {
            let (front, rest) = input.split_at_checked(bytes)?;
            *input = rest;
            Some(front)
        };
        if width != VARIES {
            let width = width as usize;
            let bytes = join_planes(take(rows.checked_mul(width)?)?, width);
            return Some(Column { width: Some(width), bytes, ends: Vec::new() });
        }
        let lengths = join_planes(take(rows.checked_mul(4)?)?, 4);
        let mut end = 0usize;
        let mut ends = Vec::with_capacity(rows);
        for length in lengths.as_chunks::<4>().0 {
            end = end.checked_add(u32::from_le_bytes(*length) as usize)?;
            ends.push(end);
        }
        Some(Column { width: None, bytes: take(end)?.to_vec(), ends })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Appends `bytes`, entries of `width` bytes, to `out` in planes, or as they are where entries are long.
fn split_planes(bytes: &[u8], width: usize, out: &mut Vec<u8>) {
    if width <= 1 || width > PLANES_MAX {
        return out.extend_from_slice(bytes);
    }
    let rows = bytes.len() / width;
    let start = out.len();
    out.resize(start + bytes.len(), 0);
    let planes = &mut out[start..];
    if width == 8 {
        split_words(bytes, planes);
    } else if width.is_multiple_of(8) {
        // Whole words at a time: the compiler vectorises the shift and the narrowing.
        let words = bytes.as_chunks::<8>().0;
        let per_row = width / 8;
        for (p, plane) in planes.chunks_exact_mut(rows.max(1)).enumerate() {
            let (word, shift) = (p / 8, 8 * (p % 8));
            for (byte, word) in plane.iter_mut().zip(words.iter().skip(word).step_by(per_row)) {
                *byte = (u64::from_le_bytes(*word) >> shift) as u8;
            }
        }
    } else {
        for (p, plane) in planes.chunks_exact_mut(rows.max(1)).enumerate() {
            for (byte, entry) in plane.iter_mut().zip(bytes.chunks_exact(width)) {
                *byte = entry[p];
            }
        }
    }
}

/// [`split_planes`] of words: eight at a time, as a matrix of bytes that is transposed.
fn split_words(bytes: &[u8], planes: &mut [u8]) {
    let words = bytes.as_chunks::<8>().0;
    let (squares, rest) = words.as_chunks::<8>();
    for (s, square) in squares.iter().enumerate() {
        let transposed = transpose(square.map(u64::from_le_bytes));
        for (plane, word) in planes.chunks_exact_mut(words.len()).zip(transposed) {
            plane[8 * s..8 * s + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
    for (p, plane) in planes.chunks_exact_mut(words.len().max(1)).enumerate() {
        for (byte, word) in plane[8 * squares.len()..].iter_mut().zip(rest) {
            *byte = word[p];
        }
    }
}

/// Transposes a matrix of eight by eight bytes: byte i of word j becomes byte j of word i. Swaps halves, then quarters, then
/// single bytes across the diagonal (Warren, "Hacker's Delight", section 7-3).
#[inline(always)]
fn transpose(mut words: [u64; 8]) -> [u64; 8] {
    for (distance, mask) in
        [(4, 0x0000_0000_FFFF_FFFF), (2, 0x0000_FFFF_0000_FFFF), (1, 0x00FF_00FF_00FF_00FF)]
    {
        for i in (0..8).filter(|i| i & distance == 0) {
            let differing = (words[i] >> (8 * distance) ^ words[i + distance]) & mask;
            words[i] ^= differing << (8 * distance);
            words[i + distance] ^= differing;
        }
    }
    words
}

/// Undoes [`split_planes`].
fn join_planes(planes: &[u8], width: usize) -> Vec<u8> {
    if width <= 1 || width > PLANES_MAX {
        return planes.to_vec();
    }
    let rows = planes.len() / width;
    let mut bytes = vec![0; planes.len()];
    if width == 8 {
        join_words(planes, &mut bytes);
        return bytes;
    }
    for (p, plane) in planes.chunks_exact(rows.max(1)).enumerate() {
        for (byte, entry) in plane.iter().zip(bytes.chunks_exact_mut(width)) {
            entry[p] = *byte;
        }
    }
    bytes
}

/// Undoes [`split_words`], eight words at a time.
fn join_words(planes: &[u8], bytes: &mut [u8]) {
    let rows = planes.len() / 8;
    let (squares, rest) = bytes.as_chunks_mut::<8>().0.as_chunks_mut::<8>();
    let done = 8 * squares.len();
    for (s, square) in squares.iter_mut().enumerate() {
        let word = |p: usize| {
            let at = p * rows + 8 * s;
            u64::from_le_bytes(planes[at..at + 8].try_into().expect("eight bytes"))
        };
        *square = transpose(std::array::from_fn(word)).map(u64::to_le_bytes);
    }
    for (row, word) in (done..).zip(rest) {
        *word = std::array::from_fn(|p| planes[p * rows + row]);
    }
}

/// Rows of one state and one key group: encoded keys, each with an encoded value or a tombstone.
#[derive(Clone, Debug)]
pub struct Rows {
    count: usize,
    tombstones: Vec<u8>,
    keys: Column,
    values: Column,
}

impl Rows {
    /// No rows, of keys and values of fixed length where one is given.
    pub fn new(key_bytes: Option<usize>, value_bytes: Option<usize>) -> Self {
        Rows {
            count: 0,
            tombstones: Vec::new(),
            keys: Column::new(key_bytes),
            values: Column::new(value_bytes),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all rows as the content of one block.
    pub fn raw_bytes(&self) -> usize {
        self.range_bytes(0..self.count)
    }

    /// Appends a row; without a value it is a tombstone.
    ///
    /// # Panics
    /// When the encoded key or value exceeds [`ROW_BYTES_MAX`].
    #[inline]
    pub fn push<K: crate::Data, V: crate::Data>(&mut self, key: &K, value: Option<&V>) {
        if self.count.is_multiple_of(8) {
            self.tombstones.push(0);
        }
        self.keys.push(|out| key.encode_fixed(out), |out| key.encode(out));
        match value {
            Some(value) => self.values.push(|out| value.encode_fixed(out), |out| value.encode(out)),
            None => {
                self.tombstones[self.count / 8] |= 1 << (self.count % 8);
                self.values.push(|_| {}, |_| {});
            }
        }
        self.count += 1;
    }

    /// Appends a row of an encoded key and an encoded value, whose lengths are those of the columns where these have one; without a
    /// value it is a tombstone.
    ///
    /// # Panics
    /// As [`Rows::push`], and when a length is not the column's.
    #[inline]
    pub(crate) fn push_encoded(&mut self, key: &[u8], value: Option<&[u8]>) {
        if self.count.is_multiple_of(8) {
            self.tombstones.push(0);
        }
        self.keys.push(|out| out.copy_from_slice(key), |out| out.extend_from_slice(key));
        match value {
            Some(value) => {
                self.values.push(|out| out.copy_from_slice(value), |out| out.extend_from_slice(value))
            }
            None => {
                self.tombstones[self.count / 8] |= 1 << (self.count % 8);
                self.values.push(|_| {}, |_| {});
            }
        }
        self.count += 1;
    }

    /// Appends many rows, as [`Rows::push`] does one; several times as fast where keys and values have a fixed length.
    ///
    /// # Panics
    /// As [`Rows::push`].
    #[inline]
    pub(crate) fn extend<'a, K: crate::Data, V: crate::Data>(
        &mut self,
        rows: impl ExactSizeIterator<Item = (&'a K, Option<&'a V>)> + Clone,
    ) {
        let (Some(key_bytes), Some(value_bytes)) = (K::FIXED_BYTES, V::FIXED_BYTES) else {
            return rows.for_each(|(key, value)| self.push(key, value));
        };
        debug_assert!(self.keys.width == Some(key_bytes) && self.values.width == Some(value_bytes));
        let (first, added) = (self.count, rows.len());
        self.count += added;
        self.tombstones.resize(self.count.div_ceil(8), 0);
        for (row, (_, value)) in (first..).zip(rows.clone()) {
            self.tombstones[row / 8] |= u8::from(value.is_none()) << (row % 8);
        }
        let keys = self.keys.lengthen(added * key_bytes);
        for (out, (key, _)) in keys.chunks_exact_mut(key_bytes.max(1)).zip(rows.clone()) {
            key.encode_fixed(out);
        }
        let values = self.values.lengthen(added * value_bytes);
        for (out, (_, value)) in values.chunks_exact_mut(value_bytes.max(1)).zip(rows) {
            if let Some(value) = value {
                value.encode_fixed(out);
            }
        }
    }

    /// The encoded key of row `row`, and its encoded value unless it is a tombstone.
    pub fn get(&self, row: usize) -> (&[u8], Option<&[u8]>) {
        let deleted = self.tombstones[row / 8] >> (row % 8) & 1 != 0;
        (self.keys.get(row), (!deleted).then(|| self.values.get(row)))
    }

    /// The encoded keys and the encoded values, each back to back, where both have a fixed length; values of tombstones mean
    /// nothing.
    pub(crate) fn plain(&self) -> Option<(&[u8], &[u8])> {
        (self.keys.width.is_some() && self.values.width.is_some())
            .then_some((&self.keys.bytes, &self.values.bytes))
    }

    /// Removes all rows and keeps a modest amount of memory for the next.
    pub(crate) fn clear(&mut self) {
        if self.keys.bytes.capacity() + self.values.bytes.capacity() > 256 << 10 {
            *self = Rows::new(self.keys.width, self.values.width);
        }
        self.count = 0;
        self.tombstones.clear();
        self.keys.clear();
        self.values.clear();
    }

    pub(super) fn key_bytes(&self) -> u32 {
        self.keys.width.map_or(VARIES, |width| width as u32)
    }

    pub(super) fn value_bytes(&self) -> u32 {
        self.values.width.map_or(VARIES, |width| width as u32)
    }

    /// Bytes of the rows of `range` as a block.
    pub(super) fn range_bytes(&self, range: Range<usize>) -> usize {
        range.len().div_ceil(8) + self.keys.raw_bytes(range.clone()) + self.values.raw_bytes(range)
    }

    /// Appends the content of a block of the rows of `range` to `out`.
    pub(super) fn encode(&self, kind: BlockKind, range: Range<usize>, out: &mut Vec<u8>) {
        if kind == BlockKind::Delta {
            let start = out.len();
            out.resize(start + range.len().div_ceil(8), 0);
            for (i, row) in range.clone().enumerate() {
                out[start + i / 8] |= (self.tombstones[row / 8] >> (row % 8) & 1) << (i % 8);
            }
        }
        self.keys.encode(range.clone(), out);
        self.values.encode(range, out);
    }

    /// The rows in the content of a block.
    pub(super) fn decode(
        kind: BlockKind,
        count: usize,
        key_bytes: u32,
        value_bytes: u32,
        content: &[u8],
    ) -> Result<Rows, Mismatch> {
        let mut rest = content;
        let rows = (|| {
            let tombstones = match kind {
                BlockKind::Base => vec![0; count.div_ceil(8)],
                BlockKind::Delta => {
                    let (front, behind) = rest.split_at_checked(count.div_ceil(8))?;
                    rest = behind;
                    front.to_vec()
                }
            };
            let keys = Column::decode(key_bytes, count, &mut rest)?;
            let values = Column::decode(value_bytes, count, &mut rest)?;
            rest.is_empty().then_some(Rows { count, tombstones, keys, values })
        })();
        rows.ok_or_else(|| Mismatch {
            expected: format!("{count} rows that fill the block"),
            found: format!("{} bytes that do not", content.len()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn prop_planes_hold_the_bytes_of_each_place_in_turn_and_join_again(
            width in 1_usize..20, rows in 0_usize..40, seed: u64,
        ) {
            let byte = |i: usize| (seed.rotate_left(i as u32) ^ (i as u64 * 31)) as u8;
            let bytes: Vec<u8> = (0..width * rows).map(byte).collect();
            let mut planes = Vec::new();
            split_planes(&bytes, width, &mut planes);
            let expected: Vec<u8> =
                (0..width).flat_map(|p| (0..rows).map(move |row| (p, row))).map(|(p, row)| bytes[row * width + p]).collect();
            prop_assert_eq!(&planes, &expected);
            prop_assert_eq!(join_planes(&planes, width), bytes);
        }

        #[test]
        fn prop_rows_added_together_are_as_if_pushed_one_by_one(
            parts in prop::collection::vec(prop::collection::vec(any::<(u64, Option<u64>)>(), 0..20), 0..5),
        ) {
            let mut pushed = Rows::new(Some(8), Some(8));
            let mut extended = pushed.clone();
            for part in &parts {
                part.iter().for_each(|(key, value)| pushed.push(key, value.as_ref()));
                extended.extend(part.iter().map(|(key, value)| (key, value.as_ref())));
            }
            prop_assert_eq!(extended.len(), pushed.len());
            for row in 0..pushed.len() {
                prop_assert_eq!(extended.get(row), pushed.get(row));
            }
            prop_assert_eq!(&extended.tombstones, &pushed.tombstones);
        }
    }
}

//! Records: a number, its split and its source, under a header that shows damage.

/// Upper half of every record of source 0; other sources add their tag.
const HEADER: u64 = 0xABCD_EAFC;

/// A source's number.
pub type Tag = u64;

/// The record for `value` of source `tag`.
pub fn encode(tag: Tag, value: u64) -> u64 {
    ((HEADER ^ tag) << 32) ^ value
}

/// Source and value of a record; `None` for one that no source can have made.
pub fn decode(record: u64) -> Option<(Tag, u64)> {
    let (tag, value) = ((record >> 32) ^ HEADER, record & u64::from(u32::MAX));
    (tag < 3).then_some((tag, value))
}

/// Where `split` goes at the exchange `salt`: the same place for all of its values, another at each exchange.
pub fn route(split: u64, salt: u64, partitions: usize) -> usize {
    let mixed = (split + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left((salt * 13) as u32);
    ((mixed >> 20) % partitions as u64) as usize
}

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
    (tag < 4).then_some((tag, value))
}

/// The same value under another tag; damage stays.
pub fn retag(record: u64, tag: Tag) -> u64 {
    decode(record).map_or(record, |(_, value)| encode(tag, value))
}

/// Where `split` goes at the exchange `salt`: the same place for all of its values, every place for some split, and
/// the splits of one source's subtask to different places.
pub fn route(split: u64, salt: u64, partitions: usize) -> usize {
    let partitions = partitions as u64;
    ((split + split / partitions * (salt + 1) + salt) % partitions) as usize
}

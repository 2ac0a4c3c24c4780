//! Claims about the table as a whole, against a hash map.

pub(super) mod job;

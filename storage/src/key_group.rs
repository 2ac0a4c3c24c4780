//! Key groups: the unit in which keyed state is assigned to partitions and moved between them.
//!
//! Always true, over a job's whole life: a key's group depends on the bytes of its codec and on the maximum
//! parallelism, on nothing else. The rule for ranges is Apache Flink's (`KeyGroupRangeAssignment`).

use crate::codec::DecodeError;
use std::ops::Range;

/// Index of a key group, below the job's maximum parallelism.
pub type KeyGroup = u16;

/// Default number of key groups of a job.
pub const MAX_PARALLELISM_DEFAULT: u16 = 128;

/// The division of a job's key space into `max_parallelism` groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGroups {
    count: u16,
    /// `count - 1` where `count` is a power of two, else zero.
    mask: u16,
}

impl KeyGroups {
    /// Groups for `max_parallelism`, which is at least 1 and at most 32,768.
    ///
    /// # Panics
    /// When `max_parallelism` is out of range.
    pub fn new(max_parallelism: u16) -> Self {
        assert!(
            (1..=32_768).contains(&max_parallelism),
            "max parallelism {max_parallelism} is not in 1..=32768"
        );
        KeyGroups {
            count: max_parallelism,
            mask: if max_parallelism.is_power_of_two() { max_parallelism - 1 } else { 0 },
        }
    }

    /// Number of groups.
    pub fn count(self) -> u16 {
        self.count
    }

    /// The group of a key with this [`crate::Data::key_hash`].
    #[inline(always)]
    pub fn group_of(self, hash: u64) -> KeyGroup {
        if self.mask != 0 { hash as u16 & self.mask } else { (hash % u64::from(self.count)) as KeyGroup }
    }

    /// An error unless a key with this hash belongs to `group`, as all do in rows of that group.
    #[inline(always)]
    pub(crate) fn check(self, hash: u64, group: KeyGroup) -> Result<(), DecodeError> {
        let found = self.group_of(hash);
        if found == group {
            Ok(())
        } else {
            Err(DecodeError(format!("a key of group {found} among the rows of group {group}")))
        }
    }

    /// A hash of `group` that differs from `hash` as little as that allows.
    #[inline(always)]
    pub(crate) fn moved_to(self, hash: u64, group: KeyGroup) -> u64 {
        if self.mask != 0 {
            return hash & !u64::from(self.mask) | u64::from(group);
        }
        let count = u64::from(self.count);
        let multiple = hash - hash % count;
        // Near the end of the range the multiple below has room for every group behind it.
        let multiple = if multiple > u64::MAX - count { multiple - count } else { multiple };
        multiple + u64::from(group)
    }

    /// The partition, of `parallelism`, that owns `group`.
    #[inline(always)]
    pub fn partition_of(self, group: KeyGroup, parallelism: u32) -> u32 {
        u32::from(group) * parallelism / u32::from(self.count)
    }

    /// The groups that `partition` of `parallelism` owns.
    pub fn range_of(self, partition: u32, parallelism: u32) -> Range<KeyGroup> {
        let start = |p: u32| (p * u32::from(self.count)).div_ceil(parallelism) as KeyGroup;
        start(partition)..start(partition + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_hash_moves_to_any_group() {
        for count in [1, 2, 7, 77, 128, 32_767, 32_768] {
            let groups = KeyGroups::new(count);
            for hash in [0, 1, 12_345_678_901_234_567, u64::MAX - 1, u64::MAX] {
                for group in [0, count / 2, count - 1] {
                    let moved = groups.moved_to(hash, group);
                    assert_eq!(groups.group_of(moved), group);
                    assert!(moved.abs_diff(hash) < 2 * u64::from(count));
                    assert_eq!(groups.moved_to(hash, groups.group_of(hash)) >> 16, hash >> 16);
                }
            }
        }
    }

    #[test]
    fn every_group_lies_in_the_range_of_its_partition() {
        for count in [1, 7, 128, 200] {
            let groups = KeyGroups::new(count);
            for parallelism in 1..=u32::from(count) {
                let mut next = 0;
                for partition in 0..parallelism {
                    let range = groups.range_of(partition, parallelism);
                    assert_eq!(range.start, next);
                    next = range.end;
                    assert!(range.clone().all(|g| groups.partition_of(g, parallelism) == partition));
                }
                assert_eq!(next, count);
            }
        }
    }
}

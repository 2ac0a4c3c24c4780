//! Key groups: the unit in which keyed state is assigned to partitions and moved between them.
//!
//! Always true, over a job's whole life: a key's group depends on the bytes of its codec and on the maximum
//! parallelism, on nothing else. The rule for ranges is Apache Flink's (`KeyGroupRangeAssignment`).

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

//! The segments that make up one completed checkpoint of a task, and when a key group is written anew.
//!
//! For each state and key group the chain knows the segment with the latest base and how many bytes of deltas came
//! after it. A segment stays in the chain as long as it holds, for any state and group, the latest base or a
//! delta after that.
//!
//! A group's base is written anew once its deltas exceed it. All groups grow alike, so each has a threshold of
//! its own between 3/4 and 5/4, and a limit of its own on the number of deltas: then they do not all come due in the
//! same checkpoint.

use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroup;
use crate::manifest::SegmentRef;
use crate::segment::{BlockKind, BlockSummary};
use crate::table::GroupPlan;
use std::collections::HashMap;
use std::sync::Arc;

/// Fewest and one more than the most deltas of a group before its base is written anew.
const DELTAS: std::ops::Range<u64> = 64..128;

/// Order of segments: later ones change what earlier ones say.
pub(super) type Sequence = (CheckpointId, AttemptId);

/// One segment and what it covers.
#[derive(Debug)]
struct Member {
    reference: SegmentRef,
    sequence: Sequence,
    /// State index and group of its blocks, each pair once.
    covers: Vec<(u16, KeyGroup)>,
}

/// What the chain holds of one state and group.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// The segment with the latest base.
    base: Sequence,
    base_bytes: u64,
    delta_bytes: u64,
    deltas: u64,
}

/// The segments of one checkpoint of one task.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    /// Oldest first.
    members: Vec<Arc<Member>>,
    groups: HashMap<(u16, KeyGroup), Group>,
}

impl Chain {
    /// What a snapshot that builds on this chain writes of a state and group.
    pub fn plan(&self, table: usize, group: KeyGroup) -> GroupPlan {
        let Some(held) = self.groups.get(&(table as u16, group)) else { return GroupPlan::Base };
        // Multiplying by an odd constant spreads neighbouring groups over 0..64.
        let spread = u64::from(group.wrapping_mul(40_503) >> 10);
        let threshold = held.base_bytes / 64 * (48 + spread / 2);
        let limit = DELTAS.start + spread % (DELTAS.end - DELTAS.start);
        if held.delta_bytes > threshold || held.deltas >= limit {
            GroupPlan::Rebase
        } else {
            GroupPlan::Delta
        }
    }

    /// Adds the segment `reference` with its blocks, and drops those that are no longer needed. Segments come in rising
    /// order of their sequence, or with one that other tasks wrote of other groups.
    pub fn append(
        &mut self,
        reference: SegmentRef,
        sequence: Sequence,
        blocks: impl Iterator<Item = BlockSummary>,
    ) {
        let mut written: HashMap<(u16, KeyGroup), (BlockKind, u64)> = HashMap::new();
        for block in blocks {
            written.entry((block.state, block.group)).or_insert((block.kind, 0)).1 += block.bytes;
        }
        for (pair, (kind, bytes)) in &written {
            let base = Group { base: sequence, base_bytes: *bytes, delta_bytes: 0, deltas: 0 };
            match (kind, self.groups.get_mut(pair)) {
                (BlockKind::Delta, Some(group)) => {
                    group.delta_bytes += bytes;
                    group.deltas += 1;
                }
                // A first delta without a base stands for one: nothing older says anything of the group.
                (BlockKind::Base, _) | (BlockKind::Delta, None) => _ = self.groups.insert(*pair, base),
            }
        }
        let mut covers: Vec<_> = written.into_keys().collect();
        covers.sort_unstable();
        self.members.push(Arc::new(Member { reference, sequence, covers }));
        self.drop_unneeded();
    }

    /// Takes note that a snapshot has no rows at all: without a base of any group, the chain stays as it is.
    pub fn without_rows(&mut self) {
        self.drop_unneeded();
    }

    fn drop_unneeded(&mut self) {
        let groups = &self.groups;
        self.members.retain(|member| {
            member
                .covers
                .iter()
                .any(|pair| groups.get(pair).is_some_and(|group| group.base <= member.sequence))
        });
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentRef> {
        self.members.iter().map(|member| member.reference.clone()).collect()
    }
}

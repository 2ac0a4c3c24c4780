//! Which segments a checkpoint needs, and what the next snapshot writes of each key group.
//!
//! Always true: the chain names exactly the segments that a restore needs of each state:
//! - of a state that follows the rule of bases and deltas, for each of its groups, those from the group's latest base on;
//! - of a log-structured state those that its table said it needs, and those written since.
//!
//! A segment is named as long as any state needs it, but only for the states that do (see [`SegmentRef`]): one that has
//! moved its live rows elsewhere may have dropped its tombstones too, so what is left there must not be read.
//!
//! When is a base written anew? A group's base is written anew once its deltas exceed it. All groups grow alike, so each has
//! a threshold of its own between 3/4 and 5/4, and a limit of its own on the number of deltas: then they do not all come
//! due in the same checkpoint.

use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroup;
use crate::manifest::SegmentRef;
use crate::segment::{BlockKind, BlockSummary};
use crate::table::GroupPlan;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

/// Fewest and one more than the most deltas of a group before its base is written anew.
const DELTAS: Range<u64> = 64..128;

/// Order of checkpoints. Among the files of one checkpoint, those of one task are in the order of their numbers, and those of
/// different tasks hold different groups.
pub(super) type Sequence = (CheckpointId, AttemptId);

/// A segment file, or the part of it that a former task's checkpoint named.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub path: Arc<str>,
    pub bytes: u64,
    /// The groups that count.
    pub groups: Range<KeyGroup>,
    pub sequence: Sequence,
}

/// One segment and what it covers.
#[derive(Debug)]
struct Member {
    part: Part,
    /// State index and group of its blocks, each pair once; of states with bases and deltas.
    covers: Vec<(u16, KeyGroup)>,
    /// State indices of its blocks, each once; of log-structured states.
    logs: Vec<u16>,
}

/// What the chain holds of one state and group.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// The checkpoint with the latest base.
    base: Sequence,
    base_bytes: u64,
    delta_bytes: u64,
    deltas: u64,
    /// The latest checkpoint with a block.
    latest: Sequence,
}

/// The segments of one checkpoint of one task.
#[derive(Clone, Debug, Default)]
pub(super) struct Chain {
    /// Oldest first.
    members: Vec<Arc<Member>>,
    groups: HashMap<(u16, KeyGroup), Group>,
    /// Paths of the segments that each log-structured table needs.
    needed: HashMap<u16, HashSet<Arc<str>>>,
}

impl Chain {
    /// What a snapshot that builds on this chain writes of a group of a table that follows the rule of bases and deltas.
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

    /// Makes all groups of a table due to be written anew.
    pub fn make_due(&mut self, table: u16) {
        let of_table = self.groups.iter_mut().filter(|((other, _), _)| *other == table);
        of_table.for_each(|(_, group)| group.deltas = DELTAS.end);
    }

    /// A log-structured table needs these segments and no others of those written so far.
    pub fn set_needed(&mut self, table: u16, paths: impl IntoIterator<Item = Arc<str>>) {
        self.needed.insert(table, paths.into_iter().collect());
    }

    /// Adds a segment with its blocks. Segments come in rising order of their sequence, or with one that other tasks
    /// wrote of other groups. Of log-structured tables [`Chain::set_needed`] has told.
    pub fn append(&mut self, part: Part, blocks: impl Iterator<Item = BlockSummary>) {
        let mut written: HashMap<(u16, KeyGroup), (BlockKind, u64)> = HashMap::new();
        let mut logs: Vec<u16> = Vec::new();
        for block in blocks {
            if let Some(paths) = self.needed.get_mut(&block.state) {
                if !logs.contains(&block.state) {
                    logs.push(block.state);
                    paths.insert(Arc::clone(&part.path));
                }
            } else {
                written.entry((block.state, block.group)).or_insert((block.kind, 0)).1 += block.bytes;
            }
        }
        let sequence = part.sequence;
        for (pair, (kind, bytes)) in &written {
            let base =
                Group { base: sequence, base_bytes: *bytes, delta_bytes: 0, deltas: 0, latest: sequence };
            match (kind, self.groups.get_mut(pair)) {
                (BlockKind::Delta, Some(group)) => {
                    group.delta_bytes += bytes;
                    // Several files of one checkpoint are one delta.
                    group.deltas += u64::from(group.latest != sequence);
                    group.latest = sequence;
                }
                (BlockKind::Base, Some(group)) if group.base == sequence => group.base_bytes += bytes,
                // A first delta without a base stands for one: nothing older says anything of the group.
                (BlockKind::Base, _) | (BlockKind::Delta, None) => _ = self.groups.insert(*pair, base),
            }
        }
        let mut covers: Vec<_> = written.into_keys().collect();
        covers.sort_unstable();
        self.members.push(Arc::new(Member { part, covers, logs }));
    }

    /// Drops the segments that nothing needs any more.
    pub fn drop_unneeded(&mut self) {
        let (groups, needed) = (&self.groups, &self.needed);
        self.members.retain(|member| member.needed_by(groups, needed).next().is_some());
    }

    /// The segments, oldest first; `names` are those of the tables.
    pub fn segments(&self, names: &[String]) -> Vec<SegmentRef> {
        let reference = |member: &Arc<Member>| {
            let mut tables: Vec<u16> = member.needed_by(&self.groups, &self.needed).collect();
            tables.sort_unstable();
            tables.dedup();
            SegmentRef {
                path: member.part.path.to_string(),
                bytes: member.part.bytes,
                groups: member.part.groups.clone(),
                states: tables.into_iter().map(|table| names[usize::from(table)].clone()).collect(),
            }
        };
        self.members.iter().map(reference).collect()
    }
}

impl Member {
    /// The tables that need the segment, some of them several times.
    fn needed_by<'a>(
        &'a self,
        groups: &'a HashMap<(u16, KeyGroup), Group>,
        needed: &'a HashMap<u16, HashSet<Arc<str>>>,
    ) -> impl Iterator<Item = u16> + 'a {
        let counts =
            |pair: &(u16, KeyGroup)| groups.get(pair).is_some_and(|group| group.base <= self.part.sequence);
        let by_rule = self.covers.iter().filter(move |pair| counts(pair)).map(|pair| pair.0);
        let named = |table: &u16| needed.get(table).is_some_and(|paths| paths.contains(&self.part.path));
        by_rule.chain(self.logs.iter().copied().filter(move |table| named(table)))
    }
}

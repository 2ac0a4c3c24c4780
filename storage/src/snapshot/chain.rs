//! Which segments a checkpoint needs, and what the next snapshot writes of each key group.
//!
//! Always true: the chain names exactly the segments that a restore needs of each state:
//! - of a state that follows the rule of bases and deltas, for each of its groups, those from the group's latest base on;
//! - of a log-structured state those that its table said it needs, and those written since.
//!
//! A segment is named as long as any state needs it, but only for the states that do (see [`SegmentRef`]): one that has
//! moved its live rows elsewhere may have dropped its tombstones too, so what is left there must not be read.
//!
//! The members are as many as there is state, so a task only notes what a snapshot adds to the chain before and which segments its
//! tables need. Who first asks for the members puts them together, which is whoever publishes the checkpoint. He also is the last
//! to hold lists that no longer matter: a chain keeps the one before until the next chain is listed.
//!
//! When is a base written anew? A group's base is written anew once its deltas exceed it. All groups grow alike, so each has
//! a threshold of its own between 3/4 and 5/4, and a limit of its own on the number of deltas: then they do not all come
//! due in the same checkpoint.

use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroup;
use crate::manifest::SegmentRef;
use crate::segment::{BlockKind, BlockSummary};
use crate::table::{GroupPlan, SegmentPaths};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

type Groups = HashMap<(u16, KeyGroup), Group>;

/// The segments of one checkpoint of one task.
#[derive(Debug, Default)]
pub(super) struct Chain {
    groups: Arc<Groups>,
    members: Mutex<Members>,
}

/// The members of a chain: `listed`, with what they are put together from until they are.
#[derive(Debug, Default)]
struct Members {
    /// Oldest first, each with the tables that need it, if they have been put together.
    listed: Option<Vec<(Arc<Member>, Vec<u16>)>>,
    /// The chain that this one builds on.
    before: Option<Arc<Chain>>,
    /// Segments added to those of `before`.
    added: Vec<Arc<Member>>,
    /// Segments of `before` that each log-structured table needs.
    needed: BTreeMap<u16, SegmentPaths>,
}

impl Chain {
    /// A chain that builds on `before`, without any segment of log-structured tables so far. Takes no time in the number of segments.
    pub fn on(before: &Arc<Chain>) -> Self {
        let members = Members { before: Some(Arc::clone(before)), ..Members::default() };
        Chain { groups: Arc::clone(&before.groups), members: Mutex::new(members) }
    }

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
        let of_table = Arc::make_mut(&mut self.groups).iter_mut().filter(|((other, _), _)| *other == table);
        of_table.for_each(|(_, group)| group.deltas = DELTAS.end);
    }

    /// A log-structured table needs these segments of those written before, and no others.
    pub fn set_needed(&mut self, table: u16, paths: SegmentPaths) {
        self.unlisted().needed.insert(table, paths);
    }

    /// Adds a segment with its blocks. Segments come in rising order of their sequence, or with one that other tasks
    /// wrote of other groups. Of log-structured tables [`Chain::set_needed`] has told.
    pub fn append(&mut self, part: Part, blocks: impl Iterator<Item = BlockSummary>) {
        let mut written: HashMap<(u16, KeyGroup), (BlockKind, u64)> = HashMap::new();
        let mut logs: Vec<u16> = Vec::new();
        let members = self.unlisted();
        for block in blocks {
            if !members.needed.contains_key(&block.state) {
                written.entry((block.state, block.group)).or_insert((block.kind, 0)).1 += block.bytes;
            } else if !logs.contains(&block.state) {
                logs.push(block.state);
            }
        }
        let sequence = part.sequence;
        let mut covers: Vec<_> = written.keys().copied().collect();
        covers.sort_unstable();
        members.added.push(Arc::new(Member { part, covers, logs }));
        if written.is_empty() {
            return;
        }
        let groups = Arc::make_mut(&mut self.groups);
        for (pair, (kind, bytes)) in written {
            let base =
                Group { base: sequence, base_bytes: bytes, delta_bytes: 0, deltas: 0, latest: sequence };
            match (kind, groups.get_mut(&pair)) {
                (BlockKind::Delta, Some(group)) => {
                    group.delta_bytes += bytes;
                    // Several files of one checkpoint are one delta.
                    group.deltas += u64::from(group.latest != sequence);
                    group.latest = sequence;
                }
                (BlockKind::Base, Some(group)) if group.base == sequence => group.base_bytes += bytes,
                // A first delta without a base stands for one: nothing older says anything of the group.
                (BlockKind::Base, _) | (BlockKind::Delta, None) => _ = groups.insert(pair, base),
            }
        }
    }

    fn unlisted(&mut self) -> &mut Members {
        let members = self.members.get_mut().unwrap_or_else(PoisonError::into_inner);
        assert!(members.listed.is_none(), "a chain is complete before it is listed");
        members
    }

    /// Puts the members together unless that is done: those that a table needs.
    pub fn list(&self) {
        drop(self.listed());
    }

    fn listed(&self) -> MutexGuard<'_, Members> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if members.listed.is_some() {
            return members;
        }
        let mut listed = Vec::new();
        let by_rule = |member: &Member| {
            let counts = |pair: &&(u16, KeyGroup)| {
                self.groups.get(*pair).is_some_and(|group| group.base <= member.part.sequence)
            };
            member.covers.iter().filter(counts).map(|pair| pair.0).collect::<Vec<_>>()
        };
        let mut list = |member: &Arc<Member>, named: &dyn Fn(&u16) -> bool| {
            let mut tables = by_rule(member);
            tables.extend(member.logs.iter().filter(|table| named(table)));
            tables.sort_unstable();
            tables.dedup();
            if !tables.is_empty() {
                listed.push((Arc::clone(member), tables));
            }
        };
        if let Some(before) = &members.before {
            let mut before = before.listed();
            let needed: HashMap<u16, HashSet<&str>> = members
                .needed
                .iter()
                .map(|(table, paths)| (*table, paths.iter().map(|p| &**p).collect()))
                .collect();
            for (member, _) in before.listed.iter().flatten() {
                list(member, &|table| {
                    needed.get(table).is_some_and(|paths| paths.contains(&*member.part.path))
                });
            }
            before.before = None;
        }
        members.added.iter().for_each(|member| list(member, &|_| true));
        (members.added, members.needed) = Default::default();
        members.listed = Some(listed);
        members
    }

    /// The segments, oldest first; `names` are those of the tables.
    pub fn segments(&self, names: &[String]) -> Vec<SegmentRef> {
        let reference = |(member, tables): &(Arc<Member>, Vec<u16>)| SegmentRef {
            path: member.part.path.to_string(),
            bytes: member.part.bytes,
            groups: member.part.groups.clone(),
            states: tables.iter().map(|table| names[usize::from(*table)].clone()).collect(),
        };
        self.listed().listed.iter().flatten().map(reference).collect()
    }
}

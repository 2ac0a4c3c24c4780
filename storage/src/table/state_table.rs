//! The untyped side of a table: by it [`crate::snapshot`] writes and restores all states of an operator alike, whatever
//! their types and their backend.

use super::segment_paths::SegmentPaths;
use crate::codec::{DecodeError, Schema};
use crate::error::StoreError;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::manifest::KeyedStateMeta;
use crate::segment::{BlockPlace, Migration, Rows, SegmentBuilder};
use std::ops::Range;

/// What a snapshot writes of one key group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupPlan {
    /// Rows changed since the last completed snapshot, and tombstones.
    Delta,
    /// All rows; no block where there are none.
    Base,
    /// All rows; where there are none a base block without rows, which voids older segments.
    Rebase,
}

/// How far a table has written its snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Call again.
    More,
    /// Call again; a key group has just ended, so here is a good place for a new file to begin.
    Groups,
    /// Call again once a read or another slow operation of the table's own has moved on: there is nothing to do at once.
    Waits,
    /// All is written.
    Done,
}

/// What a table holds and does, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Entries.
    pub keys: u64,
    /// Bytes of memory for pages or buckets.
    pub data_bytes: u64,
    /// Bytes of memory for everything else: index, directory, metadata.
    pub index_bytes: u64,
    /// Pages read back from disk for a batch that announced its keys.
    pub page_reads: u64,
    /// Pages read back within a call, while the caller waited.
    pub page_reads_blocking: u64,
    /// Announced keys whose page was in memory.
    pub page_hits: u64,
    /// Rows moved by compaction.
    pub compacted_rows: u64,
    /// Bytes of all segments that hold rows the table still needs, as far as they are this table's.
    pub segment_bytes: u64,
    /// The part of `segment_bytes` whose rows are the latest of their keys.
    pub segment_live_bytes: u64,
}

/// The untyped side of a table: snapshots, restore and upkeep.
///
/// Calls come from the thread that owns the table. The order of calls for one snapshot: `begin_snapshot`,
/// `advance_snapshot` until it returns [`Written::Done`], then `completed` or `aborted`; `aborted` may also come earlier.
pub trait StateTable: Send {
    /// Name and types of the state.
    fn meta(&self) -> KeyedStateMeta;

    /// The division of the job's keys into groups.
    fn key_groups(&self) -> KeyGroups;

    /// The groups whose keys the table holds.
    fn groups(&self) -> Range<KeyGroup>;

    /// Begins a snapshot of the present entries and returns its epoch, which later calls name. `plan` has an entry for
    /// each group of the table, and `state` goes to the blocks.
    ///
    /// Takes no time in the size of the state. Only after dozens of snapshots in a row that were aborted before they were
    /// written does a hash table pass over all stamps, about a millisecond for a million entries.
    ///
    /// # Panics
    /// When an earlier snapshot is neither written nor aborted.
    fn begin_snapshot(&mut self, state: u16, plan: &[GroupPlan]) -> u64;

    /// Writes a part of the begun snapshot to `out`: at most about one block, or what `rows` visited slots yield but at
    /// least one bucket. [`Written::Done`] when nothing is left, also when no snapshot is begun. With `usize::MAX` for
    /// `rows` it waits for reads within the call, and never answers [`Written::Waits`].
    fn advance_snapshot(&mut self, out: &mut SegmentBuilder, rows: usize) -> Written;

    /// The checkpoint of the snapshot of `epoch` is completed: later deltas need not hold what it holds.
    fn completed(&mut self, epoch: u64);

    /// The checkpoint of the snapshot of `epoch` failed: later deltas hold its changes too. Ends the writing of it.
    fn aborted(&mut self, epoch: u64);

    /// Whether the table decides by itself which earlier segments count; else that follows the rule of bases and deltas. Such a
    /// table gets no plan but `Delta`, save for savepoints and full snapshots.
    fn is_log_structured(&self) -> bool {
        false
    }

    /// Right after [`StateTable::begin_snapshot`] with [`GroupPlan::Delta`] for every group: the paths of the segments of
    /// earlier checkpoints that hold rows of this snapshot. Of log-structured tables only.
    fn segments_needed(&self) -> SegmentPaths {
        SegmentPaths::default()
    }

    /// How rows whose values were stored under the schema `stored` become rows of this table, by [`Migration::of`]; `None`
    /// where they cannot. Keys never migrate, as their bytes decide their key group.
    fn migration(&self, stored: &Schema) -> Option<Migration>;

    /// About `rows` keys of `group` are about to be restored, to a table that is still empty: makes room for them at once, instead of
    /// growing step by step. A hint, which changes nothing else.
    fn expect_rows(&mut self, group: KeyGroup, rows: u64) {
        let _ = (group, rows);
    }

    /// Applies rows of a completed checkpoint, oldest first; to a table that has taken no snapshot yet. Rows are encoded
    /// as the table's types are today. Rows of groups that the table does not hold must not be among them.
    ///
    /// # Errors
    /// When the rows are not of the table's types, or not of the group they claim.
    fn restore_rows(&mut self, group: KeyGroup, rows: &Rows) -> Result<(), DecodeError>;

    /// As [`StateTable::restore_rows`], for a whole block that the next snapshot will build upon, so that the table may
    /// refer to it instead of writing its rows again.
    ///
    /// # Errors
    /// As [`StateTable::restore_rows`].
    fn restore_block(&mut self, group: KeyGroup, rows: &Rows, place: &BlockPlace) -> Result<(), DecodeError> {
        let _ = place;
        self.restore_rows(group, rows)
    }

    /// Everything is restored.
    fn restored(&mut self) {}

    /// Later snapshots may not build on any segment that exists now.
    fn detach(&mut self) {}

    /// Does a slice of upkeep, such as compaction or making room in memory; about what `rows` rows cost. True when there is
    /// more to do at once.
    ///
    /// # Errors
    /// The disk failed where that matters; the table cannot go on.
    fn maintain(&mut self, rows: usize) -> Result<bool, StoreError> {
        let _ = rows;
        Ok(false)
    }

    /// True when all keys that were announced last can be used without waiting. Polls reads that are under way.
    ///
    /// # Errors
    /// A page could not be read, or is damaged; the table cannot go on.
    fn ready(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }

    /// Counts and sizes.
    fn stats(&self) -> TableStats;
}

//! Incremental snapshots of all keyed tables of one task: what each writes, and which segments a checkpoint needs.
//!
//! Always true:
//! - a snapshot builds on the *chain* (segments and what they cover) of the last completed checkpoint at its begin;
//! - its segments, read oldest first, hold each table as it was at the begin;
//! - a checkpoint that fails leaves no trace: neither chain nor later deltas build on it;
//! - at most one snapshot is being written; a later begin first finishes the earlier, as it is
//!   serialised then and there.
//!
//! Makes bytes and reads files; writing the files, making them durable and publishing them is the caller's part. The
//! rules of the chain are in `chain`, reading back in `restore`.

mod chain;
mod restore;
#[cfg(test)]
mod tests;

use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::DiskHandle;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::manifest::{KeyedStateMeta, SegmentRef};
use crate::segment::SegmentBuilder;
use crate::table::{GroupPlan, StateTable, Written};
use chain::Chain;
use std::ops::Range;
use std::path::Path;

/// Bytes are handed out once there are this many, or at the end.
const CHUNK_BYTES: usize = 256 << 10;

/// The keyed tables of one task, by an index that is stable while the task runs.
pub trait Tables {
    /// Number of tables.
    fn count(&self) -> usize;

    /// The table at `index`, which is below the count.
    fn table(&mut self, index: usize) -> &mut dyn StateTable;
}

/// What [`KeyedSnapshots::advance`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// A slice of the work; call again.
    More,
    /// The next bytes of the segment file, to be appended to it; call again.
    Bytes(Vec<u8>),
    /// Nothing left to do.
    Done,
}

/// A snapshot from its begin until its checkpoint is completed or aborted.
struct Pending {
    checkpoint: CheckpointId,
    attempt: AttemptId,
    path: String,
    savepoint: bool,
    /// Epoch of each table.
    epochs: Vec<u64>,
    /// The chain it builds on; with the new segment once it is written.
    chain: Chain,
    /// The file being built; none once all its bytes are handed out.
    builder: Option<SegmentBuilder>,
    /// The table being written.
    table: usize,
    written: bool,
}

/// Incremental snapshots of one task's keyed tables.
pub struct KeyedSnapshots {
    groups: Range<KeyGroup>,
    incremental: bool,
    zstd_level: i32,
    allow_unmatched: bool,
    /// What the last completed checkpoint consists of.
    chain: Chain,
    /// Snapshots neither completed nor aborted, in the order of their begin.
    pending: Vec<Pending>,
}

impl KeyedSnapshots {
    /// For a task that owns `groups`. Without `incremental`, every snapshot writes all rows. Level 0 of zstd means no
    /// compression.
    pub fn new(groups: Range<KeyGroup>, incremental: bool, zstd_level: i32) -> Self {
        KeyedSnapshots {
            groups,
            incremental,
            zstd_level,
            allow_unmatched: false,
            chain: Chain::default(),
            pending: Vec::new(),
        }
    }

    /// Lets [`KeyedSnapshots::restore`] drop stored states that no table has by name; otherwise they are an error.
    pub fn allow_unmatched(&mut self, allow: bool) {
        self.allow_unmatched = allow;
    }

    /// Begins the snapshot of `checkpoint`: it will hold the tables as they are now. `path` is the path, below the
    /// job's directory, that its segment will have in the manifest.
    ///
    /// Takes no time in the size of the state. If the snapshot before is neither written nor aborted, it is
    /// serialised to its end first, which blocks; its bytes wait for [`KeyedSnapshots::advance`].
    pub fn begin(
        &mut self,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        path: String,
        tables: &mut dyn Tables,
    ) {
        self.begin_any(checkpoint, attempt, path, false, tables);
    }

    /// Begins a snapshot that holds all rows in one segment of its own and that no later snapshot builds on, as a
    /// savepoint needs. Otherwise as [`KeyedSnapshots::begin`].
    pub fn begin_savepoint(
        &mut self,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        path: String,
        tables: &mut dyn Tables,
    ) {
        self.begin_any(checkpoint, attempt, path, true, tables);
    }

    fn begin_any(
        &mut self,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        path: String,
        savepoint: bool,
        tables: &mut dyn Tables,
    ) {
        for pending in &mut self.pending {
            while !pending.finished_tables() {
                pending.slice(tables, usize::MAX);
            }
        }
        let metas: Vec<KeyedStateMeta> = (0..tables.count()).map(|i| tables.table(i).meta()).collect();
        let full = savepoint || !self.incremental;
        let base = if full { Chain::default() } else { self.chain.clone() };
        let epochs = (0..tables.count())
            .map(|i| {
                let plan: Vec<GroupPlan> = self.groups.clone().map(|group| base.plan(i, group)).collect();
                let table = tables.table(i);
                assert_eq!(
                    table.groups(),
                    self.groups,
                    "state {} holds the task's key groups",
                    metas[i].name
                );
                table.begin_snapshot(u16::try_from(i).expect("an operator has at most 65,536 states"), &plan)
            })
            .collect();
        let key_groups = if tables.count() > 0 { tables.table(0).key_groups() } else { KeyGroups::new(1) };
        let builder = SegmentBuilder::new(
            path.as_str(),
            checkpoint,
            attempt,
            key_groups,
            self.groups.clone(),
            &metas,
            self.zstd_level,
        );
        self.pending.push(Pending {
            checkpoint,
            attempt,
            path,
            savepoint,
            epochs,
            chain: base,
            builder: Some(builder),
            table: 0,
            written: false,
        });
    }

    /// Does one slice of the work for `checkpoint`: about one block, or what `rows` visited slots yield. A
    /// checkpoint that was completed, aborted or never begun has nothing left to do.
    pub fn advance(&mut self, checkpoint: CheckpointId, tables: &mut dyn Tables, rows: usize) -> Step {
        let Some(pending) = self.pending.iter_mut().find(|pending| pending.checkpoint == checkpoint) else {
            return Step::Done;
        };
        if pending.builder.is_none() {
            return Step::Done;
        }
        if !pending.finished_tables() {
            pending.slice(tables, rows);
        }
        pending.hand_out()
    }

    /// The segments that hold the snapshot of `checkpoint`, oldest first: those it builds on and its own, which is
    /// missing when it has no rows; then no bytes were handed out either.
    ///
    /// # Panics
    /// Before [`Step::Done`], and for a checkpoint that was completed, aborted or never begun.
    pub fn segments(&self, checkpoint: CheckpointId) -> Vec<SegmentRef> {
        let pending = self.pending.iter().find(|pending| pending.checkpoint == checkpoint);
        let pending =
            pending.unwrap_or_else(|| panic!("no snapshot of checkpoint {checkpoint} is under way"));
        assert!(pending.written, "the snapshot of checkpoint {checkpoint} is not written yet");
        pending.chain.segments()
    }

    /// The checkpoint is completed: later snapshots build on it. Does nothing for one that is not under way, and
    /// forgets older ones under way, which can no longer be built on.
    ///
    /// # Panics
    /// Before [`Step::Done`].
    pub fn completed(&mut self, checkpoint: CheckpointId, tables: &mut dyn Tables) {
        let Some(at) = self.pending.iter().position(|pending| pending.checkpoint == checkpoint) else {
            return;
        };
        assert!(self.pending[at].written, "a checkpoint completes after its snapshot is written");
        if self.pending[at].savepoint {
            return self.aborted(checkpoint, tables);
        }
        let completed = self.pending.remove(at);
        for (i, epoch) in completed.epochs.iter().enumerate() {
            tables.table(i).completed(*epoch);
        }
        self.chain = completed.chain;
        for _ in 0..self.pending[..at].iter().filter(|older| !older.savepoint).count() {
            let older = self.pending.iter().position(|older| !older.savepoint).expect("just counted");
            self.pending.remove(older);
        }
    }

    /// The checkpoint failed or was given up, at any point after its begin. Does nothing for one that is not under way.
    pub fn aborted(&mut self, checkpoint: CheckpointId, tables: &mut dyn Tables) {
        let Some(at) = self.pending.iter().position(|pending| pending.checkpoint == checkpoint) else {
            return;
        };
        let aborted = self.pending.remove(at);
        for (i, epoch) in aborted.epochs.iter().enumerate() {
            tables.table(i).aborted(*epoch);
        }
    }

    /// Makes the next snapshot write all rows, so that it needs no segment that exists now: after restoring from files that
    /// belong to somebody else.
    pub fn detach(&mut self) {
        self.chain = Chain::default();
    }

    /// Loads what `segments` hold of this task's groups into `tables`, which are empty, and builds later
    /// snapshots on it. `metas` are the operator's states as in the manifest. Blocks on the disk: for plain threads.
    ///
    /// Segments of several former tasks may come in any order and more than once; their headers give their order.
    /// Every block of every segment is checked, those of other groups too.
    ///
    /// # Errors
    /// The tables are then partly filled; drop them.
    /// - [`StoreError::Incompatible`]: a state has another key or value type than its table, no table has its name,
    ///   or the job had another maximum parallelism.
    /// - [`StoreError::Corrupt`], [`StoreError::NewerFormat`], [`StoreError::Io`]: from a segment.
    pub fn restore(
        &mut self,
        disk: &DiskHandle,
        job_dir: &Path,
        segments: &[SegmentRef],
        metas: &[KeyedStateMeta],
        tables: &mut dyn Tables,
    ) -> Result<(), StoreError> {
        assert!(self.pending.is_empty(), "a restore comes before the first snapshot");
        let stored =
            restore::Stored { disk, job_dir, segments, metas, allow_unmatched: self.allow_unmatched };
        self.chain = stored.load(&self.groups, tables)?;
        Ok(())
    }
}

impl Pending {
    fn finished_tables(&self) -> bool {
        self.table == self.epochs.len()
    }

    /// One slice of serialising.
    fn slice(&mut self, tables: &mut dyn Tables, rows: usize) {
        let builder = self.builder.as_mut().expect("a file is being built");
        if tables.table(self.table).advance_snapshot(builder, rows) == Written::Done {
            self.table += 1;
        }
    }

    /// Gives out bytes when there are enough of them or all.
    fn hand_out(&mut self) -> Step {
        let finished = self.finished_tables();
        let builder = self.builder.as_mut().expect("a file is being built");
        if !finished {
            let enough = builder.pending_bytes() >= CHUNK_BYTES;
            return if enough { Step::Bytes(builder.take()) } else { Step::More };
        }
        let mut builder = self.builder.take().expect("a file is being built");
        self.written = true;
        if builder.block_count() == 0 {
            self.chain.without_rows();
            return Step::Done;
        }
        builder.finish();
        let reference = SegmentRef { path: self.path.clone(), bytes: builder.bytes() };
        self.chain.append(reference, (self.checkpoint, self.attempt), builder.blocks());
        Step::Bytes(builder.take())
    }
}

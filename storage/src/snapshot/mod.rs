//! Incremental snapshots of all keyed tables of one task: what each writes, and which segments a checkpoint needs.
//!
//! Always true:
//! - a snapshot builds on the *chain* (segments and what they cover) of the last completed checkpoint at its begin;
//! - its segments, read oldest first, hold each table as it was at the begin;
//! - a checkpoint that fails leaves no trace: neither chain nor later deltas build on it;
//! - at most one snapshot is being written; a later begin first finishes the earlier, as it is
//!   serialised then and there.
//!
//! Which files there are, and who names them. A snapshot's own files come into being as [`Step::Bytes`] names them: the
//! path that its begin was given, then the same with `.1`, `.2` and so on; none where it has no rows.
//! - Until [`Step::Done`] nobody names them. The caller removes what it has written when it gives the checkpoint up.
//! - From then on [`KeyedSnapshots::segments`] names them, together with those of earlier checkpoints that the snapshot
//!   needs. All of them have to stay until the checkpoint's end is known.
//! - *Completed*: the next checkpoints name those of its files that any table still needs. A file that is no longer named
//!   by a checkpoint is not named by any later one, so it goes with the last checkpoint that names it.
//! - *Aborted*: no later checkpoint names its own files, and the caller removes them. Files of earlier checkpoints
//!   are not its to remove: the next snapshot builds on them again.
//! - *Overlapping*: a snapshot never names files of one that was not completed when it began, but holds its changes too. So
//!   the earlier may end either way, before or after. When the later completes first, the earlier is forgotten, as if
//!   aborted; should its checkpoint complete all the same, it still stands alone.
//! - *Savepoint*: names its own files only, whatever becomes of it, and no checkpoint names them.
//!
//! Makes bytes and reads files; writing the files, making them durable and publishing them is the caller's part. The
//! rules of the chain are in `chain`, the writing of one snapshot in `writing`, reading back in `restore`.

mod chain;
mod writing;
mod segment_file;
mod pipeline;
mod restore;
#[cfg(test)]
mod tests;

use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::DiskHandle;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::manifest::{KeyedStateMeta, SegmentRef};
use crate::segment::SegmentBuilder;
use crate::table::{GroupPlan, SegmentPaths, StateTable};
use chain::Chain;
pub use restore::verify;
pub(crate) use segment_file::SegmentFile;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use writing::Writing;
use zstd::bulk::Compressor;

/// Bytes of rows in a file unless set otherwise. Files are what is deleted as a whole, so several are better than a large
/// one; but each costs a sync.
const FILE_BYTES: u64 = 8 << 20;

/// Threads that a restore starts unless set otherwise. Filling a table takes five to ten times as long as decoding its rows,
/// so one keeps ahead.
const RESTORE_THREADS: usize = 1;

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
    /// The next bytes of a segment file; call again. All bytes of one file come before those of the next.
    Bytes {
        /// Path of the file, below the job's directory. It is a new one where no bytes for it came before.
        path: Arc<str>,
        /// To be appended to it.
        bytes: Vec<u8>,
        /// The file has no more.
        complete: bool,
    },
    /// Nothing to do before a table's own read has moved on; call again later.
    Waits,
    /// Nothing left to do.
    Done,
}

/// The segments of one snapshot, which are many where there is much state: so they are listed by whoever has the time.
#[derive(Clone, Debug)]
pub struct SnapshotSegments {
    chain: Arc<Chain>,
    names: Arc<[String]>,
}

impl SnapshotSegments {
    /// The segments, oldest first: those that the snapshot builds on and its own.
    pub fn list(&self) -> Vec<SegmentRef> {
        self.chain.segments(&self.names)
    }
}

/// Incremental snapshots of one task's keyed tables.
pub struct KeyedSnapshots {
    groups: Range<KeyGroup>,
    incremental: bool,
    zstd_level: i32,
    allow_unmatched: bool,
    restore_threads: usize,
    file_bytes: u64,
    /// What the last completed checkpoint consists of.
    chain: Arc<Chain>,
    /// That of the snapshot before, to be used again.
    compressor: Option<Compressor<'static>>,
    /// Snapshots neither completed nor aborted, in the order of their begin.
    pending: Vec<Writing>,
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
            restore_threads: RESTORE_THREADS,
            file_bytes: FILE_BYTES,
            chain: Arc::default(),
            compressor: None,
            pending: Vec::new(),
        }
    }

    /// Lets [`KeyedSnapshots::restore`] drop stored states that no table has by name; otherwise they are an error.
    pub fn allow_unmatched(&mut self, allow: bool) {
        self.allow_unmatched = allow;
    }

    /// A snapshot begins a new file once the rows of the one before have this many bytes, before compression; 8 MiB unless
    /// set. From the next snapshot on.
    pub fn file_bytes(&mut self, bytes: u64) {
        self.file_bytes = bytes;
    }

    /// How many threads [`KeyedSnapshots::restore`] starts to read and decode, where the disk maps files; one
    /// unless set. With 0 the calling thread does all.
    pub fn restore_threads(&mut self, threads: usize) {
        self.restore_threads = threads;
    }

    /// Begins the snapshot of `checkpoint`: it will hold the tables as they are now. `path` is the path, below the
    /// job's directory, that its first file will have in the manifest; later ones add `.1` and so on.
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

    /// Begins a snapshot that holds all rows in files of its own and that no later snapshot builds on, as a savepoint
    /// needs: base blocks only, whatever kind the tables are, so that any kind reads them. Otherwise as
    /// [`KeyedSnapshots::begin`].
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
        crash_point!("snapshot.before_begin");
        self.pending.iter_mut().for_each(|pending| pending.finish(tables));
        let metas: Vec<KeyedStateMeta> = (0..tables.count()).map(|i| tables.table(i).meta()).collect();
        let full = savepoint || !self.incremental;
        let mut chain = if full { Chain::default() } else { Chain::on(&self.chain) };
        let epochs = (0..tables.count())
            .map(|i| {
                let index = u16::try_from(i).expect("an operator has at most 65,536 states");
                let table = tables.table(i);
                assert_eq!(
                    table.groups(),
                    self.groups,
                    "state {} holds the task's key groups",
                    metas[i].name
                );
                let log_structured = table.is_log_structured();
                let plan: Vec<GroupPlan> = match (full, log_structured) {
                    (true, _) => vec![GroupPlan::Base; self.groups.len()],
                    (false, true) => vec![GroupPlan::Delta; self.groups.len()],
                    (false, false) => self.groups.clone().map(|group| chain.plan(i, group)).collect(),
                };
                let epoch = table.begin_snapshot(index, &plan);
                if log_structured {
                    chain.set_needed(
                        index,
                        if full { SegmentPaths::default() } else { table.segments_needed() },
                    );
                }
                epoch
            })
            .collect();
        let key_groups = if tables.count() > 0 { tables.table(0).key_groups() } else { KeyGroups::new(1) };
        let mut builder = SegmentBuilder::new(
            path,
            checkpoint,
            attempt,
            key_groups,
            self.groups.clone(),
            &metas,
            self.zstd_level,
        );
        builder.reuse(self.compressor.take());
        let names: Arc<[String]> = metas.into_iter().map(|meta| meta.name).collect();
        let groups = self.groups.clone();
        let writing = Writing::new(
            checkpoint,
            attempt,
            savepoint,
            groups,
            epochs,
            names,
            chain,
            builder,
            self.file_bytes,
        );
        self.pending.push(writing);
        crash_point!("snapshot.after_begin");
    }

    /// Does one slice of the work for `checkpoint`: about one block, or what `rows` visited slots yield. A
    /// checkpoint that was completed, aborted or never begun has nothing left to do.
    pub fn advance(&mut self, checkpoint: CheckpointId, tables: &mut dyn Tables, rows: usize) -> Step {
        let Some(pending) = self.pending.iter_mut().find(|pending| pending.checkpoint == checkpoint) else {
            return Step::Done;
        };
        let step = pending.advance(tables, rows);
        if step == Step::Done {
            self.compressor = pending.compressor().or_else(|| self.compressor.take());
        }
        step
    }

    /// The segments that hold the snapshot of `checkpoint`, oldest first: those it builds on and its own.
    ///
    /// # Panics
    /// Before [`Step::Done`], and for a checkpoint that was completed, aborted or never begun.
    pub fn segments(&self, checkpoint: CheckpointId) -> SnapshotSegments {
        let pending = self.pending.iter().find(|pending| pending.checkpoint == checkpoint);
        let pending =
            pending.unwrap_or_else(|| panic!("no snapshot of checkpoint {checkpoint} is under way"));
        assert!(pending.is_written(), "the snapshot of checkpoint {checkpoint} is not written yet");
        SnapshotSegments { chain: Arc::clone(&pending.chain), names: Arc::clone(&pending.names) }
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
        assert!(self.pending[at].is_written(), "a checkpoint completes after its snapshot is written");
        if self.pending[at].savepoint {
            return self.aborted(checkpoint, tables);
        }
        crash_point!("snapshot.before_completed");
        let completed = self.pending.remove(at);
        for (i, epoch) in completed.epochs.iter().enumerate() {
            tables.table(i).completed(*epoch);
        }
        // It is listed already where its segments were published; else as many would add up as nobody has listed.
        completed.chain.list();
        self.chain = completed.chain;
        crash_point!("snapshot.after_completed");
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
    pub fn detach(&mut self, tables: &mut dyn Tables) {
        self.chain = Arc::default();
        (0..tables.count()).for_each(|i| tables.table(i).detach());
    }

    /// Loads what `segments` hold of this task's groups into `tables`, which are empty, and builds later
    /// snapshots on it. `metas` are the operator's states as in the manifest. Blocks on the disk: for plain threads.
    ///
    /// Segments of several former tasks may come in any order and more than once; their headers give their order. Of the
    /// files only what this task's groups need is read, and all that is read is checked; [`verify`] checks all.
    ///
    /// # Errors
    /// The tables are then partly filled; drop them.
    /// - [`StoreError::Incompatible`]: a state has another type of key than its table, or values that the table's type
    ///   does not read; no table has its name; or the job had another maximum parallelism.
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
        let stored = restore::Stored {
            disk,
            job_dir,
            segments,
            metas,
            allow_unmatched: self.allow_unmatched,
            threads: self.restore_threads,
        };
        crash_point!("restore.before_keyed");
        self.chain = Arc::new(stored.load(&self.groups, tables)?);
        crash_point!("restore.after_keyed");
        Ok(())
    }
}

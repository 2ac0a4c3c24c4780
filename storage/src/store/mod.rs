//! The state store by itself: typed tables, checkpoints and recovery for one thread of any program, without an engine.
//!
//! A [`Store`] puts the parts of this crate together as the engine does for one task: tables in memory, incremental snapshots of
//! them, files on a disk, and a checkpoint directory whose manifests say what is complete.
//!
//! ```
//! use thalweg_storage::store::{Store, StoreOptions, Table};
//!
//! struct Visits {
//!     by_user: Table<u64, u64>,
//!     by_page: Table<String, u64>,
//! }
//! thalweg_storage::tables!(Visits { by_user, by_page });
//!
//! # fn main() -> Result<(), thalweg_storage::StoreError> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//! let open = || {
//!     Store::open(StoreOptions::new(dir), |tables| Visits {
//!         by_user: tables.value("by-user"),
//!         by_page: tables.value("by-page"),
//!     })
//! };
//! let mut store = open()?;
//! store.tables().by_user.update(&7, || 0, |visits| *visits += 1);
//! store.tables().by_page.insert(&"/".to_owned(), 1);
//! let complete = store.checkpoint()?; // durable from here on
//! store.tables().by_user.insert(&7, 1_000_000); // in no checkpoint yet
//! drop(store);
//!
//! let mut store = open()?;
//! assert_eq!(store.latest(), Some(complete));
//! assert_eq!(store.tables().by_user.get(&7), Some(1));
//! # Ok(())
//! # }
//! ```
//!
//! Always true:
//! - the tables hold what the latest completed checkpoint held when the store was opened, and what was changed since;
//! - a completed checkpoint holds all tables as they were when it began;
//! - after a checkpoint that failed, the tables are as they were, and the next one holds everything.
//!
//! Driven by one thread. [`Store::checkpoint`] and [`Store::open`] wait for the disk; [`Store::advance`] does so only
//! to publish what it has written.

mod wake;
mod options;
mod tables;
mod writing;
#[cfg(test)]
mod tests;

pub use options::{BackendChoice, StoreOptions};
pub use tables::{Table, TableMaker};

use crate::checkpoint::{CheckpointStore, names};
use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::DiskHandle;
use crate::key_group::KeyGroups;
use crate::log::LogOptions;
use crate::manifest::{KeyedStateMeta, Manifest, ManifestKind, OperatorState, SegmentRef, SubtaskState};
use crate::snapshot::{KeyedSnapshots, Tables};
use crate::table::{Backend, TableStats};
use std::path::Path;
use std::sync::Arc;
use wake::Wake;
use writing::{Writing, Written};

/// The operator under which manifests list a store's tables.
const UID: &str = "store";

/// Rows that a blocking checkpoint visits in one slice.
const SLICE_ROWS: usize = 16 << 10;

/// What [`Store::advance`] has achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No checkpoint is under way.
    Idle,
    /// A slice was written; there is more to do at once.
    More,
    /// The disk is busy: call again later, or after [`Store::wait`].
    Waits,
    /// The checkpoint is complete and durable. Earlier ones that are not retained are gone.
    Completed(CheckpointId),
}

/// What the checkpoints of a [`Store`] have cost since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Checkpoints that have completed.
    pub checkpoints: u64,
    /// Checkpoints that have failed, those of unknown outcome included.
    pub checkpoints_failed: u64,
    /// Bytes of segments that all checkpoints have written, failed ones included.
    pub segment_bytes: u64,
    /// Bytes of segments that the last completed checkpoint has written.
    pub last_segment_bytes: u64,
    /// Bytes of all segments that the last completed checkpoint consists of.
    pub last_total_bytes: u64,
    /// Number of segments that the last completed checkpoint consists of.
    pub last_segments: u64,
    /// Bytes of the manifest of the last completed checkpoint.
    pub last_manifest_bytes: u64,
}

/// Tables `T` whose checkpoints survive crashes. See the [module](self).
pub struct Store<T: Tables> {
    tables: T,
    metas: Vec<KeyedStateMeta>,
    snapshots: KeyedSnapshots,
    checkpoints: CheckpointStore,
    disk: DiskHandle,
    wake: Arc<Wake>,
    /// [`Wake::seen`] when the last [`Store::advance`] began.
    seen: u64,
    options: StoreOptions,
    attempt: AttemptId,
    writing: Option<Writing>,
    latest: Option<CheckpointId>,
    stats: StoreStats,
}

impl<T: Tables> Store<T> {
    /// Opens the store, with `make` for its tables, and loads the latest completed checkpoint into them, if there is
    /// one. Keeps every other store and engine out of the directory until it is dropped.
    ///
    /// Files that no completed checkpoint needs, such as those of a crash, are deleted.
    ///
    /// # Errors
    /// - [`StoreError::Locked`]: another store has it open, and still had after five seconds.
    /// - [`StoreError::Corrupt`], [`StoreError::NewerFormat`]: the latest checkpoint is damaged, or newer than this
    ///   build. Nothing was changed, and no older one is taken instead.
    /// - [`StoreError::Incompatible`]: a table has other types than in the checkpoint or is missing, or the number of key
    ///   groups differs.
    /// - [`StoreError::Io`]: the disk refused an operation; a later try may succeed.
    pub fn open(options: StoreOptions, make: impl FnOnce(&mut TableMaker) -> T) -> Result<Self, StoreError> {
        let wake = Arc::new(Wake::default());
        let disk = options.start_disk()?.with_notify(Arc::clone(&wake) as _);
        let open = if options.locked { CheckpointStore::open } else { CheckpointStore::open_unlocked };
        let mut checkpoints = open(disk.clone(), &options.dir, &options.name)?;
        let manifest = checkpoints.latest()?;
        let attempt = checkpoints.next_attempt()?;

        let key_groups = KeyGroups::new(options.max_parallelism);
        let backend = match options.backend {
            BackendChoice::HashMap => Backend::HashMap,
            BackendChoice::Log => Backend::Log(LogOptions {
                disk: Some(disk.clone()),
                job_dir: Some(checkpoints.dir().to_owned()),
                scratch: Some(checkpoints.dir().join(names::scratch_path(attempt, 0, 0))),
                memory_bytes: options.memory_bytes,
            }),
        };
        let mut tables = make(&mut TableMaker::new(backend, key_groups, Arc::clone(&wake)));
        let metas = metas_of(&mut tables);
        let mut snapshots =
            KeyedSnapshots::new(0..key_groups.count(), options.incremental, options.zstd_level);
        snapshots.allow_unmatched(options.allow_unmatched);
        if let Some(bytes) = options.segment_bytes {
            snapshots.file_bytes(bytes);
        }
        if let Some(manifest) = &manifest {
            restore(manifest, key_groups, &disk, &checkpoints, &mut snapshots, &mut tables)?;
        }
        Ok(Store {
            tables,
            metas,
            snapshots,
            checkpoints,
            disk,
            wake,
            seen: 0,
            options,
            attempt,
            writing: None,
            latest: manifest.map(|manifest| manifest.checkpoint),
            stats: StoreStats::default(),
        })
    }

    /// The tables.
    pub fn tables(&mut self) -> &mut T {
        &mut self.tables
    }

    /// The latest completed checkpoint: the one that the store was opened with, or one that has completed since.
    pub fn latest(&self) -> Option<CheckpointId> {
        self.latest
    }

    /// Takes a checkpoint of the tables as they are now, and returns when it is complete and durable.
    ///
    /// One that is under way is completed first. Does all upkeep that is due, see [`Store::maintain`].
    ///
    /// # Errors
    /// As of [`Store::advance`].
    pub fn checkpoint(&mut self) -> Result<CheckpointId, StoreError> {
        self.finish()?;
        while self.maintain(SLICE_ROWS)? {}
        self.begin_checkpoint()?;
        Ok(self.finish()?.expect("a checkpoint was begun, and did not fail"))
    }

    /// Begins a checkpoint of the tables as they are now; [`Store::advance`] writes it, while the tables change on. Takes
    /// no time in the size of the state, but makes the checkpoint's directory durable. One that is under way is completed
    /// first.
    ///
    /// # Errors
    /// As of [`Store::advance`]; no checkpoint is under way then.
    ///
    /// # Panics
    /// When tables were replaced since the store was opened.
    pub fn begin_checkpoint(&mut self) -> Result<CheckpointId, StoreError> {
        self.finish()?;
        assert!(
            metas_of(&mut self.tables) == self.metas,
            "the tables of a store stay those that it was opened with"
        );
        let id = self.checkpoints.begin()?;
        let path = names::segment_path(self.attempt, id, 0, 0);
        self.snapshots.begin(id, self.attempt, path, &mut self.tables);
        self.writing = Some(Writing::new(id, (self.options.unix_ms)(), self.checkpoints.dir()));
        Ok(id)
    }

    /// Does one slice of the work for the checkpoint under way, about `rows` rows (2,048 take about 50 µs). The last slice
    /// publishes the checkpoint, which waits for several syncs of the disk.
    ///
    /// # Errors
    /// The checkpoint under way has failed, and none is under way any more; the tables and earlier checkpoints are as they
    /// were, and the next checkpoint holds everything.
    /// - [`StoreError::Io`]: the disk refused an operation. Try another checkpoint later. Where the sync of a *directory* has
    ///   failed, all later ones fail too: take a savepoint elsewhere, or reopen the store.
    /// - [`StoreError::OutcomeUnknown`]: the checkpoint may be found complete when the store is opened the next time.
    pub fn advance(&mut self, rows: usize) -> Result<Progress, StoreError> {
        let Some(writing) = &mut self.writing else { return Ok(Progress::Idle) };
        self.seen = self.wake.seen();
        let before = writing.bytes();
        let written = writing
            .advance(&self.disk, &mut self.snapshots, &mut self.tables, rows)
            .and_then(|written| look_after(&mut self.tables, written));
        self.stats.segment_bytes += writing.bytes() - before;
        let completed = match written {
            Ok(Written::More) => return Ok(Progress::More),
            Ok(Written::Waits) => return Ok(Progress::Waits),
            Ok(Written::Durable) => self.publish(),
            Err(error) => Err(error),
        };
        if completed.is_err() {
            self.abort(matches!(completed, Err(StoreError::OutcomeUnknown { .. })));
        }
        completed.map(Progress::Completed)
    }

    /// Waits until the disk has answered since [`Store::advance`] has said [`Progress::Waits`].
    pub fn wait(&self) {
        self.wake.wait_beyond(self.seen);
    }

    /// Gives up the checkpoint under way, if there is one: the next holds everything.
    pub fn cancel_checkpoint(&mut self) {
        self.abort(false);
    }

    /// Drives the checkpoint under way to its end.
    fn finish(&mut self) -> Result<Option<CheckpointId>, StoreError> {
        loop {
            match self.advance(SLICE_ROWS)? {
                Progress::Idle => return Ok(None),
                Progress::More => {}
                Progress::Waits => self.wait(),
                Progress::Completed(id) => return Ok(Some(id)),
            }
        }
    }

    /// Publishes the checkpoint whose files are all durable.
    fn publish(&mut self) -> Result<CheckpointId, StoreError> {
        let writing = self.writing.as_mut().expect("a checkpoint is under way");
        writing.keep();
        let (id, triggered) = (writing.id, writing.triggered_unix_ms);
        let segments = self.snapshots.segments(id).list();
        let total_bytes = segments.iter().map(|segment| segment.bytes).sum();
        let (segment_bytes, count) = (writing.bytes(), segments.len() as u64);
        let manifest = self.manifest(id, self.attempt, triggered, segments);
        let manifest_bytes = self.checkpoints.publish(&manifest, self.options.retained, &|_| false)?;
        self.snapshots.completed(id, &mut self.tables);
        self.writing = None;
        self.latest = Some(id);
        self.stats.checkpoints += 1;
        self.stats.last_segment_bytes = segment_bytes;
        self.stats.last_total_bytes = total_bytes;
        self.stats.last_segments = count;
        self.stats.last_manifest_bytes = manifest_bytes;
        Ok(id)
    }

    fn manifest(
        &self,
        checkpoint: CheckpointId,
        attempt: AttemptId,
        triggered_unix_ms: u64,
        segments: Vec<SegmentRef>,
    ) -> Manifest {
        Manifest {
            job: self.options.name.clone(),
            checkpoint,
            attempt,
            triggered_unix_ms,
            max_parallelism: self.options.max_parallelism,
            kind: ManifestKind::Checkpoint,
            origin: None,
            operators: vec![OperatorState {
                uid: UID.to_owned(),
                parallelism: 1,
                keyed: self.metas.clone(),
                subtasks: vec![SubtaskState { segments, ..SubtaskState::default() }],
            }],
            edges: Vec::new(),
            channels: Vec::new(),
        }
    }

    /// Writes the tables as they are now to a directory of their own, durably, and returns when that is done. A checkpoint
    /// that is under way is completed first.
    ///
    /// The result is a store by itself, which refers to nothing outside: to start from it, open `dir` or a copy of it, with
    /// either backend. No later checkpoint of this store builds on it, and this store never deletes it.
    ///
    /// # Errors
    /// Nothing of `dir` may be used; remove it.
    /// - [`StoreError::Incompatible`]: `dir` holds a checkpoint or savepoint already.
    /// - [`StoreError::Io`], [`StoreError::OutcomeUnknown`]: the disk refused an operation.
    /// - As of [`Store::advance`], for the checkpoint under way.
    pub fn savepoint(&mut self, dir: impl AsRef<Path>) -> Result<(), StoreError> {
        self.finish()?;
        let dir = dir.as_ref();
        let open = if self.options.locked { CheckpointStore::open } else { CheckpointStore::open_unlocked };
        let mut target = open(self.disk.clone(), dir, &self.options.name)?;
        if !target.completed().is_empty() {
            let message = format!("{} holds a checkpoint already: choose another directory", dir.display());
            return Err(StoreError::Incompatible(message));
        }
        let (attempt, id) = (target.next_attempt()?, target.begin()?);
        let path = names::segment_path(attempt, id, 0, 0);
        self.snapshots.begin_savepoint(id, attempt, path, &mut self.tables);
        let mut writing = Writing::new(id, (self.options.unix_ms)(), target.dir());
        let written = self.write(&mut writing).and_then(|()| {
            writing.keep();
            let segments = self.snapshots.segments(id).list();
            let manifest = self.manifest(id, attempt, writing.triggered_unix_ms, segments);
            target.publish(&manifest, 1, &|_| false).map(drop)
        });
        // Nothing builds on a savepoint: to the tables it is as though it had not been.
        self.snapshots.aborted(id, &mut self.tables);
        written
    }

    /// Drives a snapshot until its files are durable.
    fn write(&mut self, writing: &mut Writing) -> Result<(), StoreError> {
        loop {
            let seen = self.wake.seen();
            let written = writing.advance(&self.disk, &mut self.snapshots, &mut self.tables, SLICE_ROWS)?;
            match look_after(&mut self.tables, written)? {
                Written::More => {}
                Written::Waits => self.wake.wait_beyond(seen),
                Written::Durable => return Ok(()),
            }
        }
    }

    /// Ends the checkpoint under way without completing it.
    fn abort(&mut self, outcome_unknown: bool) {
        let Some(writing) = self.writing.take() else { return };
        let (id, paths) = (writing.id, writing.paths());
        self.stats.checkpoints_failed += 1;
        self.snapshots.aborted(id, &mut self.tables);
        if outcome_unknown {
            return;
        }
        drop(writing);
        if let Err(error) = self.checkpoints.discard(id, &paths, &|_| false) {
            tracing::warn!(checkpoint = id.0, %error, "files of a failed checkpoint remain for now");
        }
    }

    /// Does a slice of upkeep of each table, such as compaction; about what `rows` rows cost. True when there is more to do at
    /// once. For callers of [`Store::begin_checkpoint`], now and then between batches.
    ///
    /// # Errors
    /// A table could not read a part of itself back from disk, and cannot go on. Reopen the store.
    pub fn maintain(&mut self, rows: usize) -> Result<bool, StoreError> {
        let mut more = false;
        for index in 0..self.tables.count() {
            more |= self.tables.table(index).maintain(rows)?;
        }
        Ok(more)
    }

    /// What checkpoints have cost.
    pub fn stats(&self) -> StoreStats {
        self.stats
    }

    /// Name, counts and sizes of each table.
    pub fn table_stats(&mut self) -> Vec<(String, TableStats)> {
        let stats =
            |(index, meta): (usize, &KeyedStateMeta)| (meta.name.clone(), self.tables.table(index).stats());
        self.metas.iter().enumerate().map(stats).collect()
    }
}

/// Where a snapshot waits, it may be for a read of a table that has failed: only the table's upkeep tells of that.
fn look_after(tables: &mut dyn Tables, written: Written) -> Result<Written, StoreError> {
    if written == Written::Waits {
        for index in 0..tables.count() {
            tables.table(index).maintain(0)?;
        }
    }
    Ok(written)
}

fn metas_of(tables: &mut dyn Tables) -> Vec<KeyedStateMeta> {
    (0..tables.count()).map(|index| tables.table(index).meta()).collect()
}

/// Loads the tables of a checkpoint.
fn restore(
    manifest: &Manifest,
    key_groups: KeyGroups,
    disk: &DiskHandle,
    checkpoints: &CheckpointStore,
    snapshots: &mut KeyedSnapshots,
    tables: &mut dyn Tables,
) -> Result<(), StoreError> {
    if manifest.max_parallelism != key_groups.count() {
        return Err(StoreError::Incompatible(format!(
            "the checkpoint in {} divides its keys into {} groups, and the store is opened with {}: their number is fixed \
             for a store's life",
            checkpoints.dir().display(),
            manifest.max_parallelism,
            key_groups.count()
        )));
    }
    let operator = match manifest.operators.as_slice() {
        [operator] if operator.uid == UID => operator,
        _ => {
            return Err(StoreError::Incompatible(format!(
                "the checkpoint in {} is that of an engine's job, not of a store",
                checkpoints.dir().display()
            )));
        }
    };
    let segments: Vec<_> = operator.subtasks.iter().flat_map(|subtask| subtask.segments.clone()).collect();
    snapshots.restore(disk, checkpoints.dir(), &segments, &operator.keyed, tables)
}

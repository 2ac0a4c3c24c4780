//! Our side of the scenarios that measure the state store by itself: a store with one table, filled, updated in batches, snapshotted.

use crate::Result;
use crate::report::{CheckpointFolder, thread_cpu_time};
use crate::workload::{Access, Keys, bump, fill_value};
use clap::ValueEnum;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thalweg_storage::Data;
use thalweg_storage::io::{DiskHandle, StdDisk};
use thalweg_storage::snapshot::Tables;
use thalweg_storage::store::{BackendChoice, Progress, Store, StoreOptions, Table};

/// Records of a batch, as in a channel of the engine.
pub const BATCH_RECORDS: usize = 1024;
/// Batches whose keys are made before they are measured together.
const CHUNK_BATCHES: usize = 64;
/// Rows that one slice of a snapshot or of upkeep visits, as in a task of the engine.
pub const SLICE_ROWS: usize = 2048;

/// Where keyed state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Typed values in a table.
    Hashmap,
    /// The log-structured store.
    Log,
}

/// Options that all scenarios of the store share.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// Where state is kept; may be given several times
    #[arg(long = "state-backend", visible_alias = "backend", value_enum,
          default_values_t = [Backend::Hashmap, Backend::Log])]
    pub backends: Vec<Backend>,
    /// Runs of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,
    /// Runs RocksDB and fjall beside it, on the same data with the same memory
    #[arg(long)]
    pub peers: bool,
    /// File that the rows are appended to, instead of target/bench/SCENARIO.jsonl
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// A value with a count that an update raises.
pub trait Value: Data {
    /// What `key` has before any update.
    fn first(key: u64) -> Self;
    /// One update.
    fn bump(&mut self);
}

impl Value for u64 {
    fn first(_: u64) -> Self {
        0
    }

    #[inline(always)]
    fn bump(&mut self) {
        *self += 1;
    }
}

/// A value of 100 bytes, about half of which compress away.
pub type Payload = [u8; 100];

impl Value for Payload {
    fn first(key: u64) -> Self {
        let mut value = [0; 100];
        fill_value(key, &mut value);
        value
    }

    #[inline(always)]
    fn bump(&mut self) {
        bump(self);
    }
}

/// A store with one table.
pub type OneTable<V> = Store<Table<u64, V>>;

/// Options of a store of `backend` below `dir`.
///
/// # Errors
/// Threads for the disk could not be started.
pub fn options(backend: Backend, dir: &Path, disk: Option<DiskHandle>) -> Result<StoreOptions> {
    let disk = match disk {
        Some(disk) => disk,
        None => DiskHandle::new(StdDisk::start(2)?),
    };
    let choice = match backend {
        Backend::Hashmap => BackendChoice::HashMap,
        Backend::Log => BackendChoice::Log,
    };
    Ok(StoreOptions::new(dir).disk(disk).backend(choice))
}

/// Opens a store with one table.
///
/// # Errors
/// As of [`Store::open`].
pub fn open<V: Value>(options: StoreOptions) -> Result<OneTable<V>> {
    Ok(Store::open(options, |tables| tables.value("values"))?)
}

/// Puts keys 0..keys into the table, with their first values.
///
/// # Errors
/// The disk failed.
pub fn fill<V: Value>(store: &mut OneTable<V>, keys: u64) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH_RECORDS);
    for start in (0..keys).step_by(BATCH_RECORDS) {
        batch.clear();
        batch.extend(start..keys.min(start + BATCH_RECORDS as u64));
        store.tables().update_batch(&batch, |index| V::first(start + index as u64), |_, _| {})?;
    }
    Ok(())
}

/// Updates each of `keys`, which are in the table.
///
/// # Errors
/// The disk failed.
#[inline]
pub fn update<V: Value>(store: &mut OneTable<V>, keys: &[u64]) -> Result<()> {
    let absent = |index: usize| -> V { panic!("key {} is missing", keys[index]) };
    store.tables().update_batch(keys, absent, |_, value| value.bump())?;
    Ok(())
}

/// Checkpoints that are taken while tables are updated, a part of the work between any two batches.
#[derive(Debug)]
pub struct Schedule {
    every: Duration,
    next: Duration,
    /// Checkpoints completed.
    pub completed: u64,
}

impl Schedule {
    /// The first after one interval.
    pub fn new(every: Duration) -> Self {
        Schedule { every, next: every, completed: 0 }
    }

    /// Does what is due at `now`, a time since the start, for `share` at most, or one slice: as in the engine, where background work
    /// has half of a task's time while a checkpoint is under way.
    ///
    /// # Errors
    /// A checkpoint failed, or upkeep.
    pub fn work<T: Tables>(&mut self, store: &mut Store<T>, now: Duration, share: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let more = match store.advance(SLICE_ROWS)? {
                Progress::Idle if now >= self.next => {
                    self.next = now + self.every;
                    store.begin_checkpoint()?;
                    true
                }
                Progress::Completed(_) => {
                    self.completed += 1;
                    false
                }
                Progress::More => true,
                Progress::Idle | Progress::Waits => store.maintain(SLICE_ROWS)?,
            };
            if !more || start.elapsed() >= share {
                return Ok(());
            }
        }
    }
}

/// What a run of updates came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct UpdateFigures {
    /// Records updated.
    pub records: u64,
    /// Seconds, without making the keys.
    pub seconds: f64,
    /// Processor time of the thread in seconds, without making the keys.
    pub cpu_seconds: f64,
    /// Checkpoints completed.
    pub checkpoints: u64,
}

impl UpdateFigures {
    /// Records per second.
    pub fn records_per_s(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    /// Records per second of processor time.
    pub fn records_per_cpu_s(&self) -> f64 {
        self.records as f64 / self.cpu_seconds
    }
}

/// Updates batches of keys for `measure`, checkpoints included where `schedule` has them, and then until one at least has completed.
/// Calls `look` once in a while.
///
/// # Errors
/// The disk failed.
pub fn run_updates<V: Value>(
    store: &mut OneTable<V>,
    keys: &mut Keys,
    measure: Duration,
    schedule: &mut Option<Schedule>,
    mut look: impl FnMut(&mut OneTable<V>) -> Result<()>,
) -> Result<UpdateFigures> {
    let mut chunk = vec![0; BATCH_RECORDS * CHUNK_BATCHES];
    let (mut elapsed, mut cpu, mut records) = (Duration::ZERO, Duration::ZERO, 0);
    while elapsed < measure || schedule.as_ref().is_some_and(|schedule| schedule.completed == 0) {
        keys.fill(&mut chunk);
        let (start, cpu_start) = (Instant::now(), thread_cpu_time());
        for batch in chunk.chunks(BATCH_RECORDS) {
            let Some(schedule) = schedule else {
                update(store, batch)?;
                continue;
            };
            let batch_start = Instant::now();
            update(store, batch)?;
            schedule.work(store, elapsed + start.elapsed(), batch_start.elapsed())?;
        }
        elapsed += start.elapsed();
        cpu += thread_cpu_time() - cpu_start;
        records += chunk.len() as u64;
        look(store)?;
    }
    let checkpoints = schedule.as_ref().map_or(0, |schedule| schedule.completed);
    Ok(UpdateFigures { records, seconds: elapsed.as_secs_f64(), cpu_seconds: cpu.as_secs_f64(), checkpoints })
}

/// A folder for one store, removed when dropped.
///
/// # Errors
/// It could not be made.
pub fn folder(scenario: &str) -> Result<CheckpointFolder> {
    CheckpointFolder::create(scenario)
}

/// Which sequence of keys a run uses, the same for our side and the other's.
pub fn seed_of(run: u32) -> u64 {
    u64::from(run) + 1
}

/// Keys of `access` for a run.
pub fn keys_of(access: Access, keys: u64, run: u32) -> Keys {
    Keys::new(access, keys, seed_of(run))
}

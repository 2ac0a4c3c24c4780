//! Builds an engine from settings.

use super::Engine;
use crate::clock::SystemClock;
use crate::config::{CheckpointRetention, EngineConfig, MemorySize, Span, StateBackend};
use crate::control::CheckpointMode;
use crate::coordinator::RestartStrategy;
use crate::error::Error;
use crate::worker::{DriverChoice, DriverKind, WorkerOptions, Workers, available_cores};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_storage::io::{Disk, DiskHandle, StdDisk};
use thalweg_storage::key_group::MAX_PARALLELISM_DEFAULT;

/// Threads of the blocking disk, so that a sync does not hold up a read.
const DISK_THREADS: usize = 2;

/// Settings of an engine to be built. Every one has a default; those that Apache Flink has keep its default.
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    workers: Option<usize>,
    parallelism: Option<u32>,
    max_parallelism: u16,
    driver: DriverChoice,
    pin: bool,
    checkpoint_dir: Option<PathBuf>,
    checkpoint_interval: Option<Span>,
    checkpoint_timeout: Span,
    min_pause: Span,
    max_concurrent: usize,
    tolerable_failures: u32,
    mode: CheckpointMode,
    retained: usize,
    retention: CheckpointRetention,
    checkpoint_history: usize,
    savepoint_dir: Option<PathBuf>,
    incremental: bool,
    state_backend: StateBackend,
    state_memory: Option<MemorySize>,
    zstd_level: i32,
    buffer_timeout: Span,
    ring_batches: usize,
    batch_records: usize,
    pool_bytes: usize,
    restart: Option<RestartStrategy>,
    heartbeat_timeout: Span,
}

impl Default for EngineBuilder {
    fn default() -> Self {
        EngineBuilder {
            workers: None,
            parallelism: None,
            max_parallelism: MAX_PARALLELISM_DEFAULT,
            driver: DriverChoice::Auto,
            pin: true,
            checkpoint_dir: None,
            checkpoint_interval: None,
            checkpoint_timeout: Span::Parsed(Duration::from_secs(600)),
            min_pause: Span::Parsed(Duration::ZERO),
            max_concurrent: 1,
            tolerable_failures: 0,
            mode: CheckpointMode::Aligned,
            retained: 1,
            retention: CheckpointRetention::default(),
            checkpoint_history: 10,
            savepoint_dir: None,
            incremental: true,
            state_backend: StateBackend::HashMap,
            state_memory: None,
            zstd_level: 1,
            buffer_timeout: Span::Parsed(Duration::from_millis(100)),
            ring_batches: 16,
            batch_records: 1024,
            pool_bytes: 256 << 20,
            restart: None,
            heartbeat_timeout: Span::Parsed(Duration::from_secs(50)),
        }
    }
}

impl EngineBuilder {
    /// Number of workers. Default: one per core that this process may use, cgroup quotas included.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = Some(workers);
        self
    }

    /// Partitions of operators that do not say. Default: the number of workers. More than there are cores works.
    pub fn parallelism(mut self, parallelism: u32) -> Self {
        self.parallelism = Some(parallelism);
        self
    }

    /// Number of key groups, fixed for a job's life. Default: 128.
    pub fn max_parallelism(mut self, max_parallelism: u16) -> Self {
        self.max_parallelism = max_parallelism;
        self
    }

    /// What the workers run on. Default: glommio where io_uring works, else threads.
    pub fn driver(mut self, driver: DriverChoice) -> Self {
        self.driver = driver;
        self
    }

    /// Whether each worker is pinned to a core of its own. Default: yes, where there are enough cores.
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Where checkpoints go. Without it there are none: a restart begins from scratch, and sinks commit at the end.
    pub fn checkpoint_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.checkpoint_dir = Some(dir.into());
        self
    }

    /// Time from one checkpoint to the next. Default: only those asked for, and one when all data have been read.
    pub fn checkpoint_interval(mut self, interval: impl Into<Span>) -> Self {
        self.checkpoint_interval = Some(interval.into());
        self
    }

    /// A checkpoint that takes longer fails. Default: 10 minutes.
    pub fn checkpoint_timeout(mut self, timeout: impl Into<Span>) -> Self {
        self.checkpoint_timeout = timeout.into();
        self
    }

    /// Least time between the end of a checkpoint and the next periodic one. Default: none.
    pub fn min_pause_between_checkpoints(mut self, pause: impl Into<Span>) -> Self {
        self.min_pause = pause.into();
        self
    }

    /// Checkpoints under way at once; only aligned and at-least-once ones overlap. Default: 1.
    pub fn max_concurrent_checkpoints(mut self, count: usize) -> Self {
        self.max_concurrent = count;
        self
    }

    /// Failed checkpoints in a row that do not yet fail the job. Default: 0.
    pub fn tolerable_failed_checkpoints(mut self, count: u32) -> Self {
        self.tolerable_failures = count;
        self
    }

    /// How checkpoints treat in-flight data. Default: aligned.
    pub fn checkpoint_mode(mut self, mode: CheckpointMode) -> Self {
        self.mode = mode;
        self
    }

    /// Completed checkpoints that are kept. Default: 1.
    pub fn retained_checkpoints(mut self, count: usize) -> Self {
        self.retained = count;
        self
    }

    /// Which completed checkpoints stay when the job ends. Default: all, so that a job that is started again goes on.
    pub fn externalized_checkpoint_retention(mut self, retention: CheckpointRetention) -> Self {
        self.retention = retention;
        self
    }

    /// Number of checkpoints whose statistics [`super::JobHandle::metrics`] shows. Default: 10.
    pub fn checkpoint_history(mut self, count: usize) -> Self {
        self.checkpoint_history = count;
        self
    }

    /// Where savepoints go for which no other directory is given. Default: none, so that each needs one.
    pub fn savepoint_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.savepoint_dir = Some(dir.into());
        self
    }

    /// Whether checkpoints write only what changed since the last completed one. Default: yes.
    pub fn incremental_checkpoints(mut self, incremental: bool) -> Self {
        self.incremental = incremental;
        self
    }

    /// Where keyed state lives. Default: tables in memory.
    pub fn state_backend(mut self, backend: StateBackend) -> Self {
        self.state_backend = backend;
        self
    }

    /// Memory for the pages of all keyed state of the engine, such as `"80mb"`; the log-structured backend reads those that
    /// do not fit back from disk. Its index comes on top: about 10 to 15 bytes per key. Default: no limit. Tables
    /// in memory have none either way.
    ///
    /// It is divided evenly over all state tables of all partitions.
    pub fn state_memory(mut self, memory: impl Into<MemorySize>) -> Self {
        self.state_memory = Some(memory.into());
        self
    }

    /// Zstandard level of snapshots, 1 to 22. Default: 1.
    pub fn compression_level(mut self, level: i32) -> Self {
        self.zstd_level = level;
        self
    }

    /// A batch that is not full leaves after this long, or sooner if its consumer has nothing to do. Default: 100 ms.
    pub fn buffer_timeout(mut self, timeout: impl Into<Span>) -> Self {
        self.buffer_timeout = timeout.into();
        self
    }

    /// Batches that a channel's ring holds. Default: 16.
    pub fn ring_batches(mut self, batches: usize) -> Self {
        self.ring_batches = batches;
        self
    }

    /// Records of a batch at most; 32 KiB are the other limit. Default: 1,024.
    pub fn batch_records(mut self, records: usize) -> Self {
        self.batch_records = records;
        self
    }

    /// Memory for batches beyond the two that every channel may always hold, in bytes. Default: 256 MiB.
    pub fn batch_memory(mut self, bytes: usize) -> Self {
        self.pool_bytes = bytes;
        self
    }

    /// Whether and when a failed job starts again. Default, as in Flink: with checkpoints always, after a delay that grows from
    /// one second to one minute while failures go on; without checkpoints never, since it could only begin from scratch.
    pub fn restart_strategy(mut self, strategy: RestartStrategy) -> Self {
        self.restart = Some(strategy);
        self
    }

    /// A worker that makes no progress for this long fails the job, naming the operator it is stuck in. Default: 50 s.
    pub fn heartbeat_timeout(mut self, timeout: impl Into<Span>) -> Self {
        self.heartbeat_timeout = timeout.into();
        self
    }

    /// The settings, checked.
    ///
    /// # Errors
    /// [`Error::Config`] names the first setting that cannot be used.
    pub(super) fn config(&self) -> Result<EngineConfig, Error> {
        let refuse = |key, message: String| Err(Error::Config { key, message });
        let workers = self.workers.unwrap_or_else(available_cores);
        if workers == 0 {
            return refuse("workers", "an engine needs at least one worker".to_owned());
        }
        if !(1..=32_768).contains(&self.max_parallelism) {
            return refuse(
                "pipeline.max-parallelism",
                format!("{} is not in 1..=32768", self.max_parallelism),
            );
        }
        let parallelism = self.parallelism.unwrap_or(workers as u32).max(1);
        if parallelism > u32::from(self.max_parallelism) {
            let message = format!("{parallelism} exceeds the max parallelism {}", self.max_parallelism);
            return refuse("parallelism.default", message);
        }
        let least_one = [
            ("execution.checkpointing.max-concurrent-checkpoints", self.max_concurrent),
            ("state.checkpoints.num-retained", self.retained),
            ("ring_batches", self.ring_batches),
            ("batch_records", self.batch_records),
        ];
        if let Some((key, _)) = least_one.iter().find(|(_, value)| *value == 0) {
            return refuse(key, "must be at least 1".to_owned());
        }
        if let Some((key, message)) = self.restart.as_ref().and_then(RestartStrategy::mistake) {
            return refuse(key, message);
        }
        if !(1..=22).contains(&self.zstd_level) {
            return refuse("compression_level", format!("{} is not in 1..=22", self.zstd_level));
        }
        let memory_key = "state.backend.log.memory";
        let state_memory_bytes =
            self.state_memory.as_ref().map(|memory| memory.bytes(memory_key)).transpose()?;
        if state_memory_bytes == Some(0) {
            return refuse(memory_key, "must be more than nothing".to_owned());
        }
        let interval_key = "execution.checkpointing.interval";
        let checkpoint_interval =
            self.checkpoint_interval.as_ref().map(|span| span.duration(interval_key)).transpose()?;
        if checkpoint_interval == Some(Duration::ZERO) {
            return refuse(interval_key, "must be longer than nothing".to_owned());
        }
        if checkpoint_interval.is_some() && self.checkpoint_dir.is_none() {
            return refuse(
                "execution.checkpointing.dir",
                "checkpoints at an interval need a directory".to_owned(),
            );
        }
        Ok(EngineConfig {
            workers,
            parallelism,
            max_parallelism: self.max_parallelism,
            pin: self.pin,
            checkpoint_dir: self.checkpoint_dir.clone(),
            checkpoint_interval,
            checkpoint_timeout: self.checkpoint_timeout.duration("execution.checkpointing.timeout")?,
            min_pause: self.min_pause.duration("execution.checkpointing.min-pause")?,
            max_concurrent: self.max_concurrent,
            tolerable_failures: self.tolerable_failures,
            mode: self.mode,
            retained: self.retained,
            retention: self.retention,
            checkpoint_history: self.checkpoint_history,
            savepoint_dir: self.savepoint_dir.clone(),
            incremental: self.incremental,
            state_backend: self.state_backend,
            state_memory_bytes,
            zstd_level: self.zstd_level,
            buffer_timeout: self.buffer_timeout.duration("execution.buffer-timeout.interval")?,
            ring_batches: self.ring_batches,
            batch_records: self.batch_records,
            pool_bytes: self.pool_bytes,
        })
    }

    pub(super) fn heartbeat(&self) -> Result<Duration, Error> {
        self.heartbeat_timeout.duration("heartbeat.timeout")
    }

    /// What becomes of a failed job.
    pub(super) fn restart(&self) -> RestartStrategy {
        let unless_set = match self.checkpoint_dir {
            Some(_) => RestartStrategy::default(),
            None => RestartStrategy::None,
        };
        self.restart.unwrap_or(unless_set)
    }

    /// Starts the engine's workers.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting that cannot be used, [`Error::Workers`] when workers cannot be started, such
    /// as with glommio asked for where io_uring is not available. Nothing is left running.
    pub fn build(self) -> Result<Engine, Error> {
        let config = self.config()?;
        let heartbeat_timeout = self.heartbeat()?;
        let restart = self.restart();
        let clock = SystemClock::start();
        let options = WorkerOptions {
            workers: config.workers,
            driver: self.driver,
            pin: self.pin,
            clock: Arc::clone(&clock),
        };
        let workers = Workers::start(options).map_err(|error| Error::Workers(error.to_string()))?;
        let disk = DiskHandle::new(disk_for(workers.driver())?);
        Ok(Engine {
            config,
            restart,
            heartbeat_timeout,
            workers: Arc::new(workers),
            disk,
            clock,
            running: Mutex::new(None),
        })
    }
}

/// The disk that goes with a driver: io_uring where the workers use it too.
fn disk_for(driver: DriverKind) -> Result<Arc<dyn Disk>, Error> {
    #[cfg(target_os = "linux")]
    if driver == DriverKind::Glommio {
        match thalweg_storage::io::UringDisk::start() {
            Ok(disk) => return Ok(disk),
            Err(error) => {
                tracing::warn!(%error, "io_uring is not available for files; using blocking file I/O")
            }
        }
    }
    let _ = driver;
    let disk = StdDisk::start(DISK_THREADS)
        .map_err(|error| Error::Workers(format!("the disk's threads could not be started: {error}")))?;
    Ok(disk)
}

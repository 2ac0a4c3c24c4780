//! Builds an engine from settings.

#[cfg(all(feature = "control", unix))]
use super::remote::ControlSocket;
use super::{Engine, RestoreMode, RestoreSettings, Running};
use crate::clock::SystemClock;
use crate::config::{
    CheckpointRetention, EngineConfig, Given, MemorySize, Setting, Settings, Span, StateBackend, Typed, keys,
};
use crate::control::CheckpointMode;
use crate::coordinator::{ExponentialDelay, RestartStrategy};
use crate::error::Error;
use crate::worker::{DriverChoice, DriverKind, WorkerOptions, Workers, available_cores};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thalweg_storage::io::{Disk, DiskHandle, StdDisk};

/// Threads of the blocking disk, so that a sync does not hold up a read.
const DISK_THREADS: usize = 2;

/// Settings of an engine to be built. Every one has a default; those that Apache Flink has keep its default.
///
/// What a method sets counts more than what [`config_file`](EngineBuilder::config_file) and
/// [`environment`](EngineBuilder::environment) add, in whatever order they are called. [The reference](crate::config::keys) lists
/// all settings.
#[derive(Clone, Debug, Default)]
pub struct EngineBuilder {
    settings: Settings,
}

impl From<Settings> for EngineBuilder {
    fn from(settings: Settings) -> Self {
        EngineBuilder { settings }
    }
}

impl EngineBuilder {
    /// Adds the settings in a YAML or TOML file. They count less than those of the environment and of the program.
    ///
    /// # Errors
    /// [`Error::Config`] names file, line and column, and what would be right.
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Result<Self, Error> {
        self.settings.load(path)?;
        Ok(self)
    }

    /// Adds the settings in the process's environment, whose variables begin with `THALWEG_`: see
    /// [`variable`](crate::config::variable). They count less than those of the program.
    ///
    /// # Errors
    /// [`Error::Config`] names the variable, and what would be right.
    pub fn environment(mut self) -> Result<Self, Error> {
        self.settings.environment(std::env::vars_os())?;
        Ok(self)
    }

    /// Sets a setting by name, written `name=value` as behind `-D` on a command line. It counts less than the builder's methods, and
    /// more than the environment and files.
    ///
    /// # Errors
    /// [`Error::Config`] says what would be right.
    pub fn property(mut self, property: &str) -> Result<Self, Error> {
        self.settings.property(property)?;
        Ok(self)
    }

    /// The settings so far.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn with<T>(mut self, setting: Setting<T>, value: impl Given<T>) -> Self {
        self.settings.set(setting, value);
        self
    }

    /// Number of workers. Default: one per core that this process may use, cgroup quotas included.
    pub fn workers(self, workers: usize) -> Self {
        self.with(keys::WORKERS, workers)
    }

    /// Partitions of operators that do not say. Default: the number of workers. More than there are cores works.
    pub fn parallelism(self, parallelism: u32) -> Self {
        self.with(keys::PARALLELISM, parallelism)
    }

    /// Number of key groups, fixed for a job's life. Default: 128.
    pub fn max_parallelism(self, max_parallelism: u16) -> Self {
        self.with(keys::MAX_PARALLELISM, max_parallelism)
    }

    /// What the workers run on. Default: glommio where io_uring works, else threads.
    pub fn driver(self, driver: DriverChoice) -> Self {
        let name = match driver {
            DriverChoice::Auto => "auto",
            DriverChoice::Glommio => "glommio",
            DriverChoice::Threads => "threads",
        };
        self.with(keys::DRIVER, name)
    }

    /// Whether each worker is pinned to a core of its own. Default: yes, where there are enough cores.
    pub fn pin(self, pin: bool) -> Self {
        self.with(keys::PIN, pin)
    }

    /// Where checkpoints go. Without it there are none: a restart begins from scratch, and sinks commit at the end.
    pub fn checkpoint_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.with(keys::CHECKPOINT_DIR, dir.into())
    }

    /// Time from one checkpoint to the next. Default: only those asked for, and one when all data have been read.
    pub fn checkpoint_interval(self, interval: impl Into<Span>) -> Self {
        self.with(keys::CHECKPOINT_INTERVAL, interval.into())
    }

    /// A checkpoint that takes longer fails. Default: 10 minutes.
    pub fn checkpoint_timeout(self, timeout: impl Into<Span>) -> Self {
        self.with(keys::CHECKPOINT_TIMEOUT, timeout.into())
    }

    /// Least time between the end of a checkpoint and the next periodic one. Default: none.
    pub fn min_pause_between_checkpoints(self, pause: impl Into<Span>) -> Self {
        self.with(keys::MIN_PAUSE, pause.into())
    }

    /// Checkpoints under way at once; only aligned and at-least-once ones overlap. Default: 1.
    pub fn max_concurrent_checkpoints(self, count: usize) -> Self {
        self.with(keys::MAX_CONCURRENT, count)
    }

    /// Failed checkpoints in a row that do not yet fail the job. Default: 0.
    pub fn tolerable_failed_checkpoints(self, count: u32) -> Self {
        self.with(keys::TOLERABLE_FAILURES, count)
    }

    /// How checkpoints treat in-flight data. Default: aligned.
    pub fn checkpoint_mode(self, mode: CheckpointMode) -> Self {
        let (mode, unaligned, timeout) = match mode {
            CheckpointMode::Aligned => ("EXACTLY_ONCE", false, Duration::ZERO),
            CheckpointMode::Unaligned => ("EXACTLY_ONCE", true, Duration::ZERO),
            CheckpointMode::AlignedWithTimeout(timeout) => ("EXACTLY_ONCE", true, timeout),
            CheckpointMode::AtLeastOnce => ("AT_LEAST_ONCE", false, Duration::ZERO),
        };
        self.with(keys::CHECKPOINT_MODE, mode)
            .with(keys::UNALIGNED, unaligned)
            .with(keys::ALIGNED_TIMEOUT, timeout)
    }

    /// Completed checkpoints that are kept. Default: 1.
    pub fn retained_checkpoints(self, count: usize) -> Self {
        self.with(keys::RETAINED, count)
    }

    /// Which completed checkpoints stay when the job ends. Default: all, so that a job that is started again goes on.
    pub fn externalized_checkpoint_retention(self, retention: CheckpointRetention) -> Self {
        let name = match retention {
            CheckpointRetention::RetainOnCancellation => "RETAIN_ON_CANCELLATION",
            CheckpointRetention::DeleteOnCancellation => "DELETE_ON_CANCELLATION",
            CheckpointRetention::NoExternalizedCheckpoints => "NO_EXTERNALIZED_CHECKPOINTS",
        };
        self.with(keys::RETENTION, name)
    }

    /// Number of checkpoints whose statistics [`super::JobHandle::metrics`] shows. Default: 10.
    pub fn checkpoint_history(self, count: usize) -> Self {
        self.with(keys::HISTORY, count)
    }

    /// Where savepoints go for which no other directory is given. Default: none, so that each needs one.
    pub fn savepoint_dir(self, dir: impl Into<PathBuf>) -> Self {
        self.with(keys::SAVEPOINT_DIR, dir.into())
    }

    /// Whether checkpoints write only what changed since the last completed one. Default: yes.
    pub fn incremental_checkpoints(self, incremental: bool) -> Self {
        self.with(keys::INCREMENTAL, incremental)
    }

    /// Where keyed state lives. Default: tables in memory.
    pub fn state_backend(self, backend: StateBackend) -> Self {
        self.with(
            keys::STATE_BACKEND,
            match backend {
                StateBackend::HashMap => "hashmap",
                StateBackend::Log => "log",
            },
        )
    }

    /// Memory for the pages of all keyed state of the engine, such as `"80mb"`; the log-structured backend reads those that
    /// do not fit back from disk. Its index comes on top: about 10 to 15 bytes per key. Default: no limit. Tables
    /// in memory have none either way.
    ///
    /// It is divided evenly over all state tables of all partitions.
    pub fn state_memory(self, memory: impl Into<MemorySize>) -> Self {
        self.with(keys::STATE_MEMORY, memory.into())
    }

    /// Zstandard level of snapshots, 1 to 22. Default: 1.
    pub fn compression_level(self, level: i32) -> Self {
        // A negative level is out of range like any other that does not fit.
        self.with(keys::ZSTD_LEVEL, u32::try_from(level).unwrap_or(u32::MAX))
    }

    /// A batch that is not full leaves after this long, or sooner if its consumer has nothing to do. Default: 100 ms.
    pub fn buffer_timeout(self, timeout: impl Into<Span>) -> Self {
        self.with(keys::BUFFER_TIMEOUT, timeout.into())
    }

    /// Batches that a channel's ring holds. Default: 16.
    pub fn ring_batches(self, batches: usize) -> Self {
        self.with(keys::RING_BATCHES, batches)
    }

    /// Records of a batch at most; 32 KiB are the other limit. Default: 1,024.
    pub fn batch_records(self, records: usize) -> Self {
        self.with(keys::BATCH_RECORDS, records)
    }

    /// Memory for batches beyond the two that every channel may always hold, in bytes. Default: 256 MiB.
    pub fn batch_memory(self, bytes: usize) -> Self {
        self.with(keys::BATCH_MEMORY, bytes as u64)
    }

    /// Whether and when a failed job starts again. Default, as in Flink: with checkpoints always, after a delay that grows from
    /// one second to one minute while failures go on; without checkpoints never, since it could only begin from scratch.
    pub fn restart_strategy(self, strategy: RestartStrategy) -> Self {
        match strategy {
            RestartStrategy::None => self.with(keys::RESTART_STRATEGY, "none"),
            RestartStrategy::FixedDelay { attempts, delay } => self
                .with(keys::RESTART_STRATEGY, "fixed-delay")
                .with(keys::FIXED_DELAY_ATTEMPTS, attempts)
                .with(keys::FIXED_DELAY, delay),
            RestartStrategy::ExponentialDelay(ExponentialDelay {
                initial_backoff,
                max_backoff,
                backoff_multiplier,
                reset_backoff_threshold,
                jitter_factor,
                attempts_before_reset_backoff,
            }) => self
                .with(keys::RESTART_STRATEGY, "exponential-delay")
                .with(keys::INITIAL_BACKOFF, initial_backoff)
                .with(keys::MAX_BACKOFF, max_backoff)
                .with(keys::BACKOFF_MULTIPLIER, backoff_multiplier)
                .with(keys::RESET_BACKOFF_THRESHOLD, reset_backoff_threshold)
                .with(keys::JITTER_FACTOR, jitter_factor)
                .with(keys::ATTEMPTS_BEFORE_RESET, attempts_before_reset_backoff),
            RestartStrategy::FailureRate { max_failures_per_interval, interval, delay } => self
                .with(keys::RESTART_STRATEGY, "failure-rate")
                .with(keys::FAILURE_RATE_MAX, max_failures_per_interval)
                .with(keys::FAILURE_RATE_INTERVAL, interval)
                .with(keys::FAILURE_RATE_DELAY, delay),
        }
    }

    /// A worker that makes no progress for this long fails the job, naming the operator it is stuck in. Default: 50 s.
    pub fn heartbeat_timeout(self, timeout: impl Into<Span>) -> Self {
        self.with(keys::HEARTBEAT_TIMEOUT, timeout.into())
    }

    /// A Unix domain socket over which the command line `thalweg`, and other processes of the same user, drive the engine: see
    /// [`crate::remote`]. Default: none.
    pub fn control_socket(self, path: impl Into<PathBuf>) -> Self {
        self.with(keys::CONTROL_SOCKET, path.into())
    }

    /// The settings, checked.
    ///
    /// # Errors
    /// [`Error::Config`] names the first setting that cannot be used.
    pub(super) fn config(&self) -> Result<EngineConfig, Error> {
        let settings = &self.settings;
        settings.check()?;
        let workers = settings.get(keys::WORKERS).unwrap_or_else(available_cores);
        if let Some((_, message)) = self.restart().mistake() {
            return Err(settings.refuse(keys::INITIAL_BACKOFF, message).into());
        }
        let max_parallelism = set(settings, keys::MAX_PARALLELISM);
        let parallelism = settings.get(keys::PARALLELISM).unwrap_or(workers as u32);
        if parallelism > u32::from(max_parallelism) {
            let message = format!("{parallelism} exceeds the max parallelism {max_parallelism}");
            return Err(settings.refuse(keys::PARALLELISM, message).into());
        }
        Ok(EngineConfig {
            workers,
            parallelism,
            max_parallelism,
            pin: set(settings, keys::PIN),
            checkpoint_dir: settings.get(keys::CHECKPOINT_DIR),
            checkpoint_interval: settings.get(keys::CHECKPOINT_INTERVAL),
            checkpoint_timeout: set(settings, keys::CHECKPOINT_TIMEOUT),
            min_pause: set(settings, keys::MIN_PAUSE),
            max_concurrent: set(settings, keys::MAX_CONCURRENT),
            tolerable_failures: set(settings, keys::TOLERABLE_FAILURES),
            mode: mode(settings),
            retained: set(settings, keys::RETAINED),
            retention: match set(settings, keys::RETENTION) {
                "DELETE_ON_CANCELLATION" => CheckpointRetention::DeleteOnCancellation,
                "NO_EXTERNALIZED_CHECKPOINTS" => CheckpointRetention::NoExternalizedCheckpoints,
                _ => CheckpointRetention::RetainOnCancellation,
            },
            checkpoint_history: set(settings, keys::HISTORY),
            savepoint_dir: settings.get(keys::SAVEPOINT_DIR),
            incremental: set(settings, keys::INCREMENTAL),
            state_backend: match set(settings, keys::STATE_BACKEND) {
                "log" => StateBackend::Log,
                _ => StateBackend::HashMap,
            },
            state_memory_bytes: settings.get(keys::STATE_MEMORY),
            zstd_level: set(settings, keys::ZSTD_LEVEL) as i32,
            buffer_timeout: set(settings, keys::BUFFER_TIMEOUT),
            ring_batches: set(settings, keys::RING_BATCHES),
            batch_records: set(settings, keys::BATCH_RECORDS),
            pool_bytes: usize::try_from(set(settings, keys::BATCH_MEMORY)).unwrap_or(usize::MAX),
            control_socket: settings.get(keys::CONTROL_SOCKET),
        })
    }

    pub(super) fn heartbeat(&self) -> Duration {
        set(&self.settings, keys::HEARTBEAT_TIMEOUT)
    }

    /// What becomes of a failed job.
    pub(super) fn restart(&self) -> RestartStrategy {
        let settings = &self.settings;
        match settings.get(keys::RESTART_STRATEGY) {
            Some("none") => RestartStrategy::None,
            Some("fixed-delay") => RestartStrategy::FixedDelay {
                attempts: set(settings, keys::FIXED_DELAY_ATTEMPTS),
                delay: set(settings, keys::FIXED_DELAY),
            },
            Some("failure-rate") => RestartStrategy::FailureRate {
                max_failures_per_interval: set(settings, keys::FAILURE_RATE_MAX),
                interval: set(settings, keys::FAILURE_RATE_INTERVAL),
                delay: set(settings, keys::FAILURE_RATE_DELAY),
            },
            None if settings.get(keys::CHECKPOINT_DIR).is_none() => RestartStrategy::None,
            _ => RestartStrategy::ExponentialDelay(ExponentialDelay {
                initial_backoff: set(settings, keys::INITIAL_BACKOFF),
                max_backoff: set(settings, keys::MAX_BACKOFF),
                backoff_multiplier: set(settings, keys::BACKOFF_MULTIPLIER),
                reset_backoff_threshold: set(settings, keys::RESET_BACKOFF_THRESHOLD),
                jitter_factor: set(settings, keys::JITTER_FACTOR),
                attempts_before_reset_backoff: settings.get(keys::ATTEMPTS_BEFORE_RESET).unwrap_or(u32::MAX),
            }),
        }
    }

    /// What a job starts from, if the settings say.
    pub(super) fn restore(&self) -> Option<RestoreSettings> {
        let settings = &self.settings;
        settings.get(keys::RECOVERY_PATH).map(|path| RestoreSettings {
            path,
            mode: match set(settings, keys::CLAIM_MODE) {
                "CLAIM" => RestoreMode::Claim,
                _ => RestoreMode::NoClaim,
            },
            allow_non_restored_state: set(settings, keys::IGNORE_UNCLAIMED),
        })
    }

    /// Starts the engine's workers.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting that cannot be used, [`Error::Workers`] when workers cannot be started, such
    /// as with glommio asked for where io_uring is not available. Nothing is left running.
    pub fn build(self) -> Result<Engine, Error> {
        let config = self.config()?;
        let heartbeat_timeout = self.heartbeat();
        let clock = SystemClock::start();
        let options = WorkerOptions {
            workers: config.workers,
            driver: match set(&self.settings, keys::DRIVER) {
                "glommio" => DriverChoice::Glommio,
                "threads" => DriverChoice::Threads,
                _ => DriverChoice::Auto,
            },
            pin: config.pin,
            clock: Arc::clone(&clock),
        };
        let workers = Workers::start(options).map_err(|error| Error::Workers(error.to_string()))?;
        let disk = DiskHandle::new(disk_for(workers.driver())?);
        let running = Running::default();
        #[cfg(all(feature = "control", unix))]
        let control = config
            .control_socket
            .as_ref()
            .map(|path| ControlSocket::open(path, Arc::clone(&running)))
            .transpose()?;
        Ok(Engine {
            config,
            restart: self.restart(),
            restore: self.restore(),
            heartbeat_timeout,
            workers: Arc::new(workers),
            disk,
            clock,
            running,
            #[cfg(all(feature = "control", unix))]
            _control: control,
        })
    }
}

/// The value of a setting that has a default, after [`Settings::check`].
fn set<T: Typed>(settings: &Settings, setting: Setting<T>) -> T {
    settings.get(setting).expect("the setting has a default, and what was given is checked")
}

/// How checkpoints treat in-flight data.
fn mode(settings: &Settings) -> CheckpointMode {
    let timeout = set(settings, keys::ALIGNED_TIMEOUT);
    match (set(settings, keys::CHECKPOINT_MODE), set(settings, keys::UNALIGNED)) {
        ("AT_LEAST_ONCE", _) => CheckpointMode::AtLeastOnce,
        (_, false) => CheckpointMode::Aligned,
        (_, true) if timeout > Duration::ZERO => CheckpointMode::AlignedWithTimeout(timeout),
        (_, true) => CheckpointMode::Unaligned,
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

#[cfg(test)]
mod tests;

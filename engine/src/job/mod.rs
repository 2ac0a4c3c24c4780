//! What a user holds: the engine, its builder, and the handle of a running job.

mod builder;
#[cfg(feature = "cli")]
pub mod cli;
mod handle;
#[cfg(all(feature = "control", unix))]
pub mod remote;
#[cfg(all(test, not(loom)))]
mod rules;
mod savepoint;
#[cfg(feature = "testing")]
mod simulation;

pub use builder::EngineBuilder;
pub use handle::{JobHandle, JobMetrics, TaskReport};
pub use savepoint::{RestoreMode, RestoreSettings};
#[cfg(feature = "testing")]
pub use simulation::{Simulation, SimulationOptions, SlowIo};
pub use thalweg_storage::checkpoint::{Savepoint, SavepointInfo};

use crate::clock::Clock;
use crate::config::{BATCH_BYTES, ConfigError, EngineConfig, Origin, keys};
use crate::coordinator::{
    CheckpointBackend, CheckpointConfig, CoordinatorConfig, JobShared, RestartStrategy, RestoreFrom, Runner,
    RunnerParts,
};
use crate::dataflow::Dataflow;
use crate::error::Error;
use crate::graph::{DeploySettings, Graph, GraphDeploy, StateSettings, TaskCounters};
use crate::ring::doorbell::Doorbell;
use crate::worker::{DriverKind, Workers};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_storage::checkpoint::CheckpointStore;
use thalweg_storage::io::DiskHandle;

/// An engine: pinned workers, a disk, and settings. Runs one job at a time.
///
/// Dropping it stops its job and its workers, within a few seconds. Nothing in it is global: a process can hold
/// several engines, best with pinning switched off.
pub struct Engine {
    config: EngineConfig,
    restart: RestartStrategy,
    heartbeat_timeout: Duration,
    workers: Arc<Workers>,
    disk: DiskHandle,
    clock: Arc<dyn Clock>,
    restore: Option<RestoreSettings>,
    running: Running,
    /// Goes after the job has been shut down, so that nobody waits for an answer of it.
    #[cfg(all(feature = "control", unix))]
    _control: Option<remote::ControlSocket>,
}

/// The job that an engine runs, or has run last.
type Running = Arc<Mutex<Option<JobHandle>>>;

impl Engine {
    /// Settings for a new engine.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// The driver that the workers run on.
    pub fn driver(&self) -> DriverKind {
        self.workers.driver()
    }

    /// Why the engine fell back to the threads driver, if it did.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.workers.fallback_reason()
    }

    /// The engine's settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Starts `flow`, from the savepoint that the settings name, else from the latest completed checkpoint in its directory if
    /// there is one.
    ///
    /// Returns once the job's inputs, outputs and checkpoint directory have been checked; the job itself starts in
    /// the background. A checkpoint directory that another engine holds is waited for, five seconds at most.
    ///
    /// # Errors
    /// Nothing was started; the error names what to mend. [`Error::Busy`] while an earlier job of this engine runs.
    pub fn run(&self, flow: Dataflow) -> Result<JobHandle, Error> {
        self.start(flow, self.restore.as_ref())
    }

    /// Starts `flow` from a savepoint or checkpoint that the caller names, whatever the job's directory holds. Otherwise as
    /// [`Engine::run`].
    ///
    /// Whether the state fits the job is found out in the background: if not, the job fails, and its directory is as
    /// it was.
    ///
    /// # Errors
    /// As of [`Engine::run`]; [`Error::Restore`] where there is no such savepoint, or it is damaged.
    pub fn run_from(&self, flow: Dataflow, restore: &RestoreSettings) -> Result<JobHandle, Error> {
        self.start(flow, Some(restore))
    }

    fn start(&self, flow: Dataflow, restore: Option<&RestoreSettings>) -> Result<JobHandle, Error> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.as_ref().is_some_and(|job| !job.status().is_terminal()) {
            return Err(Error::Busy);
        }
        let job = flow.name().to_owned();
        let name = Arc::from(job.as_str());
        let graph = checked_graph(flow, &self.config, &self.disk)?;
        let from = found(restore, &self.config, &self.disk)?;
        let backend = match &self.config.checkpoint_dir {
            Some(dir) => Some(CheckpointStore::open(self.disk.clone(), dir, &job)?),
            None => None,
        };
        let doorbells = (0..self.workers.count()).map(|worker| self.workers.doorbell(worker)).collect();
        let counters = Arc::default();
        let parts = runner_parts(
            job,
            graph,
            backend,
            Restoring {
                from,
                allow_non_restored_state: restore.is_some_and(|restore| restore.allow_non_restored_state),
            },
            &self.config,
            self.coordinator_config(),
            Surroundings {
                disk: self.disk.clone(),
                clock: Arc::clone(&self.clock),
                doorbells,
                restore_threads: self.config.workers,
            },
            (0..self.workers.count()).map(|worker| self.workers.link(worker)).collect(),
            Arc::clone(&counters),
        );
        let shared = Arc::clone(&parts.shared);
        let (runner, coordinator) = Runner::new(parts);
        let thread =
            runner.spawn().map_err(|error| Error::Workers(format!("the control thread: {error}")))?;
        let handle = JobHandle::new(
            name,
            shared,
            coordinator,
            counters,
            Arc::downgrade(&self.workers),
            Arc::clone(&self.clock),
            self.config.savepoint_dir.clone(),
            thread,
        );
        *running = Some(handle.clone());
        Ok(handle)
    }

    fn coordinator_config(&self) -> CoordinatorConfig {
        CoordinatorConfig {
            // Jobs that fail for one cause should not all come back at the same moment.
            restart_seed: self.clock.unix_ms() ^ u64::from(std::process::id()) << 32,
            ..coordinator_config(&self.config, self.restart, self.heartbeat_timeout)
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let job = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(job) = job {
            job.shut_down();
        }
    }
}

/// The settings of a job's coordinator.
fn coordinator_config(
    config: &EngineConfig,
    restart: RestartStrategy,
    heartbeat: Duration,
) -> CoordinatorConfig {
    CoordinatorConfig {
        checkpoint: CheckpointConfig {
            interval: config.checkpoint_dir.as_ref().and(config.checkpoint_interval),
            timeout: config.checkpoint_timeout,
            min_pause: config.min_pause,
            max_concurrent: config.max_concurrent,
            tolerable_failures: config.tolerable_failures,
            mode: config.mode,
            retained: config.retained,
            retention: config.retention,
            history: config.checkpoint_history,
        },
        restart,
        heartbeat_timeout: heartbeat,
        ..CoordinatorConfig::default()
    }
}

/// The graph of `flow`, if it can run.
fn checked_graph(flow: Dataflow, config: &EngineConfig, disk: &DiskHandle) -> Result<Graph, Error> {
    let job = flow.name().to_owned();
    let mut graph = flow.into_graph();
    graph
        .validate(config.parallelism, config.max_parallelism)
        .map_err(|error| Error::Dataflow { job, message: error.to_string() })?;
    graph
        .check(disk, config.parallelism)
        .map_err(|(operator, error)| Error::Connector { operator, message: error.to_string() })?;
    Ok(graph)
}

/// The savepoint or checkpoint that a job is to start from.
fn found(
    restore: Option<&RestoreSettings>,
    config: &EngineConfig,
    disk: &DiskHandle,
) -> Result<Option<RestoreFrom>, Error> {
    if restore.is_some() && config.checkpoint_dir.is_none() {
        return Err(Error::Config(ConfigError::Value {
            key: keys::CHECKPOINT_DIR.key().name.to_owned(),
            origin: Origin::Default,
            message: "a start from a savepoint needs a directory for the job's own checkpoints".to_owned(),
        }));
    }
    restore.map(|restore| restore.find(disk)).transpose()
}

/// What a job starts from.
#[derive(Default)]
struct Restoring {
    from: Option<RestoreFrom>,
    allow_non_restored_state: bool,
}

/// What a job runs on.
struct Surroundings {
    disk: DiskHandle,
    clock: Arc<dyn Clock>,
    doorbells: Vec<Doorbell>,
    restore_threads: usize,
}

#[expect(clippy::too_many_arguments, reason = "the one place where a job's parts meet")]
fn runner_parts(
    job: String,
    graph: Graph,
    backend: Option<CheckpointStore>,
    restoring: Restoring,
    config: &EngineConfig,
    coordinator: CoordinatorConfig,
    on: Surroundings,
    workers: Vec<Arc<dyn crate::control::WorkerLink>>,
    counters: Arc<Mutex<Vec<TaskCounters>>>,
) -> RunnerParts {
    let job_dir: Option<PathBuf> = backend.as_ref().map(|store| store.dir().to_owned());
    let settings = DeploySettings {
        job: job.as_str().into(),
        parallelism: config.parallelism,
        max_parallelism: config.max_parallelism,
        ring_batches: config.ring_batches,
        batch_records: config.batch_records,
        batch_bytes: BATCH_BYTES,
        pool_bytes: config.pool_bytes,
        buffer_timeout: config.buffer_timeout,
        max_concurrent: config.max_concurrent,
        incremental: config.incremental,
        zstd_level: config.zstd_level,
        state: StateSettings { backend: config.state_backend, memory_bytes: config.state_memory_bytes },
        restore_threads: on.restore_threads,
        allow_non_restored_state: restoring.allow_non_restored_state,
        job_dir,
        disk: on.disk,
        clock: Arc::clone(&on.clock),
        doorbells: on.doorbells,
    };
    RunnerParts {
        job,
        max_parallelism: config.max_parallelism,
        config: coordinator,
        clock: on.clock,
        workers,
        deploy: Box::new(GraphDeploy::new(graph, settings, counters)),
        backend: backend.map(|store| Box::new(store) as Box<dyn CheckpointBackend>),
        restore: restoring.from,
        shared: JobShared::new(),
    }
}

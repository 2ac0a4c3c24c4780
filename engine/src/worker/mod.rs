//! Workers: who runs the tasks. One executor per core, made once per engine and kept through every restart of a job.
//!
//! In reading order: `core` decides what a worker does and knows no runtime; `link` is what it shares with the
//! coordinator; three drivers turn the crank: glommio (the default), plain threads, and a simulation.
//!
//! Always true:
//! - a worker is alive, or was told to shut down, or its death has been reported: it never falls silent;
//! - nothing here waits for a worker without a deadline once it has started;
//! - workers know nothing of the coordinator: they speak [`crate::control`].

mod core;
mod cores;
#[cfg(all(target_os = "linux", not(loom)))]
mod glommio_driver;
mod link;
#[cfg(all(target_os = "linux", not(loom)))]
mod probe;
mod simulated;
#[cfg(all(test, not(loom)))]
mod tests;
mod threads;
mod times;

pub use self::core::Round;
pub use cores::available_cores;
pub use link::TaskInfo;
#[cfg(all(target_os = "linux", not(loom)))]
pub use probe::Unavailable;
pub use simulated::SimWorkers;
pub use times::{Activity, TaskTimes, TimeSpent};

use self::core::WorkerCore;
use crate::clock::Clock;
use crate::control::{WorkerCommand, WorkerLink};
use crate::ring::doorbell::Doorbell;
use cores::{Allowed, Placement};
use link::{Link, lock, panic_message};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use thalweg_storage::threads::{Reservation, reserve};

/// How often a worker that has just parked counts a heartbeat; a busy one counts its rounds.
const HEARTBEAT: Duration = Duration::from_millis(5);

/// How often a worker counts a heartbeat that ran no round since the last: an idle engine should cost next to nothing.
const HEARTBEAT_IDLE: Duration = Duration::from_millis(40);

/// How long dropping [`Workers`] waits for them.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// Which driver to run the workers on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DriverChoice {
    /// Glommio where io_uring works, else plain threads, with a warning that says why.
    #[default]
    Auto,
    /// Glommio; starting fails where io_uring does not work.
    Glommio,
    /// Plain threads.
    Threads,
}

/// The driver that the workers run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverKind {
    /// Glommio executors.
    Glommio,
    /// Plain threads.
    Threads,
}

/// How to start workers.
#[derive(Clone)]
pub struct WorkerOptions {
    /// How many; see [`available_cores`]. More than there are cores works, unpinned.
    pub workers: usize,
    /// On which driver.
    pub driver: DriverChoice,
    /// Whether to pin each worker to a core of its own, where there are enough. Several engines in one process would pin
    /// theirs to the same cores: switch it off there.
    pub pin: bool,
    /// The clock that tasks are polled with.
    pub clock: Arc<dyn Clock>,
}

/// Why workers could not be started or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// No worker was asked for.
    #[error("an engine needs at least one worker")]
    NoWorkers,
    /// Glommio was asked for by name, but cannot run here.
    #[error("the glommio driver cannot run here: {0}, or choose the threads driver")]
    GlommioUnavailable(String),
    /// The system refused a thread.
    #[error("worker {worker} could not be started: {source}")]
    Start {
        /// Which one.
        worker: usize,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Workers did not stop by the deadline. Their threads are left to themselves and end if their task ever returns.
    #[error("{}", describe_stuck(.0))]
    Stuck(Vec<StuckWorker>),
}

/// A worker that did not stop by the deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StuckWorker {
    /// Which one.
    pub worker: usize,
    /// Operator chain and partition of the task that it is in, if any.
    pub polling: Option<(String, u32)>,
}

fn describe_stuck(stuck: &[StuckWorker]) -> String {
    let describe = |stuck: &StuckWorker| match &stuck.polling {
        Some((name, partition)) => {
            format!("worker {} is stuck in {name}, partition {partition}", stuck.worker)
        }
        None => format!("worker {} did not stop by the deadline", stuck.worker),
    };
    stuck.iter().map(describe).collect::<Vec<_>>().join("; ")
}

/// Counts the threads that have ended, for waits with a deadline.
#[derive(Default)]
struct Exits {
    ended: Mutex<Vec<usize>>,
    changed: Condvar,
}

impl Exits {
    fn announce(&self, worker: usize) {
        lock(&self.ended).push(worker);
        self.changed.notify_all();
    }

    /// Waits until all of `workers` have ended or `deadline` has passed; returns those that have not.
    fn wait(&self, workers: &[usize], deadline: Duration) -> Vec<usize> {
        let running =
            |ended: &Vec<usize>| workers.iter().copied().filter(|w| !ended.contains(w)).collect::<Vec<_>>();
        let waited =
            self.changed.wait_timeout_while(lock(&self.ended), deadline, |ended| !running(ended).is_empty());
        running(&waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

/// The workers of one engine. Dropping them shuts them down, within five seconds.
pub struct Workers {
    links: Vec<Arc<Link>>,
    threads: Mutex<Vec<(usize, JoinHandle<()>)>>,
    exits: Arc<Exits>,
    driver: DriverKind,
    fallback_reason: Option<String>,
    /// The cores of pinned workers.
    _reserved: Reservation,
}

impl Workers {
    /// Starts the workers; they run when this returns, without tasks.
    ///
    /// # Errors
    /// - [`WorkerError::NoWorkers`]: ask for one at least.
    /// - [`WorkerError::GlommioUnavailable`]: only with [`DriverChoice::Glommio`]; the message names cause and cure.
    /// - [`WorkerError::Start`]: the process is out of threads. Nothing is left running.
    pub fn start(options: WorkerOptions) -> Result<Workers, WorkerError> {
        if options.workers == 0 {
            return Err(WorkerError::NoWorkers);
        }
        let placement = Allowed::detect().place(options.workers, options.pin);
        if let Placement::Unpinned(reason) = &placement {
            tracing::debug!(workers = options.workers, reason, "workers run unpinned");
        }
        if options.driver == DriverChoice::Threads {
            return Self::start_threads(&options, &placement, None);
        }
        match Self::start_glommio(&options, &placement) {
            Err(WorkerError::GlommioUnavailable(reason)) if options.driver == DriverChoice::Auto => {
                tracing::warn!(reason, "workers run on plain threads instead of glommio");
                Self::start_threads(&options, &placement, Some(reason))
            }
            outcome => outcome,
        }
    }

    fn start_threads(
        options: &WorkerOptions,
        placement: &Placement,
        fallback_reason: Option<String>,
    ) -> Result<Workers, WorkerError> {
        let mut workers = Workers::none(DriverKind::Threads, fallback_reason, placement);
        for index in 0..options.workers {
            let unpark = threads::Unpark::default();
            let core = WorkerCore::new(index, Doorbell::new(unpark.clone()), Arc::clone(&options.clock));
            let pinned_to = placement.core_of(index);
            workers.spawn(core, move |core| threads::run(core, pinned_to, &unpark))?;
        }
        Ok(workers)
    }

    #[cfg(all(target_os = "linux", not(loom)))]
    fn start_glommio(options: &WorkerOptions, placement: &Placement) -> Result<Workers, WorkerError> {
        probe::probe().map_err(|unavailable| WorkerError::GlommioUnavailable(unavailable.to_string()))?;
        let mut workers = Workers::none(DriverKind::Glommio, None, placement);
        let (started, starts) = std::sync::mpsc::sync_channel(options.workers);
        for index in 0..options.workers {
            let wake = glommio_driver::WakeRoot::default();
            let core = WorkerCore::new(index, Doorbell::new(wake.clone()), Arc::clone(&options.clock));
            let (pinned_to, started) = (placement.core_of(index), started.clone());
            workers.spawn(core, move |core| glommio_driver::run(core, pinned_to, &wake, started))?;
        }
        drop(started);
        for _ in 0..options.workers {
            // A sender that is dropped without a word belonged to a thread that panicked.
            let outcome =
                starts.recv().unwrap_or_else(|_| Err("an executor died while it started".to_owned()));
            outcome.map_err(WorkerError::GlommioUnavailable)?;
        }
        Ok(workers)
    }

    #[cfg(not(all(target_os = "linux", not(loom))))]
    fn start_glommio(_: &WorkerOptions, _: &Placement) -> Result<Workers, WorkerError> {
        Err(WorkerError::GlommioUnavailable("it needs Linux and its io_uring; use Linux".to_owned()))
    }

    fn none(driver: DriverKind, fallback_reason: Option<String>, placement: &Placement) -> Workers {
        Workers {
            links: Vec::new(),
            threads: Mutex::new(Vec::new()),
            exits: Arc::default(),
            driver,
            fallback_reason,
            _reserved: reserve(placement.cores()),
        }
    }

    /// Starts the thread of one worker; `run` returns when the worker was told to shut down.
    fn spawn(
        &mut self,
        mut core: WorkerCore,
        run: impl FnOnce(&mut WorkerCore) + Send + 'static,
    ) -> Result<(), WorkerError> {
        let link = Arc::clone(core.link());
        let worker = link.index();
        let exits = Arc::clone(&self.exits);
        let body = move || {
            // Unwind safety: after a panic the core only reports and drops what it holds.
            match catch_unwind(AssertUnwindSafe(|| run(&mut core))) {
                Ok(()) => core.close(),
                Err(payload) => core.die(&panic_message(&*payload)),
            }
            drop(core);
            exits.announce(worker);
        };
        let thread = thread::Builder::new()
            .name(format!("thalweg-w{worker}"))
            .spawn(body)
            .map_err(|source| WorkerError::Start { worker, source })?;
        self.links.push(link);
        lock(&self.threads).push((worker, thread));
        Ok(())
    }

    /// How many workers there are.
    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// The coordinator's view of a worker, which must exist. A worker that has died answers each deployment with
    /// [`Report::WorkerDied`](crate::control::Report::WorkerDied), having told the attempts that it ran.
    pub fn link(&self, worker: usize) -> Arc<dyn WorkerLink> {
        Arc::clone(&self.links[worker]) as _
    }

    /// The doorbell of a worker, which must exist.
    pub fn doorbell(&self, worker: usize) -> Doorbell {
        self.links[worker].doorbell().clone()
    }

    /// The driver that the workers run on.
    pub fn driver(&self) -> DriverKind {
        self.driver
    }

    /// Why the workers do not run on glommio although the choice was automatic: cause and cure.
    pub fn fallback_reason(&self) -> Option<&str> {
        self.fallback_reason.as_deref()
    }

    /// The tasks deployed at this moment, with the times that show which are busy and which are back-pressured.
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.links.iter().flat_map(|link| link.tasks()).collect()
    }

    /// Tells all workers to drop their tasks and end, and waits for that until `deadline`. Does nothing the second time.
    ///
    /// May be called on a worker's own thread, by the drop of a task: that worker is not waited for.
    ///
    /// # Errors
    /// [`WorkerError::Stuck`]: those workers are inside a task that does not return. Their threads are given up; report
    /// the task, carry on.
    pub fn shutdown(&self, deadline: Duration) -> Result<(), WorkerError> {
        let threads: Vec<_> = std::mem::take(&mut *lock(&self.threads));
        for (worker, _) in &threads {
            self.links[*worker].send(WorkerCommand::Shutdown);
        }
        let me = thread::current().id();
        let others: Vec<_> = threads.into_iter().filter(|(_, thread)| thread.thread().id() != me).collect();
        let workers: Vec<_> = others.iter().map(|(worker, _)| *worker).collect();
        let stuck = self.exits.wait(&workers, deadline);
        for (worker, thread) in others {
            // A thread that has announced its end only has its thread locals left to drop.
            if !stuck.contains(&worker) && thread.join().is_err() {
                tracing::error!(worker, "the thread of a worker panicked at its end");
            }
        }
        if stuck.is_empty() {
            return Ok(());
        }
        let describe = |worker: usize| StuckWorker { worker, polling: self.links[worker].polling() };
        Err(WorkerError::Stuck(stuck.into_iter().map(describe).collect()))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Err(error) = self.shutdown(DROP_DEADLINE) {
            tracing::error!(%error, "workers were left behind");
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers")
            .field("count", &self.count())
            .field("driver", &self.driver)
            .finish_non_exhaustive()
    }
}

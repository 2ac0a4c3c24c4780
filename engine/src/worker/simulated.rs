//! Workers without threads, for deterministic tests of whole engines: a seeded scheduler says whose turn it is.
//!
//! Always true: a worker does something only inside [`SimWorkers::step`]; a worker that is neither
//! [runnable](SimWorkers::is_runnable) nor due at its `wake_at` would do nothing if stepped.

use super::core::{Round, WorkerCore};
use super::link::TaskInfo;
use crate::clock::{Clock, Nanos};
use crate::control::WorkerLink;
use crate::ring::doorbell::{Doorbell, Wake};
use crate::task::Budget;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A doorbell that nobody sleeps at: it only notes that it rang.
#[derive(Clone, Default)]
struct Rung {
    rung: Arc<AtomicBool>,
}

impl Wake for Rung {
    fn wake(&self) {
        self.rung.store(true, Ordering::Relaxed);
    }
}

struct SimWorker {
    core: WorkerCore,
    rung: Rung,
    last: Round,
}

/// Workers that run when told to, on the caller's thread.
pub struct SimWorkers {
    workers: Vec<SimWorker>,
}

impl SimWorkers {
    /// `workers` workers on `clock`.
    pub fn new(workers: usize, clock: &Arc<dyn Clock>) -> Self {
        let worker = |index| {
            let rung = Rung::default();
            let bell = Doorbell::new(rung.clone());
            // Asleep from the start, so that the first command makes it runnable.
            bell.announce_sleep();
            let core = WorkerCore::new(index, bell, Arc::clone(clock));
            SimWorker { core, rung, last: Round::default() }
        };
        SimWorkers { workers: (0..workers).map(worker).collect() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// The coordinator's view of a worker.
    pub fn link(&self, worker: usize) -> Arc<dyn WorkerLink> {
        Arc::clone(self.workers[worker].core.link()) as _
    }

    /// The doorbell of a worker; ringing it makes the worker runnable.
    pub fn doorbell(&self, worker: usize) -> Doorbell {
        self.workers[worker].core.link().doorbell().clone()
    }

    /// The tasks deployed on all workers.
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.workers.iter().flat_map(|worker| worker.core.link().tasks()).collect()
    }

    /// True when the doorbell has rung since the worker's last step began, or that step was busy.
    pub fn is_runnable(&self, worker: usize) -> bool {
        let worker = &self.workers[worker];
        !worker.last.shutdown && (worker.last.busy || worker.rung.rung.load(Ordering::Relaxed))
    }

    /// The time at which a worker wants a step although its doorbell is silent.
    pub fn wake_at(&self, worker: usize) -> Option<Nanos> {
        self.workers[worker].last.wake_at
    }

    /// What each poll of a worker's tasks may do from now on; small budgets make many interleavings.
    pub fn set_budget(&mut self, worker: usize, budget: Budget) {
        self.workers[worker].core.set_budget(budget);
    }

    /// Counts a heartbeat of every worker, as a parked one does while time passes.
    pub fn beat(&self) {
        self.workers.iter().for_each(|worker| worker.core.link().beat());
    }

    /// Runs one round of a worker. After a shutdown it does nothing.
    pub fn step(&mut self, worker: usize, now: Nanos) -> Round {
        let worker = &mut self.workers[worker];
        if worker.last.shutdown {
            return worker.last;
        }
        worker.rung.rung.store(false, Ordering::Relaxed);
        // Announced before the round: a ring during the round, by a task of this very worker too, must count.
        worker.core.link().doorbell().announce_sleep();
        worker.last = worker.core.run_round(now);
        if worker.last.shutdown {
            worker.core.close();
            worker.last = Round { shutdown: true, ..Round::default() };
        }
        worker.last
    }
}

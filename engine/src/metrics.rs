//! Counters of a running job, written by workers, read by anybody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use thalweg_storage::table::TableStats;

/// Counters of one task. Written by its worker once per poll, with relaxed stores; they count and guard nothing.
#[derive(Debug, Default)]
pub struct TaskMetrics {
    records_in: AtomicU64,
    records_out: AtomicU64,
    records_skipped: AtomicU64,
    read_done: AtomicU64,
    read_total: AtomicU64,
    /// Written a few times per second.
    state: Mutex<TableStats>,
}

impl TaskMetrics {
    pub(crate) fn update(&self, records_in: u64, records_out: u64, records_skipped: u64) {
        self.records_in.store(records_in, Ordering::Relaxed);
        self.records_out.store(records_out, Ordering::Relaxed);
        self.records_skipped.store(records_skipped, Ordering::Relaxed);
    }

    pub(crate) fn update_read(&self, progress: Option<(u64, u64)>) {
        if let Some((done, total)) = progress {
            self.read_done.store(done, Ordering::Relaxed);
            self.read_total.store(total, Ordering::Relaxed);
        }
    }

    pub(crate) fn update_state(&self, state: TableStats) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// What the task's keyed state held and did, a moment ago.
    pub fn state(&self) -> TableStats {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the task has taken in, since its attempt began.
    pub fn records_in(&self) -> u64 {
        self.records_in.load(Ordering::Relaxed)
    }

    /// Records that the task has sent to other tasks, since its attempt began.
    pub fn records_out(&self) -> u64 {
        self.records_out.load(Ordering::Relaxed)
    }

    /// Malformed records that a source has left out.
    pub fn records_skipped(&self) -> u64 {
        self.records_skipped.load(Ordering::Relaxed)
    }

    /// How much of a source's input is read: done and total, zero where it is unknown.
    pub fn read_progress(&self) -> (u64, u64) {
        (self.read_done.load(Ordering::Relaxed), self.read_total.load(Ordering::Relaxed))
    }
}

//! What the parts of one job tell each other past the engine, and the schedule of failures.
//!
//! Always true: violations only ever count up. What must roll back with a restore is operator state, never here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a job fails by schedule; run 5 succeeds.
pub const FAILURES: u64 = 5;

/// Completed checkpoints before a job may end.
const COMPLETED_MIN: u64 = 10;

/// What can be wrong with a value that a sink gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdelivery {
    /// Values in front of it never came.
    Lost,
    /// It came before.
    Duplicated,
    /// A later one came before it.
    OutOfOrder,
}

/// Shared by all parts of one job, over all of its attempts.
pub struct Control {
    /// Time between checkpoints.
    pub interval: Duration,
    /// Number of splits of each source.
    pub splits: u64,
    /// Whether the values of a split may come in any order.
    unordered: bool,
    /// Failures that the job's driver caused.
    injected: AtomicU64,
    /// Whether the job fails by the schedule; else it ends when told to.
    scheduled: bool,
    told_to_end: AtomicBool,
    /// Completed checkpoints as the failing operator's state has them.
    completed: AtomicU64,
    /// Of those, the ones of the present attempt.
    completed_in_run: AtomicU64,
    /// Failures that were caused, by run.
    failures: [AtomicU64; FAILURES as usize],
    /// What went wrong.
    violations: Mutex<Vec<String>>,
    /// Values lost, duplicated and out of order, as the sinks saw them.
    misdelivered: [AtomicU64; 3],
    /// Number of values that each split emitted in all, by source and split.
    ends: Mutex<BTreeMap<(u64, u64), u64>>,
}

impl Control {
    /// For a job with `splits` splits per source that fails by the schedule and then ends.
    pub fn new(interval: Duration, splits: u64) -> Arc<Self> {
        Arc::new(Self::with_schedule(interval, splits, true))
    }

    /// For a job that goes on until [`Control::end`], whatever happens to it meanwhile.
    pub fn unscheduled(interval: Duration, splits: u64) -> Arc<Self> {
        Arc::new(Self::with_schedule(interval, splits, false))
    }

    /// For a job that does not keep the order of a split's values, and ends when its driver says so.
    pub fn unordered(interval: Duration, splits: u64) -> Arc<Self> {
        Arc::new(Control { unordered: true, ..Self::with_schedule(interval, splits, false) })
    }

    fn with_schedule(interval: Duration, splits: u64, scheduled: bool) -> Self {
        Control {
            interval,
            splits,
            unordered: false,
            injected: AtomicU64::new(0),
            scheduled,
            told_to_end: AtomicBool::new(false),
            completed: AtomicU64::new(0),
            completed_in_run: AtomicU64::new(0),
            failures: Default::default(),
            violations: Mutex::default(),
            misdelivered: Default::default(),
            ends: Mutex::default(),
        }
    }

    /// True when the values of a split may come in any order.
    pub(super) fn is_unordered(&self) -> bool {
        self.unordered
    }

    /// The job's driver has caused a failure.
    pub fn injected(&self) {
        self.injected.fetch_add(1, Ordering::Relaxed);
    }

    /// All failures caused, by parts of the job and its driver.
    pub fn failures_in_all(&self) -> u64 {
        self.failures().iter().sum::<u64>() + self.injected.load(Ordering::Relaxed)
    }

    /// The failing operator begins a run with `completed` checkpoints in its state.
    pub(super) fn begin_run(&self, completed: u64) {
        self.completed.store(completed, Ordering::Relaxed);
        self.completed_in_run.store(0, Ordering::Relaxed);
    }

    /// The failing operator has heard that a checkpoint is complete; it counts `completed` now.
    pub(super) fn checkpoint_completed(&self, completed: u64) {
        self.completed.store(completed, Ordering::Relaxed);
        self.completed_in_run.fetch_add(1, Ordering::Relaxed);
    }

    /// Lets a job without schedule end, after its next checkpoint.
    pub fn end(&self) {
        self.told_to_end.store(true, Ordering::Relaxed);
    }

    /// True when the job fails by the schedule.
    pub(super) fn is_scheduled(&self) -> bool {
        self.scheduled
    }

    /// True when sources should end: from run 4 on, once enough checkpoints are complete.
    pub(super) fn should_end(&self, run: u64) -> bool {
        if !self.scheduled {
            return self.told_to_end.load(Ordering::Relaxed)
                && self.completed_in_run.load(Ordering::Relaxed) >= 1;
        }
        run + 1 >= FAILURES
            && self.completed.load(Ordering::Relaxed) >= COMPLETED_MIN
            && self.completed_in_run.load(Ordering::Relaxed) >= 1
    }

    /// Fails by schedule: counts the failure and gives its error.
    pub(super) fn fail(&self, run: u64, what: &str) -> Box<dyn std::error::Error + Send + Sync> {
        self.failures[run as usize].fetch_add(1, Ordering::Relaxed);
        format!("scheduled failure of run {run}: {what}").into()
    }

    /// Failures caused in each run.
    pub fn failures(&self) -> Vec<u64> {
        self.failures.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Something that must not happen has happened.
    pub(super) fn violated(&self, what: String) {
        let mut violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if violations.len() < 20 {
            violations.push(what);
        }
    }

    /// A sink got a value that it must not have got, or not yet.
    pub(super) fn misdelivered(&self, how: Misdelivery, what: String) {
        self.misdelivered[how as usize].fetch_add(1, Ordering::Relaxed);
        self.violated(what);
    }

    /// Values lost, duplicated and out of order, as the sinks saw them.
    pub fn misdeliveries(&self) -> [u64; 3] {
        self.misdelivered.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    /// The first twenty violations.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A split has ended after `count` values.
    pub(super) fn split_ended(&self, tag: u64, split: u64, count: u64) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert((tag, split), count);
    }

    /// Number of values of each split, by source and split.
    pub fn ends(&self) -> BTreeMap<(u64, u64), u64> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

//! What the parts of one job tell each other past the engine, over all its lives.
//!
//! Always true: violations only ever count up. What must roll back with a restore is state of the job, never here.

use crate::conformance::record::Tag;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Violations that are kept.
const VIOLATIONS_MAX: usize = 20;

/// Shared by all parts of a job.
pub struct Script {
    /// Time between checkpoints.
    pub interval: Duration,
    /// Number of splits of each source.
    pub splits: u64,
    /// Sources stay slow, so that almost nothing is in flight.
    pub slow: bool,
    /// Values of each split; without it sources go on until they are told to end.
    pub limit: Option<u64>,
    told_to_end: AtomicBool,
    armed: AtomicBool,
    failures: AtomicU64,
    violations: Mutex<Vec<String>>,
    ends: Mutex<BTreeMap<(Tag, u64), u64>>,
}

impl Script {
    /// For a job whose sources have `splits` splits each.
    pub fn new(interval: Duration, splits: u64, slow: bool, limit: Option<u64>) -> Arc<Self> {
        Arc::new(Script {
            interval,
            splits,
            slow,
            limit,
            told_to_end: AtomicBool::new(false),
            armed: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            violations: Mutex::default(),
            ends: Mutex::default(),
        })
    }

    /// Lets sources end.
    pub fn end(&self) {
        self.told_to_end.store(true, Ordering::Relaxed);
    }

    /// True when a split that has emitted `count` values has no more.
    pub fn has_ended(&self, count: u64) -> bool {
        self.limit.map_or_else(|| self.told_to_end.load(Ordering::Relaxed), |limit| count >= limit)
    }

    /// A split has ended after `count` values.
    pub fn split_ended(&self, tag: Tag, split: u64, count: u64) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert((tag, split), count);
    }

    /// True once some split has ended.
    pub fn any_ended(&self) -> bool {
        !self.ends.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Number of values that a split has emitted in all; `None` while it has not ended.
    pub fn end_of(&self, tag: Tag, split: u64) -> Option<u64> {
        self.limit
            .or_else(|| self.ends.lock().unwrap_or_else(PoisonError::into_inner).get(&(tag, split)).copied())
    }

    /// The next record that comes by the failing operator fails the job.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::Relaxed);
    }

    /// True once after [`Script::arm`].
    pub fn fails_now(&self) -> bool {
        let fails = self.armed.load(Ordering::Relaxed) && self.armed.swap(false, Ordering::Relaxed);
        self.failures.fetch_add(u64::from(fails), Ordering::Relaxed);
        fails
    }

    /// Failures so far.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Something that must not happen has happened.
    pub fn violated(&self, what: String) {
        let mut violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if violations.len() < VIOLATIONS_MAX {
            violations.push(what);
        }
    }

    /// The first violations.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

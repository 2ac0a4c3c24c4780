//! What the parts of a job and its test tell each other, past the engine.
//!
//! Always true: nothing in here rolls back with a restore.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg::CheckpointId;
use thalweg::connector::BoxError;
use thalweg_storage::AttemptId;

/// What a subtask of an operator has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It was made, from this checkpoint if any.
    Opened(Option<CheckpointId>),
    /// It gave its state for a checkpoint.
    Snapshot(CheckpointId),
    /// A checkpoint is complete.
    Completed(CheckpointId),
    /// A checkpoint has failed; with it came the latest completed one.
    Aborted(CheckpointId, Option<CheckpointId>),
    /// Its input has ended.
    Closed,
}

/// One piece of news, and whose it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The execution attempt.
    pub attempt: AttemptId,
    /// Uid of the operator.
    pub operator: String,
    /// The subtask.
    pub subtask: u32,
    /// What it was.
    pub news: News,
}

/// When an operator fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At its next record.
    Processing,
    /// At its next snapshot.
    Snapshot,
    /// When it hears of the next completed checkpoint.
    Completed,
}

#[derive(Debug, Default)]
struct Inner {
    heard: Vec<Heard>,
    told_to_end: BTreeSet<u32>,
    emitted: BTreeMap<u32, u64>,
    farewells: BTreeSet<u32>,
    failures: Vec<(&'static str, When)>,
}

/// Shared by the parts of a job over all of its attempts, and by its test.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Mutex<Inner>>);

impl Script {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the source's split `split` end.
    pub fn end(&self, split: u32) {
        self.inner().told_to_end.insert(split);
    }

    /// Makes one subtask of `operator` fail, once.
    pub fn fail(&self, operator: &'static str, when: When) {
        self.inner().failures.push((operator, when));
    }

    /// Everything heard so far, in order.
    pub fn heard(&self) -> Vec<Heard> {
        self.inner().heard.clone()
    }

    /// What has been heard, by attempt, operator and subtask.
    pub fn heard_by_subtask(&self) -> BTreeMap<(u64, String, u32), Vec<News>> {
        let mut by_subtask: BTreeMap<_, Vec<News>> = BTreeMap::new();
        for heard in self.heard() {
            let whose = (heard.attempt.0, heard.operator, heard.subtask);
            by_subtask.entry(whose).or_default().push(heard.news);
        }
        by_subtask
    }

    /// Number of records that a job emits which has ended: what its splits hold, and the farewells.
    pub fn total(&self) -> u64 {
        let inner = self.inner();
        inner.emitted.values().sum::<u64>() + inner.farewells.len() as u64
    }

    pub(super) fn is_told_to_end(&self, split: u32) -> bool {
        self.inner().told_to_end.contains(&split)
    }

    pub(super) fn emitted(&self, split: u32, count: u64) {
        self.inner().emitted.insert(split, count);
    }

    pub(super) fn said_farewell(&self, subtask: u32) {
        self.inner().farewells.insert(subtask);
    }

    pub(super) fn hears(&self, attempt: AttemptId, operator: &str, subtask: u32, news: News) {
        self.inner().heard.push(Heard { attempt, operator: operator.to_owned(), subtask, news });
    }

    /// Fails if the test wants it.
    pub(super) fn step_on(&self, operator: &str, when: When) -> Result<(), BoxError> {
        let mut inner = self.inner();
        let Some(at) = inner.failures.iter().position(|failure| *failure == (operator, when)) else {
            return Ok(());
        };
        inner.failures.remove(at);
        Err(format!("{operator} fails as it was told: {when:?}").into())
    }
}

//! What becomes of acknowledgements on their way to the coordinator.
//!
//! Always true: reports of other kinds pass at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg::CheckpointId;
use thalweg::control::{Report, TaskId, TaskSnapshot};
use thalweg_storage::AttemptId;

/// One task's acknowledgement of one checkpoint.
#[derive(Clone, Debug)]
pub struct Acknowledgement {
    /// The execution attempt.
    pub attempt: AttemptId,
    /// The task.
    pub task: TaskId,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The task's part of it.
    pub snapshot: Box<TaskSnapshot>,
}

impl Acknowledgement {
    /// As a report.
    pub fn report(self) -> Report {
        Report::Acknowledged(self.attempt, self.task, self.checkpoint, self.snapshot)
    }

    /// The files that it names: segments, and those of in-flight data.
    pub fn files(&self) -> Vec<String> {
        let segments = self.snapshot.operators.iter().flat_map(|(_, _, subtask)| &subtask.segments);
        segments.map(|segment| segment.path.clone()).collect()
    }
}

type Choice = Box<dyn Fn(&Acknowledgement) -> bool + Send>;

#[derive(Default)]
struct Inner {
    keeps: Option<Choice>,
    repeats: bool,
    kept: Vec<Acknowledgement>,
    passed: Vec<Acknowledgement>,
}

/// Keeps acknowledgements, and lets them go when the test says so.
#[derive(Clone, Default)]
pub struct Post(Arc<Mutex<Inner>>);

impl Post {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on acknowledgements that `choice` wants do not arrive.
    pub fn keep(&self, choice: impl Fn(&Acknowledgement) -> bool + Send + 'static) {
        self.inner().keeps = Some(Box::new(choice));
    }

    /// From now on no acknowledgement arrives.
    pub fn keep_all(&self) {
        self.keep(|_| true);
    }

    /// From now on all arrive.
    pub fn keep_none(&self) {
        self.inner().keeps = None;
    }

    /// From now on each acknowledgement that arrives does so twice.
    pub fn repeat(&self) {
        self.inner().repeats = true;
    }

    /// Those that were kept.
    pub fn kept(&self) -> Vec<Acknowledgement> {
        self.inner().kept.clone()
    }

    /// Takes those that were kept.
    pub fn take(&self) -> Vec<Acknowledgement> {
        std::mem::take(&mut self.inner().kept)
    }

    /// Those that have arrived.
    pub fn passed(&self) -> Vec<Acknowledgement> {
        self.inner().passed.clone()
    }

    pub(super) fn on_its_way(&self, report: Report) -> Vec<Report> {
        let Report::Acknowledged(attempt, task, checkpoint, snapshot) = report else {
            return vec![report];
        };
        let acknowledgement = Acknowledgement { attempt, task, checkpoint, snapshot };
        let mut inner = self.inner();
        if inner.keeps.as_ref().is_some_and(|wants| wants(&acknowledgement)) {
            inner.kept.push(acknowledgement);
            return Vec::new();
        }
        inner.passed.push(acknowledgement.clone());
        let times = if inner.repeats { 2 } else { 1 };
        vec![acknowledgement; times].into_iter().map(Acknowledgement::report).collect()
    }
}

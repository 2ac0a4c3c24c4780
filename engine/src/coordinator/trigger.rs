//! Decides when the next checkpoint starts, and why.
//!
//! A savepoint goes first; then a final checkpoint, which lets sinks commit the end of their output; then one that a user
//! asked for; then a periodic one. One that has to wait for room keeps later ones waiting too, so that none starves.
//!
//! Always true:
//! - an unaligned checkpoint, or one with an alignment timeout, never starts while another is under way, nor another while
//!   it is;
//! - a savepoint, which is aligned, counts among the concurrent checkpoints, and only one is under way at a time: unlike in
//!   Flink it does not start beyond that number, since a task would have to finish the earlier snapshot's work at one go;
//! - one that stops the job starts while nothing else is under way, and nothing else starts while it is.

use super::config::CheckpointConfig;
use super::pending::{RequestId, UnderWay, may_overlap};
use crate::clock::Nanos;
use crate::control::{CheckpointMode, StopMode, TaskId};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use thalweg_storage::CheckpointId;

/// Requests of users that may wait at once.
const QUEUE_MAX: usize = 1000;

/// A final checkpoint that failed is tried again after this.
const FINAL_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why a checkpoint starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A user asked for a savepoint.
    Savepoint(RequestId),
    /// A sink's input has ended, and only a checkpoint can commit what it holds.
    Final,
    /// A user asked for it.
    Manual(RequestId),
    /// The interval has passed.
    Periodic,
}

/// A savepoint that a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// The directory in which it gets a directory of its own.
    pub(super) root: Arc<Path>,
    /// How the job stops with it, if it does.
    pub(super) stop: Option<StopMode>,
}

/// A checkpoint or savepoint that is to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) cause: Cause,
    pub(super) mode: CheckpointMode,
    pub(super) savepoint: Option<Wish>,
}

impl Start {
    /// The user's request that it answers.
    pub(super) fn request(&self) -> Option<RequestId> {
        match self.cause {
            Cause::Savepoint(request) | Cause::Manual(request) => Some(request),
            Cause::Final | Cause::Periodic => None,
        }
    }
}

/// How far a task that awaits its final checkpoint has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Await {
    /// No checkpoint has been triggered since the task asked.
    Wanted,
    /// This one has.
    Covered(CheckpointId),
    /// Its checkpoint is complete; the task commits.
    Served,
}

/// What asks for checkpoints of one attempt.
#[derive(Debug)]
pub(super) struct Triggers {
    config: CheckpointConfig,
    periodic_due: Option<Nanos>,
    /// When the latest checkpoint ended, completed or failed.
    ended_at: Option<Nanos>,
    savepoints: VecDeque<(RequestId, Wish)>,
    manual: VecDeque<(RequestId, CheckpointMode)>,
    awaits: BTreeMap<TaskId, Await>,
    final_not_before: Nanos,
}

impl Triggers {
    pub(super) fn new(config: CheckpointConfig) -> Self {
        Triggers {
            config,
            periodic_due: None,
            ended_at: None,
            savepoints: VecDeque::new(),
            manual: VecDeque::new(),
            awaits: BTreeMap::new(),
            final_not_before: Nanos(0),
        }
    }

    /// All tasks run from `now` on.
    pub(super) fn start(&mut self, now: Nanos) {
        self.periodic_due = self.config.interval.map(|interval| now.after(interval));
        self.final_not_before = now;
        self.awaits.clear();
    }

    /// The tasks no longer run. Returns the requests that will not be met.
    pub(super) fn stop(&mut self) -> Vec<RequestId> {
        self.periodic_due = None;
        self.awaits.clear();
        let savepoints = self.savepoints.drain(..).map(|(request, _)| request);
        savepoints.chain(self.manual.drain(..).map(|(request, _)| request)).collect()
    }

    /// Queues a user's request for a savepoint; false when too many wait already.
    pub(super) fn request_savepoint(&mut self, request: RequestId, wish: Wish) -> bool {
        if self.savepoints.len() >= QUEUE_MAX {
            return false;
        }
        self.savepoints.push_back((request, wish));
        true
    }

    /// Queues a user's request; false when too many wait already.
    pub(super) fn request(&mut self, request: RequestId, mode: Option<CheckpointMode>) -> bool {
        if self.manual.len() >= QUEUE_MAX {
            return false;
        }
        self.manual.push_back((request, mode.unwrap_or(self.config.mode)));
        true
    }

    /// A task asks for its final checkpoint. One triggered since it first asked serves a repeated request too.
    pub(super) fn awaits_commit(&mut self, task: TaskId) {
        let state = self.awaits.entry(task).or_insert(Await::Wanted);
        if *state == Await::Served {
            *state = Await::Wanted;
        }
    }

    /// A task has finished: it needs no checkpoint any more.
    pub(super) fn task_finished(&mut self, task: TaskId) {
        self.awaits.remove(&task);
    }

    /// The checkpoint to start now, where those of `under_way` are under way. Call [`Triggers::started`] for it.
    pub(super) fn next(&self, now: Nanos, under_way: &[UnderWay]) -> Option<Start> {
        self.earliest(under_way).filter(|(at, _)| *at <= now).map(|(_, start)| start)
    }

    /// When [`Triggers::next`] will give one if nothing else happens; in the past where it would at once.
    pub(super) fn deadline(&self, under_way: &[UnderWay]) -> Option<Nanos> {
        self.earliest(under_way).map(|(at, _)| at)
    }

    fn earliest(&self, under_way: &[UnderWay]) -> Option<(Nanos, Start)> {
        let config = &self.config;
        if under_way.iter().any(|other| other.stops) {
            return None;
        }
        let fits = |mode| {
            broken!(UnalignedOverlaps)
                || under_way.is_empty()
                || (may_overlap(mode) && under_way.iter().all(|other| may_overlap(other.mode)))
        };
        let waits_for_checkpoints = broken!(SavepointsLast) && !self.manual.is_empty();
        if let Some((request, wish)) = self.savepoints.front().filter(|_| !waits_for_checkpoints) {
            let mode = CheckpointMode::Aligned;
            let has_room = match wish.stop {
                Some(_) => under_way.is_empty(),
                None => {
                    let beside = fits(mode) && under_way.len() < config.max_concurrent.max(1);
                    beside && !under_way.iter().any(|other| other.savepoint)
                }
            };
            let start = Start { cause: Cause::Savepoint(*request), mode, savepoint: Some(wish.clone()) };
            return has_room.then_some((Nanos(0), start));
        }
        let start = |cause, mode, at| {
            let few = under_way.len() < config.max_concurrent.max(1) || broken!(ConcurrencyUnlimited);
            let has_room = fits(mode) && few;
            has_room.then_some((at, Start { cause, mode, savepoint: None }))
        };
        if self.awaits.values().any(|state| *state == Await::Wanted) {
            return start(Cause::Final, config.mode, self.final_not_before);
        }
        let periodic_first = broken!(PeriodicFirst) && self.periodic_due.is_some();
        if let Some((request, mode)) = self.manual.front().filter(|_| !periodic_first) {
            let paused = self.ended_at.filter(|_| broken!(PauseDelaysAll));
            let at = paused.map_or(Nanos(0), |ended| ended.after(config.min_pause));
            return start(Cause::Manual(*request), *mode, at);
        }
        let due = self.periodic_due?;
        if config.min_pause.is_zero() {
            return start(Cause::Periodic, config.mode, due);
        }
        if !under_way.is_empty() {
            return None;
        }
        let pause_over = self.ended_at.map_or(due, |ended| ended.after(config.min_pause));
        start(Cause::Periodic, config.mode, due.max(pause_over))
    }

    /// What [`Triggers::next`] gave is being started. A periodic checkpoint that was late does not make others up.
    pub(super) fn started(&mut self, now: Nanos, start: &Start) {
        match start.cause {
            Cause::Savepoint(_) => {
                self.savepoints.pop_front();
            }
            Cause::Final => {}
            Cause::Manual(_) => {
                self.manual.pop_front();
            }
            Cause::Periodic => {
                self.periodic_due = self.periodic_due.zip(self.config.interval).map(|(due, interval)| {
                    let next = due.after(interval);
                    if next > now { next } else { now.after(interval) }
                });
            }
        }
    }

    /// Every task is being told of `id`: it serves all that wait for a final checkpoint.
    pub(super) fn triggered(&mut self, id: CheckpointId) {
        for state in self.awaits.values_mut().filter(|state| **state == Await::Wanted) {
            *state = Await::Covered(id);
        }
    }

    /// `id` is complete, and with it every older one.
    pub(super) fn completed(&mut self, now: Nanos, id: CheckpointId) {
        self.ended_at = Some(now);
        for state in self.awaits.values_mut() {
            if matches!(*state, Await::Covered(covering) if covering <= id) {
                *state = Await::Served;
            }
        }
    }

    /// A savepoint that the job goes on after has ended, well or not.
    pub(super) fn savepoint_ended(&mut self, now: Nanos) {
        self.ended_at = Some(now);
    }

    /// `id` has failed, or could not even be begun when `None`.
    pub(super) fn failed(&mut self, now: Nanos, id: Option<CheckpointId>) {
        self.ended_at = Some(now);
        self.final_not_before = now.after(FINAL_RETRY_PAUSE);
        for state in self.awaits.values_mut() {
            if id.is_some_and(|id| *state == Await::Covered(id)) {
                *state = Await::Wanted;
            }
        }
    }
}

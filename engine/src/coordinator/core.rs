//! The coordinator's decisions: events in, actions out. No I/O, no clock, no threads.
//!
//! One attempt at a time goes through: waiting → deploying → running → stopping, and from there to the next attempt or
//! to the end. Checkpoints exist only within a running attempt, except that one whose manifest is being published
//! keeps its attempt stopping until the outcome is known.
//!
//! Always true:
//! - a job that runs again is deployed only after every worker has dropped the attempt before;
//! - at most one manifest is being published, and nothing but the outcome ends that checkpoint;
//! - the completion of a checkpoint ends all older ones under way. By then every task has taken its snapshot for them
//!   too, in order, so nothing that still aligns is ever cut short; what sinks prepared for them is listed by the
//!   completed one;
//! - a savepoint ends no other checkpoint and is ended by none, except that one which stops the job counts as a checkpoint
//!   from the moment when it is complete;
//! - once it is unknown what is durable, or once a worker is lost whose tasks may live on, no file is deleted.

mod checkpoints;
mod stop;
mod workers;
#[cfg(test)]
mod prop_tests;
#[cfg(test)]
pub(crate) mod tests;

use super::config::{CheckpointRetention, CoordinatorConfig};
use super::event::{Action, Deployed, Event};
use super::files::Files;
use super::heartbeat::Heartbeats;
use super::pending::{FailReason, Pending};
use super::restart::Restarts;
use super::shared::JobStatus;
use super::stats::{CheckpointStats, Histograms};
use super::trigger::{Start, Triggers};
use crate::clock::Nanos;
use crate::control::{TaskCommand, TaskId};
use std::collections::{BTreeMap, BTreeSet};
use stop::{Ended, StopUnderWay};
use thalweg_storage::{AttemptId, CheckpointId};

/// The coordinator of one job.
#[derive(Debug)]
pub(super) struct Core {
    /// The moment of the event in hand.
    now: Nanos,
    config: CoordinatorConfig,
    /// False when there is nowhere to store checkpoints.
    checkpointing: bool,
    phase: Phase,
    attempt: Attempt,
    pending: BTreeMap<CheckpointId, Pending>,
    /// The checkpoint that is being started, until its id is known.
    beginning: Option<(AttemptId, Start)>,
    /// The checkpoint whose manifest is being published.
    finalising: Option<CheckpointId>,
    failed_in_a_row: u32,
    stop: Option<StopUnderWay>,
    /// Savepoints of this run that have ended, the latest of them.
    savepoints: Ended,
    triggers: Triggers,
    files: Files,
    keep_files: bool,
    restarts: Restarts,
    heartbeats: Heartbeats,
    lost_workers: BTreeSet<usize>,
    /// The job ends then, even if workers still have tasks.
    give_up_at: Option<Nanos>,
    stats: CheckpointStats,
    histograms: Histograms,
    stats_version: u64,
    actions: Vec<Action>,
}

/// Where the job stands.
#[derive(Debug)]
enum Phase {
    Created,
    /// No attempt is there; the next one starts then.
    Waiting {
        until: Nanos,
    },
    /// [`Action::Deploy`] has not been answered; `then` is what to do instead of running.
    Deploying {
        then: Option<Then>,
    },
    Running,
    /// The attempt's tasks are being dropped.
    Stopping {
        then: Then,
        waiting: BTreeSet<usize>,
    },
    Ended(JobStatus),
}

/// What follows an attempt.
#[derive(Clone, Debug)]
enum Then {
    Restart { at: Nanos, cause: String },
    Fail(String),
    Cancelled,
    Finished,
}

/// The present attempt, or the latest one.
#[derive(Debug, Default)]
struct Attempt {
    id: AttemptId,
    tasks: BTreeSet<TaskId>,
    workers: BTreeSet<usize>,
    finished: BTreeSet<TaskId>,
    awaiting_commit: BTreeSet<TaskId>,
    commit_final_sent: bool,
}

impl Core {
    /// The coordinator of a job that has not started; `checkpointing` tells whether checkpoints can be stored.
    pub(super) fn new(config: CoordinatorConfig, checkpointing: bool) -> Self {
        Core {
            now: Nanos(0),
            config,
            checkpointing,
            phase: Phase::Created,
            attempt: Attempt::default(),
            pending: BTreeMap::new(),
            beginning: None,
            finalising: None,
            failed_in_a_row: 0,
            stop: None,
            savepoints: Ended::default(),
            triggers: Triggers::new(config.checkpoint),
            files: Files::new(config.checkpoint.retained),
            keep_files: false,
            restarts: Restarts::new(config.restart, config.restart_seed),
            heartbeats: Heartbeats::new(config.heartbeat_timeout),
            lost_workers: BTreeSet::new(),
            give_up_at: None,
            stats: CheckpointStats::new(config.checkpoint.history),
            histograms: Histograms::default(),
            stats_version: 0,
            actions: Vec::new(),
        }
    }

    /// Takes in what has happened and returns what to do, in order.
    pub(super) fn handle(&mut self, now: Nanos, event: Event) -> Vec<Action> {
        self.now = now;
        match event {
            Event::Start => {
                if matches!(self.phase, Phase::Created) {
                    self.phase = Phase::Waiting { until: now };
                }
            }
            Event::Deployed(deployed) => self.deployed(deployed),
            Event::DeployFailed { message, fatal } => self.deploy_failed(message, fatal),
            Event::Begun { id, unix_ms, dir } => self.begun(id, unix_ms, dir),
            Event::BeginFailed(message) => self.begin_failed(message),
            Event::Published(id) => self.published(id),
            Event::PublishFailed { id, message, outcome_unknown } => {
                self.publish_failed(id, message, outcome_unknown);
            }
            Event::Report(report) => self.report(report),
            Event::Heartbeat { worker, beats, polling } => self.heartbeat(worker, beats, polling),
            Event::Trigger { request, mode } => self.requested(request, mode),
            Event::Savepoint { request, wish } => self.savepoint_requested(request, wish),
            Event::Cancel { give_up } => self.cancel(give_up),
            Event::Tick => self.tick(),
        }
        std::mem::take(&mut self.actions)
    }

    /// When the next [`Event::Tick`] is due if nothing else happens; in the past where one is due at once.
    pub(super) fn next_deadline(&self) -> Option<Nanos> {
        match &self.phase {
            Phase::Running => {
                let expiries = self.pending.values().filter(|p| self.finalising != Some(p.id));
                let expiry = expiries.map(|p| p.triggered_at.after(self.config.checkpoint.timeout)).min();
                let trigger = match self.beginning {
                    None => self.triggers.deadline(&self.under_way()),
                    Some(_) => None,
                };
                expiry.into_iter().chain(trigger).min()
            }
            Phase::Waiting { until } => Some(*until),
            Phase::Stopping { .. } => self.give_up_at,
            Phase::Created | Phase::Deploying { .. } | Phase::Ended(_) => None,
        }
    }

    /// Where the job stands, as its users see it.
    pub(super) fn status(&self) -> JobStatus {
        match &self.phase {
            Phase::Created => JobStatus::Created,
            Phase::Waiting { .. } | Phase::Deploying { .. } if self.stats.restarts > 0 => {
                JobStatus::Restarting
            }
            Phase::Waiting { .. } | Phase::Deploying { .. } => JobStatus::Created,
            Phase::Running => JobStatus::Running,
            Phase::Stopping { then: Then::Restart { .. }, .. } => JobStatus::Restarting,
            Phase::Stopping { then: Then::Fail(_), .. } => JobStatus::Failing,
            Phase::Stopping { then: Then::Cancelled, .. } => JobStatus::Cancelling,
            Phase::Stopping { then: Then::Finished, .. } => JobStatus::Running,
            Phase::Ended(status) => status.clone(),
        }
    }

    /// The job's statistics and a number that changes whenever they do.
    pub(super) fn stats(&self) -> (&CheckpointStats, u64) {
        (&self.stats, self.stats_version)
    }

    /// True when a checkpoint under way names the file or may still do so: it must not be deleted.
    pub(super) fn in_use(&self, path: &str) -> bool {
        self.keep_files || self.files.in_use(path, self.finalising)
    }

    /// The workers whose heartbeats matter now.
    pub(super) fn watched_workers(&self) -> Vec<usize> {
        match &self.phase {
            Phase::Running => self.attempt.workers.iter().copied().collect(),
            Phase::Stopping { waiting, .. } => waiting.iter().copied().collect(),
            _ => Vec::new(),
        }
    }

    fn tick(&mut self) {
        match &mut self.phase {
            Phase::Waiting { until } if *until <= self.now => {
                self.phase = Phase::Deploying { then: None };
                self.actions.push(Action::Deploy);
            }
            Phase::Running => {
                self.expire();
                if matches!(self.phase, Phase::Running) && self.beginning.is_none() {
                    self.begin();
                }
            }
            Phase::Stopping { then, waiting } if self.give_up_at.is_some_and(|at| at <= self.now) => {
                let message =
                    format!("workers {waiting:?} did not drop their tasks before the shutdown's deadline");
                let finished = matches!(then, Then::Finished);
                self.keep_files = true;
                self.end(if finished { JobStatus::Finished } else { JobStatus::Failed(message) });
            }
            _ => {}
        }
    }

    fn deployed(&mut self, deployed: Deployed) {
        let Phase::Deploying { then } = &mut self.phase else { return };
        let then = then.take();
        let lost = deployed.workers.iter().find(|worker| self.lost_workers.contains(worker)).copied();
        self.heartbeats.watch(self.now, deployed.workers.iter().copied());
        self.attempt = Attempt {
            id: deployed.attempt,
            tasks: deployed.tasks,
            workers: deployed.workers,
            ..Attempt::default()
        };
        self.failed_in_a_row = 0;
        self.stats.restored = deployed.restored.as_ref().map(|(id, _)| *id);
        self.stats.restored_records = deployed.restored_records;
        if let Some((id, files)) = deployed.restored {
            self.stats.latest = self.stats.latest.max(Some(id));
            self.files.restored(id, files);
        }
        self.stats_version += 1;
        self.phase = Phase::Running;
        if self.checkpointing {
            self.triggers.start(self.now);
        }
        let then = then.or_else(|| lost.map(|worker| Then::Fail(format!("worker {worker} has ended"))));
        match then {
            Some(then) => self.stop(then),
            None => self.check_finished(),
        }
    }

    fn deploy_failed(&mut self, message: String, fatal: bool) {
        let Phase::Deploying { then } = &mut self.phase else { return };
        let then = then.take();
        let then =
            then.unwrap_or_else(|| self.after_failure(format!("deployment failed: {message}"), !fatal));
        self.follow(then);
    }

    /// What follows a failure of an attempt; uses up a restart.
    fn after_failure(&mut self, cause: String, restartable: bool) -> Then {
        if !restartable {
            return Then::Fail(cause);
        }
        match self.restarts.next(self.now) {
            Some(delay) => {
                self.stats.restart_cause = Some(cause.clone());
                self.actions.push(Action::Note(format!("the job restarts: {cause}")));
                Then::Restart { at: self.now.after(delay), cause }
            }
            None => Then::Fail(format!("{cause}; {}", self.restarts.exhausted())),
        }
    }

    /// The first failure of an attempt decides; a later one counts only where it forbids the restart.
    fn attempt_failed(&mut self, cause: String, restartable: bool) {
        match &mut self.phase {
            Phase::Running => {
                let then = self.after_failure(cause, restartable);
                self.stop(then);
            }
            Phase::Stopping { then, .. } if !restartable => match then {
                Then::Restart { cause: first, .. } => {
                    *then = Then::Fail(format!("{cause}; before that: {first}"))
                }
                Then::Cancelled => *then = Then::Fail(cause),
                Then::Fail(_) | Then::Finished => {}
            },
            _ => {}
        }
    }

    /// Ends the running attempt: nothing more is expected of its tasks but that they go.
    fn stop(&mut self, then: Then) {
        let why = match &then {
            Then::Restart { .. } => "the job restarts",
            Then::Fail(_) => "the job has failed",
            Then::Cancelled => "the job was cancelled",
            Then::Finished => "the job has finished",
        };
        let waiting = self.attempt.workers.difference(&self.lost_workers).copied().collect();
        self.phase = Phase::Stopping { then, waiting };
        self.actions.push(Action::CancelAttempt(self.attempt.id));
        for request in self.triggers.stop() {
            self.actions.push(Action::Answer(request, Err(why.to_owned())));
        }
        let ids: Vec<CheckpointId> =
            self.pending.keys().copied().filter(|id| self.finalising != Some(*id)).collect();
        for id in ids {
            self.end_failed(id, &FailReason::AttemptEnded(why));
        }
        self.leave_if_stopped();
    }

    fn leave_if_stopped(&mut self) {
        let Phase::Stopping { then, waiting, .. } = &self.phase else { return };
        if waiting.is_empty() && self.finalising.is_none() {
            let then = then.clone();
            let left_over = self.files.attempt_over();
            self.discard_all(left_over);
            self.follow(then);
        }
    }

    /// True when the job's checkpoints are to be deleted at this end.
    fn checkpoints_go_with(&self, status: &JobStatus) -> bool {
        match self.config.checkpoint.retention {
            CheckpointRetention::RetainOnCancellation => false,
            // The end of the engine is not the end of the job.
            CheckpointRetention::DeleteOnCancellation if self.give_up_at.is_some() => false,
            CheckpointRetention::DeleteOnCancellation => !matches!(status, JobStatus::Failed(_)),
            CheckpointRetention::NoExternalizedCheckpoints => true,
        }
    }

    /// No attempt is there any more: goes on to what follows.
    fn follow(&mut self, then: Then) {
        match then {
            Then::Restart { at, cause } => {
                self.stop_came_to_nothing(&cause);
                self.stats.restarts += 1;
                self.stats_version += 1;
                self.phase = Phase::Waiting { until: at };
            }
            Then::Fail(message) => self.end(JobStatus::Failed(message)),
            Then::Cancelled => self.end(JobStatus::Cancelled),
            Then::Finished => self.end(JobStatus::Finished),
        }
    }

    /// The job has ended. Whoever waits for an answer gets it after everything else: then the checkpoint directory is free.
    fn end(&mut self, status: JobStatus) {
        if self.checkpointing && !self.keep_files && self.checkpoints_go_with(&status) {
            self.actions.push(Action::RemoveCheckpoints);
        }
        self.phase = Phase::Ended(status.clone());
        self.actions.push(Action::Ended(status.clone()));
        for request in self.triggers.stop() {
            self.actions.push(Action::Answer(request, Err("the job has ended".to_owned())));
        }
        self.answer_stop(&status);
    }

    fn cancel(&mut self, give_up: bool) {
        match &mut self.phase {
            Phase::Created | Phase::Waiting { .. } => self.end(JobStatus::Cancelled),
            Phase::Deploying { then } => *then = Some(Then::Cancelled),
            Phase::Running => self.stop(Then::Cancelled),
            Phase::Stopping { then, .. } => {
                if matches!(then, Then::Restart { .. }) {
                    *then = Then::Cancelled;
                }
            }
            Phase::Ended(_) => {}
        }
        if give_up && self.give_up_at.is_none() {
            self.give_up_at = Some(self.now.after(self.config.shutdown_timeout));
        }
    }

    fn is_running(&self, attempt: AttemptId) -> bool {
        matches!(self.phase, Phase::Running) && attempt == self.attempt.id
    }

    fn check_finished(&mut self) {
        let Attempt { id, tasks, finished, awaiting_commit, commit_final_sent, .. } = &mut self.attempt;
        if finished.len() == tasks.len() {
            self.stop(Then::Finished);
        } else if !self.checkpointing
            && !*commit_final_sent
            && tasks.iter().all(|task| finished.contains(task) || awaiting_commit.contains(task))
        {
            *commit_final_sent = true;
            self.actions.push(Action::Broadcast(*id, TaskCommand::CommitFinal));
        }
    }
}

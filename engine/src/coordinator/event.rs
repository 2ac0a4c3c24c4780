//! What the core is told, and what it asks for.

use super::pending::RequestId;
use super::shared::JobStatus;
use crate::control::{CheckpointMode, Report, TaskCommand, TaskId, TaskSnapshot};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use thalweg_storage::{AttemptId, CheckpointId};

/// Something that has happened.
#[derive(Debug)]
pub(super) enum Event {
    /// The job is to run.
    Start,
    /// Answers [`Action::Deploy`]: the workers have the tasks.
    Deployed(Deployed),
    /// Answers [`Action::Deploy`]: there is no attempt.
    DeployFailed { message: String, fatal: bool },
    /// Answers [`Action::Begin`].
    Begun { id: CheckpointId, unix_ms: u64 },
    /// Answers [`Action::Begin`].
    BeginFailed(String),
    /// Answers [`Action::Publish`]: the checkpoint is durable.
    Published(CheckpointId),
    /// Answers [`Action::Publish`]. Where `outcome_unknown`, the checkpoint may be durable nevertheless.
    PublishFailed { id: CheckpointId, message: String, outcome_unknown: bool },
    /// A task or worker says something.
    Report(Report),
    /// A look at a worker: how often it has turned and what it is doing.
    Heartbeat { worker: usize, beats: u64, polling: Option<(String, u32)> },
    /// A user asks for a checkpoint, in the job's mode unless another is given.
    Trigger { request: RequestId, mode: Option<CheckpointMode> },
    /// A user cancels the job. With `give_up`, as at a shutdown, it ends after the shutdown's timeout even if workers
    /// still have tasks.
    Cancel { give_up: bool },
    /// Time may have passed. All decisions that time alone brings about are taken here.
    Tick,
}

/// A new attempt.
#[derive(Debug)]
pub(super) struct Deployed {
    pub(super) attempt: AttemptId,
    pub(super) tasks: BTreeSet<TaskId>,
    /// Workers that have at least one of the tasks.
    pub(super) workers: BTreeSet<usize>,
    /// The checkpoint it was restored from, and the files which that names.
    pub(super) restored: Option<(CheckpointId, HashSet<String>)>,
    pub(super) restored_records: u64,
}

/// Something to do. Actions are executed in order.
#[derive(Debug)]
pub(super) enum Action {
    /// Build the next attempt from the latest completed checkpoint and hand it to the workers; answer with
    /// [`Event::Deployed`] or [`Event::DeployFailed`].
    Deploy,
    /// Obtain the id of a new checkpoint; answer with [`Event::Begun`] or [`Event::BeginFailed`].
    Begin,
    /// Tell every task of an attempt.
    Broadcast(AttemptId, TaskCommand),
    /// Assemble and publish a manifest; answer with [`Event::Published`] or [`Event::PublishFailed`].
    Publish(Acknowledged),
    /// Delete files of a checkpoint that is not complete.
    Discard { id: CheckpointId, files: Vec<String> },
    /// Tell every worker to drop the tasks of an attempt.
    CancelAttempt(AttemptId),
    /// Answer a user's request with the checkpoint that meets it, or with why none does.
    Answer(RequestId, Result<CheckpointId, String>),
    /// Write a line to the log: something went wrong and has been dealt with.
    Note(String),
    /// The job has ended.
    Ended(JobStatus),
}

/// A checkpoint that every task has acknowledged.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub(super) id: CheckpointId,
    pub(super) attempt: AttemptId,
    pub(super) triggered_unix_ms: u64,
    pub(super) snapshots: BTreeMap<TaskId, TaskSnapshot>,
}

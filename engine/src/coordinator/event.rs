//! What the core is told, and what it asks for.

use super::pending::RequestId;
use super::shared::JobStatus;
use super::trigger::Wish;
use crate::control::{CheckpointMode, Report, SnapshotKind, TaskCommand, TaskId, TaskSnapshot};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;
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
    Begun {
        id: CheckpointId,
        unix_ms: u64,
        /// The directory of a savepoint.
        dir: Option<Arc<Path>>,
    },
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
    /// A user asks for a savepoint.
    Savepoint { request: RequestId, wish: Wish },
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
    /// Build the next attempt from the latest completed checkpoint, or from what the job is to start from, and hand it to the workers; answer with
    /// [`Event::Deployed`] or [`Event::DeployFailed`].
    Deploy,
    /// Obtain the id of a new checkpoint, or the id and directory of a savepoint below a root; answer with
    /// [`Event::Begun`] or [`Event::BeginFailed`].
    Begin { savepoint_root: Option<Arc<Path>> },
    /// Tell every task of an attempt.
    Broadcast(AttemptId, TaskCommand),
    /// Assemble and publish a manifest; answer with [`Event::Published`] or [`Event::PublishFailed`].
    Publish(Acknowledged),
    /// Delete files of a checkpoint that is not complete.
    Discard { id: CheckpointId, files: Vec<String> },
    /// Delete the directory of a savepoint that is not complete.
    DiscardSavepoint(CheckpointId),
    /// Delete all completed checkpoints of the job.
    RemoveCheckpoints,
    /// Tell every worker to drop the tasks of an attempt.
    CancelAttempt(AttemptId),
    /// Answer a user's request with the checkpoint or savepoint that meets it, or with why none does.
    Answer(RequestId, Result<Taken, String>),
    /// Write a line to the log: something went wrong and has been dealt with.
    Note(String),
    /// The job has ended.
    Ended(JobStatus),
}

/// What a user gets for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) id: CheckpointId,
    /// The directory of a savepoint.
    pub(super) dir: Option<Arc<Path>>,
}

/// A checkpoint that every task has acknowledged.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub(super) id: CheckpointId,
    pub(super) kind: SnapshotKind,
    pub(super) attempt: AttemptId,
    pub(super) triggered_unix_ms: u64,
    pub(super) snapshots: BTreeMap<TaskId, TaskSnapshot>,
}

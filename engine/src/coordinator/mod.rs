//! The coordinator: decides when checkpoints start and end and when a job restarts, and drives manifests and workers.
//!
//! Read it in this order: `config` (settings), `event` and `core` (the decisions, pure: events in, actions out) with its
//! parts `trigger` (when a checkpoint may start), `pending` (one checkpoint under way), `files` (which files
//! may be deleted), `restart` and `heartbeat`; then `stats` and `shared` (what a job handle sees),
//! `backend` and `deploy` (what the coordinator needs of others), `assemble` (snapshots into a manifest) and
//! `runner` (the loop that executes the core's actions).
//!
//! Always true:
//! - a checkpoint is completed only when every task has acknowledged it and its manifest is durable;
//! - checkpoints complete in rising order of their ids;
//! - tasks hear of each id's end, completion or abort, at most once, and exactly once while their attempt runs on;
//! - a checkpoint whose manifest is being published can't be aborted;
//! - an unaligned checkpoint, or an aligned one with a timeout, never overlaps another.

mod assemble;
mod backend;
mod config;
mod core;
mod deploy;
mod event;
mod files;
mod heartbeat;
mod pending;
mod restart;
mod runner;
mod shared;
mod stats;
mod trigger;

#[cfg(all(test, not(loom)))]
pub(crate) use core::tests as core_tests;

pub use backend::CheckpointBackend;
pub use config::{
    CheckpointConfig, CheckpointRetention, CoordinatorConfig, ExponentialDelay, RestartStrategy,
};
pub use deploy::{Deploy, DeployError, DeployedOperator, Deployment};
pub use runner::{CoordinatorHandle, RestoreFrom, Runner, RunnerParts};
pub use shared::{JobShared, JobStatus};
pub use stats::{
    CheckpointKind, CheckpointOutcome, CheckpointRecord, CheckpointStats, CheckpointSummary, Quantiles,
    TaskCheckpoint,
};

//! Thalweg: an embeddable, single-node stream engine with exactly-once checkpoints.
//!
//! A [`Dataflow`] describes a job; an [`Engine`] runs it on pinned workers and restores it from its latest completed
//! checkpoint whenever it starts again. The words are Apache Flink's.
//!
//! The modules build on each other in this order: [`clock`], [`error`], [`config`] and [`metrics`]; [`ring`] (how
//! batches move), [`barrier`] (what a task does about checkpoints), [`state`], [`operator`] and [`operators`]
//! (chains), [`connector`] (sources and sinks), [`task`], [`control`], [`worker`] and [`coordinator`], [`graph`],
//! [`dataflow`], [`job`].

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

// Storage's `crash_point!` and `broken!`, in all modules.
#[macro_use]
extern crate thalweg_storage;

pub mod crash;
pub mod clock;
pub mod error;
pub mod config;
pub mod metrics;
pub mod ring;
pub mod barrier;
pub mod state;
pub mod operator;
pub mod operators;
pub mod connector;
pub mod task;
pub mod control;
pub mod worker;
pub mod coordinator;
pub mod graph;
pub mod dataflow;
pub mod job;

pub use control::{CheckpointMode, StopMode};
pub use coordinator::{CheckpointRetention, ExponentialDelay, JobStatus, RestartStrategy};
pub use dataflow::{DataStream, Dataflow};
pub use error::Error;
#[cfg(feature = "cli")]
pub use job::cli;
#[cfg(all(feature = "control", unix))]
pub use job::remote;
pub use job::{Engine, EngineBuilder, JobHandle, RestoreMode, RestoreSettings};
pub use thalweg_storage::{CheckpointId, Data, Key, data, pod};
pub use worker::DriverChoice;

/// Compiles the README's job.
#[cfg(all(doctest, feature = "files"))]
#[doc = include_str!("../../README.md")]
struct Readme;

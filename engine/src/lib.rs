//! Thalweg: an embeddable, single-node stream engine with exactly-once checkpoints.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod clock;
pub mod connector;
pub mod control;
pub mod ring;
pub mod task;

//! Thalweg: an embeddable, single-node stream engine with exactly-once checkpoints.
pub mod clock;
pub mod connector;
pub mod control;
pub mod ring;
pub mod task;
pub mod worker;

//! Whole-engine suites live under `tests/tests`; this crate holds what they share.

pub mod bank;
pub mod clicks;
pub mod conformance;
pub mod sink_stage;
pub mod support;
pub mod trial;

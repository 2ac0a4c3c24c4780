//! Whole-engine suites live under `tests/tests`; this crate holds what they share.

pub mod clicks;
pub mod conformance;
pub mod support;

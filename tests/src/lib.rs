//! Whole-engine suites live under `tests/tests`; this crate holds what they share.

pub mod conformance;
pub mod support;

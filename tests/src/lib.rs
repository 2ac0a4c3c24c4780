//! Whole-engine suites live under `tests/tests`; this crate holds their shared harness.

pub mod clicks;

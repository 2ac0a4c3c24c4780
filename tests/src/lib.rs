//! Helpers shared by the whole-engine tests in `tests/tests`.

pub mod support;

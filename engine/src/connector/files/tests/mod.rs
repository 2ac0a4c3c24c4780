//! Claims about file input and output.

mod recovery_tests;
mod sink_tests;
mod source_tests;

//! Claims about file input and output.

mod sink_tests;
mod source_tests;

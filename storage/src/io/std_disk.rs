//! Placeholder.
/// Placeholder.
pub struct StdDisk;

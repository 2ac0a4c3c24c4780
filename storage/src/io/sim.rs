//! Placeholder.
/// Placeholder.
pub struct SimDisk;

//! Placeholder.
/// Placeholder.
pub struct UringDisk;

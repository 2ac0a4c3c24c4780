//! Placeholder.
use std::sync::Arc;
/// Wakes a parked worker.
pub trait Wake: Send + Sync + 'static {
    /// Wakes the parked worker.
    fn wake(&self);
}
/// One per worker.
#[derive(Clone)]
pub struct Doorbell(Arc<()>);
impl Doorbell {
    /// Rings.
    pub fn ring(&self) { let _ = &self.0; }
}

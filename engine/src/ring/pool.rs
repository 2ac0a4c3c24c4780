//! The budget of batch memory that the channels of one engine share.
//!
//! Each channel may always hold two batches, so no channel can starve; further ones float: they are granted while
//! the budget lasts and given back under pressure. Twenty by twenty subtasks therefore need megabytes, not gigabytes.

use std::sync::atomic::{AtomicI64, Ordering};

/// Floating batch memory, in bytes. Counts only; the batches themselves belong to their channels.
pub struct BatchPool {
    free_bytes: AtomicI64,
    low_bytes: i64,
}

impl BatchPool {
    /// A pool that grants `bytes` in all.
    pub fn new(bytes: usize) -> Self {
        BatchPool { free_bytes: AtomicI64::new(bytes as i64), low_bytes: bytes as i64 / 4 }
    }

    /// Takes `bytes` from the budget if they are there.
    pub fn acquire(&self, bytes: usize) -> bool {
        let bytes = bytes as i64;
        // Relaxed: the count guards no other memory.
        if self.free_bytes.fetch_sub(bytes, Ordering::Relaxed) >= bytes {
            return true;
        }
        self.free_bytes.fetch_add(bytes, Ordering::Relaxed);
        false
    }

    /// Takes `bytes` although they may not be there, for memory that is in use already. The debt is paid back first.
    pub fn charge(&self, bytes: usize) {
        self.free_bytes.fetch_sub(bytes as i64, Ordering::Relaxed);
    }

    /// Bytes that are free; negative while there is debt.
    #[cfg(test)]
    pub fn free_bytes(&self) -> i64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    /// Gives `bytes` back.
    pub fn release(&self, bytes: usize) {
        self.free_bytes.fetch_add(bytes as i64, Ordering::Relaxed);
    }

    /// True when little is left, so that holders of floating batches should give some back.
    pub fn is_low(&self) -> bool {
        self.free_bytes.load(Ordering::Relaxed) < self.low_bytes
    }
}

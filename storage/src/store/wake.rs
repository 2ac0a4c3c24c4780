//! Lets the one thread of a store wait for whatever its disk completes next.
//!
//! Always true: an answer that comes after [`Wake::seen`] ends the [`Wake::wait_beyond`] of what that returned, so a
//! thread that looks first and waits then sleeps through nothing.

use crate::io::Notify;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Counts the answers of a disk.
#[derive(Default)]
pub(super) struct Wake {
    answers: Mutex<u64>,
    changed: Condvar,
}

impl Wake {
    /// Number of answers so far.
    pub fn seen(&self) -> u64 {
        *self.lock()
    }

    /// Waits until there are more than `seen` answers.
    pub fn wait_beyond(&self, seen: u64) {
        let mut answers = self.lock();
        while *answers <= seen {
            answers = self.changed.wait(answers).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notify for Wake {
    fn notify(&self) {
        *self.lock() += 1;
        self.changed.notify_all();
    }
}

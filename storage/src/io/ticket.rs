//! Answers to disk requests: polled by a worker, waited for by a thread.

use super::{Completion, Reply};
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Somebody to wake when an answer has come; called on a thread of the disk.
pub trait Notify: Send + Sync + 'static {
    /// Wakes the owner. Must be short and must not panic.
    fn notify(&self);
}

enum Slot<T> {
    Waiting,
    Ready(io::Result<T>),
    Taken,
}

struct Shared<T> {
    slot: Mutex<Slot<T>>,
    ready: Condvar,
}

/// The answer to one request, perhaps not there yet. Dropping a ticket does not cancel its request.
pub struct Ticket<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Send + 'static> Ticket<T> {
    pub(super) fn new(notify: Option<Arc<dyn Notify>>, take: fn(Reply) -> Option<T>) -> (Self, Completion) {
        let shared = Arc::new(Shared { slot: Mutex::new(Slot::Waiting), ready: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let done: Completion = Box::new(move |answer| {
            let answer = answer.and_then(|reply| {
                take(reply).ok_or_else(|| io::Error::other("disk gave an answer of another kind"))
            });
            *theirs.slot.lock().unwrap_or_else(PoisonError::into_inner) = Slot::Ready(answer);
            theirs.ready.notify_all();
            if let Some(notify) = notify {
                notify.notify();
            }
        });
        (Ticket { shared }, done)
    }

    /// The answer, if it has come; at most once. Never blocks.
    pub fn poll(&mut self) -> Option<io::Result<T>> {
        let mut slot = self.shared.slot.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *slot, Slot::Taken) {
            Slot::Ready(answer) => Some(answer),
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Waits for the answer. For plain threads: a worker polls instead.
    ///
    /// # Panics
    /// When [`Ticket::poll`] has returned the answer already.
    pub fn wait(self) -> io::Result<T> {
        let mut slot = self.shared.slot.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match std::mem::replace(&mut *slot, Slot::Taken) {
                Slot::Ready(answer) => return answer,
                Slot::Waiting => {
                    *slot = Slot::Waiting;
                    slot = self.shared.ready.wait(slot).unwrap_or_else(PoisonError::into_inner);
                }
                Slot::Taken => panic!("the answer of this ticket was taken already"),
            }
        }
    }
}

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
    /// The ticket was dropped: nobody will ask.
    Dropped,
}

/// What becomes of an answer that nobody asked for before the ticket was dropped.
type Dispose<T> = Box<dyn Fn(T) + Send + Sync>;

struct Shared<T> {
    slot: Mutex<Slot<T>>,
    ready: Condvar,
    dispose: Option<Dispose<T>>,
}

impl<T> Shared<T> {
    fn replace(&self, slot: Slot<T>) -> Slot<T> {
        std::mem::replace(&mut *self.slot.lock().unwrap_or_else(PoisonError::into_inner), slot)
    }

    fn dispose(&self, answer: io::Result<T>) {
        if let (Ok(answer), Some(dispose)) = (answer, &self.dispose) {
            dispose(answer);
        }
    }
}

/// The answer to one request, perhaps not there yet. Dropping a ticket does not cancel its request; the file of an open
/// whose ticket was dropped is closed again.
pub struct Ticket<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Drop for Ticket<T> {
    fn drop(&mut self) {
        if let Slot::Ready(answer) = self.shared.replace(Slot::Dropped) {
            self.shared.dispose(answer);
        }
    }
}

impl<T: Send + 'static> Ticket<T> {
    pub(super) fn new(
        notify: Option<Arc<dyn Notify>>,
        take: fn(Reply) -> Option<T>,
        dispose: Option<Dispose<T>>,
    ) -> (Self, Completion) {
        let shared = Arc::new(Shared { slot: Mutex::new(Slot::Waiting), ready: Condvar::new(), dispose });
        let theirs = Arc::clone(&shared);
        let done: Completion = Box::new(move |answer| {
            let answer = answer.and_then(|reply| {
                take(reply).ok_or_else(|| io::Error::other("disk gave an answer of another kind"))
            });
            {
                let mut slot = theirs.slot.lock().unwrap_or_else(PoisonError::into_inner);
                if matches!(*slot, Slot::Dropped) {
                    drop(slot);
                    theirs.dispose(answer);
                    return;
                }
                *slot = Slot::Ready(answer);
            }
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
                Slot::Taken | Slot::Dropped => panic!("the answer of this ticket was taken already"),
            }
        }
    }
}

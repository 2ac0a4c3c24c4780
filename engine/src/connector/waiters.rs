//! Waiting on the host's side of a channel: futures that no runtime needs to drive, and threads that block on them.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Those who wait for one condition. Kept under the lock that guards the condition.
#[derive(Default)]
pub(super) struct Waiters(Vec<Waker>);

impl Waiters {
    /// Adds the caller, once.
    pub fn register(&mut self, waker: &Waker) {
        if !self.0.iter().any(|known| known.will_wake(waker)) {
            self.0.push(waker.clone());
        }
    }

    /// Takes all who wait, to be woken once the lock is released.
    #[must_use]
    pub fn take(&mut self) -> Woken {
        Woken(std::mem::take(&mut self.0))
    }
}

/// Waiters taken out of a channel's state.
pub(super) struct Woken(Vec<Waker>);

impl Woken {
    /// Wakes them. Call it without the lock.
    pub fn wake(self) {
        for waker in self.0 {
            waker.wake();
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs `future` on this thread, which sleeps while there is nothing to do.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

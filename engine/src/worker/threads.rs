//! The driver of plain threads: one thread per worker, parked with the standard library's parker.
//!
//! Always true: the thread parks only after its sleep is announced and everything is rechecked, and never for longer than
//! a heartbeat. `unpark` is sticky, as [`Wake`] demands.

use super::core::{Turn, WorkerCore};
use super::cores;
use super::{HEARTBEAT, HEARTBEAT_IDLE};
use crate::clock::Nanos;
use crate::ring::doorbell::Wake;
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};

/// Unparks the worker's thread. Until that has started it is not asleep either, so there is nobody to wake.
#[derive(Clone, Default)]
pub(super) struct Unpark {
    thread: Arc<OnceLock<Thread>>,
}

impl Wake for Unpark {
    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

/// Runs a worker on the calling thread until it is told to shut down.
pub(super) fn run(core: &mut WorkerCore, pinned_to: Option<usize>, unpark: &Unpark) {
    if let Some(number) = pinned_to
        && let Err(error) = cores::pin_to(number)
    {
        tracing::warn!(worker = core.link().index(), core = number, %error, "a worker runs unpinned");
    }
    unpark.thread.get_or_init(thread::current);
    loop {
        match core.turn() {
            Turn::Again => {}
            Turn::Park(wake_at) => {
                park(core, wake_at);
                core.link().doorbell().cancel_sleep();
            }
            Turn::Shutdown => return,
        }
    }
}

/// Parks until the doorbell rings or `wake_at` comes, counting a heartbeat now and then.
fn park(core: &WorkerCore, wake_at: Option<Nanos>) {
    let mut beat = HEARTBEAT;
    while core.link().doorbell().is_asleep() {
        let mut timeout = beat;
        if let Some(at) = wake_at {
            let left = at.since(core.clock().now());
            if left.is_zero() {
                return;
            }
            timeout = timeout.min(left);
        }
        #[cfg_attr(
            not(test),
            expect(clippy::disallowed_methods, reason = "the run loop of a parked worker itself")
        )]
        thread::park_timeout(timeout);
        core.link().beat();
        beat = HEARTBEAT_IDLE;
    }
}

//! The driver of glommio executors: one per worker, made once per engine. The only file of this crate that names glommio.
//!
//! Always true:
//! - the root future awaits only where its sleep is announced and rechecked, or to let the executor run its timers;
//! - a heartbeat timer is armed from the executor's first moment to its last;
//! - no panic unwinds through the executor, and no future of ours is left in it when it is dropped.
//!
//! What glommio does that shapes this code:
//! - An executor arms its preemption timer, then runs its tasks; if the timer has run out in between, because the kernel has
//!   held up the thread, it runs none, takes that for having none, and parks. The tasks that it has not run may be all
//!   there are, the heartbeat too, whose timer then is not armed: such a park never ends. So that timer never runs out
//!   ([`PREEMPT`]); nobody needs it, as a worker that is busy waits for nothing in the reactor.
//! - `yield_now` does not run the reactor, so a worker never idles by staying runnable: it parks.
//! - A panic in a future unwinds the executor or aborts the process: [`caught`] stops it before that.
//! - Pending futures leak when an executor is dropped: the root future ends by a command, the heartbeat is cancelled and
//!   awaited, wakers are taken back; then the executor is dropped on its own thread, which is joined.
//! - The first park can take tens of milliseconds, for membarrier's registration: a short sleep before the worker
//!   counts as started takes that upon itself.
//! - A pending `Timer` that is polled twice is armed twice: each is polled once and dropped after any wake-up.

use super::core::{Turn, WorkerCore};
use super::link::Link;
use super::{HEARTBEAT, HEARTBEAT_IDLE};
use crate::clock::Nanos;
use crate::control::WorkerLink;
use crate::ring::doorbell::Wake;
use futures_util::task::AtomicWaker;
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::task::Poll;
use std::time::Duration;

/// Never, as far as any kernel holds up a thread; see the top of this file. A busy worker's rounds count as heartbeats and carry
/// the time, and one that parks lets its executor run everything else.
const PREEMPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How long an executor polls its rings before it parks; works for pinned ones only. Short, as the worker has polled its
/// tasks for a while already, and each heartbeat of an idle worker pays it again.
const SPIN_BEFORE_PARK: Duration = Duration::from_micros(2);

/// Registered I/O memory of an executor: glommio's least. Disks are accessed elsewhere, and it counts as locked memory.
const IO_MEMORY_BYTES: usize = 64 * 1024;

/// Wakes the root future from any thread. Sticky: a wake that finds no waker registered is found by the registration.
#[derive(Clone, Default)]
pub(super) struct WakeRoot {
    waker: Arc<AtomicWaker>,
}

impl Wake for WakeRoot {
    fn wake(&self) {
        self.waker.wake();
    }
}

/// Runs a worker on an executor of the calling thread until it is told to shut down. Says through `started` when the
/// executor is up and warm, or why it could not be made.
pub(super) fn run(
    core: &mut WorkerCore,
    pinned_to: Option<usize>,
    wake: &WakeRoot,
    started: SyncSender<Result<(), String>>,
) {
    let made = LocalExecutorBuilder::new(pinned_to.map_or(Placement::Unbound, Placement::Fixed))
        .io_memory(IO_MEMORY_BYTES)
        .spin_before_park(SPIN_BEFORE_PARK)
        .preempt_timer(PREEMPT)
        .make();
    let executor = match made {
        Ok(executor) => executor,
        Err(error) => {
            // Nobody listens when the start was given up already.
            let _ = started.send(Err(error.to_string()));
            return;
        }
    };
    let outcome = executor.run(async {
        let heart = glommio::spawn_local(beat(Arc::clone(core.link())));
        Timer::new(Duration::from_millis(1)).await;
        let _ = started.send(Ok(()));
        let outcome = caught(drive(core, wake)).await;
        drop(wake.waker.take());
        heart.cancel().await;
        outcome
    });
    drop(executor);
    if let Err(payload) = outcome {
        resume_unwind(payload);
    }
}

/// Counts a heartbeat per period, for ever; less often once no round has been counted in between.
async fn beat(link: Arc<Link>) {
    let mut period = HEARTBEAT;
    loop {
        let before = link.heartbeat();
        Timer::new(period).await;
        period = if link.heartbeat() == before { HEARTBEAT_IDLE } else { HEARTBEAT };
        link.beat();
    }
}

async fn drive(core: &mut WorkerCore, wake: &WakeRoot) {
    // Glommio queues a task once more when its last waker is dropped on another thread; one kept here avoids that.
    let _own = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
    loop {
        match core.turn() {
            Turn::Again => glommio::yield_if_needed().await,
            Turn::Park(wake_at) => {
                park(core, wake_at, wake).await;
                core.link().doorbell().cancel_sleep();
            }
            Turn::Shutdown => return,
        }
    }
}

/// Waits until the doorbell rings or `wake_at` comes; may return without cause.
async fn park(core: &WorkerCore, wake_at: Option<Nanos>, wake: &WakeRoot) {
    let mut timer = wake_at.map(|at| Timer::new(at.since(core.clock().now())));
    let mut polled = false;
    poll_fn(|context| {
        if std::mem::replace(&mut polled, true) {
            return Poll::Ready(());
        }
        // Register first, look at the bell second: a ring in between finds the waker, one before it shows on the bell.
        wake.waker.register(context.waker());
        if !core.link().doorbell().is_asleep() {
            return Poll::Ready(());
        }
        match &mut timer {
            Some(timer) => Pin::new(timer).poll(context).map(|_| ()),
            None => Poll::Pending,
        }
    })
    .await;
}

/// Turns a panic of `future` into its output.
async fn caught(future: impl Future<Output = ()>) -> std::thread::Result<()> {
    let mut future = pin!(future);
    poll_fn(|context| {
        // Unwind safety: the future is not polled again after a panic.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Ok),
            Err(payload) => Poll::Ready(Err(payload)),
        }
    })
    .await
}

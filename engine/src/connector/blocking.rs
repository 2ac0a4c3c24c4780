//! Calls that block, made beside the workers: one helper thread per user of it, in order, with a wake-up when one is done.
//!
//! Always true:
//! - jobs run one after another in the order of their submission, each at most once;
//! - a result is there before the worker is woken for it;
//! - nothing that was submitted begins after the owner has been dropped; what is running then ends, and the resource is closed
//!   after it, by the same thread;
//! - whoever opens the same outside resource next can wait for that: see [`Helpers`].

use super::BoxError;
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use thalweg_storage::io::Notify;
use thalweg_storage::threads;

/// Where the calls of a sink to an outside system are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Calls {
    /// On a helper thread of each subtask: for systems whose calls wait for a network or a disk. The default.
    #[default]
    HelperThread,
    /// On the worker: for calls that never wait. The simulated driver is deterministic only with these.
    Worker,
}

type Job<S, R> = Box<dyn FnOnce(&mut S) -> R + Send>;

struct State<S, R> {
    jobs: VecDeque<Job<S, R>>,
    results: VecDeque<R>,
    /// The owner is gone.
    closed: bool,
    /// A job panicked, with this message.
    panicked: Option<String>,
}

struct Shared<S, R> {
    state: Mutex<State<S, R>>,
    work: Condvar,
}

impl<S, R> Shared<S, R> {
    fn lock(&self) -> MutexGuard<'_, State<S, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Helper threads of earlier owners that may still be running a call. Clones share the list; keep one with the sink, which outlives
/// its writers.
#[derive(Clone, Default)]
pub struct Helpers(Arc<Mutex<Vec<Helper>>>);

/// The thread of a subtask.
type Helper = (u32, JoinHandle<()>);

impl Helpers {
    /// Waits until the threads of all original subtasks for which `is_own` holds have ended. Not for workers.
    pub fn await_earlier(&self, is_own: impl Fn(u32) -> bool) {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own: Vec<_> = threads.extract_if(.., |(subtask, _)| is_own(*subtask)).collect();
        drop(threads);
        for (_, thread) in own {
            // Its jobs' panics were caught, and its attempt is over in any case.
            let _ = thread.join();
        }
    }
}

/// Runs jobs on an outside resource `S`, such as a connection; each gives an `R`.
///
/// For sinks and sources of your own whose calls block: submit a call, return from `poll`, and take its result in a later
/// `poll`, for which the worker is woken. Dropping it never blocks.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::mpsc::{Sender, channel};
/// use thalweg::connector::blocking::{Blocking, Calls, Helpers};
///
/// struct Bell(Sender<()>);
/// impl thalweg_storage::io::Notify for Bell {
///     fn notify(&self) {
///         let _ = self.0.send(());
///     }
/// }
///
/// // A connector passes `Arc::clone(&context.waker)`.
/// let (rung, bell) = channel();
/// let connection = Vec::new();
/// let mut calls =
///     Blocking::start(connection, |_| {}, Calls::HelperThread, 0, Helpers::default(), Arc::new(Bell(rung)))?;
/// calls.submit(|rows: &mut Vec<u64>| {
///     rows.push(7);
///     rows.len()
/// });
/// bell.recv()?;
/// assert_eq!(calls.poll()?, Some(1));
/// # Ok::<(), thalweg::connector::BoxError>(())
/// ```
pub struct Blocking<S: Send + 'static, R: Send + 'static> {
    shared: Arc<Shared<S, R>>,
    /// The resource, where calls are made on the worker.
    inline: Option<Inline<S>>,
    thread: Option<(u32, JoinHandle<()>, Helpers)>,
    outstanding: usize,
}

struct Inline<S> {
    resource: S,
    close: Box<dyn FnOnce(&mut S) + Send>,
}

impl<S: Send + 'static, R: Send + 'static> Blocking<S, R> {
    /// Takes over `resource`. `close` is called with it, where the calls are made, once the owner is dropped and the call
    /// under way then is over.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        mut resource: S,
        close: impl FnOnce(&mut S) + Send + 'static,
        calls: Calls,
        subtask: u32,
        helpers: Helpers,
        waker: Arc<dyn Notify>,
    ) -> Result<Self, BoxError> {
        let state = State { jobs: VecDeque::new(), results: VecDeque::new(), closed: false, panicked: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new() });
        let (mut inline, mut thread) = (None, None);
        match calls {
            Calls::Worker => inline = Some(Inline { resource, close: Box::new(close) }),
            Calls::HelperThread => {
                let jobs = Arc::clone(&shared);
                let run = move || {
                    run_jobs(&jobs, &mut resource, &*waker);
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| close(&mut resource))) {
                        tracing::warn!(
                            subtask,
                            panic = message_of(&*panic),
                            "closing an outside system panicked"
                        );
                    }
                };
                let started = threads::spawn(format!("thalweg-calls-{subtask}"), run).map_err(|error| {
                    format!("a helper thread for blocking calls could not be started: {error}")
                })?;
                thread = Some((subtask, started, helpers));
            }
        }
        Ok(Blocking { shared, inline, thread, outstanding: 0 })
    }

    /// Number of jobs submitted whose results have not been taken; bound it by refusing records meanwhile.
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Submits a job. Where calls are made on the worker it is done when this returns.
    pub fn submit(&mut self, job: impl FnOnce(&mut S) -> R + Send + 'static) {
        self.outstanding += 1;
        match &mut self.inline {
            Some(inline) => {
                let result = job(&mut inline.resource);
                self.shared.lock().results.push_back(result);
            }
            None => {
                self.shared.lock().jobs.push_back(Box::new(job));
                self.shared.work.notify_one();
            }
        }
    }

    /// The result of the oldest job whose result has not been taken, once it is there. Never blocks.
    ///
    /// # Errors
    /// A job panicked: nothing runs any more, and what it had done is unknown.
    pub fn poll(&mut self) -> Result<Option<R>, BoxError> {
        let mut state = self.shared.lock();
        if let Some(result) = state.results.pop_front() {
            self.outstanding -= 1;
            return Ok(Some(result));
        }
        match &state.panicked {
            Some(panic) => Err(format!("a call to the outside system panicked: {panic}").into()),
            None => Ok(None),
        }
    }
}

impl<S: Send + 'static, R: Send + 'static> Drop for Blocking<S, R> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let unstarted = std::mem::take(&mut state.jobs);
        drop(state);
        drop(unstarted);
        self.shared.work.notify_one();
        if let Some(mut inline) = self.inline.take()
            && !std::thread::panicking()
        {
            (inline.close)(&mut inline.resource);
        }
        if let Some((subtask, thread, helpers)) = self.thread.take() {
            let mut threads = helpers.0.lock().unwrap_or_else(PoisonError::into_inner);
            threads.retain(|(_, thread)| !thread.is_finished());
            threads.push((subtask, thread));
        }
    }
}

fn run_jobs<S, R>(shared: &Shared<S, R>, resource: &mut S, waker: &dyn Notify) {
    let mut state = shared.lock();
    loop {
        if state.closed {
            return;
        }
        let Some(job) = state.jobs.pop_front() else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        let result = catch_unwind(AssertUnwindSafe(|| job(resource)));
        state = shared.lock();
        let panicked = result.is_err();
        match result {
            Ok(result) => state.results.push_back(result),
            Err(panic) => state.panicked = Some(message_of(&*panic).to_owned()),
        }
        drop(state);
        waker.notify();
        if panicked {
            return;
        }
        state = shared.lock();
    }
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a value that is no text")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connector::testing::Wakes;
    use std::sync::mpsc::{Receiver, channel};

    /// Waits for a result, which is sure to come.
    fn wait<S: Send, R: Send>(calls: &mut Blocking<S, R>) -> Result<R, BoxError> {
        loop {
            if let Some(result) = calls.poll()? {
                return Ok(result);
            }
            std::thread::yield_now();
        }
    }

    fn start(
        calls: Calls,
        helpers: &Helpers,
        closed: std::sync::mpsc::Sender<Vec<u32>>,
    ) -> Blocking<Vec<u32>, u32> {
        let close = move |done: &mut Vec<u32>| closed.send(std::mem::take(done)).unwrap();
        let waker = Arc::new(Wakes::default());
        Blocking::start(Vec::new(), close, calls, 3, helpers.clone(), waker).unwrap()
    }

    fn job(n: u32) -> impl FnOnce(&mut Vec<u32>) -> u32 {
        move |done| {
            done.push(n);
            n
        }
    }

    #[test]
    fn jobs_run_in_order_wherever_they_run() {
        for calls in [Calls::HelperThread, Calls::Worker] {
            let (closed, end) = channel();
            let mut blocking = start(calls, &Helpers::default(), closed);
            (0..50).for_each(|n| blocking.submit(job(n)));
            assert_eq!(blocking.outstanding(), 50);
            for n in 0..50 {
                assert_eq!(wait(&mut blocking).unwrap(), n);
            }
            assert_eq!(blocking.outstanding(), 0);
            drop(blocking);
            assert_eq!(end.recv().unwrap(), (0..50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn dropping_begins_nothing_more_and_the_next_owner_waits_for_what_is_running() {
        let helpers = Helpers::default();
        let (closed, end) = channel();
        let mut blocking = start(Calls::HelperThread, &helpers, closed);
        let (started, is_started) = channel();
        let (go_on, gate): (_, Receiver<()>) = channel();
        blocking.submit(move |done: &mut Vec<u32>| {
            started.send(()).unwrap();
            gate.recv().unwrap();
            done.push(1);
            1
        });
        blocking.submit(job(2));
        is_started.recv().unwrap();
        drop(blocking);
        assert!(end.try_recv().is_err(), "the drop did not wait, and the call is still running");
        helpers.await_earlier(|subtask| subtask == 4);
        assert!(end.try_recv().is_err(), "other subtasks do not wait for it");
        go_on.send(()).unwrap();
        helpers.await_earlier(|subtask| subtask == 3);
        assert_eq!(end.try_recv().unwrap(), [1], "the second job never ran");
    }

    #[test]
    fn a_panic_is_an_error_and_the_resource_is_still_closed() {
        let helpers = Helpers::default();
        let (closed, end) = channel();
        let mut blocking = start(Calls::HelperThread, &helpers, closed);
        blocking.submit(job(1));
        blocking.submit(|_: &mut Vec<u32>| panic!("boom"));
        blocking.submit(job(3));
        assert_eq!(wait(&mut blocking).unwrap(), 1);
        assert!(wait(&mut blocking).unwrap_err().to_string().contains("boom"));
        drop(blocking);
        helpers.await_earlier(|_| true);
        assert_eq!(end.try_recv().unwrap(), [1]);
    }
}

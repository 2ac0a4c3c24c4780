//! Work on many pieces by several threads, with the results in order: threads prepare pieces ahead, and the calling thread
//! takes them one after another.
//!
//! Always true: results are taken in the order of the pieces, whatever thread has which; no piece is begun that lies
//! more than a window ahead of the last one taken, so memory is bounded; a panic of the work goes on in the caller.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;

/// Pieces that a thread may have ready, or be working on, beyond the one that is being taken.
const AHEAD: usize = 3;

/// Which pieces may be begun.
#[derive(Default)]
struct Progress {
    next: usize,
    taken: usize,
    stopped: bool,
}

struct Shared {
    progress: Mutex<Progress>,
    moved: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.lock());
        self.moved.notify_all();
    }

    /// The next piece, once it may be begun; none when all are begun or nobody wants more.
    fn next(&self, count: usize, window: usize) -> Option<usize> {
        let mut progress = self.lock();
        while !progress.stopped && progress.next < count && progress.next >= progress.taken + window {
            progress = self.moved.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if progress.stopped || progress.next >= count {
            return None;
        }
        progress.next += 1;
        Some(progress.next - 1)
    }
}

/// Stops the threads however the caller leaves.
struct StopOnDrop<'a>(&'a Shared);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.change(|progress| progress.stopped = true);
    }
}

/// Does `work` on each of the pieces `0..count` and gives what it makes of them to `take`, in order. `work` runs on `threads`
/// threads, or on this one where that is 0; each has a value of `tool` to work with.
///
/// # Errors
/// The first that `take` returns; pieces after that are dropped.
pub(super) fn in_order<T: Send, Tool, E>(
    threads: usize,
    count: usize,
    tool: impl Fn() -> Tool + Sync,
    work: impl Fn(&mut Tool, usize) -> T + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    if threads == 0 {
        let mut tool = tool();
        return (0..count).try_for_each(|piece| take(piece, work(&mut tool, piece)));
    }
    let shared = Shared { progress: Mutex::new(Progress::default()), moved: Condvar::new() };
    let (done, results) = mpsc::channel::<(usize, Result<T, Box<dyn Any + Send>>)>();
    thread::scope(|scope| {
        let stop = StopOnDrop(&shared);
        for _ in 0..threads {
            let (shared, tool, work, done) = (&shared, &tool, &work, done.clone());
            scope.spawn(move || {
                let mut tool = tool();
                while let Some(piece) = shared.next(count, AHEAD * threads) {
                    let result = catch_unwind(AssertUnwindSafe(|| work(&mut tool, piece)));
                    let panicked = result.is_err();
                    if done.send((piece, result)).is_err() || panicked {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut early = BTreeMap::new();
        for piece in 0..count {
            let result = loop {
                if let Some(result) = early.remove(&piece) {
                    break result;
                }
                let (other, result) = results.recv().expect("a thread sends each piece it has begun");
                match result {
                    Ok(result) => _ = early.insert(other, result),
                    Err(panic) => resume_unwind(panic),
                }
            };
            take(piece, result)?;
            shared.change(|progress| progress.taken = piece + 1);
        }
        drop(stop);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_from_any_number_of_threads() {
        for threads in 0..5 {
            let mut taken = Vec::new();
            let work = |uses: &mut usize, piece: usize| {
                *uses += 1;
                piece * 3
            };
            let result = in_order(
                threads,
                200,
                || 0,
                work,
                |piece, made| {
                    taken.push((piece, made));
                    Ok::<(), ()>(())
                },
            );
            assert_eq!(result, Ok(()));
            assert_eq!(taken, (0..200).map(|piece| (piece, piece * 3)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_error_ends_the_work_within_the_window() {
        for threads in 0..4 {
            let begun = AtomicUsize::new(0);
            let work = |(): &mut (), piece| {
                begun.fetch_add(1, Ordering::Relaxed);
                piece
            };
            let result = in_order(
                threads,
                10_000,
                || (),
                work,
                |piece, _| if piece == 5 { Err(piece) } else { Ok(()) },
            );
            assert_eq!(result, Err(5));
            assert!(begun.into_inner() <= 6 + AHEAD * threads);
        }
    }

    #[test]
    fn a_panic_of_the_work_reaches_the_caller() {
        for threads in 0..4 {
            let run = || {
                in_order(
                    threads,
                    1_000,
                    || (),
                    |(), piece| assert_ne!(piece, 7, "piece 7"),
                    |_, ()| Ok::<(), ()>(()),
                )
            };
            let panic = catch_unwind(run).expect_err("piece 7 panics");
            let message = panic.downcast_ref::<String>().expect("a message");
            assert!(message.contains("piece 7"), "{message}");
        }
    }
}

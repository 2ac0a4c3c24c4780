//! Awaiting disk requests in steps: the polled form of a sequence of requests, and files that close themselves.
//!
//! A [`Flow`] is a sequence of disk requests written as `async` code. It registers no waker: each completion wakes the
//! worker through the disk's notification, and the worker polls the flow again. A plain thread runs the same code with
//! [`finish_now`], which waits at each request.

use crate::connector::BoxError;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use thalweg_storage::io::{DiskHandle, FileId, Ticket};

/// A sequence of disk requests under way.
pub(super) type Flow<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// Moves `flow` on as far as completed requests allow. Never blocks.
pub(super) fn poll_flow<T>(flow: &mut Flow<T>) -> Poll<Result<T, BoxError>> {
    flow.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

thread_local! {
    /// The thread wants each request to be waited for. Not told by the waker: whether two wakers are the same is not certain.
    static WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Runs `flow` to its end on a plain thread.
pub(super) fn finish_now<T>(mut flow: Flow<T>) -> Result<T, BoxError> {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            WAITS.set(self.0);
        }
    }
    let _restore = Restore(WAITS.replace(true));
    loop {
        if let Poll::Ready(done) = poll_flow(&mut flow) {
            return done;
        }
    }
}

/// The answer to one request, as a part of a flow.
pub(super) struct Answer<T>(Option<Ticket<T>>);

/// Awaits `ticket` in a flow.
pub(super) fn answer<T: Send + 'static>(ticket: Ticket<T>) -> Answer<T> {
    Answer(Some(ticket))
}

impl<T: Send + 'static> Future for Answer<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<T>> {
        let mut ticket = self.0.take().expect("an answer is not awaited twice");
        if WAITS.get() {
            return Poll::Ready(ticket.wait());
        }
        match ticket.poll() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.0 = Some(ticket);
                Poll::Pending
            }
        }
    }
}

/// An open file, closed when dropped.
pub(super) struct OpenFile {
    disk: DiskHandle,
    /// The file.
    pub id: FileId,
}

impl OpenFile {
    pub fn new(disk: &DiskHandle, id: FileId) -> Self {
        OpenFile { disk: disk.clone(), id }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // Nobody waits: what had to be durable was synced before, and its answer seen.
        drop(self.disk.close(self.id));
    }
}

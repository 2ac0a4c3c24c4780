//! Ingress: records that threads or tasks of the host push into a dataflow.
//!
//! Always true:
//! - a record's position is the number of records that the dataflow accepted before it, over the job's whole life;
//! - positions are checkpointed, records are not: the channel holds nothing that it has handed to the dataflow;
//! - the worker takes the lock once per batch of records, the host once per record.

use super::waiters::{Waiters, block_on};
use super::{BoxError, ConnectorContext, Source, SourceOutput, SourceReader, SourceStatus};
use crate::clock::Nanos;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use thalweg_storage::io::{DiskHandle, Notify};
use thalweg_storage::{AttemptId, CheckpointId, Data};

/// Records that a reader takes from the channel at once.
const BATCH_RECORDS: usize = 1_024;

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    /// Position of the front of the queue: all before it are with the dataflow.
    front: u64,
    /// Position up to which a completed checkpoint covers everything.
    checkpointed: u64,
    /// Number of readers so far; a reader whose number is not this belongs to an attempt that is over.
    readers: u64,
    /// Where the present attempt started.
    resumed: Option<Resumed>,
    /// True once a record was pushed with its position: then the host replays after a restart.
    positioned: bool,
    closed: bool,
    source_gone: bool,
    /// The reader to wake, while it finds nothing to read.
    reader: Option<Arc<dyn Notify>>,
    pushers: Waiters,
}

impl<T> State<T> {
    fn next_position(&self) -> u64 {
        self.front + self.queue.len() as u64
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a record was not accepted. The record comes back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError<T> {
    /// The channel is full; only from [`Ingress::try_push`].
    #[error("the channel is full")]
    Full(T),
    /// The ingress was closed, or the dataflow that read from it is gone.
    #[error("the channel is closed")]
    Closed(T),
    /// The dataflow restarted from a checkpoint, or waits for another record: push again from position `next` on.
    #[error("the dataflow expects the record at position {next}")]
    Rewound {
        /// The position that the dataflow expects.
        next: u64,
        /// The record that was refused.
        record: T,
    },
}

/// The start of an attempt, as [`Ingress::resumed`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The attempt.
    pub attempt: AttemptId,
    /// Position of the first record that this attempt accepts.
    pub position: u64,
}

/// The host's end of a [`PushSource`]. Clones push into the same channel.
///
/// # After a restart
/// The channel is not a log. When the job restarts from a checkpoint, records that the dataflow had accepted but the
/// checkpoint does not cover are gone, unless the host pushes them again. Two ways to live with that:
/// - [`Ingress::push`]: what is still queued stays queued; what was accepted since the checkpoint is lost. At most once.
/// - [`Ingress::push_at`]: the host names each record's position and keeps records until [`Ingress::last_checkpointed`]
///   has passed them. After a restart, also of the process, `push_at` answers [`PushError::Rewound`] with the position to
///   push from. Exactly once, and the channel drops what it had queued, since the host pushes that again.
///
/// Do not mix the two on one channel.
pub struct Ingress<T> {
    shared: Arc<Shared<T>>,
    _host: Arc<HostEnd<T>>,
}

impl<T> Clone for Ingress<T> {
    fn clone(&self) -> Self {
        Ingress { shared: Arc::clone(&self.shared), _host: Arc::clone(&self._host) }
    }
}

/// Closes the channel when the last [`Ingress`] is dropped.
struct HostEnd<T>(Arc<Shared<T>>);

impl<T> Drop for HostEnd<T> {
    fn drop(&mut self) {
        close(&self.0);
    }
}

fn close<T>(shared: &Shared<T>) {
    let mut state = shared.lock();
    state.closed = true;
    let reader = state.reader.take();
    let pushers = state.pushers.take();
    drop(state);
    pushers.wake();
    if let Some(reader) = reader {
        reader.notify();
    }
}

impl<T: Data> Ingress<T> {
    /// Pushes a record; blocks this thread while the channel is full.
    ///
    /// Accepted is not processed: the record is safe once [`Ingress::last_checkpointed`] has passed it.
    ///
    /// # Errors
    /// [`PushError::Closed`]: nothing was pushed and nothing will be.
    pub fn push(&self, record: T) -> Result<(), PushError<T>> {
        block_on(self.push_async(record))
    }

    /// Pushes a record if there is room.
    ///
    /// # Errors
    /// - [`PushError::Full`]: nothing was pushed; try later.
    /// - [`PushError::Closed`]: nothing was pushed and nothing will be.
    pub fn try_push(&self, record: T) -> Result<(), PushError<T>> {
        self.offer(record, None)
    }

    /// Pushes a record; waits, without blocking a thread, while the channel is full. Needs no particular runtime.
    ///
    /// # Errors
    /// As for [`Ingress::push`].
    pub async fn push_async(&self, record: T) -> Result<(), PushError<T>> {
        let mut record = Some(record);
        poll_fn(|context| self.poll_offer(&mut record, None, context)).await
    }

    /// Pushes the record at `position`; blocks while the channel is full, and until the job has started and so knows
    /// which position it expects. The channel keeps the order: records at wrong positions are refused.
    ///
    /// # Errors
    /// - [`PushError::Rewound`]: the job restarted (or `position` is not the next); push from `next` on.
    /// - [`PushError::Closed`]: nothing was pushed and nothing will be.
    pub fn push_at(&self, position: u64, record: T) -> Result<(), PushError<T>> {
        block_on(self.push_at_async(position, record))
    }

    /// As [`Ingress::push_at`], without blocking a thread.
    ///
    /// # Errors
    /// As for [`Ingress::push_at`].
    pub async fn push_at_async(&self, position: u64, record: T) -> Result<(), PushError<T>> {
        let mut record = Some(record);
        poll_fn(|context| self.poll_offer(&mut record, Some(position), context)).await
    }

    /// Ends the stream: what is queued is still read, then the source ends. Dropping all handles does the same.
    pub fn close(&self) {
        close(&self.shared);
    }

    /// Number of records, since the job's first start, that a completed checkpoint covers: all at positions below it
    /// need never be pushed again.
    pub fn last_checkpointed(&self) -> u64 {
        self.shared.lock().checkpointed
    }

    /// Where the present attempt started; `None` before the job runs.
    pub fn resumed(&self) -> Option<Resumed> {
        self.shared.lock().resumed
    }

    fn offer(&self, record: T, position: Option<u64>) -> Result<(), PushError<T>> {
        let mut state = self.shared.lock();
        if state.closed || state.source_gone {
            return Err(PushError::Closed(record));
        }
        if let Some(position) = position {
            state.positioned = true;
            if state.resumed.is_none() {
                return Err(PushError::Full(record));
            }
            let next = state.next_position();
            if position != next {
                return Err(PushError::Rewound { next, record });
            }
        }
        if state.queue.len() >= state.capacity {
            return Err(PushError::Full(record));
        }
        state.queue.push_back(record);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.notify();
        }
        Ok(())
    }

    fn poll_offer(
        &self,
        record: &mut Option<T>,
        position: Option<u64>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PushError<T>>> {
        loop {
            let offered = record.take().expect("a push is not polled after it has finished");
            match self.offer(offered, position) {
                Err(PushError::Full(refused)) => {
                    *record = Some(refused);
                    let mut state = self.shared.lock();
                    // Whoever makes room does so under the lock: room that came before it is seen here.
                    let full = state.queue.len() >= state.capacity || state.resumed.is_none();
                    if full && !state.closed && !state.source_gone {
                        state.pushers.register(context.waker());
                        return Poll::Pending;
                    }
                }
                done => return Poll::Ready(done),
            }
        }
    }
}

/// A source that emits what the host pushes into its [`Ingress`], in order.
///
/// It has one split: one subtask reads it, whatever the parallelism; the others end at once. It ends when the ingress
/// is closed and read to its end. What a restart means for the records is told at [`Ingress`].
pub struct PushSource<T> {
    shared: Arc<Shared<T>>,
    alive: Arc<JobEnd<T>>,
}

impl<T> Clone for PushSource<T> {
    fn clone(&self) -> Self {
        PushSource { shared: Arc::clone(&self.shared), alive: Arc::clone(&self.alive) }
    }
}

/// Refuses further records when the last clone of the source, and with it the job, is dropped.
struct JobEnd<T>(Arc<Shared<T>>);

impl<T> Drop for JobEnd<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.source_gone = true;
        let pushers = state.pushers.take();
        drop(state);
        pushers.wake();
    }
}

impl<T: Data> PushSource<T> {
    /// A channel that queues at most `capacity` records (at least one) between the host and the dataflow.
    pub fn channel(capacity: usize) -> (Ingress<T>, PushSource<T>) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                capacity: capacity.max(1),
                front: 0,
                checkpointed: 0,
                readers: 0,
                resumed: None,
                positioned: false,
                closed: false,
                source_gone: false,
                reader: None,
                pushers: Waiters::default(),
            }),
        });
        let ingress = Ingress { shared: Arc::clone(&shared), _host: Arc::new(HostEnd(Arc::clone(&shared))) };
        let source = PushSource { alive: Arc::new(JobEnd(Arc::clone(&shared))), shared };
        (ingress, source)
    }
}

/// The position of a [`PushSource`]: the number of records emitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
pub struct PushSplit {
    position: u64,
}

thalweg_storage::data!(PushSplit);

impl<T: Data> Source for PushSource<T> {
    type Record = T;
    type Split = PushSplit;
    type Reader = PushReader<T>;

    fn splits(&self, _disk: &DiskHandle, _parallelism: u32) -> Result<Vec<PushSplit>, BoxError> {
        Ok(vec![PushSplit { position: 0 }])
    }

    fn reader(&self, context: ConnectorContext, splits: Vec<PushSplit>) -> Result<PushReader<T>, BoxError> {
        let mut number = 0;
        let position = splits.first().map(|split| split.position);
        if let Some(position) = position {
            let mut state = self.shared.lock();
            state.readers += 1;
            number = state.readers;
            if state.positioned {
                state.queue.clear();
            }
            state.front = position;
            state.checkpointed = position;
            state.resumed = Some(Resumed { attempt: context.attempt, position });
            let pushers = state.pushers.take();
            drop(state);
            pushers.wake();
        }
        Ok(PushReader {
            shared: Arc::clone(&self.shared),
            _alive: Arc::clone(&self.alive),
            waker: context.waker,
            number,
            position,
            ended: position.is_none(),
            taken: VecDeque::new(),
            snapshots: VecDeque::new(),
        })
    }
}

/// Reads a [`PushSource`].
pub struct PushReader<T: Data> {
    shared: Arc<Shared<T>>,
    _alive: Arc<JobEnd<T>>,
    waker: Arc<dyn Notify>,
    number: u64,
    /// Number of records emitted, or `None` in a subtask that does not read the channel.
    position: Option<u64>,
    ended: bool,
    /// Records taken from the channel and not emitted yet.
    taken: VecDeque<T>,
    snapshots: VecDeque<(CheckpointId, u64)>,
}

impl<T: Data> PushReader<T> {
    /// Takes records from the channel; true when it is closed and empty.
    fn refill(&mut self) -> bool {
        let mut state = self.shared.lock();
        if state.readers != self.number {
            return true;
        }
        if state.queue.is_empty() {
            if !state.closed {
                state.reader = Some(Arc::clone(&self.waker));
            }
            return state.closed;
        }
        let count = state.queue.len().min(BATCH_RECORDS);
        self.taken.extend(state.queue.drain(..count));
        state.front += count as u64;
        let pushers = state.pushers.take();
        drop(state);
        pushers.wake();
        false
    }
}

impl<T: Data> SourceReader for PushReader<T> {
    type Record = T;
    type Split = PushSplit;

    fn poll<O: SourceOutput<T>>(
        &mut self,
        _now: Nanos,
        budget: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        let Some(position) = self.position.as_mut().filter(|_| !self.ended) else {
            return Ok(SourceStatus::End);
        };
        if !self.taken.is_empty() {
            for _ in 0..budget.max(1) {
                let Some(record) = self.taken.pop_front() else { break };
                *position += 1;
                if !output.emit(record) {
                    break;
                }
            }
            return Ok(SourceStatus::More);
        }
        if self.refill() {
            self.ended = true;
            return Ok(SourceStatus::End);
        }
        Ok(if self.taken.is_empty() { SourceStatus::Idle(None) } else { SourceStatus::More })
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) -> Vec<PushSplit> {
        let Some(position) = self.position else { return Vec::new() };
        self.snapshots.push_back((checkpoint, position));
        if self.ended { Vec::new() } else { vec![PushSplit { position }] }
    }

    fn checkpoint_complete(&mut self, checkpoint: CheckpointId) {
        while let Some(&(id, position)) = self.snapshots.front().filter(|(id, _)| *id <= checkpoint) {
            self.snapshots.pop_front();
            // An aborted checkpoint leaves its entry behind; only the position of the completed one counts.
            if id == checkpoint {
                let mut state = self.shared.lock();
                if state.readers == self.number {
                    state.checkpointed = state.checkpointed.max(position);
                }
            }
        }
    }
}

impl<T: Data> Drop for PushReader<T> {
    /// Puts back what was taken and not emitted, for the next attempt.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.readers == self.number && self.position.is_some() {
            state.front -= self.taken.len() as u64;
            while let Some(record) = self.taken.pop_back() {
                state.queue.push_front(record);
            }
            state.reader = None;
        }
    }
}

#[cfg(test)]
mod tests;

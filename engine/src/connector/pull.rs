//! Egress: records that threads or tasks of the host pull out of a dataflow.
//!
//! Always true:
//! - the channel holds at most its capacity, and one record per writer beyond it;
//! - in committed mode a record enters the channel only when a checkpoint that contains it is complete, and once.

use super::memory::{decode_output, encode_output};
use super::waiters::{Waiters, block_on};
use super::{BoxError, ConnectorContext, Sink, SinkSnapshot, SinkWriter};
use crate::clock::Nanos;
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use thalweg_storage::io::Notify;
use thalweg_storage::manifest::Committable;
use thalweg_storage::{AttemptId, CheckpointId, Data};

/// The newest committable of one subtask and attempt of which records have entered the channel, and how many.
#[derive(Clone, Copy)]
struct Delivered {
    checkpoint: CheckpointId,
    records: usize,
}

struct State<T> {
    queue: VecDeque<T>,
    capacity: usize,
    sink_gone: bool,
    host_gone: bool,
    /// Committables are committed in the order of their checkpoints, so one mark each tells all.
    delivered: BTreeMap<(u32, AttemptId), Delivered>,
    pullers: Waiters,
    /// Workers of writers that found no room.
    blocked: Vec<Arc<dyn Notify>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// There is none now; more may come. Only from [`Egress::try_recv`].
    #[error("the channel is empty")]
    Empty,
    /// The job is over and everything has been received.
    #[error("the channel is closed")]
    Closed,
}

/// The host's end of a [`PullSink`]. Clones share one channel: each record goes to one of them.
///
/// When the last is dropped while the job runs, the job fails: its output would be lost.
pub struct Egress<T> {
    shared: Arc<Shared<T>>,
    _host: Arc<HostEnd<T>>,
}

impl<T> Clone for Egress<T> {
    fn clone(&self) -> Self {
        Egress { shared: Arc::clone(&self.shared), _host: Arc::clone(&self._host) }
    }
}

struct HostEnd<T>(Arc<Shared<T>>);

impl<T> Drop for HostEnd<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.host_gone = true;
        let blocked = std::mem::take(&mut state.blocked);
        drop(state);
        blocked.iter().for_each(|worker| worker.notify());
    }
}

impl<T: Data> Egress<T> {
    /// The next record; blocks this thread until there is one. `None` when the job is over and all is received.
    pub fn recv(&self) -> Option<T> {
        block_on(self.recv_async())
    }

    /// The next record if there is one.
    ///
    /// # Errors
    /// - [`PullError::Empty`]: try later.
    /// - [`PullError::Closed`]: nothing will come any more.
    pub fn try_recv(&self) -> Result<T, PullError> {
        let mut state = self.shared.lock();
        let Some(record) = state.queue.pop_front() else {
            return Err(if state.sink_gone { PullError::Closed } else { PullError::Empty });
        };
        let blocked = std::mem::take(&mut state.blocked);
        drop(state);
        blocked.iter().for_each(|worker| worker.notify());
        Ok(record)
    }

    /// The next record; waits without blocking a thread. Needs no particular runtime. Cancelling the wait loses
    /// nothing.
    pub async fn recv_async(&self) -> Option<T> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            match self.try_recv() {
                Ok(record) => return Poll::Ready(Some(record)),
                Err(PullError::Closed) => return Poll::Ready(None),
                Err(PullError::Empty) => {}
            }
            let mut state = self.shared.lock();
            if state.queue.is_empty() && !state.sink_gone {
                state.pullers.register(context.waker());
                return Poll::Pending;
            }
        }
    }
}

/// A sink whose records the host pulls from its [`Egress`].
///
/// Records of one subtask come in order. By [`PullSink::channel`] they come as soon as they are written: after a
/// restart, records since the latest checkpoint come again (at least once). By [`PullSink::committed_channel`] they come
/// when a checkpoint that contains them is complete: exactly once over all restarts of the job within this process;
/// after a crash of the process, output of its last completed checkpoint may come once more.
pub struct PullSink<T> {
    shared: Arc<Shared<T>>,
    committed: bool,
    alive: Arc<JobEnd<T>>,
}

impl<T> Clone for PullSink<T> {
    fn clone(&self) -> Self {
        PullSink {
            shared: Arc::clone(&self.shared),
            committed: self.committed,
            alive: Arc::clone(&self.alive),
        }
    }
}

/// Closes the channel when the last clone of the sink, and with it the job, is dropped.
struct JobEnd<T>(Arc<Shared<T>>);

impl<T> Drop for JobEnd<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.sink_gone = true;
        let pullers = state.pullers.take();
        drop(state);
        pullers.wake();
    }
}

impl<T: Data> PullSink<T> {
    /// A channel of at most `capacity` records (at least one) that shows records at once. At least once.
    pub fn channel(capacity: usize) -> (Egress<T>, PullSink<T>) {
        Self::pair(capacity, false)
    }

    /// A channel of at most `capacity` records (at least one) that shows records once they are committed.
    pub fn committed_channel(capacity: usize) -> (Egress<T>, PullSink<T>) {
        Self::pair(capacity, true)
    }

    fn pair(capacity: usize, committed: bool) -> (Egress<T>, PullSink<T>) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                capacity: capacity.max(1),
                sink_gone: false,
                host_gone: false,
                delivered: BTreeMap::new(),
                pullers: Waiters::default(),
                blocked: Vec::new(),
            }),
        });
        let egress = Egress { shared: Arc::clone(&shared), _host: Arc::new(HostEnd(Arc::clone(&shared))) };
        let sink = PullSink { committed, alive: Arc::new(JobEnd(Arc::clone(&shared))), shared };
        (egress, sink)
    }
}

impl<T: Data> Sink for PullSink<T> {
    type Record = T;
    type State = ();
    type Writer = PullWriter<T>;

    fn writer(
        &self,
        context: ConnectorContext,
        _restored: Vec<()>,
        committables: Vec<Committable>,
    ) -> Result<PullWriter<T>, BoxError> {
        let mut writer = PullWriter {
            shared: Arc::clone(&self.shared),
            _alive: Arc::clone(&self.alive),
            waker: context.waker,
            committed: self.committed,
            encoded: Vec::new(),
            encoded_count: 0,
            commits: VecDeque::new(),
        };
        // What does not fit now moves on with the writer's polls.
        writer.commit(committables)?;
        Ok(writer)
    }
}

/// Output on its way into the channel.
struct Commit<T> {
    key: (u32, AttemptId),
    checkpoint: CheckpointId,
    records: std::vec::IntoIter<T>,
}

/// Writes one subtask of a [`PullSink`].
pub struct PullWriter<T: Data> {
    shared: Arc<Shared<T>>,
    _alive: Arc<JobEnd<T>>,
    waker: Arc<dyn Notify>,
    committed: bool,
    encoded: Vec<u8>,
    encoded_count: u64,
    commits: VecDeque<Commit<T>>,
}

impl<T: Data> PullWriter<T> {
    /// The channel, unless nobody reads from it any more.
    fn channel(&self) -> Result<MutexGuard<'_, State<T>>, BoxError> {
        let state = self.shared.lock();
        if state.host_gone {
            return Err(
                "every egress of this sink was dropped while the job runs: keep one, and read from it".into(),
            );
        }
        Ok(state)
    }

    /// Whether there is room; if not, the worker is woken when there is.
    fn has_room(&self, state: &mut State<T>) -> bool {
        let room = state.queue.len() < state.capacity;
        if !room && !state.blocked.iter().any(|worker| Arc::ptr_eq(worker, &self.waker)) {
            state.blocked.push(Arc::clone(&self.waker));
        }
        room
    }

    /// Moves committed records into the channel as far as there is room.
    fn deliver(&mut self) -> Result<(), BoxError> {
        while let Some(mut commit) = self.commits.pop_front() {
            let mut state = self.channel()?;
            let fresh = Delivered { checkpoint: commit.checkpoint, records: 0 };
            let mut mark = *state.delivered.get(&commit.key).unwrap_or(&fresh);
            if mark.checkpoint != commit.checkpoint {
                mark = fresh;
            }
            let room = state.capacity.saturating_sub(state.queue.len());
            let before = state.queue.len();
            state.queue.extend(commit.records.by_ref().take(room));
            mark.records += state.queue.len() - before;
            state.delivered.insert(commit.key, mark);
            let pullers = state.pullers.take();
            let done = commit.records.len() == 0;
            if !done {
                self.has_room(&mut state);
            }
            drop(state);
            pullers.wake();
            if !done {
                self.commits.push_front(commit);
                break;
            }
        }
        Ok(())
    }
}

impl<T: Data> SinkWriter for PullWriter<T> {
    type Record = T;
    type State = ();

    fn write(&mut self, _now: Nanos, record: T) -> Result<bool, BoxError> {
        if self.committed {
            record.encode(&mut self.encoded);
            self.encoded_count += 1;
            return Ok(true);
        }
        let mut state = self.channel()?;
        state.queue.push_back(record);
        let room = self.has_room(&mut state);
        let pullers = state.pullers.take();
        drop(state);
        pullers.wake();
        Ok(room)
    }

    fn poll(&mut self, _now: Nanos) -> Result<bool, BoxError> {
        self.deliver()?;
        if self.committed {
            return Ok(true);
        }
        let mut state = self.channel()?;
        Ok(self.has_room(&mut state))
    }

    fn prepare(&mut self, _checkpoint: CheckpointId, _end: bool) -> Result<SinkSnapshot<()>, BoxError> {
        let count = std::mem::take(&mut self.encoded_count);
        let records = std::mem::take(&mut self.encoded);
        let committables = if count == 0 { Vec::new() } else { vec![encode_output(count, &records)] };
        Ok(SinkSnapshot { state: None, committables })
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        for committable in committables {
            let key = (committable.subtask, committable.attempt);
            let checkpoint = committable.checkpoint;
            if self.commits.iter().any(|commit| commit.key == key && commit.checkpoint >= checkpoint) {
                continue;
            }
            let mut records = decode_output::<T>(&committable.bytes)?;
            let mark = self.shared.lock().delivered.get(&key).copied();
            match mark {
                Some(mark) if mark.checkpoint > checkpoint => continue,
                Some(mark) if mark.checkpoint == checkpoint => {
                    drop(records.drain(..mark.records.min(records.len())))
                }
                _ => {}
            }
            if !records.is_empty() {
                self.commits.push_back(Commit { key, checkpoint, records: records.into_iter() });
            }
        }
        self.deliver()
    }

    fn committed(&self) -> bool {
        self.commits.is_empty()
    }

    fn has_unprepared(&self) -> bool {
        self.encoded_count > 0
    }
}

#[cfg(test)]
mod tests;

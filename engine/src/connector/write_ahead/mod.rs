//! Sinks to outside systems that can't resume a prepared transaction: the output waits in the checkpoint, and a marker in the
//! outside system tells whether it was written.
//!
//! The idea is that of Flink's `GenericWriteAheadSink` with its `CheckpointCommitter`. Read it in this order: this file (what
//! users implement, and recovery), `writer` (one subtask at run time).
//!
//! Always true:
//! - an epoch's output is written only after the checkpoint that holds it is complete, and in one transaction with its marker;
//! - the markers of one key rise; output whose epoch its key's marker has reached is never written again;
//! - no two runs that start from scratch share a key, so that neither takes the other's marker for its own.

mod writer;

pub use writer::{WriteAheadState, WriteAheadWriter};

use super::blocking::{Blocking, Calls, Helpers};
use super::commit::{CommitError, CommitRetries};
use super::{BoxError, ConnectorContext, OutputLost, Sink};
use std::fmt::{self, Display};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use thalweg_storage::Data;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::Committable;
use writer::{Session, read_committable};

/// What a marker is about: the output of one original subtask of one sink, in one run.
///
/// Displayed as `<job>/<uid>/<subtask>/<run>`, which may serve as the primary key of a table of markers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkerKey {
    /// Name of the job.
    pub job: Arc<str>,
    /// Uid of the sink.
    pub uid: Arc<str>,
    /// The subtask that took the records; after a restore at another parallelism another one may write them.
    pub subtask: u32,
    /// Drawn at random where a subtask starts without state, and kept from then on.
    pub run: u64,
}

impl Display for MarkerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{:016x}", self.job, self.uid, self.subtask, self.run)
    }
}

/// An outside system with transactions that end with their connection.
///
/// Each subtask has a clone of its own, opened anew for each attempt.
///
/// Wrap it into a [`WriteAheadSink`] to get a [`Sink`]. Calls may block: they are made on a helper thread unless
/// [`WriteAheadSink::calls`] says otherwise. A restart waits for a call that is still under way, so give calls a timeout.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Arc, Mutex};
/// use thalweg::connector::{BoxError, CommitError, GeneratorSource, MarkerKey, WriteAheadSink, WriteAheadStore};
/// use thalweg::{Dataflow, Engine};
///
/// /// Stands for a database; its mutex stands for a transaction.
/// #[derive(Clone, Default)]
/// struct Database(Arc<Mutex<(HashMap<MarkerKey, u64>, Vec<u64>)>>);
///
/// impl WriteAheadStore for Database {
///     type Record = u64;
///
///     fn last_epoch(&mut self, key: &MarkerKey) -> Result<Option<u64>, BoxError> {
///         Ok(self.0.lock().unwrap().0.get(key).copied())
///     }
///     fn write_epoch(&mut self, key: &MarkerKey, epoch: u64, records: Vec<u64>) -> Result<(), CommitError> {
///         let (markers, rows) = &mut *self.0.lock().unwrap();
///         rows.extend(records);
///         markers.insert(key.clone(), epoch);
///         Ok(())
///     }
/// }
///
/// let database = Database::default();
/// let flow = Dataflow::new("copy");
/// flow.source("numbers", GeneratorSource::new(Some(100), |n| n)).sink("write", WriteAheadSink::new(database.clone()));
/// Engine::builder().workers(1).pin(false).build()?.run(flow)?.wait()?;
/// assert_eq!(database.0.lock().unwrap().1.len(), 100);
/// # Ok::<(), thalweg::connector::BoxError>(())
/// ```
pub trait WriteAheadStore: Clone + Send + 'static {
    /// The records it takes. They are encoded into checkpoints.
    type Record: Data;

    /// Checks that the outside system can be used, once before a job starts. May block.
    ///
    /// # Errors
    /// The job does not start.
    fn check(&self) -> Result<(), BoxError> {
        Ok(())
    }

    /// Connects, for one subtask and attempt. Called once, before anything else. May block.
    ///
    /// # Errors
    /// The attempt fails.
    fn open(&mut self, _context: &ConnectorContext) -> Result<(), BoxError> {
        Ok(())
    }

    /// The epoch of the last marker written under `key`.
    ///
    /// # Errors
    /// As a failed commit it is tried again; at a start the attempt fails.
    fn last_epoch(&mut self, key: &MarkerKey) -> Result<Option<u64>, BoxError>;

    /// Writes `records`, in order, and `epoch` as the last marker under `key`, in **one** transaction: either all of it is
    /// visible and durable when this returns, or nothing. Epochs of one key rise, with gaps.
    ///
    /// # Errors
    /// See [`CommitError`]. After [`CommitError::Retry`] the marker is asked for, so it serves for an unknown outcome, too.
    fn write_epoch(
        &mut self,
        key: &MarkerKey,
        epoch: u64,
        records: Vec<Self::Record>,
    ) -> Result<(), CommitError>;
}

/// An exactly-once [`Sink`] to a system described by a [`WriteAheadStore`].
///
/// The encoded output since the last checkpoint is held in memory and then in the manifest, so it is bounded: see
/// [`WriteAheadSink::bytes_max`]. It shows the outside world each checkpoint's output of one subtask at once.
#[derive(Clone)]
pub struct WriteAheadSink<S> {
    store: S,
    calls: Calls,
    retries: CommitRetries,
    bytes_max: usize,
    rewind: bool,
    helpers: Helpers,
}

impl<S: WriteAheadStore> WriteAheadSink<S> {
    /// A sink to `store`.
    pub fn new(store: S) -> Self {
        WriteAheadSink {
            store,
            calls: Calls::default(),
            retries: CommitRetries::default(),
            bytes_max: 64 << 20,
            rewind: false,
            helpers: Helpers::default(),
        }
    }

    /// Where calls are made; on a helper thread of each subtask by default.
    pub fn calls(mut self, calls: Calls) -> Self {
        self.calls = calls;
        self
    }

    /// How often and when writes that failed are tried again.
    pub fn commit_retries(mut self, retries: CommitRetries) -> Self {
        self.retries = retries;
        self
    }

    /// Bytes of encoded output that one subtask may hold, written since the last checkpoint or not yet committed; 64 MiB by
    /// default. At the limit a subtask waits for its commits if any are under way; otherwise the attempt fails, saying so.
    /// A manifest holds 1 GiB at most, of all subtasks together.
    pub fn bytes_max(mut self, bytes: usize) -> Self {
        self.bytes_max = bytes;
        self
    }

    /// Starts also from a checkpoint that is older than what the outside system holds of this sink. Then everything after
    /// that checkpoint is written once more. Without it such a start is refused.
    pub fn allow_rewind(mut self) -> Self {
        self.rewind = true;
        self
    }
}

impl<S: WriteAheadStore> Sink for WriteAheadSink<S> {
    type Record = S::Record;
    /// The second part is always `None`: its schema refuses a checkpoint whose output is of another type.
    type State = (WriteAheadState, Option<S::Record>);
    type Writer = WriteAheadWriter<S>;

    fn check(&self, _disk: &DiskHandle) -> Result<(), BoxError> {
        self.store.check()
    }

    fn writer(
        &self,
        context: ConnectorContext,
        restored: Vec<Self::State>,
        committables: Vec<Committable>,
    ) -> Result<WriteAheadWriter<S>, BoxError> {
        // A write of an earlier attempt that is still under way must not slip in between marker and decision.
        self.helpers.await_earlier(|subtask| subtask % context.parallelism.max(1) == context.subtask);
        for committable in &committables {
            read_committable::<S::Record>(committable)?;
        }
        let mut store = self.store.clone();
        store.open(&context)?;
        crash_point!("write_ahead.before_recovery");
        let mut own_run = None;
        for (state, _) in restored {
            let WriteAheadState { subtask, run, epoch } = state;
            let key =
                MarkerKey { job: Arc::clone(&context.job), uid: Arc::clone(&context.uid), subtask, run };
            let written = store.last_epoch(&key)?.filter(|written| *written > epoch);
            match written {
                Some(written) if !self.rewind => return Err(ahead(&key, epoch, written).into()),
                None if subtask == context.subtask => own_run = Some(run),
                // Another subtask's output, or a past that is being written anew: later output goes under a key of its own.
                _ => {}
            }
        }
        crash_point!("write_ahead.after_recovery");
        let run = own_run.unwrap_or_else(|| RandomState::new().hash_one(context.attempt.0));
        let (subtask, waker) = (context.subtask, Arc::clone(&context.waker));
        let session = Session::new(store, context.job, context.uid);
        let calls = Blocking::start(session, |_| {}, self.calls, subtask, self.helpers.clone(), waker)?;
        let own = WriteAheadState { subtask, run, epoch: 0 };
        Ok(WriteAheadWriter::new(calls, self.retries, self.bytes_max, own, committables))
    }
}

fn ahead(key: &MarkerKey, restored: u64, written: u64) -> OutputLost {
    OutputLost(format!(
        "the outside system holds output of this sink up to checkpoint {written} (marker {key}), and checkpoint {restored} is \
         being restored: another job goes on from the same state, or output after checkpoint {restored} would be written twice. \
         Restore the newest checkpoint, give the sink another uid, or accept it with `allow_rewind`"
    ))
}

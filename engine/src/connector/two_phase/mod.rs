//! Sinks to outside systems with transactions that survive their client: the trait to implement, and what makes a sink of it.
//!
//! The division of work is that of Flink's `TwoPhaseCommitSinkFunction`. Read it in this order: this file (what users
//! implement, and recovery), `id` (names of transactions), `writer` (one subtask at run time).
//!
//! Always true:
//! - what a completed checkpoint lists is committed, again and again if need be, and nothing else ever is;
//! - a start rolls back every transaction of this sink that the restored checkpoint does not list;
//! - closing, failing or aborting a checkpoint never touches a pre-committed transaction.

mod id;
mod writer;

pub use id::TransactionId;
pub use writer::TwoPhaseWriter;

use super::blocking::{Blocking, Calls, Helpers};
use super::commit::{CommitError, CommitRetries};
use super::{BoxError, ConnectorContext, Sink};
use id::{Prefix, TransactionIds};
use std::collections::HashSet;
use std::sync::Arc;
use thalweg_storage::Data;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::Committable;
use writer::{Session, read_committable};

/// An outside system with transactions that can be committed by another process than the one that began them.
///
/// Each subtask has a clone of its own, opened anew for each attempt. Records go into the subtask's open transaction; a
/// checkpoint pre-commits it, the checkpoint's manifest lists what that gave, and once the manifest is durable the transaction is
/// committed. Commits are repeated after failures and restarts, so they have to be idempotent. Let the system's transaction
/// timeout be far longer than the longest stop of the job: what times out in between is lost, which
/// [`CommitError::Lost`] tells the engine.
///
/// Where a system can't commit what another process has prepared, use a [`WriteAheadSink`](super::WriteAheadSink).
///
/// Wrap it into a [`TwoPhaseSink`] to get a [`Sink`]. Calls may block: they are made on a helper thread unless
/// [`TwoPhaseSink::calls`] says otherwise. A restart waits for a call that is still under way, so give calls a timeout.
///
/// ```
/// use std::collections::{BTreeMap, BTreeSet};
/// use std::sync::{Arc, Mutex};
/// use thalweg::connector::{BoxError, CommitError, GeneratorSource, TransactionId, TwoPhaseCommitSink, TwoPhaseSink};
/// use thalweg::{Dataflow, Engine};
///
/// /// Stands for a database.
/// #[derive(Default)]
/// struct Tables {
///     prepared: BTreeMap<String, Vec<u64>>,
///     committed: BTreeSet<String>,
///     rows: Vec<u64>,
/// }
///
/// #[derive(Clone, Default)]
/// struct Database(Arc<Mutex<Tables>>);
///
/// impl TwoPhaseCommitSink for Database {
///     type Record = u64;
///     type Transaction = Vec<u64>;
///     type Committable = u64;
///
///     fn begin(&mut self, _: &TransactionId) -> Result<Vec<u64>, BoxError> {
///         Ok(Vec::new())
///     }
///     fn write(&mut self, transaction: &mut Vec<u64>, record: u64) -> Result<(), BoxError> {
///         transaction.push(record);
///         Ok(())
///     }
///     fn pre_commit(&mut self, id: &TransactionId, transaction: Vec<u64>) -> Result<u64, BoxError> {
///         let rows = transaction.len() as u64;
///         self.0.lock().unwrap().prepared.insert(id.to_string(), transaction);
///         Ok(rows)
///     }
///     fn commit(&mut self, id: &TransactionId, rows: &u64) -> Result<(), CommitError> {
///         let mut tables = self.0.lock().unwrap();
///         if tables.committed.contains(id.as_str()) {
///             return Ok(());
///         }
///         match tables.prepared.remove(id.as_str()) {
///             Some(prepared) => {
///                 tables.rows.extend(prepared);
///                 tables.committed.insert(id.to_string());
///                 Ok(())
///             }
///             None => Err(CommitError::lost(format!("{rows} rows of transaction {id} are gone"))),
///         }
///     }
///     fn abort(&mut self, _: &TransactionId, _: Vec<u64>) -> Result<(), BoxError> {
///         Ok(())
///     }
///     fn list_prepared(&mut self, prefix: &str) -> Result<Vec<String>, BoxError> {
///         let tables = self.0.lock().unwrap();
///         Ok(tables.prepared.keys().filter(|id| id.starts_with(prefix)).cloned().collect())
///     }
///     fn recover_and_abort(&mut self, id: &TransactionId) -> Result<(), BoxError> {
///         self.0.lock().unwrap().prepared.remove(id.as_str());
///         Ok(())
///     }
/// }
///
/// let database = Database::default();
/// let flow = Dataflow::new("copy");
/// flow.source("numbers", GeneratorSource::new(Some(100), |n| n)).sink("write", TwoPhaseSink::new(database.clone()));
/// Engine::builder().workers(1).pin(false).build()?.run(flow)?.wait()?;
/// assert_eq!(database.0.lock().unwrap().rows.len(), 100);
/// # Ok::<(), thalweg::connector::BoxError>(())
/// ```
pub trait TwoPhaseCommitSink: Clone + Send + 'static {
    /// The records it takes.
    type Record: Send + 'static;
    /// An open transaction: a connection, a buffer.
    type Transaction: Send + 'static;
    /// What another process needs, besides the transaction's id, to commit what was pre-committed. Stored in checkpoints; `()`
    /// where the id is enough.
    type Committable: Data;

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

    /// Begins a transaction, at the first record after a checkpoint.
    ///
    /// # Errors
    /// The attempt fails and restarts from the latest checkpoint.
    fn begin(&mut self, id: &TransactionId) -> Result<Self::Transaction, BoxError>;

    /// Writes a record.
    ///
    /// # Errors
    /// As of `begin`.
    fn write(&mut self, transaction: &mut Self::Transaction, record: Self::Record) -> Result<(), BoxError>;

    /// Makes the transaction durable, so that any process may commit it later and nothing but an explicit abort undoes it. From
    /// here on it must not become visible by itself.
    ///
    /// # Errors
    /// As of `begin`; no checkpoint lists the transaction, and the next start rolls it back.
    fn pre_commit(
        &mut self,
        id: &TransactionId,
        transaction: Self::Transaction,
    ) -> Result<Self::Committable, BoxError>;

    /// Makes a pre-committed transaction visible. Succeeds also when it is committed already.
    ///
    /// # Errors
    /// See [`CommitError`].
    fn commit(&mut self, id: &TransactionId, committable: &Self::Committable) -> Result<(), CommitError>;

    /// Rolls an open transaction back, when its writer closes. Best effort: should it fail, the next start does it.
    ///
    /// # Errors
    /// Logged.
    fn abort(&mut self, id: &TransactionId, transaction: Self::Transaction) -> Result<(), BoxError>;

    /// Ids of all transactions that begin with `prefix`, are pre-committed or open, and neither committed nor aborted. A start
    /// rolls those back that its checkpoint does not list.
    ///
    /// # Errors
    /// The attempt fails.
    fn list_prepared(&mut self, prefix: &str) -> Result<Vec<String>, BoxError>;

    /// Rolls back a transaction of an earlier attempt or process. Succeeds also when there is no such transaction.
    ///
    /// # Errors
    /// The attempt fails; the next one tries again.
    fn recover_and_abort(&mut self, id: &TransactionId) -> Result<(), BoxError>;

    /// Commits a transaction that the restored checkpoint lists and that an earlier attempt or process has pre-committed, and perhaps
    /// committed.
    ///
    /// # Errors
    /// See [`CommitError`].
    fn recover_and_commit(
        &mut self,
        id: &TransactionId,
        committable: &Self::Committable,
    ) -> Result<(), CommitError> {
        self.commit(id, committable)
    }
}

/// An exactly-once [`Sink`] to a system described by a [`TwoPhaseCommitSink`].
#[derive(Clone)]
pub struct TwoPhaseSink<S> {
    inner: S,
    calls: Calls,
    retries: CommitRetries,
    helpers: Helpers,
}

impl<S: TwoPhaseCommitSink> TwoPhaseSink<S> {
    /// A sink to `inner`.
    pub fn new(inner: S) -> Self {
        TwoPhaseSink {
            inner,
            calls: Calls::default(),
            retries: CommitRetries::default(),
            helpers: Helpers::default(),
        }
    }

    /// Where calls are made; on a helper thread of each subtask by default.
    pub fn calls(mut self, calls: Calls) -> Self {
        self.calls = calls;
        self
    }

    /// How often and when failed commits are tried again.
    pub fn commit_retries(mut self, retries: CommitRetries) -> Self {
        self.retries = retries;
        self
    }
}

impl<S: TwoPhaseCommitSink> Sink for TwoPhaseSink<S> {
    type Record = S::Record;
    /// Always `None`. It stands in every checkpoint, so that one whose committables have another type is refused by its schema.
    type State = Option<S::Committable>;
    type Writer = TwoPhaseWriter<S>;

    fn check(&self, _disk: &DiskHandle) -> Result<(), BoxError> {
        self.inner.check()
    }

    fn writer(
        &self,
        context: ConnectorContext,
        _restored: Vec<Option<S::Committable>>,
        committables: Vec<Committable>,
    ) -> Result<TwoPhaseWriter<S>, BoxError> {
        let is_own = |subtask: u32| subtask % context.parallelism.max(1) == context.subtask;
        // A call of an earlier attempt that is still running must not meet the system as recovered.
        self.helpers.await_earlier(is_own);
        let prefix = Prefix::new(&context.job, &context.uid);
        let mut listed = HashSet::new();
        for committable in &committables {
            let (id, _) = read_committable::<S::Committable>(committable)?;
            listed.insert(id.as_str().to_owned());
        }
        let mut inner = self.inner.clone();
        inner.open(&context)?;
        crash_point!("two_phase.before_recovery");
        for id in inner.list_prepared(prefix.as_str())? {
            if let Some(id) = prefix.parse(&id)
                && is_own(id.subtask())
                && !listed.contains(id.as_str())
            {
                crash_point!("two_phase.before_recovered_abort");
                inner.recover_and_abort(&id)?;
                crash_point!("two_phase.after_recovered_abort");
            }
        }
        crash_point!("two_phase.after_recovery");
        let session = Session::new(inner, TransactionIds::new(&prefix, &context));
        let (helpers, waker) = (self.helpers.clone(), Arc::clone(&context.waker));
        let calls = Blocking::start(session, Session::close, self.calls, context.subtask, helpers, waker)?;
        Ok(TwoPhaseWriter::new(calls, context.subtask, self.retries, committables))
    }
}

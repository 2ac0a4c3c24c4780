//! A bank: an outside system with transactions, which outlives jobs and crashes, fails where a test says so, and watches that the
//! rules of transactions are kept.
//!
//! Always true: nothing here is undone by a crash of a job. A call either happens as a whole or not at all; an armed fault decides
//! which, and what the caller is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use thalweg::connector::{
    BoxError, CommitError, ConnectorContext, MarkerKey, TransactionId, TwoPhaseCommitSink, WriteAheadStore,
};

/// A call to the bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A client connects.
    Open,
    /// A transaction begins.
    Begin,
    /// A record is written.
    Write,
    /// A transaction is prepared.
    PreCommit,
    /// A prepared transaction, or an epoch with its marker, becomes visible.
    Commit,
    /// Prepared transactions are listed.
    List,
    /// A prepared transaction is rolled back.
    Rollback,
    /// A marker is asked for.
    Marker,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// Nothing happens, and the caller is told.
    Refused,
    /// It happens, but the caller is told that it failed: the answer was lost.
    AnswerLost,
    /// Nothing happens, and the caller panics.
    Panic,
    /// The bank has forgotten the transaction.
    Forgotten,
}

#[derive(Debug)]
struct Fault {
    call: Call,
    skip: u64,
    times: u64,
    failing: Failing,
}

#[derive(Debug, Default)]
struct Books {
    ids: BTreeSet<String>,
    prepared: BTreeMap<String, Vec<u64>>,
    committed: BTreeSet<String>,
    markers: BTreeMap<MarkerKey, u64>,
    rows: Vec<u64>,
    faults: Vec<Fault>,
    failed: u64,
    commits: u64,
    rollbacks: u64,
    violations: Vec<String>,
}

/// The bank. Clones are the same bank.
#[derive(Clone, Debug, Default)]
pub struct Bank(Arc<Mutex<Books>>, Arc<(Mutex<Held>, Condvar)>);

/// Commits that do not return.
#[derive(Debug, Default)]
struct Held {
    closed: bool,
    waiting: usize,
}

/// Keeps commits from returning until it is dropped.
#[derive(Debug)]
pub struct ClosedBank(Bank);

impl Drop for ClosedBank {
    fn drop(&mut self) {
        let (held, opened) = &*self.0.1;
        held.lock().unwrap_or_else(PoisonError::into_inner).closed = false;
        opened.notify_all();
    }
}

impl Bank {
    /// An empty bank.
    pub fn new() -> Bank {
        Bank::default()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on commits block their thread until the answer is dropped.
    pub fn hold_commits(&self) -> ClosedBank {
        self.1.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        ClosedBank(self.clone())
    }

    /// Commits that are being held.
    pub fn held(&self) -> usize {
        self.1.0.lock().unwrap_or_else(PoisonError::into_inner).waiting
    }

    fn await_opening(&self) {
        let (held, opened) = &*self.1;
        let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
        held.waiting += 1;
        while held.closed {
            held = opened.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.waiting -= 1;
    }

    /// After `skip` more calls, `times` calls fail.
    pub fn fail(&self, call: Call, skip: u64, times: u64, failing: Failing) {
        self.books().faults.push(Fault { call, skip, times, failing });
    }

    /// No call fails any more.
    pub fn disarm(&self) {
        self.books().faults.clear();
    }

    /// Number of calls that failed.
    pub fn failed(&self) -> u64 {
        self.books().failed
    }

    /// Number of transactions or epochs committed.
    pub fn commits(&self) -> u64 {
        self.books().commits
    }

    /// Number of prepared transactions rolled back.
    pub fn rollbacks(&self) -> u64 {
        self.books().rollbacks
    }

    /// Prepared transactions, neither committed nor rolled back.
    pub fn prepared(&self) -> usize {
        self.books().prepared.len()
    }

    /// Somebody prepares a transaction of one record under `id`, and is never seen again.
    pub fn leave_prepared(&self, id: &str) {
        self.books().prepared.insert(id.to_owned(), vec![0]);
    }

    /// What everybody sees, in the order in which it appeared.
    pub fn visible(&self) -> Vec<u64> {
        self.books().rows.clone()
    }

    /// Rules of transactions that clients broke.
    pub fn violations(&self) -> Vec<String> {
        self.books().violations.clone()
    }

    /// Makes a call, or fails it.
    fn call<R>(
        &self,
        call: Call,
        act: impl FnOnce(&mut Books) -> Result<R, CommitError>,
    ) -> Result<R, CommitError> {
        if call == Call::Commit {
            self.await_opening();
        }
        let mut books = self.books();
        let mut failing = None;
        for fault in books.faults.iter_mut().filter(|fault| fault.call == call && fault.times > 0) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if failing.is_none() {
                fault.times -= 1;
                failing = Some(fault.failing);
            }
        }
        books.failed += u64::from(failing.is_some());
        match failing {
            None => act(&mut books),
            Some(Failing::Refused) => Err(CommitError::retry(format!("the bank refuses {call:?}"))),
            Some(Failing::AnswerLost) => {
                act(&mut books)?;
                Err(CommitError::retry(format!("the bank's answer to {call:?} was lost")))
            }
            Some(Failing::Panic) => {
                drop(books);
                panic!("the client panics in {call:?}")
            }
            Some(Failing::Forgotten) => Err(CommitError::lost("the bank has forgotten the transaction")),
        }
    }
}

/// Both kinds of [`CommitError`], where there is no commit.
fn plain(error: CommitError) -> BoxError {
    error.to_string().into()
}

impl TwoPhaseCommitSink for Bank {
    type Record = u64;
    type Transaction = Vec<u64>;
    type Committable = u64;

    fn open(&mut self, _: &ConnectorContext) -> Result<(), BoxError> {
        self.call(Call::Open, |_| Ok(())).map_err(plain)
    }

    fn begin(&mut self, id: &TransactionId) -> Result<Vec<u64>, BoxError> {
        let begin = |books: &mut Books| {
            if !books.ids.insert(id.to_string()) {
                books.violations.push(format!("{id} begins twice"));
            }
            Ok(Vec::new())
        };
        self.call(Call::Begin, begin).map_err(plain)
    }

    fn write(&mut self, transaction: &mut Vec<u64>, record: u64) -> Result<(), BoxError> {
        self.call(Call::Write, |_| {
            transaction.push(record);
            Ok(())
        })
        .map_err(plain)
    }

    fn pre_commit(&mut self, id: &TransactionId, transaction: Vec<u64>) -> Result<u64, BoxError> {
        let prepare = |books: &mut Books| {
            let rows = transaction.len() as u64;
            if rows == 0 {
                books.violations.push(format!("{id} is empty"));
            }
            books.prepared.insert(id.to_string(), transaction);
            Ok(rows)
        };
        self.call(Call::PreCommit, prepare).map_err(plain)
    }

    fn commit(&mut self, id: &TransactionId, rows: &u64) -> Result<(), CommitError> {
        self.call(Call::Commit, |books| {
            if books.committed.contains(id.as_str()) {
                return Ok(());
            }
            let Some(prepared) = books.prepared.remove(id.as_str()) else {
                books
                    .violations
                    .push(format!("{id} is committed, but was never prepared or was rolled back"));
                return Err(CommitError::lost(format!("no transaction {id}")));
            };
            if prepared.len() as u64 != *rows {
                books.violations.push(format!("{id}: {rows} rows are named of {}", prepared.len()));
            }
            books.rows.extend(prepared);
            books.committed.insert(id.to_string());
            books.commits += 1;
            Ok(())
        })
    }

    fn abort(&mut self, _: &TransactionId, _: Vec<u64>) -> Result<(), BoxError> {
        Ok(())
    }

    fn list_prepared(&mut self, prefix: &str) -> Result<Vec<String>, BoxError> {
        let list = |books: &mut Books| {
            Ok(books.prepared.keys().filter(|id| id.starts_with(prefix)).cloned().collect())
        };
        self.call(Call::List, list).map_err(plain)
    }

    fn recover_and_abort(&mut self, id: &TransactionId) -> Result<(), BoxError> {
        let roll_back = |books: &mut Books| {
            if books.committed.contains(id.as_str()) {
                books.violations.push(format!("{id} is rolled back after its commit"));
            }
            books.rollbacks += u64::from(books.prepared.remove(id.as_str()).is_some());
            Ok(())
        };
        self.call(Call::Rollback, roll_back).map_err(plain)
    }
}

impl WriteAheadStore for Bank {
    type Record = u64;

    fn open(&mut self, _: &ConnectorContext) -> Result<(), BoxError> {
        self.call(Call::Open, |_| Ok(())).map_err(plain)
    }

    fn last_epoch(&mut self, key: &MarkerKey) -> Result<Option<u64>, BoxError> {
        self.call(Call::Marker, |books| Ok(books.markers.get(key).copied())).map_err(plain)
    }

    fn write_epoch(&mut self, key: &MarkerKey, epoch: u64, records: Vec<u64>) -> Result<(), CommitError> {
        self.call(Call::Commit, |books| {
            if records.is_empty() {
                books.violations.push(format!("{key}: epoch {epoch} is empty"));
            }
            let before = books.markers.insert(key.clone(), epoch);
            if before.is_some_and(|before| before >= epoch) {
                books.violations.push(format!("{key}: epoch {epoch} is written after {before:?}"));
            }
            books.rows.extend(records);
            books.commits += 1;
            Ok(())
        })
    }
}

//! One subtask of a two-phase-commit sink: hands records, pre-commits and commits to its session, in order.
//!
//! Always true:
//! - a checkpoint is prepared once the pre-commits of it and of all before it have succeeded;
//! - at most [`BATCHES_MAX`] batches of [`BATCH_RECORDS`] records are handed over and not written;
//! - committables are committed one at a time, in order.
//!
//! A committable is a version (u8, 1), then by postcard the transaction's id, its subtask, and the user's committable as bytes.

use super::TwoPhaseCommitSink;
use super::id::{TransactionId, TransactionIds};
use crate::clock::Nanos;
use crate::connector::blocking::Blocking;
use crate::connector::commit::{CommitError, CommitQueue, CommitRetries};
use crate::connector::{BoxError, OutputLost, PreparedOutput, SinkSnapshot, SinkWriter};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use thalweg_storage::manifest::Committable;
use thalweg_storage::{CheckpointId, Data};

/// Records that are handed over together.
const BATCH_RECORDS: usize = 256;
/// Batches handed over and not written before the writer refuses records.
const BATCHES_MAX: usize = 4;

/// Version of committables.
const VERSION: u8 = 1;

/// A pre-committed transaction, as checkpoints hold it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
struct Prepared {
    id: String,
    subtask: u32,
    committable: Vec<u8>,
}

thalweg_storage::data!(Prepared);

/// Reads a committable of a two-phase-commit sink.
pub(super) fn read_committable<C: Data>(committable: &Committable) -> Result<(TransactionId, C), OutputLost> {
    let damaged = |what: &str| {
        OutputLost(format!(
            "a committable of checkpoint {}, subtask {}, names no transaction of this sink ({what}): restore with the sink \
             that wrote it",
            committable.checkpoint, committable.subtask
        ))
    };
    let mut bytes = match committable.bytes.split_first() {
        Some((&VERSION, bytes)) => bytes,
        Some((version, _)) => return Err(damaged(&format!("its version is {version}, known is {VERSION}"))),
        None => return Err(damaged("it is empty")),
    };
    let prepared = Prepared::decode(&mut bytes).map_err(|error| damaged(&error.to_string()))?;
    let mut inner = prepared.committable.as_slice();
    let decoded = C::decode(&mut inner).map_err(|error| damaged(&error.to_string()))?;
    if !bytes.is_empty() || !inner.is_empty() {
        return Err(damaged("bytes are left over"));
    }
    Ok((TransactionId::stored(prepared.id, prepared.subtask), decoded))
}

/// The user's object with its open transaction.
pub(super) struct Session<S: TwoPhaseCommitSink> {
    inner: S,
    ids: TransactionIds,
    open: Option<(TransactionId, S::Transaction)>,
    /// A call failed: the open transaction may lack records, so nothing is written or pre-committed any more.
    failed: bool,
}

/// How a call ended.
pub(super) enum Done {
    Written(Result<(), BoxError>),
    /// With the committable, encoded.
    Prepared(CheckpointId, Result<Option<Vec<u8>>, BoxError>),
    Committed(Result<(), CommitError>),
}

impl<S: TwoPhaseCommitSink> Session<S> {
    pub fn new(inner: S, ids: TransactionIds) -> Self {
        Session { inner, ids, open: None, failed: false }
    }

    /// Makes calls that fail the attempt when one of them fails.
    fn attempt<R>(&mut self, calls: impl FnOnce(&mut Self) -> Result<R, BoxError>) -> Result<R, BoxError> {
        if self.failed {
            return Err("an earlier call to the outside system has failed".into());
        }
        let result = calls(self);
        self.failed = result.is_err();
        result
    }

    fn write(&mut self, records: Vec<S::Record>) -> Result<(), BoxError> {
        for record in records {
            if self.open.is_none() {
                let id = self.ids.next();
                crash_point!("two_phase.before_begin");
                let transaction = self.inner.begin(&id)?;
                crash_point!("two_phase.after_begin");
                self.open = Some((id, transaction));
            }
            if let Some((_, transaction)) = &mut self.open {
                self.inner.write(transaction, record)?;
            }
        }
        crash_point!("two_phase.after_write");
        Ok(())
    }

    fn pre_commit(&mut self) -> Result<Option<Vec<u8>>, BoxError> {
        let Some((id, transaction)) = self.open.take() else { return Ok(None) };
        let mut committable = Vec::new();
        crash_point!("two_phase.before_pre_commit");
        self.inner.pre_commit(&id, transaction)?.encode(&mut committable);
        crash_point!("two_phase.after_pre_commit");
        let mut bytes = vec![VERSION];
        let prepared = Prepared { id: id.as_str().to_owned(), subtask: id.subtask(), committable };
        prepared.encode(&mut bytes);
        Ok(Some(bytes))
    }

    fn commit(&mut self, committable: &Committable, restored: bool) -> Result<(), CommitError> {
        let (id, committable) = read_committable(committable).map_err(CommitError::lost)?;
        if restored {
            crash_point!("two_phase.before_recovered_commit");
            self.inner.recover_and_commit(&id, &committable)?;
            crash_point!("two_phase.after_recovered_commit");
        } else {
            crash_point!("two_phase.before_commit");
            self.inner.commit(&id, &committable)?;
            crash_point!("two_phase.after_commit");
        }
        Ok(())
    }

    /// Rolls back the open transaction; what is pre-committed stays.
    pub fn close(&mut self) {
        let Some((id, transaction)) = self.open.take() else { return };
        crash_point!("two_phase.before_abort");
        if let Err(error) = self.inner.abort(&id, transaction) {
            tracing::warn!(transaction = %id, %error, "a transaction could not be rolled back; the next start does it");
        }
        crash_point!("two_phase.after_abort");
    }
}

/// Writes one subtask of a [`super::TwoPhaseSink`].
pub struct TwoPhaseWriter<S: TwoPhaseCommitSink> {
    calls: Blocking<Session<S>, Done>,
    buffer: Vec<S::Record>,
    batches: usize,
    /// Records were written since the last prepare.
    dirty: bool,
    ended: bool,
    /// Checkpoints whose pre-commits are under way.
    preparing: VecDeque<CheckpointId>,
    /// What pre-commits gave, until the engine takes it.
    prepared: Vec<PreparedOutput>,
    subtask: u32,
    commits: CommitQueue,
    /// Of what is to be committed, so many were restored.
    restored: usize,
    now: Nanos,
}

impl<S: TwoPhaseCommitSink> TwoPhaseWriter<S> {
    pub(super) fn new(
        calls: Blocking<Session<S>, Done>,
        subtask: u32,
        retries: CommitRetries,
        restored: Vec<Committable>,
    ) -> Self {
        let mut commits = CommitQueue::new(retries);
        let count = restored.len();
        commits.add(restored);
        TwoPhaseWriter {
            calls,
            buffer: Vec::new(),
            batches: 0,
            dirty: false,
            ended: false,
            preparing: VecDeque::new(),
            prepared: Vec::new(),
            subtask,
            commits,
            restored: count,
            now: Nanos(0),
        }
    }

    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let records = std::mem::take(&mut self.buffer);
        self.batches += 1;
        self.calls.submit(move |session| Done::Written(session.attempt(|session| session.write(records))));
    }

    /// Takes the results that are there, and begins the commit that is due.
    fn advance(&mut self) -> Result<(), BoxError> {
        loop {
            while let Some(done) = self.calls.poll()? {
                match done {
                    Done::Written(result) => {
                        self.batches -= 1;
                        result?;
                    }
                    Done::Prepared(checkpoint, result) => {
                        self.preparing.pop_front();
                        let subtask = self.subtask;
                        let output = result?.map(|bytes| PreparedOutput { checkpoint, subtask, bytes });
                        self.prepared.extend(output);
                    }
                    Done::Committed(result) => {
                        let succeeded = result.is_ok();
                        self.commits.end(self.now, result)?;
                        if succeeded {
                            self.restored = self.restored.saturating_sub(1);
                        }
                    }
                }
            }
            let Some(committable) = self.commits.begin(self.now) else { return Ok(()) };
            let restored = self.restored > 0;
            self.calls.submit(move |session| Done::Committed(session.commit(&committable, restored)));
        }
    }
}

impl<S: TwoPhaseCommitSink> SinkWriter for TwoPhaseWriter<S> {
    type Record = S::Record;
    type State = Option<S::Committable>;

    fn write(&mut self, now: Nanos, record: S::Record) -> Result<bool, BoxError> {
        if self.ended {
            return Err("a record was written to a two-phase-commit sink after its end".into());
        }
        self.now = now;
        self.dirty = true;
        self.buffer.push(record);
        if self.buffer.len() >= BATCH_RECORDS {
            self.flush();
            self.advance()?;
        }
        Ok(self.batches < BATCHES_MAX)
    }

    fn poll(&mut self, now: Nanos) -> Result<bool, BoxError> {
        self.now = now;
        if self.batches == 0 {
            self.flush();
        }
        self.advance()?;
        Ok(self.batches < BATCHES_MAX)
    }

    fn wake_at(&self) -> Option<Nanos> {
        self.commits.wake_at()
    }

    fn prepare(
        &mut self,
        checkpoint: CheckpointId,
        end: bool,
    ) -> Result<SinkSnapshot<Self::State>, BoxError> {
        self.ended |= end;
        self.flush();
        if std::mem::take(&mut self.dirty) {
            self.preparing.push_back(checkpoint);
            self.calls
                .submit(move |session| Done::Prepared(checkpoint, session.attempt(Session::pre_commit)));
        }
        self.advance()?;
        Ok(SinkSnapshot { state: Some(None), committables: Vec::new() })
    }

    fn prepared(&mut self, checkpoint: CheckpointId) -> Result<bool, BoxError> {
        self.advance()?;
        Ok(self.preparing.front().is_none_or(|first| *first > checkpoint))
    }

    fn take_prepared(&mut self) -> Vec<PreparedOutput> {
        std::mem::take(&mut self.prepared)
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        self.commits.add(committables);
        self.advance()
    }

    fn committed(&self) -> bool {
        self.commits.is_empty()
    }

    fn has_unprepared(&self) -> bool {
        self.dirty || !self.preparing.is_empty() || !self.prepared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_storage::AttemptId;

    fn committable(bytes: &[u8]) -> Committable {
        Committable { checkpoint: CheckpointId(7), subtask: 3, attempt: AttemptId(1), bytes: bytes.to_vec() }
    }

    /// Version 1 of the format, byte by byte: transaction `j/u/3/1/ff/9` of subtask 3, with the committable 513.
    const GOLDEN: [u8; 24] = *b"\x01\x0cj/u/3/1/ff/9\x03\x08\x01\x02\0\0\0\0\0\0";

    #[test]
    fn committables_of_version_1_are_read_for_ever() {
        let (id, inner) = read_committable::<u64>(&committable(&GOLDEN)).unwrap();
        assert_eq!((id.as_str(), id.subtask(), inner), ("j/u/3/1/ff/9", 3, 513));
    }

    #[test]
    fn a_committable_of_another_version_or_length_is_refused_with_its_checkpoint() {
        let mut newer = GOLDEN;
        newer[0] = 2;
        let longer = [&GOLDEN[..], &[0]].concat();
        for bytes in [&newer[..], &longer, &GOLDEN[..23], &GOLDEN[..1], &[]] {
            let error = read_committable::<u64>(&committable(bytes)).unwrap_err();
            assert!(error.0.contains("checkpoint 7, subtask 3"), "{error}");
        }
    }
}

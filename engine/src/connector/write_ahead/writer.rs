//! One subtask of a write-ahead sink: encodes records, hands them over to the checkpoint, and writes them once it is complete.
//!
//! Always true:
//! - the output that it holds, open or not known to be committed, takes at most the sink's bytes and one record;
//! - an epoch is written at most once at a time, after the outside system's marker was looked at.
//!
//! A committable is a version (u8, 1), the run (u64, little-endian), the number of records (u64, little-endian), and the
//! records. Its checkpoint is the epoch.

use super::{MarkerKey, WriteAheadStore};
use crate::clock::Nanos;
use crate::connector::blocking::Blocking;
use crate::connector::commit::{CommitError, CommitQueue, CommitRetries};
use crate::connector::memory::{decode_output, encode_output};
use crate::connector::{BoxError, OutputLost, SinkSnapshot, SinkWriter};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use thalweg_storage::CheckpointId;
use thalweg_storage::manifest::Committable;

/// Version of committables.
const VERSION: u8 = 1;

/// What a write-ahead sink's subtask needs to continue: under which key it writes, and how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, postcard_schema::Schema)]
pub struct WriteAheadState {
    pub(super) subtask: u32,
    pub(super) run: u64,
    pub(super) epoch: u64,
}

thalweg_storage::data!(WriteAheadState);

/// Reads a committable of a write-ahead sink: its run and records.
pub(super) fn read_committable<T: thalweg_storage::Data>(
    committable: &Committable,
) -> Result<(u64, Vec<T>), BoxError> {
    let body = committable.bytes.split_first().filter(|(version, _)| **version == VERSION);
    let Some((run, output)) = body.and_then(|(_, body)| body.split_first_chunk()) else {
        return Err(OutputLost(format!(
            "a committable of checkpoint {}, subtask {}, holds no output of this sink, or of a newer version: restore with the sink \
             that wrote it",
            committable.checkpoint, committable.subtask
        ))
        .into());
    };
    Ok((u64::from_le_bytes(*run), decode_output(output)?))
}

/// The user's object, and what is known of its markers.
pub(super) struct Session<S> {
    store: S,
    job: Arc<str>,
    uid: Arc<str>,
    /// Unknown after a failed write.
    markers: HashMap<(u32, u64), Option<u64>>,
}

impl<S: WriteAheadStore> Session<S> {
    pub fn new(store: S, job: Arc<str>, uid: Arc<str>) -> Self {
        Session { store, job, uid, markers: HashMap::new() }
    }

    fn commit(&mut self, committable: &Committable) -> Result<(), CommitError> {
        let (run, records) = read_committable(committable).map_err(CommitError::Lost)?;
        let (subtask, epoch) = (committable.subtask, committable.checkpoint.0);
        let key = MarkerKey { job: Arc::clone(&self.job), uid: Arc::clone(&self.uid), subtask, run };
        let written = match self.markers.remove(&(subtask, run)) {
            Some(known) => known,
            None => {
                crash_point!("write_ahead.before_read_marker");
                self.store.last_epoch(&key).map_err(CommitError::Retry)?
            }
        };
        if written.is_some_and(|written| written >= epoch) {
            crash_point!("write_ahead.found_marker");
            self.markers.insert((subtask, run), written);
            return Ok(());
        }
        crash_point!("write_ahead.before_write");
        self.store.write_epoch(&key, epoch, records)?;
        crash_point!("write_ahead.after_write");
        self.markers.insert((subtask, run), Some(epoch));
        Ok(())
    }
}

/// Writes one subtask of a [`super::WriteAheadSink`].
pub struct WriteAheadWriter<S: WriteAheadStore> {
    calls: Blocking<Session<S>, Result<(), CommitError>>,
    commits: CommitQueue,
    /// Bytes of what is under way.
    committing_bytes: usize,
    state: WriteAheadState,
    bytes_max: usize,
    count: u64,
    records: Vec<u8>,
    /// Bytes of what is prepared or restored, and not committed.
    uncommitted_bytes: usize,
    ended: bool,
    now: Nanos,
}

impl<S: WriteAheadStore> WriteAheadWriter<S> {
    pub(super) fn new(
        calls: Blocking<Session<S>, Result<(), CommitError>>,
        retries: CommitRetries,
        bytes_max: usize,
        state: WriteAheadState,
        restored: Vec<Committable>,
    ) -> Self {
        let mut commits = CommitQueue::new(retries);
        let uncommitted_bytes = restored.iter().map(|committable| committable.bytes.len()).sum();
        commits.add(restored);
        WriteAheadWriter {
            calls,
            commits,
            committing_bytes: 0,
            state,
            bytes_max,
            count: 0,
            records: Vec::new(),
            uncommitted_bytes,
            ended: false,
            now: Nanos(0),
        }
    }

    fn advance(&mut self) -> Result<(), BoxError> {
        loop {
            while let Some(result) = self.calls.poll()? {
                if result.is_ok() {
                    self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(self.committing_bytes);
                }
                self.commits.end(self.now, result)?;
            }
            let Some(committable) = self.commits.begin(self.now) else { return Ok(()) };
            self.committing_bytes = committable.bytes.len();
            self.calls.submit(move |session| session.commit(&committable));
        }
    }

    fn is_full(&self) -> bool {
        self.records.len() + self.uncommitted_bytes > self.bytes_max
    }

    /// Commits under way will make room by themselves; where there are none, only the next write can tell.
    fn has_room(&self) -> bool {
        !self.is_full() || self.commits.is_empty()
    }
}

impl<S: WriteAheadStore> SinkWriter for WriteAheadWriter<S> {
    type Record = S::Record;
    type State = (WriteAheadState, Option<S::Record>);

    fn write(&mut self, now: Nanos, record: S::Record) -> Result<bool, BoxError> {
        use thalweg_storage::Data;
        if self.ended {
            return Err("a record was written to a write-ahead sink after its end".into());
        }
        self.now = now;
        record.encode(&mut self.records);
        self.count += 1;
        if self.is_full() && self.commits.is_empty() {
            return Err(format!(
                "output that waits for a checkpoint takes more than {} bytes ({} since the last checkpoint, {} of checkpoints \
                 that did not complete): take checkpoints more often, or raise the sink's `bytes_max`",
                self.bytes_max,
                self.records.len(),
                self.uncommitted_bytes
            )
            .into());
        }
        Ok(self.has_room())
    }

    fn poll(&mut self, now: Nanos) -> Result<bool, BoxError> {
        self.now = now;
        self.advance()?;
        Ok(self.has_room())
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
        self.state.epoch = checkpoint.0;
        let mut committables = Vec::new();
        if self.count > 0 {
            let output = encode_output(self.count, &self.records);
            let bytes = [&[VERSION], self.state.run.to_le_bytes().as_slice(), &output].concat();
            self.uncommitted_bytes += bytes.len();
            committables.push(bytes);
            self.count = 0;
            self.records.clear();
        }
        Ok(SinkSnapshot { state: Some((self.state, None)), committables })
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        self.commits.add(committables);
        self.advance()
    }

    fn committed(&self) -> bool {
        self.commits.is_empty()
    }

    fn has_unprepared(&self) -> bool {
        self.count > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_storage::AttemptId;

    fn committable(bytes: &[u8]) -> Committable {
        Committable { checkpoint: CheckpointId(7), subtask: 3, attempt: AttemptId(1), bytes: bytes.to_vec() }
    }

    /// Version 1 of the format, byte by byte: two records, 513 and 5, of run 255.
    const GOLDEN: [u8; 33] =
        *b"\x01\xff\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\x05\0\0\0\0\0\0\0";

    #[test]
    fn committables_of_version_1_are_read_for_ever() {
        assert_eq!(read_committable::<u64>(&committable(&GOLDEN)).unwrap(), (255, vec![513, 5]));
    }

    #[test]
    fn a_committable_of_another_version_or_length_is_refused() {
        let mut newer = GOLDEN;
        newer[0] = 2;
        let longer = [&GOLDEN[..], &[0]].concat();
        for bytes in [&newer[..], &longer, &GOLDEN[..32], &GOLDEN[..9], &GOLDEN[..1], &[]] {
            assert!(read_committable::<u64>(&committable(bytes)).unwrap_err().is::<OutputLost>());
        }
    }
}

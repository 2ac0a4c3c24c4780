//! An exactly-once sink whose output keeps the order of its checkpoints, whichever subtasks wrote it.
//!
//! Always true: what one checkpoint commits stands behind what earlier ones committed. So the order of a split's values can
//! be judged over all lives of a job, at whatever parallelism each had.

use super::numbered::Numbered;
use super::script::Script;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg::CheckpointId;
use thalweg::clock::Nanos;
use thalweg::connector::{BoxError, ConnectorContext, Sink, SinkSnapshot, SinkWriter};
use thalweg_storage::AttemptId;
use thalweg_storage::manifest::Committable;

/// What a record takes while the sink is slow.
const SLOW_PACE: Duration = Duration::from_micros(300);

/// By checkpoint, subtask and attempt.
type Entries = BTreeMap<(CheckpointId, u32, AttemptId), Vec<u8>>;

/// Slow for one interval after each snapshot; commits into memory.
pub struct Ledger<R> {
    script: Arc<Script>,
    entries: Arc<Mutex<Entries>>,
    record: PhantomData<fn(R)>,
}

impl<R> Clone for Ledger<R> {
    fn clone(&self) -> Self {
        Ledger { script: Arc::clone(&self.script), entries: Arc::clone(&self.entries), record: PhantomData }
    }
}

impl<R> Ledger<R> {
    /// Nothing is committed yet.
    pub fn new(script: &Arc<Script>) -> Self {
        Ledger { script: Arc::clone(script), entries: Arc::default(), record: PhantomData }
    }

    /// The same ledger for other records.
    pub fn retyped<S>(&self) -> Ledger<S> {
        Ledger { script: Arc::clone(&self.script), entries: Arc::clone(&self.entries), record: PhantomData }
    }

    /// Words of all committed records, in the order of their checkpoints; within one, in that of each subtask.
    pub fn committed(&self) -> Vec<u64> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let words = entries.values().flat_map(|bytes| bytes.chunks_exact(8));
        words.map(|word| u64::from_le_bytes(word.try_into().expect("chunks of eight bytes"))).collect()
    }
}

impl<R: Numbered> Sink for Ledger<R> {
    type Record = R;
    type State = ();
    type Writer = LedgerWriter<R>;

    fn writer(
        &self,
        _: ConnectorContext,
        _: Vec<()>,
        committables: Vec<Committable>,
    ) -> Result<LedgerWriter<R>, BoxError> {
        let mut writer = LedgerWriter {
            ledger: self.clone(),
            bytes: Vec::new(),
            slow_down: false,
            slow_until: Nanos(0),
            room_at: Nanos(0),
        };
        writer.commit(committables)?;
        Ok(writer)
    }
}

/// Writes one subtask.
pub struct LedgerWriter<R> {
    ledger: Ledger<R>,
    bytes: Vec<u8>,
    /// A snapshot was taken since the last call that told the time.
    slow_down: bool,
    slow_until: Nanos,
    /// The next record fits from here on.
    room_at: Nanos,
}

impl<R: Numbered> SinkWriter for LedgerWriter<R> {
    type Record = R;
    type State = ();

    fn write(&mut self, now: Nanos, record: R) -> Result<bool, BoxError> {
        self.bytes.extend_from_slice(&record.word().to_le_bytes());
        if std::mem::take(&mut self.slow_down) {
            self.slow_until = now.after(self.ledger.script.interval);
        }
        if now < self.slow_until {
            self.room_at = now.after(SLOW_PACE);
            return Ok(false);
        }
        Ok(true)
    }

    fn poll(&mut self, now: Nanos) -> Result<bool, BoxError> {
        if now < self.room_at {
            return Ok(false);
        }
        self.room_at = Nanos(0);
        Ok(true)
    }

    fn wake_at(&self) -> Option<Nanos> {
        (self.room_at > Nanos(0)).then_some(self.room_at)
    }

    fn prepare(&mut self, _: CheckpointId, _: bool) -> Result<SinkSnapshot<()>, BoxError> {
        self.slow_down = true;
        let bytes = std::mem::take(&mut self.bytes);
        let committables = if bytes.is_empty() { Vec::new() } else { vec![bytes] };
        Ok(SinkSnapshot { state: None, committables })
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        let mut entries = self.ledger.entries.lock().unwrap_or_else(PoisonError::into_inner);
        for Committable { checkpoint, subtask, attempt, bytes } in committables {
            let entry = entries.entry((checkpoint, subtask, attempt)).or_insert_with(|| bytes.clone());
            if *entry != bytes {
                self.ledger
                    .script
                    .violated(format!("checkpoint {checkpoint} commits two outputs of subtask {subtask}"));
            }
        }
        Ok(())
    }

    fn committed(&self) -> bool {
        true
    }

    fn has_unprepared(&self) -> bool {
        !self.bytes.is_empty()
    }
}

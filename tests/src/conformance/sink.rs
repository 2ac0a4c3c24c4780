//! A sink that verifies as it writes, is slow for one interval after each snapshot, and commits exactly once.
//!
//! A split's value below the last one is out of order, one equal to it a duplicate, a gap a loss. The last values are
//! the writer's state: they roll back with a restore.

use super::control::{Control, Misdelivery};
use super::record::{Tag, decode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg::CheckpointId;
use thalweg::clock::Nanos;
use thalweg::connector::memory::MemoryWriter;
use thalweg::connector::{BoxError, ConnectorContext, MemorySink, Sink, SinkWriter};
use thalweg_storage::manifest::Committable;

/// What a record takes while the sink is slow.
const SLOW_PACE: Duration = Duration::from_micros(300);

/// Verifies, then writes to a [`MemorySink`].
#[derive(Clone)]
pub struct VerifyingSink {
    /// The job.
    pub control: Arc<Control>,
    /// What is committed.
    pub committed: MemorySink<u64>,
}

/// The last value of each source and split.
type Last = BTreeMap<(Tag, u64), u64>;

impl Sink for VerifyingSink {
    type Record = u64;
    type State = Last;
    type Writer = VerifyingWriter;

    fn writer(
        &self,
        context: ConnectorContext,
        restored: Vec<Last>,
        committables: Vec<Committable>,
    ) -> Result<VerifyingWriter, BoxError> {
        let subtask = context.subtask;
        Ok(VerifyingWriter {
            control: Arc::clone(&self.control),
            subtask,
            last: restored.into_iter().flatten().collect(),
            inner: self.committed.writer(context, Vec::new(), committables)?,
            slow_down: false,
            slow_until: Nanos(0),
            room_at: Nanos(0),
        })
    }
}

/// Writes one subtask.
pub struct VerifyingWriter {
    control: Arc<Control>,
    subtask: u32,
    last: Last,
    inner: MemoryWriter<u64>,
    /// A snapshot was taken since the last call that told the time.
    slow_down: bool,
    slow_until: Nanos,
    /// The next record fits from here on.
    room_at: Nanos,
}

impl VerifyingWriter {
    fn verify(&mut self, record: u64) {
        let Some((tag, value)) = decode(record) else {
            return self.control.violated(format!("sink: damaged record {record:#018x}"));
        };
        if self.control.is_unordered() {
            return;
        }
        let splits = self.control.splits;
        let key = (tag, value % splits);
        let last = self.last.insert(key, value);
        let expected = last.map_or(key.1, |last| last + splits);
        if value == expected {
            return;
        }
        let how = match last {
            Some(last) if value == last => Misdelivery::Duplicated,
            Some(last) if value < last => Misdelivery::OutOfOrder,
            _ => Misdelivery::Lost,
        };
        self.control.misdelivered(
            how,
            format!(
                "sink {}: {how:?}: source {tag} split {} brings {value} after {last:?}",
                self.subtask, key.1
            ),
        );
    }
}

impl SinkWriter for VerifyingWriter {
    type Record = u64;
    type State = Last;

    fn write(&mut self, now: Nanos, record: u64) -> Result<bool, BoxError> {
        self.verify(record);
        self.inner.write(now, record)?;
        if std::mem::take(&mut self.slow_down) {
            self.slow_until = now.after(self.control.interval);
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

    fn prepare(
        &mut self,
        checkpoint: CheckpointId,
        end: bool,
    ) -> Result<thalweg::connector::SinkSnapshot<Last>, BoxError> {
        self.slow_down = true;
        let prepared = self.inner.prepare(checkpoint, end)?;
        Ok(thalweg::connector::SinkSnapshot {
            state: Some(self.last.clone()),
            committables: prepared.committables,
        })
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        self.inner.commit(committables)
    }

    fn committed(&self) -> bool {
        self.inner.committed()
    }

    fn has_unprepared(&self) -> bool {
        self.inner.has_unprepared()
    }
}

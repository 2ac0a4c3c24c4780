//! Sources and sinks: the traits that connectors implement, and the connectors of the engine itself.
//!
//! A source owns *splits* with replayable positions; the positions are its state. A sink writes, prepares its output
//! for a checkpoint, and commits it once that checkpoint is complete. Both are polled on a worker and must never
//! block: disk access goes through the [`DiskHandle`] of their context.

pub mod blocking;
pub mod commit;
#[cfg(feature = "files")]
pub mod files;
pub mod generator;
pub mod memory;
pub mod pull;
pub mod push;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(test)]
mod testing;
pub mod two_phase;
mod waiters;
pub mod write_ahead;

pub use blocking::Calls;
pub use commit::{CommitError, CommitRetries};
#[cfg(feature = "files")]
pub use files::{FileSink, FileSource};
pub use generator::GeneratorSource;
pub use memory::{CollectSink, CountingSink, MemorySink, VecSource};
pub use pull::{Egress, PullSink};
pub use push::{Ingress, PushSource};
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteStore;
pub use two_phase::{TransactionId, TwoPhaseCommitSink, TwoPhaseSink};
pub use write_ahead::{MarkerKey, WriteAheadSink, WriteAheadStore};

use crate::clock::Nanos;
pub use crate::error::{BoxError, OutputLost};
use std::sync::Arc;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::Committable;
use thalweg_storage::{AttemptId, CheckpointId, Data};

/// What a source reader or a sink writer knows of its surroundings.
#[derive(Clone)]
pub struct ConnectorContext {
    /// The job's name.
    pub job: Arc<str>,
    /// Uid of the operator.
    pub uid: Arc<str>,
    /// Index of this subtask.
    pub subtask: u32,
    /// Number of subtasks.
    pub parallelism: u32,
    /// The execution attempt.
    pub attempt: AttemptId,
    /// The engine's disk; completions wake this subtask's worker.
    pub disk: DiskHandle,
    /// Wakes this subtask's worker from another thread, so that the reader or writer is polled again.
    pub waker: Arc<dyn thalweg_storage::io::Notify>,
}

/// What a reader did in one poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// Emitted something or made progress; poll again soon.
    More,
    /// Nothing to emit now: poll again when woken, or at the given time.
    Idle(Option<Nanos>),
    /// All splits are read to their end; nothing will come any more.
    End,
}

/// A place for a reader to put records.
pub trait SourceOutput<T> {
    /// Emits a record. Returns false when downstream has no more room: the record was taken, but the reader should
    /// return from `poll` with [`SourceStatus::More`] before it emits another.
    fn emit(&mut self, record: T) -> bool;

    /// Hands over input that could not be parsed; the source's [`MalformedPolicy`] decides what becomes of it.
    /// Returns as [`SourceOutput::emit`] does.
    fn malformed(&mut self, record: MalformedRecord) -> bool;
}

/// Input that could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, postcard_schema::Schema)]
pub struct MalformedRecord {
    /// Where it came from, such as a file's path.
    pub origin: String,
    /// Position within the origin, such as a byte offset.
    pub offset: u64,
    /// The raw input, perhaps cut short.
    pub raw: Vec<u8>,
    /// What is wrong with it.
    pub error: String,
}
thalweg_storage::data!(MalformedRecord);

/// What to do with input that can't be parsed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MalformedPolicy {
    /// Fail the job, naming the record. The default.
    #[default]
    Fail,
    /// Leave it out and count it in the metrics.
    Skip,
    /// Send it to the dead-letter stream.
    Divert,
}

/// A source: knows its splits and makes readers. Cloned for each subtask and attempt.
pub trait Source: Clone + Send + 'static {
    /// The records it emits.
    type Record: Data;
    /// A part of the input with a position from which it can be read again. Stored in checkpoints.
    type Split: Data;
    /// Reads splits.
    type Reader: SourceReader<Record = Self::Record, Split = Self::Split>;

    /// Finds all splits. Called once for a job that starts without a checkpoint, on a plain thread: it may wait for
    /// the disk. `parallelism` is a hint for how many are useful.
    ///
    /// # Errors
    /// The input is missing or unreadable; the job does not start.
    fn splits(&self, disk: &DiskHandle, parallelism: u32) -> Result<Vec<Self::Split>, BoxError>;

    /// Makes a reader for the splits assigned to one subtask, perhaps none.
    ///
    /// # Errors
    /// The reader cannot start; the attempt fails.
    fn reader(&self, context: ConnectorContext, splits: Vec<Self::Split>) -> Result<Self::Reader, BoxError>;
}

/// Reads the splits of one subtask.
pub trait SourceReader: Send + 'static {
    /// The records it emits.
    type Record: Data;
    /// What it reads.
    type Split: Data;

    /// Emits at most about `budget` records. Never blocks.
    ///
    /// # Errors
    /// The attempt fails and restarts from the latest checkpoint.
    fn poll<O: SourceOutput<Self::Record>>(
        &mut self,
        now: Nanos,
        budget: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError>;

    /// All unfinished splits with the positions behind the last emitted record, for `checkpoint`.
    fn snapshot(&mut self, checkpoint: CheckpointId) -> Vec<Self::Split>;

    /// The checkpoint that contains the positions of its [`SourceReader::snapshot`] is complete, and so is everything
    /// that an earlier one holds.
    fn checkpoint_complete(&mut self, _checkpoint: CheckpointId) {}

    /// The checkpoint has failed, whether its [`SourceReader::snapshot`] was taken or not; `latest_completed` is the latest
    /// complete one.
    fn checkpoint_aborted(&mut self, _checkpoint: CheckpointId, _latest_completed: Option<CheckpointId>) {}

    /// How much of the input is read: done and total, in any one unit (bytes for files); `None` if unknown.
    fn read_progress(&self) -> Option<(u64, u64)> {
        None
    }
}

/// A sink: makes writers. Cloned for each subtask and attempt.
pub trait Sink: Clone + Send + 'static {
    /// The records it takes.
    type Record: 'static;
    /// What a writer needs to continue after a restore. Stored in checkpoints.
    type State: Data;
    /// Writes.
    type Writer: SinkWriter<Record = Self::Record, State = Self::State>;

    /// Checks that the sink can work (a writable directory, say), once before a job starts. May wait for the disk.
    ///
    /// # Errors
    /// The job does not start.
    fn check(&self, _disk: &DiskHandle) -> Result<(), BoxError> {
        Ok(())
    }

    /// Makes the writer of one subtask. Called on a plain thread; it may wait for the disk.
    ///
    /// `restored` holds the states that earlier writers snapshotted and `committables` everything that the manifest
    /// lists for this subtask: the writer commits these first (again, perhaps: commits are idempotent), and discards
    /// whatever of its own it finds outside that neither names. Where the parallelism has changed, states and
    /// committables of original subtask `s` go to the writer of subtask `s % parallelism`.
    ///
    /// # Errors
    /// The attempt fails.
    fn writer(
        &self,
        context: ConnectorContext,
        restored: Vec<Self::State>,
        committables: Vec<Committable>,
    ) -> Result<Self::Writer, BoxError>;
}

/// What a writer stores in a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct SinkSnapshot<S> {
    /// What a new writer needs to continue here, or `None` for nothing.
    pub state: Option<S>,
    /// Output prepared for this checkpoint, in the sink's own encoding; committed once the checkpoint is complete.
    pub committables: Vec<Vec<u8>>,
}

/// Prepared output that a writer hands over by [`SinkWriter::take_prepared`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreparedOutput {
    /// The checkpoint it is prepared for.
    pub checkpoint: CheckpointId,
    /// The original subtask: the one under whose name the outside world knows the output. After a restore at another
    /// parallelism it is this that decides who commits it, and who clears away what no checkpoint lists.
    pub subtask: u32,
    /// The committable, in the sink's own encoding.
    pub bytes: Vec<u8>,
}

/// Writes the records of one subtask, in two phases: prepare at a checkpoint, commit once it is complete.
///
/// The engine stores all prepared and not yet committed output in every manifest and hands it to `commit`; an
/// aborted checkpoint never touches what was prepared.
pub trait SinkWriter: Send + 'static {
    /// The records it takes.
    type Record;
    /// What it needs to continue after a restore.
    type State: Data;

    /// Takes a record. Returns false when the writer has no room for another until a later
    /// [`SinkWriter::poll`] returns true.
    ///
    /// # Errors
    /// The attempt fails and restarts from the latest checkpoint.
    fn write(&mut self, now: Nanos, record: Self::Record) -> Result<bool, BoxError>;

    /// Moves pending I/O on; never blocks. Returns true when there is room for a record.
    ///
    /// # Errors
    /// As for `write`.
    fn poll(&mut self, now: Nanos) -> Result<bool, BoxError>;

    /// When `poll` wants to be called next even if nothing happens.
    fn wake_at(&self) -> Option<Nanos> {
        None
    }

    /// Takes the state and prepares the output of everything written so far, `end` telling that no record will ever
    /// follow. Must not wait: what remains to be made durable is reported by [`SinkWriter::prepared`], and what the
    /// outside system names only then is handed over by [`SinkWriter::take_prepared`].
    ///
    /// # Errors
    /// The attempt fails.
    fn prepare(&mut self, checkpoint: CheckpointId, end: bool)
    -> Result<SinkSnapshot<Self::State>, BoxError>;

    /// True when everything that `prepare(checkpoint)` promised is durable; polled until then.
    ///
    /// # Errors
    /// A failed write or sync: output may be lost, the attempt fails.
    fn prepared(&mut self, _checkpoint: CheckpointId) -> Result<bool, BoxError> {
        Ok(true)
    }

    /// Takes prepared output that [`SinkWriter::prepare`] could not return, in the order of checkpoints: what became known
    /// later, and what an earlier run's subtask of another index had begun. Called each time [`SinkWriter::prepared`] has said
    /// yes; by then the output of that checkpoint and of all before it, aborted ones included, must be there.
    fn take_prepared(&mut self) -> Vec<PreparedOutput> {
        Vec::new()
    }

    /// Starts to make `committables` visible, in order. Idempotent. Progress is made by `poll`; done when
    /// [`SinkWriter::committed`] says so.
    ///
    /// # Errors
    /// The attempt fails; the restart commits again.
    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError>;

    /// True when nothing handed to `commit` is outstanding.
    fn committed(&self) -> bool;

    /// True while records written have not been prepared, while the writer has open output that only an ending `prepare`
    /// would hand over, and while committables are still to come by [`SinkWriter::take_prepared`].
    fn has_unprepared(&self) -> bool;
}

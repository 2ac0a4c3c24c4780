//! Operators at run time: a task's chain is one nested [`Stage`], fused by generics.
//!
//! A record enters the head stage and is pushed down by plain, inlined calls; nothing is boxed and nothing is
//! allocated per record. What happens seldom (opening, snapshots, the end of input) goes through [`StageControl`],
//! whose defaults pass every call on to the stage below.

mod chain;
mod output;
mod site;

pub use chain::{BindContext, Identity, Link, Then};
pub use output::{
    Edge, EdgeWriter, FlushPolicy, Outbox, Output, OutputPort, Partition, Route, ToAll, ToOne, UnsentRecords,
};
pub use site::{Failure, Site};

use crate::clock::Nanos;
use std::collections::VecDeque;
use std::sync::Arc;
use thalweg_storage::CheckpointId;
use thalweg_storage::manifest::{Committable, KeyedStateMeta, StateBlob};
use thalweg_storage::table::StateTable;

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Taken; the next may come.
    Continue,
    /// Taken, but its processing or its output waits for room: call [`StageControl::resume`] before the next record.
    Blocked,
}

/// What became of timers that were due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fired {
    /// None were.
    None,
    /// Some fired; more may be due.
    Some,
    /// Some fired; the output of the last waits for room.
    Blocked,
    /// The state of the next is being read from disk.
    Waiting,
}

/// Takes what an operator emits while it processes one record.
///
/// What it holds is sent down the chain, in order, when the operator's function returns.
pub struct Collector<T> {
    records: VecDeque<T>,
}

impl<T> Default for Collector<T> {
    fn default() -> Self {
        Collector { records: VecDeque::new() }
    }
}

impl<T> Collector<T> {
    /// Emits a record.
    #[inline]
    pub fn collect(&mut self, record: T) {
        self.records.push_back(record);
    }

    /// Sends the records down until `down` is blocked.
    #[inline]
    pub(crate) fn drain<D: Stage<T>>(&mut self, down: &mut D) -> Result<Flow, Failure> {
        while let Some(record) = self.records.pop_front() {
            if down.process(record)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
        }
        Ok(Flow::Continue)
    }

    /// Sends all records down, whatever room there is.
    pub(crate) fn finish<D: Stage<T>>(&mut self, down: &mut D) -> Result<(), Failure> {
        down.finish_record()?;
        while let Some(record) = self.records.pop_front() {
            if down.process(record)? == Flow::Blocked {
                down.finish_record()?;
            }
        }
        Ok(())
    }
}

/// Everything a stage does besides processing records.
///
/// The defaults pass the call down the chain, so a stage implements only what concerns it, and calls the stage below
/// itself where it does.
pub trait StageControl: Send {
    /// The stage below, if this is not the last.
    fn down(&mut self) -> Option<&mut dyn StageControl>;

    /// Continues a record that was left half done, if there is one. [`Flow::Continue`] means that nothing is left of it
    /// and that there is room for the next.
    ///
    /// # Errors
    /// The task fails.
    fn resume(&mut self) -> Result<Flow, Failure> {
        self.down().map_or(Ok(Flow::Continue), |down| down.resume())
    }

    /// Finishes a record that was left half done, whatever room there is; its output waits in the outbox.
    ///
    /// # Errors
    /// The task fails.
    fn finish_record(&mut self) -> Result<(), Failure> {
        self.down().map_or(Ok(()), |down| down.finish_record())
    }

    /// Called at the start of each poll of the task: moves asynchronous work on.
    ///
    /// # Errors
    /// The task fails.
    fn tick(&mut self, now: Nanos) -> Result<(), Failure> {
        self.down().map_or(Ok(()), |down| down.tick(now))
    }

    /// Fires timers that are due, some of them at most; no record is half done when it is called.
    ///
    /// # Errors
    /// The task fails.
    fn fire_timers(&mut self) -> Result<Fired, Failure> {
        self.down().map_or(Ok(Fired::None), |down| down.fire_timers())
    }

    /// When [`StageControl::tick`] or [`StageControl::fire_timers`] wants to be called next even if nothing happens.
    fn wake_at(&mut self) -> Option<Nanos> {
        self.down().and_then(|down| down.wake_at())
    }

    /// Adds the state of each operator to `snapshot`, in one atomic step for the whole chain.
    ///
    /// # Errors
    /// The task fails.
    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure> {
        self.down().map_or(Ok(()), |down| down.snapshot(snapshot))
    }

    /// True when everything outside the engine that the snapshot relies on is durable; polled until then.
    ///
    /// # Errors
    /// The task fails.
    fn snapshot_durable(&mut self, checkpoint: CheckpointId) -> Result<bool, Failure> {
        self.down().map_or(Ok(true), |down| down.snapshot_durable(checkpoint))
    }

    /// Adds to `operators`, the chain's snapshot for `checkpoint`, what a sink has prepared up to it and not committed.
    /// Called once [`StageControl::snapshot_durable`] says yes: some systems name what they prepared only then.
    fn list_committables(&mut self, checkpoint: CheckpointId, operators: &mut [OperatorSnapshot]) {
        if let Some(down) = self.down() {
            down.list_committables(checkpoint, operators);
        }
    }

    /// The checkpoint is complete: sinks commit what its manifest lists.
    ///
    /// # Errors
    /// The task fails.
    fn checkpoint_complete(&mut self, checkpoint: CheckpointId) -> Result<(), Failure> {
        self.down().map_or(Ok(()), |down| down.checkpoint_complete(checkpoint))
    }

    /// The checkpoint has failed; `latest_completed` is the latest complete one that the coordinator knows.
    ///
    /// # Errors
    /// The task fails.
    fn checkpoint_aborted(
        &mut self,
        checkpoint: CheckpointId,
        latest_completed: Option<CheckpointId>,
    ) -> Result<(), Failure> {
        self.down().map_or(Ok(()), |down| down.checkpoint_aborted(checkpoint, latest_completed))
    }

    /// All input has ended and no record is half done: closes the operators from the first to the last, each of
    /// which may emit its last records. Called until it returns [`Flow::Continue`].
    ///
    /// # Errors
    /// The task fails.
    fn end_input(&mut self) -> Result<Flow, Failure> {
        self.down().map_or(Ok(Flow::Continue), |down| down.end_input())
    }

    /// As [`StageControl::end_input`], to its end whatever room there is; the last records wait in the outbox. Called
    /// for a snapshot that comes while the chain is closing, when no record is half done.
    ///
    /// # Errors
    /// The task fails.
    fn finish_input(&mut self) -> Result<(), Failure> {
        self.down().map_or(Ok(()), |down| down.finish_input())
    }

    /// What a sink still has to do once its input has ended.
    fn ending(&mut self) -> Ending {
        self.down().map_or(Ending::Done, |down| down.ending())
    }

    /// True when no output that was prepared is left to be committed.
    fn is_committed(&mut self) -> bool {
        self.down().is_none_or(|down| down.is_committed())
    }

    /// The job runs without checkpoints: prepare and commit everything.
    ///
    /// # Errors
    /// The task fails.
    fn commit_final(&mut self) -> Result<(), Failure> {
        self.down().map_or(Ok(()), |down| down.commit_final())
    }

    /// True when all records that were prepared last may be processed without waiting for the disk. Moves the reads on
    /// that they wait for; each that ends wakes the worker.
    ///
    /// # Errors
    /// The task fails.
    fn ready(&mut self) -> Result<bool, Failure> {
        self.down().map_or(Ok(true), |down| down.ready())
    }

    /// Does a slice of the upkeep of keyed state, of about what `rows` rows cost. True when there is more to do at once.
    ///
    /// # Errors
    /// The task fails.
    fn maintain(&mut self, rows: usize) -> Result<bool, Failure> {
        self.down().map_or(Ok(false), |down| down.maintain(rows))
    }

    /// Number of keyed state tables in the chain.
    fn table_count(&mut self) -> usize {
        self.down().map_or(0, |down| down.table_count())
    }

    /// The keyed state table with `index` below [`StageControl::table_count`].
    fn table(&mut self, index: usize) -> Option<&mut dyn StateTable> {
        self.down().and_then(|down| down.table(index))
    }

    /// Shows every output of the chain, side outputs included, to `visit`, in a fixed order.
    fn outputs(&mut self, visit: &mut dyn FnMut(&mut dyn OutputPort)) {
        if let Some(down) = self.down() {
            down.outputs(visit);
        }
    }
}

/// Processes records of type `T` and pushes what comes of them down the chain.
pub trait Stage<T>: StageControl {
    /// Announces that exactly `upcoming` will be processed next, in this order, unless `prepare` is called again
    /// before. Lets keyed operators hash, prefetch and read their state.
    ///
    /// Returns how many of them, from the first on, may be processed once [`StageControl::ready`] says so; at least one,
    /// unless there are none.
    #[inline(always)]
    fn prepare(&mut self, upcoming: &[T]) -> usize {
        upcoming.len()
    }

    /// Processes a record.
    ///
    /// # Errors
    /// The task fails.
    fn process(&mut self, record: T) -> Result<Flow, Failure>;
}

/// Processes records of two types that arrive on different inputs.
pub trait TwoStage<A, B>: StageControl {
    /// As [`Stage::prepare`], for the first input.
    #[inline(always)]
    fn prepare_first(&mut self, upcoming: &[A]) -> usize {
        upcoming.len()
    }

    /// As [`Stage::prepare`], for the second input.
    #[inline(always)]
    fn prepare_second(&mut self, upcoming: &[B]) -> usize {
        upcoming.len()
    }

    /// Processes a record of the first input.
    ///
    /// # Errors
    /// The task fails.
    fn process_first(&mut self, record: A) -> Result<Flow, Failure>;

    /// Processes a record of the second input.
    ///
    /// # Errors
    /// The task fails.
    fn process_second(&mut self, record: B) -> Result<Flow, Failure>;
}

/// How far a sink is when its input has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything is committed, or there is no sink.
    Done,
    /// Output waits for a checkpoint to commit it.
    AwaitsCommit,
    /// A commit is under way.
    Committing,
}

/// State of a chain's operators, collected in one atomic step.
#[derive(Default)]
pub struct ChainSnapshot {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// True when no input will follow.
    pub ended: bool,
    /// One entry for each operator that has state.
    pub operators: Vec<OperatorSnapshot>,
}

/// State of one operator in one subtask.
#[derive(Clone, Debug)]
pub struct OperatorSnapshot {
    /// The operator.
    pub uid: Arc<str>,
    /// Its operator state.
    pub operator_state: Vec<StateBlob>,
    /// Everything its sink has prepared and not committed.
    pub committables: Vec<Committable>,
    /// Names and types of its keyed states, which are serialised later; empty for an operator without.
    pub keyed: Vec<KeyedStateMeta>,
}

impl OperatorSnapshot {
    /// An empty snapshot of `uid`.
    pub fn of(uid: &Arc<str>) -> Self {
        OperatorSnapshot {
            uid: Arc::clone(uid),
            operator_state: Vec::new(),
            committables: Vec::new(),
            keyed: Vec::new(),
        }
    }
}

/// What earlier runs left for one operator in one subtask.
#[derive(Clone, Debug, Default)]
pub struct OperatorRestore {
    /// Its operator state.
    pub operator_state: Vec<StateBlob>,
    /// What its sink has to commit first.
    pub committables: Vec<Committable>,
    /// It was closed already: its last records are emitted, and must not be emitted again.
    pub finished: bool,
}

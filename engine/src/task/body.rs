//! The typed part of a task: a head that reads records, on top of a fused chain of operators.

use super::Budget;
use super::inputs::{CapturedChannel, Feed, Inputs, Ran, Slice};
use crate::barrier::Gate;
use crate::clock::Nanos;
use crate::operator::{ChainSnapshot, Failure, Flow, Stage, StageControl, TwoStage};
use std::marker::PhantomData;
use thalweg_storage::{CheckpointId, Data};

/// What a run of a body did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRun {
    /// How it ended.
    pub ran: Ran,
    /// When to run again even if nothing happens.
    pub wake_at: Option<Nanos>,
    /// A source has read everything.
    pub ended: bool,
}

/// The typed part of a task, as the task drives it.
pub trait Body: Send {
    /// The chain's stages.
    fn stage(&mut self) -> &mut dyn StageControl;

    /// Looks for data and announcements.
    fn look(&mut self, gate: &mut Gate);

    /// True when records come from channels, whose ends the gate knows.
    fn has_inputs(&self) -> bool {
        true
    }

    /// Processes records; none is half done when it is called.
    ///
    /// # Errors
    /// The task fails.
    fn run(
        &mut self,
        gate: &mut Gate,
        now: Nanos,
        budget: Budget,
        clock: &dyn Fn() -> u64,
    ) -> Result<BodyRun, Failure>;

    /// What is announced of coming records counts no longer: something else was announced since.
    fn forget_prepared(&mut self) {}

    /// Adds the state of the head and of every operator.
    ///
    /// # Errors
    /// The task fails.
    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure>;

    /// Right after a snapshot: captures what is left of half processed batches.
    fn capture_current(&mut self, gate: &mut Gate);

    /// Captures some in-flight records below known cuts; returns how many.
    fn capture_slice(&mut self, gate: &mut Gate, records: usize) -> usize;

    /// Takes what was captured for `checkpoint`.
    fn take_captured(&mut self, checkpoint: CheckpointId) -> Vec<CapturedChannel>;

    /// A checkpoint is complete.
    fn checkpoint_complete(&mut self, _checkpoint: CheckpointId) {}

    /// A checkpoint has failed.
    fn checkpoint_aborted(&mut self, _checkpoint: CheckpointId, _latest_completed: Option<CheckpointId>) {}

    /// Records that have come in.
    fn records_in(&self) -> u64;

    /// How much of a source's input is read: done and total.
    fn read_progress(&self) -> Option<(u64, u64)> {
        None
    }

    /// Malformed records that were left out.
    fn records_skipped(&self) -> u64 {
        0
    }
}

/// A task with inputs of one type.
pub struct OneInput<T, S> {
    /// The channels.
    pub inputs: Inputs<T>,
    /// The chain.
    pub stage: S,
}

impl<T: Data, S: Stage<T>> Body for OneInput<T, S> {
    fn stage(&mut self) -> &mut dyn StageControl {
        &mut self.stage
    }

    fn look(&mut self, gate: &mut Gate) {
        self.inputs.look(gate);
    }

    fn run(
        &mut self,
        gate: &mut Gate,
        _: Nanos,
        budget: Budget,
        clock: &dyn Fn() -> u64,
    ) -> Result<BodyRun, Failure> {
        let ran = self.inputs.run(gate, budget, clock, &mut Only(&mut self.stage))?;
        Ok(BodyRun { ran, wake_at: None, ended: false })
    }

    fn forget_prepared(&mut self) {
        self.inputs.forget_prepared();
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure> {
        self.stage.snapshot(snapshot)
    }

    fn capture_current(&mut self, gate: &mut Gate) {
        self.inputs.capture_current(gate);
    }

    fn capture_slice(&mut self, gate: &mut Gate, records: usize) -> usize {
        self.inputs.capture_slice(gate, records)
    }

    fn take_captured(&mut self, checkpoint: CheckpointId) -> Vec<CapturedChannel> {
        let mut captured = Vec::new();
        self.inputs.take_captured(checkpoint, &mut captured);
        captured
    }

    fn records_in(&self) -> u64 {
        self.inputs.records()
    }
}

/// A task with inputs of two types.
pub struct TwoInput<A, B, S> {
    /// The channels of the first input.
    pub first: Inputs<A>,
    /// The channels of the second input.
    pub second: Inputs<B>,
    /// The chain.
    pub stage: S,
    /// Which input is read first in the next run.
    pub second_first: bool,
}

/// Feeds a chain's only input.
struct Only<'a, S>(&'a mut S);

impl<T, S: Stage<T>> Feed<T> for Only<'_, S> {
    #[inline(always)]
    fn prepare(&mut self, upcoming: &[T]) -> usize {
        self.0.prepare(upcoming)
    }
    fn ready(&mut self) -> Result<bool, Failure> {
        self.0.ready()
    }
    #[inline(always)]
    fn process(&mut self, slice: &mut Slice<'_, T>) -> Result<Flow, Failure> {
        while let Some(record) = slice.take() {
            if self.0.process(record)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
        }
        Ok(Flow::Continue)
    }
}

/// Feeds the first input of a chain over records of type `B` as well.
struct First<'a, S, B>(&'a mut S, PhantomData<B>);

impl<A, B, S: TwoStage<A, B>> Feed<A> for First<'_, S, B> {
    fn prepare(&mut self, upcoming: &[A]) -> usize {
        self.0.prepare_first(upcoming)
    }
    fn ready(&mut self) -> Result<bool, Failure> {
        self.0.ready()
    }
    fn process(&mut self, slice: &mut Slice<'_, A>) -> Result<Flow, Failure> {
        while let Some(record) = slice.take() {
            if self.0.process_first(record)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
        }
        Ok(Flow::Continue)
    }
}

/// Feeds the second input of a chain over records of type `A` as well.
struct Second<'a, S, A>(&'a mut S, PhantomData<A>);

impl<A, B, S: TwoStage<A, B>> Feed<B> for Second<'_, S, A> {
    fn prepare(&mut self, upcoming: &[B]) -> usize {
        self.0.prepare_second(upcoming)
    }
    fn ready(&mut self) -> Result<bool, Failure> {
        self.0.ready()
    }
    fn process(&mut self, slice: &mut Slice<'_, B>) -> Result<Flow, Failure> {
        while let Some(record) = slice.take() {
            if self.0.process_second(record)? == Flow::Blocked {
                return Ok(Flow::Blocked);
            }
        }
        Ok(Flow::Continue)
    }
}

impl<A: Data, B: Data, S: TwoStage<A, B>> Body for TwoInput<A, B, S> {
    fn stage(&mut self) -> &mut dyn StageControl {
        &mut self.stage
    }

    fn look(&mut self, gate: &mut Gate) {
        self.first.look(gate);
        self.second.look(gate);
    }

    fn run(
        &mut self,
        gate: &mut Gate,
        _: Nanos,
        budget: Budget,
        clock: &dyn Fn() -> u64,
    ) -> Result<BodyRun, Failure> {
        // The inputs take turns in coming first, each with half of the budget. Both announce to the same tables: what one
        // has announced counts no longer once the other has its turn.
        let half = Budget { records: budget.records.div_ceil(2), nanos: budget.nanos.div_ceil(2) };
        self.second_first = !self.second_first;
        let mut ran = [Ran::Idle; 2];
        for (round, ran) in ran.iter_mut().enumerate() {
            let second = self.second_first == (round == 0);
            *ran = if second {
                self.first.forget_prepared();
                self.second.run(gate, half, clock, &mut Second(&mut self.stage, PhantomData))?
            } else {
                self.second.forget_prepared();
                self.first.run(gate, half, clock, &mut First(&mut self.stage, PhantomData))?
            };
            if *ran == Ran::Waiting {
                // It comes first in the next run too: else the two could take each other's pages away for ever.
                self.second_first = !second;
            }
            if matches!(*ran, Ran::Blocked | Ran::Waiting) {
                return Ok(BodyRun { ran: *ran, wake_at: None, ended: false });
            }
        }
        let ran = if ran == [Ran::Idle; 2] { Ran::Idle } else { Ran::Busy };
        Ok(BodyRun { ran, wake_at: None, ended: false })
    }

    fn forget_prepared(&mut self) {
        self.first.forget_prepared();
        self.second.forget_prepared();
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure> {
        self.stage.snapshot(snapshot)
    }

    fn capture_current(&mut self, gate: &mut Gate) {
        self.first.capture_current(gate);
        self.second.capture_current(gate);
    }

    fn capture_slice(&mut self, gate: &mut Gate, records: usize) -> usize {
        let done = self.first.capture_slice(gate, records);
        if done >= records { done } else { done + self.second.capture_slice(gate, records - done) }
    }

    fn take_captured(&mut self, checkpoint: CheckpointId) -> Vec<CapturedChannel> {
        let mut captured = Vec::new();
        self.first.take_captured(checkpoint, &mut captured);
        self.second.take_captured(checkpoint, &mut captured);
        captured
    }

    fn records_in(&self) -> u64 {
        self.first.records() + self.second.records()
    }
}

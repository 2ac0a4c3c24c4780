//! The typed part of a task: a head that reads records, on top of a fused chain of operators.

use super::Budget;
use super::inputs::{CapturedChannel, Inputs, Ran};
use crate::barrier::Gate;
use crate::clock::Nanos;
use crate::operator::{ChainSnapshot, Failure, Flow, Stage, StageControl, TwoStage};
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
        let stage = std::cell::RefCell::new(&mut self.stage);
        let ran = self.inputs.run(
            gate,
            budget,
            clock,
            &mut |records| stage.borrow_mut().prepare(records),
            &mut |slice| {
                let stage = &mut **stage.borrow_mut();
                while let Some(record) = slice.take() {
                    if stage.process(record)? == Flow::Blocked {
                        return Ok(Flow::Blocked);
                    }
                }
                Ok(Flow::Continue)
            },
        )?;
        Ok(BodyRun { ran, wake_at: None, ended: false })
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

impl<A: Data, B: Data, S: TwoStage<A, B>> TwoInput<A, B, S> {
    fn run_first(
        &mut self,
        gate: &mut Gate,
        budget: Budget,
        clock: &dyn Fn() -> u64,
    ) -> Result<Ran, Failure> {
        let stage = std::cell::RefCell::new(&mut self.stage);
        self.first.run(
            gate,
            budget,
            clock,
            &mut |records| stage.borrow_mut().prepare_first(records),
            &mut |slice| {
                let stage = &mut **stage.borrow_mut();
                while let Some(record) = slice.take() {
                    if stage.process_first(record)? == Flow::Blocked {
                        return Ok(Flow::Blocked);
                    }
                }
                Ok(Flow::Continue)
            },
        )
    }

    fn run_second(
        &mut self,
        gate: &mut Gate,
        budget: Budget,
        clock: &dyn Fn() -> u64,
    ) -> Result<Ran, Failure> {
        let stage = std::cell::RefCell::new(&mut self.stage);
        self.second.run(
            gate,
            budget,
            clock,
            &mut |records| stage.borrow_mut().prepare_second(records),
            &mut |slice| {
                let stage = &mut **stage.borrow_mut();
                while let Some(record) = slice.take() {
                    if stage.process_second(record)? == Flow::Blocked {
                        return Ok(Flow::Blocked);
                    }
                }
                Ok(Flow::Continue)
            },
        )
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
        // The inputs take turns in coming first, each with half of the budget.
        let half = Budget { records: budget.records.div_ceil(2), nanos: budget.nanos.div_ceil(2) };
        self.second_first = !self.second_first;
        let mut ran = [Ran::Idle; 2];
        for (round, ran) in ran.iter_mut().enumerate() {
            *ran = if self.second_first == (round == 0) {
                self.run_second(gate, half, clock)?
            } else {
                self.run_first(gate, half, clock)?
            };
            if *ran == Ran::Blocked {
                return Ok(BodyRun { ran: Ran::Blocked, wake_at: None, ended: false });
            }
        }
        let ran = if ran == [Ran::Idle; 2] { Ran::Idle } else { Ran::Busy };
        Ok(BodyRun { ran, wake_at: None, ended: false })
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

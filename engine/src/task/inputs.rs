//! The input channels of one type that a task reads, and what checkpoints capture of them.
//!
//! Always true:
//! - a record is captured before it is consumed, and only whole batches below the gate's limit are taken;
//! - restored records are processed before any others, those of lower generations first, whichever channels they are on: the
//!   channel on which a key's next record comes may be another than before the restore;
//! - a record is processed only when the state that its preparation announced is there; until then it lies unconsumed in
//!   its batch, where a barrier captures it.

use super::Budget;
use crate::barrier::Gate;
use crate::operator::{Failure, Flow};
use crate::ring::Receiver;
use std::sync::Arc;
use thalweg_storage::{CheckpointId, Data};

/// Records that are processed between two looks at the clock, at most.
const SLICE_RECORDS: usize = 256;

/// Time that a slice should take at most, in nanoseconds.
const SLICE_NANOS: u64 = 50_000;

/// One input channel and its place in the job.
pub struct Input<T> {
    /// The edge.
    pub edge: Arc<str>,
    /// The producing partition.
    pub producer: u32,
    /// The channel's consuming end.
    pub receiver: Receiver<T>,
}

/// In-flight records captured so far on one channel for one checkpoint.
#[derive(Default)]
struct Captured {
    checkpoint: CheckpointId,
    /// By rising generation.
    parts: Vec<CapturedPart>,
}

/// In-flight records of one generation.
#[derive(Default)]
struct CapturedPart {
    generation: u32,
    records: u64,
    bytes: Vec<u8>,
}

/// In-flight records of one input channel.
pub struct CapturedChannel {
    /// The edge.
    pub edge: Arc<str>,
    /// The producing partition.
    pub producer: u32,
    /// How many restores they came after, as [`Receiver::generation`] counts.
    pub generation: u32,
    /// Number of records.
    pub records: u64,
    /// The records, one after another.
    pub bytes: Vec<u8>,
}

/// How a run over the inputs ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// The budget is used up, or a barrier wants attention: there may be more to do at once.
    Busy,
    /// Nothing that may be read is there.
    Idle,
    /// The last record is half done, or its output waits for room.
    Blocked,
    /// The next record waits for its state to be read from disk; whatever ends a read wakes the worker.
    Waiting,
}

/// The chain, as [`Inputs::run`] feeds it.
pub trait Feed<T> {
    /// Announces `upcoming`; returns how many of them may be processed once [`Feed::ready`] says so.
    fn prepare(&mut self, upcoming: &[T]) -> usize;

    /// True when everything that was announced is there.
    ///
    /// # Errors
    /// The task fails.
    fn ready(&mut self) -> Result<bool, Failure>;

    /// Processes all records of a slice, in order, until it is blocked.
    ///
    /// # Errors
    /// The task fails.
    fn process(&mut self, slice: &mut Slice<'_, T>) -> Result<Flow, Failure>;
}

/// All input channels of type `T`. Its channels have the gate's indices from `first_index` on.
pub struct Inputs<T> {
    channels: Vec<Input<T>>,
    captured: Vec<Captured>,
    first_index: usize,
    /// The channel to read next: channels take turns, batch by batch.
    turn: usize,
    slice_records: usize,
    /// How many of the records that come next are announced and may be processed once they are `ready`.
    prepared: usize,
    ready: bool,
    /// Some channel may still hold restored batches.
    restoring: bool,
    /// Records consumed since the task began.
    records: u64,
}

impl<T: Data> Inputs<T> {
    /// Inputs over `channels`, with the gate's indices from `first_index` on.
    pub fn new(channels: Vec<Input<T>>, first_index: usize) -> Self {
        let captured = channels.iter().map(|_| Captured::default()).collect();
        Inputs {
            channels,
            captured,
            first_index,
            turn: 0,
            slice_records: SLICE_RECORDS,
            prepared: 0,
            ready: false,
            restoring: true,
            records: 0,
        }
    }

    /// Number of channels.
    pub fn count(&self) -> usize {
        self.channels.len()
    }

    /// Records consumed since the task began.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Looks for data and announcements on every channel.
    pub fn look(&mut self, gate: &mut Gate) {
        for (index, input) in self.channels.iter_mut().enumerate() {
            let channel = self.first_index + index;
            input.receiver.look(|announcement| gate.announce(channel, announcement));
        }
    }

    /// Forgets what is announced: the chain has been told of other records since, or its state has moved on.
    pub fn forget_prepared(&mut self) {
        self.prepared = 0;
    }

    /// Processes records until `budget` is used, nothing is readable, the next record waits for its state, or `chain` is
    /// blocked.
    ///
    /// `now` reads the clock: slices adapt to the time that records take, so that barriers need not wait for a slow
    /// operator's whole batch.
    pub fn run(
        &mut self,
        gate: &mut Gate,
        budget: Budget,
        now: &dyn Fn() -> u64,
        chain: &mut impl Feed<T>,
    ) -> Result<Ran, Failure> {
        let start = now();
        let mut slice_start = start;
        let mut left = budget.records;
        let mut idle_turns = 0;
        while idle_turns < self.channels.len() {
            let index = self.turn;
            let channel = self.first_index + index;
            let receiver = &mut self.channels[index].receiver;
            if receiver.current().is_empty() {
                receiver.give_back();
                if receiver.taken() >= receiver.visible().min(gate.limit(channel))
                    || self.restoring && !self.is_next(index)
                {
                    self.turn = if index + 1 == self.channels.len() { 0 } else { index + 1 };
                    idle_turns += 1;
                    continue;
                }
                self.capture_next(gate, index);
                self.channels[index].receiver.take();
            }
            idle_turns = 0;
            let receiver = &mut self.channels[index].receiver;
            if self.prepared == 0 {
                self.prepared = chain.prepare(receiver.current().rest());
                self.ready = chain.ready()?;
            } else if !self.ready {
                self.ready = chain.ready()?;
                // What is being measured is the time that records take.
                slice_start = now();
            }
            if !self.ready {
                return Ok(Ran::Waiting);
            }
            let count = self.prepared.min(self.slice_records);
            let mut slice = Slice { cursor: receiver.current(), left: count };
            let flow = chain.process(&mut slice)?;
            let done = count - slice.left;
            self.prepared -= done;
            self.records += done as u64;
            left = left.saturating_sub(done);
            if receiver.current().is_empty() {
                receiver.give_back();
                gate.consumed(channel, receiver.consumed());
                self.turn = if index + 1 == self.channels.len() { 0 } else { index + 1 };
            }
            if flow == Flow::Blocked {
                return Ok(Ran::Blocked);
            }
            let time = now();
            self.adapt(time.saturating_sub(slice_start), count);
            slice_start = time;
            // A slow operator comes back after about one slice's time, so that barriers are seen in time.
            let nanos = if self.slice_records < SLICE_RECORDS { SLICE_NANOS } else { u64::MAX };
            if left == 0 || time.saturating_sub(start) >= budget.nanos.min(nanos) {
                return Ok(Ran::Busy);
            }
        }
        Ok(Ran::Idle)
    }

    /// True unless other channels hold restored batches that come before the next batch of this one.
    ///
    /// No barrier holds a restored batch back, as cuts lie behind all of them: so what is next on some channel can be read.
    #[cold]
    fn is_next(&mut self, index: usize) -> bool {
        let generations = self.channels.iter().filter_map(|input| input.receiver.restored_generation());
        let Some(lowest) = generations.min() else {
            self.restoring = false;
            return true;
        };
        self.channels[index].receiver.restored_generation() == Some(lowest)
    }

    /// Halves slices that take long, doubles those that do not.
    fn adapt(&mut self, nanos: u64, count: usize) {
        if nanos > SLICE_NANOS {
            self.slice_records = (count / 2).max(1);
        } else if self.slice_records < SLICE_RECORDS {
            // A batch may hold fewer records than a slice may: what counts is the time that a full slice would take.
            let full_slice_nanos = nanos * self.slice_records as u64 / count as u64;
            if full_slice_nanos < SLICE_NANOS / 4 {
                self.slice_records = (self.slice_records * 2).min(SLICE_RECORDS);
            }
        }
    }

    /// Captures the next batch of a channel if an open capture has not passed it.
    fn capture_next(&mut self, gate: &mut Gate, index: usize) {
        let channel = self.first_index + index;
        if let Some(capture) = gate.capture(channel) {
            let position = self.channels[index].receiver.consumed();
            if capture.next <= position && capture.bound.is_none_or(|bound| position < bound) {
                self.capture_batch(capture.checkpoint, index, position);
                gate.captured(channel, position + 1);
            }
        }
    }

    fn capture_batch(&mut self, checkpoint: CheckpointId, index: usize, position: u64) -> usize {
        let captured = &mut self.captured[index];
        if captured.checkpoint != checkpoint {
            *captured = Captured { checkpoint, ..Captured::default() };
        }
        let receiver = &mut self.channels[index].receiver;
        let generation = receiver.generation(position);
        if captured.parts.last().is_none_or(|part| part.generation != generation) {
            captured.parts.push(CapturedPart { generation, ..CapturedPart::default() });
        }
        let part = captured.parts.last_mut().expect("there is one by now");
        receiver.peek(position, |batch| {
            part.records += batch.len() as u64;
            batch.iter().for_each(|record| record.encode(&mut part.bytes));
            batch.len()
        })
    }

    /// Right after a snapshot: captures what is left of the batches that are half processed. Their records are
    /// announced anew afterwards, as the snapshot may have moved the state that they need.
    pub fn capture_current(&mut self, gate: &mut Gate) {
        self.forget_prepared();
        for index in 0..self.channels.len() {
            if !self.channels[index].receiver.current().is_empty() {
                if broken!(PartialBatchLeftOut) {
                    let position = self.channels[index].receiver.consumed();
                    gate.captured(self.first_index + index, position + 1);
                }
                self.capture_next(gate, index);
            }
        }
    }

    /// Captures up to about `records` records below known cuts; returns how many it captured.
    pub fn capture_slice(&mut self, gate: &mut Gate, records: usize) -> usize {
        let mut done = 0;
        for index in 0..self.channels.len() {
            let channel = self.first_index + index;
            while let Some(capture) = gate.capture(channel) {
                let Some(bound) = capture.bound else { break };
                if capture.next >= bound || done >= records {
                    break;
                }
                done += self.capture_batch(capture.checkpoint, index, capture.next).max(1);
                gate.captured(channel, capture.next + 1);
            }
        }
        done
    }

    /// Takes what was captured for `checkpoint`.
    pub fn take_captured(&mut self, checkpoint: CheckpointId, into: &mut Vec<CapturedChannel>) {
        for (input, captured) in self.channels.iter().zip(&mut self.captured) {
            if captured.checkpoint != checkpoint {
                continue;
            }
            let parts = std::mem::take(&mut captured.parts);
            for CapturedPart { generation, records, bytes } in parts {
                if records > 0 {
                    let (edge, producer) = (Arc::clone(&input.edge), input.producer);
                    into.push(CapturedChannel { edge, producer, generation, records, bytes });
                }
            }
        }
    }
}

/// A few records that were prepared together and are processed next.
pub struct Slice<'a, T> {
    cursor: &'a mut crate::ring::Cursor<T>,
    left: usize,
}

impl<T> Slice<'_, T> {
    /// Moves the next record out.
    #[inline(always)]
    pub fn take(&mut self) -> Option<T> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.cursor.take()
    }
}

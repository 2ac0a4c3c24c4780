//! The operators of the jobs: one that fails on schedule, one that joins two streams, one that has last words, and
//! checks on the way.

use super::control::Control;
use super::record::{Tag, decode, encode};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg::CheckpointId;
use thalweg::connector::BoxError;
use thalweg::operator::Collector;
use thalweg::operators::{CoProcessFunction, ProcessFunction, RuntimeContext};

/// Passes a record on, and notes it if it is damaged.
pub fn checked(control: &Control, at: &str, record: u64) -> u64 {
    if decode(record).is_none() {
        control.violated(format!("{at}: damaged record {record:#018x}"));
    }
    record
}

/// The split of a record.
pub fn split_of(record: u64, splits: u64) -> u64 {
    decode(record).map_or(0, |(_, value)| value % splits)
}

/// Passes records on and fails on schedule, in its first subtask.
///
/// Its counter of completed checkpoints is operator state: it rolls back with a restore.
#[derive(Clone)]
pub struct FailingMap {
    control: Arc<Control>,
    subtask: u32,
    run: u64,
    completed: u64,
}

impl FailingMap {
    /// For the job of `control`.
    pub fn new(control: &Arc<Control>) -> Self {
        FailingMap { control: Arc::clone(control), subtask: 0, run: 0, completed: 0 }
    }

    fn fails(&self, run: u64, completed: u64) -> bool {
        self.control.is_scheduled() && self.subtask == 0 && self.run == run && self.completed >= completed
    }
}

impl ProcessFunction<u64> for FailingMap {
    type Out = u64;
    type State = u64;

    fn open(&mut self, context: &RuntimeContext, restored: Vec<u64>) -> Result<(), BoxError> {
        self.subtask = context.subtask;
        self.run = context.attempt.0 - 1;
        self.completed = restored.iter().sum();
        if self.fails(3, 0) {
            return Err(self.control.fail(3, "while restoring"));
        }
        if self.subtask == 0 {
            self.control.begin_run(self.completed);
        }
        Ok(())
    }

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        for (run, completed) in [(0, 2), (2, 7)] {
            if self.fails(run, completed) {
                return Err(self.control.fail(run, "while processing"));
            }
        }
        out.collect(checked(&self.control, "failing map", record));
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<u64>, BoxError> {
        if self.fails(1, 5) {
            return Err(self.control.fail(1, "while taking a snapshot"));
        }
        Ok(vec![self.completed])
    }

    fn checkpoint_complete(&mut self, _: CheckpointId) -> Result<(), BoxError> {
        self.completed += 1;
        if self.subtask == 0 {
            self.control.checkpoint_completed(self.completed);
        }
        Ok(())
    }

    fn close(&mut self, _: &mut Collector<u64>) -> Result<(), BoxError> {
        if self.fails(4, 0) {
            return Err(self.control.fail(4, "while closing"));
        }
        Ok(())
    }
}

/// Emits each value once both inputs have brought it.
#[derive(Clone)]
pub struct MinEmit {
    control: Arc<Control>,
    /// The last value of each input, by split.
    last: BTreeMap<u64, (Option<u64>, Option<u64>)>,
}

impl MinEmit {
    /// For the job of `control`.
    pub fn new(control: &Arc<Control>) -> Self {
        MinEmit { control: Arc::clone(control), last: BTreeMap::new() }
    }

    fn value(&self, record: u64) -> (u64, u64) {
        let record = checked(&self.control, "min", record);
        let value = decode(record).map_or(0, |(_, value)| value);
        (value % self.control.splits, value)
    }
}

impl CoProcessFunction<u64, u64> for MinEmit {
    type Out = u64;
    type State = (u64, (Option<u64>, Option<u64>));

    fn open(&mut self, _: &RuntimeContext, restored: Vec<Self::State>) -> Result<(), BoxError> {
        self.last = restored.into_iter().collect();
        Ok(())
    }

    fn process_first(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        let (split, value) = self.value(record);
        let (first, second) = self.last.entry(split).or_default();
        *first = Some(value);
        if *second >= Some(value) {
            out.collect(encode(0, value));
        }
        Ok(())
    }

    fn process_second(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        let (split, value) = self.value(record);
        let (first, second) = self.last.entry(split).or_default();
        *second = Some(value);
        if *first >= Some(value) {
            out.collect(encode(0, value));
        }
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<Self::State>, BoxError> {
        Ok(self.last.iter().map(|(split, last)| (*split, *last)).collect())
    }
}

/// Values that [`Farewell`] adds to each split.
pub const FAREWELL_VALUES: u64 = 40;

/// Passes records on, and when its input has ended continues each split it has seen by [`FAREWELL_VALUES`] values: more
/// than the rings hold, so that barriers come in between.
#[derive(Clone)]
pub struct Farewell {
    control: Arc<Control>,
    /// The last value by source and split.
    last: BTreeMap<(Tag, u64), u64>,
}

impl Farewell {
    /// For the job of `control`.
    pub fn new(control: &Arc<Control>) -> Self {
        Farewell { control: Arc::clone(control), last: BTreeMap::new() }
    }
}

impl ProcessFunction<u64> for Farewell {
    type Out = u64;
    type State = ((Tag, u64), u64);

    fn open(&mut self, _: &RuntimeContext, restored: Vec<Self::State>) -> Result<(), BoxError> {
        self.last = restored.into_iter().collect();
        Ok(())
    }

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        let (tag, value) = decode(checked(&self.control, "farewell", record)).unwrap_or_default();
        self.last.insert((tag, value % self.control.splits), value);
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<Self::State>, BoxError> {
        Ok(self.last.iter().map(|(split, last)| (*split, *last)).collect())
    }

    fn close(&mut self, out: &mut Collector<u64>) -> Result<(), BoxError> {
        for n in 1..=FAREWELL_VALUES {
            for ((tag, _), last) in &self.last {
                out.collect(encode(*tag, last + n * self.control.splits));
            }
        }
        Ok(())
    }
}

/// Keeps, of records that every subtask gets, those of the subtask's own splits.
#[derive(Clone)]
pub struct OwnShare {
    control: Arc<Control>,
    subtask: u64,
    parallelism: u64,
}

impl OwnShare {
    /// For the job of `control`.
    pub fn new(control: &Arc<Control>) -> Self {
        OwnShare { control: Arc::clone(control), subtask: 0, parallelism: 1 }
    }
}

impl ProcessFunction<u64> for OwnShare {
    type Out = u64;
    type State = ();

    fn open(&mut self, context: &RuntimeContext, _: Vec<()>) -> Result<(), BoxError> {
        (self.subtask, self.parallelism) = (u64::from(context.subtask), u64::from(context.parallelism));
        Ok(())
    }

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        let split = split_of(checked(&self.control, "share of a broadcast", record), self.control.splits);
        if split % self.parallelism == self.subtask {
            out.collect(record);
        }
        Ok(())
    }
}

//! The operators of the jobs: one that fails when told to, and ones that notice every record that is missing, doubled or
//! out of order.

use super::numbered::{Numbered, checked};
use super::script::Script;
use crate::conformance::record::{Tag, decode, encode};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use thalweg::connector::BoxError;
use thalweg::operator::Collector;
use thalweg::operators::{CoProcessFunction, ProcessFunction, RuntimeContext};
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg_storage::manifest::OperatorStateMode;
use thalweg_storage::{Data, KeyGroups};

/// Passes records on and fails when the script says so.
pub struct FailingMap<R> {
    script: Arc<Script>,
    record: PhantomData<fn(R)>,
}

impl<R> FailingMap<R> {
    /// For the job of `script`.
    pub fn new(script: &Arc<Script>) -> Self {
        FailingMap { script: Arc::clone(script), record: PhantomData }
    }
}

impl<R> Clone for FailingMap<R> {
    fn clone(&self) -> Self {
        FailingMap::new(&self.script)
    }
}

impl<R: Numbered> ProcessFunction<R> for FailingMap<R> {
    type Out = R;
    type State = ();

    fn process(&mut self, record: R, out: &mut Collector<R>) -> Result<(), BoxError> {
        if self.script.fails_now() {
            return Err("scheduled failure".into());
        }
        out.collect(checked(&self.script, "failing map", record));
        Ok(())
    }
}

/// Last value of a key, and the group of the key.
pub type KeyState = (u64, u32);

/// The state of [`keyed_identity`].
pub fn key_state() -> ValueStateDescriptor<KeyState> {
    ValueStateDescriptor::new("last")
}

/// A keyed operator that passes records on. Each split is a key: its values come in order without a gap, and its group never
/// changes.
pub fn keyed_identity<R: Numbered>(
    script: &Arc<Script>,
) -> impl FnMut(&u64, R, ValueState<'_, u64, KeyState>, &mut Collector<R>) -> Result<(), BoxError>
+ Clone
+ Send
+ 'static {
    let script = Arc::clone(script);
    let groups = KeyGroups::new(thalweg_storage::key_group::MAX_PARALLELISM_DEFAULT);
    move |split, record, mut last, out| {
        let (_, value) = decode(record.word()).unwrap_or_default();
        let group = u32::from(groups.group_of(split.key_hash()));
        let (expected, known) =
            last.value().map_or((*split, group), |(last, group)| (last + script.splits, group));
        if (value, group) != (expected, known) {
            script.violated(format!(
                "keyed identity: split {split} of group {group} brings {value} instead of {expected} of group {known}"
            ));
        }
        last.update((value, group));
        out.collect(record);
        Ok(())
    }
}

/// Last values of a split on two inputs.
pub type Pair = (Option<u64>, Option<u64>);

/// Takes a value of one input; gives it back once the other has brought it too.
pub fn meet(pair: &mut ValueState<'_, u64, Pair>, record: u64, first: bool) -> Option<u64> {
    let (_, value) = decode(record).unwrap_or_default();
    let mut last: Pair = pair.value().unwrap_or_default();
    *if first { &mut last.0 } else { &mut last.1 } = Some(value);
    pair.update(last);
    let other = if first { last.1 } else { last.0 };
    (other >= Some(value)).then(|| encode(0, value))
}

/// What a broadcast stream has brought last, by split. Every subtask must have seen the same.
type Seen = BTreeMap<u64, u64>;

/// The same in every subtask, so each copy stands for all of them.
#[derive(Clone)]
struct Broadcast {
    script: Arc<Script>,
    subtask: u64,
    parallelism: u64,
    seen: Seen,
}

impl Broadcast {
    fn new(script: &Arc<Script>) -> Self {
        Broadcast { script: Arc::clone(script), subtask: 0, parallelism: 1, seen: Seen::new() }
    }

    fn open(&mut self, context: &RuntimeContext, restored: Vec<(u64, u64)>) {
        (self.subtask, self.parallelism) = (u64::from(context.subtask), u64::from(context.parallelism));
        if restored.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
            self.script
                .violated(format!("subtask {} got more than one copy of broadcast state", context.subtask));
        }
        self.seen = restored.into_iter().collect();
    }

    /// Takes a record; gives back those of this subtask's share.
    fn take(&mut self, record: u64) -> Option<u64> {
        let (_, value) = decode(checked(&self.script, "broadcast", record)).unwrap_or_default();
        let splits = self.script.splits;
        let split = value % splits;
        let expected = self.seen.insert(split, value).map_or(split, |last| last + splits);
        if value != expected {
            self.script.violated(format!(
                "subtask {} of a broadcast: split {split} brings {value} instead of {expected}",
                self.subtask
            ));
        }
        (split % self.parallelism == self.subtask).then_some(record)
    }

    fn state(&self) -> Vec<(u64, u64)> {
        self.seen.iter().map(|(split, last)| (*split, *last)).collect()
    }
}

/// Keeps, of records that every subtask gets, those of the subtask's share; each subtask sees each record once.
#[derive(Clone)]
pub struct OwnShare(Broadcast);

impl OwnShare {
    /// For the job of `script`.
    pub fn new(script: &Arc<Script>) -> Self {
        OwnShare(Broadcast::new(script))
    }
}

impl ProcessFunction<u64> for OwnShare {
    type Out = u64;
    type State = (u64, u64);
    const STATE_MODE: OperatorStateMode = OperatorStateMode::Broadcast;

    fn open(&mut self, context: &RuntimeContext, restored: Vec<Self::State>) -> Result<(), BoxError> {
        self.0.open(context, restored);
        Ok(())
    }

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        self.0.take(record).into_iter().for_each(|record| out.collect(record));
        Ok(())
    }

    fn snapshot(&mut self, _: thalweg::CheckpointId) -> Result<Vec<Self::State>, BoxError> {
        Ok(self.0.state())
    }
}

/// Joins a stream with a broadcast one: passes the former on, and of the latter the subtask's share.
#[derive(Clone)]
pub struct Join(Broadcast);

impl Join {
    /// For the job of `script`.
    pub fn new(script: &Arc<Script>) -> Self {
        Join(Broadcast::new(script))
    }
}

impl CoProcessFunction<u64, u64> for Join {
    type Out = u64;
    type State = (u64, u64);
    const STATE_MODE: OperatorStateMode = OperatorStateMode::Broadcast;

    fn open(&mut self, context: &RuntimeContext, restored: Vec<Self::State>) -> Result<(), BoxError> {
        self.0.open(context, restored);
        Ok(())
    }

    fn process_first(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        out.collect(checked(&self.0.script, "join", record));
        Ok(())
    }

    fn process_second(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        self.0.take(record).into_iter().for_each(|record| out.collect(record));
        Ok(())
    }

    fn snapshot(&mut self, _: thalweg::CheckpointId) -> Result<Vec<Self::State>, BoxError> {
        Ok(self.0.state())
    }
}

/// Tag of the counts that [`Count`] emits.
pub const COUNT_TAG: Tag = 2;

/// Passes records on, and when its input has ended emits how many it was: the counts of all subtasks add up to all records,
/// unless a subtask has its last words twice, or never.
#[derive(Clone)]
pub struct Count {
    script: Arc<Script>,
    count: u64,
}

impl Count {
    /// For the job of `script`.
    pub fn new(script: &Arc<Script>) -> Self {
        Count { script: Arc::clone(script), count: 0 }
    }
}

impl ProcessFunction<u64> for Count {
    type Out = u64;
    type State = u64;

    fn open(&mut self, _: &RuntimeContext, restored: Vec<u64>) -> Result<(), BoxError> {
        self.count = restored.into_iter().sum();
        Ok(())
    }

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        self.count += 1;
        out.collect(checked(&self.script, "count", record));
        Ok(())
    }

    fn snapshot(&mut self, _: thalweg::CheckpointId) -> Result<Vec<u64>, BoxError> {
        Ok(vec![self.count])
    }

    fn close(&mut self, out: &mut Collector<u64>) -> Result<(), BoxError> {
        out.collect(encode(COUNT_TAG, self.count));
        Ok(())
    }
}

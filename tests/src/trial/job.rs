//! The dataflow of a trial: numbers → `head` ⇄ `middle` ⇄ `count` by key → `tail` → sink, exactly once.
//!
//! Always true: a key's counts come in order, one for each record; each subtask of `middle` emits one record more when its
//! input ends.

use super::script::{News, Script, When};
use std::marker::PhantomData;
use std::time::Duration;
use thalweg::clock::Nanos;
use thalweg::connector::{
    BoxError, ConnectorContext, MemorySink, Source, SourceOutput, SourceReader, SourceStatus,
};
use thalweg::operator::Collector;
use thalweg::operators::{ProcessFunction, RuntimeContext};
use thalweg::{CheckpointId, Data, Dataflow};
use thalweg_storage::AttemptId;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::OperatorStateMode;

/// Number of keys that records have.
pub const KEYS: u64 = 128;

/// Time between two records of a source's subtask.
const PACE: Duration = Duration::from_micros(200);

/// The job's dataflow.
pub fn numbers_job(script: &Script, sink: &MemorySink<(u64, u64)>) -> Dataflow {
    flow(script, sink, Watcher::<u64, false>::new("head", script))
}

/// The same with union state in `head`.
pub fn union_job(script: &Script, sink: &MemorySink<(u64, u64)>) -> Dataflow {
    flow(script, sink, Watcher::<u64, true>::new("head", script))
}

fn flow<H>(script: &Script, sink: &MemorySink<(u64, u64)>, head: H) -> Dataflow
where
    H: ProcessFunction<u64, Out = u64>,
{
    let flow = Dataflow::new("trial");
    flow.source("numbers", Numbers { script: script.clone() })
        .process("head", head)
        .rebalance()
        .process("middle", Watcher::<u64, false>::new("middle", script))
        .key_by(|n: &u64| n % KEYS)
        .count("count")
        .process("tail", Watcher::<(u64, u64), false>::new("tail", script))
        .sink("sink", sink.clone());
    flow
}

/// Emits numbers until told to end. It has a split for each subtask.
#[derive(Clone)]
struct Numbers {
    script: Script,
}

impl Source for Numbers {
    type Record = u64;
    /// Index of the split, number of splits, and number of records so far.
    type Split = (u32, u32, u64);
    type Reader = NumbersReader;

    fn splits(&self, _: &DiskHandle, parallelism: u32) -> Result<Vec<Self::Split>, BoxError> {
        Ok((0..parallelism).map(|split| (split, parallelism, 0)).collect())
    }

    fn reader(&self, context: ConnectorContext, splits: Vec<Self::Split>) -> Result<NumbersReader, BoxError> {
        Ok(NumbersReader {
            script: self.script.clone(),
            attempt: context.attempt,
            subtask: context.subtask,
            splits,
            next_at: Nanos(0),
        })
    }
}

struct NumbersReader {
    script: Script,
    attempt: AttemptId,
    subtask: u32,
    splits: Vec<(u32, u32, u64)>,
    next_at: Nanos,
}

impl NumbersReader {
    fn hears(&self, news: News) {
        self.script.hears(self.attempt, "numbers", self.subtask, news);
    }
}

impl SourceReader for NumbersReader {
    type Record = u64;
    type Split = (u32, u32, u64);

    fn poll<O: SourceOutput<u64>>(
        &mut self,
        now: Nanos,
        _: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        self.splits.retain(|(split, _, count)| {
            let ends = self.script.is_told_to_end(*split);
            if ends {
                self.script.emitted(*split, *count);
            }
            !ends
        });
        if self.splits.is_empty() {
            return Ok(SourceStatus::End);
        }
        if now < self.next_at {
            return Ok(SourceStatus::Idle(Some(self.next_at)));
        }
        self.next_at = now.after(PACE);
        for (split, splits, count) in &mut self.splits {
            let number = *count * u64::from(*splits) + u64::from(*split);
            *count += 1;
            output.emit(number);
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) -> Vec<Self::Split> {
        self.hears(News::Snapshot(checkpoint));
        for (split, _, count) in &self.splits {
            // Where the job stops with this checkpoint, it has emitted so many.
            self.script.emitted(*split, *count);
        }
        self.splits.clone()
    }

    fn checkpoint_complete(&mut self, checkpoint: CheckpointId) {
        self.hears(News::Completed(checkpoint));
    }

    fn checkpoint_aborted(&mut self, checkpoint: CheckpointId, latest_completed: Option<CheckpointId>) {
        self.hears(News::Aborted(checkpoint, latest_completed));
    }
}

/// Passes records on and tells the script what it hears. Its state is the number of records that it has seen, as a union list if
/// `UNION`.
struct Watcher<T, const UNION: bool> {
    uid: &'static str,
    script: Script,
    attempt: AttemptId,
    subtask: u32,
    seen: u64,
    records: PhantomData<fn(T)>,
}

impl<T, const UNION: bool> Watcher<T, UNION> {
    fn new(uid: &'static str, script: &Script) -> Self {
        let (attempt, script) = (AttemptId(0), script.clone());
        Watcher { uid, script, attempt, subtask: 0, seen: 0, records: PhantomData }
    }

    fn hears(&self, news: News) {
        self.script.hears(self.attempt, self.uid, self.subtask, news);
    }
}

impl<T, const UNION: bool> Clone for Watcher<T, UNION> {
    fn clone(&self) -> Self {
        Watcher {
            uid: self.uid,
            script: self.script.clone(),
            attempt: self.attempt,
            subtask: self.subtask,
            seen: self.seen,
            records: PhantomData,
        }
    }
}

/// A record that there may be one more of.
trait Farewell: Data {
    fn farewell(subtask: u32) -> Option<Self>;
}

impl Farewell for u64 {
    fn farewell(subtask: u32) -> Option<u64> {
        Some(u64::from(subtask))
    }
}

impl Farewell for (u64, u64) {
    fn farewell(_: u32) -> Option<(u64, u64)> {
        None
    }
}

impl<T: Farewell, const UNION: bool> ProcessFunction<T> for Watcher<T, UNION> {
    type Out = T;
    type State = u64;
    const STATE_MODE: OperatorStateMode =
        if UNION { OperatorStateMode::Union } else { OperatorStateMode::Split };

    fn open(&mut self, context: &RuntimeContext, restored: Vec<u64>) -> Result<(), BoxError> {
        (self.attempt, self.subtask) = (context.attempt, context.subtask);
        self.seen = restored.iter().sum();
        self.hears(News::Opened(context.restored_from));
        Ok(())
    }

    fn process(&mut self, record: T, out: &mut Collector<T>) -> Result<(), BoxError> {
        self.script.step_on(self.uid, When::Processing)?;
        self.seen += 1;
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) -> Result<Vec<u64>, BoxError> {
        self.script.step_on(self.uid, When::Snapshot)?;
        self.hears(News::Snapshot(checkpoint));
        Ok(vec![self.seen])
    }

    fn checkpoint_complete(&mut self, checkpoint: CheckpointId) -> Result<(), BoxError> {
        self.hears(News::Completed(checkpoint));
        self.script.step_on(self.uid, When::Completed)
    }

    fn checkpoint_aborted(
        &mut self,
        checkpoint: CheckpointId,
        latest_completed: Option<CheckpointId>,
    ) -> Result<(), BoxError> {
        self.hears(News::Aborted(checkpoint, latest_completed));
        Ok(())
    }

    fn close(&mut self, out: &mut Collector<T>) -> Result<(), BoxError> {
        self.hears(News::Closed);
        if self.uid == "middle"
            && let Some(record) = T::farewell(self.subtask)
        {
            self.script.said_farewell(self.subtask);
            out.collect(record);
        }
        Ok(())
    }
}

//! The head of a task that reads a source: feeds what the reader emits straight into the chain, at a limited rate if
//! one is set, and deals with input that could not be parsed.
//!
//! Always true: a record that the reader has emitted is in the chain; after [`SourceOutput::emit`] has returned false, or
//! once the task has failed, nothing more is processed until the next run.

use super::Budget;
use super::body::{Body, BodyRun};
use super::inputs::{CapturedChannel, Ran};
use crate::barrier::Gate;
use crate::clock::Nanos;
use crate::connector::{MalformedPolicy, MalformedRecord, SourceOutput, SourceReader, SourceStatus};
use crate::operator::{
    ChainSnapshot, Failure, Flow, OperatorSnapshot, Output, OutputPort, Site, Stage, StageControl,
};
use std::time::Duration;
use thalweg_storage::manifest::{OperatorStateMode, StateBlob};
use thalweg_storage::{CheckpointId, Data};

/// A task that reads a source.
pub struct SourceBody<R: SourceReader, S> {
    site: Site,
    reader: R,
    malformed: MalformedPolicy,
    dead_letters: Option<Output<MalformedRecord>>,
    rate: Option<Rate>,
    stage: S,
    records: u64,
    skipped: u64,
    /// It was restored as one that had ended, with or without having read everything.
    stays_ended: bool,
}

impl<R: SourceReader, S: Stage<R::Record>> SourceBody<R, S> {
    /// Reads with `reader` into `stage`, at most `records_per_second` records per second if that is given.
    pub fn new(
        site: Site,
        reader: R,
        malformed: MalformedPolicy,
        dead_letters: Option<Output<MalformedRecord>>,
        records_per_second: Option<f64>,
        stage: S,
    ) -> Self {
        let rate = records_per_second.map(Rate::new);
        SourceBody {
            site,
            reader,
            malformed,
            dead_letters,
            rate,
            stage,
            records: 0,
            skipped: 0,
            stays_ended: false,
        }
    }

    /// Reads nothing: the chain has been closed before, and takes no more records.
    pub fn stay_ended(&mut self) {
        self.stays_ended = true;
    }
}

/// Name under which a source's splits are stored.
pub const SPLITS_STATE: &str = "splits";

impl<R: SourceReader, S: Stage<R::Record>> Body for SourceBody<R, S> {
    fn stage(&mut self) -> &mut dyn StageControl {
        self
    }

    fn look(&mut self, _: &mut Gate) {}

    fn has_inputs(&self) -> bool {
        false
    }

    fn run(
        &mut self,
        _: &mut Gate,
        now: Nanos,
        budget: Budget,
        _: &dyn Fn() -> u64,
    ) -> Result<BodyRun, Failure> {
        if self.stays_ended {
            return Ok(BodyRun { ran: Ran::Idle, wake_at: None, ended: true });
        }
        let allowed = match &mut self.rate {
            Some(rate) => rate.allowed(now).min(budget.records),
            None => budget.records,
        };
        if allowed == 0 {
            let wake_at = self.rate.as_ref().map(|rate| rate.next(now));
            return Ok(BodyRun { ran: Ran::Idle, wake_at, ended: false });
        }
        let mut feed = Feed {
            stage: &mut self.stage,
            dead_letters: self.dead_letters.as_mut(),
            site: &self.site,
            malformed: self.malformed,
            flow: Flow::Continue,
            failure: None,
            stopped: false,
            left: allowed,
            emitted: 0,
            malformed_records: 0,
            skipped: 0,
        };
        let status = self.site.blame(|| self.reader.poll(now, allowed, &mut feed));
        let (flow, failure, emitted) = (feed.flow, feed.failure.take(), feed.emitted);
        let used = emitted + feed.malformed_records;
        self.skipped += feed.skipped;
        self.records += emitted as u64;
        if let Some(rate) = &mut self.rate {
            rate.spend(used);
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        let (ran, wake_at, ended) = match status.map_err(|e| self.site.user_failure(e))? {
            SourceStatus::More => (Ran::Busy, None, false),
            SourceStatus::Idle(wake_at) => (Ran::Idle, wake_at, false),
            SourceStatus::End => (Ran::Idle, None, true),
        };
        let ran = if flow == Flow::Blocked { Ran::Blocked } else { ran };
        Ok(BodyRun { ran, wake_at, ended })
    }

    fn snapshot(&mut self, snapshot: &mut ChainSnapshot) -> Result<(), Failure> {
        let mut own = OperatorSnapshot::of(&self.site.uid);
        own.operator_state = self
            .site
            .blame(|| self.reader.snapshot(snapshot.checkpoint))
            .iter()
            .map(|split| {
                let mut bytes = Vec::new();
                split.encode(&mut bytes);
                StateBlob {
                    name: SPLITS_STATE.to_owned(),
                    mode: OperatorStateMode::Split,
                    schema: R::Split::schema(),
                    bytes,
                }
            })
            .collect();
        snapshot.operators.push(own);
        self.stage.snapshot(snapshot)
    }

    fn capture_current(&mut self, _: &mut Gate) {}

    fn capture_slice(&mut self, _: &mut Gate, _: usize) -> usize {
        0
    }

    fn take_captured(&mut self, _: CheckpointId) -> Vec<CapturedChannel> {
        Vec::new()
    }

    fn checkpoint_complete(&mut self, checkpoint: CheckpointId) {
        self.reader.checkpoint_complete(checkpoint);
    }

    fn checkpoint_aborted(&mut self, checkpoint: CheckpointId, latest_completed: Option<CheckpointId>) {
        self.reader.checkpoint_aborted(checkpoint, latest_completed);
    }

    fn records_in(&self) -> u64 {
        self.records
    }

    fn read_progress(&self) -> Option<(u64, u64)> {
        self.reader.read_progress()
    }

    fn records_skipped(&self) -> u64 {
        self.skipped
    }
}

impl<R: SourceReader, S: Stage<R::Record>> StageControl for SourceBody<R, S> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        Some(&mut self.stage)
    }

    fn resume(&mut self) -> Result<Flow, Failure> {
        if self.dead_letters.as_ref().is_some_and(|output| output.is_blocked()) {
            return Ok(Flow::Blocked);
        }
        self.stage.resume()
    }

    fn outputs(&mut self, visit: &mut dyn FnMut(&mut dyn OutputPort)) {
        if let Some(output) = &mut self.dead_letters {
            visit(output);
        }
        self.stage.outputs(visit);
    }
}

/// Takes what a reader emits, straight into the chain.
struct Feed<'a, S> {
    stage: &'a mut S,
    dead_letters: Option<&'a mut Output<MalformedRecord>>,
    site: &'a Site,
    malformed: MalformedPolicy,
    flow: Flow,
    failure: Option<Failure>,
    /// Something is half done or has failed: the reader has been told to stop.
    stopped: bool,
    /// How many more the reader is asked for; malformed input counts too, so that a poll stays bounded.
    left: usize,
    emitted: usize,
    malformed_records: usize,
    skipped: u64,
}

impl<S> Feed<'_, S> {
    #[inline(always)]
    fn after(&mut self, flow: Result<Flow, Failure>) -> bool {
        match flow {
            Ok(Flow::Continue) => self.left > 0,
            Ok(Flow::Blocked) => {
                self.flow = Flow::Blocked;
                self.stopped = true;
                false
            }
            Err(failure) => {
                self.failure = Some(failure);
                self.stopped = true;
                false
            }
        }
    }
}

impl<S: StageControl> Feed<'_, S> {
    /// The reader emits on although it was told not to: finishes what is half done, so that nothing is lost. False
    /// after a failure, when records do not matter any more.
    #[cold]
    fn may_go_on(&mut self) -> bool {
        if self.failure.is_none() {
            self.failure = self.stage.finish_record().err();
        }
        self.failure.is_none()
    }
}

impl<T, S: Stage<T>> SourceOutput<T> for Feed<'_, S> {
    #[inline(always)]
    fn emit(&mut self, record: T) -> bool {
        if self.stopped && !self.may_go_on() {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.emitted += 1;
        let flow = self.stage.process(record);
        // What was blocked before still is.
        self.after(flow) && !self.stopped
    }

    fn malformed(&mut self, record: MalformedRecord) -> bool {
        if self.failure.is_some() {
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.malformed_records += 1;
        match (self.malformed, &mut self.dead_letters) {
            (MalformedPolicy::Divert, Some(output)) => {
                let flow = output.push(record);
                self.after(Ok(flow))
            }
            (MalformedPolicy::Fail, _) => {
                self.failure = Some(self.site.failure(format!(
                    "malformed record at offset {} of {}: {}; mend the input, or choose to skip or divert such records",
                    record.offset, record.origin, record.error
                )));
                self.stopped = true;
                false
            }
            (MalformedPolicy::Skip | MalformedPolicy::Divert, _) => {
                self.skipped += 1;
                self.left > 0 && !self.stopped
            }
        }
    }
}

/// A token bucket that holds at most 10 ms worth of records, and at least one.
pub(super) struct Rate {
    nanos_per_record: f64,
    burst: f64,
    tokens: f64,
    refilled: Option<Nanos>,
}

impl Rate {
    pub(super) fn new(records_per_second: f64) -> Self {
        let burst = (records_per_second / 100.0).max(1.0);
        Rate { nanos_per_record: 1e9 / records_per_second, burst, tokens: 0.0, refilled: None }
    }

    pub(super) fn allowed(&mut self, now: Nanos) -> usize {
        let since = self.refilled.replace(now).map_or(Duration::ZERO, |last| now.since(last));
        self.tokens = (self.tokens + since.as_nanos() as f64 / self.nanos_per_record).min(self.burst);
        self.tokens.max(0.0) as usize
    }

    pub(super) fn spend(&mut self, records: usize) {
        self.tokens -= records as f64;
    }

    /// When the next few records may come.
    pub(super) fn next(&self, now: Nanos) -> Nanos {
        let wanted = (self.burst / 8.0).max(1.0);
        let nanos = (wanted - self.tokens).max(0.0) * self.nanos_per_record;
        now.after(Duration::from_nanos((nanos.ceil() as u64).saturating_add(1)))
    }
}

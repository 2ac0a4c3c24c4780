//! The task itself: drives a body, its gate and its parts of checkpoints, one bounded poll at a time.
//!
//! Always true:
//! - a snapshot is one atomic step between two records: finish the record that is half done, announce on every
//!   output, take the state of every operator, encode the outbox;
//! - a snapshot finds the chain open, or closed with all of its last records emitted; closed is for good, across
//!   restores;
//! - no record is processed while output waits for room, nor while the state of the next record is read from disk;
//! - upkeep of keyed state comes in short slices between records, checkpoint or not, and keeps the task from parking as
//!   long as there is any;
//! - the end of the stream is announced once everything has been sent;
//! - a savepoint finds nothing half done and nothing unsent; from the moment when its barrier may pass, the task only sends
//!   until that is so. After one that stops the job it stands still until it hears what has come of it.

mod checkpoints;

use super::body::Body;
use super::inputs::Ran;
use super::part::{ChainTables, Part, PartFiles, restore_keyed};
use super::{Budget, Progress, Task};
use crate::barrier::Gate;
use crate::clock::{Clock, Nanos};
use crate::control::{
    CheckpointMode, Report, ReportSink, StopMode, TaskCommand, TaskFailure, TaskId, Trigger,
};
use crate::metrics::TaskMetrics;
use crate::operator::{Ending, Failure, Fired, Flow, FlushPolicy, Site};
use crate::ring::Mark;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use thalweg_storage::manifest::{KeyedStateMeta, SegmentRef};
use thalweg_storage::snapshot::KeyedSnapshots;
use thalweg_storage::table::TableStats;
use thalweg_storage::{AttemptId, CheckpointId, StoreError};

/// Background slices of a poll stop after this long.
const BACKGROUND_NANOS: u64 = 50_000;

/// Rows that one slice of upkeep costs about: the clock is read after each.
const UPKEEP_ROWS: usize = 256;

/// Sizes of keyed state are counted this often.
const STATE_COUNT_INTERVAL: Duration = Duration::from_millis(100);

/// While a checkpoint is under way, records are processed for this long at a time: background work then has half of the
/// task's time. Its slices stay short, and the sooner it ends the fewer entries change before it has reached them.
const RECORDS_NANOS: u64 = 50_000;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Reads and processes.
    Running,
    /// Input has ended; the operators close one after another.
    Closing,
    /// The operators are closed; what they emitted leaves.
    Draining,
    /// Everything is sent; a sink waits for its last commit.
    Committing,
    /// Nothing is left to do.
    Finished,
}

/// How far a stop with a savepoint has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    /// There is none.
    No,
    /// Input is taken for ended.
    Draining,
    /// The savepoint has been taken; nothing is processed until its end is known.
    Suspended(CheckpointId),
    /// It is complete: the task ends once all output is committed.
    Ending,
}

/// Keyed state that a checkpoint holds for one task.
#[derive(Clone, Debug)]
pub struct KeyedRestore {
    /// The segments, oldest first.
    pub segments: Vec<SegmentRef>,
    /// The states that they hold.
    pub metas: Vec<KeyedStateMeta>,
    /// The files belong to somebody else: the next checkpoint must not need them.
    pub foreign: bool,
}

/// What a task is made of.
pub struct TaskParts<B> {
    /// Names of the operators, for people.
    pub name: String,
    /// Uids of the chain, for failures that no operator is to blame for.
    pub chain: Arc<str>,
    /// The partition (subtask index).
    pub partition: u32,
    /// This task.
    pub id: TaskId,
    /// The execution attempt.
    pub attempt: AttemptId,
    /// Head and chain.
    pub body: B,
    /// Barrier logic over the body's channels.
    pub gate: Gate,
    /// Snapshots of the chain's keyed state.
    pub keyed: KeyedSnapshots,
    /// Keyed state to be restored before the first poll.
    pub restore: Option<KeyedRestore>,
    /// Where checkpoints write.
    pub files: PartFiles,
    /// Where reports go.
    pub reports: Arc<dyn ReportSink>,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<TaskMetrics>,
    /// A batch that is not full leaves after this long.
    pub buffer_timeout: Duration,
}

/// A task over a body `B`.
pub struct OperatorTask<B> {
    parts: TaskParts<B>,
    commands: VecDeque<TaskCommand>,
    phase: Phase,
    /// The last record is half done or its output waits.
    blocked: bool,
    /// Triggers known, until their checkpoint is acknowledged, declined or aborted.
    triggers: Vec<Trigger>,
    /// Alignment timers that have not run out: when, and which checkpoint.
    timers: Vec<(Nanos, CheckpointId)>,
    in_progress: VecDeque<Part>,
    awaits_commit_reported: bool,
    /// A snapshot waits until nothing is left in the outbox of an edge that barriers do not overtake: no record is processed
    /// meanwhile.
    settling: bool,
    /// A round that the task has heard of and not snapshotted: which, and since when.
    aligning: Option<(CheckpointId, Nanos)>,
    /// A savepoint may be taken as soon as everything is sent: nothing is processed meanwhile.
    savepoint_waits: bool,
    /// A snapshot may be taken as soon as the one before is serialised.
    snapshot_waits: bool,
    stopping: Stopping,
    /// When the sizes of keyed state are counted next; none while they are as counted last.
    state_count_due: Option<Nanos>,
}

impl<B: Body> OperatorTask<B> {
    /// A task that has not run yet.
    pub fn new(parts: TaskParts<B>) -> Self {
        OperatorTask {
            parts,
            commands: VecDeque::new(),
            phase: Phase::Running,
            blocked: false,
            triggers: Vec::new(),
            timers: Vec::new(),
            in_progress: VecDeque::new(),
            awaits_commit_reported: false,
            settling: false,
            aligning: None,
            savepoint_waits: false,
            snapshot_waits: false,
            stopping: Stopping::No,
            state_count_due: None,
        }
    }

    #[cfg(test)]
    pub(super) fn body(&mut self) -> &mut B {
        &mut self.parts.body
    }

    fn obey(&mut self, command: TaskCommand, now: Nanos) -> Result<(), Failure> {
        match command {
            TaskCommand::Trigger(trigger) => {
                self.parts.gate.trigger(trigger.checkpoint, trigger.mode);
                if trigger.kind.stop() == Some(StopMode::Drain) {
                    self.parts.gate.end_first(trigger.checkpoint);
                    self.stopping = Stopping::Draining;
                }
                self.triggers.push(trigger.clone());
                if let CheckpointMode::AlignedWithTimeout(timeout) = trigger.mode {
                    let due = trigger.triggered_at.after(timeout);
                    if due <= now {
                        self.parts.gate.expire(trigger.checkpoint);
                    } else {
                        self.timers.push((due, trigger.checkpoint));
                    }
                }
            }
            TaskCommand::Abort(checkpoint, latest_completed) => {
                self.parts.gate.abort(checkpoint);
                self.forget(checkpoint);
                if self.stopping == Stopping::Suspended(checkpoint) && !broken!(SuspensionSticks) {
                    self.stopping = Stopping::No;
                }
                self.in_progress.retain(|part| part.trigger.checkpoint != checkpoint);
                self.parts.keyed.aborted(checkpoint, &mut ChainTables::of(self.parts.body.stage()));
                // An abort never touches prepared output: it waits for the next checkpoint that completes. The sink
                // asks for that one again.
                self.awaits_commit_reported = false;
                self.parts.body.checkpoint_aborted(checkpoint, latest_completed);
                self.parts.body.stage().checkpoint_aborted(checkpoint, latest_completed)?;
            }
            TaskCommand::Complete(checkpoint) => {
                crash_point!("complete.before_task");
                self.parts.keyed.completed(checkpoint, &mut ChainTables::of(self.parts.body.stage()));
                self.parts.body.checkpoint_complete(checkpoint);
                self.parts.body.stage().checkpoint_complete(checkpoint)?;
                crash_point!("complete.after_task");
                self.awaits_commit_reported = false;
                if self.stopping == Stopping::Suspended(checkpoint) {
                    self.stopping = Stopping::Ending;
                    crash_point!("stop.ending");
                }
            }
            TaskCommand::CommitFinal => self.parts.body.stage().commit_final()?,
        }
        Ok(())
    }

    fn forget(&mut self, checkpoint: CheckpointId) {
        self.triggers.retain(|t| t.checkpoint != checkpoint);
        self.timers.retain(|(_, id)| *id != checkpoint);
    }

    fn expire_timers(&mut self, now: Nanos) {
        let gate = &mut self.parts.gate;
        self.timers.retain(|(due, checkpoint)| {
            if *due <= now {
                gate.expire(*checkpoint);
            }
            *due > now
        });
    }

    /// Does upkeep of keyed state for a while. Returns whether there is more to do at once.
    fn maintain(&mut self) -> Result<bool, Failure> {
        // A snapshot that reads pages back hears of a failed read by way of upkeep.
        if !matches!(self.phase, Phase::Running | Phase::Closing) && self.in_progress.is_empty() {
            return Ok(false);
        }
        let stage = self.parts.body.stage();
        if !stage.maintain(UPKEEP_ROWS)? {
            return Ok(false);
        }
        let began = self.parts.clock.now();
        while self.parts.clock.now().since(began).as_nanos() < u128::from(BACKGROUND_NANOS) {
            if !stage.maintain(UPKEEP_ROWS)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves towards the end once all input has been processed. Returns whether something changed.
    fn end(&mut self, ended: bool) -> Result<bool, Failure> {
        let before = self.phase;
        if self.stopping == Stopping::Ending && self.phase != Phase::Finished {
            if self.parts.body.stage().is_committed() {
                self.phase = Phase::Finished;
                crash_point!("stop.finished");
                self.parts.reports.report(Report::Finished(self.parts.attempt, self.parts.id));
            }
            return Ok(self.phase != before);
        }
        if self.is_held() {
            return Ok(false);
        }
        if self.phase == Phase::Running && ended && !self.blocked {
            self.phase = Phase::Closing;
        }
        if self.phase == Phase::Closing && self.parts.body.stage().end_input()? == Flow::Continue {
            self.phase = Phase::Draining;
        }
        if self.phase == Phase::Draining {
            let mut drained = true;
            let stage = self.parts.body.stage();
            stage.outputs(&mut |output| drained &= output.is_drained());
            if drained && self.can_announce() {
                crash_point!("end.before_announcement");
                self.parts.body.stage().outputs(&mut |output| output.announce(Mark::EndOfStream));
                crash_point!("end.after_announcement");
                self.parts.gate.finish();
                self.phase = Phase::Committing;
            }
        }
        if self.phase == Phase::Committing {
            let (attempt, id) = (self.parts.attempt, self.parts.id);
            match self.parts.body.stage().ending() {
                Ending::Done => {
                    self.phase = Phase::Finished;
                    crash_point!("end.finished");
                    self.parts.reports.report(Report::Finished(attempt, id));
                }
                Ending::AwaitsCommit if !self.awaits_commit_reported => {
                    self.awaits_commit_reported = true;
                    self.parts.reports.report(Report::AwaitsCommit(attempt, id));
                }
                Ending::AwaitsCommit | Ending::Committing => {}
            }
        }
        Ok(self.phase != before)
    }

    fn flush(&mut self, now: Nanos) -> Option<Nanos> {
        let force = self.savepoint_waits || !matches!(self.phase, Phase::Running);
        let policy = FlushPolicy { timeout: self.parts.buffer_timeout, force };
        let mut wake_at = None;
        self.parts.body.stage().outputs(&mut |output| wake_at = earliest(wake_at, output.flush(now, policy)));
        wake_at
    }

    fn step(&mut self, now: Nanos, budget: Budget) -> Result<Progress, Failure> {
        while let Some(command) = self.commands.pop_front() {
            self.obey(command, now)?;
        }
        self.parts.body.stage().tick(now)?;
        self.expire_timers(now);
        self.parts.body.look(&mut self.parts.gate);
        self.note_alignment(now);
        let mut busy = self.snapshot_when_ready(now)?;
        if self.blocked || self.phase == Phase::Running {
            let was_blocked = self.blocked;
            if was_blocked {
                // Room that has been freed since goes to what waits already.
                self.flush(now);
            }
            // Asked in each poll: a flush may have filled an outbox, and a sink may have run out of room by itself.
            self.blocked = self.parts.body.stage().resume()? == Flow::Blocked;
            busy |= was_blocked && !self.blocked;
        }
        let mut wake_at = None;
        // A drained source reads no more.
        let mut ended = self.stopping == Stopping::Draining && !self.parts.body.has_inputs();
        let mut waiting = false;
        if !self.blocked && !ended && !self.is_held() && self.phase == Phase::Running {
            let fired = self.parts.body.stage().fire_timers()?;
            if fired != Fired::None {
                self.parts.body.forget_prepared();
            }
            busy |= matches!(fired, Fired::Some | Fired::Blocked);
            self.blocked = fired == Fired::Blocked;
            waiting = fired == Fired::Waiting;
        }
        if !self.blocked && !waiting && !ended && !self.is_held() && self.phase == Phase::Running {
            let clock = &self.parts.clock;
            let budget = match self.in_progress.is_empty() {
                true => budget,
                false => Budget { nanos: budget.nanos.min(RECORDS_NANOS), ..budget },
            };
            let run = self.parts.body.run(&mut self.parts.gate, now, budget, &|| clock.now().0)?;
            self.blocked = run.ran == Ran::Blocked;
            waiting = run.ran == Ran::Waiting;
            busy |= run.ran == Ran::Busy;
            wake_at = run.wake_at;
            ended = run.ended;
            // What has just been consumed may have been all that a barrier waited for.
            busy |= self.snapshot_when_ready(now)?;
        }
        let ended = ended || self.parts.body.has_inputs() && self.parts.gate.all_ended();
        busy |= self.end(ended)?;
        wake_at = earliest(wake_at, self.flush(now));
        if self.savepoint_waits {
            // What has just left may have been the last of it.
            busy |= self.snapshot_when_ready(now)?;
        }
        busy |= self.end(ended)?;
        if self.settling {
            busy |= self.snapshot_when_ready(now)?;
        }
        busy |= self.advance_checkpoints(now)?;
        // A snapshot that has waited for this may be taken now.
        busy |= self.snapshot_waits && self.in_progress.iter().all(Part::is_serialised);
        busy |= self.maintain()?;
        wake_at = earliest(wake_at, self.count(now, busy));
        if busy {
            return Ok(Progress::Busy);
        }
        let timers = self.timers.iter().map(|(due, _)| *due).min();
        let wake_at = earliest(earliest(wake_at, timers), self.parts.body.stage().wake_at());
        Ok(match self.phase {
            Phase::Finished if self.in_progress.is_empty() => Progress::Finished,
            _ if self.blocked || self.settling => Progress::Blocked { wake_at },
            _ if waiting => Progress::Waiting { wake_at },
            _ => Progress::Idle { wake_at },
        })
    }

    /// Publishes counters; returns when they want to be published again although nothing happens.
    fn count(&mut self, now: Nanos, busy: bool) -> Option<Nanos> {
        let metrics = &self.parts.metrics;
        let mut records_out = 0;
        let stage = self.parts.body.stage();
        stage.outputs(&mut |output: &mut dyn crate::operator::OutputPort| records_out += output.records());
        let tables = stage.table_count();
        metrics.update(self.parts.body.records_in(), records_out, self.parts.body.records_skipped());
        metrics.update_read(self.parts.body.read_progress());
        if tables == 0 {
            return None;
        }
        let ended = self.phase == Phase::Finished;
        let due = self.state_count_due.or_else(|| busy.then(|| now.after(STATE_COUNT_INTERVAL)));
        self.state_count_due = due.filter(|due| *due > now && !ended);
        if due.is_some() && self.state_count_due.is_none() {
            self.count_state();
        }
        self.state_count_due
    }

    fn count_state(&mut self) {
        let stage = self.parts.body.stage();
        let tables = (0..stage.table_count()).filter_map(|index| Some(stage.table(index)?.stats()));
        let all = tables.fold(TableStats::default(), |all, one| TableStats {
            keys: all.keys + one.keys,
            data_bytes: all.data_bytes + one.data_bytes,
            index_bytes: all.index_bytes + one.index_bytes,
            page_reads: all.page_reads + one.page_reads,
            page_reads_blocking: all.page_reads_blocking + one.page_reads_blocking,
            page_hits: all.page_hits + one.page_hits,
            compacted_rows: all.compacted_rows + one.compacted_rows,
            segment_bytes: all.segment_bytes + one.segment_bytes,
            segment_live_bytes: all.segment_live_bytes + one.segment_live_bytes,
        });
        self.parts.metrics.update_state(all);
    }
}

fn earliest(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl<B: Body> Task for OperatorTask<B> {
    fn name(&self) -> &str {
        &self.parts.name
    }

    fn partition(&self) -> u32 {
        self.parts.partition
    }

    fn command(&mut self, command: TaskCommand) {
        self.commands.push_back(command);
    }

    fn restore(&mut self) -> Result<(), TaskFailure> {
        let TaskParts { restore, keyed, files, body, chain, partition, .. } = &mut self.parts;
        let Some(KeyedRestore { segments, metas, foreign }) = restore.take() else { return Ok(()) };
        let site = Site { uid: Arc::clone(chain), partition: *partition };
        crash_point!("restore.before_task");
        restore_keyed(keyed, files, &segments, &metas, body.stage()).map_err(|error| match error {
            StoreError::Incompatible(mismatch) => *site.refusal(format!(
                "{mismatch}; restore with the operator that wrote it, or give this one a new uid"
            )),
            error if error.may_pass() => *site.failure(error),
            error => *site.refusal(error),
        })?;
        if foreign {
            keyed.detach(&mut ChainTables::of(body.stage()));
        }
        crash_point!("restore.after_task");
        self.count_state();
        Ok(())
    }

    fn poll(&mut self, now: Nanos, budget: Budget) -> Result<Progress, TaskFailure> {
        self.step(now, budget).map_err(|failure| *failure)
    }

    fn failure_of_panic(&self, message: String) -> TaskFailure {
        let operator = Site::take_blamed().unwrap_or_else(|| Arc::clone(&self.parts.chain));
        TaskFailure {
            operator: operator.to_string(),
            partition: self.parts.partition,
            message: format!("panicked: {message}"),
            fatal: false,
        }
    }
}

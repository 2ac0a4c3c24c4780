//! The running job: tasks, channels, coordinator, and the steps that a schedule may take.

mod checks;
mod steps;

use super::CheckpointMode;
use super::plan::{Plan, Rng, TIMEOUT};
use crate::barrier::transition::Transitions;
use crate::barrier::{Announcement, BarrierMode, Gate, Look};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use thalweg_storage::CheckpointId;
use thalweg_storage::fault::Fault;

/// Steps after which a schedule counts as never ending.
const STEPS_MAX: usize = 50_000;

/// A mistake of the task that drives the gate.
#[cfg_attr(not(test), expect(dead_code, reason = "only tests make mistakes"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DriverFault {
    SideRingFirst,
    SeesBeyondCut,
    OutboxLeftOut,
    PartialBatchLeftOut,
    PartialBatchWhole,
    OutboxBeforeCapture,
    RestoredUncounted,
    AnnouncesLate,
    ConsumesUncaptured,
}

/// What a schedule came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What must not have happened.
    pub violation: Option<String>,
    /// Checkpoints completed.
    pub completed: usize,
    /// Savepoints among them.
    pub savepoints: usize,
    /// Checkpoints aborted.
    pub aborted: usize,
    /// Crashes, each followed by a restore.
    pub crashes: usize,
    /// In-flight records that channels' captures hold.
    pub captured_records: usize,
    /// In-flight records that restores brought back.
    pub restored_records: usize,
    /// Captures of a batch that was half processed.
    pub partial_batches: usize,
    /// Snapshots of timeout rounds that had turned unaligned.
    pub switched: usize,
    /// Snapshots of tasks that had finished.
    pub finished_snapshots: usize,
    /// What the gates went through.
    pub transitions: Transitions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    lane: usize,
    number: u32,
}

type Batch = Vec<Record>;
type Violation = String;

enum Command {
    Trigger(CheckpointId, CheckpointMode),
    Abort(CheckpointId),
}

/// The reading of one channel's rings, step by step.
#[derive(Clone, Copy)]
enum Reading {
    No,
    Draining(Look),
    Drained(Look),
}

struct Channel {
    /// Restored batches, then the ring's.
    queue: VecDeque<Batch>,
    restored: usize,
    pushed: u64,
    side: VecDeque<Announcement>,
    /// Everything pushed in this attempt, by position.
    log: Vec<Batch>,
    // The consumer's:
    reading: Reading,
    visible: u64,
    consumed: u64,
    /// The batch in progress, and how many of its records are processed.
    current: Option<(Batch, usize)>,
}

impl Channel {
    fn taken(&self) -> u64 {
        self.consumed + u64::from(self.current.is_some())
    }
}

#[derive(Clone, Default)]
struct Outbox {
    sealed: VecDeque<Batch>,
    open: Batch,
}

#[derive(Clone)]
struct Snapshot {
    position: u32,
    next: Vec<u32>,
    finished: bool,
    /// By output.
    outboxes: Vec<Vec<Record>>,
    /// By input: channel state.
    captures: Vec<Vec<Record>>,
}

/// A round that the task has snapshotted and not acknowledged.
struct Held {
    checkpoint: CheckpointId,
    mode: BarrierMode,
    snapshot: Snapshot,
    /// By input: position and records of the batch in progress already processed.
    from: Vec<(u64, usize)>,
}

struct Task {
    gate: Gate,
    position: u32,
    /// By lane, of those that end here: the next number.
    next: Vec<u32>,
    outboxes: Vec<Outbox>,
    mailbox: VecDeque<Command>,
    held: VecDeque<Held>,
    finished: bool,
    late: Vec<(usize, Announcement)>,
}

struct Pending {
    mode: CheckpointMode,
    acknowledged: Vec<Option<Snapshot>>,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Command(usize),
    BeginLook(usize),
    Drain(usize),
    FindDrained(usize),
    EndLook(usize),
    Process(usize),
    Capture(usize),
    Seal(usize),
    Push(usize),
    Emit(usize),
    Snapshot(usize),
    AnnounceLate(usize),
    Acknowledge(usize),
    Finish(usize),
    Trigger,
    Abort,
    Expire(usize),
    Crash,
}

pub struct Job<'a> {
    plan: &'a Plan,
    rng: &'a mut Rng,
    gate_fault: Option<Fault>,
    fault: Option<DriverFault>,
    tasks: Vec<Task>,
    channels: Vec<Channel>,
    newest: u64,
    pending: BTreeMap<CheckpointId, Pending>,
    completed: Option<Vec<Snapshot>>,
    /// What producers announced in this attempt, by checkpoint and channel.
    cuts: BTreeMap<(CheckpointId, usize), u64>,
    /// Timers that have run out, by checkpoint and task.
    expired: BTreeSet<(CheckpointId, usize)>,
    triggers: usize,
    aborts: usize,
    expiries: usize,
    crashes: usize,
    /// How eagerly each task works, in percent.
    eagerness: Vec<usize>,
    outcome: Outcome,
}

impl<'a> Job<'a> {
    pub fn new(
        plan: &'a Plan,
        rng: &'a mut Rng,
        gate_fault: Option<Fault>,
        fault: Option<DriverFault>,
    ) -> Job<'a> {
        let eagerness = plan.tasks.iter().map(|_| [5, 30, 100][rng.below(3)]).collect();
        let mut job = Job {
            plan,
            rng,
            gate_fault,
            fault,
            tasks: vec![],
            channels: vec![],
            newest: 0,
            pending: BTreeMap::new(),
            completed: None,
            cuts: BTreeMap::new(),
            expired: BTreeSet::new(),
            triggers: plan.triggers,
            aborts: plan.aborts,
            expiries: plan.expiries,
            crashes: plan.crashes,
            eagerness,
            outcome: Outcome::default(),
        };
        job.start();
        job
    }

    fn count_transitions(&mut self) {
        self.tasks.iter().for_each(|task| self.outcome.transitions.add(task.gate.transitions()));
    }

    /// Runs until nothing is left to do.
    pub fn run(mut self) -> Outcome {
        let result = self.run_steps();
        self.outcome.violation = result.err();
        self.count_transitions();
        self.outcome
    }

    fn run_steps(&mut self) -> Result<(), Violation> {
        let mut steps = Vec::new();
        for _ in 0..STEPS_MAX {
            steps.clear();
            self.enabled(&mut steps);
            let progress = steps.len();
            self.environment(&mut steps, progress > 0);
            if steps.is_empty() {
                return self.check_end();
            }
            // The environment acts rarely, lest every schedule begin with all of it.
            let mut step = steps[self.rng.below(steps.len())];
            if progress > 0 && !self.rng.chance(20) {
                step = steps[self.rng.below(progress)];
                if let Some(task) = self.task_of(step)
                    && !self.rng.chance(self.eagerness[task])
                {
                    continue;
                }
            }
            self.take(step).map_err(|violation| format!("{violation} (at {step:?})"))?;
        }
        Err("the schedule never ends".into())
    }

    /// The task whose slowness delays a step.
    fn task_of(&self, step: Step) -> Option<usize> {
        match step {
            Step::Process(channel) | Step::Capture(channel) => Some(self.plan.channels[channel].to),
            Step::Push(channel) | Step::Seal(channel) => Some(self.plan.channels[channel].from),
            Step::Emit(task) | Step::Command(task) | Step::Acknowledge(task) => Some(task),
            _ => None,
        }
    }

    fn is(&self, fault: DriverFault) -> bool {
        self.fault == Some(fault)
    }

    /// Starts an attempt from the last completed checkpoint.
    fn start(&mut self) {
        self.count_transitions();
        let plan = self.plan;
        let from = self.completed.clone();
        self.pending.clear();
        self.cuts.clear();
        self.tasks = (0..plan.tasks.len())
            .map(|task| {
                let kinds = plan.tasks[task].inputs.iter().map(|&channel| plan.channels[channel].kind);
                let mut gate = Gate::new(kinds.collect());
                gate.break_rule(self.gate_fault);
                let snapshot = from.as_ref().map(|snapshots| &snapshots[task]);
                Task {
                    gate,
                    position: snapshot.map_or(0, |snapshot| snapshot.position),
                    next: snapshot.map_or(vec![0; plan.lanes.len()], |snapshot| snapshot.next.clone()),
                    outboxes: vec![Outbox::default(); plan.tasks[task].outputs.len()],
                    mailbox: VecDeque::new(),
                    held: VecDeque::new(),
                    finished: snapshot.is_some_and(|snapshot| snapshot.finished),
                    late: vec![],
                }
            })
            .collect();
        self.channels = (0..plan.channels.len())
            .map(|channel| {
                let records = from.as_ref().map_or(vec![], |snapshots| self.in_flight(channel, snapshots));
                self.outcome.restored_records += records.len();
                let mut queue = VecDeque::new();
                let mut rest = &records[..];
                while !rest.is_empty() {
                    let (batch, more) = rest.split_at(self.rng.range(1, plan.batch_records).min(rest.len()));
                    queue.push_back(batch.to_vec());
                    rest = more;
                }
                let pushed =
                    if self.fault == Some(DriverFault::RestoredUncounted) { 0 } else { queue.len() as u64 };
                Channel {
                    restored: queue.len(),
                    pushed,
                    side: VecDeque::new(),
                    log: queue.iter().cloned().collect(),
                    visible: queue.len() as u64,
                    queue,
                    reading: Reading::No,
                    consumed: 0,
                    current: None,
                }
            })
            .collect();
        for task in 0..self.tasks.len() {
            if self.tasks[task].finished {
                self.announce_end(task);
            }
        }
    }

    /// Channel state, then the producer's outbox.
    fn in_flight(&self, channel: usize, snapshots: &[Snapshot]) -> Vec<Record> {
        let (from, to) = (self.plan.channels[channel].from, self.plan.channels[channel].to);
        let output = index_of(&self.plan.tasks[from].outputs, channel);
        let input = index_of(&self.plan.tasks[to].inputs, channel);
        let mut parts = [&snapshots[to].captures[input][..], &snapshots[from].outboxes[output][..]];
        if self.is(DriverFault::OutboxBeforeCapture) {
            parts.reverse();
        }
        parts.concat()
    }

    fn input(&self, channel: usize) -> (usize, usize) {
        let to = self.plan.channels[channel].to;
        (to, index_of(&self.plan.tasks[to].inputs, channel))
    }

    fn output(&self, channel: usize) -> (usize, usize) {
        let from = self.plan.channels[channel].from;
        (from, index_of(&self.plan.tasks[from].outputs, channel))
    }

    fn side_rings_have_room(&self, task: usize) -> bool {
        let outputs = &self.plan.tasks[task].outputs;
        outputs.iter().all(|&c| self.channels[c].side.len() < self.plan.channels[c].side_entries)
    }

    fn outboxes_empty(&self, task: usize) -> bool {
        self.tasks[task].outboxes.iter().all(|outbox| outbox.sealed.is_empty() && outbox.open.is_empty())
    }

    fn draining(&self, task: usize) -> bool {
        let aligned = self.tasks[task].gate.ready().is_some_and(|ready| ready.mode == BarrierMode::Aligned);
        aligned && self.plan.drains && !self.tasks[task].finished && !self.outboxes_empty(task)
    }

    /// Back-pressure: nothing is processed while sealed output waits, or an aligned snapshot waits for the outbox.
    fn may_work(&self, task: usize) -> bool {
        let state = &self.tasks[task];
        let blocked = state.outboxes.iter().any(|outbox| !outbox.sealed.is_empty());
        let frozen = self.plan.sinks_frozen && self.plan.is_sink(task);
        !(state.finished || blocked || frozen || self.draining(task))
    }

    fn enabled(&self, steps: &mut Vec<Step>) {
        for (task, state) in self.tasks.iter().enumerate() {
            let plan = &self.plan.tasks[task];
            if !state.mailbox.is_empty() {
                steps.push(Step::Command(task));
            }
            if !state.late.is_empty() {
                steps.push(Step::AnnounceLate(task));
            }
            if plan.records.is_some_and(|records| state.position < records) && self.may_work(task) {
                steps.push(Step::Emit(task));
            }
            let room = state.finished || self.side_rings_have_room(task);
            if state.gate.ready().is_some() && room && !self.draining(task) && state.late.is_empty() {
                steps.push(Step::Snapshot(task));
            }
            if state.held.front().is_some_and(|held| state.gate.complete(held.checkpoint)) {
                steps.push(Step::Acknowledge(task));
            }
            let through =
                plan.records.is_none_or(|records| state.position == records) && state.gate.all_ended();
            if !state.finished && through && self.outboxes_empty(task) && self.side_rings_have_room(task) {
                steps.push(Step::Finish(task));
            }
        }
        for (channel, state) in self.channels.iter().enumerate() {
            let (task, input) = self.input(channel);
            let gate = &self.tasks[task].gate;
            match state.reading {
                Reading::No if state.pushed > state.visible || !state.side.is_empty() => {
                    steps.push(Step::BeginLook(channel))
                }
                Reading::No => {}
                Reading::Draining(_) if state.side.is_empty() => steps.push(Step::FindDrained(channel)),
                Reading::Draining(_) => steps.push(Step::Drain(channel)),
                Reading::Drained(_) => steps.push(Step::EndLook(channel)),
            }
            let takes = state.taken() < state.visible.min(gate.limit(input)) && !state.queue.is_empty();
            if self.may_work(task) && (state.current.is_some() || takes) {
                steps.push(Step::Process(channel));
            }
            if gate.capture(input).is_some_and(|capture| {
                capture.next < state.visible && capture.bound.is_none_or(|bound| capture.next < bound)
            }) {
                steps.push(Step::Capture(channel));
            }
            let (producer, output) = self.output(channel);
            let outbox = &self.tasks[producer].outboxes[output];
            if !outbox.open.is_empty() {
                steps.push(Step::Seal(channel));
            }
            if !outbox.sealed.is_empty()
                && state.queue.len() - state.restored < self.plan.channels[channel].ring_batches
            {
                steps.push(Step::Push(channel));
            }
        }
    }

    /// What happens to the job: never counts as progress.
    fn environment(&self, steps: &mut Vec<Step>, progress: bool) {
        if self.triggers > 0 && self.next_mode_allowed(self.plan.mode) {
            steps.push(Step::Trigger);
        }
        if self.aborts > 0 && !self.pending.is_empty() {
            steps.push(Step::Abort);
        }
        // Where nothing else happens, every timer runs out in the end. Checkpoints may depend on it: behind a sink that never
        // consumes; or when a task that drains its outbox before an aligned snapshot feeds, by another way, a task that
        // has turned unaligned and stops at its cuts until this one announces on an aligned-only channel.
        if self.expiries > 0 || !progress {
            steps.extend(
                (0..self.tasks.len()).filter(|&task| self.timer_of(task).is_some()).map(Step::Expire),
            );
        }
        if self.crashes > 0 && (self.completed.is_some() || self.newest > 2) {
            steps.push(Step::Crash);
        }
    }

    /// The pending checkpoint whose alignment timer is still running at a task.
    fn timer_of(&self, task: usize) -> Option<CheckpointId> {
        let (&checkpoint, pending) = self.pending.last_key_value()?;
        (pending.mode == TIMEOUT && !self.expired.contains(&(checkpoint, task))).then_some(checkpoint)
    }

    /// An unaligned or timeout checkpoint is pending alone; others overlap up to the configured number.
    fn next_mode_allowed(&self, mode: CheckpointMode) -> bool {
        let alone = |mode| mode == CheckpointMode::Unaligned || mode == TIMEOUT;
        self.pending.is_empty()
            || self.pending.len() < self.plan.concurrent
                && !alone(mode)
                && !self.pending.values().any(|pending| alone(pending.mode))
    }

    fn take(&mut self, step: Step) -> Result<(), Violation> {
        match step {
            Step::Command(task) => self.command(task),
            Step::BeginLook(channel) => {
                let state = &mut self.channels[channel];
                state.reading = Reading::Draining(Look::begin(state.pushed));
            }
            Step::Drain(channel) => self.drain(channel),
            Step::FindDrained(channel) => {
                let state = &mut self.channels[channel];
                if let Reading::Draining(look) = state.reading {
                    state.reading = Reading::Drained(look);
                }
            }
            Step::EndLook(channel) => {
                let state = &mut self.channels[channel];
                let Reading::Drained(look) = std::mem::replace(&mut state.reading, Reading::No) else {
                    return Ok(());
                };
                let seen = look.end(state.pushed.max(state.restored as u64));
                let beyond = self.fault == Some(DriverFault::SideRingFirst)
                    || self.fault == Some(DriverFault::SeesBeyondCut) && look.rereads();
                let end = if beyond { state.pushed } else { seen.end };
                state.visible = state.visible.max(end);
            }
            Step::Process(channel) => return self.process(channel),
            Step::Capture(channel) => self.capture(channel)?,
            Step::Seal(channel) => self.seal(channel),
            Step::Push(channel) => {
                let (task, output) = self.output(channel);
                let batch = self.tasks[task].outboxes[output].sealed.pop_front().expect("enabled");
                let state = &mut self.channels[channel];
                state.log.push(batch.clone());
                state.queue.push_back(batch);
                state.pushed += 1;
            }
            Step::Emit(task) => {
                let number = self.tasks[task].position;
                self.tasks[task].position += 1;
                self.emit(task, None, number);
            }
            Step::Snapshot(task) => self.snapshot(task),
            Step::AnnounceLate(task) => {
                for (channel, announcement) in self.tasks[task].late.split_off(0) {
                    self.channels[channel].side.push_back(announcement);
                }
            }
            Step::Acknowledge(task) => return self.acknowledge(task),
            Step::Finish(task) => {
                self.tasks[task].finished = true;
                self.announce_end(task);
            }
            Step::Trigger => self.trigger(),
            Step::Abort => {
                self.aborts -= 1;
                self.outcome.aborted += 1;
                let nth = self.rng.below(self.pending.len());
                let checkpoint = *self.pending.keys().nth(nth).expect("enabled");
                self.pending.remove(&checkpoint);
                for task in &mut self.tasks {
                    // A trigger that was not delivered yet may be withdrawn; then the abort comes first of all.
                    if self.rng.chance(50) {
                        task.mailbox.retain(|c| !matches!(c, Command::Trigger(id, _) if *id == checkpoint));
                    }
                    task.mailbox.push_back(Command::Abort(checkpoint));
                }
            }
            Step::Expire(task) => {
                self.expiries = self.expiries.saturating_sub(1);
                let checkpoint = self.timer_of(task).expect("enabled");
                self.expired.insert((checkpoint, task));
                self.tasks[task].gate.expire(checkpoint);
            }
            Step::Crash => {
                self.crashes -= 1;
                self.outcome.crashes += 1;
                self.start();
            }
        }
        Ok(())
    }
}

fn index_of(list: &[usize], item: usize) -> usize {
    list.iter().position(|&other| other == item).expect("listed")
}

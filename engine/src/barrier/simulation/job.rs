//! The running job: tasks, channels, coordinator, and the steps that a schedule may take.

use super::CheckpointMode;
use super::plan::{Plan, Rng, TIMEOUT};
use crate::barrier::gate::Fault;
use crate::barrier::{Announcement, BarrierMode, ChannelKind, Gate, Look, Mark};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use thalweg_storage::CheckpointId;

/// Steps after which a schedule counts as never ending.
const STEPS_MAX: usize = 50_000;

/// A mistake of the task that drives the gate.
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
    pub violation: Option<String>,
    pub completed: usize,
    pub captured_records: usize,
    pub restored_records: usize,
    pub partial_batches: usize,
    /// Snapshots of timeout rounds that had turned unaligned.
    pub switched: usize,
    pub finished_snapshots: usize,
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

    /// Runs until nothing is left to do.
    pub fn run(mut self) -> Outcome {
        let result = self.run_steps();
        self.outcome.violation = result.err();
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
        let plan = self.plan;
        let from = self.completed.clone();
        self.pending.clear();
        self.cuts.clear();
        self.tasks = (0..plan.tasks.len())
            .map(|task| {
                let kinds = plan.tasks[task].inputs.iter().map(|&channel| plan.channels[channel].kind);
                let mut gate = Gate::new(kinds.collect());
                gate.fault = self.gate_fault;
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
                self.start();
            }
        }
        Ok(())
    }

    fn command(&mut self, task: usize) {
        let state = &mut self.tasks[task];
        match state.mailbox.pop_front().expect("enabled") {
            Command::Trigger(checkpoint, mode) => state.gate.trigger(checkpoint, mode),
            Command::Abort(checkpoint) => {
                state.gate.abort(checkpoint);
                assert!(state.gate.is_aborted(checkpoint) || self.gate_fault.is_some());
            }
        }
        let gate = &state.gate;
        state.held.retain(|held| !gate.is_aborted(held.checkpoint));
    }

    fn drain(&mut self, channel: usize) {
        let (task, input) = self.input(channel);
        let state = &mut self.channels[channel];
        let announcement = state.side.pop_front().expect("enabled");
        if let Reading::Draining(look) = &mut state.reading {
            look.announced(announcement.cut);
        }
        self.tasks[task].gate.announce(input, announcement);
    }

    fn process(&mut self, channel: usize) -> Result<(), Violation> {
        let (task, input) = self.input(channel);
        let next = self.tasks[task].gate.capture(input).map(|capture| capture.next);
        let uncaptured = next.is_some_and(|next| next <= self.channels[channel].consumed);
        if uncaptured && !self.is(DriverFault::ConsumesUncaptured) {
            self.capture(channel)?;
        }
        let state = &mut self.channels[channel];
        if state.current.is_none() {
            state.current = Some((state.queue.pop_front().expect("enabled"), 0));
            state.restored = state.restored.saturating_sub(1);
        }
        let (batch, done) = state.current.as_mut().expect("just taken");
        let record = batch[*done];
        *done += 1;
        if *done == batch.len() {
            state.current = None;
            state.consumed += 1;
            self.tasks[task].gate.consumed(input, state.consumed);
        }
        let next = &mut self.tasks[task].next[record.lane];
        if record.number > *next {
            return Err(format!(
                "task {task} lost records {next}..{} of lane {}",
                record.number, record.lane
            ));
        }
        if record.number < *next && self.plan.mode != CheckpointMode::AtLeastOnce {
            return Err(format!("task {task} sees record {} of lane {} again", record.number, record.lane));
        }
        *next = (*next).max(record.number + 1);
        self.emit(task, Some(record.lane), record.number);
        Ok(())
    }

    /// Captures the batch at the cursor, or what is left of it.
    fn capture(&mut self, channel: usize) -> Result<(), Violation> {
        let (task, input) = self.input(channel);
        let capture = self.tasks[task].gate.capture(input).expect("enabled");
        let state = &self.channels[channel];
        let records = match &state.current {
            Some((batch, done)) if capture.next == state.consumed => {
                self.outcome.partial_batches += 1;
                match self.fault {
                    Some(DriverFault::PartialBatchLeftOut) => vec![],
                    Some(DriverFault::PartialBatchWhole) => batch.clone(),
                    _ => batch[*done..].to_vec(),
                }
            }
            _ => {
                let ahead = capture.next.checked_sub(state.taken());
                let batch = ahead.and_then(|ahead| state.queue.get(ahead as usize));
                batch.ok_or_else(|| format!("batch {} cannot be captured any more", capture.next))?.clone()
            }
        };
        let held = self.tasks[task].held.iter_mut().find(|held| held.checkpoint == capture.checkpoint);
        held.ok_or("a capture is open for a round that is not held")?.snapshot.captures[input]
            .extend(records);
        self.tasks[task].gate.captured(input, capture.next + 1);
        Ok(())
    }

    fn emit(&mut self, task: usize, lane: Option<usize>, number: u32) {
        let plan = self.plan;
        for (output, lane, number) in plan.emits(task, lane, number) {
            let outbox = &mut self.tasks[task].outboxes[output];
            outbox.open.push(Record { lane, number });
            if outbox.open.len() == plan.batch_records {
                outbox.sealed.push_back(std::mem::take(&mut outbox.open));
            }
        }
    }

    fn seal(&mut self, channel: usize) {
        let (task, output) = self.output(channel);
        let outbox = &mut self.tasks[task].outboxes[output];
        outbox.sealed.push_back(std::mem::take(&mut outbox.open));
    }

    fn snapshot(&mut self, task: usize) {
        let plan = &self.plan.tasks[task];
        let ready = self.tasks[task].gate.ready().expect("enabled");
        if self.tasks[task].finished {
            self.outcome.finished_snapshots += 1;
        } else {
            for &channel in &plan.outputs {
                let announcement = ready.announcement(self.channels[channel].pushed);
                self.cuts.insert((ready.checkpoint, channel), announcement.cut);
                if self.is(DriverFault::AnnouncesLate) {
                    self.tasks[task].late.push((channel, announcement));
                } else {
                    self.channels[channel].side.push_back(announcement);
                }
            }
        }
        let switched =
            ready.unaligned() && self.pending.get(&ready.checkpoint).is_some_and(|p| p.mode == TIMEOUT);
        self.outcome.switched += usize::from(switched);
        let left_out = self.is(DriverFault::OutboxLeftOut);
        let position = |&channel: &usize| {
            let state = &self.channels[channel];
            (state.consumed, state.current.as_ref().map_or(0, |(_, done)| *done))
        };
        let from = plan.inputs.iter().map(position).collect();
        let state = &mut self.tasks[task];
        let waiting = |outbox: &Outbox| match left_out {
            true => vec![],
            false => outbox.sealed.iter().flatten().chain(&outbox.open).copied().collect(),
        };
        let snapshot = Snapshot {
            position: state.position,
            next: state.next.clone(),
            finished: state.finished,
            outboxes: state.outboxes.iter().map(waiting).collect(),
            captures: vec![vec![]; plan.inputs.len()],
        };
        state.held.push_back(Held { checkpoint: ready.checkpoint, mode: ready.mode, snapshot, from });
        state.gate.snapshotted(ready.checkpoint);
        // The gate knows when an unaligned round proves an older one dead.
        let gate = &state.gate;
        state.held.retain(|held| !gate.is_aborted(held.checkpoint));
        // A batch in progress is captured before its next record, here at the latest moment or the earliest.
        for &channel in &plan.inputs {
            let (_, input) = self.input(channel);
            let open = self.tasks[task]
                .gate
                .capture(input)
                .is_some_and(|capture| capture.bound != Some(capture.next));
            if open && self.channels[channel].current.is_some() && self.rng.chance(50) {
                self.capture(channel).expect("the batch in progress is there");
            }
        }
    }

    fn acknowledge(&mut self, task: usize) -> Result<(), Violation> {
        let held = self.tasks[task].held.pop_front().expect("enabled");
        self.tasks[task].gate.acknowledged(held.checkpoint);
        let mut captured = 0;
        for (input, &channel) in self.plan.tasks[task].inputs.iter().enumerate() {
            let got = &held.snapshot.captures[input];
            captured += got.len();
            let expected = self.channel_state(&held, input, channel);
            if *got != expected && self.pending.contains_key(&held.checkpoint) {
                return Err(format!(
                    "{:?} checkpoint {} captured {got:?} of channel {channel}, must be {expected:?}",
                    held.mode, held.checkpoint
                ));
            }
        }
        self.outcome.captured_records += captured;
        let Some(pending) = self.pending.get_mut(&held.checkpoint) else { return Ok(()) };
        pending.acknowledged[task] = Some(held.snapshot);
        if pending.acknowledged.iter().all(Option::is_some) {
            return self.complete(held.checkpoint);
        }
        Ok(())
    }

    /// What must be captured of a channel: from the consumer's position at its snapshot to the cut.
    fn channel_state(&self, held: &Held, input: usize, channel: usize) -> Vec<Record> {
        let captures = held.mode == BarrierMode::Unaligned && !held.snapshot.finished;
        if !captures || self.plan.channels[channel].kind == ChannelKind::AlignedOnly {
            return vec![];
        }
        let state = &self.channels[channel];
        let cut = self.cuts.get(&(held.checkpoint, channel)).copied().unwrap_or(state.pushed);
        let (position, done) = held.from[input];
        let batches = state.log.get(position as usize..cut as usize).unwrap_or_default();
        batches.iter().flatten().skip(done).copied().collect()
    }

    fn complete(&mut self, checkpoint: CheckpointId) -> Result<(), Violation> {
        if let Some((older, _)) = self.pending.first_key_value().filter(|(id, _)| **id < checkpoint) {
            return Err(format!("checkpoint {checkpoint} completed before {older}"));
        }
        let pending = self.pending.remove(&checkpoint).expect("pending");
        let snapshots: Vec<Snapshot> = pending.acknowledged.into_iter().flatten().collect();
        self.check_consistent(checkpoint, &snapshots)?;
        self.completed = Some(snapshots);
        self.outcome.completed += 1;
        Ok(())
    }

    /// Consumer's state, then channel state, then the producer's outbox: without gap or overlap, per lane.
    fn check_consistent(&self, checkpoint: CheckpointId, snapshots: &[Snapshot]) -> Result<(), Violation> {
        for (lane, plan) in self.plan.lanes.iter().enumerate() {
            let (from, to) = (self.plan.channels[plan.channel].from, self.plan.channels[plan.channel].to);
            let emitted = self.plan.emitted(lane, snapshots[from].position, &snapshots[from].next);
            let records = self.in_flight(plan.channel, snapshots);
            let mut numbers = records.iter().filter(|record| record.lane == lane).map(|record| record.number);
            let consumed = snapshots[to].next[lane];
            let good = if self.plan.mode == CheckpointMode::AtLeastOnce {
                (consumed..emitted).all(|number| numbers.any(|got| got == number))
            } else {
                consumed <= emitted && numbers.eq(consumed..emitted)
            };
            if !good {
                let numbers: Vec<u32> = records.iter().filter(|r| r.lane == lane).map(|r| r.number).collect();
                return Err(format!(
                    "checkpoint {checkpoint} is no consistent cut on lane {lane}: state says {consumed}, {emitted} were \
                     emitted, in flight are {numbers:?}"
                ));
            }
        }
        Ok(())
    }

    fn announce_end(&mut self, task: usize) {
        for &channel in &self.plan.tasks[task].outputs {
            let cut = self.channels[channel].pushed;
            self.channels[channel].side.push_back(Announcement { mark: Mark::EndOfStream, cut });
        }
        self.tasks[task].gate.finish();
    }

    fn trigger(&mut self) {
        self.triggers -= 1;
        self.newest += 1;
        let checkpoint = CheckpointId(self.newest);
        let savepoint = self.rng.chance(self.plan.savepoint_percent);
        let mode = if savepoint { CheckpointMode::Aligned } else { self.plan.mode };
        self.pending.insert(checkpoint, Pending { mode, acknowledged: vec![None; self.tasks.len()] });
        self.tasks.iter_mut().for_each(|task| task.mailbox.push_back(Command::Trigger(checkpoint, mode)));
    }

    /// Nothing is enabled: everything must be done.
    fn check_end(&self) -> Result<(), Violation> {
        if let Some(checkpoint) = self.pending.keys().next() {
            return Err(format!("stuck: checkpoint {checkpoint} is pending"));
        }
        if self.plan.sinks_frozen {
            return Ok(());
        }
        if let Some(task) = self.tasks.iter().position(|task| !task.finished) {
            return Err(format!("stuck: task {task} has not finished"));
        }
        for (lane, total) in self.plan.totals().into_iter().enumerate() {
            let to = self.plan.channels[self.plan.lanes[lane].channel].to;
            let seen = self.tasks[to].next[lane];
            if seen != total {
                return Err(format!("task {to} ends with {seen} of {total} records of lane {lane}"));
            }
        }
        Ok(())
    }
}

fn index_of(list: &[usize], item: usize) -> usize {
    list.iter().position(|&other| other == item).expect("listed")
}

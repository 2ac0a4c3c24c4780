//! Many sources, unions, a keyed connect, rebalances, a throttle and a window, under checkpoints in quick succession, with records of
//! 1 to 4 KiB; and channel state that cannot be written.
//!
//! A job fails while it hears of a completed checkpoint, and the next job starts from the retained one. Order is not kept
//! here: what must hold in the end is that each record was committed exactly once, with its payload unharmed.

use super::case::{Case, Family};
use super::control::Control;
use super::operators::split_of;
use super::parcel::{Parcel, ParcelSource, checked, key_of, pack};
use super::record::decode;
use super::run::{Random, settings};
use super::sink::VerifyingSink;
use super::topology::{Mode, Scenario, Topology};
use super::verdict::{Outcome, Verdict, Watch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thalweg::connector::{BoxError, MemorySink};
use thalweg::coordinator::CheckpointOutcome;
use thalweg::job::{Simulation, SimulationOptions};
use thalweg::operator::Collector;
use thalweg::operators::{KeyedContext, ProcessFunction, RuntimeContext};
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{CheckpointId, Dataflow, RestartStrategy};
use thalweg_storage::io::{CrashProfile, Fault, OpKind, SimDisk};

/// Time between checkpoints.
const INTERVAL: Duration = Duration::from_millis(20);

/// Length of a window.
const WINDOW_MS: i64 = 5;

/// Subtasks of each source.
const SOURCES: [u32; 4] = [6, 3, 2, 1];

/// Subtasks of everything else.
const PARALLELISM: u32 = 3;

/// Jobs that fail, one after another, before the last one.
const FAILING_JOBS: u64 = 3;

/// A simulated job that takes more steps is stuck.
const STEPS_MAX: u64 = 2_000_000;

/// What the driver of the jobs tells their parts.
#[derive(Default)]
pub struct Phase {
    /// Sources emit nothing more.
    pub stop: AtomicBool,
    /// Sources end.
    pub end: AtomicBool,
}

/// Passes parcels on, and fails as it hears of the `fail_after`th completed checkpoint of its job.
#[derive(Clone)]
struct FailsOnCompletion {
    control: Arc<Control>,
    job: u64,
    fail_after: Option<u64>,
    subtask: u32,
    completed: u64,
}

impl ProcessFunction<Parcel> for FailsOnCompletion {
    type Out = Parcel;
    type State = ();

    fn open(&mut self, context: &RuntimeContext, _: Vec<()>) -> Result<(), BoxError> {
        self.subtask = context.subtask;
        Ok(())
    }

    fn process(&mut self, parcel: Parcel, out: &mut Collector<Parcel>) -> Result<(), BoxError> {
        out.collect(checked(&self.control, "failing", parcel));
        Ok(())
    }

    fn checkpoint_complete(&mut self, _: CheckpointId) -> Result<(), BoxError> {
        self.completed += 1;
        if self.subtask == 0 && self.fail_after.is_some_and(|count| self.completed >= count) {
            return Err(self.control.fail(self.job, "while it hears of a completed checkpoint"));
        }
        Ok(())
    }
}

fn flow(
    control: &Arc<Control>,
    phase: &Arc<Phase>,
    failing: FailsOnCompletion,
    sink: VerifyingSink,
) -> Dataflow {
    let flow = Dataflow::new("stress");
    let splits = control.splits;
    let source = |tag: u64| {
        let source = ParcelSource { tag, control: Arc::clone(control), phase: Arc::clone(phase) };
        let source = flow.source(format!("source {tag}"), source).with_parallelism(SOURCES[tag as usize]);
        // The throttle: the widest source may not do what it could.
        let rate = if tag == 0 { 3_000.0 } else { 1e6 };
        source.with_rate_limit(rate).map(format!("pack {tag}"), pack)
    };
    let key = move |parcel: &Parcel| key_of(parcel, splits);
    let count = |control: &Arc<Control>| {
        let control = Arc::clone(control);
        move |_: &u64, parcel: Parcel, mut seen: ValueState<'_, u64, u64>, out: &mut Collector<Parcel>| {
            let before = seen.value().unwrap_or(0);
            seen.update(before + 1);
            out.collect(checked(&control, "pair", parcel));
            Ok(())
        }
    };
    let paired = source(2).key_by(key).connect(source(3).key_by(key)).process(
        "pair",
        ValueStateDescriptor::<u64>::new("seen"),
        count(control),
        count(control),
    );
    let unpack = {
        let control = Arc::clone(control);
        move |parcel: Parcel| checked(&control, "sink", parcel).0
    };
    source(0)
        .rebalance()
        .union(source(1).rebalance())
        .union(paired.rebalance())
        .key_by(key)
        .process_with_timers(
            "window",
            ValueStateDescriptor::<Vec<Parcel>>::new("window"),
            |context: &mut KeyedContext<'_, u64>,
             parcel: Parcel,
             mut window: ValueState<'_, u64, Vec<Parcel>>,
             _: &mut Collector<Parcel>| {
                let mut timers = context.timer_service();
                let end = (timers.current_processing_time() / WINDOW_MS + 1) * WINDOW_MS;
                timers.register_processing_time_timer(end);
                let mut parcels = window.value().unwrap_or_default();
                parcels.push(parcel);
                window.update(parcels);
                Ok(())
            },
            |_: &mut KeyedContext<'_, u64>,
             _,
             mut window: ValueState<'_, u64, Vec<Parcel>>,
             out: &mut Collector<Parcel>| {
                window.value().unwrap_or_default().into_iter().for_each(|parcel| out.collect(parcel));
                window.clear();
                Ok(())
            },
        )
        .rebalance()
        .process("failing", failing)
        .partition_custom(move |parcel: &Parcel, partitions| split_of(parcel.0, splits) as usize % partitions)
        .map("unpack", unpack)
        .sink("sink", sink);
    flow
}

/// The parts that outlive one job.
struct Stress {
    control: Arc<Control>,
    phase: Arc<Phase>,
    committed: MemorySink<u64>,
    random: Random,
    mode: Mode,
    watch: Watch,
}

impl Stress {
    fn new(seed: u64) -> Stress {
        let mode =
            [Mode::Unaligned, Mode::AlignedWithTimeout, Mode::Unaligned, Mode::Aligned][seed as usize % 4];
        Stress {
            control: Control::unordered(INTERVAL, 7),
            phase: Arc::default(),
            committed: MemorySink::new(),
            random: Random(seed),
            mode,
            watch: Watch::default(),
        }
    }

    /// A job on `disk` that fails as it hears of its `fail_after`th completed checkpoint.
    fn start(
        &mut self,
        disk: &Arc<SimDisk>,
        job: u64,
        fail_after: Option<u64>,
    ) -> Result<Simulation, String> {
        let scenario = Scenario { topology: Topology::Union, parallelism: PARALLELISM, mode: self.mode };
        let random = &mut self.random;
        let builder =
            settings(&scenario, 1 + random.below(2) as usize, 2 + random.below(4) as usize, INTERVAL)
                .workers(1 + random.below(6) as usize)
                .retained_checkpoints(1)
                .tolerable_failed_checkpoints(5)
                .restart_strategy(RestartStrategy::None)
                .checkpoint_dir("/checkpoints");
        let control = Arc::clone(&self.control);
        let failing = FailsOnCompletion { control, job, fail_after, subtask: 0, completed: 0 };
        let sink = VerifyingSink { control: Arc::clone(&self.control), committed: self.committed.clone() };
        let flow = flow(&self.control, &self.phase, failing, sink);
        let options =
            SimulationOptions { disk: Arc::clone(disk), ..SimulationOptions::seeded(random.next()) };
        Simulation::new(builder, flow, options).map_err(|error| format!("job {job} does not start: {error}"))
    }

    /// Lets the last job go on until everything that was emitted is committed, then end.
    fn finish(mut self, mut simulation: Simulation, job: u64, mut violations: Vec<String>) -> Outcome {
        self.phase.stop.store(true, Ordering::Relaxed);
        let mut ended = None;
        let mut committed = 0;
        while ended.is_none() && simulation.steps() < STEPS_MAX {
            ended = simulation.run_until_finished(500);
            self.watch.look_at_life(&simulation.metrics().checkpoints, job);
            let ends = self.control.ends();
            let all_stopped = ends.len() as u64 == SOURCES.len() as u64 * self.control.splits;
            committed = self.committed.committed().iter().map(|records| records.len() as u64).sum();
            // A window's last records come by its timer, which does not fire once the input has ended.
            if all_stopped && committed >= ends.values().sum() {
                self.phase.end.store(true, Ordering::Relaxed);
            }
        }
        match &ended {
            Some(Ok(())) => {}
            Some(Err(error)) => violations.push(format!("the last job ended badly: {error}")),
            None => violations.push(format!(
                "the last job is stuck with {committed} records committed: {:?}",
                simulation.metrics()
            )),
        }
        violations.extend(self.control.violations());
        let (lost, duplicated) = self.compare(&mut violations);
        let verdict = Verdict { violations, values: committed, lost, duplicated, hung: ended.is_none() };
        self.watch.outcome(&self.control, verdict, 0)
    }

    /// Each value must have been committed once.
    fn compare(&self, violations: &mut Vec<String>) -> (u64, u64) {
        let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
        for record in self.committed.committed().iter().flatten() {
            *seen.entry(*record).or_default() += 1;
        }
        let (mut lost, mut duplicated) = (0, 0);
        for ((tag, split), count) in self.control.ends() {
            for n in 0..count {
                let record = super::record::encode(tag, split + n * self.control.splits);
                match seen.remove(&record) {
                    None => lost += 1,
                    Some(times) => duplicated += times - 1,
                }
            }
        }
        if lost + duplicated > 0 || !seen.is_empty() {
            let foreign: Vec<_> = seen.keys().take(3).map(|record| decode(*record)).collect();
            violations
                .push(format!("{lost} lost, {duplicated} again, {} never emitted: {foreign:?}", seen.len()));
        }
        (lost, duplicated)
    }
}

/// Jobs that fail as they hear of a completed checkpoint, each continued by the next.
fn stress(seed: u64) -> Outcome {
    let mut stress = Stress::new(seed);
    let mut disk = SimDisk::new();
    let mut violations = Vec::new();
    for job in 0..=FAILING_JOBS {
        let fail_after = (job < FAILING_JOBS).then(|| 2 + stress.random.below(9));
        let mut simulation = match stress.start(&disk, job, fail_after) {
            Ok(simulation) => simulation,
            Err(error) => {
                violations.push(error);
                break;
            }
        };
        if fail_after.is_none() {
            return stress.finish(simulation, job, violations);
        }
        let mut ended = None;
        while ended.is_none() && simulation.steps() < STEPS_MAX {
            ended = simulation.run_until_finished(500);
            stress.watch.look_at_life(&simulation.metrics().checkpoints, job);
        }
        let stats = simulation.metrics().checkpoints;
        if !matches!(ended, Some(Err(_))) || Some(stats.completed) < fail_after {
            violations.push(format!("job {job} should have failed: {ended:?}, {stats:?}"));
        }
        // The process ends here; what it had not made durable may be gone.
        let profile =
            [CrashProfile::LoseAll, CrashProfile::KeepAll, CrashProfile::Prefix, CrashProfile::Weak]
                [stress.random.below(4) as usize];
        disk = simulation.crash(profile, stress.random.next());
    }
    stress.watch.outcome(&stress.control, Verdict { violations, ..Verdict::default() }, 0)
}

/// One request of a file of channel state fails: that checkpoint fails, the next one succeeds, and the job goes on.
///
/// `fatal` is false where what fails comes after the data are durable: then the checkpoint may as well complete.
fn channel_failure(seed: u64, kind: OpKind, fatal: bool) -> Outcome {
    let mut stress = Stress::new(seed);
    stress.mode = Mode::Unaligned;
    let disk = SimDisk::new();
    let mut violations = Vec::new();
    let mut simulation = match stress.start(&disk, 0, None) {
        Ok(simulation) => simulation,
        Err(error) => {
            let verdict = Verdict { violations: vec![error], ..Verdict::default() };
            return stress.watch.outcome(&stress.control, verdict, 0);
        }
    };
    // After a checkpoint or two, the next file of channel state meets the fault.
    let wanted = 1 + stress.random.below(3);
    while simulation.metrics().checkpoints.completed < wanted && simulation.steps() < STEPS_MAX {
        simulation.step();
    }
    simulation.disk().fail_next_in("/channel-", kind, Fault::Io);
    let completed_before = simulation.metrics().checkpoints.completed;
    while simulation.steps() < STEPS_MAX
        && !simulation.has_ended()
        && (simulation.disk().armed_faults() > 0
            || simulation.metrics().checkpoints.completed < completed_before + 3)
    {
        simulation.step();
    }
    let stats = simulation.metrics().checkpoints;
    let failed = stats.history.iter().filter(|r| matches!(r.outcome, CheckpointOutcome::Failed(_))).count();
    if simulation.disk().armed_faults() > 0 {
        violations.push(format!("no channel state met the fault: {stats:?}"));
    }
    if stats.restarts > 0 || stats.completed < completed_before + 3 {
        violations.push(format!("the job did not go on: {stats:?}"));
    }
    if fatal && failed != 1 || failed > 1 {
        violations.push(format!("{failed} checkpoints failed by one fault: {:?}", stats.history));
    }
    stress.control.injected();
    stress.finish(simulation, 0, violations)
}

/// The lists of these families.
pub const CASES: &[Case] = &[
    Case { name: "stress-fails-on-completion", family: Family::Stress, real: false, run: stress },
    Case {
        name: "channel-state-write-fails-once",
        family: Family::ChannelFailures,
        real: false,
        run: |seed| channel_failure(seed, OpKind::Write, true),
    },
    Case {
        name: "channel-state-finalise-fails-once",
        family: Family::ChannelFailures,
        real: false,
        run: |seed| channel_failure(seed, OpKind::SyncData, true),
    },
    Case {
        name: "channel-state-close-fails-once",
        family: Family::ChannelFailures,
        real: false,
        run: |seed| channel_failure(seed, OpKind::Close, false),
    },
];

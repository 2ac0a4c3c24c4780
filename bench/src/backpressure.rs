//! *Back-pressure*: how long a barrier takes from the source to the sink when all rings between them are full, aligned and unaligned: 8
//! stages with an all-to-all edge before each, and a sink that takes 1 % of what the job can do.
//!
//! The sink is throttled cooperatively: it says that it has no room and when to come back; its worker runs other tasks meanwhile. A barrier's
//! time is from the first snapshot of a source's subtask to the last one of a sink's. Both modes take turns in one run, each in a job of its
//! own that is full before its first checkpoint.

use crate::report::{CheckpointFolder, Report, Summary, summarise};
use crate::{Result, positive_seconds};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use thalweg::clock::Nanos;
use thalweg::connector::{BoxError, ConnectorContext, GeneratorSource, Sink, SinkSnapshot, SinkWriter};
use thalweg::operator::Collector;
use thalweg::operators::ProcessFunction;
use thalweg::{CheckpointMode, DataStream, Dataflow, Engine, JobHandle};
use thalweg_storage::CheckpointId;
use thalweg_storage::manifest::Committable;

const SCENARIO: &str = "backpressure";

/// The part of the job's throughput that the sink takes.
const THROTTLE: f64 = 0.01;

/// The sink takes what it may in portions of this length.
const TICK: Duration = Duration::from_millis(1);

/// Options of the scenario.
#[derive(clap::Args)]
pub struct Options {
    /// Stages behind the source, the sink among them; each has an all-to-all edge before it
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    stages: u32,
    /// Subtasks of each stage
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    parallelism: u32,
    /// Number of workers
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Batches that a ring holds; as the engine has it unless given
    #[arg(long)]
    ring_batches: Option<usize>,
    /// Seconds for which the job runs unthrottled, to find out what 1 % of it is
    #[arg(long, default_value_t = 1.0, value_parser = positive_seconds)]
    calibration: f64,
    /// Unaligned checkpoints of each run
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    unaligned: u32,
    /// Aligned checkpoints of each run
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    aligned: u32,
    /// Pairs of runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// File that the row is appended to, instead of target/bench/backpressure.jsonl
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Barriers of one mode in one run, in milliseconds.
#[derive(Clone, Debug, Serialize)]
struct Barriers {
    /// The median from source to sink.
    barrier_ms: f64,
    /// The longest.
    barrier_ms_max: f64,
    /// From the request until the checkpoint is complete, median.
    complete_ms: f64,
    /// In-flight records of the last checkpoint.
    in_flight_records: u64,
    checkpoints: u32,
    /// Each barrier.
    barriers_ms: Vec<f64>,
}

/// Neighbouring runs.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    records_per_s: f64,
    sink_records_per_s: f64,
    unaligned: Barriers,
    aligned: Barriers,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    stages: u32,
    parallelism: u32,
    workers: usize,
    throttle: f64,
    runs: u32,
    /// Medians over the runs of the medians of each.
    unaligned_ms: f64,
    unaligned_spread: f64,
    /// The longest unaligned barrier of all runs.
    unaligned_ms_max: f64,
    aligned_ms: f64,
    aligned_spread: f64,
    /// Unaligned as a part of aligned, of neighbouring runs; median.
    ratio: f64,
    samples: Vec<Sample>,
}

/// Runs the scenario.
///
/// # Errors
/// A run failed, or the row could not be written.
pub fn run(options: &Options) -> Result<()> {
    let mut report = Report::open(SCENARIO, options.json.as_deref())?;
    let samples = (0..options.runs)
        .map(|_| {
            let records_per_s = calibrate(options)?;
            let sink_records_per_s = records_per_s * THROTTLE;
            Ok(Sample {
                records_per_s,
                sink_records_per_s,
                unaligned: barriers(
                    options,
                    sink_records_per_s,
                    CheckpointMode::Unaligned,
                    options.unaligned,
                )?,
                aligned: barriers(options, sink_records_per_s, CheckpointMode::Aligned, options.aligned)?,
            })
        })
        .collect::<Result<Vec<Sample>>>()?;
    let of = |figure: &dyn Fn(&Sample) -> f64| -> Summary {
        summarise(&samples.iter().map(figure).collect::<Vec<_>>()).expect("there is at least one run")
    };
    let (unaligned, aligned) = (of(&|s| s.unaligned.barrier_ms), of(&|s| s.aligned.barrier_ms));
    report.row(&Row {
        scenario: SCENARIO,
        stages: options.stages,
        parallelism: options.parallelism,
        workers: options.workers,
        throttle: THROTTLE,
        runs: options.runs,
        unaligned_ms: unaligned.median,
        unaligned_spread: unaligned.spread,
        unaligned_ms_max: samples.iter().map(|s| s.unaligned.barrier_ms_max).fold(0.0, f64::max),
        aligned_ms: aligned.median,
        aligned_spread: aligned.spread,
        ratio: of(&|s| s.unaligned.barrier_ms / s.aligned.barrier_ms).median,
        samples: samples.clone(),
    })
}

/// What the parts of one job note down.
#[derive(Default)]
struct Notes {
    /// Records that the sinks have taken.
    taken: AtomicU64,
    passages: Mutex<BTreeMap<CheckpointId, Passage>>,
}

/// First snapshot of a source and last one of a sink.
type Passage = (Option<Instant>, Option<Instant>);

impl Notes {
    fn at_source(&self, checkpoint: CheckpointId) {
        let mut passages = self.passages.lock().unwrap_or_else(PoisonError::into_inner);
        passages.entry(checkpoint).or_default().0.get_or_insert_with(Instant::now);
    }

    fn at_sink(&self, checkpoint: CheckpointId) {
        let mut passages = self.passages.lock().unwrap_or_else(PoisonError::into_inner);
        passages.entry(checkpoint).or_default().1 = Some(Instant::now());
    }

    /// The time of a barrier that has passed everywhere.
    fn barrier(&self, checkpoint: CheckpointId) -> Option<Duration> {
        let passages = self.passages.lock().unwrap_or_else(PoisonError::into_inner);
        let (source, sink) = passages.get(&checkpoint)?;
        // The last source may come after the first sinks: a barrier is announced, and triggered, everywhere at once.
        Some(sink.as_ref()?.saturating_duration_since(*source.as_ref()?))
    }
}

fn flow(options: &Options, notes: &Arc<Notes>, records_per_s: Option<f64>) -> Dataflow {
    let flow = Dataflow::new(SCENARIO);
    let source = flow.source("numbers", GeneratorSource::new(None, |number| number));
    let mut stream: DataStream<u64> = source.process("witness", Witness(Arc::clone(notes))).rebalance();
    for stage in 1..options.stages {
        stream = stream.map(format!("stage {stage}"), |number: u64| number.wrapping_add(1)).rebalance();
    }
    let per_subtask = records_per_s.map(|rate| rate / f64::from(options.parallelism));
    stream.sink("sink", ThrottledSink { notes: Arc::clone(notes), records_per_s: per_subtask });
    flow
}

fn engine(options: &Options) -> thalweg::job::EngineBuilder {
    let builder = Engine::builder().workers(options.workers).parallelism(options.parallelism);
    match options.ring_batches {
        Some(batches) => builder.ring_batches(batches),
        None => builder,
    }
}

/// Waits until `until` says so; fails if the job ends.
fn wait(job: &JobHandle, until: impl Fn() -> bool) -> Result<()> {
    while !until() {
        if job.wait_timeout(Duration::from_millis(1)).is_some() {
            return Err(format!("the job ended: {:?}", job.status()).into());
        }
    }
    Ok(())
}

fn end(job: &JobHandle) -> Result<()> {
    job.cancel();
    match job.wait() {
        Ok(()) | Err(thalweg::Error::Cancelled) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Records per second without a throttle.
fn calibrate(options: &Options) -> Result<f64> {
    let notes = Arc::new(Notes::default());
    let engine = engine(options).build()?;
    let job = engine.run(flow(options, &notes, None))?;
    let taken = || notes.taken.load(Ordering::Relaxed);
    wait(&job, || taken() > 0)?;
    let (begin, before) = (Instant::now(), taken());
    wait(&job, || begin.elapsed().as_secs_f64() >= options.calibration && taken() > before)?;
    let rate = (taken() - before) as f64 / begin.elapsed().as_secs_f64();
    end(&job)?;
    Ok(rate)
}

/// Fills the rings of a throttled job, then takes checkpoints of it.
fn barriers(options: &Options, records_per_s: f64, mode: CheckpointMode, count: u32) -> Result<Barriers> {
    let folder = CheckpointFolder::create(SCENARIO)?;
    let notes = Arc::new(Notes::default());
    let builder = engine(options).checkpoint_dir(&folder.0).checkpoint_mode(mode);
    // An aligned barrier waits for all that is in the rings.
    let engine = builder.checkpoint_timeout(Duration::from_secs(3_600)).build()?;
    let job = engine.run(flow(options, &notes, Some(records_per_s)))?;
    wait_until_full(&job, records_per_s)?;
    let mut barriers_ms = Vec::new();
    let mut complete_ms = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        let id = job.checkpoint()?;
        complete_ms.push(begin.elapsed().as_secs_f64() * 1e3);
        let barrier = notes.barrier(id).ok_or("a completed checkpoint did not pass everywhere")?;
        barriers_ms.push(barrier.as_secs_f64() * 1e3);
    }
    let stats = job.metrics().checkpoints;
    end(&job)?;
    let latest = stats.history.back().ok_or("no checkpoint has ended")?;
    let median = |values: &[f64]| summarise(values).map(|summary| summary.median);
    Ok(Barriers {
        barrier_ms: median(&barriers_ms).ok_or("no checkpoint was taken")?,
        barrier_ms_max: barriers_ms.iter().copied().fold(0.0, f64::max),
        complete_ms: median(&complete_ms).ok_or("no checkpoint was taken")?,
        in_flight_records: latest.in_flight_records,
        checkpoints: count,
        barriers_ms,
    })
}

/// Waits until the sources emit no more than the sinks take.
fn wait_until_full(job: &JobHandle, sink_records_per_s: f64) -> Result<()> {
    const LOOK: Duration = Duration::from_millis(100);
    let emitted =
        || job.metrics().tasks.iter().filter(|task| task.is_source).map(|task| task.records_in).sum::<u64>();
    let mut before = emitted();
    let mut full = 0;
    while full < 3 {
        let begin = Instant::now();
        wait(job, || begin.elapsed() >= LOOK)?;
        let now = emitted();
        // A batch leaves when room for a whole one is there: a look may see several at once.
        let slow = (now - before) as f64 <= 4.0 * sink_records_per_s * begin.elapsed().as_secs_f64() + 4096.0;
        full = if slow && now > 0 { full + 1 } else { 0 };
        before = now;
    }
    Ok(())
}

/// Notes when the sources' snapshots are taken.
#[derive(Clone)]
struct Witness(Arc<Notes>);

impl ProcessFunction<u64> for Witness {
    type Out = u64;
    type State = ();

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> std::result::Result<(), BoxError> {
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) -> std::result::Result<Vec<()>, BoxError> {
        self.0.at_source(checkpoint);
        Ok(Vec::new())
    }
}

/// A sink that takes so many records per second and subtask; all there are if none is given.
#[derive(Clone)]
struct ThrottledSink {
    notes: Arc<Notes>,
    records_per_s: Option<f64>,
}

struct ThrottledWriter {
    notes: Arc<Notes>,
    per_tick: Option<f64>,
    /// Records that may still be taken in this tick.
    allowance: f64,
    room_at: Nanos,
}

impl Sink for ThrottledSink {
    type Record = u64;
    type State = ();
    type Writer = ThrottledWriter;

    fn writer(
        &self,
        _: ConnectorContext,
        _: Vec<()>,
        _: Vec<Committable>,
    ) -> std::result::Result<ThrottledWriter, BoxError> {
        let per_tick = self.records_per_s.map(|rate| rate * TICK.as_secs_f64());
        Ok(ThrottledWriter { notes: Arc::clone(&self.notes), per_tick, allowance: 0.0, room_at: Nanos(0) })
    }
}

impl SinkWriter for ThrottledWriter {
    type Record = u64;
    type State = ();

    fn write(&mut self, now: Nanos, record: u64) -> std::result::Result<bool, BoxError> {
        std::hint::black_box(record);
        self.notes.taken.fetch_add(1, Ordering::Relaxed);
        let Some(per_tick) = self.per_tick else { return Ok(true) };
        self.allowance -= 1.0;
        if self.allowance >= 0.0 {
            return Ok(true);
        }
        // A rate below one per tick makes for a longer pause.
        let ticks = (-self.allowance / per_tick).ceil().max(1.0);
        self.allowance += ticks * per_tick;
        self.room_at = now.after(TICK.mul_f64(ticks));
        Ok(false)
    }

    fn poll(&mut self, now: Nanos) -> std::result::Result<bool, BoxError> {
        if now < self.room_at {
            return Ok(false);
        }
        self.room_at = Nanos(0);
        Ok(true)
    }

    fn wake_at(&self) -> Option<Nanos> {
        (self.room_at > Nanos(0)).then_some(self.room_at)
    }

    fn prepare(
        &mut self,
        checkpoint: CheckpointId,
        _: bool,
    ) -> std::result::Result<SinkSnapshot<()>, BoxError> {
        self.notes.at_sink(checkpoint);
        Ok(SinkSnapshot { state: None, committables: Vec::new() })
    }

    fn commit(&mut self, _: Vec<Committable>) -> std::result::Result<(), BoxError> {
        Ok(())
    }

    fn committed(&self) -> bool {
        true
    }

    fn has_unprepared(&self) -> bool {
        false
    }
}

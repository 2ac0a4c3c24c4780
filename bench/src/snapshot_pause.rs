//! *Snapshot pause*: the largest gaps between two records at a saturated sink, with checkpoints and without, for little state and for
//! much: what a snapshot costs the records that pass meanwhile.
//!
//! The sink looks at the clock at each record, and notes the largest gap of each window of 100 ms: at an interval of a second, one window
//! in ten has a barrier, several have the writing. Runs with and without checkpoints take turns.

use crate::peers::{self, Peer};
use crate::report::{CheckpointFolder, Report, summarise};
use crate::spec::{PeerKind, PeerLoaded, PeerSpec, PeerTask};
use crate::store::{self, BATCH_RECORDS, Backend, Payload, Value};
use crate::workload::{Access, key_of};
use crate::{Result, engine_state, parse_duration, positive_seconds};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use thalweg::clock::Nanos;
use thalweg::connector::{BoxError, ConnectorContext, GeneratorSource, Sink, SinkSnapshot, SinkWriter};
use thalweg::state::ValueStateDescriptor;
use thalweg::{CheckpointMode, Dataflow, Engine};
use thalweg_storage::CheckpointId;
use thalweg_storage::manifest::Committable;

const SCENARIO: &str = "snapshot-pause";

/// Bytes of a key and its value.
const ROW_BYTES: u64 = (size_of::<u64>() + size_of::<Payload>()) as u64;
/// Of each window the largest gap is noted.
const WINDOW: Duration = Duration::from_millis(100);

/// A run with checkpoints is measured until this many have completed, however long that takes.
const CHECKPOINTS_MIN: u64 = 2;

/// Options of the scenario.
#[derive(clap::Args)]
pub struct Options {
    /// Where state is kept; may be given several times
    #[arg(long = "state-backend", visible_alias = "backend", value_enum,
          default_values_t = [Backend::Hashmap, Backend::Log])]
    backends: Vec<Backend>,
    /// Bytes of all keys and values; may be given several times
    #[arg(long, default_values_t = [10 << 20, 4 << 30], value_parser = clap::value_parser!(u64).range(ROW_BYTES..))]
    state_bytes: Vec<u64>,
    /// Seconds that one run is measured
    #[arg(long, default_value_t = 10.0, value_parser = positive_seconds)]
    seconds: f64,
    /// Time between two checkpoints
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Number of workers
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Pairs of runs
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Runs RocksDB and fjall beside it: by themselves, not in a job
    #[arg(long)]
    peers: bool,
    /// File that the rows are appended to, instead of target/bench/snapshot-pause.jsonl
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// The gaps of one run, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Gaps {
    /// Quantiles of all gaps.
    p99: f64,
    p9999: f64,
    /// Quantiles of the largest gaps of the windows.
    window_p50: f64,
    window_p99: f64,
    max: f64,
    records_per_s: f64,
    checkpoints: u64,
    checkpoint_bytes: u64,
}

/// Neighbouring runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Sample {
    with: Gaps,
    without: Gaps,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    backend: Backend,
    state_bytes: u64,
    keys: u64,
    workers: usize,
    interval_ms: u64,
    measured_s: f64,
    runs: u32,
    /// With checkpoints minus without, of neighbouring runs; medians.
    p99_us: f64,
    /// The largest of these differences minus the smallest.
    p99_spread_us: f64,
    window_p50_us: f64,
    window_p99_us: f64,
    max_us: f64,
    /// `(max - min) / median` of the largest gaps with checkpoints.
    max_spread: f64,
    /// Records per second with checkpoints, as a part of those without.
    throughput_ratio: f64,
    peers: Vec<OtherRow>,
    samples: Vec<Sample>,
}

/// Another store's columns: the thread that updates it also takes the checkpoints, as a task of Flink does with the synchronous part.
#[derive(Debug, Serialize)]
struct OtherRow {
    name: String,
    settings: String,
    memory_bytes: u64,
    /// Longest time from the end of one batch of 1,024 records to that of the next: with checkpoints minus without.
    max_us: f64,
    /// With checkpoints, as a multiple of the largest gap of ours with them: differences may be below what the machine does to either.
    ratio: f64,
    ratio_spread: f64,
    /// Pairs of runs: longest times in microseconds without checkpoints and with.
    samples: Vec<(f64, f64)>,
}

/// Runs the scenario for each backend and size, and reports a row for each.
///
/// # Errors
/// A run failed, or a row could not be written.
pub fn run(options: &Options) -> Result<()> {
    let program = options.peers.then(peers::build).transpose()?;
    let mut report = Report::open(SCENARIO, options.json.as_deref())?;
    for &backend in &options.backends {
        for &state_bytes in &options.state_bytes {
            let samples = (0..options.runs)
                .map(|_| {
                    let without = gaps(options, backend, state_bytes, false)?;
                    Ok(Sample { without, with: gaps(options, backend, state_bytes, true)? })
                })
                .collect::<Result<Vec<_>>>()?;
            let mut row = row(options, backend, state_bytes, samples);
            if let Some(program) = &program {
                for kind in peers::KINDS {
                    row.peers.push(other(options, program, kind, state_bytes, &row.samples)?);
                }
            }
            report.row(&row)?;
        }
    }
    Ok(())
}

/// Runs another store with as many keys, and with memory for all of them.
fn other(
    options: &Options,
    program: &Path,
    kind: PeerKind,
    state_bytes: u64,
    ours: &[Sample],
) -> Result<OtherRow> {
    let folder = store::folder(SCENARIO)?;
    let memory_bytes = state_bytes * 2;
    let spec = PeerSpec {
        kind,
        dir: folder.0.join("db"),
        keys: state_bytes / ROW_BYTES,
        value_bytes: size_of::<Payload>(),
        memory_bytes,
        direct_io: false,
        core: None,
        open_existing: false,
    };
    let mut peer = Peer::start(program, &spec, None)?;
    let mut gap = |run: u32, checkpoint_every_s: Option<f64>| {
        let figures = peer.run(&PeerTask::Update {
            access: Access::Uniform,
            seed: store::seed_of(run),
            batch: BATCH_RECORDS,
            seconds: options.seconds,
            records_max: u64::MAX,
            checkpoint_every_s,
        });
        figures.map(|figures| figures.gap_us_max)
    };
    let samples = (0..options.runs)
        .map(|run| Ok((gap(run, None)?, gap(run, Some(options.interval.as_secs_f64()))?)))
        .collect::<Result<Vec<(f64, f64)>>>()?;
    let differences: Vec<f64> = samples.iter().map(|(without, with)| with - without).collect();
    let ratios: Vec<f64> = samples.iter().zip(ours).map(|((_, with), ours)| with / ours.with.max).collect();
    let max_us = summarise(&differences).expect("there is at least one run").median;
    let ratio = summarise(&ratios).expect("there is at least one run");
    let PeerLoaded { name, settings, .. } = peer.loaded.clone();
    Ok(OtherRow {
        name,
        settings,
        memory_bytes,
        max_us,
        ratio: ratio.median,
        ratio_spread: ratio.spread,
        samples,
    })
}

fn row(options: &Options, backend: Backend, state_bytes: u64, samples: Vec<Sample>) -> Row {
    let of = |figure: &dyn Fn(&Sample) -> f64| {
        summarise(&samples.iter().map(figure).collect::<Vec<_>>()).expect("there is at least one run")
    };
    let difference = |figure: fn(&Gaps) -> f64| of(&|s| figure(&s.with) - figure(&s.without)).median;
    let p99_differences = samples.iter().map(|s| s.with.p99 - s.without.p99);
    let (least, most) = p99_differences
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), us| (us.min(least), us.max(most)));
    Row {
        scenario: SCENARIO,
        backend,
        state_bytes,
        keys: state_bytes / ROW_BYTES,
        workers: options.workers,
        interval_ms: options.interval.as_millis() as u64,
        measured_s: options.seconds,
        runs: options.runs,
        p99_us: difference(|gaps| gaps.p99),
        p99_spread_us: most - least,
        window_p50_us: difference(|gaps| gaps.window_p50),
        window_p99_us: difference(|gaps| gaps.window_p99),
        max_us: difference(|gaps| gaps.max),
        max_spread: of(&|s| s.with.max).spread,
        throughput_ratio: of(&|s| s.with.records_per_s / s.without.records_per_s).median,
        peers: Vec::new(),
        samples,
    }
}

/// Fills the state of a job, then measures the gaps at its sink.
fn gaps(options: &Options, backend: Backend, state_bytes: u64, checkpoints: bool) -> Result<Gaps> {
    let folder = CheckpointFolder::create(SCENARIO)?;
    let mut builder = Engine::builder().workers(options.workers);
    builder = engine_state::backend(builder, backend)?;
    if checkpoints {
        builder = builder
            .checkpoint_dir(&folder.0)
            .checkpoint_interval(options.interval)
            .checkpoint_mode(CheckpointMode::Unaligned);
    }
    let engine = builder.build()?;
    let keys = state_bytes / ROW_BYTES;
    let sink = GapSink::default();
    let flow = Dataflow::new(SCENARIO);
    // All keys come once, one after another; then they come at random.
    let key = move |number: u64| if number < keys { number } else { key_of(number, keys) };
    flow.source("numbers", GeneratorSource::new(None, key))
        .key_by(|key: &u64| *key)
        .process("update", ValueStateDescriptor::<Payload>::new("values"), |key, _, mut value, out| {
            value.modify(|| Payload::first(*key), Payload::bump);
            out.collect(*key);
            Ok(())
        })
        .sink("sink", sink.clone());
    let job = engine.run(flow)?;
    let wait = |until: &dyn Fn() -> bool| -> Result<()> {
        while !until() {
            if job.wait_timeout(Duration::from_millis(5)).is_some() {
                return Err(format!("the job ended: {:?}", job.status()).into());
            }
        }
        Ok(())
    };
    wait(&|| sink.shared.records.load(Ordering::Relaxed) >= 2 * keys)?;
    // The first checkpoint holds everything; those to be measured hold changes.
    let completed = || job.metrics().checkpoints.completed;
    if checkpoints {
        let at_first = completed();
        wait(&|| completed() >= at_first + 2)?;
    }
    let before = (completed(), sink.shared.records.load(Ordering::Relaxed), Instant::now());
    sink.shared.measuring.store(true, Ordering::Relaxed);
    wait(&|| {
        let over = before.2.elapsed().as_secs_f64() >= options.seconds;
        over && (!checkpoints || completed() >= before.0 + CHECKPOINTS_MIN)
    })?;
    sink.shared.measuring.store(false, Ordering::Relaxed);
    let (seconds, after) = (before.2.elapsed().as_secs_f64(), job.metrics().checkpoints);
    let records = sink.shared.records.load(Ordering::Relaxed) - before.1;
    wait(&|| sink.found().len() == options.workers)?;
    job.cancel();
    match job.wait() {
        Ok(()) | Err(thalweg::Error::Cancelled) => {}
        Err(error) => return Err(error.into()),
    }
    if after.restarts > 0 {
        return Err(format!("the job restarted: {:?}", after.history).into());
    }
    let checkpoint_bytes = after.history.back().map_or(0, |checkpoint| checkpoint.state_bytes);
    Ok(sum_up(&sink.found(), records as f64 / seconds, (after.completed - before.0, checkpoint_bytes)))
}

fn sum_up(found: &[Found], records_per_s: f64, (checkpoints, checkpoint_bytes): (u64, u64)) -> Gaps {
    let mut all = new_histogram();
    let mut windows = new_histogram();
    for part in found {
        all.add(&part.gaps).expect("histograms of one kind");
        part.windows.iter().for_each(|gap| windows.saturating_record(*gap));
    }
    let us = |histogram: &Histogram<u64>, quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
    Gaps {
        p99: us(&all, 0.99),
        p9999: us(&all, 0.9999),
        window_p50: us(&windows, 0.5),
        window_p99: us(&windows, 0.99),
        max: all.max() as f64 / 1e3,
        records_per_s,
        checkpoints,
        checkpoint_bytes,
    }
}

/// Gaps in nanoseconds, up to a minute, with three digits.
fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that a histogram can have")
}

/// What one writer has measured.
#[derive(Clone)]
struct Found {
    gaps: Histogram<u64>,
    /// The largest gap of each window.
    windows: Vec<u64>,
}

#[derive(Default)]
struct Shared {
    records: AtomicU64,
    measuring: AtomicBool,
    found: Mutex<Vec<Found>>,
}

/// A sink that measures the time between records.
#[derive(Clone, Default)]
struct GapSink {
    shared: Arc<Shared>,
}

impl GapSink {
    fn found(&self) -> Vec<Found> {
        self.shared.found.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Sink for GapSink {
    type Record = u64;
    type State = ();
    type Writer = GapWriter;

    fn writer(
        &self,
        _: ConnectorContext,
        _: Vec<()>,
        _: Vec<Committable>,
    ) -> std::result::Result<GapWriter, BoxError> {
        let now = Instant::now();
        let shared = Arc::clone(&self.shared);
        Ok(GapWriter { shared, uncounted: 0, last: now, window_end: now, window_max: 0, found: None })
    }
}

/// Records after which a writer adds to the common count.
const COUNT_EVERY: u64 = 1024;

struct GapWriter {
    shared: Arc<Shared>,
    uncounted: u64,
    last: Instant,
    window_end: Instant,
    window_max: u64,
    /// While it measures.
    found: Option<Found>,
}

impl GapWriter {
    /// Starts or ends measuring when that is wanted.
    #[cold]
    fn switch(&mut self, now: Instant) {
        match self.found.take() {
            None => {
                (self.window_end, self.window_max) = (now + WINDOW, 0);
                self.found = Some(Found { gaps: new_histogram(), windows: Vec::new() });
            }
            Some(found) => self.shared.found.lock().unwrap_or_else(PoisonError::into_inner).push(found),
        }
    }
}

impl SinkWriter for GapWriter {
    type Record = u64;
    type State = ();

    #[inline]
    fn write(&mut self, _: Nanos, _: u64) -> std::result::Result<bool, BoxError> {
        self.uncounted += 1;
        if self.uncounted == COUNT_EVERY {
            self.shared.records.fetch_add(COUNT_EVERY, Ordering::Relaxed);
            self.uncounted = 0;
        }
        let now = Instant::now();
        let gap = (now - self.last).as_nanos() as u64;
        self.last = now;
        if self.shared.measuring.load(Ordering::Relaxed) != self.found.is_some() {
            self.switch(now);
        } else if let Some(found) = &mut self.found {
            found.gaps.saturating_record(gap);
            self.window_max = self.window_max.max(gap);
            if now >= self.window_end {
                found.windows.push(std::mem::take(&mut self.window_max));
                self.window_end = now + WINDOW;
            }
        }
        Ok(true)
    }

    fn poll(&mut self, _: Nanos) -> std::result::Result<bool, BoxError> {
        Ok(true)
    }

    fn prepare(&mut self, _: CheckpointId, _: bool) -> std::result::Result<SinkSnapshot<()>, BoxError> {
        Ok(SinkSnapshot::default())
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

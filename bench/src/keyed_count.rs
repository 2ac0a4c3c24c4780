//! *Keyed count*: numbers 0, 1, 2 …, key = splitmix64(number) modulo K; count per key; emit (key, count) to a counting sink; all-to-all
//! exchange between the workers.
//!
//! Runs of the engine and of the hand-written loop take turns, and which goes first alternates, so that both see the same drift of the
//! machine. The ratio is the median of the ratios of neighbours.

use crate::report::{CheckpointFolder, Report, Speed, summarise};
use crate::store::Backend;
use crate::workload::key_of;
use crate::{Result, engine_state, handwritten, parse_duration, positive_seconds, report};
use clap::ValueEnum;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thalweg::connector::{CountingSink, GeneratorSource};
use thalweg::{CheckpointMode, Dataflow, Engine};

/// Name of the scenario, in rows and file names.
const SCENARIO: &str = "keyed-count";

/// Records per key that a run of the engine counts before it is measured, at least: one key in twenty is then still to come.
const WARM_UP_ROUNDS: u64 = 3;

/// Options of the scenario.
#[derive(clap::Args)]
pub struct Options {
    /// Number of keys; may be given several times
    #[arg(long = "keys", value_name = "K", default_values_t = [1_000, 1_000_000, 10_000_000],
          value_parser = clap::value_parser!(u64).range(1..))]
    keys: Vec<u64>,
    /// Seconds that one run is measured
    #[arg(long, default_value_t = 5.0, value_parser = positive_seconds)]
    seconds: f64,
    /// What a run does first, unmeasured
    #[arg(long, default_value = "2s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Where the engine keeps keyed state
    #[arg(long = "state-backend", visible_alias = "backend", value_enum, default_value_t = Backend::Hashmap)]
    backend: Backend,
    /// How the engine takes checkpoints
    #[arg(long, value_enum, default_value_t = Mode::Unaligned)]
    mode: Mode,
    /// Time between two checkpoints
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Pairs of runs for each number of keys
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Number of workers: all cores that the process may use unless given
    #[arg(long)]
    workers: Option<usize>,
    /// Runs the hand-written loop alone: what this machine can reach at all
    #[arg(long)]
    handwritten_only: bool,
    /// File that the rows are appended to, instead of target/bench/keyed-count.jsonl
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How the engine takes checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Not at all.
    Off,
    /// Exactly once, aligned.
    Aligned,
    /// Exactly once, unaligned.
    Unaligned,
    /// At least once.
    AtLeastOnce,
}

/// One run of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineRun {
    /// Number of keys.
    pub keys: u64,
    /// Where keyed state is kept.
    pub backend: Backend,
    /// How checkpoints are taken.
    pub mode: Mode,
    /// Time between two checkpoints.
    pub interval: Duration,
    /// What passes before the measurement.
    pub warm_up: Duration,
    /// How long the measurement takes.
    pub measure: Duration,
    /// Number of workers.
    pub workers: usize,
}

/// What a run of the engine came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct EngineFigures {
    /// Records per second, over all workers, of the time after the warm-up.
    pub records_per_s: f64,
    /// The same per second of processor time, of all threads of the process.
    pub records_per_cpu_s: f64,
    /// Checkpoints completed within the measured time.
    pub checkpoints: u64,
    /// Mean size of the state that these wrote, in bytes; of the last ten at most.
    pub checkpoint_bytes: u64,
}

/// Runs keyed count on the engine.
///
/// Checkpoints go to a folder below the target folder, which is removed afterwards. Blocks the caller for the warm-up, the
/// measured time, and as long as the job takes to start and to be cancelled.
///
/// # Errors
/// The engine cannot run the scenario, or the job failed or restarted.
pub fn engine_keyed_count(run: &EngineRun) -> Result<EngineFigures> {
    let folder = CheckpointFolder::create(SCENARIO)?;
    let mut builder = engine_state::backend(Engine::builder().workers(run.workers), run.backend)?;
    if let Some(mode) = run.mode.checkpoint_mode() {
        builder = builder.checkpoint_dir(&folder.0).checkpoint_interval(run.interval).checkpoint_mode(mode);
    }
    let engine = builder.build()?;
    let keys = run.keys;
    let sink = CountingSink::new();
    let flow = Dataflow::new(SCENARIO);
    flow.source("numbers", GeneratorSource::new(None, move |number| key_of(number, keys)))
        .key_by(|key: &u64| *key)
        .count("count")
        .sink("sink", sink.clone());
    let job = engine.run(flow)?;
    let started = Instant::now();
    // The loop's table has its size from the start. The engine's has grown to it when nearly every key has come.
    while started.elapsed() < run.warm_up || sink.count() < WARM_UP_ROUNDS * keys {
        if job.wait_timeout(Duration::from_millis(10)).is_some() {
            return Err(format!("the job ended while it warmed up: {:?}", job.status()).into());
        }
    }
    let before = job.metrics().checkpoints;
    let (start, cpu_start, counted) = (Instant::now(), report::cpu_time(), sink.count());
    std::thread::sleep(run.measure);
    let (elapsed, cpu_elapsed) = (start.elapsed(), report::cpu_time() - cpu_start);
    let records = (sink.count() - counted) as f64;
    let after = job.metrics().checkpoints;
    job.cancel();
    match job.wait() {
        Ok(()) | Err(thalweg::Error::Cancelled) => {}
        Err(error) => return Err(error.into()),
    }
    if after.restarts > 0 {
        return Err(format!("the job restarted: {:?}", after.history).into());
    }
    let checkpoints = after.completed - before.completed;
    let sizes: Vec<u64> =
        after.history.iter().rev().take(checkpoints as usize).map(|c| c.state_bytes).collect();
    Ok(EngineFigures {
        records_per_s: records / elapsed.as_secs_f64(),
        records_per_cpu_s: records / cpu_elapsed.as_secs_f64(),
        checkpoints,
        checkpoint_bytes: sizes.iter().sum::<u64>() / (sizes.len() as u64).max(1),
    })
}

impl Mode {
    fn checkpoint_mode(self) -> Option<CheckpointMode> {
        match self {
            Mode::Off => None,
            Mode::Aligned => Some(CheckpointMode::Aligned),
            Mode::Unaligned => Some(CheckpointMode::Unaligned),
            Mode::AtLeastOnce => Some(CheckpointMode::AtLeastOnce),
        }
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    keys: u64,
    workers: usize,
    backend: Option<Backend>,
    mode: Option<Mode>,
    interval_ms: Option<u64>,
    measured_s: f64,
    runs: u32,
    /// Median over the runs of the engine; absent where it did not run, as everything that rests on it.
    records_per_s: Option<f64>,
    spread: Option<f64>,
    handwritten_records_per_s: f64,
    handwritten_spread: f64,
    /// Median of the ratios of neighbouring runs.
    ratio: Option<f64>,
    ratio_spread: Option<f64>,
    /// As `ratio`, but of the records per second of processor time: what is left of other programs' influence.
    cpu_ratio: Option<f64>,
    /// Checkpoints completed within the measured time of one run, and the mean bytes of state of each; medians.
    checkpoints: Option<f64>,
    checkpoint_bytes: Option<f64>,
    samples: Vec<Sample>,
}

/// One run of each side, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Sample {
    engine: Option<EngineFigures>,
    handwritten: Speed,
}

/// Runs the scenario for every number of keys and reports a row for each.
///
/// # Errors
/// A run failed, or a row could not be written.
pub fn run(options: &Options) -> Result<()> {
    let workers = match options.workers {
        Some(workers) => workers.max(1),
        None => report::allowed_cores()?.len(),
    };
    let mut report = Report::open(SCENARIO, options.json.as_deref())?;
    for &keys in &options.keys {
        let engine_run = EngineRun {
            keys,
            backend: options.backend,
            mode: options.mode,
            interval: options.interval,
            warm_up: options.warm_up,
            measure: Duration::from_secs_f64(options.seconds),
            workers,
        };
        let samples = (0..options.runs)
            .map(|index| {
                let by_hand =
                    || handwritten::keyed_count(keys, engine_run.warm_up, engine_run.measure, workers);
                let by_engine = || match options.handwritten_only {
                    true => Ok(None),
                    false => engine_keyed_count(&engine_run).map(Some),
                };
                sample(index, by_hand, by_engine)
            })
            .collect::<Result<Vec<Sample>>>()?;
        report.row(&row(options, &engine_run, samples))?;
    }
    Ok(())
}

/// Runs both sides once. Who goes first alternates with the index.
fn sample(
    index: u32,
    by_hand: impl FnOnce() -> Result<Speed>,
    by_engine: impl FnOnce() -> Result<Option<EngineFigures>>,
) -> Result<Sample> {
    let (engine, handwritten) = if index.is_multiple_of(2) {
        let first = by_hand()?;
        (by_engine()?, first)
    } else {
        (by_engine()?, by_hand()?)
    };
    Ok(Sample { engine, handwritten })
}

fn row(options: &Options, run: &EngineRun, samples: Vec<Sample>) -> Row {
    let of_engines = |figure: fn(&EngineFigures) -> f64| {
        summarise(&samples.iter().filter_map(|sample| sample.engine.as_ref().map(figure)).collect::<Vec<_>>())
    };
    let of_pairs = |ratio: fn(&EngineFigures, &Speed) -> f64| {
        let ratios = samples.iter().filter_map(|s| Some(ratio(s.engine.as_ref()?, &s.handwritten)));
        summarise(&ratios.collect::<Vec<_>>())
    };
    let by_hand: Vec<f64> = samples.iter().map(|sample| sample.handwritten.records_per_s).collect();
    let by_hand = summarise(&by_hand).expect("there is at least one run");
    let by_engine = of_engines(|engine| engine.records_per_s);
    let ratio = of_pairs(|engine, by_hand| engine.records_per_s / by_hand.records_per_s);
    let cpu_ratio = of_pairs(|engine, by_hand| engine.records_per_cpu_s / by_hand.records_per_cpu_s);
    Row {
        scenario: SCENARIO,
        keys: run.keys,
        workers: run.workers,
        backend: by_engine.map(|_| run.backend),
        mode: by_engine.map(|_| run.mode),
        interval_ms: (by_engine.is_some() && run.mode != Mode::Off)
            .then_some(run.interval.as_millis() as u64),
        measured_s: options.seconds,
        runs: options.runs,
        records_per_s: by_engine.map(|summary| summary.median),
        spread: by_engine.map(|summary| summary.spread),
        handwritten_records_per_s: by_hand.median,
        handwritten_spread: by_hand.spread,
        ratio: ratio.map(|summary| summary.median),
        ratio_spread: ratio.map(|summary| summary.spread),
        cpu_ratio: cpu_ratio.map(|summary| summary.median),
        checkpoints: of_engines(|engine| engine.checkpoints as f64).map(|summary| summary.median),
        checkpoint_bytes: of_engines(|engine| engine.checkpoint_bytes as f64).map(|summary| summary.median),
        samples,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use std::cell::RefCell;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(arguments: &[&str]) -> Options {
        Line::parse_from([&["bench"], arguments].concat()).options
    }

    fn speed(records_per_s: f64) -> Speed {
        Speed { records_per_s, records_per_cpu_s: records_per_s / 2.0 }
    }

    fn figures(records_per_s: f64) -> EngineFigures {
        EngineFigures { records_per_s, records_per_cpu_s: 1.0, checkpoints: 3, checkpoint_bytes: 100 }
    }

    fn engine_run(mode: Mode) -> EngineRun {
        EngineRun {
            keys: 10,
            backend: Backend::Log,
            mode,
            interval: Duration::from_secs(1),
            warm_up: Duration::ZERO,
            measure: Duration::from_secs(1),
            workers: 2,
        }
    }

    #[test]
    fn keys_may_be_given_several_times() {
        assert_eq!(options(&["--keys", "5", "--keys", "7"]).keys, [5, 7]);
        assert_eq!(options(&[]).keys, [1_000, 1_000_000, 10_000_000]);
    }

    #[test]
    fn the_side_that_goes_first_alternates() {
        let order = RefCell::new(String::new());
        for index in 0..3 {
            let by_hand = || {
                order.borrow_mut().push('h');
                Ok(speed(2.0))
            };
            let by_engine = || {
                order.borrow_mut().push('e');
                Ok(Some(figures(1.0)))
            };
            let expected = Sample { engine: Some(figures(1.0)), handwritten: speed(2.0) };
            assert_eq!(sample(index, by_hand, by_engine).expect("both run"), expected);
        }
        assert_eq!(order.into_inner(), "heehhe");
    }

    #[test]
    fn the_ratio_is_the_median_of_neighbours_not_the_ratio_of_medians() {
        let pairs = [(10.0, 100.0), (60.0, 120.0), (90.0, 100.0)];
        let samples = pairs
            .map(|(engine, by_hand)| Sample { engine: Some(figures(engine)), handwritten: speed(by_hand) });
        let row = row(&options(&[]), &engine_run(Mode::Unaligned), samples.to_vec());
        assert_eq!((row.records_per_s, row.handwritten_records_per_s), (Some(60.0), 100.0));
        assert_eq!(row.ratio, Some(0.5));
        let json = serde_json::to_string(&row).expect("a row is plain data");
        assert!(json.starts_with(r#"{"scenario":"keyed-count","keys":10,"workers":2,"backend":"log","mode":"unaligned","interval_ms":1000,"#), "{json}");
    }

    #[test]
    fn a_run_with_checkpoints_counts_records_and_leaves_no_files() {
        let folder = report::target_folder().join("bench");
        let run = EngineRun {
            backend: Backend::Hashmap,
            interval: Duration::from_millis(50),
            workers: 1,
            ..engine_run(Mode::Unaligned)
        };
        let figures = engine_keyed_count(&run).expect("the engine runs");
        assert!(figures.records_per_s > 0.0 && figures.records_per_cpu_s > 0.0, "{figures:?}");
        let own = format!("{SCENARIO}-{}", std::process::id());
        let left = std::fs::read_dir(folder).into_iter().flatten().flatten();
        assert_eq!(left.filter(|entry| entry.file_name().to_string_lossy().starts_with(&own)).count(), 0);
    }

    #[test]
    fn a_run_of_the_loop_alone_has_no_ratio_and_names_no_backend() {
        let samples = vec![Sample { engine: None, handwritten: speed(5.0) }];
        let row = row(&options(&["--handwritten-only"]), &engine_run(Mode::Off), samples);
        assert!(
            row.ratio.is_none() && row.backend.is_none() && row.handwritten_records_per_s == 5.0,
            "{row:?}"
        );
    }
}

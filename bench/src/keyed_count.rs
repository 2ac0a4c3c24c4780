//! *Keyed count*: numbers 0, 1, 2 …, key = splitmix64(number) modulo K; count per key; emit (key, count) to a counting sink; all-to-all
//! exchange between the workers.
//!
//! Runs of the engine and of the hand-written loop take turns, and which goes first alternates, so that both see the same drift of the
//! machine. The ratio is the median of the ratios of neighbours.

use crate::report::{Report, summarise};
use crate::{Result, handwritten, parse_duration, report};
use clap::ValueEnum;
use serde::Serialize;
use std::time::Duration;

/// Name of the scenario, in rows and file names.
const SCENARIO: &str = "keyed-count";

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
    #[arg(long, value_enum, default_value_t = Backend::Hashmap)]
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
}

/// Where the engine keeps keyed state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// Typed values in a table.
    Hashmap,
    /// The log-structured store.
    Log,
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

/// Runs keyed count on the engine; returns the records per second, over all workers, of the time after the warm-up.
///
/// # Errors
/// The engine cannot run the scenario, or the job failed.
pub fn engine_keyed_count(run: &EngineRun) -> Result<f64> {
    Err(format!(
        "the engine cannot run {SCENARIO} yet ({:?}, checkpoints {:?} every {:?}); --handwritten-only measures the loop alone",
        run.backend, run.mode, run.interval
    )
    .into())
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
    samples: Vec<Sample>,
}

/// One run of each side, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Sample {
    records_per_s: Option<f64>,
    handwritten_records_per_s: f64,
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
    let mut report = Report::open(SCENARIO)?;
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
    by_hand: impl FnOnce() -> Result<f64>,
    by_engine: impl FnOnce() -> Result<Option<f64>>,
) -> Result<Sample> {
    let (records_per_s, handwritten_records_per_s) = if index.is_multiple_of(2) {
        let first = by_hand()?;
        (by_engine()?, first)
    } else {
        (by_engine()?, by_hand()?)
    };
    Ok(Sample { records_per_s, handwritten_records_per_s })
}

fn row(options: &Options, run: &EngineRun, samples: Vec<Sample>) -> Row {
    let by_hand: Vec<f64> = samples.iter().map(|sample| sample.handwritten_records_per_s).collect();
    let by_engine: Vec<f64> = samples.iter().filter_map(|sample| sample.records_per_s).collect();
    let ratios: Vec<f64> = samples
        .iter()
        .filter_map(|sample| Some(sample.records_per_s? / sample.handwritten_records_per_s))
        .collect();
    let by_hand = summarise(&by_hand).expect("there is at least one run");
    let (by_engine, ratio) = (summarise(&by_engine), summarise(&ratios));
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
        samples,
    }
}

fn positive_seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err(format!("`{text}` is no number of seconds between 0 and a day")),
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
                Ok(2.0)
            };
            let by_engine = || {
                order.borrow_mut().push('e');
                Ok(Some(1.0))
            };
            let expected = Sample { records_per_s: Some(1.0), handwritten_records_per_s: 2.0 };
            assert_eq!(sample(index, by_hand, by_engine).expect("both run"), expected);
        }
        assert_eq!(order.into_inner(), "heehhe");
    }

    #[test]
    fn the_ratio_is_the_median_of_neighbours_not_the_ratio_of_medians() {
        let pairs = [(10.0, 100.0), (60.0, 120.0), (90.0, 100.0)];
        let samples = pairs.map(|(engine, by_hand)| Sample {
            records_per_s: Some(engine),
            handwritten_records_per_s: by_hand,
        });
        let row = row(&options(&[]), &engine_run(Mode::Unaligned), samples.to_vec());
        assert_eq!((row.records_per_s, row.handwritten_records_per_s), (Some(60.0), 100.0));
        assert_eq!(row.ratio, Some(0.5));
        let json = serde_json::to_string(&row).expect("a row is plain data");
        assert!(json.starts_with(r#"{"scenario":"keyed-count","keys":10,"workers":2,"backend":"log","mode":"unaligned","interval_ms":1000,"#), "{json}");
    }

    #[test]
    fn a_run_of_the_loop_alone_has_no_ratio_and_names_no_backend() {
        let samples = vec![Sample { records_per_s: None, handwritten_records_per_s: 5.0 }];
        let row = row(&options(&["--handwritten-only"]), &engine_run(Mode::Off), samples);
        assert!(
            row.ratio.is_none() && row.backend.is_none() && row.handwritten_records_per_s == 5.0,
            "{row:?}"
        );
    }
}

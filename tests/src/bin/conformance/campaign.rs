//! Runs cases in rounds, each case once per round with a new seed, so that a run that is cut short has seen all of them.
//!
//! Always true: a run that takes longer than [`HANG`] is reported by case and seed and ends the program, whatever it is stuck in.

use crate::burn::Burners;
use crate::report::{self, Row};
use crate::schedules;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use thalweg_tests::conformance::{Case, Family, Outcome, case};

/// No run takes this long, however busy the machine is: jobs on real workers give up by themselves long before.
const HANG: Duration = Duration::from_secs(400);

/// Runs per case of a long run.
const LONG_RUNS: u64 = 20;

/// Options of a campaign.
#[derive(clap::Args)]
pub struct Options {
    /// Runs every case many times, and a million schedules of the barrier logic
    #[arg(long)]
    long: bool,
    /// Runs the cases of topologies, rescaling and stress in a circle, with every core kept busy by other processes; those on
    /// real workers where there are any
    #[arg(long)]
    contended: bool,
    /// Only cases whose name contains this; may be given several times
    #[arg(long = "case")]
    cases: Vec<String>,
    /// Runs of each case (20 with --long, else 1); with --contended, of all cases together (1000)
    #[arg(long)]
    runs: Option<u64>,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Ends after the run during which this many minutes have passed
    #[arg(long, default_value_t = 600)]
    minutes: u64,
    /// Runs at once
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Prints JSON lines
    #[arg(long)]
    json: bool,
    /// Only lists the cases
    #[arg(long)]
    list: bool,
}

impl Options {
    fn selected(&self) -> Vec<Case> {
        let named =
            |case: &Case| self.cases.is_empty() || self.cases.iter().any(|part| case.name.contains(part));
        let cases: Vec<Case> = case::all().filter(named).collect();
        if !self.contended {
            return cases;
        }
        let wanted = [Family::Topologies, Family::Rescale, Family::Stress];
        let has_real = |family| cases.iter().any(|case| case.family == family && case.real);
        cases
            .iter()
            .copied()
            .filter(|case| wanted.contains(&case.family) && (case.real || !has_real(case.family)))
            .collect()
    }
}

/// Runs the campaign; returns whether nothing was violated.
pub fn run(options: &Options) -> bool {
    let cases = options.selected();
    if cases.is_empty() {
        eprintln!("no case has such a name; --list shows all");
        return false;
    }
    if options.list {
        let mut out = std::io::stdout().lock();
        // A reader that has seen enough is no error.
        _ = cases.iter().try_for_each(|case| {
            let real = if case.real { ", real" } else { "" };
            writeln!(out, "{:<40} {:?}{real}", case.name, case.family)
        });
        return true;
    }
    let total = match (options.contended, options.runs) {
        (true, runs) => runs.unwrap_or(1_000),
        (false, Some(runs)) => runs * cases.len() as u64,
        (false, None) => cases.len() as u64 * if options.long { LONG_RUNS } else { 1 },
    };
    let limit = Duration::from_secs(60 * options.minutes);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut burners = options.contended.then(|| {
        // A while longer than the campaign, which ends them.
        Burners::start(cores, limit.as_secs() + 2 * HANG.as_secs()).expect("another process")
    });
    let begin = Instant::now();
    let rows: Vec<Mutex<Row>> = cases.iter().map(|case| Mutex::new(Row::new(case, options.seed))).collect();
    let bar = progress(total);
    let jobs = options.jobs.max(1);
    let now_running = watchdog(jobs);
    let (next, done) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for job in 0..jobs {
            let (cases, rows, bar, next, done, now_running) =
                (&cases, &rows, &bar, &next, &done, &now_running);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= total || begin.elapsed() >= limit {
                        break;
                    }
                    let index = (number % cases.len() as u64) as usize;
                    let (case, seed) = (&cases[index], options.seed + number / cases.len() as u64);
                    bar.set_message(format!("{} seed {seed}", case.name));
                    lock(now_running)[job] = Some((case.name, seed, Instant::now()));
                    let outcome = guarded(case, seed);
                    lock(now_running)[job] = None;
                    lock(&rows[index]).add(seed, &outcome);
                    if !outcome.violations.is_empty() {
                        let what = outcome.violations.join("\n");
                        bar.suspend(|| eprintln!("{} seed {seed}:\n{what}", case.name));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                    bar.inc(1);
                }
            });
        }
    });
    let done = done.into_inner();
    bar.finish_and_clear();
    if let Some(burners) = &mut burners {
        assert_eq!(burners.running(), cores, "the machine was not kept busy to the end");
    }
    drop(burners);
    let rows: Vec<Row> =
        rows.into_iter().map(|row| row.into_inner().unwrap_or_else(PoisonError::into_inner)).collect();
    if !options.json {
        println!(
            "{done} of {total} runs in {:.0} s, seeds {} to {}{}",
            begin.elapsed().as_secs_f64(),
            options.seed,
            options.seed + total.saturating_sub(1) / cases.len() as u64,
            if options.contended {
                format!(", {cores} cores kept busy by {cores} other processes")
            } else {
                String::new()
            }
        );
    }
    let good = report::print(&rows, options.json);
    let schedules_too = options.long && !options.contended && options.cases.is_empty();
    let schedules_good = !schedules_too || schedules::run(&schedules::Options::long(options.json));
    good && schedules_good && done == total
}

fn progress(total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} (eta {eta}) {msg}");
    ProgressBar::new(total).with_style(style.expect("the template is good"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One run; a panic is a violation.
fn guarded(case: &Case, seed: u64) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| (case.run)(seed))).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        Outcome { violations: vec![format!("panic: {}", what.unwrap_or_default())], ..Outcome::default() }
    })
}

/// What each thread runs now: its name, seed and when it began.
type NowRunning = Arc<Mutex<Vec<Option<(&'static str, u64, Instant)>>>>;

/// A thread that ends the program when a run hangs.
fn watchdog(jobs: usize) -> NowRunning {
    let now_running: NowRunning = Arc::new(Mutex::new(vec![None; jobs]));
    let watched = Arc::clone(&now_running);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let hung = lock(&watched).iter().flatten().find(|(_, _, since)| since.elapsed() > HANG).copied();
            if let Some((name, seed, _)) = hung {
                eprintln!("{name} seed {seed}: HUNG, no end after {HANG:?}");
                std::process::exit(3);
            }
        }
    });
    now_running
}

//! Runs cases in rounds, each case once per round with a new seed, so that a run that is cut short has seen all of them.
//!
//! Always true: a run that takes longer than [`HANG`] is reported by case and seed and ends the program, whatever it is stuck in.

use crate::burn::Burners;
use crate::report::{self, Row};
use crate::schedules;
use indicatif::{ProgressBar, ProgressStyle};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Prints JSON lines
    #[arg(long)]
    json: bool,
    /// Only lists the cases
    #[arg(long)]
    list: bool,
}

impl Options {
    fn selected(&self) -> Vec<&'static Case> {
        let named =
            |case: &&Case| self.cases.is_empty() || self.cases.iter().any(|part| case.name.contains(part));
        let cases: Vec<&'static Case> = case::all().filter(named).collect();
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
        cases.iter().for_each(|case| {
            println!("{:<40} {:?}{}", case.name, case.family, if case.real { ", real" } else { "" })
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
    let mut rows: Vec<Row> = cases.iter().map(|case| Row::new(case, options.seed)).collect();
    let bar = progress(total);
    let now_running = watchdog();
    let mut done = 0;
    while done < total && begin.elapsed() < limit {
        let (index, seed) = (done as usize % cases.len(), options.seed + done / cases.len() as u64);
        let case = cases[index];
        bar.set_message(format!("{} seed {seed}", case.name));
        *now_running.lock().unwrap_or_else(PoisonError::into_inner) = Some((case.name, seed, Instant::now()));
        let outcome = catch_unwind(AssertUnwindSafe(|| (case.run)(seed))).unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<String>().cloned();
            let what = what.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
            Outcome { violations: vec![format!("panic: {}", what.unwrap_or_default())], ..Outcome::default() }
        });
        rows[index].add(seed, &outcome);
        if !outcome.violations.is_empty() {
            bar.suspend(|| eprintln!("{} seed {seed}:\n{}", case.name, outcome.violations.join("\n")));
        }
        done += 1;
        bar.inc(1);
        if let Some(burners) = &mut burners {
            assert_eq!(burners.running(), cores, "the machine is not kept busy any more");
        }
    }
    *now_running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    bar.finish_and_clear();
    drop(burners);
    if !options.json {
        println!(
            "{done} of {total} runs in {:.0} s, seeds {} to {}{}",
            begin.elapsed().as_secs_f64(),
            options.seed,
            options.seed + done.saturating_sub(1) / cases.len() as u64,
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

/// What runs now: its name, seed and when it began.
type NowRunning = Arc<Mutex<Option<(&'static str, u64, Instant)>>>;

/// A thread that ends the program when a run hangs.
fn watchdog() -> NowRunning {
    let now_running = NowRunning::default();
    let watched = Arc::clone(&now_running);
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let running = *watched.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((name, seed, since)) = running
                && since.elapsed() > HANG
            {
                eprintln!("{name} seed {seed}: HUNG, no end after {HANG:?}");
                std::process::exit(3);
            }
        }
    });
    now_running
}

//! Random schedules of the barrier logic against Chandy–Lamport, by the hundred thousand, and which transitions they took.

use indicatif::{ProgressBar, ProgressStyle};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use thalweg::barrier::simulation::{Outcome, schedule};
use thalweg::barrier::transition::{Transition, Transitions};

/// Seeds that a thread takes at once.
const SEEDS_AT_ONCE: u64 = 256;

/// Options of a campaign of schedules.
#[derive(clap::Args)]
pub struct Options {
    /// Number of schedules
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Every transition must have been taken this often
    #[arg(long, default_value_t = 1_000)]
    each: u64,
    /// Threads
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Prints one JSON line
    #[arg(long)]
    json: bool,
}

impl Options {
    /// Those of a long run.
    pub fn long(json: bool) -> Options {
        Options { count: 1_000_000, seed: 0, each: 1_000, threads: 1, json }
    }
}

#[derive(Default)]
struct Sum {
    completed: usize,
    savepoints: usize,
    aborted: usize,
    crashes: usize,
    captured: usize,
    restored: usize,
    transitions: Transitions,
    violations: Vec<String>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.completed += outcome.completed;
        self.savepoints += outcome.savepoints;
        self.aborted += outcome.aborted;
        self.crashes += outcome.crashes;
        self.captured += outcome.captured_records;
        self.restored += outcome.restored_records;
        self.transitions.add(&outcome.transitions);
        self.violations.extend(outcome.violation.map(|violation| format!("seed {seed}: {violation}")));
    }
}

/// Runs the schedules; returns whether all held and every transition was seen often enough.
pub fn run(options: &Options) -> bool {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} schedules {elapsed} (eta {eta})");
    let bar = ProgressBar::new(options.count).with_style(style.expect("the template is good"));
    let sum = Mutex::new(Sum::default());
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..options.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(SEEDS_AT_ONCE, Ordering::Relaxed);
                    if from >= options.count {
                        break;
                    }
                    let to = (from + SEEDS_AT_ONCE).min(options.count);
                    let outcomes: Vec<(u64, Outcome)> =
                        (from..to).map(|n| options.seed + n).map(|seed| (seed, guarded(seed))).collect();
                    let mut sum = sum.lock().expect("no thread panics with it");
                    outcomes.into_iter().for_each(|(seed, outcome)| sum.add(seed, outcome));
                    bar.inc(to - from);
                }
            });
        }
    });
    bar.finish_and_clear();
    let sum = sum.into_inner().expect("no thread panics with it");
    print(options, &sum);
    let (rarest, count) = sum.transitions.rarest();
    if count < options.each {
        eprintln!("{rarest:?} was taken {count} times, less than {}", options.each);
    }
    sum.violations.is_empty() && count >= options.each
}

/// A schedule's outcome; a panic is a violation.
fn guarded(seed: u64) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| schedule(seed)))
        .unwrap_or_else(|_| Outcome { violation: Some("panic".into()), ..Outcome::default() })
}

fn print(options: &Options, sum: &Sum) {
    if options.json {
        let transitions: serde_json::Map<String, serde_json::Value> = Transition::ALL
            .into_iter()
            .map(|transition| (format!("{transition:?}"), sum.transitions.of(transition).into()))
            .collect();
        let row = serde_json::json!({
            "schedules": options.count, "first_seed": options.seed, "completed": sum.completed,
            "savepoints": sum.savepoints, "aborted": sum.aborted, "crashes": sum.crashes,
            "captured_records": sum.captured, "restored_records": sum.restored,
            "violations": sum.violations, "transitions": transitions,
        });
        println!("{row}");
        return;
    }
    println!(
        "{} schedules from seed {}: {} violations; {} checkpoints completed, {} of them aligned for good, {} aborted, {} crashes; \
         {} records captured, {} restored",
        options.count,
        options.seed,
        sum.violations.len(),
        sum.completed,
        sum.savepoints,
        sum.aborted,
        sum.crashes,
        sum.captured,
        sum.restored
    );
    for transition in Transition::ALL {
        println!("{:<26} {:>12}", format!("{transition:?}"), sum.transitions.of(transition));
    }
    sum.violations.iter().take(20).for_each(|violation| println!("{violation}"));
}

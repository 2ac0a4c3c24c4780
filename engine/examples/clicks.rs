//! Counts the clicks of every logged-in user, exactly once, however often it is killed.
//!
//! Without options it makes its own input, a click log of 20 million lines, counts it, and compares the output with a
//! single-threaded recount. Kill it at any moment and start it again: it continues from its latest checkpoint.
//!
//! Everything lies in one directory (`--dir`):
//!
//! | path           | what                                                                 |
//! |----------------|----------------------------------------------------------------------|
//! | `input/`       | the click log, unless files are given; complete as soon as it exists |
//! | `output/`      | CSV files of `user,total`: every running total of every user         |
//! | `checkpoints/` | the engine's checkpoints                                             |
//! | `journal`      | what the job reads, each restore, and the end; only ever appended to |
//!
//! Reading order: this file, [`input`], [`journal`], [`progress`], [`memory`], [`verify`], [`contract`].

#[path = "clicks/contract.rs"]
mod contract;
#[path = "clicks/input.rs"]
mod input;
#[path = "clicks/journal.rs"]
mod journal;
#[path = "clicks/memory.rs"]
mod memory;
#[path = "clicks/progress.rs"]
mod progress;
#[path = "clicks/verify.rs"]
mod verify;

use clap::{Parser, ValueEnum};
use input::Input;
use journal::Journal;
use progress::{JobProgress, Reporter, count};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use thalweg::cli::RunArguments;
use thalweg::config::{StateBackend, keys};
use thalweg::connector::{FileSink, FileSource};
use thalweg::coordinator::{CheckpointKind, CheckpointOutcome, CheckpointRecord};
use thalweg::dataflow::Stream;
use thalweg::graph::Head;
use thalweg::operator::Link;
use thalweg::state::TableStats;
use thalweg::{CheckpointMode, Dataflow, DriverChoice, Engine, JobHandle, JobStatus, RestartStrategy};

type Error = Box<dyn std::error::Error>;

/// The part of a click that the job looks at; the other fields of a line are passed over.
#[derive(Clone, Serialize, Deserialize, postcard_schema::Schema)]
struct Click {
    user: u64,
    logged_in: bool,
}
thalweg::data!(Click);

/// Counts the clicks of every logged-in user, exactly once, however often it is killed.
#[derive(Parser)]
struct Options {
    /// Click logs to read, one JSON object per line with `user` and `logged_in`; without any, the example makes its own.
    files: Vec<PathBuf>,
    /// Directory of input, output and checkpoints. The same directory again continues the job.
    #[arg(long, default_value = "target/clicks")]
    dir: PathBuf,
    /// Clicks of the input that the example makes [default: 20000000, or three per user].
    #[arg(long)]
    clicks: Option<u64>,
    /// Users in that input; how often each one clicks follows Zipf's law [default: 1000000].
    #[arg(long)]
    users: Option<u64>,
    /// Workers [default: one per core].
    #[arg(long)]
    workers: Option<usize>,
    /// Partitions of each operator [default: the number of workers].
    #[arg(long)]
    parallelism: Option<u32>,
    /// Time from one checkpoint to the next [default: 1s, unless the settings say].
    #[arg(long, value_name = "SPAN")]
    checkpoint_interval: Option<String>,
    /// What checkpoints do about data in flight. After a kill, at-least-once output fails the verification [default:
    /// unaligned, unless the settings say].
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Where keyed state lives.
    #[arg(long, value_enum)]
    state_backend: Option<Backend>,
    /// Memory for the pages of keyed state on the log backend, such as 80mb; its index comes on top. What does not fit is
    /// read back from the checkpoints' files [default: no limit].
    #[arg(long, value_name = "SIZE")]
    state_memory: Option<String>,
    /// What the workers run on.
    #[arg(long, value_enum)]
    driver: Option<Driver>,
    /// Clicks per second to read at most; 0 for no limit.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Only make the input.
    #[arg(long)]
    prepare: bool,
    /// Only compare the output of a completed job with a single-threaded recount.
    #[arg(long, conflicts_with = "prepare")]
    verify: bool,
    /// Show no progress.
    #[arg(long)]
    no_progress: bool,
    /// What any job takes: settings, and what it starts from.
    #[command(flatten)]
    run: RunArguments,
}

#[derive(Clone, Copy, ValueEnum)]
enum Mode {
    Unaligned,
    Aligned,
    AtLeastOnce,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Hashmap,
    Log,
}

#[derive(Clone, Copy, ValueEnum)]
enum Driver {
    Auto,
    Glommio,
    Threads,
}

/// Where the parts of a run lie.
struct Layout {
    input: PathBuf,
    output: PathBuf,
    checkpoints: PathBuf,
    journal: PathBuf,
}

impl Layout {
    fn new(dir: &Path) -> Self {
        Layout {
            input: dir.join("input"),
            output: dir.join("output"),
            checkpoints: dir.join("checkpoints"),
            journal: dir.join("journal"),
        }
    }
}

fn main() -> ExitCode {
    let outcome = if contract::is_asked() { contract::serve() } else { run(&Options::parse()) };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, Error> {
    let reporter = Reporter::new(!options.no_progress);
    let layout = Layout::new(&options.dir);
    let input = match (options.files.is_empty(), options.verify) {
        (false, _) => Input::given(&options.files)?,
        (true, true) => Input::open(&layout.input)?,
        (true, false) => Input::prepare(&layout.input, options.clicks, options.users, &reporter)?,
    };
    if options.prepare {
        reporter.say(&format!("prepared: {input}"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut journal = Journal::open(&layout.journal)?;
    journal.expect_input(&input)?;
    if options.verify && !journal.is_complete() {
        return Err("the job is not complete: run the same command without --verify first".into());
    }
    if journal.is_complete() {
        if !options.verify {
            reporter.say(&format!("complete already: {} is only verified again", options.dir.display()));
        }
    } else {
        process(options, &layout, &input, &mut journal, &reporter)?;
    }
    if !journal.is_complete() {
        reporter.say("stopped with a savepoint: the same command goes on from there");
        return Ok(ExitCode::SUCCESS);
    }
    let verdict = verify::verify(&input, &layout.output, &reporter)?;
    reporter.say(&verdict.describe(journal.restores()));
    Ok(if verdict.is_exact() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the job to its end, from wherever an earlier run has left it.
fn process(
    options: &Options,
    layout: &Layout,
    input: &Input,
    journal: &mut Journal,
    reporter: &Reporter,
) -> Result<(), Error> {
    let engine = engine(options, layout)?;
    let driver = format!("{:?}", engine.driver()).to_lowercase();
    reporter.say(&format!("{} workers on {driver}, reading {input}", engine.config().workers));
    if let Some(reason) = engine.fallback_reason() {
        reporter.say(&format!("glommio is not used: {reason}"));
    }
    memory::forget_peak();
    let begun = Instant::now();
    let roll_interval = 4 * engine.config().checkpoint_interval.unwrap_or(Duration::from_secs(1));
    let job = engine.run(dataflow(options, layout, input, roll_interval))?;
    watch(&job, input, journal, reporter)?;
    reporter.say(&summary(&job, begun.elapsed()));
    if engine.config().state_backend == StateBackend::Log {
        reporter.say(&state_summary(&job));
    }
    Ok(())
}

fn engine(options: &Options, layout: &Layout) -> Result<Engine, Error> {
    let mut builder = options.run.builder()?.checkpoint_dir(&layout.checkpoints);
    // What neither options nor settings say is the example's choice.
    let interval_is_set = builder.settings().is_set(keys::CHECKPOINT_INTERVAL);
    if let Some(interval) = &options.checkpoint_interval {
        builder = builder.checkpoint_interval(interval.as_str());
    } else if !interval_is_set {
        builder = builder.checkpoint_interval("1s");
    }
    let mode_is_set =
        builder.settings().is_set(keys::UNALIGNED) || builder.settings().is_set(keys::CHECKPOINT_MODE);
    if let Some(mode) = options.mode.or((!mode_is_set).then_some(Mode::Unaligned)) {
        builder = builder.checkpoint_mode(match mode {
            Mode::Unaligned => CheckpointMode::Unaligned,
            Mode::Aligned => CheckpointMode::Aligned,
            Mode::AtLeastOnce => CheckpointMode::AtLeastOnce,
        });
    }
    if !builder.settings().is_set(keys::RESTART_STRATEGY) {
        // A full disk should end the example, not keep it busy for ever.
        let delay = Duration::from_secs(1);
        builder = builder.restart_strategy(RestartStrategy::FixedDelay { attempts: 3, delay });
    }
    if let Some(driver) = options.driver {
        builder = builder.driver(match driver {
            Driver::Auto => DriverChoice::Auto,
            Driver::Glommio => DriverChoice::Glommio,
            Driver::Threads => DriverChoice::Threads,
        });
    }
    if let Some(backend) = options.state_backend {
        builder = builder.state_backend(match backend {
            Backend::Hashmap => StateBackend::HashMap,
            Backend::Log => StateBackend::Log,
        });
    }
    if let Some(memory) = &options.state_memory {
        builder = builder.state_memory(memory.as_str());
    }
    if let Some(workers) = options.workers {
        builder = builder.workers(workers);
    }
    if let Some(parallelism) = options.parallelism {
        builder = builder.parallelism(parallelism);
    }
    Ok(builder.build()?)
}

/// The job: one source per input path, and one count over all of them.
fn dataflow(options: &Options, layout: &Layout, input: &Input, roll_interval: Duration) -> Dataflow {
    let flow = Dataflow::new("clicks");
    let paths = input.paths();
    let mut logged_in = paths.iter().enumerate().map(|(index, path)| {
        let clicks = flow.source(format!("clicks {index}"), FileSource::ndjson::<Click>(path));
        let clicks = match options.rate {
            rate if rate > 0.0 => clicks.with_rate_limit(rate / paths.len() as f64),
            _ => clicks,
        };
        clicks.filter(format!("logged in {index}"), |click: &Click| click.logged_in)
    });
    // Files appear about every fourth checkpoint, small enough to follow and large enough not to be many.
    let sink = FileSink::csv(&layout.output).roll_interval(roll_interval);
    match (logged_in.next(), logged_in.next()) {
        (Some(first), Some(second)) => {
            let both = first.union(second);
            count_per_user(logged_in.fold(both, |all, next| all.union(next)), sink);
        }
        (Some(only), None) => count_per_user(only, sink),
        (None, _) => unreachable!("an input has a path"),
    }
    flow
}

fn count_per_user<H, L>(clicks: Stream<H, L>, sink: FileSink<thalweg::connector::files::Csv<(u64, u64)>>)
where
    H: Head,
    L: Link<H::Out, Out = Click>,
{
    clicks.key_by(|click: &Click| click.user).sum("clicks per user", |_: &Click| 1_u64).sink("totals", sink);
}

/// Shows the job's progress until it ends; journals each restore and the end.
fn watch(job: &JobHandle, input: &Input, journal: &mut Journal, reporter: &Reporter) -> Result<(), Error> {
    let mut started = false;
    let mut restarts = 0;
    let mut progress = JobProgress::new(reporter, input);
    loop {
        // The first look comes soon after the start; later ones as often as a person reads.
        let ended = job.wait_timeout(Duration::from_millis(if started { 100 } else { 5 }));
        let metrics = job.metrics();
        let checkpoints = &metrics.checkpoints;
        let runs = matches!(job.status(), JobStatus::Running | JobStatus::Finished);
        if runs && (!started || checkpoints.restarts > restarts) {
            started = true;
            restarts = checkpoints.restarts;
            match checkpoints.restored {
                Some(checkpoint) => {
                    journal.restored(checkpoint.0)?;
                    reporter.say(&format!("restored checkpoint {checkpoint}"));
                }
                None => reporter.say("started at the beginning"),
            }
        }
        if let Some(outcome) = ended {
            progress.finish();
            outcome?;
            let stopped = checkpoints.history.back().is_some_and(|last| {
                let failed = matches!(last.outcome, CheckpointOutcome::Failed(_));
                last.kind == CheckpointKind::StopWithSavepoint && !failed
            });
            return if stopped { Ok(()) } else { Ok(journal.complete()?) };
        }
        progress.show(&metrics);
    }
}

fn summary(job: &JobHandle, took: Duration) -> String {
    let metrics = job.metrics();
    let clicks: u64 = metrics.tasks.iter().filter(|task| task.is_source).map(|task| task.records_in).sum();
    let checkpoints = metrics.checkpoints;
    let seconds = took.as_secs_f64();
    let failed = |record: &&CheckpointRecord| matches!(record.outcome, CheckpointOutcome::Failed(_));
    let others = match checkpoints.history.iter().rev().find(failed).map(|record| &record.outcome) {
        Some(CheckpointOutcome::Failed(why)) => {
            format!(", {} not, the last because {why}", checkpoints.failed)
        }
        _ => String::new(),
    };
    format!(
        "read {} clicks in {seconds:.2} s, {:.2} million per second; {} checkpoints completed{others}",
        count(clicks),
        clicks as f64 / seconds / 1e6,
        checkpoints.completed,
    )
}

/// What became of the state's pages, and how much memory the process needed.
fn state_summary(job: &JobHandle) -> String {
    let metrics = job.metrics();
    let sum = |of: fn(&TableStats) -> u64| metrics.tasks.iter().map(|task| of(&task.state)).sum::<u64>();
    let resident = match memory::peak_bytes() {
        Some(bytes) => format!("{} MiB resident at most", count(bytes >> 20)),
        None => "resident memory unknown".to_owned(),
    };
    format!(
        "{} users in {} MiB of pages and {} MiB of index; {} page reads, {} of them blocking; {resident}",
        count(sum(|state| state.keys)),
        count(sum(|state| state.data_bytes) >> 20),
        count(sum(|state| state.index_bytes) >> 20),
        count(sum(|state| state.page_reads + state.page_reads_blocking)),
        count(sum(|state| state.page_reads_blocking)),
    )
}

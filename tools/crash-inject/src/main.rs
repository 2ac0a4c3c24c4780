//! `crash-inject`: lists crash points, kills jobs at them.

use clap::{Args, Parser, Subcommand};
use crash_inject::campaign::{Campaign, Kind};
use crash_inject::contract::Audit;
use crash_inject::report::{Report, line};
use crash_inject::run::{Orders, run};
use crash_inject::{faults, images, jobs};
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Kills a stream job where it hurts, restarts it, and counts what was lost.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Lists the crash points of the engine and its storage.
    Points,
    /// Kills a job, restarts it until it is done, compares its output with a reference, and begins anew.
    Run(RunOptions),
    /// Simulates lives of stores and of whole jobs, and recovers what a loss of power may leave of them at any moment.
    Images(ImageOptions),
    /// Simulates lives of whole jobs and of stores with failing disks, clocks and user code, and judges what comes of it.
    Faults(FaultOptions),
}

#[derive(Args)]
struct FaultOptions {
    /// Disks, on each of which a job lives until it has finished, or a store.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// The first disk's seed; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Writes a report.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Begins with no new disk after this long.
    #[arg(long, default_value = "6h", value_parser = humantime::parse_duration)]
    time_limit: Duration,
    /// Shows no progress.
    #[arg(long)]
    quiet: bool,
}

#[derive(Args)]
struct ImageOptions {
    /// Distinct images to judge.
    #[arg(long, default_value_t = 1_000_000)]
    count: u64,
    /// The first life's seed; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Lives at the same time [default: one for each core].
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Writes a report.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Begins no new life after this long.
    #[arg(long, default_value = "6h", value_parser = humantime::parse_duration)]
    time_limit: Duration,
    /// Shows no progress.
    #[arg(long)]
    quiet: bool,
}

#[derive(Args)]
struct RunOptions {
    /// The job: a binary that follows the contract in tools/crash-inject/README.md, or `clicks`, `sessions`
    /// or `transfers`, which are built.
    #[arg(long, default_value = "clicks")]
    job: String,
    /// Where to kill.
    #[arg(long, value_enum, default_value_t = Kind::Points)]
    campaign: Kind,
    /// Kills at each point.
    #[arg(long, default_value_t = 100)]
    hits: u64,
    /// Kills at random times.
    #[arg(long, default_value_t = 1_000)]
    kills: u64,
    /// Decides everything but the machine's own timing [default: from the clock].
    #[arg(long)]
    seed: Option<u64>,
    /// Writes a report.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keeps all cores busy meanwhile.
    #[arg(long)]
    contend: bool,
    /// Where progress and the job's directories lie: the same directory and seed again continue a campaign that was broken
    /// off [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Only these points; also points of the job's own.
    #[arg(long = "point", value_name = "NAME")]
    points: Vec<String>,
    /// Only one directory of a campaign: a replay of what was reported for it.
    #[arg(long, value_name = "N")]
    only_cycle: Option<u64>,
    /// Begins no new directory after this long.
    #[arg(long, default_value = "6h", value_parser = humantime::parse_duration)]
    time_limit: Duration,
    /// Shows no progress.
    #[arg(long)]
    quiet: bool,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Points => {
            let mut out = std::io::stdout().lock();
            // A reader that has seen enough is no error.
            _ = jobs::points().iter().try_for_each(|point| writeln!(out, "{point}"));
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(options) => run_campaign(&options),
        Command::Images(options) => explore_images(&options),
        Command::Faults(options) => explore_faults(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn explore_images(options: &ImageOptions) -> Result<ExitCode, String> {
    let began = std::time::Instant::now();
    let line = |outcome: &images::Outcome| {
        let images::Outcome { seen, distinct, lives, .. } = outcome;
        format!(
            "{lives} lives, {} moments ({} exhaustively), {} images judged, {distinct} distinct, {} worked on, {:.0?}",
            seen.moments,
            seen.exhausted,
            seen.judged,
            seen.worked_on,
            began.elapsed()
        )
    };
    let cores = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = options.threads.map_or_else(cores, NonZeroUsize::get);
    let mut shown = Duration::ZERO;
    let outcome = images::explore(options.seed, options.count, threads, |outcome| {
        if !options.quiet && began.elapsed() > shown + PROGRESS_EVERY {
            shown = began.elapsed();
            eprintln!("{}", line(outcome));
        }
        began.elapsed() < options.time_limit
    });
    if let Some(path) = &options.json {
        write_json(path, &outcome)?;
    }
    Ok(verdict(&outcome.complaints, outcome.distinct >= options.count, &line(&outcome)))
}

/// Says what a campaign came to: good is one that has reached its goal without a complaint.
fn verdict(complaints: &[String], reached: bool, line: &str) -> ExitCode {
    complaints.iter().for_each(|complaint| eprintln!("{complaint}"));
    println!("{line}, {} wrong", complaints.len());
    if complaints.is_empty() && reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn explore_faults(options: &FaultOptions) -> Result<ExitCode, String> {
    let began = std::time::Instant::now();
    // Panics are part of the campaign; those that are not injected are shown as ever.
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload_as_str().is_some_and(faults::is_injected) {
            shown(panic);
        }
    }));
    let line = |outcome: &faults::Outcome| {
        let faults::Tally { stores, lives, restarts, failed, crashed, failed_checkpoints, audit, .. } =
            &outcome.tally;
        let Audit { lost, duplicated, out_of_order, corrupt } = audit;
        let met: u64 = outcome.tally.faults.values().map(|met| met.met).sum();
        format!(
            "{} disks, {stores} of stores, {lives} lives of jobs, {met} faults met, {restarts} restarts, {failed} failed and said why, {crashed} \
             crashed, {failed_checkpoints} failed checkpoints, {lost} lost, {duplicated} duplicated, {out_of_order} out of \
             order, {corrupt} corrupt, {:.0?}",
            outcome.disks,
            began.elapsed()
        )
    };
    let outcome = faults::explore(options.seed, options.count, |outcome| {
        if !options.quiet && outcome.disks % 100 == 99 {
            eprintln!("{}", line(outcome));
        }
        began.elapsed() < options.time_limit
    });
    for (kind, met) in &outcome.tally.faults {
        println!("{kind:?}: met {} times, armed in {} lives of jobs", met.met, met.armed);
    }
    if let Some(path) = &options.json {
        write_json(path, &outcome)?;
    }
    Ok(verdict(&outcome.complaints, outcome.disks >= options.count, &line(&outcome)))
}

fn write_json(path: &std::path::Path, report: &impl serde::Serialize) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

fn run_campaign(options: &RunOptions) -> Result<ExitCode, String> {
    let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
    let seed = options.seed.unwrap_or_else(clock);
    let temporary = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut points = if options.points.is_empty() { jobs::points() } else { options.points.clone() };
    points.sort();
    let orders = Orders {
        job: jobs::find(&options.job)?,
        kind: options.campaign,
        goal: if options.campaign == Kind::Points { options.hits } else { options.kills },
        seed,
        points: if options.campaign == Kind::Points { points } else { Vec::new() },
        only_cycle: options.only_cycle,
        contend: options.contend,
        state: options.state.clone().unwrap_or_else(|| temporary.path().to_owned()),
        time_limit: options.time_limit,
    };
    eprintln!("seed {seed}, state in {}", orders.state.display());
    let mut show = |campaign: &Campaign| {
        if !options.quiet && campaign.cycles.is_multiple_of(20) {
            eprintln!("{} directories: {}", campaign.cycles, line(campaign));
        }
    };
    let outcome = run(&orders, &mut show)?;
    for complaint in &outcome.complaints {
        eprintln!("{complaint}");
    }
    let campaign = &outcome.campaign;
    if orders.kind == Kind::Points && !campaign.unreached().is_empty() {
        eprintln!("never reached by this job: {}", campaign.unreached().join(", "));
    }
    if !outcome.is_done {
        eprintln!("time was up before the goal; the same command with the same --state goes on");
    }
    println!("{}", line(campaign));
    if let Some(path) = &options.json {
        write_json(path, &Report::new(campaign))?;
    }
    if !outcome.complaints.is_empty() && options.state.is_none() {
        eprintln!("kept: {}", temporary.keep().display());
    }
    let is_good = campaign.audit.is_clean() && outcome.is_done;
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

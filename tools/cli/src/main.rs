//! `thalweg`: looks into checkpoints and savepoints offline, explains settings, and drives running engines.
//!
//! Exit codes: 0 for success, 1 for what failed or is damaged, 2 for a command line that was not understood. Results go to the
//! standard output, errors to the standard error.
//!
//! Reading order: this file, `checkpoints`, `control`, `settings`, `text`.

mod checkpoints;
mod control;
mod settings;
mod text;

use clap::{Parser, Subcommand};
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

/// Any error, as text for a person.
type Error = Box<dyn std::error::Error>;

/// Looks into checkpoints of Thalweg jobs, explains settings, and drives running engines.
#[derive(Parser)]
#[command(name = "thalweg", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look into checkpoints and savepoints, without the job's code. Only `dispose` changes anything.
    #[command(subcommand)]
    Checkpoints(checkpoints::Command),
    /// Show the jobs of a running engine.
    Jobs(control::Jobs),
    /// Let a running job take a checkpoint now.
    Checkpoint(control::Target),
    /// Let a running job take a savepoint now, and print its path. The job goes on.
    Savepoint(control::Savepoint),
    /// Stop a running job with a savepoint, and print its path. All output up to it is committed.
    Stop(control::Stop),
    /// Cancel a running job. What is not committed stays uncommitted.
    Cancel(control::Cancel),
    /// Explain and check settings.
    #[command(subcommand)]
    Config(settings::Command),
}

/// How a command ended that ran to its end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Good,
    /// It found what is not as it should be, and has said so.
    Bad,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let ran = match arguments.command {
        Command::Checkpoints(command) => checkpoints::run(command, &mut out),
        Command::Jobs(jobs) => control::jobs(jobs, &mut out),
        Command::Checkpoint(target) => control::checkpoint(target, &mut out),
        Command::Savepoint(savepoint) => control::savepoint(savepoint, &mut out),
        Command::Stop(stop) => control::stop(stop, &mut out),
        Command::Cancel(cancel) => control::cancel(cancel, &mut out),
        Command::Config(command) => settings::run(command, &mut out),
    };
    let ran = ran.and_then(|outcome| Ok(out.flush().map(|()| outcome)?));
    match ran {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Bad) => ExitCode::FAILURE,
        Err(error) if is_closed_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whoever read the output has seen enough, such as `head`.
fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

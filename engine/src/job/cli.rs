//! What a job's own program takes on its command line, so that every job is configured and started in the same way.
//!
//! [`main`] is a whole `main` function; [`RunArguments`] fits into a program's own `clap` parser. Names are those of `flink run`.
//!
//! Always true: what is given here counts more than the environment, and that more than files; see [`crate::config`].

use super::{Engine, EngineBuilder};
use crate::config::keys;
use crate::dataflow::Dataflow;
use crate::error::Error;
use clap::{Args, Parser, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// How a job is started: settings, and what it starts from.
///
/// ```
/// use clap::Parser;
///
/// #[derive(Parser)]
/// struct Options {
///     #[arg(long)]
///     input: String,
///     #[command(flatten)]
///     run: thalweg::cli::RunArguments,
/// }
///
/// let options = Options::parse_from(["job", "--input", "a", "-D", "thalweg.workers=1", "-D", "thalweg.driver=threads"]);
/// let engine = options.run.builder()?.build()?;
/// assert_eq!(engine.config().workers, 1);
/// # Ok::<(), thalweg::Error>(())
/// ```
#[derive(Args, Clone, Debug, Default)]
pub struct RunArguments {
    /// Settings in a YAML or TOML file; may be given several times.
    #[arg(long = "config", value_name = "FILE")]
    pub config_files: Vec<PathBuf>,
    /// A setting, such as `-D execution.checkpointing.interval=10s`; may be given several times.
    #[arg(short = 'D', value_name = "NAME=VALUE")]
    pub properties: Vec<String>,
    /// Start from this savepoint or checkpoint instead of the job's latest checkpoint.
    #[arg(short = 's', long = "from-savepoint", value_name = "PATH")]
    pub from_savepoint: Option<PathBuf>,
    /// Start although the savepoint holds state of operators that the job does not have; that state is dropped.
    #[arg(short = 'n', long, requires = "from_savepoint")]
    pub allow_non_restored_state: bool,
    /// To whom the savepoint belongs from then on.
    #[arg(long, visible_alias = "restore-mode", value_enum, requires = "from_savepoint")]
    pub claim_mode: Option<ClaimMode>,
    /// Let `thalweg jobs`, `savepoint`, `stop` and `cancel` drive the job over this socket.
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
}

/// To whom a savepoint belongs once a job has started from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClaimMode {
    /// It stays the user's.
    NoClaim,
    /// It becomes the job's, which deletes it when it needs it no more.
    Claim,
}

impl RunArguments {
    /// An engine with these settings, those of the environment and those of the files.
    ///
    /// # Errors
    /// [`Error::Config`] says where a setting is wrong and what would be right.
    pub fn builder(&self) -> Result<EngineBuilder, Error> {
        let mut builder = EngineBuilder::default();
        for file in &self.config_files {
            builder = builder.config_file(file)?;
        }
        builder = builder.environment()?;
        for property in &self.properties {
            builder = builder.property(property)?;
        }
        if let Some(path) = &self.from_savepoint {
            builder = builder.with(keys::RECOVERY_PATH, path.clone());
            builder = builder.with(keys::IGNORE_UNCLAIMED, self.allow_non_restored_state);
        }
        if let Some(mode) = self.claim_mode {
            let name = match mode {
                ClaimMode::NoClaim => "NO_CLAIM",
                ClaimMode::Claim => "CLAIM",
            };
            builder = builder.with(keys::CLAIM_MODE, name);
        }
        if let Some(path) = &self.control_socket {
            builder = builder.control_socket(path);
        }
        Ok(builder)
    }
}

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run the job to its end.
    Run(RunArguments),
}

/// A `main` function: `job run` with the [`RunArguments`] runs the job that `flow` describes, and waits for its end. The exit code is
/// 0 when it has finished, 1 when it failed or was cancelled, with the cause on the standard error, and 2 for arguments that
/// are not understood.
///
/// ```no_run
/// use thalweg::Dataflow;
/// use thalweg::connector::{CollectSink, GeneratorSource};
///
/// fn main() -> std::process::ExitCode {
///     thalweg::cli::main(|| {
///         let flow = Dataflow::new("numbers");
///         flow.source("numbers", GeneratorSource::new(Some(10), |n| n)).sink("collect", CollectSink::new());
///         flow
///     })
/// }
/// ```
pub fn main(flow: impl FnOnce() -> Dataflow) -> ExitCode {
    run(std::env::args_os(), flow)
}

/// As [`main`], with the program's name and arguments from `arguments`. For arguments that are not understood, and for `--help`, it
/// prints what there is to say and returns as well.
pub fn run(arguments: impl IntoIterator<Item = OsString>, flow: impl FnOnce() -> Dataflow) -> ExitCode {
    let Command::Run(run) = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments.command,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    match run_to_end(&run, flow) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_to_end(run: &RunArguments, flow: impl FnOnce() -> Dataflow) -> Result<(), Error> {
    let engine: Engine = run.builder()?.build()?;
    engine.run(flow())?.wait()
}

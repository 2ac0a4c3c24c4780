//! `cargo xtask <command>`: the development tasks of the workspace.
//!
//! Needs nothing but cargo, rustfmt and clippy; every command works from any folder of the workspace.

mod ci;
mod format;
mod fuzz;
mod source;
mod tidy;

use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Development tasks of the Thalweg workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs what CI runs, stopping at the first failure.
    Test,
    /// Runs one step of `test` alone.
    CiStep {
        /// The step.
        step: ci::Step,
    },
    /// Runs the named cases of conformance; `cargo xtask conformance --help` says how.
    #[command(disable_help_flag = true)]
    Conformance {
        /// Passed on.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs every fuzz target for a while; needs cargo-fuzz.
    Fuzz {
        /// How long each target runs.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Checks the rules that neither the compiler nor clippy knows.
    Tidy,
    /// Renders storage/FORMAT.md from the module docs of the format files.
    Format {
        /// Changes nothing; fails if the page is not current.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> ExitCode {
    let root = workspace_root();
    let outcome = match Arguments::parse().command {
        Command::Test => ci::run_all(&root),
        Command::CiStep { step } => ci::run_step(&root, step),
        Command::Conformance { arguments } => ci::conformance(&root, &arguments),
        Command::Fuzz { seconds } => fuzz::run(&root, seconds),
        Command::Tidy => tidy::run(&root),
        Command::Format { check: true } => format::check(&root),
        Command::Format { check: false } => format::write(&root),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// The folder that holds the workspace's Cargo.toml.
fn workspace_root() -> PathBuf {
    // Cargo sets the variable for what it runs; the constant serves a binary that was started by hand.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = Path::new(&package);
    package.ancestors().nth(2).unwrap_or(package).to_path_buf()
}

//! `cargo xtask conformance`: runs the named cases of conformance many times over, and random schedules of the barrier logic.
//!
//! Prints one line per case when it is done, then everything that was violated, each with the seed that shows it again.

mod burn;
mod campaign;
mod report;
mod schedules;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs the named cases of conformance.
#[derive(Parser)]
#[command(name = "cargo xtask conformance", bin_name = "cargo xtask conformance")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    campaign: campaign::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Runs random schedules of the barrier logic against Chandy–Lamport.
    Schedules(schedules::Options),
    #[command(hide = true)]
    Burn(burn::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let good = match arguments.command {
        Some(Command::Schedules(options)) => schedules::run(&options),
        Some(Command::Burn(options)) => burn::run(&options),
        None => campaign::run(&arguments.campaign),
    };
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}

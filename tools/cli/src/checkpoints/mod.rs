//! `thalweg checkpoints`: what a directory of checkpoints or savepoints holds.

mod export;
mod inspect;
mod list;
mod verify;

use crate::{Error, Outcome};
use clap::{Args, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use thalweg_storage::checkpoint::dispose_savepoint;
use thalweg_storage::io::{DiskHandle, StdDisk};

#[derive(Subcommand)]
pub enum Command {
    /// List the checkpoints and savepoints in a directory: of one job, or of all jobs.
    List {
        /// The checkpoint directory, a job's part of it, or a directory of savepoints.
        dir: PathBuf,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Show operators, states with their types and sizes, source positions, committables and data in flight.
    Inspect {
        #[command(flatten)]
        target: Target,
        /// Show the size of every key group.
        #[arg(long)]
        groups: bool,
        /// Print one JSON document, with all key groups.
        #[arg(long)]
        json: bool,
    },
    /// Read every file and check every byte. The exit code is 1 when something is damaged or missing.
    Verify {
        #[command(flatten)]
        target: Target,
        /// Print one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Delete a savepoint: its manifest and the files that it names, nothing else. A job that was stopped with it, or has started
    /// from it and not completed a checkpoint since, needs it.
    Dispose {
        /// The directory of the savepoint.
        dir: PathBuf,
    },
    /// Print what the states hold, as one line of JSON per key, timer or element.
    Export {
        #[command(flatten)]
        target: Target,
        /// Only this operator, by its uid.
        #[arg(long)]
        operator: Option<String>,
        /// Only states of this name.
        #[arg(long)]
        state: Option<String>,
    },
}

#[derive(Args)]
pub struct Target {
    /// The directory of a checkpoint (`chk-<id>`) or savepoint, or its MANIFEST.
    dir: PathBuf,
}

pub fn run(command: Command, out: &mut dyn Write) -> Result<Outcome, Error> {
    let disk = DiskHandle::new(StdDisk::start(1)?);
    match command {
        Command::List { dir, json } => list::run(&disk, &dir, json, out),
        Command::Inspect { target, groups, json } => inspect::run(&disk, &target.dir, groups, json, out),
        Command::Verify { target, json } => verify::run(&disk, &target.dir, json, out),
        Command::Dispose { dir } => {
            dispose_savepoint(&disk, &dir)?;
            writeln!(out, "disposed of {}", dir.display())?;
            Ok(Outcome::Good)
        }
        Command::Export { target, operator, state } => {
            export::run(&disk, &target.dir, operator.as_deref(), state.as_deref(), out)
        }
    }
}

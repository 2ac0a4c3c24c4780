//! `thalweg jobs`, `checkpoint`, `savepoint`, `stop` and `cancel`: drive a running engine over its control socket.

use crate::{Error, Outcome};
use clap::Args;
use std::io::Write;
use std::path::{Path, PathBuf};
use thalweg::remote::{Answer, Command, JobReport, call};

/// Which engine, and which of its jobs.
#[derive(Args)]
pub struct Target {
    /// The engine's control socket: its setting `thalweg.control.socket`.
    #[arg(long, value_name = "PATH", env = "THALWEG_CONTROL_SOCKET")]
    socket: PathBuf,
    /// The job by name; the running one where it is left out.
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
}

#[derive(Args)]
pub struct Jobs {
    /// The engine's control socket: its setting `thalweg.control.socket`.
    #[arg(long, value_name = "PATH", env = "THALWEG_CONTROL_SOCKET")]
    socket: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Savepoint {
    #[command(flatten)]
    target: Target,
    /// Where the savepoint gets its directory, as the engine's process sees it. Without it, where the engine's setting
    /// `execution.checkpointing.savepoint-dir` says.
    dir: Option<PathBuf>,
}

#[derive(Args)]
pub struct Cancel {
    #[command(flatten)]
    target: Target,
    /// Stop the job with a savepoint in this directory instead, so that nothing is done behind it.
    #[arg(short = 's', long, value_name = "DIR")]
    with_savepoint: Option<PathBuf>,
}

#[derive(Args)]
pub struct Stop {
    #[command(flatten)]
    target: Target,
    /// Let the sources end first, as if there were no more input: for a job that will not go on.
    #[arg(long)]
    drain: bool,
    /// Where the savepoint gets its directory; see `savepoint`.
    #[arg(short = 'p', long, value_name = "DIR")]
    savepoint_path: Option<PathBuf>,
}

pub fn jobs(Jobs { socket, json }: Jobs, out: &mut dyn Write) -> Result<Outcome, Error> {
    let Answer::Jobs { jobs } = call(&socket, &Command::Jobs {})? else { return Err(unexpected()) };
    if json {
        writeln!(out, "{}", serde_json::to_string(&jobs)?)?;
    } else if jobs.is_empty() {
        writeln!(out, "the engine runs no job")?;
    }
    for job in jobs.iter().filter(|_| !json) {
        let JobReport {
            name,
            status,
            tasks,
            records_read,
            checkpoints_completed,
            checkpoints_failed,
            restarts,
        } = job;
        writeln!(
            out,
            "{name}: {status}; {tasks} tasks, {records_read} records read; checkpoints: {checkpoints_completed} completed, \
             {checkpoints_failed} failed; {restarts} restarts"
        )?;
    }
    Ok(Outcome::Good)
}

pub fn checkpoint(Target { socket, job }: Target, out: &mut dyn Write) -> Result<Outcome, Error> {
    tell(&socket, Command::Checkpoint { job }, out)
}

pub fn savepoint(Savepoint { target, dir }: Savepoint, out: &mut dyn Write) -> Result<Outcome, Error> {
    let dir = dir.map(std::path::absolute).transpose()?;
    tell(&target.socket, Command::Savepoint { job: target.job, dir }, out)
}

pub fn stop(Stop { target, drain, savepoint_path }: Stop, out: &mut dyn Write) -> Result<Outcome, Error> {
    let dir = savepoint_path.map(std::path::absolute).transpose()?;
    tell(&target.socket, Command::Stop { job: target.job, drain, dir }, out)
}

pub fn cancel(Cancel { target, with_savepoint }: Cancel, out: &mut dyn Write) -> Result<Outcome, Error> {
    let job = target.job;
    let command = match with_savepoint {
        Some(dir) => Command::Stop { job, drain: false, dir: Some(std::path::absolute(dir)?) },
        None => Command::Cancel { job },
    };
    tell(&target.socket, command, out)
}

fn tell(socket: &Path, command: Command, out: &mut dyn Write) -> Result<Outcome, Error> {
    match call(socket, &command)? {
        Answer::Checkpoint { id } => writeln!(out, "checkpoint {id} is complete")?,
        // The path alone, for scripts.
        Answer::Savepoint { path } => writeln!(out, "{}", path.display())?,
        Answer::Cancelled {} => writeln!(out, "cancelled")?,
        _ => return Err(unexpected()),
    }
    Ok(Outcome::Good)
}

fn unexpected() -> Error {
    "the engine answers something else than what it was asked: use the command line that belongs to the engine".into()
}

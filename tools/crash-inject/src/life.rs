//! One life of a job: a child process from its start to its end, by itself, at a crash point or by a signal.
//!
//! Always true: when a function here returns, the child that it started is dead.

use crate::contract::{Audit, CRASH_AT, DIR, RESTORED, SEED, STEP, Step};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// SIGKILL.
const KILLED: i32 = 9;
/// A life that lasts longer is stuck: a machine that is busy enough makes a second's work last for minutes.
const LIFE_MAX: Duration = Duration::from_secs(900);
/// Time between two looks at a child.
const LOOK: Duration = Duration::from_micros(500);

/// How a life is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// By itself.
    Finish,
    /// At a crash point, when it is reached for the n-th time.
    AtPoint(String, u64),
    /// After so long.
    After(Duration),
}

/// How a life has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The job is done.
    Completed,
    /// It was killed as planned.
    Killed,
    /// It has failed, or was stuck: why.
    Failed(String),
}

/// A life that is over.
#[derive(Clone, Debug)]
pub struct Life {
    /// How it has ended.
    pub end: End,
    /// The checkpoint that it said to have restored.
    pub restored: Option<u64>,
    /// How long it took.
    pub took: Duration,
}

/// A job under test, in one directory.
pub struct Subject<'a> {
    /// The binary.
    pub job: &'a Path,
    /// The directory: what the job keeps lies in `job`, what it has said last in `stdout` and `stderr`.
    pub dir: &'a Path,
    /// What the job may vary with.
    pub seed: u64,
}

impl Subject<'_> {
    /// Where the job keeps everything.
    pub fn job_dir(&self) -> PathBuf {
        self.dir.join("job")
    }

    /// Lives once.
    ///
    /// # Errors
    /// The child cannot be started, watched or killed.
    pub fn live(&self, plan: &Plan) -> Result<Life, String> {
        let began = Instant::now();
        let mut command = self.command(Step::Run)?;
        if let Plan::AtPoint(point, count) = plan {
            command.env(CRASH_AT, format!("{point}:{count}"));
        }
        let mut child = Guard(command.spawn().map_err(|error| format!("{}: {error}", self.job.display()))?);
        let limit = if let Plan::After(time) = plan { *time } else { LIFE_MAX };
        let status = child.wait(began + limit)?;
        let took = began.elapsed();
        drop(child);
        let (stdout, stderr) = (self.said("stdout"), self.said("stderr"));
        let number = |line: &str| line.strip_prefix(RESTORED)?.split(' ').next()?.parse().ok();
        let restored = stdout.lines().find_map(number);
        let end = match (status, plan) {
            (None, Plan::After(_)) => End::Killed,
            (None, _) => End::Failed(format!("stuck for {LIFE_MAX:?}: {stdout}{stderr}")),
            (Some(status), _) if status.success() => End::Completed,
            (Some(status), Plan::AtPoint(point, _))
                if status.signal() == Some(KILLED)
                    && stderr.lines().any(|line| line == format!("crash point {point}")) =>
            {
                End::Killed
            }
            (Some(status), _) => End::Failed(format!("{status}: {}{}", tail(&stdout), tail(&stderr))),
        };
        Ok(Life { end, restored, took })
    }

    /// Compares the output of a job that is done with its reference.
    ///
    /// # Errors
    /// The child cannot be started, or does not answer as the contract says.
    pub fn verify(&self) -> Result<Audit, String> {
        let mut child = Guard(self.command(Step::Verify)?.spawn().map_err(|error| error.to_string())?);
        let status = child.wait(Instant::now() + LIFE_MAX)?.ok_or("the verification is stuck")?;
        let (stdout, stderr) = (self.said("stdout"), self.said("stderr"));
        if !status.success() {
            return Err(format!("the verification ended with {status}: {}{}", tail(&stdout), tail(&stderr)));
        }
        let audit = stdout.lines().find_map(|line| serde_json::from_str(line).ok());
        audit.ok_or_else(|| format!("the verification printed no counts as JSON: {}", tail(&stdout)))
    }

    fn command(&self, step: Step) -> Result<Command, String> {
        let named = |error| format!("{}: {error}", self.dir.display());
        std::fs::create_dir_all(self.job_dir()).map_err(named)?;
        let mut command = Command::new(self.job);
        command
            .env_remove(CRASH_AT)
            .env(STEP, step.name())
            .env(DIR, self.job_dir())
            .env(SEED, self.seed.to_string());
        command.stdin(Stdio::null());
        command.stdout(File::create(self.dir.join("stdout")).map_err(named)?);
        command.stderr(File::create(self.dir.join("stderr")).map_err(named)?);
        Ok(command)
    }

    fn said(&self, name: &str) -> String {
        let bytes = std::fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// The last lines of a text.
fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].iter().map(|line| format!("\n    {line}")).collect()
}

/// A child that is dead once this is dropped.
struct Guard(Child);

impl Guard {
    /// How it ended; none when it had not until `deadline`, and is dead now.
    fn wait(&mut self, deadline: Instant) -> Result<Option<ExitStatus>, String> {
        loop {
            if let Some(status) = self.0.try_wait().map_err(|error| error.to_string())? {
                return Ok(Some(status));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.0.kill().map_err(|error| error.to_string())?;
                // It may have ended by itself at the last moment.
                let status = self.0.wait().map_err(|error| error.to_string())?;
                return Ok((status.signal() != Some(KILLED)).then_some(status));
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Both fail for a child that has ended, as they should.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! Parts of a scenario that need a process of their own: this program again, with a hidden subcommand, whose answers are lines on its
//! standard output.

use crate::Result;
use crate::cgroup::MemoryLimit;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A process that runs a part of a scenario; it is killed, if it still runs, and waited for when dropped.
pub struct Part {
    child: Child,
    output: BufReader<ChildStdout>,
    /// Removed behind the process.
    limit: Option<MemoryLimit>,
}

impl Part {
    /// Runs this program with `arguments`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Part> {
        Self::start_any(arguments, Stdio::null())
    }

    /// Runs this program with `arguments`, its memory limited to `bytes` where the system permits that, page cache included. The
    /// part begins by [`wait_for_limit`].
    ///
    /// # Errors
    /// It could not be started.
    pub fn start_limited(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
        bytes: u64,
    ) -> Result<Part> {
        let mut part = Self::start_any(arguments, Stdio::piped())?;
        part.limit = MemoryLimit::of_process(part.child.id(), bytes)
            .inspect_err(|error| eprintln!("thalweg-bench: memory is not limited: {error}"))
            .ok();
        drop(part.child.stdin.take());
        Ok(part)
    }

    fn start_any(arguments: impl IntoIterator<Item = impl Into<OsString>>, input: Stdio) -> Result<Part> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments.into_iter().map(Into::into))
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().expect("it was piped"));
        Ok(Part { child, output, limit: None })
    }

    /// The limit of its memory, if the system granted one.
    pub fn limit_bytes(&self) -> Option<u64> {
        self.limit.as_ref().map(MemoryLimit::bytes)
    }

    /// Its next answer; the moment to look at the clock is when this returns.
    ///
    /// # Errors
    /// It ended instead; it says why on standard error.
    pub fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err(format!("a part of the scenario has failed: {}", self.child.wait()?).into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It failed.
    pub fn finish(mut self) -> Result<()> {
        let status = self.child.wait()?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("a part of the scenario has failed: {status}").into())
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Waits until the limit of this process holds.
///
/// # Errors
/// Its parent is gone.
pub fn wait_for_limit() -> Result<()> {
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink())?;
    Ok(())
}

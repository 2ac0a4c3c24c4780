//! Parts of a scenario that need a process of their own: this program again, with a hidden subcommand, whose answers are lines on its
//! standard output.

use crate::Result;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A process that runs a part of a scenario; it is waited for, or else killed, when dropped.
pub struct Part {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Part {
    /// Runs this program with `arguments`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Part> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments.into_iter().map(Into::into))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = BufReader::new(child.stdout.take().expect("it was piped"));
        Ok(Part { child, output })
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

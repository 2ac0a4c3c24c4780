//! Tasks: maximal chains of operators without an exchange, at one partition.
//!
//! A task is a plain object. It never blocks, never awaits and names no runtime; a worker polls it.

mod body;
mod inputs;
mod operator_task;
mod part;
mod source;
#[cfg(test)]
pub(crate) mod tests;

pub use body::{Body, OneInput, TwoInput};
pub use inputs::{Input, Inputs};
pub use operator_task::{KeyedRestore, OperatorTask, TaskParts};
pub use part::PartFiles;
pub use source::{SPLITS_STATE, SourceBody};

use crate::clock::Nanos;
use crate::control::{TaskCommand, TaskFailure};

/// What one poll of a task achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Something was done, and there may be more to do at once.
    Busy,
    /// There is output but no room for it: wait for a consumer to free some.
    Blocked {
        /// Poll again at this time even if no doorbell rings.
        wake_at: Option<Nanos>,
    },
    /// The next record's state is being read from disk; the end of a read rings the doorbell.
    Waiting {
        /// Poll again at this time even if no doorbell rings.
        wake_at: Option<Nanos>,
    },
    /// There is nothing to do until a doorbell rings.
    Idle {
        /// Poll again at this time even if no doorbell rings.
        wake_at: Option<Nanos>,
    },
    /// The task has finished. It still answers commands: a finished task acknowledges checkpoints.
    Finished,
}

/// How much one poll may do.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Records to process at most, roughly.
    pub records: usize,
    /// Time to spend at most, roughly, in nanoseconds.
    pub nanos: u64,
}

/// A unit of execution that a worker polls.
pub trait Task: Send {
    /// Name for people: the operators of the chain, and the partition.
    fn name(&self) -> &str;

    /// The partition (subtask index).
    fn partition(&self) -> u32;

    /// Takes a command; acted upon by later polls.
    fn command(&mut self, command: TaskCommand);

    /// Loads the keyed state that is to be restored, if there is any. Called once, before the first poll, on any thread;
    /// waits for the disk.
    ///
    /// # Errors
    /// The state is damaged, missing or does not fit; the task must not be polled.
    fn restore(&mut self) -> Result<(), TaskFailure> {
        Ok(())
    }

    /// Does a bounded piece of work. Reports acknowledgements by itself.
    ///
    /// # Errors
    /// The task has failed and must not be polled again. A panic in here means the same.
    fn poll(&mut self, now: Nanos, budget: Budget) -> Result<Progress, TaskFailure>;

    /// Describes a panic that unwound out of [`Task::poll`].
    fn failure_of_panic(&self, message: String) -> TaskFailure;
}

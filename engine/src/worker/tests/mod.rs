//! Claims about workers, made with fake tasks: `rounds` steps simulated workers, `drivers` runs real threads.

mod drivers;
mod rounds;

use crate::clock::Nanos;
use crate::control::{Report, ReportSink, TaskCommand, TaskFailure, TaskId};
use crate::task::{Budget, Progress, Task};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_storage::{AttemptId, CheckpointId};

/// Generous: a test that waits this long has lost a wake-up.
const WATCHDOG: Duration = Duration::from_secs(60);

const ATTEMPT: AttemptId = AttemptId(1);

type PollFn = Box<dyn FnMut(Nanos) -> Result<Progress, TaskFailure> + Send>;

/// A task whose polls are a closure.
struct Fake {
    name: String,
    partition: u32,
    poll: PollFn,
    on_command: Box<dyn FnMut(TaskCommand) + Send>,
    on_drop: Option<Box<dyn FnOnce() + Send>>,
}

impl Fake {
    fn new(name: &str, poll: impl FnMut(Nanos) -> Result<Progress, TaskFailure> + Send + 'static) -> Self {
        Fake {
            name: name.to_owned(),
            partition: 3,
            poll: Box::new(poll),
            on_command: Box::new(|_| {}),
            on_drop: None,
        }
    }

    fn on_command(mut self, action: impl FnMut(TaskCommand) + Send + 'static) -> Self {
        self.on_command = Box::new(action);
        self
    }

    fn on_drop(mut self, action: impl FnOnce() + Send + 'static) -> Self {
        self.on_drop = Some(Box::new(action));
        self
    }

    fn boxed(self, id: u32) -> (TaskId, Box<dyn Task>) {
        (TaskId(id), Box::new(self))
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(action) = self.on_drop.take() {
            action();
        }
    }
}

impl Task for Fake {
    fn name(&self) -> &str {
        &self.name
    }

    fn partition(&self) -> u32 {
        self.partition
    }

    fn command(&mut self, command: TaskCommand) {
        (self.on_command)(command);
    }

    fn poll(&mut self, now: Nanos, _budget: Budget) -> Result<Progress, TaskFailure> {
        (self.poll)(now)
    }

    fn failure_of_panic(&self, message: String) -> TaskFailure {
        TaskFailure { operator: self.name.clone(), partition: self.partition, message, fatal: false }
    }
}

fn idle() -> Result<Progress, TaskFailure> {
    Ok(Progress::Idle { wake_at: None })
}

fn abort_command() -> TaskCommand {
    TaskCommand::Abort(CheckpointId(7), None)
}

/// Collects reports for a test.
struct Reports(Mutex<Sender<Report>>);

impl Reports {
    fn channel() -> (Arc<dyn ReportSink>, Receiver<Report>) {
        let (sender, receiver) = channel();
        (Arc::new(Reports(Mutex::new(sender))), receiver)
    }
}

impl ReportSink for Reports {
    fn report(&self, report: Report) {
        // A test may have ended already.
        let _ = self.0.lock().unwrap().send(report);
    }
}

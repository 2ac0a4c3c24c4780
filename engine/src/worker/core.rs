//! One worker without its thread: takes commands, owns the tasks of attempts, polls them in turn.
//!
//! Always true:
//! - each round polls every task that is not finished or failed exactly once, so none starves another;
//! - a task that returned an error or panicked is reported once as [`Report::Failed`] and never called again, while the
//!   rest of its attempt runs on until the attempt is cancelled;
//! - a finished task stays and answers commands until its attempt is cancelled;
//! - [`Report::Cancelled`] follows the drop of the attempt's last task.
//!
//! Driven by the glommio, thread and simulated drivers; names no runtime and never blocks.

use super::link::{Link, TaskInfo, discard, drop_quietly, panic_message};
use super::times::{Activity, TaskTimes};
use crate::clock::{Clock, Nanos};
use crate::control::{Report, ReportSink, TaskCommand, TaskFailure, TaskId, WorkerCommand};
use crate::ring::doorbell::Doorbell;
use crate::task::{Budget, Progress, Task};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use thalweg_storage::AttemptId;

/// What one poll of a task may do: enough to amortise the switch between tasks, little enough that ten busy tasks on a
/// core still all have their turn within a few milliseconds.
const BUDGET: Budget = Budget { records: 8_192, nanos: 200_000 };

/// How long an idle worker polls on before it announces its sleep, in nanoseconds: about what the wake-up that it may
/// save would cost. Bounded in rounds too, for clocks that stand still.
const IDLE_SPIN_NS: u64 = 5_000;
const IDLE_SPIN_ROUNDS: u32 = 64;

/// What the driver should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Call [`WorkerCore::turn`] again soon.
    Again,
    /// Park until the doorbell rings or this time comes, then cancel the sleep; it is announced and rechecked already.
    Park(Option<Nanos>),
    /// Leave the loop.
    Shutdown,
}

/// What one round of a worker came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Something was done, and there may be more to do at once: run another round.
    pub busy: bool,
    /// When to run a round even if the doorbell does not ring.
    pub wake_at: Option<Nanos>,
    /// The worker was told to leave its loop; its tasks are dropped.
    pub shutdown: bool,
}

#[derive(Clone, Copy)]
enum Phase {
    Running,
    /// Polled again only after a command.
    Finished,
    /// Never called again.
    Failed,
}

struct Slot {
    id: TaskId,
    task: Box<dyn Task>,
    phase: Phase,
    times: Arc<TaskTimes>,
}

struct Attempt {
    id: AttemptId,
    reports: Arc<dyn ReportSink>,
    slots: Vec<Slot>,
}

/// The state of one worker's run loop.
pub(super) struct WorkerCore {
    link: Arc<Link>,
    clock: Arc<dyn Clock>,
    attempts: Vec<Attempt>,
    budget: Budget,
}

impl WorkerCore {
    /// Worker `index`, woken by `doorbell`, without tasks.
    pub(super) fn new(index: usize, doorbell: Doorbell, clock: Arc<dyn Clock>) -> Self {
        WorkerCore { link: Arc::new(Link::new(index, doorbell)), clock, attempts: Vec::new(), budget: BUDGET }
    }

    /// The half that is shared with the rest of the engine.
    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The clock that rounds run on.
    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// What each poll of a task may do from now on.
    pub(super) fn set_budget(&mut self, budget: Budget) {
        self.budget = budget;
    }

    /// Carries out the commands that have come, then polls every task once. `now` is the present time; the clock is
    /// read once per poll besides.
    ///
    /// A round that was not busy has found every task idle, blocked or waiting: what makes one of them runnable again rings the
    /// doorbell. That holds for tasks of this very worker too: one that hands a peer something rings the peer's bell.
    pub(super) fn run_round(&mut self, now: Nanos) -> Round {
        self.link.beat();
        let mut round = Round::default();
        let mut mail = self.link.take_mail().into_iter();
        while let Some(command) = mail.next() {
            round.busy = true;
            if self.carry_out(command, now) {
                mail.for_each(discard);
                self.drop_all();
                return Round { shutdown: true, ..round };
            }
        }
        let mut now = now;
        let mut position = 0;
        for attempt in &mut self.attempts {
            for slot in &mut attempt.slots {
                if matches!(slot.phase, Phase::Running) {
                    self.link.set_polling(Some(position));
                    let outcome = poll(&mut *slot.task, now, self.budget);
                    let end = self.clock.now();
                    let found = match outcome {
                        Ok(Progress::Busy) => {
                            round.busy = true;
                            Activity::Busy
                        }
                        Ok(Progress::Blocked { wake_at }) => {
                            round.wake_at = earlier(round.wake_at, wake_at);
                            Activity::Blocked
                        }
                        Ok(Progress::Waiting { wake_at }) => {
                            round.wake_at = earlier(round.wake_at, wake_at);
                            Activity::Waiting
                        }
                        Ok(Progress::Idle { wake_at }) => {
                            round.wake_at = earlier(round.wake_at, wake_at);
                            Activity::Idle
                        }
                        Ok(Progress::Finished) => {
                            // Its consumers may have become runnable in this round, after their own poll.
                            round.busy = true;
                            slot.phase = Phase::Finished;
                            Activity::Idle
                        }
                        Err(failure) => {
                            round.busy = true;
                            slot.phase = Phase::Failed;
                            attempt.reports.report(Report::Failed(attempt.id, slot.id, failure));
                            Activity::Idle
                        }
                    };
                    slot.times.record_poll(now, end, found);
                    now = end;
                }
                position += 1;
            }
        }
        self.link.set_polling(None);
        round
    }

    /// One round, and when it found nothing to do the idle ladder down to the park: poll on for a few microseconds,
    /// announce the sleep, look at everything once more.
    pub(super) fn turn(&mut self) -> Turn {
        let begin = self.clock.now();
        let mut now = begin;
        for _ in 0..IDLE_SPIN_ROUNDS {
            let round = self.run_round(now);
            if round.shutdown {
                return Turn::Shutdown;
            }
            now = self.clock.now();
            if round.busy || round.wake_at.is_some_and(|at| at <= now) {
                return Turn::Again;
            }
            if now.0.saturating_sub(begin.0) >= IDLE_SPIN_NS {
                break;
            }
            std::hint::spin_loop();
        }
        self.link.doorbell().announce_sleep();
        let round = self.run_round(now);
        if !round.busy && !round.shutdown {
            return Turn::Park(round.wake_at);
        }
        self.link.doorbell().cancel_sleep();
        if round.shutdown { Turn::Shutdown } else { Turn::Again }
    }

    /// Drops every task, takes nothing from now on.
    pub(super) fn close(&mut self) {
        self.drop_all();
        self.link.close();
    }

    /// The executor has died of `message`: tells every attempt, drops its tasks, refuses later deployments.
    pub(super) fn die(&mut self, message: &str) {
        tracing::error!(worker = self.link.index(), message, "a worker's executor ended");
        for attempt in &self.attempts {
            let report = || attempt.reports.report(Report::WorkerDied(self.link.index(), message.to_owned()));
            // The sink may be what killed the worker.
            if catch_unwind(AssertUnwindSafe(report)).is_err() {
                tracing::error!(worker = self.link.index(), "the report of a worker's death panicked");
            }
        }
        self.link.die(message);
        self.drop_all();
    }

    /// Carries out one command; true for [`WorkerCommand::Shutdown`].
    fn carry_out(&mut self, command: WorkerCommand, now: Nanos) -> bool {
        match command {
            WorkerCommand::Deploy(id, tasks, reports) => self.deploy(id, tasks, reports, now),
            WorkerCommand::Broadcast(id, command) => self.broadcast(id, &command),
            WorkerCommand::Cancel(id) => self.cancel(id),
            WorkerCommand::Shutdown => return true,
        }
        false
    }

    fn deploy(
        &mut self,
        id: AttemptId,
        tasks: Vec<(TaskId, Box<dyn Task>)>,
        reports: Arc<dyn ReportSink>,
        now: Nanos,
    ) {
        let slots = tasks.into_iter().map(|(id, task)| Slot {
            id,
            task,
            phase: Phase::Running,
            times: Arc::new(TaskTimes::starting(now)),
        });
        self.attempts.push(Attempt { id, reports, slots: slots.collect() });
        self.publish_roster();
    }

    fn broadcast(&mut self, id: AttemptId, command: &TaskCommand) {
        let mut position = 0;
        for attempt in &mut self.attempts {
            for slot in &mut attempt.slots {
                if attempt.id == id && !matches!(slot.phase, Phase::Failed) {
                    self.link.set_polling(Some(position));
                    slot.phase = match guarded(&mut *slot.task, |task| task.command(command.clone())) {
                        Ok(()) => Phase::Running,
                        Err(failure) => {
                            attempt.reports.report(Report::Failed(attempt.id, slot.id, failure));
                            Phase::Failed
                        }
                    };
                }
                position += 1;
            }
        }
        self.link.set_polling(None);
    }

    /// Drops an attempt. One that was never deployed here has no sink to report to: the coordinator deploys to every
    /// worker, if only an empty list.
    fn cancel(&mut self, id: AttemptId) {
        let mut reports = None;
        let mut position = 0;
        let mut kept = Vec::with_capacity(self.attempts.len());
        for attempt in self.attempts.drain(..) {
            if attempt.id == id {
                for slot in attempt.slots {
                    // A destructor can be stuck as well as a poll; the coordinator should see where.
                    self.link.set_polling(Some(position));
                    drop_quietly(slot.task);
                    position += 1;
                }
                reports = Some(attempt.reports);
            } else {
                position += attempt.slots.len();
                kept.push(attempt);
            }
        }
        self.attempts = kept;
        self.publish_roster();
        if let Some(reports) = reports {
            reports.report(Report::Cancelled(id, self.link.index()));
        }
    }

    fn drop_all(&mut self) {
        for (position, slot) in self.attempts.drain(..).flat_map(|attempt| attempt.slots).enumerate() {
            self.link.set_polling(Some(position));
            drop_quietly(slot.task);
        }
        self.publish_roster();
    }

    fn publish_roster(&self) {
        let tasks =
            self.attempts.iter().flat_map(|attempt| attempt.slots.iter().map(|slot| (attempt.id, slot)));
        let tasks = tasks.map(|(attempt, slot)| TaskInfo {
            worker: self.link.index(),
            attempt,
            task: slot.id,
            name: slot.task.name().to_owned(),
            partition: slot.task.partition(),
            times: Arc::clone(&slot.times),
        });
        self.link.set_roster(tasks.collect());
    }
}

impl Drop for WorkerCore {
    /// Destructors of tasks are user code; none may panic its way out.
    fn drop(&mut self) {
        self.drop_all();
    }
}

fn poll(task: &mut dyn Task, now: Nanos, budget: Budget) -> Result<Progress, TaskFailure> {
    guarded(task, |task| task.poll(now, budget)).and_then(|outcome| outcome)
}

/// Calls into a task; a panic becomes its failure.
fn guarded<T>(task: &mut dyn Task, call: impl FnOnce(&mut dyn Task) -> T) -> Result<T, TaskFailure> {
    // Unwind safety: a task that panicked is never called again, apart from describing itself.
    catch_unwind(AssertUnwindSafe(|| call(task))).map_err(|payload| {
        let message = panic_message(&*payload);
        let described = catch_unwind(AssertUnwindSafe(|| task.failure_of_panic(message.clone())));
        described.unwrap_or_else(|_| TaskFailure {
            operator: "unknown: describing the panic panicked too".to_owned(),
            partition: 0,
            message,
            fatal: false,
        })
    })
}

fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

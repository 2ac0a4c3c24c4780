//! What a worker shares with the rest of the engine: its mailbox, its heartbeat and who it is polling.
//!
//! Always true:
//! - commands are taken in the order in which they were sent, and a send rings the doorbell after the command is there;
//! - the roster changes only under its lock and only while nothing is polled, so that `polling` under the lock names
//!   the right task;
//! - a closed mailbox takes nothing; one whose worker has died answers a deployment with [`Report::WorkerDied`].

use super::times::TaskTimes;
use crate::control::{Report, TaskId, WorkerCommand, WorkerLink};
use crate::ring::doorbell::Doorbell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_storage::AttemptId;

/// Locks although an earlier holder panicked: everything kept under these locks is whole after each statement.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One deployed task, as metrics and the coordinator see it.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    /// The worker that runs it.
    pub worker: usize,
    /// Its attempt.
    pub attempt: AttemptId,
    /// Its index in the deployed job.
    pub task: TaskId,
    /// The operators of its chain.
    pub name: String,
    /// Its partition (subtask index).
    pub partition: u32,
    /// How its time divides.
    pub times: Arc<TaskTimes>,
}

enum Mailbox {
    Open(VecDeque<WorkerCommand>),
    Closed,
    Dead(String),
}

/// The shared half of a worker; the coordinator holds it as a [`WorkerLink`].
pub(super) struct Link {
    index: usize,
    doorbell: Doorbell,
    mailbox: Mutex<Mailbox>,
    /// True when the mailbox may hold something; saves the run loop a lock per round.
    has_mail: AtomicBool,
    beats: AtomicU64,
    /// Position in the roster plus one of the task being polled; zero for none.
    polling: AtomicUsize,
    roster: Mutex<Vec<TaskInfo>>,
}

impl Link {
    pub(super) fn new(index: usize, doorbell: Doorbell) -> Self {
        Link {
            index,
            doorbell,
            mailbox: Mutex::new(Mailbox::Open(VecDeque::new())),
            has_mail: AtomicBool::new(false),
            beats: AtomicU64::new(0),
            polling: AtomicUsize::new(0),
            roster: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }

    pub(super) fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }

    /// The deployed tasks, in the order in which they are polled.
    pub(super) fn tasks(&self) -> Vec<TaskInfo> {
        lock(&self.roster).clone()
    }

    /// Worker: replaces the roster. Nothing may be polled at this moment.
    pub(super) fn set_roster(&self, tasks: Vec<TaskInfo>) {
        let mut roster = lock(&self.roster);
        self.set_polling(None);
        *roster = tasks;
    }

    /// Worker: says which task, by its position in the roster, it is about to call.
    #[inline]
    pub(super) fn set_polling(&self, position: Option<usize>) {
        self.polling.store(position.map_or(0, |position| position + 1), Ordering::Relaxed);
    }

    /// Worker: counts one turn of its loop. There is one writer, so no read-modify-write is needed.
    #[inline]
    pub(super) fn beat(&self) {
        self.beats.store(self.beats.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Worker: takes all commands.
    pub(super) fn take_mail(&self) -> VecDeque<WorkerCommand> {
        // Acquire pairs with the release in `send`; what a relaxed miss overlooks is caught by the recheck after the
        // announcement of a sleep, since `send` rings after it stored the flag.
        if !self.has_mail.load(Ordering::Acquire) {
            return VecDeque::new();
        }
        let mut mailbox = lock(&self.mailbox);
        self.has_mail.store(false, Ordering::Relaxed);
        match &mut *mailbox {
            Mailbox::Open(commands) => std::mem::take(commands),
            Mailbox::Closed | Mailbox::Dead(_) => VecDeque::new(),
        }
    }

    /// Worker: takes nothing from now on; what was not taken yet is dropped.
    pub(super) fn close(&self) {
        self.replace_mailbox(Mailbox::Closed).into_iter().for_each(discard);
        self.set_roster(Vec::new());
    }

    /// Worker: has died of `message`. Deployments not taken yet, and later ones, are answered with
    /// [`Report::WorkerDied`].
    pub(super) fn die(&self, message: &str) {
        for command in self.replace_mailbox(Mailbox::Dead(message.to_owned())) {
            self.answer_for_the_dead(command, message);
        }
        self.set_roster(Vec::new());
    }

    fn replace_mailbox(&self, with: Mailbox) -> VecDeque<WorkerCommand> {
        match std::mem::replace(&mut *lock(&self.mailbox), with) {
            Mailbox::Open(commands) => commands,
            Mailbox::Closed | Mailbox::Dead(_) => VecDeque::new(),
        }
    }

    fn answer_for_the_dead(&self, command: WorkerCommand, message: &str) {
        if let WorkerCommand::Deploy(_, _, reports) = &command {
            reports.report(Report::WorkerDied(self.index, message.to_owned()));
        }
        discard(command);
    }
}

impl WorkerLink for Link {
    fn send(&self, command: WorkerCommand) {
        let refused = match &mut *lock(&self.mailbox) {
            Mailbox::Open(commands) => {
                commands.push_back(command);
                self.has_mail.store(true, Ordering::Release);
                None
            }
            Mailbox::Closed => Some((command, None)),
            Mailbox::Dead(message) => Some((command, Some(message.clone()))),
        };
        match refused {
            None => self.doorbell.ring(),
            Some((command, Some(message))) => self.answer_for_the_dead(command, &message),
            Some((command, None)) => discard(command),
        }
    }

    fn heartbeat(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    fn polling(&self) -> Option<(String, u32)> {
        let roster = lock(&self.roster);
        let position = self.polling.load(Ordering::Relaxed).checked_sub(1)?;
        roster.get(position).map(|task| (task.name.clone(), task.partition))
    }
}

/// Drops a command that nobody will carry out.
pub(super) fn discard(command: WorkerCommand) {
    if let WorkerCommand::Deploy(_, tasks, _) = command {
        tasks.into_iter().for_each(|(_, task)| drop_quietly(task));
    }
}

/// Drops a task whose destructor may panic: user code must not take the worker with it.
pub(super) fn drop_quietly(task: Box<dyn crate::task::Task>) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(task))) {
        tracing::warn!(panic = panic_message(&*payload), "a task panicked while it was dropped");
    }
}

/// The message of a panic, if it has one that can be read.
pub(super) fn panic_message(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(message) = payload.downcast_ref::<&str>() {
        (*message).to_owned()
    } else if let Some(message) = payload.downcast_ref::<String>() {
        message.clone()
    } else {
        "panic without a message".to_owned()
    }
}

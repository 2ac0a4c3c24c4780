//! The control thread's loop: feeds the core with reports, commands and time, and executes what it asks for.
//!
//! A runner needs no thread of its own: a simulation calls [`Runner::step`] itself. Everything that may block (the
//! checkpoint directory, building an attempt) happens within a step, never on a worker.
//!
//! Always true:
//! - each step takes in all of the mailbox before time is acted upon, and asks for the next step in the past rather than
//!   loop by itself, so that a command is never kept waiting by work that repeats;
//! - the checkpoint directory is released before the job's end is shown.

mod deployment;
mod publication;
#[cfg(test)]
mod tests;

use super::backend::CheckpointBackend;
use super::config::CoordinatorConfig;
use super::core::Core;
use super::deploy::{Deploy, DeployedOperator};
use super::event::{Action, Event, Taken};
use super::pending::RequestId;
use super::shared::{JobShared, JobStatus};
use super::trigger::Wish;
use crate::clock::{Clock, Nanos};
use crate::control::{CheckpointMode, Report, ReportSink, StopMode, WorkerCommand, WorkerLink};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use thalweg_storage::checkpoint::FoundSnapshot;
use thalweg_storage::manifest::EdgeState;
use thalweg_storage::threads;
use thalweg_storage::{AttemptId, CheckpointId};

/// Time between two looks at the workers' heartbeats.
const HEARTBEAT_LOOK: Duration = Duration::from_millis(100);

/// What a coordinator is made of.
pub struct RunnerParts {
    /// Name of the job.
    pub job: String,
    /// Number of key groups of the job.
    pub max_parallelism: u16,
    /// Its settings.
    pub config: CoordinatorConfig,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
    /// The workers that run the job's tasks.
    pub workers: Vec<Arc<dyn WorkerLink>>,
    /// Builds attempts.
    pub deploy: Box<dyn Deploy>,
    /// Where checkpoints go; without it there are none, and a restart begins from scratch.
    pub backend: Option<Box<dyn CheckpointBackend>>,
    /// What the job starts from instead of its latest completed checkpoint.
    pub restore: Option<RestoreFrom>,
    /// What job handles see.
    pub shared: Arc<JobShared>,
}

/// A savepoint or checkpoint that a job is to start from.
pub struct RestoreFrom {
    /// The snapshot.
    pub found: FoundSnapshot,
    /// The job owns it from then on.
    pub claim: bool,
}

/// The coordinator of one job, with its effects.
pub struct Runner {
    core: Core,
    job: String,
    max_parallelism: u16,
    retained: usize,
    clock: Arc<dyn Clock>,
    workers: Vec<Arc<dyn WorkerLink>>,
    deploy: Box<dyn Deploy>,
    backend: Option<Box<dyn CheckpointBackend>>,
    /// Until an attempt has started from it.
    restore: Option<RestoreFrom>,
    shared: Arc<JobShared>,
    mailbox: Receiver<Message>,
    reports: Arc<dyn ReportSink>,
    /// The latest attempt where no checkpoint directory counts them.
    attempt: AttemptId,
    operators: Vec<DeployedOperator>,
    edges: Vec<EdgeState>,
    replies: HashMap<RequestId, Reply>,
    requests: u64,
    looked_at: Nanos,
    shown_version: Option<u64>,
    started: bool,
}

/// What arrives in a runner's mailbox.
enum Message {
    Report(Report),
    Trigger(Option<CheckpointMode>, Sender<Result<CheckpointId, String>>),
    Savepoint(Wish, Sender<Result<PathBuf, String>>),
    Cancel,
    Shutdown,
}

/// Where a user waits for an answer.
enum Reply {
    Checkpoint(Sender<Result<CheckpointId, String>>),
    Savepoint(Sender<Result<PathBuf, String>>),
}

impl Reply {
    fn send(self, answer: Result<Taken, String>) {
        // Whoever asked may have stopped waiting.
        match self {
            Reply::Checkpoint(reply) => _ = reply.send(answer.map(|taken| taken.id)),
            Reply::Savepoint(reply) => {
                let path = answer.map(|taken| taken.dir.map_or_else(PathBuf::new, |dir| dir.to_path_buf()));
                _ = reply.send(path);
            }
        }
    }
}

struct Mailbox(Sender<Message>);

impl ReportSink for Mailbox {
    fn report(&self, report: Report) {
        // Nobody listens any more once the job has ended; then nothing depends on the report.
        let _ = self.0.send(Message::Report(report));
    }
}

/// Commands a coordinator from any thread. None of its functions blocks.
#[derive(Clone)]
pub struct CoordinatorHandle {
    mailbox: Sender<Message>,
}

impl CoordinatorHandle {
    /// Asks for a checkpoint, in the job's mode or in another. The answer is the completed checkpoint that meets the
    /// request, or why there is none; the channel closes without one where the job ends first.
    pub fn trigger_checkpoint(&self, mode: Option<CheckpointMode>) -> Receiver<Result<CheckpointId, String>> {
        let (reply, answer) = channel();
        let _ = self.mailbox.send(Message::Trigger(mode, reply));
        answer
    }

    /// Asks for a savepoint in a directory of its own below `root`, which is to be an absolute path; with `stop` the job
    /// stops with it. The answer is that directory: once the savepoint is complete, or once the job has stopped. Or it is
    /// why there is none; the channel closes without one where the job ends first.
    pub fn trigger_savepoint(
        &self,
        root: &Path,
        stop: Option<StopMode>,
    ) -> Receiver<Result<PathBuf, String>> {
        let (reply, answer) = channel();
        let _ = self.mailbox.send(Message::Savepoint(Wish { root: root.into(), stop }, reply));
        answer
    }

    /// Cancels the job: its tasks are dropped. Its completed checkpoints stay unless the settings say otherwise.
    pub fn cancel(&self) {
        let _ = self.mailbox.send(Message::Cancel);
    }

    /// Cancels the job and ends it within the shutdown's timeout, even if a worker does not let go of its tasks.
    pub fn shutdown(&self) {
        let _ = self.mailbox.send(Message::Shutdown);
    }
}

impl Runner {
    /// A coordinator that starts the job at its first step, and the handle that commands it.
    pub fn new(parts: RunnerParts) -> (Self, CoordinatorHandle) {
        let (sender, mailbox) = channel();
        let runner = Runner {
            core: Core::new(parts.config, parts.backend.is_some()),
            job: parts.job,
            max_parallelism: parts.max_parallelism,
            retained: parts.config.checkpoint.retained.max(1),
            clock: parts.clock,
            workers: parts.workers,
            deploy: parts.deploy,
            backend: parts.backend,
            restore: parts.restore,
            shared: parts.shared,
            mailbox,
            reports: Arc::new(Mailbox(sender.clone())),
            attempt: AttemptId(0),
            operators: Vec::new(),
            edges: Vec::new(),
            replies: HashMap::new(),
            requests: 0,
            looked_at: Nanos(0),
            shown_version: None,
            started: false,
        };
        (runner, CoordinatorHandle { mailbox: sender })
    }

    /// Leads the reports of all attempts through what `route` makes of the mailbox. To be called before the first step.
    #[cfg(feature = "testing")]
    pub fn route_reports<R: ReportSink>(&mut self, route: impl FnOnce(Arc<dyn ReportSink>) -> R) -> Arc<R> {
        let route = Arc::new(route(Arc::clone(&self.reports)));
        self.reports = Arc::clone(&route) as _;
        route
    }

    /// Acts on everything in the mailbox and on the time. Returns when to step again if nothing arrives before:
    /// at once where that lies in the past, never of itself where `None`.
    pub fn step(&mut self, now: Nanos) -> Option<Nanos> {
        if !self.started {
            self.started = true;
            self.feed(now, Event::Start);
        }
        while let Ok(message) = self.mailbox.try_recv() {
            self.receive(now, message);
        }
        self.look_at_workers(now);
        self.feed(now, Event::Tick);
        self.show();
        let look = (!self.core.watched_workers().is_empty()).then(|| self.looked_at.after(HEARTBEAT_LOOK));
        self.core.next_deadline().into_iter().chain(look).min()
    }

    /// True once the job has ended: no step is needed any more.
    pub fn has_ended(&self) -> bool {
        self.core.status().is_terminal()
    }

    /// Runs the job on a control thread of its own, which ends with the job.
    ///
    /// # Errors
    /// The system refuses a thread; the job does not run.
    pub fn spawn(mut self) -> io::Result<JoinHandle<()>> {
        threads::spawn("thalweg-control".to_owned(), move || {
            // Declared before the loop, so that waiters are released even if the loop panics.
            let _end = EndGuard(Arc::clone(&self.shared));
            loop {
                let deadline = self.step(self.clock.now());
                if self.has_ended() {
                    return;
                }
                let message = match deadline.map(|deadline| deadline.since(self.clock.now())) {
                    Some(wait) if wait.is_zero() => continue,
                    Some(wait) => self.mailbox.recv_timeout(wait).ok(),
                    None => self.mailbox.recv().ok(),
                };
                if let Some(message) = message {
                    self.receive(self.clock.now(), message);
                }
            }
        })
    }

    fn receive(&mut self, now: Nanos, message: Message) {
        match message {
            Message::Report(mut report) => {
                crash_point!("report.received");
                if let Report::Acknowledged(_, _, _, snapshot) = &mut report {
                    snapshot.list_segments();
                }
                self.feed(now, Event::Report(report));
            }
            Message::Trigger(mode, reply) => {
                self.requests += 1;
                let request = RequestId(self.requests);
                self.replies.insert(request, Reply::Checkpoint(reply));
                self.feed(now, Event::Trigger { request, mode });
            }
            Message::Savepoint(wish, reply) => {
                self.requests += 1;
                let request = RequestId(self.requests);
                self.replies.insert(request, Reply::Savepoint(reply));
                self.feed(now, Event::Savepoint { request, wish });
            }
            Message::Cancel => self.feed(now, Event::Cancel { give_up: false }),
            Message::Shutdown => self.feed(now, Event::Cancel { give_up: true }),
        }
    }

    fn look_at_workers(&mut self, now: Nanos) {
        if now < self.looked_at.after(HEARTBEAT_LOOK) {
            return;
        }
        self.looked_at = now;
        for worker in self.core.watched_workers() {
            let link = &self.workers[worker];
            let event = Event::Heartbeat { worker, beats: link.heartbeat(), polling: link.polling() };
            self.feed(now, event);
        }
    }

    fn feed(&mut self, now: Nanos, event: Event) {
        let mut actions = VecDeque::from(self.core.handle(now, event));
        while let Some(action) = actions.pop_front() {
            if let Some(event) = self.execute(action) {
                actions.extend(self.core.handle(self.clock.now(), event));
            }
        }
        if self.has_ended() {
            self.replies.clear();
        }
    }

    /// Does what the core asks for and returns the answer where it waits for one.
    fn execute(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Deploy => return Some(self.deploy_next()),
            Action::Begin { savepoint_root } => return self.begin(savepoint_root.as_deref()),
            Action::Publish(acknowledged) => return self.publish(acknowledged),
            Action::Broadcast(attempt, command) => {
                crash_point!("broadcast.before");
                for link in &self.workers {
                    link.send(WorkerCommand::Broadcast(attempt, command.clone()));
                    crash_point!("broadcast.after_worker");
                }
                crash_point!("broadcast.after");
            }
            Action::CancelAttempt(attempt) => {
                for link in &self.workers {
                    link.send(WorkerCommand::Cancel(attempt));
                }
            }
            Action::Discard { id, files } => {
                if let Some(backend) = &mut self.backend {
                    let core = &self.core;
                    if let Err(error) = backend.discard(id, &files, &|path| core.in_use(path)) {
                        tracing::warn!(job = self.job, checkpoint = id.0, %error, "files of a failed checkpoint remain");
                    }
                }
            }
            Action::DiscardSavepoint(id) => {
                let discarded = self.backend.as_mut().map_or(Ok(()), |backend| backend.discard_savepoint(id));
                if let Err(error) = discarded {
                    tracing::warn!(job = self.job, savepoint = id.0, %error, "files of a failed savepoint remain");
                }
            }
            Action::RemoveCheckpoints => {
                if let Err(error) = self.backend.as_mut().map_or(Ok(()), |backend| backend.remove_all()) {
                    tracing::warn!(job = self.job, %error, "checkpoints of the ended job remain");
                }
            }
            Action::Answer(request, answer) => {
                if let Some(reply) = self.replies.remove(&request) {
                    // Whoever gets the answer finds it in the job's statistics.
                    self.show();
                    reply.send(answer);
                }
            }
            Action::Note(text) => tracing::warn!(job = self.job, "{text}"),
            Action::Ended(status) => {
                self.backend = None;
                match status {
                    JobStatus::Failed(cause) => {
                        tracing::error!(job = self.job, "the job has failed: {cause}")
                    }
                    status => tracing::info!(job = self.job, ?status, "the job has ended"),
                }
            }
        }
        None
    }

    fn show(&mut self) {
        let (stats, version) = self.core.stats();
        let changed = (self.shown_version != Some(version)).then(|| stats.clone());
        self.shown_version = Some(version);
        self.shared.update(self.core.status(), changed);
    }
}

/// Releases those who wait for the job if its control thread ends by a panic.
struct EndGuard(Arc<JobShared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        // Changes nothing where the job has ended as it should.
        self.0.update(JobStatus::Failed("the job's control thread has panicked".to_owned()), None);
    }
}

//! What the core decides, one rule at a time.

pub(crate) mod triggers;
pub(crate) mod rounds;
mod failures;
pub(crate) mod files;
mod ends;
mod attempts;
mod savepoints;

use super::*;
use crate::control::StopMode;
use crate::control::{CheckpointMode, Report, SnapshotStats, TaskFailure, TaskSnapshot, Trigger};
use crate::coordinator::config::{CheckpointConfig, RestartStrategy};
use crate::coordinator::event::Taken;
use crate::coordinator::pending::RequestId;
use crate::coordinator::stats::CheckpointOutcome;
use crate::coordinator::trigger::Wish;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use thalweg_storage::manifest::{ChannelOrigin, ChannelState, Payload, SegmentRef, SubtaskState};

const SECOND: Duration = Duration::from_secs(1);
const TASKS: u32 = 3;

/// A core with storage and workers that answer as told to, and everything it asked for.
struct Job {
    core: Core,
    now: Nanos,
    ids: u64,
    attempts: u64,
    begin_errors: u32,
    publish_errors: VecDeque<bool>,
    deploy_errors: VecDeque<bool>,
    /// Publications are answered by hand.
    hold_publish: bool,
    log: Vec<String>,
    discarded: Vec<(u64, Vec<String>)>,
    triggers: Vec<Trigger>,
    /// Each abort, and the completed checkpoint that came with it.
    aborts: Vec<(u64, Option<u64>)>,
}

fn config() -> CoordinatorConfig {
    CoordinatorConfig {
        checkpoint: CheckpointConfig {
            interval: Some(SECOND),
            tolerable_failures: 100,
            ..CheckpointConfig::default()
        },
        restart: RestartStrategy::FixedDelay { attempts: 2, delay: SECOND },
        ..CoordinatorConfig::default()
    }
}

impl Job {
    fn waiting(config: CoordinatorConfig, checkpointing: bool) -> Self {
        Job {
            core: Core::new(config, checkpointing),
            now: Nanos(0),
            ids: 0,
            attempts: 0,
            begin_errors: 0,
            publish_errors: VecDeque::new(),
            deploy_errors: VecDeque::new(),
            hold_publish: false,
            log: Vec::new(),
            discarded: Vec::new(),
            triggers: Vec::new(),
            aborts: Vec::new(),
        }
    }

    fn running(config: CoordinatorConfig) -> Self {
        let mut job = Job::waiting(config, true);
        job.feed(Event::Start);
        job.feed(Event::Tick);
        assert_eq!(job.core.status(), JobStatus::Running);
        job.log.clear();
        job
    }

    fn feed(&mut self, event: Event) {
        let mut actions = VecDeque::from(self.core.handle(self.now, event));
        while let Some(action) = actions.pop_front() {
            if let Some(answer) = self.execute(action) {
                actions.extend(self.core.handle(self.now, answer));
            }
        }
    }

    fn execute(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Deploy => {
                self.attempts += 1;
                self.log.push(format!("deploy {}", self.attempts));
                if let Some(fatal) = self.deploy_errors.pop_front() {
                    return Some(Event::DeployFailed { message: "cannot read".into(), fatal });
                }
                return Some(Event::Deployed(Deployed {
                    attempt: AttemptId(self.attempts),
                    tasks: (0..TASKS).map(TaskId).collect(),
                    workers: BTreeSet::from([0, 1]),
                    restored: None,
                    restored_records: 0,
                }));
            }
            Action::Begin { .. } if self.begin_errors > 0 => {
                self.begin_errors -= 1;
                self.log.push("begin failed".into());
                return Some(Event::BeginFailed("disk full".into()));
            }
            Action::Begin { savepoint_root } => {
                self.ids += 1;
                let dir = savepoint_root.map(|root| root.join(format!("savepoint-job-{}", self.ids)).into());
                return Some(Event::Begun { id: CheckpointId(self.ids), unix_ms: 7, dir });
            }
            Action::Publish(acknowledged) => {
                let id = acknowledged.id;
                assert_eq!(acknowledged.snapshots.len(), TASKS as usize);
                self.log.push(format!("publish {id}"));
                if self.hold_publish {
                    return None;
                }
                return Some(match self.publish_errors.pop_front() {
                    None => Event::Published(id),
                    Some(outcome_unknown) => {
                        Event::PublishFailed { id, message: "EIO".into(), outcome_unknown }
                    }
                });
            }
            Action::Broadcast(_, TaskCommand::Trigger(trigger)) => {
                self.log.push(format!("trigger {}", trigger.checkpoint));
                self.triggers.push(trigger);
            }
            Action::Broadcast(_, TaskCommand::Complete(id)) => self.log.push(format!("complete {id}")),
            Action::Broadcast(_, TaskCommand::Abort(id, latest)) => {
                self.log.push(format!("abort {id}"));
                self.aborts.push((id.0, latest.map(|latest| latest.0)));
            }
            Action::Broadcast(_, TaskCommand::CommitFinal) => self.log.push("commit final".into()),
            Action::CancelAttempt(attempt) => self.log.push(format!("cancel {attempt}")),
            Action::Discard { id, files } => self.discarded.push((id.0, files)),
            Action::DiscardSavepoint(id) => self.log.push(format!("discard savepoint {id}")),
            Action::RemoveCheckpoints => self.log.push("remove checkpoints".into()),
            Action::Answer(request, Ok(Taken { id, dir: None })) => {
                self.log.push(format!("answer {}: {id}", request.0));
            }
            Action::Answer(request, Ok(Taken { dir: Some(dir), .. })) => {
                self.log.push(format!("answer {}: {}", request.0, dir.display()));
            }
            Action::Answer(request, Err(why)) => self.log.push(format!("answer {}: {why}", request.0)),
            Action::Ended(status) => self.log.push(format!("ended {status:?}")),
            Action::Note(_) => {}
        }
        None
    }

    /// Lets time pass, one decision at a time.
    fn pass(&mut self, time: Duration) {
        let end = self.now.after(time);
        self.feed(Event::Tick);
        let mut ticks = 0;
        while let Some(at) = self.core.next_deadline().filter(|at| *at <= end) {
            ticks += 1;
            assert!(ticks < 100_000, "a deadline is due that no tick acts upon");
            self.now = self.now.max(at);
            self.feed(Event::Tick);
        }
        self.now = end;
    }

    fn ask(&mut self, request: u64) {
        self.ask_in(request, None);
    }

    fn ask_in(&mut self, request: u64, mode: Option<CheckpointMode>) {
        self.feed(Event::Trigger { request: RequestId(request), mode });
        self.pass(Duration::ZERO);
    }

    fn savepoint(&mut self, request: u64) {
        self.wish(request, None);
    }

    fn stop(&mut self, request: u64, mode: StopMode) {
        self.wish(request, Some(mode));
    }

    fn wish(&mut self, request: u64, stop: Option<StopMode>) {
        let wish = Wish { root: Path::new("/savepoints").into(), stop };
        self.feed(Event::Savepoint { request: RequestId(request), wish });
        self.pass(Duration::ZERO);
    }

    fn report(&mut self, report: Report) {
        self.feed(Event::Report(report));
        self.pass(Duration::ZERO);
    }

    fn attempt(&self) -> AttemptId {
        AttemptId(self.attempts)
    }

    fn ack_with(&mut self, task: u32, id: u64, snapshot: TaskSnapshot) {
        self.report(Report::Acknowledged(self.attempt(), TaskId(task), CheckpointId(id), Box::new(snapshot)));
    }

    fn ack(&mut self, task: u32, id: u64) {
        self.ack_with(task, id, naming(&[], &[]));
    }

    fn ack_all(&mut self, id: u64) {
        (0..TASKS).for_each(|task| self.ack(task, id));
    }

    fn decline(&mut self, task: u32, id: u64) {
        self.report(Report::Declined(self.attempt(), TaskId(task), CheckpointId(id), "no space".into()));
    }

    fn fail(&mut self, message: &str, fatal: bool) {
        let failure = TaskFailure { operator: "map".into(), partition: 1, message: message.into(), fatal };
        self.report(Report::Failed(self.attempt(), TaskId(1), failure));
    }

    fn workers_let_go(&mut self) {
        self.report(Report::Cancelled(self.attempt(), 0));
        self.report(Report::Cancelled(self.attempt(), 1));
    }

    fn finish(&mut self, task: u32) {
        self.report(Report::Finished(self.attempt(), TaskId(task)));
    }

    fn await_commit(&mut self, task: u32) {
        self.report(Report::AwaitsCommit(self.attempt(), TaskId(task)));
    }

    fn take_log(&mut self) -> Vec<String> {
        std::mem::take(&mut self.log)
    }
}

/// A snapshot that names these segments and files of in-flight data.
fn naming(segments: &[&str], channels: &[&str]) -> TaskSnapshot {
    let segments = segments
        .iter()
        .map(|path| SegmentRef { path: (*path).into(), bytes: 1, groups: 0..1, states: Vec::new() })
        .collect();
    let channel = |path: &&str| ChannelState {
        edge: "e".into(),
        producer: 0,
        consumer: 0,
        generation: 0,
        origin: ChannelOrigin::Consumer,
        records: 1,
        data: Payload::File { path: (*path).into(), offset: 0, bytes: 1, crc32: 0, file_bytes: 1 },
    };
    TaskSnapshot {
        operators: vec![("op".into(), Vec::new(), SubtaskState { segments, ..SubtaskState::default() })],
        segments: None,
        channels: channels.iter().map(channel).collect(),
        stats: SnapshotStats {
            state_bytes: 10,
            sync_ns: 5,
            in_flight_records: 2,
            ..SnapshotStats::default()
        },
    }
}

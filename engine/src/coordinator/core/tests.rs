//! What the core decides, one rule at a time.

use super::*;
use crate::control::{CheckpointMode, SnapshotStats, TaskFailure, TaskSnapshot, Trigger};
use crate::coordinator::config::{CheckpointConfig, RestartStrategy};
use crate::coordinator::pending::RequestId;
use crate::coordinator::stats::CheckpointOutcome;
use std::collections::VecDeque;
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
            Action::Begin if self.begin_errors > 0 => {
                self.begin_errors -= 1;
                self.log.push("begin failed".into());
                return Some(Event::BeginFailed("disk full".into()));
            }
            Action::Begin => {
                self.ids += 1;
                return Some(Event::Begun { id: CheckpointId(self.ids), unix_ms: 7 });
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
            Action::Broadcast(_, TaskCommand::Abort(id)) => self.log.push(format!("abort {id}")),
            Action::Broadcast(_, TaskCommand::CommitFinal) => self.log.push("commit final".into()),
            Action::CancelAttempt(attempt) => self.log.push(format!("cancel {attempt}")),
            Action::Discard { id, files } => self.discarded.push((id.0, files)),
            Action::Answer(request, Ok(id)) => self.log.push(format!("answer {}: {id}", request.0)),
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
        origin: ChannelOrigin::Consumer,
        records: 1,
        data: Payload::File { path: (*path).into(), offset: 0, bytes: 1, crc32: 0, file_bytes: 1 },
    };
    TaskSnapshot {
        operators: vec![("op".into(), Vec::new(), SubtaskState { segments, ..SubtaskState::default() })],
        channels: channels.iter().map(channel).collect(),
        stats: SnapshotStats {
            state_bytes: 10,
            sync_ns: 5,
            in_flight_records: 2,
            ..SnapshotStats::default()
        },
    }
}

// ---- triggers ----

#[test]
fn a_checkpoint_completes_when_every_task_has_acknowledged_it() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    assert_eq!(job.take_log(), ["trigger 1"]);
    job.ack(0, 1);
    job.ack(2, 1);
    assert!(job.take_log().is_empty());
    job.ack(1, 1);
    assert_eq!(job.take_log(), ["publish 1", "complete 1"]);
    assert_eq!(job.core.stats().0.latest, Some(CheckpointId(1)));
}

#[test]
fn a_request_is_refused_while_tasks_are_not_running() {
    let mut job = Job::waiting(config(), true);
    job.ask(1);
    assert_eq!(job.take_log(), ["answer 1: not all tasks are running"]);
    let mut job = Job::running(config());
    job.fail("boom", false);
    job.take_log();
    job.ask(2);
    assert_eq!(job.take_log(), ["answer 2: not all tasks are running"]);
    let mut job = Job::waiting(config(), false);
    job.feed(Event::Start);
    job.pass(Duration::ZERO);
    job.take_log();
    job.ask(3);
    assert_eq!(job.take_log(), ["answer 3: checkpoints are off: the engine has no checkpoint directory"]);
}

#[test]
fn after_a_storage_error_the_next_trigger_works() {
    let mut job = Job::running(config());
    job.begin_errors = 1;
    job.ask(1);
    assert_eq!(
        job.take_log(),
        ["begin failed", "answer 1: the checkpoint failed: it could not be started: disk full"]
    );
    job.ask(2);
    job.ack_all(1);
    assert_eq!(job.take_log(), ["trigger 1", "publish 1", "complete 1", "answer 2: 1"]);
    assert_eq!(job.core.stats().0.failed, 1);
}

#[test]
fn excess_requests_queue_at_max_concurrent_1_2_and_5() {
    for max_concurrent in [1, 2, 5] {
        let mut settings = config();
        settings.checkpoint.interval = None;
        settings.checkpoint.max_concurrent = max_concurrent;
        let mut job = Job::running(settings);
        (1..=6).for_each(|request| job.ask(request));
        assert_eq!(job.triggers.len(), max_concurrent);
        for id in 1..=6 {
            job.ack_all(id);
            assert_eq!(job.triggers.len(), (max_concurrent + id as usize).min(6));
        }
        assert_eq!(job.core.stats().0.completed, 6);
    }
}

#[test]
pub(crate) fn an_unaligned_checkpoint_never_overlaps_another() {
    let unaligned = Some(CheckpointMode::Unaligned);
    let timeout = Some(CheckpointMode::AlignedWithTimeout(SECOND));
    for (first, second) in [(None, unaligned), (unaligned, None), (timeout, timeout), (None, timeout)] {
        let mut settings = config();
        settings.checkpoint.interval = None;
        settings.checkpoint.max_concurrent = 5;
        let mut job = Job::running(settings);
        job.ask_in(1, first);
        job.ask_in(2, second);
        assert_eq!(job.take_log(), ["trigger 1"], "{first:?} {second:?}");
        job.ack_all(1);
        assert_eq!(job.take_log(), ["publish 1", "complete 1", "answer 1: 1", "trigger 2"]);
    }
}

#[test]
fn a_user_goes_before_the_interval() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    job.pass(SECOND); // the second periodic checkpoint waits for the first
    job.ask(1);
    job.take_log();
    job.ack_all(1);
    job.ack_all(2);
    assert_eq!(
        job.take_log(),
        ["publish 1", "complete 1", "trigger 2", "publish 2", "complete 2", "answer 1: 2", "trigger 3"]
    );
}

#[test]
fn the_min_pause_delays_periodic_checkpoints_only() {
    let mut settings = config();
    settings.checkpoint.min_pause = 3 * SECOND;
    let mut job = Job::running(settings);
    job.pass(SECOND);
    job.ack_all(1);
    job.take_log();
    job.pass(2 * SECOND);
    assert!(job.take_log().is_empty());
    job.ask(1);
    job.ack_all(2);
    assert_eq!(job.take_log(), ["trigger 2", "publish 2", "complete 2", "answer 1: 2"]);
    job.pass(3 * SECOND);
    assert_eq!(job.take_log(), ["trigger 3"]);
}

#[test]
fn a_late_periodic_checkpoint_does_not_make_up_for_missed_ones() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    job.pass(10 * SECOND);
    job.ack_all(1);
    job.ack_all(2);
    job.pass(Duration::from_millis(999));
    assert_eq!(job.triggers.len(), 2);
    job.pass(Duration::from_millis(1));
    assert_eq!(job.triggers.len(), 3);
}

// ---- acknowledgements and failures of checkpoints ----

#[test]
fn a_duplicate_acknowledgement_is_ignored() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    job.ack_with(0, 1, naming(&["shared/a"], &["chk-1/x"]));
    job.ack_with(0, 1, naming(&["shared/a"], &["chk-1/x"]));
    job.ack(1, 1);
    assert!(!job.log.contains(&"publish 1".to_owned()));
    job.ack(2, 1);
    job.ack_with(0, 1, naming(&["shared/a"], &["chk-1/x"]));
    assert_eq!(job.take_log(), ["trigger 1", "publish 1", "complete 1"]);
    assert!(job.discarded.is_empty());
    assert_eq!(job.core.stats().0.history[0].state_bytes, 30);
}

#[test]
fn a_decline_ends_its_own_round_only() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 2;
    let mut job = Job::running(settings);
    job.pass(2 * SECOND);
    job.decline(1, 1);
    job.decline(2, 1);
    assert_eq!(job.take_log(), ["trigger 1", "trigger 2", "abort 1"]);
    job.ack_all(2);
    assert_eq!(job.take_log(), ["publish 2", "complete 2"]);
    assert_eq!(job.core.stats().0.failed, 1);
}

#[test]
fn an_expiry_ends_its_own_round_only() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 2;
    settings.checkpoint.timeout = Duration::from_millis(1500);
    let mut job = Job::running(settings);
    job.pass(2 * SECOND);
    job.ack(0, 1);
    job.pass(Duration::from_millis(500));
    assert_eq!(job.take_log(), ["trigger 1", "trigger 2", "abort 1"]);
    job.ack_all(2);
    assert_eq!(job.take_log(), ["publish 2", "complete 2"]);
    let reason = "it expired before 2 of 3 tasks had acknowledged it".to_owned();
    assert_eq!(job.core.stats().0.history[0].outcome, CheckpointOutcome::Failed(reason));
}

#[test]
fn a_completed_checkpoint_ends_older_pending_ones_without_a_failure() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 3;
    settings.checkpoint.tolerable_failures = 0;
    settings.checkpoint.interval = None;
    let mut job = Job::running(settings);
    (1..=3).for_each(|request| job.ask(request));
    job.take_log();
    job.ack(0, 1);
    job.ack_all(2);
    assert_eq!(job.take_log(), ["publish 2", "abort 1", "answer 1: 2", "complete 2", "answer 2: 2"]);
    job.ack(1, 1);
    job.ack(2, 1);
    assert!(job.take_log().is_empty());
    job.ack_all(3);
    assert_eq!(job.take_log(), ["publish 3", "complete 3", "answer 3: 3"]);
    assert_eq!(job.core.status(), JobStatus::Running);
}

#[test]
fn an_announced_newer_checkpoint_does_not_end_an_older_one() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 2;
    let mut job = Job::running(settings);
    job.pass(2 * SECOND);
    job.take_log();
    job.ack(0, 2);
    job.ack(1, 2);
    job.ack_all(1);
    assert_eq!(job.take_log(), ["publish 1", "complete 1"]);
    job.ack(2, 2);
    assert_eq!(job.take_log(), ["publish 2", "complete 2"]);
}

#[test]
pub(crate) fn publishing_cannot_be_aborted() {
    let mut settings = config();
    settings.checkpoint.timeout = SECOND;
    let mut job = Job::running(settings);
    job.hold_publish = true;
    job.pass(SECOND);
    job.ack_all(1);
    job.decline(0, 1);
    job.pass(5 * SECOND);
    job.fail("boom", false);
    job.workers_let_go();
    job.pass(5 * SECOND);
    assert_eq!(job.take_log(), ["trigger 1", "publish 1", "cancel 1"]);
    job.hold_publish = false;
    job.feed(Event::Published(CheckpointId(1)));
    job.pass(Duration::ZERO);
    assert_eq!(job.take_log(), ["deploy 2"]);
    assert_eq!(job.core.stats().0.latest, Some(CheckpointId(1)));
    assert!(job.discarded.is_empty());
}

#[test]
fn a_failed_publication_keeps_the_old_checkpoint_and_the_job_goes_on() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    job.ack_all(1);
    job.publish_errors = VecDeque::from([false]);
    job.pass(SECOND);
    job.take_log();
    job.ack_all(2);
    assert_eq!(job.take_log(), ["publish 2", "abort 2"]);
    assert_eq!(job.core.stats().0.latest, Some(CheckpointId(1)));
    job.pass(SECOND);
    job.ack_all(3);
    assert_eq!(job.take_log(), ["trigger 3", "publish 3", "complete 3"]);
}

#[test]
fn an_unknown_outcome_fails_the_job_and_deletes_nothing() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    job.decline(0, 1);
    job.discarded.clear();
    job.publish_errors = VecDeque::from([true]);
    job.pass(SECOND);
    (0..TASKS).for_each(|task| job.ack_with(task, 2, naming(&["shared/a"], &["chk-2/x"])));
    assert_eq!(job.core.status(), JobStatus::Failing);
    job.ack_with(0, 1, naming(&["shared/b"], &["chk-1/x"]));
    job.workers_let_go();
    assert!(job.discarded.is_empty());
    assert!(job.core.in_use("shared/a"));
    let JobStatus::Failed(message) = job.core.status() else { panic!("{:?}", job.core.status()) };
    assert!(message.contains("whether checkpoint 2 is complete is unknown: EIO"), "{message}");
}

#[test]
fn failures_in_a_row_are_counted_and_a_success_resets_the_count() {
    let mut settings = config();
    settings.checkpoint.tolerable_failures = 2;
    let mut job = Job::running(settings);
    let round = |job: &mut Job, good: bool| {
        job.pass(SECOND);
        let id = job.ids;
        if good {
            job.ack_all(id)
        } else {
            job.decline(0, id)
        }
        job.decline(1, id); // counts no second time
    };
    [false, false, true, false, false].into_iter().for_each(|good| round(&mut job, good));
    assert_eq!(job.core.status(), JobStatus::Running);
    round(&mut job, false);
    assert_eq!(job.core.status(), JobStatus::Restarting);
}

#[test]
fn every_kind_of_failure_counts_but_the_end_of_an_attempt_does_not() {
    let mut settings = config();
    settings.checkpoint.tolerable_failures = 0;
    settings.checkpoint.timeout = SECOND;
    settings.restart = RestartStrategy::None;
    let failing: [fn(&mut Job); 4] = [
        |job| job.decline(0, 1),
        |job| job.pass(SECOND),
        |job| {
            job.publish_errors = VecDeque::from([false]);
            job.ack_all(1);
        },
        |job| {
            job.decline(0, 1);
            job.begin_errors = 1;
        },
    ];
    for fail in failing {
        let mut job = Job::running(settings);
        job.pass(SECOND);
        fail(&mut job);
        job.workers_let_go();
        let JobStatus::Failed(message) = job.core.status() else { panic!("{:?}", job.core.status()) };
        assert!(message.contains("checkpoints failed 1 times in a row, 0 are tolerable"), "{message}");
    }
}

// ---- files ----

#[test]
fn late_files_are_discarded_but_never_those_of_a_completed_checkpoint() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    (0..TASKS).for_each(|task| job.ack_with(task, 1, naming(&["shared/base"], &["chk-1/x"])));
    job.pass(SECOND);
    job.decline(0, 2);
    assert_eq!(job.discarded, [(2, vec![])]);
    job.ack_with(1, 2, naming(&["shared/base", "shared/two"], &["chk-2/x"]));
    assert_eq!(job.discarded.pop(), Some((2, vec!["chk-2/x".into()])));
    job.pass(SECOND);
    (0..TASKS).for_each(|task| job.ack_with(task, 3, naming(&["shared/base", "shared/three"], &[])));
    assert_eq!(job.discarded.pop(), Some((2, vec!["shared/two".into()])));
    job.ack_with(2, 2, naming(&["shared/base", "shared/late", "shared/three"], &[]));
    assert_eq!(job.discarded.pop(), Some((2, vec!["shared/late".into()])));
}

#[test]
fn a_segment_of_a_failed_checkpoint_survives_where_a_later_one_names_it() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 2;
    let mut job = Job::running(settings);
    job.pass(2 * SECOND);
    job.ack_with(0, 1, naming(&["shared/one"], &[]));
    job.decline(1, 1);
    (0..TASKS).for_each(|task| job.ack_with(task, 2, naming(&["shared/one", "shared/two"], &[])));
    job.pass(SECOND);
    job.decline(0, 3);
    job.fail("boom", false);
    job.workers_let_go();
    assert!(job.discarded.iter().all(|(_, files)| files.is_empty()), "{:?}", job.discarded);
}

#[test]
pub(crate) fn an_acknowledgement_holds_its_files_until_its_checkpoint_ends() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    job.ack_with(0, 1, naming(&["shared/one"], &["chk-1/x"]));
    assert!(job.core.in_use("shared/one") && job.core.in_use("chk-1/x") && !job.core.in_use("shared/two"));
    job.ack_with(1, 1, naming(&["shared/one"], &[]));
    job.decline(2, 1);
    assert!(!job.core.in_use("shared/one") && !job.core.in_use("chk-1/x"));
    job.fail("boom", false);
    job.discarded.clear();
    job.report(Report::Cancelled(job.attempt(), 0));
    assert!(job.discarded.is_empty(), "a worker may still read it");
    job.report(Report::Cancelled(job.attempt(), 1));
    assert_eq!(job.discarded, [(1, vec!["shared/one".to_owned()])]);
}

#[test]
fn files_that_a_checkpoint_under_way_may_build_upon_stay_although_a_later_one_completes() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 2;
    let mut job = Job::running(settings);
    job.pass(SECOND);
    (0..TASKS).for_each(|task| job.ack_with(task, 1, naming(&["shared/one"], &[])));
    job.hold_publish = true;
    job.pass(2 * SECOND);
    (0..TASKS).for_each(|task| job.ack_with(task, 2, naming(&["shared/two"], &[])));
    assert!(
        job.core.in_use("shared/one"),
        "a task may have snapshotted for 3 before it heard that 2 is complete"
    );
    job.feed(Event::Published(CheckpointId(2)));
    (0..TASKS).for_each(|task| job.ack_with(task, 3, naming(&["shared/three"], &[])));
    assert!(!job.core.in_use("shared/one") && !job.core.in_use("shared/two"), "3 builds on neither");
}

// ---- final checkpoints and the end of a job ----

#[test]
fn a_sink_that_awaits_its_commit_gets_a_final_checkpoint_at_once() {
    let mut settings = config();
    settings.checkpoint.min_pause = 1000 * SECOND;
    let mut job = Job::running(settings);
    job.await_commit(2);
    assert_eq!(job.take_log(), ["trigger 1"]);
    job.await_commit(2);
    job.ack_all(1);
    assert_eq!(job.take_log(), ["publish 1", "complete 1"]);
    (0..TASKS).for_each(|task| job.finish(task));
    job.workers_let_go();
    assert_eq!(job.take_log(), ["cancel 1", "ended Finished"]);
}

#[test]
fn a_checkpoint_triggered_before_the_report_does_not_serve_it() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 2;
    let mut job = Job::running(settings);
    job.pass(SECOND);
    job.await_commit(0);
    assert_eq!(job.take_log(), ["trigger 1", "trigger 2"]);
    job.await_commit(1); // waits for room
    job.ack_all(1);
    assert_eq!(job.take_log(), ["publish 1", "complete 1", "trigger 3"]);
}

#[test]
fn a_failed_final_checkpoint_is_followed_by_another() {
    let mut settings = config();
    settings.checkpoint.interval = None;
    let mut job = Job::running(settings);
    job.await_commit(0);
    job.decline(1, 1);
    job.pass(SECOND);
    assert_eq!(job.take_log(), ["trigger 1", "abort 1", "trigger 2"]);
    job.begin_errors = 3;
    job.decline(1, 2);
    job.pass(SECOND);
    assert_eq!(job.take_log(), ["abort 2", "begin failed", "begin failed", "begin failed", "trigger 3"]);
}

#[test]
fn without_checkpoints_everything_is_committed_once_all_data_have_arrived() {
    let mut job = Job::waiting(config(), false);
    job.feed(Event::Start);
    job.pass(Duration::ZERO);
    job.take_log();
    job.finish(0);
    job.await_commit(1);
    job.pass(100 * SECOND);
    assert!(job.take_log().is_empty());
    job.await_commit(2);
    job.finish(1);
    assert_eq!(job.take_log(), ["commit final"]);
    job.finish(2);
    job.workers_let_go();
    assert_eq!(job.take_log(), ["cancel 1", "ended Finished"]);
}

#[test]
fn checkpoints_go_on_after_some_tasks_finished_and_end_with_the_last() {
    let mut settings = config();
    settings.checkpoint.tolerable_failures = 0;
    let mut job = Job::running(settings);
    job.finish(0);
    job.finish(1);
    job.pass(SECOND);
    job.ack_all(1);
    job.pass(SECOND);
    job.take_log();
    job.finish(2);
    job.pass(10 * SECOND);
    assert_eq!(job.take_log(), ["cancel 1"]);
    job.workers_let_go();
    assert_eq!(job.core.status(), JobStatus::Finished);
    job.ask(1);
    assert_eq!(job.take_log(), ["ended Finished", "answer 1: the job has ended"]);
}

// ---- failures of attempts ----

#[test]
fn a_failed_task_restarts_the_job_after_the_delay_and_all_workers_let_go() {
    let mut job = Job::running(config());
    job.pass(SECOND);
    job.take_log();
    job.fail("boom", false);
    job.pass(10 * SECOND);
    job.report(Report::Cancelled(job.attempt(), 1));
    job.pass(10 * SECOND);
    assert_eq!(job.take_log(), ["cancel 1"]);
    job.report(Report::Cancelled(job.attempt(), 0));
    assert_eq!(job.take_log(), ["deploy 2"]);
    job.fail("again", false);
    job.workers_let_go();
    job.pass(Duration::from_millis(999));
    assert_eq!(job.take_log(), ["cancel 2"]);
    assert_eq!(job.core.status(), JobStatus::Restarting);
    job.pass(Duration::from_millis(1));
    assert_eq!(job.take_log(), ["deploy 3"]);
    assert_eq!(job.core.stats().0.restarts, 2);
}

#[test]
fn a_failure_from_an_old_attempt_is_ignored() {
    let mut job = Job::running(config());
    job.fail("boom", false);
    job.workers_let_go();
    job.pass(SECOND);
    let failure = TaskFailure { operator: "map".into(), partition: 1, message: "late".into(), fatal: true };
    job.report(Report::Failed(AttemptId(1), TaskId(0), failure));
    assert_eq!((job.core.status(), job.attempts), (JobStatus::Running, 2));
}

#[test]
fn when_restarts_are_used_up_the_first_failure_of_the_last_attempt_is_the_cause() {
    let mut settings = config();
    settings.restart = RestartStrategy::FixedDelay { attempts: 1, delay: SECOND };
    let mut job = Job::running(settings);
    job.fail("boom", false);
    job.workers_let_go();
    job.pass(SECOND);
    job.fail("first", false);
    job.fail("second", false);
    assert_eq!(job.core.status(), JobStatus::Failing);
    job.workers_let_go();
    let cause = "operator map, partition 1 failed: first; all 1 restarts that the restart strategy allows are used up";
    assert_eq!(job.core.status(), JobStatus::Failed(cause.into()));
}

#[test]
fn a_fatal_failure_is_never_followed_by_a_restart() {
    let mut job = Job::running(config());
    job.fail("boom", false);
    job.fail("lost", true);
    job.workers_let_go();
    job.pass(10 * SECOND);
    let JobStatus::Failed(message) = job.core.status() else { panic!("{:?}", job.core.status()) };
    assert!(message.contains("failed: lost, and output may have been lost"), "{message}");
    assert_eq!(job.attempts, 1);
}

#[test]
fn a_failed_deployment_counts_as_a_failure_and_a_fatal_one_ends_the_job() {
    let mut job = Job::waiting(config(), true);
    job.deploy_errors = VecDeque::from([false, false]);
    job.feed(Event::Start);
    job.pass(10 * SECOND);
    assert_eq!((job.core.status(), job.attempts), (JobStatus::Running, 3));
    let mut job = Job::waiting(config(), true);
    job.deploy_errors = VecDeque::from([true]);
    job.feed(Event::Start);
    job.pass(10 * SECOND);
    assert_eq!(job.core.status(), JobStatus::Failed("deployment failed: cannot read".into()));
}

#[test]
fn a_worker_that_stands_still_fails_the_job_naming_what_it_polls() {
    let mut settings = config();
    settings.heartbeat_timeout = 2 * SECOND;
    let mut job = Job::running(settings);
    for beat in 0..4 {
        for (worker, beats) in [(0, beat), (1, 9)] {
            job.feed(Event::Heartbeat { worker, beats, polling: Some(("map".into(), 4)) });
        }
        job.now = job.now.after(SECOND);
    }
    assert_eq!(job.core.status(), JobStatus::Failing);
    job.report(Report::Cancelled(job.attempt(), 0));
    let JobStatus::Failed(message) = job.core.status() else { panic!("{:?}", job.core.status()) };
    assert!(
        message.starts_with("worker 1 has stood still for 2.0 s: operator map, partition 4"),
        "{message}"
    );
}

#[test]
fn a_dead_worker_ends_the_job() {
    let mut job = Job::running(config());
    job.fail("boom", false);
    job.report(Report::WorkerDied(1, "out of memory".into()));
    job.report(Report::Cancelled(job.attempt(), 0));
    let JobStatus::Failed(message) = job.core.status() else { panic!("{:?}", job.core.status()) };
    assert!(message.starts_with("worker 1 has ended: out of memory"), "{message}");
}

#[test]
fn a_cancelled_job_ends_once_its_tasks_are_gone() {
    let mut job = Job::running(config());
    job.feed(Event::Cancel { give_up: false });
    assert_eq!(job.core.status(), JobStatus::Cancelling);
    job.pass(100 * SECOND);
    job.workers_let_go();
    assert_eq!(job.core.status(), JobStatus::Cancelled);
    let mut job = Job::running(config());
    job.fail("boom", false);
    job.workers_let_go();
    job.feed(Event::Cancel { give_up: false });
    assert_eq!(job.core.status(), JobStatus::Cancelled);
}

#[test]
fn a_shutdown_gives_up_on_workers_that_keep_their_tasks() {
    let mut job = Job::running(config());
    job.feed(Event::Cancel { give_up: true });
    job.report(Report::Cancelled(job.attempt(), 0));
    job.pass(10 * SECOND);
    let JobStatus::Failed(message) = job.core.status() else { panic!("{:?}", job.core.status()) };
    assert!(message.contains("workers {1} did not drop their tasks"), "{message}");
}

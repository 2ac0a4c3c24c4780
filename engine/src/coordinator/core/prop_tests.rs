//! The core under random orders of events, against rules that must hold in each of them.

use super::*;
use crate::control::{
    CheckpointMode, Report, SnapshotKind, SnapshotStats, StopMode, TaskFailure, TaskSnapshot, Trigger,
};
use crate::coordinator::config::{CheckpointConfig, RestartStrategy};
use crate::coordinator::pending::RequestId;
use crate::coordinator::trigger::Wish;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use thalweg_storage::manifest::{SegmentRef, SubtaskState};

const TASKS: u32 = 3;

/// One thing that happens. `back` picks among the latest ids, 0 being the newest.
#[derive(Clone, Debug)]
enum Step {
    Ack {
        task: u32,
        back: u64,
    },
    AckAll {
        back: u64,
    },
    Decline {
        task: u32,
        back: u64,
    },
    StaleAck {
        task: u32,
        back: u64,
    },
    Pass {
        ms: u64,
    },
    Ask {
        mode: Option<CheckpointMode>,
    },
    Savepoint {
        stop: Option<StopMode>,
    },
    AwaitCommit {
        task: u32,
    },
    Finish {
        task: u32,
    },
    Fail,
    LetGo {
        worker: usize,
    },
    /// Answers whatever the core is waiting for: [`Action::Deploy`], [`Action::Begin`] or [`Action::Publish`].
    Answer {
        good: bool,
    },
}

fn mode() -> impl Strategy<Value = CheckpointMode> {
    prop_oneof![
        3 => Just(CheckpointMode::Aligned),
        2 => Just(CheckpointMode::Unaligned),
        1 => Just(CheckpointMode::AlignedWithTimeout(Duration::from_millis(5))),
        1 => Just(CheckpointMode::AtLeastOnce),
    ]
}

fn stop() -> impl Strategy<Value = Option<StopMode>> {
    prop_oneof![4 => Just(None), 1 => Just(Some(StopMode::Suspend)), 1 => Just(Some(StopMode::Drain))]
}

fn step() -> impl Strategy<Value = Step> {
    let task = 0..TASKS;
    prop_oneof![
        8 => (task.clone(), 0..3u64).prop_map(|(task, back)| Step::Ack { task, back }),
        4 => (0..3u64).prop_map(|back| Step::AckAll { back }),
        2 => (task.clone(), 0..3u64).prop_map(|(task, back)| Step::Decline { task, back }),
        1 => (task.clone(), 0..5u64).prop_map(|(task, back)| Step::StaleAck { task, back }),
        6 => (0..1500u64).prop_map(|ms| Step::Pass { ms }),
        2 => proptest::option::of(mode()).prop_map(|mode| Step::Ask { mode }),
        1 => stop().prop_map(|stop| Step::Savepoint { stop }),
        1 => task.clone().prop_map(|task| Step::AwaitCommit { task }),
        1 => task.prop_map(|task| Step::Finish { task }),
        1 => Just(Step::Fail),
        4 => (0..2usize).prop_map(|worker| Step::LetGo { worker }),
        10 => prop::bool::weighted(0.8).prop_map(|good| Step::Answer { good }),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Triggered,
    Completed,
    Aborted,
}

/// What a checkpoint has been through, seen from outside.
#[derive(Debug)]
struct Seen {
    attempt: AttemptId,
    mode: CheckpointMode,
    kind: SnapshotKind,
    acks: BTreeSet<u32>,
    told: Told,
    declined: bool,
}

impl Seen {
    /// A savepoint that the job goes on after.
    fn stands_alone(&self) -> bool {
        self.kind.is_savepoint() && self.kind.stop().is_none()
    }
}

/// Runs a core and checks each of its actions.
struct World {
    core: Core,
    config: CoordinatorConfig,
    now: Nanos,
    ids: u64,
    attempts: u64,
    waiting_answers: VecDeque<Action>,
    checkpoints: BTreeMap<u64, Seen>,
    publishing: Option<u64>,
    /// Checkpoints, and savepoints with which the job stops.
    completed: Vec<u64>,
    savepoints: BTreeSet<u64>,
    /// The checkpoint that a task is declining at this moment.
    declining: Option<u64>,
    /// The attempt whose stop is complete.
    stopped: Option<AttemptId>,
    /// Segments named by the newest completed checkpoint.
    completed_files: BTreeSet<String>,
    let_go: BTreeSet<usize>,
    running: bool,
    requests: u64,
    answered: BTreeSet<u64>,
    failed_in_a_row: u32,
    ended: bool,
}

impl World {
    fn new(config: CoordinatorConfig) -> Self {
        let mut world = World {
            core: Core::new(config, true),
            config,
            now: Nanos(0),
            ids: 0,
            attempts: 0,
            waiting_answers: VecDeque::new(),
            checkpoints: BTreeMap::new(),
            publishing: None,
            completed: Vec::new(),
            savepoints: BTreeSet::new(),
            declining: None,
            stopped: None,
            completed_files: BTreeSet::new(),
            let_go: BTreeSet::from([0, 1]),
            running: false,
            requests: 0,
            answered: BTreeSet::new(),
            failed_in_a_row: 0,
            ended: false,
        };
        world.feed(Event::Start);
        world.feed(Event::Tick);
        world
    }

    fn attempt(&self) -> AttemptId {
        AttemptId(self.attempts)
    }

    fn feed(&mut self, event: Event) {
        for action in self.core.handle(self.now, event) {
            self.check(action);
        }
        let running = matches!(self.core.status(), JobStatus::Running) && self.running;
        if running {
            let tolerable = self.config.checkpoint.tolerable_failures;
            assert!(
                self.failed_in_a_row <= tolerable,
                "{} failures, {tolerable} tolerable",
                self.failed_in_a_row
            );
        }
    }

    /// Checkpoints that this attempt's tasks were told of and not yet of the end.
    fn open(&self) -> Vec<u64> {
        let of_attempt =
            |seen: &Seen| self.running && seen.attempt == self.attempt() && seen.told == Told::Triggered;
        self.checkpoints.iter().filter(|(_, seen)| of_attempt(seen)).map(|(id, _)| *id).collect()
    }

    fn check(&mut self, action: Action) {
        assert!(
            !self.ended
                || matches!(
                    action,
                    Action::Answer(..) | Action::Discard { .. } | Action::DiscardSavepoint(_)
                ),
            "{action:?} after the end"
        );
        match action {
            Action::Deploy => {
                assert_eq!(self.let_go.len(), 2, "deployed before all workers let go");
                assert_eq!(self.publishing, None, "deployed while a manifest is being published");
                self.waiting_answers.push_back(action);
            }
            Action::Begin { .. } => {
                assert!(
                    !self.waiting_answers.iter().any(|a| matches!(a, Action::Begin { .. })),
                    "two begun at once"
                );
                assert!(self.running, "begun while not running");
                self.waiting_answers.push_back(action);
            }
            Action::Publish(ref acknowledged) => {
                let id = acknowledged.id.0;
                assert_eq!(self.publishing.replace(id), None, "two published at once");
                assert_eq!(self.checkpoints[&id].acks.len(), TASKS as usize, "published without all acks");
                assert_eq!(acknowledged.snapshots.len(), TASKS as usize);
                let alone = self.checkpoints[&id].stands_alone();
                assert!(
                    alone || self.completed.last().is_none_or(|last| *last < id),
                    "{id} published after {:?}",
                    self.completed
                );
                self.waiting_answers.push_back(action);
            }
            Action::Broadcast(attempt, command) => {
                assert_eq!(attempt, self.attempt());
                self.told(command);
            }
            Action::CancelAttempt(attempt) => {
                assert_eq!(attempt, self.attempt());
                assert!(self.running, "cancelled twice");
                self.running = false;
            }
            Action::Discard { id, files } => {
                assert!(!self.completed.contains(&id.0), "completed checkpoint {id} discarded");
                assert_ne!(self.publishing, Some(id.0), "discarded while being published");
                for file in files {
                    assert!(
                        !self.completed_files.contains(&file),
                        "{file} of a completed checkpoint discarded"
                    );
                    assert!(!self.core.in_use(&file), "{file} discarded while in use");
                }
            }
            Action::Answer(request, _) => assert!(self.answered.insert(request.0), "request answered twice"),
            Action::Ended(_) => self.ended = true,
            Action::DiscardSavepoint(id) => {
                assert!(!self.savepoints.contains(&id.0), "complete savepoint {id} discarded");
                assert_ne!(self.publishing, Some(id.0), "discarded while being published");
            }
            Action::RemoveCheckpoints => panic!("checkpoints are retained"),
            Action::Note(_) => {}
        }
    }

    fn told(&mut self, command: TaskCommand) {
        match command {
            TaskCommand::Trigger(Trigger { checkpoint, mode, kind, .. }) => {
                let open = self.open();
                assert_ne!(self.stopped, Some(self.attempt()), "triggered although the job stops");
                let of = |id: &u64| &self.checkpoints[id].kind;
                assert!(open.iter().all(|id| of(id).stop().is_none()), "triggered beside a stop");
                assert!(open.len() < self.config.checkpoint.max_concurrent, "more than max concurrent");
                match &kind {
                    SnapshotKind::Checkpoint => {}
                    SnapshotKind::Savepoint { stop: Some(_), .. } => {
                        assert!(open.is_empty(), "a stop beside others")
                    }
                    SnapshotKind::Savepoint { .. } => {
                        assert!(!open.iter().any(|id| of(id).is_savepoint()), "two savepoints at once");
                    }
                }
                let overlapping =
                    |mode| matches!(mode, CheckpointMode::Aligned | CheckpointMode::AtLeastOnce);
                for id in open {
                    let other = self.checkpoints[&id].mode;
                    assert!(overlapping(mode) && overlapping(other), "{mode:?} overlaps {other:?}");
                }
                assert!(
                    self.checkpoints.last_key_value().is_none_or(|(last, _)| *last < checkpoint.0),
                    "ids rise"
                );
                let seen = Seen {
                    attempt: self.attempt(),
                    mode,
                    kind,
                    acks: BTreeSet::new(),
                    told: Told::Triggered,
                    declined: false,
                };
                self.checkpoints.insert(checkpoint.0, seen);
            }
            TaskCommand::Complete(id) => {
                let seen = self.checkpoints.get_mut(&id.0).expect("completion of an unknown checkpoint");
                assert_eq!(seen.told, Told::Triggered, "{id} ended twice");
                assert!(!seen.declined || seen.acks.len() == TASKS as usize);
                assert!(!seen.stands_alone(), "tasks hear of the completion of savepoint {id}");
                seen.told = Told::Completed;
                if seen.kind.stop().is_some() {
                    self.stopped = Some(self.attempt());
                }
                assert_eq!(self.completed.last(), Some(&id.0));
                let outlives = |open: &u64| *open < id.0 && !self.checkpoints[open].stands_alone();
                assert!(!self.open().iter().any(outlives), "an older one outlives {id}");
            }
            TaskCommand::Abort(id, latest) => {
                let newest = self.completed.last().map(|id| CheckpointId(*id));
                assert_eq!(latest, newest, "the abort of {id} tells what is complete");
                let publishing = self.publishing;
                let seen = self.checkpoints.get_mut(&id.0).expect("abort of an unknown checkpoint");
                assert_eq!(seen.told, Told::Triggered, "{id} ended twice");
                assert_ne!(publishing, Some(id.0), "{id} aborted while being published");
                seen.told = Told::Aborted;
                let subsumed = self.completed.last().is_some_and(|last| *last > id.0);
                let counts = match &seen.kind {
                    SnapshotKind::Checkpoint => true,
                    SnapshotKind::Savepoint { stop, .. } => stop.is_none() && self.declining == Some(id.0),
                };
                if !subsumed && counts {
                    self.failed_in_a_row += 1;
                }
            }
            TaskCommand::CommitFinal => {
                panic!("final commit without a checkpoint although checkpoints are on")
            }
        }
    }

    fn snapshot(&self, task: u32, id: u64) -> TaskSnapshot {
        let segment = |id: u64| SegmentRef {
            path: format!("shared/{task}-{id}"),
            bytes: 1,
            groups: 0..1,
            states: Vec::new(),
        };
        // Each snapshot builds on the one before, as incremental snapshots do.
        let segments = (id.saturating_sub(1)..=id).map(segment).collect();
        TaskSnapshot {
            operators: vec![("op".into(), Vec::new(), SubtaskState { segments, ..SubtaskState::default() })],
            segments: None,
            channels: Vec::new(),
            stats: SnapshotStats::default(),
        }
    }

    fn ack(&mut self, attempt: AttemptId, task: u32, id: u64) {
        // A task answers each checkpoint once it has heard of it, in order.
        let known = self.checkpoints.get_mut(&id).filter(|seen| seen.attempt == attempt);
        let Some(seen) = known else { return };
        if seen.told == Told::Triggered && attempt == AttemptId(self.attempts) {
            seen.acks.insert(task);
        }
        let snapshot = self.snapshot(task, id);
        self.feed(Event::Report(Report::Acknowledged(
            attempt,
            TaskId(task),
            CheckpointId(id),
            Box::new(snapshot),
        )));
    }

    fn answer(&mut self, good: bool) {
        let Some(action) = self.waiting_answers.pop_front() else { return };
        let event = match action {
            Action::Deploy => {
                self.attempts += 1;
                if good {
                    self.let_go.clear();
                    self.running = true;
                    self.failed_in_a_row = 0;
                    Event::Deployed(Deployed {
                        attempt: self.attempt(),
                        tasks: (0..TASKS).map(TaskId).collect(),
                        workers: BTreeSet::from([0, 1]),
                        restored: None,
                        restored_records: 0,
                    })
                } else {
                    Event::DeployFailed { message: "no".into(), fatal: false }
                }
            }
            Action::Begin { savepoint_root } if good => {
                self.ids += 1;
                let dir = savepoint_root.map(|root| root.join(self.ids.to_string()).into());
                Event::Begun { id: CheckpointId(self.ids), unix_ms: 0, dir }
            }
            Action::Begin { savepoint_root } => {
                self.failed_in_a_row += u32::from(self.running && savepoint_root.is_none());
                Event::BeginFailed("no".into())
            }
            Action::Publish(acknowledged) => {
                let id = acknowledged.id;
                self.publishing = None;
                if good {
                    let seen = self.checkpoints.get_mut(&id.0).expect("published, so triggered");
                    if seen.kind.is_savepoint() {
                        self.savepoints.insert(id.0);
                    }
                    if seen.stands_alone() {
                        seen.told = Told::Completed;
                    } else {
                        self.completed.push(id.0);
                        self.failed_in_a_row = 0;
                        let named = acknowledged.snapshots.values().flat_map(|s| &s.operators[0].2.segments);
                        let named = named.filter(|_| acknowledged.kind == SnapshotKind::Checkpoint);
                        self.completed_files = named.map(|segment| segment.path.clone()).collect();
                    }
                    Event::Published(id)
                } else {
                    Event::PublishFailed { id, message: "no".into(), outcome_unknown: false }
                }
            }
            other => unreachable!("{other:?} needs no answer"),
        };
        self.feed(event);
    }

    fn act(&mut self, step: Step) {
        let attempt = self.attempt();
        let at = |ids: u64, back: u64| ids.saturating_sub(back);
        match step {
            Step::Ack { task, back } => self.ack(attempt, task, at(self.ids, back)),
            Step::AckAll { back } => (0..TASKS).for_each(|task| self.ack(attempt, task, at(self.ids, back))),
            Step::StaleAck { task, back } => {
                let id = at(self.ids, back);
                let of = self.checkpoints.get(&id).map(|seen| seen.attempt);
                of.into_iter().for_each(|of| self.ack(of, task, id));
            }
            Step::Decline { task, back } => {
                let id = at(self.ids, back);
                if let Some(seen) = self.checkpoints.get_mut(&id).filter(|seen| !seen.acks.contains(&task)) {
                    seen.declined = true;
                    let report = Report::Declined(attempt, TaskId(task), CheckpointId(id), "no".into());
                    self.declining = Some(id);
                    self.feed(Event::Report(report));
                    self.declining = None;
                }
            }
            Step::Pass { ms } => {
                self.now = self.now.after(Duration::from_millis(ms));
                self.feed(Event::Tick);
            }
            Step::Ask { mode } => {
                self.requests += 1;
                self.feed(Event::Trigger { request: RequestId(self.requests), mode });
            }
            Step::Savepoint { stop } => {
                self.requests += 1;
                let wish = Wish { root: Path::new("/savepoints").into(), stop };
                self.feed(Event::Savepoint { request: RequestId(self.requests), wish });
            }
            Step::AwaitCommit { task } => {
                self.feed(Event::Report(Report::AwaitsCommit(attempt, TaskId(task))))
            }
            Step::Finish { task } => self.feed(Event::Report(Report::Finished(attempt, TaskId(task)))),
            Step::Fail => {
                let failure =
                    TaskFailure { operator: "op".into(), partition: 0, message: "no".into(), fatal: false };
                self.feed(Event::Report(Report::Failed(attempt, TaskId(0), failure)));
            }
            Step::LetGo { worker } => {
                if !self.running && self.attempts > 0 {
                    self.let_go.insert(worker);
                    self.feed(Event::Report(Report::Cancelled(attempt, worker)));
                }
            }
            Step::Answer { good } => self.answer(good),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn prop_rules_hold_under_every_order_of_events(
        steps in vec(step(), 1..250),
        mode in mode(),
        max_concurrent in 1..4usize,
        tolerable_failures in 0..4u32,
        retained in 1..3usize,
        min_pause_ms in prop_oneof![Just(0u64), Just(300u64)],
    ) {
        let config = CoordinatorConfig {
            checkpoint: CheckpointConfig {
                interval: Some(Duration::from_millis(200)),
                timeout: Duration::from_secs(3),
                min_pause: Duration::from_millis(min_pause_ms),
                max_concurrent,
                tolerable_failures,
                mode,
                retained,
                ..CheckpointConfig::default()
            },
            restart: RestartStrategy::FixedDelay { attempts: u32::MAX, delay: Duration::from_millis(100) },
            ..CoordinatorConfig::default()
        };
        let mut world = World::new(config);
        for step in steps {
            world.act(step);
        }

        // The job goes on from wherever the steps have left it: it either ends or completes another checkpoint, and each
        // request is answered.
        let completed = world.completed.len();
        for _ in 0..2000 {
            world.answer(true);
            (0..2).for_each(|worker| world.act(Step::LetGo { worker }));
            let open = world.open();
            open.into_iter().for_each(|id| (0..TASKS).for_each(|task| world.ack(world.attempt(), task, id)));
            if world.stopped == Some(world.attempt()) {
                (0..TASKS).for_each(|task| world.act(Step::Finish { task }));
            }
            world.act(Step::Pass { ms: 50 });
            let all_answered = world.answered.len() as u64 == world.requests;
            if all_answered && (world.ended || world.completed.len() > completed) {
                return Ok(());
            }
        }
        prop_assert!(false, "stuck: {:?}", world.core);
    }
}

//! Claims about one worker's rounds.

use super::*;
use crate::clock::{Clock, SimClock};
use crate::control::WorkerCommand;
use crate::worker::{Round, SimWorkers, TimeSpent};
use std::sync::atomic::{AtomicUsize, Ordering};

/// One simulated worker with tasks of one attempt, and its reports.
struct Bench {
    clock: Arc<SimClock>,
    workers: SimWorkers,
    reports: Receiver<Report>,
}

impl Bench {
    fn deploy(tasks: Vec<Fake>) -> Self {
        let clock = Arc::new(SimClock::default());
        let workers = SimWorkers::new(1, &(Arc::clone(&clock) as Arc<dyn Clock>));
        let (sink, reports) = Reports::channel();
        let tasks = tasks.into_iter().enumerate().map(|(id, task)| task.boxed(id as u32)).collect();
        workers.link(0).send(WorkerCommand::Deploy(ATTEMPT, tasks, sink));
        Bench { clock, workers, reports }
    }

    fn send(&self, command: WorkerCommand) {
        self.workers.link(0).send(command);
    }

    fn step(&mut self) -> Round {
        let now = self.clock.now();
        self.workers.step(0, now)
    }
}

/// A task that counts its polls and always answers the same.
fn counting(progress: Progress) -> (Fake, Arc<AtomicUsize>) {
    let polls = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&polls);
    let task = Fake::new("count", move |_| {
        theirs.fetch_add(1, Ordering::Relaxed);
        Ok(progress)
    });
    (task, polls)
}

#[test]
fn each_round_polls_every_running_task_once() {
    let progress = [Progress::Busy, Progress::Blocked { wake_at: None }, Progress::Idle { wake_at: None }];
    let (tasks, polls): (Vec<_>, Vec<_>) = progress.into_iter().map(counting).unzip();
    let mut bench = Bench::deploy(tasks);
    for _ in 0..100 {
        assert!(bench.step().busy);
    }
    for polls in polls {
        assert_eq!(polls.load(Ordering::Relaxed), 100);
    }
}

#[test]
fn a_panic_becomes_a_failure_with_operator_partition_and_message_and_the_others_run_on() {
    let (neighbour, polls) = counting(Progress::Busy);
    let mut bench = Bench::deploy(vec![Fake::new("parse", |_| panic!("record {} is bad", 17)), neighbour]);
    for _ in 0..3 {
        bench.step();
    }
    let Report::Failed(ATTEMPT, TaskId(0), failure) = bench.reports.try_recv().unwrap() else {
        panic!("no failure")
    };
    assert_eq!(
        failure,
        TaskFailure {
            operator: "parse".into(),
            partition: 3,
            message: "record 17 is bad".into(),
            fatal: false
        }
    );
    assert!(bench.reports.try_recv().is_err(), "a failure is reported once");
    assert_eq!(polls.load(Ordering::Relaxed), 3);
}

#[test]
fn an_error_is_reported_once_and_its_task_hears_no_command_any_more() {
    let heard = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&heard);
    let failure =
        TaskFailure { operator: "sink".into(), partition: 3, message: "disk full".into(), fatal: true };
    let returned = failure.clone();
    let task = Fake::new("sink", move |_| Err(returned.clone())).on_command(move |_| {
        theirs.fetch_add(1, Ordering::Relaxed);
    });
    let mut bench = Bench::deploy(vec![task]);
    bench.step();
    bench.send(WorkerCommand::Broadcast(ATTEMPT, abort_command()));
    bench.step();
    assert!(matches!(bench.reports.try_recv(), Ok(Report::Failed(_, _, reported)) if reported == failure));
    assert!(bench.reports.try_recv().is_err());
    assert_eq!(heard.load(Ordering::Relaxed), 0);
}

#[test]
fn a_panic_in_a_command_is_a_failure_too() {
    let task = Fake::new("map", |_| idle()).on_command(|_| panic!("no"));
    let mut bench = Bench::deploy(vec![task]);
    bench.step();
    bench.send(WorkerCommand::Broadcast(ATTEMPT, abort_command()));
    bench.step();
    assert!(matches!(bench.reports.try_recv(), Ok(Report::Failed(_, _, failure)) if failure.message == "no"));
}

#[test]
fn a_finished_task_is_polled_again_only_after_a_command() {
    let (task, polls) = counting(Progress::Finished);
    let mut bench = Bench::deploy(vec![task]);
    for _ in 0..5 {
        bench.step();
    }
    assert_eq!(polls.load(Ordering::Relaxed), 1);
    bench.send(WorkerCommand::Broadcast(ATTEMPT, abort_command()));
    for _ in 0..5 {
        bench.step();
    }
    assert_eq!(polls.load(Ordering::Relaxed), 2);
}

#[test]
fn a_command_reaches_only_the_tasks_of_its_attempt() {
    let heard = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&heard);
    let task = Fake::new("map", |_| idle()).on_command(move |_| {
        theirs.fetch_add(1, Ordering::Relaxed);
    });
    let mut bench = Bench::deploy(vec![task]);
    bench.send(WorkerCommand::Broadcast(AttemptId(2), abort_command()));
    bench.step();
    assert_eq!(heard.load(Ordering::Relaxed), 0);
    bench.send(WorkerCommand::Broadcast(ATTEMPT, abort_command()));
    bench.step();
    assert_eq!(heard.load(Ordering::Relaxed), 1);
}

#[test]
fn cancel_drops_every_task_of_the_attempt_then_reports_even_if_a_drop_panics() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let task = |panics: bool| {
        let dropped = Arc::clone(&dropped);
        Fake::new("map", |_| idle()).on_drop(move || {
            dropped.fetch_add(1, Ordering::Relaxed);
            assert!(!panics, "this drop panics");
        })
    };
    let mut bench = Bench::deploy(vec![task(true), task(false)]);
    let (sink, other_reports) = Reports::channel();
    let other = AttemptId(2);
    let (survivor, polls) = counting(Progress::Busy);
    bench.send(WorkerCommand::Deploy(other, vec![survivor.boxed(0)], sink));
    bench.step();
    bench.send(WorkerCommand::Cancel(ATTEMPT));
    assert_eq!(dropped.load(Ordering::Relaxed), 0);
    bench.step();
    assert_eq!(dropped.load(Ordering::Relaxed), 2);
    assert!(matches!(bench.reports.try_recv(), Ok(Report::Cancelled(ATTEMPT, 0))));
    bench.step();
    assert_eq!(polls.load(Ordering::Relaxed), 3, "the other attempt runs on");
    assert!(other_reports.try_recv().is_err());
    assert_eq!(bench.workers.tasks().len(), 1);
}

#[test]
fn an_attempt_without_tasks_on_this_worker_answers_its_cancellation() {
    let mut bench = Bench::deploy(Vec::new());
    bench.send(WorkerCommand::Cancel(ATTEMPT));
    bench.step();
    assert!(matches!(bench.reports.try_recv(), Ok(Report::Cancelled(ATTEMPT, 0))));
}

#[test]
fn the_coordinator_sees_which_task_is_being_polled() {
    let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
    let mut workers = SimWorkers::new(1, &clock);
    let link = workers.link(0);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let task = |name| {
        let (seen, link) = (Arc::clone(&seen), workers.link(0));
        Fake::new(name, move |_| {
            seen.lock().unwrap().push(link.polling());
            idle()
        })
    };
    let (sink, _reports) = Reports::channel();
    link.send(WorkerCommand::Deploy(ATTEMPT, vec![task("a").boxed(0), task("b").boxed(1)], sink));
    workers.step(0, Nanos(0));
    assert_eq!(*seen.lock().unwrap(), [Some(("a".to_owned(), 3)), Some(("b".to_owned(), 3))]);
    assert_eq!(link.polling(), None);
}

#[test]
fn a_round_asks_to_be_woken_at_the_earliest_time_of_its_tasks() {
    let late = Progress::Idle { wake_at: Some(Nanos(900)) };
    let early = Progress::Blocked { wake_at: Some(Nanos(400)) };
    let tasks = [late, Progress::Idle { wake_at: None }, early].map(|progress| counting(progress).0);
    let mut bench = Bench::deploy(tasks.into());
    bench.step();
    let round = bench.step();
    assert_eq!(round, Round { busy: false, wake_at: Some(Nanos(400)), shutdown: false });
    assert_eq!(bench.workers.wake_at(0), Some(Nanos(400)));
}

#[test]
fn a_simulated_worker_is_runnable_exactly_while_there_is_something_to_do() {
    let mut bench = Bench::deploy(vec![counting(Progress::Idle { wake_at: None }).0]);
    assert!(bench.workers.is_runnable(0), "a command has come");
    bench.step();
    assert!(bench.workers.is_runnable(0), "it has just deployed");
    bench.step();
    assert!(!bench.workers.is_runnable(0));
    bench.workers.doorbell(0).ring();
    assert!(bench.workers.is_runnable(0));
    bench.step();
    assert!(!bench.workers.is_runnable(0));
}

#[test]
fn a_ring_from_a_task_of_the_same_worker_is_not_lost() {
    let clock: Arc<dyn Clock> = Arc::new(SimClock::default());
    let mut workers = SimWorkers::new(1, &clock);
    let bell = workers.doorbell(0);
    let (sink, _reports) = Reports::channel();
    let mut rings = 1;
    let producer = Fake::new("late", move |_| {
        // Hands something to a task that was polled earlier in the round, and has nothing more to do itself.
        if std::mem::take(&mut rings) > 0 {
            bell.ring();
        }
        idle()
    });
    workers.link(0).send(WorkerCommand::Deploy(ATTEMPT, Vec::new(), sink.clone()));
    workers.step(0, Nanos(0));
    workers.step(0, Nanos(0));
    workers.link(0).send(WorkerCommand::Deploy(ATTEMPT, vec![producer.boxed(0)], sink));
    workers.step(0, Nanos(0));
    assert!(workers.is_runnable(0));
}

#[test]
fn shutdown_drops_all_tasks_and_later_steps_do_nothing() {
    let dropped = Arc::new(AtomicUsize::new(0));
    let theirs = Arc::clone(&dropped);
    let task = Fake::new("map", |_| idle()).on_drop(move || {
        theirs.fetch_add(1, Ordering::Relaxed);
    });
    let mut bench = Bench::deploy(vec![task]);
    bench.step();
    bench.send(WorkerCommand::Shutdown);
    assert!(bench.step().shutdown);
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    bench.workers.doorbell(0).ring();
    assert!(!bench.workers.is_runnable(0));
    assert_eq!(bench.step(), Round { shutdown: true, ..Round::default() });
}

#[test]
fn time_is_attributed_to_what_each_task_reported() {
    let clock = Arc::new(SimClock::default());
    let mut workers = SimWorkers::new(1, &(Arc::clone(&clock) as Arc<dyn Clock>));
    let working = Arc::clone(&clock);
    let busy = Fake::new("busy", move |now| {
        working.advance_to(now.after(Duration::from_nanos(70)));
        Ok(Progress::Busy)
    });
    let blocked = Fake::new("blocked", |_| Ok(Progress::Blocked { wake_at: None }));
    let (sink, _reports) = Reports::channel();
    workers.link(0).send(WorkerCommand::Deploy(ATTEMPT, vec![busy.boxed(0), blocked.boxed(1)], sink));
    for _ in 0..2 {
        let now = clock.now();
        workers.step(0, now);
    }
    clock.advance_to(Nanos(1_000));
    let spent: Vec<_> = workers.tasks().iter().map(|task| task.times.until(Nanos(1_000))).collect();
    assert_eq!(spent[0], TimeSpent { busy_ns: 1_000, blocked_ns: 0, idle_ns: 0, waiting_ns: 0 });
    assert_eq!(spent[1], TimeSpent { busy_ns: 0, blocked_ns: 930, idle_ns: 70, waiting_ns: 0 });
}

//! Claims that hold on every driver.

use super::*;
use crate::clock::SystemClock;
use crate::control::WorkerCommand;
use crate::worker::{DriverChoice, DriverKind, StuckWorker, WorkerError, WorkerOptions, Workers};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

fn options(workers: usize, driver: DriverChoice) -> WorkerOptions {
    WorkerOptions { workers, driver, pin: true, clock: SystemClock::start() }
}

/// The drivers that run here: threads always, glommio where io_uring works.
fn drivers() -> Vec<DriverChoice> {
    let mut drivers = vec![DriverChoice::Threads];
    #[cfg(target_os = "linux")]
    if super::super::probe::probe().is_ok() {
        drivers.push(DriverChoice::Glommio);
    }
    drivers
}

fn start(workers: usize, driver: DriverChoice) -> Workers {
    Workers::start(options(workers, driver)).unwrap()
}

fn deploy(workers: &Workers, worker: usize, tasks: Vec<Fake>) -> Receiver<Report> {
    let (sink, reports) = Reports::channel();
    let tasks = tasks.into_iter().enumerate().map(|(id, task)| task.boxed(id as u32)).collect();
    workers.link(worker).send(WorkerCommand::Deploy(ATTEMPT, tasks, sink));
    reports
}

#[test]
fn ten_thousand_rings_of_a_host_thread_are_all_answered() {
    for driver in drivers() {
        let workers = start(1, driver);
        let bell = workers.doorbell(0);
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, answers) = channel();
        let (theirs, mut answered) = (Arc::clone(&asked), 0);
        let _reports = deploy(
            &workers,
            0,
            vec![Fake::new("echo", move |_| {
                let asked = theirs.load(Ordering::Relaxed);
                if asked > answered {
                    answered = asked;
                    answer.send(asked).unwrap();
                    return Ok(Progress::Busy);
                }
                idle()
            })],
        );
        for question in 1..=10_000 {
            asked.store(question, Ordering::Relaxed);
            bell.ring();
            assert_eq!(answers.recv_timeout(WATCHDOG).expect("a wake-up was lost"), question);
        }
        workers.shutdown(WATCHDOG).unwrap();
    }
}

#[test]
fn two_workers_wake_each_other_ten_thousand_times() {
    for driver in drivers() {
        let workers = start(2, driver);
        let ball = Arc::new(AtomicUsize::new(0));
        let (done, finished) = channel();
        let player = |me: usize| {
            let (ball, other, done) = (Arc::clone(&ball), workers.doorbell(1 - me), done.clone());
            Fake::new("player", move |_| {
                let hits = ball.load(Ordering::Acquire);
                if hits >= 20_000 {
                    let _ = done.send(());
                    return Ok(Progress::Finished);
                }
                if hits % 2 == me {
                    ball.store(hits + 1, Ordering::Release);
                    other.ring();
                }
                idle()
            })
        };
        let _reports = [deploy(&workers, 0, vec![player(0)]), deploy(&workers, 1, vec![player(1)])];
        finished.recv_timeout(WATCHDOG).expect("a wake-up was lost");
        workers.shutdown(WATCHDOG).unwrap();
    }
}

#[test]
fn a_parked_worker_polls_at_wake_at_and_not_before() {
    for driver in drivers() {
        let workers = start(1, driver);
        let (woken, wakes) = channel();
        let mut due = None;
        let mut left = 20;
        let _reports = deploy(
            &workers,
            0,
            vec![Fake::new("timer", move |now| {
                if due.is_some_and(|due| now >= due) {
                    left -= 1;
                    due = None;
                }
                if left == 0 {
                    let _ = woken.send(());
                    return idle();
                }
                let at = *due.get_or_insert(now.after(Duration::from_millis(7)));
                Ok(Progress::Idle { wake_at: Some(at) })
            })],
        );
        wakes.recv_timeout(WATCHDOG).expect("a parked worker slept through its wake_at");
        workers.shutdown(WATCHDOG).unwrap();
    }
}

#[test]
fn commands_wake_a_parked_worker() {
    for driver in drivers() {
        let workers = start(1, driver);
        let (heard, commands) = channel();
        let task = Fake::new("map", |_| idle()).on_command(move |_| heard.send(()).unwrap());
        let reports = deploy(&workers, 0, vec![task]);
        for _ in 0..100 {
            workers.link(0).send(WorkerCommand::Broadcast(ATTEMPT, abort_command()));
            commands.recv_timeout(WATCHDOG).unwrap();
        }
        workers.link(0).send(WorkerCommand::Cancel(ATTEMPT));
        assert!(matches!(reports.recv_timeout(WATCHDOG), Ok(Report::Cancelled(ATTEMPT, 0))));
    }
}

#[test]
fn a_panicking_task_leaves_its_worker_alive() {
    for driver in drivers() {
        let workers = start(1, driver);
        let reports =
            deploy(&workers, 0, vec![Fake::new("bad", |_| panic!("bad")), Fake::new("good", |_| idle())]);
        assert!(matches!(reports.recv_timeout(WATCHDOG), Ok(Report::Failed(ATTEMPT, TaskId(0), _))));
        workers.link(0).send(WorkerCommand::Cancel(ATTEMPT));
        assert!(matches!(reports.recv_timeout(WATCHDOG), Ok(Report::Cancelled(ATTEMPT, 0))));
        workers.shutdown(WATCHDOG).unwrap();
    }
}

#[test]
fn the_heartbeat_rises_while_parked_and_while_busy() {
    for driver in drivers() {
        let workers = start(2, driver);
        let _reports = deploy(&workers, 1, vec![Fake::new("busy", |_| Ok(Progress::Busy))]);
        for worker in 0..2 {
            let link = workers.link(worker);
            let target = link.heartbeat() + 3;
            let (done, watch) = channel();
            thread::spawn(move || {
                while link.heartbeat() < target {
                    thread::park_timeout(Duration::from_millis(1));
                }
                let _ = done.send(());
            });
            watch.recv_timeout(WATCHDOG).expect("the heartbeat stands still");
        }
        workers.shutdown(WATCHDOG).unwrap();
    }
}

#[test]
fn shutdown_returns_by_its_deadline_and_names_the_stuck_task() {
    for driver in drivers() {
        let workers = start(2, driver);
        let release = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&release);
        let (entered, entries) = channel();
        let _reports = deploy(
            &workers,
            1,
            vec![
                Fake::new("fine", |_| idle()),
                Fake::new("loop", move |_| {
                    let _ = entered.send(());
                    while !theirs.load(Ordering::Relaxed) {
                        thread::park_timeout(Duration::from_millis(1));
                    }
                    idle()
                }),
            ],
        );
        entries.recv_timeout(WATCHDOG).unwrap();
        let outcome = workers.shutdown(Duration::from_millis(50));
        release.store(true, Ordering::Relaxed);
        let Err(WorkerError::Stuck(stuck)) = outcome else {
            panic!("the loop cannot have ended: {outcome:?}")
        };
        assert_eq!(stuck, [StuckWorker { worker: 1, polling: Some(("loop".to_owned(), 3)) }]);
        workers.shutdown(WATCHDOG).unwrap();
    }
}

#[test]
fn dropping_workers_drops_their_tasks() {
    for driver in drivers() {
        let (dropped, drops) = channel();
        let workers = start(1, driver);
        let task = Fake::new("map", |_| idle()).on_drop(move || dropped.send(()).unwrap());
        let _reports = deploy(&workers, 0, vec![task]);
        drop(workers);
        drops.try_recv().expect("the drop of the workers has waited for the drop of the task");
    }
}

#[test]
fn the_last_handle_may_be_dropped_by_a_task() {
    for driver in drivers() {
        let workers = Arc::new(start(2, driver));
        let (dropped, drops) = channel();
        let theirs = Arc::clone(&workers);
        let task = Fake::new("owner", |_| idle()).on_drop(move || {
            drop(theirs);
            let _ = dropped.send(());
        });
        let _reports = deploy(&workers, 0, vec![task]);
        let link = workers.link(0);
        drop(workers);
        link.send(WorkerCommand::Cancel(ATTEMPT));
        drops.recv_timeout(WATCHDOG).expect("the drop waits for its own thread");
    }
}

/// A sink whose reports panic: a bug of the engine itself, which ends the executor.
struct Bomb;

impl ReportSink for Bomb {
    fn report(&self, _report: Report) {
        panic!("the sink is broken");
    }
}

#[test]
fn the_death_of_an_executor_is_reported_and_shutdown_does_not_hang() {
    for driver in drivers() {
        let workers = start(2, driver);
        let reports = deploy(&workers, 0, vec![Fake::new("good", |_| idle())]);
        let bad = vec![Fake::new("bad", |_| panic!("bad")).boxed(0)];
        workers.link(0).send(WorkerCommand::Deploy(AttemptId(2), bad, Arc::new(Bomb)));
        let died = |report| matches!(report, Report::WorkerDied(0, message) if message.contains("the sink is broken"));
        assert!(died(reports.recv_timeout(WATCHDOG).unwrap()));
        let late = deploy(&workers, 0, vec![Fake::new("late", |_| idle())]);
        assert!(died(late.recv_timeout(WATCHDOG).unwrap()));
        let unharmed = deploy(&workers, 1, Vec::new());
        workers.link(1).send(WorkerCommand::Cancel(ATTEMPT));
        assert!(matches!(unharmed.recv_timeout(WATCHDOG), Ok(Report::Cancelled(ATTEMPT, 1))));
        workers.shutdown(WATCHDOG).unwrap();
    }
}

#[test]
fn several_engines_workers_live_in_one_process_and_more_workers_than_cores_run() {
    for driver in drivers() {
        let engines = [start(1, driver), start(2, driver), start(6, driver)];
        for workers in &engines {
            for worker in 0..workers.count() {
                let reports = deploy(workers, worker, vec![Fake::new("end", |_| Ok(Progress::Finished))]);
                workers.link(worker).send(WorkerCommand::Cancel(ATTEMPT));
                assert!(
                    matches!(reports.recv_timeout(WATCHDOG), Ok(Report::Cancelled(ATTEMPT, w)) if w == worker)
                );
            }
        }
        for workers in engines {
            workers.shutdown(WATCHDOG).unwrap();
        }
    }
}

#[test]
fn shutdown_twice_and_commands_after_it_do_nothing() {
    for driver in drivers() {
        let workers = start(1, driver);
        workers.shutdown(WATCHDOG).unwrap();
        workers.shutdown(WATCHDOG).unwrap();
        let reports = deploy(&workers, 0, vec![Fake::new("late", |_| idle())]);
        assert!(reports.recv().is_err(), "the sink is dropped with the command");
        workers.doorbell(0).ring();
    }
}

#[test]
fn no_workers_are_refused() {
    assert!(matches!(Workers::start(options(0, DriverChoice::Auto)), Err(WorkerError::NoWorkers)));
}

/// Runs in a child process, since the limit is the process's and cannot be raised again without privilege.
#[cfg(target_os = "linux")]
#[test]
fn too_small_a_memlock_limit_refuses_glommio_by_name_and_falls_back_otherwise() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    const CHILD: &str = "THALWEG_TEST_MEMLOCK_CHILD";
    if !drivers().contains(&DriverChoice::Glommio) {
        return;
    }
    if std::env::var_os(CHILD).is_none() {
        let name = "worker::tests::drivers::too_small_a_memlock_limit_refuses_glommio_by_name_and_falls_back_otherwise";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && output.contains("1 passed"), "{output}");
        return;
    }
    setrlimit(Resource::Memlock, Rlimit { current: Some(64 * 1024), maximum: Some(64 * 1024) }).unwrap();
    let refusal = Workers::start(options(1, DriverChoice::Glommio)).unwrap_err();
    assert!(matches!(&refusal, WorkerError::GlommioUnavailable(_)));
    assert!(refusal.to_string().contains("RLIMIT_MEMLOCK"), "{refusal}");
    let workers = start(1, DriverChoice::Auto);
    assert_eq!(workers.driver(), DriverKind::Threads);
    assert!(workers.fallback_reason().unwrap().contains("ulimit -l"));
}

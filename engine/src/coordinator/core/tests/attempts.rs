//! Restarts, cancellation, shutdown and lost workers.

use super::*;

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

#[test]
fn checkpoints_go_or_stay_with_the_job_by_its_retention() {
    use crate::config::CheckpointRetention::{
        DeleteOnCancellation, NoExternalizedCheckpoints, RetainOnCancellation,
    };
    type End = fn(&mut Job);
    let cancel: End = |job| job.feed(Event::Cancel { give_up: false });
    let shut_down: End = |job| job.feed(Event::Cancel { give_up: true });
    let fail: End = |job| job.fail("boom", true);
    let finish: End = |job| (0..TASKS).for_each(|task| job.finish(task));
    let removed = |retention, end: End| {
        let mut settings = config();
        settings.checkpoint.retention = retention;
        let mut job = Job::running(settings);
        end(&mut job);
        job.workers_let_go();
        job.take_log().iter().any(|line| line == "remove checkpoints")
    };
    let ends = [cancel, shut_down, fail, finish];
    assert_eq!(ends.map(|end| removed(RetainOnCancellation, end)), [false; 4]);
    assert_eq!(ends.map(|end| removed(DeleteOnCancellation, end)), [true, false, false, true]);
    assert_eq!(ends.map(|end| removed(NoExternalizedCheckpoints, end)), [true; 4]);
}

#[test]
fn checkpoints_that_a_lost_worker_may_still_write_are_never_removed() {
    let mut settings = config();
    settings.checkpoint.retention = crate::config::CheckpointRetention::NoExternalizedCheckpoints;
    let mut job = Job::running(settings);
    job.report(Report::WorkerDied(0, "gone".into()));
    job.workers_let_go();
    assert!(matches!(job.core.status(), JobStatus::Failed(_)));
    assert!(!job.take_log().iter().any(|line| line == "remove checkpoints"));
}

#[test]
fn delays_between_restarts_grow_until_the_job_has_run_for_a_while() {
    let mut settings = config();
    settings.restart = RestartStrategy::ExponentialDelay(crate::coordinator::config::ExponentialDelay {
        jitter_factor: 0.0,
        backoff_multiplier: 2.0,
        reset_backoff_threshold: 100 * SECOND,
        ..Default::default()
    });
    let mut job = Job::running(settings);
    let restart_takes = |job: &mut Job, seconds: u32| {
        job.fail("boom", false);
        job.workers_let_go();
        job.take_log();
        job.pass(seconds * SECOND - Duration::from_millis(1));
        assert!(job.take_log().is_empty(), "restarted before {seconds} s have passed");
        job.pass(Duration::from_millis(1));
        assert!(job.take_log()[0].starts_with("deploy"));
    };
    [1, 2, 4].into_iter().for_each(|seconds| restart_takes(&mut job, seconds));
    job.pass(100 * SECOND);
    restart_takes(&mut job, 1);
}

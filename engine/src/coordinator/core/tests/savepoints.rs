//! Savepoints, and the end of a job by one.

use super::*;
use crate::control::SnapshotKind;
use crate::coordinator::stats::CheckpointKind;

/// Settings without periodic checkpoints.
fn by_hand() -> CoordinatorConfig {
    let mut settings = config();
    settings.checkpoint.interval = None;
    settings
}

fn mode_of(job: &Job) -> CheckpointMode {
    job.triggers.last().expect("something was triggered").mode
}

#[test]
fn a_savepoint_completes_without_a_word_to_the_tasks() {
    let mut job = Job::running(by_hand());
    job.savepoint(7);
    assert!(job.triggers[0].kind.is_savepoint());
    job.ack_all(1);
    assert_eq!(job.take_log(), ["trigger 1", "publish 1", "answer 7: /savepoints/savepoint-job-1"]);
    let stats = job.core.stats().0;
    assert_eq!((stats.savepoints, stats.completed, stats.latest), (1, 0, None));
    assert_eq!(stats.history[0].kind, CheckpointKind::Savepoint);
}

#[test]
fn a_savepoint_is_aligned_whatever_the_jobs_mode() {
    for mode in [CheckpointMode::Unaligned, CheckpointMode::AtLeastOnce] {
        let mut settings = by_hand();
        settings.checkpoint.mode = mode;
        let mut job = Job::running(settings);
        job.savepoint(1);
        assert_eq!(mode_of(&job), CheckpointMode::Aligned);
    }
}

#[test]
fn a_savepoint_goes_before_checkpoints_of_users_and_those_before_periodic_ones() {
    let mut job = Job::running(config());
    job.ask(1);
    job.ask(2);
    job.pass(SECOND);
    job.savepoint(3);
    job.savepoint(4);
    (1..=4).for_each(|id| job.ack_all(id));
    assert_eq!(job.triggers.len(), 5, "the periodic one is the last");
    let answers: Vec<String> = job.take_log().into_iter().filter(|line| line.starts_with("answer")).collect();
    let expected = [
        "answer 1: 1",
        "answer 3: /savepoints/savepoint-job-2",
        "answer 4: /savepoints/savepoint-job-3",
        "answer 2: 4",
    ];
    assert_eq!(answers, expected);
}

#[test]
fn a_savepoint_waits_for_an_unaligned_checkpoint_and_keeps_it_waiting() {
    let mut settings = by_hand();
    settings.checkpoint.mode = CheckpointMode::Unaligned;
    settings.checkpoint.max_concurrent = 5;
    let mut job = Job::running(settings);
    job.ask(1);
    job.savepoint(2);
    job.ask(3);
    assert_eq!(job.take_log(), ["trigger 1"]);
    job.ack_all(1);
    assert_eq!(job.take_log(), ["publish 1", "complete 1", "answer 1: 1", "trigger 2"]);
    job.ack_all(2);
    assert_eq!(job.take_log(), ["publish 2", "answer 2: /savepoints/savepoint-job-2", "trigger 3"]);
}

#[test]
fn a_savepoint_neither_ends_an_older_checkpoint_nor_is_ended_by_a_newer_one() {
    let mut settings = by_hand();
    settings.checkpoint.max_concurrent = 3;
    let mut job = Job::running(settings);
    job.ask(1);
    job.savepoint(2);
    job.ask(3);
    job.take_log();
    // The savepoint first, although a checkpoint is older.
    job.ack(0, 1);
    job.ack_all(2);
    assert_eq!(job.take_log(), ["publish 2", "answer 2: /savepoints/savepoint-job-2"]);
    job.savepoint(4);
    job.take_log();
    // Then a checkpoint that is newer than the first and older than the second savepoint, then one newer than both.
    job.ack_all(3);
    assert_eq!(job.take_log(), ["publish 3", "abort 1", "answer 1: 3", "complete 3", "answer 3: 3"]);
    job.ask(5);
    job.ack_all(5);
    assert_eq!(job.take_log(), ["trigger 5", "publish 5", "complete 5", "answer 5: 5"]);
    job.ack_all(4);
    assert_eq!(job.take_log(), ["publish 4", "answer 4: /savepoints/savepoint-job-4"]);
}

#[test]
fn a_savepoint_serves_no_sink_that_awaits_its_final_checkpoint() {
    let mut job = Job::running(by_hand());
    job.savepoint(1);
    job.await_commit(0);
    job.ack_all(1);
    assert_eq!(
        job.take_log(),
        ["trigger 1", "publish 1", "answer 1: /savepoints/savepoint-job-1", "trigger 2"]
    );
}

#[test]
fn a_failed_savepoint_is_discarded_and_so_is_what_comes_late_for_it() {
    let mut job = Job::running(by_hand());
    job.savepoint(1);
    job.take_log();
    job.ack_with(0, 1, naming(&["seg-a1-0-0"], &[]));
    job.decline(1, 1);
    let answer = "answer 1: savepoint 1 failed: task 1 declined it: no space";
    assert_eq!(job.take_log(), ["abort 1", "discard savepoint 1", answer]);
    job.ack_with(2, 1, naming(&["seg-a1-0-2"], &[]));
    assert_eq!(job.take_log(), ["discard savepoint 1"]);
    assert!(job.discarded.is_empty(), "paths of a savepoint mean nothing in the job's directory");
}

#[test]
fn a_late_acknowledgement_of_a_complete_savepoint_deletes_nothing() {
    let mut job = Job::running(by_hand());
    job.savepoint(1);
    (0..TASKS).for_each(|task| job.ack_with(task, 1, naming(&["seg-a1-0-0"], &[])));
    job.take_log();
    job.ack_with(0, 1, naming(&["seg-a1-0-0"], &[]));
    assert!(job.take_log().is_empty() && job.discarded.is_empty());
}

#[test]
fn a_savepoint_that_cannot_be_begun_or_published_fails_alone() {
    let mut settings = by_hand();
    settings.checkpoint.tolerable_failures = 0;
    let mut job = Job::running(settings);
    job.begin_errors = 1;
    job.savepoint(1);
    job.publish_errors = VecDeque::from([false]);
    job.savepoint(2);
    job.ack_all(1);
    assert_eq!(
        job.take_log(),
        [
            "begin failed",
            "answer 1: the savepoint failed: it could not be started: disk full",
            "trigger 1",
            "publish 1",
            "abort 1",
            "discard savepoint 1",
            "answer 2: savepoint 1 failed: it could not be published: EIO"
        ]
    );
    assert_eq!(job.core.status(), JobStatus::Running);
}

#[test]
fn an_expired_savepoint_does_not_count_but_a_declined_one_does() {
    let mut settings = by_hand();
    settings.checkpoint.tolerable_failures = 0;
    settings.checkpoint.timeout = SECOND;
    let mut job = Job::running(settings);
    job.savepoint(1);
    job.pass(SECOND);
    assert_eq!(job.core.status(), JobStatus::Running);
    job.savepoint(2);
    job.decline(0, 2);
    assert_eq!(job.core.status(), JobStatus::Restarting);
}

#[test]
fn a_savepoint_is_refused_without_storage_and_while_tasks_are_not_running() {
    let mut job = Job::waiting(config(), false);
    job.savepoint(1);
    let mut created = Job::waiting(config(), true);
    created.savepoint(2);
    let mut stopping = Job::running(config());
    stopping.fail("boom", false);
    stopping.take_log();
    stopping.savepoint(3);
    assert!(job.take_log()[0].contains("need a checkpoint directory"));
    assert_eq!(created.take_log(), ["answer 2: not all tasks are running"]);
    assert_eq!(stopping.take_log(), ["answer 3: not all tasks are running"]);
}

#[test]
fn a_savepoint_under_way_when_the_job_fails_is_discarded_and_answered() {
    let mut job = Job::running(by_hand());
    job.savepoint(1);
    job.savepoint(2);
    job.fail("boom", false);
    let log = job.take_log();
    for line in [
        "discard savepoint 1",
        "answer 1: savepoint 1 failed: the job restarts",
        "answer 2: the job restarts",
    ] {
        assert!(log.iter().any(|logged| logged == line), "{line} is not in {log:?}");
    }
}

#[test]
fn a_job_stops_once_all_its_tasks_have_committed_and_finished() {
    for mode in [StopMode::Suspend, StopMode::Drain] {
        let mut job = Job::running(config());
        job.stop(1, mode);
        assert_eq!(job.triggers[0].kind.stop(), Some(mode));
        job.ack_all(1);
        assert_eq!(job.take_log(), ["trigger 1", "publish 1", "complete 1"]);
        (0..TASKS).for_each(|task| job.finish(task));
        job.workers_let_go();
        assert_eq!(job.take_log(), ["cancel 1", "ended Finished", "answer 1: /savepoints/savepoint-job-1"]);
        let stats = job.core.stats().0;
        assert_eq!((stats.latest, stats.savepoints, stats.completed), (Some(CheckpointId(1)), 1, 1));
    }
}

#[test]
fn a_stop_starts_alone_and_nothing_starts_beside_it() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 5;
    let mut job = Job::running(settings);
    job.ask(1);
    job.stop(2, StopMode::Suspend);
    job.pass(3 * SECOND);
    assert_eq!(job.take_log(), ["trigger 1"]);
    job.ack_all(1);
    job.take_log();
    job.ask(3);
    job.savepoint(4);
    job.stop(5, StopMode::Drain);
    job.await_commit(0);
    job.pass(3 * SECOND);
    let refused = "the job is being stopped with a savepoint";
    assert_eq!(
        job.take_log(),
        [format!("answer 3: {refused}"), format!("answer 4: {refused}"), format!("answer 5: {refused}")]
    );
    job.ack_all(2);
    job.pass(3 * SECOND);
    assert_eq!(job.take_log(), ["publish 2", "complete 2"], "nor does anything start while tasks finish");
}

#[test]
fn a_failure_in_the_savepoint_of_a_suspension_lets_the_job_go_on() {
    let mut settings = config();
    settings.checkpoint.tolerable_failures = 0;
    let failing: [fn(&mut Job); 3] = [
        |job| job.decline(0, 1),
        |job| job.pass(Duration::from_secs(600)),
        |job| {
            job.publish_errors = VecDeque::from([false]);
            job.ack_all(1);
        },
    ];
    for fail in failing {
        let mut job = Job::running(settings);
        job.stop(1, StopMode::Suspend);
        fail(&mut job);
        assert_eq!(job.core.status(), JobStatus::Running);
        let log = job.take_log();
        assert_eq!(log.iter().filter(|line| *line == "abort 1").count(), 1, "{log:?}");
        assert!(log.iter().any(|line| line.starts_with("answer 1: savepoint 1 failed")), "{log:?}");
        job.pass(SECOND);
        assert!(job.triggers.len() > 1, "periodic checkpoints go on");
    }
}

#[test]
fn a_failure_in_the_savepoint_of_a_drain_restarts_the_job_without_using_up_a_restart() {
    let mut settings = config();
    settings.restart = RestartStrategy::None;
    let mut job = Job::running(settings);
    job.stop(1, StopMode::Drain);
    job.take_log();
    job.decline(0, 1);
    job.workers_let_go();
    let log = job.take_log();
    assert!(log.iter().any(|line| line.starts_with("answer 1: savepoint 1 failed")), "{log:?}");
    assert_eq!(log.last().map(String::as_str), Some("deploy 2"));
    assert_eq!(job.core.status(), JobStatus::Running);
}

#[test]
fn a_failure_after_the_savepoint_of_a_stop_says_so_and_continues_from_it() {
    let mut job = Job::running(config());
    job.stop(1, StopMode::Suspend);
    job.ack_all(1);
    job.finish(0);
    job.take_log();
    job.fail("cannot commit", false);
    job.workers_let_go();
    job.pass(SECOND);
    let log = job.take_log();
    let answer = log.iter().find(|line| line.starts_with("answer 1")).expect("an answer");
    assert!(answer.contains("savepoint-job-1 is complete, but the job did not stop"), "{answer}");
    assert!(answer.contains("cannot commit") && answer.contains("continues from that savepoint"), "{answer}");
    assert_eq!(log.last().map(String::as_str), Some("deploy 2"));
    assert_eq!(job.core.stats().0.latest, Some(CheckpointId(1)), "the latest completed one is the savepoint");
    // The stop is over: everything goes on as before.
    job.pass(SECOND);
    assert_eq!(job.take_log(), ["trigger 2"]);
}

#[test]
fn a_stop_ends_older_savepoints_of_nobody_and_an_unknown_outcome_deletes_nothing() {
    let mut job = Job::running(by_hand());
    job.stop(1, StopMode::Suspend);
    job.publish_errors = VecDeque::from([true]);
    job.ack_all(1);
    job.workers_let_go();
    let log = job.take_log();
    assert!(!log.iter().any(|line| line.starts_with("discard")), "{log:?}");
    let JobStatus::Failed(message) = job.core.status() else { panic!("{:?}", job.core.status()) };
    assert!(message.contains("is unknown"), "{message}");
}

#[test]
fn a_cancelled_stop_tells_where_its_savepoint_is() {
    let mut job = Job::running(by_hand());
    job.stop(1, StopMode::Suspend);
    job.ack_all(1);
    job.take_log();
    job.feed(Event::Cancel { give_up: false });
    job.workers_let_go();
    let log = job.take_log();
    assert!(
        log.iter().any(|line| line.contains("savepoint-job-1 is complete, but the job did not stop")),
        "{log:?}"
    );
    assert_eq!(job.core.status(), JobStatus::Cancelled);
}

#[test]
fn a_savepoint_whose_attempt_is_over_before_it_began_is_discarded() {
    let mut job = Job::running(by_hand());
    let wish = Wish { root: Path::new("/savepoints").into(), stop: None };
    job.core.handle(job.now, Event::Savepoint { request: RequestId(1), wish });
    let actions = job.core.handle(job.now, Event::Tick);
    assert!(matches!(actions[..], [Action::Begin { savepoint_root: Some(_) }]));
    job.fail("boom", false);
    job.take_log();
    let dir = Some(Path::new("/savepoints/savepoint-job-1").into());
    job.feed(Event::Begun { id: CheckpointId(1), unix_ms: 0, dir });
    assert_eq!(job.take_log(), ["answer 1: not all tasks are running", "discard savepoint 1"]);
    assert!(job.triggers.is_empty());
    assert_eq!(SnapshotKind::Checkpoint.stop(), None);
}

//! How a checkpoint under way ends, and what the others hear of it.

use super::*;

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
fn an_abort_carries_the_latest_completed_checkpoint_and_comes_once() {
    let mut settings = config();
    settings.checkpoint.max_concurrent = 2;
    let mut job = Job::running(settings);
    job.pass(SECOND);
    job.decline(0, 1);
    job.decline(1, 1);
    job.pass(SECOND);
    job.ack_all(2);
    job.pass(SECOND);
    job.decline(0, 3);
    job.pass(2 * SECOND);
    job.ack_all(5);
    assert_eq!(job.aborts, [(1, None), (3, Some(2)), (4, Some(5))]);
    let completions = |id: u64| job.log.iter().filter(|line| **line == format!("complete {id}")).count();
    assert_eq!([2, 5].map(completions), [1, 1]);
}

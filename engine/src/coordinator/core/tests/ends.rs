//! Finished tasks, final checkpoints and commits.

use super::*;

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

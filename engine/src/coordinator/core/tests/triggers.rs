//! When checkpoints start, and in which order.

use super::*;

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

//! Which failures of checkpoints count, and when they fail the job.

use super::*;

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

#[test]
fn subsumption_refusal_and_the_end_of_an_attempt_do_not_count() {
    let mut settings = config();
    settings.checkpoint.tolerable_failures = 0;
    settings.checkpoint.max_concurrent = 2;
    let mut job = Job::running(settings);
    // Subsumed.
    job.pass(2 * SECOND);
    job.ack(0, 1);
    job.ack_all(2);
    assert_eq!(job.core.status(), JobStatus::Running);
    // Refused while not running, and ended by the restart.
    job.pass(SECOND);
    job.fail("boom", false);
    job.ask(9);
    job.workers_let_go();
    job.pass(SECOND);
    assert_eq!(job.core.status(), JobStatus::Running);
    assert_eq!(job.core.stats().0.restarts, 1, "only the task's own failure restarted the job");
}

#[test]
fn failures_below_the_latest_completed_savepoint_or_checkpoint_do_not_count() {
    let mut settings = config();
    settings.checkpoint.interval = None;
    settings.checkpoint.tolerable_failures = 0;
    settings.checkpoint.max_concurrent = 2;
    let mut job = Job::running(settings);
    job.savepoint(1);
    job.ask(2);
    job.ack_all(2);
    // The savepoint is older than what has completed since.
    job.decline(0, 1);
    assert_eq!(job.core.status(), JobStatus::Running);
}

//! Which files go, and when.

use super::*;

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

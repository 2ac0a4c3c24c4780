//! Which failures of checkpoints count towards those that are tolerable, and which do not.

use std::time::Duration;
use thalweg::control::{Report, TaskId};
use thalweg::job::EngineBuilder;
use thalweg::{CheckpointId, JobStatus, StopMode};
use thalweg_storage::AttemptId;
use thalweg_storage::fault::Fault;
use thalweg_storage::io::{Fault as DiskFault, OpKind};
use thalweg_tests::trial::{SAVEPOINTS, Trial, When, engine, holds_only_without, seeds};

const EXPIRY: Duration = Duration::from_millis(20);

fn tolerating(failures: u32) -> EngineBuilder {
    engine().tolerable_failed_checkpoints(failures).checkpoint_timeout(EXPIRY)
}

/// Asserts that what `fail` does to a checkpoint counts, once each time: one failure may happen in a row, not two. `fail` gives
/// why the checkpoint failed.
fn counts(reason: &str, fail: impl Fn(&mut Trial) -> String) {
    holds_only_without([Fault::FailuresUncounted], |seed| {
        let mut trial = Trial::running(tolerating(1), seed);
        for _ in 0..2 {
            // What an earlier one still wrote is on the disk by then.
            trial.pass(Duration::from_millis(5));
            assert_eq!(trial.simulation.status(), JobStatus::Running);
            let why = fail(&mut trial);
            assert!(why.contains(reason), "{why}");
        }
        let why = trial.end().unwrap_err();
        assert!(why.contains("checkpoints failed 2 times in a row, 1 are tolerable; the last: "), "{why}");
        assert!(why.contains(reason), "{why}");
    });
}

/// Asserts that what `fail` does never counts, even where no failure is tolerable, however often it happens.
fn never_counts(builder: EngineBuilder, fail: impl Fn(&mut Trial)) {
    holds_only_without([Fault::EverythingCounts], |seed| {
        let mut trial = Trial::running(builder.clone().tolerable_failed_checkpoints(0), seed);
        for _ in 0..3 {
            trial.pass(Duration::from_millis(5));
            fail(&mut trial);
        }
        trial.release();
        trial.checkpoint();
        assert_eq!(trial.stats().restarts, 0);
        trial.finish();
    });
}

/// Says in the name of a task of the first attempt that it could not do its part.
fn decline(trial: &Trial, task: u32, checkpoint: u64) {
    let id = CheckpointId(checkpoint);
    trial.simulation.report(Report::Declined(AttemptId(1), TaskId(task), id, "no".to_owned()));
}

/// A checkpoint that these tasks decline.
fn declined(trial: &mut Trial, tasks: &[u32]) -> String {
    trial.post.keep_all();
    let answer = trial.simulation.checkpoint();
    trial.until_kept(6);
    let id = trial.post.take()[0].checkpoint.0;
    tasks.iter().for_each(|task| decline(trial, *task, id));
    trial.post.keep_none();
    trial.answer(answer).unwrap_err()
}

fn failing(trial: &mut Trial, path: &'static str, kind: OpKind) -> String {
    trial.disk.fail_next_in(path, kind, DiskFault::NoSpace);
    trial.failed_checkpoint()
}

#[test]
fn an_error_of_the_disk_at_the_trigger_counts() {
    counts("it could not be started", |trial| failing(trial, "/chk-", OpKind::CreateDir));
}

#[test]
fn a_failure_of_the_asynchronous_part_counts() {
    counts("writing segment", |trial| failing(trial, "shared/seg-", OpKind::Write));
}

#[test]
fn a_declined_checkpoint_counts() {
    counts("task 3 declined it: no", |trial| declined(trial, &[3]));
}

#[test]
fn an_expired_checkpoint_counts() {
    counts("it expired before 1 of 6 tasks", |trial| {
        trial.post.keep(|ack| ack.task == TaskId(2));
        trial.failed_checkpoint()
    });
}

#[test]
fn a_checkpoint_that_cannot_be_finalised_counts() {
    counts("it could not be published", |trial| failing(trial, "MANIFEST", OpKind::Write));
}

#[test]
fn a_savepoint_that_a_task_declines_counts() {
    counts("writing segment", |trial| {
        trial.disk.fail_next_in("/savepoints/", OpKind::Write, DiskFault::NoSpace);
        trial.savepoint(None).unwrap_err()
    });
}

#[test]
fn a_checkpoint_counts_once_however_many_tasks_decline_it() {
    seeds(|seed| {
        let mut trial = Trial::running(tolerating(1), seed);
        let why = declined(&mut trial, &[0, 1, 2, 3, 4, 5, 0]);
        assert!(why.contains("task 0 declined it"), "the first decides: {why}");
        assert_eq!((trial.stats().failed, trial.stats().restarts), (1, 0));
        trial.checkpoint();
        // Nor does a decline count that comes for one that has completed, or was never triggered.
        for id in [1, 2, 2, 77] {
            decline(&trial, 1, id);
        }
        trial.checkpoint();
        assert_eq!((trial.stats().failed, trial.stats().completed), (1, 2));
        trial.finish();
    });
}

#[test]
fn a_success_resets_the_count() {
    holds_only_without([Fault::SuccessResetsNothing], |seed| {
        let mut trial = Trial::running(tolerating(2), seed);
        for _ in 0..4 {
            declined(&mut trial, &[1]);
            declined(&mut trial, &[2]);
            trial.checkpoint();
        }
        assert_eq!((trial.stats().failed, trial.stats().completed), (8, 4));
        assert_eq!(trial.stats().restarts, 0);
        trial.finish();
    });
}

#[test]
fn a_savepoint_that_completes_resets_nothing() {
    seeds(|seed| {
        let mut trial = Trial::running(tolerating(1), seed);
        declined(&mut trial, &[1]);
        trial.savepoint(None).unwrap();
        declined(&mut trial, &[1]);
        trial.end().unwrap_err();
    });
}

#[test]
fn a_subsumed_checkpoint_does_not_count() {
    never_counts(engine().max_concurrent_checkpoints(2), |trial| {
        let older = trial.stats().triggered + 1;
        trial.post.keep(move |ack| ack.checkpoint == CheckpointId(older) && ack.task == TaskId(0));
        let answers = [trial.simulation.checkpoint(), trial.simulation.checkpoint()];
        for answer in answers {
            assert_eq!(trial.answer(answer), Ok(CheckpointId(older + 1)));
        }
        assert!(trial.until_ended(older).contains("contains it"));
    });
}

#[test]
fn a_refused_trigger_does_not_count() {
    seeds(|seed| {
        let mut trial = Trial::new(tolerating(0), seed);
        for _ in 0..5 {
            let answer = trial.simulation.checkpoint();
            assert_eq!(trial.answer(answer), Err("not all tasks are running".to_owned()));
            if trial.simulation.status() == JobStatus::Running {
                break;
            }
        }
        trial.until_running();
        trial.checkpoint();
        assert_eq!((trial.stats().failed, trial.stats().restarts), (0, 0));
        trial.finish();
    });
}

#[test]
fn savepoints_that_expire_cannot_be_begun_or_published_do_not_count() {
    let builder = engine().checkpoint_timeout(EXPIRY);
    never_counts(builder, |trial| {
        trial.post.keep(|ack| ack.task == TaskId(2));
        let expired = trial.savepoint(None).unwrap_err();
        assert!(expired.contains("it expired before"), "{expired}");
        trial.release();
        trial.disk.fail_next_in("/savepoint-", OpKind::CreateDir, DiskFault::NoSpace);
        let not_begun = trial.savepoint(None).unwrap_err();
        assert!(not_begun.contains("could not be started"), "{not_begun}");
        trial.disk.fail_next_in("/MANIFEST", OpKind::Write, DiskFault::NoSpace);
        let not_published = trial.savepoint(None).unwrap_err();
        assert!(not_published.contains("could not be published"), "{not_published}");
        let complete = trial.disk.files().into_iter().find(|path| path.starts_with(SAVEPOINTS));
        assert_eq!(complete, None, "nothing is left of them");
    });
}

#[test]
fn a_periodic_checkpoint_that_waits_for_the_min_pause_does_not_count() {
    let builder = tolerating(0)
        .checkpoint_interval(Duration::from_millis(1))
        .min_pause_between_checkpoints(Duration::from_millis(30));
    seeds(|seed| {
        let mut trial = Trial::running(builder.clone(), seed);
        trial.pass(Duration::from_millis(200));
        let stats = trial.stats();
        assert!((4..=7).contains(&stats.completed), "{} have started", stats.completed);
        assert_eq!((stats.failed, stats.restarts), (0, 0));
        trial.finish();
    });
}

#[test]
fn a_checkpoint_that_the_end_of_the_input_overtakes_does_not_count() {
    seeds(|seed| {
        let builder = engine().tolerable_failed_checkpoints(0).max_concurrent_checkpoints(5);
        let mut trial = Trial::running(builder, seed);
        trial.pass(Duration::from_millis(5));
        (0..2).for_each(|split| trial.script.end(split));
        trial.post.keep_all();
        trial.until_closed("tail");
        trial.pass(Duration::from_millis(2));
        // Final checkpoints are under way; this one is younger, and the job has ended before it has.
        let last = trial.stats().triggered + 1;
        let answer = trial.simulation.checkpoint();
        trial.until("it is triggered", |trial| trial.stats().triggered == last);
        trial.post.keep(move |ack| ack.checkpoint == CheckpointId(last));
        let finals = trial.post.take().into_iter().filter(|ack| ack.checkpoint < CheckpointId(last));
        trial.deliver(finals.collect::<Vec<_>>());
        let why = trial.answer(answer).unwrap_err();
        assert!(why.contains("the job has finished"), "{why}");
        trial.end().expect("the job finishes");
        trial.assert_output(trial.script.total());
    });
}

#[test]
fn checkpoints_that_a_failure_or_a_shutdown_ends_do_not_count() {
    let restart = thalweg::RestartStrategy::FixedDelay { attempts: 1, delay: Duration::from_millis(1) };
    seeds(|seed| {
        let builder = tolerating(0).restart_strategy(restart).max_concurrent_checkpoints(3);
        let mut trial = Trial::running(builder, seed);
        trial.post.keep_all();
        let pending: Vec<_> = (0..3).map(|_| trial.simulation.checkpoint()).collect();
        trial.until_kept(18);
        trial.script.fail("middle", When::Processing);
        for answer in pending {
            let why = trial.answer(answer).unwrap_err();
            assert!(why.contains("the job restarts"), "{why}");
        }
        trial.until("it runs again", |trial| trial.stats().restarts == 1);
        trial.until_running();
        trial.post.take();

        // No restart is left: one more that counted would fail the job.
        let pending = trial.simulation.checkpoint();
        trial.until_kept(6);
        trial.simulation.cancel();
        let why = trial.answer(pending).unwrap_err();
        assert!(why.contains("the job was cancelled"), "{why}");
        trial.end().unwrap_err();
        assert_eq!(trial.simulation.status(), JobStatus::Cancelled);
    });
}

#[test]
fn a_failed_stop_that_lets_the_job_go_on_does_not_count() {
    never_counts(engine(), |trial| {
        trial.disk.fail_next_in("/savepoints/", OpKind::Write, DiskFault::NoSpace);
        let why = trial.savepoint(Some(StopMode::Suspend)).unwrap_err();
        assert!(why.contains("writing segment"), "{why}");
    });
}

//! Stops with a savepoint: what comes before it, and what follows a failure in it or after it.

use std::time::Duration;
use thalweg::control::TaskId;
use thalweg::{CheckpointId, JobStatus, RestartStrategy, RestoreSettings, StopMode};
use thalweg_storage::fault::Fault;
use thalweg_storage::io::{Fault as DiskFault, OpKind};
use thalweg_storage::manifest::Manifest;
use thalweg_tests::trial::{JOB_DIR, News, Trial, When, engine, holds_only_without, seeds};

const BOTH: [StopMode; 2] = [StopMode::Suspend, StopMode::Drain];

fn savepoint(trial: &Trial, directory: &std::path::Path) -> Manifest {
    let path = directory.join("MANIFEST");
    let bytes = trial.disk.read_file(&path).expect("a complete savepoint");
    thalweg_storage::manifest::decode(&path, &bytes).expect("an intact one")
}

#[test]
fn a_drain_closes_every_operator_and_sends_its_last_records_before_the_savepoint() {
    holds_only_without([Fault::DrainNotAwaited], |seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.pass(Duration::from_millis(5));
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        let directory = trial.savepoint(Some(StopMode::Drain)).unwrap();
        let id = CheckpointId(2);
        for ((_, operator, subtask), news) in trial.script.heard_by_subtask() {
            let at = |wanted: News| news.iter().position(|news| *news == wanted);
            let closed = if operator == "numbers" { Some(0) } else { at(News::Closed) };
            let (snapshot, completed) = (at(News::Snapshot(id)), at(News::Completed(id)));
            assert!(closed.is_some() && closed < snapshot, "{operator} {subtask}: {news:?}");
            assert!(snapshot < completed, "{operator} {subtask}: {news:?}");
        }
        let manifest = savepoint(&trial, &directory);
        assert!(manifest.operators.iter().flat_map(|operator| &operator.subtasks).all(|s| s.finished));
        assert!(manifest.channels.is_empty());
        // The farewells are part of it.
        assert_eq!(trial.simulation.status(), JobStatus::Finished);
        trial.assert_output(trial.script.total());
        let total = trial.script.total();

        // There is nothing left to do, for a job that starts from it neither.
        let from = RestoreSettings::from_path(&directory);
        trial.ends_again(seed, Some(&from), total);
    });
}

#[test]
fn a_suspension_closes_nothing_and_the_job_goes_on_from_it() {
    seeds(|seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.pass(Duration::from_millis(5));
        let directory = trial.savepoint(Some(StopMode::Suspend)).unwrap();
        for news in trial.script.heard_by_subtask().values() {
            assert!(!news.contains(&News::Closed), "{news:?}");
        }
        let manifest = savepoint(&trial, &directory);
        assert!(!manifest.operators.iter().flat_map(|operator| &operator.subtasks).any(|s| s.finished));
        trial.assert_output(trial.script.total());
        trial.goes_on_from(seed, CheckpointId(1));
    });
}

#[test]
fn a_failure_in_the_savepoint_of_a_suspension_lets_the_job_go_on() {
    let failures: [fn(&Trial); 3] = [
        // A task cannot do its part.
        |trial| trial.disk.fail_next_in("/savepoints/", OpKind::Write, DiskFault::NoSpace),
        // A task does not acknowledge.
        |trial| trial.post.keep(|ack| ack.task == TaskId(3)),
        // It cannot be published.
        |trial| trial.disk.fail_next_in("/savepoints/", OpKind::Rename, DiskFault::Io),
    ];
    for fail in failures {
        holds_only_without([Fault::SuspensionSticks], |seed| {
            let mut trial = Trial::running(engine().checkpoint_timeout(Duration::from_millis(20)), seed);
            trial.pass(Duration::from_millis(5));
            fail(&trial);
            trial.savepoint(Some(StopMode::Suspend)).unwrap_err();
            trial.post.keep_none();
            trial.post.take();
            // All tasks work again: a checkpoint completes, and then the stop.
            trial.checkpoint();
            trial.pass(Duration::from_millis(5));
            // Whatever was prepared for the savepoint is committed by now.
            let committed = trial.sink.committed_count();
            trial.checkpoint();
            trial.pass(Duration::from_millis(5));
            assert!(trial.sink.committed_count() > committed, "records are processed");
            assert_eq!((trial.stats().failed, trial.stats().restarts), (1, 0));
            trial.savepoint(Some(StopMode::Suspend)).unwrap();
            trial.assert_output(trial.script.total());
            let mut trial = trial.again(engine(), seed, None).unwrap();
            trial.finish();
        });
    }
}

#[test]
fn a_stop_whose_savepoint_cannot_be_begun_leaves_the_job_alone() {
    for mode in BOTH {
        seeds(|seed| {
            let mut trial = Trial::running(engine(), seed);
            trial.pass(Duration::from_millis(5));
            trial.disk.fail_next_in("/savepoint-trial", OpKind::CreateDir, DiskFault::NoSpace);
            let why = trial.savepoint(Some(mode)).unwrap_err();
            assert!(why.contains("could not be started"), "{why}");
            trial.checkpoint();
            assert_eq!((trial.stats().failed, trial.stats().restarts), (1, 0));
            trial.finish();
        });
    }
}

#[test]
fn a_failure_in_the_savepoint_of_a_drain_takes_the_job_back_to_its_latest_checkpoint() {
    seeds(|seed| {
        // No restart is allowed: this is none.
        let mut trial = Trial::running(engine(), seed);
        trial.pass(Duration::from_millis(5));
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        trial.disk.fail_next_in("/savepoints/", OpKind::Write, DiskFault::NoSpace);
        let why = trial.savepoint(Some(StopMode::Drain)).unwrap_err();
        assert!(why.contains("writing segment"), "{why}");
        trial.until("it runs again", |trial| trial.stats().restored == Some(CheckpointId(1)));
        trial.until_running();
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.checkpoint(), CheckpointId(3));
        trial.savepoint(Some(StopMode::Drain)).unwrap();
        trial.assert_output(trial.script.total());
    });
}

#[test]
fn an_operator_that_fails_at_its_snapshot_for_a_stop_restarts_the_job_and_fails_the_stop() {
    for mode in BOTH {
        seeds(|seed| {
            let restart = RestartStrategy::FixedDelay { attempts: 1, delay: Duration::from_millis(1) };
            let mut trial = Trial::running(engine().restart_strategy(restart), seed);
            trial.pass(Duration::from_millis(5));
            trial.checkpoint();
            trial.script.fail("middle", When::Snapshot);
            let why = trial.savepoint(Some(mode)).unwrap_err();
            assert!(why.contains("the job restarts"), "{why}");
            trial.until("it runs again", |trial| trial.stats().restarts == 1);
            trial.until_running();
            assert_eq!(trial.stats().restored, Some(CheckpointId(1)));
            trial.finish();
        });
    }
}

#[test]
fn a_failure_after_the_savepoint_of_a_stop_fails_over_to_that_savepoint() {
    for mode in BOTH {
        holds_only_without([Fault::StopLeavesNoCheckpoint], |seed| {
            let restart = RestartStrategy::FixedDelay { attempts: 1, delay: Duration::from_millis(1) };
            let mut trial = Trial::running(engine().restart_strategy(restart), seed);
            trial.pass(Duration::from_millis(5));
            trial.checkpoint();
            trial.pass(Duration::from_millis(5));
            // It fails as it hears that the savepoint is complete, before it could finish.
            trial.script.fail("middle", When::Completed);
            let why = trial.savepoint(Some(mode)).unwrap_err();
            for part in ["savepoint-trial-2", "is complete, but the job did not stop", "continues from that"]
            {
                assert!(why.contains(part), "{why}");
            }
            trial.until("it runs again", |trial| trial.stats().restored == Some(CheckpointId(2)));
            match mode {
                // Drained operators have ended for good.
                StopMode::Drain => {
                    trial.end().unwrap();
                    trial.assert_output(trial.script.total());
                }
                StopMode::Suspend => {
                    trial.until_running();
                    trial.pass(Duration::from_millis(5));
                    assert_eq!(trial.checkpoint(), CheckpointId(3));
                    trial.finish();
                }
            }
        });
    }
}

#[test]
fn a_process_that_dies_after_the_savepoint_of_a_stop_continues_from_it() {
    holds_only_without([Fault::StopLeavesNoCheckpoint], |seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.pass(Duration::from_millis(5));
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        let _answer = trial.ask_savepoint(Some(StopMode::Suspend));
        trial.until("the savepoint is complete", |trial| trial.stats().savepoints == 1);
        trial.goes_on_from(seed, CheckpointId(2));
    });
}

#[test]
fn a_stop_starts_alone_and_nothing_starts_beside_it() {
    seeds(|seed| {
        let builder = engine().max_concurrent_checkpoints(5).checkpoint_interval(Duration::from_millis(5));
        let mut trial = Trial::running(builder, seed);
        trial.post.keep_all();
        trial.until_kept(6);
        let stop = trial.ask_savepoint(Some(StopMode::Suspend));
        let under_way = trial.stats().triggered;
        trial.pass(Duration::from_millis(30));
        assert_eq!(trial.stats().triggered, under_way, "the stop waits for those, and others for the stop");
        // Those end; the stop's acknowledgements are kept.
        let stop_id = CheckpointId(under_way + 1);
        trial.post.keep(move |ack| ack.checkpoint == stop_id);
        trial.deliver(trial.post.take());
        trial.until_kept(6);
        trial.pass(Duration::from_millis(30));
        assert_eq!(trial.stats().triggered, under_way + 1, "nothing starts beside the stop");
        trial.release();
        trial.answer(stop).unwrap();
        assert!(
            trial
                .disk
                .files()
                .contains(&std::path::Path::new(JOB_DIR).join(format!("chk-{stop_id}/MANIFEST")))
        );
        trial.assert_output(trial.script.total());
    });
}

//! When checkpoints start, in which order, and when they are refused.

use std::time::Duration;
use thalweg::coordinator::CheckpointKind;
use thalweg::{CheckpointId, CheckpointMode, JobStatus, RestartStrategy, StopMode};
use thalweg_storage::fault::Fault;
use thalweg_storage::io::{Fault as DiskFault, OpKind};
use thalweg_tests::trial::{Trial, When, engine, holds_only_without, seeds};

const NOT_RUNNING: &str = "not all tasks are running";
const STOPPING: &str = "the job is being stopped with a savepoint";

fn refused<T>(why: &str) -> Result<T, String> {
    Err(why.to_owned())
}

#[test]
fn a_trigger_is_refused_before_the_tasks_run_and_works_once_they_do() {
    seeds(|seed| {
        let mut trial = Trial::new(engine(), seed);
        let (checkpoint, savepoint) = (trial.simulation.checkpoint(), trial.ask_savepoint(None));
        assert_eq!(trial.answer(checkpoint), refused(NOT_RUNNING));
        assert_eq!(trial.answer(savepoint), refused(NOT_RUNNING));
        trial.until_running();
        assert_eq!(trial.checkpoint(), CheckpointId(1));
        trial.finish();
    });
}

#[test]
fn a_trigger_is_refused_while_the_job_restarts_and_works_afterwards() {
    seeds(|seed| {
        let delay = Duration::from_millis(50);
        let restart = RestartStrategy::FixedDelay { attempts: 1, delay };
        let mut trial = Trial::running(engine().restart_strategy(restart), seed);
        trial.checkpoint();
        trial.script.fail("middle", When::Processing);
        trial.until("the job restarts", |trial| trial.simulation.status() == JobStatus::Restarting);
        let (checkpoint, savepoint) = (trial.simulation.checkpoint(), trial.ask_savepoint(None));
        assert_eq!(trial.answer(checkpoint), refused(NOT_RUNNING));
        assert_eq!(trial.answer(savepoint), refused(NOT_RUNNING));
        trial.until_running();
        assert_eq!(trial.checkpoint(), CheckpointId(2));
        trial.savepoint(None).unwrap();
        trial.finish();
    });
}

#[test]
fn a_trigger_is_refused_while_the_job_stops_with_a_savepoint() {
    seeds(|seed| {
        let mut trial = Trial::running(engine().max_concurrent_checkpoints(5), seed);
        trial.post.keep_all();
        let stop = trial.ask_savepoint(Some(StopMode::Suspend));
        trial.until_kept(6);
        let again = trial.ask_savepoint(Some(StopMode::Drain));
        let (checkpoint, savepoint) = (trial.simulation.checkpoint(), trial.ask_savepoint(None));
        assert_eq!(trial.answer(again), refused(STOPPING));
        assert_eq!(trial.answer(checkpoint), refused(STOPPING));
        assert_eq!(trial.answer(savepoint), refused(STOPPING));
        trial.release();
        trial.answer(stop).unwrap();
        assert_eq!(trial.stats().triggered, 1);
    });
}

#[test]
fn a_trigger_is_refused_while_the_job_is_cancelled() {
    seeds(|seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.simulation.cancel();
        let (checkpoint, savepoint) = (trial.simulation.checkpoint(), trial.ask_savepoint(None));
        assert_eq!(trial.answer(checkpoint), refused(NOT_RUNNING));
        assert_eq!(trial.answer(savepoint), refused(NOT_RUNNING));
        trial.end().unwrap_err();
        assert_eq!(trial.simulation.status(), JobStatus::Cancelled);
    });
}

#[test]
fn a_checkpoint_whose_directory_cannot_be_made_fails_and_the_next_trigger_works() {
    seeds(|seed| {
        let mut trial = Trial::running(engine().tolerable_failed_checkpoints(1), seed);
        trial.disk.fail_next_in("/chk-1", OpKind::CreateDir, DiskFault::NoSpace);
        let why = trial.failed_checkpoint();
        assert!(why.contains("could not be started") && why.contains("chk-1"), "{why}");
        assert_eq!(trial.stats().triggered, 0, "no task has heard of it");
        assert_eq!(trial.checkpoint(), CheckpointId(2), "its id is lost");
        assert_eq!(trial.stats().restarts, 0);
        trial.finish();
    });
}

#[test]
fn a_savepoint_whose_directory_cannot_be_made_fails_and_the_next_trigger_works() {
    seeds(|seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.disk.fail_next_in("/savepoint-trial", OpKind::CreateDir, DiskFault::NoSpace);
        let why = trial.savepoint(None).unwrap_err();
        assert!(why.contains("could not be started"), "{why}");
        trial.savepoint(None).unwrap();
        trial.checkpoint();
        assert_eq!(trial.stats().restarts, 0);
        trial.finish();
    });
}

#[test]
fn at_most_1_2_or_5_checkpoints_are_under_way_and_excess_triggers_queue() {
    for most in [1, 2, 5] {
        holds_only_without([Fault::ConcurrencyUnlimited], |seed| {
            let mut trial = Trial::running(engine().max_concurrent_checkpoints(most), seed);
            trial.post.keep_all();
            let answers: Vec<_> = (0..7).map(|_| trial.simulation.checkpoint()).collect();
            trial.until_kept(6 * most);
            trial.pass(Duration::from_millis(20));
            assert_eq!(trial.stats().triggered, most as u64);
            trial.release();
            let ids: Vec<_> = answers.into_iter().map(|answer| trial.answer(answer).unwrap().0).collect();
            assert_eq!(ids, [1, 2, 3, 4, 5, 6, 7], "first come, first served");
            trial.finish();
        });
    }
}

#[test]
fn an_unaligned_checkpoint_queues_whatever_the_number_allowed() {
    for mode in [CheckpointMode::Unaligned, CheckpointMode::AlignedWithTimeout(Duration::from_millis(1))] {
        holds_only_without([Fault::UnalignedOverlaps], |seed| {
            let builder = engine().max_concurrent_checkpoints(5).checkpoint_mode(mode);
            let mut trial = Trial::running(builder, seed);
            trial.post.keep_all();
            let answers: Vec<_> = (0..3).map(|_| trial.simulation.checkpoint()).collect();
            let savepoint = trial.ask_savepoint(None);
            trial.until_kept(6);
            trial.pass(Duration::from_millis(20));
            assert_eq!(trial.stats().triggered, 1);
            trial.release();
            trial.answer(savepoint).unwrap();
            answers.into_iter().for_each(|answer| _ = trial.answer(answer).unwrap());
            trial.finish();
        });
    }
}

#[test]
fn more_than_a_thousand_triggers_are_refused_and_those_that_wait_are_met() {
    let mut trial = Trial::running(engine(), 1);
    trial.post.keep_all();
    let first = trial.simulation.checkpoint();
    trial.until_kept(6);
    let waiting: Vec<_> = (0..1_000).map(|_| trial.simulation.checkpoint()).collect();
    let one_more = trial.simulation.checkpoint();
    assert_eq!(trial.answer(one_more), refused("too many requests for checkpoints wait already"));
    trial.release();
    trial.answer(first).unwrap();
    let next = waiting.into_iter().next().unwrap();
    trial.answer(next).unwrap();
}

#[test]
fn a_savepoint_goes_before_checkpoints_and_a_users_checkpoint_before_a_periodic_one() {
    holds_only_without([Fault::SavepointsLast, Fault::PeriodicFirst], |seed| {
        let interval = Duration::from_millis(20);
        let mut trial = Trial::running(engine().checkpoint_interval(interval), seed);
        trial.post.keep_all();
        trial.until_kept(6);
        // The next periodic one is due already when the user comes, and the savepoint is asked for last.
        trial.pass(2 * interval);
        let checkpoint = trial.simulation.checkpoint();
        let savepoint = trial.ask_savepoint(None);
        trial.pass(Duration::from_millis(1));
        assert_eq!(trial.stats().triggered, 1);
        trial.release();
        let directory = trial.answer(savepoint).unwrap();
        assert!(directory.ends_with("savepoint-trial-2"), "{}", directory.display());
        assert_eq!(trial.answer(checkpoint), Ok(CheckpointId(3)));
        assert_eq!(trial.until_ended(4), "complete", "the periodic one");
        let kinds: Vec<_> = (1..=4).map(|id| trial.record(CheckpointId(id)).unwrap().kind).collect();
        let (checkpoint, savepoint) = (CheckpointKind::Checkpoint, CheckpointKind::Savepoint);
        assert_eq!(kinds, [checkpoint, savepoint, checkpoint, checkpoint]);
        trial.finish();
    });
}

#[test]
fn the_min_pause_delays_periodic_checkpoints_and_no_others() {
    holds_only_without([Fault::PauseDelaysAll], |seed| {
        let (interval, pause) = (Duration::from_millis(10), Duration::from_millis(100));
        let builder = engine().checkpoint_interval(interval).min_pause_between_checkpoints(pause);
        let mut trial = Trial::running(builder, seed);
        trial.until("the first is complete", |trial| trial.stats().completed == 1);
        let pause_over = trial.simulation.now().after(pause);

        // A user's checkpoints and savepoints start meanwhile.
        assert_eq!(trial.checkpoint(), CheckpointId(2));
        trial.savepoint(None).unwrap();
        let ended = trial.simulation.now();
        assert!(ended < pause_over, "neither has waited for the pause");

        // The pause counts from the end of the latest.
        trial.until("the next is triggered", |trial| trial.stats().triggered == 4);
        let paused = trial.simulation.now().since(ended);
        assert!(paused + Duration::from_millis(1) >= pause, "only {paused:?}");
        assert_eq!(trial.until_ended(4), "complete");
        trial.finish();
    });
}

//! How checkpoints and savepoints that are under way at once end, and what that means for the others.

use std::time::Duration;
use thalweg::CheckpointId;
use thalweg::control::TaskId;
use thalweg_storage::fault::Fault;
use thalweg_tests::trial::{News, Trial, engine, holds_only_without, seeds};

/// Checkpoints are completed in order by themselves, since every task acknowledges them in order; so one of the older's
/// acknowledgements gets lost on its way.
fn keep_one_of(trial: &Trial, checkpoint: u64) {
    trial.post.keep(move |ack| ack.checkpoint == CheckpointId(checkpoint) && ack.task == TaskId(0));
}

#[test]
fn a_completed_checkpoint_ends_older_pending_ones_and_answers_for_them() {
    holds_only_without([Fault::NothingSubsumed], |seed| {
        let mut trial = Trial::running(engine().max_concurrent_checkpoints(3), seed);
        trial.post.keep(|ack| ack.checkpoint < CheckpointId(3) && ack.task == TaskId(0));
        let answers: Vec<_> = (0..3).map(|_| trial.simulation.checkpoint()).collect();
        for answer in answers {
            assert_eq!(trial.answer(answer), Ok(CheckpointId(3)), "it holds all that was asked for");
        }
        for id in 1..3 {
            assert_eq!(trial.until_ended(id), "checkpoint 3 completed first and contains it");
        }
        // What comes late takes nothing of the newer one along.
        trial.release();
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.retained(), [3]);
        assert_eq!(trial.assert_restorable(), CheckpointId(3));
        assert_eq!(trial.unnamed(), [""; 0]);
        assert_eq!((trial.stats().completed, trial.stats().restarts), (1, 0));
        trial.finish();
    });
}

#[test]
fn a_completed_checkpoint_leaves_younger_pending_ones_alone() {
    seeds(|seed| {
        let mut trial = Trial::running(engine().max_concurrent_checkpoints(3), seed);
        trial.post.keep(|ack| ack.checkpoint != CheckpointId(2));
        let answers: Vec<_> = (0..3).map(|_| trial.simulation.checkpoint()).collect();
        assert!(trial.until_ended(1).contains("checkpoint 2 completed first"));
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.record(CheckpointId(3)), None);
        trial.release();
        let ids: Vec<_> = answers.into_iter().map(|answer| trial.answer(answer).unwrap().0).collect();
        assert_eq!(ids, [2, 2, 3]);
        trial.finish();
    });
}

#[test]
fn a_savepoint_is_not_ended_by_a_younger_checkpoint() {
    holds_only_without([Fault::SavepointsSubsumed], |seed| {
        let mut trial = Trial::running(engine().max_concurrent_checkpoints(2), seed);
        keep_one_of(&trial, 1);
        let savepoint = trial.ask_savepoint(None);
        trial.until_kept(1);
        assert_eq!(trial.checkpoint(), CheckpointId(2));
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.record(CheckpointId(1)), None, "the savepoint is still under way");
        trial.release();
        let directory = trial.answer(savepoint).unwrap();
        assert!(trial.disk.files().contains(&directory.join("MANIFEST")));
        assert_eq!((trial.stats().failed, trial.stats().latest), (0, Some(CheckpointId(2))));
        trial.finish();
    });
}

#[test]
fn a_savepoint_does_not_end_an_older_checkpoint() {
    holds_only_without([Fault::SavepointsSubsume], |seed| {
        let mut trial = Trial::running(engine().max_concurrent_checkpoints(2), seed);
        keep_one_of(&trial, 1);
        let checkpoint = trial.simulation.checkpoint();
        trial.until_kept(1);
        trial.savepoint(None).unwrap();
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.record(CheckpointId(1)), None, "the checkpoint is still under way");
        trial.release();
        assert_eq!(trial.answer(checkpoint), Ok(CheckpointId(1)));
        assert_eq!(trial.stats().failed, 0);
        trial.finish();
    });
}

#[test]
fn nobody_hears_of_a_savepoint_and_nothing_is_committed_until_the_next_checkpoint() {
    let case = |seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.pass(Duration::from_millis(10));
        trial.savepoint(None).unwrap();
        trial.pass(Duration::from_millis(10));
        let ends = |news: &&News| matches!(news, News::Completed(_) | News::Aborted(..));
        for (whose, news) in trial.script.heard_by_subtask() {
            assert_eq!(news.iter().find(ends), None, "{whose:?} hears of the savepoint");
        }
        assert_eq!(trial.sink.committed_count(), 0, "a savepoint commits nothing");
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        assert!(trial.sink.committed_count() > 0);
        for (whose, news) in trial.script.heard_by_subtask() {
            let heard: Vec<_> = news.iter().filter(ends).collect();
            assert_eq!(heard, [&News::Completed(CheckpointId(2))], "{whose:?}");
        }
        trial.finish();
    };
    holds_only_without([Fault::CommitsBeforeManifest, Fault::SavepointsNotified], case);
    holds_only_without([Fault::ListsOwnCommittablesOnly], |seed| {
        case(seed);
        // What was prepared for a savepoint is listed by the next checkpoint, and committed by a restore from it.
        let mut trial = Trial::running(engine(), seed);
        trial.pass(Duration::from_millis(10));
        trial.savepoint(None).unwrap();
        trial.checkpoint();
        let mut trial = trial.again(engine(), seed, None).unwrap();
        trial.finish();
    });
}

#[test]
fn an_expiry_ends_its_own_round_only() {
    holds_only_without([Fault::ExpiryEndsAll], |seed| {
        let timeout = Duration::from_millis(50);
        let builder = engine().max_concurrent_checkpoints(2).checkpoint_timeout(timeout);
        let mut trial = Trial::running(builder.tolerable_failed_checkpoints(1), seed);
        trial.post.keep_all();
        let first = trial.simulation.checkpoint();
        trial.until_kept(6);
        trial.pass(timeout / 2);
        let second = trial.simulation.checkpoint();
        trial.until_kept(12);
        let why = trial.answer(first).unwrap_err();
        assert!(why.contains("it expired before 6 of 6 tasks had acknowledged it"), "{why}");
        trial.pass(timeout / 10);
        assert_eq!(trial.record(CheckpointId(2)), None, "the second is still under way");
        trial.release();
        assert_eq!(trial.answer(second), Ok(CheckpointId(2)));
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.unnamed(), [""; 0]);
        trial.finish();
    });
}

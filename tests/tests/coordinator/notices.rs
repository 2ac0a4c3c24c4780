//! What operators hear of the ends of checkpoints.

use std::collections::BTreeMap;
use std::time::Duration;
use thalweg::control::{Report, TaskId};
use thalweg::{CheckpointId, RestartStrategy};
use thalweg_storage::AttemptId;
use thalweg_storage::fault::Fault;
use thalweg_tests::trial::{News, Trial, When, engine, holds_only_without, seeds};

/// Operators that tell what they hear, each with two subtasks.
const OPERATORS: [&str; 4] = ["head", "middle", "numbers", "tail"];

/// What each subtask of an attempt has heard of the ends of checkpoints; that all have heard the same is asserted.
fn ends_of(trial: &Trial, attempt: u64) -> Vec<News> {
    let mut ends: BTreeMap<(String, u32), Vec<News>> = BTreeMap::new();
    for ((of, operator, subtask), news) in trial.script.heard_by_subtask() {
        if of == attempt {
            let end = |news: &News| matches!(news, News::Completed(_) | News::Aborted(..));
            ends.insert((operator, subtask), news.into_iter().filter(end).collect());
        }
    }
    let subtasks: Vec<_> = ends.keys().map(|(operator, subtask)| (operator.as_str(), *subtask)).collect();
    let all: Vec<_> = OPERATORS.iter().flat_map(|operator| [(*operator, 0), (*operator, 1)]).collect();
    assert_eq!(subtasks, all);
    let first = ends.values().next().expect("there are eight").clone();
    for (whose, ends) in &ends {
        assert_eq!(*ends, first, "{whose:?} has heard other things than the others");
    }
    first
}

#[test]
fn every_operator_hears_each_completion_and_each_abort_once_and_aborts_carry_the_latest_completed() {
    holds_only_without([Fault::EndsToldTwice, Fault::AbortsCarryNothing], |seed| {
        let expiry = Duration::from_millis(20);
        let builder = engine()
            .max_concurrent_checkpoints(3)
            .checkpoint_timeout(expiry)
            .tolerable_failed_checkpoints(10);
        let mut trial = Trial::running(builder, seed);
        let (completed, aborted) = (News::Completed, News::Aborted);
        let [one, two, four, five] = [1, 2, 4, 5].map(CheckpointId);

        // Nothing is complete yet. A decline that comes twice is an abort that comes once.
        trial.post.keep_all();
        let answer = trial.simulation.checkpoint();
        trial.until_kept(6);
        for task in [TaskId(0), TaskId(1), TaskId(0)] {
            trial.simulation.report(Report::Declined(AttemptId(1), task, one, "no".to_owned()));
        }
        trial.answer(answer).unwrap_err();
        trial.post.take();
        trial.post.keep_none();

        assert_eq!(trial.checkpoint(), two);
        // Of a savepoint nobody hears.
        trial.savepoint(None).unwrap();

        // One that expires.
        trial.post.keep(|ack| ack.task == TaskId(1));
        trial.failed_checkpoint();
        trial.post.take();

        // One that is subsumed, and the one that subsumes it.
        trial.post.keep(move |ack| ack.checkpoint == five && ack.task == TaskId(1));
        let answers = [trial.simulation.checkpoint(), trial.simulation.checkpoint()];
        for answer in answers {
            assert_eq!(trial.answer(answer), Ok(CheckpointId(6)));
        }
        // What comes late, or twice, ends nothing again.
        trial.deliver(trial.post.passed());
        trial.release();

        // A savepoint that fails is an abort too: its snapshot was taken in vain.
        trial.post.keep(|ack| ack.task == TaskId(1));
        trial.savepoint(None).unwrap_err();
        trial.post.take();
        trial.post.keep_none();
        trial.pass(Duration::from_millis(5));

        let expected = [
            aborted(one, None),
            completed(two),
            aborted(four, Some(two)),
            aborted(five, Some(CheckpointId(6))),
            completed(CheckpointId(6)),
            aborted(CheckpointId(7), Some(CheckpointId(6))),
        ];
        assert_eq!(ends_of(&trial, 1), expected);
        trial.finish();
    });
}

#[test]
fn an_attempt_hears_of_its_own_checkpoints_only_and_of_aborts_with_what_it_was_restored_from() {
    seeds(|seed| {
        let restart = RestartStrategy::FixedDelay { attempts: 1, delay: Duration::from_millis(1) };
        let builder = engine().restart_strategy(restart).max_concurrent_checkpoints(2);
        let mut trial = Trial::running(builder.tolerable_failed_checkpoints(1), seed);
        assert_eq!(trial.checkpoint(), CheckpointId(1));
        trial.post.keep_all();
        let pending = trial.simulation.checkpoint();
        trial.until_kept(6);
        trial.script.fail("tail", When::Processing);
        trial.answer(pending).unwrap_err();
        trial.until("it runs again", |trial| trial.stats().restarts == 1);
        trial.until_running();
        // The old attempt's acknowledgements complete nothing any more.
        trial.release();

        trial.post.keep_all();
        let answer = trial.simulation.checkpoint();
        trial.until_kept(6);
        let no = Report::Declined(AttemptId(2), TaskId(4), CheckpointId(3), "no".to_owned());
        trial.simulation.report(no);
        trial.answer(answer).unwrap_err();
        trial.post.keep_none();
        assert_eq!(trial.checkpoint(), CheckpointId(4));
        trial.pass(Duration::from_millis(5));

        assert_eq!(ends_of(&trial, 1), [News::Completed(CheckpointId(1))]);
        let aborted = News::Aborted(CheckpointId(3), Some(CheckpointId(1)));
        assert_eq!(ends_of(&trial, 2), [aborted, News::Completed(CheckpointId(4))]);
        trial.finish();
    });
}

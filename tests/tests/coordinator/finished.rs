//! Checkpoints of jobs of which some or all tasks have finished.

use std::time::Duration;
use thalweg::{CheckpointId, CheckpointMode, RestartStrategy, RestoreSettings};
use thalweg_storage::fault::Fault;
use thalweg_storage::io::{Fault as DiskFault, OpKind};
use thalweg_storage::manifest::Manifest;
use thalweg_tests::trial::{News, Trial, When, engine, holds_only_without, seeds, union_job};

const MODES: [CheckpointMode; 2] = [CheckpointMode::Aligned, CheckpointMode::Unaligned];

/// Which subtasks of an operator a manifest shows as finished.
fn finished(manifest: &Manifest, uid: &str) -> Vec<bool> {
    let operator = manifest.operators.iter().find(|operator| operator.uid == uid).expect("it has state");
    operator.subtasks.iter().map(|subtask| subtask.finished).collect()
}

/// Lets a subtask of the source end, and waits until its chain has closed and everything of it has been taken in.
fn end_first(trial: &mut Trial) {
    trial.script.end(0);
    trial.until("the first subtask ends", |trial| {
        let heard = trial.script.heard_by_subtask();
        heard.iter().any(|((_, operator, subtask), news)| {
            operator == "head" && *subtask == 0 && news.contains(&News::Closed)
        })
    });
    trial.pass(Duration::from_millis(10));
}

#[test]
fn checkpoints_go_on_after_some_tasks_have_finished_and_a_restart_leaves_those_finished() {
    for mode in MODES {
        seeds(|seed| {
            let restart = RestartStrategy::FixedDelay { attempts: 1, delay: Duration::from_millis(1) };
            let builder = engine().restart_strategy(restart).checkpoint_mode(mode);
            let mut trial = Trial::running(builder.checkpoint_timeout(Duration::from_millis(50)), seed);
            trial.pass(Duration::from_millis(5));
            end_first(&mut trial);
            let checkpoint = trial.checkpoint();
            let manifest = trial.manifests()[&checkpoint.0].clone();
            assert_eq!(finished(&manifest, "head"), [true, false]);
            assert_eq!(finished(&manifest, "middle"), [false, false]);
            trial.savepoint(None).unwrap();

            trial.script.fail("tail", When::Processing);
            trial.until("it runs again", |trial| trial.stats().restored == Some(checkpoint));
            trial.until_running();
            trial.pass(Duration::from_millis(5));
            let again = trial.checkpoint();
            assert_eq!(finished(&trial.manifests()[&again.0], "head"), [true, false]);
            let heard = trial.script.heard_by_subtask();
            assert!(!heard[&(2, "head".to_owned(), 0)].contains(&News::Closed), "it was closed before");
            trial.finish();
        });
    }
}

#[test]
fn the_end_of_all_input_brings_a_final_checkpoint_and_nothing_is_committed_before_it_is_complete() {
    for mode in MODES {
        holds_only_without([Fault::CommitsBeforeManifest], |seed| {
            let mut trial = Trial::running(engine().checkpoint_mode(mode), seed);
            trial.pass(Duration::from_millis(5));
            trial.post.keep_all();
            (0..2).for_each(|split| trial.script.end(split));
            // Nobody asks for it: what sinks hold has to be committed.
            trial.until_kept(6);
            trial.pass(Duration::from_millis(5));
            assert_eq!(trial.sink.committed_count(), 0);
            trial.release();
            trial.end().unwrap();
            trial.assert_output(trial.script.total());
        });
    }
}

#[test]
fn a_failed_final_checkpoint_is_followed_by_another() {
    seeds(|seed| {
        let mut trial = Trial::running(engine().tolerable_failed_checkpoints(1), seed);
        trial.pass(Duration::from_millis(5));
        trial.disk.fail_next_in("/MANIFEST", OpKind::Write, DiskFault::NoSpace);
        trial.finish();
        assert_eq!(trial.stats().failed, 1);
    });
}

#[test]
fn tasks_that_have_all_finished_take_part_in_checkpoints_and_savepoints() {
    for mode in [CheckpointMode::Aligned, CheckpointMode::AtLeastOnce] {
        holds_only_without([Fault::TriggerForSourcesOnly], |seed| {
            let builder = engine().max_concurrent_checkpoints(5).checkpoint_mode(mode);
            let mut trial = Trial::running(builder, seed);
            trial.pass(Duration::from_millis(5));
            trial.post.keep_all();
            (0..2).for_each(|split| trial.script.end(split));
            trial.until_closed("tail");
            trial.pass(Duration::from_millis(2));
            // The final checkpoints do not come to their ends, so the job does not either.
            let [savepoint, checkpoint] = [1, 2].map(|more| CheckpointId(trial.stats().triggered + more));
            trial.post.keep(move |ack| ack.checkpoint < savepoint);
            let directory = trial.savepoint(None).unwrap();
            let answer = trial.simulation.checkpoint();
            assert_eq!(trial.answer(answer), Ok(checkpoint));
            trial.end().unwrap();
            let total = trial.script.total();
            trial.assert_output(total);

            let manifest = trial.manifests()[&checkpoint.0].clone();
            for uid in ["numbers", "head", "middle", "count", "tail", "sink"] {
                assert_eq!(finished(&manifest, uid), [true, true], "{uid}");
            }
            assert_eq!(trial.record(checkpoint).unwrap().tasks.len(), 6);
            // A job that starts from either has nothing left to do, and commits nothing twice.
            let from = RestoreSettings::from_path(directory);
            trial.ends_again(seed, None, total).ends_again(seed, Some(&from), total);
        });
    }
}

#[test]
fn a_process_that_dies_after_the_final_checkpoint_commits_it_on_restart() {
    seeds(|seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.pass(Duration::from_millis(5));
        (0..2).for_each(|split| trial.script.end(split));
        trial.until("the final checkpoint is complete", |trial| trial.stats().completed == 1);
        let total = trial.script.total();
        let trial = trial.ends_again(seed, None, total);
        assert_eq!(trial.stats().restored, Some(CheckpointId(1)));
    });
}

#[test]
fn with_union_state_no_checkpoint_completes_while_its_operator_has_finished_in_part() {
    holds_only_without([Fault::UnionInPart], |seed| {
        let mut trial = Trial::of(engine().tolerable_failed_checkpoints(10), seed, union_job);
        trial.until_running();
        trial.pass(Duration::from_millis(5));
        trial.checkpoint();
        end_first(&mut trial);
        let committed = trial.sink.committed_count();
        let (checkpoint, savepoint) = (trial.failed_checkpoint(), trial.savepoint(None).unwrap_err());
        for why in [checkpoint, savepoint] {
            assert!(why.contains("operator head has union state, and 1 of its 2 subtasks"), "{why}");
        }
        assert_eq!((trial.retained(), trial.stats().restarts), (vec![1], 0));
        assert_eq!(trial.sink.committed_count(), committed);
        // Once the other has finished too, the final checkpoint completes.
        trial.finish();
        let (_, manifest) = trial.manifests().pop_last().unwrap();
        assert_eq!(finished(&manifest, "head"), [true, true]);
    });
}

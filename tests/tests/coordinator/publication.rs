//! What becomes of checkpoints whose manifest cannot be published, and which ones are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thalweg::CheckpointId;
use thalweg::control::{Report, TaskId};
use thalweg_storage::AttemptId;
use thalweg_storage::fault::Fault;
use thalweg_storage::io::{CrashProfile, Fault as DiskFault, OpKind};
use thalweg_tests::trial::{News, Trial, engine, holds_only_without, seeds};

/// What keeps a manifest from being written, and is known to have kept it.
const REFUSED: [OpKind; 3] = [OpKind::Open, OpKind::Write, OpKind::SyncData];

#[test]
fn a_failed_publication_discards_the_new_checkpoint_and_keeps_the_old_one() {
    for kind in REFUSED {
        holds_only_without([Fault::CommitsBeforeManifest], |seed| {
            let mut trial = Trial::running(engine().tolerable_failed_checkpoints(1), seed);
            trial.pass(Duration::from_millis(5));
            trial.checkpoint();
            trial.pass(Duration::from_millis(5));
            let committed = trial.sink.committed_count();
            trial.disk.fail_next_in("MANIFEST", kind, DiskFault::Io);
            let why = trial.failed_checkpoint();
            assert!(why.contains("could not be published"), "{why}");
            trial.pass(Duration::from_millis(5));
            assert_eq!(trial.assert_restorable(), CheckpointId(1));
            assert_eq!(trial.sink.committed_count(), committed, "nothing of it is committed");
            for (whose, news) in trial.script.heard_by_subtask() {
                assert!(!news.contains(&News::Completed(CheckpointId(2))), "{whose:?}");
            }
            trial.checkpoint();
            trial.pass(Duration::from_millis(5));
            assert_eq!(trial.retained(), [3]);
            assert_eq!(trial.unnamed(), [""; 0], "files of the failed one are left");
            trial.finish();
        });
    }
}

#[test]
fn after_a_failed_publication_a_restart_continues_from_the_old_checkpoint() {
    seeds(|seed| {
        let mut trial = Trial::running(engine().tolerable_failed_checkpoints(1), seed);
        trial.pass(Duration::from_millis(5));
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        trial.disk.fail_next_in("MANIFEST", OpKind::Write, DiskFault::NoSpace);
        trial.failed_checkpoint();
        trial.goes_on_from(seed, CheckpointId(1));
    });
}

/// Makes the publication of checkpoint 3 fail when nobody can tell any more what became of it.
fn fail_in_doubt(trial: &Trial, kind: OpKind) {
    trial.disk.watch(move |disk, next| {
        if next == OpKind::Rename && disk.armed_faults() == 0 {
            match kind {
                OpKind::Rename => disk.fail_next_in("chk-3/MANIFEST", kind, DiskFault::Io),
                _ => disk.fail_next_in("/chk-3", kind, DiskFault::Io),
            }
        }
    });
}

#[test]
fn while_it_is_unknown_whether_a_checkpoint_is_complete_nothing_is_deleted_and_nothing_committed() {
    for (kind, profile) in [
        (OpKind::Rename, CrashProfile::KeepAll),
        (OpKind::SyncDir, CrashProfile::KeepAll),
        (OpKind::SyncDir, CrashProfile::LoseAll),
    ] {
        holds_only_without([Fault::CommitsBeforeManifest, Fault::UnknownOutcomeDeletes], |seed| {
            let mut trial = Trial::running(engine().tolerable_failed_checkpoints(1), seed);
            trial.pass(Duration::from_millis(5));
            trial.checkpoint();
            trial.pass(Duration::from_millis(5));
            // One that is declined leaves files behind that the attempt may still name.
            trial.post.keep(|ack| ack.task == TaskId(0));
            let answer = trial.simulation.checkpoint();
            trial.until_kept(1);
            trial.pass(Duration::from_millis(5));
            let no = Report::Declined(AttemptId(1), TaskId(0), CheckpointId(2), "no".to_owned());
            trial.simulation.report(no);
            trial.answer(answer).unwrap_err();
            trial.post.keep_none();
            trial.pass(Duration::from_millis(5));
            let committed = trial.sink.committed_count();
            fail_in_doubt(&trial, kind);
            let why = trial.failed_checkpoint();
            assert!(why.contains("could not be published"), "{why}");
            let why = trial.end().unwrap_err();
            trial.disk.unwatch();
            assert!(why.contains("whether checkpoint 3 is complete is unknown"), "{why}");
            let log = trial.disk.op_log();
            let failed = log.iter().rposition(|op| op.kind == kind && !op.ok).expect("it has failed");
            let removed = log[failed..].iter().find(|op| op.kind == OpKind::Remove);
            assert_eq!(removed, None, "nothing is deleted");
            assert_eq!(trial.sink.committed_count(), committed, "nothing is committed");

            // Whatever the disk holds is what the job continues from, and nothing is lost or there twice.
            let mut trial = trial.again_after(profile, engine(), seed, None).unwrap();
            trial.until_running();
            let complete = (kind, profile) == (OpKind::SyncDir, CrashProfile::KeepAll);
            assert_eq!(trial.stats().restored, Some(CheckpointId(if complete { 3 } else { 1 })));
            trial.finish();
        });
    }
}

#[test]
fn as_many_checkpoints_are_retained_as_wanted_and_one_at_any_moment() {
    for retained in [1, 3] {
        seeds(|seed| {
            let mut trial = Trial::running(engine().retained_checkpoints(retained), seed);
            let fewest = Arc::new(AtomicUsize::new(usize::MAX));
            trial.checkpoint();
            let lowest = Arc::clone(&fewest);
            trial.disk.watch(move |disk, _| {
                let manifests = disk.files().into_iter().filter(|path| path.ends_with("MANIFEST")).count();
                lowest.fetch_min(manifests, Ordering::Relaxed);
            });
            for last in 2..=6 {
                trial.pass(Duration::from_millis(3));
                trial.checkpoint();
                trial.pass(Duration::from_millis(3));
                let oldest = (last + 1_u64).saturating_sub(retained as u64).max(1);
                assert_eq!(trial.retained(), (oldest..=last).collect::<Vec<_>>());
                assert_eq!(trial.unnamed(), [""; 0]);
            }
            trial.disk.unwatch();
            assert!(fewest.load(Ordering::Relaxed) >= 1, "at some moment there was none");
            trial.finish();
        });
    }
}

#[test]
fn a_checkpoint_that_cannot_be_deleted_stays_and_is_no_failure() {
    seeds(|seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.checkpoint();
        trial.pass(Duration::from_millis(3));
        trial.disk.fail_next_in("/chk-1/MANIFEST", OpKind::Remove, DiskFault::Io);
        trial.checkpoint();
        trial.pass(Duration::from_millis(3));
        assert_eq!(trial.retained(), [1, 2]);
        trial.checkpoint();
        trial.pass(Duration::from_millis(3));
        assert_eq!(trial.retained(), [3], "both have gone with the next");
        assert_eq!((trial.stats().failed, trial.unnamed().len()), (0, 0));
        trial.finish();
    });
}

//! What acknowledgements do that come twice, late, or for nothing, and what becomes of files.

use std::path::Path;
use std::time::Duration;
use thalweg::control::{Report, TaskId, TaskSnapshot};
use thalweg::{CheckpointId, JobStatus, RestartStrategy};
use thalweg_storage::AttemptId;
use thalweg_storage::fault::Fault;
use thalweg_storage::io::{DiskHandle, Fault as DiskFault, OpKind, OpenMode};
use thalweg_storage::manifest::{ChannelOrigin, ChannelState, Payload};
use thalweg_tests::trial::{Acknowledgement, JOB_DIR, News, Trial, When, engine, holds_only_without, seeds};

const EXPIRY: Duration = Duration::from_millis(20);

#[test]
fn a_duplicate_acknowledgement_changes_nothing() {
    holds_only_without([Fault::DuplicatesCount], |seed| {
        let mut trial = Trial::running(engine().max_concurrent_checkpoints(2), seed);
        trial.post.repeat();
        // The last task's acknowledgements are missing: one of the others that comes twice does not stand for it.
        trial.post.keep(|ack| ack.task == TaskId(5));
        let answers = [trial.simulation.checkpoint(), trial.simulation.checkpoint()];
        trial.until_kept(2);
        trial.pass(Duration::from_millis(20));
        assert_eq!(trial.stats().completed, 0);
        trial.release();
        for (answer, id) in answers.into_iter().zip(1..) {
            assert_eq!(trial.answer(answer), Ok(CheckpointId(id)));
        }
        // Those that come again for a completed checkpoint take none of its files away.
        trial.deliver(trial.post.passed());
        let savepoint = trial.savepoint(None).unwrap();
        assert_eq!(trial.checkpoint(), CheckpointId(4));
        trial.deliver(trial.post.passed());
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.assert_restorable(), CheckpointId(4));
        assert!(trial.disk.files().contains(&savepoint.join("MANIFEST")));
        let stats = trial.stats();
        assert_eq!((stats.completed, stats.savepoints, stats.failed), (3, 1, 0));
        for news in trial.script.heard_by_subtask().values() {
            let completed = news.iter().filter(|news| matches!(news, News::Completed(_))).count();
            assert_eq!(completed, 3);
        }
        trial.finish();
    });
}

#[test]
fn a_declined_checkpoint_is_discarded_and_the_next_one_holds_its_changes() {
    seeds(|seed| {
        let mut trial = Trial::running(engine().tolerable_failed_checkpoints(1), seed);
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        trial.disk.fail_next_in("shared/seg-", OpKind::SyncData, DiskFault::Io);
        let why = trial.failed_checkpoint();
        assert!(why.contains("declined it") && why.contains("segment"), "{why}");
        assert_eq!(trial.retained(), [1]);
        assert_eq!(trial.assert_restorable(), CheckpointId(1));
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.checkpoint(), CheckpointId(3));
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.retained(), [3]);
        assert_eq!(trial.unnamed(), [""; 0], "files of the declined one are left");
        let mut trial = trial.again(engine(), seed, None).unwrap();
        trial.finish();
    });
}

/// The task of the first subtask that writes segments.
fn writer(trial: &Trial) -> TaskId {
    let passed = trial.post.passed();
    passed.iter().find(|ack| !ack.files().is_empty()).expect("a task with keyed state").task
}

/// A trial of which checkpoint 1 is complete, and whose checkpoint 2 has expired since one acknowledgement is missing, with files;
/// and that acknowledgement.
fn expired_without_one(seed: u64) -> (Trial, Acknowledgement) {
    let restart = RestartStrategy::FixedDelay { attempts: 1, delay: Duration::from_millis(1) };
    let builder = engine().tolerable_failed_checkpoints(5).checkpoint_timeout(EXPIRY);
    let mut trial = Trial::running(builder.restart_strategy(restart), seed);
    trial.pass(Duration::from_millis(5));
    trial.checkpoint();
    trial.pass(Duration::from_millis(5));
    let late = writer(&trial);
    trial.post.keep(move |ack| ack.task == late);
    let why = trial.failed_checkpoint();
    assert!(why.contains("expired before 1 of 6 tasks"), "{why}");
    trial.post.keep_none();
    let [late] = <[_; 1]>::try_from(trial.post.take()).unwrap();
    (trial, late)
}

#[test]
fn files_of_a_late_acknowledgement_go_and_those_it_shares_with_a_completed_checkpoint_stay() {
    holds_only_without([Fault::LateFilesStay], |seed| {
        let (mut trial, late) = expired_without_one(seed);
        let base = trial.manifests()[&1].clone();
        let shared: Vec<_> = late.files().into_iter().filter(|f| base.files().any(|b| b == f)).collect();
        let own: Vec<_> = late.files().into_iter().filter(|file| !shared.contains(file)).collect();
        assert!(!shared.is_empty() && !own.is_empty(), "it is incremental: {shared:?} and {own:?}");

        trial.deliver([late]);
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.assert_restorable(), CheckpointId(1));
        // Once a later one has completed, no task can name its own files any more.
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.assert_restorable(), CheckpointId(3));
        let files = trial.disk.files();
        for path in own {
            assert!(!files.contains(&Path::new(JOB_DIR).join(&path)), "{path} is left");
        }
        assert_eq!(trial.unnamed(), [""; 0]);
        trial.finish();
    });
}

#[test]
fn an_acknowledgement_that_comes_after_a_later_checkpoint_takes_nothing_of_it_along() {
    holds_only_without([Fault::LateFilesStay], |seed| {
        let (mut trial, late) = expired_without_one(seed);
        trial.checkpoint();
        trial.deliver([late]);
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.assert_restorable(), CheckpointId(3));
        assert_eq!(trial.unnamed(), [""; 0]);
        let mut trial = trial.again(engine(), seed, None).unwrap();
        trial.finish();
    });
}

#[test]
fn files_of_an_acknowledgement_from_a_dead_attempt_go_and_shared_ones_stay() {
    holds_only_without([Fault::LateFilesStay], |seed| {
        let (mut trial, late) = expired_without_one(seed);
        trial.script.fail("middle", When::Processing);
        trial.until("the job restarts", |trial| trial.simulation.status() == JobStatus::Restarting);
        trial.until_running();
        assert_eq!(trial.stats().restored, Some(CheckpointId(1)));
        trial.deliver([late]);
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.assert_restorable(), CheckpointId(1));
        assert_eq!(trial.unnamed(), [""; 0]);
        trial.finish();
    });
}

fn write(trial: &Trial, path: &str) {
    let disk = DiskHandle::new(trial.disk.clone() as _);
    let file = disk.open(Path::new(JOB_DIR).join(path), OpenMode::CreateNew).wait().unwrap();
    disk.write(file, 0, vec![7; 100]).wait().unwrap();
    disk.close(file).wait().unwrap();
}

#[test]
fn files_of_an_acknowledgement_for_an_unknown_checkpoint_go_and_shared_ones_stay() {
    holds_only_without([Fault::LateFilesStay], |seed| {
        let mut trial = Trial::running(engine(), seed);
        trial.pass(Duration::from_millis(5));
        trial.checkpoint();
        let known = trial.post.passed().into_iter().find(|ack| !ack.files().is_empty()).unwrap();
        let mut snapshot: TaskSnapshot = *known.snapshot;
        let (_, _, subtask) =
            snapshot.operators.iter_mut().find(|(_, _, subtask)| !subtask.segments.is_empty()).unwrap();
        let mut segment = subtask.segments[0].clone();
        segment.path = "shared/seg-a1-c2-90-0".to_owned();
        subtask.segments.push(segment);
        let in_flight = "chk-1/channel-a1-90-0";
        let path = in_flight.to_owned();
        snapshot.channels.push(ChannelState {
            edge: "e".into(),
            producer: 0,
            consumer: 0,
            generation: 0,
            origin: ChannelOrigin::Consumer,
            records: 1,
            data: Payload::File { path, offset: 0, bytes: 100, crc32: 0, file_bytes: 100 },
        });
        write(&trial, "shared/seg-a1-c2-90-0");
        write(&trial, in_flight);
        assert_eq!(trial.unnamed().len(), 2);

        let (attempt, unknown) = (AttemptId(1), CheckpointId(2));
        trial.simulation.report(Report::Acknowledged(attempt, known.task, unknown, Box::new(snapshot)));
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.unnamed(), ["shared/seg-a1-c2-90-0"], "in-flight data go at once");
        assert_eq!(trial.assert_restorable(), CheckpointId(1));
        // It might be one of a checkpoint that is yet to come, until that one is complete.
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        assert_eq!(trial.unnamed(), [""; 0]);
        assert_eq!(trial.assert_restorable(), CheckpointId(3));
        assert_eq!(trial.stats().failed, 0);
        trial.finish();
    });
}

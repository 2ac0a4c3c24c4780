//! Starts from checkpoints that somebody names, and what becomes of the originals.

use std::path::Path;
use std::time::Duration;
use thalweg::{CheckpointId, RestoreMode, RestoreSettings};
use thalweg_storage::fault::Fault;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::Manifest;
use thalweg_tests::trial::{JOB_DIR, Trial, engine, holds_only_without, seeds};

const OTHER: &str = "/other";

/// A job of whose state the newest checkpoint, the second, names files of an older one; and that checkpoint's place.
fn incremental(seed: u64) -> (Trial, String) {
    let mut trial = Trial::running(engine(), seed);
    for ms in [30, 3] {
        trial.pass(Duration::from_millis(ms));
        trial.checkpoint();
    }
    trial.pass(Duration::from_millis(5));
    let manifest = trial.manifests()[&2].clone();
    assert!(manifest.files().any(|file| file.contains("-c1-")), "it builds on the first");
    (trial, format!("{JOB_DIR}/chk-2"))
}

fn manifest_of(trial: &Trial, id: u64) -> Manifest {
    let path = Path::new(OTHER).join(format!("trial/chk-{id}/MANIFEST"));
    let bytes = trial.disk.read_file(&path).expect("a complete checkpoint");
    thalweg_storage::manifest::decode(&path, &bytes).expect("an intact one")
}

fn files_below(trial: &Trial, dir: &str) -> Vec<std::path::PathBuf> {
    trial.disk.files().into_iter().filter(|path| path.starts_with(dir)).collect()
}

fn delete(trial: &Trial, dir: &str) {
    let disk = DiskHandle::new(trial.disk.clone() as _);
    files_below(trial, dir).iter().for_each(|path| disk.remove(path).wait().unwrap());
}

#[test]
fn without_claim_the_original_stays_whole_and_the_first_checkpoint_is_full_so_that_it_may_go() {
    holds_only_without([Fault::FirstCheckpointIncremental], |seed| {
        let (trial, path) = incremental(seed);
        let original = files_below(&trial, JOB_DIR);
        let from = RestoreSettings::from_path(path).mode(RestoreMode::NoClaim);
        let mut trial = trial.again(engine().checkpoint_dir(OTHER), seed, Some(&from)).unwrap();
        trial.until_running();
        // Hardly anything has changed since.
        let first = trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        let manifest = manifest_of(&trial, first.0);
        assert_eq!(manifest.origin, None);
        for file in manifest.files() {
            assert!(file.contains(&format!("-c{first}-")), "{file} is not of the first checkpoint");
        }
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        assert_eq!(files_below(&trial, JOB_DIR), original, "nothing of it is touched");

        delete(&trial, JOB_DIR);
        let mut trial = trial.again(engine().checkpoint_dir(OTHER), seed, None).unwrap();
        trial.finish();
    });
}

#[test]
fn with_claim_the_original_goes_once_enough_newer_checkpoints_are_complete() {
    holds_only_without([Fault::ClaimedStays], |seed| {
        let (trial, path) = incremental(seed);
        let named: Vec<_> = trial.manifests()[&2].files().map(|file| Path::new(JOB_DIR).join(file)).collect();
        let from = RestoreSettings::from_path(path).mode(RestoreMode::Claim);
        let builder = || engine().checkpoint_dir(OTHER).retained_checkpoints(2);
        let mut trial = trial.again(builder(), seed, Some(&from)).unwrap();
        trial.until_running();
        let stays = |trial: &Trial| {
            let files = trial.disk.files();
            named.iter().filter(|path| files.contains(path)).count()
        };
        trial.pass(Duration::from_millis(5));
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        assert_eq!(stays(&trial), named.len(), "it is one of the two that are retained");
        trial.checkpoint();
        trial.pass(Duration::from_millis(5));
        assert_eq!(stays(&trial), 0, "nothing of it is left");
        let mut trial = trial.again(builder(), seed, None).unwrap();
        trial.finish();
    });
}

#[test]
fn an_unknown_path_is_refused_with_the_path_before_anything_starts() {
    seeds(|seed| {
        let (trial, _) = incremental(seed);
        let disk = trial.disk.clone();
        let before = disk.files();
        let from = RestoreSettings::from_path("/nowhere/savepoint-trial-9");
        let Err(why) = trial.again(engine(), seed, Some(&from)) else { panic!("it starts") };
        assert!(why.contains("there is no savepoint or checkpoint at /nowhere/savepoint-trial-9"), "{why}");
        assert_eq!(disk.files(), before);
    });
}

#[test]
fn another_max_parallelism_is_refused_and_the_checkpoint_stays() {
    seeds(|seed| {
        let (trial, _) = incremental(seed);
        let mut trial = trial.again(engine().max_parallelism(16), seed, None).unwrap();
        let why = trial.end().unwrap_err();
        assert!(why.contains("max parallelism") && why.contains('8') && why.contains("16"), "{why}");
        assert_eq!(trial.assert_restorable(), CheckpointId(2));
        let mut trial = trial.again(engine(), seed, None).unwrap();
        trial.finish();
    });
}

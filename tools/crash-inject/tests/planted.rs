//! The tests of recovery find mistakes: each planted bug is caught by simulated losses of power, and none is seen without one.

use crash_inject::images::{EngineLife, Hashes, Look, StoreLife};
use std::panic::{AssertUnwindSafe, catch_unwind};
use thalweg_storage::fault::{Fault, with_fault};
use thalweg_storage::store::BackendChoice;

/// Bugs that lives of a store show.
const OF_THE_STORE: [Fault; 7] = [
    Fault::BeginDirUnsynced,
    Fault::DataDirsUnsynced,
    Fault::ManifestRenamedUnsynced,
    Fault::ManifestDirUnsynced,
    Fault::ManifestBeforeData,
    Fault::FailedSyncRetried,
    Fault::ReleaseDirUnsynced,
];

/// Bugs that it takes a whole job to show.
const OF_THE_ENGINE: [Fault; 6] = [
    Fault::AcknowledgesEarly,
    Fault::CaptureEndsEarly,
    Fault::OutboxLeftOut,
    Fault::CommitsBeforeManifest,
    Fault::ListsOwnCommittablesOnly,
    Fault::TruncationSkipped,
];

/// Lives after which a bug counts as not found.
const LIVES_MAX: u64 = 40;
const IMAGES_MAX: u64 = 1_500;

/// The first life, by its seed, that complains, and its complaint.
fn first_complaint(lives: u64, live: impl Fn(u64, Look)) -> Option<(u64, String)> {
    (1..=lives).find_map(|seed| {
        let look = Look { full_one_in: 2, ..Look::quick(seed) };
        let panic = catch_unwind(AssertUnwindSafe(|| live(seed, look))).err()?;
        let text = panic.downcast_ref::<String>().cloned();
        Some((seed, text.unwrap_or_else(|| "another panic".to_owned())))
    })
}

fn store_life(seed: u64, look: Look) {
    let backend = [BackendChoice::HashMap, BackendChoice::Log][(seed % 2) as usize];
    StoreLife { backend, memory_bytes: None, retained: 1 }.live(seed, look, IMAGES_MAX, &mut Hashes::new());
}

fn engine_life(seed: u64, look: Look) {
    EngineLife { log: seed.is_multiple_of(2) }.live(seed, look, IMAGES_MAX, &mut Hashes::new());
}

fn each_is_found(bugs: &[Fault], live: fn(u64, Look)) {
    let mut missed = Vec::new();
    for bug in bugs {
        match with_fault(Some(*bug), || first_complaint(LIVES_MAX, live)) {
            Some((seed, complaint)) => println!("{bug:?}: life {seed}: {complaint:.160}"),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn each_bug_planted_in_the_store_is_found() {
    each_is_found(&OF_THE_STORE, store_life);
}

#[test]
fn each_bug_planted_in_the_engine_is_found() {
    each_is_found(&OF_THE_ENGINE, engine_life);
}

#[test]
fn without_a_bug_nothing_is_found() {
    assert_eq!(first_complaint(3, store_life), None);
    assert_eq!(first_complaint(3, engine_life), None);
}

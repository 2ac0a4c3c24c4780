//! Failing disks, clocks that jump and user code that panics, in simulated lives of whole jobs: each kind of fault is met,
//! and what comes of it is judged.
//!
//! `THALWEG_SEED=<seed>` replays the disk of that seed for each kind.

use crash_inject::faults::{FaultyLife, Kind, Tally, explore, live};

/// Disks for one kind of fault.
const DISKS: u64 = 12;

fn each_is_met(kinds: &[Kind]) {
    let seeds = match std::env::var("THALWEG_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("THALWEG_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 1..DISKS + 1,
    };
    for kind in kinds {
        let mut tally = Tally::default();
        for seed in seeds.clone() {
            let life = FaultyLife { log: seed % 2 == 0, timers: seed / 2 % 2 == 0, kinds: vec![*kind] };
            live(&life, seed, &mut tally).unwrap_or_else(|wrong| panic!("THALWEG_SEED: {wrong}"));
        }
        println!("{kind:?}: {tally:?}");
        assert!(tally.met(*kind) > 0 || seeds.end == seeds.start + 1, "{kind:?} is never met: {tally:?}");
        assert_eq!(tally.finished, seeds.end - seeds.start, "each disk ends with a job that has finished");
        assert!(tally.audit.is_clean() && tally.checkpoints > 0 && tally.recoveries_checked > 0, "{tally:?}");
    }
}

#[test]
fn a_sync_that_fails_costs_no_row_and_no_checkpoint_that_was_complete() {
    each_is_met(&[Kind::SyncError]);
}

#[test]
fn any_other_request_that_fails_costs_no_row_and_no_checkpoint_that_was_complete() {
    each_is_met(&[Kind::WriteError, Kind::ReadError, Kind::MetadataError]);
}

#[test]
fn a_disk_that_is_full_for_a_while_costs_no_row() {
    each_is_met(&[Kind::NoSpace]);
}

#[test]
fn short_reads_and_torn_writes_cost_no_row() {
    each_is_met(&[Kind::ShortRead, Kind::TornWrite]);
}

#[test]
fn requests_that_take_long_and_clocks_that_jump_cost_no_row() {
    each_is_met(&[Kind::SlowIo, Kind::ClockJump, Kind::WallClockSet]);
}

#[test]
fn a_panic_anywhere_in_user_code_costs_no_row() {
    each_is_met(&[
        Kind::PanicInMap,
        Kind::PanicInOpen,
        Kind::PanicInSnapshot,
        Kind::PanicInSink,
        Kind::PanicInCommit,
    ]);
}

#[test]
fn several_faults_at_once_cost_no_row_and_the_same_seed_gives_the_same_lives() {
    let outcome = explore(1, 90, |_| true);
    assert_eq!(outcome.complaints, Vec::<String>::new());
    assert_eq!(outcome.disks, 90);
    let Tally { stores, restarts, failed, crashed, failed_checkpoints, .. } = &outcome.tally;
    assert!([*stores, *restarts, *failed, *crashed, *failed_checkpoints].iter().all(|count| *count > 0));
    let again = explore(1, 90, |_| true);
    assert_eq!(again.tally, outcome.tally);
}

#[test]
fn a_job_on_a_slow_disk_lists_no_file_that_is_not_finished() {
    // The file sink once took a checkpoint for prepared while a file was being finished that a failed one had listed before.
    for seed in [1_342, 1_515, 3_487] {
        live(&FaultyLife::of_seed(seed), seed, &mut Tally::default())
            .unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

//! Unaligned, aligned and timed checkpoints through every scheduled failure, on simulated workers, clock and disk.
//!
//! `THALWEG_SEED=<seed>` replays one seed of each test; `THALWEG_RUNS=<n>` multiplies the number of seeds.

use thalweg_tests::conformance::{
    CrashRun, Mode, Outcome, Placement, Scenario, SimulatedRun, Tally, Topology,
};
use thalweg_tests::support;

/// Runs `run` by `seeds` seeds, or by the one to replay; panics with the first that violates anything.
fn try_seeds(scenario: Scenario, seeds: u64, run: impl Fn(u64) -> Outcome) -> Option<Tally> {
    let mut tally = Tally::default();
    for seed in support::seeds(seeds) {
        let outcome = run(seed);
        assert!(
            outcome.violations.is_empty(),
            "{scenario:?}, replay with THALWEG_SEED={seed}:\n{}",
            outcome.violations.join("\n")
        );
        tally.add(&outcome.tally);
    }
    println!("{scenario:?}: {tally:?}");
    support::replayed_seed().is_none().then_some(tally)
}

/// Every scheduled failure, by `seeds` seeds.
fn hold(topology: Topology, parallelism: u32, mode: Mode, seeds: u64) {
    let scenario = Scenario { topology, parallelism, mode };
    let run = |seed| SimulatedRun { scenario, placement: Placement::BySeed, seed }.run();
    let Some(tally) = try_seeds(scenario, seeds, run) else { return };
    match mode {
        Mode::Unaligned => {
            assert!(tally.restored_records > 0, "no in-flight data were ever restored: {tally:?}")
        }
        Mode::Aligned => assert_eq!(tally.parts_unaligned, 0),
        Mode::AlignedWithTimeout | Mode::AlignedWithLongTimeout => {
            assert!(tally.parts_unaligned > 0, "no part ever switched: {tally:?}");
            assert!(tally.parts_aligned > 0, "every part switched: {tally:?}");
        }
    }
}

macro_rules! scenarios {
    ($($name:ident: $topology:ident $parallelism:literal $mode:ident, $seeds:literal seeds;)*) => {$(
        #[test]
        fn $name() {
            hold(Topology::$topology, $parallelism, Mode::$mode, $seeds);
        }
    )*};
}

scenarios! {
    pipeline_1_unaligned_is_exactly_once: Pipeline 1 Unaligned, 20 seeds;
    pipeline_1_aligned_is_exactly_once: Pipeline 1 Aligned, 20 seeds;
    pipeline_1_with_timeout_is_exactly_once: Pipeline 1 AlignedWithTimeout, 20 seeds;
    pipeline_5_unaligned_is_exactly_once: Pipeline 5 Unaligned, 20 seeds;
    pipeline_5_aligned_is_exactly_once: Pipeline 5 Aligned, 12 seeds;
    pipeline_5_with_timeout_is_exactly_once: Pipeline 5 AlignedWithTimeout, 20 seeds;
    pipeline_20_unaligned_is_exactly_once: Pipeline 20 Unaligned, 6 seeds;
    pipeline_20_aligned_is_exactly_once: Pipeline 20 Aligned, 4 seeds;
    pipeline_20_with_timeout_is_exactly_once: Pipeline 20 AlignedWithTimeout, 6 seeds;
    union_5_unaligned_is_exactly_once: Union 5 Unaligned, 16 seeds;
    union_5_aligned_is_exactly_once: Union 5 Aligned, 12 seeds;
    union_5_with_timeout_is_exactly_once: Union 5 AlignedWithTimeout, 16 seeds;
    multi_input_5_unaligned_is_exactly_once: MultiInput 5 Unaligned, 12 seeds;
    multi_input_5_aligned_is_exactly_once: MultiInput 5 Aligned, 8 seeds;
    multi_input_5_with_timeout_is_exactly_once: MultiInput 5 AlignedWithTimeout, 12 seeds;
    shared_3_unaligned_is_exactly_once: Shared 3 Unaligned, 12 seeds;
    shared_3_aligned_is_exactly_once: Shared 3 Aligned, 12 seeds;
    shared_3_with_timeout_is_exactly_once: Shared 3 AlignedWithTimeout, 12 seeds;
}

/// Power losses and failing disks, by `seeds` seeds.
fn survive(topology: Topology, parallelism: u32, mode: Mode, seeds: u64) {
    let scenario = Scenario { topology, parallelism, mode };
    let run = |seed| CrashRun { scenario, seed }.run();
    if let Some(tally) = try_seeds(scenario, seeds, run) {
        assert!(tally.restored_records > 0, "no in-flight data were ever restored: {tally:?}");
    }
}

#[test]
fn pipeline_survives_power_losses_unaligned() {
    survive(Topology::Pipeline, 3, Mode::Unaligned, 30);
}

#[test]
fn pipeline_survives_power_losses_aligned() {
    survive(Topology::Pipeline, 3, Mode::Aligned, 30);
}

#[test]
fn pipeline_survives_power_losses_with_timeout() {
    survive(Topology::Pipeline, 3, Mode::AlignedWithTimeout, 30);
}

#[test]
fn union_survives_power_losses_unaligned() {
    survive(Topology::Union, 2, Mode::Unaligned, 30);
}

#[test]
fn multi_input_survives_power_losses_with_timeout() {
    survive(Topology::MultiInput, 2, Mode::AlignedWithTimeout, 30);
}

#[test]
fn shared_survives_power_losses_unaligned() {
    survive(Topology::Shared, 2, Mode::Unaligned, 30);
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let scenario = Scenario { topology: Topology::Union, parallelism: 3, mode: Mode::AlignedWithTimeout };
    let digest = |seed| SimulatedRun { scenario, placement: Placement::BySeed, seed }.run().digest;
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

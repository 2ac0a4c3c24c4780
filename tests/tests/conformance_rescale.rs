//! Restores at another parallelism with in-flight data, and into jobs whose edges have changed; most on simulated workers,
//! some on real ones.
//!
//! `THALWEG_SEED=<seed>` replays one seed of each test; `THALWEG_RUNS=<n>` multiplies the number of seeds.

use thalweg_tests::conformance::Tally;
use thalweg_tests::conformance::rescale::{
    CHANGED_EDGES, NamedCase, REAL_RESCALES, RESCALES, SLOW_RESCALES, cases,
};

/// Runs a case by `seeds` seeds, or by the one to replay; panics with the first that violates anything.
fn hold(name: &str, seeds: u64) -> Tally {
    let (_, run): &NamedCase = cases().find(|(case, _)| *case == name).expect("a case of this name");
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("THALWEG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..seeds * number("THALWEG_RUNS").unwrap_or(1),
    };
    let mut tally = Tally::default();
    for seed in seeds {
        let outcome = run(seed);
        assert!(
            outcome.violations.is_empty(),
            "{name}, replay with THALWEG_SEED={seed}:\n{}",
            outcome.violations.join("\n")
        );
        tally.add(&outcome.tally);
    }
    println!("{name}: {tally:?}");
    tally
}

macro_rules! rescales {
    ($($test:ident: $name:literal, $seeds:literal seeds;)*) => {
        $(
            #[test]
            fn $test() {
                let tally = hold($name, $seeds);
                assert!(tally.restored_records > 0, "no in-flight data were ever restored: {tally:?}");
            }
        )*

        #[test]
        fn every_rescale_is_tested() {
            let tested = [$($name),*];
            assert!(RESCALES.iter().all(|(name, _)| tested.contains(name)));
        }
    };
}

rescales! {
    pipeline_1_to_2: "rescale-pipeline-1-to-2", 6 seeds;
    pipeline_2_to_3: "rescale-pipeline-2-to-3", 6 seeds;
    pipeline_3_to_7: "rescale-pipeline-3-to-7", 6 seeds;
    pipeline_4_to_8: "rescale-pipeline-4-to-8", 6 seeds;
    pipeline_20_to_21: "rescale-pipeline-20-to-21", 2 seeds;
    pipeline_2_to_1: "rescale-pipeline-2-to-1", 6 seeds;
    pipeline_3_to_2: "rescale-pipeline-3-to-2", 6 seeds;
    pipeline_7_to_3: "rescale-pipeline-7-to-3", 6 seeds;
    pipeline_8_to_4: "rescale-pipeline-8-to-4", 6 seeds;
    pipeline_21_to_20: "rescale-pipeline-21-to-20", 2 seeds;
    pipeline_1_unchanged: "rescale-pipeline-1-unchanged", 6 seeds;
    pipeline_3_unchanged: "rescale-pipeline-3-unchanged", 6 seeds;
    pipeline_7_unchanged: "rescale-pipeline-7-unchanged", 4 seeds;
    pipeline_20_unchanged: "rescale-pipeline-20-unchanged", 2 seeds;
    union_1_to_2: "rescale-union-1-to-2", 6 seeds;
    union_2_to_3: "rescale-union-2-to-3", 6 seeds;
    union_3_to_7: "rescale-union-3-to-7", 4 seeds;
    union_2_to_1: "rescale-union-2-to-1", 6 seeds;
    union_3_to_2: "rescale-union-3-to-2", 6 seeds;
    union_7_to_3: "rescale-union-7-to-3", 4 seeds;
    union_7_unchanged: "rescale-union-7-unchanged", 4 seeds;
    multi_input_1_to_2: "rescale-multi-input-1-to-2", 6 seeds;
    multi_input_2_to_3: "rescale-multi-input-2-to-3", 6 seeds;
    multi_input_3_to_7: "rescale-multi-input-3-to-7", 4 seeds;
    multi_input_2_to_1: "rescale-multi-input-2-to-1", 6 seeds;
    multi_input_3_to_2: "rescale-multi-input-3-to-2", 6 seeds;
    multi_input_7_to_3: "rescale-multi-input-7-to-3", 4 seeds;
    multi_input_7_unchanged: "rescale-multi-input-7-unchanged", 4 seeds;
    keyed_uneven_12_to_7: "rescale-keyed-uneven-12-to-7", 2 seeds;
    keyed_uneven_7_to_12: "rescale-keyed-uneven-7-to-12", 2 seeds;
    keyed_broadcast_7_to_2: "rescale-keyed-broadcast-7-to-2", 4 seeds;
    keyed_broadcast_2_to_7: "rescale-keyed-broadcast-2-to-7", 4 seeds;
    broadcast_5_to_2: "rescale-broadcast-5-to-2", 4 seeds;
    broadcast_2_to_5: "rescale-broadcast-2-to-5", 4 seeds;
    custom_bulky_3_to_2: "rescale-custom-bulky-3-to-2", 2 seeds;
}

macro_rules! slow_rescales {
    ($($test:ident: $name:literal;)*) => {
        $(
            #[test]
            fn $test() {
                hold($name, 3);
            }
        )*

        #[test]
        fn every_slow_rescale_is_tested() {
            let tested = [$($name),*];
            assert!(SLOW_RESCALES.iter().all(|(name, _)| tested.contains(name)));
        }
    };
}

slow_rescales! {
    slow_pipeline_3_to_5: "rescale-slow-pipeline-3-to-5";
    slow_pipeline_5_to_3: "rescale-slow-pipeline-5-to-3";
    slow_union_3_to_5: "rescale-slow-union-3-to-5";
    slow_union_5_to_3: "rescale-slow-union-5-to-3";
    slow_multi_input_3_to_5: "rescale-slow-multi-input-3-to-5";
    slow_multi_input_5_to_3: "rescale-slow-multi-input-5-to-3";
    slow_keyed_uneven_3_to_5: "rescale-slow-keyed-uneven-3-to-5";
    slow_keyed_uneven_5_to_3: "rescale-slow-keyed-uneven-5-to-3";
    slow_keyed_broadcast_3_to_5: "rescale-slow-keyed-broadcast-3-to-5";
    slow_keyed_broadcast_5_to_3: "rescale-slow-keyed-broadcast-5-to-3";
    slow_broadcast_3_to_5: "rescale-slow-broadcast-3-to-5";
    slow_broadcast_5_to_3: "rescale-slow-broadcast-5-to-3";
}

macro_rules! changed_edges {
    ($($test:ident: $name:literal, $seeds:literal seeds, $in_flight:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let tally = hold($name, $seeds);
                assert!(!$in_flight || tally.restored_records > 0, "nothing was restored in flight: {tally:?}");
            }
        )*

        #[test]
        fn every_changed_edge_is_tested() {
            let tested = [$($name),*];
            assert!(CHANGED_EDGES.iter().all(|(name, _)| tested.contains(name)));
        }
    };
}

changed_edges! {
    edge_forward_to_rebalance: "edge-forward-to-rebalance", 4 seeds, true;
    edge_rebalance_to_forward: "edge-rebalance-to-forward", 4 seeds, true;
    edge_forward_to_custom: "edge-forward-to-custom", 4 seeds, true;
    edge_custom_to_forward: "edge-custom-to-forward", 4 seeds, true;
    two_exchanges_2_to_4: "two-exchanges-2-to-4", 4 seeds, true;
    dag_chain: "dag-chain", 4 seeds, true;
    dag_diamond: "dag-diamond", 4 seeds, true;
    dag_three_sources: "dag-three-sources", 4 seeds, true;
    dag_funnel: "dag-funnel", 4 seeds, true;
    bulky_during_recovery: "bulky-during-recovery", 2 seeds, true;
    pipeline_during_recovery_5_to_2_to_3: "pipeline-during-recovery-5-to-2-to-3", 4 seeds, true;
    pipeline_during_recovery_2_to_5_to_4_to_1: "pipeline-during-recovery-2-to-5-to-4-to-1", 4 seeds, true;
    finished_in_part_4_to_3: "finished-in-part-4-to-3", 4 seeds, false;
    finished_in_part_2_to_5: "finished-in-part-2-to-5", 4 seeds, false;
}

macro_rules! real_rescales {
    ($($test:ident: $name:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let tally = hold($name, 2);
                assert!(tally.restored_records > 0, "no in-flight data were ever restored: {tally:?}");
            }
        )*

        #[test]
        fn every_rescale_on_real_workers_is_tested() {
            let tested = [$($name),*];
            assert!(REAL_RESCALES.iter().all(|(name, _)| tested.contains(name)));
        }
    };
}

real_rescales! {
    real_pipeline_2_to_3: "rescale-real-pipeline-2-to-3";
    real_pipeline_7_to_3: "rescale-real-pipeline-7-to-3";
    real_union_3_to_2: "rescale-real-union-3-to-2";
    real_multi_input_3_to_7: "rescale-real-multi-input-3-to-7";
    real_keyed_broadcast_2_to_7: "rescale-real-keyed-broadcast-2-to-7";
    real_broadcast_5_to_2: "rescale-real-broadcast-5-to-2";
}

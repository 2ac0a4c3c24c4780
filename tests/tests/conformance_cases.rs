//! The named cases of conformance on simulated workers, each once and a few by more seeds: the part of them that every change has to pass.
//!
//! `cargo xtask conformance --long` runs all of them, also those on real workers, many times over.

use thalweg_tests::conformance::case;

/// Runs a case by the first `seeds` seeds.
fn holds(name: &str, seeds: u64) {
    let case = case::named(name).unwrap_or_else(|| panic!("there is no case {name}"));
    for seed in 0..seeds {
        let outcome = (case.run)(seed);
        let again = format!("again with `cargo xtask conformance --case {name} --seed {seed}`");
        assert!(outcome.violations.is_empty(), "{name}: {again}:\n{}", outcome.violations.join("\n"));
        assert!(outcome.tally.jobs > 0, "{name}: nothing ran");
    }
}

macro_rules! cases {
    ($($test:ident: $name:literal, $seeds:literal;)*) => {$(
        #[test]
        fn $test() {
            holds($name, $seeds);
        }
    )*};
}

cases! {
    pipeline_p1_same_core: "pipeline-p1-same-core", 2;
    pipeline_p1_cross_core: "pipeline-p1-cross-core", 2;
    pipeline_p1_mixed: "pipeline-p1-mixed", 2;
    pipeline_p5_same_core: "pipeline-p5-same-core", 2;
    pipeline_p5_cross_core: "pipeline-p5-cross-core", 2;
    pipeline_p5_mixed: "pipeline-p5-mixed", 2;
    pipeline_p20_same_core: "pipeline-p20-same-core", 1;
    pipeline_p20_cross_core: "pipeline-p20-cross-core", 1;
    pipeline_p20_mixed: "pipeline-p20-mixed", 1;
    multi_input_p5_same_core: "multi-input-p5-same-core", 2;
    multi_input_p5_cross_core: "multi-input-p5-cross-core", 2;
    multi_input_p5_mixed: "multi-input-p5-mixed", 2;
    multi_input_p10_same_core: "multi-input-p10-same-core", 1;
    multi_input_p10_cross_core: "multi-input-p10-cross-core", 1;
    multi_input_p10_mixed: "multi-input-p10-mixed", 1;
    union_p5_same_core: "union-p5-same-core", 2;
    union_p5_cross_core: "union-p5-cross-core", 2;
    union_p5_mixed: "union-p5-mixed", 2;
    union_p10_same_core: "union-p10-same-core", 1;
    union_p10_cross_core: "union-p10-cross-core", 1;
    union_p10_mixed: "union-p10-mixed", 1;
    pipeline_p20_timeout_1ms_same_core: "pipeline-p20-timeout-1ms-same-core", 1;
    pipeline_p20_timeout_1ms_cross_core: "pipeline-p20-timeout-1ms-cross-core", 1;
    pipeline_p20_timeout_1ms_mixed: "pipeline-p20-timeout-1ms-mixed", 1;
    pipeline_p20_timeout_5ms_same_core: "pipeline-p20-timeout-5ms-same-core", 1;
    pipeline_p20_timeout_5ms_cross_core: "pipeline-p20-timeout-5ms-cross-core", 1;
    pipeline_p20_timeout_5ms_mixed: "pipeline-p20-timeout-5ms-mixed", 1;
}

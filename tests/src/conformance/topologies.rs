//! Jobs of several shapes on one core, across cores and mixed, through every scheduled failure.
//!
//! Names: shape, parallelism, alignment timeout if any, placement, and `real` for those on real workers. With one partition
//! there is but one worker to run on, so the placements of `p1` differ by seed alone.

use super::case::{Case, Family};
use super::run::{RealRun, SimulatedRun};
use super::topology::{Mode, Placement, Scenario, Topology};
use super::verdict::Outcome;
use thalweg::DriverChoice;

fn simulated(scenario: Scenario, placement: Placement, seed: u64) -> Outcome {
    SimulatedRun { scenario, placement, seed }.run()
}

/// Drivers take turns; the seed varies the sizes of rings and batches.
fn real(scenario: Scenario, placement: Placement, seed: u64) -> Outcome {
    let driver = if seed.is_multiple_of(2) { DriverChoice::Auto } else { DriverChoice::Threads };
    let workers = match placement {
        // More than a few threads would only wait for cores.
        Placement::CrossCore => placement.workers(scenario.parallelism, seed).min(6),
        _ => placement.workers(scenario.parallelism, seed).min(3),
    };
    RealRun { scenario, driver, workers, number: seed as usize }.run()
}

macro_rules! cases {
    ($($name:literal $real:literal: $topology:ident $parallelism:literal $mode:ident $placement:ident;)*) => {
        &[$(Case {
            name: $name,
            family: Family::Topologies,
            real: $real,
            run: |seed| {
                let scenario =
                    Scenario { topology: Topology::$topology, parallelism: $parallelism, mode: Mode::$mode };
                if $real {
                    real(scenario, Placement::$placement, seed)
                } else {
                    simulated(scenario, Placement::$placement, seed)
                }
            },
        }),*]
    };
}

/// The list of this family.
pub const CASES: &[Case] = cases! {
    "pipeline-p1-same-core" false: Pipeline 1 Unaligned SameCore;
    "pipeline-p1-cross-core" false: Pipeline 1 Unaligned CrossCore;
    "pipeline-p1-mixed" false: Pipeline 1 Unaligned Mixed;
    "pipeline-p5-same-core" false: Pipeline 5 Unaligned SameCore;
    "pipeline-p5-cross-core" false: Pipeline 5 Unaligned CrossCore;
    "pipeline-p5-mixed" false: Pipeline 5 Unaligned Mixed;
    "pipeline-p20-same-core" false: Pipeline 20 Unaligned SameCore;
    "pipeline-p20-cross-core" false: Pipeline 20 Unaligned CrossCore;
    "pipeline-p20-mixed" false: Pipeline 20 Unaligned Mixed;
    "multi-input-p5-same-core" false: MultiInput 5 Unaligned SameCore;
    "multi-input-p5-cross-core" false: MultiInput 5 Unaligned CrossCore;
    "multi-input-p5-mixed" false: MultiInput 5 Unaligned Mixed;
    "multi-input-p10-same-core" false: MultiInput 10 Unaligned SameCore;
    "multi-input-p10-cross-core" false: MultiInput 10 Unaligned CrossCore;
    "multi-input-p10-mixed" false: MultiInput 10 Unaligned Mixed;
    "union-p5-same-core" false: Union 5 Unaligned SameCore;
    "union-p5-cross-core" false: Union 5 Unaligned CrossCore;
    "union-p5-mixed" false: Union 5 Unaligned Mixed;
    "union-p10-same-core" false: Union 10 Unaligned SameCore;
    "union-p10-cross-core" false: Union 10 Unaligned CrossCore;
    "union-p10-mixed" false: Union 10 Unaligned Mixed;
    "pipeline-p20-timeout-1ms-same-core" false: Pipeline 20 AlignedWithTimeout SameCore;
    "pipeline-p20-timeout-1ms-cross-core" false: Pipeline 20 AlignedWithTimeout CrossCore;
    "pipeline-p20-timeout-1ms-mixed" false: Pipeline 20 AlignedWithTimeout Mixed;
    "pipeline-p20-timeout-5ms-same-core" false: Pipeline 20 AlignedWithLongTimeout SameCore;
    "pipeline-p20-timeout-5ms-cross-core" false: Pipeline 20 AlignedWithLongTimeout CrossCore;
    "pipeline-p20-timeout-5ms-mixed" false: Pipeline 20 AlignedWithLongTimeout Mixed;
    "pipeline-p1-same-core-real" true: Pipeline 1 Unaligned SameCore;
    "pipeline-p1-cross-core-real" true: Pipeline 1 Unaligned CrossCore;
    "pipeline-p1-mixed-real" true: Pipeline 1 Unaligned Mixed;
    "pipeline-p5-same-core-real" true: Pipeline 5 Unaligned SameCore;
    "pipeline-p5-cross-core-real" true: Pipeline 5 Unaligned CrossCore;
    "pipeline-p5-mixed-real" true: Pipeline 5 Unaligned Mixed;
    "pipeline-p20-same-core-real" true: Pipeline 20 Unaligned SameCore;
    "pipeline-p20-cross-core-real" true: Pipeline 20 Unaligned CrossCore;
    "pipeline-p20-mixed-real" true: Pipeline 20 Unaligned Mixed;
    "multi-input-p5-same-core-real" true: MultiInput 5 Unaligned SameCore;
    "multi-input-p5-cross-core-real" true: MultiInput 5 Unaligned CrossCore;
    "multi-input-p5-mixed-real" true: MultiInput 5 Unaligned Mixed;
    "multi-input-p10-same-core-real" true: MultiInput 10 Unaligned SameCore;
    "multi-input-p10-cross-core-real" true: MultiInput 10 Unaligned CrossCore;
    "multi-input-p10-mixed-real" true: MultiInput 10 Unaligned Mixed;
    "union-p5-same-core-real" true: Union 5 Unaligned SameCore;
    "union-p5-cross-core-real" true: Union 5 Unaligned CrossCore;
    "union-p5-mixed-real" true: Union 5 Unaligned Mixed;
    "union-p10-same-core-real" true: Union 10 Unaligned SameCore;
    "union-p10-cross-core-real" true: Union 10 Unaligned CrossCore;
    "union-p10-mixed-real" true: Union 10 Unaligned Mixed;
    "pipeline-p20-timeout-1ms-same-core-real" true: Pipeline 20 AlignedWithTimeout SameCore;
    "pipeline-p20-timeout-1ms-cross-core-real" true: Pipeline 20 AlignedWithTimeout CrossCore;
    "pipeline-p20-timeout-1ms-mixed-real" true: Pipeline 20 AlignedWithTimeout Mixed;
    "pipeline-p20-timeout-5ms-same-core-real" true: Pipeline 20 AlignedWithLongTimeout SameCore;
    "pipeline-p20-timeout-5ms-cross-core-real" true: Pipeline 20 AlignedWithLongTimeout CrossCore;
    "pipeline-p20-timeout-5ms-mixed-real" true: Pipeline 20 AlignedWithLongTimeout Mixed;
};

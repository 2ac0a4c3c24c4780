//! Keyed counts on a log-structured backend with less memory than state, on simulated workers, clock and disk: reads that
//! come back in any order, power losses at any moment.
//!
//! `THALWEG_SEED=<seed>` replays one seed; `THALWEG_RUNS=<n>` multiplies the number of seeds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg::config::StateBackend;
use thalweg::connector::{GeneratorSource, MemorySink};
use thalweg::job::{EngineBuilder, Simulation, SimulationOptions};
use thalweg::{CheckpointMode, Dataflow, Engine, RestartStrategy};
use thalweg_storage::io::{CrashProfile, SimDisk};
use thalweg_tests::clicks::Random;
use thalweg_tests::support;

const SEEDS: u64 = 6;
const RECORDS: u64 = 40_000;
const KEYS: u64 = 12_000;
const CRASHES: u64 = 3;
const STEPS_MAX: u64 = 3_000_000;

fn builder(random: &mut Random) -> EngineBuilder {
    let modes = [CheckpointMode::Unaligned, CheckpointMode::Aligned];
    Engine::builder()
        .workers(1 + random.below(3) as usize)
        .parallelism(2)
        .max_parallelism(4)
        .pin(false)
        .state_backend(StateBackend::Log)
        .state_memory("64kb")
        .checkpoint_dir("/checkpoints")
        .checkpoint_interval("20ms")
        .checkpoint_mode(modes[random.below(2) as usize])
        .ring_batches(1 + random.below(3) as usize)
        .batch_records(16 + random.below(500) as usize)
        .buffer_timeout(Duration::from_millis(2))
        .restart_strategy(RestartStrategy::FixedDelay { attempts: 100, delay: Duration::from_millis(3) })
}

fn flow(sink: &MemorySink<(u64, u64)>) -> Dataflow {
    let flow = Dataflow::new("counts");
    // Scattered, so that each batch needs pages from everywhere.
    let key = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS;
    flow.source("numbers", GeneratorSource::new(Some(RECORDS), key))
        .key_by(|key: &u64| *key)
        .count("count")
        .sink("sink", sink.clone());
    flow
}

/// Runs the job through power losses to its end; returns how many pages were read back for batches.
fn run(seed: u64) -> Result<u64, String> {
    let mut random = Random::of_seed(seed);
    let sink = MemorySink::new();
    let mut disk = SimDisk::new();
    let mut reads = 0;
    let page_reads = |simulation: &Simulation| {
        simulation.metrics().tasks.iter().map(|task| task.state.page_reads).sum::<u64>()
    };
    for _ in 0..CRASHES {
        let options = SimulationOptions {
            disk: Arc::clone(&disk),
            budget_records_max: 2_000,
            ..SimulationOptions::seeded(random.below(u64::MAX))
        };
        let mut simulation =
            Simulation::new(builder(&mut random), flow(&sink), options).map_err(|error| error.to_string())?;
        let steps = random.below(4_000);
        while !simulation.has_ended() && simulation.steps() < steps {
            simulation.step();
        }
        reads += page_reads(&simulation);
        let profiles =
            [CrashProfile::LoseAll, CrashProfile::KeepAll, CrashProfile::Prefix, CrashProfile::Weak];
        disk = simulation.crash(profiles[random.below(4) as usize], random.below(u64::MAX));
    }
    let options = SimulationOptions {
        disk,
        budget_records_max: 2_000,
        ..SimulationOptions::seeded(random.below(u64::MAX))
    };
    let mut simulation =
        Simulation::new(builder(&mut random), flow(&sink), options).map_err(|error| error.to_string())?;
    match simulation.run_until_finished(STEPS_MAX) {
        Some(Ok(())) => {}
        Some(Err(error)) => return Err(error.to_string()),
        None => return Err(format!("the job is stuck: {:?}", simulation.metrics().tasks)),
    }
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for (key, count) in sink.committed().concat() {
        let before = counts.insert(key, count).unwrap_or(0);
        if count != before + 1 {
            return Err(format!("key {key} has count {count} after {before}"));
        }
    }
    let total: u64 = counts.values().sum();
    if total != RECORDS {
        return Err(format!("{total} records are counted"));
    }
    Ok(reads + page_reads(&simulation))
}

#[test]
fn counts_are_exact_with_less_memory_than_state_whatever_order_reads_end_in() {
    let mut reads = 0;
    for seed in support::seeds(SEEDS) {
        reads += run(seed).unwrap_or_else(|error| panic!("THALWEG_SEED={seed}: {error}"));
        println!("seed {seed}: {reads} page reads so far");
    }
    assert!(reads > 0, "no page was ever read back");
}

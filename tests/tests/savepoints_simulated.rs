//! Jobs that are stopped with savepoints and started from them, on simulated workers, clock and disk, with power losses at
//! any moment: between savepoint and stop, while a job takes a savepoint over, while a claimed one is deleted.
//!
//! `THALWEG_SEED=<seed>` replays one seed; `THALWEG_RUNS=<n>` multiplies the number of seeds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thalweg::config::StateBackend;
use thalweg::connector::{GeneratorSource, MemorySink};
use thalweg::job::{EngineBuilder, Simulation, SimulationOptions};
use thalweg::{CheckpointMode, Dataflow, Engine, RestartStrategy, RestoreMode, RestoreSettings, StopMode};
use thalweg_storage::io::{CrashProfile, DiskHandle, SimDisk};
use thalweg_tests::clicks::Random;
use thalweg_tests::support;

const SEEDS: u64 = 24;
const RECORDS: u64 = 20_000;
const KEYS: u64 = 3_000;
const PHASES: u64 = 6;
const STEPS_MAX: u64 = 3_000_000;

/// What the runs of one seed, or of several, have been through.
#[derive(Debug, Default)]
struct Seen {
    stops: u64,
    savepoints: u64,
    crashes: u64,
    starts_from_savepoints: u64,
    takeovers_repeated: u64,
}

fn builder(random: &mut Random, directory: u64) -> EngineBuilder {
    let modes = [
        CheckpointMode::Unaligned,
        CheckpointMode::Aligned,
        CheckpointMode::AlignedWithTimeout(Duration::from_millis(1)),
    ];
    let backends = [StateBackend::HashMap, StateBackend::Log];
    Engine::builder()
        .workers(1 + random.below(3) as usize)
        .parallelism(2)
        .max_parallelism(4)
        .pin(false)
        // Each start chooses anew: a savepoint does not mind.
        .state_backend(backends[random.below(2) as usize])
        .state_memory("64kb")
        .checkpoint_dir(checkpoints(directory))
        .checkpoint_interval("20ms")
        .checkpoint_mode(modes[random.below(3) as usize])
        .max_concurrent_checkpoints(1 + random.below(3) as usize)
        .retained_checkpoints(1 + random.below(2) as usize)
        .ring_batches(1 + random.below(3) as usize)
        .batch_records(16 + random.below(200) as usize)
        .buffer_timeout(Duration::from_millis(2))
        .restart_strategy(RestartStrategy::FixedDelay { attempts: 100, delay: Duration::from_millis(3) })
}

fn checkpoints(directory: u64) -> String {
    format!("/checkpoints-{directory}")
}

fn flow(sink: &MemorySink<(u64, u64)>) -> Dataflow {
    let flow = Dataflow::new("counts");
    let key = |n: u64| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % KEYS;
    flow.source("numbers", GeneratorSource::new(Some(RECORDS), key))
        .key_by(|key: &u64| *key)
        .count("count")
        .sink("sink", sink.clone());
    flow
}

/// True when the job has a completed checkpoint in its directory, so that it continues by itself.
fn continues(disk: &Arc<SimDisk>, directory: u64) -> bool {
    let disk = DiskHandle::new(Arc::clone(disk) as _);
    let job = PathBuf::from(checkpoints(directory)).join("counts");
    let Ok(entries) = disk.list(&job).wait() else { return false };
    let complete = |name: &str| {
        let files = disk.list(job.join(name)).wait().expect("a directory that was listed");
        files.iter().any(|file| file.name == "MANIFEST")
    };
    entries.iter().any(|entry| entry.name.starts_with("chk-") && complete(&entry.name))
}

/// Runs the job through stops and power losses to its end.
fn run(seed: u64, seen: &mut Seen) -> Result<(), String> {
    let mut random = Random::of_seed(seed);
    let sink = MemorySink::new();
    let mut disk = SimDisk::new();
    let mut directory = 0;
    let mut from: Option<RestoreSettings> = None;
    for phase in 0..=PHASES {
        let options = SimulationOptions {
            disk: Arc::clone(&disk),
            budget_records_max: 24,
            ..SimulationOptions::seeded(random.below(u64::MAX))
        };
        let builder = builder(&mut random, directory);
        // Told to start from a savepoint only until the job's own directory has something.
        let restore = from.clone().filter(|_| !continues(&disk, directory));
        let simulation = match &restore {
            Some(restore) => {
                seen.starts_from_savepoints += 1;
                Simulation::from(builder, flow(&sink), options, restore)
            }
            None => Simulation::new(builder, flow(&sink), options),
        };
        let mut simulation = simulation.map_err(|error| format!("phase {phase}: {error}"))?;
        if phase == PHASES {
            match simulation.run_until_finished(STEPS_MAX) {
                Some(Ok(())) => break,
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err(format!("the job is stuck: {:?}", simulation.metrics())),
            }
        }
        let crashes = random.below(2) == 0;
        let crash_at = random.below(1_500);
        let stop_at = random.below(1_000);
        let savepoint_at = random.below(800);
        let mut savepoint = None;
        let mut stop = None;
        let mut stopped = None;
        while !simulation.has_ended() {
            if crashes && simulation.steps() >= crash_at {
                break;
            }
            if simulation.steps() > STEPS_MAX {
                return Err(format!("phase {phase} is stuck: {:?}", simulation.metrics()));
            }
            simulation.step();
            if savepoint.is_none() && simulation.steps() >= savepoint_at {
                savepoint = Some(simulation.savepoint(Path::new("/savepoints"), None));
            }
            if stop.is_none() && simulation.steps() >= stop_at {
                stop = Some(simulation.savepoint(Path::new("/savepoints"), Some(StopMode::Suspend)));
            }
            if let Some(answer) = stop.as_ref().and_then(|stop| stop.try_recv().ok()) {
                match answer {
                    Ok(path) => stopped = Some(path),
                    // Not yet running, or running no more: ask again.
                    Err(_) => stop = None,
                }
            }
        }
        seen.savepoints +=
            savepoint.and_then(|answer| answer.try_recv().ok()).map_or(0, |answer| answer.is_ok().into());
        if restore.is_some() && crashes && !continues(simulation.disk(), directory) {
            seen.takeovers_repeated += 1;
        }
        if simulation.has_ended() && stopped.is_none() {
            // The job has processed everything.
            disk = Arc::clone(simulation.disk());
            continue;
        }
        if let Some(path) = stopped {
            seen.stops += 1;
            if random.below(2) == 0 {
                directory += 1;
                let modes = [RestoreMode::Claim, RestoreMode::NoClaim];
                from = Some(RestoreSettings::from_path(path).mode(modes[random.below(2) as usize]));
            }
        }
        let profiles =
            [CrashProfile::LoseAll, CrashProfile::KeepAll, CrashProfile::Prefix, CrashProfile::Weak];
        seen.crashes += u64::from(crashes);
        disk = simulation.crash(profiles[random.below(4) as usize], random.below(u64::MAX));
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
    Ok(())
}

#[test]
fn output_is_exactly_once_through_stops_starts_from_savepoints_and_power_losses() {
    let mut seen = Seen::default();
    for seed in support::seeds(SEEDS) {
        run(seed, &mut seen).unwrap_or_else(|error| panic!("THALWEG_SEED={seed}: {error}"));
    }
    println!("{seen:?}");
    if support::replayed_seed().is_none() {
        assert!(seen.stops > 0 && seen.savepoints > 0 && seen.crashes > 0 && seen.starts_from_savepoints > 0);
    }
}

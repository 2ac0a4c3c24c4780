//! Losses of power at every sync boundary of stores and of whole jobs, in simulation.
//!
//! `THALWEG_SEED=<seed>` replays one life of each kind.

use crash_inject::images::{EngineLife, Hashes, Look, Seen, StoreLife};
use thalweg_storage::store::BackendChoice;

/// Lives of each kind.
const LIVES: u64 = 2;
/// Images judged in one life.
const IMAGES_MAX: u64 = 3_000;

fn lives(what: &str, mut live: impl FnMut(u64, Look, &mut Hashes) -> Seen) {
    let seeds = match std::env::var("THALWEG_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().expect("THALWEG_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 1..LIVES + 1,
    };
    let (mut hashes, mut seen) = (Hashes::new(), Seen::default());
    for seed in seeds {
        println!("{what}: THALWEG_SEED={seed}");
        seen.add(live(seed, Look::quick(seed), &mut hashes));
    }
    println!("{what}: {seen:?}, {} distinct", hashes.len());
    assert!(
        seen.moments > 50 && hashes.len() > 100 && seen.worked_on > 50,
        "{seen:?}, {} distinct",
        hashes.len()
    );
}

fn store(backend: BackendChoice, memory_bytes: Option<usize>) -> StoreLife {
    StoreLife { backend, memory_bytes, retained: 2 }
}

#[test]
fn a_power_loss_at_any_sync_boundary_of_hash_tables_is_recovered_from() {
    let life = store(BackendChoice::HashMap, None);
    lives("hash tables", |seed, look, hashes| life.live(seed, look, IMAGES_MAX, hashes));
}

#[test]
fn a_power_loss_at_any_sync_boundary_of_logs_is_recovered_from() {
    let life = store(BackendChoice::Log, Some(4 << 10));
    lives("logs", |seed, look, hashes| life.live(seed, look, IMAGES_MAX, hashes));
}

#[test]
fn a_power_loss_at_any_sync_boundary_of_a_job_on_hash_tables_leaves_every_count_exactly_once() {
    let life = EngineLife { log: false };
    lives("a job on hash tables", |seed, look, hashes| life.live(seed, look, IMAGES_MAX, hashes));
}

#[test]
fn a_power_loss_at_any_sync_boundary_of_a_job_on_logs_leaves_every_count_exactly_once() {
    let life = EngineLife { log: true };
    lives("a job on logs", |seed, look, hashes| life.live(seed, look, IMAGES_MAX, hashes));
}

//! Many random lives of stores, on each backend and on both in turn.

use super::lives::{Account, live};
use super::support::{new_disk, seeds};
use thalweg_storage::store::BackendChoice;

impl Account {
    fn add(&mut self, other: Account) {
        self.checkpoints += other.checkpoints;
        self.failures += other.failures;
        self.crashes += other.crashes;
        self.restarts += other.restarts;
        self.newer_than_acknowledged += other.newer_than_acknowledged;
    }
}

fn live_many(seeds_wanted: usize, backends: &[BackendChoice]) {
    let mut sum = Account::default();
    let seeds = seeds(seeds_wanted);
    for seed in &seeds {
        let life = std::panic::catch_unwind(|| live(new_disk(), *seed, backends));
        sum.add(life.unwrap_or_else(|_| panic!("{backends:?}: replay with THALWEG_SEED={seed}")));
    }
    println!("{backends:?}, {} seeds: {sum:?}", seeds.len());
    if seeds.len() > 1 {
        let Account { checkpoints, failures, crashes, restarts, newer_than_acknowledged } = sum;
        assert!([checkpoints, failures, crashes, restarts, newer_than_acknowledged].iter().all(|n| *n > 0));
    }
}

#[test]
fn random_lives_of_hash_tables_never_lose_what_was_acknowledged() {
    live_many(150, &[BackendChoice::HashMap]);
}

#[test]
fn random_lives_of_logs_never_lose_what_was_acknowledged() {
    live_many(150, &[BackendChoice::Log]);
}

#[test]
fn random_lives_that_change_the_backend_never_lose_what_was_acknowledged() {
    live_many(150, &[BackendChoice::Log, BackendChoice::HashMap]);
}

//! Kills, power losses, failing disks and damaged files, simulated under a whole store.
//!
//! One text for all backends: [`support::Flavor`] is what a run is made of. `THALWEG_SEED=<seed>` replays one seed of each
//! test, `THALWEG_RUNS=<n>` multiplies the number of runs and of crash images.
#![cfg(feature = "testing")]

mod support;
mod points;
mod lives;
mod random;
mod damage;

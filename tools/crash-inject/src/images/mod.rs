//! Power losses in simulation: lives of stores and of whole jobs on a simulated disk, each looked at where a loss of power may
//! leave something else than a moment before.
//!
//! Always true: a life is decided by its seed alone; what is judged is a copy, so the life goes on as though nobody looked.

mod engine;
mod store;

pub use engine::EngineLife;
pub use store::StoreLife;

use crate::random::Random;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use thalweg_storage::io::{Exploration, OpKind};
use thalweg_storage::store::BackendChoice;

/// How closely a life is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Of the operations other than syncs, renames and removals, one in so many is looked at too; none for 0.
    pub others_one_in: u64,
    /// At each of these, so many images.
    pub exploration: Exploration,
    /// One in so many images is not only recovered but also worked on.
    pub full_one_in: u64,
}

impl Look {
    /// Each sync boundary, few images of each, one in three worked on: for tests that run often.
    pub fn quick(seed: u64) -> Self {
        Look {
            others_one_in: 0,
            exploration: Exploration { exhaustive: 24, samples: 12, seed },
            full_one_in: 3,
        }
    }

    /// For a long campaign.
    pub fn thorough(seed: u64) -> Self {
        Look { others_one_in: 5, exploration: Exploration::thorough(seed), full_one_in: 40 }
    }

    fn is_wanted(self, kind: OpKind, random: &mut Random) -> bool {
        match kind {
            OpKind::SyncData | OpKind::SyncDir | OpKind::Rename | OpKind::Remove | OpKind::RemoveDir => true,
            _ => self.others_one_in > 0 && random.below(self.others_one_in) == 0,
        }
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Seen {
    /// Moments at which power was lost.
    pub moments: u64,
    /// Of these, moments all of whose images were looked at.
    pub exhausted: u64,
    /// Images that were judged, each once per moment and verdict.
    pub judged: u64,
    /// Of these, images on which work went on.
    pub worked_on: u64,
}

impl Seen {
    /// Adds another life's.
    pub fn add(&mut self, other: Seen) {
        self.moments += other.moments;
        self.exhausted += other.exhausted;
        self.judged += other.judged;
        self.worked_on += other.worked_on;
    }
}

/// Hashes of images, over many lives.
pub type Hashes = HashSet<u64>;

/// What a long campaign found.
#[derive(Default, serde::Serialize)]
pub struct Outcome {
    /// What was looked at.
    pub seen: Seen,
    /// Distinct images by name and content, over all lives.
    pub distinct: u64,
    /// Lives.
    pub lives: u64,
    /// What was wrong, with the seed of its life.
    pub complaints: Vec<String>,
}

/// Lives of all kinds, from `seed` on, on so many `threads`, until `count` distinct images were judged, `go_on` says no, or
/// something was wrong. `go_on` is asked before each life.
pub fn explore(seed: u64, count: u64, threads: usize, go_on: impl FnMut(&Outcome) -> bool + Send) -> Outcome {
    let next = AtomicU64::new(seed);
    let shared = Mutex::new((Outcome::default(), Hashes::new(), go_on));
    // How many images are wanted, unless that is enough.
    let left = || {
        let (outcome, _, go_on) = &mut *shared.lock().expect("no life panics here");
        let goes_on = outcome.distinct < count && outcome.complaints.is_empty() && go_on(outcome);
        goes_on.then(|| count - outcome.distinct)
    };
    let live_on = || {
        while let Some(left) = left() {
            let own = next.fetch_add(1, Ordering::Relaxed);
            let mut found = Hashes::new();
            let life = || live(own, Look::thorough(own), &mut found, left);
            let lived = catch_unwind(AssertUnwindSafe(life));
            let (outcome, hashes, _) = &mut *shared.lock().expect("no life panics here");
            match lived {
                Ok(seen) => outcome.seen.add(seen),
                Err(panic) => outcome.complaints.push(format!("--seed {own}: {}", message_of(&*panic))),
            }
            hashes.extend(found);
            outcome.lives += 1;
            outcome.distinct = hashes.len() as u64;
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(live_on))));
    shared.into_inner().expect("no life panics here").0
}

/// One life of the kind that `seed` says; about `images_max` images are judged.
fn live(seed: u64, look: Look, hashes: &mut Hashes, images_max: u64) -> Seen {
    let log = |memory_bytes| StoreLife {
        backend: BackendChoice::Log,
        memory_bytes,
        retained: 1 + seed as usize % 2,
    };
    match seed % 5 {
        0 => StoreLife { backend: BackendChoice::HashMap, ..log(None) }.live(seed, look, images_max, hashes),
        1 => log(None).live(seed, look, images_max, hashes),
        2 => log(Some(4 << 10)).live(seed, look, images_max, hashes),
        kind => EngineLife { log: kind == 3 }.live(seed, look, images_max, hashes),
    }
}

pub(crate) fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

//! Lives of a store without an engine.
//!
//! The oracle: what is recovered is the latest acknowledged checkpoint or one of those under way since, holds what the tables
//! held when it began, is the same when recovered again after another loss of power, and can be worked on.

use super::{Hashes, Look, Seen, message_of};
use crate::random::Random;
use crate::stores::support::{
    Flavor, Model, Oracle, Random as Numbers, State, change, content, new_disk, open, recover_and_go_on,
    take_checkpoint,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use thalweg_storage::io::{self, CrashProfile, Fault, OpKind, SimDisk};
use thalweg_storage::store::{BackendChoice, Store};

const KEYS: usize = 120;
const STEPS: usize = 14;

/// A kind of store.
#[derive(Clone, Copy, Debug)]
pub struct StoreLife {
    /// What its tables live on.
    pub backend: BackendChoice,
    /// Most bytes of pages in memory per table.
    pub memory_bytes: Option<usize>,
    /// Checkpoints that are kept.
    pub retained: usize,
}

/// Judges images while the life goes on.
struct Judge {
    flavor: Flavor,
    look: Look,
    random: Random,
    seed: u64,
    known: io::Seen,
    hashes: Hashes,
    images_max: u64,
    seen: Seen,
    /// What was wrong with an image; nobody looks any more.
    complaint: Option<String>,
}

impl Judge {
    fn wants(&mut self, kind: OpKind) -> bool {
        let Judge { look, random, seen, images_max, complaint, .. } = self;
        complaint.is_none() && seen.judged < *images_max && look.is_wanted(kind, random)
    }
}

impl StoreLife {
    /// Lives by `seed`: changes, checkpoints, restarts, savepoints. The hashes of all images that are judged are added to
    /// `hashes`; after about `images_max` images nobody looks any more.
    ///
    /// # Panics
    /// When an image is not what it must be; the message says which.
    pub fn live(self, seed: u64, look: Look, images_max: u64, hashes: &mut Hashes) -> Seen {
        let flavor =
            Flavor { backend: self.backend, memory_bytes: self.memory_bytes, retained: self.retained };
        let disk = new_disk();
        let oracle = Arc::new(Mutex::new(Oracle::default()));
        let judge = Arc::new(Mutex::new(Judge {
            flavor,
            look,
            random: Random::of_part(seed, 1),
            seed,
            known: io::Seen::default(),
            hashes: std::mem::take(hashes),
            images_max,
            seen: Seen::default(),
            complaint: None,
        }));
        let (judging, asked) = (Arc::clone(&judge), Arc::clone(&oracle));
        disk.watch(move |disk, kind| {
            let mut judge = judging.lock().expect("no judgement has panicked");
            if judge.wants(kind) {
                let oracle = asked.lock().expect("no judgement has panicked").clone();
                let look = AssertUnwindSafe(|| judge.look(disk, &oracle, &format!("before {kind:?}")));
                if let Err(panic) = catch_unwind(look) {
                    judge.complaint = Some(message_of(&*panic));
                }
            }
        });
        script(seed, &disk, flavor, &oracle);
        disk.unwatch();
        let mut judge = judge.lock().expect("no judgement has panicked");
        *hashes = std::mem::take(&mut judge.hashes);
        if let Some(complaint) = judge.complaint.take() {
            panic!("{complaint}");
        }
        judge.seen
    }
}

/// What happens to the store.
fn script(seed: u64, disk: &Arc<SimDisk>, flavor: Flavor, oracle: &Arc<Mutex<Oracle>>) {
    let mut numbers = Numbers(seed);
    let mut model = Model::default();
    let mut store: Option<Store<State>> = None;
    for step in 0..STEPS {
        let open_store =
            store.get_or_insert_with(|| open(disk.clone(), flavor).expect("no fault was injected"));
        match numbers.below(11) {
            10 => {
                disk.fail_next(OpKind::SyncData, Fault::Io);
                // It fails, unless nothing had to be synced; what the oracle then expects it has been told.
                let _ = take_checkpoint(open_store, &mut model, oracle, &mut numbers, None);
                disk.disarm();
            }
            0..4 => {
                let steps = numbers.below(120);
                change(&mut numbers, open_store, &mut model, KEYS, steps);
            }
            4..8 => {
                let keys = numbers.one_in(2).then_some(KEYS);
                take_checkpoint(open_store, &mut model, oracle, &mut numbers, keys)
                    .expect("no fault was injected");
            }
            8 => {
                open_store.savepoint(format!("/data/saved-{step}")).expect("no fault was injected");
            }
            _ => {
                drop(store.take());
                let mut again = open(disk.clone(), flavor).expect("no fault was injected");
                model = content(&mut again);
                let oracle = oracle.lock().expect("no judgement has panicked");
                oracle.check(again.latest(), &model, &|| "a restart".to_owned());
                store = Some(again);
            }
        }
    }
}

impl Judge {
    fn look(&mut self, disk: &SimDisk, oracle: &Oracle, moment: &str) {
        self.seen.moments += 1;
        let exploration = io::Exploration { seed: self.random.next_u64(), ..self.look.exploration };
        let Judge { flavor, look, known, hashes, seen, seed, .. } = self;
        let explored = disk.explore(exploration, &oracle.verdicts(), known, |image, how| {
            let context = || format!("store life {seed}, {flavor:?}, {moment}: {how}");
            hashes.insert(image.fingerprint(&()));
            seen.judged += 1;
            if seen.judged.is_multiple_of(look.full_one_in) {
                seen.worked_on += 1;
                recover_and_go_on(image, *flavor, oracle, &context);
            } else {
                recover_twice(image, *flavor, oracle, &context);
            }
        });
        self.seen.exhausted += u64::from(explored.exhausted);
    }
}

fn recover_twice(image: &Arc<SimDisk>, flavor: Flavor, oracle: &Oracle, context: &dyn Fn() -> String) {
    let recover = || {
        let mut store = open(image.clone(), flavor).unwrap_or_else(|error| panic!("{error}: {}", context()));
        (store.latest(), content(&mut store))
    };
    let (latest, held) = recover();
    oracle.check(latest, &held, context);
    image.crash_with(CrashProfile::LoseAll, 0);
    let (again, held_again) = recover();
    assert!(again == latest && held_again == held, "a second recovery gives the same: {}", context());
}

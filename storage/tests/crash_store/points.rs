//! One scripted life of a store, with a crash after each of its disk operations.

use super::support::*;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use thalweg_storage::io::{CrashProfile, Disk, Fault, OpKind, SimDisk};
use thalweg_storage::store::{BackendChoice, Progress, Store};
use thalweg_storage::{CheckpointId, StoreError};

/// Seeds per crash point, for each of the profiles that leave something to chance.
const SEEDS: u64 = 24;
/// Images per crash point that are tried one after another, where there are no more of them.
const IMAGES_IN_TURN: usize = 100;
/// Of so many distinct images, one is also crashed again while it is being recovered, after each operation.
const RECOVERIES: usize = 20;
/// Keys per table.
const KEYS: usize = 120;
/// Memory that holds a part of these.
const MEMORY_BYTES: usize = 4 << 10;

/// A store that lives by a script in which comes up all that a store does to its files.
struct Life {
    sim: Arc<SimDisk>,
    disk: Arc<dyn Disk>,
    flavor: Flavor,
    oracle: Arc<Mutex<Oracle>>,
    random: Random,
    model: Model,
    store: Option<Store<State>>,
}

impl Life {
    fn store(&mut self) -> &mut Store<State> {
        self.store.as_mut().expect("the store is open")
    }

    fn change(&mut self, steps: usize) {
        let store = self.store.as_mut().expect("the store is open");
        change(&mut self.random, store, &mut self.model, KEYS, steps);
    }

    fn remove_all(&mut self) {
        let state = self.store.as_mut().expect("the store is open").tables();
        self.model.counts.keys().for_each(|key| assert!(state.counts.remove(key)));
        self.model.names.keys().for_each(|key| assert!(state.names.remove(key)));
        self.model = Model::default();
    }

    fn try_checkpoint(&mut self, keys: Option<usize>) -> Result<CheckpointId, StoreError> {
        let store = self.store.as_mut().expect("the store is open");
        take_checkpoint(store, &mut self.model, &self.oracle, &mut self.random, keys)
    }

    fn checkpoint(&mut self) {
        self.try_checkpoint(None).unwrap();
    }

    /// A checkpoint in which an operation of `kind` fails, after `skip` others.
    fn failing_checkpoint(&mut self, kind: OpKind, skip: u64, fault: Fault) -> StoreError {
        for _ in 0..20 {
            self.sim.fail_after(kind, skip, fault);
            let error = self.try_checkpoint(None).err();
            self.sim.disarm();
            if let Some(error) = error {
                return error;
            }
            // What failed was a write to the scratch file, which a table larger than memory does without.
            assert!(self.flavor.memory_bytes.is_some() && kind == OpKind::Write);
            self.change(10);
        }
        panic!("no {kind:?} of a checkpoint fails");
    }

    fn restart(&mut self) {
        self.store = None;
        let mut store = open(self.disk.clone(), self.flavor).unwrap();
        self.model = content(&mut store);
        self.oracle.lock().unwrap().check(store.latest(), &self.model, &|| "a restart".to_owned());
        self.store = Some(store);
    }

    fn live(&mut self) {
        self.checkpoint();
        self.change(200);
        self.checkpoint();
        // So much changes that bases are written anew, or segments compacted.
        for _ in 0..6 {
            self.change(150);
            self.checkpoint();
        }
        self.try_checkpoint(Some(KEYS)).unwrap();
        self.restart();

        for (kind, skip, fault) in [
            (OpKind::Write, 0, Fault::NoSpace),
            (OpKind::Write, 1, Fault::NoSpace),
            (OpKind::SyncData, 0, Fault::Io),
            (OpKind::SyncData, 1, Fault::Io),
            (OpKind::CreateDir, 0, Fault::NoSpace),
        ] {
            self.change(20);
            let error = self.failing_checkpoint(kind, skip, fault);
            assert!(matches!(error, StoreError::Io { .. }), "{kind:?} {error}");
        }
        self.checkpoint();
        self.change(20);
        let error = self.failing_checkpoint(OpKind::Rename, 0, Fault::Io);
        assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
        self.change(20);
        self.checkpoint();

        self.change(50);
        let id = self.store().begin_checkpoint().unwrap();
        self.oracle.lock().unwrap().begun(id, &self.model);
        while self.store().advance(16).unwrap() == Progress::More && !self.sim.files().len().is_multiple_of(5)
        {
        }
        self.store().cancel_checkpoint();
        self.try_checkpoint(Some(KEYS)).unwrap();

        self.store().savepoint("/data/saved").unwrap();
        self.change(50);
        self.checkpoint();
        // Only the sync that makes the manifest's name durable fails: a restart finds the checkpoint complete.
        self.change(50);
        let error = self.failing_checkpoint(OpKind::SyncDir, 3, Fault::Io);
        assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
        self.restart();
        self.change(50);
        self.checkpoint();

        self.remove_all();
        self.checkpoint();
        self.checkpoint();
        self.change(50);
        self.checkpoint();
        self.store = None;
    }
}

/// Judges crash images.
struct Judge {
    flavor: Flavor,
    oracle: Arc<Mutex<Oracle>>,
    seen: HashSet<u64>,
    points: usize,
    images: usize,
    exhausted: usize,
    recoveries: usize,
}

impl Judge {
    /// Crashes `disk` in many ways after an operation of `kind`.
    fn look(&mut self, disk: &SimDisk, kind: OpKind) {
        self.points += 1;
        let (point, flavor) = (self.points, self.flavor);
        let context =
            |profile, which| format!("{flavor:?} after {kind:?}, point {point}, {profile:?} {which}");
        for profile in [CrashProfile::KeepAll, CrashProfile::LoseAll] {
            self.judge(&disk.crash_image(profile, 0), &|| context(profile, 0));
        }
        let profile = CrashProfile::Weak;
        let mut images = Vec::new();
        if disk.each_crash_image(profile, IMAGES_IN_TURN, |image| images.push(image)) {
            self.exhausted += 1;
        }
        for (which, image) in images.into_iter().enumerate() {
            self.judge(&image, &|| context(profile, which as u64));
        }
        for seed in 0..SEEDS * runs() as u64 {
            for profile in [CrashProfile::Weak, CrashProfile::Prefix] {
                // Other streams at other points.
                let seed = seed << 32 | point as u64;
                self.judge(&disk.crash_image(profile, seed), &|| context(profile, seed));
            }
        }
    }

    fn judge(&mut self, image: &Arc<SimDisk>, context: &dyn Fn() -> String) {
        let oracle = self.oracle.lock().unwrap().clone();
        if !self.seen.insert(fingerprint(image, &oracle.verdicts())) {
            return;
        }
        self.images += 1;
        if self.images.is_multiple_of(RECOVERIES) {
            self.recoveries += crash_while_recovering(image, self.flavor, &oracle, context);
        }
        recover_and_go_on(image, self.flavor, &oracle, context);
    }
}

/// Recovers a copy of `image` and crashes it after each operation; returns how many there were.
fn crash_while_recovering(
    image: &Arc<SimDisk>,
    flavor: Flavor,
    oracle: &Oracle,
    context: &dyn Fn() -> String,
) -> usize {
    let again: Arc<Mutex<Vec<Arc<SimDisk>>>> = Arc::default();
    let images = Arc::clone(&again);
    let copy = image.crash_image(CrashProfile::KeepAll, 0);
    let watched = Watched::new(copy, move |disk, _| {
        let profiles = [(CrashProfile::LoseAll, 0), (CrashProfile::Weak, 1), (CrashProfile::KeepAll, 0)];
        let crash = |(profile, seed)| disk.crash_image(profile, seed);
        images.lock().unwrap().extend(profiles.map(crash));
    });
    let mut store = open(watched, flavor).unwrap_or_else(|error| panic!("recovery: {error}: {}", context()));
    let (latest, held) = (store.latest(), content(&mut store));
    drop(store);
    let again = std::mem::take(&mut *again.lock().unwrap());
    for (which, image) in again.iter().enumerate() {
        let context = || format!("{}, crashed again at its recovery, {which}", context());
        let mut store = open(image.clone(), flavor).unwrap_or_else(|error| panic!("{error}: {}", context()));
        let found = content(&mut store);
        oracle.check(store.latest(), &found, &context);
        // Nothing that a crash has left makes a difference between one recovery and the next.
        assert!(store.latest() == latest && found == held, "{}", context());
    }
    again.len()
}

fn crash_after_each_operation(flavor: Flavor) {
    let sim = new_disk();
    let oracle = Arc::new(Mutex::new(Oracle::default()));
    let judge = Arc::new(Mutex::new(Judge {
        flavor,
        oracle: Arc::clone(&oracle),
        seen: HashSet::new(),
        points: 0,
        images: 0,
        exhausted: 0,
        recoveries: 0,
    }));
    let judging = Arc::clone(&judge);
    let disk = Watched::new(sim.clone(), move |disk, kind| judging.lock().unwrap().look(disk, kind));
    let store = open(disk.clone(), flavor).unwrap();
    let (random, model) = (Random(1), Model::default());
    let mut life = Life { sim: sim.clone(), disk, flavor, oracle, random, model, store: Some(store) };
    life.live();

    check_leaks(&sim, &|| "at the end of the script".to_owned());
    let mut judge = judge.lock().unwrap();
    judge.look(&sim, OpKind::Close);
    println!(
        "{flavor:?}: {} crash points, {} of them exhaustively; {} distinct images, {} crashes of recoveries",
        judge.points, judge.exhausted, judge.images, judge.recoveries
    );
    assert!(judge.points > 300 && judge.images > 500 && judge.recoveries > 1_000);
}

#[test]
fn a_crash_after_any_operation_of_hash_tables_recovers_what_was_acknowledged() {
    crash_after_each_operation(Flavor { backend: BackendChoice::HashMap, memory_bytes: None, retained: 1 });
}

#[test]
fn a_crash_after_any_operation_of_logs_recovers_what_was_acknowledged() {
    crash_after_each_operation(Flavor { backend: BackendChoice::Log, memory_bytes: None, retained: 1 });
}

#[test]
fn a_crash_after_any_operation_of_logs_larger_than_memory_recovers_what_was_acknowledged() {
    let memory_bytes = Some(MEMORY_BYTES);
    crash_after_each_operation(Flavor { backend: BackendChoice::Log, memory_bytes, retained: 2 });
}

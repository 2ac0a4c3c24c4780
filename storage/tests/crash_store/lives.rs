//! Random lives of a store: changes, checkpoints, failing operations, restarts and crashes, in any order.
//!
//! A power loss comes at any disk operation: the disk stops there, whatever the store is doing runs into it, and only then is
//! it decided what the disk has kept.

use super::support::*;
use std::sync::{Arc, Mutex};
use thalweg_storage::io::{CrashProfile, Fault, OpKind, SimDisk};
use thalweg_storage::store::{BackendChoice, Progress, Store};

const KEYS: usize = 300;
const STEPS: usize = 60;

/// What happened in a life, or in several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub checkpoints: usize,
    pub failures: usize,
    pub crashes: usize,
    pub restarts: usize,
    pub newer_than_acknowledged: usize,
}

struct Life<'a> {
    disk: Arc<SimDisk>,
    random: Random,
    backends: &'a [BackendChoice],
    flavor: Flavor,
    oracle: Mutex<Oracle>,
    model: Model,
    store: Option<Store<State>>,
    /// Something may fail: an operation was made to, or a sync has failed, after which the store must be opened again.
    troubled: bool,
    /// A sync has failed since the last crash, so the disk believes durable what is not.
    sync_failed: bool,
    account: Account,
}

impl Life<'_> {
    fn store(&mut self) -> &mut Store<State> {
        self.store.as_mut().expect("the store is open")
    }

    /// Opens the store and compares it with what it may be.
    fn open(&mut self) {
        self.flavor = Flavor {
            backend: self.backends[self.random.below(self.backends.len())],
            memory_bytes: [None, Some(4 << 10), Some(64 << 10)][self.random.below(3)],
            retained: 1 + self.random.below(3),
        };
        let mut attempts = 0;
        let mut store = loop {
            match open(self.disk.clone(), self.flavor) {
                Ok(store) => break store,
                // Faults that were meant for a checkpoint wear out.
                Err(error) => assert!(self.troubled && attempts < 20, "opening: {error}"),
            }
            attempts += 1;
        };
        if self.flavor.memory_bytes.is_some() {
            self.disk.disarm();
        }
        self.troubled = attempts > 0 || self.disk.armed_faults() > 0;
        let (latest, found) = (store.latest(), content(&mut store));
        let mut oracle = self.oracle.lock().unwrap();
        oracle.check(latest, &found, &|| "a restart".to_owned());
        if latest > oracle.acknowledged {
            self.account.newer_than_acknowledged += 1;
            // Whoever has seen it relies on it; only where a sync has failed can the store not make it durable.
            if !self.sync_failed {
                oracle.acknowledged(latest.expect("newer than something"));
            }
        }
        drop(oracle);
        self.model = found;
        self.store = Some(store);
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..6 => {
                let steps = self.random.below(120);
                let store = self.store.as_mut().expect("the store is open");
                change(&mut self.random, store, &mut self.model, KEYS, steps);
            }
            6..11 => self.checkpoint(),
            11 => self.cancelled_checkpoint(),
            12 => {
                let kinds =
                    [OpKind::Write, OpKind::SyncData, OpKind::SyncDir, OpKind::Rename, OpKind::CreateDir];
                let others = [OpKind::Remove, OpKind::RemoveDir, OpKind::List, OpKind::Open, OpKind::Read];
                // A table larger than memory opens and reads files whenever it is used.
                let unfit = if self.flavor.memory_bytes.is_some() { 2 } else { 0 };
                let count = kinds.len() + others.len() - unfit;
                let kind = *kinds.iter().chain(&others).nth(self.random.below(count)).expect("one of them");
                let fault = match (self.random.one_in(2), kind) {
                    (true, _) => Fault::Io,
                    (false, OpKind::Read) => Fault::Short,
                    (false, _) => Fault::NoSpace,
                };
                self.disk.fail_after(kind, self.random.below(6) as u64, fault);
                self.sync_failed |= matches!(kind, OpKind::SyncData | OpKind::SyncDir);
                self.troubled = true;
            }
            13 => {
                assert!(content(self.store.as_mut().expect("the store is open")) == self.model);
            }
            14 => {
                self.account.restarts += 1;
                self.store = None;
                self.open();
            }
            _ => self.crash(),
        }
    }

    fn checkpoint(&mut self) {
        let keys = self.random.one_in(2).then_some(KEYS);
        let store = self.store.as_mut().expect("the store is open");
        match take_checkpoint(store, &mut self.model, &self.oracle, &mut self.random, keys) {
            Ok(_) => self.account.checkpoints += 1,
            Err(error) => {
                assert!(self.troubled, "a checkpoint fails for a reason: {error}");
                self.account.failures += 1;
            }
        }
    }

    fn cancelled_checkpoint(&mut self) {
        let Ok(id) = self.store().begin_checkpoint() else { return assert!(self.troubled) };
        self.oracle.lock().unwrap().begun(id, &self.model);
        let slices = self.random.below(30);
        for _ in 0..slices {
            match self.store().advance(16) {
                Ok(Progress::Completed(id)) => return self.oracle.lock().unwrap().acknowledged(id),
                Ok(Progress::Waits) => self.store().wait(),
                Ok(_) => {}
                Err(error) => {
                    assert!(self.troubled, "a checkpoint fails for a reason: {error}");
                    return self.oracle.lock().unwrap().failed(id, &error);
                }
            }
        }
        self.store().cancel_checkpoint();
        self.oracle.lock().unwrap().cancelled(id);
    }

    /// Stops the disk at some operation, perhaps far off, or in the middle of a write, and loses power.
    fn crash(&mut self) {
        self.account.crashes += 1;
        if self.random.one_in(3) {
            self.disk.fail_after(OpKind::Write, self.random.below(4) as u64, Fault::Torn);
        }
        self.disk.stop_after(self.disk.op_count() + self.random.below(60));
        self.troubled = true;
        // Without a disk, a table larger than memory cannot be used.
        let keys = (self.flavor.memory_bytes.is_none() && self.random.one_in(2)).then_some(KEYS);
        let store = self.store.as_mut().expect("the store is open");
        match self.random.below(3) {
            0 => {}
            1 => _ = store.savepoint(format!("/data/saved-{}", self.account.crashes)),
            _ => _ = take_checkpoint(store, &mut self.model, &self.oracle, &mut self.random, keys),
        }
        let profiles =
            [CrashProfile::KeepAll, CrashProfile::LoseAll, CrashProfile::Prefix, CrashProfile::Weak];
        let profile = profiles[self.random.below(4)];
        self.disk.crash_with(profile, self.random.next());
        // What is left of the process touches the disk no more: its handles are those of the machine before.
        self.disk.stop_after(0);
        self.store = None;
        self.disk.crash_with(CrashProfile::KeepAll, 0);
        (self.troubled, self.sync_failed) = (false, false);
        self.open();
    }
}

/// Lives by `seed`, each time that the store is opened on one of `backends`, on `disk`, which is new.
///
/// Panics when something is lost, or fails without a reason.
pub fn live(disk: Arc<SimDisk>, seed: u64, backends: &[BackendChoice]) -> Account {
    let mut life = Life {
        disk,
        random: Random(seed),
        backends,
        flavor: Flavor { backend: backends[0], memory_bytes: None, retained: 1 },
        oracle: Mutex::default(),
        model: Model::default(),
        store: None,
        troubled: false,
        sync_failed: false,
        account: Account::default(),
    };
    life.open();
    for _ in 0..STEPS {
        life.step();
    }
    life.store = None;
    life.disk.crash_with(CrashProfile::LoseAll, 0);
    let oracle = life.oracle.lock().unwrap();
    recover_and_go_on(&life.disk, life.flavor, &oracle, &|| "at the end".to_owned());
    drop(oracle);
    life.account
}

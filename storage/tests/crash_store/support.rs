//! A store of two tables over a simulated disk, what it should hold, and which of its checkpoints a crash may leave.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use thalweg_storage::io::{Completion, CrashProfile, Disk, DiskHandle, OpKind, OpenMode, Request, SimDisk};
use thalweg_storage::manifest;
use thalweg_storage::store::{BackendChoice, Progress, Store, StoreOptions, Table};
use thalweg_storage::{CheckpointId, StoreError};

/// The directory of the store's files.
pub const JOB_DIR: &str = "/data/store";

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Flavor {
    pub backend: BackendChoice,
    /// Most bytes of pages in memory per table, where the backend has such a limit.
    pub memory_bytes: Option<usize>,
    pub retained: usize,
}

pub struct State {
    pub counts: Table<u64, u64>,
    pub names: Table<String, String>,
}
thalweg_storage::tables!(State { counts, names });

/// What the tables should hold.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub counts: BTreeMap<u64, u64>,
    pub names: BTreeMap<String, String>,
}

pub fn new_disk() -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let handle = DiskHandle::new(disk.clone());
    handle.create_dir("/data").wait().unwrap();
    handle.sync_dir("/").wait().unwrap();
    disk
}

pub fn open(disk: Arc<dyn Disk>, flavor: Flavor) -> Result<Store<State>, StoreError> {
    let mut options = StoreOptions::new("/data")
        .disk(DiskHandle::new(disk))
        .without_lock()
        .clock(|| 0)
        .key_groups(4)
        .segment_bytes(2_000)
        .backend(flavor.backend)
        .retained(flavor.retained);
    if let Some(bytes) = flavor.memory_bytes {
        options = options.memory_bytes(bytes);
    }
    Store::open(options, |tables| State { counts: tables.value("counts"), names: tables.value("names") })
}

pub fn content(store: &mut Store<State>) -> Model {
    let mut model = Model::default();
    let state = store.tables();
    state.counts.for_each(|key, value| assert_eq!(model.counts.insert(*key, *value), None));
    state.names.for_each(|key, value| assert_eq!(model.names.insert(key.clone(), value.clone()), None));
    assert_eq!((state.counts.len(), state.names.len()), (model.counts.len(), model.names.len()));
    model
}

/// The generator splitmix64 (Steele, Lea and Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    pub fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn text(&mut self) -> String {
        let bytes = match self.below(200) {
            0 => 40_000,
            1..40 => self.below(1_000),
            _ => self.below(20),
        };
        "abcdefghijklmnop".chars().cycle().skip(self.below(16)).take(bytes).collect()
    }
}

/// Changes `store` and `model` alike, by `steps` random calls on `keys` keys.
pub fn change(random: &mut Random, store: &mut Store<State>, model: &mut Model, keys: usize, steps: usize) {
    for _ in 0..steps {
        let State { counts, names } = store.tables();
        let key = random.below(keys) as u64;
        match random.below(12) {
            0..3 => {
                let value = random.next();
                counts.insert(&key, value);
                model.counts.insert(key, value);
            }
            3..5 => {
                counts.update(&key, || 1, |value| *value = value.wrapping_mul(31));
                let value = model.counts.entry(key).or_insert(1);
                *value = value.wrapping_mul(31);
            }
            5 => {
                let batch: Vec<u64> = (0..20).map(|_| random.below(keys) as u64).collect();
                counts.update_batch(&batch, |i| i as u64, |i, value| *value += i as u64).unwrap();
                for (i, key) in batch.iter().enumerate() {
                    *model.counts.entry(*key).or_insert(i as u64) += i as u64;
                }
            }
            6 | 7 => assert_eq!(counts.remove(&key), model.counts.remove(&key).is_some()),
            8 | 9 => {
                let (key, value) = (format!("{key:b}"), random.text());
                names.insert(&key, value.clone());
                model.names.insert(key, value);
            }
            10 => {
                let key = format!("{key:b}");
                let push = |value: &mut String| value.push('+');
                names.update(&key, String::new, push);
                push(model.names.entry(key).or_default());
            }
            _ => {
                let key = format!("{key:b}");
                assert_eq!(names.get(&key), model.names.get(&key).cloned());
                assert_eq!(names.remove(&key), model.names.remove(&key).is_some());
            }
        }
    }
}

/// Knows every checkpoint that was begun, and which of them a crash may leave as the latest.
#[derive(Clone, Default)]
pub struct Oracle {
    /// The tables at the begin of each checkpoint.
    held: BTreeMap<CheckpointId, Arc<Model>>,
    /// The newest checkpoint that is known to be durable.
    pub acknowledged: Option<CheckpointId>,
    /// Newer ones that may turn out complete: under way, or of unknown outcome.
    possible: BTreeSet<CheckpointId>,
}

impl Oracle {
    pub fn begun(&mut self, id: CheckpointId, model: &Model) {
        let newest = self.held.last_key_value().map(|(id, _)| *id);
        assert!(Some(id) > newest, "checkpoint {id} comes after {newest:?}");
        self.held.insert(id, Arc::new(model.clone()));
        self.possible.insert(id);
    }

    pub fn acknowledged(&mut self, id: CheckpointId) {
        self.acknowledged = Some(id);
        self.possible.retain(|possible| *possible > id);
    }

    pub fn failed(&mut self, id: CheckpointId, error: &StoreError) {
        if !matches!(error, StoreError::OutcomeUnknown { .. }) {
            self.possible.remove(&id);
        }
    }

    pub fn cancelled(&mut self, id: CheckpointId) {
        self.possible.remove(&id);
    }

    /// Panics unless `recovered` is a checkpoint that a crash may have left, and `content` is what it held.
    pub fn check(&self, recovered: Option<CheckpointId>, content: &Model, context: &dyn Fn() -> String) {
        assert!(
            recovered == self.acknowledged || recovered.is_some_and(|id| self.possible.contains(&id)),
            "recovered {recovered:?}, but {:?} was acknowledged and {:?} possible: {}",
            self.acknowledged,
            self.possible,
            context()
        );
        let empty = Model::default();
        let held = recovered.map_or(&empty, |id| &*self.held[&id]);
        if content != held {
            let counts = difference(&content.counts, &held.counts);
            let names = difference(&content.names, &held.names);
            panic!("checkpoint {recovered:?} is not what it held: {counts} {names}: {}", context());
        }
    }

    /// What [`Oracle::check`] goes by, without what checkpoints held.
    pub fn verdicts(&self) -> (Option<CheckpointId>, &BTreeSet<CheckpointId>) {
        (self.acknowledged, &self.possible)
    }
}

/// The first entries in which two maps differ.
fn difference<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) -> String {
    let wrong = found.iter().filter(|(k, v)| expected.get(k) != Some(v)).map(|(k, v)| (k, Some(v)));
    let missing = expected.keys().filter(|k| !found.contains_key(k)).map(|k| (k, None));
    let wrong: Vec<_> = wrong.chain(missing).collect();
    let mut shown = format!("{wrong:?}");
    shown.truncate(200);
    format!("{} wrong of {}: {shown}", wrong.len(), expected.len())
}

/// The manifests on a disk, by the directory they are in.
pub fn manifests(disk: &SimDisk) -> Vec<(PathBuf, manifest::Manifest)> {
    let files = disk.files().into_iter().filter(|path| path.ends_with("MANIFEST"));
    let read = |path: PathBuf| {
        let manifest = manifest::decode(&path, &disk.read_file(&path).unwrap()).unwrap();
        (path, manifest)
    };
    files.filter(|path| path.starts_with(JOB_DIR)).map(read).collect()
}

/// Panics when a file is there that no manifest names.
pub fn check_leaks(disk: &SimDisk, context: &dyn Fn() -> String) {
    let manifests = manifests(disk);
    let mut named: BTreeSet<PathBuf> = manifests.iter().map(|(path, _)| path.clone()).collect();
    for (_, manifest) in &manifests {
        named.extend(manifest.files().map(|file| Path::new(JOB_DIR).join(file)));
    }
    let files = disk.files().into_iter().filter(|path| path.starts_with(JOB_DIR)).collect();
    let leaked: Vec<_> = BTreeSet::difference(&files, &named).collect();
    assert!(leaked.is_empty(), "leaked {leaked:?}: {}", context());
    let missing: Vec<_> = named.difference(&files).collect();
    assert!(missing.is_empty(), "missing {missing:?}: {}", context());
}

/// Equal for disks that hold the same; all paths and bytes count, empty directories as well.
pub fn fingerprint(disk: &Arc<SimDisk>, extra: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    extra.hash(&mut hasher);
    let handle = DiskHandle::new(disk.clone());
    let mut dirs = vec![PathBuf::from("/")];
    while let Some(dir) = dirs.pop() {
        let mut entries = handle.list(&dir).wait().unwrap();
        entries.sort_unstable();
        for entry in entries {
            let path = dir.join(&entry.name);
            path.hash(&mut hasher);
            if entry.is_dir {
                dirs.push(path);
            } else {
                disk.read_file(&path).unwrap().hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

/// How many times a test runs, by `THALWEG_RUNS`.
pub fn runs() -> usize {
    std::env::var("THALWEG_RUNS").map_or(1, |runs| runs.parse().expect("THALWEG_RUNS is a number"))
}

/// `count` seeds, or the one in `THALWEG_SEED`.
pub fn seeds(count: usize) -> Vec<u64> {
    match std::env::var("THALWEG_SEED") {
        Ok(seed) => vec![seed.parse().expect("THALWEG_SEED is a number")],
        Err(_) => (1..=(count * runs()) as u64).collect(),
    }
}

/// Recovers `disk`, which a crash has left; twice, with another crash in between; goes on working, and recovers that.
/// Returns what was recovered.
pub fn recover_and_go_on(
    disk: &Arc<SimDisk>,
    flavor: Flavor,
    oracle: &Oracle,
    context: &dyn Fn() -> String,
) -> Option<CheckpointId> {
    let reopen = |what: &str| {
        let store = open(disk.clone(), flavor);
        store.unwrap_or_else(|error| panic!("{what}: {error}: {}", context()))
    };
    let mut store = reopen("first recovery");
    let recovered = store.latest();
    let mut model = content(&mut store);
    oracle.check(recovered, &model, context);
    drop(store);

    // Whoever saw it recovered has acted on it: now it is durable, even if it was not when the crash came.
    disk.crash_with(CrashProfile::LoseAll, 0);
    let mut store = reopen("second recovery");
    assert_eq!(store.latest(), recovered, "a second recovery gives the same: {}", context());
    assert!(content(&mut store) == model, "a second recovery gives the same: {}", context());
    drop(store);
    check_leaks(disk, context);

    let mut store = reopen("third recovery");
    change(&mut Random(7), &mut store, &mut model, 60, 40);
    let id = store.checkpoint().unwrap_or_else(|error| panic!("working on: {error}: {}", context()));
    assert!(Some(id) > oracle.held.last_key_value().map(|(id, _)| *id), "no id comes twice: {}", context());
    drop(store);
    assert!(manifests(disk).len() <= flavor.retained, "only as many are retained as asked: {}", context());
    disk.crash_with(CrashProfile::LoseAll, 0);
    let mut store = reopen("recovery of what came after");
    assert_eq!(store.latest(), Some(id), "{}", context());
    assert!(content(&mut store) == model, "what came after is recovered: {}", context());
    drop(store);
    check_leaks(disk, context);
    recovered
}

/// Takes a checkpoint in slices, with changes in between where `keys` are given, and tells the oracle what it must know.
pub fn take_checkpoint(
    store: &mut Store<State>,
    model: &mut Model,
    oracle: &Mutex<Oracle>,
    random: &mut Random,
    keys: Option<usize>,
) -> Result<CheckpointId, StoreError> {
    while store.maintain(64)? {}
    let id = store.begin_checkpoint()?;
    oracle.lock().unwrap().begun(id, model);
    loop {
        match store.advance(16) {
            Ok(Progress::Completed(completed)) => {
                assert_eq!(completed, id);
                oracle.lock().unwrap().acknowledged(id);
                return Ok(id);
            }
            Ok(Progress::Waits) => store.wait(),
            Ok(Progress::More) => {}
            Ok(Progress::Idle) => panic!("checkpoint {id} has ended unsaid"),
            Err(error) => {
                oracle.lock().unwrap().failed(id, &error);
                return Err(error);
            }
        }
        if let Some(keys) = keys {
            change(random, store, model, keys, 3);
            store.maintain(8)?;
        }
    }
}

/// A simulated disk with somebody who looks at it after each operation that may have changed it.
pub struct Watched {
    pub disk: Arc<SimDisk>,
    look: Mutex<Look>,
}

type Look = Box<dyn FnMut(&SimDisk, OpKind) + Send>;

impl Watched {
    pub fn new(disk: Arc<SimDisk>, look: impl FnMut(&SimDisk, OpKind) + Send + 'static) -> Arc<Self> {
        Arc::new(Watched { disk, look: Mutex::new(Box::new(look)) })
    }
}

impl Disk for Watched {
    fn submit(&self, request: Request, done: Completion) {
        let kind = OpKind::of(&request);
        let changes = match &request {
            Request::Open { mode, .. } => *mode == OpenMode::CreateNew,
            _ => !matches!(kind, OpKind::Read | OpKind::Length | OpKind::Close | OpKind::List),
        };
        self.disk.submit(request, done);
        if changes {
            (self.look.lock().unwrap())(&self.disk, kind);
        }
    }
}

//! Incremental checkpoints of keyed state: small, exact after failed ones, and bounded in number of files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use thalweg::config::StateBackend;
use thalweg::connector::{CollectSink, Ingress, PushSource};
use thalweg::coordinator::CheckpointOutcome;
use thalweg::job::EngineBuilder;
use thalweg::operator::Collector;
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{Dataflow, Engine, JobHandle};
use thalweg_tests::support::{GatedSink, newest_manifest, small_engine, wait_until};

const KEYS: u64 = 120_000;

const SET: u8 = 0;
const CLEAR: u8 = 1;
const READ: u8 = 2;

/// What to do, the key, the value.
type Order = (u8, u64, u64);

/// A store of values by key that obeys orders: `READ` emits the key and its value, plus one, or zero for none.
struct Store {
    ingress: Ingress<Order>,
    answers: CollectSink<(u64, u64)>,
    stall: GatedSink<Order>,
    job: JobHandle,
    pushed: u64,
    _engine: Engine,
}

impl Store {
    fn start(builder: EngineBuilder) -> Store {
        let engine = builder.build().unwrap();
        let (ingress, source) = PushSource::channel(10_000);
        let answers = CollectSink::new();
        let stall = GatedSink::open();
        let flow = Dataflow::new("store");
        let orders = flow.source("orders", source).share();
        orders
            .stream()
            .key_by(|order: &Order| order.1)
            .process(
                "values",
                ValueStateDescriptor::<u64>::new("value"),
                |key: &u64,
                 (what, _, value): Order,
                 mut state: ValueState<'_, u64, u64>,
                 out: &mut Collector<(u64, u64)>| {
                    match what {
                        SET => state.update(value),
                        CLEAR => state.clear(),
                        _ => out.collect((*key, state.value().map_or(0, |value| value + 1))),
                    }
                    Ok(())
                },
            )
            .sink("answers", answers.clone());
        orders.stream().filter("none", |_: &Order| false).sink("stall", stall.clone());
        let job = engine.run(flow).unwrap();
        Store { ingress, answers, stall, job, pushed: 0, _engine: engine }
    }

    fn push(&mut self, orders: impl IntoIterator<Item = Order>) {
        for order in orders {
            self.ingress.push(order).unwrap();
            self.pushed += 1;
        }
    }

    /// Waits until everything pushed so far has reached the state.
    fn settle(&self) {
        wait_until("all orders are obeyed", || {
            let tasks = self.job.metrics().tasks;
            tasks.iter().filter(|t| t.name.starts_with("values")).map(|t| t.records_in).sum::<u64>()
                == self.pushed
        });
    }

    /// Sets `keys` to `value` plus the key, here and in `mirror`.
    fn set(&mut self, mirror: &mut BTreeMap<u64, u64>, keys: impl Iterator<Item = u64> + Clone, value: u64) {
        self.push(keys.clone().map(|key| (SET, key, value + key)));
        mirror.extend(keys.map(|key| (key, value + key)));
        self.settle();
    }

    fn clear(&mut self, mirror: &mut BTreeMap<u64, u64>, keys: impl Iterator<Item = u64> + Clone) {
        self.push(keys.clone().map(|key| (CLEAR, key, 0)));
        keys.for_each(|key| _ = mirror.remove(&key));
        self.settle();
    }

    fn assert_holds(&mut self, mirror: &BTreeMap<u64, u64>) {
        self.push((0..KEYS).map(|key| (READ, key, 0)));
        self.settle();
        wait_until("all answers are there", || self.answers.collected().len() as u64 == KEYS);
        let found: BTreeMap<u64, u64> =
            self.answers.take().into_iter().filter(|(_, v)| *v > 0).map(|(k, v)| (k, v - 1)).collect();
        assert_eq!(found.len(), mirror.len(), "number of keys with a value");
        assert!(found == *mirror, "values differ");
    }

    /// Bytes of state that the latest checkpoint wrote, once it has completed.
    fn checkpoint(&self) -> u64 {
        // With a short timeout, a slow disk may need another try.
        wait_until("a checkpoint completes", || self.job.checkpoint().is_ok());
        self.job.metrics().checkpoints.history.back().unwrap().state_bytes
    }
}

fn builder(dir: &TempDir, backend: StateBackend) -> EngineBuilder {
    small_engine().state_backend(backend).checkpoint_dir(dir.path()).tolerable_failed_checkpoints(100)
}

fn segments(dir: &TempDir) -> Vec<PathBuf> {
    files_of(&dir.path().join("store/shared"))
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn bytes_of(files: &[PathBuf]) -> u64 {
    files.iter().map(|file| file.metadata().unwrap().len()).sum()
}

/// Every hundredth key.
fn one_percent(offset: u64) -> impl Iterator<Item = u64> + Clone {
    (offset..KEYS).step_by(100)
}

/// Each test runs on each backend.
macro_rules! on_both_backends {
    ($($test:ident)*) => {
        mod on_hash_maps {
            $(#[test]
            fn $test() {
                super::$test(thalweg::config::StateBackend::HashMap);
            })*
        }
        mod on_logs {
            $(#[test]
            fn $test() {
                super::$test(thalweg::config::StateBackend::Log);
            })*
        }
    };
}

on_both_backends! {
    many_checkpoints_keep_few_files_and_as_many_checkpoints_as_are_retained
    a_checkpoint_after_a_change_of_one_percent_writes_in_proportion_and_restores_exactly
    without_incremental_checkpoints_each_writes_everything
    deletes_survive_a_restore
    a_checkpoint_that_expired_after_writing_its_state_loses_nothing_from_the_next
    a_checkpoint_whose_state_could_not_be_written_loses_nothing_from_the_next
}

fn a_checkpoint_after_a_change_of_one_percent_writes_in_proportion_and_restores_exactly(
    backend: StateBackend,
) {
    let dir = TempDir::new().unwrap();
    let mut mirror = BTreeMap::new();
    let mut store = Store::start(builder(&dir, backend));
    store.set(&mut mirror, 0..KEYS, 1_000_000);
    let full = store.checkpoint();
    let before = segments(&dir);
    assert!(
        bytes_of(&before).abs_diff(full) < full / 10,
        "{full} bytes are reported, the disk has another number"
    );
    store.set(&mut mirror, one_percent(7), 5_000_000);
    let changed = store.checkpoint();
    let new: Vec<PathBuf> = segments(&dir).into_iter().filter(|file| !before.contains(file)).collect();
    assert!(!new.is_empty() && bytes_of(&new) < full / 10, "{} of {full} bytes", bytes_of(&new));
    assert!(changed < full / 10, "{changed} of {full} bytes");
    let unchanged = store.checkpoint();
    assert!(unchanged < full / 100, "{unchanged} of {full} bytes, although nothing has changed");
    drop(store);
    Store::start(builder(&dir, backend)).assert_holds(&mirror);
}

fn without_incremental_checkpoints_each_writes_everything(backend: StateBackend) {
    let dir = TempDir::new().unwrap();
    let mut mirror = BTreeMap::new();
    let mut store = Store::start(builder(&dir, backend).incremental_checkpoints(false));
    store.set(&mut mirror, 0..KEYS, 1);
    let full = store.checkpoint();
    store.set(&mut mirror, one_percent(0), 2);
    assert!(store.checkpoint() > full / 10 * 9);
    drop(store);
    Store::start(builder(&dir, backend).incremental_checkpoints(false)).assert_holds(&mirror);
}

fn deletes_survive_a_restore(backend: StateBackend) {
    let dir = TempDir::new().unwrap();
    let mut mirror = BTreeMap::new();
    let mut store = Store::start(builder(&dir, backend));
    store.set(&mut mirror, 0..KEYS, 1);
    store.checkpoint();
    store.clear(&mut mirror, one_percent(0));
    store.clear(&mut mirror, one_percent(50));
    store.checkpoint();
    store.set(&mut mirror, one_percent(50), 9);
    store.checkpoint();
    drop(store);
    let mut store = Store::start(builder(&dir, backend));
    store.assert_holds(&mirror);
    // What was deleted stays so over a checkpoint that builds on the restored one.
    store.clear(&mut mirror, one_percent(51));
    store.checkpoint();
    drop(store);
    Store::start(builder(&dir, backend)).assert_holds(&mirror);
}

fn a_checkpoint_that_expired_after_writing_its_state_loses_nothing_from_the_next(backend: StateBackend) {
    let dir = TempDir::new().unwrap();
    let mut mirror = BTreeMap::new();
    let mut store = Store::start(builder(&dir, backend).checkpoint_timeout(Duration::from_secs(4)));
    store.set(&mut mirror, 0..KEYS, 1);
    let full = store.checkpoint();
    store.set(&mut mirror, one_percent(1), 2);
    store.stall.hold_prepared(true);
    let refusal = store.job.checkpoint().unwrap_err().to_string();
    assert!(refusal.contains("expired"), "{refusal}");
    store.stall.hold_prepared(false);
    store.set(&mut mirror, one_percent(2), 3);
    store.clear(&mut mirror, one_percent(3));
    store.set(&mut mirror, one_percent(4), 4);
    let changed = store.checkpoint();
    assert!(changed < full / 5, "{changed} of {full} bytes: still a delta");
    assert!(store.job.metrics().checkpoints.failed > 0);
    drop(store);
    Store::start(builder(&dir, backend)).assert_holds(&mirror);
}

fn a_checkpoint_whose_state_could_not_be_written_loses_nothing_from_the_next(backend: StateBackend) {
    let dir = TempDir::new().unwrap();
    let mut mirror = BTreeMap::new();
    let mut store = Store::start(builder(&dir, backend));
    store.set(&mut mirror, 0..KEYS, 1);
    store.checkpoint();
    store.set(&mut mirror, one_percent(1), 2);
    store.clear(&mut mirror, one_percent(2));
    // The directory of segments is away for a while.
    let (shared, away) = (dir.path().join("store/shared"), dir.path().join("away"));
    fs::rename(&shared, &away).unwrap();
    let refusal = store.job.checkpoint().unwrap_err().to_string();
    assert!(refusal.contains("shared") && refusal.contains("No such file"), "{refusal}");
    fs::rename(&away, &shared).unwrap();
    let history = store.job.metrics().checkpoints.history;
    assert!(matches!(&history.back().unwrap().outcome, CheckpointOutcome::Failed(_)));
    store.set(&mut mirror, one_percent(3), 3);
    store.checkpoint();
    drop(store);
    Store::start(builder(&dir, backend)).assert_holds(&mirror);
}

fn many_checkpoints_keep_few_files_and_as_many_checkpoints_as_are_retained(backend: StateBackend) {
    const CHECKPOINTS: u64 = 150;
    let dir = TempDir::new().unwrap();
    let mut mirror = BTreeMap::new();
    let mut store = Store::start(builder(&dir, backend).retained_checkpoints(3));
    store.set(&mut mirror, 0..KEYS, 1);
    store.checkpoint();
    let first = segments(&dir);
    let mut most = 0;
    for round in 0..CHECKPOINTS {
        store.set(&mut mirror, (round..KEYS).step_by(1000), 10 * round);
        store.checkpoint();
        most = most.max(segments(&dir).len());
    }
    let job_dir = dir.path().join("store");
    let manifests = files_of(&job_dir).into_iter().filter(|path| path.join("MANIFEST").exists()).count();
    assert_eq!(manifests, 3, "as many checkpoints as are retained");
    // A chain has at most one segment for each of a group's 128 deltas, on each of two workers, plus the retained.
    assert!(most <= 2 * (128 + 3), "{most} segments at most");
    let left = segments(&dir);
    // Hash maps write a base again once its deltas exceed it; logs keep a segment while much of it still counts.
    assert!(
        backend == StateBackend::Log || first.iter().all(|file| !left.contains(file)),
        "the first checkpoint's segments have been replaced"
    );
    let named = newest_manifest(&job_dir).files().count();
    assert!(
        left.len() <= named + 2 * 3,
        "{} files, of which the newest checkpoint names {named}",
        left.len()
    );
    drop(store);
    Store::start(builder(&dir, backend)).assert_holds(&mirror);
}

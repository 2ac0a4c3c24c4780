//! Claims about a table whose pages do not all fit memory: it is the table it would be in memory, whatever the disk does.

use crate::codec::Data;
use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::{DiskHandle, Fault, OpKind, SimDisk, StdDisk};
use crate::log::LogOptions;
use crate::log::tests::job::{Job, Sample};
use crate::segment::SegmentBuilder;
use crate::table::{GroupPlan, StateTable, Written};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const DIR: &str = "/job";

fn options(disk: &DiskHandle, dir: &Path, memory_bytes: usize) -> LogOptions {
    disk.create_dir_all(dir.join("shared")).unwrap();
    LogOptions {
        disk: Some(disk.clone()),
        job_dir: Some(dir.to_owned()),
        scratch: Some(dir.join("shared/scratch-a1-0-0")),
        memory_bytes: Some(memory_bytes),
    }
}

const BUDGET: usize = 256 << 10;

/// A table of two groups with a budget of sixteen pages, on a simulated disk; with so many keys in a completed checkpoint.
fn filled(keys: u64) -> (Arc<SimDisk>, Job<u64, u64>) {
    let sim = SimDisk::new();
    let disk = DiskHandle::new(Arc::clone(&sim) as _);
    let mut job = Job::with(2, options(&disk, Path::new(DIR), BUDGET));
    fill(&mut job, keys);
    (sim, job)
}

fn fill(job: &mut Job<u64, u64>, keys: u64) {
    for key in 0..keys {
        if key % 1_000 == 0 {
            job.maintain(100);
        }
        job.put(key, key);
    }
    if keys > 0 {
        job.checkpoint();
        job.maintain(100);
    }
}

fn hashes(job: &Job<u64, u64>, keys: &[u64]) -> Vec<u64> {
    keys.iter().map(|key| key.group_hash(job.groups)).collect()
}

/// Bytes of pages in memory.
fn used(job: &Job<u64, u64>) -> usize {
    job.table.log.pages.used_bytes()
}

/// The segments' files on the disk.
fn segment_files(sim: &SimDisk) -> Vec<PathBuf> {
    sim.files().into_iter().filter(|path| path.to_string_lossy().contains("seg-")).collect()
}

#[test]
fn a_state_of_ten_times_its_memory_is_read_and_changed_within_the_budget() {
    let (_sim, mut job) = filled(150_000);
    assert!(used(&job) <= BUDGET);
    let blocking = job.table.stats().page_reads_blocking;
    for round in 0..60u64 {
        let keys: Vec<u64> = (0..200).map(|i| (i * i * 7 + round * 7_919) % 150_000).collect();
        let mut left = &keys[..];
        while !left.is_empty() {
            let fits = job.table.announce(hashes(&job, left).into_iter());
            while !job.table.ready().unwrap() {}
            left[..fits].iter().for_each(|key| job.update(*key, *key, round));
            // Beside the budget there are one open page in each group, and what was announced.
            assert!(used(&job) <= BUDGET + BUDGET / 2 + 2 * (16 << 10), "{} bytes", used(&job));
            left = &left[fits..];
        }
        job.maintain(100);
        if round % 20 == 19 {
            job.checkpoint();
        }
    }
    let stats = job.table.stats();
    assert_eq!(stats.page_reads_blocking, blocking, "whatever was announced was there");
    assert!(stats.page_reads > 1_000, "{stats:?}");
    job.check_present();
    job.check_latest();
}

#[test]
fn the_reads_of_a_batch_are_under_way_together_and_none_twice() {
    let (sim, mut job) = filled(150_000);
    let keys: Vec<u64> = (0..6).map(|i| i * 20_011).collect();
    // Opens files.
    job.table.announce(hashes(&job, &[1, 2, 3]).into_iter());
    while !job.table.ready().unwrap() {}
    sim.set_deferred(true);
    let fits = job.table.announce(hashes(&job, &keys).into_iter());
    assert_eq!(fits, 6);
    let pending = sim.pending();
    assert!(pending.len() >= 3 && pending.iter().all(|kind| *kind == OpKind::Read), "{pending:?}");
    assert!(!job.table.ready().unwrap());
    // A barrier came in between, and the batch is announced again.
    assert_eq!(job.table.announce(hashes(&job, &keys).into_iter()), 6);
    assert_eq!(sim.pending().len(), pending.len(), "reads under way are not begun again");
    sim.complete_all();
    assert!(job.table.ready().unwrap());
    sim.set_deferred(false);
    let before = job.table.stats();
    keys.iter().for_each(|key| assert_eq!(job.table.get(key.group_hash(job.groups), key), Some(*key)));
    assert_eq!(job.table.stats(), before);
}

#[test]
fn a_batch_that_needs_more_than_half_of_the_budget_is_cut() {
    let (_sim, mut job) = filled(150_000);
    let keys: Vec<u64> = (0..1_000).map(|i| i * 149).collect();
    let fits = job.table.announce(hashes(&job, &keys).into_iter());
    assert!((8..1_000).contains(&fits), "{fits}");
    while !job.table.ready().unwrap() {}
    assert!(used(&job) <= BUDGET + 2 * (16 << 10));
}

#[test]
fn churn_without_checkpoints_goes_to_the_scratch_file_and_comes_back() {
    let (sim, mut job) = filled(0);
    for key in 0..60_000u64 {
        if key % 500 == 0 {
            job.maintain(100);
        }
        job.put(key, key);
    }
    (0..100).for_each(|_| job.maintain(100));
    assert!(used(&job) <= BUDGET + 2 * (16 << 10), "{} bytes", used(&job));
    assert!(sim.op_log().iter().filter(|op| op.kind == OpKind::Write).count() >= 30);
    job.check_present();
    assert!(!sim.op_log().iter().any(|op| op.kind == OpKind::SyncData), "scratch files are never synced");
    // The snapshot reads back what only the scratch file has.
    job.checkpoint();
    job.check_latest();
    let files = segment_files(&sim);
    job.fail_over();
    assert_eq!(segment_files(&sim), files);
    job.check_present();
}

#[test]
fn a_full_disk_stops_nothing_while_memory_lasts() {
    let (sim, mut job) = filled(0);
    (0..20).for_each(|_| sim.fail_next(OpKind::Write, Fault::NoSpace));
    for key in 0..60_000u64 {
        if key % 500 == 0 {
            job.maintain(100);
        }
        job.put(key, key);
    }
    assert!(used(&job) > 2 * BUDGET);
    sim.disarm();
    job.checkpoint();
    job.maintain(100);
    assert!(used(&job) <= BUDGET, "{} bytes", used(&job));
    job.check_present();
}

#[test]
fn a_savepoint_of_cold_state_waits_for_its_reads_and_never_blocks() {
    let (sim, mut job) = filled(100_000);
    job.begin(true);
    job.put(3, 1);
    let blocking = job.table.stats().page_reads_blocking;
    let before = used(&job);
    let mut waited = 0;
    sim.set_deferred(true);
    while job.is_writing() {
        job.advance(2_000);
        waited += usize::from(!sim.pending().is_empty());
        assert!(used(&job) <= before.max(BUDGET) + 3 * (16 << 10));
        sim.complete_next(0);
        // Files are written and closed by calls that wait.
        sim.set_deferred(job.is_writing());
    }
    sim.set_deferred(false);
    sim.complete_all();
    assert!(waited > 50, "{waited}");
    assert_eq!(job.table.stats().page_reads_blocking, blocking);
    job.complete(0);
}

#[test]
fn a_snapshot_that_has_to_be_finished_at_once_reads_cold_pages_within_the_call() {
    let (sim, mut job) = filled(100_000);
    let blocking = job.table.stats().page_reads_blocking;
    let epoch = job.table.begin_snapshot(0, &[GroupPlan::Base; 2]);
    let (id, meta) = (CheckpointId(1_000), [job.table.meta()]);
    let mut out = SegmentBuilder::new("shared/seg-at-once", id, AttemptId(1), job.groups, 0..2, &meta, 1);
    let (mut written, finished) = (Written::More, AtomicBool::new(false));
    sim.set_deferred(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !finished.load(Ordering::Acquire) {
                sim.complete_next(0);
                std::thread::yield_now();
            }
        });
        while !matches!(written, Written::Done | Written::Waits) {
            written = job.table.advance_snapshot(&mut out, usize::MAX);
        }
        finished.store(true, Ordering::Release);
    });
    sim.set_deferred(false);
    sim.complete_all();
    assert_eq!(written, Written::Done);
    assert!(job.table.stats().page_reads_blocking > blocking);
    assert!(out.raw_bytes() >= 100_000 * 16, "all rows are there: {} bytes", out.raw_bytes());
    job.table.aborted(epoch);
}

#[test]
fn damage_to_a_segment_is_told_by_file_and_offset_and_is_no_wrong_value() {
    let (sim, mut job) = filled(150_000);
    let files = segment_files(&sim);
    for path in &files {
        // Blocks are smaller than this, so each is hit.
        let bytes = sim.read_file(path).unwrap().len() as u64;
        (100..bytes).step_by(1_000).for_each(|at| sim.corrupt(path, at, 4).unwrap());
    }
    let keys: Vec<u64> = (0..6).map(|i| i * 20_011).collect();
    job.table.announce(hashes(&job, &keys).into_iter());
    match job.table.ready() {
        Err(StoreError::Corrupt { path, .. }) => assert!(files.contains(&path)),
        other => panic!("{other:?}"),
    }
    // The other pages were read as well, and are no better.
    while job.table.ready().is_err() {}
    for path in &files {
        let bytes = sim.read_file(path).unwrap().len() as u64;
        (100..bytes).step_by(1_000).for_each(|at| sim.corrupt(path, at, 4).unwrap());
    }
    job.check_present();
}

#[test]
#[should_panic(expected = "state cannot be read back: opening /job/shared/seg-")]
fn a_key_that_nobody_announced_and_that_cannot_be_read_fails_the_task() {
    let (sim, mut job) = filled(150_000);
    let disk = DiskHandle::new(Arc::clone(&sim) as _);
    segment_files(&sim).iter().for_each(|path| disk.rename(path, "/job/elsewhere").wait().unwrap());
    job.table.log.close_all_files();
    (0..150_000).for_each(|key: u64| _ = job.table.get(key.group_hash(job.groups), &key));
}

#[test]
fn state_restored_from_the_files_of_others_is_read_from_there_until_a_checkpoint_has_it() {
    let (sim, mut job) = filled(100_000);
    job.fail_over();
    job.maintain(100);
    job.table.detach();
    let foreign = segment_files(&sim);
    job.check_present();
    job.checkpoint();
    let disk = DiskHandle::new(Arc::clone(&sim) as _);
    foreign.iter().for_each(|path| assert!(!disk.exists(path).unwrap(), "nothing names {path:?} any more"));
    job.check_present();
    job.check_latest();
}

#[derive(Clone, Debug)]
enum Op {
    Put(u32, u32),
    Update(u32),
    Remove(u32),
    /// Many keys from here on: put, or removed.
    Sweep(u32, u32, bool),
    /// A batch: these keys are announced, maybe twice as a barrier comes in between, and then updated.
    Batch {
        first: u32,
        step: u32,
        count: u32,
        again: bool,
        fails: bool,
    },
    Begin(bool),
    Advance(usize),
    Complete(usize),
    Abort(usize),
    Maintain,
    FullDisk,
    FailOver,
}

fn ops(keys: u32, count: usize) -> impl Strategy<Value = Vec<Op>> {
    let batch = (0..keys, 1..keys, 1..200u32, any::<bool>(), prop::bool::weighted(0.1))
        .prop_map(|(first, step, count, again, fails)| Op::Batch { first, step, count, again, fails });
    let op = prop_oneof![
        8 => (0..keys, any::<u32>()).prop_map(|(key, value)| Op::Put(key, value)),
        8 => (0..keys).prop_map(Op::Update),
        8 => (0..keys).prop_map(Op::Remove),
        6 => (0..keys, 1..keys, prop::bool::weighted(0.7)).prop_map(|(key, count, put)| Op::Sweep(key, count, put)),
        30 => batch,
        10 => prop::bool::weighted(0.15).prop_map(Op::Begin),
        30 => (1..2_000_usize).prop_map(Op::Advance),
        8 => (0..4_usize).prop_map(Op::Complete),
        2 => (0..4_usize).prop_map(Op::Abort),
        8 => Just(Op::Maintain),
        1 => Just(Op::FullDisk),
        1 => Just(Op::FailOver),
    ];
    prop::collection::vec(op, 0..count)
}

/// Waits until what was announced can be used; the error that came instead.
fn wait_ready<K: Sample, V: Sample>(job: &mut Job<K, V>) -> Result<(), StoreError> {
    while !job.table.ready()? {
        std::thread::yield_now();
    }
    Ok(())
}

/// Uses a batch as an operator does: announces, waits, uses what fits, and announces the rest.
fn batch<K: Sample, V: Sample>(job: &mut Job<K, V>, keys: &[u32], again: bool) -> Result<(), StoreError> {
    let mut left: Vec<K> = keys.iter().map(|key| K::sample(*key)).collect();
    while !left.is_empty() {
        let hashes: Vec<u64> = left.iter().map(|key| key.group_hash(job.groups)).collect();
        if again {
            job.table.announce(hashes.iter().copied());
        }
        let fits = job.table.announce(hashes.iter().copied());
        assert!((1..=left.len()).contains(&fits));
        wait_ready(job)?;
        let before = job.table.stats().page_reads_blocking;
        for key in left.drain(..fits) {
            job.update(key, V::sample(7), V::sample(8));
        }
        assert_eq!(job.table.stats().page_reads_blocking, before, "announced keys need no waiting");
    }
    Ok(())
}

fn run<K: Sample, V: Sample>(groups: u16, options: LogOptions, sim: Option<&SimDisk>, ops: Vec<Op>) {
    let mut job = Job::<K, V>::with(groups, options);
    job.table.log.snapshots.settled_pages = Some(3);
    for op in ops {
        match op {
            Op::Put(key, value) => job.put(K::sample(key), V::sample(value)),
            Op::Update(key) => job.update(K::sample(key), V::sample(key), V::sample(key + 1)),
            Op::Remove(key) => job.remove(&K::sample(key)),
            Op::Sweep(start, count, true) => {
                (start..start + count).for_each(|key| job.put(K::sample(key), V::sample(key / 2)));
            }
            Op::Sweep(start, count, false) => {
                (start..start + count).for_each(|key| job.remove(&K::sample(key)));
            }
            Op::Batch { first, step, count, again, fails } => {
                let keys: Vec<u32> = (0..count).map(|i| first + i * step % (first + 1_000)).collect();
                if let (true, Some(sim)) = (fails, sim) {
                    let reads = sim.op_log().len();
                    sim.fail_next(OpKind::Read, Fault::Io);
                    if batch(&mut job, &keys, again).is_err() {
                        batch(&mut job, &keys, again).expect("the error came once");
                    } else {
                        // It needed no read: the fault must not hit a later step.
                        sim.disarm();
                    }
                    assert!(sim.op_log().len() >= reads);
                } else {
                    batch(&mut job, &keys, again).unwrap();
                }
            }
            Op::Begin(full) => job.begin(full),
            Op::Advance(rows) => job.advance(rows),
            Op::Complete(choice) => {
                job.complete(choice);
                job.check_latest();
            }
            Op::Abort(choice) => job.abort(choice),
            Op::Maintain => job.maintain(100),
            Op::FullDisk => {
                if let Some(sim) = sim {
                    sim.fail_next(OpKind::Write, Fault::NoSpace);
                    job.maintain(100);
                    sim.disarm();
                }
            }
            Op::FailOver => {
                job.fail_over();
                job.check_present();
            }
        }
        job.table.log.check_invariants();
    }
    job.check_present();
    job.checkpoint();
    job.check_latest();
    job.fail_over();
    job.check_present();
}

fn on_sim<K: Sample, V: Sample>(groups: u16, memory_bytes: usize, ops: Vec<Op>) {
    let sim = SimDisk::new();
    let disk = DiskHandle::new(Arc::clone(&sim) as _);
    run::<K, V>(groups, options(&disk, Path::new(DIR), memory_bytes), Some(&sim), ops);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn prop_plain_rows_with_a_budget_of_few_pages_equal_a_hash_map(ops in ops(3_000, 120)) {
        on_sim::<u64, u64>(2, 24 << 10, ops);
    }

    #[test]
    fn prop_rows_of_varying_length_with_a_budget_equal_a_hash_map(ops in ops(600, 120)) {
        on_sim::<String, Vec<u8>>(3, 20 << 10, ops);
    }

    #[test]
    fn prop_a_table_whose_budget_holds_nothing_equals_a_hash_map(ops in ops(300, 60)) {
        on_sim::<u64, String>(1, 0, ops);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn prop_a_table_on_a_real_disk_equals_a_hash_map(ops in ops(3_000, 80)) {
        let dir = tempfile::tempdir().unwrap();
        let disk = DiskHandle::new(StdDisk::start(2).unwrap());
        run::<u64, u64>(2, options(&disk, dir.path(), 24 << 10), None, ops);
    }
}

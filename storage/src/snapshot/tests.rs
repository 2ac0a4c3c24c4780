//! Claims about incremental snapshots, against a plain map.

mod job;
mod files;
mod rescale;
mod evolution;
mod faults;

use super::*;
use crate::codec::Data;
use crate::io::{Completion, Disk, FileId, OpenMode, Reply, Request};
use crate::segment::{BlockKind, Rows, SegmentReader};
use crate::table::ValueTable;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Files in memory, by path; only what a restore needs.
#[derive(Default)]
struct MemoryDisk {
    files: Mutex<HashMap<PathBuf, Vec<u8>>>,
    open: Mutex<Vec<PathBuf>>,
}

impl MemoryDisk {
    fn answer(&self, request: Request) -> io::Result<Reply> {
        let files = self.files.lock().expect("no test panics with it");
        let mut open = self.open.lock().expect("no test panics with it");
        let content = |FileId(file): FileId, open: &[PathBuf]| files[&open[file as usize]].as_slice();
        match request {
            Request::Open { path, mode: OpenMode::Read } if files.contains_key(&path) => {
                open.push(path);
                Ok(Reply::File(FileId(open.len() as u64 - 1)))
            }
            Request::Open { .. } => Err(io::ErrorKind::NotFound.into()),
            Request::Length { file } => Ok(Reply::Length(content(file, &open).len() as u64)),
            Request::Read { file, offset, bytes } => {
                // Half of what was asked for, to see that the rest is asked for too.
                let rest = &content(file, &open)[offset as usize..];
                Ok(Reply::Bytes(rest[..rest.len().min(bytes).min(1 + bytes / 2)].to_vec()))
            }
            Request::Close { .. } => Ok(Reply::Done),
            other => Err(io::Error::other(format!("a restore does not ask for {other:?}"))),
        }
    }
}

impl Disk for MemoryDisk {
    fn submit(&self, request: Request, done: Completion) {
        done(self.answer(request));
    }
}

type Content = (BTreeMap<u64, u64>, BTreeMap<String, String>);

const GROUPS: u16 = 8;

/// Two tables, one of fixed and one of varying rows, with their snapshots.
struct Task {
    counts: ValueTable<u64, u64>,
    names: ValueTable<String, String>,
    snapshots: KeyedSnapshots,
}

struct Both<'a>(&'a mut ValueTable<u64, u64>, &'a mut ValueTable<String, String>);

impl Tables for Both<'_> {
    fn count(&self) -> usize {
        2
    }

    fn table(&mut self, index: usize) -> &mut dyn StateTable {
        if index == 0 { self.0 } else { self.1 }
    }
}

impl Task {
    fn new(groups: Range<KeyGroup>, incremental: bool) -> Self {
        let all = KeyGroups::new(GROUPS);
        Task {
            counts: ValueTable::new("counts", all, groups.clone()),
            names: ValueTable::new("names", all, groups.clone()),
            snapshots: KeyedSnapshots::new(groups, incremental, 1),
        }
    }

    fn parts(&mut self) -> (&mut KeyedSnapshots, Both<'_>) {
        (&mut self.snapshots, Both(&mut self.counts, &mut self.names))
    }

    fn metas(&self) -> Vec<KeyedStateMeta> {
        vec![self.counts.meta(), self.names.meta()]
    }

    fn content(&self) -> Content {
        let mut content = Content::default();
        self.counts.for_each(|key, value| _ = content.0.insert(*key, *value));
        self.names.for_each(|key, value| _ = content.1.insert(key.clone(), value.clone()));
        content
    }

    fn begin(&mut self, checkpoint: u64) {
        let (snapshots, mut tables) = self.parts();
        let path = format!("shared/seg-{checkpoint}-{}", snapshots.groups.start);
        snapshots.begin(CheckpointId(checkpoint), AttemptId(1), path, &mut tables);
    }

    /// One step; true when nothing is left.
    fn advance(&mut self, checkpoint: u64, rows: usize, file: &mut Vec<u8>) -> bool {
        let (snapshots, mut tables) = self.parts();
        match snapshots.advance(CheckpointId(checkpoint), &mut tables, rows) {
            Step::More | Step::Waits => false,
            Step::Bytes { bytes, .. } => {
                file.extend_from_slice(&bytes);
                false
            }
            Step::Done => true,
        }
    }

    fn completed(&mut self, checkpoint: u64) {
        let (snapshots, mut tables) = self.parts();
        snapshots.completed(CheckpointId(checkpoint), &mut tables);
    }

    fn aborted(&mut self, checkpoint: u64) {
        let (snapshots, mut tables) = self.parts();
        snapshots.aborted(CheckpointId(checkpoint), &mut tables);
    }

    /// Begins, writes and completes a checkpoint; its segments.
    fn checkpoint(&mut self, checkpoint: u64, disk: &MemoryDisk) -> Vec<SegmentRef> {
        self.begin(checkpoint);
        let mut file = Vec::new();
        while !self.advance(checkpoint, 1_000, &mut file) {}
        let segments = self.keep(checkpoint, file, disk);
        self.completed(checkpoint);
        segments
    }

    /// Puts a written file on the disk; the checkpoint's segments.
    fn keep(&mut self, checkpoint: u64, file: Vec<u8>, disk: &MemoryDisk) -> Vec<SegmentRef> {
        let segments = self.snapshots.segments(CheckpointId(checkpoint)).list();
        let own = format!("shared/seg-{checkpoint}-{}", self.snapshots.groups.start);
        assert_eq!(segments.iter().any(|segment| segment.path == own), !file.is_empty());
        if !file.is_empty() {
            assert_eq!(segments.last().map(|segment| segment.bytes), Some(file.len() as u64));
            disk.files.lock().expect("no test panics with it").insert(Path::new("/job").join(own), file);
        }
        segments
    }

    fn restore(
        groups: Range<KeyGroup>,
        disk: &Arc<MemoryDisk>,
        segments: &[SegmentRef],
    ) -> Result<Self, StoreError> {
        let mut task = Task::new(groups, true);
        let metas = task.metas();
        let (snapshots, mut tables) = task.parts();
        let disk = DiskHandle::new(Arc::clone(disk) as Arc<dyn Disk>);
        snapshots.restore(&disk, Path::new("/job"), segments, &metas, &mut tables)?;
        Ok(task)
    }

    fn set(&mut self, key: u64, value: u64) {
        self.counts.insert(key.key_hash(), &key, value);
        let name = key.to_string();
        self.names.update(name.key_hash(), &name, String::new, |text| *text = value.to_string());
    }

    fn remove(&mut self, key: u64) {
        self.counts.remove(key.key_hash(), &key);
        let name = key.to_string();
        self.names.remove(name.key_hash(), &name);
    }
}

fn within(content: &Content, groups: &Range<KeyGroup>) -> Content {
    let all = KeyGroups::new(GROUPS);
    let counts = content.0.iter().filter(|(key, _)| groups.contains(&all.group_of(key.key_hash())));
    let names = content.1.iter().filter(|(key, _)| groups.contains(&all.group_of(key.key_hash())));
    (counts.map(|(k, v)| (*k, *v)).collect(), names.map(|(k, v)| (k.clone(), v.clone())).collect())
}

#[test]
fn a_delta_holds_only_what_changed() {
    let disk = MemoryDisk::default();
    let mut task = Task::new(0..GROUPS, true);
    for key in 0..20_000 {
        task.set(key, key);
    }
    let base = task.checkpoint(1, &disk)[0].bytes;
    task.set(5, 6);
    let segments = task.checkpoint(2, &disk);
    assert_eq!(segments.len(), 2);
    assert!(segments[1].bytes * 20 < base, "{segments:?}");
}

#[test]
fn an_unchanged_state_writes_no_segment_and_an_empty_one_none_at_all() {
    let disk = MemoryDisk::default();
    let mut task = Task::new(0..GROUPS, true);
    assert_eq!(task.checkpoint(1, &disk), []);
    task.set(1, 1);
    let first = task.checkpoint(2, &disk);
    assert_eq!(first.len(), 1);
    assert_eq!(task.checkpoint(3, &disk), first);
}

#[test]
fn old_segments_leave_the_chain_as_deltas_outgrow_bases() {
    let disk = Arc::new(MemoryDisk::default());
    let mut task = Task::new(0..GROUPS, true);
    let mut longest = 0;
    let mut last = Vec::new();
    for checkpoint in 1..=400u64 {
        for key in 0..40 {
            task.set((checkpoint * 7 + key) % 600, checkpoint);
        }
        last = task.checkpoint(checkpoint, &disk);
        longest = longest.max(last.len());
    }
    assert!(longest < 100, "{longest} segments");
    assert!(last.iter().all(|segment| segment.path != "shared/seg-1-0"));
    let restored = Task::restore(0..GROUPS, &disk, &last).expect("an intact checkpoint");
    assert_eq!(restored.content(), task.content());
}

#[test]
fn changes_of_a_failed_checkpoint_are_in_the_next() {
    let disk = Arc::new(MemoryDisk::default());
    let mut task = Task::new(0..GROUPS, true);
    for key in 0..100 {
        task.set(key, 1);
    }
    task.checkpoint(1, &disk);
    task.set(1, 2);
    task.remove(2);
    task.begin(2);
    let mut lost = Vec::new();
    while !task.advance(2, 10, &mut lost) {}
    task.aborted(2);
    assert_eq!(
        task.snapshots.advance(CheckpointId(2), &mut Both(&mut task.counts, &mut task.names), 1),
        Step::Done
    );
    let segments = task.checkpoint(3, &disk);
    let restored = Task::restore(0..GROUPS, &disk, &segments).expect("an intact checkpoint");
    assert_eq!(restored.content(), task.content());
}

#[test]
fn a_later_begin_finishes_the_earlier_snapshot() {
    let disk = Arc::new(MemoryDisk::default());
    let mut task = Task::new(0..GROUPS, true);
    for key in 0..5_000 {
        task.set(key, 1);
    }
    let first = task.content();
    task.begin(1);
    for key in 0..5_000 {
        task.set(key, 2);
    }
    let second = task.content();
    task.begin(2);
    task.set(0, 3);
    let (mut one, mut two) = (Vec::new(), Vec::new());
    while !task.advance(2, 100, &mut two) {}
    while !task.advance(1, 100, &mut one) {}
    for (checkpoint, file, content) in [(1, one, first), (2, two, second)] {
        let segments = task.keep(checkpoint, file, &disk);
        assert_eq!(Task::restore(0..GROUPS, &disk, &segments).expect("intact").content(), content);
    }
}

#[test]
fn a_savepoint_stands_alone_and_nothing_builds_on_it() {
    let disk = Arc::new(MemoryDisk::default());
    let mut task = Task::new(0..GROUPS, true);
    task.set(1, 1);
    let before = task.checkpoint(1, &disk);
    task.set(2, 2);
    let (snapshots, mut tables) = task.parts();
    snapshots.begin_savepoint(CheckpointId(2), AttemptId(1), "shared/seg-2-0".into(), &mut tables);
    let mut file = Vec::new();
    while !task.advance(2, 100, &mut file) {}
    let savepoint = task.keep(2, file, &disk);
    task.completed(2);
    assert_eq!(savepoint.len(), 1);
    let after = task.checkpoint(3, &disk);
    assert!(after.starts_with(&before) && !after.contains(&savepoint[0]));
    for segments in [savepoint, after] {
        assert_eq!(Task::restore(0..GROUPS, &disk, &segments).expect("intact").content(), task.content());
    }
}

#[test]
fn stale_rows_of_a_shared_segment_stay_dead_after_rescaling_back() {
    let disk = Arc::new(MemoryDisk::default());
    let mut whole = Task::new(0..GROUPS, true);
    for key in 0..200 {
        whole.set(key, 1);
    }
    let shared = whole.checkpoint(1, &disk);
    let mut low = Task::restore(0..4, &disk, &shared).expect("intact");
    let mut high = Task::restore(4..GROUPS, &disk, &shared).expect("intact");
    // The low half removes everything and outgrows the shared segment; the high half goes on naming it.
    let mut low_segments = Vec::new();
    for checkpoint in 2..150 {
        let all = KeyGroups::new(GROUPS);
        for key in 0..200u64 {
            if all.group_of(key.key_hash()) < 4 {
                low.counts.remove(key.key_hash(), &key);
                if checkpoint < 140 {
                    low.counts.insert(key.key_hash(), &key, checkpoint);
                }
            }
            let name = key.to_string();
            if all.group_of(name.key_hash()) < 4 {
                low.names.remove(name.key_hash(), &name);
                if checkpoint < 140 {
                    low.names.insert(name.key_hash(), &name, "again".into());
                }
            }
        }
        low_segments = low.checkpoint(checkpoint, &disk);
    }
    let high_segments = high.checkpoint(150, &disk);
    let of_high = |segment: &SegmentRef| segment.path == shared[0].path && segment.groups == (4..GROUPS);
    assert!(high_segments.iter().any(of_high));
    let all: Vec<SegmentRef> = high_segments.into_iter().chain(low_segments).collect();
    let restored = Task::restore(0..GROUPS, &disk, &all).expect("intact");
    assert_eq!(low.content(), Content::default());
    assert_eq!(restored.content(), high.content());
}

#[test]
fn a_changed_type_and_a_dropped_state_are_refused_by_name() {
    let disk = Arc::new(MemoryDisk::default());
    let mut task = Task::new(0..GROUPS, true);
    task.set(1, 1);
    let segments = task.checkpoint(1, &disk);
    let handle = DiskHandle::new(Arc::clone(&disk) as Arc<dyn Disk>);

    struct One<T>(T);
    impl<T: StateTable> Tables for One<T> {
        fn count(&self) -> usize {
            1
        }
        fn table(&mut self, _: usize) -> &mut dyn StateTable {
            &mut self.0
        }
    }
    let all = KeyGroups::new(GROUPS);
    let metas = task.metas();
    let mut snapshots = KeyedSnapshots::new(0..GROUPS, true, 1);
    snapshots.allow_unmatched(true);
    let mut changed = One(ValueTable::<u64, i64>::new("counts", all, 0..GROUPS));
    let refused = snapshots.restore(&handle, Path::new("/job"), &segments, &metas, &mut changed);
    let message = refused.expect_err("the value type changed").to_string();
    assert!(
        message.contains("\"counts\"") && message.contains("u64") && message.contains("i64"),
        "{message}"
    );

    let mut fewer = One(ValueTable::<u64, u64>::new("counts", all, 0..GROUPS));
    snapshots.allow_unmatched(false);
    let refused = snapshots.restore(&handle, Path::new("/job"), &segments, &metas, &mut fewer);
    assert!(refused.expect_err("a state is gone").to_string().contains("\"names\""));
    snapshots.allow_unmatched(true);
    snapshots
        .restore(&handle, Path::new("/job"), &segments, &metas, &mut fewer)
        .expect("dropping is allowed");
    assert_eq!(fewer.0.get(1u64.key_hash(), &1), Some(&1));

    let mut other = One(ValueTable::<u64, u64>::new("counts", KeyGroups::new(16), 0..GROUPS));
    let refused = snapshots.restore(&handle, Path::new("/job"), &segments, &metas, &mut other);
    assert!(
        refused.expect_err("maximum parallelism changed").to_string().contains("maximum parallelism of 8")
    );
}

#[derive(Clone, Debug)]
enum Op {
    Set(u64, u64),
    Remove(u64),
    Begin,
    Advance(usize),
    Finish,
    Complete,
    Abort,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        30 => (0..3_000u64, any::<u64>()).prop_map(|(key, value)| Op::Set(key, value)),
        10 => (0..3_000u64).prop_map(Op::Remove),
        2 => Just(Op::Begin),
        6 => (1..200usize).prop_map(Op::Advance),
        1 => Just(Op::Finish),
        2 => Just(Op::Complete),
        1 => Just(Op::Abort),
    ]
}

/// Drives a task by `ops` and checks that every checkpoint, also after being superseded, restores what was there at its
/// begin, into the whole range and into a part of it, and that a restored task carries on correctly.
fn check(ops: Vec<Op>, part: Range<KeyGroup>, burst: u64) {
    let disk = Arc::new(MemoryDisk::default());
    let mut task = Task::new(0..GROUPS, true);
    let mut next = 1;
    // Checkpoints under way: id, content at the begin, file, written.
    let mut pending: Vec<(u64, Content, Vec<u8>, bool)> = Vec::new();
    let mut completed: Vec<(Vec<SegmentRef>, Content)> = Vec::new();
    for (i, op) in ops.into_iter().enumerate() {
        match op {
            Op::Set(key, value) => (0..burst).for_each(|n| task.set((key + n) % 3_000, value)),
            Op::Remove(key) => (0..burst).for_each(|n| task.remove((key + 2 * n) % 3_000)),
            Op::Begin => {
                task.begin(next);
                pending.push((next, task.content(), Vec::new(), false));
                next += 1;
            }
            Op::Advance(rows) => {
                if let Some((id, _, file, written)) = pending.last_mut() {
                    *written |= task.advance(*id, rows, file);
                }
            }
            Op::Finish | Op::Complete if !pending.is_empty() => {
                let (id, content, mut file, _) = pending.remove(i % pending.len());
                while !task.advance(id, 500, &mut file) {}
                let segments = task.keep(id, file.clone(), &disk);
                if matches!(op, Op::Finish) {
                    pending.push((id, content, file, true));
                    pending.sort_by_key(|pending| pending.0);
                } else {
                    task.completed(id);
                    completed.push((segments, content));
                    pending.retain(|pending| pending.0 > id);
                }
            }
            Op::Abort if !pending.is_empty() => {
                let (id, ..) = pending.remove(i % pending.len());
                task.aborted(id);
            }
            _ => {}
        }
    }
    for (segments, content) in &completed {
        let restored = Task::restore(0..GROUPS, &disk, segments).expect("an intact checkpoint");
        assert_eq!(restored.content(), *content);
        let restored = Task::restore(part.clone(), &disk, segments).expect("an intact checkpoint");
        assert_eq!(restored.content(), within(content, &part));
    }
    if let Some((segments, _)) = completed.last() {
        let mut restored = Task::restore(0..GROUPS, &disk, segments).expect("an intact checkpoint");
        restored.set(1, 99);
        restored.remove(2);
        let segments = restored.checkpoint(next, &disk);
        let again = Task::restore(0..GROUPS, &disk, &segments).expect("an intact checkpoint");
        assert_eq!(again.content(), restored.content());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn prop_a_completed_checkpoint_restores_the_state_at_its_begin(
        ops in prop::collection::vec(op(), 0..400),
        start in 0..GROUPS,
        length in 0..GROUPS,
        burst in prop_oneof![Just(1u64), Just(40), Just(700)],
    ) {
        check(ops, start..(start + length).min(GROUPS), burst);
    }
}

#[test]
fn hundreds_of_epochs_with_failures_restore_exactly() {
    let ops = (0..5_000u64).map(|i| match i % 10 {
        0 => Op::Begin,
        1 => Op::Advance(50),
        4 if i % 30 != 4 => Op::Abort,
        6 if i % 170 == 66 || i % 90 == 6 => Op::Complete,
        7 | 8 => Op::Remove(i * 31 % 3_000),
        _ => Op::Set(i * 17 % 3_000, i),
    });
    check(ops.collect(), 2..5, 3);
}

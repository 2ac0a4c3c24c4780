//! What a snapshot of keyed state costs: visiting the table, and compressing what has changed. Nothing is written to a disk.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use thalweg_storage::key_group::{KeyGroups, MAX_PARALLELISM_DEFAULT};
use thalweg_storage::snapshot::{KeyedSnapshots, Step, Tables};
use thalweg_storage::table::{StateTable, ValueTable};
use thalweg_storage::{AttemptId, CheckpointId, Data};

/// Entries of the table.
const KEYS: u64 = 1_000_000;
/// Slots that one slice visits at most, as in a task.
const SLICE_ROWS: usize = 2048;

struct State {
    table: ValueTable<u64, u64>,
    snapshots: KeyedSnapshots,
    next: u64,
}

impl Tables for State {
    fn count(&self) -> usize {
        1
    }
    fn table(&mut self, _: usize) -> &mut dyn StateTable {
        &mut self.table
    }
}

impl State {
    /// A table that a completed checkpoint has whole.
    fn new(zstd_level: i32) -> State {
        let groups = KeyGroups::new(MAX_PARALLELISM_DEFAULT);
        let range = 0..groups.count();
        let mut state = State {
            table: ValueTable::new("counts", groups, range.clone()),
            snapshots: KeyedSnapshots::new(range, true, zstd_level),
            next: 1,
        };
        state.change(1);
        state.snapshot();
        state
    }

    /// Counts every `step`-th key.
    fn change(&mut self, step: usize) {
        for key in (0..KEYS).step_by(step) {
            self.table.update(key.key_hash(), &key, u64::default, |count| *count += key % 1000);
        }
    }

    /// Takes a checkpoint; returns its bytes.
    fn snapshot(&mut self) -> usize {
        let checkpoint = CheckpointId(self.next);
        self.next += 1;
        // The snapshots borrow the tables, which lie beside them.
        let range = self.table.groups();
        let mut snapshots = std::mem::replace(&mut self.snapshots, KeyedSnapshots::new(range, true, 0));
        snapshots.begin(checkpoint, AttemptId(1), format!("segment-{checkpoint}"), self);
        let mut bytes = 0;
        loop {
            match snapshots.advance(checkpoint, self, SLICE_ROWS) {
                Step::More | Step::Waits => {}
                Step::Bytes { bytes: chunk, .. } => bytes += chunk.len(),
                Step::Done => break,
            }
        }
        snapshots.completed(checkpoint, self);
        self.snapshots = snapshots;
        bytes
    }
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("snapshot_of_1m_keys");
    group.sample_size(20);
    for (changed, step) in [("all_changed", 1), ("one_in_ten_changed", 10), ("none_changed", KEYS as usize)] {
        group.throughput(Throughput::Elements(KEYS.div_ceil(step as u64)));
        for zstd_level in [0, 1] {
            let mut state = State::new(zstd_level);
            group.bench_function(format!("{changed}_zstd_{zstd_level}"), |bencher| {
                // The table is too large for a copy of it per iteration; the set-up changes it in place.
                let state = std::cell::RefCell::new(&mut state);
                bencher.iter_batched(
                    || state.borrow_mut().change(step),
                    |()| state.borrow_mut().snapshot(),
                    BatchSize::PerIteration,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);

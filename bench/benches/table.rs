//! What a change of one key's value costs in a state table of either kind, batches hashed and announced first as the operators do it.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use thalweg_storage::Data;
use thalweg_storage::key_group::{KeyGroups, MAX_PARALLELISM_DEFAULT};
use thalweg_storage::log::LogOptions;
use thalweg_storage::table::{Backend, KeyedTable};

/// Keys that are hashed and announced together.
const BATCH_KEYS: usize = 1_024;

/// Counts keys from `number` on, which walks through all `keys` in an order without a pattern.
fn count_batch(table: &mut KeyedTable<u64, u64>, batch: &mut Vec<(u64, u64)>, number: &mut u64, keys: u64) {
    batch.clear();
    for _ in 0..BATCH_KEYS {
        *number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = (*number >> 33) % keys;
        batch.push((key.key_hash(), key));
    }
    table.announce(batch.iter().map(|(hash, _)| *hash));
    for (hash, key) in batch {
        let count = table.update(*hash, key, u64::default, |count| {
            *count += 1;
            *count
        });
        black_box(count);
    }
}

/// A table of `keys` counters.
fn counters(backend: &Backend, keys: u64) -> KeyedTable<u64, u64> {
    let groups = KeyGroups::new(MAX_PARALLELISM_DEFAULT);
    let mut table = KeyedTable::new(backend, "counts", groups, 0..groups.count());
    for key in 0..keys {
        table.insert(key.key_hash(), &key, 0);
    }
    table
}

fn update(criterion: &mut Criterion) {
    let backends = [("value_table", Backend::HashMap), ("log_table", Backend::Log(LogOptions::default()))];
    for (name, backend) in backends {
        let mut group = criterion.benchmark_group(format!("{name}_update"));
        group.throughput(Throughput::Elements(BATCH_KEYS as u64));
        for keys in [1_000, 1_000_000, 10_000_000] {
            let mut table = counters(&backend, keys);
            let (mut batch, mut number) = (Vec::with_capacity(BATCH_KEYS), 1);
            group.bench_function(format!("{keys}_keys"), |bencher| {
                bencher.iter(|| count_batch(&mut table, &mut batch, &mut number, keys));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, update);
criterion_main!(benches);

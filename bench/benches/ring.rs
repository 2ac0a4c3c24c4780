//! What a batch costs on the engine's channel: filled record by record, handed over, read record by record, given back.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use thalweg::clock::Nanos;
use thalweg::ring::doorbell::{Doorbell, Wake};
use thalweg::ring::{BatchPool, ChannelSpec, Receiver, Restored, Sender, channel};

/// Records per batch.
const BATCH_RECORDS: usize = 1024;
/// Batches that a ring holds.
const RING_BATCHES: usize = 16;

/// Both sides poll, so nobody ever sleeps.
struct NeverAsleep;

impl Wake for NeverAsleep {
    fn wake(&self) {}
}

fn pair(ring_batches: usize) -> (Sender<u64>, Receiver<u64>) {
    let spec = ChannelSpec {
        ring_batches,
        batch_records: BATCH_RECORDS,
        side_entries: 4,
        pool: Arc::new(BatchPool::new(16 << 20)),
        consumer: Doorbell::new(NeverAsleep),
        producer: Doorbell::new(NeverAsleep),
    };
    channel(spec, Restored::default())
}

/// Sends `batches` full batches, as fast as the other side returns them.
fn send(sender: &mut Sender<u64>, batches: u64) {
    for batch in 0..batches {
        for record in 0..BATCH_RECORDS as u64 {
            sender.push(batch ^ record);
        }
        while sender.is_blocked() {
            std::hint::spin_loop();
            sender.flush(Nanos(0), Duration::MAX, false);
        }
    }
}

/// Reads every batch that is there; returns how many.
fn take(receiver: &mut Receiver<u64>) -> u64 {
    receiver.look(|_| {});
    let mut batches = 0;
    while receiver.taken() < receiver.visible() {
        receiver.take();
        let mut sum = 0_u64;
        while let Some(record) = receiver.current().take() {
            sum = sum.wrapping_add(record);
        }
        black_box(sum);
        receiver.give_back();
        batches += 1;
    }
    batches
}

/// Time for `batches` batches to another thread over a ring of `ring_batches`.
fn across_threads(batches: u64, ring_batches: usize) -> Duration {
    let (mut sender, mut receiver) = pair(ring_batches);
    let started = Arc::new(AtomicBool::new(false));
    let taker = std::thread::spawn({
        let started = Arc::clone(&started);
        move || {
            started.store(true, Ordering::Release);
            let mut left = batches;
            while left > 0 {
                left -= take(&mut receiver);
                std::hint::spin_loop();
            }
        }
    });
    while !started.load(Ordering::Acquire) {
        std::hint::spin_loop();
    }
    let start = Instant::now();
    send(&mut sender, batches);
    taker.join().expect("the taking thread ends normally");
    start.elapsed()
}

fn hand_over(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring_hand_over");
    group.throughput(Throughput::Elements(BATCH_RECORDS as u64));
    group.bench_function("same_thread", |bencher| {
        let (mut sender, mut receiver) = pair(RING_BATCHES);
        bencher.iter(|| {
            send(&mut sender, 1);
            assert_eq!(take(&mut receiver), 1, "one batch is on its way");
        });
    });
    group.bench_function("across_threads", |bencher| {
        bencher.iter_custom(|batches| across_threads(batches, RING_BATCHES));
    });
    group.bench_function("across_threads_ring_of_one", |bencher| {
        bencher.iter_custom(|batches| across_threads(batches, 1));
    });
    group.finish();
}

criterion_group!(benches, hand_over);
criterion_main!(benches);

//! What handing over one batch costs: a handle goes out through a ring, the emptied batch comes back through another.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rtrb::{Consumer, Producer, RingBuffer};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Records per batch.
const BATCH_RECORDS: usize = 1024;
/// Batches that a ring holds.
const RING_BATCHES: usize = 16;

type Batch = Vec<u64>;

/// Both ends of a pair of rings, with `batches` filled batches on the producer's side.
struct Pair {
    out: Producer<Batch>,
    inbox: Consumer<Batch>,
    back: Producer<Batch>,
    empties: Consumer<Batch>,
}

fn pair(batches: usize) -> Pair {
    let (out, inbox) = RingBuffer::new(RING_BATCHES);
    let (mut back, empties) = RingBuffer::new(RING_BATCHES + 1);
    for _ in 0..batches {
        assert!(back.push((0..BATCH_RECORDS as u64).collect()).is_ok(), "the ring takes every batch");
    }
    Pair { out, inbox, back, empties }
}

/// Sends `batches` batches through, as fast as the other side returns them.
fn send(out: &mut Producer<Batch>, empties: &mut Consumer<Batch>, batches: u64) {
    for _ in 0..batches {
        let mut batch = loop {
            match empties.pop() {
                Ok(batch) => break batch,
                Err(_) => std::hint::spin_loop(),
            }
        };
        batch[0] = batch[0].wrapping_add(1);
        assert!(out.push(batch).is_ok(), "there are no more batches than slots");
    }
}

/// Takes batches until told to stop; `read` says whether their records are touched.
fn take(mut inbox: Consumer<Batch>, mut back: Producer<Batch>, read: bool, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(batch) = inbox.pop() else {
            std::hint::spin_loop();
            continue;
        };
        if read {
            black_box(batch.iter().fold(0_u64, |sum, &record| sum.wrapping_add(record)));
        }
        assert!(back.push(batch).is_ok(), "there are no more batches than slots");
    }
}

/// Time for `batches` batches to another thread, with `in_flight` of them under way at most.
fn across_threads(batches: u64, in_flight: usize, read: bool) -> Duration {
    let Pair { mut out, inbox, back, mut empties } = pair(in_flight);
    let stop = Arc::new(AtomicBool::new(false));
    let taker = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || take(inbox, back, read, &stop)
    });
    // The first round trip covers the start of the thread.
    send(&mut out, &mut empties, in_flight as u64 + 1);
    let start = Instant::now();
    send(&mut out, &mut empties, batches);
    let elapsed = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    taker.join().expect("the taking thread ends normally");
    elapsed
}

fn hand_over(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring_hand_over");
    group.throughput(Throughput::Elements(BATCH_RECORDS as u64));
    group.bench_function("same_thread", |bencher| {
        let Pair { mut out, mut inbox, mut back, mut empties } = pair(RING_BATCHES);
        bencher.iter(|| {
            send(&mut out, &mut empties, 1);
            let batch = inbox.pop().expect("a batch was sent");
            assert!(back.push(black_box(batch)).is_ok(), "there are no more batches than slots");
        });
    });
    group.bench_function("across_threads_handles_only", |bencher| {
        bencher.iter_custom(|batches| across_threads(batches, RING_BATCHES, false));
    });
    group.bench_function("across_threads_records_read", |bencher| {
        bencher.iter_custom(|batches| across_threads(batches, RING_BATCHES, true));
    });
    group.bench_function("round_trip", |bencher| {
        bencher.iter_custom(|batches| across_threads(batches, 1, false));
    });
    group.finish();
}

criterion_group!(benches, hand_over);
criterion_main!(benches);

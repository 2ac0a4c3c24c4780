//! The keyed count written by hand for this one job: the speed limit that the engine is measured against.
//!
//! One pinned executor per worker runs two cooperative tasks, a source and a counter. Batches of keys travel over rings, all-to-all, and
//! come back empty over reverse rings. A counter looks at a batch twice: first it prefetches the slots, then it counts.
//! What an engine owes its users is missing: checkpoints, types, errors, metrics, a table that grows.
//!
//! Always true: a worker touches nothing that another one writes, besides rings, its meter (written once per batch) and the stop flag.

use crate::Result;
use crate::report::{Speed, cpu_time};
use crate::workload::{key_of, mix};
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement, executor, spawn_local, yield_if_needed};
use rtrb::{Consumer, Producer, RingBuffer};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Records per batch.
const BATCH_RECORDS: usize = 1024;
/// Full batches that a ring holds.
const RING_BATCHES: usize = 16;
/// Batches that exist per channel: a ring full of them, one being read, one to swap in.
const CHANNEL_BATCHES: usize = RING_BATCHES + 2;

type Batch = Vec<u64>;

/// A source's end of a channel.
struct Outlet {
    full: Producer<Batch>,
    empty: Consumer<Batch>,
}

/// A counter's end of a channel.
struct Inlet {
    full: Consumer<Batch>,
    empty: Producer<Batch>,
}

/// Records that one worker has counted. Alone on its cache lines, prefetched in pairs by common processors.
#[derive(Default)]
#[repr(align(128))]
struct Meter(AtomicU64);

/// What the workers share with the thread that measures.
struct Shared {
    stop: AtomicBool,
    meters: Vec<Meter>,
}

/// Counts by key on `workers` cores for a while, and returns the speed of the time after the warm-up.
///
/// `keys` and `workers` are at least 1. Blocks the caller for `warm_up + measure` and the time that building the tables takes;
/// the caller's thread sleeps meanwhile.
///
/// # Errors
/// There are fewer cores than workers, or an executor could not be started (io_uring is missing or forbidden) or died.
pub fn keyed_count(keys: u64, warm_up: Duration, measure: Duration, workers: usize) -> Result<Speed> {
    let cores = crate::report::allowed_cores()?;
    if cores.len() < workers {
        return Err(
            format!("{workers} workers need as many cores; this process may use {}", cores.len()).into()
        );
    }
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        meters: (0..workers).map(|_| Meter::default()).collect(),
    });
    let (ready, all_ready) = mpsc::channel();
    let mut handles = Vec::with_capacity(workers);
    let mut failure = None;
    for (me, (outlets, inlets)) in channels(workers).into_iter().enumerate() {
        match start_worker(me, cores[me], keys, outlets, inlets, Arc::clone(&shared), ready.clone()) {
            Ok(handle) => handles.push(handle),
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    drop(ready);
    // A worker that dies drops its sender, so this ends whatever happens.
    let started = all_ready.iter().take(workers).count() == workers;
    let speed = if started && failure.is_none() {
        std::thread::sleep(warm_up);
        let (start, cpu_start, before) = (Instant::now(), cpu_time(), counted(&shared));
        std::thread::sleep(measure);
        let (elapsed, cpu_elapsed, after) = (start.elapsed(), cpu_time() - cpu_start, counted(&shared));
        let records = (after - before) as f64;
        Speed {
            records_per_s: records / elapsed.as_secs_f64(),
            records_per_cpu_s: records / cpu_elapsed.as_secs_f64(),
        }
    } else {
        Speed { records_per_s: 0.0, records_per_cpu_s: 0.0 }
    };
    shared.stop.store(true, Ordering::Relaxed);
    for handle in handles {
        if let Err(error) = handle.join() {
            failure.get_or_insert_with(|| format!("an executor died: {error}").into());
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(speed),
    }
}

/// Channels from every worker to every worker: for each worker its outlets by receiver and its inlets by sender.
fn channels(workers: usize) -> Vec<(Vec<Outlet>, Vec<Inlet>)> {
    let mut ends: Vec<(Vec<Outlet>, Vec<Inlet>)> = (0..workers).map(|_| (Vec::new(), Vec::new())).collect();
    for from in 0..workers {
        for to in 0..workers {
            let (full, full_end) = RingBuffer::new(RING_BATCHES);
            let (mut empty, empty_end) = RingBuffer::new(CHANNEL_BATCHES + 1);
            for _ in 0..CHANNEL_BATCHES {
                let pushed = empty.push(Vec::with_capacity(BATCH_RECORDS));
                assert!(pushed.is_ok(), "a ring of its size takes every batch of the channel");
            }
            ends[from].0.push(Outlet { full, empty: empty_end });
            ends[to].1.push(Inlet { full: full_end, empty });
        }
    }
    ends
}

fn start_worker(
    me: usize,
    core: usize,
    keys: u64,
    outlets: Vec<Outlet>,
    inlets: Vec<Inlet>,
    shared: Arc<Shared>,
    ready: mpsc::Sender<()>,
) -> Result<ExecutorJoinHandle<()>> {
    LocalExecutorBuilder::new(Placement::Fixed(core))
        .name("handwritten")
        .spin_before_park(Duration::from_millis(1))
        .spawn(move || async move {
            let table = Table::for_keys(keys as usize / outlets.len() + 1);
            // The receiver waits for every worker; it cannot be gone.
            let _ = ready.send(());
            drop(ready);
            let source = spawn_local(produce(me, keys, outlets, Arc::clone(&shared)));
            let counter = spawn_local(count(me, table, inlets, shared));
            source.await;
            black_box(counter.await);
        })
        .map_err(|error| format!("cannot start a glommio executor on core {core}: {error}").into())
}

/// Emits the numbers that are `me` modulo the workers, by key, until told to stop.
async fn produce(me: usize, keys: u64, mut outlets: Vec<Outlet>, shared: Arc<Shared>) {
    let mut open: Vec<Batch> = outlets.iter().map(|_| Vec::with_capacity(BATCH_RECORDS)).collect();
    let mut number = me as u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let filled = fill(&mut open, &mut number, keys);
        let Outlet { full, empty } = &mut outlets[filled];
        let fresh = loop {
            // The source alone pushes, so a slot that is free stays free until the push below.
            if full.slots() > 0
                && let Ok(batch) = empty.pop()
            {
                break batch;
            }
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            executor().yield_now().await;
        };
        if full.push(std::mem::replace(&mut open[filled], fresh)).is_err() {
            unreachable!("a slot was free and nobody else pushes");
        }
        yield_if_needed().await;
    }
}

/// Counts what arrives until told to stop; returns the sum of all emitted counts, so that none can be optimised away.
async fn count(me: usize, mut table: Table, mut inlets: Vec<Inlet>, shared: Arc<Shared>) -> u64 {
    let mut sum = 0_u64;
    let mut counted = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let mut progress = false;
        for Inlet { full, empty } in &mut inlets {
            let Ok(mut batch) = full.pop() else { continue };
            progress = true;
            sum = sum.wrapping_add(count_batch(&mut table, &batch));
            counted += batch.len() as u64;
            batch.clear();
            // The ring holds every batch of the channel; only a source that has stopped could be gone.
            let _ = empty.push(batch);
        }
        shared.meters[me].0.store(counted, Ordering::Relaxed);
        if progress {
            yield_if_needed().await;
        } else {
            executor().yield_now().await;
        }
    }
    sum
}

/// Scatters numbers over the open batches until one is full; returns which. Not part of the future, so that its variables live in
/// registers instead of the future's memory.
#[inline(never)]
fn fill(open: &mut [Batch], number: &mut u64, keys: u64) -> usize {
    let workers = open.len();
    let mut next = *number;
    loop {
        let key = key_of(next, keys);
        next += workers as u64;
        let to = worker_of(key, workers);
        open[to].push(key);
        if open[to].len() == BATCH_RECORDS {
            *number = next;
            return to;
        }
    }
}

/// Counts the keys of one batch; returns the sum of the counts. Not part of the future, for the same reason as [`fill`].
#[inline(never)]
fn count_batch(table: &mut Table, batch: &[u64]) -> u64 {
    for &key in batch {
        table.prefetch(mix(key));
    }
    batch.iter().fold(0, |sum: u64, &key| sum.wrapping_add(table.increment(mix(key), key)))
}

/// The worker that counts a key: by the upper half of its hash, because the table indexes by the lower one.
#[inline(always)]
fn worker_of(key: u64, workers: usize) -> usize {
    ((mix(key) >> 32) as usize * workers) >> 32
}

fn counted(shared: &Shared) -> u64 {
    shared.meters.iter().map(|meter| meter.0.load(Ordering::Relaxed)).sum()
}

/// Counts by key: open addressing with linear probing, slots of 16 bytes, at most half full.
///
/// Always true: the number of slots is a power of two, `mask` is one less, and some slot is vacant, so every probe ends.
struct Table {
    slots: Vec<Slot>,
    mask: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    key: u64,
    count: u64,
}

/// Marks a vacant slot; keys are below the number of keys, so never this.
const VACANT: u64 = u64::MAX;

impl Table {
    /// A table for about this many keys: chance gives a worker a few more than its share, which half-full slots absorb.
    fn for_keys(keys: usize) -> Table {
        let slots = (keys * 2).next_power_of_two().max(1024);
        Table { slots: vec![Slot { key: VACANT, count: 0 }; slots], mask: slots - 1 }
    }

    /// Asks for the slot at which a probe for this hash begins.
    #[inline(always)]
    #[expect(unsafe_code, reason = "prefetching has no safe interface")]
    fn prefetch(&self, hash: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: the masked index lies within the slots, and a prefetch neither reads nor writes as far as the language is concerned.
            unsafe { _mm_prefetch(self.slots.as_ptr().add(hash as usize & self.mask).cast(), _MM_HINT_T0) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = hash;
    }

    /// Counts a key with its hash; returns how often it has come.
    #[inline(always)]
    #[expect(
        unsafe_code,
        reason = "the bounds check costs several percent and the mask makes it superfluous"
    )]
    fn increment(&mut self, hash: u64, key: u64) -> u64 {
        let mut index = hash as usize & self.mask;
        loop {
            // SAFETY: `mask` is one less than the number of slots, a power of two, so a masked index lies within them.
            let slot = unsafe { self.slots.get_unchecked_mut(index) };
            if slot.key == key {
                slot.count += 1;
                return slot.count;
            }
            if slot.key == VACANT {
                *slot = Slot { key, count: 1 };
                return 1;
            }
            index = (index + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_table_counts_like_a_hash_map() {
        let mut table = Table::for_keys(500);
        let mut model: HashMap<u64, u64> = HashMap::new();
        for number in 0..20_000 {
            let key = key_of(number, 500);
            let expected = model.entry(key).or_default();
            *expected += 1;
            assert_eq!(table.increment(mix(key), key), *expected);
        }
    }

    #[test]
    fn every_worker_gets_its_share_of_the_keys() {
        let mut shares = [0_u32; 3];
        for key in 0..30_000 {
            shares[worker_of(key, 3)] += 1;
        }
        assert!(shares.iter().all(|share| (9_500..10_500).contains(share)), "{shares:?}");
    }

    #[test]
    fn more_workers_than_cores_are_refused() {
        let error = keyed_count(10, Duration::ZERO, Duration::ZERO, 100_000).expect_err("too few cores");
        assert!(error.to_string().contains("100000 workers"), "{error}");
    }
}

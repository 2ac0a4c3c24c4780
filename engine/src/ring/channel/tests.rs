//! Channels driven by hand: order, counts, back-pressure, restored batches, the pool's accounts, doorbells.

use super::*;
use crate::ring::doorbell::Wake;
use crate::ring::{BarrierMode, Mark};
use proptest::prelude::*;
use thalweg_storage::CheckpointId;

/// A doorbell whose rings can be counted.
#[derive(Clone, Default)]
struct Rings(Arc<AtomicUsize>);

impl Wake for Rings {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Ends<T> {
    sender: Sender<T>,
    receiver: Receiver<T>,
    pool: Arc<BatchPool>,
    producer: Doorbell,
    rings: Rings,
}

/// In-flight batches of a checkpoint before which nothing was restored.
fn first_generation<T>(batches: Vec<Vec<T>>) -> Restored<T> {
    let mut restored = Restored::before(1);
    batches.into_iter().for_each(|batch| restored.push(0, batch));
    restored
}

fn ends<T>(ring_batches: usize, batch_records: usize, pool_bytes: usize, restored: Vec<Vec<T>>) -> Ends<T> {
    let pool = Arc::new(BatchPool::new(pool_bytes));
    let rings = Rings::default();
    let producer = Doorbell::new(rings.clone());
    let spec = ChannelSpec {
        ring_batches,
        batch_records,
        side_entries: 2,
        pool: Arc::clone(&pool),
        consumer: Doorbell::new(Rings::default()),
        producer: producer.clone(),
    };
    let (sender, receiver) = channel(spec, first_generation(restored));
    Ends { sender, receiver, pool, producer, rings }
}

impl<T> Ends<T> {
    /// Whether `action` rings the producer's doorbell.
    fn rings_producer(&mut self, action: impl FnOnce(&mut Receiver<T>)) -> bool {
        let before = self.rings.0.load(Ordering::Relaxed);
        self.producer.announce_sleep();
        action(&mut self.receiver);
        self.producer.cancel_sleep();
        self.rings.0.load(Ordering::Relaxed) > before
    }

    fn flush(&mut self) {
        self.sender.flush(Nanos(0), Duration::ZERO, true);
    }

    /// Looks and consumes everything that is visible.
    fn consume(&mut self) -> Vec<T> {
        self.receiver.look(|_| {});
        let mut records = Vec::new();
        while self.receiver.taken() < self.receiver.visible() {
            self.receiver.take();
            while let Some(record) = self.receiver.current().take() {
                records.push(record);
            }
            self.receiver.give_back();
        }
        records
    }
}

fn announcement(checkpoint: u64, cut: u64) -> Announcement {
    let mark = Mark::Barrier { checkpoint: CheckpointId(checkpoint), mode: BarrierMode::Unaligned };
    Announcement { mark, cut }
}

#[test]
fn a_full_ring_blocks_the_sender_which_keeps_what_it_was_given() {
    let mut ends = ends(1, 2, 1 << 20, Vec::new());
    (0..5_u64).for_each(|n| ends.sender.push(n));
    assert!(ends.sender.is_blocked());
    assert_eq!(ends.sender.pushed(), 1);
    assert_eq!(ends.sender.unsent().flatten().copied().collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(ends.consume(), [0, 1]);
    ends.flush();
    assert!(ends.sender.is_blocked(), "the last record still waits behind a full ring");
    assert_eq!(ends.consume(), [2, 3]);
    ends.flush();
    assert!(!ends.sender.is_blocked() && ends.sender.is_drained());
    assert_eq!(ends.consume(), [4]);
}

#[test]
fn restored_batches_take_the_first_positions_and_come_first() {
    let mut ends = ends(2, 2, 1 << 20, vec![vec![1, 2], vec![3]]);
    assert_eq!(ends.sender.pushed(), 2);
    ends.sender.push(4);
    ends.flush();
    assert_eq!(ends.sender.pushed(), 3);
    ends.receiver.look(|_| {});
    assert_eq!(ends.receiver.visible(), 3);
    let peeked: Vec<Vec<i32>> = (0..3).map(|at| ends.receiver.peek(at, <[i32]>::to_vec)).collect();
    assert_eq!(peeked, [vec![1, 2], vec![3], vec![4]]);
    assert_eq!(ends.consume(), [1, 2, 3, 4]);
    assert_eq!(ends.receiver.consumed(), 3);
}

#[test]
fn each_batch_tells_the_generation_it_was_restored_in_and_new_ones_the_next() {
    let mut restored = Restored::before(3);
    [(0, 1), (0, 2), (2, 3)].into_iter().for_each(|(generation, n)| restored.push(generation, vec![n]));
    let spec = ChannelSpec {
        ring_batches: 1,
        batch_records: 1,
        side_entries: 2,
        pool: Arc::new(BatchPool::new(1 << 20)),
        consumer: Doorbell::new(Rings::default()),
        producer: Doorbell::new(Rings::default()),
    };
    let (mut sender, mut receiver) = channel(spec, restored);
    sender.push(4);
    assert_eq!(sender.generation(), 3);
    receiver.look(|_| {});
    let generations: Vec<u32> = (0..4).map(|position| receiver.generation(position)).collect();
    assert_eq!(generations, [0, 0, 2, 3]);
    let mut upcoming = Vec::new();
    while receiver.taken() < receiver.visible() {
        upcoming.push(receiver.restored_generation());
        receiver.take();
        receiver.current().take();
    }
    assert_eq!(upcoming, [Some(0), Some(0), Some(2), None]);
    assert_eq!(receiver.generation(1), 0, "also of a batch that is taken");
}

#[test]
#[should_panic(expected = "older than new ones")]
fn restored_batches_of_the_generation_that_is_sent_next_are_refused() {
    Restored::before(1).push(1, vec![0_u8]);
}

#[test]
fn memory_of_restored_batches_never_displaces_the_producers_own() {
    let mut ends = ends(1, 1, 0, (0..20).map(|n| vec![n]).collect());
    ends.sender.push(20);
    assert_eq!(ends.consume(), (0..=20).collect::<Vec<_>>());
    ends.flush();
    assert_eq!(ends.pool.free_bytes(), 0);
    assert!(!ends.sender.is_blocked());
}

#[test]
fn without_pool_memory_two_batches_circulate() {
    let mut ends = ends(8, 1, 0, Vec::new());
    ends.sender.push(1);
    assert!(!ends.sender.is_blocked());
    ends.sender.push(2);
    assert!(ends.sender.is_blocked(), "the pool has no third batch");
    ends.flush();
    assert!(ends.sender.is_blocked());
    assert!(ends.rings_producer(|receiver| {
        receiver.look(|_| {});
        receiver.take();
        receiver.current().take();
        receiver.give_back();
    }));
    ends.flush();
    assert!(!ends.sender.is_blocked());
}

#[test]
fn a_burst_that_overfills_the_reverse_ring_gives_its_memory_back_to_the_pool() {
    let (batches, bytes) = (100, 4 * size_of::<u64>());
    let mut ends = ends(1, 4, batches * bytes, Vec::new());
    let records = 4 * 60;
    // As a record of a flat map that is finished for a barrier does: nobody heeds the back-pressure.
    (0..records).for_each(|n| ends.sender.push(n));
    let mut seen = Vec::new();
    while seen.len() < records as usize {
        seen.extend(ends.consume());
        ends.sender.drain_outbox();
    }
    ends.consume();
    ends.flush();
    assert_eq!(seen, (0..records).collect::<Vec<_>>());
    let taken = (batches * bytes) as i64 - ends.pool.free_bytes();
    assert!(taken <= 6 * bytes as i64, "{taken} bytes are still taken for batches that are gone");
    let pool = Arc::clone(&ends.pool);
    drop(ends);
    assert_eq!(pool.free_bytes(), (batches * bytes) as i64);
}

#[test]
fn batches_grown_without_the_pools_leave_are_a_debt_that_is_paid_back() {
    let bytes = 4 * size_of::<u64>() as i64;
    let mut ends = ends(8, 4, 0, Vec::new());
    (0..4 * 5).for_each(|n: u64| ends.sender.push(n));
    assert_eq!(ends.pool.free_bytes(), -3 * bytes);
    assert_eq!(ends.consume().len(), 20);
    ends.flush();
    (0..4).for_each(|n| ends.sender.push(n));
    assert_eq!(ends.consume().len(), 4);
    ends.flush();
    assert_eq!(ends.pool.free_bytes(), 0, "batches beyond the guaranteed two were given up");
}

#[test]
fn records_without_size_never_ring_for_batches_that_were_given_back() {
    let mut ends = ends(2, 2, 1 << 10, Vec::new());
    (0..4).for_each(|_| ends.sender.push(()));
    assert_eq!(ends.consume().len(), 4);
    assert!(!ends.rings_producer(|receiver| receiver.give_back()));
}

#[test]
fn draining_the_side_ring_wakes_a_producer_that_waits_for_room_in_it() {
    let mut ends = ends::<u64>(2, 2, 1 << 10, Vec::new());
    ends.sender.announce(announcement(1, 0));
    ends.sender.announce(announcement(2, 0));
    assert!(!ends.sender.can_announce());
    let mut seen = 0;
    assert!(ends.rings_producer(|receiver| receiver.look(|_| seen += 1)));
    assert_eq!(seen, 2);
    assert!(ends.sender.can_announce());
    assert!(!ends.rings_producer(|receiver| receiver.look(|_| {})), "nothing was drained");
}

#[test]
fn a_batch_leaves_at_its_timeout_and_not_before_while_the_consumer_is_busy() {
    let mut ends = ends(4, 8, 1 << 10, Vec::new());
    let timeout = Duration::from_nanos(100);
    ends.sender.push(1);
    assert_eq!(ends.sender.flush(Nanos(0), timeout, false), None, "an idle consumer gets it at once");
    ends.sender.push(2);
    assert_eq!(ends.sender.flush(Nanos(10), timeout, false), Some(Nanos(110)));
    ends.sender.push(3);
    assert_eq!(ends.sender.flush(Nanos(109), timeout, false), Some(Nanos(110)));
    assert_eq!(ends.sender.flush(Nanos(110), timeout, false), None);
    assert_eq!(ends.sender.pushed(), 2);
    assert_eq!(ends.consume(), [1, 2, 3]);
}

#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    Flush,
    Announce,
    Look,
    TakeBatch,
    TakeRecord,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..20_u8).prop_map(Step::Push),
        2 => Just(Step::Flush),
        1 => Just(Step::Announce),
        2 => Just(Step::Look),
        2 => Just(Step::TakeBatch),
        6 => Just(Step::TakeRecord),
    ]
}

proptest! {
    /// Whatever the order of calls: records arrive once and in order, what is peeked at is what comes, positions
    /// count batches, and a cut stands exactly between the records before and after the announcement.
    #[test]
    fn prop_records_arrive_once_and_in_order(
        ring in 1..4_usize, batch in 1..5_usize, pool in 0..200_usize, restored in 0..6_u64,
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let restored_batches: Vec<Vec<u64>> =
            (0..restored).collect::<Vec<_>>().chunks(batch).map(<[u64]>::to_vec).collect();
        let mut ends = ends(ring, batch, pool, restored_batches);
        let (mut next, mut expected, mut checkpoint) = (restored, 0, 0);
        // Cuts seen, and the first record behind each, as far as the producer knew.
        let mut behind = Vec::new();
        let mut cuts = std::collections::VecDeque::new();
        for step in steps.into_iter().chain(std::iter::repeat_n([Step::Flush, Step::Look, Step::TakeBatch, Step::TakeRecord], 2000).flatten()) {
            match step {
                Step::Push(count) => for _ in 0..count {
                    ends.sender.push(next);
                    next += 1;
                },
                Step::Flush => _ = ends.sender.flush(Nanos(0), Duration::ZERO, true),
                Step::Announce if ends.sender.can_announce() => {
                    checkpoint += 1;
                    let unsent: usize = ends.sender.unsent().map(<[u64]>::len).sum();
                    behind.push(next - unsent as u64);
                    let cut = ends.sender.pushed();
                    ends.sender.announce(announcement(checkpoint, cut));
                }
                Step::Announce => {}
                Step::Look => ends.receiver.look(|a| {
                    let Mark::Barrier { checkpoint, .. } = a.mark else { unreachable!("only barriers") };
                    cuts.push_back((a.cut, behind[checkpoint.0 as usize - 1]));
                }),
                Step::TakeBatch => {
                    let receiver = &mut ends.receiver;
                    if receiver.current().is_empty() && receiver.taken() < receiver.visible() {
                        let at = receiver.taken();
                        let peeked = receiver.peek(at, <[u64]>::to_vec);
                        receiver.take();
                        prop_assert_eq!(receiver.current().rest(), &peeked[..]);
                        while let Some((cut, first)) = cuts.front().copied().filter(|(cut, _)| *cut <= at) {
                            prop_assert!(cut == at || peeked[0] > first);
                            prop_assert!(peeked[0] >= first);
                            cuts.pop_front();
                        }
                        prop_assert!(cuts.iter().all(|(cut, first)| *cut > at && peeked[peeked.len() - 1] < *first));
                    }
                }
                Step::TakeRecord => {
                    let record = ends.receiver.current().take();
                    if let Some(record) = record {
                        prop_assert_eq!(record, expected);
                        expected += 1;
                    }
                    ends.receiver.give_back();
                }
            }
        }
        prop_assert!(ends.sender.is_drained());
        while ends.receiver.current().take().is_some() { expected += 1; }
        prop_assert_eq!(expected + ends.consume().len() as u64, next);
        prop_assert_eq!(ends.receiver.consumed(), ends.sender.pushed());
    }
}

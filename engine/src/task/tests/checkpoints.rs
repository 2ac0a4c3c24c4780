//! Checkpoints of one task: what is captured, when it is acknowledged, what an abort leaves behind.

use super::*;
use crate::operator::{Failure, Flow, Identity};
use crate::operators::{FlatMap, Map};
use crate::task::inputs::{Feed, Slice};
use proptest::prelude::*;
use thalweg_storage::io::OpKind;

fn repeat(times: u64) -> impl Link<u64, Out = u64> {
    FlatMap { uid: "repeat".into(), function: move |n: u64| (0..times).map(move |i| n * times + i) }
}

#[test]
fn records_that_trickle_in_are_held_back_while_the_consumer_stands_still() {
    let mut harness = harness(Identity, 1, Sizes { ring: 4, batch: 256, pool: 1 << 20 });
    for record in 0..1000 {
        harness.send(0, [record]);
        harness.settle();
        if harness.senders[0].is_blocked() {
            break;
        }
    }
    assert!(harness.senders[0].is_blocked(), "back-pressure reaches the producer");
    let waiting: u64 = harness.outputs().iter().sum();
    assert!(waiting <= 1, "{waiting} records wait in the outbox of a task whose consumer reads nothing");
}

#[test]
fn a_half_done_record_is_finished_into_the_outbox_before_an_unaligned_snapshot() {
    let mut harness = harness(repeat(10), 1, SMALL);
    harness.send(0, [0, 1]);
    assert_eq!(harness.settle(), Progress::Blocked { wake_at: None });
    harness.trigger(1, CheckpointMode::Unaligned);
    harness.announce(0, barrier(1, BarrierMode::Unaligned));
    harness.settle();
    let delivered = harness.receive_batch();
    assert_eq!(harness.announced, [Announcement { mark: barrier(1, BarrierMode::Unaligned), cut: 1 }]);
    let (id, snapshot) = harness.world.take_acknowledged().remove(0);
    assert_eq!(id, CheckpointId(1));
    let mut channels = snapshot.channels.iter().map(|channel| (&*channel.edge, channel.records));
    assert_eq!(channels.next(), Some(("in", 1)), "record 1 was not begun");
    assert_eq!(channels.next(), Some(("out", 8)), "record 0 was finished");
    assert_eq!(delivered, [0, 1]);
    assert_eq!(in_flight(&snapshot), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(harness.receive_all(), (2..20).collect::<Vec<_>>(), "and the task goes on");
}

#[test]
fn checkpoints_are_acknowledged_in_order_although_the_younger_is_durable_first() {
    let mut harness = harness(repeat(5000), 1, SMALL);
    // The outbox of the first is too large to be stored inline; its file waits for the disk.
    harness.send(0, [1 << 40]);
    harness.settle();
    harness.world.sim.set_deferred(true);
    harness.trigger(1, CheckpointMode::Aligned);
    harness.announce(0, barrier(1, BarrierMode::Aligned));
    harness.receive_all();
    harness.trigger(2, CheckpointMode::Aligned);
    harness.announce(0, barrier(2, BarrierMode::Aligned));
    harness.settle();
    assert!(harness.world.take_acknowledged().is_empty(), "the first is not durable");
    for _ in 0..20 {
        harness.world.sim.complete_all();
        harness.settle();
    }
    let ids: Vec<u64> = harness.world.take_acknowledged().iter().map(|(id, _)| id.0).collect();
    assert_eq!(ids, [1, 2]);
    assert_eq!(harness.world.sim.files().len(), 1, "the file stays");
}

#[test]
fn an_aborted_checkpoint_leaves_no_open_file_and_no_file() {
    // Opening, writing, syncing.
    for completed_before_abort in 0..3 {
        let mut harness = harness(repeat(5000), 1, SMALL);
        harness.send(0, [1 << 40]);
        harness.settle();
        harness.world.sim.set_deferred(true);
        harness.trigger(1, CheckpointMode::Unaligned);
        harness.announce(0, barrier(1, BarrierMode::Unaligned));
        harness.settle();
        for _ in 0..completed_before_abort {
            harness.world.sim.complete_next(0);
            harness.settle();
        }
        harness.task.command(TaskCommand::Abort(CheckpointId(1), None));
        harness.settle();
        for _ in 0..10 {
            harness.world.sim.complete_all();
            harness.settle();
        }
        assert!(harness.world.take_acknowledged().is_empty());
        let log = harness.world.sim.op_log();
        let count = |kind| log.iter().filter(|op| op.kind == kind && op.ok).count();
        assert_eq!(count(OpKind::Open), 1);
        assert_eq!(count(OpKind::Close), 1, "aborted after {completed_before_abort} requests");
        let left = harness.world.sim.files();
        // One that was being created as the task gave it up is for the sweep before the next attempt.
        assert!(left.is_empty() || completed_before_abort == 0, "{left:?}");
    }
}

#[test]
fn a_failed_write_declines_the_checkpoint_and_closes_its_file() {
    let mut harness = harness(repeat(5000), 1, SMALL);
    harness.send(0, [1 << 40]);
    harness.settle();
    harness.world.sim.fail_next(OpKind::Write, thalweg_storage::io::Fault::NoSpace);
    harness.trigger(1, CheckpointMode::Unaligned);
    harness.announce(0, barrier(1, BarrierMode::Unaligned));
    harness.settle();
    assert_eq!(harness.world.reported(|report| matches!(report, Report::Declined(..))), 1);
    let log = harness.world.sim.op_log();
    assert_eq!(log.iter().filter(|op| op.kind == OpKind::Close && op.ok).count(), 1);
    harness.task.command(TaskCommand::Abort(CheckpointId(1), None));
    assert_eq!(harness.receive_all().len(), 5000, "the task goes on");
    harness.trigger(2, CheckpointMode::Unaligned);
    harness.announce(0, barrier(2, BarrierMode::Unaligned));
    harness.settle();
    assert_eq!(harness.world.take_acknowledged().len(), 1);
}

/// Takes all records at no cost.
struct Discard;

impl Feed<u64> for Discard {
    fn prepare(&mut self, upcoming: &[u64]) -> usize {
        upcoming.len()
    }
    fn ready(&mut self) -> Result<bool, Failure> {
        Ok(true)
    }
    fn process(&mut self, slice: &mut Slice<'_, u64>) -> Result<Flow, Failure> {
        while slice.take().is_some() {}
        Ok(Flow::Continue)
    }
}

#[test]
fn slices_grow_back_on_small_batches_after_one_slow_record() {
    // Each read of the clock takes this long; a slow record is one during which it jumps.
    let function = |n: u64| n + 1;
    let mut harness =
        harness(Map { uid: "map".into(), function }, 1, Sizes { ring: 64, batch: 1, pool: 1 << 20 });
    let body = harness.task.body();
    let mut gate = Gate::new(vec![ChannelKind::Exchange]);
    let budget = Budget { records: 1000, nanos: 1_000_000 };
    let time = std::cell::Cell::new(0);
    let run = |body: &mut Chain<Map<_>>, gate: &mut Gate, nanos_per_slice: u64| {
        body.look(gate);
        let clock = || {
            time.set(time.get() + nanos_per_slice);
            time.get()
        };
        body.inputs.run(gate, budget, &clock, &mut Discard)
    };
    (0..60).for_each(|n| harness.senders[0].push(n));
    run(body, &mut gate, 60_000).unwrap();
    (0..3).for_each(|_| _ = run(body, &mut gate, 100).unwrap());
    (0..60).for_each(|n| harness.senders[0].push(n));
    let before = body.records_in();
    run(body, &mut gate, 100).unwrap();
    assert_eq!(body.records_in() - before, 60, "one run takes all batches that are there");
}

#[derive(Clone, Debug)]
enum Step {
    Send(usize, u8),
    Flush(usize),
    Announce(usize),
    Trigger,
    Poll(usize),
    Receive,
}

fn step(inputs: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..inputs, 1..6_u8).prop_map(|(input, count)| Step::Send(input, count)),
        3 => (0..inputs).prop_map(Step::Flush),
        1 => (0..inputs).prop_map(Step::Announce),
        1 => Just(Step::Trigger),
        4 => (1..12_usize).prop_map(Step::Poll),
        3 => Just(Step::Receive),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Chandy and Lamport's condition for one task: what it delivered before its own barrier, what its snapshot holds,
    /// and what its neighbours send behind theirs, is each record once.
    #[test]
    fn prop_a_snapshot_and_what_surrounds_it_hold_each_record_once(
        mode in 0..3_usize, times in 1..4_u64, ring in 1..3_usize, batch in 1..4_usize, pool in 0..300_usize,
        steps in proptest::collection::vec(step(3), 1..150),
    ) {
        let (trigger, announced) = [
            (CheckpointMode::Unaligned, BarrierMode::Unaligned),
            (CheckpointMode::Aligned, BarrierMode::Aligned),
            (CheckpointMode::AlignedWithTimeout(Duration::from_nanos(50)), BarrierMode::Aligned),
        ][mode];
        let mut harness = harness(repeat(times), 3, Sizes { ring, batch, pool });
        let mut next = 0;
        let (mut triggered, mut seen_barrier) = (false, [false; 3]);
        // What the neighbours have pushed before their barriers, and delivered behind the task's own.
        let mut before_cut: Vec<u64> = Vec::new();
        let mut delivered: Vec<u64> = Vec::new();
        let mut sent: Vec<Vec<u64>> = vec![Vec::new(); 3];
        let end = (0..3).map(Step::Flush).chain((0..3).map(Step::Announce)).chain([Step::Trigger, Step::Poll(1000), Step::Receive]);
        for step in steps.into_iter().chain(end) {
            harness.world.clock.advance_to(Nanos(harness.world.clock.now().0 + 1));
            match step {
                Step::Send(input, count) => for _ in 0..count {
                    harness.senders[input].push(next);
                    sent[input].push(next);
                    next += 1;
                },
                Step::Flush(input) => harness.flush(input),
                Step::Announce(input) if !seen_barrier[input] => {
                    seen_barrier[input] = true;
                    let unsent: usize = harness.senders[input].unsent().map(<[u64]>::len).sum();
                    before_cut.extend(&sent[input][..sent[input].len() - unsent]);
                    harness.announce(input, barrier(1, announced));
                }
                Step::Trigger if !triggered => {
                    triggered = true;
                    harness.trigger(1, trigger);
                }
                Step::Announce(_) | Step::Trigger => {}
                Step::Poll(records) => _ = harness.poll_with(Budget { records, nanos: 1_000_000 }),
                Step::Receive => delivered.extend(harness.receive_batch()),
            }
        }
        // The task may need room before it can align.
        let cut = loop {
            delivered.extend(harness.receive_all());
            harness.world.clock.advance_to(Nanos(1000));
            harness.settle();
            if let Some(announcement) = harness.announced.first() {
                break announcement.cut;
            }
        };
        delivered.extend(harness.receive_all());
        prop_assert_eq!(harness.announced.len(), 1);
        let (_, snapshot) = harness.world.take_acknowledged().pop().expect("the checkpoint is acknowledged");
        // What comes in again after a restore: input records unprocessed, and output records not sent.
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for channel in &snapshot.channels {
            let one = TaskSnapshot { channels: vec![channel.clone()], segments: None, operators: Vec::new(), stats: snapshot.stats };
            if &*channel.edge == "in" { inputs.extend(in_flight(&one)) } else { outputs.extend(in_flight(&one)) }
        }
        let expand = |n: &u64| (0..times).map(move |i| n * times + i).collect::<Vec<_>>();
        // All output is delivered in the end, in batches; those up to the cut came before the task's barrier.
        prop_assert!(cut <= harness.receiver.taken());
        let mut of_snapshot: Vec<u64> = inputs.iter().flat_map(expand).chain(outputs.iter().copied()).collect();
        let mut expected: Vec<u64> = before_cut.iter().flat_map(expand).collect();
        // Together with what was delivered before the barrier this is everything that came before the barriers.
        let before_barrier: Vec<u64> = expected.iter().copied().filter(|r| !of_snapshot.contains(r)).collect();
        let first = delivered.iter().take(before_barrier.len()).copied().collect::<std::collections::BTreeSet<_>>();
        prop_assert_eq!(first, before_barrier.iter().copied().collect());
        of_snapshot.extend(before_barrier);
        of_snapshot.sort_unstable();
        expected.sort_unstable();
        prop_assert_eq!(of_snapshot, expected);
    }
}

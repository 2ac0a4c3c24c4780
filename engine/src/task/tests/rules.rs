//! What a task itself has to do right for checkpoints to be exact, one claim each.

use super::*;
use crate::operator::Identity;
use crate::operators::FlatMap;

#[test]
pub(crate) fn a_snapshot_waits_until_every_side_ring_has_room() {
    let mut harness = harness(Identity, 1, SMALL);
    for id in 1..=5 {
        harness.trigger(id, CheckpointMode::Aligned);
        harness.announce(0, barrier(id, BarrierMode::Aligned));
        harness.settle();
    }
    let ids = |acknowledged: Vec<(CheckpointId, TaskSnapshot)>| -> Vec<u64> {
        acknowledged.iter().map(|(id, _)| id.0).collect()
    };
    assert_eq!(ids(harness.world.take_acknowledged()), [1, 2, 3, 4], "the output's side ring holds four");
    harness.receive_batch();
    harness.settle();
    assert_eq!(ids(harness.world.take_acknowledged()), [5]);
    harness.receive_batch();
    assert_eq!(harness.announced.len(), 5);
}

/// Makes ten records of one.
fn tenfold() -> impl Link<u64, Out = u64> {
    FlatMap { uid: "tenfold".into(), function: |n: u64| (0..10).map(move |i| n * 10 + i) }
}

/// A task that makes ten records of each of `records`, which come as one batch. Its output is blocked by the first.
fn blocked<L: Link<u64, Out = u64>>(tenfold: L, records: u64) -> Harness<Chain<L>> {
    let mut harness = harness(tenfold, 1, SMALL);
    let (sender, receiver) = a_channel(Sizes { ring: 2, batch: 8, pool: 1 << 20 });
    harness.senders[0] = sender;
    let inputs = vec![Input { edge: "in".into(), producer: 0, receiver }];
    harness.task.body().inputs = Inputs::new(inputs, 0);
    harness.send(0, 0..records);
    assert_eq!(harness.settle(), Progress::Blocked { wake_at: None });
    harness
}

#[test]
pub(crate) fn an_aligned_snapshot_holds_what_waits_in_the_outbox() {
    let mut harness = blocked(tenfold(), 1);
    harness.trigger(1, CheckpointMode::Aligned);
    harness.announce(0, barrier(1, BarrierMode::Aligned));
    for _ in 0..20 {
        harness.settle();
        if let Some((_, snapshot)) = harness.world.take_acknowledged().pop() {
            let pushed = harness.receiver.taken() as usize;
            harness.receive_batch();
            let cut = harness.announced[0].cut as usize;
            assert!(cut < 5 && pushed <= cut);
            let rest: Vec<u64> = (2 * cut as u64..10).collect();
            assert_eq!(
                in_flight(&snapshot),
                rest,
                "what was sent ends at the cut, the snapshot holds the rest"
            );
            return;
        }
        harness.receive_batch();
    }
    panic!("the checkpoint is not acknowledged");
}

#[test]
pub(crate) fn the_unprocessed_rest_of_a_batch_is_channel_state() {
    let mut harness = blocked(tenfold(), 8);
    let begun = harness.task.body().inputs.records();
    assert_eq!(begun, 1, "the batch is in progress");
    harness.trigger(1, CheckpointMode::Unaligned);
    harness.announce(0, barrier(1, BarrierMode::Unaligned));
    harness.settle();
    let (_, snapshot) = harness.world.take_acknowledged().remove(0);
    let rest = snapshot.channels.iter().find(|channel| &*channel.edge == "in").map_or(0, |c| c.records);
    assert_eq!(rest, 8 - begun);
}

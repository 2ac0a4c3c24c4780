//! Restored in-flight data, and what makes a snapshot one that can be restored at any parallelism.

use super::*;
use crate::operator::Identity;
use crate::operators::FlatMap;

/// An input channel with these batches of one record, by generation.
fn restored_channel(batches: &[(u32, u64)], next_generation: u32) -> (Sender<u64>, Receiver<u64>) {
    let mut restored = Restored::before(next_generation);
    batches.iter().for_each(|(generation, record)| restored.push(*generation, vec![*record]));
    a_channel_with(SMALL, restored)
}

fn recovering(inputs: &[&[(u32, u64)]]) -> Harness<Chain<Identity>> {
    let inputs = inputs.iter().map(|batches| restored_channel(batches, 2)).collect();
    wired(Identity, inputs, an_output(Sizes { ring: 16, ..SMALL }, false), HashMap::new())
}

#[test]
fn what_was_restored_comes_before_what_is_new_and_older_generations_first_on_all_channels() {
    let mut harness = recovering(&[&[(1, 30), (1, 31)], &[(0, 10), (1, 32)], &[], &[(0, 11)]]);
    harness.send(2, [40]);
    harness.send(3, [41]);
    let mut records = harness.receive_all();
    let new = records.split_off(5);
    let second = records.split_off(2);
    assert_eq!(records, [10, 11]);
    assert_eq!(second.iter().max(), Some(&32));
    assert!(second.contains(&30) && second.contains(&31));
    assert_eq!(new, [40, 41]);
}

#[test]
fn a_ring_of_one_batch_holds_no_restored_data_up_and_the_other_way_round() {
    let many: Vec<(u32, u64)> = (0..100).map(|n| (u32::from(n >= 50), n)).collect();
    let mut harness = recovering(&[&many, &[]]);
    harness.send(1, [200, 201, 202]);
    let mut records = harness.receive_all();
    harness.flush(1);
    records.extend(harness.receive_all());
    assert_eq!(records, (0..100).chain(200..203).collect::<Vec<_>>());
}

#[test]
fn a_checkpoint_during_recovery_tells_restored_from_new_records() {
    let mut harness = recovering(&[&[(0, 10), (1, 11)], &[]]);
    harness.send(0, [12]);
    harness.send(1, [20]);
    harness.trigger(1, CheckpointMode::Unaligned);
    for input in 0..2 {
        harness.announce(input, barrier(1, BarrierMode::Unaligned));
    }
    harness.settle();
    let (_, snapshot) = harness.world.take_acknowledged().remove(0);
    let stored: Vec<(u32, u32, u64)> =
        snapshot.channels.iter().map(|c| (c.producer, c.generation, c.records)).collect();
    assert_eq!(stored, [(0, 0, 1), (0, 1, 1), (0, 2, 1), (1, 2, 1)]);
    assert_eq!(in_flight(&snapshot), [10, 11, 12, 20]);
    let mut records = harness.receive_all();
    let mut new = records.split_off(2);
    new.sort_unstable();
    assert_eq!((records, new), (vec![10, 11], vec![12, 20]), "and the task goes on");
}

fn repeat(times: u64) -> impl Link<u64, Out = u64> {
    FlatMap { uid: "repeat".into(), function: move |n: u64| (0..times).map(move |i| n * times + i) }
}

#[test]
fn a_snapshot_waits_until_an_edge_that_barriers_do_not_overtake_has_nothing_in_its_outbox() {
    let inputs = vec![a_channel(SMALL)];
    let mut harness = wired(repeat(10), inputs, an_output(SMALL, true), HashMap::new());
    harness.send(0, [0, 1]);
    assert_eq!(harness.settle(), Progress::Blocked { wake_at: None });
    harness.trigger(1, CheckpointMode::Unaligned);
    harness.announce(0, barrier(1, BarrierMode::Unaligned));
    let mut delivered = Vec::new();
    while harness.world.reports.0.lock().unwrap().is_empty() {
        assert_eq!(harness.settle(), Progress::Blocked { wake_at: None });
        assert!(harness.announced.is_empty(), "announced in front of records that wait");
        let batch = harness.receive_batch();
        assert!(!batch.is_empty(), "the task neither sends nor snapshots");
        delivered.extend(batch);
        harness.poll();
    }
    let (_, snapshot) = harness.world.take_acknowledged().remove(0);
    let channels: Vec<(&str, u64)> =
        snapshot.channels.iter().map(|channel| (&*channel.edge, channel.records)).collect();
    assert_eq!(channels, [("in", 1)], "record 0 is finished and sent, record 1 not begun");
    delivered.extend(harness.receive_all());
    assert_eq!(delivered, (0..20).collect::<Vec<_>>());
    assert_eq!(harness.announced.first().map(|announcement| announcement.cut), Some(5));
}

#[test]
fn an_abort_while_a_snapshot_waits_for_the_outbox_lets_the_task_go_on() {
    let inputs = vec![a_channel(SMALL)];
    let mut harness = wired(repeat(10), inputs, an_output(SMALL, true), HashMap::new());
    harness.send(0, [0, 1]);
    harness.settle();
    harness.trigger(1, CheckpointMode::Unaligned);
    harness.settle();
    harness.task.command(TaskCommand::Abort(CheckpointId(1), None));
    assert_eq!(harness.receive_all(), (0..20).collect::<Vec<_>>());
    assert!(harness.announced.is_empty() && harness.world.take_acknowledged().is_empty());
}

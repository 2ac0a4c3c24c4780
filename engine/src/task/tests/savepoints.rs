//! What a task does about savepoints, and about a stop with one.

use super::*;
use crate::control::StopMode;
use crate::operators::Map;
use std::path::Path;

fn identity(inputs: usize) -> Harness<Chain<Map<fn(u64) -> u64>>> {
    let function: fn(u64) -> u64 = |n| n;
    harness(Map { uid: "map".into(), function }, inputs, SMALL)
}

impl<B: Body> Harness<B> {
    fn savepoint(&mut self, checkpoint: u64, stop: Option<StopMode>) {
        self.task.command(TaskCommand::Trigger(Trigger {
            checkpoint: CheckpointId(checkpoint),
            mode: CheckpointMode::Aligned,
            kind: SnapshotKind::Savepoint { dir: Path::new("/savepoint").into(), stop },
            triggered_at: self.world.clock.now(),
        }));
    }

    fn pass(&mut self, time: Duration) {
        let clock = &self.world.clock;
        clock.advance_to(clock.now().after(time));
    }

    fn acknowledged(&self) -> usize {
        self.world.reported(|report| matches!(report, Report::Acknowledged(..)))
    }

    fn finished(&self) -> usize {
        self.world.reported(|report| matches!(report, Report::Finished(..)))
    }

    fn barriers(&mut self) -> usize {
        let announced = &mut self.announced;
        self.receiver.look(|announcement| announced.push(announcement));
        self.announced.iter().filter(|announcement| matches!(announcement.mark, Mark::Barrier { .. })).count()
    }
}

fn aligned(checkpoint: u64) -> Mark {
    Mark::Barrier { checkpoint: CheckpointId(checkpoint), mode: BarrierMode::Aligned }
}

#[test]
fn a_savepoint_waits_until_everything_is_sent_and_nothing_is_processed_meanwhile() {
    let mut task = identity(2);
    // More than the ring and a batch hold.
    task.send(0, [1, 2]);
    task.settle();
    task.send(0, [3, 4]);
    task.settle();
    task.send(0, [5]);
    task.settle();
    task.savepoint(1, None);
    task.announce(0, aligned(1));
    task.send(1, [9]);
    task.announce(1, aligned(1));
    task.settle();
    assert_eq!((task.acknowledged(), task.barriers()), (0, 0), "the ring is full");
    let records = task.receive_all();
    let (_, snapshot) = task.world.take_acknowledged().pop().expect("taken once everything has left");
    assert!(snapshot.channels.is_empty(), "nothing is in flight");
    let mut sorted = records.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [1, 2, 3, 4, 5, 9]);
    assert_eq!(task.barriers(), 1);
    // It goes on afterwards.
    task.send(0, [6]);
    assert_eq!(task.receive_all(), [6]);
}

#[test]
fn a_suspended_task_stands_still_until_its_savepoint_is_complete_and_then_finishes() {
    let mut task = identity(1);
    task.savepoint(1, Some(StopMode::Suspend));
    task.announce(0, aligned(1));
    task.settle();
    assert_eq!((task.acknowledged(), task.finished()), (1, 0));
    task.send(0, [7]);
    assert!(task.receive_all().is_empty(), "it takes nothing in");
    task.task.command(TaskCommand::Complete(CheckpointId(1)));
    assert_eq!(task.settle(), Progress::Finished);
    assert_eq!(task.finished(), 1);
    assert!(task.receive_all().is_empty());
    assert!(!task.announced.iter().any(|announcement| announcement.mark == Mark::EndOfStream));
}

#[test]
fn a_suspended_task_goes_on_when_its_savepoint_fails() {
    let mut task = identity(1);
    task.savepoint(1, Some(StopMode::Suspend));
    task.announce(0, aligned(1));
    task.settle();
    task.send(0, [7]);
    assert!(task.receive_all().is_empty());
    task.task.command(TaskCommand::Abort(CheckpointId(1), None));
    assert_eq!(task.receive_all(), [7]);
    assert_eq!(task.finished(), 0);
}

#[test]
fn a_drained_task_snapshots_only_after_its_end() {
    let mut task = identity(1);
    task.savepoint(1, Some(StopMode::Drain));
    task.send(0, [1, 2]);
    task.settle();
    assert_eq!(task.receive_all(), [1, 2]);
    assert_eq!(task.acknowledged(), 0, "its input has not ended");
    task.end(0);
    task.settle();
    assert_eq!(task.receive_all(), Vec::<u64>::new());
    assert!(task.announced.iter().any(|announcement| announcement.mark == Mark::EndOfStream));
    assert_eq!(task.barriers(), 0, "the end stands for the barrier");
    let (_, snapshot) = task.world.take_acknowledged().pop().expect("taken at the end");
    assert!(snapshot.operators.iter().all(|(_, _, subtask)| subtask.finished));
}

#[test]
fn an_alignment_is_measured_from_the_first_barrier_to_the_snapshot() {
    let mut task = identity(2);
    task.trigger(1, CheckpointMode::Aligned);
    task.pass(Duration::from_micros(300));
    task.settle();
    task.announce(0, aligned(1));
    task.settle();
    task.pass(Duration::from_micros(500));
    task.announce(1, aligned(1));
    task.settle();
    let (_, snapshot) = task.world.take_acknowledged().pop().expect("taken once both have come");
    assert_eq!((snapshot.stats.start_delay_ns, snapshot.stats.alignment_ns), (300_000, 500_000));
}

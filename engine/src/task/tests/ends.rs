//! The end of a task: closing, draining, the last commits, and tasks restored after their end.

use super::*;
use crate::connector::{BoxError, ConnectorContext, PreparedOutput, Sink, SinkSnapshot, SinkWriter};
use crate::operator::{Collector, OperatorRestore, Then};
use crate::operators::{Process, ProcessFunction, SinkStage};
use thalweg_storage::manifest::Committable;

/// Emits `last` records when its input ends.
#[derive(Clone)]
struct Farewell {
    first: u64,
    last: u64,
}

impl ProcessFunction<u64> for Farewell {
    type Out = u64;
    type State = ();

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        out.collect(record);
        Ok(())
    }

    fn close(&mut self, out: &mut Collector<u64>) -> Result<(), BoxError> {
        (self.first..self.first + self.last).for_each(|record| out.collect(record));
        Ok(())
    }
}

fn farewells() -> impl Link<u64, Out = u64> {
    let farewell = |uid: &str, first, last| Process { uid: uid.into(), function: Farewell { first, last } };
    Then(farewell("first", 100, 5), farewell("second", 200, 2))
}

#[test]
fn operators_close_from_first_to_last_and_then_the_stream_ends() {
    let mut harness = harness(farewells(), 2, SMALL);
    harness.send(0, [1]);
    harness.end(0);
    assert_eq!(harness.receive_all(), [1]);
    harness.send(1, [2]);
    harness.end(1);
    assert_eq!(harness.receive_all(), [2, 100, 101, 102, 103, 104, 200, 201]);
    assert_eq!(harness.announced.last().map(|a| a.mark), Some(Mark::EndOfStream));
    assert_eq!(harness.announced[0].cut, harness.receiver.taken());
    assert_eq!(harness.settle(), Progress::Finished);
    assert_eq!(harness.world.reported(|report| matches!(report, Report::Finished(..))), 1);
}

#[test]
fn a_barrier_in_the_middle_of_closing_closes_the_whole_chain_first() {
    let mut harness = harness(farewells(), 1, SMALL);
    harness.end(0);
    harness.settle();
    harness.trigger(1, CheckpointMode::Unaligned);
    harness.settle();
    let (_, snapshot) = harness.world.take_acknowledged().pop().unwrap();
    assert!(snapshot.operators.iter().all(|(_, _, state)| state.finished));
    let sent = harness.receive_batch();
    assert_eq!(sent, [100, 101]);
    assert_eq!(in_flight(&snapshot), [102, 103, 104, 200, 201]);
    assert_eq!(harness.receive_all(), [102, 103, 104, 200, 201], "each once");
    assert_eq!(harness.settle(), Progress::Finished);
}

#[test]
fn a_task_restored_after_its_end_emits_nothing_and_ends_again() {
    let finished = || OperatorRestore { finished: true, ..OperatorRestore::default() };
    let restore = ["first", "second"].map(|uid| (uid.to_owned(), finished()));
    let mut harness = restored(farewells(), 1, SMALL, restore.into());
    harness.end(0);
    assert!(harness.receive_all().is_empty());
    assert_eq!(harness.announced, [Announcement { mark: Mark::EndOfStream, cut: 0 }]);
    harness.trigger(1, CheckpointMode::Unaligned);
    assert_eq!(harness.settle(), Progress::Finished);
    let (_, snapshot) = harness.world.take_acknowledged().pop().unwrap();
    assert!(snapshot.operators.iter().all(|(_, _, state)| state.finished));
}

#[test]
fn a_finished_task_acknowledges_checkpoints_and_announces_nothing() {
    let mut harness = harness(farewells(), 1, SMALL);
    harness.end(0);
    harness.receive_all();
    assert_eq!(harness.settle(), Progress::Finished);
    harness.announced.clear();
    for (id, mode) in
        [(1, CheckpointMode::Aligned), (2, CheckpointMode::Unaligned), (3, CheckpointMode::AtLeastOnce)]
    {
        harness.trigger(id, mode);
        harness.settle();
        assert_eq!(harness.world.take_acknowledged().len(), 1);
        harness.task.command(TaskCommand::Complete(CheckpointId(id)));
        harness.settle();
    }
    harness.receive_batch();
    assert!(harness.announced.is_empty());
}

/// What a sink was asked to do, and what it says.
#[derive(Default)]
struct Told {
    written: Vec<u64>,
    commits: Vec<u64>,
    restored: Vec<u64>,
    no_room: bool,
    slow_commits: bool,
    wrote_without_room: bool,
    /// Prepared output is named only once this is no longer so.
    slow_names: bool,
    unnamed: Vec<u64>,
}

#[derive(Clone, Default)]
struct Spy(Arc<Mutex<Told>>);

struct SpyWriter(Spy, u64);

impl Sink for Spy {
    type Record = u64;
    type State = ();
    type Writer = SpyWriter;

    fn writer(&self, _: ConnectorContext, _: Vec<()>, c: Vec<Committable>) -> Result<SpyWriter, BoxError> {
        self.0.lock().unwrap().restored = c.iter().map(|c| c.checkpoint.0).collect();
        Ok(SpyWriter(self.clone(), 0))
    }
}

impl SinkWriter for SpyWriter {
    type Record = u64;
    type State = ();

    fn write(&mut self, _: Nanos, record: u64) -> Result<bool, BoxError> {
        let mut told = self.0.0.lock().unwrap();
        told.wrote_without_room |= told.no_room;
        told.written.push(record);
        self.1 += 1;
        Ok(!told.no_room)
    }
    fn poll(&mut self, _: Nanos) -> Result<bool, BoxError> {
        Ok(!self.0.0.lock().unwrap().no_room)
    }
    fn prepare(&mut self, checkpoint: CheckpointId, _: bool) -> Result<SinkSnapshot<()>, BoxError> {
        let count = std::mem::take(&mut self.1);
        let mut told = self.0.0.lock().unwrap();
        if told.slow_names {
            told.unnamed.extend((count > 0).then_some(checkpoint.0));
            return Ok(SinkSnapshot { state: None, committables: Vec::new() });
        }
        let committables = if count == 0 { Vec::new() } else { vec![vec![count as u8]] };
        Ok(SinkSnapshot { state: None, committables })
    }
    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        self.0.0.lock().unwrap().commits.extend(committables.iter().map(|c| c.checkpoint.0));
        Ok(())
    }
    fn committed(&self) -> bool {
        !self.0.0.lock().unwrap().slow_commits
    }
    fn has_unprepared(&self) -> bool {
        self.1 > 0 || !self.0.0.lock().unwrap().unnamed.is_empty()
    }
    fn prepared(&mut self, _: CheckpointId) -> Result<bool, BoxError> {
        Ok(!self.0.0.lock().unwrap().slow_names)
    }
    fn take_prepared(&mut self) -> Vec<PreparedOutput> {
        let unnamed = std::mem::take(&mut self.0.0.lock().unwrap().unnamed);
        let named = |id| PreparedOutput { checkpoint: CheckpointId(id), subtask: 0, bytes: vec![1] };
        unnamed.into_iter().map(named).collect()
    }
}

struct SinkHarness {
    world: World,
    task: OperatorTask<OneInput<u64, SinkStage<SpyWriter>>>,
    sender: Sender<u64>,
    spy: Spy,
}

fn sink_harness(restored: Vec<Committable>) -> SinkHarness {
    let world = World::new();
    let mut bind = world.bind();
    bind.restore
        .insert("sink".into(), OperatorRestore { committables: restored, ..OperatorRestore::default() });
    let spy = Spy::default();
    let stage = SinkStage::open(&spy, &"sink".into(), &mut bind).unwrap();
    let (sender, receiver) = a_channel(Sizes { ring: 8, ..SMALL });
    let inputs = Inputs::new(vec![Input { edge: "in".into(), producer: 0, receiver }], 0);
    let task = world.task(OneInput { inputs, stage }, Gate::new(vec![ChannelKind::Exchange]));
    SinkHarness { world, task, sender, spy }
}

impl SinkHarness {
    fn settle(&mut self) -> Progress {
        loop {
            let progress = self.task.poll(Nanos(0), Budget { records: 100, nanos: 1000 }).unwrap();
            if progress != Progress::Busy {
                return progress;
            }
        }
    }

    fn send(&mut self, record: u64) {
        self.sender.push(record);
        self.sender.flush(Nanos(0), Duration::ZERO, true);
    }

    /// Takes part in a checkpoint; returns the checkpoints of the committables listed.
    fn checkpoint(&mut self, id: u64) -> Vec<u64> {
        self.snapshot(id);
        let (_, snapshot) = self.world.take_acknowledged().pop().expect("acknowledged");
        snapshot.operators[0].2.committables.iter().map(|c| c.checkpoint.0).collect()
    }

    fn snapshot(&mut self, id: u64) {
        let trigger = Trigger {
            checkpoint: CheckpointId(id),
            mode: CheckpointMode::Unaligned,
            kind: SnapshotKind::Checkpoint,
            triggered_at: Nanos(0),
        };
        self.task.command(TaskCommand::Trigger(trigger));
        if !self.sender_ended() {
            let cut = self.sender.pushed();
            self.sender.announce(Announcement { mark: barrier(id, BarrierMode::Unaligned), cut });
        }
        self.settle();
    }

    fn sender_ended(&self) -> bool {
        self.world.reports.0.lock().unwrap().iter().any(|r| matches!(r, Report::AwaitsCommit(..)))
    }

    fn command(&mut self, command: TaskCommand) {
        self.task.command(command);
        self.settle();
    }

    fn commits(&self) -> Vec<u64> {
        self.spy.0.lock().unwrap().commits.clone()
    }
}

#[test]
pub(crate) fn output_of_an_aborted_checkpoint_is_listed_and_committed_by_the_next() {
    let mut sink = sink_harness(Vec::new());
    sink.send(1);
    sink.settle();
    assert_eq!(sink.checkpoint(1), [1]);
    sink.command(TaskCommand::Abort(CheckpointId(1), None));
    assert!(sink.commits().is_empty());
    sink.send(2);
    sink.settle();
    assert_eq!(sink.checkpoint(2), [1, 2]);
    sink.command(TaskCommand::Complete(CheckpointId(2)));
    assert_eq!(sink.commits(), [1, 2]);
    assert!(sink.checkpoint(3).is_empty(), "what is committed is listed no more");
}

#[test]
fn a_commit_under_way_is_listed_and_a_later_one_waits_for_it() {
    let mut sink = sink_harness(Vec::new());
    sink.spy.0.lock().unwrap().slow_commits = true;
    for id in 1..=3 {
        sink.send(id);
        sink.settle();
        let listed: Vec<u64> = (1..=id).collect();
        assert_eq!(sink.checkpoint(id), listed);
        sink.command(TaskCommand::Complete(CheckpointId(id)));
        assert_eq!(sink.commits(), [1]);
    }
    sink.spy.0.lock().unwrap().slow_commits = false;
    sink.settle();
    assert_eq!(sink.commits(), [1, 2, 3]);
}

#[test]
fn restored_committables_are_listed_until_the_writer_has_committed_them() {
    let committable =
        Committable { checkpoint: CheckpointId(1), subtask: 0, attempt: AttemptId(1), bytes: vec![1] };
    let mut sink = sink_harness(vec![committable]);
    assert_eq!(sink.spy.0.lock().unwrap().restored, [1]);
    sink.spy.0.lock().unwrap().slow_commits = true;
    assert_eq!(sink.checkpoint(2), [1]);
    sink.spy.0.lock().unwrap().slow_commits = false;
    assert!(sink.checkpoint(3).is_empty());
}

#[test]
fn a_sink_without_room_gets_no_record_until_it_has_some() {
    let mut sink = sink_harness(Vec::new());
    sink.spy.0.lock().unwrap().no_room = true;
    sink.send(1);
    assert_eq!(sink.settle(), Progress::Blocked { wake_at: None });
    assert!(!sink.spy.0.lock().unwrap().wrote_without_room);
    sink.spy.0.lock().unwrap().no_room = false;
    sink.settle();
    assert_eq!(sink.spy.0.lock().unwrap().written, [1]);
}

#[test]
fn a_sink_ends_only_when_all_of_its_output_is_committed() {
    let mut sink = sink_harness(Vec::new());
    sink.send(1);
    let cut = sink.sender.pushed();
    sink.sender.announce(Announcement { mark: Mark::EndOfStream, cut });
    sink.settle();
    let awaits = |sink: &SinkHarness| sink.world.reported(|r| matches!(r, Report::AwaitsCommit(..)));
    let finished = |sink: &SinkHarness| sink.world.reported(|r| matches!(r, Report::Finished(..)));
    assert_eq!((awaits(&sink), finished(&sink)), (1, 0));
    assert_eq!(sink.checkpoint(1), [1]);
    sink.command(TaskCommand::Abort(CheckpointId(1), None));
    assert_eq!((awaits(&sink), finished(&sink)), (1, 0), "it asks again");
    assert_eq!(sink.checkpoint(2), [1]);
    sink.command(TaskCommand::Complete(CheckpointId(2)));
    assert_eq!(sink.commits(), [1]);
    assert_eq!(finished(&sink), 1);
}

#[test]
fn output_that_is_named_late_is_listed_by_the_checkpoint_that_waits_for_the_name() {
    let mut sink = sink_harness(Vec::new());
    sink.spy.0.lock().unwrap().slow_names = true;
    for id in 1..=3 {
        sink.send(id);
        sink.settle();
        sink.snapshot(id);
        assert!(sink.world.take_acknowledged().is_empty(), "nothing is durable yet");
    }
    sink.command(TaskCommand::Abort(CheckpointId(1), None));
    sink.spy.0.lock().unwrap().slow_names = false;
    sink.settle();
    let acknowledged = sink.world.take_acknowledged();
    let listed = |snapshot: &TaskSnapshot| -> Vec<u64> {
        snapshot.operators[0].2.committables.iter().map(|c| c.checkpoint.0).collect()
    };
    let listed: Vec<_> = acknowledged.iter().map(|(id, snapshot)| (*id, listed(snapshot))).collect();
    assert_eq!(listed, [(CheckpointId(2), vec![1, 2]), (CheckpointId(3), vec![1, 2, 3])]);
    sink.command(TaskCommand::Complete(CheckpointId(2)));
    assert_eq!(sink.commits(), [1, 2]);
}

#[test]
fn a_sink_whose_last_output_is_named_late_does_not_end_before_it_is_committed() {
    let mut sink = sink_harness(Vec::new());
    sink.spy.0.lock().unwrap().slow_names = true;
    sink.send(1);
    let cut = sink.sender.pushed();
    sink.sender.announce(Announcement { mark: Mark::EndOfStream, cut });
    sink.settle();
    let finished = |sink: &SinkHarness| sink.world.reported(|r| matches!(r, Report::Finished(..)));
    sink.snapshot(1);
    // The checkpoint is aborted before its output has a name, and the next one lists it.
    sink.command(TaskCommand::Abort(CheckpointId(1), None));
    sink.spy.0.lock().unwrap().slow_names = false;
    sink.settle();
    assert_eq!(finished(&sink), 0);
    assert_eq!(sink.checkpoint(2), [1]);
    sink.command(TaskCommand::Complete(CheckpointId(2)));
    assert_eq!((sink.commits(), finished(&sink)), (vec![1], 1));
}

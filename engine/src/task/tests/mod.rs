//! Tasks driven by hand: fake neighbours at both ends of their channels, a simulated clock and disk, reports collected.

mod checkpoints;
pub(crate) mod ends;
mod recovery;
pub(crate) mod rules;
mod savepoints;
mod sources;
mod waiting;

use super::{Body, Budget, Input, Inputs, OneInput, OperatorTask, PartFiles, Progress, Task, TaskParts};
use crate::barrier::{ChannelKind, CheckpointMode, Gate};
use crate::clock::{Clock, Nanos, SimClock};
use crate::control::{Report, ReportSink, SnapshotKind, TaskCommand, TaskId, TaskSnapshot, Trigger};
use crate::graph::RoundRobin;
use crate::metrics::TaskMetrics;
use crate::operator::{BindContext, Edge, Link, OperatorRestore, Output, OutputPort};
use crate::ring::doorbell::{Doorbell, Wake};
use crate::ring::{
    Announcement, BarrierMode, BatchPool, ChannelSpec, Mark, Receiver, Restored, Sender, channel,
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_storage::io::{DiskHandle, Notify, SimDisk};
use thalweg_storage::key_group::KeyGroups;
use thalweg_storage::snapshot::KeyedSnapshots;
use thalweg_storage::table::Backend;
use thalweg_storage::{AttemptId, CheckpointId};

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

impl Notify for Nobody {
    fn notify(&self) {}
}

/// Collects what a task reports.
#[derive(Default)]
struct Reports(Mutex<Vec<Report>>);

impl ReportSink for Reports {
    fn report(&self, report: Report) {
        self.0.lock().unwrap().push(report);
    }
}

/// Sizes of the channels around a task.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    ring: usize,
    batch: usize,
    pool: usize,
}

const SMALL: Sizes = Sizes { ring: 1, batch: 2, pool: 1 << 20 };

fn a_channel<T>(sizes: Sizes) -> (Sender<T>, Receiver<T>) {
    a_channel_with(sizes, Restored::default())
}

fn a_channel_with<T>(sizes: Sizes, restored: Restored<T>) -> (Sender<T>, Receiver<T>) {
    let spec = ChannelSpec {
        ring_batches: sizes.ring,
        batch_records: sizes.batch,
        side_entries: 4,
        pool: Arc::new(BatchPool::new(sizes.pool)),
        consumer: Doorbell::new(Nobody),
        producer: Doorbell::new(Nobody),
    };
    channel(spec, restored)
}

/// What surrounds a task.
struct World {
    clock: Arc<SimClock>,
    sim: Arc<SimDisk>,
    disk: DiskHandle,
    reports: Arc<Reports>,
}

impl World {
    fn new() -> Self {
        let sim = SimDisk::new();
        let disk = DiskHandle::new(Arc::clone(&sim) as _);
        for dir in ["/job", "/job/shared"] {
            disk.create_dir(dir).wait().unwrap();
        }
        (1..=20).for_each(|id| disk.create_dir(format!("/job/chk-{id}")).wait().unwrap());
        World { clock: Arc::default(), sim, disk, reports: Arc::default() }
    }

    fn bind(&self) -> BindContext {
        BindContext {
            job: "job".into(),
            partition: 0,
            parallelism: 1,
            attempt: AttemptId(1),
            restored_from: None,
            key_groups: KeyGroups::new(16),
            backend: Backend::HashMap,
            clock: Arc::clone(&self.clock) as _,
            restore: HashMap::new(),
            disk: self.disk.clone(),
            waker: Arc::new(Nobody),
        }
    }

    fn task<B: Body>(&self, body: B, gate: Gate) -> OperatorTask<B> {
        OperatorTask::new(TaskParts {
            name: "task".into(),
            chain: "task".into(),
            partition: 0,
            id: TaskId(0),
            attempt: AttemptId(1),
            body,
            gate,
            keyed: KeyedSnapshots::new(0..16, true, 1),
            restore: None,
            files: PartFiles {
                disk: self.disk.clone(),
                job_dir: Some("/job".into()),
                task: "0-0".into(),
                attempt: AttemptId(1),
            },
            reports: Arc::clone(&self.reports) as _,
            clock: Arc::clone(&self.clock) as _,
            metrics: Arc::new(TaskMetrics::default()),
            buffer_timeout: Duration::ZERO,
        })
    }

    /// The acknowledgements so far, oldest first.
    fn take_acknowledged(&self) -> Vec<(CheckpointId, TaskSnapshot)> {
        let reports = std::mem::take(&mut *self.reports.0.lock().unwrap());
        let acknowledged = reports.into_iter().filter_map(|report| match report {
            Report::Acknowledged(_, _, id, mut snapshot) => {
                snapshot.list_segments();
                Some((id, *snapshot))
            }
            _ => None,
        });
        acknowledged.collect()
    }

    fn reported(&self, which: fn(&Report) -> bool) -> usize {
        self.reports.0.lock().unwrap().iter().filter(|report| which(report)).count()
    }
}

fn an_output<T: thalweg_storage::Data>(sizes: Sizes, aligned_only: bool) -> (Output<T>, Receiver<T>) {
    let (sender, receiver) = a_channel(sizes);
    let edge = Edge::new("out".into(), vec![(0, sender)], crate::operator::ToOne(RoundRobin::default()));
    let edge = edge.with_alignment(aligned_only);
    (Output::new(vec![Box::new(edge)], sizes.batch), receiver)
}

/// A task with `inputs` input channels and one output channel, whose neighbours the test plays.
struct Harness<B: Body> {
    world: World,
    task: OperatorTask<B>,
    senders: Vec<Sender<u64>>,
    receiver: Receiver<u64>,
    /// Announcements seen at the output.
    announced: Vec<Announcement>,
}

type Chain<L> = OneInput<u64, <L as Link<u64>>::Bound<Output<u64>>>;

fn harness<L: Link<u64, Out = u64>>(link: L, inputs: usize, sizes: Sizes) -> Harness<Chain<L>> {
    restored(link, inputs, sizes, HashMap::new())
}

fn restored<L: Link<u64, Out = u64>>(
    link: L,
    inputs: usize,
    sizes: Sizes,
    restore: HashMap<String, OperatorRestore>,
) -> Harness<Chain<L>> {
    let inputs = (0..inputs).map(|_| a_channel(sizes)).collect();
    wired(link, inputs, an_output(sizes, false), restore)
}

/// A task over these channels.
fn wired<L: Link<u64, Out = u64>>(
    link: L,
    inputs: Vec<(Sender<u64>, Receiver<u64>)>,
    (output, receiver): (Output<u64>, Receiver<u64>),
    restore: HashMap<String, OperatorRestore>,
) -> Harness<Chain<L>> {
    let world = World::new();
    let mut bind = world.bind();
    bind.restore = restore;
    let stage = link.bind(&mut bind, output).unwrap();
    let (senders, receivers): (Vec<_>, Vec<_>) = inputs.into_iter().unzip();
    let input = |(producer, receiver)| Input { edge: "in".into(), producer: producer as u32, receiver };
    let inputs = Inputs::new(receivers.into_iter().enumerate().map(input).collect(), 0);
    let gate = Gate::new(vec![ChannelKind::Exchange; senders.len()]);
    let task = world.task(OneInput { inputs, stage }, gate);
    Harness { world, task, senders, receiver, announced: Vec::new() }
}

impl<B: Body> Harness<B> {
    fn poll(&mut self) -> Progress {
        self.poll_with(Budget { records: 1000, nanos: 1_000_000 })
    }

    fn poll_with(&mut self, budget: Budget) -> Progress {
        self.task.poll(self.world.clock.now(), budget).unwrap()
    }

    /// Polls until nothing is left to do at once.
    fn settle(&mut self) -> Progress {
        for _ in 0..10_000 {
            let progress = self.poll();
            if progress != Progress::Busy {
                return progress;
            }
        }
        panic!("the task is busy for ever");
    }

    fn send(&mut self, input: usize, records: impl IntoIterator<Item = u64>) {
        records.into_iter().for_each(|record| self.senders[input].push(record));
        self.flush(input);
    }

    fn flush(&mut self, input: usize) {
        self.senders[input].flush(Nanos(0), Duration::ZERO, true);
    }

    fn announce(&mut self, input: usize, mark: Mark) {
        let cut = self.senders[input].pushed();
        self.senders[input].announce(Announcement { mark, cut });
    }

    fn end(&mut self, input: usize) {
        assert!(self.senders[input].is_drained(), "the end is announced once everything has been sent");
        self.announce(input, Mark::EndOfStream);
    }

    fn trigger(&mut self, checkpoint: u64, mode: CheckpointMode) {
        let checkpoint = CheckpointId(checkpoint);
        let triggered_at = self.world.clock.now();
        self.task.command(TaskCommand::Trigger(Trigger {
            checkpoint,
            mode,
            kind: SnapshotKind::Checkpoint,
            triggered_at,
        }));
    }

    /// Consumes one batch of the output, if there is one.
    fn receive_batch(&mut self) -> Vec<u64> {
        let announced = &mut self.announced;
        self.receiver.look(|announcement| announced.push(announcement));
        let mut records = Vec::new();
        if self.receiver.taken() < self.receiver.visible() {
            self.receiver.take();
            records.extend(std::iter::from_fn(|| self.receiver.current().take()));
            self.receiver.give_back();
        }
        records
    }

    /// Polls and consumes until nothing comes any more.
    fn receive_all(&mut self) -> Vec<u64> {
        let mut records = Vec::new();
        loop {
            self.settle();
            let batch = self.receive_batch();
            if batch.is_empty() && self.receiver.taken() == self.receiver.visible() {
                return records;
            }
            records.extend(batch);
        }
    }

    fn outputs(&mut self) -> Vec<u64> {
        let mut unsent = Vec::new();
        self.task.body().stage().outputs(&mut |output: &mut dyn OutputPort| {
            unsent.extend(output.unsent().into_iter().map(|channel| channel.records));
        });
        unsent
    }
}

/// The records of a snapshot's in-flight data.
fn in_flight(snapshot: &TaskSnapshot) -> Vec<u64> {
    use thalweg_storage::Data;
    use thalweg_storage::manifest::Payload;
    let mut records = Vec::new();
    for channel in &snapshot.channels {
        let Payload::Inline(bytes) = &channel.data else { panic!("too much for these tests") };
        let mut bytes = bytes.as_slice();
        let before = records.len();
        while !bytes.is_empty() {
            records.push(u64::decode(&mut bytes).unwrap());
        }
        assert_eq!((records.len() - before) as u64, channel.records);
    }
    records
}

fn barrier(checkpoint: u64, mode: BarrierMode) -> Mark {
    Mark::Barrier { checkpoint: CheckpointId(checkpoint), mode }
}

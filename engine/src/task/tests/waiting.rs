//! Tasks whose keyed state is not there yet, or wants upkeep.

use super::*;
use crate::operator::{Failure, Flow, Site, Stage, StageControl, TwoStage};
use crate::task::TwoInput;

/// What a test decides about, and sees of, a stage's state.
#[derive(Default)]
struct Store {
    /// Calls of `ready` that still say no.
    reads: usize,
    broken: bool,
    /// Slices of upkeep that are left.
    upkeep: usize,
    /// Moves on by 30 µs with each of them.
    clock: Option<Arc<SimClock>>,
    /// Each announcement.
    announced: Vec<Vec<u64>>,
}

/// Passes records on; at most three of them may be announced at once.
struct Stateful<D> {
    store: Arc<Mutex<Store>>,
    down: D,
}

const WINDOW: usize = 3;

impl<D: StageControl> StageControl for Stateful<D> {
    fn down(&mut self) -> Option<&mut dyn StageControl> {
        Some(&mut self.down)
    }
    fn ready(&mut self) -> Result<bool, Failure> {
        let mut store = self.store.lock().unwrap();
        if store.broken {
            return Err(Site { uid: "count".into(), partition: 0 }.failure("the disk is gone"));
        }
        let ready = store.reads == 0;
        store.reads = store.reads.saturating_sub(1);
        Ok(ready)
    }
    fn maintain(&mut self, _: usize) -> Result<bool, Failure> {
        let mut store = self.store.lock().unwrap();
        if let Some(clock) = &store.clock {
            clock.advance_to(clock.now().after(Duration::from_micros(30)));
        }
        store.upkeep = store.upkeep.saturating_sub(1);
        Ok(store.upkeep > 0)
    }
}

impl<D: Stage<u64>> Stateful<D> {
    fn announce(&mut self, upcoming: &[u64]) -> usize {
        let announced = &upcoming[..upcoming.len().min(WINDOW)];
        self.store.lock().unwrap().announced.push(announced.to_vec());
        announced.len()
    }
}

impl<D: Stage<u64>> Stage<u64> for Stateful<D> {
    fn prepare(&mut self, upcoming: &[u64]) -> usize {
        self.announce(upcoming)
    }
    fn process(&mut self, record: u64) -> Result<Flow, Failure> {
        self.down.process(record)
    }
}

impl<D: Stage<u64>> TwoStage<u64, u64> for Stateful<D> {
    fn prepare_first(&mut self, upcoming: &[u64]) -> usize {
        self.announce(upcoming)
    }
    fn prepare_second(&mut self, upcoming: &[u64]) -> usize {
        self.announce(upcoming)
    }
    fn process_first(&mut self, record: u64) -> Result<Flow, Failure> {
        self.down.process(record)
    }
    fn process_second(&mut self, record: u64) -> Result<Flow, Failure> {
        self.down.process(record)
    }
}

const SIZES: Sizes = Sizes { ring: 4, batch: 8, pool: 1 << 20 };

type OneStateful = OneInput<u64, Stateful<Output<u64>>>;

fn one_input() -> (Harness<OneStateful>, Arc<Mutex<Store>>) {
    let world = World::new();
    let store = Arc::<Mutex<Store>>::default();
    let (output, receiver) = an_output(SIZES, false);
    let (sender, input) = a_channel(SIZES);
    let inputs = Inputs::new(vec![Input { edge: "in".into(), producer: 0, receiver: input }], 0);
    let stage = Stateful { store: Arc::clone(&store), down: output };
    let task = world.task(OneInput { inputs, stage }, Gate::new(vec![ChannelKind::Exchange]));
    (Harness { world, task, senders: vec![sender], receiver, announced: Vec::new() }, store)
}

#[test]
fn records_wait_for_their_state_and_keep_their_order() {
    let (mut harness, store) = one_input();
    harness.send(0, 0..8);
    store.lock().unwrap().reads = 2;
    assert_eq!(harness.settle(), Progress::Waiting { wake_at: None });
    assert_eq!(harness.receive_batch(), [0_u64; 0], "nothing is processed before its state is there");
    assert_eq!(harness.poll(), Progress::Waiting { wake_at: None }, "no read has ended");
    assert_eq!(harness.receive_all(), (0..8).collect::<Vec<_>>());
    let announced = std::mem::take(&mut store.lock().unwrap().announced);
    assert_eq!(announced, [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]], "each record is announced once");
}

#[test]
fn an_unaligned_snapshot_captures_records_that_wait_and_they_are_announced_anew() {
    let (mut harness, store) = one_input();
    harness.send(0, 0..4);
    assert_eq!(harness.receive_all(), [0, 1, 2, 3]);
    harness.send(0, 4..8);
    store.lock().unwrap().reads = usize::MAX;
    assert_eq!(harness.settle(), Progress::Waiting { wake_at: None });
    harness.trigger(1, CheckpointMode::Unaligned);
    harness.announce(0, barrier(1, BarrierMode::Unaligned));
    harness.settle();
    let acknowledged = harness.world.take_acknowledged();
    assert_eq!(in_flight(&acknowledged[0].1), [4, 5, 6, 7]);
    store.lock().unwrap().reads = 0;
    assert_eq!(harness.receive_all(), [4, 5, 6, 7]);
    let announced = std::mem::take(&mut store.lock().unwrap().announced);
    assert_eq!(announced[2..], [vec![4, 5, 6], vec![4, 5, 6], vec![7]]);
}

#[test]
fn an_aligned_snapshot_waits_for_records_that_wait() {
    let (mut harness, store) = one_input();
    harness.send(0, 0..2);
    store.lock().unwrap().reads = usize::MAX;
    harness.trigger(1, CheckpointMode::Aligned);
    harness.announce(0, barrier(1, BarrierMode::Aligned));
    assert_eq!(harness.settle(), Progress::Waiting { wake_at: None });
    assert!(harness.world.take_acknowledged().is_empty());
    store.lock().unwrap().reads = 0;
    assert_eq!(harness.receive_all(), [0, 1]);
    assert_eq!(harness.world.take_acknowledged().len(), 1);
}

#[test]
fn state_that_cannot_be_read_fails_the_task() {
    let (mut harness, store) = one_input();
    harness.send(0, [1]);
    store.lock().unwrap().broken = true;
    let failure = harness.task.poll(Nanos(0), Budget { records: 10, nanos: 1_000_000 }).unwrap_err();
    assert_eq!((failure.operator.as_str(), failure.message.as_str()), ("count", "the disk is gone"));
}

#[test]
fn an_input_that_waits_is_not_overtaken_by_the_other() {
    let world = World::new();
    let store = Arc::<Mutex<Store>>::default();
    let (output, receiver) = an_output(SIZES, false);
    let mut senders = Vec::new();
    let mut inputs = (0..2).map(|index| {
        let (sender, receiver) = a_channel(SIZES);
        senders.push(sender);
        Inputs::new(vec![Input { edge: "in".into(), producer: 0, receiver }], index)
    });
    let (first, second) = (inputs.next().unwrap(), inputs.next().unwrap());
    drop(inputs);
    let stage = Stateful { store: Arc::clone(&store), down: output };
    let gate = Gate::new(vec![ChannelKind::Exchange; 2]);
    let task = world.task(TwoInput { first, second, stage, second_first: true }, gate);
    let mut harness = Harness { world, task, senders, receiver, announced: Vec::new() };
    harness.send(0, 0..2);
    harness.send(1, 10..12);
    store.lock().unwrap().reads = 10;
    for _ in 0..10 {
        assert_eq!(harness.poll(), Progress::Waiting { wake_at: None });
    }
    let announced = store.lock().unwrap().announced.clone();
    assert_eq!(announced, [[0, 1]], "what waits is announced once, and nothing else meanwhile");
    assert_eq!(harness.receive_all(), [0, 1, 10, 11]);
}

#[test]
fn upkeep_comes_in_short_slices_and_a_task_parks_once_it_is_done() {
    let (mut harness, store) = one_input();
    assert_eq!(harness.poll(), Progress::Idle { wake_at: None }, "there is no upkeep");
    store.lock().unwrap().clock = Some(Arc::clone(&harness.world.clock));
    store.lock().unwrap().upkeep = 10;
    harness.send(0, 0..4);
    for left in [7, 4, 1] {
        assert_eq!(harness.poll(), Progress::Busy);
        assert_eq!(store.lock().unwrap().upkeep, left, "a poll does a few slices");
    }
    assert_eq!(harness.receive_batch(), [0, 1, 2, 3], "records are processed meanwhile");
    assert_eq!(harness.settle(), Progress::Idle { wake_at: None });
    assert_eq!(store.lock().unwrap().upkeep, 0);
}

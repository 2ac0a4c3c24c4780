//! User code that panics when it is told to: an operator and a sink.
//!
//! Always true: a place goes off once each time it is armed, and is counted when it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thalweg::CheckpointId;
use thalweg::clock::Nanos;
use thalweg::connector::{BoxError, ConnectorContext, PreparedOutput, Sink, SinkSnapshot, SinkWriter};
use thalweg::operator::Collector;
use thalweg::operators::{ProcessFunction, RuntimeContext};
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::Committable;

/// What the panics say before their place.
pub(super) const SAYING: &str = "injected panic in ";

/// A place in user code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Map,
    Open,
    Snapshot,
    Write,
    Commit,
}

impl Place {
    const COUNT: usize = 5;

    pub(super) fn name(self) -> &'static str {
        match self {
            Place::Map => "map",
            Place::Open => "open",
            Place::Snapshot => "snapshot",
            Place::Write => "write",
            Place::Commit => "commit",
        }
    }
}

/// The mines of all subtasks and attempts of a job.
#[derive(Clone, Default)]
pub(super) struct Mines(Arc<[Mine; Place::COUNT]>);

#[derive(Default)]
struct Mine {
    /// It goes off when it is stepped on for the so many-th time; never for 0.
    left: AtomicU64,
    went_off: AtomicU64,
}

impl Mines {
    /// Arms `place`: it panics when it is passed for the `n`-th time from now on.
    pub(super) fn arm(&self, place: Place, n: u64) {
        self.0[place as usize].left.store(n, Ordering::Relaxed);
    }

    /// How often `place` has gone off.
    pub(super) fn went_off(&self, place: Place) -> u64 {
        self.0[place as usize].went_off.load(Ordering::Relaxed)
    }

    fn step_on(&self, place: Place) {
        let mine = &self.0[place as usize];
        let left = mine.left.load(Ordering::Relaxed);
        mine.left.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 {
            mine.went_off.fetch_add(1, Ordering::Relaxed);
            panic!("{SAYING}{}", place.name());
        }
    }
}

/// Passes records on.
#[derive(Clone)]
pub(super) struct MinedMap(pub(super) Mines);

impl ProcessFunction<u64> for MinedMap {
    type Out = u64;
    type State = ();

    fn open(&mut self, _: &RuntimeContext, _: Vec<()>) -> Result<(), BoxError> {
        self.0.step_on(Place::Open);
        Ok(())
    }

    fn process(&mut self, record: u64, out: &mut Collector<u64>) -> Result<(), BoxError> {
        self.0.step_on(Place::Map);
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<()>, BoxError> {
        self.0.step_on(Place::Snapshot);
        Ok(Vec::new())
    }
}

/// A sink in a minefield.
#[derive(Clone)]
pub(super) struct MinedSink<S>(pub(super) S, pub(super) Mines);

pub(super) struct MinedWriter<W>(W, Mines);

impl<S: Sink> Sink for MinedSink<S> {
    type Record = S::Record;
    type State = S::State;
    type Writer = MinedWriter<S::Writer>;

    fn check(&self, disk: &DiskHandle) -> Result<(), BoxError> {
        self.0.check(disk)
    }

    fn writer(
        &self,
        context: ConnectorContext,
        restored: Vec<S::State>,
        committables: Vec<Committable>,
    ) -> Result<Self::Writer, BoxError> {
        self.1.step_on(Place::Open);
        Ok(MinedWriter(self.0.writer(context, restored, committables)?, self.1.clone()))
    }
}

impl<W: SinkWriter> SinkWriter for MinedWriter<W> {
    type Record = W::Record;
    type State = W::State;

    fn write(&mut self, now: Nanos, record: W::Record) -> Result<bool, BoxError> {
        self.1.step_on(Place::Write);
        self.0.write(now, record)
    }

    fn poll(&mut self, now: Nanos) -> Result<bool, BoxError> {
        self.0.poll(now)
    }

    fn wake_at(&self) -> Option<Nanos> {
        self.0.wake_at()
    }

    fn prepare(&mut self, checkpoint: CheckpointId, end: bool) -> Result<SinkSnapshot<W::State>, BoxError> {
        self.1.step_on(Place::Snapshot);
        self.0.prepare(checkpoint, end)
    }

    fn prepared(&mut self, checkpoint: CheckpointId) -> Result<bool, BoxError> {
        self.0.prepared(checkpoint)
    }

    fn take_prepared(&mut self) -> Vec<PreparedOutput> {
        self.0.take_prepared()
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        self.1.step_on(Place::Commit);
        self.0.commit(committables)
    }

    fn committed(&self) -> bool {
        self.0.committed()
    }

    fn has_unprepared(&self) -> bool {
        self.0.has_unprepared()
    }
}

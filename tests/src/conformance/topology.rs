//! The jobs, and how their checkpoints treat in-flight data.

use super::control::Control;
use super::operators::{FailingMap, Farewell, MinEmit, OwnShare, checked, split_of};
use super::record::{retag, route};
use super::sink::VerifyingSink;
use super::source::AdaptiveSource;
use std::sync::Arc;
use std::time::Duration;
use thalweg::state::ValueStateDescriptor;
use thalweg::{CheckpointMode, DataStream, Dataflow};

/// A job's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// source → map → key_by → keyed identity and farewell → partition → failing map → partition → sink.
    Pipeline,
    /// Three sources in one stream → farewell → partition → failing map → partition → sink.
    Union,
    /// Three sources, connected two by two into an operator that emits the lesser, farewell → failing map → partition → sink.
    MultiInput,
    /// One source continued three times: by a forward edge, by a forward edge into a flat map, and by a broadcast of
    /// which each subtask keeps its share; then in one stream → farewell → partition → failing map → partition → sink.
    Shared,
}

/// How checkpoints treat in-flight data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Barriers overtake them.
    Unaligned,
    /// Barriers wait for them.
    Aligned,
    /// Barriers wait, for a millisecond.
    AlignedWithTimeout,
    /// Barriers wait, for five milliseconds.
    AlignedWithLongTimeout,
}

/// On which workers the subtasks of a job run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// All on one.
    SameCore,
    /// Each partition on one of its own, so that every channel between two partitions crosses.
    CrossCore,
    /// Several partitions on each of several.
    Mixed,
    /// As the seed has it.
    BySeed,
}

impl Placement {
    /// Number of workers for a job of this parallelism: partition p runs on worker p mod workers.
    pub fn workers(self, parallelism: u32, seed: u64) -> usize {
        match self {
            Placement::SameCore => 1,
            Placement::CrossCore => parallelism as usize,
            Placement::Mixed => (parallelism as usize).div_ceil(3).max(2),
            Placement::BySeed => 1 + (seed % 7) as usize,
        }
    }
}

/// What to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// The job.
    pub topology: Topology,
    /// Subtasks of each operator.
    pub parallelism: u32,
    /// Its checkpoints.
    pub mode: Mode,
}

impl Mode {
    /// As the engine's setting.
    pub fn setting(self) -> CheckpointMode {
        match self {
            Mode::Unaligned => CheckpointMode::Unaligned,
            Mode::Aligned => CheckpointMode::Aligned,
            Mode::AlignedWithTimeout => CheckpointMode::AlignedWithTimeout(Duration::from_millis(1)),
            Mode::AlignedWithLongTimeout => CheckpointMode::AlignedWithTimeout(Duration::from_millis(5)),
        }
    }
}

impl Scenario {
    /// Number of sources.
    pub fn sources(&self) -> u64 {
        match self.topology {
            Topology::Pipeline | Topology::Shared => 1,
            Topology::Union | Topology::MultiInput => 3,
        }
    }

    /// Tags that the sink sees, each with the source whose values it carries.
    pub fn tags(&self) -> &'static [(u64, u64)] {
        match self.topology {
            Topology::Pipeline | Topology::MultiInput => &[(0, 0)],
            Topology::Union => &[(0, 0), (1, 1), (2, 2)],
            Topology::Shared => &[(0, 0), (1, 0), (2, 0)],
        }
    }

    /// Splits of each source: several per subtask, not as many for each.
    pub fn splits(&self) -> u64 {
        u64::from(self.parallelism) * 4 + 1
    }

    /// The job, into `sink`.
    pub fn flow(&self, control: &Arc<Control>, sink: VerifyingSink) -> Dataflow {
        let flow = Dataflow::new("conformance");
        let splits = control.splits;
        let source = |tag: u64| {
            let check = Arc::clone(control);
            flow.source(format!("source {tag}"), AdaptiveSource { tag, control: Arc::clone(control) })
                .map(format!("map {tag}"), move |record| checked(&check, "map", record))
        };
        let exchange = |salt: u64| {
            move |record: &u64, partitions: usize| route(split_of(*record, splits), salt, partitions)
        };
        let verified: DataStream<u64> = match self.topology {
            Topology::Pipeline => {
                let check = Arc::clone(control);
                source(0)
                    .key_by(move |record| split_of(*record, splits))
                    .process(
                        "keyed identity",
                        ValueStateDescriptor::<u64>::new("last"),
                        move |split, record, mut last, out| {
                            // The keyed state must roll back to exactly what was in front of this record.
                            let expected = last.value().map_or(*split, |last| last + splits);
                            let (_, value) = super::record::decode(record).unwrap_or_default();
                            if value != expected {
                                check.violated(format!(
                                    "keyed identity: split {split} brings {value} instead of {expected}"
                                ));
                            }
                            last.update(value);
                            out.collect(record);
                            Ok(())
                        },
                    )
                    .process("farewell", Farewell::new(control))
                    .partition_custom(exchange(1))
            }
            Topology::Union => source(0)
                .partition_custom(exchange(1))
                .union(source(1).partition_custom(exchange(1)))
                .union(source(2).partition_custom(exchange(1)))
                .process("farewell", Farewell::new(control))
                .partition_custom(exchange(2)),
            Topology::Shared => {
                let shared = source(0).share();
                let forward = shared.stream().map("forward", |record| record).partition_custom(exchange(1));
                let flat = shared
                    .stream()
                    .flat_map("flat map", |record| [retag(record, 1)])
                    .partition_custom(exchange(2));
                let broadcast = shared
                    .stream()
                    .broadcast()
                    .process("share of a broadcast", OwnShare::new(control))
                    .map("third", |record| retag(record, 2))
                    .partition_custom(exchange(3));
                forward
                    .union(flat)
                    .union(broadcast)
                    .process("farewell", Farewell::new(control))
                    .partition_custom(exchange(2))
            }
            Topology::MultiInput => source(0)
                .partition_custom(exchange(1))
                .connect(source(1).partition_custom(exchange(1)))
                .process("min of two", MinEmit::new(control))
                .partition_custom(exchange(2))
                .connect(source(2).partition_custom(exchange(2)))
                .process("min of three", MinEmit::new(control))
                .process("farewell", Farewell::new(control))
                .partition_custom(exchange(3)),
        };
        verified
            .process("failing map", FailingMap::new(control))
            .partition_custom(exchange(4))
            .sink("sink", sink);
        flow
    }
}

//! Edges: how records are spread over the partitions of the next task, and how an edge becomes channels.
//!
//! Always true: in-flight data of a checkpoint are spread over the channels of today by what the edge is today, with any
//! numbers of subtasks; see [`super::rescale`].

use super::rescale::{InFlightPart, Routing, Shape, spread};
use super::{EdgeId, Graph, VertexId};
use crate::operator::{Edge, EdgeWriter, Partition, Route, ToAll, ToOne};
use crate::ring::{ChannelSpec, Restored, Sender, channel};
use crate::task::Input;
use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_storage::codec::{Schema, describe};
use thalweg_storage::key_group::KeyGroups;
use thalweg_storage::manifest::{ChannelState, EdgeState};
use thalweg_storage::{Data, Key};

/// How an edge spreads records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ship {
    /// Each partition to the partition of the same index; in turn to all where the numbers of partitions differ.
    Forward,
    /// Any partition to any other.
    Exchange,
    /// Each record to every partition.
    Broadcast,
}

/// What an edge's writer is made from.
pub struct WriterContext<T> {
    /// Name of the edge.
    pub name: Arc<str>,
    /// The channels, each with its consumer's partition.
    pub senders: Vec<(u32, Sender<T>)>,
    /// The job's key groups.
    pub key_groups: KeyGroups,
    /// Barriers do not overtake the edge's records.
    pub aligned_only: bool,
}

type MakeWriter<T> = Box<dyn Fn(WriterContext<T>) -> Box<dyn EdgeWriter<T>> + Send>;

/// Makes what chooses the consumer of each record, given their number.
type MakePartition<T> = Box<dyn Fn(KeyGroups, usize) -> Box<dyn Partition<T>> + Send>;

/// One edge out of an output.
pub(super) struct EdgePlan<T> {
    pub edge: EdgeId,
    pub make: MakeWriter<T>,
}

/// An output of a vertex; edges are attached to it as the job is written.
pub struct OutputRef<T> {
    vertex: VertexId,
    plans: Arc<Mutex<Vec<EdgePlan<T>>>>,
}

impl<T> Clone for OutputRef<T> {
    fn clone(&self) -> Self {
        OutputRef { vertex: self.vertex, plans: Arc::clone(&self.plans) }
    }
}

impl<T: Data> OutputRef<T> {
    /// A new output of `vertex`.
    pub fn of(vertex: VertexId) -> Self {
        OutputRef { vertex, plans: Arc::default() }
    }

    /// The edges attached so far, for `use_plans` to look at.
    pub(super) fn with_plans<R>(&self, use_plans: impl FnOnce(&[EdgePlan<T>]) -> R) -> R {
        use_plans(&self.plans.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An edge as its consumer describes it, before the consumer's vertex exists.
pub struct InputPlan<T> {
    source: OutputRef<T>,
    ship: Ship,
    make: MakeWriter<T>,
    /// Where a record must go to the partition that it is meant for.
    partition: Option<MakePartition<T>>,
    /// Structure of the key, of an edge that spreads by key.
    key: Option<Schema>,
}

impl<T: Data> InputPlan<T> {
    /// Partition i to partition i, or in turn to all partitions.
    pub fn forward(source: OutputRef<T>) -> Self {
        Self::unkeyed(source, Ship::Forward, edge_maker(|| ToOne(RoundRobin::default())))
    }

    /// In turn to all partitions.
    pub fn rebalance(source: OutputRef<T>) -> Self {
        Self::unkeyed(source, Ship::Exchange, edge_maker(|| ToOne(RoundRobin::default())))
    }

    /// To every partition.
    pub fn broadcast(source: OutputRef<T>) -> Self {
        Self::unkeyed(source, Ship::Broadcast, edge_maker(|| ToAll))
    }

    fn unkeyed(source: OutputRef<T>, ship: Ship, make: MakeWriter<T>) -> Self {
        InputPlan { source, ship, make, partition: None, key: None }
    }

    /// To the partition that `choose` names.
    pub fn custom(
        source: OutputRef<T>,
        choose: impl FnMut(&T, usize) -> usize + Clone + Send + 'static,
    ) -> Self {
        let restored = choose.clone();
        let partition: MakePartition<T> = Box::new(move |_, _| Box::new(WithFunction(restored.clone())));
        let make = edge_maker(move || ToOne(WithFunction(choose.clone())));
        InputPlan { partition: Some(partition), ..Self::unkeyed(source, Ship::Exchange, make) }
    }

    /// To the partition that owns the key's group.
    pub fn keyed<K: Key>(
        source: OutputRef<T>,
        extract: impl FnMut(&T) -> K + Clone + Send + 'static,
    ) -> Self {
        let restored = extract.clone();
        let partition: MakePartition<T> = Box::new(move |groups, consumers| {
            Box::new(KeyPartition::new(restored.clone(), groups, consumers))
        });
        let make: MakeWriter<T> = Box::new(move |context| {
            let WriterContext { name, senders, key_groups, aligned_only } = context;
            let partition = KeyPartition::new(extract.clone(), key_groups, senders.len());
            Box::new(Edge::new(name, senders, ToOne(partition)).with_alignment(aligned_only))
        });
        let (partition, key) = (Some(partition), Some(K::schema()));
        InputPlan { partition, key, ..Self::unkeyed(source, Ship::Exchange, make) }
    }

    /// The output that the edge comes from.
    pub fn into_source(self) -> OutputRef<T> {
        self.source
    }

    /// Adds the edge to `graph`, ending at `consumer`.
    pub fn attach(self, graph: &mut Graph, consumer: VertexId) -> EdgeId {
        let wire = Box::new(WireOf { partition: self.partition, key: self.key });
        let edge = graph.add_edge(self.source.vertex, consumer, self.ship, wire);
        let mut plans = self.source.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.push(EdgePlan { edge, make: self.make });
        edge
    }
}

fn edge_maker<T: Data, R: Route<T> + 'static>(route: impl Fn() -> R + Send + 'static) -> MakeWriter<T> {
    Box::new(move |context| {
        let WriterContext { name, senders, aligned_only, .. } = context;
        Box::new(Edge::new(name, senders, route()).with_alignment(aligned_only))
    })
}

/// Each partition in turn.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin {
    next: usize,
}

impl<T> Partition<T> for RoundRobin {
    #[inline(always)]
    fn partition(&mut self, _: &T, consumers: usize) -> usize {
        let chosen = self.next;
        self.next = if chosen + 1 >= consumers { 0 } else { chosen + 1 };
        chosen
    }
}

/// The partition that a function names, which must be below the number of partitions.
pub struct WithFunction<F>(pub F);

impl<T, F: FnMut(&T, usize) -> usize + Send> Partition<T> for WithFunction<F> {
    #[inline(always)]
    fn partition(&mut self, record: &T, consumers: usize) -> usize {
        let chosen = (self.0)(record, consumers);
        assert!(chosen < consumers, "the partitioner chose partition {chosen} of {consumers}");
        chosen
    }
}

/// The partition that owns the group of a record's key.
pub struct KeyPartition<E> {
    extract: E,
    groups: KeyGroups,
    /// The owner of each group, among the consumers.
    owners: Vec<u32>,
}

impl<E> KeyPartition<E> {
    /// Spreads by the key that `extract` gives over `consumers` partitions.
    pub fn new(extract: E, groups: KeyGroups, consumers: usize) -> Self {
        let owners = (0..groups.count()).map(|group| groups.partition_of(group, consumers as u32)).collect();
        KeyPartition { extract, groups, owners }
    }
}

impl<T, K: Key, E: FnMut(&T) -> K + Send> Partition<T> for KeyPartition<E> {
    #[inline(always)]
    fn partition(&mut self, record: &T, _: usize) -> usize {
        let group = self.groups.group_of((self.extract)(record).key_hash());
        self.owners[group as usize] as usize
    }
}

/// In-flight data of an edge, as a checkpoint stored them.
#[derive(Default)]
pub(crate) struct RestoredEdge<'a> {
    /// The edge then; none where nothing was in flight.
    pub state: Option<&'a EdgeState>,
    /// Each channel's data, generations counted from 0.
    pub channels: Vec<(&'a ChannelState, u32, Vec<u8>)>,
    /// Above all generations of the checkpoint.
    pub next_generation: u32,
}

/// What the channels of an edge are made from.
pub(crate) struct WireContext<'a> {
    pub name: Arc<str>,
    pub producers: u32,
    pub consumers: u32,
    pub ship: Ship,
    pub key_groups: KeyGroups,
    /// Sizes and doorbells of the channel from a producer to a consumer, and the bytes of a record.
    pub spec: &'a dyn Fn(u32, u32, usize) -> ChannelSpec,
    /// In-flight data to restore.
    pub restored: &'a RestoredEdge<'a>,
}

/// The ends of an edge's channels, by partition; their types are known to the tasks that take them.
pub(crate) struct Wired {
    /// `Vec<(u32, Sender<T>)>` for each producing partition.
    pub producers: Vec<Box<dyn Any + Send>>,
    /// `Vec<Input<T>>` for each consuming partition.
    pub consumers: Vec<Box<dyn Any + Send>>,
}

/// The typed part of an edge.
pub(crate) trait Wire: Send {
    /// Makes the channels.
    ///
    /// # Errors
    /// Restored in-flight data do not fit the edge, or do not decode.
    fn wire(&self, context: &WireContext<'_>) -> Result<Wired, String>;

    /// Structure of the records.
    fn record(&self) -> Schema;

    /// Structure of the key, of an edge that spreads by key.
    fn key(&self) -> Option<Schema>;
}

struct WireOf<T> {
    partition: Option<MakePartition<T>>,
    key: Option<Schema>,
}

impl<T: Data> Wire for WireOf<T> {
    fn wire(&self, context: &WireContext<'_>) -> Result<Wired, String> {
        let point_wise = context.ship == Ship::Forward && context.producers == context.consumers;
        let shape = Shape { producers: context.producers, consumers: context.consumers, point_wise };
        let mut restored = self.restore(context, shape)?;
        let mut senders: Vec<Vec<(u32, Sender<T>)>> = (0..context.producers).map(|_| Vec::new()).collect();
        let mut inputs: Vec<Vec<Input<T>>> = (0..context.consumers).map(|_| Vec::new()).collect();
        for (producer, consumer) in shape.channels() {
            let spec = (context.spec)(producer, consumer, size_of::<T>());
            let mut batches = Restored::before(context.restored.next_generation);
            for (generation, records) in restored.remove(&(producer, consumer)).into_iter().flatten() {
                let mut records = records.into_iter().peekable();
                while records.peek().is_some() {
                    batches.push(generation, records.by_ref().take(spec.batch_records).collect());
                }
            }
            let (sender, receiver) = channel(spec, batches);
            senders[producer as usize].push((consumer, sender));
            inputs[consumer as usize].push(Input { edge: Arc::clone(&context.name), producer, receiver });
        }
        Ok(Wired {
            producers: senders.into_iter().map(|s| Box::new(s) as Box<dyn Any + Send>).collect(),
            consumers: inputs.into_iter().map(|i| Box::new(i) as Box<dyn Any + Send>).collect(),
        })
    }

    fn record(&self) -> Schema {
        T::schema()
    }

    fn key(&self) -> Option<Schema> {
        self.key.clone()
    }
}

impl<T: Data> WireOf<T> {
    /// Decodes the restored records and finds each its channel.
    fn restore(&self, context: &WireContext<'_>, shape: Shape) -> Result<super::rescale::Spread<T>, String> {
        let RestoredEdge { state: Some(state), channels, .. } = context.restored else {
            return Ok(super::rescale::Spread::new());
        };
        let name = &context.name;
        if let (Some(stored), Some(key)) = (&state.key, &self.key)
            && stored != key
        {
            return Err(format!(
                "the checkpoint holds in-flight data of edge `{name}`, spread by keys of type {}, and the job spreads it by \
                 keys of type {}: restore with the key that it was written with, or give an operator at its end a new uid",
                describe(stored),
                describe(key)
            ));
        }
        let reader = T::reader(&state.record).ok_or_else(|| {
            format!(
                "the checkpoint holds in-flight data of edge `{name}`, records of type {}; the job sends {}, which does not \
                 read them: give the new type a higher version and name the old one as `from` in its `data!` or `pod!`, \
                 or restore with the old type",
                describe(&state.record),
                describe(&T::schema())
            )
        })?;
        let mut parts = Vec::new();
        for (channel, generation, bytes) in channels {
            let ChannelState { producer, consumer, origin, records: count, .. } = channel;
            let damaged = |what: String| {
                format!("in-flight data of edge `{name}` from {producer} to {consumer}: {what}")
            };
            let mut bytes = bytes.as_slice();
            let mut records = Vec::new();
            for index in 0..*count {
                let record = reader.read(&mut bytes);
                records.push(record.map_err(|error| damaged(format!("record {index} of {count}: {error}")))?);
            }
            if !bytes.is_empty() {
                return Err(damaged(format!("{} bytes are left over", bytes.len())));
            }
            let (producer, consumer, origin) = (*producer, *consumer, *origin);
            parts.push(InFlightPart { producer, consumer, generation: *generation, origin, records });
        }
        let mut partition =
            self.partition.as_ref().map(|make| make(context.key_groups, context.consumers as usize));
        let consumers = context.consumers as usize;
        Ok(match (&mut partition, context.ship) {
            (Some(partition), _) => {
                let mut choose = |record: &T| partition.partition(record, consumers) as u32;
                spread(parts, shape, Routing::Each(&mut choose))
            }
            (None, Ship::Broadcast) => spread(parts, shape, Routing::All),
            (None, Ship::Forward | Ship::Exchange) => spread(parts, shape, Routing::Any),
        })
    }
}

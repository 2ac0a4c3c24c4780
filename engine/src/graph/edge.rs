//! Edges: how records are spread over the partitions of the next task, and how an edge becomes channels.

use super::{EdgeId, Graph, VertexId};
use crate::operator::{Edge, EdgeWriter, Partition, Route, ToAll, ToOne};
use crate::ring::{ChannelSpec, Sender, channel};
use crate::task::Input;
use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_storage::key_group::KeyGroups;
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
}

type MakeWriter<T> = Box<dyn Fn(WriterContext<T>) -> Box<dyn EdgeWriter<T>> + Send>;

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
}

impl<T: Data> InputPlan<T> {
    /// Partition i to partition i, or in turn to all partitions.
    pub fn forward(source: OutputRef<T>) -> Self {
        InputPlan { source, ship: Ship::Forward, make: edge_maker(|| ToOne(RoundRobin::default())) }
    }

    /// In turn to all partitions.
    pub fn rebalance(source: OutputRef<T>) -> Self {
        InputPlan { source, ship: Ship::Exchange, make: edge_maker(|| ToOne(RoundRobin::default())) }
    }

    /// To every partition.
    pub fn broadcast(source: OutputRef<T>) -> Self {
        InputPlan { source, ship: Ship::Broadcast, make: edge_maker(|| ToAll) }
    }

    /// To the partition that `choose` names.
    pub fn custom(
        source: OutputRef<T>,
        choose: impl FnMut(&T, usize) -> usize + Clone + Send + 'static,
    ) -> Self {
        InputPlan {
            source,
            ship: Ship::Exchange,
            make: edge_maker(move || ToOne(WithFunction(choose.clone()))),
        }
    }

    /// To the partition that owns the key's group.
    pub fn keyed<K: Key>(
        source: OutputRef<T>,
        extract: impl FnMut(&T) -> K + Clone + Send + 'static,
    ) -> Self {
        let make: MakeWriter<T> = Box::new(move |context| {
            let partition = KeyPartition::new(extract.clone(), context.key_groups, context.senders.len());
            Box::new(Edge::new(context.name, context.senders, ToOne(partition)))
        });
        InputPlan { source, ship: Ship::Exchange, make }
    }

    /// The output that the edge comes from.
    pub fn into_source(self) -> OutputRef<T> {
        self.source
    }

    /// Adds the edge to `graph`, ending at `consumer`.
    pub fn attach(self, graph: &mut Graph, consumer: VertexId) -> EdgeId {
        let edge =
            graph.add_edge(self.source.vertex, consumer, self.ship, Box::new(WireOf::<T>(PhantomData)));
        let mut plans = self.source.plans.lock().unwrap_or_else(PoisonError::into_inner);
        plans.push(EdgePlan { edge, make: self.make });
        edge
    }
}

fn edge_maker<T: Data, R: Route<T> + 'static>(route: impl Fn() -> R + Send + 'static) -> MakeWriter<T> {
    Box::new(move |context| Box::new(Edge::new(context.name, context.senders, route())))
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

/// In-flight data of one channel, as a checkpoint stored them.
pub(crate) struct RestoredChannel {
    /// Number of records.
    pub records: u64,
    /// The records, one after another.
    pub bytes: Vec<u8>,
}

/// What the channels of an edge are made from.
pub(crate) struct WireContext<'a> {
    pub name: Arc<str>,
    pub producers: u32,
    pub consumers: u32,
    pub ship: Ship,
    /// Sizes and doorbells of the channel from a producer to a consumer, and the bytes of a record.
    pub spec: &'a dyn Fn(u32, u32, usize) -> ChannelSpec,
    /// In-flight data to restore, by producer and consumer: the consumer's capture, then the producer's outbox.
    pub restored: &'a HashMap<(u32, u32), Vec<RestoredChannel>>,
}

/// The ends of an edge's channels, by partition; their types are known to the tasks that take them.
pub(crate) struct Wired {
    /// `Vec<(u32, Sender<T>)>` for each producing partition.
    pub producers: Vec<Box<dyn Any + Send>>,
    /// `Vec<Input<T>>` for each consuming partition.
    pub consumers: Vec<Box<dyn Any + Send>>,
}

/// Makes the channels of an edge.
pub(crate) trait Wire: Send {
    /// Makes them.
    ///
    /// # Errors
    /// Restored in-flight data do not decode.
    fn wire(&self, context: &WireContext<'_>) -> Result<Wired, String>;
}

struct WireOf<T>(PhantomData<fn() -> T>);

impl<T: Data> Wire for WireOf<T> {
    fn wire(&self, context: &WireContext<'_>) -> Result<Wired, String> {
        let mut senders: Vec<Vec<(u32, Sender<T>)>> = (0..context.producers).map(|_| Vec::new()).collect();
        let mut inputs: Vec<Vec<Input<T>>> = (0..context.consumers).map(|_| Vec::new()).collect();
        let point_wise = context.ship == Ship::Forward && context.producers == context.consumers;
        for producer in 0..context.producers {
            for consumer in 0..context.consumers {
                if point_wise && producer != consumer {
                    continue;
                }
                let spec = (context.spec)(producer, consumer, size_of::<T>());
                let mut restored = VecDeque::new();
                for part in context.restored.get(&(producer, consumer)).into_iter().flatten() {
                    decode_batches::<T>(part, spec.batch_records, &mut restored).map_err(|error| {
                        format!(
                            "in-flight data of edge {} from {producer} to {consumer}: {error}",
                            context.name
                        )
                    })?;
                }
                let (sender, receiver) = channel(spec, restored);
                senders[producer as usize].push((consumer, sender));
                inputs[consumer as usize].push(Input { edge: Arc::clone(&context.name), producer, receiver });
            }
        }
        let lost = context.restored.keys().find(|(producer, consumer)| {
            let has = |sender: &(u32, Sender<T>)| sender.0 == *consumer;
            !senders.get(*producer as usize).is_some_and(|senders| senders.iter().any(has))
        });
        if let Some((producer, consumer)) = lost {
            return Err(format!(
                "the checkpoint holds in-flight data of edge {} from {producer} to {consumer}, which are not connected \
                 any more: restore with the partitioning that wrote it",
                context.name
            ));
        }
        Ok(Wired {
            producers: senders.into_iter().map(|s| Box::new(s) as Box<dyn Any + Send>).collect(),
            consumers: inputs.into_iter().map(|i| Box::new(i) as Box<dyn Any + Send>).collect(),
        })
    }
}

fn decode_batches<T: Data>(
    part: &RestoredChannel,
    batch: usize,
    into: &mut VecDeque<Vec<T>>,
) -> Result<(), String> {
    let mut bytes = part.bytes.as_slice();
    let mut records = Vec::new();
    for index in 0..part.records {
        records.push(
            T::decode(&mut bytes).map_err(|error| format!("record {index} of {}: {error}", part.records))?,
        );
        if records.len() == batch {
            into.push_back(std::mem::take(&mut records));
        }
    }
    if !records.is_empty() {
        into.push_back(records);
    }
    if bytes.is_empty() { Ok(()) } else { Err(format!("{} bytes are left over", bytes.len())) }
}

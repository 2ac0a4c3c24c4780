//! Streams of records and their transformations.

use super::connected::Connected;
use super::{DataStream, GraphRef, KeyedStream, OperatorName, Reserved};
use crate::connector::{BoxError, Sink, Source};
use crate::graph::{
    ChainFactory, ConnectSide, EdgeHead, Head, InputPlan, OutputEnd, OutputRef, SinkEnd, SourceHead, VertexId,
};
use crate::operator::{Collector, Identity, Link, Then};
use crate::operators::{
    Filter, FlatMap, Map, Process, ProcessFunction, SideOutput, SideSlot, TryFlatMap, TryMap,
};
use std::any::Any;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use thalweg_storage::{Data, Key};

/// A chain of operators under construction. It runs once it ends in a sink, or goes on in a chain that does. Records come from the head `H` and pass the operators `L`.
#[must_use = "a stream that ends in no sink does not run"]
pub struct Stream<H: Head, L: Link<H::Out>> {
    graph: GraphRef,
    head: H,
    link: L,
    uids: Vec<Arc<str>>,
    names: Vec<String>,
    parallelism: Option<u32>,
    vertex: Reserved,
    sides: Vec<ConnectSide>,
}

impl<H: Head, L: Link<H::Out>> Stream<H, L> {
    pub(super) fn begin(graph: GraphRef, head: H, link: L, first: Option<OperatorName>) -> Self {
        let uids = first.iter().map(OperatorName::uid).collect();
        let names = first.iter().map(|name| name.name().to_owned()).collect();
        Stream { graph, head, link, uids, names, parallelism: None, vertex: None, sides: Vec::new() }
    }

    pub(super) fn graph(&self) -> &GraphRef {
        &self.graph
    }

    pub(super) fn head_mut(&mut self) -> &mut H {
        &mut self.head
    }

    /// The vertex that this chain will become, described by what is known of it so far.
    pub(super) fn reserve_vertex(&mut self) -> VertexId {
        let mut graph = self.graph.borrow_mut();
        let vertex = *self.vertex.get_or_insert_with(|| graph.add_vertex());
        graph.describe_vertex(vertex, self.uids.clone(), &self.names, self.parallelism);
        vertex
    }

    /// The graph of this stream and of `other`, which it is about to be combined with.
    ///
    /// # Panics
    /// When they are of different dataflows.
    fn common_graph(&self, other: &GraphRef) -> GraphRef {
        assert!(Rc::ptr_eq(&self.graph, other), "streams of two dataflows cannot be combined");
        Rc::clone(&self.graph)
    }

    /// Adds an operator to the chain.
    pub(super) fn then<M: Link<L::Out>>(self, name: OperatorName, link: M) -> Stream<H, Then<L, M>> {
        let Stream { graph, head, link: before, mut uids, mut names, parallelism, vertex, sides } = self;
        uids.push(name.uid());
        names.push(name.name().to_owned());
        Stream { graph, head, link: Then(before, link), uids, names, parallelism, vertex, sides }
    }

    /// Runs this chain, from the last exchange to the next, in `parallelism` partitions.
    pub fn with_parallelism(mut self, parallelism: u32) -> Self {
        self.parallelism = Some(parallelism);
        self
    }

    /// Turns each record into another.
    pub fn map<U: 'static, F>(self, name: impl Into<OperatorName>, function: F) -> Stream<H, Then<L, Map<F>>>
    where
        F: FnMut(L::Out) -> U + Clone + Send + 'static,
    {
        let name = name.into();
        let uid = name.uid();
        self.then(name, Map { uid, function })
    }

    /// Turns each record into another; an error fails the job, which restarts by its strategy.
    pub fn try_map<U: 'static, E, F>(
        self,
        name: impl Into<OperatorName>,
        function: F,
    ) -> Stream<H, Then<L, TryMap<F>>>
    where
        E: Into<BoxError>,
        F: FnMut(L::Out) -> Result<U, E> + Clone + Send + 'static,
    {
        let name = name.into();
        let uid = name.uid();
        self.then(name, TryMap { uid, function })
    }

    /// Keeps the records for which `predicate` holds.
    pub fn filter<F>(self, name: impl Into<OperatorName>, predicate: F) -> Stream<H, Then<L, Filter<F>>>
    where
        F: FnMut(&L::Out) -> bool + Clone + Send + 'static,
    {
        let name = name.into();
        let uid = name.uid();
        self.then(name, Filter { uid, predicate })
    }

    /// Turns each record into any number of others. The iterator is consumed lazily: it pauses where there is no room.
    pub fn flat_map<I, F>(self, name: impl Into<OperatorName>, function: F) -> Stream<H, Then<L, FlatMap<F>>>
    where
        I: IntoIterator<Item: 'static, IntoIter: Send + 'static>,
        F: FnMut(L::Out) -> I + Clone + Send + 'static,
    {
        let name = name.into();
        let uid = name.uid();
        self.then(name, FlatMap { uid, function })
    }

    /// Turns each record into any number of others; an error fails the job, which restarts by its strategy.
    pub fn try_flat_map<I, E, F>(
        self,
        name: impl Into<OperatorName>,
        function: F,
    ) -> Stream<H, Then<L, TryFlatMap<F>>>
    where
        I: IntoIterator<Item: 'static, IntoIter: Send + 'static>,
        E: Into<BoxError>,
        F: FnMut(L::Out) -> Result<I, E> + Clone + Send + 'static,
    {
        let name = name.into();
        let uid = name.uid();
        self.then(name, TryFlatMap { uid, function })
    }

    /// Processes records with user code that has a lifecycle and operator state.
    pub fn process<P>(self, name: impl Into<OperatorName>, function: P) -> Stream<H, Then<L, Process<P>>>
    where
        P: ProcessFunction<L::Out>,
    {
        let name = name.into();
        let uid = name.uid();
        self.then(name, Process { uid, function })
    }

    /// Processes records into a main and a side output.
    #[expect(clippy::type_complexity, reason = "a fused chain is its type")]
    pub fn process_with_side_output<U, S, F>(
        mut self,
        name: impl Into<OperatorName>,
        function: F,
    ) -> (Stream<H, Then<L, SideOutput<F, U, S>>>, SharedStream<S>)
    where
        U: Send + 'static,
        S: Data,
        F: FnMut(L::Out, &mut Collector<U>, &mut Collector<S>) -> Result<(), BoxError>
            + Clone
            + Send
            + 'static,
    {
        let name = name.into();
        let uid = name.uid();
        let slot = SideSlot::default();
        let vertex = self.reserve_vertex();
        let output = OutputRef::of(vertex);
        self.sides.push(crate::graph::side_output(output.clone(), slot.clone()));
        let side = SharedStream::new(Rc::clone(&self.graph), output);
        let mut main = self.then(name, SideOutput { uid, function, slot, main: PhantomData });
        // Names this operator too, should the chain never be ended.
        main.reserve_vertex();
        (main, side)
    }

    /// Ends the chain in `sink`.
    pub fn sink<S: Sink<Record = L::Out>>(mut self, name: impl Into<OperatorName>, sink: S) {
        let name = name.into();
        let uid = name.uid();
        self.uids.push(Arc::clone(&uid));
        self.names.push(name.name().to_owned());
        self.finish(|_| SinkEnd { uid, sink });
    }

    /// Makes the chain a vertex of the graph.
    fn finish<E: crate::graph::End<L::Out>>(mut self, end: impl FnOnce(VertexId) -> E) -> VertexId {
        let vertex = self.reserve_vertex();
        let Stream { graph, mut head, link, uids, names, parallelism, sides, .. } = self;
        let mut graph = graph.borrow_mut();
        graph.describe_vertex(vertex, uids, &names, parallelism);
        head.attach(&mut graph, vertex);
        graph.set_factory(vertex, Box::new(ChainFactory { head, link, end: end(vertex), sides }));
        vertex
    }
}

impl<H: Head, L: Link<H::Out, Out: Data>> Stream<H, L> {
    /// The edges into the next operator: those into this stream where it has no operator yet, else one out of it.
    pub(super) fn into_plans(mut self) -> Vec<InputPlan<L::Out>> {
        if self.names.is_empty() && self.vertex.is_none() {
            let head: &mut dyn Any = &mut self.head;
            if let Some(head) = head.downcast_mut::<EdgeHead<L::Out>>() {
                return std::mem::take(&mut head.plans);
            }
        }
        vec![InputPlan::forward(self.into_output())]
    }

    fn into_output(self) -> OutputRef<L::Out> {
        let mut output = None;
        self.finish(|vertex| OutputEnd(output.insert(OutputRef::of(vertex)).clone()));
        output.expect("finishing a chain makes its end")
    }

    fn exchange(self, plan: impl Fn(OutputRef<L::Out>) -> InputPlan<L::Out>) -> DataStream<L::Out> {
        let graph = Rc::clone(&self.graph);
        let plans = self.into_plans().into_iter().map(|input| plan(input.into_source())).collect();
        Stream::begin(graph, EdgeHead::new(plans), Identity, None)
    }

    /// Spreads records evenly over the partitions of the next operator.
    pub fn rebalance(self) -> DataStream<L::Out> {
        self.exchange(InputPlan::rebalance)
    }

    /// Sends every record to every partition of the next operator. Barriers do not overtake data on such an edge.
    pub fn broadcast(self) -> DataStream<L::Out> {
        self.exchange(InputPlan::broadcast)
    }

    /// Sends each record to the partition that `choose` names, given the number of partitions.
    pub fn partition_custom<F>(self, choose: F) -> DataStream<L::Out>
    where
        F: FnMut(&L::Out, usize) -> usize + Clone + Send + 'static,
    {
        self.exchange(move |source| InputPlan::custom(source, choose.clone()))
    }

    /// Groups records by the key that `extract` gives: all records of a key go to one partition, in order.
    pub fn key_by<K: Key, E>(self, extract: E) -> KeyedStream<L::Out, K, E>
    where
        E: FnMut(&L::Out) -> K + Clone + Send + 'static,
    {
        let keyed = extract.clone();
        let stream = self.exchange(move |source| InputPlan::keyed(source, keyed.clone()));
        KeyedStream::new(stream, extract)
    }

    /// Merges this stream with another of the same type. Nothing is said about the order between the two.
    ///
    /// # Panics
    /// When the other stream belongs to another dataflow.
    pub fn union<H2: Head, L2: Link<H2::Out, Out = L::Out>>(
        self,
        other: Stream<H2, L2>,
    ) -> DataStream<L::Out> {
        let graph = self.common_graph(&other.graph);
        let mut plans = self.into_plans();
        plans.extend(other.into_plans());
        Stream::begin(graph, EdgeHead::new(plans), Identity, None)
    }

    /// Connects this stream with another, perhaps of another type, for one operator that processes both.
    ///
    /// # Panics
    /// When the other stream belongs to another dataflow.
    pub fn connect<H2: Head, L2: Link<H2::Out, Out: Data>>(
        self,
        other: Stream<H2, L2>,
    ) -> Connected<L::Out, L2::Out> {
        let graph = self.common_graph(&other.graph);
        Connected::new(graph, self.into_plans(), other.into_plans())
    }

    /// Ends the chain in a stream that any number of others can continue.
    pub fn share(self) -> SharedStream<L::Out> {
        let graph = Rc::clone(&self.graph);
        SharedStream::new(graph, self.into_output())
    }
}

impl<S: Source, L: Link<S::Record>> Stream<SourceHead<S>, L> {
    /// Limits the source to `records_per_second`, over all partitions.
    pub fn with_rate_limit(mut self, records_per_second: f64) -> Self {
        self.head.rate = Some(records_per_second);
        self
    }
}

/// A stream that can be continued more than once: each continuation gets every record.
pub struct SharedStream<T> {
    graph: GraphRef,
    output: OutputRef<T>,
}

impl<T> Clone for SharedStream<T> {
    fn clone(&self) -> Self {
        SharedStream { graph: Rc::clone(&self.graph), output: self.output.clone() }
    }
}

impl<T: Data> SharedStream<T> {
    pub(super) fn new(graph: GraphRef, output: OutputRef<T>) -> Self {
        SharedStream { graph, output }
    }

    /// One continuation of the stream.
    pub fn stream(&self) -> DataStream<T> {
        let plan = InputPlan::forward(self.output.clone());
        Stream::begin(Rc::clone(&self.graph), EdgeHead::new(vec![plan]), Identity, None)
    }
}

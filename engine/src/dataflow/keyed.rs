//! Streams grouped by key, and the operators with keyed state.

use super::connected::KeyedConnected;
use super::{DataStream, GraphRef, OperatorName, Stream};
use crate::connector::BoxError;
use crate::graph::{EdgeHead, InputPlan};
use crate::operator::{Collector, Identity, Then};
use crate::operators::{KeyedContext, KeyedProcess, KeyedReduce, KeyedSum, KeyedTimers};
use crate::state::StateSpec;
use std::marker::PhantomData;
use std::rc::Rc;
use thalweg_storage::{Data, Key};

/// A chain that begins with the keyed operator `O`.
type KeyedChain<T, O> = Stream<EdgeHead<T>, Then<Identity, O>>;

/// A stream whose records are grouped by a key of type `K`, which `E` extracts.
pub struct KeyedStream<T: Data, K, E> {
    stream: DataStream<T>,
    extract: E,
    key: PhantomData<fn() -> K>,
}

impl<T, K, E> KeyedStream<T, K, E>
where
    T: Data,
    K: Key,
    E: FnMut(&T) -> K + Clone + Send + 'static,
{
    pub(super) fn new(stream: DataStream<T>, extract: E) -> Self {
        KeyedStream { stream, extract, key: PhantomData }
    }

    /// The stream without its key, still spread by it.
    #[cfg(test)]
    pub(crate) fn into_stream(self) -> DataStream<T> {
        self.stream
    }

    pub(super) fn into_parts(self) -> (GraphRef, Vec<InputPlan<T>>, E) {
        let graph = Rc::clone(self.stream.graph());
        (graph, self.stream.into_plans(), self.extract)
    }

    /// Runs the next operator in `parallelism` partitions.
    pub fn with_parallelism(mut self, parallelism: u32) -> Self {
        self.stream = self.stream.with_parallelism(parallelism);
        self
    }

    /// Adds up a number per record, for each key, and emits every running total.
    pub fn sum<N, F>(self, name: impl Into<OperatorName>, addend: F) -> KeyedChain<T, KeyedSum<K, E, F, N>>
    where
        N: Data + Default + std::ops::AddAssign,
        F: FnMut(&T) -> N + Clone + Send + 'static,
    {
        let name = name.into();
        let operator = KeyedSum { uid: name.uid(), extract: self.extract, addend, types: PhantomData };
        self.stream.then(name, operator)
    }

    /// Counts the records of each key and emits every running count.
    pub fn count(
        self,
        name: impl Into<OperatorName>,
    ) -> KeyedChain<T, KeyedSum<K, E, impl FnMut(&T) -> u64 + Clone + Send + 'static, u64>> {
        // Not a function pointer: that would be called for each record.
        self.sum(name, |_: &T| 1)
    }

    /// Combines the records of each key, one after another, and emits every intermediate result; a key's first
    /// record is its first result.
    pub fn reduce<F>(self, name: impl Into<OperatorName>, function: F) -> KeyedChain<T, KeyedReduce<K, E, F>>
    where
        F: FnMut(&T, T) -> T + Clone + Send + 'static,
    {
        let name = name.into();
        let operator = KeyedReduce { uid: name.uid(), extract: self.extract, function, key: PhantomData };
        self.stream.then(name, operator)
    }

    /// Processes records with access to the state of their key: `function` gets the key, the record, the states of
    /// `spec` and a collector.
    pub fn process<S, U, F>(
        self,
        name: impl Into<OperatorName>,
        spec: S,
        function: F,
    ) -> KeyedChain<T, KeyedProcess<K, E, S, F, U>>
    where
        S: StateSpec<K>,
        U: Send + 'static,
        F: FnMut(&K, T, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Clone + Send + 'static,
    {
        let name = name.into();
        let operator =
            KeyedProcess { uid: name.uid(), extract: self.extract, spec, function, types: PhantomData };
        self.stream.then(name, operator)
    }

    /// As [`KeyedStream::process`], with processing-time timers: `function` gets a context, the record, the states of `spec`
    /// and a collector; `on_timer` gets the time of a timer that fires in place of the record.
    ///
    /// Timers are state: they survive failures, and those whose time has passed meanwhile fire after the restore. Those that
    /// are not due when the input ends do not fire.
    ///
    /// ```
    /// # use thalweg::connector::{CollectSink, VecSource};
    /// # use thalweg::{Dataflow, operator::Collector};
    /// use thalweg::operators::KeyedContext;
    /// use thalweg::state::{ValueState, ValueStateDescriptor};
    /// # let flow = Dataflow::new("silent");
    /// # let readings = flow.source("readings", VecSource::new(vec![1_u64, 2, 3, 4]));
    /// // Emits each sensor that has been silent for a minute.
    /// let silent = readings.key_by(|sensor| *sensor).process_with_timers(
    ///     "silent",
    ///     ValueStateDescriptor::<i64>::new("deadline"),
    ///     |context: &mut KeyedContext<'_, u64>, _, mut deadline: ValueState<'_, u64, i64>, _| {
    ///         let mut timers = context.timer_service();
    ///         if let Some(before) = deadline.value() {
    ///             timers.delete_processing_time_timer(before);
    ///         }
    ///         let next = timers.current_processing_time() + 60_000;
    ///         timers.register_processing_time_timer(next);
    ///         deadline.update(next);
    ///         Ok(())
    ///     },
    ///     |context: &mut KeyedContext<'_, u64>, _, mut deadline, out: &mut Collector<u64>| {
    ///         deadline.clear();
    ///         out.collect(*context.current_key());
    ///         Ok(())
    ///     },
    /// );
    /// # silent.sink("sink", CollectSink::new());
    /// ```
    pub fn process_with_timers<S, U, F, G>(
        self,
        name: impl Into<OperatorName>,
        spec: S,
        function: F,
        on_timer: G,
    ) -> KeyedChain<T, KeyedTimers<K, E, S, F, G, U>>
    where
        S: StateSpec<K>,
        U: Send + 'static,
        F: FnMut(&mut KeyedContext<'_, K>, T, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError>
            + Clone
            + Send
            + 'static,
        G: FnMut(&mut KeyedContext<'_, K>, i64, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError>
            + Clone
            + Send
            + 'static,
    {
        let name = name.into();
        let operator = KeyedTimers {
            uid: name.uid(),
            extract: self.extract,
            spec,
            function,
            on_timer,
            types: PhantomData,
        };
        self.stream.then(name, operator)
    }

    /// Connects this stream with another of the same key, for one operator over the state that both share.
    ///
    /// # Panics
    /// When the other stream belongs to another dataflow.
    pub fn connect<B, E2>(self, other: KeyedStream<B, K, E2>) -> KeyedConnected<T, B, K, E, E2>
    where
        B: Data,
        E2: FnMut(&B) -> K + Clone + Send + 'static,
    {
        let (graph, first, extract_first) = self.into_parts();
        let (other_graph, second, extract_second) = other.into_parts();
        assert!(Rc::ptr_eq(&graph, &other_graph), "streams of two dataflows cannot be combined");
        KeyedConnected::new(graph, first, second, extract_first, extract_second)
    }
}

//! Two streams on their way into one operator.

use super::{GraphRef, OperatorName, Stream};
use crate::connector::BoxError;
use crate::graph::{ConnectHead, InputPlan};
use crate::operator::{Collector, Identity};
use crate::operators::{CoProcess, CoProcessFunction, KeyedCoProcess};
use crate::state::StateSpec;
use std::marker::PhantomData;
use thalweg_storage::{Data, Key};

/// Two connected streams.
pub struct Connected<A, B> {
    graph: GraphRef,
    first: Vec<InputPlan<A>>,
    second: Vec<InputPlan<B>>,
}

impl<A: Data, B: Data> Connected<A, B> {
    pub(super) fn new(graph: GraphRef, first: Vec<InputPlan<A>>, second: Vec<InputPlan<B>>) -> Self {
        Connected { graph, first, second }
    }

    /// Processes the records of both streams with user code that has a lifecycle and operator state.
    pub fn process<P>(
        self,
        name: impl Into<OperatorName>,
        function: P,
    ) -> Stream<ConnectHead<A, B, CoProcess<P>>, Identity>
    where
        P: CoProcessFunction<A, B>,
    {
        let name = name.into();
        let operator = CoProcess { uid: name.uid(), function };
        Stream::begin(self.graph, ConnectHead::new(self.first, self.second, operator), Identity, Some(name))
    }
}

/// Two connected streams, grouped by keys of one type.
pub struct KeyedConnected<A, B, K, EA, EB> {
    graph: GraphRef,
    first: Vec<InputPlan<A>>,
    second: Vec<InputPlan<B>>,
    extract_first: EA,
    extract_second: EB,
    key: PhantomData<fn() -> K>,
}

impl<A, B, K, EA, EB> KeyedConnected<A, B, K, EA, EB>
where
    A: Data,
    B: Data,
    K: Key,
    EA: FnMut(&A) -> K + Clone + Send + 'static,
    EB: FnMut(&B) -> K + Clone + Send + 'static,
{
    pub(super) fn new(
        graph: GraphRef,
        first: Vec<InputPlan<A>>,
        second: Vec<InputPlan<B>>,
        extract_first: EA,
        extract_second: EB,
    ) -> Self {
        KeyedConnected { graph, first, second, extract_first, extract_second, key: PhantomData }
    }

    /// Processes the records of both streams with access to the state of their key: `first` those of the first
    /// stream, `second` those of the second.
    #[expect(clippy::type_complexity, reason = "a fused chain is its type")]
    pub fn process<S, U, FA, FB>(
        self,
        name: impl Into<OperatorName>,
        spec: S,
        first: FA,
        second: FB,
    ) -> Stream<ConnectHead<A, B, KeyedCoProcess<K, EA, EB, S, FA, FB, U>>, Identity>
    where
        S: StateSpec<K>,
        U: Send + 'static,
        FA: FnMut(&K, A, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Clone + Send + 'static,
        FB: FnMut(&K, B, S::View<'_>, &mut Collector<U>) -> Result<(), BoxError> + Clone + Send + 'static,
    {
        let name = name.into();
        let operator = KeyedCoProcess {
            uid: name.uid(),
            extract_first: self.extract_first,
            extract_second: self.extract_second,
            spec,
            first,
            second,
            types: PhantomData,
        };
        Stream::begin(self.graph, ConnectHead::new(self.first, self.second, operator), Identity, Some(name))
    }
}

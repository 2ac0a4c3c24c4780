//! The typed dataflow builder: sources, transformations, sinks.
//!
//! A [`Stream`] is a chain of operators under construction. Operators without an exchange between them fuse into one
//! task; `key_by`, `rebalance`, `broadcast`, `partition_custom`, `union` and `connect` begin a new one.

mod connected;
mod keyed;
mod name;
mod stream;

pub use connected::{Connected, KeyedConnected};
pub use keyed::KeyedStream;
pub use name::OperatorName;
pub use stream::{SharedStream, Stream};

use crate::connector::{MalformedPolicy, MalformedRecord, Source};
use crate::graph::{EdgeHead, Graph, OutputRef, SourceHead, VertexId};
use crate::operator::Identity;
use std::cell::RefCell;
use std::rc::Rc;

/// A stream that begins at edges: what exchanges, unions and side outputs give.
pub type DataStream<T> = Stream<EdgeHead<T>, Identity>;

/// A job under construction.
///
/// ```
/// use thalweg::connector::{GeneratorSource, CollectSink};
/// use thalweg::{Dataflow, Engine};
///
/// let sink = CollectSink::new();
/// let flow = Dataflow::new("squares");
/// flow.source("numbers", GeneratorSource::new(Some(4), |n| n))
///     .map("square", |n: u64| n * n)
///     .sink("collect", sink.clone());
/// let engine = Engine::builder().workers(1).build()?;
/// engine.run(flow)?.wait()?;
/// let mut squares = sink.collected();
/// squares.sort();
/// assert_eq!(squares, [0, 1, 4, 9]);
/// # Ok::<(), thalweg::Error>(())
/// ```
pub struct Dataflow {
    name: String,
    graph: Rc<RefCell<Graph>>,
}

impl Dataflow {
    /// An empty job. Its name is the directory of its checkpoints: letters, digits, `-`, `_` and `.`.
    pub fn new(name: impl Into<String>) -> Self {
        Dataflow { name: name.into(), graph: Rc::default() }
    }

    /// The job's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins a stream at `source`. Malformed input fails the job.
    pub fn source<S: Source>(
        &self,
        name: impl Into<OperatorName>,
        source: S,
    ) -> Stream<SourceHead<S>, Identity> {
        self.source_with(name, source, MalformedPolicy::Fail)
    }

    /// Begins a stream at `source`; malformed input fails the job, or is left out and counted.
    pub fn source_with<S: Source>(
        &self,
        name: impl Into<OperatorName>,
        source: S,
        malformed: MalformedPolicy,
    ) -> Stream<SourceHead<S>, Identity> {
        let name = name.into();
        let uid = name.uid();
        let head = SourceHead { uid, source, malformed, dead_letters: None, rate: None, splits: Vec::new() };
        Stream::begin(Rc::clone(&self.graph), head, Identity, Some(name))
    }

    /// Begins a stream at `source`, and a second one of the input that could not be parsed.
    pub fn source_with_dead_letters<S: Source>(
        &self,
        name: impl Into<OperatorName>,
        source: S,
    ) -> (Stream<SourceHead<S>, Identity>, SharedStream<MalformedRecord>) {
        let mut stream = self.source_with(name, source, MalformedPolicy::Divert);
        let vertex = stream.reserve_vertex();
        let output = OutputRef::of(vertex);
        stream.head_mut().dead_letters = Some(output.clone());
        (stream, SharedStream::new(Rc::clone(&self.graph), output))
    }

    /// The finished graph. A stream that was not ended is no part of it, unless it has a side output.
    pub(crate) fn into_graph(self) -> Graph {
        let mut graph = std::mem::take(&mut *self.graph.borrow_mut());
        graph.name_edges();
        graph
    }
}

/// The graph that all streams of a dataflow add to.
pub(crate) type GraphRef = Rc<RefCell<Graph>>;

/// Reserved before it is known what its operators will be.
pub(crate) type Reserved = Option<VertexId>;

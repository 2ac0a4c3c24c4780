//! The job graph: vertices (chains of operators), edges between them, and how both become tasks and channels.
//!
//! Always true: edge names and operator uids are unique within a job and depend only on how the job was written, so
//! state and in-flight data are found again by them.

mod build;
mod restore;
mod fit;
mod rescale;
mod deploy;
mod edge;
#[cfg(test)]
mod tests;

pub(crate) use build::side_output;
pub use build::{BuildTask, ChainFactory, ConnectSide, End, Head, OutputEnd, SinkEnd, TaskContext};
pub use build::{ConnectHead, EdgeHead, SourceHead};
pub use deploy::{DeploySettings, GraphDeploy, StateSettings, TaskCounters};
pub use edge::{InputPlan, KeyPartition, OutputRef, RoundRobin, Ship, WithFunction};

use crate::barrier::ChannelKind;
use edge::Wire;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Index of a vertex in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VertexId(pub usize);

/// Index of an edge in its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EdgeId(pub usize);

/// A chain of operators that runs as one task per partition.
pub struct Vertex {
    /// Names of the operators, for people.
    pub name: String,
    /// Uids of the operators, from the first to the last.
    pub uids: Vec<Arc<str>>,
    /// Partitions asked for; the engine's default parallelism where none is.
    pub parallelism: Option<u32>,
    factory: Box<dyn BuildTask>,
    /// The factory is there: the chain was ended.
    complete: bool,
}

impl Vertex {
    /// Number of keyed state tables of each of its tasks.
    fn table_count(&self) -> usize {
        self.factory.table_count()
    }
}

/// A link between two vertices.
pub struct EdgeSpec {
    /// Its unique name, once `Graph::name_edges` has given it.
    pub name: Arc<str>,
    /// The producing vertex.
    pub producer: VertexId,
    /// The consuming vertex.
    pub consumer: VertexId,
    /// How records are spread.
    pub ship: Ship,
    wire: Box<dyn Wire>,
}

/// A job as written, before it runs.
#[derive(Default)]
pub struct Graph {
    /// The chains.
    pub vertices: Vec<Vertex>,
    /// The links.
    pub edges: Vec<EdgeSpec>,
}

/// A mistake in how a job was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// Two operators have one uid.
    #[error(
        "two operators have the uid `{uid}`: state is found by uid, so give one of them another name or uid"
    )]
    DuplicateUid {
        /// The uid.
        uid: String,
    },
    /// There is nothing to run.
    #[error("the dataflow has no operators: add a source and a sink")]
    Empty,
    /// An operator has a side output, but its own output leads nowhere.
    #[error(
        "operator `{operator}` has a side output or dead letters, but its main output leads nowhere: end it in a sink"
    )]
    Unended {
        /// The operator.
        operator: String,
    },
    /// A vertex wants an impossible number of partitions.
    #[error(
        "operator `{operator}` has parallelism {parallelism}; it must be between 1 and the job's max parallelism {max_parallelism}"
    )]
    Parallelism {
        /// The operator.
        operator: String,
        /// What it asks for.
        parallelism: u32,
        /// Number of key groups.
        max_parallelism: u16,
    },
}

impl Graph {
    /// The number of partitions of a vertex.
    pub fn parallelism(&self, vertex: VertexId, default: u32) -> u32 {
        self.vertices[vertex.0].parallelism.unwrap_or(default)
    }

    /// Looks for mistakes.
    ///
    /// # Errors
    /// The first mistake found; the job must not run.
    pub fn validate(&self, default_parallelism: u32, max_parallelism: u16) -> Result<(), GraphError> {
        if self.vertices.is_empty() {
            return Err(GraphError::Empty);
        }
        let mut seen = HashMap::new();
        for uid in self.vertices.iter().flat_map(|v| &v.uids) {
            if seen.insert(Arc::clone(uid), ()).is_some() {
                return Err(GraphError::DuplicateUid { uid: uid.to_string() });
            }
        }
        if let Some(vertex) = self.vertices.iter().find(|vertex| !vertex.complete) {
            return Err(GraphError::Unended { operator: vertex.name.clone() });
        }
        for (index, vertex) in self.vertices.iter().enumerate() {
            let parallelism = self.parallelism(VertexId(index), default_parallelism);
            if parallelism == 0 || parallelism > u32::from(max_parallelism) {
                let operator = vertex.name.clone();
                return Err(GraphError::Parallelism { operator, parallelism, max_parallelism });
            }
        }
        Ok(())
    }

    /// Adds a vertex; its description and factory follow.
    pub(crate) fn add_vertex(&mut self) -> VertexId {
        let factory = Box::new(build::NoFactory);
        self.vertices.push(Vertex {
            name: String::new(),
            uids: Vec::new(),
            parallelism: None,
            factory,
            complete: false,
        });
        VertexId(self.vertices.len() - 1)
    }

    pub(crate) fn describe_vertex(
        &mut self,
        vertex: VertexId,
        uids: Vec<Arc<str>>,
        names: &[String],
        parallelism: Option<u32>,
    ) {
        let vertex = &mut self.vertices[vertex.0];
        vertex.name = names.join(" -> ");
        vertex.uids = uids;
        vertex.parallelism = parallelism;
    }

    /// Checks the inputs and outputs of every vertex. May wait for the disk.
    ///
    /// # Errors
    /// The job must not start; names the operators of the chain.
    pub(crate) fn check(
        &mut self,
        disk: &thalweg_storage::io::DiskHandle,
        default_parallelism: u32,
    ) -> Result<(), (String, crate::connector::BoxError)> {
        for vertex in &mut self.vertices {
            let parallelism = vertex.parallelism.unwrap_or(default_parallelism);
            vertex.factory.check(disk, parallelism).map_err(|error| (vertex.name.clone(), error))?;
        }
        Ok(())
    }

    pub(crate) fn set_factory(&mut self, vertex: VertexId, factory: Box<dyn BuildTask>) {
        self.vertices[vertex.0].factory = factory;
        self.vertices[vertex.0].complete = true;
    }

    /// How a consumer may treat the channels of each edge.
    ///
    /// Barriers wait behind the data of a forward or broadcast edge, and so do its producer, whose outbox must be empty
    /// first, and every task downstream of it: their exchanges are announced late, and a consumer that snapshotted before
    /// their announcement could end up waiting for itself (see [`crate::barrier`]).
    pub(super) fn channel_kinds(&self) -> Vec<ChannelKind> {
        let mut delayed = vec![false; self.vertices.len()];
        // A path has at most as many edges as there are vertices.
        for _ in 0..self.vertices.len() {
            for edge in &self.edges {
                let aligned_only = edge.ship != Ship::Exchange;
                // A producer whose outbox must be empty before its snapshot waits for its consumers.
                delayed[edge.producer.0] |= aligned_only;
                delayed[edge.consumer.0] |= aligned_only || delayed[edge.producer.0];
            }
        }
        let kind = |edge: &EdgeSpec| match edge.ship {
            Ship::Forward | Ship::Broadcast => ChannelKind::AlignedOnly,
            Ship::Exchange if delayed[edge.producer.0] => ChannelKind::DelayedExchange,
            Ship::Exchange => ChannelKind::Exchange,
        };
        self.edges.iter().map(kind).collect()
    }

    /// Names each edge after the operators at its ends, once all of them are known; further edges between the same
    /// operators are numbered in the order in which they were written.
    pub(crate) fn name_edges(&mut self) {
        let uid = |uid: Option<&Arc<str>>| uid.map_or_else(String::new, |uid| uid.to_string());
        let mut names = HashSet::new();
        for edge in &mut self.edges {
            let producer = uid(self.vertices[edge.producer.0].uids.last());
            let ends = format!("{producer}->{}", uid(self.vertices[edge.consumer.0].uids.first()));
            let numbered = (1_usize..).map(|n| Arc::from(format!("{ends}#{n}")));
            let mut candidates = std::iter::once(Arc::from(ends.as_str())).chain(numbered);
            let free = candidates.find(|name: &Arc<str>| !names.contains(name));
            edge.name = free.expect("there are more numbers than edges");
            names.insert(Arc::clone(&edge.name));
        }
    }

    /// Adds an edge; [`Graph::name_edges`] names it.
    pub(super) fn add_edge(
        &mut self,
        producer: VertexId,
        consumer: VertexId,
        ship: Ship,
        wire: Box<dyn Wire>,
    ) -> EdgeId {
        self.edges.push(EdgeSpec { name: "".into(), producer, consumer, ship, wire });
        EdgeId(self.edges.len() - 1)
    }
}

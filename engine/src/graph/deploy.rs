//! Makes all tasks and channels of one attempt, with the state of a checkpoint where there is one.
//!
//! Always true: a checkpoint is restored as a whole or not at all; state that no operator of the job wants is an
//! error unless the settings allow to drop it, because dropping it silently would lose it.

use super::build::TaskContext;
use super::edge::{RestoredEdge, WireContext};
use super::fit::check_fit;
use super::rescale::{generations, operator_parts, segments_of};
use super::restore::{guarded, restore_tasks};
use super::{EdgeSpec, Graph, VertexId};
use crate::clock::Clock;
use crate::config::StateBackend;
use crate::control::{ReportSink, TaskId};
use crate::coordinator::{Deploy, DeployError, DeployedOperator, Deployment};
use crate::metrics::TaskMetrics;
use crate::operator::{BindContext, OperatorRestore};
use crate::ring::doorbell::Doorbell;
use crate::ring::{BatchPool, ChannelSpec};
use crate::task::{KeyedRestore, PartFiles, Task};
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_storage::checkpoint::names::scratch_path;
use thalweg_storage::checkpoint::{read_payload, verify_channel_files};
use thalweg_storage::io::{DiskHandle, Notify};
use thalweg_storage::key_group::KeyGroups;
use thalweg_storage::log::LogOptions;
use thalweg_storage::manifest::{EdgeState, Manifest};
use thalweg_storage::table::Backend;
use thalweg_storage::{AttemptId, StoreError};

/// Everything about deploying a job that its graph does not say.
#[derive(Clone)]
pub struct DeploySettings {
    /// The job's name.
    pub job: Arc<str>,
    /// Partitions of a vertex that does not say.
    pub parallelism: u32,
    /// Number of key groups.
    pub max_parallelism: u16,
    /// Batches that a ring holds.
    pub ring_batches: usize,
    /// Records of a batch at most.
    pub batch_records: usize,
    /// Bytes of a batch at most, by the size of its records in memory.
    pub batch_bytes: usize,
    /// Bytes of floating batches of the whole engine.
    pub pool_bytes: usize,
    /// A batch that is not full leaves after this long.
    pub buffer_timeout: Duration,
    /// Checkpoints that may be under way at once.
    pub max_concurrent: usize,
    /// Whether checkpoints of keyed state are incremental.
    pub incremental: bool,
    /// Compression level of snapshots.
    pub zstd_level: i32,
    /// Whether state and in-flight data that nothing in the job wants are dropped; otherwise they are an error (Flink's
    /// `execution.state-recovery.ignore-unclaimed-state`). With an operator's state goes output that its sink had prepared.
    pub allow_non_restored_state: bool,
    /// What keyed state lives on.
    pub state: StateSettings,
    /// Threads that restore keyed state, the calling one among them.
    pub restore_threads: usize,
    /// The job's checkpoint directory.
    pub job_dir: Option<PathBuf>,
    /// The disk.
    pub disk: DiskHandle,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
    /// One doorbell per worker.
    pub doorbells: Vec<Doorbell>,
}

impl DeploySettings {
    /// What the tables of the task at `vertex` and `partition` live on, if `tables` are all tables of all tasks.
    ///
    /// Each table has the same share of the engine's budget: a table that needs less does not lend the rest to others.
    fn backend(&self, disk: &DiskHandle, attempt: AttemptId, task: (usize, u32), tables: usize) -> Backend {
        match self.state.backend {
            StateBackend::HashMap => Backend::HashMap,
            StateBackend::Log => {
                let mut options = LogOptions::default();
                options.disk = Some(disk.clone());
                options.job_dir = self.job_dir.clone();
                let scratch = |dir: &PathBuf| dir.join(scratch_path(attempt, task.0 as u32, task.1));
                options.scratch = self.job_dir.as_ref().map(scratch);
                let share = |bytes: u64| (bytes / tables.max(1) as u64).try_into().unwrap_or(usize::MAX);
                options.memory_bytes = self.state.memory_bytes.map(share);
                Backend::Log(options)
            }
        }
    }
}

/// What keyed state of a whole engine lives on.
#[derive(Clone, Copy, Debug)]
pub struct StateSettings {
    /// The kind of table.
    pub backend: StateBackend,
    /// Bytes of pages of all tables together; none for no limit.
    pub memory_bytes: Option<u64>,
}

/// Counters of one task of the present attempt.
#[derive(Clone)]
pub struct TaskCounters {
    /// Names of the task's operators.
    pub name: String,
    /// Index of the vertex.
    pub vertex: VertexId,
    /// The partition (subtask index).
    pub partition: u32,
    /// True for a task that reads a source.
    pub is_source: bool,
    /// The counters.
    pub metrics: Arc<TaskMetrics>,
}

/// Deploys one job, again and again.
pub struct GraphDeploy {
    graph: Graph,
    settings: DeploySettings,
    counters: Arc<Mutex<Vec<TaskCounters>>>,
}

impl GraphDeploy {
    /// Deploys `graph` by `settings`; `counters` always shows the latest attempt's.
    pub fn new(graph: Graph, settings: DeploySettings, counters: Arc<Mutex<Vec<TaskCounters>>>) -> Self {
        GraphDeploy { graph, settings, counters }
    }

    fn parallelism(&self, vertex: VertexId) -> u32 {
        self.graph.parallelism(vertex, self.settings.parallelism)
    }

    /// Reads the in-flight data of a checkpoint, by edge.
    fn read_in_flight<'a>(&self, manifest: &'a Manifest) -> Result<InFlight<'a>, StoreError> {
        let Some(job_dir) = &self.settings.job_dir else { return Ok(InFlight::default()) };
        verify_channel_files(job_dir, manifest)?;
        let (numbers, next_generation) = generations(manifest.channels.iter().map(|c| c.generation));
        let mut in_flight = InFlight {
            none: RestoredEdge { next_generation, ..RestoredEdge::default() },
            ..InFlight::default()
        };
        for channel in &manifest.channels {
            if !self.graph.edges.iter().any(|edge| *edge.name == *channel.edge) {
                // To be dropped, as the settings allow.
                continue;
            }
            let bytes = read_payload(&self.settings.disk, job_dir, &channel.data)?;
            in_flight.records += channel.records;
            let edge = in_flight.edges.entry(&channel.edge).or_insert_with(|| RestoredEdge {
                state: manifest.edges.iter().find(|edge| edge.name == channel.edge),
                channels: Vec::new(),
                next_generation,
            });
            edge.channels.push((channel, numbers[&channel.generation], bytes));
        }
        Ok(in_flight)
    }

    fn deploy_all(
        &mut self,
        attempt: AttemptId,
        restore: Option<&Manifest>,
        reports: Arc<dyn ReportSink>,
    ) -> Result<Deployment, DeployError> {
        let DeploySettings { max_parallelism, allow_non_restored_state, .. } = self.settings;
        if let Some(manifest) = restore {
            check_fit(&self.graph, max_parallelism, allow_non_restored_state, manifest).map_err(fatal)?;
        }
        let in_flight = match restore {
            Some(manifest) => self.read_in_flight(manifest).map_err(unreadable)?,
            None => InFlight::default(),
        };
        let mut ends = self.wire(&in_flight)?;
        let settings = &self.settings;
        let edge_names: Arc<[Arc<str>]> =
            self.graph.edges.iter().map(|edge| Arc::clone(&edge.name)).collect();
        let channel_kinds: Arc<[_]> = self.graph.channel_kinds().into();
        let (records_max, bytes_max) = (settings.batch_records, settings.batch_bytes);
        let batch_records: Arc<dyn Fn(usize) -> usize + Send + Sync> =
            Arc::new(move |record_bytes| batch_size(records_max, bytes_max, record_bytes));
        let mut tasks: Vec<(usize, TaskId, Box<dyn Task>)> = Vec::new();
        let mut operators = Vec::new();
        let mut counters = Vec::new();
        let tables = self.table_count();
        let has_inputs: Vec<bool> = (0..self.graph.vertices.len())
            .map(|v| self.graph.edges.iter().any(|e| e.consumer == VertexId(v)))
            .collect();
        for (index, vertex) in self.graph.vertices.iter_mut().enumerate() {
            let parallelism = vertex.parallelism.unwrap_or(settings.parallelism);
            let uids = &vertex.uids;
            operators.extend(uids.iter().map(|uid| DeployedOperator { uid: Arc::clone(uid), parallelism }));
            let mut restores =
                restores_of(restore, uids, vertex.factory.sink_uid(), parallelism, settings.max_parallelism)?;
            for partition in 0..parallelism {
                let worker = partition as usize % settings.doorbells.len();
                let waker: Arc<dyn Notify> = Arc::new(settings.doorbells[worker].clone());
                let metrics = Arc::new(TaskMetrics::default());
                let disk = settings.disk.with_notify(Arc::clone(&waker));
                let backend = settings.backend(&disk, attempt, (index, partition), tables);
                let (restore_state, keyed_restore) = restores.next().expect("there is one for each subtask");
                let chain = uids.iter().map(|u| &**u).collect::<Vec<_>>().join(" -> ");
                let context = TaskContext {
                    bind: BindContext {
                        job: Arc::clone(&settings.job),
                        partition,
                        parallelism,
                        attempt,
                        restored_from: restore.map(|manifest| manifest.checkpoint),
                        key_groups: KeyGroups::new(settings.max_parallelism),
                        backend,
                        clock: Arc::clone(&settings.clock),
                        restore: restore_state,
                        disk: disk.clone(),
                        waker,
                    },
                    id: TaskId(tasks.len() as u32),
                    name: vertex.name.clone(),
                    chain: chain.into(),
                    senders: ends.take(index, partition, true),
                    inputs: ends.take(index, partition, false),
                    edge_names: Arc::clone(&edge_names),
                    channel_kinds: Arc::clone(&channel_kinds),
                    batch_records: Arc::clone(&batch_records),
                    files: PartFiles {
                        disk,
                        job_dir: settings.job_dir.clone(),
                        task: format!("{index}-{partition}"),
                        attempt,
                    },
                    keyed_restore,
                    allow_non_restored_state,
                    incremental: settings.incremental,
                    zstd_level: settings.zstd_level,
                    reports: Arc::clone(&reports),
                    clock: Arc::clone(&settings.clock),
                    metrics: Arc::clone(&metrics),
                    buffer_timeout: settings.buffer_timeout,
                };
                let id = context.id;
                let name = vertex.name.clone();
                let build = AssertUnwindSafe(|| vertex.factory.build(context));
                let task = guarded(&name, partition, build)?;
                counters.push(TaskCounters {
                    name,
                    vertex: VertexId(index),
                    partition,
                    is_source: !has_inputs[index],
                    metrics,
                });
                tasks.push((worker, id, task));
            }
        }
        restore_tasks(&mut tasks, settings.restore_threads)?;
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
        let edges = self.graph.edges.iter().map(|edge| self.edge_state(edge)).collect();
        Ok(Deployment { tasks, operators, edges, restored_records: in_flight.records })
    }

    /// What checkpoints say of an edge.
    fn edge_state(&self, edge: &EdgeSpec) -> EdgeState {
        EdgeState {
            name: edge.name.to_string(),
            record: edge.wire.record(),
            key: edge.wire.key(),
            producers: self.parallelism(edge.producer),
            consumers: self.parallelism(edge.consumer),
        }
    }

    /// Number of keyed state tables of all tasks.
    fn table_count(&self) -> usize {
        let vertices = self.graph.vertices.iter().enumerate();
        vertices
            .map(|(index, vertex)| vertex.table_count() * self.parallelism(VertexId(index)) as usize)
            .sum()
    }

    /// Makes the channels of all edges.
    fn wire(&self, in_flight: &InFlight<'_>) -> Result<Ends, DeployError> {
        let settings = &self.settings;
        let pool = Arc::new(BatchPool::new(settings.pool_bytes));
        let workers = settings.doorbells.len();
        let mut ends = Ends::default();
        for (index, edge) in self.graph.edges.iter().enumerate() {
            let spec = |producer: u32, consumer: u32, record_bytes: usize| ChannelSpec {
                ring_batches: settings.ring_batches,
                batch_records: batch_size(settings.batch_records, settings.batch_bytes, record_bytes),
                side_entries: 2 * settings.max_concurrent + 2,
                pool: Arc::clone(&pool),
                consumer: settings.doorbells[consumer as usize % workers].clone(),
                producer: settings.doorbells[producer as usize % workers].clone(),
            };
            let context = WireContext {
                name: Arc::clone(&edge.name),
                producers: self.parallelism(edge.producer),
                consumers: self.parallelism(edge.consumer),
                ship: edge.ship,
                key_groups: KeyGroups::new(settings.max_parallelism),
                spec: &spec,
                restored: in_flight.edges.get(&*edge.name).unwrap_or(&in_flight.none),
            };
            let wired = edge.wire.wire(&context).map_err(fatal)?;
            for (partition, end) in wired.producers.into_iter().enumerate() {
                ends.put(edge.producer.0, partition as u32, true, super::EdgeId(index), end);
            }
            for (partition, end) in wired.consumers.into_iter().enumerate() {
                ends.put(edge.consumer.0, partition as u32, false, super::EdgeId(index), end);
            }
        }
        Ok(ends)
    }
}

impl Deploy for GraphDeploy {
    fn deploy(
        &mut self,
        attempt: AttemptId,
        restore: Option<&Manifest>,
        reports: Arc<dyn ReportSink>,
    ) -> Result<Deployment, DeployError> {
        self.deploy_all(attempt, restore, reports)
    }
}

/// In-flight data of a checkpoint.
#[derive(Default)]
struct InFlight<'a> {
    edges: HashMap<&'a str, RestoredEdge<'a>>,
    /// For the other edges.
    none: RestoredEdge<'a>,
    records: u64,
}

/// Channel ends by vertex, partition and side, until the tasks take them.
#[derive(Default)]
struct Ends(BTreeMap<(usize, u32, bool), EndsOfTask>);

/// Channel ends of one side of a task, by edge.
type EndsOfTask = HashMap<super::EdgeId, Box<dyn Any + Send>>;

impl Ends {
    fn put(
        &mut self,
        vertex: usize,
        partition: u32,
        sends: bool,
        edge: super::EdgeId,
        end: Box<dyn Any + Send>,
    ) {
        self.0.entry((vertex, partition, sends)).or_default().insert(edge, end);
    }
    fn take(
        &mut self,
        vertex: usize,
        partition: u32,
        sends: bool,
    ) -> HashMap<super::EdgeId, Box<dyn Any + Send>> {
        self.0.remove(&(vertex, partition, sends)).unwrap_or_default()
    }
}

/// What a task gets of a checkpoint: small state by uid, and keyed state.
type TaskRestore = (HashMap<String, OperatorRestore>, Option<KeyedRestore>);

/// What each subtask of the chain `uids` gets of a checkpoint.
fn restores_of(
    manifest: Option<&Manifest>,
    uids: &[Arc<str>],
    sink: Option<&str>,
    parallelism: u32,
    max_parallelism: u16,
) -> Result<impl Iterator<Item = TaskRestore> + use<>, DeployError> {
    let mut restores: Vec<TaskRestore> = (0..parallelism).map(|_| TaskRestore::default()).collect();
    let operators = manifest.map(|manifest| manifest.operators.as_slice()).unwrap_or_default();
    for operator in operators.iter().filter(|operator| uids.iter().any(|uid| **uid == *operator.uid)) {
        let uid = &operator.uid;
        let parts = operator_parts(operator, parallelism, sink == Some(uid.as_str())).map_err(|error| {
            DeployError { message: error.to_string(), fatal: true, operator: Some(uid.clone()) }
        })?;
        for ((subtask, part), restore) in (0..).zip(parts).zip(&mut restores) {
            restore.0.insert(uid.clone(), part);
            if !operator.keyed.is_empty() {
                // A chain has one keyed operator at most: its input is an exchange, where chains begin.
                let groups = KeyGroups::new(max_parallelism).range_of(subtask, parallelism);
                let (segments, metas) = (segments_of(operator, &groups), operator.keyed.clone());
                let foreign = manifest.is_some_and(|manifest| manifest.origin.is_some());
                let foreign = foreign && !broken!(FirstCheckpointIncremental);
                restore.1 = Some(KeyedRestore { segments, metas, foreign });
            }
        }
    }
    Ok(restores.into_iter())
}

fn batch_size(records_max: usize, bytes_max: usize, record_bytes: usize) -> usize {
    (bytes_max / record_bytes.max(1)).clamp(1, records_max)
}

fn fatal(message: String) -> DeployError {
    DeployError { message, fatal: true, operator: None }
}

/// The files of a checkpoint can't be read.
fn unreadable(error: StoreError) -> DeployError {
    DeployError { message: error.to_string(), fatal: !error.may_pass(), operator: None }
}

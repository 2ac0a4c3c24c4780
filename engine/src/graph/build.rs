//! Descriptions of chains, and how one becomes a task at a partition.

use super::edge::{InputPlan, OutputRef, WriterContext};
use super::{EdgeId, Graph, VertexId};
use crate::barrier::{ChannelKind, Gate};
use crate::clock::Clock;
use crate::connector::{BoxError, ConnectorContext, MalformedPolicy, MalformedRecord, Sink, Source};
use crate::control::{ReportSink, TaskId};
use crate::metrics::TaskMetrics;
use crate::operator::{BindContext, Failure, Link, Output, Site, Stage};
use crate::operators::{SideSlot, SinkStage, TwoLink};
use crate::ring::Sender;
use crate::task::{
    Input, Inputs, KeyedRestore, OneInput, OperatorTask, PartFiles, SPLITS_STATE, SourceBody, Task,
    TaskParts, TwoInput,
};
use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg_storage::Data;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::snapshot::KeyedSnapshots;

/// Everything that a task is made from, at one partition of one attempt.
pub struct TaskContext {
    /// What the operators see.
    pub bind: BindContext,
    /// The task's index in the job.
    pub id: TaskId,
    /// Names of the chain.
    pub name: String,
    /// Uids of the chain.
    pub chain: Arc<str>,
    /// Producing ends of the task's outputs, by edge: `Vec<(u32, Sender<T>)>`.
    pub(super) senders: HashMap<EdgeId, Box<dyn Any + Send>>,
    /// Consuming ends of the task's inputs, by edge: `Vec<Input<T>>`.
    pub(super) inputs: HashMap<EdgeId, Box<dyn Any + Send>>,
    /// Names of all edges.
    pub(super) edge_names: Arc<[Arc<str>]>,
    /// How barriers treat the channels of each edge.
    pub(super) channel_kinds: Arc<[ChannelKind]>,
    /// Records of a batch, given the bytes of a record.
    pub(super) batch_records: Arc<dyn Fn(usize) -> usize + Send + Sync>,
    /// Where checkpoints write.
    pub files: PartFiles,
    /// Keyed state to restore.
    pub keyed_restore: Option<KeyedRestore>,
    /// Whether restored state that no operator of the task wants is dropped.
    pub allow_non_restored_state: bool,
    /// Whether checkpoints of keyed state are incremental.
    pub incremental: bool,
    /// Compression level of snapshots.
    pub zstd_level: i32,
    /// Where reports go.
    pub reports: Arc<dyn ReportSink>,
    /// The engine's clock.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<TaskMetrics>,
    /// A batch that is not full leaves after this long.
    pub buffer_timeout: Duration,
}

impl TaskContext {
    fn output<T: Data>(&mut self, output: &OutputRef<T>) -> Output<T> {
        let batch_records = (self.batch_records)(size_of::<T>());
        let edges = output.with_plans(|plans| {
            let writer = |plan: &super::edge::EdgePlan<T>| {
                let ends = self.senders.remove(&plan.edge).expect("every edge of an output is wired");
                let senders = *ends.downcast::<Vec<(u32, Sender<T>)>>().expect("an edge carries one type");
                let name = Arc::clone(&self.edge_names[plan.edge.0]);
                let aligned_only = self.channel_kinds[plan.edge.0] == ChannelKind::AlignedOnly;
                (plan.make)(WriterContext { name, senders, key_groups: self.bind.key_groups, aligned_only })
            };
            plans.iter().map(writer).collect()
        });
        Output::new(edges, batch_records)
    }

    fn channels<T: Data>(&mut self, edges: &[EdgeId], kinds: &mut Vec<ChannelKind>) -> Vec<Input<T>> {
        let mut channels = Vec::new();
        for edge in edges {
            let ends = self.inputs.remove(edge).expect("every edge into a vertex is wired");
            let inputs = *ends.downcast::<Vec<Input<T>>>().expect("an edge carries one type");
            let kind = self.channel_kinds[edge.0];
            kinds.extend(inputs.iter().map(|_| kind));
            channels.extend(inputs);
        }
        channels
    }

    fn task<B: crate::task::Body + 'static>(self, body: B, gate: Gate) -> Result<Box<dyn Task>, Failure> {
        let mut keyed = KeyedSnapshots::new(self.bind.group_range(), self.incremental, self.zstd_level);
        keyed.allow_unmatched(self.allow_non_restored_state);
        if let Some(uid) = self.bind.unclaimed().filter(|_| !self.allow_non_restored_state) {
            return Err(Site { uid: uid.into(), partition: self.bind.partition }.refusal(
                "the checkpoint holds state of this operator, which now keeps none: restore with the operator that \
                 wrote it, or give this one a new uid",
            ));
        }
        Ok(Box::new(OperatorTask::new(TaskParts {
            name: self.name,
            chain: self.chain,
            partition: self.bind.partition,
            id: self.id,
            attempt: self.bind.attempt,
            body,
            gate,
            keyed,
            restore: self.keyed_restore,
            files: self.files,
            reports: self.reports,
            clock: self.clock,
            metrics: self.metrics,
            buffer_timeout: self.buffer_timeout,
        })))
    }
}

/// Makes the tasks of a vertex.
pub trait BuildTask: Send {
    /// Checks inputs and outputs before the job starts. May wait for the disk.
    ///
    /// # Errors
    /// The job does not start.
    fn check(&mut self, disk: &DiskHandle, parallelism: u32) -> Result<(), BoxError>;

    /// Number of keyed state tables of each task.
    fn table_count(&self) -> usize {
        0
    }

    /// Uid of the sink that the chain ends in, if it does.
    fn sink_uid(&self) -> Option<&str> {
        None
    }

    /// Makes the task of one partition. Its keyed state is restored later: [`Task::restore`].
    ///
    /// # Errors
    /// The attempt fails.
    fn build(&mut self, context: TaskContext) -> Result<Box<dyn Task>, Failure>;
}

/// Stands in until a vertex's factory is known.
pub(super) struct NoFactory;

impl BuildTask for NoFactory {
    fn check(&mut self, _: &DiskHandle, _: u32) -> Result<(), BoxError> {
        Err("a vertex was left unfinished".into())
    }
    fn build(&mut self, context: TaskContext) -> Result<Box<dyn Task>, Failure> {
        let site = Site { uid: context.chain, partition: context.bind.partition };
        Err(site.failure("a vertex was left unfinished"))
    }
}

/// Where the records of a chain come from.
pub trait Head: Send + 'static {
    /// The records.
    type Out: 'static;

    /// Adds the edges into this head to `graph`.
    fn attach(&mut self, graph: &mut Graph, vertex: VertexId);

    /// Checks the input before the job starts.
    ///
    /// # Errors
    /// The job does not start.
    fn check(&mut self, _disk: &DiskHandle, _parallelism: u32) -> Result<(), BoxError> {
        Ok(())
    }

    /// Number of keyed state tables of the operator that is part of this head, if one is.
    fn table_count(&self) -> usize {
        0
    }

    /// Makes a task that feeds `stage`.
    ///
    /// # Errors
    /// The attempt fails.
    fn build<D: Stage<Self::Out> + 'static>(
        &mut self,
        context: TaskContext,
        stage: D,
    ) -> Result<Box<dyn Task>, Failure>;
}

/// Where the records of a chain go.
pub trait End<T>: Send + 'static {
    /// The last stage.
    type Stage: Stage<T> + 'static;

    /// Checks the output before the job starts.
    ///
    /// # Errors
    /// The job does not start.
    fn check(&self, _disk: &DiskHandle) -> Result<(), BoxError> {
        Ok(())
    }

    /// Uid of the sink, if this is one.
    fn sink_uid(&self) -> Option<&str> {
        None
    }

    /// Makes the last stage.
    ///
    /// # Errors
    /// The attempt fails.
    fn stage(&self, context: &mut TaskContext) -> Result<Self::Stage, Failure>;
}

/// Puts the edges of a side output where the stage that feeds them finds them.
pub type ConnectSide = Box<dyn Fn(&mut TaskContext) + Send>;

/// A complete chain: makes its tasks from pristine clones.
pub struct ChainFactory<H, L, E> {
    /// Where records come from.
    pub head: H,
    /// The operators.
    pub link: L,
    /// Where records go.
    pub end: E,
    /// Side outputs: each puts its edges into its slot before the chain is made.
    pub sides: Vec<ConnectSide>,
}

impl<H: Head, L: Link<H::Out>, E: End<L::Out>> BuildTask for ChainFactory<H, L, E> {
    fn check(&mut self, disk: &DiskHandle, parallelism: u32) -> Result<(), BoxError> {
        self.head.check(disk, parallelism)?;
        self.end.check(disk)
    }

    fn table_count(&self) -> usize {
        self.head.table_count() + self.link.table_count()
    }

    fn sink_uid(&self) -> Option<&str> {
        self.end.sink_uid()
    }

    fn build(&mut self, mut context: TaskContext) -> Result<Box<dyn Task>, Failure> {
        for side in &self.sides {
            side(&mut context);
        }
        let down = self.end.stage(&mut context)?;
        let stage = self.link.clone().bind(&mut context.bind, down)?;
        self.head.build(context, stage)
    }
}

/// Puts the edges of a side output into `slot` when a task is made.
pub(crate) fn side_output<S: Data>(
    output: OutputRef<S>,
    slot: SideSlot<S>,
) -> Box<dyn Fn(&mut TaskContext) + Send> {
    Box::new(move |context| slot.put(context.output(&output)))
}

/// A chain that ends in edges.
pub struct OutputEnd<T>(pub OutputRef<T>);

impl<T: Data> End<T> for OutputEnd<T> {
    type Stage = Output<T>;

    fn stage(&self, context: &mut TaskContext) -> Result<Output<T>, Failure> {
        Ok(context.output(&self.0))
    }
}

/// A chain that ends in a sink.
pub struct SinkEnd<S> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The sink.
    pub sink: S,
}

impl<S: Sink> End<S::Record> for SinkEnd<S> {
    type Stage = SinkStage<S::Writer>;

    fn check(&self, disk: &DiskHandle) -> Result<(), BoxError> {
        self.sink.check(disk)
    }

    fn sink_uid(&self) -> Option<&str> {
        Some(&self.uid)
    }

    fn stage(&self, context: &mut TaskContext) -> Result<Self::Stage, Failure> {
        SinkStage::open(&self.sink, &self.uid, &mut context.bind)
    }
}

/// A chain that starts at a source.
pub struct SourceHead<S: Source> {
    /// The operator's uid.
    pub uid: Arc<str>,
    /// The source.
    pub source: S,
    /// What becomes of malformed input.
    pub malformed: MalformedPolicy,
    /// Where diverted input goes.
    pub dead_letters: Option<OutputRef<MalformedRecord>>,
    /// Records per second of all partitions, at most.
    pub rate: Option<f64>,
    /// The splits of a job that starts from scratch, once found.
    pub splits: Vec<S::Split>,
}

impl<S: Source> SourceHead<S> {
    /// The restored splits of this partition, or its share of all splits when there is nothing to restore.
    fn splits_of(&self, context: &mut TaskContext, site: &Site) -> Result<Vec<S::Split>, Failure> {
        let known = context.bind.restore.contains_key(&*self.uid);
        let restored = context.bind.take_restore(&self.uid).operator_state;
        if !known {
            let parallelism = context.bind.parallelism as usize;
            let mine = self.splits.iter().skip(context.bind.partition as usize).step_by(parallelism);
            return Ok(mine.cloned().collect());
        }
        let decode = |blob: &thalweg_storage::manifest::StateBlob| {
            if blob.name != SPLITS_STATE || blob.schema != S::Split::schema() {
                return Err(site.refusal(format!(
                    "the checkpoint holds positions of another kind of source (`{}`): restore with the source that \
                     wrote it, or give this one a new uid",
                    blob.name
                )));
            }
            S::Split::decode(&mut blob.bytes.as_slice())
                .map_err(|e| site.refusal(format!("source position: {e}")))
        };
        restored.iter().map(decode).collect()
    }
}

impl<S: Source> Head for SourceHead<S> {
    type Out = S::Record;

    fn attach(&mut self, _: &mut Graph, _: VertexId) {}

    fn check(&mut self, disk: &DiskHandle, parallelism: u32) -> Result<(), BoxError> {
        if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return Err(
                format!("a rate limit of {rate} records per second: it must be a positive number").into()
            );
        }
        self.splits = self.source.splits(disk, parallelism)?;
        Ok(())
    }

    fn build<D: Stage<Self::Out> + 'static>(
        &mut self,
        mut context: TaskContext,
        stage: D,
    ) -> Result<Box<dyn Task>, Failure> {
        let site = context.bind.site(&self.uid);
        let had_ended = context.bind.restore.get(&*self.uid).is_some_and(|restore| restore.finished);
        let splits = self.splits_of(&mut context, &site)?;
        let connector = ConnectorContext {
            job: Arc::clone(&context.bind.job),
            uid: Arc::clone(&self.uid),
            subtask: context.bind.partition,
            parallelism: context.bind.parallelism,
            attempt: context.bind.attempt,
            disk: context.bind.disk.clone(),
            waker: Arc::clone(&context.bind.waker),
        };
        let reader = site.call(|| self.source.reader(connector, splits))?;
        let dead_letters = self.dead_letters.as_ref().map(|output| context.output(output));
        let rate = self.rate.map(|rate| rate / f64::from(context.bind.parallelism));
        let mut body = SourceBody::new(site, reader, self.malformed, dead_letters, rate, stage);
        if had_ended {
            body.stay_ended();
        }
        context.task(body, Gate::new(Vec::new()))
    }
}

/// A chain that starts at edges of one type.
pub struct EdgeHead<T> {
    /// The edges, until they are attached.
    pub plans: Vec<InputPlan<T>>,
    edges: Vec<EdgeId>,
}

impl<T: Data> EdgeHead<T> {
    /// A head that reads `plans`.
    pub fn new(plans: Vec<InputPlan<T>>) -> Self {
        EdgeHead { plans, edges: Vec::new() }
    }
}

fn attach_all<T: Data>(plans: &mut Vec<InputPlan<T>>, graph: &mut Graph, vertex: VertexId) -> Vec<EdgeId> {
    plans.drain(..).map(|plan| plan.attach(graph, vertex)).collect()
}

impl<T: Data> Head for EdgeHead<T> {
    type Out = T;

    fn attach(&mut self, graph: &mut Graph, vertex: VertexId) {
        self.edges = attach_all(&mut self.plans, graph, vertex);
    }

    fn build<D: Stage<Self::Out> + 'static>(
        &mut self,
        mut context: TaskContext,
        stage: D,
    ) -> Result<Box<dyn Task>, Failure> {
        let mut kinds = Vec::new();
        let inputs = Inputs::new(context.channels::<T>(&self.edges, &mut kinds), 0);
        context.task(OneInput { inputs, stage }, Gate::new(kinds))
    }
}

/// A chain that starts at an operator over two connected streams.
pub struct ConnectHead<A, B, O> {
    /// Edges of the first input, until they are attached.
    pub first: Vec<InputPlan<A>>,
    /// Edges of the second input, until they are attached.
    pub second: Vec<InputPlan<B>>,
    /// The operator.
    pub operator: O,
    edges: (Vec<EdgeId>, Vec<EdgeId>),
}

impl<A: Data, B: Data, O: TwoLink<A, B>> ConnectHead<A, B, O> {
    /// A head that reads both inputs into `operator`.
    pub fn new(first: Vec<InputPlan<A>>, second: Vec<InputPlan<B>>, operator: O) -> Self {
        ConnectHead { first, second, operator, edges: (Vec::new(), Vec::new()) }
    }
}

impl<A: Data, B: Data, O: TwoLink<A, B>> Head for ConnectHead<A, B, O> {
    type Out = O::Out;

    fn attach(&mut self, graph: &mut Graph, vertex: VertexId) {
        self.edges =
            (attach_all(&mut self.first, graph, vertex), attach_all(&mut self.second, graph, vertex));
    }

    fn table_count(&self) -> usize {
        self.operator.table_count()
    }

    fn build<D: Stage<Self::Out> + 'static>(
        &mut self,
        mut context: TaskContext,
        stage: D,
    ) -> Result<Box<dyn Task>, Failure> {
        let stage = self.operator.clone().bind(&mut context.bind, stage)?;
        let mut kinds = Vec::new();
        let first = Inputs::new(context.channels::<A>(&self.edges.0, &mut kinds), 0);
        let second = Inputs::new(context.channels::<B>(&self.edges.1, &mut kinds), first.count());
        context.task(TwoInput { first, second, stage, second_first: false }, Gate::new(kinds))
    }
}

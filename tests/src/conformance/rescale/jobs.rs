//! The jobs: shapes whose every edge keeps each split's values in order, at any parallelism.

use super::ledger::Ledger;
use super::numbered::{Numbered, NumberedSource, by_split, checked, split_of};
use super::operators::{FailingMap, Join, OwnShare, Pair, key_state, keyed_identity, meet};
use super::script::Script;
use std::sync::Arc;
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{DataStream, Dataflow};

/// What a life of a job is made from.
pub struct Plan {
    /// The job.
    pub script: Arc<Script>,
    /// Where output goes.
    pub ledger: Ledger<u64>,
    /// Subtasks of operators that do not say.
    pub parallelism: u32,
    /// The number of the life.
    pub life: usize,
    /// Decides what a shape leaves open.
    pub seed: u64,
}

/// A job's shape.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Writes the job.
    pub flow: fn(&Plan) -> Dataflow,
    /// Tags that its output carries, and how often each value comes.
    pub tags: &'static [(u64, u64)],
    /// Each split's values arrive in order.
    pub ordered: bool,
}

/// The failing map, an exchange and the sink.
pub fn end_in_sink<R: Numbered>(verified: DataStream<R>, plan: &Plan) {
    let splits = plan.script.splits;
    verified
        .process("failing map", FailingMap::new(&plan.script))
        .partition_custom(by_split(splits, 4))
        .sink("sink", plan.ledger.retyped());
}

/// source → map → key_by → keyed identity → partition → failing map → partition → sink.
fn pipeline_of<R: Numbered>(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let (script, splits) = (&plan.script, plan.script.splits);
    let check = Arc::clone(script);
    let verified = flow
        .source("source", NumberedSource::<R>::new(0, script))
        .map("map", move |record| checked(&check, "map", record))
        .key_by(move |record| split_of(record, splits))
        .process("keyed identity", key_state(), keyed_identity(script))
        .partition_custom(by_split(splits, 1));
    end_in_sink(verified, plan);
    flow
}

/// See [`pipeline_of`].
pub const PIPELINE: Shape = Shape { flow: pipeline_of::<u64>, tags: &[(0, 1)], ordered: true };

/// source → partition by a function → map → partition by a function → failing map → partition → sink, over large records.
fn custom_of<R: Numbered>(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let (script, splits) = (&plan.script, plan.script.splits);
    let check = Arc::clone(script);
    let verified = flow
        .source("source", NumberedSource::<R>::new(0, script))
        .partition_custom(by_split(splits, 2))
        .map("map", move |record| checked(&check, "map", record))
        .partition_custom(by_split(splits, 1));
    end_in_sink(verified, plan);
    flow
}

/// See [`custom_of`].
pub const CUSTOM_BULKY: Shape =
    Shape { flow: custom_of::<super::numbered::Bulky>, tags: &[(0, 1)], ordered: true };

/// Three sources in one stream → partition → failing map → partition → sink.
fn union(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let (script, splits) = (&plan.script, plan.script.splits);
    let source = |tag: u64| {
        let check = Arc::clone(script);
        flow.source(format!("source {tag}"), NumberedSource::<u64>::new(tag, script))
            .map(format!("map {tag}"), move |record| checked(&check, "map", record))
            .partition_custom(by_split(splits, tag))
    };
    let verified = source(0)
        .union(source(1))
        .union(source(2))
        .map("united", |record: u64| record)
        .partition_custom(by_split(splits, 3));
    end_in_sink(verified, plan);
    flow
}

/// See [`union`].
pub const UNION: Shape = Shape { flow: union, tags: &[(0, 1), (1, 1), (2, 1)], ordered: true };

/// Three sources, connected two by two by key into an operator that emits the lesser → partition → failing map →
/// partition → sink. The parallelism of each source is that of the job divided by one of `parts`.
fn met(plan: &Plan, parts: [u32; 3]) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let (script, splits) = (&plan.script, plan.script.splits);
    let source = |tag: u64| {
        let check = Arc::clone(script);
        flow.source(format!("source {tag}"), NumberedSource::<u64>::new(tag, script))
            .map(format!("map {tag}"), move |record| checked(&check, "map", record))
            .with_parallelism((plan.parallelism / parts[tag as usize]).max(1))
            .key_by(move |record| split_of(record, splits))
    };
    let pair = || ValueStateDescriptor::<Pair>::new("pair");
    let first = |_: &u64,
                 record,
                 mut pair: ValueState<'_, u64, Pair>,
                 out: &mut thalweg::operator::Collector<u64>| {
        meet(&mut pair, record, true).into_iter().for_each(|record| out.collect(record));
        Ok(())
    };
    let second = |_: &u64,
                  record,
                  mut pair: ValueState<'_, u64, Pair>,
                  out: &mut thalweg::operator::Collector<u64>| {
        meet(&mut pair, record, false).into_iter().for_each(|record| out.collect(record));
        Ok(())
    };
    let verified = source(0)
        .connect(source(1))
        .process("min of two", pair(), first, second)
        .key_by(move |record| split_of(record, splits))
        .connect(source(2))
        .process("min of three", pair(), first, second)
        .partition_custom(by_split(splits, 3));
    end_in_sink(verified, plan);
    flow
}

/// See [`met`], with sources of the same parallelism.
pub const MULTI_INPUT: Shape = Shape { flow: |plan| met(plan, [1, 1, 1]), tags: &[(0, 1)], ordered: true };

/// See [`met`], with sources of half the parallelism, a third of it, and all of it.
pub const KEYED_UNEVEN: Shape = Shape { flow: |plan| met(plan, [2, 3, 1]), tags: &[(0, 1)], ordered: true };

/// A keyed stream joined with a broadcast one → partition → failing map → partition → sink.
fn keyed_broadcast(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let (script, splits) = (&plan.script, plan.script.splits);
    let rules = flow.source("rules", NumberedSource::<u64>::new(1, script)).broadcast();
    let verified = flow
        .source("source", NumberedSource::<u64>::new(0, script))
        .key_by(move |record| split_of(record, splits))
        .process("keyed identity", key_state(), keyed_identity(script))
        .partition_custom(by_split(splits, 1))
        .connect(rules)
        .process("join", Join::new(script))
        .partition_custom(by_split(splits, 3));
    end_in_sink(verified, plan);
    flow
}

/// See [`keyed_broadcast`].
pub const KEYED_BROADCAST: Shape = Shape { flow: keyed_broadcast, tags: &[(0, 1), (1, 1)], ordered: true };

/// source → partition → map → broadcast → each subtask's share → partition → failing map → partition → sink.
fn broadcast(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let (script, splits) = (&plan.script, plan.script.splits);
    let check = Arc::clone(script);
    let verified = flow
        .source("source", NumberedSource::<u64>::new(0, script))
        .partition_custom(by_split(splits, 2))
        .map("map", move |record| checked(&check, "map", record))
        .broadcast()
        .process("share", OwnShare::new(script))
        .partition_custom(by_split(splits, 3));
    end_in_sink(verified, plan);
    flow
}

/// See [`broadcast`].
pub const BROADCAST: Shape = Shape { flow: broadcast, tags: &[(0, 1)], ordered: true };

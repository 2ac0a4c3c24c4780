//! Jobs whose edges change from one life to the next, and jobs of mixed exchanges whose vertices all have numbers of subtasks
//! of their own. What is in flight on an edge in turn may go anywhere, so only coverage is judged.

use super::NamedCase;
use super::jobs::{Plan, Shape, end_in_sink};
use super::numbered::{Bulky, Numbered, NumberedSource, by_split, checked, split_of};
use super::operators::{Count, FailingMap, key_state, keyed_identity};
use super::run::{Rescale, Stop};
use std::sync::Arc;
use thalweg::{DataStream, Dataflow};

/// Values of each split of a bounded source.
const VALUES: u64 = 60;

/// How an edge spreads records.
#[derive(Clone, Copy)]
enum Way {
    /// Partition i to partition i where there are as many of both, else in turn.
    Forward,
    /// In turn.
    Rebalance,
    /// By a function of the split.
    Custom,
}

/// The numbers of subtasks of which the ends of a changed edge have one each.
const NUMBERS: [u32; 3] = [3, 4, 11];

/// A number below `bound` for a seed, a life and a place in the job.
fn drawn(plan: &Plan, place: u64, bound: u64) -> u64 {
    let mut z = (plan.seed << 16) ^ ((plan.life as u64) << 8) ^ place;
    for _ in 0..3 {
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    }
    (z ^ (z >> 31)) % bound
}

/// The number of subtasks of a vertex.
fn some(plan: &Plan, place: u64) -> u32 {
    1 + drawn(plan, place, 10) as u32
}

fn source<R: Numbered>(flow: &Dataflow, plan: &Plan, tag: u64, parallelism: u32) -> DataStream<R> {
    let check = Arc::clone(&plan.script);
    flow.source(format!("source {tag}"), NumberedSource::<R>::new(tag, &plan.script))
        .map(format!("map {tag}"), move |record| checked(&check, "map", record))
        .with_parallelism(parallelism)
        .share()
        .stream()
}

/// source → partition → front → the changed edge → back → failing map → partition → sink.
fn changed(plan: &Plan, ways: [Way; 2]) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let splits = plan.script.splits;
    let (front, back) = (NUMBERS[drawn(plan, 1, 3) as usize], NUMBERS[drawn(plan, 2, 3) as usize]);
    let way = ways[plan.life % 2];
    // Point-wise it is only between equal numbers.
    let front = if matches!(way, Way::Forward) { back } else { front };
    let shared = source::<u64>(&flow, plan, 0, NUMBERS[drawn(plan, 0, 3) as usize])
        .partition_custom(by_split(splits, 1))
        .map("front", |record: u64| record)
        .with_parallelism(front)
        .share();
    let edge = match way {
        Way::Forward => shared.stream(),
        Way::Rebalance => shared.stream().rebalance(),
        Way::Custom => shared.stream().partition_custom(by_split(splits, 2)),
    };
    let check = Arc::clone(&plan.script);
    edge.map("back", move |record| checked(&check, "back", record))
        .process("failing map", FailingMap::new(&plan.script))
        .with_parallelism(back)
        .partition_custom(by_split(splits, 4))
        .sink("sink", plan.ledger.clone());
    flow
}

/// One source feeds one operator over two exchanges: each value comes twice.
fn two_exchanges(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let splits = plan.script.splits;
    let shared = source::<u64>(&flow, plan, 0, plan.parallelism)
        .rebalance()
        .map("shared", |record: u64| record)
        .share();
    let turns = shared.stream().rebalance();
    let by_key = shared.stream().partition_custom(by_split(splits, 2));
    end_in_sink(turns.union(by_key), plan);
    flow
}

/// source → in turn → count → by key → identity → forward → map → in turn → failing map → partition → sink.
fn chain(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let splits = plan.script.splits;
    let verified = source::<u64>(&flow, plan, 0, some(plan, 0))
        .partition_custom(by_split(splits, 1))
        .map("a", |record: u64| record)
        .with_parallelism(some(plan, 1))
        .key_by(move |record| split_of(record, splits))
        .with_parallelism(some(plan, 2))
        .process("keyed identity", key_state(), keyed_identity(&plan.script))
        .share()
        .stream()
        .map("b", |record: u64| record)
        .with_parallelism(some(plan, 3))
        .rebalance();
    end_in_sink(verified, plan);
    flow
}

/// A stream goes two ways, in turn and by a function, through operators of their own, and comes together again.
fn diamond(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let splits = plan.script.splits;
    let shared = source::<u64>(&flow, plan, 0, some(plan, 0))
        .rebalance()
        .map("top", |record: u64| record)
        .with_parallelism(some(plan, 1))
        .share();
    let left = shared.stream().rebalance().map("left", |record: u64| record).with_parallelism(some(plan, 2));
    let right = shared
        .stream()
        .partition_custom(by_split(splits, 2))
        .map("right", |record: u64| record)
        .with_parallelism(some(plan, 3));
    end_in_sink(left.rebalance().union(right.partition_custom(by_split(splits, 3))), plan);
    flow
}

/// Three sources; two of them united in turn, the third broadcast among them, of which each subtask keeps its share.
fn three_sources(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let splits = plan.script.splits;
    let united = source::<u64>(&flow, plan, 0, some(plan, 0))
        .rebalance()
        .union(source(&flow, plan, 1, some(plan, 1)))
        .map("united", |record: u64| record)
        .with_parallelism(some(plan, 2));
    let third = source::<u64>(&flow, plan, 2, some(plan, 3));
    let joined = united
        .rebalance()
        .connect(third.broadcast())
        .process("join", super::operators::Join::new(&plan.script))
        .with_parallelism(some(plan, 4))
        .partition_custom(by_split(splits, 3));
    end_in_sink(joined, plan);
    flow
}

/// Two sources by forward edges of unequal numbers, united in turn and by a function, then by key.
fn funnel(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let splits = plan.script.splits;
    let branch = |tag: u64| {
        source::<u64>(&flow, plan, tag, some(plan, tag))
            .map(format!("branch {tag}"), |record: u64| record)
            .with_parallelism(some(plan, 2 + tag))
    };
    let united = branch(0)
        .rebalance()
        .union(branch(1).partition_custom(by_split(splits, 5)))
        .map("united", |record: u64| record)
        .with_parallelism(some(plan, 6));
    end_in_sink(united.partition_custom(by_split(splits, 1)), plan);
    flow
}

/// source → in turn → map → partition by a function → map → in turn → failing map → partition → sink, over large records.
fn bulky(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let splits = plan.script.splits;
    let verified = source::<Bulky>(&flow, plan, 0, some(plan, 0))
        .rebalance()
        .map("a", |record: Bulky| record)
        .with_parallelism(some(plan, 1))
        .partition_custom(by_split(splits, 1))
        .map("b", |record: Bulky| record)
        .with_parallelism(some(plan, 2))
        .rebalance();
    end_in_sink(verified, plan);
    flow
}

/// source → partition → count → partition → failing map → partition → sink.
fn counted(plan: &Plan) -> Dataflow {
    let flow = Dataflow::new("rescaled");
    let splits = plan.script.splits;
    let verified = source::<u64>(&flow, plan, 0, plan.parallelism)
        .partition_custom(by_split(splits, 1))
        .process("count", Count::new(&plan.script))
        .partition_custom(by_split(splits, 2));
    end_in_sink(verified, plan);
    flow
}

const fn covering(flow: fn(&Plan) -> Dataflow, tags: &'static [(u64, u64)]) -> Shape {
    Shape { flow, tags, ordered: false }
}

fn bounded(flow: fn(&Plan) -> Dataflow, tags: &'static [(u64, u64)], lives: &[u32]) -> Rescale {
    Rescale { limit: Some(VALUES), ..Rescale::of(covering(flow, tags), lives) }
}

/// Restores into changed edges, and of jobs of mixed exchanges.
pub const CHANGED_EDGES: &[NamedCase] = &[
    ("edge-forward-to-rebalance", |seed| {
        bounded(|plan| changed(plan, [Way::Forward, Way::Rebalance]), &[(0, 1)], &[4, 4]).run(seed)
    }),
    ("edge-rebalance-to-forward", |seed| {
        bounded(|plan| changed(plan, [Way::Rebalance, Way::Forward]), &[(0, 1)], &[4, 4]).run(seed)
    }),
    ("edge-forward-to-custom", |seed| {
        bounded(|plan| changed(plan, [Way::Forward, Way::Custom]), &[(0, 1)], &[4, 4]).run(seed)
    }),
    ("edge-custom-to-forward", |seed| {
        bounded(|plan| changed(plan, [Way::Custom, Way::Forward]), &[(0, 1)], &[4, 4]).run(seed)
    }),
    ("two-exchanges-2-to-4", |seed| bounded(two_exchanges, &[(0, 2)], &[2, 4]).run(seed)),
    ("dag-chain", |seed| Rescale::of(covering(chain, &[(0, 1)]), &[5, 4]).run(seed)),
    ("dag-diamond", |seed| Rescale::of(covering(diamond, &[(0, 2)]), &[3, 6]).run(seed)),
    ("dag-three-sources", |seed| {
        Rescale::of(covering(three_sources, &[(0, 1), (1, 1), (2, 1)]), &[4, 3]).run(seed)
    }),
    ("dag-funnel", |seed| Rescale::of(covering(funnel, &[(0, 1), (1, 1)]), &[6, 5]).run(seed)),
    ("bulky-during-recovery", |seed| {
        let lives = [1 + (seed % 5) as u32, 1 + (seed / 2 % 4) as u32, 2 + (seed / 3 % 3) as u32];
        let job = Rescale::of(covering(bulky, &[(0, 1)]), &lives);
        Rescale { stop: Stop::DuringRecovery, ..job }.run(seed)
    }),
    ("pipeline-during-recovery-5-to-2-to-3", |seed| {
        let job = Rescale::of(super::jobs::PIPELINE, &[5, 2, 3]);
        Rescale { stop: Stop::DuringRecovery, ..job }.run(seed)
    }),
    ("pipeline-during-recovery-2-to-5-to-4-to-1", |seed| {
        let job = Rescale::of(super::jobs::PIPELINE, &[2, 5, 4, 1]);
        Rescale { stop: Stop::DuringRecovery, ..job }.run(seed)
    }),
    ("finished-in-part-4-to-3", |seed| {
        let job = bounded(counted, &[(0, 1)], &[4, 3]);
        Rescale { stop: Stop::PartlyFinished, counted: true, ..job }.run(seed)
    }),
    ("finished-in-part-2-to-5", |seed| {
        let job = bounded(counted, &[(0, 1)], &[2, 5]);
        Rescale { stop: Stop::PartlyFinished, counted: true, ..job }.run(seed)
    }),
];

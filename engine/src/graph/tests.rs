//! Graphs as the dataflow builder writes them: names, mistakes, channel kinds, partitioning, restored in-flight data.

use super::edge::{RestoredEdge, WireContext};
use super::fit::check_fit;
use super::*;
use crate::Dataflow;
use crate::connector::{CollectSink, GeneratorSource};
use crate::operator::{Collector, Partition};
use crate::ring::doorbell::{Doorbell, Wake};
use crate::ring::{BatchPool, ChannelSpec};
use proptest::prelude::*;
use std::collections::BTreeMap;
use thalweg_storage::io::{DiskHandle, SimDisk};
use thalweg_storage::key_group::KeyGroups;
use thalweg_storage::manifest::{
    ChannelOrigin, ChannelState, EdgeState, Manifest, OperatorState, Payload, SubtaskState,
};
use thalweg_storage::{AttemptId, CheckpointId, Data};

fn numbers() -> GeneratorSource<u64, impl Fn(u64) -> u64 + Clone + Send + 'static> {
    GeneratorSource::new(Some(10), |n| n)
}

fn odd_ones(
    n: u64,
    out: &mut Collector<u64>,
    side: &mut Collector<u64>,
) -> Result<(), crate::connector::BoxError> {
    if n.is_multiple_of(2) {
        out.collect(n)
    } else {
        side.collect(n)
    }
    Ok(())
}

/// Two sources with side outputs that one sink reads; `side_first` says what is written first.
fn two_sides(side_first: bool) -> Vec<String> {
    let flow = Dataflow::new("sides");
    let (a, odd_a) = flow.source("a", numbers()).process_with_side_output("split-a", odd_ones);
    let (b, odd_b) = flow.source("b", numbers()).process_with_side_output("split-b", odd_ones);
    let mains = || a.union(b).sink("even", CollectSink::new());
    let sides = || odd_a.stream().union(odd_b.stream()).sink("odd", CollectSink::new());
    if side_first {
        sides();
        mains();
    } else {
        mains();
        sides();
    }
    let graph = flow.into_graph();
    graph.validate(1, 128).unwrap();
    let mut names: Vec<String> = graph.edges.iter().map(|edge| edge.name.to_string()).collect();
    names.sort();
    names
}

#[test]
fn edges_of_side_outputs_are_named_after_their_operators_whatever_is_written_first() {
    let expected = ["split-a->even", "split-a->odd", "split-b->even", "split-b->odd"];
    assert_eq!(two_sides(true), expected);
    assert_eq!(two_sides(false), expected);
}

#[test]
fn a_stream_united_with_itself_has_two_edges_with_names_of_their_own() {
    let flow = Dataflow::new("twice");
    let shared = flow.source("a", numbers()).share();
    shared.stream().union(shared.stream()).sink("out", CollectSink::new());
    let graph = flow.into_graph();
    let names: Vec<&str> = graph.edges.iter().map(|edge| &*edge.name).collect();
    assert_eq!(names, ["a->out", "a->out#1"]);
}

#[test]
fn a_chain_with_a_side_output_that_is_never_ended_is_refused_by_name() {
    let flow = Dataflow::new("unended");
    let (_main, side) = flow.source("a", numbers()).process_with_side_output("split", odd_ones);
    side.stream().sink("odd", CollectSink::new());
    let error = flow.into_graph().validate(1, 128).unwrap_err();
    assert_eq!(error, GraphError::Unended { operator: "a -> split".into() });
}

#[test]
#[should_panic(expected = "two dataflows")]
fn streams_of_two_dataflows_are_not_united() {
    let (one, other) = (Dataflow::new("one"), Dataflow::new("other"));
    let _ = one.source("a", numbers()).union(other.source("b", numbers()));
}

#[test]
fn an_operator_uid_is_unique_also_within_one_chain() {
    let flow = Dataflow::new("same");
    flow.source("a", numbers()).map("m", |n: u64| n).map("m", |n: u64| n).sink("out", CollectSink::new());
    let error = flow.into_graph().validate(1, 128).unwrap_err();
    assert_eq!(error, GraphError::DuplicateUid { uid: "m".into() });
}

#[test]
fn parallelism_is_at_least_one_and_at_most_the_maximum() {
    for (parallelism, fits) in [(0, false), (1, true), (8, true), (9, false)] {
        let flow = Dataflow::new("wide");
        flow.source("a", numbers()).with_parallelism(parallelism).sink("out", CollectSink::new());
        assert_eq!(flow.into_graph().validate(1, 8).is_ok(), fits, "{parallelism}");
    }
}

#[test]
fn a_rate_limit_that_is_no_positive_number_is_refused() {
    for (rate, fits) in [(0.0, false), (-1.0, false), (f64::NAN, false), (f64::INFINITY, false), (0.5, true)]
    {
        let flow = Dataflow::new("rate");
        flow.source("a", numbers()).with_rate_limit(rate).sink("out", CollectSink::new());
        let disk = DiskHandle::new(SimDisk::new());
        assert_eq!(flow.into_graph().check(&disk, 1).is_ok(), fits, "{rate}");
    }
}

#[test]
fn exchanges_behind_a_broadcast_or_forward_edge_are_delayed_all_the_way_down() {
    let flow = Dataflow::new("delayed");
    let a = flow.source("a", numbers()).rebalance().map("b", |n: u64| n);
    let c = flow.source("c", numbers()).broadcast().map("d", |n: u64| n);
    a.rebalance().union(c.rebalance()).map("e", |n: u64| n).rebalance().sink("out", CollectSink::new());
    let graph = flow.into_graph();
    let kinds = graph.channel_kinds();
    let kind = |name: &str| kinds[graph.edges.iter().position(|edge| &*edge.name == name).unwrap()];
    assert_eq!(kind("a->b"), ChannelKind::Exchange);
    assert_eq!(kind("b->e"), ChannelKind::Exchange);
    assert_eq!(kind("c->d"), ChannelKind::AlignedOnly);
    assert_eq!(kind("d->e"), ChannelKind::DelayedExchange);
    assert_eq!(kind("e->out"), ChannelKind::DelayedExchange);
}

proptest! {
    #[test]
    fn prop_a_record_goes_to_the_partition_that_owns_its_key(
        groups in 1..300_u16, share in 0.0..1.0_f64, keys in proptest::collection::vec(any::<u64>(), 1..50),
    ) {
        let consumers = 1 + (f64::from(groups - 1) * share) as usize;
        let groups = KeyGroups::new(groups);
        let mut partition = KeyPartition::new(|key: &u64| *key, groups, consumers);
        for key in keys {
            let group = groups.group_of(key.key_hash());
            let chosen = partition.partition(&key, consumers);
            prop_assert_eq!(chosen as u32, groups.partition_of(group, consumers as u32));
            prop_assert!(groups.range_of(chosen as u32, consumers as u32).contains(&group));
        }
    }
}

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

/// Wires an edge into `out` with this in-flight data of three producers and consumers; returns what each consumer finds on
/// each of its channels, by producer, or the error.
fn wire(
    graph: &Graph,
    parallelism: (u32, u32),
    state: &EdgeState,
    restored: Vec<((u32, u32), u64, Vec<u8>)>,
) -> Result<Vec<BTreeMap<u32, Vec<u64>>>, String> {
    let channel = |(producer, consumer), records| ChannelState {
        edge: state.name.clone(),
        producer,
        consumer,
        generation: 0,
        origin: ChannelOrigin::Consumer,
        records,
        data: Payload::Inline(Vec::new()),
    };
    let channels: Vec<ChannelState> =
        restored.iter().map(|(ends, records, _)| channel(*ends, *records)).collect();
    let bytes = restored.into_iter().map(|(_, _, bytes)| bytes);
    let restored = RestoredEdge {
        state: Some(state),
        channels: channels.iter().zip(bytes).map(|(channel, bytes)| (channel, 0, bytes)).collect(),
        next_generation: 1,
    };
    let spec = |_: u32, _: u32, _: usize| ChannelSpec {
        ring_batches: 1,
        batch_records: 2,
        side_entries: 2,
        pool: std::sync::Arc::new(BatchPool::new(0)),
        consumer: Doorbell::new(Nobody),
        producer: Doorbell::new(Nobody),
    };
    let context = WireContext {
        name: "a->out".into(),
        producers: parallelism.0,
        consumers: parallelism.1,
        ship: graph.edges[0].ship,
        key_groups: KeyGroups::new(8),
        spec: &spec,
        restored: &restored,
    };
    let wired = graph.edges[0].wire.wire(&context)?;
    let found = |end: Box<dyn std::any::Any + Send>| {
        let inputs = end.downcast::<Vec<crate::task::Input<u64>>>().unwrap();
        let rest = |mut input: crate::task::Input<u64>| {
            input.receiver.look(|_| {});
            let mut records = Vec::new();
            while input.receiver.taken() < input.receiver.visible() {
                input.receiver.take();
                records.extend(std::iter::from_fn(|| input.receiver.current().take()));
            }
            (input.producer, records)
        };
        inputs.into_iter().map(rest).collect()
    };
    Ok(wired.consumers.into_iter().map(found).collect())
}

/// A job of one source and one sink.
fn job(between: impl Fn(crate::dataflow::SharedStream<u64>) -> crate::DataStream<u64>) -> Graph {
    let flow = Dataflow::new("job");
    between(flow.source("a", numbers()).share()).sink("out", CollectSink::new());
    flow.into_graph()
}

fn edge_state() -> EdgeState {
    EdgeState { name: "a->out".into(), record: u64::schema(), key: None, producers: 3, consumers: 3 }
}

fn encoded(records: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records.iter().for_each(|record| record.encode(&mut bytes));
    bytes
}

#[test]
fn a_forward_edge_is_point_wise_only_between_equal_numbers_of_partitions() {
    let graph = job(|shared| shared.stream());
    let producers = |parallelism| {
        let consumers = wire(&graph, parallelism, &edge_state(), Vec::new()).unwrap();
        consumers.into_iter().map(|channels| channels.into_keys().collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    assert_eq!(producers((3, 3)), [[0], [1], [2]]);
    assert_eq!(producers((2, 3)), [[0, 1], [0, 1], [0, 1]]);
}

#[test]
fn in_flight_data_of_an_exchange_fit_a_forward_and_a_broadcast_edge() {
    let in_flight = || vec![((0, 2), 3, encoded(&[1, 2, 3])), ((2, 1), 1, encoded(&[4]))];
    let forward = job(|shared| shared.stream());
    let found = |graph: &Graph, parallelism| wire(graph, parallelism, &edge_state(), in_flight()).unwrap();
    let point_wise = found(&forward, (2, 2));
    assert_eq!(point_wise, [BTreeMap::from([(0, vec![1, 2, 3])]), BTreeMap::from([(1, vec![4])])]);
    let broadcast = job(|shared| shared.stream().broadcast());
    let everything = BTreeMap::from([(0, vec![1, 2, 3, 4]), (1, vec![])]);
    assert_eq!(found(&broadcast, (2, 3)), [everything.clone(), everything.clone(), everything]);
}

#[test]
fn in_flight_data_go_to_the_owners_of_their_keys_at_any_parallelism() {
    let keyed = job(|shared| {
        let keyed = shared.stream().key_by(|n| *n);
        keyed.into_stream()
    });
    let groups = KeyGroups::new(8);
    let all: Vec<u64> = (0..40).collect();
    let state = EdgeState { key: Some(u64::schema()), ..edge_state() };
    for parallelism in [(1, 1), (3, 2), (2, 8), (5, 7)] {
        let parts =
            all.chunks(7).zip(0..).map(|(part, n)| ((n % 3, n / 3), part.len() as u64, encoded(part)));
        let found = wire(&keyed, parallelism, &state, parts.collect()).unwrap();
        let mut seen: Vec<u64> = Vec::new();
        for (consumer, channels) in (0..).zip(found) {
            for record in channels.into_values().flatten() {
                assert_eq!(groups.partition_of(groups.group_of(record.key_hash()), parallelism.1), consumer);
                seen.push(record);
            }
        }
        seen.sort_unstable();
        assert_eq!(seen, all);
    }
}

#[test]
fn in_flight_data_that_do_not_fit_are_refused_and_never_left_out() {
    let graph = job(|shared| shared.stream());
    assert!(wire(&graph, (2, 2), &edge_state(), vec![((1, 1), 3, encoded(&[1, 2, 3]))]).is_ok());
    let refused = |records, bytes: Vec<u8>| {
        wire(&graph, (2, 2), &edge_state(), vec![((1, 1), records, bytes)]).unwrap_err()
    };
    assert!(refused(2, encoded(&[1, 2, 3])).contains("left over"));
    assert!(refused(4, encoded(&[1, 2, 3])).contains("record 3 of 4"));
}

#[test]
fn in_flight_records_of_another_type_and_keys_of_another_type_are_refused() {
    let parts = || vec![((1, 1), 1, encoded(&[1]))];
    let keyed = job(|shared| shared.stream().key_by(|n| *n).into_stream());
    let strings = EdgeState { record: String::schema(), ..edge_state() };
    let error = wire(&keyed, (2, 2), &strings, parts()).unwrap_err();
    assert!(error.contains("`a->out`") && error.contains("String") && error.contains("u64"), "{error}");
    let other_key = EdgeState { key: Some(u32::schema()), ..edge_state() };
    let error = wire(&keyed, (2, 2), &other_key, parts()).unwrap_err();
    assert!(error.contains("`a->out`") && error.contains("u32") && error.contains("key"), "{error}");
    // An edge that was not spread by key may be now.
    assert!(wire(&keyed, (2, 2), &edge_state(), parts()).is_ok());
}

#[test]
fn state_and_in_flight_data_that_nothing_wants_are_refused_unless_allowed() {
    let graph = job(|shared| shared.stream());
    let operator =
        OperatorState { uid: "gone".into(), parallelism: 1, keyed: Vec::new(), subtasks: Vec::new() };
    let channel = ChannelState {
        edge: "a->gone".into(),
        producer: 0,
        consumer: 0,
        generation: 0,
        origin: ChannelOrigin::Producer,
        records: 1,
        data: Payload::Inline(encoded(&[1])),
    };
    let fits = |allowed, operators, channels| {
        let manifest = Manifest { operators, channels, ..empty_manifest() };
        check_fit(&graph, 128, allowed, &manifest)
    };
    let error = fits(false, vec![operator.clone()], Vec::new()).unwrap_err();
    assert!(error.contains("`gone`"), "{error}");
    let error = fits(false, Vec::new(), vec![channel.clone()]).unwrap_err();
    assert!(error.contains("`a->gone`"), "{error}");
    assert_eq!(fits(true, vec![operator], vec![channel]), Ok(()));
    let error = check_fit(&graph, 64, true, &empty_manifest()).unwrap_err();
    assert!(error.contains("128") && error.contains("64"), "{error}");
}

fn empty_manifest() -> Manifest {
    Manifest {
        job: "grown".into(),
        checkpoint: CheckpointId(3),
        attempt: AttemptId(1),
        max_parallelism: 128,
        kind: thalweg_storage::manifest::ManifestKind::Checkpoint,
        origin: None,
        operators: Vec::new(),
        triggered_unix_ms: 0,
        edges: Vec::new(),
        channels: Vec::new(),
    }
}

#[test]
fn a_finished_operator_never_gets_a_new_source() {
    let graph = |more: bool| {
        let flow = Dataflow::new("grown");
        let old = flow.source("old", numbers()).rebalance();
        let all = if more { old.union(flow.source("new", numbers()).map("m", |n: u64| n)) } else { old };
        all.map("work", |n: u64| n).rebalance().sink("out", CollectSink::new());
        flow.into_graph()
    };
    let operator = |uid: &str, finished| OperatorState {
        uid: uid.into(),
        parallelism: 1,
        keyed: Vec::new(),
        subtasks: vec![SubtaskState { finished, ..SubtaskState::default() }],
    };
    let manifest = |finished| Manifest {
        operators: vec![operator("old", finished), operator("out", finished)],
        ..empty_manifest()
    };
    let check_finished = |graph: &Graph, manifest: &Manifest| check_fit(graph, 128, false, manifest);
    assert_eq!(check_finished(&graph(false), &manifest(true)), Ok(()));
    assert_eq!(check_finished(&graph(true), &manifest(false)), Ok(()));
    let error = check_finished(&graph(true), &manifest(true)).unwrap_err();
    assert!(error.contains("`out`") && error.contains("`new`"), "{error}");
}

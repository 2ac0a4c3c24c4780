//! Graphs as the dataflow builder writes them: names, mistakes, channel kinds, partitioning, restored in-flight data.

use super::deploy::check_finished;
use super::edge::{RestoredChannel, WireContext};
use super::*;
use crate::Dataflow;
use crate::connector::{CollectSink, GeneratorSource};
use crate::operator::{Collector, Partition};
use crate::ring::doorbell::{Doorbell, Wake};
use crate::ring::{BatchPool, ChannelSpec};
use proptest::prelude::*;
use thalweg_storage::io::{DiskHandle, SimDisk};
use thalweg_storage::key_group::KeyGroups;
use thalweg_storage::manifest::{Manifest, ManifestKind, OperatorState, SubtaskState};
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

/// Wires a forward edge with this in-flight data; returns how many channels each consumer has, or the error.
fn wire(parallelism: (u32, u32), restored: Vec<((u32, u32), u64, Vec<u8>)>) -> Result<Vec<usize>, String> {
    let flow = Dataflow::new("forward");
    flow.source("a", numbers()).share().stream().sink("out", CollectSink::new());
    let graph = flow.into_graph();
    let mut channels = HashMap::new();
    for (ends, records, bytes) in restored {
        channels.entry(ends).or_insert_with(Vec::new).push(RestoredChannel { records, bytes });
    }
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
        ship: Ship::Forward,
        spec: &spec,
        restored: &channels,
    };
    let wired = graph.edges[0].wire.wire(&context)?;
    let count =
        |end: Box<dyn std::any::Any + Send>| end.downcast::<Vec<crate::task::Input<u64>>>().unwrap().len();
    Ok(wired.consumers.into_iter().map(count).collect())
}

fn encoded(records: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    records.iter().for_each(|record| record.encode(&mut bytes));
    bytes
}

#[test]
fn a_forward_edge_is_point_wise_only_between_equal_numbers_of_partitions() {
    assert_eq!(wire((3, 3), Vec::new()), Ok(vec![1, 1, 1]));
    assert_eq!(wire((2, 3), Vec::new()), Ok(vec![2, 2, 2]));
}

#[test]
fn in_flight_data_that_do_not_fit_are_refused_and_never_left_out() {
    assert_eq!(wire((2, 2), vec![((1, 1), 3, encoded(&[1, 2, 3]))]), Ok(vec![1, 1]));
    let refused = |ends, records, bytes: Vec<u8>| wire((2, 2), vec![(ends, records, bytes)]).unwrap_err();
    assert!(refused((1, 1), 2, encoded(&[1, 2, 3])).contains("left over"));
    assert!(refused((1, 1), 4, encoded(&[1, 2, 3])).contains("record 3 of 4"));
    assert!(refused((0, 1), 1, encoded(&[1])).contains("not connected any more"));
    assert!(refused((0, 2), 1, encoded(&[1])).contains("not connected any more"));
    assert!(refused((2, 0), 1, encoded(&[1])).contains("not connected any more"));
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
        job: "grown".into(),
        checkpoint: CheckpointId(3),
        attempt: AttemptId(1),
        max_parallelism: 128,
        kind: ManifestKind::Checkpoint,
        origin: None,
        operators: vec![operator("old", finished), operator("out", finished)],
        triggered_unix_ms: 0,
        channels: Vec::new(),
    };
    assert_eq!(check_finished(&graph(false), &manifest(true)), Ok(()));
    assert_eq!(check_finished(&graph(true), &manifest(false)), Ok(()));
    let error = check_finished(&graph(true), &manifest(true)).unwrap_err();
    assert!(error.contains("`out`") && error.contains("`new`"), "{error}");
}

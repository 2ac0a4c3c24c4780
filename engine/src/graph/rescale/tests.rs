//! Claims about what is spread where, against a model that knows what each record was.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use thalweg_storage::key_group::KeyGroups;
use thalweg_storage::manifest::{Committable, StateBlob, SubtaskState};
use thalweg_storage::{AttemptId, CheckpointId, Data, Schema};

/// A record that tells where it was and which of its producer and key it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sent {
    producer: u32,
    consumer: u32,
    key: u64,
    /// Rises by producer and key, over generations and origins.
    sequence: u32,
    generation: u32,
}

const GROUPS: u16 = 12;

/// Generation, producer, consumer and origin of a part.
type PartKey = (u32, u32, u32, ChannelOrigin);

/// In-flight data of an edge by key at some parallelism, as an engine stores them: for each producer, keys in any order, each
/// in the channel of its owner.
fn in_flight() -> impl Strategy<Value = (u32, u32, Vec<InFlightPart<Sent>>)> {
    let records = prop::collection::vec((any::<u8>(), 0..8u64, 0..3u32, any::<bool>()), 0..120);
    (1..7u32, 1..7u32, records).prop_map(|(producers, consumers, records)| {
        let groups = KeyGroups::new(GROUPS);
        let mut parts: BTreeMap<PartKey, Vec<(u32, u64)>> = BTreeMap::new();
        for (producer, key, generation, in_outbox) in records {
            let producer = u32::from(producer) % producers;
            let consumer = groups.partition_of(groups.group_of(key.key_hash()), consumers);
            // Only what is sent last can still be in an outbox.
            let origin = match in_outbox && generation == 2 {
                true => ChannelOrigin::Producer,
                false => ChannelOrigin::Consumer,
            };
            parts.entry((generation, producer, consumer, origin)).or_default().push((producer, key));
        }
        let mut next: HashMap<(u32, u64), u32> = HashMap::new();
        let parts = parts.into_iter().map(|((generation, producer, consumer, origin), keys)| {
            let sent = |(_, key): (u32, u64)| {
                let sequence = next.entry((producer, key)).or_default();
                *sequence += 1;
                Sent { producer, consumer, key, sequence: *sequence, generation }
            };
            let records = keys.into_iter().map(sent).collect();
            InFlightPart { producer, consumer, generation, origin, records }
        });
        (producers, consumers, parts.collect())
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    (1..7u32, 1..7u32, any::<bool>()).prop_map(|(producers, consumers, point_wise)| Shape {
        producers: if point_wise { consumers } else { producers },
        consumers,
        point_wise,
    })
}

/// What a consumer processes, in order: generations first, each channel by channel.
fn processed(spread: &Spread<Sent>, consumer: u32) -> Vec<Sent> {
    let channels = spread.iter().filter(|((_, to), _)| *to == consumer);
    let mut parts: Vec<(u32, &Vec<Sent>)> = channels
        .flat_map(|(_, parts)| parts.iter().map(|(generation, records)| (*generation, records)))
        .collect();
    parts.sort_by_key(|(generation, _)| *generation);
    parts.into_iter().flat_map(|(_, records)| records.clone()).collect()
}

fn sorted(records: impl Iterator<Item = Sent>) -> Vec<Sent> {
    let mut records: Vec<Sent> = records.collect();
    records.sort_by_key(|sent| (sent.producer, sent.key, sent.sequence));
    records
}

fn all(parts: &[InFlightPart<Sent>]) -> Vec<Sent> {
    sorted(parts.iter().flat_map(|part| part.records.clone()))
}

fn copied(parts: &[InFlightPart<Sent>]) -> Vec<InFlightPart<Sent>> {
    let copy = |part: &InFlightPart<Sent>| InFlightPart { records: part.records.clone(), ..*part };
    parts.iter().map(copy).collect()
}

fn check_channels(spread: &Spread<Sent>, shape: Shape) -> Result<(), TestCaseError> {
    let channels: BTreeSet<(u32, u32)> = shape.channels().collect();
    for (channel, generations) in spread {
        prop_assert!(channels.contains(channel), "{channel:?} of {shape:?}");
        prop_assert!(generations.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for (generation, records) in generations {
            prop_assert!(records.iter().all(|sent| sent.generation == *generation));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn prop_by_key_each_record_reaches_its_keys_owner_once_and_in_the_order_of_producer_and_key(
        (_, _, parts) in in_flight(), shape in shape(),
    ) {
        let groups = KeyGroups::new(GROUPS);
        let owner = |sent: &Sent| groups.partition_of(groups.group_of(sent.key.key_hash()), shape.consumers);
        let before = all(&parts);
        let spread = spread(parts, shape, Routing::Each(&mut |sent| owner(sent)));
        check_channels(&spread, shape)?;
        let mut after = Vec::new();
        for consumer in 0..shape.consumers {
            let mut last: HashMap<(u32, u64), u32> = HashMap::new();
            for sent in processed(&spread, consumer) {
                prop_assert_eq!(owner(&sent), consumer);
                let last = last.insert((sent.producer, sent.key), sent.sequence);
                prop_assert!(last.is_none_or(|last| last < sent.sequence), "{sent:?} after {last:?}");
                after.push(sent);
            }
        }
        prop_assert_eq!(sorted(after.into_iter()), before);
    }

    #[test]
    fn prop_in_turn_each_channel_stays_together_and_in_order((_, _, parts) in in_flight(), shape in shape()) {
        let before = all(&parts);
        let spread = spread(parts, shape, Routing::Any);
        check_channels(&spread, shape)?;
        let mut places: HashMap<(u32, u32), (u32, u32)> = HashMap::new();
        for (channel, generations) in &spread {
            for sent in generations.iter().flat_map(|(_, records)| records) {
                let place = *places.entry((sent.producer, sent.consumer)).or_insert(*channel);
                prop_assert_eq!(place, *channel);
            }
        }
        for consumer in 0..shape.consumers {
            let mut last: HashMap<(u32, u64), u32> = HashMap::new();
            for sent in processed(&spread, consumer) {
                let last = last.insert((sent.producer, sent.key), sent.sequence);
                prop_assert!(last.is_none_or(|last| last < sent.sequence));
            }
        }
        let after = spread.into_values().flatten().flat_map(|(_, records)| records);
        prop_assert_eq!(sorted(after), before);
    }

    #[test]
    fn prop_a_broadcast_edge_gives_each_record_to_each_consumer_once((_, _, parts) in in_flight(), shape in shape()) {
        let before = all(&parts);
        let spread = spread(parts, shape, Routing::All);
        check_channels(&spread, shape)?;
        for consumer in 0..shape.consumers {
            prop_assert_eq!(sorted(processed(&spread, consumer).into_iter()), before.clone());
        }
    }

    #[test]
    fn prop_an_unchanged_edge_gives_each_channel_its_own_back((producers, consumers, parts) in in_flight()) {
        let shape = Shape { producers, consumers, point_wise: false };
        let groups = KeyGroups::new(GROUPS);
        let mut owner = |sent: &Sent| groups.partition_of(groups.group_of(sent.key.key_hash()), consumers);
        for routing in [Routing::Any, Routing::Each(&mut owner)] {
            for ((producer, consumer), generations) in spread(copied(&parts), shape, routing) {
                let mut records = generations.into_iter().flat_map(|(_, records)| records);
                prop_assert!(records.all(|sent| (sent.producer, sent.consumer) == (producer, consumer)));
            }
        }
    }

    #[test]
    fn prop_generations_are_numbered_in_their_order(stored in prop::collection::vec(any::<u32>(), 0..9)) {
        let (numbers, next) = generations(stored.iter().copied());
        let distinct: BTreeSet<u32> = stored.iter().copied().collect();
        prop_assert_eq!(next as usize, distinct.len());
        prop_assert!(distinct.into_iter().zip(0..).all(|(generation, number)| numbers[&generation] == number));
    }

    #[test]
    fn prop_sink_states_and_committables_go_by_their_original_subtask(
        old in 1..9u32, new in 1..9u32, checkpoints in prop::collection::vec(1..5u64, 8),
    ) {
        let stored = operator(old, |index| SubtaskState {
            operator_state: vec![blob(u64::from(index))],
            committables: vec![Committable {
                checkpoint: CheckpointId(checkpoints[index as usize]),
                subtask: index,
                attempt: AttemptId(1),
                bytes: Vec::new(),
            }],
            ..SubtaskState::default()
        });
        let parts = operator_parts(&stored, new, true).unwrap();
        prop_assert_eq!(parts.len(), new as usize);
        for (subtask, part) in (0..).zip(parts) {
            let mine: Vec<u32> = (0..old).filter(|index| index % new == subtask).collect();
            let states: Vec<u64> = mine.iter().map(|index| u64::from(*index)).collect();
            prop_assert_eq!(part.operator_state.iter().map(value).collect::<Vec<_>>(), states);
            let committed: BTreeSet<u32> = part.committables.iter().map(|c| c.subtask).collect();
            prop_assert_eq!(committed, mine.into_iter().collect::<BTreeSet<_>>());
            prop_assert!(part.committables.windows(2).all(|pair| pair[0].checkpoint <= pair[1].checkpoint));
        }
    }

    #[test]
    fn prop_each_subtask_reads_the_segments_that_share_a_group_with_it_and_no_others(
        old in 1..12u32, new in 1..12u32,
    ) {
        let groups = KeyGroups::new(GROUPS);
        let stored = operator(old, |index| SubtaskState {
            segments: vec![SegmentRef {
                path: format!("shared/{index}"),
                bytes: 1,
                groups: groups.range_of(index, old),
                states: Vec::new(),
            }],
            ..SubtaskState::default()
        });
        for subtask in 0..new {
            let own = groups.range_of(subtask, new);
            let read: BTreeSet<u16> =
                segments_of(&stored, &own).into_iter().flat_map(|segment| segment.groups).collect();
            prop_assert!(own.clone().all(|group| read.contains(&group)));
            prop_assert!(segments_of(&stored, &own).iter().all(|s| s.groups.clone().any(|g| own.contains(&g))));
        }
    }
}

#[test]
fn output_that_an_heir_lists_goes_back_to_its_original_subtask() {
    // Subtask 1 of 2 has inherited what subtask 3 of 4 had prepared.
    let stored = operator(2, |index| SubtaskState {
        committables: (0..2)
            .map(|generation| Committable {
                checkpoint: CheckpointId(7),
                subtask: index + 2 * generation,
                attempt: AttemptId(1),
                bytes: Vec::new(),
            })
            .collect(),
        ..SubtaskState::default()
    });
    for (parallelism, expected) in [
        (4, vec![vec![0], vec![1], vec![2], vec![3]]),
        (3, vec![vec![0, 3], vec![1], vec![2]]),
        (2, vec![vec![0, 2], vec![1, 3]]),
    ] {
        let parts = operator_parts(&stored, parallelism, true).unwrap();
        let listed: Vec<BTreeSet<u32>> =
            parts.iter().map(|part| part.committables.iter().map(|c| c.subtask).collect()).collect();
        let expected: Vec<BTreeSet<u32>> = expected.into_iter().map(BTreeSet::from_iter).collect();
        assert_eq!(listed, expected, "at parallelism {parallelism}");
    }
}

fn blob(value: u64) -> StateBlob {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    StateBlob {
        name: "state".into(),
        mode: OperatorStateMode::Split,
        schema: Schema::Tuple(Vec::new()),
        bytes,
    }
}

fn value(blob: &StateBlob) -> u64 {
    u64::decode(&mut blob.bytes.as_slice()).unwrap()
}

fn operator(parallelism: u32, subtask: impl Fn(u32) -> SubtaskState) -> OperatorState {
    let subtasks = (0..parallelism).map(|index| SubtaskState { index, ..subtask(index) }).collect();
    OperatorState { uid: "op".into(), parallelism, keyed: Vec::new(), subtasks }
}

/// An operator of three subtasks, each with its index as state, of which these have finished.
fn finished(finished: [bool; 3]) -> OperatorState {
    operator(3, |index| SubtaskState {
        finished: finished[index as usize],
        operator_state: vec![blob(u64::from(index))],
        ..SubtaskState::default()
    })
}

fn states_and_finished(stored: &OperatorState, parallelism: u32) -> Vec<(Vec<u64>, bool)> {
    let parts = operator_parts(stored, parallelism, false).unwrap();
    parts.iter().map(|part| (part.operator_state.iter().map(value).collect(), part.finished)).collect()
}

#[test]
fn an_operator_all_of_whose_subtasks_had_finished_stays_finished_at_any_parallelism() {
    let parts = states_and_finished(&finished([true; 3]), 2);
    assert_eq!(parts, [(vec![0, 2], true), (vec![1], true)]);
}

#[test]
fn of_an_operator_that_had_finished_in_part_only_the_unfinished_subtasks_state_is_dealt_out_anew() {
    let parts = states_and_finished(&finished([false, true, false]), 2);
    assert_eq!(parts, [(vec![0], false), (vec![2], false)]);
}

#[test]
fn at_the_same_parallelism_each_subtask_gets_its_own_state_and_is_finished_if_it_was() {
    let parts = states_and_finished(&finished([false, true, false]), 3);
    assert_eq!(parts, [(vec![0], false), (vec![1], true), (vec![2], false)]);
}

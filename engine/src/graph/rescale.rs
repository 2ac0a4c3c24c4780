//! What each subtask of a deployment gets of a checkpoint that was taken at any parallelism: in-flight data, operator
//! state, keyed state, committables.
//!
//! # In-flight data
//! A checkpoint holds, for the channel between producer *p* and consumer *c* of an exchange, what *c* had not processed below
//! the barrier, and behind it what was still in *p*'s outbox. Where the edge now leads somewhere else, each record goes where
//! the edge would send it today:
//! - by key or by a function: to the partition that it names, whatever the number of partitions;
//! - in turn: what was meant for consumer *c* goes to `c % consumers`, all of it, so that it stays in order;
//! - broadcast (an edge that was none before): to every partition, as none had it;
//! - point-wise: as in turn, on the one channel into that partition.
//!
//! Of the producers' side the channel from `p % producers` takes them. What comes after may well come on another channel, as
//! the producer's splits and keys were spread anew; so a consumer processes restored data of all its channels before new
//! ones. A checkpoint in between captures both; *generations* keep them apart for the next restore.
//!
//! An edge that was broadcast or forward when the checkpoint was taken has nothing in flight: barriers do not overtake
//! what it carries, and a snapshot waits until its outbox is empty. If not, a consumer could have processed a record that
//! another one, whose outbox is fuller, has not; no spreading over other numbers of consumers could make up for that.
//!
//! # Operator state
//! As [`thalweg_storage::operator_state`] says. Where only some subtasks of an operator had finished and the parallelism
//! changes, split lists of those that had are left out, as in Apache Flink: they have had their last words, and the
//! subtasks of today, none of which counts as finished, would say them again.
//!
//! A sink's writer states and committables of original subtask *s* go to subtask `s % parallelism`.
//!
//! Always true:
//! - no record is lost, and none doubled but for broadcast edges;
//! - records of one (producer, consumer) of the checkpoint that go to one partition keep their order, across generations too.
//!
//! Pure: facts of a manifest in, what each subtask gets out.

use crate::operator::OperatorRestore;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use thalweg_storage::StoreError;
use thalweg_storage::key_group::KeyGroup;
use thalweg_storage::manifest::{ChannelOrigin, OperatorState, OperatorStateMode, SegmentRef};
use thalweg_storage::operator_state::redistribute;

/// Which channels an edge has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub producers: u32,
    pub consumers: u32,
    /// Only from each producer to the consumer of the same index; there are as many of both.
    pub point_wise: bool,
}

impl Shape {
    /// All channels, by producer and consumer.
    pub fn channels(self) -> impl Iterator<Item = (u32, u32)> {
        let all = (0..self.producers).flat_map(move |p| (0..self.consumers).map(move |c| (p, c)));
        all.filter(move |(producer, consumer)| !self.point_wise || producer == consumer)
    }

    /// The channel that takes what an earlier `producer` had sent and `consumer` now gets.
    fn channel(self, producer: u32, consumer: u32) -> (u32, u32) {
        if self.point_wise { (consumer, consumer) } else { (producer % self.producers, consumer) }
    }
}

/// In-flight records of one channel of a checkpoint, oldest first.
#[derive(Debug)]
pub(super) struct InFlightPart<T> {
    pub producer: u32,
    pub consumer: u32,
    pub generation: u32,
    pub origin: ChannelOrigin,
    pub records: Vec<T>,
}

/// Who gets a record.
pub(super) enum Routing<'a, T> {
    /// The partition that it names.
    Each(&'a mut dyn FnMut(&T) -> u32),
    /// Any, if it is the same for all records of a channel.
    Any,
    /// Everybody.
    All,
}

/// Records by producer and consumer of today: generations by rising number.
pub(super) type Spread<T> = BTreeMap<(u32, u32), Vec<(u32, Vec<T>)>>;

/// Spreads the in-flight data of an edge over the channels that it has today.
pub(super) fn spread<T: Clone>(
    mut parts: Vec<InFlightPart<T>>,
    shape: Shape,
    mut routing: Routing<'_, T>,
) -> Spread<T> {
    // Of one channel, what its consumer captured comes before what its producer still held.
    parts.sort_by_key(|part| (part.generation, part.producer, part.consumer, part.origin));
    let mut spread = Spread::<T>::new();
    for part in parts {
        let mut put = |consumer: u32, record: T| {
            let generations = spread.entry(shape.channel(part.producer, consumer)).or_default();
            match generations.last_mut() {
                Some((generation, records)) if *generation == part.generation => records.push(record),
                _ => generations.push((part.generation, vec![record])),
            }
        };
        for record in part.records {
            match &mut routing {
                Routing::Each(choose) => put(choose(&record), record),
                Routing::Any => put(part.consumer % shape.consumers, record),
                Routing::All => (0..shape.consumers).for_each(|consumer| put(consumer, record.clone())),
            }
        }
    }
    spread
}

/// Numbers generations from 0 in their order; gives the number of each, and the next.
pub(super) fn generations(stored: impl Iterator<Item = u32>) -> (BTreeMap<u32, u32>, u32) {
    let mut numbers: BTreeMap<u32, u32> = stored.map(|generation| (generation, 0)).collect();
    let next = numbers.len() as u32;
    numbers.values_mut().zip(0..).for_each(|(number, index)| *number = index);
    (numbers, next)
}

/// What each of `parallelism` subtasks gets of an operator's small state and of its committables.
///
/// # Errors
/// [`StoreError::Incompatible`], as of [`redistribute`].
pub(super) fn operator_parts(
    stored: &OperatorState,
    parallelism: u32,
    is_sink: bool,
) -> Result<Vec<OperatorRestore>, StoreError> {
    let rescaled = stored.parallelism != parallelism;
    let finished = stored.subtasks.iter().filter(|subtask| subtask.finished).count();
    let all_finished = finished == stored.subtasks.len();
    let spread = match rescaled && finished > 0 && !all_finished {
        true => Cow::Owned(without_finished(stored)),
        false => Cow::Borrowed(stored),
    };
    let mut parts = Vec::new();
    for subtask in 0..parallelism {
        let own = stored.subtasks.iter().find(|stored| stored.index == subtask);
        parts.push(OperatorRestore {
            operator_state: if is_sink { Vec::new() } else { redistribute(&spread, subtask, parallelism)? },
            committables: Vec::new(),
            finished: if rescaled { all_finished } else { own.is_some_and(|own| own.finished) },
        });
    }
    for subtask in &stored.subtasks {
        let part = &mut parts[(subtask.index % parallelism) as usize];
        part.committables.extend(subtask.committables.iter().cloned());
        if is_sink {
            part.operator_state.extend(subtask.operator_state.iter().cloned());
        }
    }
    // Oldest first, also where they are of several subtasks.
    parts.iter_mut().for_each(|part| part.committables.sort_by_key(|committable| committable.checkpoint));
    Ok(parts)
}

/// The same without the split lists of subtasks that had finished.
fn without_finished(stored: &OperatorState) -> OperatorState {
    let mut stored = stored.clone();
    for subtask in stored.subtasks.iter_mut().filter(|subtask| subtask.finished) {
        subtask.operator_state.retain(|blob| blob.mode != OperatorStateMode::Split);
    }
    stored
}

/// The segments that hold keyed state of `groups`, of whichever subtasks.
pub(super) fn segments_of(stored: &OperatorState, groups: &Range<KeyGroup>) -> Vec<SegmentRef> {
    let segments = stored.subtasks.iter().flat_map(|subtask| &subtask.segments);
    let shared =
        |segment: &&SegmentRef| segment.groups.start < groups.end && groups.start < segment.groups.end;
    segments.filter(shared).cloned().collect()
}

#[cfg(test)]
mod tests;

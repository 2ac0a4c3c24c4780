//! [`ReducingStates`] and [`AggregatingStates`]: one value per key into which every added one is folded.

use super::ttl::Ttl;
use super::value::ValueStates;
use crate::codec::{Data, Key};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::table::{Backend, StateTable};
use std::cell::Cell;
use std::ops::Range;

/// How values are folded into an accumulator, and what comes of it.
pub trait Aggregate: Send + 'static {
    /// What is added.
    type Input;
    /// What is kept.
    type Accumulator: Data;
    /// What is returned.
    type Output;

    /// An accumulator of nothing.
    fn create(&self) -> Self::Accumulator;

    /// Adds `input`.
    fn add(&self, accumulator: &mut Self::Accumulator, input: Self::Input);

    /// The result so far.
    fn result(&self, accumulator: &Self::Accumulator) -> Self::Output;

    /// Adds all that went into `other`.
    fn merge(&self, accumulator: &mut Self::Accumulator, other: Self::Accumulator);
}

/// The `AggregatingState` of every key.
pub struct AggregatingStates<Q: Key, A: Aggregate> {
    values: ValueStates<Q, A::Accumulator>,
    aggregate: A,
}

impl<Q: Key, A: Aggregate> AggregatingStates<Q, A> {
    /// The empty state `name` of the keys of the groups in `range`.
    pub fn new(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        aggregate: A,
    ) -> Self {
        AggregatingStates { values: ValueStates::new(backend, name, groups, range), aggregate }
    }

    /// As [`AggregatingStates::new`], with accumulators that expire.
    pub fn with_ttl(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        aggregate: A,
        ttl: Ttl,
    ) -> Self {
        AggregatingStates { values: ValueStates::with_ttl(backend, name, groups, range, ttl), aggregate }
    }

    /// See [`KeyedTable::announce`](crate::table::KeyedTable::announce).
    #[inline]
    pub fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        self.values.announce(hashes)
    }

    /// Adds `input` to the accumulator of `key`.
    #[inline]
    pub fn add(&mut self, now_ms: u64, hash: u64, key: &Q, input: A::Input) {
        let aggregate = &self.aggregate;
        self.values.update(
            now_ms,
            hash,
            key,
            || aggregate.create(),
            |accumulator| aggregate.add(accumulator, input),
        );
    }

    /// The result for `key`, if anything was added.
    #[inline]
    pub fn get(&mut self, now_ms: u64, hash: u64, key: &Q) -> Option<A::Output> {
        let aggregate = &self.aggregate;
        self.values.read(now_ms, hash, key, |accumulator| aggregate.result(accumulator))
    }

    /// Removes the accumulator of `key`.
    pub fn clear(&mut self, hash: u64, key: &Q) {
        self.values.clear(hash, key);
    }

    /// Merges the accumulators of `sources`, hashes and keys, into that of `target`. A source that is the target stays as
    /// it is.
    pub fn merge<'a>(
        &mut self,
        now_ms: u64,
        target: (u64, &Q),
        sources: impl IntoIterator<Item = (u64, &'a Q)>,
    ) {
        let aggregate = &self.aggregate;
        merge(&mut self.values, now_ms, target, sources, |into, other| aggregate.merge(into, other));
    }

    /// Tells a state with time to live what time it is, before a full snapshot or upkeep; others ignore it.
    pub fn advance_time(&mut self, now_ms: u64) {
        self.values.advance_time(now_ms);
    }

    /// The table, for snapshots, restores and upkeep.
    pub fn table(&mut self) -> &mut dyn StateTable {
        self.values.table()
    }
}

/// The `ReducingState` of every key: `F` folds an added value into the present one.
pub struct ReducingStates<Q: Key, V: Data, F> {
    values: ValueStates<Q, V>,
    reduce: F,
}

impl<Q: Key, V: Data, F: Fn(&mut V, V)> ReducingStates<Q, V, F> {
    /// The empty state `name` of the keys of the groups in `range`.
    pub fn new(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        reduce: F,
    ) -> Self {
        ReducingStates { values: ValueStates::new(backend, name, groups, range), reduce }
    }

    /// As [`ReducingStates::new`], with values that expire.
    pub fn with_ttl(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        reduce: F,
        ttl: Ttl,
    ) -> Self {
        ReducingStates { values: ValueStates::with_ttl(backend, name, groups, range, ttl), reduce }
    }

    /// See [`KeyedTable::announce`](crate::table::KeyedTable::announce).
    #[inline]
    pub fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        self.values.announce(hashes)
    }

    /// Folds `value` into that of `key`; the first one becomes it.
    #[inline]
    pub fn add(&mut self, now_ms: u64, hash: u64, key: &Q, value: V) {
        fold(&mut self.values, now_ms, (hash, key), value, &self.reduce);
    }

    /// The value of `key`, if anything was added.
    #[inline]
    pub fn get(&mut self, now_ms: u64, hash: u64, key: &Q) -> Option<V> {
        self.values.get(now_ms, hash, key)
    }

    /// Removes the value of `key`.
    pub fn clear(&mut self, hash: u64, key: &Q) {
        self.values.clear(hash, key);
    }

    /// Folds the values of `sources`, hashes and keys, into that of `target`. A source that is the target stays as it is.
    pub fn merge<'a>(
        &mut self,
        now_ms: u64,
        target: (u64, &Q),
        sources: impl IntoIterator<Item = (u64, &'a Q)>,
    ) {
        merge(&mut self.values, now_ms, target, sources, &self.reduce);
    }

    /// Tells a state with time to live what time it is, before a full snapshot or upkeep; others ignore it.
    pub fn advance_time(&mut self, now_ms: u64) {
        self.values.advance_time(now_ms);
    }

    /// The table, for snapshots, restores and upkeep.
    pub fn table(&mut self) -> &mut dyn StateTable {
        self.values.table()
    }
}

/// Folds `value` into that of a key, whose first it may be.
#[inline]
fn fold<Q: Key, V: Data>(
    values: &mut ValueStates<Q, V>,
    now_ms: u64,
    (hash, key): (u64, &Q),
    value: V,
    reduce: impl Fn(&mut V, V),
) {
    // Either it becomes the value, or it is folded into that.
    let value = Cell::new(Some(value));
    values.update(
        now_ms,
        hash,
        key,
        || value.take().expect("a first value is made once"),
        |present| {
            if let Some(value) = value.take() {
                reduce(present, value);
            }
        },
    );
}

/// Folds the values of `sources` together and the result into that of `target`.
fn merge<'a, Q: Key, V: Data>(
    values: &mut ValueStates<Q, V>,
    now_ms: u64,
    target: (u64, &Q),
    sources: impl IntoIterator<Item = (u64, &'a Q)>,
    reduce: impl Fn(&mut V, V),
) {
    let mut merged: Option<V> = None;
    for (hash, key) in sources.into_iter().filter(|(_, key)| *key != target.1) {
        let Some(value) = values.get(now_ms, hash, key) else { continue };
        values.clear(hash, key);
        match &mut merged {
            Some(merged) => reduce(merged, value),
            None => merged = Some(value),
        }
    }
    if let Some(merged) = merged {
        fold(values, now_ms, target, merged, reduce);
    }
}

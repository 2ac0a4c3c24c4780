//! A map per key: its descriptor and the view of the current key's map.

use super::{CurrentKey, StateSpec, StateTtlConfig, tables_of_states};
use std::marker::PhantomData;
use std::ops::Range;
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::state::MapStates;
use thalweg_storage::table::Backend;
use thalweg_storage::{Data, Key};

/// Describes a map from user keys to user values per key.
///
/// ```
/// # use thalweg::connector::{CollectSink, VecSource};
/// # use thalweg::{Dataflow, operator::Collector};
/// use thalweg::state::{MapState, MapStateDescriptor};
/// # let flow = Dataflow::new("visits");
/// # let visits = flow.source("visits", VecSource::new(vec![(1_u64, "a".to_owned())]));
/// // Emits each page of a user once.
/// let pages = visits.key_by(|visit: &(u64, String)| visit.0).process(
///     "first visits",
///     MapStateDescriptor::<String, u64>::new("visits"),
///     |_: &u64, (user, page), mut visits: MapState<'_, u64, String, u64>, out: &mut Collector<(u64, String)>| {
///         let before = visits.get(&page).unwrap_or(0);
///         visits.put(&page, before + 1);
///         if before == 0 {
///             out.collect((user, page));
///         }
///         Ok(())
///     },
/// );
/// # pages.sink("sink", CollectSink::new());
/// ```
pub struct MapStateDescriptor<U, V> {
    name: String,
    ttl: Option<StateTtlConfig>,
    entry: PhantomData<fn() -> (U, V)>,
}

impl<U, V> Clone for MapStateDescriptor<U, V> {
    fn clone(&self) -> Self {
        MapStateDescriptor { name: self.name.clone(), ttl: self.ttl, entry: PhantomData }
    }
}

impl<U: Key, V: Data> MapStateDescriptor<U, V> {
    /// A map state called `name`, unique within its operator; it is found again by that name.
    pub fn new(name: impl Into<String>) -> Self {
        MapStateDescriptor { name: name.into(), ttl: None, entry: PhantomData }
    }

    /// Lets entries expire, each on its own.
    pub fn enable_time_to_live(mut self, ttl: StateTtlConfig) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// The map of the current key. Survives a failure once a checkpoint that began later has completed.
///
/// A map without entries and no map are the same. A change to a large map rewrites a small part of it only.
pub struct MapState<'a, K: Key, U: Key, V: Data> {
    states: &'a mut MapStates<K, U, V>,
    at: CurrentKey<'a, K>,
}

impl<K: Key, U: Key, V: Data> MapState<'_, K, U, V> {
    /// The value of `user_key`.
    #[inline]
    pub fn get(&mut self, user_key: &U) -> Option<V> {
        self.states.get(self.at.now_ms, self.at.hash, self.at.key, user_key)
    }

    /// What `read` makes of the value of `user_key`, if there is one.
    #[inline]
    pub fn with<R>(&mut self, user_key: &U, read: impl FnOnce(&V) -> R) -> Option<R> {
        self.states.read(self.at.now_ms, self.at.hash, self.at.key, user_key, read)
    }

    /// True when there is a value of `user_key`.
    pub fn contains(&mut self, user_key: &U) -> bool {
        self.states.contains(self.at.now_ms, self.at.hash, self.at.key, user_key)
    }

    /// Stores `value` under `user_key`, replacing any earlier value.
    #[inline]
    pub fn put(&mut self, user_key: &U, value: V) {
        self.states.put(self.at.now_ms, self.at.hash, self.at.key, user_key, value);
    }

    /// Stores all of `entries`.
    pub fn put_all(&mut self, entries: impl IntoIterator<Item = (U, V)>) {
        entries.into_iter().for_each(|(user_key, value)| self.put(&user_key, value));
    }

    /// Removes `user_key`; true if it was there.
    pub fn remove(&mut self, user_key: &U) -> bool {
        self.states.remove(self.at.hash, self.at.key, user_key)
    }

    /// Calls `keep` for each entry, in no order, and removes those for which it returns false.
    pub fn retain(&mut self, keep: impl FnMut(&U, &V) -> bool) {
        self.states.retain(self.at.now_ms, self.at.hash, self.at.key, keep);
    }

    /// Calls `visit` for each entry, in no order.
    pub fn for_each(&mut self, visit: impl FnMut(&U, &V)) {
        self.states.for_each(self.at.now_ms, self.at.hash, self.at.key, visit);
    }

    /// The entries, in no order.
    pub fn entries(&mut self) -> Vec<(U, V)> {
        self.states.entries(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// The user keys, in no order.
    pub fn keys(&mut self) -> Vec<U> {
        self.states.keys(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// The user values, in the order of [`MapState::keys`].
    pub fn values(&mut self) -> Vec<V> {
        let mut values = Vec::new();
        self.for_each(|_, value| values.push(value.clone()));
        values
    }

    /// Number of entries.
    pub fn len(&mut self) -> u64 {
        self.states.len(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// True without entries.
    pub fn is_empty(&mut self) -> bool {
        self.states.is_empty(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        self.states.clear(self.at.hash, self.at.key);
    }
}

impl<K: Key, U: Key, V: Data> StateSpec<K> for MapStateDescriptor<U, V> {
    type Tables = MapStates<K, U, V>;
    type View<'a> = MapState<'a, K, U, V>;

    fn count(&self) -> usize {
        1
    }
    fn tables(&self, backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self::Tables {
        let name = self.name.clone();
        match self.ttl {
            None => MapStates::new(backend, name, groups, range),
            Some(ttl) => MapStates::with_ttl(backend, name, groups, range, ttl.ttl()),
        }
    }
    fn view<'a>(states: &'a mut Self::Tables, at: CurrentKey<'a, K>) -> MapState<'a, K, U, V> {
        MapState { states, at }
    }
}

tables_of_states!(MapStates<K: Key, U: Key, V: Data>);

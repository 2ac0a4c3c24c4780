//! One value per key: its descriptor and the view of the current key's value.

use super::{CurrentKey, StateSpec, StateTtlConfig, tables_of_states};
use std::marker::PhantomData;
use std::ops::Range;
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::state::ValueStates;
use thalweg_storage::table::Backend;
use thalweg_storage::{Data, Key};

/// Describes one value per key.
///
/// ```
/// use thalweg::state::ValueStateDescriptor;
/// let last_seen = ValueStateDescriptor::<u64>::new("last-seen");
/// ```
pub struct ValueStateDescriptor<V> {
    name: String,
    ttl: Option<StateTtlConfig>,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for ValueStateDescriptor<V> {
    fn clone(&self) -> Self {
        ValueStateDescriptor { name: self.name.clone(), ttl: self.ttl, value: PhantomData }
    }
}

impl<V: Data> ValueStateDescriptor<V> {
    /// A value state called `name`, unique within its operator; it is found again by that name.
    pub fn new(name: impl Into<String>) -> Self {
        ValueStateDescriptor { name: name.into(), ttl: None, value: PhantomData }
    }

    /// Lets values expire.
    pub fn enable_time_to_live(mut self, ttl: StateTtlConfig) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// The value of the current key. Survives a failure once a checkpoint that began later has completed.
pub struct ValueState<'a, K: Key, V: Data> {
    states: &'a mut ValueStates<K, V>,
    at: CurrentKey<'a, K>,
}

impl<K: Key, V: Data> ValueState<'_, K, V> {
    /// The value, or `None` if there is none.
    ///
    /// A copy, as the log-structured backend holds encoded values; [`ValueState::with`] reads without one where the
    /// backend allows it.
    #[inline]
    pub fn value(&mut self) -> Option<V> {
        self.states.get(self.at.now_ms, self.at.hash, self.at.key)
    }

    /// What `read` makes of the value, if there is one.
    #[inline]
    pub fn with<R>(&mut self, read: impl FnOnce(&V) -> R) -> Option<R> {
        self.states.read(self.at.now_ms, self.at.hash, self.at.key, read)
    }

    /// Sets the value.
    #[inline]
    pub fn update(&mut self, value: V) {
        self.states.set(self.at.now_ms, self.at.hash, self.at.key, value);
    }

    /// Changes the value in place, starting from `initial` where there is none.
    #[inline]
    pub fn modify<R>(&mut self, initial: impl FnOnce() -> V, change: impl FnOnce(&mut V) -> R) -> R {
        self.states.update(self.at.now_ms, self.at.hash, self.at.key, initial, change)
    }

    /// Removes the value.
    #[inline]
    pub fn clear(&mut self) {
        self.states.clear(self.at.hash, self.at.key);
    }
}

impl<K: Key, V: Data> StateSpec<K> for ValueStateDescriptor<V> {
    type Tables = ValueStates<K, V>;
    type View<'a> = ValueState<'a, K, V>;

    fn count(&self) -> usize {
        1
    }
    fn tables(&self, backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self::Tables {
        let name = self.name.clone();
        match self.ttl {
            None => ValueStates::new(backend, name, groups, range),
            Some(ttl) => ValueStates::with_ttl(backend, name, groups, range, ttl.ttl()),
        }
    }
    #[inline(always)]
    fn view<'a>(states: &'a mut Self::Tables, at: CurrentKey<'a, K>) -> ValueState<'a, K, V> {
        ValueState { states, at }
    }
}

tables_of_states!(ValueStates<K: Key, V: Data>);

//! One value per key: its descriptor and the view of the current key's value.

use super::{StateSpec, StateTables};
use std::marker::PhantomData;
use std::ops::Range;
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::table::{Backend, KeyedTable};
use thalweg_storage::{Data, Key};

/// Describes one value per key.
///
/// ```
/// use thalweg::state::ValueStateDescriptor;
/// let last_seen = ValueStateDescriptor::<u64>::new("last-seen");
/// ```
pub struct ValueStateDescriptor<V> {
    name: String,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for ValueStateDescriptor<V> {
    fn clone(&self) -> Self {
        ValueStateDescriptor { name: self.name.clone(), value: PhantomData }
    }
}

impl<V: Data> ValueStateDescriptor<V> {
    /// A value state called `name`, unique within its operator; it is found again by that name.
    pub fn new(name: impl Into<String>) -> Self {
        ValueStateDescriptor { name: name.into(), value: PhantomData }
    }
}

/// The value of the current key. Survives a failure once a checkpoint that began later has completed.
pub struct ValueState<'a, K: Key, V: Data> {
    table: &'a mut KeyedTable<K, V>,
    hash: u64,
    key: &'a K,
}

impl<K: Key, V: Data> ValueState<'_, K, V> {
    /// The value, or `None` if there is none.
    ///
    /// A copy, as the log-structured backend holds encoded values; [`ValueState::with`] reads without one where the
    /// backend allows it.
    #[inline]
    pub fn value(&mut self) -> Option<V> {
        self.table.get(self.hash, self.key)
    }

    /// What `read` makes of the value, if there is one.
    #[inline]
    pub fn with<R>(&mut self, read: impl FnOnce(&V) -> R) -> Option<R> {
        self.table.read(self.hash, self.key, read)
    }

    /// Sets the value.
    #[inline]
    pub fn update(&mut self, value: V) {
        self.table.insert(self.hash, self.key, value);
    }

    /// Changes the value in place, starting from `initial` where there is none.
    #[inline]
    pub fn modify<R>(&mut self, initial: impl FnOnce() -> V, change: impl FnOnce(&mut V) -> R) -> R {
        self.table.update(self.hash, self.key, initial, change)
    }

    /// Removes the value.
    #[inline]
    pub fn clear(&mut self) {
        self.table.remove(self.hash, self.key);
    }
}

impl<K: Key, V: Data> StateSpec<K> for ValueStateDescriptor<V> {
    type Tables = KeyedTable<K, V>;
    type View<'a> = ValueState<'a, K, V>;

    fn count(&self) -> usize {
        1
    }
    fn tables(&self, backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self::Tables {
        KeyedTable::new(backend, self.name.clone(), groups, range)
    }
    #[inline(always)]
    fn view<'a>(tables: &'a mut Self::Tables, hash: u64, key: &'a K) -> ValueState<'a, K, V> {
        ValueState { table: tables, hash, key }
    }
}

impl<K: Key, V: Data> StateTables for KeyedTable<K, V> {
    fn count(&self) -> usize {
        1
    }
    fn table(&mut self, index: usize) -> Option<&mut dyn thalweg_storage::table::StateTable> {
        (index == 0).then(|| self.untyped())
    }
    #[inline(always)]
    fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        KeyedTable::announce(self, hashes)
    }
}

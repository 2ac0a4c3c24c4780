//! Keyed state as operators see it: descriptors name it, views give access to the current key's values.
//!
//! A [`StateSpec`] is one descriptor or a tuple of them. At run time it becomes typed tables, and for each record a
//! view of the record's key in each of them: plain calls, no lookup by name, no boxing.

use std::marker::PhantomData;
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::snapshot::Tables;
use thalweg_storage::table::{StateTable, ValueTable};
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
    table: &'a mut ValueTable<K, V>,
    hash: u64,
    key: &'a K,
}

impl<K: Key, V: Data> ValueState<'_, K, V> {
    /// The value, or `None` if there is none.
    #[inline]
    pub fn value(&self) -> Option<&V> {
        self.table.get(self.hash, self.key)
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

/// The keyed states of one operator.
pub trait StateSpec<K: Key>: Clone + Send + 'static {
    /// Their tables at one partition.
    type Tables: StateTables;
    /// Access to the values of one key.
    type View<'a>;

    /// Empty tables for the key groups `range`.
    fn tables(&self, groups: KeyGroups, range: std::ops::Range<KeyGroup>) -> Self::Tables;

    /// The values of `key`, whose hash is `hash`.
    fn view<'a>(tables: &'a mut Self::Tables, hash: u64, key: &'a K) -> Self::View<'a>;
}

/// The tables of one operator at one partition.
pub trait StateTables: Send + 'static {
    /// Number of tables.
    fn count(&self) -> usize;

    /// The table with this index.
    fn table(&mut self, index: usize) -> Option<&mut dyn StateTable>;

    /// Brings the places of the key with this hash near the processor.
    fn prefetch(&self, hash: u64);
}

impl<K: Key, V: Data> StateTables for ValueTable<K, V> {
    fn count(&self) -> usize {
        1
    }
    fn table(&mut self, index: usize) -> Option<&mut dyn StateTable> {
        (index == 0).then_some(self as &mut dyn StateTable)
    }
    #[inline(always)]
    fn prefetch(&self, hash: u64) {
        ValueTable::prefetch(self, hash);
    }
}

impl<K: Key, V: Data> StateSpec<K> for ValueStateDescriptor<V> {
    type Tables = ValueTable<K, V>;
    type View<'a> = ValueState<'a, K, V>;

    fn tables(&self, groups: KeyGroups, range: std::ops::Range<KeyGroup>) -> Self::Tables {
        ValueTable::new(self.name.clone(), groups, range)
    }
    #[inline(always)]
    fn view<'a>(tables: &'a mut Self::Tables, hash: u64, key: &'a K) -> ValueState<'a, K, V> {
        ValueState { table: tables, hash, key }
    }
}

impl StateTables for () {
    fn count(&self) -> usize {
        0
    }
    fn table(&mut self, _: usize) -> Option<&mut dyn StateTable> {
        None
    }
    fn prefetch(&self, _: u64) {}
}

impl<K: Key> StateSpec<K> for () {
    type Tables = ();
    type View<'a> = ();

    fn tables(&self, _: KeyGroups, _: std::ops::Range<KeyGroup>) {}
    fn view<'a>(_: &'a mut (), _: u64, _: &'a K) {}
}

macro_rules! spec_of_tuple {
    ($($part:ident $index:tt),*) => {
        impl<$($part: StateTables),*> StateTables for ($($part,)*) {
            fn count(&self) -> usize {
                0 $(+ self.$index.count())*
            }
            fn table(&mut self, index: usize) -> Option<&mut dyn StateTable> {
                let mut index = index;
                $(
                    let count = self.$index.count();
                    if index < count {
                        return self.$index.table(index);
                    }
                    index -= count;
                )*
                let _ = index;
                None
            }
            #[inline(always)]
            fn prefetch(&self, hash: u64) {
                $(self.$index.prefetch(hash);)*
            }
        }

        impl<Key_: Key, $($part: StateSpec<Key_>),*> StateSpec<Key_> for ($($part,)*) {
            type Tables = ($($part::Tables,)*);
            type View<'a> = ($($part::View<'a>,)*);

            fn tables(&self, groups: KeyGroups, range: std::ops::Range<KeyGroup>) -> Self::Tables {
                ($(self.$index.tables(groups, range.clone()),)*)
            }
            #[inline(always)]
            fn view<'a>(tables: &'a mut Self::Tables, hash: u64, key: &'a Key_) -> Self::View<'a> {
                ($($part::view(&mut tables.$index, hash, key),)*)
            }
        }
    };
}
spec_of_tuple!(A 0, B 1);
spec_of_tuple!(A 0, B 1, C 2);
spec_of_tuple!(A 0, B 1, C 2, D 3);

impl<T: StateTables + ?Sized> Tables for TablesOf<'_, T> {
    fn count(&self) -> usize {
        self.0.count()
    }
    fn table(&mut self, index: usize) -> &mut dyn StateTable {
        self.0.table(index).expect("the storage crate asks for tables below their count")
    }
}

/// Adapts an operator's [`StateTables`] to the storage crate.
pub struct TablesOf<'a, T: ?Sized>(pub &'a mut T);

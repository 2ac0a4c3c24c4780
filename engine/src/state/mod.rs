//! Keyed state as operators see it: descriptors name it, views give access to the current key's values.
//!
//! A [`StateSpec`] is one descriptor or a tuple of them. At run time it becomes typed tables on the backend that the
//! engine's settings choose, and for each record a view of the record's key in each of them: plain calls, no lookup by
//! name, no boxing.

mod ttl;
mod value;
mod list;
mod map;
mod reducing;

pub use list::{ListState, ListStateDescriptor};
pub use map::{MapState, MapStateDescriptor};
pub use reducing::{
    Aggregate, AggregatingState, AggregatingStateDescriptor, ReducingState, ReducingStateDescriptor,
};
pub use thalweg_storage::table::TableStats;
pub use ttl::{StateTtlConfig, TtlUpdate, TtlVisibility};
pub use value::{ValueState, ValueStateDescriptor};

use std::ops::Range;
use thalweg_storage::key_group::{KeyGroup, KeyGroups};
use thalweg_storage::snapshot::Tables;
use thalweg_storage::table::{Backend, KeyedTable, StateTable};
use thalweg_storage::{Data, Key, StoreError};

/// The key of the record that is being processed, and the moment.
pub struct CurrentKey<'a, K> {
    /// The key.
    pub key: &'a K,
    /// Its hash.
    pub hash: u64,
    /// Processing time, in milliseconds since 1970: accurate to about a poll of the task.
    pub now_ms: u64,
}

impl<K> Clone for CurrentKey<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for CurrentKey<'_, K> {}

/// The keyed states of one operator.
pub trait StateSpec<K: Key>: Clone + Send + 'static {
    /// Their tables at one partition.
    type Tables: StateTables;
    /// Access to the values of one key.
    type View<'a>;

    /// Number of tables, at each partition.
    fn count(&self) -> usize;

    /// Empty tables on `backend` for the key groups `range`.
    fn tables(&self, backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self::Tables;

    /// The values of a key.
    fn view<'a>(tables: &'a mut Self::Tables, at: CurrentKey<'a, K>) -> Self::View<'a>;
}

/// The tables of one operator at one partition.
pub trait StateTables: Send + 'static {
    /// Number of tables.
    fn count(&self) -> usize;

    /// The table with this index.
    fn table(&mut self, index: usize) -> Option<&mut dyn StateTable>;

    /// Announces that the keys with these hashes will be used next, in this order: what they need is fetched from memory
    /// or disk. Returns how many of them, from the first on, may be used once [`StateTables::ready`] says so; at least
    /// one, unless there are none.
    fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize;

    /// Tells state with time to live what time it is, in milliseconds since 1970: before upkeep and snapshots.
    fn advance_time(&mut self, now_ms: u64) {
        let _ = now_ms;
    }

    /// True when the keys that were announced last can be used without waiting for the disk. Moves its reads on.
    ///
    /// # Errors
    /// A page could not be read, or is damaged; the tables cannot go on.
    fn ready(&mut self) -> Result<bool, StoreError> {
        let mut ready = true;
        for index in 0..self.count() {
            if let Some(table) = self.table(index) {
                ready &= table.ready()?;
            }
        }
        Ok(ready)
    }

    /// Does a slice of upkeep, such as compaction, of about what `rows` rows cost. True when there is more to do at once.
    ///
    /// # Errors
    /// The disk failed where that matters; the tables cannot go on.
    fn maintain(&mut self, rows: usize) -> Result<bool, StoreError> {
        for index in 0..self.count() {
            if let Some(table) = self.table(index)
                && table.maintain(rows)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl StateTables for () {
    fn count(&self) -> usize {
        0
    }
    fn table(&mut self, _: usize) -> Option<&mut dyn StateTable> {
        None
    }
    fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        hashes.len()
    }
}

impl<K: Key> StateSpec<K> for () {
    type Tables = ();
    type View<'a> = ();

    fn count(&self) -> usize {
        0
    }
    fn tables(&self, _: &Backend, _: KeyGroups, _: Range<KeyGroup>) {}
    fn view<'a>(_: &'a mut (), _: CurrentKey<'a, K>) {}
}

impl<K: Key, V: Data> StateTables for KeyedTable<K, V> {
    fn count(&self) -> usize {
        1
    }
    fn table(&mut self, index: usize) -> Option<&mut dyn StateTable> {
        (index == 0).then(|| self.untyped())
    }
    #[inline(always)]
    fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        KeyedTable::announce(self, hashes)
    }
}

/// Makes the states of one kind the tables of an operator.
macro_rules! tables_of_states {
    ($states:ident < $($param:ident : $bound:path),* >) => {
        impl<$($param: $bound),*> $crate::state::StateTables for $states<$($param),*> {
            fn count(&self) -> usize {
                1
            }
            fn table(&mut self, index: usize) -> Option<&mut dyn thalweg_storage::table::StateTable> {
                (index == 0).then(|| $states::table(self))
            }
            #[inline(always)]
            fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
                $states::announce(self, hashes)
            }
            fn advance_time(&mut self, now_ms: u64) {
                $states::advance_time(self, now_ms);
            }
        }
    };
}
use tables_of_states;

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
            fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
                let mut count = hashes.len();
                $(count = self.$index.announce(hashes.clone().take(count));)*
                count
            }
            fn advance_time(&mut self, now_ms: u64) {
                $(self.$index.advance_time(now_ms);)*
            }
        }

        impl<Key_: Key, $($part: StateSpec<Key_>),*> StateSpec<Key_> for ($($part,)*) {
            type Tables = ($($part::Tables,)*);
            type View<'a> = ($($part::View<'a>,)*);

            fn count(&self) -> usize {
                0 $(+ self.$index.count())*
            }
            fn tables(&self, backend: &Backend, groups: KeyGroups, range: Range<KeyGroup>) -> Self::Tables {
                ($(self.$index.tables(backend, groups, range.clone()),)*)
            }
            #[inline(always)]
            fn view<'a>(tables: &'a mut Self::Tables, at: CurrentKey<'a, Key_>) -> Self::View<'a> {
                ($($part::view(&mut tables.$index, at),)*)
            }
        }
    };
}
spec_of_tuple!(A 0, B 1);
spec_of_tuple!(A 0, B 1, C 2);
spec_of_tuple!(A 0, B 1, C 2, D 3);

impl<T: StateTables> Tables for TablesOf<'_, T> {
    fn count(&self) -> usize {
        self.0.count()
    }
    fn table(&mut self, index: usize) -> &mut dyn StateTable {
        self.0.table(index).expect("the storage crate asks for tables below their count")
    }
}

/// Adapts an operator's [`StateTables`] to the storage crate.
pub struct TablesOf<'a, T>(pub &'a mut T);

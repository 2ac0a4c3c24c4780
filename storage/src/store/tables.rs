//! Typed tables as a program without an engine uses them: keys are hashed here, and a call that needs the disk waits.

use super::wake::Wake;
use crate::codec::{Data, Key};
use crate::error::StoreError;
use crate::key_group::{KeyGroup, KeyGroups};
use crate::log::LogOptions;
use crate::snapshot::Tables;
use crate::table::{Backend, KeyedTable, StateTable, TableStats};
use std::ops::Range;
use std::sync::Arc;

/// Keys that are hashed at once, and the most that are announced at once.
const BATCH_KEYS: usize = 1024;

/// Makes the tables of a store while it is being opened.
pub struct TableMaker {
    backend: Backend,
    key_groups: KeyGroups,
    groups: Range<KeyGroup>,
    wake: Arc<Wake>,
    made: usize,
}

impl TableMaker {
    pub(super) fn new(backend: Backend, key_groups: KeyGroups, wake: Arc<Wake>) -> Self {
        TableMaker { backend, key_groups, groups: 0..key_groups.count(), wake, made: 0 }
    }

    /// A table from `K` to `V`, found again in checkpoints by `name`, which is unique within the store.
    pub fn value<K: Key, V: Data>(&mut self, name: impl Into<String>) -> Table<K, V> {
        let mut backend = self.backend.clone();
        if let Backend::Log(LogOptions { scratch: Some(scratch), .. }) = &mut backend {
            scratch.as_mut_os_string().push(format!("-{}", self.made));
        }
        self.made += 1;
        Table {
            window: backend.window(),
            table: KeyedTable::new(&backend, name, self.key_groups, self.groups.clone()),
            key_groups: self.key_groups,
            hashes: Vec::new(),
            wake: Arc::clone(&self.wake),
        }
    }
}

/// The entries of one table of a [`super::Store`].
///
/// Changes live in memory: they survive a crash once a checkpoint that began later has completed. Calls for a whole batch
/// of keys are several times as quick as calls for one key, as the memory (or disk) accesses of a batch overlap.
///
/// # Panics
/// Calls for one key, and [`Table::for_each`], when the table is larger than its memory and the disk does not give back a page that
/// they need. Calls for a batch return that as an error.
pub struct Table<K: Key, V: Data> {
    table: KeyedTable<K, V>,
    /// See [`Backend::window`].
    window: usize,
    key_groups: KeyGroups,
    hashes: Vec<u64>,
    wake: Arc<Wake>,
}

impl<K: Key, V: Data> Table<K, V> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The value of `key`.
    pub fn get(&mut self, key: &K) -> Option<V> {
        self.table.get(key.group_hash(self.key_groups), key)
    }

    /// What `read` makes of the value of `key`, if there is one.
    pub fn read<R>(&mut self, key: &K, read: impl FnOnce(&V) -> R) -> Option<R> {
        self.table.read(key.group_hash(self.key_groups), key, read)
    }

    /// Stores `value` under `key`, replacing any earlier value.
    pub fn insert(&mut self, key: &K, value: V) {
        self.table.insert(key.group_hash(self.key_groups), key, value);
    }

    /// Changes the value of `key` by `change`; if it is absent, of the value that `make` returns.
    pub fn update<R>(&mut self, key: &K, make: impl FnOnce() -> V, change: impl FnOnce(&mut V) -> R) -> R {
        self.table.update(key.group_hash(self.key_groups), key, make, change)
    }

    /// Removes `key`; true if it was there.
    pub fn remove(&mut self, key: &K) -> bool {
        self.table.remove(key.group_hash(self.key_groups), key)
    }

    /// Calls `visit` for every entry, in no order.
    pub fn for_each(&mut self, visit: impl FnMut(&K, &V)) {
        self.table.for_each(visit);
    }

    /// [`Table::update`] for each of `keys`, in their order; `make` and `change` are also told the key's index.
    ///
    /// # Errors
    /// The table could not read a part of itself back from disk: keys up to some index are updated, and the table cannot
    /// go on. Reopen the store.
    pub fn update_batch(
        &mut self,
        keys: &[K],
        mut make: impl FnMut(usize) -> V,
        mut change: impl FnMut(usize, &mut V),
    ) -> Result<(), StoreError> {
        self.for_batch(keys, |table, hash, i| {
            table.update(hash, &keys[i], || make(i), |value| change(i, value));
        })
    }

    /// Calls `read` for each of `keys`, in their order, with its index and its value, if it has one.
    ///
    /// # Errors
    /// The table could not read a part of itself back from disk, and cannot go on. Reopen the store.
    pub fn read_batch(
        &mut self,
        keys: &[K],
        mut read: impl FnMut(usize, Option<&V>),
    ) -> Result<(), StoreError> {
        self.for_batch(keys, |table, hash, i| {
            if table.read(hash, &keys[i], |value| read(i, Some(value))).is_none() {
                read(i, None);
            }
        })
    }

    fn for_batch(
        &mut self,
        keys: &[K],
        mut each: impl FnMut(&mut KeyedTable<K, V>, u64, usize),
    ) -> Result<(), StoreError> {
        let mut start = 0;
        for batch in keys.chunks(BATCH_KEYS) {
            self.hashes.clear();
            self.hashes.extend(batch.iter().map(|key| key.group_hash(self.key_groups)));
            let mut used = 0;
            while used < self.hashes.len() {
                let announced = self.hashes[used..].iter().copied().take(self.window);
                let count = self.table.announce(announced);
                self.wait_until_ready()?;
                for i in used..used + count {
                    each(&mut self.table, self.hashes[i], start + i);
                }
                used += count;
            }
            start += batch.len();
            self.table.untyped().maintain(batch.len())?;
        }
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<(), StoreError> {
        loop {
            let seen = self.wake.seen();
            if self.table.untyped().ready()? {
                return Ok(());
            }
            self.wake.wait_beyond(seen);
        }
    }

    /// Counts and sizes.
    pub fn stats(&mut self) -> TableStats {
        self.table.untyped().stats()
    }

    /// The table below, whose calls take hashes: for callers that hash and announce by themselves.
    pub fn keyed(&mut self) -> &mut KeyedTable<K, V> {
        &mut self.table
    }

    #[doc(hidden)]
    pub fn untyped(&mut self) -> &mut dyn StateTable {
        self.table.untyped()
    }
}

/// A single table is a store's state by itself.
impl<K: Key, V: Data> Tables for Table<K, V> {
    fn count(&self) -> usize {
        1
    }

    fn table(&mut self, _: usize) -> &mut dyn StateTable {
        self.table.untyped()
    }
}

/// Makes a struct of [`Table`](crate::store::Table)s the state of a [`Store`](crate::store::Store): implements
/// [`Tables`](crate::snapshot::Tables) for it. Lists every field that is a table; a table that is left out is in no
/// checkpoint.
///
/// ```
/// use thalweg_storage::store::Table;
///
/// struct Visits {
///     by_user: Table<u64, u64>,
///     by_page: Table<String, u64>,
/// }
/// thalweg_storage::tables!(Visits { by_user, by_page });
/// ```
#[macro_export]
macro_rules! tables {
    ($type:ty { $($field:ident),+ $(,)? }) => {
        impl $crate::snapshot::Tables for $type {
            fn count(&self) -> usize {
                [$(stringify!($field)),+].len()
            }

            fn table(&mut self, index: usize) -> &mut dyn $crate::table::StateTable {
                let tables: &[fn(&mut Self) -> &mut dyn $crate::table::StateTable] =
                    &[$(|all| all.$field.untyped()),+];
                tables[index](self)
            }
        }
    };
}

//! A keyed table on the backend that the job's settings choose: one type for the state views above, one predictable branch
//! per call.

use super::state_table::StateTable;
use super::value_table::ValueTable;
use crate::codec::{Data, Key};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::log::{Follow, LogOptions, LogTable};
use std::ops::Range;

/// Keys that are announced to a hash table at once: as many as have their buckets in the nearest cache together.
const MEMORY_WINDOW: usize = 256;

/// The same for a log in memory, of which a key may need five lines: bucket, row, and what is known of an older row's page.
const LOG_WINDOW: usize = 32;

/// Which kind of table holds keyed state, with all that it needs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// Typed hash tables in memory.
    HashMap,
    /// Logs of pages, which may leave memory.
    Log(LogOptions),
}

impl Backend {
    /// True when tables of this kind may have to read from disk what a key needs.
    pub fn reads_disk(&self) -> bool {
        matches!(self, Backend::Log(options) if options.memory_bytes.is_some())
    }

    /// How many keys of a batch are best announced at once. All of them where pages may have to be read from disk: these are best
    /// fetched together.
    pub fn window(&self) -> usize {
        match self {
            Backend::HashMap => MEMORY_WINDOW,
            Backend::Log(_) if self.reads_disk() => usize::MAX,
            Backend::Log(_) => LOG_WINDOW,
        }
    }
}

/// The entries of one keyed state in one task's range of key groups.
///
/// All calls take the key's [`Data::group_hash`]: a batch is hashed and announced first, then used. Values are handed out
/// by value or to a closure, since a log-structured table holds encoded bytes.
///
/// # Panics
/// Any call with a hash whose key group lies outside of the table's range.
#[expect(clippy::large_enum_variant, reason = "a task has few tables, and each holds megabytes")]
pub enum KeyedTable<K: Key, V: Data> {
    /// See [`ValueTable`].
    HashMap(ValueTable<K, V>),
    /// See [`LogTable`].
    Log(LogTable<K, V>),
}

impl<K: Key, V: Data> KeyedTable<K, V> {
    /// An empty table of state `name` for the keys of the groups in `range`.
    pub fn new(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
    ) -> Self {
        match backend {
            Backend::HashMap => KeyedTable::HashMap(ValueTable::new(name, groups, range)),
            Backend::Log(options) => KeyedTable::Log(LogTable::new(name, groups, range, options.clone())),
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            KeyedTable::HashMap(table) => table.len(),
            KeyedTable::Log(table) => table.len(),
        }
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Announces that the keys with these hashes will be used next: starts loading what they need from memory or disk.
    /// Returns how many of them, from the first on, may be used once [`StateTable::ready`] says so; at least one.
    #[inline]
    pub fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        match self {
            KeyedTable::HashMap(table) => {
                let count = hashes.len();
                hashes.for_each(|hash| table.prefetch(hash));
                count
            }
            KeyedTable::Log(table) => table.announce(hashes),
        }
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&mut self, hash: u64, key: &K) -> Option<V> {
        match self {
            KeyedTable::HashMap(table) => table.get(hash, key).cloned(),
            KeyedTable::Log(table) => table.get(hash, key),
        }
    }

    /// What `read` makes of the value of `key`, if there is one.
    #[inline]
    pub fn read<R>(&mut self, hash: u64, key: &K, read: impl FnOnce(&V) -> R) -> Option<R> {
        match self {
            KeyedTable::HashMap(table) => table.get(hash, key).map(read),
            KeyedTable::Log(table) => table.read(hash, key, read),
        }
    }

    /// Stores `value` under `key`.
    ///
    /// As all changes, it survives a crash only once a checkpoint that begins later has completed.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &K, value: V) {
        match self {
            KeyedTable::HashMap(table) => drop(table.insert(hash, key, value)),
            KeyedTable::Log(table) => table.insert(hash, key, value),
        }
    }

    /// Changes the value of `key` by `change`; if it is absent, of the value that `make` returns.
    ///
    /// When `change` panics, a hash table keeps what it has done so far, and others the value before.
    #[inline]
    pub fn update<R>(
        &mut self,
        hash: u64,
        key: &K,
        make: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        match self {
            KeyedTable::HashMap(table) => table.update(hash, key, make, change),
            KeyedTable::Log(table) => table.update(hash, key, make, change),
        }
    }

    /// Removes `key`; true if it was there.
    pub fn remove(&mut self, hash: u64, key: &K) -> bool {
        match self {
            KeyedTable::HashMap(table) => table.remove(hash, key).is_some(),
            KeyedTable::Log(table) => table.remove(hash, key),
        }
    }

    /// Lets the table drop rows for which `expired` returns true of the time that [`KeyedTable::expire_until`] gave last:
    /// they are left out of full snapshots, and removed by [`StateTable::maintain`], which looks for them anew
    /// whenever that time has gone on by `step_ms`.
    pub fn set_expiry(&mut self, expired: fn(&V, u64) -> bool, step_ms: u64) {
        match self {
            KeyedTable::HashMap(table) => table.set_expiry(expired, step_ms),
            KeyedTable::Log(table) => table.set_expiry(expired, step_ms),
        }
    }

    /// What was last accessed at `time_ms` or before has expired. Costs nothing.
    #[inline]
    pub fn expire_until(&mut self, time_ms: u64) {
        match self {
            KeyedTable::HashMap(table) => table.expire_until(time_ms),
            KeyedTable::Log(table) => table.expire_until(time_ms),
        }
    }

    /// Rows of the table name others, of which `follow` tells the hashes: with such a row those are announced too, as far as memory
    /// allows; what does not fit is read when it is used. For tables whose rows may leave memory.
    pub(crate) fn set_follow(&mut self, follow: Follow) {
        if let KeyedTable::Log(table) = self {
            table.set_follow(follow);
        }
    }

    /// Calls `visit` for every entry, in no order. May wait for the disk.
    pub fn for_each(&mut self, visit: impl FnMut(&K, &V)) {
        match self {
            KeyedTable::HashMap(table) => table.for_each(visit),
            KeyedTable::Log(table) => table.for_each(visit),
        }
    }

    /// The untyped side.
    pub fn untyped(&mut self) -> &mut dyn StateTable {
        match self {
            KeyedTable::HashMap(table) => table,
            KeyedTable::Log(table) => table,
        }
    }
}

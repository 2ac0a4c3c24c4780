//! [`ValueStates`]: one value per key.

use super::ttl::{Kept, Ttl, WithTtl};
use crate::codec::{Data, Key};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::table::{Backend, KeyedTable, StateTable};
use std::cell::Cell;
use std::ops::Range;

/// The `ValueState` of every key.
///
/// ```
/// use thalweg_storage::{Data, KeyGroups, state::ValueStates, table::Backend};
///
/// let groups = KeyGroups::new(128);
/// let mut counts = ValueStates::<u64, u64>::new(&Backend::HashMap, "counts", groups, 0..128);
/// let hash = 7u64.group_hash(groups);
/// counts.update(0, hash, &7, || 0, |count| *count += 1);
/// assert_eq!(counts.get(0, hash, &7), Some(1));
/// ```
pub struct ValueStates<Q: Key, V: Data> {
    kept: Kept<KeyedTable<Q, V>, KeyedTable<Q, WithTtl<V>>>,
}

/// True when a value was last accessed at most at `until_ms`.
fn expired<V>(value: &WithTtl<V>, until_ms: u64) -> bool {
    value.last_access_ms <= until_ms
}

impl<Q: Key, V: Data> ValueStates<Q, V> {
    /// The empty state `name` of the keys of the groups in `range`.
    pub fn new(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
    ) -> Self {
        ValueStates { kept: Kept::forever(backend, name, groups, range) }
    }

    /// As [`ValueStates::new`], with values that expire.
    pub fn with_ttl(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        ttl: Ttl,
    ) -> Self {
        ValueStates { kept: Kept::for_time(backend, name, groups, range, ttl, expired) }
    }

    /// See [`KeyedTable::announce`].
    #[inline]
    pub fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        self.kept.announce(hashes)
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&mut self, now_ms: u64, hash: u64, key: &Q) -> Option<V> {
        self.read(now_ms, hash, key, V::clone)
    }

    /// What `read` makes of the value of `key`, if there is one.
    #[inline]
    pub fn read<R>(&mut self, now_ms: u64, hash: u64, key: &Q, read: impl FnOnce(&V) -> R) -> Option<R> {
        let (rows, clock) = match &mut self.kept {
            Kept::Forever(rows) => return rows.read(hash, key, read),
            Kept::ForTime(rows, clock) => (rows, clock),
        };
        let now = clock.tick(now_ms, rows);
        let (expired, result) = rows.read(hash, key, |value| {
            let expired = now.expired(value.last_access_ms);
            (expired, (!expired || now.returns_expired).then(|| read(&value.value)))
        })?;
        if expired {
            rows.remove(hash, key);
        } else if now.renews {
            let absent = || unreachable!("the value was read just now");
            rows.update(hash, key, absent, |value| value.last_access_ms = now.ms);
        }
        result
    }

    /// Sets the value of `key`.
    #[inline]
    pub fn set(&mut self, now_ms: u64, hash: u64, key: &Q, value: V) {
        match &mut self.kept {
            Kept::Forever(rows) => rows.insert(hash, key, value),
            Kept::ForTime(rows, clock) => {
                let now = clock.tick(now_ms, rows);
                rows.insert(hash, key, now.stamp(value));
            }
        }
    }

    /// Changes the value of `key` by `change`; if there is none, the value that `make` returns. See
    /// [`KeyedTable::update`] for panics of `change`.
    #[inline]
    pub fn update<R>(
        &mut self,
        now_ms: u64,
        hash: u64,
        key: &Q,
        make: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        let (rows, clock) = match &mut self.kept {
            Kept::Forever(rows) => return rows.update(hash, key, make, change),
            Kept::ForTime(rows, clock) => (rows, clock),
        };
        let now = clock.tick(now_ms, rows);
        // One of two places makes the value.
        let make = Cell::new(Some(make));
        let make = || make.take().map(|make| now.stamp(make()));
        rows.update(
            hash,
            key,
            || make().expect("made once"),
            |value| {
                if now.expired(value.last_access_ms)
                    && !now.returns_expired
                    && let Some(made) = make()
                {
                    *value = made;
                }
                value.last_access_ms = now.ms;
                change(&mut value.value)
            },
        )
    }

    /// Removes the value of `key`.
    #[inline]
    pub fn clear(&mut self, hash: u64, key: &Q) {
        match &mut self.kept {
            Kept::Forever(rows) => rows.remove(hash, key),
            Kept::ForTime(rows, _) => rows.remove(hash, key),
        };
    }

    /// Tells a state with time to live what time it is, before a full snapshot or upkeep; others ignore it.
    pub fn advance_time(&mut self, now_ms: u64) {
        self.kept.advance_time(now_ms);
    }

    /// The table, for snapshots, restores and upkeep.
    pub fn table(&mut self) -> &mut dyn StateTable {
        self.kept.table()
    }
}

//! [`MapStates`]: a map from user keys to user values per key, each entry with a time to live of its own where the
//! state has one.

use super::map_table::{MapRow, MapTable};
use super::ttl::{Kept, Ttl, WithTtl};
use crate::codec::{Data, Key};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::table::{Backend, StateTable};
use std::ops::Range;

/// Maps whose entries expire.
type Expiring<Q, U, V> = MapTable<Q, U, WithTtl<V>>;

/// The `MapState` of every key: from user keys `U` to user values `V`.
pub struct MapStates<Q: Key, U: Key, V: Data> {
    kept: Kept<MapTable<Q, U, V>, Expiring<Q, U, V>>,
}

/// True when all entries of a row, and of its chunks, were last accessed at most at `until_ms`.
fn expired<U: Key, V: Data>(row: &MapRow<U, WithTtl<V>>, until_ms: u64) -> bool {
    row.spread.is_none_or(|spread| spread.stamp_ms <= until_ms)
        && row.items().iter().all(|entry| entry.value.last_access_ms <= until_ms)
}

impl<Q: Key, U: Key, V: Data> MapStates<Q, U, V> {
    /// The empty state `name` of the keys of the groups in `range`.
    pub fn new(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
    ) -> Self {
        MapStates { kept: Kept::forever(backend, name, groups, range) }
    }

    /// As [`MapStates::new`], with entries that expire.
    pub fn with_ttl(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        ttl: Ttl,
    ) -> Self {
        MapStates { kept: Kept::for_time(backend, name, groups, range, ttl, expired) }
    }

    /// See [`KeyedTable::announce`](crate::table::KeyedTable::announce): for the keys' small maps, the heads of others, and
    /// the chunks of those that have at most sixteen.
    #[inline]
    pub fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        self.kept.announce(hashes)
    }

    /// The value of `user_key` in the map of `key`.
    #[inline]
    pub fn get(&mut self, now_ms: u64, hash: u64, key: &Q, user_key: &U) -> Option<V> {
        self.read(now_ms, hash, key, user_key, V::clone)
    }

    /// What `read` makes of the value of `user_key` in the map of `key`, if there is one.
    pub fn read<R>(
        &mut self,
        now_ms: u64,
        hash: u64,
        key: &Q,
        user_key: &U,
        read: impl FnOnce(&V) -> R,
    ) -> Option<R> {
        let (maps, clock) = match &mut self.kept {
            Kept::Forever(maps) => return maps.get(hash, key, user_key, read),
            Kept::ForTime(maps, clock) => (maps, clock),
        };
        let now = clock.tick(now_ms, &mut maps.rows);
        let (expired, result) = maps.get(hash, key, user_key, |value| {
            let expired = now.expired(value.last_access_ms);
            (expired, (!expired || now.returns_expired).then(|| read(&value.value)))
        })?;
        if expired {
            maps.remove(hash, key, user_key);
        } else if now.renews {
            maps.modify(hash, key, user_key, |value| value.last_access_ms = now.ms, now.ms);
        }
        result
    }

    /// True when the map of `key` has `user_key`.
    pub fn contains(&mut self, now_ms: u64, hash: u64, key: &Q, user_key: &U) -> bool {
        self.read(now_ms, hash, key, user_key, |_| ()).is_some()
    }

    /// Stores `value` under `user_key` in the map of `key`.
    pub fn put(&mut self, now_ms: u64, hash: u64, key: &Q, user_key: &U, value: V) {
        match &mut self.kept {
            Kept::Forever(maps) => maps.put(hash, key, user_key, value, |_| false, 0),
            Kept::ForTime(maps, clock) => {
                let now = clock.tick(now_ms, &mut maps.rows);
                // What a read might still return stays until then.
                let gone = |value: &WithTtl<V>| !now.returns_expired && now.expired(value.last_access_ms);
                maps.put(hash, key, user_key, now.stamp(value), gone, now.ms);
            }
        }
    }

    /// Removes `user_key` from the map of `key`; true if it was there, expired or not.
    pub fn remove(&mut self, hash: u64, key: &Q, user_key: &U) -> bool {
        match &mut self.kept {
            Kept::Forever(maps) => maps.remove(hash, key, user_key),
            Kept::ForTime(maps, _) => maps.remove(hash, key, user_key),
        }
    }

    /// Calls `keep` for each entry of the map of `key`, in no order, and removes those for which it returns false.
    pub fn retain(&mut self, now_ms: u64, hash: u64, key: &Q, mut keep: impl FnMut(&U, &V) -> bool) {
        match &mut self.kept {
            Kept::Forever(maps) => maps.retain(hash, key, keep, None),
            Kept::ForTime(maps, clock) => {
                let now = clock.tick(now_ms, &mut maps.rows);
                let keep = |user_key: &U, value: &WithTtl<V>| {
                    let expired = now.expired(value.last_access_ms);
                    if expired && now.returns_expired {
                        keep(user_key, &value.value);
                    }
                    !expired && keep(user_key, &value.value)
                };
                let renew = |value: &mut WithTtl<V>| value.last_access_ms = now.ms;
                maps.retain(hash, key, keep, now.renews.then_some((now.ms, &renew)));
            }
        }
    }

    /// Calls `visit` for each entry of the map of `key`, in no order.
    pub fn for_each(&mut self, now_ms: u64, hash: u64, key: &Q, mut visit: impl FnMut(&U, &V)) {
        match &mut self.kept {
            Kept::Forever(maps) => {
                _ = maps.visit(hash, key, |user_key, value| {
                    visit(user_key, value);
                    true
                })
            }
            Kept::ForTime(..) => self.retain(now_ms, hash, key, |user_key, value| {
                visit(user_key, value);
                true
            }),
        }
    }

    /// The user keys of the map of `key`, in no order.
    pub fn keys(&mut self, now_ms: u64, hash: u64, key: &Q) -> Vec<U> {
        let mut keys = Vec::new();
        self.for_each(now_ms, hash, key, |user_key, _| keys.push(user_key.clone()));
        keys
    }

    /// The entries of the map of `key`, in no order.
    pub fn entries(&mut self, now_ms: u64, hash: u64, key: &Q) -> Vec<(U, V)> {
        let mut entries = Vec::new();
        self.for_each(now_ms, hash, key, |user_key, value| entries.push((user_key.clone(), value.clone())));
        entries
    }

    /// Number of entries of the map of `key`. With time to live it takes a look at each, without renewing it.
    pub fn len(&mut self, now_ms: u64, hash: u64, key: &Q) -> u64 {
        match &mut self.kept {
            Kept::Forever(maps) => maps.len(hash, key),
            Kept::ForTime(maps, clock) => {
                let now = clock.tick(now_ms, &mut maps.rows);
                let mut count = 0;
                let mut keep = |_: &U, value: &WithTtl<V>| {
                    let keep = now.returns_expired || !now.expired(value.last_access_ms);
                    count += u64::from(keep);
                    keep
                };
                maps.retain(hash, key, &mut keep, None);
                count
            }
        }
    }

    /// True when `key` has no map, which is the same as an empty one.
    pub fn is_empty(&mut self, now_ms: u64, hash: u64, key: &Q) -> bool {
        self.len(now_ms, hash, key) == 0
    }

    /// Removes the map of `key`.
    pub fn clear(&mut self, hash: u64, key: &Q) {
        match &mut self.kept {
            Kept::Forever(maps) => maps.clear(hash, key),
            Kept::ForTime(maps, _) => maps.clear(hash, key),
        }
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

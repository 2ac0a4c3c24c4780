//! [`ListStates`]: a list of elements per key, each with a time to live of its own where the state has one.

use super::list_table::{ListRow, ListTable};
use super::ttl::{Kept, Ttl, WithTtl};
use crate::codec::{Data, Key};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::table::{Backend, StateTable};
use std::ops::Range;

/// The `ListState` of every key.
pub struct ListStates<Q: Key, E: Data> {
    kept: Kept<ListTable<Q, E>, ListTable<Q, WithTtl<E>>>,
}

/// True when all elements of a row, and of its chunks, were last accessed at most at `until_ms`.
fn expired<E: Data>(row: &ListRow<WithTtl<E>>, until_ms: u64) -> bool {
    row.spread.is_none_or(|spread| spread.stamp_ms <= until_ms)
        && row.items().iter().all(|element| element.last_access_ms <= until_ms)
}

impl<Q: Key, E: Data> ListStates<Q, E> {
    /// The empty state `name` of the keys of the groups in `range`.
    pub fn new(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
    ) -> Self {
        ListStates { kept: Kept::forever(backend, name, groups, range) }
    }

    /// As [`ListStates::new`], with elements that expire.
    pub fn with_ttl(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        ttl: Ttl,
    ) -> Self {
        ListStates { kept: Kept::for_time(backend, name, groups, range, ttl, expired) }
    }

    /// See [`KeyedTable::announce`](crate::table::KeyedTable::announce): for the keys' small lists, the heads of others, and
    /// sixteen chunks of each, the last among them.
    #[inline]
    pub fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        self.kept.announce(hashes)
    }

    /// Appends `element` to the list of `key`.
    #[inline]
    pub fn add(&mut self, now_ms: u64, hash: u64, key: &Q, element: E) {
        self.add_all(now_ms, hash, key, std::iter::once(element));
    }

    /// Appends `elements` to the list of `key`, in their order.
    pub fn add_all(&mut self, now_ms: u64, hash: u64, key: &Q, elements: impl IntoIterator<Item = E>) {
        match &mut self.kept {
            Kept::Forever(lists) => lists.extend(hash, key, elements, 0),
            Kept::ForTime(lists, clock) => {
                let now = clock.tick(now_ms, &mut lists.rows);
                lists.extend(hash, key, elements.into_iter().map(|element| now.stamp(element)), now.ms);
            }
        }
    }

    /// Makes `elements` the list of `key`.
    pub fn update(&mut self, now_ms: u64, hash: u64, key: &Q, elements: impl IntoIterator<Item = E>) {
        match &mut self.kept {
            Kept::Forever(lists) => lists.replace(hash, key, elements, 0),
            Kept::ForTime(lists, clock) => {
                let now = clock.tick(now_ms, &mut lists.rows);
                lists.replace(hash, key, elements.into_iter().map(|element| now.stamp(element)), now.ms);
            }
        }
    }

    /// Calls `visit` for each element of the list of `key`, in order.
    pub fn for_each(&mut self, now_ms: u64, hash: u64, key: &Q, mut visit: impl FnMut(&E)) {
        match &mut self.kept {
            Kept::Forever(lists) => lists.for_each(hash, key, visit),
            Kept::ForTime(lists, clock) => {
                let now = clock.tick(now_ms, &mut lists.rows);
                let keep = |element: &WithTtl<E>| {
                    let expired = now.expired(element.last_access_ms);
                    if !expired || now.returns_expired {
                        visit(&element.value);
                    }
                    !expired
                };
                let renew = |element: &mut WithTtl<E>| element.last_access_ms = now.ms;
                lists.retain(hash, key, keep, now.renews.then_some((now.ms, &renew)));
            }
        }
    }

    /// The elements of the list of `key`, in order; none without a list.
    pub fn get(&mut self, now_ms: u64, hash: u64, key: &Q) -> Vec<E> {
        let mut elements = Vec::new();
        self.for_each(now_ms, hash, key, |element| elements.push(element.clone()));
        elements
    }

    /// True when `key` has no list, which is the same as an empty one.
    pub fn is_empty(&mut self, now_ms: u64, hash: u64, key: &Q) -> bool {
        match &mut self.kept {
            Kept::Forever(lists) => lists.is_empty(hash, key),
            Kept::ForTime(lists, clock) => {
                let now = clock.tick(now_ms, &mut lists.rows);
                if now.returns_expired {
                    return lists.is_empty(hash, key);
                }
                !lists.retain(hash, key, |element| !now.expired(element.last_access_ms), None)
            }
        }
    }

    /// Removes the list of `key`.
    pub fn clear(&mut self, hash: u64, key: &Q) {
        match &mut self.kept {
            Kept::Forever(lists) => lists.clear(hash, key),
            Kept::ForTime(lists, _) => lists.clear(hash, key),
        }
    }

    /// Moves the elements of the lists of `sources`, hashes and keys, to the end of the list of `target`, in their
    /// order. A source that is the target stays as it is.
    pub fn merge<'a>(
        &mut self,
        now_ms: u64,
        target: (u64, &Q),
        sources: impl IntoIterator<Item = (u64, &'a Q)>,
    ) {
        for (hash, key) in sources.into_iter().filter(|(_, key)| *key != target.1) {
            match &mut self.kept {
                Kept::Forever(lists) => lists.append(target, (hash, key), 0),
                Kept::ForTime(lists, clock) => {
                    let now = clock.tick(now_ms, &mut lists.rows);
                    lists.append(target, (hash, key), now.ms);
                }
            }
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

//! Lists in rows of a table: small ones as one row, others as a head row and chunks in the order of their elements.
//!
//! Always true:
//! - chunks `first..=last` of the head hold the elements in order, none of them in the head itself;
//! - a chunk that is missing has no elements: with a time to live, a table may drop rows whose elements have all expired;
//! - what lies in chunks that no head counts is never read: a chunk is written anew when it is opened.

use super::row::{FOLLOWED_MAX, Row, Touch, spread_of};
use super::scoped::Scoped;
use super::ttl::HasRows;
use crate::codec::{Data, Key};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::table::{Backend, KeyedTable};
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What the head of a list in chunks knows of them.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ListSpread {
    /// The first chunk.
    first: u32,
    /// The last chunk.
    last: u32,
    /// When an element was written last, in lists with a time to live.
    pub stamp_ms: u64,
}
crate::pod!(ListSpread { first: u32, last: u32, stamp_ms: u64 });

/// A row of a list.
pub(super) type ListRow<E> = Row<ListSpread, E>;

/// The lists of all keys.
pub(super) struct ListTable<Q: Key, E: Data> {
    pub rows: KeyedTable<Scoped<Q, u32>, ListRow<E>>,
    groups: KeyGroups,
}

/// The chunks that whoever uses a list will most likely want: the last, to which it appends, and those from the first on.
fn follow<Q: Key>(hash: u64, groups: KeyGroups, head: &[u8], further: &mut Vec<u64>) {
    if let Some(ListSpread { first, last, .. }) = spread_of(head) {
        let chunks = std::iter::once(last).chain(first..last).take(FOLLOWED_MAX);
        further.extend(chunks.map(|chunk| Scoped::<Q, u32>::hash_within(hash, &chunk, groups)));
    }
}

/// The row of `chunk` of the list of `key`.
fn row_key<Q: Key>(key: &Q, chunk: u32) -> Scoped<Q, u32> {
    Scoped::new(key.clone(), chunk)
}

impl<Q: Key, E: Data> HasRows for ListTable<Q, E> {
    type Key = Scoped<Q, u32>;
    type Row = ListRow<E>;

    fn create(backend: &Backend, name: String, groups: KeyGroups, range: Range<KeyGroup>) -> Self {
        Self::new(backend, name, groups, range)
    }

    #[inline(always)]
    fn rows(&mut self) -> &mut KeyedTable<Scoped<Q, u32>, ListRow<E>> {
        &mut self.rows
    }
}

impl<Q: Key, E: Data> ListTable<Q, E> {
    pub fn new(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
    ) -> Self {
        let mut rows = KeyedTable::new(backend, name, groups, range);
        rows.set_follow(follow::<Q>);
        ListTable { rows, groups }
    }

    fn hash_of(&self, hash: u64, chunk: u32) -> u64 {
        Scoped::<Q, u32>::hash_within(hash, &chunk, self.groups)
    }

    /// Appends `elements`; `stamp_ms` is when.
    pub fn extend(&mut self, hash: u64, key: &Q, elements: impl IntoIterator<Item = E>, stamp_ms: u64) {
        let mut elements = elements.into_iter();
        let Some(next) = elements.next() else { return };
        let head = row_key(key, 0);
        // The head row takes elements while the list is small, else says which chunk is the last.
        enum After<E> {
            Done,
            Outgrown(ListRow<E>, E),
            Chunk(u32, E),
        }
        let after = self.rows.update(hash, &head, ListRow::default, |row| {
            if let Some(spread) = &mut row.spread {
                spread.stamp_ms = spread.stamp_ms.max(stamp_ms);
                return After::Chunk(spread.last, next);
            }
            let Some(next) = fill(row, next, &mut elements) else { return After::Done };
            let spread = ListSpread { first: 1, last: 1, stamp_ms };
            After::Outgrown(std::mem::replace(row, ListRow::head(spread)), next)
        });
        let (before, mut next) = match after {
            After::Done => return,
            After::Outgrown(row, next) => {
                self.rows.insert(self.hash_of(hash, 1), &row_key(key, 1), row);
                (1, Some(next))
            }
            After::Chunk(last, next) => {
                let (hash, row) = (self.hash_of(hash, last), row_key(key, last));
                (last, self.rows.update(hash, &row, ListRow::default, |row| fill(row, next, &mut elements)))
            }
        };
        let mut last = before;
        while let Some(element) = next {
            let mut row = ListRow::default();
            next = fill(&mut row, element, &mut elements);
            last += 1;
            self.rows.insert(self.hash_of(hash, last), &row_key(key, last), row);
        }
        if last != before {
            self.change_spread(hash, &head, |spread| spread.last = last);
        }
    }

    fn change_spread(&mut self, hash: u64, head: &Scoped<Q, u32>, change: impl FnOnce(&mut ListSpread)) {
        self.rows.update(hash, head, ListRow::default, |row| row.spread.as_mut().map(change));
    }

    /// The chunks of a list; none when there is no list, or it is a single row.
    fn chunks(&mut self, hash: u64, key: &Q) -> Range<u32> {
        let spread = self.rows.read(hash, &row_key(key, 0), |row| row.spread);
        spread.flatten().map_or(0..0, |spread| spread.first..spread.last + 1)
    }

    /// True when there is no list.
    pub fn is_empty(&mut self, hash: u64, key: &Q) -> bool {
        self.rows.read(hash, &row_key(key, 0), |_| ()).is_none()
    }

    /// Calls `visit` for each element in order.
    pub fn for_each(&mut self, hash: u64, key: &Q, mut visit: impl FnMut(&E)) {
        let spread = self.rows.read(hash, &row_key(key, 0), |row| {
            row.items().iter().for_each(&mut visit);
            row.spread
        });
        let Some(Some(spread)) = spread else { return };
        for chunk in spread.first..=spread.last {
            let hash = self.hash_of(hash, chunk);
            self.rows.read(hash, &row_key(key, chunk), |row| row.items().iter().for_each(&mut visit));
        }
    }

    /// Calls `keep` for each element in order, once, and removes those for which it returns false. With `touch`, those
    /// that stay are changed by it, which does not change their length, and the list was written at that time. True when
    /// any stays.
    pub fn retain(
        &mut self,
        hash: u64,
        key: &Q,
        mut keep: impl FnMut(&E) -> bool,
        touch: Option<Touch<'_, E>>,
    ) -> bool {
        let head = row_key(key, 0);
        let Some(spread) = self.rows.read(hash, &head, |row| row.spread) else { return false };
        let Some(spread) = spread else { return self.retain_row(hash, &head, &mut keep, touch) };
        let mut kept = None;
        for chunk in spread.first..=spread.last {
            if self.retain_row(self.hash_of(hash, chunk), &row_key(key, chunk), &mut keep, touch) {
                kept = Some((kept.map_or(chunk, |(first, _)| first), chunk));
            }
        }
        let Some((first, last)) = kept else {
            self.rows.remove(hash, &head);
            return false;
        };
        if first != spread.first || last != spread.last || touch.is_some() {
            self.change_spread(hash, &head, |spread| {
                (spread.first, spread.last) = (first, last);
                spread.stamp_ms = spread.stamp_ms.max(touch.map_or(0, |(stamp_ms, _)| stamp_ms));
            });
        }
        true
    }

    /// [`ListTable::retain`] for one row, which disappears with its last element. True when any stays.
    fn retain_row(
        &mut self,
        hash: u64,
        key: &Scoped<Q, u32>,
        keep: &mut impl FnMut(&E) -> bool,
        touch: Option<Touch<'_, E>>,
    ) -> bool {
        let verdicts = self.rows.read(hash, key, |row| row.items().iter().map(&mut *keep).collect());
        let verdicts: Vec<bool> = verdicts.unwrap_or_default();
        if !verdicts.contains(&true) {
            self.rows.remove(hash, key);
            return false;
        }
        if verdicts.contains(&false) || touch.is_some() {
            let mut verdicts = verdicts.into_iter();
            self.rows.update(hash, key, ListRow::default, |row| {
                row.retain_mut(|element| {
                    if let Some((_, touch)) = touch {
                        touch(element);
                    }
                    verdicts.next().unwrap_or(true)
                });
            });
        }
        true
    }

    /// Makes `elements` the list; `stamp_ms` is when. Rows that stay are written once, without being removed first.
    pub fn replace(&mut self, hash: u64, key: &Q, elements: impl IntoIterator<Item = E>, stamp_ms: u64) {
        let before = self.chunks(hash, key);
        let mut elements = elements.into_iter();
        let (mut row, mut next) = (ListRow::default(), elements.next());
        if let Some(first) = next {
            next = fill(&mut row, first, &mut elements);
        }
        let mut last = 0;
        while let Some(element) = next {
            last += 1;
            self.rows.insert(self.hash_of(hash, last), &row_key(key, last), std::mem::take(&mut row));
            next = fill(&mut row, element, &mut elements);
        }
        if last > 0 {
            last += 1;
            self.rows.insert(self.hash_of(hash, last), &row_key(key, last), row);
            row = ListRow::head(ListSpread { first: 1, last, stamp_ms });
        }
        for chunk in before.filter(|chunk| *chunk > last) {
            self.rows.remove(self.hash_of(hash, chunk), &row_key(key, chunk));
        }
        if row.spread.is_none() && row.items().is_empty() {
            self.rows.remove(hash, &row_key(key, 0));
        } else {
            self.rows.insert(hash, &row_key(key, 0), row);
        }
    }

    /// Moves the elements of `source` to the end of `target`, another list, in order; the target was written at `stamp_ms`.
    pub fn append(&mut self, target: (u64, &Q), source: (u64, &Q), stamp_ms: u64) {
        let mut elements = Vec::new();
        self.for_each(source.0, source.1, |element| elements.push(element.clone()));
        self.clear(source.0, source.1);
        self.extend(target.0, target.1, elements, stamp_ms);
    }

    /// Removes the list.
    pub fn clear(&mut self, hash: u64, key: &Q) {
        for chunk in self.chunks(hash, key) {
            self.rows.remove(self.hash_of(hash, chunk), &row_key(key, chunk));
        }
        self.rows.remove(hash, &row_key(key, 0));
    }
}

/// Adds `next` and more of `elements` to a row as long as it has room; the element that found none.
fn fill<E: Data>(row: &mut ListRow<E>, mut next: E, elements: &mut impl Iterator<Item = E>) -> Option<E> {
    loop {
        if let Some(refused) = row.try_push(next) {
            return Some(refused);
        }
        next = elements.next()?;
    }
}

//! Maps in rows of a table: small ones as one row, others as a head row and chunks, over which linear hashing (Litwin,
//! 1980) spreads the entries: one chunk splits or two merge at a time, in the order of their numbers.
//!
//! Always true:
//! - an entry of a map in `n` chunks lies in the chunk that [`place`] names for its user key's hash, at most once;
//! - `n` is at most the number of entries, and the entries of a chunk have 256 to 768 bytes on average, but a map
//!   moves at most [`STEPS`] chunks for one entry;
//! - a chunk that is missing has no entries. With a time to live a table may drop rows whose entries have all expired; the
//!   head then counts more than there are, until the next look at the whole map;
//! - what lies in chunks that no head counts is never read: a chunk is written anew when it is opened.

use super::row::{CHUNK_BYTES, FOLLOWED_MAX, Row, Touch, fields_of, spread_of};
use super::scoped::Scoped;
use super::ttl::HasRows;
use crate::codec::{Data, DecodeError, Field, Key, Reader, Schema};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::table::{Backend, KeyedTable};
use std::ops::Range;
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Chunks have at most this many bytes on average, else one splits.
const FULL_BYTES: u64 = CHUNK_BYTES as u64 * 3 / 4;

/// Chunks have at least this many bytes on average, else two merge.
const SPARSE_BYTES: u64 = CHUNK_BYTES as u64 / 4;

/// A map in chunks of at most so many bytes becomes a single row again.
const SINGLE_BYTES: u64 = CHUNK_BYTES as u64 / 2;

/// Most chunks that split or merge for one changed entry.
const STEPS: u32 = 4;

/// What the head of a map in chunks knows of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct MapSpread {
    /// Number of chunks.
    chunks: u32,
    /// Zero.
    spare: u32,
    /// Number of entries.
    entries: u64,
    /// Encoded bytes of the entries.
    bytes: u64,
    /// When an entry was written last, in maps with a time to live.
    pub stamp_ms: u64,
}
crate::pod!(MapSpread { chunks: u32, spare: u32, entries: u64, bytes: u64, stamp_ms: u64 });

/// An entry of a map.
#[derive(Clone, Debug)]
pub(super) struct Entry<U, V> {
    pub user_key: U,
    pub value: V,
}

/// A row of a map.
pub(super) type MapRow<U, V> = Row<MapSpread, Entry<U, V>>;

/// The maps of all keys.
pub(super) struct MapTable<Q: Key, U: Key, V: Data> {
    pub rows: KeyedTable<Scoped<Q, u32>, MapRow<U, V>>,
    groups: KeyGroups,
}

impl<U: Key, V: Data> Data for Entry<U, V> {
    const FIXED_BYTES: Option<usize> = match (U::FIXED_BYTES, V::FIXED_BYTES) {
        (Some(user_key), Some(value)) => Some(user_key + value),
        _ => None,
    };

    fn schema() -> Schema {
        let field = |name: &str, schema| Field { name: name.to_owned(), schema };
        Schema::Struct {
            name: "Entry".to_owned(),
            version: 1,
            fields: vec![field("user_key", U::schema()), field("value", V::schema())],
        }
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        self.user_key.encode(out);
        self.value.encode(out);
    }

    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Entry { user_key: U::decode(input)?, value: V::decode(input)? })
    }

    /// Values migrate, user keys do not: their bytes decide the chunk.
    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        if *stored == Self::schema() {
            return Some(Reader::Own);
        }
        let [user_key, value] = fields_of(stored, &Self::schema())?;
        let value = (*user_key == U::schema()).then(|| V::reader(value))??;
        Some(Reader::migrating(move |input| {
            Ok(Entry { user_key: U::decode(input)?, value: value.read(input)? })
        }))
    }
}

/// The row of `chunk` of the map of `key`.
fn row_key<Q: Key>(key: &Q, chunk: u32) -> Scoped<Q, u32> {
    Scoped::new(key.clone(), chunk)
}

/// The chunk, from 1 on, of a user key with this hash in a map of `chunks` chunks.
fn place(hash: u64, chunks: u32) -> u32 {
    let rounded = chunks.next_power_of_two();
    let slot = hash as u32 & (rounded - 1);
    1 + if slot < chunks { slot } else { slot & (rounded / 2 - 1) }
}

/// The chunk whose entries chunk `number`, the last one, shares by a split, or gets by a merge.
fn buddy(number: u32) -> u32 {
    let slot = number - 1;
    1 + (slot & !(1 << slot.ilog2()))
}

/// The row that holds an entry.
struct Place<Q> {
    hash: u64,
    row: Scoped<Q, u32>,
    /// Its index in the row.
    index: usize,
    /// Number of entries of the row.
    of: usize,
}

impl<Q> Place<Q> {
    /// True in a map of chunks.
    fn in_chunk(&self) -> bool {
        self.row.scope > 0
    }
}

/// All chunks of a map of few. Of many, each use but an iteration wants one or two, and nobody knows which.
fn follow<Q: Key>(hash: u64, groups: KeyGroups, head: &[u8], further: &mut Vec<u64>) {
    if let Some(MapSpread { chunks, .. }) = spread_of(head)
        && chunks as usize <= FOLLOWED_MAX
    {
        further.extend((1..=chunks).map(|chunk| Scoped::<Q, u32>::hash_within(hash, &chunk, groups)));
    }
}

fn find<U: Key, V: Data>(row: &MapRow<U, V>, user_key: &U) -> Option<usize> {
    row.items().iter().position(|entry| entry.user_key == *user_key)
}

impl<Q: Key, U: Key, V: Data> HasRows for MapTable<Q, U, V> {
    type Key = Scoped<Q, u32>;
    type Row = MapRow<U, V>;

    fn create(backend: &Backend, name: String, groups: KeyGroups, range: Range<KeyGroup>) -> Self {
        Self::new(backend, name, groups, range)
    }

    #[inline(always)]
    fn rows(&mut self) -> &mut KeyedTable<Scoped<Q, u32>, MapRow<U, V>> {
        &mut self.rows
    }
}

impl<Q: Key, U: Key, V: Data> MapTable<Q, U, V> {
    pub fn new(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
    ) -> Self {
        let mut rows = KeyedTable::new(backend, name, groups, range);
        rows.set_follow(follow::<Q>);
        MapTable { rows, groups }
    }

    fn hash_of(&self, hash: u64, chunk: u32) -> u64 {
        Scoped::<Q, u32>::hash_within(hash, &chunk, self.groups)
    }

    fn spread(&mut self, hash: u64, key: &Q) -> Option<MapSpread> {
        self.rows.read(hash, &row_key(key, 0), |row| row.spread).flatten()
    }

    /// What `read` makes of the value of `user_key`, if there is one.
    pub fn get<R>(&mut self, hash: u64, key: &Q, user_key: &U, read: impl FnOnce(&V) -> R) -> Option<R> {
        let mut read = Some(read);
        let mut look = |row: &MapRow<U, V>| {
            let entry = &row.items()[find(row, user_key)?];
            read.take().map(|read| read(&entry.value))
        };
        let found = self.rows.read(hash, &row_key(key, 0), |row| match &row.spread {
            None => Ok(look(row)),
            Some(spread) => Err(place(user_key.key_hash(), spread.chunks)),
        })?;
        match found {
            Ok(single) => single,
            Err(chunk) => self.rows.read(self.hash_of(hash, chunk), &row_key(key, chunk), look).flatten(),
        }
    }

    /// Where the entry of `user_key` is, if there is one.
    fn place_of(&mut self, hash: u64, key: &Q, user_key: &U) -> Option<Place<Q>> {
        let look = |row: &MapRow<U, V>| find(row, user_key).map(|index| (index, row.items().len()));
        let head = row_key(key, 0);
        let found = self.rows.read(hash, &head, |row| match &row.spread {
            None => Ok(look(row)),
            Some(spread) => Err(place(user_key.key_hash(), spread.chunks)),
        })?;
        match found {
            Ok(single) => single.map(|(index, of)| Place { hash, row: head, index, of }),
            Err(chunk) => {
                let (hash, row) = (self.hash_of(hash, chunk), row_key(key, chunk));
                let (index, of) = self.rows.read(hash, &row, look)??;
                Some(Place { hash, row, index, of })
            }
        }
    }

    /// Stores `value` under `user_key`, and drops those entries of the same row that `gone` names. `stamp_ms` is when.
    pub fn put(
        &mut self,
        hash: u64,
        key: &Q,
        user_key: &U,
        value: V,
        gone: impl Fn(&V) -> bool,
        stamp_ms: u64,
    ) {
        let user_hash = user_key.key_hash();
        let store = |row: &mut MapRow<U, V>, value: V| {
            if row.items().iter().any(|entry| gone(&entry.value)) {
                row.retain_mut(|entry| entry.user_key == *user_key || !gone(&entry.value));
            }
            match find(row, user_key) {
                Some(i) => row.change(i, |entry| entry.value = value),
                None => row.push(Entry { user_key: user_key.clone(), value }),
            }
        };
        enum After<R, V> {
            Done,
            Outgrown(R, MapSpread),
            Chunk(u32, V),
        }
        let after = self.rows.update(hash, &row_key(key, 0), MapRow::default, |row| {
            if let Some(spread) = &row.spread {
                return After::Chunk(place(user_hash, spread.chunks), value);
            }
            store(row, value);
            if row.bytes() <= CHUNK_BYTES || row.items().len() == 1 {
                return After::Done;
            }
            let (entries, bytes) = (row.items().len() as u64, row.bytes() as u64);
            let chunks = bytes.div_ceil(FULL_BYTES).min(entries) as u32;
            let spread = MapSpread { chunks, spare: 0, entries, bytes, stamp_ms };
            After::Outgrown(std::mem::replace(row, MapRow::head(spread)), spread)
        });
        match after {
            After::Done => {}
            After::Outgrown(row, spread) => {
                let chunks: Vec<u32> = (1..=spread.chunks).collect();
                self.distribute(hash, key, row.into_items(), &chunks, spread.chunks);
            }
            After::Chunk(chunk, value) => {
                let (row_hash, row) = (self.hash_of(hash, chunk), row_key(key, chunk));
                let change = self.rows.update(row_hash, &row, MapRow::default, |row| {
                    let before = Count::of(row);
                    store(row, value);
                    Count::of(row).since(before)
                });
                self.counted(hash, key, change, stamp_ms);
            }
        }
    }

    /// Changes the value of `user_key` by `change`, if there is one; `stamp_ms` is when.
    pub fn modify<R>(
        &mut self,
        hash: u64,
        key: &Q,
        user_key: &U,
        change: impl FnOnce(&mut V) -> R,
        stamp_ms: u64,
    ) -> Option<R> {
        let place = self.place_of(hash, key, user_key)?;
        let (result, counted) = self.rows.update(place.hash, &place.row, MapRow::default, |row| {
            let before = Count::of(row);
            let result = row.change(place.index, |entry| change(&mut entry.value));
            (result, Count::of(row).since(before))
        });
        if place.in_chunk() {
            self.counted(hash, key, counted, stamp_ms);
        }
        Some(result)
    }

    /// Removes the entry of `user_key`; true if there was one.
    pub fn remove(&mut self, hash: u64, key: &Q, user_key: &U) -> bool {
        let Some(place) = self.place_of(hash, key, user_key) else { return false };
        let counted = if place.of == 1 {
            let count = self.rows.read(place.hash, &place.row, Count::of).unwrap_or_default();
            self.rows.remove(place.hash, &place.row);
            Count::default().since(count)
        } else {
            self.rows.update(place.hash, &place.row, MapRow::default, |row| {
                let before = Count::of(row);
                row.swap_remove(place.index);
                Count::of(row).since(before)
            })
        };
        if place.in_chunk() {
            self.counted(hash, key, counted, 0);
        }
        true
    }

    /// Number of entries; with a time to live it may count expired ones.
    pub fn len(&mut self, hash: u64, key: &Q) -> u64 {
        let count = |row: &MapRow<U, V>| row.spread.map_or(row.items().len() as u64, |spread| spread.entries);
        self.rows.read(hash, &row_key(key, 0), count).unwrap_or(0)
    }

    /// Calls `visit` for each entry, in no order, until it returns false. False if it did.
    pub fn visit(&mut self, hash: u64, key: &Q, mut visit: impl FnMut(&U, &V) -> bool) -> bool {
        let mut visit_row =
            |row: &MapRow<U, V>| row.items().iter().all(|entry| visit(&entry.user_key, &entry.value));
        let head = self.rows.read(hash, &row_key(key, 0), |row| (visit_row(row), row.spread));
        let Some((more, spread)) = head else { return true };
        let chunks = spread.map_or(0, |spread| spread.chunks);
        more && (1..=chunks).all(|chunk| {
            let hash = self.hash_of(hash, chunk);
            self.rows.read(hash, &row_key(key, chunk), &mut visit_row).unwrap_or(true)
        })
    }

    /// Calls `keep` for each entry, once and in no order, and removes those for which it returns false. With `touch`, the
    /// values that stay are changed by it, which does not change their length, and the map was written at that time.
    pub fn retain(
        &mut self,
        hash: u64,
        key: &Q,
        mut keep: impl FnMut(&U, &V) -> bool,
        touch: Option<Touch<'_, V>>,
    ) {
        let head = row_key(key, 0);
        let Some(spread) = self.rows.read(hash, &head, |row| row.spread) else { return };
        let Some(spread) = spread else {
            self.retain_row(hash, &head, &mut keep, touch);
            return;
        };
        let mut kept = Count::default();
        for chunk in 1..=spread.chunks {
            let in_row = self.retain_row(self.hash_of(hash, chunk), &row_key(key, chunk), &mut keep, touch);
            kept = Count { entries: kept.entries + in_row.entries, bytes: kept.bytes + in_row.bytes };
        }
        let before = Count { entries: spread.entries as i64, bytes: spread.bytes as i64 };
        if kept != before || touch.is_some() {
            self.counted(hash, key, kept.since(before), touch.map_or(0, |(stamp_ms, _)| stamp_ms));
        }
    }

    /// [`MapTable::retain`] for one row, which disappears with its last entry; what stays in it.
    fn retain_row(
        &mut self,
        hash: u64,
        row: &Scoped<Q, u32>,
        keep: &mut impl FnMut(&U, &V) -> bool,
        touch: Option<Touch<'_, V>>,
    ) -> Count {
        let looked = self.rows.read(hash, row, |row| {
            let keep = |entry: &Entry<U, V>| keep(&entry.user_key, &entry.value);
            (row.items().iter().map(keep).collect::<Vec<bool>>(), Count::of(row))
        });
        let Some((verdicts, count)) = looked else { return Count::default() };
        if !verdicts.contains(&true) {
            self.rows.remove(hash, row);
            return Count::default();
        }
        if !verdicts.contains(&false) && touch.is_none() {
            return count;
        }
        let mut verdicts = verdicts.into_iter();
        self.rows.update(hash, row, MapRow::default, |row| {
            row.retain_mut(|entry| {
                if let Some((_, touch)) = touch {
                    touch(&mut entry.value);
                }
                verdicts.next().unwrap_or(true)
            });
            Count::of(row)
        })
    }

    /// Removes the map.
    pub fn clear(&mut self, hash: u64, key: &Q) {
        let chunks = self.spread(hash, key).map_or(0, |spread| spread.chunks);
        for chunk in 1..=chunks {
            self.rows.remove(self.hash_of(hash, chunk), &row_key(key, chunk));
        }
        self.rows.remove(hash, &row_key(key, 0));
    }

    /// Takes note of a change of a map in chunks, and splits or merges some of them if that is due.
    fn counted(&mut self, hash: u64, key: &Q, change: Count, stamp_ms: u64) {
        let head = row_key(key, 0);
        let spread = self.rows.update(hash, &head, MapRow::default, |row| {
            let spread = row.spread.as_mut()?;
            spread.entries = spread.entries.saturating_add_signed(change.entries);
            spread.bytes = spread.bytes.saturating_add_signed(change.bytes);
            spread.stamp_ms = spread.stamp_ms.max(stamp_ms);
            Some(*spread)
        });
        let Some(mut spread) = spread else { return };
        if spread.entries == 0 {
            return self.clear(hash, key);
        }
        if spread.bytes <= SINGLE_BYTES && u64::from(spread.chunks) <= spread.entries {
            return self.collapse(hash, key, spread.chunks);
        }
        let before = spread.chunks;
        for _ in 0..STEPS {
            let chunks = u64::from(spread.chunks);
            if spread.bytes > chunks * FULL_BYTES && chunks < spread.entries {
                spread.chunks += 1;
                let from = buddy(spread.chunks);
                let entries = self.entries_of(hash, key, from);
                self.distribute(hash, key, entries, &[from, spread.chunks], spread.chunks);
            } else if chunks > 1 && (chunks > spread.entries || spread.bytes < chunks * SPARSE_BYTES) {
                let (last, into) = (spread.chunks, buddy(spread.chunks));
                let mut entries = self.entries_of(hash, key, into);
                entries.append(&mut self.entries_of(hash, key, last));
                self.rows.remove(self.hash_of(hash, last), &row_key(key, last));
                spread.chunks -= 1;
                self.distribute(hash, key, entries, &[into], spread.chunks);
            } else {
                break;
            }
        }
        if spread.chunks != before {
            self.rows.update(hash, &head, MapRow::default, |row| row.spread = Some(spread));
        }
    }

    /// Makes a map in `chunks` chunks a single row.
    fn collapse(&mut self, hash: u64, key: &Q, chunks: u32) {
        let mut row = MapRow::default();
        for chunk in 1..=chunks {
            self.entries_of(hash, key, chunk).into_iter().for_each(|entry| row.push(entry));
            self.rows.remove(self.hash_of(hash, chunk), &row_key(key, chunk));
        }
        self.store(hash, row_key(key, 0), row);
    }

    fn entries_of(&mut self, hash: u64, key: &Q, chunk: u32) -> Vec<Entry<U, V>> {
        let entries =
            self.rows.read(self.hash_of(hash, chunk), &row_key(key, chunk), |row| row.items().to_vec());
        entries.unwrap_or_default()
    }

    /// Stores `entries` as those of the chunks `into`, of `chunks` chunks in all.
    fn distribute(&mut self, hash: u64, key: &Q, entries: Vec<Entry<U, V>>, into: &[u32], chunks: u32) {
        let mut rows: Vec<MapRow<U, V>> = into.iter().map(|_| MapRow::default()).collect();
        for entry in entries {
            let chunk = place(entry.user_key.key_hash(), chunks);
            let i = into.iter().position(|into| *into == chunk).expect("entries come from the same chunks");
            rows[i].push(entry);
        }
        for (chunk, row) in into.iter().zip(rows) {
            self.store(self.hash_of(hash, *chunk), row_key(key, *chunk), row);
        }
    }

    /// Stores a row, or removes it if it is empty.
    fn store(&mut self, hash: u64, at: Scoped<Q, u32>, row: MapRow<U, V>) {
        if row.items().is_empty() {
            self.rows.remove(hash, &at);
        } else {
            self.rows.insert(hash, &at, row);
        }
    }
}

/// Entries and their encoded bytes, or how many more there are than before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    entries: i64,
    bytes: i64,
}

impl Count {
    fn of<U: Key, V: Data>(row: &MapRow<U, V>) -> Self {
        Count { entries: row.items().len() as i64, bytes: row.bytes() as i64 }
    }

    fn since(self, before: Count) -> Count {
        Count { entries: self.entries - before.entries, bytes: self.bytes - before.bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_moves_entries_only_from_the_buddy_to_the_new_chunk() {
        for chunks in 1..70u32 {
            for user_key in 0..2_000u64 {
                let hash = user_key.key_hash();
                let (before, after) = (place(hash, chunks), place(hash, chunks + 1));
                assert!((1..=chunks).contains(&before));
                assert!(after == before || (after == chunks + 1 && before == buddy(chunks + 1)));
            }
        }
    }
}

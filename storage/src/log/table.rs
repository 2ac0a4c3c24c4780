//! The typed side: encodes keys and values, and finds, reads and changes entries.
//!
//! Rows are compared by their encoded keys, so a probe decodes nothing. A value is decoded to a local copy, changed by the
//! user's code, and encoded again: a panic in between leaves the entry as it was.

use super::cold::{Cold, Follow};
use super::core::{Codec, Hit, Log};
use super::options::LogOptions;
use super::page::RowShape;
use crate::codec::{Data, DecodeError, Key, Reader};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::table::prefetch_line;
use std::marker::PhantomData;
use std::ops::Range;

/// Longest encoded key of fixed length that lies on the stack.
const STACK_BYTES: usize = 64;

/// The entries of one keyed state in one task's range of key groups, as encoded rows in a log of pages.
///
/// All calls take the key's [`Data::group_hash`], so that a batch is hashed and announced first and used afterwards.
///
/// # Panics
/// Any call with a hash whose key group lies outside of the table's range; and where a page has to be read while the caller waits
/// (one that was not announced) and that fails.
pub struct LogTable<K: Key, V: Data> {
    pub(super) log: Log,
    pub(super) name: String,
    /// Encoded keys and values that the stack does not hold; kept for their memory.
    key_bytes: Vec<u8>,
    value_bytes: Vec<u8>,
    /// Page and slot of the rows that announced keys probably have; kept for its memory.
    upcoming: Vec<(u32, u32)>,
    marker: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Data> LogTable<K, V> {
    pub(super) const SHAPE: RowShape = RowShape { key: K::FIXED_BYTES, value: V::FIXED_BYTES };

    /// An empty table of state `name` for the keys of the groups in `range`.
    ///
    /// # Panics
    /// When `range` is not within `groups`.
    pub fn new(
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        options: LogOptions,
    ) -> Self {
        assert!(
            range.start <= range.end && range.end <= groups.count(),
            "{range:?} is not within the key groups"
        );
        let codec = Codec { hash_of: hash_of::<K>, check_value: |bytes| whole::<V>(bytes).map(drop) };
        let name = name.into();
        let mut log = Log::new(Self::SHAPE, codec, groups, range);
        log.cold = Cold::new(&options, &name);
        LogTable {
            log,
            name,
            key_bytes: Vec::new(),
            value_bytes: Vec::new(),
            upcoming: Vec::new(),
            marker: PhantomData,
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.log.index.len()
    }

    /// True without entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Announces that the keys with these hashes will be used next: starts loading what they need from memory. Returns
    /// how many of them, from the first on, may be used once [`crate::table::StateTable::ready`] says so; at least one.
    #[inline]
    pub fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        let count = hashes.len();
        if let Some(cold) = &mut self.log.cold {
            if !cold.is_idle(&self.log.pages) {
                return self.log.announce(Self::SHAPE, hashes);
            }
            self.log.counters.page_hits += count as u64;
        }
        let LogTable { log: Log { index, pages, epoch, .. }, upcoming, .. } = self;
        hashes.clone().for_each(|hash| index.prefetch(hash));
        upcoming.clear();
        hashes.for_each(|hash| {
            index.candidates(hash, |page, slot| {
                pages.prefetch_entry(page);
                upcoming.push((page, slot));
            });
        });
        // Only sealed rows stay: a change marks such a row as gone.
        upcoming.retain(|(page, slot)| {
            let Some(entry) = pages.entry(*page) else { return false };
            prefetch_line(entry.address(Self::SHAPE.first_touched(entry.capacity(), *slot as usize)));
            let sealed = entry.epoch != *epoch;
            if sealed {
                pages.prefetch_meta(*page);
            }
            sealed
        });
        upcoming.iter().for_each(|(page, slot)| pages.prefetch_gone(*page, *slot));
        count
    }

    /// Rows name others of the table: see [`KeyedTable::set_follow`](crate::table::KeyedTable::set_follow).
    pub(crate) fn set_follow(&mut self, follow: Follow) {
        self.log.set_follow(follow);
    }

    /// Calls `use_key` with the encoded key.
    #[inline(always)]
    fn with_key<R>(&mut self, key: &K, use_key: impl FnOnce(&mut Self, &[u8]) -> R) -> R {
        match K::FIXED_BYTES {
            Some(bytes) if bytes <= STACK_BYTES => {
                let mut stack = [0; STACK_BYTES];
                key.encode_fixed(&mut stack[..bytes]);
                use_key(self, &stack[..bytes])
            }
            _ => {
                let mut bytes = std::mem::take(&mut self.key_bytes);
                bytes.clear();
                key.encode(&mut bytes);
                let result = use_key(self, &bytes);
                self.key_bytes = bytes;
                result
            }
        }
    }

    /// The value of a found row.
    #[inline(always)]
    fn value(&self, hit: &Hit) -> V {
        let rows = self.log.pages.resident(hit.page).expect("a page that was just probed is in memory");
        let mut bytes = &rows[Self::SHAPE.value(rows, hit.slot as usize)];
        match V::decode(&mut bytes) {
            Ok(value) => value,
            Err(error) => bad_value(&self.name, &error),
        }
    }

    /// Calls `store` with the length of the encoded value and what writes it.
    #[inline(always)]
    fn with_value(&mut self, value: &V, store: impl FnOnce(&mut Self, usize, &mut dyn FnMut(&mut [u8]))) {
        let mut bytes = std::mem::take(&mut self.value_bytes);
        bytes.clear();
        value.encode(&mut bytes);
        store(self, bytes.len(), &mut |out| out.copy_from_slice(&bytes));
        self.value_bytes = bytes;
    }

    #[inline(always)]
    fn store(&mut self, hash: u64, key: &[u8], hit: Hit, value: &V) {
        match V::FIXED_BYTES {
            Some(bytes) => self.log.store(Self::SHAPE, hash, key, hit, bytes, |out| value.encode_fixed(out)),
            None => self.with_value(value, |table, bytes, write| {
                table.log.store(Self::SHAPE, hash, key, hit, bytes, write);
            }),
        }
    }

    #[inline(always)]
    fn add(&mut self, hash: u64, key: &[u8], value: &V) {
        match V::FIXED_BYTES {
            Some(bytes) => {
                self.log.add(Self::SHAPE, hash, key, bytes, |out| value.encode_fixed(out));
            }
            None => self.with_value(value, |table, bytes, write| {
                table.log.add(Self::SHAPE, hash, key, bytes, write);
            }),
        }
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&mut self, hash: u64, key: &K) -> Option<V> {
        self.with_key(key, |table, key| {
            let hit = table.log.find(Self::SHAPE, hash, key)?;
            Some(table.value(&hit))
        })
    }

    /// What `read` makes of the value of `key`, if there is one.
    #[inline]
    pub fn read<R>(&mut self, hash: u64, key: &K, read: impl FnOnce(&V) -> R) -> Option<R> {
        self.get(hash, key).map(|value| read(&value))
    }

    /// Stores `value` under `key`.
    ///
    /// As all changes, it survives a crash only once a checkpoint that begins later has completed.
    #[inline]
    pub fn insert(&mut self, hash: u64, key: &K, value: V) {
        self.with_key(key, |table, key| match table.log.find(Self::SHAPE, hash, key) {
            Some(hit) => table.store(hash, key, hit, &value),
            None => table.add(hash, key, &value),
        });
    }

    /// Changes the value of `key` by `change`; if it is absent, of the value that `make` returns. When either panics, the
    /// entry stays as it was.
    #[inline]
    pub fn update<R>(
        &mut self,
        hash: u64,
        key: &K,
        make: impl FnOnce() -> V,
        change: impl FnOnce(&mut V) -> R,
    ) -> R {
        self.with_key(key, |table, key| match table.log.find(Self::SHAPE, hash, key) {
            Some(hit) => {
                let mut value = table.value(&hit);
                let result = change(&mut value);
                table.store(hash, key, hit, &value);
                result
            }
            None => {
                let mut value = make();
                let result = change(&mut value);
                table.add(hash, key, &value);
                result
            }
        })
    }

    /// Removes `key`; true if it was there.
    pub fn remove(&mut self, hash: u64, key: &K) -> bool {
        self.with_key(key, |table, key| match table.log.find(Self::SHAPE, hash, key) {
            Some(hit) => {
                table.log.delete(Self::SHAPE, hash, key, hit);
                true
            }
            None => false,
        })
    }

    /// Calls `visit` for every entry, in no order. May wait for the disk.
    pub fn for_each(&mut self, mut visit: impl FnMut(&K, &V)) {
        for page in 0..self.log.pages.numbers() {
            if self.log.pages.meta(page).live == 0 {
                continue;
            }
            if self.log.pages.resident(page).is_none() {
                self.log.fetch(page);
            }
            let (Some(rows), meta) = (self.log.pages.resident(page), self.log.pages.meta(page)) else {
                continue;
            };
            for slot in (0..meta.count).filter(|slot| !meta.gone.get(*slot) && !meta.tombstones.get(*slot)) {
                let (key, value) = Self::SHAPE.key_value(rows, slot as usize);
                match (whole::<K>(key), whole::<V>(value)) {
                    (Ok(key), Ok(value)) => visit(&key, &value),
                    (Err(error), _) | (_, Err(error)) => bad_value(&self.name, &error),
                }
            }
        }
    }
}

/// Rows are encoded by this process or checked when they were restored, and blocks have checksums.
#[cold]
#[inline(never)]
fn bad_value(state: &str, error: &DecodeError) -> ! {
    panic!("a row of state {state:?} no longer decodes: {error}")
}

/// A value that takes all of `bytes`.
pub(super) fn whole<T: Data>(bytes: &[u8]) -> Result<T, DecodeError> {
    Reader::Own.read_whole(bytes)
}

/// The hash of an encoded key, which must be encoded as [`Data::encode`] does it: keys are compared by their bytes.
fn hash_of<K: Key>(bytes: &[u8], groups: KeyGroups) -> Result<u64, DecodeError> {
    let key: K = whole(bytes)?;
    let canonical = match K::FIXED_BYTES {
        Some(fixed) if fixed <= STACK_BYTES => {
            let mut stack = [0; STACK_BYTES];
            key.encode_fixed(&mut stack[..fixed]);
            stack[..fixed] == *bytes
        }
        _ => {
            let mut encoded = Vec::with_capacity(bytes.len());
            key.encode(&mut encoded);
            encoded == bytes
        }
    };
    if canonical {
        Ok(key.group_hash(groups))
    } else {
        Err(DecodeError("a key is not encoded the way this build encodes it".into()))
    }
}

//! Rows that may go because their time to live is over: left out of bases, and removed in slices of upkeep.
//!
//! Always true: what is expired at some time is so at all later ones, unless it is written again. So a row that a base
//! left out may stay in memory, unchanged and clean: whoever restores that base misses nothing that counts.

#![expect(unsafe_code, reason = "visits buckets, whose handles are pointers")]

use super::epochs::TOMBSTONE;
use super::value_table::ValueTable;
use crate::codec::{Data, Key};

/// Which rows of a table have expired, and how far the present pass over them has come.
pub(super) struct Expiry<V> {
    expired: fn(&V, u64) -> bool,
    /// Rows not accessed since have expired.
    until_ms: Option<u64>,
    step_ms: u64,
    /// The earliest `until_ms` of the next pass.
    due_ms: u64,
    /// A pass is under way.
    passing: bool,
    /// Its next directory position.
    pub next: usize,
}

impl<V> Expiry<V> {
    /// True of a value that has expired.
    #[inline]
    pub fn is_due(&self, value: &V) -> bool {
        self.until_ms.is_some_and(|until_ms| (self.expired)(value, until_ms))
    }

    /// Moves those of `slots` whose values have not expired to the front, in order, and returns their number.
    pub fn keep<'a>(&self, slots: &mut [u32], value: impl Fn(u32) -> &'a V) -> usize
    where
        V: 'a,
    {
        let mut kept = 0;
        for i in 0..slots.len() {
            slots[kept] = slots[i];
            kept += usize::from(!self.is_due(value(slots[i])));
        }
        kept
    }
}

impl<K: Key, V: Data> ValueTable<K, V> {
    /// See [`KeyedTable::set_expiry`](super::KeyedTable::set_expiry).
    pub fn set_expiry(&mut self, expired: fn(&V, u64) -> bool, step_ms: u64) {
        let expiry = Expiry { expired, until_ms: None, step_ms, due_ms: 0, passing: false, next: 0 };
        self.expiry = Some(Box::new(expiry));
    }

    /// See [`KeyedTable::expire_until`](super::KeyedTable::expire_until).
    #[inline]
    pub fn expire_until(&mut self, time_ms: u64) {
        if let Some(expiry) = &mut self.expiry {
            expiry.until_ms = expiry.until_ms.max(Some(time_ms));
        }
    }

    /// Removes the expired among the next `rows` slots or a few more; true when the pass has not come to its end.
    pub(super) fn remove_expired(&mut self, rows: usize) -> bool {
        let Some(mut expiry) = self.expiry.take() else { return false };
        if let Some(until_ms) = expiry.until_ms
            && !expiry.passing
            && until_ms >= expiry.due_ms
        {
            expiry.due_ms = until_ms.saturating_add(expiry.step_ms);
            (expiry.passing, expiry.next) = (true, 0);
        }
        let (mut visited, mut expired) = (0, Vec::new());
        while expiry.passing && visited < rows.max(1) {
            let Some(bucket) = self.directory.get(expiry.next).copied() else {
                expiry.passing = false;
                break;
            };
            if bucket == self.vacant {
                expiry.next += 1;
                visited += 1;
                continue;
            }
            let positions = self.positions_of(bucket);
            expiry.next = (expiry.next & !(positions - 1)) + positions;
            visited += bucket.capacity();
            for i in 0..bucket.capacity() {
                // SAFETY: the bucket is in the directory; a slot is read as its stamp says.
                unsafe {
                    let stamp = bucket.stamp(i);
                    if stamp != 0 && stamp & TOMBSTONE == 0 && expiry.is_due(bucket.value(i)) {
                        let key = bucket.key(i);
                        expired.push((key.group_hash(self.key_groups), key.clone()));
                    }
                }
            }
        }
        let more = expiry.passing;
        self.expiry = Some(expiry);
        for (hash, key) in expired {
            self.remove(hash, &key);
        }
        more
    }
}

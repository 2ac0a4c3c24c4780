//! Rows that may go because their time to live is over: left out of bases, and removed in slices of upkeep.
//!
//! Always true: what is expired at some time is so at all later ones, unless it is written again.

use super::core::{Hit, Log, Seen};
use super::page::RowShape;
use super::table::{LogTable, whole};
use crate::codec::{Data, Key};

/// True of encoded values that have expired at some time.
type Expired = Box<dyn Fn(&[u8], u64) -> bool + Send>;

/// Which rows of a table have expired, and how far the present pass over them has come.
pub(super) struct Expiry {
    expired: Expired,
    /// Rows not accessed since have expired.
    until_ms: Option<u64>,
    step_ms: u64,
    /// The earliest `until_ms` of the next pass.
    due_ms: u64,
    /// A pass is under way, over the pages below this number.
    end: u32,
    /// Its next page.
    next: u32,
}

impl Expiry {
    /// True of an encoded value that has expired.
    pub fn is_due(&self, value: &[u8]) -> bool {
        self.until_ms.is_some_and(|until_ms| (self.expired)(value, until_ms))
    }
}

impl<K: Key, V: Data> LogTable<K, V> {
    /// See [`KeyedTable::set_expiry`](crate::table::KeyedTable::set_expiry).
    pub fn set_expiry(&mut self, expired: fn(&V, u64) -> bool, step_ms: u64) {
        self.log.expiry = Some(Expiry {
            expired: Box::new(move |value, until_ms| {
                whole::<V>(value).is_ok_and(|value| expired(&value, until_ms))
            }),
            until_ms: None,
            step_ms,
            due_ms: 0,
            end: 0,
            next: 0,
        });
    }

    /// See [`KeyedTable::expire_until`](crate::table::KeyedTable::expire_until).
    #[inline]
    pub fn expire_until(&mut self, time_ms: u64) {
        if let Some(expiry) = &mut self.log.expiry {
            expiry.until_ms = expiry.until_ms.max(Some(time_ms));
        }
    }
}

impl Log {
    /// Removes the expired among the next `rows` rows or a few more; true when the pass has not come to its end. Pages that
    /// are not in memory stay as they are: what becomes of them is decided when they are read or compacted.
    pub fn remove_expired(&mut self, shape: RowShape, rows: usize) -> bool {
        let Some(mut expiry) = self.expiry.take() else { return false };
        if let Some(until_ms) = expiry.until_ms
            && expiry.next >= expiry.end
            && until_ms >= expiry.due_ms
        {
            expiry.due_ms = until_ms.saturating_add(expiry.step_ms);
            (expiry.next, expiry.end) = (0, self.pages.numbers());
        }
        let mut visited = 0;
        while expiry.next < expiry.end && visited < rows.max(1) {
            visited += 1 + self.remove_expired_of(shape, &expiry, expiry.next);
            expiry.next += 1;
        }
        let more = expiry.next < expiry.end;
        self.expiry = Some(expiry);
        more
    }

    /// Removes the expired rows of one page; the number of its rows.
    fn remove_expired_of(&mut self, shape: RowShape, expiry: &Expiry, page: u32) -> usize {
        let meta = self.pages.meta(page);
        if meta.live == 0 {
            return 0;
        }
        let Some(bytes) = self.pages.resident(page) else { return 0 };
        let live = (0..meta.count).filter(|slot| !meta.gone.get(*slot) && !meta.tombstones.get(*slot));
        let expired: Vec<(u32, Vec<u8>)> = live
            .filter_map(|slot| {
                let (key, value) = shape.key_value(bytes, slot as usize);
                expiry.is_due(value).then(|| (slot, key.to_vec()))
            })
            .collect();
        let count = meta.count as usize;
        for (slot, key) in expired {
            // Its key was checked when it came, so it decodes.
            let Ok(hash) = (self.codec.hash_of)(&key, self.key_groups) else { continue };
            if let Some((cursor, Seen::Row { page: found, slot: at, mutable })) =
                self.probe(shape, hash, &key)
                && (found, at) == (page, slot)
            {
                self.delete(shape, hash, &key, Hit { cursor, page, slot, mutable });
            }
        }
        count
    }
}

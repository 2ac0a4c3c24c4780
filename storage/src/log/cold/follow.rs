//! Announced rows that name others: the chunks of a large list or map are found through its head row, which may itself have to be
//! read first.
//!
//! A head in memory is followed when its key is announced, one on disk once it has come ([`Log::ready`]). What a head names is held as
//! the head's own page is, within the same half of the budget; as nobody knows how much that will be before the head is there, each
//! head that is awaited keeps free what the heads before it have needed. Should that be too little, an eighth more is at hand.
//!
//! Always true: `to_follow` holds hashes of the last announcement only. What is not followed, for want of memory, is read when it is used, and
//! counted as a blocking read.

use super::memory::Cold;
use crate::key_group::KeyGroups;
use crate::log::core::Log;
use crate::log::page::{PAGE_BYTES, RowShape};

/// Pages that what a row names is expected to take until some were followed.
const PAGES_EACH: usize = 16;

/// Adds the hashes of the rows that the encoded value of an announced row, whose hash is given, names.
pub(crate) type Follow = fn(u64, KeyGroups, &[u8], &mut Vec<u64>);

/// What is known of rows that name others.
pub(super) struct Following {
    follow: Option<Follow>,
    /// Hashes of announced rows that are being read.
    to_follow: Vec<u64>,
    /// Memory that what one row names takes: the most of the last few.
    bytes_each: usize,
    further: Vec<u64>,
}

impl Following {
    /// Rows that name no others.
    pub fn none() -> Self {
        Following {
            follow: None,
            to_follow: Vec::new(),
            bytes_each: PAGES_EACH * PAGE_BYTES,
            further: Vec::new(),
        }
    }

    /// The last announcement has ended.
    pub fn clear(&mut self) {
        self.to_follow.clear();
    }

    /// Memory that rows being read will want for what they name.
    pub fn reserved_bytes(&self) -> usize {
        self.to_follow.len() * (self.bytes_each + self.bytes_each / 4)
    }

    /// The row of `hash` is being read.
    pub fn later(&mut self, hash: u64) {
        if self.follow.is_some() {
            self.to_follow.push(hash);
        }
    }

    /// Forgets the row that was put off last, if it is that of `hash`.
    pub fn not_later(&mut self, hash: u64) {
        if self.to_follow.last() == Some(&hash) {
            self.to_follow.pop();
        }
    }

    /// True when nothing is left to be followed.
    pub fn is_over(&self) -> bool {
        self.to_follow.is_empty()
    }
}

impl Log {
    /// Rows name others, which [`Follow`] tells.
    pub fn set_follow(&mut self, follow: Follow) {
        if let Some(cold) = &mut self.cold {
            cold.following.follow = Some(follow);
        }
    }

    /// Holds the pages of what the row of `hash` names, if it is in memory, until so much is held that `limit` is reached; true when all
    /// are held.
    pub(super) fn follow(&self, cold: &mut Cold, shape: RowShape, hash: u64, limit: usize) -> bool {
        let Some(follow) = cold.following.follow else { return true };
        let mut further = std::mem::take(&mut cold.following.further);
        let _ = self.index.find::<()>(hash, |page, slot| {
            let rows = self.pages.entry(page)?.bytes()?;
            follow(hash, self.key_groups, &rows[shape.value(rows, slot as usize)], &mut further);
            None
        });
        let mut all = true;
        if !further.is_empty() {
            let (before, wanted) = (cold.announced_bytes, further.len());
            for hash in further.drain(..) {
                all &= cold.announced_bytes < limit;
                if all {
                    self.hold(cold, shape, hash);
                }
            }
            let taken = if all { cold.announced_bytes - before } else { wanted * PAGE_BYTES };
            let each = &mut cold.following.bytes_each;
            *each = taken.max(*each - *each / 8);
        }
        cold.following.further = further;
        all
    }

    /// Follows the rows that had to be read first, and have come.
    pub(super) fn follow_awaited(&mut self) {
        let Some(mut cold) = self.cold.take() else { return };
        let mut to_follow = std::mem::take(&mut cold.following.to_follow);
        let (shape, limit) = (self.pages.shape, cold.budget / 2 + cold.budget / 8);
        to_follow.drain(..).for_each(|hash| _ = self.follow(&mut cold, shape, hash, limit));
        cold.following.to_follow = to_follow;
        self.read_announced(&mut cold);
        cold.make_room(&mut self.pages, self.epoch);
        self.cold = Some(cold);
    }
}

//! Compaction: moving the rows that still count out of pages and segments in which few do.
//!
//! `decide` says, from counts alone, what has to shrink; then pages that stand in the way are gathered, a part of the page
//! table at a time, and emptied, a few rows at a time. Moving a row is changing it to what it is: a new row, an index entry that
//! names it, and the old row gone. A segment of which no row counts is left out of the next checkpoint.
//!
//! A tombstone moves as well, unless it has become needless: when its key has come back (the newer row does its work), or when nothing
//! older that a checkpoint may hold has rows of its group.
//!
//! Always true: no batch of records waits for any of this, and at most [`GATHERED_MAX`] pages are under way.

use super::cold::READ_AHEAD;
use super::core::{Log, Seen};
use super::page::{PAGE_BYTES, PageEntry};
use super::page_table::{NONE, Place};
use super::segments::{Segments, Totals};

/// Most pages that are gathered before they are emptied.
const GATHERED_MAX: usize = 1_024;

/// Rows whose index entries are brought near together.
const PREFETCHED_ROWS: u32 = 64;

/// A page is sparse when its live rows take less than so many percent of its memory; tried in this order.
const SPARSE_PERCENT: [usize; 3] = [25, 40, 55];

/// When compaction begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Segments may hold this many percent of the live rows. Their bound is twice the live rows; the rest is for the time that
    /// compaction takes.
    disk_percent: u64,
    /// Pages in memory may take this many percent of what the live rows need, besides `slack_bytes`.
    memory_percent: u64,
    /// For each group, which has an open page.
    slack_bytes: u64,
    /// Tombstones may be this many percent of all live rows; fewer than `tombstones` are not worth the work.
    tombstone_percent: u64,
    tombstones: u64,
    /// Small tables may have this many segments, large ones one more for each `segment_bytes`.
    segments: usize,
    segment_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            disk_percent: 188,
            memory_percent: 210,
            slack_bytes: PAGE_BYTES as u64,
            tombstone_percent: 10,
            tombstones: 1_024,
            segments: 112,
            segment_bytes: 2 << 20,
        }
    }
}

#[cfg(test)]
impl Limits {
    /// Limits that small tables reach.
    pub fn small() -> Self {
        Limits { slack_bytes: 0, tombstones: 4, segments: 4, segment_bytes: 1 << 20, ..Limits::default() }
    }
}

/// What has to shrink.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Aim {
    /// These segments, by number.
    Segments(Vec<u32>),
    /// The oldest segment, whose tombstones nothing older needs; without one, the pages that no segment holds yet.
    Tombstones(Option<u32>),
    /// Pages in memory that are sparse, by index in [`SPARSE_PERCENT`].
    Sparse(usize),
}

/// What the decision depends on, besides the segments.
#[derive(Clone, Copy, Debug, Default)]
struct Facts {
    /// Rows that count, tombstones among them.
    live_rows: u64,
    tombstones: u64,
    tombstones_wait: bool,
    /// Bytes of all pages in memory.
    data_bytes: u64,
    /// Bytes that the live rows need.
    live_bytes: u64,
    groups: u64,
}

/// Compaction under way.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    aim: Option<Aim>,
    /// The next page to look at; pages below are gathered already.
    hand: u32,
    /// Pages to be emptied, the next one last.
    gathered: Vec<Gathered>,
    /// The next row of the last one.
    slot: u32,
    /// Its rows below this have had their index entries prefetched.
    prefetched: u32,
    /// What is gathered is there for being sparse.
    sparse: bool,
    /// `Log::retired` at the last decision that found nothing to do.
    idle_at: Option<u64>,
    /// Tombstones when work on them began.
    tombstones_at: Option<u64>,
    /// The latest work on tombstones in dirty pages could drop none: they wait for a checkpoint.
    tombstones_wait: bool,
    pub limits: Limits,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// A page that is to be emptied. Ordered as pages are emptied: oldest first, so that tombstones of younger ones may die, and that files
/// are read from front to back; those that no file has come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Gathered {
    /// Order of its segment, and index of its block there.
    place: (u64, u32),
    sequence: u64,
    page: u32,
}

#[cfg(test)]
impl Compaction {
    /// Empties these segments, whatever the limits.
    pub fn aim_at(&mut self, numbers: Vec<u32>) {
        self.aim = Some(Aim::Segments(numbers));
        self.hand = 0;
    }
}

impl Compaction {
    /// A checkpoint completed, so that the segments are others.
    pub fn wake(&mut self) {
        self.idle_at = None;
        self.tombstones_wait = false;
    }
}

/// What to shrink first.
fn decide(limits: &Limits, facts: Facts, segments: &Segments) -> Option<Aim> {
    if !facts.tombstones_wait
        && facts.tombstones >= limits.tombstones
        && facts.tombstones * 100 > facts.live_rows * limits.tombstone_percent
    {
        return Some(Aim::Tombstones(segments.oldest()));
    }
    let totals = segments.totals();
    let victims = too_empty(limits, facts, totals, segments);
    if !victims.is_empty() {
        return Some(Aim::Segments(victims));
    }
    let most = limits.segments + (totals.bytes / limits.segment_bytes) as usize;
    if totals.segments > most {
        let mut all = segments.by_live_bytes();
        all.truncate(totals.segments - most * 3 / 4);
        return Some(Aim::Segments(all));
    }
    is_over_memory(limits, facts).then_some(Aim::Sparse(0))
}

fn is_over_memory(limits: &Limits, facts: Facts) -> bool {
    facts.data_bytes > facts.live_bytes * limits.memory_percent / 100 + facts.groups * limits.slack_bytes
}

/// The emptiest segments, as many as have to go so that the others stay within the bound.
fn too_empty(limits: &Limits, facts: Facts, totals: Totals, segments: &Segments) -> Vec<u32> {
    let mut victims = Vec::new();
    // Rows not in any segment yet count as live: they will be, in the next.
    let allowed = facts.live_rows * limits.disk_percent / 100;
    if totals.rows <= allowed {
        return victims;
    }
    // A little more, so that the next need does not come at once. Not much more: under uniform updates a segment's live share
    // falls as e^-t, so where victims have the share v, all have (1 - v) / -ln v on average; at an average of 1/2 that is a v
    // of 0.2, and 0.25 rows move for each that changes, at an average of 0.6 already half a row.
    let mut excess = totals.rows - allowed + allowed / 50;
    for (number, rows) in segments.emptiest() {
        victims.push(number);
        if rows >= excess {
            break;
        }
        excess -= rows;
    }
    victims
}

impl Log {
    /// Does a slice of compaction that costs about what `rows` rows cost; true when there is more to do at once.
    pub fn compact(&mut self, rows: usize) -> bool {
        let mut left = rows.max(1);
        loop {
            if let Some(Gathered { page, sequence, .. }) = self.compaction.gathered.last().copied() {
                match self.empty_page(page, sequence, &mut left) {
                    Progress::Emptied => {
                        self.compaction.gathered.pop();
                        crash_point!("compaction.after_page");
                        self.end_when_small_enough();
                        (self.compaction.slot, self.compaction.prefetched) = (0, 0);
                    }
                    Progress::OutOfTime => return true,
                    Progress::Waits => return false,
                }
            } else if self.compaction.aim.is_some() {
                if !self.gather(&mut left) {
                    return true;
                }
            } else if self.snapshots.is_settling() {
                return false;
            } else {
                let due = self.live_rows() / 64 + 64;
                if self.compaction.idle_at.is_some_and(|at| self.retired - at < due) {
                    return false;
                }
                if self.compaction.idle_at.take().is_some() {
                    self.compaction.tombstones_wait = false;
                }
                if let Some(before) = self.compaction.tombstones_at.take() {
                    self.compaction.tombstones_wait = self.tombstones >= before;
                }
                let aim = decide(&self.compaction.limits, self.facts(), &self.segments);
                self.compaction.hand = 0;
                match aim {
                    None => {
                        self.compaction.idle_at = Some(self.retired);
                        return false;
                    }
                    // Emptying a segment is a step on the way; but without one, nothing older than dirty pages can go.
                    Some(Aim::Tombstones(None)) => self.compaction.tombstones_at = Some(self.tombstones),
                    _ => {}
                }
                self.compaction.aim = aim;
                crash_point!("compaction.after_decision");
            }
        }
    }

    fn live_rows(&self) -> u64 {
        self.index.len() as u64 + self.tombstones
    }

    fn facts(&self) -> Facts {
        let live_rows = self.live_rows();
        let needed = self.pages.shape.needed(self.rows as usize, self.bytes as usize) as u128;
        Facts {
            live_rows,
            tombstones: self.tombstones,
            tombstones_wait: self.compaction.tombstones_wait,
            data_bytes: self.pages.data_bytes() as u64,
            live_bytes: (needed * u128::from(live_rows) / u128::from(self.rows.max(1))) as u64,
            groups: self.pages.groups.len() as u64,
        }
    }

    /// Looks for pages that stand in the way; true once there are any, or all have been looked at.
    fn gather(&mut self, left: &mut usize) -> bool {
        let Some(aim) = self.compaction.aim.take() else { return true };
        self.compaction.sparse = matches!(aim, Aim::Sparse(_));
        let end = self.pages.numbers();
        while self.compaction.hand < end && self.compaction.gathered.len() < GATHERED_MAX {
            if *left == 0 {
                self.compaction.aim = Some(aim);
                return false;
            }
            *left -= 1;
            let page = self.compaction.hand;
            self.compaction.hand += 1;
            if self.stands_in_the_way(page, &aim) {
                let meta = self.pages.meta(page);
                let order = |place: Place| (self.segments.order(place.segment), place.index);
                let place = meta.place().map_or((u64::MAX, 0), order);
                self.compaction.gathered.push(Gathered { place, sequence: meta.sequence, page });
            }
        }
        crash_point!("compaction.after_gather");
        self.compaction.gathered.sort_unstable_by(|a, b| b.cmp(a));
        if self.compaction.hand < end {
            self.compaction.aim = Some(aim);
        } else if let Aim::Sparse(level) = aim
            && level + 1 < SPARSE_PERCENT.len()
            && self.compaction.gathered.is_empty()
        {
            self.compaction.aim = Some(Aim::Sparse(level + 1));
            self.compaction.hand = 0;
        } else if self.compaction.gathered.is_empty() {
            // Nothing can be done about it now.
            self.compaction.idle_at = Some(self.retired);
        }
        true
    }

    fn stands_in_the_way(&self, page: u32, aim: &Aim) -> bool {
        let meta = self.pages.meta(page);
        let open = self.pages.groups[usize::from(meta.group)].open == page
            && self.pages.is_mutable(page, self.epoch);
        if meta.live == 0 || open {
            return false;
        }
        match aim {
            Aim::Segments(numbers) => meta.segment().is_some_and(|segment| numbers.contains(&segment)),
            Aim::Tombstones(Some(number)) => meta.segment() == Some(*number),
            Aim::Tombstones(None) => meta.is_dirty() && !self.snapshots.needs(&self.pages, page),
            Aim::Sparse(level) => {
                let capacity = self.pages.entry(page).map_or(0, PageEntry::capacity);
                let needed = self.pages.shape.needed(meta.count as usize, meta.used as usize);
                let live_bytes = needed * meta.live as usize / meta.count as usize;
                live_bytes * 100 < capacity * SPARSE_PERCENT[*level]
                    && !self.snapshots.needs(&self.pages, page)
            }
        }
    }

    /// Moves rows out of a page until none counts any more.
    fn empty_page(&mut self, page: u32, sequence: u64, left: &mut usize) -> Progress {
        while self.pages.is(page, sequence) && self.compaction.slot < self.pages.meta(page).count {
            let slot = self.compaction.slot;
            if !self.pages.meta(page).gone.get(slot) {
                if *left == 0 {
                    return Progress::OutOfTime;
                }
                *left -= 1;
                if slot >= self.compaction.prefetched {
                    self.prefetch_entries(page, slot);
                }
                // A cold page is read back first; meanwhile there may be other things to do.
                if !self.ask_gathered(page) || !self.move_row(page, slot) {
                    return Progress::Waits;
                }
            }
            self.compaction.slot += 1;
        }
        Progress::Emptied
    }

    /// Gives up what is left of a pass over sparse pages once memory is within its limit: as all pages of one age are alike
    /// sparse, a pass to its end would move them all at once.
    fn end_when_small_enough(&mut self) {
        if self.compaction.sparse && !is_over_memory(&self.compaction.limits, self.facts()) {
            self.compaction.gathered.clear();
            self.compaction.aim = None;
        }
    }

    /// Brings the index entries of the next rows that count near the processor, those of `slot` and a few behind it.
    fn prefetch_entries(&mut self, page: u32, slot: u32) {
        let meta = self.pages.meta(page);
        let end = meta.count.min(slot + PREFETCHED_ROWS);
        let Some(rows) = self.pages.resident(page) else { return };
        for slot in (slot..end).filter(|slot| !meta.gone.get(*slot)) {
            let key = self.pages.shape.key_value(rows, slot as usize).0;
            if let Ok(hash) = (self.codec.hash_of)(key, self.key_groups) {
                self.index.prefetch(hash);
            }
        }
        self.compaction.prefetched = end;
    }

    /// Asks for the page that is being emptied, and reads those ahead that come next.
    fn ask_gathered(&mut self, page: u32) -> bool {
        if self.pages.resident(page).is_some() {
            return true;
        }
        let next = self.compaction.gathered.iter().rev().skip(1).take(READ_AHEAD);
        let ahead: Vec<u32> =
            next.filter(|next| self.pages.is(next.page, next.sequence)).map(|next| next.page).collect();
        self.ask(page, ahead)
    }

    /// Moves one row that counts; false if another page has to be read first. The page may be gone afterwards.
    fn move_row(&mut self, page: u32, slot: u32) -> bool {
        let mut key = std::mem::take(&mut self.compaction.key);
        let mut value = std::mem::take(&mut self.compaction.value);
        let rows = self.pages.resident(page).expect("the page was just asked for");
        let (from_key, from_value) = self.pages.shape.key_value(rows, slot as usize);
        key.clear();
        key.extend_from_slice(from_key);
        value.clear();
        value.extend_from_slice(from_value);
        // If the page is the open one, its rows would move to itself.
        let group = usize::from(self.pages.meta(page).group);
        if self.pages.groups[group].open == page {
            self.pages.groups[group].open = NONE;
        }
        let hash = match (self.codec.hash_of)(&key, self.key_groups) {
            Ok(hash) => hash,
            Err(error) => {
                panic!("a row that was written or checked by this process no longer decodes: {error}")
            }
        };
        let moved = if self.pages.meta(page).tombstones.get(slot) {
            self.move_tombstone(page, slot, hash, &key)
        } else {
            self.move_entry(page, slot, hash, &key, &value);
            true
        };
        (self.compaction.key, self.compaction.value) = (key, value);
        moved
    }

    fn move_entry(&mut self, page: u32, slot: u32, hash: u64, key: &[u8], value: &[u8]) {
        let found = self.index.find(hash, |p, s| (p == page && s == slot).then_some(()));
        let (cursor, ()) = found.expect("the index names every row that counts");
        let hit = super::core::Hit { cursor, page, slot, mutable: self.pages.is_mutable(page, self.epoch) };
        let shape = self.pages.shape;
        if self.expiry.as_ref().is_some_and(|expiry| expiry.is_due(value)) {
            self.delete(shape, hash, key, hit);
            if hit.mutable && self.pages.meta(page).live > 0 && !self.pages.meta(page).gone.get(slot) {
                // It became a tombstone in place, in a page that has to go.
                self.move_tombstone(page, slot, hash, key);
            }
            return;
        }
        self.supersede(shape, hash, key, hit, value.len(), |out| out.copy_from_slice(value));
        self.counters.compacted_rows += 1;
    }

    fn move_tombstone(&mut self, page: u32, slot: u32, hash: u64, key: &[u8]) -> bool {
        let meta = self.pages.meta(page);
        let (group, place) = (meta.group, meta.place());
        let any_older = place.is_none() && meta.previous != NONE;
        if any_older || self.segments.any_older(group, place.map(|place| place.segment)) {
            match self.probe(self.pages.shape, hash, key) {
                Some((_, Seen::Row { page, slot, mutable })) => {
                    // From now on it is this row that deletes what older segments hold, once it is removed itself.
                    if mutable {
                        self.pages.meta_mut(page).fresh.unset(slot);
                    }
                }
                Some((_, Seen::Absent { page, .. })) => {
                    self.ask(page, []);
                    return false;
                }
                None => {
                    self.bury(self.pages.shape, usize::from(group), key);
                    self.counters.compacted_rows += 1;
                }
            }
        }
        self.retire(page, slot);
        true
    }
}

/// What came of emptying a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Emptied,
    OutOfTime,
    Waits,
}

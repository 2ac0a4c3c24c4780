//! Accounting of the segments that hold a table's pages: how much of each still counts, and which a checkpoint needs.
//!
//! Always true:
//! - `live_rows` of a segment is the sum of `live` of the pages whose place is in it;
//! - a segment is forgotten only when no page lies in it and no snapshot under way can still make it part of a checkpoint;
//! - `needed` and `totals` are of the segments with live rows, and follow each change, as there are many segments where there is much state;
//! - `order` rises in the order in which segments are replayed, as far as they hold rows of one group.
//!
//! Pure: reads and writes no file.

use crate::table::SegmentPaths;
use std::collections::HashMap;
use std::sync::Arc;

/// One segment, as far as it is this table's.
#[derive(Debug)]
struct Segment {
    path: Arc<str>,
    order: u64,
    bytes: u64,
    rows: u64,
    live_rows: u64,
    /// Pages whose place is in it, also those without live rows that a snapshot has still to write.
    pages: u32,
    /// One bit for each key group of the table that it holds rows of.
    groups: Vec<u64>,
    /// Snapshots under way that may make it part of a completed checkpoint (again).
    pins: u32,
}

/// What all segments that hold live rows hold together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub segments: usize,
    pub rows: u64,
    pub live_rows: u64,
    pub bytes: u64,
}

impl Totals {
    /// The part of `bytes` that is live, if rows of all segments are alike.
    pub fn live_bytes(&self) -> u64 {
        part(self.bytes, self.live_rows, self.rows)
    }
}

/// `of / whole` of `bytes`.
fn part(bytes: u64, of: u64, whole: u64) -> u64 {
    (u128::from(bytes) * u128::from(of) / u128::from(whole.max(1))) as u64
}

impl Segment {
    fn live_bytes(&self) -> u64 {
        part(self.bytes, self.live_rows, self.rows)
    }

    fn is_needed(&self) -> bool {
        self.live_rows > 0
    }

    fn is_idle(&self) -> bool {
        self.pages == 0 && self.pins == 0
    }
}

/// The segments of one table, by numbers that are used again.
#[derive(Debug, Default)]
pub(super) struct Segments {
    slots: Vec<Option<Segment>>,
    by_path: HashMap<Arc<str>, u32>,
    /// Numbers without a segment.
    free: Vec<u32>,
    /// Segments that may be forgotten: all without pages and pins are among them.
    idle: Vec<u32>,
    /// Paths of the segments with live rows.
    needed: SegmentPaths,
    totals: Totals,
    next_order: u64,
    /// The number of the segment that was asked for last: blocks come file by file.
    latest: Option<u32>,
}

impl Segments {
    fn get_mut(&mut self, number: u32) -> &mut Segment {
        self.slots[number as usize].as_mut().expect("a segment that a page lies in is known")
    }

    fn get(&self, number: u32) -> &Segment {
        self.slots[number as usize].as_ref().expect("a segment that a page lies in is known")
    }

    fn known(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((i as u32, slot.as_ref()?)))
    }

    /// The number of the segment at `path`, which comes last in the order if it was not known.
    pub fn number_of(&mut self, path: &Arc<str>) -> u32 {
        if let Some(latest) = self.latest
            && self.slots[latest as usize].as_ref().is_some_and(|segment| segment.path == *path)
        {
            return latest;
        }
        let known = self.by_path.get(path).copied();
        let number = known.unwrap_or_else(|| self.add(Arc::clone(path)));
        self.latest = Some(number);
        number
    }

    fn add(&mut self, path: Arc<str>) -> u32 {
        let order = self.next_order;
        self.next_order += 1;
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.by_path.insert(Arc::clone(&path), number);
        let segment =
            Segment { path, order, bytes: 0, rows: 0, live_rows: 0, pages: 0, groups: Vec::new(), pins: 0 };
        self.slots[number as usize] = Some(segment);
        self.idle.push(number);
        number
    }

    /// True when a segment of this path is known.
    pub fn knows(&self, path: &str) -> bool {
        self.by_path.contains_key(path)
    }

    /// Where a segment stands in the order of replay.
    pub fn order(&self, number: u32) -> u64 {
        self.get(number).order
    }

    /// The path of a segment, below the job's directory.
    pub fn path(&self, number: u32) -> &Arc<str> {
        &self.get(number).path
    }

    /// A block of `rows` rows of `group` lies in the segment.
    pub fn add_block(&mut self, number: u32, group: u16, rows: u32, bytes: u32) {
        let segment = self.get_mut(number);
        segment.bytes += u64::from(bytes);
        segment.rows += u64::from(rows);
        let word = usize::from(group) / 64;
        if word >= segment.groups.len() {
            segment.groups.resize(word + 1, 0);
        }
        segment.groups[word] |= 1 << (group % 64);
        if segment.is_needed() {
            // A restore adds to it while its rows are told one block after another.
            self.totals.bytes += u64::from(bytes);
            self.totals.rows += u64::from(rows);
        }
    }

    /// A page with `live` live rows has its place in the segment now.
    pub fn place(&mut self, number: u32, live: u32) {
        let segment = self.get_mut(number);
        let was_needed = segment.is_needed();
        segment.live_rows += u64::from(live);
        segment.pages += 1;
        self.totals.live_rows += u64::from(live);
        let segment = self.get(number);
        if !was_needed && live > 0 {
            let (path, rows, bytes) = (Arc::clone(&segment.path), segment.rows, segment.bytes);
            self.needed.set(number as usize, Some(path));
            self.totals.segments += 1;
            self.totals.rows += rows;
            self.totals.bytes += bytes;
        }
    }

    /// A page with `live` live rows no longer has its place in the segment.
    pub fn leave(&mut self, number: u32, live: u32) {
        let segment = self.get_mut(number);
        let was_needed = segment.is_needed();
        segment.live_rows -= u64::from(live);
        segment.pages -= 1;
        let (is_needed, is_idle) = (segment.is_needed(), segment.is_idle());
        self.totals.live_rows -= u64::from(live);
        if was_needed && !is_needed {
            self.emptied(number);
        }
        if is_idle {
            self.idle.push(number);
        }
    }

    /// A row of a page in the segment no longer counts.
    #[inline]
    pub fn retire(&mut self, number: u32) {
        self.totals.live_rows -= 1;
        let segment = self.get_mut(number);
        segment.live_rows -= 1;
        if segment.live_rows == 0 {
            self.emptied(number);
        }
    }

    /// The last live row of a segment is gone.
    #[cold]
    fn emptied(&mut self, number: u32) {
        self.needed.set(number as usize, None);
        let segment = self.get(number);
        let (rows, bytes) = (segment.rows, segment.bytes);
        self.totals.segments -= 1;
        self.totals.rows -= rows;
        self.totals.bytes -= bytes;
    }

    /// Keeps the segment known though it may have no live row.
    pub fn pin(&mut self, number: u32) {
        self.get_mut(number).pins += 1;
    }

    /// Takes one [`Segments::pin`] back.
    pub fn unpin(&mut self, number: u32) {
        let segment = self.get_mut(number);
        segment.pins -= 1;
        if segment.is_idle() {
            self.idle.push(number);
        }
    }

    /// Forgets segments that no checkpoint will need again.
    pub fn sweep(&mut self) {
        for number in std::mem::take(&mut self.idle) {
            if let Some(segment) = self.slots[number as usize].take_if(|segment| segment.is_idle()) {
                self.by_path.remove(&segment.path);
                self.free.push(number);
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Segments { next_order: self.next_order, ..Segments::default() };
    }

    /// Paths of the segments with rows that still count, as far as is known.
    pub fn needed(&self) -> SegmentPaths {
        self.needed.clone()
    }

    /// True when a segment that is, or may become, part of a checkpoint holds rows of `group` and comes before segment `before`;
    /// before the next snapshot's, without one.
    pub fn any_older(&self, group: u16, before: Option<u32>) -> bool {
        let limit = before.map_or(u64::MAX, |number| self.get(number).order);
        let (word, bit) = (usize::from(group) / 64, group % 64);
        self.known().any(|(_, segment)| {
            segment.order < limit
                && (segment.is_needed() || segment.pins > 0)
                && segment.groups.get(word).is_some_and(|bits| bits >> bit & 1 != 0)
        })
    }

    /// Checks that what follows each change is what a look at all segments gives.
    #[cfg(test)]
    pub fn check_sums(&self) {
        let mut totals = Totals::default();
        let mut paths = Vec::new();
        for (number, segment) in self.known() {
            assert_eq!(self.by_path.get(&segment.path), Some(&number));
            assert!(!segment.is_idle() || self.idle.contains(&number), "{segment:?} would stay forever");
            if segment.is_needed() {
                totals.segments += 1;
                totals.rows += segment.rows;
                totals.live_rows += segment.live_rows;
                totals.bytes += segment.bytes;
                paths.push(&segment.path);
            }
        }
        assert_eq!(self.totals, totals);
        assert!(self.needed.iter().eq(paths), "{:?} is needed", self.needed);
        assert_eq!(self.by_path.len() + self.free.len(), self.slots.len());
    }

    /// Live rows of each segment.
    #[cfg(test)]
    pub fn live_rows(&self) -> impl Iterator<Item = (u32, u64)> {
        self.known().map(|(number, segment)| (number, segment.live_rows))
    }

    /// What all together hold.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Segments with rows that do not count, with the number of their rows; those with the smallest live part first.
    pub fn emptiest(&self) -> Vec<(u32, u64)> {
        let part = |segment: &Segment| segment.live_rows as f64 / segment.rows.max(1) as f64;
        let wanted = |segment: &Segment| segment.is_needed() && segment.live_rows < segment.rows;
        let mut found: Vec<_> = self.known().filter(|(_, segment)| wanted(segment)).collect();
        found.sort_by(|(_, a), (_, b)| part(a).total_cmp(&part(b)));
        found.into_iter().map(|(number, segment)| (number, segment.rows)).collect()
    }

    /// The segment that comes first in the order.
    pub fn oldest(&self) -> Option<u32> {
        let needed = self.known().filter(|(_, segment)| segment.is_needed());
        needed.min_by_key(|(_, segment)| segment.order).map(|(number, _)| number)
    }

    /// The segments with live rows, those with the fewest live bytes first.
    pub fn by_live_bytes(&self) -> Vec<u32> {
        let mut needed: Vec<_> = self.known().filter(|(_, segment)| segment.is_needed()).collect();
        needed.sort_by_key(|(_, segment)| (segment.live_bytes(), segment.order));
        needed.into_iter().map(|(number, _)| number).collect()
    }
}

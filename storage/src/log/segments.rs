//! Accounting of the segments that hold a table's pages: how much of each still counts, and which a checkpoint needs.
//!
//! Always true:
//! - `live_rows` of a segment is the sum of `live` of the pages whose place is in it;
//! - a segment is forgotten only when no page lies in it and no snapshot under way can still make it part of a checkpoint;
//! - `order` rises in the order in which segments are replayed, as far as they hold rows of one group.
//!
//! Pure: reads and writes no file.

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

/// Bytes of all segments that hold live rows, and the part of them that is live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub segments: usize,
    pub rows: u64,
    pub bytes: u64,
    pub live_bytes: u64,
}

impl Segment {
    fn live_bytes(&self) -> u64 {
        (u128::from(self.bytes) * u128::from(self.live_rows) / u128::from(self.rows.max(1))) as u64
    }

    fn is_needed(&self) -> bool {
        self.live_rows > 0
    }
}

/// The segments of one table, by numbers that are used again.
#[derive(Debug, Default)]
pub(super) struct Segments {
    slots: Vec<Option<Segment>>,
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
        let known = self.known().find(|(_, segment)| segment.path == *path).map(|(number, _)| number);
        let number = known.unwrap_or_else(|| self.add(Arc::clone(path)));
        self.latest = Some(number);
        number
    }

    fn add(&mut self, path: Arc<str>) -> u32 {
        let order = self.next_order;
        self.next_order += 1;
        let segment =
            Segment { path, order, bytes: 0, rows: 0, live_rows: 0, pages: 0, groups: Vec::new(), pins: 0 };
        match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = Some(segment);
                free as u32
            }
            None => {
                self.slots.push(Some(segment));
                self.slots.len() as u32 - 1
            }
        }
    }

    /// True when a segment of this path is known.
    pub fn knows(&self, path: &str) -> bool {
        self.known().any(|(_, segment)| &*segment.path == path)
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
    }

    /// A page with `live` live rows has its place in the segment now.
    pub fn place(&mut self, number: u32, live: u32) {
        let segment = self.get_mut(number);
        segment.live_rows += u64::from(live);
        segment.pages += 1;
    }

    /// A page with `live` live rows no longer has its place in the segment.
    pub fn leave(&mut self, number: u32, live: u32) {
        let segment = self.get_mut(number);
        segment.live_rows -= u64::from(live);
        segment.pages -= 1;
    }

    /// A row of a page in the segment no longer counts.
    #[inline]
    pub fn retire(&mut self, number: u32) {
        self.get_mut(number).live_rows -= 1;
    }

    /// Keeps the segment known though it may have no live row.
    pub fn pin(&mut self, number: u32) {
        self.get_mut(number).pins += 1;
    }

    /// Takes one [`Segments::pin`] back.
    pub fn unpin(&mut self, number: u32) {
        self.get_mut(number).pins -= 1;
    }

    /// Forgets segments that no checkpoint will need again.
    pub fn sweep(&mut self) {
        for slot in &mut self.slots {
            if slot.as_ref().is_some_and(|segment| segment.pages == 0 && segment.pins == 0) {
                *slot = None;
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.latest = None;
    }

    /// Paths of the segments with rows that still count, as far as is known: those in `besides` may have some, too.
    pub fn needed(&self, besides: &[u32]) -> Vec<Arc<str>> {
        let wanted = |number: &u32, segment: &Segment| segment.is_needed() || besides.contains(number);
        self.known().filter(|(number, s)| wanted(number, s)).map(|(_, s)| Arc::clone(&s.path)).collect()
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

    /// Live rows of each segment.
    #[cfg(test)]
    pub fn live_rows(&self) -> impl Iterator<Item = (u32, u64)> {
        self.known().map(|(number, segment)| (number, segment.live_rows))
    }

    /// What all together hold.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for (_, segment) in self.known().filter(|(_, segment)| segment.is_needed()) {
            totals.segments += 1;
            totals.rows += segment.rows;
            totals.bytes += segment.bytes;
            totals.live_bytes += segment.live_bytes();
        }
        totals
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

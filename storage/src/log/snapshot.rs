//! Snapshots by fold-over: a begin seals all pages, and what is sealed no longer changes, so it is written whenever there is time.
//!
//! A *delta* of a group writes its dirty pages, each as one block whose rows are the page's slots. A *base* (savepoints, and where
//! snapshots are not incremental) writes the rows that were live at the begin, page by page.
//!
//! Always true:
//! - a snapshot holds exactly the entries at its begin. A page that it has still to write stays until then, though none of its rows may
//!   count any more; and for a base, which leaves out rows that were gone at the begin, a page's `gone` bits are
//!   copied before the first of them changes;
//! - the place of a clean page is in a segment of the last completed snapshot; pages learn of a completion a few at a time, all before
//!   a later snapshot writes. Snapshots may complete in another order than they
//!   began, so one that began on other places remembers those (`inherited`) once they are overridden;
//! - a page that a failed snapshot wrote is as dirty as before.

use super::bits::Bits;
use super::core::Log;
use super::page_table::{NONE, Pages, Place};
use super::segments::Segments;
use crate::key_group::KeyGroup;
use crate::segment::{BLOCK_BYTES_TARGET, BlockKind, Rows, SegmentBuilder};
use crate::table::{GroupPlan, SegmentPaths, Written};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Blocks written for a page whose rows take this many bytes or less cost about as much as passing over so many rows.
const ROWS_PER_BLOCK: usize = 256;

/// Pages that one slice tells where they lie: about 20 µs of work.
const SETTLED_PAGES: usize = 256;

/// The snapshots of one table.
#[derive(Default)]
pub(super) struct Snapshots {
    writing: Option<Box<Writing>>,
    /// Begun and neither completed nor aborted, rising by epoch; the last may still be written.
    pending: Vec<Pending>,
    /// The last completed one, until all its pages know their places.
    settling: Option<Settling>,
    /// Pages that a slice of this tells; none means [`SETTLED_PAGES`].
    #[cfg(test)]
    pub settled_pages: Option<usize>,
}

/// A snapshot that completed, while its pages are told where they lie, a few at a time, in the order in which they were written. One
/// that does not know yet is as dirty as it was before the completion; the next snapshot writes nothing before all know.
struct Settling {
    written: VecDeque<(u32, u64, Place)>,
    segments: Files,
}

/// Segments written for a snapshot, each pinned once.
#[derive(Default)]
struct Files {
    numbers: Vec<u32>,
    paths: SegmentPaths,
}

impl Files {
    /// A page has been written to this segment. One segment is written after another.
    fn wrote_to(&mut self, segment: u32, segments: &mut Segments) {
        if self.numbers.last() != Some(&segment) {
            segments.pin(segment);
            self.paths.set(self.numbers.len(), Some(Arc::clone(segments.path(segment))));
            self.numbers.push(segment);
        }
    }

    fn unpin(&self, segments: &mut Segments) {
        self.numbers.iter().for_each(|segment| segments.unpin(*segment));
    }
}

/// The page of a group that is to be written next.
#[derive(Clone, Copy)]
struct Next {
    page: u32,
    /// Its sequence; the largest possible once the group is done.
    sequence: u64,
}

impl Next {
    fn at(pages: &Pages, page: u32) -> Self {
        Next { page, sequence: if page == NONE { u64::MAX } else { pages.meta(page).sequence } }
    }
}

/// The snapshot that is being written.
struct Writing {
    epoch: u64,
    state: u16,
    plan: Vec<GroupPlan>,
    /// Pages from this sequence on are younger than the snapshot.
    end: u64,
    next: Vec<Next>,
    /// The group being written.
    group: usize,
    /// Rows of a base that do not fill a block yet.
    waiting: Rows,
    any_block: bool,
    /// It began while no other was under way. So all completed ones are older, and it names their segments.
    builds_on_all: bool,
    /// `gone` at the begin, of pages of bases where it has changed since.
    gone: HashMap<u32, Bits>,
    /// Pages without live rows that stay until they are written, with their sequences.
    deferred: Vec<(u32, u64)>,
}

impl Writing {
    /// True while the snapshot has still to write this page.
    fn needs(&self, pages: &Pages, page: u32) -> bool {
        let meta = pages.meta(page);
        meta.sequence < self.end && meta.sequence >= self.next[usize::from(meta.group)].sequence
    }
}

/// A snapshot that is neither completed nor aborted.
struct Pending {
    epoch: u64,
    /// Pages written for it, with their sequences.
    written: VecDeque<(u32, u64, Place)>,
    /// Where pages were that were clean at its begin and have another place now.
    inherited: HashMap<u32, (u64, Place)>,
    segments: Files,
    /// It began while an earlier one was under way.
    overlaps: bool,
}

impl Snapshots {
    /// A row of `page` is about to be gone.
    #[inline(always)]
    pub fn before_retire(&mut self, pages: &Pages, page: u32) {
        if let Some(writing) = &mut self.writing {
            writing.remember(pages, page);
        }
    }

    /// True when `page`, in which no row counts any more, must stay for the running snapshot, which drops it later.
    pub fn defer(&mut self, pages: &Pages, page: u32) -> bool {
        let Some(writing) = self.writing.as_mut().filter(|writing| writing.needs(pages, page)) else {
            return false;
        };
        writing.deferred.push((page, pages.meta(page).sequence));
        true
    }

    /// True while pages do not know yet that a completed snapshot has them: numbers of live rows of its segments mean nothing.
    pub fn is_settling(&self) -> bool {
        self.settling.is_some()
    }

    /// True when the running snapshot has still to write `page`, so that its memory must stay or be read back.
    pub fn needs(&self, pages: &Pages, page: u32) -> bool {
        self.writing.as_ref().is_some_and(|writing| writing.needs(pages, page))
    }
}

impl Writing {
    #[cold]
    #[inline(never)]
    fn remember(&mut self, pages: &Pages, page: u32) {
        let meta = pages.meta(page);
        if self.plan[usize::from(meta.group)] != GroupPlan::Delta && self.needs(pages, page) {
            self.gone.entry(page).or_insert_with(|| meta.gone.clone());
        }
    }
}

impl Log {
    /// See [`crate::table::StateTable::begin_snapshot`].
    pub fn begin_snapshot(&mut self, name: &str, state: u16, plan: &[GroupPlan]) -> u64 {
        assert!(
            self.snapshots.writing.is_none(),
            "the earlier snapshot of state {name} is written or aborted"
        );
        assert_eq!(plan.len(), self.range.len(), "a plan for each key group");
        let overlaps = !self.snapshots.pending.is_empty();
        if overlaps {
            self.settle(usize::MAX);
        }
        let epoch = u64::from(self.epoch);
        // Open pages are those of the present epoch, so this seals them.
        self.epoch = self.epoch.checked_add(1).expect("fewer than u32::MAX snapshots in one run");
        self.pages.mutable_bytes = 0;
        let first = |(list, plan): (&super::page_table::Group, &GroupPlan)| {
            Next::at(&self.pages, if *plan == GroupPlan::Delta { list.first_dirty } else { list.head })
        };
        let next = self.pages.groups.iter().zip(plan).map(first).collect();
        self.snapshots.writing = Some(Box::new(Writing {
            epoch,
            state,
            plan: plan.to_vec(),
            end: self.pages.next_sequence(),
            next,
            group: 0,
            waiting: Rows::new(self.pages.shape.key, self.pages.shape.value),
            any_block: false,
            builds_on_all: !overlaps,
            gone: HashMap::new(),
            deferred: Vec::new(),
        }));
        let (written, inherited, segments) = (VecDeque::new(), HashMap::new(), Files::default());
        self.snapshots.pending.push(Pending { epoch, written, inherited, segments, overlaps });
        epoch
    }

    /// See [`crate::table::StateTable::advance_snapshot`].
    pub fn advance_snapshot(&mut self, out: &mut SegmentBuilder, rows: usize) -> Written {
        if self.snapshots.writing.is_some() {
            if rows == usize::MAX {
                self.settle(usize::MAX);
            } else if self.settle_slice() {
                return Written::More;
            }
        }
        let Some(mut writing) = self.snapshots.writing.take() else { return Written::Done };
        let start_bytes = out.bytes();
        let mut visited = 0;
        loop {
            if writing.group == writing.plan.len() {
                return Written::Done;
            }
            let next = writing.next[writing.group];
            if next.sequence >= writing.end {
                writing.next[writing.group].sequence = u64::MAX;
                let wrote = writing.finish_group(self.range.start, out);
                writing.group += 1;
                if wrote && writing.group < writing.plan.len() {
                    self.snapshots.writing = Some(writing);
                    return Written::Groups;
                }
                continue;
            }
            if visited >= rows.max(1) || out.bytes() - start_bytes >= BLOCK_BYTES_TARGET as u64 / 2 {
                self.snapshots.writing = Some(writing);
                return Written::More;
            }
            if writing.builds_on_all
                && writing.plan[writing.group] == GroupPlan::Delta
                && !self.pages.meta(next.page).is_dirty()
            {
                // It did not know yet, at the begin, that the snapshot before has it.
                visited += ROWS_PER_BLOCK / 16;
                writing.next[writing.group] = Next::at(&self.pages, self.pages.meta(next.page).next);
                if self.pages.meta(next.page).live == 0 {
                    self.emptied(next.page);
                }
                continue;
            }
            // A cold page is read back first.
            if !self.ask_in_order(next.page) {
                if rows != usize::MAX {
                    self.snapshots.writing = Some(writing);
                    return Written::Waits;
                }
                self.fetch(next.page);
            }
            visited += ROWS_PER_BLOCK;
            if writing.plan[writing.group] == GroupPlan::Delta {
                self.write_page(&mut writing, next.page, out);
            } else {
                visited += self.scan_page(&mut writing, next.page, out);
            }
            writing.next[writing.group] = Next::at(&self.pages, self.pages.meta(next.page).next);
            if self.pages.meta(next.page).live == 0 {
                self.emptied(next.page);
            }
        }
    }

    /// Writes one dirty page.
    fn write_page(&mut self, writing: &mut Writing, page: u32, out: &mut SegmentBuilder) {
        if self.pages.meta(page).count == 0 {
            return;
        }
        self.pages.clear_fresh(page);
        let meta = self.pages.meta(page);
        let (group, count, sequence) = (meta.group, meta.count, meta.sequence);
        let mut rows = Rows::new(self.pages.shape.key, self.pages.shape.value);
        self.copy_rows(page, &mut rows, |_, _| true);
        let place = out.page(writing.state, self.range.start + group, &rows);
        let segment = self.segments.number_of(&place.segment);
        self.segments.add_block(segment, group, count, place.bytes);
        let place = Place { segment, index: place.index, bytes: place.bytes, offset: place.offset };
        let pending = self.snapshots.pending.last_mut().expect("the snapshot being written is pending");
        pending.segments.wrote_to(segment, &mut self.segments);
        pending.written.push_back((page, sequence, place));
        writing.any_block = true;
    }

    /// Takes the rows of a page that were live at the begin, and writes blocks as they fill; the number of rows.
    fn scan_page(&mut self, writing: &mut Writing, page: u32, out: &mut SegmentBuilder) -> usize {
        let meta = self.pages.meta(page);
        let gone = writing.gone.remove(&page);
        let gone = gone.as_ref().unwrap_or(&meta.gone);
        let wanted = |slot, value: &[u8]| {
            let live = !gone.get(slot) && !meta.tombstones.get(slot);
            live && self.expiry.as_ref().is_none_or(|expiry| !expiry.is_due(value))
        };
        self.copy_rows(page, &mut writing.waiting, wanted);
        let count = meta.count as usize;
        if writing.waiting.raw_bytes() >= BLOCK_BYTES_TARGET {
            writing.write_blocks(self.range.start, out);
        }
        count
    }

    /// Appends the rows of a page, which is in memory, to `rows`, tombstones without a value.
    fn copy_rows(&self, page: u32, rows: &mut Rows, wanted: impl Fn(u32, &[u8]) -> bool) {
        let bytes = self.pages.resident(page).expect("a page that is written is in memory");
        let meta = self.pages.meta(page);
        for slot in 0..meta.count {
            let (key, value) = self.pages.shape.key_value(bytes, slot as usize);
            if !wanted(slot, value) {
                continue;
            }
            rows.push_encoded(key, (!meta.tombstones.get(slot)).then_some(value));
        }
    }

    /// See [`crate::table::StateTable::completed`].
    pub fn completed(&mut self, epoch: u64) {
        let Some(at) = self.snapshots.pending.iter().position(|pending| pending.epoch == epoch) else {
            return;
        };
        assert!(
            self.snapshots.writing.as_ref().is_none_or(|writing| writing.epoch != epoch),
            "a snapshot completes after it is written"
        );
        self.settle(usize::MAX);
        // Older ones can no longer be built upon.
        let mut done: Vec<Pending> = self.snapshots.pending.drain(..=at).collect();
        let completed = done.pop().expect("it was just found");
        for (page, (sequence, place)) in &completed.inherited {
            self.set_place(*page, *sequence, *place);
        }
        completed.inherited.values().for_each(|(_, place)| self.segments.unpin(place.segment));
        done.into_iter().for_each(|pending| self.forget(pending));
        let Pending { written, segments, overlaps, .. } = completed;
        self.snapshots.settling = Some(Settling { written, segments });
        if overlaps {
            // Pages may have places in files that this completion makes needless: those must not be read any more.
            self.settle(usize::MAX);
        } else {
            // Small tables are done with this.
            self.settle_slice();
        }
    }

    /// A slice of telling pages where the last completed snapshot has them. True when there is more to do.
    pub fn settle_slice(&mut self) -> bool {
        #[cfg(test)]
        let pages = self.snapshots.settled_pages.unwrap_or(SETTLED_PAGES);
        #[cfg(not(test))]
        let pages = SETTLED_PAGES;
        self.settle(pages);
        self.snapshots.settling.is_some()
    }

    /// Tells `pages` pages where the last completed snapshot has them.
    fn settle(&mut self, pages: usize) {
        let Some(mut settling) = self.snapshots.settling.take() else { return };
        for _ in 0..pages {
            if let Some((page, sequence, place)) = settling.written.pop_front() {
                self.set_place(page, sequence, place);
            } else {
                settling.segments.unpin(&mut self.segments);
                self.segments.sweep();
                self.close_files();
                self.compaction.wake();
                return;
            }
        }
        self.snapshots.settling = Some(settling);
    }

    /// A completed snapshot has `page` at `place`.
    fn set_place(&mut self, page: u32, sequence: u64, place: Place) {
        if !self.pages.is(page, sequence) {
            return;
        }
        let meta = self.pages.meta_mut(page);
        let before = meta.set_place(Some(place));
        let live = meta.live;
        self.pages.update_first_dirty(page);
        self.page_is_clean(page);
        self.segments.place(place.segment, live);
        let Some(before) = before else { return };
        self.segments.leave(before.segment, live);
        for pending in &mut self.snapshots.pending {
            pending.inherited.entry(page).or_insert_with(|| {
                self.segments.pin(before.segment);
                (sequence, before)
            });
        }
    }

    /// A snapshot can no longer become a completed one, or has.
    fn forget(&mut self, pending: Pending) {
        pending.segments.unpin(&mut self.segments);
        pending.inherited.values().for_each(|(_, place)| self.segments.unpin(place.segment));
    }

    /// See [`crate::table::StateTable::aborted`].
    pub fn aborted(&mut self, epoch: u64) {
        if let Some(writing) = self.snapshots.writing.take_if(|writing| writing.epoch == epoch) {
            for (page, sequence) in writing.deferred {
                if self.pages.is(page, sequence) && self.pages.meta(page).live == 0 {
                    self.emptied(page);
                }
            }
        }
        if let Some(at) = self.snapshots.pending.iter().position(|pending| pending.epoch == epoch) {
            let aborted = self.snapshots.pending.remove(at);
            self.forget(aborted);
            self.segments.sweep();
        }
    }

    /// See [`crate::table::StateTable::segments_needed`].
    pub fn segments_needed(&self) -> SegmentPaths {
        let mut needed = self.segments.needed();
        if let Some(settling) = &self.snapshots.settling {
            // Pages that do not know yet where they lie may have live rows in these.
            needed.join(&settling.segments.paths);
        }
        needed
    }

    /// See [`crate::table::StateTable::detach`].
    pub fn detach(&mut self) {
        assert!(self.snapshots.pending.is_empty(), "a table is detached before its first snapshot");
        self.settle(usize::MAX);
        self.keep_places();
        self.pages.forget_places();
        self.segments.clear();
    }
}

impl Writing {
    /// Writes what is left of a base; true when the group has a block.
    fn finish_group(&mut self, first_group: KeyGroup, out: &mut SegmentBuilder) -> bool {
        self.write_blocks(first_group, out);
        if self.plan[self.group] == GroupPlan::Rebase && !self.any_block {
            out.empty_base(self.state, first_group + self.group as KeyGroup);
            self.any_block = true;
        }
        std::mem::replace(&mut self.any_block, false)
    }

    /// Writes the waiting rows of a base.
    fn write_blocks(&mut self, first_group: KeyGroup, out: &mut SegmentBuilder) {
        let mut written = 0;
        while written < self.waiting.len() {
            let range = written..self.waiting.len();
            let group = first_group + self.group as KeyGroup;
            written += out.block(self.state, group, BlockKind::Base, &self.waiting, range);
            self.any_block = true;
        }
        self.waiting.clear();
    }
}

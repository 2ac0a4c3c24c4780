//! Keeps the pages of one table within a budget of memory: drops cold ones, brings them back for announced keys, and sends changed ones
//! to the scratch file where that does not suffice.
//!
//! A sealed page leaves memory by CLOCK: at once where it can be read back, from the segment of a completed checkpoint or from the
//! scratch file; else after it was written there. Pages of the present epoch may take half of the budget; beyond that, and where
//! nothing else is left, one that is full is sealed early.
//!
//! Always true:
//! - a page without memory has a place: that of its block, or one in `homes`;
//! - pages that announced keys need are held until the next announcement, and take at most half of the budget, or the first key's
//!   pages where those exceed it (for what awaited heads of collections name, see `follow`); so what was announced can be used without waiting once `awaited` is 0;
//! - pages, and the memory kept free for pages being read, exceed the budget by no more than what cannot leave at once: held and
//!   open pages, changed ones whose write is under way (with a copy of each, an eighth of the budget at most), and all changed
//!   ones while there is no scratch file or its disk is full.
//!
//! Nothing leaves memory within a call that uses rows, but for [`Log::fetch`], [`Log::ask`], and what is documented to make room.

use super::clock::Clock;
use super::fetch::{Fetched, Fetcher, Source};
use super::follow::Following;
use super::scratch::Scratch;
use crate::error::StoreError;
use crate::log::core::Log;
use crate::log::options::LogOptions;
use crate::log::page::RowShape;
use crate::log::page_table::{NONE, Pages};
use crate::segment::Expected;
use crate::table::prefetch_line;
use std::collections::HashMap;
use std::path::PathBuf;

/// Pages that the search for a victim passes at most.
const VISITS_MAX: usize = 8_192;

/// Pages that a pass in order reads ahead.
pub(in crate::log) const READ_AHEAD: usize = 16;

/// What a table with a budget knows besides its pages.
pub(in crate::log) struct Cold {
    pub(super) budget: usize,
    clock: Clock,
    fetcher: Fetcher,
    scratch: Option<Scratch>,
    /// The disk refused to take a page; not tried again before the next checkpoint has completed.
    scratch_is_full: bool,
    /// Where pages are that no completed checkpoint has: in the scratch file, or in a segment that is not the job's own.
    homes: HashMap<u32, Source>,
    /// Pages being written to the scratch file, by sequence, with their bytes.
    writing: HashMap<u64, (u32, usize)>,
    writing_bytes: usize,
    /// Pages that are held for announced keys.
    announced: Vec<u32>,
    pub(super) announced_bytes: usize,
    /// Those of them that are not in memory yet.
    awaited: usize,
    /// Pages without memory.
    absent: usize,
    /// A read that failed and that nobody has been told of.
    failed: Option<StoreError>,
    pub(super) following: Following,
}

impl Cold {
    /// What `options` ask for; none where all pages stay in memory. `name` is the state's.
    pub fn new(options: &LogOptions, name: &str) -> Option<Box<Cold>> {
        let (disk, job_dir) = (options.disk.as_ref()?, options.job_dir.clone()?);
        let budget = options.memory_bytes?;
        // The tables of a task share the path.
        let of_table = |path: &PathBuf| {
            let mut path = path.clone().into_os_string();
            path.push(format!("-{:016x}", xxhash_rust::xxh3::xxh3_64(name.as_bytes())));
            Scratch::new(disk.clone(), path.into())
        };
        Some(Box::new(Cold {
            budget,
            clock: Clock::default(),
            fetcher: Fetcher::new(disk.clone(), job_dir),
            scratch: options.scratch.as_ref().map(of_table),
            scratch_is_full: false,
            homes: HashMap::new(),
            writing: HashMap::new(),
            writing_bytes: 0,
            announced: Vec::new(),
            announced_bytes: 0,
            awaited: 0,
            absent: 0,
            failed: None,
            following: Following::none(),
        }))
    }

    /// Bytes of memory, without pages.
    pub fn bytes(&self) -> usize {
        self.clock.bytes()
            + self.homes.capacity() * size_of::<(u32, Source)>()
            + self.announced.capacity() * size_of::<u32>()
    }

    /// Ends what was announced before; true while all pages are in memory and fit it, so that announced keys need nothing.
    #[inline(always)]
    pub fn is_idle(&mut self, pages: &Pages) -> bool {
        if !self.announced.is_empty() {
            self.release();
        }
        self.absent == 0 && pages.used_bytes() <= self.budget
    }

    /// Ends what was announced.
    fn release(&mut self) {
        for page in self.announced.drain(..) {
            self.clock.release(page);
        }
        (self.announced_bytes, self.awaited) = (0, 0);
        self.following.clear();
    }

    fn is_over(&self, pages: &Pages) -> bool {
        pages.used_bytes() + self.fetcher.reserved_bytes() > self.budget
    }

    /// Drops pages, and begins to write others, until the rest fits the budget.
    pub(super) fn make_room(&mut self, pages: &mut Pages, epoch: u32) {
        self.poll_writes(pages);
        let numbers = pages.numbers();
        let visits = VISITS_MAX.min(2 * numbers as usize);
        while self.is_over(pages) {
            let (homes, table) = (&self.homes, &*pages);
            let may_go = |page| {
                is_sealed(table, page, epoch) && (!table.meta(page).is_dirty() || homes.contains_key(&page))
            };
            let Some(page) = self.clock.victim(numbers, visits, may_go) else { break };
            pages.detach(page);
            self.absent += 1;
        }
        if self.scratch.is_none() || self.scratch_is_full {
            return;
        }
        let excess = (pages.used_bytes() + self.fetcher.reserved_bytes()).saturating_sub(self.budget);
        // Pages of the present epoch would otherwise, without checkpoints, crowd out all others.
        let crowding = if self.absent > 0 { pages.mutable_bytes.saturating_sub(self.budget / 2) } else { 0 };
        while self.writing_bytes < excess.max(crowding).min(self.budget / 8) {
            let (homes, writing, table) = (&self.homes, &self.writing, &*pages);
            let sealed = |page| {
                let meta = table.meta(page);
                is_sealed(table, page, epoch)
                    && meta.is_dirty()
                    && !homes.contains_key(&page)
                    && !writing.contains_key(&meta.sequence)
            };
            let full = |page| {
                let is_open = || table.groups[usize::from(table.meta(page).group)].open == page;
                table.entry(page).is_some_and(|entry| entry.is_resident() && entry.epoch == epoch)
                    && !is_open()
            };
            let mut victim = None;
            if excess > self.writing_bytes {
                victim = self.clock.victim(numbers, visits, sealed);
            }
            let Some(page) = victim.or_else(|| self.clock.victim(numbers, visits, full)) else { break };
            pages.seal(page, epoch);
            self.write(pages, page);
        }
    }

    fn write(&mut self, pages: &Pages, page: u32) {
        if let (Some(scratch), Some(rows)) = (&mut self.scratch, pages.resident(page)) {
            let sequence = pages.meta(page).sequence;
            self.writing.insert(sequence, (page, rows.len()));
            self.writing_bytes += rows.len();
            scratch.write(sequence, rows.to_vec());
        }
    }

    /// Drops pages whose write is over.
    fn poll_writes(&mut self, pages: &mut Pages) {
        let Cold { homes, writing, writing_bytes, clock, fetcher, absent, scratch_is_full, .. } = self;
        let Some(scratch) = self.scratch.as_mut().filter(|_| !writing.is_empty()) else { return };
        scratch.poll(|sequence, written| {
            let (page, image_bytes) = writing.remove(&sequence).expect("a write is over once");
            *writing_bytes -= image_bytes;
            let is_needed = pages.is(page, sequence) && pages.meta(page).is_dirty();
            match written {
                Ok(slot) if is_needed => {
                    homes.insert(page, Source::Scratch(slot));
                    let is_over = pages.used_bytes() + fetcher.reserved_bytes() > self.budget;
                    if is_over && !clock.is_held(page) && pages.resident(page).is_some() {
                        pages.detach(page);
                        *absent += 1;
                    }
                    true
                }
                Ok(_) => false,
                Err(error) => {
                    if !std::mem::replace(scratch_is_full, true) {
                        tracing::warn!(%error, "changed state stays in memory until the next checkpoint");
                    }
                    false
                }
            }
        });
    }

    /// Takes in pages that were read.
    fn poll_reads(&mut self, pages: &mut Pages, bytes: &mut u64) -> u64 {
        let mut came = 0;
        let Cold { fetcher, scratch, clock, awaited, absent, .. } = self;
        let polled = fetcher.poll(scratch.as_ref(), |page, fetched| {
            came += 1;
            *absent -= 1;
            *awaited -= usize::from(clock.is_held(page));
            clock.touch(page);
            attach(pages, page, &fetched, bytes);
        });
        if let Err((_, error)) = polled {
            self.failed = Some(error);
        }
        came
    }
}

/// True for a page in memory that no longer changes.
fn is_sealed(pages: &Pages, page: u32, epoch: u32) -> bool {
    pages.entry(page).is_some_and(|entry| entry.is_resident() && entry.epoch != epoch)
}

/// Gives a page its rows again, and keeps `bytes`, those of all rows: a row that was gone before it was written has lost its value.
fn attach(pages: &mut Pages, page: u32, fetched: &Fetched, bytes: &mut u64) {
    match fetched {
        Fetched::Rows(rows) => {
            *bytes -= u64::from(pages.meta(page).used);
            pages.fill(page, rows);
            *bytes += u64::from(pages.meta(page).used);
        }
        Fetched::Image(image) => {
            pages.attach(page, image.len());
            pages.rows_mut(page).copy_from_slice(image);
        }
    }
}

impl Log {
    /// Where a page without memory is.
    fn source(&self, cold: &Cold, page: u32) -> Source {
        let meta = self.pages.meta(page);
        let Some(place) = meta.place() else {
            return cold.homes.get(&page).expect("a page without memory has a place").clone();
        };
        Source::Block {
            segment: self.segments.path(place.segment).clone(),
            offset: place.offset,
            bytes: place.bytes,
            expected: Expected {
                index: place.index,
                state: None,
                group: self.range.start + meta.group,
                kind: None,
                rows: meta.count,
                widths: Some((self.pages.shape.key, self.pages.shape.value)),
            },
        }
    }

    /// Begins to read a page, unless it is in memory or being read.
    fn start_read(&self, cold: &mut Cold, page: u32) {
        if self.pages.resident(page).is_some() || cold.fetcher.is_reading(page) {
            return;
        }
        let (source, bytes) = (self.source(cold, page), self.pages.memory_of(page));
        cold.fetcher.start(page, source, bytes, cold.scratch.as_ref());
    }

    /// See [`crate::table::StateTable::ready`].
    pub fn ready(&mut self) -> Result<bool, StoreError> {
        let Some(cold) = &mut self.cold else { return Ok(true) };
        self.counters.page_reads += cold.poll_reads(&mut self.pages, &mut self.bytes);
        if let Some(error) = cold.failed.take() {
            cold.release();
            return Err(error);
        }
        let (come, over) = (cold.awaited == 0, cold.following.is_over());
        if !come || over {
            return Ok(come);
        }
        self.follow_awaited();
        Ok(self.cold.as_ref().is_none_or(|cold| cold.awaited == 0))
    }

    /// Drops pages that do not fit the budget, and reports a read for work in the background that failed.
    ///
    /// # Errors
    /// That of the read.
    pub fn tend_memory(&mut self) -> Result<(), StoreError> {
        let Some(cold) = &mut self.cold else { return Ok(()) };
        self.counters.page_reads += cold.poll_reads(&mut self.pages, &mut self.bytes);
        cold.make_room(&mut self.pages, self.epoch);
        cold.failed.take().map_or(Ok(()), Err)
    }

    /// Drops pages that do not fit the budget.
    pub fn make_room(&mut self) {
        if let Some(cold) = &mut self.cold {
            cold.make_room(&mut self.pages, self.epoch);
        }
    }

    /// [`super::super::LogTable::announce`] of a table that is not all in memory.
    #[inline(never)]
    pub fn announce(&mut self, shape: RowShape, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        let Some(mut cold) = self.cold.take() else { return hashes.len() };
        hashes.clone().for_each(|hash| self.index.prefetch(hash));
        let mut accepted = 0;
        for hash in hashes {
            let first = cold.announced.len();
            let (candidates, absent) = self.hold(&mut cold, shape, hash);
            let mut fits = true;
            if absent > 0 {
                cold.following.later(hash);
            } else if candidates > 0 {
                let limit = cold.budget / 2;
                fits = self.follow(&mut cold, shape, hash, limit);
            }
            fits &= cold.announced_bytes + cold.following.reserved_bytes() <= cold.budget / 2;
            if !fits && accepted > 0 {
                // Too much for one batch: lets go of what only this key needs.
                if absent > 0 {
                    cold.following.not_later(hash);
                }
                for page in cold.announced.drain(first..) {
                    cold.clock.release(page);
                    cold.announced_bytes -= self.pages.memory_of(page);
                    cold.awaited -= usize::from(self.pages.resident(page).is_none());
                }
                break;
            }
            accepted += 1;
            self.counters.page_hits += u64::from(candidates > 0 && absent == 0);
        }
        self.read_announced(&mut cold);
        cold.make_room(&mut self.pages, self.epoch);
        self.cold = Some(cold);
        accepted
    }

    /// Holds the pages of all rows that may be the one of `hash`; how many rows there are, and how many of them are not in memory.
    #[inline(always)]
    pub(super) fn hold(&self, cold: &mut Cold, shape: RowShape, hash: u64) -> (usize, usize) {
        let (mut candidates, mut absent) = (0, 0);
        // Asks for all entries of the tag, wherever the probe finds them.
        let _ = self.index.find::<()>(hash, |page, slot| {
            let entry = self.pages.entry(page)?;
            candidates += 1;
            if entry.is_resident() {
                prefetch_line(entry.address(shape.first_touched(entry.capacity(), slot as usize)));
            } else {
                absent += 1;
            }
            if cold.clock.hold(page) {
                cold.announced.push(page);
                cold.announced_bytes += self.pages.memory_of(page);
                cold.awaited += usize::from(!entry.is_resident());
            }
            None
        });
        (candidates, absent)
    }

    /// Begins to read the announced pages that are not in memory.
    pub(super) fn read_announced(&self, cold: &mut Cold) {
        if cold.awaited > 0 {
            let announced = std::mem::take(&mut cold.announced);
            announced.iter().for_each(|page| self.start_read(cold, *page));
            cold.announced = announced;
        }
    }

    /// Brings a page into memory while the caller waits: for keys that nobody announced. Others may leave memory.
    ///
    /// # Panics
    /// When the page cannot be read, or is damaged.
    #[cold]
    #[inline(never)]
    pub fn fetch(&mut self, page: u32) {
        let Some(mut cold) = self.cold.take() else { unreachable!("only a table with a budget drops pages") };
        self.start_read(&mut cold, page);
        cold.make_room(&mut self.pages, self.epoch);
        let (source, bytes) = (self.source(&cold, page), self.pages.memory_of(page));
        let fetched = cold.fetcher.wait(page, source, bytes, cold.scratch.as_ref());
        if let Ok(fetched) = &fetched {
            self.counters.page_reads_blocking += 1;
            cold.absent -= 1;
            cold.awaited -= usize::from(cold.clock.is_held(page));
            cold.clock.touch(page);
            attach(&mut self.pages, page, fetched, &mut self.bytes);
        }
        self.cold = Some(cold);
        if let Err(error) = fetched {
            panic!("state cannot be read back: {error}");
        }
    }

    /// True when the rows of `page` are in memory; otherwise asks for them to be read back, and for some of those `ahead`, and the
    /// caller comes again later. For everything that passes over pages in the background. Others may leave memory.
    /// [`Log::ready`] and [`Log::tend_memory`] tell of a read that failed; until then nothing more is read.
    pub fn ask(&mut self, page: u32, ahead: impl IntoIterator<Item = u32>) -> bool {
        if self.pages.resident(page).is_some() {
            return true;
        }
        let Some(mut cold) = self.cold.take() else { unreachable!("only a table with a budget drops pages") };
        if cold.failed.is_none() {
            self.start_read(&mut cold, page);
            for ahead in ahead.into_iter().take(READ_AHEAD) {
                if cold.fetcher.reserved_bytes() >= cold.budget / 4 {
                    break;
                }
                self.start_read(&mut cold, ahead);
            }
            cold.make_room(&mut self.pages, self.epoch);
            self.counters.page_reads += cold.poll_reads(&mut self.pages, &mut self.bytes);
        }
        self.cold = Some(cold);
        self.pages.resident(page).is_some()
    }

    /// As [`Log::ask`], for whoever goes through a group's list: reads ahead in it.
    pub fn ask_in_order(&mut self, page: u32) -> bool {
        if self.pages.resident(page).is_some() {
            return true;
        }
        let next = |page: &u32| Some(self.pages.meta(*page).next).filter(|next| *next != NONE);
        let ahead: Vec<u32> = std::iter::successors(next(&page), next).take(READ_AHEAD).collect();
        self.ask(page, ahead)
    }

    /// `page` is about to be given back.
    pub fn page_goes(&mut self, page: u32) {
        self.pages.seal(page, self.epoch);
        let Some(cold) = &mut self.cold else { return };
        if self.pages.resident(page).is_none() {
            cold.absent -= 1;
            cold.awaited -= usize::from(cold.clock.is_held(page));
            cold.fetcher.forget(page);
        }
        cold.forget_home(page);
    }

    /// A completed checkpoint has `page` now: its place is there.
    pub fn page_is_clean(&mut self, page: u32) {
        let Some(mut cold) = self.cold.take() else { return };
        let was_being_read = cold.homes.contains_key(&page) && cold.fetcher.is_reading(page);
        if was_being_read {
            // The slot may be used again before that read is over.
            cold.fetcher.forget(page);
        }
        cold.forget_home(page);
        if was_being_read {
            self.start_read(&mut cold, page);
        }
        self.cold = Some(cold);
    }

    /// A checkpoint has completed: files that no page needs any longer are closed.
    pub fn close_files(&mut self) {
        let Some(cold) = &mut self.cold else { return };
        cold.scratch_is_full = false;
        let homes = &cold.homes;
        cold.fetcher.keep_files(|path| {
            let is_in = |home: &Source| matches!(home, Source::Block { segment, .. } if &**segment == path);
            self.segments.knows(path) || homes.values().any(is_in)
        });
    }

    /// Closes all files, so that the next read opens one.
    #[cfg(test)]
    pub fn close_all_files(&mut self) {
        if let Some(cold) = &mut self.cold {
            cold.fetcher.keep_files(|_| false);
        }
    }

    /// No page has its place in a segment of the job any more: those without memory are remembered where they are.
    pub fn keep_places(&mut self) {
        let Some(mut cold) = self.cold.take() else { return };
        for group in 0..self.pages.groups.len() {
            for page in self.pages.of_group(group) {
                if self.pages.resident(page).is_none() && !self.pages.meta(page).is_dirty() {
                    let source = self.source(&cold, page);
                    cold.homes.insert(page, source);
                }
            }
        }
        self.cold = Some(cold);
    }
}

impl Cold {
    fn forget_home(&mut self, page: u32) {
        if let (Some(Source::Scratch(slot)), Some(scratch)) = (self.homes.remove(&page), &mut self.scratch) {
            scratch.free(slot);
        }
    }
}

//! Reading a task's keyed state back from the segments of a completed checkpoint.
//!
//! First the directories of all segments tell, for each state and group, which checkpoint has the latest base; then the
//! blocks from there on are read, and applied in the order in which they were written. Only what the task's groups need is
//! read, and all that is read is checked. Where files can be mapped, several threads check and decode blocks while this one
//! applies those before; otherwise this thread does all, so that a simulated disk sees its requests in one order.
//!
//! Always true:
//! - of a segment only the states and groups count that its [`SegmentRef`] names;
//! - each table gets rows of its own types: those of older schemas are rewritten on the way;
//! - the chain that results names exactly what a later snapshot may build on. A table is given a block as a whole
//!   ([`StateTable::restore_block`](crate::table::StateTable::restore_block)) only if every block of its state that
//!   counts in that segment is as the table would write it; else its rows ([`StateTable::restore_rows`](crate::table::StateTable::restore_rows)).

use super::Tables;
use super::chain::{Chain, Part, Sequence};
use super::pipeline::in_order;
use super::segment_file::SegmentFile;
use crate::codec::{Schema, describe};
use crate::error::StoreError;
use crate::io::DiskHandle;
use crate::key_group::KeyGroup;
use crate::manifest::{KeyedStateMeta, SegmentRef};
use crate::segment::{
    BlockDecoder, BlockEntry, BlockKind, BlockPlace, BlockSummary, Migration, Rows, Run, SegmentIndex,
    SegmentReader, Source,
};
use crate::table::SegmentPaths;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Stored state of an operator.
pub(super) struct Stored<'a> {
    pub disk: &'a DiskHandle,
    pub job_dir: &'a Path,
    pub segments: &'a [SegmentRef],
    pub metas: &'a [KeyedStateMeta],
    pub allow_unmatched: bool,
    /// Threads that read and decode, where files can be mapped.
    pub threads: usize,
}

/// A segment that counts for this task.
struct Found<'a> {
    reference: &'a SegmentRef,
    path: Arc<str>,
    index: SegmentIndex,
    /// Table of each of the file's states, where that counts.
    tables: Vec<Option<u16>>,
    /// The groups that count.
    groups: Range<KeyGroup>,
    mapped: bool,
}

/// What is done with the needed blocks of one state of a segment.
#[derive(Clone)]
struct Use {
    table: u16,
    migration: Migration,
    /// The table may refer to the blocks: later snapshots name the segment for it.
    kept: bool,
    /// Later snapshots build on the blocks by the rule of bases and deltas.
    ruled: bool,
}

/// The blocks of one run, checked and decoded.
type Decoded = Result<Vec<(BlockEntry, Rows)>, StoreError>;

/// The first checkpoint whose blocks of each table and group count.
type Bases = HashMap<(u16, KeyGroup), Sequence>;

impl Found<'_> {
    fn sequence(&self) -> Sequence {
        (self.index.checkpoint(), self.index.attempt())
    }

    /// The table that a block is for, if it counts.
    fn table(&self, block: &BlockEntry) -> Option<u16> {
        self.tables[usize::from(block.state)].filter(|_| self.groups.contains(&block.group))
    }

    /// The blocks that count, with their tables.
    fn counted(&self) -> impl Iterator<Item = (u16, BlockEntry)> {
        self.index.blocks().filter_map(|block| Some((self.table(&block)?, block)))
    }

    /// True where no later base voids the blocks of a table and group.
    fn is_needed(&self, bases: &Bases, table: u16, group: KeyGroup) -> bool {
        bases.get(&(table, group)).is_none_or(|base| *base <= self.sequence())
    }
}

impl Stored<'_> {
    /// Fills `tables` for `groups`; the chain of the segments they came from.
    pub fn load(&self, groups: &Range<KeyGroup>, tables: &mut dyn Tables) -> Result<Chain, StoreError> {
        let wanted: Vec<KeyedStateMeta> = (0..tables.count()).map(|i| tables.table(i).meta()).collect();
        for meta in self.metas {
            if let Some(table) = self.table_of(&wanted, meta)? {
                migration_of(meta, &wanted[usize::from(table)], table, tables)?;
            }
        }
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for reference in self.segments {
            let counted = reference.groups.start.max(groups.start)..reference.groups.end.min(groups.end);
            if counted.start < counted.end && seen.insert(reference) {
                found.push(self.look_into(reference, &wanted, counted, tables)?);
            }
        }
        found.sort_by_key(|segment| (segment.sequence(), segment.index.file()));
        crash_point!("restore.after_directories");
        let mut bases = Bases::new();
        for segment in &found {
            for (table, block) in segment.counted().filter(|(_, block)| block.kind == BlockKind::Base) {
                bases.insert((table, block.group), segment.sequence());
            }
        }
        let uses = found
            .iter()
            .map(|segment| uses_of(segment, &bases, &wanted, tables))
            .collect::<Result<Vec<_>, _>>()?;
        for ((table, group), rows) in expected_rows(&found, &bases) {
            tables.table(usize::from(table)).expect_rows(group, rows);
        }
        self.read(&found, &uses, &bases, tables)?;
        (0..tables.count()).for_each(|i| tables.table(i).restored());
        Ok(chain_of(&found, &uses, &bases, tables))
    }

    /// The table for a stored state, by name.
    fn table_of(
        &self,
        wanted: &[KeyedStateMeta],
        stored: &KeyedStateMeta,
    ) -> Result<Option<u16>, StoreError> {
        match wanted.iter().position(|wanted| wanted.name == stored.name) {
            Some(table) => Ok(Some(table as u16)),
            None if self.allow_unmatched => Ok(None),
            None => Err(StoreError::Incompatible(format!(
                "the checkpoint holds keyed state {:?}, but the operator declares none of that name: declare it, or allow \
                 stored state to be dropped",
                stored.name
            ))),
        }
    }

    fn look_into<'a>(
        &self,
        reference: &'a SegmentRef,
        wanted: &[KeyedStateMeta],
        groups: Range<KeyGroup>,
        tables: &mut dyn Tables,
    ) -> Result<Found<'a>, StoreError> {
        let file = SegmentFile::open(self.disk, self.job_dir, reference)?;
        let (path, mapped) = (file.path().to_owned(), file.is_mapped());
        let index = SegmentReader::open(file, &path)?.into_index();
        if tables.count() > 0 && tables.table(0).key_groups().count() != index.max_parallelism() {
            return Err(StoreError::Incompatible(format!(
                "the checkpoint was taken with a maximum parallelism of {}, the job now has {}: it is fixed for a job's life",
                index.max_parallelism(),
                tables.table(0).key_groups().count()
            )));
        }
        // A segment may hold states that the operator has dropped since: only the manifest's count.
        let table = |meta: &KeyedStateMeta| {
            let counts = reference.states.contains(&meta.name)
                && self.metas.iter().any(|listed| listed.name == meta.name);
            let position = wanted.iter().position(|wanted| wanted.name == meta.name).filter(|_| counts)?;
            Some(position as u16)
        };
        let tables = index.states().iter().map(table).collect();
        Ok(Found { reference, path: reference.path.as_str().into(), index, tables, groups, mapped })
    }

    /// Reads the needed blocks of all segments and applies them in order.
    fn read(
        &self,
        found: &[Found<'_>],
        uses: &[Vec<Option<Use>>],
        bases: &Bases,
        tables: &mut dyn Tables,
    ) -> Result<(), StoreError> {
        let mut runs: Vec<(usize, Run)> = Vec::new();
        for (s, segment) in found.iter().enumerate() {
            let needed = |block: &BlockEntry| {
                segment.table(block).is_some_and(|table| segment.is_needed(bases, table, block.group))
            };
            runs.extend(segment.index.runs(needed).into_iter().map(|run| (s, run)));
        }
        let files: Vec<Mutex<Option<Arc<SegmentFile>>>> = found.iter().map(|_| Mutex::default()).collect();
        let decode = |decoder: &mut BlockDecoder, run: usize| {
            let (s, run) = &runs[run];
            let (segment, uses) = (&found[*s], &uses[*s]);
            let file = {
                let mut open = files[*s].lock().unwrap_or_else(PoisonError::into_inner);
                match &*open {
                    Some(file) => Arc::clone(file),
                    None => {
                        let file = SegmentFile::open(self.disk, self.job_dir, segment.reference)?;
                        Arc::clone(open.insert(Arc::new(file)))
                    }
                }
            };
            let bytes = file.read(run.bytes.clone())?;
            let mut blocks = Vec::with_capacity(run.blocks.len());
            segment.index.decode_run(run, &bytes, decoder, &mut |block, rows| {
                let used = used(uses, block);
                let rows = used.migration.rewrite(rows).map_err(|e| segment.unreadable(block, &e))?;
                blocks.push((*block, rows));
                Ok(())
            })?;
            Ok(blocks)
        };
        let apply = |run: usize, blocks: Decoded| {
            let s = runs[run].0;
            crash_point!("restore.before_apply");
            for (block, rows) in blocks? {
                found[s].apply(used(&uses[s], &block), &block, &rows, tables)?;
            }
            if runs.get(run + 1).is_none_or(|next| next.0 != s) {
                files[s].lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            Ok(())
        };
        let threads = if found.iter().all(|segment| segment.mapped) { self.threads } else { 0 };
        in_order(threads.min(runs.len() / 2), runs.len(), BlockDecoder::default, decode, apply)
    }
}

impl Found<'_> {
    fn apply(
        &self,
        used: &Use,
        block: &BlockEntry,
        rows: &Rows,
        tables: &mut dyn Tables,
    ) -> Result<(), StoreError> {
        let table = tables.table(usize::from(used.table));
        let applied = match u32::try_from(block.bytes) {
            Ok(bytes) if used.kept => {
                let segment = Arc::clone(&self.path);
                let place = BlockPlace { segment, index: block.index, offset: block.offset, bytes };
                table.restore_block(block.group, rows, &place)
            }
            _ => table.restore_rows(block.group, rows),
        };
        applied.map_err(|error| self.unreadable(block, &error))
    }

    /// A sound block holds something else than rows of its state.
    fn unreadable(&self, block: &BlockEntry, error: &crate::DecodeError) -> StoreError {
        let state = &self.index.states()[usize::from(block.state)].name;
        let expected = format!("rows of state {state:?}, key group {}", block.group);
        StoreError::corrupt(self.index.path(), block.offset, expected, error.to_string())
    }
}

/// How many keys each table and group holds at least: as many as one checkpoint wrote.
fn expected_rows(found: &[Found<'_>], bases: &Bases) -> HashMap<(u16, KeyGroup), u64> {
    let mut most = HashMap::new();
    for files in found.chunk_by(|a, b| a.sequence() == b.sequence()) {
        let mut of_checkpoint = HashMap::new();
        for segment in files {
            for (table, block) in segment.counted() {
                if segment.is_needed(bases, table, block.group) {
                    *of_checkpoint.entry((table, block.group)).or_insert(0) += u64::from(block.rows);
                }
            }
        }
        for (place, rows) in of_checkpoint {
            let known = most.entry(place).or_insert(0);
            *known = rows.max(*known);
        }
    }
    most
}

fn used<'a>(uses: &'a [Option<Use>], block: &BlockEntry) -> &'a Use {
    uses[usize::from(block.state)].as_ref().expect("only blocks of states in use are needed")
}

/// What is done with each of a segment's states.
fn uses_of(
    segment: &Found<'_>,
    bases: &Bases,
    wanted: &[KeyedStateMeta],
    tables: &mut dyn Tables,
) -> Result<Vec<Option<Use>>, StoreError> {
    let mut needed = HashSet::new();
    let mut void = HashSet::new();
    for (table, block) in segment.counted() {
        let set = if segment.is_needed(bases, table, block.group) { &mut needed } else { &mut void };
        set.insert(block.state);
    }
    let mut uses = Vec::new();
    for (state, meta) in (0..).zip(segment.index.states()) {
        let table = segment.tables[usize::from(state)].filter(|_| needed.contains(&state));
        let Some(table) = table else {
            uses.push(None);
            continue;
        };
        // Other versions of the operator may have written it than the one that the manifest knows.
        let migration = migration_of(meta, &wanted[usize::from(table)], table, tables)?;
        let log_structured = tables.table(usize::from(table)).is_log_structured();
        // A log-structured table that names a segment has all of it read that counts. So what is void must not be there: the
        // base that voids it may be gone by then.
        let kept = log_structured && !migration.is_needed() && !void.contains(&state);
        uses.push(Some(Use { table, migration, kept, ruled: !log_structured }));
    }
    Ok(uses)
}

/// What later snapshots build on.
fn chain_of(found: &[Found<'_>], uses: &[Vec<Option<Use>>], bases: &Bases, tables: &mut dyn Tables) -> Chain {
    let mut chain = Chain::default();
    for table in 0..tables.count() {
        if tables.table(table).is_log_structured() {
            chain.set_needed(table as u16, SegmentPaths::default());
        }
    }
    for (segment, uses) in found.iter().zip(uses) {
        let built_on = |(table, block): (u16, BlockEntry)| {
            let used = uses[usize::from(block.state)].as_ref()?;
            let summary =
                BlockSummary { state: table, group: block.group, kind: block.kind, bytes: block.bytes };
            let counts = (used.kept || used.ruled) && segment.is_needed(bases, table, block.group);
            counts.then_some(summary)
        };
        let blocks: Vec<BlockSummary> = segment.counted().filter_map(built_on).collect();
        let part = Part {
            path: Arc::clone(&segment.path),
            bytes: segment.reference.bytes,
            groups: segment.groups.clone(),
            sequence: segment.sequence(),
        };
        chain.append(part, blocks.into_iter());
    }
    // So that the next completed checkpoint no longer needs the older type.
    for used in uses.iter().flatten().flatten().filter(|used| used.migration.is_needed()) {
        chain.make_due(used.table);
    }
    chain.list();
    chain
}

/// How stored rows of a state become rows of its table.
fn migration_of(
    stored: &KeyedStateMeta,
    wanted: &KeyedStateMeta,
    table: u16,
    tables: &mut dyn Tables,
) -> Result<Migration, StoreError> {
    if stored.key != wanted.key {
        return Err(mismatch(
            &stored.name,
            "keys",
            &stored.key,
            &wanted.key,
            "which cannot change, as the bytes of a key \
            decide where its state lives: restore with the old type of key, or keep the new state under another name",
        ));
    }
    tables.table(usize::from(table)).migration(&stored.value).ok_or_else(|| {
        mismatch(&stored.name, "values", &stored.value, &wanted.value, "which does not read them: give the new type a \
            higher version and name the old one as `from` in its `data!` or `pod!`, or restore with the old type")
    })
}

fn mismatch(state: &str, parts: &str, stored: &Schema, wanted: &Schema, advice: &str) -> StoreError {
    let (stored, wanted) = (describe(stored), describe(wanted));
    StoreError::Incompatible(format!(
        "keyed state {state:?}: the checkpoint holds {parts} of type {stored}, the operator wants {wanted}, {advice}"
    ))
}

/// Reads and checks every byte of `segments`, whatever states and groups they hold: for tools, and before trusting a copy.
/// Waits for the disk.
///
/// # Errors
/// [`StoreError::Corrupt`], [`StoreError::NewerFormat`] or [`StoreError::Io`] of the first that is not sound.
pub fn verify(disk: &DiskHandle, job_dir: &Path, segments: &[SegmentRef]) -> Result<(), StoreError> {
    for reference in segments {
        let file = SegmentFile::open(disk, job_dir, reference)?;
        let path = file.path().to_owned();
        SegmentReader::open(file, &path)?.verify()?;
    }
    Ok(())
}

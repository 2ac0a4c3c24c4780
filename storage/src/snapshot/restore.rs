//! Reading a task's keyed state back from the segments of a completed checkpoint.
//!
//! Two passes over the segments: the directories tell, for each state and group, which segment has the latest base;
//! then the blocks from there on are applied in the order of their checkpoints. One file is open at a time, and about a
//! megabyte of it in memory.

use super::Tables;
use super::chain::{Chain, Part, Sequence};
use crate::codec::Schema;
use crate::error::StoreError;
use crate::io::{DiskHandle, FileId, MappedFile, OpenMode};
use crate::key_group::KeyGroup;
use crate::manifest::{KeyedStateMeta, SegmentRef};
use crate::segment::{BlockKind, BlockSummary, SegmentReader, Source};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

/// Stored state of an operator.
pub(super) struct Stored<'a> {
    pub disk: &'a DiskHandle,
    pub job_dir: &'a Path,
    pub segments: &'a [SegmentRef],
    pub metas: &'a [KeyedStateMeta],
    pub allow_unmatched: bool,
}

/// A segment file, open for reading: mapped where the disk offers that, since a restore runs on a thread of its own.
struct SegmentFile {
    path: PathBuf,
    bytes: u64,
    content: Content,
}

/// Where the bytes of a [`SegmentFile`] come from.
enum Content {
    Mapped(MappedFile),
    Open(OpenFile),
}

/// A file that is closed when dropped.
struct OpenFile {
    disk: DiskHandle,
    file: FileId,
}

impl SegmentFile {
    fn open(disk: &DiskHandle, job_dir: &Path, reference: &SegmentRef) -> Result<Self, StoreError> {
        let relative = Path::new(&reference.path);
        if !relative.components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(StoreError::corrupt(
                job_dir,
                0,
                "a segment below the job's directory",
                &reference.path,
            ));
        }
        let path = job_dir.join(relative);
        let failed = |error| StoreError::io("opening", &path, error);
        if let Some(map) = disk.map(&path, reference.bytes).map_err(failed)? {
            return Ok(SegmentFile { path, bytes: reference.bytes, content: Content::Mapped(map) });
        }
        let open =
            OpenFile { disk: disk.clone(), file: disk.open(&path, OpenMode::Read).wait().map_err(failed)? };
        let length = disk.length(open.file).wait();
        let bytes = length.map_err(|error| StoreError::io("measuring", &path, error))?;
        if bytes != reference.bytes {
            let (expected, found) = (format!("{} bytes", reference.bytes), format!("{bytes} bytes"));
            return Err(StoreError::corrupt(&path, bytes.min(reference.bytes), expected, found));
        }
        Ok(SegmentFile { path, bytes, content: Content::Open(open) })
    }

    /// Reads piece by piece until `range` is complete.
    fn read_open(&self, open: &OpenFile, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        let wanted = usize::try_from(range.end - range.start).map_err(|_| {
            StoreError::corrupt(&self.path, range.start, "a range that fits memory", format!("{range:?}"))
        })?;
        while bytes.len() < wanted {
            let ticket = open.disk.read(open.file, range.start + bytes.len() as u64, wanted - bytes.len());
            let piece = ticket.wait().map_err(|error| StoreError::io("reading", &self.path, error))?;
            if piece.is_empty() {
                let (expected, at) = (format!("{wanted} bytes"), range.start + bytes.len() as u64);
                return Err(StoreError::corrupt(&self.path, at, expected, "the end of the file"));
            }
            if bytes.is_empty() {
                bytes = piece;
            } else {
                bytes.extend_from_slice(&piece);
            }
        }
        Ok(bytes)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        // A file opened for reading has nothing to lose; the ticket need not be waited for.
        drop(self.disk.close(self.file));
    }
}

impl Source for SegmentFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read(&self, range: Range<u64>) -> Result<Cow<'_, [u8]>, StoreError> {
        let map = match &self.content {
            Content::Open(open) => return self.read_open(open, range).map(Cow::Owned),
            Content::Mapped(map) => map,
        };
        let start = range.start;
        let found = map.get(range).map_err(|error| StoreError::io("reading", &self.path, error))?;
        let outside = || StoreError::corrupt(&self.path, start, "a range within the file", "its end");
        found.map(Cow::Borrowed).ok_or_else(outside)
    }
}

/// What the first pass learns of one segment.
struct Found<'a> {
    reference: &'a SegmentRef,
    sequence: Sequence,
    /// Table index of each of its states.
    tables: Vec<Option<u16>>,
    /// Blocks for this task, by table index.
    blocks: Vec<BlockSummary>,
}

impl Stored<'_> {
    /// Fills `tables` for `groups`; the chain of the segments they came from.
    pub fn load(&self, groups: &Range<KeyGroup>, tables: &mut dyn Tables) -> Result<Chain, StoreError> {
        let wanted: Vec<KeyedStateMeta> = (0..tables.count()).map(|i| tables.table(i).meta()).collect();
        for meta in self.metas {
            self.table_of(&wanted, meta)?;
        }
        let mut found = Vec::new();
        for (i, reference) in self.segments.iter().enumerate() {
            if !self.segments[..i].contains(reference) {
                found.push(self.look_into(reference, &wanted, groups, tables)?);
            }
        }
        found.sort_by_key(|segment| segment.sequence);

        let mut bases: HashMap<(u16, KeyGroup), Sequence> = HashMap::new();
        for segment in &found {
            for block in segment.blocks.iter().filter(|block| block.kind == BlockKind::Base) {
                bases.insert((block.state, block.group), segment.sequence);
            }
        }
        let mut chain = Chain::default();
        for segment in &found {
            let needed = |table: u16, group: KeyGroup| {
                bases.get(&(table, group)).is_none_or(|base| *base <= segment.sequence)
            };
            self.apply(segment, &needed, groups, tables)?;
            let blocks = segment.blocks.iter().filter(|block| needed(block.state, block.group));
            let part = Part {
                path: segment.reference.path.as_str().into(),
                bytes: segment.reference.bytes,
                groups: segment.reference.groups.clone(),
                sequence: segment.sequence,
            };
            chain.append(part, blocks.copied());
        }
        Ok(chain)
    }

    /// The table for a stored state, by name.
    fn table_of(
        &self,
        wanted: &[KeyedStateMeta],
        stored: &KeyedStateMeta,
    ) -> Result<Option<u16>, StoreError> {
        let Some(table) = wanted.iter().position(|wanted| wanted.name == stored.name) else {
            if self.allow_unmatched {
                return Ok(None);
            }
            return Err(StoreError::Incompatible(format!(
                "the checkpoint holds keyed state {:?}, but the operator declares none of that name: declare it, or allow \
                 stored state to be dropped",
                stored.name
            )));
        };
        let parts =
            [("key", &stored.key, &wanted[table].key), ("value", &stored.value, &wanted[table].value)];
        for (part, stored_schema, wanted_schema) in parts {
            if stored_schema != wanted_schema {
                return Err(StoreError::Incompatible(format!(
                    "keyed state {:?}: the checkpoint holds a {part} of type {}, the operator wants {}",
                    stored.name,
                    describe(stored_schema),
                    describe(wanted_schema)
                )));
            }
        }
        Ok(Some(table as u16))
    }

    fn look_into<'a>(
        &self,
        reference: &'a SegmentRef,
        wanted: &[KeyedStateMeta],
        groups: &Range<KeyGroup>,
        tables: &mut dyn Tables,
    ) -> Result<Found<'a>, StoreError> {
        let file = SegmentFile::open(self.disk, self.job_dir, reference)?;
        let path = file.path.clone();
        let segment = SegmentReader::open(file, &path)?;
        if tables.count() > 0 && tables.table(0).key_groups().count() != segment.max_parallelism() {
            return Err(StoreError::Incompatible(format!(
                "the checkpoint was taken with a maximum parallelism of {}, the job now has {}: it is fixed for a job's life",
                segment.max_parallelism(),
                tables.table(0).key_groups().count()
            )));
        }
        // A segment may hold states that the operator has dropped since: only the manifest's states must fit.
        let table = |meta: &KeyedStateMeta| {
            if self.metas.iter().any(|listed| listed.name == meta.name) {
                self.table_of(wanted, meta)
            } else {
                Ok(None)
            }
        };
        let states: Vec<Option<u16>> = segment.states().iter().map(table).collect::<Result<_, _>>()?;
        let blocks = segment
            .blocks()
            .filter(|block| groups.contains(&block.group))
            .filter_map(|block| {
                let state = states[usize::from(block.state)]?;
                Some(BlockSummary { state, group: block.group, kind: block.kind, bytes: block.bytes })
            })
            .collect();
        let sequence = (segment.checkpoint(), segment.attempt());
        Ok(Found { reference, sequence, tables: states, blocks })
    }

    /// Checks the whole segment and applies those of its blocks that are needed.
    fn apply(
        &self,
        segment: &Found<'_>,
        needed: &dyn Fn(u16, KeyGroup) -> bool,
        groups: &Range<KeyGroup>,
        tables: &mut dyn Tables,
    ) -> Result<(), StoreError> {
        let file = SegmentFile::open(self.disk, self.job_dir, segment.reference)?;
        let path = file.path.clone();
        let reader = SegmentReader::open(file, &path)?;
        let table = |state: u16| segment.tables[usize::from(state)];
        reader.read_blocks(
            |block| {
                groups.contains(&block.group)
                    && table(block.state).is_some_and(|table| needed(table, block.group))
            },
            |block, rows| {
                let table = usize::from(table(block.state).expect("only blocks of known states are wanted"));
                tables.table(table).restore_rows(block.group, &rows).map_err(|error| {
                    let state = &reader.states()[usize::from(block.state)].name;
                    let expected = format!("rows of state {state:?}, key group {}", block.group);
                    StoreError::corrupt(&path, block.offset, expected, error.to_string())
                })
            },
        )
    }
}

/// A schema as a Rust-like type, with what two types of equal shape may differ in.
fn describe(schema: &Schema) -> String {
    let list = |parts: &[Schema]| parts.iter().map(describe).collect::<Vec<_>>().join(", ");
    let fields = |fields: &[crate::codec::Field]| {
        fields
            .iter()
            .map(|field| format!("{}: {}", field.name, describe(&field.schema)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match schema {
        Schema::Primitive(name) => name.clone(),
        Schema::Option(inner) => format!("Option<{}>", describe(inner)),
        Schema::Seq(inner) => format!("Vec<{}>", describe(inner)),
        Schema::Map(key, value) => format!("Map<{}, {}>", describe(key), describe(value)),
        Schema::Tuple(parts) => format!("({})", list(parts)),
        Schema::Struct { name, version, fields: parts } => {
            format!("{name} version {version} {{ {} }}", fields(parts))
        }
        Schema::Enum { name, version, variants } => {
            format!("enum {name} version {version} {{ {} }}", fields(variants))
        }
        Schema::Postcard(inner) => describe(inner),
    }
}

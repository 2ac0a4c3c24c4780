//! Reads the keyed state of an operator, key group by key group, by the rules of a restore and without its types.
//!
//! Always true: for one state and group, blocks from the latest base on apply in the order in which they were written, and a
//! later row of a key replaces an earlier one. See `snapshot/restore.rs`, which does the same for tables.
//!
//! Memory holds the rows of one group at a time.

use super::find::Snapshot;
use super::rows::{self, StateShape};
use crate::codec::{DecodeError, Json};
use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::DiskHandle;
use crate::key_group::KeyGroup;
use crate::manifest::{KeyedStateMeta, OperatorState};
use crate::segment::{BlockEntry, BlockKind, SegmentReader};
use crate::snapshot::SegmentFile;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// What one key, or one timer, has in a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its key group.
    pub group: KeyGroup,
    /// `key` and `value`, and what else there is to say.
    pub fields: Vec<(String, Json)>,
}

/// Blocks of a state and key group that a restore reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockBytes {
    /// Number of rows, each change of a key since the latest base counted.
    pub rows: u64,
    /// Bytes in files.
    pub bytes: u64,
}

/// The keyed states of one operator in a checkpoint.
pub struct KeyedStates<'a> {
    operator: &'a OperatorState,
    segments: Vec<Segment>,
}

struct Segment {
    reader: SegmentReader<SegmentFile>,
    groups: Range<KeyGroup>,
    /// Names of the states whose blocks count.
    states: Vec<String>,
}

impl Segment {
    fn sequence(&self) -> (CheckpointId, AttemptId) {
        (self.reader.checkpoint(), self.reader.attempt())
    }

    /// The blocks of `state` that count here.
    fn blocks<'s>(&'s self, state: &'s str) -> impl Iterator<Item = BlockEntry> + 's {
        let named = self.states.iter().any(|name| name == state);
        let index = self.reader.states().iter().position(|meta| meta.name == state).filter(|_| named);
        self.reader.blocks().filter(move |block| {
            Some(usize::from(block.state)) == index && self.groups.contains(&block.group)
        })
    }
}

impl<'a> KeyedStates<'a> {
    /// Opens the segments of `operator`, one of those of `snapshot`.
    ///
    /// # Errors
    /// As of a restore: a segment is missing, damaged or too new.
    pub fn open(
        disk: &DiskHandle,
        snapshot: &Snapshot,
        operator: &'a OperatorState,
    ) -> Result<Self, StoreError> {
        let mut seen = std::collections::HashSet::new();
        let mut segments = Vec::new();
        for reference in operator.subtasks.iter().flat_map(|subtask| &subtask.segments) {
            if !seen.insert(reference) {
                continue;
            }
            let file = SegmentFile::open(disk, &snapshot.root, reference)?;
            let path = file.path().to_owned();
            let reader = SegmentReader::open(file, &path)?;
            let (groups, states) = (reference.groups.clone(), reference.states.clone());
            segments.push(Segment { reader, groups, states });
        }
        segments.sort_by_key(|segment| (segment.sequence(), segment.reader.file()));
        Ok(KeyedStates { operator, segments })
    }

    /// The latest base of each group.
    fn bases(&self, state: &str) -> HashMap<KeyGroup, (CheckpointId, AttemptId)> {
        let mut bases = HashMap::new();
        for segment in &self.segments {
            for block in segment.blocks(state).filter(|block| block.kind == BlockKind::Base) {
                bases.insert(block.group, segment.sequence());
            }
        }
        bases
    }

    /// What a restore reads of `state`, by key group.
    pub fn sizes(&self, state: &str) -> BTreeMap<KeyGroup, BlockBytes> {
        let bases = self.bases(state);
        let mut sizes: BTreeMap<KeyGroup, BlockBytes> = BTreeMap::new();
        for segment in &self.segments {
            for block in segment.blocks(state) {
                if bases.get(&block.group).is_none_or(|base| *base <= segment.sequence()) {
                    let size = sizes.entry(block.group).or_default();
                    size.rows += u64::from(block.rows);
                    size.bytes += block.bytes;
                }
            }
        }
        sizes
    }

    /// Hands what every key has in `state` to `visit`, group by group, in an order that depends on the keys alone.
    ///
    /// # Errors
    /// - as of a restore: a segment is damaged, or rows are not of the types that the manifest says;
    /// - whatever `visit` returns, which ends the reading.
    pub fn read(
        &self,
        state: &KeyedStateMeta,
        mut visit: impl FnMut(Entry) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let bases = self.bases(&state.name);
        let groups: Vec<KeyGroup> = self.sizes(&state.name).into_keys().collect();
        for group in groups {
            // Each row with the types that its segment says: an older version of the operator may have written it.
            let mut rows: HashMap<Vec<u8>, (usize, Vec<u8>)> = HashMap::new();
            for (s, segment) in self.segments.iter().enumerate() {
                if bases.get(&group).is_some_and(|base| *base > segment.sequence()) {
                    continue;
                }
                let wanted: Vec<u32> = segment
                    .blocks(&state.name)
                    .filter(|block| block.group == group)
                    .map(|block| block.index)
                    .collect();
                if wanted.is_empty() {
                    continue;
                }
                segment.reader.read_blocks(
                    |block| wanted.contains(&block.index),
                    |_, block_rows| {
                        for row in 0..block_rows.len() {
                            match block_rows.get(row) {
                                (key, Some(value)) => drop(rows.insert(key.to_vec(), (s, value.to_vec()))),
                                (key, None) => drop(rows.remove(key)),
                            }
                        }
                        Ok(())
                    },
                )?;
            }
            for fields in self.entries(state, rows).map_err(|error| self.unreadable(state, group, &error))? {
                visit(Entry { group, fields })?;
            }
        }
        Ok(())
    }

    /// Decodes rows by the types of the segments that hold them. A collection is of one version: all its rows are rewritten when
    /// it changes.
    fn entries(
        &self,
        state: &KeyedStateMeta,
        rows: HashMap<Vec<u8>, (usize, Vec<u8>)>,
    ) -> Result<Vec<Vec<(String, Json)>>, DecodeError> {
        let mut by_types: Vec<(KeyedStateMeta, Vec<rows::Row>)> = Vec::new();
        for (key, (segment, value)) in rows {
            let metas = self.segments[segment].reader.states();
            let meta = metas.iter().find(|meta| meta.name == state.name).unwrap_or(state);
            match by_types.iter_mut().find(|(types, _)| types == meta) {
                Some((_, rows)) => rows.push((key, value)),
                None => by_types.push((meta.clone(), vec![(key, value)])),
            }
        }
        let mut entries = Vec::new();
        for (meta, rows) in by_types {
            let shape = StateShape::of(&meta.key, &meta.value);
            entries.extend(rows::entries(shape, &meta.key, &meta.value, rows)?);
        }
        Ok(entries)
    }

    fn unreadable(&self, state: &KeyedStateMeta, group: KeyGroup, error: &DecodeError) -> StoreError {
        StoreError::Incompatible(format!(
            "keyed state {:?} of operator {:?}, key group {group}: the rows do not decode by their schema ({error}): the files \
             are sound, but written by a program whose codec and schema disagree, or by a newer one",
            state.name, self.operator.uid
        ))
    }
}

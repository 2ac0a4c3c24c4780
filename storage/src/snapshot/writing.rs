//! One snapshot, from its begin until its checkpoint is completed or aborted: serialises the tables one after another into
//! segment files.
//!
//! Always true:
//! - files are built one at a time, and their bytes are handed out in order: all of one file, then the next;
//! - a file holds at least one block, and begins anew only where a table says so;
//! - the files of one snapshot carry rising numbers, so that a restore applies them in the order in which they were
//!   written. That suffices as an order: what several checkpoints wrote is told apart by their ids, and what several
//!   tasks wrote for one checkpoint are different key groups.

use super::chain::{Chain, Part};
use super::{Step, Tables};
use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroup;
use crate::segment::SegmentBuilder;
use crate::table::Written;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use zstd::bulk::Compressor;

/// Bytes are handed out once there are this many, or at the end of a file.
const CHUNK_BYTES: usize = 256 << 10;

/// A snapshot being written, or written and waiting for its checkpoint's end.
pub(super) struct Writing {
    pub checkpoint: CheckpointId,
    attempt: AttemptId,
    pub savepoint: bool,
    groups: Range<KeyGroup>,
    /// Path of the first file; later ones add their number.
    path: String,
    /// Epoch of each table.
    pub epochs: Vec<u64>,
    /// Names of the tables' states.
    pub names: Arc<[String]>,
    /// What it builds on and the files that are complete. Nobody else has it before it is written.
    pub chain: Arc<Chain>,
    builder: SegmentBuilder,
    /// A file ends at the next good place once its rows have this many bytes.
    file_bytes: u64,
    /// The table being written.
    table: usize,
    /// Built and not yet handed out: path, bytes, whether the file is complete.
    out: VecDeque<(Arc<str>, Vec<u8>, bool)>,
    serialised: bool,
}

impl Writing {
    /// A snapshot of tables that have begun it, with `epochs`; `builder` builds its first file.
    #[expect(clippy::too_many_arguments, reason = "the parts of a snapshot, each once")]
    pub fn new(
        checkpoint: CheckpointId,
        attempt: AttemptId,
        savepoint: bool,
        groups: Range<KeyGroup>,
        epochs: Vec<u64>,
        names: Arc<[String]>,
        chain: Chain,
        builder: SegmentBuilder,
        file_bytes: u64,
    ) -> Self {
        let path = builder.path().to_string();
        Writing {
            checkpoint,
            attempt,
            savepoint,
            groups,
            path,
            epochs,
            names,
            chain: Arc::new(chain),
            builder,
            file_bytes,
            table: 0,
            out: VecDeque::new(),
            serialised: false,
        }
    }

    /// True when nothing is left to be handed out.
    pub fn is_written(&self) -> bool {
        self.serialised && self.out.is_empty()
    }

    /// The compressor, once everything is serialised.
    pub fn compressor(&mut self) -> Option<Compressor<'static>> {
        self.builder.compressor()
    }

    /// Serialises all that is left, then and there.
    pub fn finish(&mut self, tables: &mut dyn Tables) {
        while !self.serialised {
            self.slice(tables, usize::MAX);
        }
    }

    /// One slice of work, or the next bytes.
    pub fn advance(&mut self, tables: &mut dyn Tables, rows: usize) -> Step {
        let waits = self.out.is_empty() && !self.serialised && self.slice(tables, rows) == Written::Waits;
        match self.out.pop_front() {
            Some((path, bytes, complete)) => Step::Bytes { path, bytes, complete },
            None if self.serialised => Step::Done,
            None if waits => Step::Waits,
            None => Step::More,
        }
    }

    fn slice(&mut self, tables: &mut dyn Tables, rows: usize) -> Written {
        let written = if self.table < self.epochs.len() {
            tables.table(self.table).advance_snapshot(&mut self.builder, rows)
        } else {
            Written::Done
        };
        crash_point!("snapshot.after_slice");
        self.table += usize::from(written == Written::Done);
        self.serialised = self.table >= self.epochs.len();
        if self.serialised {
            if self.builder.block_count() > 0 {
                self.end_file();
            }
        } else if matches!(written, Written::Groups | Written::Done)
            && self.builder.raw_bytes() >= self.file_bytes
            && self.builder.file() < SegmentBuilder::FILES_MAX - 1
        {
            self.end_file();
            self.builder.begin_next(format!("{}.{}", self.path, self.builder.file() + 1));
        } else if self.builder.pending_bytes() >= CHUNK_BYTES {
            self.out.push_back((Arc::clone(self.builder.path()), self.builder.take(), false));
        }
        written
    }

    fn end_file(&mut self) {
        self.builder.finish();
        let path = Arc::clone(self.builder.path());
        let part = Part {
            path: Arc::clone(&path),
            bytes: self.builder.bytes(),
            groups: self.groups.clone(),
            sequence: (self.checkpoint, self.attempt),
        };
        let chain = Arc::get_mut(&mut self.chain).expect("nobody else has the chain before it is written");
        chain.append(part, self.builder.blocks());
        self.out.push_back((path, self.builder.take(), true));
        crash_point!("snapshot.after_file");
    }
}

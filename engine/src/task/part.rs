//! One task's part of one checkpoint, from its snapshot to its acknowledgement.
//!
//! Always true: a part is acknowledged only when its in-flight data are all captured, its keyed state is serialised,
//! and every byte of it that lies in a file is durable. Until then a part that is dropped removes its files.

use super::body::Body;
use crate::barrier::Gate;
use crate::clock::Nanos;
use crate::control::{SnapshotKind, SnapshotStats, TaskSnapshot, Trigger};
use crate::operator::{Failure, OperatorSnapshot, Outbox, StageControl};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_storage::checkpoint::names::savepoint_segment;
use thalweg_storage::io::{BackgroundFile, DiskHandle};
use thalweg_storage::manifest::{ChannelOrigin, ChannelState, Payload, SubtaskState};
use thalweg_storage::snapshot::{KeyedSnapshots, Step, Tables};
use thalweg_storage::table::StateTable;
use thalweg_storage::{AttemptId, StoreError};

/// In-flight data up to this size are stored in the manifest (Flink's `state.storage.fs.memory-threshold`).
const INLINE_BYTES_MAX: usize = 20 * 1024;

/// Rows of keyed state that one slice visits: about 30 µs of work, twice that where it has to be compressed.
const SLICE_ROWS: usize = 1024;

/// Segment files that may be on their way to the disk at once.
const SEGMENTS_MAX: usize = 4;

/// Where a task's files lie and how they are named.
pub struct PartFiles {
    /// The disk.
    pub disk: DiskHandle,
    /// The job's checkpoint directory; `None` when the job has no checkpoints.
    pub job_dir: Option<PathBuf>,
    /// Names this task in file names: vertex and partition.
    pub task: String,
    /// The execution attempt.
    pub attempt: AttemptId,
}

/// How the synchronous step went.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    /// When the task first heard of the barrier.
    pub heard: Nanos,
    /// When.
    pub at: Nanos,
    /// How long it took, in nanoseconds.
    pub sync_nanos: u64,
    /// Without alignment.
    pub unaligned: bool,
    /// By a chain that was closed: it will never emit again.
    pub finished: bool,
}

/// A part that is not acknowledged yet.
pub struct Part {
    pub(super) trigger: Trigger,
    taken: Taken,
    operators: Vec<OperatorSnapshot>,
    outbox: Outbox,
    /// Segment files in the order of their begin. Those before the last are complete.
    segments: Vec<Segment>,
    serialised: bool,
    segment_bytes: u64,
    channels: Option<Channels>,
    external: bool,
}

/// A segment file on its way to the disk. One that is dropped before the part is acknowledged is removed.
struct Segment {
    /// Below the job's directory.
    path: Arc<str>,
    file: BackgroundFile,
    durable: bool,
}

/// In-flight data on their way into the checkpoint.
struct Channels {
    states: Vec<ChannelState>,
    file: Option<BackgroundFile>,
    records: u64,
    bytes: u64,
}

/// Shows a chain's tables to the storage crate.
pub(super) struct ChainTables<'a>(pub &'a mut dyn StageControl, pub usize);

impl<'a> ChainTables<'a> {
    pub(super) fn of(stage: &'a mut dyn StageControl) -> Self {
        let count = stage.table_count();
        ChainTables(stage, count)
    }
}

impl Tables for ChainTables<'_> {
    fn count(&self) -> usize {
        self.1
    }
    fn table(&mut self, index: usize) -> &mut dyn StateTable {
        self.0.table(index).expect("the storage crate asks for tables below their count")
    }
}

impl Part {
    /// A part whose synchronous step has just been taken; `keyed` tells whether keyed state is yet to be serialised.
    pub(super) fn new(
        trigger: Trigger,
        taken: Taken,
        operators: Vec<OperatorSnapshot>,
        outbox: Outbox,
        keyed: bool,
    ) -> Self {
        Part {
            trigger,
            taken,
            operators,
            outbox,
            segments: Vec::new(),
            serialised: !keyed,
            segment_bytes: 0,
            channels: None,
            external: false,
        }
    }

    /// Path of the first segment that a part writes, below the directory of the job or savepoint.
    pub(super) fn segment_path(files: &PartFiles, trigger: &Trigger) -> String {
        match trigger.kind {
            SnapshotKind::Checkpoint => {
                format!("shared/seg-a{}-c{}-{}", files.attempt, trigger.checkpoint, files.task)
            }
            SnapshotKind::Savepoint { .. } => savepoint_segment(files.attempt, &files.task),
        }
    }

    /// The place of a file of this part.
    fn absolute(&self, files: &PartFiles, path: &str) -> Result<PathBuf, String> {
        match &self.trigger.kind {
            SnapshotKind::Checkpoint => {
                let dir: &Path = files.job_dir.as_deref().ok_or("the job has no checkpoint directory")?;
                Ok(dir.join(path))
            }
            SnapshotKind::Savepoint { dir, .. } => Ok(dir.join(path)),
        }
    }

    /// True once its keyed state needs no more reading.
    pub(super) fn is_serialised(&self) -> bool {
        self.serialised
    }

    /// Does a bounded slice of background work. Returns true when there is more to do at once.
    ///
    /// # Errors
    /// The part's files could not be written: the checkpoint fails, the task goes on.
    pub(super) fn advance(
        &mut self,
        files: &PartFiles,
        keyed: &mut KeyedSnapshots,
        stage: &mut dyn StageControl,
    ) -> Result<bool, String> {
        let checkpoint = self.trigger.checkpoint;
        let mut more = false;
        let behind = self.segments.last().is_some_and(|segment| segment.file.is_behind())
            || self.segments.iter().filter(|segment| !segment.durable).count() >= SEGMENTS_MAX;
        if !self.serialised && !behind {
            match keyed.advance(checkpoint, &mut ChainTables::of(stage), SLICE_ROWS) {
                Step::More => more = true,
                Step::Waits => {}
                Step::Bytes { path, bytes, complete } => {
                    more = true;
                    self.write(files, path, bytes, complete)?;
                }
                Step::Done => self.serialised = true,
            }
        }
        self.poll_segments()?;
        if let Some(Channels { file: Some(file), .. }) = &mut self.channels {
            file.poll()
                .map_err(|e| format!("writing in-flight data of checkpoint {checkpoint} failed: {e}"))?;
        }
        Ok(more)
    }

    /// Appends the next bytes of keyed state to their file.
    fn write(
        &mut self,
        files: &PartFiles,
        path: Arc<str>,
        bytes: Vec<u8>,
        complete: bool,
    ) -> Result<(), String> {
        if self.segments.last().is_none_or(|segment| segment.path != path) {
            crash_point!("segment.begun");
            let file = BackgroundFile::create(&files.disk, self.absolute(files, &path)?);
            self.segments.push(Segment { path, file, durable: false });
        }
        self.segment_bytes += bytes.len() as u64;
        let Segment { file, .. } = self.segments.last_mut().expect("there is one by now");
        file.append(bytes);
        if complete {
            file.complete();
        }
        Ok(())
    }

    /// Moves the writing of keyed state on; true once all files that were begun are durable.
    fn poll_segments(&mut self) -> Result<bool, String> {
        let mut durable = true;
        for segment in self.segments.iter_mut().filter(|segment| !segment.durable) {
            let failed = |error| format!("writing segment {} failed: {error}", segment.path);
            segment.durable = segment.file.poll().map_err(failed)?;
            if segment.durable {
                crash_point!("segment.durable");
            }
            durable &= segment.durable;
        }
        Ok(durable)
    }

    /// Once every capture is closed: collects the in-flight data, inline or into a file.
    fn collect_channels(
        &mut self,
        files: &PartFiles,
        body: &mut dyn Body,
        partition: u32,
    ) -> Result<(), String> {
        let checkpoint = self.trigger.checkpoint;
        crash_point!("in_flight.before_collect");
        let mut raw: Vec<(ChannelState, Vec<u8>)> = Vec::new();
        let state = |edge: &Arc<str>, producer, consumer, generation, origin, records| ChannelState {
            edge: edge.to_string(),
            producer,
            consumer,
            generation,
            origin,
            records,
            data: Payload::Inline(Vec::new()),
        };
        for channel in body.take_captured(checkpoint) {
            let origin = ChannelOrigin::Consumer;
            raw.push((
                state(
                    &channel.edge,
                    channel.producer,
                    partition,
                    channel.generation,
                    origin,
                    channel.records,
                ),
                channel.bytes,
            ));
        }
        for channel in std::mem::take(&mut self.outbox) {
            let origin = ChannelOrigin::Producer;
            raw.push((
                state(
                    &channel.edge,
                    partition,
                    channel.consumer,
                    channel.generation,
                    origin,
                    channel.records,
                ),
                channel.bytes,
            ));
        }
        let records = raw.iter().map(|(state, _)| state.records).sum();
        let bytes: usize = raw.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut file = None;
        if bytes <= INLINE_BYTES_MAX {
            for (state, bytes) in &mut raw {
                state.data = Payload::Inline(std::mem::take(bytes));
            }
        } else {
            let path = format!("chk-{checkpoint}/channel-a{}-{}", files.attempt, files.task);
            let mut writer = BackgroundFile::create(&files.disk, self.absolute(files, &path)?);
            let mut offset = 0;
            for (state, data) in &mut raw {
                let crc32 = thalweg_storage::checkpoint::payload_crc32(data);
                let length = data.len() as u64;
                let path = path.clone();
                state.data = Payload::File { path, offset, bytes: length, crc32, file_bytes: bytes as u64 };
                offset += length;
                writer.append(std::mem::take(data));
            }
            writer.complete();
            file = Some(writer);
        }
        let states = raw.into_iter().map(|(state, _)| state).collect();
        self.channels = Some(Channels { states, file, records, bytes: bytes as u64 });
        crash_point!("in_flight.after_collect");
        Ok(())
    }

    /// The acknowledgement, once everything is captured, serialised and durable.
    ///
    /// # Errors
    /// Outer: the task fails. Inner: the checkpoint fails.
    pub(super) fn try_acknowledge(
        &mut self,
        files: &PartFiles,
        keyed: &KeyedSnapshots,
        gate: &Gate,
        body: &mut dyn Body,
        partition: u32,
        now: Nanos,
    ) -> Result<Result<Option<TaskSnapshot>, String>, Failure> {
        let checkpoint = self.trigger.checkpoint;
        if !gate.complete(checkpoint) {
            return Ok(Ok(None));
        }
        if self.channels.is_none()
            && let Err(error) = self.collect_channels(files, body, partition)
        {
            return Ok(Err(error));
        }
        if !self.external {
            self.external = body.stage().snapshot_durable(checkpoint)?;
        }
        let mut durable = self.external && self.serialised;
        match self.poll_segments() {
            Ok(done) => durable &= done,
            Err(error) => return Ok(Err(error)),
        }
        let channels = self.channels.as_mut().expect("collected above");
        if let Some(file) = &mut channels.file {
            match file.poll() {
                Ok(done) => durable &= done,
                Err(error) => return Ok(Err(format!("writing checkpoint {checkpoint} failed: {error}"))),
            }
        }
        if !(durable || broken!(AcknowledgesEarly) && self.external && self.serialised) {
            return Ok(Ok(None));
        }
        body.stage().list_committables(checkpoint, &mut self.operators);
        let inline: usize =
            self.operators.iter().flat_map(|o| &o.operator_state).map(|blob| blob.bytes.len()).sum();
        let keyed_state = self.operators.iter().any(|operator| !operator.keyed.is_empty());
        let segments = keyed_state.then(|| keyed.segments(checkpoint));
        let stats = SnapshotStats {
            start_delay_ns: self.taken.heard.since(self.trigger.triggered_at).as_nanos() as u64,
            alignment_ns: self.taken.at.since(self.taken.heard).as_nanos() as u64,
            sync_ns: self.taken.sync_nanos,
            async_ns: now.since(self.taken.at).as_nanos() as u64,
            state_bytes: self.segment_bytes + inline as u64,
            full_state_bytes: inline as u64,
            files: self.segments.len() as u32 + u32::from(channels.file.is_some()),
            in_flight_records: channels.records,
            in_flight_bytes: channels.bytes,
            unaligned: self.taken.unaligned,
        };
        let finished = self.taken.finished;
        let operators = std::mem::take(&mut self.operators)
            .into_iter()
            .map(|operator| {
                let state = SubtaskState {
                    index: partition,
                    finished,
                    operator_state: operator.operator_state,
                    segments: Vec::new(),
                    committables: operator.committables,
                };
                (operator.uid, operator.keyed, state)
            })
            .collect();
        let files = self.segments.iter_mut().map(|segment| &mut segment.file);
        files.chain(&mut channels.file).for_each(BackgroundFile::keep);
        let channels = std::mem::take(&mut channels.states);
        Ok(Ok(Some(TaskSnapshot { operators, segments, channels, stats })))
    }
}

/// Loads the keyed state of a task that is being made. Waits for the disk.
///
/// # Errors
/// The state is damaged, missing or of another type, or the disk fails.
pub fn restore_keyed(
    keyed: &mut KeyedSnapshots,
    files: &PartFiles,
    segments: &[thalweg_storage::manifest::SegmentRef],
    metas: &[thalweg_storage::manifest::KeyedStateMeta],
    stage: &mut dyn StageControl,
) -> Result<(), StoreError> {
    let missing = || StoreError::Incompatible("the job has no checkpoint directory".to_owned());
    let dir = files.job_dir.as_deref().ok_or_else(missing)?;
    keyed.restore(&files.disk, dir, segments, metas, &mut ChainTables::of(stage))
}

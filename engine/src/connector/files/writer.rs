//! Writes one subtask's output files: fills them, rolls them, prepares them for checkpoints, publishes them.
//!
//! Always true:
//! - a checkpoint is prepared once the in-progress file is durable up to the length that its state names, and each file
//!   that it lists is finished, durable and `.pending`;
//! - a finished file is listed by exactly one checkpoint;
//! - at most [`WRITES_MAX`] buffers are handed over and unwritten before the writer refuses records.

use super::encoder::Encoder;
use super::layout::{Layout, PartName, PartRef, publish};
use super::open_file::{Flow, poll_flow};
use super::part::Part;
use super::sink::FileSinkState;
use crate::clock::Nanos;
use crate::connector::{BoxError, OutputLost, PreparedOutput, SinkSnapshot, SinkWriter};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::Committable;
use thalweg_storage::{CheckpointId, Data};

/// Bytes of one write.
const WRITE_BYTES: u64 = 512 * 1024;
/// Buffers handed over and unwritten before the writer refuses records.
const WRITES_MAX: usize = 4;

/// What went on at the disk when writers were dropped, with the subtasks whose files it is about. The next attempt waits
/// for it before it touches these files.
pub(super) type Unfinished = Arc<Mutex<Vec<(u32, Flow<()>)>>>;

/// When a file is finished and the next begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rolling {
    pub bytes: u64,
    pub interval: Duration,
}

/// What `prepared` waits for.
struct Prepare {
    checkpoint: CheckpointId,
    in_progress: Option<PartRef>,
    listed: Vec<PartName>,
}

/// Writes one subtask of a [`super::FileSink`].
pub struct FileWriter<E> {
    pub(super) disk: DiskHandle,
    pub(super) layout: Arc<Layout>,
    pub(super) subtask: u32,
    pub(super) attempt: u64,
    pub(super) encoder: E,
    pub(super) rolling: Rolling,
    pub(super) next_sequence: u64,
    /// The file that takes records.
    pub(super) open: Option<Part>,
    /// Files that are being finished, or wait to be listed.
    pub(super) finished: VecDeque<Part>,
    pub(super) unfinished: Unfinished,
    /// Listed files of subtasks that no longer exist, until the engine takes them.
    inherited: Vec<PreparedOutput>,
    buffer: Vec<u8>,
    spare: Vec<Vec<u8>>,
    room: bool,
    now: Nanos,
    prepares: VecDeque<Prepare>,
    commits: VecDeque<Flow<()>>,
    ended: bool,
}

impl<E: Encoder> FileWriter<E> {
    pub(super) fn new(
        disk: DiskHandle,
        layout: Arc<Layout>,
        (subtask, attempt): (u32, u64),
        encoder: E,
        rolling: Rolling,
        unfinished: Unfinished,
    ) -> Self {
        FileWriter {
            disk,
            layout,
            subtask,
            attempt,
            encoder,
            rolling,
            next_sequence: 0,
            open: None,
            finished: VecDeque::new(),
            unfinished,
            inherited: Vec::new(),
            buffer: Vec::new(),
            spare: Vec::new(),
            room: true,
            now: Nanos(0),
            prepares: VecDeque::new(),
            commits: VecDeque::new(),
            ended: false,
        }
    }

    #[cold]
    fn begin_part(&mut self) {
        let name = PartName { subtask: self.subtask, sequence: self.next_sequence, attempt: self.attempt };
        self.next_sequence += 1;
        self.open = Some(Part::create(&self.disk, &self.layout, name, self.now));
        self.encoder.header(&mut self.buffer);
    }

    /// Hands the buffer over to the open file, and rolls that when it is full.
    fn flush(&mut self) {
        let Some(open) = &mut self.open else { return };
        if !self.buffer.is_empty() {
            let next = self.spare.pop().unwrap_or_default();
            open.append(std::mem::replace(&mut self.buffer, next));
        }
        if open.bytes >= self.rolling.bytes {
            self.roll();
        }
    }

    fn roll(&mut self) {
        if let Some(mut open) = self.open.take() {
            open.finish();
            self.finished.push_back(open);
        }
    }

    /// Moves all I/O on.
    fn advance(&mut self) -> Result<(), BoxError> {
        if let Some(open) = &mut self.open {
            open.poll(&mut self.spare)?;
        }
        for part in &mut self.finished {
            part.poll(&mut self.spare)?;
        }
        self.finished.retain(|part| !(part.sealed && part.listed));
        while let Some(commit) = self.commits.front_mut() {
            let Poll::Ready(done) = poll_flow(commit) else { break };
            self.commits.pop_front();
            done?;
        }
        let outstanding = self.open.iter().chain(&self.finished).map(Part::outstanding).sum::<usize>();
        self.room = outstanding < WRITES_MAX;
        Ok(())
    }

    /// True when `part` is durable in the length given, be it still open, being finished, or behind us.
    fn is_durable(&self, part: PartRef) -> bool {
        let mut parts = self.open.iter().chain(&self.finished);
        parts.find(|known| known.name == part.name).is_none_or(|known| known.durable >= part.bytes)
    }
}

/// Reads a committable of this sink.
pub(super) fn read_committable(committable: &Committable) -> Result<PartRef, BoxError> {
    let mut bytes = committable.bytes.as_slice();
    PartRef::decode(&mut bytes).map_err(|error| {
        OutputLost(format!(
            "a committable of checkpoint {}, subtask {} does not name an output file ({error}): the checkpoint was \
             taken by another kind of sink",
            committable.checkpoint, committable.subtask
        ))
        .into()
    })
}

impl<E: Encoder> SinkWriter for FileWriter<E> {
    type Record = E::Record;
    type State = FileSinkState;

    #[inline]
    fn write(&mut self, now: Nanos, record: E::Record) -> Result<bool, BoxError> {
        if self.open.is_none() {
            if self.ended {
                return Err("a record was written to a file sink after its end".into());
            }
            self.now = now;
            self.begin_part();
        }
        let before = self.buffer.len();
        if let Err(error) = self.encoder.encode(&record, &mut self.buffer) {
            self.buffer.truncate(before);
            return Err(error);
        }
        if self.buffer.len() as u64 >= WRITE_BYTES.min(self.rolling.bytes) {
            self.now = now;
            self.flush();
            self.advance()?;
        }
        Ok(self.room)
    }

    fn poll(&mut self, now: Nanos) -> Result<bool, BoxError> {
        self.now = now;
        self.advance()?;
        Ok(self.room)
    }

    fn prepare(
        &mut self,
        checkpoint: CheckpointId,
        end: bool,
    ) -> Result<SinkSnapshot<FileSinkState>, BoxError> {
        self.flush();
        if let Some(open) = &mut self.open {
            let begun = *open.begun.get_or_insert(self.now);
            if end || self.now.since(begun) >= self.rolling.interval {
                self.roll();
            } else {
                open.sync();
            }
        }
        self.ended |= end;
        let mut committables = Vec::new();
        let mut listed = Vec::new();
        for part in self.finished.iter_mut().filter(|part| !part.listed) {
            part.listed = true;
            listed.push(part.name);
            let mut bytes = Vec::new();
            part.reference().encode(&mut bytes);
            let subtask = part.name.subtask;
            match subtask == self.subtask {
                true => committables.push(bytes),
                // Listed under the subtask in its name, so that whoever clears that one's leftovers knows of it.
                false => self.inherited.push(PreparedOutput { checkpoint, subtask, bytes }),
            }
        }
        let in_progress = self.open.as_ref().map(Part::reference);
        self.prepares.push_back(Prepare { checkpoint, in_progress, listed });
        self.advance()?;
        let state = FileSinkState { next_sequence: self.next_sequence, in_progress };
        Ok(SinkSnapshot { state: Some(state), committables })
    }

    fn prepared(&mut self, checkpoint: CheckpointId) -> Result<bool, BoxError> {
        self.advance()?;
        let Some(prepare) = self.prepares.iter().find(|prepare| prepare.checkpoint == checkpoint) else {
            return Ok(true);
        };
        let sealed = |name: &PartName| !self.finished.iter().any(|part| part.name == *name && !part.sealed);
        // What was listed for a checkpoint that has failed since, this one lists, too.
        let up_to = self.prepares.iter().filter(|prepare| prepare.checkpoint <= checkpoint);
        let done = prepare.in_progress.is_none_or(|part| self.is_durable(part))
            && up_to.flat_map(|prepare| &prepare.listed).all(sealed);
        if done {
            self.prepares.retain(|prepare| prepare.checkpoint > checkpoint);
        }
        Ok(done)
    }

    fn take_prepared(&mut self) -> Vec<PreparedOutput> {
        std::mem::take(&mut self.inherited)
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        let parts = committables.iter().map(read_committable).collect::<Result<Vec<_>, _>>()?;
        self.commits.push_back(publish(self.disk.clone(), Arc::clone(&self.layout), parts));
        self.advance()
    }

    fn committed(&self) -> bool {
        self.commits.is_empty()
    }

    fn has_unprepared(&self) -> bool {
        self.open.is_some() || self.finished.iter().any(|part| !part.listed) || !self.inherited.is_empty()
    }
}

impl<E> Drop for FileWriter<E> {
    fn drop(&mut self) {
        let parts = self.open.take().into_iter().chain(self.finished.drain(..)).filter_map(Part::rest);
        let rest = parts.chain(self.commits.drain(..).take(1)).map(|flow| (self.subtask, flow));
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).extend(rest);
    }
}

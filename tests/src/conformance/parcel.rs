//! Records with a payload of 1 to 4 KiB that follows from their value, and the source that paces them.

use super::control::Control;
use super::record::{Tag, decode, encode};
use super::stress::Phase;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thalweg::CheckpointId;
use thalweg::clock::Nanos;
use thalweg::connector::{BoxError, ConnectorContext, Source, SourceOutput, SourceReader, SourceStatus};
use thalweg_storage::io::DiskHandle;

/// Time between two records of a subtask.
const PACE: Duration = Duration::from_millis(1);

/// A record and its payload.
pub type Parcel = (u64, Vec<u8>);

fn payload(record: u64) -> Vec<u8> {
    let mixed = record.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let length = 1024 + (mixed >> 40) as usize % 3073;
    (0..length).map(|index| (mixed >> (8 * (index % 8))) as u8 ^ (index / 8) as u8).collect()
}

/// Gives a record its payload.
pub fn pack(record: u64) -> Parcel {
    (record, payload(record))
}

/// Passes a parcel on, and notes it if it is damaged.
pub fn checked(control: &Control, at: &str, parcel: Parcel) -> Parcel {
    if decode(parcel.0).is_none() || payload(parcel.0) != parcel.1 {
        control.violated(format!("{at}: damaged parcel {:#018x} of {} bytes", parcel.0, parcel.1.len()));
    }
    parcel
}

/// The key of a parcel: its source and split.
pub fn key_of(parcel: &Parcel, splits: u64) -> u64 {
    decode(parcel.0).map_or(0, |(tag, value)| tag * splits + value % splits)
}

/// Emits values at a steady pace until told to stop, and ends when told to.
#[derive(Clone)]
pub struct ParcelSource {
    /// Which source of the job.
    pub tag: Tag,
    /// The job.
    pub control: Arc<Control>,
    /// What its driver wants.
    pub phase: Arc<Phase>,
}

impl Source for ParcelSource {
    type Record = u64;
    /// The split, and the number of its values so far.
    type Split = (u64, u64);
    type Reader = ParcelReader;

    fn splits(&self, _: &DiskHandle, _: u32) -> Result<Vec<(u64, u64)>, BoxError> {
        Ok((0..self.control.splits).map(|split| (split, 0)).collect())
    }

    fn reader(&self, _: ConnectorContext, splits: Vec<(u64, u64)>) -> Result<ParcelReader, BoxError> {
        Ok(ParcelReader { source: self.clone(), splits, turn: 0, next_at: Nanos(0), stopped: false })
    }
}

/// Reads the splits of one subtask, in turns.
pub struct ParcelReader {
    source: ParcelSource,
    splits: Vec<(u64, u64)>,
    turn: usize,
    next_at: Nanos,
    stopped: bool,
}

impl SourceReader for ParcelReader {
    type Record = u64;
    type Split = (u64, u64);

    fn poll<O: SourceOutput<u64>>(
        &mut self,
        now: Nanos,
        _: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        let ParcelSource { tag, control, phase } = &self.source;
        if phase.stop.load(Ordering::Relaxed) {
            if !std::mem::replace(&mut self.stopped, true) {
                self.splits.iter().for_each(|(split, count)| control.split_ended(*tag, *split, *count));
            }
            if phase.end.load(Ordering::Relaxed) {
                return Ok(SourceStatus::End);
            }
            return Ok(SourceStatus::Idle(Some(now.after(PACE))));
        }
        if self.splits.is_empty() || now < self.next_at {
            return Ok(SourceStatus::Idle(Some(self.next_at.max(now.after(PACE / 10)))));
        }
        self.next_at = now.after(PACE);
        self.turn = (self.turn + 1) % self.splits.len();
        let (split, count) = &mut self.splits[self.turn];
        let value = *split + *count * control.splits;
        *count += 1;
        output.emit(encode(*tag, value));
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self, _: CheckpointId) -> Vec<(u64, u64)> {
        self.splits.clone()
    }
}

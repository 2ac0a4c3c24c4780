//! What the gate promises, one claim at a time; and that breaking a rule breaks its claim.

pub(crate) mod alignment;
pub(crate) mod capture;
pub(crate) mod ends;
pub(crate) mod rounds;

use super::CheckpointMode::{self, Aligned, AtLeastOnce};
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use thalweg_storage::fault::{Fault, with_fault};

const UNALIGNED: CheckpointMode = CheckpointMode::Unaligned;
const TIMEOUT: CheckpointMode = CheckpointMode::AlignedWithTimeout(Duration::from_secs(1));
const FREE: u64 = u64::MAX;

fn id(number: u64) -> CheckpointId {
    CheckpointId(number)
}

fn gate(exchanges: usize) -> Gate {
    Gate::new(vec![ChannelKind::Exchange; exchanges])
}

/// One exchange, then one aligned-only channel.
fn mixed_gate() -> Gate {
    Gate::new(vec![ChannelKind::Exchange, ChannelKind::AlignedOnly])
}

/// Short forms, for tests.
impl Gate {
    fn barrier(&mut self, channel: usize, number: u64, cut: u64) {
        self.announce(channel, Announcement { mark: barrier(number, BarrierMode::Aligned), cut });
    }

    fn unaligned(&mut self, channel: usize, number: u64, cut: u64) {
        self.announce(channel, Announcement { mark: barrier(number, BarrierMode::Unaligned), cut });
    }

    fn end(&mut self, channel: usize, cut: u64) {
        self.announce(channel, Announcement { mark: Mark::EndOfStream, cut });
    }

    fn ready_id(&self) -> Option<u64> {
        self.ready().map(|ready| ready.checkpoint.0)
    }

    fn limits(&self, count: usize) -> Vec<u64> {
        (0..count).map(|channel| self.limit(channel)).collect()
    }

    fn cursor(&self, channel: usize) -> Option<(u64, Option<u64>)> {
        self.capture(channel).map(|capture| (capture.next, capture.bound))
    }

    /// Snapshots, having checked that the round is ready in this mode.
    fn pass(&mut self, number: u64, mode: BarrierMode) {
        assert_eq!(self.ready(), Some(Ready { checkpoint: id(number), mode }));
        self.snapshotted(id(number));
    }
}

fn barrier(number: u64, mode: BarrierMode) -> Mark {
    Mark::Barrier { checkpoint: id(number), mode }
}

/// The claim holds, and would not if the rule were broken.
fn holds_only_without(fault: Fault, claim: impl Fn()) {
    claim();
    let broken = catch_unwind(AssertUnwindSafe(|| with_fault(Some(fault), &claim)));
    assert!(broken.is_err(), "{fault:?} goes unnoticed");
}

//! Decides what one task does about barriers: how far it may read, when it snapshots, what it captures.
//!
//! No barrier travels inside a data ring. A producer *announces* a barrier out of band, through a small side ring next to
//! each data ring, and says at which position of the data it stands: the *cut*. Positions count batches since the attempt
//! began; restored in-flight data take the first ones. A consumer that sees the announcement early can overtake the data
//! below the cut (unaligned: they become channel state) or process them first (aligned).
//!
//! Always true:
//! - a channel is never read past the cut of a barrier that the task has not passed yet, at-least-once rounds excepted;
//! - a round snapshots once, older rounds first; only the coordinator ends one early;
//! - the first cut announced for a channel and checkpoint is final, and the end of a stream is a cut for all later ones;
//! - channel state of a round is exactly what lies between the position at its snapshot and its cut.
//!
//! Pure: facts in, answers out; no I/O, no clock, and no allocation once a task has seen its first rounds. Driven by the
//! task; knows nothing of operators, rings or storage.
//!
//! # How a task drives its gate
//! In each poll, and between records while it works through a batch:
//! 1. Commands in the order in which they came: [`Gate::trigger`], [`Gate::abort`]. Timers that ran out: [`Gate::expire`].
//!    Every task arms its own timer, a source too: one that drains its outbox before an aligned snapshot may wait for a task
//!    that has turned unaligned and waits, on an aligned-only channel, for it.
//! 2. For every input, also while blocked on output: a [`Look`], announcements to [`Gate::announce`] as they are drained.
//! 3. [`Gate::ready`]: when there is a round, every output's side ring has room, and the outbox is drained (that of forward and
//!    broadcast edges always, all of it for savepoints; no record is processed meanwhile),
//!    then in one step, no record half done and no timer or callback in between: announce on every output
//!    ([`Ready::announcement`]; a finished task announces nothing more), snapshot state and outbox, [`Gate::snapshotted`].
//! 4. Records: take batches below both [`Gate::limit`] and the visible end. Before touching a batch that an open
//!    [`Gate::capture`] has not passed yet (`next` at most its position), capture what is left of it, whole records from
//!    the first unprocessed one, and call [`Gate::captured`]. A batch done: [`Gate::consumed`].
//! 5. Captures in slices, while there are any: batches from `next` to `bound`, which are all visible.
//! 6. Rounds in rising order: [`Gate::complete`] and all files durable: acknowledge, then [`Gate::acknowledged`].
//! 7. [`Gate::all_ended`] and the outbox sent on: announce [`Mark::EndOfStream`] on every output, [`Gate::finish`].
//!
//! # Why an unaligned round may start at the trigger alone
//! A task with inputs need not wait for a first announcement. Regard the coordinator as one more source, with an empty
//! exchange channel to every task, whose announcement (cut 0) is the trigger: starting at the trigger *is* starting at the
//! first announcement, in a larger job. What it needs on the real channels is that no batch beyond a cut that is still to
//! come has been touched. A producer announces before it pushes beyond the cut, and a consumer touches only what was
//! pushed before it last found the side ring empty ([`Look`]); so with no announcement seen, all it has touched lies below.
//! Older rounds do not interfere: an unaligned checkpoint is triggered only when no other is pending, and the abort of an
//! earlier one precedes the trigger in the same mailbox.
//!
//! # Why a delayed exchange must be announced first
//! A task with an aligned-only input has to process data before it can snapshot, and one with an aligned-only output has to
//! empty its outbox, so its outputs must keep flowing. If a
//! task downstream of it could pass the barrier first (another input announced it, or the trigger started it), the
//! tasks after that one might stop at its cut to wait for the delayed task, whose output is what then backs up: nobody
//! moves. Therefore a task passes the barrier after every delayed task upstream of it: it waits for the *announcement* of
//! each [`ChannelKind::DelayedExchange`], not for its data. Take an unsnapshotted delayed task with none upstream: no
//! task downstream of it has snapshotted, so no channel there has a cut to stop at, its output drains, it reaches its cuts.

/// Counts a transition of a gate, for tests that must know that they have seen it.
#[cfg(any(test, feature = "testing"))]
macro_rules! took {
    ($gate:expr, $transition:ident) => {
        $gate.transitions.count($crate::barrier::transition::Transition::$transition)
    };
}
#[cfg(not(any(test, feature = "testing")))]
macro_rules! took {
    ($gate:expr, $transition:ident) => {};
}

pub mod aborts;
pub mod gate;
mod round;

#[cfg(any(test, feature = "testing"))]
pub mod simulation;
#[cfg(any(test, feature = "testing"))]
pub mod transition;
#[cfg(test)]
pub(crate) mod tests;

pub use gate::Gate;

pub use crate::config::CheckpointMode;
pub use crate::ring::{Announcement, BarrierMode, Look, Mark, Visible};
use thalweg_storage::CheckpointId;

/// Whether a channel's in-flight data may be captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// An exchange: barriers can overtake its data.
    Exchange,
    /// An exchange whose producer has an aligned-only input or output, or a task upstream of it that has one. Barriers can overtake
    /// its data, but an unaligned snapshot waits until this channel has announced the barrier.
    DelayedExchange,
    /// A forward or broadcast edge: its data are processed up to the barrier in every mode, and delay it.
    AlignedOnly,
}

/// A round that the task may snapshot for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// How the task passes the barrier, and so how it must announce it.
    pub mode: BarrierMode,
}

impl Ready {
    /// True when in-flight data are captured.
    pub fn unaligned(&self) -> bool {
        self.mode == BarrierMode::Unaligned
    }

    /// What to announce on an output that `pushed` batches have been pushed to.
    pub fn announcement(&self, pushed: u64) -> Announcement {
        Announcement { mark: Mark::Barrier { checkpoint: self.checkpoint, mode: self.mode }, cut: pushed }
    }
}

/// The open capture of one channel: batches from `next` to `bound` still have to become channel state of `checkpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The round that captures.
    pub checkpoint: CheckpointId,
    /// Position of the next batch to capture. Right after the snapshot this is the batch being processed, if any: the
    /// part of it that is not processed yet.
    pub next: u64,
    /// End of the capture. None until the channel announces the barrier: until then every batch is captured before it is
    /// touched.
    pub bound: Option<u64>,
}

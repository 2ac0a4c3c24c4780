//! One checkpoint at one task: its mode, its cuts, and how many channels have not reached theirs.
//!
//! Always true: a cut once set stays, a channel once bounded or reached stays so, and the counts are of the others. Owned by the
//! gate, which reuses rounds, cuts and all, so that a long-running task allocates none.

use super::CheckpointMode;
use super::{BarrierMode, ChannelKind};
use thalweg_storage::CheckpointId;

/// Where a round stands on one channel.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    cut: Option<u64>,
    /// The channel's barrier or end has been announced.
    bounded: bool,
    reached: bool,
}

/// One checkpoint at one task, from the first that is heard of it until it is acknowledged or aborted.
#[derive(Debug)]
pub(super) struct Round {
    pub checkpoint: CheckpointId,
    /// Triggered or announced; a round of which only the timer is known waits.
    pub started: bool,
    pub snapshotted: bool,
    /// Channels whose capture is not finished.
    pub open_captures: usize,
    positions: Vec<Position>,
    unreached: usize,
    unreached_aligned_only: usize,
    unbounded_delayed: usize,
    /// Triggered as unaligned, or announced so by a producer.
    unaligned: bool,
    /// The task's own alignment timer has run out.
    expired: bool,
    /// Triggered as aligned for good (a savepoint is, for one): a timer has no say.
    never_expires: bool,
    at_least_once: bool,
    /// Its snapshot is one of a task that has ended.
    ends_first: bool,
}

impl Round {
    /// A round that nothing is known of, for channels of these kinds; `spare` lends its memory.
    pub fn new(
        checkpoint: CheckpointId,
        kinds: impl Iterator<Item = ChannelKind>,
        spare: Option<Round>,
    ) -> Round {
        let mut positions = spare.map(|round| round.positions).unwrap_or_default();
        positions.clear();
        let (mut unreached_aligned_only, mut unbounded_delayed) = (0, 0);
        positions.extend(kinds.map(|kind| {
            unreached_aligned_only += usize::from(kind == ChannelKind::AlignedOnly);
            unbounded_delayed += usize::from(kind == ChannelKind::DelayedExchange);
            Position::default()
        }));
        Round {
            checkpoint,
            started: false,
            snapshotted: false,
            open_captures: 0,
            unreached: positions.len(),
            unreached_aligned_only,
            unbounded_delayed,
            positions,
            unaligned: false,
            expired: false,
            never_expires: false,
            at_least_once: false,
            ends_first: false,
        }
    }

    /// The mode as it stands: unaligned once anything has said so, and until then what the trigger or a barrier said.
    pub fn mode(&self) -> BarrierMode {
        if self.unaligned || (self.expired && !self.never_expires && !self.at_least_once) {
            BarrierMode::Unaligned
        } else if self.at_least_once {
            BarrierMode::AtLeastOnce
        } else {
            BarrierMode::Aligned
        }
    }

    pub fn triggered(&mut self, mode: CheckpointMode) {
        self.started = true;
        match mode {
            CheckpointMode::Aligned => self.never_expires = true,
            CheckpointMode::Unaligned => self.unaligned = true,
            CheckpointMode::AlignedWithTimeout(_) => {}
            CheckpointMode::AtLeastOnce => self.at_least_once = true,
        }
    }

    pub fn announced(&mut self, mode: BarrierMode) {
        self.started = true;
        match mode {
            BarrierMode::Aligned => {}
            BarrierMode::Unaligned => self.unaligned = true,
            BarrierMode::AtLeastOnce => self.at_least_once = true,
        }
    }

    /// True once a barrier has arrived, or may have with the trigger.
    pub fn heard(&self) -> bool {
        self.started && (self.positions.is_empty() || self.positions.iter().any(|position| position.bounded))
    }

    /// The task is to end before it snapshots this round.
    pub fn end_first(&mut self) {
        self.ends_first = true;
    }

    /// True while the task must not finish: it would pass the round's barrier, and say so in its snapshot.
    pub fn holds_back_the_end(&self) -> bool {
        self.heard() && !self.snapshotted && !self.ends_first
    }

    pub fn expire(&mut self) {
        self.expired = true;
    }

    /// The channel's own cut, if its barrier was announced.
    pub fn cut(&self, channel: usize) -> Option<u64> {
        self.positions[channel].cut
    }

    pub fn set_cut(&mut self, channel: usize, cut: u64) {
        self.positions[channel].cut = Some(cut);
    }

    pub fn reached(&self, channel: usize) -> bool {
        self.positions[channel].reached
    }

    /// The channel's bound is known.
    pub fn bounded(&mut self, channel: usize, kind: ChannelKind) {
        let position = &mut self.positions[channel];
        if !position.bounded {
            position.bounded = true;
            self.unbounded_delayed -= usize::from(kind == ChannelKind::DelayedExchange);
        }
    }

    /// The channel has been processed up to its bound.
    pub fn reach(&mut self, channel: usize, kind: ChannelKind) {
        let position = &mut self.positions[channel];
        if !position.reached {
            position.reached = true;
            self.unreached -= 1;
            self.unreached_aligned_only -= usize::from(kind == ChannelKind::AlignedOnly);
        }
    }

    /// True when every input is where the mode wants it for the snapshot. A task without inputs is always there.
    pub fn aligned(&self) -> bool {
        match self.mode() {
            BarrierMode::Unaligned => self.unreached_aligned_only == 0 && self.unbounded_delayed == 0,
            BarrierMode::Aligned | BarrierMode::AtLeastOnce => self.unreached == 0,
        }
    }

    /// Triggered so that no timer can turn it.
    #[cfg(any(test, feature = "testing"))]
    pub fn stays_aligned(&self) -> bool {
        self.never_expires
    }

    /// Its own timer has run out, and could turn it.
    #[cfg(any(test, feature = "testing"))]
    pub fn timed(&self) -> bool {
        self.expired && !self.never_expires
    }

    /// True while channels must not be read past this round's cuts.
    pub fn holds_back(&self) -> bool {
        !self.snapshotted && self.mode() != BarrierMode::AtLeastOnce
    }
}

//! What tests may do to a gate: break a rule of it, and look inside.

use super::{BarrierMode, Capture, Gate, Ready};
use crate::barrier::transition::{Transition, Transitions};
use thalweg_storage::CheckpointId;
use thalweg_storage::fault::{Broken, Fault};

impl Gate {
    /// Breaks a rule from now on.
    pub(in crate::barrier) fn break_rule(&mut self, fault: Option<Fault>) {
        self.fault = Broken::by(fault);
    }

    /// How often the gate has taken each transition.
    pub fn transitions(&self) -> &Transitions {
        &self.transitions
    }

    /// Counts how a round that is ready passes its barrier.
    pub(super) fn note_snapshot(&mut self, index: usize, ready: Ready) {
        let round = &self.rounds[index];
        let how = match ready.mode {
            _ if self.finished => Transition::SnapshotWhenFinished,
            _ if self.channels.is_empty() => Transition::SnapshotOfSource,
            BarrierMode::Aligned if round.stays_aligned() => Transition::SnapshotOfSavepoint,
            BarrierMode::Aligned => Transition::SnapshotAligned,
            BarrierMode::AtLeastOnce => Transition::SnapshotAtLeastOnce,
            BarrierMode::Unaligned if round.timed() => Transition::SnapshotAfterTimeout,
            BarrierMode::Unaligned => Transition::SnapshotUnaligned,
        };
        self.transitions.count(how);
    }

    /// Rounds in use, and rounds kept for reuse.
    #[cfg(test)]
    pub(in crate::barrier) fn held_rounds(&self) -> (usize, usize) {
        (self.rounds.len(), self.spare.len())
    }

    /// What a newer announcement must never do.
    pub(super) fn break_newer_kills_older(&mut self, checkpoint: CheckpointId) {
        if !broken!(self, NewerKillsOlder) {
            return;
        }
        while let Some(round) = self.rounds.iter().find(|r| r.checkpoint < checkpoint && !r.snapshotted) {
            self.abort(round.checkpoint);
        }
    }

    /// What an obsolete announcement must never do.
    pub(super) fn break_obsolete_sets_bound(&mut self, channel: usize, cut: u64) {
        if !broken!(self, ObsoleteSetsBound) {
            return;
        }
        if let Some(Capture { checkpoint, bound: None, .. }) = self.capture(channel) {
            let index = self.rounds.iter().position(|round| round.checkpoint == checkpoint);
            self.rounds[index.expect("captures belong to known rounds")].set_cut(channel, cut);
            self.settle_capture(channel);
        }
    }
}

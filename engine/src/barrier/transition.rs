//! The transitions of the gate, counted: a campaign of schedules says with these what it has seen.

/// What happened to a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// The trigger comes before any announcement.
    TriggerFirst,
    /// The trigger comes after an announcement.
    TriggerAfterAnnouncement,
    /// The trigger of a round that is over: its abort has overtaken it.
    TriggerOfOver,
    /// The timer runs out before the round is known.
    ExpiryBeforeRound,
    /// The timer turns an aligning round.
    ExpirySwitches,
    /// The timer of a round that is unaligned already, or aligned for good.
    ExpiryWithoutEffect,
    /// The timer runs out after the snapshot.
    ExpiryAfterSnapshot,
    /// The timer of a round that is over.
    ExpiryOfOver,
    /// An announcement is the first that is heard of a round.
    AnnouncementFirst,
    /// Another channel announces a round that waits.
    AnnouncementAgain,
    /// An unaligned announcement turns an aligning round.
    AnnouncementSwitches,
    /// A channel announces a round that has its snapshot.
    AnnouncementAfterSnapshot,
    /// A channel announces a round that is over.
    AnnouncementOfOver,
    /// A round begins while an older one waits for its snapshot.
    RoundsOverlap,
    /// A round is first heard of after a younger one.
    OlderRoundHeardLater,
    /// A channel is processed up to a cut.
    CutReached,
    /// A channel is processed up to its end.
    EndReached,
    /// A stream ends while no round is known.
    EndWithoutRound,
    /// A stream ends while rounds are known.
    EndDuringRound,
    /// A stream ends while the channel is captured.
    EndDuringCapture,
    /// A task without inputs snapshots.
    SnapshotOfSource,
    /// Snapshot with every channel at its cut.
    SnapshotAligned,
    /// The same, in a round that no timer turns.
    SnapshotOfSavepoint,
    /// Snapshot with every channel at or behind its cut.
    SnapshotAtLeastOnce,
    /// Snapshot of a round that was unaligned from the first.
    SnapshotUnaligned,
    /// Unaligned snapshot of a round that had begun to align.
    SnapshotAfterTimeout,
    /// A finished task snapshots.
    SnapshotWhenFinished,
    /// An unaligned snapshot shows that an older round is dead.
    SnapshotEndsOlderCapture,
    /// An older round of which only the timer is known can never start.
    SnapshotDropsTimer,
    /// A capture begins without knowing its end.
    CaptureBeforeAnnouncement,
    /// A capture begins, up to a known cut.
    CaptureToKnownCut,
    /// A channel is at its cut when the snapshot is taken.
    CaptureOfNothing,
    /// A capture has come to its bound.
    CaptureComplete,
    /// An abort comes before the barrier, or after the acknowledgement.
    AbortOfUnknown,
    /// An abort releases what the round holds back.
    AbortDuringAlignment,
    /// An abort withdraws a round that may snapshot.
    AbortOfReady,
    /// An abort closes captures.
    AbortDuringCapture,
    /// An abort of a round with nothing left to capture.
    AbortAfterSnapshot,
    /// A round is acknowledged.
    Acknowledged,
    /// The task finishes while no round is known.
    FinishWithoutRound,
    /// The task finishes while rounds are known.
    FinishDuringRound,
}

impl Transition {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Transition; 41] = [
        Transition::TriggerFirst,
        Transition::TriggerAfterAnnouncement,
        Transition::TriggerOfOver,
        Transition::ExpiryBeforeRound,
        Transition::ExpirySwitches,
        Transition::ExpiryWithoutEffect,
        Transition::ExpiryAfterSnapshot,
        Transition::ExpiryOfOver,
        Transition::AnnouncementFirst,
        Transition::AnnouncementAgain,
        Transition::AnnouncementSwitches,
        Transition::AnnouncementAfterSnapshot,
        Transition::AnnouncementOfOver,
        Transition::RoundsOverlap,
        Transition::OlderRoundHeardLater,
        Transition::CutReached,
        Transition::EndReached,
        Transition::EndWithoutRound,
        Transition::EndDuringRound,
        Transition::EndDuringCapture,
        Transition::SnapshotOfSource,
        Transition::SnapshotAligned,
        Transition::SnapshotOfSavepoint,
        Transition::SnapshotAtLeastOnce,
        Transition::SnapshotUnaligned,
        Transition::SnapshotAfterTimeout,
        Transition::SnapshotWhenFinished,
        Transition::SnapshotEndsOlderCapture,
        Transition::SnapshotDropsTimer,
        Transition::CaptureBeforeAnnouncement,
        Transition::CaptureToKnownCut,
        Transition::CaptureOfNothing,
        Transition::CaptureComplete,
        Transition::AbortOfUnknown,
        Transition::AbortDuringAlignment,
        Transition::AbortOfReady,
        Transition::AbortDuringCapture,
        Transition::AbortAfterSnapshot,
        Transition::Acknowledged,
        Transition::FinishWithoutRound,
        Transition::FinishDuringRound,
    ];
}

/// How often each transition was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transitions([u64; Transition::ALL.len()]);

impl Default for Transitions {
    fn default() -> Self {
        Transitions([0; Transition::ALL.len()])
    }
}

impl Transitions {
    pub(super) fn count(&mut self, transition: Transition) {
        self.0[transition as usize] += 1;
    }

    /// How often this one was taken.
    pub fn of(&self, transition: Transition) -> u64 {
        self.0[transition as usize]
    }

    /// Adds those of another gate.
    pub fn add(&mut self, other: &Transitions) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }

    /// The rarest, and how often it was taken.
    pub fn rarest(&self) -> (Transition, u64) {
        let of = |transition| (transition, self.of(transition));
        Transition::ALL.into_iter().map(of).min_by_key(|(_, count)| *count).expect("there are transitions")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_every_transition_at_its_discriminant() {
        assert!(Transition::ALL.iter().enumerate().all(|(index, transition)| *transition as usize == index));
    }
}

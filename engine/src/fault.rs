//! Rules of the checkpoint protocol broken on purpose, so that tests can show that they would notice.
//!
//! A rule's switch stands where the rule is kept, as `broken!(Name)`, and is a constant `false` outside of tests. A fault holds for
//! the thread that has set it: tests that break a rule disturb no others. Which test answers for which rule is listed in
//! `job/rules.rs`.

#[cfg(any(test, feature = "testing"))]
use std::cell::Cell;

/// A rule broken on purpose.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Channels are read past cuts.
    NeverHoldsBack,
    /// At-least-once rounds count an announcement as reached.
    AtLeastOnceWhenAnnounced,
    /// The end of a stream counts as reached when it is announced.
    EndWhenSeen,
    /// A channel whose end is announced is not captured.
    EndedNotCaptured,
    /// A round keeps the mode it was first heard of with, whatever is announced or runs out later.
    FirstModeSticks,
    /// A timer that runs out before the round is known is forgotten.
    EarlyExpiryForgotten,
    /// An abort that comes before the barrier is forgotten.
    EarlyAbortForgotten,
    /// An abort does not release the channels that its round held back.
    AbortKeepsHolding,
    /// An announcement of a dead round bounds the running capture.
    ObsoleteSetsBound,
    /// The youngest round that can snapshot does.
    YoungerFirst,
    /// A younger announcement ends older rounds that still align.
    NewerKillsOlder,
    /// Aligned-only inputs do not delay an unaligned snapshot.
    AlignedOnlyIgnored,
    /// While aligned-only inputs align, other channels are read past their cuts.
    OthersPassTheirCuts,
    /// A second announcement moves the cut.
    LaterCutReplaces,
    /// The capture leaves out its first batch.
    CaptureStartsLate,
    /// The capture leaves out its last batch.
    CaptureEndsEarly,
    /// A round is complete although captures are open.
    CompleteAtSnapshot,
    /// Tasks with inputs ignore the trigger.
    TriggerForSourcesOnly,
    /// A finished task waits for its inputs.
    FinishChangesNothing,
    /// A snapshot is announced although some output's side ring is full.
    AnnouncesIntoFullRing,
    /// An aligned snapshot leaves out what waits in the outbox.
    OutboxLeftOut,
    /// An unaligned snapshot leaves out the rest of a half processed batch.
    PartialBatchLeftOut,
    /// Restored batches do not count as pushed.
    RestoredUncounted,
    /// After an announcement everything that is in the ring becomes visible.
    SeesBeyondCut,
    /// Unaligned checkpoints start beside others.
    UnalignedOverlaps,
    /// A sink's part of a checkpoint lists only what was prepared for it.
    ListsOwnCommittablesOnly,
    /// A decline aborts even a checkpoint that is being published.
    FinalisingAborted,
    /// An acknowledgement does not hold its files.
    AcknowledgementHoldsNothing,
    /// Announcements do not ring the doorbell.
    AnnouncesSilently,
}

#[cfg(any(test, feature = "testing"))]
thread_local! {
    static ACTIVE: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// The fault of this thread.
#[cfg(any(test, feature = "testing"))]
pub fn active() -> Option<Fault> {
    ACTIVE.get()
}

/// Runs `scenario` with a fault, also for what it makes to live longer.
#[cfg(test)]
pub(crate) fn with_fault<R>(fault: Option<Fault>, scenario: impl FnOnce() -> R) -> R {
    struct Restore(Option<Fault>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(fault));
    scenario()
}

/// True when a test has broken the named rule: for this thread, or for one gate.
#[cfg(any(test, feature = "testing"))]
macro_rules! broken {
    ($fault:ident) => {
        $crate::fault::active() == Some($crate::fault::Fault::$fault)
    };
    ($gate:expr, $fault:ident) => {
        $gate.fault == Some($crate::fault::Fault::$fault)
    };
}
#[cfg(not(any(test, feature = "testing")))]
macro_rules! broken {
    ($fault:ident) => {
        $crate::fault::intact()
    };
    ($gate:expr, $fault:ident) => {
        $crate::fault::intact()
    };
}
#[cfg(not(any(test, feature = "testing")))]
pub(crate) const fn intact() -> bool {
    false
}

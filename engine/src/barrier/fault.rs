//! Rules of the gate broken on purpose, so that tests can show that they would notice.

/// A rule broken on purpose, so that the tests can show that they would notice.
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
}

/// True when a test has broken the named rule.
#[cfg(any(test, feature = "testing"))]
macro_rules! broken {
    ($gate:expr, $fault:ident) => {
        $gate.fault == Some($crate::barrier::fault::Fault::$fault)
    };
}
#[cfg(not(any(test, feature = "testing")))]
macro_rules! broken {
    ($gate:expr, $fault:ident) => {
        $crate::barrier::fault::intact()
    };
}
#[cfg(not(any(test, feature = "testing")))]
pub(super) const fn intact() -> bool {
    false
}

/// Counts a transition, for tests that must know that they have seen it.
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

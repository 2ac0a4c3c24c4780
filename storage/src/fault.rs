//! Rules of checkpoints broken on purpose, so that tests can show that they would notice.
//!
//! A rule's switch stands where the rule is kept, in this crate or the engine, as `broken!(Name)`, and is a constant `false`
//! outside of tests. A fault holds for the thread that has set it: tests that break a rule disturb no others.

#[cfg(any(test, feature = "testing"))]
pub use enabled::{Broken, is_broken, with_fault};

/// True when a test has broken the named rule: for this thread, or for one gate.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
#[macro_export]
macro_rules! broken {
    ($fault:ident) => {
        $crate::fault::is_broken($crate::fault::Fault::$fault)
    };
    ($gate:expr, $fault:ident) => {
        $gate.fault.is($crate::fault::Fault::$fault)
    };
}

/// No rule is broken without the feature `testing`.
#[cfg(not(any(test, feature = "testing")))]
#[doc(hidden)]
#[macro_export]
macro_rules! broken {
    ($fault:ident) => {
        $crate::fault::intact()
    };
    ($gate:expr, $fault:ident) => {
        $gate.fault.is($crate::fault::Fault::$fault)
    };
}

/// False; a call, so that the compiler does not complain of conditions that are constant.
#[cfg(not(any(test, feature = "testing")))]
#[doc(hidden)]
pub const fn intact() -> bool {
    false
}

/// A rule broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Channels are read past cuts.
    NeverHoldsBack,
    /// At-least-once rounds count an announcement as reached.
    AtLeastOnceWhenAnnounced,
    /// The end of a stream counts as reached when it is announced.
    EndWhenSeen,
    /// A task ends although a round whose barrier has come waits for its snapshot.
    EndPassesBarrier,
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
    /// A snapshot leaves out what waits in the outbox.
    OutboxLeftOut,
    /// An unaligned snapshot leaves out the rest of a half processed batch.
    PartialBatchLeftOut,
    /// Restored batches do not count as pushed.
    RestoredUncounted,
    /// After an announcement everything that is in the ring becomes visible.
    SeesBeyondCut,
    /// Unaligned checkpoints start beside others.
    UnalignedOverlaps,
    /// A task acknowledges what it is still writing.
    AcknowledgesEarly,
    /// A sink commits when it has prepared, before the manifest that lists it.
    CommitsBeforeManifest,
    /// A sink's part of a checkpoint lists only what was prepared for it.
    ListsOwnCommittablesOnly,
    /// A restored output file keeps what was written after the checkpoint.
    TruncationSkipped,
    /// A decline aborts even a checkpoint that is being published.
    FinalisingAborted,
    /// An acknowledgement does not hold its files.
    AcknowledgementHoldsNothing,
    /// Announcements do not ring the doorbell.
    AnnouncesSilently,
    /// Ids found on disk are forgotten, so that those of dead attempts come again.
    IdsStartOver,
    /// A checkpoint begins although its directory's name may be lost.
    BeginDirUnsynced,
    /// A manifest is published while the names of its files may be lost.
    DataDirsUnsynced,
    /// A manifest is published before its segments are durable.
    ManifestBeforeData,
    /// A manifest is renamed before its bytes are durable.
    ManifestRenamedUnsynced,
    /// A checkpoint is called complete before its name is durable.
    ManifestDirUnsynced,
    /// A manifest is read for a restore without being made durable first.
    ManifestUnsynced,
    /// A sync that failed is tried again, and believed.
    FailedSyncRetried,
    /// Files go before the removal of the manifest that names them is durable.
    ReleaseDirUnsynced,
    /// A claimed original stays for ever.
    ClaimedStays,
    /// Any number of checkpoints is under way at once.
    ConcurrencyUnlimited,
    /// Users' checkpoints wait for the min pause too.
    PauseDelaysAll,
    /// A periodic checkpoint that is due goes before a user's.
    PeriodicFirst,
    /// Savepoints queue behind checkpoints.
    SavepointsLast,
    /// An acknowledgement that comes twice stands for a task whose own is missing.
    DuplicatesCount,
    /// Files of late and unknown acknowledgements stay.
    LateFilesStay,
    /// A checkpoint that has completed leaves older ones under way.
    NothingSubsumed,
    /// A savepoint ends when a younger checkpoint completes.
    SavepointsSubsumed,
    /// A savepoint ends older checkpoints.
    SavepointsSubsume,
    /// Tasks hear of plain savepoints as of checkpoints.
    SavepointsNotified,
    /// An expiry ends all rounds.
    ExpiryEndsAll,
    /// No failure of a checkpoint counts.
    FailuresUncounted,
    /// Each failure of a checkpoint counts, subsumption and the end of an attempt included.
    EverythingCounts,
    /// A completed checkpoint does not reset the count of failures.
    SuccessResetsNothing,
    /// Files go although nobody knows whether their checkpoint is complete.
    UnknownOutcomeDeletes,
    /// Tasks hear of each end twice.
    EndsToldTwice,
    /// Aborts come without the latest completed checkpoint.
    AbortsCarryNothing,
    /// A drain takes its savepoint before the operators have closed.
    DrainNotAwaited,
    /// Tasks stand still after a suspension that failed.
    SuspensionSticks,
    /// The savepoint of a stop does not become the job's newest checkpoint.
    StopLeavesNoCheckpoint,
    /// The first checkpoint after a start from somebody else's goes on naming its files.
    FirstCheckpointIncremental,
    /// Union state is stored although its operator has finished in part.
    UnionInPart,
}

/// The rule that is broken for one object.
#[cfg(not(any(test, feature = "testing")))]
#[derive(Clone, Copy, Debug)]
pub struct Broken;

#[cfg(not(any(test, feature = "testing")))]
impl Broken {
    /// None is.
    pub const fn in_this_thread() -> Self {
        Broken
    }

    /// None is.
    #[inline]
    pub const fn is(self, _: Fault) -> bool {
        false
    }
}

#[cfg(any(test, feature = "testing"))]
mod enabled {
    use super::Fault;
    use std::cell::Cell;

    thread_local! {
        static ACTIVE: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// The rule that is broken for one object.
    #[derive(Clone, Copy, Debug)]
    pub struct Broken(Option<Fault>);

    impl Broken {
        /// What is broken in this thread now.
        pub fn in_this_thread() -> Self {
            Broken(ACTIVE.get())
        }

        /// This one, or none.
        pub fn by(fault: Option<Fault>) -> Self {
            Broken(fault)
        }

        /// True when it is this one.
        pub fn is(self, fault: Fault) -> bool {
            self.0 == Some(fault)
        }
    }

    /// True when this thread has broken the rule.
    pub fn is_broken(fault: Fault) -> bool {
        ACTIVE.get() == Some(fault)
    }

    /// Runs `scenario` with a fault in this thread, also for what it makes to live longer.
    pub fn with_fault<R>(fault: Option<Fault>, scenario: impl FnOnce() -> R) -> R {
        struct Restore(Option<Fault>);
        impl Drop for Restore {
            fn drop(&mut self) {
                ACTIVE.set(self.0);
            }
        }
        let _restore = Restore(ACTIVE.replace(fault));
        scenario()
    }
}

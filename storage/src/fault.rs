//! Rules of checkpoint storage broken on purpose, so that tests can show that they would notice.
//!
//! A rule's switch stands where the rule is kept, as `broken!(Name)`, and is a constant `false` outside of tests. A fault holds for
//! the thread that has set it.

#[cfg(any(test, feature = "testing"))]
use std::cell::Cell;

/// A rule broken on purpose.
#[cfg(any(test, feature = "testing"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// Ids found on disk are forgotten, so that those of dead attempts come again.
    IdsStartOver,
    /// A manifest is read for a restore without being made durable first.
    ManifestUnsynced,
}

#[cfg(any(test, feature = "testing"))]
thread_local! {
    static ACTIVE: Cell<Option<StorageFault>> = const { Cell::new(None) };
}

/// True when this thread has broken the rule.
#[cfg(any(test, feature = "testing"))]
pub fn is_broken(fault: StorageFault) -> bool {
    ACTIVE.get() == Some(fault)
}

/// Runs `scenario` with a fault.
#[cfg(any(test, feature = "testing"))]
pub fn with_fault<R>(fault: StorageFault, scenario: impl FnOnce() -> R) -> R {
    struct Restore(Option<StorageFault>);
    impl Drop for Restore {
        fn drop(&mut self) {
            ACTIVE.set(self.0);
        }
    }
    let _restore = Restore(ACTIVE.replace(Some(fault)));
    scenario()
}

/// True when a test has broken the named rule.
#[cfg(any(test, feature = "testing"))]
macro_rules! broken {
    ($fault:ident) => {
        $crate::fault::is_broken($crate::fault::StorageFault::$fault)
    };
}
#[cfg(not(any(test, feature = "testing")))]
macro_rules! broken {
    ($fault:ident) => {
        $crate::fault::intact()
    };
}
#[cfg(not(any(test, feature = "testing")))]
pub(crate) const fn intact() -> bool {
    false
}

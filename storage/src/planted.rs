//! Planted bugs: mistakes that tests switch on one at a time, to see that the tests of recovery find them.
//!
//! Always true:
//! - without the cargo feature `testing` there are none: `planted!` is `false`;
//! - a bug is planted for the calling thread alone, and none is unless a test says so.

/// True where a test has planted this bug.
#[cfg(feature = "testing")]
macro_rules! planted {
    ($bug:literal) => {
        $crate::planted::is_planted($bug)
    };
}

/// No bug is planted without the feature `testing`.
#[cfg(not(feature = "testing"))]
macro_rules! planted {
    ($bug:literal) => {
        false
    };
}

#[cfg(feature = "testing")]
pub use enabled::{BUGS, is_planted, plant};

#[cfg(feature = "testing")]
mod enabled {
    use std::cell::Cell;

    /// All bugs, here and in the engine.
    pub const BUGS: &[&str] = &[
        // A checkpoint is begun without its directory's name being durable.
        "skip_begin_dir_sync",
        // A manifest is published while the names of its files may be lost.
        "skip_data_dirs_sync",
        // A manifest is renamed before its bytes are durable.
        "skip_manifest_sync",
        // A checkpoint is called complete before its name is durable.
        "skip_manifest_dir_sync",
        // A manifest is published before its segments are durable.
        "manifest_before_data",
        // A sync that failed is tried again, and believed.
        "retry_failed_sync",
        // Files go before the removal of the manifest that names them is durable.
        "release_without_dir_sync",
        // A task acknowledges what it is still writing.
        "ack_before_durable",
        // A snapshot leaves out what waits to be sent.
        "forget_outbox",
        // A sink commits when it has prepared, before the manifest that lists it.
        "commit_before_manifest",
        // A manifest lists only what was prepared for its own checkpoint.
        "own_committables_only",
    ];

    thread_local! {
        static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
    }

    /// Plants a bug for this thread, instead of any before; none for none.
    ///
    /// # Panics
    /// When it is none of [`BUGS`].
    pub fn plant(bug: Option<&'static str>) {
        assert!(bug.is_none_or(|bug| BUGS.contains(&bug)), "{bug:?} is no bug");
        PLANTED.set(bug);
    }

    /// True where this bug is planted.
    pub fn is_planted(bug: &str) -> bool {
        PLANTED.get() == Some(bug)
    }
}

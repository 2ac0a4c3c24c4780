//! Crash points: named places at which a process can be made to kill itself, so that what a machine's death leaves behind is
//! tested at each of them.
//!
//! Always true:
//! - without the cargo feature `crash-points` a point expands to nothing;
//! - each point is declared in the table [`CRASH_POINTS`] of its crate: one that is not does not compile, one that is
//!   declared and not used, or used and not tested, is found by `cargo xtask tidy`;
//! - a point that is not armed costs one atomic load.
//!
//! `CRASH_INJECT_AT=<name>:<n>` arms the point `<name>`: whoever reaches it for the n-th time kills the process with
//! SIGKILL, after a line `crash point <name>` on standard error. No destructor runs, no buffer is flushed.

/// Marks a crash point of the crate that uses it, whose `CRASH_POINTS` are in its module `crash`.
#[cfg(feature = "crash-points")]
#[doc(hidden)]
#[macro_export]
#[expect(clippy::crate_in_macro_def, reason = "each crate has its own table")]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash::reached(const { $crate::crash::declared(crate::crash::CRASH_POINTS, $name) })
    };
}

/// Marks a crash point: nothing without the feature `crash-points`.
#[cfg(not(feature = "crash-points"))]
#[doc(hidden)]
#[macro_export]
macro_rules! crash_point {
    ($name:literal) => {};
}

#[cfg(feature = "crash-points")]
pub use enabled::{CRASH_POINTS, declared, reached};

#[cfg(feature = "crash-points")]
mod enabled {
    use std::io::Write;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Environment variable that arms a point: `<name>:<n>`.
    const VARIABLE: &str = "CRASH_INJECT_AT";

    /// All crash points of this crate.
    pub const CRASH_POINTS: &[&str] = &[
        // A job's checkpoint directory is opened.
        "store.before_create_dirs",
        "store.after_create_dirs",
        "store.after_lock",
        "store.after_scan",
        "store.before_remove_scratch",
        "store.after_remove_scratch",
        "store.after_sweep",
        // An attempt takes its number.
        "attempt.before_create_dir",
        "attempt.before_dir_sync",
        "attempt.after_dir_sync",
        "attempt.after_remove_older",
        // A checkpoint takes its id.
        "begin.before_create_dir",
        "begin.before_dir_sync",
        "begin.after_dir_sync",
        // Segments and in-flight data are written.
        "data.before_create",
        "data.after_create",
        "data.before_write",
        "data.after_write",
        "data.before_sync",
        "data.after_sync",
        "data.after_close",
        // A manifest is published.
        "manifest.before_data_dirs_sync",
        "manifest.after_data_dirs_sync",
        "manifest.after_create",
        "manifest.after_write",
        "manifest.before_rename",
        "manifest.after_rename",
        "manifest.after_dir_sync",
        // Older checkpoints go.
        "retention.before_remove_manifest",
        "retention.before_dir_sync",
        "retention.after_dir_sync",
        "retention.before_remove_file",
        "retention.after_remove_file",
        "retention.before_remove_leftover",
        "retention.after_remove_leftover",
        "retention.before_remove_dir",
        "retention.after_remove_dir",
        // A savepoint takes its id and its directory.
        "savepoint.before_create_root",
        "savepoint.before_create_dir",
        "savepoint.before_dir_sync",
        "savepoint.after_dir_sync",
        // A savepoint is published.
        "savepoint.before_data_dir_sync",
        "savepoint.after_data_dir_sync",
        "savepoint.after_create",
        "savepoint.after_write",
        "savepoint.before_rename",
        "savepoint.after_rename",
        "savepoint.after_publish_dir_sync",
        // One that came to nothing is deleted.
        "savepoint.before_give_up",
        "savepoint.after_give_up",
        "savepoint.before_remove_file",
        "savepoint.before_remove_dir",
        "savepoint.after_remove_dir",
        // A complete one is deleted.
        "dispose.before_remove_manifest",
        "dispose.before_dir_sync",
        "dispose.after_dir_sync",
        "dispose.after_remove_file",
        "dispose.before_remove_dir",
        "dispose.after_remove_dir",
        // A job starts from one, and claims it.
        "restore.before_found_dir_sync",
        "restore.after_found_dir_sync",
        "take_over.before_begin",
        "take_over.after_begin",
        "claim.before_dispose",
        "claim.after_dispose",
        // The latest checkpoint is read and made durable.
        "restore.before_read_manifest",
        "restore.before_manifest_sync",
        "restore.after_manifest_sync",
        "restore.before_dirs_sync",
        "restore.after_dirs_sync",
        // Keyed state is read back.
        "restore.before_keyed",
        "restore.after_directories",
        "restore.before_apply",
        "restore.after_keyed",
        // A snapshot of keyed state, from its begin to the end of its checkpoint.
        "snapshot.before_begin",
        "snapshot.after_begin",
        "snapshot.after_slice",
        "snapshot.after_file",
        "snapshot.before_completed",
        "snapshot.after_completed",
        // State as a log: compaction, and what memory does not hold.
        "compaction.after_decision",
        "compaction.after_gather",
        "compaction.after_page",
        "scratch.after_create",
        "scratch.before_write",
        "scratch.after_write",
        "cold.before_read",
        "cold.after_read",
    ];

    /// `name`, which must be in `table`: checked when the point is compiled.
    ///
    /// # Panics
    /// When it is not.
    pub const fn declared(table: &[&str], name: &'static str) -> &'static str {
        let mut at = 0;
        while at < table.len() {
            if same(table[at].as_bytes(), name.as_bytes()) {
                return name;
            }
            at += 1;
        }
        panic!("this crash point is not declared in CRASH_POINTS");
    }

    const fn same(a: &[u8], b: &[u8]) -> bool {
        if a.len() != b.len() {
            return false;
        }
        let mut at = 0;
        while at < a.len() {
            if a[at] != b[at] {
                return false;
            }
            at += 1;
        }
        true
    }

    struct Armed {
        name: String,
        /// How often it is to be reached until the process dies.
        left: AtomicU64,
    }

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (name, count) = text.rsplit_once(':').unwrap_or((&text, "1"));
        let count = count.parse().unwrap_or(0);
        assert!(count > 0, "{VARIABLE}={text}: not of the form <name>:<n> with n from 1 on");
        Some(Armed { name: name.to_owned(), left: AtomicU64::new(count) })
    });

    /// The process is at the point `name`; if that is armed, it may never get further. Also for points of other crates than
    /// this one, such as those of a connector under test.
    #[inline]
    pub fn reached(name: &'static str) {
        if let Some(armed) = &*ARMED
            && armed.name == name
            && armed.left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            die(name);
        }
    }

    #[cold]
    fn die(name: &str) -> ! {
        // Nobody may be listening; the process dies all the same.
        let _ = writeln!(std::io::stderr(), "crash point {name}");
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        unreachable!("SIGKILL cannot be refused by its own process")
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use std::collections::BTreeSet;

        #[test]
        fn each_point_is_declared_once_and_says_its_phase() {
            let names: BTreeSet<_> = CRASH_POINTS.iter().collect();
            assert_eq!(names.len(), CRASH_POINTS.len());
            assert!(CRASH_POINTS.iter().all(|name| name.split_once('.').is_some()), "{CRASH_POINTS:?}");
        }

        #[test]
        #[should_panic(expected = "not declared")]
        fn a_point_that_is_not_declared_is_refused() {
            declared(CRASH_POINTS, "manifest.somewhere");
        }
    }
}

//! Crash points of the engine; how they work is told in [`thalweg_storage::crash`].
//!
//! Always true: without the cargo feature `crash-points` a point expands to nothing, and an undeclared one does not compile.

#[cfg(feature = "crash-points")]
pub use thalweg_storage::crash::{CRASH_POINTS as STORAGE_CRASH_POINTS, declared, reached};

/// All crash points of this crate.
#[cfg(feature = "crash-points")]
pub const CRASH_POINTS: &[&str] = &[
    // An attempt is built, restored and started.
    "deploy.before_attempt",
    "deploy.after_manifest",
    "deploy.after_build",
    "deploy.after_start",
    "restore.before_task",
    "restore.after_task",
    // The coordinator's side of a checkpoint.
    "trigger.before_begin",
    "trigger.after_begin",
    "report.received",
    "publish.before_manifest",
    "publish.after_manifest",
    // Commands to the workers: triggers, ends of checkpoints.
    "broadcast.before",
    "broadcast.after_worker",
    "broadcast.after",
    // A task's side of a checkpoint.
    "barrier.before_snapshot",
    "barrier.after_announcement",
    "barrier.after_operator_state",
    "barrier.after_snapshot",
    "in_flight.before_collect",
    "in_flight.after_collect",
    "segment.begun",
    "segment.durable",
    "ack.before_report",
    "ack.after_report",
    "complete.before_task",
    "complete.after_task",
    // The end of a stream.
    "end.before_announcement",
    "end.after_announcement",
    "end.finished",
    // Any sink.
    "sink.before_open",
    "sink.after_open",
    "sink.before_prepare",
    "sink.after_prepare",
    "sink.before_commit",
    "sink.after_commit",
    // The file sink: a file is begun, written, made durable, finished.
    "file_sink.before_create",
    "file_sink.after_create",
    "file_sink.after_create_dir_sync",
    "file_sink.before_write",
    "file_sink.after_write",
    "file_sink.before_sync",
    "file_sink.after_sync",
    "file_sink.before_seal_sync",
    "file_sink.after_seal_sync",
    "file_sink.after_seal_rename",
    "file_sink.after_seal_dir_sync",
    // The file sink: finished files get their names.
    "file_sink.before_publish_rename",
    "file_sink.after_publish_rename",
    "file_sink.after_publish_dir_sync",
    // The file sink brings its directory back to what a checkpoint names.
    "file_sink.before_recovery",
    "file_sink.before_truncate",
    "file_sink.after_truncate",
    "file_sink.after_truncate_sync",
    "file_sink.before_remove",
    "file_sink.after_remove",
    "file_sink.after_recovery",
];

#[cfg(all(test, feature = "crash-points"))]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_point_is_declared_once_in_both_crates_together_and_there_are_sixty_at_least() {
        let all: Vec<_> = STORAGE_CRASH_POINTS.iter().chain(CRASH_POINTS).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        assert!(all.len() >= 60, "{}", all.len());
    }
}

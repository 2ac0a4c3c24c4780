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
    // A savepoint that the job goes on after, one that it stops with, one that it starts from.
    "savepoint.before_id_given_back",
    "savepoint.after_id_given_back",
    "stop.suspended",
    "stop.before_checkpoint",
    "stop.ending",
    "stop.finished",
    "take_over.before_publish",
    "take_over.after_publish",
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
    // The two-phase-commit sink: transactions that a checkpoint does not list are rolled back, others committed.
    "two_phase.before_recovery",
    "two_phase.before_recovered_abort",
    "two_phase.after_recovered_abort",
    "two_phase.after_recovery",
    "two_phase.before_recovered_commit",
    "two_phase.after_recovered_commit",
    // The two-phase-commit sink: a transaction's life.
    "two_phase.before_begin",
    "two_phase.after_begin",
    "two_phase.after_write",
    "two_phase.before_pre_commit",
    "two_phase.after_pre_commit",
    "two_phase.before_commit",
    "two_phase.after_commit",
    "two_phase.before_abort",
    "two_phase.after_abort",
    // The write-ahead sink: markers are looked at, output is written with its marker.
    "write_ahead.before_recovery",
    "write_ahead.after_recovery",
    "write_ahead.before_read_marker",
    "write_ahead.found_marker",
    "write_ahead.before_write",
    "write_ahead.after_write",
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

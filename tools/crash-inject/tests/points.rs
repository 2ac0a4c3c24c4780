//! Kills a small job at each declared crash point, and demands that nothing is lost, duplicated, out of order or corrupt.
//!
//! Always true: the tables name each declared point once; `cargo xtask tidy` compares them with the declarations.

use crash_inject::campaign::Kind;
use crash_inject::jobs;
use crash_inject::report::line;
use crash_inject::run::{Orders, run};
use std::collections::BTreeSet;
use std::time::Duration;

/// A job's checkpoint directory: opened, written, published, cleaned, read.
const CHECKPOINT_DIRECTORY: &[&str] = &[
    "store.before_create_dirs",
    "store.after_create_dirs",
    "store.after_lock",
    "store.after_scan",
    "store.before_remove_scratch",
    "store.after_remove_scratch",
    "store.after_sweep",
    "attempt.before_create_dir",
    "attempt.before_dir_sync",
    "attempt.after_dir_sync",
    "attempt.after_remove_older",
    "begin.before_create_dir",
    "begin.before_dir_sync",
    "begin.after_dir_sync",
    "manifest.before_data_dirs_sync",
    "manifest.after_data_dirs_sync",
    "manifest.after_create",
    "manifest.after_write",
    "manifest.before_rename",
    "manifest.after_rename",
    "manifest.after_dir_sync",
    "retention.before_remove_manifest",
    "retention.before_dir_sync",
    "retention.after_dir_sync",
    "retention.before_remove_file",
    "retention.after_remove_file",
    "retention.before_remove_leftover",
    "retention.after_remove_leftover",
    "retention.before_remove_dir",
    "retention.after_remove_dir",
    "restore.before_read_manifest",
    "restore.before_manifest_sync",
    "restore.after_manifest_sync",
    "restore.before_dirs_sync",
    "restore.after_dirs_sync",
];

/// Keyed state: snapshots, restores, compaction, what memory does not hold.
const KEYED_STATE: &[&str] = &[
    "data.before_create",
    "data.after_create",
    "data.before_write",
    "data.after_write",
    "data.before_sync",
    "data.after_sync",
    "data.after_close",
    "restore.before_keyed",
    "restore.after_directories",
    "restore.before_apply",
    "restore.after_keyed",
    "snapshot.before_begin",
    "snapshot.after_begin",
    "snapshot.after_slice",
    "snapshot.after_file",
    "snapshot.before_completed",
    "snapshot.after_completed",
    "compaction.after_decision",
    "compaction.after_gather",
    "compaction.after_page",
    "scratch.after_create",
    "scratch.before_write",
    "scratch.after_write",
    "cold.before_read",
    "cold.after_read",
];

/// Attempts and checkpoints, from the coordinator to the tasks and back.
const COORDINATION: &[&str] = &[
    "deploy.before_attempt",
    "deploy.after_manifest",
    "deploy.after_build",
    "deploy.after_start",
    "restore.before_task",
    "restore.after_task",
    "trigger.before_begin",
    "trigger.after_begin",
    "report.received",
    "publish.before_manifest",
    "publish.after_manifest",
    "broadcast.before",
    "broadcast.after_worker",
    "broadcast.after",
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
];

/// Sinks and the ends of streams.
const OUTPUT: &[&str] = &[
    "end.before_announcement",
    "end.after_announcement",
    "end.finished",
    "sink.before_open",
    "sink.after_open",
    "sink.before_prepare",
    "sink.after_prepare",
    "sink.before_commit",
    "sink.after_commit",
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
    "file_sink.before_publish_rename",
    "file_sink.after_publish_rename",
    "file_sink.after_publish_dir_sync",
    "file_sink.before_recovery",
    "file_sink.before_truncate",
    "file_sink.after_truncate",
    "file_sink.after_truncate_sync",
    "file_sink.before_remove",
    "file_sink.after_remove",
    "file_sink.after_recovery",
];

/// Savepoints: taken, given up, disposed of, claimed; jobs that stop with one and start from one.
const SAVEPOINTS: &[&str] = &[
    "savepoint.before_create_root",
    "savepoint.before_create_dir",
    "savepoint.before_dir_sync",
    "savepoint.after_dir_sync",
    "savepoint.before_data_dir_sync",
    "savepoint.after_data_dir_sync",
    "savepoint.after_create",
    "savepoint.after_write",
    "savepoint.before_rename",
    "savepoint.after_rename",
    "savepoint.after_publish_dir_sync",
    "savepoint.before_give_up",
    "savepoint.after_give_up",
    "savepoint.before_remove_file",
    "savepoint.before_remove_dir",
    "savepoint.after_remove_dir",
    "dispose.before_remove_manifest",
    "dispose.before_dir_sync",
    "dispose.after_dir_sync",
    "dispose.after_remove_file",
    "dispose.before_remove_dir",
    "dispose.after_remove_dir",
    "restore.before_found_dir_sync",
    "restore.after_found_dir_sync",
    "take_over.before_begin",
    "take_over.after_begin",
    "claim.before_dispose",
    "claim.after_dispose",
    "savepoint.before_id_given_back",
    "savepoint.after_id_given_back",
    "stop.suspended",
    "stop.before_checkpoint",
    "stop.ending",
    "stop.finished",
    "take_over.before_publish",
    "take_over.after_publish",
];

/// Sinks to outside systems.
const OUTSIDE_SYSTEMS: &[&str] = &[
    "two_phase.before_recovery",
    "two_phase.before_recovered_abort",
    "two_phase.after_recovered_abort",
    "two_phase.after_recovery",
    "two_phase.before_recovered_commit",
    "two_phase.after_recovered_commit",
    "two_phase.before_begin",
    "two_phase.after_begin",
    "two_phase.after_write",
    "two_phase.before_pre_commit",
    "two_phase.after_pre_commit",
    "two_phase.before_commit",
    "two_phase.after_commit",
    "two_phase.before_abort",
    "two_phase.after_abort",
    "write_ahead.before_recovery",
    "write_ahead.after_recovery",
    "write_ahead.before_read_marker",
    "write_ahead.found_marker",
    "write_ahead.before_write",
    "write_ahead.after_write",
];

/// No campaign here takes so long, however busy the machine; one that does has not reached its goal.
const TIME_LIMIT: Duration = Duration::from_secs(1_800);

fn seed() -> u64 {
    std::env::var("THALWEG_SEED").map_or(1, |seed| seed.parse().expect("THALWEG_SEED is a number"))
}

fn every_point_is_reached_and_recovered_from(job: &str, points: &[&str]) {
    let state = tempfile::tempdir().expect("a temporary directory");
    let orders = Orders {
        job: jobs::find(job).expect("the job is built"),
        kind: Kind::Points,
        goal: 1,
        seed: seed(),
        points: points.iter().map(|point| (*point).to_owned()).collect(),
        only_cycle: None,
        contend: false,
        state: state.path().to_owned(),
        time_limit: TIME_LIMIT,
    };
    let outcome = run(&orders, &mut |_| {}).expect("the campaign runs");
    let campaign = &outcome.campaign;
    println!("{} points: {}", points.len(), line(campaign));
    if !outcome.complaints.is_empty() {
        panic!("{}: {:#?}", state.keep().display(), outcome.complaints);
    }
    assert!(campaign.audit.is_clean() && outcome.is_done, "{}", line(campaign));
    assert_eq!(campaign.unreached(), Vec::<&str>::new(), "each point is on the job's way");
}

#[test]
fn a_kill_at_any_point_of_the_checkpoint_directory_leaves_every_row_exactly_once() {
    every_point_is_reached_and_recovered_from("sessions", CHECKPOINT_DIRECTORY);
}

#[test]
fn a_kill_at_any_point_of_keyed_state_leaves_every_row_exactly_once() {
    every_point_is_reached_and_recovered_from("sessions", KEYED_STATE);
}

#[test]
fn a_kill_at_any_point_of_coordination_leaves_every_row_exactly_once() {
    every_point_is_reached_and_recovered_from("sessions", COORDINATION);
}

#[test]
fn a_kill_at_any_point_of_the_output_leaves_every_row_exactly_once() {
    every_point_is_reached_and_recovered_from("sessions", OUTPUT);
}

#[test]
fn a_kill_at_any_point_of_savepoints_leaves_every_row_exactly_once() {
    every_point_is_reached_and_recovered_from("transfers", SAVEPOINTS);
}

#[test]
fn a_kill_at_any_point_of_sinks_to_outside_systems_leaves_every_row_exactly_once() {
    every_point_is_reached_and_recovered_from("transfers", OUTSIDE_SYSTEMS);
}

#[test]
fn each_declared_point_is_in_one_table() {
    let tables =
        [CHECKPOINT_DIRECTORY, KEYED_STATE, COORDINATION, OUTPUT, SAVEPOINTS, OUTSIDE_SYSTEMS].concat();
    let tested: BTreeSet<String> = tables.iter().map(|point| (*point).to_owned()).collect();
    assert_eq!(tested.len(), tables.len());
    assert_eq!(tested, jobs::points().into_iter().collect());
}

//! Each scenario runs from its command line to its rows, with tiny sizes and without other stores: so that none of them rots.

use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// Backends that the scenarios know.
const BACKENDS: [&str; 2] = ["hashmap", "log"];

/// Runs a scenario; returns its rows behind the one that describes the machine.
fn rows(scenario: &str, arguments: &[&str]) -> Vec<Value> {
    let json =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{scenario}-{}.jsonl", arguments.join("")));
    let _ = std::fs::remove_file(&json);
    let output = Command::new(env!("CARGO_BIN_EXE_thalweg-bench"))
        .arg(scenario)
        .args(arguments)
        .arg("--json")
        .arg(&json)
        .output()
        .expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{scenario} {arguments:?}: {errors}");
    let text = std::fs::read_to_string(&json).expect("rows are in the file");
    assert_eq!(text, String::from_utf8_lossy(&output.stdout), "the same rows are on standard output");
    std::fs::remove_file(&json).expect("removed");
    let mut rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a row is JSON"));
    assert!(rows.next().expect("a first row")["machine"]["cores"].as_u64() >= Some(1));
    rows.collect()
}

/// Checks that figures of a row are there, and positive.
fn positive(row: &Value, names: &[&str]) {
    for name in names {
        assert!(row[name].as_f64() > Some(0.0), "{name} of {row}");
    }
}

#[test]
fn keyed_count_reports_a_ratio_for_each_backend() {
    for backend in BACKENDS {
        let rows = rows(
            "keyed-count",
            &[
                "--keys=1000",
                "--seconds=0.2",
                "--warm-up=50ms",
                "--interval=50ms",
                "--runs=1",
                "--workers=1",
                "--state-backend",
                backend,
            ],
        );
        positive(&rows[0], &["records_per_s", "ratio", "cpu_ratio"]);
    }
}

#[test]
fn store_rmw_reports_each_backend_and_distribution() {
    for backend in BACKENDS {
        let rows =
            rows("store-rmw", &["--keys=5000", "--seconds=0.05", "--runs=2", "--state-backend", backend]);
        assert_eq!(rows.len(), 2);
        rows.iter().for_each(|row| positive(row, &["records_per_s", "records_per_cpu_s", "bytes_per_key"]));
    }
}

#[test]
fn incremental_reports_what_was_written_for_what_has_changed() {
    for backend in BACKENDS {
        let rows =
            rows("incremental", &["--keys=100000", "--intervals=10", "--runs=1", "--state-backend", backend]);
        positive(&rows[0], &["ratio", "ratio_max", "space"]);
        assert_eq!(rows[0]["changed_per_interval"], 1000);
    }
}

#[test]
fn memory_reports_rest_and_peak() {
    for backend in BACKENDS {
        let rows = rows(
            "memory",
            &["--keys=100000", "--seconds=0.2", "--interval=50ms", "--runs=1", "--state-backend", backend],
        );
        positive(&rows[0], &["rest", "peak"]);
        positive(&rows[0]["samples"][0], &["checkpoints"]);
    }
}

#[test]
fn snapshot_pause_reports_gaps_with_and_without_checkpoints() {
    for backend in BACKENDS {
        let rows = rows(
            "snapshot-pause",
            &[
                "--state-bytes=200000",
                "--seconds=0.5",
                "--interval=100ms",
                "--runs=1",
                "--state-backend",
                backend,
            ],
        );
        let sample = &rows[0]["samples"][0];
        positive(&sample["with"], &["max", "records_per_s", "checkpoints"]);
        positive(&sample["without"], &["max", "records_per_s"]);
        assert_eq!(sample["without"]["checkpoints"], 0);
    }
}

#[test]
fn backpressure_reports_barriers_of_both_modes_and_their_ratio() {
    let rows = rows(
        "backpressure",
        &["--stages=3", "--ring-batches=8", "--calibration=0.1", "--unaligned=2", "--aligned=1", "--runs=1"],
    );
    positive(&rows[0], &["unaligned_ms", "unaligned_ms_max", "aligned_ms", "ratio"]);
    let sample = &rows[0]["samples"][0];
    positive(sample, &["records_per_s", "sink_records_per_s"]);
    positive(&sample["unaligned"], &["complete_ms", "in_flight_records"]);
    assert_eq!(sample["unaligned"]["checkpoints"], 2);
}

#[test]
fn recovery_reports_its_time_and_that_of_reading() {
    for backend in BACKENDS {
        let rows = rows("recovery", &["--keys=20000", "--runs=1", "--workers=1", "--state-backend", backend]);
        positive(&rows[0], &["recovery_s", "reading_s", "ratio"]);
        // 8 bytes of key and 100 of value each, and 4 per block at most for what a block says of its rows.
        let raw_bytes = rows[0]["samples"][0]["raw_bytes"].as_u64().expect("a number");
        assert!(raw_bytes >= 20_000 * 108, "{raw_bytes}");
    }
}

#[test]
fn spill_reports_what_part_of_the_disks_reads_it_reaches() {
    let rows = rows(
        "spill",
        &["--state-bytes=4000000", "--seconds=0.5", "--warm-up=200ms", "--interval=100ms", "--runs=1"],
    );
    positive(&rows[0], &["records_per_s", "misses_per_record", "disk_reads_per_s", "ratio"]);
}

//! `thalweg-bench <scenario>`: the engine and its state store, measured as ratios: to a loop written by hand for the same job, to what the disk
//! can do, to a run without checkpoints, and with `--peers` to RocksDB and fjall.
//!
//! Each scenario is one file that owns its options, our side and its rows. Absolute figures drift from machine to machine and
//! from hour to hour; so every run has a run of the other side beside it, and the ratio of the two is what counts.

mod report;
mod workload;
mod handwritten;
mod engine_state;
mod keyed_count;
mod snapshot_pause;
mod backpressure;
mod store;
mod store_rmw;
mod counting_disk;
mod incremental;
mod child;
mod memory;
mod random_reads;
mod spill;
mod recovery;
mod spec;
mod cgroup;
mod peers;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::time::Duration;

/// What a benchmark may fail with: it prints the message and ends.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Benchmarks of the Thalweg stream engine and its state store. Rows go to standard output and to target/bench, as JSON lines.
#[derive(Parser)]
#[command(name = "thalweg-bench")]
struct Arguments {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Subcommand)]
enum Scenario {
    /// Counts numbers by key over an all-to-all exchange.
    KeyedCount(keyed_count::Options),
    /// Largest gaps between records at a saturated sink, with checkpoints and without.
    SnapshotPause(snapshot_pause::Options),
    /// Time of a barrier through full rings to a sink throttled to 1 %, aligned and unaligned.
    Backpressure(backpressure::Options),
    /// Read-modify-write on the state store by itself, on one core.
    StoreRmw(store_rmw::Options),
    /// Bytes that incremental checkpoints write when few keys change.
    Incremental(incremental::Options),
    /// Bytes of memory per key.
    Memory(memory::Options),
    /// State that exceeds the memory budget several times.
    Spill(spill::Options),
    /// From the start of a process to the first output of a restored job.
    Recovery(recovery::Options),
    #[command(hide = true)]
    MemoryPart(memory::PartOptions),
    #[command(hide = true)]
    SpillPart(spill::PartOptions),
    #[command(hide = true)]
    RecoveryPart(recovery::PartOptions),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().scenario {
        Scenario::KeyedCount(options) => keyed_count::run(&options),
        Scenario::SnapshotPause(options) => snapshot_pause::run(&options),
        Scenario::Backpressure(options) => backpressure::run(&options),
        Scenario::StoreRmw(options) => store_rmw::run(&options),
        Scenario::Incremental(options) => incremental::run(&options),
        Scenario::Memory(options) => memory::run(&options),
        Scenario::Spill(options) => spill::run(&options),
        Scenario::Recovery(options) => recovery::run(&options),
        Scenario::MemoryPart(options) => memory::run_part(&options),
        Scenario::SpillPart(options) => spill::run_part(&options),
        Scenario::RecoveryPart(options) => recovery::run_part(&options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thalweg-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads a positive number, of seconds for the most part.
fn positive_seconds(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 86_400.0 => Ok(seconds),
        _ => Err(format!("`{text}` is no number of seconds between 0 and a day")),
    }
}

/// Reads a duration as people write it: `250ms`, `1s`, `1.5 s`, `3min`.
fn parse_duration(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let seconds_per_unit = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        _ => {
            return Err(format!(
                "`{text}` is no duration: write a number and us, ms, s or min, such as 500ms"
            ));
        }
    };
    let number: f64 = number.parse().map_err(|_| format!("`{text}` does not begin with a number"))?;
    Duration::try_from_secs_f64(number * seconds_per_unit).map_err(|error| format!("`{text}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_read_as_people_write_them() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5 s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("3min"), Ok(Duration::from_secs(180)));
        for wrong in ["", "5", "ms", "5 hours", "1.2.3s", "-1s"] {
            assert!(parse_duration(wrong).is_err(), "accepted {wrong:?}");
        }
    }
}

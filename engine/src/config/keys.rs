//! The table of all settings: the one place that names them, says what they take and what holds without them. Parsing,
//! defaults, the search for the nearest name, and the reference page come from it.
//!
//! Names, defaults and meanings are Apache Flink's (version 2) wherever it has the setting; its earlier names work too.
//! What Flink has not lies under `thalweg.`.

use super::setting::{Default, Key, Kind, Setting};
use std::path::PathBuf;
use std::time::Duration;

/// The state backends by name.
pub(super) const BACKENDS: &[&[&str]] = &[&["hashmap"], &["log", "rocksdb"]];

macro_rules! keys {
    ($($name:ident: $type:ty = $key:literal $(was $older:literal)*, $kind:expr, $default:expr, $doc:literal;)*) => {
        $(
            #[doc = $doc]
            pub const $name: Setting<$type> = Setting::new(&Key {
                name: $key,
                older: &[$($older),*],
                kind: $kind,
                default: $default,
                doc: $doc,
            });
        )*

        /// All settings, in the order of the reference page.
        pub const ALL: &[&Key] = &[$($name.key()),*];
    };
}

use Default::{Is, Unset};
use Kind::{Bool, Choice, Decimal, Memory, Number, Path, PositiveMemory, PositiveSpan, Span};

keys! {
    CHECKPOINT_DIR: PathBuf = "execution.checkpointing.dir" was "state.checkpoints.dir",
        Path, Unset("no checkpoints"),
        "Directory of checkpoints, one folder per job.";
    CHECKPOINT_STORAGE: &'static str = "execution.checkpointing.storage" was "state.checkpoint-storage",
        Choice(&[&["filesystem"]]), Is("filesystem"),
        "Where checkpoints are kept: in files. Flink's other choice, `jobmanager`, is refused.";
    CHECKPOINT_INTERVAL: Duration = "execution.checkpointing.interval",
        PositiveSpan, Unset("only those asked for, and one at the end of the data"),
        "Time from one checkpoint to the next.";
    CHECKPOINT_MODE: &'static str = "execution.checkpointing.mode",
        Choice(&[&["EXACTLY_ONCE"], &["AT_LEAST_ONCE"]]), Is("EXACTLY_ONCE"),
        "Whether a restored job may process records twice.";
    UNALIGNED: bool = "execution.checkpointing.unaligned.enabled" was "execution.checkpointing.unaligned",
        Bool, Is("false"),
        "Whether barriers overtake data in flight, which become part of the checkpoint. Only with `EXACTLY_ONCE`.";
    ALIGNED_TIMEOUT: Duration = "execution.checkpointing.aligned-checkpoint-timeout"
        was "execution.checkpointing.alignment-timeout",
        Span, Is("0 ms"),
        "With unaligned checkpoints: each begins aligned and turns unaligned after this time. Zero begins unaligned. \
         Without them it has no effect.";
    CHECKPOINT_TIMEOUT: Duration = "execution.checkpointing.timeout",
        PositiveSpan, Is("10 min"),
        "A checkpoint that takes longer fails.";
    MIN_PAUSE: Duration = "execution.checkpointing.min-pause",
        Span, Is("0 ms"),
        "Least time between the end of one checkpoint and the start of the next.";
    MAX_CONCURRENT: usize = "execution.checkpointing.max-concurrent-checkpoints",
        Number(1, 1000), Is("1"),
        "Checkpoints under way at once. Only aligned and at-least-once ones overlap; others wait.";
    TOLERABLE_FAILURES: u32 = "execution.checkpointing.tolerable-failed-checkpoints",
        Number(0, u32::MAX as u64), Is("0"),
        "Failed checkpoints in a row that the job survives.";
    INCREMENTAL: bool = "execution.checkpointing.incremental" was "state.backend.incremental",
        Bool, Is("true"),
        "Whether a checkpoint writes only what changed since the last completed one. Flink's default is `false`; here both \
         state backends do it, and restoring costs no more.";
    RETAINED: usize = "execution.checkpointing.num-retained" was "state.checkpoints.num-retained",
        Number(1, 1_000_000), Is("1"),
        "Completed checkpoints that are kept.";
    RETENTION: &'static str = "execution.checkpointing.externalized-checkpoint-retention",
        Choice(&[&["RETAIN_ON_CANCELLATION"], &["DELETE_ON_CANCELLATION"], &["NO_EXTERNALIZED_CHECKPOINTS"]]),
        Is("RETAIN_ON_CANCELLATION"),
        "Which completed checkpoints stay when the job ends: all; those of a job that failed; none. Flink's default is \
         `NO_EXTERNALIZED_CHECKPOINTS`; here no cluster remembers a job, which continues from what its directory holds.";
    SAVEPOINT_DIR: PathBuf = "execution.checkpointing.savepoint-dir" was "state.savepoints.dir",
        Path, Unset("each savepoint names one"),
        "Directory of savepoints for which no other is given.";
    RECOVERY_PATH: PathBuf = "execution.state-recovery.path" was "execution.savepoint.path",
        Path, Unset("the latest completed checkpoint, if there is one"),
        "Directory of the savepoint or retained checkpoint from which a job starts, each time that it is started.";
    CLAIM_MODE: &'static str = "execution.state-recovery.claim-mode" was "execution.savepoint-restore-mode",
        Choice(&[&["NO_CLAIM"], &["CLAIM"]]), Is("NO_CLAIM"),
        "To whom it belongs from then on: to its user, or to the job, which deletes it when newer checkpoints are complete.";
    IGNORE_UNCLAIMED: bool = "execution.state-recovery.ignore-unclaimed-state"
        was "execution.savepoint.ignore-unclaimed-state",
        Bool, Is("false"),
        "Whether state of operators that the job does not have is dropped instead of refused.";
    STATE_BACKEND: &'static str = "state.backend.type" was "state.backend",
        Choice(BACKENDS), Is("hashmap"),
        "Where keyed state lives: in tables in memory (`hashmap`), or in logs of pages, also for state larger than memory \
         (`log`, for which `rocksdb` stands too).";
    RESTART_STRATEGY: &'static str = "restart-strategy.type" was "restart-strategy",
        Choice(&[
            &["none", "off", "disable"],
            &["fixed-delay", "fixeddelay"],
            &["exponential-delay", "exponentialdelay"],
            &["failure-rate", "failurerate"],
        ]),
        Unset("with checkpoints `exponential-delay`, else `none`"),
        "Whether and when a failed job starts again from its latest completed checkpoint.";
    FIXED_DELAY_ATTEMPTS: u32 = "restart-strategy.fixed-delay.attempts",
        Number(0, u32::MAX as u64), Is("1"),
        "Restarts over the job's whole life, with `fixed-delay`.";
    FIXED_DELAY: Duration = "restart-strategy.fixed-delay.delay",
        Span, Is("1 s"),
        "Time from a failure to the restart, with `fixed-delay`.";
    INITIAL_BACKOFF: Duration = "restart-strategy.exponential-delay.initial-backoff",
        PositiveSpan, Is("1 s"),
        "The first time from a failure to the restart, with `exponential-delay`.";
    MAX_BACKOFF: Duration = "restart-strategy.exponential-delay.max-backoff",
        PositiveSpan, Is("1 min"),
        "The longest.";
    BACKOFF_MULTIPLIER: f64 = "restart-strategy.exponential-delay.backoff-multiplier",
        Decimal(1.0, 1e6), Is("1.5"),
        "Each is this many times the one before.";
    RESET_BACKOFF_THRESHOLD: Duration = "restart-strategy.exponential-delay.reset-backoff-threshold",
        Span, Is("1 h"),
        "After this much time without a failure the next is the first again.";
    JITTER_FACTOR: f64 = "restart-strategy.exponential-delay.jitter-factor",
        Decimal(0.0, 1.0), Is("0.1"),
        "Each is longer or shorter by a random part of at most this share of itself.";
    ATTEMPTS_BEFORE_RESET: u32 = "restart-strategy.exponential-delay.attempts-before-reset-backoff",
        Number(1, u32::MAX as u64), Unset("no limit"),
        "Restarts until the next reset.";
    FAILURE_RATE_MAX: u32 = "restart-strategy.failure-rate.max-failures-per-interval",
        Number(1, u32::MAX as u64), Is("1"),
        "More failures than this within the interval fail the job, with `failure-rate`.";
    FAILURE_RATE_INTERVAL: Duration = "restart-strategy.failure-rate.failure-rate-interval",
        PositiveSpan, Is("1 min"),
        "That interval.";
    FAILURE_RATE_DELAY: Duration = "restart-strategy.failure-rate.delay",
        Span, Is("1 s"),
        "Time from a failure to the restart, with `failure-rate`.";
    PARALLELISM: u32 = "parallelism.default",
        Number(1, 32_768), Unset("the number of workers"),
        "Partitions of operators that do not say.";
    MAX_PARALLELISM: u16 = "pipeline.max-parallelism",
        Number(1, 32_768), Is("128"),
        "Number of key groups, fixed for a job's life; no operator has more partitions.";
    BUFFER_TIMEOUT: Duration = "execution.buffer-timeout.interval" was "execution.buffer-timeout",
        Span, Is("100 ms"),
        "A batch that is not full leaves after this time, or sooner if its consumer has nothing to do.";
    HEARTBEAT_TIMEOUT: Duration = "heartbeat.timeout",
        PositiveSpan, Is("50 s"),
        "A worker that makes no progress for this long fails the job, naming the operator it is stuck in.";
    HISTORY: usize = "web.checkpoints.history",
        Number(0, 100_000), Is("10"),
        "Checkpoints whose statistics are kept.";
    WORKERS: usize = "thalweg.workers",
        Number(1, 4096), Unset("one per core that the process may use"),
        "Number of workers.";
    DRIVER: &'static str = "thalweg.driver",
        Choice(&[&["auto"], &["glommio"], &["threads"]]), Is("auto"),
        "What the workers run on: `glommio` needs io_uring, `threads` does not, `auto` takes glommio where it works.";
    PIN: bool = "thalweg.pin",
        Bool, Is("true"),
        "Whether each worker is pinned to a core of its own, where there are enough.";
    STATE_MEMORY: u64 = "thalweg.state.memory",
        PositiveMemory, Unset("no limit"),
        "Memory for the pages of all keyed state on the `log` backend; what does not fit is read back from disk. Its index \
         comes on top: about 10 to 15 bytes per key.";
    ZSTD_LEVEL: u32 = "thalweg.state.zstd-level",
        Number(1, 22), Is("1"),
        "Zstandard level of snapshots.";
    RING_BATCHES: usize = "thalweg.channel.ring-batches",
        Number(1, 65_536), Is("16"),
        "Batches that the ring between two tasks holds.";
    BATCH_RECORDS: usize = "thalweg.channel.batch-records",
        Number(1, 1_000_000), Is("1024"),
        "Records of a batch at most; 32 KiB are the other limit.";
    BATCH_MEMORY: u64 = "thalweg.channel.memory",
        Memory, Is("256 mb"),
        "Memory for batches beyond the two that every channel may always hold.";
    CONTROL_SOCKET: PathBuf = "thalweg.control.socket",
        Path, Unset("none"),
        "Unix domain socket over which `thalweg jobs`, `savepoint`, `stop` and `cancel` drive the engine.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_default_is_a_value_that_its_setting_takes() {
        for key in ALL {
            if let Is(default) = key.default {
                key.kind.parse(default).unwrap_or_else(|error| panic!("{}: {error}", key.name));
            }
        }
    }

    #[test]
    fn every_name_is_unique_and_in_flinks_form() {
        let names: Vec<&str> =
            ALL.iter().flat_map(|key| key.older.iter().chain([&key.name])).copied().collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        for name in names {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '.' || c == '-'), "{name}");
        }
    }
}

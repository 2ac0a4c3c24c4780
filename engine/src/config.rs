//! Settings of an engine. Names and defaults are Apache Flink's where it has the setting.

use crate::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// How checkpoints treat the data that lies between the tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointMode {
    /// Exactly once: a task waits until every input has reached the barrier; in-flight data are processed first.
    Aligned,
    /// Exactly once: the barrier overtakes in-flight data, which become part of the checkpoint.
    Unaligned,
    /// Aligned, until this much time since the trigger has passed; then unaligned.
    AlignedWithTimeout(Duration),
    /// At least once: nothing waits, nothing is captured; records may be processed twice after a restore.
    AtLeastOnce,
}

/// Which completed checkpoints stay when the job ends (`execution.checkpointing.externalized-checkpoint-retention`).
///
/// Unlike in Flink all stay unless asked otherwise: there is no cluster that remembers a job, so a job that is started again
/// continues from its checkpoint directory, and finds there what its sinks have committed. A savepoint always stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CheckpointRetention {
    /// All stay, however the job ends.
    #[default]
    RetainOnCancellation,
    /// They stay when the job fails or the engine shuts down, and go when a user cancels it or it finishes.
    DeleteOnCancellation,
    /// They serve restarts within the process only, and go with the job.
    NoExternalizedCheckpoints,
}

/// A time span as people write it (`"500ms"`, `"3min"`) or as a [`Duration`].
///
/// Text is parsed when the engine is built, and a mistake in it is reported then.
#[derive(Clone, Debug)]
pub enum Span {
    /// A parsed span.
    Parsed(Duration),
    /// Text that is yet to be parsed.
    Text(String),
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Span::Parsed(duration)
    }
}

impl From<&str> for Span {
    fn from(text: &str) -> Self {
        Span::Text(text.to_owned())
    }
}

impl From<String> for Span {
    fn from(text: String) -> Self {
        Span::Text(text)
    }
}

impl Span {
    /// The span's length.
    ///
    /// # Errors
    /// The text is no time span; names `key`.
    pub fn duration(&self, key: &'static str) -> Result<Duration, Error> {
        match self {
            Span::Parsed(duration) => Ok(*duration),
            Span::Text(text) => humantime::parse_duration(text.trim()).map_err(|error| Error::Config {
                key,
                message: format!(
                    "`{text}` is no time span ({error}); write it like `500ms`, `10s` or `3min`"
                ),
            }),
        }
    }
}

/// An amount of memory as people write it (`"64mb"`, `"1 gb"`, `"512kb"`) or in bytes. As in Flink's `MemorySize`, units are
/// binary: a `kb` has 1,024 bytes.
///
/// Text is parsed when the engine is built, and a mistake in it is reported then.
#[derive(Clone, Debug)]
pub enum MemorySize {
    /// A number of bytes.
    Bytes(u64),
    /// Text that is yet to be parsed.
    Text(String),
}

impl From<u64> for MemorySize {
    fn from(bytes: u64) -> Self {
        MemorySize::Bytes(bytes)
    }
}

impl From<&str> for MemorySize {
    fn from(text: &str) -> Self {
        MemorySize::Text(text.to_owned())
    }
}

impl From<String> for MemorySize {
    fn from(text: String) -> Self {
        MemorySize::Text(text)
    }
}

impl MemorySize {
    /// The number of bytes.
    ///
    /// # Errors
    /// The text is no amount of memory, or too large; names `key`.
    pub fn bytes(&self, key: &'static str) -> Result<u64, Error> {
        let text = match self {
            MemorySize::Bytes(bytes) => return Ok(*bytes),
            MemorySize::Text(text) => text.trim(),
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit: Option<u64> = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" | "bytes" => Some(1),
            "k" | "kb" | "kib" | "kibibytes" => Some(1 << 10),
            "m" | "mb" | "mib" | "mebibytes" => Some(1 << 20),
            "g" | "gb" | "gib" | "gibibytes" => Some(1 << 30),
            "t" | "tb" | "tib" | "tebibytes" => Some(1 << 40),
            _ => None,
        };
        let bytes =
            unit.zip(number.parse().ok()).and_then(|(unit, number): (u64, u64)| number.checked_mul(unit));
        bytes.ok_or_else(|| Error::Config {
            key,
            message: format!("`{text}` is no amount of memory; write it like `512kb`, `64mb` or `1gb`"),
        })
    }
}

/// Where keyed state lives. The name in settings is Flink's: `hashmap`, or `log`, for which `rocksdb` stands too.
///
/// ```
/// use thalweg::config::StateBackend;
/// assert_eq!("rocksdb".parse(), Ok(StateBackend::Log));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateBackend {
    /// Typed tables in memory, snapshotted incrementally.
    #[default]
    HashMap,
    /// Logs of encoded rows: a snapshot begins at once whatever the size of the state, and what does not fit into memory is
    /// read back from the checkpoints' files.
    Log,
}

impl fmt::Display for StateBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StateBackend::HashMap => "hashmap",
            StateBackend::Log => "log",
        })
    }
}

/// There is no state backend of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no state backend: choose `hashmap` or `log`")]
pub struct UnknownStateBackend(String);

impl FromStr for StateBackend {
    type Err = UnknownStateBackend;

    fn from_str(name: &str) -> Result<Self, UnknownStateBackend> {
        match name.trim().to_ascii_lowercase().as_str() {
            "hashmap" => Ok(StateBackend::HashMap),
            "log" | "rocksdb" => Ok(StateBackend::Log),
            _ => Err(UnknownStateBackend(name.to_owned())),
        }
    }
}

/// All settings of an engine, checked.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Number of workers.
    pub workers: usize,
    /// Partitions of an operator that does not say (`parallelism.default`).
    pub parallelism: u32,
    /// Number of key groups (`pipeline.max-parallelism`); fixed for a job's life.
    pub max_parallelism: u16,
    /// Whether workers are pinned to cores.
    pub pin: bool,
    /// Directory of checkpoints (`execution.checkpointing.dir`); none turns them off.
    pub checkpoint_dir: Option<PathBuf>,
    /// Time between checkpoints (`execution.checkpointing.interval`).
    pub checkpoint_interval: Option<Duration>,
    /// A checkpoint that takes longer fails (`execution.checkpointing.timeout`).
    pub checkpoint_timeout: Duration,
    /// Least time between the end of one checkpoint and the start of the next (`execution.checkpointing.min-pause`).
    pub min_pause: Duration,
    /// Checkpoints under way at once (`execution.checkpointing.max-concurrent-checkpoints`).
    pub max_concurrent: usize,
    /// Failed checkpoints in a row that the job survives (`execution.checkpointing.tolerable-failed-checkpoints`).
    pub tolerable_failures: u32,
    /// How checkpoints treat in-flight data.
    pub mode: CheckpointMode,
    /// Completed checkpoints that are kept (`state.checkpoints.num-retained`).
    pub retained: usize,
    /// Which completed checkpoints stay when the job ends (`execution.checkpointing.externalized-checkpoint-retention`).
    pub retention: CheckpointRetention,
    /// Checkpoints whose statistics are kept (`web.checkpoints.history`).
    pub checkpoint_history: usize,
    /// Directory of savepoints for which no other is given (`execution.checkpointing.savepoint-dir`).
    pub savepoint_dir: Option<PathBuf>,
    /// Whether checkpoints write only what changed (`execution.checkpointing.incremental`).
    pub incremental: bool,
    /// Where keyed state lives (`state.backend.type`).
    pub state_backend: StateBackend,
    /// Bytes of pages that keyed state may keep in memory, of the whole engine; none for no limit.
    pub state_memory_bytes: Option<u64>,
    /// Compression level of snapshots.
    pub zstd_level: i32,
    /// A batch that is not full leaves after this long (`execution.buffer-timeout.interval`).
    pub buffer_timeout: Duration,
    /// Batches that a channel's ring holds.
    pub ring_batches: usize,
    /// Records of a batch at most.
    pub batch_records: usize,
    /// Memory for batches beyond two per channel, in bytes.
    pub pool_bytes: usize,
}

/// Bytes of a batch at most, counting a record's own size and not what it points to.
pub const BATCH_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<u64> {
        MemorySize::from(text).bytes("key").ok()
    }

    #[test]
    fn sizes_are_read_as_flink_reads_them() {
        let sizes = [
            ("1024", 1024),
            ("0", 0),
            ("7 bytes", 7),
            ("512kb", 512 << 10),
            (" 64 MB ", 64 << 20),
            ("80m", 80 << 20),
            ("1gb", 1 << 30),
            ("2 tebibytes", 2 << 40),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parsed(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn backends_are_named_as_in_settings() {
        for backend in [StateBackend::HashMap, StateBackend::Log] {
            assert_eq!(backend.to_string().parse(), Ok(backend));
        }
        let error = "memory".parse::<StateBackend>().unwrap_err().to_string();
        assert!(error.contains("`memory`") && error.contains("`log`"), "{error}");
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_key_and_text() {
        for text in [
            "",
            "mb",
            "-1kb",
            "1.5gb",
            "3 parsecs",
            "18446744073709551616",
            "99999999999999999999t",
            "16777216t",
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
        let error = MemorySize::from("much").bytes("state.backend.log.memory").unwrap_err().to_string();
        assert!(error.contains("state.backend.log.memory") && error.contains("`much`"), "{error}");
    }
}

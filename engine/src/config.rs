//! Settings of an engine. Names and defaults are Apache Flink's where it has the setting.

use crate::error::Error;
use std::path::PathBuf;
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

/// Where keyed state lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateBackend {
    /// Typed tables in memory, snapshotted incrementally.
    #[default]
    HashMap,
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
    /// Whether checkpoints write only what changed (`execution.checkpointing.incremental`).
    pub incremental: bool,
    /// Where keyed state lives (`state.backend.type`).
    pub state_backend: StateBackend,
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

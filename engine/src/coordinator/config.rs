//! Settings of checkpoints and restarts. Names and defaults are Apache Flink's.

use crate::control::CheckpointMode;
use std::time::Duration;

/// When checkpoints are taken and what becomes of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointConfig {
    /// Time from one periodic checkpoint to the next; `None` takes only those asked for and the final ones.
    pub interval: Option<Duration>,
    /// A checkpoint that has not been acknowledged by every task in this time fails.
    pub timeout: Duration,
    /// A periodic checkpoint starts no sooner than this after the end, good or bad, of the one before it. When not
    /// zero, a periodic checkpoint never overlaps another.
    pub min_pause: Duration,
    /// Number of checkpoints under way at once; at least 1. Only aligned and at-least-once ones ever overlap.
    pub max_concurrent: usize,
    /// The job restarts when more checkpoints than this fail in a row.
    pub tolerable_failures: u32,
    /// How checkpoints treat in-flight data.
    pub mode: CheckpointMode,
    /// Number of completed checkpoints kept on disk; at least 1.
    pub retained: usize,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig {
            interval: None,
            timeout: Duration::from_secs(10 * 60),
            min_pause: Duration::ZERO,
            max_concurrent: 1,
            tolerable_failures: 0,
            mode: CheckpointMode::Aligned,
            retained: 1,
        }
    }
}

/// Whether and when a failed job starts again from its latest completed checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RestartStrategy {
    /// Never: the first failure fails the job.
    None,
    /// Each time after the same delay, for a number of times over the job's whole life.
    FixedDelay {
        /// Number of restarts; `u32::MAX` for no limit.
        attempts: u32,
        /// Time from the failure to the new deployment.
        delay: Duration,
    },
}

impl Default for RestartStrategy {
    /// Restarts without limit, one second after each failure: Flink's default for jobs with checkpoints.
    fn default() -> Self {
        RestartStrategy::FixedDelay { attempts: u32::MAX, delay: Duration::from_secs(1) }
    }
}

/// All settings of one job's coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoordinatorConfig {
    /// Checkpoints.
    pub checkpoint: CheckpointConfig,
    /// Restarts.
    pub restart: RestartStrategy,
    /// A worker whose run loop has stood still for this long fails the job.
    pub heartbeat_timeout: Duration,
    /// A shutdown waits this long for the workers to drop their tasks.
    pub shutdown_timeout: Duration,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        CoordinatorConfig {
            checkpoint: CheckpointConfig::default(),
            restart: RestartStrategy::default(),
            heartbeat_timeout: Duration::from_secs(50),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

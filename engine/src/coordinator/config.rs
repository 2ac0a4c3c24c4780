//! Settings of checkpoints and restarts. Names and defaults are Apache Flink's.

pub use crate::config::CheckpointRetention;
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
    /// Which of them stay when the job ends.
    pub retention: CheckpointRetention,
    /// Number of checkpoints whose statistics are kept (`web.checkpoints.history`).
    pub history: usize,
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
            retention: CheckpointRetention::default(),
            history: 10,
        }
    }
}

/// Whether and when a failed job starts again from its latest completed checkpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
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
    /// After a delay that grows with each failure, until the job has run without one for a while.
    ExponentialDelay(ExponentialDelay),
    /// Each time after the same delay, unless failures come too often.
    FailureRate {
        /// More failures than this within the interval fail the job.
        max_failures_per_interval: u32,
        /// The interval that failures are counted in.
        interval: Duration,
        /// Time from a failure to the new deployment.
        delay: Duration,
    },
}

/// Settings of [`RestartStrategy::ExponentialDelay`].
///
/// ```
/// use std::time::Duration;
/// use thalweg::coordinator::ExponentialDelay;
/// let patient = ExponentialDelay { max_backoff: Duration::from_secs(600), ..ExponentialDelay::default() };
/// assert_eq!(patient.initial_backoff, Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExponentialDelay {
    /// The first delay.
    pub initial_backoff: Duration,
    /// The longest delay.
    pub max_backoff: Duration,
    /// Each delay is this many times the one before; at least 1.
    pub backoff_multiplier: f64,
    /// After this much time without a failure, counted from the last restart, the delay is the first again.
    pub reset_backoff_threshold: Duration,
    /// Each delay is longer or shorter by a random part of at most this share of itself, from 0 to 1.
    pub jitter_factor: f64,
    /// Number of restarts until the next reset; `u32::MAX` for no limit.
    pub attempts_before_reset_backoff: u32,
}

impl Default for ExponentialDelay {
    fn default() -> Self {
        ExponentialDelay {
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(60),
            backoff_multiplier: 1.5,
            reset_backoff_threshold: Duration::from_secs(3600),
            jitter_factor: 0.1,
            attempts_before_reset_backoff: u32::MAX,
        }
    }
}

impl Default for RestartStrategy {
    /// Exponential delay without limit: Flink's default for jobs with checkpoints.
    fn default() -> Self {
        RestartStrategy::ExponentialDelay(ExponentialDelay::default())
    }
}

impl RestartStrategy {
    /// What is wrong with the settings, if anything: the key's last part and why.
    pub fn mistake(&self) -> Option<(&'static str, String)> {
        match self {
            RestartStrategy::ExponentialDelay(delay) => {
                if !(delay.backoff_multiplier >= 1.0 && delay.backoff_multiplier.is_finite()) {
                    let message = format!("{} is no number from 1 on", delay.backoff_multiplier);
                    return Some(("restart-strategy.exponential-delay.backoff-multiplier", message));
                }
                if !(0.0..=1.0).contains(&delay.jitter_factor) {
                    let message = format!("{} is not in 0..=1", delay.jitter_factor);
                    return Some(("restart-strategy.exponential-delay.jitter-factor", message));
                }
                if delay.initial_backoff.is_zero() || delay.initial_backoff > delay.max_backoff {
                    let message = format!(
                        "{:?} must be more than nothing and at most the max-backoff {:?}",
                        delay.initial_backoff, delay.max_backoff
                    );
                    return Some(("restart-strategy.exponential-delay.initial-backoff", message));
                }
                None
            }
            RestartStrategy::FailureRate { max_failures_per_interval: 0, .. } => {
                let message = "must be at least 1; for no restart choose the strategy `none`".to_owned();
                Some(("restart-strategy.failure-rate.max-failures-per-interval", message))
            }
            RestartStrategy::None
            | RestartStrategy::FixedDelay { .. }
            | RestartStrategy::FailureRate { .. } => None,
        }
    }
}

/// All settings of one job's coordinator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// Checkpoints.
    pub checkpoint: CheckpointConfig,
    /// Restarts.
    pub restart: RestartStrategy,
    /// Decides the random part of delays.
    pub restart_seed: u64,
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
            restart_seed: 0,
            heartbeat_timeout: Duration::from_secs(50),
            shutdown_timeout: Duration::from_secs(10),
        }
    }
}

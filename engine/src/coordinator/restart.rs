//! Decides whether and when a failed job starts again. Pure: time and chance come from outside.

use super::config::{ExponentialDelay, RestartStrategy};
use crate::clock::Nanos;
use std::collections::VecDeque;
use std::time::Duration;

/// The restarts of one job.
#[derive(Debug)]
pub(super) struct Restarts {
    strategy: RestartStrategy,
    /// Restarts since the job began, or since the last reset of an exponential delay.
    used: u32,
    /// When the latest restart was due.
    restarted_at: Option<Nanos>,
    /// The latest failures, oldest first.
    failures: VecDeque<Nanos>,
    random: u64,
}

impl Restarts {
    pub(super) fn new(strategy: RestartStrategy, seed: u64) -> Self {
        Restarts { strategy, used: 0, restarted_at: None, failures: VecDeque::new(), random: seed }
    }

    /// The job has failed: uses up one restart and says how long to wait before it, or `None` when the job must fail.
    pub(super) fn next(&mut self, now: Nanos) -> Option<Duration> {
        let delay = match self.strategy {
            RestartStrategy::None => None,
            RestartStrategy::FixedDelay { attempts, delay } => self.within(attempts).then_some(delay),
            RestartStrategy::ExponentialDelay(settings) => self.backoff(now, &settings),
            RestartStrategy::FailureRate { max_failures_per_interval, interval, delay } => {
                self.failures.push_back(now);
                self.failures.retain(|failure| now.since(*failure) < interval);
                (self.failures.len() <= max_failures_per_interval as usize).then_some(delay)
            }
        }?;
        self.used = self.used.saturating_add(1);
        self.restarted_at = Some(now.after(delay));
        Some(delay)
    }

    fn within(&self, attempts: u32) -> bool {
        attempts == u32::MAX || self.used < attempts
    }

    /// As Flink's `ExponentialDelayRestartBackoffTimeStrategy`: the jitter never takes a delay below the first.
    fn backoff(&mut self, now: Nanos, settings: &ExponentialDelay) -> Option<Duration> {
        if self.restarted_at.is_some_and(|at| now.since(at) >= settings.reset_backoff_threshold) {
            self.used = 0;
        }
        if !self.within(settings.attempts_before_reset_backoff) {
            return None;
        }
        let (first, longest) = (settings.initial_backoff.as_secs_f64(), settings.max_backoff.as_secs_f64());
        let exponent = i32::try_from(self.used).unwrap_or(i32::MAX);
        let backoff = (first * settings.backoff_multiplier.powi(exponent)).min(longest);
        let jitter = backoff * settings.jitter_factor * self.signed_random();
        Some(Duration::from_secs_f64((backoff + jitter).min(longest).max(first)))
    }

    /// A number from -1 to 1, by the SplitMix64 generator (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    /// Generators, 2014).
    fn signed_random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Why [`Restarts::next`] gave `None`, for the message that the user sees.
    pub(super) fn exhausted(&self) -> String {
        match self.strategy {
            RestartStrategy::None => "the restart strategy allows no restart".to_owned(),
            RestartStrategy::FixedDelay { attempts, .. }
            | RestartStrategy::ExponentialDelay(ExponentialDelay {
                attempts_before_reset_backoff: attempts,
                ..
            }) => format!("all {attempts} restarts that the restart strategy allows are used up"),
            RestartStrategy::FailureRate { max_failures_per_interval, interval, .. } => format!(
                "it has failed more than {max_failures_per_interval} times in {interval:?}, which the restart strategy \
                 does not allow"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn without_jitter() -> ExponentialDelay {
        ExponentialDelay {
            initial_backoff: SECOND,
            max_backoff: 10 * SECOND,
            backoff_multiplier: 2.0,
            reset_backoff_threshold: 60 * SECOND,
            jitter_factor: 0.0,
            attempts_before_reset_backoff: u32::MAX,
        }
    }

    #[test]
    fn fixed_delay_allows_exactly_its_attempts() {
        let delay = Duration::from_millis(5);
        let mut restarts = Restarts::new(RestartStrategy::FixedDelay { attempts: 2, delay }, 0);
        let three = [0, 1, 2].map(|seconds| restarts.next(at(seconds)));
        assert_eq!(three, [Some(delay), Some(delay), None]);
    }

    #[test]
    fn no_strategy_allows_no_restart() {
        assert_eq!(Restarts::new(RestartStrategy::None, 0).next(at(0)), None);
    }

    #[test]
    fn an_exponential_delay_doubles_up_to_its_maximum() {
        let mut restarts = Restarts::new(RestartStrategy::ExponentialDelay(without_jitter()), 0);
        let seconds: Vec<u64> = (0..6).map(|n| restarts.next(at(20 * n)).unwrap().as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn an_exponential_delay_is_reset_only_after_the_threshold_without_a_failure() {
        let mut restarts = Restarts::new(RestartStrategy::ExponentialDelay(without_jitter()), 0);
        assert_eq!(restarts.next(at(0)), Some(SECOND));
        // The job has run since second 1.
        assert_eq!(restarts.next(at(60)), Some(2 * SECOND));
        assert_eq!(restarts.next(at(62 + 60)), Some(SECOND));
    }

    #[test]
    fn the_attempts_of_an_exponential_delay_count_until_its_reset() {
        let settings = ExponentialDelay { attempts_before_reset_backoff: 2, ..without_jitter() };
        let mut restarts = Restarts::new(RestartStrategy::ExponentialDelay(settings), 0);
        assert!(restarts.next(at(0)).is_some() && restarts.next(at(10)).is_some());
        assert_eq!(restarts.next(at(20)), None);
        assert!(restarts.exhausted().contains("all 2 restarts"));
        assert_eq!(restarts.next(at(100)), Some(SECOND));
    }

    #[test]
    fn a_failure_rate_allows_its_failures_per_interval_and_no_more() {
        let strategy = RestartStrategy::FailureRate {
            max_failures_per_interval: 2,
            interval: 10 * SECOND,
            delay: SECOND,
        };
        let mut restarts = Restarts::new(strategy, 0);
        assert_eq!([0, 5, 10, 15].map(|s| restarts.next(at(s)).is_some()), [true; 4]);
        assert_eq!(restarts.next(at(16)), None);
        assert!(restarts.exhausted().contains("more than 2 times in 10s"));
    }

    #[test]
    fn the_default_is_that_of_flink_2() {
        let RestartStrategy::ExponentialDelay(delay) = RestartStrategy::default() else {
            panic!("another kind")
        };
        assert_eq!((delay.initial_backoff, delay.max_backoff), (SECOND, 60 * SECOND));
        assert_eq!((delay.backoff_multiplier, delay.jitter_factor), (1.5, 0.1));
        assert_eq!(delay.reset_backoff_threshold, 3600 * SECOND);
    }

    proptest! {
        #[test]
        fn prop_a_jittered_delay_stays_within_its_share_and_bounds(seed: u64, failures in 1..40u64) {
            let settings = ExponentialDelay { jitter_factor: 0.3, ..without_jitter() };
            let mut restarts = Restarts::new(RestartStrategy::ExponentialDelay(settings), seed);
            let mut plain = Restarts::new(RestartStrategy::ExponentialDelay(without_jitter()), 0);
            for n in 0..failures {
                let (delay, middle) = (restarts.next(at(n)).unwrap(), plain.next(at(n)).unwrap());
                prop_assert!(delay >= SECOND && delay <= 10 * SECOND);
                prop_assert!(delay >= middle.mul_f64(0.699).max(SECOND) && delay <= middle.mul_f64(1.301));
            }
        }

        #[test]
        fn prop_the_same_seed_gives_the_same_delays(seed: u64) {
            let delays = || {
                let mut restarts = Restarts::new(RestartStrategy::default(), seed);
                (0..10).map(|n| restarts.next(at(n))).collect::<Vec<_>>()
            };
            prop_assert_eq!(delays(), delays());
        }
    }
}

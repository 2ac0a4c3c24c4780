//! Counts restarts against the restart strategy.

use super::config::RestartStrategy;
use std::time::Duration;

/// The restarts of one job.
#[derive(Debug)]
pub(super) struct Restarts {
    strategy: RestartStrategy,
    used: u32,
}

impl Restarts {
    pub(super) fn new(strategy: RestartStrategy) -> Self {
        Restarts { strategy, used: 0 }
    }

    /// Uses up one restart and says how long to wait before it, or `None` when the job must fail.
    pub(super) fn next(&mut self) -> Option<Duration> {
        match self.strategy {
            RestartStrategy::None => None,
            RestartStrategy::FixedDelay { attempts, delay } => {
                if attempts != u32::MAX && self.used >= attempts {
                    return None;
                }
                self.used = self.used.saturating_add(1);
                Some(delay)
            }
        }
    }

    /// Why [`Restarts::next`] gave `None`, for the message that the user sees.
    pub(super) fn exhausted(&self) -> String {
        match self.strategy {
            RestartStrategy::None => "the restart strategy allows no restart".to_owned(),
            RestartStrategy::FixedDelay { attempts, .. } => {
                format!("all {attempts} restarts that the restart strategy allows are used up")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_delay_allows_exactly_its_attempts() {
        let delay = Duration::from_millis(5);
        let mut restarts = Restarts::new(RestartStrategy::FixedDelay { attempts: 2, delay });
        assert_eq!([restarts.next(), restarts.next(), restarts.next()], [Some(delay), Some(delay), None]);
    }

    #[test]
    fn no_strategy_allows_no_restart() {
        assert_eq!(Restarts::new(RestartStrategy::None).next(), None);
    }
}

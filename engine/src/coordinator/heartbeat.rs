//! Notices a worker whose run loop stands still.
//!
//! Silence is counted in observed time: the time between two looks counts for at most [`LOOK_GAP_MAX`], so that a
//! suspended process or a control thread held up by a slow disk does not blame its workers.

use crate::clock::Nanos;
use std::collections::BTreeMap;
use std::time::Duration;

/// The time between two looks counts for no more than this.
const LOOK_GAP_MAX: Duration = Duration::from_secs(1);

/// The heartbeats of the workers of one attempt.
#[derive(Debug)]
pub(super) struct Heartbeats {
    timeout: Duration,
    workers: BTreeMap<usize, Pulse>,
}

#[derive(Debug)]
struct Pulse {
    beats: Option<u64>,
    looked_at: Nanos,
    silence: Duration,
}

impl Heartbeats {
    pub(super) fn new(timeout: Duration) -> Self {
        Heartbeats { timeout, workers: BTreeMap::new() }
    }

    /// Forgets everything and watches `workers` from `now` on.
    pub(super) fn watch(&mut self, now: Nanos, workers: impl IntoIterator<Item = usize>) {
        let fresh = |worker| (worker, Pulse { beats: None, looked_at: now, silence: Duration::ZERO });
        self.workers = workers.into_iter().map(fresh).collect();
    }

    /// Notes that `worker` has turned `beats` times. Returns how long it has stood still once that is too long.
    pub(super) fn observe(&mut self, now: Nanos, worker: usize, beats: u64) -> Option<Duration> {
        let pulse = self.workers.get_mut(&worker)?;
        if pulse.beats == Some(beats) {
            pulse.silence += now.since(pulse.looked_at).min(LOOK_GAP_MAX);
        } else {
            pulse.silence = Duration::ZERO;
        }
        pulse.beats = Some(beats);
        pulse.looked_at = now;
        (pulse.silence >= self.timeout).then_some(pulse.silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    #[test]
    fn a_worker_that_turns_is_never_late() {
        let mut hearts = Heartbeats::new(Duration::from_secs(1));
        hearts.watch(at(0), [0]);
        assert!((0..100).all(|i| hearts.observe(at(i * 900), 0, i).is_none()));
    }

    #[test]
    fn a_worker_that_stands_still_is_late_after_the_timeout() {
        let mut hearts = Heartbeats::new(Duration::from_secs(1));
        hearts.watch(at(0), [0, 1]);
        assert_eq!(hearts.observe(at(100), 0, 7), None);
        assert_eq!(hearts.observe(at(600), 0, 7), None);
        assert_eq!(hearts.observe(at(1100), 0, 7), Some(Duration::from_secs(1)));
        assert_eq!(hearts.observe(at(1100), 1, 3), None);
    }

    #[test]
    fn a_suspended_process_does_not_blame_its_workers() {
        let mut hearts = Heartbeats::new(Duration::from_secs(50));
        hearts.watch(at(0), [0]);
        assert_eq!(hearts.observe(at(100), 0, 7), None);
        assert_eq!(hearts.observe(at(3_600_000), 0, 7), None);
    }
}

//! How a task's time divides into busy, blocked, waiting and idle: what makes back-pressure visible.
//!
//! Always true: only the worker that runs the task writes; anybody reads. Every nanosecond since the deployment counts in
//! exactly one of them, apart from what a reader sees of an update that is under way.

use crate::clock::Nanos;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What a task was found doing by its latest poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Activity {
    /// Working, or waiting for its turn on the core with more to do.
    Busy = 0,
    /// Waiting for room on an output: back-pressured.
    Blocked = 1,
    /// Waiting for input, or finished.
    Idle = 2,
    /// Waiting for keyed state to be read from disk.
    Waiting = 3,
}

/// Nanoseconds that a task has spent in each activity since its deployment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeSpent {
    /// Working, or waiting for its turn on the core with more to do.
    pub busy_ns: u64,
    /// Waiting for room on an output.
    pub blocked_ns: u64,
    /// Waiting for input, or finished.
    pub idle_ns: u64,
    /// Waiting for keyed state to be read from disk.
    pub waiting_ns: u64,
}

/// The times of one task, written by its worker and read by anybody.
#[derive(Debug)]
pub struct TaskTimes {
    spent_ns: [AtomicU64; 4],
    activity: AtomicU8,
    since_ns: AtomicU64,
}

impl TaskTimes {
    /// The times of a task that is deployed, idle, at `now`.
    pub(crate) fn starting(now: Nanos) -> Self {
        TaskTimes {
            spent_ns: Default::default(),
            activity: AtomicU8::new(Activity::Idle as u8),
            since_ns: AtomicU64::new(now.0),
        }
    }

    /// Accounts one poll that lasted from `begin` to `end`: the time before it to the activity found last, its own to
    /// the activity that it found.
    pub(crate) fn record_poll(&self, begin: Nanos, end: Nanos, found: Activity) {
        let since = self.since_ns.load(Ordering::Relaxed);
        let before = usize::from(self.activity.load(Ordering::Relaxed));
        self.add(before, begin.0.saturating_sub(since));
        self.add(found as usize, end.0.saturating_sub(begin.0.max(since)));
        self.activity.store(found as u8, Ordering::Relaxed);
        self.since_ns.store(end.0.max(since), Ordering::Relaxed);
    }

    /// The time spent until `now`. The activity found last is taken to have lasted until then.
    pub fn until(&self, now: Nanos) -> TimeSpent {
        let mut spent = self.spent_ns.each_ref().map(|ns| ns.load(Ordering::Relaxed));
        let current = usize::from(self.activity.load(Ordering::Relaxed));
        spent[current] += now.0.saturating_sub(self.since_ns.load(Ordering::Relaxed));
        let [busy_ns, blocked_ns, idle_ns, waiting_ns] = spent;
        TimeSpent { busy_ns, blocked_ns, idle_ns, waiting_ns }
    }

    /// One writer: so a load and a store, without the locked instruction of `fetch_add`.
    fn add(&self, activity: usize, ns: u64) {
        let total = &self.spent_ns[activity];
        total.store(total.load(Ordering::Relaxed) + ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_between_polls_goes_to_the_activity_found_last() {
        let times = TaskTimes::starting(Nanos(100));
        times.record_poll(Nanos(110), Nanos(130), Activity::Busy);
        times.record_poll(Nanos(135), Nanos(136), Activity::Blocked);
        times.record_poll(Nanos(236), Nanos(240), Activity::Idle);
        assert_eq!(
            times.until(Nanos(240)),
            TimeSpent { busy_ns: 25, blocked_ns: 101, idle_ns: 14, waiting_ns: 0 }
        );
        assert_eq!(
            times.until(Nanos(1_240)),
            TimeSpent { busy_ns: 25, blocked_ns: 101, idle_ns: 1_014, waiting_ns: 0 }
        );
    }

    #[test]
    fn they_add_up_to_the_time_since_deployment() {
        let times = TaskTimes::starting(Nanos(0));
        for turn in 0..1_000_u64 {
            let found =
                [Activity::Busy, Activity::Blocked, Activity::Idle, Activity::Waiting][turn as usize % 4];
            times.record_poll(Nanos(turn * 10 + 3), Nanos(turn * 10 + 7), found);
        }
        let TimeSpent { busy_ns, blocked_ns, idle_ns, waiting_ns } = times.until(Nanos(20_000));
        assert_eq!(busy_ns + blocked_ns + idle_ns + waiting_ns, 20_000);
    }
}

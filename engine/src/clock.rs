//! Time as the engine sees it: a monotonic clock for decisions, a wall clock for labels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment on the engine's monotonic clock: nanoseconds since the engine was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The moment `duration` later.
    pub fn after(self, duration: Duration) -> Nanos {
        Nanos(self.0.saturating_add(duration.as_nanos() as u64))
    }

    /// Time passed since `earlier`, zero where `earlier` is later.
    pub fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A source of time. The engine asks no other.
pub trait Clock: Send + Sync + 'static {
    /// The monotonic clock.
    fn now(&self) -> Nanos;

    /// The wall clock, in milliseconds since 1970. Stored and shown, and what processing time is: state with time to live
    /// and processing-time timers go by it. Nothing else does.
    fn unix_ms(&self) -> u64;
}

/// The operating system's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that starts at zero now.
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for the time")]
    pub fn start() -> Arc<dyn Clock> {
        Arc::new(SystemClock { start: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Nanos {
        Nanos(self.start.elapsed().as_nanos() as u64)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for the time")]
    fn unix_ms(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}

/// A clock that moves only when told to, for simulation.
#[derive(Default)]
pub struct SimClock {
    now: AtomicU64,
}

impl SimClock {
    /// Moves the clock forward to `to`; an earlier moment changes nothing.
    pub fn advance_to(&self, to: Nanos) {
        self.now.fetch_max(to.0, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Nanos {
        Nanos(self.now.load(Ordering::Relaxed))
    }

    fn unix_ms(&self) -> u64 {
        self.now.load(Ordering::Relaxed) / 1_000_000
    }
}

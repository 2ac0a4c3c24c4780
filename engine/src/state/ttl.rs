//! Time to live of keyed state.

use std::time::Duration;
use thalweg_storage::state::Ttl;
pub use thalweg_storage::state::{TtlUpdate, TtlVisibility};

/// Time to live of a state: what was last written (or accessed) longer ago counts as absent, and is cleaned up in the
/// background. The elements of lists and the entries of maps live each for their own time.
///
/// By the engine's wall clock (processing time). Switching time to live on or off changes the type that is stored: a
/// checkpoint from before is refused. Its other settings may change at any time.
///
/// ```
/// use std::time::Duration;
/// use thalweg::state::{StateTtlConfig, TtlUpdate, ValueStateDescriptor};
/// let a_day = StateTtlConfig::new(Duration::from_secs(86_400)).update_type(TtlUpdate::OnReadAndWrite);
/// let session = ValueStateDescriptor::<String>::new("session").enable_time_to_live(a_day);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateTtlConfig(Ttl);

impl StateTtlConfig {
    /// Expiry `time_to_live` after the last write; what has expired is never returned.
    ///
    /// # Panics
    /// When that is less than a millisecond.
    pub fn new(time_to_live: Duration) -> Self {
        StateTtlConfig(Ttl::new(u64::try_from(time_to_live.as_millis()).unwrap_or(u64::MAX)))
    }

    /// What renews the time to live. Default: writes.
    pub fn update_type(self, update: TtlUpdate) -> Self {
        StateTtlConfig(self.0.update(update))
    }

    /// What a read makes of something that has expired and is still there. Default: as if it were not there.
    pub fn state_visibility(self, visibility: TtlVisibility) -> Self {
        StateTtlConfig(self.0.visibility(visibility))
    }

    pub(super) fn ttl(self) -> Ttl {
        self.0
    }
}

//! Time to live: when what a state holds expires, and how it is kept until then.
//!
//! A value, a list's element or a map's entry carries the time of its last write, or access. It expires once
//! `now - time to live` has reached that time. Then it is removed: when a call comes across it, by
//! [`maintain`](crate::table::StateTable::maintain), which also is compaction, and it is left out of full snapshots.
//!
//! Always true:
//! - what a call has found expired is removed by that call, so it stays gone, also when a restored job's clock goes back;
//! - time does not go back for a state while the job runs: a call with an earlier time counts as one at the latest;
//! - no time overflows: ages are differences, and an entry from the future has age 0.

use super::row::fields_of;
use crate::codec::{Data, DecodeError, Field, Key, Reader, Schema};
use crate::key_group::{KeyGroup, KeyGroups};
use crate::table::{Backend, KeyedTable, StateTable};
use std::ops::Range;

/// What renews the time to live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlUpdate {
    /// Writes.
    #[default]
    OnCreateAndWrite,
    /// Writes and reads.
    OnReadAndWrite,
}

/// What becomes of a read that finds something expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlVisibility {
    /// It is as if there were nothing.
    #[default]
    NeverReturnExpired,
    /// It is returned, this once.
    ReturnExpiredIfNotCleanedUp,
}

/// Time to live of a state, as Apache Flink's `StateTtlConfig`; in processing time.
///
/// The stored form of a state with time to live has another type than that without: a checkpoint is not restored where
/// time to live was switched on or off since. Everything else about it may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ttl {
    time_to_live_ms: u64,
    update: TtlUpdate,
    visibility: TtlVisibility,
}

impl Ttl {
    /// Expiry `time_to_live_ms` milliseconds after the last write, and nothing expired is returned.
    ///
    /// # Panics
    /// When it is 0.
    pub fn new(time_to_live_ms: u64) -> Self {
        assert!(time_to_live_ms > 0, "a time to live is at least a millisecond");
        Ttl { time_to_live_ms, update: TtlUpdate::default(), visibility: TtlVisibility::default() }
    }

    /// With another choice of what renews it.
    pub fn update(self, update: TtlUpdate) -> Self {
        Ttl { update, ..self }
    }

    /// With another choice of what reads return.
    pub fn visibility(self, visibility: TtlVisibility) -> Self {
        Ttl { visibility, ..self }
    }
}

/// A value with the time from which its age counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WithTtl<T> {
    /// Milliseconds since the Unix epoch.
    pub(super) last_access_ms: u64,
    pub(super) value: T,
}

impl<T: Data> Data for WithTtl<T> {
    const FIXED_BYTES: Option<usize> = match T::FIXED_BYTES {
        Some(bytes) => Some(8 + bytes),
        None => None,
    };

    fn schema() -> Schema {
        let field = |name: &str, schema| Field { name: name.to_owned(), schema };
        Schema::Struct {
            name: "WithTtl".to_owned(),
            version: 1,
            fields: vec![field("last_access_ms", u64::schema()), field("value", T::schema())],
        }
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        self.last_access_ms.encode(out);
        self.value.encode(out);
    }

    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(WithTtl { last_access_ms: u64::decode(input)?, value: T::decode(input)? })
    }

    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        if *stored == Self::schema() {
            return Some(Reader::Own);
        }
        let [last_access_ms, value] = fields_of(stored, &Self::schema())?;
        let (last_access_ms, value) = (u64::reader(last_access_ms)?, T::reader(value)?);
        Some(Reader::migrating(move |input| {
            Ok(WithTtl { last_access_ms: last_access_ms.read(input)?, value: value.read(input)? })
        }))
    }

    #[inline]
    fn encode_fixed(&self, out: &mut [u8]) {
        let (last_access_ms, value) = out.split_at_mut(8);
        self.last_access_ms.encode_fixed(last_access_ms);
        self.value.encode_fixed(value);
    }
}

/// What keeps its entries in the rows of one table.
pub(super) trait HasRows {
    type Key: Key;
    type Row: Data;

    /// The empty state `name` of the keys of the groups in `range`.
    fn create(backend: &Backend, name: String, groups: KeyGroups, range: Range<KeyGroup>) -> Self;

    fn rows(&mut self) -> &mut KeyedTable<Self::Key, Self::Row>;
}

impl<Q: Key, V: Data> HasRows for KeyedTable<Q, V> {
    type Key = Q;
    type Row = V;

    fn create(backend: &Backend, name: String, groups: KeyGroups, range: Range<KeyGroup>) -> Self {
        KeyedTable::new(backend, name, groups, range)
    }

    #[inline(always)]
    fn rows(&mut self) -> &mut KeyedTable<Q, V> {
        self
    }
}

/// A state without and one with time to live, whose stored types differ.
pub(super) enum Kept<P, T> {
    Forever(P),
    ForTime(T, TtlClock),
}

impl<P: HasRows, T: HasRows> Kept<P, T> {
    /// Without time to live.
    pub fn forever(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
    ) -> Self {
        Kept::Forever(P::create(backend, name.into(), groups, range))
    }

    /// With time to live; for `expired` see [`TtlClock::new`].
    pub fn for_time(
        backend: &Backend,
        name: impl Into<String>,
        groups: KeyGroups,
        range: Range<KeyGroup>,
        ttl: Ttl,
        expired: fn(&T::Row, u64) -> bool,
    ) -> Self {
        let mut state = T::create(backend, name.into(), groups, range);
        let clock = TtlClock::new(ttl, state.rows(), expired);
        Kept::ForTime(state, clock)
    }

    /// See [`KeyedTable::announce`].
    #[inline]
    pub fn announce(&mut self, hashes: impl ExactSizeIterator<Item = u64> + Clone) -> usize {
        match self {
            Kept::Forever(state) => state.rows().announce(hashes),
            Kept::ForTime(state, _) => state.rows().announce(hashes),
        }
    }

    /// Tells a state with time to live what time it is.
    pub fn advance_time(&mut self, now_ms: u64) {
        if let Kept::ForTime(state, clock) = self {
            clock.tick(now_ms, state.rows());
        }
    }

    /// The table, for snapshots, restores and upkeep.
    pub fn table(&mut self) -> &mut dyn StateTable {
        match self {
            Kept::Forever(state) => state.rows().untyped(),
            Kept::ForTime(state, _) => state.rows().untyped(),
        }
    }
}

/// The time to live of a state, and the latest time it has seen.
pub(super) struct TtlClock {
    ttl: Ttl,
    now_ms: u64,
}

/// The moment of one call.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub ms: u64,
    /// Accesses up to this time are too long ago.
    cutoff_ms: Option<u64>,
    /// Reads return what is expired.
    pub returns_expired: bool,
    /// Reads renew the time to live.
    pub renews: bool,
}

impl TtlClock {
    /// A clock for `rows`, which learn when `expired` tells them that a row may go: as it is at most as old as a time.
    pub fn new<Q: Key, V: Data>(ttl: Ttl, rows: &mut KeyedTable<Q, V>, expired: fn(&V, u64) -> bool) -> Self {
        rows.set_expiry(expired, ttl.time_to_live_ms.div_ceil(4));
        TtlClock { ttl, now_ms: 0 }
    }

    /// The moment of a call for `rows`.
    #[inline]
    pub fn tick<Q: Key, V: Data>(&mut self, now_ms: u64, rows: &mut KeyedTable<Q, V>) -> Now {
        if now_ms > self.now_ms {
            self.now_ms = now_ms;
            if let Some(cutoff_ms) = self.now().cutoff_ms {
                rows.expire_until(cutoff_ms);
            }
        }
        self.now()
    }

    fn now(&self) -> Now {
        Now {
            ms: self.now_ms,
            cutoff_ms: self.now_ms.checked_sub(self.ttl.time_to_live_ms),
            returns_expired: self.ttl.visibility == TtlVisibility::ReturnExpiredIfNotCleanedUp,
            renews: self.ttl.update == TtlUpdate::OnReadAndWrite,
        }
    }
}

impl Now {
    /// True when what was last accessed at this time has expired.
    #[inline]
    pub fn expired(self, last_access_ms: u64) -> bool {
        self.cutoff_ms.is_some_and(|cutoff_ms| last_access_ms <= cutoff_ms)
    }

    /// `value`, accessed now.
    pub fn stamp<T>(self, value: T) -> WithTtl<T> {
        WithTtl { last_access_ms: self.ms, value }
    }
}

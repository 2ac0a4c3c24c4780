//! Kinds of keyed state, each over one [`KeyedTable`](crate::table::KeyedTable), so on either backend alike.
//!
//! [`ValueStates`], [`ListStates`], [`MapStates`], [`ReducingStates`] and [`AggregatingStates`] hold one such state for every
//! key of a task, [`TimerQueue`] its timers. Their key `Q` is the user's key, or that key with a namespace as
//! [`Scoped`]. As with tables, every call takes the key's [`group_hash`](crate::Data::group_hash), and a batch
//! announces its keys first. A call also takes the processing time, `now_ms`; only states with a [`Ttl`] look at it.
//!
//! Always true:
//! - a state is one table, whatever the kind: what there is to know for snapshots and restores is in that table's rows;
//! - a list or map without elements has no row;
//! - a collection that is small is a single row; a larger one has a head row and chunks of about 1 KiB, so that adding or
//!   changing an element rewrites one chunk, whatever the size of the collection.
//!
//! Read `scoped` (keys), `row` (chunks), `list_table` and `map_table` (chunked collections), `ttl`, then the kinds.

mod scoped;
mod row;
mod list_table;
mod map_table;
mod ttl;
mod value;
mod list;
mod map;
mod reducing;
mod timers;
#[cfg(test)]
mod tests;

pub use list::ListStates;
pub use map::MapStates;
pub use reducing::{Aggregate, AggregatingStates, ReducingStates};
pub use scoped::Scoped;
pub use timers::{Timer, TimerQueue};
pub use ttl::{Ttl, TtlUpdate, TtlVisibility, WithTtl};
pub use value::ValueStates;

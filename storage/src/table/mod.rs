//! Keyed state in memory: typed tables whose snapshots cost nothing to begin.
//!
//! [`ValueTable`] holds the entries of one state for one task's range of key groups. [`StateTable`] is its untyped side,
//! by which [`crate::snapshot`] writes and restores all states of an operator alike.
//!
//! Always true:
//! - a snapshot holds exactly the entries at its begin, whatever changes while it is being written: an entry
//!   about to change is copied to the running scan first, once;
//! - a delta holds every entry that changed since the last *completed* snapshot, removed ones as tombstones; snapshots
//!   that failed in between change nothing about that;
//! - a tombstone stays in the table until a completed snapshot has it.
//!
//! Read `epochs` (what a stamp means), `bucket` (memory), `value_table` (entries), `scan` (snapshots), `expiry` (rows that may go), in this order.

mod regions;
pub(crate) mod arena;
mod bucket;
mod epochs;
mod expiry;
mod scan;
mod segment_paths;
mod state_table;
mod keyed_table;
#[cfg(test)]
mod tests;
mod value_table;

pub(crate) use bucket::prefetch_line;
pub use keyed_table::{Backend, KeyedTable};
pub use segment_paths::SegmentPaths;
pub use state_table::{GroupPlan, StateTable, TableStats, Written};
pub use value_table::ValueTable;

//! Keyed state as an append-only log of pages with a hash index over it: for state larger than memory, and snapshots that write only
//! what changed.
//!
//! [`LogTable`] holds the entries of one state for one task's range of key groups, as encoded rows. A row of the present epoch
//! changes in place; one of an earlier epoch is sealed, and its change is a new row. So a snapshot begins by raising the epoch, whatever
//! the size of the state, and a sealed page that a completed checkpoint has may leave memory (the fold-over of FASTER:
//! Chandramouli et al., SIGMOD 2018; Prasaad et al., VLDB 2019).
//!
//! Always true:
//! - the rows of all pages, replayed in order, give the present entries; the index names the last row of each key;
//! - a page whose epoch is over never changes, so it is written, dropped and read back without anybody waiting for it;
//! - a segment is part of a checkpoint exactly while one of its rows still counts, tombstones among them.
//!
//! Read `page` (memory), `chunked`, `page_table`, `leaf` and `index` (from hash to row), `core` (what a change does), `table` (the typed
//! side), `snapshot`, `segments` (what of the files counts), `compaction`, `restore`, `expiry`, in this order.

mod options;
mod bits;
mod page;
mod chunked;
mod page_table;
mod leaf;
mod index;
mod segments;
mod core;
mod cold;
mod table;
mod snapshot;
mod compaction;
mod restore;
mod expiry;
mod state_table;
#[cfg(test)]
mod tests;

pub(crate) use cold::Follow;
pub use options::LogOptions;
pub use table::LogTable;

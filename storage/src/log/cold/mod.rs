//! State larger than memory: which pages stay, how absent ones are read back, where changed ones wait.
//!
//! Read `clock` (which page goes), `fetch` (how one comes back), `scratch` (where a changed one waits for its snapshot),
//! `memory` (all three together, on the pages of one table), `follow` (what announced rows name).

mod clock;
mod fetch;
mod scratch;
mod memory;
mod follow;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod tests;

pub(crate) use follow::Follow;
pub(super) use memory::{Cold, READ_AHEAD};

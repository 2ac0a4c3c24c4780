//! State larger than memory: which pages stay, how absent ones are read back, where changed ones wait.
//!
//! Read `clock` (which page goes), `fetch` (how one comes back), `scratch` (where a changed one waits for its snapshot).

mod clock;
mod fetch;
mod scratch;
#[cfg(test)]
mod tests;

pub(crate) use clock::Clock;
pub(crate) use fetch::{Fetched, Fetcher, Source};
pub(crate) use scratch::{Scratch, Slot};

//! Reads checkpoints and savepoints offline, without the job's code: what is there, whether every byte of it is sound, and what
//! the states hold.
//!
//! Always true: nothing is written, created, synced or locked, so a directory can be looked at while its job runs; a checkpoint
//! that the job deletes meanwhile shows as one with missing files.
//!
//! Blocking: for tools, never for a worker.

mod find;
mod verify;
mod state;
mod rows;
#[cfg(test)]
mod tests;

pub use find::{Found, Listed, Snapshot, list, open};
pub use rows::StateShape;
pub use state::{BlockBytes, Entry, KeyedStates};
pub use verify::{Problem, Report, verify};

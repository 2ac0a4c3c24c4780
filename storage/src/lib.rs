//! State storage of the Thalweg stream engine: codecs, keyed state tables, snapshot files, manifests and
//! checkpoint directories.
//!
//! This crate knows nothing of dataflows, workers or channels. Read it in this order: [`ids`] and [`error`]
//! (words), [`threads`] (who runs where), [`io`] (every byte that touches a disk), [`codec`] (how a record becomes bytes), [`key_group`] (where a
//! key lives), [`table`] (state in memory), [`log`] (state as a log of pages, which need not be in memory), [`state`]
//! (values, lists, maps and timers in such tables), [`segment`] (state on disk), [`snapshot`] (from one to the other),
//! [`manifest`], [`operator_state`] and [`checkpoint`] (what makes a checkpoint complete), [`store`] (all of it together,
//! for programs without an engine), [`inspect`] (checkpoints looked at from outside).

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

#[macro_use]
pub mod crash;
#[macro_use]
pub mod fault;
pub mod ids;
pub mod error;
pub mod threads;
pub mod io;
pub mod codec;
pub mod key_group;
pub mod table;
pub mod log;
pub mod state;
pub mod segment;
pub mod snapshot;
pub mod manifest;
pub mod operator_state;
pub mod checkpoint;
pub mod store;
pub mod inspect;

/// The README's example, compiled and run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[doc(hidden)]
pub use codec::__private;
pub use codec::{Data, DecodeError, Key, Reader, Schema};
pub use error::StoreError;
pub use ids::{AttemptId, CheckpointId};
pub use key_group::{KeyGroup, KeyGroups};

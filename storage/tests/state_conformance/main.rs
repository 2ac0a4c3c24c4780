//! What must hold of keyed state, whichever backend keeps it: one text, run for each of them.
//!
//! The scenarios are those of Apache Flink's `StateBackendTestBase`, `TtlStateTestBase` and timer tests, and beyond: `kinds` (what
//! the kinds of state do), `snapshots` (what a checkpoint holds), `isolation` (ten million operations against a reference), `rescale`
//! (other ranges of key groups, other backends), `schema` (other types), `timers`, `ttl`.

/// Makes of each named function, which takes a [`harness::Kind`], one test for each backend.
macro_rules! for_each_backend {
    ($($claim:ident),* $(,)?) => {
        mod hash_map {
            $(#[test]
            fn $claim() {
                super::$claim(crate::harness::Kind::HashMap);
            })*
        }
        mod log {
            $(#[test]
            fn $claim() {
                super::$claim(crate::harness::Kind::Log);
            })*
        }
    };
}

mod harness;
mod isolation;
mod kinds;
mod model;
mod rescale;
mod schema;
mod snapshots;
mod timers;
mod ttl;

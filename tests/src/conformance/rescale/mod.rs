//! Restores at another parallelism, in-flight data included, and into a job whose edges have changed.
//!
//! A job is stopped with data in flight and goes on at another parallelism, where it fails once more and then ends. Its
//! output must hold every value exactly once, and in order where every edge keeps a split's values together.
//!
//! In reading order: `script` (what the parts of a job tell each other), `numbered` (records and source), `operators`, `ledger`
//! (the sink), `jobs` and `dags` (the shapes), `run` and `real` (on simulated workers, and on real ones), and here the named
//! cases.

mod jobs;
mod ledger;
mod numbered;
mod operators;
mod real;
mod run;
mod script;
mod dags;

pub use jobs::Shape;
pub use run::{Rescale, Stop};

use super::Outcome;
use jobs::{BROADCAST, CUSTOM_BULKY, KEYED_BROADCAST, KEYED_UNEVEN, MULTI_INPUT, PIPELINE, UNION};

/// One named case: runs once, by a seed.
pub type NamedCase = (&'static str, fn(u64) -> Outcome);

macro_rules! rescales {
    ($($name:literal: $shape:ident $from:literal to $to:literal;)*) => {
        [$(($name, (|seed| Rescale::of($shape, &[$from, $to]).run(seed)) as fn(u64) -> Outcome)),*]
    };
}

macro_rules! slow_rescales {
    ($($name:literal: $shape:ident $from:literal to $to:literal;)*) => {
        [$(($name, (|seed| {
            let slow = Rescale { slow: true, stop: Stop::Completed, ..Rescale::of($shape, &[$from, $to]) };
            slow.run(seed)
        }) as fn(u64) -> Outcome)),*]
    };
}

/// Every shape at another parallelism, stopped with data in flight.
pub const RESCALES: &[NamedCase] = &rescales! {
    "rescale-pipeline-1-to-2": PIPELINE 1 to 2;
    "rescale-pipeline-2-to-3": PIPELINE 2 to 3;
    "rescale-pipeline-3-to-7": PIPELINE 3 to 7;
    "rescale-pipeline-4-to-8": PIPELINE 4 to 8;
    "rescale-pipeline-20-to-21": PIPELINE 20 to 21;
    "rescale-pipeline-2-to-1": PIPELINE 2 to 1;
    "rescale-pipeline-3-to-2": PIPELINE 3 to 2;
    "rescale-pipeline-7-to-3": PIPELINE 7 to 3;
    "rescale-pipeline-8-to-4": PIPELINE 8 to 4;
    "rescale-pipeline-21-to-20": PIPELINE 21 to 20;
    "rescale-pipeline-1-unchanged": PIPELINE 1 to 1;
    "rescale-pipeline-3-unchanged": PIPELINE 3 to 3;
    "rescale-pipeline-7-unchanged": PIPELINE 7 to 7;
    "rescale-pipeline-20-unchanged": PIPELINE 20 to 20;
    "rescale-union-1-to-2": UNION 1 to 2;
    "rescale-union-2-to-3": UNION 2 to 3;
    "rescale-union-3-to-7": UNION 3 to 7;
    "rescale-union-2-to-1": UNION 2 to 1;
    "rescale-union-3-to-2": UNION 3 to 2;
    "rescale-union-7-to-3": UNION 7 to 3;
    "rescale-union-7-unchanged": UNION 7 to 7;
    "rescale-multi-input-1-to-2": MULTI_INPUT 1 to 2;
    "rescale-multi-input-2-to-3": MULTI_INPUT 2 to 3;
    "rescale-multi-input-3-to-7": MULTI_INPUT 3 to 7;
    "rescale-multi-input-2-to-1": MULTI_INPUT 2 to 1;
    "rescale-multi-input-3-to-2": MULTI_INPUT 3 to 2;
    "rescale-multi-input-7-to-3": MULTI_INPUT 7 to 3;
    "rescale-multi-input-7-unchanged": MULTI_INPUT 7 to 7;
    "rescale-keyed-uneven-12-to-7": KEYED_UNEVEN 12 to 7;
    "rescale-keyed-uneven-7-to-12": KEYED_UNEVEN 7 to 12;
    "rescale-keyed-broadcast-7-to-2": KEYED_BROADCAST 7 to 2;
    "rescale-keyed-broadcast-2-to-7": KEYED_BROADCAST 2 to 7;
    "rescale-broadcast-5-to-2": BROADCAST 5 to 2;
    "rescale-broadcast-2-to-5": BROADCAST 2 to 5;
    "rescale-custom-bulky-3-to-2": CUSTOM_BULKY 3 to 2;
};

/// Every shape at another parallelism, with almost nothing in flight.
pub const SLOW_RESCALES: &[NamedCase] = &slow_rescales! {
    "rescale-slow-pipeline-3-to-5": PIPELINE 3 to 5;
    "rescale-slow-pipeline-5-to-3": PIPELINE 5 to 3;
    "rescale-slow-union-3-to-5": UNION 3 to 5;
    "rescale-slow-union-5-to-3": UNION 5 to 3;
    "rescale-slow-multi-input-3-to-5": MULTI_INPUT 3 to 5;
    "rescale-slow-multi-input-5-to-3": MULTI_INPUT 5 to 3;
    "rescale-slow-keyed-uneven-3-to-5": KEYED_UNEVEN 3 to 5;
    "rescale-slow-keyed-uneven-5-to-3": KEYED_UNEVEN 5 to 3;
    "rescale-slow-keyed-broadcast-3-to-5": KEYED_BROADCAST 3 to 5;
    "rescale-slow-keyed-broadcast-5-to-3": KEYED_BROADCAST 5 to 3;
    "rescale-slow-broadcast-3-to-5": BROADCAST 3 to 5;
    "rescale-slow-broadcast-5-to-3": BROADCAST 5 to 3;
};

pub use dags::CHANGED_EDGES;

macro_rules! real_rescales {
    ($($name:literal: $shape:ident $from:literal to $to:literal;)*) => {
        [$(($name, (|seed| Rescale::of($shape, &[$from, $to]).run_real(seed)) as fn(u64) -> Outcome)),*]
    };
}

/// Some of the same, on real workers.
pub const REAL_RESCALES: &[NamedCase] = &real_rescales! {
    "rescale-real-pipeline-2-to-3": PIPELINE 2 to 3;
    "rescale-real-pipeline-7-to-3": PIPELINE 7 to 3;
    "rescale-real-union-3-to-2": UNION 3 to 2;
    "rescale-real-multi-input-3-to-7": MULTI_INPUT 3 to 7;
    "rescale-real-keyed-broadcast-2-to-7": KEYED_BROADCAST 2 to 7;
    "rescale-real-broadcast-5-to-2": BROADCAST 5 to 2;
};

/// All cases of rescaling and of changed edges.
pub fn cases() -> impl Iterator<Item = &'static NamedCase> {
    RESCALES.iter().chain(SLOW_RESCALES).chain(CHANGED_EDGES).chain(REAL_RESCALES)
}

//! The harness of the exactly-once suites: a job that fails on schedule, and everything that judges what came of it.
//!
//! Split *s* of *n* emits s, s + n, s + 2n …; each record carries a fixed header that every operator checks again, so
//! in-flight data that are cut or routed wrongly are noticed at once. Routes depend on the split alone, so each split's
//! values must arrive in order. The job goes through [`FAILURES`] failures at given numbers of completed checkpoints and
//! then ends; its output must hold every value exactly once.
//!
//! In reading order: `control` (what the parts of a job tell each other, and the failure schedule), `record`, `source`,
//! `operators`, `sink`, `topology` (the jobs), `verdict`, `run` (on real workers or simulated ones), `case` (the named cases).

pub mod case;
mod control;
mod changed_mode;
mod operators;
mod parcel;
mod record;
pub mod rescale;
mod run;
mod sink;
mod source;
mod stress;
mod topologies;
mod topology;
mod verdict;

pub use case::{Case, Family};
pub use control::{Control, FAILURES, Misdelivery};
pub use run::{CrashRun, RealRun, SimulatedRun};
pub use topology::{Mode, Placement, Scenario, Topology};
pub use verdict::{Outcome, Tally};

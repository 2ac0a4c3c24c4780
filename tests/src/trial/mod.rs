//! A small job on simulated workers, clock and disk, whose checkpoints a test conducts: it says when sources end and operators
//! fail, keeps acknowledgements back and forges them, and reads what every operator has heard.
//!
//! `script` holds what the job's parts and the test tell each other, `job` the dataflow, `post` what becomes of
//! acknowledgements, and [`Trial`] runs it all.

mod job;
mod post;
mod run;
mod script;

pub use job::{KEYS, numbers_job, union_job};
pub use post::{Acknowledgement, Post};
pub use run::{JOB_DIR, SAVEPOINTS, Trial, engine, holds_only_without, seeds};
pub use script::{Heard, News, Script, When};

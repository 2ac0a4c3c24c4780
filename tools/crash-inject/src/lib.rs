//! Kills a stream job where it hurts, restarts it, and counts what was lost.
//!
//! A job under test is a binary that follows the [`contract`]. A [`campaign`] decides where each [`life`] of it ends, [`run`]
//! drives it, [`report`] says what was found. [`images`] does the same with losses of power, in simulation, and [`faults`] with disks,
//! clocks and user code that fail.

pub mod contract;
pub mod random;
pub mod life;
pub mod campaign;
pub mod contend;
pub mod run;
pub mod report;
pub mod jobs;
mod simulated;
mod stores;
pub mod images;
pub mod faults;

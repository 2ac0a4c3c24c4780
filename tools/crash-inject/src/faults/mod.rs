//! Disks, clocks and user code that fail, in simulation: lives of whole jobs that meet such faults, restart by their
//! strategy or fail for good, and go on from what is left; and lives of stores without an engine.
//!
//! Always true:
//! - a life is decided by its seed alone;
//! - a fault counts as met when it struck, not when it was armed.

mod engine;
mod mined;
mod store;

pub use engine::FaultyLife;

use crate::contract::Audit;
use serde::Serialize;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use thalweg_storage::io::{Fault, OpKind, SimDisk};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A sync of a file or directory fails with EIO; what it should have written is lost or not.
    SyncError,
    /// A write fails with EIO.
    WriteError,
    /// A read fails with EIO, while the job restores or reads state back.
    ReadError,
    /// Anything else that a disk is asked for fails with EIO.
    MetadataError,
    /// Nothing can grow for a while, or once; then there is space again.
    NoSpace,
    /// A read finds the end of its file too early.
    ShortRead,
    /// Half of a write reaches the disk, and the machine stops.
    TornWrite,
    /// Some requests take thousands of times longer than others.
    SlowIo,
    /// Both clocks jump ahead.
    ClockJump,
    /// The wall clock is set ahead and back.
    WallClockSet,
    /// An operator panics with a record.
    PanicInMap,
    /// An operator or a sink panics when it is opened.
    PanicInOpen,
    /// An operator or a sink panics when it snapshots.
    PanicInSnapshot,
    /// A sink panics with a record.
    PanicInSink,
    /// A sink panics when it is told to commit.
    PanicInCommit,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 15] = [
        Kind::SyncError,
        Kind::WriteError,
        Kind::ReadError,
        Kind::MetadataError,
        Kind::NoSpace,
        Kind::ShortRead,
        Kind::TornWrite,
        Kind::SlowIo,
        Kind::ClockJump,
        Kind::WallClockSet,
        Kind::PanicInMap,
        Kind::PanicInOpen,
        Kind::PanicInSnapshot,
        Kind::PanicInSink,
        Kind::PanicInCommit,
    ];
}

/// How often a kind of fault came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Met {
    /// Lives of jobs in which it was armed.
    pub armed: u64,
    /// How often it struck.
    pub met: u64,
}

/// What happened in lives with faults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// By kind.
    pub faults: BTreeMap<Kind, Met>,
    /// Stores, each of which lived on a disk of its own.
    pub stores: u64,
    /// Jobs that were started, again on the same disk included.
    pub lives: u64,
    /// Of these, those that ended with all of their input processed.
    pub finished: u64,
    /// Those that failed for good, and said why.
    pub failed: u64,
    /// Those that ended with their machine.
    pub crashed: u64,
    /// Restarts within a life.
    pub restarts: u64,
    /// Checkpoints that completed.
    pub checkpoints: u64,
    /// Checkpoints that failed.
    pub failed_checkpoints: u64,
    /// Lives that began with a checkpoint, and restarts that did.
    pub restores: u64,
    /// Disks on which a checkpoint that was reported complete was looked for after a loss of power.
    pub recoveries_checked: u64,
    /// What was wrong with the output.
    #[serde(flatten)]
    pub audit: Audit,
}

impl Tally {
    /// Adds another one's counts.
    pub fn add(&mut self, other: &Tally) {
        for (kind, met) in &other.faults {
            let own = self.faults.entry(*kind).or_default();
            own.armed += met.armed;
            own.met += met.met;
        }
        self.stores += other.stores;
        self.lives += other.lives;
        self.finished += other.finished;
        self.failed += other.failed;
        self.crashed += other.crashed;
        self.restarts += other.restarts;
        self.checkpoints += other.checkpoints;
        self.failed_checkpoints += other.failed_checkpoints;
        self.restores += other.restores;
        self.recoveries_checked += other.recoveries_checked;
        self.audit.add(other.audit);
    }

    /// How often faults of `kind` struck.
    pub fn met(&self, kind: Kind) -> u64 {
        self.faults.get(&kind).map_or(0, |met| met.met)
    }
}

/// What a campaign found.
#[derive(Default, Serialize)]
pub struct Outcome {
    /// The first disk's seed.
    pub seed: u64,
    /// Disks, on each of which a store lived, or a job until it had finished.
    pub disks: u64,
    /// Sums over all of them.
    #[serde(flatten)]
    pub tally: Tally,
    /// What was wrong, with the seed of its disk.
    pub complaints: Vec<String>,
}

/// Complaints after which a campaign ends.
const COMPLAINTS_MAX: usize = 20;

/// One seed in so many is that of a store's life.
const STORES_ONE_IN: u64 = 8;

/// Jobs and stores on `count` disks, by the seeds from `seed` on, while `go_on` says so.
pub fn explore(seed: u64, count: u64, mut go_on: impl FnMut(&Outcome) -> bool) -> Outcome {
    let mut outcome = Outcome { seed, ..Outcome::default() };
    while outcome.disks < count && outcome.complaints.len() < COMPLAINTS_MAX && go_on(&outcome) {
        let own = seed.wrapping_add(outcome.disks);
        let mut tally = Tally::default();
        let lived = match (own + 1).is_multiple_of(STORES_ONE_IN) {
            true => live_store(own, &mut tally),
            false => live(&FaultyLife::of_seed(own), own, &mut tally),
        };
        outcome.complaints.extend(lived.err());
        outcome.tally.add(&tally);
        outcome.disks += 1;
    }
    outcome
}

/// Lives as [`FaultyLife::live`]; a panic is a complaint, too.
///
/// # Errors
/// What was wrong.
pub fn live(life: &FaultyLife, seed: u64, tally: &mut Tally) -> Result<(), String> {
    caught(|| life.live(seed, tally)).map_err(|what| format!("--seed {seed} ({life:?}): {what}"))
}

/// The life of a store by `seed`: changes, checkpoints, faults, restarts and losses of power.
///
/// # Errors
/// What was wrong.
pub fn live_store(seed: u64, tally: &mut Tally) -> Result<(), String> {
    caught(|| {
        store::live(seed, tally);
        Ok(())
    })
    .map_err(|what| format!("--seed {seed} (a store): {what}"))
}

fn caught(live: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(live)).unwrap_or_else(|panic| Err(crate::images::message_of(&*panic)))
}

/// Counts how often each kind of fault has struck on a disk.
fn count_disk_faults(disk: &SimDisk, met: &mut BTreeMap<Kind, u64>) {
    for ((operation, fault), count) in disk.met_faults() {
        let kind = match (operation, fault) {
            (OpKind::SyncData | OpKind::SyncDir, Fault::Io) => Kind::SyncError,
            (OpKind::Write, Fault::Io) => Kind::WriteError,
            (OpKind::Read, Fault::Io) => Kind::ReadError,
            (_, Fault::Io) => Kind::MetadataError,
            (_, Fault::NoSpace) => Kind::NoSpace,
            (_, Fault::Short) => Kind::ShortRead,
            (_, Fault::Torn) => Kind::TornWrite,
        };
        *met.entry(kind).or_default() += count;
    }
}

/// True for the panics that are injected, which need not be shown.
pub fn is_injected(message: &str) -> bool {
    message.starts_with(mined::SAYING)
}

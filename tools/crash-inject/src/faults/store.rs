//! Lives of a store without an engine, whose disk fails: what was acknowledged is recovered, and what fails says so.

use super::{Kind, Tally, count_disk_faults};
use crate::stores::lives::live as live_on;
use crate::stores::support::new_disk;
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_storage::store::BackendChoice::{HashMap, Log};

/// Lives by `seed`, on one backend or on both in turn, and counts what happened in `tally`.
///
/// # Panics
/// When something was wrong; the message says what.
pub(super) fn live(seed: u64, tally: &mut Tally) {
    let disk = new_disk();
    let backends = [&[HashMap][..], &[Log], &[Log, HashMap]][(seed / 8 % 3) as usize];
    let account = live_on(Arc::clone(&disk), seed, backends);
    let mut met: BTreeMap<Kind, u64> = BTreeMap::new();
    count_disk_faults(&disk, &mut met);
    for (kind, count) in met {
        tally.faults.entry(kind).or_default().met += count;
    }
    tally.stores += 1;
    tally.checkpoints += account.checkpoints as u64;
    tally.failed_checkpoints += account.failures as u64;
    tally.restores += (account.restarts + account.crashes) as u64;
}

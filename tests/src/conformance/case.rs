//! The named cases of conformance, each of which runs by a seed.
//!
//! A family is one file with a list of its own; [`all`] joins the lists. A case by itself says nothing about how often it
//! should run: tests run a representative part of each, `cargo xtask conformance --long` all of it many times.

use super::rescale::{self, NamedCase};
use super::verdict::Outcome;

/// What cases have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Jobs of several shapes through every scheduled failure.
    Topologies,
    /// Restores at another parallelism, in-flight data included.
    Rescale,
    /// Restores into a job whose edges have changed.
    ChangedEdges,
    /// Many sources, windows and exchanges under checkpoints in quick succession.
    Stress,
    /// Channel state that cannot be written.
    ChannelFailures,
    /// Restores in another checkpoint mode.
    ChangedMode,
}

/// One named case.
#[derive(Clone, Copy)]
pub struct Case {
    /// Its name, unique among all: words joined by hyphens, the family's subject first.
    pub name: &'static str,
    /// What it belongs to.
    pub family: Family,
    /// Real workers run it, on real clocks and disks, so that a busy machine matters to it; else simulated ones, and the
    /// seed decides everything.
    pub real: bool,
    /// Runs it once, by a seed; whatever is wrong is among the outcome's violations.
    pub run: fn(seed: u64) -> Outcome,
}

/// The lists of all families.
const LISTS: [&[Case]; 3] = [super::topologies::CASES, super::stress::CASES, super::changed_mode::CASES];

/// The families that need nothing but a name and a function.
const NAMED: [(Family, &[NamedCase]); 3] = [
    (Family::Rescale, rescale::RESCALES),
    (Family::Rescale, rescale::SLOW_RESCALES),
    (Family::ChangedEdges, rescale::CHANGED_EDGES),
];

/// All cases, family by family.
pub fn all() -> impl Iterator<Item = Case> {
    let named = NAMED.into_iter().flat_map(|(family, cases)| {
        cases.iter().map(move |(name, run)| Case { name, family, real: false, run: *run })
    });
    LISTS.into_iter().flatten().copied().chain(named)
}

/// The case of this name.
pub fn named(name: &str) -> Option<Case> {
    all().find(|case| case.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = all().map(|case| case.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(names.iter().all(|name| named(name).is_some_and(|case| case.name == *name)));
    }
}

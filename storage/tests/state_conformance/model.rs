//! The reference: what the states of [`crate::harness::Task`] should hold, in plain maps.

use std::collections::{BTreeMap, BTreeSet};

/// A key with a namespace.
pub type Place = (u64, u64);

/// The content of all states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub values: BTreeMap<Place, u64>,
    pub lists: BTreeMap<Place, Vec<u64>>,
    pub maps: BTreeMap<Place, BTreeMap<u64, String>>,
    /// Of the reducing state: the greatest.
    pub maxima: BTreeMap<Place, u64>,
    /// Of the aggregating state: sum and count.
    pub averages: BTreeMap<Place, (u64, u64)>,
    /// Time, key, namespace.
    pub timers: BTreeSet<(i64, u64, u64)>,
}

impl Model {
    /// The part of the keys for which `keep` returns true.
    pub fn of_keys(&self, keep: impl Fn(u64) -> bool) -> Model {
        fn part<V: Clone>(all: &BTreeMap<Place, V>, keep: impl Fn(u64) -> bool) -> BTreeMap<Place, V> {
            all.iter()
                .filter(|((key, _), _)| keep(*key))
                .map(|(place, value)| (*place, value.clone()))
                .collect()
        }
        Model {
            values: part(&self.values, &keep),
            lists: part(&self.lists, &keep),
            maps: part(&self.maps, &keep),
            maxima: part(&self.maxima, &keep),
            averages: part(&self.averages, &keep),
            timers: self.timers.iter().filter(|(_, key, _)| keep(*key)).copied().collect(),
        }
    }

    /// Fails with what differs, if anything does.
    #[track_caller]
    pub fn assert_is(&self, expected: &Model) {
        let mut differences = Vec::new();
        for (kind, found, wanted) in [
            ("value", texts(&self.values), texts(&expected.values)),
            ("list", texts(&self.lists), texts(&expected.lists)),
            ("map", texts(&self.maps), texts(&expected.maps)),
            ("maximum", texts(&self.maxima), texts(&expected.maxima)),
            ("average", texts(&self.averages), texts(&expected.averages)),
        ] {
            let places: BTreeSet<&Place> = found.keys().chain(wanted.keys()).collect();
            for place in places.into_iter().filter(|place| found.get(place) != wanted.get(place)) {
                let (found, wanted) = (found.get(place), wanted.get(place));
                differences.push(format!("{kind} of {place:?}: {found:?} instead of {wanted:?}"));
            }
        }
        for timer in self.timers.symmetric_difference(&expected.timers) {
            differences.push(format!("timer {timer:?} is only in one of both"));
        }
        let few = &differences[..differences.len().min(10)];
        assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), few.join("\n"));
    }

    /// All places that hold anything.
    pub fn places(&self) -> BTreeSet<Place> {
        let timers = self.timers.iter().map(|(_, key, namespace)| (*key, *namespace));
        let mut places: BTreeSet<Place> = timers.collect();
        places.extend(self.values.keys());
        places.extend(self.lists.keys());
        places.extend(self.maps.keys());
        places.extend(self.maxima.keys());
        places.extend(self.averages.keys());
        places
    }
}

fn texts<V: std::fmt::Debug>(all: &BTreeMap<Place, V>) -> BTreeMap<Place, String> {
    all.iter().map(|(place, value)| (*place, format!("{value:?}"))).collect()
}

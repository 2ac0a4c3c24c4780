//! Decides which checkpoints are released and which files may be deleted.
//!
//! Always true:
//! - a file that a completed or uncertain checkpoint names, or that is in use, is never deletable;
//! - while the references of one such checkpoint are unknown, no file is deletable;
//! - the newest readable checkpoints, one at least, are never released;
//! - a file that was named once stays a candidate until [`Retention::deleted`]: whoever keeps asking deletes it.
//!
//! Pure: facts in, decisions out. Driven by [`super::CheckpointStore`].

use super::names;
use crate::ids::CheckpointId;
use std::collections::{BTreeMap, BTreeSet};

/// The data files that one checkpoint's manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum References {
    /// These, by path below the job's directory.
    Known(BTreeSet<String>),
    /// Its manifest cannot be read: it may name any file.
    Unknown,
}

/// Checkpoints that hold files, and files that perhaps nothing holds any longer.
#[derive(Debug, Default)]
pub(super) struct Retention {
    completed: Vec<CheckpointId>,
    /// Of completed and of uncertain checkpoints.
    references: BTreeMap<CheckpointId, References>,
    /// Files to delete as soon as nothing names or uses them.
    candidates: BTreeSet<String>,
}

impl Retention {
    /// Completed checkpoints, rising.
    pub fn completed(&self) -> &[CheckpointId] {
        &self.completed
    }

    /// Checkpoints that may or may not be completed on disk, rising.
    pub fn uncertain(&self) -> impl DoubleEndedIterator<Item = CheckpointId> {
        self.references.keys().copied().filter(|id| self.completed.binary_search(id).is_err())
    }

    /// Takes note of a completed checkpoint.
    pub fn complete(&mut self, id: CheckpointId, references: References) {
        if let Err(at) = self.completed.binary_search(&id) {
            self.completed.insert(at, id);
        }
        self.references.insert(id, references);
    }

    /// Takes note of a checkpoint of which nobody knows whether it is completed. It is never released.
    pub fn uncertain_outcome(&mut self, id: CheckpointId, references: References) {
        self.references.insert(id, references);
    }

    /// The completed checkpoints, oldest first, that are older than the newest `retained` readable ones; one is
    /// retained at least. An unreadable one counts for nothing, and goes when that many readable ones are newer.
    pub fn to_release(&self, retained: usize) -> Vec<CheckpointId> {
        let readable = |id: &&CheckpointId| self.references.get(*id) != Some(&References::Unknown);
        let Some(oldest) = self.completed.iter().rev().filter(readable).nth(retained.max(1) - 1) else {
            return Vec::new();
        };
        self.completed.iter().copied().take_while(|id| id < oldest).collect()
    }

    /// Forgets a completed checkpoint whose manifest has been deleted; its files become candidates.
    pub fn released(&mut self, id: CheckpointId) {
        self.completed.retain(|other| *other != id);
        if let Some(References::Known(files)) = self.references.remove(&id) {
            self.discard(files);
        }
    }

    /// Takes note that the manifest of a completed checkpoint has been deleted, but may come back after a crash.
    pub fn release_uncertain(&mut self, id: CheckpointId) {
        self.completed.retain(|other| *other != id);
    }

    /// Makes files candidates. What is no data file by its name is passed over.
    pub fn discard(&mut self, files: impl IntoIterator<Item = String>) {
        self.candidates.extend(files.into_iter().filter(|path| names::is_data_file(path)));
    }

    /// True when nothing names or uses `path`.
    pub fn may_delete(&self, path: &str, in_use: &dyn Fn(&str) -> bool) -> bool {
        let unnamed = |references: &References| match references {
            References::Known(files) => !files.contains(path),
            References::Unknown => false,
        };
        self.references.values().all(unnamed) && !in_use(path)
    }

    /// True while the references of some checkpoint are unknown.
    pub fn is_blind(&self) -> bool {
        self.references.values().any(|r| *r == References::Unknown)
    }

    /// The candidates that may be deleted now.
    pub fn deletable(&self, in_use: &dyn Fn(&str) -> bool) -> Vec<String> {
        self.candidates.iter().filter(|path| self.may_delete(path, in_use)).cloned().collect()
    }

    /// Forgets a file that is gone.
    pub fn deleted(&mut self, path: &str) {
        self.candidates.remove(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    fn segment(n: u8) -> String {
        format!("shared/seg-a1-c{n}-0-0")
    }

    fn known(files: &BTreeSet<u8>) -> References {
        References::Known(files.iter().map(|n| segment(*n)).collect())
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish { files: BTreeSet<u8>, retained: usize },
        Uncertain { files: BTreeSet<u8> },
        Unreadable,
        Discard { files: BTreeSet<u8> },
    }

    fn step() -> impl Strategy<Value = Step> {
        let files = || btree_set(0u8..24, 0..6);
        prop_oneof![
            8 => (files(), 0usize..4).prop_map(|(files, retained)| Step::Publish { files, retained }),
            1 => files().prop_map(|files| Step::Uncertain { files }),
            1 => Just(Step::Unreadable),
            3 => files().prop_map(|files| Step::Discard { files }),
        ]
    }

    proptest! {
        #[test]
        fn prop_nothing_named_or_used_is_deleted_and_everything_else_is_in_the_end(
            steps in vec((step(), btree_set(0u8..24, 0..4)), 1..40),
        ) {
            let mut retention = Retention::default();
            let mut named_ever = BTreeSet::new();
            let mut on_disk: BTreeSet<u8> = (0..24).collect();
            let mut live: BTreeMap<CheckpointId, Option<BTreeSet<u8>>> = BTreeMap::new();
            let mut id = CheckpointId(0);
            for (step, used) in steps {
                id = id.next();
                match step {
                    Step::Publish { files, retained } => {
                        // A new checkpoint names files that exist: written anew, or still there.
                        named_ever.extend(&files);
                        on_disk.extend(&files);
                        retention.complete(id, known(&files));
                        live.insert(id, Some(files));
                        let released = retention.to_release(retained);
                        let kept = |id: &CheckpointId| !released.contains(id);
                        prop_assert!(kept(&id));
                        let readable = retention.completed().iter().filter(|i| live[i].is_some());
                        let kept_readable = readable.clone().filter(|i| kept(i)).count();
                        prop_assert_eq!(kept_readable, retained.max(1).min(readable.count()));
                        for id in released {
                            retention.released(id);
                            live.remove(&id);
                        }
                    }
                    Step::Uncertain { files } => {
                        named_ever.extend(&files);
                        on_disk.extend(&files);
                        retention.uncertain_outcome(id, known(&files));
                        prop_assert!(retention.uncertain().any(|u| u == id));
                        live.insert(id, Some(files));
                    }
                    Step::Unreadable => {
                        retention.complete(id, References::Unknown);
                        live.insert(id, None);
                    }
                    Step::Discard { files } => {
                        named_ever.extend(&files);
                        on_disk.extend(&files);
                        retention.discard(files.iter().map(|n| segment(*n)));
                    }
                }
                let in_use = |path: &str| used.iter().any(|n| segment(*n) == path);
                for path in retention.deletable(&in_use) {
                    let n = (0..24).find(|n| segment(*n) == path).unwrap();
                    prop_assert!(live.values().all(|files| files.as_ref().is_some_and(|f| !f.contains(&n))));
                    prop_assert!(!used.contains(&n));
                    on_disk.remove(&n);
                    retention.deleted(&path);
                }
            }
            if live.values().all(Option::is_some) {
                for path in retention.deletable(&|_| false) {
                    on_disk.retain(|n| segment(*n) != path);
                }
                let named: BTreeSet<u8> = live.values().flatten().flatten().copied().collect();
                for n in on_disk.intersection(&named_ever) {
                    prop_assert!(named.contains(n), "{} is left over", segment(*n));
                }
                prop_assert!(named.is_subset(&on_disk));
            }
        }
    }

    #[test]
    fn an_unreadable_checkpoint_counts_for_nothing_and_goes_when_the_retained_ones_are_newer() {
        let mut retention = Retention::default();
        retention.complete(CheckpointId(1), known(&BTreeSet::from([1])));
        retention.complete(CheckpointId(2), References::Unknown);
        retention.complete(CheckpointId(3), known(&BTreeSet::from([3])));
        assert_eq!(retention.to_release(3), []);
        assert_eq!(retention.to_release(2), []);
        assert_eq!(retention.to_release(1), [CheckpointId(1), CheckpointId(2)]);
        assert!(retention.is_blind() && retention.deletable(&|_| false).is_empty());
        retention.released(CheckpointId(1));
        retention.released(CheckpointId(2));
        assert_eq!(retention.deletable(&|_| false), [segment(1)]);
    }

    #[test]
    fn a_released_manifest_that_names_the_lock_does_not_delete_it() {
        let mut retention = Retention::default();
        let hostile = ["LOCK", "chk-2/MANIFEST", "../x"].map(str::to_owned);
        retention.complete(CheckpointId(1), References::Known(BTreeSet::from(hostile)));
        retention.released(CheckpointId(1));
        assert!(retention.deletable(&|_| false).is_empty());
    }
}

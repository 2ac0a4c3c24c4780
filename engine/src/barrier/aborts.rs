//! Remembers which checkpoints are aborted, in bounded memory.
//!
//! An abort can overtake the barrier it belongs to, so it is remembered by id. Always true: every id that was inserted
//! stays contained; an id that was not is contained only when it lies below [`RECENT_MAX`] younger aborted ones. No such
//! id can still be triggered, since commands come in the coordinator's order and ids rise; and a round that the gate knows
//! already is looked up there first.

use thalweg_storage::CheckpointId;

/// Aborted ids remembered one by one.
pub const RECENT_MAX: usize = 64;

/// The aborted checkpoints of one attempt.
#[derive(Debug)]
pub struct Aborts {
    /// This id and all before it are past.
    floor: Option<CheckpointId>,
    /// Aborted ids above the floor, rising.
    recent: Vec<CheckpointId>,
}

impl Aborts {
    /// Nothing is aborted.
    pub fn new() -> Aborts {
        Aborts { floor: None, recent: Vec::with_capacity(RECENT_MAX) }
    }

    /// Remembers an abort.
    pub fn insert(&mut self, checkpoint: CheckpointId) {
        if self.contains(checkpoint) {
            return;
        }
        let mut at = self.recent.partition_point(|&id| id < checkpoint);
        if self.recent.len() == RECENT_MAX {
            if at == 0 {
                self.floor = Some(checkpoint);
                return;
            }
            self.floor = Some(self.recent.remove(0));
            at -= 1;
        }
        self.recent.insert(at, checkpoint);
    }

    /// True for every inserted id, and for ids too old to matter.
    pub fn contains(&self, checkpoint: CheckpointId) -> bool {
        self.floor.is_some_and(|floor| checkpoint <= floor) || self.recent.binary_search(&checkpoint).is_ok()
    }
}

impl Default for Aborts {
    fn default() -> Self {
        Aborts::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_inserted_id_stays_contained_in_bounded_memory() {
        let mut aborts = Aborts::new();
        for id in (1..2_000).rev().step_by(3).chain((2_000..9_000).step_by(7)) {
            aborts.insert(CheckpointId(id));
            assert!(aborts.contains(CheckpointId(id)));
            assert!(aborts.recent.len() <= RECENT_MAX && aborts.recent.is_sorted());
        }
        assert!((2_000..9_000).step_by(7).all(|id| aborts.contains(CheckpointId(id))));
    }

    #[test]
    fn ids_between_recent_aborts_are_not_taken_for_aborted() {
        let mut aborts = Aborts::default();
        for id in (100..200).step_by(2) {
            aborts.insert(CheckpointId(id));
        }
        assert!((101..200).step_by(2).all(|id| !aborts.contains(CheckpointId(id))));
        assert!(!aborts.contains(CheckpointId(99)));
    }
}

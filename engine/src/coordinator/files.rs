//! Knows which files acknowledgements and checkpoints hold, and so which of a failed checkpoint may be deleted.
//!
//! Always true:
//! - a file that an acknowledgement of a checkpoint under way names is in use until that checkpoint is published or
//!   discarded;
//! - so is every file of the checkpoints that one under way may build upon, although no acknowledgement has named it
//!   yet: the newest that was complete when it was triggered, and those completed since;
//! - a file of a failed checkpoint is never offered for deletion while a checkpoint under way or a retained one
//!   names it;
//! - the segments of a failed checkpoint are offered only once a later one has completed or the attempt is over:
//!   until then a task that wrote them may name them again in its next snapshot, since deltas are relative to the
//!   latest *completed* checkpoint. In-flight data belong to one checkpoint alone and go at once.

use crate::control::TaskSnapshot;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use thalweg_storage::CheckpointId;
use thalweg_storage::manifest::{ChannelState, OperatorState, Payload, SubtaskState};

/// Number of completed checkpoints whose repeated acknowledgements are recognised. Files of older ones are gone anyway.
const COMPLETED_MAX: usize = 128;

/// Files to delete on behalf of one checkpoint.
pub(super) type Unused = (CheckpointId, Vec<String>);

/// The files of one job's checkpoints.
#[derive(Debug)]
pub(super) struct Files {
    retain: usize,
    /// How many acknowledgements of checkpoints under way name a file.
    held: HashMap<String, u32>,
    pending: BTreeMap<CheckpointId, Named>,
    /// For each checkpoint under way, the newest one that was complete when it was triggered.
    building: BTreeMap<CheckpointId, Option<CheckpointId>>,
    /// Completed checkpoints that one under way may build upon, oldest first; the newest always.
    bases: VecDeque<(CheckpointId, HashSet<String>)>,
    /// The newest completed checkpoints, oldest first.
    retained: VecDeque<(CheckpointId, HashSet<String>)>,
    /// Ids of the last [`COMPLETED_MAX`] completed checkpoints, oldest first.
    completed: VecDeque<CheckpointId>,
    /// Segments of failed checkpoints that a task may still name again.
    left_over: BTreeMap<CheckpointId, HashSet<String>>,
}

/// The files that acknowledgements of one checkpoint name, once for each time.
#[derive(Debug, Default)]
struct Named {
    segments: Vec<String>,
    channels: Vec<String>,
}

impl Named {
    fn add(&mut self, snapshot: &TaskSnapshot) {
        self.segments.extend(snapshot.operators.iter().flat_map(|(_, _, subtask)| segments_of(subtask)));
        self.channels.extend(channel_files_of(&snapshot.channels));
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.segments.iter().chain(&self.channels)
    }
}

fn segments_of(subtask: &SubtaskState) -> impl Iterator<Item = String> {
    subtask.segments.iter().map(|segment| segment.path.clone())
}

fn channel_files_of(channels: &[ChannelState]) -> impl Iterator<Item = String> {
    channels.iter().filter_map(|channel| match &channel.data {
        Payload::File { path, .. } => Some(path.clone()),
        Payload::Inline(_) => None,
    })
}

/// All files that a manifest names.
pub(super) fn files_of(operators: &[OperatorState], channels: &[ChannelState]) -> HashSet<String> {
    let segments = operators.iter().flat_map(|operator| &operator.subtasks).flat_map(segments_of);
    segments.chain(channel_files_of(channels)).collect()
}

impl Files {
    /// Remembers the files of the newest `retain` completed checkpoints, at least one.
    pub(super) fn new(retain: usize) -> Self {
        Files {
            retain: retain.max(1),
            held: HashMap::new(),
            pending: BTreeMap::new(),
            building: BTreeMap::new(),
            bases: VecDeque::new(),
            retained: VecDeque::new(),
            completed: VecDeque::new(),
            left_over: BTreeMap::new(),
        }
    }

    /// True when an acknowledgement of a checkpoint under way names the file, or one that is yet to come may. Of
    /// `publishing` every acknowledgement has come.
    pub(super) fn in_use(&self, path: &str, publishing: Option<CheckpointId>) -> bool {
        if self.held.contains_key(path) {
            return true;
        }
        let building = self.building.iter().filter(|(id, _)| Some(**id) != publishing);
        let Some(oldest) = building.map(|(_, base)| *base).min() else { return false };
        self.bases.iter().any(|(id, files)| Some(*id) >= oldest && files.contains(path))
    }

    /// Tasks are being told of `id`.
    pub(super) fn triggered(&mut self, id: CheckpointId) {
        self.building.insert(id, self.bases.back().map(|(newest, _)| *newest));
    }

    /// An acknowledgement of a checkpoint under way has come.
    pub(super) fn hold(&mut self, id: CheckpointId, snapshot: &TaskSnapshot) {
        let mut named = Named::default();
        named.add(snapshot);
        for path in named.all() {
            *self.held.entry(path.clone()).or_default() += 1;
        }
        let of_checkpoint = self.pending.entry(id).or_default();
        of_checkpoint.segments.append(&mut named.segments);
        of_checkpoint.channels.append(&mut named.channels);
    }

    /// The job was restored from `id`, which names `files`.
    pub(super) fn restored(&mut self, id: CheckpointId, files: HashSet<String>) {
        if self.retained.iter().all(|(retained, _)| *retained != id) {
            self.add_completed(id, files);
        }
    }

    /// `id` has been published; every checkpoint under way that is older has ended before. Returns what no task will
    /// name any more: each task's snapshot for `id` came after its older ones, and later ones build on it.
    pub(super) fn published(&mut self, id: CheckpointId) -> Vec<Unused> {
        let named = self.release(id);
        self.add_completed(id, named.all().cloned().collect());
        let newer = self.left_over.split_off(&id);
        let settled = std::mem::replace(&mut self.left_over, newer);
        self.unused(settled)
    }

    /// `id` has failed. Returns the files that go at once.
    pub(super) fn failed(&mut self, id: CheckpointId) -> Unused {
        let named = self.release(id);
        self.left_over.entry(id).or_default().extend(named.segments);
        (id, self.without_used(named.channels))
    }

    /// An acknowledgement has come for `id`, which has ended or was never triggered. Its segments go at once where
    /// `attempt_over` or a later checkpoint has completed. Returns `None` when there is nothing to delete.
    pub(super) fn late(
        &mut self,
        id: CheckpointId,
        snapshot: &TaskSnapshot,
        attempt_over: bool,
    ) -> Option<Unused> {
        if self.completed.contains(&id) {
            return None;
        }
        let mut named = Named::default();
        named.add(snapshot);
        let mut files = named.channels;
        if attempt_over || self.retained.back().is_some_and(|(newest, _)| *newest > id) {
            files.extend(named.segments);
        } else if !named.segments.is_empty() {
            self.left_over.entry(id).or_default().extend(named.segments);
        }
        let files = self.without_used(files);
        (!files.is_empty()).then_some((id, files))
    }

    /// No task of the attempt is left to name anything: returns what its failed checkpoints leave behind.
    pub(super) fn attempt_over(&mut self) -> Vec<Unused> {
        let settled = std::mem::take(&mut self.left_over);
        self.unused(settled)
    }

    fn release(&mut self, id: CheckpointId) -> Named {
        self.building.remove(&id);
        let oldest = self.building.values().min().copied();
        while self.bases.len() > 1 && oldest.is_none_or(|oldest| Some(self.bases[0].0) < oldest) {
            self.bases.pop_front();
        }
        let named = self.pending.remove(&id).unwrap_or_default();
        for path in named.all() {
            if let Some(count) = self.held.get_mut(path) {
                *count -= 1;
                if *count == 0 {
                    self.held.remove(path);
                }
            }
        }
        named
    }

    fn add_completed(&mut self, id: CheckpointId, files: HashSet<String>) {
        self.completed.push_back(id);
        if self.completed.len() > COMPLETED_MAX {
            self.completed.pop_front();
        }
        self.bases.push_back((id, files.clone()));
        self.retained.push_back((id, files));
        if self.retained.len() > self.retain {
            self.retained.pop_front();
        }
    }

    fn unused(&self, settled: BTreeMap<CheckpointId, HashSet<String>>) -> Vec<Unused> {
        let unused = settled.into_iter().map(|(id, files)| (id, self.without_used(files)));
        unused.filter(|(_, files)| !files.is_empty()).collect()
    }

    fn without_used(&self, files: impl IntoIterator<Item = String>) -> Vec<String> {
        let named_by_retained = |path: &String| self.retained.iter().any(|(_, files)| files.contains(path));
        let mut unused: Vec<String> =
            files.into_iter().filter(|path| !self.in_use(path, None) && !named_by_retained(path)).collect();
        unused.sort_unstable();
        unused.dedup();
        unused
    }
}

//! Which epoch an entry of a table was last changed in, in one byte per entry.
//!
//! An *epoch* is the time between the begins of two snapshots; epochs are numbered without end. An entry carries a
//! *label* of six bits that stands for an epoch; labels are used again, so no arithmetic on labels means anything, and
//! nothing wraps around. The rest of the byte are two flags.
//!
//! Always true:
//! - stamp 0 is an empty slot; label [`CLEAN`] stands for epoch 0, of which every completed snapshot knows;
//! - a label that any slot may carry is in `in_use` and is not given to a new epoch;
//! - a finished scan leaves only [`CLEAN`], labels of snapshots that are neither completed nor aborted, and the
//!   present label on the slots, so all others become free;
//! - snapshots are compared by epoch only: an entry is dirty for one that builds on completed epoch c, when its epoch
//!   exceeds c.
//!
//! Pure: knows nothing of entries.

/// One byte of a slot: 0 where empty, else label and flags.
pub(super) type Stamp = u8;

/// Number of an epoch.
pub(super) type Epoch = u64;

/// Bits of the label in a stamp.
pub(super) const LABEL: Stamp = 0x3F;

/// The key was absent from the table until the epoch that the label stands for, so while that epoch lasts no snapshot
/// knows it. Means nothing once the epoch has passed.
pub(super) const FRESH: Stamp = 0x40;

/// The entry was removed; its slot still holds the key.
pub(super) const TOMBSTONE: Stamp = 0x80;

/// The label of entries that have not changed since the last completed snapshot, as far as a scan has noticed.
pub(super) const CLEAN: Stamp = 1;

/// Number of labels, 0 included, which is not one.
pub(super) const LABELS: usize = 64;

/// Most snapshots that may be neither completed nor aborted; beyond, the oldest count as aborted.
const OUTSTANDING_MAX: usize = 32;

/// The labels of one table.
#[derive(Debug)]
pub(super) struct Epochs {
    now: Epoch,
    label: Stamp,
    epoch_of: [Epoch; LABELS],
    in_use: u64,
    completed: Epoch,
    /// Snapshots begun and neither completed nor aborted, rising.
    outstanding: Vec<(Epoch, Stamp)>,
}

impl Epochs {
    pub fn new() -> Self {
        let label = CLEAN + 1;
        let mut epoch_of = [0; LABELS];
        epoch_of[usize::from(label)] = 1;
        Epochs {
            now: 1,
            label,
            epoch_of,
            in_use: 1 << CLEAN | 1 << label,
            completed: 0,
            outstanding: Vec::new(),
        }
    }

    /// The label of changes made now.
    pub fn label(&self) -> Stamp {
        self.label
    }

    /// The epoch up to which everything is in a completed snapshot.
    pub fn completed(&self) -> Epoch {
        self.completed
    }

    /// The epoch that a stamp's label stands for.
    #[inline]
    pub fn epoch_of(&self, stamp: Stamp) -> Epoch {
        self.epoch_of[usize::from(stamp & LABEL)]
    }

    /// True when a completed snapshot has the present form of an entry with this stamp.
    #[inline]
    pub fn is_clean(&self, stamp: Stamp) -> bool {
        self.epoch_of(stamp) <= self.completed
    }

    /// True when [`Epochs::begin`] needs every slot to be restamped first: each stamp by [`Epochs::restamp`], then
    /// [`Epochs::restamped`].
    pub fn exhausted(&mut self) -> bool {
        let excess = self.outstanding.len().saturating_sub(OUTSTANDING_MAX);
        self.outstanding.drain(..excess);
        self.free_label().is_none()
    }

    /// Ends the present epoch and returns it: a snapshot of it holds all changes so far.
    pub fn begin(&mut self) -> Epoch {
        let label = self.free_label().expect("a label is free after restamping");
        let ended = self.now;
        self.outstanding.push((ended, self.label));
        self.now += 1;
        self.label = label;
        self.epoch_of[usize::from(label)] = self.now;
        self.in_use |= 1 << label;
        ended
    }

    fn free_label(&self) -> Option<Stamp> {
        (CLEAN + 1..LABELS as Stamp).find(|label| self.in_use & 1 << label == 0)
    }

    /// What each label of a slot becomes when a scan has passed over it: the oldest outstanding snapshot that has the
    /// change stands for it.
    pub fn restamp(&self) -> [Stamp; LABELS] {
        std::array::from_fn(|label| {
            let epoch = self.epoch_of[label];
            if label == 0 || label as Stamp == self.label {
                label as Stamp
            } else if epoch <= self.completed {
                CLEAN
            } else {
                let covering = self.outstanding.iter().find(|(outstanding, _)| *outstanding >= epoch);
                covering.map_or(self.label, |(_, label)| *label)
            }
        })
    }

    /// All slots have been restamped by a table of `labels` that [`Epochs::restamp`] gave in this epoch.
    pub fn restamped(&mut self, labels: &[Stamp; LABELS]) {
        self.in_use = labels.iter().skip(1).fold(1 << CLEAN | 1 << self.label, |used, label| {
            // Labels that no slot carried map to something too; keeping those in use is harmless, they are few.
            used | 1 << label
        });
    }

    /// The snapshot that ended `epoch` is completed: what it holds is clean. Does nothing when it counts as aborted.
    pub fn complete(&mut self, epoch: Epoch) {
        if self.outstanding.iter().any(|(outstanding, _)| *outstanding == epoch) {
            self.outstanding.retain(|(outstanding, _)| *outstanding > epoch);
            self.completed = epoch;
        }
    }

    /// The snapshot that ended `epoch` will never complete.
    pub fn abort(&mut self, epoch: Epoch) {
        self.outstanding.retain(|(outstanding, _)| *outstanding != epoch);
    }
}

//! What a power loss leaves of a simulated file system.
//!
//! Always true:
//! - what was synced survives whole;
//! - each unsynced sector is left in one of the states that it has had since, never in a mixture;
//! - of the unsynced changes of a directory, some survive; a change survives whole or not at all.
//!
//! Pure: a file system and a [`Chooser`] in, a file system without anything unsynced out. A chooser that runs through
//! all answers in turn runs through all images.

use super::model::{
    DirNode, FileNode, FileSystem, LengthVersion, Node, NodeId, ROOT, SECTOR_BYTES, SectorVersion,
    apply_cuts, write_sector,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sectors that the page cache writes together.
const PAGE_SECTORS: usize = 4_096 / SECTOR_BYTES;

/// Which of the states that a power loss may leave is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashProfile {
    /// Nothing unsynced survives.
    LoseAll,
    /// Everything survives, as though all had been synced just in time.
    KeepAll,
    /// As on ext4: a prefix of all directory changes survives, and of each file a prefix of its changes; so a rename
    /// may survive without the data of its file.
    Prefix,
    /// Any sectors, lengths and directory changes survive, each on its own.
    Weak,
    /// As [`CrashProfile::Weak`], with files torn at pages of 4 KiB instead of sectors.
    WeakPages,
}

/// Makes the choices that determine one image.
pub(super) trait Chooser {
    /// A number below `count`, which is at least 1. Later choices are those that keep more.
    fn choose(&mut self, count: usize) -> usize;

    /// How a file or directory is treated whose parts each have a choice of their own: so that among images drawn at random
    /// there are many of which whole files are lost or kept.
    fn lean(&mut self) -> Lean {
        match self.choose(4) {
            0 => Lean::Lose,
            1 => Lean::Keep,
            _ => Lean::Choose,
        }
    }
}

/// What is decided for a whole file or directory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lean {
    /// All of it is lost.
    Lose,
    /// All that can be is kept.
    Keep,
    /// Each part is chosen.
    Choose,
}

/// Choices from a seed: splitmix64 (Steele, Lea and Flood 2014), whose streams differ for neighbouring seeds.
pub(super) struct Seeded(pub(super) u64);

impl Chooser for Seeded {
    fn choose(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed % count as u64) as usize
    }
}

/// All sequences of choices, one after another: the last choice turns first.
#[derive(Default)]
pub(super) struct InTurn {
    /// Each choice of this sequence, and among how many it was.
    choices: Vec<(usize, usize)>,
    /// Number of choices made so far.
    made: usize,
}

impl InTurn {
    /// Turns to the next sequence; false after the last.
    pub(super) fn advance(&mut self) -> bool {
        self.made = 0;
        while let Some((choice, count)) = self.choices.pop() {
            if choice + 1 < count {
                self.choices.push((choice + 1, count));
                return true;
            }
        }
        false
    }
}

impl Chooser for InTurn {
    fn choose(&mut self, count: usize) -> usize {
        if self.made == self.choices.len() {
            self.choices.push((0, count));
        }
        self.made += 1;
        self.choices[self.made - 1].0
    }

    /// The choices of the parts run through these as well.
    fn lean(&mut self) -> Lean {
        Lean::Choose
    }
}

/// The file system after power came back.
pub(super) fn image(fs: &FileSystem, profile: CrashProfile, chooser: &mut impl Chooser) -> FileSystem {
    let dirs_until = match profile {
        CrashProfile::LoseAll | CrashProfile::Weak | CrashProfile::WeakPages => 0,
        CrashProfile::KeepAll => u64::MAX,
        CrashProfile::Prefix => prefix_of(dir_seqs(fs), chooser),
    };
    survivors(
        fs,
        |file, chooser: &mut _| surviving_content(file, profile, chooser),
        |dir, chooser: &mut _| surviving_entries(dir, profile, dirs_until, chooser),
        chooser,
    )
}

/// The file system after power came back, if of all unsynced changes those survived whose numbers `keep` says, each whole.
pub(super) fn image_of(fs: &FileSystem, keep: &dyn Fn(u64) -> bool) -> FileSystem {
    survivors(
        fs,
        |file, ()| kept_content(file, keep),
        |dir, ()| dir.surviving(|change| keep(change.seq)),
        &mut (),
    )
}

/// Numbers of all unsynced changes, rising.
pub(super) fn changes(fs: &FileSystem) -> Vec<u64> {
    let mut seqs: Vec<u64> = Vec::new();
    for node in fs.nodes.values() {
        match &**node {
            Node::File(file) => seqs.extend(file_seqs(file)),
            Node::Dir(dir) => seqs.extend(dir.unsynced.iter().map(|change| change.seq)),
        }
    }
    seqs.retain(|seq| *seq > 0);
    seqs.sort_unstable();
    seqs.dedup();
    seqs
}

fn survivors<C>(
    fs: &FileSystem,
    mut content: impl FnMut(&FileNode, &mut C) -> Vec<u8>,
    mut entries: impl FnMut(&DirNode, &mut C) -> BTreeMap<String, NodeId>,
    chooser: &mut C,
) -> FileSystem {
    let mut nodes = BTreeMap::new();
    // What no surviving directory names is gone, so the walk starts at the root and needs no other.
    let mut reached = vec![ROOT];
    while let Some(id) = reached.pop() {
        if nodes.contains_key(&id) {
            continue;
        }
        let node = &fs.nodes[&id];
        let survivor = match &**node {
            _ if node.is_durable() => Arc::clone(node),
            Node::File(file) => Arc::new(Node::File(FileNode::durable(content(file, chooser)))),
            Node::Dir(dir) => {
                let entries = entries(dir, chooser);
                let dir = DirNode { current: entries.clone(), durable: entries, unsynced: Vec::new() };
                Arc::new(Node::Dir(dir))
            }
        };
        if let Node::Dir(dir) = &*survivor {
            reached.extend(dir.current.values());
        }
        nodes.insert(id, survivor);
    }
    fs.with_nodes(nodes)
}

/// Numbers of the unsynced directory changes that may be the last to survive; a journal commits all changes up to the
/// last sync of any directory together.
fn dir_seqs(fs: &FileSystem) -> Vec<u64> {
    let dirs =
        fs.nodes.values().filter_map(|node| if let Node::Dir(dir) = &**node { Some(dir) } else { None });
    let seqs = dirs.flat_map(|dir| dir.unsynced.iter().map(|change| change.seq));
    let mut seqs: Vec<u64> = seqs.filter(|seq| *seq > fs.dirs_synced_seq).collect();
    seqs.push(fs.dirs_synced_seq);
    seqs.sort_unstable();
    seqs
}

fn prefix_of(seqs: Vec<u64>, chooser: &mut impl Chooser) -> u64 {
    seqs[chooser.choose(seqs.len())]
}

fn surviving_entries(
    dir: &DirNode,
    profile: CrashProfile,
    until: u64,
    chooser: &mut impl Chooser,
) -> BTreeMap<String, NodeId> {
    if profile == CrashProfile::KeepAll {
        // After a failed sync, that is not what the changes that are known to be unsynced give.
        return dir.current.clone();
    }
    if !matches!(profile, CrashProfile::Weak | CrashProfile::WeakPages) {
        return dir.surviving(|change| change.seq <= until);
    }
    match chooser.lean() {
        Lean::Lose => dir.durable.clone(),
        Lean::Keep => dir.surviving(|_| true),
        Lean::Choose => dir.surviving(|_| chooser.choose(2) == 1),
    }
}

fn surviving_content(file: &FileNode, profile: CrashProfile, chooser: &mut impl Chooser) -> Vec<u8> {
    // Which version of the length survives: 0 is the durable one.
    let until = match profile {
        CrashProfile::LoseAll => 0,
        CrashProfile::KeepAll => u64::MAX,
        CrashProfile::Prefix => prefix_of(file_seqs(file), chooser),
        CrashProfile::Weak | CrashProfile::WeakPages => match chooser.choose(file.lengths.len() + 1) {
            0 => 0,
            index => file.lengths[index - 1].seq,
        },
    };
    let length = file.lengths.iter().rev().find(|length| length.seq <= until);
    let length_seq = length.map_or(0, |length| length.seq);
    // What was written after a truncation cannot be there while the truncation is not.
    let next_cut =
        file.lengths.iter().find(|l| l.is_cut && l.seq > length_seq).map_or(u64::MAX, |cut| cut.seq);

    let picks = matches!(profile, CrashProfile::Weak | CrashProfile::WeakPages);
    let lean = if picks { chooser.lean() } else { Lean::Choose };
    // The page that was decided upon last, and until when its sectors are kept.
    let mut page = None;
    assemble(file, length, |index, versions| {
        let possible = versions.partition_point(|version| version.seq < next_cut);
        match (profile, lean) {
            (CrashProfile::Weak | CrashProfile::WeakPages, Lean::Lose) => 0,
            (CrashProfile::Weak | CrashProfile::WeakPages, Lean::Keep) => possible,
            (CrashProfile::Weak, Lean::Choose) => chooser.choose(possible + 1),
            (CrashProfile::WeakPages, Lean::Choose) => {
                let number = index / PAGE_SECTORS;
                let kept_until = match page {
                    Some((decided, kept_until)) if decided == number => kept_until,
                    _ => {
                        let seqs = page_seqs(file, number, next_cut);
                        chooser.choose(seqs.len() + 1).checked_sub(1).map_or(0, |last| seqs[last])
                    }
                };
                page = Some((number, kept_until));
                versions.partition_point(|version| version.seq <= kept_until).min(possible)
            }
            _ => versions.partition_point(|version| version.seq <= until),
        }
    })
}

/// Numbers of the changes of a page that came before `cut`, rising.
fn page_seqs(file: &FileNode, page: usize, cut: u64) -> Vec<u64> {
    let sectors = file.sectors.range(page * PAGE_SECTORS..(page + 1) * PAGE_SECTORS);
    let seqs = sectors.flat_map(|(_, versions)| versions).map(|version| version.seq);
    let mut seqs: Vec<u64> = seqs.filter(|seq| *seq < cut).collect();
    seqs.sort_unstable();
    seqs.dedup();
    seqs
}

/// The content of a file of whose unsynced changes those survived that `keep` names.
fn kept_content(file: &FileNode, keep: &dyn Fn(u64) -> bool) -> Vec<u8> {
    let length = file.lengths.iter().rev().find(|length| keep(length.seq));
    let length_seq = length.map_or(0, |length| length.seq);
    let next_cut =
        file.lengths.iter().find(|l| l.is_cut && l.seq > length_seq).map_or(u64::MAX, |cut| cut.seq);
    assemble(file, length, |_, versions| {
        let kept = |version: &SectorVersion| version.seq < next_cut && keep(version.seq);
        versions.iter().rposition(kept).map_or(0, |last| last + 1)
    })
}

/// The content of a file whose length is that of one version, or the durable one. `kept` says, of each sector, how many
/// versions count: the last of them is there.
fn assemble(
    file: &FileNode,
    length: Option<&LengthVersion>,
    mut kept: impl FnMut(usize, &[SectorVersion]) -> usize,
) -> Vec<u8> {
    let length_seq = length.map_or(0, |length| length.seq);
    let mut content = file.durable.clone();
    apply_cuts(&file.lengths, 0, length_seq, 0, &mut content);
    content.resize(length.map_or(file.durable.len(), |length| length.bytes), 0);
    // What lies beyond the end is lost whatever is chosen.
    for (index, versions) in file.sectors.range(..content.len().div_ceil(SECTOR_BYTES)) {
        if let Some(version) = kept(*index, versions).checked_sub(1).map(|last| &versions[last]) {
            let mut data = version.data;
            apply_cuts(&file.lengths, version.seq, length_seq, index * SECTOR_BYTES, &mut data);
            write_sector(&mut content, *index, &data);
        }
    }
    content
}

/// Numbers of the unsynced changes of a file, and 0 for none of them.
fn file_seqs(file: &FileNode) -> Vec<u64> {
    let sectors = file.sectors.values().flatten().map(|version| version.seq);
    let mut seqs: Vec<u64> = sectors.chain(file.lengths.iter().map(|length| length.seq)).chain([0]).collect();
    seqs.sort_unstable();
    seqs.dedup();
    seqs
}

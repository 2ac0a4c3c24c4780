//! The file system of a simulated disk: what its users see, and what of it a power loss would leave.
//!
//! A file keeps its durable content and, for each 512-byte sector written since, every version that the sector has had;
//! a directory keeps its durable entries and a log of the changes since. Syncing moves both forward; a crash
//! ([`super::crash`]) chooses among them.
//!
//! Always true:
//! - `durable` plus all unsynced changes in order gives `current`;
//! - `seq` rises with each change of the whole file system.

use super::super::Entry;
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Component, Path};
use std::sync::{Arc, OnceLock};

/// Bytes that a disk writes all or not at all.
pub(super) const SECTOR_BYTES: usize = 512;

/// Names a file or a directory whatever its path.
pub(super) type NodeId = u64;

/// The directory `/`, durable from the start.
pub(super) const ROOT: NodeId = 0;

/// One state of the whole file system.
#[derive(Clone)]
pub(super) struct FileSystem {
    /// Shared with images and copies until one of them changes.
    pub(super) nodes: BTreeMap<NodeId, Arc<Node>>,
    next_node: NodeId,
    seq: u64,
    /// Change number of the last completed directory sync.
    pub(super) dirs_synced_seq: u64,
}

#[derive(Clone)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// A file.
#[derive(Clone, Default)]
pub(super) struct FileNode {
    pub(super) current: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Lengths that the file has had since its last sync, oldest first.
    pub(super) lengths: Vec<LengthVersion>,
    /// Versions that each sector has had since it was last synced, oldest first.
    pub(super) sectors: BTreeMap<usize, Vec<SectorVersion>>,
    /// The hash of `current`, once somebody has asked; whoever may change the file forgets it.
    hash: OnceLock<u64>,
}

/// The file's length from one change on.
#[derive(Clone)]
pub(super) struct LengthVersion {
    pub(super) seq: u64,
    pub(super) bytes: usize,
    /// True where the file became shorter: what lay beyond reads as zeros if it grows again.
    pub(super) is_cut: bool,
}

/// A sector's content from one write on.
#[derive(Clone)]
pub(super) struct SectorVersion {
    pub(super) seq: u64,
    pub(super) data: [u8; SECTOR_BYTES],
    /// True once a sync that should have written it has failed: the next sync leaves it out.
    believed_clean: bool,
}

/// A directory.
#[derive(Clone, Default)]
pub(super) struct DirNode {
    pub(super) current: BTreeMap<String, NodeId>,
    pub(super) durable: BTreeMap<String, NodeId>,
    /// Changes since the last sync, oldest first.
    pub(super) unsynced: Vec<EntryChange>,
}

/// One change of one directory.
#[derive(Clone)]
pub(super) struct EntryChange {
    pub(super) seq: u64,
    pub(super) kind: EntryChangeKind,
    believed_clean: bool,
}

/// A rename between two directories is a `Link` in one and an `Unlink` in the other: without a sync of both, either
/// may survive alone.
#[derive(Clone)]
pub(super) enum EntryChangeKind {
    Link { name: String, node: NodeId },
    Unlink { name: String, node: NodeId },
    Move { from: String, to: String, node: NodeId },
}

impl EntryChangeKind {
    fn apply(&self, entries: &mut BTreeMap<String, NodeId>) {
        // A change that an earlier, lost one should have prepared takes away only what it meant to.
        let mut take = |name: &String, node: &NodeId| {
            if entries.get(name) == Some(node) {
                entries.remove(name);
            }
        };
        match self {
            EntryChangeKind::Link { name, node } => {
                entries.insert(name.clone(), *node);
            }
            EntryChangeKind::Unlink { name, node } => take(name, node),
            EntryChangeKind::Move { from, to, node } => {
                take(from, node);
                entries.insert(to.clone(), *node);
            }
        }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        let (first, second) = match self {
            EntryChangeKind::Link { name, .. } | EntryChangeKind::Unlink { name, .. } => (name, None),
            EntryChangeKind::Move { from, to, .. } => (from, Some(to)),
        };
        std::iter::once(first).chain(second)
    }
}

impl Node {
    /// True when a loss of power changes nothing.
    pub(super) fn is_durable(&self) -> bool {
        match self {
            Node::File(file) => file.sectors.is_empty() && file.lengths.is_empty(),
            // After a failed sync an entry may be lost that no unsynced change tells of.
            Node::Dir(dir) => dir.unsynced.is_empty() && dir.current == dir.durable,
        }
    }
}

impl FileNode {
    /// A file all of which is durable.
    pub(super) fn durable(content: Vec<u8>) -> Self {
        FileNode { current: content.clone(), durable: content, ..FileNode::default() }
    }

    /// A hash of the present content.
    pub(super) fn content_hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            self.current.hash(&mut hasher);
            hasher.finish()
        })
    }

    fn write(&mut self, seq: u64, offset: usize, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let end = offset + data.len();
        if end > self.current.len() {
            self.current.resize(end, 0);
            self.lengths.push(LengthVersion { seq, bytes: end, is_cut: false });
        }
        self.current[offset..end].copy_from_slice(data);
        for index in offset / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES {
            let version = SectorVersion { seq, data: sector_of(&self.current, index), believed_clean: false };
            self.sectors.entry(index).or_default().push(version);
        }
    }

    fn truncate(&mut self, seq: u64, bytes: usize) {
        let is_cut = bytes < self.current.len();
        self.current.resize(bytes, 0);
        self.lengths.push(LengthVersion { seq, bytes, is_cut });
    }

    /// Makes all that the kernel believes dirty durable.
    fn sync(&mut self) {
        for (index, versions) in &mut self.sectors {
            for version in versions {
                let start = index * SECTOR_BYTES;
                apply_cuts(&self.lengths, version.seq, u64::MAX, start, &mut version.data);
            }
        }
        apply_cuts(&self.lengths, 0, u64::MAX, 0, &mut self.durable);
        self.durable.resize(self.current.len(), 0);
        let (current, durable) = (&self.current, &mut self.durable);
        self.sectors.retain(|index, versions| {
            let believed_clean = versions.iter().all(|version| version.believed_clean);
            if !believed_clean {
                write_sector(durable, *index, &sector_of(current, *index));
            }
            believed_clean && index * SECTOR_BYTES < current.len()
        });
        self.lengths.clear();
    }

    /// A sync that failed: what it should have written may or may not have reached the disk, and no later sync of
    /// these sectors will write them.
    fn fail_sync(&mut self) {
        self.sectors.values_mut().flatten().for_each(|version| version.believed_clean = true);
    }

    /// Flips the bits of `mask` in one byte, wherever that byte is kept.
    fn corrupt(&mut self, offset: usize, mask: u8) {
        self.current[offset] ^= mask;
        if let Some(byte) = self.durable.get_mut(offset) {
            *byte ^= mask;
        }
        for version in self.sectors.get_mut(&(offset / SECTOR_BYTES)).into_iter().flatten() {
            version.data[offset % SECTOR_BYTES] ^= mask;
        }
    }
}

impl DirNode {
    fn change(&mut self, seq: u64, kind: EntryChangeKind) {
        kind.apply(&mut self.current);
        self.unsynced.push(EntryChange { seq, kind, believed_clean: false });
    }

    fn sync(&mut self) {
        let (lost, synced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|change| change.believed_clean);
        for change in &synced {
            change.kind.apply(&mut self.durable);
        }
        let settled = |name: &String| synced.iter().any(|change| change.kind.names().any(|n| n == name));
        self.unsynced = lost.into_iter().filter(|change| !change.kind.names().any(settled)).collect();
    }

    fn fail_sync(&mut self) {
        self.unsynced.iter_mut().for_each(|change| change.believed_clean = true);
    }

    /// Every node that the directory names now or may name after a crash.
    fn named(&self) -> impl Iterator<Item = NodeId> {
        let unsynced = self.unsynced.iter().map(|change| match change.kind {
            EntryChangeKind::Link { node, .. }
            | EntryChangeKind::Unlink { node, .. }
            | EntryChangeKind::Move { node, .. } => node,
        });
        self.current.values().chain(self.durable.values()).copied().chain(unsynced)
    }

    /// The entries after a crash that kept the changes chosen by `keep`.
    pub(super) fn surviving(&self, mut keep: impl FnMut(&EntryChange) -> bool) -> BTreeMap<String, NodeId> {
        let mut entries = self.durable.clone();
        for change in &self.unsynced {
            if keep(change) {
                change.kind.apply(&mut entries);
            }
        }
        entries
    }
}

/// Zeroes what was cut off by a truncation after `after` and up to `until`, in `data` that starts at byte `start`.
pub(super) fn apply_cuts(lengths: &[LengthVersion], after: u64, until: u64, start: usize, data: &mut [u8]) {
    for cut in lengths.iter().filter(|length| length.is_cut && length.seq > after && length.seq <= until) {
        let keep = cut.bytes.saturating_sub(start).min(data.len());
        data[keep..].fill(0);
    }
}

/// The sector `index` of `content`, filled up with zeros.
fn sector_of(content: &[u8], index: usize) -> [u8; SECTOR_BYTES] {
    let mut sector = [0; SECTOR_BYTES];
    let start = (index * SECTOR_BYTES).min(content.len());
    let end = (start + SECTOR_BYTES).min(content.len());
    sector[..end - start].copy_from_slice(&content[start..end]);
    sector
}

/// Puts a sector into `content`, as far as that reaches.
pub(super) fn write_sector(content: &mut [u8], index: usize, sector: &[u8; SECTOR_BYTES]) {
    let start = (index * SECTOR_BYTES).min(content.len());
    let end = (start + SECTOR_BYTES).min(content.len());
    content[start..end].copy_from_slice(&sector[..end - start]);
}

impl FileSystem {
    /// An empty root directory.
    pub(super) fn new() -> Self {
        let nodes = BTreeMap::from([(ROOT, Arc::new(Node::Dir(DirNode::default())))]);
        FileSystem { nodes, next_node: ROOT + 1, seq: 0, dirs_synced_seq: 0 }
    }

    /// The same file system with other nodes, none of which has an id that this one has not used.
    pub(super) fn with_nodes(&self, nodes: BTreeMap<NodeId, Arc<Node>>) -> Self {
        FileSystem { nodes, next_node: self.next_node, seq: self.seq, dirs_synced_seq: self.dirs_synced_seq }
    }

    /// Forgets the nodes that no directory names, in any state that may survive, and that are not `open`.
    pub(super) fn forget_unreachable(&mut self, open: impl Iterator<Item = NodeId>) {
        let mut kept: BTreeSet<NodeId> = open.chain([ROOT]).collect();
        let mut reached: Vec<NodeId> = kept.iter().copied().collect();
        while let Some(id) = reached.pop() {
            if let Ok(dir) = self.dir(id) {
                reached.extend(dir.named().filter(|node| kept.insert(*node)));
            }
        }
        self.nodes.retain(|id, _| kept.contains(id));
    }

    fn next_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    fn add(&mut self, parent: NodeId, name: String, node: Node) -> io::Result<NodeId> {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, Arc::new(node));
        let seq = self.next_seq();
        self.dir_mut(parent)?.change(seq, EntryChangeKind::Link { name, node: id });
        Ok(id)
    }

    /// The node at `path`.
    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut node = ROOT;
        for name in names_of(path)? {
            node = *self.dir(node)?.current.get(name).ok_or(Errno::NOENT)?;
        }
        Ok(node)
    }

    /// The directory that holds the last name of `path`, and that name; none for the root.
    fn find_parent<'p>(&self, path: &'p Path) -> io::Result<Option<(NodeId, &'p str)>> {
        let mut names = names_of(path)?;
        let Some(last) = names.pop() else { return Ok(None) };
        let mut node = ROOT;
        for name in names {
            node = *self.dir(node)?.current.get(name).ok_or(Errno::NOENT)?;
        }
        self.dir(node)?;
        Ok(Some((node, last)))
    }

    pub(super) fn dir(&self, node: NodeId) -> io::Result<&DirNode> {
        match self.nodes.get(&node).map(|node| &**node) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    fn dir_mut(&mut self, node: NodeId) -> io::Result<&mut DirNode> {
        match self.nodes.get_mut(&node).map(Arc::make_mut) {
            Some(Node::Dir(dir)) => Ok(dir),
            _ => Err(Errno::NOTDIR.into()),
        }
    }

    pub(super) fn file(&self, node: NodeId) -> io::Result<&FileNode> {
        match self.nodes.get(&node).map(|node| &**node) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(Errno::ISDIR.into()),
        }
    }

    fn file_mut(&mut self, node: NodeId) -> io::Result<&mut FileNode> {
        match self.nodes.get_mut(&node).map(Arc::make_mut) {
            Some(Node::File(file)) => {
                file.hash = OnceLock::new();
                Ok(file)
            }
            _ => Err(Errno::ISDIR.into()),
        }
    }

    fn is_dir(&self, node: NodeId) -> bool {
        self.dir(node).is_ok()
    }

    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<NodeId> {
        self.create(path, Node::File(FileNode::default()))
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        self.create(path, Node::Dir(DirNode::default())).map(|_| ())
    }

    fn create(&mut self, path: &Path, node: Node) -> io::Result<NodeId> {
        let (parent, name) = self.find_parent(path)?.ok_or(Errno::EXIST)?;
        if self.dir(parent)?.current.contains_key(name) {
            return Err(Errno::EXIST.into());
        }
        self.add(parent, name.to_owned(), node)
    }

    pub(super) fn read(&self, node: NodeId, offset: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let content = &self.file(node)?.current;
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let end = start.saturating_add(bytes).min(content.len());
        Ok(content[start..end].to_vec())
    }

    pub(super) fn write(&mut self, node: NodeId, offset: u64, data: &[u8]) -> io::Result<()> {
        let seq = self.next_seq();
        let offset = usize::try_from(offset).map_err(|_| Errno::FBIG)?;
        self.file_mut(node)?.write(seq, offset, data);
        Ok(())
    }

    pub(super) fn truncate(&mut self, node: NodeId, bytes: u64) -> io::Result<()> {
        let seq = self.next_seq();
        let bytes = usize::try_from(bytes).map_err(|_| Errno::FBIG)?;
        self.file_mut(node)?.truncate(seq, bytes);
        Ok(())
    }

    /// Syncs a file, or a directory that was opened as one.
    pub(super) fn sync_data(&mut self, node: NodeId) -> io::Result<()> {
        if self.is_dir(node) {
            return self.sync_dir_node(node);
        }
        self.file_mut(node)?.sync();
        Ok(())
    }

    pub(super) fn fail_sync_data(&mut self, node: NodeId) -> io::Result<()> {
        self.file_mut(node)?.fail_sync();
        Ok(())
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        self.sync_dir_node(node)
    }

    fn sync_dir_node(&mut self, node: NodeId) -> io::Result<()> {
        self.dir_mut(node)?.sync();
        self.dirs_synced_seq = self.seq;
        Ok(())
    }

    pub(super) fn fail_sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let node = self.find(path)?;
        self.dir_mut(node)?.fail_sync();
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path, want_dir: bool) -> io::Result<()> {
        let (parent, name) = self.find_parent(path)?.ok_or(Errno::BUSY)?;
        let node = *self.dir(parent)?.current.get(name).ok_or(Errno::NOENT)?;
        match (want_dir, self.is_dir(node)) {
            (false, true) => return Err(Errno::ISDIR.into()),
            (true, false) => return Err(Errno::NOTDIR.into()),
            (true, true) if !self.dir(node)?.current.is_empty() => return Err(Errno::NOTEMPTY.into()),
            _ => {}
        }
        let seq = self.next_seq();
        self.dir_mut(parent)?.change(seq, EntryChangeKind::Unlink { name: name.to_owned(), node });
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.find_parent(from)?.ok_or(Errno::BUSY)?;
        let (to_dir, to_name) = self.find_parent(to)?.ok_or(Errno::BUSY)?;
        let node = *self.dir(from_dir)?.current.get(from_name).ok_or(Errno::NOENT)?;
        let moves_dir = self.is_dir(node);
        let (from_names, to_names) = (names_of(from)?, names_of(to)?);
        if to_names.len() > from_names.len() && to_names.starts_with(&from_names) {
            return Err(Errno::INVAL.into());
        }
        if from_names.len() > to_names.len() && from_names.starts_with(&to_names) {
            return Err(Errno::NOTEMPTY.into());
        }
        match self.dir(to_dir)?.current.get(to_name).copied() {
            Some(target) if target == node => return Ok(()),
            Some(target) => match (moves_dir, self.is_dir(target)) {
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, false) => return Err(Errno::NOTDIR.into()),
                (true, true) if !self.dir(target)?.current.is_empty() => return Err(Errno::NOTEMPTY.into()),
                _ => {}
            },
            None => {}
        }
        let seq = self.next_seq();
        let (from, to) = (from_name.to_owned(), to_name.to_owned());
        if from_dir == to_dir {
            self.dir_mut(from_dir)?.change(seq, EntryChangeKind::Move { from, to, node });
        } else {
            self.dir_mut(to_dir)?.change(seq, EntryChangeKind::Link { name: to, node });
            self.dir_mut(from_dir)?.change(seq, EntryChangeKind::Unlink { name: from, node });
        }
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let dir = self.dir(self.find(path)?)?;
        let entry = |(name, node): (&String, &NodeId)| match self.file(*node) {
            Ok(file) => Entry { name: name.clone(), is_dir: false, bytes: file.current.len() as u64 },
            Err(_) => Entry { name: name.clone(), is_dir: true, bytes: 0 },
        };
        Ok(dir.current.iter().map(entry).collect())
    }

    pub(super) fn corrupt(&mut self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        let node = self.find(path)?;
        let file = self.file_mut(node)?;
        let offset = usize::try_from(offset).ok().filter(|offset| *offset < file.current.len());
        file.corrupt(offset.ok_or(Errno::INVAL)?, mask);
        Ok(())
    }
}

/// The names along a path. Relative paths start at the root; `..` is refused, since nothing here needs it.
fn names_of(path: &Path) -> io::Result<Vec<&str>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str().ok_or(Errno::INVAL)?),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(Errno::INVAL.into()),
        }
    }
    if path.as_os_str().is_empty() { Err(Errno::NOENT.into()) } else { Ok(names) }
}

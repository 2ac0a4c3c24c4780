//! Looks at what a power loss may leave of a disk: every image where they are few, else those that show most, and samples.
//!
//! Always true:
//! - an image that was seen before is not shown again;
//! - equal seeds show equal images, in the same order.
//!
//! Where there are more than [`Exploration::exhaustive`]: nothing survives; all does; every prefix of the changes, as they were
//! made and as a journal orders them; each change alone is lost; each change alone survives; and seeded samples, torn at
//! sectors of 512 bytes and at pages of 4 KiB.

use super::crash::{self, Chooser, Seeded};
use super::model::{FileSystem, NodeId, ROOT};
use super::{CrashProfile, SimDisk};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug)]
pub struct Exploration {
    /// Up to so many images are looked at one after another, all of them.
    pub exhaustive: usize,
    /// Else so many images are drawn.
    pub samples: u64,
    /// Decides which ones.
    pub seed: u64,
}

impl Exploration {
    /// All of up to 4,096 images, else 10,000 samples.
    pub fn thorough(seed: u64) -> Self {
        Exploration { exhaustive: 4_096, samples: 10_000, seed }
    }
}

/// What [`SimDisk::explore`] has looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Explored {
    /// Images, those that were seen before included.
    pub images: u64,
    /// Images that were shown.
    pub distinct: u64,
    /// All images there are were looked at.
    pub exhausted: bool,
}

/// Images by their hashes.
#[derive(Default)]
pub struct Seen(HashSet<u64>);

impl Seen {
    /// Forgets nothing: how many images were shown.
    pub fn count(&self) -> u64 {
        self.0.len() as u64
    }
}

impl SimDisk {
    /// Shows to `each` what a power loss at this moment may leave, with words that say how it came about. `context` is what
    /// makes equal images count as different, such as what an oracle expects of them. The disk itself goes on unharmed.
    pub fn explore(
        &self,
        exploration: Exploration,
        context: &impl Hash,
        seen: &mut Seen,
        mut each: impl FnMut(&Arc<SimDisk>, &str),
    ) -> Explored {
        let mut explored = Explored::default();
        let mut show = |explored: &mut Explored, image: Arc<SimDisk>, how: &dyn Fn() -> String| {
            explored.images += 1;
            if seen.0.insert(image.fingerprint(context)) {
                explored.distinct += 1;
                each(&image, &how());
            }
        };
        let mut images = Vec::new();
        explored.exhausted =
            self.each_crash_image(CrashProfile::Weak, exploration.exhaustive, |image| images.push(image));
        if explored.exhausted {
            for (which, image) in images.into_iter().enumerate() {
                show(&mut explored, image, &|| format!("image {which} of all"));
            }
            return explored;
        }
        drop(images);
        // What was asked for and not answered counts as changes like those that were.
        let fs = self.lock().crashed_keeping_requests();
        let seqs = crash::changes(&fs);
        let mut show_kept = |how: String, keep: &dyn Fn(u64) -> bool| {
            let image = Arc::new(SimDisk::holding(crash::image_of(&fs, keep)));
            show(&mut explored, image, &|| how.clone());
        };
        show_kept("nothing survives".to_owned(), &|_| false);
        show_kept("all survives".to_owned(), &|_| true);
        for change in &seqs {
            show_kept(format!("all up to change {change} survives"), &|seq| seq <= *change);
            show_kept(format!("change {change} is lost alone"), &|seq| seq != *change);
            show_kept(format!("change {change} survives alone"), &|seq| seq == *change);
        }
        for sample in 0..exploration.samples {
            let profile =
                [CrashProfile::Weak, CrashProfile::WeakPages, CrashProfile::Prefix][(sample % 3) as usize];
            let seed = Seeded(exploration.seed).choose(usize::MAX) as u64 ^ sample;
            show(&mut explored, self.crash_image(profile, seed), &|| format!("{profile:?} by seed {seed}"));
        }
        explored
    }

    /// Equal for disks that hold the same names and bytes, where `context` is equal too.
    pub fn fingerprint(&self, context: &impl Hash) -> u64 {
        let mut hasher = DefaultHasher::new();
        context.hash(&mut hasher);
        hash_dir(&self.lock().fs, ROOT, &mut hasher);
        hasher.finish()
    }
}

/// Adds the names below a directory, in order, and what lies there.
fn hash_dir(fs: &FileSystem, dir: NodeId, hasher: &mut impl Hasher) {
    let Ok(dir) = fs.dir(dir) else { return };
    dir.current.len().hash(hasher);
    for (name, node) in &dir.current {
        name.hash(hasher);
        match fs.file(*node) {
            Ok(file) => file.content_hash().hash(hasher),
            Err(_) => hash_dir(fs, *node, hasher),
        }
    }
}

//! Damaged files: each byte changed, files missing, cut, extended and exchanged. A store refuses them by name, or shows that
//! what changed was of no use; it never panics, holds anything else, or deletes what might help.

use super::support::*;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use thalweg_storage::StoreError;
use thalweg_storage::io::{CrashProfile, DiskHandle, SimDisk};
use thalweg_storage::store::BackendChoice;

const BACKENDS: [BackendChoice; 2] = [BackendChoice::HashMap, BackendChoice::Log];

/// A small store, closed, with everything that files are made of: two retained checkpoints that share segments, tombstones,
/// rows of fixed and of changing length.
struct Victim {
    flavor: Flavor,
    disk: Arc<SimDisk>,
    files: Vec<PathBuf>,
    model: Model,
}

impl Victim {
    fn new(backend: BackendChoice) -> Self {
        let flavor = Flavor { backend, memory_bytes: None, retained: 2 };
        let disk = new_disk();
        let mut store = open(disk.clone(), flavor).unwrap();
        let (oracle, mut random) = (Mutex::new(Oracle::default()), Random(3));
        let mut model = Model::default();
        for i in 0..24 {
            store.tables().counts.insert(&i, i);
            store.tables().names.insert(&i.to_string(), "x".repeat(i as usize));
            model.counts.insert(i, i);
            model.names.insert(i.to_string(), "x".repeat(i as usize));
        }
        take_checkpoint(&mut store, &mut model, &oracle, &mut random, None).unwrap();
        for i in 0..6 {
            store.tables().counts.remove(&i);
            store.tables().names.insert(&i.to_string(), "changed".to_owned());
            model.counts.remove(&i);
            model.names.insert(i.to_string(), "changed".to_owned());
            if i % 2 == 1 {
                take_checkpoint(&mut store, &mut model, &oracle, &mut random, None).unwrap();
            }
        }
        drop(store);
        check_leaks(&disk, &String::new);
        let files: Vec<_> = disk.files().into_iter().filter(|path| path.starts_with(JOB_DIR)).collect();
        let segments = files.iter().filter(|path| !path.ends_with("MANIFEST")).count();
        assert!(segments >= 3 && files.len() - segments == 2, "{files:?}");
        Victim { flavor, disk, files, model }
    }

    /// A copy of the disk, after `damage`.
    fn damaged(&self, damage: impl FnOnce(&SimDisk)) -> Arc<SimDisk> {
        let copy = self.disk.crash_image(CrashProfile::KeepAll, 0);
        damage(&copy);
        copy
    }

    /// Opens a damaged copy: true when that was refused with a path out of `damaged`, false when the store is whole.
    fn is_refused(&self, copy: &Arc<SimDisk>, damaged: &[&Path], what: &dyn Fn() -> String) -> bool {
        let before: BTreeSet<_> = copy.files().into_iter().collect();
        match open(copy.clone(), self.flavor) {
            Ok(mut store) => {
                assert!(content(&mut store) == self.model, "it is not what was stored: {}", what());
                false
            }
            Err(error) => {
                let text = error.to_string();
                let named = damaged.iter().any(|path| text.contains(&path.display().to_string()));
                assert!(named, "{text:?} does not name {damaged:?}: {}", what());
                let after: BTreeSet<_> = copy.files().into_iter().collect();
                assert!(before.is_subset(&after), "a refused store deletes nothing: {}", what());
                true
            }
        }
    }
}

fn newest_manifest(victim: &Victim) -> PathBuf {
    let id = |path: &&PathBuf| -> u64 {
        let dir = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap();
        dir.strip_prefix("chk-").unwrap().parse().unwrap()
    };
    victim.files.iter().filter(|path| path.ends_with("MANIFEST")).max_by_key(id).unwrap().clone()
}

#[test]
fn any_changed_byte_of_any_file_is_refused_or_of_no_use() {
    for backend in BACKENDS {
        let victim = Victim::new(backend);
        let manifest = newest_manifest(&victim);
        let needed: BTreeSet<PathBuf> = manifests(&victim.disk)
            .into_iter()
            .filter(|(path, _)| *path == manifest)
            .flat_map(|(_, manifest)| {
                manifest.files().map(|file| Path::new(JOB_DIR).join(file)).collect::<Vec<_>>()
            })
            .chain([manifest.clone()])
            .collect();
        let (mut bytes, mut refused, mut unused) = (0, 0, 0);
        for path in &victim.files {
            for (offset, byte) in victim.disk.read_file(path).unwrap().into_iter().enumerate() {
                bytes += 1;
                let flipped = 1 << (offset % 8);
                for mask in BTreeSet::from([flipped, byte, !byte]).into_iter().filter(|mask| *mask != 0) {
                    let what =
                        || format!("{backend:?}: {} at {offset} changed by {mask:02x}", path.display());
                    let copy = victim.damaged(|disk| disk.corrupt(path, offset as u64, mask).unwrap());
                    if victim.is_refused(&copy, &[path], &what) {
                        refused += 1;
                    } else {
                        assert!(!needed.contains(path), "a file of the latest checkpoint: {}", what());
                        unused += 1;
                    }
                }
            }
        }
        println!(
            "{backend:?}: {bytes} bytes, {refused} changes refused, {unused} in files of older checkpoints"
        );
        assert!(refused > 3_000 && unused > 100);
    }
}

/// Gives a file other content.
fn replace(disk: &SimDisk, copy: &DiskHandle, path: &Path, content: &[u8]) {
    assert!(disk.read_file(path).is_ok());
    copy.remove(path).wait().unwrap();
    copy.write_file_durable(path, content).unwrap();
}

#[test]
fn files_that_are_missing_cut_extended_or_zeroed_are_refused_by_name() {
    for backend in BACKENDS {
        let victim = Victim::new(backend);
        let manifest = newest_manifest(&victim);
        let (_, listed) = manifests(&victim.disk).into_iter().find(|(path, _)| *path == manifest).unwrap();
        let segments = listed.files().map(|file| Path::new(JOB_DIR).join(file));
        for path in segments.chain([manifest]) {
            let whole = victim.disk.read_file(&path).unwrap();
            let mut changes: Vec<(&str, Option<Vec<u8>>)> = vec![
                ("extended", Some([&whole[..], &[0]].concat())),
                ("doubled", Some([&whole[..], &whole[..]].concat())),
                ("zeroed", Some(vec![0; whole.len()])),
            ];
            changes.extend((0..whole.len()).step_by(7).map(|cut| ("cut", Some(whole[..cut].to_vec()))));
            if !path.ends_with("MANIFEST") {
                // Without its manifest the checkpoint would not exist.
                changes.push(("missing", None));
            }
            for (name, content) in changes {
                let copy = victim.damaged(|_| {});
                let handle = DiskHandle::new(copy.clone());
                match &content {
                    Some(content) => replace(&copy, &handle, &path, content),
                    None => handle.remove(&path).wait().unwrap(),
                }
                let what = || format!("{backend:?}: {} {name}", path.display());
                assert!(victim.is_refused(&copy, &[&path], &what), "{}", what());
            }
        }
    }
}

#[test]
fn files_in_the_place_of_others_are_refused_by_name() {
    for backend in BACKENDS {
        let victim = Victim::new(backend);
        let mut refused = 0;
        for a in &victim.files {
            for b in victim.files.iter().filter(|b| *b != a) {
                let copy = victim.damaged(|_| {});
                let handle = DiskHandle::new(copy.clone());
                replace(&copy, &handle, a, &victim.disk.read_file(b).unwrap());
                replace(&copy, &handle, b, &victim.disk.read_file(a).unwrap());
                let what = || format!("{backend:?}: {} and {} exchanged", a.display(), b.display());
                refused += usize::from(victim.is_refused(&copy, &[a, b], &what));
            }
        }
        assert!(refused > 0, "{backend:?}");
    }
}

#[test]
fn damage_that_comes_while_a_store_larger_than_memory_runs_is_reported_by_the_batch_that_meets_it() {
    let disk = new_disk();
    let flavor = Flavor { backend: BackendChoice::Log, memory_bytes: Some(4 << 10), retained: 1 };
    let mut store = open(disk.clone(), flavor).unwrap();
    let keys: Vec<u64> = (0..5_000).collect();
    store.tables().counts.update_batch(&keys, |i| i as u64, |_, _| {}).unwrap();
    store.checkpoint().unwrap();
    drop(store);
    let mut store = open(disk.clone(), flavor).unwrap();
    let segments = disk.files().into_iter().filter(|path| path.starts_with("/data/store/shared"));
    for path in segments {
        // Files that are open already are as damaged.
        let bytes = disk.read_file(&path).unwrap().len() as u64;
        (0..bytes).step_by(16).for_each(|at| disk.corrupt(&path, at, 0x40).unwrap());
    }
    let mut right = 0;
    let read = store.tables().counts.read_batch(&keys, |i, value| {
        assert_eq!(value, Some(&(i as u64)), "what is returned is right");
        right += 1;
    });
    match read {
        Err(StoreError::Corrupt { path, .. }) => assert!(path.starts_with(JOB_DIR), "{}", path.display()),
        other => panic!("{other:?} after {right} keys"),
    }
}

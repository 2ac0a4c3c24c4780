//! What a power loss may leave, and what it must.

use super::*;
use crate::io::DiskHandle;
use proptest::prelude::*;
use std::collections::BTreeSet;

const SEEDS: std::ops::Range<u64> = 0..200;
const PROFILES: [CrashProfile; 5] = [
    CrashProfile::LoseAll,
    CrashProfile::KeepAll,
    CrashProfile::Prefix,
    CrashProfile::Weak,
    CrashProfile::WeakPages,
];

fn disk() -> (Arc<SimDisk>, DiskHandle) {
    let disk = SimDisk::new();
    (disk.clone(), DiskHandle::new(disk))
}

/// Opens a new file whose name is durable.
fn durable_name(handle: &DiskHandle, path: &str) -> FileId {
    let file = handle.open(path, OpenMode::CreateNew).wait().expect("new");
    handle.sync_dir("/").wait().expect("synced");
    file
}

fn write(handle: &DiskHandle, file: FileId, offset: u64, data: Vec<u8>) {
    handle.write(file, offset, data).wait().expect("written");
}

fn images(disk: &SimDisk, profile: CrashProfile) -> impl Iterator<Item = Arc<SimDisk>> {
    SEEDS.map(move |seed| disk.crash_image(profile, seed))
}

/// The different contents of `path` over all seeds; none where the file is gone.
fn outcomes(disk: &SimDisk, profile: CrashProfile, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    images(disk, profile).map(|image| image.read_file(path).ok()).collect()
}

#[test]
fn unsynced_data_may_be_lost_kept_or_torn_between_sectors() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 1024]);
    let seen = outcomes(&disk, CrashProfile::Weak, "/a");
    let torn = [vec![0; 512], vec![1; 512]].concat();
    let other_half = [vec![1; 512], vec![0; 512]].concat();
    let expected = [vec![], vec![0; 1024], vec![1; 1024], torn, other_half].map(Some);
    assert_eq!(seen, BTreeSet::from(expected), "length and both sectors survive each on its own");
}

#[test]
fn synced_data_survives_every_crash() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 3000]);
    handle.sync_data(file).wait().expect("synced");
    for profile in PROFILES {
        assert_eq!(outcomes(&disk, profile, "/a"), BTreeSet::from([Some(vec![1; 3000])]), "{profile:?}");
    }
}

#[test]
fn a_sector_is_left_as_it_was_at_some_moment_never_mixed() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 512]);
    handle.sync_data(file).wait().expect("synced");
    write(&handle, file, 0, vec![2; 256]);
    write(&handle, file, 256, vec![3; 256]);
    let first = [vec![2; 256], vec![1; 256]].concat();
    let both = [vec![2; 256], vec![3; 256]].concat();
    let expected = BTreeSet::from([vec![1; 512], first, both].map(Some));
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), expected);
    assert_eq!(outcomes(&disk, CrashProfile::Prefix, "/a"), expected);
}

#[test]
fn a_synced_file_without_a_synced_name_may_vanish() {
    let (disk, handle) = disk();
    handle.write_file_durable("/a", b"abc").expect("new");
    let expected = BTreeSet::from([None, Some(b"abc".to_vec())]);
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), expected);
    handle.sync_dir("/").wait().expect("synced");
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), BTreeSet::from([Some(b"abc".to_vec())]));
}

#[test]
fn a_rename_is_durable_only_after_its_directory_was_synced() {
    let (disk, handle) = disk();
    handle.write_file_durable("/MANIFEST", b"old").expect("new");
    handle.write_file_durable("/tmp", b"new").expect("new");
    handle.sync_dir("/").wait().expect("synced");
    handle.rename("/tmp", "/MANIFEST").wait().expect("renamed");
    let either = BTreeSet::from([Some(b"old".to_vec()), Some(b"new".to_vec())]);
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/MANIFEST"), either);
    assert_eq!(outcomes(&disk, CrashProfile::Prefix, "/MANIFEST"), either);
    for image in images(&disk, CrashProfile::Weak) {
        let is_old = image.read_file("/MANIFEST").expect("never absent") == b"old";
        assert_eq!(image.read_file("/tmp").is_ok(), is_old, "a rename survives whole or not at all");
    }
    handle.sync_dir("/").wait().expect("synced");
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/MANIFEST"), BTreeSet::from([Some(b"new".to_vec())]));
}

#[test]
fn a_rename_may_survive_without_the_data_of_its_file() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/tmp");
    write(&handle, file, 0, b"new".to_vec());
    handle.rename("/tmp", "/MANIFEST").wait().expect("renamed");
    for profile in [CrashProfile::Weak, CrashProfile::Prefix] {
        assert!(outcomes(&disk, profile, "/MANIFEST").contains(&Some(vec![])), "{profile:?}");
    }
}

#[test]
fn a_rename_between_directories_may_survive_in_either_alone() {
    let (disk, handle) = disk();
    handle.create_dir_all("/a").expect("created");
    handle.create_dir_all("/b").expect("created");
    handle.write_file_durable("/a/f", b"x").expect("new");
    handle.sync_dir("/a").wait().expect("synced");
    handle.rename("/a/f", "/b/f").wait().expect("renamed");
    let seen = |profile| -> BTreeSet<(bool, bool)> {
        images(&disk, profile).map(|i| (i.read_file("/a/f").is_ok(), i.read_file("/b/f").is_ok())).collect()
    };
    assert_eq!(seen(CrashProfile::Weak).len(), 4);
    assert_eq!(seen(CrashProfile::Prefix), BTreeSet::from([(true, false), (false, true)]));
}

#[test]
fn the_prefix_profile_keeps_directory_changes_in_order() {
    let (disk, handle) = disk();
    handle.create_dir_all("/d").expect("created");
    for (index, path) in ["/a", "/d/b", "/c", "/d/e"].into_iter().enumerate() {
        assert_eq!(disk.files().len(), index);
        handle.open(path, OpenMode::CreateNew).wait().expect("new");
    }
    let seen: BTreeSet<Vec<bool>> = images(&disk, CrashProfile::Prefix)
        .map(|image| ["/a", "/d/b", "/c", "/d/e"].map(|path| image.read_file(path).is_ok()).to_vec())
        .collect();
    let expected = (0..=4).map(|kept| (0..4).map(|index| index < kept).collect()).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_truncation_is_lost_or_kept_whole_and_never_uncovers_old_bytes() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 1024]);
    handle.sync_data(file).wait().expect("synced");
    handle.truncate(file, 100).wait().expect("shorter");
    let expected = BTreeSet::from([vec![1; 1024], vec![1; 100]].map(Some));
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), expected);
    handle.truncate(file, 600).wait().expect("longer");
    let mut grown = vec![1; 100];
    grown.resize(600, 0);
    let expected = BTreeSet::from([vec![1; 1024], vec![1; 100], grown.clone()].map(Some));
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), expected);
    handle.sync_data(file).wait().expect("synced");
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), BTreeSet::from([Some(grown)]));
}

#[test]
fn what_was_written_after_a_truncation_is_not_there_without_it() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 512]);
    handle.sync_data(file).wait().expect("synced");
    handle.truncate(file, 0).wait().expect("shorter");
    write(&handle, file, 0, vec![2; 100]);
    let expected = BTreeSet::from([vec![1; 512], vec![], vec![0; 100], vec![2; 100]].map(Some));
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), expected);
}

#[test]
fn what_a_failed_sync_left_behind_is_not_written_by_the_next_one() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 1024]);
    disk.fail_next(OpKind::SyncData, Fault::Io);
    assert_eq!(handle.sync_data(file).wait().expect_err("injected").raw_os_error(), Some(5));
    let poisoned = handle.write(file, 0, vec![2]).wait().expect_err("poisoned");
    assert!(poisoned.to_string().contains("earlier sync"), "{poisoned}");
    assert!(handle.sync_data(file).wait().is_err() && handle.read(file, 0, 1).wait().is_err());
    handle.close(file).wait().expect("a poisoned file can be closed");

    let again = handle.open("/a", OpenMode::ReadWrite).wait().expect("there");
    write(&handle, again, 512, vec![2; 512]);
    handle.sync_data(again).wait().expect("the kernel believes all clean");
    let expected = BTreeSet::from([[[0; 512], [2; 512]].concat(), [[1; 512], [2; 512]].concat()].map(Some));
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), expected, "only what was written anew is durable");
}

#[test]
fn a_truncation_cuts_what_a_failed_sync_left_in_doubt() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 512]);
    disk.fail_next(OpKind::SyncData, Fault::Io);
    assert!(handle.sync_data(file).wait().is_err());
    let again = handle.open("/a", OpenMode::ReadWrite).wait().expect("there");
    handle.truncate(again, 100).wait().expect("shorter");
    handle.truncate(again, 512).wait().expect("longer");
    handle.sync_data(again).wait().expect("the kernel believes all clean");
    let cut = [[1; 100].as_slice(), &[0; 412]].concat();
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a"), BTreeSet::from([vec![0; 512], cut].map(Some)));
}

#[test]
fn a_failed_directory_sync_leaves_its_names_in_doubt() {
    let (disk, handle) = disk();
    handle.write_file_durable("/a", b"x").expect("new");
    disk.fail_next(OpKind::SyncDir, Fault::Io);
    assert!(handle.sync_dir("/").wait().is_err());
    handle.write_file_durable("/b", b"x").expect("new");
    handle.sync_dir("/").wait().expect("the next one succeeds");
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/a").len(), 2);
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/b").len(), 1);
    handle.rename("/a", "/c").wait().expect("renamed");
    handle.sync_dir("/").wait().expect("synced");
    assert_eq!(
        outcomes(&disk, CrashProfile::Weak, "/a"),
        BTreeSet::from([None]),
        "a later change settles it"
    );
    assert_eq!(outcomes(&disk, CrashProfile::Weak, "/c"), BTreeSet::from([Some(b"x".to_vec())]));
}

#[test]
fn a_full_disk_refuses_a_write_and_changes_nothing() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    disk.fail_after(OpKind::Write, 1, Fault::NoSpace);
    write(&handle, file, 0, b"abc".to_vec());
    let error = handle.write(file, 0, b"xyz".to_vec()).wait().expect_err("injected");
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.read_file("/a").expect("there"), b"abc");
    write(&handle, file, 0, b"xyz".to_vec());
}

#[test]
fn a_disk_that_is_full_for_a_while_refuses_whatever_grows_and_nothing_else() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, b"abc".to_vec());
    disk.set_full(true);
    let is_full = |answer: io::Result<()>| answer.is_err_and(|e| e.kind() == io::ErrorKind::StorageFull);
    assert!(is_full(handle.write(file, 2, b"xy".to_vec()).wait().map(drop)));
    assert!(is_full(handle.open("/b", OpenMode::CreateNew).wait().map(drop)));
    assert!(is_full(handle.create_dir("/dir").wait()));
    write(&handle, file, 0, b"xyz".to_vec());
    handle.sync_data(file).wait().expect("nothing grows");
    handle.rename("/a", "/c").wait().expect("nothing grows");
    assert_eq!(disk.met_faults().values().sum::<u64>(), 3);
    disk.set_full(false);
    write(&handle, file, 3, b"!".to_vec());
    assert_eq!(disk.read_file("/c").expect("there"), b"xyz!");
}

#[test]
fn a_read_that_finds_the_end_too_early_gives_half_and_the_next_gives_all() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, b"abcdef".to_vec());
    disk.fail_next(OpKind::Read, Fault::Short);
    assert_eq!(handle.read(file, 0, 6).wait().expect("short"), b"abc");
    assert_eq!(handle.read(file, 0, 6).wait().expect("whole"), b"abcdef");
    assert_eq!(disk.met_faults(), BTreeMap::from([((OpKind::Read, Fault::Short), 1)]));
}

#[test]
fn a_torn_write_stops_the_machine_with_half_of_its_sectors_written() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    disk.fail_next(OpKind::Write, Fault::Torn);
    write(&handle, file, 0, vec![1; 512]);
    assert_eq!((disk.armed_faults(), disk.has_stopped()), (1, false), "one sector cannot be torn");
    handle.write(file, 500, vec![2; 1_000]).wait().expect_err("torn");
    handle.write(file, 0, vec![3; 1]).wait().expect_err("stopped");
    assert!(disk.has_stopped());
    disk.crash_with(CrashProfile::KeepAll, 0);
    assert!(!disk.has_stopped());
    assert_eq!(disk.read_file("/a").expect("there"), [vec![1; 500], vec![2; 12]].concat());
}

#[test]
fn deferred_requests_take_effect_in_the_order_they_are_picked() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    disk.set_deferred(true);
    let mut first = handle.write(file, 0, b"first".to_vec());
    let mut synced = handle.sync_data(file);
    let mut second = handle.write(file, 0, b"other".to_vec());
    assert_eq!(disk.pending(), [OpKind::Write, OpKind::SyncData, OpKind::Write]);
    assert!(first.poll().is_none() && synced.poll().is_none() && second.poll().is_none());
    assert!(disk.complete_next(2), "the second write goes first");
    assert!(disk.complete_next(1), "then the sync, which so misses the first write");
    assert!(second.poll().is_some() && synced.poll().is_some() && first.poll().is_none());
    assert!(!disk.complete_next(1));
    assert_eq!(disk.crash_image(CrashProfile::LoseAll, 0).read_file("/a").expect("there"), b"other");
    disk.complete_all();
    assert!(matches!(first.poll(), Some(Ok(_))));
    assert_eq!(disk.read_file("/a").expect("there"), b"first");
}

#[test]
fn a_waiting_request_may_have_happened_when_power_is_lost_and_is_never_answered() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    disk.set_deferred(true);
    let mut written = handle.write(file, 0, b"abc".to_vec());
    let seen = outcomes(&disk, CrashProfile::Weak, "/a");
    assert!(seen.contains(&Some(b"abc".to_vec())) && seen.contains(&Some(Vec::new())), "{seen:?}");
    disk.crash(1);
    assert!(written.poll().is_none() && disk.pending().is_empty());
    let error = handle.length(file).wait().expect_err("open files do not survive");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_stopped_disk_fails_everything_until_it_crashes() {
    let (disk, handle) = disk();
    disk.stop_after(3);
    let answer = handle.write_file_durable("/a", b"abc");
    assert!(answer.expect_err("stopped before the close").to_string().contains("stopped"));
    let kinds: Vec<_> = disk.op_log().into_iter().map(|op| (op.kind, op.ok)).collect();
    assert_eq!(kinds, [(OpKind::Open, true), (OpKind::Write, true), (OpKind::SyncData, true)]);
    assert_eq!((disk.op_count(), disk.op_log()[1].path.as_path()), (3, Path::new("/a")));
    disk.crash_with(CrashProfile::KeepAll, 0);
    assert_eq!(disk.op_count(), 0);
    assert_eq!(handle.read_file("/a").expect("runs again"), b"abc");
}

#[test]
fn directories_created_with_their_parents_survive() {
    let (disk, handle) = disk();
    handle.create_dir("/a").wait().expect("created, by a process that died before syncing");
    handle.create_dir_all("/a/b/c").expect("created");
    handle.write_file_durable("/a/b/c/f", b"x").expect("new");
    handle.sync_dir("/a/b/c").wait().expect("synced");
    assert_eq!(outcomes(&disk, CrashProfile::LoseAll, "/a/b/c/f"), BTreeSet::from([Some(b"x".to_vec())]));
}

#[test]
fn bit_rot_changes_one_byte_on_the_disk_and_in_memory() {
    let (disk, handle) = disk();
    handle.write_file_durable("/a", &[0; 1000]).expect("new");
    handle.sync_dir("/").wait().expect("synced");
    disk.corrupt("/a", 700, 0x81).expect("within the file");
    let mut expected = vec![0; 1000];
    expected[700] = 0x81;
    assert_eq!(handle.read_file("/a").expect("there"), expected);
    assert_eq!(disk.crash_image(CrashProfile::LoseAll, 0).read_file("/a").expect("there"), expected);
    assert_eq!(disk.corrupt("/a", 1000, 1).expect_err("beyond").kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn a_second_crash_takes_nothing_more() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 5000]);
    handle.open("/b", OpenMode::CreateNew).wait().expect("new");
    for image in images(&disk, CrashProfile::Weak) {
        let before = (image.files(), image.read_file("/a").expect("there"));
        image.crash_with(CrashProfile::LoseAll, 0);
        assert_eq!((image.files(), image.read_file("/a").expect("there")), before);
    }
}

#[test]
fn all_images_in_turn_include_every_one_that_seeds_find() {
    let (disk, handle) = disk();
    let file = handle.open("/f", OpenMode::CreateNew).wait().unwrap();
    write(&handle, file, 0, vec![1; 700]);
    write(&handle, file, 600, vec![2; 700]);
    for profile in PROFILES {
        let mut found = BTreeSet::new();
        assert!(disk.each_crash_image(profile, 10_000, |image| _ = found.insert(image.read_file("/f").ok())));
        let of_seeds = outcomes(&disk, profile, "/f");
        assert!(
            of_seeds.is_subset(&found),
            "{profile:?}: seeds find {}, all are {}",
            of_seeds.len(),
            found.len()
        );
        if matches!(profile, CrashProfile::Prefix | CrashProfile::Weak) {
            assert!(found.contains(&None), "{profile:?}: the name may be lost");
            assert!(
                found.iter().flatten().any(|content| content.len() == 1_300),
                "{profile:?}: all may be kept"
            );
        }
    }
    let mut count = 0;
    assert!(!disk.each_crash_image(CrashProfile::Weak, 5, |_| count += 1));
    assert_eq!(count, 5);
}

#[test]
fn what_is_durable_multiplies_no_images() {
    let (disk, handle) = disk();
    for number in 0..20 {
        handle.write_file_durable(format!("/{number}"), &[1; 700]).expect("new");
    }
    handle.sync_dir("/").wait().expect("synced");
    let file = handle.open("/f", OpenMode::CreateNew).wait().unwrap();
    write(&handle, file, 0, vec![1; 100]);
    let mut images = 0;
    assert!(disk.each_crash_image(CrashProfile::Weak, 10, |_| images += 1));
    // No name; or a name and no length, a length and no content, both.
    assert_eq!(images, 4);
}

#[test]
fn removed_files_do_not_fill_the_memory() {
    let (disk, handle) = disk();
    for _ in 0..500 {
        handle.write_file_durable("/a", &[1; 100]).expect("new");
        handle.sync_dir("/").wait().expect("synced");
        handle.remove("/a").wait().expect("there");
        handle.sync_dir("/").wait().expect("synced");
    }
    assert!(disk.lock().fs.nodes.len() <= 64);
}

/// A step of a random workload on a few files.
#[derive(Clone, Debug)]
enum Step {
    Write { file: usize, offset: u64, bytes: usize, value: u8 },
    Truncate { file: usize, bytes: u64 },
    Sync { file: usize },
    FailSync { file: usize },
    Rename { from: usize, to: usize },
    Remove { file: usize },
    SyncDir,
}

const FILES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let file = 0..FILES;
    prop_oneof![
        5 => (file.clone(), 0u64..2500, 0usize..1500, 1u8..).prop_map(|(file, offset, bytes, value)| Step::Write {
            file, offset, bytes, value
        }),
        1 => (file.clone(), 0u64..3000).prop_map(|(file, bytes)| Step::Truncate { file, bytes }),
        2 => file.clone().prop_map(|file| Step::Sync { file }),
        1 => file.clone().prop_map(|file| Step::FailSync { file }),
        1 => (file.clone(), file.clone()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => file.prop_map(|file| Step::Remove { file }),
        2 => Just(Step::SyncDir),
    ]
}

/// What is known of one file, by its identity, not by its name.
#[derive(Clone, Default)]
struct Known {
    content: Vec<u8>,
    /// Nothing was changed since the last sync.
    synced: bool,
    /// A sync failed, so nothing is known until the file is replaced.
    doubtful: bool,
    /// Every content since the last sync, the synced one included; none once a truncation came in between.
    history: Option<Vec<Vec<u8>>>,
}

/// A second, much simpler account of the workload.
struct Account {
    files: Vec<Known>,
    /// Which file has which name now, and at the last directory sync.
    names: [Option<usize>; FILES],
    durable_names: [Option<usize>; FILES],
    /// Names changed since the last directory sync.
    touched: [bool; FILES],
}

fn path(name: usize) -> String {
    format!("/f{name}")
}

fn run(disk: &SimDisk, handle: &DiskHandle, steps: &[Step]) -> Account {
    let mut account = Account {
        files: Vec::new(),
        names: [None; FILES],
        durable_names: [None; FILES],
        touched: [false; FILES],
    };
    for step in steps {
        match *step {
            Step::Write { file: name, offset, bytes, value } => {
                let mode =
                    if account.names[name].is_some() { OpenMode::ReadWrite } else { OpenMode::CreateNew };
                let file = handle.open(path(name), mode).wait().expect("as accounted");
                let known = *account.names[name].get_or_insert_with(|| {
                    account.touched[name] = true;
                    account.files.push(Known { history: Some(vec![Vec::new()]), ..Known::default() });
                    account.files.len() - 1
                });
                write(handle, file, offset, vec![value; bytes]);
                handle.close(file).wait().expect("open");
                let known = &mut account.files[known];
                let (start, end) = (offset as usize, offset as usize + bytes);
                if bytes > 0 {
                    known.content.resize(known.content.len().max(end), 0);
                    known.content[start..end].fill(value);
                    known.synced = false;
                    let content = known.content.clone();
                    known.history.iter_mut().for_each(|history| history.push(content.clone()));
                }
            }
            Step::Truncate { file: name, bytes } => {
                let Some(known) = account.names[name] else { continue };
                let file = handle.open(path(name), OpenMode::ReadWrite).wait().expect("as accounted");
                handle.truncate(file, bytes).wait().expect("open");
                handle.close(file).wait().expect("open");
                let known = &mut account.files[known];
                known.content.resize(bytes as usize, 0);
                known.synced = false;
                known.history = None;
            }
            Step::Sync { file: name } | Step::FailSync { file: name } => {
                let Some(known) = account.names[name] else { continue };
                let fails = matches!(step, Step::FailSync { .. });
                if fails {
                    disk.fail_next(OpKind::SyncData, Fault::Io);
                }
                let file = handle.open(path(name), OpenMode::ReadWrite).wait().expect("as accounted");
                assert_eq!(handle.sync_data(file).wait().is_err(), fails);
                handle.close(file).wait().expect("open");
                let known = &mut account.files[known];
                known.doubtful |= fails;
                if !known.doubtful {
                    known.synced = true;
                    known.history = Some(vec![known.content.clone()]);
                }
            }
            Step::Rename { from, to } => {
                let Some(known) = account.names[from] else { continue };
                handle.rename(path(from), path(to)).wait().expect("as accounted");
                if from != to {
                    account.names[from] = None;
                    account.names[to] = Some(known);
                    account.touched[from] = true;
                    account.touched[to] = true;
                }
            }
            Step::Remove { file: name } => {
                if account.names[name].take().is_some() {
                    handle.remove(path(name)).wait().expect("as accounted");
                    account.touched[name] = true;
                }
            }
            Step::SyncDir => {
                handle.sync_dir("/").wait().expect("no fault");
                account.durable_names = account.names;
                account.touched = [false; FILES];
            }
        }
    }
    account
}

/// True where `image` is made of sectors that the file has had, under a length that it has had.
fn is_legal(image: &[u8], history: &[Vec<u8>]) -> bool {
    let sector = |content: &[u8], index: usize, bytes: usize| -> Vec<u8> {
        (index * 512..index * 512 + bytes).map(|i| content.get(i).copied().unwrap_or(0)).collect()
    };
    history.iter().any(|content| content.len() == image.len())
        && image
            .chunks(512)
            .enumerate()
            .all(|(index, chunk)| history.iter().any(|content| sector(content, index, chunk.len()) == chunk))
}

proptest! {
    #[test]
    fn prop_fully_synced_files_are_intact_after_any_crash(
        steps in prop::collection::vec(step(), 0..40), seeds in prop::array::uniform8(any::<u64>()),
    ) {
        let (disk, handle) = disk();
        let account = run(&disk, &handle, &steps);
        for (name, known) in account.names.iter().enumerate() {
            let present = disk.read_file(path(name)).ok();
            prop_assert_eq!(present.as_ref(), known.map(|known| &account.files[known].content));
        }
        for (seed, profile) in seeds.into_iter().flat_map(|seed| PROFILES.map(|profile| (seed, profile))) {
            let image = disk.crash_image(profile, seed);
            for name in (0..FILES).filter(|name| !account.touched[*name]) {
                let content = image.read_file(path(name)).ok();
                let known = account.durable_names[name].map(|known| &account.files[known]);
                prop_assert_eq!(content.is_some(), known.is_some(), "{:?} {} {}", profile, seed, name);
                let (Some(content), Some(known)) = (content, known) else { continue };
                if known.synced && !known.doubtful {
                    prop_assert_eq!(&content, &known.content, "{:?} {} {}", profile, seed, name);
                }
                if let (Some(history), false) = (&known.history, known.doubtful) {
                    prop_assert!(is_legal(&content, history), "{:?} {} {}", profile, seed, name);
                }
            }
            let unchanged = account.touched.iter().all(|touched| !touched);
            prop_assert!(!unchanged || image.files() == disk.files());
        }
    }

    #[test]
    fn prop_equal_seeds_leave_equal_disks(
        steps in prop::collection::vec(step(), 0..30), seed in any::<u64>(),
    ) {
        let (disk, handle) = disk();
        run(&disk, &handle, &steps);
        for profile in PROFILES {
            let content = |image: &SimDisk| {
                image.files().into_iter().map(|path| (image.read_file(&path).ok(), path)).collect::<Vec<_>>()
            };
            let first = content(&disk.crash_image(profile, seed));
            prop_assert_eq!(first, content(&disk.crash_image(profile, seed)));
        }
    }
}

#[test]
fn few_images_are_all_explored_and_many_are_sampled_with_each_change_lost_and_kept_alone() {
    let (disk, handle) = disk();
    handle.write_file_durable("/a", &[1; 600]).expect("new");
    let file = handle.open("/a", OpenMode::ReadWrite).wait().expect("there");
    write(&handle, file, 0, vec![2; 600]);
    handle.rename("/a", "/b").wait().expect("there");
    let mut all = BTreeSet::new();
    let show = |image: &Arc<SimDisk>| {
        let content = |path| image.read_file(path).ok();
        (content("/a"), content("/b"))
    };
    let exploration = Exploration { exhaustive: 4_096, samples: 100, seed: 1 };
    let mut seen = Seen::default();
    let explored = disk.explore(exploration, &0, &mut seen, |image, _| {
        assert!(all.insert(show(image)), "each image is shown once");
    });
    assert!(explored.exhausted && explored.distinct == all.len() as u64);
    // Either name, or the one lost with the other not there yet; two sectors of which each may be old or new.
    assert!(all.len() >= 8, "{}", all.len());
    assert_eq!(disk.explore(exploration, &0, &mut seen, |_, _| panic!("seen already")).distinct, 0);
    assert!(disk.explore(exploration, &1, &mut seen, |_, _| {}).distinct > 0, "another context counts");

    let mut sampled = BTreeSet::new();
    let mut ways = Vec::new();
    let some = Exploration { exhaustive: 3, samples: 200, seed: 1 };
    let explored = disk.explore(some, &0, &mut Seen::default(), |image, how| {
        sampled.insert(show(image));
        ways.push(how.to_owned());
    });
    assert!(!explored.exhausted && sampled.is_subset(&all));
    assert!(ways.iter().any(|how| how.ends_with("is lost alone")), "{ways:?}");
    assert!(explored.images >= 200 + 2 + 3 * 2);
}

#[test]
fn a_file_torn_at_pages_has_each_page_whole() {
    let (disk, handle) = disk();
    let file = durable_name(&handle, "/a");
    write(&handle, file, 0, vec![1; 3 * 4_096]);
    handle.sync_data(file).wait().expect("synced");
    write(&handle, file, 0, vec![2; 3 * 4_096]);
    let outcomes = outcomes(&disk, CrashProfile::WeakPages, "/a");
    assert_eq!(outcomes.len(), 8, "each of three pages is old or new");
    for content in outcomes.into_iter().flatten() {
        assert!(content.chunks(4_096).all(|page| page.iter().all(|byte| *byte == page[0])));
    }
}

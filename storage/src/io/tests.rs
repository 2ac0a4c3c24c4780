//! What every disk promises, tested on each: the suite takes a disk and an empty directory on it.

use super::*;
use std::sync::mpsc;
use std::sync::{Condvar, Mutex};

/// A disk with an empty directory that the claims may use.
struct Fixture {
    disk: DiskHandle,
    root: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

fn on_real_disk(disk: Arc<dyn Disk>) -> Fixture {
    let dir = tempfile::tempdir().expect("a temporary directory");
    Fixture { disk: DiskHandle::new(disk), root: dir.path().to_owned(), _dir: Some(dir) }
}

fn on_std_disk() -> Option<Fixture> {
    Some(on_real_disk(StdDisk::start(2).expect("threads")))
}

fn on_std_disk_with_one_thread() -> Option<Fixture> {
    Some(on_real_disk(StdDisk::start(1).expect("a thread")))
}

/// None, with the reason printed, only where io_uring cannot be used.
#[cfg(target_os = "linux")]
fn start_uring() -> Option<Arc<UringDisk>> {
    match UringDisk::probe() {
        Ok(()) => Some(UringDisk::start().expect("the probe succeeded")),
        Err(reason) => {
            eprintln!("SKIPPED on io_uring: {reason}");
            None
        }
    }
}

#[cfg(target_os = "linux")]
fn on_uring_disk() -> Option<Fixture> {
    Some(on_real_disk(start_uring()?))
}

fn on_sim_disk() -> Option<Fixture> {
    let disk = DiskHandle::new(SimDisk::new());
    disk.create_dir("/root").wait().expect("the disk is empty");
    Some(Fixture { disk, root: "/root".into(), _dir: None })
}

macro_rules! conformance {
    ($($claim:ident,)*) => {
        conformance!(@on std_disk, on_std_disk; $($claim)*);
        conformance!(@on std_disk_with_one_thread, on_std_disk_with_one_thread; $($claim)*);
        #[cfg(target_os = "linux")]
        conformance!(@on uring_disk, on_uring_disk; $($claim)*);
        conformance!(@on sim_disk, on_sim_disk; $($claim)*);
    };
    (@on $disk:ident, $start:ident; $($claim:ident)*) => {
        mod $disk {
            $(#[test]
            fn $claim() {
                if let Some(fixture) = super::$start() {
                    super::$claim(&fixture.disk, &fixture.root);
                }
            })*
        }
    };
}

conformance! {
    create_new_refuses_an_existing_name,
    opening_to_read_or_write_wants_an_existing_file,
    a_read_is_short_only_at_the_end_of_the_file,
    a_write_beyond_the_end_extends_with_zeros,
    a_file_is_read_back_as_it_was_written,
    a_write_gives_its_buffer_back,
    a_file_made_for_direct_writes_holds_what_was_written_however_it_was_cut,
    pieces_read_at_random_are_exactly_those_asked_for,
    a_file_opened_to_read_refuses_writes,
    truncate_shortens_and_lengthens,
    rename_replaces_and_keeps_the_content,
    a_removed_file_is_gone_and_its_open_file_still_works,
    directories_are_created_once_listed_and_removed_when_empty,
    missing_names_answer_not_found,
    a_file_on_the_way_of_a_path_answers_not_a_directory,
    a_closed_file_answers_no_more,
    offsets_beyond_any_file_are_refused,
    many_requests_are_outstanding_at_once,
    several_syncs_of_one_file_may_be_outstanding,
    notify_is_called_for_every_completion,
    whole_files_are_written_and_read_in_one_step,
    directories_are_created_with_all_their_parents,
    exists_tells_files_directories_and_nothing,
    a_directory_is_removed_with_all_below_it,
}

fn kind_of<T>(answer: io::Result<T>) -> io::ErrorKind {
    answer.err().expect("the request fails").kind()
}

fn create(disk: &DiskHandle, path: &Path, content: &[u8]) {
    let file = disk.open(path, OpenMode::CreateNew).wait().expect("the name is new");
    disk.write(file, 0, content.to_vec()).wait().expect("written");
    disk.close(file).wait().expect("closed");
}

fn names(disk: &DiskHandle, path: &Path) -> Vec<Entry> {
    let mut entries = disk.list(path).wait().expect("a directory");
    entries.sort();
    entries
}

/// `bytes` bytes none of which is like its neighbours.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i.wrapping_mul(31) ^ (i >> 8)) as u8).collect()
}

fn create_new_refuses_an_existing_name(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("a"), b"first");
    assert_eq!(kind_of(disk.open(root.join("a"), OpenMode::CreateNew).wait()), io::ErrorKind::AlreadyExists);
    disk.create_dir(root.join("d")).wait().expect("new");
    assert_eq!(kind_of(disk.open(root.join("d"), OpenMode::CreateNew).wait()), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.read_file(root.join("a")).expect("untouched"), b"first");
}

fn opening_to_read_or_write_wants_an_existing_file(disk: &DiskHandle, root: &Path) {
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert_eq!(kind_of(disk.open(root.join("none"), mode).wait()), io::ErrorKind::NotFound);
    }
    disk.create_dir(root.join("d")).wait().expect("new");
    assert_eq!(kind_of(disk.open(root.join("d"), OpenMode::ReadWrite).wait()), io::ErrorKind::IsADirectory);
    let dir = disk.open(root.join("d"), OpenMode::Read).wait().expect("as open(2) does");
    assert_eq!(kind_of(disk.read(dir, 0, 1).wait()), io::ErrorKind::IsADirectory);
}

fn a_read_is_short_only_at_the_end_of_the_file(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("a"), &pattern(1000));
    let file = disk.open(root.join("a"), OpenMode::Read).wait().expect("there");
    assert_eq!(disk.read(file, 0, 1000).wait().expect("read"), pattern(1000));
    assert_eq!(disk.read(file, 990, 100).wait().expect("read"), pattern(1000)[990..]);
    assert_eq!(disk.read(file, 1000, 5).wait().expect("read"), b"");
    assert_eq!(disk.read(file, 5000, 5).wait().expect("read"), b"");
    assert_eq!(disk.read(file, 3, 0).wait().expect("read"), b"");
}

fn a_write_beyond_the_end_extends_with_zeros(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("a"), b"abc");
    let file = disk.open(root.join("a"), OpenMode::ReadWrite).wait().expect("there");
    disk.write(file, 1, b"XY".to_vec()).wait().expect("written");
    disk.write(file, 6, b"z".to_vec()).wait().expect("written");
    assert_eq!(disk.length(file).wait().expect("length"), 7);
    assert_eq!(disk.read(file, 0, 100).wait().expect("read"), b"aXY\0\0\0z");
}

fn a_file_is_read_back_as_it_was_written(disk: &DiskHandle, root: &Path) {
    let content = pattern(300_000);
    let file = disk.open(root.join("a"), OpenMode::CreateNew).wait().expect("new");
    for (index, chunk) in content.chunks(70_001).enumerate() {
        disk.write(file, index as u64 * 70_001, chunk.to_vec()).wait().expect("written");
    }
    disk.sync_data(file).wait().expect("synced");
    disk.sync_dir(root).wait().expect("synced");
    assert_eq!(disk.read(file, 0, content.len() + 1).wait().expect("read"), content);
}

fn a_write_gives_its_buffer_back(disk: &DiskHandle, root: &Path) {
    let file = disk.open(root.join("a"), OpenMode::CreateNew).wait().expect("new");
    let mut data = Vec::with_capacity(4096);
    data.extend_from_slice(b"some");
    let address = data.as_ptr();
    let back = disk.write(file, 0, data).wait().expect("written");
    assert_eq!((back.as_slice(), back.as_ptr(), back.capacity()), (b"some".as_slice(), address, 4096));
    assert_eq!(disk.write(file, 9, Vec::new()).wait().expect("nothing to write"), b"");
    assert_eq!(disk.length(file).wait().expect("length"), 4);
}

fn a_file_made_for_direct_writes_holds_what_was_written_however_it_was_cut(disk: &DiskHandle, root: &Path) {
    const BLOCK: usize = DIRECT_BYTES;
    // Whole blocks and a rest; a rest in the middle; no whole block at all; nothing.
    let cuts: [&[usize]; 5] = [
        &[BLOCK * 64, BLOCK * 3, 77],
        &[BLOCK, 5, BLOCK * 2, BLOCK - 5, BLOCK],
        &[9, 1],
        &[0],
        &[BLOCK, 0, BLOCK],
    ];
    for (n, cut) in cuts.into_iter().enumerate() {
        let path = root.join(n.to_string());
        let content = pattern(cut.iter().sum());
        let file = disk.open(&path, OpenMode::CreateDirect).wait().expect("new");
        assert_eq!(kind_of(disk.open(&path, OpenMode::CreateDirect).wait()), io::ErrorKind::AlreadyExists);
        let mut offset = 0;
        let mut writes = Vec::new();
        for bytes in cut {
            let data = content[offset..offset + bytes].to_vec();
            let address = data.as_ptr();
            writes.push((disk.write(file, offset as u64, data), address));
            offset += bytes;
        }
        for (write, address) in writes {
            let data = write.wait().expect("written");
            assert_eq!(data.as_ptr(), address, "the buffer comes back");
        }
        disk.sync_data(file).wait().expect("synced");
        assert_eq!(disk.length(file).wait().expect("length"), content.len() as u64);
        assert_eq!(disk.read(file, 0, content.len() + 9).wait().expect("read"), content, "by the writer");
        disk.close(file).wait().expect("closed");
        assert_eq!(disk.read_file(&path).expect("there"), content, "through the page cache");
    }
}

fn pieces_read_at_random_are_exactly_those_asked_for(disk: &DiskHandle, root: &Path) {
    let content = pattern(50_001);
    create(disk, &root.join("a"), &content);
    let file = disk.open(root.join("a"), OpenMode::ReadRandom).wait().expect("there");
    let lengths = [1, 100, 4_096, 9_000, 60_000];
    let pieces: Vec<(usize, usize)> =
        (0..50_100).step_by(509).zip(lengths.into_iter().cycle()).chain([(0, 0), (8_192, 4_096)]).collect();
    let reads: Vec<_> = pieces.iter().map(|(from, bytes)| disk.read(file, *from as u64, *bytes)).collect();
    for ((from, bytes), read) in pieces.into_iter().zip(reads) {
        let expected = &content[from.min(50_001)..(from + bytes).min(50_001)];
        assert_eq!(read.wait().expect("read"), expected, "{bytes} bytes at {from}");
    }
    assert_eq!(disk.read(file, i64::MAX as u64 - 1, 1).wait().expect("beyond the end"), b"");
    assert_eq!(disk.read(file, 10_000, 5_000).wait().expect("read"), content[10_000..15_000]);
    assert_eq!(kind_of(disk.read(file, u64::MAX, 1).wait()), io::ErrorKind::InvalidInput);
    assert!(disk.write(file, 0, vec![1; DIRECT_BYTES]).wait().is_err());
}

fn a_file_opened_to_read_refuses_writes(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("a"), b"abc");
    let file = disk.open(root.join("a"), OpenMode::Read).wait().expect("there");
    assert!(disk.write(file, 0, b"x".to_vec()).wait().is_err());
    assert!(disk.truncate(file, 0).wait().is_err());
    assert_eq!(disk.read(file, 0, 9).wait().expect("unharmed"), b"abc");
}

fn truncate_shortens_and_lengthens(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("a"), b"abcdef");
    let file = disk.open(root.join("a"), OpenMode::ReadWrite).wait().expect("there");
    disk.truncate(file, 2).wait().expect("shorter");
    assert_eq!(disk.read(file, 0, 9).wait().expect("read"), b"ab");
    disk.truncate(file, 4).wait().expect("longer");
    assert_eq!(disk.read(file, 0, 9).wait().expect("read"), b"ab\0\0");
}

fn rename_replaces_and_keeps_the_content(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("new"), b"new");
    create(disk, &root.join("old"), b"old");
    disk.rename(root.join("new"), root.join("old")).wait().expect("renamed");
    assert_eq!(names(disk, root), [Entry { name: "old".into(), is_dir: false, bytes: 3 }]);
    assert_eq!(disk.read_file(root.join("old")).expect("there"), b"new");
    disk.create_dir(root.join("d")).wait().expect("new");
    disk.rename(root.join("old"), root.join("d/moved")).wait().expect("renamed between directories");
    assert_eq!(disk.read_file(root.join("d/moved")).expect("there"), b"new");
    disk.create_dir(root.join("other")).wait().expect("new");
    let onto = |to: &str| kind_of(disk.rename(root.join("d/moved"), root.join(to)).wait());
    assert_eq!(onto("other"), io::ErrorKind::IsADirectory);
    assert_eq!(onto("d"), io::ErrorKind::DirectoryNotEmpty, "as rename(2) has it");
    disk.rename(root.join("d"), root.join("e")).wait().expect("a directory is renamed with what it holds");
    assert_eq!(disk.read_file(root.join("e/moved")).expect("there"), b"new");
    assert_eq!(kind_of(disk.rename(root.join("e"), root.join("e/in")).wait()), io::ErrorKind::InvalidInput);
}

fn a_removed_file_is_gone_and_its_open_file_still_works(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("a"), b"abc");
    let file = disk.open(root.join("a"), OpenMode::ReadWrite).wait().expect("there");
    disk.remove(root.join("a")).wait().expect("removed");
    assert!(names(disk, root).is_empty());
    disk.write(file, 3, b"d".to_vec()).wait().expect("written");
    disk.sync_data(file).wait().expect("synced");
    assert_eq!(disk.read(file, 0, 9).wait().expect("read"), b"abcd");
}

fn directories_are_created_once_listed_and_removed_when_empty(disk: &DiskHandle, root: &Path) {
    let dir = root.join("d");
    disk.create_dir(&dir).wait().expect("new");
    assert_eq!(kind_of(disk.create_dir(&dir).wait()), io::ErrorKind::AlreadyExists);
    create(disk, &dir.join("f"), &pattern(700));
    disk.create_dir(dir.join("sub")).wait().expect("new");
    assert_eq!(
        names(disk, &dir),
        [
            Entry { name: "f".into(), is_dir: false, bytes: 700 },
            Entry { name: "sub".into(), is_dir: true, bytes: 0 }
        ]
    );
    assert_eq!(kind_of(disk.remove_dir(&dir).wait()), io::ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind_of(disk.remove_dir(dir.join("f")).wait()), io::ErrorKind::NotADirectory);
    assert_eq!(kind_of(disk.remove(dir.join("sub")).wait()), io::ErrorKind::IsADirectory);
    disk.remove(dir.join("f")).wait().expect("removed");
    disk.remove_dir(dir.join("sub")).wait().expect("removed");
    disk.remove_dir(&dir).wait().expect("empty");
    assert!(names(disk, root).is_empty());
}

fn missing_names_answer_not_found(disk: &DiskHandle, root: &Path) {
    let none = root.join("none");
    let not_found = io::ErrorKind::NotFound;
    assert_eq!(kind_of(disk.open(none.join("f"), OpenMode::CreateNew).wait()), not_found);
    assert_eq!(kind_of(disk.rename(&none, root.join("b")).wait()), not_found);
    assert_eq!(kind_of(disk.remove(&none).wait()), not_found);
    assert_eq!(kind_of(disk.remove_dir(&none).wait()), not_found);
    assert_eq!(kind_of(disk.create_dir(none.join("d")).wait()), not_found);
    assert_eq!(kind_of(disk.sync_dir(&none).wait()), not_found);
    assert_eq!(kind_of(disk.list(&none).wait()), not_found);
    assert_eq!(kind_of(disk.read_file(&none)), not_found);
    assert_eq!(kind_of(disk.remove_dir_all(&none)), not_found);
    assert_eq!(kind_of(disk.open("", OpenMode::Read).wait()), not_found);
}

fn a_file_on_the_way_of_a_path_answers_not_a_directory(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("f"), b"");
    let not_a_directory = io::ErrorKind::NotADirectory;
    assert_eq!(kind_of(disk.open(root.join("f/below"), OpenMode::Read).wait()), not_a_directory);
    assert_eq!(kind_of(disk.create_dir(root.join("f/below")).wait()), not_a_directory);
    assert_eq!(kind_of(disk.list(root.join("f")).wait()), not_a_directory);
    assert_eq!(kind_of(disk.sync_dir(root.join("f")).wait()), not_a_directory);
    assert_eq!(kind_of(disk.create_dir_all(root.join("f"))), not_a_directory);
}

fn a_closed_file_answers_no_more(disk: &DiskHandle, root: &Path) {
    let file = disk.open(root.join("a"), OpenMode::CreateNew).wait().expect("new");
    disk.close(file).wait().expect("closed");
    let invalid = io::ErrorKind::InvalidInput;
    assert_eq!(kind_of(disk.read(file, 0, 1).wait()), invalid);
    assert_eq!(kind_of(disk.write(file, 0, vec![1]).wait()), invalid);
    assert_eq!(kind_of(disk.sync_data(file).wait()), invalid);
    assert_eq!(kind_of(disk.truncate(file, 1).wait()), invalid);
    assert_eq!(kind_of(disk.length(file).wait()), invalid);
    assert_eq!(kind_of(disk.close(file).wait()), invalid);
    assert_eq!(kind_of(disk.read(FileId(u64::MAX), 0, 1).wait()), invalid);
}

fn offsets_beyond_any_file_are_refused(disk: &DiskHandle, root: &Path) {
    let file = disk.open(root.join("a"), OpenMode::CreateNew).wait().expect("new");
    for offset in [u64::MAX, u64::MAX - 1, i64::MAX as u64] {
        assert_eq!(kind_of(disk.write(file, offset, vec![1]).wait()), io::ErrorKind::InvalidInput);
        assert_eq!(kind_of(disk.read(file, offset, 1).wait()), io::ErrorKind::InvalidInput);
    }
    assert_eq!(disk.length(file).wait().expect("length"), 0);
}

fn many_requests_are_outstanding_at_once(disk: &DiskHandle, root: &Path) {
    let open = |index: usize| disk.open(root.join(format!("f{index}")), OpenMode::CreateNew);
    let files: Vec<_> = (0..8).map(open).map(|ticket| ticket.wait().expect("new")).collect();
    let block = |index: usize| vec![index as u8; 777];
    let written: Vec<_> =
        (0..1000).map(|i| disk.write(files[i % 8], (i / 8 * 777) as u64, block(i))).collect();
    for ticket in written {
        ticket.wait().expect("written");
    }
    let read: Vec<_> = (0..1000).map(|i| disk.read(files[i % 8], (i / 8 * 777) as u64, 777)).collect();
    for (index, ticket) in read.into_iter().enumerate() {
        assert_eq!(ticket.wait().expect("read"), block(index), "block {index}");
    }
    let closed: Vec<_> = files.into_iter().map(|file| disk.close(file)).collect();
    closed.into_iter().for_each(|ticket| ticket.wait().expect("closed"));
}

fn several_syncs_of_one_file_may_be_outstanding(disk: &DiskHandle, root: &Path) {
    let file = disk.open(root.join("a"), OpenMode::CreateNew).wait().expect("new");
    disk.write(file, 0, pattern(5000)).wait().expect("written");
    let syncs: Vec<_> = (0..5).map(|_| disk.sync_data(file)).collect();
    syncs.into_iter().for_each(|ticket| ticket.wait().expect("synced"));
    disk.close(file).wait().expect("closed");
}

#[derive(Default)]
struct Bell {
    rings: Mutex<usize>,
    rung: Condvar,
}

impl Notify for Bell {
    fn notify(&self) {
        *self.rings.lock().expect("no panic") += 1;
        self.rung.notify_all();
    }
}

fn notify_is_called_for_every_completion(disk: &DiskHandle, root: &Path) {
    let bell = Arc::new(Bell::default());
    let disk = disk.with_notify(bell.clone());
    let mut opened = disk.open(root.join("a"), OpenMode::CreateNew);
    let mut failed = disk.open(root.join("none"), OpenMode::Read);
    let rings = bell.rung.wait_while(bell.rings.lock().expect("no panic"), |rings| *rings < 2);
    assert_eq!(*rings.expect("no panic"), 2);
    assert!(matches!(opened.poll(), Some(Ok(_))), "an answer is there before its owner is woken");
    assert!(matches!(failed.poll(), Some(Err(_))), "an answer is there before its owner is woken");
    assert!(opened.poll().is_none(), "an answer is given once");
}

fn whole_files_are_written_and_read_in_one_step(disk: &DiskHandle, root: &Path) {
    for bytes in [0, 1, 1 << 20, (1 << 20) + 1, 2_500_000] {
        let path = root.join(format!("f{bytes}"));
        disk.write_file_durable(&path, &pattern(bytes)).expect("the name is new");
        assert!(disk.read_file(&path).expect("there") == pattern(bytes), "{bytes} bytes come back");
    }
    assert_eq!(kind_of(disk.write_file_durable(root.join("f1"), b"x")), io::ErrorKind::AlreadyExists);
}

fn directories_are_created_with_all_their_parents(disk: &DiskHandle, root: &Path) {
    disk.create_dir_all(root.join("a/b/c")).expect("created");
    disk.create_dir_all(root.join("a/b/c")).expect("there already");
    disk.create_dir_all(root.join("a/b/d")).expect("created");
    disk.create_dir_all("/").expect("there always");
    assert_eq!(
        names(disk, &root.join("a/b")).iter().map(|e| e.name.as_str()).collect::<Vec<_>>(),
        ["c", "d"]
    );
}

fn exists_tells_files_directories_and_nothing(disk: &DiskHandle, root: &Path) {
    create(disk, &root.join("f"), b"");
    assert!(disk.exists(root).expect("told"));
    assert!(disk.exists(root.join("f")).expect("told"));
    assert!(!disk.exists(root.join("g")).expect("told"));
    assert!(!disk.exists(root.join("f/g")).expect("told"));
}

fn a_directory_is_removed_with_all_below_it(disk: &DiskHandle, root: &Path) {
    disk.create_dir_all(root.join("a/b/c")).expect("created");
    create(disk, &root.join("a/f"), b"1");
    create(disk, &root.join("a/b/c/f"), b"2");
    create(disk, &root.join("keep"), b"3");
    disk.remove_dir_all(root.join("a")).expect("removed");
    assert_eq!(names(disk, root).len(), 1);
}

/// The disks that have threads of their own.
fn threaded_disks() -> Vec<Arc<dyn Disk>> {
    let mut disks: Vec<Arc<dyn Disk>> = vec![StdDisk::start(2).expect("threads")];
    #[cfg(target_os = "linux")]
    disks.extend(start_uring().map(|disk| disk as Arc<dyn Disk>));
    disks
}

#[test]
fn dropping_a_disk_completes_what_was_submitted() {
    for disk in threaded_disks() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let handle = DiskHandle::new(disk);
        let file = handle.open(dir.path().join("a"), OpenMode::CreateNew).wait().expect("new");
        let writes: Vec<_> = (0..600).map(|i| handle.write(file, i * 10, vec![1; 10])).collect();
        let list = handle.list(dir.path());
        drop(handle);
        for mut write in writes {
            write.poll().expect("completed before the drop returned").expect("written");
        }
        assert!(list.wait().is_ok());
    }
}

#[test]
fn a_completion_may_drop_the_last_handle_of_its_disk() {
    let list = || Request::List { path: "/".into() };
    let sync = || Request::SyncDir { path: "/none".into() };
    for request in [list as fn() -> Request, sync] {
        for disk in threaded_disks() {
            let (let_go, may_go) = mpsc::channel();
            let (gone, has_gone) = mpsc::channel();
            let last = Arc::clone(&disk);
            let done: Completion = Box::new(move |_| {
                let _ = may_go.recv();
                drop(last);
                let _ = gone.send(());
            });
            disk.submit(request(), done);
            drop(disk);
            let_go.send(()).expect("the completion waits");
            has_gone.recv().expect("the completion ended");
        }
    }
}

#[test]
fn a_completion_that_panics_harms_no_other_request() {
    for disk in threaded_disks() {
        for _ in 0..3 {
            let panics: Completion = Box::new(|_| std::panic::resume_unwind(Box::new("a bad completion")));
            disk.submit(Request::SyncDir { path: "/none".into() }, panics);
        }
        assert!(DiskHandle::new(disk).exists("/").expect("told"));
    }
}

/// `/dev/null` refuses to be synced, so it stands in for a disk that fails to.
#[cfg(target_os = "linux")]
#[test]
fn a_file_whose_sync_failed_is_poisoned_until_closed() {
    for disk in threaded_disks() {
        let disk = DiskHandle::new(disk);
        let file = disk.open("/dev/null", OpenMode::ReadWrite).wait().expect("every system has one");
        disk.write(file, 0, vec![1]).wait().expect("swallowed");
        let syncs: Vec<_> = (0..4).map(|_| disk.sync_data(file)).collect();
        let answers: Vec<_> = syncs.into_iter().map(|ticket| ticket.wait().expect_err("refused")).collect();
        let poisoned = answers.iter().filter(|error| error.to_string().contains("earlier sync")).count();
        assert_eq!(poisoned, 3, "one sync fails by itself, the others find the file poisoned: {answers:?}");
        let refused = |error: io::Error| assert!(error.to_string().contains("earlier sync"), "{error}");
        refused(disk.sync_data(file).wait().expect_err("poisoned"));
        refused(disk.write(file, 0, vec![1]).wait().expect_err("poisoned"));
        refused(disk.read(file, 0, 1).wait().expect_err("poisoned"));
        refused(disk.truncate(file, 0).wait().expect_err("poisoned"));
        refused(disk.length(file).wait().expect_err("poisoned"));
        disk.close(file).wait().expect("a poisoned file can be closed");
    }
}

#[cfg(unix)]
#[test]
fn new_files_and_directories_are_private() {
    use std::os::unix::fs::PermissionsExt;
    for disk in threaded_disks() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = DiskHandle::new(disk);
        disk.create_dir(dir.path().join("d")).wait().expect("new");
        create(&disk, &dir.path().join("d/f"), b"secret");
        let mode = |path: &str| {
            let metadata = std::fs::metadata(dir.path().join(path)).expect("there");
            metadata.permissions().mode() & 0o777
        };
        assert_eq!((mode("d"), mode("d/f")), (0o700, 0o600));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn close_on_io_uring_waits_for_the_requests_before_it() {
    let Some(disk) = start_uring() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disk = DiskHandle::new(disk);
    let file = disk.open(dir.path().join("a"), OpenMode::CreateNew).wait().expect("new");
    let writes: Vec<_> = (0..400).map(|i| disk.write(file, i * 100, vec![i as u8; 100])).collect();
    let syncs: Vec<_> = (0..3).map(|_| disk.sync_data(file)).collect();
    let closed = disk.close(file);
    assert_eq!(kind_of(disk.read(file, 0, 1).wait()), io::ErrorKind::InvalidInput);
    closed.wait().expect("closed");
    for mut write in writes {
        write.poll().expect("completed before the close").expect("written");
    }
    for mut sync in syncs {
        sync.poll().expect("completed before the close").expect("synced");
    }
    assert_eq!(disk.read_file(dir.path().join("a")).expect("there").len(), 40_000);
}

/// Whether direct I/O is on for each descriptor of this process that has `path` open.
#[cfg(target_os = "linux")]
fn open_directly(path: &Path) -> Vec<bool> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").expect("every Linux has it") {
        let descriptor = entry.expect("listed").path();
        if std::fs::read_link(&descriptor).is_ok_and(|name| name == path) {
            let number = descriptor.file_name().expect("a number");
            let info = std::fs::read_to_string(Path::new("/proc/self/fdinfo").join(number)).expect("open");
            let flags =
                info.lines().find_map(|line| line.strip_prefix("flags:")).expect("among the first lines");
            let flags = u32::from_str_radix(flags.trim(), 8).expect("octal");
            found.push(flags & rustix::fs::OFlags::DIRECT.bits() != 0);
        }
    }
    found
}

#[cfg(target_os = "linux")]
#[test]
fn io_uring_reads_and_writes_directly_until_a_write_is_not_aligned() {
    let Some(disk) = start_uring() else { return };
    // Not where temporary files are: those may be kept in memory.
    let beside = std::env::current_exe().expect("known");
    let dir = tempfile::tempdir_in(beside.parent().expect("a directory")).expect("a directory");
    let root = dir.path().canonicalize().expect("there");
    let disk = DiskHandle::new(disk);
    let path = root.join("a");
    let file = disk.open(&path, OpenMode::CreateDirect).wait().expect("new");
    if open_directly(&path) == [false] {
        eprintln!("SKIPPED: {} has no direct I/O", root.display());
        return;
    }
    disk.write(file, 0, pattern(64 * DIRECT_BYTES)).wait().expect("written");
    assert_eq!(open_directly(&path), [true]);
    disk.write(file, 64 * DIRECT_BYTES as u64, vec![1; 100]).wait().expect("written");
    assert_eq!(open_directly(&path), [false]);
    disk.sync_data(file).wait().expect("synced");
    disk.close(file).wait().expect("closed");
    let file = disk.open(&path, OpenMode::ReadRandom).wait().expect("there");
    assert_eq!(
        disk.read(file, 10_000, 9_000).wait().expect("read"),
        pattern(64 * DIRECT_BYTES)[10_000..19_000]
    );
    assert_eq!(open_directly(&path), [true]);
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        disk.close(file).wait().unwrap_or_default();
        let file = disk.open(&path, mode).wait().expect("there");
        assert_eq!(open_directly(&path), [false], "{mode:?}");
        disk.close(file).wait().expect("closed");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_system_that_refuses_direct_io_is_read_through_the_page_cache() {
    for disk in threaded_disks() {
        let disk = DiskHandle::new(disk);
        for path in ["/proc/version", "/proc/filesystems"] {
            let file = disk.open(path, OpenMode::ReadRandom).wait().expect("every Linux has it");
            let expected = disk.read_file(path).expect("read");
            assert_eq!(disk.read(file, 2, 1_000_000).wait().expect("read"), expected[2..]);
        }
    }
}

#[test]
fn a_file_whose_open_nobody_waited_for_is_closed_again() {
    for dropped_first in [true, false] {
        let sim = SimDisk::new();
        let disk = DiskHandle::new(Arc::clone(&sim) as Arc<dyn Disk>);
        sim.set_deferred(true);
        let ticket = disk.open("/file", OpenMode::CreateNew);
        if dropped_first {
            drop(ticket);
            sim.complete_all();
        } else {
            sim.complete_all();
            drop(ticket);
        }
        sim.complete_all();
        let closed = sim.op_log().iter().filter(|op| op.kind == OpKind::Close && op.ok).count();
        assert_eq!(closed, 1);
    }
}

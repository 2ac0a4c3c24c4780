//! Claims about pages on disk: what comes back is what was written, and every fault is an error that names the file.

use super::fetch::{Fetched, Fetcher, Source};
use super::scratch::{Scratch, Slot};
use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::io::{DiskHandle, Fault, OpKind, SimDisk, StdDisk};
use crate::key_group::KeyGroups;
use crate::manifest::KeyedStateMeta;
use crate::segment::{BlockPlace, Expected, Rows, SegmentBuilder};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SEGMENT: &str = "shared/seg-a1-c1-0-0";

/// Rows of page `page`.
fn rows(page: u32) -> Rows {
    let mut rows = Rows::new(Some(8), Some(8));
    for n in 0..100 + u64::from(page) {
        rows.push(&(u64::from(page) << 32 | n), (n % 7 != 0).then_some(&(n * n)));
    }
    rows
}

fn contents(rows: &Rows) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    (0..rows.len()).map(|row| rows.get(row)).map(|(k, v)| (k.to_vec(), v.map(<[u8]>::to_vec))).collect()
}

/// Bytes of a segment of `pages` pages, and where each lies.
fn segment(pages: u32, zstd_level: i32) -> (Vec<u8>, Vec<BlockPlace>) {
    use crate::codec::Data;
    let meta = KeyedStateMeta { name: "counts".into(), key: u64::schema(), value: u64::schema() };
    let (checkpoint, attempt) = (CheckpointId(1), AttemptId(1));
    let groups = KeyGroups::new(128);
    let mut out = SegmentBuilder::new(SEGMENT, checkpoint, attempt, groups, 0..128, &[meta], zstd_level);
    let places = (0..pages).map(|page| out.page(0, page as u16, &rows(page))).collect();
    out.finish();
    (out.take(), places)
}

fn source(place: &BlockPlace, page: u32) -> Source {
    Source::Block {
        segment: Arc::clone(&place.segment),
        offset: place.offset,
        bytes: place.bytes,
        expected: Expected {
            index: place.index,
            state: Some(0),
            group: page as u16,
            kind: None,
            rows: 100 + page,
            widths: Some((Some(8), Some(8))),
        },
    }
}

/// A simulated disk with `/job/shared` that holds a segment of `pages` pages.
fn sim(pages: u32) -> (Arc<SimDisk>, DiskHandle, Vec<Source>) {
    let disk = SimDisk::new();
    let handle = DiskHandle::new(Arc::clone(&disk) as _);
    handle.create_dir_all("/job/shared").unwrap();
    let (bytes, places) = segment(pages, 1);
    handle.write_file_durable(Path::new("/job").join(SEGMENT), &bytes).unwrap();
    let sources = places.iter().zip(0..).map(|(place, page)| source(place, page)).collect();
    (disk, handle, sources)
}

/// Polls until all is read; the pages as they came.
fn read_all(fetcher: &mut Fetcher) -> Result<BTreeMap<u32, Rows>, (u32, StoreError)> {
    let mut came = BTreeMap::new();
    loop {
        let over = fetcher.poll(None, |page, fetched| match fetched {
            Fetched::Rows(rows) => assert!(came.insert(page, rows).is_none(), "page {page} came twice"),
            Fetched::Image(_) => panic!("page {page} does not lie in the scratch file"),
        })?;
        if over {
            return Ok(came);
        }
        std::thread::yield_now();
    }
}

#[test]
fn pages_come_back_as_written_whatever_the_order_of_the_disk() {
    let (disk, handle, sources) = sim(40);
    let mut fetcher = Fetcher::new(handle, "/job".into());
    disk.set_deferred(true);
    sources.iter().zip(0..).for_each(|(source, page)| fetcher.start(page, source.clone(), 0, None));
    assert_eq!(disk.pending(), [OpKind::Open], "one open serves all reads of a file");
    assert!(!fetcher.poll(None, |_, _| panic!("nothing is read yet")).unwrap());
    disk.complete_all();
    assert!(!fetcher.poll(None, |_, _| panic!("nothing is read yet")).unwrap());
    assert_eq!(disk.pending(), [OpKind::Read; 40], "all reads are under way together");
    // The last first.
    while disk.complete_next(disk.pending().len().saturating_sub(1)) {}
    let came = read_all(&mut fetcher).unwrap();
    assert_eq!(came.len(), 40);
    for (page, came) in came {
        assert_eq!(contents(&came), contents(&rows(page)), "page {page}");
    }
}

#[test]
fn a_page_that_is_needed_at_once_comes_whether_or_not_its_read_has_begun() {
    let (_disk, handle, sources) = sim(3);
    let mut fetcher = Fetcher::new(handle, "/job".into());
    fetcher.start(0, sources[0].clone(), 0, None);
    fetcher.start(1, sources[1].clone(), 0, None);
    for page in [1, 2] {
        let Fetched::Rows(came) = fetcher.wait(page, sources[page as usize].clone(), 0, None).unwrap() else {
            panic!("a block has rows")
        };
        assert_eq!(contents(&came), contents(&rows(page)));
    }
    assert_eq!(read_all(&mut fetcher).unwrap().into_keys().collect::<Vec<_>>(), [0]);
}

#[test]
fn every_flipped_byte_of_a_block_is_an_error_that_names_file_and_offset() {
    for level in [0, 1] {
        let (bytes, places) = segment(1, level);
        let place = &places[0];
        let (start, end) = (place.offset as usize, place.offset as usize + place.bytes as usize);
        let Source::Block { expected, .. } = source(place, 0) else { unreachable!() };
        let mut decoder = crate::segment::BlockDecoder::default();
        let mut decode = |block: &[u8]| decoder.decode(Path::new("seg"), 77, &expected, block);
        assert_eq!(contents(&decode(&bytes[start..end]).unwrap()), contents(&rows(0)));
        for at in start..end {
            let mut block = bytes[start..end].to_vec();
            block[at - start] ^= 0x20;
            match decode(&block) {
                Err(StoreError::Corrupt { path, offset: 77, .. }) => assert_eq!(path, Path::new("seg")),
                other => panic!("byte {at}: {other:?}"),
            }
        }
        for short in 0..end - start {
            let cut = &bytes[start..start + short];
            assert!(matches!(decode(cut), Err(StoreError::Corrupt { .. })), "{short} bytes");
        }
    }
}

#[test]
fn a_block_of_another_place_is_refused() {
    let (_disk, handle, sources) = sim(3);
    let mut fetcher = Fetcher::new(handle, "/job".into());
    let Source::Block { segment, offset, bytes, .. } = sources[1].clone() else { unreachable!() };
    let Source::Block { expected, .. } = sources[2].clone() else { unreachable!() };
    let mixed = Source::Block { segment, offset, bytes, expected };
    assert!(matches!(fetcher.wait(0, mixed, 0, None), Err(StoreError::Corrupt { .. })));
}

#[test]
fn a_failed_read_is_reported_once_and_the_page_comes_at_the_next_try() {
    let (disk, handle, sources) = sim(4);
    let mut fetcher = Fetcher::new(handle, "/job".into());
    fetcher.wait(3, sources[3].clone(), 0, None).unwrap();
    disk.fail_after(OpKind::Read, 1, Fault::Io);
    (0..3u32).for_each(|page| fetcher.start(page, sources[page as usize].clone(), 0, None));
    let mut came = Vec::new();
    let failed = fetcher.poll(None, |page, _| came.push(page));
    let Err((1, StoreError::Io { path, action: "reading", .. })) = failed else { panic!("{failed:?}") };
    assert_eq!(path, Path::new("/job").join(SEGMENT));
    assert_eq!(came, [0]);
    assert!(fetcher.is_reading(2) && !fetcher.is_reading(1));
    fetcher.start(1, sources[1].clone(), 0, None);
    assert_eq!(read_all(&mut fetcher).unwrap().into_keys().collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_missing_file_is_an_error_until_it_is_there() {
    let (disk, handle, sources) = sim(3);
    disk.fail_next(OpKind::Open, Fault::Io);
    let mut fetcher = Fetcher::new(handle.clone(), "/job".into());
    fetcher.start(0, sources[0].clone(), 0, None);
    fetcher.start(1, sources[1].clone(), 0, None);
    assert!(matches!(read_all(&mut fetcher), Err((0, StoreError::Io { action: "opening", .. }))));
    assert_eq!((fetcher.in_flight(), fetcher.open_files()), (0, 0));
    let (from, to) = (Path::new("/job").join(SEGMENT), Path::new("/job/elsewhere"));
    handle.rename(&from, to).wait().unwrap();
    match fetcher.wait(1, sources[1].clone(), 0, None) {
        Err(StoreError::Io { path, source, .. }) => {
            assert_eq!((path, source.kind()), (from.clone(), ErrorKind::NotFound));
        }
        other => panic!("{other:?}"),
    }
    handle.rename(to, &from).wait().unwrap();
    fetcher.start(1, sources[1].clone(), 0, None);
    assert_eq!(read_all(&mut fetcher).unwrap().len(), 1);
}

#[test]
fn a_file_cut_short_is_damaged_not_decoded() {
    let (_disk, handle, sources) = sim(2);
    let path = Path::new("/job").join(SEGMENT);
    let Source::Block { offset, .. } = sources[1] else { unreachable!() };
    let whole = handle.read_file(&path).unwrap();
    handle.remove(&path).wait().unwrap();
    handle.write_file_durable(&path, &whole[..offset as usize + 50]).unwrap();
    let mut fetcher = Fetcher::new(handle, "/job".into());
    assert!(fetcher.wait(0, sources[0].clone(), 0, None).is_ok());
    match fetcher.wait(1, sources[1].clone(), 0, None) {
        Err(StoreError::Corrupt { path: named, offset: at, .. }) => assert_eq!((named, at), (path, offset)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_open_file_is_read_after_its_name_is_gone_and_closed_when_nobody_needs_it() {
    let (_disk, handle, sources) = sim(2);
    let mut fetcher = Fetcher::new(handle.clone(), "/job".into());
    fetcher.wait(0, sources[0].clone(), 0, None).unwrap();
    handle.remove(Path::new("/job").join(SEGMENT)).wait().unwrap();
    fetcher.keep_files(|segment| segment == SEGMENT);
    assert!(fetcher.wait(1, sources[1].clone(), 0, None).is_ok());
    fetcher.keep_files(|_| false);
    assert_eq!(fetcher.open_files(), 0);
    assert!(matches!(fetcher.wait(1, sources[1].clone(), 0, None), Err(StoreError::Io { .. })));
}

#[test]
fn a_read_given_up_hands_out_nothing() {
    let (disk, handle, sources) = sim(2);
    let mut fetcher = Fetcher::new(handle, "/job".into());
    disk.set_deferred(true);
    fetcher.start(0, sources[0].clone(), 0, None);
    fetcher.start(1, sources[1].clone(), 0, None);
    fetcher.forget(0);
    disk.complete_all();
    assert!(!fetcher.poll(None, |_, _| panic!("nothing is read yet")).unwrap());
    fetcher.forget(1);
    disk.complete_all();
    assert!(fetcher.poll(None, |page, _| panic!("page {page} was given up")).unwrap());
}

/// A scratch file with one image written, and its slot.
fn scratch_with(handle: &DiskHandle, image: &[u8]) -> (Scratch, Slot) {
    let mut scratch = Scratch::new(handle.clone(), "/job/shared/scratch-a1-0-0".into());
    scratch.write(9, image.to_vec());
    let mut slot = None;
    // A disk that completes at once needs one poll for the open and one for the write.
    for _ in 0..2 {
        scratch.poll(|page, written| {
            assert_eq!(page, 9);
            slot = Some(written.unwrap());
            true
        });
    }
    (scratch, slot.expect("written"))
}

#[test]
fn the_scratch_file_has_no_name_while_it_is_used_and_replaces_a_stale_one() {
    let (disk, handle, _) = sim(1);
    let path = Path::new("/job/shared/scratch-a1-0-0");
    handle.write_file_durable(path, b"of an earlier run").unwrap();
    let (scratch, slot) = scratch_with(&handle, b"an image");
    assert!(!disk.files().contains(&path.to_path_buf()));
    assert_eq!(scratch.check(&slot, scratch.read(&slot).wait()).unwrap(), b"an image");
}

#[test]
fn a_scratch_image_that_differs_from_what_was_written_is_an_error() {
    let (disk, handle, _) = sim(1);
    let (scratch, slot) = scratch_with(&handle, &[5; 6_000]);
    let path = Path::new("/job/shared/scratch-a1-0-0");
    let refused = |answer| match scratch.check(&slot, answer) {
        Err(StoreError::Corrupt { path: named, offset: 0, .. }) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    };
    refused(Ok(vec![5; 5_999]));
    refused(Ok(vec![]));
    let mut flipped = vec![5; 6_000];
    flipped[3_000] ^= 1;
    refused(Ok(flipped));
    disk.fail_next(OpKind::Read, Fault::Io);
    assert!(matches!(scratch.check(&slot, scratch.read(&slot).wait()), Err(StoreError::Io { .. })));
}

#[test]
fn a_full_disk_leaves_the_page_in_memory_and_the_next_try_may_succeed() {
    let (disk, handle, _) = sim(1);
    let mut scratch = Scratch::new(handle, "/job/shared/scratch-a1-0-0".into());
    for kind in [OpKind::Open, OpKind::Write] {
        disk.fail_next(kind, Fault::NoSpace);
        scratch.write(1, vec![1; 100]);
        let mut failures = Vec::new();
        for _ in 0..2 {
            scratch.poll(|page, written| {
                failures.push((page, written.is_err()));
                true
            });
        }
        assert_eq!(failures, [(1, true)], "{kind:?}");
        assert_eq!((scratch.used_bytes(), scratch.writing()), (0, 0));
    }
    scratch.write(1, vec![1; 100]);
    let mut slots = Vec::new();
    scratch.poll(|_, written| {
        slots.push(written.unwrap());
        true
    });
    assert_eq!(scratch.check(&slots[0], scratch.read(&slots[0]).wait()).unwrap(), [1; 100]);
}

/// Writes, reads and frees images in an order that `choices` and the disk's own delays make.
fn scratch_model(disk: &SimDisk, handle: DiskHandle, choices: &[(u8, u16)]) {
    let mut scratch = Scratch::new(handle, "/job/shared/scratch-a1-0-0".into());
    let mut held: BTreeMap<u64, (Slot, Vec<u8>)> = BTreeMap::new();
    let mut writing: BTreeMap<u64, Option<Vec<u8>>> = BTreeMap::new();
    disk.set_deferred(true);
    for (n, (choice, size)) in choices.iter().enumerate() {
        let n = n as u64;
        match choice % 4 {
            0 | 1 => {
                let image: Vec<u8> = (0..usize::from(*size) + 1).map(|i| (i as u64 ^ n) as u8).collect();
                scratch.write(n, image.clone());
                writing.insert(n, Some(image));
            }
            2 => {
                // The page dies: while its image is written, or afterwards.
                if let Some(image) = writing.values_mut().find(|image| image.is_some()) {
                    *image = None;
                } else if let Some((_, (slot, _))) = held.pop_first() {
                    scratch.free(slot);
                }
            }
            _ => {
                let pending = disk.pending().len();
                disk.complete_next(usize::from(*size) % pending.max(1));
            }
        }
        if choice % 8 == 7 {
            disk.complete_all();
        }
        scratch.poll(|page, written| match writing.remove(&page).expect("each write is over once") {
            Some(image) => held.insert(page, (written.unwrap(), image)).is_none(),
            None => false,
        });
        let waits = disk.pending().is_empty();
        if waits {
            disk.set_deferred(false);
            for (slot, image) in held.values() {
                assert_eq!(&scratch.check(slot, scratch.read(slot).wait()).unwrap(), image);
            }
            disk.set_deferred(true);
        }
    }
    let spans: BTreeMap<u64, u64> = held.values().map(|(slot, _)| (slot.offset(), slot.capacity())).collect();
    let mut end = 0;
    for (offset, capacity) in spans {
        assert!(offset >= end, "slots in use overlap");
        end = offset + capacity;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_images_stay_as_written_while_slots_are_freed_and_used_again(
        choices in prop::collection::vec((any::<u8>(), 0u16..20_000), 1..80),
    ) {
        let (disk, handle, _) = sim(1);
        scratch_model(&disk, handle, &choices);
    }
}

#[test]
fn pages_and_images_come_back_from_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("shared")).unwrap();
    let (bytes, places) = segment(60, 1);
    std::fs::write(dir.path().join(SEGMENT), bytes).unwrap();
    let handle = DiskHandle::new(StdDisk::start(3).unwrap());
    let mut fetcher = Fetcher::new(handle.clone(), dir.path().into());
    let mut scratch = Scratch::new(handle, dir.path().join("shared/scratch-a1-0-0"));
    (100..140u64).for_each(|page| scratch.write(page, vec![page as u8; 16 << 10]));
    let mut slots = BTreeMap::new();
    while scratch.writing() > 0 {
        scratch.poll(|page, written| slots.insert(page, written.unwrap()).is_none());
        std::thread::yield_now();
    }
    places.iter().zip(0..).for_each(|(place, page)| fetcher.start(page, source(place, page), 0, None));
    slots
        .iter()
        .for_each(|(page, slot)| fetcher.start(*page as u32, Source::Scratch(*slot), 0, Some(&scratch)));
    let mut came = 0;
    while !fetcher
        .poll(Some(&scratch), |page, fetched| {
            came += 1;
            match fetched {
                Fetched::Rows(rows_read) => assert_eq!(contents(&rows_read), contents(&rows(page))),
                Fetched::Image(image) => assert_eq!(image, vec![page as u8; 16 << 10]),
            }
        })
        .unwrap()
    {
        std::thread::yield_now();
    }
    assert_eq!(came, 100);
    drop((fetcher, scratch));
    let left: Vec<PathBuf> =
        std::fs::read_dir(dir.path().join("shared")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, [dir.path().join(SEGMENT)]);
}

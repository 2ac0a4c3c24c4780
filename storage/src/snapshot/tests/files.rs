//! Claims about the files of snapshots: how many there are, which of them a checkpoint names, and what becomes of them.

use super::job::*;
use super::*;

/// Small files, so that few rows fill several.
const FILE_BYTES: u64 = 100_000;

fn paths(segments: &[SegmentRef]) -> Vec<&str> {
    segments.iter().map(|segment| segment.path.as_str()).collect()
}

/// One subtask that holds more than three files' worth of rows.
fn large(kind: Make) -> Job {
    let mut job = Job::new([kind; 2], 128, 1);
    job.subtasks[0].snapshots.file_bytes(FILE_BYTES);
    for key in 0..4 * FILE_BYTES / 16 {
        job.set((key % 2) as usize, key, key);
    }
    job
}

#[test]
fn a_large_snapshot_is_several_files_that_restore_together() {
    for kind in [hash_table as Make, log_table, logged] {
        let mut job = large(kind);
        let subtask = &mut job.subtasks[0];
        subtask.begin(1, false);
        let (own, segments) = subtask.write(1, &job.disk);
        let expected: Vec<String> = (0..own.len())
            .map(|n| if n == 0 { "shared/seg-a1-c1-0-0".into() } else { format!("shared/seg-a1-c1-0-0.{n}") })
            .collect();
        assert!(own.len() >= 3, "{own:?}");
        assert_eq!(own, expected);
        assert_eq!(paths(&segments), own);
        for (n, segment) in segments.iter().enumerate() {
            let files = job.disk.files.lock().expect("no test panics with it");
            let file = &files[&Path::new("/job").join(&segment.path)][..];
            assert_eq!(segment.bytes, file.len() as u64);
            let reader = SegmentReader::open(file, Path::new("seg")).expect("intact");
            assert_eq!(usize::from(reader.file()), n);
            assert!(reader.blocks().map(|block| u64::from(block.rows) * 16).sum::<u64>() < 2 * FILE_BYTES);
        }
        job.restored([kind; 2], 3, &segments).check();
    }
}

#[test]
fn rows_of_one_key_in_several_files_of_a_checkpoint_apply_in_the_order_of_the_files() {
    let groups = KeyGroups::new(1);
    let metas = [Logged::new("a", groups, 0..1, false).meta()];
    let mut out = SegmentBuilder::new("shared/seg-1", CheckpointId(1), AttemptId(1), groups, 0..1, &metas, 0);
    let disk = Arc::new(MemoryDisk::default());
    let mut segments = Vec::new();
    for value in 1..=3u64 {
        let mut rows = Rows::new(Some(8), Some(8));
        rows.push(&7u64, Some(&value));
        out.page(0, 0, &rows);
        out.finish();
        let path = out.path().to_string();
        let bytes = out.bytes();
        disk.files.lock().expect("no test panics with it").insert(Path::new("/job").join(&path), out.take());
        segments.push(SegmentRef { path, bytes, groups: 0..1, states: vec!["a".into()] });
        if value < 3 {
            out.begin_next(format!("shared/seg-1.{value}"));
        }
    }
    segments.reverse();
    let mut job = Job::new([logged; 2], 1, 1);
    job.disk = disk;
    job.model[0].insert(7, 3);
    job.restored([logged; 2], 1, &segments).check();
    job.restored([hash_table; 2], 1, &segments).check();
}

#[test]
fn an_aborted_checkpoint_leaves_its_files_to_the_caller_and_is_named_by_no_later_one() {
    for kind in [hash_table as Make, log_table, logged, compacting] {
        let mut job = large(kind);
        let first = job.checkpoint(false);
        job.set(0, 1, 100);
        job.remove(1, 3);
        let subtask = &mut job.subtasks[0];
        subtask.begin(2, false);
        let (own, named) = subtask.write(2, &job.disk);
        assert!(paths(&named).starts_with(&paths(&first)) && !own.is_empty());
        subtask.aborted(2);
        // What the caller does with files that nobody names.
        let mut files = job.disk.files.lock().expect("no test panics with it");
        own.iter().for_each(|path| _ = files.remove(&Path::new("/job").join(path)).expect("it was written"));
        drop(files);
        let subtask = &mut job.subtasks[0];
        subtask.begin(3, false);
        let (_, third) = subtask.write(3, &job.disk);
        subtask.completed(3);
        assert!(paths(&third).iter().all(|path| !own.iter().any(|own| own == path)));
        job.restored([kind; 2], 2, &third).check();
    }
}

#[test]
fn a_snapshot_aborted_half_way_through_its_files_leaves_nothing_behind_in_the_next() {
    for kind in [hash_table as Make, log_table, logged] {
        let mut job = large(kind);
        let subtask = &mut job.subtasks[0];
        subtask.begin(1, false);
        let mut tables = All(&mut subtask.tables);
        let mut complete_files = 0;
        while complete_files < 2 {
            if let Step::Bytes { complete: true, .. } =
                subtask.snapshots.advance(CheckpointId(1), &mut tables, 500)
            {
                complete_files += 1;
            }
        }
        subtask.aborted(1);
        job.set(0, 1, 100);
        let subtask = &mut job.subtasks[0];
        subtask.begin(2, false);
        let (own, segments) = subtask.write(2, &job.disk);
        subtask.completed(2);
        assert_eq!(paths(&segments), own);
        job.restored([kind; 2], 1, &segments).check();
    }
}

#[test]
fn overlapping_checkpoints_stand_on_their_own_and_either_may_end_first() {
    for kind in [hash_table as Make, log_table, logged, compacting] {
        for later_first in [false, true] {
            for earlier_aborted in [false, true] {
                let mut job = Job::new([kind; 2], 128, 1);
                (0..1_000).for_each(|key| job.set(0, key, 1));
                let base = job.checkpoint(false);
                (0..10).for_each(|key| job.set(0, key, 2));
                let earlier_model = job.model.clone();
                job.subtasks[0].begin(2, false);
                (5..15).for_each(|key| job.set(0, key, 3));
                job.remove(0, 999);
                job.subtasks[0].begin(3, false);
                let (later_own, later) = job.subtasks[0].write(3, &job.disk);
                let (earlier_own, earlier) = job.subtasks[0].write(2, &job.disk);
                assert!(paths(&later).iter().all(|path| !earlier_own.iter().any(|own| own == path)));
                assert_eq!(
                    paths(&earlier),
                    [paths(&base), earlier_own.iter().map(|s| &**s).collect()].concat()
                );
                let subtask = &mut job.subtasks[0];
                if later_first {
                    subtask.completed(3);
                }
                if earlier_aborted {
                    subtask.aborted(2);
                } else {
                    subtask.completed(2);
                }
                if !later_first {
                    subtask.completed(3);
                }
                job.restored([kind; 2], 2, &later).check();
                let mut then = job.restored([kind; 2], 2, &base);
                then.model = earlier_model;
                let disk = then.handle();
                let mut at_earlier = then.restored([kind; 2], 1, &earlier);
                at_earlier.check();
                verify(&disk, Path::new("/job"), &earlier).expect("intact");
                // Whatever came of the earlier one, the next builds on the later.
                job.set(0, 500, 5);
                let subtask = &mut job.subtasks[0];
                subtask.begin(4, false);
                let (_, next) = subtask.write(4, &job.disk);
                subtask.completed(4);
                assert!(later_own.iter().all(|own| paths(&next).contains(&own.as_str())));
                assert!(paths(&next).iter().all(|path| !earlier_own.iter().any(|own| own == path)));
                job.restored([kind; 2], 2, &next).check();
            }
        }
    }
}

#[test]
fn a_file_that_a_checkpoint_no_longer_names_is_named_by_no_later_one() {
    for kind in [hash_table as Make, log_table, logged, compacting] {
        let mut job = Job::new([kind; 2], 16, 1);
        let (mut seen, mut gone) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for round in 0..200u64 {
            for n in 0..30 {
                job.set((n % 2) as usize, (round * 11 + n) % 150, round);
            }
            job.remove(0, round % 150);
            let segments = job.checkpoint(false);
            let named: std::collections::BTreeSet<String> =
                segments.iter().map(|segment| segment.path.clone()).collect();
            assert!(named.is_disjoint(&gone));
            seen.extend(named.iter().cloned());
            gone = seen.difference(&named).cloned().collect();
        }
        assert!(!gone.is_empty());
    }
}

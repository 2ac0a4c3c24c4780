//! Claims about restoring at another parallelism, and into tables of another kind.

use super::job::*;
use super::*;

const HASH: [Make; 2] = [hash_table; 2];
const LOG: [Make; 2] = [log_table; 2];
const NAIVE: [Make; 2] = [logged; 2];
const COMPACTING: [Make; 2] = [compacting; 2];
const MIXED: [Make; 2] = [hash_table, log_table];
const KINDS: [[Make; 2]; 5] = [HASH, LOG, NAIVE, COMPACTING, MIXED];

/// The numbers of subtasks before and after.
const RESCALES: [(u32, u32); 5] = [(4, 2), (2, 4), (2, 2), (15, 77), (77, 15)];

/// Changes of the `round`th interval: some keys are new, some change, some go.
fn change(job: &mut Job, round: u64) {
    for n in 0..400u64 {
        let key = (round * 131 + n * 7) % 2_000;
        job.set(0, key, round);
        if n % 3 == 0 {
            job.set(1, key, round * 1_000 + n);
        }
        if n % 4 == 0 {
            job.remove(0, key + 1);
            job.remove(1, key + 2);
        }
    }
}

#[test]
fn any_old_parallelism_restores_at_any_new_one_again_and_again() {
    for kinds in KINDS {
        for (old, new) in RESCALES {
            let mut job = Job::new(kinds, 128, old);
            let mut segments = Vec::new();
            for round in 0..5 {
                change(&mut job, round);
                segments = job.checkpoint(false);
            }
            for (round, parallelism) in [(5, new), (8, old), (11, new)] {
                job = job.restored(kinds, parallelism, &segments);
                job.check();
                for round in round..round + 3 {
                    change(&mut job, round);
                    segments = job.checkpoint(false);
                }
            }
            job.restored(kinds, 1, &segments).check();
        }
    }
}

#[test]
fn a_checkpoint_of_one_kind_of_tables_restores_into_another_and_goes_on_from_there() {
    for from in KINDS {
        for to in KINDS {
            let mut job = Job::new(from, 128, 3);
            let mut segments = Vec::new();
            for round in 0..12 {
                change(&mut job, round);
                segments = job.checkpoint(false);
            }
            let mut job = job.restored(to, 2, &segments);
            job.check();
            for round in 12..18 {
                change(&mut job, round);
                segments = job.checkpoint(false);
                job.restored(from, 3, &segments).check();
            }
        }
    }
}

#[test]
fn a_savepoint_restores_into_either_kind_at_any_parallelism_and_holds_bases_only() {
    for from in KINDS {
        let mut job = Job::new(from, 128, 4);
        for round in 0..3 {
            change(&mut job, round);
            job.checkpoint(false);
        }
        change(&mut job, 3);
        let savepoint = job.checkpoint(true);
        for segment in &savepoint {
            let files = job.disk.files.lock().expect("no test panics with it");
            let file = &files[&Path::new("/job").join(&segment.path)][..];
            let reader = SegmentReader::open(file, Path::new("seg")).expect("intact");
            assert!(reader.blocks().all(|block| block.kind == BlockKind::Base));
            assert_eq!(reader.checkpoint(), CheckpointId(4), "only files of its own");
        }
        for to in KINDS {
            for parallelism in [1, 4, 15] {
                let mut restored = job.restored(to, parallelism, &savepoint);
                restored.check();
                change(&mut restored, 4);
                let segments = restored.checkpoint(false);
                restored.restored(from, 4, &segments).check();
            }
        }
        // The job goes on from its last checkpoint, not from the savepoint.
        change(&mut job, 4);
        let after = job.checkpoint(false);
        assert!(after.iter().all(|segment| savepoint.iter().all(|own| own.path != segment.path)));
        job.restored(from, 4, &after).check();
    }
}

#[test]
fn a_detached_job_names_no_file_that_it_was_restored_from() {
    for kinds in KINDS {
        let mut job = Job::new(kinds, 128, 2);
        change(&mut job, 0);
        let first = job.checkpoint(false);
        let mut job = job.restored(kinds, 2, &first);
        job.subtasks.iter_mut().for_each(Subtask::detach);
        change(&mut job, 1);
        let second = job.checkpoint(false);
        assert!(second.iter().all(|segment| first.iter().all(|old| old.path != segment.path)));
        job.restored(kinds, 3, &second).check();
    }
}

#[test]
fn what_one_state_or_subtask_no_longer_names_is_not_read_although_another_names_the_file() {
    for kinds in [LOG, NAIVE, COMPACTING, MIXED] {
        let mut job = Job::new(kinds, 128, 1);
        for key in 0..300 {
            job.set(0, key, 1);
            job.set(1, key, 1);
        }
        let shared = job.checkpoint(false);
        let mut job = job.restored(kinds, 2, &shared);
        // State 1 of the lower half lets go of the shared file, deletions included; everything else goes on naming it.
        let lower: Vec<u64> =
            (0..300u64).filter(|key| KeyGroups::new(128).group_of(key.key_hash()) < 64).collect();
        for key in &lower {
            job.remove(1, *key);
        }
        let mut segments = Vec::new();
        for round in 0..4 {
            job.set(1, lower[0], round);
            segments = job.checkpoint(false);
        }
        let named = |segment: &&SegmentRef| segment.path == shared[0].path;
        assert!(segments.iter().any(|segment| named(&segment)));
        for parallelism in [1, 2, 3] {
            let mut merged = job.restored(kinds, parallelism, &segments);
            merged.check();
            merged.set(0, 5, 5);
            let again = merged.checkpoint(false);
            merged.restored(kinds, 1, &again).check();
        }
    }
}

#[test]
fn only_what_the_range_needs_is_read_and_that_is_checked() {
    for kinds in KINDS {
        let mut job = Job::new(kinds, 128, 1);
        for key in 0..5_000 {
            job.set(0, key, key);
        }
        let segments = job.checkpoint(false);
        let path = Path::new("/job").join(&segments[0].path);
        let (lower, upper) = {
            let files = job.disk.files.lock().expect("no test panics with it");
            let reader = SegmentReader::open(&files[&path][..], &path).expect("intact");
            let of = |groups: Range<KeyGroup>| reader.blocks().find(|block| groups.contains(&block.group));
            (of(0..64).expect("a block").offset, of(64..128).expect("a block").offset)
        };
        job.disk.files.lock().expect("no test panics with it").get_mut(&path).expect("written")
            [upper as usize + 50] ^= 1;
        let mut half = Job::new(kinds, 128, 2);
        half.disk = Arc::clone(&job.disk);
        let disk = half.handle();
        half.subtasks[0].restore(&disk, &segments).expect("the lower half is intact");
        let damage = half.subtasks[1].restore(&disk, &segments).expect_err("the upper half is not");
        assert!(matches!(damage, StoreError::Corrupt { offset, .. } if offset == upper));
        let damage = verify(&disk, Path::new("/job"), &segments).expect_err("not all is intact");
        assert!(matches!(damage, StoreError::Corrupt { offset, .. } if offset == upper));
        assert!(lower < upper);
    }
}

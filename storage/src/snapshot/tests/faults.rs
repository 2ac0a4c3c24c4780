//! Claims about snapshots on a disk that fails: one checkpoint fails, nothing else does.

use super::job::*;
use super::*;
use crate::io::{CrashProfile, Fault, OpKind, SimDisk};

const KINDS: [Make; 2] = [hash_table, log_table];

fn disk_with_directories() -> (Arc<SimDisk>, DiskHandle) {
    let disk = SimDisk::new();
    let handle = DiskHandle::new(Arc::clone(&disk) as Arc<dyn Disk>);
    for dir in ["/job", "/job/shared"] {
        handle.create_dir(dir).wait().expect("an empty disk");
    }
    for dir in ["/", "/job"] {
        handle.sync_dir(dir).wait().expect("a sound disk");
    }
    (disk, handle)
}

/// Writes what a snapshot yields, as a task does: each file is durable before the next call ends, and all are given up
/// with the first that fails.
fn write(subtask: &mut Subtask, checkpoint: u64, disk: &DiskHandle) -> io::Result<Vec<SegmentRef>> {
    let mut written: Vec<PathBuf> = Vec::new();
    let mut open: Option<(FileId, u64)> = None;
    let result = loop {
        match subtask.snapshots.advance(CheckpointId(checkpoint), &mut All(&mut subtask.tables), 500) {
            Step::More | Step::Waits => {}
            Step::Done => break disk.sync_dir("/job/shared").wait(),
            Step::Bytes { path, bytes, complete } => {
                let step = (|| {
                    let (file, offset) = match open.take() {
                        Some(open) => open,
                        None => {
                            let path = Path::new("/job").join(&*path);
                            let file = disk.open(&path, OpenMode::CreateNew).wait()?;
                            written.push(path);
                            (file, 0)
                        }
                    };
                    let end = offset + bytes.len() as u64;
                    open = Some((file, end));
                    disk.write(file, offset, bytes).wait()?;
                    if complete {
                        disk.sync_data(file).wait()?;
                        open = None;
                        disk.close(file).wait()?;
                    }
                    Ok(())
                })();
                if step.is_err() {
                    break step;
                }
            }
        }
    };
    match result {
        Ok(()) => Ok(subtask.snapshots.segments(CheckpointId(checkpoint)).list()),
        Err(error) => {
            if let Some((file, _)) = open {
                // A file whose sync has failed takes no more, whoever tries.
                if disk.sync_data(file).wait().is_err() {
                    assert!(disk.write(file, 0, vec![0]).wait().is_err(), "the file is poisoned");
                }
                disk.close(file).wait().expect("closing never fails here");
            }
            written.iter().for_each(|path| _ = disk.remove(path).wait());
            Err(error)
        }
    }
}

fn restored(kind: Make, job: &Job, disk: &DiskHandle, segments: &[SegmentRef]) -> Result<Job, StoreError> {
    let mut restored = Job::new([kind; 2], 128, 2);
    restored.model = job.model.clone();
    for subtask in &mut restored.subtasks {
        subtask.restore(disk, segments)?;
    }
    Ok(restored)
}

#[test]
fn a_write_open_or_sync_that_fails_fails_that_checkpoint_only() {
    for kind in KINDS {
        for (op, fault) in [
            (OpKind::Open, Fault::Io),
            (OpKind::Open, Fault::NoSpace),
            (OpKind::Write, Fault::Io),
            (OpKind::Write, Fault::NoSpace),
            (OpKind::SyncData, Fault::Io),
            (OpKind::SyncData, Fault::NoSpace),
            (OpKind::SyncDir, Fault::Io),
        ] {
            let mut failed = 0;
            // Each in turn, until the snapshot has no so many.
            for skip in 0.. {
                let (sim, disk) = disk_with_directories();
                let mut job = Job::new([kind; 2], 128, 1);
                job.subtasks[0].snapshots.file_bytes(20_000);
                (0..6_000).for_each(|key| job.set((key % 2) as usize, key, 1));
                job.subtasks[0].begin(1, false);
                let first = write(&mut job.subtasks[0], 1, &disk).expect("a sound disk");
                job.subtasks[0].completed(1);
                let first_model = job.model.clone();

                (0..3_000).for_each(|key| job.set((key % 2) as usize, key * 3, 2));
                job.remove(0, 4);
                job.subtasks[0].begin(2, false);
                job.set(1, 1, 3);
                sim.fail_after(op, skip, fault);
                let second = write(&mut job.subtasks[0], 2, &disk);
                let Err(error) = second else { break };
                failed += 1;
                assert!(error.raw_os_error().is_some(), "what the disk said: {error}");
                job.subtasks[0].aborted(2);

                // The last good checkpoint is whole, also after a power loss now.
                let after = DiskHandle::new(sim.crash_image(CrashProfile::Weak, skip) as Arc<dyn Disk>);
                let mut last = restored(kind, &job, &after, &first).expect("an intact checkpoint");
                last.model = first_model;
                last.check();

                // The tables went on, and the next checkpoint holds all of it.
                job.set(0, 10_001, 4);
                job.subtasks[0].begin(3, false);
                let third = write(&mut job.subtasks[0], 3, &disk).expect("the disk works again");
                job.subtasks[0].completed(3);
                job.check();
                restored(kind, &job, &disk, &third).expect("an intact checkpoint").check();
                let mut names: Vec<PathBuf> = third.iter().map(|s| Path::new("/job").join(&s.path)).collect();
                names.extend(first.iter().map(|s| Path::new("/job").join(&s.path)));
                let listed = disk.list("/job/shared").wait().expect("a directory");
                for entry in listed {
                    let path = Path::new("/job/shared").join(&entry.name);
                    assert!(names.contains(&path), "{} was left behind", path.display());
                }
            }
            assert!(failed >= if op == OpKind::SyncDir { 1 } else { 2 }, "{op:?} {failed}");
        }
    }
}

#[test]
fn a_disk_that_fails_while_restoring_is_an_error_that_may_pass() {
    for kind in KINDS {
        for op in [OpKind::Open, OpKind::Length, OpKind::Read] {
            for skip in 0..3 {
                let (sim, disk) = disk_with_directories();
                let mut job = Job::new([kind; 2], 128, 1);
                (0..2_000).for_each(|key| job.set((key % 2) as usize, key, 1));
                job.subtasks[0].begin(1, false);
                let segments = write(&mut job.subtasks[0], 1, &disk).expect("a sound disk");
                sim.fail_after(op, skip, Fault::Io);
                let error = restored(kind, &job, &disk, &segments).err().expect("the disk failed");
                assert!(error.may_pass() && matches!(error, StoreError::Io { .. }), "{error}");
                restored(kind, &job, &disk, &segments).expect("the disk works again").check();
            }
        }
    }
}

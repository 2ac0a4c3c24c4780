//! Bit rot in every byte of every file of a small checkpoint of a job: a bit flipped, all bits gone, all bits set. Each is
//! detected, and reported with the file's name.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thalweg::connector::{FileSink, GeneratorSource};
use thalweg::job::{Simulation, SimulationOptions};
use thalweg::operator::Collector;
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{CheckpointMode, Dataflow, Engine, RestartStrategy};
use thalweg_storage::StoreError;
use thalweg_storage::checkpoint::{CheckpointStore, read_payload};
use thalweg_storage::io::{CrashProfile, DiskHandle, SimDisk};
use thalweg_storage::manifest::{self, Manifest, Payload};

const JOB_DIR: &str = "/checkpoints/rot";
const SEEDS_MAX: u64 = 200;
const STEPS_MAX: u64 = 60_000;

type Record = (u64, String);

fn flow() -> Dataflow {
    let flow = Dataflow::new("rot");
    flow.source("texts", GeneratorSource::new(Some(2_000), |n| (n, "text ".repeat(60))))
        .key_by(|record: &Record| record.0 % 40)
        .process(
            "sums",
            ValueStateDescriptor::<u64>::new("sum"),
            |_: &u64, record: Record, mut sum: ValueState<'_, u64, u64>, out: &mut Collector<Record>| {
                sum.modify(|| 0, |sum| *sum += record.0);
                out.collect(record);
                Ok(())
            },
        )
        .sink("output", FileSink::csv("/output").roll_interval(Duration::ZERO));
    flow
}

/// A disk with a checkpoint that has all that there is: operator and keyed state, prepared output, in-flight data in the
/// manifest and in files.
fn victim() -> (Arc<SimDisk>, PathBuf, Manifest) {
    for seed in 0..SEEDS_MAX {
        let builder = Engine::builder()
            .workers(2)
            .parallelism(2)
            .max_parallelism(4)
            .checkpoint_dir("/checkpoints")
            .checkpoint_interval("3ms")
            .checkpoint_mode(CheckpointMode::Unaligned)
            .ring_batches(4)
            .batch_records(24)
            .restart_strategy(RestartStrategy::None);
        let mut simulation =
            Simulation::new(builder, flow(), SimulationOptions::seeded(seed)).expect("the job starts");
        let mut latest = None;
        while !simulation.has_ended() && simulation.steps() < STEPS_MAX {
            simulation.step();
            let now = simulation.metrics().checkpoints.latest;
            if now == latest {
                continue;
            }
            latest = now;
            let Some(id) = latest else { continue };
            let image = simulation.disk().crash_image(CrashProfile::KeepAll, 0);
            let path = Path::new(JOB_DIR).join(format!("chk-{id}/MANIFEST"));
            let Ok(bytes) = image.read_file(&path) else { continue };
            let manifest = manifest::decode(&path, &bytes).expect("an intact manifest");
            let is_file = |payload: &Payload| matches!(payload, Payload::File { .. });
            let subtasks = || manifest.operators.iter().flat_map(|operator| &operator.subtasks);
            let has_all = manifest.channels.iter().any(|channel| is_file(&channel.data))
                && manifest.channels.iter().any(|channel| !is_file(&channel.data))
                && subtasks().any(|subtask| !subtask.segments.is_empty())
                && subtasks().any(|subtask| !subtask.operator_state.is_empty())
                && subtasks().any(|subtask| !subtask.committables.is_empty());
            if has_all {
                println!("seed {seed}, checkpoint {id}");
                return (image, path, manifest);
            }
        }
    }
    panic!("no checkpoint of {SEEDS_MAX} runs has all that there is");
}

/// Reads all that `file` holds, as a restore does.
fn read(disk: &Arc<SimDisk>, manifest: &Manifest, file: &str) -> Result<(), StoreError> {
    let handle = DiskHandle::new(disk.clone());
    let dir = Path::new(JOB_DIR);
    if file.ends_with("MANIFEST") {
        let store = CheckpointStore::open_unlocked(handle, Path::new("/checkpoints"), "rot")?;
        let found = store.latest()?;
        assert_eq!(found.as_ref(), Some(manifest), "what is accepted is what was written");
        return Ok(());
    }
    for channel in &manifest.channels {
        if matches!(&channel.data, Payload::File { path, .. } if path == file) {
            read_payload(&handle, dir, &channel.data)?;
        }
    }
    for subtask in manifest.operators.iter().flat_map(|operator| &operator.subtasks) {
        let own: Vec<_> = subtask.segments.iter().filter(|segment| segment.path == file).cloned().collect();
        thalweg_storage::snapshot::verify(&handle, dir, &own)?;
    }
    Ok(())
}

#[test]
fn each_byte_of_each_file_of_a_checkpoint_is_missed_if_it_rots() {
    let (disk, manifest_path, manifest) = victim();
    let mut files: Vec<String> = manifest.files().map(str::to_owned).collect();
    files.push(manifest_path.strip_prefix(JOB_DIR).expect("below it").to_string_lossy().into_owned());
    files.sort();
    files.dedup();
    let (mut bytes, mut detected) = (0_u64, 0_u64);
    for file in &files {
        read(&disk, &manifest, file).expect("an intact file");
        let path = Path::new(JOB_DIR).join(file);
        let content = disk.read_file(&path).expect("it is there");
        // Damaged in place and mended again: a copy for each would take longer than all the rest. The manifest's reader tidies
        // the directory, so it gets one.
        for (offset, byte) in content.iter().enumerate() {
            bytes += 1;
            let mut masks = vec![1_u8 << (offset % 8), *byte, !*byte];
            masks.retain(|mask| *mask != 0);
            masks.sort_unstable();
            masks.dedup();
            for mask in masks {
                let what = || format!("{file} at {offset}: {byte:#04x} became {:#04x}", byte ^ mask);
                let copy = match file.ends_with("MANIFEST") {
                    true => disk.crash_image(CrashProfile::KeepAll, 0),
                    false => disk.clone(),
                };
                copy.corrupt(&path, offset as u64, mask).expect("it is there");
                let error = read(&copy, &manifest, file).expect_err(&what()).to_string();
                assert!(error.contains(&*path.to_string_lossy()), "{error} does not name it: {}", what());
                detected += 1;
                copy.corrupt(&path, offset as u64, mask).expect("it is there");
            }
        }
        read(&disk, &manifest, file).expect("mended");
    }
    println!("{} files, {bytes} bytes, {detected} of {detected} changes detected", files.len());
    assert!(files.len() >= 4 && bytes > 20_000);
}

//! Damage to a completed checkpoint, wherever it is: the restart refuses it by name and place, and deletes nothing.

use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use thalweg::connector::{BoxError, PushSource};
use thalweg::job::EngineBuilder;
use thalweg::operator::Collector;
use thalweg::operators::{ProcessFunction, RuntimeContext};
use thalweg::state::{TablesOf, ValueState, ValueStateDescriptor};
use thalweg::{CheckpointId, CheckpointMode, Dataflow, Engine, Error};
use thalweg_storage::StoreError;
use thalweg_storage::checkpoint::{CheckpointStore, read_payload, verify_channel_files};
use thalweg_storage::io::{DiskHandle, StdDisk};
use thalweg_storage::key_group::KeyGroups;
use thalweg_storage::manifest::{self, Manifest, Payload};
use thalweg_storage::snapshot::KeyedSnapshots;
use thalweg_storage::table::{Backend, KeyedTable};
use thalweg_tests::support::{
    GatedSink, failure, files_below, newest_manifest_path, outcome, small_engine, wait_until,
};

type Record = (u64, String);

/// Counts records, as operator state.
#[derive(Clone, Default)]
struct Counter(u64);

impl ProcessFunction<Record> for Counter {
    type Out = Record;
    type State = u64;

    fn open(&mut self, _: &RuntimeContext, restored: Vec<u64>) -> Result<(), BoxError> {
        self.0 = restored.iter().sum();
        Ok(())
    }

    fn process(&mut self, record: Record, out: &mut Collector<Record>) -> Result<(), BoxError> {
        self.0 += 1;
        out.collect(record);
        Ok(())
    }

    fn snapshot(&mut self, _: CheckpointId) -> Result<Vec<u64>, BoxError> {
        Ok(vec![self.0])
    }
}

fn flow(source: PushSource<Record>, sink: &GatedSink<Record>) -> Dataflow {
    let flow = Dataflow::new("victim");
    flow.source("records", source)
        .with_parallelism(1)
        .rebalance()
        .process("counter", Counter::default())
        .key_by(|record| record.0 % 64)
        .process(
            "sums",
            ValueStateDescriptor::<u64>::new("sum"),
            |_: &u64, record: Record, mut sum: ValueState<'_, u64, u64>, out: &mut Collector<Record>| {
                sum.modify(|| 0, |sum| *sum += record.0);
                out.collect(record);
                Ok(())
            },
        )
        .rebalance()
        .sink("sink", sink.clone());
    flow
}

fn builder(dir: &Path) -> EngineBuilder {
    let unaligned = small_engine().checkpoint_dir(dir).checkpoint_mode(CheckpointMode::Unaligned);
    unaligned.ring_batches(2).batch_records(16)
}

/// A checkpoint with everything in it: operator and keyed state in several segments, prepared output, in-flight data
/// within the manifest and in files.
struct Victim {
    dir: TempDir,
    manifest: Manifest,
    manifest_path: PathBuf,
    disk: DiskHandle,
}

impl Victim {
    fn new() -> Victim {
        let dir = TempDir::new().unwrap();
        let engine = builder(dir.path()).build().unwrap();
        let (ingress, source) = PushSource::channel(10_000);
        let sink = GatedSink::open();
        let job = engine.run(flow(source, &sink)).unwrap();
        (0..200).for_each(|n| ingress.push((n, "small".to_owned())).unwrap());
        wait_until("the small records are through", || sink.taken() == 200);
        job.checkpoint().unwrap();
        sink.stop();
        (200..2000).for_each(|n| ingress.push((n, "large".repeat(100))).unwrap());
        let mut seen = (0, 0);
        wait_until("the rings are full", || {
            let tasks = job.metrics().tasks;
            let blocked = tasks.iter().any(|t| t.is_source && t.time.is_some_and(|t| t.blocked_ns > 0));
            let moved: u64 = tasks.iter().map(|task| task.records_in).sum();
            seen = if blocked && moved == seen.0 { (moved, seen.1 + 1) } else { (moved, 0) };
            seen.1 >= 100
        });
        job.checkpoint().unwrap();
        drop(engine);
        let manifest_path = newest_manifest_path(&dir.path().join("victim"));
        let manifest = manifest::decode(&manifest_path, &fs::read(&manifest_path).unwrap()).unwrap();
        let inline = |payload: &Payload| matches!(payload, Payload::Inline(_));
        assert!(manifest.channels.iter().any(|c| inline(&c.data)), "some in-flight data lie in the manifest");
        assert!(manifest.channels.iter().any(|c| !inline(&c.data)), "some in-flight data lie in files");
        assert!(manifest.operators.iter().any(|o| o.subtasks.iter().any(|s| s.segments.len() > 1)));
        assert!(manifest.operators.iter().any(|o| o.subtasks.iter().any(|s| !s.committables.is_empty())));
        let disk = DiskHandle::new(StdDisk::start(1).unwrap());
        let victim = Victim { dir, manifest, manifest_path, disk };
        victim.restore_all().unwrap();
        victim
    }

    fn job_dir(&self) -> PathBuf {
        self.dir.path().join("victim")
    }

    /// The files that the newest manifest names, each once.
    fn data_files(&self) -> Vec<String> {
        let mut files: Vec<String> = self.manifest.files().map(str::to_owned).collect();
        files.sort();
        files.dedup();
        files
    }

    /// Reads everything that `file`, which the manifest names, holds: all of it, then what a restore needs.
    fn restore(&self, file: &str) -> Result<(), StoreError> {
        let job_dir = self.job_dir();
        verify_channel_files(&job_dir, &self.manifest)?;
        for channel in &self.manifest.channels {
            if matches!(&channel.data, Payload::File { path, .. } if path == file) {
                read_payload(&self.disk, &job_dir, &channel.data)?;
            }
        }
        let groups = KeyGroups::new(self.manifest.max_parallelism);
        for operator in &self.manifest.operators {
            for subtask in operator.subtasks.iter().filter(|s| s.segments.iter().any(|s| s.path == file)) {
                thalweg_storage::snapshot::verify(&self.disk, &job_dir, &subtask.segments)?;
                let range = groups.range_of(subtask.index, operator.parallelism);
                let mut table = KeyedTable::<u64, u64>::new(&Backend::HashMap, "sum", groups, range.clone());
                let mut snapshots = KeyedSnapshots::new(range, true, 1);
                let mut tables = TablesOf(&mut table);
                snapshots.restore(&self.disk, &job_dir, &subtask.segments, &operator.keyed, &mut tables)?;
            }
        }
        Ok(())
    }

    fn restore_all(&self) -> Result<(), StoreError> {
        self.data_files().iter().try_for_each(|file| self.restore(file))
    }

    /// Runs the job on `engine`, which has to refuse to. Returns the reason.
    fn refusal(&self, engine: &Engine) -> String {
        let before = files_below(&self.job_dir());
        let (_ingress, source) = PushSource::channel(16);
        let message = match engine.run(flow(source, &GatedSink::open())) {
            Err(Error::Checkpoints(error)) => error.to_string(),
            Err(other) => panic!("refused for another reason: {other}"),
            Ok(job) => failure(&job),
        };
        assert_eq!(files_below(&self.job_dir()), before, "nothing was deleted or written");
        assert!(!message.contains("panic"), "{message}");
        message
    }
}

/// A bit flipped, all bits gone, all bits set: whichever of them change the byte.
fn damages(byte: u8) -> impl Iterator<Item = u8> {
    [byte ^ 0x10, 0x00, 0xFF].into_iter().filter(move |damaged| *damaged != byte)
}

/// The error names the file and the place in it.
fn assert_names(error: &StoreError, path: &Path, what: &str) {
    assert!(matches!(error, StoreError::Corrupt { .. } | StoreError::NewerFormat { .. }), "{what}: {error}");
    assert_message_names(&error.to_string(), path, what);
}

fn assert_message_names(message: &str, path: &Path, what: &str) {
    assert!(message.contains(&*path.to_string_lossy()), "{what}: {message}");
    assert!(message.contains("at offset") || message.contains("has format version"), "{what}: {message}");
}

#[test]
fn a_changed_byte_anywhere_in_the_manifest_is_refused() {
    let victim = Victim::new();
    let mut bytes = fs::read(&victim.manifest_path).unwrap();
    for at in 0..bytes.len() {
        let intact = bytes[at];
        for damaged in damages(intact) {
            bytes[at] = damaged;
            let what = format!("byte {at}: {intact:#x} became {damaged:#x}");
            let error = manifest::decode(&victim.manifest_path, &bytes).expect_err(&what);
            assert_names(&error, &victim.manifest_path, &what);
        }
        bytes[at] = intact;
    }
    for length in 0..bytes.len() {
        let what = format!("cut to {length} bytes");
        let error = manifest::decode(&victim.manifest_path, &bytes[..length]).expect_err(&what);
        assert_names(&error, &victim.manifest_path, &what);
    }
    bytes.push(0);
    assert!(manifest::decode(&victim.manifest_path, &bytes).is_err(), "a byte too many");
}

#[test]
fn a_changed_byte_anywhere_in_a_segment_or_in_flight_data_is_refused() {
    let victim = Victim::new();
    for file in victim.data_files() {
        let path = victim.job_dir().join(&file);
        let intact = fs::read(&path).unwrap();
        // In-flight data are under one checksum per payload, so a sample says as much as all of them.
        let stride = if file.starts_with("shared/") { 1 } else { 97 };
        for at in (0..intact.len()).step_by(stride) {
            // Every kind of damage where a file says what it is, one after another in between.
            let edge = at < 64 || at + 64 >= intact.len();
            for damaged in
                damages(intact[at]).skip(if edge { 0 } else { at % 2 }).take(if edge { 3 } else { 1 })
            {
                let mut bytes = intact.clone();
                bytes[at] = damaged;
                fs::write(&path, &bytes).unwrap();
                let what = format!("{file}, byte {at}: {:#x} became {damaged:#x}", intact[at]);
                let error = victim.restore(&file).expect_err(&what);
                assert_names(&error, &path, &what);
            }
        }
        for length in (0..intact.len()).step_by(1 + intact.len() / 50) {
            fs::write(&path, &intact[..length]).unwrap();
            let what = format!("{file}, cut to {length} bytes");
            assert_names(&victim.restore(&file).expect_err(&what), &path, &what);
        }
        fs::write(&path, [&intact[..], b"more"].concat()).unwrap();
        let what = format!("{file}, with bytes too many");
        assert_names(&victim.restore(&file).expect_err(&what), &path, &what);
        fs::remove_file(&path).unwrap();
        let error = victim.restore(&file).expect_err("the file is missing");
        assert!(matches!(&error, StoreError::Io { path: named, .. } if *named == path), "{error}");
        fs::write(&path, &intact).unwrap();
        victim.restore(&file).unwrap();
    }
}

#[test]
fn an_engine_refuses_a_damaged_checkpoint_and_deletes_nothing() {
    let victim = Victim::new();
    let engine = builder(victim.dir.path()).build().unwrap();
    let mut files: Vec<PathBuf> = victim.data_files().iter().map(|f| victim.job_dir().join(f)).collect();
    files.push(victim.manifest_path.clone());
    for path in files {
        let intact = fs::read(&path).unwrap();
        // Both ends, where headers, directories and footers lie, and a sample of what is between.
        let ends = (0..8.min(intact.len())).chain(intact.len() - 8..intact.len());
        for at in ends.chain((8..intact.len() - 8).step_by(1 + intact.len() / 12)) {
            let mut bytes = intact.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            let what = format!("{}, byte {at}", path.display());
            assert_message_names(&victim.refusal(&engine), &path, &what);
        }
        for bytes in [&intact[..0], &intact[..intact.len() / 2], &[&intact[..], b"more"].concat()] {
            fs::write(&path, bytes).unwrap();
            let what = format!("{}, {} of {} bytes", path.display(), bytes.len(), intact.len());
            assert_message_names(&victim.refusal(&engine), &path, &what);
        }
        fs::write(&path, &intact).unwrap();
    }
    // Mended, it runs again.
    let (ingress, source) = PushSource::channel(16);
    drop(ingress);
    outcome(&engine.run(flow(source, &GatedSink::open())).unwrap()).unwrap();
}

#[test]
fn an_engine_refuses_a_checkpoint_with_swapped_files() {
    let victim = Victim::new();
    let engine = builder(victim.dir.path()).build().unwrap();
    let files: Vec<PathBuf> = victim.data_files().iter().map(|f| victim.job_dir().join(f)).collect();
    let swap = |a: &Path, b: &Path| {
        let (left, right) = (fs::read(a).unwrap(), fs::read(b).unwrap());
        fs::write(a, right).unwrap();
        fs::write(b, left).unwrap();
    };
    for pair in files.windows(2) {
        swap(&pair[0], &pair[1]);
        let message = victim.refusal(&engine);
        let named = pair.iter().any(|path| message.contains(&*path.to_string_lossy()));
        assert!(named, "{} and {} swapped: {message}", pair[0].display(), pair[1].display());
        swap(&pair[0], &pair[1]);
    }
    victim.restore_all().unwrap();
}

#[test]
fn an_engine_refuses_a_checkpoint_of_which_a_file_is_missing_however_often_it_may_restart() {
    let victim = Victim::new();
    // The default strategy restarts for ever: what is gone for good must not keep it going.
    let restarting = thalweg::RestartStrategy::default();
    let engine = builder(victim.dir.path()).restart_strategy(restarting).build().unwrap();
    for file in victim.data_files() {
        let path = victim.job_dir().join(&file);
        let intact = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let message = victim.refusal(&engine);
        assert!(message.contains(&*path.to_string_lossy()), "{message}");
        fs::write(&path, &intact).unwrap();
    }
}

#[test]
fn a_damaged_newest_checkpoint_is_not_passed_over_for_an_older_one() {
    let dir = TempDir::new().unwrap();
    let sink = GatedSink::open();
    let engine = builder(dir.path()).retained_checkpoints(2).build().unwrap();
    let (ingress, source) = PushSource::channel(100);
    let job = engine.run(flow(source, &sink)).unwrap();
    for n in 0..2 {
        ingress.push((n, "record".to_owned())).unwrap();
        wait_until("the record is through", || sink.taken() == n + 1);
        job.checkpoint().unwrap();
    }
    drop(engine);
    let job_dir = dir.path().join("victim");
    let path = newest_manifest_path(&job_dir);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let before = files_below(&job_dir);
    let engine = builder(dir.path()).retained_checkpoints(2).build().unwrap();
    let (_ingress, source) = PushSource::channel(100);
    let message = failure(&engine.run(flow(source, &sink)).unwrap());
    assert_message_names(&message, &path, "the newest of two");
    drop(engine);
    assert_eq!(files_below(&job_dir), before);
    // The older one is still there for people to decide on.
    let disk = DiskHandle::new(StdDisk::start(1).unwrap());
    let store = CheckpointStore::open(disk, dir.path(), "victim").unwrap();
    assert!(store.load(store.completed()[0]).is_ok());
    assert!(store.latest().is_err());
}

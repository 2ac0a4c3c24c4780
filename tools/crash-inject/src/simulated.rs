//! What all simulated lives of jobs share: settings, source and sink, and what their checkpoints and output must be.
//!
//! Always true: each key is counted from 1, and each count is a row `key,count` of the output.

use crate::contract::Audit;
use crate::random::Random;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thalweg::config::StateBackend;
use thalweg::connector::files::Csv;
use thalweg::connector::{FileSink, GeneratorSource};
use thalweg::{CheckpointMode, Engine, EngineBuilder};
use thalweg_storage::checkpoint::{CheckpointStore, read_payload};
use thalweg_storage::io::{DiskHandle, SimDisk};
use thalweg_storage::{CheckpointId, StoreError};

const RECORDS: u64 = 500;
const KEYS: u64 = 60;
/// Records per second.
pub(crate) const RATE: f64 = 150_000.0;
/// A job that takes more steps is stuck.
pub(crate) const STEPS_MAX: u64 = 400_000;
pub(crate) const JOB: &str = "job";
const CHECKPOINTS: &str = "/checkpoints";
const OUTPUT: &str = "/output";

/// Settings that vary; state lives on the log backend, with little memory, or in hash maps.
pub(crate) fn builder(log: bool, random: &mut Random) -> EngineBuilder {
    let builder = Engine::builder()
        .workers(1 + random.below(3) as usize)
        .parallelism(2)
        .max_parallelism(4)
        .pin(false)
        .checkpoint_dir(CHECKPOINTS)
        .checkpoint_interval("1ms")
        .checkpoint_mode([CheckpointMode::Unaligned, CheckpointMode::Aligned][random.below(2) as usize])
        .retained_checkpoints(1 + random.below(2) as usize)
        .max_concurrent_checkpoints(1 + random.below(2) as usize)
        .ring_batches(1 + random.below(2) as usize)
        .batch_records(2 + random.below(6) as usize)
        .buffer_timeout(Duration::from_millis(1));
    match log {
        true => builder.state_backend(StateBackend::Log).state_memory("32kb"),
        false => builder.state_backend(StateBackend::HashMap),
    }
}

/// The keys of all records, in order.
pub(crate) fn numbers() -> GeneratorSource<u64, impl Fn(u64) -> u64 + Clone + Send + 'static> {
    GeneratorSource::new(Some(RECORDS), key_of)
}

fn key_of(n: u64) -> u64 {
    n.wrapping_mul(7) % KEYS
}

/// What `key` is counted up to.
pub(crate) fn count_of(key: u64) -> u64 {
    (0..RECORDS).filter(|n| key_of(*n) == key).count() as u64
}

/// Writes rows to [`OUTPUT`].
pub(crate) fn output() -> FileSink<Csv<(u64, u64)>> {
    FileSink::csv(OUTPUT).roll_interval(Duration::from_millis(2))
}

/// The newest checkpoint that has a directory.
pub(crate) fn newest_begun(disk: &SimDisk) -> u64 {
    let dirs = disk.dirs().into_iter();
    let id = |dir: PathBuf| dir.file_name()?.to_str()?.strip_prefix("chk-")?.parse().ok();
    dirs.filter_map(id).max().unwrap_or(0)
}

/// Opens the checkpoints of an image as an engine does, and reads all that the latest one names.
pub(crate) fn latest_whole(image: &Arc<SimDisk>) -> Result<Option<CheckpointId>, StoreError> {
    let disk = DiskHandle::new(image.clone());
    let store = CheckpointStore::open_unlocked(disk.clone(), Path::new(CHECKPOINTS), JOB)?;
    let Some(manifest) = store.latest()? else { return Ok(None) };
    for channel in &manifest.channels {
        read_payload(&disk, store.dir(), &channel.data)?;
    }
    for subtask in manifest.operators.iter().flat_map(|operator| &operator.subtasks) {
        thalweg_storage::snapshot::verify(&disk, store.dir(), &subtask.segments)?;
    }
    Ok(Some(manifest.checkpoint))
}

/// What is wrong with the output files, unless they hold every count of every key, exactly once and in order.
pub(crate) fn judge_output(disk: &SimDisk) -> Result<(), Wrong> {
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut wrong = Wrong::default();
    let mut files: Vec<_> = disk.files().into_iter().filter(|path| path.starts_with(OUTPUT)).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("part-") {
            wrong.add_corrupt(format!("{name} is left over"));
            continue;
        }
        let text = String::from_utf8(disk.read_file(&file).unwrap_or_default()).unwrap_or_default();
        for row in text.lines() {
            let numbers = row.split_once(',').map(|(key, count)| (key.parse(), count.parse()));
            match numbers {
                Some((Ok(key), Ok(count))) if key < KEYS => found.entry(key).or_default().push(count),
                _ => wrong.add_corrupt(format!("{name} holds {row:?}")),
            }
        }
    }
    for key in 0..KEYS {
        wrong.audit.add(Audit::of_sequence(found.remove(&key).unwrap_or_default(), count_of(key)));
    }
    if wrong.audit.is_clean() { Ok(()) } else { Err(wrong) }
}

/// What is wrong with output.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wrong {
    pub(crate) audit: Audit,
    /// The first thing that is like nothing in the reference.
    strange: Option<String>,
}

impl Wrong {
    fn add_corrupt(&mut self, what: String) {
        self.audit.corrupt += 1;
        self.strange.get_or_insert(what);
    }
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.audit, self.strange.as_deref().unwrap_or_default())
    }
}

//! A process that runs another store for `thalweg-bench --peers`: reads orders from its standard input, one line of JSON each, and answers
//! on its standard output. Not for people.
//!
//! Before the first order it allocates nothing worth mentioning, so that its parent can limit its memory. It ends with its input.

mod fjall_store;
mod process;
mod rocks_store;
#[path = "../../src/spec.rs"]
mod spec;
#[path = "../../src/workload.rs"]
#[allow(dead_code, reason = "shared with thalweg-bench, which uses more of it")]
mod workload;

use fjall_store::FjallStore;
use rocks_store::RocksStore;
use serde::Serialize;
use spec::{PeerFigures, PeerKind, PeerLoaded, PeerSpec, PeerTask};
use std::error::Error;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use workload::{Keys, bump, fill_value};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Keys that are loaded by one batch of writes.
const LOAD_BATCH: u64 = 1024;
/// Batches whose keys are made before they are measured together.
const CHUNK_BATCHES: usize = 64;

/// A store under test.
trait Store {
    /// Name and version, and settings.
    fn describe(&self) -> (String, String);

    /// Writes `count` keys, `key` and on, with the values in `values`, one after another.
    fn load(&mut self, key: u64, count: u64, values: &[u8], value_bytes: usize) -> Result<()>;

    /// Waits until background work for the load has ended.
    fn settle(&mut self) -> Result<()>;

    /// Reads the values of all keys, adds one to the count of each and writes them back in one batch. A key may come twice.
    fn update(&mut self, keys: &[u64]) -> Result<()>;

    /// Makes a durable checkpoint in `dir`, which does not exist; returns the bytes of its files that the one before did not
    /// have.
    fn checkpoint(&mut self, dir: &Path) -> Result<u64>;
}

fn main() -> Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let Some(line) = lines.next() else { return Ok(()) };
    let spec: PeerSpec = serde_json::from_str(&line?)?;
    if let Some(core) = spec.core {
        process::pin(core)?;
    }
    let started = Instant::now();
    let mut store: Box<dyn Store> = match spec.kind {
        PeerKind::Rocksdb => Box::new(RocksStore::open(&spec)?),
        PeerKind::Fjall => Box::new(FjallStore::open(&spec)?),
    };
    match spec.open_existing {
        false => load(store.as_mut(), &spec)?,
        true => store.update(&[0])?,
    }
    let (name, settings) = store.describe();
    let (resident_bytes, _) = process::resident_bytes()?;
    answer(&PeerLoaded { name, settings, seconds: started.elapsed().as_secs_f64(), resident_bytes })?;
    for (index, line) in lines.enumerate() {
        let task: PeerTask = serde_json::from_str(&line?)?;
        answer(&run(store.as_mut(), &spec, &task, index)?)?;
    }
    Ok(())
}

fn answer(answer: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_string(answer)?;
    line.push('\n');
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes())?;
    Ok(output.flush()?)
}

fn load(store: &mut dyn Store, spec: &PeerSpec) -> Result<()> {
    let mut values = vec![0; LOAD_BATCH as usize * spec.value_bytes];
    for key in (0..spec.keys).step_by(LOAD_BATCH as usize) {
        let count = LOAD_BATCH.min(spec.keys - key);
        for (index, value) in values.chunks_mut(spec.value_bytes).enumerate() {
            fill_value(key + index as u64, value);
        }
        store.load(key, count, &values, spec.value_bytes)?;
    }
    store.settle()
}

fn run(store: &mut dyn Store, spec: &PeerSpec, task: &PeerTask, index: usize) -> Result<PeerFigures> {
    let cpu = process::cpu_time();
    let io = process::io_bytes()?;
    let dir = |number: u64| spec.dir.with_extension(format!("checkpoint-{index}-{number}"));
    let mut figures = PeerFigures::default();
    match task {
        PeerTask::Update { access, seed, batch, seconds, records_max, checkpoint_every_s } => {
            let mut keys = Keys::new(*access, spec.keys, *seed);
            let mut chunk = vec![0; batch * CHUNK_BATCHES];
            let mut clock = Clock::default();
            let mut next_checkpoint = *checkpoint_every_s;
            while clock.total.as_secs_f64() < *seconds && figures.records < *records_max {
                keys.fill(&mut chunk);
                clock.resume();
                for batch in chunk.chunks(*batch) {
                    if next_checkpoint.is_some_and(|at| clock.now().as_secs_f64() >= at) {
                        figures.checkpoint_bytes += checkpoint(store, &dir(figures.checkpoints))?;
                        figures.checkpoints += 1;
                        next_checkpoint = checkpoint_every_s.map(|every| clock.now().as_secs_f64() + every);
                    }
                    store.update(batch)?;
                    figures.records += batch.len() as u64;
                    clock.lap();
                }
                clock.pause();
            }
            figures.seconds = clock.total.as_secs_f64();
            figures.gap_us_max = clock.lap_max.as_secs_f64() * 1e6;
        }
        PeerTask::Intervals { access, seed, records, intervals } => {
            let mut keys = Keys::new(*access, spec.keys, *seed);
            let mut changed = vec![0; *records];
            // The first holds all that was loaded.
            checkpoint(store, &dir(0))?;
            for interval in 1..=*intervals {
                keys.fill(&mut changed);
                let started = Instant::now();
                changed.chunks(LOAD_BATCH as usize).try_for_each(|batch| store.update(batch))?;
                figures.checkpoint_bytes += checkpoint(store, &dir(u64::from(interval)))?;
                figures.seconds += started.elapsed().as_secs_f64();
                figures.records += *records as u64;
            }
            figures.checkpoints = u64::from(*intervals);
        }
        PeerTask::Checkpoint { dir } => {
            figures.checkpoint_bytes = store.checkpoint(dir)?;
            figures.checkpoints = 1;
        }
    }
    let (read, written) = process::io_bytes()?;
    (figures.read_bytes, figures.written_bytes) = (read - io.0, written - io.1);
    figures.cpu_seconds = (process::cpu_time() - cpu).as_secs_f64();
    (figures.resident_bytes, figures.resident_bytes_max) = process::resident_bytes()?;
    Ok(figures)
}

/// Takes a checkpoint and removes its directory again, as if it had been uploaded and superseded.
fn checkpoint(store: &mut dyn Store, dir: &Path) -> Result<u64> {
    let bytes = store.checkpoint(dir)?;
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    Ok(bytes)
}

/// Adds up the time that is measured, and finds the longest lap.
#[derive(Default)]
struct Clock {
    total: Duration,
    started: Option<Instant>,
    lap: Option<Instant>,
    lap_max: Duration,
}

impl Clock {
    fn resume(&mut self) {
        let now = Instant::now();
        (self.started, self.lap) = (Some(now), Some(now));
    }

    fn now(&self) -> Duration {
        self.total + self.started.map_or(Duration::ZERO, |started| started.elapsed())
    }

    fn lap(&mut self) {
        let now = Instant::now();
        if let Some(lap) = self.lap.replace(now) {
            self.lap_max = self.lap_max.max(now - lap);
        }
    }

    fn pause(&mut self) {
        self.total = self.now();
        self.started = None;
    }
}

/// Adds one to the counts of `keys` in `values`, which has one entry for each of them: a key that comes again goes on with the value that
/// it has got from the time before. Returns the entries that are the last of their keys.
fn bump_all(keys: &[u64], values: &mut [Vec<u8>]) -> Vec<usize> {
    let mut last = std::collections::HashMap::with_capacity(keys.len());
    for (index, key) in keys.iter().enumerate() {
        if let Some(earlier) = last.insert(*key, index) {
            values[index] = values[earlier].clone();
        }
        bump(&mut values[index]);
    }
    last.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use workload::Access;

    #[test]
    fn a_key_that_comes_twice_counts_two() {
        let mut values = vec![vec![0; 8]; 3];
        let mut last = bump_all(&[5, 6, 5], &mut values);
        last.sort_unstable();
        assert_eq!(last, [1, 2]);
        assert_eq!(values[2], 2_u64.to_le_bytes());
    }

    fn counts_all(kind: PeerKind) {
        let dir = std::env::temp_dir().join(format!("thalweg-compare-{}-{kind:?}", std::process::id()));
        let spec = PeerSpec {
            kind,
            dir: dir.clone(),
            keys: 5000,
            value_bytes: 20,
            memory_bytes: 16 << 20,
            direct_io: false,
            core: None,
            open_existing: false,
        };
        let open = |spec: &PeerSpec| -> Box<dyn Store> {
            match kind {
                PeerKind::Rocksdb => Box::new(RocksStore::open(spec).expect("a store")),
                PeerKind::Fjall => Box::new(FjallStore::open(spec).expect("a store")),
            }
        };
        let mut store = open(&spec);
        load(store.as_mut(), &spec).expect("loaded");
        let update = PeerTask::Update {
            access: Access::Zipf,
            seed: 1,
            batch: 100,
            seconds: 60.0,
            records_max: 10_000,
            checkpoint_every_s: Some(0.0),
        };
        let figures = run(store.as_mut(), &spec, &update, 0).expect("figures");
        assert!(figures.records >= 10_000 && figures.checkpoints > 1, "{figures:?}");
        let intervals = PeerTask::Intervals { access: Access::Uniform, seed: 2, records: 500, intervals: 3 };
        let figures = run(store.as_mut(), &spec, &intervals, 1).expect("figures");
        assert!(figures.records == 1500 && figures.checkpoint_bytes > 0, "{figures:?}");
        drop(store);
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn rocksdb_counts_and_takes_checkpoints() {
        counts_all(PeerKind::Rocksdb);
    }

    #[test]
    fn fjall_counts_and_takes_checkpoints() {
        counts_all(PeerKind::Fjall);
    }
}

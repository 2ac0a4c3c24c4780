//! *Recovery*: from the start of a process to the first new output of a job whose state a checkpoint holds, 10 M keys × 100 bytes; beside
//! what reading and decompressing the same bytes takes, on as many threads as the job has workers.
//!
//! Neither side finds the checkpoint's files in the page cache. A key that the checkpoint should hold and that is missing after the restore
//! ends the job.

use crate::child::Part;
use crate::peers::{self, Peer};
use crate::report::{self, Report, summarise};
use crate::spec::{PeerKind, PeerSpec, PeerTask};
use crate::store::{Backend, Payload, Value};
use crate::{Result, engine_state, store};
use clap::ValueEnum;
use serde::Serialize;
use std::fs::File;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use thalweg::connector::{CountingSink, GeneratorSource};
use thalweg::state::ValueStateDescriptor;
use thalweg::{Dataflow, Engine, JobHandle};
use thalweg_storage::segment::SegmentReader;

const SCENARIO: &str = "recovery";

/// First bytes of a zstd frame (RFC 8878, section 3.1.1).
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Bytes of a block in front of its rows; see FORMAT.md of the storage crate.
const BLOCK_HEADER_BYTES: usize = 40;
/// Blocks hold at most this much, save for single large rows, which there are none of here.
const BLOCK_BYTES_MAX: usize = 4 << 20;

/// Options of the scenario.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: store::Common,
    /// Number of keys
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..1 << 32))]
    keys: u64,
    /// Number of workers: all cores that the process may use unless given
    #[arg(long)]
    workers: Option<usize>,
}

/// One process of the job.
#[derive(clap::Args)]
pub struct PartOptions {
    #[arg(long, value_enum)]
    backend: Backend,
    #[arg(long)]
    keys: u64,
    #[arg(long)]
    workers: usize,
    #[arg(long)]
    dir: PathBuf,
    /// Takes a checkpoint once each key has come, and ends; otherwise restores, and ends after its first output.
    #[arg(long)]
    fill: bool,
}

/// One recovery, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Sample {
    /// From the start of the process to its first output.
    recovery_s: f64,
    /// Reading and decompressing all segments.
    reading_s: f64,
    segment_bytes: u64,
    raw_bytes: u64,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    backend: Backend,
    keys: u64,
    value_bytes: usize,
    workers: usize,
    runs: u32,
    recovery_s: f64,
    spread: f64,
    reading_s: f64,
    /// Reading and decompressing as a part of the recovery.
    ratio: f64,
    ratio_spread: f64,
    peers: Vec<OtherRow>,
    samples: Vec<Sample>,
}

/// Another store's columns: from the start of a process to its first read and write of a store opened from a checkpoint.
#[derive(Debug, Serialize)]
struct OtherRow {
    name: String,
    settings: String,
    memory_bytes: u64,
    recovery_s: f64,
    spread: f64,
    /// Its time as a multiple of ours.
    ratio: f64,
}

/// Runs the scenario for each backend and reports a row for each.
///
/// # Errors
/// A run failed, or a row could not be written.
pub fn run(options: &Options) -> Result<()> {
    let program = options.common.peers.then(peers::build).transpose()?;
    let mut report = Report::open(SCENARIO, options.common.json.as_deref())?;
    let workers = match options.workers {
        Some(workers) => workers.max(1),
        None => report::allowed_cores()?.len(),
    };
    for &backend in &options.common.backends {
        let folder = store::folder(SCENARIO)?;
        let part = |fill: bool| {
            let name = backend.to_possible_value().expect("no backend is hidden");
            let mut arguments = vec![
                "recovery-part".to_owned(),
                format!("--backend={}", name.get_name()),
                format!("--keys={}", options.keys),
                format!("--workers={workers}"),
                format!("--dir={}", folder.0.display()),
            ];
            arguments.extend(fill.then(|| "--fill".to_owned()));
            Part::start(arguments)
        };
        let mut filled = part(true)?;
        let _: u64 = filled.answer()?;
        filled.finish()?;
        let segments = segments(&folder.0)?;
        let mut samples = Vec::new();
        for _ in 0..options.common.runs {
            forget(&segments)?;
            let start = Instant::now();
            let (raw_bytes, segment_bytes) = read_and_decompress(&segments, workers)?;
            let reading_s = start.elapsed().as_secs_f64();
            forget(&segments)?;
            let start = Instant::now();
            let mut recovered = part(false)?;
            let _: u64 = recovered.answer()?;
            let recovery_s = start.elapsed().as_secs_f64();
            recovered.finish()?;
            samples.push(Sample { recovery_s, reading_s, segment_bytes, raw_bytes });
        }
        let mut row = row(options, backend, workers, samples);
        if let Some(program) = &program {
            // fjall has no checkpoints that another directory could be opened from.
            row.peers.push(other(options, program, row.recovery_s)?);
        }
        report.row(&row)?;
    }
    Ok(())
}

fn row(options: &Options, backend: Backend, workers: usize, samples: Vec<Sample>) -> Row {
    let of = |figure: fn(&Sample) -> f64| {
        summarise(&samples.iter().map(figure).collect::<Vec<_>>()).expect("there is at least one run")
    };
    Row {
        scenario: SCENARIO,
        backend,
        keys: options.keys,
        value_bytes: size_of::<Payload>(),
        workers,
        runs: options.common.runs,
        recovery_s: of(|sample| sample.recovery_s).median,
        spread: of(|sample| sample.recovery_s).spread,
        reading_s: of(|sample| sample.reading_s).median,
        ratio: of(|sample| sample.reading_s / sample.recovery_s).median,
        ratio_spread: of(|sample| sample.reading_s / sample.recovery_s).spread,
        peers: Vec::new(),
        samples,
    }
}

/// Fills RocksDB, takes a checkpoint, and opens that in new processes.
fn other(options: &Options, program: &Path, our_recovery_s: f64) -> Result<OtherRow> {
    let folder = store::folder(SCENARIO)?;
    // A fifth of the state: it is opened lazily, so that memory is of no use to it here.
    let memory_bytes = (options.keys * size_of::<Payload>() as u64 / 5).max(16 << 20);
    let mut spec = PeerSpec {
        kind: PeerKind::Rocksdb,
        dir: folder.0.join("db"),
        keys: options.keys,
        value_bytes: size_of::<Payload>(),
        memory_bytes,
        direct_io: false,
        core: None,
        open_existing: false,
    };
    let checkpoint = folder.0.join("checkpoint");
    let mut peer = Peer::start(program, &spec, None)?;
    peer.run(&PeerTask::Checkpoint { dir: checkpoint.clone() })?;
    let (name, settings) = (peer.loaded.name.clone(), peer.loaded.settings.clone());
    drop(peer);
    spec.dir = checkpoint;
    spec.open_existing = true;
    let mut seconds = Vec::new();
    for _ in 0..options.common.runs {
        forget(&files_below(&spec.dir)?)?;
        let start = Instant::now();
        let peer = Peer::start(program, &spec, None)?;
        seconds.push(start.elapsed().as_secs_f64());
        drop(peer);
    }
    let recovery = summarise(&seconds).expect("there is at least one run");
    let (recovery_s, spread) = (recovery.median, recovery.spread);
    Ok(OtherRow { name, settings, memory_bytes, recovery_s, spread, ratio: recovery_s / our_recovery_s })
}

/// All files below `dir` that hold keyed state.
fn segments(dir: &Path) -> Result<Vec<PathBuf>> {
    let is_segment =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seg-"));
    Ok(files_below(dir)?.into_iter().filter(is_segment).collect())
}

fn files_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => files.extend(files_below(&entry.path())?),
            false => files.push(entry.path()),
        }
    }
    Ok(files)
}

/// Makes the page cache forget files, which are written back already.
fn forget(files: &[PathBuf]) -> Result<()> {
    for path in files {
        rustix::fs::fadvise(File::open(path)?, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// Reads each file from front to back and decompresses its blocks, on `threads` threads; returns the bytes of rows and of files.
fn read_and_decompress(files: &[PathBuf], threads: usize) -> Result<(u64, u64)> {
    let (next, raw_bytes, file_bytes) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let work = || -> Result<()> {
        let mut decompressor = zstd::bulk::Decompressor::new()?;
        let mut raw = vec![0; BLOCK_BYTES_MAX];
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let content = std::fs::read(path)?;
            let blocks: Vec<_> = SegmentReader::open(&content[..], path)?.blocks().collect();
            for block in blocks {
                let rows = &content[block.offset as usize..][BLOCK_HEADER_BYTES..block.bytes as usize];
                let bytes = match rows.starts_with(&ZSTD_MAGIC) {
                    true => decompressor.decompress_to_buffer(rows, &mut raw[..])?,
                    false => rows.len(),
                };
                black_box(&raw);
                raw_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
            file_bytes.fetch_add(content.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| "a reading thread panicked")?)
    })?;
    Ok((raw_bytes.into_inner(), file_bytes.into_inner()))
}

/// Runs one process of the job, and prints a line when it is there.
///
/// # Errors
/// It failed.
pub fn run_part(options: &PartOptions) -> Result<()> {
    let builder = Engine::builder().workers(options.workers).checkpoint_dir(&options.dir);
    let engine = engine_state::backend(builder, options.backend)?.build()?;
    let keys = options.keys;
    let sink = CountingSink::new();
    let flow = Dataflow::new(SCENARIO);
    let restored = !options.fill;
    flow.source("numbers", GeneratorSource::new(None, move |number| number % keys))
        .key_by(|key: &u64| *key)
        .process("update", ValueStateDescriptor::<Payload>::new("values"), move |key, _, mut value, out| {
            // A source that goes on where the checkpoint was meets no key for the first time.
            let absent = || match restored {
                true => panic!("key {key} was not restored"),
                false => Payload::first(*key),
            };
            value.modify(absent, Payload::bump);
            out.collect(*key);
            Ok(())
        })
        .sink("sink", sink.clone());
    let job = engine.run(flow)?;
    let output = |records: u64, pause: Duration| -> Result<()> {
        while sink.count() < records {
            if job.wait_timeout(pause).is_some() {
                return Err(format!("the job ended: {:?}", job.status()).into());
            }
        }
        Ok(())
    };
    if options.fill {
        output(keys, Duration::from_millis(5))?;
        job.checkpoint()?;
    } else {
        output(1, Duration::from_micros(200))?;
    }
    println!("{}", sink.count());
    end(&job)
}

fn end(job: &JobHandle) -> Result<()> {
    job.cancel();
    match job.wait() {
        Ok(()) | Err(thalweg::Error::Cancelled) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

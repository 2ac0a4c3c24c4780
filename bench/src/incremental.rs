//! *Incremental*: how many bytes checkpoints write when a small part of the keys changes between two of them, compaction and manifests
//! included, as counted at the disk; as a multiple of the size of the changed records before compression.
//!
//! Keys and counts are small numbers, which compress well; without compression the figure shows what the method costs.
//!
//! That goes over many intervals, since compaction comes later than the changes that make it necessary. The figure of the second half is
//! what lasts.

use crate::counting_disk::{Counted, CountingDisk};
use crate::peers::{self, Peer};
use crate::report::{Report, summarise};
use crate::spec::{PeerFigures, PeerSpec, PeerTask};
use crate::store::{self, BATCH_RECORDS, Backend, Common, OneTable};
use crate::workload::Access;
use crate::{Result, report};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use thalweg_storage::io::{DiskHandle, StdDisk};

const SCENARIO: &str = "incremental";

/// Bytes of a record: key and value.
const RECORD_BYTES: u64 = 16;

/// Options of the scenario.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Number of keys
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(100..1 << 32))]
    keys: u64,
    /// Part of the keys that changes in one interval
    #[arg(long, default_value_t = 0.01, value_parser = part)]
    changed: f64,
    /// Level of compression, 0 for none; may be given several times
    #[arg(long, default_values_t = [1, 0], value_parser = clap::value_parser!(i32).range(0..=22))]
    zstd_level: Vec<i32>,
    /// Intervals of one run
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(2..))]
    intervals: u32,
}

/// What one run came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Sample {
    /// Bytes written, as a multiple of the changed records' bytes, over the second half of the intervals.
    ratio: f64,
    /// The same over all intervals.
    ratio_all: f64,
    /// The same of the interval that wrote most, in the second half.
    ratio_max: f64,
    /// Written and read in all intervals.
    disk: Counted,
    changed_bytes: u64,
    /// Bytes of the last checkpoint's segments, as a multiple of all records' bytes.
    space: f64,
    compacted_rows: u64,
    cpu_seconds: f64,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    backend: Backend,
    zstd_level: i32,
    keys: u64,
    changed_per_interval: usize,
    intervals: u32,
    runs: u32,
    ratio: f64,
    ratio_spread: f64,
    ratio_max: f64,
    space: f64,
    peers: Vec<OtherRow>,
    samples: Vec<Sample>,
}

/// Another store's columns.
#[derive(Debug, Serialize)]
struct OtherRow {
    name: String,
    settings: String,
    memory_bytes: u64,
    /// Bytes that checkpoints would upload, as a multiple of the changed records' bytes.
    upload_ratio: f64,
    upload_ratio_spread: f64,
    /// Bytes written to the disk, by flushes and compactions, as such a multiple; uploads would come on top.
    written_ratio: f64,
    /// What it uploads as a multiple of what we write.
    ratio: f64,
    samples: Vec<PeerFigures>,
}

/// Runs the scenario for each backend and reports a row for each.
///
/// # Errors
/// A run failed, or a row could not be written.
pub fn run(options: &Options) -> Result<()> {
    let program = options.common.peers.then(peers::build).transpose()?;
    let mut report = Report::open(SCENARIO, options.common.json.as_deref())?;
    for &backend in &options.common.backends {
        for &zstd_level in &options.zstd_level {
            let mut samples = Vec::new();
            let mut bytes = 0;
            for run in 0..options.common.runs {
                let (sample, memory_bytes) = sample(options, backend, zstd_level, run)?;
                samples.push(sample);
                bytes = memory_bytes;
            }
            let mut row = row(options, backend, zstd_level, samples);
            // The others always compress.
            if let (Some(program), true) = (&program, zstd_level > 0) {
                for kind in peers::KINDS {
                    row.peers.push(other(options, program, kind, bytes, row.ratio)?);
                }
            }
            report.row(&row)?;
        }
    }
    Ok(())
}

fn changed_records(options: &Options) -> usize {
    ((options.keys as f64 * options.changed) as usize).max(1)
}

/// One run; also the bytes of memory that the table has at its end.
fn sample(options: &Options, backend: Backend, zstd_level: i32, run: u32) -> Result<(Sample, u64)> {
    let folder = store::folder(SCENARIO)?;
    let counting = CountingDisk::new(StdDisk::start(2)?);
    let counts = counting.counts();
    let disk = DiskHandle::new(Arc::new(counting));
    let mut table: OneTable<u64> =
        store::open(store::options(backend, &folder.0, Some(disk))?.zstd_level(zstd_level))?;
    store::fill(&mut table, options.keys)?;
    table.checkpoint()?;
    let mut keys = store::keys_of(Access::Uniform, options.keys, run);
    let mut changed = vec![0; changed_records(options)];
    let (start, cpu) = (counts.now(), report::cpu_time());
    let mut intervals: Vec<(u64, u64)> = Vec::new();
    for _ in 0..options.intervals {
        let before = counts.now();
        keys.fill(&mut changed);
        changed.chunks(BATCH_RECORDS).try_for_each(|batch| store::update(&mut table, batch))?;
        table.checkpoint()?;
        changed.sort_unstable();
        changed.dedup();
        intervals.push((counts.now().since(&before).written_bytes(), changed.len() as u64 * RECORD_BYTES));
        changed.resize(changed_records(options), 0);
    }
    let stats = table.tables().stats();
    let ratio = |part: &[(u64, u64)]| {
        let (written, size) = part.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        written as f64 / size as f64
    };
    let second_half = &intervals[intervals.len() / 2..];
    let sample = Sample {
        ratio: ratio(second_half),
        ratio_all: ratio(&intervals),
        ratio_max: second_half.iter().map(|one| ratio(&[*one])).fold(0.0, f64::max),
        disk: counts.now().since(&start),
        changed_bytes: intervals.iter().map(|one| one.1).sum(),
        space: table.stats().last_total_bytes as f64 / (options.keys * RECORD_BYTES) as f64,
        compacted_rows: stats.compacted_rows,
        cpu_seconds: (report::cpu_time() - cpu).as_secs_f64(),
    };
    Ok((sample, stats.data_bytes + stats.index_bytes))
}

fn row(options: &Options, backend: Backend, zstd_level: i32, samples: Vec<Sample>) -> Row {
    let of = |figure: fn(&Sample) -> f64| {
        summarise(&samples.iter().map(figure).collect::<Vec<_>>()).expect("there is at least one run")
    };
    Row {
        scenario: SCENARIO,
        backend,
        zstd_level,
        keys: options.keys,
        changed_per_interval: changed_records(options),
        intervals: options.intervals,
        runs: options.common.runs,
        ratio: of(|sample| sample.ratio).median,
        ratio_spread: of(|sample| sample.ratio).spread,
        ratio_max: of(|sample| sample.ratio_max).median,
        space: of(|sample| sample.space).median,
        peers: Vec::new(),
        samples,
    }
}

fn other(
    options: &Options,
    program: &Path,
    kind: crate::spec::PeerKind,
    memory_bytes: u64,
    our_ratio: f64,
) -> Result<OtherRow> {
    let folder = store::folder(SCENARIO)?;
    let spec = PeerSpec {
        kind,
        dir: folder.0.join("db"),
        keys: options.keys,
        value_bytes: size_of::<u64>(),
        memory_bytes,
        direct_io: false,
        core: None,
        open_existing: false,
    };
    let mut peer = Peer::start(program, &spec, None)?;
    let samples = (0..options.common.runs)
        .map(|run| {
            peer.run(&PeerTask::Intervals {
                access: Access::Uniform,
                seed: store::seed_of(run),
                records: changed_records(options),
                intervals: options.intervals,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let changed_bytes = |figures: &PeerFigures| (figures.records * RECORD_BYTES) as f64;
    let of = |figure: &dyn Fn(&PeerFigures) -> f64| {
        summarise(&samples.iter().map(figure).collect::<Vec<_>>()).expect("there is at least one run")
    };
    let upload = of(&|figures| figures.checkpoint_bytes as f64 / changed_bytes(figures));
    let written = of(&|figures| figures.written_bytes as f64 / changed_bytes(figures));
    Ok(OtherRow {
        name: peer.loaded.name.clone(),
        settings: peer.loaded.settings.clone(),
        memory_bytes,
        upload_ratio: upload.median,
        upload_ratio_spread: upload.spread,
        written_ratio: written.median,
        ratio: upload.median / our_ratio,
        samples,
    })
}

fn part(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(part) if part > 0.0 && part <= 1.0 => Ok(part),
        _ => Err(format!("`{text}` is no part between 0 and 1, such as 0.01")),
    }
}

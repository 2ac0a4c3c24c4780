//! *Memory*: bytes per key of u64 → u64, as the table counts them and as the kernel sees them: at rest, and at the peak of a uniform load
//! with snapshots.
//!
//! Each run is a process of its own, whose memory before the table is subtracted.

use crate::child::Part;
use crate::peers::{self, Peer};
use crate::report::{self, Report, summarise};
use crate::spec::{PeerSpec, PeerTask};
use crate::store::{self, BATCH_RECORDS, Backend, Common, OneTable, Schedule};
use crate::workload::Access;
use crate::{Result, parse_duration, positive_seconds};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use thalweg_storage::table::TableStats;

const SCENARIO: &str = "memory";

/// Options of the scenario.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Number of keys
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..1 << 32))]
    keys: u64,
    /// Seconds of the load
    #[arg(long, default_value_t = 10.0, value_parser = positive_seconds)]
    seconds: f64,
    /// Time between two checkpoints under load
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
}

/// One run, in a process of its own.
#[derive(clap::Args)]
pub struct PartOptions {
    #[arg(long, value_enum)]
    backend: Backend,
    #[arg(long)]
    keys: u64,
    #[arg(long)]
    run: u32,
    #[arg(long)]
    seconds: f64,
    #[arg(long, value_parser = parse_duration)]
    interval: Duration,
}

/// What one run came to, in bytes per key.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    /// Counted by the table once all keys are in a completed checkpoint.
    rest: f64,
    /// The part of `rest` that is no data: index, metadata.
    rest_index: f64,
    /// Resident then.
    rest_resident: f64,
    /// Counted at the peak under load.
    peak: f64,
    /// Resident at the peak under load.
    peak_resident: f64,
    /// Checkpoints completed under load.
    checkpoints: u64,
    /// Records per second under load.
    records_per_s: f64,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    backend: Backend,
    keys: u64,
    interval_ms: u64,
    runs: u32,
    rest: f64,
    rest_spread: f64,
    rest_resident: f64,
    peak: f64,
    peak_spread: f64,
    peak_resident: f64,
    peers: Vec<OtherRow>,
    samples: Vec<Sample>,
}

/// Another store's columns: it was given the memory that ours has counted at rest.
#[derive(Debug, Serialize)]
struct OtherRow {
    name: String,
    settings: String,
    memory_bytes: u64,
    rest_resident: f64,
    peak_resident: f64,
}

/// Runs the scenario for each backend and reports a row for each.
///
/// # Errors
/// A run failed, or a row could not be written.
pub fn run(options: &Options) -> Result<()> {
    let program = options.common.peers.then(peers::build).transpose()?;
    let mut report = Report::open(SCENARIO, options.common.json.as_deref())?;
    for &backend in &options.common.backends {
        let samples = (0..options.common.runs)
            .map(|run| sample_in_a_process(options, backend, run))
            .collect::<Result<Vec<Sample>>>()?;
        let mut row = row(options, backend, samples);
        if let Some(program) = &program {
            for kind in peers::KINDS {
                let folder = store::folder(SCENARIO)?;
                let memory_bytes = (row.rest * options.keys as f64) as u64;
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
                let figures = peer.run(&PeerTask::Update {
                    access: Access::Uniform,
                    seed: store::seed_of(0),
                    batch: BATCH_RECORDS,
                    seconds: options.seconds,
                    records_max: u64::MAX,
                    checkpoint_every_s: Some(options.interval.as_secs_f64()),
                })?;
                let per_key = |bytes: u64| bytes as f64 / options.keys as f64;
                row.peers.push(OtherRow {
                    name: peer.loaded.name.clone(),
                    settings: peer.loaded.settings.clone(),
                    memory_bytes,
                    rest_resident: per_key(peer.loaded.resident_bytes),
                    peak_resident: per_key(figures.resident_bytes_max),
                });
            }
        }
        report.row(&row)?;
    }
    Ok(())
}

fn sample_in_a_process(options: &Options, backend: Backend, run: u32) -> Result<Sample> {
    let backend = backend.to_possible_value().expect("no backend is hidden");
    let mut part = Part::start([
        "memory-part".to_owned(),
        format!("--backend={}", backend.get_name()),
        format!("--keys={}", options.keys),
        format!("--run={run}"),
        format!("--seconds={}", options.seconds),
        format!("--interval={}us", options.interval.as_micros()),
    ])?;
    let sample = part.answer()?;
    part.finish()?;
    Ok(sample)
}

/// Runs one run and prints its sample.
///
/// # Errors
/// It failed.
pub fn run_part(options: &PartOptions) -> Result<()> {
    println!("{}", serde_json::to_string(&sample(options)?)?);
    Ok(())
}

fn sample(options: &PartOptions) -> Result<Sample> {
    let folder = store::folder(SCENARIO)?;
    let mut table: OneTable<u64> = store::open(store::options(options.backend, &folder.0, None)?)?;
    let mut keys = store::keys_of(Access::Uniform, options.keys, options.run);
    let (before, _) = report::resident_bytes()?;
    let counted = |stats: TableStats| stats.data_bytes + stats.index_bytes;
    let per_key = |bytes: u64| bytes as f64 / options.keys as f64;

    store::fill(&mut table, options.keys)?;
    table.checkpoint()?;
    let rest = table.tables().stats();
    let (rest_resident, _) = report::resident_bytes()?;

    report::reset_resident_max()?;
    let mut peak = 0;
    let mut schedule = Some(Schedule::new(options.interval));
    let measure = Duration::from_secs_f64(options.seconds);
    let figures = store::run_updates(&mut table, &mut keys, measure, &mut schedule, |table| {
        peak = peak.max(counted(table.tables().stats()));
        Ok(())
    })?;
    let (_, peak_resident) = report::resident_bytes()?;
    Ok(Sample {
        rest: per_key(counted(rest)),
        rest_index: per_key(rest.index_bytes),
        rest_resident: per_key(rest_resident.saturating_sub(before)),
        peak: per_key(peak),
        peak_resident: per_key(peak_resident.saturating_sub(before)),
        checkpoints: figures.checkpoints,
        records_per_s: figures.records_per_s(),
    })
}

fn row(options: &Options, backend: Backend, samples: Vec<Sample>) -> Row {
    let of = |figure: fn(&Sample) -> f64| {
        summarise(&samples.iter().map(figure).collect::<Vec<_>>()).expect("there is at least one run")
    };
    Row {
        scenario: SCENARIO,
        backend,
        keys: options.keys,
        interval_ms: options.interval.as_millis() as u64,
        runs: options.common.runs,
        rest: of(|sample| sample.rest).median,
        rest_spread: of(|sample| sample.rest).spread,
        rest_resident: of(|sample| sample.rest_resident).median,
        peak: of(|sample| sample.peak).median,
        peak_spread: of(|sample| sample.peak).spread,
        peak_resident: of(|sample| sample.peak_resident).median,
        peers: Vec::new(),
        samples,
    }
}

//! *Store, read-modify-write*: the store by itself on one core, u64 → u64, batches of 1,024 keys, no checkpoints: how fast state can
//! be updated at all.
//!
//! The store and its peers are filled once; then their runs take turns, each with the same keys.

use crate::peers::{self, Peer, PeerRow};
use crate::report::{self, Report, summarise};
use crate::spec::{PeerFigures, PeerSpec, PeerTask};
use crate::store::{self, BATCH_RECORDS, Backend, Common, OneTable, UpdateFigures};
use crate::workload::Access;
use crate::{Result, positive_seconds};
use serde::Serialize;
use std::time::Duration;

const SCENARIO: &str = "store-rmw";

/// Options of the scenario.
#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    common: Common,
    /// Number of keys
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..1 << 32))]
    keys: u64,
    /// Distribution of the keys; may be given several times
    #[arg(long, value_enum, default_values_t = [Access::Uniform, Access::Zipf])]
    access: Vec<Access>,
    /// Seconds that one run is measured
    #[arg(long, default_value_t = 5.0, value_parser = positive_seconds)]
    seconds: f64,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    backend: Backend,
    access: Access,
    keys: u64,
    value_bytes: usize,
    batch: usize,
    runs: u32,
    records_per_s: f64,
    spread: f64,
    records_per_cpu_s: f64,
    bytes_per_key: f64,
    peers: Vec<PeerRow>,
    samples: Vec<UpdateFigures>,
}

/// Runs the scenario for each backend and distribution, and reports a row for each.
///
/// # Errors
/// A run failed, or a row could not be written.
pub fn run(options: &Options) -> Result<()> {
    let program = options.common.peers.then(peers::build).transpose()?;
    let mut report = Report::open(SCENARIO, options.common.json.as_deref())?;
    let core = *report::allowed_cores()?.last().ok_or("this process may use no core")?;
    report::pin_thread(core)?;
    for &backend in &options.common.backends {
        let folder = store::folder(SCENARIO)?;
        let mut ours: OneTable<u64> = store::open(store::options(backend, &folder.0, None)?)?;
        store::fill(&mut ours, options.keys)?;
        let stats = ours.tables().stats();
        let bytes = stats.data_bytes + stats.index_bytes;
        let mut others = Vec::new();
        if let Some(program) = &program {
            for kind in peers::KINDS {
                let spec = PeerSpec {
                    kind,
                    dir: folder.0.join(format!("{kind:?}")),
                    keys: options.keys,
                    value_bytes: size_of::<u64>(),
                    memory_bytes: bytes,
                    direct_io: false,
                    core: Some(core),
                    open_existing: false,
                };
                others.push(Peer::start(program, &spec, None)?);
            }
        }
        for &access in &options.access {
            report.row(&measure(options, backend, access, &mut ours, &mut others, bytes)?)?;
        }
    }
    Ok(())
}

fn measure(
    options: &Options,
    backend: Backend,
    access: Access,
    ours: &mut OneTable<u64>,
    others: &mut [Peer],
    bytes: u64,
) -> Result<Row> {
    let mut samples = Vec::new();
    let mut theirs: Vec<Vec<PeerFigures>> = vec![Vec::new(); others.len()];
    for run in 0..options.common.runs {
        let measure = Duration::from_secs_f64(options.seconds);
        let mut keys = store::keys_of(access, options.keys, run);
        samples.push(store::run_updates(ours, &mut keys, measure, &mut None, |_| Ok(()))?);
        let task = PeerTask::Update {
            access,
            seed: store::seed_of(run),
            batch: BATCH_RECORDS,
            seconds: options.seconds,
            records_max: u64::MAX,
            checkpoint_every_s: None,
        };
        for (peer, figures) in others.iter_mut().zip(&mut theirs) {
            figures.push(peer.run(&task)?);
        }
    }
    let speeds: Vec<(f64, f64)> =
        samples.iter().map(|s| (s.records_per_s(), s.records_per_cpu_s())).collect();
    let of = |figure: fn(&(f64, f64)) -> f64| {
        summarise(&speeds.iter().map(figure).collect::<Vec<_>>()).expect("there is at least one run")
    };
    let rows = others.iter().zip(theirs).map(|(peer, figures)| PeerRow::new(peer, bytes, &speeds, figures));
    Ok(Row {
        scenario: SCENARIO,
        backend,
        access,
        keys: options.keys,
        value_bytes: size_of::<u64>(),
        batch: BATCH_RECORDS,
        runs: options.common.runs,
        records_per_s: of(|speed| speed.0).median,
        spread: of(|speed| speed.0).spread,
        records_per_cpu_s: of(|speed| speed.1).median,
        bytes_per_key: bytes as f64 / options.keys as f64,
        peers: rows.collect(),
        samples,
    })
}

//! *Spill*: values of 100 bytes, several times as many as the memory budget holds, read-modify-write by Zipf's law, checkpoints on: how near
//! the log-structured store comes to what the disk can do.
//!
//! The disk's limit is its random reads of 16 KiB per second, measured in the same run, divided by the reads that a record costs. As an
//! operator's task waits for its pages while others of the same worker run, the keys are dealt out to several tables, which wait in turn.

use crate::child::{self, Part};
use crate::peers::{self, Peer, PeerRow};
use crate::random_reads::TestFile;
use crate::report::{self, Report, summarise};
use crate::spec::{PeerFigures, PeerSpec, PeerTask};
use crate::store::{self, BATCH_RECORDS, Backend, Payload, SLICE_ROWS, Schedule, Value};
use crate::workload::{Access, Keys};
use crate::{Result, parse_duration, positive_seconds};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thalweg_storage::Data;
use thalweg_storage::io::{DiskHandle, StdDisk, UringDisk};
use thalweg_storage::key_group::{KeyGroups, MAX_PARALLELISM_DEFAULT};
use thalweg_storage::snapshot::Tables;
use thalweg_storage::store::{Store, Table};
use thalweg_storage::table::{StateTable, TableStats};

const SCENARIO: &str = "spill";

/// Bytes of a key and its value.
const ROW_BYTES: u64 = (size_of::<u64>() + size_of::<Payload>()) as u64;

/// Bytes of the index and of the pages' descriptions per key, at most.
const INDEX_BYTES: u64 = 20;

/// What a process has besides its state: code, stacks, buffers of snapshots and of the disk.
const PROCESS_BYTES: u64 = 192 << 20;

/// Options of the scenario.
#[derive(clap::Args)]
pub struct Options {
    /// Bytes of all keys and values
    #[arg(long, default_value_t = 1 << 30, value_parser = clap::value_parser!(u64).range(1 << 16..))]
    state_bytes: u64,
    /// State as a multiple of the memory for its pages
    #[arg(long, default_value_t = 4.0, value_parser = positive_seconds)]
    times: f64,
    /// Seconds that one run is measured
    #[arg(long, default_value_t = 10.0, value_parser = positive_seconds)]
    seconds: f64,
    /// What our side and the others do first, unmeasured
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Time between two checkpoints
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    interval: Duration,
    /// Tables that the keys are dealt out to
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    tables: u64,
    /// Runs of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Runs RocksDB and fjall beside it, on the same data with the same memory
    #[arg(long)]
    peers: bool,
    /// File that the rows are appended to, instead of target/bench/spill.jsonl
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Our side, in a process of its own, whose memory is its own.
#[derive(clap::Args)]
pub struct PartOptions {
    #[arg(long)]
    keys: u64,
    #[arg(long)]
    memory_bytes: u64,
    #[arg(long)]
    seconds: f64,
    #[arg(long, value_parser = parse_duration)]
    warm_up: Duration,
    #[arg(long, value_parser = parse_duration)]
    interval: Duration,
    #[arg(long)]
    tables: u64,
    #[arg(long)]
    runs: u32,
}

/// One run of our side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Sample {
    /// Median of the disk's random reads of 16 KiB per second, just before and just after.
    disk_reads_per_s: f64,
    records: u64,
    seconds: f64,
    cpu_seconds: f64,
    /// Pages that were read, for announced keys or while the caller waited.
    misses: u64,
    misses_blocking: u64,
    checkpoints: u64,
    compacted_rows: u64,
    /// Bytes of pages and, apart, of everything else at the end.
    data_bytes: u64,
    index_bytes: u64,
    /// Highest resident memory of the process.
    resident_bytes_max: u64,
    /// What the kernel has read from the disk for the process: less than the pages' bytes where its own cache had them.
    device_read_bytes: u64,
}

impl Sample {
    fn records_per_s(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    /// Our page reads per second as a part of those that the disk can do: the same as records per second, as a part of the
    /// disk's reads per second ÷ misses per record.
    fn part_of_disk(&self) -> f64 {
        self.misses as f64 / self.seconds / self.disk_reads_per_s
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Row {
    scenario: &'static str,
    backend: Backend,
    keys: u64,
    state_bytes: u64,
    /// Budget for pages.
    memory_bytes: u64,
    /// Limit of the process by control group, page cache included: the budget, the index, and 192 MiB for all else. Absent where the
    /// system refuses one; then the page cache may have served reads, as `device_read_bytes` shows.
    memory_limit_bytes: Option<u64>,
    tables: u64,
    interval_ms: u64,
    runs: u32,
    records_per_s: f64,
    spread: f64,
    misses_per_record: f64,
    disk_reads_per_s: f64,
    /// Of what the disk allows.
    ratio: f64,
    ratio_spread: f64,
    index_bytes_per_key: f64,
    resident_bytes_max: u64,
    peers: Vec<PeerRow>,
    samples: Vec<Sample>,
}

/// Runs the scenario and reports a row.
///
/// # Errors
/// A run failed, or a row could not be written.
pub fn run(options: &Options) -> Result<()> {
    let program = options.peers.then(peers::build).transpose()?;
    let mut report = Report::open(SCENARIO, options.json.as_deref())?;
    let keys = options.state_bytes / ROW_BYTES;
    let memory_bytes = (options.state_bytes as f64 / options.times) as u64;
    let limit_bytes = memory_bytes + keys * INDEX_BYTES + PROCESS_BYTES;
    let arguments = [
        "spill-part".to_owned(),
        format!("--keys={keys}"),
        format!("--memory-bytes={memory_bytes}"),
        format!("--seconds={}", options.seconds),
        format!("--warm-up={}us", options.warm_up.as_micros()),
        format!("--interval={}us", options.interval.as_micros()),
        format!("--tables={}", options.tables),
        format!("--runs={}", options.runs),
    ];
    let mut part = Part::start_limited(arguments, limit_bytes)?;
    let limited = part.limit_bytes();
    let samples = (0..options.runs).map(|_| part.answer()).collect::<Result<Vec<Sample>>>()?;
    part.finish()?;
    let mut row = row(options, keys, memory_bytes, samples);
    row.memory_limit_bytes = limited;
    if let Some(program) = &program {
        row.peers = others(options, program, &row, limit_bytes)?;
    }
    report.row(&row)
}

/// The others get the same limit, of which they may manage what our pages and our index have.
fn others(options: &Options, program: &Path, row: &Row, limit_bytes: u64) -> Result<Vec<PeerRow>> {
    let memory_bytes = limit_bytes - PROCESS_BYTES;
    let ours: Vec<(f64, f64)> =
        row.samples.iter().map(|s| (s.records_per_s(), s.records as f64 / s.cpu_seconds)).collect();
    let task = |seconds: f64, run: u32| PeerTask::Update {
        access: Access::Zipf,
        seed: store::seed_of(run),
        batch: BATCH_RECORDS,
        seconds,
        records_max: u64::MAX,
        checkpoint_every_s: Some(options.interval.as_secs_f64()),
    };
    peers::KINDS
        .into_iter()
        .map(|kind| {
            let folder = store::folder(SCENARIO)?;
            let spec = PeerSpec {
                kind,
                dir: folder.0.join("db"),
                keys: row.keys,
                value_bytes: size_of::<Payload>(),
                memory_bytes,
                direct_io: true,
                core: None,
                open_existing: false,
            };
            let mut peer = Peer::start(program, &spec, Some(limit_bytes))?;
            peer.run(&task(options.warm_up.as_secs_f64(), options.runs))?;
            let figures = (0..options.runs)
                .map(|run| peer.run(&task(options.seconds, run)))
                .collect::<Result<Vec<PeerFigures>>>()?;
            Ok(PeerRow::new(&peer, memory_bytes, &ours, figures))
        })
        .collect()
}

fn row(options: &Options, keys: u64, memory_bytes: u64, samples: Vec<Sample>) -> Row {
    let of = |figure: fn(&Sample) -> f64| {
        summarise(&samples.iter().map(figure).collect::<Vec<_>>()).expect("there is at least one run")
    };
    let index_bytes = of(|sample| sample.index_bytes as f64).median;
    Row {
        scenario: SCENARIO,
        backend: Backend::Log,
        keys,
        state_bytes: keys * ROW_BYTES,
        memory_bytes,
        memory_limit_bytes: None,
        tables: options.tables,
        interval_ms: options.interval.as_millis() as u64,
        runs: options.runs,
        records_per_s: of(Sample::records_per_s).median,
        spread: of(Sample::records_per_s).spread,
        misses_per_record: of(|sample| sample.misses as f64 / sample.records as f64).median,
        disk_reads_per_s: of(|sample| sample.disk_reads_per_s).median,
        ratio: of(Sample::part_of_disk).median,
        ratio_spread: of(Sample::part_of_disk).spread,
        index_bytes_per_key: index_bytes / keys as f64,
        resident_bytes_max: samples.iter().map(|sample| sample.resident_bytes_max).max().unwrap_or(0),
        peers: Vec::new(),
        samples,
    }
}

/// Tables that are the state of one store.
struct Shards(Vec<Table<u64, Payload>>);

impl Tables for Shards {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn table(&mut self, index: usize) -> &mut dyn StateTable {
        self.0[index].untyped()
    }
}

/// What a task has in hand: keys that have come for its table, and the batch that it works on.
#[derive(Default)]
struct Task {
    queue: VecDeque<u64>,
    batch: Vec<u64>,
    hashes: Vec<u64>,
    used: usize,
    /// Keys, from `used` on, that were announced.
    announced: usize,
}

impl Task {
    /// Works on the batch, or announces another; returns the records done, or none while it waits for the disk or for keys.
    fn poll(&mut self, table: &mut Table<u64, Payload>, groups: KeyGroups) -> Result<Option<u64>> {
        if self.announced == 0 {
            if self.used == self.batch.len() {
                if self.queue.len() < BATCH_RECORDS {
                    return Ok(None);
                }
                self.batch.clear();
                self.batch.extend(self.queue.drain(..BATCH_RECORDS));
                self.hashes.clear();
                self.hashes.extend(self.batch.iter().map(|key| key.group_hash(groups)));
                self.used = 0;
            }
            self.announced = table.keyed().announce(self.hashes[self.used..].iter().copied());
        }
        if !table.untyped().ready()? {
            return Ok(None);
        }
        let done = self.announced;
        let table = table.keyed();
        for index in self.used..self.used + done {
            let key = self.batch[index];
            let absent = || -> Payload { panic!("key {key} is missing") };
            table.update(self.hashes[index], &key, absent, Payload::bump);
        }
        self.used += done;
        self.announced = 0;
        Ok(Some(done as u64))
    }
}

/// Runs our side, and prints a sample of each run.
///
/// # Errors
/// It failed.
pub fn run_part(options: &PartOptions) -> Result<()> {
    child::wait_for_limit()?;
    let folder = store::folder(SCENARIO)?;
    let test_file = TestFile::create(&folder.0.join("random-reads"), options.keys * ROW_BYTES)?;
    let disk_reads_per_s = || test_file.reads_per_s(Duration::from_secs_f64(options.seconds.min(2.0)));
    let disk = match UringDisk::start() {
        Ok(disk) => DiskHandle::new(disk),
        Err(_) => DiskHandle::new(StdDisk::start(16)?),
    };
    // Each table has the budget that the options name.
    let memory_bytes = usize::try_from(options.memory_bytes / options.tables)?;
    let settings =
        store::options(Backend::Log, &folder.0.join("store"), Some(disk))?.memory_bytes(memory_bytes);
    let mut store = Store::open(settings, |tables| {
        Shards((0..options.tables).map(|index| tables.value(format!("values-{index}"))).collect())
    })?;
    fill(&mut store, options)?;
    let mut tasks: Vec<Task> = (0..options.tables).map(|_| Task::default()).collect();
    let mut keys = store::keys_of(Access::Zipf, options.keys, options.runs);
    work(&mut store, &mut tasks, &mut keys, options.warm_up, options.interval)?;
    report::reset_resident_max()?;
    for run in 0..options.runs {
        let before = disk_reads_per_s()?;
        let mut keys = store::keys_of(Access::Zipf, options.keys, run);
        let measure = Duration::from_secs_f64(options.seconds);
        let mut sample = work(&mut store, &mut tasks, &mut keys, measure, options.interval)?;
        sample.disk_reads_per_s = (before + disk_reads_per_s()?) / 2.0;
        println!("{}", serde_json::to_string(&sample)?);
    }
    Ok(())
}

/// Puts all keys into the tables, with a checkpoint now and then so that their pages may leave memory.
fn fill(store: &mut Store<Shards>, options: &PartOptions) -> Result<()> {
    let tables = options.tables;
    let chunk_rows = (options.memory_bytes / ROW_BYTES / 4).max(BATCH_RECORDS as u64);
    let mut batch = Vec::with_capacity(BATCH_RECORDS);
    let mut since_checkpoint = 0;
    for start in (0..options.keys).step_by(BATCH_RECORDS * tables as usize) {
        let end = options.keys.min(start + BATCH_RECORDS as u64 * tables);
        for index in 0..tables {
            batch.clear();
            batch.extend((start..end).filter(|key| key % tables == index));
            let first = |at: usize| Payload::first(start + index + at as u64 * tables);
            store.tables().0[index as usize].update_batch(&batch, first, |_, _| {})?;
        }
        since_checkpoint += end - start;
        store.maintain(SLICE_ROWS)?;
        if since_checkpoint >= chunk_rows {
            since_checkpoint = 0;
            store.checkpoint()?;
        }
    }
    store.checkpoint()?;
    Ok(())
}

/// Lets the tasks work for `measure`.
fn work(
    store: &mut Store<Shards>,
    tasks: &mut [Task],
    keys: &mut Keys,
    measure: Duration,
    interval: Duration,
) -> Result<Sample> {
    let groups = KeyGroups::new(MAX_PARALLELISM_DEFAULT);
    let tables = tasks.len() as u64;
    let (before, device_before, cpu) = (total(store), device_read_bytes()?, report::cpu_time());
    let mut chunk = vec![0; BATCH_RECORDS];
    let mut records = 0;
    let mut schedule = Schedule::new(interval);
    let start = Instant::now();
    loop {
        let now = start.elapsed();
        if now >= measure {
            break;
        }
        while tasks.iter().any(|task| task.queue.len() < BATCH_RECORDS) {
            keys.fill(&mut chunk);
            chunk.iter().for_each(|key| tasks[(key % tables) as usize].queue.push_back(*key));
        }
        let mut idle = true;
        for (task, table) in tasks.iter_mut().zip(&mut store.tables().0) {
            if let Some(done) = task.poll(table, groups)? {
                records += done;
                idle = false;
            }
        }
        schedule.work(store, now, start.elapsed() - now)?;
        if idle {
            std::thread::yield_now();
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = total(store);
    Ok(Sample {
        disk_reads_per_s: 0.0,
        records,
        seconds,
        cpu_seconds: (report::cpu_time() - cpu).as_secs_f64(),
        misses: after.page_reads + after.page_reads_blocking - before.page_reads - before.page_reads_blocking,
        misses_blocking: after.page_reads_blocking - before.page_reads_blocking,
        checkpoints: schedule.completed,
        compacted_rows: after.compacted_rows - before.compacted_rows,
        data_bytes: after.data_bytes,
        index_bytes: after.index_bytes,
        resident_bytes_max: report::resident_bytes()?.1,
        device_read_bytes: device_read_bytes()? - device_before,
    })
}

fn total(store: &mut Store<Shards>) -> TableStats {
    store.table_stats().iter().fold(TableStats::default(), |sum, (_, stats)| TableStats {
        data_bytes: sum.data_bytes + stats.data_bytes,
        index_bytes: sum.index_bytes + stats.index_bytes,
        page_reads: sum.page_reads + stats.page_reads,
        page_reads_blocking: sum.page_reads_blocking + stats.page_reads_blocking,
        compacted_rows: sum.compacted_rows + stats.compacted_rows,
        ..sum
    })
}

/// What the kernel has read from disks for this process.
fn device_read_bytes() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    Ok(line.ok_or("no read_bytes in /proc/self/io")?.parse()?)
}

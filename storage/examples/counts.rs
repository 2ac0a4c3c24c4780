//! Ten million keys in a store by itself: updates, incremental checkpoints, a crash in the middle of one, recovery.
//!
//! ```sh
//! cargo run --release -p thalweg-storage --example counts
//! cargo run --release -p thalweg-storage --example counts -- --backend log --memory-mb 64
//! ```
//!
//! The process starts itself as a child, which updates keys and takes checkpoints until it aborts while one is being written.
//! Then the parent recovers what the child has left, compares it with what the checkpoint must hold, applies the updates that
//! the crash has cost, and compares again.

use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;
use thalweg_storage::CheckpointId;
use thalweg_storage::store::{BackendChoice, Progress, Store, StoreOptions, Table};

/// Updates that are applied together.
const BATCH: u64 = 1024;
/// Rows of a checkpoint that are written after each batch of updates.
const SLICE_ROWS: usize = 4096;
/// Checkpoints that all updates are divided into; the child crashes in the last but one.
const CHECKPOINTS: u64 = 6;

/// Updates keys of a store, crashes, recovers, and verifies.
#[derive(Parser)]
struct Arguments {
    /// Number of keys.
    #[arg(long, default_value_t = 10_000_000)]
    keys: u64,
    /// Number of updates; the first ones touch each key once, the rest random keys.
    #[arg(long, default_value_t = 30_000_000)]
    updates: u64,
    /// Kind of table.
    #[arg(long, value_enum, default_value_t = BackendName::HashMap)]
    backend: BackendName,
    /// Most megabytes of pages in memory, with `--backend log`.
    #[arg(long)]
    memory_mb: Option<usize>,
    /// Directory of the store; what it holds is removed.
    #[arg(long, default_value = "target/counts")]
    dir: PathBuf,
    /// Set for the child, which ends in a crash.
    #[arg(long, hide = true)]
    child: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum BackendName {
    #[value(name = "hashmap")]
    HashMap,
    Log,
}

struct State {
    counts: Table<u64, u64>,
    /// Under the key 0, how many updates the tables hold.
    position: Table<u8, u64>,
}
thalweg_storage::tables!(State { counts, position });

impl Arguments {
    fn open(&self) -> Result<Store<State>, Box<dyn Error>> {
        let backend = match self.backend {
            BackendName::HashMap => BackendChoice::HashMap,
            BackendName::Log => BackendChoice::Log,
        };
        let mut options = StoreOptions::new(&self.dir).backend(backend);
        if let Some(megabytes) = self.memory_mb {
            options = options.memory_bytes(megabytes << 20);
        }
        let make = |tables: &mut thalweg_storage::store::TableMaker| State {
            counts: tables.value("counts"),
            position: tables.value("position"),
        };
        Ok(Store::open(options, make)?)
    }

    /// The key of one update.
    fn key(&self, update: u64) -> u64 {
        if update < self.keys {
            return update;
        }
        let mixed = (update ^ (update >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 32)) % self.keys
    }

    /// Applies updates from `start` to `end` while checkpoints are written, and crashes in the middle of one if that is asked
    /// for.
    fn update(&self, store: &mut Store<State>, start: u64, end: u64) -> Result<(), Box<dyn Error>> {
        let bar = bar("updating", end - start);
        let begun_at = Instant::now();
        let interval = self.updates.div_ceil(CHECKPOINTS);
        let mut taking: Option<Taking> = None;
        let mut position = start;
        while position < end {
            let next_checkpoint = (position / interval + 1) * interval;
            let until = end.min(position + BATCH).min(next_checkpoint);
            let keys: Vec<u64> = (position..until).map(|update| self.key(update)).collect();
            let apply = |i: usize, value: &mut u64| *value = apply(*value, position + i as u64);
            store.tables().counts.update_batch(&keys, |_| 0, apply)?;
            bar.inc(until - position);
            position = until;

            if position == next_checkpoint {
                if let Some(taking) = taking.take() {
                    taking.finish(store, &bar)?;
                }
                store.tables().position.insert(&0, position);
                taking = Some(Taking::begin(store, position)?);
            }
            store.maintain(SLICE_ROWS)?;
            if let Some(mut current) = taking.take() {
                let crash = self.child && position > (CHECKPOINTS - 1) * interval;
                if crash && current.slices > 200 {
                    say(&bar, &format!("crashing in the middle of checkpoint {}", current.id));
                    std::process::abort();
                }
                taking = (!current.advance(store, &bar)?).then_some(current);
            }
        }
        if let Some(taking) = taking {
            taking.finish(store, &bar)?;
        }
        bar.finish_and_clear();
        let seconds = begun_at.elapsed().as_secs_f64();
        println!(
            "{} updates in {seconds:.1} s, {:.1} million per second, checkpoints included",
            end - start,
            (end - start) as f64 / seconds / 1e6
        );
        Ok(())
    }

    /// Panics unless the store holds exactly the first `position` updates.
    fn verify(&self, store: &mut Store<State>, position: u64) -> Result<(), Box<dyn Error>> {
        let bar = bar("verifying", position);
        let mut expected = vec![0; usize::try_from(self.keys)?];
        for update in 0..position {
            let value = &mut expected[self.key(update) as usize];
            *value = apply(*value, update);
            if update % (1 << 16) == 0 {
                bar.set_position(update);
            }
        }
        let (mut found, mut wrong) = (0, 0);
        store.tables().counts.for_each(|key, value| {
            found += 1;
            wrong += u64::from(expected[*key as usize] != *value);
        });
        bar.finish_and_clear();
        let present = position.min(self.keys);
        if found != present || wrong > 0 {
            return Err(format!("of {present} keys {found} are there, {wrong} of them wrong").into());
        }
        println!("verified: {found} keys hold the first {position} updates and nothing else");
        Ok(())
    }

    fn run(&self) -> Result<(), Box<dyn Error>> {
        if self.child {
            let mut store = self.open()?;
            self.update(&mut store, 0, self.updates)?;
            return Err("the child should have crashed".into());
        }
        if self.dir.exists() {
            std::fs::remove_dir_all(&self.dir)?;
        }
        let mut child = Command::new(std::env::current_exe()?);
        let status = child.args(std::env::args_os().skip(1)).arg("--child").status()?;
        if status.code().is_some() {
            return Err(format!("the child did not crash, it ended with {status}").into());
        }
        println!("the child has crashed: {status}");

        let begun_at = Instant::now();
        let mut store = self.open()?;
        let latest = store.latest().ok_or("there is no completed checkpoint")?;
        let position = store.tables().position.get(&0).ok_or("the checkpoint has no position")?;
        let (keys, seconds) = (store.tables().counts.len(), begun_at.elapsed().as_secs_f64());
        println!("recovered checkpoint {latest} in {seconds:.2} s: {keys} keys, {position} updates");
        self.verify(&mut store, position)?;

        self.update(&mut store, position, self.updates)?;
        store.tables().position.insert(&0, self.updates);
        store.checkpoint()?;
        drop(store);
        let mut store = self.open()?;
        self.verify(&mut store, self.updates)?;
        for (name, stats) in store.table_stats() {
            println!(
                "table {name}: {} keys, {:.1} MB of data and {:.1} MB of index in memory, {} page reads",
                stats.keys,
                stats.data_bytes as f64 / 1e6,
                stats.index_bytes as f64 / 1e6,
                stats.page_reads + stats.page_reads_blocking
            );
        }
        Ok(())
    }
}

/// What one update does to a value; the order matters, so that a lost or doubled update shows.
fn apply(value: u64, update: u64) -> u64 {
    value.wrapping_mul(31).wrapping_add(update + 1)
}

/// A checkpoint that is being written between batches.
struct Taking {
    id: CheckpointId,
    position: u64,
    begun_at: Instant,
    begin_us: u128,
    slices: u64,
}

impl Taking {
    fn begin(store: &mut Store<State>, position: u64) -> Result<Self, Box<dyn Error>> {
        let begun_at = Instant::now();
        let id = store.begin_checkpoint()?;
        Ok(Taking { id, position, begun_at, begin_us: begun_at.elapsed().as_micros(), slices: 0 })
    }

    /// Writes a slice; true when the checkpoint is complete.
    fn advance(&mut self, store: &mut Store<State>, bar: &ProgressBar) -> Result<bool, Box<dyn Error>> {
        self.slices += 1;
        let done = matches!(store.advance(SLICE_ROWS)?, Progress::Completed(_) | Progress::Idle);
        if done {
            let stats = store.stats();
            let line = format!(
                "checkpoint {} at update {}: {:.1} MB written in {:.2} s, begun in {} µs; {:.1} MB in {} segments",
                self.id,
                self.position,
                stats.last_segment_bytes as f64 / 1e6,
                self.begun_at.elapsed().as_secs_f64(),
                self.begin_us,
                stats.last_total_bytes as f64 / 1e6,
                stats.last_segments
            );
            say(bar, &line);
        }
        Ok(done)
    }

    fn finish(mut self, store: &mut Store<State>, bar: &ProgressBar) -> Result<(), Box<dyn Error>> {
        while !self.advance(store, bar)? {}
        Ok(())
    }
}

fn bar(label: &'static str, total: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:30}] {percent:>3} % {elapsed}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_prefix(label)
}

/// Prints a line above the bar.
fn say(bar: &ProgressBar, line: &str) {
    bar.suspend(|| println!("{line}"));
}

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("counts: {error}");
            ExitCode::FAILURE
        }
    }
}

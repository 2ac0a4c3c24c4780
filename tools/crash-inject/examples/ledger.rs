//! A job with a source and a sink of its own, as a user would test it, and a mistake that is easy to make.
//!
//! The source counts from 1. The sink writes the numbers of each epoch to a file of its own, which appears once the checkpoint
//! that lists it is complete: the numbers travel in the committable, so that a commit can be repeated.
//!
//! With `LEDGER_EARLY=1` the sink writes that file already when it prepares. Without crashes nobody notices. But a process that
//! dies before the checkpoint is complete has shown numbers that the restored job shows again.

use crash_inject::contract::{self, Asked, Audit};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use thalweg::clock::Nanos;
use thalweg::connector::{
    BoxError, ConnectorContext, Sink, SinkSnapshot, SinkWriter, Source, SourceOutput, SourceReader,
    SourceStatus,
};
use thalweg::{CheckpointId, Data, Dataflow, DriverChoice, Engine, RestartStrategy};
use thalweg_storage::io::DiskHandle;
use thalweg_storage::manifest::Committable;

/// The source counts up to here.
const LAST: u64 = 4_000;
/// Numbers that are emitted together, and the time until the next.
const TOGETHER: u64 = 10;
const PACE: Duration = Duration::from_micros(500);

/// Counts from 1.
#[derive(Clone)]
struct Counting;

/// The number to be emitted next.
struct CountingReader {
    next: Option<u64>,
    due: Nanos,
}

impl Source for Counting {
    type Record = u64;
    type Split = u64;
    type Reader = CountingReader;

    fn splits(&self, _: &DiskHandle, _: u32) -> Result<Vec<u64>, BoxError> {
        Ok(vec![1])
    }

    fn reader(&self, _: ConnectorContext, splits: Vec<u64>) -> Result<CountingReader, BoxError> {
        Ok(CountingReader { next: splits.first().copied(), due: Nanos(0) })
    }
}

impl SourceReader for CountingReader {
    type Record = u64;
    type Split = u64;

    fn poll<O: SourceOutput<u64>>(
        &mut self,
        now: Nanos,
        _: usize,
        out: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        let Some(next) = &mut self.next else { return Ok(SourceStatus::End) };
        if now < self.due {
            return Ok(SourceStatus::Idle(Some(self.due)));
        }
        self.due = now.after(PACE);
        for _ in 0..TOGETHER {
            if *next > LAST {
                self.next = None;
                return Ok(SourceStatus::End);
            }
            *next += 1;
            if !out.emit(*next - 1) {
                break;
            }
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self, _: CheckpointId) -> Vec<u64> {
        self.next.into_iter().collect()
    }
}

/// Writes one file per epoch.
#[derive(Clone)]
struct Ledger {
    dir: PathBuf,
    early: bool,
}

struct LedgerWriter {
    ledger: Ledger,
    numbers: Vec<u64>,
}

impl Ledger {
    /// Makes an epoch's numbers visible. Again, perhaps: the same file then has the same content.
    fn show(&self, checkpoint: CheckpointId, numbers: &[u64]) -> Result<(), BoxError> {
        let text: String = numbers.iter().map(|number| format!("{number}\n")).collect();
        let path = self.dir.join(format!("epoch-{:010}", checkpoint.0));
        let unfinished = self.dir.join(format!(".epoch-{:010}", checkpoint.0));
        // A job for real would leave this to its context's disk, so that it waits for nothing and survives a power loss.
        std::fs::write(&unfinished, text)?;
        std::fs::rename(unfinished, path)?;
        Ok(())
    }

    fn commit(&self, committables: &[Committable]) -> Result<(), BoxError> {
        for committable in committables {
            let numbers = Vec::<u64>::decode(&mut committable.bytes.as_slice())?;
            self.show(committable.checkpoint, &numbers)?;
        }
        Ok(())
    }
}

impl Sink for Ledger {
    type Record = u64;
    type State = ();
    type Writer = LedgerWriter;

    fn writer(
        &self,
        _: ConnectorContext,
        _: Vec<()>,
        committables: Vec<Committable>,
    ) -> Result<LedgerWriter, BoxError> {
        std::fs::create_dir_all(&self.dir)?;
        self.commit(&committables)?;
        Ok(LedgerWriter { ledger: self.clone(), numbers: Vec::new() })
    }
}

impl SinkWriter for LedgerWriter {
    type Record = u64;
    type State = ();

    fn write(&mut self, _: Nanos, number: u64) -> Result<bool, BoxError> {
        self.numbers.push(number);
        Ok(true)
    }

    fn poll(&mut self, _: Nanos) -> Result<bool, BoxError> {
        Ok(true)
    }

    fn prepare(&mut self, checkpoint: CheckpointId, _: bool) -> Result<SinkSnapshot<()>, BoxError> {
        let numbers = std::mem::take(&mut self.numbers);
        if numbers.is_empty() {
            return Ok(SinkSnapshot { state: None, committables: Vec::new() });
        }
        if self.ledger.early {
            // The mistake: nobody knows yet whether this checkpoint will complete.
            self.ledger.show(checkpoint, &numbers)?;
        }
        let mut bytes = Vec::new();
        numbers.encode(&mut bytes);
        Ok(SinkSnapshot { state: None, committables: vec![bytes] })
    }

    fn commit(&mut self, committables: Vec<Committable>) -> Result<(), BoxError> {
        self.ledger.commit(&committables)
    }

    fn committed(&self) -> bool {
        true
    }

    fn has_unprepared(&self) -> bool {
        !self.numbers.is_empty()
    }
}

fn main() -> ExitCode {
    contract::serve(run, |asked| audit(&asked.dir.join("ledger")))
}

fn run(asked: &Asked) -> Result<(), BoxError> {
    let early = std::env::var_os("LEDGER_EARLY").is_some();
    let flow = Dataflow::new("ledger");
    flow.source("numbers", Counting)
        .with_parallelism(1)
        .sink("ledger", Ledger { dir: asked.dir.join("ledger"), early });
    let engine = Engine::builder()
        .driver(DriverChoice::Threads)
        .workers(1)
        .parallelism(1)
        .checkpoint_dir(asked.dir.join("checkpoints"))
        .checkpoint_interval(Duration::from_millis(8))
        .restart_strategy(RestartStrategy::None)
        .build()?;
    let job = engine.run(flow)?;
    Ok(contract::wait(&job)?)
}

/// The numbers of all epochs, in order, should be 1, 2, … up to the last.
fn audit(dir: &Path) -> Result<Audit, BoxError> {
    let mut files =
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("epoch-")));
    files.sort();
    let mut numbers = Vec::new();
    for file in files {
        for line in std::fs::read_to_string(file)?.lines() {
            numbers.push(line.parse()?);
        }
    }
    Ok(Audit::of_sequence(numbers, LAST))
}

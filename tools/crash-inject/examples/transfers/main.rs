//! A job to be killed: savepoints, stops and starts, and sinks to outside systems.
//!
//! Accounts book transfers, in order, and each booking becomes a row. Two outside systems get all rows: one by transactions in
//! two phases, the other by output that waits in the checkpoint. Each life of the process runs the job several times,
//! at several parallelisms, and has an errand meanwhile: it takes a savepoint, disposes of it, stops the job and starts it from
//! there, or cancels it in the middle of one.
//!
//! | path           | what                                                          |
//! |----------------|---------------------------------------------------------------|
//! | `checkpoints/` | the engine's checkpoints                                      |
//! | `savepoints/`  | savepoints; those that nobody disposed of stay, and are whole |
//! | `ledger/`      | the outside system with transactions in two phases            |
//! | `archive/`     | the one whose transactions end with their connection          |
//! | `lives`        | one byte for each start of the process                        |
//!
//! Reading order: this file, [`errand`], [`outside`], [`audit`].

mod audit;
mod errand;
mod outside;

use crash_inject::contract::{self, Asked};
use crash_inject::random::Random;
use errand::{Errand, Next};
use outside::{Archive, Ledger, Row};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use thalweg::config::StateBackend;
use thalweg::connector::{GeneratorSource, TwoPhaseSink, WriteAheadSink};
use thalweg::operator::Collector;
use thalweg::state::{ValueState, ValueStateDescriptor};
use thalweg::{
    CheckpointMode, Dataflow, DriverChoice, Engine, JobHandle, RestartStrategy, RestoreMode, RestoreSettings,
};

type Error = Box<dyn std::error::Error>;

const TRANSFERS: u64 = 6_000;
const ACCOUNTS: u64 = 600;
const RATE: f64 = 20_000.0;

/// The n-th transfer: account and amount.
fn transfer(n: u64) -> (u64, u64) {
    let mut numbers = Random::of_seed(n);
    (numbers.below(ACCOUNTS), 1 + numbers.below(1_000))
}

fn main() -> ExitCode {
    contract::serve(run, |asked| audit::audit(&asked.dir))
}

fn run(asked: &Asked) -> Result<(), Error> {
    let mut random = Random::of_part(asked.seed, count_life(&asked.dir.join("lives"))?);
    let mut start: Option<RestoreSettings> = None;
    loop {
        let engine = engine(asked, &mut random)?;
        let flow = dataflow(&asked.dir)?;
        let job = match &start {
            Some(savepoint) => engine.run_from(flow, savepoint)?,
            None => engine.run(flow)?,
        };
        let savepoints = asked.dir.join("savepoints");
        match attend(&engine, &job, start.as_ref(), Errand::any(&savepoints, &mut random))? {
            Next::Done => return Ok(()),
            Next::GoOn => start = None,
            Next::StartFrom(savepoint) => start = Some(savepoint),
        }
    }
}

/// Watches the job, runs the errand once it is due, and says how to go on.
fn attend(
    engine: &Engine,
    job: &JobHandle,
    start: Option<&RestoreSettings>,
    errand: Errand,
) -> Result<Next, Error> {
    let mut errand = Some(errand);
    // What was not claimed, nothing needs any more after one checkpoint.
    let mut spent =
        start.filter(|savepoint| savepoint.mode == RestoreMode::NoClaim).map(|savepoint| &savepoint.path);
    let mut told = false;
    loop {
        let ended = job.wait_timeout(Duration::from_millis(2));
        let stats = job.metrics().checkpoints;
        contract::tell_restored(job, &mut told);
        if let Some(ended) = ended {
            return Ok(ended.map(|()| Next::Done)?);
        }
        if told && stats.latest > stats.restored {
            if let Some(savepoint) = spent.take() {
                engine.dispose_savepoint(savepoint)?;
            }
            if let Some(due) = errand.take_if(|errand| stats.completed >= errand.after)
                && let Some(next) = due.run(engine, job)?
            {
                return Ok(next);
            }
        }
    }
}

/// Adds to the lives of this directory, and returns their number.
fn count_life(path: &Path) -> Result<u64, Error> {
    let mut lives = std::fs::File::options().create(true).append(true).open(path)?;
    lives.write_all(b".")?;
    Ok(lives.metadata()?.len())
}

fn engine(asked: &Asked, random: &mut Random) -> Result<Engine, Error> {
    let mode = [CheckpointMode::Unaligned, CheckpointMode::Aligned][(asked.seed / 2 % 2) as usize];
    let engine = Engine::builder()
        .driver([DriverChoice::Threads, DriverChoice::Auto][(asked.seed % 2) as usize])
        .workers(2)
        .parallelism(1 + random.below(3) as u32)
        .max_parallelism(4)
        .state_backend(StateBackend::Log)
        .state_memory("48kb")
        .checkpoint_dir(asked.dir.join("checkpoints"))
        .checkpoint_interval(Duration::from_millis(8))
        .checkpoint_mode(mode)
        .retained_checkpoints(1 + (asked.seed / 4 % 3) as usize)
        .restart_strategy(RestartStrategy::None);
    Ok(engine.build()?)
}

fn dataflow(dir: &Path) -> Result<Dataflow, Error> {
    let flow = Dataflow::new("transfers");
    // Number of the last booking, balance, and text of some length, so that state outgrows its memory.
    let account = ValueStateDescriptor::<(u64, u64, String)>::new("account");
    let rows = flow
        .source("transfers", GeneratorSource::new(Some(TRANSFERS), transfer))
        .with_parallelism(1)
        .with_rate_limit(RATE)
        .key_by(|transfer: &(u64, u64)| transfer.0)
        .process(
            "book",
            account,
            |account: &u64,
             (_, amount): (u64, u64),
             mut state: ValueState<'_, u64, (u64, u64, String)>,
             out: &mut Collector<Row>| {
                let (number, balance, _) = state.value().unwrap_or_default();
                let (number, balance) = (number + 1, balance + amount);
                state.update((number, balance, format!("{balance:0100}")));
                out.collect((*account, number, balance));
                Ok(())
            },
        )
        .share();
    rows.stream().sink("ledger", TwoPhaseSink::new(Ledger::open(&dir.join("ledger"))?));
    rows.stream().sink("archive", WriteAheadSink::new(Archive::open(&dir.join("archive"))?));
    Ok(flow)
}

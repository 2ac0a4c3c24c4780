//! A job to be killed: lists, maps, values and timers on the log backend, with less memory than state.
//!
//! Users do things, in order. What a user does waits in a list, until a timer, or too much of it, lets it out: as
//! `user,number,item,times`, where `times` says how often the user has done the same by then. So what comes out does not
//! depend on when timers fire, while what is in state does.

use crash_inject::contract::{self, Asked, Audit};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use thalweg::config::StateBackend;
use thalweg::connector::{FileSink, GeneratorSource};
use thalweg::operator::Collector;
use thalweg::operators::KeyedContext;
use thalweg::state::{
    ListState, ListStateDescriptor, MapState, MapStateDescriptor, ValueState, ValueStateDescriptor,
};
use thalweg::{CheckpointMode, Dataflow, DriverChoice, Engine, RestartStrategy};

type Error = Box<dyn std::error::Error>;

const RECORDS: u64 = 6_000;
const USERS: u64 = 600;
const ITEMS: u64 = 7;
const RATE: f64 = 20_000.0;
/// What a user's list holds at most.
const WAITING_MAX: u64 = 4;
/// Time until what waits is let out.
const PAUSE_MS: i64 = 15;

/// User and item.
type Act = (u64, u64);
/// User, number of the user's act, item, how often the user has done it.
type Row = (u64, u64, u64, u64);
/// What waits: number, item, times.
type Waiting = (u64, u64, u64);
type States<'a> =
    (ListState<'a, u64, Waiting>, MapState<'a, u64, u64, String>, ValueState<'a, u64, (u64, u64)>);

fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

/// The n-th act: each user has one in each round, users in another order each time.
fn act(n: u64) -> Act {
    let (round, place) = (n / USERS, n % USERS);
    let coprime = [7, 11, 13, 17, 19, 23, 29, 31, 37, 41][(round % 10) as usize];
    ((place * coprime + mix(round) % USERS) % USERS, mix(n) % ITEMS)
}

fn main() -> ExitCode {
    contract::serve(run, |asked| audit(&asked.dir.join("output")))
}

fn run(asked: &Asked) -> Result<(), Error> {
    let mode = [CheckpointMode::Unaligned, CheckpointMode::Aligned][(asked.seed / 2 % 2) as usize];
    let engine = Engine::builder()
        .driver([DriverChoice::Threads, DriverChoice::Auto][(asked.seed % 2) as usize])
        .workers(2)
        .parallelism(2)
        .max_parallelism(4)
        .state_backend(StateBackend::Log)
        .state_memory("48kb")
        .checkpoint_dir(asked.dir.join("checkpoints"))
        .checkpoint_interval(Duration::from_millis(8))
        .checkpoint_mode(mode)
        .retained_checkpoints(1 + (asked.seed / 4 % 3) as usize)
        .restart_strategy(RestartStrategy::None)
        .build()?;
    let job = engine.run(dataflow(&asked.dir.join("output")))?;
    Ok(contract::wait(&job)?)
}

fn dataflow(output: &Path) -> Dataflow {
    let flow = Dataflow::new("sessions");
    let states = (
        ListStateDescriptor::<Waiting>::new("waiting"),
        MapStateDescriptor::<u64, String>::new("times"),
        // How many acts there were, and how many of them wait.
        ValueStateDescriptor::<(u64, u64)>::new("acts"),
    );
    flow.source("acts", GeneratorSource::new(Some(RECORDS), act))
        .with_parallelism(1)
        .with_rate_limit(RATE)
        .key_by(|act: &Act| act.0)
        .process_with_timers(
            "sessions",
            states,
            |context: &mut KeyedContext<'_, u64>,
             (user, item): Act,
             states: States<'_>,
             out: &mut Collector<Row>| {
                let (mut waiting, mut times, mut acts) = states;
                // Text of some length, so that state outgrows its memory.
                let so_far: u64 =
                    times.get(&item).map_or(Ok(0), |text| text.trim_start_matches('0').parse())?;
                times.put(&item, format!("{:060}", so_far + 1));
                let (number, waits) = acts.value().unwrap_or_default();
                waiting.add((number + 1, item, so_far + 1));
                acts.update((number + 1, waits + 1));
                // The last act of each user lets everything out: timers do not fire at the end.
                if waits + 1 >= WAITING_MAX || number + 1 == RECORDS / USERS {
                    let_out(user, &mut waiting, &mut acts, out);
                } else if waits == 0 {
                    let mut timers = context.timer_service();
                    let time = timers.current_processing_time() + PAUSE_MS;
                    timers.register_processing_time_timer(time);
                }
                Ok(())
            },
            |context: &mut KeyedContext<'_, u64>, _, states: States<'_>, out: &mut Collector<Row>| {
                let (mut waiting, _, mut acts) = states;
                let_out(*context.current_key(), &mut waiting, &mut acts, out);
                Ok(())
            },
        )
        .sink("rows", FileSink::csv(output).roll_interval(Duration::from_millis(25)));
    flow
}

fn let_out(
    user: u64,
    waiting: &mut ListState<'_, u64, Waiting>,
    acts: &mut ValueState<'_, u64, (u64, u64)>,
    out: &mut Collector<Row>,
) {
    for (number, item, times) in waiting.get() {
        out.collect((user, number, item, times));
    }
    waiting.clear();
    let (number, _) = acts.value().unwrap_or_default();
    acts.update((number, 0));
}

/// Compares the files in `output` with what one loop over the acts says.
fn audit(output: &Path) -> Result<Audit, Error> {
    let mut expected: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
    for (user, item) in (0..RECORDS).map(act) {
        let acts = expected.entry(user).or_default();
        let times = acts.iter().filter(|(other, _)| *other == item).count() as u64 + 1;
        acts.push((item, times));
    }
    let mut files =
        std::fs::read_dir(output)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    let mut audit = Audit::default();
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("part-") || !name.ends_with(".csv") {
            eprintln!("{name} is left over");
            audit.corrupt += 1;
            continue;
        }
        for line in std::fs::read_to_string(&file)?.lines() {
            let numbers: Vec<u64> = line.split(',').map_while(|number| number.parse().ok()).collect();
            let is_right = |user: &u64, number: &u64, rest: (u64, u64)| {
                let act = number.checked_sub(1).and_then(|index| expected.get(user)?.get(index as usize));
                act == Some(&rest)
            };
            match numbers[..] {
                [user, number, item, times] if is_right(&user, &number, (item, times)) => {
                    found.entry(user).or_default().push(number);
                }
                _ => {
                    eprintln!("{name}: {line}");
                    audit.corrupt += 1;
                }
            }
        }
    }
    for (user, acts) in expected {
        audit.add(Audit::of_sequence(found.remove(&user).unwrap_or_default(), acts.len() as u64));
    }
    Ok(audit)
}

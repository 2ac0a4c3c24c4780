//! All kinds of keyed state through checkpoints and restores, on each backend.

use std::collections::BTreeMap;
use std::time::Duration;
use tempfile::TempDir;
use thalweg::config::StateBackend;
use thalweg::connector::{CollectSink, GeneratorSource, Ingress, MemorySink, PushSource};
use thalweg::job::{Simulation, SimulationOptions};
use thalweg::operator::Collector;
use thalweg::operators::KeyedContext;
use thalweg::state::{
    Aggregate, AggregatingState, AggregatingStateDescriptor, ListState, ListStateDescriptor, MapState,
    MapStateDescriptor, ReducingState, ReducingStateDescriptor, StateTtlConfig, ValueState,
    ValueStateDescriptor,
};
use thalweg::{Dataflow, Engine, JobHandle};
use thalweg_storage::io::{CrashProfile, SimDisk};
use thalweg_tests::clicks::Random;
use thalweg_tests::support::{small_engine, wait_until};

const KEYS: u64 = 300;

const READ: u64 = 7;

/// The key, what to do, an argument.
type Order = (u64, u64, u64);

/// Number and sum of what was added.
#[derive(Clone)]
struct CountAndSum;

impl Aggregate for CountAndSum {
    type Input = u64;
    type Accumulator = (u64, u64);
    type Output = String;

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }
    fn add(&self, (count, sum): &mut (u64, u64), n: u64) {
        *count += 1;
        *sum += n;
    }
    fn result(&self, (count, sum): &(u64, u64)) -> String {
        format!("{count}: {sum}")
    }
    fn merge(&self, (count, sum): &mut (u64, u64), other: (u64, u64)) {
        *count += other.0;
        *sum += other.1;
    }
}

/// What a key's states should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Expected {
    list: Vec<u64>,
    map: BTreeMap<u64, String>,
    highest: Option<u64>,
    added: Option<(u64, u64)>,
}

impl Expected {
    fn obey(&mut self, what: u64, n: u64) {
        match what {
            0 => self.list.push(n),
            1 => _ = self.map.insert(n % 50, format!("value {n}")),
            2 => _ = self.map.remove(&(n % 50)),
            3 => self.highest = self.highest.max(Some(n)),
            4 => {
                let (count, sum) = self.added.unwrap_or_default();
                self.added = Some((count + 1, sum + n));
            }
            5 => self.list.clear(),
            _ => (self.highest, self.added) = (None, None),
        }
    }

    fn show(&self) -> String {
        let added = self.added.map(|(count, sum)| format!("{count}: {sum}"));
        format!("{:?} {:?} {:?} {added:?}", self.list, self.map, self.highest)
    }
}

/// The states of a key.
type States<'a, F> = (
    ListState<'a, u64, u64>,
    MapState<'a, u64, u64, String>,
    ReducingState<'a, u64, u64, F>,
    AggregatingState<'a, u64, CountAndSum>,
);

/// A running job that obeys orders.
struct Store {
    ingress: Ingress<Order>,
    answers: CollectSink<(u64, String)>,
    job: JobHandle,
    pushed: u64,
    _engine: Engine,
}

impl Store {
    fn start(dir: &TempDir, backend: StateBackend) -> Store {
        let engine = small_engine().state_backend(backend).checkpoint_dir(dir.path()).build().unwrap();
        let (ingress, source) = PushSource::channel(10_000);
        let answers = CollectSink::new();
        let flow = Dataflow::new("kinds");
        let states = (
            ListStateDescriptor::<u64>::new("list"),
            MapStateDescriptor::<u64, String>::new("map"),
            ReducingStateDescriptor::new("highest", |highest: &mut u64, n| *highest = n.max(*highest)),
            AggregatingStateDescriptor::new("added", CountAndSum),
        );
        flow.source("orders", source)
            .key_by(|order: &Order| order.0)
            .process(
                "states",
                states,
                |key: &u64,
                 (_, what, n): Order,
                 (mut list, mut map, mut highest, mut added): States<'_, _>,
                 out: &mut Collector<(u64, String)>| {
                    match what {
                        0 => list.add(n),
                        1 => map.put(&(n % 50), format!("value {n}")),
                        2 => _ = map.remove(&(n % 50)),
                        3 => highest.add(n),
                        4 => added.add(n),
                        5 => list.clear(),
                        READ => {
                            let map: BTreeMap<u64, String> = map.entries().into_iter().collect();
                            let shown =
                                format!("{:?} {map:?} {:?} {:?}", list.get(), highest.get(), added.get());
                            out.collect((*key, shown));
                        }
                        _ => {
                            highest.clear();
                            added.clear();
                        }
                    }
                    Ok(())
                },
            )
            .sink("answers", answers.clone());
        let job = engine.run(flow).unwrap();
        Store { ingress, answers, job, pushed: 0, _engine: engine }
    }

    fn push(&mut self, orders: impl IntoIterator<Item = Order>) {
        for order in orders {
            self.ingress.push(order).unwrap();
            self.pushed += 1;
        }
        wait_until("all orders are obeyed", || {
            let tasks = self.job.metrics().tasks;
            let done =
                tasks.iter().filter(|task| task.name.starts_with("states")).map(|task| task.records_in);
            done.sum::<u64>() == self.pushed
        });
    }

    fn assert_holds(&mut self, expected: &[Expected]) {
        self.push((0..KEYS).map(|key| (key, READ, 0)));
        wait_until("all answers are there", || self.answers.collected().len() as u64 == KEYS);
        let found: BTreeMap<u64, String> = self.answers.take().into_iter().collect();
        for (key, expected) in expected.iter().enumerate() {
            assert_eq!(found[&(key as u64)], expected.show(), "key {key}");
        }
    }
}

fn every_kind_survives_restores(backend: StateBackend) {
    let dir = TempDir::new().unwrap();
    let mut random = Random::seeded(&format!("kinds on {backend}"));
    let mut expected = vec![Expected::default(); KEYS as usize];
    for _ in 0..4 {
        let mut store = Store::start(&dir, backend);
        for _ in 0..3 {
            // Few keys get most of it, so that some collections are large.
            let orders: Vec<Order> = (0..8_000)
                .map(|_| (random.below(KEYS).min(random.below(KEYS)), random.below(7), random.below(1_000)))
                // Clearing is rare.
                .filter(|(_, what, n)| *what < 5 || n % 20 == 0)
                .collect();
            orders.iter().for_each(|(key, what, n)| expected[*key as usize].obey(*what, *n));
            store.push(orders);
            store.job.checkpoint().unwrap();
        }
        store.assert_holds(&expected);
        // What was not part of a checkpoint is forgotten.
        store.push((0..KEYS).map(|key| (key, 0, 77)));
    }
}

#[test]
fn every_kind_survives_restores_on_hash_maps() {
    every_kind_survives_restores(StateBackend::HashMap);
}

#[test]
fn every_kind_survives_restores_on_logs() {
    every_kind_survives_restores(StateBackend::Log);
}

/// Key 1 comes once in twenty records, the rest are of key 0; they come every 10 ms. Counts expire after 50 ms.
fn counts_by_key_with_time_to_live(backend: StateBackend, seed: u64) -> BTreeMap<u64, Vec<u64>> {
    let flow = Dataflow::new("ttl");
    let sink = MemorySink::new();
    let ttl = StateTtlConfig::new(Duration::from_millis(50));
    flow.source("numbers", GeneratorSource::new(Some(200), |n| n))
        .with_parallelism(1)
        .with_rate_limit(100.0)
        .key_by(|n: &u64| u64::from(n.is_multiple_of(20)))
        .process(
            "counts",
            ValueStateDescriptor::<u64>::new("count").enable_time_to_live(ttl),
            |key: &u64, _: u64, mut count: ValueState<'_, u64, u64>, out: &mut Collector<(u64, u64)>| {
                let counted = count.value().unwrap_or(0) + 1;
                count.update(counted);
                out.collect((*key, counted));
                Ok(())
            },
        )
        .sink("sink", sink.clone());
    let builder = small_engine().state_backend(backend).buffer_timeout("1ms").checkpoint_dir("/checkpoints");
    let mut simulation = Simulation::new(builder, flow, SimulationOptions::seeded(seed)).unwrap();
    simulation.run_until_finished(2_000_000).expect("the job ends").unwrap();
    let mut counts: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (key, count) in sink.committed().concat() {
        counts.entry(key).or_default().push(count);
    }
    counts
}

#[test]
fn what_is_not_written_for_its_time_to_live_expires_by_the_engines_clock() {
    for backend in [StateBackend::HashMap, StateBackend::Log] {
        for seed in 0..5 {
            let counts = counts_by_key_with_time_to_live(backend, seed);
            assert_eq!(
                counts[&0],
                (1..=190).collect::<Vec<_>>(),
                "{backend}, seed {seed}: written all the time"
            );
            assert_eq!(counts[&1], [1; 10], "{backend}, seed {seed}: written each 200 ms");
        }
    }
}

/// Each of the keys 0 to 9 comes once and asks for a timer 500 ms later; key 3 thinks better of it. Then other records come
/// for a while. The machine loses power before the timers are due.
fn timers_over_a_power_loss(backend: StateBackend, seed: u64) -> Vec<(u64, u64)> {
    let sink = MemorySink::new();
    let job = |disk| {
        let flow = Dataflow::new("timers");
        flow.source("numbers", GeneratorSource::new(Some(300), |n| n))
            .with_parallelism(1)
            .with_rate_limit(100.0)
            .key_by(|n: &u64| (*n).min(10))
            .process_with_timers(
                "timers",
                ValueStateDescriptor::<u64>::new("asked at"),
                |context: &mut KeyedContext<'_, u64>, _, mut asked_at: ValueState<'_, u64, u64>, _| {
                    let key = *context.current_key();
                    let mut timers = context.timer_service();
                    let now = timers.current_processing_time();
                    if key < 10 {
                        asked_at.update(now as u64);
                        // Twice is once.
                        timers.register_processing_time_timer(now + 500);
                        timers.register_processing_time_timer(now + 500);
                    }
                    if key == 3 {
                        timers.delete_processing_time_timer(now + 500);
                    }
                    Ok(())
                },
                |context: &mut KeyedContext<'_, u64>, time, mut asked_at, out: &mut Collector<(u64, u64)>| {
                    let late = context.timer_service().current_processing_time() - time;
                    assert!(late >= 0, "fired {late} ms late");
                    let asked_at = asked_at.value().ok_or("the timer's key has lost its state")?;
                    out.collect((*context.current_key(), time as u64 - asked_at));
                    Ok(())
                },
            )
            .sink("sink", sink.clone());
        let builder = small_engine()
            .state_backend(backend)
            .state_memory("64kb")
            .buffer_timeout("1ms")
            .checkpoint_dir("/checkpoints")
            .checkpoint_interval("15ms");
        let options = SimulationOptions { disk, ..SimulationOptions::seeded(seed) };
        Simulation::new(builder, flow, options).unwrap()
    };
    let mut simulation = job(SimDisk::new());
    while simulation.now().0 < 300_000_000 {
        simulation.step();
    }
    assert!(sink.committed().is_empty(), "no timer is due yet");
    let disk = simulation.crash(CrashProfile::LoseAll, seed);
    job(disk).run_until_finished(2_000_000).expect("the job ends").unwrap();
    sink.committed().concat()
}

#[test]
fn processing_time_timers_survive_and_fire_once_for_their_key() {
    for backend in [StateBackend::HashMap, StateBackend::Log] {
        for seed in 0..5 {
            let mut fired = timers_over_a_power_loss(backend, seed);
            fired.sort();
            let expected: Vec<_> = (0..10).filter(|key| *key != 3).map(|key| (key, 500)).collect();
            assert_eq!(fired, expected, "{backend}, seed {seed}");
        }
    }
}

//! Lives of a whole job: sources, keyed state, a file sink, the coordinator, all on one simulated disk.
//!
//! The oracle: the latest checkpoint of an image is not older than the last that was complete, nor newer than the last that was
//! begun; all of its files are whole; a second loss of power changes nothing; and the job, continued from the image,
//! ends with output files that hold every count of every key exactly once and in order.

use super::{Hashes, Look, Seen, message_of};
use crate::contract::Audit;
use crate::random::Random;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg::config::StateBackend;
use thalweg::connector::{FileSink, GeneratorSource};
use thalweg::job::{EngineBuilder, Simulation, SimulationOptions};
use thalweg::{CheckpointMode, Dataflow, Engine, RestartStrategy};
use thalweg_storage::checkpoint::{CheckpointStore, read_payload};
use thalweg_storage::io::{self, CrashProfile, DiskHandle, OpKind, SimDisk};
use thalweg_storage::{CheckpointId, StoreError};

const RECORDS: u64 = 500;
const KEYS: u64 = 60;
const STEPS_MAX: u64 = 400_000;
const JOB: &str = "job";
const CHECKPOINTS: &str = "/checkpoints";
const OUTPUT: &str = "/output";

/// A kind of job.
#[derive(Clone, Copy, Debug)]
pub struct EngineLife {
    /// Its state lives on the log backend, with little memory; else in hash maps.
    pub log: bool,
}

/// Judges images while the life goes on.
struct Judge {
    life: EngineLife,
    look: Look,
    random: Random,
    seed: u64,
    known: io::Seen,
    hashes: Hashes,
    images_max: u64,
    seen: Seen,
    /// What was wrong with an image; nobody looks any more.
    complaint: Option<String>,
}

impl Judge {
    fn wants(&mut self, kind: OpKind) -> bool {
        let Judge { look, random, seen, images_max, complaint, .. } = self;
        complaint.is_none() && seen.judged < *images_max && look.is_wanted(kind, random)
    }
}

impl EngineLife {
    fn builder(self, random: &mut Random) -> EngineBuilder {
        let builder = Engine::builder()
            .workers(1 + random.below(3) as usize)
            .parallelism(2)
            .max_parallelism(4)
            .pin(false)
            .checkpoint_dir(CHECKPOINTS)
            .checkpoint_interval("1ms")
            .checkpoint_mode([CheckpointMode::Unaligned, CheckpointMode::Aligned][random.below(2) as usize])
            .retained_checkpoints(1 + random.below(2) as usize)
            .max_concurrent_checkpoints(1 + random.below(2) as usize)
            .ring_batches(1 + random.below(2) as usize)
            .batch_records(2 + random.below(6) as usize)
            .buffer_timeout(Duration::from_millis(1))
            .restart_strategy(RestartStrategy::None);
        match self.log {
            true => builder.state_backend(StateBackend::Log).state_memory("32kb"),
            false => builder.state_backend(StateBackend::HashMap),
        }
    }

    fn flow(self) -> Dataflow {
        let flow = Dataflow::new(JOB);
        flow.source("numbers", GeneratorSource::new(Some(RECORDS), |n| n.wrapping_mul(7) % KEYS))
            .with_rate_limit(150_000.0)
            .key_by(|key: &u64| *key)
            .count("count")
            .sink("output", FileSink::csv(OUTPUT).roll_interval(Duration::from_millis(2)));
        flow
    }

    fn simulation(self, random: &mut Random, disk: Arc<SimDisk>) -> Simulation {
        let options = SimulationOptions { disk, ..SimulationOptions::seeded(random.next_u64()) };
        Simulation::new(self.builder(random), self.flow(), options)
            .unwrap_or_else(|error| panic!("the job does not start: {error}"))
    }

    /// Lives by `seed`, with a few losses of power, to the end of its input. The hashes of all images that are judged are added
    /// to `hashes`; after about `images_max` images nobody looks any more.
    ///
    /// # Panics
    /// When an image is not what it must be, or the job ends otherwise than it must; the message says which.
    pub fn live(self, seed: u64, look: Look, images_max: u64, hashes: &mut Hashes) -> Seen {
        let mut random = Random::of_part(seed, 2);
        let judge = Arc::new(Mutex::new(Judge {
            life: self,
            look,
            random: Random::of_part(seed, 3),
            seed,
            known: io::Seen::default(),
            hashes: std::mem::take(hashes),
            images_max,
            seen: Seen::default(),
            complaint: None,
        }));
        let mut disk = SimDisk::new();
        // The newest checkpoint that is known to be complete.
        let complete = Arc::new(AtomicU64::new(0));
        let crashes = random.below(3);
        for crash in 0..=crashes {
            let (judging, known) = (Arc::clone(&judge), Arc::clone(&complete));
            disk.watch(move |disk, kind| {
                let mut judge = judging.lock().expect("no judgement has panicked");
                if judge.wants(kind) {
                    let look = AssertUnwindSafe(|| judge.look(disk, known.load(Ordering::Relaxed), kind));
                    if let Err(panic) = catch_unwind(look) {
                        judge.complaint = Some(message_of(&*panic));
                    }
                }
            });
            let mut simulation = self.simulation(&mut random, Arc::clone(&disk));
            let steps = if crash < crashes { random.below(6_000) } else { STEPS_MAX };
            let wrong = || judge.lock().expect("no judgement has panicked").complaint.is_some();
            while !simulation.has_ended() && simulation.steps() < steps && !wrong() {
                simulation.step();
                if let Some(latest) = simulation.metrics().checkpoints.latest {
                    complete.fetch_max(latest.0, Ordering::Relaxed);
                }
            }
            disk.unwatch();
            if wrong() {
                break;
            }
            if crash == crashes {
                let status = simulation.status();
                assert!(simulation.has_ended(), "engine life {seed}: the job is stuck: {status:?}");
                judge_output(&disk, &|| format!("engine life {seed} at its end, {status:?}"));
                break;
            }
            let profile =
                [CrashProfile::LoseAll, CrashProfile::KeepAll, CrashProfile::Weak][random.below(3) as usize];
            disk = simulation.crash(profile, random.next_u64());
        }
        let mut judge = judge.lock().expect("no judgement has panicked");
        *hashes = std::mem::take(&mut judge.hashes);
        if let Some(complaint) = judge.complaint.take() {
            panic!("{complaint}");
        }
        judge.seen
    }
}

impl Judge {
    fn look(&mut self, disk: &SimDisk, complete: u64, moment: OpKind) {
        self.seen.moments += 1;
        let begun = newest_begun(disk);
        let exploration = io::Exploration { seed: self.random.next_u64(), ..self.look.exploration };
        let Judge { life, look, known, hashes, seen, seed, random, .. } = self;
        let explored = disk.explore(exploration, &complete, known, |image, how| {
            let context = || format!("engine life {seed}, {life:?}, before {moment:?}: {how}");
            hashes.insert(image.fingerprint(&()));
            seen.judged += 1;
            let latest = latest_whole(image).unwrap_or_else(|error| panic!("{error}: {}", context()));
            let found = latest.map_or(0, |id| id.0);
            assert!(
                complete <= found && found <= begun,
                "recovered {found}, but {complete} was complete and {begun} begun: {}",
                context()
            );
            image.crash_with(CrashProfile::LoseAll, 0);
            let again = latest_whole(image).unwrap_or_else(|error| panic!("{error}: {}", context()));
            assert_eq!(again, latest, "a second recovery gives the same: {}", context());
            if seen.judged.is_multiple_of(look.full_one_in) {
                seen.worked_on += 1;
                let mut simulation = life.simulation(random, Arc::clone(image));
                match simulation.run_until_finished(STEPS_MAX) {
                    Some(Ok(())) => {}
                    Some(Err(error)) => panic!("the job ends badly: {error}: {}", context()),
                    None => panic!("the job is stuck: {}", context()),
                }
                judge_output(image, &context);
            }
        });
        self.seen.exhausted += u64::from(explored.exhausted);
    }
}

/// The newest checkpoint that has a directory.
fn newest_begun(disk: &SimDisk) -> u64 {
    let dirs = disk.dirs().into_iter();
    let id = |dir: PathBuf| dir.file_name()?.to_str()?.strip_prefix("chk-")?.parse().ok();
    dirs.filter_map(id).max().unwrap_or(0)
}

/// Opens the checkpoints of an image as an engine does, and reads all that the latest one names.
fn latest_whole(image: &Arc<SimDisk>) -> Result<Option<CheckpointId>, StoreError> {
    let disk = DiskHandle::new(image.clone());
    let store = CheckpointStore::open_unlocked(disk.clone(), Path::new(CHECKPOINTS), JOB)?;
    let Some(manifest) = store.latest()? else { return Ok(None) };
    for channel in &manifest.channels {
        read_payload(&disk, store.dir(), &channel.data)?;
    }
    for subtask in manifest.operators.iter().flat_map(|operator| &operator.subtasks) {
        thalweg_storage::snapshot::verify(&disk, store.dir(), &subtask.segments)?;
    }
    Ok(Some(manifest.checkpoint))
}

/// Panics unless the output files hold every count of every key, exactly once and in order.
fn judge_output(disk: &SimDisk, context: &dyn Fn() -> String) {
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut files: Vec<_> = disk.files().into_iter().filter(|path| path.starts_with(OUTPUT)).collect();
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        assert!(name.starts_with("part-"), "{name} is left over: {}", context());
        let text = String::from_utf8(disk.read_file(&file).unwrap_or_default()).unwrap_or_default();
        for row in text.lines() {
            let (key, count) =
                row.split_once(',').unwrap_or_else(|| panic!("{name} holds {row:?}: {}", context()));
            let number = |text: &str| text.parse().unwrap_or(u64::MAX);
            found.entry(number(key)).or_default().push(number(count));
        }
    }
    let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
    (0..RECORDS).for_each(|n| *expected.entry(n.wrapping_mul(7) % KEYS).or_default() += 1);
    let mut audit = Audit::default();
    for (key, count) in expected {
        audit.add(Audit::of_sequence(found.remove(&key).unwrap_or_default(), count));
    }
    assert!(
        audit.is_clean() && found.is_empty(),
        "{audit:?}, keys that never were {:?}: {}",
        found.keys(),
        context()
    );
}

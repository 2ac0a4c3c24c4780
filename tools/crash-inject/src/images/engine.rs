//! Lives of a whole job: sources, keyed state, a file sink, the coordinator, all on one simulated disk.
//!
//! The oracle: the latest checkpoint of an image is not older than the last that was complete, nor newer than the last that was
//! begun; all of its files are whole; a second loss of power changes nothing; and the job, continued from the image,
//! ends with output files that hold every count of every key exactly once and in order.

use super::{Hashes, Look, Seen, message_of};
use crate::random::Random;
use crate::simulated::{self, JOB, STEPS_MAX, judge_output, latest_whole, newest_begun};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use thalweg::job::{Simulation, SimulationOptions};
use thalweg::{Dataflow, RestartStrategy};
use thalweg_storage::io::{self, CrashProfile, OpKind, SimDisk};

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
    fn flow(self) -> Dataflow {
        let flow = Dataflow::new(JOB);
        flow.source("numbers", simulated::numbers())
            .with_rate_limit(simulated::RATE)
            .key_by(|key: &u64| *key)
            .count("count")
            .sink("output", simulated::output());
        flow
    }

    fn simulation(self, random: &mut Random, disk: Arc<SimDisk>) -> Simulation {
        let options = SimulationOptions { disk, ..SimulationOptions::seeded(random.next_u64()) };
        let builder = simulated::builder(self.log, random).restart_strategy(RestartStrategy::None);
        Simulation::new(builder, self.flow(), options)
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
                let audit = judge_output(&disk);
                audit.unwrap_or_else(|wrong| panic!("{wrong}: engine life {seed} at its end, {status:?}"));
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
                judge_output(image).unwrap_or_else(|wrong| panic!("{wrong}: {}", context()));
            }
        });
        self.seen.exhausted += u64::from(explored.exhausted);
    }
}

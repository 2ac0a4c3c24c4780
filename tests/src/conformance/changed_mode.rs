//! Restores in another checkpoint mode than that of the checkpoint or of the job that took the savepoint: in-flight data or
//! none, the output is complete.

use super::case::{Case, Family};
use super::control::Control;
use super::run::{Random, settings};
use super::sink::VerifyingSink;
use super::topology::{Mode, Scenario, Topology};
use super::verdict::{Outcome, Verdict, Watch, judge};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thalweg::connector::MemorySink;
use thalweg::job::{Simulation, SimulationOptions};
use thalweg::{RestoreSettings, StopMode};
use thalweg_storage::io::{CrashProfile, SimDisk};

/// A simulated job that takes more steps is stuck.
const STEPS_MAX: u64 = 1_000_000;

/// What the second life starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// The latest checkpoint: the first life dies.
    Checkpoint,
    /// The savepoint with which the first life is stopped.
    Savepoint,
}

/// A job whose first life ends after a few checkpoints in one mode, and whose second goes on in another.
fn changed(seed: u64, from: From, modes: [Mode; 2]) -> Outcome {
    let mut random = Random(seed);
    let topology = [Topology::Pipeline, Topology::Union, Topology::MultiInput][random.below(3) as usize];
    let scenario = |mode| Scenario { topology, parallelism: 3, mode };
    let interval = Duration::from_millis(5);
    let control = Control::unscheduled(interval, scenario(modes[0]).splits());
    let committed = MemorySink::new();
    let (ring_batches, batch_records) = (1 + random.below(2) as usize, 2 + random.below(5) as usize);
    let mut watch = Watch::default();
    let start = |mode: Mode, disk: Arc<SimDisk>, savepoint: Option<PathBuf>, random: &mut Random| {
        let sink = VerifyingSink { control: Arc::clone(&control), committed: committed.clone() };
        let builder = settings(&scenario(mode), ring_batches, batch_records, interval)
            .workers(1 + random.below(4) as usize)
            .checkpoint_dir("/checkpoints");
        let options = SimulationOptions { disk, ..SimulationOptions::seeded(random.next()) };
        let flow = scenario(mode).flow(&control, sink);
        match savepoint {
            None => Simulation::new(builder, flow, options),
            Some(path) => Simulation::from(builder, flow, options, &RestoreSettings::from_path(path)),
        }
    };
    let refused =
        |error| Verdict { violations: vec![format!("a job does not start: {error}")], ..Verdict::default() };
    let mut first = match start(modes[0], SimDisk::new(), None, &mut random) {
        Ok(simulation) => simulation,
        Err(error) => return watch.outcome(&control, refused(error), 0),
    };
    let wanted = 2 + random.below(4);
    while first.metrics().checkpoints.completed < wanted && first.steps() < STEPS_MAX {
        first.step();
    }
    for _ in 0..random.below(2_000) {
        first.step();
    }
    let savepoint = match from {
        From::Checkpoint => None,
        From::Savepoint => match stopped(&mut first) {
            Ok(path) => Some(path),
            Err(error) => {
                let violations = vec![format!("the job is not stopped with a savepoint: {error}")];
                return watch.outcome(&control, Verdict { violations, ..Verdict::default() }, 0);
            }
        },
    };
    watch.look_at_life(&first.metrics().checkpoints, 0);
    control.injected();
    let disk = first.crash(CrashProfile::LoseAll, random.next());
    let mut second = match start(modes[1], disk, savepoint, &mut random) {
        Ok(simulation) => simulation,
        Err(error) => return watch.outcome(&control, refused(error), 0),
    };
    control.end();
    let mut ended = None;
    while ended.is_none() && second.steps() < STEPS_MAX {
        ended = second.run_until_finished(100);
        watch.look_at_life(&second.metrics().checkpoints, 1);
    }
    let stats = second.metrics().checkpoints;
    let mut verdict = judge(&scenario(modes[1]), &control, &committed, &stats, ended);
    if watch.restored.is_empty() {
        verdict.violations.push("nothing was restored".to_owned());
    }
    watch.outcome(&control, verdict, 0)
}

/// Stops the job with a savepoint, and waits for its end.
fn stopped(job: &mut Simulation) -> Result<PathBuf, String> {
    let answer = job.savepoint(Path::new("/savepoints"), Some(StopMode::Suspend));
    while !job.has_ended() && job.steps() < STEPS_MAX {
        job.step();
    }
    answer.try_recv().unwrap_or_else(|_| Err(format!("no answer: {:?}", job.status())))
}

/// The list of this family.
pub const CASES: &[Case] = &[
    Case {
        name: "checkpoint-aligned-to-unaligned",
        family: Family::ChangedMode,
        real: false,
        run: |seed| changed(seed, From::Checkpoint, [Mode::Aligned, Mode::Unaligned]),
    },
    Case {
        name: "checkpoint-unaligned-to-aligned",
        family: Family::ChangedMode,
        real: false,
        run: |seed| changed(seed, From::Checkpoint, [Mode::Unaligned, Mode::Aligned]),
    },
    Case {
        name: "savepoint-aligned-to-unaligned",
        family: Family::ChangedMode,
        real: false,
        run: |seed| changed(seed, From::Savepoint, [Mode::Aligned, Mode::Unaligned]),
    },
    Case {
        name: "savepoint-unaligned-to-aligned",
        family: Family::ChangedMode,
        real: false,
        run: |seed| changed(seed, From::Savepoint, [Mode::Unaligned, Mode::Aligned]),
    },
];

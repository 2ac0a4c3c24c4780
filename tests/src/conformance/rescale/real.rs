//! The same on real workers: an engine per life, each of which is shut down with data in flight.

use super::jobs::Plan;
use super::ledger::Ledger;
use super::run::{Rescale, builder};
use super::script::Script;
use crate::conformance::{Outcome, Tally};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use thalweg::DriverChoice;
use thalweg::coordinator::CheckpointOutcome;

/// Time between checkpoints.
const INTERVAL: Duration = Duration::from_millis(12);

/// A life that takes longer is stuck. Generous: the machine may be busy.
const WATCHDOG: Duration = Duration::from_secs(120);

impl Rescale {
    /// Runs all lives on real workers; `seed` varies the number of workers, the driver and the sizes of rings and batches. A
    /// life ends once a checkpoint holds in-flight data, whatever [`Rescale::stop`] says.
    pub fn run_real(&self, seed: u64) -> Outcome {
        let most = *self.parallelism.iter().max().expect("there is a life");
        let script = Script::new(INTERVAL, u64::from(most) * 2 + 1, self.slow, self.limit);
        let ledger = Ledger::new(&script);
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut tally = Tally::default();
        let mut violations = Vec::new();
        for number in 0..self.parallelism.len() {
            let plan = Plan {
                script: Arc::clone(&script),
                ledger: ledger.clone(),
                parallelism: self.parallelism[number],
                life: number,
                seed,
            };
            if let Err(problem) = self.live_really(&plan, dir.path(), &mut tally) {
                violations.push(format!("life {number}: {problem}"));
                break;
            }
        }
        tally.values = ledger.committed().len() as u64;
        tally.jobs = 1;
        violations.splice(0..0, script.violations());
        if violations.is_empty() {
            violations = self.judge(&script, &ledger, &mut tally);
        }
        Outcome { violations, tally, digest: 0 }
    }

    fn live_really(&self, plan: &Plan, dir: &Path, tally: &mut Tally) -> Result<(), String> {
        let last = plan.life + 1 == self.parallelism.len();
        let seed = plan.seed.wrapping_mul(31).wrapping_add(plan.life as u64);
        let driver = if seed.is_multiple_of(2) { DriverChoice::Auto } else { DriverChoice::Threads };
        let engine = builder(plan.parallelism, seed, INTERVAL)
            .workers(1 + seed as usize % 3)
            .driver(driver)
            .checkpoint_dir(dir)
            .build()
            .map_err(|error| error.to_string())?;
        let job = engine.run((self.shape.flow)(plan)).map_err(|error| error.to_string())?;
        let begin = Instant::now();
        let mut restored = false;
        let mut steps = (false, false);
        while begin.elapsed() < WATCHDOG {
            let ended = job.wait_timeout(Duration::from_millis(2));
            let stats = job.metrics().checkpoints;
            if stats.restored.is_some() && !restored {
                restored = true;
                tally.restored_records += stats.restored_records;
            }
            match ended {
                Some(Ok(())) if last => return Ok(()),
                Some(outcome) => return Err(format!("the job ended too early: {outcome:?}, {stats:?}")),
                None => {}
            }
            let completed = stats.history.iter().rev().find(|r| r.outcome == CheckpointOutcome::Completed);
            if !last && completed.is_some_and(|record| record.in_flight_records > 0) {
                return Ok(());
            }
            let (armed, told) = &mut steps;
            if last && !*armed && stats.completed >= 1 {
                *armed = true;
                plan.script.arm();
            }
            if last && !*told && stats.restarts >= 1 && stats.completed >= 2 {
                *told = true;
                plan.script.end();
            }
        }
        Err(format!("the job is stuck: {:?} {:?}", job.metrics().checkpoints, job.metrics().tasks))
    }
}

//! What a job offers so that it can be tested: a directory, two steps, a few lines on its standard output.
//!
//! The tool starts the job's binary without arguments and with these environment variables:
//!
//! | variable             | meaning                                                                        |
//! |----------------------|--------------------------------------------------------------------------------|
//! | `CRASH_INJECT_JOB`        | the step: `run` or `verify`                                                    |
//! | `CRASH_INJECT_DIR`    | where everything lies that outlives the process; empty at the first start      |
//! | `CRASH_INJECT_SEED`   | a number, the same for all lives of one directory: what the job may vary with  |
//! | `CRASH_INJECT_AT`   | `<point>:<n>`, read by the engine                                              |
//!
//! - `run` continues from what lies in the directory until all input is processed and all output committed, then exits with
//!   success. Once it has restored a checkpoint it prints `restored checkpoint <id>`. When there is nothing left to do it
//!   exits at once.
//! - `verify`, after a `run` that succeeded, compares the output with a reference and prints one line: an [`Audit`] as JSON.
//!   It exits with success whatever it finds.

use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use thalweg::{JobHandle, JobStatus};

/// Environment variable of the step.
pub const STEP: &str = "CRASH_INJECT_JOB";
/// Environment variable of the directory.
pub const DIR: &str = "CRASH_INJECT_DIR";
/// Environment variable of the seed.
pub const SEED: &str = "CRASH_INJECT_SEED";
/// Environment variable that arms a crash point.
pub const CRASH_AT: &str = "CRASH_INJECT_AT";
/// What a job prints before the id of the checkpoint that it has restored.
pub const RESTORED: &str = "restored checkpoint ";

/// What a job is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Process the input to its end.
    Run,
    /// Compare the output with the reference.
    Verify,
}

impl Step {
    /// As in the environment.
    pub fn name(self) -> &'static str {
        match self {
            Step::Run => "run",
            Step::Verify => "verify",
        }
    }
}

/// What a job finds in its environment.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What to do.
    pub step: Step,
    /// Where everything lies.
    pub dir: PathBuf,
    /// What may vary with it.
    pub seed: u64,
}

impl Asked {
    /// What the environment asks for.
    ///
    /// # Errors
    /// Which variable is missing or strange: the job was not started by this tool.
    pub fn from_environment() -> Result<Asked, String> {
        let variable = |name: &str| {
            std::env::var(name)
                .map_err(|_| format!("{name} is not set: start this job with `crash-inject run`"))
        };
        let step = match variable(STEP)?.as_str() {
            "run" => Step::Run,
            "verify" => Step::Verify,
            other => return Err(format!("{STEP}={other}: it is `run` or `verify`")),
        };
        let seed = variable(SEED)?;
        let seed = seed.parse().map_err(|_| format!("{SEED}={seed} is no number"))?;
        Ok(Asked { step, dir: variable(DIR)?.into(), seed })
    }
}

/// The whole of a job's `main`: does what the environment asks for. `run` processes the input to its end, and is not called again
/// once it has; `audit` compares the output.
pub fn serve<E: From<String> + From<std::io::Error> + From<serde_json::Error> + Display>(
    run: impl FnOnce(&Asked) -> Result<(), E>,
    audit: impl FnOnce(&Asked) -> Result<Audit, E>,
) -> ExitCode {
    let served = Asked::from_environment().map_err(E::from).and_then(|asked| {
        let done = asked.dir.join("done");
        match asked.step {
            Step::Run if done.exists() => {}
            Step::Run => {
                run(&asked)?;
                std::fs::write(done, "")?;
            }
            Step::Verify => println!("{}", serde_json::to_string(&audit(&asked)?)?),
        }
        Ok(())
    });
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Tells the tool, once `job` runs, which checkpoint it has restored; `told` says whether it has been told.
pub fn tell_restored(job: &JobHandle, told: &mut bool) {
    if !*told && matches!(job.status(), JobStatus::Running | JobStatus::Finished) {
        *told = true;
        if let Some(checkpoint) = job.metrics().checkpoints.restored {
            println!("{RESTORED}{checkpoint}");
        }
    }
}

/// Waits until `job` has ended, and tells the tool meanwhile what it has restored.
///
/// # Errors
/// As the job ended.
pub fn wait(job: &JobHandle) -> Result<(), thalweg::Error> {
    let mut told = false;
    loop {
        let ended = job.wait_timeout(Duration::from_millis(if told { 50 } else { 2 }));
        tell_restored(job, &mut told);
        if let Some(ended) = ended {
            return ended;
        }
    }
}

/// How output and reference compare, in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// In the reference, and not in the output.
    pub lost: u64,
    /// In the output more often than in the reference.
    pub duplicated: u64,
    /// In the output before one that comes earlier in the reference.
    pub out_of_order: u64,
    /// In the output, and unlike anything in the reference; also files that cannot be read.
    pub corrupt: u64,
}

impl Audit {
    /// Nothing is wrong.
    pub fn is_clean(&self) -> bool {
        *self == Audit::default()
    }

    /// Adds another one's counts.
    pub fn add(&mut self, other: Audit) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.corrupt += other.corrupt;
    }

    /// Compares one ordered sequence of output with the numbers 1, 2, … `expected`, each once.
    pub fn of_sequence(found: impl IntoIterator<Item = u64>, expected: u64) -> Audit {
        let mut audit = Audit::default();
        let mut seen = vec![false; expected as usize];
        let mut highest = 0;
        for number in found {
            match number.checked_sub(1).and_then(|index| seen.get_mut(index as usize)) {
                None => audit.corrupt += 1,
                Some(true) => audit.duplicated += 1,
                Some(seen) => {
                    *seen = true;
                    audit.out_of_order += u64::from(number < highest);
                    highest = highest.max(number);
                }
            }
        }
        audit.lost = seen.iter().filter(|seen| !**seen).count() as u64;
        audit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_fault_is_counted_as_what_it_is() {
        let audit = |found: &[u64]| {
            let Audit { lost, duplicated, out_of_order, corrupt } =
                Audit::of_sequence(found.iter().copied(), 4);
            (lost, duplicated, out_of_order, corrupt)
        };
        assert_eq!(audit(&[1, 2, 3, 4]), (0, 0, 0, 0));
        assert_eq!(audit(&[1, 2, 4]), (1, 0, 0, 0));
        assert_eq!(audit(&[1, 2, 3, 2, 3, 4]), (0, 2, 0, 0));
        assert_eq!(audit(&[1, 3, 2, 4]), (0, 0, 1, 0));
        assert_eq!(audit(&[1, 2, 3, 4, 5, 0]), (0, 0, 0, 2));
        assert_eq!(audit(&[]), (4, 0, 0, 0));
    }
}

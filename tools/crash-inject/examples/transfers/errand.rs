//! What is done with a running job besides letting it run.
//!
//! Always true: a job is never started from anything but what it was stopped with just before, as output after an older
//! savepoint is already in the outside systems.

use crate::Error;
use crash_inject::random::Random;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thalweg::{Engine, JobHandle, RestoreMode, RestoreSettings, StopMode};

/// What is done, and when.
pub struct Errand {
    /// Due after this many checkpoints.
    pub after: u64,
    what: What,
    savepoints: PathBuf,
}

/// How to go on after the job has ended.
pub enum Next {
    /// All input is processed.
    Done,
    /// Run the job again.
    GoOn,
    /// Run it again, from here.
    StartFrom(RestoreSettings),
}

enum What {
    /// Takes a savepoint; perhaps disposes of it.
    Savepoint { dispose: bool },
    /// Stops the job with a savepoint; starts it from that, or just runs it again, which comes to the same.
    Stop { start: Option<RestoreMode> },
    /// Cancels the job while it takes a savepoint, of which something may have been written.
    CancelSavepoint { written: bool },
}

impl Errand {
    /// Any errand, with savepoints in the directory `savepoints`.
    pub fn any(savepoints: &Path, random: &mut Random) -> Errand {
        let what = match random.below(7) {
            0 => What::Savepoint { dispose: false },
            1 | 2 => What::Savepoint { dispose: true },
            3 => What::Stop { start: None },
            4 => What::Stop { start: Some(RestoreMode::Claim) },
            5 => What::Stop { start: Some(RestoreMode::NoClaim) },
            _ => What::CancelSavepoint { written: random.below(3) > 0 },
        };
        Errand { after: 1 + random.below(4), what, savepoints: savepoints.to_owned() }
    }

    /// Does it. Returns how to go on if the job has ended by it.
    ///
    /// # Errors
    /// The savepoint could not be disposed of.
    pub fn run(self, engine: &Engine, job: &JobHandle) -> Result<Option<Next>, Error> {
        let taken = match self.what {
            What::Savepoint { .. } => job.savepoint(Some(&self.savepoints)),
            What::Stop { .. } => job.stop_with_savepoint(Some(&self.savepoints), StopMode::Suspend),
            What::CancelSavepoint { written } => {
                cancel_savepoint(job, &self.savepoints, written);
                // All input may have been processed before.
                return Ok(Some(job.wait().map_or(Next::GoOn, |()| Next::Done)));
            }
        };
        let savepoint = match taken {
            Ok(savepoint) => savepoint,
            // The input was at its end.
            Err(thalweg::Error::SavepointFailed(why)) => {
                eprintln!("no savepoint: {why}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        match self.what {
            What::Savepoint { dispose: true } => engine.dispose_savepoint(savepoint)?,
            What::Stop { start } => {
                job.wait()?;
                let start = start.map(|mode| RestoreSettings::from_path(savepoint).mode(mode));
                return Ok(Some(start.map_or(Next::GoOn, Next::StartFrom)));
            }
            _ => {}
        }
        Ok(None)
    }
}

/// Cancels `job` once a savepoint has a directory, or a file in it.
fn cancel_savepoint(job: &JobHandle, savepoints: &Path, written: bool) {
    let before = entries(savepoints);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| job.savepoint(Some(savepoints)));
        while !asked.is_finished() && entries(savepoints) < before + 1 + usize::from(written) {
            std::thread::sleep(Duration::from_micros(100));
        }
        job.cancel();
        // It may be complete all the same.
        let _ = asked.join();
    });
}

/// Directories and files below `dir`.
fn entries(dir: &Path) -> usize {
    let Ok(found) = std::fs::read_dir(dir) else { return 0 };
    found.flatten().map(|entry| 1 + entries(&entry.path())).sum()
}

//! Drives a campaign: lives, one after another, each in the directory that the one before has left behind.
//!
//! Always true:
//! - what is counted is saved after each directory, so a campaign that is broken off goes on from there;
//! - a directory in which something was found stays, with what the job said last; all others are removed.

use crate::campaign::{Campaign, Cycle, Kind};
use crate::contend::Contention;
use crate::life::Subject;
use crate::random::Random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Directories with findings that are kept.
const KEPT_MAX: u64 = 20;

/// What a campaign is to do.
#[derive(Clone, Debug)]
pub struct Orders {
    /// The job's binary.
    pub job: PathBuf,
    /// Where to kill.
    pub kind: Kind,
    /// Kills per point, or kills in all.
    pub goal: u64,
    /// What decides everything but the machine's own timing.
    pub seed: u64,
    /// The points to kill at.
    pub points: Vec<String>,
    /// Only this directory of the campaign: a replay.
    pub only_cycle: Option<u64>,
    /// Keep all cores busy meanwhile.
    pub contend: bool,
    /// Where progress and directories lie.
    pub state: PathBuf,
    /// No directory is begun after this long.
    pub time_limit: Duration,
}

/// The progress file.
#[derive(Serialize, Deserialize)]
struct Saved {
    job: PathBuf,
    campaign: Campaign,
    spent: Duration,
    kept: u64,
}

/// How a campaign went.
pub struct Outcome {
    /// All counts.
    pub campaign: Campaign,
    /// What was found, for people.
    pub complaints: Vec<String>,
    /// Time spent on it, that of earlier calls included.
    pub spent: Duration,
    /// False when time was up before.
    pub is_done: bool,
}

/// Runs a campaign to its end or to the limit of its time; goes on with one that was broken off.
///
/// # Errors
/// The tool itself cannot go on: no child can be started, the state directory belongs to another campaign.
pub fn run(orders: &Orders, progress: &mut dyn FnMut(&Campaign)) -> Result<Outcome, String> {
    std::fs::create_dir_all(&orders.state).map_err(|error| format!("{}: {error}", orders.state.display()))?;
    let path = orders.state.join("progress.json");
    let mut saved = load(&path, orders)?;
    let _contention = orders.contend.then(Contention::start);
    let (began, before) = (Instant::now(), saved.spent);
    let mut complaints = Vec::new();
    while !saved.campaign.is_done() && began.elapsed() < orders.time_limit {
        let number = orders.only_cycle.unwrap_or(saved.campaign.cycles);
        let found = cycle(orders, number, &mut saved.campaign)?;
        saved.campaign.cycles += 1;
        saved.spent = before + began.elapsed();
        let dir = orders.state.join(format!("cycle-{number}"));
        if found.is_empty() || saved.kept >= KEPT_MAX {
            std::fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        } else {
            saved.kept += 1;
        }
        complaints.extend(found.into_iter().map(|what| {
            let Campaign { seed, .. } = &saved.campaign;
            format!("seed {seed}, --only-cycle {number} ({}): {what}", dir.display())
        }));
        save(&path, &saved)?;
        progress(&saved.campaign);
        if orders.only_cycle.is_some() {
            break;
        }
    }
    let is_done = saved.campaign.is_done() || orders.only_cycle.is_some();
    Ok(Outcome { campaign: saved.campaign, complaints, spent: saved.spent, is_done })
}

/// One directory, from the first start of the job to the comparison of its output. Returns what was found.
fn cycle(orders: &Orders, number: u64, campaign: &mut Campaign) -> Result<Vec<String>, String> {
    let mut random = Random::of_part(campaign.seed, number);
    let dir = orders.state.join(format!("cycle-{number}"));
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", dir.display()));
        }
        _ => {}
    }
    let subject = Subject { job: &orders.job, dir: &dir, seed: random.next_u64() };
    let (mut cycle, mut complaints) = (Cycle::default(), Vec::new());
    loop {
        let plan = campaign.plan(&cycle, &mut random);
        let life = subject.live(&plan)?;
        if !campaign.lived(&mut cycle, &plan, &life, &mut complaints) {
            break;
        }
    }
    if complaints.is_empty() {
        match subject.verify() {
            Ok(audit) if audit.is_clean() => {}
            Ok(audit) => {
                campaign.audit.add(audit);
                complaints.push(format!("{audit:?}"));
            }
            Err(why) => {
                campaign.audit.corrupt += 1;
                complaints.push(why);
            }
        }
    }
    Ok(complaints)
}

fn load(path: &Path, orders: &Orders) -> Result<Saved, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let campaign = Campaign::new(orders.kind, orders.goal, orders.seed, &orders.points);
            return Ok(Saved { job: orders.job.clone(), campaign, spent: Duration::ZERO, kept: 0 });
        }
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    let mut saved: Saved =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let Campaign { kind, seed, .. } = &saved.campaign;
    let wanted: BTreeSet<_> = orders.points.iter().collect();
    let same_points = saved.campaign.points.keys().eq(wanted);
    if saved.job != orders.job || *kind != orders.kind || *seed != orders.seed || !same_points {
        return Err(format!(
            "{} belongs to another campaign (job {}, {kind:?}, seed {seed}): name another --state",
            path.display(),
            saved.job.display(),
        ));
    }
    saved.campaign.goal = orders.goal;
    Ok(saved)
}

fn save(path: &Path, saved: &Saved) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let text = serde_json::to_string(saved).map_err(|error| error.to_string())?;
    let new = path.with_extension("new");
    std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(failed)
}

//! Decides where the next life ends, and keeps count.
//!
//! Always true:
//! - a job's directory sees a bounded number of kills, then the job is let finish and its output compared;
//! - a point that the job does not reach is given up after a bounded number of tries;
//! - a point at which only a restart passes is aimed at only where there is something to restore.
//!
//! Pure: facts in, a [`Plan`] out; the driver is [`crate::run`].

use crate::contract::Audit;
use crate::life::{End, Life, Plan};
use crate::random::Random;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Kills in one directory.
const KILLS_MAX: u64 = 12;
/// Tries in a row that do not reach a point, after which it is given up.
const MISSES_MAX: u64 = 60;
/// The point is aimed at up to this often before it is hit.
const REACH_MAX: u64 = 64;
/// Whoever is killed here leaves a completed checkpoint behind.
const CHECKPOINT_EXISTS: &str = "publish.after_manifest";
/// Points that only a life passes which finds something left over, and where to be killed so that it is.
const LEFT_OVER: [(&str, &str); 4] = [
    ("store.before_remove_scratch", "scratch.after_create"),
    ("store.after_remove_scratch", "scratch.after_create"),
    ("retention.before_remove_leftover", "manifest.after_write"),
    ("retention.after_remove_leftover", "manifest.after_write"),
];

/// Where to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// At each crash point, so and so often.
    Points,
    /// At random times.
    Random,
}

/// What happened at one point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointTally {
    /// Kills at this point.
    pub kills: u64,
    /// Restores from a checkpoint that followed such a kill.
    pub restores: u64,
}

/// How well a point can be aimed at.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Aim {
    /// It is probably passed so often in one life.
    reach: u64,
    /// Tries in a row that missed it.
    misses: u64,
    /// Only a life that restores passes it.
    late: bool,
    /// It has been missed, so `reach` is about right: from then on it grows by one, as each miss costs a life.
    settled: bool,
}

/// A campaign so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Campaign {
    /// Where it kills.
    pub kind: Kind,
    /// What it is to reach: kills per point, or kills.
    pub goal: u64,
    /// What decides everything but the machine's own timing.
    pub seed: u64,
    /// Directories that are done with.
    pub cycles: u64,
    /// Kills.
    pub kills: u64,
    /// Lives that continued from a checkpoint.
    pub restores: u64,
    /// By point.
    pub points: BTreeMap<String, PointTally>,
    /// What was found.
    pub audit: Audit,
    aims: BTreeMap<String, Aim>,
    /// How long a life takes that is let finish.
    life: Duration,
}

/// What is known of the directory under way.
#[derive(Clone, Debug, Default)]
pub struct Cycle {
    kills: u64,
    /// The checkpoint that was restored last.
    restored: Option<u64>,
    /// A checkpoint is complete.
    has_checkpoint: bool,
    /// Points at which there was a kill since the last restore.
    pending: Vec<String>,
    /// The point of the last kill.
    last: Option<String>,
}

impl Campaign {
    /// A campaign over `points`.
    pub fn new(kind: Kind, goal: u64, seed: u64, points: &[String]) -> Self {
        let aim = Aim { reach: 2, misses: 0, late: false, settled: false };
        Campaign {
            kind,
            goal,
            seed,
            cycles: 0,
            kills: 0,
            restores: 0,
            points: points.iter().map(|point| (point.clone(), PointTally::default())).collect(),
            audit: Audit::default(),
            aims: points.iter().map(|point| (point.clone(), aim)).collect(),
            life: Duration::from_millis(500),
        }
    }

    /// True once the goal is reached, as far as it can be.
    pub fn is_done(&self) -> bool {
        match self.kind {
            Kind::Points => self.open_points().next().is_none(),
            Kind::Random => self.kills >= self.goal,
        }
    }

    /// Points that want more kills and have not been given up.
    fn open_points(&self) -> impl Iterator<Item = (&String, &Aim)> {
        let wants =
            |(point, aim): &(&String, &Aim)| self.points[*point].kills < self.goal && aim.misses < MISSES_MAX;
        self.aims.iter().filter(wants)
    }

    /// Points that were never reached.
    pub fn unreached(&self) -> Vec<&str> {
        self.points.iter().filter(|(_, tally)| tally.kills == 0).map(|(point, _)| point.as_str()).collect()
    }

    /// How the next life ends.
    pub fn plan(&self, cycle: &Cycle, random: &mut Random) -> Plan {
        if cycle.kills >= KILLS_MAX || self.is_done() {
            return Plan::Finish;
        }
        match self.kind {
            Kind::Random => {
                let longest = self.life.as_micros() as u64 * 11 / 10;
                Plan::After(Duration::from_micros(random.below(longest.max(1))))
            }
            Kind::Points => {
                let fewest = self.open_points().map(|(point, _)| self.points[point].kills).min();
                // Among those that are behind, any: so that each comes after each. What the last kill has left is there only now.
                let mut behind: Vec<_> = self
                    .open_points()
                    .filter(|(point, _)| fewest.is_some_and(|fewest| self.points[*point].kills < fewest + 3))
                    .collect();
                let finds_left = |point: &str| cycle.last.is_some() && leaver(point) == cycle.last.as_deref();
                if behind.iter().any(|(point, _)| finds_left(point)) {
                    behind.retain(|(point, _)| finds_left(point));
                }
                let (point, aim) = behind[random.below(behind.len() as u64) as usize];
                if let Some(leaver) = leaver(point)
                    && !finds_left(point)
                    // Not each time, so that it is given up where the job does not even get there.
                    && random.below(2) == 0
                {
                    return Plan::AtPoint(leaver.to_owned(), 1);
                }
                if aim.late && !cycle.has_checkpoint && !finds_left(point) {
                    return Plan::AtPoint(CHECKPOINT_EXISTS.to_owned(), 1 + random.below(4));
                }
                Plan::AtPoint(point.clone(), 1 + random.below(aim.reach))
            }
        }
    }

    /// Takes note of a life; false when the directory is done with. What was wrong with it is added to `complaints`.
    pub fn lived(
        &mut self,
        cycle: &mut Cycle,
        plan: &Plan,
        life: &Life,
        complaints: &mut Vec<String>,
    ) -> bool {
        if let Some(restored) = life.restored {
            self.restores += 1;
            if cycle.restored.is_some_and(|before| restored < before) {
                self.audit.corrupt += 1;
                complaints.push(format!("checkpoint {restored} was restored after {:?}", cycle.restored));
            }
            cycle.restored = Some(restored);
            cycle.has_checkpoint = true;
            for point in cycle.pending.drain(..) {
                if let Some(tally) = self.points.get_mut(&point) {
                    tally.restores += 1;
                }
            }
        }
        // A life that completes without having restored anything is no mistake: the one before may have been killed between
        // the end of its work and its exit. What it left undone, the comparison with the reference shows.
        match &life.end {
            End::Completed => {
                match plan {
                    Plan::AtPoint(point, count) => self.missed(point, *count),
                    // Also of a life that had the rest to do only: on a busy machine any life takes longer than expected.
                    Plan::Finish | Plan::After(_) => self.life = (self.life + life.took) / 2,
                }
                false
            }
            End::Killed => {
                self.kills += 1;
                cycle.kills += 1;
                cycle.last = None;
                if let Plan::AtPoint(point, count) = plan {
                    if let Some(tally) = self.points.get_mut(point) {
                        tally.kills += 1;
                    }
                    if let Some(aim) = self.aims.get_mut(point) {
                        aim.misses = 0;
                        if *count * 2 > aim.reach {
                            let more = if aim.settled { 1 } else { aim.reach };
                            aim.reach = (aim.reach + more).min(REACH_MAX);
                        }
                    }
                    cycle.pending.push(point.clone());
                    cycle.last = Some(point.clone());
                    cycle.has_checkpoint |= point == CHECKPOINT_EXISTS;
                }
                true
            }
            End::Failed(why) => {
                self.audit.corrupt += 1;
                complaints.push(format!("the job has failed, planned was {plan:?}: {why}"));
                false
            }
        }
    }

    fn missed(&mut self, point: &str, count: u64) {
        if let Some(aim) = self.aims.get_mut(point) {
            aim.misses += 1;
            aim.late |= count == 1;
            aim.reach = (aim.reach / 2).max(1);
            aim.settled = true;
        }
    }
}

/// Where to be killed so that the next life passes `point`, if that takes something left over.
fn leaver(point: &str) -> Option<&'static str> {
    LEFT_OVER.iter().find(|(found_by, _)| *found_by == point).map(|(_, leaver)| *leaver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(end: End, restored: Option<u64>) -> Life {
        Life { end, restored, took: Duration::from_millis(100) }
    }

    fn campaign(goal: u64) -> Campaign {
        let points = ["a.before", "restore.only", CHECKPOINT_EXISTS].map(str::to_owned);
        Campaign::new(Kind::Points, goal, 1, &points)
    }

    #[test]
    fn a_campaign_ends_with_each_point_hit_as_often_as_wanted_or_given_up() {
        let mut campaign = campaign(5);
        let mut random = Random::of_seed(7);
        let mut lives = 0;
        while !campaign.is_done() {
            let mut cycle = Cycle::default();
            loop {
                lives += 1;
                assert!(lives < 2_000, "{campaign:?}");
                let plan = campaign.plan(&cycle, &mut random);
                // `a.before` is never reached, `restore.only` once in a life that restores.
                let end = match &plan {
                    Plan::AtPoint(point, 1) if point == "restore.only" && cycle.has_checkpoint => End::Killed,
                    Plan::AtPoint(point, count) if point == CHECKPOINT_EXISTS && *count < 9 => End::Killed,
                    _ => End::Completed,
                };
                let restored = cycle.has_checkpoint.then_some(1);
                if !campaign.lived(&mut cycle, &plan, &life(end, restored), &mut Vec::new()) {
                    break;
                }
            }
        }
        assert_eq!(campaign.unreached(), ["a.before"]);
        assert!(campaign.points["restore.only"].kills >= 5 && campaign.points[CHECKPOINT_EXISTS].kills >= 5);
        assert!(campaign.points["restore.only"].restores > 0);
        assert!(campaign.audit.is_clean());
    }

    #[test]
    fn what_a_kill_leaves_is_found_by_the_next_life_and_given_up_where_nothing_leaves_it() {
        let (found, leaver) = LEFT_OVER[0];
        for is_left in [true, false] {
            let mut campaign = Campaign::new(Kind::Points, 5, 1, &[found.to_owned()]);
            let (mut random, mut lives) = (Random::of_seed(7), 0);
            while !campaign.is_done() {
                let (mut cycle, mut left) = (Cycle::default(), false);
                loop {
                    lives += 1;
                    assert!(lives < 2_000, "{campaign:?}");
                    let plan = campaign.plan(&cycle, &mut random);
                    let dies = match &plan {
                        Plan::AtPoint(point, 1) if point == leaver => is_left,
                        Plan::AtPoint(point, 1) if point == found => left,
                        Plan::AtPoint(point, _) => point == CHECKPOINT_EXISTS,
                        _ => false,
                    };
                    left = matches!(&plan, Plan::AtPoint(point, _) if dies && point == leaver);
                    let end = if dies { End::Killed } else { End::Completed };
                    if !campaign.lived(&mut cycle, &plan, &life(end, None), &mut Vec::new()) {
                        break;
                    }
                }
            }
            assert_eq!(campaign.unreached().is_empty(), is_left);
        }
    }

    #[test]
    fn a_checkpoint_older_than_one_before_is_counted_and_a_life_without_work_is_not() {
        let mut campaign = campaign(5);
        let (mut cycle, mut complaints) = (Cycle::default(), Vec::new());
        let plan = Plan::AtPoint(CHECKPOINT_EXISTS.to_owned(), 1);
        assert!(campaign.lived(&mut cycle, &plan, &life(End::Killed, None), &mut complaints));
        assert!(campaign.lived(&mut cycle, &plan, &life(End::Killed, Some(3)), &mut complaints));
        assert!(campaign.audit.is_clean());
        assert!(campaign.lived(&mut cycle, &plan, &life(End::Killed, Some(2)), &mut complaints));
        assert!(!campaign.lived(&mut cycle, &Plan::Finish, &life(End::Completed, None), &mut complaints));
        assert_eq!((campaign.audit.corrupt, complaints.len()), (1, 1));
    }

    #[test]
    fn random_kills_come_later_where_lives_take_longer() {
        let mut campaign = Campaign::new(Kind::Random, 1_000, 1, &[]);
        let mut random = Random::of_seed(1);
        let slow = Life { end: End::Completed, restored: None, took: Duration::from_secs(30) };
        for _ in 0..5 {
            campaign.lived(&mut Cycle::default(), &Plan::Finish, &slow, &mut Vec::new());
        }
        let latest = (0..100).filter_map(|_| match campaign.plan(&Cycle::default(), &mut random) {
            Plan::After(time) => Some(time),
            _ => None,
        });
        assert!(latest.max() > Some(Duration::from_secs(20)));
    }

    #[test]
    fn a_directory_sees_a_bounded_number_of_kills() {
        let mut campaign = Campaign::new(Kind::Random, 1_000, 1, &[]);
        let (mut cycle, mut random) = (Cycle::default(), Random::of_seed(1));
        while campaign.plan(&cycle, &mut random) != Plan::Finish {
            let plan = campaign.plan(&cycle, &mut random);
            campaign.lived(&mut cycle, &plan, &life(End::Killed, None), &mut Vec::new());
        }
        assert_eq!(campaign.kills, KILLS_MAX);
    }
}

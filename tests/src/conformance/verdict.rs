//! What came of a run: whether each value was committed exactly once and in order, and what its checkpoints were like.

use super::control::{Control, FAILURES};
use super::operators::FAREWELL_VALUES;
use super::record::decode;
use super::topology::{Scenario, Topology};
use std::collections::{BTreeMap, BTreeSet};
use thalweg::Error;
use thalweg::connector::MemorySink;
use thalweg::coordinator::CheckpointStats;

/// What checkpoints of a job, or of several, were like.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// In-flight records that restarts restored.
    pub restored_records: u64,
    /// Tasks' parts of checkpoints that were aligned.
    pub parts_aligned: u64,
    /// Tasks' parts of checkpoints that were unaligned.
    pub parts_unaligned: u64,
    /// Values that were committed.
    pub values: u64,
    /// Jobs.
    pub jobs: u64,
    /// Failures that were caused on purpose.
    pub failures: u64,
    /// Attempts that began from a checkpoint.
    pub restores: u64,
    /// Values that never came.
    pub lost: u64,
    /// Values that came again.
    pub duplicated: u64,
    /// Values that came after later ones.
    pub out_of_order: u64,
    /// Jobs that got stuck.
    pub hung: u64,
}

impl Tally {
    /// Adds another job's, or jobs'.
    pub fn add(&mut self, other: &Tally) {
        self.restored_records += other.restored_records;
        self.parts_aligned += other.parts_aligned;
        self.parts_unaligned += other.parts_unaligned;
        self.values += other.values;
        self.jobs += other.jobs;
        self.failures += other.failures;
        self.restores += other.restores;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.out_of_order += other.out_of_order;
        self.hung += other.hung;
    }
}

/// How a job went.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What must not have happened; empty for a good run.
    pub violations: Vec<String>,
    /// What its checkpoints were like.
    pub tally: Tally,
    /// A digest of every operation on the simulated disk, for comparing runs.
    pub digest: u64,
}

/// Watches a job's checkpoints, of which the engine shows only the latest.
#[derive(Default)]
pub struct Watch {
    /// In-flight records restored, by restart.
    pub restored: BTreeMap<u64, u64>,
    /// Aligned and unaligned parts, by checkpoint.
    parts: BTreeMap<u64, (u64, u64)>,
}

impl Watch {
    /// Looks at what the engine shows now.
    pub fn look(&mut self, stats: &CheckpointStats) {
        self.look_at_life(stats, 0);
        for record in &stats.history {
            self.parts
                .insert(record.id.0, (u64::from(record.tasks_aligned), u64::from(record.tasks_unaligned)));
        }
    }

    /// The same for the `life`th process of a job.
    pub fn look_at_life(&mut self, stats: &CheckpointStats, life: u64) {
        if stats.restored.is_some() {
            self.restored.insert(life * 1_000 + stats.restarts, stats.restored_records);
        }
    }

    /// Sums it up, together with the verdict.
    pub fn outcome(&self, control: &Control, verdict: Verdict, digest: u64) -> Outcome {
        let [lost, duplicated, out_of_order] = control.misdeliveries();
        let tally = Tally {
            failures: control.failures_in_all(),
            restores: self.restored.len() as u64,
            lost: lost.max(verdict.lost),
            duplicated: duplicated.max(verdict.duplicated),
            out_of_order,
            hung: u64::from(verdict.hung),
            restored_records: self.restored.values().sum(),
            parts_aligned: self.parts.values().map(|(aligned, _)| aligned).sum(),
            parts_unaligned: self.parts.values().map(|(_, unaligned)| unaligned).sum(),
            values: verdict.values,
            jobs: 1,
        };
        Outcome { violations: verdict.violations, tally, digest }
    }
}

/// What a job has committed, judged.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What must not have happened.
    pub violations: Vec<String>,
    /// Values committed.
    pub values: u64,
    /// Values that should have been committed and were not.
    pub lost: u64,
    /// Values that were committed again.
    pub duplicated: u64,
    /// The job did not come to its end.
    pub hung: bool,
}

/// Compares what a job has committed to what its sources emitted.
pub fn judge(
    scenario: &Scenario,
    control: &Control,
    committed: &MemorySink<u64>,
    stats: &CheckpointStats,
    ended: Option<Result<(), Error>>,
) -> Verdict {
    let mut violations = control.violations();
    let (mut lost, mut duplicated) = (0, 0);
    let hung = ended.is_none();
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => violations.push(format!("the job ended badly: {error}")),
        None => violations.push(format!("the job is stuck: {stats:?}")),
    }
    if control.is_scheduled()
        && (control.failures() != vec![1; FAILURES as usize] || stats.restarts != FAILURES)
    {
        violations.push(format!(
            "failures per run {:?} and {} restarts, where each of {FAILURES} runs should fail once; history {:?}",
            control.failures(),
            stats.restarts,
            stats.history,
        ));
    }
    let ends = control.ends();
    let mut seen: BTreeMap<(u64, u64), Vec<u64>> = BTreeMap::new();
    let committed = committed.committed();
    for record in committed.iter().flatten() {
        let Some((tag, value)) = decode(*record) else {
            violations.push(format!("committed: damaged record {record:#018x}"));
            continue;
        };
        seen.entry((tag, value % control.splits)).or_default().push(value);
    }
    for &(tag, source) in scenario.tags() {
        for split in 0..control.splits {
            let end_of = |tag| ends.get(&(tag, split)).copied();
            let end = match scenario.topology {
                Topology::MultiInput => end_of(0).min(end_of(1)).min(end_of(2)),
                _ => end_of(source),
            };
            let Some(end) = end else {
                violations.push(format!("source {source} split {split} did not end"));
                continue;
            };
            let end = if end == 0 { 0 } else { end + FAREWELL_VALUES };
            let expected = (0..end).map(|n| split + n * control.splits);
            let got = seen.remove(&(tag, split)).unwrap_or_default();
            if !got.iter().copied().eq(expected) {
                let distinct = got.iter().collect::<BTreeSet<_>>().len() as u64;
                lost += end.saturating_sub(distinct);
                duplicated += got.len() as u64 - distinct;
                violations.push(format!(
                    "committed: tag {tag} split {split} has {} values up to {:?} where {end} were emitted",
                    got.len(),
                    got.iter().max(),
                ));
            }
        }
    }
    if !seen.is_empty() {
        violations.push(format!("committed: values of unknown splits {:?}", seen.keys()));
    }
    let values = committed.iter().map(|records| records.len() as u64).sum();
    Verdict { violations, values, lost, duplicated, hung }
}

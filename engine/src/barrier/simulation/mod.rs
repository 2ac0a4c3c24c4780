//! A whole job in memory, each task with a real gate, driven by a random schedule and checked against Chandy–Lamport.
//!
//! Every ring operation is a step of its own, so schedules interleave them freely. What is checked:
//! - each task sees each lane's records in order, once, also across crashes (at least once in that mode);
//! - channel state is exactly what lies between the consumer's position at its snapshot and the producer's cut;
//! - a completed checkpoint is a consistent cut (K. M. Chandy, L. Lamport, *Distributed Snapshots*, 1985): consumer's state,
//!   channel state and the producer's outbox continue each other without gap or overlap, up to what the producer's state
//!   has emitted;
//! - checkpoints complete in order, and no schedule ends with one pending or a task unfinished.

mod job;
mod plan;

use super::{ChannelKind, CheckpointMode};
use job::Job;
pub use job::Outcome;
use plan::{Plan, Rng, TIMEOUT};

/// Runs the schedule of a seed: every eighth each around aligned-only channels, with several aligned rounds in flight,
/// before sinks that never consume and with timers and aborts all the time, the others in jobs of any kind.
pub fn schedule(seed: u64) -> Outcome {
    match seed % 8 {
        0 => run(seed, tangle),
        1 => run(seed, overlap),
        2 => run(seed, |plan, rng| {
            plan.mode = [CheckpointMode::Unaligned, TIMEOUT][rng.below(2)];
            freeze(plan);
        }),
        3 => run(seed, interrupt),
        _ => run(seed, |_, _| {}),
    }
}

fn run(seed: u64, adjust: impl Fn(&mut Plan, &mut Rng)) -> Outcome {
    let mut rng = Rng(seed);
    let mut plan = Plan::random(&mut rng);
    adjust(&mut plan, &mut rng);
    Job::new(&plan, &mut rng, None, None).run()
}

/// Timers that run out and aborts that come at every moment, before their rounds are known too.
fn interrupt(plan: &mut Plan, _: &mut Rng) {
    plan.mode = TIMEOUT;
    plan.savepoint_percent = 10;
    (plan.triggers, plan.aborts, plan.expiries, plan.crashes) = (16, 12, 48, 0);
}

/// Several rounds in flight, which none but aligned ones can be.
fn overlap(plan: &mut Plan, rng: &mut Rng) {
    plan.mode = [CheckpointMode::Aligned, CheckpointMode::AtLeastOnce][rng.below(2)];
    plan.concurrent = 3;
    plan.triggers = 6;
}

/// Short rings and many ways from task to task, some of them aligned-only; rounds that are never aborted.
fn tangle(plan: &mut Plan, rng: &mut Rng) {
    plan.mode = [CheckpointMode::Unaligned, TIMEOUT][rng.below(2)];
    plan.channels.iter_mut().for_each(|channel| channel.ring_batches = 1);
    plan.make_aligned_only(rng, 50);
    (plan.aborts, plan.crashes, plan.batch_records) = (0, 0, 1);
}

/// Sinks that never consume, and timers that run out at any moment.
fn freeze(plan: &mut Plan) {
    plan.channels.iter_mut().for_each(|channel| channel.kind = ChannelKind::Exchange);
    plan.savepoint_percent = 0;
    plan.drains = false;
    plan.sinks_frozen = true;
}

#[cfg(test)]
mod tests;

//! Random schedules keep every promise; and each rule that is broken on purpose shows in some.

use super::job::DriverFault;
use super::*;
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use thalweg_storage::fault::Fault;

/// Schedules per property. Multiply for a long run.
const SCHEDULES: u32 = 5_000;
/// Schedules within which a broken rule must show.
const SCHEDULES_TO_CATCH: u64 = 6_000;

proptest! {
    #![proptest_config(ProptestConfig { cases: SCHEDULES, max_shrink_iters: 0, failure_persistence: None, ..Default::default() })]

    #[test]
    fn prop_checkpoints_are_consistent_cuts_under_any_schedule(seed in any::<u64>()) {
        let outcome = run(seed, |_, _| {});
        prop_assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
    }

    #[test]
    fn prop_nothing_sticks_around_aligned_only_channels(seed in any::<u64>()) {
        let outcome = run(seed, tangle);
        prop_assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
    }

    #[test]
    fn prop_several_aligned_rounds_in_flight_complete_in_order(seed in any::<u64>()) {
        let outcome = run(seed, overlap);
        prop_assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
    }

    #[test]
    fn prop_unaligned_checkpoints_complete_although_sinks_never_consume(seed in any::<u64>()) {
        let outcome = run(seed, |plan, rng| {
            plan.mode = [CheckpointMode::Unaligned, TIMEOUT][rng.below(2)];
            freeze(plan);
        });
        prop_assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
    }
}

/// A gate's transition that no schedule takes would be one that nothing checks.
#[test]
fn schedules_take_every_transition_of_the_gate() {
    let mut transitions = crate::barrier::transition::Transitions::default();
    for seed in 0..4_000 {
        let outcome = schedule(seed);
        assert!(outcome.violation.is_none(), "seed {seed}: {:?}", outcome.violation);
        transitions.add(&outcome.transitions);
    }
    let (rarest, count) = transitions.rarest();
    assert!(count > 0, "{rarest:?} was never taken");
}

/// The schedules would prove nothing if checkpoints hardly ever completed, captured or met a crash.
#[test]
fn schedules_reach_what_they_are_meant_to_test() {
    let (mut completed, mut captured, mut restored, mut partial, mut unaligned, mut while_finished) =
        (0, 0, 0, 0, 0, 0);
    for seed in 0..1_000 {
        let outcome = run(seed, |_, _| {});
        completed += outcome.completed;
        captured += outcome.captured_records;
        restored += outcome.restored_records;
        partial += outcome.partial_batches;
        unaligned += outcome.switched;
        while_finished += outcome.finished_snapshots;
    }
    assert!(
        completed > 1_000
            && captured > 1_000
            && restored > 500
            && partial > 100
            && unaligned > 100
            && while_finished > 300,
        "completed {completed}, captured {captured}, restored {restored}, partial {partial}, switched {unaligned}, \
         finished {while_finished}"
    );
}

/// True when some schedule shows the fault.
fn caught(gate: Option<Fault>, driver: Option<DriverFault>) -> bool {
    (0..SCHEDULES_TO_CATCH).any(|seed| {
        let mut rng = Rng(seed);
        let plan = Plan::random(&mut rng);
        let result = catch_unwind(AssertUnwindSafe(|| Job::new(&plan, &mut rng, gate, driver).run()));
        result.map_or(true, |outcome| outcome.violation.is_some())
    })
}

macro_rules! mutations {
    ($($name:ident: $gate:expr, $driver:expr;)*) => { $(
        #[test]
        fn $name() {
            assert!(caught($gate, $driver));
        }
    )* };
}

/// A task had finished, in its snapshot too, of which a producer's snapshot did not know that it would: after a restore it read
/// nothing of what that one sent again.
#[test]
fn an_at_least_once_checkpoint_around_the_end_of_a_stream_can_be_restored() {
    assert_eq!(schedule(372_509).violation, None);
}

mutations! {
    schedules_catch_reading_past_cuts: Some(Fault::NeverHoldsBack), None;
    schedules_catch_at_least_once_snapshots_at_the_announcement: Some(Fault::AtLeastOnceWhenAnnounced), None;
    schedules_catch_an_end_of_stream_that_counts_when_seen: Some(Fault::EndWhenSeen), None;
    schedules_catch_an_end_that_passes_a_barrier: Some(Fault::EndPassesBarrier), None;
    schedules_catch_ended_channels_left_uncaptured: Some(Fault::EndedNotCaptured), None;
    schedules_catch_a_forgotten_early_abort: Some(Fault::EarlyAbortForgotten), None;
    schedules_catch_an_abort_that_releases_nothing: Some(Fault::AbortKeepsHolding), None;
    schedules_catch_a_younger_round_snapshotting_first: Some(Fault::YoungerFirst), None;
    schedules_catch_a_newer_announcement_killing_an_older_round: Some(Fault::NewerKillsOlder), None;
    schedules_catch_aligned_only_inputs_ignored: Some(Fault::AlignedOnlyIgnored), None;
    schedules_catch_other_inputs_read_past_their_cuts: Some(Fault::OthersPassTheirCuts), None;
    schedules_catch_a_capture_without_its_first_batch: Some(Fault::CaptureStartsLate), None;
    schedules_catch_a_capture_without_its_last_batch: Some(Fault::CaptureEndsEarly), None;
    schedules_catch_an_acknowledgement_before_the_last_capture: Some(Fault::CompleteAtSnapshot), None;
    schedules_catch_triggers_that_only_sources_heed: Some(Fault::TriggerForSourcesOnly), None;
    schedules_catch_the_side_ring_read_before_the_data_ring: None, Some(DriverFault::SideRingFirst);
    schedules_catch_data_seen_beyond_an_unseen_cut: None, Some(DriverFault::SeesBeyondCut);
    schedules_catch_an_outbox_left_out: None, Some(DriverFault::OutboxLeftOut);
    schedules_catch_a_half_processed_batch_left_out: None, Some(DriverFault::PartialBatchLeftOut);
    schedules_catch_a_half_processed_batch_captured_whole: None, Some(DriverFault::PartialBatchWhole);
    schedules_catch_an_outbox_restored_before_the_capture: None, Some(DriverFault::OutboxBeforeCapture);
    schedules_catch_restored_batches_left_uncounted: None, Some(DriverFault::RestoredUncounted);
    schedules_catch_an_announcement_after_later_data: None, Some(DriverFault::AnnouncesLate);
    schedules_catch_a_batch_consumed_before_its_capture: None, Some(DriverFault::ConsumesUncaptured);
}

/// Were a delayed exchange overtaken before it has announced, tasks could wait for each other in a circle.
#[test]
fn schedules_catch_a_delayed_exchange_overtaken_too_early() {
    let stuck = |seed| {
        let mut rng = Rng(seed);
        let mut plan = Plan::random(&mut rng);
        tangle(&mut plan, &mut rng);
        for channel in plan.channels.iter_mut().filter(|channel| channel.kind == ChannelKind::DelayedExchange)
        {
            channel.kind = ChannelKind::Exchange;
        }
        Job::new(&plan, &mut rng, None, None).run().violation.is_some()
    };
    assert!((0..SCHEDULES_TO_CATCH).any(stuck));
}

/// Without the upgrade, a checkpoint waits for ever behind a sink that never consumes.
fn stuck_behind_frozen_sinks(fault: Fault) -> bool {
    (0..SCHEDULES_TO_CATCH).any(|seed| {
        let mut rng = Rng(seed);
        let mut plan = Plan::random(&mut rng);
        plan.mode = TIMEOUT;
        freeze(&mut plan);
        Job::new(&plan, &mut rng, Some(fault), None).run().violation.is_some()
    })
}

#[test]
fn schedules_catch_a_mode_that_sticks() {
    assert!(stuck_behind_frozen_sinks(Fault::FirstModeSticks));
}

#[test]
fn schedules_catch_a_forgotten_early_expiry() {
    assert!(stuck_behind_frozen_sinks(Fault::EarlyExpiryForgotten));
}

//! What an unaligned round captures, and how aligned-only and delayed inputs delay it.

use super::*;

#[test]
pub(crate) fn unaligned_snapshots_at_the_first_announcement_and_captures_from_consumed_to_the_cut() {
    let mut gate = gate(2);
    gate.consumed(0, 3);
    gate.consumed(1, 1);
    gate.unaligned(0, 1, 5);
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!(gate.limits(2), vec![FREE, FREE]);
    assert_eq!(gate.capture(0), Some(Capture { checkpoint: id(1), next: 3, bound: Some(5) }));
    assert_eq!(gate.capture(1), Some(Capture { checkpoint: id(1), next: 1, bound: None }));
    assert!(!gate.complete(id(1)));
}

/// A task whose unaligned round starts at the trigger: channel state is what is consumed from then on, up to the cut.
#[test]
pub(crate) fn unaligned_may_start_at_the_trigger_and_captures_what_it_consumes_until_announced() {
    let mut gate = gate(1);
    gate.consumed(0, 2);
    gate.trigger(id(1), UNALIGNED);
    gate.pass(1, BarrierMode::Unaligned);
    for batch in 2..6 {
        assert_eq!(gate.cursor(0), Some((batch, None)));
        gate.captured(0, batch + 1);
        gate.consumed(0, batch + 1);
    }
    gate.unaligned(0, 1, 7);
    assert_eq!(gate.cursor(0), Some((6, Some(7))));
    gate.captured(0, 7);
    assert!(gate.complete(id(1)));
}

/// Drives one channel through every split of the data around snapshot, announcement and cut, and records what is captured.
#[test]
pub(crate) fn channel_state_is_exactly_the_batches_between_consumed_and_cut() {
    let claim = || {
        for consumed in 0..4 {
            for cut in consumed..6 {
                for captured_before in consumed..=cut {
                    let mut gate = gate(1);
                    gate.consumed(0, consumed);
                    gate.trigger(id(1), UNALIGNED);
                    gate.pass(1, BarrierMode::Unaligned);
                    let mut state = Vec::new();
                    while let Some((next, _)) = gate.cursor(0).filter(|(next, _)| *next < captured_before) {
                        state.push(next);
                        gate.captured(0, next + 1);
                        gate.consumed(0, next + 1);
                    }
                    gate.unaligned(0, 1, cut);
                    while let Some((next, bound)) = gate.cursor(0) {
                        assert_eq!(bound, Some(cut));
                        state.push(next);
                        gate.captured(0, next + 1);
                    }
                    assert_eq!(state, (consumed..cut).collect::<Vec<_>>());
                    assert!(gate.complete(id(1)));
                }
            }
        }
    };
    holds_only_without(Fault::CaptureStartsLate, claim);
    holds_only_without(Fault::CaptureEndsEarly, claim);
}

#[test]
pub(crate) fn the_capture_cursor_does_not_move_with_consumption() {
    let mut gate = gate(1);
    gate.unaligned(0, 1, 9);
    gate.pass(1, BarrierMode::Unaligned);
    gate.captured(0, 4);
    gate.consumed(0, 3);
    assert_eq!(gate.cursor(0), Some((4, Some(9))));
    gate.captured(0, 2);
    assert_eq!(gate.cursor(0), Some((4, Some(9))));
}

#[test]
#[should_panic(expected = "before it was captured")]
fn consuming_a_batch_before_it_is_captured_is_refused() {
    let mut gate = gate(1);
    gate.unaligned(0, 1, 9);
    gate.pass(1, BarrierMode::Unaligned);
    gate.consumed(0, 1);
}

#[test]
#[should_panic(expected = "are consumed")]
fn a_cut_below_what_was_consumed_is_refused() {
    let mut gate = gate(1);
    gate.consumed(0, 3);
    gate.barrier(0, 1, 2);
}

#[test]
#[should_panic(expected = "are captured")]
fn a_cut_below_what_was_captured_is_refused() {
    let mut gate = gate(1);
    gate.trigger(id(1), UNALIGNED);
    gate.pass(1, BarrierMode::Unaligned);
    gate.captured(0, 3);
    gate.unaligned(0, 1, 2);
}

#[test]
pub(crate) fn a_round_is_complete_after_its_last_capture() {
    holds_only_without(Fault::CompleteAtSnapshot, || {
        let mut gate = gate(2);
        gate.unaligned(0, 1, 1);
        gate.unaligned(1, 1, 0);
        gate.pass(1, BarrierMode::Unaligned);
        assert_eq!(gate.cursor(1), None);
        assert!(!gate.complete(id(1)));
        gate.captured(0, 1);
        assert!(gate.complete(id(1)));
        gate.acknowledged(id(1));
        assert!(!gate.complete(id(1)));
    });
}

#[test]
pub(crate) fn a_delayed_unaligned_snapshot_still_stops_at_announced_cuts() {
    let mut gate = gate(2);
    gate.unaligned(0, 1, 2);
    assert_eq!((gate.limits(2), gate.ready_id()), (vec![2, FREE], Some(1)));
    gate.consumed(0, 2);
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!((gate.cursor(0), gate.limit(0)), (None, FREE));
}

#[test]
pub(crate) fn an_aligned_only_input_reaches_its_cut_before_an_unaligned_snapshot() {
    holds_only_without(Fault::AlignedOnlyIgnored, || {
        let mut gate = mixed_gate();
        gate.trigger(id(1), UNALIGNED);
        gate.unaligned(0, 1, 3);
        assert_eq!(gate.ready(), None);
        gate.unaligned(1, 1, 2);
        assert_eq!(gate.ready(), None);
        gate.consumed(1, 2);
        gate.pass(1, BarrierMode::Unaligned);
        assert_eq!((gate.cursor(0), gate.cursor(1)), (Some((0, Some(3))), None));
    });
}

#[test]
pub(crate) fn while_an_aligned_only_input_aligns_the_others_stop_at_their_cuts() {
    holds_only_without(Fault::OthersPassTheirCuts, || {
        let mut gate = mixed_gate();
        gate.unaligned(0, 1, 3);
        assert_eq!(gate.limits(2), vec![3, FREE]);
        gate.consumed(0, 1);
        gate.unaligned(1, 1, 0);
        gate.pass(1, BarrierMode::Unaligned);
        assert_eq!((gate.cursor(0), gate.limits(2)), (Some((1, Some(3))), vec![FREE, FREE]));
    });
}

#[test]
pub(crate) fn an_aligned_only_input_that_has_ended_delays_nothing() {
    let mut gate = mixed_gate();
    gate.end(1, 0);
    gate.unaligned(0, 1, 3);
    gate.pass(1, BarrierMode::Unaligned);
}

#[test]
pub(crate) fn a_delayed_exchange_is_announced_but_not_processed_before_an_unaligned_snapshot() {
    let mut gate = Gate::new(vec![ChannelKind::Exchange, ChannelKind::DelayedExchange]);
    gate.trigger(id(1), UNALIGNED);
    gate.unaligned(0, 1, 2);
    assert_eq!((gate.ready(), gate.limits(2)), (None, vec![2, FREE]));
    gate.unaligned(1, 1, 3);
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!((gate.cursor(0), gate.cursor(1)), (Some((0, Some(2))), Some((0, Some(3)))));
}

#[test]
pub(crate) fn a_delayed_exchange_that_has_ended_delays_nothing() {
    let mut gate = Gate::new(vec![ChannelKind::DelayedExchange]);
    gate.trigger(id(1), UNALIGNED);
    assert_eq!(gate.ready(), None);
    gate.end(0, 3);
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!(gate.cursor(0), Some((0, Some(3))));
    gate.trigger(id(2), UNALIGNED);
    assert_eq!(gate.ready_id(), Some(2));
}

#[test]
pub(crate) fn a_round_is_announced_in_the_mode_in_which_it_was_passed() {
    let ready = Ready { checkpoint: id(4), mode: BarrierMode::Unaligned };
    assert!(ready.unaligned());
    assert_eq!(ready.announcement(9), Announcement { mark: barrier(4, BarrierMode::Unaligned), cut: 9 });
}

#[test]
#[should_panic(expected = "is not ready")]
fn a_snapshot_out_of_turn_is_refused() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 1);
    gate.snapshotted(id(1));
}

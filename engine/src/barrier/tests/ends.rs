//! Streams that end, and tasks that have finished.

use super::*;

#[test]
pub(crate) fn the_end_of_a_stream_counts_when_reached_and_bounds_every_round_without_its_own_cut() {
    holds_only_without(Fault::EndWhenSeen, || {
        let mut gate = gate(2);
        gate.trigger(id(1), Aligned);
        gate.trigger(id(2), Aligned);
        gate.barrier(0, 1, 0);
        gate.end(1, 2);
        assert_eq!(gate.ready(), None);
        gate.consumed(1, 2);
        assert!(gate.ended(1) && !gate.ended(0) && !gate.all_ended());
        gate.pass(1, BarrierMode::Aligned);
        gate.barrier(0, 2, 0);
        gate.pass(2, BarrierMode::Aligned);
    });
}

#[test]
pub(crate) fn an_own_cut_before_the_end_of_the_stream_still_counts() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 2);
    gate.end(0, 5);
    assert_eq!(gate.limit(0), 2);
    gate.consumed(0, 2);
    gate.pass(1, BarrierMode::Aligned);
    gate.consumed(0, 4);
    assert!(!gate.all_ended());
    gate.consumed(0, 5);
    assert!(gate.all_ended());
}

#[test]
fn a_task_that_has_heard_of_an_at_least_once_round_snapshots_before_it_ends() {
    let mut gate = gate(2);
    gate.announce(0, Announcement { mark: barrier(1, BarrierMode::AtLeastOnce), cut: 1 });
    gate.end(0, 3);
    gate.end(1, 0);
    gate.consumed(0, 3);
    assert!(gate.ended(0) && gate.ended(1) && !gate.all_ended());
    gate.pass(1, BarrierMode::AtLeastOnce);
    assert!(gate.all_ended());
}

#[test]
pub(crate) fn an_end_right_behind_a_barrier_waits_for_the_snapshot() {
    holds_only_without(Fault::EndPassesBarrier, || {
        for mode in [BarrierMode::Aligned, BarrierMode::Unaligned, BarrierMode::AtLeastOnce] {
            let mut gate = gate(2);
            gate.end(1, 0);
            gate.announce(0, Announcement { mark: barrier(1, mode), cut: 2 });
            gate.end(0, 2);
            gate.consumed(0, 2);
            assert!(gate.ended(0) && gate.ended(1) && !gate.all_ended(), "{mode:?}");
            gate.pass(1, mode);
            assert!(gate.all_ended(), "{mode:?}");
        }
    });
}

#[test]
fn of_a_job_that_drains_the_end_comes_first() {
    let mut gate = gate(1);
    gate.trigger(id(1), Aligned);
    gate.barrier(0, 1, 0);
    gate.trigger(id(2), Aligned);
    gate.end_first(id(2));
    gate.end(0, 0);
    assert!(!gate.all_ended());
    gate.pass(1, BarrierMode::Aligned);
    assert!(gate.all_ended());
    gate.finish();
    gate.pass(2, BarrierMode::Aligned);
}

#[test]
fn an_aborted_at_least_once_round_holds_no_end_back() {
    let mut gate = gate(1);
    gate.trigger(id(1), AtLeastOnce);
    gate.end(0, 0);
    assert!(!gate.all_ended());
    gate.abort(id(1));
    assert!(gate.all_ended());
}

#[test]
pub(crate) fn an_ended_channel_is_captured_up_to_its_end() {
    holds_only_without(Fault::EndedNotCaptured, || {
        let mut gate = gate(2);
        gate.end(0, 4);
        gate.consumed(0, 1);
        gate.unaligned(1, 1, 0);
        gate.pass(1, BarrierMode::Unaligned);
        assert_eq!(gate.cursor(0), Some((1, Some(4))));
    });
}

#[test]
pub(crate) fn a_stream_that_ends_while_a_capture_waits_for_its_announcement_bounds_it() {
    let mut gate = gate(2);
    gate.unaligned(0, 1, 0);
    gate.pass(1, BarrierMode::Unaligned);
    gate.captured(1, 1);
    gate.consumed(1, 1);
    gate.end(1, 1);
    assert!(gate.complete(id(1)) && gate.capture(1).is_none());
}

#[test]
pub(crate) fn a_task_whose_inputs_have_all_ended_starts_at_the_trigger() {
    holds_only_without(Fault::TriggerForSourcesOnly, || {
        for mode in [Aligned, UNALIGNED, TIMEOUT, AtLeastOnce] {
            let mut gate = gate(2);
            gate.end(0, 1);
            gate.end(1, 0);
            gate.consumed(0, 1);
            gate.trigger(id(1), mode);
            assert_eq!(gate.ready_id(), Some(1), "{mode:?}");
        }
    });
}

#[test]
pub(crate) fn an_aligned_task_whose_inputs_have_announced_their_end_starts_once_it_is_reached() {
    let mut gate = gate(1);
    gate.trigger(id(1), Aligned);
    gate.end(0, 2);
    assert_eq!(gate.ready(), None);
    gate.consumed(0, 2);
    gate.pass(1, BarrierMode::Aligned);
}

#[test]
pub(crate) fn a_finished_task_snapshots_every_trigger_at_once_and_captures_nothing() {
    holds_only_without(Fault::FinishChangesNothing, || {
        let mut gate = gate(2);
        gate.trigger(id(1), Aligned);
        gate.finish(); // an operator that wanted no more of its input
        gate.pass(1, BarrierMode::Aligned);
        gate.trigger(id(2), UNALIGNED);
        gate.pass(2, BarrierMode::Unaligned);
        assert!(gate.complete(id(1)) && gate.complete(id(2)));
        assert_eq!((gate.capture(0), gate.capture(1)), (None, None));
    });
}

#[test]
pub(crate) fn streams_that_all_end_with_a_round_pending_complete_it() {
    for mode in [Aligned, TIMEOUT, AtLeastOnce] {
        let mut gate = gate(2);
        gate.trigger(id(1), mode);
        gate.barrier(0, 1, 1);
        gate.end(1, 2);
        gate.end(0, 3);
        gate.consumed(0, 1);
        assert_eq!(gate.ready(), None);
        gate.consumed(1, 2);
        assert_eq!(gate.ready_id(), Some(1), "{mode:?}");
        gate.snapshotted(id(1));
        gate.consumed(0, 3);
        assert!(gate.all_ended() && gate.complete(id(1)));
    }
}

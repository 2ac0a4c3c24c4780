//! Several rounds, aborts at every moment, and announcements of rounds that are over.

use super::*;

#[test]
pub(crate) fn several_aligned_rounds_snapshot_in_order_each_at_its_own_cuts() {
    let mut gate = gate(2);
    for round in 1..=3 {
        gate.trigger(id(round), Aligned);
        gate.barrier(0, round, 2 * round);
    }
    assert_eq!(gate.limit(0), 2);
    for round in 1..=3 {
        gate.consumed(0, 2 * round);
        assert_eq!((gate.limit(0), gate.ready()), (2 * round, None));
        gate.barrier(1, round, round);
        gate.consumed(1, round);
        gate.pass(round, BarrierMode::Aligned);
    }
    for round in 1..=3 {
        assert!(gate.complete(id(round)));
        gate.acknowledged(id(round));
    }
}

#[test]
pub(crate) fn a_newer_announcement_never_kills_an_older_aligning_round() {
    holds_only_without(Fault::NewerKillsOlder, || {
        let mut gate = gate(2);
        gate.barrier(0, 1, 1);
        gate.barrier(0, 2, 3);
        gate.barrier(1, 1, 0);
        assert_eq!(gate.limit(0), 1);
        gate.consumed(0, 1);
        gate.pass(1, BarrierMode::Aligned);
    });
}

#[test]
pub(crate) fn ids_heard_out_of_order_snapshot_in_order() {
    holds_only_without(Fault::YoungerFirst, || {
        let mut gate = gate(2);
        gate.barrier(0, 1, 0);
        gate.barrier(0, 2, 0);
        gate.barrier(1, 2, 0); // channel 1 has no barrier 1: its producer heard of the abort
        assert_eq!(gate.ready(), None);
        gate.abort(id(1));
        gate.pass(2, BarrierMode::Aligned);
    });
}

#[test]
pub(crate) fn rounds_triggered_out_of_order_snapshot_in_order() {
    holds_only_without(Fault::YoungerFirst, || {
        let mut source = gate(0);
        source.trigger(id(7), Aligned);
        source.trigger(id(5), Aligned);
        source.pass(5, BarrierMode::Aligned);
        source.pass(7, BarrierMode::Aligned);
    });
}

#[test]
pub(crate) fn the_first_cut_is_final() {
    holds_only_without(Fault::LaterCutReplaces, || {
        let mut gate = gate(2);
        gate.unaligned(0, 1, 3);
        gate.unaligned(0, 1, 5);
        gate.pass(1, BarrierMode::Unaligned);
        gate.unaligned(0, 1, 9);
        assert_eq!(gate.cursor(0), Some((0, Some(3))));
    });
}

#[test]
pub(crate) fn an_unaligned_round_ends_the_captures_of_a_dead_older_one() {
    let mut gate = gate(2);
    gate.unaligned(0, 1, 0);
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!(gate.capture(1).map(|capture| capture.checkpoint), Some(id(1)));
    // 1 has been aborted, its abort is on the way, 2 is here already.
    gate.unaligned(0, 2, 4);
    gate.pass(2, BarrierMode::Unaligned);
    assert!(gate.is_aborted(id(1)) && !gate.complete(id(1)));
    assert_eq!(gate.capture(1), Some(Capture { checkpoint: id(2), next: 0, bound: None }));
    gate.unaligned(1, 1, 1); // obsolete
    gate.abort(id(1));
    assert_eq!(gate.capture(1), Some(Capture { checkpoint: id(2), next: 0, bound: None }));
}

#[test]
pub(crate) fn an_abort_before_the_barrier_is_remembered() {
    holds_only_without(Fault::EarlyAbortForgotten, || {
        let mut gate = gate(2);
        gate.abort(id(1));
        gate.barrier(0, 1, 0);
        gate.trigger(id(1), Aligned);
        gate.unaligned(1, 1, 0);
        assert_eq!((gate.limits(2), gate.ready()), (vec![FREE, FREE], None));
        assert!(gate.is_aborted(id(1)));
    });
}

#[test]
pub(crate) fn an_abort_during_alignment_releases_everything_at_once() {
    holds_only_without(Fault::AbortKeepsHolding, || {
        let mut gate = gate(2);
        gate.trigger(id(1), Aligned);
        gate.barrier(0, 1, 0);
        assert_eq!(gate.limit(0), 0);
        gate.abort(id(1));
        assert_eq!((gate.limits(2), gate.ready()), (vec![FREE, FREE], None));
        gate.barrier(1, 1, 3); // overtaken by its abort
        assert_eq!(gate.limit(1), FREE);
    });
}

#[test]
pub(crate) fn an_abort_of_a_ready_round_withdraws_it() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 0);
    assert_eq!(gate.ready_id(), Some(1));
    gate.abort(id(1));
    assert_eq!((gate.ready(), gate.limit(0)), (None, FREE));
}

#[test]
pub(crate) fn an_abort_after_the_snapshot_closes_its_captures() {
    let mut gate = gate(2);
    gate.unaligned(0, 1, 5);
    gate.pass(1, BarrierMode::Unaligned);
    assert!(!gate.is_aborted(id(1)));
    gate.abort(id(1));
    assert!(gate.is_aborted(id(1)) && !gate.complete(id(1)));
    assert_eq!((gate.capture(0), gate.capture(1)), (None, None));
    gate.consumed(0, 1); // nothing insists on capturing it
    gate.unaligned(1, 1, 4);
    assert_eq!(gate.capture(1), None);
}

#[test]
pub(crate) fn an_abort_leaves_other_rounds_alone() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 1);
    gate.barrier(0, 2, 3);
    gate.abort(id(1));
    assert_eq!(gate.limit(0), 3);
    gate.consumed(0, 3);
    gate.pass(2, BarrierMode::Aligned);
}

#[test]
pub(crate) fn an_abort_after_the_acknowledgement_changes_nothing() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 0);
    gate.pass(1, BarrierMode::Aligned);
    gate.acknowledged(id(1));
    gate.barrier(0, 2, 4);
    gate.abort(id(1));
    assert_eq!((gate.limit(0), gate.ready()), (4, None));
}

#[test]
pub(crate) fn an_obsolete_announcement_never_bounds_the_next_rounds_capture() {
    holds_only_without(Fault::ObsoleteSetsBound, || {
        let mut gate = gate(2);
        gate.abort(id(1));
        gate.unaligned(0, 2, 3);
        gate.pass(2, BarrierMode::Unaligned);
        gate.unaligned(1, 1, 6);
        assert_eq!(gate.cursor(1), Some((0, None)));
        gate.unaligned(1, 2, 8);
        assert_eq!(gate.cursor(1), Some((0, Some(8))));
    });
}

#[test]
pub(crate) fn announcements_and_triggers_of_passed_rounds_change_nothing() {
    let mut gate = gate(2);
    gate.barrier(0, 3, 0);
    gate.barrier(1, 3, 0);
    gate.pass(3, BarrierMode::Aligned);
    gate.acknowledged(id(3));
    for late in 1..=3 {
        gate.trigger(id(late), UNALIGNED);
        gate.barrier(0, late, 9);
        gate.expire(id(late));
        assert_eq!((gate.limits(2), gate.ready()), (vec![FREE, FREE], None));
    }
}

#[test]
pub(crate) fn thousands_of_aborted_rounds_need_no_more_memory_than_a_few() {
    let mut gate = gate(2);
    for round in 1..5_000 {
        gate.trigger(id(round), Aligned);
        gate.barrier(0, round, 0);
        gate.abort(id(round));
    }
    assert_eq!(gate.held_rounds(), (0, 1));
    gate.barrier(1, 4_999, 0);
    gate.barrier(1, 17, 0);
    assert_eq!((gate.limits(2), gate.ready()), (vec![FREE, FREE], None));
}

#[test]
pub(crate) fn an_abort_without_any_barrier_lets_the_next_round_through() {
    let mut gate = gate(2);
    gate.trigger(id(1), Aligned);
    gate.abort(id(1));
    gate.trigger(id(2), Aligned);
    gate.barrier(0, 2, 1);
    gate.consumed(0, 1);
    gate.barrier(1, 2, 0);
    gate.pass(2, BarrierMode::Aligned);
}

#[test]
pub(crate) fn an_abort_that_overtakes_some_barriers_ignores_those_to_come() {
    let mut gate = gate(3);
    gate.barrier(0, 1, 2);
    gate.abort(id(1));
    gate.barrier(1, 1, 0);
    gate.barrier(0, 2, 2);
    gate.barrier(2, 1, 5);
    assert_eq!((gate.limits(3), gate.ready()), (vec![2, FREE, FREE], None));
    gate.consumed(0, 2);
    gate.barrier(1, 2, 0);
    gate.barrier(2, 2, 0);
    gate.pass(2, BarrierMode::Aligned);
}

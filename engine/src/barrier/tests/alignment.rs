//! Channels that align: none, one, many; and in which mode a round passes.

use super::*;

#[test]
pub(crate) fn a_source_snapshots_at_the_trigger_in_every_mode() {
    let modes = [Aligned, UNALIGNED, TIMEOUT, AtLeastOnce];
    let passed =
        [BarrierMode::Aligned, BarrierMode::Unaligned, BarrierMode::Aligned, BarrierMode::AtLeastOnce];
    for (mode, passed) in modes.into_iter().zip(passed) {
        let mut gate = gate(0);
        assert_eq!(gate.ready(), None);
        gate.trigger(id(1), mode);
        gate.pass(1, passed);
        assert!(gate.complete(id(1)) && gate.ready().is_none());
    }
}

#[test]
pub(crate) fn one_channel_is_processed_to_its_cut_then_snapshotted() {
    let mut gate = gate(1);
    gate.consumed(0, 2);
    gate.barrier(0, 1, 4);
    assert_eq!((gate.limit(0), gate.ready()), (4, None));
    gate.consumed(0, 3);
    assert_eq!(gate.ready(), None);
    gate.consumed(0, 4);
    gate.pass(1, BarrierMode::Aligned);
    assert_eq!(gate.limit(0), FREE);
    assert!(gate.complete(id(1)) && gate.capture(0).is_none());
}

#[test]
pub(crate) fn a_cut_already_reached_when_announced_is_ready_at_once() {
    let mut gate = gate(1);
    gate.consumed(0, 5);
    gate.barrier(0, 1, 5);
    gate.pass(1, BarrierMode::Aligned);
}

#[test]
pub(crate) fn aligned_waits_for_every_channel_and_stops_each_at_its_cut() {
    holds_only_without(Fault::NeverHoldsBack, || {
        let mut gate = gate(3);
        gate.trigger(id(1), Aligned);
        gate.barrier(0, 1, 2);
        gate.barrier(2, 1, 0);
        gate.consumed(0, 2);
        gate.consumed(1, 9);
        assert_eq!((gate.limits(3), gate.ready()), (vec![2, FREE, 0], None));
        gate.barrier(1, 1, 10);
        assert_eq!((gate.limit(1), gate.ready()), (10, None));
        gate.consumed(1, 10);
        gate.pass(1, BarrierMode::Aligned);
        assert_eq!(gate.limits(3), vec![FREE; 3]);
    });
}

#[test]
pub(crate) fn a_trigger_alone_does_not_snapshot_an_aligned_round() {
    for mode in [Aligned, TIMEOUT, AtLeastOnce] {
        let mut gate = gate(1);
        gate.trigger(id(1), mode);
        assert_eq!(gate.ready(), None);
    }
}

#[test]
pub(crate) fn any_unaligned_announcement_turns_an_aligning_round() {
    holds_only_without(Fault::FirstModeSticks, || {
        let mut gate = gate(3);
        gate.barrier(0, 1, 2);
        assert_eq!(gate.ready(), None);
        gate.unaligned(1, 1, 4);
        gate.pass(1, BarrierMode::Unaligned);
        assert_eq!((gate.cursor(0), gate.cursor(2)), (Some((0, Some(2))), Some((0, None))));
    });
}

#[test]
pub(crate) fn the_tasks_own_timer_turns_its_round_at_each_moment_before_the_snapshot() {
    // Two channels: the timer runs out after this many of: trigger, announce 0, reach 0, announce 1, reach 1.
    for moment in 0..=5 {
        let mut gate = gate(2);
        let events: [&dyn Fn(&mut Gate); 5] = [
            &|gate| gate.trigger(id(1), TIMEOUT),
            &|gate| gate.barrier(0, 1, 3),
            &|gate| gate.consumed(0, 3),
            &|gate| gate.barrier(1, 1, 2),
            &|gate| gate.consumed(1, 2),
        ];
        for (index, event) in events.iter().enumerate() {
            if index == moment {
                gate.expire(id(1));
            }
            event(&mut gate);
        }
        if moment == 5 {
            gate.expire(id(1));
        }
        assert_eq!(
            gate.ready(),
            Some(Ready { checkpoint: id(1), mode: BarrierMode::Unaligned }),
            "at {moment}"
        );
    }
}

#[test]
pub(crate) fn a_timer_that_ran_out_during_alignment_snapshots_at_once_and_captures_the_rest() {
    let mut gate = gate(2);
    gate.trigger(id(1), TIMEOUT);
    gate.barrier(0, 1, 3);
    gate.consumed(0, 1);
    assert_eq!(gate.ready(), None);
    gate.expire(id(1));
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!(gate.limits(2), vec![FREE, FREE]);
    assert_eq!((gate.cursor(0), gate.cursor(1)), (Some((1, Some(3))), Some((0, None))));
}

#[test]
pub(crate) fn a_timer_that_ran_out_before_the_round_is_known_counts_once_it_is() {
    holds_only_without(Fault::EarlyExpiryForgotten, || {
        let mut gate = gate(2);
        gate.expire(id(1));
        assert_eq!(gate.ready(), None);
        gate.barrier(0, 1, 2);
        gate.pass(1, BarrierMode::Unaligned);
    });
}

#[test]
pub(crate) fn a_timer_known_alone_holds_nothing_up() {
    let mut gate = gate(1);
    gate.expire(id(1));
    gate.barrier(0, 2, 0);
    gate.pass(2, BarrierMode::Aligned);
    gate.barrier(0, 1, 0);
    assert_eq!(gate.ready(), None);
}

#[test]
pub(crate) fn after_the_snapshot_neither_timer_nor_announcement_switches() {
    let mut gate = gate(1);
    gate.trigger(id(1), TIMEOUT);
    gate.barrier(0, 1, 2);
    gate.consumed(0, 2);
    gate.pass(1, BarrierMode::Aligned);
    gate.expire(id(1));
    gate.unaligned(0, 1, 2);
    assert!(gate.ready().is_none() && gate.capture(0).is_none() && gate.complete(id(1)));
}

#[test]
pub(crate) fn a_savepoint_stays_aligned_whatever_timer_runs_out() {
    for expired_first in [true, false] {
        let mut gate = gate(2);
        if expired_first {
            gate.expire(id(1));
        }
        gate.trigger(id(1), Aligned);
        gate.barrier(0, 1, 1);
        gate.expire(id(1));
        assert_eq!((gate.ready(), gate.limit(0)), (None, 1));
        gate.consumed(0, 1);
        gate.barrier(1, 1, 0);
        gate.pass(1, BarrierMode::Aligned);
    }
}

#[test]
pub(crate) fn at_least_once_waits_for_the_cut_not_for_the_announcement() {
    holds_only_without(Fault::AtLeastOnceWhenAnnounced, || {
        let mut gate = gate(2);
        let mark = barrier(1, BarrierMode::AtLeastOnce);
        gate.announce(0, Announcement { mark, cut: 2 });
        gate.announce(1, Announcement { mark, cut: 1 });
        assert_eq!(gate.ready(), None);
        gate.consumed(0, 2);
        assert_eq!(gate.ready(), None);
        gate.consumed(1, 1);
        gate.pass(1, BarrierMode::AtLeastOnce);
        assert!(gate.complete(id(1)));
    });
}

#[test]
pub(crate) fn at_least_once_never_stops_reading_nor_turns_unaligned() {
    let mut gate = gate(2);
    // Known from the announcement as well as from the trigger, whichever comes first.
    gate.announce(0, Announcement { mark: barrier(1, BarrierMode::AtLeastOnce), cut: 2 });
    assert_eq!(gate.limits(2), vec![FREE, FREE]);
    gate.consumed(0, 7);
    gate.expire(id(1));
    assert_eq!(gate.ready(), None);
    gate.announce(1, Announcement { mark: barrier(1, BarrierMode::AtLeastOnce), cut: 0 });
    gate.trigger(id(1), AtLeastOnce);
    gate.pass(1, BarrierMode::AtLeastOnce);
    assert_eq!((gate.capture(0), gate.capture(1)), (None, None));
}

#[test]
pub(crate) fn learning_that_a_round_is_at_least_once_frees_what_it_held_back() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 2);
    assert_eq!(gate.limit(0), 2);
    gate.trigger(id(1), AtLeastOnce);
    assert_eq!(gate.limit(0), FREE);
}

#[test]
pub(crate) fn a_timer_that_runs_out_after_the_last_barrier_captures_nothing() {
    let mut gate = gate(2);
    gate.trigger(id(1), TIMEOUT);
    gate.barrier(0, 1, 3);
    gate.consumed(0, 3);
    gate.barrier(1, 1, 2);
    gate.consumed(1, 2);
    gate.expire(id(1));
    gate.pass(1, BarrierMode::Unaligned);
    assert!(gate.capture(0).is_none() && gate.capture(1).is_none() && gate.complete(id(1)));
}

#[test]
pub(crate) fn after_a_timeout_or_an_abort_everything_is_unblocked() {
    for aborted in [true, false] {
        let mut gate = gate(3);
        gate.trigger(id(1), TIMEOUT);
        gate.barrier(0, 1, 0);
        gate.barrier(1, 1, 4);
        assert_eq!(gate.limits(3), vec![0, 4, FREE]);
        if aborted {
            gate.abort(id(1));
        } else {
            gate.expire(id(1));
            gate.pass(1, BarrierMode::Unaligned);
        }
        assert_eq!((gate.limits(3), gate.ready()), (vec![FREE; 3], None), "aborted: {aborted}");
    }
}

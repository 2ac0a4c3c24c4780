//! What the gate promises, one claim at a time; and that breaking a rule breaks its claim.

use super::CheckpointMode::{self, Aligned, AtLeastOnce};
use super::fault::Fault;
use super::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

const UNALIGNED: CheckpointMode = CheckpointMode::Unaligned;
const TIMEOUT: CheckpointMode = CheckpointMode::AlignedWithTimeout(Duration::from_secs(1));
const FREE: u64 = u64::MAX;

fn id(number: u64) -> CheckpointId {
    CheckpointId(number)
}

fn gate(exchanges: usize) -> Gate {
    Gate::new(vec![ChannelKind::Exchange; exchanges])
}

/// One exchange, then one aligned-only channel.
fn mixed_gate() -> Gate {
    Gate::new(vec![ChannelKind::Exchange, ChannelKind::AlignedOnly])
}

/// Short forms, for tests.
impl Gate {
    fn with(mut self, fault: Option<Fault>) -> Gate {
        self.break_rule(fault);
        self
    }

    fn barrier(&mut self, channel: usize, number: u64, cut: u64) {
        self.announce(channel, Announcement { mark: barrier(number, BarrierMode::Aligned), cut });
    }

    fn unaligned(&mut self, channel: usize, number: u64, cut: u64) {
        self.announce(channel, Announcement { mark: barrier(number, BarrierMode::Unaligned), cut });
    }

    fn end(&mut self, channel: usize, cut: u64) {
        self.announce(channel, Announcement { mark: Mark::EndOfStream, cut });
    }

    fn ready_id(&self) -> Option<u64> {
        self.ready().map(|ready| ready.checkpoint.0)
    }

    fn limits(&self, count: usize) -> Vec<u64> {
        (0..count).map(|channel| self.limit(channel)).collect()
    }

    fn cursor(&self, channel: usize) -> Option<(u64, Option<u64>)> {
        self.capture(channel).map(|capture| (capture.next, capture.bound))
    }

    /// Snapshots, having checked that the round is ready in this mode.
    fn pass(&mut self, number: u64, mode: BarrierMode) {
        assert_eq!(self.ready(), Some(Ready { checkpoint: id(number), mode }));
        self.snapshotted(id(number));
    }
}

fn barrier(number: u64, mode: BarrierMode) -> Mark {
    Mark::Barrier { checkpoint: id(number), mode }
}

/// The claim holds, and would not if the rule were broken.
fn holds_only_without(fault: Fault, claim: impl Fn(Option<Fault>)) {
    claim(None);
    assert!(catch_unwind(AssertUnwindSafe(|| claim(Some(fault)))).is_err(), "{fault:?} goes unnoticed");
}

// --- No channels, one, many ---

#[test]
fn a_source_snapshots_at_the_trigger_in_every_mode() {
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
fn one_channel_is_processed_to_its_cut_then_snapshotted() {
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
fn a_cut_already_reached_when_announced_is_ready_at_once() {
    let mut gate = gate(1);
    gate.consumed(0, 5);
    gate.barrier(0, 1, 5);
    gate.pass(1, BarrierMode::Aligned);
}

#[test]
fn aligned_waits_for_every_channel_and_stops_each_at_its_cut() {
    holds_only_without(Fault::NeverHoldsBack, |fault| {
        let mut gate = gate(3).with(fault);
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
fn a_trigger_alone_does_not_snapshot_an_aligned_round() {
    for mode in [Aligned, TIMEOUT, AtLeastOnce] {
        let mut gate = gate(1);
        gate.trigger(id(1), mode);
        assert_eq!(gate.ready(), None);
    }
}

// --- Unaligned: what is captured ---

#[test]
fn unaligned_snapshots_at_the_first_announcement_and_captures_from_consumed_to_the_cut() {
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
fn unaligned_may_start_at_the_trigger_and_captures_what_it_consumes_until_announced() {
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
fn channel_state_is_exactly_the_batches_between_consumed_and_cut() {
    let claim = |fault| {
        for consumed in 0..4 {
            for cut in consumed..6 {
                for captured_before in consumed..=cut {
                    let mut gate = gate(1).with(fault);
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
fn the_capture_cursor_does_not_move_with_consumption() {
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
fn a_round_is_complete_after_its_last_capture() {
    holds_only_without(Fault::CompleteAtSnapshot, |fault| {
        let mut gate = gate(2).with(fault);
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
fn a_delayed_unaligned_snapshot_still_stops_at_announced_cuts() {
    let mut gate = gate(2);
    gate.unaligned(0, 1, 2);
    assert_eq!((gate.limits(2), gate.ready_id()), (vec![2, FREE], Some(1)));
    gate.consumed(0, 2);
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!((gate.cursor(0), gate.limit(0)), (None, FREE));
}

// --- Modes ---

#[test]
fn any_unaligned_announcement_turns_an_aligning_round() {
    holds_only_without(Fault::FirstModeSticks, |fault| {
        let mut gate = gate(3).with(fault);
        gate.barrier(0, 1, 2);
        assert_eq!(gate.ready(), None);
        gate.unaligned(1, 1, 4);
        gate.pass(1, BarrierMode::Unaligned);
        assert_eq!((gate.cursor(0), gate.cursor(2)), (Some((0, Some(2))), Some((0, None))));
    });
}

#[test]
fn the_tasks_own_timer_turns_its_round_at_each_moment_before_the_snapshot() {
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
fn a_timer_that_ran_out_during_alignment_snapshots_at_once_and_captures_the_rest() {
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
fn a_timer_that_ran_out_before_the_round_is_known_counts_once_it_is() {
    holds_only_without(Fault::EarlyExpiryForgotten, |fault| {
        let mut gate = gate(2).with(fault);
        gate.expire(id(1));
        assert_eq!(gate.ready(), None);
        gate.barrier(0, 1, 2);
        gate.pass(1, BarrierMode::Unaligned);
    });
}

#[test]
fn a_timer_known_alone_holds_nothing_up() {
    let mut gate = gate(1);
    gate.expire(id(1));
    gate.barrier(0, 2, 0);
    gate.pass(2, BarrierMode::Aligned);
    gate.barrier(0, 1, 0);
    assert_eq!(gate.ready(), None);
}

#[test]
fn after_the_snapshot_neither_timer_nor_announcement_switches() {
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
fn a_savepoint_stays_aligned_whatever_timer_runs_out() {
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
fn at_least_once_waits_for_the_cut_not_for_the_announcement() {
    holds_only_without(Fault::AtLeastOnceWhenAnnounced, |fault| {
        let mut gate = gate(2).with(fault);
        gate.trigger(id(1), AtLeastOnce);
        gate.barrier(0, 1, 2);
        gate.barrier(1, 1, 1);
        assert_eq!(gate.ready(), None);
        gate.consumed(0, 2);
        assert_eq!(gate.ready(), None);
        gate.consumed(1, 1);
        gate.pass(1, BarrierMode::AtLeastOnce);
        assert!(gate.complete(id(1)));
    });
}

#[test]
fn at_least_once_never_stops_reading_nor_turns_unaligned() {
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
fn learning_that_a_round_is_at_least_once_frees_what_it_held_back() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 2);
    assert_eq!(gate.limit(0), 2);
    gate.trigger(id(1), AtLeastOnce);
    assert_eq!(gate.limit(0), FREE);
}

// --- Several rounds ---

#[test]
fn several_aligned_rounds_snapshot_in_order_each_at_its_own_cuts() {
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
fn a_newer_announcement_never_kills_an_older_aligning_round() {
    holds_only_without(Fault::NewerKillsOlder, |fault| {
        let mut gate = gate(2).with(fault);
        gate.barrier(0, 1, 1);
        gate.barrier(0, 2, 3);
        gate.barrier(1, 1, 0);
        assert_eq!(gate.limit(0), 1);
        gate.consumed(0, 1);
        gate.pass(1, BarrierMode::Aligned);
    });
}

#[test]
fn ids_heard_out_of_order_snapshot_in_order() {
    holds_only_without(Fault::YoungerFirst, |fault| {
        let mut gate = gate(2).with(fault);
        gate.barrier(0, 1, 0);
        gate.barrier(0, 2, 0);
        gate.barrier(1, 2, 0); // channel 1 has no barrier 1: its producer heard of the abort
        assert_eq!(gate.ready(), None);
        gate.abort(id(1));
        gate.pass(2, BarrierMode::Aligned);
    });
    let mut source = gate(0);
    source.trigger(id(7), Aligned);
    source.trigger(id(5), Aligned);
    source.pass(5, BarrierMode::Aligned);
    source.pass(7, BarrierMode::Aligned);
}

#[test]
fn the_first_cut_is_final() {
    holds_only_without(Fault::LaterCutReplaces, |fault| {
        let mut gate = gate(2).with(fault);
        gate.barrier(0, 1, 3);
        gate.barrier(0, 1, 5);
        assert_eq!(gate.limit(0), 3);
        gate.unaligned(1, 1, 1);
        gate.pass(1, BarrierMode::Unaligned);
        gate.unaligned(0, 1, 9);
        assert_eq!(gate.cursor(0), Some((0, Some(3))));
    });
}

#[test]
fn an_unaligned_round_ends_the_captures_of_a_dead_older_one() {
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

// --- Aborts and obsolete announcements ---

#[test]
fn an_abort_before_the_barrier_is_remembered() {
    holds_only_without(Fault::EarlyAbortForgotten, |fault| {
        let mut gate = gate(2).with(fault);
        gate.abort(id(1));
        gate.barrier(0, 1, 0);
        gate.trigger(id(1), Aligned);
        gate.unaligned(1, 1, 0);
        assert_eq!((gate.limits(2), gate.ready()), (vec![FREE, FREE], None));
        assert!(gate.is_aborted(id(1)));
    });
}

#[test]
fn an_abort_during_alignment_releases_everything_at_once() {
    holds_only_without(Fault::AbortKeepsHolding, |fault| {
        let mut gate = gate(2).with(fault);
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
fn an_abort_of_a_ready_round_withdraws_it() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 0);
    assert_eq!(gate.ready_id(), Some(1));
    gate.abort(id(1));
    assert_eq!((gate.ready(), gate.limit(0)), (None, FREE));
}

#[test]
fn an_abort_after_the_snapshot_closes_its_captures() {
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
fn an_abort_leaves_other_rounds_alone() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 1);
    gate.barrier(0, 2, 3);
    gate.abort(id(1));
    assert_eq!(gate.limit(0), 3);
    gate.consumed(0, 3);
    gate.pass(2, BarrierMode::Aligned);
}

#[test]
fn an_abort_after_the_acknowledgement_changes_nothing() {
    let mut gate = gate(1);
    gate.barrier(0, 1, 0);
    gate.pass(1, BarrierMode::Aligned);
    gate.acknowledged(id(1));
    gate.barrier(0, 2, 4);
    gate.abort(id(1));
    assert_eq!((gate.limit(0), gate.ready()), (4, None));
}

#[test]
fn an_obsolete_announcement_never_bounds_the_next_rounds_capture() {
    holds_only_without(Fault::ObsoleteSetsBound, |fault| {
        let mut gate = gate(2).with(fault);
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
fn announcements_and_triggers_of_passed_rounds_change_nothing() {
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
fn thousands_of_aborted_rounds_need_no_more_memory_than_a_few() {
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

// --- End of stream, finished tasks ---

#[test]
fn the_end_of_a_stream_counts_when_reached_and_bounds_every_round_without_its_own_cut() {
    holds_only_without(Fault::EndWhenSeen, |fault| {
        let mut gate = gate(2).with(fault);
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
fn an_own_cut_before_the_end_of_the_stream_still_counts() {
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
fn an_ended_channel_is_captured_up_to_its_end() {
    holds_only_without(Fault::EndedNotCaptured, |fault| {
        let mut gate = gate(2).with(fault);
        gate.end(0, 4);
        gate.consumed(0, 1);
        gate.unaligned(1, 1, 0);
        gate.pass(1, BarrierMode::Unaligned);
        assert_eq!(gate.cursor(0), Some((1, Some(4))));
    });
}

#[test]
fn a_stream_that_ends_while_a_capture_waits_for_its_announcement_bounds_it() {
    let mut gate = gate(2);
    gate.unaligned(0, 1, 0);
    gate.pass(1, BarrierMode::Unaligned);
    gate.captured(1, 1);
    gate.consumed(1, 1);
    gate.end(1, 1);
    assert!(gate.complete(id(1)) && gate.capture(1).is_none());
}

#[test]
fn a_task_whose_inputs_have_all_ended_starts_at_the_trigger() {
    holds_only_without(Fault::TriggerForSourcesOnly, |fault| {
        for mode in [Aligned, UNALIGNED, TIMEOUT, AtLeastOnce] {
            let mut gate = gate(2).with(fault);
            gate.end(0, 1);
            gate.end(1, 0);
            gate.consumed(0, 1);
            gate.trigger(id(1), mode);
            assert_eq!(gate.ready_id(), Some(1), "{mode:?}");
        }
    });
}

#[test]
fn an_aligned_task_whose_inputs_have_announced_their_end_starts_once_it_is_reached() {
    let mut gate = gate(1);
    gate.trigger(id(1), Aligned);
    gate.end(0, 2);
    assert_eq!(gate.ready(), None);
    gate.consumed(0, 2);
    gate.pass(1, BarrierMode::Aligned);
}

#[test]
fn a_finished_task_snapshots_every_trigger_at_once_and_captures_nothing() {
    holds_only_without(Fault::FinishChangesNothing, |fault| {
        let mut gate = gate(2).with(fault);
        gate.trigger(id(1), Aligned);
        gate.finish(); // an operator that wanted no more of its input
        gate.pass(1, BarrierMode::Aligned);
        gate.trigger(id(2), UNALIGNED);
        gate.pass(2, BarrierMode::Unaligned);
        assert!(gate.complete(id(1)) && gate.complete(id(2)));
        assert_eq!((gate.capture(0), gate.capture(1)), (None, None));
    });
}

// --- Aligned-only inputs ---

#[test]
fn an_aligned_only_input_reaches_its_cut_before_an_unaligned_snapshot() {
    holds_only_without(Fault::AlignedOnlyIgnored, |fault| {
        let mut gate = mixed_gate().with(fault);
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
fn while_an_aligned_only_input_aligns_the_others_stop_at_their_cuts() {
    holds_only_without(Fault::OthersPassTheirCuts, |fault| {
        let mut gate = mixed_gate().with(fault);
        gate.unaligned(0, 1, 3);
        assert_eq!(gate.limits(2), vec![3, FREE]);
        gate.consumed(0, 1);
        gate.unaligned(1, 1, 0);
        gate.pass(1, BarrierMode::Unaligned);
        assert_eq!((gate.cursor(0), gate.limits(2)), (Some((1, Some(3))), vec![FREE, FREE]));
    });
}

#[test]
fn an_aligned_only_input_that_has_ended_delays_nothing() {
    let mut gate = mixed_gate();
    gate.end(1, 0);
    gate.unaligned(0, 1, 3);
    gate.pass(1, BarrierMode::Unaligned);
}

#[test]
fn a_delayed_exchange_is_announced_but_not_processed_before_an_unaligned_snapshot() {
    let mut gate = Gate::new(vec![ChannelKind::Exchange, ChannelKind::DelayedExchange]);
    gate.trigger(id(1), UNALIGNED);
    gate.unaligned(0, 1, 2);
    assert_eq!((gate.ready(), gate.limits(2)), (None, vec![2, FREE]));
    gate.unaligned(1, 1, 3);
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!((gate.cursor(0), gate.cursor(1)), (Some((0, Some(2))), Some((0, Some(3)))));
}

#[test]
fn a_delayed_exchange_that_has_ended_delays_nothing() {
    let mut gate = Gate::new(vec![ChannelKind::DelayedExchange]);
    gate.trigger(id(1), UNALIGNED);
    assert_eq!(gate.ready(), None);
    gate.end(0, 3);
    gate.pass(1, BarrierMode::Unaligned);
    assert_eq!(gate.cursor(0), Some((0, Some(3))));
    gate.trigger(id(2), UNALIGNED);
    assert_eq!(gate.ready_id(), Some(2));
}

// --- Announcing onwards ---

#[test]
fn a_round_is_announced_in_the_mode_in_which_it_was_passed() {
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

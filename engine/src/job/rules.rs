//! The rules of the checkpoint protocol, each with the test that answers for it and the switch that breaks it.
//!
//! | rule | what it says | test | switch |
//! |-----:|--------------|------|--------|
//! |  1 | announce on all outputs before any later push; a full side ring delays the whole snapshot | `a_snapshot_waits_until_every_side_ring_has_room` | `AnnouncesIntoFullRing` |
//! |  2 | a snapshot in any mode holds the outbox and half done outputs | `an_aligned_snapshot_holds_what_waits_in_the_outbox` | `OutboxLeftOut` |
//! |  3 | one announcement per channel and checkpoint: its cut is final | `the_first_cut_is_final` | `LaterCutReplaces` |
//! |  4 | positions are (batch, record): the rest of a batch in progress is channel state | `the_unprocessed_rest_of_a_batch_is_channel_state` | `PartialBatchLeftOut` |
//! |  5 | restored items take the first positions, and count as pushed | `restored_batches_take_the_first_positions` | `RestoredUncounted` |
//! |  6 | after an announcement only what lies below its cut becomes visible | `behind_an_announced_cut_nothing_is_visible` | `SeesBeyondCut` |
//! |  7 | any unaligned announcement turns a round, as its own timer does | `any_unaligned_announcement_turns_an_aligning_round` | `FirstModeSticks` |
//! |  7 | … also a timer that ran out before the round was known | `a_timer_that_ran_out_before_the_round_is_known_counts_once_it_is` | `EarlyExpiryForgotten` |
//! |  8 | at-least-once snapshots when every channel has reached its cut | `at_least_once_waits_for_the_cut_not_for_the_announcement` | `AtLeastOnceWhenAnnounced` |
//! |  9 | a newer announcement never ends an older round | `a_newer_announcement_never_kills_an_older_aligning_round` | `NewerKillsOlder` |
//! |  9 | rounds snapshot in order | `rounds_triggered_out_of_order_snapshot_in_order` | `YoungerFirst` |
//! | 10 | an unaligned or timed checkpoint never overlaps another | `an_unaligned_checkpoint_never_overlaps_another` | `UnalignedOverlaps` |
//! | 11 | the end of a stream is a cut, reached when everything before it is processed | `the_end_of_a_stream_counts_when_reached_and_bounds_every_round_without_its_own_cut` | `EndWhenSeen` |
//! | 11 | … and bounds captures | `an_ended_channel_is_captured_up_to_its_end` | `EndedNotCaptured` |
//! | 11 | … and waits for the snapshot of a round whose barrier has come | `an_end_right_behind_a_barrier_waits_for_the_snapshot` | `EndPassesBarrier` |
//! | 12 | every task is triggered: one whose inputs have ended starts by itself | `a_task_whose_inputs_have_all_ended_starts_at_the_trigger` | `TriggerForSourcesOnly` |
//! | 13 | an abort leaves prepared output alone; a manifest lists all that is uncommitted | `output_of_an_aborted_checkpoint_is_listed_and_committed_by_the_next` | `ListsOwnCommittablesOnly` |
//! | 14 | aligned-only inputs reach their cuts before the snapshot | `an_aligned_only_input_reaches_its_cut_before_an_unaligned_snapshot` | `AlignedOnlyIgnored` |
//! | 14 | … while the others stop at theirs | `while_an_aligned_only_input_aligns_the_others_stop_at_their_cuts` | `OthersPassTheirCuts` |
//! | 15 | a checkpoint that is being finalised cannot be aborted | `publishing_cannot_be_aborted` | `FinalisingAborted` |
//! | 15 | a restore makes the manifest durable first | `a_restore_makes_its_manifest_durable_first` | `ManifestUnsynced` |
//! | 16 | an acknowledgement holds its files until its checkpoint ends | `an_acknowledgement_holds_its_files_until_its_checkpoint_ends` | `AcknowledgementHoldsNothing` |
//! | 17 | ids exceed every id ever tried, by dead attempts too | `an_id_that_a_dead_attempt_took_never_comes_again` | `IdsStartOver` |
//! | 18 | announcements ring the doorbell of a consumer that sleeps | `an_announcement_wakes_a_consumer_that_sleeps` | `AnnouncesSilently` |
//! | 19 | the acknowledgement follows the last capture | `a_round_is_complete_after_its_last_capture` | `CompleteAtSnapshot` |
//! | 19 | obsolete announcements change nothing | `an_obsolete_announcement_never_bounds_the_next_rounds_capture` | `ObsoleteSetsBound` |
//! | 19 | aborts are remembered, also before the barrier | `an_abort_before_the_barrier_is_remembered` | `EarlyAbortForgotten` |
//! | 19 | … and release what they held back | `an_abort_during_alignment_releases_everything_at_once` | `AbortKeepsHolding` |
//!
//! The orderings behind rules 6 and 18 have loom models beside their code: `ring/availability.rs`, `ring/doorbell.rs`.

use crate::barrier::tests::{alignment, capture, ends, rounds};
use crate::coordinator::core_tests;
use crate::ring::doorbell::{Doorbell, Wake};
use crate::ring::{
    Announcement, BarrierMode, BatchPool, ChannelSpec, Look, Mark, Receiver, Restored, Sender, Visible,
    channel,
};
use crate::task::tests::{ends as task_ends, rules as task_rules};
use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thalweg_storage::checkpoint::CheckpointStore;
use thalweg_storage::fault::{Fault, with_fault};
use thalweg_storage::io::{DiskHandle, OpKind, SimDisk};
use thalweg_storage::manifest::{Manifest, ManifestKind};
use thalweg_storage::{AttemptId, CheckpointId};

/// One row of the table above.
struct Rule {
    number: u32,
    name: &'static str,
    test: fn(),
    switch: Fault,
}

macro_rules! rules {
    ($($number:literal $($module:ident)::+ $fault:ident;)*) => {
        &[$(Rule {
            number: $number,
            name: stringify!($($module)::+),
            test: $($module)::+,
            switch: Fault::$fault,
        }),*]
    };
}

const RULES: &[Rule] = rules! {
    1 task_rules::a_snapshot_waits_until_every_side_ring_has_room AnnouncesIntoFullRing;
    2 task_rules::an_aligned_snapshot_holds_what_waits_in_the_outbox OutboxLeftOut;
    3 rounds::the_first_cut_is_final LaterCutReplaces;
    4 task_rules::the_unprocessed_rest_of_a_batch_is_channel_state PartialBatchLeftOut;
    5 restored_batches_take_the_first_positions RestoredUncounted;
    6 behind_an_announced_cut_nothing_is_visible SeesBeyondCut;
    7 alignment::any_unaligned_announcement_turns_an_aligning_round FirstModeSticks;
    7 alignment::a_timer_that_ran_out_before_the_round_is_known_counts_once_it_is EarlyExpiryForgotten;
    8 alignment::at_least_once_waits_for_the_cut_not_for_the_announcement AtLeastOnceWhenAnnounced;
    9 rounds::a_newer_announcement_never_kills_an_older_aligning_round NewerKillsOlder;
    9 rounds::rounds_triggered_out_of_order_snapshot_in_order YoungerFirst;
    10 core_tests::triggers::an_unaligned_checkpoint_never_overlaps_another UnalignedOverlaps;
    11 ends::the_end_of_a_stream_counts_when_reached_and_bounds_every_round_without_its_own_cut EndWhenSeen;
    11 ends::an_ended_channel_is_captured_up_to_its_end EndedNotCaptured;
    11 ends::an_end_right_behind_a_barrier_waits_for_the_snapshot EndPassesBarrier;
    12 ends::a_task_whose_inputs_have_all_ended_starts_at_the_trigger TriggerForSourcesOnly;
    13 task_ends::output_of_an_aborted_checkpoint_is_listed_and_committed_by_the_next ListsOwnCommittablesOnly;
    14 capture::an_aligned_only_input_reaches_its_cut_before_an_unaligned_snapshot AlignedOnlyIgnored;
    14 capture::while_an_aligned_only_input_aligns_the_others_stop_at_their_cuts OthersPassTheirCuts;
    15 core_tests::rounds::publishing_cannot_be_aborted FinalisingAborted;
    15 a_restore_makes_its_manifest_durable_first ManifestUnsynced;
    16 core_tests::files::an_acknowledgement_holds_its_files_until_its_checkpoint_ends AcknowledgementHoldsNothing;
    17 an_id_that_a_dead_attempt_took_never_comes_again IdsStartOver;
    18 an_announcement_wakes_a_consumer_that_sleeps AnnouncesSilently;
    19 capture::a_round_is_complete_after_its_last_capture CompleteAtSnapshot;
    19 rounds::an_obsolete_announcement_never_bounds_the_next_rounds_capture ObsoleteSetsBound;
    19 rounds::an_abort_before_the_barrier_is_remembered EarlyAbortForgotten;
    19 rounds::an_abort_during_alignment_releases_everything_at_once AbortKeepsHolding;
};

fn holds(rule: &Rule, switch: Option<Fault>) -> bool {
    with_fault(switch, || catch_unwind(rule.test).is_ok())
}

/// The switch of a rule fails its own test, and no other rule's.
#[test]
fn each_rule_holds_and_its_switch_fails_exactly_its_test() {
    let mut wrong = Vec::new();
    for rule in RULES {
        if !holds(rule, None) {
            wrong.push(format!("{} fails although no rule is broken", rule.name));
        }
        for broken in RULES {
            let expected = broken.name != rule.name;
            if holds(rule, Some(broken.switch)) != expected {
                let how = if expected { "fails" } else { "holds" };
                wrong.push(format!(
                    "{} {how} with rule {} broken: {:?}",
                    rule.name, broken.number, broken.switch
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn all_nineteen_rules_are_listed_and_documented() {
    let numbers: BTreeSet<u32> = RULES.iter().map(|rule| rule.number).collect();
    assert!(numbers.into_iter().eq(1..=19));
    let table = include_str!("rules.rs");
    for rule in RULES {
        let name = rule.name.rsplit("::").next().expect("a path has a last part").trim();
        let switch = format!("`{:?}`", rule.switch);
        let row = table.lines().find(|line| line.starts_with("//! |") && line.contains(&format!("`{name}`")));
        assert!(row.is_some_and(|row| row.contains(&switch)), "{name} or {switch} is not in the table");
    }
}

/// Counts wakes.
#[derive(Clone, Default)]
struct Wakes(Arc<AtomicUsize>);

impl Wake for Wakes {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A channel whose consumer's doorbell is the one given.
fn ends_of(restored: Vec<Vec<u64>>, consumer: Doorbell) -> (Sender<u64>, Receiver<u64>) {
    let spec = ChannelSpec {
        ring_batches: 4,
        batch_records: 1,
        side_entries: 2,
        pool: Arc::new(BatchPool::new(1 << 20)),
        consumer,
        producer: Doorbell::new(Wakes::default()),
    };
    let mut before = Restored::before(1);
    restored.into_iter().for_each(|batch| before.push(0, batch));
    channel(spec, before)
}

fn announcement(cut: u64) -> Announcement {
    Announcement { mark: Mark::Barrier { checkpoint: CheckpointId(1), mode: BarrierMode::Unaligned }, cut }
}

#[test]
fn restored_batches_take_the_first_positions() {
    let (mut sender, mut receiver) = ends_of(vec![vec![1], vec![2]], Doorbell::new(Wakes::default()));
    assert_eq!((sender.pushed(), receiver.visible(), receiver.consumed()), (2, 2, 0));
    sender.push(3);
    sender.announce(announcement(sender.pushed()));
    let mut cuts = Vec::new();
    receiver.look(|announcement| cuts.push(announcement.cut));
    assert_eq!((cuts, receiver.visible()), (vec![3], 3));
    let positions = (0..3).map(|position| receiver.peek(position, |records| records[0]));
    assert_eq!(positions.collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn behind_an_announced_cut_nothing_is_visible() {
    let mut look = Look::begin(2);
    look.announced(3);
    assert_eq!(look.end(8), Visible { end: 3, again: true });
}

#[test]
fn an_announcement_wakes_a_consumer_that_sleeps() {
    let wakes = Wakes::default();
    let bell = Doorbell::new(wakes.clone());
    let (mut sender, _receiver) = ends_of(Vec::new(), bell.clone());
    bell.announce_sleep();
    sender.announce(announcement(0));
    assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
}

fn store(disk: &DiskHandle) -> CheckpointStore {
    CheckpointStore::open_unlocked(disk.clone(), "/checkpoints".as_ref(), "job").expect("the store opens")
}

#[test]
fn a_restore_makes_its_manifest_durable_first() {
    let sim = SimDisk::new();
    let disk = DiskHandle::new(Arc::clone(&sim) as _);
    let mut checkpoints = store(&disk);
    let id = checkpoints.begin().expect("a checkpoint begins");
    let manifest = Manifest {
        job: "job".into(),
        checkpoint: id,
        attempt: AttemptId(1),
        triggered_unix_ms: 1,
        max_parallelism: 128,
        kind: ManifestKind::Checkpoint,
        origin: None,
        operators: Vec::new(),
        edges: Vec::new(),
        channels: Vec::new(),
    };
    checkpoints.publish(&manifest, 1, &|_| false).expect("it is published");
    drop(checkpoints);
    let checkpoints = store(&disk);
    let before = sim.op_log().len();
    assert_eq!(checkpoints.latest().expect("it is readable").map(|manifest| manifest.checkpoint), Some(id));
    let log = sim.op_log();
    let count = |kind| log[before..].iter().filter(|op| op.kind == kind).count();
    assert_eq!(
        (count(OpKind::SyncData), count(OpKind::SyncDir)),
        (1, 3),
        "the file, and each directory above it"
    );
}

#[test]
fn an_id_that_a_dead_attempt_took_never_comes_again() {
    let disk = DiskHandle::new(SimDisk::new() as _);
    let mut checkpoints = store(&disk);
    let ids: Vec<CheckpointId> = (0..3).map(|_| checkpoints.begin().expect("a checkpoint begins")).collect();
    drop(checkpoints);
    let next = store(&disk).begin().expect("a checkpoint begins");
    assert!(ids.iter().all(|id| *id < next), "{ids:?}, then {next}");
}

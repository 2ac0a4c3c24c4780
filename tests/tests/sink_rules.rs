//! What every exactly-once sink must hold, one test for each rule and sink, and all of them together under random orders of
//! events, at changing parallelism.
//!
//! `THALWEG_SEED=<seed>` replays one seed of each property; `THALWEG_RUNS=<n>` multiplies the number of seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use thalweg::connector::{Calls, Sink, WriteAheadSink};
use thalweg_tests::bank::{Bank, Call, Failing};
use thalweg_tests::sink_stage::{Job, World, files, memory, two_phase, write_ahead};
use thalweg_tests::support;

/// Each rule as a test of each sink.
macro_rules! rules {
    ($($rule:ident;)*) => {
        mod two_phase_commit {
            use super::*;
            $(#[test] fn $rule() { super::$rule(two_phase(&Bank::new(), Calls::Worker)); })*
        }
        mod two_phase_commit_on_helper_threads {
            use super::*;
            $(#[test] fn $rule() { super::$rule(two_phase(&Bank::new(), Calls::HelperThread)); })*
        }
        mod write_ahead_log {
            use super::*;
            $(#[test] fn $rule() { super::$rule(write_ahead(&Bank::new(), Calls::Worker)); })*
        }
        mod write_ahead_log_on_helper_threads {
            use super::*;
            $(#[test] fn $rule() { super::$rule(write_ahead(&Bank::new(), Calls::HelperThread)); })*
        }
        mod file_sink {
            use super::*;
            $(#[test] fn $rule() { super::$rule(files()); })*
        }
        mod memory_sink {
            use super::*;
            $(#[test] fn $rule() { super::$rule(memory()); })*
        }
    };
}

rules! {
    completion_commits_everything_listed_aborted_checkpoints_and_savepoints_included;
    late_and_duplicate_notices_change_nothing;
    crash_before_the_notice_commits_on_restore;
    nothing_uncheckpointed_ever_appears;
    prepared_output_survives_close;
    prepared_output_absent_from_state_is_gone_after_a_start;
    empty_checkpoints_are_fine;
    output_of_subtasks_that_no_longer_exist_is_committed_or_cleared_away;
}

fn completion_commits_everything_listed_aborted_checkpoints_and_savepoints_included<S>(world: World<S>)
where
    S: Sink<Record = u64>,
{
    let mut job = Job::started(world, 2);
    job.write_all(10);
    let aborted = job.checkpoint();
    job.abort(aborted);
    job.write_all(10);
    // A savepoint completes without a notice.
    let savepoint = job.checkpoint();
    job.abort(savepoint);
    job.write_all(10);
    let checkpoint = job.checkpoint();
    job.settle().unwrap();
    assert!(job.world.visible().is_empty());
    job.complete(checkpoint);
    job.settle().unwrap();
    if job.world.visible().len() < 30 {
        // A file that is still open becomes visible when it is rolled.
        finish(&mut job);
    }
    job.check_complete();
}

/// Ends the input at another parallelism, so that a sink that keeps output over checkpoints shows it.
fn finish<S: Sink<Record = u64>>(job: &mut Job<S>) {
    job.start(1).unwrap();
    job.write_all(8);
    job.end_input();
    let checkpoint = job.checkpoint();
    job.complete(checkpoint);
    job.settle().unwrap();
}

fn late_and_duplicate_notices_change_nothing<S: Sink<Record = u64>>(world: World<S>) {
    let mut job = Job::started(world, 2);
    let mut checkpoints = Vec::new();
    for _ in 0..3 {
        job.write_all(12);
        let checkpoint = job.checkpoint();
        job.complete(checkpoint);
        job.settle().unwrap();
        checkpoints.push(checkpoint);
    }
    job.write_all(12);
    let uncompleted = job.checkpoint();
    let before = job.world.visible();
    for checkpoint in [&checkpoints[..], &checkpoints[1..2], &checkpoints[..]].concat() {
        job.notify(checkpoint, |_| true).unwrap();
        job.settle().unwrap();
        assert_eq!(job.world.visible(), before);
    }
    job.complete(uncompleted);
    job.settle().unwrap();
    job.check();
    assert!(job.world.visible().len() > before.len());
}

fn crash_before_the_notice_commits_on_restore<S: Sink<Record = u64>>(world: World<S>) {
    let mut job = Job::started(world, 3);
    // The manifest lists output of earlier checkpoints too, that did not complete or without a notice.
    for _ in 0..2 {
        job.write_all(30);
        let unheard = job.checkpoint();
        job.abort(unheard);
    }
    job.write_all(30);
    let checkpoint = job.checkpoint();
    job.publish(checkpoint);
    job.start(3).unwrap();
    job.settle().unwrap();
    job.check();
    assert!(job.world.visible().len() > 75, "{:?}", job.world.visible());
    // Again, from the same checkpoint: all of that is committed already.
    let before = job.world.visible();
    job.start(3).unwrap();
    job.settle().unwrap();
    assert_eq!(job.world.visible(), before);
    finish(&mut job);
    job.check_complete();
}

fn nothing_uncheckpointed_ever_appears<S: Sink<Record = u64>>(world: World<S>) {
    let mut job = Job::started(world, 2);
    for _ in 0..40 {
        job.write_all(50);
        job.tick().unwrap();
        assert!(job.world.visible().is_empty());
    }
    let checkpoint = job.checkpoint();
    job.settle().unwrap();
    assert!(job.world.visible().is_empty());
    job.abort(checkpoint);
    job.crash();
    assert!(job.world.visible().is_empty());
}

fn prepared_output_survives_close<S: Sink<Record = u64>>(world: World<S>) {
    let mut job = Job::started(world, 2);
    job.write_all(30);
    let checkpoint = job.checkpoint();
    let prepared = job.world.prepared();
    job.publish(checkpoint);
    job.crash();
    assert_eq!(job.world.prepared(), prepared, "closing touched prepared output");
    job.start(2).unwrap();
    finish(&mut job);
    job.check_complete();
}

fn prepared_output_absent_from_state_is_gone_after_a_start<S: Sink<Record = u64>>(world: World<S>) {
    let mut job = Job::started(world, 3);
    job.write_all(30);
    let lost = job.checkpoint();
    job.write_all(30);
    job.abort(lost);
    job.start(3).unwrap();
    assert_eq!(job.world.prepared(), 0);
    job.settle().unwrap();
    assert!(job.world.visible().is_empty());
    job.write_all(30);
    let checkpoint = job.checkpoint();
    job.complete(checkpoint);
    job.settle().unwrap();
    finish(&mut job);
    job.check_complete();
}

fn empty_checkpoints_are_fine<S: Sink<Record = u64>>(world: World<S>) {
    let mut job = Job::started(world, 2);
    for round in 0..3 {
        for _ in 0..3 {
            let checkpoint = job.checkpoint();
            job.complete(checkpoint);
            job.settle().unwrap();
        }
        assert_eq!(job.world.prepared(), 0);
        job.start(2 + round % 2).unwrap();
    }
    assert!(job.world.visible().is_empty());
    // With output from one subtask alone.
    job.write(0).unwrap();
    let checkpoint = job.checkpoint();
    job.complete(checkpoint);
    job.settle().unwrap();
    finish(&mut job);
    job.check_complete();
}

fn output_of_subtasks_that_no_longer_exist_is_committed_or_cleared_away<S: Sink<Record = u64>>(
    world: World<S>,
) {
    let mut job = Job::started(world, 7);
    for parallelism in [2, 5, 1, 4, 3] {
        job.write_all(40);
        let listed = job.checkpoint();
        job.publish(listed);
        job.write_all(40);
        // Prepared, and listed by no completed checkpoint.
        job.checkpoint();
        job.start(parallelism).unwrap();
        job.settle().unwrap();
        job.check();
        // What the restored stages have inherited is listed again before it is committed, and then restored elsewhere.
        let again = job.checkpoint();
        job.publish(again);
    }
    finish(&mut job);
    job.check_complete();
    job.start(1).unwrap();
    assert!(
        job.world.prepared() <= 1,
        "only the open file of subtask 0 may be left: {}",
        job.world.prepared()
    );
}

#[test]
fn fresh_starts_never_take_another_runs_output_for_their_own() {
    fn holds<S: Sink<Record = u64>>(world: World<S>) {
        let mut job = Job::started(world, 1);
        for _ in 0..5 {
            job.write_all(20);
            let checkpoint = job.checkpoint();
            job.complete(checkpoint);
            job.settle().unwrap();
        }
        let first = job.world.visible().len();
        // The same job in the same outside world, with an empty checkpoint directory: all its ids begin anew.
        let mut job = Job::started(job.world, 1);
        job.write_all(20);
        let checkpoint = job.checkpoint();
        job.complete(checkpoint);
        job.settle().unwrap();
        let added = job.world.visible().len() - first;
        assert!((9..=20).contains(&added), "{added} of 20 records appeared");
    }
    holds(two_phase(&Bank::new(), Calls::Worker));
    holds(write_ahead(&Bank::new(), Calls::Worker));
    holds(files());
}

#[test]
fn an_error_while_preparing_surfaces_at_the_snapshot_and_loses_nothing() {
    for calls in [Calls::Worker, Calls::HelperThread] {
        for call in [Call::Begin, Call::Write, Call::PreCommit] {
            for failing in [Failing::Refused, Failing::AnswerLost] {
                let bank = Bank::new();
                let mut job = Job::started(two_phase(&bank, calls), 2);
                bank.fail(call, 1, 1, failing);
                job.write_all(10);
                let error = job.snapshot(|_| true).unwrap_err();
                assert!(!error.fatal && error.operator == "sink", "{error:?}");
                assert!(error.message.contains("bank"), "{error:?}");
                assert_eq!(bank.failed(), 1);
                job.start(2).unwrap();
                assert_eq!(bank.prepared(), 0);
                job.write_all(10);
                let checkpoint = job.checkpoint();
                job.complete(checkpoint);
                job.settle().unwrap();
                job.check_complete();
            }
        }
    }
}

#[test]
fn a_commit_that_fails_is_tried_again_and_one_whose_answer_was_lost_is_not_doubled() {
    fn holds<S: Sink<Record = u64>>(bank: &Bank, world: World<S>, failed: u64) {
        let mut job = Job::started(world, 2);
        job.write_all(10);
        let checkpoint = job.checkpoint();
        bank.fail(Call::Commit, 0, 3, Failing::Refused);
        bank.fail(Call::Commit, 0, 3, Failing::AnswerLost);
        job.complete(checkpoint);
        job.settle().unwrap();
        assert_eq!(bank.failed(), failed);
        job.check_complete();
    }
    for calls in [Calls::Worker, Calls::HelperThread] {
        let bank = Bank::new();
        holds(&bank, two_phase(&bank, calls), 6);
        // Its marker tells each subtask after one lost answer that it is done.
        let bank = Bank::new();
        holds(&bank, write_ahead(&bank, calls), 5);
    }
}

#[test]
fn commits_that_fail_for_good_fail_the_attempt_and_the_next_one_commits() {
    fn holds<S: Sink<Record = u64>>(bank: &Bank, world: World<S>) {
        let mut job = Job::started(world, 1);
        job.write_all(10);
        let checkpoint = job.checkpoint();
        bank.fail(Call::Commit, 0, 11, Failing::Refused);
        job.publish(checkpoint);
        let failed = job.notify(checkpoint, |_| true).and_then(|()| job.settle()).unwrap_err();
        assert!(!failed.fatal && failed.message.contains("failed 11 times"), "{failed:?}");
        job.start(1).unwrap();
        job.settle().unwrap();
        job.check_complete();
    }
    for calls in [Calls::Worker, Calls::HelperThread] {
        let bank = Bank::new();
        holds(&bank, two_phase(&bank, calls));
        let bank = Bank::new();
        holds(&bank, write_ahead(&bank, calls));
    }
}

#[test]
fn output_that_the_outside_system_has_lost_stops_the_job() {
    fn holds<S: Sink<Record = u64>>(bank: &Bank, world: World<S>) {
        let mut job = Job::started(world, 1);
        job.write_all(10);
        let checkpoint = job.checkpoint();
        bank.fail(Call::Commit, 0, 1, Failing::Forgotten);
        job.publish(checkpoint);
        let failed = job.notify(checkpoint, |_| true).and_then(|()| job.settle()).unwrap_err();
        assert!(failed.fatal && failed.message.contains("is lost"), "{failed:?}");
        assert!(failed.message.contains("checkpoint 1"), "{failed:?}");
    }
    for calls in [Calls::Worker, Calls::HelperThread] {
        let bank = Bank::new();
        holds(&bank, two_phase(&bank, calls));
        let bank = Bank::new();
        holds(&bank, write_ahead(&bank, calls));
    }
}

#[test]
fn a_failed_roll_back_or_listing_fails_the_start_and_the_next_one_clears_up() {
    for call in [Call::Open, Call::List, Call::Rollback] {
        let bank = Bank::new();
        let mut job = Job::started(two_phase(&bank, Calls::Worker), 2);
        job.write_all(10);
        job.checkpoint();
        bank.fail(call, 0, 1, Failing::Refused);
        let error = job.start(2).unwrap_err();
        assert!(!error.fatal && error.message.contains("bank"), "{error:?}");
        job.start(2).unwrap();
        assert_eq!((bank.prepared(), bank.rollbacks()), (0, 2));
    }
}

#[test]
fn a_start_rolls_back_its_own_transactions_only() {
    let bank = Bank::new();
    let mut job = Job::started(two_phase(&bank, Calls::Worker), 1);
    job.write_all(3);
    job.checkpoint();
    // Another operator's, in the same bank.
    let ids = ["job/sink2/0/1/00/1", "another/sink/0/1/00/1", "job/sink/0/nonsense"];
    {
        use thalweg::connector::TwoPhaseCommitSink;
        assert_eq!(bank.clone().list_prepared("job/sink/").unwrap().len(), 1);
    }
    ids.iter().for_each(|id| bank.leave_prepared(id));
    job.start(1).unwrap();
    assert_eq!(bank.prepared(), ids.len());
}

#[test]
fn an_epoch_larger_than_the_bound_is_an_error_that_says_so() {
    let bank = Bank::new();
    let mut world = write_ahead(&bank, Calls::Worker);
    world.sink = WriteAheadSink::new(bank.clone()).calls(Calls::Worker).bytes_max(100);
    let mut job = Job::started(world, 1);
    job.write_all(12);
    let error = job.write(0).unwrap_err();
    assert!(
        !error.fatal && error.message.contains("100 bytes") && error.message.contains("bytes_max"),
        "{error:?}"
    );
    job.start(1).unwrap();
    for _ in 0..20 {
        job.write_all(8);
        let checkpoint = job.checkpoint();
        job.complete(checkpoint);
        job.settle().unwrap();
    }
    job.check_complete();
    // Output of checkpoints that never complete counts, too.
    let error = (0..20).find_map(|_| {
        let written = (0..4).try_for_each(|_| job.write(0));
        written.and_then(|()| job.snapshot(|_| true).map(|_| ())).err()
    });
    assert!(error.is_some_and(|error| error.message.contains("did not complete")));
}

#[test]
fn a_write_ahead_sink_whose_commits_lag_takes_no_more_than_its_bound() {
    let bank = Bank::new();
    let mut world = write_ahead(&bank, Calls::Worker);
    world.sink = world.sink.bytes_max(200);
    let mut job = Job::started(world, 1);
    job.write_all(20);
    let checkpoint = job.checkpoint();
    bank.fail(Call::Commit, 0, 4, Failing::Refused);
    job.complete(checkpoint);
    assert!(job.world.visible().is_empty());
    // The first record that does not fit waits for the commit, which is being tried again.
    job.write_all(20);
    assert_eq!((job.world.visible().len(), bank.failed()), (20, 4));
}

#[test]
fn an_outside_world_that_is_ahead_of_the_checkpoint_is_refused_unless_a_rewind_is_wanted() {
    let bank = Bank::new();
    let mut job = Job::started(write_ahead(&bank, Calls::Worker), 1);
    job.write_all(10);
    let old = job.checkpoint();
    job.complete(old);
    job.settle().unwrap();
    let kept = job.keep();
    job.write_all(10);
    let newer = job.checkpoint();
    job.complete(newer);
    job.settle().unwrap();
    job.rewind(kept);
    let error = job.start(1).unwrap_err();
    assert!(error.fatal && error.message.contains("allow_rewind"), "{error:?}");
    job.world.sink = job.world.sink.clone().allow_rewind();
    job.start(1).unwrap();
    job.write_all(10);
    let checkpoint = job.checkpoint();
    job.complete(checkpoint);
    job.settle().unwrap();
    let mut visible = job.world.visible();
    visible.sort_unstable();
    let twice = (10..20).flat_map(|n| [n, n]);
    assert_eq!(visible, (0..10).chain(twice).collect::<Vec<_>>());
}

#[test]
fn committables_of_another_kind_of_sink_are_refused() {
    let bank = Bank::new();
    let mut job = Job::started(two_phase(&bank, Calls::Worker), 1);
    job.write_all(10);
    let checkpoint = job.checkpoint();
    job.publish(checkpoint);
    let mut other = Job::new(write_ahead(&bank, Calls::Worker));
    other.rewind(job.keep());
    let error = other.start(1).unwrap_err();
    assert!(error.fatal && error.message.contains("another kind of sink"), "{error:?}");
}

#[test]
fn a_panic_on_a_helper_thread_fails_the_attempt_only() {
    let bank = Bank::new();
    let mut job = Job::started(two_phase(&bank, Calls::HelperThread), 1);
    job.write_all(10);
    let checkpoint = job.checkpoint();
    bank.fail(Call::Commit, 0, 1, Failing::Panic);
    job.publish(checkpoint);
    let failed = job.notify(checkpoint, |_| true).and_then(|()| job.settle()).unwrap_err();
    assert!(!failed.fatal && failed.message.contains("panicked"), "{failed:?}");
    job.start(1).unwrap();
    job.settle().unwrap();
    job.check_complete();
}

/// The SplitMix64 generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// How often something happened in the runs of a property.
#[derive(Debug, Default)]
struct Tally {
    records: u64,
    snapshots: u64,
    partial: u64,
    aborts: u64,
    completions: u64,
    half_heard: u64,
    late: u64,
    crashes: u64,
    failures: u64,
    rescales: u64,
}

/// Things that may go wrong outside.
enum Outside {
    Bank(Bank),
    Nothing,
}

/// One random life of a job: nothing uncheckpointed is ever visible, and in the end everything is, once.
fn live<S: Sink<Record = u64>>(world: World<S>, outside: &Outside, seed: u64, tally: &mut Tally) {
    let mut random = Random(seed);
    let mut job = Job::started(world, 1 + random.below(4) as u32);
    for _ in 0..60 {
        let outcome = match random.below(20) {
            0..7 => {
                let count = 1 + random.below(12);
                tally.records += count;
                let parallelism = u64::from(job.parallelism());
                (0..count).try_for_each(|_| job.write(random.below(parallelism) as u32))
            }
            7..10 => {
                tally.snapshots += 1;
                job.snapshot(|_| true).map(|_| ())
            }
            10 => {
                tally.partial += 1;
                let some = random.next();
                job.snapshot(|subtask| some >> subtask & 1 == 1).map(|_| ())
            }
            11 => {
                let pending = job.pending();
                if !pending.is_empty() {
                    tally.aborts += 1;
                    job.abort(pending[random.below(pending.len() as u64) as usize]);
                }
                Ok(())
            }
            12..15 => match job.pending() {
                pending if pending.is_empty() => Ok(()),
                pending => {
                    let checkpoint = pending[random.below(pending.len() as u64) as usize];
                    tally.completions += 1;
                    job.publish(checkpoint);
                    // Some hear of it, and the rest perhaps after a crash only.
                    let some = if random.below(2) == 0 { u64::MAX } else { random.next() };
                    tally.half_heard += u64::from(some != u64::MAX);
                    job.notify(checkpoint, |subtask| some >> subtask & 1 == 1)
                }
            },
            15 => match job.completed() {
                [] => Ok(()),
                completed => {
                    tally.late += 1;
                    let checkpoint = completed[random.below(completed.len() as u64) as usize];
                    job.notify(checkpoint, |_| true)
                }
            },
            16..18 => job.tick(),
            18 => {
                tally.crashes += 1;
                job.crash();
                Ok(())
            }
            _ => {
                if let Outside::Bank(bank) = outside {
                    const CALLS: [Call; 8] = [
                        Call::Open,
                        Call::Begin,
                        Call::Write,
                        Call::PreCommit,
                        Call::Commit,
                        Call::List,
                        Call::Rollback,
                        Call::Marker,
                    ];
                    let call = CALLS[random.below(8) as usize];
                    let failing = [Failing::Refused, Failing::AnswerLost][random.below(2) as usize];
                    bank.fail(call, random.below(4), 1 + random.below(14), failing);
                }
                Ok(())
            }
        };
        if let Err(failure) = outcome {
            assert!(!failure.fatal, "{failure:?}");
            tally.failures += 1;
            job.crash();
        }
        job.check();
        for _ in 0..200 {
            if job.parallelism() > 0 {
                break;
            }
            let parallelism = 1 + random.below(4) as u32;
            tally.rescales += 1;
            if let Err(failure) = job.start(parallelism) {
                assert!(!failure.fatal, "{failure:?}");
                job.crash();
            }
            job.check();
        }
    }
    if let Outside::Bank(bank) = outside {
        bank.disarm();
    }
    job.start(1 + random.below(4) as u32).unwrap();
    job.settle().unwrap();
    job.check();
    finish(&mut job);
    job.check_complete();
}

fn try_seeds(seeds: u64, live: impl Fn(u64, &mut Tally)) {
    let mut tally = Tally::default();
    for seed in support::seeds(seeds) {
        let run = catch_unwind(AssertUnwindSafe(|| live(seed, &mut tally)));
        assert!(run.is_ok(), "replay with THALWEG_SEED={seed}");
    }
    println!("{tally:?}");
}

#[test]
fn prop_two_phase_commits_show_each_checkpointed_record_once() {
    try_seeds(2_000, |seed, tally| {
        let bank = Bank::new();
        live(two_phase(&bank, Calls::Worker), &Outside::Bank(bank), seed, tally);
    });
}

#[test]
fn prop_two_phase_commits_on_helper_threads_show_each_checkpointed_record_once() {
    try_seeds(100, |seed, tally| {
        let bank = Bank::new();
        live(two_phase(&bank, Calls::HelperThread), &Outside::Bank(bank), seed, tally);
    });
}

#[test]
fn prop_write_ahead_logs_show_each_checkpointed_record_once() {
    try_seeds(2_000, |seed, tally| {
        let bank = Bank::new();
        live(write_ahead(&bank, Calls::Worker), &Outside::Bank(bank), seed, tally);
    });
}

#[test]
fn prop_write_ahead_logs_on_helper_threads_show_each_checkpointed_record_once() {
    try_seeds(100, |seed, tally| {
        let bank = Bank::new();
        live(write_ahead(&bank, Calls::HelperThread), &Outside::Bank(bank), seed, tally);
    });
}

#[test]
fn prop_files_show_each_checkpointed_record_once() {
    try_seeds(1_000, |seed, tally| live(files(), &Outside::Nothing, seed, tally));
}

#[test]
fn prop_the_memory_sink_shows_each_checkpointed_record_once() {
    try_seeds(1_000, |seed, tally| live(memory(), &Outside::Nothing, seed, tally));
}

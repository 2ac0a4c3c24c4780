//! Tasks that read a source: blocked readers, readers that do not listen, malformed input, rates.

use super::super::SourceBody;
use super::super::source::Rate;
use super::*;
use crate::connector::{
    BoxError, MalformedPolicy, MalformedRecord, SourceOutput, SourceReader, SourceStatus,
};
use crate::operator::{Identity, Site};

/// Emits `total` numbers, `burst` in each poll whatever its output says; every third input is malformed.
struct Deaf {
    next: u64,
    total: u64,
    burst: u64,
    malformed: bool,
}

impl SourceReader for Deaf {
    type Record = u64;
    type Split = u64;

    fn poll<O: SourceOutput<u64>>(
        &mut self,
        _: Nanos,
        _: usize,
        output: &mut O,
    ) -> Result<SourceStatus, BoxError> {
        for _ in 0..self.burst {
            if self.next == self.total {
                return Ok(SourceStatus::End);
            }
            if self.malformed && self.next % 3 == 2 {
                let origin = String::new();
                output.malformed(MalformedRecord {
                    origin,
                    offset: self.next,
                    raw: Vec::new(),
                    error: "odd".into(),
                });
            } else {
                output.emit(self.next);
            }
            self.next += 1;
        }
        Ok(SourceStatus::More)
    }

    fn snapshot(&mut self, _: CheckpointId) -> Vec<u64> {
        vec![self.next]
    }
}

type SourceTask = SourceBody<Deaf, Output<u64>>;

fn source(reader: Deaf, policy: MalformedPolicy) -> (Harness<SourceTask>, Receiver<MalformedRecord>) {
    let world = World::new();
    let (output, receiver) = an_output(SMALL, false);
    let stage = Identity.bind(&mut world.bind(), output).unwrap();
    let (dead_letters, dead) = an_output(SMALL, false);
    let site = Site { uid: "source".into(), partition: 0 };
    let body = SourceBody::new(site, reader, policy, Some(dead_letters), None, stage);
    let task = world.task(body, Gate::new(Vec::new()));
    (Harness { world, task, senders: Vec::new(), receiver, announced: Vec::new() }, dead)
}

#[test]
fn records_of_a_reader_that_does_not_stop_are_neither_lost_nor_reordered() {
    let reader = Deaf { next: 0, total: 100, burst: 30, malformed: false };
    let (mut harness, _dead) = source(reader, MalformedPolicy::Fail);
    assert_eq!(harness.receive_all(), (0..100).collect::<Vec<_>>());
    assert_eq!(harness.announced.last().map(|a| a.mark), Some(Mark::EndOfStream));
}

#[test]
fn a_snapshot_of_a_blocked_source_holds_its_position_and_what_it_has_emitted() {
    let reader = Deaf { next: 0, total: 100, burst: 30, malformed: false };
    let (mut harness, _dead) = source(reader, MalformedPolicy::Fail);
    harness.settle();
    harness.trigger(1, CheckpointMode::Unaligned);
    harness.settle();
    let sent = harness.receive_batch();
    let (_, snapshot) = harness.world.take_acknowledged().pop().unwrap();
    assert_eq!(snapshot.operators[0].2.operator_state[0].bytes, {
        use thalweg_storage::Data;
        let mut position = Vec::new();
        30_u64.encode(&mut position);
        position
    });
    let all: Vec<u64> = sent.into_iter().chain(in_flight(&snapshot)).collect();
    assert_eq!(all, (0..30).collect::<Vec<_>>());
}

#[test]
fn dead_letters_stop_the_source_while_nobody_reads_them() {
    let reader = Deaf { next: 0, total: 300, burst: 3, malformed: true };
    let (mut harness, mut dead) = source(reader, MalformedPolicy::Divert);
    let good = harness.receive_all();
    assert!(good.len() < 30, "{} records passed while dead letters waited", good.len());
    let mut letters = 0;
    let mut rest = good.len();
    for _ in 0..1000 {
        dead.look(|_| {});
        while dead.taken() < dead.visible() {
            dead.take();
            letters += std::iter::from_fn(|| dead.current().take()).count();
            dead.give_back();
        }
        rest += harness.receive_all().len();
    }
    assert_eq!((rest, letters), (200, 100));
}

#[test]
fn malformed_input_uses_up_the_budget_and_is_counted_apart() {
    let reader = Deaf { next: 0, total: 9, burst: 9, malformed: true };
    let (mut harness, _dead) = source(reader, MalformedPolicy::Skip);
    assert_eq!(harness.receive_all(), [0, 1, 3, 4, 6, 7]);
    assert_eq!(harness.task.body().records_in(), 6);
    assert_eq!(harness.task.body().records_skipped(), 3);
}

#[test]
fn a_malformed_record_fails_the_task_and_what_follows_is_not_processed() {
    let reader = Deaf { next: 0, total: 9, burst: 9, malformed: true };
    let (mut harness, _dead) = source(reader, MalformedPolicy::Fail);
    let failure = harness.task.poll(Nanos(0), Budget { records: 100, nanos: 1000 }).unwrap_err();
    assert!(failure.message.contains("offset 2"), "{}", failure.message);
    let mut passed = Vec::new();
    loop {
        let batch = harness.receive_batch();
        if batch.is_empty() {
            break;
        }
        passed.extend(batch);
    }
    assert!(passed.iter().all(|record| *record < 2), "{passed:?}");
}

/// Runs a limiter for `seconds` as a task does, and counts.
fn records_in(seconds: f64, rate: f64) -> f64 {
    let mut limiter = Rate::new(rate);
    let (mut now, end, mut records, mut polls) = (Nanos(0), (seconds * 1e9) as u64, 0.0, 0);
    while now.0 <= end && polls < 10_000_000 {
        polls += 1;
        let allowed = limiter.allowed(now).min(8192);
        if allowed == 0 {
            let next = limiter.next(now);
            assert!(next > now, "a limiter that wakes its task at once spins");
            now = next;
        } else {
            limiter.spend(allowed);
            records += allowed as f64;
            now = Nanos(now.0 + allowed as u64 / 10);
        }
    }
    records
}

#[test]
fn rates_from_one_in_a_thousand_seconds_to_beyond_a_billion_are_kept() {
    assert_eq!(records_in(3500.0, 0.001), 3.0);
    assert_eq!(records_in(10.5, 1.0), 10.0);
    for (seconds, rate) in [(10.0, 7.3), (2.0, 1000.0), (1.0, 1e6), (0.01, 3e9)] {
        let (got, wanted) = (records_in(seconds, rate), seconds * rate);
        // What has gathered at the end may be as much as a task waits for at once.
        let gathered = rate / 800.0;
        assert!(
            (got - wanted).abs() <= wanted * 0.02 + 2.0 + gathered,
            "{got} instead of {wanted} at {rate}/s"
        );
    }
}

#[test]
fn the_smallest_rate_there_is_never_overflows() {
    let mut limiter = Rate::new(f64::MIN_POSITIVE);
    assert_eq!(limiter.allowed(Nanos(0)), 0);
    assert_eq!(limiter.next(Nanos(5)), Nanos(u64::MAX));
    assert_eq!(limiter.allowed(Nanos(u64::MAX)), 0);
}

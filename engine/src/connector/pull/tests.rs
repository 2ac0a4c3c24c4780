//! Claims about pull sinks and egress handles.

use super::*;
use crate::connector::testing::{Wakes, context};
use std::thread;

fn writer(sink: &PullSink<u64>) -> PullWriter<u64> {
    sink.writer(context(0, 1), Vec::new(), Vec::new()).unwrap()
}

fn committable(checkpoint: u64, attempt: u64, bytes: Vec<u8>) -> Committable {
    Committable { checkpoint: CheckpointId(checkpoint), subtask: 0, attempt: AttemptId(attempt), bytes }
}

fn prepare(writer: &mut PullWriter<u64>, checkpoint: u64, records: std::ops::Range<u64>) -> Committable {
    for record in records {
        writer.write(Nanos(0), record).unwrap();
    }
    let prepared = writer.prepare(CheckpointId(checkpoint), false).unwrap();
    committable(checkpoint, 1, prepared.committables[0].clone())
}

fn received(egress: &Egress<u64>) -> Vec<u64> {
    std::iter::from_fn(|| egress.try_recv().ok()).collect()
}

#[test]
fn records_come_in_order_and_the_end_of_the_job_closes_the_channel() {
    let (egress, sink) = PullSink::channel(4);
    let mut sending = writer(&sink);
    let host = thread::spawn(move || std::iter::from_fn(|| egress.recv()).collect::<Vec<u64>>());
    for record in 0..1_000 {
        let mut room = sending.write(Nanos(0), record).unwrap();
        while !room {
            thread::yield_now();
            room = sending.poll(Nanos(0)).unwrap();
        }
    }
    drop((sending, sink));
    assert_eq!(host.join().unwrap(), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn a_full_channel_refuses_more_until_the_host_pulls_and_then_wakes_the_writer() {
    let (egress, sink) = PullSink::<u64>::channel(2);
    let wakes = Arc::new(Wakes::default());
    let mut with_wakes = context(0, 1);
    with_wakes.waker = wakes.clone();
    let mut sending = sink.writer(with_wakes, Vec::new(), Vec::new()).unwrap();
    assert!(sending.write(Nanos(0), 0).unwrap());
    assert!(!sending.write(Nanos(0), 1).unwrap());
    assert!(!sending.poll(Nanos(0)).unwrap());
    assert_eq!(egress.try_recv(), Ok(0));
    assert!(wakes.count() > 0);
    assert!(sending.poll(Nanos(0)).unwrap());
    assert_eq!(egress.try_recv(), Ok(1));
    assert_eq!(egress.try_recv(), Err(PullError::Empty));
}

#[test]
fn a_dropped_egress_fails_the_job() {
    let (egress, sink) = PullSink::channel(1);
    let mut sending = writer(&sink);
    drop(egress);
    assert!(sending.write(Nanos(0), 0).unwrap_err().to_string().contains("egress"));
}

#[test]
fn committed_mode_shows_nothing_before_the_commit_and_each_record_once() {
    let (egress, sink) = PullSink::committed_channel(10);
    let mut first = writer(&sink);
    let one = prepare(&mut first, 1, 0..3);
    assert!(received(&egress).is_empty());
    first.commit(vec![one.clone()]).unwrap();
    first.commit(vec![one.clone()]).unwrap();
    assert!(first.committed());
    let two = prepare(&mut first, 2, 3..5);
    drop(first);
    let mut second = sink.writer(context(0, 1), Vec::new(), vec![one.clone(), two.clone()]).unwrap();
    second.commit(vec![one, two]).unwrap();
    assert_eq!(received(&egress), [0, 1, 2, 3, 4]);
}

#[test]
fn a_commit_larger_than_the_channel_continues_after_a_restart_where_it_stopped() {
    let (egress, sink) = PullSink::committed_channel(2);
    let mut first = writer(&sink);
    let one = prepare(&mut first, 1, 0..5);
    first.commit(vec![one.clone()]).unwrap();
    assert!(!first.committed());
    drop(first);
    let mut second = sink.writer(context(0, 1), Vec::new(), vec![one]).unwrap();
    let mut all = received(&egress);
    while !second.committed() {
        second.poll(Nanos(0)).unwrap();
        all.extend(received(&egress));
    }
    assert_eq!(all, [0, 1, 2, 3, 4]);
}

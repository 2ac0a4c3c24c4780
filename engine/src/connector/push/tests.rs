//! Claims about push sources and ingress handles.

use super::*;
use crate::connector::testing::{Output, Wakes, context};
use std::thread;

fn reader_at(source: &PushSource<u64>, position: u64) -> PushReader<u64> {
    source.reader(context(0, 1), vec![PushSplit { position }]).unwrap()
}

fn poll_until_idle(reader: &mut PushReader<u64>, output: &mut Output<u64>) -> SourceStatus {
    loop {
        let status = reader.poll(Nanos(0), 100, output).unwrap();
        if status != SourceStatus::More {
            return status;
        }
    }
}

#[test]
fn pushed_records_come_out_in_order_and_close_ends_the_source() {
    let (ingress, source) = PushSource::channel(10);
    let mut reader = reader_at(&source, 0);
    let mut output = Output::default();
    for record in 0..5 {
        ingress.push(record).unwrap();
    }
    assert_eq!(poll_until_idle(&mut reader, &mut output), SourceStatus::Idle(None));
    ingress.push(5).unwrap();
    ingress.close();
    assert!(matches!(ingress.push(6), Err(PushError::Closed(6))));
    assert_eq!(poll_until_idle(&mut reader, &mut output), SourceStatus::End);
    assert_eq!(output.records, [0, 1, 2, 3, 4, 5]);
    assert!(reader.snapshot(CheckpointId(1)).is_empty());
}

#[test]
fn dropping_the_last_ingress_ends_the_source() {
    let (ingress, source) = PushSource::<u64>::channel(10);
    let mut reader = reader_at(&source, 0);
    let second = ingress.clone();
    drop(ingress);
    assert_eq!(reader.poll(Nanos(0), 1, &mut Output::default()).unwrap(), SourceStatus::Idle(None));
    drop(second);
    assert_eq!(reader.poll(Nanos(0), 1, &mut Output::default()).unwrap(), SourceStatus::End);
}

#[test]
fn a_full_channel_refuses_try_push_and_blocks_push_until_the_reader_makes_room() {
    let (ingress, source) = PushSource::channel(2);
    let mut reader = reader_at(&source, 0);
    ingress.try_push(0).unwrap();
    ingress.try_push(1).unwrap();
    assert!(matches!(ingress.try_push(2), Err(PushError::Full(2))));
    let pusher = thread::spawn(move || (2..1_000).for_each(|record| ingress.push(record).unwrap()));
    let mut output = Output::default();
    while reader.poll(Nanos(0), 10, &mut output).unwrap() != SourceStatus::End {
        thread::yield_now();
    }
    pusher.join().unwrap();
    assert_eq!(output.records, (0..1_000).collect::<Vec<_>>());
}

#[test]
fn a_push_wakes_an_idle_reader_once_and_a_busy_one_never() {
    let (ingress, source) = PushSource::channel(10);
    let wakes = Arc::new(Wakes::default());
    let mut with_wakes = context(0, 1);
    with_wakes.waker = wakes.clone();
    let mut reader = source.reader(with_wakes, vec![PushSplit { position: 0 }]).unwrap();
    ingress.push(0).unwrap();
    assert_eq!(wakes.count(), 0);
    poll_until_idle(&mut reader, &mut Output::default());
    ingress.push(1).unwrap();
    ingress.push(2).unwrap();
    assert_eq!(wakes.count(), 1);
}

#[test]
fn a_push_fails_once_the_job_is_gone() {
    let (ingress, source) = PushSource::channel(1);
    ingress.push(0_u64).unwrap();
    let blocked = thread::spawn(move || ingress.push(1));
    drop(source);
    assert!(matches!(blocked.join().unwrap(), Err(PushError::Closed(1))));
}

#[test]
fn a_subtask_without_the_split_ends_at_once() {
    let (_ingress, source) = PushSource::<u64>::channel(1);
    assert_eq!(source.splits(&context(0, 1).disk, 4).unwrap().len(), 1);
    let mut reader = source.reader(context(1, 4), Vec::new()).unwrap();
    assert_eq!(reader.poll(Nanos(0), 1, &mut Output::default()).unwrap(), SourceStatus::End);
}

#[test]
fn the_host_hears_of_a_completed_checkpoint_and_not_of_an_aborted_one() {
    let (ingress, source) = PushSource::channel(10);
    let mut reader = reader_at(&source, 0);
    let mut output = Output::default();
    let mut push_and_snapshot = |id: u64, reader: &mut PushReader<u64>| {
        ingress.push(id).unwrap();
        poll_until_idle(reader, &mut output);
        reader.snapshot(CheckpointId(id))
    };
    push_and_snapshot(1, &mut reader);
    push_and_snapshot(2, &mut reader);
    assert_eq!(push_and_snapshot(3, &mut reader), [PushSplit { position: 3 }]);
    reader.checkpoint_complete(CheckpointId(2));
    assert_eq!(ingress.last_checkpointed(), 2);
    reader.checkpoint_complete(CheckpointId(3));
    assert_eq!(ingress.last_checkpointed(), 3);
}

#[test]
fn plain_pushes_stay_queued_over_a_restart() {
    let (ingress, source) = PushSource::channel(10);
    (0..5).for_each(|record| ingress.push(record).unwrap());
    let mut reader = reader_at(&source, 0);
    let mut output = Output::default();
    reader.poll(Nanos(0), 1, &mut output).unwrap();
    reader.poll(Nanos(0), 2, &mut output).unwrap();
    assert_eq!(output.records, [0, 1]);
    drop(reader);
    let mut second = reader_at(&source, 0);
    poll_until_idle(&mut second, &mut output);
    assert_eq!(output.records, [0, 1, 2, 3, 4], "records 0 and 1 are lost, the rest is not");
    assert_eq!(second.snapshot(CheckpointId(1)), [PushSplit { position: 3 }]);
}

#[test]
fn a_host_that_pushes_by_position_replays_exactly_what_a_restart_lost() {
    let (ingress, source) = PushSource::channel(10);
    let mut reader = reader_at(&source, 0);
    let mut output = Output::default();
    (0..4).for_each(|i| ingress.push_at(i, i).unwrap());
    poll_until_idle(&mut reader, &mut output);
    let splits = reader.snapshot(CheckpointId(1));
    reader.checkpoint_complete(CheckpointId(1));
    (4..8).for_each(|i| ingress.push_at(i, i).unwrap());
    reader.poll(Nanos(0), 1, &mut Output::default()).unwrap();
    drop(reader);
    let mut second = source.reader(context(0, 1), splits).unwrap();
    assert_eq!(ingress.resumed(), Some(Resumed { attempt: AttemptId(1), position: 4 }));
    let refused = ingress.push_at(8, 8).unwrap_err();
    let PushError::Rewound { next, record: 8 } = refused else { panic!("{refused:?}") };
    (next..9).for_each(|i| ingress.push_at(i, i).unwrap());
    poll_until_idle(&mut second, &mut output);
    assert_eq!(output.records, (0..9).collect::<Vec<_>>());
}

#[test]
fn a_positioned_push_waits_for_the_job_to_tell_its_position() {
    let (ingress, source) = PushSource::channel(10);
    let host = thread::spawn(move || ingress.push_at(0, 7));
    let _reader = reader_at(&source, 1_000);
    assert!(matches!(host.join().unwrap(), Err(PushError::Rewound { next: 1_000, record: 7 })));
}

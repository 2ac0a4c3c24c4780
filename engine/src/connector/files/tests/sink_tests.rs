//! Claims about the file sink: what is committed, once, after any kill.

use super::super::csv::append_row;
use super::super::*;
use crate::clock::Nanos;
use crate::connector::testing::{TestDisk, context_on};
use crate::connector::{BoxError, OutputLost, Sink, SinkWriter};
use proptest::prelude::*;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;
use thalweg_storage::io::Request;
use thalweg_storage::manifest::Committable;
use thalweg_storage::{AttemptId, CheckpointId};

pub(super) type Writer = FileWriter<Csv<(u64, u64)>>;

/// Rows of the reference run.
const ROWS: u64 = 60;

fn row(i: u64) -> (u64, u64) {
    (i, i * i)
}

pub(super) fn text(rows: std::ops::Range<u64>) -> String {
    rows.map(|i| format!("{i},{}\n", i * i)).collect()
}

fn sink(dir: &Path) -> FileSink<Csv<(u64, u64)>> {
    FileSink::csv(dir).roll_bytes(100)
}

pub(super) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What the outside world sees: all final files, in order.
pub(super) fn visible(dir: &Path) -> String {
    let shown = names(dir).into_iter().filter(|name| !name.starts_with('.'));
    shown.map(|name| fs::read_to_string(dir.join(name)).unwrap()).collect()
}

pub(super) fn hidden(dir: &Path) -> usize {
    names(dir).iter().filter(|name| name.starts_with('.')).count()
}

/// What the engine keeps of a completed checkpoint.
#[derive(Clone, Default)]
struct Manifest {
    states: Vec<FileSinkState>,
    committables: Vec<Committable>,
    /// Rows that the checkpoint covers.
    rows: u64,
    ended: bool,
}

/// One process's life: restores from the manifest, writes on, checkpoints every few rows, aborts every third
/// checkpoint, commits only sometimes before the next.
fn live(disk: &Arc<TestDisk>, dir: &Path, attempt: u64, manifest: &mut Manifest) -> Result<(), BoxError> {
    let sink = sink(dir);
    sink.check(&disk.handle())?;
    let context = context_on(disk, 0, 1, attempt);
    let mut writer = sink.writer(context, manifest.states.clone(), manifest.committables.clone())?;
    // The restored writer has committed these.
    let mut uncommitted = Vec::new();
    let mut next = manifest.rows;
    let mut checkpoint = attempt * 100;
    while !manifest.ended {
        let until = (next + 7).min(ROWS);
        while next < until {
            assert!(writer.write(Nanos(0), row(next))?, "this disk is always fast enough");
            next += 1;
        }
        checkpoint += 1;
        let end = next == ROWS;
        let prepared = writer.prepare(CheckpointId(checkpoint), end)?;
        uncommitted.extend(prepared.committables.into_iter().map(|bytes| Committable {
            checkpoint: CheckpointId(checkpoint),
            subtask: 0,
            attempt: AttemptId(attempt),
            bytes,
        }));
        while !writer.prepared(CheckpointId(checkpoint))? {}
        if checkpoint % 3 == 2 && !end {
            continue;
        }
        *manifest = Manifest {
            states: prepared.state.into_iter().collect(),
            committables: uncommitted.clone(),
            rows: next,
            ended: end,
        };
        if checkpoint.is_multiple_of(2) || end {
            commit(&mut writer, &uncommitted)?;
            uncommitted.clear();
        }
    }
    assert!(!writer.has_unprepared());
    Ok(())
}

pub(super) fn commit(writer: &mut Writer, committables: &[Committable]) -> Result<(), BoxError> {
    writer.commit(committables.to_vec())?;
    while !writer.committed() {
        writer.poll(Nanos(0))?;
    }
    Ok(())
}

/// Runs a process that is killed after some requests; true if it got to its end before.
fn run(dir: &Path, attempt: u64, manifest: &mut Manifest, killed_after: Option<usize>) -> bool {
    let disk = TestDisk::new();
    if let Some(requests) = killed_after {
        disk.stop_after(requests);
    }
    match live(&disk, dir, attempt, manifest) {
        Ok(()) => true,
        Err(error) => {
            assert!(disk.stopped(), "only the kill may fail the run: {error}");
            false
        }
    }
}

fn assert_only_checkpointed_rows_are_visible(dir: &Path, manifest: &Manifest) {
    let covered = text(0..manifest.rows);
    assert!(
        covered.starts_with(&visible(dir)),
        "{} rows are covered, visible is {}",
        manifest.rows,
        visible(dir)
    );
}

#[test]
fn crash_after_any_request_recovers_to_the_reference_output() {
    let mut kills = 0;
    for killed_after in 0.. {
        let dir = TempDir::new().unwrap();
        let mut manifest = Manifest::default();
        let finished = run(dir.path(), 1, &mut manifest, Some(killed_after));
        assert_only_checkpointed_rows_are_visible(dir.path(), &manifest);
        assert!(run(dir.path(), 2, &mut manifest, None));
        assert_eq!(visible(dir.path()), text(0..ROWS));
        assert_eq!(hidden(dir.path()), 0, "{:?}", names(dir.path()));
        if finished {
            break;
        }
        kills += 1;
    }
    assert!(kills > 60, "the run has only {kills} requests");
}

#[test]
fn crash_at_any_request_of_a_recovery_recovers_too() {
    for killed_after in (0..).step_by(5) {
        let mut finished = false;
        for again in 0..20 {
            let dir = TempDir::new().unwrap();
            let mut manifest = Manifest::default();
            finished = run(dir.path(), 1, &mut manifest, Some(killed_after));
            run(dir.path(), 2, &mut manifest, Some(again));
            assert_only_checkpointed_rows_are_visible(dir.path(), &manifest);
            assert!(run(dir.path(), 3, &mut manifest, None));
            assert_eq!(visible(dir.path()), text(0..ROWS));
            assert_eq!(hidden(dir.path()), 0, "{:?}", names(dir.path()));
        }
        if finished {
            break;
        }
    }
}

pub(super) fn write_rows(writer: &mut Writer, rows: std::ops::Range<u64>) {
    for i in rows {
        writer.write(Nanos(0), row(i)).unwrap();
    }
}

pub(super) fn prepare(
    writer: &mut Writer,
    checkpoint: u64,
    end: bool,
) -> (Option<FileSinkState>, Vec<Committable>) {
    let prepared = writer.prepare(CheckpointId(checkpoint), end).unwrap();
    while !writer.prepared(CheckpointId(checkpoint)).unwrap() {}
    let named = |(subtask, bytes)| Committable {
        checkpoint: CheckpointId(checkpoint),
        subtask,
        attempt: AttemptId(1),
        bytes,
    };
    let subtask = writer.subtask;
    let own = prepared.committables.into_iter().map(|bytes| (subtask, bytes));
    let inherited = writer.take_prepared().into_iter().map(|output| (output.subtask, output.bytes));
    (prepared.state, own.chain(inherited).map(named).collect())
}

pub(super) fn writer_on(disk: &Arc<TestDisk>, dir: &Path) -> Writer {
    FileSink::csv(dir).writer(context_on(disk, 0, 1, 1), Vec::new(), Vec::new()).unwrap()
}

#[test]
fn an_open_file_continues_over_checkpoints_and_restores() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let mut writer = writer_on(&disk, dir.path());
    assert!(prepare(&mut writer, 1, false).0.is_some_and(|state| state.in_progress.is_none()));
    let mut state = None;
    for checkpoint in 2..5_u64 {
        write_rows(&mut writer, checkpoint * 5 - 10..checkpoint * 5 - 5);
        let (next, committables) = prepare(&mut writer, checkpoint, false);
        assert!(committables.is_empty());
        state = next;
        // Rows behind the checkpoint are lost with this attempt.
        write_rows(&mut writer, 100..103);
        drop(writer);
        let context = context_on(&disk, 0, 1, checkpoint);
        writer = FileSink::csv(dir.path())
            .writer(context, state.clone().into_iter().collect(), Vec::new())
            .unwrap();
    }
    assert!(state.is_some_and(|state| state.next_sequence == 1));
    let (_, committables) = prepare(&mut writer, 9, true);
    commit(&mut writer, &committables).unwrap();
    assert_eq!(names(dir.path()), ["part-00000-000000.csv"]);
    assert_eq!(visible(dir.path()), text(0..15));
}

#[test]
fn late_and_duplicate_commits_change_nothing() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let mut writer = writer_on(&disk, dir.path());
    write_rows(&mut writer, 0..10);
    let (state, committables) = prepare(&mut writer, 1, true);
    assert_eq!(visible(dir.path()), "");
    for _ in 0..3 {
        commit(&mut writer, &committables).unwrap();
        assert_eq!(visible(dir.path()), text(0..10));
    }
    drop(writer);
    let restored = state.into_iter().collect();
    FileSink::csv::<(u64, u64)>(dir.path())
        .writer(context_on(&disk, 0, 1, 2), restored, committables)
        .unwrap();
    assert_eq!(visible(dir.path()), text(0..10));
}

#[test]
fn lost_output_stops_the_job_and_names_the_file() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let mut writer = writer_on(&disk, dir.path());
    write_rows(&mut writer, 0..10);
    let (open, _) = prepare(&mut writer, 1, false);
    let in_progress = dir.path().join(&names(dir.path())[0]);
    fs::OpenOptions::new().write(true).open(&in_progress).unwrap().set_len(3).unwrap();
    let error = FileSink::csv::<(u64, u64)>(dir.path())
        .writer(context_on(&disk, 0, 1, 2), open.into_iter().collect(), Vec::new())
        .err()
        .unwrap();
    assert!(error.is::<OutputLost>() && error.to_string().contains("part-00000-000000.csv"), "{error}");

    let (_, committables) = prepare(&mut writer, 2, true);
    for name in names(dir.path()) {
        fs::remove_file(dir.path().join(name)).unwrap();
    }
    let error = commit(&mut writer, &committables).unwrap_err();
    assert!(error.is::<OutputLost>() && error.to_string().contains("part-00000-000000.csv"), "{error}");
}

#[test]
fn recovery_removes_its_own_leftovers_only() {
    let dir = TempDir::new().unwrap();
    let keep = [
        ".part-00001-000000.csv.1.inprogress",
        ".part-00000-000000.txt.1.inprogress",
        ".part-0-0.csv.1.pending",
        "notes.txt",
        "part-00000-000004.csv",
    ];
    let own = [".part-00000-000007.csv.1.inprogress", ".part-00002-000001.csv.3.pending"];
    for name in keep.iter().chain(&own) {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    let disk = TestDisk::new();
    let sink = FileSink::csv(dir.path()).roll_interval(Duration::ZERO);
    let mut writer: Writer = sink.writer(context_on(&disk, 0, 2, 4), Vec::new(), Vec::new()).unwrap();
    let mut left = keep.map(str::to_owned);
    left.sort();
    assert_eq!(names(dir.path()), left);
    write_rows(&mut writer, 0..1);
    let (_, committables) = prepare(&mut writer, 1, false);
    commit(&mut writer, &committables).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("part-00000-000005.csv")).unwrap(), text(0..1));
    assert_eq!(fs::read_to_string(dir.path().join("part-00000-000004.csv")).unwrap(), "x");
}

#[test]
fn a_writer_that_inherits_other_subtasks_states_finishes_their_files() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let sink = FileSink::csv(dir.path());
    let mut states = Vec::new();
    for subtask in 0..2_u64 {
        let context = context_on(&disk, subtask as u32, 2, 1);
        let mut writer: Writer = sink.writer(context, Vec::new(), Vec::new()).unwrap();
        write_rows(&mut writer, subtask * 5..subtask * 5 + 5);
        states.extend(prepare(&mut writer, 1, false).0);
        write_rows(&mut writer, 50..52);
    }
    let mut writer: Writer = sink.writer(context_on(&disk, 0, 1, 2), states, Vec::new()).unwrap();
    write_rows(&mut writer, 10..12);
    let (_, committables) = prepare(&mut writer, 2, true);
    commit(&mut writer, &committables).unwrap();
    assert_eq!(names(dir.path()), ["part-00000-000000.csv", "part-00001-000000.csv"]);
    assert_eq!(visible(dir.path()), [text(0..5), text(10..12), text(5..10)].concat());
}

#[test]
fn writes_of_a_dropped_writer_never_reach_the_file_as_restored() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let sink = FileSink::csv(dir.path());
    let mut writer: Writer = sink.writer(context_on(&disk, 0, 1, 1), Vec::new(), Vec::new()).unwrap();
    write_rows(&mut writer, 0..5);
    let (state, _) = prepare(&mut writer, 1, false);
    disk.hold(true);
    write_rows(&mut writer, 500..900);
    writer.prepare(CheckpointId(2), false).unwrap();
    assert!(disk.held() > 0);
    drop(writer);
    disk.hold(false);
    let restoring = {
        let (sink, context) = (sink.clone(), context_on(&disk, 0, 1, 2));
        thread::spawn(move || sink.writer(context, state.into_iter().collect(), Vec::new()).unwrap())
    };
    while !restoring.is_finished() {
        disk.release(0);
        thread::yield_now();
    }
    let mut writer: Writer = restoring.join().unwrap();
    write_rows(&mut writer, 5..8);
    let (_, committables) = prepare(&mut writer, 3, true);
    commit(&mut writer, &committables).unwrap();
    assert_eq!(visible(dir.path()), text(0..8));
}

#[test]
fn a_slow_disk_pushes_back_and_an_unsynced_checkpoint_is_not_prepared() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let mut writer = writer_on(&disk, dir.path());
    disk.hold(true);
    let mut rows = 0;
    while writer.write(Nanos(0), row(rows)).unwrap() {
        rows += 1;
    }
    rows += 1;
    assert!((100_000..400_000).contains(&rows), "{rows} rows are a few buffers");
    assert!(!writer.poll(Nanos(0)).unwrap());
    let prepared = writer.prepare(CheckpointId(1), false).unwrap();
    let bytes = prepared.state.unwrap().in_progress.unwrap().bytes;
    let mut releases = 0;
    while !writer.prepared(CheckpointId(1)).unwrap() {
        assert!(disk.held() > 0, "what is not prepared waits for the disk");
        disk.release(releases * 7);
        releases += 1;
    }
    assert!(releases >= 7, "open, directory sync, writes, sync: {releases}");
    assert!(writer.poll(Nanos(0)).unwrap());
    let on_disk = fs::read_to_string(dir.path().join(&names(dir.path())[0])).unwrap();
    assert_eq!(on_disk.len() as u64, bytes);
    assert_eq!(on_disk, text(0..rows));
}

#[test]
fn a_checkpoint_waits_for_a_file_that_was_listed_for_one_that_failed() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let mut writer = writer_on(&disk, dir.path());
    write_rows(&mut writer, 0..5);
    disk.hold(true);
    // The first checkpoint rolls the file and lists it, and fails before its bytes are durable.
    let first = writer.prepare(CheckpointId(1), true).unwrap();
    assert_eq!(first.committables.len(), 1);
    assert!(!writer.prepared(CheckpointId(1)).unwrap());
    let second = writer.prepare(CheckpointId(2), true).unwrap();
    assert_eq!(second.committables.len(), 0, "it is listed already");
    while !writer.prepared(CheckpointId(2)).unwrap() {
        assert!(disk.held() > 0, "what is not prepared waits for the disk");
        disk.release(0);
    }
    let pending: Vec<_> = names(dir.path()).into_iter().filter(|name| name.ends_with(".pending")).collect();
    assert_eq!(pending.len(), 1, "the file that the second manifest lists is finished");
    assert_eq!(fs::read_to_string(dir.path().join(&pending[0])).unwrap(), text(0..5));
}

#[test]
fn a_failed_write_or_sync_surfaces_at_the_checkpoint() {
    type Case = (fn(&Request) -> bool, bool);
    // With whether it is final.
    let cases: [Case; 3] = [
        (|request| matches!(request, Request::Write { .. }), false),
        (|request| matches!(request, Request::SyncData { .. }), false),
        (|request| matches!(request, Request::SyncDir { .. }), true),
    ];
    for (which, is_final) in cases {
        let dir = TempDir::new().unwrap();
        let disk = TestDisk::new();
        let mut writer = writer_on(&disk, dir.path());
        disk.fail(which, io::ErrorKind::StorageFull);
        write_rows(&mut writer, 0..5);
        let failed = writer.prepare(CheckpointId(1), false).and_then(|_| {
            for _ in 0..10 {
                assert!(!writer.prepared(CheckpointId(1))?, "nothing is durable");
            }
            Ok(())
        });
        let error = failed.unwrap_err();
        assert_eq!(error.is::<OutputLost>(), is_final, "{error}");
        let error = error.to_string();
        assert!(
            error.contains("may have been lost") && error.contains(dir.path().to_str().unwrap()),
            "{error}"
        );
    }
}

#[test]
fn a_write_after_the_end_fails() {
    let dir = TempDir::new().unwrap();
    let mut writer = writer_on(&TestDisk::new(), dir.path());
    prepare(&mut writer, 1, true);
    assert!(writer.write(Nanos(0), row(0)).is_err());
}

#[test]
fn a_file_is_rolled_by_age_at_a_checkpoint() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let mut writer = writer_on(&disk, dir.path());
    write_rows(&mut writer, 0..5);
    assert!(prepare(&mut writer, 1, false).1.is_empty());
    writer.poll(Nanos(0).after(Duration::from_secs(61))).unwrap();
    let (state, committables) = prepare(&mut writer, 2, false);
    assert_eq!(committables.len(), 1);
    assert!(state.unwrap().in_progress.is_none() && !writer.has_unprepared());
}

#[test]
fn check_creates_the_directory_and_names_one_that_it_cannot() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let nested = dir.path().join("a/b/c");
    sink(&nested).check(&disk.handle()).unwrap();
    assert_eq!(names(&nested), [""; 0]);
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    for bad in [file.clone(), file.join("below")] {
        let error = sink(&bad).check(&disk.handle()).unwrap_err().to_string();
        assert!(error.contains(bad.to_str().unwrap()) && error.contains("check the path"), "{error}");
    }
}

#[test]
fn each_file_starts_with_the_header() {
    let dir = TempDir::new().unwrap();
    let sink = FileSink::csv::<(u64, u64)>(dir.path()).with_header(&["n", "square"]).roll_bytes(1);
    let mut writer = sink.writer(context_on(&TestDisk::new(), 0, 1, 1), Vec::new(), Vec::new()).unwrap();
    write_rows(&mut writer, 0..2);
    let (_, committables) = prepare(&mut writer, 1, true);
    commit(&mut writer, &committables).unwrap();
    assert_eq!(visible(dir.path()), "n,square\n0,0\nn,square\n1,1\n");
}

#[derive(Clone, Debug, serde::Serialize)]
struct Flat {
    name: String,
    big: i128,
    ratio: f64,
    sign: char,
    yes: bool,
    maybe: Option<String>,
    pair: (u8, i64),
}

proptest! {
    #[test]
    fn prop_rows_equal_those_of_the_csv_crate(
        name in "[a-c\",\n\r é]{0,6}", numbers in any::<(i64, f64, u8)>(), sign in any::<char>(), yes in any::<bool>(),
        maybe in proptest::option::of("[,x]{0,3}"), field in "[,\"x]{0,2}",
    ) {
        let (big, ratio, small) = numbers;
        let flat = Flat { name, big: big.into(), ratio, sign, yes, maybe, pair: (small, big) };
        let mut ours = Vec::new();
        append_row(&flat, &mut ours).unwrap();
        append_row(&(&field,), &mut ours).unwrap();
        let mut theirs = ::csv::WriterBuilder::new().has_headers(false).flexible(true).from_writer(Vec::new());
        theirs.serialize(&flat).unwrap();
        theirs.serialize((&field,)).unwrap();
        prop_assert_eq!(String::from_utf8(ours).unwrap(), String::from_utf8(theirs.into_inner().unwrap()).unwrap());
    }
}

#[test]
fn a_record_that_is_not_flat_is_an_error() {
    let map = std::collections::BTreeMap::from([(1, 2)]);
    assert!(append_row(&map, &mut Vec::new()).unwrap_err().to_string().contains("a map"));
}

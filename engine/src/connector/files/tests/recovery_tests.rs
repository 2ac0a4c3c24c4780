//! Claims about what a restored file sink makes of the files that it finds: which it continues, cuts, publishes, removes, and on
//! whose behalf.

use super::super::*;
use super::sink_tests::{Writer, commit, hidden, names, prepare, text, visible, write_rows, writer_on};
use crate::clock::Nanos;
use crate::connector::testing::{TestDisk, context_on};
use crate::connector::{Sink, SinkWriter};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use thalweg_storage::manifest::Committable;

fn restored(
    disk: &Arc<TestDisk>,
    dir: &Path,
    (subtask, parallelism, attempt): (u32, u32, u64),
    states: Vec<FileSinkState>,
    committables: Vec<Committable>,
) -> Writer {
    let context = context_on(disk, subtask, parallelism, attempt);
    FileSink::csv(dir).writer(context, states, committables).unwrap()
}

/// Ends the output and commits all of it.
fn finish(writer: &mut Writer, checkpoint: u64) {
    let (_, committables) = prepare(writer, checkpoint, true);
    commit(writer, &committables).unwrap();
}

#[test]
fn recovery_from_an_empty_checkpoint_removes_what_was_begun_later() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let mut writer = writer_on(&disk, dir.path());
    let (empty, _) = prepare(&mut writer, 1, false);
    write_rows(&mut writer, 50..60);
    prepare(&mut writer, 2, false);
    drop(writer);
    assert_eq!(hidden(dir.path()), 1);
    let mut writer = restored(&disk, dir.path(), (0, 1, 2), empty.into_iter().collect(), Vec::new());
    assert_eq!(names(dir.path()), [""; 0]);
    write_rows(&mut writer, 0..5);
    finish(&mut writer, 3);
    assert_eq!(visible(dir.path()), text(0..5));
}

#[test]
fn recovery_from_any_of_several_persists_cuts_the_file_back_to_it() {
    for from in 0..4_usize {
        let dir = TempDir::new().unwrap();
        let disk = TestDisk::new();
        let mut writer = writer_on(&disk, dir.path());
        let mut states = Vec::new();
        for persist in 0..4_u64 {
            write_rows(&mut writer, persist * 10..persist * 10 + 10);
            states.extend(prepare(&mut writer, persist + 1, false).0);
        }
        write_rows(&mut writer, 90..95);
        drop(writer);
        let rows = from as u64 * 10 + 10;
        let mut writer = restored(&disk, dir.path(), (0, 1, 2), vec![states[from].clone()], Vec::new());
        write_rows(&mut writer, rows..rows + 3);
        finish(&mut writer, 9);
        assert_eq!(visible(dir.path()), text(0..rows + 3));
        assert_eq!(hidden(dir.path()), 0);
    }
}

#[test]
fn recovery_reopens_a_file_that_was_finished_after_the_checkpoint() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let mut writer = writer_on(&disk, dir.path());
    write_rows(&mut writer, 0..5);
    let (state, _) = prepare(&mut writer, 1, false);
    write_rows(&mut writer, 70..75);
    // Finished and prepared for a checkpoint that never completed.
    prepare(&mut writer, 2, true);
    assert!(names(dir.path())[0].ends_with(".pending"));
    drop(writer);
    let mut writer = restored(&disk, dir.path(), (0, 1, 2), state.into_iter().collect(), Vec::new());
    write_rows(&mut writer, 5..8);
    finish(&mut writer, 3);
    assert_eq!(visible(dir.path()), text(0..8));
}

#[test]
fn every_write_after_the_end_fails_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let mut writer = writer_on(&TestDisk::new(), dir.path());
    write_rows(&mut writer, 0..5);
    let (_, committables) = prepare(&mut writer, 1, true);
    for _ in 0..3 {
        let error = writer.write(Nanos(0), (9, 9)).unwrap_err();
        assert!(error.to_string().contains("after its end"), "{error}");
    }
    commit(&mut writer, &committables).unwrap();
    assert!(writer.write(Nanos(0), (9, 9)).is_err());
    assert_eq!(visible(dir.path()), text(0..5));
}

#[test]
fn leftovers_of_subtasks_that_no_longer_exist_are_removed_by_their_heir_alone() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    for subtask in 0..7_u32 {
        let context = context_on(&disk, subtask, 7, 1);
        let mut writer: Writer = FileSink::csv(dir.path()).writer(context, Vec::new(), Vec::new()).unwrap();
        write_rows(&mut writer, 0..5);
        prepare(&mut writer, 1, subtask % 2 == 0);
    }
    assert_eq!(hidden(dir.path()), 7);
    for (subtask, left) in [(1, 5), (0, 2), (2, 0)] {
        restored(&disk, dir.path(), (subtask, 3, 2), Vec::new(), Vec::new());
        assert_eq!(hidden(dir.path()), left, "after subtask {subtask}: {:?}", names(dir.path()));
    }
}

#[test]
fn an_inherited_file_is_listed_under_its_own_subtask_and_survives_the_next_change_of_parallelism() {
    let dir = TempDir::new().unwrap();
    let disk = TestDisk::new();
    let context = context_on(&disk, 3, 4, 1);
    let mut writer: Writer = FileSink::csv(dir.path()).writer(context, Vec::new(), Vec::new()).unwrap();
    write_rows(&mut writer, 0..5);
    let (state, _) = prepare(&mut writer, 1, false);
    drop(writer);
    // Subtask 1 of 2 inherits the open file, and prepares it for a checkpoint that completes.
    let mut writer = restored(&disk, dir.path(), (1, 2, 2), state.into_iter().collect(), Vec::new());
    let (state, committables) = prepare(&mut writer, 2, false);
    assert_eq!(committables.iter().map(|c| c.subtask).collect::<Vec<_>>(), [3]);
    assert!(!writer.has_unprepared());
    drop(writer);
    // At parallelism 4 the committable is subtask 3's again. Subtask 1 leaves the file alone, whoever comes first.
    restored(&disk, dir.path(), (1, 4, 3), state.into_iter().collect(), Vec::new());
    assert_eq!(hidden(dir.path()), 1);
    restored(&disk, dir.path(), (3, 4, 3), Vec::new(), committables);
    assert_eq!((hidden(dir.path()), visible(dir.path())), (0, text(0..5)));
}

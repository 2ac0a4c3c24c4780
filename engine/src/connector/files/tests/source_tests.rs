//! Claims about the file source: every line once, from any position.

use super::super::lines::LineCutter;
use super::super::*;
use crate::clock::Nanos;
use crate::connector::testing::{Output, TestDisk, context_on};
use crate::connector::{Source, SourceReader, SourceStatus};
use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use thalweg_storage::CheckpointId;

fn reader<F: Format>(disk: &Arc<TestDisk>, source: &FileSource<F>, splits: Vec<FileSplit>) -> FileReader<F> {
    source.reader(context_on(disk, 0, 1, 1), splits).unwrap()
}

fn drain<F: Format>(reader: &mut FileReader<F>, output: &mut Output<F::Record>) {
    while reader.poll(Nanos(0), 1_000, output).unwrap() != SourceStatus::End {}
}

fn read_all<F: Format>(source: &FileSource<F>, parallelism: u32) -> Output<F::Record> {
    let disk = TestDisk::new();
    let splits = source.splits(&disk.handle(), parallelism).unwrap();
    let mut output = Output::default();
    drain(&mut reader(&disk, source, splits), &mut output);
    assert_eq!(disk.open_files(), 0, "a reader closes its files");
    output
}

fn whole(path: &Path) -> FileSplit {
    let bytes = fs::metadata(path).unwrap().len();
    let path = path.to_str().unwrap().to_owned();
    FileSplit { path, start: 0, end: bytes, position: 0, file_bytes: bytes, zstd: false }
}

fn numbered(count: usize) -> (Vec<String>, Vec<u8>) {
    let lines: Vec<String> = (0..count).map(|i| format!("{i} {}", "x".repeat(i * 7 % 90))).collect();
    let text = lines.iter().flat_map(|line| [line.as_bytes(), b"\n"].concat()).collect();
    (lines, text)
}

fn error_of<F: Format>(source: &FileSource<F>) -> String {
    source.splits(&TestDisk::new().handle(), 2).unwrap_err().to_string()
}

fn lines_and_text() -> impl Strategy<Value = (Vec<String>, Vec<u8>)> {
    (proptest::collection::vec(("[a-z]{0,20}", any::<bool>()), 0..30), any::<bool>()).prop_map(
        |(lines, ends)| {
            let mut text = Vec::new();
            for (line, crlf) in &lines {
                text.extend_from_slice(line.as_bytes());
                text.extend_from_slice(if *crlf { b"\r\n" } else { b"\n" });
            }
            let mut lines: Vec<String> = lines.into_iter().map(|(line, _)| line).collect();
            if !ends {
                text.extend_from_slice(b"last");
                lines.push("last".into());
            }
            (lines, text)
        },
    )
}

proptest! {
    #[test]
    fn prop_each_line_is_in_exactly_one_of_any_ranges(
        (lines, text) in lines_and_text(), mut borders in proptest::collection::vec(any::<u16>(), 0..8),
    ) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("in.txt");
        fs::write(&path, &text).unwrap();
        let length = text.len() as u64;
        borders.iter_mut().for_each(|border| *border %= text.len().max(1) as u16);
        borders.sort_unstable();
        let mut starts: Vec<u64> = [0].into_iter().chain(borders.into_iter().map(u64::from)).collect();
        starts.dedup();
        let ends = starts.iter().skip(1).copied().chain([length]);
        let splits: Vec<_> = starts.iter().zip(ends)
            .map(|(&start, end)| FileSplit { start, end, position: start, ..whole(&path) }).collect();
        let disk = TestDisk::new();
        let source = FileSource::lines(&path);
        let mut output = Output::default();
        drain(&mut reader(&disk, &source, splits), &mut output);
        prop_assert_eq!(output.records, lines);
    }

    #[test]
    fn prop_lines_do_not_depend_on_how_the_stream_is_chunked(
        (lines, text) in lines_and_text(), sizes in proptest::collection::vec(1_usize..12, 1..6),
    ) {
        let mut cutter = LineCutter::new(0, 1_000);
        let (mut read, mut rest, mut sizes) = (Vec::new(), text.as_slice(), sizes.iter().cycle());
        loop {
            while let Some(line) = cutter.next() {
                read.push(String::from_utf8(line.bytes.to_vec()).unwrap());
            }
            if rest.is_empty() {
                break;
            }
            let (chunk, later) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
            cutter.feed(chunk.to_vec());
            rest = later;
        }
        let last = cutter.finish().map(|line| String::from_utf8(line.bytes.to_vec()).unwrap());
        read.extend(last);
        prop_assert_eq!(read, lines);
    }

    #[test]
    fn prop_a_reader_continues_behind_the_last_line_plain_or_compressed(
        (lines, text) in lines_and_text(), polls in 0_usize..40, zstd in any::<bool>(),
    ) {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("in");
        fs::write(&path, if zstd { zstd::encode_all(&*text, 0).unwrap() } else { text }).unwrap();
        let disk = TestDisk::new();
        let source = FileSource::lines(&path);
        let mut first = reader(&disk, &source, source.splits(&disk.handle(), 2).unwrap());
        let mut output = Output::default();
        for _ in 0..polls {
            first.poll(Nanos(0), 1, &mut output).unwrap();
        }
        let splits = first.snapshot(CheckpointId(1));
        drain(&mut reader(&disk, &source, splits), &mut output);
        prop_assert_eq!(output.records, lines);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn prop_reads_that_complete_late_and_in_any_order_change_nothing(picks in proptest::collection::vec(0_usize..8, 8)) {
        let dir = TempDir::new().unwrap();
        let (lines, text) = numbered(70_000);
        let path = dir.path().join("in.txt");
        fs::write(&path, &text).unwrap();
        let disk = TestDisk::new();
        let source = FileSource::lines(&path);
        let splits = source.splits(&disk.handle(), 2).unwrap();
        prop_assert!(splits.len() > 2);
        disk.hold(true);
        let mut reader = reader(&disk, &source, splits);
        let mut output = Output::default();
        let mut picks = picks.iter().cycle();
        loop {
            match reader.poll(Nanos(0), 5_000, &mut output).unwrap() {
                SourceStatus::End => break,
                SourceStatus::More => {}
                SourceStatus::Idle(_) => {
                    prop_assert!(disk.held() > 0, "an idle reader waits for a request");
                    disk.release(*picks.next().unwrap());
                }
            }
        }
        prop_assert_eq!(output.records, lines);
        let (done, total) = reader.read_progress().unwrap();
        prop_assert_eq!((done, total), (text.len() as u64, text.len() as u64));
    }
}

#[test]
fn a_compressed_file_of_several_frames_is_read_whole_and_by_one_split() {
    let dir = TempDir::new().unwrap();
    let (lines, text) = numbered(40_000);
    let (first, second) = text.split_at(text.len() / 3);
    let frames = [zstd::encode_all(first, 1).unwrap(), zstd::encode_all(second, 1).unwrap()].concat();
    let path = dir.path().join("in.txt.zst");
    fs::write(&path, frames).unwrap();
    let source = FileSource::lines(&path);
    assert_eq!(source.splits(&TestDisk::new().handle(), 8).unwrap().len(), 1);
    assert_eq!(read_all(&source, 8).records, lines);
}

#[test]
fn a_truncated_compressed_file_is_an_error_and_not_an_early_end() {
    let dir = TempDir::new().unwrap();
    let compressed = zstd::encode_all(&*numbered(1_000).1, 1).unwrap();
    let path = dir.path().join("in.zst");
    fs::write(&path, &compressed[..compressed.len() - 5]).unwrap();
    let disk = TestDisk::new();
    let source = FileSource::lines(&path);
    let mut reader = reader(&disk, &source, source.splits(&disk.handle(), 1).unwrap());
    let mut output = Output::default();
    let error = loop {
        match reader.poll(Nanos(0), 1_000, &mut output) {
            Ok(status) => assert_ne!(status, SourceStatus::End),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("in.zst") && error.contains("zstd frame"), "{error}");
}

#[test]
fn directories_and_patterns_name_their_files_in_order() {
    let dir = TempDir::new().unwrap();
    fs::create_dir_all(dir.path().join("sub/deep")).unwrap();
    for (name, text) in
        [("b.txt", "b\n"), ("a.txt", "a"), (".hidden.txt", "h"), ("c.log", ""), ("sub/deep/d.txt", "d")]
    {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let read = |path: &str| read_all(&FileSource::lines(dir.path().join(path)), 3).records;
    assert_eq!(read(""), ["a", "b"]);
    assert_eq!(read("[a]*.txt"), ["a"]);
    assert_eq!(read("*/deep/*.txt"), ["d"]);
    assert_eq!(read("**/*.txt"), ["a", "b", "d"]);
}

#[test]
fn missing_input_is_an_error_that_names_the_path_and_the_cure() {
    let dir = TempDir::new().unwrap();
    for (path, what) in
        [("none.txt", "does not exist"), ("no*.txt", "no input file matches"), ("", "holds no files")]
    {
        let error = error_of(&FileSource::lines(dir.path().join(path)));
        assert!(error.contains(what) && error.contains(dir.path().to_str().unwrap()), "{error}");
        assert!(error.contains("check the"), "{error}");
    }
}

#[test]
fn a_file_that_changed_its_length_since_the_checkpoint_is_an_error() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("in.txt");
    fs::write(&path, "one\ntwo\n").unwrap();
    let split = whole(&path);
    for text in ["one\n", "one\ntwo\nthree\n"] {
        fs::write(&path, text).unwrap();
        let disk = TestDisk::new();
        let mut reader = reader(&disk, &FileSource::lines(&path), vec![split.clone()]);
        let error = reader.poll(Nanos(0), 10, &mut Output::default()).unwrap_err().to_string();
        assert!(error.contains("in.txt") && error.contains("8 bytes"), "{error}");
    }
}

#[test]
fn malformed_and_overlong_lines_are_handed_over_and_the_rest_is_read() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("in.txt");
    let long = "9".repeat(3_000);
    fs::write(&path, format!("1\nx\n{long}\n\n12345678\r\n{long}")).unwrap();
    let parse = |line: &[u8]| {
        let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
        text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"))
    };
    let output = read_all(&FileSource::parse(&path, parse).line_bytes_max(8), 1);
    assert_eq!(output.records, [1, 12_345_678]);
    let summary: Vec<_> = output.malformed.iter().map(|m| (m.offset, m.raw.len())).collect();
    assert_eq!(summary, [(2, 1), (4, 9), (3_005, 0), (3_016, 9)]);
    assert!(output.malformed.iter().all(|m| m.origin.ends_with("in.txt")));
    assert!(output.malformed[0].error.contains("invalid digit"));
    assert!(output.malformed[1].error.contains("longer than 8 bytes"));
}

#[test]
fn ndjson_lines_become_values_and_bad_ones_are_malformed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("in.ndjson");
    fs::write(&path, "[1,2]\n\n{oops}\n[3,4]").unwrap();
    let output = read_all(&FileSource::ndjson::<(u64, u64)>(&path), 1);
    assert_eq!(output.records, [(1, 2), (3, 4)]);
    assert_eq!(output.malformed.len(), 1);
}

#[test]
fn a_full_output_stops_the_reader_after_the_line_it_took() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("in.txt");
    fs::write(&path, numbered(100).1).unwrap();
    let disk = TestDisk::new();
    let mut reader = reader(&disk, &FileSource::lines(&path), vec![whole(&path)]);
    let mut output = Output { room: Some(3), ..Output::default() };
    while output.records.is_empty() {
        reader.poll(Nanos(0), 50, &mut output).unwrap();
    }
    assert_eq!(output.records.len(), 3);
}

//! The bodies of the fuzz targets over their corpus, changed in all ways that a short, deterministic run has time for.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use crash_inject::random::Random;
use std::path::PathBuf;

/// Random changes of each file.
const CHANGES: u64 = 4_000;

/// The files of a target's corpus.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", dir.display());
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("it can be read"))).collect()
}

/// Changes `bytes` here and there: bits, values that are at the edge of something, pieces cut out or doubled.
fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            bytes.push(random.next_u64() as u8);
        }
        let at = random.below(bytes.len() as u64) as usize;
        let end = (at + 1 + random.below(8) as usize).min(bytes.len());
        match random.below(6) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at..end].fill([0, 0xFF, 0x7F, 0x80][random.below(4) as usize]),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte = random.next_u64() as u8),
        }
    }
}

fn run(target: &str, body: fn(&[u8])) {
    for (path, whole) in corpus(target) {
        body(&whole);
        (0..whole.len()).for_each(|cut| body(&whole[..cut]));
        for seed in 0..CHANGES {
            let mut bytes = whole.clone();
            change(&mut bytes, &mut Random::of_seed(seed));
            if std::panic::catch_unwind(|| body(&bytes)).is_err() {
                panic!("{}, changed by seed {seed}: {bytes:02x?}", path.display());
            }
        }
    }
}

#[test]
fn no_bytes_make_the_segment_reader_panic() {
    run("segment", bodies::segment);
}

#[test]
fn no_bytes_make_the_manifest_reader_panic_or_name_a_file_elsewhere() {
    run("manifest", bodies::manifest);
}

#[test]
fn no_bytes_make_the_reader_of_in_flight_data_panic() {
    run("channel_state", bodies::channel_state);
}

#[test]
fn no_bytes_make_the_opening_of_a_savepoint_panic_or_give_another_jobs() {
    run("savepoint_header", bodies::savepoint_header);
}

#[test]
fn no_text_makes_the_reading_of_settings_panic() {
    run("config", bodies::config);
}

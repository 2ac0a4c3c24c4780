//! Claims about the manifest's format.

use super::*;
use crate::codec::Field;
use crate::error::StoreError;
use proptest::prelude::*;
use std::path::Path;

const GOLDEN_V1: &[u8] = include_bytes!("../../tests/golden/manifest-v1.bin");

fn primitive(name: &str) -> Schema {
    Schema::Primitive(name.to_owned())
}

/// Uses every kind of part that a manifest can have.
fn sample() -> Manifest {
    let order = Schema::Struct {
        name: "Order".to_owned(),
        version: 2,
        fields: vec![
            Field { name: "id".to_owned(), schema: primitive("u64") },
            Field { name: "note".to_owned(), schema: Schema::Option(Box::new(primitive("String"))) },
        ],
    };
    let side = Schema::Enum {
        name: "Side".to_owned(),
        version: 0,
        variants: vec![Field { name: "Buy".to_owned(), schema: Schema::Tuple(vec![]) }],
    };
    let keyed = vec![KeyedStateMeta {
        name: "totals".to_owned(),
        key: Schema::Map(Box::new(side), Box::new(primitive("u32"))),
        value: Schema::Seq(Box::new(order)),
    }];
    let segment = |path: &str, bytes| SegmentRef {
        path: path.to_owned(),
        bytes,
        groups: 0..64,
        states: vec!["totals".to_owned()],
    };
    let subtasks = vec![
        SubtaskState {
            index: 0,
            segments: vec![segment("shared/seg-a1-c6-2-0", 4096), segment("shared/seg-a3-c7-2-0", 513)],
            ..SubtaskState::default()
        },
        SubtaskState {
            index: 1,
            finished: true,
            operator_state: vec![StateBlob {
                name: "offsets".to_owned(),
                mode: OperatorStateMode::Union,
                schema: Schema::Tuple(vec![primitive("u64"), primitive("u64")]),
                bytes: vec![1, 2, 3],
            }],
            committables: vec![Committable {
                checkpoint: CheckpointId(6),
                subtask: 5,
                attempt: AttemptId(1),
                bytes: b"part-0".to_vec(),
            }],
            ..SubtaskState::default()
        },
    ];
    let channel = |producer, origin, data| ChannelState {
        edge: "source -> sum".to_owned(),
        producer,
        consumer: 1,
        generation: producer,
        origin,
        records: 2,
        data,
    };
    let range = |offset, bytes| Payload::File {
        path: "chk-7/channel-a3-2-1".to_owned(),
        offset,
        bytes,
        crc32: 0xDEAD_BEEF,
        file_bytes: 100,
    };
    Manifest {
        job: "orders".to_owned(),
        checkpoint: CheckpointId(7),
        attempt: AttemptId(3),
        triggered_unix_ms: 1_700_000_000_123,
        max_parallelism: 128,
        kind: ManifestKind::Checkpoint,
        origin: Some(Origin {
            root: "/savepoints/savepoint-orders-5".to_owned(),
            dir: "/savepoints/savepoint-orders-5".to_owned(),
            claimed: true,
        }),
        operators: vec![OperatorState { uid: "sum".to_owned(), parallelism: 2, keyed, subtasks }],
        edges: vec![EdgeState {
            name: "source -> sum".to_owned(),
            record: Schema::Tuple(vec![primitive("u64"), primitive("String")]),
            key: Some(primitive("u64")),
            producers: 2,
            consumers: 3,
        }],
        channels: vec![
            channel(0, ChannelOrigin::Consumer, Payload::Inline(vec![9, 8, 7])),
            channel(1, ChannelOrigin::Consumer, range(0, 60)),
            channel(1, ChannelOrigin::Producer, range(60, 40)),
        ],
    }
}

fn read(bytes: &[u8]) -> Result<Manifest, StoreError> {
    decode(Path::new("chk-7/MANIFEST"), bytes)
}

/// Asserts that `result` reports damage and returns the message.
fn damage(result: Result<Manifest, StoreError>) -> String {
    match result {
        Err(error @ StoreError::Corrupt { .. }) => error.to_string(),
        other => panic!("expected damage, got {other:?}"),
    }
}

/// Replaces header fields and body, with checksums that fit.
fn forge(change: impl FnOnce(&mut [u8]), body: &[u8]) -> Vec<u8> {
    let mut file = encode(&sample())[..HEADER_BYTES].to_vec();
    file[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
    change(&mut file);
    let crc32 = crc32fast::hash(&file[..28]);
    file[28..32].copy_from_slice(&crc32.to_le_bytes());
    file.extend_from_slice(body);
    file.extend_from_slice(&crc32fast::hash(body).to_le_bytes());
    file
}

#[test]
fn a_decoded_manifest_equals_the_encoded_one() {
    assert_eq!(read(&encode(&sample())).unwrap(), sample());
}

#[test]
fn the_file_of_version_1_still_means_the_same() {
    assert_eq!(read(GOLDEN_V1).unwrap(), sample());
    assert_eq!(encode(&sample()), GOLDEN_V1, "version 1 is written differently: raise the version");
}

#[test]
fn every_changed_byte_is_detected() {
    let file = encode(&sample());
    for at in 0..file.len() {
        let flips = (0..8).map(|bit| file[at] ^ (1 << bit));
        for byte in flips.chain([0x00, 0xFF]).filter(|b| *b != file[at]) {
            let mut changed = file.clone();
            changed[at] = byte;
            let message = damage(read(&changed));
            assert!(message.contains("chk-7/MANIFEST is damaged at offset"), "{message}");
        }
    }
}

#[test]
fn every_truncation_and_every_extension_is_detected() {
    let file = encode(&sample());
    for bytes in 0..file.len() {
        damage(read(&file[..bytes]));
    }
    damage(read(&[&file[..], &[0]].concat()));
    damage(read(&[&file[..], &file[..]].concat()));
}

#[test]
fn a_newer_version_is_refused_as_newer_not_as_damaged() {
    let file = forge(|header| header[4] = 2, b"of another shape");
    assert!(matches!(read(&file), Err(StoreError::NewerFormat { found: 2, newest: 1, .. })));
}

#[test]
fn a_forged_header_is_refused() {
    assert!(damage(read(&forge(|h| h[4] = 0, b""))).contains("version"));
    assert!(damage(read(&forge(|h| h[24] = 1, b""))).contains("reserved"));
    assert!(
        damage(read(&forge(|h| h[8..16].copy_from_slice(&(1u64 << 31).to_le_bytes()), b"")))
            .contains("at most")
    );
    assert!(damage(read(&forge(|h| h[8..16].fill(0xFF), b""))).contains("at most"));
    let body = postcard::to_stdvec(&sample()).unwrap();
    assert!(damage(read(&forge(|h| h[16] = 8, &body))).contains("checkpoint 8"));
    assert!(read(&forge(|_| (), &body)).is_ok());
}

#[test]
fn bytes_behind_the_body_are_refused() {
    let mut body = postcard::to_stdvec(&sample()).unwrap();
    body.push(0);
    assert!(damage(read(&forge(|_| (), &body))).contains("1 more bytes"));
}

#[test]
fn a_schema_that_nests_without_end_is_refused_without_exhausting_the_stack() {
    let mut manifest = sample();
    manifest.operators[0].keyed[0].key = primitive("depth");
    let body = postcard::to_stdvec(&manifest).unwrap();
    let at = body.windows(7).position(|w| w == b"\0\x05depth").unwrap();
    // Variant 1 is an option, 2 a sequence, 4 a tuple, here of one part.
    for level in [&[1u8][..], &[2], &[4, 1]] {
        let nested = |levels: usize| [&body[..at], &level.repeat(levels), &body[at..]].concat();
        read(&forge(|_| (), &nested(64))).unwrap();
        damage(read(&forge(|_| (), &nested(65))));
        damage(read(&forge(|_| (), &nested(1_000_000))));
        read(&forge(|_| (), &nested(1))).expect("a refused schema leaves no trace in the thread");
    }
}

#[test]
fn a_claimed_count_without_the_bytes_for_it_is_refused() {
    let mut body = postcard::to_stdvec(&sample()).unwrap();
    let operators_at = body.windows(5).position(|w| w == b"\x01\x03sum").unwrap();
    body.splice(operators_at..=operators_at, [0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);
    damage(read(&forge(|_| (), &body)));
}

#[test]
fn content_that_no_engine_writes_is_refused() {
    type Change = fn(&mut Manifest);
    let changes: &[(&str, Change)] = &[
        ("absolute path", |m| m.operators[0].subtasks[0].segments[0].path = "/etc/passwd".into()),
        ("parent path", |m| m.operators[0].subtasks[0].segments[0].path = "shared/../../x".into()),
        ("dot path", |m| m.operators[0].subtasks[0].segments[0].path = "./x".into()),
        ("empty component", |m| m.operators[0].subtasks[0].segments[0].path = "shared//x".into()),
        ("empty path", |m| m.operators[0].subtasks[0].segments[0].path = String::new()),
        ("path with NUL", |m| m.operators[0].subtasks[0].segments[0].path = "shared/a\0b".into()),
        ("endless path", |m| m.operators[0].subtasks[0].segments[0].path = "a/".repeat(600) + "a"),
        ("absolute payload", |m| m.channels[1].data = file_payload("/x", 0, 1, 1)),
        ("payload behind the end", |m| m.channels[1].data = file_payload("x", 1, 1, 1)),
        ("payload that overflows", |m| m.channels[1].data = file_payload("x", u64::MAX, 1, 1)),
        ("two lengths of a file", |m| m.channels[1].data = file_payload("chk-7/channel-a3-2-1", 0, 60, 99)),
        ("job with a slash", |m| m.job = "a/b".into()),
        ("job that goes up", |m| m.job = "..".into()),
        ("no key groups", |m| m.max_parallelism = 0),
        ("too many key groups", |m| m.max_parallelism = 32_769),
        ("no parallelism", |m| m.operators[0].parallelism = 0),
        ("more subtasks than groups", |m| m.max_parallelism = 1),
        ("key groups beyond the last", |m| m.operators[0].subtasks[0].segments[0].groups = 0..129),
        ("key groups in reverse", |m| {
            m.operators[0].subtasks[0].segments[0].groups = std::ops::Range { start: 2, end: 1 };
        }),
        ("subtask beyond parallelism", |m| m.operators[0].subtasks[1].index = 2),
        ("subtask twice", |m| m.operators[0].subtasks[1].index = 0),
        ("operator twice", |m| m.operators.push(m.operators[0].clone())),
        ("producer out of range", |m| m.channels[0].producer = 2),
        ("consumer out of range", |m| m.channels[0].consumer = 3),
        ("channel of no edge", |m| m.channels[0].edge = "sum -> sink".into()),
        ("edge twice", |m| m.edges.push(m.edges[0].clone())),
        ("edge without producers", |m| m.edges[0].producers = 0),
        ("edge with too many consumers", |m| m.edges[0].consumers = 32_769),
        ("savepoint that lies elsewhere", |m| m.kind = ManifestKind::Savepoint),
        ("relative original", |m| m.origin.as_mut().unwrap().root = "savepoints/1".into()),
        ("original with NUL", |m| m.origin.as_mut().unwrap().dir = "/a\0b".into()),
        ("committable out of range", |m| m.operators[0].subtasks[1].committables[0].subtask = u32::MAX),
    ];
    for (name, change) in changes {
        let mut manifest = sample();
        change(&mut manifest);
        assert!(validate(&manifest).is_err(), "{name} passes");
        damage(read(&encode(&manifest)));
    }
}

fn file_payload(path: &str, offset: u64, bytes: u64, file_bytes: u64) -> Payload {
    Payload::File { path: path.to_owned(), offset, bytes, crc32: 0, file_bytes }
}

#[test]
fn a_manifest_of_files_that_lie_elsewhere_is_resolved_to_their_full_paths() {
    let resolved = sample().resolved();
    let root = "/savepoints/savepoint-orders-5";
    assert!(resolved.files().all(|path| path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'))));
    let at_home = Manifest { origin: None, ..sample() };
    assert_eq!(at_home.clone().resolved(), at_home);
}

#[test]
fn files_are_the_segments_and_the_payload_files() {
    let manifest = sample();
    let files: Vec<&str> = manifest.files().collect();
    let channel = "chk-7/channel-a3-2-1";
    assert_eq!(files, ["shared/seg-a1-c6-2-0", "shared/seg-a3-c7-2-0", channel, channel]);
}

proptest! {
    #[test]
    fn prop_a_body_of_any_bytes_neither_panics_nor_passes_unchecked(body in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(manifest) = read(&forge(|_| (), &body)) {
            prop_assert_eq!(validate(&manifest), Ok(()));
        }
    }

    #[test]
    fn prop_a_changed_sample_body_neither_panics_nor_passes_unchecked(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut body = postcard::to_stdvec(&sample()).unwrap();
        for (at, byte) in edits {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(manifest) = read(&forge(|_| (), &body)) {
            prop_assert_eq!(validate(&manifest), Ok(()));
        }
    }
}

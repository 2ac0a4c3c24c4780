//! Claims about segment files: what is written is read, and no changed byte goes unseen.

use super::*;
use crate::codec::Data;
use crate::error::StoreError;
use crate::ids::{AttemptId, CheckpointId};
use crate::key_group::KeyGroups;
use crate::manifest::KeyedStateMeta;
use proptest::prelude::*;
use std::path::Path;

type Row = (u64, Option<u64>);

fn metas() -> Vec<KeyedStateMeta> {
    vec![
        KeyedStateMeta { name: "counts".into(), key: u64::schema(), value: u64::schema() },
        KeyedStateMeta { name: "names".into(), key: String::schema(), value: <Vec<u8>>::schema() },
    ]
}

fn builder(zstd_level: i32) -> SegmentBuilder {
    SegmentBuilder::new(
        "shared/seg-test",
        CheckpointId(7),
        AttemptId(2),
        KeyGroups::new(128),
        3..9,
        &metas(),
        zstd_level,
    )
}

fn rows_of<K: Data, V: Data>(rows: impl IntoIterator<Item = (K, Option<V>)>) -> Rows {
    let mut built = Rows::new(K::FIXED_BYTES, V::FIXED_BYTES);
    rows.into_iter().for_each(|(key, value)| built.push(&key, value.as_ref()));
    built
}

/// A small file with every kind of block.
fn sample(zstd_level: i32) -> Vec<u8> {
    let mut out = builder(zstd_level);
    let counts = rows_of((0..100u64).map(|n| (n * 3, Some(n))));
    assert_eq!(out.block(0, 3, BlockKind::Base, &counts, 0..100), 100);
    out.empty_base(0, 4);
    let names = rows_of([
        ("a".to_owned(), Some(vec![1u8, 2, 3])),
        ("bc".to_owned(), None),
        (String::new(), Some(vec![])),
    ]);
    assert_eq!(out.block(1, 5, BlockKind::Delta, &names, 0..3), 3);
    let mut file = out.take();
    out.finish();
    file.extend(out.take());
    assert_eq!(file.len() as u64, out.bytes());
    file
}

/// Reads the whole file and decodes every block.
fn read(file: &[u8]) -> Result<Vec<(BlockEntry, Rows)>, StoreError> {
    let reader = SegmentReader::open(file, Path::new("seg"))?;
    let mut blocks = Vec::new();
    reader.read_blocks(
        |_| true,
        |entry, rows| {
            blocks.push((*entry, rows));
            Ok(())
        },
    )?;
    Ok(blocks)
}

#[test]
fn a_segment_reads_back_as_written() {
    for level in [0, 1] {
        let file = sample(level);
        let reader = SegmentReader::open(&file[..], Path::new("seg")).expect("intact");
        assert_eq!((reader.checkpoint(), reader.attempt()), (CheckpointId(7), AttemptId(2)));
        assert_eq!((reader.max_parallelism(), reader.groups()), (128, 3..9));
        assert_eq!(reader.states(), metas());
        let blocks = read(&file).expect("intact");
        let kinds: Vec<_> =
            blocks.iter().map(|(entry, _)| (entry.state, entry.group, entry.kind, entry.rows)).collect();
        assert_eq!(
            kinds,
            [(0, 3, BlockKind::Base, 100), (0, 4, BlockKind::Base, 0), (1, 5, BlockKind::Delta, 3)]
        );
        let (key, value) = blocks[0].1.get(99);
        assert_eq!((key, value), (&297u64.to_le_bytes()[..], Some(&99u64.to_le_bytes()[..])));
        let names = &blocks[2].1;
        assert_eq!(names.get(0), (&[1, 0, 0, 0, b'a'][..], Some(&[3, 0, 0, 0, 1, 2, 3][..])));
        assert_eq!(names.get(1), (&[2, 0, 0, 0, b'b', b'c'][..], None));
        assert_eq!(names.get(2), (&[0; 4][..], Some(&[0; 4][..])));
    }
}

#[test]
fn every_changed_byte_is_found() {
    for level in [0, 1] {
        let file = sample(level);
        for at in 0..file.len() {
            for changed in [file[at] ^ 0x10, 0x00, 0xFF] {
                if changed == file[at] {
                    continue;
                }
                let mut damaged = file.clone();
                damaged[at] = changed;
                match read(&damaged) {
                    Err(StoreError::Corrupt { path, offset, .. }) => {
                        assert_eq!(path, Path::new("seg"));
                        assert!(offset <= file.len() as u64);
                    }
                    other => panic!("byte {at} = {changed:#x}: {other:?}"),
                }
            }
        }
    }
}

#[test]
fn a_shortened_or_lengthened_file_is_found() {
    let file = sample(1);
    for end in 0..file.len() {
        assert!(matches!(read(&file[..end]), Err(StoreError::Corrupt { .. })), "{end} bytes");
    }
    let longer = [&file[..], &[0]].concat();
    assert!(matches!(read(&longer), Err(StoreError::Corrupt { .. })));
}

#[test]
fn blocks_that_nobody_wants_are_not_read_but_verified() {
    let mut file = sample(0);
    let offset = {
        let reader = SegmentReader::open(&file[..], Path::new("seg")).expect("intact");
        reader.blocks().next().expect("a block").offset
    };
    file[offset as usize + 60] ^= 1;
    let reader = SegmentReader::open(&file[..], Path::new("seg")).expect("header and directory are intact");
    reader.read_blocks(|block| block.offset != offset, |_, _| Ok(())).expect("the others are intact");
    assert!(matches!(reader.verify(), Err(StoreError::Corrupt { offset: found, .. }) if found == offset));
}

#[test]
fn a_newer_version_is_named() {
    let mut file = sample(0);
    let states_bytes = u32::from_le_bytes(file[32..36].try_into().expect("four bytes")) as usize;
    file[4] = 2;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&file[..36]);
    crc.update(&file[40..40 + states_bytes]);
    file[36..40].copy_from_slice(&crc.finalize().to_le_bytes());
    assert!(matches!(read(&file), Err(StoreError::NewerFormat { found: 2, newest: 1, .. })));
}

#[test]
fn version_1_never_changes() {
    let golden: &[u8] = include_bytes!("golden/segment-v1.bin");
    assert_eq!(sample(0), golden, "what this build writes");
    assert_eq!(read(golden).expect("what this build reads").len(), 3);
}

#[test]
fn a_large_row_is_alone_in_its_block() {
    let large = vec![9u8; 5 << 20];
    let rows = rows_of([(1u64, Some(vec![1u8])), (2, Some(large.clone())), (3, Some(vec![3]))]);
    let mut out = builder(1);
    let mut at = 0;
    let mut counts = Vec::new();
    while at < 3 {
        let count = out.block(1, 5, BlockKind::Base, &rows, at..3);
        counts.push(count);
        at += count;
    }
    out.finish();
    assert_eq!(counts, [1, 1, 1]);
    let blocks = read(&out.take()).expect("intact");
    assert_eq!(blocks[1].1.get(0).1.map(|value| value.len()), Some(large.len() + 4));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn prop_rows_of_any_shape_read_back(
        rows in prop::collection::vec((any::<u64>(), any::<Option<u64>>()), 0..4_000),
        text in prop::collection::vec((".{0,12}", any::<Option<(u8, u16)>>()), 0..300),
        level in 0..3,
    ) {
        let (fixed, varying) = (rows_of(rows.clone()), rows_of(text.clone()));
        let mut out = builder(level);
        for (state, rows) in [(0, &fixed), (1, &varying)] {
            let mut at = 0;
            while at < rows.len() {
                at += out.block(state, 8, BlockKind::Delta, rows, at..rows.len());
            }
        }
        out.finish();
        let (mut fixed, mut varying): (Vec<Row>, Vec<_>) = (Vec::new(), Vec::new());
        for (entry, block) in read(&out.take()).expect("intact") {
            for row in 0..block.len() {
                let (mut key, value) = block.get(row);
                if entry.state == 0 {
                    let value = value.map(|mut bytes| u64::decode(&mut bytes).expect("a u64"));
                    fixed.push((u64::decode(&mut key).expect("a u64"), value));
                } else {
                    let value = value.map(|mut bytes| <(u8, u16)>::decode(&mut bytes).expect("a pair"));
                    varying.push((String::decode(&mut key).expect("text"), value));
                }
            }
        }
        prop_assert_eq!(fixed, rows);
        prop_assert_eq!(varying, text);
    }
}

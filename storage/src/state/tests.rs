//! Claims about what collections write, which only the crate itself can see.

use super::list::ListStates;
use super::list_table::ListTable;
use super::map::MapStates;
use super::map_table::MapTable;
use super::row::CHUNK_BYTES;
use crate::codec::Data;
use crate::io::{DiskHandle, SimDisk};
use crate::key_group::KeyGroups;
use crate::log::LogOptions;
use crate::table::{Backend, StateTable};

fn groups() -> KeyGroups {
    KeyGroups::new(8)
}

fn lists() -> ListTable<u64, u64> {
    ListTable::new(&Backend::HashMap, "lists", groups(), 0..8)
}

fn maps() -> MapTable<u64, u64, String> {
    MapTable::new(&Backend::HashMap, "maps", groups(), 0..8)
}

const KEY: u64 = 5;

fn hash() -> u64 {
    KEY.group_hash(groups())
}

#[test]
fn a_small_list_is_one_row_and_a_large_one_a_head_and_full_chunks() {
    let mut lists = lists();
    lists.extend(hash(), &KEY, 0..128, 0);
    assert_eq!(lists.rows.len(), 1, "128 elements of 8 bytes fill a row");
    lists.extend(hash(), &KEY, 128..1_280, 0);
    assert_eq!(lists.rows.len(), 1 + 10);
    let mut rows = Vec::new();
    lists.rows.for_each(|row, value| rows.push((row.scope, value.items().len(), value.bytes())));
    rows.sort_unstable();
    assert_eq!(rows[0], (0, 0, 0), "the head holds no elements");
    assert!(rows[1..].iter().all(|row| (row.1, row.2) == (128, CHUNK_BYTES)));
    lists.clear(hash(), &KEY);
    assert!(lists.rows.is_empty());
}

#[test]
fn an_element_larger_than_a_chunk_has_a_row_of_its_own() {
    let mut lists = ListTable::<u64, String>::new(&Backend::HashMap, "lists", groups(), 0..8);
    let element = |n: usize| n.to_string().repeat(2 * CHUNK_BYTES);
    lists.extend(hash(), &KEY, (0..3).map(element), 0);
    assert_eq!(lists.rows.len(), 1 + 3);
    let mut found = Vec::new();
    lists.for_each(hash(), &KEY, |element| found.push(element.clone()));
    assert_eq!(found, [element(0), element(1), element(2)]);
}

#[test]
fn removing_elements_at_both_ends_removes_their_chunks() {
    let mut lists = lists();
    lists.extend(hash(), &KEY, 0..10_000, 0);
    assert!(lists.retain(hash(), &KEY, |element| (4_000..6_000).contains(element), None));
    assert!(lists.rows.len() <= 1 + 2_000 / 128 + 2, "{} rows", lists.rows.len());
    lists.extend(hash(), &KEY, [7], 0);
    let mut found = Vec::new();
    lists.for_each(hash(), &KEY, |element| found.push(*element));
    assert_eq!(found, (4_000..6_000).chain([7]).collect::<Vec<_>>());
    assert!(!lists.retain(hash(), &KEY, |_| false, None));
    assert!(lists.rows.is_empty());
}

#[test]
fn chunks_of_a_map_stay_near_their_size_while_it_grows_and_shrinks() {
    let mut maps = maps();
    let text = "forty bytes of text, more or less, again";
    let check = |maps: &mut MapTable<u64, u64, String>, entries: usize| {
        let entry_bytes = 8 + 4 + text.len();
        let rows = maps.rows.len();
        if entries * entry_bytes > CHUNK_BYTES {
            assert!(rows <= 2 + 4 * entries * entry_bytes / CHUNK_BYTES, "{rows} rows of {entries} entries");
            assert!(rows > entries * entry_bytes / CHUNK_BYTES, "{rows} rows of {entries} entries");
        }
        let mut most = 0;
        maps.rows.for_each(|_, row| most = most.max(row.bytes()));
        assert!(most <= 3 * CHUNK_BYTES, "a row of {most} bytes");
    };
    for user_key in 0..5_000 {
        maps.put(hash(), &KEY, &user_key, text.to_owned(), |_| false, 0);
        if user_key % 97 == 0 {
            check(&mut maps, user_key as usize + 1);
        }
    }
    assert_eq!(maps.len(hash(), &KEY), 5_000);
    for user_key in 0..4_999 {
        assert!(maps.remove(hash(), &KEY, &user_key));
        assert!(!maps.remove(hash(), &KEY, &user_key));
        if user_key % 97 == 0 {
            check(&mut maps, 4_999 - user_key as usize);
        }
    }
    assert_eq!(maps.rows.len(), 1, "a small map is one row again");
    assert_eq!(maps.get(hash(), &KEY, &4_999, String::len), Some(text.len()));
    assert!(maps.remove(hash(), &KEY, &4_999));
    assert!(maps.rows.is_empty());
}

#[test]
fn values_that_grow_split_chunks_and_values_that_shrink_merge_them() {
    let mut maps = maps();
    for user_key in 0..100 {
        maps.put(hash(), &KEY, &user_key, user_key.to_string(), |_| false, 0);
    }
    let few = maps.rows.len();
    for user_key in 0..100 {
        maps.modify(hash(), &KEY, &user_key, |value| value.push_str(&"x".repeat(2_000)), 0);
    }
    // As many chunks as entries, of which some get two entries and some none.
    assert!(maps.rows.len() > 50, "{} rows of 100 entries of 2,000 bytes", maps.rows.len());
    // A merge follows every change, but only so many of them: twenty more catch up.
    for user_key in (0..100).chain(0..20) {
        maps.put(hash(), &KEY, &user_key, user_key.to_string(), |_| false, 0);
    }
    assert!(maps.rows.len() <= few + 4, "{} rows, {few} before", maps.rows.len());
    assert_eq!(maps.len(hash(), &KEY), 100);
    maps.clear(hash(), &KEY);
    assert!(maps.rows.is_empty());
}

/// A log whose pages have this much memory, on a simulated disk.
fn log_of(memory_bytes: usize) -> Backend {
    let disk = DiskHandle::new(SimDisk::new());
    disk.create_dir_all("/job/shared").expect("the disk is empty");
    Backend::Log(LogOptions {
        disk: Some(disk),
        job_dir: Some("/job".into()),
        scratch: Some("/job/shared/scratch-a1-0-0".into()),
        memory_bytes: Some(memory_bytes),
    })
}

/// Announces `keys` in pieces as an operator does, and calls `each` with the hash of one and the key once what it needs is there.
fn announced<T>(
    state: &mut T,
    keys: &[u64],
    announce: impl Fn(&mut T, std::vec::IntoIter<u64>) -> usize,
    table: impl Fn(&mut T) -> &mut dyn StateTable,
    mut each: impl FnMut(&mut T, u64, u64),
) {
    let mut left = keys;
    while !left.is_empty() {
        let hashes: Vec<u64> = left.iter().map(|key| key.group_hash(groups())).collect();
        let fits = announce(state, hashes.clone().into_iter());
        while !table(state).ready().expect("the disk is sound") {}
        for (key, hash) in left.iter().zip(hashes).take(fits) {
            each(state, hash, *key);
        }
        left = &left[fits..];
        table(state).maintain(100).expect("the disk is sound");
    }
}

/// Numbers below `count`, each once, in no order.
fn shuffled(count: u64, seed: u64) -> Vec<u64> {
    let mut keys: Vec<u64> = (0..count).collect();
    keys.sort_by_key(|key| (key ^ seed).key_hash());
    keys
}

#[test]
fn lists_larger_than_memory_are_appended_to_and_read_without_waiting_for_a_chunk() {
    const KEYS: u64 = 300;
    let mut lists = ListStates::<u64, u64>::new(&log_of(1 << 20), "lists", groups(), 0..8);
    // In rounds, so that the chunks of a list lie far apart.
    for round in 0..12 {
        announced(
            &mut lists,
            &shuffled(KEYS, round),
            ListStates::announce,
            ListStates::table,
            |lists, hash, key| {
                lists.add_all(0, hash, &key, (0..100).map(|i| key * 10_000 + round * 100 + i));
            },
        );
    }
    let filled = lists.table().stats();
    assert!(filled.keys > KEYS * 9, "the lists lie in chunks: {filled:?}");
    announced(
        &mut lists,
        &shuffled(KEYS, 99),
        ListStates::announce,
        ListStates::table,
        |lists, hash, key| {
            let expected: Vec<u64> = (0..1_200).map(|i| key * 10_000 + i).collect();
            assert_eq!(lists.get(0, hash, &key), expected);
        },
    );
    let stats = lists.table().stats();
    assert!(stats.page_reads > filled.page_reads + KEYS, "chunks came from the disk: {stats:?}");
    assert_eq!(stats.page_reads_blocking, 0, "and nobody waited for one: {filled:?}, {stats:?}");
}

#[test]
fn maps_larger_than_memory_are_changed_and_read_without_waiting_for_a_chunk() {
    const KEYS: u64 = 300;
    let mut maps = MapStates::<u64, u64, String>::new(&log_of(1 << 20), "maps", groups(), 0..8);
    let value = |key: u64, user_key: u64| format!("{key} {user_key} {}", "x".repeat(50));
    for round in 0..8 {
        announced(
            &mut maps,
            &shuffled(KEYS, round),
            MapStates::announce,
            MapStates::table,
            |maps, hash, key| {
                for user_key in round * 10..round * 10 + 10 {
                    maps.put(0, hash, &key, &user_key, value(key, user_key));
                }
            },
        );
    }
    let filled = maps.table().stats();
    assert!(filled.keys > KEYS * 6, "the maps lie in chunks: {filled:?}");
    announced(&mut maps, &shuffled(KEYS, 99), MapStates::announce, MapStates::table, |maps, hash, key| {
        assert_eq!(maps.get(0, hash, &key, &(key % 80)), Some(value(key, key % 80)));
        assert_eq!(maps.keys(0, hash, &key).len(), 80);
        assert!(maps.remove(hash, &key, &7));
    });
    let stats = maps.table().stats();
    assert!(stats.page_reads > filled.page_reads + KEYS, "chunks came from the disk: {stats:?}");
    assert_eq!(stats.page_reads_blocking, 0, "and nobody waited for one: {filled:?}, {stats:?}");
}

#[test]
fn a_collection_that_does_not_fit_half_of_the_memory_is_read_all_the_same() {
    let mut lists = ListStates::<u64, u64>::new(&log_of(64 << 10), "lists", groups(), 0..8);
    for round in 0..40u64 {
        announced(
            &mut lists,
            &shuffled(20, round),
            ListStates::announce,
            ListStates::table,
            |lists, hash, key| {
                lists.add_all(0, hash, &key, (0..100).map(|i| round * 100 + i));
            },
        );
    }
    announced(&mut lists, &shuffled(20, 99), ListStates::announce, ListStates::table, |lists, hash, key| {
        assert_eq!(lists.get(0, hash, &key), (0..4_000).collect::<Vec<u64>>());
    });
    assert!(lists.table().stats().page_reads_blocking > 0, "the rest was read as it was used");
}

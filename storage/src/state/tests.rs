//! Claims about what collections write, which only the crate itself can see.

use super::list_table::ListTable;
use super::map_table::MapTable;
use super::row::CHUNK_BYTES;
use crate::codec::Data;
use crate::key_group::KeyGroups;
use crate::table::Backend;

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

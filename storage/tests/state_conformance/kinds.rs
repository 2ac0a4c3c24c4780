//! What each kind of state does, per key and namespace.

use crate::harness::{Job, Kind, Numbers, Q, Task};
use std::collections::BTreeMap;
use thalweg_storage::Data;
use thalweg_storage::state::{ListStates, MapStates, Scoped};

fn key(number: u64, namespace: u64) -> Q {
    Scoped::new(number, namespace)
}

/// A task that owns everything, and the hash of a key.
fn whole(job: &Job) -> (Task, impl Fn(&Q) -> u64 + use<>) {
    let groups = job.groups;
    (job.task(job.all()), move |key: &Q| key.group_hash(groups))
}

fn values_are_set_changed_and_cleared_per_key_and_namespace(kind: Kind) {
    let (mut task, hash) = whole(&Job::new(kind, 128));
    let values = &mut task.states.values;
    for number in 0..50 {
        for namespace in 0..4 {
            let key = key(number, namespace);
            assert_eq!(values.get(0, hash(&key), &key), None);
            values.set(0, hash(&key), &key, number * 10 + namespace);
        }
    }
    values.clear(hash(&key(7, 2)), &key(7, 2));
    values.clear(hash(&key(7, 2)), &key(7, 2));
    values.update(0, hash(&key(8, 0)), &key(8, 0), || unreachable!("it is there"), |value| *value += 1);
    values.update(0, hash(&key(99, 0)), &key(99, 0), || 5, |value| *value += 1);
    for number in 0..50 {
        for namespace in 0..4 {
            let key = key(number, namespace);
            let expected = match (number, namespace) {
                (7, 2) => None,
                (8, 0) => Some(81),
                _ => Some(number * 10 + namespace),
            };
            assert_eq!(values.get(0, hash(&key), &key), expected);
        }
    }
    assert_eq!(values.get(0, hash(&key(99, 0)), &key(99, 0)), Some(6));
}

fn announced_keys_can_be_used(kind: Kind) {
    let (mut task, hash) = whole(&Job::new(kind, 128));
    let keys: Vec<Q> = (0..1_000).map(|number| key(number, number % 3)).collect();
    let mut used = 0;
    while used < keys.len() {
        let rest = &keys[used..];
        let values = &mut task.states.values;
        let count = values.announce(rest.iter().map(&hash));
        assert!((1..=rest.len()).contains(&count), "at least one of them, and no more than there are");
        while !values.table().ready().expect("an intact disk") {
            std::thread::yield_now();
        }
        for key in &rest[..count] {
            values.update(0, hash(key), key, || 0, |value| *value += 1);
        }
        used += count;
    }
    assert!(keys.iter().all(|key| task.states.values.get(0, hash(key), key) == Some(1)));
}

fn lists_keep_order_at_any_length(kind: Kind) {
    let (mut task, hash) = whole(&Job::new(kind, 128));
    let lists = &mut task.states.lists;
    let (long, short) = (key(1, 0), key(1, 1));
    let (long_hash, short_hash) = (hash(&long), hash(&short));
    assert!(lists.is_empty(0, long_hash, &long));
    assert_eq!(lists.get(0, long_hash, &long), []);
    for element in 0..3_000 {
        lists.add(0, long_hash, &long, element);
    }
    lists.add_all(0, long_hash, &long, 3_000..5_000);
    lists.add_all(0, short_hash, &short, [9, 8]);
    lists.add_all(0, short_hash, &short, []);
    assert_eq!(lists.get(0, long_hash, &long), (0..5_000).collect::<Vec<_>>());
    assert_eq!(lists.get(0, short_hash, &short), [9, 8]);
    lists.update(0, long_hash, &long, 5..9);
    assert_eq!(lists.get(0, long_hash, &long), [5, 6, 7, 8]);
    lists.update(0, long_hash, &long, []);
    assert!(lists.is_empty(0, long_hash, &long));
    lists.clear(short_hash, &short);
    assert!(lists.is_empty(0, short_hash, &short));
    assert_eq!(lists.table().stats().keys, 0, "an empty list has no row");
}

fn lists_of_text_hold_elements_of_any_size(kind: Kind) {
    let job = Job::new(kind, 7);
    let mut lists = ListStates::<String, String>::new(&job.backend(), "texts", job.groups, job.all());
    let mut numbers = Numbers::new(3);
    for number in 0..20 {
        let key = format!("key {number}");
        let hash = key.group_hash(job.groups);
        let texts: Vec<String> =
            (0..number * 10).map(|_| "text".repeat(numbers.below(900) as usize)).collect();
        texts.iter().for_each(|text| lists.add(0, hash, &key, text.clone()));
        assert_eq!(lists.get(0, hash, &key), texts);
    }
}

fn merging_namespaces_of_lists_moves_the_elements(kind: Kind) {
    let (mut task, hash) = whole(&Job::new(kind, 128));
    let lists = &mut task.states.lists;
    let keys: Vec<Q> = (0..5).map(|namespace| key(1, namespace)).collect();
    let hashed: Vec<(u64, &Q)> = keys.iter().map(|key| (hash(key), key)).collect();
    lists.add_all(0, hashed[0].0, hashed[0].1, [1, 2]);
    lists.add_all(0, hashed[1].0, hashed[1].1, [3]);
    lists.add_all(0, hashed[3].0, hashed[3].1, 4..1_000);
    // The target among the sources, an empty source, and namespaces of another key.
    lists.add(0, hash(&key(2, 1)), &key(2, 1), 7);
    lists.merge(0, hashed[0], hashed[..4].iter().copied());
    assert_eq!(lists.get(0, hashed[0].0, hashed[0].1), (1..1_000).collect::<Vec<_>>());
    assert!((1..5).all(|i| lists.is_empty(0, hashed[i].0, hashed[i].1)));
    lists.merge(0, hashed[4], [hashed[0]]);
    assert_eq!(lists.get(0, hashed[4].0, hashed[4].1), (1..1_000).collect::<Vec<_>>());
    lists.merge(0, hashed[4], [hashed[1], hashed[2]]);
    assert_eq!(lists.get(0, hashed[4].0, hashed[4].1).len(), 999, "nothing to merge changes nothing");
    assert_eq!(lists.get(0, hash(&key(2, 1)), &key(2, 1)), [7]);
}

fn maps_find_put_and_remove_entries_at_any_size(kind: Kind) {
    let (mut task, hash) = whole(&Job::new(kind, 128));
    let maps = &mut task.states.maps;
    let (key, other) = (key(1, 0), key(1, 1));
    let (hash, other_hash) = (hash(&key), hash(&other));
    let mut model = BTreeMap::new();
    maps.put(0, other_hash, &other, &3, "other".into());
    assert!(maps.is_empty(0, hash, &key));
    assert!(!maps.remove(hash, &key, &3));
    let mut numbers = Numbers::new(1);
    for round in 0..6_000u64 {
        // It grows to some hundred entries, shrinks to a few, and grows again.
        let user_key = numbers.below(700);
        let shrinks = round / 1_500 % 2 == 1;
        if numbers.below(10) < if shrinks { 9 } else { 2 } {
            assert_eq!(maps.remove(hash, &key, &user_key), model.remove(&user_key).is_some());
        } else {
            let value = "v".repeat(numbers.below(60) as usize);
            maps.put(0, hash, &key, &user_key, value.clone());
            model.insert(user_key, value);
        }
        let asked = numbers.below(700);
        assert_eq!(maps.get(0, hash, &key, &asked).as_ref(), model.get(&asked));
        assert_eq!(maps.contains(0, hash, &key, &asked), model.contains_key(&asked));
        assert_eq!(maps.len(0, hash, &key), model.len() as u64);
        if round % 100 == 0 {
            assert_eq!(maps.entries(0, hash, &key).into_iter().collect::<BTreeMap<_, _>>(), model);
            let mut keys = maps.keys(0, hash, &key);
            keys.sort_unstable();
            assert_eq!(keys, model.keys().copied().collect::<Vec<_>>());
        }
    }
    assert_eq!(maps.entries(0, other_hash, &other), [(3, "other".to_owned())]);
    maps.clear(hash, &key);
    assert!(maps.is_empty(0, hash, &key));
    maps.remove(other_hash, &other, &3);
    assert!(maps.is_empty(0, other_hash, &other));
    assert_eq!(maps.table().stats().keys, 0, "an empty map has no row");
}

fn iterating_a_map_may_remove_entries(kind: Kind) {
    let (mut task, hash) = whole(&Job::new(kind, 128));
    let maps = &mut task.states.maps;
    for entries in [0, 1, 10, 3_000u64] {
        let key = key(entries, 0);
        let hash = hash(&key);
        for user_key in 0..entries {
            maps.put(0, hash, &key, &user_key, user_key.to_string());
        }
        let mut seen = 0;
        maps.retain(0, hash, &key, |user_key, value| {
            seen += 1;
            assert_eq!(*value, user_key.to_string());
            user_key % 3 != 0
        });
        assert_eq!(seen, entries);
        assert_eq!(maps.len(0, hash, &key), entries - entries.div_ceil(3));
        assert!((0..entries).all(|user_key| maps.contains(0, hash, &key, &user_key) == (user_key % 3 != 0)));
        maps.retain(0, hash, &key, |_, _| false);
        assert!(maps.is_empty(0, hash, &key));
    }
    assert_eq!(maps.table().stats().keys, 0, "an empty map has no row");
}

fn maps_take_any_key(kind: Kind) {
    let job = Job::new(kind, 128);
    let mut maps = MapStates::<(), (String, u8), Vec<u8>>::new(&job.backend(), "maps", job.groups, job.all());
    let hash = ().group_hash(job.groups);
    let user_key = |number: u8| ("user".repeat(usize::from(number)), number);
    for number in 0..=255 {
        maps.put(0, hash, &(), &user_key(number), vec![number; usize::from(number)]);
    }
    for number in 0..=255 {
        let expected = Some(vec![number; usize::from(number)]);
        assert_eq!(maps.get(0, hash, &(), &user_key(number)), expected);
    }
}

fn reducing_and_aggregating_fold_and_merge(kind: Kind) {
    let (mut task, hash) = whole(&Job::new(kind, 128));
    let keys: Vec<Q> = (0..4).map(|namespace| key(1, namespace)).collect();
    let hashed: Vec<(u64, &Q)> = keys.iter().map(|key| (hash(key), key)).collect();
    let (maxima, averages) = (&mut task.states.maxima, &mut task.states.averages);
    assert_eq!(maxima.get(0, hashed[0].0, hashed[0].1), None);
    assert_eq!(averages.get(0, hashed[0].0, hashed[0].1), None);
    for (i, (hash, key)) in hashed[..3].iter().enumerate() {
        for value in [4, 9 + i as u64, 2] {
            maxima.add(0, *hash, key, value);
            averages.add(0, *hash, key, value);
        }
        assert_eq!(maxima.get(0, *hash, key), Some(9 + i as u64));
        assert_eq!(averages.get(0, *hash, key), Some((15 + i as u64, 3)));
    }
    maxima.merge(0, hashed[0], hashed.iter().copied());
    averages.merge(0, hashed[0], hashed.iter().copied());
    assert_eq!(maxima.get(0, hashed[0].0, hashed[0].1), Some(11));
    assert_eq!(averages.get(0, hashed[0].0, hashed[0].1), Some((48, 9)));
    for (hash, key) in &hashed[1..] {
        assert_eq!(maxima.get(0, *hash, key), None);
        assert_eq!(averages.get(0, *hash, key), None);
    }
    // Into a namespace without a value.
    maxima.merge(0, hashed[3], [hashed[0], hashed[1]]);
    averages.merge(0, hashed[3], [hashed[0], hashed[1]]);
    assert_eq!(maxima.get(0, hashed[3].0, hashed[3].1), Some(11));
    assert_eq!(averages.get(0, hashed[3].0, hashed[3].1), Some((48, 9)));
    maxima.clear(hashed[3].0, hashed[3].1);
    averages.clear(hashed[3].0, hashed[3].1);
    assert_eq!(maxima.get(0, hashed[3].0, hashed[3].1), None);
    assert_eq!(averages.get(0, hashed[3].0, hashed[3].1), None);
}

for_each_backend!(
    values_are_set_changed_and_cleared_per_key_and_namespace,
    announced_keys_can_be_used,
    lists_keep_order_at_any_length,
    lists_of_text_hold_elements_of_any_size,
    merging_namespaces_of_lists_moves_the_elements,
    maps_find_put_and_remove_entries_at_any_size,
    iterating_a_map_may_remove_entries,
    maps_take_any_key,
    reducing_and_aggregating_fold_and_merge,
);

//! Operator state: elements that belong to an operator's subtask and not to a key, and how they are spread over the
//! subtasks of a job that starts from a checkpoint.
//!
//! The rules are Apache Flink's (`RoundRobinOperatorStateRepartitioner`): a *split* list is one list that all subtasks share,
//! dealt out anew; of a *union* list every subtask gets the whole; *broadcast* state is the same in all subtasks.
//!
//! Always true:
//! - of a split list no element is lost or doubled, elements keep their order, and at an unchanged parallelism each subtask
//!   gets its own back;
//! - every subtask can tell its own part from what the manifest says of all subtasks, without asking others.
//!
//! Pure: no state is kept and nothing is read from a disk.

use crate::codec::{Data, Schema, describe};
use crate::error::StoreError;
use crate::manifest::{OperatorState, OperatorStateMode, StateBlob};
use std::collections::{BTreeMap, BTreeSet};

/// What `subtask` of `parallelism` gets of the operator state that a checkpoint holds for an operator. Elements of one name
/// come together and in order; names come in order too.
///
/// # Errors
/// [`StoreError::Incompatible`]: elements of one name were stored under several modes, which no engine does.
///
/// # Panics
/// When `subtask` is not below `parallelism`.
pub fn redistribute(
    stored: &OperatorState,
    subtask: u32,
    parallelism: u32,
) -> Result<Vec<StateBlob>, StoreError> {
    assert!(subtask < parallelism, "subtask {subtask} of {parallelism}");
    let mut part = Vec::new();
    for (name, mode) in modes(stored)? {
        let of_subtask = |index: usize| {
            stored.subtasks[index].operator_state.iter().filter(move |element| element.name == name)
        };
        let all = || (0..stored.subtasks.len()).flat_map(of_subtask);
        match mode {
            OperatorStateMode::Split if stored.parallelism == parallelism => {
                let own = stored.subtasks.iter().position(|stored| stored.index == subtask);
                part.extend(own.into_iter().flat_map(of_subtask).cloned());
            }
            OperatorStateMode::Split => {
                let share = all().skip(subtask as usize).step_by(parallelism as usize);
                part.extend(share.cloned());
            }
            OperatorStateMode::Union => part.extend(all().cloned()),
            // All copies are equal, but a subtask that had finished, or never began, may hold none.
            OperatorStateMode::Broadcast => {
                let copies = stored.subtasks.len();
                let own = subtask as usize % copies.max(1);
                let copy = (0..copies).map(|i| (own + i) % copies).find(|&i| of_subtask(i).next().is_some());
                part.extend(copy.into_iter().flat_map(of_subtask).cloned());
            }
        }
    }
    Ok(part)
}

/// The mode of each name.
fn modes(stored: &OperatorState) -> Result<BTreeMap<&str, OperatorStateMode>, StoreError> {
    let mut modes = BTreeMap::new();
    for element in stored.subtasks.iter().flat_map(|subtask| &subtask.operator_state) {
        let mode = *modes.entry(element.name.as_str()).or_insert(element.mode);
        if mode != element.mode {
            return Err(StoreError::Incompatible(format!(
                "the checkpoint holds operator state {:?} of operator {:?} both as {} and as {}: it was not written by this \
                 engine; start from another checkpoint",
                element.name,
                stored.uid,
                mode.as_str(),
                element.mode.as_str()
            )));
        }
    }
    Ok(modes)
}

/// Encodes `elements` for a snapshot.
pub fn encode<T: Data>(name: &str, mode: OperatorStateMode, elements: &[T]) -> Vec<StateBlob> {
    let blob = |element: &T| {
        let mut bytes = Vec::with_capacity(T::FIXED_BYTES.unwrap_or(0));
        element.encode(&mut bytes);
        StateBlob { name: name.to_owned(), mode, schema: T::schema(), bytes }
    };
    elements.iter().map(blob).collect()
}

/// Decodes the elements of state `name` among `blobs`, which [`redistribute`] gave. Those of older versions of `T`
/// are migrated.
///
/// # Errors
/// [`StoreError::Incompatible`]: the state was registered with another mode, `T` does not read it, or the bytes hold
/// none.
pub fn decode<T: Data>(
    name: &str,
    mode: OperatorStateMode,
    blobs: &[StateBlob],
) -> Result<Vec<T>, StoreError> {
    let element = |blob: &StateBlob| {
        if blob.mode != mode {
            return Err(StoreError::Incompatible(format!(
                "operator state {name:?}: the checkpoint holds it as {}, the operator wants {}: restore with the mode it was \
                 stored with, or keep the new state under another name",
                blob.mode.as_str(),
                mode.as_str()
            )));
        }
        let reader = T::reader(&blob.schema).ok_or_else(|| unreadable(name, &blob.schema, &T::schema()))?;
        reader.read_whole(&blob.bytes).map_err(|error| {
            StoreError::Incompatible(format!("operator state {name:?} is not readable: {error}"))
        })
    };
    blobs.iter().filter(|blob| blob.name == name).map(element).collect()
}

/// Checks that each name among `blobs` is one of `wanted`.
///
/// # Errors
/// [`StoreError::Incompatible`], naming the state.
pub fn check_names(blobs: &[StateBlob], wanted: &[&str]) -> Result<(), StoreError> {
    let names: BTreeSet<&str> = blobs.iter().map(|blob| blob.name.as_str()).collect();
    match names.into_iter().find(|name| !wanted.contains(name)) {
        None => Ok(()),
        Some(name) => Err(StoreError::Incompatible(format!(
            "the checkpoint holds operator state {name:?}, but the operator declares none of that name: declare it, or allow \
             stored state to be dropped"
        ))),
    }
}

fn unreadable(name: &str, stored: &Schema, wanted: &Schema) -> StoreError {
    let (stored, wanted) = (describe(stored), describe(wanted));
    StoreError::Incompatible(format!(
        "operator state {name:?}: the checkpoint holds elements of type {stored}, the operator wants {wanted}, which does \
         not read them: give the new type a higher version and name the old one as `from` in its `data!` or `pod!`, or restore \
         with the old type"
    ))
}

impl OperatorStateMode {
    /// How messages name it.
    fn as_str(self) -> &'static str {
        match self {
            OperatorStateMode::Split => "a split list",
            OperatorStateMode::Union => "a union list",
            OperatorStateMode::Broadcast => "broadcast state",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::SubtaskState;
    use proptest::prelude::*;

    /// An operator whose subtasks hold these elements of state `name`; subtasks without an entry are missing.
    fn operator(
        name: &str,
        mode: OperatorStateMode,
        parallelism: u32,
        lists: &[(u32, Vec<u64>)],
    ) -> OperatorState {
        let subtask = |(index, elements): &(u32, Vec<u64>)| SubtaskState {
            index: *index,
            operator_state: encode(name, mode, elements),
            ..SubtaskState::default()
        };
        let subtasks = lists.iter().map(subtask).collect();
        OperatorState { uid: "source".into(), parallelism, keyed: Vec::new(), subtasks }
    }

    fn all_parts(
        stored: &OperatorState,
        name: &str,
        mode: OperatorStateMode,
        parallelism: u32,
    ) -> Vec<Vec<u64>> {
        (0..parallelism)
            .map(|subtask| {
                let part = redistribute(stored, subtask, parallelism).expect("one mode");
                decode(name, mode, &part).expect("the same type and mode")
            })
            .collect()
    }

    fn lists() -> impl Strategy<Value = (u32, Vec<(u32, Vec<u64>)>)> {
        (1..12u32).prop_flat_map(|parallelism| {
            let list = prop::option::weighted(0.9, prop::collection::vec(any::<u64>(), 0..9));
            let lists = prop::collection::vec(list, parallelism as usize);
            lists.prop_map(move |lists| {
                let present = (0..).zip(lists).filter_map(|(i, list)| Some((i, list?))).collect();
                (parallelism, present)
            })
        })
    }

    proptest! {
        #[test]
        fn prop_a_split_list_is_dealt_out_whole_and_evenly((old, lists) in lists(), new in 1..12u32) {
            let stored = operator("s", OperatorStateMode::Split, old, &lists);
            let parts = all_parts(&stored, "s", OperatorStateMode::Split, new);
            let mut before: Vec<u64> = lists.iter().flat_map(|(_, list)| list.clone()).collect();
            let mut after: Vec<u64> = parts.concat();
            if old == new {
                for (i, part) in (0..).zip(&parts) {
                    let own = lists.iter().find(|(index, _)| *index == i).map(|(_, list)| list.clone());
                    prop_assert_eq!(part, &own.unwrap_or_default());
                }
            } else {
                let sizes = parts.iter().map(Vec::len);
                prop_assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
            }
            before.sort_unstable();
            after.sort_unstable();
            prop_assert_eq!(before, after);
        }

        #[test]
        fn prop_every_subtask_gets_the_whole_union_list((old, lists) in lists(), new in 1..12u32) {
            let stored = operator("u", OperatorStateMode::Union, old, &lists);
            let whole: Vec<u64> = lists.iter().flat_map(|(_, list)| list.clone()).collect();
            for part in all_parts(&stored, "u", OperatorStateMode::Union, new) {
                prop_assert_eq!(&part, &whole);
            }
        }

        #[test]
        fn prop_every_subtask_gets_one_copy_of_broadcast_state(
            old in 1..12u32, new in 1..12u32, copy in prop::collection::vec(any::<u64>(), 0..9), without: u32,
        ) {
            // A subtask that had finished holds none.
            let lists: Vec<_> = (0..old)
                .map(|i| (i, if old > 1 && i == without % old { Vec::new() } else { copy.clone() }))
                .collect();
            let stored = operator("b", OperatorStateMode::Broadcast, old, &lists);
            for part in all_parts(&stored, "b", OperatorStateMode::Broadcast, new) {
                prop_assert_eq!(&part, &copy);
            }
        }
    }

    #[test]
    fn states_of_several_names_are_spread_each_by_its_mode() {
        let mut stored = operator("offsets", OperatorStateMode::Split, 2, &[(0, vec![1, 2]), (1, vec![3])]);
        for subtask in &mut stored.subtasks {
            subtask.operator_state.extend(encode("rules", OperatorStateMode::Broadcast, &[9u64]));
            let own = u64::from(subtask.index);
            subtask.operator_state.extend(encode("seen", OperatorStateMode::Union, &[own]));
        }
        let part = redistribute(&stored, 1, 3).expect("one mode each");
        assert_eq!(decode::<u64>("offsets", OperatorStateMode::Split, &part).unwrap(), [2]);
        assert_eq!(decode::<u64>("rules", OperatorStateMode::Broadcast, &part).unwrap(), [9]);
        assert_eq!(decode::<u64>("seen", OperatorStateMode::Union, &part).unwrap(), [0, 1]);
        assert!(check_names(&part, &["offsets", "rules", "seen"]).is_ok());
        let unknown = check_names(&part, &["offsets", "seen"]).expect_err("nobody wants the rules");
        assert!(unknown.to_string().contains("\"rules\""), "{unknown}");
    }

    #[test]
    fn another_mode_than_the_stored_one_is_refused() {
        let stored = operator("offsets", OperatorStateMode::Split, 1, &[(0, vec![1])]);
        let part = redistribute(&stored, 0, 1).expect("one mode");
        let refused =
            decode::<u64>("offsets", OperatorStateMode::Union, &part).expect_err("the mode changed");
        let message = refused.to_string();
        assert!(
            message.contains("\"offsets\"") && message.contains("split") && message.contains("union"),
            "{message}"
        );
        let mut mixed = stored;
        mixed.subtasks[0].operator_state.extend(encode("offsets", OperatorStateMode::Union, &[2u64]));
        assert!(matches!(redistribute(&mixed, 0, 1), Err(StoreError::Incompatible(_))));
    }

    #[test]
    fn an_element_of_another_type_or_with_bytes_left_over_is_refused_by_name() {
        let stored = operator("offsets", OperatorStateMode::Split, 1, &[(0, vec![1])]);
        let mut part = redistribute(&stored, 0, 1).expect("one mode");
        let message =
            decode::<String>("offsets", OperatorStateMode::Split, &part).expect_err("u64").to_string();
        for what in ["\"offsets\"", "u64", "String", "from"] {
            assert!(message.contains(what), "{message}");
        }
        part[0].bytes.push(0);
        assert!(decode::<u64>("offsets", OperatorStateMode::Split, &part).is_err());
    }
}

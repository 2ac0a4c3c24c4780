//! What is printed is what `serde_json` prints of the value itself.

use super::*;
use crate::Data;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use zerocopy::{FromBytes, Immutable, IntoBytes};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, postcard_schema::Schema)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, postcard_schema::Schema)]
struct Metres(f64);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, postcard_schema::Schema)]
struct Pair(i8, u16);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, postcard_schema::Schema)]
enum Choice {
    Nothing,
    One(i64),
    Two(u8, String),
    Named { at: u32, by: Option<char> },
    Nested(Metres),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, postcard_schema::Schema)]
struct Everything {
    unit: Unit,
    flag: bool,
    small: (u8, i8, u16, i16),
    wide: (u32, i32, u64, i64),
    number: f64,
    character: char,
    text: String,
    list: Vec<Choice>,
    by_name: BTreeMap<String, Pair>,
    by_number: BTreeMap<i32, bool>,
    perhaps: Option<Metres>,
    empty: (),
}
crate::data!(Everything);

#[derive(Clone, Copy, Debug, PartialEq, Serialize, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Point {
    x: i64,
    y: f64,
}
crate::pod!(Point { x: i64, y: f64 });

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![
        Just(Choice::Nothing),
        any::<i64>().prop_map(Choice::One),
        (any::<u8>(), any::<String>()).prop_map(|(n, text)| Choice::Two(n, text)),
        (any::<u32>(), any::<Option<char>>()).prop_map(|(at, by)| Choice::Named { at, by }),
        any::<f64>().prop_map(|metres| Choice::Nested(Metres(metres))),
    ]
}

fn everything() -> impl Strategy<Value = Everything> {
    let scalars = (
        any::<bool>(),
        any::<(u8, i8, u16, i16)>(),
        any::<(u32, i32, u64, i64)>(),
        any::<f64>(),
        any::<(char, String)>(),
    );
    let collections = (
        prop::collection::vec(choice(), 0..4),
        prop::collection::btree_map(any::<String>(), any::<(i8, u16)>().prop_map(|(a, b)| Pair(a, b)), 0..4),
        prop::collection::btree_map(any::<i32>(), any::<bool>(), 0..4),
        any::<Option<f64>>(),
    );
    (scalars, collections).prop_map(|(scalars, (list, by_name, by_number, perhaps))| {
        let (flag, small, wide, number, (character, text)) = scalars;
        let perhaps = perhaps.map(Metres);
        let unit = Unit;
        Everything {
            unit,
            flag,
            small,
            wide,
            number,
            character,
            text,
            list,
            by_name,
            by_number,
            perhaps,
            empty: (),
        }
    })
}

/// The schema's JSON and serde's, both parsed.
fn both<T: Data + Serialize>(value: &T) -> (serde_json::Value, serde_json::Value) {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    let ours = to_json(&T::schema(), &bytes).expect("what was encoded is decoded").to_string();
    let theirs = serde_json::to_string(value).expect("plain data");
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    (parsed(&ours), parsed(&theirs))
}

fn assert_same<T: Data + Serialize>(value: &T) {
    let (ours, theirs) = both(value);
    assert_eq!(ours, theirs);
}

/// Whose shortest text has an exact tie, and which a reader that is not exact takes for its neighbour.
#[test]
fn a_double_is_printed_so_that_it_is_read_back_exactly() {
    for value in [-4_676_505_771_072_993.0 / 4.0, -2_338_252_885_536_497.0 / 2.0, f64::MIN_POSITIVE, f64::MAX]
    {
        let text = to_json(&f64::schema(), &value.to_le_bytes()).expect("eight bytes").to_string();
        assert_eq!(text.parse::<f64>(), Ok(value), "{text}");
        assert_same(&value);
    }
}

proptest! {
    #[test]
    fn prop_a_value_encoded_by_postcard_prints_as_serde_json_prints_it(value in everything()) {
        let (ours, theirs) = both(&value);
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn prop_a_value_in_the_own_encoding_prints_as_serde_json_prints_it(
        numbers: (u8, i8, u16, i16, u32, i32, u64, i64),
        others: (f64, bool, char, String, Option<String>),
        lists in (prop::collection::vec(any::<(u64, String)>(), 0..4), any::<[i16; 3]>(), any::<Option<()>>()),
        maps in (
            prop::collection::btree_map(any::<String>(), any::<u64>(), 0..4),
            prop::collection::btree_map(any::<u16>(), any::<Vec<u8>>(), 0..4),
        ),
        inner in everything(),
        point: (i64, f64),
    ) {
        let value = (numbers, others, lists, maps, vec![inner], Point { x: point.0, y: point.1 });
        let (ours, theirs) = both(&value);
        prop_assert_eq!(ours, theirs);
    }

    /// Two shortest texts of an `f32` may name it equally well, and `serde_json` takes the other.
    #[test]
    fn prop_an_f32_is_read_back_exactly(number: f32) {
        let mut bytes = Vec::new();
        number.encode(&mut bytes);
        let text = to_json(&f32::schema(), &bytes).unwrap().to_string();
        match number.is_finite() {
            true => prop_assert_eq!(text.parse(), Ok(number)),
            false => prop_assert_eq!(text, "null"),
        }
    }

    #[test]
    fn prop_any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = to_json(&Everything::schema(), &bytes);
        let _ = to_json(&Vec::<Vec<(u8, Option<String>)>>::schema(), &bytes);
        let _ = to_json(&Vec::<()>::schema(), &bytes);
    }

    #[test]
    fn prop_bytes_that_no_value_has_are_refused(value in everything(), cut: prop::sample::Index) {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        prop_assert!(to_json(&Everything::schema(), &bytes[..cut.index(bytes.len())]).is_err());
        bytes.push(0);
        prop_assert!(to_json(&Everything::schema(), &bytes).is_err());
    }
}

#[test]
fn the_widest_numbers_keep_all_digits() {
    for number in [i128::MIN, -1, 0, i128::MAX] {
        let mut bytes = Vec::new();
        number.encode(&mut bytes);
        assert_eq!(to_json(&i128::schema(), &bytes).unwrap().to_string(), number.to_string());
    }
    assert_same(&(u64::MAX, i64::MIN, f64::MAX, f64::MIN_POSITIVE, -0.0));
}

#[test]
fn maps_whose_keys_have_no_name_become_lists_of_pairs() {
    let map = BTreeMap::from([((1u8, 2u8), "a".to_owned())]);
    let mut bytes = Vec::new();
    map.encode(&mut bytes);
    let schema = BTreeMap::<(u8, u8), String>::schema();
    assert_eq!(to_json(&schema, &bytes).unwrap().to_string(), r#"[[[1,2],"a"]]"#);
}

#[test]
fn what_json_cannot_say_is_null_and_control_characters_are_escaped() {
    let mut bytes = Vec::new();
    (f64::NAN, f32::INFINITY, "\u{1}\"\\\n".to_owned()).encode(&mut bytes);
    let json = to_json(&<(f64, f32, String)>::schema(), &bytes).unwrap();
    assert_eq!(json.to_string(), r#"[null,null,"\u0001\"\\\n"]"#);
}

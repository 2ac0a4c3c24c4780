//! Claims about codecs: frozen bytes and hashes, and what hostile bytes may do.

use super::short_hash::{hash_4, hash_8, hash_9_to_16, hash_short};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::sync::Arc;
use zerocopy::{Immutable, IntoBytes, TryFromBytes};

#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize, postcard_schema::Schema)]
enum Shape {
    Point,
    Circle(u32),
    Box { width: u32, height: Option<u64> },
}
crate::data!(Shape, version = 3);

#[derive(Clone, Copy, Debug, PartialEq, Eq, TryFromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Position {
    account: u64,
    shares: i32,
    open: bool,
    spare: [u8; 3],
}
crate::pod!(Position { account: u64, shares: i32, open: bool, spare: [u8; 3] });

fn bytes_of<T: Data>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

/// Encodes, compares with `hex`, and decodes from a longer input; every shorter one is an error.
#[track_caller]
fn frozen<T: Data + Debug + PartialEq>(value: T, hex: &str) {
    let bytes = bytes_of(&value);
    assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), hex);
    let longer = [&bytes[..], &[0xEE]].concat();
    let mut input = &longer[..];
    assert_eq!(T::decode(&mut input), Ok(value.clone()));
    assert_eq!(input, [0xEE]);
    for end in 0..bytes.len() {
        assert!(T::decode(&mut &bytes[..end]).is_err(), "{end} bytes are too few");
    }
    assert!(T::FIXED_BYTES.is_none_or(|fixed| fixed == bytes.len()));
    assert_eq!(value.key_hash(), hash_bytes(&bytes), "a key's hash is that of its bytes");
    if T::FIXED_BYTES.is_some() {
        let mut fixed = vec![0; bytes.len()];
        value.encode_fixed(&mut fixed);
        assert_eq!(fixed, bytes);
    }
}

#[test]
fn encodings_never_change() {
    frozen(0x12u8, "12");
    frozen(0x1234u16, "3412");
    frozen(0x1234_5678u32, "78563412");
    frozen(0x0102_0304_0506_0708u64, "0807060504030201");
    frozen(1u128 << 120, "00000000000000000000000000000001");
    frozen(-2i8, "fe");
    frozen(-2i16, "feff");
    frozen(-2i32, "feffffff");
    frozen(-2i64, "feffffffffffffff");
    frozen(-2i128, "feffffffffffffffffffffffffffffff");
    frozen(1.5f32, "0000c03f");
    frozen(-1.5f64, "000000000000f8bf");
    frozen(true, "01");
    frozen('\u{20AC}', "ac200000");
    frozen((), "");
    frozen("key".to_owned(), "030000006b6579");
    frozen(Arc::<str>::from("key"), "030000006b6579");
    frozen(vec![1u16, 2], "0200000001000200");
    frozen(vec![7u8, 8, 9], "03000000070809");
    frozen(vec![1u8, 2].into_boxed_slice(), "020000000102");
    frozen(Some(5u8), "0105");
    frozen(None::<u64>, "00");
    frozen([1u8, 2, 3], "010203");
    frozen([String::new(), "a".to_owned()], "000000000100000061");
    frozen((1u8, 2u16, "x".to_owned()), "0102000100000078");
    frozen((1u64, 2u32), "010000000000000002000000");
    frozen((1u8, 2u8, 3u8, 4u8, 5u8, 6u8, 7u8, (8u8,)), "0102030405060708");
    frozen(BTreeMap::from([(2u8, true), (1, false)]), "0200000001000201");
    frozen(HashMap::<u8, u8>::from([(2, 5), (1, 4)]), "0200000001040205");
    frozen(Shape::Point, "00");
    frozen(Shape::Circle(300), "01ac02");
    frozen(Shape::Box { width: 1, height: Some(2) }, "02010102");
    let position = Position { account: 1, shares: -1, open: true, spare: [0; 3] };
    frozen(position, "0100000000000000ffffffff01000000");
}

#[test]
fn key_hashes_never_change() {
    assert_eq!(0u64.key_hash(), 0xc77b_3abb_6f87_acd9);
    assert_eq!(42u64.key_hash(), 0xd5a6_f8c8_38df_27c8);
    assert_eq!(42u32.key_hash(), 0x2132_b648_14a1_ad5d);
    assert_eq!("key".to_owned().key_hash(), 0xd08d_0804_de6b_b53a);
    assert_eq!((1u64, 2u32).key_hash(), 0x17bb_7f85_134a_de00);
    assert_eq!(7u8.key_hash(), 0x4c5c_ca45_d0f4_811f);
    assert_eq!(().key_hash(), 0x2d06_8005_38d3_94c2, "the published XXH3-64 of nothing");
}

#[test]
fn invalid_bytes_are_refused_and_large_counts_reserve_nothing() {
    assert!(bool::decode(&mut &[2][..]).is_err());
    assert!(char::decode(&mut &0xD800u32.to_le_bytes()[..]).is_err());
    assert!(String::decode(&mut &[1, 0, 0, 0, 0xFF][..]).is_err());
    assert!(Position::decode(&mut &[2; 16][..]).is_err(), "2 is not a bool");
    for bytes in [[0xFF; 4], [0xFF, 0xFF, 0xFF, 0x7F]] {
        assert!(Vec::<u64>::decode(&mut &bytes[..]).is_err());
        assert!(Vec::<String>::decode(&mut &bytes[..]).is_err());
        assert!(String::decode(&mut &bytes[..]).is_err());
        assert!(HashMap::<u64, u64>::decode(&mut &bytes[..]).is_err());
    }
}

#[test]
fn schemas_name_types_fields_and_versions() {
    let primitive = |name: &str| Schema::Primitive(name.to_owned());
    let field = |name: &str, schema| Field { name: name.to_owned(), schema };
    let fields =
        vec![field("width", primitive("u32")), field("height", Schema::Option(Box::new(primitive("u64"))))];
    let variants = vec![
        field("Point", Schema::Tuple(vec![])),
        field("Circle", Schema::Tuple(vec![primitive("u32")])),
        field("Box", Schema::Struct { name: "Box".into(), version: 3, fields }),
    ];
    let shape = Schema::Enum { name: "Shape".into(), version: 3, variants };
    assert_eq!(Shape::schema(), Schema::Postcard(Box::new(shape)));
    let fields = vec![
        field("account", primitive("u64")),
        field("shares", primitive("i32")),
        field("open", primitive("bool")),
        field("spare", Schema::Tuple(vec![primitive("u8"); 3])),
    ];
    assert_eq!(Position::schema(), Schema::Struct { name: "Position".into(), version: 1, fields });
    assert_eq!(
        <(u8, Vec<String>)>::schema(),
        Schema::Tuple(vec![primitive("u8"), Schema::Seq(Box::new(primitive("String")))])
    );
}

proptest! {
    #[test]
    fn prop_short_hashes_equal_the_library(bytes in prop::collection::vec(any::<u8>(), 0..20), word: u64) {
        prop_assert_eq!(hash_short(&bytes), hash_bytes(&bytes));
        prop_assert_eq!(hash_8(word), hash_bytes(&word.to_le_bytes()));
        prop_assert_eq!(hash_4(word as u32), hash_bytes(&(word as u32).to_le_bytes()));
        let twice = [word.to_le_bytes(), word.to_le_bytes()].concat();
        prop_assert_eq!(hash_9_to_16(word, word, 16), hash_bytes(&twice));
    }

    #[test]
    fn prop_any_bytes_decode_to_a_value_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        fn round<T: Data>(bytes: &[u8]) {
            let mut rest = bytes;
            if let Ok(value) = T::decode(&mut rest) {
                assert!(bytes_of(&value).len() <= bytes.len().max(64 * 1024));
            }
        }
        round::<Vec<(u8, Option<String>)>>(&bytes);
        round::<BTreeMap<u16, Vec<u8>>>(&bytes);
        round::<(Shape, Position, char)>(&bytes);
        round::<[Option<u32>; 3]>(&bytes);
    }
}

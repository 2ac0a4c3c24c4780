//! Structural schemas: what a value is made of, by names and types, so that stored state explains itself.
//!
//! Always true: decoding refuses a schema that nests more than [`Schema::DEPTH_MAX`] deep, so stored bytes cannot
//! exhaust the stack.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use std::cell::Cell;

/// The structure of a [`crate::Data`] type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schema {
    /// A primitive, by its Rust name: `u64`, `bool`, `String`, `()` …
    Primitive(String),
    /// An optional value.
    Option(#[serde(deserialize_with = "one_level_deeper")] Box<Schema>),
    /// A sequence of any length.
    Seq(#[serde(deserialize_with = "one_level_deeper")] Box<Schema>),
    /// A map of any size.
    Map(
        #[serde(deserialize_with = "one_level_deeper")] Box<Schema>,
        #[serde(deserialize_with = "one_level_deeper")] Box<Schema>,
    ),
    /// A fixed number of unnamed parts.
    Tuple(#[serde(deserialize_with = "one_level_deeper")] Vec<Schema>),
    /// A named type with named parts, under the version that its owner gave it.
    Struct {
        /// Name of the type.
        name: String,
        /// Version of the type's layout.
        version: u32,
        /// Parts in order.
        #[serde(deserialize_with = "one_level_deeper")]
        fields: Vec<Field>,
    },
    /// A choice between named variants.
    Enum {
        /// Name of the type.
        name: String,
        /// Version of the type's layout.
        version: u32,
        /// Variants in order; a unit variant has an empty tuple.
        #[serde(deserialize_with = "one_level_deeper")]
        variants: Vec<Field>,
    },
    /// A value whose whole structure is encoded by postcard, where everything outside of this variant has the crate's
    /// own encoding: little-endian integers and `u32` lengths.
    Postcard(#[serde(deserialize_with = "one_level_deeper")] Box<Schema>),
}

impl Schema {
    /// A schema nests at most this deep: so many schemas lie between the outermost and the innermost one, the latter
    /// counted.
    pub const DEPTH_MAX: u32 = 64;
}

thread_local! {
    /// Levels of the schema that this thread is decoding. Serde's derived code has nowhere to carry it.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

fn one_level_deeper<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Level;
    impl Drop for Level {
        fn drop(&mut self) {
            DEPTH.set(DEPTH.get() - 1);
        }
    }
    if DEPTH.get() >= Schema::DEPTH_MAX {
        return Err(D::Error::custom("schema nests too deep"));
    }
    DEPTH.set(DEPTH.get() + 1);
    let _level = Level;
    T::deserialize(deserializer)
}

/// A named part of a [`Schema`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The part's name.
    pub name: String,
    /// The part's structure.
    pub schema: Schema,
}

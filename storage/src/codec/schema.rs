//! Structural schemas: what a value is made of, by names and types, so that stored state explains itself.

use serde::{Deserialize, Serialize};

/// The structure of a [`crate::Data`] type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Schema {
    /// A primitive, by its Rust name: `u64`, `bool`, `String`, `()` …
    Primitive(String),
    /// An optional value.
    Option(Box<Schema>),
    /// A sequence of any length.
    Seq(Box<Schema>),
    /// A map of any size.
    Map(Box<Schema>, Box<Schema>),
    /// A fixed number of unnamed parts.
    Tuple(Vec<Schema>),
    /// A named type with named parts, under the version that its owner gave it.
    Struct {
        /// Name of the type.
        name: String,
        /// Version of the type's layout.
        version: u32,
        /// Parts in order.
        fields: Vec<Field>,
    },
    /// A choice between named variants.
    Enum {
        /// Name of the type.
        name: String,
        /// Version of the type's layout.
        version: u32,
        /// Variants in order; a unit variant has an empty tuple.
        variants: Vec<Field>,
    },
    /// A value whose whole structure is encoded by postcard, where everything outside of this variant has the crate's
    /// own encoding: little-endian integers and `u32` lengths.
    Postcard(Box<Schema>),
}

/// A named part of a [`Schema`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The part's name.
    pub name: String,
    /// The part's structure.
    pub schema: Schema,
}

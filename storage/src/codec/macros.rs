//! [`data!`](crate::data) and [`pod!`](crate::pod): codecs for a user's own types.
//!
//! `data!` encodes by postcard, whose wire format is frozen and self-delimiting. `pod!` copies the memory of a
//! padding-free type; it compiles on little-endian machines only, so that the bytes mean the same everywhere.

/// Implements [`Data`](crate::Data) by postcard for a type that derives `serde::Serialize`, `serde::Deserialize` and
/// `postcard_schema::Schema`.
///
/// The optional version (1 unless given) is part of the schema that snapshots store: raise it whenever the type changes.
/// Encoding panics when the type's `Serialize` fails, or asks for what postcard lacks (sequences of unknown length).
///
/// ```
/// #[derive(Clone, serde::Serialize, serde::Deserialize, postcard_schema::Schema)]
/// struct Visit {
///     page: String,
///     seconds: u32,
/// }
/// thalweg_storage::data!(Visit);
/// ```
///
/// State that was stored as an older version is read by way of that version's type, which stays in the program under
/// another name, and in turn names its own predecessor. Versions are told apart by their number and their fields.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use postcard_schema::Schema;
/// #[derive(Clone, Serialize, Deserialize, Schema)]
/// struct VisitV1 {
///     page: String,
///     seconds: u32,
/// }
/// thalweg_storage::data!(VisitV1, version = 1);
///
/// #[derive(Clone, Serialize, Deserialize, Schema)]
/// struct Visit {
///     page: String,
///     milliseconds: u64,
/// }
/// thalweg_storage::data!(Visit, version = 2, from = VisitV1);
///
/// impl From<VisitV1> for Visit {
///     fn from(old: VisitV1) -> Visit {
///         Visit { page: old.page, milliseconds: u64::from(old.seconds) * 1000 }
///     }
/// }
/// ```
#[macro_export]
macro_rules! data {
    ($type:ty) => {
        $crate::data!($type, version = 1);
    };
    ($type:ty, version = $version:expr $(, from = $older:ty)?) => {
        impl $crate::Data for $type {
            const FIXED_BYTES: ::core::option::Option<usize> = ::core::option::Option::None;

            fn schema() -> $crate::Schema {
                $crate::__private::postcard_schema_of::<$type>($version)
            }

            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                $crate::__private::postcard_encode(self, out)
            }

            fn decode(input: &mut &[u8]) -> ::core::result::Result<Self, $crate::DecodeError> {
                $crate::__private::postcard_decode(input)
            }

            $(fn reader(stored: &$crate::Schema) -> ::core::option::Option<$crate::Reader<Self>> {
                $crate::__private::reader_by_way_of::<$older, Self>(stored)
            })?
        }
    };
}

/// Implements [`Data`](crate::Data) by copying memory, for a padding-free type that derives zerocopy's `IntoBytes`,
/// `TryFromBytes` (or `FromBytes`) and `Immutable`.
///
/// With its fields listed, snapshots of the type can be printed without the job's code; the list must name all
/// fields in memory order. Without, its schema is one opaque field. The optional version (1 unless given) is part of the
/// schema: raise it whenever the layout changes, and name the type of the version before by `from`, as with
/// [`data!`](crate::data), so that what is stored as that can be read.
///
/// ```
/// use zerocopy::{FromBytes, Immutable, IntoBytes};
/// #[derive(Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
/// #[repr(C)]
/// struct Position {
///     account: u64,
///     shares: i64,
/// }
/// thalweg_storage::pod!(Position { account: u64, shares: i64 }, version = 2, from = u64);
///
/// impl From<u64> for Position {
///     fn from(account: u64) -> Position {
///         Position { account, shares: 0 }
///     }
/// }
/// ```
#[macro_export]
macro_rules! pod {
    ($type:ident) => {
        $crate::pod!($type, version = 1);
    };
    ($type:ident, version = $version:expr $(, from = $older:ty)?) => {
        $crate::pod!(@impl $type, $version, ::std::vec![
            ("bytes", <[u8; ::core::mem::size_of::<$type>()] as $crate::Data>::schema())
        ] $(, $older)?);
    };
    ($type:ident { $($field:ident: $part:ty),* $(,)? }) => {
        $crate::pod!($type { $($field: $part),* }, version = 1);
    };
    ($type:ident { $($field:ident: $part:ty),* $(,)? }, version = $version:expr $(, from = $older:ty)?) => {
        const _: () = {
            let mut end = 0;
            $(assert!(::core::mem::offset_of!($type, $field) == end, "list the fields in memory order");
              end += ::core::mem::size_of::<$part>();)*
            assert!(end == ::core::mem::size_of::<$type>(), "list all fields");
        };
        $crate::pod!(@impl $type, $version, ::std::vec![
            $((stringify!($field), <$part as $crate::Data>::schema())),*
        ] $(, $older)?);
    };
    (@impl $type:ident, $version:expr, $fields:expr $(, $older:ty)?) => {
        const _: () = assert!(cfg!(target_endian = "little"), "plain types are copied on little-endian machines only");

        impl $crate::Data for $type {
            const FIXED_BYTES: ::core::option::Option<usize> =
                ::core::option::Option::Some(::core::mem::size_of::<$type>());

            fn schema() -> $crate::Schema {
                $crate::__private::pod_schema(stringify!($type), $version, $fields)
            }

            #[inline]
            fn encode(&self, out: &mut ::std::vec::Vec<u8>) {
                out.extend_from_slice($crate::__private::zerocopy::IntoBytes::as_bytes(self));
            }

            #[inline]
            fn decode(input: &mut &[u8]) -> ::core::result::Result<Self, $crate::DecodeError> {
                $crate::__private::pod_decode(input)
            }

            $(fn reader(stored: &$crate::Schema) -> ::core::option::Option<$crate::Reader<Self>> {
                $crate::__private::reader_by_way_of::<$older, Self>(stored)
            })?

            #[inline]
            fn key_hash(&self) -> u64 {
                $crate::__private::hash_bytes($crate::__private::zerocopy::IntoBytes::as_bytes(self))
            }

            #[inline]
            fn encode_fixed(&self, out: &mut [u8]) {
                out.copy_from_slice($crate::__private::zerocopy::IntoBytes::as_bytes(self));
            }
        }
    };
}

/// What the macros' expansions call. Not part of the interface.
#[doc(hidden)]
pub mod __private {
    use crate::codec::{DecodeError, Field, Schema};
    use postcard::ser_flavors::Flavor;
    use postcard_schema::schema::{DataModelType, DataModelVariant, NamedType, NamedValue};
    use serde::Serialize;
    use serde::de::DeserializeOwned;

    pub use crate::codec::hash_bytes;
    pub use crate::codec::reader::reader_by_way_of;
    pub use zerocopy;

    /// Lets postcard append to a vector that the caller keeps.
    struct Append<'a>(&'a mut Vec<u8>);

    impl Flavor for Append<'_> {
        type Output = ();

        fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
            self.0.push(byte);
            Ok(())
        }

        fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }

        fn finalize(self) -> postcard::Result<()> {
            Ok(())
        }
    }

    pub fn postcard_encode<T: Serialize>(value: &T, out: &mut Vec<u8>) {
        if let Err(error) = postcard::serialize_with_flavor(value, Append(out)) {
            panic!("{} cannot be encoded: {error}", std::any::type_name::<T>());
        }
    }

    pub fn postcard_decode<T: DeserializeOwned>(input: &mut &[u8]) -> Result<T, DecodeError> {
        let (value, rest) = postcard::take_from_bytes(input)
            .map_err(|error| DecodeError(format!("not a {}: {error}", std::any::type_name::<T>())))?;
        *input = rest;
        Ok(value)
    }

    pub fn postcard_schema_of<T: postcard_schema::Schema>(version: u32) -> Schema {
        Schema::Postcard(Box::new(convert(T::SCHEMA, version)))
    }

    pub fn pod_schema(name: &str, version: u32, fields: Vec<(&str, Schema)>) -> Schema {
        let fields =
            fields.into_iter().map(|(name, schema)| Field { name: name.to_owned(), schema }).collect();
        Schema::Struct { name: name.to_owned(), version, fields }
    }

    pub fn pod_decode<T: zerocopy::TryFromBytes>(input: &mut &[u8]) -> Result<T, DecodeError> {
        let name = std::any::type_name::<T>();
        let (front, rest) = input
            .split_at_checked(size_of::<T>())
            .ok_or_else(|| DecodeError(format!("the bytes end within a {name}")))?;
        let value = T::try_read_from_bytes(front)
            .map_err(|_| DecodeError(format!("the bytes hold no valid {name}")))?;
        *input = rest;
        Ok(value)
    }

    fn convert(named: &NamedType, version: u32) -> Schema {
        let primitive = |name: &str| Schema::Primitive(name.to_owned());
        let of_struct = |fields| Schema::Struct { name: named.name.to_owned(), version, fields };
        match named.ty {
            DataModelType::Bool => primitive("bool"),
            DataModelType::I8 => primitive("i8"),
            DataModelType::U8 => primitive("u8"),
            DataModelType::I16 => primitive("i16"),
            DataModelType::I32 => primitive("i32"),
            DataModelType::I64 => primitive("i64"),
            DataModelType::I128 => primitive("i128"),
            DataModelType::U16 => primitive("u16"),
            DataModelType::U32 => primitive("u32"),
            DataModelType::U64 => primitive("u64"),
            DataModelType::U128 => primitive("u128"),
            DataModelType::Usize => primitive("usize"),
            DataModelType::Isize => primitive("isize"),
            DataModelType::F32 => primitive("f32"),
            DataModelType::F64 => primitive("f64"),
            DataModelType::Char => primitive("char"),
            DataModelType::String => primitive("String"),
            DataModelType::Unit => primitive("()"),
            DataModelType::Schema => primitive("Schema"),
            DataModelType::ByteArray => Schema::Seq(Box::new(primitive("u8"))),
            DataModelType::Option(inner) => Schema::Option(Box::new(convert(inner, version))),
            DataModelType::Seq(inner) => Schema::Seq(Box::new(convert(inner, version))),
            DataModelType::Map { key, val } => {
                Schema::Map(Box::new(convert(key, version)), Box::new(convert(val, version)))
            }
            DataModelType::Tuple(parts) => Schema::Tuple(unnamed(parts, version)),
            DataModelType::UnitStruct => of_struct(Vec::new()),
            DataModelType::NewtypeStruct(inner) => of_struct(numbered(&[inner], version)),
            DataModelType::TupleStruct(parts) => of_struct(numbered(parts, version)),
            DataModelType::Struct(parts) => of_struct(fields(parts, version)),
            DataModelType::Enum(variants) => Schema::Enum {
                name: named.name.to_owned(),
                version,
                variants: variants
                    .iter()
                    .map(|variant| Field {
                        name: variant.name.to_owned(),
                        schema: payload(variant.name, variant.ty, version),
                    })
                    .collect(),
            },
        }
    }

    /// What a variant of an enum carries.
    fn payload(name: &str, variant: &DataModelVariant, version: u32) -> Schema {
        match variant {
            DataModelVariant::UnitVariant => Schema::Tuple(Vec::new()),
            DataModelVariant::NewtypeVariant(inner) => Schema::Tuple(vec![convert(inner, version)]),
            DataModelVariant::TupleVariant(parts) => Schema::Tuple(unnamed(parts, version)),
            DataModelVariant::StructVariant(parts) => {
                Schema::Struct { name: name.to_owned(), version, fields: fields(parts, version) }
            }
        }
    }

    fn unnamed(parts: &[&NamedType], version: u32) -> Vec<Schema> {
        parts.iter().map(|part| convert(part, version)).collect()
    }

    fn numbered(parts: &[&NamedType], version: u32) -> Vec<Field> {
        let number =
            |(i, part): (usize, &&NamedType)| Field { name: i.to_string(), schema: convert(part, version) };
        parts.iter().enumerate().map(number).collect()
    }

    fn fields(parts: &[&NamedValue], version: u32) -> Vec<Field> {
        parts
            .iter()
            .map(|part| Field { name: part.name.to_owned(), schema: convert(part.ty, version) })
            .collect()
    }
}

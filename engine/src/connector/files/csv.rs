//! CSV rows, by way of serde: one flat record becomes one row, without an allocation.
//!
//! The rows equal those of the `csv` crate with its default settings and without headers.

use serde::ser::{self, Impossible, Serialize, Serializer};
use std::fmt::Display;

/// The record does not fit a row.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct RowError(String);

impl ser::Error for RowError {
    fn custom<T: Display>(message: T) -> Self {
        RowError(message.to_string())
    }
}

/// Appends `record` and a line feed to `out`.
#[inline]
pub(super) fn append_row<T: Serialize + ?Sized>(record: &T, out: &mut Vec<u8>) -> Result<(), RowError> {
    let start = out.len();
    let mut row = Row { out, first: true };
    record.serialize(&mut row)?;
    if out.len() == start {
        // Without quotes a row of one empty field would be a blank line, which readers pass over.
        out.extend_from_slice(b"\"\"");
    }
    out.push(b'\n');
    Ok(())
}

struct Row<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl Row<'_> {
    /// Appends a field that needs no quotes.
    #[inline]
    fn plain(&mut self, field: &[u8]) -> Result<(), RowError> {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.extend_from_slice(field);
        Ok(())
    }

    fn text(&mut self, field: &[u8]) -> Result<(), RowError> {
        if !field.iter().any(|byte| matches!(byte, b',' | b'"' | b'\n' | b'\r')) {
            return self.plain(field);
        }
        self.plain(b"\"")?;
        for &byte in field {
            if byte == b'"' {
                self.out.push(b'"');
            }
            self.out.push(byte);
        }
        self.out.push(b'"');
        Ok(())
    }
}

fn unfit(what: &str) -> RowError {
    RowError(format!("{what} does not fit a CSV row: map the record to a tuple or struct of plain fields"))
}

macro_rules! numbers {
    ($($method:ident $type:ty, $format:ident;)*) => {$(
        #[inline]
        fn $method(self, value: $type) -> Result<(), RowError> {
            self.plain($format::Buffer::new().format(value).as_bytes())
        }
    )*};
}

impl<'a, 'b> Serializer for &'a mut Row<'b> {
    type Ok = ();
    type Error = RowError;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeStruct = Self;
    type SerializeTupleVariant = Impossible<(), RowError>;
    type SerializeMap = Impossible<(), RowError>;
    type SerializeStructVariant = Impossible<(), RowError>;

    numbers! {
        serialize_i8 i8, itoa;
        serialize_i16 i16, itoa;
        serialize_i32 i32, itoa;
        serialize_i64 i64, itoa;
        serialize_i128 i128, itoa;
        serialize_u8 u8, itoa;
        serialize_u16 u16, itoa;
        serialize_u32 u32, itoa;
        serialize_u64 u64, itoa;
        serialize_u128 u128, itoa;
        serialize_f32 f32, ryu;
        serialize_f64 f64, ryu;
    }

    fn serialize_bool(self, value: bool) -> Result<(), RowError> {
        self.plain(if value { b"true" } else { b"false" })
    }

    fn serialize_char(self, value: char) -> Result<(), RowError> {
        self.text(value.encode_utf8(&mut [0; 4]).as_bytes())
    }

    fn serialize_str(self, value: &str) -> Result<(), RowError> {
        self.text(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), RowError> {
        self.text(value)
    }

    fn serialize_none(self) -> Result<(), RowError> {
        self.plain(b"")
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), RowError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), RowError> {
        self.plain(b"")
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), RowError> {
        self.text(name.as_bytes())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), RowError> {
        self.text(variant.as_bytes())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), RowError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), RowError> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, RowError> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, RowError> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, RowError> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, RowError> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, RowError> {
        Err(unfit("an enum variant with fields"))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, RowError> {
        Err(unfit("a map"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, RowError> {
        Err(unfit("an enum variant with fields"))
    }
}

macro_rules! compounds {
    ($($trait:ident $method:ident $(, $key:ty)?;)*) => {$(
        impl<'a, 'b> ser::$trait for &'a mut Row<'b> {
            type Ok = ();
            type Error = RowError;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $(_: $key,)? value: &T) -> Result<(), RowError> {
                value.serialize(&mut **self)
            }

            fn end(self) -> Result<(), RowError> {
                Ok(())
            }
        }
    )*};
}

compounds! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeStruct serialize_field, &'static str;
}

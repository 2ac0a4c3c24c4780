//! Prints an encoded value as JSON by its structural [`Schema`], without the type that it was encoded from.
//!
//! What comes out is what `serde_json` makes of the value itself, under the names of the schema: `serde` attributes that rename
//! or skip fields are not part of it. Maps whose keys JSON has no name for become lists of pairs.
//!
//! Always true: whatever the bytes, decoding neither panics nor takes more memory than a multiple of their length, and the
//! stack is bounded by [`Schema::DEPTH_MAX`].
//!
//! Pure.

use super::{DecodeError, Field, Schema};
use std::fmt;

/// Elements without bytes, such as of a list of `()`, that are printed at most.
const EMPTY_ELEMENTS_MAX: usize = 1 << 16;

/// A JSON document. Numbers are kept as their text, so that none loses digits; fields keep their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it is written.
    Number(String),
    /// A text.
    String(String),
    /// A list.
    Array(Vec<Json>),
    /// An object.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// An object of these fields.
    pub fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
        Json::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The name that this would have as a key of an object, if JSON has one.
    fn as_key(&self) -> Option<String> {
        match self {
            Json::Bool(value) => Some(value.to_string()),
            Json::Number(text) | Json::String(text) => Some(text.clone()),
            Json::Null | Json::Array(_) | Json::Object(_) => None,
        }
    }

    /// A map of these entries: an object where every key has a name, else a list of pairs.
    pub fn map(entries: Vec<(Json, Json)>) -> Json {
        if entries.iter().all(|(key, _)| key.as_key().is_some()) {
            let named = |(key, value): (Json, Json)| key.as_key().map(|key| (key, value));
            return Json::Object(entries.into_iter().filter_map(named).collect());
        }
        Json::Array(entries.into_iter().map(|(key, value)| Json::Array(vec![key, value])).collect())
    }
}

macro_rules! json_of {
    ($($type:ty => $make:expr),* $(,)?) => {$(
        impl From<$type> for Json {
            fn from(value: $type) -> Json {
                #[allow(clippy::redundant_closure_call)]
                ($make)(value)
            }
        }
    )*};
}

json_of! {
    bool => Json::Bool,
    u16 => |n: u16| Json::Number(n.to_string()),
    u32 => |n: u32| Json::Number(n.to_string()),
    u64 => |n: u64| Json::Number(n.to_string()),
    usize => |n: usize| Json::Number(n.to_string()),
    String => Json::String,
    &str => |text: &str| Json::String(text.to_owned()),
    Vec<Json> => Json::Array,
}

impl fmt::Display for Json {
    /// On one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Number(text) => f.write_str(text),
            Json::String(text) => quoted(text, f),
            Json::Array(elements) => {
                f.write_str("[")?;
                for (i, element) in elements.iter().enumerate() {
                    f.write_str(if i > 0 { "," } else { "" })?;
                    element.fmt(f)?;
                }
                f.write_str("]")
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (i, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if i > 0 { "," } else { "" })?;
                    quoted(name, f)?;
                    f.write_str(":")?;
                    value.fmt(f)?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quoted(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c < ' ' => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// The one value that `bytes` hold, encoded by a type of this schema.
///
/// # Errors
/// When they hold none, or something behind it.
pub fn to_json(schema: &Schema, bytes: &[u8]) -> Result<Json, DecodeError> {
    let mut rest = bytes;
    let json = take_json(schema, &mut rest)?;
    match rest.len() {
        0 => Ok(json),
        more => Err(DecodeError(format!("{more} bytes are left over behind the value"))),
    }
}

/// Takes one value of this schema from the front of `input`.
///
/// # Errors
/// When `input` is too short or holds no such value.
pub fn take_json(schema: &Schema, input: &mut &[u8]) -> Result<Json, DecodeError> {
    match schema {
        Schema::Postcard(inner) => value(inner, &mut Encoded { input, postcard: true }),
        own => value(own, &mut Encoded { input, postcard: false }),
    }
}

/// Bytes in either of the two encodings: by `postcard`, or the crate's own.
struct Encoded<'a, 'b> {
    input: &'a mut &'b [u8],
    postcard: bool,
}

fn value(schema: &Schema, encoded: &mut Encoded<'_, '_>) -> Result<Json, DecodeError> {
    Ok(match schema {
        Schema::Primitive(name) => primitive(name, encoded)?,
        Schema::Option(inner) => match encoded.bool()? {
            true => value(inner, encoded)?,
            false => Json::Null,
        },
        Schema::Seq(inner) => Json::Array(elements(encoded, |encoded| value(inner, encoded))?),
        Schema::Map(key, of) => {
            Json::map(elements(encoded, |encoded| Ok((value(key, encoded)?, value(of, encoded)?)))?)
        }
        Schema::Tuple(parts) => {
            Json::Array(parts.iter().map(|part| value(part, encoded)).collect::<Result<_, _>>()?)
        }
        Schema::Struct { fields, .. } => structure(fields, encoded)?,
        Schema::Enum { name, variants, .. } if encoded.postcard => {
            let index = encoded.varint(32)? as usize;
            let variant =
                variants.get(index).ok_or_else(|| DecodeError(format!("{index} is no variant of {name}")))?;
            variant_of(variant, encoded)?
        }
        Schema::Enum { name, .. } => return Err(unknown(name)),
        // It begins anew what is encoded by postcard.
        Schema::Postcard(inner) => value(inner, &mut Encoded { input: &mut *encoded.input, postcard: true })?,
    })
}

fn structure(fields: &[Field], encoded: &mut Encoded<'_, '_>) -> Result<Json, DecodeError> {
    let numbered = fields.iter().enumerate().all(|(i, field)| field.name == i.to_string());
    match fields {
        [] => Ok(Json::Null),
        [only] if numbered => value(&only.schema, encoded),
        _ if numbered => {
            let parts = fields.iter().map(|field| value(&field.schema, encoded));
            Ok(Json::Array(parts.collect::<Result<_, _>>()?))
        }
        _ => object(fields, encoded),
    }
}

fn object(fields: &[Field], encoded: &mut Encoded<'_, '_>) -> Result<Json, DecodeError> {
    let parts = fields.iter().map(|field| Ok((field.name.clone(), value(&field.schema, encoded)?)));
    Ok(Json::Object(parts.collect::<Result<_, DecodeError>>()?))
}

/// A variant of an enum in serde's usual form: its name, or an object of its name and what it carries.
fn variant_of(variant: &Field, encoded: &mut Encoded<'_, '_>) -> Result<Json, DecodeError> {
    let carried = match &variant.schema {
        Schema::Tuple(parts) if parts.is_empty() => return Ok(Json::String(variant.name.clone())),
        Schema::Tuple(parts) if parts.len() == 1 => value(&parts[0], encoded)?,
        Schema::Struct { fields, .. } => object(fields, encoded)?,
        other => value(other, encoded)?,
    };
    Ok(Json::Object(vec![(variant.name.clone(), carried)]))
}

fn elements<T>(
    encoded: &mut Encoded<'_, '_>,
    mut element: impl FnMut(&mut Encoded<'_, '_>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = encoded.length()?;
    let mut elements = Vec::with_capacity(count.min(encoded.input.len()));
    let mut empty = 0;
    for _ in 0..count {
        let before = encoded.input.len();
        elements.push(element(encoded)?);
        empty += usize::from(encoded.input.len() == before);
        if empty > EMPTY_ELEMENTS_MAX {
            return Err(DecodeError(format!("{count} elements without bytes are more than can be shown")));
        }
    }
    Ok(elements)
}

fn primitive(name: &str, encoded: &mut Encoded<'_, '_>) -> Result<Json, DecodeError> {
    macro_rules! number {
        ($type:ty) => {
            <$type>::from_le_bytes(encoded.array(name)?).to_string()
        };
    }
    macro_rules! unsigned {
        ($type:ty) => {
            match encoded.postcard {
                true => encoded.varint(<$type>::BITS)?.to_string(),
                false => number!($type),
            }
        };
    }
    macro_rules! signed {
        ($type:ty) => {
            match encoded.postcard {
                true => zigzag(encoded.varint(<$type>::BITS)?).to_string(),
                false => number!($type),
            }
        };
    }
    macro_rules! float {
        ($type:ty) => {{
            let number = <$type>::from_le_bytes(encoded.array(name)?);
            // JSON has neither infinity nor NaN; serde_json writes null too.
            if !number.is_finite() {
                return Ok(Json::Null);
            }
            format!("{number:?}")
        }};
    }
    Ok(Json::Number(match name {
        "()" => return Ok(Json::Null),
        "bool" => return Ok(Json::Bool(encoded.bool()?)),
        "String" => return Ok(Json::String(encoded.text()?)),
        "char" if encoded.postcard => return Ok(Json::String(encoded.text()?)),
        "char" => {
            let code = u32::from_le_bytes(encoded.array(name)?);
            let c = char::from_u32(code).ok_or_else(|| DecodeError(format!("{code:#x} is not a char")))?;
            return Ok(Json::String(c.to_string()));
        }
        "u8" => number!(u8),
        "i8" => number!(i8),
        "u16" => unsigned!(u16),
        "u32" => unsigned!(u32),
        "u64" => unsigned!(u64),
        "u128" => unsigned!(u128),
        "usize" if encoded.postcard => unsigned!(u64),
        "i16" => signed!(i16),
        "i32" => signed!(i32),
        "i64" => signed!(i64),
        "i128" => signed!(i128),
        "isize" if encoded.postcard => signed!(i64),
        "f32" => float!(f32),
        "f64" => float!(f64),
        _ => return Err(unknown(name)),
    }))
}

fn unknown(name: &str) -> DecodeError {
    DecodeError(format!("the encoding of {name} is not known here: a newer version may have written it"))
}

/// Undoes the encoding of signed numbers as unsigned ones.
fn zigzag(number: u128) -> i128 {
    (number >> 1) as i128 ^ -((number & 1) as i128)
}

impl<'b> Encoded<'_, 'b> {
    fn take(&mut self, bytes: usize, wanted: &str) -> Result<&'b [u8], DecodeError> {
        let split = self.input.split_at_checked(bytes);
        let (front, rest) = split.ok_or_else(|| DecodeError(format!("the bytes end within a {wanted}")))?;
        *self.input = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self, wanted: &str) -> Result<[u8; N], DecodeError> {
        Ok(self.take(N, wanted)?.try_into().expect("as many bytes as were asked for"))
    }

    fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.array::<1>("bool")?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError(format!("{other} is not a bool"))),
        }
    }

    fn length(&mut self) -> Result<usize, DecodeError> {
        let length = match self.postcard {
            true => self.varint(64)?,
            false => u32::from_le_bytes(self.array("length")?).into(),
        };
        usize::try_from(length).map_err(|_| DecodeError(format!("{length} is no length")))
    }

    fn text(&mut self) -> Result<String, DecodeError> {
        let bytes = self.length()?;
        let text = std::str::from_utf8(self.take(bytes, "String")?);
        Ok(text.map_err(|error| DecodeError(format!("a String is not UTF-8: {error}")))?.to_owned())
    }

    /// An unsigned number of so many bits in groups of seven, the lowest first.
    fn varint(&mut self, bits: u32) -> Result<u128, DecodeError> {
        let mut number = 0u128;
        for shift in (0..bits).step_by(7) {
            let byte = self.array::<1>("number")?[0];
            let part = u128::from(byte & 0x7f);
            if bits - shift < 7 && part >> (bits - shift) != 0 {
                break;
            }
            number |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError(format!("a number has more than {bits} bits")))
    }
}

#[cfg(test)]
mod tests;

//! [`Data`] for the types of the standard library.
//!
//! Integers, floats, `char` and `bool` are little-endian and of fixed length, and so are arrays and tuples of such. Text,
//! vectors and maps start with their length as a `u32`; an option starts with a byte 0 or 1. Maps are written in the
//! order of their keys, a hash map in the order of its keys' encoded bytes, so that equal values have equal bytes.
//! These encodings decide key groups: they never change.

use super::short_hash::hash_short;
use super::{Data, DecodeError, Reader, Schema, hash_bytes};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// Longest encoded key that is hashed from the stack.
const STACK_BYTES: usize = 64;

fn too_short(wanted: &str) -> DecodeError {
    DecodeError(format!("the bytes end within a {wanted}"))
}

#[inline]
fn take<'a>(input: &mut &'a [u8], bytes: usize, wanted: &str) -> Result<&'a [u8], DecodeError> {
    let (front, rest) = input.split_at_checked(bytes).ok_or_else(|| too_short(wanted))?;
    *input = rest;
    Ok(front)
}

#[inline]
fn take_array<const N: usize>(input: &mut &[u8], wanted: &str) -> Result<[u8; N], DecodeError> {
    let (front, rest) = input.split_first_chunk::<N>().ok_or_else(|| too_short(wanted))?;
    *input = rest;
    Ok(*front)
}

fn encode_length(length: usize, out: &mut Vec<u8>) {
    let length =
        u32::try_from(length).expect("a collection in state or in a record has at most u32::MAX elements");
    out.extend_from_slice(&length.to_le_bytes());
}

fn decode_length(input: &mut &[u8]) -> Result<usize, DecodeError> {
    Ok(u32::from_le_bytes(take_array(input, "length")?) as usize)
}

/// [`Data::key_hash`] of a type of `BYTES` encoded bytes, from the stack where they are few.
#[inline(always)]
fn hash_fixed<T: Data>(value: &T) -> u64 {
    match T::FIXED_BYTES {
        Some(bytes) if bytes <= 16 => {
            let mut buffer = [0; 16];
            value.encode_fixed(&mut buffer[..bytes]);
            hash_short(&buffer[..bytes])
        }
        Some(bytes) if bytes <= STACK_BYTES => {
            let mut buffer = [0; STACK_BYTES];
            value.encode_fixed(&mut buffer[..bytes]);
            hash_bytes(&buffer[..bytes])
        }
        _ => {
            let mut buffer = Vec::with_capacity(T::FIXED_BYTES.unwrap_or(STACK_BYTES));
            value.encode(&mut buffer);
            hash_bytes(&buffer)
        }
    }
}

fn primitive(name: &str) -> Schema {
    Schema::Primitive(name.to_owned())
}

/// The reader of `T` where `stored` is its schema, else what `migrating` finds.
fn own_or<T: Data>(stored: &Schema, migrating: impl FnOnce() -> Option<Reader<T>>) -> Option<Reader<T>> {
    if *stored == T::schema() { Some(Reader::Own) } else { migrating() }
}

/// The reader of a sequence of `T` with its length in front.
fn read_sequence<T: Data, C: Data + From<Vec<T>>>(stored: &Schema) -> Option<Reader<C>> {
    own_or(stored, || {
        let Schema::Seq(inner) = stored else { return None };
        let element = T::reader(inner)?;
        Some(Reader::migrating(move |input| {
            let count = decode_length(input)?;
            // What took no bytes may take memory now, so a wrong count must not go unseen.
            if count > input.len() {
                return Err(too_short("sequence"));
            }
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                values.push(element.read(input)?);
            }
            Ok(C::from(values))
        }))
    })
}

/// The reader of a map whose values migrate. Keys stay as they are: two old ones might become one.
fn read_map<K: Data, V: Data, M: Data + Default>(
    stored: &Schema,
    insert: fn(&mut M, K, V),
) -> Option<Reader<M>> {
    own_or(stored, || {
        let Schema::Map(key, value) = stored else { return None };
        let value = (**key == K::schema()).then(|| V::reader(value))??;
        Some(Reader::migrating(move |input| {
            let mut map = M::default();
            for _ in 0..decode_length(input)? {
                insert(&mut map, K::decode(input)?, value.read(input)?);
            }
            Ok(map)
        }))
    })
}

macro_rules! number {
    ($($type:ident),*) => {$(
        impl Data for $type {
            const FIXED_BYTES: Option<usize> = Some(size_of::<$type>());

            fn schema() -> Schema {
                primitive(stringify!($type))
            }

            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            #[inline]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                Ok($type::from_le_bytes(take_array(input, stringify!($type))?))
            }

            #[inline]
            fn key_hash(&self) -> u64 {
                hash_short(&self.to_le_bytes())
            }

            #[inline]
            fn encode_fixed(&self, out: &mut [u8]) {
                out.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

number!(u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64);

impl Data for u8 {
    const FIXED_BYTES: Option<usize> = Some(1);

    fn schema() -> Schema {
        primitive("u8")
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(take_array::<1>(input, "u8")?[0])
    }

    #[inline]
    fn key_hash(&self) -> u64 {
        hash_bytes(&[*self])
    }

    #[inline]
    fn encode_fixed(&self, out: &mut [u8]) {
        out[0] = *self;
    }

    fn encode_all(values: &[Self], out: &mut Vec<u8>) {
        out.extend_from_slice(values);
    }

    fn decode_all(count: usize, input: &mut &[u8]) -> Result<Vec<Self>, DecodeError> {
        Ok(take(input, count, "byte string")?.to_vec())
    }

    #[inline]
    fn decode_array<const N: usize>(input: &mut &[u8]) -> Result<[Self; N], DecodeError> {
        take_array(input, "byte array")
    }

    #[inline]
    fn encode_all_fixed(values: &[Self], out: &mut [u8]) {
        out.copy_from_slice(values);
    }
}

impl Data for bool {
    const FIXED_BYTES: Option<usize> = Some(1);

    fn schema() -> Schema {
        primitive("bool")
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        match take_array::<1>(input, "bool")?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(DecodeError(format!("{other} is not a bool"))),
        }
    }

    #[inline]
    fn key_hash(&self) -> u64 {
        hash_fixed(self)
    }

    #[inline]
    fn encode_fixed(&self, out: &mut [u8]) {
        out[0] = u8::from(*self);
    }
}

impl Data for char {
    const FIXED_BYTES: Option<usize> = Some(4);

    fn schema() -> Schema {
        primitive("char")
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        u32::from(*self).encode(out);
    }

    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let code = u32::decode(input)?;
        char::from_u32(code).ok_or_else(|| DecodeError(format!("{code:#x} is not a char")))
    }

    #[inline]
    fn key_hash(&self) -> u64 {
        u32::from(*self).key_hash()
    }

    #[inline]
    fn encode_fixed(&self, out: &mut [u8]) {
        u32::from(*self).encode_fixed(out);
    }
}

impl Data for () {
    const FIXED_BYTES: Option<usize> = Some(0);

    fn schema() -> Schema {
        primitive("()")
    }

    #[inline]
    fn encode(&self, _: &mut Vec<u8>) {}

    #[inline]
    fn decode(_: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(())
    }

    #[inline]
    fn encode_fixed(&self, _: &mut [u8]) {}
}

/// Encoding, decoding and hashing of text, for `String` and `Arc<str>`.
macro_rules! text {
    ($($type:ty),*) => {$(
        impl Data for $type {
            const FIXED_BYTES: Option<usize> = None;

            fn schema() -> Schema {
                primitive("String")
            }

            fn encode(&self, out: &mut Vec<u8>) {
                encode_length(self.len(), out);
                out.extend_from_slice(self.as_bytes());
            }

            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                let bytes = decode_length(input)?;
                let text = std::str::from_utf8(take(input, bytes, "String")?);
                Ok(text.map_err(|error| DecodeError(format!("a String is not UTF-8: {error}")))?.into())
            }

            #[inline]
            fn key_hash(&self) -> u64 {
                let end = 4 + self.len();
                if end <= STACK_BYTES {
                    let mut buffer = [0; STACK_BYTES];
                    buffer[..4].copy_from_slice(&(self.len() as u32).to_le_bytes());
                    buffer[4..end].copy_from_slice(self.as_bytes());
                    hash_bytes(&buffer[..end])
                } else {
                    let mut buffer = Vec::with_capacity(end);
                    self.encode(&mut buffer);
                    hash_bytes(&buffer)
                }
            }
        }
    )*};
}

text!(String, Arc<str>);

impl<T: Data> Data for Vec<T> {
    const FIXED_BYTES: Option<usize> = None;

    fn schema() -> Schema {
        Schema::Seq(Box::new(T::schema()))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len(), out);
        T::encode_all(self, out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let count = decode_length(input)?;
        T::decode_all(count, input)
    }

    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        read_sequence::<T, Self>(stored)
    }
}

impl<T: Data> Data for Box<[T]> {
    const FIXED_BYTES: Option<usize> = None;

    fn schema() -> Schema {
        Vec::<T>::schema()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len(), out);
        T::encode_all(self, out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Vec::<T>::decode(input)?.into_boxed_slice())
    }

    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        read_sequence::<T, Self>(stored)
    }
}

impl<T: Data> Data for Option<T> {
    const FIXED_BYTES: Option<usize> = None;

    fn schema() -> Schema {
        Schema::Option(Box::new(T::schema()))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(if bool::decode(input)? { Some(T::decode(input)?) } else { None })
    }

    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        own_or(stored, || {
            let Schema::Option(inner) = stored else { return None };
            let value = T::reader(inner)?;
            Some(Reader::migrating(move |input| bool::decode(input)?.then(|| value.read(input)).transpose()))
        })
    }
}

impl<T: Data, const N: usize> Data for [T; N] {
    const FIXED_BYTES: Option<usize> = match T::FIXED_BYTES {
        Some(bytes) => Some(bytes * N),
        None => None,
    };

    fn schema() -> Schema {
        Schema::Tuple(vec![T::schema(); N])
    }

    #[inline]
    fn encode(&self, out: &mut Vec<u8>) {
        T::encode_all(self, out);
    }

    #[inline]
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        T::decode_array(input)
    }

    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        own_or(stored, || {
            let Schema::Tuple(parts) = stored else { return None };
            if parts.len() != N {
                return None;
            }
            let elements: Vec<Reader<T>> = parts.iter().map(T::reader).collect::<Option<_>>()?;
            Some(Reader::migrating(move |input| {
                let mut values = [const { None }; N];
                for (value, element) in values.iter_mut().zip(&elements) {
                    *value = Some(element.read(input)?);
                }
                Ok(values.map(|value| value.expect("every element was just read")))
            }))
        })
    }

    #[inline]
    fn key_hash(&self) -> u64 {
        hash_fixed(self)
    }

    #[inline]
    fn encode_fixed(&self, out: &mut [u8]) {
        T::encode_all_fixed(self, out);
    }
}

fn map_schema<K: Data, V: Data>() -> Schema {
    Schema::Map(Box::new(K::schema()), Box::new(V::schema()))
}

impl<K: Data + Ord, V: Data> Data for BTreeMap<K, V> {
    const FIXED_BYTES: Option<usize> = None;

    fn schema() -> Schema {
        map_schema::<K, V>()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len(), out);
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut map = BTreeMap::new();
        for _ in 0..decode_length(input)? {
            map.insert(K::decode(input)?, V::decode(input)?);
        }
        Ok(map)
    }

    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        read_map::<K, V, Self>(stored, |map, key, value| _ = map.insert(key, value))
    }
}

impl<K: Data + Eq + Hash, V: Data, S: BuildHasher + Default + Clone + Send + 'static> Data
    for HashMap<K, V, S>
{
    const FIXED_BYTES: Option<usize> = None;

    fn schema() -> Schema {
        map_schema::<K, V>()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        encode_length(self.len(), out);
        let mut pairs: Vec<(Vec<u8>, &V)> = self
            .iter()
            .map(|(key, value)| {
                let mut bytes = Vec::new();
                key.encode(&mut bytes);
                (bytes, value)
            })
            .collect();
        pairs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (key, value) in pairs {
            out.extend_from_slice(&key);
            value.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut map = HashMap::default();
        for _ in 0..decode_length(input)? {
            map.insert(K::decode(input)?, V::decode(input)?);
        }
        Ok(map)
    }

    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        read_map::<K, V, Self>(stored, |map, key, value| _ = map.insert(key, value))
    }
}

/// The sum of lengths, if all are fixed.
const fn sum(parts: &[Option<usize>]) -> Option<usize> {
    let (mut total, mut i) = (0, 0);
    while i < parts.len() {
        match parts[i] {
            Some(bytes) => total += bytes,
            None => return None,
        }
        i += 1;
    }
    Some(total)
}

macro_rules! tuple {
    ($($part:ident $index:tt),*) => {
        impl<$($part: Data),*> Data for ($($part,)*) {
            const FIXED_BYTES: Option<usize> = sum(&[$($part::FIXED_BYTES),*]);

            fn schema() -> Schema {
                Schema::Tuple(vec![$($part::schema()),*])
            }

            #[inline]
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$index.encode(out);)*
            }

            #[inline]
            fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
                Ok(($($part::decode(input)?,)*))
            }

            fn reader(stored: &Schema) -> Option<Reader<Self>> {
                own_or(stored, || {
                    let Schema::Tuple(parts) = stored else { return None };
                    let count = [$($index),*].len();
                    if parts.len() != count {
                        return None;
                    }
                    let readers = ($($part::reader(&parts[$index])?,)*);
                    Some(Reader::migrating(move |input| Ok(($(readers.$index.read(input)?,)*))))
                })
            }

            #[inline]
            fn key_hash(&self) -> u64 {
                hash_fixed(self)
            }

            #[inline]
            fn encode_fixed(&self, out: &mut [u8]) {
                let rest = out;
                $(let (part, rest) = rest.split_at_mut($part::FIXED_BYTES.unwrap_or(0));
                  self.$index.encode_fixed(part);)*
                debug_assert!(rest.is_empty());
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

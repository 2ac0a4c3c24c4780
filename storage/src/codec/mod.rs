//! How values become bytes: the [`Data`] trait, its implementations and structural [`Schema`]s.
//!
//! Padding-free plain old data is copied; everything else goes through postcard. The bytes of a key decide its key
//! group, so the encoding of a released type never changes; a changed type raises its version.

use crate::key_group::KeyGroups;

mod schema;
mod describe;
mod reader;
mod builtin;
mod macros;
mod short_hash;
#[cfg(test)]
mod tests;

pub use describe::describe;
#[doc(hidden)]
pub use macros::__private;
pub use reader::Reader;
pub use schema::{Field, Schema};

/// Bytes did not decode to a value of the wanted type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// A value that can be a record on a channel, a key or a piece of state.
///
/// Implemented for the primitive types, `String`, `Vec`, `Option`, and tuples of such; `thalweg_storage::data!`
/// implements it for a type that derives serde's traits and `postcard_schema::Schema`, `thalweg_storage::pod!` for a
/// padding-free plain type that derives zerocopy's.
pub trait Data: Clone + Send + 'static {
    /// Bytes of every encoded value where all have the same length, else `None`.
    const FIXED_BYTES: Option<usize>;

    /// Names and types of the parts, as stored with every snapshot.
    fn schema() -> Schema;

    /// Appends the encoded value to `out`; exactly [`Data::FIXED_BYTES`] bytes where that is set.
    fn encode(&self, out: &mut Vec<u8>);

    /// Takes one value from the front of `input`.
    ///
    /// # Errors
    /// When `input` is too short or holds no value of this type. Never panics and never allocates more than a small
    /// multiple of `input`'s length, whatever the bytes.
    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError>;

    /// XXH3-64 (seed 0) of the encoded bytes: the frozen hash, version 1, that assigns keys to key groups.
    fn key_hash(&self) -> u64 {
        let mut bytes = Vec::with_capacity(Self::FIXED_BYTES.unwrap_or(32));
        self.encode(&mut bytes);
        hash_bytes(&bytes)
    }

    /// The hash by which a table finds this key: its key group is that of the key proper. Other than
    /// [`Data::key_hash`] only for keys that name more than the user's key, such as a namespace.
    #[doc(hidden)]
    #[inline(always)]
    fn group_hash(&self, groups: KeyGroups) -> u64 {
        let _ = groups;
        self.key_hash()
    }

    /// How to read values that were stored under `stored`: by [`Data::decode`] where that equals [`Data::schema`], else by
    /// migrating from an older version; `None` where values cannot be read.
    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        (*stored == Self::schema()).then_some(Reader::Own)
    }

    /// Writes the encoded value to `out`, which has exactly [`Data::FIXED_BYTES`] bytes: a short cut for types of
    /// fixed length, never called for others.
    #[doc(hidden)]
    fn encode_fixed(&self, out: &mut [u8]) {
        let mut bytes = Vec::with_capacity(out.len());
        self.encode(&mut bytes);
        out.copy_from_slice(&bytes);
    }

    /// Appends all of `values`, one after another: a short cut for bytes.
    #[doc(hidden)]
    fn encode_all(values: &[Self], out: &mut Vec<u8>) {
        for value in values {
            value.encode(out);
        }
    }

    /// Writes all of `values`, of fixed length, to `out`, which has exactly the bytes that they take: a short cut for bytes.
    #[doc(hidden)]
    fn encode_all_fixed(values: &[Self], out: &mut [u8]) {
        let bytes = Self::FIXED_BYTES.unwrap_or(0);
        for (i, value) in values.iter().enumerate() {
            value.encode_fixed(&mut out[i * bytes..(i + 1) * bytes]);
        }
    }

    /// Takes `N` values from the front of `input`: a short cut for bytes.
    #[doc(hidden)]
    fn decode_array<const N: usize>(input: &mut &[u8]) -> Result<[Self; N], DecodeError> {
        let mut values = [const { None }; N];
        for value in &mut values {
            *value = Some(Self::decode(input)?);
        }
        Ok(values.map(|value| value.expect("every element was just decoded")))
    }

    /// Takes `count` values from the front of `input`: a short cut for bytes.
    #[doc(hidden)]
    fn decode_all(count: usize, input: &mut &[u8]) -> Result<Vec<Self>, DecodeError> {
        // A wrong count must not reserve more memory than the input could fill.
        let mut values = Vec::with_capacity(count.min(input.len() / size_of::<Self>().max(1)));
        for _ in 0..count {
            values.push(Self::decode(input)?);
        }
        Ok(values)
    }
}

/// A [`Data`] type that can be a key.
pub trait Key: Data + Eq {}
impl<T: Data + Eq> Key for T {}

/// The frozen key hash, version 1: XXH3-64 with seed 0.
#[inline]
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

//! [`Row`]: the items of a small collection, or the head or one chunk of a larger one.
//!
//! | part   | encoding                                | meaning                                                   |
//! |--------|-----------------------------------------|-----------------------------------------------------------|
//! | spread | byte 0; or byte 1 and a `H`             | in a head row whose items are in chunks: what is known of them |
//! | items  | `u32` count, then the items             | none in a head row with a spread                          |
//!
//! A collection is the row of scope 0 and, once it has a spread, chunks: rows of scopes from 1 on.

use crate::codec::{Data, DecodeError, Field, Reader, Schema};

/// Items of about this many bytes make a full row.
pub(super) const CHUNK_BYTES: usize = 1 << 10;

/// Most chunks that are announced together with their head: an iteration over more waits for the disk.
pub(super) const FOLLOWED_MAX: usize = 16;

/// Finds the head of a collection in chunks in what may be its encoded row; in false ones it finds anything.
pub(super) fn spread_of<H: Data>(mut value: &[u8]) -> Option<H> {
    Option::<H>::decode(&mut value).ok().flatten()
}

/// When a collection is touched, and what that changes of its items.
pub(super) type Touch<'a, E> = (u64, &'a dyn Fn(&mut E));

/// Rows of a collection: `H` is what a head knows of the chunks, `E` an item.
#[derive(Clone, Debug)]
pub(super) struct Row<H, E> {
    pub spread: Option<H>,
    items: Vec<E>,
    /// Encoded bytes of the items; not encoded itself.
    bytes: usize,
}

impl<H, E> Default for Row<H, E> {
    fn default() -> Self {
        Row { spread: None, items: Vec::new(), bytes: 0 }
    }
}

impl<H: Data, E: Data> Row<H, E> {
    /// The head row of a collection in chunks.
    pub fn head(spread: H) -> Self {
        Row { spread: Some(spread), ..Row::default() }
    }

    pub fn items(&self) -> &[E] {
        &self.items
    }

    /// Encoded bytes of the items.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends `item` unless the row is full; then gives it back. The first always finds room.
    pub fn try_push(&mut self, item: E) -> Option<E> {
        let bytes = encoded_bytes(&item);
        if !self.items.is_empty() && self.bytes + bytes > CHUNK_BYTES {
            return Some(item);
        }
        self.items.push(item);
        self.bytes += bytes;
        None
    }

    /// Appends an item.
    pub fn push(&mut self, item: E) {
        self.bytes += encoded_bytes(&item);
        self.items.push(item);
    }

    /// Removes item `i`; the last takes its place.
    pub fn swap_remove(&mut self, i: usize) {
        let removed = self.items.swap_remove(i);
        self.bytes = self.bytes.saturating_sub(encoded_bytes(&removed));
    }

    /// Changes item `i`, and the row's bytes with it.
    pub fn change<R>(&mut self, i: usize, change: impl FnOnce(&mut E) -> R) -> R {
        let before = encoded_bytes(&self.items[i]);
        let result = change(&mut self.items[i]);
        self.bytes = (self.bytes + encoded_bytes(&self.items[i])).saturating_sub(before);
        result
    }

    /// Calls `change` for each item and keeps those for which it returns true.
    pub fn retain_mut(&mut self, mut change: impl FnMut(&mut E) -> bool) {
        self.items.retain_mut(&mut change);
        self.bytes = self.items.iter().map(encoded_bytes).sum();
    }

    /// The items.
    pub fn into_items(self) -> Vec<E> {
        self.items
    }
}

/// The schemas of the `N` fields of a stored structure that differs from `own` in these only.
pub(super) fn fields_of<'a, const N: usize>(stored: &'a Schema, own: &Schema) -> Option<[&'a Schema; N]> {
    match (stored, own) {
        (
            Schema::Struct { name, version, fields },
            Schema::Struct { name: own_name, version: own_version, fields: own_fields },
        ) if name == own_name
            && version == own_version
            && fields.iter().map(|field| &field.name).eq(own_fields.iter().map(|field| &field.name)) =>
        {
            fields.iter().map(|field| &field.schema).collect::<Vec<_>>().try_into().ok()
        }
        _ => None,
    }
}

/// Length of the encoded `value`.
#[inline]
pub(super) fn encoded_bytes<T: Data>(value: &T) -> usize {
    T::FIXED_BYTES.unwrap_or_else(|| {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        bytes.len()
    })
}

impl<H: Data, E: Data> Data for Row<H, E> {
    const FIXED_BYTES: Option<usize> = None;

    fn schema() -> Schema {
        let field = |name: &str, schema| Field { name: name.to_owned(), schema };
        Schema::Struct {
            name: "Row".to_owned(),
            version: 1,
            fields: vec![field("spread", Option::<H>::schema()), field("items", Vec::<E>::schema())],
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.spread.encode(out);
        let count = u32::try_from(self.items.len()).expect("a row has about 1 KiB of items");
        count.encode(out);
        E::encode_all(&self.items, out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let spread = Option::<H>::decode(input)?;
        let count = u32::decode(input)?;
        let before = input.len();
        let items = E::decode_all(count as usize, input)?;
        Ok(Row { spread, items, bytes: before - input.len() })
    }

    fn reader(stored: &Schema) -> Option<Reader<Self>> {
        if *stored == Self::schema() {
            return Some(Reader::Own);
        }
        let [spread, items] = fields_of(stored, &Self::schema())?;
        let (spread, items) = (Option::<H>::reader(spread)?, Vec::<E>::reader(items)?);
        Some(Reader::migrating(move |input| {
            let (spread, items) = (spread.read(input)?, items.read(input)?);
            let bytes = items.iter().map(encoded_bytes).sum();
            Ok(Row { spread, items, bytes })
        }))
    }
}

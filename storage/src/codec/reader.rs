//! How values that were stored under some schema become values of a type today.
//!
//! Always true: where the stored schema equals the type's own, a value is read by [`Data::decode`], without a detour.

use super::schema::{Field, Schema};
use super::{Data, DecodeError};
use std::sync::Arc;

/// Reads one value from the front of stored bytes.
type Read<T> = dyn Fn(&mut &[u8]) -> Result<T, DecodeError> + Send + Sync;

/// Takes values from the front of bytes that were stored under one schema. Cheap to clone.
pub enum Reader<T> {
    /// The schema is the type's own: [`Data::decode`] reads it.
    Own,
    /// The schema is another, such as an older version's.
    Migrating(Arc<Read<T>>),
}

impl<T> Clone for Reader<T> {
    fn clone(&self) -> Self {
        match self {
            Reader::Own => Reader::Own,
            Reader::Migrating(read) => Reader::Migrating(Arc::clone(read)),
        }
    }
}

impl<T> std::fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_own() { "Own" } else { "Migrating" })
    }
}

impl<T> Reader<T> {
    /// A reader of another schema than the type's own.
    pub fn migrating(read: impl Fn(&mut &[u8]) -> Result<T, DecodeError> + Send + Sync + 'static) -> Self {
        Reader::Migrating(Arc::new(read))
    }

    /// True where stored bytes are as the type encodes them today.
    pub fn is_own(&self) -> bool {
        matches!(self, Reader::Own)
    }
}

impl<T: Data> Reader<T> {
    /// Takes one value from the front of `input`.
    ///
    /// # Errors
    /// As [`Data::decode`].
    #[inline]
    pub fn read(&self, input: &mut &[u8]) -> Result<T, DecodeError> {
        match self {
            Reader::Own => T::decode(input),
            Reader::Migrating(read) => read(input),
        }
    }

    /// Takes the one value that `bytes` hold.
    ///
    /// # Errors
    /// As [`Data::decode`], and when bytes are left over.
    #[inline]
    pub fn read_whole(&self, mut bytes: &[u8]) -> Result<T, DecodeError> {
        let value = self.read(&mut bytes)?;
        if bytes.is_empty() {
            Ok(value)
        } else {
            Err(DecodeError(format!("{} bytes are left over", bytes.len())))
        }
    }

    /// A reader of what `convert` makes of the values.
    pub fn map<U>(self, convert: impl Fn(T) -> U + Send + Sync + 'static) -> Reader<U> {
        Reader::migrating(move |input| Ok(convert(self.read(input)?)))
    }
}

/// The reader of values of `T` that were stored as a `Older` or, in turn, as something that `Older` reads.
///
/// A type that has been given another name when its successor took it over is still found: names of types do not
/// matter for that, only versions, and names and types of fields.
pub fn reader_by_way_of<Older: Data, T: Data + From<Older>>(stored: &Schema) -> Option<Reader<T>> {
    if *stored == T::schema() {
        return Some(Reader::Own);
    }
    let stored = stored.renamed(&T::schema(), &Older::schema());
    Older::reader(&stored).map(|older| older.map(T::from))
}

impl Schema {
    /// This stored schema with the names that `older` gives to the types in it. The outermost name stays unless it is
    /// that of `own`, the successor: then the type called so today is not the one that was stored.
    fn renamed(&self, own: &Schema, older: &Schema) -> Schema {
        let mut renamed = self.clone();
        let outermost = renamed.type_name().map(str::to_owned);
        adopt_names(&mut renamed, older);
        if outermost.as_deref() != own.type_name()
            && let (Some(name), Some(kept)) = (renamed.type_name_mut(), outermost)
        {
            *name = kept;
        }
        renamed
    }

    /// Name of the outermost type, if it has one.
    fn type_name(&self) -> Option<&str> {
        match self {
            Schema::Struct { name, .. } | Schema::Enum { name, .. } => Some(name),
            Schema::Postcard(inner) => inner.type_name(),
            _ => None,
        }
    }

    fn type_name_mut(&mut self) -> Option<&mut String> {
        match self {
            Schema::Struct { name, .. } | Schema::Enum { name, .. } => Some(name),
            Schema::Postcard(inner) => inner.type_name_mut(),
            _ => None,
        }
    }
}

/// Gives the types in `schema` the names that those at the same places in `model` have.
fn adopt_names(schema: &mut Schema, model: &Schema) {
    let parts = |parts: &mut [Field], models: &[Field]| {
        parts.iter_mut().zip(models).for_each(|(part, model)| adopt_names(&mut part.schema, &model.schema));
    };
    match (schema, model) {
        (Schema::Option(inner), Schema::Option(model))
        | (Schema::Seq(inner), Schema::Seq(model))
        | (Schema::Postcard(inner), Schema::Postcard(model)) => adopt_names(inner, model),
        (Schema::Map(key, value), Schema::Map(model_key, model_value)) => {
            adopt_names(key, model_key);
            adopt_names(value, model_value);
        }
        (Schema::Tuple(inner), Schema::Tuple(models)) => {
            inner.iter_mut().zip(models).for_each(|(part, model)| adopt_names(part, model));
        }
        (
            Schema::Struct { name, fields, .. },
            Schema::Struct { name: model_name, fields: model_fields, .. },
        ) => {
            name.clone_from(model_name);
            parts(fields, model_fields);
        }
        (
            Schema::Enum { name, variants, .. },
            Schema::Enum { name: model_name, variants: model_variants, .. },
        ) => {
            name.clone_from(model_name);
            parts(variants, model_variants);
        }
        _ => {}
    }
}

//! Rows of a state whose value type has changed since they were stored.
//!
//! Always true: keys keep their bytes, and with them their key group; tombstones stay tombstones; rows keep their order.

use super::rows::Rows;
use crate::codec::{Data, DecodeError, Key, Reader, Schema};
use std::fmt;
use std::sync::Arc;

type Rewrite = dyn Fn(&Rows) -> Result<Rows, DecodeError> + Send + Sync;

/// How rows that were stored under some schema become rows of today's types. Cheap to clone, for any thread.
#[derive(Clone)]
pub enum Migration {
    /// They are such rows.
    Unneeded,
    /// By rewriting them, see [`Migration::rewrite`].
    Rewrite(Arc<Rewrite>),
}

impl fmt::Debug for Migration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_needed() { "Rewrite" } else { "Unneeded" })
    }
}

impl Migration {
    /// For keys of `K` and values of `V` where the values were stored under `stored`; `None` when `V` cannot read them.
    pub fn of<K: Key, V: Data>(stored: &Schema) -> Option<Migration> {
        let reader = V::reader(stored)?;
        Some(match reader {
            Reader::Own => Migration::Unneeded,
            reader => Migration::Rewrite(Arc::new(move |rows| rewrite::<K, V>(rows, &reader))),
        })
    }

    /// True when rows have to be rewritten.
    pub fn is_needed(&self) -> bool {
        matches!(self, Migration::Rewrite(_))
    }

    /// The rows as of today.
    ///
    /// # Errors
    /// When they are not of the stored type.
    pub fn rewrite(&self, rows: Rows) -> Result<Rows, DecodeError> {
        match self {
            Migration::Unneeded => Ok(rows),
            Migration::Rewrite(rewrite) => rewrite(&rows),
        }
    }
}

fn rewrite<K: Key, V: Data>(rows: &Rows, reader: &Reader<V>) -> Result<Rows, DecodeError> {
    let mut rewritten = Rows::new(K::FIXED_BYTES, V::FIXED_BYTES);
    let mut encoded = Vec::new();
    for row in 0..rows.len() {
        let (key, value) = rows.get(row);
        if K::FIXED_BYTES.is_some_and(|bytes| bytes != key.len()) {
            return Err(DecodeError(format!("a key of {} bytes", key.len())));
        }
        let value = value.map(|bytes| reader.read_whole(bytes)).transpose()?;
        let value = value.map(|value| {
            encoded.clear();
            value.encode(&mut encoded);
            encoded.as_slice()
        });
        rewritten.push_encoded(key, value);
    }
    Ok(rewritten)
}

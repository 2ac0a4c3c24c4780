//! What the rows of a keyed state mean: which of the state kinds they belong to, by their schemas, and the values that a user
//! would see, put together from rows.
//!
//! A list or map is a head row and, when it is large, chunks: rows whose keys end in the number of the chunk. See
//! `state/row.rs`, `state/list_table.rs` and `state/map_table.rs`.
//!
//! Pure.

use crate::codec::{DecodeError, Json, Schema, take_json, to_json};
use std::collections::BTreeMap;

/// Which kind of state rows of some schemas are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateShape {
    /// One value per key: of value, reducing and aggregating states.
    Value,
    /// A list per key.
    List,
    /// A map per key.
    Map,
    /// Timers.
    Timer,
}

/// A row: encoded key and value.
pub(super) type Row = (Vec<u8>, Vec<u8>);

/// The name of a structure of the crate's own, and its fields.
fn structure<'a, const N: usize>(
    schema: &'a Schema,
    name: &str,
    fields: [&str; N],
) -> Option<[&'a Schema; N]> {
    match schema {
        Schema::Struct { name: found, fields: parts, .. }
            if found == name && parts.iter().map(|part| part.name.as_str()).eq(fields) =>
        {
            parts.iter().map(|part| &part.schema).collect::<Vec<_>>().try_into().ok()
        }
        _ => None,
    }
}

/// The key that a scoped key scopes, and its scope, where it is of this primitive type.
fn scoped<'a>(key: &'a Schema, scope: &str) -> Option<&'a Schema> {
    match key {
        Schema::Tuple(parts) => match parts.as_slice() {
            [key, Schema::Primitive(name)] if name == scope => Some(key),
            _ => None,
        },
        _ => None,
    }
}

impl StateShape {
    /// The kind of state whose rows have keys and values of these schemas.
    pub fn of(key: &Schema, value: &Schema) -> StateShape {
        let spread = structure(value, "Row", ["spread", "items"]).and_then(|[spread, _]| match spread {
            Schema::Option(spread) => match &**spread {
                Schema::Struct { name, .. } => Some(name.as_str()),
                _ => None,
            },
            _ => None,
        });
        let timer = || {
            let Schema::Primitive(none) = value else { return false };
            none == "()" && matches!(scoped(key, "i64"), Some(Schema::Tuple(parts)) if parts.len() == 2)
        };
        match spread {
            Some("ListSpread") if scoped(key, "u32").is_some() => StateShape::List,
            Some("MapSpread") if scoped(key, "u32").is_some() => StateShape::Map,
            _ if timer() => StateShape::Timer,
            _ => StateShape::Value,
        }
    }

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            StateShape::Value => "value",
            StateShape::List => "list",
            StateShape::Map => "map",
            StateShape::Timer => "timer",
        }
    }

    /// The types of key and value as a user gave them, with time to live taken off, and whether the state has that.
    pub fn types<'a>(self, key: &'a Schema, value: &'a Schema) -> (&'a Schema, Vec<&'a Schema>, bool) {
        let with_ttl = |schema: &'a Schema| match structure(schema, "WithTtl", ["last_access_ms", "value"]) {
            Some([_, value]) => (value, true),
            None => (schema, false),
        };
        let items = || match structure(value, "Row", ["spread", "items"]) {
            Some([_, Schema::Seq(item)]) => Some(&**item),
            _ => None,
        };
        match self {
            StateShape::Value => {
                let (value, ttl) = with_ttl(value);
                (key, vec![value], ttl)
            }
            StateShape::Timer => (timer_parts(key).map_or(key, |(key, _)| key), Vec::new(), false),
            StateShape::List => {
                let (item, ttl) = items().map_or((value, false), with_ttl);
                (scoped(key, "u32").unwrap_or(key), vec![item], ttl)
            }
            StateShape::Map => {
                let entry = items().and_then(|item| structure(item, "Entry", ["user_key", "value"]));
                let key = scoped(key, "u32").unwrap_or(key);
                match entry {
                    Some([user_key, value]) => {
                        let (value, ttl) = with_ttl(value);
                        (key, vec![user_key, value], ttl)
                    }
                    None => (key, vec![value], false),
                }
            }
        }
    }
}

/// Key and namespace of a timer.
fn timer_parts(key: &Schema) -> Option<(&Schema, &Schema)> {
    match scoped(key, "i64")? {
        Schema::Tuple(parts) => match parts.as_slice() {
            [key, namespace] => Some((key, namespace)),
            _ => None,
        },
        _ => None,
    }
}

/// What the rows of one key group hold, one JSON object per key or timer, by the bytes of the key.
pub(super) fn entries(
    shape: StateShape,
    key: &Schema,
    value: &Schema,
    rows: Vec<Row>,
) -> Result<Vec<Vec<(String, Json)>>, DecodeError> {
    let named = |name: &str, json: Json| (name.to_owned(), json);
    match shape {
        StateShape::Value => {
            let mut rows = rows;
            rows.sort_unstable();
            rows.into_iter()
                .map(|(key_bytes, bytes)| {
                    let mut fields = vec![named("key", to_json(key, &key_bytes)?)];
                    let (value, stamp) = without_ttl(value, to_json(value, &bytes)?);
                    fields.push(named("value", value));
                    fields.extend(stamp.map(|stamp| named("last_access_ms", stamp)));
                    Ok(fields)
                })
                .collect()
        }
        StateShape::Timer => {
            let (own, namespace) =
                timer_parts(key).ok_or_else(|| DecodeError("these are no keys of timers".to_owned()))?;
            let mut timers = rows
                .into_iter()
                .map(|(key_bytes, _)| {
                    let (front, time) = split_end::<8>(&key_bytes)?;
                    let (time, mut input) = (i64::from_le_bytes(time), front);
                    let own = take_json(own, &mut input)?;
                    let namespace = to_json(namespace, input)?;
                    let mut fields = vec![named("key", own)];
                    if namespace != Json::Null {
                        fields.push(named("namespace", namespace));
                    }
                    fields.push(named("time_ms", Json::Number(time.to_string())));
                    Ok((time, key_bytes, fields))
                })
                .collect::<Result<Vec<_>, DecodeError>>()?;
            timers.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            Ok(timers.into_iter().map(|(.., fields)| fields).collect())
        }
        StateShape::List | StateShape::Map => collections(shape, key, value, rows),
    }
}

fn split_end<const N: usize>(bytes: &[u8]) -> Result<(&[u8], [u8; N]), DecodeError> {
    let split = bytes.split_last_chunk::<N>();
    split
        .map(|(front, end)| (front, *end))
        .ok_or_else(|| DecodeError("the bytes end within a key".to_owned()))
}

/// A value, and when it was written last if it has a time to live.
fn without_ttl(schema: &Schema, json: Json) -> (Json, Option<Json>) {
    match (structure(schema, "WithTtl", ["last_access_ms", "value"]), json) {
        (Some(_), Json::Object(fields)) => {
            let mut values = fields.into_iter().map(|(_, value)| value);
            let stamp = values.next();
            (values.next().unwrap_or(Json::Null), stamp)
        }
        (_, json) => (json, None),
    }
}

/// The rows of one collection, decoded, by chunk.
type Chunks = BTreeMap<u32, (Option<Vec<(String, Json)>>, Vec<Json>)>;

fn collections(
    shape: StateShape,
    key: &Schema,
    value: &Schema,
    rows: Vec<Row>,
) -> Result<Vec<Vec<(String, Json)>>, DecodeError> {
    let own = scoped(key, "u32").ok_or_else(|| DecodeError("these are no keys of rows".to_owned()))?;
    let mut by_key: BTreeMap<Vec<u8>, Chunks> = BTreeMap::new();
    for (key_bytes, bytes) in rows {
        let (front, chunk) = split_end::<4>(&key_bytes)?;
        let row = match to_json(value, &bytes)? {
            Json::Object(fields) => fields,
            _ => return Err(DecodeError("this is no row of a collection".to_owned())),
        };
        let mut parts = row.into_iter().map(|(_, part)| part);
        let spread = match parts.next() {
            Some(Json::Object(fields)) => Some(fields),
            _ => None,
        };
        let Some(Json::Array(items)) = parts.next() else {
            return Err(DecodeError("this is no row of a collection".to_owned()));
        };
        by_key.entry(front.to_vec()).or_default().insert(u32::from_le_bytes(chunk), (spread, items));
    }
    let mut entries = Vec::new();
    for (key_bytes, mut chunks) in by_key {
        // Chunks that no head counts are left over from before, and mean nothing.
        let Some((spread, mut items)) = chunks.remove(&0) else { continue };
        if let Some(spread) = spread {
            let number = |name: &str| {
                let field = spread.iter().find(|(field, _)| field == name);
                field.and_then(
                    |(_, json)| if let Json::Number(text) = json { text.parse::<u32>().ok() } else { None },
                )
            };
            let counted = match shape {
                StateShape::List => number("first").zip(number("last")).map(|(first, last)| first..=last),
                _ => number("chunks").map(|chunks| 1..=chunks),
            };
            let counted =
                counted.ok_or_else(|| DecodeError("the head of a collection names no chunks".to_owned()))?;
            let inside = chunks.into_iter().filter(|(chunk, _)| counted.contains(chunk));
            items = inside.flat_map(|(_, (_, items))| items).collect();
        }
        let json = if shape == StateShape::Map { map_of(items) } else { Json::Array(items) };
        entries.push(vec![("key".to_owned(), to_json(own, &key_bytes)?), ("value".to_owned(), json)]);
    }
    Ok(entries)
}

/// A map of the entries of its rows.
fn map_of(items: Vec<Json>) -> Json {
    let pair = |item: Json| match item {
        Json::Object(fields) => {
            let mut parts = fields.into_iter().map(|(_, part)| part);
            parts.next().zip(parts.next())
        }
        _ => None,
    };
    let mut pairs: Vec<(Json, Json)> = items.into_iter().filter_map(pair).collect();
    pairs.sort_by_cached_key(|(key, _)| key.to_string());
    Json::map(pairs)
}

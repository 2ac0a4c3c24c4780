//! How messages name types.

use super::schema::{Field, Schema};

/// A schema as a Rust-like type, with what two types of equal shape may differ in.
pub fn describe(schema: &Schema) -> String {
    let list = |parts: &[Schema]| parts.iter().map(describe).collect::<Vec<_>>().join(", ");
    let fields = |fields: &[Field]| {
        fields
            .iter()
            .map(|field| format!("{}: {}", field.name, describe(&field.schema)))
            .collect::<Vec<_>>()
            .join(", ")
    };
    match schema {
        Schema::Primitive(name) => name.clone(),
        Schema::Option(inner) => format!("Option<{}>", describe(inner)),
        Schema::Seq(inner) => format!("Vec<{}>", describe(inner)),
        Schema::Map(key, value) => format!("Map<{}, {}>", describe(key), describe(value)),
        Schema::Tuple(parts) => format!("({})", list(parts)),
        Schema::Struct { name, version, fields: parts } => {
            format!("{name} version {version} {{ {} }}", fields(parts))
        }
        Schema::Enum { name, version, variants } => {
            format!("enum {name} version {version} {{ {} }}", fields(variants))
        }
        Schema::Postcard(inner) => describe(inner),
    }
}

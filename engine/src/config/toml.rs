//! Reads the settings in a TOML file: tables, dotted names, or both.
//!
//! Always true: every value comes with the place of its name and of its own; what no setting can be (an array, a date) is
//! refused with its place. Nesting is bounded by the parser.
//!
//! Pure.

use super::file::{Mistake, Place, Written};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The settings in `text`, in its order.
pub(super) fn parse(text: &str) -> Result<Vec<Written>, Mistake> {
    let root = DeTable::parse(text).map_err(|error| Mistake {
        at: place(text, error.span().map_or(0, |span| span.start)),
        message: format!("this is no TOML: {}", error.message()),
    })?;
    let mut written = Vec::new();
    collect(text, "", root.get_ref(), &mut written)?;
    written.sort_by_key(|written| (written.name_at.line, written.name_at.column));
    Ok(written)
}

fn collect(text: &str, prefix: &str, table: &DeTable<'_>, out: &mut Vec<Written>) -> Result<(), Mistake> {
    for (name, value) in table {
        let name_at = place(text, name.span().start);
        let name = format!("{prefix}{}", name.get_ref());
        let value_at = place(text, value.span().start);
        let value = match value.get_ref() {
            DeValue::Table(inner) => {
                collect(text, &format!("{name}."), inner, out)?;
                continue;
            }
            DeValue::Array(_) => return Err(no_value(value, value_at, "a list")),
            DeValue::Datetime(_) => return Err(no_value(value, value_at, "a date or time of day")),
            DeValue::String(value) => value.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Integer(value) if value.radix() == 10 => value.as_str().to_owned(),
            DeValue::Integer(_) => return Err(no_value(value, value_at, "a number that is not decimal")),
            DeValue::Float(value) => value.as_str().to_owned(),
        };
        out.push(Written { name, name_at, value, value_at });
    }
    Ok(())
}

fn no_value(_: &Spanned<DeValue<'_>>, at: Place, what: &str) -> Mistake {
    Mistake { at, message: format!("{what} is no value of a setting") }
}

/// The place of a byte of `text`.
fn place(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

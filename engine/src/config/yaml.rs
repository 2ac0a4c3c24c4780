//! Reads the settings in a YAML file: nested mappings, dotted names, or both, as in Apache Flink's `config.yaml`.
//!
//! Always true: every scalar comes with the place of its name and of its own; what no setting can be (a list, an alias, a
//! second document, a name without a value) is refused with its place. Nesting is bounded.
//!
//! Pure.

use super::file::{Mistake, Place, Written};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

/// Names nest at most this deep.
const DEPTH_MAX: usize = 32;

fn place(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}

/// A mapping that is being read.
struct Open {
    /// What its names follow: `a.b.`, or nothing.
    prefix: String,
    /// A name that waits for its value.
    name: Option<(String, Place)>,
    /// Where its own name is; for an empty mapping.
    at: Place,
    empty: bool,
}

/// The settings in `text`, in its order.
pub(super) fn parse(text: &str) -> Result<Vec<Written>, Mistake> {
    let mut written = Vec::new();
    let mut open: Vec<Open> = Vec::new();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let text = error.info().to_owned();
            Mistake { at: place(error.marker()), message: format!("this is no YAML: {text}") }
        })?;
        let at = place(&span.start);
        let refuse = |message: &str| Err(Mistake { at, message: message.to_owned() });
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return refuse("a second YAML document begins here; put all settings into one");
                }
            }
            Event::Alias(_) => return refuse("YAML aliases are not supported; write the value out"),
            Event::SequenceStart(..) => return refuse("a list is no value of a setting"),
            Event::MappingStart(..) => {
                if open.len() >= DEPTH_MAX {
                    return refuse("names nest too deep");
                }
                let prefix = match open.last_mut() {
                    None => String::new(),
                    Some(outer) => match outer.name.take() {
                        Some((name, _)) => format!("{}{name}.", outer.prefix),
                        None => return refuse("a mapping is no name of a setting"),
                    },
                };
                open.push(Open { prefix, name: None, at, empty: true });
            }
            Event::MappingEnd => {
                if let Some(ended) = open.pop().filter(|ended| ended.empty && !open.is_empty()) {
                    let name = ended.prefix.trim_end_matches('.');
                    let message = format!("`{name}` has no value; take the line out, or give one");
                    return Err(Mistake { at: ended.at, message });
                }
            }
            Event::Scalar(scalar, style, ..) => {
                let Some(mapping) = open.last_mut() else {
                    if scalar.is_empty() && style == ScalarStyle::Plain {
                        continue; // an empty document
                    }
                    return refuse("settings are written as `name: value`");
                };
                mapping.empty = false;
                match mapping.name.take() {
                    None => mapping.name = Some((scalar.into_owned(), at)),
                    Some((name, name_at)) => {
                        let name = format!("{}{name}", mapping.prefix);
                        let none = style == ScalarStyle::Plain
                            && matches!(&*scalar, "" | "~" | "null" | "Null" | "NULL");
                        if none {
                            let message = format!("`{name}` has no value; take the line out, or give one");
                            return Err(Mistake { at: name_at, message });
                        }
                        written.push(Written { name, name_at, value: scalar.into_owned(), value_at: at });
                    }
                }
            }
            _ => {}
        }
    }
    Ok(written)
}

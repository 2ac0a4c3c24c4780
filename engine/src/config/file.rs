//! What a configuration file says: its settings by name, with the places of names and values.
//!
//! A line such as `interval: 3min` below `execution:` and `checkpointing:` is the setting `execution.checkpointing.interval`,
//! and so is a line with that whole name. The ending of the file's name tells YAML (`.yaml`, `.yml`) from TOML (`.toml`).
//!
//! Pure, but for [`read`].

use super::error::{ConfigError, Origin};
use super::{toml, yaml};
use std::path::Path;
use std::sync::Arc;

/// A configuration file is at most this long.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
}

/// A setting as a file has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub name: String,
    pub name_at: Place,
    pub value: String,
    pub value_at: Place,
}

/// Why a file is not well formed.
#[derive(Debug)]
pub(super) struct Mistake {
    pub at: Place,
    pub message: String,
}

impl Place {
    pub fn origin(self, path: &Arc<Path>) -> Origin {
        Origin::File { path: Arc::clone(path), line: self.line, column: self.column }
    }
}

/// The settings in `text`, the content of the file at `path`.
pub(super) fn parse(path: &Arc<Path>, text: &str) -> Result<Vec<Written>, ConfigError> {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    let written = match ending.as_deref() {
        Some("yaml" | "yml") => yaml::parse(text),
        Some("toml") => toml::parse(text),
        _ => {
            let message = "its name ends in none of `.yaml`, `.yml` and `.toml`, so its format is not known";
            return Err(unreadable(path, message));
        }
    };
    written
        .map_err(|mistake| ConfigError::Syntax { origin: mistake.at.origin(path), message: mistake.message })
}

/// The content of the file at `path`.
#[expect(clippy::disallowed_methods, reason = "settings are read before there is a disk, which they choose")]
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let length = std::fs::metadata(path).map_err(|error| unreadable(path, &error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(path, "it is longer than 1 MiB, so it is hardly a configuration file"));
    }
    std::fs::read_to_string(path).map_err(|error| unreadable(path, &error.to_string()))
}

fn unreadable(path: &Path, message: &str) -> ConfigError {
    ConfigError::Unreadable { path: path.to_owned(), message: message.to_owned() }
}

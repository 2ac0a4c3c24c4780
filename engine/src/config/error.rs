//! Where a setting came from, and what can be wrong with it.
//!
//! Always true: an error about something that a person wrote says where it is written, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the value of a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In a configuration file.
    File {
        /// The file, as it was named.
        path: Arc<Path>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// In the environment.
    Environment {
        /// The variable.
        variable: String,
    },
    /// As `-D key=value`.
    CommandLine,
    /// In the program, by a method of the builder.
    Builder,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Origin::Environment { variable } => write!(f, "environment variable {variable}"),
            Origin::CommandLine => f.write_str("command line"),
            Origin::Builder => f.write_str("program"),
        }
    }
}

/// A mistake in the settings of an engine. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is no setting of this name.
    #[error("{origin}: there is no setting `{key}`{}", Hint(nearest))]
    UnknownKey {
        /// What was written.
        key: String,
        /// Where.
        origin: Origin,
        /// The valid name that comes nearest, if one comes near.
        nearest: Option<String>,
    },
    /// A setting has a value that cannot be used.
    #[error("{}setting `{key}`: {message}", Prefix(origin))]
    Value {
        /// The setting, as it was spelled.
        key: String,
        /// Where the value was given.
        origin: Origin,
        /// What is wrong with it and what would be right.
        message: String,
    },
    /// Two settings cannot both hold.
    #[error("settings `{}` ({}) and `{}` ({}) contradict each other: {message}", first.0, first.1, second.0, second.1)]
    Contradiction {
        /// One of them, as it was spelled, and where.
        first: Box<(String, Origin)>,
        /// The other.
        second: Box<(String, Origin)>,
        /// Why, and what to do.
        message: String,
    },
    /// A configuration file is not well formed.
    #[error("{origin}: {message}")]
    Syntax {
        /// Where.
        origin: Origin,
        /// What is wrong and what would be right.
        message: String,
    },
    /// A configuration file cannot be read.
    #[error("configuration file {}: {message}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

/// What a wrong name may have meant.
struct Hint<'a>(&'a Option<String>);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nearest) => write!(f, "; did you mean `{nearest}`?"),
            None => f.write_str("; `thalweg config reference` lists all"),
        }
    }
}

/// The place, where that says more than the setting's name.
struct Prefix<'a>(&'a Origin);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Origin::Default | Origin::Builder => Ok(()),
            written => write!(f, "{written}: "),
        }
    }
}

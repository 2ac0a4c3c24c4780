//! [`Settings`]: what files, the environment, the command line and the program say, and which of them counts.
//!
//! Always true:
//! - the program counts more than the command line, that more than the environment, and that more than files;
//! - every value was checked by its setting's [`Kind`](super::Kind) when it was added, and a mistake of the program waits for
//!   [`Settings::check`];
//! - within files, and within the environment, a setting is given once; under two names only with one value.
//!
//! Pure, but for [`Settings::load`].

use super::environment::{PREFIX, variables};
use super::error::{ConfigError, Origin};
use super::file;
use super::keys::{self, ALL};
use super::setting::{Default, Given, Key, Setting, Typed, Value};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

/// Who said it: a later one counts more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    File,
    Environment,
    CommandLine,
    Program,
}

/// What one layer says about a setting.
#[derive(Clone, Debug)]
struct Entry {
    /// The name that was used.
    spelling: &'static str,
    origin: Origin,
    /// `Err` for a mistake of the program that is yet to be reported.
    value: Result<Value, String>,
}

/// Settings of an engine from several places.
///
/// ```
/// use thalweg::config::{Settings, keys};
///
/// let mut settings = Settings::default();
/// settings.parse("app.yaml", "execution.checkpointing:\n  interval: 3min\n  dir: state/checkpoints\n")?;
/// settings.property("execution.checkpointing.interval=10s")?;
/// assert_eq!(settings.get(keys::CHECKPOINT_INTERVAL), Some(std::time::Duration::from_secs(10)));
///
/// let mistake = settings.parse("app.toml", "[execution.checkpointing]\nintervall = '1s'\n").unwrap_err();
/// assert_eq!(
///     mistake.to_string(),
///     "app.toml:2:1: there is no setting `execution.checkpointing.intervall`; \
///      did you mean `execution.checkpointing.interval`?"
/// );
/// # Ok::<(), thalweg::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Settings {
    entries: BTreeMap<(&'static str, Layer), Entry>,
}

impl Settings {
    /// Adds what the file at `path` says, YAML or TOML by the ending of its name.
    ///
    /// # Errors
    /// [`ConfigError`] names file, line and column, and what would be right. Nothing was added.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<(), ConfigError> {
        let text = file::read(path.as_ref())?;
        self.parse(path, &text)
    }

    /// Adds what `text` says, the content of a file at `path`, which is not read.
    ///
    /// # Errors
    /// As of [`Settings::load`].
    pub fn parse(&mut self, path: impl AsRef<Path>, text: &str) -> Result<(), ConfigError> {
        let path: Arc<Path> = path.as_ref().into();
        let mut added = self.clone();
        for written in file::parse(&path, text)? {
            let name_at = written.name_at.origin(&path);
            let (key, spelling) = find(&written.name)
                .ok_or_else(|| unknown(&written.name, name_at, nearest_name(&written.name)))?;
            let origin = written.value_at.origin(&path);
            added.add_once(Layer::File, key, spelling, origin, &written.value)?;
        }
        *self = added;
        Ok(())
    }

    /// Adds those among `variables` that begin with `THALWEG_`, such as from `std::env::vars_os()`: see
    /// [`variable`](super::variable).
    ///
    /// # Errors
    /// [`ConfigError`] names the variable and what would be right. Nothing was added.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        let mut added = self.clone();
        for (name, value) in variables {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) {
                continue;
            }
            let origin = Origin::Environment { variable: name.clone() };
            let found = self::variables().find(|(variable, ..)| *variable == name);
            let Some((_, spelling, key)) = found else {
                let nearest = nearest(&name, self::variables().map(|(variable, ..)| variable));
                return Err(unknown(&name, origin, nearest));
            };
            let value = value.into_string().map_err(|_| ConfigError::Value {
                key: spelling.to_owned(),
                origin: origin.clone(),
                message: "the value is not UTF-8".to_owned(),
            })?;
            added.add_once(Layer::Environment, key, spelling, origin, &value)?;
        }
        *self = added;
        Ok(())
    }

    /// Adds `name=value`, as after `-D` on a command line. A later one replaces an earlier one.
    ///
    /// # Errors
    /// [`ConfigError`] says what would be right. Nothing was added.
    pub fn property(&mut self, property: &str) -> Result<(), ConfigError> {
        let origin = Origin::CommandLine;
        let Some((name, text)) = property.split_once('=') else {
            let message = format!(
                "`{property}` is no property: write it like `{}=10s`",
                keys::CHECKPOINT_INTERVAL.key().name
            );
            return Err(ConfigError::Syntax { origin, message });
        };
        let name = name.trim();
        let (key, spelling) = find(name).ok_or_else(|| unknown(name, origin.clone(), nearest_name(name)))?;
        let value = checked(key, spelling, &origin, text)?;
        self.entries.insert((key.name, Layer::CommandLine), Entry { spelling, origin, value: Ok(value) });
        Ok(())
    }

    /// Sets a value in the program. It counts more than all else; a mistake in it is what [`Settings::check`] reports.
    pub fn set<T>(&mut self, setting: Setting<T>, value: impl Given<T>) {
        let key = setting.key();
        let entry = Entry { spelling: key.name, origin: Origin::Builder, value: value.value(&key.kind) };
        self.entries.insert((key.name, Layer::Program), entry);
    }

    /// The value that counts, or the default; `None` where the default is none, and for a mistake of the program.
    pub fn get<T: Typed>(&self, setting: Setting<T>) -> Option<T> {
        let key = setting.key();
        let value = match (self.entry(key), key.default) {
            (Some(entry), _) => entry.value.clone().ok(),
            (None, Default::Is(default)) => key.kind.parse(default).ok(),
            (None, Default::Unset(_)) => None,
        };
        value.and_then(|value| T::from_value(&value))
    }

    /// True where somebody gave a value, so that no default counts.
    pub fn is_set<T>(&self, setting: Setting<T>) -> bool {
        self.entry(setting.key()).is_some()
    }

    /// Where the value that counts was given.
    pub fn origin<T>(&self, setting: Setting<T>) -> Origin {
        self.entry(setting.key()).map_or(Origin::Default, |entry| entry.origin.clone())
    }

    /// The name that was used for the value that counts, and where.
    fn named(&self, key: &'static Key) -> (String, Origin) {
        match self.entry(key) {
            Some(entry) => (entry.spelling.to_owned(), entry.origin.clone()),
            None => (key.name.to_owned(), Origin::Default),
        }
    }

    /// The error that the value of `setting` cannot be used, with the name and the place that were used for it.
    pub fn refuse<T>(&self, setting: Setting<T>, message: impl Into<String>) -> ConfigError {
        let (key, origin) = self.named(setting.key());
        ConfigError::Value { key, origin, message: message.into() }
    }

    fn entry(&self, key: &'static Key) -> Option<&Entry> {
        let layers = (key.name, Layer::File)..=(key.name, Layer::Program);
        self.entries.range(layers).next_back().map(|(_, entry)| entry)
    }

    /// Checks what no value shows by itself.
    ///
    /// # Errors
    /// [`ConfigError`] for a value of the program that cannot be used, and for settings that contradict each other, with the
    /// places of both.
    pub fn check(&self) -> Result<(), ConfigError> {
        for key in ALL {
            if let Some(Entry { spelling, origin, value: Err(message) }) = self.entry(key) {
                let (key, origin, message) = ((*spelling).to_owned(), origin.clone(), message.clone());
                return Err(ConfigError::Value { key, origin, message });
            }
        }
        if self.get(keys::UNALIGNED) == Some(true) && self.get(keys::CHECKPOINT_MODE) == Some("AT_LEAST_ONCE")
        {
            return Err(ConfigError::Contradiction {
                first: Box::new(self.named(keys::UNALIGNED.key())),
                second: Box::new(self.named(keys::CHECKPOINT_MODE.key())),
                message: "at-least-once checkpoints wait for no barrier, so there is nothing to overtake; switch unaligned \
                          checkpoints off, or choose EXACTLY_ONCE"
                    .to_owned(),
            });
        }
        if self.entry(keys::CHECKPOINT_INTERVAL.key()).is_some() && self.get(keys::CHECKPOINT_DIR).is_none() {
            return Err(self.refuse(
                keys::CHECKPOINT_INTERVAL,
                format!(
                    "checkpoints at an interval need a directory: set `{}`",
                    keys::CHECKPOINT_DIR.key().name
                ),
            ));
        }
        self.check_restart_strategy()
    }

    /// Settings of a restart strategy mean nothing unless that strategy is chosen, or is the default.
    fn check_restart_strategy(&self) -> Result<(), ConfigError> {
        let chosen = keys::RESTART_STRATEGY.key();
        if self.entry(chosen).is_some() {
            return Ok(());
        }
        let default = self.get(keys::CHECKPOINT_DIR).map(|_| "exponential-delay");
        let strategy_of = |key: &Key| Some(key.name.strip_prefix("restart-strategy.")?.split_once('.')?.0);
        let stray = ALL.iter().find_map(|key| {
            let strategy = self.entry(key).and(strategy_of(key))?;
            (Some(strategy) != default).then_some((*key, strategy))
        });
        match stray {
            None => Ok(()),
            Some((key, strategy)) => {
                let (key, origin) = self.named(key);
                let message = format!(
                    "it has no effect unless the strategy is chosen: set `{}` to `{strategy}`",
                    chosen.name
                );
                Err(ConfigError::Value { key, origin, message })
            }
        }
    }

    /// Adds a value that its layer must not have given otherwise.
    fn add_once(
        &mut self,
        layer: Layer,
        key: &'static Key,
        spelling: &'static str,
        origin: Origin,
        text: &str,
    ) -> Result<(), ConfigError> {
        let value = Ok(checked(key, spelling, &origin, text)?);
        if let Some(earlier) = self.entries.get(&(key.name, layer)) {
            let same_name = earlier.spelling == spelling;
            if same_name || earlier.value != value {
                let message = match same_name {
                    true => "the setting is given twice; take one out".to_owned(),
                    false => format!("both name `{}`; keep that one", key.name),
                };
                return Err(ConfigError::Contradiction {
                    first: Box::new((earlier.spelling.to_owned(), earlier.origin.clone())),
                    second: Box::new((spelling.to_owned(), origin)),
                    message,
                });
            }
        }
        self.entries.insert((key.name, layer), Entry { spelling, origin, value });
        Ok(())
    }
}

/// The setting that has this name, now or earlier.
fn find(name: &str) -> Option<(&'static Key, &'static str)> {
    ALL.iter().find_map(|key| {
        let mut names = [key.name].into_iter().chain(key.older.iter().copied());
        names.find(|spelling| *spelling == name).map(|spelling| (*key, spelling))
    })
}

fn checked(key: &Key, spelling: &str, origin: &Origin, text: &str) -> Result<Value, ConfigError> {
    key.kind.parse(text).map_err(|message| ConfigError::Value {
        key: spelling.to_owned(),
        origin: origin.clone(),
        message,
    })
}

fn unknown(name: &str, origin: Origin, nearest: Option<String>) -> ConfigError {
    ConfigError::UnknownKey { key: name.to_owned(), origin, nearest }
}

fn nearest_name(name: &str) -> Option<String> {
    let names = ALL.iter().flat_map(|key| [key.name].into_iter().chain(key.older.iter().copied()));
    nearest(name, names.map(str::to_owned))
}

/// The one of `names` that takes the fewest edits from `wrong`, if that leaves at least half of it.
fn nearest(wrong: &str, names: impl Iterator<Item = String>) -> Option<String> {
    let plain = |name: &str| name.to_lowercase().replace('_', "-");
    let wrong = plain(wrong);
    let near = |name: &String| strsim::normalized_damerau_levenshtein(&wrong, &plain(name));
    let best = names.map(|name| (near(&name), name)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= 0.5).then_some(best.1)
}

#[cfg(test)]
mod tests;

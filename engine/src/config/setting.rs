//! What one setting is: its names, the values that it takes, its default, and what it means.
//!
//! Always true: a [`Setting`]'s type goes with its [`Kind`], and its default is a value that it takes (tested for all of them).
//!
//! Pure.

use super::units::{MemorySize, Span, duration_text, parse_duration, parse_memory};
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

/// A setting in the table of all.
#[derive(Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// Names that it had in earlier versions of Apache Flink, which still work.
    pub older: &'static [&'static str],
    /// The values that it takes.
    pub kind: Kind,
    /// What holds where it is not set.
    pub default: Default,
    /// What it means, in a sentence or two.
    pub doc: &'static str,
}

/// What holds where a setting is not set.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// This value.
    Is(&'static str),
    /// Something that no value says.
    Unset(&'static str),
}

/// The values that a setting takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number from the first to the second, both included.
    Number(u64, u64),
    /// A decimal number from the first on, up to the second.
    Decimal(f64, f64),
    /// A time span, which may be zero.
    Span,
    /// A time span longer than nothing.
    PositiveSpan,
    /// An amount of memory, which may be zero.
    Memory,
    /// An amount of memory, more than nothing.
    PositiveMemory,
    /// A local path, also as a `file:` address.
    Path,
    /// One of several words, each with other spellings behind it.
    Choice(&'static [&'static [&'static str]]),
}

/// A value of some [`Kind`].
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a [`Kind::Bool`].
    Bool(bool),
    /// Of a [`Kind::Number`], or the bytes of memory.
    Number(u64),
    /// Of a [`Kind::Decimal`].
    Decimal(f64),
    /// Of a span.
    Span(Duration),
    /// Of a [`Kind::Path`].
    Path(PathBuf),
    /// Of a [`Kind::Choice`]: its first spelling.
    Choice(&'static str),
}

/// A setting whose values have type `T`.
#[derive(Debug)]
pub struct Setting<T> {
    key: &'static Key,
    values: PhantomData<fn() -> T>,
}

impl<T> Clone for Setting<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Setting<T> {}

impl<T> Setting<T> {
    pub(super) const fn new(key: &'static Key) -> Self {
        Setting { key, values: PhantomData }
    }

    /// Its line in the table.
    pub const fn key(&self) -> &'static Key {
        self.key
    }
}

impl Kind {
    /// The value that `text` stands for.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let text = text.trim();
        match *self {
            Kind::Bool => match text.to_ascii_lowercase().as_str() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err(format!("`{text}` is neither `true` nor `false`")),
            },
            Kind::Number(least, most) => match text.parse() {
                Ok(number) if (least..=most).contains(&number) => Ok(Value::Number(number)),
                _ if most == u64::MAX => Err(format!("`{text}` is no whole number of at least {least}")),
                _ => Err(format!("`{text}` is no whole number from {least} to {most}")),
            },
            Kind::Decimal(least, most) => match text.parse() {
                Ok(number) if (least..=most).contains(&number) => Ok(Value::Decimal(number)),
                _ if most == f64::MAX => Err(format!("`{text}` is no number of at least {least}")),
                _ => Err(format!("`{text}` is no number from {least} to {most}")),
            },
            Kind::Span => parse_duration(text).map(Value::Span),
            Kind::PositiveSpan => match parse_duration(text)? {
                Duration::ZERO => Err(format!("`{text}` must be longer than nothing")),
                span => Ok(Value::Span(span)),
            },
            Kind::Memory => parse_memory(text).map(Value::Number),
            Kind::PositiveMemory => match parse_memory(text)? {
                0 => Err(format!("`{text}` must be more than nothing")),
                bytes => Ok(Value::Number(bytes)),
            },
            Kind::Path => parse_path(text),
            Kind::Choice(words) => {
                let plain = |word: &str| word.to_ascii_lowercase().replace('_', "-");
                let meant = plain(text);
                let found = words.iter().find(|spellings| spellings.iter().any(|word| plain(word) == meant));
                found.map(|spellings| Value::Choice(spellings[0])).ok_or_else(|| {
                    let words: Vec<String> = words.iter().map(|word| format!("`{}`", word[0])).collect();
                    format!("`{text}` is not among {}", words.join(", "))
                })
            }
        }
    }

    /// How the table names the values.
    pub fn describe(&self) -> String {
        match *self {
            Kind::Bool => "`true` or `false`".to_owned(),
            Kind::Number(least, u64::MAX) => format!("number from {least}"),
            Kind::Number(least, most) => format!("number, {least} to {most}"),
            Kind::Decimal(least, f64::MAX) => format!("decimal from {least}"),
            Kind::Decimal(least, most) => format!("decimal, {least} to {most}"),
            Kind::Span | Kind::PositiveSpan => "duration".to_owned(),
            Kind::Memory | Kind::PositiveMemory => "size".to_owned(),
            Kind::Path => "path".to_owned(),
            Kind::Choice(words) => {
                words.iter().map(|word| format!("`{}`", word[0])).collect::<Vec<_>>().join(", ")
            }
        }
    }
}

fn parse_path(text: &str) -> Result<Value, String> {
    let path = match text.split_once(':') {
        // `file:///a`, `file:/a`; a host between two slashes and the third is not supported.
        Some(("file", rest)) => match rest.strip_prefix("//") {
            Some(local) if !local.starts_with('/') => {
                return Err(format!("`{text}` names a host: write `file:///path`, or the path alone"));
            }
            Some(local) => local,
            None => rest,
        },
        Some((scheme, rest)) if rest.starts_with("//") => {
            return Err(format!("`{text}`: only local directories are supported, not `{scheme}:`"));
        }
        _ => text,
    };
    if path.is_empty() { Err("the path is empty".to_owned()) } else { Ok(Value::Path(path.into())) }
}

/// Types of settings: how a value is taken from what was parsed.
pub trait Typed: Sized {
    /// The value, if it is of this type.
    fn from_value(value: &Value) -> Option<Self>;
}

impl Typed for bool {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Bool(value) = value { Some(*value) } else { None }
    }
}

impl Typed for u64 {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Number(value) = value { Some(*value) } else { None }
    }
}

impl Typed for usize {
    fn from_value(value: &Value) -> Option<Self> {
        u64::from_value(value).and_then(|value| value.try_into().ok())
    }
}

impl Typed for u32 {
    fn from_value(value: &Value) -> Option<Self> {
        u64::from_value(value).and_then(|value| value.try_into().ok())
    }
}

impl Typed for u16 {
    fn from_value(value: &Value) -> Option<Self> {
        u64::from_value(value).and_then(|value| value.try_into().ok())
    }
}

impl Typed for f64 {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Decimal(value) = value { Some(*value) } else { None }
    }
}

impl Typed for Duration {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Span(value) = value { Some(*value) } else { None }
    }
}

impl Typed for PathBuf {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Path(value) = value { Some(value.clone()) } else { None }
    }
}

impl Typed for &'static str {
    fn from_value(value: &Value) -> Option<Self> {
        if let Value::Choice(value) = value { Some(value) } else { None }
    }
}

/// What a program may give for a setting of type `T`.
pub trait Given<T> {
    /// The value, checked as if it had been written somewhere.
    ///
    /// # Errors
    /// What would be right.
    fn value(self, kind: &Kind) -> Result<Value, String>;
}

macro_rules! given_by_display {
    ($($type:ty),*) => {$(
        impl Given<$type> for $type {
            fn value(self, kind: &Kind) -> Result<Value, String> {
                kind.parse(&self.to_string())
            }
        }
    )*};
}

given_by_display!(bool, u64, usize, u32, u16, f64, &'static str);

impl Given<Duration> for Duration {
    fn value(self, kind: &Kind) -> Result<Value, String> {
        kind.parse(&duration_text(self))
    }
}

impl Given<Duration> for Span {
    fn value(self, kind: &Kind) -> Result<Value, String> {
        match self {
            Span::Parsed(span) => span.value(kind),
            Span::Text(text) => kind.parse(&text),
        }
    }
}

impl Given<u64> for MemorySize {
    fn value(self, kind: &Kind) -> Result<Value, String> {
        match self {
            MemorySize::Bytes(bytes) => bytes.value(kind),
            MemorySize::Text(text) => kind.parse(&text),
        }
    }
}

impl Given<PathBuf> for PathBuf {
    /// As it is: a program's path is no address, and need not be text.
    fn value(self, _: &Kind) -> Result<Value, String> {
        Ok(Value::Path(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_any_case_and_with_either_dash() {
        let kind = Kind::Choice(&[&["EXACTLY_ONCE"], &["AT_LEAST_ONCE", "alo"]]);
        for (text, word) in
            [("exactly-once", "EXACTLY_ONCE"), ("At_Least_once", "AT_LEAST_ONCE"), ("ALO", "AT_LEAST_ONCE")]
        {
            assert_eq!(kind.parse(text), Ok(Value::Choice(word)));
        }
        let message = kind.parse("once").unwrap_err();
        assert!(message.contains("`once`") && message.contains("`AT_LEAST_ONCE`"), "{message}");
    }

    #[test]
    fn numbers_outside_of_their_range_are_refused_with_the_range() {
        assert_eq!(Kind::Number(1, 22).parse(" 22 "), Ok(Value::Number(22)));
        for text in ["0", "23", "-1", "1.0", "many", ""] {
            let message = Kind::Number(1, 22).parse(text).unwrap_err();
            assert!(message.contains("from 1 to 22"), "{message}");
        }
        assert_eq!(Kind::Decimal(1.0, f64::MAX).parse("1.5"), Ok(Value::Decimal(1.5)));
        for text in ["0.9", "NaN", "x"] {
            assert!(Kind::Decimal(1.0, f64::MAX).parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_may_be_file_addresses_and_nothing_remote() {
        for text in ["/data/chk", "file:///data/chk", "file:/data/chk"] {
            assert_eq!(Kind::Path.parse(text), Ok(Value::Path("/data/chk".into())), "{text}");
        }
        assert_eq!(Kind::Path.parse("state/a:b"), Ok(Value::Path("state/a:b".into())));
        for text in ["s3://bucket/chk", "hdfs:///chk", "file://host/chk", "", "file:"] {
            assert!(Kind::Path.parse(text).is_err(), "{text}");
        }
    }
}

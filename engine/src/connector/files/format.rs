//! How a line of a file becomes a record.

use serde::de::DeserializeOwned;
use std::marker::PhantomData;
use thalweg_storage::Data;

/// Parses lines. Cloned for each subtask and attempt.
pub trait Format: Clone + Send + 'static {
    /// What a line becomes.
    type Record: Data;

    /// Parses one line, without its line ending. `None` leaves the line out, as for blank lines and comments.
    ///
    /// # Errors
    /// What is wrong with the line, for people; the source's policy for malformed input decides what follows.
    fn parse(&self, line: &[u8]) -> Result<Option<Self::Record>, String>;
}

/// Each line is a record; it must be UTF-8.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

impl Format for Lines {
    type Record = String;

    #[inline]
    fn parse(&self, line: &[u8]) -> Result<Option<String>, String> {
        match std::str::from_utf8(line) {
            Ok(line) => Ok(Some(line.to_owned())),
            Err(error) => Err(format!("the line is not UTF-8: {error}")),
        }
    }
}

/// Each line is a JSON value; blank lines are left out.
pub struct Ndjson<T>(PhantomData<fn() -> T>);

impl<T> Ndjson<T> {
    pub(super) fn new() -> Self {
        Ndjson(PhantomData)
    }
}

impl<T> Clone for Ndjson<T> {
    fn clone(&self) -> Self {
        Ndjson(PhantomData)
    }
}

impl<T: DeserializeOwned + Data> Format for Ndjson<T> {
    type Record = T;

    fn parse(&self, line: &[u8]) -> Result<Option<T>, String> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        serde_json::from_slice(line).map(Some).map_err(|error| error.to_string())
    }
}

/// Each line is parsed by a function.
#[derive(Clone, Copy, Debug)]
pub struct Parse<P>(pub(super) P);

impl<T, P> Format for Parse<P>
where
    T: Data,
    P: Fn(&[u8]) -> Result<T, String> + Clone + Send + 'static,
{
    type Record = T;

    #[inline]
    fn parse(&self, line: &[u8]) -> Result<Option<T>, String> {
        (self.0)(line).map(Some)
    }
}

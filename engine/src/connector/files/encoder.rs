//! How a record becomes bytes of an output file.

use super::csv::append_row;
use crate::connector::BoxError;
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;
use std::marker::PhantomData;

/// Encodes records. Cloned for each subtask and attempt.
pub trait Encoder: Clone + Send + 'static {
    /// What it encodes.
    type Record: 'static;

    /// Extension of file names, without the dot.
    fn extension(&self) -> &str;

    /// Appends what each file starts with.
    fn header(&self, _out: &mut Vec<u8>) {}

    /// Appends one record.
    ///
    /// # Errors
    /// The record cannot be written; the attempt fails. What was appended of it is taken back.
    fn encode(&mut self, record: &Self::Record, out: &mut Vec<u8>) -> Result<(), BoxError>;
}

/// One line per record, as [`Display`] writes it. A record that contains a line feed becomes several lines.
pub struct Text<T>(PhantomData<fn(T)>);

/// One CSV row per record, as the `csv` crate writes it: fields with commas, quotes or line breaks are quoted.
///
/// Records are tuples, structs and sequences of numbers, strings, options, characters, booleans and unit variants.
pub struct Csv<T> {
    header: Vec<u8>,
    record: PhantomData<fn(T)>,
}

/// One JSON value per line and record.
pub struct Ndjson<T>(PhantomData<fn(T)>);

impl<T> Text<T> {
    pub(super) fn new() -> Self {
        Text(PhantomData)
    }
}

impl<T> Clone for Text<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T: Display + 'static> Encoder for Text<T> {
    type Record = T;

    fn extension(&self) -> &str {
        "txt"
    }

    #[inline]
    fn encode(&mut self, record: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        writeln!(out, "{record}")?;
        Ok(())
    }
}

impl<T> Csv<T> {
    pub(super) fn new() -> Self {
        Csv { header: Vec::new(), record: PhantomData }
    }

    pub(super) fn set_header(&mut self, names: &[&str]) {
        self.header.clear();
        append_row(names, &mut self.header).expect("strings fit a row");
    }
}

impl<T> Clone for Csv<T> {
    fn clone(&self) -> Self {
        Csv { header: self.header.clone(), record: PhantomData }
    }
}

impl<T: Serialize + 'static> Encoder for Csv<T> {
    type Record = T;

    fn extension(&self) -> &str {
        "csv"
    }

    fn header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header);
    }

    #[inline]
    fn encode(&mut self, record: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(append_row(record, out)?)
    }
}

impl<T> Ndjson<T> {
    pub(super) fn new() -> Self {
        Ndjson(PhantomData)
    }
}

impl<T> Clone for Ndjson<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T: Serialize + 'static> Encoder for Ndjson<T> {
    type Record = T;

    fn extension(&self) -> &str {
        "ndjson"
    }

    #[inline]
    fn encode(&mut self, record: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        serde_json::to_writer(&mut *out, record)?;
        out.push(b'\n');
        Ok(())
    }
}

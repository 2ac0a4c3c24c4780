//! Durations and amounts of memory as people write them. The forms and units are Apache Flink's (`TimeUtils`, `MemorySize`).
//!
//! Always true: what [`duration_text`] writes, [`parse_duration`] reads back exactly. Pure.

use std::time::Duration;

/// A time span as people write it (`"500ms"`, `"3min"`) or as a [`Duration`].
///
/// Text is parsed when the engine is built, and a mistake in it is reported then.
#[derive(Clone, Debug)]
pub enum Span {
    /// A parsed span.
    Parsed(Duration),
    /// Text that is yet to be parsed.
    Text(String),
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Span::Parsed(duration)
    }
}

impl From<&str> for Span {
    fn from(text: &str) -> Self {
        Span::Text(text.to_owned())
    }
}

impl From<String> for Span {
    fn from(text: String) -> Self {
        Span::Text(text)
    }
}

/// An amount of memory as people write it (`"64mb"`, `"1 gb"`, `"512kb"`) or in bytes. As in Flink's `MemorySize`, units are
/// binary: a `kb` has 1,024 bytes.
///
/// Text is parsed when the engine is built, and a mistake in it is reported then.
#[derive(Clone, Debug)]
pub enum MemorySize {
    /// A number of bytes.
    Bytes(u64),
    /// Text that is yet to be parsed.
    Text(String),
}

impl From<u64> for MemorySize {
    fn from(bytes: u64) -> Self {
        MemorySize::Bytes(bytes)
    }
}

impl From<&str> for MemorySize {
    fn from(text: &str) -> Self {
        MemorySize::Text(text.to_owned())
    }
}

impl From<String> for MemorySize {
    fn from(text: String) -> Self {
        MemorySize::Text(text)
    }
}

/// The number at the front of `text`, and what follows it.
fn number_and_unit(text: &str) -> Option<(u128, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim()))
}

/// Nanoseconds of a unit of time. Without one, a number counts milliseconds.
fn unit_ns(unit: &str) -> Option<u128> {
    Some(match unit.to_lowercase().as_str() {
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        "us" | "µs" | "μs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "" | "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000_000,
        "h" | "hour" | "hours" => 3_600_000_000_000,
        "d" | "day" | "days" => 86_400_000_000_000,
        _ => return None,
    })
}

/// The span that `text` names: a number and a unit as in `500ms`, `10 s`, `3min`, `1 d`; without a unit, milliseconds. Several
/// parts may follow each other, as in `1min 30s`.
///
/// # Errors
/// What would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let one = || {
        let (number, unit) = number_and_unit(text)?;
        let ns = number.checked_mul(unit_ns(unit)?)?;
        let seconds = u64::try_from(ns / 1_000_000_000).ok()?;
        Some(Duration::new(seconds, (ns % 1_000_000_000) as u32))
    };
    one()
        .or_else(|| humantime::parse_duration(text.trim()).ok())
        .ok_or_else(|| format!("`{text}` is no time span; write it like `500ms`, `10s` or `3min`"))
}

/// The span as text in the largest unit that divides it.
pub fn duration_text(span: Duration) -> String {
    let ns = span.as_nanos();
    let units = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("min", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
    ];
    match units.into_iter().find(|(_, unit_ns)| ns > 0 && ns.is_multiple_of(*unit_ns)) {
        Some((unit, unit_ns)) => format!("{} {unit}", ns / unit_ns),
        None if ns == 0 => "0 ms".to_owned(),
        None => format!("{ns} ns"),
    }
}

/// The number of bytes that `text` names: a number and a unit as in `512kb`, `64 mb`, `1g`; without a unit, bytes.
///
/// # Errors
/// What would be right.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = || {
        let (number, unit) = number_and_unit(text)?;
        let unit: u128 = match unit.to_ascii_lowercase().as_str() {
            "" | "b" | "bytes" => 1,
            "k" | "kb" | "kib" | "kibibytes" => 1 << 10,
            "m" | "mb" | "mib" | "mebibytes" => 1 << 20,
            "g" | "gb" | "gib" | "gibibytes" => 1 << 30,
            "t" | "tb" | "tib" | "tebibytes" => 1 << 40,
            _ => return None,
        };
        u64::try_from(number.checked_mul(unit)?).ok()
    };
    bytes().ok_or_else(|| format!("`{text}` is no amount of memory; write it like `512kb`, `64mb` or `1gb`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_as_flink_reads_them() {
        let sizes = [
            ("1024", 1024),
            ("0", 0),
            ("7 bytes", 7),
            ("512kb", 512 << 10),
            (" 64 MB ", 64 << 20),
            ("80m", 80 << 20),
            ("1gb", 1 << 30),
            ("2 tebibytes", 2 << 40),
        ];
        for (text, bytes) in sizes {
            assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_text() {
        for text in [
            "",
            "mb",
            "-1kb",
            "1.5gb",
            "3 parsecs",
            "18446744073709551616",
            "99999999999999999999t",
            "16777216t",
        ] {
            let message = parse_memory(text).unwrap_err();
            assert!(message.contains(&format!("`{text}`")) && message.contains("`64mb`"), "{message}");
        }
    }

    #[test]
    fn spans_are_read_as_flink_reads_them() {
        let spans = [
            ("100", Duration::from_millis(100)),
            ("0", Duration::ZERO),
            ("1234ns", Duration::from_nanos(1234)),
            ("5 µs", Duration::from_micros(5)),
            ("500ms", Duration::from_millis(500)),
            ("10 s", Duration::from_secs(10)),
            ("3min", Duration::from_secs(180)),
            ("2 m", Duration::from_secs(120)),
            (" 1 Hour ", Duration::from_secs(3600)),
            ("2 days", Duration::from_secs(2 * 86_400)),
            ("1min 30s", Duration::from_secs(90)),
        ];
        for (text, span) in spans {
            assert_eq!(parse_duration(text), Ok(span), "{text}");
        }
        for text in ["", "soon", "-1s", "3 parsecs", "s", "99999999999999999999999999999999999999999 d"] {
            let message = parse_duration(text).unwrap_err();
            assert!(message.contains(&format!("`{text}`")) && message.contains("`3min`"), "{message}");
        }
    }

    proptest! {
        #[test]
        fn prop_a_span_is_read_back_from_its_text(seconds: u64, ns in 0..1_000_000_000u32, coarse: bool) {
            let span = Duration::new(seconds, if coarse { 0 } else { ns });
            prop_assert_eq!(parse_duration(&duration_text(span)), Ok(span));
        }

        #[test]
        fn prop_no_text_makes_the_parsers_panic(text in "\\PC{0,20}|[0-9]{0,40} ?[a-zµ]{0,4}") {
            let _ = (parse_duration(&text), parse_memory(&text));
        }
    }
}

//! Numbers and times as people read them.

use std::time::{Duration, UNIX_EPOCH};

/// `1536` as `1.5 KiB`.
pub fn bytes(bytes: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.into_iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / size as f64),
        None => format!("{bytes} B"),
    }
}

/// Milliseconds since 1970 as a date and time in UTC.
pub fn time(unix_ms: u64) -> String {
    match UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms)) {
        // Later years have five digits, which the format lacks.
        Some(time) if unix_ms < 253_402_300_800_000 => humantime::format_rfc3339_seconds(time).to_string(),
        _ => format!("{unix_ms} ms after 1970"),
    }
}

/// One of `word`, or several.
pub fn count(n: u64, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// Bytes in hexadecimal, as far as `most`.
pub fn hex(bytes: &[u8], most: usize) -> String {
    let shown: String = bytes.iter().take(most).map(|byte| format!("{byte:02x}")).collect();
    if bytes.len() > most { format!("{shown}…") } else { shown }
}

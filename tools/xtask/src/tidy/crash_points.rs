//! Rule about crash points: each declared one is used by its crate, and has a test that kills a job at it.
//!
//! That each used one is declared, the compiler checks.

use super::Violation;
use crate::source::line_of;
use std::collections::BTreeSet;

/// The crates with crash points: where each declares them, and below which folder it uses them.
pub const CRATES: [(&str, &str); 2] =
    [("storage/src/crash.rs", "storage/src/"), ("engine/src/crash.rs", "engine/src/")];

/// The tests that kill jobs at points, by name.
pub const TESTS: &str = "tools/crash-inject/tests/points.rs";

/// One crate's declarations, with the text of all of its files.
pub struct Crate<'a> {
    /// Path of the file that declares its points.
    pub path: &'a str,
    /// Text of that file.
    pub table: &'a str,
    /// Texts of its other files.
    pub files: Vec<&'a str>,
}

/// Compares the points of `crates` with their uses and with the text of [`TESTS`].
pub fn check(crates: &[Crate], tests: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    let tested: BTreeSet<&str> = names(tests).map(|(_, name)| name).collect();
    let mut declared_anywhere = BTreeSet::new();
    for Crate { path, table, files } in crates {
        let used: BTreeSet<&str> = files.iter().flat_map(|text| uses(text)).collect();
        let Some(start) = table.find("const CRASH_POINTS") else {
            violations.push(Violation::new(path, 0, "declares no CRASH_POINTS"));
            continue;
        };
        let end = table[start..].find("];").map_or(table.len(), |length| start + length);
        for (offset, name) in names(&table[start..end]) {
            declared_anywhere.insert(name);
            let line = line_of(table, start + offset);
            if !used.contains(name) {
                let message = format!("crash point {name} is used nowhere in its crate: remove it");
                violations.push(Violation::new(path, line, message));
            }
            if !tested.contains(name) {
                let message = format!("crash point {name} has no crash test: name it in {TESTS}");
                violations.push(Violation::new(path, line, message));
            }
        }
    }
    for (offset, name) in names(tests).filter(|(_, name)| !declared_anywhere.contains(name)) {
        let message = format!("crash point {name} is not declared by any crate");
        violations.push(Violation::new(TESTS, line_of(tests, offset), message));
    }
    violations
}

/// The points that a file uses.
fn uses(text: &str) -> impl Iterator<Item = &str> {
    text.split("crash_point!(\"").skip(1).filter_map(|rest| Some(rest.split_once("\")")?.0))
}

/// Names of points among the strings of a text, each alone on its line as in a table, with their offsets.
fn names(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    text.split_inclusive('\n').filter_map(move |line| {
        let start = offset;
        offset += line.len();
        let name = line.trim().strip_prefix('"')?.strip_suffix("\",")?;
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
        (name.contains('.') && name.chars().all(is_name)).then_some((start, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "pub const CRASH_POINTS: &[&str] = &[\n    // First.\n    \"a.before\",\n    \"a.after\",\n];\n";

    fn messages(uses: &str, tests: &str) -> Vec<(usize, String)> {
        let crates = [Crate { path: "a/src/crash.rs", table: TABLE, files: vec![uses] }];
        check(&crates, tests).into_iter().map(|violation| (violation.line, violation.message)).collect()
    }

    #[test]
    fn points_that_are_used_and_tested_pass() {
        let uses = "crash_point!(\"a.before\");\n    crash_point!(\"a.after\");";
        assert_eq!(messages(uses, "const ALL: [&str; 2] = [\n    \"a.before\",\n    \"a.after\",\n];"), []);
    }

    #[test]
    fn a_point_without_use_or_test_is_reported_where_it_is_declared() {
        let found = messages("crash_point!(\"a.before\");", "    \"a.after\",\n");
        let lines: Vec<_> = found.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 4], "{found:?}");
        assert!(found[0].1.contains("no crash test") && found[1].1.contains("used nowhere"), "{found:?}");
    }

    #[test]
    fn a_tested_point_that_nobody_declares_is_reported() {
        let uses = "crash_point!(\"a.before\"); crash_point!(\"a.after\");";
        let found = messages(uses, "\"a.before\",\n\"a.after\",\n\"a.gone\",\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].0 == 3 && found[0].1.contains("a.gone"), "{found:?}");
    }
}

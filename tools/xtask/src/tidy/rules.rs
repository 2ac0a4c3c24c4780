//! Rules about the text of one file.

use super::Violation;
use crate::source::{line_of, words};

/// Who alone may name an outside crate: (crate, folders bound by the rule, folders exempt from it, reason).
const FOREIGN_NAMES: [(&str, &[&str], &[&str], &str); 2] = [
    (
        "glommio",
        &["engine/src/", "storage/src/"],
        &["engine/src/worker/", "engine/src/worker.rs", "storage/src/io/", "storage/src/io.rs"],
        "runtimes change: only the worker driver and the disk may name it",
    ),
    ("thalweg", &["storage/"], &[], "the storage crate knows nothing of the engine"),
];

/// What stands for work that was not done: (word, what follows it, what precedes it).
const UNFINISHED: [(&str, &str, &str); 3] =
    [("todo", "!", ""), ("unimplemented", "!", ""), ("ignore", "", "#[")];

/// Each file opens by saying what it owns.
pub fn header(path: &str, text: &str) -> Option<Violation> {
    let first = text.lines().next().unwrap_or_default();
    let says_something = first.strip_prefix("//!").is_some_and(|rest| !rest.trim().is_empty());
    (!says_something)
        .then(|| Violation::new(path, 1, "the first line must be `//!` and say what the file owns"))
}

/// Nothing is left for later: no placeholders, no ignored tests.
pub fn unfinished(path: &str, code: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (word, after, before) in UNFINISHED {
        for offset in words(code, word) {
            let follows = code[offset + word.len()..].trim_start().starts_with(after);
            let precedes = code[..offset].trim_end().ends_with(before);
            if follows && precedes {
                let message = format!("`{before}{word}{after}`: finish it or take it out");
                violations.push(Violation::new(path, line_of(code, offset), message));
            }
        }
    }
    violations
}

/// Only some folders may name some crates.
pub fn foreign_names(path: &str, code: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, bound, exempt, reason) in FOREIGN_NAMES {
        let under = |prefixes: &[&str]| prefixes.iter().any(|prefix| path.starts_with(prefix));
        if under(bound) && !under(exempt) {
            violations
                .extend(words(code, name).map(|offset| {
                    Violation::new(path, line_of(code, offset), format!("`{name}`: {reason}"))
                }));
        }
    }
    violations
}

/// Nothing refers to one person's machine.
pub fn absolute_paths(path: &str, text: &str) -> Vec<Violation> {
    // Assembled, so that this file does not break its own rule.
    let folders = ["home", "root", "work", "Users"].map(|folder| format!("/{folder}/"));
    let mut violations = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let found = folders.iter().any(|folder| {
            line.match_indices(folder.as_str()).any(|(offset, _)| {
                // Behind a name it is part of a longer, relative path or of an address.
                !line[..offset].ends_with(|c: char| c.is_alphanumeric() || "._-~}>".contains(c))
            })
        });
        if found {
            violations.push(Violation::new(
                path,
                index + 1,
                "an absolute path of one machine; use a relative one",
            ));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::code_only;

    fn lines(violations: &[Violation]) -> Vec<usize> {
        violations.iter().map(|violation| violation.line).collect()
    }

    #[test]
    fn a_file_without_a_header_is_reported() {
        assert_eq!(header("a.rs", "//! Owns a.\nfn a() {}"), None);
        for text in ["", "fn a() {}", "// a\n//! Owns a.", "//!\n//! Owns a.", "\n//! Owns a."] {
            assert!(header("a.rs", text).is_some(), "accepted {text:?}");
        }
    }

    #[test]
    fn placeholders_and_ignored_tests_are_reported_with_their_lines() {
        let code = code_only(
            "fn a() { todo!() }\nfn b() { std::unimplemented! (\"x\") }\n#[test]\n#[ignore = \"slow\"]\nfn c() {}\n# [ ignore ]",
        );
        assert_eq!(lines(&unfinished("a.rs", &code)), [1, 2, 4]);
    }

    #[test]
    fn words_that_only_look_unfinished_pass() {
        let code =
            code_only("// todo!()\nlet todo = ignore(\"#[ignore]\"); let s = 'ignore: loop {}; mytodo!();");
        assert_eq!(unfinished("a.rs", &code), []);
    }

    #[test]
    fn the_runtime_is_named_by_the_driver_and_the_disk_alone() {
        let code = code_only("use glommio::executor;");
        for allowed in ["engine/src/worker/glommio.rs", "storage/src/io/uring.rs", "bench/src/handwritten.rs"]
        {
            assert_eq!(foreign_names(allowed, &code), []);
        }
        for denied in ["engine/src/task/mod.rs", "storage/src/segment/mod.rs", "engine/src/workers.rs"] {
            assert_eq!(lines(&foreign_names(denied, &code)), [1]);
        }
    }

    #[test]
    fn storage_never_names_the_engine() {
        let code = code_only("//! Thalweg, thalweg.\nuse thalweg_storage::io;\nuse thalweg::job;");
        assert_eq!(lines(&foreign_names("storage/tests/a.rs", &code)), [3]);
        assert_eq!(foreign_names("tests/src/lib.rs", &code), []);
    }

    #[test]
    fn absolute_paths_are_reported_also_in_comments_and_strings() {
        let text = ["// see /ho", "me/me/notes\nlet p = \"/wo", "rk/x\";\n(/Us", "ers/me)"].concat();
        assert_eq!(lines(&absolute_paths("a.rs", &text)), [1, 2, 3]);
    }

    #[test]
    fn relative_paths_and_addresses_pass() {
        let text = ["target/wo", "rk/x https://example.com/ho", "me/x ../ro", "ot/y"].concat();
        assert_eq!(absolute_paths("a.md", &text), []);
    }
}

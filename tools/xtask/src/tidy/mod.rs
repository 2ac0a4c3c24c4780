//! The rules of the workspace that neither the compiler nor clippy knows.
//!
//! Each rule is a function from text to [`Violation`]s, tested on small texts; this file alone walks the workspace.
//! All violations are reported at once, each as `path:line: what is wrong and what to do`.

mod crash_points;
mod ladder;
mod rules;
mod tree;

use crate::source;
use std::fmt;
use std::path::Path;

/// One place that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Path below the workspace, with `/`.
    pub path: String,
    /// One-based line; zero where the whole file or folder is meant.
    pub line: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

impl Violation {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Violation {
        Violation { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Checks every rule and prints what breaks one.
///
/// # Errors
/// Says how many places break a rule, or which file could not be read.
pub fn run(root: &Path) -> Result<(), String> {
    let mut violations = tree::check(root)?;
    let mut files = source::files_below(root)?;
    // Hidden folders are skipped by the walk; these two are part of the source.
    for hidden in [".ci", ".cargo"] {
        if root.join(hidden).is_dir() {
            files.extend(source::files_below(&root.join(hidden))?);
        }
    }
    let engine_root = source::read(&root.join("engine/src/lib.rs"))?;
    let ladder = ladder::Ladder::new(&source::code_only(&engine_root));
    let mut checked = 0;
    for file in files {
        let path = relative(root, &file);
        if !is_text(&path) {
            continue;
        }
        let text = source::read(&file)?;
        checked += 1;
        violations.extend(rules::absolute_paths(&path, &text));
        if path.ends_with(".rs") {
            let code = source::code_only(&text);
            violations.extend(rules::header(&path, &text));
            violations.extend(rules::unfinished(&path, &code));
            violations.extend(rules::foreign_names(&path, &code));
            violations.extend(ladder.check(&path, &code));
        }
    }
    violations.extend(crash_points(root)?);
    if let Err(message) = crate::format::check(root) {
        violations.push(Violation::new(crate::format::PAGE, 0, message));
    }
    violations.sort();
    for violation in &violations {
        println!("{violation}");
    }
    match violations.len() {
        0 => {
            println!("tidy: {checked} files, nothing to say");
            Ok(())
        }
        count => Err(format!("tidy: {count} place(s) break a rule, listed above")),
    }
}

/// Checks that each crash point is used and tested.
fn crash_points(root: &Path) -> Result<Vec<Violation>, String> {
    let mut texts = Vec::new();
    for (table, folder) in crash_points::CRATES {
        let mut files = Vec::new();
        for file in source::files_below(&root.join(folder))? {
            if file.extension().is_some_and(|extension| extension == "rs") && file != root.join(table) {
                files.push(source::read(&file)?);
            }
        }
        texts.push((table, source::read(&root.join(table))?, files));
    }
    let tests = source::read(&root.join(crash_points::TESTS))?;
    let crates: Vec<_> = texts
        .iter()
        .map(|(path, table, files)| crash_points::Crate {
            path,
            table,
            files: files.iter().map(String::as_str).collect(),
        })
        .collect();
    Ok(crash_points::check(&crates, &tests))
}

/// Path of `file` below `root`, with `/`.
pub fn relative(root: &Path, file: &Path) -> String {
    let below = file.strip_prefix(root).unwrap_or(file);
    below.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Whether people wrote the file, as text.
fn is_text(path: &str) -> bool {
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    path.starts_with(".ci/")
        || matches!(extension, "rs" | "md" | "toml" | "yml" | "yaml" | "sh" | "py" | "html")
}

//! The steps of CI: which commands, in which order, with which flags.
//!
//! Always true:
//! - every step that compiles uses the same features and flags, so that each reuses what the earlier ones built;
//!   only the loom models, which need `--cfg loom` everywhere, have a target folder of their own;
//! - children inherit the standard streams: what the test runner prints is what CI shows.

use crate::source;
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// One step of CI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// Formatting is rustfmt's.
    Fmt,
    /// Clippy has nothing to say.
    Clippy,
    /// Unit tests, integration tests and examples.
    Test,
    /// Examples in the documentation.
    Doctest,
    /// The documentation builds without warnings.
    Doc,
    /// The rules of `cargo xtask tidy`.
    Tidy,
    /// The loom models of the lock-free parts.
    Loom,
}

/// All steps, cheapest refusal first.
const ORDER: [Step; 7] =
    [Step::Fmt, Step::Clippy, Step::Test, Step::Doctest, Step::Doc, Step::Tidy, Step::Loom];

/// Packages that may have loom models: (package, folder). Models are modules of the library and files of `tests/` whose names begin with `loom_`.
const LOOM_PACKAGES: [(&str, &str); 2] = [("thalweg", "engine"), ("thalweg-storage", "storage")];

impl Step {
    fn name(self) -> &'static str {
        match self {
            Step::Fmt => "fmt",
            Step::Clippy => "clippy",
            Step::Test => "test",
            Step::Doctest => "doctest",
            Step::Doc => "doc",
            Step::Tidy => "tidy",
            Step::Loom => "loom",
        }
    }
}

/// Runs every step until one fails.
///
/// # Errors
/// Names the step that failed and the command that made it fail.
pub fn run_all(root: &Path) -> Result<(), String> {
    let start = Instant::now();
    for step in ORDER {
        run_step(root, step)?;
    }
    println!("\nxtask: all {} steps passed in {:.1} s", ORDER.len(), start.elapsed().as_secs_f64());
    Ok(())
}

/// Runs one step.
///
/// # Errors
/// Names the step and the command that made it fail.
pub fn run_step(root: &Path, step: Step) -> Result<(), String> {
    println!("\n==== {} ====", step.name());
    let start = Instant::now();
    let outcome = match step {
        Step::Fmt => cargo(root, "fmt --all --check", &[]),
        Step::Clippy => cargo(root, "clippy --workspace --all-targets --all-features -- -D warnings", &[]),
        // Spelled out, because `--all-targets` would also run the benches and no selection at all the doc tests.
        Step::Test => cargo(root, "test --workspace --all-features --lib --bins --tests --examples", &[]),
        Step::Doctest => cargo(root, "test --workspace --all-features --doc", &[]),
        Step::Doc => {
            cargo(root, "doc --workspace --all-features --no-deps", &[("RUSTDOCFLAGS", "-D warnings".into())])
        }
        Step::Tidy => crate::tidy::run(root),
        Step::Loom => loom(root),
    };
    let seconds = start.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => {
            println!("==== {}: passed in {seconds:.1} s ====", step.name());
            Ok(())
        }
        Err(cause) => Err(format!("step {} FAILED after {seconds:.1} s: {cause}", step.name())),
    }
}

/// Builds the conformance campaign for speed and runs it with `arguments`.
///
/// # Errors
/// It did not build, or something was violated.
pub fn conformance(root: &Path, arguments: &[String]) -> Result<(), String> {
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["run", "--release", "--quiet", "--package", "thalweg-tests", "--bin", "conformance", "--"])
        .args(arguments)
        .current_dir(root)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("the campaign ended with {status}")) }
}

/// Runs the loom models of every package that has some.
fn loom(root: &Path) -> Result<(), String> {
    let mut flags = std::env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(" --cfg loom");
    let environment: [(&str, OsString); 4] = [
        ("RUSTFLAGS", flags),
        ("CARGO_TARGET_DIR", root.join("target").join("loom").into()),
        // Models are nothing but computation, and this target folder shares nothing with the other steps.
        ("CARGO_PROFILE_DEV_OPT_LEVEL", "3".into()),
        ("CARGO_PROFILE_TEST_OPT_LEVEL", "3".into()),
    ];
    for (package, folder) in LOOM_PACKAGES {
        let inside = has_loom_module(&root.join(folder).join("src"))?;
        let files = loom_models(&root.join(folder).join("tests"))?;
        if inside {
            // The other unit tests cannot run: loom's atomics work within a model only.
            cargo(root, &format!("test --package {package} --all-features --lib -- loom_"), &environment)?;
        }
        if !files.is_empty() {
            let selection: String = files.iter().map(|file| format!(" --test {file}")).collect();
            cargo(root, &format!("test --package {package} --all-features{selection}"), &environment)?;
        }
        if !inside && files.is_empty() {
            println!("{package}: no loom models");
        }
    }
    Ok(())
}

/// Whether some file below a source folder declares a module whose name begins with `loom_`.
fn has_loom_module(source_folder: &Path) -> Result<bool, String> {
    for file in source::files_below(source_folder)? {
        if file.extension().is_some_and(|extension| extension == "rs") {
            let code = source::code_only(&source::read(&file)?);
            if source::words(&code, "mod").any(|at| code[at + 3..].trim_start().starts_with("loom_")) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Names of the `loom_*.rs` files of a folder, sorted; none if there is no such folder.
fn loom_models(folder: &Path) -> Result<Vec<String>, String> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(format!("cannot list {}: {error}", folder.display())),
    };
    let mut models = Vec::new();
    for entry in entries {
        let name = entry.map_err(|error| format!("cannot list {}: {error}", folder.display()))?.file_name();
        if let Some(stem) = name.to_string_lossy().strip_suffix(".rs")
            && stem.starts_with("loom_")
        {
            models.push(stem.to_owned());
        }
    }
    models.sort();
    Ok(models)
}

/// Runs cargo with arguments that hold no spaces of their own.
fn cargo(root: &Path, arguments: &str, environment: &[(&str, OsString)]) -> Result<(), String> {
    let shown: String = environment
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\" ", value.to_string_lossy().trim()))
        .collect();
    println!("{shown}cargo {arguments}");
    let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(arguments.split_whitespace())
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(root)
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}cargo {arguments}` ended with {status}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_step_is_part_of_the_whole_run() {
        assert_eq!(ORDER.as_slice(), Step::value_variants());
    }

    #[test]
    fn names_on_the_command_line_are_the_names_in_the_headings() {
        for step in ORDER {
            let value = step.to_possible_value().expect("no step is hidden");
            assert_eq!(value.get_name(), step.name());
        }
    }

    #[test]
    fn loom_models_are_the_loom_files_alone_in_order() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["loom_ring.rs", "loom_doorbell.rs", "recovery.rs", "loom_notes.md"] {
            std::fs::write(folder.path().join(name), "").expect("a file in it");
        }
        assert_eq!(loom_models(folder.path()), Ok(vec!["loom_doorbell".into(), "loom_ring".into()]));
    }

    #[test]
    fn a_loom_module_is_found_in_code_and_not_in_comments() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("doorbell.rs");
        std::fs::write(&file, "// mod loom_tests\nmod looms {}").expect("a file in it");
        assert_eq!(has_loom_module(folder.path()), Ok(false));
        std::fs::write(&file, "#[cfg(all(test, loom))]\nmod loom_tests {}").expect("a file in it");
        assert_eq!(has_loom_module(folder.path()), Ok(true));
    }

    #[test]
    fn a_package_without_integration_tests_has_no_loom_models() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(loom_models(&folder.path().join("tests")), Ok(Vec::new()));
    }
}

//! Runs every fuzz target for a bounded time, by cargo-fuzz.
//!
//! Always true: what is built, and what a run adds to the corpus, goes to the target folder, so that the corpus in the
//! repository changes by hand alone.

use crate::source;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the targets lie, below the workspace's root.
const PACKAGE: &str = "tools/fuzz";

/// Runs each target of [`PACKAGE`] for `seconds`, with the compiler of the workspace.
///
/// # Errors
/// cargo-fuzz is missing, a target does not build, or one has found something; all targets are run whatever the others find.
pub fn run(root: &Path, seconds: u64) -> Result<(), String> {
    let installed = Command::new("cargo")
        .args(["fuzz", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !installed.success() {
        return Err("cargo-fuzz is missing: install it with `cargo install cargo-fuzz`".to_owned());
    }
    let (package, built) = (root.join(PACKAGE), root.join("target").join("fuzz"));
    let mut failed = Vec::new();
    for target in targets(&package)? {
        println!("\n==== {target}: {seconds} s ====");
        let found = built.join("corpus").join(&target);
        std::fs::create_dir_all(&found).map_err(|error| format!("{}: {error}", found.display()))?;
        let status = Command::new("cargo")
            // Sanitizers and coverage are unstable flags; they work with the stable compiler, too.
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["fuzz", "run", "--fuzz-dir", ".", "--target-dir"])
            .arg(&built)
            .arg(&target)
            .arg(&found)
            .arg(package.join("corpus").join(&target))
            .args(["--", &format!("-max_total_time={seconds}")])
            .current_dir(&package)
            .status()
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        if !status.success() {
            failed.push(target);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("these fuzz targets failed: {}", failed.join(", "))) }
}

/// The names of all targets, sorted.
fn targets(package: &Path) -> Result<Vec<String>, String> {
    let files = source::files_below(&package.join("fuzz_targets"))?;
    let name = |file: &std::path::PathBuf| Some(file.file_stem()?.to_str()?.to_owned());
    let mut targets: Vec<String> = files.iter().filter_map(name).collect();
    targets.sort();
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_target_is_known_to_cargo_and_has_a_corpus() {
        let package = crate::workspace_root().join(PACKAGE);
        let manifest = source::read(&package.join("Cargo.toml")).expect("the package has a manifest");
        let targets = targets(&package).expect("the folder can be read");
        assert!(!targets.is_empty());
        for target in targets {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
            assert!(package.join("corpus").join(&target).is_dir(), "{target}");
        }
    }
}

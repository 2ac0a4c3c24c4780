//! Finds the binary of a job, and all crash points.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The jobs of the workspace that follow the contract: name, package, and what else building them takes.
const JOBS: [(&str, &str, &[&str]); 3] = [
    ("clicks", "thalweg", &["--all-features"]),
    ("sessions", "crash-inject", &["--all-features"]),
    ("transfers", "crash-inject", &["--all-features"]),
];

/// All crash points of the engine and of its storage, in the order of their declaration.
pub fn points() -> Vec<String> {
    let all = thalweg_storage::crash::CRASH_POINTS.iter().chain(thalweg::crash::CRASH_POINTS);
    all.map(|point| (*point).to_owned()).collect()
}

/// The binary of a job of the workspace by its name, built now with the profile of this program; else `job` as a path.
///
/// # Errors
/// There is no such binary, or it cannot be built.
pub fn find(job: &str) -> Result<PathBuf, String> {
    let Some((name, package, more)) = JOBS.iter().find(|(name, ..)| *name == job) else {
        let path = Path::new(job);
        return path
            .canonicalize()
            .map_err(|error| format!("job {job}: {error}; jobs by name are {}", names()));
    };
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    // `target/<profile>/crash-inject`, or `target/<profile>/deps/<test>`.
    let folder = own.ancestors().nth(1).unwrap_or(Path::new("."));
    let profile_dir = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    let target = profile_dir.parent().unwrap_or(profile_dir);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--package", package, "--example", name, "--profile", profile])
        .args(*more)
        .arg("--target-dir")
        .arg(target)
        .current_dir(workspace)
        .status()
        .map_err(|error| format!("cargo does not start: {error}; name the job's binary instead"))?;
    if !status.success() {
        return Err(format!("building the job {name} failed"));
    }
    Ok(profile_dir.join("examples").join(name))
}

fn names() -> String {
    JOBS.map(|(name, ..)| name).join(", ")
}

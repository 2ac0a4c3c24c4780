//! Rules about the shape of the workspace: its top-level folders and the pages that it owes its readers.

use super::Violation;
use std::path::Path;

/// The only folders at the top, besides hidden ones and `target`.
const FOLDERS: [&str; 5] = ["engine", "storage", "bench", "tests", "tools"];

/// Pages that must exist.
const PAGES: [&str; 7] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
];

/// Checks the shape of the workspace.
///
/// # Errors
/// The workspace could not be listed.
pub fn check(root: &Path) -> Result<Vec<Violation>, String> {
    let failed = |error| format!("cannot list {}: {error}", root.display());
    let mut violations = Vec::new();
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let allowed = name.starts_with('.') || name == "target" || FOLDERS.contains(&name.as_str());
        if entry.file_type().map_err(failed)?.is_dir() && !allowed {
            let message =
                format!("a top-level folder besides {}: move it into one of them", FOLDERS.join(", "));
            violations.push(Violation::new(&name, 0, message));
        }
    }
    for folder in FOLDERS.iter().filter(|folder| !root.join(folder).is_dir()) {
        violations.push(Violation::new(folder, 0, "this folder is missing"));
    }
    for page in PAGES.iter().filter(|page| !root.join(page).is_file()) {
        violations.push(Violation::new(page, 0, "this page is missing"));
    }
    Ok(violations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete_workspace() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in FOLDERS {
            std::fs::create_dir(root.path().join(folder)).expect("a folder in it");
        }
        for page in PAGES {
            std::fs::write(root.path().join(page), "text").expect("a page in it");
        }
        root
    }

    fn paths(root: &Path) -> Vec<String> {
        check(root)
            .expect("a workspace that can be listed")
            .into_iter()
            .map(|violation| violation.path)
            .collect()
    }

    #[test]
    fn a_complete_workspace_passes_with_hidden_and_target_folders() {
        let root = complete_workspace();
        for folder in [".git", "target"] {
            std::fs::create_dir(root.path().join(folder)).expect("a folder in it");
        }
        assert_eq!(check(root.path()), Ok(Vec::new()));
    }

    #[test]
    fn another_top_level_folder_is_reported() {
        let root = complete_workspace();
        std::fs::create_dir(root.path().join("scripts")).expect("a folder in it");
        assert_eq!(paths(root.path()), ["scripts"]);
    }

    #[test]
    fn missing_pages_and_folders_are_reported() {
        let root = complete_workspace();
        std::fs::remove_file(root.path().join("SECURITY.md")).expect("a page to remove");
        std::fs::remove_dir(root.path().join("bench")).expect("a folder to remove");
        assert_eq!(paths(root.path()), ["bench", "SECURITY.md"]);
    }
}

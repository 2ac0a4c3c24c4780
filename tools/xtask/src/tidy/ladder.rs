//! The import ladder of the engine: which top-level module may name which.
//!
//! A module may name its own rung and every rung below. Worker and coordinator share a rung, but never see each other: they speak
//! through `control`. The crate root stands above all.
//!
//! Inline modules named `tests` and files named `tests.rs` are exempt: a test may drive its subject from above.

use super::Violation;
use crate::source::{end_of_block, is_identifier, line_of, without_test_modules, words};
use std::collections::BTreeMap;

/// The rungs, lowest first. The crate `thalweg-storage` lies below all of them.
///
/// `control`, the messages between workers and the coordinator, shares a rung with `task` for one reason: a deployment
/// carries `Box<dyn Task>`, and tasks answer `TaskCommand`s. So it serves tasks, workers, the coordinator and what is above.
const RUNGS: [&[&str]; 10] = [
    &["crash", "fault", "error", "config", "clock", "time", "metrics"],
    &["ring"],
    &["barrier"],
    &["state"],
    &["operator"],
    &["operators", "connector"],
    &["task", "control"],
    &["worker", "coordinator"],
    &["graph"],
    &["dataflow"],
];

/// The rung above those, where the engine meets its user.
const TOP: &[&str] = &["job"];

/// Modules that share a rung and must not know each other.
const STRANGERS: (&str, &str) = ("worker", "coordinator");

/// Where the modules are.
const SOURCE: &str = "engine/src/";

/// The ladder, with the names that the crate root re-exports.
pub struct Ladder {
    /// Re-exported name → the top-level module it comes from.
    reexports: BTreeMap<String, String>,
}

/// A mention of something directly below the crate root.
#[derive(Debug, PartialEq, Eq)]
struct Mention {
    name: String,
    offset: usize,
}

impl Ladder {
    /// The ladder of the engine whose crate root has this code, comments taken out.
    pub fn new(root_code: &str) -> Ladder {
        let mut reexports = BTreeMap::new();
        for offset in words(root_code, "use") {
            let statement = &root_code[offset + 3..];
            let statement = statement[..statement.find(';').unwrap_or(statement.len())].trim();
            let path =
                statement.strip_prefix("crate::").or(statement.strip_prefix("self::")).unwrap_or(statement);
            let Some((module, names)) = path.split_once("::") else { continue };
            if rung(module).is_some() {
                for name in
                    names.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|name| !name.is_empty())
                {
                    reexports.insert(name.to_owned(), module.to_owned());
                }
            }
        }
        Ladder { reexports }
    }

    /// Checks one file of the engine; other files pass. `code` must be free of comments and strings.
    pub fn check(&self, path: &str, code: &str) -> Vec<Violation> {
        let Some(modules) = module_path(path) else { return Vec::new() };
        let Some(here) = modules.first() else { return Vec::new() };
        if modules.contains(&"tests") {
            return Vec::new();
        }
        let Some(own_rung) = rung(here) else {
            let message =
                format!("module `{here}` has no rung on the import ladder: give it one in tidy/ladder.rs");
            return vec![Violation::new(path, 0, message)];
        };
        let code = without_test_modules(code);
        let mut violations = Vec::new();
        for Mention { name, offset } in mentions(&code, modules.len()) {
            let module = match rung(&name) {
                Some(_) => name.as_str(),
                None => match self.reexports.get(&name) {
                    Some(module) => module.as_str(),
                    // A macro, or a name that the crate root defines itself: it has no rung, so nothing can be said.
                    None => continue,
                },
            };
            let strangers = (*here, module) == STRANGERS || (module, *here) == STRANGERS;
            let message = if strangers {
                format!("`{here}` names `{module}`: they never see each other; speak through `control`")
            } else if rung(module).is_some_and(|theirs| theirs > own_rung) {
                format!("`{here}` names `{module}`, which stands above it on the import ladder")
            } else {
                continue;
            };
            violations.push(Violation::new(path, line_of(&code, offset), message));
        }
        violations
    }
}

/// Position of a top-level module on the ladder.
fn rung(module: &str) -> Option<usize> {
    RUNGS.iter().chain([&TOP]).position(|rung| rung.contains(&module))
}

/// The modules that a file of the engine lies in, outermost first: none for the crate root.
fn module_path(path: &str) -> Option<Vec<&str>> {
    let below = path.strip_prefix(SOURCE)?.strip_suffix(".rs")?;
    let mut modules: Vec<&str> = below.split('/').collect();
    if matches!(modules.last(), Some(&("mod" | "lib" | "main"))) {
        modules.pop();
    }
    Some(modules)
}

/// Everything that `code` names directly below the crate root, through `crate::` or through as many `super::` as the file is deep.
fn mentions(code: &str, depth: usize) -> Vec<Mention> {
    let mut mentions = Vec::new();
    for offset in words(code, "crate") {
        if let Some(next) = path_separator(code, offset + 5) {
            first_names(code, next, &mut mentions);
        }
    }
    for offset in words(code, "super") {
        // Only where a chain begins.
        if code[..offset].trim_end().ends_with("::") {
            continue;
        }
        let (mut climbed, mut at) = (0, offset);
        while code[at..].starts_with("super") {
            let Some(next) = path_separator(code, at + 5) else { break };
            climbed += 1;
            at = next;
        }
        if climbed >= depth {
            first_names(code, at, &mut mentions);
        }
    }
    mentions.sort_by_key(|mention| mention.offset);
    mentions
}

/// The offset behind `::`, if that is what comes at `at`.
fn path_separator(code: &str, at: usize) -> Option<usize> {
    let rest = code[at..].trim_start();
    let behind = rest.strip_prefix("::")?.trim_start();
    Some(code.len() - behind.len())
}

/// Collects the first name of the path at `at`, or of each path of the group there.
fn first_names(code: &str, at: usize, mentions: &mut Vec<Mention>) {
    if !code[at..].starts_with('{') {
        let length = code[at..].bytes().take_while(|&byte| is_identifier(byte)).count();
        if length > 0 {
            mentions.push(Mention { name: code[at..at + length].to_owned(), offset: at });
        }
        return;
    }
    let mut item = at + 1;
    let end = end_of_block(code, at) - 1;
    while item < end {
        let start = code.len() - code[item..].trim_start().len();
        if start >= end {
            break;
        }
        first_names(code, start, mentions);
        // Skip to the comma that ends this item, over the groups within it.
        item = start;
        while item < end {
            match code.as_bytes()[item] {
                b'{' => item = end_of_block(code, item),
                b',' => break,
                _ => item += 1,
            }
        }
        item += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::code_only;

    fn names(code: &str, depth: usize) -> Vec<String> {
        mentions(&code_only(code), depth).into_iter().map(|mention| mention.name).collect()
    }

    fn check(path: &str, text: &str) -> Vec<(usize, String)> {
        let root = "pub mod job; pub use job::{Engine, status::JobStatus as Status}; pub use clock::Clock;";
        let found = Ladder::new(root).check(path, &code_only(text));
        found.into_iter().map(|violation| (violation.line, violation.message)).collect()
    }

    #[test]
    fn paths_are_found_in_uses_groups_and_expressions() {
        let code = "use crate::ring::Ring;\nuse crate::{clock::{self, Nanos}, task, barrier::Gate};\nfn f(x: crate::state::Table) { crate :: job::go() }";
        assert_eq!(names(code, 1), ["ring", "clock", "task", "barrier", "state", "job"]);
    }

    #[test]
    fn visibility_comments_and_strings_are_no_paths() {
        assert_eq!(
            names("pub(crate) fn f() {} // crate::job\nlet s = \"crate::job\"; thiscrate::job;", 1),
            [""; 0]
        );
    }

    #[test]
    fn chains_of_super_that_reach_the_root_are_paths_from_the_root() {
        assert_eq!(names("use super::super::worker::X;", 2), ["worker"]);
        assert_eq!(names("use super::super::worker::X;", 3), [""; 0]);
        assert_eq!(names("use super::{graph, job::J};", 1), ["graph", "job"]);
    }

    #[test]
    fn an_import_upwards_is_reported_with_its_line() {
        let found =
            check("engine/src/ring/outbox.rs", "//! Ring.\nuse crate::clock;\nuse crate::task::Task;\n");
        assert_eq!(
            found,
            [(3, "`ring` names `task`, which stands above it on the import ladder".to_owned())]
        );
    }

    #[test]
    fn imports_downwards_and_along_a_rung_pass() {
        let text = "use crate::{ring, barrier, control, state, connector, metrics};";
        assert_eq!(check("engine/src/task/mod.rs", text), []);
        assert_eq!(check("engine/src/control.rs", "use crate::task::Task;"), []);
        assert_eq!(check("engine/src/connector/mod.rs", "use crate::operators::Map;"), []);
    }

    #[test]
    fn operator_and_operators_are_different_rungs() {
        assert_eq!(check("engine/src/operator/mod.rs", "use crate::operators::Map;").len(), 1);
        assert_eq!(check("engine/src/operators/map.rs", "use crate::operator::Operator;"), []);
    }

    #[test]
    fn worker_and_coordinator_never_see_each_other() {
        assert_eq!(check("engine/src/worker/threads.rs", "use crate::coordinator::Round;").len(), 1);
        assert_eq!(check("engine/src/coordinator/mod.rs", "fn f(x: crate::worker::Pool) {}").len(), 1);
        assert_eq!(check("engine/src/worker/threads.rs", "use crate::control; use crate::worker::Pool;"), []);
    }

    #[test]
    fn a_reexport_counts_as_the_module_it_comes_from() {
        assert_eq!(check("engine/src/task/mod.rs", "use crate::Engine; use crate::Clock;").len(), 1);
        assert_eq!(check("engine/src/task/mod.rs", "use crate::Status;").len(), 1);
    }

    #[test]
    fn a_module_without_a_rung_is_reported() {
        assert_eq!(check("engine/src/helpers.rs", "").len(), 1);
    }

    #[test]
    fn tests_and_other_crates_are_exempt() {
        let text = "mod tests { use crate::job::Engine; }";
        assert_eq!(check("engine/src/ring/mod.rs", text), []);
        assert_eq!(check("engine/src/ring/tests.rs", "use crate::job::Engine;"), []);
        assert_eq!(check("engine/src/lib.rs", "pub use crate::job::Engine;"), []);
        assert_eq!(check("storage/src/io/mod.rs", "use crate::job::Engine;"), []);
    }
}

//! Settings in the environment. One rule: the variable of a setting is its name in capitals, with `_` for each `.` and `-`,
//! behind `THALWEG_`; a name that begins with `thalweg.` already is not given the prefix twice.
//!
//! So `THALWEG_EXECUTION_CHECKPOINTING_INTERVAL=3min` sets `execution.checkpointing.interval`, and `THALWEG_WORKERS=4` sets
//! `thalweg.workers`. Earlier names of settings have variables too. A variable that begins with `THALWEG_` and belongs to no
//! setting is a mistake, and is reported.
//!
//! Pure: the caller passes the variables.

use super::keys::ALL;
use super::setting::Key;

/// What every variable begins with.
pub const PREFIX: &str = "THALWEG_";

/// The variable of the setting `name`.
///
/// ```
/// use thalweg::config::variable;
/// assert_eq!(variable("execution.checkpointing.min-pause"), "THALWEG_EXECUTION_CHECKPOINTING_MIN_PAUSE");
/// assert_eq!(variable("thalweg.workers"), "THALWEG_WORKERS");
/// ```
pub fn variable(name: &str) -> String {
    let name = name.strip_prefix("thalweg.").unwrap_or(name);
    PREFIX.to_owned() + &name.to_ascii_uppercase().replace(['.', '-'], "_")
}

/// All variables, with their settings and the spelling of the name that each belongs to.
pub(super) fn variables() -> impl Iterator<Item = (String, &'static str, &'static Key)> {
    ALL.iter().flat_map(|key| {
        [key.name].into_iter().chain(key.older.iter().copied()).map(|name| (variable(name), name, *key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_settings_share_a_variable() {
        let names: Vec<String> = variables().map(|(variable, ..)| variable).collect();
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
        assert!(names.contains(&"THALWEG_STATE_CHECKPOINTS_DIR".to_owned()));
    }
}

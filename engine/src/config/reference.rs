//! Renders the table of settings as a page of documentation.

use super::environment::variable;
use super::keys::ALL;
use super::setting::Default;
use std::fmt::Write as _;

const PREFACE: &str = "\
# Settings

<!-- Rendered by `thalweg config reference` from the table of settings in the engine. Change it there. -->

Names and defaults are Apache Flink's wherever it has the setting; its earlier names work too. A setting can be given, from the
strongest to the weakest,

1. in the program, by a method of `EngineBuilder`;
2. on the command line of a job that uses `thalweg::cli`, as `-D name=value`;
3. in the environment, as the variable beside its name below;
4. in a YAML or TOML file, with nested or dotted names.

A duration is written like `500ms`, `10 s`, `3min`, `1h` or `1 d` (a bare number counts milliseconds), a size like `512kb`, `64mb` or
`1gb` (binary units; a bare number counts bytes). Words may be written in any case. Relative paths start at the working directory.
Unknown names and wrong values are refused, with the place and the nearest valid name.

| setting, environment variable | values | default | meaning |
|---|---|---|---|
";

/// The page, in Markdown.
pub fn reference() -> String {
    let mut page = PREFACE.to_owned();
    for key in ALL {
        let mut names = format!("`{}`", key.name);
        for older in key.older {
            let _ = write!(names, ", earlier `{older}`");
        }
        let _ = write!(names, "<br>`{}`", variable(key.name));
        let default = match key.default {
            Default::Is(value) => format!("`{value}`"),
            Default::Unset(meaning) => meaning.to_owned(),
        };
        let _ = writeln!(page, "| {names} | {} | {default} | {} |", key.kind.describe(), key.doc);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_current() {
        let page = include_str!("../../CONFIG.md");
        assert!(
            page == reference(),
            "render it anew: cargo run -p thalweg-cli -- config reference > engine/CONFIG.md"
        );
    }
}

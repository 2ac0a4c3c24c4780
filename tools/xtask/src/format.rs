//! Renders `storage/FORMAT.md` from the `//!` docs of the files that own an on-disk format.
//!
//! A file owns a format when its module docs hold a heading that says "format" (`# Format`) or a table whose first column is `offset`.
//! Where such headings cover every such table, only their sections are rendered, else the file's whole module docs.
//! So the table stands above its codec and nowhere else; `cargo xtask tidy` checks that the page is current.

use crate::source;
use crate::tidy::relative;
use std::fmt::Write as _;
use std::path::Path;

/// The rendered page, below the workspace.
pub const PAGE: &str = "storage/FORMAT.md";

/// Where the format files are, below the workspace.
const SOURCE: &str = "storage/src";

/// What files come first: those whose path holds these words, in this order; the others follow by path.
const READING_ORDER: [&str; 5] = ["segment", "manifest", "channel", "savepoint", "codec"];

const PREFACE: &str = "\
# On-disk formats

<!-- Rendered by `cargo xtask format` from the module docs of the codecs. Change it there. -->

What the files in a checkpoint or savepoint directory hold. Integers are little-endian. A reader checks every checksum and bounds every
length before it uses what they cover, and refuses versions newer than its own.
";

/// Renders the page and writes it.
///
/// # Errors
/// Names the file that could not be read or written.
pub fn write(root: &Path) -> Result<(), String> {
    let page = render(root)?;
    let path = root.join(PAGE);
    std::fs::write(&path, page).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    println!("wrote {PAGE}");
    Ok(())
}

/// Checks that the page is what [`write()`] would write.
///
/// # Errors
/// Says where the page differs and how to renew it, or names the file that could not be read.
pub fn check(root: &Path) -> Result<(), String> {
    let expected = render(root)?;
    let path = root.join(PAGE);
    let found = if path.exists() { source::read(&path)? } else { String::new() };
    if found == expected {
        return Ok(());
    }
    let same = found.lines().zip(expected.lines()).take_while(|(found, expected)| found == expected).count();
    Err(format!("not current from line {} on: run `cargo xtask format`", same + 1))
}

fn render(root: &Path) -> Result<String, String> {
    let folder = root.join(SOURCE);
    let mut files = Vec::new();
    for file in source::files_below(&folder)? {
        if file.extension().is_some_and(|extension| extension == "rs") {
            files.push((relative(&folder, &file), source::read(&file)?));
        }
    }
    Ok(page(files))
}

/// The page for these files: (path below the source folder, text).
fn page(mut files: Vec<(String, String)>) -> String {
    files.sort_by_cached_key(|(path, _)| {
        let place = READING_ORDER.iter().position(|word| path.contains(word)).unwrap_or(READING_ORDER.len());
        (place, path.clone())
    });
    let mut page = PREFACE.to_owned();
    for (path, text) in files {
        if let Some(section) = section(&path, &text) {
            page.push('\n');
            page.push_str(&section);
        }
    }
    page
}

/// What the page says of one file, if that file owns a format.
fn section(path: &str, text: &str) -> Option<String> {
    let docs = module_docs(text);
    let lines = classify(&docs);
    if !lines.iter().any(|line| line.is_format_heading() || line.is_offset_table) {
        return None;
    }
    let covered = within_format_sections(&lines);
    let whole = lines.iter().zip(&covered).any(|(line, covered)| line.is_offset_table && !covered);

    let mut section = String::new();
    let title = title(&docs).unwrap_or(path);
    // Writing to a string cannot fail.
    let _ = writeln!(section, "## {title}\n\n[`{path}`](src/{path})\n");
    let mut blank = true;
    for (line, covered) in lines.iter().zip(covered) {
        if !(whole || covered) || (blank && line.text.is_empty()) {
            continue;
        }
        blank = line.text.is_empty();
        match line.heading {
            // The page has a heading, and so has the file: its own ones go below both.
            Some(level) => {
                let _ = writeln!(section, "{} {}", "#".repeat(level + 2), line.text[level..].trim());
            }
            None if line.in_code => {
                let _ = writeln!(section, "{}", line.text);
            }
            None => {
                let _ = writeln!(section, "{}", without_doc_links(line.text));
            }
        }
    }
    section.truncate(section.trim_end().len());
    section.push('\n');
    Some(section)
}

/// The lines of the `//!` comment that opens a file.
fn module_docs(text: &str) -> Vec<&str> {
    text.lines()
        .map_while(|line| line.trim_start().strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end())
        .collect()
}

/// The subject of the first sentence of the docs: what stands before its colon, full stop or comma, if that is short.
fn title<'a>(docs: &[&'a str]) -> Option<&'a str> {
    let first = docs.first()?.trim_start_matches('#').trim();
    let end = [": ", ". ", ", "].iter().filter_map(|mark| first.find(mark)).min().unwrap_or(first.len());
    let subject = first[..end].trim_end_matches([':', '.', ',']);
    (!subject.is_empty() && subject.len() <= 72 && !subject.contains('[')).then_some(subject)
}

struct DocLine<'a> {
    text: &'a str,
    /// Level of the heading that this line is.
    heading: Option<usize>,
    /// Whether the line lies in a code block, fences included.
    in_code: bool,
    /// Whether it is the head of a table of offsets.
    is_offset_table: bool,
}

impl DocLine<'_> {
    fn is_format_heading(&self) -> bool {
        self.heading.is_some() && self.text.to_ascii_lowercase().contains("format")
    }
}

fn classify<'a>(docs: &[&'a str]) -> Vec<DocLine<'a>> {
    let mut fenced = false;
    docs.iter()
        .map(|&text| {
            let fence = text.trim_start().starts_with("```");
            let in_code = fenced || fence;
            fenced ^= fence;
            let level = text.bytes().take_while(|&byte| byte == b'#').count();
            let heading =
                (!in_code && (1..=6).contains(&level) && text[level..].starts_with(' ')).then_some(level);
            let first_cell = text.trim_start().strip_prefix('|').and_then(|row| row.split('|').next());
            let is_offset_table =
                !in_code && first_cell.is_some_and(|cell| cell.trim().eq_ignore_ascii_case("offset"));
            DocLine { text, heading, in_code, is_offset_table }
        })
        .collect()
}

/// For each line, whether it lies below a format heading, that heading included.
fn within_format_sections(lines: &[DocLine<'_>]) -> Vec<bool> {
    let mut open: Option<usize> = None;
    lines
        .iter()
        .map(|line| {
            if let Some(level) = line.heading {
                if open.is_some_and(|outer| level <= outer) {
                    open = None;
                }
                if open.is_none() && line.is_format_heading() {
                    open = Some(level);
                }
            }
            open.is_some()
        })
        .collect()
}

/// The line with links to items, which mean nothing outside rustdoc, turned into plain code: ``[`X`]`` and
/// ``[`X`](crate::X)`` become `` `X` ``.
fn without_doc_links(line: &str) -> String {
    let mut plain = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(start) = rest.find("[`") {
        let Some(length) = rest[start..].find("`]") else { break };
        plain.push_str(&rest[..start]);
        let behind = &rest[start + length + 2..];
        let target = behind.strip_prefix('(').and_then(|target| target.split_once(')'));
        match target {
            // An address or a file is a link that holds anywhere.
            Some((target, _)) if target.contains('/') || target.contains('#') => {
                plain.push_str(&rest[start..start + length + 2]);
                rest = behind;
                continue;
            }
            Some((_, after)) => rest = after,
            None => rest = behind,
        }
        // `start + 1` and `length` frame the text with its backticks, without the brackets.
        let from = line.len() - behind.len() - length - 1;
        plain.push_str(&line[from..from + length]);
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
//! Segment header: 32 bytes, little-endian.
//!
//! | offset | bytes | field |
//! |-------:|------:|-------|
//! |      0 |     4 | magic |

use x;
";

    #[test]
    fn a_table_of_offsets_brings_the_whole_module_docs() {
        let section = section("segment/header.rs", TABLE).expect("a format");
        assert_eq!(
            section,
            "## Segment header\n\n[`segment/header.rs`](src/segment/header.rs)\n\nSegment header: 32 bytes, little-endian.\n\n\
             | offset | bytes | field |\n|-------:|------:|-------|\n|      0 |     4 | magic |\n"
        );
    }

    #[test]
    fn the_subject_of_the_first_sentence_is_the_title() {
        assert_eq!(title(&["Bytes of a manifest file. Pure: no disk."]), Some("Bytes of a manifest file"));
        assert_eq!(title(&["The manifest: the one file."]), Some("The manifest"));
        assert_eq!(title(&["Segment header."]), Some("Segment header"));
        assert_eq!(title(&[&"very ".repeat(20)]), None);
        assert_eq!(title(&[]), None);
    }

    #[test]
    fn a_file_without_a_format_is_left_out() {
        assert_eq!(section("a.rs", "//! Keeps the format of nothing.\n//!\n//! | field | bytes |\n"), None);
        assert_eq!(section("a.rs", "//! Code.\n//! ```\n//! # Format\n//! | offset |\n//! ```\n"), None);
        assert_eq!(section("a.rs", "//! Keeps a.\n\n// # Format\n"), None);
    }

    #[test]
    fn a_format_heading_brings_its_section_alone() {
        let text = "//! Writes it.\n//!\n//! # Format\n//!\n//! Two parts.\n//! ## Tail\n//! Ends.\n//!\n//! # Use\n//! Call.\n";
        let section = section("manifest/codec.rs", text).expect("a format");
        assert!(section.ends_with(")\n\n### Format\n\nTwo parts.\n#### Tail\nEnds.\n"), "{section}");
    }

    #[test]
    fn a_table_outside_the_format_section_brings_everything() {
        let text = "//! Writes it.\n//!\n//! # Format\n//! a\n//!\n//! # Tail\n//! | Offset | b |\n";
        let section = section("a.rs", text).expect("a format");
        assert!(section.contains("\nWrites it.\n\n### Format\na\n\n### Tail\n| Offset | b |\n"), "{section}");
    }

    #[test]
    fn sections_follow_the_reading_order_and_then_the_path() {
        let files =
            ["zeta.rs", "channel.rs", "manifest/codec.rs", "segment/row.rs", "segment/block.rs", "alpha.rs"];
        let page = page(files.iter().map(|path| (path.to_string(), TABLE.to_owned())).collect());
        let order: Vec<_> =
            page.lines().filter_map(|line| line.strip_prefix("[`")?.split('`').next()).collect();
        assert_eq!(
            order,
            ["segment/block.rs", "segment/row.rs", "manifest/codec.rs", "channel.rs", "alpha.rs", "zeta.rs"]
        );
    }

    #[test]
    fn links_to_items_become_code_and_other_links_stay() {
        assert_eq!(without_doc_links("a [`X`] b [`Y`](crate::Y) c"), "a `X` b `Y` c");
        assert_eq!(
            without_doc_links("see [`f`](https://a.b/c) or [text](x)"),
            "see [`f`](https://a.b/c) or [text](x)"
        );
        assert_eq!(without_doc_links("an open [`X"), "an open [`X");
    }

    #[test]
    fn a_page_that_is_not_current_names_the_line() {
        let root = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(root.path().join(SOURCE)).expect("a source folder");
        std::fs::write(root.path().join(SOURCE).join("segment.rs"), TABLE).expect("a format file");
        assert!(check(root.path()).is_err_and(|message| message.contains("line 1 ")));
        write(root.path()).expect("a page");
        assert_eq!(check(root.path()), Ok(()));
        let stale = source::read(&root.path().join(PAGE)).expect("the page").replace("magic", "number");
        std::fs::write(root.path().join(PAGE), stale).expect("a stale page");
        let lines = PREFACE.lines().count();
        assert!(check(root.path()).is_err_and(|message| message.contains(&format!("line {} ", lines + 10))));
    }
}

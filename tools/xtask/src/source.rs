//! Reads source files the way the rules need them: which files there are, what in them is code, where a byte lies.
//!
//! Always true: what [`code_only`] and [`without_test_modules`] return has the length and the lines of their input, so an offset means the
//! same place in each of them.

use std::path::{Path, PathBuf};

/// All files below `folder`, sorted; nothing of hidden or `target` folders.
///
/// # Errors
/// Names the folder that could not be listed.
pub fn files_below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let failed = |error| format!("cannot list {}: {error}", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let skipped = name.to_string_lossy().starts_with('.') || name == "target";
            match entry.file_type().map_err(failed)? {
                kind if kind.is_dir() && !skipped => folders.push(entry.path()),
                kind if kind.is_file() && !skipped => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Reads a text file.
///
/// # Errors
/// Names the file that could not be read, or that is not UTF-8.
pub fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}

/// One-based line of the byte at `offset`.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
}

/// Whether `byte` may be part of an identifier.
pub fn is_identifier(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || !byte.is_ascii()
}

/// Offsets at which `word` stands in `code` as a whole identifier.
pub fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = code.as_bytes();
    code.match_indices(word).map(|(offset, _)| offset).filter(move |&offset| {
        let before = offset.checked_sub(1).is_none_or(|index| !is_identifier(bytes[index]));
        let after = bytes.get(offset + word.len()).is_none_or(|&byte| !is_identifier(byte));
        before && after
    })
}

/// `text` with comments, strings and characters blanked out.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => end_of_line(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'*') => end_of_block_comment(bytes, at),
            b'"' => end_of_string(bytes, at),
            b'\'' => end_of_character(bytes, at),
            // A raw string: an `r` that starts a word (perhaps after `b` or `c`), hashes, a quote.
            b'r' if starts_literal(bytes, at) => end_of_raw_string(bytes, at),
            _ => at,
        };
        blank(&mut code, at, end);
        at = end.max(at + 1);
    }
    // Only whole characters were blanked, so this is UTF-8 still.
    String::from_utf8_lossy(&code).into_owned()
}

/// `code`, which must hold no comments or strings, with the inline modules named `tests` blanked out.
pub fn without_test_modules(code: &str) -> String {
    let mut rest = code.as_bytes().to_vec();
    for start in words(code, "mod") {
        let Some(open) = code[start..].find(['{', ';']).map(|length| start + length) else { continue };
        if code[start + 3..open].trim() == "tests" && code.as_bytes()[open] == b'{' {
            let end = end_of_block(code, open);
            blank(&mut rest, start, end);
        }
    }
    String::from_utf8_lossy(&rest).into_owned()
}

/// The offset behind the brace that closes the one at `open`.
pub fn end_of_block(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return offset + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn blank(bytes: &mut [u8], start: usize, end: usize) {
    for byte in bytes.iter_mut().take(end).skip(start).filter(|byte| **byte != b'\n') {
        *byte = b' ';
    }
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| at + length)
}

fn end_of_block_comment(bytes: &[u8], at: usize) -> usize {
    let (mut offset, mut depth) = (at, 0_usize);
    while offset < bytes.len() {
        if bytes[offset..].starts_with(b"/*") {
            depth += 1;
            offset += 2;
        } else if bytes[offset..].starts_with(b"*/") {
            depth -= 1;
            offset += 2;
            if depth == 0 {
                return offset;
            }
        } else {
            offset += 1;
        }
    }
    bytes.len()
}

fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut offset = at + 1;
    while offset < bytes.len() {
        match bytes[offset] {
            b'\\' => offset += 2,
            b'"' => return offset + 1,
            _ => offset += 1,
        }
    }
    bytes.len()
}

/// The offset behind a character literal; `at` itself where the quote begins a lifetime or label.
fn end_of_character(bytes: &[u8], at: usize) -> usize {
    let line = &bytes[at..end_of_line(bytes, at)];
    if line.get(1) == Some(&b'\\') {
        // The escaped byte may itself be a quote.
        return line.iter().skip(3).position(|&byte| byte == b'\'').map_or(at, |length| at + 3 + length + 1);
    }
    // One character, of up to four bytes, then a quote. A lifetime has more letters or no quote.
    let length = match line.get(1) {
        Some(first) if first.is_ascii() => 1,
        Some(first) => first.leading_ones() as usize,
        None => return at,
    };
    if line.get(1 + length) == Some(&b'\'') { at + length + 2 } else { at }
}

fn starts_literal(bytes: &[u8], at: usize) -> bool {
    let prefix = at.checked_sub(1).map(|index| bytes[index]);
    let start = if matches!(prefix, Some(b'b' | b'c')) { at - 1 } else { at };
    let word_start = start.checked_sub(1).is_none_or(|index| !is_identifier(bytes[index]));
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    word_start && bytes.get(at + 1 + hashes) == Some(&b'"')
}

fn end_of_raw_string(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    let body = at + hashes + 2;
    let mut closing = vec![b'"'];
    closing.resize(hashes + 1, b'#');
    bytes[body..]
        .windows(closing.len())
        .position(|window| window == closing)
        .map_or(bytes.len(), |length| body + length + closing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_not_code() {
        let comment = "/* d /* e */ f */";
        let blanks = " ".repeat(comment.len());
        assert_eq!(code_only(&format!("a // b\nc {comment} g")), format!("a     \nc {blanks} g"));
    }

    #[test]
    fn strings_are_not_code() {
        assert_eq!(code_only(r#"f("a\"b", x)"#), r"f(      , x)");
        assert_eq!(code_only("f(r#\"a\"b\"#, x)"), "f(        , x)");
        assert_eq!(code_only("f(br\"a\\\", x)"), "f(b     , x)");
    }

    #[test]
    fn a_quote_character_does_not_open_a_string() {
        assert_eq!(code_only("('\"', b'\\'', 'é') + x"), "(   , b    ,     ) + x");
    }

    #[test]
    fn lifetimes_are_code() {
        let code = "fn f<'a>(x: &'a str) -> &'a str { 'outer: loop {} }";
        assert_eq!(code_only(code), code);
    }

    #[test]
    fn an_identifier_that_ends_in_r_opens_no_raw_string() {
        assert_eq!(code_only("for\"x\" y"), "for    y");
        assert_eq!(code_only("r#type + x"), "r#type + x");
    }

    #[test]
    fn blanking_keeps_lengths_and_lines() {
        let text = "/* ä\nb */ let s = \"ö\n\"; // ü\n'x'";
        let code = code_only(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(code.matches('\n').count(), text.matches('\n').count());
    }

    #[test]
    fn test_modules_are_cut_out_and_what_follows_stays() {
        let code = "a; mod tests { mod b { c } } d; mod tests; mod testsuite { e }";
        let cut = without_test_modules(code);
        assert_eq!(cut.len(), code.len());
        assert_eq!(
            cut.split_whitespace().collect::<Vec<_>>().join(" "),
            "a; d; mod tests; mod testsuite { e }"
        );
    }

    #[test]
    fn words_are_whole_identifiers() {
        assert_eq!(words("ring rings string ring", "ring").collect::<Vec<_>>(), [0, 18]);
    }

    #[test]
    fn hidden_and_target_folders_are_skipped() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in ["src", ".git", "target"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder in it");
            std::fs::write(folder.path().join(name).join("a.rs"), "").expect("a file in that");
        }
        assert_eq!(files_below(folder.path()), Ok(vec![folder.path().join("src/a.rs")]));
    }
}

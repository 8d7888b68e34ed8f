//! Rust source as text: enough lexing to tell code from comments, strings and tests.
//!
//! How it goes: [`mask`] blanks comments and the insides of strings, byte for byte, so an offset in
//! the masked code is an offset in the file. On masked code, brackets can be matched by counting.
//!
//! What always holds:
//! - M1: masked text has the length of the text, and the same line ends.
//! - M2: what is in a comment or a string never looks like code.
//! - M3: a file that only tests reach (`#[cfg(test)] mod pair;`) is test code, like one below `tests/`.
//!
//! What is not here: a grammar. Macros are read as they are written, angle brackets are not matched,
//! and a `#[cfg(test)]` on a struct field reaches to the end of the field list.
//!
//! Why not a parser crate: the rules need four facts of a file, and a parser would be the largest
//! dependency of the whole test suite.

use std::collections::BTreeSet;
use std::ops::Range;

use crate::repository::TextFile;

/// A Rust file with its code told apart.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    /// The file.
    pub(crate) file: &'a TextFile,
    /// Its text with comments and string contents blanked.
    pub(crate) code: String,
    tests: Vec<Range<usize>>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Function<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Where the keyword stands.
    pub(crate) offset: usize,
    /// Lines from the keyword to the closing brace, both included.
    pub(crate) lines: usize,
}

/// Reads `files`, and decides which of them are test code as a whole (M3).
pub(crate) fn sources<'a>(files: impl Iterator<Item = &'a TextFile>) -> Vec<Source<'a>> {
    let mut sources: Vec<Source<'a>> = files
        .map(|file| {
            let code = mask(&file.text);
            let tests = test_spans(&code);
            Source { file, code, tests }
        })
        .collect();
    let test_modules: BTreeSet<String> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        let path = source.file.path.as_str();
        let in_test_folder = path.split('/').any(|part| part == "tests" || part == "benches");
        let in_test_module = test_modules.iter().any(|module| {
            let rest = path.strip_prefix(module.as_str());
            rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
        });
        if in_test_folder || in_test_module {
            source.tests = std::iter::once(0..source.code.len()).collect();
        }
    }
    sources
}

impl Source<'_> {
    /// Whether the code at `offset` is there for tests only.
    pub(crate) fn is_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|span| span.contains(&offset))
    }

    /// Lines of the file.
    pub(crate) fn lines(&self) -> usize {
        self.file.text.lines().count()
    }

    /// Lines that are not test code.
    pub(crate) fn lines_without_tests(&self) -> usize {
        let mut offset = 0;
        let mut count = 0;
        for line in self.code.split_inclusive('\n') {
            count += usize::from(!self.is_test(offset));
            offset += line.len();
        }
        count
    }

    /// The line, counted from 1, that holds `offset`.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.code.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    /// The comment that ends the line of `offset`, without its slashes.
    pub(crate) fn trailing_comment(&self, offset: usize) -> Option<&str> {
        let start = self.code[..offset].rfind('\n').map_or(0, |at| at + 1);
        let end = self.code[offset..].find('\n').map_or(self.code.len(), |at| offset + at);
        let code_end = start + self.code[start..end].trim_end().len();
        self.file.text.get(code_end..end)?.trim_start().strip_prefix("//")
    }

    /// Every function that has a body.
    pub(crate) fn functions(&self) -> Vec<Function<'_>> {
        let code = self.code.as_str();
        let found = occurrences(code, "fn").filter_map(|offset| {
            let name = identifier(code[offset + 2..].trim_start());
            if name.is_empty() {
                return None; // A pointer type, `fn(u8)`.
            }
            let body = item_end(code, offset, Stop::AtBody)?;
            let end = closing(code, body);
            let lines = self.line_at(end.min(code.len() - 1)) - self.line_at(offset) + 1;
            Some(Function { name, offset, lines })
        });
        found.collect()
    }

    /// Paths, without `.rs`, of the modules this file declares for tests only.
    fn test_modules(&self) -> Vec<String> {
        let path = self.file.path.trim_end_matches(".rs");
        let (folder, stem) = path.rsplit_once('/').unwrap_or(("", path));
        let base = if matches!(stem, "lib" | "main" | "mod") { folder } else { path };
        let modules = occurrences(&self.code, "mod").filter(|&offset| self.is_test(offset));
        modules.map(|offset| format!("{base}/{}", identifier(self.code[offset + 3..].trim_start()))).collect()
    }
}

/// Offsets in `code` where `word` stands as a word of its own.
pub(crate) fn occurrences<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(offset, _)| offset).filter(move |&offset| {
        let before = code[..offset].chars().next_back();
        let after = code[offset + word.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The identifier `text` begins with; empty when it begins with none.
fn identifier(text: &str) -> &str {
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// The offset of the bracket that closes the one at `open`, or the end of a file that never does.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1, // Begins at a bracket, so the first byte opens.
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}

/// Where [`item_end`] is to stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// At the brace that opens the item's body; an item without a body has no end.
    AtBody,
    /// Behind the whole item.
    AfterItem,
}

/// Where the item that begins at `from` ends.
fn item_end(code: &str, from: usize, stop: Stop) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'{' if depth == 0 && stop == Stop::AtBody => return Some(at),
            b'{' if depth == 0 => return Some(closing(code, at)),
            b';' if depth == 0 => return (stop == Stop::AfterItem).then_some(at),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' if depth == 0 => return (stop == Stop::AfterItem).then_some(at),
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    (stop == Stop::AfterItem).then_some(code.len())
}

/// Spans of items under a `cfg` that asks for `test`; an inner one (`#![cfg(test)]`) spans the file.
fn test_spans(code: &str) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    for offset in occurrences(code, "cfg") {
        let inner = code[..offset].ends_with("#![");
        let open = offset + "cfg".len();
        if !(inner || code[..offset].ends_with("#[")) || !code[open..].starts_with('(') {
            continue;
        }
        let close = closing(code, open);
        let predicate = &code[open..close];
        let asks = occurrences(predicate, "test").any(|at| !predicate[..at].ends_with("not("));
        if asks && inner {
            spans.push(0..code.len());
        } else if asks {
            let item = (close + 2).min(code.len()); // Behind `)]`.
            let end = item_end(code, item, Stop::AfterItem).unwrap_or(code.len());
            spans.push(offset - "#[".len()..end + 1);
        }
    }
    spans
}

/// Blanks comments and the insides of string and character literals. (M1, M2)
pub(crate) fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut masked = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let (inside, next) = opaque(text, at);
        for byte in &mut masked[inside] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = next;
    }
    String::from_utf8(masked).expect("whole characters are blanked")
}

/// What to blank at `at`, and where to go on: an empty range and the next character, if it is code.
fn opaque(text: &str, at: usize) -> (Range<usize>, usize) {
    let rest = &text[at..];
    if rest.starts_with("//") {
        let end = at + rest.find('\n').unwrap_or(rest.len());
        return (at..end, end);
    }
    if rest.starts_with("/*") {
        let end = at + block_comment_length(rest);
        return (at..end, end);
    }
    if rest.starts_with('"') {
        return quoted(rest, at);
    }
    if rest.starts_with('r') && begins_literal(text, at) {
        let hashes = rest[1..].len() - rest[1..].trim_start_matches('#').len();
        let open = at + 1 + hashes + 1;
        if text[at + 1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = text[open..].find(&close).map_or(text.len(), |found| open + found);
            return (open..end, (end + close.len()).min(text.len()));
        }
    }
    if let Some(rest_of_it) = rest.strip_prefix('\'') {
        let mut following = rest_of_it.chars();
        let escaped = following.next() == Some('\\');
        // `'a'` is a character, `'a` a lifetime.
        if escaped || following.next() == Some('\'') {
            return quoted(rest, at);
        }
    }
    let next = at + rest.chars().next().map_or(1, char::len_utf8);
    (at..at, next)
}

/// Whether the `r` at `at` may begin a raw string (`r"`, `br"`, `cr"`) and not end a name.
fn begins_literal(text: &str, at: usize) -> bool {
    let before = text[..at].strip_suffix(['b', 'c']).unwrap_or(&text[..at]);
    !before.chars().next_back().is_some_and(is_word)
}

/// What is inside the literal that `rest`, at `at`, begins with, and where it ends: at its first
/// character met again, which no backslash takes along.
fn quoted(rest: &str, at: usize) -> (Range<usize>, usize) {
    let mut characters = rest.char_indices();
    let quote = characters.next().map(|(_, c)| c);
    let mut escaped = false;
    for (length, c) in characters {
        if !escaped && Some(c) == quote {
            return (at + 1..at + length, at + length + 1);
        }
        escaped = !escaped && c == '\\';
    }
    (at + 1..at + rest.len(), at + rest.len())
}

/// Length of the block comment `rest` begins with; they nest.
fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::Repository;

    #[test]
    fn comments_and_strings_are_blank_and_code_stays_where_it_was() {
        let text =
            "let a = \"b // c\"; // d\n/* e /* f */ g\n */ let 'h' = '\\''; x::<'i>(r#\"j\"k\"#, br\"l\", b'\"')";
        let masked = mask(text);
        assert_eq!(
            masked,
            "let a = \"      \"; //d\n              \n    let 'h' = '  '; x::<'i>(r#\"   \"#, br\" \", b' ')"
                .replace("//d", "    ")
                .replace("'h'", "' '")
        );
        assert_eq!(masked.len(), text.len());
    }

    #[test]
    fn an_unclosed_literal_ends_with_the_file() {
        for text in ["\"", "'\\", "r#\"", "/*", "\"é", "/* é", "r", "'é'", "r\"é\""] {
            assert_eq!(mask(text).len(), text.len(), "{text}"); // M1
        }
    }

    #[test]
    fn a_test_item_is_test_code_and_its_neighbours_are_not() {
        let tree = Repository::of(&[(
            "crdt/src/row.rs",
            "//! Rows.\nfn merge() {}\n#[cfg(all(test, feature = \"x\"))]\n#[derive(Debug)]\nmod tests {\n    fn t() {}\n}\nfn after() {}\n#[cfg(test)]\nextern crate std;\n#[cfg(not(test))]\nfn plain() {}\n",
        )]);
        let source = &tree.sources()[0];
        let names = |test: bool| -> Vec<&str> {
            let all = source.functions();
            all.iter().filter(|f| source.is_test(f.offset) == test).map(|f| f.name).collect()
        };
        assert_eq!(names(true), ["t"]);
        assert_eq!(names(false), ["merge", "after", "plain"]);
        assert!(source.is_test(source.code.find("extern").expect("planted")));
        assert_eq!(source.lines(), 12);
        assert_eq!(source.lines_without_tests(), 5);
    }

    #[test]
    fn a_file_that_only_tests_reach_is_test_code() {
        let tree = Repository::of(&[
            ("replication/src/lib.rs", "//! Map.\n#[cfg(test)]\nmod pair;\nmod session;\n"),
            ("replication/src/pair.rs", "//! Two replicas.\nfn a() {}\n"),
            ("replication/src/pair/clock.rs", "//! A clock.\nfn b() {}\n"),
            ("replication/src/session.rs", "//! One talk.\nfn c() {}\n"),
            ("tests/src/world.rs", "//! One world.\nfn d() {}\n"),
            ("node/src/wal.rs", "#![cfg(test)]\n//! Whole.\nfn e() {}\n"),
        ]);
        let tests: Vec<&str> = tree
            .sources()
            .iter()
            .filter(|source| source.is_test(source.code.find("fn").unwrap_or(0)))
            .map(|source| source.file.path.as_str())
            .collect();
        assert_eq!(
            tests,
            ["replication/src/pair.rs", "replication/src/pair/clock.rs", "tests/src/world.rs", "node/src/wal.rs"]
        );
    }

    #[test]
    fn a_function_is_as_long_as_from_its_keyword_to_its_closing_brace() {
        let tree = Repository::of(&[(
            "geo/src/lib.rs",
            "trait T { fn bodiless(x: [u8; 3]); }\nfn one() { let f: fn(u8); }\nfn four(a: [u8; 4])\nwhere\n    T: Fn() -> [u8; 2],\n{ \"}\"; }\n",
        )]);
        let source = &tree.sources()[0];
        let lengths: Vec<_> = source.functions().iter().map(|f| (f.name, f.lines)).collect();
        assert_eq!(lengths, [("one", 1), ("four", 4)]);
    }

    #[test]
    fn a_trailing_comment_is_not_found_inside_a_string() {
        let tree = Repository::of(&[("a.rs", "f(); // why: so\ng(\"// why: no\");\n")]);
        let source = &tree.sources()[0];
        assert_eq!(source.trailing_comment(0), Some(" why: so"));
        let second = source.code.find('g').expect("planted");
        assert_eq!(source.trailing_comment(second), None);
    }
}

//! Sizes: what a reader can hold in the head, and that each file says what it is.
//!
//! What always holds: in the core the limit of a function is hard; elsewhere it talks, because a
//! driver's event loop or a command's list of steps may be long and still be one thought.

use std::collections::BTreeSet;

use crate::repository::{Repository, Violation};
use crate::rust_text::Source;

/// A file this long holds more than one idea, tests or not.
const FILE_LINES_MAX: usize = 1_000;

/// From here on a file without its tests is worth a talk.
const FILE_LINES_TALK: usize = 600;

/// One screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Where the limit of a function is hard.
const CORE: [&str; 3] = ["crdt/src/", "geo/src/", "replication/src/"];

/// Functions outside the core known to be longer, `(file, function, lines)`: a ratchet, which is
/// silent while they do not grow. Shrink the number with the function.
pub(crate) const KNOWN_LONG: &[(&str, &str, usize)] = &[];

/// Why: the first line decides whether a reader goes on, and an author who cannot write it has two
/// modules in one file.
pub(crate) fn headers(repository: &Repository) -> Vec<Violation> {
    let rust = repository.files().iter().filter(|file| file.path.ends_with(".rs"));
    let headless = rust.filter(|file| {
        let first = file.text.lines().find(|line| !line.starts_with("#![") && !line.is_empty());
        first.is_none_or(|line| line.strip_prefix("//!").is_none_or(|said| said.trim().is_empty()))
    });
    let found = headless.map(|file| {
        Violation::new(&file.path, 1, "does not begin with `//!`", "say in one sentence what this file is")
    });
    found.collect()
}

/// Why: a file of a thousand lines is where a protocol goes to hide.
pub(crate) fn long_files(repository: &Repository) -> Vec<Violation> {
    let sources = repository.sources();
    let long = sources.iter().filter(|source| source.lines() > FILE_LINES_MAX);
    let found = long.map(|source| {
        Violation::new(
            &source.file.path,
            FILE_LINES_MAX + 1,
            format!("{} lines, more than {FILE_LINES_MAX}", source.lines()),
            "split it where its header says \"and\"",
        )
    });
    found.collect()
}

/// Why: the talk is cheap at 600 lines and dear at a thousand.
pub(crate) fn growing_files(repository: &Repository) -> Vec<Violation> {
    let sources = repository.sources();
    let growing = sources
        .iter()
        .filter(|source| source.lines() <= FILE_LINES_MAX && source.lines_without_tests() > FILE_LINES_TALK);
    let found = growing.map(|source| {
        let lines = source.lines_without_tests();
        let what = format!("{lines} lines without tests, more than {FILE_LINES_TALK}");
        Violation::new(&source.file.path, 1, what, "look for the second module in it")
    });
    found.collect()
}

/// Why: what decides over data must fit on a screen, for its cases are checked by eye.
pub(crate) fn long_functions_in_core(repository: &Repository) -> Vec<Violation> {
    let sources = repository.sources();
    sources.iter().filter(|source| in_core(source)).flat_map(long_functions).map(Into::into).collect()
}

/// Why: elsewhere length is a smell, not a fault; a ratchet keeps the known ones from growing.
pub(crate) fn long_functions_elsewhere(repository: &Repository, known: &[(&str, &str, usize)]) -> Vec<Violation> {
    let known: BTreeSet<_> = known.iter().copied().collect();
    let sources = repository.sources();
    let long = sources.iter().filter(|source| !in_core(source)).flat_map(long_functions);
    let news = long.filter(|function| {
        let excused = known
            .iter()
            .any(|&(path, name, lines)| path == function.path && name == function.name && function.lines <= lines);
        !excused
    });
    news.map(Into::into).collect()
}

fn in_core(source: &Source<'_>) -> bool {
    CORE.iter().any(|folder| source.file.path.starts_with(folder))
}

/// A function over the limit.
struct Long {
    path: String,
    line: usize,
    name: String,
    lines: usize,
}

fn long_functions(source: &Source<'_>) -> Vec<Long> {
    let functions = source.functions();
    let long =
        functions.iter().filter(|function| function.lines > FUNCTION_LINES_MAX && !source.is_test(function.offset));
    let found = long.map(|function| Long {
        path: source.file.path.clone(),
        line: source.line_at(function.offset),
        name: function.name.to_owned(),
        lines: function.lines,
    });
    found.collect()
}

impl From<Long> for Violation {
    fn from(long: Long) -> Self {
        let what = format!("{} has {} lines, more than {FUNCTION_LINES_MAX}", long.name, long.lines);
        Self::new(long.path, long.line, what, "give its steps names of their own")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::places;

    fn function(name: &str, lines: usize) -> String {
        format!("fn {name}() {{\n{}}}\n", "    step();\n".repeat(lines - 2))
    }

    #[test]
    fn a_file_without_its_sentence_is_found() {
        let tree = Repository::of(&[
            ("a.rs", "//! What it is.\n"),
            ("b.rs", "#![no_std]\n\n//! What it is.\n"),
            ("c.rs", "use core::fmt;\n//! Late.\n"),
            ("d.rs", ""),
            ("e.rs", "//!\n//! Empty first line.\n"),
            ("f.rs", "// Not a doc.\n"),
            ("g.md", "# Not Rust\n"),
        ]);
        assert_eq!(places(&headers(&tree)), ["c.rs:1", "d.rs:1", "e.rs:1", "f.rs:1"]);
    }

    #[test]
    fn a_file_is_stopped_at_a_thousand_lines_and_talked_about_at_six_hundred_without_tests() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(300));
        let tree = Repository::of(&[
            ("stop.rs", &"\n".repeat(1_001)),
            ("brim.rs", &"\n".repeat(1_000)),
            ("tested.rs", &("\n".repeat(599) + &tests)),
            ("grown.rs", &("\n".repeat(601) + &tests)),
        ]);
        assert_eq!(places(&long_files(&tree)), ["stop.rs:1001"]);
        assert_eq!(places(&growing_files(&tree)), ["brim.rs:1", "grown.rs:1"]);
    }

    #[test]
    fn a_long_function_stops_in_the_core_and_talks_elsewhere() {
        let fits = function("fits", 70);
        let long = function("long", 71);
        let tested = format!("#[cfg(test)]\nmod tests {{\n{long}}}\n");
        let tree = Repository::of(&[
            ("crdt/src/row.rs", &(fits + &long + &tested)),
            ("crdt/tests/laws.rs", &long),
            ("node/src/driver.rs", &long),
        ]);
        assert_eq!(places(&long_functions_in_core(&tree)), ["crdt/src/row.rs:71"]);
        assert_eq!(places(&long_functions_elsewhere(&tree, &[])), ["node/src/driver.rs:1"]);
        let known = |lines| [("node/src/driver.rs", "long", lines)];
        assert_eq!(long_functions_elsewhere(&tree, &known(71)), []);
        assert_eq!(places(&long_functions_elsewhere(&tree, &known(70))), ["node/src/driver.rs:1"]);
    }
}

//! Words that must not land: leftovers, sleeps that stand for a condition, paths of one machine.
//!
//! What always holds: a word is looked for where it means something. Calls are looked for in code,
//! leftover markers in comments too, paths in every text file. The words themselves are put together
//! here from parts, so that this file passes its own rules without an exception.

use crate::repository::{Repository, Violation};
use crate::rust_text::{Source, occurrences};

/// Calls that say "not finished".
const CALLS: [&str; 3] = ["dbg", "todo", "unimplemented"];

/// Markers that say it in a comment.
const MARKERS: [&str; 2] = [concat!("FIX", "ME"), concat!("XX", "X")];

/// First folder of absolute paths that exist on one machine only.
const MACHINE_FOLDERS: [&str; 3] = ["home", "root", "work"];

/// Paths documentation may show: they stand for the reader's own.
const PLACEHOLDERS: [&str; 1] = ["you"];

/// Why: a stub that lands is found by a user; an ignored test is one nobody reads as red.
pub(crate) fn unfinished(repository: &Repository) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in repository.sources() {
        let calls = CALLS.iter().flat_map(|call| {
            let found = occurrences(&source.code, call);
            found.filter(|&offset| source.code[offset + call.len()..].starts_with("!("))
        });
        let markers = MARKERS.iter().flat_map(|marker| occurrences(&source.file.text, marker));
        let ignored = occurrences(&source.code, "ignore").filter(|&at| source.code[..at].ends_with("#["));
        let mut lines: Vec<usize> = calls.chain(markers).chain(ignored).map(|offset| source.line_at(offset)).collect();
        lines.sort_unstable();
        lines.dedup();
        violations.extend(lines.into_iter().map(|line| {
            let said = source.file.text.lines().nth(line - 1).unwrap_or_default().trim();
            Violation::new(
                &source.file.path,
                line,
                format!("unfinished: `{said}`"),
                "finish it, or take it out and write down what is missing where users look",
            )
        }));
    }
    violations
}

/// Why: a sleep is a guess about another machine's speed; it makes a test slow where it is right and
/// red where it is wrong.
pub(crate) fn sleeps_in_tests(repository: &Repository) -> Vec<Violation> {
    let mut violations = Vec::new();
    for source in repository.sources() {
        let calls = ["sleep", "sleep_until"].into_iter().flat_map(|name| {
            occurrences(&source.code, name).filter(|&offset| calls_free_function(&source, offset, name))
        });
        let unexplained = calls.filter(|&offset| {
            let comment = source.trailing_comment(offset).unwrap_or_default();
            let reason = comment.trim_start().strip_prefix("sleep:").unwrap_or_default();
            source.is_test(offset) && reason.trim().is_empty()
        });
        let mut lines: Vec<usize> = unexplained.map(|offset| source.line_at(offset)).collect();
        lines.sort_unstable();
        violations.extend(lines.into_iter().map(|line| {
            Violation::new(
                &source.file.path,
                line,
                "a test sleeps",
                "wait for the condition; if time itself is the input, end the line with `// sleep: <reason>`",
            )
        }));
    }
    violations
}

/// Whether the name at `offset` is `thread::sleep`, `tokio::time::sleep` or an import of either in
/// use, and not a method, a definition or the import itself.
fn calls_free_function(source: &Source<'_>, offset: usize, name: &str) -> bool {
    let before = source.code[..offset].trim_end();
    let after = source.code[offset + name.len()..].trim_start();
    let line = before.rsplit('\n').next().unwrap_or_default().trim_start();
    let imported = line.starts_with("use ") || line.starts_with("pub use ");
    let other = before.ends_with('.') || before.ends_with("fn") || imported;
    !other && (before.ends_with("::") || after.starts_with('('))
}

/// Why: a path of the machine it was written on is wrong on every other one.
pub(crate) fn machine_paths(repository: &Repository) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in repository.files() {
        for (number, line) in file.numbered() {
            if MACHINE_FOLDERS.iter().any(|folder| names_folder(line, folder)) {
                violations.push(Violation::new(
                    &file.path,
                    number,
                    format!("a path of one machine: `{}`", line.trim()),
                    "make it relative, take it as an argument, or write the placeholder `you` as the user",
                ));
            }
        }
    }
    violations
}

/// Whether `line` holds an absolute path that begins with `folder`, placeholders apart.
fn names_folder(line: &str, folder: &str) -> bool {
    let path = format!("/{folder}/");
    line.match_indices(&path).any(|(offset, _)| {
        let before = line[..offset].chars().next_back();
        // What stands before the slash says that the path is relative to something that is named.
        let relative = before.is_some_and(|c| c.is_alphanumeric() || "_.-~})>*".contains(c));
        let rest = &line[offset + path.len()..];
        let next = &rest[..rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len())];
        !relative && !PLACEHOLDERS.contains(&next)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::places;

    #[test]
    fn what_is_unfinished_is_found_in_code_and_comments_and_not_in_strings() {
        let text = [
            "//! Planted.",
            "fn a() { dbg!(1); }",
            "fn b() { todo!() }",
            "fn c() { unimplemented!(\"later\") }",
            concat!("// FIX", "ME: later"),
            concat!("// XX", "X here"),
            "#[ignore = \"slow\"]",
            "#[ignore]",
            "const FINE: &str = \"todo!() dbg!() #[ignore]\";",
            concat!("// a template like XXXX", "XX is a word of its own; so is todo without a call"),
            "// dbg!(x) in a comment is prose",
            "#[expect(unused, reason = \"x\")] fn ignore() {}",
        ];
        let tree = Repository::of(&[("geo/src/lib.rs", &text.join("\n")), ("a.md", text[1])]);
        let expected: Vec<String> = (2..=8).map(|line| format!("geo/src/lib.rs:{line}")).collect();
        assert_eq!(places(&unfinished(&tree)), expected);
    }

    #[test]
    fn a_sleep_is_found_in_tests_alone_and_a_reason_excuses_it() {
        let text = [
            "//! Planted.",
            "use std::thread::sleep;",
            "fn a() { std::thread::sleep(d); }",
            "async fn b() { tokio::time::sleep(d).await; }",
            "fn c() { sleep(d); }",
            "async fn d() { time::sleep_until(t).await; }",
            "fn e() { thread::sleep(d); } // sleep: the lease is measured in real time",
            "fn f() { thread::sleep(d); } // sleep:",
            "fn g() { thread::sleep(d); } // short",
            "fn h() { world.sleep(d); }",
            "fn sleep(d: u8) { \"thread::sleep(d)\"; }",
        ];
        let text = text.join("\n");
        let inline = "//! Node.\nfn pace() { std::thread::sleep(d); }\n#[cfg(test)]\nmod tests { fn t() { thread::sleep(d) } }\n";
        let tree = Repository::of(&[("tests/cluster/main.rs", &text), ("node/src/run.rs", inline)]);
        let expected = [3, 4, 5, 6, 8, 9].map(|line| format!("tests/cluster/main.rs:{line}"));
        let mut expected = expected.to_vec();
        expected.push("node/src/run.rs:4".to_owned());
        assert_eq!(places(&sleeps_in_tests(&tree)), expected);
    }

    #[test]
    fn a_path_of_one_machine_is_found_and_a_relative_one_is_not() {
        for folder in MACHINE_FOLDERS {
            let found = [
                format!("/{folder}/main/x"),
                format!("cd /{folder}/x"),
                format!("\"/{folder}/x\""),
                format!("file:///{folder}/x"),
                format!("/{folder}/yours/x"),
            ];
            let passed = [
                format!("https://example.org/{folder}/x"),
                format!("./{folder}/x ~/{folder}/x"),
                format!("{{base}}/{folder}/x"),
                format!("/{folder}/you/data and /{folder}/you"),
                format!("/{folder}ing"),
            ];
            let text = [found.join("\n"), passed.join("\n")].join("\n");
            let tree = Repository::of(&[("docs/a.md", &text)]);
            let expected: Vec<String> = (1..=5).map(|line| format!("docs/a.md:{line}")).collect();
            assert_eq!(places(&machine_paths(&tree)), expected);
        }
    }
}

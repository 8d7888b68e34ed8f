//! Documents that must stay true: the table of dependencies and the decision records.
//!
//! What is not here: whether a reason is a good one. A reviewer reads that.

use std::collections::{BTreeMap, BTreeSet};

use crate::repository::{Repository, TextFile, Violation};
use crate::workspace::Workspace;

const MANIFEST: &str = "Cargo.toml";
const TABLE: &str = "docs/decisions/dependencies.md";
const RECORDS: &str = "docs/decisions/";

/// What a record tells, in the order a reader needs it.
const HEADINGS: [&str; 4] = ["## Context", "## Decision", "## Rejected", "## Consequences"];

/// Why: a dependency is a decision; one without a reason beside it is never taken out again.
pub(crate) fn dependency_table(repository: &Repository, workspace: &Workspace) -> Vec<Violation> {
    let Some(manifest) = repository.file(MANIFEST) else {
        return vec![Violation::new(MANIFEST, 1, "there is no manifest", "test the whole repository")];
    };
    let Some(page) = repository.file(TABLE) else {
        return vec![Violation::new(TABLE, 1, "there is no table", "write | crate | why | used by |")];
    };
    let declared = declared(manifest);
    let mut violations = Vec::new();
    let mut explained = BTreeSet::new();
    for row in rows(page) {
        let Some(&line) = declared.get(row.name) else {
            let what = format!("{} is explained and not in [workspace.dependencies]", row.name);
            violations.push(Violation::new(TABLE, row.line, what, "delete the row"));
            continue;
        };
        if !explained.insert(row.name) {
            let what = format!("{} is explained twice", row.name);
            violations.push(Violation::new(TABLE, row.line, what, "keep one row"));
        }
        if row.why.is_empty() {
            let what = format!("{} has no reason", row.name);
            violations.push(Violation::new(TABLE, row.line, what, "say what it does for us"));
        }
        let users = users(workspace, row.name);
        if users.is_empty() {
            let what = format!("nobody lists {}", row.name);
            violations.push(Violation::new(MANIFEST, line, what, "delete it here and in the table"));
        } else if users != row.used_by {
            let users: Vec<&str> = users.into_iter().collect();
            let what = format!("{} is not used by what the row says", row.name);
            let fix = format!("write `{}` as its last cell", users.join(", "));
            violations.push(Violation::new(TABLE, row.line, what, fix));
        }
    }
    for (name, line) in declared.into_iter().filter(|(name, _)| !explained.contains(name)) {
        let fix = format!("add a row to {TABLE}, in order: | `{name}` | why it is here | used by |");
        violations.push(Violation::new(MANIFEST, line, format!("{name} has no reason written down"), fix));
    }
    violations
}

/// Names in `[workspace.dependencies]` that are not ours, with their lines.
fn declared(manifest: &TextFile) -> BTreeMap<&str, usize> {
    let mut names = BTreeMap::new();
    let mut inside = false;
    for (number, line) in manifest.numbered() {
        if line.starts_with('[') {
            inside = line.trim_end() == "[workspace.dependencies]";
            // The long form, a section of its own.
            let long = line.strip_prefix("[workspace.dependencies.").and_then(|l| l.split(']').next());
            names.extend(long.map(|name| (name, number)));
        } else if inside
            && let Some((name, value)) = line.split_once('=')
            && !name.trim_start().starts_with('#')
            && !value.contains("path =")
        {
            names.insert(name.trim(), number);
        }
    }
    names
}

/// One row of the table.
struct Row<'a> {
    line: usize,
    name: &'a str,
    why: &'a str,
    used_by: BTreeSet<&'a str>,
}

/// The rows below the heading and its rule.
fn rows(page: &TextFile) -> impl Iterator<Item = Row<'_>> {
    let tabled = page.numbered().filter(|(_, line)| line.starts_with('|')).skip(2);
    tabled.map(|(line, text)| {
        let mut cells = text.trim_matches('|').split('|').map(str::trim);
        let mut cell = || cells.next().unwrap_or_default();
        let (name, why) = (cell().trim_matches('`'), cell());
        let used_by = cell().split(',').map(str::trim).filter(|user| !user.is_empty()).collect();
        Row { line, name, why, used_by }
    })
}

/// Packages of ours that list `dependency`, for their code or their tests.
fn users<'a>(workspace: &'a Workspace, dependency: &str) -> BTreeSet<&'a str> {
    let listing = workspace.packages().iter();
    let users = listing.filter(|p| p.dependencies.iter().any(|d| !d.ours && d.name == dependency));
    users.map(|package| package.name.as_str()).collect()
}

/// Why: the rejected alternative is what the next reader will propose, and consequences are what the
/// next change has to keep.
pub(crate) fn decision_headings(repository: &Repository) -> Vec<Violation> {
    let records = repository.files().iter().filter(|file| is_record(&file.path));
    let found = records.flat_map(|file| {
        let missing = HEADINGS.iter().filter(|heading| !file.text.lines().any(|line| line == **heading));
        missing.map(|heading| {
            let what = format!("the record has no `{heading}`");
            Violation::new(&file.path, 1, what, format!("follow {RECORDS}0000-template.md"))
        })
    });
    found.collect()
}

/// `docs/decisions/NNNN-title.md`.
fn is_record(path: &str) -> bool {
    let Some(name) = path.strip_prefix(RECORDS) else {
        return false;
    };
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    digits == 4 && name[digits..].starts_with('-') && name.ends_with(".md")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::places;
    use crate::workspace::planted;

    const HEAD: &str = "# Why\n\n| crate | why it is here | used by |\n| --- | --- | --- |\n";
    const CARGO: &str = "[workspace.dependencies]\natoll-crdt = { path = \"crdt\" }\nbytes = \"1\"\n# serde = \"0\"\nserde = { version = \"1\" }\n\n[workspace.dependencies.tokio]\nversion = \"1\"\n\n[package]\nname = \"atoll\"\n";

    fn check(rows: &str) -> Vec<String> {
        let page = format!("{HEAD}{rows}");
        let tree = Repository::of(&[(MANIFEST, CARGO), (TABLE, &page)]);
        let workspace = planted(&[("crdt", &["?serde"]), ("node", &["bytes", "serde", "tokio", "/crdt"])]);
        places(&dependency_table(&tree, &workspace))
    }

    const TOKIO: &str = "| `tokio` | runs | node |\n";
    const SERDE: &str = "| `serde` | codes | crdt, node |\n";
    const BYTES: &str = "| `bytes` | shares | node |\n";

    #[test]
    fn a_table_that_names_each_crate_and_its_users_passes() {
        assert_eq!(check(&[BYTES, SERDE, TOKIO].concat()), [""; 0]);
    }

    #[test]
    fn a_crate_without_a_row_is_found_in_the_manifest() {
        assert_eq!(check(&[SERDE, TOKIO].concat()), ["Cargo.toml:3"]);
        assert_eq!(check(&[BYTES, SERDE].concat()), ["Cargo.toml:7"]);
    }

    #[test]
    fn a_row_that_is_not_true_is_found_in_the_table() {
        let row = "docs/decisions/dependencies.md:8";
        for wrong in ["| `nom` | parses | node |\n", BYTES, "| bytes | again | node |\n"] {
            assert_eq!(check(&[BYTES, SERDE, TOKIO, wrong].concat()), [row], "{wrong}");
        }
        for wrong in ["| `bytes` | shares | crdt |\n", "| `bytes` | | node |\n", "| `bytes` | shares |\n"] {
            assert_eq!(check(&[SERDE, TOKIO, wrong].concat()), ["docs/decisions/dependencies.md:7"]);
        }
    }

    #[test]
    fn a_crate_nobody_lists_is_found() {
        let page = format!("{HEAD}{BYTES}");
        let manifest = "[workspace.dependencies]\nbytes = \"1\"\n";
        let tree = Repository::of(&[(MANIFEST, manifest), (TABLE, &page)]);
        let found = dependency_table(&tree, &planted(&[("node", &[])]));
        assert_eq!(places(&found), ["Cargo.toml:2"]);
    }

    #[test]
    fn a_missing_table_is_found() {
        let tree = Repository::of(&[(MANIFEST, CARGO)]);
        assert_eq!(places(&dependency_table(&tree, &planted(&[]))), [format!("{TABLE}:1")]);
    }

    #[test]
    fn a_record_that_leaves_out_a_part_is_found() {
        let whole = "# 1. Rows\n\n## Context\n\n## Decision\n\n## Rejected\n\n## Consequences\n";
        let tree = Repository::of(&[
            ("docs/decisions/0001-rows.md", whole),
            ("docs/decisions/0002-journal.md", &whole.replace("## Rejected", "Rejected")),
            ("docs/decisions/dependencies.md", "# No record\n"),
            ("docs/decisions/12-loose.md", "# No record\n"),
            ("docs/0003-elsewhere.md", "# No record\n"),
        ]);
        let found = decision_headings(&tree);
        assert_eq!(places(&found), ["docs/decisions/0002-journal.md:1"]);
        assert!(found[0].to_string().contains("## Rejected"), "{}", found[0]);
    }
}

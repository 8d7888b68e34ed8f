//! Walls between crates: who may name whose types, and what the core may never reach.
//!
//! What always holds: the drawing in `ARCHITECTURE.md` is the only list of edges. This file holds no
//! copy of it, so moving a wall is one visible line in a page that people read.
//!
//! What is not here: what our dependencies pull in themselves (`deny.toml`).

use std::collections::{BTreeMap, BTreeSet};

use crate::repository::{Repository, Violation};
use crate::rust_text::occurrences;
use crate::workspace::{Package, Workspace};

const ARCHITECTURE: &str = "ARCHITECTURE.md";

/// Crates that decide without doing: they run the same in a node and in the simulator.
const CORE: [&str; 3] = ["crdt", "geo", "replication"];

/// What sockets, disks, runtimes and dice would come in by.
const NEVER_IN_CORE: [&str; 5] = ["fjall", "hyper", "quinn", "rand", "tokio"];

/// Packages that may run on an async runtime.
const MAY_USE_TOKIO: [&str; 5] = ["atoll", "client", "loadgen", "node", "tests"];

/// Dependencies no code names, each `(package, dependency, reason)`; listed to choose their features.
const FEATURES_ONLY: &[(&str, &str, &str)] = &[];

/// Why: a reader trusts the drawing, and a wall that moves should move in a reviewed line of it.
pub(crate) fn edges(repository: &Repository, workspace: &Workspace) -> Vec<Violation> {
    let Some(page) = repository.file(ARCHITECTURE) else {
        return vec![Violation::new(ARCHITECTURE, 1, "there is no drawing", suggestion(workspace))];
    };
    let drawing = match Drawing::read(&page.text) {
        Ok(drawing) => drawing,
        Err((line, what)) => {
            return vec![Violation::new(ARCHITECTURE, line, what, suggestion(workspace))];
        }
    };
    let mut violations = Vec::new();
    for package in workspace.packages() {
        match drawing.rows.get(package.name.as_str()) {
            Some(row) => compare(repository, package, row, &mut violations),
            None => violations.push(Violation::new(
                ARCHITECTURE,
                drawing.line,
                format!("package {} is not drawn", package.name),
                format!("add the line `{}`", row_of(package)),
            )),
        }
    }
    for (name, row) in &drawing.rows {
        if !workspace.packages().iter().any(|package| package.name == *name) {
            let what = format!("{name} is drawn and is no package of the workspace");
            violations.push(Violation::new(ARCHITECTURE, row.line, what, "delete the line"));
        }
    }
    violations
}

/// Compares what `package` lists with what is drawn for it, both ways.
fn compare(repository: &Repository, package: &Package, row: &Row<'_>, violations: &mut Vec<Violation>) {
    if row.anything {
        return;
    }
    let listed = package.edges();
    for target in listed.difference(&row.targets) {
        violations.push(Violation::new(
            &package.manifest,
            manifest_line(repository, &package.manifest, &format!("atoll-{target}")),
            format!("{} may not name types of {target}: the edge is not drawn", package.name),
            format!("take it out, or draw it in {ARCHITECTURE} with a decision record that says why"),
        ));
    }
    for target in row.targets.difference(&listed) {
        violations.push(Violation::new(
            ARCHITECTURE,
            row.line,
            format!("{} -> {target} is drawn, and {} does not list it", package.name, package.manifest),
            "delete the edge from the drawing",
        ));
    }
}

/// The block of edges in a page.
struct Drawing<'a> {
    line: usize,
    rows: BTreeMap<&'a str, Row<'a>>,
}

/// One line of it: `from -> to, to`, or `from -> *`.
struct Row<'a> {
    line: usize,
    anything: bool,
    targets: BTreeSet<&'a str>,
}

impl<'a> Drawing<'a> {
    /// Finds and reads the block, or says at which line it is not one.
    fn read(page: &'a str) -> Result<Self, (usize, String)> {
        let mut lines = page.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let Some((line, _)) = lines.find(|(_, line)| *line == "```edges") else {
            return Err((1, "there is no block fenced as ```edges".to_owned()));
        };
        let mut rows = BTreeMap::new();
        for (line, text) in lines.take_while(|(_, line)| *line != "```") {
            if text.is_empty() {
                continue;
            }
            let Some((from, to)) = text.split_once("->") else {
                return Err((line, format!("`{text}` is not of the form `from -> to, to`")));
            };
            let anything = to.trim() == "*";
            let named = to.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != "*");
            let row = Row { line, anything, targets: named.collect() };
            if rows.insert(from.trim(), row).is_some() {
                return Err((line, format!("{} is drawn twice", from.trim())));
            }
        }
        Ok(Self { line, rows })
    }
}

/// The block that would be true now.
fn suggestion(workspace: &Workspace) -> String {
    let rows: Vec<String> = workspace.packages().iter().map(row_of).collect();
    format!("write this block into {ARCHITECTURE}:\n```edges\n{}\n```", rows.join("\n"))
}

fn row_of(package: &Package) -> String {
    let targets: Vec<&str> = package.edges().into_iter().collect();
    format!("{} -> {}", package.name, targets.join(", ")).trim_end().to_owned()
}

/// The line of `manifest` that lists `dependency`.
fn manifest_line(repository: &Repository, manifest: &str, dependency: &str) -> usize {
    repository.file(manifest).map_or(1, |file| {
        file.line_where(|line| {
            let rest = line.trim_start().strip_prefix(dependency);
            rest.is_some_and(|rest| rest.trim_start().starts_with(['=', '.']))
        })
    })
}

/// Why: what cannot name the system library cannot read a clock or a file, so every run from one seed
/// is the same run.
pub(crate) fn no_std(repository: &Repository) -> Vec<Violation> {
    let mut violations = Vec::new();
    let sources = repository.sources();
    for package in CORE {
        let root = format!("{package}/src/lib.rs");
        let declared = sources.iter().any(|source| source.file.path == root && source.code.contains("#![no_std]"));
        if !declared {
            let fix = "write `#![no_std]` and `extern crate alloc;` below the header";
            violations.push(Violation::new(root, 1, format!("{package} is not no_std"), fix));
        }
        let folder = format!("{package}/src/");
        for source in sources.iter().filter(|source| source.file.path.starts_with(&folder)) {
            let named = occurrences(&source.code, "std").filter(|&offset| {
                let before = source.code[..offset].trim_end();
                let after = source.code[offset + "std".len()..].trim_start();
                after.starts_with("::") || before.ends_with("extern crate")
            });
            violations.extend(named.filter(|&offset| !source.is_test(offset)).map(|offset| {
                Violation::new(
                    &source.file.path,
                    source.line_at(offset),
                    "the core names `std`",
                    "use `core` or `alloc`; what needs the system belongs in node",
                )
            }));
        }
    }
    violations
}

/// Why: a `no_std` crate can still list a dependency that is not, and would do IO through it.
pub(crate) fn no_io(repository: &Repository, workspace: &Workspace) -> Vec<Violation> {
    let core = workspace.packages().iter().filter(|p| CORE.contains(&p.name.as_str()));
    let found = core.flat_map(|package| {
        let banned = package.built_with().filter(|d| NEVER_IN_CORE.contains(&d.name.as_str()));
        banned.map(|dependency| {
            Violation::new(
                &package.manifest,
                manifest_line(repository, &package.manifest, &dependency.name),
                format!("{} lists {}", package.name, dependency.name),
                "turn what it was for into an input or an effect, and let node do it",
            )
        })
    });
    found.collect()
}

/// Why: a runtime spreads; a package that gains one should gain it here first, on purpose.
pub(crate) fn tokio(repository: &Repository, workspace: &Workspace) -> Vec<Violation> {
    let others = workspace.packages().iter().filter(|p| !MAY_USE_TOKIO.contains(&p.name.as_str()));
    let found = others.filter(|p| p.dependencies.iter().any(|d| d.name == "tokio")).map(|package| {
        Violation::new(
            &package.manifest,
            manifest_line(repository, &package.manifest, "tokio"),
            format!("{} lists tokio", package.name),
            "keep it free of the runtime, or add it to MAY_USE_TOKIO and to the wrappers in deny.toml",
        )
    });
    found.collect()
}

/// Why: a dependency nobody names is still built, audited and upgraded by everybody.
pub(crate) fn unused(repository: &Repository, workspace: &Workspace) -> Vec<Violation> {
    let sources = repository.sources();
    let mut violations = Vec::new();
    for package in workspace.packages() {
        let folder = package.code_folder();
        for dependency in &package.dependencies {
            let in_attribute = format!("with = \"{}", dependency.code_name);
            let named = sources.iter().filter(|source| source.file.path.starts_with(folder)).any(|source| {
                occurrences(&source.code, &dependency.code_name).next().is_some()
                    || source.file.text.contains(&in_attribute)
            });
            let excused =
                FEATURES_ONLY.iter().any(|(name, listed, _)| *name == package.name && *listed == dependency.name);
            if !named && !excused {
                let full = if dependency.ours { "atoll-" } else { "" };
                violations.push(Violation::new(
                    &package.manifest,
                    manifest_line(repository, &package.manifest, &format!("{full}{}", dependency.name)),
                    format!("{} lists {} and no code of it names it", package.name, dependency.name),
                    "delete the line; if it is there to choose features, say so in FEATURES_ONLY",
                ));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::places;
    use crate::workspace::planted;

    const TRUE_PAGE: &str = "# Map\n\n```edges\natoll -> *\ncrdt ->\nreplication -> crdt\n```\nreplication -> node\n";

    fn three() -> Workspace {
        planted(&[
            ("atoll", &["/replication", "/crdt"]),
            ("crdt", &["?/replication", "crdts"]),
            ("replication", &["/crdt"]),
        ])
    }

    #[test]
    fn a_true_drawing_passes() {
        let tree = Repository::of(&[(ARCHITECTURE, TRUE_PAGE)]);
        assert_eq!(edges(&tree, &three()), []);
    }

    #[test]
    fn an_edge_that_is_not_drawn_is_found_in_its_manifest() {
        let tree = Repository::of(&[
            (ARCHITECTURE, TRUE_PAGE),
            ("crdt/Cargo.toml", "[dependencies]\ncrdts = \"7\"\natoll-replication = { workspace = true }\n"),
        ]);
        let workspace = planted(&[("atoll", &[]), ("crdt", &["/replication"]), ("replication", &["/crdt"])]);
        assert_eq!(places(&edges(&tree, &workspace)), ["crdt/Cargo.toml:3"]);
    }

    #[test]
    fn an_edge_or_a_package_that_is_only_drawn_is_found_in_the_drawing() {
        let page = "```edges\natoll -> *\ncrdt -> replication\nreplication -> crdt\nmesh -> crdt\n```\n";
        let tree = Repository::of(&[(ARCHITECTURE, page)]);
        assert_eq!(places(&edges(&tree, &three())), ["ARCHITECTURE.md:3", "ARCHITECTURE.md:5"]);
    }

    #[test]
    fn a_package_that_is_not_drawn_is_found() {
        let tree = Repository::of(&[(ARCHITECTURE, "```edges\natoll -> *\ncrdt ->\n```\n")]);
        let found = edges(&tree, &three());
        assert_eq!(places(&found), ["ARCHITECTURE.md:1"]);
        assert!(found[0].to_string().contains("add the line `replication -> crdt`"), "{}", found[0]);
    }

    #[test]
    fn a_page_without_a_drawing_is_told_what_to_write() {
        for tree in [
            Repository::of(&[]),
            Repository::of(&[(ARCHITECTURE, "# Map\n")]),
            Repository::of(&[(ARCHITECTURE, "```edges\ncrdt = nothing\n```\n")]),
            Repository::of(&[(ARCHITECTURE, "```edges\ncrdt ->\ncrdt ->\n```\n")]),
        ] {
            let found = edges(&tree, &three());
            assert_eq!(found.len(), 1);
            assert!(found[0].to_string().contains("```edges\natoll -> crdt, replication\n"), "{}", found[0]);
        }
    }

    #[test]
    fn std_is_found_in_the_core_outside_comments_strings_and_tests() {
        let clean = "//! Uses std::vec in words.\n#![no_std]\nconst S: &str = \"std::fs\";\n#[cfg(test)]\nextern crate std;\n#[cfg(test)]\nmod tests { use std::vec::Vec; }\n";
        let tree = Repository::of(&[
            ("crdt/src/lib.rs", clean),
            ("crdt/benches/add.rs", "use std::time::Instant;\n"),
            ("geo/src/lib.rs", "//! Routes.\n// #![no_std]\nuse ::std::time::Instant;\n"),
            ("replication/src/lib.rs", "//! Protocol.\n#![no_std]\nextern crate std;\n"),
            ("replication/src/time.rs", "//! Time.\n\nfn now() { std::time::Instant::now(); }\n"),
            ("node/src/lib.rs", "//! May.\nuse std::fs;\n"),
        ]);
        assert_eq!(
            places(&no_std(&tree)),
            ["geo/src/lib.rs:1", "geo/src/lib.rs:3", "replication/src/lib.rs:3", "replication/src/time.rs:3"]
        );
    }

    #[test]
    fn a_library_that_does_io_is_found_in_the_core_alone() {
        let tree = Repository::of(&[("geo/Cargo.toml", "[dependencies]\nhyper-util = \"0\"\nhyper = \"1\"\n")]);
        let workspace = planted(&[
            ("geo", &["hyper", "thiserror"]),
            ("crdt", &["?rand", "crdts"]),
            ("node", &["hyper", "quinn", "fjall"]),
        ]);
        assert_eq!(places(&no_io(&tree, &workspace)), ["geo/Cargo.toml:3"]);
    }

    #[test]
    fn tokio_is_found_even_where_only_tests_use_it() {
        let workspace = planted(&[("crdt", &["?tokio"]), ("mesh", &["tokio"]), ("node", &["tokio"])]);
        let found = tokio(&Repository::of(&[]), &workspace);
        assert_eq!(places(&found), ["crdt/Cargo.toml:1", "mesh/Cargo.toml:1"]);
    }

    #[test]
    fn a_dependency_that_no_code_names_is_found() {
        let tree = Repository::of(&[
            ("crdt/Cargo.toml", "[dependencies]\nserde_bytes = \"0\"\nrmp-serde = \"1\"\n"),
            ("crdt/src/lib.rs", "//! Rows.\n#[serde(with = \"serde_bytes\")]\nstruct Row;\n"),
            ("crdt/src/row.rs", "//! Says rmp_serde.\nconst IN_WORDS: &str = \"rmp_serde\";\n"),
            ("node/src/lib.rs", "//! Another crate.\nuse rmp_serde::encode;\n"),
        ]);
        let workspace = planted(&[("crdt", &["serde_bytes", "rmp-serde"])]);
        assert_eq!(places(&unused(&tree, &workspace)), ["crdt/Cargo.toml:3"]);
    }
}

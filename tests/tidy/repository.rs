//! The repository as text: which files belong to it, what they say, and how a fault is reported.
//!
//! How it goes: in a git checkout the files are those git knows plus those it would add, so a new
//! file is checked before it is committed; in an unpacked archive they are found by walking the tree.
//!
//! What always holds:
//! - R1: paths are relative to the root, with `/`, and sorted, so that reports are equal everywhere.
//! - R2: a file that is not UTF-8 is not text and is left out.
//! - R3: nothing below a `target` folder is read.
//!
//! What is not here: what the text means ([`crate::rust_text`], [`crate::rules`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::rust_text::{self, Source};

/// One text file of the project.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Path from the root, with `/`.
    pub(crate) path: String,
    /// Its whole text.
    pub(crate) text: String,
}

impl TextFile {
    /// The lines with their numbers, counted from 1.
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Number of the first line that `matches`, or 1: a report always points at a line.
    pub(crate) fn line_where(&self, matches: impl Fn(&str) -> bool) -> usize {
        self.numbered().find(|(_, line)| matches(line)).map_or(1, |(number, _)| number)
    }
}

/// Every text file of the project.
#[derive(Debug)]
pub(crate) struct Repository {
    files: Vec<TextFile>,
}

impl Repository {
    /// The repository this test was built from, read once.
    pub(crate) fn here() -> &'static Self {
        static HERE: OnceLock<Repository> = OnceLock::new();
        HERE.get_or_init(|| Self::open(root()))
    }

    /// Reads the tree below `root`.
    pub(crate) fn open(root: &Path) -> Self {
        let mut paths = if root.join(".git").exists() { known_to_git(root) } else { below(root) };
        paths.retain(|path| !path.split('/').any(|part| part == "target")); // R3
        paths.sort_unstable(); // R1
        let files = paths
            .into_iter()
            .filter_map(|path| {
                // A path that git lists may be deleted in the working tree; R2 drops the rest.
                let text = std::fs::read_to_string(root.join(&path)).ok()?;
                Some(TextFile { path, text })
            })
            .collect();
        Self { files }
    }

    /// A tree made of (path, text) pairs, for planting faults.
    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        let files =
            files.iter().map(|&(path, text)| TextFile { path: path.to_owned(), text: text.to_owned() }).collect();
        Self { files }
    }

    /// Every text file.
    pub(crate) fn files(&self) -> &[TextFile] {
        &self.files
    }

    /// The file at `path`, if there is one.
    pub(crate) fn file(&self, path: &str) -> Option<&TextFile> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Every Rust file, with its code told apart from its comments, strings and tests.
    pub(crate) fn sources(&self) -> Vec<Source<'_>> {
        rust_text::sources(self.files.iter().filter(|file| file.path.ends_with(".rs")))
    }
}

/// The root of the checkout: the folder above this package.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies below the root")
}

/// Files git tracks or would track.
fn known_to_git(root: &Path) -> Vec<String> {
    let output = Command::new("git")
        // A checkout owned by another user (a container's mount) is still the one we were built from.
        .args(["-c", "safe.directory=*", "-C"])
        .arg(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .env_remove("GIT_DIR")
        .env_remove("GIT_INDEX_FILE")
        .env_remove("GIT_WORK_TREE")
        .output()
        .expect("git lists the files of a git checkout; install git or test an unpacked archive");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).expect("file names here are UTF-8");
    listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect()
}

/// Files found by walking; what begins with a dot at the root (`.git`, `.idea`) is no part of it, but `.ci` is.
fn below(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("a folder of the tree is readable");
        for entry in entries {
            let entry = entry.expect("a folder of the tree is readable");
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.') && name != ".ci";
            let kind = entry.file_type().expect("a file has a type");
            if kind.is_dir() {
                if !hidden && name != "target" {
                    folders.push(entry.path());
                }
            } else if kind.is_file() {
                let path = entry.path();
                let relative = path.strip_prefix(root).expect("walked from the root");
                let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
                found.push(parts.join("/"));
            }
        }
    }
    found
}

/// One place where a rule is broken, and the way out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    what: String,
    fix: String,
}

impl Violation {
    /// A fault at `path:line`: `what` is wrong, `fix` is what to do.
    pub(crate) fn new(path: impl Into<String>, line: usize, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into(), fix: fix.into() }
    }

    /// `path:line`, what tests compare.
    #[cfg(test)]
    pub(crate) fn place(&self) -> String {
        format!("{}:{}", self.path, self.line)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}\n    fix: {}", self.path, self.line, self.what, self.fix)
    }
}

/// The places of `violations`, in order: what the tests of rules compare.
#[cfg(test)]
pub(crate) fn places(violations: &[Violation]) -> Vec<String> {
    violations.iter().map(Violation::place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_checkout_holds_this_file_and_nothing_built() {
        let here = Repository::here();
        assert!(here.file("tests/tidy/repository.rs").is_some());
        assert!(here.file("Cargo.toml").is_some());
        assert!(here.files().iter().all(|file| !file.path.starts_with("target/")));
        assert!(here.files().is_sorted_by(|a, b| a.path < b.path));
    }

    #[test]
    fn an_unpacked_archive_is_walked_without_what_is_built_hidden_or_binary() {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tidy-unpacked-archive");
        let _ = std::fs::remove_dir_all(&root);
        let plant = |path: &str, bytes: &[u8]| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("planted in a folder")).expect("made");
            std::fs::write(path, bytes).expect("planted");
        };
        plant("crdt/src/lib.rs", b"//! Values.\n");
        plant(".ci/run", b"#!/bin/bash\n");
        plant("target/debug/out.rs", b"built\n");
        plant(".idea/x.rs", b"hidden\n");
        plant("docs/picture.png", &[0x89, 0xff, 0xfe]);
        // R1 to R3, though this tree itself lies below a folder named target.
        let paths: Vec<_> = Repository::open(&root).files.into_iter().map(|f| f.path).collect();
        assert_eq!(paths, [".ci/run", "crdt/src/lib.rs"]);
        std::fs::remove_dir_all(&root).expect("the planted tree goes");
    }

    #[test]
    fn a_violation_names_place_fault_and_fix() {
        let violation = Violation::new("geo/src/lib.rs", 7, "reads a clock", "take it as an argument");
        let said = violation.to_string();
        assert!(said.starts_with("geo/src/lib.rs:7: reads a clock"), "{said}");
        assert!(said.contains("fix: take it as an argument"), "{said}");
    }
}

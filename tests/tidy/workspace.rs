//! The workspace as cargo sees it: its packages and what each of them lists.
//!
//! What always holds: a package is known by its short name, which is its folder (`crdt` for
//! `atoll-crdt`), and the root package is `atoll`; a dependency on one of ours carries the same name.
//!
//! What is not here: the resolved graph. `deny.toml` speaks of what our dependencies pull in.
//!
//! Why not the manifests as text: inheritance, targets, renames and optional dependencies are cargo's
//! to understand, and `cargo metadata` says what it understood.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::repository::root;

/// One package of the workspace.
#[derive(Debug)]
pub(crate) struct Package {
    /// Short name: `crdt`, or `atoll` for the root.
    pub(crate) name: String,
    /// Its manifest, from the root of the repository.
    pub(crate) manifest: String,
    /// What it lists, of every kind.
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency a manifest lists.
#[derive(Debug)]
pub(crate) struct Dependency {
    /// The package's name, without our prefix if it is ours.
    pub(crate) name: String,
    /// The name the code calls it by.
    pub(crate) code_name: String,
    /// Whether it is a package of this workspace.
    pub(crate) ours: bool,
    /// Whether only tests, benches and examples see it.
    pub(crate) dev: bool,
}

/// Every package of the workspace, sorted by name.
#[derive(Debug)]
pub(crate) struct Workspace {
    packages: Vec<Package>,
}

impl Workspace {
    /// The workspace this test was built from, asked of cargo once.
    pub(crate) fn here() -> &'static Self {
        static HERE: OnceLock<Workspace> = OnceLock::new();
        HERE.get_or_init(|| Self::of(&metadata(root()), root()))
    }

    /// Reads the answer of `cargo metadata` for the repository at `root`.
    pub(crate) fn of(metadata: &str, root: &Path) -> Self {
        let metadata: Value = serde_json::from_str(metadata).expect("cargo metadata speaks JSON");
        let mut packages: Vec<Package> =
            array(&metadata, "packages").iter().map(|package| read_package(package, root)).collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        Self { packages }
    }

    /// Every package.
    pub(crate) fn packages(&self) -> &[Package] {
        &self.packages
    }
}

impl Package {
    /// Short names of our own packages this one is built with; what only its tests use is left out.
    pub(crate) fn edges(&self) -> BTreeSet<&str> {
        self.built_with().filter(|d| d.ours).map(|d| d.name.as_str()).collect()
    }

    /// What it is built with: normal and build dependencies.
    pub(crate) fn built_with(&self) -> impl Iterator<Item = &Dependency> {
        self.dependencies.iter().filter(|dependency| !dependency.dev)
    }

    /// The folder its code lies in, from the root of the repository.
    pub(crate) fn code_folder(&self) -> &str {
        // The root's folder holds every other package, so only its `src/` is its own.
        self.manifest.strip_suffix("Cargo.toml").filter(|folder| !folder.is_empty()).unwrap_or("src/")
    }
}

fn metadata(root: &Path) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .output()
        .expect("cargo runs, for it runs this test");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo metadata speaks UTF-8")
}

fn read_package(package: &Value, root: &Path) -> Package {
    let manifest = Path::new(text(package, "manifest_path"));
    let manifest = manifest.strip_prefix(root).expect("a package of ours lies below the root");
    let parts: Vec<_> = manifest.iter().map(|part| part.to_string_lossy()).collect();
    Package {
        name: short_name(text(package, "name")).to_owned(),
        manifest: parts.join("/"),
        dependencies: array(package, "dependencies").iter().map(read_dependency).collect(),
    }
}

fn read_dependency(dependency: &Value) -> Dependency {
    let name = text(dependency, "name");
    let ours = dependency.get("path").is_some_and(Value::is_string);
    let called = dependency.get("rename").and_then(Value::as_str).unwrap_or(name);
    Dependency {
        name: if ours { short_name(name) } else { name }.to_owned(),
        code_name: called.replace('-', "_"),
        ours,
        dev: dependency.get("kind").and_then(Value::as_str) == Some("dev"),
    }
}

fn short_name(package: &str) -> &str {
    package.strip_prefix("atoll-").unwrap_or(package)
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("cargo metadata names {key}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("cargo metadata names {key}"))
}

/// A workspace of packages `(short name, what it lists)`, as cargo would describe it: a name with a
/// `/` in front is ours, one with a `?` in front is for tests only.
#[cfg(test)]
pub(crate) fn planted(packages: &[(&str, &[&str])]) -> Workspace {
    let dependency = |&listed: &&str| {
        let (dev, listed) = listed.strip_prefix('?').map_or((false, listed), |rest| (true, rest));
        let (ours, name) = listed.strip_prefix('/').map_or((false, listed), |rest| (true, rest));
        serde_json::json!({
            "name": if ours { format!("atoll-{name}") } else { name.to_owned() },
            "path": ours.then_some(name),
            "kind": dev.then_some("dev"),
            "rename": null,
        })
    };
    let package = |&(name, listed): &(&str, &[&str])| {
        let (full, manifest) = match name {
            "atoll" => (name.to_owned(), "/planted/Cargo.toml".to_owned()),
            _ => (format!("atoll-{name}"), format!("/planted/{name}/Cargo.toml")),
        };
        let dependencies: Vec<Value> = listed.iter().map(dependency).collect();
        serde_json::json!({ "name": full, "manifest_path": manifest, "dependencies": dependencies })
    };
    let packages: Vec<Value> = packages.iter().map(package).collect();
    let metadata = serde_json::json!({ "packages": packages });
    Workspace::of(&metadata.to_string(), Path::new("/planted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_go_by_folder_and_edges_leave_out_tests() {
        let workspace = planted(&[("replication", &["/crdt", "?/node", "serde"]), ("atoll", &["/node"])]);
        let [atoll, replication] = workspace.packages() else { panic!("two were planted") };
        assert_eq!((atoll.name.as_str(), atoll.manifest.as_str()), ("atoll", "Cargo.toml"));
        assert_eq!((atoll.code_folder(), replication.code_folder()), ("src/", "replication/"));
        assert_eq!(replication.edges(), BTreeSet::from(["crdt"]));
        let listed: Vec<&str> = replication.built_with().map(|d| d.name.as_str()).collect();
        assert_eq!(listed, ["crdt", "serde"]);
    }

    #[test]
    fn this_workspace_is_described_by_cargo() {
        let names: Vec<&str> = Workspace::here().packages().iter().map(|p| p.name.as_str()).collect();
        assert!(names.contains(&"atoll") && names.contains(&"crdt"), "{names:?}");
    }
}

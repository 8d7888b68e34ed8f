//! The data directory: its lock, its format, its parts.
//!
//! ```text
//! LOCK      held by the process that has it open
//! FORMAT    the version of everything here, as text
//! journal/  segments
//! rows/     the row engine
//! sketch    the sketch of all rows, as the last process left it
//! CLUSTER   the cluster's name, if a backup was restored: no other cluster's node opens it
//! restoring/  a backup that is being restored: nobody opens the directory
//! ```
//!
//! **What always holds.** D1: two processes never have it open at once; the lock goes with the last part that is still
//! open. D2: nothing is read or written before the format was found known.

use super::error::OpenError;
use super::segment::sync_directory;
use super::sketch_file;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The version that this program writes.
pub(super) const FORMAT: u32 = 2;

/// A version of the directory as a whole. Parts that change alone have versions of their own: segments, indexes, the checkpoint, the sketch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    version: u32,
    upgrade: Upgrade,
}

/// How a directory of some version is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    /// As it is.
    AsItIs,
    /// Not at all; what to do instead.
    No(&'static str),
}

impl Format {
    /// Whether this program reads it.
    fn is_read(self) -> bool {
        self.upgrade == Upgrade::AsItIs
    }
}

/// Every version there ever was.
const FORMATS: [Format; 2] = [
    Format {
        version: 1,
        upgrade: Upgrade::No(
            "no version was released with it, and its rows have no sums; start with an empty directory, and the node fetches \
             everything from its peers",
        ),
    },
    Format { version: FORMAT, upgrade: Upgrade::AsItIs },
];

fn format(version: u32) -> Option<Format> {
    FORMATS.into_iter().find(|format| format.version == version)
}

/// What to do about a directory of a format that is not read.
pub(super) fn advice(found: &str) -> String {
    match found.parse().ok().and_then(format).map(|format| format.upgrade) {
        Some(Upgrade::No(advice)) => advice.to_owned(),
        _ if found.parse().is_ok_and(|version: u32| version > FORMAT) => {
            "a newer version wrote it: run that one, or a newer one".to_owned()
        }
        _ => "no version of this program wrote that: restore FORMAT from a copy, or start with an empty directory"
            .to_owned(),
    }
}

/// Where a backup is restored, until all of it is there.
pub(super) const RESTORING: &str = "restoring";
pub(super) const CLUSTER: &str = "CLUSTER";

/// An open data directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Opens a data directory, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        create(path)?;
        if path.join(RESTORING).exists() {
            return Err(OpenError::HalfRestored { dir: path.into() });
        }
        let lock_path = path.join("LOCK");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(OpenError::io(&lock_path))?;
        // D1
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { dir: path.into() }),
            Err(TryLockError::Error(source)) => return Err(OpenError::Io { path: lock_path, source }),
        }
        let directory = Self { path: path.into(), _lock: lock };
        directory.check_format()?;
        create(&directory.journal())?;
        sync_directory(path).map_err(OpenError::io(path))?;
        Ok(directory)
    }

    /// D2
    fn check_format(&self) -> Result<(), OpenError> {
        let path = self.path.join("FORMAT");
        match format_of(&self.path).map_err(OpenError::io(&path))? {
            FormatFound::Known(_) => Ok(()),
            FormatFound::Empty => self.write_format(&path),
            FormatFound::Other(found) => Err(OpenError::unknown_format(&path, found)),
        }
    }

    fn write_format(&self, path: &Path) -> Result<(), OpenError> {
        let new = path.with_extension("tmp");
        let write = || {
            let mut file = File::create(&new)?;
            writeln!(file, "{FORMAT}")?;
            file.sync_all()?;
            std::fs::rename(&new, path)?;
            sync_directory(&self.path)
        };
        write().map_err(OpenError::io(path))
    }

    /// Refuses what was restored for another cluster: the rows may be without those that tell of the old one's members, and the old
    /// one must never hear of that.
    pub(super) fn check_cluster(&self, configured: &str) -> Result<(), OpenError> {
        let path = self.path.join(CLUSTER);
        let found = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(OpenError::Io { path, source }),
        };
        if configured.is_empty() || found == configured {
            return Ok(());
        }
        Err(OpenError::Cluster { dir: self.path.clone(), found, configured: configured.into() })
    }

    /// Where segments lie.
    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Where the sketch of all rows lies.
    pub(super) fn sketch(&self) -> PathBuf {
        self.path.join(sketch_file::NAME)
    }

    /// Where the row engine keeps its files.
    pub(super) fn rows(&self) -> PathBuf {
        self.path.join("rows")
    }
}

/// What `FORMAT` says of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FormatFound {
    /// Nothing, and there is nothing to say it of.
    Empty,
    /// A version of [`FORMATS`] that this program reads.
    Known(u32),
    /// Anything else, shortened.
    Other(String),
}

/// Looks at it.
pub(super) fn format_of(dir: &Path) -> std::io::Result<FormatFound> {
    match std::fs::read(dir.join("FORMAT")) {
        Ok(text) => {
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            let version = text.parse::<u32>().ok().filter(|version| version.to_string() == text);
            match version.filter(|version| format(*version).is_some_and(Format::is_read)) {
                Some(version) => Ok(FormatFound::Known(version)),
                None => Ok(FormatFound::Other(text.chars().take(32).collect())),
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && dir.join("journal").exists() => {
            Ok(FormatFound::Other("none".into()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(FormatFound::Empty),
        Err(error) => Err(error),
    }
}

/// Says for which cluster a directory was restored.
pub(super) fn write_cluster(path: &Path, cluster: &str) -> std::io::Result<()> {
    let mut file = File::create(path.join(CLUSTER))?;
    writeln!(file, "{cluster}")?;
    file.sync_all()
}

/// Readable by its owner alone: it holds everybody's data.
pub(super) fn create(path: &Path) -> Result<(), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(OpenError::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_second_open_is_refused_until_the_first_ends() {
        let parent = tempfile::tempdir().expect("temporary directory");
        let path = parent.path().join("a/b");
        let first = Directory::open(&path).expect("opened");
        let mode = std::fs::metadata(&path).expect("made").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert!(matches!(Directory::open(&path), Err(OpenError::InUse { dir }) if dir == path));
        drop(first);
        Directory::open(&path).expect("opened again");
    }

    #[test]
    fn another_format_is_refused_and_left_alone() {
        let parent = tempfile::tempdir().expect("temporary directory");
        drop(Directory::open(parent.path()).expect("opened"));
        std::fs::write(parent.path().join("FORMAT"), "1\n").expect("written");
        let error = Directory::open(parent.path()).expect_err("unknown format");
        assert!(
            error
                .to_string()
                .contains("has format 1, and this program reads format 2; no version was released with it"),
            "{error}"
        );
        std::fs::remove_file(parent.path().join("FORMAT")).expect("removed");
        let error = Directory::open(parent.path()).expect_err("data without a format");
        assert!(matches!(error, OpenError::Format { found, .. } if found == "none"));
    }
}

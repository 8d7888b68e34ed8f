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
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const FORMAT: u32 = 2;
/// Where a backup is restored, until all of it is there.
pub(super) const RESTORING: &str = "restoring";
const CLUSTER: &str = "CLUSTER";

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
        match std::fs::read_to_string(&path) {
            Ok(text) if text.trim() == FORMAT.to_string() => Ok(()),
            Ok(text) => {
                let found = text.trim().chars().take(32).collect();
                Err(OpenError::Format { path, found, known: FORMAT })
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.write_format(&path),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }

    fn write_format(&self, path: &Path) -> Result<(), OpenError> {
        if self.journal().exists() {
            return Err(OpenError::Format { path: path.into(), found: "none".into(), known: FORMAT });
        }
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
        self.path.join("sketch")
    }

    /// Where the row engine keeps its files.
    pub(super) fn rows(&self) -> PathBuf {
        self.path.join("rows")
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
        assert!(error.to_string().contains("has format 1, and this program knows format 2"), "{error}");
        std::fs::remove_file(parent.path().join("FORMAT")).expect("removed");
        let error = Directory::open(parent.path()).expect_err("data without a format");
        assert!(matches!(error, OpenError::Format { found, .. } if found == "none"));
    }
}

//! A directory beside the data directory in which its files can be opened without changing them.
//!
//! **What always holds.** B1: what may be written to is a copy: the engine's own log and small files, and the last segment of the
//! journal. What is never written again once it has its name is a link: tables of the engine, full segments and their indexes. To
//! remove such a name here leaves the file its other one. B2: it is gone when this is dropped.
//!
//! **What is not here.** The sketch, so that an opening reads every row; the lock, and whatever was being prepared.

use super::{DoctorError, Progress, Step, io_error};
use crate::store::doctor::findings::Bytes;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// Left beside what is copied, for what opening writes.
const ROOM_BYTES: u64 = 256 << 20;

/// The likeness. B2
pub(super) struct Likeness {
    path: PathBuf,
}

/// One file of the data directory.
struct Item {
    path: PathBuf,
    bytes: u64,
    is_linked: bool,
}

impl Likeness {
    /// Makes it.
    pub(super) fn make(dir: &Path, scratch: Option<&Path>, progress: &mut Progress<'_>) -> Result<Self, DoctorError> {
        let parent = scratch.or(dir.parent()).unwrap_or(dir);
        let mut items = Vec::new();
        files(dir, &mut items)?;
        let last = items.iter().filter(|item| has_extension(&item.path, "seg")).map(|item| item.path.clone()).max();
        for item in &mut items {
            let is_sealed = has_extension(&item.path, "seg") && Some(&item.path) != last.as_ref();
            let is_table = item.path.parent().is_some_and(|parent| parent.ends_with("tables"));
            item.is_linked = is_sealed || is_table || has_extension(&item.path, "idx");
        }
        items.retain(|item| !is_left_out(dir, &item.path));
        let copied: u64 = items.iter().filter(|item| !item.is_linked).map(|item| item.bytes).sum();
        let (needed, available) = (copied + ROOM_BYTES, room(parent)?);
        if available < needed {
            return Err(DoctorError::NoRoom { dir: parent.to_owned(), available, needed });
        }
        let path = parent.join(format!(".atoll-doctor-{}", std::process::id()));
        make_directory(&path)?;
        let likeness = Self { path };
        let (mut done, all) = (0, items.iter().map(|item| item.bytes).sum());
        for item in &items {
            likeness.take_in(dir, item)?;
            done += item.bytes;
            progress(Step::Likeness(done, all));
        }
        Ok(likeness)
    }

    /// B1
    fn take_in(&self, dir: &Path, item: &Item) -> Result<(), DoctorError> {
        let to = self.path.join(item.path.strip_prefix(dir).unwrap_or(&item.path));
        if let Some(parent) = to.parent() {
            make_directory(parent)?;
        }
        // Another file system, or one without links: a copy does as well.
        if item.is_linked && std::fs::hard_link(&item.path, &to).is_ok() {
            return Ok(());
        }
        std::fs::copy(&item.path, &to).map(drop).map_err(io_error(&item.path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that may still be written here.
    pub(super) fn room(&self) -> Result<u64, DoctorError> {
        room(&self.path)
    }
}

impl Drop for Likeness {
    fn drop(&mut self) {
        // What cannot be removed holds no data of its own, and the next look makes another.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn make_directory(path: &Path) -> Result<(), DoctorError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))
}

fn room(path: &Path) -> Result<u64, DoctorError> {
    let disk = rustix::fs::statvfs(path).map_err(|error| io_error(path)(io::Error::from(error)))?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found == extension)
}

fn is_left_out(dir: &Path, path: &Path) -> bool {
    has_extension(path, "tmp") || [dir.join("LOCK"), super::sketch_file_of(dir)].iter().any(|left| left == path)
}

fn files(dir: &Path, found: &mut Vec<Item>) -> Result<(), DoctorError> {
    for item in std::fs::read_dir(dir).map_err(io_error(dir))? {
        let path = item.map_err(io_error(dir))?.path();
        let metadata = std::fs::metadata(&path).map_err(io_error(&path))?;
        if metadata.is_dir() {
            files(&path, found)?;
        } else if metadata.is_file() {
            found.push(Item { path, bytes: metadata.len(), is_linked: false });
        }
    }
    Ok(())
}

/// Bytes of the parts of a data directory.
pub(super) fn bytes(dir: &Path) -> Result<Bytes, DoctorError> {
    let mut items = Vec::new();
    files(dir, &mut items)?;
    let mut bytes = Bytes::default();
    for item in &items {
        let part = item.path.strip_prefix(dir).ok().and_then(|path| path.components().next());
        let place = match part.and_then(|part| part.as_os_str().to_str()) {
            Some("journal") => &mut bytes.journal,
            Some("rows") => &mut bytes.rows,
            Some("sketch") => &mut bytes.sketch,
            _ => &mut bytes.other,
        };
        *place += item.bytes;
    }
    Ok(bytes)
}

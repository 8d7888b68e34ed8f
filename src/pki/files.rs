//! Certificates and keys on disk.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use super::{Issued, PkiError};
use crate::connect::read_at_most;

/// Most bytes of a PEM file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;

pub(super) fn read(path: &Path) -> Result<String, PkiError> {
    read_at_most(path, FILE_BYTES_MAX)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData.into()))
        .map_err(|source| PkiError::Read { path: path.to_owned(), source })
}

/// Refuses if either file exists: said before any work is done, and enforced again by [`create`].
pub(super) fn refuse_existing(issued: &Issued) -> Result<(), PkiError> {
    for path in [&issued.cert, &issued.key] {
        // A dangling link counts: writing would follow it.
        if path.symlink_metadata().is_ok() {
            return Err(PkiError::Exists { path: path.clone() });
        }
    }
    Ok(())
}

/// Makes the directory, for its owner alone, if there is none.
pub(super) fn make_directory(dir: &Path) -> Result<(), PkiError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| PkiError::Write { path: dir.to_owned(), source })
}

/// Writes both files, neither of which may exist. K3
pub(super) fn create(issued: &Issued, cert_pem: &str, key_pem: &str) -> Result<(), PkiError> {
    create_one(&issued.key, key_pem, 0o600)?; // K4
    create_one(&issued.cert, cert_pem, 0o644)
}

fn create_one(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| match source.kind() {
        std::io::ErrorKind::AlreadyExists => PkiError::Exists { path: path.to_owned() },
        _ => PkiError::Write { path: path.to_owned(), source },
    })
}

/// Replaces both files, each at once: first everything is on disk under other names, then two
/// renames follow each other.
pub(super) fn replace(issued: &Issued, cert_pem: &str, key_pem: &str) -> Result<(), PkiError> {
    let key = stage(&issued.key, key_pem, 0o600)?; // K4
    let cert = stage(&issued.cert, cert_pem, 0o644)?;
    for (staged, path) in [(key, &issued.key), (cert, &issued.cert)] {
        staged.persist(path).map_err(|error| PkiError::Write { path: path.clone(), source: error.error })?;
    }
    Ok(())
}

fn stage(path: &Path, text: &str, mode: u32) -> Result<tempfile::NamedTempFile, PkiError> {
    let stage = || -> std::io::Result<tempfile::NamedTempFile> {
        // 0600 from the start.
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(text.as_bytes())?;
        #[cfg(unix)]
        file.as_file().set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        #[cfg(not(unix))]
        let _ = mode;
        file.as_file().sync_all()?;
        Ok(file)
    };
    stage().map_err(|source| PkiError::Write { path: path.to_owned(), source })
}

//! Room on the disk: so much of it is left to the node that its own writes do not fail because of what is built aside.
//!
//! **Why not wait for an error.** The row engine takes no writes any more, of nobody, once one has failed. So it must not come to that.

use atoll_crdt::ReadError;
use std::path::PathBuf;

/// Bytes written between two looks.
const LOOKED_EVERY_BYTES: u64 = 4 << 20;

/// How much there is and how much there must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Short {
    pub(super) available: u64,
    pub(super) needed: u64,
}

/// Watches the disk that a directory lies on.
#[derive(Debug)]
pub(super) struct Room {
    path: PathBuf,
    /// What is left to the node.
    reserve_bytes: u64,
    /// Bytes that were built aside, which moving them writes once more.
    aside_bytes: u64,
    looked_at: Option<u64>,
}

impl Room {
    pub(super) fn new(path: PathBuf, reserve_bytes: u64) -> Self {
        Self { path, reserve_bytes, aside_bytes: 0, looked_at: None }
    }

    /// Something else is built from here on.
    pub(super) fn begin(&mut self) {
        (self.aside_bytes, self.looked_at) = (0, None);
    }

    /// So many bytes are about to be written: `None` if there is room for them.
    ///
    /// # Errors
    /// The system does not tell.
    pub(super) fn short_of(&mut self, bytes: u64) -> Result<Option<Short>, ReadError> {
        self.aside_bytes += bytes;
        if self.looked_at.is_some_and(|at| self.aside_bytes < at + LOOKED_EVERY_BYTES) {
            return Ok(None);
        }
        self.looked_at = Some(self.aside_bytes);
        let failed = |error| ReadError::Failed(format!("how much room {} has: {error}", self.path.display()));
        let disk = rustix::fs::statvfs(&self.path).map_err(failed)?;
        let available = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = self.reserve_bytes.saturating_add(self.aside_bytes).saturating_add(bytes);
        Ok((available < needed).then_some(Short { available, needed }))
    }
}

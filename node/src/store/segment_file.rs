//! A journal's file as it is written: the one place where a disk can refuse a write or a sync.
//!
//! **What is not here.** Reading, which needs no handle of its own. In tests each call goes through `faults.rs`
//! first; in any other build this is the file and nothing else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

#[cfg(test)]
use super::faults::Faults;
#[cfg(test)]
use std::sync::Arc;

/// A file of the journal, open for writing.
#[derive(Debug)]
pub(super) struct SegmentFile {
    file: File,
    #[cfg(test)]
    faults: Option<Arc<Faults>>,
}

impl SegmentFile {
    /// Opens a file that is there.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self::of(OpenOptions::new().read(true).write(true).open(path)?, path))
    }

    /// Makes an empty file, whatever was there.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        Ok(Self::of(file, path))
    }

    #[cfg(not(test))]
    fn of(file: File, _: &Path) -> Self {
        Self { file }
    }

    #[cfg(test)]
    fn of(file: File, path: &Path) -> Self {
        Self { file, faults: path.parent().and_then(Faults::of) }
    }

    /// Writes all of `bytes`; after an error any of them may be there.
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return faults.write(&self.file, bytes, offset);
        }
        self.file.write_all_at(bytes, offset)
    }

    /// Makes what was written durable, as far as reading it needs.
    pub(super) fn sync_data(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return faults.sync(&self.file);
        }
        self.file.sync_data()
    }

    /// Makes everything about the file durable.
    pub(super) fn sync_all(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            return faults.sync(&self.file);
        }
        self.file.sync_all()
    }
}

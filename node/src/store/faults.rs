//! A disk that fails, for tests: under every write and sync of a journal that was armed.
//!
//! **What always holds.** U1: what was written and not synced can be taken back, sector by sector, in a copy of the
//! directory; what was synced cannot. U2: nothing is written while a copy is made.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

static ARMED: Mutex<BTreeMap<PathBuf, Arc<Faults>>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What was written over since the last sync.
#[derive(Debug)]
struct Unsynced {
    inode: u64,
    offset: u64,
    before: Vec<u8>,
}

#[derive(Debug, Default)]
struct Plan {
    unsynced: Vec<Unsynced>,
    /// Bytes that may still be written, and the error then.
    writable: Option<(usize, i32)>,
    /// Syncs that may still succeed, and the error then.
    syncable: Option<(usize, i32)>,
    /// Writes of nothing but zeros that fail before one succeeds.
    zeros_refused: usize,
}

/// The disk of one journal.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Plan>);

impl Faults {
    /// Arms a journal's directory: files that are opened from now on go through what is returned.
    pub(super) fn arm(directory: &Path) -> Arc<Self> {
        Arc::clone(lock(&ARMED).entry(directory.into()).or_default())
    }

    /// The disk of a directory that was armed.
    pub(super) fn of(directory: &Path) -> Option<Arc<Self>> {
        lock(&ARMED).get(directory).cloned()
    }

    /// After so many bytes a write ends in the middle, with this error; and so does every later one.
    pub(super) fn fail_writes_after(&self, bytes: usize, errno: i32) {
        lock(&self.0).writable = Some((bytes, errno));
    }

    /// After so many syncs they fail.
    pub(super) fn fail_syncs_after(&self, syncs: usize, errno: i32) {
        lock(&self.0).syncable = Some((syncs, errno));
    }

    /// So many writes of zeros fail for want of room.
    pub(super) fn refuse_zeros(&self, times: usize) {
        lock(&self.0).zeros_refused = times;
    }

    /// How many of them are still to fail.
    pub(super) fn zeros_refused(&self) -> usize {
        lock(&self.0).zeros_refused
    }

    /// The disk works again; what it has lost is lost.
    pub(super) fn heal(&self) {
        *lock(&self.0) = Plan::default();
    }

    pub(super) fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut plan = lock(&self.0);
        if plan.zeros_refused > 0 && bytes.iter().all(|byte| *byte == 0) {
            plan.zeros_refused -= 1;
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        let (taken, error) = match &mut plan.writable {
            Some((left, errno)) if bytes.len() > *left => (std::mem::take(left), Some(*errno)),
            Some((left, _)) => {
                *left -= bytes.len();
                (bytes.len(), None)
            }
            None => (bytes.len(), None),
        };
        let mut before = vec![0; taken];
        let mut read = 0;
        while let got @ 1.. = file.read_at(&mut before[read..], offset + read as u64)? {
            read += got;
        }
        plan.unsynced.push(Unsynced { inode: file.metadata()?.ino(), offset, before });
        file.write_all_at(&bytes[..taken], offset)?;
        error.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    pub(super) fn sync(&self, file: &File) -> io::Result<()> {
        let mut plan = lock(&self.0);
        match &mut plan.syncable {
            Some((0, errno)) => return Err(io::Error::from_raw_os_error(*errno)),
            Some((left, _)) => *left -= 1,
            None => {}
        }
        let inode = file.metadata()?.ino();
        plan.unsynced.retain(|unsynced| unsynced.inode != inode);
        Ok(())
    }

    /// Calls `copy` while nothing is written, then takes back in the copy of the journal those unsynced sectors that
    /// `is_lost` chooses. U1, U2
    pub(super) fn power_cut(
        &self,
        journal: &Path,
        copied: &Path,
        copy: impl FnOnce(),
        mut is_lost: impl FnMut() -> bool,
    ) -> io::Result<usize> {
        let plan = lock(&self.0);
        copy();
        let mut names = BTreeMap::new();
        for item in std::fs::read_dir(journal)? {
            let item = item?;
            names.insert(item.metadata()?.ino(), item.file_name());
        }
        let mut lost = 0;
        for unsynced in plan.unsynced.iter().rev() {
            let Some(name) = names.get(&unsynced.inode) else { continue };
            let file = File::options().write(true).open(copied.join(name))?;
            let mut at = 0;
            while at < unsynced.before.len() {
                let offset = unsynced.offset + at as u64;
                let end = (at + SECTOR - offset as usize % SECTOR).min(unsynced.before.len());
                if is_lost() {
                    file.write_all_at(&unsynced.before[at..end], offset)?;
                    lost += 1;
                }
                at = end;
            }
        }
        Ok(lost)
    }
}

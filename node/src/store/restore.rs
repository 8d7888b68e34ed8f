//! Making a data directory out of a backup.
//!
//! **How it goes.** Rows are written into an engine of their own in `restoring/`, in whatever order they come; what later backups of a
//! chain changed is written over it. At the end sets are counted, everything is synced, and the engine is moved to its place.
//!
//! **What always holds.** Y1: only an empty directory is restored into. Y2: until the engine is moved, nothing opens the directory
//! ([`super::directory`]); whoever gives up before leaves it empty. Y3: rows and their number are those of the origin, by its sum. Y4: the
//! journal begins with entry 2, so that rows that are moved away later are missed and not taken for none. Y5: a directory that was made
//! for another cluster than the one that was backed up has no row that tells of members, and says for which cluster it is.
//!
//! **What is not here.** Where backups lie and how they are read: the binary. Every row is read, and summed up under the node's own
//! secret, when the directory is opened.

use super::backup_row::{BackupRow, cell};
use super::checkpoint::Checkpoint;
use super::config::StoreConfig;
use super::directory::{Directory, RESTORING, create, write_cluster};
use super::engine::{
    CHECKSUM_BYTES, Engine, FINGERPRINT_KEY, ID_BYTES, REINDEXED_AT_ONCE, STATE_KEY, failed, id_key, seal, sealed_count,
};
use super::error::OpenError;
use super::segment;
use crate::roster;
use atoll_crdt::{CollectionKey, DataType, ReadError, RowKey};
use atoll_replication::sketch::{Cell, DigestKey, RowDigest, RowId};
use atoll_replication::{Position, Recovered};
use fjall::{OwnedWriteBatch, PersistMode, Readable};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of rows that are written at once.
const BATCH_BYTES: usize = 4 << 20;
/// The engine's memory for blocks while it is filled.
const CACHE_BYTES: usize = 32 << 20;
/// What a file system keeps at the top of its own accord.
const NOBODYS: &str = "lost+found";
/// What a directory is made of, in the order in which it is moved to its place.
const PARTS: [&str; 4] = ["journal", "rows", "CLUSTER", "FORMAT"];

/// Why a backup was not restored. The directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It holds something (operator: name another one, or empty it).
    #[error("{} is not empty; a backup is restored into an empty directory only", .dir.display())]
    NotEmpty {
        /// The directory.
        dir: PathBuf,
    },
    /// Its parts cannot be made (environment).
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The operating system refused something (environment).
    #[error("{}: {source}", .path.display())]
    Io {
        /// With which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Rows cannot be written (disk).
    #[error("rows cannot be written: {0}")]
    Rows(#[from] ReadError),
    /// What was given is not what the backup says of itself (the backup).
    #[error("the rows are not those that the backup sums up: {found} of {expected}")]
    Sum {
        /// Rows that came.
        found: u64,
        /// Rows that the backup has.
        expected: u64,
    },
}

/// What a backup says of the state that it holds.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Clocks, processes, ceiling.
    pub state: Recovered,
    /// How many rows there are.
    pub rows: u64,
    /// The sum over them.
    pub root: Cell,
    /// Tells under which secret ids and digests are made.
    pub fingerprint: [u8; 16],
    /// The cluster that was backed up.
    pub cluster: String,
}

/// A data directory in the making. What is not finished is removed when it is dropped.
#[derive(Debug)]
pub struct Restore {
    dir: PathBuf,
    /// `None` once it is given up or finished.
    engine: Option<Filling>,
}

struct Filling {
    engine: Engine,
    batch: OwnedWriteBatch,
    waiting: usize,
}

impl std::fmt::Debug for Filling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filling").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

impl Restore {
    /// Begins in a directory, which is made if it is not there. Y1
    ///
    /// # Errors
    /// It holds something, or cannot be written.
    pub fn begin(dir: &Path) -> Result<Self, RestoreError> {
        let io = |source| RestoreError::Io { path: dir.into(), source };
        create(dir)?;
        let building = dir.join(RESTORING);
        if building.exists() {
            // One that was cut off: no node has opened the directory since (Y2).
            for part in PARTS {
                remove(&dir.join(part))?;
            }
            remove(&building)?;
        }
        for entry in fs::read_dir(dir).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            if name != NOBODYS {
                return Err(RestoreError::NotEmpty { dir: dir.into() });
            }
        }
        let mut restore = Self { dir: dir.into(), engine: None };
        let directory = Arc::new(Directory::open(&building)?);
        let (engine, _) = Engine::open(&directory, CACHE_BYTES, &DigestKey::derive(b""))?;
        let batch = engine.database.batch();
        restore.engine = Some(Filling { engine, batch, waiting: 0 });
        Ok(restore)
    }

    /// Writes a row that nothing was written for before.
    ///
    /// # Errors
    /// The disk failed.
    pub fn put(&mut self, row: &BackupRow<'_>) -> Result<(), RestoreError> {
        self.filling().put(row)
    }

    /// Writes what a later backup has for an id: these rows, and no other. To be called once for an id between two calls of
    /// [`Self::settle`].
    ///
    /// # Errors
    /// The disk failed.
    pub fn replace(&mut self, id: RowId, rows: &[BackupRow<'_>]) -> Result<(), RestoreError> {
        let filling = self.filling();
        let id_bytes = id.to_bits().to_be_bytes();
        let stays =
            |key: &[u8]| rows.iter().any(|row| row.row.as_ref().is_some_and(|(named, _)| named.as_bytes() == key));
        for entry in filling.engine.database.snapshot().prefix(&filling.engine.ids, id_bytes) {
            let entry = entry.key().map_err(|error| failed(&error))?;
            let key = entry.get(ID_BYTES..).unwrap_or_default();
            if !stays(key) {
                filling.batch.remove(&filling.engine.rows, key);
                filling.batch.remove(&filling.engine.ids, &*entry);
            }
        }
        rows.iter().try_for_each(|row| filling.put(row))
    }

    /// Has everything so far written, so that a later backup of the chain can be written over it.
    ///
    /// # Errors
    /// The disk failed.
    pub fn settle(&mut self) -> Result<(), RestoreError> {
        self.filling().write()
    }

    /// Ends: from now on the directory is one that a node of `cluster` opens. Gives the number of rows. Y3
    ///
    /// # Errors
    /// The rows are not those of the origin, or the disk failed; the directory is empty then.
    pub fn finish(mut self, origin: &Origin, cluster: &str) -> Result<u64, RestoreError> {
        let is_same = cluster == origin.cluster;
        let filling = self.filling();
        filling.write()?;
        filling.check(origin)?;
        if !is_same {
            filling.forget_members()?;
        }
        let rows = filling.count()?;
        let checkpoint = Checkpoint {
            position: Position(1),
            state: origin.state.clone(),
            rows,
            root: origin.root,
            clears: Arc::default(),
        };
        filling.batch.insert(&filling.engine.meta, STATE_KEY, checkpoint.encode(false));
        if is_same {
            // Without it, ids are made anew when the directory is opened; a cluster of another name has another secret.
            filling.batch.insert(&filling.engine.meta, FINGERPRINT_KEY, origin.fingerprint);
        }
        filling.write()?;
        filling.engine.database.persist(PersistMode::SyncAll).map_err(|error| failed(&error))?;
        self.engine = None;
        self.put_in_place(cluster)?;
        Ok(rows)
    }

    /// Y2, Y4, Y5
    fn put_in_place(&self, cluster: &str) -> Result<(), RestoreError> {
        let building = self.dir.join(RESTORING);
        let io = |source| RestoreError::Io { path: self.dir.clone(), source };
        let journal = building.join("journal");
        let segment = || {
            segment::adopt(&journal, &segment::prepare(&journal, StoreConfig::default().segment_bytes)?, Position(2))
        };
        segment().map_err(io)?;
        write_cluster(&building, cluster).map_err(io)?;
        for part in PARTS {
            fs::rename(building.join(part), self.dir.join(part)).map_err(io)?;
        }
        segment::sync_directory(&self.dir).map_err(io)?;
        remove(&building)?;
        segment::sync_directory(&self.dir).map_err(io)
    }

    fn filling(&mut self) -> &mut Filling {
        self.engine.as_mut().expect("it is there until it is finished, which takes the whole")
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        if self.engine.take().is_some() {
            // What cannot be removed keeps nodes away all the same. Y2
            let _ = remove(&self.dir.join(RESTORING));
        }
    }
}

impl Filling {
    fn put(&mut self, row: &BackupRow<'_>) -> Result<(), RestoreError> {
        let Some((key, row_bytes)) = &row.row else { return Ok(()) };
        let mut value = Vec::with_capacity(CHECKSUM_BYTES + row_bytes.len());
        value.resize(CHECKSUM_BYTES, 0);
        value.extend_from_slice(row_bytes);
        seal(key.as_bytes(), &mut value);
        self.waiting += key.as_bytes().len() + value.len();
        self.batch.insert(&self.engine.rows, key.as_bytes(), value.as_slice());
        self.batch.insert(&self.engine.ids, id_key(row.id, key.as_bytes()), row.digest.to_bits().to_be_bytes());
        if self.waiting >= BATCH_BYTES || self.batch.len() >= REINDEXED_AT_ONCE { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), RestoreError> {
        self.waiting = 0;
        let batch = std::mem::replace(&mut self.batch, self.engine.database.batch());
        Ok(batch.commit().map_err(|error| failed(&error))?)
    }

    /// Y3
    fn check(&self, origin: &Origin) -> Result<(), RestoreError> {
        let (mut sum, mut found) = (Cell::EMPTY, 0);
        for entry in self.engine.database.snapshot().iter(&self.engine.ids) {
            let (entry, digest) = entry.into_inner().map_err(|error| failed(&error))?;
            let number = |bytes: Option<&[u8]>| bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let id = number(entry.get(..ID_BYTES)).and_then(RowId::from_bits);
            let digest = number(Some(&digest)).and_then(RowDigest::from_bits);
            if let (Some(id), Some(digest)) = (id, digest) {
                sum += cell(id, digest);
                found += 1;
            }
        }
        if (sum, found) == (origin.root, origin.rows) {
            return Ok(());
        }
        Err(RestoreError::Sum { found, expected: origin.rows })
    }

    /// Y5
    fn forget_members(&mut self) -> Result<(), RestoreError> {
        for prefix in roster::prefixes_of_members() {
            for entry in self.engine.database.snapshot().prefix(&self.engine.rows, prefix) {
                self.batch.remove(&self.engine.rows, entry.key().map_err(|error| failed(&error))?);
            }
        }
        self.write()
    }

    /// Counts the members of every set; gives the number of rows.
    fn count(&mut self) -> Result<u64, RestoreError> {
        let (mut rows, mut set): (u64, Option<(CollectionKey, u64)>) = (0, None);
        for entry in self.engine.database.snapshot().iter(&self.engine.rows) {
            let key = entry.key().map_err(|error| failed(&error))?;
            rows += 1;
            if let Some((_, members)) = set.as_mut().filter(|(last, _)| key.starts_with(last.as_bytes())) {
                *members += 1;
                continue;
            }
            self.counted(set.take())?;
            let collection = RowKey::parse(&key).map_err(|error| ReadError::Failed(error.to_string()))?.collection();
            set = (collection.data_type() == DataType::Set).then_some((collection, 1));
        }
        self.counted(set)?;
        self.write()?;
        Ok(rows)
    }

    fn counted(&mut self, set: Option<(CollectionKey, u64)>) -> Result<(), RestoreError> {
        let Some((collection, members)) = set else { return Ok(()) };
        self.batch.insert(&self.engine.counts, collection.as_bytes(), sealed_count(&collection, members));
        if self.batch.len() >= REINDEXED_AT_ONCE { self.write() } else { Ok(()) }
    }
}

fn remove(path: &Path) -> Result<(), RestoreError> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RestoreError::Io { path: path.into(), source }),
        _ => Ok(()),
    }
}

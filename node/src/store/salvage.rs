//! Building the row engine's files anew when the engine itself finds blocks of them damaged.
//!
//! **How it goes.** The engine checks blocks of some dozens of rows. A damaged one fails every read in it and every scan
//! across it, and sooner or later a compaction, after which nothing can be written. So an opening that comes upon one copies
//! all rows that can be read into new files, and names the others there as unknown: they are holes, which a peer repairs.
//!
//! **What always holds.** L1: a row that is lost here is named: by its entry in the index, or the checkpoint's number of rows
//! and their sum tell, and opening refuses. L2: the old files are put aside by one rename and stay until the new ones are in
//! their place; a crash anywhere on the way leaves one or the other, or is undone by the next opening. L3: counts are
//! counted again: a lost one would read as zero. L4: an adopted layer is not lost: its rows are copied and moved to their place at once.
//! So is one that an entry of the journal may name, which stays a layer. Others have no effect, and are left behind.

use super::aside_rows::{AsideRow, LAYER_KEYS, Sums, id_of, layer_key, without_layer};
use super::directory::Directory;
use super::engine::{
    Engine, FINGERPRINT_KEY, ID_BYTES, REINDEXED_AT_ONCE, STATE_KEY, UNKNOWN, damaged, failed, id_key, is_damage, open,
    sealed_count,
};
use super::error::OpenError;
use super::segment::sync_directory;
use atoll_crdt::{CollectionKey, DataType, ReadError, RowKey};
use atoll_replication::LayerId;
use atoll_replication::sketch::DigestKey;
use fjall::{Keyspace, OwnedWriteBatch, PersistMode, Readable, Snapshot};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where files are while they are made, and after they were replaced.
fn aside(directory: &Directory) -> (PathBuf, PathBuf) {
    (directory.rows().with_extension("new"), directory.rows().with_extension("damaged"))
}

/// Undoes what a crash interrupted. L2
pub(super) fn settle(directory: &Directory) -> Result<(), OpenError> {
    let (new, old) = aside(directory);
    let rows = directory.rows();
    let settle = || {
        remove(&new)?;
        if !rows.exists() && old.exists() {
            std::fs::rename(&old, &rows)?;
        }
        remove(&old)
    };
    settle().map_err(OpenError::io(&rows))
}

/// Copies what can be read of `engine` into new files, and puts those in its place. Whoever calls this opens them.
pub(super) fn salvage(engine: Engine, directory: &Arc<Directory>, digest_key: &DigestKey) -> Result<(), OpenError> {
    let (new, old) = aside(directory);
    let rows = directory.rows();
    tracing::error!(path = %rows.display(), "the row engine's files are damaged: what can be read is copied into new ones");
    let refused = |error: ReadError| OpenError::RowsDamaged { path: rows.clone(), what: error.to_string() };
    let (made, _) = Engine::open_at(&new, directory, 0, digest_key)?;
    let unreadable = copy(&engine, &made).map_err(refused)?;
    drop((made, engine));
    let replace = || {
        std::fs::rename(&rows, &old)?;
        std::fs::rename(&new, &rows)?;
        if let Some(parent) = rows.parent() {
            sync_directory(parent)?;
        }
        remove(&old)
    };
    replace().map_err(OpenError::io(&rows))?;
    tracing::error!(unreadable, "the row engine's files were made anew; rows that could not be read wait for a peer");
    Ok(())
}

/// Copies everything that can be read; gives how many rows could not, and are unknown in the copy.
fn copy(engine: &Engine, copy: &Engine) -> Result<u64, ReadError> {
    let snapshot = engine.snapshot();
    let mut copying = Copying { copy, batch: copy.database.batch(), waiting: 0, unreadable: 0 };
    readable(&snapshot, &engine.ids, &mut |entry, digest| {
        let key = entry.get(ID_BYTES..).unwrap_or_default();
        match snapshot.get(&engine.rows, key) {
            Ok(Some(row)) => copying.row(entry, key, &row, digest),
            Ok(None) => copying.unknown(entry, key, digest),
            Err(error) if is_damage(&error) => copying.unknown(entry, key, digest),
            Err(error) => Err(failed(&error)),
        }
    })?;
    copying.write()?;
    // Those whose entries in the index cannot be read.
    readable(&snapshot, &engine.rows, &mut |key, row| {
        let Ok(body) = open(key, row) else { return Ok(()) };
        let entry = id_key(engine.digest_key.id_of_bytes(key), key);
        if copy.ids.contains_key(&entry).map_err(|error| failed(&error))? {
            return Ok(());
        }
        let digest = engine.digest_key.digest_of_bytes(key, body).to_bits().to_be_bytes();
        copying.row(&entry, key, row, &digest)
    })?;
    copying.write()?;
    let (adopted, ready) = (engine.adopted(), engine.ready());
    let (adopted, ready) = (adopted.map_err(|error| failed(&error))?, ready.map_err(|error| failed(&error))?);
    for layer in adopted.into_iter().chain(ready.filter(|ready| adopted != Some(*ready))) {
        copying.layer(engine, &snapshot, layer)?;
    }
    copying.meta(engine, LAYER_KEYS)?;
    copying.write()?;
    // L4
    copy.move_known()?;
    copying.counts()?;
    if let Some(ready) = ready.filter(|ready| adopted != Some(*ready)) {
        copying.layer_counts(ready)?;
    }
    copying.meta(engine, [STATE_KEY, FINGERPRINT_KEY])?;
    copying.write()?;
    copy.database.persist(PersistMode::SyncAll).map_err(|error| failed(&error))?;
    Ok(copying.unreadable)
}

/// What is written into a copy, some entries at once.
struct Copying<'a> {
    copy: &'a Engine,
    batch: OwnedWriteBatch,
    waiting: usize,
    unreadable: u64,
}

impl Copying<'_> {
    fn row(&mut self, entry: &[u8], key: &[u8], row: &[u8], digest: &[u8]) -> Result<(), ReadError> {
        self.batch.insert(&self.copy.rows, key, row);
        self.batch.insert(&self.copy.ids, entry, digest);
        self.waiting += 1;
        if self.waiting == REINDEXED_AT_ONCE { self.write() } else { Ok(()) }
    }

    fn unknown(&mut self, entry: &[u8], key: &[u8], digest: &[u8]) -> Result<(), ReadError> {
        self.unreadable += 1;
        self.row(entry, key, UNKNOWN, digest)
    }

    /// Some of what is said of all.
    fn meta<const N: usize>(&mut self, engine: &Engine, keys: [&[u8]; N]) -> Result<(), ReadError> {
        for key in keys {
            if let Some(stored) = engine.meta.get(key).map_err(|error| failed(&error))? {
                self.batch.insert(&self.copy.meta, key, &*stored);
            }
        }
        Ok(())
    }

    /// A layer's rows, less its counts. L4
    fn layer(&mut self, engine: &Engine, snapshot: &Snapshot, layer: LayerId) -> Result<(), ReadError> {
        let number = layer.0.to_be_bytes();
        readable(snapshot, &engine.aside.ids, &mut |entry, sums| {
            let Some(key) = entry.strip_prefix(&number).and_then(|entry| entry.get(ID_BYTES..)) else { return Ok(()) };
            match snapshot.get(&engine.aside.rows, layer_key(layer, key)) {
                Ok(Some(row)) => self.layer_row(layer, entry, key, &row, sums),
                Err(error) if !is_damage(&error) => Err(failed(&error)),
                Ok(None) | Err(_) => {
                    self.unreadable += 1;
                    self.layer_row(layer, entry, key, UNKNOWN, sums)
                }
            }
        })?;
        self.write()?;
        // Those whose entries in the index cannot be read.
        readable(snapshot, &engine.aside.rows, &mut |key, stored| {
            let row = key.starts_with(&number).then(|| AsideRow::decode(key, stored));
            let (Some(Ok(row)), Ok(row_key)) = (row, RowKey::parse(without_layer(key))) else { return Ok(()) };
            let entry = id_of(layer, engine.digest_key.id(&row_key), row_key.as_bytes());
            let Some(merged) = row.merged else { return Ok(()) };
            if self.copy.aside.ids.contains_key(&entry).map_err(|error| failed(&error))? {
                return Ok(());
            }
            let sums = merged.sums(&engine.digest_key, &row_key);
            self.layer_row(layer, &entry, row_key.as_bytes(), stored, &sums.encode())
        })?;
        self.write()
    }

    fn layer_row(
        &mut self,
        layer: LayerId,
        entry: &[u8],
        key: &[u8],
        row: &[u8],
        sums: &[u8],
    ) -> Result<(), ReadError> {
        self.batch.insert(&self.copy.aside.rows, layer_key(layer, key), row);
        self.batch.insert(&self.copy.aside.ids, entry, sums);
        self.waiting += 1;
        if self.waiting == REINDEXED_AT_ONCE { self.write() } else { Ok(()) }
    }

    /// What a layer, of which nothing is moved, adds to the counts of sets. L3
    fn layer_counts(&mut self, layer: LayerId) -> Result<(), ReadError> {
        let mut counts: BTreeMap<CollectionKey, i64> = BTreeMap::new();
        self.copy.visit_aside_ids(&self.copy.snapshot(), layer, &mut |key, sums| {
            let collection = RowKey::parse(key).map_err(|e| damaged(key, &e.to_string()))?.collection();
            if collection.data_type() == DataType::Set {
                *counts.entry(collection).or_default() += sums.map_or(0, Sums::rows);
            }
            Ok(())
        })?;
        for (collection, change) in counts.into_iter().filter(|(_, change)| *change != 0) {
            self.copy.write_aside_count(&mut self.batch, layer, &collection, change);
        }
        self.write()
    }

    /// Counts the members of every set.
    fn counts(&mut self) -> Result<(), ReadError> {
        let mut count: Option<(CollectionKey, u64)> = None;
        for stored in self.copy.rows_from(&self.copy.snapshot(), None, &[])? {
            let stored = stored?;
            let collection = RowKey::parse(stored.key_bytes())
                .map_err(|e| damaged(stored.key_bytes(), &e.to_string()))?
                .collection();
            if collection.data_type() != DataType::Set {
                continue;
            }
            match &mut count {
                Some((last, members)) if *last == collection => *members += 1,
                _ => {
                    self.count(count.take());
                    count = Some((collection, 1));
                }
            }
        }
        self.count(count);
        self.write()
    }

    fn count(&mut self, count: Option<(CollectionKey, u64)>) {
        if let Some((collection, members)) = count {
            self.batch.insert(&self.copy.counts, collection.as_bytes(), sealed_count(&collection, members));
        }
    }

    fn write(&mut self) -> Result<(), ReadError> {
        self.waiting = 0;
        let batch = std::mem::replace(&mut self.batch, self.copy.database.batch());
        batch.commit().map_err(|error| failed(&error))
    }
}

/// Shown key and value.
type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), ReadError> + 'a;

/// Visits what can be read of a keyspace: from its beginning up to the first damaged block, and from its end down to the
/// last one.
fn readable(snapshot: &Snapshot, keyspace: &Keyspace, visitor: &mut Visitor<'_>) -> Result<(), ReadError> {
    let mut pass = |entries: &mut dyn Iterator<Item = fjall::Guard>| -> Result<bool, ReadError> {
        for entry in entries {
            match entry.into_inner() {
                Ok((key, value)) => visitor(&key, &value)?,
                Err(error) if is_damage(&error) => return Ok(false),
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(true)
    };
    if !pass(&mut snapshot.iter(keyspace))? {
        pass(&mut snapshot.iter(keyspace).rev())?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

//! The row engine: rows, their index by id, counts, and the checkpoint they stand at, in fjall. What it does with layers is in
//! [`super::aside_rows`], reading all of it in [`super::whole`].
//!
//! **What always holds.** E1: it is written by checkpoints only, each one atomic batch, synced before it counts; but for layers, which have no effect
//! before a checkpoint, and change nothing that is read when they are moved. E2: every
//! value begins with a checksum over its key and itself, so that a value that is damaged, or under another's key, is an
//! error and never an answer; the key is left among the [`Suspects`]. E3: the index
//! names exactly the rows that are there, by their ids under the secret whose fingerprint lies beside the checkpoint, and has
//! their digests, so that the sum over all rows can be told although one of them is damaged. E4:
//! `clear()`, FIFO compaction and separated values are not used: each has broken a database of that engine.
//!
//! **Why its own log stays on.** A batch of a checkpoint is atomic across keyspaces by that log alone. It costs each row a
//! second sequential write, a checkpoint at a time; the journal has made it durable long before.

use super::aside_rows::AsideRows;
use super::checkpoint::Checkpoint;
use super::directory::Directory;
use super::error::OpenError;
use super::layer::Layer;
use super::stored::StoredRows;
use super::suspects::Suspects;
use atoll_crdt::codec::{Reader, Writer};
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey};
use atoll_replication::LayerId;
use atoll_replication::sketch::{DigestKey, RowDigest, RowId};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Snapshot};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

/// The engine's own log; below this it accepts no bound.
const LOG_BYTES_MAX: u64 = 128 << 20;
/// The engine's own threads. One of them leaves compactions to the others, and as long as all of those are busy it does so over and
/// over, without a pause: with two threads, as many as there are cores, that is half of the time that rows are written.
const WORKERS: usize = 4;
/// The engine's own memtable: a checkpoint is in memory once more until it is a table.
const MEMTABLE_BYTES: u64 = 16 << 20;
pub(super) const STATE_KEY: &[u8] = b"state";
pub(super) const FINGERPRINT_KEY: &[u8] = b"digest-key";
pub(super) const ID_BYTES: usize = 8;
/// Entries of the index that are passed over, one by one, before the next wanted one is sought.
const PASSED_OVER_MAX: usize = 16;
/// Entries of the index that are written, or removed, at once while it is made anew.
pub(super) const REINDEXED_AT_ONCE: usize = 8_192;
pub(super) const CHECKSUM_BYTES: usize = 4;
/// Stands for a row of which nobody knows what it should hold: a checksum that matches nothing, since nothing follows.
pub(super) const UNKNOWN: &[u8] = b"hole";
/// Goes into the fingerprint: with another format of the index, it is made anew.
const INDEX_FORMAT: &[u8] = b"with digests";

/// The engine. Its directory stays locked as long as it lives.
pub(super) struct Engine {
    pub(super) database: Database,
    pub(super) rows: Keyspace,
    /// A row's id, big-endian, and its key; the row's digest.
    pub(super) ids: Keyspace,
    pub(super) counts: Keyspace,
    pub(super) meta: Keyspace,
    pub(super) aside: AsideRows,
    pub(super) digest_key: DigestKey,
    /// Rows that reads found damaged.
    pub(super) suspects: Arc<Suspects>,
    _directory: Arc<Directory>,
}

/// Rows that are damaged, and what the sketch has for them.
pub(super) type HoleDigests = BTreeMap<RowKey, RowDigest>;

/// Tells secrets apart.
pub(super) type Fingerprint = [u8; 16];

fn fingerprint(key: &DigestKey) -> Fingerprint {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&key.id_of_bytes(b"").to_bits().to_be_bytes());
    out[8..].copy_from_slice(&key.digest_of_bytes(INDEX_FORMAT, b"").to_bits().to_be_bytes());
    out
}

impl Engine {
    /// Opens it, or makes it; gives the checkpoint it stands at.
    pub(super) fn open(
        directory: &Arc<Directory>,
        cache_bytes: usize,
        digest_key: &DigestKey,
    ) -> Result<(Self, Checkpoint), OpenError> {
        Self::open_at(&directory.rows(), directory, cache_bytes, digest_key)
    }

    /// The same, with its files elsewhere.
    pub(super) fn open_at(
        path: &Path,
        directory: &Arc<Directory>,
        cache_bytes: usize,
        digest_key: &DigestKey,
    ) -> Result<(Self, Checkpoint), OpenError> {
        let open = || {
            let database = Database::builder(path)
                .cache_size(cache_bytes as u64)
                .max_journaling_size(LOG_BYTES_MAX)
                .worker_threads(WORKERS)
                .open()?;
            let options = || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES);
            let rows = database.keyspace("rows", options)?;
            // A process that was killed may have written a checkpoint and not synced it, and what follows relies on it: the
            // journal below it may go.
            database.persist(PersistMode::SyncAll)?;
            let ids = database.keyspace("ids", options)?;
            let counts = database.keyspace("counts", options)?;
            let meta = database.keyspace("meta", options)?;
            let aside = AsideRows::open(&database, options)?;
            let (digest_key, _directory) = (digest_key.clone(), Arc::clone(directory));
            let suspects = Arc::new(Suspects::default());
            Ok(Self { database, rows, ids, counts, meta, aside, digest_key, suspects, _directory })
        };
        // The engine asserts some of what it reads of its own log.
        let engine = std::panic::catch_unwind(std::panic::AssertUnwindSafe(open)).map_err(|_| {
            OpenError::RowsDamaged { path: path.into(), what: "the engine cannot make sense of its own log".into() }
        })?;
        let engine = engine.map_err(|source| OpenError::Rows { path: path.into(), source })?;
        let checkpoint = engine.checkpoint(path)?;
        Ok((engine, checkpoint))
    }

    fn checkpoint(&self, path: &Path) -> Result<Checkpoint, OpenError> {
        let stored = self.meta.get(STATE_KEY).map_err(|source| OpenError::Rows { path: path.into(), source })?;
        let Some(stored) = stored else { return Ok(Checkpoint::default()) };
        Checkpoint::decode(&stored)
            .map_err(|error| OpenError::RowsDamaged { path: path.into(), what: format!("its checkpoint: {error}") })
    }

    /// Writes what changed since the last checkpoint, all or nothing, and syncs it; `adopted` is the layer that its state
    /// stands on. E1
    pub(super) fn write(
        &self,
        layer: &Layer,
        checkpoint: &Checkpoint,
        adopted: Option<LayerId>,
    ) -> Result<(), fjall::Error> {
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncData));
        let mut out = Writer::new();
        for (key, row) in &layer.rows {
            let id = id_key(self.digest_key.id(key), key.as_bytes());
            if row.is_empty() {
                batch.remove(&self.rows, key.as_bytes());
                batch.remove(&self.ids, id);
            } else {
                batch.insert(&self.ids, id, self.digest_key.digest(key, row).to_bits().to_be_bytes());
                let mut bytes = out.into_bytes();
                bytes.clear();
                bytes.resize(CHECKSUM_BYTES, 0);
                out = Writer::appending(bytes);
                row.encode(&mut out);
                let mut bytes = out.into_bytes();
                seal(key.as_bytes(), &mut bytes);
                batch.insert(&self.rows, key.as_bytes(), bytes.as_slice());
                out = Writer::appending(bytes);
            }
        }
        for (key, digest) in &layer.unknown {
            self.write_unknown(&mut batch, key.as_bytes(), *digest);
        }
        layer.counts.iter().for_each(|(collection, count)| self.write_count(&mut batch, collection, *count));
        if let Some(adopted) = adopted {
            let rows = layer.rows.keys().chain(layer.unknown.keys());
            self.overwrite_adopted(&mut batch, adopted, rows, layer.counts.keys());
        }
        self.write_state(&mut batch, checkpoint, adopted.is_some());
        batch.commit()
    }

    pub(super) fn write_count(&self, batch: &mut OwnedWriteBatch, collection: &CollectionKey, count: u64) {
        if count == 0 {
            batch.remove(&self.counts, collection.as_bytes());
        } else {
            batch.insert(&self.counts, collection.as_bytes(), sealed_count(collection, count));
        }
    }

    pub(super) fn write_unknown(&self, batch: &mut OwnedWriteBatch, key: &[u8], digest: RowDigest) {
        batch.insert(&self.rows, key, UNKNOWN);
        batch.insert(&self.ids, id_key(self.digest_key.id_of_bytes(key), key), digest.to_bits().to_be_bytes());
    }

    pub(super) fn write_state(&self, batch: &mut OwnedWriteBatch, checkpoint: &Checkpoint, on_layer: bool) {
        batch.insert(&self.meta, STATE_KEY, checkpoint.encode(on_layer));
        batch.insert(&self.meta, FINGERPRINT_KEY, self.fingerprint());
    }

    /// Of the secret that ids and digests are made with.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.digest_key)
    }

    /// Whether the index was made with the secret that holds now, or there is nothing to index.
    pub(super) fn is_indexed(&self) -> Result<bool, fjall::Error> {
        match self.meta.get(FINGERPRINT_KEY)? {
            Some(stored) => Ok(*stored == self.fingerprint()),
            None => self.rows.is_empty(),
        }
    }

    /// What the sketch has for a row of which nobody knows what it should hold: what no row has.
    pub(super) fn unknown(&self, key: &[u8]) -> RowDigest {
        self.digest_key.digest_of_bytes(key, UNKNOWN)
    }

    /// What the index says is the digest of a row. E3
    /// For a row of an adopted layer the layer's own index says it.
    pub(super) fn digest(
        &self,
        snapshot: &Snapshot,
        adopted: Option<LayerId>,
        key: &[u8],
    ) -> Result<RowDigest, ReadError> {
        if let Some(layer) = adopted
            && let Some(sums) = self.aside_sums(snapshot, layer, key)?
        {
            return Ok(sums.after);
        }
        let id = id_key(self.digest_key.id_of_bytes(key), key);
        let stored = snapshot.get(&self.ids, id).map_err(|error| failed(&error))?;
        let bits = stored.as_deref().and_then(|stored| stored.try_into().ok()).map(u64::from_be_bytes);
        bits.and_then(RowDigest::from_bits)
            .ok_or_else(|| ReadError::Failed(format!("the index has no digest of the row {}", key.escape_ascii())))
    }

    /// Visits the keys of a snapshot's rows with these ids, which are ascending.
    pub(super) fn visit_keys(
        &self,
        snapshot: &Snapshot,
        ids: &[RowId],
        visitor: &mut dyn FnMut(RowKey) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let mut entries = Sought::default();
        for id in ids {
            let id = id.to_bits().to_be_bytes();
            entries.seek(&id, |id| snapshot.range::<&[u8], _>(&self.ids, (Bound::Included(id), Bound::Unbounded)))?;
            while let Some(key) = entries.head.as_ref().and_then(|entry| entry.strip_prefix(&id)) {
                visitor(RowKey::parse(key).map_err(|error| damaged(key, &error.to_string()))?)?;
                entries.advance()?;
            }
        }
        Ok(())
    }

    /// The rows as they are now, whatever is written later.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.database.snapshot()
    }

    /// One row of a snapshot.
    pub(super) fn row(&self, snapshot: &Snapshot, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        let read = || {
            let stored = snapshot.get(&self.rows, key.as_bytes()).map_err(|error| {
                // The engine's own checksums are over many rows at once; of the others, each read finds out by itself.
                if is_damage(&error) { ReadError::Damaged(key.clone()) } else { failed(&error) }
            })?;
            stored.map(|stored| decode_row(key.as_bytes(), &stored)).transpose()
        };
        read().map_err(|error| self.suspects.note(error))
    }

    /// The count of a collection in a snapshot, on an adopted layer. E6
    pub(super) fn count(
        &self,
        snapshot: &Snapshot,
        adopted: Option<LayerId>,
        collection: &CollectionKey,
    ) -> Result<u64, ReadError> {
        let moved = self.moved_count(snapshot, collection)?;
        let more = adopted.map_or(Ok(Some(0)), |layer| self.aside_count(snapshot, layer, collection))?;
        match (moved, more) {
            (Some(moved), Some(more)) => Ok(moved.saturating_add_signed(more)),
            // The rows themselves tell; the next change of the set stores it again.
            _ => {
                tracing::warn!(set = %collection.as_bytes().escape_ascii(), "a stored count is damaged: counting the rows");
                self.count_rows(snapshot, adopted, collection)
            }
        }
    }

    /// The count without a layer; `None` if it is damaged.
    fn moved_count(&self, snapshot: &Snapshot, collection: &CollectionKey) -> Result<Option<u64>, ReadError> {
        match snapshot.get(&self.counts, collection.as_bytes()) {
            Ok(None) => Ok(Some(0)),
            Ok(Some(stored)) => {
                let count = open(collection.as_bytes(), &stored).ok().and_then(|body| body.try_into().ok());
                Ok(count.map(u64::from_le_bytes))
            }
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Counts the rows of a collection.
    pub(super) fn count_rows(
        &self,
        snapshot: &Snapshot,
        adopted: Option<LayerId>,
        collection: &CollectionKey,
    ) -> Result<u64, ReadError> {
        let mut count = 0;
        for row in self.rows_from(snapshot, adopted, collection.as_bytes())? {
            if !row?.key_bytes().starts_with(collection.as_bytes()) {
                break;
            }
            count += 1;
        }
        Ok(count)
    }

    /// Rows of a snapshot from `from` on, in order, with what an adopted layer makes of them. E5
    pub(super) fn rows_from(
        &self,
        snapshot: &Snapshot,
        adopted: Option<LayerId>,
        from: &[u8],
    ) -> Result<StoredRows, ReadError> {
        let range = (Bound::Included(from), Bound::Unbounded);
        let rows = snapshot.range::<&[u8], _>(&self.rows, range);
        let adopted = adopted.map(|layer| self.adopted_from(snapshot, layer, from));
        StoredRows::new(rows, adopted, Arc::clone(&self.suspects))
    }
}

#[cfg(test)]
impl Engine {
    /// Takes a row away, as a bug or a bad disk would.
    pub(super) fn lose(&self, key: &RowKey) -> Result<(), fjall::Error> {
        self.rows.remove(key.as_bytes())
    }

    /// Takes a row's entry out of the index.
    pub(super) fn lose_entry(&self, key: &RowKey) -> Result<(), fjall::Error> {
        self.ids.remove(id_key(self.digest_key.id(key), key.as_bytes()))
    }

    /// Flips a bit of a row's value, which the engine's own checksums then cover.
    pub(super) fn damage(&self, key: &RowKey) -> Result<(), fjall::Error> {
        let mut value = self.rows.get(key.as_bytes())?.expect("it is there").to_vec();
        *value.last_mut().expect("it has bytes") ^= 1;
        self.rows.insert(key.as_bytes(), value)
    }

    /// Stores a row past the index.
    pub(super) fn put_back(&self, key: &RowKey, row: &Row) -> Result<(), fjall::Error> {
        let mut out = Writer::appending(vec![0; CHECKSUM_BYTES]);
        row.encode(&mut out);
        let mut bytes = out.into_bytes();
        seal(key.as_bytes(), &mut bytes);
        self.rows.insert(key.as_bytes(), bytes)
    }

    /// Writes what is in memory into tables.
    pub(super) fn flush(&self) -> Result<(), fjall::Error> {
        [&self.rows, &self.ids, &self.counts, &self.meta].into_iter().try_for_each(Keyspace::rotate_memtable_and_wait)
    }

    /// Puts entries of another secret into the index.
    pub(super) fn leave_half_indexed<'a>(
        &self,
        key: &DigestKey,
        rows: impl Iterator<Item = &'a RowKey>,
    ) -> Result<(), fjall::Error> {
        rows.into_iter().try_for_each(|row| self.ids.insert(id_key(key.id(row), row.as_bytes()), [0; 8]))
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("rows", &self.rows.approximate_len()).finish_non_exhaustive()
    }
}

/// A place in the index that moves forwards: step by step while what is wanted is near, else by a jump.
#[derive(Default)]
struct Sought {
    entries: Option<fjall::Iter>,
    head: Option<fjall::Slice>,
}

impl Sought {
    /// Goes to the first entry at or behind `id`; `from` begins there anew.
    fn seek(&mut self, id: &[u8], from: impl Fn(&[u8]) -> fjall::Iter) -> Result<(), ReadError> {
        for _ in 0..PASSED_OVER_MAX {
            match &self.head {
                Some(head) if head.as_ref() < id => self.advance()?,
                Some(_) => return Ok(()),
                None if self.entries.is_some() => return Ok(()),
                None => break,
            }
        }
        self.entries = Some(from(id));
        self.advance()
    }

    fn advance(&mut self) -> Result<(), ReadError> {
        let next = self.entries.as_mut().and_then(Iterator::next);
        self.head = next.map(|entry| entry.key().map_err(|error| failed(&error))).transpose()?;
        Ok(())
    }
}

/// The entry of a row in the index by id.
pub(super) fn id_key(id: RowId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ID_BYTES + key.len());
    out.extend_from_slice(&id.to_bits().to_be_bytes());
    out.extend_from_slice(key);
    out
}

/// Fills in the checksum of a value that follows its place. E2
pub(super) fn seal(key: &[u8], bytes: &mut [u8]) {
    let checksum = checksum(key, &bytes[CHECKSUM_BYTES..]);
    bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
}

pub(super) fn sealed_count(collection: &CollectionKey, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; CHECKSUM_BYTES];
    bytes.extend_from_slice(&count.to_le_bytes());
    seal(collection.as_bytes(), &mut bytes);
    bytes
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// The value behind its checksum. E2
pub(super) fn open<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], ReadError> {
    let found = stored.split_first_chunk::<CHECKSUM_BYTES>();
    let valid = found.filter(|(found, body)| **found == checksum(key, body).to_le_bytes());
    valid.map(|(_, body)| body).ok_or_else(|| damaged(key, "its checksum does not match"))
}

pub(super) fn decode_row(key: &[u8], stored: &[u8]) -> Result<Arc<Row>, ReadError> {
    let mut input = Reader::new(open(key, stored)?);
    let row = Row::decode(&mut input).map_err(|error| damaged(key, &error.to_string()))?;
    input.finish().map_err(|error| damaged(key, &error.to_string()))?;
    Ok(Arc::new(row))
}

pub(super) fn damaged(key: &[u8], what: &str) -> ReadError {
    let unnamed = |_| ReadError::Failed(format!("the stored row {} is damaged: {what}", key.escape_ascii()));
    RowKey::parse(key).map_or_else(unnamed, ReadError::Damaged)
}

/// Whether the engine found bytes that are not what it wrote; anything else is a failure of the system below it.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    use fjall::LsmError::{ChecksumMismatch, Decompress, InvalidHeader, InvalidTag, InvalidTrailer};
    matches!(
        error,
        fjall::Error::Storage(
            ChecksumMismatch { .. } | Decompress(_) | InvalidHeader(_) | InvalidTag(_) | InvalidTrailer
        )
    )
}

pub(super) fn failed(error: &fjall::Error) -> ReadError {
    ReadError::Failed(format!("the row engine: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{ActorId, DataType, Dot, Payload};

    #[test]
    fn a_value_that_changed_or_lies_under_another_key_is_an_error() {
        let set = CollectionKey::new("shop", DataType::Set, "s").expect("a key");
        let (key, other) = (set.member("a").expect("a key"), set.member("b").expect("a key"));
        let mut row = Row::empty();
        row.put(Dot::new(ActorId::new(1), 1), Payload::Member);
        let mut out = Writer::appending(vec![0; CHECKSUM_BYTES]);
        row.encode(&mut out);
        let mut bytes = out.into_bytes();
        seal(key.as_bytes(), &mut bytes);
        assert_eq!(decode_row(key.as_bytes(), &bytes), Ok(Arc::new(row)));
        assert!(decode_row(other.as_bytes(), &bytes).is_err());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(decode_row(key.as_bytes(), &damaged).is_err(), "byte {at}");
        }
        assert!(decode_row(key.as_bytes(), &bytes[..3]).is_err());
    }
}

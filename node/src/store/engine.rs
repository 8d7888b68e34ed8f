//! The row engine: rows, their index by id, counts, and the checkpoint they stand at, in fjall. What it does with layers is in
//! [`super::aside_rows`].
//!
//! **What always holds.** E1: it is written by checkpoints only, each one atomic batch, synced before it counts; but for layers, which have no effect
//! before a checkpoint, and change nothing that is read when they are moved. E2: every
//! value begins with a checksum over its key and itself, so that a value that is damaged, or under another's key, is an
//! error and never an answer. E3: the index
//! names exactly the rows that are there, by their ids under the secret whose fingerprint lies beside the checkpoint. E4:
//! `clear()`, FIFO compaction and separated values are not used: each has broken a database of that engine.
//!
//! **Why its own log stays on.** A batch of a checkpoint is atomic across keyspaces by that log alone. It costs each row a
//! second sequential write, a checkpoint at a time; the journal has made it durable long before.

use super::aside_rows::{AdoptedRows, AsideRow, AsideRows};
use super::checkpoint::Checkpoint;
use super::digests::SketchSize;
use super::directory::Directory;
use super::error::OpenError;
use super::layer::Layer;
use atoll_crdt::codec::{Reader, Writer};
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey};
use atoll_replication::LayerId;
use atoll_replication::sketch::{Change, DigestKey, RowDigest, RowId, Sketch};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Readable, Snapshot};
use std::iter::Peekable;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

/// The engine's own log; below this it accepts no bound.
const LOG_BYTES_MAX: u64 = 128 << 20;
/// The engine's own memtable: a checkpoint is in memory once more until it is a table.
const MEMTABLE_BYTES: u64 = 16 << 20;
const STATE_KEY: &[u8] = b"state";
const FINGERPRINT_KEY: &[u8] = b"digest-key";
const ID_BYTES: usize = 8;
/// Entries of the index that are passed over, one by one, before the next wanted one is sought.
const PASSED_OVER_MAX: usize = 16;
/// Entries of the index that are written, or removed, at once while it is made anew.
const REINDEXED_AT_ONCE: usize = 8_192;
pub(super) const CHECKSUM_BYTES: usize = 4;

/// The engine. Its directory stays locked as long as it lives.
pub(super) struct Engine {
    pub(super) database: Database,
    pub(super) rows: Keyspace,
    /// A row's id, big-endian, and its key; no value.
    pub(super) ids: Keyspace,
    counts: Keyspace,
    pub(super) meta: Keyspace,
    pub(super) aside: AsideRows,
    pub(super) digest_key: DigestKey,
    _directory: Arc<Directory>,
}

/// Tells secrets apart.
pub(super) type Fingerprint = [u8; 16];

fn fingerprint(key: &DigestKey) -> Fingerprint {
    let mut out = [0; 16];
    out[..8].copy_from_slice(&key.id_of_bytes(b"").to_bits().to_be_bytes());
    out[8..].copy_from_slice(&key.digest_of_bytes(b"", b"").to_bits().to_be_bytes());
    out
}

impl Engine {
    /// Opens it, or makes it; gives the checkpoint it stands at.
    pub(super) fn open(
        directory: &Arc<Directory>,
        cache_bytes: usize,
        digest_key: &DigestKey,
    ) -> Result<(Self, Checkpoint), OpenError> {
        let path = directory.rows();
        let open = || {
            let database =
                Database::builder(&path).cache_size(cache_bytes as u64).max_journaling_size(LOG_BYTES_MAX).open()?;
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
            Ok(Self { database, rows, ids, counts, meta, aside, digest_key, _directory })
        };
        let engine = open().map_err(|source| OpenError::Rows { path: path.clone(), source })?;
        let checkpoint = engine.checkpoint(&path)?;
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
                batch.insert(&self.ids, id, []);
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
        layer.counts.iter().for_each(|(collection, count)| self.write_count(&mut batch, collection, *count));
        if let Some(adopted) = adopted {
            self.overwrite_adopted(&mut batch, adopted, layer.rows.keys(), layer.counts.keys());
        }
        self.write_state(&mut batch, checkpoint, adopted.is_some());
        batch.commit()
    }

    pub(super) fn write_count(&self, batch: &mut OwnedWriteBatch, collection: &CollectionKey, count: u64) {
        if count == 0 {
            batch.remove(&self.counts, collection.as_bytes());
        } else {
            let mut bytes = vec![0; CHECKSUM_BYTES];
            bytes.extend_from_slice(&count.to_le_bytes());
            seal(collection.as_bytes(), &mut bytes);
            batch.insert(&self.counts, collection.as_bytes(), bytes);
        }
    }

    fn write_state(&self, batch: &mut OwnedWriteBatch, checkpoint: &Checkpoint, on_layer: bool) {
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

    /// Reads every row for a sketch of them, and what its checkpoint says of them must be so.
    pub(super) fn scan(&self, checkpoint: &Checkpoint, size: SketchSize) -> Result<Sketch, ReadError> {
        let (sketch, rows) = self.sketch(size, checkpoint.rows, |_| Ok(()))?;
        if (rows, sketch.root()) != (checkpoint.rows, checkpoint.root) {
            return Err(ReadError("its rows are not those that its checkpoint sums up".into()));
        }
        Ok(sketch)
    }

    /// Makes the index anew, of every row, because the secret is another one; the checkpoint's root is then of that one.
    /// A crash on the way leaves the old fingerprint, and it is done again. E3
    pub(super) fn reindex(&self, checkpoint: &mut Checkpoint, size: SketchSize) -> Result<Sketch, ReadError> {
        self.move_all()?;
        let write = |batch: OwnedWriteBatch| batch.commit().map_err(|error| failed(&error));
        let new_batch = || self.database.batch();
        let mut batch = new_batch();
        for (n, entry) in self.snapshot().iter(&self.ids).enumerate() {
            batch.remove(&self.ids, entry.key().map_err(|error| failed(&error))?);
            if n % REINDEXED_AT_ONCE == REINDEXED_AT_ONCE - 1 {
                write(std::mem::replace(&mut batch, new_batch()))?;
            }
        }
        write(batch)?;
        let (mut batch, mut waiting) = (new_batch(), 0);
        let (sketch, rows) = self.sketch(size, checkpoint.rows, |key| {
            batch.insert(&self.ids, id_key(self.digest_key.id_of_bytes(key), key), []);
            waiting += 1;
            if waiting == REINDEXED_AT_ONCE {
                waiting = 0;
                return write(std::mem::replace(&mut batch, new_batch()));
            }
            Ok(())
        })?;
        if rows != checkpoint.rows {
            return Err(ReadError(format!("it has {rows} rows, and its checkpoint says {}", checkpoint.rows)));
        }
        checkpoint.root = sketch.root();
        let mut batch = batch.durability(Some(PersistMode::SyncData));
        self.write_state(&mut batch, checkpoint, false);
        write(batch)?;
        Ok(sketch)
    }

    /// A sketch of every row, and how many there are; `each` is shown their keys.
    fn sketch(
        &self,
        size: SketchSize,
        rows_expected: u64,
        mut each: impl FnMut(&[u8]) -> Result<(), ReadError>,
    ) -> Result<(Sketch, u64), ReadError> {
        let (mut sketch, mut rows) = (size.sketch(rows_expected), 0);
        let adopted = self.adopted().map_err(|error| failed(&error))?;
        for stored in self.rows_from(&self.snapshot(), adopted, &[])? {
            let stored = stored?;
            let key = stored.key_bytes();
            let digest = stored.digest(&self.digest_key)?;
            sketch.apply(Change::between(self.digest_key.id_of_bytes(key), RowDigest::ABSENT, digest));
            each(key)?;
            rows += 1;
        }
        Ok((sketch, rows))
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
        let stored = snapshot.get(&self.rows, key.as_bytes()).map_err(|error| failed(&error))?;
        stored.map(|stored| decode_row(key.as_bytes(), &stored)).transpose()
    }

    /// The count of a collection in a snapshot, on an adopted layer. E6
    pub(super) fn count(
        &self,
        snapshot: &Snapshot,
        adopted: Option<LayerId>,
        collection: &CollectionKey,
    ) -> Result<u64, ReadError> {
        let more = adopted.map_or(Ok(0), |layer| self.aside_count(snapshot, layer, collection))?;
        Ok(self.moved_count(snapshot, collection)?.saturating_add_signed(more))
    }

    fn moved_count(&self, snapshot: &Snapshot, collection: &CollectionKey) -> Result<u64, ReadError> {
        let stored = snapshot.get(&self.counts, collection.as_bytes()).map_err(|error| failed(&error))?;
        let Some(stored) = stored else { return Ok(0) };
        let body = open(collection.as_bytes(), &stored)?;
        let count = body.try_into().map_err(|_| damaged(collection.as_bytes(), "a count of another length"))?;
        Ok(u64::from_le_bytes(count))
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
        let mut stored = StoredRows { rows, head: None, adopted: None };
        if let Some(layer) = adopted {
            stored.adopted = Some(self.adopted_from(snapshot, layer, from).peekable());
            stored.head = stored.next_moved()?;
        }
        Ok(stored)
    }

    /// What an adopted layer says of a row; an empty row is one that is gone. E5
    pub(super) fn adopted_row(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        key: &RowKey,
    ) -> Result<Option<Arc<Row>>, ReadError> {
        let row: Option<AsideRow> = self.aside_row(snapshot, layer, key)?;
        let merged = |row: AsideRow| row.merged.map(|merged| merged.after);
        row.map(|row| merged(row).ok_or_else(|| damaged(key.as_bytes(), "no pass has merged it"))).transpose()
    }
}

#[cfg(test)]
impl Engine {
    /// Takes a row away, as a bug or a bad disk would.
    pub(super) fn lose(&self, key: &RowKey) -> Result<(), fjall::Error> {
        self.rows.remove(key.as_bytes())
    }

    /// Puts entries of another secret into the index.
    pub(super) fn leave_half_indexed<'a>(
        &self,
        key: &DigestKey,
        rows: impl Iterator<Item = &'a RowKey>,
    ) -> Result<(), fjall::Error> {
        rows.into_iter().try_for_each(|row| self.ids.insert(id_key(key.id(row), row.as_bytes()), []))
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

/// A row as it is stored, decoded only if it is wanted.
pub(super) struct StoredRow {
    key: fjall::Slice,
    value: Stored,
}

enum Stored {
    Bytes(fjall::Slice),
    /// Of a layer.
    Row(Arc<Row>),
}

impl StoredRow {
    /// The bytes of its key.
    pub(super) fn key_bytes(&self) -> &[u8] {
        &self.key
    }

    /// A row of a layer.
    pub(super) fn of_layer(key: Vec<u8>, row: Arc<Row>) -> Self {
        Self { key: key.into(), value: Stored::Row(row) }
    }

    /// Key and row.
    pub(super) fn decode(&self) -> Result<(RowKey, Arc<Row>), ReadError> {
        let key = RowKey::parse(&self.key).map_err(|error| damaged(&self.key, &error.to_string()))?;
        let row = match &self.value {
            Stored::Bytes(bytes) => decode_row(&self.key, bytes)?,
            Stored::Row(row) => Arc::clone(row),
        };
        Ok((key, row))
    }

    fn digest(&self, digest_key: &DigestKey) -> Result<RowDigest, ReadError> {
        match &self.value {
            Stored::Bytes(bytes) => Ok(digest_key.digest_of_bytes(&self.key, open(&self.key, bytes)?)),
            Stored::Row(_) => self.decode().map(|(key, row)| digest_key.digest(&key, &row)),
        }
    }
}

/// Rows of a snapshot, in order.
pub(super) struct StoredRows {
    rows: fjall::Iter,
    /// The next of them, while there is a layer.
    head: Option<StoredRow>,
    adopted: Option<Peekable<AdoptedRows>>,
}

impl StoredRows {
    fn next_moved(&mut self) -> Result<Option<StoredRow>, ReadError> {
        let row = |guard: fjall::Guard| {
            let (key, value) = guard.into_inner().map_err(|error| failed(&error))?;
            Ok(StoredRow { key, value: Stored::Bytes(value) })
        };
        self.rows.next().map(row).transpose()
    }

    /// The next row that holds something: the layer's where it has one. E5
    fn next_row(&mut self) -> Result<Option<StoredRow>, ReadError> {
        let Some(adopted) = &mut self.adopted else { return self.next_moved() };
        loop {
            let order = match (adopted.peek(), &self.head) {
                (None, _) => std::cmp::Ordering::Greater,
                (Some(Ok((row, _))), Some(head)) => row.key.cmp(&head.key),
                (Some(_), _) => std::cmp::Ordering::Less,
            };
            let of_layer = if order.is_le() { adopted.next().transpose()? } else { None };
            let moved = if order.is_ge() { self.head.take() } else { None };
            if order.is_ge() {
                let guard = self.rows.next().map(fjall::Guard::into_inner).transpose();
                self.head = guard
                    .map_err(|error| failed(&error))?
                    .map(|(key, value)| StoredRow { key, value: Stored::Bytes(value) });
            }
            match of_layer {
                None => return Ok(moved),
                Some((row, true)) => return Ok(Some(row)),
                Some((_, false)) => {}
            }
        }
    }
}

impl Iterator for StoredRows {
    type Item = Result<StoredRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().transpose()
    }
}

/// Fills in the checksum of a value that follows its place. E2
pub(super) fn seal(key: &[u8], bytes: &mut [u8]) {
    let checksum = checksum(key, &bytes[CHECKSUM_BYTES..]);
    bytes[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
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

fn decode_row(key: &[u8], stored: &[u8]) -> Result<Arc<Row>, ReadError> {
    let mut input = Reader::new(open(key, stored)?);
    let row = Row::decode(&mut input).map_err(|error| damaged(key, &error.to_string()))?;
    input.finish().map_err(|error| damaged(key, &error.to_string()))?;
    Ok(Arc::new(row))
}

pub(super) fn damaged(key: &[u8], what: &str) -> ReadError {
    ReadError(format!("the stored row {} is damaged: {what}", key.escape_ascii()))
}

pub(super) fn failed(error: &fjall::Error) -> ReadError {
    ReadError(format!("the row engine: {error}"))
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

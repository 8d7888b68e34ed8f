//! The keyspaces of the row engine in which layers lie: rows of a peer that are built aside, and later moved to the others.
//!
//! **How it goes.** While a layer is built, one thread writes it ([`super::aside`]). Once an entry names it and a checkpoint says
//! so, it is *adopted*: its merged rows are the truth for their keys, until the thread of checkpoints has moved them, batch by
//! batch, and what a checkpoint writes goes before what the layer says.
//!
//! **What always holds.** E5: a key of an adopted layer is in it or in `rows`, and what is in it holds: a batch that moves or
//! overwrites a row takes it out of the layer. E6: the count of a set is what `counts` says and what the adopted layer
//! adds to it; a batch that writes the one removes the other. E7: every layer has a number of its own, with which its keys begin.

use super::engine::{CHECKSUM_BYTES, Engine, StoredRow, damaged, failed, id_key, open, seal};
use super::layer::Layer;
use atoll_crdt::codec::{Reader, Writer};
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey};
use atoll_replication::LayerId;
use atoll_replication::sketch::{RowDigest, RowId};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, Readable, Snapshot};
use std::ops::Bound;
use std::sync::Arc;

/// Which layer is adopted.
const ADOPTED_KEY: &[u8] = b"aside-adopted";
/// Which layer an entry may name.
const READY_KEY: &[u8] = b"aside-ready";
/// The number of the last layer.
const LAST_KEY: &[u8] = b"aside-last";
const LAYER_BYTES: usize = 8;
/// Rows, or counts, that are moved by one batch.
pub(super) const MOVED_AT_ONCE: usize = 2_048;

const UNMERGED: u8 = 0;
const MERGED_AS_RAW: u8 = 1;
const MERGED: u8 = 2;

/// The keyspaces. Every key begins with the number of its layer, big-endian.
pub(super) struct AsideRows {
    /// By row key: what is known of it.
    pub(super) rows: Keyspace,
    /// By id and row key: nothing.
    pub(super) ids: Keyspace,
    /// By row key: nothing; those that the next pass merges after the first.
    pub(super) dirty: Keyspace,
    /// By collection: what the layer adds to its count.
    pub(super) counts: Keyspace,
}

/// What a layer knows of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AsideRow {
    /// As the peer has it.
    pub(super) raw: Arc<Row>,
    /// Once a pass has merged it.
    pub(super) merged: Option<MergedRow>,
}

/// What a pass made of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MergedRow {
    /// The pinned row that it was merged with.
    pub(super) before: RowDigest,
    /// What holds once the layer is adopted.
    pub(super) after: Arc<Row>,
}

impl MergedRow {
    /// How many more rows hold something by this.
    pub(super) fn rows(&self) -> i64 {
        i64::from(!self.after.is_empty()) - i64::from(self.before != RowDigest::ABSENT)
    }
}

/// How far an adopted layer is moved.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// Rows from this key on are left, and all counts.
    Rows(Vec<u8>),
    /// Counts from this collection on are left.
    Counts(Vec<u8>),
}

/// What a batch moved.
#[derive(Debug)]
pub(super) struct Moved {
    /// Rows as they are, the empty ones too.
    pub(super) rows: Layer,
    /// What is left, if anything is.
    pub(super) next: Option<Place>,
}

fn behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A key of a layer.
pub(super) fn layer_key(layer: LayerId, key: &[u8]) -> Vec<u8> {
    [&layer.0.to_be_bytes(), key].concat()
}

/// A key without its layer's number.
pub(super) fn without_layer(key: &[u8]) -> &[u8] {
    key.get(LAYER_BYTES..).unwrap_or_default()
}

fn id_of(layer: LayerId, id: RowId, key: &[u8]) -> Vec<u8> {
    layer_key(layer, &id_key(id, key))
}

impl AsideRows {
    pub(super) fn open(database: &Database, options: impl Fn() -> KeyspaceCreateOptions) -> Result<Self, fjall::Error> {
        Ok(Self {
            rows: database.keyspace("aside-rows", &options)?,
            ids: database.keyspace("aside-ids", &options)?,
            dirty: database.keyspace("aside-dirty", &options)?,
            counts: database.keyspace("aside-counts", &options)?,
        })
    }
}

impl AsideRow {
    /// The bytes under a key of a layer.
    pub(super) fn encode(&self, key: &[u8]) -> Vec<u8> {
        let mut out = Writer::appending(vec![0; CHECKSUM_BYTES]);
        match &self.merged {
            None => out.byte(UNMERGED),
            Some(merged) => {
                out.byte(if merged.after == self.raw { MERGED_AS_RAW } else { MERGED });
                out.raw(&merged.before.to_bits().to_le_bytes());
            }
        }
        self.raw.encode(&mut out);
        if let Some(merged) = self.merged.as_ref().filter(|merged| merged.after != self.raw) {
            merged.after.encode(&mut out);
        }
        let mut bytes = out.into_bytes();
        seal(key, &mut bytes);
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    pub(super) fn decode(key: &[u8], stored: &[u8]) -> Result<Self, ReadError> {
        let unreadable = |error: atoll_crdt::codec::DecodeError| damaged(key, &error.to_string());
        let mut input = Reader::new(open(key, stored)?);
        let kind = input.byte().map_err(unreadable)?;
        let before = match kind {
            UNMERGED => None,
            MERGED_AS_RAW | MERGED => {
                let mut bits = [0; 8];
                bits.copy_from_slice(input.raw(8).map_err(unreadable)?);
                let before = RowDigest::from_bits(u64::from_le_bytes(bits));
                Some(before.ok_or_else(|| damaged(key, "its digest is none"))?)
            }
            _ => return Err(damaged(key, "of a kind that this version does not know")),
        };
        let raw = Arc::new(Row::decode(&mut input).map_err(unreadable)?);
        let after = match kind {
            MERGED => Arc::new(Row::decode(&mut input).map_err(unreadable)?),
            _ => Arc::clone(&raw),
        };
        input.finish().map_err(unreadable)?;
        Ok(Self { raw, merged: before.map(|before| MergedRow { before, after }) })
    }
}

impl Engine {
    /// The layer that is adopted and not wholly moved.
    pub(super) fn adopted(&self) -> Result<Option<LayerId>, fjall::Error> {
        self.number(ADOPTED_KEY).map(|number| number.map(LayerId))
    }

    /// Whether an entry may name this layer.
    pub(super) fn is_ready(&self, layer: LayerId) -> Result<bool, fjall::Error> {
        Ok(self.number(READY_KEY)? == Some(layer.0))
    }

    /// A number for another layer. E7
    pub(super) fn new_layer(&self) -> Result<LayerId, fjall::Error> {
        let next = self.number(LAST_KEY)?.unwrap_or(0) + 1;
        self.meta.insert(LAST_KEY, next.to_le_bytes())?;
        Ok(LayerId(next))
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, fjall::Error> {
        let stored = self.meta.get(key)?;
        Ok(stored.and_then(|stored| Some(u64::from_le_bytes(stored.as_ref().try_into().ok()?))))
    }

    /// What a layer knows of a row.
    pub(super) fn aside_row(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        key: &RowKey,
    ) -> Result<Option<AsideRow>, ReadError> {
        let key = layer_key(layer, key.as_bytes());
        let stored = snapshot.get(&self.aside.rows, &key).map_err(|error| failed(&error))?;
        stored.map(|stored| AsideRow::decode(&key, &stored)).transpose()
    }

    /// Rows of a layer from `from` on, in order.
    pub(super) fn aside_rows_from(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        from: &[u8],
    ) -> impl Iterator<Item = Result<(RowKey, AsideRow), ReadError>> + use<> {
        layer_range(snapshot, &self.aside.rows, layer, from).map(|entry| {
            let (key, value) = entry.into_inner().map_err(|error| failed(&error))?;
            let row_key = RowKey::parse(without_layer(&key)).map_err(|error| damaged(&key, &error.to_string()))?;
            Ok((row_key, AsideRow::decode(&key, &value)?))
        })
    }

    /// What an adopted layer says of rows from `from` on, in order, the empty ones too.
    pub(super) fn adopted_from(&self, snapshot: &Snapshot, layer: LayerId, from: &[u8]) -> AdoptedRows {
        AdoptedRows(Box::new(layer_range(snapshot, &self.aside.rows, layer, from)))
    }

    /// Visits the keys of a layer's rows with these ids, which are ascending.
    pub(super) fn aside_keys(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        ids: &[RowId],
        visitor: &mut dyn FnMut(RowKey) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        for id in ids {
            let prefix = id_of(layer, *id, b"");
            for entry in snapshot.prefix(&self.aside.ids, &prefix) {
                let entry = entry.key().map_err(|error| failed(&error))?;
                let key = entry.get(prefix.len()..).unwrap_or_default();
                visitor(RowKey::parse(key).map_err(|error| damaged(key, &error.to_string()))?)?;
            }
        }
        Ok(())
    }

    /// What a layer adds to the count of a collection. E6
    pub(super) fn aside_count(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        collection: &CollectionKey,
    ) -> Result<i64, ReadError> {
        let key = layer_key(layer, collection.as_bytes());
        let stored = snapshot.get(&self.aside.counts, &key).map_err(|error| failed(&error))?;
        stored.map_or(Ok(0), |stored| decode_delta(&key, &stored))
    }

    /// Adds a row to a batch.
    pub(super) fn put_aside(&self, batch: &mut OwnedWriteBatch, layer: LayerId, key: &RowKey, row: &AsideRow) {
        let aside_key = layer_key(layer, key.as_bytes());
        self.index_aside(batch, layer, key);
        batch.insert(&self.aside.rows, aside_key.as_slice(), row.encode(&aside_key));
    }

    /// Adds the entry by id of a layer's row to a batch.
    pub(super) fn index_aside(&self, batch: &mut OwnedWriteBatch, layer: LayerId, key: &RowKey) {
        batch.insert(&self.aside.ids, id_of(layer, self.digest_key.id(key), key.as_bytes()), []);
    }

    /// Adds to what a layer adds to a count.
    pub(super) fn add_aside_count(
        &self,
        batch: &mut OwnedWriteBatch,
        layer: LayerId,
        collection: &CollectionKey,
        change: i64,
    ) -> Result<(), ReadError> {
        let delta = self.aside_count(&self.snapshot(), layer, collection)? + change;
        let key = layer_key(layer, collection.as_bytes());
        let mut bytes = vec![0; CHECKSUM_BYTES];
        bytes.extend_from_slice(&delta.to_le_bytes());
        seal(&key, &mut bytes);
        batch.insert(&self.aside.counts, key, bytes);
        Ok(())
    }

    /// Says in a batch that an entry may name this layer.
    pub(super) fn make_ready(&self, batch: &mut OwnedWriteBatch, layer: LayerId) {
        batch.insert(&self.meta, READY_KEY, layer.0.to_le_bytes());
    }

    /// Takes out of the adopted layer what a checkpoint writes of rows and counts, and says that it is adopted. E5, E6
    pub(super) fn overwrite_adopted<'a>(
        &self,
        batch: &mut OwnedWriteBatch,
        layer: LayerId,
        rows: impl Iterator<Item = &'a RowKey>,
        counts: impl Iterator<Item = &'a CollectionKey>,
    ) {
        for key in rows {
            self.take_out(batch, layer, key);
        }
        for collection in counts {
            batch.remove(&self.aside.counts, layer_key(layer, collection.as_bytes()));
        }
        batch.insert(&self.meta, ADOPTED_KEY, layer.0.to_le_bytes());
    }

    /// Takes a row out of a layer. E5
    pub(super) fn take_out(&self, batch: &mut OwnedWriteBatch, layer: LayerId, key: &RowKey) {
        batch.remove(&self.aside.rows, layer_key(layer, key.as_bytes()));
        batch.remove(&self.aside.ids, id_of(layer, self.digest_key.id(key), key.as_bytes()));
    }

    /// Up to `max` counts that the adopted layer adds to, from `from` on, and what they come to.
    fn adopted_counts(&self, layer: LayerId, from: &[u8], max: usize) -> Result<Vec<(CollectionKey, u64)>, ReadError> {
        let snapshot = self.snapshot();
        let counts = layer_range(&snapshot, &self.aside.counts, layer, from).take(max).map(|entry| {
            let key = entry.key().map_err(|error| failed(&error))?;
            let key = without_layer(&key);
            // The member without a name begins where the set does.
            let collection = RowKey::parse(key).map_err(|error| damaged(key, &error.to_string()))?.collection();
            let count = self.count(&snapshot, Some(layer), &collection)?;
            Ok((collection, count))
        });
        counts.collect()
    }

    /// Moves up to `max` rows of the adopted layer from `place` on to where rows lie; behind the last row counts. When nothing is
    /// left, the layer is no more. E5, E6
    pub(super) fn move_adopted(&self, layer: LayerId, place: &Place, max: usize) -> Result<Moved, ReadError> {
        let mut batch = self.database.batch();
        let mut rows = Layer::default();
        let next = match place {
            Place::Rows(from) => {
                for row in self.aside_rows_from(&self.snapshot(), layer, from).take(max) {
                    let (key, row) = row?;
                    let merged = row.merged.ok_or_else(|| damaged(key.as_bytes(), "no pass has merged it"))?;
                    self.take_out(&mut batch, layer, &key);
                    self.write_row(&mut batch, &key, &merged.after);
                    rows.put(key, merged.after);
                }
                let last = rows.rows.get_max().map(|(key, _)| behind(key.as_bytes()));
                Some(last.map_or(Place::Counts(Vec::new()), Place::Rows))
            }
            Place::Counts(from) => {
                let counts = self.adopted_counts(layer, from, max)?;
                for (collection, count) in &counts {
                    self.write_count(&mut batch, collection, *count);
                    batch.remove(&self.aside.counts, layer_key(layer, collection.as_bytes()));
                }
                counts.last().map(|(collection, _)| Place::Counts(behind(collection.as_bytes())))
            }
        };
        if next.is_none() {
            batch.remove(&self.meta, ADOPTED_KEY);
        }
        batch.commit().map_err(|error| failed(&error))?;
        Ok(Moved { rows, next })
    }

    /// Moves everything of an adopted layer.
    pub(super) fn move_all(&self) -> Result<(), ReadError> {
        let Some(layer) = self.adopted().map_err(|error| failed(&error))? else { return Ok(()) };
        let mut place = Place::Rows(Vec::new());
        while let Some(next) = self.move_adopted(layer, &place, MOVED_AT_ONCE)?.next {
            place = next;
        }
        Ok(())
    }

    fn write_row(&self, batch: &mut OwnedWriteBatch, key: &RowKey, row: &Row) {
        let id = id_key(self.digest_key.id(key), key.as_bytes());
        if row.is_empty() {
            batch.remove(&self.rows, key.as_bytes());
            batch.remove(&self.ids, id);
            return;
        }
        let mut out = Writer::appending(vec![0; CHECKSUM_BYTES]);
        row.encode(&mut out);
        let mut bytes = out.into_bytes();
        seal(key.as_bytes(), &mut bytes);
        batch.insert(&self.ids, id, []);
        batch.insert(&self.rows, key.as_bytes(), bytes);
    }

    /// Adds what a pass made of a row that is in the layer to a batch.
    pub(super) fn put_merged(&self, batch: &mut OwnedWriteBatch, layer: LayerId, key: &RowKey, row: &AsideRow) {
        let key = layer_key(layer, key.as_bytes());
        let bytes = row.encode(&key);
        batch.insert(&self.aside.rows, key.as_slice(), bytes);
        batch.remove(&self.aside.dirty, key);
    }

    /// Has the next pass merge a row.
    pub(super) fn mark_dirty(&self, batch: &mut OwnedWriteBatch, layer: LayerId, key: &RowKey) {
        batch.insert(&self.aside.dirty, layer_key(layer, key.as_bytes()), []);
    }

    /// Keys that a pass merges: all, or those that were marked.
    pub(super) fn keys_to_merge(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        all: bool,
    ) -> impl Iterator<Item = Result<RowKey, ReadError>> + use<> {
        let keyspace = if all { &self.aside.rows } else { &self.aside.dirty };
        layer_range(snapshot, keyspace, layer, &[]).map(|entry| {
            let key = entry.key().map_err(|error| failed(&error))?;
            RowKey::parse(without_layer(&key)).map_err(|error| damaged(&key, &error.to_string()))
        })
    }

    fn aside_keyspaces(&self) -> [&Keyspace; 4] {
        [&self.aside.rows, &self.aside.ids, &self.aside.dirty, &self.aside.counts]
    }

    /// Everything that there is of layers other than `kept`: in which keyspace, and its key.
    pub(super) fn stale_aside(&self, kept: Option<LayerId>) -> Box<dyn Iterator<Item = StaleEntry> + Send> {
        let snapshot = self.snapshot();
        let kept = kept.map(|layer| layer.0.to_be_bytes());
        let all = self.aside_keyspaces().map(|keyspace| snapshot.iter(keyspace));
        let all = all.into_iter().enumerate().flat_map(|(n, entries)| entries.map(move |entry| (n, entry.key())));
        let keys = all.map(|(n, key)| key.map(|key| (n, key)).map_err(|error| failed(&error)));
        Box::new(keys.filter(move |entry| match (entry, kept) {
            (Ok((_, key)), Some(kept)) => !key.starts_with(&kept),
            _ => true,
        }))
    }

    /// Removes such entries.
    pub(super) fn remove_aside(&self, stale: Vec<(usize, fjall::Slice)>) -> Result<(), fjall::Error> {
        let mut batch = self.database.batch();
        let keyspaces = self.aside_keyspaces();
        for (n, key) in stale {
            batch.remove(keyspaces[n], key);
        }
        batch.commit()
    }
}

#[cfg(test)]
impl Engine {
    /// Entries of all layers.
    pub(super) fn aside_entries(&self) -> usize {
        self.stale_aside(None).count()
    }
}

/// A key of a layer that nobody needs, and in which keyspace it is.
pub(super) type StaleEntry = Result<(usize, fjall::Slice), ReadError>;

fn layer_range(
    snapshot: &Snapshot,
    keyspace: &Keyspace,
    layer: LayerId,
    from: &[u8],
) -> impl Iterator<Item = fjall::Guard> + use<> {
    let upto = (layer.0 + 1).to_be_bytes().to_vec();
    snapshot.range::<Vec<u8>, _>(keyspace, (Bound::Included(layer_key(layer, from)), Bound::Excluded(upto)))
}

fn decode_delta(key: &[u8], stored: &[u8]) -> Result<i64, ReadError> {
    let body = open(key, stored)?;
    body.try_into().map(i64::from_le_bytes).map_err(|_| damaged(key, "a count of another length"))
}

/// What an adopted layer says of rows, in order.
pub(super) struct AdoptedRows(Box<dyn Iterator<Item = fjall::Guard>>);

impl Iterator for AdoptedRows {
    type Item = Result<(StoredRow, bool), ReadError>;

    /// A row, and whether it holds anything.
    fn next(&mut self) -> Option<Self::Item> {
        let guard = self.0.next()?;
        Some(guard.into_inner().map_err(|error| failed(&error)).and_then(|(key, value)| {
            let row = AsideRow::decode(&key, &value)?;
            let after = row.merged.ok_or_else(|| damaged(&key, "no pass has merged it"))?.after;
            let holds = !after.is_empty();
            Ok((StoredRow::of_layer(without_layer(&key).to_vec(), after), holds))
        }))
    }
}

//! The keyspaces of the row engine in which layers lie: rows of a peer that are built aside, and later moved to the others.
//!
//! **How it goes.** While a layer is built, one thread writes it ([`super::aside`]). Once an entry names it and a checkpoint says
//! so, it is *adopted*: its merged rows are the truth for their keys, until the thread of checkpoints has moved them, batch by
//! batch, and what a checkpoint writes goes before what the layer says.
//!
//! **What always holds.** E5: a key of an adopted layer is in it or in `rows`, and what is in it holds: a batch that moves or
//! overwrites a row takes it out of the layer. E6: the count of a set is what `counts` says and what the adopted layer
//! adds to it; a batch that writes the one removes the other. E7: every layer has a number of its own, with which its keys begin.
//! E8: the index by id of a layer has, of every merged row, the digests before and after: so of a row of an adopted layer that is
//! damaged the sketch's part is known, and it becomes a hole like any other. In a layer that is not adopted it is no hole, and the layer is given up.

use super::engine::{CHECKSUM_BYTES, Engine, ID_BYTES, damaged, failed, id_key, is_damage, open, seal};
use super::layer::Layer;
use super::stored::StoredRow;
use super::suspects::Suspects;
use atoll_crdt::codec::{Reader, Writer};
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey};
use atoll_replication::LayerId;
use atoll_replication::sketch::{DigestKey, RowDigest, RowId};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, Readable, Snapshot};
use std::ops::Bound;
use std::sync::Arc;

/// Which layer is adopted.
const ADOPTED_KEY: &[u8] = b"aside-adopted";
/// Which layer an entry may name.
const READY_KEY: &[u8] = b"aside-ready";
/// The number of the last layer.
const LAST_KEY: &[u8] = b"aside-last";
/// All of these.
pub(super) const LAYER_KEYS: [&[u8]; 3] = [ADOPTED_KEY, READY_KEY, LAST_KEY];
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
    /// By id and row key: the digests before and after, once a pass has merged the row. E8
    pub(super) ids: Keyspace,
    /// By the number of the pass that merges it again, and row key: nothing.
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
    /// Whether what holds is the raw row.
    fn is_as(&self, raw: &Arc<Row>) -> bool {
        Arc::ptr_eq(&self.after, raw) || self.after == *raw
    }

    /// What it changes in sums.
    pub(super) fn sums(&self, digests: &DigestKey, key: &RowKey) -> Sums {
        Sums { before: self.before, after: digests.digest(key, &self.after) }
    }
}

/// Shown a row's key, and what it changes in sums if a pass has merged it.
pub(super) type SumsVisitor<'a> = dyn FnMut(&[u8], Option<Sums>) -> Result<(), ReadError> + 'a;

/// What a merged row changes in sums. E8
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) before: RowDigest,
    pub(super) after: RowDigest,
}

impl Sums {
    /// How many more rows hold something by this.
    pub(super) fn rows(self) -> i64 {
        i64::from(self.after != RowDigest::ABSENT) - i64::from(self.before != RowDigest::ABSENT)
    }

    pub(super) fn encode(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.before.to_bits().to_be_bytes());
        out[8..].copy_from_slice(&self.after.to_bits().to_be_bytes());
        out
    }

    pub(super) fn decode(stored: &[u8]) -> Option<Self> {
        let (before, after) = stored.split_first_chunk::<8>()?;
        let digest = |bytes: [u8; 8]| RowDigest::from_bits(u64::from_be_bytes(bytes));
        Some(Self { before: digest(*before)?, after: digest(after.try_into().ok()?)? })
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

/// A mark that a row is to be merged again by a pass.
fn dirty_key(layer: LayerId, pass: u64, key: &[u8]) -> Vec<u8> {
    layer_key(layer, &[&pass.to_be_bytes(), key].concat())
}

/// A key without its layer's number.
pub(super) fn without_layer(key: &[u8]) -> &[u8] {
    key.get(LAYER_BYTES..).unwrap_or_default()
}

pub(super) fn id_of(layer: LayerId, id: RowId, key: &[u8]) -> Vec<u8> {
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
                out.byte(if merged.is_as(&self.raw) { MERGED_AS_RAW } else { MERGED });
                out.raw(&merged.before.to_bits().to_le_bytes());
            }
        }
        self.raw.encode(&mut out);
        if let Some(merged) = self.merged.as_ref().filter(|merged| !merged.is_as(&self.raw)) {
            merged.after.encode(&mut out);
        }
        let mut bytes = out.into_bytes();
        seal(key, &mut bytes);
        bytes
    }

    /// Reads what [`Self::encode`] wrote.
    pub(super) fn decode(key: &[u8], stored: &[u8]) -> Result<Self, ReadError> {
        let damaged = |what: &str| damaged(without_layer(key), what);
        let unreadable = |error: atoll_crdt::codec::DecodeError| damaged(&error.to_string());
        let mut input = Reader::new(open(key, stored).map_err(|_| damaged("its checksum does not match"))?);
        let kind = input.byte().map_err(unreadable)?;
        let before = match kind {
            UNMERGED => None,
            MERGED_AS_RAW | MERGED => {
                let mut bits = [0; 8];
                bits.copy_from_slice(input.raw(8).map_err(unreadable)?);
                let before = RowDigest::from_bits(u64::from_le_bytes(bits));
                Some(before.ok_or_else(|| damaged("its digest is none"))?)
            }
            _ => return Err(damaged("of a kind that this version does not know")),
        };
        let raw = Arc::new(Row::decode(&mut input).map_err(unreadable)?);
        let after = match kind {
            MERGED => Arc::new(Row::decode(&mut input).map_err(unreadable)?),
            _ => Arc::clone(&raw),
        };
        input.finish().map_err(unreadable)?;
        Ok(Self { raw, merged: before.map(|before| MergedRow { before, after }) })
    }

    /// The digest of what holds once the layer is adopted.
    pub(super) fn after_digest(&self, digests: &DigestKey, key: &[u8]) -> Option<RowDigest> {
        let key = RowKey::parse(key).ok()?;
        self.merged.as_ref().map(|merged| digests.digest(&key, &merged.after))
    }

    /// What holds once the layer is adopted, of which every row is merged.
    fn adopted(self, key: &[u8]) -> Result<Arc<Row>, ReadError> {
        let merged = self.merged.ok_or_else(|| damaged(key, "no pass has merged it"))?;
        Ok(merged.after)
    }
}

impl Engine {
    /// The layer that is adopted and not wholly moved.
    pub(super) fn adopted(&self) -> Result<Option<LayerId>, fjall::Error> {
        self.number(ADOPTED_KEY).map(|number| number.map(LayerId))
    }

    /// The same in a snapshot.
    pub(super) fn adopted_in(&self, snapshot: &Snapshot) -> Result<Option<LayerId>, ReadError> {
        let stored = snapshot.get(&self.meta, ADOPTED_KEY).map_err(|error| failed(&error))?;
        Ok(stored.and_then(|stored| Some(LayerId(u64::from_le_bytes(stored.as_ref().try_into().ok()?)))))
    }

    /// The last layer that an entry might name.
    pub(super) fn ready(&self) -> Result<Option<LayerId>, fjall::Error> {
        self.number(READY_KEY).map(|number| number.map(LayerId))
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
        self.stored_aside(snapshot, layer, key.as_bytes())?.transpose()
    }

    /// The same, which may be damaged.
    pub(super) fn stored_aside(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        key: &[u8],
    ) -> Result<Option<Result<AsideRow, ReadError>>, ReadError> {
        let aside_key = layer_key(layer, key);
        match snapshot.get(&self.aside.rows, &aside_key) {
            Ok(stored) => Ok(stored.map(|stored| AsideRow::decode(&aside_key, &stored))),
            // The block is of many rows; whether this one is among them the index says.
            Err(error) if is_damage(&error) => {
                let id = id_of(layer, self.digest_key.id_of_bytes(key), key);
                let is_there = snapshot.contains_key(&self.aside.ids, id).map_err(|error| failed(&error))?;
                Ok(is_there.then(|| Err(damaged(key, "its block is damaged"))))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// What a layer's row changes in sums; `None` if the layer has no such row, or no pass has merged it. E8
    pub(super) fn aside_sums(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        key: &[u8],
    ) -> Result<Option<Sums>, ReadError> {
        stored_sums(snapshot, &self.aside.ids, id_of(layer, self.digest_key.id_of_bytes(key), key))
    }

    /// The same of a damaged row, if the index may be of another secret: a row that is there has the digest of one of which nobody knows
    /// what it should hold. Reads the whole index.
    pub(super) fn sums_of_damaged(&self, snapshot: &Snapshot, layer: LayerId, key: &[u8]) -> Result<Sums, ReadError> {
        if let Some(sums) = self.aside_sums(snapshot, layer, key)? {
            return Ok(sums);
        }
        let unknown = self.unknown(key);
        let mut found = Sums { before: unknown, after: unknown };
        self.visit_aside_ids(snapshot, layer, &mut |other, sums| {
            if let Some(sums) = sums.filter(|_| other == key) {
                let known = |digest| if digest == RowDigest::ABSENT { digest } else { unknown };
                found = Sums { before: known(sums.before), after: known(sums.after) };
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// What an adopted layer says of a row; an empty row is one that is gone. E5
    pub(super) fn adopted_row(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        key: &RowKey,
    ) -> Result<Option<Arc<Row>>, ReadError> {
        match self.stored_aside(snapshot, layer, key.as_bytes())? {
            None => Ok(None),
            Some(Ok(row)) => row.adopted(key.as_bytes()).map(Some),
            Some(Err(error)) => match self.aside_sums(snapshot, layer, key.as_bytes())? {
                Some(Sums { after: RowDigest::ABSENT, .. }) => Ok(Some(Arc::new(Row::empty()))),
                _ => Err(self.suspects.note(error)),
            },
        }
    }

    /// Visits the keys of a layer's rows by id, each with what is stored beside it.
    pub(super) fn visit_aside_ids(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        visitor: &mut SumsVisitor<'_>,
    ) -> Result<(), ReadError> {
        for entry in layer_range(snapshot, &self.aside.ids, layer, &[]) {
            let (entry, sums) = entry.into_inner().map_err(|error| failed(&error))?;
            visitor(entry.get(LAYER_BYTES + ID_BYTES..).unwrap_or_default(), Sums::decode(&sums))?;
        }
        Ok(())
    }

    /// Ids of a layer's rows from `from` on, with their keys and sums, as far as they were merged.
    pub(super) fn aside_ids_from(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        from: &[u8],
    ) -> impl Iterator<Item = Result<(RowId, Vec<u8>, Sums), ReadError>> + use<> {
        layer_range(snapshot, &self.aside.ids, layer, from).filter_map(|entry| {
            let read = entry.into_inner().map_err(|error| failed(&error)).and_then(|(entry, sums)| {
                let unreadable = || unreadable_key(&entry, "it has no id");
                let (id, key) =
                    entry.get(LAYER_BYTES..).and_then(<[u8]>::split_first_chunk::<ID_BYTES>).ok_or_else(unreadable)?;
                let id = RowId::from_bits(u64::from_be_bytes(*id)).ok_or_else(unreadable)?;
                Ok(Sums::decode(&sums).map(|sums| (id, key.to_vec(), sums)))
            });
            read.transpose()
        })
    }

    /// Rows of a layer from `from` on, in order; some may be damaged.
    pub(super) fn aside_rows_from(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        from: &[u8],
    ) -> impl Iterator<Item = Result<(RowKey, Result<AsideRow, ReadError>), ReadError>> + use<> {
        let suspects = Arc::clone(&self.suspects);
        layer_range(snapshot, &self.aside.rows, layer, from).map(move |entry| {
            let (key, value) = entry.into_inner().map_err(|error| scan_failed(&suspects, &error))?;
            let row_key =
                RowKey::parse(without_layer(&key)).map_err(|error| unreadable_key(&key, &error.to_string()))?;
            Ok((row_key, AsideRow::decode(&key, &value)))
        })
    }

    /// What an adopted layer says of rows from `from` on, in order, the empty ones too.
    pub(super) fn adopted_from(&self, snapshot: &Snapshot, layer: LayerId, from: &[u8]) -> AdoptedRows {
        let (ids, digest_key, at) = (self.aside.ids.clone(), self.digest_key.clone(), snapshot.clone());
        let is_gone = move |key: &[u8]| {
            let sums = stored_sums(&at, &ids, id_of(layer, digest_key.id_of_bytes(key), key))?;
            Ok(sums.is_some_and(|sums| sums.after == RowDigest::ABSENT))
        };
        let rows = Box::new(layer_range(snapshot, &self.aside.rows, layer, from));
        AdoptedRows { rows, is_gone: Box::new(is_gone), suspects: Arc::clone(&self.suspects) }
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

    /// What a layer adds to the count of a collection; `None` if that is damaged. E6
    pub(super) fn aside_count(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        collection: &CollectionKey,
    ) -> Result<Option<i64>, ReadError> {
        let key = layer_key(layer, collection.as_bytes());
        match snapshot.get(&self.aside.counts, &key) {
            Ok(None) => Ok(Some(0)),
            Ok(Some(stored)) => {
                let change = open(&key, &stored).ok().and_then(|body| body.try_into().ok());
                Ok(change.map(i64::from_le_bytes))
            }
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// The same of a layer of which nothing is moved yet; if what is stored is damaged, the rows tell.
    pub(super) fn adopted_change(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        collection: &CollectionKey,
    ) -> Result<i64, ReadError> {
        if let Some(change) = self.aside_count(snapshot, layer, collection)? {
            return Ok(change);
        }
        let (before, after) =
            (self.count_rows(snapshot, None, collection)?, self.count_rows(snapshot, Some(layer), collection)?);
        Ok(after.cast_signed() - before.cast_signed())
    }

    /// Adds a row with its id to a batch; the sums if it is merged.
    pub(super) fn put_aside(
        &self,
        batch: &mut OwnedWriteBatch,
        layer: LayerId,
        (id, key): (RowId, &RowKey),
        row: &AsideRow,
        sums: Option<Sums>,
    ) {
        let aside_key = layer_key(layer, key.as_bytes());
        self.index_aside(batch, layer, (id, key), sums);
        let bytes = row.encode(&aside_key);
        batch.insert(&self.aside.rows, aside_key, bytes);
    }

    /// Adds the entry by id of a layer's row to a batch.
    pub(super) fn index_aside(
        &self,
        batch: &mut OwnedWriteBatch,
        layer: LayerId,
        (id, key): (RowId, &RowKey),
        sums: Option<Sums>,
    ) {
        let id = id_of(layer, id, key.as_bytes());
        match sums {
            None => batch.insert(&self.aside.ids, id, []),
            Some(sums) => batch.insert(&self.aside.ids, id, sums.encode()),
        }
    }

    /// Adds to what a layer adds to a count.
    pub(super) fn add_aside_count(
        &self,
        batch: &mut OwnedWriteBatch,
        layer: LayerId,
        collection: &CollectionKey,
        change: i64,
    ) -> Result<(), ReadError> {
        let before = self.aside_count(&self.snapshot(), layer, collection)?;
        let before = before.ok_or_else(|| damaged(collection.as_bytes(), "what the layer adds to its count"))?;
        self.write_aside_count(batch, layer, collection, before + change);
        Ok(())
    }

    /// Says what a layer adds to a count.
    pub(super) fn write_aside_count(
        &self,
        batch: &mut OwnedWriteBatch,
        layer: LayerId,
        collection: &CollectionKey,
        delta: i64,
    ) {
        let key = layer_key(layer, collection.as_bytes());
        let mut bytes = vec![0; CHECKSUM_BYTES];
        bytes.extend_from_slice(&delta.to_le_bytes());
        seal(&key, &mut bytes);
        batch.insert(&self.aside.counts, key, bytes);
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
    /// A damaged one becomes a hole at its place.
    pub(super) fn move_adopted(&self, layer: LayerId, place: &Place, max: usize) -> Result<Moved, ReadError> {
        self.move_some(layer, place, max, &|snapshot, key| {
            let sums = self.aside_sums(snapshot, layer, key.as_bytes())?;
            let unknown = || ReadError::Failed(format!("layer {} has no digest of the damaged row {key:?}", layer.0));
            sums.map(|sums| sums.after).ok_or_else(unknown)
        })
    }

    /// `known` tells what the sketch has for a damaged row.
    fn move_some(
        &self,
        layer: LayerId,
        place: &Place,
        max: usize,
        known: &dyn Fn(&Snapshot, &RowKey) -> Result<RowDigest, ReadError>,
    ) -> Result<Moved, ReadError> {
        let mut batch = self.database.batch();
        let mut rows = Layer::default();
        let next = match place {
            Place::Rows(from) => {
                let (snapshot, mut last) = (self.snapshot(), None);
                for row in self.aside_rows_from(&snapshot, layer, from).take(max) {
                    let (key, row) = row?;
                    last = Some(behind(key.as_bytes()));
                    match row.and_then(|row| row.adopted(key.as_bytes())) {
                        Ok(row) => {
                            self.write_row(&mut batch, &key, &row);
                            rows.put(key.clone(), row);
                        }
                        Err(error) => self.move_hole(&mut batch, &mut rows, &key, known(&snapshot, &key)?, error),
                    }
                    self.take_out(&mut batch, layer, &key);
                }
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

    /// A damaged row of a layer, at its place.
    fn move_hole(
        &self,
        batch: &mut OwnedWriteBatch,
        rows: &mut Layer,
        key: &RowKey,
        digest: RowDigest,
        error: ReadError,
    ) {
        if digest == RowDigest::ABSENT {
            self.write_row(batch, key, &Row::empty());
            rows.put(key.clone(), Arc::new(Row::empty()));
            return;
        }
        self.write_unknown(batch, key.as_bytes(), digest);
        rows.unknown.insert(key.clone(), digest);
        self.suspects.note(error);
    }

    /// Moves everything of an adopted layer.
    pub(super) fn move_known(&self) -> Result<(), ReadError> {
        let Some(layer) = self.adopted().map_err(|error| failed(&error))? else { return Ok(()) };
        let mut place = Place::Rows(Vec::new());
        while let Some(next) = self.move_adopted(layer, &place, MOVED_AT_ONCE)?.next {
            place = next;
        }
        Ok(())
    }

    /// Moves everything of an adopted layer, because all will be indexed anew: what the sketch had for a damaged row is of no use.
    pub(super) fn move_all(&self) -> Result<(), ReadError> {
        let Some(layer) = self.adopted().map_err(|error| failed(&error))? else { return Ok(()) };
        let mut place = Place::Rows(Vec::new());
        let unknown =
            |snapshot: &Snapshot, key: &RowKey| Ok(self.sums_of_damaged(snapshot, layer, key.as_bytes())?.after);
        while let Some(next) = self.move_some(layer, &place, MOVED_AT_ONCE, &unknown)?.next {
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
        batch.insert(&self.ids, id, self.digest_key.digest(key, row).to_bits().to_be_bytes());
        batch.insert(&self.rows, key.as_bytes(), bytes);
    }

    /// Has a pass merge a row again.
    pub(super) fn mark_dirty(&self, batch: &mut OwnedWriteBatch, layer: LayerId, pass: u64, key: &RowKey) {
        batch.insert(&self.aside.dirty, dirty_key(layer, pass, key.as_bytes()), []);
    }

    /// A pass has done what it was marked for.
    pub(super) fn unmark_dirty(&self, batch: &mut OwnedWriteBatch, layer: LayerId, pass: u64, key: &RowKey) {
        batch.remove(&self.aside.dirty, dirty_key(layer, pass, key.as_bytes()));
    }

    /// Keys that were marked for a pass.
    pub(super) fn dirty_keys(
        &self,
        snapshot: &Snapshot,
        layer: LayerId,
        pass: u64,
    ) -> impl Iterator<Item = Result<RowKey, ReadError>> + use<> {
        let suspects = Arc::clone(&self.suspects);
        let first = dirty_key(layer, pass, &[]);
        let prefix_bytes = first.len();
        snapshot.prefix(&self.aside.dirty, first).map(move |entry| {
            let key = entry.key().map_err(|error| scan_failed(&suspects, &error))?;
            let row_key = key.get(prefix_bytes..).unwrap_or_default();
            RowKey::parse(row_key).map_err(|error| unreadable_key(&key, &error.to_string()))
        })
    }

    pub(super) fn aside_keyspaces(&self) -> [&Keyspace; 4] {
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
    /// Flips a bit of a layer's row.
    pub(super) fn damage_aside(&self, layer: LayerId, key: &RowKey) -> Result<(), fjall::Error> {
        let key = layer_key(layer, key.as_bytes());
        let mut value = self.aside.rows.get(&key)?.expect("it is there").to_vec();
        *value.last_mut().expect("it has bytes") ^= 1;
        self.aside.rows.insert(key, value)
    }

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

/// A scan ran into an entry that cannot be read: if the engine finds its own block damaged, its files are made anew at the next start.
fn scan_failed(suspects: &Suspects, error: &fjall::Error) -> ReadError {
    if is_damage(error) {
        suspects.note_block();
    }
    failed(error)
}

fn unreadable_key(key: &[u8], what: &str) -> ReadError {
    ReadError::Failed(format!("the key {} of a layer is damaged: {what}", key.escape_ascii()))
}

fn stored_sums(snapshot: &Snapshot, ids: &Keyspace, id: Vec<u8>) -> Result<Option<Sums>, ReadError> {
    let stored = snapshot.get(ids, id).map_err(|error| failed(&error))?;
    Ok(stored.as_deref().and_then(Sums::decode))
}

/// Whether a layer's row holds nothing, as the index by id tells.
type IsGone = dyn Fn(&[u8]) -> Result<bool, ReadError>;

/// What an adopted layer says of rows, in order, the empty ones and the damaged ones too. A damaged one that is gone is empty. E8
pub(super) struct AdoptedRows {
    rows: Box<dyn Iterator<Item = fjall::Guard>>,
    is_gone: Box<IsGone>,
    suspects: Arc<Suspects>,
}

impl Iterator for AdoptedRows {
    type Item = Result<StoredRow, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.rows.next()?.into_inner().map_err(|error| scan_failed(&self.suspects, &error));
        Some(entry.and_then(|(key, value)| {
            let row = AsideRow::decode(&key, &value).and_then(|row| row.adopted(without_layer(&key)));
            let row = match row {
                Err(_) if (self.is_gone)(without_layer(&key))? => Ok(Arc::new(Row::empty())),
                row => row,
            };
            Ok(StoredRow::of_layer(without_layer(&key).to_vec(), row))
        }))
    }
}

//! Rows in layers: what changed since the last checkpoint, what a running checkpoint is writing, and the row engine.
//!
//! **What always holds.** A1: the newest layer that mentions a row decides. A2: layers together are one state, whatever a
//! checkpoint does meanwhile: the engine is read in a snapshot of the same generation as the layers above it. A3: a copy
//! costs a few reference counts, whatever the number of rows. A4: what is read of a row is what its pending clears leave of
//! what lies there; counts are of what is read.

use super::cache::RowCache;
use super::engine::Engine;
use super::layer::Layer;
use super::stored::{StoredRow, StoredRows};
use atoll_crdt::{CollectionKey, DataType, ReadError, Row, RowKey};
use atoll_replication::sketch::{RowDigest, RowId};
use atoll_replication::{Clears, LayerId, Position};
use fjall::Snapshot;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

/// The row engine at one generation.
pub(super) struct Base {
    pub(super) engine: Arc<Engine>,
    pub(super) cache: Arc<RowCache>,
    pub(super) snapshot: Snapshot,
    pub(super) generation: u64,
    /// The last entry that it contains, durably.
    pub(super) position: Position,
    /// The layer whose rows hold before those that were moved. Shown by the snapshot.
    pub(super) adopted: Option<LayerId>,
}

impl Base {
    /// The engine as it is now, on the same generation; nothing writes rows to it at this moment.
    pub(super) fn again(&self, adopted: Option<LayerId>) -> Self {
        let (engine, cache) = (Arc::clone(&self.engine), Arc::clone(&self.cache));
        let snapshot = engine.snapshot();
        Self { engine, cache, snapshot, generation: self.generation, position: self.position, adopted }
    }

    /// What the adopted layer says, which the cache knows nothing of.
    fn adopted_row(&self, key: &RowKey) -> Result<Option<Option<Arc<Row>>>, ReadError> {
        let Some(layer) = self.adopted else { return Ok(None) };
        let row = self.engine.adopted_row(&self.snapshot, layer, key)?;
        Ok(row.map(|row| (!row.is_empty()).then_some(row)))
    }

    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        if let Some(row) = self.adopted_row(key)? {
            return Ok(row);
        }
        if let Some(known) = self.cache.get(key, self.generation) {
            return Ok(known);
        }
        let row = self.engine.row(&self.snapshot, key)?;
        self.cache.put(key, self.generation, row.as_ref());
        Ok(row)
    }

    /// [`Self::row`] for one pass over many rows, which must not wash out what is hot.
    fn row_once(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        if let Some(row) = self.adopted_row(key)? {
            return Ok(row);
        }
        match self.cache.get(key, self.generation) {
            Some(known) => Ok(known),
            None => self.engine.row(&self.snapshot, key),
        }
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Base").field("generation", &self.generation).finish_non_exhaustive()
    }
}

/// All synced rows.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    /// Changed since the last checkpoint began.
    pub(super) memtable: Layer,
    /// What a running checkpoint writes.
    pub(super) frozen: Option<Arc<Layer>>,
    /// Up to the last checkpoint that ended.
    pub(super) base: Arc<Base>,
    /// Clears whose rows still lie there. A4
    pub(super) clears: Arc<Clears>,
}

impl Layers {
    /// One row as it is seen; an empty one is none.
    pub(super) fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.row_on(&self.base, key)?.and_then(|row| self.clears.shown(key, row)))
    }

    /// One row as it lies there, on another base than that of these layers.
    pub(super) fn row_on(&self, base: &Base, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        let frozen = || self.frozen.as_ref().and_then(|layer| layer.rows.get(key));
        match self.memtable.rows.get(key).or_else(frozen) {
            Some(row) => Ok((!row.is_empty()).then(|| Arc::clone(row))),
            None if self.is_unknown(key) => Err(ReadError::Damaged(key.clone())),
            None => base.row(key),
        }
    }

    /// [`Self::row`] for one pass over many rows, which must not wash out what is hot.
    pub(super) fn row_once(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        let frozen = || self.frozen.as_ref().and_then(|layer| layer.rows.get(key));
        let row = match self.memtable.rows.get(key).or_else(frozen) {
            Some(row) => (!row.is_empty()).then(|| Arc::clone(row)),
            None if self.is_unknown(key) => return Err(ReadError::Damaged(key.clone())),
            None => self.base.row_once(key)?,
        };
        Ok(row.and_then(|row| self.clears.shown(key, row)))
    }

    /// Whether nobody knows what a row should hold that no layer in memory has.
    fn is_unknown(&self, key: &RowKey) -> bool {
        let names = |layer: &Layer| layer.unknown.contains_key(key);
        names(&self.memtable) || self.frozen.as_deref().is_some_and(names)
    }

    /// Whether a layer in memory says what a row holds, or that it is gone.
    pub(super) fn is_in_memory(&self, key: impl AsRef<[u8]>) -> bool {
        let mentions = |layer: &Layer| layer.rows.contains_key::<[u8]>(key.as_ref());
        mentions(&self.memtable) || self.frozen.as_deref().is_some_and(mentions)
    }

    /// What the sketch has for a row of which nobody knows what it should hold.
    pub(super) fn unknown_digest(&self, key: impl AsRef<[u8]>) -> Option<RowDigest> {
        let digest = |layer: &Layer| layer.unknown.get::<[u8]>(key.as_ref()).copied();
        digest(&self.memtable).or_else(|| self.frozen.as_deref().and_then(digest))
    }

    /// How many rows of a collection hold something.
    pub(super) fn count(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        self.count_on(&self.base, collection)
    }

    /// [`Self::count`] on another base.
    pub(super) fn count_on(&self, base: &Base, collection: &CollectionKey) -> Result<u64, ReadError> {
        let frozen = || self.frozen.as_ref().and_then(|layer| layer.counts.get(collection));
        match self.memtable.counts.get(collection).or_else(frozen) {
            Some(count) => Ok(*count),
            None => base.engine.count(&base.snapshot, base.adopted, collection),
        }
    }

    /// Visits what the layers in memory say of rows, each once, the empty ones too. A1
    pub(super) fn visit_memory(&self, visitor: &mut dyn FnMut(&RowKey, &Arc<Row>)) {
        self.memtable.rows.iter().for_each(|(key, row)| visitor(key, row));
        let frozen = self.frozen.iter().flat_map(|layer| &layer.rows);
        frozen.filter(|(key, _)| !self.memtable.rows.contains_key(*key)).for_each(|(key, row)| visitor(key, row));
    }

    /// Visits the engine's rows with these ids, which are ascending, less those that a layer in memory mentions. A1
    pub(super) fn visit_stored(
        &self,
        ids: &[RowId],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>),
    ) -> Result<(), ReadError> {
        let base = &self.base;
        let in_memory = |key: &RowKey| {
            let mentions = |layer: &Layer| layer.rows.contains_key(key);
            mentions(&self.memtable) || self.frozen.as_deref().is_some_and(mentions)
        };
        if let Some(layer) = base.adopted {
            base.engine.aside_keys(&base.snapshot, layer, ids, &mut |key| {
                if in_memory(&key) {
                    return Ok(());
                }
                if self.is_unknown(&key) {
                    return Err(ReadError::Damaged(key));
                }
                if let Some(Some(row)) = base.adopted_row(&key)? {
                    visitor(&key, &row);
                }
                Ok(())
            })?;
        }
        base.engine.visit_keys(&base.snapshot, ids, &mut |key| {
            if in_memory(&key) || base.adopted_row(&key)?.is_some() {
                return Ok(());
            }
            if self.is_unknown(&key) {
                return Err(ReadError::Damaged(key));
            }
            match base.row_once(&key)? {
                Some(row) => visitor(&key, &row),
                None => {
                    return Err(ReadError::Failed(format!("the index by id names a row {key:?} that is not there")));
                }
            }
            Ok(())
        })
    }

    /// Visits rows in order, as they are seen; see [`atoll_crdt::RowSource::visit`].
    pub(super) fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        let count = |collection: &CollectionKey| self.count(collection);
        if is_emptied(&self.clears, prefix, &count)? {
            return Ok(());
        }
        self.visit_on(&self.base, None, prefix, from, &mut shown(&self.clears, visitor))
    }

    /// Visits rows as they lie there, on another base. `above` are rows of a layer above these.
    pub(super) fn visit_on<'a>(
        &'a self,
        base: &Base,
        above: Option<MemoryRows<'a>>,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        let from = prefix.max(from);
        let mut memory: Vec<Peekable<MemoryRows<'a>>> = Vec::with_capacity(3);
        memory.extend(above.map(Iterator::peekable));
        memory.push(rows_from(&self.memtable, from).peekable());
        memory.extend(self.frozen.as_ref().map(|layer| rows_from(layer, from).peekable()));
        let stored = Stored::begin(base.engine.rows_from(&base.snapshot, base.adopted, from)?)?;
        let known = |key: RowKey| if self.is_unknown(&key) { Err(ReadError::Damaged(key)) } else { Ok(key) };
        merge(memory, stored, prefix, &known, visitor).map_err(|error| base.engine.suspects.note(error))
    }
}

/// A visitor of rows as they lie there that passes on what is seen of them. A4
pub(super) fn shown<'a>(
    clears: &'a Clears,
    visitor: &'a mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
) -> impl FnMut(&RowKey, &Arc<Row>) -> bool + 'a {
    move |key, row| {
        if !clears.is_under(key) {
            return visitor(key, row);
        }
        clears.shown(key, Arc::clone(row)).is_none_or(|row| visitor(key, &row))
    }
}

/// Whether a set is known to be empty, so that nobody has to pass over what is left of it.
pub(super) fn is_emptied(
    clears: &Clears,
    prefix: &[u8],
    count: &dyn Fn(&CollectionKey) -> Result<u64, ReadError>,
) -> Result<bool, ReadError> {
    if !clears.is_clearing(prefix) {
        return Ok(false);
    }
    // A set's own bytes are those of its member without a name.
    let Ok(key) = RowKey::parse(prefix) else { return Ok(false) };
    let collection = key.collection();
    Ok(collection.data_type() == DataType::Set && count(&collection)? == 0)
}

/// Rows of a layer in memory, in order.
pub(super) type MemoryRows<'a> = Box<dyn Iterator<Item = (&'a RowKey, &'a Arc<Row>)> + 'a>;

fn rows_from<'a>(layer: &'a Layer, from: &[u8]) -> MemoryRows<'a> {
    Box::new(layer.rows.range::<_, [u8]>((Bound::Included(from), Bound::Unbounded)))
}

/// The engine's rows with the next one at hand.
struct Stored {
    rows: StoredRows,
    head: Option<StoredRow>,
}

impl Stored {
    fn begin(rows: StoredRows) -> Result<Self, ReadError> {
        let mut stored = Self { rows, head: None };
        stored.advance()?;
        Ok(stored)
    }

    fn advance(&mut self) -> Result<(), ReadError> {
        self.head = self.rows.next().transpose()?;
        Ok(())
    }
}

/// Visits what the layers together hold; `memory` begins with the newest. A1
fn merge(
    mut memory: Vec<Peekable<MemoryRows<'_>>>,
    mut stored: Stored,
    prefix: &[u8],
    known: &dyn Fn(RowKey) -> Result<RowKey, ReadError>,
    visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
) -> Result<(), ReadError> {
    loop {
        let mut next: Option<(&RowKey, &Arc<Row>)> = None;
        for layer in &mut memory {
            if let Some((key, row)) = layer.peek().copied()
                && next.is_none_or(|(least, _)| key < least)
            {
                next = Some((key, row));
            }
        }
        let stored_key = stored.head.as_ref().map(StoredRow::key_bytes);
        let is_stored = match (next, stored_key) {
            (Some((key, _)), Some(stored_key)) => stored_key < key.as_bytes(),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_stored {
            let Some(head) = stored.head.take() else { return Ok(()) };
            if !head.key_bytes().starts_with(prefix) {
                return Ok(());
            }
            let (key, row) = head.decode()?;
            if !visitor(&known(key)?, &row) {
                return Ok(());
            }
            stored.advance()?;
            continue;
        }
        let Some((key, row)) = next else { return Ok(()) };
        if !key.as_bytes().starts_with(prefix) || (!row.is_empty() && !visitor(key, row)) {
            return Ok(());
        }
        for layer in &mut memory {
            layer.next_if(|(other, _)| *other == key);
        }
        if stored_key.is_some_and(|stored_key| stored_key == key.as_bytes()) {
            stored.advance()?;
        }
    }
}

//! A layer in memory, while it is built: the plainest thing that does what the trait says.
//!
//! **What always holds.** N1: a pass merges what the pinned rows were when it began. N2: what a disk would take time for is
//! not there the first times that it is asked for. N3: a layer that needs a row that has rotted is lost, as on a disk.

use super::store::{DIGESTS, Rows, digest};
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey, RowSource, VersionVector};
use atoll_replication::sketch::{Change, RowId, Sketch};
use atoll_replication::{LayerId, Merged, Pinned, Sides};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How often a pass is asked for until it is done. N2
const PASS_ASKED: u32 = 3;

/// The layer.
#[derive(Debug, Clone)]
pub(super) struct Building {
    layer: LayerId,
    pin: Arc<dyn Pinned>,
    raw: Rows,
    merged: Rows,
    /// What is put is merged with the rows of this pin, under these contexts.
    at_once: Option<(Arc<dyn Pinned>, Sides)>,
    /// The context of the peer under which all is merged that is not to be merged again.
    merged_under: Option<VersionVector>,
    /// Rows that the next pass merges again.
    dirty: BTreeSet<RowKey>,
    bytes: u64,
    asked: u32,
    /// Of the raw rows over the pin.
    sketch: Sketch,
    is_lost: bool,
}

impl Building {
    pub(super) fn new(layer: LayerId, pin: Arc<dyn Pinned>, sides: Option<Sides>) -> Self {
        let (raw, merged) = (Rows::new(), Rows::new());
        let (dirty, sketch) = (BTreeSet::new(), pin.sketch().clone());
        let merged_under = sides.as_ref().map(|sides| sides.theirs.clone());
        let at_once = sides.map(|sides| (Arc::clone(&pin), sides));
        Self { layer, pin, raw, merged, at_once, merged_under, dirty, bytes: 0, asked: 0, sketch, is_lost: false }
    }

    /// A row of the pin that holds. N3
    fn pinned(&mut self, key: &RowKey) -> Option<Arc<Row>> {
        let pin = Arc::clone(&self.pin);
        self.pinned_in(&*pin, key)
    }

    fn pinned_in(&mut self, pin: &dyn Pinned, key: &RowKey) -> Option<Arc<Row>> {
        match pin.row(key) {
            Ok(row) => Some(row.unwrap_or_default()),
            Err(_) => {
                self.is_lost = true;
                None
            }
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub(super) fn put(&mut self, rows: Vec<(RowKey, Arc<Row>)>) {
        for (key, row) in rows {
            self.bytes += (key.as_bytes().len() + row.memory_bytes()) as u64;
            let Some(shown) = self.raw.get(&key).cloned().or_else(|| self.pinned(&key)) else { return };
            let (old, new) = (digest(&key, Some(&shown)), digest(&key, Some(&row)));
            self.sketch.apply(Change::between(DIGESTS.id(&key), old, new));
            if let Some((pin, sides)) = self.at_once.clone() {
                let Some(mine) = self.pinned_in(&*pin, &key) else { return };
                self.merged.insert(key.clone(), Arc::new(mine.merge(&sides.ours, &row, &sides.theirs)));
            }
            self.raw.insert(key, row);
        }
        self.asked = 0;
    }

    pub(super) fn note(&mut self, changed: Vec<RowKey>, pin: Arc<dyn Pinned>) {
        for key in changed {
            if !self.raw.contains_key(&key) {
                let Some(row) = self.pinned(&key) else { return };
                self.raw.insert(key.clone(), row);
            }
            self.dirty.insert(key);
        }
        self.pin = pin;
        self.asked = 0;
    }

    /// What the layer shows over its pin; `None` the first time after something was put. N2
    pub(super) fn over(&mut self) -> Option<Arc<dyn Pinned>> {
        (self.at_once, self.merged_under) = (None, None);
        self.asked += 1;
        if self.asked == 1 || self.is_lost {
            return None;
        }
        Some(Arc::new(Over { pin: Arc::clone(&self.pin), raw: self.raw.clone(), sketch: self.sketch.clone() }))
    }

    pub(super) fn merge(&mut self, sides: Sides) {
        let mut keys = std::mem::take(&mut self.dirty);
        if self.merged_under.as_ref() != Some(&sides.theirs) {
            keys = self.raw.keys().cloned().collect();
        }
        for key in keys {
            let Some(mine) = self.pinned(&key) else { return };
            let merged = mine.merge(&sides.ours, &self.raw[&key], &sides.theirs);
            self.merged.insert(key, Arc::new(merged));
        }
        self.merged_under = Some(sides.theirs);
        self.asked = 0;
    }

    pub(super) fn merged(&mut self) -> Option<Merged> {
        self.asked += 1;
        (self.asked > PASS_ASKED && !self.is_lost).then_some(Merged { layer: self.layer, rows: self.raw.len() as u64 })
    }

    pub(super) fn raw(&self, key: &RowKey) -> Option<Arc<Row>> {
        self.raw.get(key).cloned()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The rows as an entry that names the layer makes them.
    pub(super) fn finish(self) -> (LayerId, Rows) {
        (self.layer, self.merged)
    }
}

/// The raw rows over the pin.
#[derive(Debug)]
struct Over {
    pin: Arc<dyn Pinned>,
    raw: Rows,
    sketch: Sketch,
}

impl RowSource for Over {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        match self.raw.get(key) {
            Some(row) => Ok((!row.is_empty()).then(|| Arc::clone(row))),
            None => self.pin.row(key),
        }
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        let first = prefix.max(from);
        let mut from = first.to_vec();
        let mut rows: BTreeMap<RowKey, Result<Arc<Row>, ReadError>> = BTreeMap::new();
        while let Err(error) = self.pin.visit(prefix, &from, &mut |key, row| {
            rows.insert(key.clone(), Ok(Arc::clone(row)));
            true
        }) {
            let ReadError::Damaged(key) = &error else { return Err(error) };
            from = [key.as_bytes(), &[0]].concat();
            rows.insert(key.clone(), Err(error));
        }
        let raw = self.raw.iter().filter(|(key, _)| key.as_bytes().starts_with(prefix) && key.as_bytes() >= first);
        rows.extend(raw.map(|(key, row)| (key.clone(), Ok(Arc::clone(row)))));
        for (key, row) in rows {
            let row = row?;
            if !row.is_empty() && !visitor(&key, &row) {
                break;
            }
        }
        Ok(())
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        let mut count = 0;
        self.visit(collection.as_bytes(), &[], &mut |_, _| {
            count += 1;
            true
        })?;
        Ok(count)
    }
}

impl Pinned for Over {
    fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    fn rows(&self) -> u64 {
        self.pin.rows()
    }

    fn visit_ids(&self, ids: &[RowId], visitor: &mut dyn FnMut(&RowKey, &Arc<Row>)) -> Result<(), ReadError> {
        let is_wanted = |key: &RowKey| ids.binary_search(&DIGESTS.id(key)).is_ok();
        let raw = self.raw.iter().filter(|(key, row)| !row.is_empty() && is_wanted(key));
        raw.for_each(|(key, row)| visitor(key, row));
        self.pin.visit_ids(ids, &mut |key, row| {
            if !self.raw.contains_key(key) {
                visitor(key, row);
            }
        })
    }
}

//! A store in memory whose crash loses any part of what was not synced.
//!
//! **What always holds.** M1: `synced` is the state after the durable prefix of the entries, `rows` after all of them.
//! M2: a crash keeps the durable prefix and any number of entries after it, and rebuilds the rest by the same replay
//! that a real store does. M3: the sketch is that of `rows`. M4: a layer has effect by the entry that names it, as one change
//! with it; a crash forgets one that is being built.

use super::layer::Building;
use atoll_crdt::{ActorId, CollectionKey, DataType, ReadError, Row, RowKey, RowSource, VersionVector};
use atoll_replication::sketch::{Cell, Change, DigestKey, RowDigest, RowId, Sketch};
use atoll_replication::{
    Adoption, Aside, AsideUse, Entry, LayerId, Merged, Pinned, Position, RecordBytes, Recovered, RowChange, RowChanges,
    Store, row_changes,
};

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};

pub(super) type Rows = BTreeMap<RowKey, Arc<Row>>;

/// Sizes of a sketch: the least, because every pin copies it.
const LEAF_BITS: u32 = 0;

pub(super) static DIGESTS: LazyLock<DigestKey> = LazyLock::new(|| DigestKey::derive(b"sim"));

/// The store.
#[derive(Debug, Clone)]
pub struct MemStore {
    rows: Arc<Rows>,
    sketch: Sketch,
    synced: Rows,
    /// What a restart would find if nothing unsynced survived.
    synced_state: Recovered,
    log: BTreeMap<ActorId, BTreeMap<u64, RecordBytes>>,
    /// Records kept an actor whoever still needs more: the hard cap.
    log_records_max: usize,
    unsynced: VecDeque<(Position, Entry, RowChanges)>,
    last: Position,
    /// The layer that is built.
    building: Option<Building>,
    /// Layers that entries name, with their merged rows.
    layers: BTreeMap<LayerId, Arc<Rows>>,
    next_layer: u64,
    /// How often it is asked until the last one is moved.
    moving: std::cell::Cell<u32>,
    /// Whether the disk takes nothing of a layer in.
    stalled: bool,
    /// What was appended since this was last taken, for the checks.
    appended: Vec<Entry>,
}

impl Default for MemStore {
    fn default() -> Self {
        Self {
            rows: Arc::default(),
            sketch: Sketch::new(LEAF_BITS, 0),
            synced: Rows::new(),
            synced_state: Recovered::default(),
            log: BTreeMap::new(),
            log_records_max: usize::MAX,
            unsynced: VecDeque::new(),
            last: Position::default(),
            building: None,
            layers: BTreeMap::new(),
            next_layer: 0,
            moving: std::cell::Cell::new(0),
            stalled: false,
            appended: Vec::new(),
        }
    }
}

pub(super) fn digest(key: &RowKey, row: Option<&Row>) -> RowDigest {
    row.map_or(RowDigest::ABSENT, |row| DIGESTS.digest(key, row))
}

fn change(rows: &mut Rows, changes: &[RowChange]) {
    for change in changes {
        let replaced = if change.after.is_empty() {
            rows.remove(&change.key)
        } else {
            rows.insert(change.key.clone(), Arc::clone(&change.after))
        };
        assert_eq!(replaced, change.before, "a change says what it replaces");
    }
}

fn sketch_of(rows: &Rows) -> Sketch {
    let mut sketch = Sketch::new(LEAF_BITS, 0);
    for (key, row) in rows {
        sketch.apply(Change::between(DIGESTS.id(key), RowDigest::ABSENT, digest(key, Some(row))));
    }
    sketch
}

impl MemStore {
    /// An empty store that keeps at most so many records an actor.
    #[must_use]
    pub fn keeping(log_records_max: usize) -> Self {
        Self { log_records_max, ..Self::default() }
    }

    /// Makes everything up to `position` durable.
    pub fn sync_to(&mut self, position: Position) {
        while self.unsynced.front().is_some_and(|(at, _, _)| *at <= position) {
            if let Some((_, entry, changes)) = self.unsynced.pop_front() {
                change(&mut self.synced, &changes);
                self.synced_state.replay(&entry);
            }
        }
    }

    fn building(&mut self) -> &mut Building {
        self.building.as_mut().expect("a layer was begun")
    }

    /// The last position appended.
    #[must_use]
    pub fn last(&self) -> Position {
        self.last
    }

    /// How many entries a crash may lose.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Crashes, keeping the first `keep` unsynced entries, and gives what a restart finds. M2
    pub fn crash(&mut self, keep: usize) -> Recovered {
        self.rows = Arc::new(self.synced.clone());
        self.building = None;
        self.moving.set(0);
        let kept: Vec<_> = self.unsynced.drain(..).take(keep).map(|(_, entry, _)| entry).collect();
        let mut recovered = self.synced_state.clone();
        for records in self.log.values_mut() {
            records.retain(|_, record| recovered.clocks.cursor.covers(record.dot()));
        }
        for entry in kept {
            let changes = match &entry {
                Entry::Record(bytes) => {
                    let record = bytes.decode().expect("what was appended reads back");
                    self.log.entry(record.dot.actor).or_default().insert(record.dot.seq, bytes.clone());
                    row_changes(&record, &recovered.clocks.context, self).expect("memory does not fail")
                }
                Entry::Adopt(adoption) => {
                    let adoption = recoded(adoption);
                    let changes = adoption.row_changes(self).expect("memory does not fail");
                    self.with_layer(adoption.layer, changes)
                }
                Entry::Start(_) | Entry::Ceiling(_) => Vec::new(),
            };
            change(Arc::make_mut(&mut self.rows), &changes);
            recovered.replay(&entry);
        }
        self.synced.clone_from(&self.rows);
        self.sketch = sketch_of(&self.rows);
        self.synced_state = recovered.clone();
        self.appended.clear();
        recovered
    }

    /// What an entry changes, together with the layer that it names: its own rows hold where both mention a key. M4
    fn with_layer(&self, layer: Option<LayerId>, changes: RowChanges) -> RowChanges {
        let Some(layer) = layer else { return changes };
        let layer = self.layers.get(&layer).expect("an entry names a layer that is there");
        let mut all: BTreeMap<RowKey, RowChange> = BTreeMap::new();
        for (key, after) in &**layer {
            let before = self.rows.get(key).cloned();
            all.insert(key.clone(), RowChange { key: key.clone(), before, after: Arc::clone(after) });
        }
        all.extend(changes.into_iter().map(|change| (change.key.clone(), change)));
        all.into_values().collect()
    }

    /// The disk takes nothing of a layer in, or goes on.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Every row, entries that are not synced included.
    #[must_use]
    pub fn rows(&self) -> &BTreeMap<RowKey, Arc<Row>> {
        &self.rows
    }

    /// Every row that readers may see.
    #[must_use]
    pub fn synced_rows(&self) -> &BTreeMap<RowKey, Arc<Row>> {
        &self.synced
    }

    /// What was appended since the last call.
    pub fn take_appended(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.appended)
    }

    /// Whether the sketch is that of the rows. M3
    #[must_use]
    pub fn check_sketch(&self) -> bool {
        self.sketch == sketch_of(&self.rows) && self.sketch.check_invariants()
    }
}

/// Through its bytes, as from a journal.
fn recoded(adoption: &Arc<Adoption>) -> Adoption {
    let mut bytes = Vec::new();
    Entry::Adopt(Arc::clone(adoption)).encode(&mut bytes);
    match Entry::decode(&bytes) {
        Ok(Entry::Adopt(back)) => Arc::unwrap_or_clone(back),
        other => panic!("an adoption reads back as {other:?}"),
    }
}

pub(super) fn visit(rows: &Rows, prefix: &[u8], from: &[u8], visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool) {
    let from = prefix.max(from);
    for (key, row) in rows.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded)) {
        if !key.as_bytes().starts_with(prefix) || !visitor(key, row) {
            break;
        }
    }
}

pub(super) fn count(rows: &Rows, collection: &CollectionKey) -> u64 {
    debug_assert_eq!(collection.data_type(), DataType::Set);
    let mut count = 0;
    visit(rows, collection.as_bytes(), collection.as_bytes(), &mut |_, _| {
        count += 1;
        true
    });
    count
}

impl RowSource for MemStore {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.rows.get(key).cloned())
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        visit(&self.rows, prefix, from, visitor);
        Ok(())
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        Ok(count(&self.rows, collection))
    }
}

impl Store for MemStore {
    fn append(&mut self, entry: Entry, changes: RowChanges) -> Position {
        assert!(changes.is_sorted_by(|a, b| a.key < b.key), "changes are in order of keys");
        self.last = Position(self.last.0 + 1);
        let changes = match &entry {
            Entry::Adopt(adoption) if adoption.layer.is_some() => {
                let built = self.building.take().expect("an entry names the layer that was built");
                let (layer, rows) = built.finish();
                assert_eq!(adoption.layer, Some(layer));
                self.layers.insert(layer, Arc::new(rows));
                self.moving.set(40);
                self.with_layer(adoption.layer, changes)
            }
            _ => changes,
        };
        change(Arc::make_mut(&mut self.rows), &changes);
        for change in &changes {
            let (before, after) =
                (digest(&change.key, change.before.as_deref()), digest(&change.key, Some(&change.after)));
            self.sketch.apply(Change::between(DIGESTS.id(&change.key), before, after));
        }
        if let Entry::Record(record) = &entry {
            let dot = record.dot();
            self.log.entry(dot.actor).or_default().insert(dot.seq, record.clone());
        }
        self.appended.push(entry.clone());
        self.unsynced.push_back((self.last, entry, changes));
        self.last
    }

    fn log(&self, actor: ActorId, from: u64, bytes_max: usize) -> Result<Vec<RecordBytes>, ReadError> {
        let Some(records) = self.log.get(&actor) else { return Ok(Vec::new()) };
        let (mut bytes, mut next, mut found) = (0, from, Vec::new());
        for (seq, record) in records.range(from..) {
            bytes += record.as_bytes().len();
            if *seq != next || (bytes > bytes_max && !found.is_empty()) {
                break;
            }
            found.push(record.clone());
            next += 1;
        }
        Ok(found)
    }

    fn log_start(&self, actor: ActorId) -> Option<u64> {
        self.log.get(&actor).and_then(|records| records.first_key_value()).map(|(seq, _)| *seq)
    }

    fn truncate(&mut self, stable: &VersionVector) -> bool {
        let mut dropped = false;
        for (actor, records) in &mut self.log {
            while let Some((seq, _)) = records.first_key_value() {
                let durable = self.synced_state.clocks.cursor.get(*actor) >= *seq;
                if !durable || (*seq > stable.get(*actor) && records.len() <= self.log_records_max) {
                    break;
                }
                records.pop_first();
                dropped = true;
            }
        }
        dropped
    }

    fn synced_root(&self) -> Cell {
        sketch_of(&self.synced).root()
    }

    fn pin(&mut self) -> Arc<dyn Pinned> {
        Arc::new(Pin { rows: Arc::clone(&self.rows), sketch: self.sketch.clone() })
    }
}

impl Aside for MemStore {
    fn begin_aside(&mut self, pinned: Arc<dyn Pinned>) {
        assert_eq!(self.moving.get(), 0, "the last layer is moved before another is begun");
        self.next_layer += 1;
        self.building = Some(Building::new(LayerId(self.next_layer), pinned));
    }

    fn put_aside(&mut self, rows: Vec<(RowKey, Arc<Row>)>) {
        self.building().put(rows);
    }

    fn note_aside(&mut self, changed: Vec<RowKey>, pinned: Arc<dyn Pinned>) {
        self.building().note(changed, pinned);
    }

    fn over_aside(&mut self) -> Option<Arc<dyn Pinned>> {
        let rows = self.building().over()?;
        let sketch = sketch_of(&rows);
        Some(Arc::new(Pin { rows: Arc::new(rows), sketch }))
    }

    fn merge_aside(&mut self, context: VersionVector, theirs: VersionVector) {
        self.building().merge(&context, &theirs);
    }

    fn merged_aside(&mut self) -> Option<Merged> {
        self.building().merged()
    }

    fn aside_row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.building.as_ref().and_then(|building| building.raw(key)))
    }

    fn aside_use(&self) -> AsideUse {
        let bytes = self.building.as_ref().map_or(0, Building::bytes);
        AsideUse { bytes, waiting_bytes: if self.stalled { bytes as usize } else { 0 } }
    }

    fn drop_aside(&mut self) {
        self.building = None;
    }

    fn is_moving_aside(&self) -> bool {
        self.moving.set(self.moving.get().saturating_sub(1));
        self.moving.get() > 0
    }
}

/// The rows at one moment.
#[derive(Debug)]
struct Pin {
    rows: Arc<Rows>,
    sketch: Sketch,
}

impl RowSource for Pin {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.rows.get(key).cloned())
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        visit(&self.rows, prefix, from, visitor);
        Ok(())
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        Ok(count(&self.rows, collection))
    }
}

impl Pinned for Pin {
    fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    fn rows(&self) -> u64 {
        self.rows.len() as u64
    }

    fn visit_ids(&self, ids: &[RowId], visitor: &mut dyn FnMut(&RowKey, &Arc<Row>)) -> Result<(), ReadError> {
        for (key, row) in &*self.rows {
            if ids.binary_search(&DIGESTS.id(key)).is_ok() {
                visitor(key, row);
            }
        }
        Ok(())
    }
}

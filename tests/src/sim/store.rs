//! A store in memory whose crash loses any part of what was not synced.
//!
//! **What always holds.** M1: `synced` is the state after the durable prefix of the entries, `rows` after all of them.
//! M2: a crash keeps the durable prefix and any number of entries after it, and rebuilds the rest by the same replay
//! that a real store does. M3: the sketch is that of `rows`, and `synced_root` the sum over `synced`. M4: nothing of
//! these changes but with `version`. M5: a layer has effect by the entry that names it, as one change with it; a crash
//! forgets one that is being built. M6: a row that has rotted is an error to whoever reads it, here and in every pin; what it
//! held is kept for the checks alone, and goes on being what it should be. M7: what a pending clear covers lies in `rows`
//! and `synced` until a step comes by it, and is not seen; steps are as durable as `synced`, and how far they are is forgotten by a crash.

mod clearing;

use self::clearing::begun_anew;
use super::layer::Building;
use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, ReadError, Row, RowKey, RowSource, VersionVector};
use atoll_replication::sketch::{Cell, Change, DigestKey, RowDigest, RowId, Sketch};
use atoll_replication::{
    Adoption, Aside, AsideUse, Changes, Cleared, Clears, Entry, Holes, LayerId, Merged, Pinned, Position, RecordBytes,
    Recovered, RowChange, RowChanges, Sides, Store, replayed_changes, row_changes,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock, Mutex};

pub(super) type Rows = BTreeMap<RowKey, Arc<Row>>;

/// Leaves of a sketch: the least, because every pin copies it.
const LEAF_BITS: u32 = 0;

pub(super) static DIGESTS: LazyLock<DigestKey> = LazyLock::new(|| DigestKey::derive(b"sim"));

/// The store.
#[derive(Debug, Clone)]
pub struct MemStore {
    rows: Arc<Rows>,
    /// The key of every id that was ever seen.
    ids: Arc<BTreeMap<RowId, RowKey>>,
    sketch: Sketch,
    /// Cells of its prefix; few make it fall back to comparing everything.
    prefix_cells: usize,
    synced: Rows,
    /// The sum over `synced`.
    synced_root: Cell,
    /// Moves with every change of `rows` and `synced`.
    version: u64,
    /// How often records were dropped because all had them, and whoever needed them.
    pub dropped: (u64, u64),
    /// Up to where records were dropped because all had them, since this was last taken.
    dropped_as_held: VersionVector,
    /// What a restart would find if nothing unsynced survived.
    synced_state: Recovered,
    log: BTreeMap<ActorId, BTreeMap<u64, RecordBytes>>,
    /// Records kept an actor whoever still needs more: the hard cap.
    log_records_max: usize,
    unsynced: VecDeque<(Position, Entry, Changes)>,
    /// Pending clears, as the replica sees them, and readers. M7
    clears: Clears,
    synced_clears: Clears,
    /// A clear that did not say rightly how many rows it leaves.
    miscounted: Option<String>,
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
    full: bool,
    /// What was appended since this was last taken, for the checks.
    appended: Vec<Entry>,
    /// Rows that have rotted, as reads see it, and as a crash would find it. M5
    rot: Arc<Mutex<Rot>>,
    rot_on_disk: BTreeMap<RowKey, IsBehind>,
    /// What of it was found.
    holes: Arc<Holes>,
}

/// Whether a replay went past a row that it could not read: nobody knows what it should hold.
type IsBehind = bool;

/// Rows that cannot be read.
#[derive(Debug, Clone, Default)]
struct Rot {
    rows: BTreeMap<RowKey, IsBehind>,
    /// Those of them that a read came upon.
    found: BTreeSet<RowKey>,
}

/// M5
fn check(rot: &Mutex<Rot>, key: &RowKey) -> Result<(), ReadError> {
    let mut rot = rot.lock().expect("nobody panics");
    if !rot.rows.contains_key(key) {
        return Ok(());
    }
    rot.found.insert(key.clone());
    Err(ReadError::Damaged(key.clone()))
}

impl Default for MemStore {
    fn default() -> Self {
        Self {
            rows: Arc::default(),
            ids: Arc::default(),
            sketch: Sketch::new(LEAF_BITS, 0),
            prefix_cells: 0,
            synced: Rows::new(),
            synced_root: Cell::EMPTY,
            version: 0,
            dropped: (0, 0),
            dropped_as_held: VersionVector::new(),
            synced_state: Recovered::default(),
            log: BTreeMap::new(),
            log_records_max: usize::MAX,
            unsynced: VecDeque::new(),
            clears: Clears::default(),
            synced_clears: Clears::default(),
            miscounted: None,
            last: Position::default(),
            building: None,
            layers: BTreeMap::new(),
            next_layer: 0,
            moving: std::cell::Cell::new(0),
            stalled: false,
            full: false,
            appended: Vec::new(),
            rot: Arc::default(),
            rot_on_disk: BTreeMap::new(),
            holes: Arc::default(),
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
        assert!(change.is_repair() || replaced == change.before, "a change says what it replaces");
    }
}

/// What changes add to a sum over rows of which none has rotted.
fn sums(changes: &[RowChange]) -> impl Iterator<Item = Change> + '_ {
    changes.iter().map(|change| {
        let (before, after) = (digest(&change.key, change.before.as_deref()), digest(&change.key, Some(&change.after)));
        Change::between(DIGESTS.id(&change.key), before, after)
    })
}

fn sketch_of(rows: &Rows, rot: &BTreeMap<RowKey, IsBehind>, prefix_cells: usize) -> Sketch {
    let mut sketch = Sketch::new(LEAF_BITS, prefix_cells);
    let behind = |key: &RowKey| rot.get(key) == Some(&true);
    for (key, row) in rows.iter().filter(|(key, _)| !behind(key)) {
        sketch.apply(Change::between(DIGESTS.id(key), RowDigest::ABSENT, digest(key, Some(row))));
    }
    for key in rot.keys().filter(|key| behind(key)) {
        sketch.apply(Change::between(DIGESTS.id(key), RowDigest::ABSENT, unknown(key)));
    }
    sketch
}

/// What a sketch has for a row of which nobody knows what it should hold.
fn unknown(key: &RowKey) -> RowDigest {
    DIGESTS.digest_of_bytes(key.as_bytes(), b"unknown")
}

impl MemStore {
    /// An empty store that keeps at most so many records an actor, and so many cells of a sketch.
    #[must_use]
    pub fn keeping(log_records_max: usize, prefix_cells: usize) -> Self {
        let sketch = Sketch::new(LEAF_BITS, prefix_cells);
        Self { sketch, prefix_cells, log_records_max, ..Self::default() }
    }

    /// The disk as it is now, and what a process that starts on it finds.
    #[must_use]
    pub fn image(&self) -> (Self, Recovered) {
        let mut image = self.clone();
        let recovered = image.crash(0);
        (image, recovered)
    }

    /// Cells of its sketch's prefix.
    #[must_use]
    pub fn prefix_cells(&self) -> usize {
        self.prefix_cells
    }

    /// A number that is another one after every change. M4
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Makes everything up to `position` durable.
    pub fn sync_to(&mut self, position: Position) {
        while self.unsynced.front().is_some_and(|(at, _, _)| *at <= position) {
            if let Some((_, entry, Changes { rows: changes, clears })) = self.unsynced.pop_front() {
                self.version += 1;
                clears.iter().for_each(|clear| self.synced_clears.add(&clear.op));
                change(&mut self.synced, &changes);
                let mut rotten = false;
                for change in &changes {
                    rotten |= self.rot_on_disk.remove(&change.key).is_some() || change.is_repair();
                }
                if rotten || !self.rot_on_disk.is_empty() {
                    self.synced_root = sketch_of(&self.synced, &self.rot_on_disk, 0).root();
                } else {
                    sums(&changes).for_each(|change| self.synced_root += Cell::of(change));
                }
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
        self.version += 1;
        self.rows = Arc::new(self.synced.clone());
        self.building = None;
        self.moving.set(0);
        self.synced_clears = begun_anew(&self.synced_clears);
        self.clears = self.synced_clears.clone();
        self.rot.lock().expect("nobody panics").rows.clear();
        let kept: Vec<_> = self.unsynced.drain(..).take(keep).map(|(_, entry, _)| entry).collect();
        let mut recovered = self.synced_state.clone();
        let mut rot = self.rot_on_disk.clone();
        for records in self.log.values_mut() {
            records.retain(|_, record| recovered.clocks.cursor.covers(record.dot()));
        }
        for entry in kept {
            let changes = match &entry {
                Entry::Record(bytes) => {
                    let record = bytes.decode().expect("what was appended reads back");
                    self.log.entry(record.dot.actor).or_default().insert(record.dot.seq, bytes.clone());
                    self.rot.lock().expect("nobody panics").rows = rot.clone();
                    let (changes, passed) = replayed_changes(&record, &recovered.clocks.context, self, usize::MAX)
                        .expect("memory does not fail");
                    rot.extend(passed.into_iter().map(|key| (key, true)));
                    // What is behind goes on being what it should be, for the checks.
                    self.rot.lock().expect("nobody panics").rows.clear();
                    let all = row_changes(&record, &recovered.clocks.context, self).expect("memory does not fail");
                    assert!(all.iter().filter(|change| !rot.contains_key(&change.key)).eq(&changes.rows));
                    all
                }
                Entry::Adopt(adoption) => {
                    let adoption = recoded(adoption);
                    let changes = adoption.row_changes(self).expect("memory does not fail");
                    let changes = self.with_layer(adoption.layer, changes);
                    for change in &changes {
                        rot.remove(&change.key);
                    }
                    changes
                }
                Entry::Start(_) | Entry::Ceiling(_) => Vec::new(),
            };
            let changes = self.lying_before(changes);
            change(Arc::make_mut(&mut self.rows), &changes);
            recovered.replay(&entry);
        }
        self.synced.clone_from(&self.rows);
        self.sketch = sketch_of(&self.rows, &rot, self.prefix_cells);
        self.synced_root = self.sketch.root();
        self.rot_on_disk.clone_from(&rot);
        // Whoever starts after a crash reads every row.
        *self.rot.lock().expect("nobody panics") = Rot { found: rot.keys().cloned().collect(), rows: rot };
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
            // What is damaged here is repaired by the layer.
            let empty = || Some(Arc::new(Row::empty()));
            let before = if self.has_rotted(key) { empty() } else { self.rows.get(key).cloned() };
            all.insert(key.clone(), RowChange { key: key.clone(), before, after: Arc::clone(after) });
        }
        all.extend(changes.into_iter().map(|change| (change.key.clone(), change)));
        all.into_values().collect()
    }

    /// The disk takes nothing of a layer in, or goes on.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// The disk has no room for a layer, or has again.
    pub fn fill(&mut self, full: bool) {
        self.full = full;
    }

    /// Every row as it lies there, entries that are not synced included.
    #[must_use]
    pub fn rows(&self) -> &BTreeMap<RowKey, Arc<Row>> {
        &self.rows
    }

    /// Up to where records were dropped because all had them, since the last call.
    pub fn take_dropped(&mut self) -> VersionVector {
        std::mem::take(&mut self.dropped_as_held)
    }

    /// What was appended since the last call.
    pub fn take_appended(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.appended)
    }

    /// Replaces a row behind the replica's back, as a mistake of a program or a disk would.
    pub fn tamper(&mut self, key: &RowKey, row: Row) {
        let row = Arc::new(row);
        Arc::make_mut(&mut self.rows).insert(key.clone(), Arc::clone(&row));
        self.synced.insert(key.clone(), row);
        self.sketch = sketch_of(&self.rows, &BTreeMap::new(), self.prefix_cells);
        self.synced_root = self.sketch.root();
    }

    /// Whether the sketch is that of the rows. M3
    #[must_use]
    pub fn check_sketch(&self) -> bool {
        let rot = self.rot.lock().expect("nobody panics");
        self.sketch == sketch_of(&self.rows, &rot.rows, self.prefix_cells)
            && self.sketch.check_invariants()
            && self.synced_root == sketch_of(&self.synced, &self.rot_on_disk, 0).root()
    }

    /// A row rots on the disk; `false` when it is in memory still, or rotten.
    pub fn rots(&mut self, key: &RowKey) -> bool {
        let in_memory =
            self.unsynced.iter().any(|(_, _, changes)| changes.rows.iter().any(|change| change.key == *key));
        if in_memory || !self.rows.contains_key(key) || self.rot_on_disk.contains_key(key) {
            return false;
        }
        self.version += 1;
        self.rot_on_disk.insert(key.clone(), false);
        self.rot.lock().expect("nobody panics").rows.insert(key.clone(), false);
        true
    }

    /// Whether a row cannot be read.
    #[must_use]
    pub fn has_rotted(&self, key: &RowKey) -> bool {
        self.rot.lock().expect("nobody panics").rows.contains_key(key)
    }

    /// Whether any row cannot be read, or could not after a crash.
    #[must_use]
    pub fn has_rot(&self) -> bool {
        !self.rot_on_disk.is_empty() || !self.rot.lock().expect("nobody panics").rows.is_empty()
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

fn visit(
    (rows, clears): (&Rows, &Clears),
    rot: &Mutex<Rot>,
    (prefix, from): (&[u8], &[u8]),
    visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
) -> Result<(), ReadError> {
    let from = prefix.max(from);
    for (key, row) in rows.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded)) {
        if !key.as_bytes().starts_with(prefix) {
            break;
        }
        check(rot, key)?;
        if clears.shown(key, Arc::clone(row)).is_some_and(|row| !visitor(key, &row)) {
            break;
        }
    }
    Ok(())
}

fn count(rows: &Rows, clears: &Clears, collection: &CollectionKey) -> u64 {
    debug_assert_eq!(collection.data_type(), DataType::Set);
    let prefix = collection.as_bytes();
    let from = rows.range::<[u8], _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
    let under = from.take_while(|(key, _)| key.as_bytes().starts_with(prefix));
    under.filter(|(key, row)| clears.shown(key, Arc::clone(row)).is_some()).count() as u64
}

impl RowSource for MemStore {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        check(&self.rot, key)?;
        Ok(self.rows.get(key).and_then(|row| self.clears.shown(key, Arc::clone(row))))
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        visit((&self.rows, &self.clears), &self.rot, (prefix, from), visitor)
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        Ok(count(&self.rows, &self.clears, collection))
    }

    fn is_clearing(&self, prefix: &[u8]) -> bool {
        self.clears.is_clearing(prefix)
    }
}

impl Store for MemStore {
    fn append_clearing(&mut self, entry: Entry, changes: RowChanges, clears: Vec<Cleared>) -> Position {
        assert!(changes.is_sorted_by(|a, b| a.key < b.key), "changes are in order of keys");
        self.version += 1;
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
        let changes = self.lying_before(changes);
        for change in &changes {
            let rot = self.rot.lock().expect("nobody panics").rows.remove(&change.key);
            assert_eq!(rot.is_some(), change.is_repair(), "what is damaged is repaired, not written over");
            let held = self.rows.get(&change.key).map(|row| &**row);
            let before = if rot == Some(true) { unknown(&change.key) } else { digest(&change.key, held) };
            let after = digest(&change.key, Some(&change.after));
            self.sketch.apply(Change::between(DIGESTS.id(&change.key), before, after));
            let id = DIGESTS.id(&change.key);
            if !self.ids.contains_key(&id) {
                Arc::make_mut(&mut self.ids).insert(id, change.key.clone());
            }
        }
        change(Arc::make_mut(&mut self.rows), &changes);
        if let Entry::Record(record) = &entry {
            let dot = record.dot();
            self.log.entry(dot.actor).or_default().insert(dot.seq, record.clone());
        }
        for clear in &clears {
            self.clears.add(&clear.op);
            let Ok(key) = RowKey::parse(&clear.op.prefix) else { continue };
            if let (DataType::Set, Some(live)) = (key.data_type(), clear.live) {
                let counted = count(&self.rows, &self.clears, &key.collection());
                // What has rotted is in no count of what was read.
                if counted != live && !self.has_rot() {
                    self.miscounted = Some(format!("{counted} rows are left of {key:?}, the record says {live}"));
                }
            }
        }
        self.appended.push(entry.clone());
        self.unsynced.push_back((self.last, entry, Changes { rows: changes, clears }));
        self.last
    }

    fn clearing(&self) -> usize {
        self.clears.len()
    }

    fn clear_step(&mut self, rows_max: usize) -> Result<bool, ReadError> {
        self.step_of_clears(rows_max)
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
                let stable = *seq <= stable.get(*actor);
                if !durable || (!stable && records.len() <= self.log_records_max) {
                    break;
                }
                *if stable { &mut self.dropped.0 } else { &mut self.dropped.1 } += 1;
                if stable {
                    self.dropped_as_held.include(Dot::new(*actor, *seq));
                }
                records.pop_first();
                dropped = true;
            }
        }
        dropped
    }

    fn synced_root(&self) -> Cell {
        self.synced_root
    }

    fn scrub(&self) {
        let mut rot = self.rot.lock().expect("nobody panics");
        rot.found = rot.rows.keys().cloned().collect();
    }

    fn holes(&mut self) -> Arc<Holes> {
        let mut rot = self.rot.lock().expect("nobody panics");
        let Rot { rows, found } = &mut *rot;
        found.retain(|key| rows.contains_key(key));
        if !self.holes.keys().eq(found.iter()) {
            self.holes = Arc::new(found.iter().map(|key| (key.clone(), DIGESTS.id(key))).collect());
        }
        Arc::clone(&self.holes)
    }

    fn pin(&mut self) -> Arc<dyn Pinned> {
        Arc::new(Pin {
            rows: Arc::clone(&self.rows),
            ids: Arc::clone(&self.ids),
            clears: self.clears.clone(),
            rot: Arc::clone(&self.rot),
            sketch: self.sketch.clone(),
        })
    }
}

impl Aside for MemStore {
    fn begin_aside(&mut self, pinned: Arc<dyn Pinned>, sides: Option<Sides>) {
        assert_eq!(self.moving.get(), 0, "the last layer is moved before another is begun");
        self.next_layer += 1;
        self.building = Some(Building::new(LayerId(self.next_layer), pinned, sides));
    }

    fn put_aside(&mut self, rows: Vec<(RowKey, Arc<Row>)>) {
        self.building().put(rows);
    }

    fn note_aside(&mut self, changed: Vec<RowKey>, pinned: Arc<dyn Pinned>) {
        self.building().note(changed, pinned);
    }

    fn over_aside(&mut self) -> Option<Arc<dyn Pinned>> {
        self.building().over()
    }

    fn merge_aside(&mut self, sides: Sides) {
        self.building().merge(sides);
    }

    fn merged_aside(&mut self) -> Option<Merged> {
        self.building().merged()
    }

    fn aside_row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.building.as_ref().and_then(|building| building.raw(key)))
    }

    fn aside_use(&self) -> AsideUse {
        let bytes = self.building.as_ref().map_or(0, Building::bytes);
        let is_lost = self.building.as_ref().is_some_and(Building::is_lost);
        AsideUse { bytes, waiting_bytes: if self.stalled { bytes as usize } else { 0 }, is_lost, is_full: self.full }
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
    ids: Arc<BTreeMap<RowId, RowKey>>,
    clears: Clears,
    rot: Arc<Mutex<Rot>>,
    sketch: Sketch,
}

impl RowSource for Pin {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        check(&self.rot, key)?;
        Ok(self.rows.get(key).and_then(|row| self.clears.shown(key, Arc::clone(row))))
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        visit((&self.rows, &self.clears), &self.rot, (prefix, from), visitor)
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        Ok(count(&self.rows, &self.clears, collection))
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
        for key in ids.iter().filter_map(|id| self.ids.get(id)) {
            if let Some(row) = self.rows.get(key) {
                check(&self.rot, key)?;
                if let Some(row) = self.clears.shown(key, Arc::clone(row)) {
                    visitor(key, &row);
                }
            }
        }
        Ok(())
    }
}

//! A store in memory whose crash loses any part of what was not synced.
//!
//! **What always holds.** M1: `synced` is the state after the durable prefix of the entries, `rows` after all of them.
//! M2: a crash keeps the durable prefix and any number of entries after it, and rebuilds the rest by the same replay
//! that a real store does. M3: the sketch is that of `rows`, and `synced_root` the sum over `synced`. M4: nothing of
//! these changes but with `version`.

use atoll_crdt::{ActorId, CollectionKey, DataType, ReadError, Row, RowKey, RowSource, VersionVector};
use atoll_replication::sketch::{Cell, Change, DigestKey, RowDigest, RowId, Sketch};
use atoll_replication::{
    Adoption, Entry, Pinned, Position, RecordBytes, Recovered, RowChange, RowChanges, Store, row_changes,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, LazyLock};

type Rows = BTreeMap<RowKey, Arc<Row>>;

/// Leaves of a sketch: the least, because every pin copies it.
const LEAF_BITS: u32 = 0;

static DIGESTS: LazyLock<DigestKey> = LazyLock::new(|| DigestKey::derive(b"sim"));

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
    /// What a restart would find if nothing unsynced survived.
    synced_state: Recovered,
    log: BTreeMap<ActorId, BTreeMap<u64, RecordBytes>>,
    /// Records kept an actor whoever still needs more: the hard cap.
    log_records_max: usize,
    unsynced: VecDeque<(Position, Entry, RowChanges)>,
    last: Position,
    /// What was appended since this was last taken, for the checks.
    appended: Vec<Entry>,
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
            synced_state: Recovered::default(),
            log: BTreeMap::new(),
            log_records_max: usize::MAX,
            unsynced: VecDeque::new(),
            last: Position::default(),
            appended: Vec::new(),
        }
    }
}

fn digest(key: &RowKey, row: Option<&Row>) -> RowDigest {
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

/// What changes add to a sketch.
fn sums(changes: &[RowChange]) -> impl Iterator<Item = Change> + '_ {
    changes.iter().map(|change| {
        let (before, after) = (digest(&change.key, change.before.as_deref()), digest(&change.key, Some(&change.after)));
        Change::between(DIGESTS.id(&change.key), before, after)
    })
}

fn sketch_of(rows: &Rows, prefix_cells: usize) -> Sketch {
    let mut sketch = Sketch::new(LEAF_BITS, prefix_cells);
    for (key, row) in rows {
        sketch.apply(Change::between(DIGESTS.id(key), RowDigest::ABSENT, digest(key, Some(row))));
    }
    sketch
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
            if let Some((_, entry, changes)) = self.unsynced.pop_front() {
                self.version += 1;
                change(&mut self.synced, &changes);
                for change in sums(&changes) {
                    self.synced_root += Cell::of(change);
                }
                self.synced_state.replay(&entry);
            }
        }
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
                Entry::Adopt(adoption) => recoded(adoption).row_changes(self).expect("memory does not fail"),
                Entry::Start(_) | Entry::Ceiling(_) => Vec::new(),
            };
            change(Arc::make_mut(&mut self.rows), &changes);
            recovered.replay(&entry);
        }
        self.synced.clone_from(&self.rows);
        self.sketch = sketch_of(&self.rows, self.prefix_cells);
        self.synced_root = self.sketch.root();
        self.synced_state = recovered.clone();
        self.appended.clear();
        recovered
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

    /// Replaces a row behind the replica's back, as a mistake of a program or a disk would.
    pub fn tamper(&mut self, key: &RowKey, row: Row) {
        let row = Arc::new(row);
        Arc::make_mut(&mut self.rows).insert(key.clone(), Arc::clone(&row));
        self.synced.insert(key.clone(), row);
        self.sketch = sketch_of(&self.rows, self.prefix_cells);
    }

    /// Whether the sketch is that of the rows. M3
    #[must_use]
    pub fn check_sketch(&self) -> bool {
        self.sketch == sketch_of(&self.rows, self.prefix_cells)
            && self.sketch.check_invariants()
            && self.synced_root == sketch_of(&self.synced, 0).root()
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

fn visit(rows: &Rows, prefix: &[u8], from: &[u8], visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool) {
    let from = prefix.max(from);
    for (key, row) in rows.range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded)) {
        if !key.as_bytes().starts_with(prefix) || !visitor(key, row) {
            break;
        }
    }
}

fn count(rows: &Rows, collection: &CollectionKey) -> u64 {
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
        change(Arc::make_mut(&mut self.rows), &changes);
        self.version += 1;
        for (change, row) in sums(&changes).zip(&changes) {
            self.sketch.apply(change);
            if !self.ids.contains_key(&change.id) {
                Arc::make_mut(&mut self.ids).insert(change.id, row.key.clone());
            }
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
                let stable = *seq <= stable.get(*actor);
                if !durable || (!stable && records.len() <= self.log_records_max) {
                    break;
                }
                *if stable { &mut self.dropped.0 } else { &mut self.dropped.1 } += 1;
                records.pop_first();
                dropped = true;
            }
        }
        dropped
    }

    fn synced_root(&self) -> Cell {
        self.synced_root
    }

    fn pin(&mut self) -> Arc<dyn Pinned> {
        Arc::new(Pin { rows: Arc::clone(&self.rows), ids: Arc::clone(&self.ids), sketch: self.sketch.clone() })
    }
}

/// The rows at one moment.
#[derive(Debug)]
struct Pin {
    rows: Arc<Rows>,
    ids: Arc<BTreeMap<RowId, RowKey>>,
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

    fn visit_ids(&self, ids: &[RowId], visitor: &mut dyn FnMut(&RowKey, &Arc<Row>)) -> Result<(), ReadError> {
        for key in ids.iter().filter_map(|id| self.ids.get(id)) {
            if let Some(row) = self.rows.get(key) {
                visitor(key, row);
            }
        }
        Ok(())
    }
}

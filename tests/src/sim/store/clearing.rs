//! Clears whose rows are removed in steps, in the store in memory (M7).

use super::{DIGESTS, MemStore, Rot, Rows, change, check, count, digest, sketch_of, unknown, visit};
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey, RowSource};
use atoll_replication::sketch::{Cell, Change};
use atoll_replication::{Clears, RowChanges};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

impl MemStore {
    /// Every row as it is seen, entries that are not synced included.
    #[must_use]
    pub fn seen_rows(&self) -> BTreeMap<RowKey, Arc<Row>> {
        self.rows.keys().filter_map(|key| Some((key.clone(), self.seen(key)?))).collect()
    }

    /// What a clear said wrongly of the rows that it leaves.
    #[must_use]
    pub fn miscounted(&self) -> Option<&str> {
        self.miscounted.as_deref()
    }

    /// A row as the replica sees it.
    #[must_use]
    pub fn seen(&self, key: &RowKey) -> Option<Arc<Row>> {
        self.rows.get(key).and_then(|row| self.clears.shown(key, Arc::clone(row)))
    }

    /// A row as readers see it.
    #[must_use]
    pub fn seen_synced(&self, key: &RowKey) -> Option<Arc<Row>> {
        self.synced.get(key).and_then(|row| self.synced_clears.shown(key, Arc::clone(row)))
    }

    /// The rows of one thing as readers see them.
    #[must_use]
    pub fn seen_synced_under(&self, of: &CollectionKey) -> Vec<(RowKey, Arc<Row>)> {
        let keys = self.synced.keys().filter(|key| key.as_bytes().starts_with(of.as_bytes()));
        keys.filter_map(|key| Some((key.clone(), self.seen_synced(key)?))).collect()
    }

    /// Has changes say what lies there before them.
    pub(super) fn lying_before(&self, mut changes: RowChanges) -> RowChanges {
        for change in changes.iter_mut().filter(|change| !change.is_repair() && self.clears.is_under(&change.key)) {
            change.before = self.rows.get(&change.key).cloned();
        }
        changes
    }

    /// A hole whose row a clear would have changed: what it should hold is that, for the checks, and nobody knows. M6, M7
    pub(super) fn give_up(&mut self, key: &RowKey) {
        let was_behind = self.rot_on_disk.insert(key.clone(), true) == Some(true);
        self.rot.lock().expect("nobody panics").rows.insert(key.clone(), true);
        let held = self.rows.get(key).map(|row| &**row);
        let before = if was_behind { unknown(key) } else { digest(key, held) };
        self.sketch.apply(Change::between(DIGESTS.id(key), before, unknown(key)));
        let (seen, synced) = (self.seen(key), self.seen_synced(key));
        let set = |rows: &mut Rows, row: Option<Arc<Row>>| {
            match row {
                Some(row) => rows.insert(key.clone(), row),
                None => rows.remove(key),
            };
        };
        set(Arc::make_mut(&mut self.rows), seen);
        set(&mut self.synced, synced);
        self.synced_root = sketch_of(&self.synced, &self.rot_on_disk, 0).root();
    }

    /// A step over synced rows; see [`atoll_replication::Store::clear_step`]. M7
    pub(super) fn step_of_clears(&mut self, rows_max: usize) -> Result<bool, ReadError> {
        let mut clears = self.synced_clears.clone();
        let unsynced = &self.unsynced;
        let waits =
            |key: &RowKey| unsynced.iter().any(|(_, _, changes)| changes.rows.iter().any(|change| change.key == *key));
        let is_hole = |key: &RowKey| self.holes.contains_key(key);
        let step = clears.step(&Lying(&self.synced, &self.rot), rows_max, &waits, &is_hole)?;
        self.version += 1;
        for row in &step.rows {
            let (before, after) = (digest(&row.key, row.before.as_deref()), digest(&row.key, Some(&row.after)));
            let moved = Change::between(DIGESTS.id(&row.key), before, after);
            self.sketch.apply(moved);
            self.synced_root += Cell::of(moved);
        }
        change(&mut self.synced, &step.rows);
        change(Arc::make_mut(&mut self.rows), &step.rows);
        for key in &step.passed {
            self.give_up(key);
        }
        self.synced_clears = clears;
        self.clears = self.synced_clears.clone();
        let unsynced = self.unsynced.iter().flat_map(|(_, _, changes)| &changes.clears);
        unsynced.for_each(|clear| self.clears.add(&clear.op));
        Ok(step.moved)
    }
}

/// Pending clears as a restart finds them.
pub(super) fn begun_anew(clears: &Clears) -> Clears {
    let mut anew = Clears::default();
    clears.iter().for_each(|op| anew.add(op));
    anew
}

/// Synced rows as they lie there.
struct Lying<'a>(&'a Rows, &'a Mutex<Rot>);

impl RowSource for Lying<'_> {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        check(self.1, key)?;
        Ok(self.0.get(key).cloned())
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        visit((self.0, &Clears::default()), self.1, (prefix, from), visitor)
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        Ok(count(self.0, &Clears::default(), collection))
    }
}

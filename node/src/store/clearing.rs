//! Clears of many rows, in the store: what lies there still, and how it goes.
//!
//! **How it goes.** An entry with such a clear adds it to what the replica reads by, and to what readers read by when it
//! settles. From then on steps write rows as they are seen: into the memtable, like any change, though no entry of the
//! journal says so, and the next checkpoint takes them to the engine. Each checkpoint says which clears are pending; after a crash they
//! begin anew, on rows of which some are done.
//!
//! **What always holds.** J1: a step changes what lies there, never what is read. J2: it changes the sketch, the number of rows and every sum
//! over them that has the row in it: the synced one, and those that unsynced entries remember. A row that such an entry has changed is
//! left until that has settled. J3: a step never waits: while a checkpoint is written and the memtable is full, there is none.

use super::state::State;
use atoll_crdt::{CollectionKey, DataType, ReadError, Row, RowKey, RowSource};
use atoll_replication::sketch::Cell;
use atoll_replication::{Cleared, Clears, RowChange, RowChanges};
use std::sync::Arc;
use std::time::Instant;

impl State {
    /// How many clears have rows lying there.
    pub(super) fn clearing(&self) -> usize {
        self.clears.len()
    }

    /// One step of what has settled; whether it got further. J1
    ///
    /// # Errors
    /// The storage failed.
    pub(super) fn clear_step(&mut self, rows_max: usize) -> Result<bool, ReadError> {
        let is_full = self.flusher.is_running() && self.layers.memtable.bytes() >= self.rule.memtable_bytes;
        if self.layers.clears.is_empty() || self.ahead.is_some() || is_full {
            return Ok(false); // J3
        }
        let mut clears = Clears::clone(&self.layers.clears);
        let unsynced = &self.overlay.rows;
        let (waits, is_hole) = (|key: &RowKey| unsynced.contains_key(key), |key: &RowKey| self.holes.contains_key(key));
        let step = clears.step(&Lying(self), rows_max, &waits, &is_hole)?;
        self.write_step(step.rows);
        self.give_up(&step.passed);
        self.layers.clears = Arc::new(clears);
        self.clears = Clears::clone(&self.layers.clears);
        let unsynced = self.overlay.entries.iter().flat_map(|entry| &entry.clears);
        unsynced.for_each(|clear| self.clears.add(&clear.op));
        Ok(step.moved)
    }

    /// J2
    fn write_step(&mut self, rows: RowChanges) {
        if rows.is_empty() {
            return;
        }
        let mut moved = Cell::EMPTY;
        moved -= self.digests.sketch().root();
        moved += self.digests.absorb(&rows);
        self.add_to_sums(moved);
        self.synced.rows = self.synced.rows.saturating_add_signed(rows.iter().map(RowChange::rows).sum());
        for change in rows {
            self.layers.memtable.put(change.key, change.after);
        }
        // They are of no position of their own.
        self.rewritten.0 = true;
        self.changed_at.get_or_insert_with(Instant::now);
    }

    /// Holes whose rows a clear would have changed. J2
    fn give_up(&mut self, passed: &[RowKey]) {
        for key in passed {
            let digest = self.layers.base.engine.unknown(key.as_bytes());
            let mut moved = Cell::EMPTY;
            moved -= self.digests.sketch().root();
            moved += self.digests.forget(key, digest);
            self.add_to_sums(moved);
            self.layers.memtable.unknown.insert(key.clone(), digest);
            self.changed_at.get_or_insert_with(Instant::now);
        }
    }

    fn add_to_sums(&mut self, moved: Cell) {
        self.synced.root += moved;
        self.overlay.entries.iter_mut().for_each(|entry| entry.root += moved);
    }

    /// All steps at once: before something that needs rows to lie as they are read.
    ///
    /// # Errors
    /// The storage failed, or a row is damaged and no hole yet.
    pub(super) fn clear_all(&mut self, rows_at_once: usize) -> Result<(), ReadError> {
        while !self.layers.clears.is_empty() {
            if !self.clear_step(rows_at_once)? {
                self.holes()?;
            }
            self.drive_checkpoints();
        }
        Ok(())
    }

    /// Has changes say what lies there before them, not what was read: that is what the sums have.
    pub(super) fn lying_before(&self, rows: &mut RowChanges) -> Result<(), ReadError> {
        if self.clears.is_empty() {
            return Ok(());
        }
        for change in rows.iter_mut().filter(|change| !change.is_repair() && self.clears.is_under(&change.key)) {
            change.before = self.lying(&change.key)?;
        }
        Ok(())
    }

    /// The counts of sets that clears have emptied, or nearly. One that the entry does not know is counted. S3
    pub(super) fn counts_cleared(&self, clears: &[Cleared]) -> Result<Vec<(CollectionKey, u64)>, ReadError> {
        let mut counts = Vec::new();
        for clear in clears {
            // A set's own bytes are those of its member without a name.
            let Ok(key) = RowKey::parse(&clear.op.prefix) else { continue };
            let collection = key.collection();
            if collection.data_type() != DataType::Set {
                continue;
            }
            let count = match clear.live {
                Some(live) => live,
                None => self.count_read(&collection)?,
            };
            counts.push((collection, count));
        }
        Ok(counts)
    }

    fn count_read(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        let (mut count, mut from) = (0, collection.as_bytes().to_vec());
        loop {
            let visited = self.visit_seen(collection.as_bytes(), &from, &mut |_, _| {
                count += 1;
                true
            });
            match visited {
                // It holds something, as far as anybody knows.
                Err(ReadError::Damaged(key)) => {
                    count += 1;
                    from = [key.as_bytes(), &[0]].concat();
                }
                visited => return visited.map(|()| count),
            }
        }
    }
}

/// Synced rows as they lie there.
struct Lying<'a>(&'a State);

impl RowSource for Lying<'_> {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        self.0.layers.row_on(&self.0.layers.base, key)
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        self.0.layers.visit_on(&self.0.layers.base, None, prefix, from, visitor)
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        self.0.layers.count(collection)
    }
}

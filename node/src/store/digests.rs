//! The sketch of all rows, kept up to date by every entry as it is appended.
//!
//! **What always holds.** Z1: the sketch is that of the volatile state, rows of unsynced entries included. Z2: an entry
//! moves it by what the entry makes of rows, and by nothing else, so a replay arrives at the same sums. Z3: whoever took
//! the sketch keeps it as it was: the next entry changes a copy. Z4: for a damaged row the sketch has what it had for the row
//! ([`super::engine::Engine::digest`]), and when the row is repaired, that is what is taken out.
//!
//! **What is not here.** Comparing sketches (`atoll_replication::sketch`), and where one comes from when the store is
//! opened ([`super::engine`], [`super::sketch_file`]).

use super::engine::HoleDigests;
use atoll_crdt::RowKey;
use atoll_replication::RowChanges;
use atoll_replication::sketch::{
    Cell, Change, DigestKey, PREFIX_CELLS_MAX, PREFIX_CELLS_MIN, RowDigest, Sketch, leaf_bits_for,
};
use std::sync::Arc;

/// How large a sketch is. Nodes with sketches of different sizes still compare what they have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct SketchSize {
    /// Leaves for at least so many rows.
    pub(super) rows_min: u64,
    /// Rateless cells.
    pub(super) cells: usize,
}

impl SketchSize {
    /// A sketch of nothing, sized for `rows` of them. It is not resized while rows come and go: beyond what it was made
    /// for, a leaf holds more rows, and comparing a large difference costs more; the next opening makes it larger.
    pub(super) fn sketch(self, rows: u64) -> Sketch {
        Sketch::new(self.leaf_bits(rows), self.cells())
    }

    /// Whether a sketch is one that would be made for so many rows.
    pub(super) fn suits(self, sketch: &Sketch, rows: u64) -> bool {
        sketch.leaves().bits() == self.leaf_bits(rows) && sketch.prefix().cells().len() == self.cells()
    }

    fn leaf_bits(self, rows: u64) -> u32 {
        leaf_bits_for(rows.max(self.rows_min))
    }

    fn cells(self) -> usize {
        self.cells.clamp(PREFIX_CELLS_MIN, PREFIX_CELLS_MAX)
    }
}

/// The sketch, and the secret under which rows are digested.
#[derive(Debug)]
pub(super) struct Digests {
    key: DigestKey,
    sketch: Arc<Sketch>,
    /// Z4
    holes: HoleDigests,
}

impl Digests {
    /// Goes on from a sketch of the rows as they are now.
    pub(super) fn new(key: DigestKey, sketch: Sketch, holes: HoleDigests) -> Self {
        Self { key, sketch: Arc::new(sketch), holes }
    }

    /// Damaged rows. Z4
    pub(super) fn holes(&self) -> &HoleDigests {
        &self.holes
    }

    /// A row is damaged, and the sketch has this for it. Z4
    pub(super) fn add_hole(&mut self, key: RowKey, digest: RowDigest) {
        self.holes.insert(key, digest);
    }

    /// Nobody knows any more what a damaged row should hold; `digest` stands for that. Gives the root afterwards.
    pub(super) fn forget(&mut self, key: &RowKey, digest: RowDigest) -> Cell {
        let old = self.holes.insert(key.clone(), digest);
        debug_assert!(old.is_some(), "Z4: a row is found damaged before it is given up");
        Arc::make_mut(&mut self.sketch).apply(Change::between(self.key.id(key), old.unwrap_or(digest), digest));
        self.sketch.root()
    }

    /// Takes in what an entry makes of rows; gives the root afterwards. Z2
    pub(super) fn absorb(&mut self, rows: &RowChanges) -> Cell {
        if !rows.is_empty() {
            // Z3
            let sketch = Arc::make_mut(&mut self.sketch);
            for change in rows {
                let old = match &change.before {
                    None => RowDigest::ABSENT,
                    // Z4
                    Some(_) if change.is_repair() => self.holes.remove(&change.key).unwrap_or(RowDigest::ABSENT),
                    Some(row) => self.key.digest(&change.key, row),
                };
                let new = self.key.digest(&change.key, &change.after);
                sketch.apply(Change::between(self.key.id(&change.key), old, new));
            }
        }
        self.sketch.root()
    }

    /// Takes in what an entry makes of rows that were summed up before: those of a layer. Z2
    pub(super) fn absorb_sketch(&mut self, changes: &Sketch) {
        Arc::make_mut(&mut self.sketch).absorb(changes); // Z3
    }

    /// A sketch of nothing, of the same size.
    pub(super) fn empty(&self) -> Sketch {
        Sketch::new(self.sketch.leaves().bits(), self.sketch.prefix().cells().len())
    }

    /// The sketch as it is now. Z3
    pub(super) fn sketch(&self) -> Arc<Sketch> {
        Arc::clone(&self.sketch)
    }

    /// The secret.
    pub(super) fn key(&self) -> &DigestKey {
        &self.key
    }
}

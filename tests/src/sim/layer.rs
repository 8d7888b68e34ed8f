//! A layer in memory, while it is built: the plainest thing that does what the trait says.
//!
//! **What always holds.** N1: a pass merges what the pinned rows were when it began. N2: what a disk would take time for is
//! not there the first times that it is asked for.

use super::store::Rows;
use atoll_crdt::{Row, RowKey, VersionVector};
use atoll_replication::{LayerId, Merged, Pinned};
use std::collections::BTreeSet;
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
    /// Rows that the next pass merges.
    dirty: BTreeSet<RowKey>,
    bytes: u64,
    asked: u32,
}

impl Building {
    pub(super) fn new(layer: LayerId, pin: Arc<dyn Pinned>) -> Self {
        let (raw, merged) = (Rows::new(), Rows::new());
        Self { layer, pin, raw, merged, dirty: BTreeSet::new(), bytes: 0, asked: 0 }
    }

    pub(super) fn put(&mut self, rows: Vec<(RowKey, Arc<Row>)>) {
        for (key, row) in rows {
            self.bytes += (key.as_bytes().len() + row.memory_bytes()) as u64;
            self.dirty.insert(key.clone());
            self.raw.insert(key, row);
        }
        self.asked = 0;
    }

    pub(super) fn note(&mut self, changed: Vec<RowKey>, pin: Arc<dyn Pinned>) {
        for key in changed {
            if !self.raw.contains_key(&key) {
                let row = self.pin.row(&key).expect("memory does not fail").unwrap_or_default();
                self.raw.insert(key.clone(), row);
            }
            self.dirty.insert(key);
        }
        self.pin = pin;
        self.asked = 0;
    }

    /// What the layer shows over its pin; `None` the first time after something was put. N2
    pub(super) fn over(&mut self) -> Option<Rows> {
        self.asked += 1;
        if self.asked == 1 {
            return None;
        }
        let mut rows = Rows::new();
        let all = self.pin.visit(&[], &[], &mut |key, row| {
            rows.insert(key.clone(), Arc::clone(row));
            true
        });
        all.expect("memory does not fail");
        for (key, row) in &self.raw {
            if row.is_empty() {
                rows.remove(key);
            } else {
                rows.insert(key.clone(), Arc::clone(row));
            }
        }
        Some(rows)
    }

    pub(super) fn merge(&mut self, context: &VersionVector, theirs: &VersionVector) {
        for key in std::mem::take(&mut self.dirty) {
            let mine = self.pin.row(&key).expect("memory does not fail").unwrap_or_default();
            let merged = mine.merge(context, &self.raw[&key], theirs);
            self.merged.insert(key, Arc::new(merged));
        }
        self.asked = 0;
    }

    pub(super) fn merged(&mut self) -> Option<Merged> {
        self.asked += 1;
        (self.asked > PASS_ASKED).then_some(Merged { layer: self.layer, rows: self.raw.len() as u64 })
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

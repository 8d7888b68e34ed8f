//! Rows that changed since some moment, as a map whose copies cost nothing.
//!
//! **What always holds.** Y1: an empty row says "deleted since", a count of zero "empty since"; what a layer does not
//! mention is as the layer below has it. What it names as unknown is not: what is below is behind, and nobody knows how far. Y2: `bytes` is what the rows take in memory, for deciding when to write them out.

use atoll_crdt::{CollectionKey, Row, RowKey};
use atoll_replication::sketch::RowDigest;
use imbl::OrdMap;
use std::sync::Arc;

/// What a row takes in the map beside itself: its key's and its own header, and its share of a node.
const OVERHEAD_BYTES: usize = 96;

/// Rows and counts of live rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Layer {
    pub(super) rows: OrdMap<RowKey, Arc<Row>>,
    pub(super) counts: OrdMap<CollectionKey, u64>,
    /// Rows of which nobody knows what they should hold, and what the sketch has for them.
    pub(super) unknown: OrdMap<RowKey, RowDigest>,
    bytes: usize,
}

impl Layer {
    /// Sets a row.
    pub(super) fn put(&mut self, key: RowKey, row: Arc<Row>) {
        self.bytes += key.as_bytes().len() + row.memory_bytes() + OVERHEAD_BYTES;
        let key_bytes = key.as_bytes().len();
        self.unknown.remove(&key);
        if let Some(old) = self.rows.insert(key, row) {
            self.bytes -= key_bytes + old.memory_bytes() + OVERHEAD_BYTES;
        }
    }

    /// Sets a collection's count.
    pub(super) fn put_count(&mut self, collection: CollectionKey, count: u64) {
        self.counts.insert(collection, count);
    }

    /// What the rows take. Y2
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether nothing changed.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.unknown.is_empty()
    }
}

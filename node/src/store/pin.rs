//! A state that stays readable while the store goes on: what a reconciliation compares and sends.
//!
//! **What always holds.** B1: a pin never changes, whatever is appended, published or checkpointed afterwards. B2: it shows
//! the volatile state, and its sketch is that of exactly these rows. B3: a row is shown once, from the newest layer that
//! mentions it; a row that is deleted there is not shown, whatever the layers below have.
//!
//! **What it costs.** Taking it: one map entry for each row that is not synced. Keeping it: the rows that were in memory,
//! the engine's old versions of rows that are overwritten meanwhile, and a copy of the sketch once the next entry comes.
//! The first search by id hashes the keys of the rows in memory.

use super::flush::Bin;
use super::layers::Layers;
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey, RowSource};
use atoll_replication::Pinned;
use atoll_replication::sketch::{DigestKey, RowId, Sketch};
use std::sync::{Arc, OnceLock};

/// A pinned state. It may be the last to hold rows that were in memory, and those are freed by another thread.
#[derive(Debug)]
pub(super) struct Pin {
    state: Arc<State>,
    bin: Bin,
}

/// The volatile state at one moment.
#[derive(Debug)]
struct State {
    layers: Layers,
    sketch: Arc<Sketch>,
    /// How many rows there are.
    rows: u64,
    key: DigestKey,
    /// Rows that layers in memory mention, the empty ones too, by id.
    in_memory: OnceLock<Vec<(RowId, RowKey, Arc<Row>)>>,
}

impl Pin {
    /// Pins what `layers` show; `sketch` is theirs.
    pub(super) fn new(layers: Layers, sketch: Arc<Sketch>, rows: u64, key: DigestKey, bin: Bin) -> Self {
        Self { state: Arc::new(State { layers, sketch, rows, key, in_memory: OnceLock::new() }), bin }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.bin.free(Arc::clone(&self.state));
    }
}

impl State {
    /// B3
    fn index(&self) -> Vec<(RowId, RowKey, Arc<Row>)> {
        let mut index = Vec::new();
        self.layers.visit_memory(&mut |key, row| index.push((self.key.id(key), key.clone(), Arc::clone(row))));
        index.sort_unstable_by(|(a, a_key, _), (b, b_key, _)| (a, a_key).cmp(&(b, b_key)));
        index
    }
}

impl Pinned for Pin {
    fn sketch(&self) -> &Sketch {
        &self.state.sketch
    }

    fn rows(&self) -> u64 {
        self.state.rows
    }

    fn visit_ids(&self, ids: &[RowId], visitor: &mut dyn FnMut(&RowKey, &Arc<Row>)) -> Result<(), ReadError> {
        let in_memory = self.state.in_memory.get_or_init(|| self.state.index());
        for id in ids {
            let from = in_memory.partition_point(|(at, ..)| at < id);
            for (_, key, row) in in_memory[from..].iter().take_while(|(at, ..)| at == id) {
                if !row.is_empty() {
                    visitor(key, row);
                }
            }
        }
        self.state.layers.visit_stored(ids, visitor)
    }
}

impl RowSource for Pin {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        self.state.layers.row_once(key)
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        self.state.layers.visit(prefix, from, visitor)
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        self.state.layers.count(collection)
    }
}

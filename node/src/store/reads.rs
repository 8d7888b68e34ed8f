//! What the replica reads: rows as every entry appended so far leaves them, synced or not, less what pending clears cover.

use super::layers::{is_emptied, shown};
use super::state::State;
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey, RowSource};
use std::ops::Bound;
use std::sync::Arc;

impl State {
    /// A row as it lies there; an empty one is none.
    pub(super) fn lying(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        match self.overlay.rows.get(key) {
            Some((_, row)) => Ok((!row.is_empty()).then(|| Arc::clone(row))),
            None => self.layers.row_on(self.base_now(), key),
        }
    }

    /// [`RowSource::visit`], though counts may say that there is nothing.
    pub(super) fn visit_seen(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        let range = (Bound::Included(prefix.max(from)), Bound::Unbounded);
        let unsynced = self.overlay.rows.range::<[u8], _>(range).map(|(key, (_, row))| (key, row));
        let visitor = &mut shown(&self.clears, visitor);
        self.layers.visit_on(self.base_now(), Some(Box::new(unsynced)), prefix, from, visitor)
    }
}

impl RowSource for State {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.lying(key)?.and_then(|row| self.clears.shown(key, row)))
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        if is_emptied(&self.clears, prefix, &|collection| self.live_rows(collection))? {
            return Ok(());
        }
        self.visit_seen(prefix, from, visitor)
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        match self.overlay.counts.get(collection) {
            Some((_, count)) => Ok(*count),
            None => self.layers.count_on(self.base_now(), collection),
        }
    }

    fn is_clearing(&self, prefix: &[u8]) -> bool {
        self.clears.is_clearing(prefix)
    }
}

//! Rows in an ordered map: what a store looks like to the data types, with nothing behind it.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use atoll_crdt::{CollectionKey, ReadError, Row, RowKey, RowSource};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, LazyLock};

/// The rows of a node. Only rows that hold something are there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rows(BTreeMap<RowKey, Arc<Row>>);

impl Rows {
    /// A row; the empty one when nothing is live there.
    pub(crate) fn get(&self, key: &RowKey) -> Arc<Row> {
        static EMPTY: LazyLock<Arc<Row>> = LazyLock::new(|| Arc::new(Row::empty()));
        self.0.get(key).unwrap_or(&EMPTY).clone()
    }

    /// Replaces a row.
    pub(crate) fn set(&mut self, key: &RowKey, row: Row) {
        if row.is_empty() {
            self.0.remove(key);
        } else {
            self.0.insert(key.clone(), Arc::new(row));
        }
    }

    /// Changes a row in place.
    pub(crate) fn change(&mut self, key: &RowKey, change: impl FnOnce(&mut Row)) {
        let mut row = Row::clone(&self.get(key));
        change(&mut row);
        self.set(key, row);
    }

    /// The rows that hold something.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&RowKey, &Arc<Row>)> {
        self.0.iter()
    }

    /// The rows under a prefix that hold something.
    pub(crate) fn under(&self, prefix: &[u8]) -> impl Iterator<Item = (&RowKey, &Arc<Row>)> {
        self.0.iter().filter(move |(key, _)| key.as_bytes().starts_with(prefix))
    }

    /// How many rows under a prefix hold something.
    pub(crate) fn count_under(&self, prefix: &[u8]) -> u64 {
        self.under(prefix).count() as u64
    }
}

impl RowSource for Rows {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.0.get(key).cloned())
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        let rows = self.0.range::<[u8], _>((Bound::Included(prefix.max(from)), Bound::Unbounded));
        for (key, row) in rows.take_while(|(key, _)| key.as_bytes().starts_with(prefix)) {
            if !visitor(key, row) {
                break;
            }
        }
        Ok(())
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        Ok(self.count_under(collection.as_bytes()))
    }
}

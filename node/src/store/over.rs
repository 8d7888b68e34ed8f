//! A layer over its pin, as a state that can be compared: what a session goes on with that takes up what another one left.
//!
//! **What always holds.** X1: a key that the layer knows shows the raw row, any other the pinned one. X2: the sketch is that of
//! exactly these rows, and both stay as they were when this was made. X3: a
//! damaged row of the pin does not matter where the layer has another; else it is an error, like one of the layer itself.

use super::aside_rows::AsideRow;
use super::engine::Engine;
use atoll_crdt::{CollectionKey, ReadError, Row, RowKey, RowSource};
use atoll_replication::sketch::{RowId, Sketch};
use atoll_replication::{LayerId, Pinned};
use fjall::Snapshot;
use std::sync::Arc;

/// The state.
pub(super) struct Over {
    pin: Arc<dyn Pinned>,
    engine: Arc<Engine>,
    snapshot: Snapshot,
    layer: LayerId,
    sketch: Arc<Sketch>,
}

impl Over {
    /// What the layer is now over `pin`; `sketch` is that of both.
    pub(super) fn new(pin: Arc<dyn Pinned>, engine: Arc<Engine>, layer: LayerId, sketch: Arc<Sketch>) -> Self {
        let snapshot = engine.snapshot();
        Self { pin, engine, snapshot, layer, sketch }
    }

    fn raw(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        Ok(self.engine.aside_row(&self.snapshot, self.layer, key)?.map(|row| row.raw))
    }
}

impl std::fmt::Debug for Over {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Over").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl Pinned for Over {
    fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    /// Those of the pin: it is for telling others, and no other compares with this.
    fn rows(&self) -> u64 {
        self.pin.rows()
    }

    fn visit_ids(&self, ids: &[RowId], visitor: &mut dyn FnMut(&RowKey, &Arc<Row>)) -> Result<(), ReadError> {
        self.engine.aside_keys(&self.snapshot, self.layer, ids, &mut |key| {
            if let Some(row) = self.raw(&key)?.filter(|row| !row.is_empty()) {
                visitor(&key, &row);
            }
            Ok(())
        })?;
        let mut failed = None;
        self.pin.visit_ids(ids, &mut |key, row| match self.raw(key) {
            Ok(None) => visitor(key, row),
            Ok(Some(_)) => {}
            Err(error) => failed = Some(error),
        })?;
        failed.map_or(Ok(()), Err)
    }
}

impl Over {
    /// Visits rows of the pin and the layer in order. A damaged row of the pin is an error, behind everything that lies before it;
    /// or, when the layer has another in its place, the key to go on behind.
    fn visit_upto_damage(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<Option<RowKey>, ReadError> {
        let mut aside = self.engine.aside_rows_from(&self.snapshot, self.layer, from).peekable();
        let (mut goes_on, mut failed) = (true, None);
        // Rows of the layer up to a key; whether to go on, and whether the last of them was at it.
        let mut upto = |upto: Option<&RowKey>, visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool| {
            let is_due = |entry: &Result<(RowKey, _), ReadError>| match (entry, upto) {
                (Ok((key, _)), Some(upto)) => key <= upto,
                _ => true,
            };
            while let Some(entry) = aside.next_if(is_due) {
                let (key, row) = entry?;
                let row: AsideRow = row?;
                if !key.as_bytes().starts_with(prefix) {
                    return Ok((false, false));
                }
                let is_at = upto == Some(&key);
                if !row.raw.is_empty() && !visitor(&key, &row.raw) {
                    return Ok((false, is_at));
                }
                if is_at {
                    return Ok((true, true));
                }
            }
            Ok((true, false))
        };
        let visited = self.pin.visit(prefix, from, &mut |key, row| match upto(Some(key), visitor) {
            Ok((true, is_shown)) => {
                goes_on = is_shown || visitor(key, row);
                goes_on
            }
            Ok((false, _)) => {
                goes_on = false;
                false
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match visited {
            Err(ReadError::Damaged(key)) => match upto(Some(&key), visitor)? {
                (false, _) => Ok(None),
                (true, true) => Ok(Some(key)),
                (true, false) => Err(ReadError::Damaged(key)),
            },
            Err(error) => Err(error),
            Ok(()) if goes_on => upto(None, visitor).map(|_| None),
            Ok(()) => Ok(None),
        }
    }
}

impl RowSource for Over {
    fn row(&self, key: &RowKey) -> Result<Option<Arc<Row>>, ReadError> {
        match self.raw(key)? {
            Some(row) => Ok((!row.is_empty()).then_some(row)),
            None => self.pin.row(key),
        }
    }

    fn visit(
        &self,
        prefix: &[u8],
        from: &[u8],
        visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
    ) -> Result<(), ReadError> {
        let mut from = prefix.max(from).to_vec();
        loop {
            match self.visit_upto_damage(prefix, &from, visitor) {
                // Behind a damaged row of the pin in whose place the layer's is shown.
                Ok(Some(shown)) => from = [shown.as_bytes(), &[0]].concat(),
                visited => return visited.map(drop),
            }
        }
    }

    fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        let mut count = 0;
        self.visit(collection.as_bytes(), collection.as_bytes(), &mut |_, _| {
            count += 1;
            true
        })?;
        Ok(count)
    }
}

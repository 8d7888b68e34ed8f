//! What a record makes of rows and clocks: the same code live, in a replay after a crash, and in the simulator.
//!
//! **What always holds.** A1: `LV ≤ CC`. A2: a record within `CC` changes no row: its effect is there, or was undone by
//! something else that is there. A3: rows and clocks change together, by one entry (S1).

use crate::adoption::Adoption;
use crate::record::Record;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{Dot, Op, ReadError, Row, RowKey, RowSource, VersionVector};

/// The clocks of a node, which are never one: what is applied, and where to go on pulling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clocks {
    /// `CC`: every dot whose effect the rows contain. For joins, dependencies, tokens, acknowledgements.
    pub context: VersionVector,
    /// `LV`: how far each actor's log was taken in. For pulling, and for dropping duplicates.
    pub cursor: VersionVector,
    /// Records up to here are in no log here, whatever is stored: the cursor was raised over them by a reconciliation.
    pub unlogged: VersionVector,
}

impl Clocks {
    /// Takes in a record that was next in its actor's log.
    pub fn record(&mut self, dot: Dot) {
        debug_assert_eq!(self.cursor.get(dot.actor) + 1, dot.seq, "S2: in order");
        self.cursor.include(dot);
        self.context.include(dot);
    }

    /// Takes over a peer's clocks, together with its rows.
    pub fn adopt(&mut self, adoption: &Adoption) {
        self.context.join(&adoption.context);
        self.cursor.join(&adoption.cursor);
        self.unlogged.join(&adoption.cursor);
    }

    /// For each actor on which the cursor is behind the context, the seq it goes on with.
    #[must_use]
    pub fn wanted(&self) -> VersionVector {
        let behind = self.context.iter().filter(|dot| !self.cursor.covers(*dot));
        behind.map(|dot| Dot::new(dot.actor, self.cursor.get(dot.actor) + 1)).collect()
    }
}

/// What an entry makes of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChange {
    /// Which row.
    pub key: RowKey,
    /// What it held; `None` when nothing.
    pub before: Option<Arc<Row>>,
    /// What it holds now. The empty row is one that is gone.
    pub after: Arc<Row>,
}

impl RowChange {
    /// How many more rows hold something by this: 1, 0 or -1.
    #[must_use]
    pub fn rows(&self) -> i64 {
        i64::from(!self.after.is_empty()) - i64::from(self.before.is_some())
    }
}

/// What an entry makes of rows, in order of their keys, each at most once.
pub type RowChanges = Vec<RowChange>;

/// A row before and while a record changes it.
#[derive(Default)]
struct Changing {
    before: Option<Arc<Row>>,
    now: Row,
}

impl Changing {
    fn from(before: Option<Arc<Row>>) -> Self {
        Self { now: before.as_deref().cloned().unwrap_or_default(), before }
    }
}

/// What `record` makes of the rows of a node whose context is `context`.
///
/// # Errors
/// The storage failed.
pub fn row_changes(record: &Record, context: &VersionVector, source: &dyn RowSource) -> Result<RowChanges, ReadError> {
    // A2
    if context.covers(record.dot) {
        return Ok(Vec::new());
    }
    let mut changed: BTreeMap<RowKey, Changing> = BTreeMap::new();
    for op in &record.ops {
        match op {
            Op::Clear(clear) => {
                source.visit(&clear.prefix, &clear.prefix, &mut |key, row| {
                    if row.dots().any(|dot| clear.context.covers(dot)) {
                        let row = changed.entry(key.clone()).or_insert_with(|| Changing::from(Some(Arc::clone(row))));
                        row.now.clear(&clear.context);
                    }
                    true
                })?;
            }
            Op::Row(op) => {
                let row = match changed.entry(op.key.clone()) {
                    alloc::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    alloc::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(Changing::from(source.row(&op.key)?))
                    }
                };
                op.apply(record.dot, &mut row.now);
            }
        }
    }
    let changes = changed.into_iter().map(|(key, row)| RowChange { key, before: row.before, after: Arc::new(row.now) });
    Ok(changes.collect())
}

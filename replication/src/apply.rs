//! What a record makes of rows and clocks: the same code live, in a replay after a crash, and in the simulator.
//!
//! **What always holds.** A1: `LV ≤ CC`. A2: a record within `CC` changes no row: its effect is there, or was undone by
//! something else that is there. A3: rows and clocks change together, by one entry (S1).

use crate::record::Record;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{Dot, Op, ReadError, Row, RowKey, RowSource, VersionVector};

/// The two clocks of a node, which are never one: what is applied, and where to go on pulling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clocks {
    /// `CC`: every dot whose effect the rows contain. For joins, dependencies, tokens, acknowledgements.
    pub context: VersionVector,
    /// `LV`: how far each actor's log was taken in. For pulling, and for dropping duplicates.
    pub cursor: VersionVector,
}

impl Clocks {
    /// Takes in a record that was next in its actor's log.
    pub fn record(&mut self, dot: Dot) {
        debug_assert_eq!(self.cursor.get(dot.actor) + 1, dot.seq, "S2: in order");
        self.cursor.include(dot);
        self.context.include(dot);
    }
}

/// Rows as a record leaves them, in order of their keys. An empty row is one that is gone.
pub type RowChanges = Vec<(RowKey, Arc<Row>)>;

/// What `record` makes of the rows of a node whose context is `context`.
///
/// # Errors
/// The storage failed.
pub fn row_changes(record: &Record, context: &VersionVector, source: &dyn RowSource) -> Result<RowChanges, ReadError> {
    // A2
    if context.covers(record.dot) {
        return Ok(Vec::new());
    }
    let mut changed: BTreeMap<RowKey, Row> = BTreeMap::new();
    for op in &record.ops {
        match op {
            Op::Clear(clear) => {
                source.visit(&clear.prefix, &clear.prefix, &mut |key, row| {
                    if row.dots().any(|dot| clear.context.covers(dot)) {
                        let row = changed.entry(key.clone()).or_insert_with(|| Row::clone(row));
                        row.clear(&clear.context);
                    }
                    true
                })?;
            }
            Op::Row(op) => {
                let row = match changed.entry(op.key.clone()) {
                    alloc::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    alloc::collections::btree_map::Entry::Vacant(entry) => {
                        let row = source.row(&op.key)?;
                        entry.insert(row.map_or_else(Row::empty, |row| Row::clone(&row)))
                    }
                };
                op.apply(record.dot, row);
            }
        }
    }
    Ok(changed.into_iter().map(|(key, row)| (key, Arc::new(row))).collect())
}

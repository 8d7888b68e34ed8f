//! What a record makes of rows and clocks: the same code live, in a replay after a crash, and in the simulator.
//!
//! **What always holds.** A1: `LV ≤ CC`. A2: a record within `CC` changes no row: its effect is there, or was undone by
//! something else that is there. A3: rows and clocks change together, by one entry (S1).

use crate::adoption::Adoption;
use crate::record::Record;
use crate::store::Holes;
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{Dot, Op, ReadError, Row, RowKey, RowSource, VersionVector};
use core::ops::Bound;

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
    /// What it held; `None` when nothing. The empty row: it is a hole, and what it held is not known.
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

    /// Whether it fills a hole.
    #[must_use]
    pub fn is_repair(&self) -> bool {
        self.before.as_deref().is_some_and(Row::is_empty)
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
/// The storage failed, or a row that it touches is damaged.
pub fn row_changes(record: &Record, context: &VersionVector, source: &dyn RowSource) -> Result<RowChanges, ReadError> {
    changes(record, context, source, &mut |hole| Err(ReadError::Damaged(hole)))
}

/// The same for a record that was applied before a crash. Rows that are damaged now cannot be brought to where they were:
/// they are named beside the changes, and stay unknown.
///
/// # Errors
/// The storage failed.
pub fn replayed_changes(
    record: &Record,
    context: &VersionVector,
    source: &dyn RowSource,
) -> Result<(RowChanges, Vec<RowKey>), ReadError> {
    let mut holes = Vec::new();
    let changes = changes(record, context, source, &mut |hole| {
        holes.push(hole);
        Ok(())
    })?;
    Ok((changes, holes))
}

/// Whether a record may touch one of these rows.
pub(crate) fn touches(record: &Record, holes: &Holes) -> bool {
    !holes.is_empty()
        && record.ops.iter().any(|op| match op {
            Op::Row(op) => holes.contains_key(&op.key),
            Op::Clear(clear) => {
                let mut from = holes.range::<[u8], _>((Bound::Included(&*clear.prefix), Bound::Unbounded));
                from.next().is_some_and(|(key, _)| key.as_bytes().starts_with(&clear.prefix))
            }
        })
}

/// Visits rows as [`RowSource::visit`] does, and goes on behind damaged ones, which it tells to `hole`.
pub(crate) fn visit_known(
    source: &dyn RowSource,
    prefix: &[u8],
    from: &[u8],
    hole: &mut dyn FnMut(RowKey) -> Result<(), ReadError>,
    visitor: &mut dyn FnMut(&RowKey, &Arc<Row>) -> bool,
) -> Result<(), ReadError> {
    let mut from = from.to_vec();
    loop {
        match source.visit(prefix, &from, visitor) {
            Err(ReadError::Damaged(key)) => {
                from = [key.as_bytes(), &[0]].concat();
                hole(key)?;
            }
            visited => return visited,
        }
    }
}

fn changes(
    record: &Record,
    context: &VersionVector,
    source: &dyn RowSource,
    hole: &mut dyn FnMut(RowKey) -> Result<(), ReadError>,
) -> Result<RowChanges, ReadError> {
    // A2
    if context.covers(record.dot) {
        return Ok(Vec::new());
    }
    let mut changed: BTreeMap<RowKey, Changing> = BTreeMap::new();
    for op in &record.ops {
        match op {
            Op::Clear(clear) => {
                visit_known(source, &clear.prefix, &clear.prefix, hole, &mut |key, row| {
                    if row.dots().any(|dot| clear.context.covers(dot)) {
                        let row = changed.entry(key.clone()).or_insert_with(|| Changing::from(Some(Arc::clone(row))));
                        row.now.clear(&clear.context);
                    }
                    true
                })?;
            }
            Op::Row(op) => {
                let row = match changed.entry(op.key.clone()) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => match source.row(&op.key) {
                        Ok(row) => entry.insert(Changing::from(row)),
                        Err(ReadError::Damaged(key)) => {
                            hole(key)?;
                            continue;
                        }
                        Err(error) => return Err(error),
                    },
                };
                op.apply(record.dot, &mut row.now);
            }
        }
    }
    let changes = changed.into_iter().map(|(key, row)| RowChange { key, before: row.before, after: Arc::new(row.now) });
    Ok(changes.collect())
}

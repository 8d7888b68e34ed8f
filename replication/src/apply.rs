//! What a record makes of rows and clocks: the same code live, in a replay after a crash, and in the simulator.
//!
//! **What always holds.** A1: `LV ≤ CC`. A2: a record within `CC` changes no row: its effect is there, or was undone by
//! something else that is there. A3: rows and clocks change together, by one entry (S1).

use crate::adoption::Adoption;
use crate::clears::Cleared;
use crate::record::Record;
use crate::store::{Holes, Store};
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ClearOp, Dot, Op, ReadError, Row, RowKey, RowSource, VersionVector};
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
    /// No operation names it.
    is_only_looked_at: bool,
}

impl Changing {
    fn from(before: Option<Arc<Row>>) -> Self {
        Self { now: before.as_deref().cloned().unwrap_or_default(), before, is_only_looked_at: false }
    }

    fn is_change(&self) -> bool {
        !self.is_only_looked_at || self.before.as_deref().is_some_and(|before| *before != self.now)
    }
}

/// What a record makes of rows, and which clears it leaves to be done in steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// At once.
    pub rows: RowChanges,
    /// In steps, from this record on.
    pub clears: Vec<Cleared>,
}

/// What `record` makes of the rows of a node whose context is `context`, all at once.
///
/// # Errors
/// The storage failed, or a row that it touches is damaged.
pub fn row_changes(record: &Record, context: &VersionVector, source: &dyn RowSource) -> Result<RowChanges, ReadError> {
    let changes = Applying::new(record, source, usize::MAX).changes(context, &mut damaged)?;
    Ok(changes.into_changes().rows)
}

/// The same, except that a clear of more than `clear_rows` rows is left to be done in steps.
///
/// # Errors
/// The storage failed, or a row that it touches is damaged.
pub(crate) fn changes_in_steps(
    record: &Record,
    context: &VersionVector,
    store: &dyn Store,
    clear_rows: usize,
) -> Result<Changes, ReadError> {
    let mut applying = Applying::new(record, store, clear_rows).changes(context, &mut damaged)?;
    for clear in applying.left.clone() {
        applying.survivors(&clear, context, store)?;
    }
    Ok(applying.into_changes())
}

/// What a record changes that was applied before a crash. Rows that are damaged now cannot be brought to where they were:
/// they are named beside the changes, and stay unknown.
///
/// # Errors
/// The storage failed.
pub fn replayed_changes(
    record: &Record,
    context: &VersionVector,
    source: &dyn RowSource,
    clear_rows: usize,
) -> Result<(Changes, Vec<RowKey>), ReadError> {
    let mut holes = Vec::new();
    let changes = Applying::new(record, source, clear_rows).changes(context, &mut |hole| {
        holes.push(hole);
        Ok(())
    })?;
    Ok((changes.into_changes(), holes))
}

fn damaged(hole: RowKey) -> Result<(), ReadError> {
    Err(ReadError::Damaged(hole))
}

/// One of these rows that a record may touch.
pub(crate) fn touched<'a>(record: &Record, holes: &'a Holes) -> Option<&'a RowKey> {
    if holes.is_empty() {
        return None;
    }
    record.ops.iter().find_map(|op| match op {
        Op::Row(op) => holes.get_key_value(&op.key).map(|(key, _)| key),
        Op::Clear(clear) => {
            let mut from = holes.range::<[u8], _>((Bound::Included(&*clear.prefix), Bound::Unbounded));
            from.next().map(|(key, _)| key).filter(|key| key.as_bytes().starts_with(&clear.prefix))
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

/// Bytes of log that are read to know which rows of a cleared prefix the clear has not seen.
const SURVIVORS_BYTES: usize = 256 << 10;

/// A record while it is applied.
struct Applying<'a> {
    record: &'a Record,
    source: &'a dyn RowSource,
    clear_rows: usize,
    changed: BTreeMap<RowKey, Changing>,
    /// Clears of more rows than are changed at once.
    left: Vec<Arc<ClearOp>>,
    /// For each of them, in order, whether every row under it that holds something is among the changed ones.
    known: Vec<bool>,
}

impl<'a> Applying<'a> {
    fn new(record: &'a Record, source: &'a dyn RowSource, clear_rows: usize) -> Self {
        Self { record, source, clear_rows, changed: BTreeMap::new(), left: Vec::new(), known: Vec::new() }
    }

    fn changes(
        mut self,
        context: &VersionVector,
        hole: &mut dyn FnMut(RowKey) -> Result<(), ReadError>,
    ) -> Result<Self, ReadError> {
        // A2
        if context.covers(self.record.dot) {
            return Ok(self);
        }
        let record = self.record;
        for op in &record.ops {
            match op {
                Op::Clear(clear) => self.clear(clear, hole)?,
                Op::Row(op) => {
                    if let Some(row) = self.row(&op.key, hole)? {
                        op.apply(record.dot, &mut row.now);
                    }
                }
            }
        }
        Ok(self)
    }

    /// A row as the operations so far leave it; `None`: it is damaged, and `hole` has taken that.
    fn row(
        &mut self,
        key: &RowKey,
        hole: &mut dyn FnMut(RowKey) -> Result<(), ReadError>,
    ) -> Result<Option<&mut Changing>, ReadError> {
        match self.changed.entry(key.clone()) {
            Entry::Occupied(entry) => Ok(Some(entry.into_mut())),
            Entry::Vacant(entry) => match self.source.row(key) {
                Ok(before) => {
                    let mut row = Changing::from(before);
                    for clear in self.left.iter().filter(|clear| key.as_bytes().starts_with(&clear.prefix)) {
                        row.now.clear(&clear.context);
                    }
                    Ok(Some(entry.insert(row)))
                }
                Err(ReadError::Damaged(key)) => hole(key).map(|()| None),
                Err(error) => Err(error),
            },
        }
    }

    fn clear(
        &mut self,
        clear: &ClearOp,
        hole: &mut dyn FnMut(RowKey) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let (mut found, mut looked_at) = (Vec::new(), 0);
        // What is being removed already would be passed over one by one.
        let mut is_large = self.clear_rows != usize::MAX && self.source.is_clearing(&clear.prefix);
        if !is_large {
            visit_known(self.source, &clear.prefix, &clear.prefix, hole, &mut |key, row| {
                looked_at += 1;
                is_large = looked_at > self.clear_rows;
                if !is_large && row.dots().any(|dot| clear.context.covers(dot)) {
                    found.push((key.clone(), Arc::clone(row)));
                }
                !is_large
            })?;
        }
        if is_large {
            self.left.push(Arc::new(clear.clone()));
            let under = |key: &RowKey| key.as_bytes().starts_with(&clear.prefix);
            for (_, row) in self.changed.iter_mut().filter(|(key, _)| under(key)) {
                row.now.clear(&clear.context);
            }
            return Ok(());
        }
        for (key, row) in found {
            self.changed.entry(key).or_insert_with(|| Changing::from(Some(row))).now.clear(&clear.context);
        }
        Ok(())
    }

    /// Takes in the rows under a clear that it has not seen all of: those of records beyond its context, if the log has
    /// them all and they are few. Whatever else is under the prefix, the clear has killed.
    fn survivors(&mut self, clear: &ClearOp, context: &VersionVector, store: &dyn Store) -> Result<(), ReadError> {
        let mut left = SURVIVORS_BYTES;
        let mut keys = Vec::new();
        for unseen in context.iter().filter(|dot| !clear.context.covers(*dot)) {
            let mut next = clear.context.get(unseen.actor) + 1;
            while next <= unseen.seq {
                let records = store.log(unseen.actor, next, left)?;
                let bytes: usize = records.iter().map(|record| record.as_bytes().len()).sum();
                if records.first().is_none_or(|record| record.dot().seq != next) || bytes > left {
                    self.known.push(false);
                    return Ok(());
                }
                left -= bytes;
                for record in records.iter().take_while(|record| record.dot().seq <= unseen.seq) {
                    let Ok(record) = record.decode() else {
                        self.known.push(false);
                        return Ok(());
                    };
                    let rows = record.ops.into_iter().filter_map(|op| match op {
                        Op::Row(op) if op.put.is_some() && op.key.as_bytes().starts_with(&clear.prefix) => Some(op.key),
                        Op::Row(_) | Op::Clear(_) => None,
                    });
                    keys.extend(rows);
                }
                next += records.len() as u64;
            }
        }
        for key in keys {
            let is_new = !self.changed.contains_key(&key);
            if let Some(row) = self.row(&key, &mut damaged)? {
                row.is_only_looked_at |= is_new;
            }
        }
        self.known.push(true);
        Ok(())
    }

    fn into_changes(self) -> Changes {
        let live = |clear: &ClearOp| {
            let under = self.changed.range::<[u8], _>((Bound::Included(&*clear.prefix), Bound::Unbounded));
            let under = under.take_while(|(key, _)| key.as_bytes().starts_with(&clear.prefix));
            under.filter(|(_, row)| !row.now.is_empty()).count() as u64
        };
        let known = self.known.iter().copied().chain(core::iter::repeat(false));
        let clears = self.left.iter().zip(known);
        let clears = clears.map(|(op, known)| Cleared { op: Arc::clone(op), live: known.then(|| live(op)) }).collect();
        let rows = self.changed.into_iter().filter(|(_, row)| row.is_change());
        let rows = rows.map(|(key, row)| RowChange { key, before: row.before, after: Arc::new(row.now) });
        Changes { rows: rows.collect(), clears }
    }
}

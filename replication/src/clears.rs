//! Clears of many rows: done at once for whoever reads, and in steps to the rows themselves.
//!
//! **How it goes.** A record that clears a prefix with few rows changes them like any others. One with many leaves them
//! where they are, and the clear is *pending*: whoever reads a row under the prefix sees it without the dots that the clear
//! covers. Step by step the store then goes through the rows and writes them as they are seen, until the clear has no
//! effect any more and is forgotten.
//!
//! **What always holds.** P1: a row as it is shown does not depend on how far the steps are. A dot that a clear covers is
//! dead for ever, and no later record brings it back (its actor's cursor is past it), so leaving it out is right at any
//! moment, before a step and after, in any order, and again. P2: a step looks at a given number of rows at most. P3: a
//! step takes out of a row what the clear covers, and nothing else. P4: sums over rows are those of the rows as they lie
//! there, which are not those of the state while a clear is pending: nothing is compared with peers meanwhile, nothing is
//! pinned for a session, and no clear is left pending while one runs.
//!
//! **What is not here.** Where pending clears are kept over a crash: the store's business. They begin anew then, which P1
//! allows.

use crate::apply::{RowChange, RowChanges, visit_known};
use crate::mutants::{Mutant, is};
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ClearOp, ReadError, Row, RowKey, RowSource};

/// Clears that may be pending; one more is done at once.
pub const CLEARS_MAX: usize = 64;

/// A clear that leaves its rows to be removed in steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleared {
    /// What it clears.
    pub op: Arc<ClearOp>,
    /// How many rows under the prefix hold something after the record, where that is known.
    pub live: Option<u64>,
}

/// One pending clear and how far it is.
#[derive(Debug, Clone)]
struct Pending {
    op: Arc<ClearOp>,
    /// Where the next step begins.
    next: Vec<u8>,
    /// Another clear of the same prefix came when this one had begun: it goes through once more.
    again: bool,
}

/// Pending clears, oldest first.
#[derive(Debug, Clone, Default)]
pub struct Clears {
    pending: Vec<Pending>,
}

/// What one step came to.
#[derive(Debug, Default)]
pub struct ClearStep {
    /// The rows that it changes, with what lies there now.
    pub rows: RowChanges,
    /// Holes that it passed over. Nobody knows any more what they held: a sum that goes on having for them what it had
    /// for the row would call them equal to a peer's row from before the clear.
    pub passed: Vec<RowKey>,
    /// Whether it got any further.
    pub moved: bool,
}

impl Clears {
    /// Whether none is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// How many are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    /// What is pending.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ClearOp>> {
        self.pending.iter().map(|pending| &pending.op)
    }

    /// Whether rows under `prefix` may be among what is pending.
    #[must_use]
    pub fn is_clearing(&self, prefix: &[u8]) -> bool {
        self.iter().any(|op| op.prefix.starts_with(prefix) || prefix.starts_with(&op.prefix))
    }

    /// Whether a row may be.
    #[must_use]
    pub fn is_under(&self, key: &RowKey) -> bool {
        self.iter().any(|op| key.as_bytes().starts_with(&op.prefix))
    }

    /// Takes in one more.
    pub fn add(&mut self, op: &Arc<ClearOp>) {
        if let Some(pending) = self.pending.iter_mut().find(|pending| pending.op.prefix == op.prefix) {
            if !op.context.leq(&pending.op.context) {
                let mut context = pending.op.context.clone();
                context.join(&op.context);
                pending.again |= pending.next.len() > op.prefix.len();
                pending.op = Arc::new(ClearOp { prefix: Arc::clone(&op.prefix), context });
            }
            return;
        }
        let next = op.prefix.to_vec();
        self.pending.push(Pending { op: Arc::clone(op), next, again: false });
    }

    /// A row as it is seen, given as it lies there; `None` when nothing of it is. P1
    #[must_use]
    pub fn shown(&self, key: &RowKey, row: Arc<Row>) -> Option<Arc<Row>> {
        let mut row = row;
        if !is(Mutant::ShowHalfCleared) {
            for op in self.iter().filter(|op| key.as_bytes().starts_with(&op.prefix)) {
                if row.dots().any(|dot| op.context.covers(dot)) {
                    Arc::make_mut(&mut row).clear(&op.context);
                }
            }
        }
        (!row.is_empty()).then_some(row)
    }

    /// Goes on with the oldest by one step over rows as they lie there. It stops before a row that `waits`: that one is
    /// about to be written anyway, and what lies there cannot be changed before. A known hole is passed over: a peer repairs
    /// it, without what the clear took away. Other damage stops the step, until it is a hole or can be read. P2, P3
    ///
    /// # Errors
    /// The storage failed.
    pub fn step(
        &mut self,
        rows: &dyn RowSource,
        rows_max: usize,
        waits: &dyn Fn(&RowKey) -> bool,
        is_hole: &dyn Fn(&RowKey) -> bool,
    ) -> Result<ClearStep, ReadError> {
        let Some(pending) = self.pending.first_mut() else { return Ok(ClearStep::default()) };
        let op = Arc::clone(&pending.op);
        let (mut step, mut looked_at, mut stopped) = (ClearStep::default(), 0, None);
        let mut passed = Vec::new();
        let mut pass = |key| {
            if !is_hole(&key) {
                return Err(ReadError::Damaged(key));
            }
            passed.push(key);
            Ok(())
        };
        let visited = visit_known(rows, &op.prefix, &pending.next, &mut pass, &mut |key, row| {
            let is_changed = row.dots().any(|dot| op.context.covers(dot));
            if looked_at == rows_max.max(1) || (is_changed && waits(key)) {
                stopped = Some(key.as_bytes().to_vec());
                return false;
            }
            looked_at += 1;
            if is_changed {
                let mut after = Row::clone(row);
                after.clear(&op.context);
                if is(Mutant::StepDropsRow) {
                    after = Row::empty();
                }
                let before = Some(Arc::clone(row));
                step.rows.push(RowChange { key: key.clone(), before, after: Arc::new(after) });
            }
            true
        });
        match visited {
            Err(ReadError::Damaged(key)) => stopped = Some(key.as_bytes().to_vec()),
            visited => visited?,
        }
        step.passed = passed;
        step.moved = looked_at > 0 || stopped.is_none();
        match stopped {
            Some(next) => pending.next = next,
            None if pending.again => {
                pending.again = false;
                pending.next = op.prefix.to_vec();
            }
            None => drop(self.pending.remove(0)),
        }
        Ok(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::string::ToString;
    use atoll_crdt::{ActorId, CollectionKey, DataType, Dot, Payload, VersionVector};
    use core::ops::Bound;

    struct Rows(BTreeMap<RowKey, Arc<Row>>);

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
            let range = self.0.range::<[u8], _>((Bound::Included(prefix.max(from)), Bound::Unbounded));
            for (key, row) in range.take_while(|(key, _)| key.as_bytes().starts_with(prefix)) {
                if !visitor(key, row) {
                    break;
                }
            }
            Ok(())
        }

        fn live_rows(&self, _: &CollectionKey) -> Result<u64, ReadError> {
            Ok(self.0.len() as u64)
        }
    }

    fn set() -> CollectionKey {
        CollectionKey::new("shop", DataType::Set, "s").expect("a key")
    }

    fn member(n: u64) -> RowKey {
        set().member(&n.to_string()).expect("a key")
    }

    fn dot(seq: u64) -> Dot {
        Dot::new(ActorId::new(1), seq)
    }

    fn clear(seq: u64) -> Arc<ClearOp> {
        let context: VersionVector = [dot(seq)].into_iter().collect();
        Arc::new(ClearOp { prefix: set().as_bytes().into(), context })
    }

    /// Members 0 to 9, the row of each with dots n+1 and n+21.
    fn rows() -> Rows {
        let row = |n| {
            let mut row = Row::empty();
            row.put(dot(n + 1), Payload::Member);
            row.put(dot(n + 21), Payload::Member);
            (member(n), Arc::new(row))
        };
        Rows((0..10).map(row).collect())
    }

    fn shown(clears: &Clears, rows: &Rows) -> Vec<(RowKey, Vec<Dot>)> {
        let seen = |(key, row): (&RowKey, &Arc<Row>)| {
            clears.shown(key, Arc::clone(row)).map(|row| (key.clone(), row.dots().collect()))
        };
        rows.0.iter().filter_map(seen).collect()
    }

    fn write(rows: &mut Rows, step: ClearStep) {
        for change in step.rows {
            assert_eq!(rows.0.get(&change.key), change.before.as_ref(), "a change says what it replaces");
            if change.after.is_empty() {
                rows.0.remove(&change.key)
            } else {
                rows.0.insert(change.key, change.after)
            };
        }
    }

    #[test]
    fn what_is_seen_is_the_same_before_after_and_between_steps() {
        for rows_max in [1, 3, 100] {
            let (mut clears, mut rows) = (Clears::default(), rows());
            clears.add(&clear(25));
            let seen = shown(&clears, &rows);
            assert_eq!(seen.len(), 5, "those above 25 were not seen by the clear");
            let mut steps = 0;
            while !clears.is_empty() {
                let step = clears.step(&rows, rows_max, &|_| false, &|_| false).expect("memory");
                assert!(step.moved && step.rows.len() <= rows_max);
                write(&mut rows, step);
                assert_eq!(shown(&clears, &rows), seen, "P1");
                steps += 1;
            }
            assert!(steps >= 10_usize.div_ceil(rows_max), "P2: {steps} steps of {rows_max}");
            assert_eq!((shown(&Clears::default(), &rows), rows.0.len()), (seen, 5));
        }
    }

    #[test]
    fn a_second_clear_of_a_prefix_goes_through_again_what_the_first_has_passed() {
        let (mut clears, mut rows) = (Clears::default(), rows());
        clears.add(&clear(25));
        let step = clears.step(&rows, 8, &|_| false, &|_| false).expect("memory");
        write(&mut rows, step);
        clears.add(&clear(30));
        assert_eq!((clears.len(), shown(&clears, &rows)), (1, Vec::new()));
        while !clears.is_empty() {
            let step = clears.step(&rows, 8, &|_| false, &|_| false).expect("memory");
            write(&mut rows, step);
        }
        assert!(rows.0.is_empty(), "{:?}", rows.0);
    }

    #[test]
    fn a_step_waits_before_a_row_that_is_being_written() {
        let (mut clears, mut rows) = (Clears::default(), rows());
        clears.add(&clear(25));
        let busy = member(3);
        for _ in 0..3 {
            let step = clears.step(&rows, 100, &|key| *key == busy, &|_| false).expect("memory");
            write(&mut rows, step);
            assert_eq!(clears.len(), 1);
        }
        assert!(!clears.step(&rows, 100, &|key| *key == busy, &|_| false).expect("memory").moved);
        assert!(rows.0[&busy].get(dot(4)).is_some(), "not changed yet");
        let step = clears.step(&rows, 100, &|_| false, &|_| false).expect("memory");
        write(&mut rows, step);
        assert!(clears.is_empty() && rows.0[&member(5)].get(dot(6)).is_none());
    }
}

//! A record while its writer makes it: operations over a view of rows, each seeing those before it.
//!
//! **How it goes.** The writer opens a draft with the dot and stamp its record will have, lets the data types add to it
//! ([`crate::counters::add`] and its like), and takes the operations out.
//!
//! **What always holds.** F1: at most one operation a row comes out (O2), whatever a batch does to it in turn.
//! F2: only dots that the writer holds are killed (O1). F3: a row never holds more than [`SIBLINGS_MAX`] dots that this
//! writer saw: its record also kills the oldest beyond the cap. A cap at merge or apply would not be a function of the
//! context, and the model breaks it.
//!
//! **What is not here.** Assigning the dot, dependencies and durability: `atoll-replication`.

use crate::mutants::{Mutant, is_on};
use crate::{ActorId, VersionVector};
use crate::{ClearOp, CollectionKey, Dot, Floors, Hlc, Op, Payload, ReadError, Row, RowKey, RowOp, RowSource};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Concurrent entries that a writer leaves in a row, its own included.
pub const SIBLINGS_MAX: usize = 64;

/// What a client's earlier read showed: its write replaces exactly that.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// The causal context of the read.
    pub context: VersionVector,
    /// For a counter, each actor's total as it was shown.
    pub floors: Option<Floors>,
}

/// A record in the making.
pub struct Draft<'a> {
    source: &'a dyn RowSource,
    dot: Dot,
    at: Hlc,
    /// The writer's causal context, without the record's own dot.
    context: &'a VersionVector,
    seen: Option<&'a Seen>,
    rows: BTreeMap<RowKey, RowOp>,
    clears: Vec<ClearOp>,
    live_delta: BTreeMap<CollectionKey, i64>,
}

impl<'a> Draft<'a> {
    /// Begins a record. `seen` is what the client was shown; its context must be covered by `context`.
    #[must_use]
    pub fn new(
        source: &'a dyn RowSource,
        dot: Dot,
        at: Hlc,
        context: &'a VersionVector,
        seen: Option<&'a Seen>,
    ) -> Self {
        debug_assert!(seen.is_none_or(|seen| seen.context.leq(context)), "a write waits until its context is covered");
        Self { source, dot, at, context, seen, rows: BTreeMap::new(), clears: Vec::new(), live_delta: BTreeMap::new() }
    }

    /// The record's stamp.
    #[must_use]
    pub fn at(&self) -> Hlc {
        self.at
    }

    /// Who writes.
    #[must_use]
    pub fn actor(&self) -> ActorId {
        self.dot.actor
    }

    /// The record's dot.
    #[must_use]
    pub fn dot(&self) -> Dot {
        self.dot
    }

    /// What the client was shown, if it said so.
    #[must_use]
    pub fn seen(&self) -> Option<&'a Seen> {
        self.seen
    }

    /// Whether the client had seen this dot: everything the writer holds, unless it said what it saw.
    #[must_use]
    pub fn observed(&self, dot: Dot) -> bool {
        is_on(Mutant::SeenIsIgnored) || dot == self.dot || self.seen.is_none_or(|seen| seen.context.covers(dot))
    }

    /// A row as the operations so far leave it.
    ///
    /// # Errors
    /// The storage failed.
    pub fn row(&self, key: &RowKey) -> Result<Row, ReadError> {
        let mut row = self.source.row(key)?.map_or_else(Row::empty, |row| Row::clone(&row));
        self.overlay(key, &mut row);
        Ok(row)
    }

    fn overlay(&self, key: &RowKey, row: &mut Row) {
        for clear in self.clears.iter().filter(|clear| key.as_bytes().starts_with(&clear.prefix)) {
            row.clear(&clear.context);
        }
        if let Some(op) = self.rows.get(key) {
            op.apply(self.dot, row);
        }
    }

    /// The rows under a prefix that hold something, as the operations so far leave them.
    ///
    /// # Errors
    /// The storage failed.
    pub fn rows_under(&self, prefix: &[u8]) -> Result<Vec<(RowKey, Row)>, ReadError> {
        self.rows_under_if(prefix, &mut |_, _| true)
    }

    /// Those of [`Self::rows_under`] that the operations so far touch, and of the others those that `wanted` keeps: what
    /// is not kept takes no memory.
    ///
    /// # Errors
    /// The storage failed.
    pub fn rows_under_if(
        &self,
        prefix: &[u8],
        wanted: &mut dyn FnMut(&RowKey, &Row) -> bool,
    ) -> Result<Vec<(RowKey, Row)>, ReadError> {
        let mut found = BTreeMap::new();
        self.source.visit(prefix, prefix, &mut |key, row| {
            let cleared = || self.clears.iter().any(|clear| key.as_bytes().starts_with(&clear.prefix));
            if self.rows.contains_key(key) || cleared() || wanted(key, row) {
                found.insert(key.clone(), Row::clone(row));
            }
            true
        })?;
        let mine = self.rows.range::<[u8], _>((core::ops::Bound::Included(prefix), core::ops::Bound::Unbounded));
        for (key, _) in mine.take_while(|(key, _)| key.as_bytes().starts_with(prefix)) {
            found.entry(key.clone()).or_default();
        }
        for (key, row) in &mut found {
            self.overlay(key, row);
        }
        Ok(found.into_iter().filter(|(_, row)| !row.is_empty()).collect())
    }

    /// Whether anything is live under a prefix.
    ///
    /// # Errors
    /// The storage failed.
    fn any_under(&self, prefix: &[u8]) -> Result<bool, ReadError> {
        if self.source.is_clearing(prefix) {
            // A visit would pass over all that is not removed yet; a clear of nothing does no harm.
            return Ok(true);
        }
        let mut any = false;
        self.source.visit(prefix, prefix, &mut |_, row| {
            any = !row.is_empty();
            !any
        })?;
        Ok(any || self.rows.keys().any(|key| key.as_bytes().starts_with(prefix)))
    }

    /// How many rows of a collection are live after the operations so far.
    ///
    /// # Errors
    /// The storage failed.
    pub fn live_rows(&self, collection: &CollectionKey) -> Result<u64, ReadError> {
        let is_gone =
            |clear: &ClearOp| collection.as_bytes().starts_with(&clear.prefix) && self.context.leq(&clear.context);
        if self.clears.iter().any(is_gone) {
            // Only what this record itself put.
            let from = (core::ops::Bound::Included(collection.as_bytes()), core::ops::Bound::Unbounded);
            let mine = self.rows.range::<[u8], _>(from);
            let mine = mine.take_while(|(key, _)| key.as_bytes().starts_with(collection.as_bytes()));
            return Ok(mine.filter(|(_, op)| op.put.is_some()).count() as u64);
        }
        if self.clears.iter().any(|clear| clear.prefix.starts_with(collection.as_bytes())) {
            return Ok(self.rows_under(collection.as_bytes())?.len() as u64);
        }
        let delta = self.live_delta.get(collection).copied().unwrap_or(0);
        Ok(self.source.live_rows(collection)?.saturating_add_signed(delta))
    }

    /// Replaces what was seen in a row by `payload`. F3
    ///
    /// # Errors
    /// The storage failed.
    pub fn replace(&mut self, key: &RowKey, payload: Payload) -> Result<(), ReadError> {
        let row = self.row(key)?;
        let (mut kills, mut kept): (Vec<_>, Vec<_>) = row.iter().partition(|(dot, _)| self.observed(*dot));
        if kept.len() >= SIBLINGS_MAX && !is_on(Mutant::SiblingsUncapped) {
            kept.sort_by_key(|(dot, payload)| (stamp(payload), dot.seq, dot.actor));
            kills.extend_from_slice(&kept[..=kept.len() - SIBLINGS_MAX]);
        }
        let kills = kills.into_iter().map(|(dot, _)| dot).collect();
        self.stage(key, &row, kills, Some(payload));
        Ok(())
    }

    /// Removes what was seen in a row.
    ///
    /// # Errors
    /// The storage failed.
    pub fn remove(&mut self, key: &RowKey) -> Result<(), ReadError> {
        let row = self.row(key)?;
        let kills = row.dots().filter(|dot| self.observed(*dot)).collect();
        self.stage(key, &row, kills, None);
        Ok(())
    }

    /// Removes what was seen under a prefix, in one operation whatever its size. Counters under it must be reset first.
    ///
    /// # Errors
    /// The storage failed.
    pub fn clear(&mut self, prefix: &[u8]) -> Result<(), ReadError> {
        let context = self.seen.map_or_else(|| self.context.clone(), |seen| seen.context.clone());
        self.clear_seen(prefix, context)
    }

    /// The same of what somebody saw whose context this writer's includes.
    pub(crate) fn clear_seen(&mut self, prefix: &[u8], mut context: VersionVector) -> Result<(), ReadError> {
        if !self.any_under(prefix)? {
            return Ok(());
        }
        for (_, op) in self.rows.iter_mut().filter(|(key, _)| key.as_bytes().starts_with(prefix)) {
            // What this batch put here goes too, except the marker that tells what a counter's reset had seen.
            match &mut op.put {
                Some(Payload::Count(count)) if !count.floors.is_empty() => count.run = None,
                put => *put = None,
            }
        }
        if is_on(Mutant::ClearCoversItsOwnDot) {
            context.include(self.dot);
        }
        self.clears.push(ClearOp { prefix: prefix.into(), context });
        Ok(())
    }

    /// Adds to the one operation of a row (F1): `kills` and `put` come after what is there.
    pub(crate) fn stage(&mut self, key: &RowKey, before: &Row, mut kills: Vec<Dot>, put: Option<Payload>) {
        if kills.is_empty() && put.is_none() {
            return;
        }
        let own_killed = put.is_some() || kills.contains(&self.dot);
        kills.retain(|dot| *dot != self.dot);
        let op =
            self.rows.entry(key.clone()).or_insert_with(|| RowOp { key: key.clone(), kills: Vec::new(), put: None });
        if !is_on(Mutant::DraftLeavesKillsOut) {
            op.kills.extend(kills);
        }
        op.kills.sort_unstable();
        op.kills.dedup();
        if own_killed {
            op.put = put;
        }
        let mut after = before.clone();
        op.apply(self.dot, &mut after);
        if op.put.is_none() {
            after.kill(&[self.dot]);
        }
        self.note_live(key, before, &after);
    }

    fn note_live(&mut self, key: &RowKey, before: &Row, after: &Row) {
        let delta = i64::from(!after.is_empty()) - i64::from(!before.is_empty());
        if delta != 0 && !is_on(Mutant::LiveRowsUncounted) {
            *self.live_delta.entry(key.collection()).or_default() += delta;
        }
    }

    /// Undoes this record's own increments of a counter: nobody else has seen them, so after a reset in the same batch
    /// they are as if they had never been, and the run they continued stands under its own dot again, for the reset to
    /// kill if it was seen. (A floor for the record's own dot would also cut what the batch adds afterwards.)
    pub(crate) fn take_back_run(&mut self, key: &RowKey) -> Result<(), ReadError> {
        let before = self.row(key)?;
        let Some(op) = self.rows.get_mut(key).filter(|_| !is_on(Mutant::ResetKeepsOwnIncrements)) else {
            return Ok(());
        };
        let Some(Payload::Count(count)) = &mut op.put else { return Ok(()) };
        let Some(run) = count.run.take() else { return Ok(()) };
        if count.floors.is_empty() {
            op.put = None;
        }
        if run.birth < self.dot.seq {
            let stored = self.source.row(key)?;
            let is_run = |dot: Dot| match stored.as_ref().and_then(|row| row.get(dot)) {
                Some(Payload::Count(count)) => dot.actor == self.dot.actor && count.run.is_some(),
                _ => false,
            };
            op.kills.retain(|dot| !is_run(*dot));
        }
        let after = self.row(key)?;
        self.note_live(key, &before, &after);
        Ok(())
    }

    /// How many operations the record holds so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.clears.len() + self.rows.values().filter(|op| does_something(op)).count()
    }

    /// Whether the record would do nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clears.is_empty() && !self.rows.values().any(does_something)
    }

    /// The operations: clears first, then rows in order of their keys.
    #[must_use]
    pub fn into_ops(self) -> Vec<Op> {
        let clears = self.clears.into_iter().map(Op::Clear);
        let rows = self.rows.into_values().filter(does_something).map(Op::Row);
        clears.chain(rows).collect()
    }
}

/// Not so when a batch removed again what it had put.
fn does_something(op: &RowOp) -> bool {
    op.put.is_some() || !op.kills.is_empty()
}

fn stamp(payload: &Payload) -> Hlc {
    match payload {
        Payload::Value { at, .. } | Payload::Leaf { at, .. } => *at,
        Payload::Member | Payload::Flag(_) | Payload::Count(_) => Hlc::default(),
    }
}

/// The marker of a counter, shared.
pub(crate) fn shared(floors: Floors) -> Arc<Floors> {
    Arc::new(floors)
}

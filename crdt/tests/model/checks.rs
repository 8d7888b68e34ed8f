//! What is checked after every step, at every node whose state has changed.

use super::history::Within;
use super::node::State;
use super::places::places;
use super::variant::Variant;
use super::world::World;
use super::{Outcome, demand};
use atoll_crdt::{Dot, Hlc, Payload, Row, RowKey, SIBLINGS_MAX, counters, flags, registers};

impl World {
    /// T1 to T3 at every node that changed since the last check.
    pub(crate) fn check(&mut self) -> Outcome {
        for at in 0..self.nodes.len() {
            if std::mem::take(&mut self.nodes[at].unchecked) {
                self.check_node(at)?;
            }
        }
        Ok(())
    }

    fn check_node(&self, at: usize) -> Outcome {
        let state = &self.nodes[at].state;
        demand!(state.cursor.leq(&state.context), "node {at}: LV ahead of CC"); // T3
        let whole = self.history.within(&state.context);
        for key in &places().all {
            if state.ahead.contains_key(key) {
                let context = state.context_of(key);
                self.check_row(at, state, key, &self.history.within(&context))?;
            } else {
                self.check_row(at, state, key, &whole)?;
            }
        }
        if state.ahead.is_empty() { Ok(()) } else { self.check_batches(at, state) }
    }

    fn check_row<'a>(&self, at: usize, state: &State, key: &'a RowKey, within: &Within<'a>) -> Outcome {
        let row = state.rows.get(key);
        demand!(row.check_invariants(), "node {at} {key:?}: dots out of order: {row:?}");
        // T1
        let expected = within.row_by_operations(key)?;
        let equal = row.iter().eq(expected.iter().copied());
        demand!(
            equal,
            "node {at} {key:?}: holds {:?}, f(C) is {:?}",
            dots(&row),
            expected.iter().map(|e| e.0).collect::<Vec<_>>()
        );
        // T2
        if places().is_counter(key) {
            self.check_counter(at, state, key, &row, within)
        } else {
            let meant = within.dots_as_meant(key);
            demand!(
                row.dots().eq(meant.iter().copied()),
                "node {at} {key:?}: holds {:?}, meant were {meant:?}",
                dots(&row)
            );
            check_view(at, key, &row, &expected)
        }
    }

    fn check_counter<'a>(&self, at: usize, state: &State, key: &'a RowKey, row: &Row, within: &Within<'a>) -> Outcome {
        let meant = within.counter_as_meant(key);
        let is_lattice = self.variant == Some(Variant::LatticeCounter) && *key == places().counter;
        if is_lattice {
            let shown: i128 = state.lattice.values().map(|(total, baseline)| total - baseline).sum();
            demand!(shown == meant.unwrap_or(0), "node {at} {key:?}: shows {shown}, is {meant:?}");
        } else {
            let shown = counters::value(row);
            demand!(shown == meant, "node {at} {key:?}: shows {shown:?}, is {meant:?}");
        }
        Ok(())
    }

    /// T3. Where no row is ahead this follows from T1, since all rows have one context.
    fn check_batches(&self, at: usize, state: &State) -> Outcome {
        for record in self.history.records() {
            let mut covered = record.touches().map(|key| state.context_of(key).covers(record.dot));
            let first = covered.next();
            let whole = covered.all(|other| Some(other) == first);
            demand!(whole, "node {at}: batch {} is torn", record.dot);
        }
        Ok(())
    }
}

fn dots(row: &Row) -> Vec<Dot> {
    row.dots().collect()
}

/// What a type shows of a row, against a plain reading of the same entries.
fn check_view(at: usize, key: &RowKey, row: &Row, entries: &[(Dot, &Payload)]) -> Outcome {
    if *key == places().register {
        let values = entries.iter().filter_map(|(dot, payload)| match payload {
            Payload::Value { at, bytes, .. } => Some((*at, *dot, bytes)),
            _ => None,
        });
        let winner = values.max_by_key(|(at, dot, _)| (*at, *dot));
        let shown = registers::winner(row).map(|(at, _, bytes)| (at, bytes));
        let as_meant = winner.map(|(at, _, bytes): (Hlc, Dot, _)| (at, bytes));
        demand!(shown == as_meant, "node {at}: the register shows {shown:?}, the highest stamp is {winner:?}");
        let of_one = |actor| row.dots().filter(|dot| dot.actor == actor).count();
        let capped = row.dots().all(|dot| of_one(dot.actor) <= SIBLINGS_MAX);
        demand!(capped, "node {at}: one actor has more siblings than the cap"); // T3
    }
    if *key == places().flag {
        let enabled = entries.iter().any(|(_, payload)| **payload == Payload::Flag(true));
        let as_meant = (!entries.is_empty()).then_some(enabled);
        demand!(flags::state(row) == as_meant, "node {at}: the flag shows {:?}, is {as_meant:?}", flags::state(row));
    }
    Ok(())
}

//! Every record ever written, with a ghost beside it that says what was meant; and what a context makes of them.
//!
//! **How it goes.** [`Effect`] is what a record's operations do to a row, [`Meant`] what its writer wanted, told without
//! looking at the operations. [`Within`] is the part of the history that a context covers; it computes rows from either.
//!
//! **What is not here.** Applying, merging: nothing in this file uses them, so that it can judge them.

use super::places::places;
use super::{Outcome, demand};
use atoll_crdt::{Dot, Op, Payload, RowKey, VersionVector};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What a record's operations do to one row.
#[derive(Debug, Default)]
pub(crate) struct Effect {
    put: Option<Payload>,
    kills: Vec<Dot>,
    clears: Vec<VersionVector>,
}

/// What a record was meant to do to one row.
#[derive(Debug, Default, Clone)]
pub(crate) struct Meant {
    /// Something new is to be there.
    put: bool,
    /// What is covered by one of these is to go.
    saw: Vec<VersionVector>,
    /// Siblings beyond the cap.
    pub(crate) evicted: Vec<Dot>,
    /// For a counter: the sum of the increments, if there is one.
    amount: Option<i128>,
    /// For a counter: increments covered by one of these are to go.
    cuts: Vec<VersionVector>,
}

impl Meant {
    /// Something new in place of what was seen.
    pub(crate) fn replace(&mut self, saw: &VersionVector) {
        self.remove(saw);
        self.put = true;
    }

    /// What was seen is to go, and with it what the same record put before.
    pub(crate) fn remove(&mut self, saw: &VersionVector) {
        self.put = false;
        self.saw.push(saw.clone());
    }

    /// An increment.
    pub(crate) fn add(&mut self, amount: i64) {
        self.amount = Some(self.amount.unwrap_or(0) + i128::from(amount));
    }

    /// The increments that were seen are to go, and with them those of the same record before it.
    pub(crate) fn reset(&mut self, cut: VersionVector) {
        self.amount = None;
        self.cuts.push(cut);
    }
}

/// What the lattice mutant sends beside an increment or a reset: totals, and whether they become the baseline.
#[derive(Debug)]
pub(crate) struct Lattice {
    pub(crate) totals: BTreeMap<atoll_crdt::ActorId, i128>,
    pub(crate) is_reset: bool,
}

/// One write, as the logs carry it, with its ghosts.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) dot: Dot,
    /// The writer's whole context; to be set before the record is shown to anyone.
    pub(crate) deps: VersionVector,
    pub(crate) ops: Vec<Op>,
    pub(crate) lattice: Option<Lattice>,
    effects: BTreeMap<RowKey, Effect>,
    meant: BTreeMap<RowKey, Meant>,
}

impl Record {
    pub(crate) fn new(dot: Dot, ops: Vec<Op>, meant: BTreeMap<RowKey, Meant>) -> Self {
        let mut effects: BTreeMap<RowKey, Effect> = BTreeMap::new();
        for op in &ops {
            match op {
                Op::Row(op) => {
                    let effect = effects.entry(op.key.clone()).or_default();
                    effect.kills.extend(&op.kills);
                    effect.put.clone_from(&op.put);
                }
                Op::Clear(op) => {
                    for key in places().under(&op.prefix) {
                        effects.entry(key.clone()).or_default().clears.push(op.context.clone());
                    }
                }
            }
        }
        Self { dot, deps: VersionVector::new(), ops, lattice: None, effects, meant }
    }

    /// The rows it touches.
    pub(crate) fn touches(&self) -> impl Iterator<Item = &RowKey> {
        self.effects.keys()
    }
}

/// Every record ever written, whoever still has it.
#[derive(Debug, Default)]
pub(crate) struct History {
    records: BTreeMap<Dot, Rc<Record>>,
}

impl History {
    /// Whether a dot has been used.
    pub(crate) fn contains(&self, dot: Dot) -> bool {
        self.records.contains_key(&dot)
    }

    pub(crate) fn insert(&mut self, record: Rc<Record>) {
        self.records.insert(record.dot, record);
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Rc<Record>> {
        self.records.values()
    }

    /// The part that a context covers.
    pub(crate) fn within<'a>(&'a self, context: &'a VersionVector) -> Within<'a> {
        let records = context.iter().flat_map(|last| {
            let first = Dot::new(last.actor, 1);
            self.records.range(first..=last).map(|(_, record)| &**record)
        });
        Within { context, records: records.collect() }
    }
}

/// The part of a history that a context covers.
pub(crate) struct Within<'a> {
    context: &'a VersionVector,
    records: Vec<&'a Record>,
}

impl<'a> Within<'a> {
    fn effects(&self, key: &'a RowKey) -> impl Iterator<Item = (Dot, &'a Effect)> {
        self.records.iter().filter_map(move |record| Some((record.dot, record.effects.get(key)?)))
    }

    fn meant(&self, key: &'a RowKey) -> impl Iterator<Item = (Dot, &'a Meant)> {
        self.records.iter().filter_map(move |record| Some((record.dot, record.meant.get(key)?)))
    }

    /// `f(C)`: dots put less dots killed, by the operations of records in the context. T1
    pub(crate) fn row_by_operations(&self, key: &'a RowKey) -> Outcome<Vec<(Dot, &'a Payload)>> {
        let (mut killed, mut clears) = (BTreeSet::new(), Vec::new());
        for (dot, effect) in self.effects(key) {
            for kill in &effect.kills {
                demand!(self.context.covers(*kill), "{key:?}: context not closed at the kill of {kill} by {dot}");
                killed.insert(*kill);
            }
            for clear in &effect.clears {
                demand!(clear.leq(self.context), "{key:?}: context not closed at the clear {dot}");
                clears.push(clear);
            }
        }
        let puts = self.effects(key).filter_map(|(dot, effect)| Some((dot, effect.put.as_ref()?)));
        let dead = |dot: Dot| killed.contains(&dot) || clears.iter().any(|clear| clear.covers(dot));
        Ok(puts.filter(|(dot, _)| !dead(*dot)).collect())
    }

    /// The dots that are to be in a row, by what was meant. T2
    pub(crate) fn dots_as_meant(&self, key: &'a RowKey) -> Vec<Dot> {
        let all: Vec<_> = self.meant(key).collect();
        let gone = |dot: Dot| all.iter().any(|(_, m)| m.evicted.contains(&dot) || m.saw.iter().any(|s| s.covers(dot)));
        all.iter().filter(|(dot, meant)| meant.put && !gone(*dot)).map(|(dot, _)| *dot).collect()
    }

    /// What a counter is to show, by what was meant: increments that no reset had seen. T2
    pub(crate) fn counter_as_meant(&self, key: &'a RowKey) -> Option<i128> {
        let cuts: Vec<_> = self.meant(key).flat_map(|(_, meant)| &meant.cuts).collect();
        let counted = self.meant(key).filter(|(dot, _)| !cuts.iter().any(|cut| cut.covers(*dot)));
        counted.filter_map(|(_, meant)| meant.amount).fold(None, |sum, amount| Some(sum.unwrap_or(0) + amount))
    }

    /// Records of the context.
    pub(crate) fn records(&self) -> &[&'a Record] {
        &self.records
    }
}

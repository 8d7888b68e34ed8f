//! Everything that ever happened, seen from above: the reference against which every node is checked.
//!
//! The reference is `f`: a pure function of a causal context and the set of all records ever made. It shares no code
//! with the replica's way of applying records.

use atoll_crdt::{ActorId, Dot, Op, RowKey, VersionVector};
use atoll_replication::{Record, RecordBytes};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a write meant for a counter, beyond its bytes.
#[derive(Debug, Clone)]
pub enum Meaning {
    /// Added this much.
    Added(RowKey, i64),
    /// Reset what this context had seen.
    Reset(RowKey, VersionVector),
}

/// A context as a list by actor, in the order in which actors were first met: what it covers is found at once.
#[derive(Debug, Clone)]
pub struct Reach(Vec<u64>);

impl Reach {
    fn covers(&self, dot: Place) -> bool {
        self.0.get(dot.actor).is_some_and(|upto| *upto >= dot.seq)
    }
}

/// A dot, its actor by the order of meeting.
#[derive(Debug, Clone, Copy)]
struct Place {
    actor: usize,
    seq: u64,
}

/// What a kill is aimed at.
#[derive(Debug)]
enum Target {
    /// What this put, by its number in the row.
    Put(usize),
    /// Something that was never put here.
    Other(Dot, Place),
}

#[derive(Debug, Default)]
struct RowHistory {
    puts: Vec<(Dot, Place)>,
    by_dot: BTreeMap<Dot, usize>,
    kills: Vec<(Dot, Place, Vec<Target>)>,
    added: Vec<(Dot, Place, i64)>,
    resets: Vec<(Dot, Place, Reach)>,
}

/// All records, by row.
#[derive(Debug, Default)]
pub struct History {
    bytes: BTreeMap<Dot, Arc<[u8]>>,
    /// The whole context of each record's writer.
    deps: BTreeMap<Dot, VersionVector>,
    rows: BTreeMap<RowKey, RowHistory>,
    clears: Vec<(Dot, Place, Arc<[u8]>, Reach)>,
    actors: BTreeMap<ActorId, usize>,
}

impl History {
    fn place(&mut self, dot: Dot) -> Place {
        let next = self.actors.len();
        Place { actor: *self.actors.entry(dot.actor).or_insert(next), seq: dot.seq }
    }

    /// A context, to be asked often what it covers of what was written until now.
    #[must_use]
    pub fn reach(&self, context: &VersionVector) -> Reach {
        let mut reach = vec![0; self.actors.len()];
        for dot in context.iter() {
            // Of an actor that was never met nothing was written.
            if let Some(actor) = self.actors.get(&dot.actor) {
                reach[*actor] = dot.seq;
            }
        }
        Reach(reach)
    }

    /// Takes in a record that its writer has just made, with its writer's whole context.
    ///
    /// # Errors
    /// Its dot was used before.
    pub fn written(&mut self, bytes: &RecordBytes, record: &Record, context: &VersionVector) -> Result<(), String> {
        if self.bytes.insert(record.dot, Arc::clone(bytes.as_bytes())).is_some() {
            return Err(format!("dot {} was used twice", record.dot));
        }
        self.deps.insert(record.dot, context.clone());
        let place = self.place(record.dot);
        for op in &record.ops {
            match op {
                Op::Clear(clear) => {
                    let seen = self.reach(&clear.context);
                    self.clears.push((record.dot, place, Arc::clone(&clear.prefix), seen));
                }
                Op::Row(op) => {
                    let places: Vec<_> = op.kills.iter().map(|kill| (*kill, self.place(*kill))).collect();
                    let row = self.rows.entry(op.key.clone()).or_default();
                    let target = |(dot, place)| match row.by_dot.get(&dot) {
                        Some(put) => Target::Put(*put),
                        None => Target::Other(dot, place),
                    };
                    row.kills.push((record.dot, place, places.into_iter().map(target).collect()));
                    if op.put.is_some() {
                        row.by_dot.insert(record.dot, row.puts.len());
                        row.puts.push((record.dot, place));
                    }
                }
            }
        }
        Ok(())
    }

    /// What the write of `dot` meant.
    pub fn meant(&mut self, dot: Dot, meanings: &[Meaning]) {
        let place = self.place(dot);
        for meaning in meanings {
            match meaning {
                Meaning::Added(key, amount) => {
                    self.rows.entry(key.clone()).or_default().added.push((dot, place, *amount));
                }
                Meaning::Reset(key, seen) => {
                    let seen = self.reach(seen);
                    self.rows.entry(key.clone()).or_default().resets.push((dot, place, seen));
                }
            }
        }
    }

    /// Checks a record that arrived somewhere: the same bytes as ever, after all that its writer had seen.
    ///
    /// # Errors
    /// It is not.
    pub fn arrived(&self, bytes: &RecordBytes, context: &VersionVector) -> Result<(), String> {
        let dot = bytes.dot();
        match self.bytes.get(&dot) {
            None => return Err(format!("record {dot} was never written")),
            Some(known) if known != bytes.as_bytes() => return Err(format!("record {dot} has other bytes")),
            Some(_) => {}
        }
        match self.deps.get(&dot) {
            Some(deps) if !deps.leq(context) => Err(format!("record {dot} is visible before what its writer saw")),
            _ => Ok(()),
        }
    }

    /// Rows that any record ever touched.
    pub fn row_keys(&self) -> impl Iterator<Item = &RowKey> {
        self.rows.keys()
    }

    /// Rows that one record touches.
    #[must_use]
    pub fn touched(&self, record: &Record) -> BTreeSet<RowKey> {
        let mut touched = BTreeSet::new();
        for op in &record.ops {
            match op {
                Op::Row(op) => {
                    touched.insert(op.key.clone());
                }
                Op::Clear(clear) => {
                    touched.extend(self.rows.keys().filter(|key| key.as_bytes().starts_with(&clear.prefix)).cloned());
                }
            }
        }
        touched
    }

    /// `f(context)` for one row, in order: dots put by records in the context, minus dots killed by records in the context.
    ///
    /// # Errors
    /// The context is not closed under kills.
    pub fn live(&self, key: &RowKey, context: &Reach) -> Result<Vec<Dot>, String> {
        let Some(row) = self.rows.get(key) else { return Ok(Vec::new()) };
        let mut is_live: Vec<bool> = row.puts.iter().map(|(_, put)| context.covers(*put)).collect();
        for (by, _, targets) in row.kills.iter().filter(|(_, by, _)| context.covers(*by)) {
            for target in targets {
                let (killed, place) = match target {
                    Target::Put(put) => row.puts[*put],
                    Target::Other(dot, place) => (*dot, *place),
                };
                if !context.covers(place) {
                    return Err(format!("{by} kills {killed}, which the context does not cover"));
                }
                if let Target::Put(put) = target {
                    is_live[*put] = false;
                }
            }
        }
        for (by, _, prefix, seen) in self.clears.iter().filter(|(_, by, _, _)| context.covers(*by)) {
            if key.as_bytes().starts_with(prefix) {
                if seen.0.iter().enumerate().any(|(actor, seq)| *seq > 0 && !context.covers(Place { actor, seq: *seq }))
                {
                    return Err(format!("the clear {by} has seen what the context does not cover"));
                }
                for (is_live, (_, put)) in is_live.iter_mut().zip(&row.puts) {
                    *is_live &= !seen.covers(*put);
                }
            }
        }
        let mut live: Vec<_> =
            row.puts.iter().zip(is_live).filter_map(|((dot, _), live)| live.then_some(*dot)).collect();
        live.sort_unstable();
        Ok(live)
    }

    /// What a counter must show: the amounts that no reset in the context had seen.
    #[must_use]
    pub fn counter(&self, key: &RowKey, context: &Reach) -> i128 {
        let Some(row) = self.rows.get(key) else { return 0 };
        let resets: Vec<_> = row.resets.iter().filter(|(_, by, _)| context.covers(*by)).collect();
        row.added
            .iter()
            .filter(|(_, dot, _)| context.covers(*dot) && !resets.iter().any(|(_, _, seen)| seen.covers(*dot)))
            .map(|(_, _, amount)| i128::from(*amount))
            .sum()
    }

    /// Everything that was meant for a counter, for a failure's message.
    #[must_use]
    pub fn counter_story(&self, key: &RowKey) -> String {
        self.rows.get(key).map_or_else(String::new, |row| format!("added {:?}, resets {:?}", row.added, row.resets))
    }

    /// How many records exist.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was ever written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

//! Everything that ever happened, seen from above: the reference against which every node is checked.
//!
//! The reference is `f`: a pure function of a causal context and the set of all records ever made. It shares no code
//! with the replica's way of applying records.

use atoll_crdt::{Dot, Op, RowKey, VersionVector};
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

#[derive(Debug, Default)]
struct RowHistory {
    puts: Vec<Dot>,
    kills: Vec<(Dot, Vec<Dot>)>,
    added: Vec<(Dot, i64)>,
    resets: Vec<(Dot, VersionVector)>,
}

/// All records, by row.
#[derive(Debug, Default)]
pub struct History {
    bytes: BTreeMap<Dot, Arc<[u8]>>,
    /// The whole context of each record's writer.
    deps: BTreeMap<Dot, VersionVector>,
    rows: BTreeMap<RowKey, RowHistory>,
    clears: Vec<(Dot, Arc<[u8]>, VersionVector)>,
}

impl History {
    /// Takes in a record that its writer has just made, with its writer's whole context.
    ///
    /// # Errors
    /// Its dot was used before.
    pub fn written(&mut self, bytes: &RecordBytes, record: &Record, context: &VersionVector) -> Result<(), String> {
        if self.bytes.insert(record.dot, Arc::clone(bytes.as_bytes())).is_some() {
            return Err(format!("dot {} was used twice", record.dot));
        }
        self.deps.insert(record.dot, context.clone());
        for op in &record.ops {
            match op {
                Op::Clear(clear) => self.clears.push((record.dot, Arc::clone(&clear.prefix), clear.context.clone())),
                Op::Row(op) => {
                    let row = self.rows.entry(op.key.clone()).or_default();
                    if op.put.is_some() {
                        row.puts.push(record.dot);
                    }
                    row.kills.push((record.dot, op.kills.clone()));
                }
            }
        }
        Ok(())
    }

    /// What the write of `dot` meant.
    pub fn meant(&mut self, dot: Dot, meanings: &[Meaning]) {
        for meaning in meanings {
            match meaning {
                Meaning::Added(key, amount) => {
                    self.rows.entry(key.clone()).or_default().added.push((dot, *amount));
                }
                Meaning::Reset(key, seen) => {
                    self.rows.entry(key.clone()).or_default().resets.push((dot, seen.clone()));
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

    /// `f(context)` for one row: dots put by records in the context, minus dots killed by records in the context.
    ///
    /// # Errors
    /// The context is not closed under kills.
    pub fn live(&self, key: &RowKey, context: &VersionVector) -> Result<BTreeSet<Dot>, String> {
        let Some(row) = self.rows.get(key) else { return Ok(BTreeSet::new()) };
        let mut live: BTreeSet<Dot> = row.puts.iter().filter(|dot| context.covers(**dot)).copied().collect();
        for (by, kills) in row.kills.iter().filter(|(by, _)| context.covers(*by)) {
            for kill in kills {
                if !context.covers(*kill) {
                    return Err(format!("{by} kills {kill}, which the context does not cover"));
                }
                live.remove(kill);
            }
        }
        for (by, prefix, seen) in self.clears.iter().filter(|(by, _, _)| context.covers(*by)) {
            if key.as_bytes().starts_with(prefix) {
                if !seen.leq(context) {
                    return Err(format!("the clear {by} has seen what the context does not cover"));
                }
                live.retain(|dot| !seen.covers(*dot));
            }
        }
        Ok(live)
    }

    /// What a counter must show: the amounts that no reset in the context had seen.
    #[must_use]
    pub fn counter(&self, key: &RowKey, context: &VersionVector) -> i128 {
        let Some(row) = self.rows.get(key) else { return 0 };
        let resets: Vec<_> = row.resets.iter().filter(|(by, _)| context.covers(*by)).collect();
        row.added
            .iter()
            .filter(|(dot, _)| context.covers(*dot) && !resets.iter().any(|(_, seen)| seen.covers(*dot)))
            .map(|(_, amount)| i128::from(*amount))
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

//! Replicas that write through drafts, exchange records and merge: just enough of a node to tell a story.
//!
//! **What always holds.** A replica's rows are a function of its context: records are received once, in order, when what
//! they depend on is there; a merge takes in the whole of another replica.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use crate::rows::Rows;
use atoll_crdt::{ActorId, CollectionKey, Dot, Draft, Hlc, Op, Row, RowKey, Seen, VersionVector, counters};
use std::sync::Arc;

/// One write.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) dot: Dot,
    pub(crate) deps: VersionVector,
    pub(crate) ops: Vec<Op>,
}

/// One region.
#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) actor: ActorId,
    pub(crate) rows: Rows,
    pub(crate) context: VersionVector,
    /// What its wall clock says, in milliseconds.
    pub(crate) clock_ms: u64,
}

impl Replica {
    pub(crate) fn new(actor: u64) -> Self {
        Self { actor: ActorId::new(actor), rows: Rows::default(), context: VersionVector::new(), clock_ms: 1_000 }
    }

    /// Writes what `make` adds to a draft; `None` when that is nothing.
    pub(crate) fn try_write(&mut self, seen: Option<&Seen>, make: impl FnOnce(&mut Draft<'_>)) -> Option<Record> {
        let dot = Dot::new(self.actor, self.context.get(self.actor) + 1);
        let mut draft = Draft::new(&self.rows, dot, Hlc::at_ms(self.clock_ms), &self.context, seen);
        make(&mut draft);
        let ops = draft.into_ops();
        if ops.is_empty() {
            return None;
        }
        let record = Record { dot, deps: self.context.clone(), ops };
        assert!(self.receive(&record), "a record is next at home");
        Some(record)
    }

    /// Writes something.
    pub(crate) fn write(&mut self, make: impl FnOnce(&mut Draft<'_>)) -> Record {
        self.try_write(None, make).expect("something to write")
    }

    /// Writes something for a client that was shown `seen`.
    pub(crate) fn write_having_seen(&mut self, seen: &Seen, make: impl FnOnce(&mut Draft<'_>)) -> Record {
        self.try_write(Some(seen), make).expect("something to write")
    }

    /// Takes in a record that is next and whose dependencies are here; whether it was.
    pub(crate) fn receive(&mut self, record: &Record) -> bool {
        let is_next = record.dot.seq == self.context.get(record.dot.actor) + 1;
        if !is_next || !record.deps.leq(&self.context) {
            return false;
        }
        for op in &record.ops {
            match op {
                Op::Row(op) => self.rows.change(&op.key, |row| op.apply(record.dot, row)),
                Op::Clear(clear) => {
                    let keys: Vec<RowKey> = self.rows.under(&clear.prefix).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        self.rows.change(&key, |row| row.clear(&clear.context));
                    }
                }
            }
        }
        self.context.include(record.dot);
        true
    }

    /// Takes in all that another replica holds.
    pub(crate) fn merge(&mut self, other: &Self) {
        let keys: Vec<RowKey> = self.rows.iter().chain(other.rows.iter()).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let merged = self.row(&key).merge(&self.context, &other.row(&key), &other.context);
            self.rows.set(&key, merged);
        }
        self.context.join(&other.context);
    }

    /// A row.
    pub(crate) fn row(&self, key: &RowKey) -> Arc<Row> {
        self.rows.get(key)
    }

    /// What a client that reads now is given to send back.
    pub(crate) fn shown(&self) -> Seen {
        Seen { context: self.context.clone(), floors: None }
    }

    /// The same for a client that reads a counter.
    pub(crate) fn shown_counter(&self, key: &RowKey) -> Seen {
        Seen { context: self.context.clone(), floors: Some(counters::shown(&self.row(key))) }
    }

    /// The members of a set.
    pub(crate) fn members(&self, set: &CollectionKey) -> Vec<String> {
        let rows = self.rows.under(set.as_bytes());
        rows.map(|(key, _)| match key.parts().3 {
            atoll_crdt::RowPath::Member(member) => member,
            other => panic!("{other:?} in a set"),
        })
        .collect()
    }
}

/// Two regions that know nothing of each other yet.
pub(crate) fn two_regions() -> (Replica, Replica) {
    (Replica::new(0xa), Replica::new(0xb))
}

/// Merges both ways; they must then be equal.
pub(crate) fn meet(a: &mut Replica, b: &mut Replica) {
    let before = a.clone();
    a.merge(b);
    b.merge(&before);
    assert_eq!((&a.rows, &a.context), (&b.rows, &b.context), "two that have met hold the same");
}

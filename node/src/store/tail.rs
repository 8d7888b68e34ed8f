//! The newest records, kept in memory so that live pushing never touches the disk.
//!
//! **What always holds.** T1: what is kept of an actor is the end of its log, without a gap. T2: a record that is not yet
//! in the file is never dropped. T3: beyond that, at most `bytes_max` are kept, the oldest going first.

use atoll_crdt::ActorId;
use atoll_replication::{Position, RecordBytes};
use std::collections::{BTreeMap, VecDeque};

/// What a kept record takes beside its bytes.
const OVERHEAD_BYTES: usize = 96;

/// The newest records of every actor.
#[derive(Debug)]
pub(super) struct Tail {
    bytes_max: usize,
    bytes: usize,
    actors: BTreeMap<ActorId, VecDeque<RecordBytes>>,
    /// In order of appending.
    order: VecDeque<(Position, ActorId)>,
}

impl Tail {
    /// An empty tail.
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: 0, actors: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Keeps a record.
    pub(super) fn push(&mut self, position: Position, record: RecordBytes) {
        let actor = record.dot().actor;
        let kept = self.actors.entry(actor).or_default();
        debug_assert!(
            kept.back().is_none_or(|last| last.dot().seq < record.dot().seq),
            "an actor's records are appended in order"
        );
        if kept.back().is_some_and(|last| last.dot().seq + 1 != record.dot().seq) {
            // T1: the log jumped; what lies before is not contiguous with what follows.
            let dropped = kept.len();
            self.bytes -= kept.drain(..).map(|record| weight(&record)).sum::<usize>();
            let mut left = dropped;
            self.order.retain(|(_, of)| {
                let drop = *of == actor && left > 0;
                left -= usize::from(drop);
                !drop
            });
        }
        self.bytes += weight(&record);
        kept.push_back(record);
        self.order.push_back((position, actor));
    }

    /// Drops what is too much, of what is in the file. T2, T3
    pub(super) fn trim(&mut self, written: Position) {
        while self.bytes > self.bytes_max && self.order.front().is_some_and(|(position, _)| *position <= written) {
            self.pop_oldest();
        }
    }

    /// Drops everything up to `position`, which is in no file any more.
    pub(super) fn forget(&mut self, position: Position) {
        while self.order.front().is_some_and(|(at, _)| *at <= position) {
            self.pop_oldest();
        }
    }

    fn pop_oldest(&mut self) {
        let Some((_, actor)) = self.order.pop_front() else { return };
        if let Some(kept) = self.actors.get_mut(&actor) {
            if let Some(record) = kept.pop_front() {
                self.bytes -= weight(&record);
            }
            if kept.is_empty() {
                self.actors.remove(&actor);
            }
        }
    }

    /// The lowest seq that is kept.
    pub(super) fn first(&self, actor: ActorId) -> Option<u64> {
        self.actors.get(&actor)?.front().map(|record| record.dot().seq)
    }

    /// Records from `from` on, which is kept or above all.
    pub(super) fn from(&self, actor: ActorId, from: u64) -> impl Iterator<Item = &RecordBytes> {
        let skip = from.saturating_sub(self.first(actor).unwrap_or(from));
        self.actors.get(&actor).into_iter().flatten().skip(skip as usize)
    }

    /// Bytes that are kept.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

fn weight(record: &RecordBytes) -> usize {
    record.as_bytes().len() + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{Dot, Hlc, VersionVector};
    use atoll_replication::Record;

    fn record(actor: u64, seq: u64) -> RecordBytes {
        let dot = Dot::new(ActorId::new(actor), seq);
        Record { dot, at: Hlc::default(), deps: VersionVector::new(), ops: Vec::new() }.encode()
    }

    fn seqs(tail: &Tail, actor: u64, from: u64) -> Vec<u64> {
        tail.from(ActorId::new(actor), from).map(|record| record.dot().seq).collect()
    }

    #[test]
    fn the_oldest_go_first_and_what_is_not_written_stays() {
        let one = weight(&record(1, 1));
        let mut tail = Tail::new(4 * one);
        for n in 1..=10 {
            tail.push(Position(n), record(1 + n % 2, n.div_ceil(2)));
        }
        tail.trim(Position(3));
        assert_eq!(tail.bytes(), 7 * one);
        tail.trim(Position(10));
        assert_eq!(tail.bytes(), 4 * one);
        assert_eq!((seqs(&tail, 1, 4), seqs(&tail, 2, 5)), (vec![4, 5], vec![5]));
        assert_eq!((tail.first(ActorId::new(1)), tail.first(ActorId::new(2))), (Some(4), Some(4)));
        assert_eq!(seqs(&tail, 1, 6), [0_u64; 0]);
    }

    #[test]
    fn a_jump_drops_what_lies_before_it() {
        let mut tail = Tail::new(1 << 20);
        for n in 1..=3 {
            tail.push(Position(2 * n), record(1, n));
            tail.push(Position(2 * n + 1), record(2, n));
        }
        tail.push(Position(9), record(1, 8));
        assert_eq!((seqs(&tail, 1, 8), seqs(&tail, 2, 1)), (vec![8], vec![1, 2, 3]));
        tail.trim(Position(9));
        assert_eq!(tail.bytes(), 4 * weight(&record(1, 1)));
    }
}

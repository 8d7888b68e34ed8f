//! Records held back: received, but something before them is missing.
//!
//! **What always holds.** H1: at most `pending_bytes` an actor and `pending_total_bytes` in all are held; beyond that the
//! newest are dropped, and asked for again once what was held has gone ([`Pending::resumable`]). H2: what is handed out is next in
//! its actor's log and has its dependencies covered (S2).

use crate::apply::Clocks;
use crate::config::Limits;
use crate::effect::LinkId;
use crate::mutants::{Mutant, is};
use crate::record::{Record, RecordBytes};
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use atoll_crdt::{ActorId, Dot, VersionVector, codec::DecodeError};

#[derive(Debug)]
struct Queue {
    records: BTreeMap<u64, (RecordBytes, Record)>,
    bytes: usize,
    /// Its next record cannot be applied yet: it is not to be believed (stamped too far ahead of this node's clock, or
    /// killing what its writer cannot have seen), or touches a damaged row.
    parked: bool,
    /// When something was last added or taken out.
    moved_at: Instant,
    /// Who sent what was added last.
    from: LinkId,
}

/// All actors' held-back records.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    queues: BTreeMap<ActorId, Queue>,
    bytes: usize,
    /// Actors of whom something found no room, and who sent it.
    dropped: BTreeMap<ActorId, LinkId>,
}

impl Pending {
    /// Takes in a record from a peer; `false` when it was known already or there is no room.
    ///
    /// # Errors
    /// Its operations do not read: the peer is at fault.
    pub(crate) fn offer(
        &mut self,
        from: LinkId,
        bytes: RecordBytes,
        clocks: &Clocks,
        limits: &Limits,
        now: Instant,
    ) -> Result<bool, DecodeError> {
        let dot = bytes.dot();
        let size = bytes.as_bytes().len();
        if clocks.cursor.covers(dot) {
            return Ok(false);
        }
        let queue = self.queues.entry(dot.actor).or_insert_with(|| Queue {
            records: BTreeMap::new(),
            bytes: 0,
            parked: false,
            moved_at: now,
            from,
        });
        let is_next = clocks.cursor.get(dot.actor) + 1 == dot.seq;
        // H1: the next one of an actor always finds room, or nothing would ever move again.
        let is_full = |queue: &Queue, total: usize| {
            queue.bytes + size > limits.pending_bytes || total + size > limits.pending_total_bytes
        };
        // What comes sooner in the log is worth more than what comes later.
        while is_full(queue, self.bytes) && queue.records.last_key_value().is_some_and(|(last, _)| *last > dot.seq) {
            if let Some((_, (dropped, _))) = queue.records.pop_last() {
                queue.bytes -= dropped.as_bytes().len();
                self.bytes -= dropped.as_bytes().len();
                self.dropped.insert(dot.actor, from);
            }
        }
        let full = is_full(queue, self.bytes);
        if queue.records.contains_key(&dot.seq) || (full && !is_next) {
            if full {
                self.dropped.insert(dot.actor, from);
            }
            if queue.records.is_empty() {
                self.queues.remove(&dot.actor);
            }
            return Ok(false);
        }
        let record = bytes.decode()?;
        queue.bytes += size;
        self.bytes += size;
        queue.moved_at = now;
        queue.from = from;
        queue.records.insert(dot.seq, (bytes, record));
        Ok(true)
    }

    /// Hands out a record that may be applied now. H2
    pub(crate) fn next(
        &mut self,
        clocks: &Clocks,
        is_believable: impl Fn(&Record, &VersionVector) -> bool,
    ) -> Option<(RecordBytes, Record)> {
        let mut ready = None;
        for (actor, queue) in &mut self.queues {
            let next = clocks.cursor.get(*actor) + 1;
            queue.parked = false;
            let Some((_, record)) = queue.records.get(&next) else { continue };
            let covered_already = clocks.context.covers(record.dot);
            let covered = covered_already || record.deps.leq(&clocks.context);
            if !covered && !is(Mutant::NoDeps) {
                continue;
            }
            if covered_already || is_believable(record, &clocks.context) {
                ready = Some((*actor, next));
                break;
            }
            queue.parked = true;
        }
        let (actor, seq) = ready?;
        let queue = self.queues.get_mut(&actor)?;
        let (bytes, record) = queue.records.remove(&seq)?;
        queue.bytes -= bytes.as_bytes().len();
        self.bytes -= bytes.as_bytes().len();
        if queue.records.is_empty() {
            self.queues.remove(&actor);
        }
        Some((bytes, record))
    }

    /// Takes back what was handed out and could not be applied: a row that it touches is damaged. It waits at its place.
    pub(crate) fn put_back(&mut self, bytes: RecordBytes, record: Record, now: Instant) {
        let dot = record.dot;
        let queue = self.queues.entry(dot.actor).or_insert_with(|| Queue {
            records: BTreeMap::new(),
            bytes: 0,
            parked: true,
            moved_at: now,
            // Whom to ask for what it builds on: nobody, since that is here.
            from: LinkId(u64::MAX),
        });
        let size = bytes.as_bytes().len();
        if queue.records.insert(dot.seq, (bytes, record)).is_none() {
            queue.bytes += size;
            self.bytes += size;
        }
    }

    /// Forgets what was applied by another way, or dropped from before the cursor.
    pub(crate) fn forget_applied(&mut self, clocks: &Clocks) {
        for (actor, queue) in &mut self.queues {
            while let Some(entry) = queue.records.first_entry() {
                if *entry.key() > clocks.cursor.get(*actor) {
                    break;
                }
                let size = entry.remove().0.as_bytes().len();
                queue.bytes -= size;
                self.bytes -= size;
            }
        }
        self.queues.retain(|_, queue| !queue.records.is_empty());
    }

    /// Drops what nothing has come to complete for so long that its predecessor is gone with the process that made it
    /// (what exists somewhere comes again). A stream that waits for the clock is no such case.
    pub(crate) fn expire(&mut self, now: Instant, limits: &Limits) {
        let mut freed = 0;
        self.queues.retain(|_, queue| {
            let stays = queue.parked || now.since(queue.moved_at) < limits.resend_max * 2;
            freed += if stays { 0 } else { queue.bytes };
            stays
        });
        self.bytes -= freed;
    }

    /// Takes out the actors whose dropped records have room now, and whom to ask for them.
    pub(crate) fn resumable(&mut self) -> Vec<(ActorId, LinkId)> {
        let queues = &self.queues;
        self.dropped.extract_if(.., |actor, _| !queues.contains_key(actor)).collect()
    }

    /// What the streams wait for that is not here: the last record each lacks of an actor, and who sent what builds on it.
    pub(crate) fn lacking(&self, clocks: &Clocks) -> Vec<(Dot, LinkId)> {
        let mut lacking = Vec::new();
        for (actor, queue) in &self.queues {
            let Some((seq, (_, record))) = queue.records.first_key_value() else { continue };
            if *seq > clocks.cursor.get(*actor) + 1 {
                lacking.push((Dot::new(*actor, seq - 1), queue.from));
            } else {
                lacking.extend(record.deps.beyond(&clocks.context).iter().map(|dot| (dot, queue.from)));
            }
        }
        lacking
    }

    /// How far each actor's held-back records reach: what lies between them and the cursor may be missing.
    pub(crate) fn reach(&self) -> VersionVector {
        let last = |(actor, queue): (&ActorId, &Queue)| Some(Dot::new(*actor, *queue.records.last_key_value()?.0));
        self.queues.iter().filter_map(last).collect()
    }

    /// Whether a record is held back here.
    pub(crate) fn holds(&self, dot: Dot) -> bool {
        self.queues.get(&dot.actor).is_some_and(|queue| queue.records.contains_key(&dot.seq))
    }

    /// Actors whose stream waits because of a record that is not to be believed, or touches a damaged row.
    pub(crate) fn parked(&self) -> Vec<ActorId> {
        self.queues.iter().filter(|(_, queue)| queue.parked).map(|(actor, _)| *actor).collect()
    }

    /// Bytes held back.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the sums are right; for simulations.
    pub(crate) fn check_invariants(&self) -> bool {
        let sum = |queue: &Queue| queue.records.values().map(|(b, _)| b.as_bytes().len()).sum::<usize>();
        self.queues.values().all(|queue| queue.bytes == sum(queue))
            && self.bytes == self.queues.values().map(|queue| queue.bytes).sum::<usize>()
    }
}

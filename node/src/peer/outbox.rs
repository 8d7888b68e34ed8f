//! What is waiting to be sent on one connection.
//!
//! **What always holds.** O1: control messages never wait behind records, nor records behind what a reconciliation moves:
//! each has its own queue, stream and priority. O2: every queue is bounded, in bytes and in messages that weigh nothing.
//! The replica leaves at most its windows of records and of rows, and a few small messages, waiting; a connection on which
//! more piles up has a peer that asks and does not read, and is ended.

use super::fault::Fault;
use atoll_replication::DisconnectReason;
use atoll_replication::wire::Message;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Control messages that may wait. Reports and pings are tens a second, and a silent peer is given up in seconds.
const CONTROL_MESSAGES_MAX: usize = 2_048;
/// Small messages of reconciliations that may wait. A session has a handful under way.
const BULK_MESSAGES_MAX: usize = 2_048;
/// Bytes of records that may wait: several windows of the replica.
const LIVE_BYTES_MAX: usize = 64 << 20;
/// Bytes of reconciliations that may wait: the largest frame, and as much again.
const BULK_BYTES_MAX: usize = 128 << 20;
/// Bytes of encoded messages after which a write is begun.
const WRITE_BYTES: usize = 64 << 10;
/// Messages after which a write is begun: control messages weigh nothing and are not many.
const WRITE_MESSAGES: usize = 256;
/// Room for a message's header and framing; more only where records are tiny.
const FRAMING_BYTES: usize = 64;

/// Which stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Everything but records: small, and urgent.
    Control,
    /// Records.
    Live,
    /// What a reconciliation moves, its small messages included: they must not overtake each other.
    Bulk,
}

impl Lane {
    /// Where a message belongs.
    pub(super) const fn of(message: &Message) -> Self {
        match message {
            Message::Records(_) => Self::Live,
            Message::Reconcile(_) => Self::Bulk,
            _ => Self::Control,
        }
    }

    /// Its stream's priority.
    pub(super) const fn priority(self) -> i32 {
        match self {
            Self::Control => 100,
            Self::Live => 50,
            Self::Bulk => -10,
        }
    }

    /// Bytes and messages that may wait. O2
    const fn bounds(self) -> (usize, usize) {
        match self {
            Self::Control => (usize::MAX, CONTROL_MESSAGES_MAX),
            Self::Live => (LIVE_BYTES_MAX, usize::MAX),
            Self::Bulk => (BULK_BYTES_MAX, BULK_MESSAGES_MAX),
        }
    }
}

/// What waits for one stream.
#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Queues {
    control: Queue,
    live: Queue,
    bulk: Queue,
    end: Option<Fault>,
}

impl Queues {
    fn of(&mut self, lane: Lane) -> &mut Queue {
        match lane {
            Lane::Control => &mut self.control,
            Lane::Live => &mut self.live,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

/// The queues of one connection, filled by the replica thread and emptied by the connection's task.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    control: Notify,
    live: Notify,
    bulk: Notify,
    end: Notify,
}

impl Outbox {
    /// Queues a message. Never waits.
    pub(super) fn push(&self, message: Message) {
        let lane = Lane::of(&message);
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.of(lane);
        queue.bytes += message.weight();
        queue.messages.push_back(message);
        // O2
        let (bytes_max, messages_max) = lane.bounds();
        let overrun = queue.bytes > bytes_max || queue.messages.len() > messages_max;
        if overrun {
            *queues = Queues { end: queues.end, ..Queues::default() };
        }
        drop(queues);
        if overrun {
            self.end(Fault::Overrun);
        }
        self.arrival(lane).notify_one();
    }

    /// Told when something comes to wait.
    fn arrival(&self, lane: Lane) -> &Notify {
        match lane {
            Lane::Control => &self.control,
            Lane::Live => &self.live,
            Lane::Bulk => &self.bulk,
        }
    }

    /// Ends the connection for a reason of the replica.
    pub(super) fn disconnect(&self, reason: DisconnectReason) {
        self.end(Fault::Replica(reason));
    }

    fn end(&self, fault: Fault) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).end.get_or_insert(fault);
        self.end.notify_one();
    }

    /// Waits until the connection is to be ended.
    pub(super) async fn ended(&self) -> Fault {
        loop {
            let end = self.queues.lock().unwrap_or_else(PoisonError::into_inner).end;
            match end {
                Some(fault) => return fault,
                None => self.end.notified().await,
            }
        }
    }

    /// Waits for messages and encodes as many as make one good write; their weight comes back.
    pub(super) async fn next_write(&self, lane: Lane, out: &mut Vec<u8>) -> usize {
        let mut batch = Vec::new();
        loop {
            self.take(lane, &mut batch);
            if !batch.is_empty() {
                break;
            }
            self.arrival(lane).notified().await;
        }
        let weight = batch.iter().map(Message::weight).sum();
        out.reserve(weight + FRAMING_BYTES * batch.len());
        for message in &batch {
            message.encode(out);
        }
        weight
    }

    fn take(&self, lane: Lane, batch: &mut Vec<Message>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.of(lane);
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && batch.len() < WRITE_MESSAGES
            && let Some(message) = queue.messages.pop_front()
        {
            bytes += message.weight();
            batch.push(message);
        }
        queue.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{ActorId, Dot, Hlc, VersionVector};
    use atoll_replication::sketch::RowId;
    use atoll_replication::{Reconcile, Record, SessionId, Step};
    use futures_util::FutureExt;

    fn records(count: u64) -> Message {
        let record = |seq| Record {
            dot: Dot::new(ActorId::new(3), seq),
            at: Hlc::at_ms(5),
            deps: VersionVector::new(),
            ops: vec![],
        };
        Message::Records((1..=count).map(|seq| record(seq).encode()).collect())
    }

    #[test]
    fn what_has_gathered_leaves_in_one_write_and_each_lane_by_itself() {
        let outbox = Outbox::default();
        let mut out = Vec::new();
        assert!(outbox.next_write(Lane::Live, &mut out).now_or_never().is_none(), "nothing to write: it waits");
        for _ in 0..10 {
            outbox.push(records(3));
        }
        outbox.push(Message::Ping { sent_us: 1 });
        let weight = outbox.next_write(Lane::Live, &mut out).now_or_never().unwrap();
        assert_eq!(weight, 10 * records(3).weight());
        assert!(out.len() > weight && out.capacity() < 2 * out.len() + 1_024);
        assert_eq!(outbox.next_write(Lane::Control, &mut out).now_or_never(), Some(0));
        assert!(outbox.next_write(Lane::Control, &mut out).now_or_never().is_none());
    }

    fn bulk(step: Step) -> Message {
        Message::Reconcile(Reconcile { session: SessionId(1), grant: 0, place: 0, step })
    }

    fn ids(count: u64) -> Message {
        bulk(Step::Want((1..=count).filter_map(RowId::from_bits).collect()))
    }

    #[test]
    fn what_a_reconciliation_moves_leaves_by_itself_in_order_and_its_weight_is_told() {
        let outbox = Outbox::default();
        outbox.push(ids(1_000));
        outbox.push(bulk(Step::Close));
        outbox.push(records(3));
        let mut out = Vec::new();
        assert_eq!(outbox.next_write(Lane::Live, &mut out).now_or_never(), Some(records(3).weight()));
        assert!(outbox.next_write(Lane::Control, &mut out).now_or_never().is_none());
        let (mut sent, mut expected) = (Vec::new(), Vec::new());
        assert_eq!(outbox.next_write(Lane::Bulk, &mut sent).now_or_never(), Some(ids(1_000).weight()));
        ids(1_000).encode(&mut expected);
        bulk(Step::Close).encode(&mut expected);
        assert_eq!(sent, expected);
        assert!(Lane::Bulk.priority() < Lane::Live.priority() && Lane::Live.priority() < Lane::Control.priority());
    }

    #[test]
    fn rows_or_small_messages_of_reconciliations_beyond_their_bound_end_the_connection() {
        let large = ids(1 << 20);
        for (message, fit) in [(large.clone(), BULK_BYTES_MAX / large.weight()), (bulk(Step::Close), BULK_MESSAGES_MAX)]
        {
            let outbox = Outbox::default();
            for _ in 0..fit {
                outbox.push(message.clone());
            }
            assert!(outbox.ended().now_or_never().is_none());
            outbox.push(message);
            assert_eq!(outbox.ended().now_or_never(), Some(Fault::Overrun));
            let mut out = Vec::new();
            assert!(outbox.next_write(Lane::Bulk, &mut out).now_or_never().is_none(), "nothing is kept for it");
        }
    }

    #[test]
    fn a_write_ends_when_it_is_large_and_loses_nothing() {
        let outbox = Outbox::default();
        let (mut all, mut taken, mut writes) = (0, 0, 0);
        for _ in 0..100 {
            let message = records(200);
            all += message.weight();
            outbox.push(message);
        }
        while taken < all {
            let mut out = Vec::new();
            let weight = outbox.next_write(Lane::Live, &mut out).now_or_never().unwrap();
            assert!(weight <= WRITE_BYTES + records(200).weight());
            (taken, writes) = (taken + weight, writes + 1);
        }
        assert_eq!(taken, all);
        assert!(writes > 2, "{writes}");
    }

    #[test]
    fn a_peer_that_asks_and_does_not_read_is_ended() {
        let outbox = Outbox::default();
        for sent_us in 0..CONTROL_MESSAGES_MAX as u64 {
            outbox.push(Message::Ping { sent_us });
        }
        assert!(outbox.ended().now_or_never().is_none());
        outbox.push(Message::Ping { sent_us: 0 });
        assert_eq!(outbox.ended().now_or_never(), Some(Fault::Overrun));
    }

    #[test]
    fn records_beyond_their_bound_end_the_connection() {
        let outbox = Outbox::default();
        let message = records(20_000);
        let fit = LIVE_BYTES_MAX / message.weight();
        for _ in 0..fit {
            outbox.push(message.clone());
        }
        assert!(outbox.ended().now_or_never().is_none());
        outbox.push(message);
        assert_eq!(outbox.ended().now_or_never(), Some(Fault::Overrun));
    }

    #[test]
    fn the_first_reason_to_end_is_the_one_that_counts() {
        let outbox = Outbox::default();
        outbox.disconnect(DisconnectReason::Silent);
        outbox.disconnect(DisconnectReason::Duplicate);
        assert_eq!(outbox.ended().now_or_never(), Some(Fault::Replica(DisconnectReason::Silent)));
    }
}

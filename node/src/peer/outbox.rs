//! What is waiting to be sent on one connection.
//!
//! **What always holds.** O1: control messages never wait behind records: each has its own queue, stream and priority.
//! O2: both queues are bounded. The replica leaves at most its window of records and a few control messages waiting; a
//! connection on which more piles up has a peer that asks and does not read, and is ended.

use super::fault::Fault;
use atoll_replication::DisconnectReason;
use atoll_replication::wire::Message;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Control messages that may wait. Reports and pings are tens a second, and a silent peer is given up in seconds.
const CONTROL_MESSAGES_MAX: usize = 2_048;
/// Bytes of records that may wait: several windows of the replica.
const LIVE_BYTES_MAX: usize = 64 << 20;
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
}

impl Lane {
    /// Where a message belongs.
    pub(super) const fn of(message: &Message) -> Self {
        if matches!(message, Message::Records(_)) { Self::Live } else { Self::Control }
    }

    /// Its stream's priority; catch-up and bulk of later versions come below.
    pub(super) const fn priority(self) -> i32 {
        match self {
            Self::Control => 100,
            Self::Live => 50,
        }
    }
}

#[derive(Debug, Default)]
struct Queues {
    control: VecDeque<Message>,
    live: VecDeque<Message>,
    live_bytes: usize,
    end: Option<Fault>,
}

/// The queues of one connection, filled by the replica thread and emptied by the connection's task.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    control: Notify,
    live: Notify,
    end: Notify,
}

impl Outbox {
    /// Queues a message. Never waits.
    pub(super) fn push(&self, message: Message) {
        let lane = Lane::of(&message);
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        match lane {
            Lane::Control => queues.control.push_back(message),
            Lane::Live => {
                queues.live_bytes += message.weight();
                queues.live.push_back(message);
            }
        }
        // O2
        let overrun = queues.control.len() > CONTROL_MESSAGES_MAX || queues.live_bytes > LIVE_BYTES_MAX;
        if overrun {
            queues.control.clear();
            queues.live.clear();
            queues.live_bytes = 0;
        }
        drop(queues);
        if overrun {
            self.end(Fault::Overrun);
        }
        match lane {
            Lane::Control => self.control.notify_one(),
            Lane::Live => self.live.notify_one(),
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
            match lane {
                Lane::Control => self.control.notified().await,
                Lane::Live => self.live.notified().await,
            }
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
        let queues = &mut *queues;
        let queue = match lane {
            Lane::Control => &mut queues.control,
            Lane::Live => &mut queues.live,
        };
        let mut bytes = 0;
        while bytes < WRITE_BYTES
            && batch.len() < WRITE_MESSAGES
            && let Some(message) = queue.pop_front()
        {
            bytes += message.weight();
            batch.push(message);
        }
        if lane == Lane::Live {
            queues.live_bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_crdt::{ActorId, Dot, Hlc, VersionVector};
    use atoll_replication::Record;
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

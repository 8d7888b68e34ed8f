//! What was sent to peers, by the type of message.
//!
//! **What always holds.** Everything that a stream took is counted once, framing included and what QUIC adds not.

use atoll_replication::wire::{HEADER_BYTES, Message};
use std::sync::atomic::{AtomicU64, Ordering};

/// Types of messages, by the byte that stands for them in a frame.
const KINDS: usize = 32;

/// Messages and bytes of one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The type, as a word.
    pub kind: &'static str,
    /// Messages.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The running counts: messages and bytes.
#[derive(Debug, Default)]
pub(super) struct SentCounters([(AtomicU64, AtomicU64); KINDS]);

impl SentCounters {
    /// Counts whole frames of ours.
    pub(super) fn count(&self, mut frames: &[u8]) {
        while let Some((head, _)) = frames.split_first_chunk::<HEADER_BYTES>() {
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize + 4;
            if let Some((messages, bytes)) = self.0.get(usize::from(head[4])) {
                messages.fetch_add(1, Ordering::Relaxed);
                bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
            frames = frames.get(length..).unwrap_or_default();
        }
    }

    pub(super) fn snapshot(&self) -> Vec<Sent> {
        let read = |(kind, (messages, bytes)): (usize, &(AtomicU64, AtomicU64))| {
            let kind = Message::type_name(kind as u8)?;
            Some(Sent { kind, messages: messages.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) })
        };
        self.0.iter().enumerate().filter_map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_leave_together_are_counted_apart() {
        let (counters, mut frames) = (SentCounters::default(), Vec::new());
        Message::Ping { sent_us: 1 }.encode(&mut frames);
        let ping = frames.len() as u64;
        Message::Ping { sent_us: 1 }.encode(&mut frames);
        Message::Resume { actor: atoll_crdt::ActorId::new(1), from: 2 }.encode(&mut frames);
        counters.count(&frames);
        let of = |kind| counters.snapshot().into_iter().find(|sent| sent.kind == kind).unwrap();
        assert_eq!(of("ping"), Sent { kind: "ping", messages: 2, bytes: 2 * ping });
        assert_eq!(of("resume"), Sent { kind: "resume", messages: 1, bytes: frames.len() as u64 - 2 * ping });
        assert_eq!(of("reconcile").messages, 0);
    }

    #[test]
    fn every_type_has_a_place() {
        assert!((KINDS..=255).all(|kind| Message::type_name(kind as u8).is_none()));
        assert_eq!(SentCounters::default().snapshot().len(), 13);
    }
}

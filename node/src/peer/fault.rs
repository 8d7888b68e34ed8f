//! Why connections to peers are refused or ended: the word for logs and metrics, the code on the wire, the count.

use atoll_replication::DisconnectReason;
use quinn::VarInt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection was refused or ended by this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A dialler was told to prove its address first, because many dial at once. Honest ones do; nothing was refused.
    Retried,
    /// Too many connections, or too many handshakes at once.
    Full,
    /// The TLS handshake failed: no certificate, or one of another CA.
    Certificate,
    /// No handshake in time, or one that is no QUIC of ours.
    Handshake,
    /// The certificate names no node, one of another cluster, or not the node that was dialled.
    Identity,
    /// The other end is this node itself.
    Own,
    /// No greeting in time.
    Greeting,
    /// A frame that does not read: unknown type, beyond its bound, damaged.
    Frame,
    /// A message on the wrong stream, a stream too many, or one that ended.
    Stream,
    /// More is waiting to be sent than the protocol ever leaves waiting.
    Overrun,
    /// The replica ended it.
    Replica(DisconnectReason),
    /// This node is stopping.
    Stopping,
}

impl Fault {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 20] = [
        Self::Retried,
        Self::Full,
        Self::Certificate,
        Self::Handshake,
        Self::Identity,
        Self::Own,
        Self::Greeting,
        Self::Frame,
        Self::Stream,
        Self::Overrun,
        Self::Replica(DisconnectReason::Duplicate),
        Self::Replica(DisconnectReason::Identity),
        Self::Replica(DisconnectReason::Version),
        Self::Replica(DisconnectReason::Protocol),
        Self::Replica(DisconnectReason::Impostor),
        Self::Replica(DisconnectReason::Silent),
        Self::Replica(DisconnectReason::Paused),
        Self::Stopping,
        Self::Replica(DisconnectReason::Removed),
        Self::Replica(DisconnectReason::Twin),
    ];

    /// A word for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retried => "retried",
            Self::Full => "full",
            Self::Certificate => "certificate",
            Self::Handshake => "handshake",
            Self::Identity => "certificate_identity",
            Self::Own => "own",
            Self::Greeting => "no_greeting",
            Self::Frame => "frame",
            Self::Stream => "stream",
            Self::Overrun => "overrun",
            Self::Replica(reason) => reason.as_str(),
            Self::Stopping => "stopping",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Retried => 0,
            Self::Full => 1,
            Self::Certificate => 2,
            Self::Handshake => 3,
            Self::Identity => 4,
            Self::Own => 5,
            Self::Greeting => 6,
            Self::Frame => 7,
            Self::Stream => 8,
            Self::Overrun => 9,
            Self::Replica(DisconnectReason::Duplicate) => 10,
            Self::Replica(DisconnectReason::Identity) => 11,
            Self::Replica(DisconnectReason::Version) => 12,
            Self::Replica(DisconnectReason::Protocol) => 13,
            Self::Replica(DisconnectReason::Impostor) => 14,
            Self::Replica(DisconnectReason::Silent) => 15,
            Self::Replica(DisconnectReason::Paused) => 16,
            Self::Stopping => 17,
            Self::Replica(DisconnectReason::Removed) => 18,
            Self::Replica(DisconnectReason::Twin) => 19,
        }
    }

    /// The application error code of a closed connection. Part of the wire protocol: numbers are never reused.
    pub(super) fn code(self) -> VarInt {
        VarInt::from_u32(self.index() as u32)
    }

    /// What a peer meant by its code.
    pub(super) fn from_code(code: VarInt) -> Option<Self> {
        usize::try_from(code.into_inner()).ok().and_then(|index| Self::ALL.get(index)).copied()
    }

    /// What of it is about this node, when a peer says it.
    pub(super) const fn about_us(self) -> Option<DisconnectReason> {
        match self {
            Self::Replica(reason @ (DisconnectReason::Removed | DisconnectReason::Twin)) => Some(reason),
            _ => None,
        }
    }

    /// Whether an operator should hear of it at once: not of ends that are part of normal life.
    pub(super) const fn is_alarming(self) -> bool {
        !matches!(
            self,
            Self::Retried
                | Self::Own
                | Self::Stopping
                | Self::Replica(DisconnectReason::Duplicate | DisconnectReason::Paused)
        )
    }
}

/// How often each happened since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts([u64; Fault::ALL.len()]);

impl FaultCounts {
    /// How often this one happened.
    #[must_use]
    pub const fn get(&self, fault: Fault) -> u64 {
        self.0[fault.index()]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Fault, u64)> + '_ {
        Fault::ALL.into_iter().zip(self.0)
    }
}

/// The running counts.
#[derive(Debug, Default)]
pub(super) struct FaultCounters([AtomicU64; Fault::ALL.len()]);

impl FaultCounters {
    pub(super) fn count(&self, fault: Fault) {
        self.0[fault.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> FaultCounts {
        FaultCounts(std::array::from_fn(|index| self.0[index].load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_words_and_counters_agree_for_every_fault() {
        let counters = FaultCounters::default();
        for (index, fault) in Fault::ALL.into_iter().enumerate() {
            assert_eq!(fault.index(), index, "{fault:?}");
            assert_eq!(Fault::from_code(fault.code()), Some(fault));
            for _ in 0..=index {
                counters.count(fault);
            }
        }
        let counts = counters.snapshot();
        assert!(counts.iter().enumerate().all(|(index, (fault, n))| n == index as u64 + 1 && n == counts.get(fault)));
        let words: std::collections::BTreeSet<_> = Fault::ALL.iter().map(|fault| fault.as_str()).collect();
        assert_eq!(words.len(), Fault::ALL.len(), "each has a word of its own");
        assert_eq!(Fault::from_code(VarInt::MAX), None);
    }
}

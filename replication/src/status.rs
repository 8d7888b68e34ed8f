//! What an operator can see of a replica.

use crate::names::{NodeName, RegionName};
use atoll_crdt::Dot;
use core::time::Duration;

/// Where a link stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// No connection.
    Down,
    /// Connected, not yet greeted.
    Connecting,
    /// The peer has everything that exists here, or nearly.
    Live,
    /// The peer is being sent what it lacks.
    CatchingUp,
    /// This node takes the peer's state over.
    Reconciling,
    /// The same, into a node that had none.
    Bootstrapping,
    /// An operator stopped it.
    Paused,
}

impl LinkState {
    /// Whether the link carries records.
    #[must_use]
    pub const fn carries_records(self) -> bool {
        matches!(self, Self::Live | Self::CatchingUp | Self::Reconciling | Self::Bootstrapping)
    }

    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::CatchingUp => "catching_up",
            Self::Reconciling => "reconciling",
            Self::Bootstrapping => "bootstrapping",
            Self::Paused => "paused",
        }
    }
}

/// One other member, as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkStatus {
    /// Which node.
    pub node: NodeName,
    /// In which region.
    pub region: RegionName,
    /// Where the link stands.
    pub state: LinkState,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// Upper bound of how old the oldest write is that the peer acknowledged and readers here miss.
    pub lag: Option<Duration>,
    /// Records that the peer holds and readers here miss.
    pub lag_records: u64,
}

/// Whether the node may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Without data; asking the seeds.
    Asking,
    /// Taking in what the cluster held when this node joined.
    Joining {
        /// How much of it is here.
        percent: u8,
    },
    /// Serving.
    Serving,
}

/// Counters since the process began. Plain numbers; the driver turns them into metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records written here.
    pub written: u64,
    /// Records of others applied here.
    pub applied: u64,
    /// Records received that were here already, or found no room.
    pub unneeded: u64,
    /// Records sent.
    pub sent: u64,
    /// Rows that a record of another left with more than one concurrent entry.
    pub conflicts: u64,
    /// Writes answered.
    pub answered: u64,
    /// Write answers that came without the level asked for.
    pub below_level: u64,
    /// Reconciliations in which this node took state over to the end.
    pub sessions_finished: u64,
    /// Those that ended before.
    pub sessions_given_up: u64,
    /// Of these, those that needed more room aside than there may be: an alarm.
    pub sessions_too_large: u64,
    /// Sessions that took up what one before had left when it was cut off.
    pub sessions_resumed: u64,
    /// Sessions that were built on disk and taken over to the end.
    pub sessions_on_disk: u64,
    /// Passes over rows on disk, beyond the first of each session: as many had changed meanwhile.
    pub further_passes: u64,
    /// Reconciliations that this node granted to peers.
    pub sessions_granted: u64,
    /// Rows that reconciliations changed here.
    pub rows_adopted: u64,
    /// Damaged rows of this node that were repaired from peers.
    pub rows_repaired: u64,
    /// Comparisons of this node's root with a peer's at equal contexts.
    pub proofs: u64,
    /// Those in which they differed: a mistake of ours or of a disk, and an alarm.
    pub divergences: u64,
    /// The last record applied, for traces.
    pub last_applied: Option<Dot>,
}

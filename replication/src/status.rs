//! What an operator can see of a replica.

use crate::names::{NodeName, RegionName};
use crate::sketch::Cell;
use alloc::vec::Vec;
use atoll_crdt::{Dot, RowKey, VersionVector};
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
    /// Its actor is not durable yet.
    Starting,
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

/// What comparing this node with every other member has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The how manieth it is in this process.
    pub count: u64,
    /// Which member is being compared; `None` when it has ended.
    pub running: Option<NodeName>,
    /// This node's context when it was last told.
    pub vector: VersionVector,
    /// The sum over this node's synced rows at that moment.
    pub root: Cell,
    /// Members that were compared, or could not be.
    pub peers: Vec<PeerVerdict>,
}

/// What comparing one member has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerVerdict {
    /// Which.
    pub node: NodeName,
    /// In which region.
    pub region: RegionName,
    /// Whether it was compared to the end.
    pub compared: bool,
    /// Why not.
    pub why: &'static str,
    /// Rows about which the two cannot both be right.
    pub differing: u64,
    /// Some of them.
    pub named: Vec<Contradiction>,
}

/// A row about which two nodes cannot both be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contradiction {
    /// Which.
    pub key: RowKey,
    /// Entries that are live here, and dead at the peer although nothing more is to come.
    pub here: usize,
    /// Entries that are live at the peer, and dead here.
    pub there: usize,
    /// The same entries with different contents.
    pub contents: bool,
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
    /// Those that were given up because the disk has no more room than the node needs itself: an alarm.
    pub sessions_disk_full: u64,
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
    /// Markers of counters that this node let go.
    pub markers_purged: u64,
    /// Actors' floors in markers that this node let go, whole markers included.
    pub floors_purged: u64,
    /// Clears of many rows that were left to be done in steps.
    pub clears_in_steps: u64,
    /// Steps of them.
    pub clear_steps: u64,
    /// Comparisons of this node's root with a peer's at equal contexts.
    pub proofs: u64,
    /// Those in which they differed: a mistake of ours or of a disk, and an alarm.
    pub divergences: u64,
    /// Rows that verifications found to contradict a peer's.
    pub contradictions: u64,
    /// Peers that digest rows under another secret: their first CA certificate is another one.
    pub foreign_digests: u64,
    /// The last record applied, for traces.
    pub last_applied: Option<Dot>,
}

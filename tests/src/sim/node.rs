//! One simulated node: a replica, its store, its clock, and what it has promised.

use super::store::MemStore;
use super::world::Event;
use atoll_crdt::VersionVector;
use atoll_replication::wire::PROTOCOL;
use atoll_replication::{Position, Readiness, Replica, RequestId};
use std::collections::BTreeMap;

/// A write that was handed in and not answered.
#[derive(Debug, Clone)]
pub struct OpenRequest {
    /// What its session had seen.
    pub token: VersionVector,
    /// Which client, if it keeps a session.
    pub client: Option<usize>,
    /// How many regions it asked for.
    pub regions: u32,
    /// Whether its node had not seen what its session had.
    pub waits: bool,
    /// What the answer must be, if the check knows more than the client.
    pub expects: Expects,
}

/// What an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expects {
    /// Anything that holds.
    #[default]
    Anything,
    /// A refusal: its token names what never was.
    Refusal,
    /// The level that was asked for.
    Level,
    /// Less than the level that was asked for.
    BelowLevel,
}

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Up, or down for a while.
    Here,
    /// It stands still: what happens to it waits.
    Frozen,
    /// It stays as it is, down or frozen, until the end.
    Broken,
    /// It and its disk are gone.
    Gone,
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub index: usize,
    /// Which name it bears: its number, or of a copy that of the original.
    pub name: usize,
    /// Its region's number.
    pub region: usize,
    /// The newest version of the protocol that it speaks.
    pub protocol: u16,
    /// `None` while it is down.
    pub replica: Option<Replica>,
    /// Its disk.
    pub store: MemStore,
    /// How often it began.
    pub boot: u64,
    /// Whether its process was told to end.
    pub ending: bool,
    /// How far its wall clock is off, in milliseconds.
    pub clock_off_ms: i64,
    /// How fast the wall clock runs beside true time, in parts of a million.
    pub drift_ppm: i64,
    /// Whether it takes part.
    pub presence: Presence,
    /// What happened to it while it stood still, in order.
    pub frozen: Vec<Event>,
    /// Until when the disk takes nothing.
    pub stalled_until_us: u64,
    /// What its disks held durably at any time, as far as a later disk does not.
    pub held_once: VersionVector,
    /// An older state of its disk.
    pub image: Option<(MemStore, atoll_replication::Recovered)>,
    /// Whether a peer that greeted this process ever had no data.
    pub has_said_none: BTreeMap<usize, bool>,
    /// Where it stood when last looked at.
    pub readiness: Readiness,
    /// The state that [`super::checks::whole`] last found right.
    pub checked: Option<Checked>,
    /// The context that the entries appended so far make, kept apart from the replica's.
    pub context: VersionVector,
    /// The log cursor that they make.
    pub cursor: VersionVector,
    /// Writes not answered.
    pub open: BTreeMap<RequestId, OpenRequest>,
    /// Whether a sync is under way, and up to where.
    pub syncing: Option<Position>,
    /// What a crash found durable; a restart begins from it.
    pub recovered: atoll_replication::Recovered,
}

/// A state of a node by what decides it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// Of its store.
    pub version: u64,
    /// All that is in its rows.
    pub context: VersionVector,
    /// What its readers see.
    pub durable: VersionVector,
}

impl Node {
    /// A node with an empty disk, not started.
    #[must_use]
    pub fn new(index: usize, region: usize, store: MemStore) -> Self {
        Self {
            index,
            name: index,
            region,
            protocol: PROTOCOL.1,
            replica: None,
            store,
            boot: 0,
            ending: false,
            clock_off_ms: 0,
            drift_ppm: 0,
            presence: Presence::Here,
            frozen: Vec::new(),
            stalled_until_us: 0,
            held_once: VersionVector::new(),
            image: None,
            has_said_none: BTreeMap::new(),
            readiness: Readiness::Asking,
            checked: None,
            context: VersionVector::new(),
            cursor: VersionVector::new(),
            open: BTreeMap::new(),
            syncing: None,
            recovered: atoll_replication::Recovered::default(),
        }
    }

    /// Whether it can be spoken to.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.presence == Presence::Here && self.replica.is_some()
    }

    /// What its disk holds durably, as far as anybody was told; of a node that is gone, nothing.
    #[must_use]
    pub fn durable(&self) -> Option<&VersionVector> {
        let durable = self.replica.as_ref().map_or(&self.recovered.clocks.context, Replica::durable);
        (self.presence != Presence::Gone).then_some(durable)
    }

    /// The wall clock at a simulated time.
    #[must_use]
    pub fn wall_ms(&self, now_us: u64) -> u64 {
        let drift_ms = (now_us / 1_000).cast_signed() * self.drift_ppm / 1_000_000;
        (1_800_000_000_000 + now_us / 1_000).saturating_add_signed(self.clock_off_ms + drift_ms)
    }
}

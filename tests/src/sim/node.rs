//! One simulated node: a replica, its store, its clock, and what it has promised.

use super::store::MemStore;
use atoll_crdt::VersionVector;
use atoll_replication::{Position, Replica, RequestId};
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
}

/// One node.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub index: usize,
    /// Its region's number.
    pub region: usize,
    /// `None` while it is down.
    pub replica: Option<Replica>,
    /// Its disk.
    pub store: MemStore,
    /// How often it began.
    pub boot: u64,
    /// How far its wall clock is off, in milliseconds.
    pub clock_off_ms: i64,
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

impl Node {
    /// A node with an empty disk, not started.
    #[must_use]
    pub fn new(index: usize, region: usize, store: MemStore) -> Self {
        Self {
            index,
            region,
            replica: None,
            store,
            boot: 0,
            clock_off_ms: 0,
            context: VersionVector::new(),
            cursor: VersionVector::new(),
            open: BTreeMap::new(),
            syncing: None,
            recovered: atoll_replication::Recovered::default(),
        }
    }

    /// The wall clock at a simulated time.
    #[must_use]
    pub fn wall_ms(&self, now_us: u64) -> u64 {
        (1_800_000_000_000 + now_us / 1_000).saturating_add_signed(self.clock_off_ms)
    }
}

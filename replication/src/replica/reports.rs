//! What the driver and operators read: getters only.

use super::{Phase, Replica};
use crate::freshness::median_offset_ms;
use crate::link::LogState;
use crate::names::{NodeName, RegionName};
use crate::roster::Fence;
use crate::status::{Counts, LinkState, LinkStatus};
use crate::time::Instant;
use alloc::vec::Vec;
use atoll_crdt::{ActorId, VersionVector};

impl Replica {
    /// The actor this process writes as.
    #[must_use]
    pub fn actor(&self) -> ActorId {
        self.actor
    }

    /// Actors of earlier processes on this disk, oldest first.
    #[must_use]
    pub fn former(&self) -> &[ActorId] {
        &self.former
    }

    /// The causal context, entries that are not durable included.
    #[must_use]
    pub fn context(&self) -> &VersionVector {
        &self.clocks.context
    }

    /// The log cursor, entries that are not durable included.
    #[must_use]
    pub fn cursor(&self) -> &VersionVector {
        &self.clocks.cursor
    }

    /// What is durable here: what readers see and peers are told.
    #[must_use]
    pub fn durable(&self) -> &VersionVector {
        &self.durable
    }

    /// What this node tells of its log.
    #[must_use]
    pub fn log_state(&self) -> &LogState {
        &self.log
    }

    /// Counters since the process began.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// When the oldest data of the cluster that this node knows of was founded, in wall milliseconds.
    #[must_use]
    pub fn founded_ms(&self) -> u64 {
        self.founded_ms
    }

    /// As of when readers here miss nothing that another region has acknowledged; `None` while one never answered.
    #[must_use]
    pub fn fresh_as_of(&self, now: Instant) -> Option<Instant> {
        self.freshness.of_all(now, &self.config.region, self.roster.regions())
    }

    /// The cluster's regions: those that were declared and those of members, less those that every member left.
    #[must_use]
    pub fn regions(&self) -> &[RegionName] {
        self.roster.regions()
    }

    /// Why clients' writes are refused, if they are.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        self.roster.fence(self.now.instant)
    }

    /// As of when readers here miss nothing that `region` has acknowledged.
    #[must_use]
    pub fn fresh_of_region(&self, region: &RegionName) -> Option<Instant> {
        self.freshness.of_region(region)
    }

    /// The peers' median clock less this node's, less what the round trip leaves open.
    #[must_use]
    pub fn clock_skew_ms(&self) -> i64 {
        median_offset_ms(self.links.values().filter_map(|link| link.offset_ms).collect())
    }

    /// Damaged rows that no peer has repaired yet: an alarm.
    #[must_use]
    pub fn holes(&self) -> usize {
        self.holes.len()
    }

    /// Actors whose streams wait at a record that is stamped too far ahead of this node's clock, or kills what its writer
    /// cannot have seen, or touches a damaged row: an alarm.
    #[must_use]
    pub fn parked(&self) -> &[ActorId] {
        &self.parked
    }

    /// Reconciliations under way: whether this node takes state over, and how many peers take over its own.
    #[must_use]
    pub fn sessions(&self) -> (bool, usize) {
        (self.receiving.is_some(), self.sources.len())
    }

    /// Bytes of records held back because something before them is missing.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.pending.bytes()
    }

    /// Every other member, as this node sees it at `now`.
    #[must_use]
    pub fn peers(&self, now: Instant) -> Vec<LinkStatus> {
        self.freshness
            .members()
            .map(|(node, region)| LinkStatus {
                node: node.clone(),
                region: region.clone(),
                state: self.link_state(node),
                rtt: self.live_link(node).and_then(|link| link.rtt),
                lag: self.freshness.of(node).map(|fresh| now.since(fresh)),
                lag_records: self.live_link(node).map_or(0, |link| {
                    link.peer().iter().map(|dot| dot.seq.saturating_sub(self.durable.get(dot.actor))).sum()
                }),
            })
            .collect()
    }

    fn link_state(&self, node: &NodeName) -> LinkState {
        if self.held || self.paused.contains(node) {
            return LinkState::Paused;
        }
        match self.links.values().filter(|link| link.node == *node).max_by_key(|link| link.is_live()) {
            None => LinkState::Down,
            Some(link) if !link.is_live() => LinkState::Connecting,
            Some(link) if self.receiving.as_ref().is_some_and(|receiver| receiver.link == link.id) => {
                if matches!(self.phase, Phase::Serving) { LinkState::Reconciling } else { LinkState::Bootstrapping }
            }
            Some(link) if link.lacks_records() > self.config.limits.catching_up_records => LinkState::CatchingUp,
            Some(_) => LinkState::Live,
        }
    }
}

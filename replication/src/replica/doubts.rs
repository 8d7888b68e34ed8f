//! Peers whose roots differed at equal contexts: which rows it is about.
//!
//! **How it goes.** The peer is compared as a verification would compare it ([`super::verify`]), once at a time and again every
//! [`Limits::verify_peer`](crate::Limits::verify_peer) until the roots are equal again. What is found is told with the alarm.
//!
//! **What always holds.** Nothing is repaired by this. At most [`NAMED_MAX`] rows a peer are kept; a verification that an
//! operator asks for goes first.

use super::Replica;
use crate::names::{NodeName, RegionName};
use crate::status::PeerVerdict;
use crate::time::Instant;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Rows of one peer that the alarm names.
const NAMED_MAX: usize = 8;

/// The peers, by name.
pub(super) type Doubts = BTreeMap<NodeName, Doubt>;

/// One of them.
#[derive(Debug)]
pub(super) struct Doubt {
    region: RegionName,
    /// When it is compared next.
    pub(super) compare_at: Instant,
    found: Option<Arc<PeerVerdict>>,
}

impl Replica {
    /// What is known of the rows in which peers with equal contexts differ from this node: one verdict a peer.
    #[must_use]
    pub fn divergent(&self) -> Vec<Arc<PeerVerdict>> {
        self.doubts.values().filter_map(|doubt| doubt.found.clone()).collect()
    }

    /// Roots were compared with a peer's at equal contexts.
    pub(super) fn roots_compared(&mut self, node: NodeName, region: RegionName, equal: bool) {
        if equal {
            self.doubts.remove(&node);
        } else {
            let compare_at = self.now.instant;
            self.doubts.entry(node).or_insert(Doubt { region, compare_at, found: None });
        }
    }

    /// The next peer to be compared because of its root.
    pub(super) fn next_doubted(&mut self) -> Option<(NodeName, RegionName)> {
        let now = self.now.instant;
        let (node, doubt) = self.doubts.iter_mut().find(|(_, doubt)| doubt.compare_at <= now)?;
        doubt.compare_at = now + self.config.limits.verify_peer;
        Some((node.clone(), doubt.region.clone()))
    }

    /// A peer was compared because of its root.
    pub(super) fn doubt_examined(&mut self, mut verdict: PeerVerdict) {
        verdict.named.truncate(NAMED_MAX);
        if let Some(doubt) = self.doubts.get_mut(&verdict.node)
            && verdict.compared
        {
            doubt.found = Some(Arc::new(verdict));
        }
    }
}

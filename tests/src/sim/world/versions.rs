//! Nodes of two versions of the protocol in one world: some begin with the older one, and operators restart one after the
//! other with another version while everything else happens.
//!
//! **What always holds.** Nobody is told what its version does not know.

use super::World;
use crate::sim::random::Random;
use atoll_replication::wire::{Message, PROTOCOL};
use atoll_replication::{DisconnectReason, LinkId, Reconcile, Step};

/// Of a thousand restarts of a node of the newest version, those with the older one.
const ROLLED_BACK: u64 = 250;

impl World {
    /// Chooses who begins with the older version.
    pub(super) fn draw_versions(&mut self) {
        let Some(mixed) = self.options.mixed else { return };
        let mut random = Random::new(self.options.seed ^ 0x0e_4510);
        for node in &mut self.nodes {
            node.protocol = if random.permille(mixed.older) { PROTOCOL.0 } else { PROTOCOL.1 };
        }
        let first = random.below(self.nodes.len() as u64) as usize;
        self.nodes[first].protocol = PROTOCOL.0;
    }

    /// An operator stops a process, as is proper, and starts the other version.
    pub(super) fn change_version(&mut self, index: usize) -> Result<(), String> {
        if !self.nodes[index].is_up() {
            return Ok(());
        }
        let back = self.nodes[index].protocol == PROTOCOL.1;
        if back && !self.random.permille(ROLLED_BACK) {
            return Ok(());
        }
        self.stop_cleanly(index)?;
        self.nodes[index].protocol = if back { PROTOCOL.0 } else { PROTOCOL.1 };
        self.fault_of(if back { "nodes rolled back to the older version" } else { "nodes upgraded" });
        self.restart_later(index);
        Ok(())
    }

    /// With the faults, the rollout comes to its end, if it ever does.
    pub(super) fn finish_rollout(&mut self, index: usize) -> Result<(), String> {
        let ends = self.options.mixed.is_some_and(|mixed| mixed.all_in_the_end);
        if ends && self.nodes[index].protocol != PROTOCOL.1 {
            self.stop_cleanly(index)?;
            self.nodes[index].protocol = PROTOCOL.1;
            self.fault_of("nodes upgraded");
        }
        Ok(())
    }

    /// Versions of a node and of the other side of one of its connections, if that stands and they differ.
    fn between(&self, node: usize, link: LinkId) -> Option<(u16, u16)> {
        let (other, _) = self.network.other_side(node, link)?;
        let versions = (self.nodes[node].protocol, self.nodes[other].protocol);
        (versions.0 != versions.1).then_some(versions)
    }

    /// What is said must be known to whoever hears it.
    pub(super) fn check_version(&self, from: usize, to: usize, message: &Message) -> Result<(), String> {
        let spoken = self.nodes[from].protocol.min(self.nodes[to].protocol);
        if spoken < first_version(message) {
            return Err(format!("n{from} says to n{to} what version {spoken} has no word for: {message:?}"));
        }
        Ok(())
    }

    /// Counts what arrives from a node of another version, before it is handled.
    pub(super) fn note_versions(&mut self, to: usize, link: LinkId, message: &Message) {
        let Some((own, other)) = self.between(to, link) else { return };
        let takes_over = self.nodes[to].replica.as_ref().is_some_and(|replica| replica.sessions().0);
        let found = match message {
            Message::Records(_) if own < other => "records from a newer version",
            Message::Records(_) => "records from an older version",
            Message::Reconcile(Reconcile { step: Step::Close, .. }) if !takes_over => "verifications between versions",
            Message::Reconcile(Reconcile { step: Step::Close, .. }) if own < other => {
                "sessions served by a newer version"
            }
            Message::Reconcile(Reconcile { step: Step::Close, .. }) => "sessions served by an older version",
            Message::Root { .. } => "roots between versions",
            _ => return,
        };
        self.reach(found);
    }

    /// A connection is ended, for a reason that is about the other side.
    pub(super) fn note_refusal(&mut self, node: usize, link: LinkId, reason: DisconnectReason) {
        if reason == DisconnectReason::Removed && self.between(node, link).is_some() {
            self.reach("members removed by another version");
        }
    }

    /// A node has taken in what it joined for.
    pub(super) fn note_join(&mut self, index: usize) {
        let own = self.nodes[index].protocol;
        let others = self.nodes.iter().filter(|node| self.network.are_connected(index, node.index));
        let mut others = others.map(|node| node.protocol).peekable();
        if others.peek().is_some() && others.all(|other| other != own) {
            self.reach(if own == PROTOCOL.0 { "joins of an older version" } else { "joins of a newer version" });
        }
    }
}

/// The first version that has a word for this.
fn first_version(message: &Message) -> u16 {
    match message {
        Message::Details(_) | Message::News(..) | Message::Probe { .. } | Message::Beat(_) | Message::Proof { .. } => 2,
        Message::Reconcile(Reconcile { step, .. }) => match step {
            Step::Open(open) if open.more.is_some() => 2,
            Step::Accept { rows: Some(_), .. } | Step::Taken(_) => 2,
            Step::States(states) if states.checked => 2,
            _ => 1,
        },
        _ => 1,
    }
}

//! A member that is removed by force while it may still run: the others refuse it, and at the end what it alone holds is
//! carried over by hand.

use super::{Event, World, node_name, region};
use crate::sim::checks;
use crate::sim::node::{Node, Presence};
use atoll_crdt::VersionVector;
use atoll_replication::{Input, Member, Membership, RecordBytes};

/// Bytes of records that an operator carries at once: several times for most.
const CARRIED_BYTES: usize = 600;

impl World {
    /// The roster as the nodes have it that have heard of a removal.
    pub(super) fn members(&self, knows: bool) -> Vec<Member> {
        let membership = |n| if knows && self.removed == Some(n) { Membership::Removed } else { Membership::Active };
        let member =
            |n| Member { node: node_name(n), region: region(n % self.options.regions), membership: membership(n) };
        (0..self.options.nodes).map(member).collect()
    }

    /// An operator removes a node by force; the others hear of it one by one.
    pub(super) fn remove_member(&mut self, index: usize) {
        self.removed = Some(index);
        for node in (0..self.nodes.len()).filter(|node| *node != index) {
            let after = self.random.between(1_000, 3_000_000);
            self.at(after, Event::Roster { node });
        }
        self.fault_of("members removed by force");
    }

    pub(super) fn told_of_removal(&mut self, node: usize) -> Result<(), String> {
        let members = self.members(true);
        self.input(node, Input::Members(members))
    }

    /// Whether a node knows of a removal from its own rows: the removed one does not.
    pub(super) fn knows_of_removal(&self, index: usize) -> bool {
        self.removed != Some(self.nodes[index].name)
    }

    /// After all faults an operator takes what the removed node alone holds to a member, and switches it off.
    pub(super) fn carry_over(&mut self) -> Result<(), String> {
        let Some(from) = self.removed else { return Ok(()) };
        for node in self.core.clone() {
            self.told_of_removal(node)?;
        }
        let Some(to) = self.core.first().copied() else { return Ok(()) };
        self.begin_anew(from);
        let mut beyond = self.nodes[to].durable().cloned().unwrap_or_default();
        let (mut missing, mut held_back) = (0, 0);
        loop {
            let node = &self.nodes[from];
            let Some(replica) = &node.replica else { return Ok(()) };
            let part = replica.export(&beyond, CARRIED_BYTES, &node.store).map_err(|error| error.to_string())?;
            if part.upto.is_empty() {
                break;
            }
            missing += part.missing;
            beyond.join(&part.upto);
            held_back += self.import(to, part.records)?;
            self.reach("records carried over by hand");
        }
        let held = self.nodes[from].durable().cloned().unwrap_or_default();
        self.stop(from)?;
        self.nodes[from].presence = Presence::Broken;
        // What a log no longer holds cannot be carried, nor what builds on it, nor more than there is room for.
        self.carried = if missing == 0 && held_back == 0 { held } else { VersionVector::new() };
        Ok(())
    }

    /// Hands records to a node; how many of them it could not apply yet comes back.
    fn import(&mut self, to: usize, records: Vec<RecordBytes>) -> Result<u64, String> {
        let now = self.now(to);
        let mut effects = Vec::new();
        let node = &mut self.nodes[to];
        let Some(replica) = &mut node.replica else { return Ok(0) };
        let imported =
            replica.import(now, records, &mut node.store, &mut effects).map_err(|error| error.to_string())?;
        let Some(imported) = imported else {
            return Err(format!("n{to} takes records that it did not write for its own"));
        };
        checks::after_step(node, &mut self.history).map_err(|what| format!("n{to}: {what}"))?;
        self.begin_sync(to);
        for effect in effects {
            self.effect(to, effect)?;
        }
        Ok(imported.held_back)
    }

    /// Whether all that was carried over came through.
    pub(super) fn check_carried(&self, end: &VersionVector) -> Result<(), String> {
        if self.carried.leq(end) {
            return Ok(());
        }
        let lines: Vec<_> = self.nodes.iter().filter_map(Node::durable).collect();
        Err(format!("what was carried over did not come through: {:?} of {lines:?}", self.carried.beyond(end)))
    }
}

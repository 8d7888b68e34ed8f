//! Members that leave. One is removed by force while it may still run: the others refuse it, and at the end what it alone
//! holds is carried over by hand. Another is drained, and removed when some other holds all that it does.

use super::{Event, World, node_name, region};
use crate::sim::checks;
use crate::sim::node::{Node, Presence};
use atoll_crdt::VersionVector;
use atoll_replication::{Fence, Input, Member, Membership, RecordBytes};

/// Bytes of records that an operator carries at once: several times for most.
const CARRIED_BYTES: usize = 600;

impl World {
    /// The roster as this node has it: of its own removal nobody tells it.
    pub(super) fn members(&self, viewer: usize) -> Vec<Member> {
        let own = self.nodes[viewer].name;
        let standing = |n| match Some(n) {
            of if of == self.removed && n != own => Membership::Removed,
            of if of == self.draining && self.nodes[n].presence == Presence::Gone => Membership::Removed,
            of if of == self.draining => Membership::Draining,
            _ => Membership::Active,
        };
        let member =
            |n| Member { node: node_name(n), region: region(n % self.options.regions), membership: standing(n) };
        (0..self.options.nodes).map(member).collect()
    }

    /// All but one hear of a decision, one by one.
    fn spread_the_word(&mut self, except: Option<usize>) {
        for node in (0..self.nodes.len()).filter(|node| Some(*node) != except) {
            let after = self.random.between(1_000, 3_000_000);
            self.at(after, Event::Roster { node });
        }
    }

    pub(super) fn told_of_members(&mut self, node: usize) -> Result<(), String> {
        let members = self.members(node);
        self.input(node, Input::Members(members))
    }

    /// An operator removes a node by force.
    pub(super) fn remove_member(&mut self, index: usize) {
        self.removed = Some(index);
        self.spread_the_word(Some(index));
        self.fault_of("members removed by force");
    }

    /// An operator begins to drain a node.
    pub(super) fn drain_member(&mut self, index: usize) {
        self.draining = Some(index);
        self.spread_the_word(None);
        self.fault_of("members drained");
    }

    /// Switches a drained node off as soon as another holds all that it does.
    pub(super) fn remove_drained(&mut self) -> Result<(), String> {
        let Some(index) = self.draining.filter(|index| self.nodes[*index].is_up()) else { return Ok(()) };
        let node = &self.nodes[index];
        let drained = node.replica.as_ref().is_some_and(|replica| replica.fence() == Some(Fence::Draining));
        // The one that the operator asks: the others will have it from there.
        let mut others = self.nodes.iter().filter(|other| other.index != index && other.is_up());
        let held = others.any(|other| other.durable().is_some_and(|durable| node.context.leq(durable)));
        if drained && held && node.open.is_empty() {
            self.reach("drained members removed");
            self.remove(index)?;
            self.spread_the_word(Some(index));
        }
        Ok(())
    }

    /// A drain that has not come to its end with the faults is called off; of one that has, everybody knows.
    pub(super) fn end_draining(&mut self) -> Result<(), String> {
        let Some(index) = self.draining else { return Ok(()) };
        if self.nodes[index].presence != Presence::Gone {
            self.draining = None;
            self.reach("drains called off");
        }
        for node in self.core.clone() {
            self.told_of_members(node)?;
        }
        Ok(())
    }

    /// After all faults an operator takes what the removed node alone holds to a member, and switches it off.
    pub(super) fn carry_over(&mut self) -> Result<(), String> {
        let Some(from) = self.removed else { return Ok(()) };
        for node in self.core.clone() {
            self.told_of_members(node)?;
        }
        let Some(to) = self.core.first().copied() else { return Ok(()) };
        self.begin_anew(from)?;
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

//! What breaks: processes, disks, clocks, connections and the network between nodes.
//!
//! **What always holds.** A disk that is replaced by an older one may take the last copy of something along; what that
//! is, is known exactly, and nothing else may be missing afterwards ([`World::is_lost`]).

use super::{Event, Phase, World, node_name};
use crate::sim::checks;
use crate::sim::node::{Node, Presence};
use crate::sim::options::Mix;
use crate::sim::store::MemStore;
use atoll_crdt::{Dot, VersionVector};
use atoll_replication::{Input, Readiness, Recovered};

const YEAR_MS: i64 = 365 * 24 * 3_600 * 1_000;

/// The rarer faults, of which a seed has some.
#[derive(Debug, Clone, Copy)]
enum Rarer {
    Restore,
    Wipe,
    Clone,
    Pause,
    Jump,
    Stall,
    Reset,
    Clog,
    Operator,
    Remove,
    Drain,
    Version,
}

impl World {
    /// A row rots, if another node is sure to keep what it held: else there would be nothing to repair it from.
    pub(super) fn rot(&mut self, index: usize) {
        let context = &self.nodes[index].context;
        let is_there = |node: &Node| node.index != index && self.core_or_all(node.index);
        let held = |node: &Node| is_there(node) && node.durable().is_some_and(|durable| context.leq(durable));
        if self.nodes.iter().any(|node| node.store.has_rot()) || !self.nodes.iter().any(held) {
            return;
        }
        let keys: Vec<_> = self.nodes[index].store.rows().keys().cloned().collect();
        for _ in 0..self.random.between(1, 3) {
            if let Some(key) = self.random.pick(&keys)
                && self.nodes[index].store.rots(key)
            {
                self.fault_of("rows that rot");
            }
        }
    }

    fn core_or_all(&self, index: usize) -> bool {
        self.phase == Phase::Faulty || self.core.contains(&index)
    }

    pub(super) fn fault(&mut self, index: usize) -> Result<(), String> {
        // With short logs, what a node held at its next start may be in no log and at no other node: then it is for an
        // operator to say what the row held.
        let repairable = self.options.log_records_max == usize::MAX;
        if self.options.rot && repairable && self.random.permille(300) {
            self.rot(index);
            return Ok(());
        }
        let rarer = self.rarer();
        if !rarer.is_empty() && self.random.permille(600) {
            let fault = *self.random.pick(&rarer).unwrap_or(&rarer[0]);
            return self.rare_fault(fault, index);
        }
        if self.options.crashes && self.random.permille(500) {
            return if self.random.permille(300) { self.end_in_order(index) } else { self.crash(index) };
        }
        if self.options.partitions {
            self.cut(index);
        }
        Ok(())
    }

    fn rarer(&self) -> Vec<Rarer> {
        let rare = &self.options.rare;
        let with = |share: bool, fault: Rarer| share.then_some(fault);
        [
            with(rare.restores, Rarer::Restore),
            with(rare.wipes, Rarer::Wipe),
            with(rare.clones && self.nodes.len() == self.options.nodes, Rarer::Clone),
            with(rare.pauses, Rarer::Pause),
            with(rare.clock_jumps, Rarer::Jump),
            with(rare.stalls, Rarer::Stall),
            with(rare.resets, Rarer::Reset),
            with(rare.clogs, Rarer::Clog),
            with(rare.operator, Rarer::Operator),
            with(rare.removals && self.removed.is_none() && self.options.nodes > 2, Rarer::Remove),
            with(rare.drains && self.draining.is_none() && self.options.nodes > 2, Rarer::Drain),
            with(self.options.mixed.is_some(), Rarer::Version),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn rare_fault(&mut self, fault: Rarer, index: usize) -> Result<(), String> {
        match fault {
            Rarer::Restore => return self.restore(index),
            Rarer::Wipe => {
                // Two at once ask the same source, which grants one session at a time.
                let others = if self.options.mix == Mix::HugeSets { 2 } else { 1 };
                let all_but_one = self.options.rare.stampedes && self.random.permille(500);
                let wiped = if all_but_one {
                    self.reach("disks wiped all but one");
                    0..self.nodes.len() - 1
                } else if self.options.rare.stampedes && self.random.permille(500) {
                    // The one that was left, while the others take it over.
                    self.nodes.len() - 1..self.nodes.len()
                } else {
                    index..(index + others).min(self.nodes.len())
                };
                for index in wiped {
                    let cells = self.nodes[index].store.prefix_cells();
                    let store = MemStore::keeping(self.options.log_records_max, cells);
                    self.replace_disk(index, store, Recovered::default(), "disks wiped")?;
                }
            }
            Rarer::Clone => self.clone_disk(index),
            Rarer::Pause => self.pause(index),
            Rarer::Jump => {
                let ahead = self.random.permille(500);
                self.nodes[index].clock_off_ms += if ahead { YEAR_MS } else { -YEAR_MS };
                self.clock_max_ms = self.clock_max_ms.max(self.nodes[index].clock_off_ms);
                self.fault_of(if ahead { "clocks that jump ahead" } else { "clocks that jump back" });
            }
            Rarer::Stall => {
                let takes = self.random.between(1_000_000, 8_000_000);
                self.nodes[index].stalled_until_us = self.now_us + takes;
                self.fault_of("disks that stall");
            }
            Rarer::Reset => self.reset(),
            Rarer::Clog => {
                let to = self.random.below(self.nodes.len() as u64) as usize;
                let until_us = self.now_us + self.random.between(200_000, 10_000_000);
                self.network.clog(index, to, until_us);
                self.fault_of("clogs");
            }
            Rarer::Remove => self.remove_member(index),
            Rarer::Drain => self.drain_member(index),
            Rarer::Version => return self.change_version(index),
            Rarer::Operator => {
                let peer = self.random.below(self.options.nodes as u64) as usize;
                if self.nodes[index].is_up() && self.nodes[index].name != peer {
                    let resumes = self.random.between(50_000, 5_000_000);
                    self.at(resumes, Event::Resume { node: index, peer });
                    self.fault_of("links paused by an operator");
                    return self.input(index, Input::Pause(node_name(peer), true));
                }
            }
        }
        Ok(())
    }

    fn cut(&mut self, index: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            if self.random.permille(700) {
                self.network.cut(index, other);
                if !self.options.one_way || self.random.permille(500) {
                    self.network.cut(other, index);
                    self.fault_of("two-way cuts");
                } else {
                    self.fault_of("one-way cuts");
                }
            }
        }
        let up: Vec<_> = self.nodes.iter().filter(|node| node.is_up()).map(|node| node.index).collect();
        if self.network.is_partial(&up) {
            self.reach("partitions that are not transitive");
        }
        let heals = self.random.between(50_000, 5_000_000);
        self.at(heals, Event::Heal);
    }

    // -- processes -------------------------------------------------------------------------------------------------

    pub(super) fn crash(&mut self, index: usize) -> Result<(), String> {
        if !self.stop(index)? {
            return Ok(());
        }
        self.restart_later(index);
        Ok(())
    }

    pub(super) fn restart_later(&mut self, index: usize) {
        let down_us = self.random.between(1_000, 3_000_000);
        self.at(down_us, Event::Restart { node: index });
    }

    /// Tells a process to end, as an operator does who takes a new version into use; it is gone a while later.
    fn end_in_order(&mut self, index: usize) -> Result<(), String> {
        if !self.nodes[index].is_up() || self.nodes[index].ending {
            return Ok(());
        }
        self.nodes[index].ending = true;
        let (after, boot) = (self.random.between(1_000, 3_000_000), self.nodes[index].boot);
        self.at(after, Event::Ended { node: index, boot });
        self.fault_of("processes that end in order");
        self.input(index, Input::Ending)
    }

    /// Ends a process as a power cut does; says whether there was one.
    pub(super) fn stop(&mut self, index: usize) -> Result<bool, String> {
        let Some(replica) = &self.nodes[index].replica else { return Ok(false) };
        if replica.readiness() == Readiness::Starting {
            self.reach("crashes of processes that have not begun");
        }
        let unsynced = self.nodes[index].store.unsynced();
        let keep = self.random.below(unsynced as u64 + 1) as usize;
        self.fault_of(if keep < unsynced { "crashes that lose entries" } else { "crashes that lose nothing" });
        self.end_process(index, keep).map(|()| true)
    }

    /// Ends a process as an operator does: with everything synced.
    pub(super) fn stop_cleanly(&mut self, index: usize) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if node.replica.is_none() {
            return Ok(());
        }
        node.store.sync_to(node.store.last());
        self.reach("processes stopped cleanly");
        self.end_process(index, 0)
    }

    /// Ends a process; of what was not synced, `keep` entries stay.
    fn end_process(&mut self, index: usize, keep: usize) -> Result<(), String> {
        self.tally(index);
        let node = &mut self.nodes[index];
        let Some(replica) = node.replica.take() else { return Ok(()) };
        let recovered = node.store.crash(keep);
        checks::after_crash(replica.durable(), &recovered.clocks.context)?;
        node.recovered = recovered;
        node.open.clear();
        node.frozen.clear();
        node.boot += 1;
        if node.presence == Presence::Frozen {
            node.presence = Presence::Here;
        }
        for (other, link) in self.network.disconnect_all(index) {
            let delay = self.random.between(0, 2_000_000);
            self.at(delay, Event::Hangup { to: other, link, why: None });
        }
        Ok(())
    }

    /// Stands still for seconds, now and then for minutes.
    fn pause(&mut self, index: usize) {
        if !self.nodes[index].is_up() {
            return;
        }
        let long = self.options.rare.long_pauses && self.random.permille(200);
        let takes = if long { self.random.between(60, 600) } else { self.random.between(1, 20) } * 1_000_000;
        self.nodes[index].presence = Presence::Frozen;
        self.at(takes, Event::Thaw { node: index });
        self.fault_of(if long { "processes paused for minutes" } else { "processes paused" });
        if long && self.actions_left > 1 {
            // What clients do while it stands still happens before and after.
            self.silent_until_us = self.now_us + takes / 2;
        }
    }

    /// Goes on: all that has happened to it meanwhile comes at once, in order.
    pub(super) fn thaw(&mut self, index: usize) {
        if self.nodes[index].presence == Presence::Frozen {
            self.nodes[index].presence = Presence::Here;
            for event in std::mem::take(&mut self.nodes[index].frozen) {
                self.at(0, event);
            }
        }
    }

    // -- disks -----------------------------------------------------------------------------------------------------

    /// Keeps an older state of some disk at hand, for [`Self::restore`].
    pub(super) fn take_image(&mut self) {
        if self.options.rare.restores && self.random.permille(60) {
            let index = self.random.below(self.nodes.len() as u64) as usize;
            self.nodes[index].image = Some(self.nodes[index].store.image());
        }
    }

    fn restore(&mut self, index: usize) -> Result<(), String> {
        let Some((store, recovered)) = self.nodes[index].image.take() else { return Ok(()) };
        self.replace_disk(index, store, recovered, "disks restored")
    }

    fn replace_disk(
        &mut self,
        index: usize,
        store: MemStore,
        recovered: Recovered,
        what: &'static str,
    ) -> Result<(), String> {
        // With all data gone there is nothing to come back to.
        let mut others = self.nodes.iter().filter(|node| node.index != index).filter_map(Node::durable);
        if self.nodes[index].presence == Presence::Gone || others.all(VersionVector::is_empty) {
            return Ok(());
        }
        self.crash(index)?;
        let node = &mut self.nodes[index];
        let held = node.recovered.clocks.context.clone();
        (node.store, node.recovered, node.image, node.checked) = (store, recovered, None, None);
        self.disk_lost(index, &held);
        self.fault_of(what);
        Ok(())
    }

    /// A disk that held `held` does not any more: what no other disk holds may be missing from now on.
    fn disk_lost(&mut self, index: usize, held: &VersionVector) {
        self.nodes[index].held_once.join(held);
        for dot in held.iter() {
            let upto = self.nodes.iter().filter_map(Node::durable).map(|durable| durable.get(dot.actor)).max();
            let upto = upto.unwrap_or(0);
            if upto < dot.seq {
                let safe = self.safe_upto.entry(dot.actor).or_insert(upto);
                *safe = upto.min(*safe);
                self.reach("records lost with the last disk that held them");
            }
        }
    }

    /// Whether a disk took the last durable copy of this record along.
    pub(super) fn is_lost(&self, dot: Dot) -> bool {
        self.safe_upto.get(&dot.actor).is_some_and(|safe| dot.seq > *safe)
    }

    /// Whether some disk holds a record.
    pub(super) fn is_held(&self, dot: Dot) -> bool {
        self.nodes.iter().filter_map(Node::durable).any(|durable| durable.covers(dot))
    }

    /// Starts a process on a copy of a disk, under the same name, beside the original.
    fn clone_disk(&mut self, index: usize) {
        if !self.nodes[index].is_up() {
            return;
        }
        let original = &self.nodes[index];
        let (store, recovered) = original.store.image();
        let mut copy = Node::new(self.nodes.len(), original.region, store);
        (copy.name, copy.protocol) = (original.name, original.protocol);
        copy.recovered = recovered;
        self.nodes.push(copy);
        self.start(self.nodes.len() - 1);
        self.fault_of("disks started twice");
    }

    /// A node and its disk go for ever.
    pub(super) fn remove(&mut self, index: usize) -> Result<(), String> {
        self.stop(index)?;
        let held = self.nodes[index].recovered.clocks.context.clone();
        self.nodes[index].presence = Presence::Gone;
        self.disk_lost(index, &held);
        self.core.retain(|of| *of != index);
        Ok(())
    }

    // -- connections -----------------------------------------------------------------------------------------------

    /// Some connection breaks: for both sides, or for one, which the other finds out by its silence.
    fn reset(&mut self) {
        let Some((node, link)) = self.network.any(&mut self.random) else { return };
        let Some((other, other_link)) = self.network.disconnect(node, link) else { return };
        if self.random.permille(500) {
            self.network.sever(node, link);
            self.network.sever(other, other_link);
        }
        let half_open = self.random.permille(300);
        self.at(0, Event::Hangup { to: node, link, why: None });
        if !half_open {
            let delay = self.random.between(0, 500_000);
            self.at(delay, Event::Hangup { to: other, link: other_link, why: None });
        }
        self.fault_of(if half_open { "half-open connections" } else { "connections reset" });
    }

    // -- clocks ----------------------------------------------------------------------------------------------------

    /// After the faults every clock shows the same, and no less than any ever did: stamps of the future have come.
    pub(super) fn set_clock(&mut self, index: usize) {
        debug_assert!(self.phase != Phase::Faulty, "clocks are set when faults are over");
        if self.options.rare.clock_jumps || self.options.epilogue {
            self.nodes[index].clock_off_ms = self.clock_max_ms.max(0) + 30_000;
            self.nodes[index].drift_ppm = 0;
        }
    }
}

//! How a run ends: faults stop, for all nodes or for a majority of them; what healed must converge, give the write levels
//! that it can, and then fall silent.

use super::World;
use crate::sim::node::{Expects, Node, Presence};
use atoll_crdt::VersionVector;
use atoll_replication::{Input, Readiness, Store as _};
use std::time::Duration;

/// Simulated time within which a healed world must have converged: the longest pause between two attempts to send again
/// is 30 s, and a stamp of the future is waited for.
const CONVERGE_US: u64 = 180_000_000;
/// Between converging and being watched: what was on its way arrives, logs are truncated, late reports are made.
const SETTLE_US: u64 = 5_000_000;
/// For how long a world in which nothing happens is watched.
const WATCH_US: u64 = 5_000_000;
/// How long a write level that can be had may take: connections come first, and what is sent again comes at last.
const LEVEL_WAIT: Duration = Duration::from_secs(60);

/// How far a run is; times are when the phase must be over, or is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Anything may fail.
    Faulty,
    /// What healed has to converge until then.
    Healing(u64),
    /// Its write levels were asked for; it has to converge again until then.
    Probing(u64),
    /// Nothing happens.
    Settling(u64),
    /// Nothing happens, and what is said is counted.
    Watching(u64),
}

impl Phase {
    /// Whether what healed is to be left alone.
    pub(super) const fn is_watched(self) -> bool {
        !matches!(self, Self::Faulty | Self::Healing(_))
    }
}

impl World {
    /// Goes on to the next phase when it is time; says whether the run is over.
    pub(super) fn has_ended(&mut self) -> Result<bool, String> {
        if self.phase == Phase::Faulty {
            if self.actions_left == 0 {
                self.heal()?;
            }
            return Ok(false);
        }
        let looks = self.report.events.is_multiple_of(16);
        match self.phase {
            Phase::Healing(deadline) | Phase::Probing(deadline) if looks => {
                self.let_the_copy_go()?;
                let begun_us = deadline - CONVERGE_US;
                if self.has_converged() && (!self.options.epilogue || self.now_us > begun_us + SETTLE_US) {
                    if std::mem::take(&mut self.options.rot) {
                        // Once more, where every log is as short as it may be.
                        let index = *self.random.pick(&self.core).unwrap_or(&0);
                        self.rot(index);
                        self.nodes[index].store.scrub();
                        self.phase = Phase::Healing(self.now_us + CONVERGE_US);
                        return Ok(false);
                    }
                    return self.converged();
                }
                if self.now_us > deadline {
                    let seconds = CONVERGE_US / 1_000_000;
                    return Err(format!("not converged {seconds} s after healing: {}", self.summary()));
                }
            }
            Phase::Settling(until) if self.now_us >= until => {
                self.said.clear();
                self.phase = Phase::Watching(self.now_us + WATCH_US);
            }
            Phase::Watching(until) if self.now_us >= until => {
                self.check_silence()?;
                self.check_end()?;
                return Ok(true);
            }
            _ => {}
        }
        Ok(false)
    }

    fn converged(&mut self) -> Result<bool, String> {
        if !self.options.epilogue {
            self.check_end()?;
            return Ok(true);
        }
        if matches!(self.phase, Phase::Healing(_)) {
            self.phase = Phase::Probing(self.now_us + CONVERGE_US);
            self.ask_for_levels()?;
        } else {
            self.phase = Phase::Settling(self.now_us + SETTLE_US);
        }
        Ok(false)
    }

    fn heal(&mut self) -> Result<(), String> {
        self.phase = Phase::Healing(self.now_us + CONVERGE_US);
        self.core = (0..self.nodes.len())
            .filter(|index| self.nodes[*index].presence != Presence::Gone && self.removed != Some(*index))
            .collect();
        for index in 0..self.nodes.len() {
            if self.nodes[index].ending {
                self.stop(index)?;
            }
        }
        self.stop_a_copy()?;
        let broken = if self.options.core_only { self.choose_broken() } else { Vec::new() };
        self.core.retain(|index| !broken.contains(index));
        self.network.heal();
        (self.options.loss, self.options.duplication, self.options.bandwidth) = (0, 0, None);
        for index in broken {
            self.break_for_ever(index)?;
        }
        for index in self.core.clone() {
            if self.leaving.is_none_or(|(_, stays)| stays != index) {
                self.begin_anew(index)?;
            }
        }
        self.resume_links()?;
        self.end_draining()?;
        self.carry_over()
    }

    pub(super) fn begin_anew(&mut self, index: usize) -> Result<(), String> {
        self.thaw(index);
        self.finish_rollout(index)?;
        self.nodes[index].stalled_until_us = 0;
        self.nodes[index].store.scrub();
        self.set_clock(index);
        if self.nodes[index].replica.is_none() {
            self.start(index);
        }
        Ok(())
    }

    /// Operators resume what they paused.
    fn resume_links(&mut self) -> Result<(), String> {
        if self.options.rare.operator {
            for index in self.core.clone() {
                for peer in 0..self.options.nodes {
                    self.input(index, Input::Pause(super::node_name(peer), false))?;
                }
            }
        }
        Ok(())
    }

    /// Of two nodes with one name one is stopped for ever: now, or when others hold all that it does. Peers talk to one of
    /// the two, so the other one stands still meanwhile.
    fn stop_a_copy(&mut self) -> Result<(), String> {
        let Some(copy) = self.nodes.get(self.options.nodes) else { return Ok(()) };
        let (copy, original) = (copy.index, copy.name);
        let (goes, stays) = if self.random.permille(500) { (copy, original) } else { (original, copy) };
        // With the only data gone there is nothing to go on from.
        let mut others = self.nodes.iter().filter(|node| node.index != goes).filter_map(Node::durable);
        if !others.all(VersionVector::is_empty) && self.random.permille(500) {
            self.reach("copies stopped");
            return self.remove(goes);
        }
        self.leaving = Some((goes, stays));
        self.stop(stays).map(drop)
    }

    fn let_the_copy_go(&mut self) -> Result<(), String> {
        let Some((goes, stays)) = self.leaving else { return Ok(()) };
        let others = |dot| {
            let mut others = self.nodes.iter().filter(|node| node.index != goes).filter_map(Node::durable);
            others.any(|durable| durable.covers(dot))
        };
        let node = &self.nodes[goes];
        // What it has taken in and not synced is somebody else's, or was never acknowledged.
        if node.replica.is_some() && node.context.iter().all(others) {
            self.leaving = None;
            self.reach("copies stopped");
            self.remove(goes)?;
            self.begin_anew(stays)?;
            self.reach("copies that others took all from");
        }
        Ok(())
    }

    // -- a core ----------------------------------------------------------------------------------------------------

    /// Fewer than half of the nodes; none, if the others could not go on without them by right.
    fn choose_broken(&mut self) -> Vec<usize> {
        let most = (self.core.len() - 1) / 2;
        if most == 0 || self.leaving.is_some() {
            return Vec::new();
        }
        let mut broken = Vec::new();
        for _ in 0..self.random.between(1, most as u64) {
            let left: Vec<_> = self.core.iter().filter(|index| !broken.contains(*index)).copied().collect();
            broken.extend(self.random.pick(&left));
        }
        // Nodes without data wait for somebody who has some, or for all.
        let has_data = |index: &usize| {
            let node = &self.nodes[*index];
            let serves = node.replica.as_ref().is_none_or(|replica| replica.readiness() == Readiness::Serving);
            !broken.contains(index) && serves && node.durable().is_some_and(|durable| !durable.is_empty())
        };
        if self.options.founding && !self.core.iter().any(has_data) {
            return Vec::new();
        }
        broken
    }

    fn break_for_ever(&mut self, index: usize) -> Result<(), String> {
        let others = self.core.clone();
        match self.random.below(5) {
            0 => {
                self.stop(index)?;
                self.nodes[index].presence = Presence::Broken;
                self.fault_of("nodes down for ever");
            }
            1 => {
                self.nodes[index].presence = Presence::Broken;
                self.fault_of("nodes frozen for ever");
            }
            kind => {
                for other in others {
                    if kind != 2 {
                        self.network.cut(index, other);
                    }
                    if kind != 3 {
                        self.network.cut(other, index);
                    }
                }
                self.fault_of(if kind == 4 { "nodes cut off for ever" } else { "nodes cut off one way for ever" });
            }
        }
        self.reach("cores that heal alone");
        Ok(())
    }

    /// Every healed node is asked for the level that its core can give, and for one more.
    fn ask_for_levels(&mut self) -> Result<(), String> {
        let mut regions: Vec<_> = self.core.iter().map(|index| self.nodes[*index].region).collect();
        regions.sort_unstable();
        regions.dedup();
        let regions = regions.len() as u32;
        for index in self.core.clone() {
            self.probe(index, regions, LEVEL_WAIT, Expects::Level)?;
            self.reach("levels a healed core gives");
            if (regions as usize) < self.options.regions {
                self.probe(index, regions + 1, Duration::from_secs(2), Expects::BelowLevel)?;
                self.reach("levels a core cannot give");
            }
        }
        Ok(())
    }

    /// A world in which nothing happens says nothing but heartbeats and roots, and nobody dials.
    fn check_silence(&mut self) -> Result<(), String> {
        let links = (self.core.len() * self.core.len().saturating_sub(1)) as u64;
        let seconds = WATCH_US / 1_000_000;
        for (kind, count) in &self.said {
            // A ping each 250 ms and a root each 500, seen at ticks of 50 ms; two more at the edges, and answers to what was
            // on its way for 1.5 s.
            let most = match *kind {
                "ping" | "probe" => links * (4 * seconds + 2),
                "pong" | "beat" => links * (4 * seconds + 8),
                "root" | "proof" => links * (2 * seconds + 2),
                // What builds on something that only broken nodes hold is asked for once a second until it is dropped.
                "resume" if self.holds_back() => links * (seconds + 1),
                _ => 0,
            };
            if *count > most {
                return Err(format!(
                    "{count} times {kind} in {seconds} s in which nothing happened: {}",
                    self.summary()
                ));
            }
        }
        self.reach("healed clusters that fall silent");
        Ok(())
    }

    fn holds_back(&self) -> bool {
        let held_back = |index: &usize| self.nodes[*index].replica.as_ref().is_some_and(|r| r.pending_bytes() > 0);
        self.core.iter().any(held_back)
    }

    // -- what must have come about -----------------------------------------------------------------------------------

    fn has_converged(&self) -> bool {
        let Some(first) = self.core.first() else { return true };
        let first = &self.nodes[*first].context;
        let has = |node: &Node| {
            node.open.is_empty()
                && !node.store.has_rot()
                && node.replica.as_ref().is_some_and(|replica| {
                    let context = replica.context();
                    context == first
                        && replica.durable() == context
                        && replica.cursor() == context
                        && replica.readiness() == Readiness::Serving
                        && replica.fence().is_none()
                        // A peer that did not answer is waited for.
                        && replica.verification().is_none_or(|report| report.running.is_none())
                        && (!self.options.epilogue || (replica.sessions() == (false, 0) && node.store.unsynced() == 0))
                })
        };
        self.leaving.is_none() && self.core.iter().all(|index| has(&self.nodes[*index]))
    }

    fn check_end(&mut self) -> Result<(), String> {
        self.check_whole()?;
        let end = self.core.first().map_or_else(VersionVector::new, |index| self.nodes[*index].context.clone());
        self.check_carried(&end)?;
        let accounted = |world: &Self, dot| end.covers(dot) || world.is_lost(dot) || world.is_held(dot);
        // Invariant 5: nothing that was acknowledged is missing, but what went with the last disk that held it.
        if let Some(dot) = self.acknowledged.iter().find(|dot| !accounted(self, **dot)) {
            return Err(format!("{dot} was acknowledged and is nowhere"));
        }
        let broken = self.core.len() < self.nodes.iter().filter(|node| node.presence != Presence::Gone).count();
        if !broken && let Some(dot) = self.acknowledged.iter().find(|dot| !end.covers(**dot) && !self.is_lost(**dot)) {
            return Err(format!("{dot} was acknowledged and did not come through"));
        }
        for client in &self.clients {
            if let Some(dot) = client.token.iter().find(|dot| !accounted(self, *dot)) {
                return Err(format!("a token that nobody can ever cover, for {dot}: {:?}", client.token));
            }
        }
        Ok(())
    }

    pub(super) fn summary(&self) -> String {
        let line = |node: &Node| match &node.replica {
            Some(replica) => format!(
                "n{} {:?} {:?} CC {:?} LV {:?} durable {:?} log {:?} parked {:?} held back {} B open {} sessions {:?} {:?}",
                node.index,
                node.presence,
                replica.readiness(),
                replica.context(),
                replica.cursor(),
                replica.durable(),
                replica.log_state(),
                replica.parked(),
                replica.pending_bytes(),
                node.open.len(),
                replica.sessions(),
                replica.counts()
            ),
            None => format!("n{} down", node.index),
        };
        format!("core {:?}; {}", self.core, self.nodes.iter().map(line).collect::<Vec<_>>().join("; "))
    }
}

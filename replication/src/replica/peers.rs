//! Conversations with peers: greeting, alignment, records. What is said again and again: [`super::heartbeat`].

use super::{Lack, Phase, Replica};
use crate::effect::{DisconnectReason, Effect, LinkId, SeedIndex};
use crate::link::{Link, LogState};
use crate::mutants::{Mutant, is};
use crate::names::{NodeName, RegionName};
use crate::record::RecordBytes;
use crate::roster::Member;
use crate::store::Store;
use crate::wire::{Details, Hello, Message, PROTOCOL, VectorDigest};
use alloc::vec::Vec;
use atoll_crdt::{ActorId, Dot, ReadError, VersionVector};

impl Replica {
    pub(super) fn on_link_up(&mut self, mut link: Link, out: &mut Vec<Effect>) {
        let id = link.id;
        if self.held || self.paused.contains(&link.node) {
            out.push(Effect::Disconnect(id, DisconnectReason::Paused));
            return;
        }
        if self.roster.is_removed(&link.node) {
            out.push(Effect::Disconnect(id, DisconnectReason::Removed));
            return;
        }
        if link.node == self.config.node {
            out.push(Effect::Disconnect(id, DisconnectReason::Identity));
            return;
        }
        link.told = self.durable.clone();
        link.told_log = self.log.clone();
        out.push(Effect::Send(id, Message::Hello(self.hello())));
        self.links.insert(id, link);
    }

    /// Versions that are spoken here: oldest and newest.
    fn protocol(&self) -> (u16, u16) {
        (PROTOCOL.0, self.config.limits.protocol_max)
    }

    fn hello(&self) -> Hello {
        Hello {
            protocol: self.protocol(),
            cluster: self.config.cluster.clone(),
            node: self.config.node.as_str().into(),
            region: self.config.region.as_str().into(),
            actor: self.actor,
            former: self.former.clone(),
            founded: matches!(self.phase, Phase::Serving) && !self.durable.is_empty(),
            founded_ms: self.founded_ms,
            durable: self.durable.clone(),
            log: self.log.clone(),
        }
    }

    pub(super) fn on_message(
        &mut self,
        id: LinkId,
        message: Message,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<(), ReadError> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.heard_at = self.now.instant;
        let greeted = link.is_live();
        let verdict = match message {
            Message::Hello(hello) if !greeted => self.on_hello(id, hello, out),
            Message::Details(details) if greeted => {
                link.foreign_digests = details.digests != self.config.digests;
                self.counts.foreign_digests += u64::from(link.foreign_digests);
                Ok(())
            }
            Message::Records(records) if greeted => self.on_records(id, records, store, out)?,
            Message::Durable(durable, log) if greeted => {
                self.on_log_state(id, log);
                self.on_durable(id, &durable, out)
            }
            Message::News(durable, log) if greeted => {
                if let Some(log) = log {
                    self.on_log_state(id, log);
                }
                self.on_durable(id, &durable, out)
            }
            Message::Root { durable, root } if greeted => {
                self.on_root(id, VectorDigest::of([&durable]), root, store);
                Ok(())
            }
            Message::Proof { durable, root } if greeted => {
                self.on_root(id, durable, root, store);
                Ok(())
            }
            Message::Reconcile(reconcile) if greeted => self.on_reconcile(id, reconcile, store, out)?,
            Message::Resume { actor, from } if greeted => {
                link.resume(actor, from);
                Ok(())
            }
            Message::Ping { sent_us } if greeted => {
                self.on_ping(id, sent_us, out);
                Ok(())
            }
            Message::Probe { sent_us, whole } if greeted => {
                self.on_probe(id, sent_us, whole, out);
                Ok(())
            }
            Message::Beat(beat) if greeted => self.on_beat(id, beat, out),
            Message::Pong { sent_us, wall_ms, durable } if greeted => self.on_pong(id, sent_us, wall_ms, &durable, out),
            Message::Hello(_) => Err(DisconnectReason::Protocol),
            // Overtook the greeting on another stream; what it brought comes again.
            _ => Ok(()),
        };
        if let Err(reason) = verdict {
            self.drop_link(id, reason, out);
        }
        Ok(())
    }

    pub(super) fn drop_link(&mut self, id: LinkId, reason: DisconnectReason, out: &mut Vec<Effect>) {
        if self.links.remove(&id).is_some() {
            self.link_gone(id, out);
            out.push(Effect::Disconnect(id, reason));
        }
    }

    fn on_hello(&mut self, id: LinkId, hello: Hello, out: &mut Vec<Effect>) -> Result<(), DisconnectReason> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let (oldest, newest) = self.protocol();
        if hello.protocol.0 > newest || hello.protocol.1 < oldest {
            return Err(DisconnectReason::Version);
        }
        let named = hello.node == link.node.as_str() && hello.region == link.region.as_str();
        if !named || hello.cluster != self.config.cluster {
            return Err(DisconnectReason::Identity);
        }
        if hello.actor == self.actor || hello.former.contains(&self.actor) {
            return Err(DisconnectReason::Impostor);
        }
        self.check_claims(&hello.durable)?;
        self.keep_one_link(id, &hello, out)?;
        let (now, limits) = (self.now.instant, self.config.limits);
        let ours: Vec<_> = self.clocks.cursor.iter().map(|dot| (dot, self.is_own(dot.actor))).collect();
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.told_whole(&hello.durable);
        link.reported(&hello.durable, now, &limits);
        link.reported_log(hello.log.clone(), now, &limits);
        let (node, region) = (link.node.clone(), link.region.clone());
        let founded = hello.founded;
        self.founded_ms = if founded { self.founded_ms.min(hello.founded_ms) } else { self.founded_ms };
        link.version = hello.protocol.1.min(newest);
        link.hello = Some(hello);
        if link.version >= 2 {
            out.push(Effect::Send(id, Message::Details(Details { digests: self.config.digests })));
        }
        for (dot, own) in ours {
            link.exists(dot, own, now, &limits);
        }
        let durable = link.peer().clone();
        self.roster.is_recognised();
        self.freshness.member(&node, &region);
        self.held_by.insert(node.clone(), durable.clone());
        self.region_holds(&region, durable.get(self.actor));
        self.seeds_answered(&node, founded, &durable);
        self.answer_reached(out);
        Ok(())
    }

    /// A dialled seed turned out to be `node`, which may be connected already by another dial.
    pub(super) fn on_seed(&mut self, seed: SeedIndex, node: &NodeName) {
        self.seed_nodes.insert(seed, node.clone());
        let known = self.live_link(node).and_then(|link| Some((link.hello.as_ref()?.founded, link.peer().clone())));
        if let Some((founded, durable)) = known {
            self.seeds_answered(node, founded, &durable);
        }
    }

    /// `node` said whether it has data, over whichever connection.
    fn seeds_answered(&mut self, node: &NodeName, founded: bool, durable: &VersionVector) {
        if !founded && !durable.is_empty() && !is(Mutant::FoundBesideJoining) {
            // It is joining itself. There is data, so nobody founds anew; who has all of it is not known yet.
            return;
        }
        let seeds: Vec<_> = self.seed_nodes.iter().filter(|(_, of)| *of == node).map(|(seed, _)| *seed).collect();
        for seed in seeds {
            self.seed_answered(seed, founded.then_some(durable));
        }
        if founded && matches!(self.phase, Phase::Asking(_)) {
            // Somebody with data came by itself.
            self.phase = Phase::Joining(durable.clone());
            self.joined_yet();
        }
    }

    /// A peer cannot hold more of this process's own log than exists.
    pub(super) fn check_claims(&self, durable: &VersionVector) -> Result<(), DisconnectReason> {
        if durable.get(self.actor) > self.clocks.cursor.get(self.actor) {
            return Err(DisconnectReason::Impostor);
        }
        Ok(())
    }

    /// At most one connection a pair: of two, the one of the peer's newer process; else the newer of two that were
    /// dialled by the same side; else the one that the lower name dialled. Both sides decide alike. A process that knows
    /// nothing of the one that is connected is no later life of it: it waits until that one is gone.
    fn keep_one_link(&mut self, id: LinkId, hello: &Hello, out: &mut Vec<Effect>) -> Result<(), DisconnectReason> {
        let Some(new) = self.links.get(&id) else { return Ok(()) };
        let lower_dials = self.config.node < new.node;
        let other = self.links.values().find(|link| link.id != id && link.node == new.node && link.is_live());
        let Some(other) = other else { return Ok(()) };
        let same_process = other.hello.as_ref().is_some_and(|old| old.actor == hello.actor);
        let is_later = other.hello.as_ref().is_some_and(|old| hello.former.contains(&old.actor));
        if !same_process && !is_later {
            return Err(DisconnectReason::Twin);
        }
        let keep_old = same_process && other.dialled != new.dialled && other.dialled == lower_dials;
        if keep_old {
            return Err(DisconnectReason::Duplicate);
        }
        let other = other.id;
        self.drop_link(other, DisconnectReason::Duplicate, out);
        Ok(())
    }

    pub(super) fn on_records(
        &mut self,
        id: LinkId,
        records: Vec<RecordBytes>,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<Result<(), DisconnectReason>, ReadError> {
        for bytes in records {
            let dot = bytes.dot();
            if dot.actor == self.actor && !self.clocks.cursor.covers(dot) {
                return Ok(Err(DisconnectReason::Impostor));
            }
            match self.pending.offer(id, bytes, &self.clocks, &self.config.limits, self.now.instant) {
                // At once, so that what follows it finds room.
                Ok(true) => self.apply_pending(store, out)?,
                Ok(false) => self.counts.unneeded += 1,
                Err(_) => return Ok(Err(DisconnectReason::Protocol)),
            }
        }
        Ok(Ok(()))
    }

    pub(super) fn on_durable(
        &mut self,
        id: LinkId,
        durable: &VersionVector,
        out: &mut Vec<Effect>,
    ) -> Result<(), DisconnectReason> {
        self.check_claims(durable)?;
        let (now, limits) = (self.now.instant, self.config.limits);
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.reported(durable, now, &limits);
        let (region, held) = (link.region.clone(), link.peer().get(self.actor));
        self.held_by.entry(link.node.clone()).or_default().join(durable);
        self.region_holds(&region, held);
        self.answer_reached(out);
        Ok(())
    }

    /// The peer tells what its log can give and wants.
    pub(super) fn on_log_state(&mut self, id: LinkId, log: LogState) {
        let (now, limits) = (self.now.instant, self.config.limits);
        let moved = self.links.get_mut(&id).is_some_and(|link| link.reported_log(log, now, &limits));
        if moved {
            self.tell_links_what_exists();
        }
    }

    /// A write level counts regions, and this node's own is counted from the start.
    fn region_holds(&mut self, region: &RegionName, seq: u64) {
        if *region != self.config.region || is(Mutant::OwnRegionTwice) {
            self.levels.region_holds(region, seq);
        }
    }

    pub(super) fn on_members(&mut self, members: &[Member], out: &mut Vec<Effect>) {
        for node in self.roster.update(&self.config.node, &self.config.regions, members) {
            self.freshness.forget(&node);
            self.held_by.remove(&node);
            self.doubts.remove(&node);
            self.drop_links_of(&node, DisconnectReason::Removed, out);
        }
        let here = |member: &&Member| member.node != self.config.node && !self.roster.is_removed(&member.node);
        for member in members.iter().filter(here) {
            self.freshness.member(&member.node, &member.region);
        }
    }

    /// The peer ended the connection for a reason that is about this node.
    pub(super) fn on_refused(&mut self, link: LinkId, reason: DisconnectReason) {
        if !self.links.contains_key(&link) {
            return;
        }
        match reason {
            DisconnectReason::Removed => self.roster.was_removed(),
            DisconnectReason::Twin => self.roster.has_twin(self.now.instant + self.config.limits.twin_for),
            _ => {}
        }
    }

    pub(super) fn on_pause(&mut self, node: NodeName, paused: bool, out: &mut Vec<Effect>) {
        if !paused {
            self.paused.remove(&node);
            return;
        }
        self.drop_links_of(&node, DisconnectReason::Paused, out);
        self.paused.insert(node);
    }

    pub(super) fn on_hold(&mut self, held: bool, out: &mut Vec<Effect>) {
        self.held = held;
        if held {
            let ids: Vec<_> = self.links.keys().copied().collect();
            for id in ids {
                self.drop_link(id, DisconnectReason::Paused, out);
            }
        }
    }

    fn drop_links_of(&mut self, node: &NodeName, reason: DisconnectReason, out: &mut Vec<Effect>) {
        let ids: Vec<_> = self.links.values().filter(|link| link.node == *node).map(|link| link.id).collect();
        for id in ids {
            self.drop_link(id, reason, out);
        }
    }

    /// Sends records to whoever lacks them, as far as windows reach.
    pub(super) fn send_records(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        let (now, limits) = (self.now.instant, self.config.limits);
        for link in self.links.values_mut() {
            while let Some(send) = link.next_send(now, &limits) {
                let logged = send.from > self.clocks.unlogged.get(send.actor);
                let records = if logged { store.log(send.actor, send.from, limits.batch_bytes)? } else { Vec::new() };
                let upto = records.last().map(|record| record.dot().seq);
                self.counts.sent += records.len() as u64;
                let message = Message::Records(records);
                link.sent(send, upto, message.weight());
                if upto.is_some() {
                    out.push(Effect::Send(link.id, message));
                }
            }
        }
        Ok(())
    }

    /// Asks again for what found no room when it came.
    pub(super) fn ask_for_dropped(&mut self, out: &mut Vec<Effect>) {
        for (actor, id) in self.pending.resumable() {
            if self.links.get(&id).is_some_and(Link::is_live) {
                let from = self.clocks.cursor.get(actor) + 1;
                out.push(Effect::Send(id, Message::Resume { actor, from }));
            }
        }
    }

    /// Asks for what a held-back record builds on, of whoever sent that record: at once when its writer has no link
    /// here, else when it is late. Otherwise every write that builds on a region which is not heard here would wait
    /// for [`crate::Limits::relay_after`].
    pub(super) fn ask_for_lacking(&mut self, out: &mut Vec<Effect>) {
        let (now, limits) = (self.now.instant, self.config.limits);
        let clocks = &self.clocks;
        // What nothing waits for any more is forgotten.
        let mut known = core::mem::take(&mut self.lacking);
        known.retain(|actor, lack| !clocks.context.covers(Dot::new(*actor, lack.seq)));
        for (dot, id) in self.pending.lacking(clocks) {
            let linked = self.links.values().any(|link| link.speaks_for(dot.actor));
            let ask_at = if linked { now + limits.ask_after } else { now };
            let first_seen = Lack { seq: dot.seq, ask_at };
            let lack = self.lacking.entry(dot.actor).or_insert_with(|| known.remove(&dot.actor).unwrap_or(first_seen));
            if lack.ask_at <= now && !self.pending.holds(dot) && self.links.contains_key(&id) {
                lack.ask_at = now + limits.relay_after;
                let from = clocks.cursor.get(dot.actor) + 1;
                out.push(Effect::Send(id, Message::Resume { actor: dot.actor, from }));
            }
        }
    }

    pub(super) fn live_link(&self, node: &NodeName) -> Option<&Link> {
        self.links.values().find(|link| link.node == *node && link.is_live())
    }

    /// Whether the process that wrote as `actor` has ended, as far as this node can know for sure.
    pub(super) fn is_closed(&self, actor: ActorId) -> bool {
        self.formerly.contains(&actor)
            || self.links.values().filter_map(|link| link.hello.as_ref()).any(|hello| hello.former.contains(&actor))
    }
}

//! What peers tell each other again and again: that they are there, what they hold durably, what their rows add up to.
//!
//! **How it goes.** A peer learns what has become durable here as it does, and is asked for a beat ten times a second. The
//! beat says what is new and a digest of the whole: where what the asker knows has another one, something it was told
//! is missing or came out of order, and its next question wants all there is. Peers of version 1 are told whole vectors
//! always.
//!
//! **What always holds.** R2 of [`super`]. B1 and B2 of [`crate::wire`]. Q1: an answer counts only once all that the peer
//! held when it gave it is known.

use super::Replica;
use crate::effect::{DisconnectReason, Effect, LinkId};
use crate::link::{Link, Said};
use crate::mutants::{Mutant, is};
use crate::names::RegionName;
use crate::sketch::Cell;
use crate::store::Store;
use crate::time::Instant;
use crate::wire::{Beat, Message, VectorDigest};
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use atoll_crdt::{Dot, VersionVector};

impl Replica {
    /// Asks what is due, gives up what is silent.
    pub(super) fn tick_links(&mut self, out: &mut Vec<Effect>) {
        let (now, limits) = (self.now.instant, self.config.limits);
        let mut silent = Vec::new();
        for link in self.links.values_mut() {
            let since = if link.is_live() { link.heard_at } else { link.up_at };
            if now.since(since) >= limits.silent_after {
                silent.push(link.id);
            } else if link.is_live() && link.ping_at <= now {
                link.ping_at = now + limits.ping_every;
                let sent_us = now.as_micros();
                let ask = match link.version {
                    0..=1 => Message::Ping { sent_us },
                    _ => Message::Probe { sent_us, whole: link.wants_whole },
                };
                out.push(Effect::Send(link.id, ask));
            }
        }
        for id in silent {
            self.drop_link(id, DisconnectReason::Silent, out);
        }
    }

    pub(super) fn on_ping(&self, id: LinkId, sent_us: u64, out: &mut Vec<Effect>) {
        let durable = self.durable.clone();
        out.push(Effect::Send(id, Message::Pong { sent_us, wall_ms: self.now.wall_ms, durable }));
    }

    pub(super) fn on_probe(&mut self, id: LinkId, sent_us: u64, whole: bool, out: &mut Vec<Effect>) {
        let links = self.links.values().filter_map(|link| Some(link.hello.as_ref()?.actor)).collect();
        let holds = if is(Mutant::TellVolatile) { &self.clocks.context } else { &self.durable };
        let Some(link) = self.links.get_mut(&id) else { return };
        let news = if whole { holds.clone() } else { holds.beyond(&link.told) };
        let log = (whole || link.told_log != self.log).then(|| self.log.clone());
        link.told.join(&news);
        link.told_log.clone_from(&self.log);
        let mut volatile = self.pending.reach();
        volatile.join(&self.clocks.context);
        let beat = Beat {
            sent_us,
            wall_ms: self.now.wall_ms,
            news,
            log,
            digest: VectorDigest::of([holds, &self.log.wanted, &self.log.starts]),
            volatile: volatile.beyond(holds),
            links,
        };
        out.push(Effect::Send(id, Message::Beat(beat)));
    }

    pub(super) fn on_pong(
        &mut self,
        id: LinkId,
        sent_us: u64,
        wall_ms: u64,
        durable: &VersionVector,
        out: &mut Vec<Effect>,
    ) -> Result<(), DisconnectReason> {
        self.on_answer(id, sent_us, wall_ms, durable, out)?;
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.told_whole(durable);
        let node = link.node.clone();
        self.freshness.answered(&node, Instant::from_micros(sent_us), durable, &self.durable);
        Ok(())
    }

    pub(super) fn on_beat(&mut self, id: LinkId, beat: Beat, out: &mut Vec<Effect>) -> Result<(), DisconnectReason> {
        if let Some(log) = beat.log {
            self.on_log_state(id, log);
        }
        self.on_answer(id, beat.sent_us, beat.wall_ms, &beat.news, out)?;
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        // Q1
        link.wants_whole = link.digest() != beat.digest;
        if link.wants_whole {
            return Ok(());
        }
        let (node, held, sent) = (link.node.clone(), link.peer().clone(), Instant::from_micros(beat.sent_us));
        link.told_whole(&held);
        if link.said.as_ref().is_none_or(|said| said.asked <= sent) {
            link.said = Some(Said { asked: sent, volatile: beat.volatile, links: beat.links });
        }
        self.freshness.answered(&node, sent, &held, &self.durable);
        Ok(())
    }

    /// What pongs and beats have in common.
    fn on_answer(
        &mut self,
        id: LinkId,
        sent_us: u64,
        wall_ms: u64,
        durable: &VersionVector,
        out: &mut Vec<Effect>,
    ) -> Result<(), DisconnectReason> {
        let sent = Instant::from_micros(sent_us);
        if sent > self.now.instant {
            return Err(DisconnectReason::Protocol);
        }
        self.on_durable(id, durable, out)?;
        if let Some(link) = self.links.get_mut(&id) {
            link.timed(self.now.instant.since(sent), wall_ms, self.now.wall_ms);
        }
        Ok(())
    }

    /// Tells peers what has become durable since they were last told (R2).
    pub(super) fn tell_durable(&mut self, out: &mut Vec<Effect>) {
        let (now, limits) = (self.now.instant, self.config.limits);
        let holds = if is(Mutant::TellVolatile) { &self.clocks.context } else { &self.durable };
        for link in self.links.values_mut().filter(|link| link.is_live()) {
            if now.since(link.told_at) < limits.status_every {
                continue;
            }
            let news = holds.beyond(&link.told);
            let log = (link.told_log != self.log).then(|| self.log.clone());
            if !news.is_empty() || log.is_some() {
                link.told.join(&news);
                link.told_log.clone_from(&self.log);
                link.told_at = now;
                let message = match link.version {
                    0..=1 => Message::Durable(news, self.log.clone()),
                    _ => Message::News(news, log),
                };
                out.push(Effect::Send(link.id, message));
            }
        }
    }

    /// Tells peers that hold the same what the rows here add up to.
    pub(super) fn tick_prove(&mut self, store: &dyn Store, out: &mut Vec<Effect>) {
        if !self.may_compare_roots(store) {
            return;
        }
        let (now, every) = (self.now.instant, self.config.limits.prove_every);
        for link in self.links.values_mut().filter(|link| link.is_live() && link.prove_at <= now) {
            if !link.foreign_digests && *link.peer() == self.durable && link.told == self.durable {
                link.prove_at = now + every;
                let root = store.synced_root();
                let message = match link.version {
                    0..=1 => Message::Root { durable: self.durable.clone(), root },
                    _ => Message::Proof { durable: VectorDigest::of([&self.durable]), root },
                };
                out.push(Effect::Send(link.id, message));
            }
        }
    }

    /// Equal contexts have equal rows; where they have not, somebody's are wrong. Both sides read all of theirs: whoever finds
    /// damage repairs it. If neither does, only an operator can say whose are: with equal contexts, what one side lacks the
    /// other may have lost or kept wrongly, so that neither dropping nor adding it would be safe. It is told which rows it is about.
    pub(super) fn on_root(&mut self, id: LinkId, durable: VectorDigest, root: Cell, store: &dyn Store) {
        let Some(link) = self.links.get(&id).filter(|link| !link.foreign_digests) else { return };
        if durable == VectorDigest::of([&self.durable]) && self.may_compare_roots(store) {
            let (node, region) = (link.node.clone(), link.region.clone());
            let equal = root == store.synced_root();
            self.counts.proofs += 1;
            if !equal {
                self.counts.divergences += 1;
                store.scrub();
            }
            self.roots_compared(node, region, equal);
        }
    }

    /// Whether `token` names a write that no member holds any more: its actor's process has ended, every member is
    /// connected, and none of them holds it, durably or not, by an answer to something asked at `since` or later, when the
    /// token had come. A token names only what was durable somewhere, so whoever still has it says so; `false` may also mean
    /// that nobody can tell, as beside a member of version 1.
    ///
    /// Nor is it on its way: what a member hears comes from processes that it is connected to, and when all of them are
    /// those which answered, none of them had it to send.
    #[must_use]
    pub fn is_lost(&self, token: &VersionVector, since: Instant) -> bool {
        let (complete, held_back) = (self.all_have_answered(since), self.pending.reach());
        let is_gone = |dot: Dot| {
            let held = |link: &Link| {
                link.peer().covers(dot) || link.said.as_ref().is_some_and(|said| said.volatile.covers(dot))
            };
            self.is_closed(dot.actor) && !held_back.covers(dot) && !self.links.values().any(held)
        };
        complete && token.beyond(&self.clocks.context).iter().any(is_gone)
    }

    /// Whether every region has a member that is known, and every member has answered something asked at `since` or later,
    /// connected to nobody but those.
    fn all_have_answered(&self, since: Instant) -> bool {
        let mut present = BTreeSet::from([self.actor]);
        present.extend(self.links.values().filter_map(|link| Some(link.hello.as_ref()?.actor)));
        let answered = |said: &Said| said.asked >= since && said.links.iter().all(|actor| present.contains(actor));
        let known =
            |region: &RegionName| *region == self.config.region || self.freshness.members().any(|(_, of)| of == region);
        self.roster.regions().iter().all(known)
            && self
                .freshness
                .members()
                .all(|(node, _)| self.live_link(node).is_some_and(|link| link.said.as_ref().is_some_and(answered)))
    }
}

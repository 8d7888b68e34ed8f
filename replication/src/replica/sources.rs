//! Granting sessions to peers that take this node's state over.

use super::reconcile::say;
use super::{Phase, Replica};
use crate::effect::{Effect, LinkId};
use crate::mutants::{Mutant, is};
use crate::reconcile::message::{Hearing, Open, Reconcile, SessionId, Step, Talk};
use crate::reconcile::source::Source;
use crate::store::Store;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{Dot, ReadError};

/// Chunks sent to one receiver each time the replica is called: live records go out in between.
const CHUNKS_AT_ONCE: usize = 2;

impl Replica {
    pub(super) fn on_open(
        &mut self,
        link: LinkId,
        session: SessionId,
        open: Arc<Open>,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) {
        if self.sources.get(&link).is_some_and(|source| source.talk.session == session) {
            return;
        }
        self.sources.remove(&link);
        self.next_session += 1;
        let mut talk = Talk::new(session, self.next_session);
        // C5
        let is_early = open.is_early_at(&self.clocks.context) && !is(Mutant::RepairFromBehind);
        if is_early || self.is_clearing(store) {
            self.early.insert(link, (session, open));
            return;
        }
        self.early.remove(&link);
        let may = matches!(self.phase, Phase::Serving) && self.sources.len() < self.config.limits.sources;
        if !may || !open.cursor.leq(&open.context) {
            say(&mut self.links, out, link, talk.say(Step::Abort));
            return;
        }
        let reach = if is(Mutant::LostByCursor) { &self.clocks.cursor } else { &self.clocks.context };
        let lost = reach.iter().filter(|dot| {
            let next = Dot::new(dot.actor, open.cursor.get(dot.actor) + 1);
            dot.seq >= next.seq && !self.can_serve(next)
        });
        let (lost, context) = (lost.collect(), self.clocks.context.clone());
        let (mut source, rows, cells) = Source::open(talk, open, store.pin(), self.now.instant);
        let rows = source.speaks_new().then_some(rows);
        say(&mut self.links, out, link, source.talk.say(Step::Accept { context, lost, rows }));
        if let Some(cells) = cells {
            say(&mut self.links, out, link, source.talk.say(cells));
        }
        self.sources.insert(link, source);
        self.counts.sessions_granted += 1;
    }

    /// Grants sessions that waited until this node covers what the peer's damaged rows need (C5), or until nothing was
    /// being cleared.
    pub(super) fn open_early(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) {
        if self.is_clearing(store) {
            return;
        }
        let context = &self.clocks.context;
        let timely: Vec<_> = self.early.extract_if(.., |_, (_, open)| !open.is_early_at(context)).collect();
        for (link, (session, open)) in timely {
            self.on_open(link, session, open, store, out);
        }
    }

    /// Whether the log here can serve a record.
    fn can_serve(&self, dot: Dot) -> bool {
        (self.log.starts.get(dot.actor)..=self.clocks.cursor.get(dot.actor)).contains(&dot.seq)
    }

    pub(super) fn on_asked(&mut self, link: LinkId, message: Reconcile, out: &mut Vec<Effect>) {
        if self.early.get(&link).is_some_and(|(session, _)| *session == message.session) {
            self.early.remove(&link);
        }
        let Some(source) = self.sources.get_mut(&link) else { return };
        let heard = source.talk.hear(&message);
        if heard == Hearing::Stale {
            return;
        }
        let answer = if heard == Hearing::Next { source.on_step(message.step, self.now.instant) } else { None };
        match answer {
            Some(Some(answer)) => say(&mut self.links, out, link, source.talk.say(answer)),
            Some(None) => {}
            None => {
                say(&mut self.links, out, link, source.talk.say(Step::Abort));
                self.sources.remove(&link);
            }
        }
    }

    /// Sends the next chunks of every session as far as windows reach.
    pub(super) fn send_states(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        let (now, limits) = (self.now.instant, self.config.limits);
        let (mut ended, mut damaged) = (Vec::new(), None);
        for (id, source) in &mut self.sources {
            for _ in 0..CHUNKS_AT_ONCE {
                if !self.links.get(id).is_some_and(|link| link.has_room(&limits)) {
                    break;
                }
                let step = match source.next(limits.batch_bytes, now) {
                    Ok(Some(step)) => step,
                    Ok(None) => break,
                    Err(error) => {
                        // What is damaged here is not told to anybody.
                        damaged = Some(error);
                        Step::Abort
                    }
                };
                let ends = matches!(step, Step::Abort);
                if ends || matches!(step, Step::Close) {
                    ended.push(*id);
                }
                say(&mut self.links, out, *id, source.talk.say(step));
                if ends {
                    break;
                }
            }
        }
        for id in ended {
            self.sources.remove(&id);
        }
        damaged.map_or(Ok(()), |error| self.known_hole(error, store))
    }
}

//! When to reconcile and with whom, granting sessions to others, and the closing entry.

use super::{Phase, Replica, Unapplied};
use crate::effect::{DisconnectReason, Effect, LinkId};
use crate::entry::Entry;
use crate::link::{Link, LogState};
use crate::mutants::{Mutant, is};
use crate::reconcile::message::{Hearing, Open, Reconcile, SessionId, Step, Talk};
use crate::reconcile::receiver::{Beginning, Outcome, Receiver};
use crate::reconcile::source::Source;
use crate::store::Store;
use crate::wire::Message;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use atoll_crdt::{ActorId, Dot, ReadError, VersionVector};

/// Chunks sent to one receiver each time the replica is called: live records go out in between.
const CHUNKS_AT_ONCE: usize = 2;
/// Failures in a row that lengthen the pause before the next session: it doubles to 32 times the first.
const FAILURES_COUNTED: u32 = 5;

impl Replica {
    /// A step of a reconciliation came in.
    pub(super) fn on_reconcile(
        &mut self,
        link: LinkId,
        message: Reconcile,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<Result<(), DisconnectReason>, ReadError> {
        match message.step {
            Step::Open(open) => self.on_open(link, message.session, open, store, out),
            Step::More { .. } | Step::Want(_) | Step::WantAll | Step::GiveUp => self.on_asked(link, message, out),
            _ => {
                let Some(receiver) = &mut self.receiving else { return Ok(Ok(())) };
                if receiver.link != link || receiver.talk.session != message.session {
                    return Ok(Ok(()));
                }
                receiver.granted(&message);
                match receiver.talk.hear(&message) {
                    Hearing::Stale => {}
                    Hearing::Gap => self.give_up(out),
                    Hearing::Next if matches!(message.step, Step::Abort) => self.give_up(out),
                    Hearing::Next => return self.on_told(link, message.step, store, out),
                }
            }
        }
        Ok(Ok(()))
    }

    // -- the side that has the state -----------------------------------------------------------------------------

    fn on_open(
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
        if !open.holes.context.leq(&self.clocks.context) && !is(Mutant::RepairFromBehind) {
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
        let accept = Step::Accept { lost: lost.collect(), context: self.clocks.context.clone() };
        say(&mut self.links, out, link, talk.say(accept));
        let (mut source, cells) = Source::open(talk, open, store.pin(), self.now.instant);
        if let Some(cells) = cells {
            say(&mut self.links, out, link, source.talk.say(cells));
        }
        self.sources.insert(link, source);
        self.counts.sessions_granted += 1;
    }

    /// Whether the log here can serve a record.
    fn can_serve(&self, dot: Dot) -> bool {
        (self.log.starts.get(dot.actor)..=self.clocks.cursor.get(dot.actor)).contains(&dot.seq)
    }

    fn on_asked(&mut self, link: LinkId, message: Reconcile, out: &mut Vec<Effect>) {
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
        let mut ended = Vec::new();
        let mut damaged = None;
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
                if matches!(step, Step::Close | Step::Abort) {
                    ended.push(*id);
                }
                let ends = matches!(step, Step::Abort);
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

    // -- the side that takes state over ---------------------------------------------------------------------------

    fn on_told(
        &mut self,
        link: LinkId,
        step: Step,
        store: &mut dyn Store,
        out: &mut Vec<Effect>,
    ) -> Result<Result<(), DisconnectReason>, ReadError> {
        if let Step::Accept { context, .. } = &step
            && self.check_claims(context).is_err()
        {
            self.give_up(out);
            return Ok(Err(DisconnectReason::Impostor));
        }
        let Some(receiver) = &mut self.receiving else { return Ok(Ok(())) };
        let outcome = match receiver.on_step(step, self.config.limits.staged_bytes, self.now.instant) {
            Ok(outcome) => outcome,
            Err(error) => {
                // The next session names the row among its holes.
                self.give_up(out);
                self.known_hole(error, store)?;
                return Ok(Ok(()));
            }
        };
        match outcome {
            Outcome::Goes(None) => {}
            Outcome::Goes(Some(answer)) => say(&mut self.links, out, link, receiver.talk.say(answer)),
            Outcome::Finished => self.adopt(store, out)?,
            Outcome::TooMuch => {
                self.counts.sessions_too_large += 1;
                self.give_up(out);
            }
            Outcome::Wrong => {
                self.give_up(out);
                return Ok(Err(DisconnectReason::Protocol));
            }
        }
        Ok(Ok(()))
    }

    /// The closing entry: rows and clocks at once.
    fn adopt(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) -> Result<(), ReadError> {
        let Some(receiver) = &self.receiving else { return Ok(()) };
        let mut adoption = match receiver.close(&self.clocks.context, &*store) {
            Ok(Some(adoption)) => adoption,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.give_up(out);
                return self.known_hole(error, store);
            }
        };
        self.receiving = None;
        if is(Mutant::KeepCursor) {
            adoption.cursor = VersionVector::new();
        }
        let changes = adoption.row_changes(&*store)?;
        self.counts.sessions_finished += 1;
        self.counts.rows_adopted += changes.len() as u64;
        self.counts.rows_repaired += changes.iter().filter(|change| change.is_repair()).count() as u64;
        let adoption = Arc::new(adoption);
        self.clocks.adopt(&adoption);
        let position = store.append(Entry::Adopt(Arc::clone(&adoption)), changes);
        self.appended.push_back((position, Unapplied::Context(adoption.context.clone())));
        self.last_position = position;
        self.notice_holes(store);
        self.lost_since = None;
        self.failed = (0, None);
        self.refresh_log(store);
        self.pending.forget_applied(&self.clocks);
        self.tell_links_what_exists();
        self.apply_pending(store, out)?;
        self.context_grew(store, out)
    }

    /// Ends the session here; nothing happened.
    pub(super) fn give_up(&mut self, out: &mut Vec<Effect>) {
        let Some(mut receiver) = self.receiving.take() else { return };
        say(&mut self.links, out, receiver.link, receiver.talk.say(Step::GiveUp));
        self.counts.sessions_given_up += 1;
        self.lost_since = Some(self.now.instant);
        self.failed = (self.failed.0.saturating_add(1), Some(receiver.link));
    }

    /// Sessions end with their connection. C3
    pub(super) fn link_gone(&mut self, link: LinkId, out: &mut Vec<Effect>) {
        self.sources.remove(&link);
        self.early.remove(&link);
        if self.receiving.as_ref().is_some_and(|receiver| receiver.link == link) {
            self.give_up(out);
        }
    }

    /// Begins a session when nobody can send what is lacking, and gives up those in which nothing moves.
    pub(super) fn tick_reconcile(&mut self, store: &mut dyn Store, out: &mut Vec<Effect>) {
        let (now, limits) = (self.now.instant, self.config.limits);
        self.sources.retain(|_, source| now.since(source.moved_at) < limits.reconcile_idle);
        let context = &self.clocks.context;
        let timely: Vec<_> = self.early.extract_if(.., |_, (_, open)| open.holes.context.leq(context)).collect();
        for (link, (session, open)) in timely {
            self.on_open(link, session, open, store, out);
        }
        if let Some(receiver) = &self.receiving {
            if now.since(receiver.moved_at) >= limits.reconcile_idle {
                self.give_up(out);
            }
            return;
        }
        let Some(link) = self.whom_to_ask() else {
            self.lost_since = None;
            return;
        };
        let since = *self.lost_since.get_or_insert(now);
        // A session that needs more than there is room for, say, is not tried over and over at full speed.
        let pause = limits.reconcile_after * 2_u32.saturating_pow(self.failed.0.min(FAILURES_COUNTED));
        if now.since(since) >= pause {
            self.open_session(link, store, out);
        }
    }

    fn open_session(&mut self, link: LinkId, store: &mut dyn Store, out: &mut Vec<Effect>) {
        self.next_session += 1;
        let session = SessionId(self.next_session);
        let begin = Beginning {
            context: self.clocks.context.clone(),
            cursor: self.clocks.cursor.clone(),
            holes: Arc::clone(&self.holes),
            holes_context: self.holes_context.clone(),
        };
        let (mut receiver, open) = Receiver::open(session, link, store.pin(), begin, self.now.instant);
        say(&mut self.links, out, link, receiver.talk.say(open));
        self.receiving = Some(receiver);
    }

    /// A peer that holds something no peer's log can bring here, or any while rows are damaged: the nearest one, and
    /// another than failed last.
    fn whom_to_ask(&self) -> Option<LinkId> {
        let live = || self.links.values().filter(|link| link.is_live());
        let lacks_from = |link: &&Link| {
            let held = if is(Mutant::LostByCursor) { link.cursors() } else { link.peer().clone() };
            held.iter().any(|dot| {
                let next = Dot::new(dot.actor, self.clocks.cursor.get(dot.actor) + 1);
                dot.seq >= next.seq && !live().any(|other| other.can_serve(next))
            })
        };
        live()
            .filter(|link| !self.holes.is_empty() || lacks_from(link))
            .min_by_key(|link| (Some(link.id) == self.failed.1, link.rtt, link.id))
            .map(|link| link.id)
    }

    // -- the log ----------------------------------------------------------------------------------------------------

    /// Has the store drop what of the log nobody needs.
    pub(super) fn tick_truncate(&mut self, store: &mut dyn Store) {
        let now = self.now.instant;
        if now.since(self.truncated_at) < self.config.limits.truncate_every {
            return;
        }
        self.truncated_at = now;
        if store.truncate(&self.stable()) {
            self.refresh_log(store);
        }
    }

    /// What every other member is known to hold durably, and this node too.
    fn stable(&self) -> VersionVector {
        let mut stable = self.durable.clone();
        for (node, _) in self.freshness.members() {
            stable = self.held_by.get(node).map_or_else(VersionVector::new, |held| stable.meet(held));
        }
        stable
    }

    /// What there is to say of the log.
    pub(super) fn refresh_log(&mut self, store: &dyn Store) {
        let start = |dot: Dot| {
            let cursor = self.clocks.cursor.get(dot.actor);
            let first = store.log_start(dot.actor).unwrap_or(cursor + 1);
            Dot::new(dot.actor, first.max(self.clocks.unlogged.get(dot.actor) + 1))
        };
        let starts = self.clocks.context.iter().map(start).filter(|dot| dot.seq > 1).collect();
        self.log = LogState { wanted: self.clocks.wanted(), starts };
    }

    /// An actor's cursor has moved.
    pub(super) fn cursor_moved(&mut self, actor: ActorId) {
        if self.log.wanted.get(actor) > 0 {
            self.log.wanted = self.clocks.wanted();
        }
    }
}

/// Says something on a link that stands, and counts it against the window.
fn say(links: &mut BTreeMap<LinkId, Link>, out: &mut Vec<Effect>, link: LinkId, message: Reconcile) {
    let message = Message::Reconcile(message);
    if let Some(found) = links.get_mut(&link) {
        found.handed(message.weight());
        out.push(Effect::Send(link, message));
    }
}
